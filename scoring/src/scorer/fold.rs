//! The passes of a fold: which carries move, how far, and what each row sees of memory.
//!
//! Each network of a model has a memory of its own and folds for itself; its part of the context
//! rows is its own too.

use sanderling_schemas::{NO_SLOT, Output};
use sanderling_state::Threads;

use super::{MemberState, Scorer};
use crate::cells::{Cell, CellRoom};
use crate::front::{Standardised, StandardisedRows};
use crate::memory::{FIRST_STAGE_SCALE, elapsed, elapsed_since, known, since};
use crate::recording::Steps;
use crate::served::ServedModel;

/// What a batch works in; kept from batch to batch, so that the next need not ask for memory.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// One a memory.
    cells: Vec<CellSteps>,
    /// For each memory and each label, the slot whose carry the label moves.
    moved: Vec<Vec<Option<u32>>>,
    carries: Vec<f32>,
    cell: CellRoom,
    key_inputs: Vec<f32>,
    /// For each memory, key and value of each event, events x 2 key sizes; empty where nothing attends to them.
    keys: Vec<Vec<f32>>,
}

impl Room {
    /// Cleared for a batch with so many labels.
    fn clear(&mut self, memories: usize, labels: usize) {
        self.cells.resize_with(memories, CellSteps::default);
        for cell in &mut self.cells {
            cell.slots.clear();
            cell.of.clear();
            cell.inputs.clear();
        }
        self.moved.resize_with(memories, Vec::new);
        for moved in &mut self.moved {
            moved.clear();
            moved.resize(labels, None);
        }
        self.keys.resize_with(memories, Vec::new);
    }
}

/// Steps of one memory's cell within a batch.
#[derive(Debug, Default)]
struct CellSteps {
    /// Slot of each local number.
    slots: Vec<u32>,
    /// Local number of each step.
    of: Vec<u32>,
    inputs: Vec<f32>,
    before: Vec<f32>,
    after: Vec<f32>,
}

impl Scorer {
    /// Passes 1 to 4: the inputs and contexts of the events, which then are in memory.
    pub(super) fn fold(&mut self, steps: &Steps<'_>) -> (Standardised, Vec<f32>) {
        let model = self.model.clone();
        let rows = model.front.standardise(steps.features);
        let mut context = vec![0.0; steps.times.len() * model.context_size()];
        for member in 0..model.members() {
            let both = self.in_parts(&rows, &[], |model, rows, _| {
                vec![(model.first_stage(member, rows), model.tokens(member, rows))]
            });
            let (mut first, mut tokens) = (Vec::new(), Vec::new());
            for (some_first, some_tokens) in both {
                first.extend(some_first);
                tokens.extend(some_tokens);
            }
            let pass = Pass {
                model: &model,
                member,
                horizon_us: self.horizon_us,
                steps,
                first: &first,
                tokens: &tokens,
            };
            self.members[member].fold(&self.threads, &pass, &mut context);
        }
        (rows, context)
    }

    /// Runs `work` over the rows, in as many parts as there are threads, and joins what it gives.
    pub(super) fn in_parts<T: Send>(
        &self,
        rows: &Standardised,
        context: &[f32],
        work: impl Fn(&ServedModel, StandardisedRows<'_>, &[f32]) -> Vec<T> + Sync,
    ) -> Vec<T> {
        let model = &*self.model;
        let width = model.shape.inputs.len();
        let n = rows.z.len() / width;
        let context_size = if context.is_empty() {
            0
        } else {
            model.context_size()
        };
        let part = |from: usize, to: usize| {
            let rows = rows.all().slice(from, to - from, width);
            work(
                model,
                rows,
                &context[from * context_size..to * context_size],
            )
        };
        let parts = self.threads.parts(n);
        if parts == 1 {
            return part(0, n);
        }
        let (part, size) = (&part, n.div_ceil(parts));
        let jobs = (0..parts).map(|i| move || part((i * size).min(n), ((i + 1) * size).min(n)));
        let mut done = self.threads.run(n, jobs.collect()).into_iter();
        let mut out = done.next().expect("there is a part");
        done.for_each(|part| out.extend(part));
        out
    }
}

/// What a network's fold of a batch reads.
struct Pass<'a> {
    model: &'a ServedModel,
    member: usize,
    horizon_us: i64,
    steps: &'a Steps<'a>,
    /// First stage's output of each event.
    first: &'a [f32],
    /// Token of each event.
    tokens: &'a [f32],
}

impl Pass<'_> {
    /// The network's part of an event's context row.
    fn context<'c>(&self, contexts: &'c mut [f32], event: usize) -> &'c mut [f32] {
        let size = self.model.shape.member_context();
        &mut contexts[event * self.model.context_size() + self.member * size..][..size]
    }
}

