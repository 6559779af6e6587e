//! Recurrent cells, advanced for a whole list of steps at once.
//!
//! Steps of one carry depend on each other; steps of different carries do not. So a list runs in
//! waves: wave 0 holds each carry's first step, wave 1 its second, and each wave is one product.

use crate::architecture::Architecture;
use crate::error::ScoringError;
use crate::kernels::activation;
use crate::kernels::dense::{Dense, Rows};
use crate::weights::Weights;

/// A recurrent cell.
#[derive(Debug, Clone)]
pub(crate) enum Cell {
    /// Carry: h, then c.
    Lstm {
        input: Dense,
        hidden: Dense,
        size: usize,
    },
    /// Carry: h.
    Gru {
        input: Dense,
        hidden: Dense,
        size: usize,
    },
}

impl Cell {
    /// The cell of memory `m`, if it has one: an LSTM for the first entity, a GRU for an endpoint.
    pub(crate) fn load(
        shape: &Architecture,
        m: usize,
        weights: &Weights,
    ) -> Result<Option<Self>, ScoringError> {
        if !shape.memories[m].has_cell() {
            return Ok(None);
        }
        let name = |part: &str| format!("memory.{m}.{part}");
        if m == 0 {
            let (size, inputs) = (shape.options.lstm, shape.event_size());
            let bias = weights.get(&name("bias"), &[4 * size])?;
            let zero = vec![0.0; 4 * size];
            return Ok(Some(Cell::Lstm {
                input: Dense::new(
                    weights.get(&name("input"), &[4 * size, inputs])?,
                    bias,
                    inputs,
                ),
                hidden: Dense::new(
                    weights.get(&name("hidden"), &[4 * size, size])?,
                    &zero,
                    size,
                ),
                size,
            }));
        }
        let (size, inputs) = (shape.options.gru, shape.label_size());
        let from_input = weights.get(&name("bias_input"), &[3 * size])?;
        let from_carry = weights.get(&name("bias_hidden"), &[3 * size])?;
        Ok(Some(Cell::Gru {
            input: Dense::new(
                weights.get(&name("input"), &[3 * size, inputs])?,
                from_input,
                inputs,
            ),
            hidden: Dense::new(
                weights.get(&name("hidden"), &[3 * size, size])?,
                from_carry,
                size,
            ),
            size,
        }))
    }

    /// Numbers in a carry.
    pub(crate) fn carry_size(&self) -> usize {
        match self {
            Cell::Lstm { size, .. } => 2 * size,
            Cell::Gru { size, .. } => *size,
        }
    }

    /// Takes the steps in order. `inputs` is steps x the cell's inputs; step `i` advances the
    /// carry at row `of[i]` of `carries`, and the carry as it was before and is after goes to row
    /// `i` of `before` and `after`.
    pub(crate) fn advance(
        &self,
        carries: &mut [f32],
        of: &[u32],
        inputs: &[f32],
        before: &mut [f32],
        after: &mut [f32],
    ) {
        let width = self.carry_size();
        let (input, hidden, size) = match self {
            Cell::Lstm {
                input,
                hidden,
                size,
            }
            | Cell::Gru {
                input,
                hidden,
                size,
            } => (input, hidden, *size),
        };
        if of.is_empty() {
            return;
        }
        let stride = inputs.len() / of.len();
        let gates = input.outputs();
        let mut from_input = vec![0.0; of.len() * gates];
        input.forward(
            Rows {
                values: inputs,
                stride,
            },
            &mut from_input,
        );
        let waves = Waves::new(carries.len() / width, of);
        let widest = waves.iter().map(<[u32]>::len).max().unwrap_or(0);
        let mut x = vec![0.0; widest * gates];
        let mut u = vec![0.0; widest * gates];
        let mut state = vec![0.0; widest * width];
        for wave in waves.iter() {
            let (x, state) = (
                &mut x[..wave.len() * gates],
                &mut state[..wave.len() * width],
            );
            for (i, &step) in wave.iter().enumerate() {
                let (step, carry) = (step as usize, of[step as usize] as usize);
                let carry = &carries[carry * width..][..width];
                x[i * gates..][..gates].copy_from_slice(&from_input[step * gates..][..gates]);
                state[i * width..][..width].copy_from_slice(carry);
                before[step * width..][..width].copy_from_slice(carry);
            }
            match self {
                Cell::Lstm { .. } => {
                    hidden.accumulate(
                        Rows {
                            values: state,
                            stride: width,
                        },
                        x,
                    );
                    activation::lstm(x, state, size);
                }
                Cell::Gru { .. } => {
                    let u = &mut u[..wave.len() * gates];
                    hidden.forward(
                        Rows {
                            values: state,
                            stride: width,
                        },
                        u,
                    );
                    activation::gru(x, u, state, size);
                }
            }
            for (i, &step) in wave.iter().enumerate() {
                let (step, carry) = (step as usize, of[step as usize] as usize);
                let state = &state[i * width..][..width];
                carries[carry * width..][..width].copy_from_slice(state);
                after[step * width..][..width].copy_from_slice(state);
            }
        }
    }
}

