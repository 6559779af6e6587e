//! Attention as one operation of the graph, forwards and backwards, and composed of single ones for
//! other devices than the CPU.

use candle_core::{CpuStorage, CustomOp3, D, Layout, Result, Shape, Tensor};
use candle_nn::ops::softmax;

use super::recurrence::{slice, values};
use crate::device::TrainingPlacement;
use crate::kernels::activation::exp;
use crate::kernels::dispatch;

/// Attention over remembered events. Arguments: queries (rows x key size), keys and values
/// ((rows x events) x 2 key sizes), decay of each head. Result: rows x key size.
#[derive(Debug, Clone)]
pub(crate) struct Attend {
    pub(crate) rows: usize,
    pub(crate) events: usize,
    pub(crate) heads: usize,
    /// rows x events.
    pub(crate) mask: Vec<f32>,
    /// rows x events.
    pub(crate) ages: Vec<f32>,
}

impl Attend {
    /// The result, as `placement` has it computed.
    pub(crate) fn of(
        self,
        query: &Tensor,
        entries: &Tensor,
        decay: &Tensor,
        placement: &TrainingPlacement,
    ) -> Result<Tensor> {
        match placement.is_fused() {
            true => query.apply_op3(entries, decay, self),
            false => self.composed(query, entries, decay),
        }
    }

    /// The result, of single operations.
    pub(crate) fn composed(
        &self,
        query: &Tensor,
        entries: &Tensor,
        decay: &Tensor,
    ) -> Result<Tensor> {
        let (rows, events, heads) = (self.rows, self.events, self.heads);
        let (size, device) = (query.dim(1)?, query.device());
        let head = size / heads;
        let of_events = |values: Vec<f32>| Tensor::from_vec(values, (rows, events, 1), device);
        let part = |at: usize| {
            let half = entries.narrow(1, at, size)?.contiguous()?;
            half.reshape((rows, events, heads, head))
        };
        let dots = part(0)?.broadcast_mul(&query.reshape((rows, 1, heads, head))?)?;
        let dots = (dots.sum(D::Minus1)? / (head as f64).sqrt())?;
        let ages = of_events(self.ages.clone())?;
        let logits = (dots - ages.broadcast_mul(&decay.reshape((1, 1, heads))?)?)?;
        let shut = self.mask.iter().map(|seen| (seen - 1.0) * 1e9).collect();
        let logits = logits.broadcast_add(&of_events(shut)?)?;
        let weights = softmax(&logits, 1)?.unsqueeze(3)?;
        let read = part(size)?.broadcast_mul(&weights)?.sum(1)?;
        let any = self.mask.chunks_exact(events);
        let any = any.map(|seen| f32::from(seen.contains(&1.0))).collect();
        let any = Tensor::from_vec(any, (rows, 1), device)?;
        read.reshape((rows, size))?.broadcast_mul(&any)
    }
}

dispatch! {
    fn attend_forward(op: &Attend, query: &[f32], entries: &[f32], decay: &[f32], weights: &mut [f32], out: &mut [f32]) => attend_forward_lanes
}

/// `weights`, rows x heads x events, gets the softmax; `out` what it reads.
#[inline(always)]
fn attend_forward_lanes(
    op: &Attend,
    query: &[f32],
    entries: &[f32],
    decay: &[f32],
    weights: &mut [f32],
    out: &mut [f32],
) {
    let size = query.len() / op.rows;
    let head = size / op.heads;
    let scale = 1.0 / (head as f32).sqrt();
    for row in 0..op.rows {
        let query = &query[row * size..][..size];
        let out = &mut out[row * size..][..size];
        for h in 0..op.heads {
            let weights = &mut weights[(row * op.heads + h) * op.events..][..op.events];
            let (mut best, mut sum) = (f32::NEG_INFINITY, 0.0);
            for (i, weight) in weights.iter_mut().enumerate() {
                let at = row * op.events + i;
                if op.mask[at] == 0.0 {
                    *weight = f32::NEG_INFINITY;
                    continue;
                }
                let key = &entries[at * 2 * size + h * head..][..head];
                let mut dot = 0.0f32;
                for j in 0..head {
                    dot = query[h * head + j].mul_add(key[j], dot);
                }
                *weight = dot * scale - decay[h] * op.ages[at];
                best = best.max(*weight);
            }
            for weight in weights.iter_mut() {
                *weight = if *weight == f32::NEG_INFINITY {
                    0.0
                } else {
                    exp(*weight - best)
                };
                sum += *weight;
            }
            if sum == 0.0 {
                continue;
            }
            for (i, weight) in weights.iter_mut().enumerate() {
                *weight /= sum;
                let value = &entries[(row * op.events + i) * 2 * size + size + h * head..][..head];
                for j in 0..head {
                    out[h * head + j] = weight.mul_add(value[j], out[h * head + j]);
                }
            }
        }
    }
}

