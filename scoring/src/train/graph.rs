//! The model as a graph of tensors, for gradients. The serving kernels agree with it to 1e-5.

use candle_core::Tensor;

use super::attend::Attend;
use super::batch::{Chain, Past, Present, Ring};
use super::embed::Embed;
use super::params::Params;
use super::recurrence::{Kind, Unrolled};
use crate::architecture::Architecture;
use crate::error::ScoringError;

/// The graph of one model.
pub(crate) struct Graph<'a> {
    pub(crate) shape: &'a Architecture,
    pub(crate) params: &'a Params,
}

/// Multiplies hidden layers while training; identity when absent.
pub(crate) type Dropout<'a> = Option<&'a mut dyn FnMut(&Tensor) -> Result<Tensor, ScoringError>>;

impl Graph<'_> {
    fn dense(&self, x: &Tensor, name: &str) -> Result<Tensor, ScoringError> {
        let weight = self.params.get(&format!("{name}.weight"));
        let product = self.params.placement().times(x, weight)?;
        Ok(product.broadcast_add(self.params.get(&format!("{name}.bias")))?)
    }

    /// rows x embedded: embeddings, z-scores and missing flags.
    fn embed(
        &self,
        present: &Present,
        name: &str,
        used: Option<&[usize]>,
    ) -> Result<Tensor, ScoringError> {
        let inputs = used.map_or(self.shape.inputs.len(), <[usize]>::len);
        let (z, missing) = match used {
            None => (present.z.clone(), present.missing.clone()),
            Some(used) => {
                let used: Vec<u32> = used.iter().map(|&i| i as u32).collect();
                let used = Tensor::from_vec(used, inputs, present.z.device())?;
                (
                    present.z.index_select(&used, 1)?,
                    present.missing.index_select(&used, 1)?,
                )
            }
        };
        let size = self.shape.options.embedding;
        if size == 0 {
            return Ok(Tensor::cat(&[&z, &missing], 1)?);
        }
        let embed = Embed {
            places: present.places.clone(),
            inputs,
            size,
        };
        let weight = self.params.get(&format!("{name}.weight"));
        let bias = self.params.get(&format!("{name}.bias"));
        let embedded = embed.of(weight, bias, self.params.placement())?;
        Ok(Tensor::cat(&[&embedded, &z, &missing], 1)?)
    }

    /// The first stage's output, rows x 1. The present is of the first stage's inputs alone.
    pub(crate) fn first_stage(&self, present: &Present) -> Result<Tensor, ScoringError> {
        let x = self.embed(present, "first.embed", Some(&self.shape.first))?;
        let hidden = self.dense(&x, "first.hidden")?.gelu()?;
        self.dense(&hidden, "first.out")
    }

    /// The linear map, rows x 1.
    pub(crate) fn linear(&self, present: &Present) -> Result<Tensor, ScoringError> {
        self.dense(&Tensor::cat(&[&present.z, &present.missing], 1)?, "linear")
    }

    /// Outputs of the heads, rows x 1 each: full, and without graph if that is another.
    pub(crate) fn heads(
        &self,
        present: &Present,
        pasts: &[Past],
        mut dropout: Dropout<'_>,
    ) -> Result<Vec<Tensor>, ScoringError> {
        let embedded = self.embed(present, "embed", None)?;
        let mut read_outs = Vec::new();
        for (m, past) in pasts.iter().enumerate() {
            let mut parts = Vec::new();
            if let Some(chain) = &past.chain {
                parts.push(self.carry(m, chain)?);
            }
            parts.push(past.scalars.clone());
            if let Some(ring) = &past.ring {
                parts.push(self.attention(m, &embedded, ring)?);
            }
            read_outs.push(Tensor::cat(&parts, 1)?);
        }
        let mut outputs = Vec::new();
        for (name, memories, _) in self.shape.heads() {
            let mut parts = vec![&embedded];
            parts.extend(&read_outs[..memories]);
            let mut x = Tensor::cat(&parts, 1)?;
            for layer in 0..2 {
                x = self.dense(&x, &format!("{name}.{layer}"))?.gelu()?;
                if let Some(dropout) = &mut dropout {
                    x = dropout(&x)?;
                }
            }
            outputs.push(self.dense(&x, &format!("{name}.2"))?);
        }
        Ok(outputs)
    }

    /// The z-scores to expect, rows x inputs.
    pub(crate) fn forecast(&self, past: &Past) -> Result<Tensor, ScoringError> {
        let chain = past.chain.as_ref().expect("a forecast has a cell");
        self.dense(&self.carry(0, chain)?, "forecast")
    }

    /// What is read of the carry of memory `m` after its unrolled steps.
    fn carry(&self, m: usize, chain: &Chain) -> Result<Tensor, ScoringError> {
        if m == 0 {
            self.lstm(chain)
        } else {
            self.gru(m, chain)
        }
    }

    fn lstm(&self, chain: &Chain) -> Result<Tensor, ScoringError> {
        let bias = self.params.get("memory.0.bias");
        self.unroll(0, Kind::Lstm, chain, bias, &bias.zeros_like()?)
    }

    fn gru(&self, m: usize, chain: &Chain) -> Result<Tensor, ScoringError> {
        let bias = |part: &str| self.params.get(&format!("memory.{m}.{part}"));
        self.unroll(m, Kind::Gru, chain, bias("bias_input"), bias("bias_hidden"))
    }

    fn unroll(
        &self,
        m: usize,
        kind: Kind,
        chain: &Chain,
        bias_input: &Tensor,
        bias_hidden: &Tensor,
    ) -> Result<Tensor, ScoringError> {
        let hidden = self.params.get(&format!("memory.{m}.hidden"));
        let x = Tensor::cat(
            &[&self.dense(&chain.steps.z, "token")?, &chain.steps.extras],
            1,
        )?;
        let (input, placement) = (
            self.params.get(&format!("memory.{m}.input")),
            self.params.placement(),
        );
        let gates = placement.times(&x, input)?.broadcast_add(bias_input)?;
        let width = match kind {
            Kind::Lstm => 2 * hidden.dim(1)?,
            Kind::Gru => hidden.dim(1)?,
        };
        let unrolled = Unrolled {
            kind,
            carry: chain.carry.clone(),
            mask: chain.steps.mask.clone(),
            rows: chain.carry.len() / width,
            hidden: hidden.dim(1)?,
        };
        Ok(unrolled.of(&gates, hidden, bias_hidden, placement)?)
    }

    fn attention(&self, m: usize, embedded: &Tensor, ring: &Ring) -> Result<Tensor, ScoringError> {
        let query = self.dense(embedded, &format!("attention.{m}.query"))?;
        let token = self.dense(&ring.z, "token")?;
        let entries = self.dense(
            &Tensor::cat(&[&token, &ring.extras], 1)?,
            &format!("attention.{m}.event"),
        )?;
        let decay = self.params.get(&format!("attention.{m}.decay"));
        // Softplus.
        let decay = (decay.relu()? + (decay.abs()?.neg()?.exp()? + 1.0)?.log()?)?;
        let rows = query.dim(0)?;
        let attend = Attend {
            rows,
            events: ring.mask.len() / rows,
            heads: self.shape.options.heads,
            mask: ring.mask.clone(),
            ages: ring.ages.clone(),
        };
        Ok(attend.of(&query, &entries, &decay, self.params.placement())?)
    }
}
