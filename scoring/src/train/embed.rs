//! The piecewise-linear embeddings as one operation of the graph, forwards and backwards.
//!
//! A value's code is ones up to its bin, a part of one there, and zeros beyond. As a matrix product most of
//! that would be products with ones and zeros; here the bins below add up once a step, and a value
//! costs one row of the sums, whatever the number of bins. The matrix product is what other devices
//! than the CPU run; the tests hold the two to each other.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::recurrence::{slice, values};
use crate::device::TrainingPlacement;
use crate::front::Place;

/// Embeds values by their places. Arguments: the weights of the bins (inputs x bins x size) and the
/// bias (inputs x size). Result: rows x (inputs x size), after ReLU.
#[derive(Debug, Clone)]
pub(crate) struct Embed {
    /// rows x inputs.
    pub(crate) places: Vec<Place>,
    pub(crate) inputs: usize,
    pub(crate) size: usize,
}

impl Embed {
    /// The result, as `placement` has it computed.
    pub(crate) fn of(
        self,
        weight: &Tensor,
        bias: &Tensor,
        placement: &TrainingPlacement,
    ) -> Result<Tensor> {
        match placement.is_fused() {
            true => weight.apply_op2(bias, self),
            false => self.composed(weight, bias),
        }
    }

    /// The result, of single operations.
    pub(crate) fn composed(&self, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
        let (rows, (inputs, bins, size)) = (self.rows(), weight.dims3()?);
        let mut code = vec![0.0f32; inputs * rows * bins];
        for (i, place) in self.places.iter().enumerate() {
            if place.bin == Place::MISSING {
                continue;
            }
            let code = &mut code[(i % inputs * rows + i / inputs) * bins..][..bins];
            let (full, rest) = code.split_at_mut(place.bin as usize);
            full.fill(1.0);
            rest.iter_mut().take(1).for_each(|x| *x = place.part);
        }
        let code = Tensor::from_vec(code, (inputs, rows, bins), weight.device())?;
        let embedded = code.matmul(weight)?.broadcast_add(&bias.unsqueeze(1)?)?;
        let embedded = embedded.relu()?.permute((1, 0, 2))?;
        embedded.reshape((rows, inputs * size))
    }

    fn rows(&self) -> usize {
        self.places.len() / self.inputs
    }

    /// Bins and one more, which a value beyond the last edge is in.
    fn stops(&self, weight: &[f32]) -> usize {
        weight.len() / (self.inputs * self.size) + 1
    }
}

impl CustomOp2 for Embed {
    fn name(&self) -> &'static str {
        "embed"
    }

    fn cpu_fwd(
        &self,
        weight: &CpuStorage,
        weight_layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (weight, bias) = (slice(weight, weight_layout)?, slice(bias, bias_layout)?);
        let (size, stops) = (self.size, self.stops(weight));
        // inputs x stops x size: the bias and all bins below; and the bin's own weights.
        let mut below = Vec::with_capacity(self.inputs * stops * size);
        let mut own = Vec::with_capacity(self.inputs * stops * size);
        let inputs = weight.chunks_exact((stops - 1) * size);
        for (weight, bias) in inputs.zip(bias.chunks_exact(size)) {
            let mut sum = bias.to_vec();
            for weight in weight.chunks_exact(size) {
                below.extend_from_slice(&sum);
                own.extend_from_slice(weight);
                sum.iter_mut().zip(weight).for_each(|(sum, w)| *sum += w);
            }
            below.extend_from_slice(&sum);
            own.extend(std::iter::repeat_n(0.0, size));
        }
        let mut out = vec![0.0; self.places.len() * size];
        let cells = self.places.iter().zip(out.chunks_exact_mut(size));
        for (i, (place, cell)) in cells.enumerate() {
            let input = i % self.inputs;
            if place.bin == Place::MISSING {
                let bias = &bias[input * size..][..size];
                cell.iter_mut().zip(bias).for_each(|(x, b)| *x = b.max(0.0));
                continue;
            }
            let at = (input * stops + place.bin as usize) * size;
            let (below, own) = (&below[at..at + size], &own[at..at + size]);
            for (x, (below, own)) in cell.iter_mut().zip(below.iter().zip(own)) {
                *x = (below + place.part * own).max(0.0);
            }
        }
        let shape = (self.rows(), self.inputs * size).into();
        Ok((CpuStorage::F32(out), shape))
    }

    fn bwd(
        &self,
        weight: &Tensor,
        bias: &Tensor,
        result: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let size = self.size;
        let (_, bins, _) = weight.dims3()?;
        let stops = bins + 1;
        let mut d_bias = vec![0.0; self.inputs * size];
        // Of the values that end in a bin: gradients as they are, and by the part of it.
        let mut ended = vec![0.0f32; self.inputs * stops * size];
        let mut parts = vec![0.0f32; self.inputs * stops * size];
        let (result, grad) = (values(result)?, values(grad)?);
        let cells = result.chunks_exact(size).zip(grad.chunks_exact(size));
        for (i, (place, (result, grad))) in self.places.iter().zip(cells).enumerate() {
            let input = i % self.inputs;
            let at = match place.bin {
                Place::MISSING => None,
                bin => Some((input * stops + bin as usize) * size),
            };
            for j in 0..size {
                let grad = if result[j] > 0.0 { grad[j] } else { 0.0 };
                d_bias[input * size + j] += grad;
                if let Some(at) = at {
                    ended[at + j] += grad;
                    parts[at + j] += place.part * grad;
                }
            }
        }
        // A bin is full for all values that end beyond it.
        let mut d_weight = vec![0.0; self.inputs * bins * size];
        for input in 0..self.inputs {
            let mut beyond = vec![0.0f32; size];
            for bin in (0..bins).rev() {
                let at = (input * stops + bin) * size;
                let d_weight = &mut d_weight[(input * bins + bin) * size..][..size];
                for j in 0..size {
                    beyond[j] += ended[at + size + j];
                    d_weight[j] = beyond[j] + parts[at + j];
                }
            }
        }
        Ok((
            Some(Tensor::from_vec(d_weight, weight.shape(), weight.device())?),
            Some(Tensor::from_vec(d_bias, bias.shape(), bias.device())?),
        ))
    }
}
