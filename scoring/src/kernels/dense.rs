//! A dense layer: rows times a matrix, with a bias.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use sanderling_state::Threads;

use crate::error::ScoringError;
use crate::weights::Weights;

/// Columns of a tile; a matrix is padded with zero columns to a multiple of it.
const LANES: usize = 16;

/// Weights of a dense layer, kept input-major so that a product runs along outputs.
#[derive(Debug, Clone)]
pub(crate) struct Dense {
    inputs: usize,
    outputs: usize,
    /// `outputs` rounded up to a multiple of [`LANES`].
    stride: usize,
    /// Tiles of inputs x LANES, one after the other.
    weights: Vec<f32>,
    bias: Vec<f32>,
}

/// Rows inside a wider row-major matrix.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) values: &'a [f32],
    /// Distance from a row to the next.
    pub(crate) stride: usize,
}

impl Dense {
    /// From `weight`, outputs x inputs as PyTorch and candle keep it, and `bias`, one an output.
    pub(crate) fn new(weight: &[f32], bias: &[f32], inputs: usize) -> Self {
        let outputs = bias.len();
        assert_eq!(weight.len(), outputs * inputs, "weight is outputs x inputs");
        let stride = outputs.next_multiple_of(LANES);
        let mut weights = vec![0.0; inputs * stride];
        for output in 0..outputs {
            let (tile, lane) = (output / LANES, output % LANES);
            for input in 0..inputs {
                weights[(tile * inputs + input) * LANES + lane] = weight[output * inputs + input];
            }
        }
        let mut padded = bias.to_vec();
        padded.resize(stride, 0.0);
        Self {
            inputs,
            outputs,
            stride,
            weights,
            bias: padded,
        }
    }

    /// From the tensors `{name}.weight` and `{name}.bias`.
    pub(crate) fn load(
        weights: &Weights,
        name: &str,
        outputs: usize,
        inputs: usize,
    ) -> Result<Self, ScoringError> {
        let weight = weights.get(&format!("{name}.weight"), &[outputs, inputs])?;
        Ok(Self::new(
            weight,
            weights.get(&format!("{name}.bias"), &[outputs])?,
            inputs,
        ))
    }

    /// Number of outputs.
    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// `y[r] = bias + weight x[r]` for each row; `y` is rows x outputs.
    pub(crate) fn forward(&self, x: Rows<'_>, y: &mut [f32]) {
        product(self, x, y, false);
    }

    /// [`Dense::forward`], with the rows split over threads.
    pub(crate) fn forward_on(&self, threads: &Threads, x: Rows<'_>, y: &mut [f32]) {
        let rows = y.len() / self.outputs;
        let parts = parts(threads, rows);
        if parts == 1 {
            return self.forward(x, y);
        }
        let size = rows.div_ceil(parts);
        let parts = y.chunks_mut(size * self.outputs).enumerate();
        let jobs = parts.map(|(i, y)| {
            let x = Rows {
                values: &x.values[i * size * x.stride..],
                stride: x.stride,
            };
            move || self.forward(x, y)
        });
        threads.run(rows, jobs.collect());
    }

    /// `y[r] += weight x[r]`: the chain of each element goes on from what `y` holds. The bias is
    /// left out.
    pub(crate) fn accumulate(&self, x: Rows<'_>, y: &mut [f32]) {
        product(self, x, y, true);
    }
}

/// Parts in which the rows of one product are worth handing to threads. It is a small part of the work of a batch,
/// so a thread has to get four times as many rows: waves of 128 were no faster on two threads, of 500 they were.
pub(crate) fn parts(threads: &Threads, rows: usize) -> usize {
    threads.parts(rows / 4)
}

fn product(dense: &Dense, x: Rows<'_>, y: &mut [f32], accumulate: bool) {
    let rows = y.len() / dense.outputs;
    if rows == 0 {
        return;
    }
    assert_eq!(y.len(), rows * dense.outputs, "y is rows x outputs");
    assert!(
        x.values.len() >= (rows - 1) * x.stride + dense.inputs,
        "x has all the rows"
    );
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the feature, as just detected, and x and y have all the rows.
            return unsafe { avx512::product(dense, x, y, accumulate, rows) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the processor has the features, as just detected, and x and y have all the rows.
            return unsafe { avx2::product(dense, x, y, accumulate, rows) };
        }
    }
    product_plain(dense, x, y, accumulate, rows);
}

