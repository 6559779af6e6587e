//! The scorer: a model and its memory, folded over the stream.
//!
//! A batch is scored in five passes. (1) Inputs, first stage and tokens of all rows. (2) In
//! order: which carry each row and label moves, and how long ago things were. (3) The carries, in
//! waves, and the keys and values, in one product. (4) In order: each row's context is copied from
//! memory before the row itself is written to it. (5) Attention and head over all rows. Only (2)
//! and (4) look at rows one after another, and they do no arithmetic to speak of; so half of all
//! events may be at one terminal and nothing waits.

use std::sync::Arc;

use sanderling_schemas::{
    FeatureBatch, FeatureSchema, NO_SLOT, Output, Relation, Rung, ScoreBatch,
};
use sanderling_state::{Paged, Restored, Snapshot, StateError};

use crate::architecture::MemoryLayout;
use crate::error::ScoringError;
use crate::front::{Standardised, StandardisedRows};
use crate::inputs::{ModelInputs, feature_matrix};
use crate::memory::{Memory, PendingEvents, elapsed};
use crate::recording::{LabelStep, Recording, Steps};
use crate::served::ServedModel;

/// Rows below which splitting a batch over threads costs more than it gains.
const THREAD_ROWS_MIN: usize = 64;
/// Events of a recording that are folded together.
const FOLD_ROWS: usize = 512;
/// Puts the first stage's log-odds on the scale of the other inputs.
pub(crate) const FIRST_STAGE_SCALE: f32 = 1.0 / 3.0;

/// Scores, and what they were made of.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// One score for each scored row.
    pub batch: ScoreBatch,
    /// What the model saw of each scored row: its features, and memory as it was before the row.
    pub inputs: ModelInputs,
}

/// A model with its state. State depends on the rows alone: neither the rung nor the batches nor
/// the number of threads changes it.
#[derive(Debug)]
pub struct Scorer {
    model: Arc<ServedModel>,
    threads: usize,
    horizon_us: i64,
    memories: Vec<Paged<Memory>>,
    pending: PendingEvents,
    /// For each memory, the local number of each slot within a batch; [`NO_SLOT`] between batches.
    locals: Vec<Vec<u32>>,
}