impl MemberState {
    fn fold(&mut self, threads: &Threads, pass: &Pass<'_>, context: &mut [f32]) {
        let mut room = std::mem::take(&mut self.room);
        self.plan(pass, &mut room, context);
        for m in 0..room.cells.len() {
            self.advance(threads, pass, m, &mut room);
        }
        Self::keys(threads, pass, &mut room);
        for m in 0..room.cells.len() {
            self.remember(pass, m, &room, context);
        }
        self.room = room;
    }

    /// Pass 2. Finds the steps of each memory's cell and, for each label, whether it moves each
    /// endpoint's carry; writes the scalars of the contexts.
    fn plan(&mut self, pass: &Pass<'_>, room: &mut Room, context: &mut [f32]) {
        let (model, steps, horizon_us) = (pass.model, pass.steps, pass.horizon_us);
        let (first, tokens) = (pass.first, pass.tokens);
        let shape = &model.shape;
        let (memories, token_size) = (shape.memories.len(), shape.token);
        for (m, layout) in shape.memories.iter().enumerate() {
            let slots = steps.slots[layout.entity]
                .iter()
                .filter(|&&slot| slot != NO_SLOT);
            if let Some(&max) = slots.max() {
                self.memories[m].grow_to(max as usize + 1);
            }
            self.locals[m].resize(self.memories[m].len(), NO_SLOT);
        }
        let has_labels = memories > 1 && shape.options.output != Output::Forecast;
        room.clear(memories, steps.labels.len());
        let Room { cells, moved, .. } = room;
        let mut labels = steps.labels.iter().enumerate().peekable();
        for event in 0..=steps.times.len() {
            while let Some((number, label)) = labels.next_if(|(_, label)| label.before <= event) {
                if !has_labels {
                    continue;
                }
                self.pending.advance(label.time_us, horizon_us);
                let Self {
                    memories: states,
                    pending,
                    locals,
                    ..
                } = self;
                pending.take(label.of, |of| {
                    for m in 1..memories {
                        let slot = of.slots[m - 1];
                        if slot == NO_SLOT {
                            continue;
                        }
                        let state = states[m].get_mut(slot as usize);
                        let cell = &mut cells[m];
                        moved[m][number] = Some(slot);
                        cell.of.push(local(&mut locals[m], &mut cell.slots, slot));
                        let before = (state.steps > 0).then(|| label.time_us - state.last_us);
                        let [seen, log, days] = since(before);
                        cell.inputs.extend_from_slice(&of.token);
                        let extras = [
                            of.first_stage * FIRST_STAGE_SCALE,
                            model.label_input(label.value),
                            log,
                            elapsed(label.time_us - of.time_us),
                            seen,
                            days,
                        ];
                        cell.inputs
                            .extend_from_slice(&extras[..shape.label_extras()]);
                        state.last_us = if state.steps > 0 {
                            state.last_us.max(label.time_us)
                        } else {
                            label.time_us
                        };
                        state.steps += 1;
                    }
                });
            }
            if event == steps.times.len() {
                break;
            }
            let time_us = steps.times[event];
            let context = pass.context(context, event);
            let token = &tokens[event * token_size..][..token_size];
            for (m, layout) in shape.memories.iter().enumerate() {
                let slot = steps.slots[layout.entity][event];
                if slot == NO_SLOT {
                    continue;
                }
                let state = self.memories[m].get(slot as usize);
                let (steps_taken, last_us) = (state.steps, state.last_us);
                let [seen, log, days] = since((steps_taken > 0).then(|| time_us - last_us));
                let count = if m > 0 { known(steps_taken) } else { seen };
                let scalars = &[count, log, days][..shape.scalars()];
                context[layout.scalars.clone()].copy_from_slice(scalars);
                if m > 0 {
                    continue;
                }
                let cell = &mut cells[0];
                cell.of
                    .push(local(&mut self.locals[0], &mut cell.slots, slot));
                cell.inputs.extend_from_slice(token);
                cell.inputs.extend([first[event] * FIRST_STAGE_SCALE, log]);
                let state = self.memories[0].get_mut(slot as usize);
                state.last_us = if steps_taken > 0 {
                    last_us.max(time_us)
                } else {
                    time_us
                };
                state.steps += 1;
            }
            if has_labels {
                self.pending.advance(time_us, horizon_us);
                let slots = shape.memories[1..]
                    .iter()
                    .map(|layout| steps.slots[layout.entity][event]);
                self.pending
                    .insert(steps.sequences[event], time_us, first[event], slots, token);
            }
        }
        for (m, cell) in cells.iter().enumerate() {
            for &slot in &cell.slots {
                self.locals[m][slot as usize] = NO_SLOT;
            }
        }
    }

