//! Recurrent cells, advanced for a whole list of steps at once.
//!
//! Steps of one carry depend on each other; steps of different carries do not. So a list runs in
//! waves: wave 0 holds each carry's first step, wave 1 its second, and each wave is one product. A wave that is
//! wide enough is split over threads, since its rows know nothing of each other.

use sanderling_state::Threads;

use crate::architecture::Architecture;
use crate::error::ScoringError;
use crate::kernels::activation;
use crate::kernels::dense::{Dense, Rows, parts};
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

/// Room that steps are taken in; kept from list to list, so that a list need not ask for memory.
#[derive(Debug, Default)]
pub(crate) struct CellRoom {
    from_input: Vec<f32>,
    x: Vec<f32>,
    u: Vec<f32>,
    state: Vec<f32>,
    waves: Waves,
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
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn advance(
        &self,
        threads: &Threads,
        room: &mut CellRoom,
        carries: &mut [f32],
        of: &[u32],
        inputs: &[f32],
        before: &mut [f32],
        after: &mut [f32],
    ) {
        let width = self.carry_size();
        let (Cell::Lstm { input, .. } | Cell::Gru { input, .. }) = self;
        if of.is_empty() {
            return;
        }
        let stride = inputs.len() / of.len();
        let gates = input.outputs();
        room.from_input.resize(of.len() * gates, 0.0);
        let rows = Rows {
            values: inputs,
            stride,
        };
        input.forward_on(threads, rows, &mut room.from_input);
        room.waves.sort(carries.len() / width, of);
        let widest = room.waves.iter().map(<[u32]>::len).max().unwrap_or(0);
        room.x.resize(widest * gates, 0.0);
        room.u.resize(widest * gates, 0.0);
        room.state.resize(widest * width, 0.0);
        for wave in room.waves.iter() {
            let (x, u, state) = (
                &mut room.x[..wave.len() * gates],
                &mut room.u[..wave.len() * gates],
                &mut room.state[..wave.len() * width],
            );
            for (i, &step) in wave.iter().enumerate() {
                let (step, carry) = (step as usize, of[step as usize] as usize);
                let carry = &carries[carry * width..][..width];
                x[i * gates..][..gates].copy_from_slice(&room.from_input[step * gates..][..gates]);
                state[i * width..][..width].copy_from_slice(carry);
                before[step * width..][..width].copy_from_slice(carry);
            }
            let parts = parts(threads, wave.len());
            if parts == 1 {
                self.step(x, u, state);
            } else {
                let rows = wave.len().div_ceil(parts);
                let x = x.chunks_mut(rows * gates);
                let u = u.chunks_mut(rows * gates);
                let parts = x.zip(u).zip(state.chunks_mut(rows * width));
                let jobs = parts.map(|((x, u), state)| move || self.step(x, u, state));
                threads.run(wave.len(), jobs.collect());
            }
            for (i, &step) in wave.iter().enumerate() {
                let (step, carry) = (step as usize, of[step as usize] as usize);
                let state = &state[i * width..][..width];
                carries[carry * width..][..width].copy_from_slice(state);
                after[step * width..][..width].copy_from_slice(state);
            }
        }
    }

    /// Moves each carry of `state` on by one step; `x` is what the inputs make of the gates, `u` as much room.
    fn step(&self, x: &mut [f32], u: &mut [f32], state: &mut [f32]) {
        let stride = self.carry_size();
        let carries = Rows {
            values: state,
            stride,
        };
        match self {
            Cell::Lstm { hidden, size, .. } => {
                hidden.accumulate(carries, x);
                activation::lstm(x, state, *size);
            }
            Cell::Gru { hidden, size, .. } => {
                hidden.forward(carries, u);
                activation::gru(x, u, state, *size);
            }
        }
    }
}

/// Steps by wave, in order within a wave.
#[derive(Debug, Default)]
struct Waves {
    steps: Vec<u32>,
    /// Where each wave ends in `steps`.
    ends: Vec<usize>,
    /// Steps that each carry has.
    taken: Vec<u32>,
    wave_of: Vec<u32>,
    at: Vec<usize>,
}

impl Waves {
    /// Those of the steps of so many carries, of which step `i` is one of carry `of[i]`.
    fn sort(&mut self, carries: usize, of: &[u32]) {
        self.taken.clear();
        self.taken.resize(carries, 0);
        self.wave_of.clear();
        self.ends.clear();
        for &carry in of {
            let wave = self.taken[carry as usize];
            self.taken[carry as usize] += 1;
            if self.ends.len() == wave as usize {
                self.ends.push(0);
            }
            self.ends[wave as usize] += 1;
            self.wave_of.push(wave);
        }
        // From the size of each wave to where it ends, with where it begins beside it.
        self.at.clear();
        let mut end = 0;
        for size in &mut self.ends {
            self.at.push(end);
            end += *size;
            *size = end;
        }
        self.steps.resize(of.len(), 0);
        for (step, &wave) in self.wave_of.iter().enumerate() {
            let at = &mut self.at[wave as usize];
            self.steps[*at] = step as u32;
            *at += 1;
        }
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
        let mut waves = Waves::default();
        // What was there before leaves nothing behind.
        for (carries, of, wanted) in [
            (
                2,
                &[1u32, 1, 1, 1, 0, 0, 1][..],
                &[&[0u32, 4][..], &[1, 5], &[2], &[3], &[6]][..],
            ),
            (3, &[0, 1, 0, 0, 2, 1], &[&[0, 1, 4], &[2, 5], &[3]]),
        ] {
            waves.sort(carries, of);
            assert!(waves.iter().eq(wanted.iter().copied()), "{waves:?}");
        }
    }

    #[test]
    fn a_list_of_steps_equals_its_steps_one_by_one() {
        let number = |i: usize| ((i * 7919 % 101) as f32 - 50.0) * 0.02;
        let (size, inputs, steps, carries) = (5, 3, 200, 41);
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
        let of: Vec<u32> = (0..steps).map(|i| (i * i % carries) as u32).collect();
        let x: Vec<f32> = (0..steps * inputs).map(number).collect();
        for cell in [lstm, gru] {
            let width = cell.carry_size();
            let mut room = CellRoom::default();
            let mut run = |chunk: usize, threads: usize| {
                // Waves of a handful of rows are split too, and unevenly.
                let threads = Threads::named("test", threads, 1);
                let mut carries = vec![0.0; carries * width];
                let mut before = vec![0.0; steps * width];
                let mut after = vec![0.0; steps * width];
                for from in (0..steps).step_by(chunk) {
                    let to = (from + chunk).min(steps);
                    cell.advance(
                        &threads,
                        &mut room,
                        &mut carries,
                        &of[from..to],
                        &x[from * inputs..to * inputs],
                        &mut before[from * width..to * width],
                        &mut after[from * width..to * width],
                    );
                }
                (carries, before, after)
            };
            let whole = run(steps, 1);
            assert!(whole.0.iter().any(|&x| x != 0.0));
            for (chunk, threads) in [(1, 1), (3, 1), (11, 1), (11, 3), (steps, 2), (steps, 3)] {
                assert_eq!(
                    run(chunk, threads),
                    whole,
                    "{chunk} steps, {threads} threads"
                );
            }
        }
    }
}
