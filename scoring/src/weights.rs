//! Named tensors, and their form on disk: safetensors, little-endian f32.

use std::collections::BTreeMap;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use sha2::{Digest, Sha256};

use crate::error::ScoringError;

/// Tensors by name.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Weights(BTreeMap<String, (Vec<usize>, Vec<f32>)>);

/// What stands before the names of a network's tensors; nothing for the first.
fn member_prefix(member: usize) -> String {
    match member {
        0 => String::new(),
        member => format!("member.{member}."),
    }
}

impl Weights {
    pub(crate) fn insert(&mut self, name: impl Into<String>, shape: &[usize], values: Vec<f32>) {
        assert_eq!(
            shape.iter().product::<usize>(),
            values.len(),
            "values fill the shape"
        );
        self.0.insert(name.into(), (shape.to_vec(), values));
    }

    /// The tensor `name`, which must have `shape`.
    pub(crate) fn get(&self, name: &str, shape: &[usize]) -> Result<&[f32], ScoringError> {
        match self.0.get(name) {
            Some((found, values)) if found == shape => Ok(values),
            other => Err(ScoringError::Tensor {
                name: name.to_string(),
                wanted: shape.to_vec(),
                found: other.map_or_else(Vec::new, |(found, _)| found.clone()),
            }),
        }
    }

    /// The tensors of one network of a model, under their own names.
    pub(crate) fn of_member(&self, member: usize) -> Self {
        let prefix = member_prefix(member);
        let tensors = self.0.iter().filter_map(|(name, tensor)| {
            let own = name.strip_prefix(&prefix)?;
            Some((own.to_string(), tensor.clone()))
        });
        Self(tensors.collect())
    }

    /// Takes over the tensors of one network.
    pub(crate) fn insert_member(&mut self, member: usize, weights: &Weights) {
        let prefix = member_prefix(member);
        for (name, tensor) in &weights.0 {
            self.0.insert(format!("{prefix}{name}"), tensor.clone());
        }
    }

    /// All numbers of all tensors.
    pub(crate) fn len(&self) -> usize {
        self.0.values().map(|(_, values)| values.len()).sum()
    }

    /// The bytes of a safetensors file: the same for the same tensors.
    pub(crate) fn to_bytes(&self) -> Result<Vec<u8>, safetensors::SafeTensorError> {
        let bytes: Vec<Vec<u8>> = self
            .0
            .values()
            .map(|(_, values)| values.iter().flat_map(|v| v.to_le_bytes()).collect())
            .collect();
        let views = self
            .0
            .iter()
            .zip(&bytes)
            .map(|((name, (shape, _)), bytes)| {
                Ok((
                    name.as_str(),
                    TensorView::new(Dtype::F32, shape.clone(), bytes)?,
                ))
            })
            .collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
        safetensors::serialize(views, None)
    }

    /// Reads what [`Weights::to_bytes`] wrote; the message says what is wrong with the bytes.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let tensors = SafeTensors::deserialize(bytes).map_err(|e| e.to_string())?;
        let mut weights = Self::default();
        for (name, view) in tensors.tensors() {
            if view.dtype() != Dtype::F32 {
                return Err(format!("tensor {name} is {:?}, wanted F32", view.dtype()));
            }
            let values = view
                .data()
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect();
            weights.insert(name, view.shape(), values);
        }
        Ok(weights)
    }
}

/// SHA-256 of `bytes`, hex.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_back() {
        let mut weights = Weights::default();
        weights.insert("b", &[2, 2], vec![1.0, -0.0, f32::INFINITY, 3.5]);
        weights.insert("a", &[1], vec![2.0]);
        let bytes = weights.to_bytes().unwrap();
        assert_eq!(bytes, weights.to_bytes().unwrap());
        assert_eq!(Weights::from_bytes(&bytes).unwrap(), weights);
        assert!(Weights::from_bytes(&bytes[..bytes.len() - 3]).is_err());
        assert!(matches!(
            weights.get("a", &[2]),
            Err(ScoringError::Tensor { .. })
        ));
        assert!(matches!(
            weights.get("c", &[2]),
            Err(ScoringError::Tensor { .. })
        ));
    }
}