/// Gradients of [`Attend`].
struct AttendGrads {
    query: Vec<f32>,
    entries: Vec<f32>,
    decay: Vec<f32>,
}

dispatch! {
    fn attend_backward(op: &Attend, query: &[f32], entries: &[f32], weights: &[f32], grad: &[f32], out: &mut AttendGrads) => attend_backward_lanes
}

#[inline(always)]
fn attend_backward_lanes(
    op: &Attend,
    query: &[f32],
    entries: &[f32],
    weights: &[f32],
    grad: &[f32],
    out: &mut AttendGrads,
) {
    let size = query.len() / op.rows;
    let head = size / op.heads;
    let scale = 1.0 / (head as f32).sqrt();
    for row in 0..op.rows {
        for h in 0..op.heads {
            let weights = &weights[(row * op.heads + h) * op.events..][..op.events];
            let at = row * size + h * head;
            let (query, grad) = (&query[at..][..head], &grad[at..][..head]);
            let entry = |i: usize| (row * op.events + i) * 2 * size + h * head;
            let pull = |i: usize| {
                let value = &entries[entry(i) + size..][..head];
                (0..head).map(|j| grad[j] * value[j]).sum::<f32>()
            };
            let mean: f32 = weights.iter().enumerate().map(|(i, w)| w * pull(i)).sum();
            for (i, &weight) in weights.iter().enumerate() {
                if weight == 0.0 {
                    continue;
                }
                let d_logit = weight * (pull(i) - mean);
                out.decay[h] -= d_logit * op.ages[row * op.events + i];
                for j in 0..head {
                    let key = entry(i) + j;
                    out.query[at + j] += d_logit * scale * entries[key];
                    out.entries[key] = d_logit * scale * query[j];
                    out.entries[key + size] = weight * grad[j];
                }
            }
        }
    }
}

impl CustomOp3 for Attend {
    fn name(&self) -> &'static str {
        "attend"
    }

    fn cpu_fwd(
        &self,
        query: &CpuStorage,
        query_layout: &Layout,
        entries: &CpuStorage,
        entries_layout: &Layout,
        decay: &CpuStorage,
        decay_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let query = slice(query, query_layout)?;
        let mut out = vec![0.0; query.len()];
        let mut weights = vec![0.0; self.rows * self.heads * self.events];
        let (entries, decay) = (slice(entries, entries_layout)?, slice(decay, decay_layout)?);
        attend_forward(self, query, entries, decay, &mut weights, &mut out);
        Ok((
            CpuStorage::F32(out),
            (self.rows, query.len() / self.rows).into(),
        ))
    }

    fn bwd(
        &self,
        query: &Tensor,
        entries: &Tensor,
        decay: &Tensor,
        _result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (q, e) = (values(query)?, values(entries)?);
        let mut weights = vec![0.0; self.rows * self.heads * self.events];
        let mut out = vec![0.0; q.len()];
        attend_forward(self, &q, &e, &values(decay)?, &mut weights, &mut out);
        let mut grads = AttendGrads {
            query: vec![0.0; q.len()],
            entries: vec![0.0; e.len()],
            decay: vec![0.0; self.heads],
        };
        attend_backward(self, &q, &e, &weights, &values(grad)?, &mut grads);
        let tensor =
            |values: Vec<f32>, like: &Tensor| Tensor::from_vec(values, like.shape(), like.device());
        Ok((
            Some(tensor(grads.query, query)?),
            Some(tensor(grads.entries, entries)?),
            Some(tensor(grads.decay, decay)?),
        ))
    }
}