    /// Pass 3 for one memory: its carries move on.
    fn advance(&self, threads: &Threads, pass: &Pass<'_>, m: usize, room: &mut Room) {
        let Some(cell) = pass.model.cell(pass.member, m) else {
            return;
        };
        let width = cell.carry_size();
        let (steps, carries) = (&mut room.cells[m], &mut room.carries);
        carries.clear();
        carries.resize(steps.slots.len() * width, 0.0);
        for (carry, &slot) in carries.chunks_exact_mut(width).zip(&steps.slots) {
            let state = self.memories[m].get(slot as usize);
            if !state.carry.is_empty() {
                carry.copy_from_slice(&state.carry);
            }
        }
        steps.before.resize(steps.of.len() * width, 0.0);
        steps.after.resize(steps.of.len() * width, 0.0);
        cell.advance(
            threads,
            &mut room.cell,
            carries,
            &steps.of,
            &steps.inputs,
            &mut steps.before,
            &mut steps.after,
        );
    }

    /// Pass 3: key and value of each event for each memory.
    fn keys(threads: &Threads, pass: &Pass<'_>, room: &mut Room) {
        let (steps, first, tokens) = (pass.steps, pass.first, pass.tokens);
        let shape = &pass.model.shape;
        if shape.options.output == Output::Forecast {
            return;
        }
        let (token_size, hidden) = (shape.token, shape.options.lstm);
        let (events, own, inputs) = (steps.times.len(), &room.cells[0], &mut room.key_inputs);
        inputs.clear();
        inputs.reserve(events * shape.key_input_size());
        let mut step = 0;
        for event in 0..events {
            inputs.extend_from_slice(&tokens[event * token_size..][..token_size]);
            inputs.push(first[event] * FIRST_STAGE_SCALE);
            if steps.slots[shape.memories[0].entity][event] == NO_SLOT {
                inputs.resize(inputs.len() + hidden, 0.0);
            } else {
                inputs.extend_from_slice(&own.before[step * 2 * hidden..][..hidden]);
                step += 1;
            }
        }
        for (m, out) in room.keys.iter_mut().enumerate() {
            if shape.memories[m].attends() {
                out.resize(events * 2 * shape.options.key_size(), 0.0);
                pass.model.keys(threads, pass.member, m, inputs, out);
            }
        }
    }

    /// Pass 4 for one memory: contexts are copied from it, then events and carries into it.
    fn remember(&mut self, pass: &Pass<'_>, m: usize, room: &Room, context: &mut [f32]) {
        let (cell, moved, keys) = (&room.cells[m], &room.moved[m], &room.keys[m]);
        let (steps, layout) = (pass.steps, &pass.model.shape.memories[m]);
        let width = pass.model.cell(pass.member, m).map_or(0, Cell::carry_size);
        let entry_size = 2 * pass.model.shape.options.key_size();
        let mut step = 0;
        let mut labels = steps.labels.iter().zip(moved).peekable();
        for event in 0..=steps.times.len() {
            while let Some((_, slot)) = labels.next_if(|(label, _)| label.before <= event) {
                if let Some(slot) = *slot {
                    let state = self.memories[m].get_mut(slot as usize);
                    set(&mut state.carry, &cell.after[step * width..][..width]);
                    step += 1;
                }
            }
            if event == steps.times.len() {
                break;
            }
            let slot = steps.slots[layout.entity][event];
            if slot == NO_SLOT {
                continue;
            }
            let time_us = steps.times[event];
            let state = self.memories[m].get_mut(slot as usize);
            let context = pass.context(context, event);
            if !state.carry.is_empty() {
                let read = layout.carry.len();
                context[layout.carry.clone()].copy_from_slice(&state.carry[..read]);
            }
            if m == 0 {
                set(&mut state.carry, &cell.after[step * width..][..width]);
                step += 1;
            }
            if keys.is_empty() {
                continue;
            }
            context[layout.mask.clone()][..state.times.len()].fill(1.0);
            let ages = &mut context[layout.ages.clone()][..state.times.len()];
            elapsed_since(time_us, &state.times, ages);
            context[layout.ring.clone()][..state.ring.len()].copy_from_slice(&state.ring);
            state.push(
                time_us,
                &keys[event * entry_size..][..entry_size],
                layout.events(),
            );
        }
    }
}

/// The local number of `slot`, given out when first asked for.
fn local(locals: &mut [u32], slots: &mut Vec<u32>, slot: u32) -> u32 {
    let local = &mut locals[slot as usize];
    if *local == NO_SLOT {
        *local = slots.len() as u32;
        slots.push(slot);
    }
    *local
}

fn set(carry: &mut Vec<f32>, values: &[f32]) {
    if carry.is_empty() {
        carry.extend_from_slice(values);
    } else {
        carry.copy_from_slice(values);
    }
}
