//! Embeddings of inputs, as a network that serves computes them.

use super::{Front, StandardisedRows};
use crate::error::ScoringError;
use crate::kernels::dispatch;
use crate::weights::Weights;

/// Places for the ends of an input's bins: a power of two above their number.
const fn room(bins: usize) -> usize {
    (bins + 1).next_power_of_two()
}

/// The embeddings of some of the inputs as tables: bins below a value add up to a stored sum, so
/// that a value costs one row of a table however many bins there are.
#[derive(Debug, Clone)]
pub(crate) struct Embedding {
    /// Inputs, as indices into the front's.
    inputs: Vec<usize>,
    /// All inputs of the front.
    width: usize,
    size: usize,
    bins: usize,
    /// inputs x (bins + 1): where each bin begins.
    edges: Vec<f32>,
    /// inputs x [`room`]: where each bin ends, then NaN, which nothing reaches.
    ends: Vec<f32>,
    /// 1 / width of each bin; 0 past the last edge.
    inverse: Vec<f32>,
    /// inputs x (bins + 1) x size: bias and all bins below.
    base: Vec<f32>,
    /// inputs x (bins + 1) x size.
    slope: Vec<f32>,
    /// inputs x size, for a missing value.
    bias: Vec<f32>,
}

impl Embedding {
    /// Tables for `inputs` from the tensors `{name}.weight` and `{name}.bias`.
    pub(crate) fn load(
        front: &Front,
        inputs: &[usize],
        size: usize,
        weights: &Weights,
        name: &str,
    ) -> Result<Self, ScoringError> {
        let (n, bins) = (inputs.len(), front.bins);
        let (weight, bias) = match size {
            0 => (&[][..], &[][..]),
            _ => (
                weights.get(&format!("{name}.weight"), &[n, bins, size])?,
                weights.get(&format!("{name}.bias"), &[n, size])?,
            ),
        };
        let (mut edges, mut ends, mut inverse) = (vec![], vec![], vec![]);
        let (mut base, mut slope) = (vec![], vec![]);
        for (i, &input) in inputs.iter().enumerate() {
            let own = &front.edges[input * (bins + 1)..][..bins + 1];
            ends.extend_from_slice(&own[1..]);
            ends.resize((i + 1) * room(bins), f32::NAN);
            let mut sum = bias[i * size..][..size].to_vec();
            for bin in 0..=bins {
                let real = bin < bins && own[bin + 1].is_finite();
                edges.push(own[bin]);
                inverse.push(if real {
                    1.0 / (own[bin + 1] - own[bin])
                } else {
                    0.0
                });
                base.extend_from_slice(&sum);
                if real {
                    let row = &weight[(i * bins + bin) * size..][..size];
                    slope.extend_from_slice(row);
                    sum.iter_mut().zip(row).for_each(|(s, w)| *s += w);
                } else {
                    slope.extend(std::iter::repeat_n(0.0, size));
                }
            }
        }
        let (inputs, width) = (inputs.to_vec(), front.inputs.len());
        Ok(Self {
            inputs,
            width,
            size,
            bins,
            edges,
            ends,
            inverse,
            base,
            slope,
            bias: bias.to_vec(),
        })
    }

    /// Numbers in an embedded row.
    pub(crate) fn embedded(&self) -> usize {
        self.inputs.len() * (self.size + 2)
    }

    /// Writes the embedded form of each row into the first [`Embedding::embedded`] cells of a row
    /// of `out`, whose rows are `stride` apart: embeddings, z-scores, missing flags.
    pub(crate) fn fill(&self, rows: StandardisedRows<'_>, out: &mut [f32], stride: usize) {
        fill(self, rows, out, stride);
    }
}

