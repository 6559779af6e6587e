//! The model as a graph of tensors, for gradients. The serving kernels agree with it to 1e-5.

use candle_core::{D, Tensor};
use candle_nn::ops::{sigmoid, softmax};

use super::batch::{Past, Present, Ring};
use super::params::Params;
use crate::architecture::Architecture;
use crate::error::ScoringError;

/// The graph of one model.
pub(crate) struct Graph<'a> {
    pub(crate) shape: &'a Architecture,
    pub(crate) params: &'a Params,
}

/// Multiplies hidden layers while training; identity when absent.
pub(crate) type Dropout<'a> = Option<&'a mut dyn FnMut(&Tensor) -> Result<Tensor, ScoringError>>;

/// `x W^T`.
fn times(x: &Tensor, weight: &Tensor) -> Result<Tensor, ScoringError> {
    Ok(x.matmul(&weight.t()?)?)
}

impl Graph<'_> {
    fn dense(&self, x: &Tensor, name: &str) -> Result<Tensor, ScoringError> {
        let product = times(x, self.params.get(&format!("{name}.weight")))?;
        Ok(product.broadcast_add(self.params.get(&format!("{name}.bias")))?)
    }

    /// rows x embedded: embeddings, z-scores and missing flags.
    fn embed(
        &self,
        present: &Present,
        name: &str,
        used: Option<&[usize]>,
    ) -> Result<Tensor, ScoringError> {
        let weight = self.params.get(&format!("{name}.weight"));
        let bias = self.params.get(&format!("{name}.bias")).unsqueeze(1)?;
        let embedded = present.code.matmul(weight)?.broadcast_add(&bias)?.relu()?;
        let (inputs, rows, size) = embedded.dims3()?;
        let embedded = embedded
            .permute((1, 0, 2))?
            .reshape((rows, inputs * size))?;
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
            let carry = self.carry(m, past)?;
            let mut parts = vec![carry, past.scalars.clone()];
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
        self.dense(&self.carry(0, past)?, "forecast")
    }

    /// What is read of the carry of memory `m` after its unrolled steps.
    fn carry(&self, m: usize, past: &Past) -> Result<Tensor, ScoringError> {
        if m == 0 {
            self.lstm(past)
        } else {
            self.gru(m, past)
        }
    }

    fn gate(&self, m: usize, part: &str, gate: usize, size: usize) -> Result<Tensor, ScoringError> {
        Ok(self
            .params
            .get(&format!("memory.{m}.{part}"))
            .narrow(0, gate * size, size)?)
    }

    fn lstm(&self, past: &Past) -> Result<Tensor, ScoringError> {
        let size = self.shape.options.lstm;
        let parts = |part: &str| {
            (0..4)
                .map(|gate| self.gate(0, part, gate, size))
                .collect::<Result<Vec<_>, _>>()
        };
        let (input, hidden, bias) = (parts("input")?, parts("hidden")?, parts("bias")?);
        let mut h = past.carry.narrow(1, 0, size)?.contiguous()?;
        let mut c = past.carry.narrow(1, size, size)?.contiguous()?;
        for step in &past.steps {
            let x = Tensor::cat(&[&self.dense(&step.z, "token")?, &step.extras], 1)?;
            let gate = |g: usize| -> Result<Tensor, ScoringError> {
                let sum = (times(&x, &input[g])? + times(&h, &hidden[g])?)?;
                Ok(sum.broadcast_add(&bias[g])?)
            };
            let written = (sigmoid(&gate(0)?)? * gate(2)?.tanh()?)?;
            let next_c = ((sigmoid(&gate(1)?)? * &c)? + written)?;
            let next_h = (sigmoid(&gate(3)?)? * next_c.tanh()?)?;
            h = (&h + (next_h - &h)?.broadcast_mul(&step.mask)?)?;
            c = (&c + (next_c - &c)?.broadcast_mul(&step.mask)?)?;
        }
        Ok(h)
    }

    fn gru(&self, m: usize, past: &Past) -> Result<Tensor, ScoringError> {
        let size = self.shape.options.gru;
        let parts = |part: &str| {
            (0..3)
                .map(|gate| self.gate(m, part, gate, size))
                .collect::<Result<Vec<_>, _>>()
        };
        let (input, hidden) = (parts("input")?, parts("hidden")?);
        let (bias_input, bias_hidden) = (parts("bias_input")?, parts("bias_hidden")?);
        let mut h = past.carry.clone();
        for step in &past.steps {
            let x = Tensor::cat(&[&self.dense(&step.z, "token")?, &step.extras], 1)?;
            let from_input = |g: usize| -> Result<Tensor, ScoringError> {
                Ok(times(&x, &input[g])?.broadcast_add(&bias_input[g])?)
            };
            let from_carry = |g: usize| -> Result<Tensor, ScoringError> {
                Ok(times(&h, &hidden[g])?.broadcast_add(&bias_hidden[g])?)
            };
            let reset = sigmoid(&(from_input(0)? + from_carry(0)?)?)?;
            let update = sigmoid(&(from_input(1)? + from_carry(1)?)?)?;
            let new = (from_input(2)? + (reset * from_carry(2)?)?)?.tanh()?;
            let next = (&new + (update * (&h - &new)?)?)?;
            h = (&h + (next - &h)?.broadcast_mul(&step.mask)?)?;
        }
        Ok(h)
    }

    fn attention(&self, m: usize, embedded: &Tensor, ring: &Ring) -> Result<Tensor, ScoringError> {
        let (heads, head) = (self.shape.options.heads, self.shape.options.head_size);
        let (rows, events, _) = ring.ages.dims3()?;
        let query = self.dense(embedded, &format!("attention.{m}.query"))?;
        let token = self.dense(&ring.z, "token")?;
        let x = Tensor::cat(&[&token, &ring.extras], 1)?;
        let weight = self.params.get(&format!("attention.{m}.event.weight"));
        let bias = self.params.get(&format!("attention.{m}.event.bias"));
        let project = |part: usize| -> Result<Tensor, ScoringError> {
            let size = heads * head;
            let weight = weight.narrow(0, part * size, size)?;
            let product =
                times(&x, &weight)?.broadcast_add(&bias.narrow(0, part * size, size)?)?;
            Ok(product.reshape((rows, events, heads, head))?)
        };
        let (key, value) = (project(0)?, project(1)?);
        let query = query.reshape((rows, 1, heads, head))?;
        let dots = key.broadcast_mul(&query)?.sum(D::Minus1)?;
        let decay = self.params.get(&format!("attention.{m}.decay"));
        // Softplus.
        let decay = (decay.relu()? + (decay.abs()?.neg()?.exp()? + 1.0)?.log()?)?;
        let decay = decay.reshape((1, 1, heads))?;
        let logits = ((dots * (1.0 / (head as f64).sqrt()))? - ring.ages.broadcast_mul(&decay)?)?;
        let weights = softmax(&logits.broadcast_add(&ring.bias)?, 1)?;
        let read = value.broadcast_mul(&weights.unsqueeze(3)?)?.sum(1)?;
        Ok(read
            .reshape((rows, heads * head))?
            .broadcast_mul(&ring.any)?)
    }
}
