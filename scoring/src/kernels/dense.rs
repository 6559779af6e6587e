//! A dense layer: rows times a matrix, with a bias.

use super::dispatch;
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

    /// `y[r] += weight x[r]`: the chain of each element goes on from what `y` holds. The bias is
    /// left out.
    pub(crate) fn accumulate(&self, x: Rows<'_>, y: &mut [f32]) {
        product(self, x, y, true);
    }
}

dispatch! {
    fn product(dense: &Dense, x: Rows<'_>, y: &mut [f32], accumulate: bool) => product_tiles
}

#[inline(always)]
fn product_tiles(dense: &Dense, x: Rows<'_>, y: &mut [f32], accumulate: bool) {
    let rows = y.len() / dense.outputs;
    if rows == 0 {
        return;
    }
    assert_eq!(y.len(), rows * dense.outputs, "y is rows x outputs");
    assert!(
        x.values.len() >= (rows - 1) * x.stride + dense.inputs,
        "x has all the rows"
    );
    let mut row = 0;
    while row + 6 <= rows {
        product_rows::<6>(dense, x, y, accumulate, row);
        row += 6;
    }
    match rows - row {
        0 => {}
        1 => product_rows::<1>(dense, x, y, accumulate, row),
        2 => product_rows::<2>(dense, x, y, accumulate, row),
        3 => product_rows::<3>(dense, x, y, accumulate, row),
        4 => product_rows::<4>(dense, x, y, accumulate, row),
        _ => product_rows::<5>(dense, x, y, accumulate, row),
    }
}

#[inline(always)]
fn product_rows<const R: usize>(
    dense: &Dense,
    x: Rows<'_>,
    y: &mut [f32],
    accumulate: bool,
    first: usize,
) {
    let inputs: [&[f32]; R] = std::array::from_fn(|r| {
        let from = (first + r) * x.stride;
        &x.values[from..from + dense.inputs]
    });
    let tile_size = dense.inputs * LANES;
    for tile in 0..dense.stride / LANES {
        let column = tile * LANES;
        let width = LANES.min(dense.outputs - column);
        let mut sums = [[0.0f32; LANES]; R];
        for (r, sum) in sums.iter_mut().enumerate() {
            if accumulate {
                let from = (first + r) * dense.outputs + column;
                sum[..width].copy_from_slice(&y[from..from + width]);
            } else {
                sum.copy_from_slice(&dense.bias[column..column + LANES]);
            }
        }
        let weights = &dense.weights[tile * tile_size..(tile + 1) * tile_size];
        for (k, lane_weights) in weights.chunks_exact(LANES).enumerate() {
            for r in 0..R {
                let value = inputs[r][k];
                for lane in 0..LANES {
                    sums[r][lane] = value.mul_add(lane_weights[lane], sums[r][lane]);
                }
            }
        }
        for (r, sum) in sums.iter().enumerate() {
            let from = (first + r) * dense.outputs + column;
            y[from..from + width].copy_from_slice(&sum[..width]);
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
