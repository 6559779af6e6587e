//! Attention over the events that an entity remembers.
//!
//! Each head weighs event `i` by `softmax(q.k_i / sqrt(d) - decay * age_i)` with a learnt decay
//! (scaled dot products: Vaswani et al. 2017, equation 1; a bias linear in the log age).

use crate::architecture::{Architecture, MemoryLayout};
use crate::error::ScoringError;
use crate::kernels::activation::exp;
use crate::kernels::dense::Dense;
use crate::kernels::dispatch;
use crate::weights::Weights;

/// The projections of one memory's attention.
#[derive(Debug, Clone)]
pub(crate) struct Attention {
    /// Embedded features of the current event to a query.
    pub(crate) query: Dense,
    /// An event to the key and value by which it is remembered.
    pub(crate) event: Dense,
    /// Decay of each head.
    decay: Vec<f32>,
    layout: MemoryLayout,
}

impl Attention {
    pub(crate) fn load(
        shape: &Architecture,
        m: usize,
        weights: &Weights,
    ) -> Result<Self, ScoringError> {
        let size = shape.options.key_size();
        let decay = weights.get(&format!("attention.{m}.decay"), &[shape.options.heads])?;
        Ok(Self {
            query: Dense::load(
                weights,
                &format!("attention.{m}.query"),
                size,
                shape.embedded(shape.inputs.len()),
            )?,
            event: Dense::load(
                weights,
                &format!("attention.{m}.event"),
                2 * size,
                shape.key_input_size(),
            )?,
            // Softplus, so that older never counts more for being older.
            decay: decay
                .iter()
                .map(|&x| x.max(0.0) + (-x.abs()).exp().ln_1p())
                .collect(),
            layout: shape.memories[m].clone(),
        })
    }

    /// What the query of a row (key size) finds in its context row; zeros where nothing is
    /// remembered.
    pub(crate) fn read(&self, query: &[f32], context: &[f32], out: &mut [f32]) {
        read_heads(self, query, context, out);
    }
}

dispatch! {
    fn read_heads(attention: &Attention, query: &[f32], context: &[f32], out: &mut [f32]) => read_lanes
}

#[inline(always)]
fn read_lanes(attention: &Attention, query: &[f32], context: &[f32], out: &mut [f32]) {
    let layout = &attention.layout;
    let size = query.len();
    let mask = &context[layout.mask.clone()];
    let ages = &context[layout.ages.clone()];
    let ring = &context[layout.ring.clone()];
    let (heads, head) = (attention.decay.len(), size / attention.decay.len());
    let scale = 1.0 / (head as f32).sqrt();
    out.fill(0.0);
    let mut weights = [0.0f32; 64];
    let mut best = [f32::NEG_INFINITY; 64];
    let mut sums = [0.0f32; 64];
    // Two passes over the ring: the largest logit of each head, then the weighted values.
    for pass in 0..2 {
        for (i, entry) in ring.chunks_exact(2 * size).enumerate() {
            if mask[i] == 0.0 {
                continue;
            }
            let (key, value) = entry.split_at(size);
            for h in 0..heads {
                let mut dot = 0.0f32;
                for j in h * head..(h + 1) * head {
                    dot = query[j].mul_add(key[j], dot);
                }
                weights[h] = attention.decay[h].mul_add(-ages[i], dot * scale);
            }
            if pass == 0 {
                for h in 0..heads {
                    best[h] = best[h].max(weights[h]);
                }
                continue;
            }
            for h in 0..heads {
                let weight = exp(weights[h] - best[h]);
                sums[h] += weight;
                for j in h * head..(h + 1) * head {
                    out[j] = weight.mul_add(value[j], out[j]);
                }
            }
        }
    }
    for h in 0..heads {
        if sums[h] > 0.0 {
            for x in &mut out[h * head..(h + 1) * head] {
                *x /= sums[h];
            }
        }
    }
}