dispatch! {
    fn fill(embedding: &Embedding, rows: StandardisedRows<'_>, out: &mut [f32], stride: usize) => fill_lanes
}

#[inline(always)]
fn fill_lanes(embedding: &Embedding, rows: StandardisedRows<'_>, out: &mut [f32], stride: usize) {
    // Usual sizes as constants, for loops that the compiler can unroll.
    match (embedding.bins, embedding.size) {
        (16, 4) => fill_sized(embedding, rows, out, stride, 16, 4),
        (22, 4) => fill_sized(embedding, rows, out, stride, 22, 4),
        (bins, size) => fill_sized(embedding, rows, out, stride, bins, size),
    }
}

#[inline(always)]
fn fill_sized(
    embedding: &Embedding,
    rows: StandardisedRows<'_>,
    out: &mut [f32],
    stride: usize,
    bins: usize,
    size: usize,
) {
    let n = embedding.inputs.len();
    let sources = rows
        .logs
        .chunks_exact(embedding.width)
        .zip(rows.z.chunks_exact(embedding.width))
        .zip(rows.missing.chunks_exact(embedding.width));
    for (((logs, z), missing), out) in sources.zip(out.chunks_mut(stride)) {
        let (codes, rest) = out.split_at_mut(n * size);
        let (out_z, rest) = rest.split_at_mut(n);
        let out_missing = &mut rest[..n];
        for (i, &input) in embedding.inputs.iter().enumerate() {
            let cell = &mut codes[i * size..][..size];
            let log = logs[input];
            out_z[i] = z[input];
            out_missing[i] = missing[input];
            if log.is_nan() {
                let bias = &embedding.bias[i * size..][..size];
                for (cell, bias) in cell.iter_mut().zip(bias) {
                    *cell = bias.max(0.0);
                }
                continue;
            }
            // Halving without a branch: the ends that the value has reached.
            let ends = &embedding.ends[i * room(bins)..][..room(bins)];
            let (mut below, mut half) = (0, room(bins) / 2);
            while half > 0 {
                below += half * usize::from(ends[below + half - 1] <= log);
                half /= 2;
            }
            let at = i * (bins + 1) + below;
            let part = match embedding.inverse[at] {
                0.0 => 0.0,
                inverse => ((log - embedding.edges[at]) * inverse).clamp(0.0, 1.0),
            };
            let base = &embedding.base[at * size..][..size];
            let slope = &embedding.slope[at * size..][..size];
            for j in 0..size {
                cell[j] = (base[j] + part * slope[j]).max(0.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use super::*;
    use crate::architecture::Architecture;
    use crate::fixtures::schema;
    use crate::front::{CLIP, Place};
    use crate::options::ModelOptions;

    fn shape() -> Architecture {
        let schema = schema(&[
            ("a", None, false),
            ("b", None, false),
            ("constant", None, false),
        ]);
        Architecture::new(&ModelOptions::default(), &schema, &["card".to_string()]).unwrap()
    }

    #[test]
    fn tables_equal_the_code_times_the_weights() {
        let shape = shape();
        let rows: Vec<[f32; 3]> = (0..500)
            .map(|i| {
                let x = i as f32;
                [
                    x * x - 1000.0,
                    if i % 3 == 0 { f32::NAN } else { (i % 2) as f32 },
                    7.0,
                ]
            })
            .collect();
        let targets: Vec<f32> = (0..500).map(|i| f32::from(i % 7 == 0 || i > 440)).collect();
        let front = Front::fit(&shape, rows.iter().map(|r| r.as_slice()), Some(&targets));
        let (n, bins, size) = (3, shape.bins(), 4);
        let weight: Vec<f32> = (0..n * bins * size)
            .map(|i| ((i * 37 % 19) as f32 - 9.0) * 0.1)
            .collect();
        let bias: Vec<f32> = (0..n * size).map(|i| (i as f32 - 5.0) * 0.1).collect();
        let mut weights = Weights::default();
        weights.insert("e.weight", &[n, bins, size], weight.clone());
        weights.insert("e.bias", &[n, size], bias.clone());
        let embedding = Embedding::load(&front, &[0, 1, 2], size, &weights, "e").unwrap();
        let mut probe: Vec<f32> = rows.iter().flatten().copied().collect();
        probe.extend([-1e9, 0.5, 8.0, f32::INFINITY, -3.0, f32::NEG_INFINITY]);
        let standard = front.standardise(&probe);
        assert!(standard.z.iter().all(|z| z.abs() <= CLIP));
        let stride = embedding.embedded();
        let mut out = vec![0.0; probe.len() / 3 * stride];
        embedding.fill(standard.all(), &mut out, stride);
        for (row, out) in out.chunks_exact(stride).enumerate() {
            for input in 0..n {
                let log = standard.logs[row * n + input];
                let edges = &front.edges[input * (bins + 1)..][..bins + 1];
                // Equation 1; nothing in bins that are not there.
                let code = |b: usize| match edges[b + 1].is_finite() && !log.is_nan() {
                    true => ((log - edges[b]) / (edges[b + 1] - edges[b])).clamp(0.0, 1.0),
                    false => 0.0,
                };
                let place = front.place(input, log);
                for b in 0..bins {
                    let coded = match b.cmp(&(place.bin as usize)) {
                        _ if place.bin == Place::MISSING => 0.0,
                        Ordering::Less => 1.0,
                        Ordering::Equal => place.part,
                        Ordering::Greater => 0.0,
                    };
                    assert_eq!(coded, code(b), "row {row} input {input} bin {b}");
                }
                for d in 0..size {
                    let sum: f64 = (0..bins)
                        .map(|b| {
                            f64::from(code(b)) * f64::from(weight[(input * bins + b) * size + d])
                        })
                        .sum();
                    let wanted = (sum + f64::from(bias[input * size + d])).max(0.0);
                    let found = f64::from(out[input * size + d]);
                    assert!(
                        (wanted - found).abs() < 1e-5,
                        "row {row} input {input}: {wanted} {found}"
                    );
                }
            }
        }
        assert!(front.medians()[1] == 0.0 || front.medians()[1] == 1.0);
        assert_eq!(front.medians()[2], 7.0);
    }
}