/// The product without vector instructions of its own.
fn product_plain(dense: &Dense, x: Rows<'_>, y: &mut [f32], accumulate: bool, rows: usize) {
    for tile in 0..dense.stride / LANES {
        let column = tile * LANES;
        let width = LANES.min(dense.outputs - column);
        let weights = &dense.weights[tile * dense.inputs * LANES..][..dense.inputs * LANES];
        for row in 0..rows {
            let y = &mut y[row * dense.outputs + column..][..width];
            let mut sums = [0.0f32; LANES];
            if accumulate {
                sums[..width].copy_from_slice(y);
            } else {
                sums.copy_from_slice(&dense.bias[column..column + LANES]);
            }
            let x = &x.values[row * x.stride..][..dense.inputs];
            for (&value, weights) in x.iter().zip(weights.chunks_exact(LANES)) {
                for (sum, &weight) in sums.iter_mut().zip(weights) {
                    *sum = value.mul_add(weight, *sum);
                }
            }
            y.copy_from_slice(&sums[..width]);
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn numbers(n: usize, rng: &mut ChaCha8Rng) -> Vec<f32> {
        (0..n).map(|_| rng.random_range(-1.0f32..1.0)).collect()
    }

    #[test]
    fn bits_of_a_row_do_not_depend_on_the_batch() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for (inputs, outputs) in [(1, 1), (7, 33), (45, 16), (270, 176), (58, 128)] {
            let weight = numbers(inputs * outputs, &mut rng);
            let bias = numbers(outputs, &mut rng);
            let dense = Dense::new(&weight, &bias, inputs);
            let x = numbers(29 * inputs, &mut rng);
            let mut whole = vec![0.0; 29 * outputs];
            dense.forward(
                Rows {
                    values: &x,
                    stride: inputs,
                },
                &mut whole,
            );
            for (row, y) in whole.chunks_exact(outputs).enumerate() {
                let expected: Vec<f32> = (0..outputs)
                    .map(|o| {
                        (0..inputs).fold(bias[o], |sum, k| {
                            x[row * inputs + k].mul_add(weight[o * inputs + k], sum)
                        })
                    })
                    .collect();
                assert_eq!(y, expected, "row {row}: one chain over k");
            }
            for size in [1, 2, 3, 5, 6, 13] {
                let mut parts = Vec::new();
                for rows in x.chunks(size * inputs) {
                    let mut y = vec![0.0; rows.len() / inputs * outputs];
                    dense.forward(
                        Rows {
                            values: rows,
                            stride: inputs,
                        },
                        &mut y,
                    );
                    parts.extend(y);
                }
                assert_eq!(parts, whole, "batches of {size}");
            }
        }
    }

    #[test]
    fn plain_loops_round_alike() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        for (inputs, outputs, rows) in [(3, 20, 7), (64, 256, 13), (40, 8, 2)] {
            let weight = numbers(inputs * outputs, &mut rng);
            let dense = Dense::new(&weight, &numbers(outputs, &mut rng), inputs);
            let x = numbers(rows * inputs, &mut rng);
            let x = Rows {
                values: &x,
                stride: inputs,
            };
            for accumulate in [false, true] {
                let mut chosen = numbers(rows * outputs, &mut rng);
                let (mut plain, mut narrow) = (chosen.clone(), chosen.clone());
                product(&dense, x, &mut chosen, accumulate);
                product_plain(&dense, x, &mut plain, accumulate, rows);
                assert_eq!(chosen, plain);
                #[cfg(target_arch = "x86_64")]
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: the processor has the features, as just detected.
                    unsafe { avx2::product(&dense, x, &mut narrow, accumulate, rows) };
                    assert_eq!(narrow, plain);
                }
            }
        }
    }

    #[test]
    fn a_chain_goes_on() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let (a, b, outputs) = (5, 9, 20);
        let weight = numbers((a + b) * outputs, &mut rng);
        let bias = numbers(outputs, &mut rng);
        let part = |from: usize, to: usize| -> Vec<f32> {
            weight
                .chunks_exact(a + b)
                .flat_map(|row| row[from..to].to_vec())
                .collect()
        };
        let x = numbers(4 * (a + b), &mut rng);
        let mut whole = vec![0.0; 4 * outputs];
        Dense::new(&weight, &bias, a + b).forward(
            Rows {
                values: &x,
                stride: a + b,
            },
            &mut whole,
        );
        let mut parts = vec![0.0; 4 * outputs];
        Dense::new(&part(0, a), &bias, a).forward(
            Rows {
                values: &x,
                stride: a + b,
            },
            &mut parts,
        );
        Dense::new(&part(a, a + b), &bias, b).accumulate(
            Rows {
                values: &x[a..],
                stride: a + b,
            },
            &mut parts,
        );
        assert_eq!(parts, whole);
    }
}