/// Steps by wave, in order within a wave.
struct Waves {
    steps: Vec<u32>,
    /// Where each wave ends in `steps`.
    ends: Vec<usize>,
}

impl Waves {
    fn new(carries: usize, of: &[u32]) -> Self {
        let mut taken = vec![0u32; carries];
        let mut sizes: Vec<usize> = Vec::new();
        let wave_of: Vec<u32> = of
            .iter()
            .map(|&carry| {
                let wave = taken[carry as usize];
                taken[carry as usize] += 1;
                if sizes.len() == wave as usize {
                    sizes.push(0);
                }
                sizes[wave as usize] += 1;
                wave
            })
            .collect();
        let mut at: Vec<usize> = Vec::with_capacity(sizes.len());
        let mut end = 0;
        let ends = sizes
            .iter()
            .map(|size| {
                at.push(end);
                end += size;
                end
            })
            .collect();
        let mut steps = vec![0; of.len()];
        for (step, &wave) in wave_of.iter().enumerate() {
            steps[at[wave as usize]] = step as u32;
            at[wave as usize] += 1;
        }
        Self { steps, ends }
    }

    fn iter(&self) -> impl Iterator<Item = &[u32]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(start, &end)| &self.steps[start..end])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waves_keep_each_carry_in_order() {
        let waves = Waves::new(3, &[0, 1, 0, 0, 2, 1]);
        let waves: Vec<_> = waves.iter().collect();
        assert_eq!(waves, [&[0u32, 1, 4][..], &[2, 5], &[3]]);
    }

    #[test]
    fn a_list_of_steps_equals_its_steps_one_by_one() {
        let number = |i: usize| ((i * 7919 % 101) as f32 - 50.0) * 0.02;
        let (size, inputs, steps) = (5, 3, 40);
        let dense = |outputs: usize, inputs: usize, salt: usize| {
            let weight: Vec<f32> = (0..outputs * inputs).map(|i| number(i + salt)).collect();
            let bias: Vec<f32> = (0..outputs).map(|i| number(i * 3 + salt)).collect();
            Dense::new(&weight, &bias, inputs)
        };
        let lstm = Cell::Lstm {
            input: dense(20, inputs, 1),
            hidden: dense(20, size, 2),
            size,
        };
        let gru = Cell::Gru {
            input: dense(15, inputs, 3),
            hidden: dense(15, size, 4),
            size,
        };
        let of: Vec<u32> = (0..steps).map(|i| (i * i % 7) as u32).collect();
        let x: Vec<f32> = (0..steps * inputs).map(number).collect();
        for cell in [lstm, gru] {
            let width = cell.carry_size();
            let run = |chunk: usize| {
                let mut carries = vec![0.0; 7 * width];
                let mut before = vec![0.0; steps * width];
                let mut after = vec![0.0; steps * width];
                for from in (0..steps).step_by(chunk) {
                    let to = (from + chunk).min(steps);
                    cell.advance(
                        &mut carries,
                        &of[from..to],
                        &x[from * inputs..to * inputs],
                        &mut before[from * width..to * width],
                        &mut after[from * width..to * width],
                    );
                }
                (carries, before, after)
            };
            let whole = run(steps);
            assert!(whole.0.iter().any(|&x| x != 0.0));
            for chunk in [1, 3, 11] {
                assert_eq!(run(chunk), whole);
            }
        }
    }
}
