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

/// Most heads that the options allow.
const HEADS_MAX: usize = 64;

/// The projections of one memory's attention.
///
/// Queries, keys and values are kept with the heads innermost (see [`interleaved`]), so that the
/// heads of a product run side by side.
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

/// Where dimension `i` of a key with heads outermost is found with heads innermost, and the other
/// way round: the `i`-th of `heads` x `head` numbers, in the order of `head` x `heads`.
pub(crate) fn interleaved(i: usize, heads: usize, head: usize) -> usize {
    i % heads * head + i / heads
}

/// ln(1 + e^x), which is never negative.
pub(crate) fn softplus(x: f32) -> f32 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

impl Attention {
    pub(crate) fn load(
        shape: &Architecture,
        m: usize,
        weights: &Weights,
    ) -> Result<Self, ScoringError> {
        let options = &shape.options;
        let size = options.key_size();
        let decay = weights.get(&format!("attention.{m}.decay"), &[options.heads])?;
        let dense = |part: &str, outputs: usize, inputs: usize| {
            let name = format!("attention.{m}.{part}");
            let weight = weights.get(&format!("{name}.weight"), &[outputs, inputs])?;
            let bias = weights.get(&format!("{name}.bias"), &[outputs])?;
            let order = (0..outputs)
                .map(|i| i / size * size + interleaved(i % size, options.heads, options.head_size));
            let rows = order.clone().flat_map(|o| &weight[o * inputs..][..inputs]);
            let rows: Vec<f32> = rows.copied().collect();
            let bias: Vec<f32> = order.map(|o| bias[o]).collect();
            Ok::<_, ScoringError>(Dense::new(&rows, &bias, inputs))
        };
        Ok(Self {
            query: dense("query", size, shape.embedded(shape.inputs.len()))?,
            event: dense("event", 2 * size, shape.key_input_size())?,
            // So that older never counts more for being older.
            decay: decay.iter().map(|&x| softplus(x)).collect(),
            layout: shape.memories[m].clone(),
        })
    }

    /// What the query of a row (key size) finds in its context row; zeros where nothing is
    /// remembered. `weights` is room to work in.
    pub(crate) fn read(
        &self,
        query: &[f32],
        context: &[f32],
        weights: &mut Vec<f32>,
        out: &mut [f32],
    ) {
        weights.resize(self.layout.events() * self.decay.len(), 0.0);
        read_heads(self, query, context, weights, out);
    }
}

dispatch! {
    fn read_heads(attention: &Attention, query: &[f32], context: &[f32], weights: &mut [f32], out: &mut [f32]) => read_lanes
}

#[inline(always)]
fn read_lanes(
    attention: &Attention,
    query: &[f32],
    context: &[f32],
    weights: &mut [f32],
    out: &mut [f32],
) {
    // Usual sizes as constants, for loops that the compiler can unroll.
    let heads = attention.decay.len();
    match (heads, query.len() / heads) {
        (4, 4) => read_sized::<4>(attention, query, context, weights, out, 4, 4),
        (heads, head) => {
            read_sized::<HEADS_MAX>(attention, query, context, weights, out, heads, head)
        }
    }
}

/// With room for `MAX` heads.
#[allow(clippy::too_many_arguments)]
#[inline(always)]
fn read_sized<const MAX: usize>(
    attention: &Attention,
    query: &[f32],
    context: &[f32],
    weights: &mut [f32],
    out: &mut [f32],
    heads: usize,
    head: usize,
) {
    let layout = &attention.layout;
    let size = heads * head;
    let mask = &context[layout.mask.clone()];
    let ages = &context[layout.ages.clone()];
    let ring = &context[layout.ring.clone()];
    let scale = 1.0 / (head as f32).sqrt();
    let decay = &attention.decay[..heads];
    let mut best = [f32::NEG_INFINITY; MAX];
    let events = ring.chunks_exact(2 * size).zip(mask.iter().zip(ages));
    for ((entry, (&mask, &age)), weights) in events.zip(weights.chunks_exact_mut(heads)) {
        if mask == 0.0 {
            weights.fill(f32::NEG_INFINITY);
            continue;
        }
        let mut dots = [0.0f32; MAX];
        let dots = &mut dots[..heads];
        let products = query.chunks_exact(heads).zip(entry.chunks_exact(heads));
        for (query, key) in products {
            for h in 0..heads {
                dots[h] = query[h].mul_add(key[h], dots[h]);
            }
        }
        for h in 0..heads {
            weights[h] = decay[h].mul_add(-age, dots[h] * scale);
            best[h] = best[h].max(weights[h]);
        }
    }
    out.fill(0.0);
    if best[0] == f32::NEG_INFINITY {
        return;
    }
    for weights in weights.chunks_exact_mut(heads) {
        for h in 0..heads {
            weights[h] -= best[h];
        }
    }
    for weight in weights.iter_mut() {
        *weight = exp(*weight);
    }
    let mut sums = [0.0f32; MAX];
    let events = ring.chunks_exact(2 * size).zip(mask);
    for ((entry, &mask), weights) in events.zip(weights.chunks_exact(heads)) {
        if mask == 0.0 {
            continue;
        }
        for h in 0..heads {
            sums[h] += weights[h];
        }
        let reads = out
            .chunks_exact_mut(heads)
            .zip(entry[size..].chunks_exact(heads));
        for (out, value) in reads {
            for h in 0..heads {
                out[h] = weights[h].mul_add(value[h], out[h]);
            }
        }
    }
    for out in out.chunks_exact_mut(heads) {
        for h in 0..heads {
            out[h] /= sums[h];
        }
    }
}