/// Steps of one memory's cell within a batch.
#[derive(Default)]
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
    /// A scorer with empty memory.
    ///
    /// # Errors
    /// [`ScoringError::OtherFeatures`] and [`ScoringError::OtherEntities`] where the model was
    /// trained on something else, [`ScoringError::FeatureType`] for a feature that is no number.
    pub fn new(
        model: Arc<ServedModel>,
        schema: &FeatureSchema,
        relation: &Relation,
        threads: usize,
    ) -> Result<Self, ScoringError> {
        let entities: Vec<&str> = relation.entities.iter().map(|e| e.name.as_str()).collect();
        let horizon_us = relation.labels.as_ref().map_or(0, |labels| labels.horizon_us);
        let empty = arrow::array::RecordBatch::new_empty(Arc::new(arrow::datatypes::Schema::new(
            schema
                .fields
                .iter()
                .map(|f| arrow::datatypes::Field::new(&f.name, f.data_type.clone(), true))
                .collect::<Vec<_>>(),
        )));
        feature_matrix(&empty)?;
        Self::with(model, schema, &entities, horizon_us, threads)
    }

    /// A scorer for the rows of a recording.
    pub(crate) fn of_recording(
        model: Arc<ServedModel>,
        recording: &Recording,
        threads: usize,
    ) -> Result<Self, ScoringError> {
        let entities: Vec<&str> = recording.entities().iter().map(String::as_str).collect();
        Self::with(model, recording.schema(), &entities, recording.horizon_us(), threads)
    }

    fn with(
        model: Arc<ServedModel>,
        schema: &FeatureSchema,
        entities: &[&str],
        horizon_us: i64,
        threads: usize,
    ) -> Result<Self, ScoringError> {
        let manifest = model.manifest();
        let names = manifest.inputs.iter().map(|input| input.name.as_str());
        if manifest.features != *schema.hash
            || !names.eq(schema.fields.iter().map(|f| f.name.as_str()))
        {
            return Err(ScoringError::OtherFeatures {
                trained: manifest.features.clone(),
                given: schema.hash.to_string(),
            });
        }
        if manifest.entities != entities {
            return Err(ScoringError::OtherEntities {
                trained: manifest.entities.join(", "),
                given: entities.join(", "),
            });
        }
        let memories = model.shape.memories.len();
        Ok(Self {
            memories: (0..memories).map(|_| Paged::default()).collect(),
            locals: vec![Vec::new(); memories],
            pending: PendingEvents::default(),
            threads: threads.max(1),
            horizon_us,
            model,
        })
    }

    /// The model's version, by which its state is keyed.
    pub fn hash(&self) -> &str {
        self.model.hash()
    }

    /// The model.
    pub fn model(&self) -> &Arc<ServedModel> {
        &self.model
    }

    /// Scores the batch's scored rows on `rung`, then has its events and labels in memory.
    ///
    /// # Errors
    /// [`ScoringError::Batch`] and [`ScoringError::FeatureType`] for a batch of other features;
    /// memory is then as it was.
    pub fn score(&mut self, batch: &FeatureBatch, rung: Rung) -> Result<Scored, ScoringError> {
        let fault = |message: &str| ScoringError::Batch {
            rows: batch.events.len(),
            message: message.to_string(),
        };
        if batch.features.num_columns() != self.model.columns() {
            return Err(fault("its features have another number of columns than the model's"));
        }
        if batch.slots.len() != self.model.shape.entities.len() {
            return Err(fault("it has slots for another number of entities than the model"));
        }
        let features = feature_matrix(&batch.features)?;
        let all_times = batch.events.event_times_us();
        let first = batch.events.sequence.0;
        let times: Vec<i64> = batch.scored.iter().map(|&row| all_times[row as usize]).collect();
        let sequences: Vec<u64> = batch.scored.iter().map(|&row| first + u64::from(row)).collect();
        let slots: Vec<Vec<u32>> = batch
            .slots
            .iter()
            .map(|slots| batch.scored.iter().map(|&row| slots[row as usize]).collect())
            .collect();
        let labels = batch
            .labels
            .iter()
            .map(|label| LabelStep {
                before: batch.scored.partition_point(|&row| row < label.row),
                of: label.of.0,
                value: label.value,
                time_us: all_times[label.row as usize],
            })
            .collect();
        let slots = slots.iter().map(Vec::as_slice).collect();
        let steps =
            Steps { features: &features, times: &times, sequences: &sequences, slots, labels };
        let (rows, context) = self.fold(&steps);
        let scores = self
            .in_parts(&rows, &context, |model, rows, context| model.scores(rows, context, rung));
        Ok(Scored {
            batch: ScoreBatch { output: self.model.output(), rung, scores },
            inputs: ModelInputs { rows: times.len(), features, context },
        })
    }

    /// Folds the events `[from, to)` of a recording and gives each one's output on `rung` before
    /// calibration to `see`, in order.
    pub(crate) fn fold_recording(
        &mut self,
        recording: &Recording,
        (from, to): (usize, usize),
        rungs: &[Rung],
        mut see: impl FnMut(usize, &[f32]),
    ) {
        for from in (from..to).step_by(FOLD_ROWS) {
            let to = (from + FOLD_ROWS).min(to);
            let (rows, context) = self.fold(&recording.steps(from, to));
            let outputs: Vec<Vec<f32>> = rungs
                .iter()
                .map(|&rung| {
                    self.in_parts(&rows, &context, |m, rows, context| m.raw(rows, context, rung))
                })
                .collect();
            let mut cells = vec![0.0; rungs.len()];
            for event in from..to {
                for (cell, output) in cells.iter_mut().zip(&outputs) {
                    *cell = output[event - from];
                }
                see(event, &cells);
            }
        }
    }

    /// Passes 1 to 4: the inputs and contexts of the events, which then are in memory.
    fn fold(&mut self, steps: &Steps<'_>) -> (Standardised, Vec<f32>) {
        let model = self.model.clone();
        let rows = model.front.standardise(steps.features);
        let both = self.in_parts(&rows, &[], |model, rows, _| {
            vec![(model.first_stage(rows), model.tokens(rows))]
        });
        let (mut first, mut tokens) = (Vec::new(), Vec::new());
        for (some_first, some_tokens) in both {
            first.extend(some_first);
            tokens.extend(some_tokens);
        }
        let mut context = vec![0.0; steps.times.len() * model.context_size()];
        let (mut cells, moved) = self.plan(steps, &first, &tokens, &mut context);
        for (m, cell_steps) in cells.iter_mut().enumerate() {
            self.advance(m, cell_steps);
        }
        let keys = self.keys(steps, &first, &tokens, &cells[0]);
        for (m, layout) in model.shape.memories.iter().enumerate() {
            self.remember(m, layout, steps, &cells[m], &moved, keys.get(m), &mut context);
        }
        (rows, context)
    }

    /// Pass 2. Gives the steps of each memory's cell and, for each label, whether it moves each
    /// endpoint's carry; writes the scalars of the contexts.
    fn plan(
        &mut self,
        steps: &Steps<'_>,
        first: &[f32],
        tokens: &[f32],
        context: &mut [f32],
    ) -> (Vec<CellSteps>, Vec<Vec<Option<u32>>>) {
        let model = self.model.clone();
        let shape = &model.shape;
        let (memories, token_size, context_size) =
            (shape.memories.len(), shape.options.token, shape.context_size());
        for (m, layout) in shape.memories.iter().enumerate() {
            let slots = steps.slots[layout.entity].iter().filter(|&&slot| slot != NO_SLOT);
            if let Some(&max) = slots.max() {
                self.memories[m].grow_to(max as usize + 1);
            }
            self.locals[m].resize(self.memories[m].len(), NO_SLOT);
        }
        let has_labels = memories > 1 && shape.options.output != Output::Forecast;
        let mut cells: Vec<CellSteps> = (0..memories).map(|_| CellSteps::default()).collect();
        let mut moved = vec![vec![None; steps.labels.len()]; memories];
        let mut labels = steps.labels.iter().enumerate().peekable();
        for event in 0..=steps.times.len() {
            while let Some((number, label)) = labels.next_if(|(_, label)| label.before <= event) {
                if !has_labels {
                    continue;
                }
                self.pending.advance(label.time_us, self.horizon_us);
                let Self { memories: states, pending, locals, .. } = self;
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
                        cell.inputs.extend_from_slice(&of.token);
                        cell.inputs.extend([
                            of.first_stage * FIRST_STAGE_SCALE,
                            model.label_input(label.value),
                            if state.steps > 0 {
                                elapsed(label.time_us - state.last_us)
                            } else {
                                0.0
                            },
                            elapsed(label.time_us - of.time_us),
                        ]);
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
            let context = &mut context[event * context_size..][..context_size];
            let token = &tokens[event * token_size..][..token_size];
            for (m, layout) in shape.memories.iter().enumerate() {
                let slot = steps.slots[layout.entity][event];
                if slot == NO_SLOT {
                    continue;
                }
                let state = self.memories[m].get(slot as usize);
                let (steps_taken, last_us) = (state.steps, state.last_us);
                let since = if steps_taken > 0 { elapsed(time_us - last_us) } else { 0.0 };
                if m > 0 {
                    context[layout.scalars.clone()].copy_from_slice(&[known(steps_taken), since]);
                    continue;
                }
                let seen = if steps_taken > 0 { 1.0 } else { 0.0 };
                context[layout.scalars.clone()].copy_from_slice(&[seen, since]);
                let cell = &mut cells[0];
                cell.of.push(local(&mut self.locals[0], &mut cell.slots, slot));
                cell.inputs.extend_from_slice(token);
                cell.inputs.extend([first[event] * FIRST_STAGE_SCALE, since]);
                let state = self.memories[0].get_mut(slot as usize);
                state.last_us = if steps_taken > 0 { last_us.max(time_us) } else { time_us };
                state.steps += 1;
            }
            if has_labels {
                self.pending.advance(time_us, self.horizon_us);
                let slots =
                    shape.memories[1..].iter().map(|layout| steps.slots[layout.entity][event]);
                self.pending.insert(steps.sequences[event], time_us, first[event], slots, token);
            }
        }
        for (m, cell) in cells.iter().enumerate() {
            for &slot in &cell.slots {
                self.locals[m][slot as usize] = NO_SLOT;
            }
        }
        (cells, moved)
    }

    /// Pass 3 for one memory: its carries move on.
    fn advance(&mut self, m: usize, steps: &mut CellSteps) {
        let model = &self.model;
        let Some(cell) = model.cells.get(m) else {
            return;
        };
        let width = cell.carry_size();
        let mut carries = vec![0.0; steps.slots.len() * width];
        for (carry, &slot) in carries.chunks_exact_mut(width).zip(&steps.slots) {
            let state = self.memories[m].get(slot as usize);
            if !state.carry.is_empty() {
                carry.copy_from_slice(&state.carry);
            }
        }
        steps.before.resize(steps.of.len() * width, 0.0);
        steps.after.resize(steps.of.len() * width, 0.0);
        cell.advance(&mut carries, &steps.of, &steps.inputs, &mut steps.before, &mut steps.after);
    }

    /// Pass 3: key and value of each event for each memory, events x 2 key sizes.
    fn keys(
        &self,
        steps: &Steps<'_>,
        first: &[f32],
        tokens: &[f32],
        own: &CellSteps,
    ) -> Vec<Vec<f32>> {
        let shape = &self.model.shape;
        if shape.options.output == Output::Forecast {
            return Vec::new();
        }
        let (token_size, hidden) = (shape.options.token, shape.options.lstm);
        let events = steps.times.len();
        let mut inputs = Vec::with_capacity(events * shape.key_input_size());
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
        (0..shape.memories.len())
            .map(|m| {
                let mut out = vec![0.0; events * 2 * shape.options.key_size()];
                self.model.keys(m, &inputs, &mut out);
                out
            })
            .collect()
    }

    /// Pass 4 for one memory: contexts are copied from it, then events and carries into it.
    #[allow(clippy::too_many_arguments)]
    fn remember(
        &mut self,
        m: usize,
        layout: &MemoryLayout,
        steps: &Steps<'_>,
        cell: &CellSteps,
        moved: &[Vec<Option<u32>>],
        keys: Option<&Vec<f32>>,
        context: &mut [f32],
    ) {
        let context_size = self.model.context_size();
        let width = self.model.cells.get(m).map_or(0, crate::cells::Cell::carry_size);
        let entry_size = layout.ring.len() / layout.events();
        let mut step = 0;
        let mut labels = steps.labels.iter().zip(&moved[m]).peekable();
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
            let context = &mut context[event * context_size..][..context_size];
            if !state.carry.is_empty() {
                let read = layout.carry.len();
                context[layout.carry.clone()].copy_from_slice(&state.carry[..read]);
            }
            if m == 0 {
                set(&mut state.carry, &cell.after[step * width..][..width]);
                step += 1;
            }
            let Some(keys) = keys else { continue };
            context[layout.mask.clone()][..state.times.len()].fill(1.0);
            for (i, at) in state.newest_first().enumerate() {
                context[layout.ages.start + i] = elapsed(time_us - state.times[at]);
                context[layout.ring.start + i * entry_size..][..entry_size]
                    .copy_from_slice(&state.ring[at * entry_size..][..entry_size]);
            }
            state.push(time_us, &keys[event * entry_size..][..entry_size], layout.events());
        }
    }

    /// Runs `work` over the rows, in as many parts as there are threads, and joins what it gives.
    fn in_parts<T: Send>(
        &self,
        rows: &Standardised,
        context: &[f32],
        work: impl Fn(&ServedModel, StandardisedRows<'_>, &[f32]) -> Vec<T> + Sync,
    ) -> Vec<T> {
        let model = &*self.model;
        let width = model.shape.inputs.len();
        let n = rows.z.len() / width;
        let context_size = if context.is_empty() { 0 } else { model.context_size() };
        let parts = self.threads.min(n / THREAD_ROWS_MIN).max(1);
        let part = |from: usize, to: usize| {
            let rows = rows.all().slice(from, to - from, width);
            work(model, rows, &context[from * context_size..to * context_size])
        };
        if parts == 1 {
            return part(0, n);
        }
        let size = n.div_ceil(parts);
        std::thread::scope(|scope| {
            let part = &part;
            let others: Vec<_> = (1..parts)
                .map(|i| scope.spawn(move || part((i * size).min(n), ((i + 1) * size).min(n))))
                .collect();
            let mut out = part(0, size);
            for other in others {
                out.extend(other.join().expect("scoring does not panic"));
            }
            out
        })
    }

    /// The state of this moment, by reference.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.add_value("model", self.hash().to_string());
        snapshot.add_value("newest_us", self.pending.newest_us());
        self.pending.events().snapshot("pending", &mut snapshot);
        for (m, memory) in self.memories.iter().enumerate() {
            memory.snapshot(&format!("memory.{m}"), &mut snapshot);
        }
        snapshot
    }

    /// Takes over the state of a snapshot.
    ///
    /// # Errors
    /// [`ScoringError::State`] for a snapshot that is damaged or another model's; the state is
    /// then as it was.
    pub fn restore(&mut self, restored: &Restored) -> Result<(), ScoringError> {
        let hash: String = restored.section("model")?.value()?;
        if hash != self.hash() {
            let message = format!("state of model {hash}, but the model is {}", self.hash());
            return Err(StateError::Mismatch(message).into());
        }
        let shape = &self.model.shape;
        let damaged = |what: &str| StateError::Damaged(format!("{what} of another size"));
        let mut memories = Vec::new();
        for (m, layout) in shape.memories.iter().enumerate() {
            let memory = Paged::<Memory>::restore(restored.section(&format!("memory.{m}"))?)?;
            let carry = self.model.cells.get(m).map_or(0, crate::cells::Cell::carry_size);
            let entry = 2 * shape.options.key_size();
            if !memory.iter().all(|state| state.fits(carry, layout.events(), entry)) {
                return Err(damaged("memory").into());
            }
            memories.push(memory);
        }
        let events = Paged::<crate::memory::Pending>::restore(restored.section("pending")?)?;
        let slots_fit = |event: &crate::memory::Pending| {
            event
                .slots
                .iter()
                .zip(&memories[1..])
                .all(|(&slot, memory)| slot == NO_SLOT || (slot as usize) < memory.len())
        };
        if !events.iter().all(|event| {
            event.is_free()
                || (event.fits(memories.len() - 1, shape.options.token) && slots_fit(event))
        }) {
            return Err(damaged("pending event").into());
        }
        self.pending = PendingEvents::restore(events, restored.section("newest_us")?.value()?);
        for (locals, memory) in self.locals.iter_mut().zip(&memories) {
            *locals = vec![NO_SLOT; memory.len()];
        }
        self.memories = memories;
        Ok(())
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

/// How many known labels, to a network.
pub(crate) fn known(labels: u32) -> f32 {
    (labels as f32).ln_1p() / 3.0
}

fn set(carry: &mut Vec<f32>, values: &[f32]) {
    if carry.is_empty() {
        carry.extend_from_slice(values);
    } else {
        carry.copy_from_slice(values);
    }
}

#[cfg(test)]
mod tests;
