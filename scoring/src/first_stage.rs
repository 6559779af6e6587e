//! The first stage: what an event looks like without any label known.
//!
//! Its output is computed once for each event, on every rung, and kept with the event until the
//! label comes: what an endpoint remembers is how its labels differ from what was expected.

use crate::architecture::Architecture;
use crate::error::ScoringError;
use crate::front::{Embedding, Front, StandardisedRows};
use crate::kernels::activation;
use crate::kernels::dense::{Dense, Rows};
use crate::network::CHUNK_ROWS;
use crate::weights::Weights;

/// A network with one hidden layer over the features that no label went into.
#[derive(Debug, Clone)]
pub(crate) struct FirstStage {
    embedding: Embedding,
    hidden: Dense,
    out: Dense,
    /// All inputs of the front.
    width: usize,
}

impl FirstStage {
    pub(crate) fn load(
        shape: &Architecture,
        front: &Front,
        weights: &Weights,
    ) -> Result<Self, ScoringError> {
        let size = shape.options.first_stage;
        let embedding = Embedding::load(
            front,
            &shape.first,
            shape.options.embedding,
            weights,
            "first.embed",
        )?;
        let inputs = embedding.embedded();
        Ok(Self {
            hidden: Dense::load(weights, "first.hidden", size, inputs)?,
            out: Dense::load(weights, "first.out", 1, size)?,
            width: shape.inputs.len(),
            embedding,
        })
    }

    /// One output for each row.
    pub(crate) fn outputs(&self, rows: StandardisedRows<'_>) -> Vec<f32> {
        let (n, inputs, size) = (
            rows.z.len() / self.width,
            self.embedding.embedded(),
            self.hidden.outputs(),
        );
        let mut x = vec![0.0; CHUNK_ROWS.min(n) * inputs];
        let mut hidden = vec![0.0; CHUNK_ROWS.min(n) * size];
        let mut out = vec![0.0; n];
        for (i, out) in out.chunks_mut(CHUNK_ROWS).enumerate() {
            let rows = rows.slice(i * CHUNK_ROWS, out.len(), self.width);
            let (x, hidden) = (
                &mut x[..out.len() * inputs],
                &mut hidden[..out.len() * size],
            );
            self.embedding.fill(rows, x, inputs);
            self.hidden.forward(
                Rows {
                    values: x,
                    stride: inputs,
                },
                hidden,
            );
            activation::gelu(hidden);
            self.out.forward(
                Rows {
                    values: hidden,
                    stride: size,
                },
                out,
            );
        }
        out
    }
}
