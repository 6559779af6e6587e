//! The scorer: a model and its memory, folded over the stream.
//!
//! A batch is scored in five passes. (1) Inputs, first stage and tokens of all rows. (2) In
//! order: which carry each row and label moves, and how long ago things were. (3) The carries, in
//! waves, and the keys and values, in one product. (4) In order: each row's context is copied from
//! memory before the row itself is written to it. (5) Attention and head over all rows. Only (2)
//! and (4) look at rows one after another, and they do no arithmetic to speak of; so half of all
//! events may be at one terminal and nothing waits.

mod fold;
mod view;

use std::sync::Arc;

use sanderling_schemas::{FeatureBatch, FeatureSchema, NO_SLOT, Relation, Rung, ScoreBatch};
use sanderling_state::{Paged, Restored, Snapshot, StateError, Threads};

use crate::cells::Cell;
use crate::device::Placement;
use crate::error::ScoringError;
use crate::front::Standardised;
use crate::inputs::{ModelInputs, feature_matrix};
use crate::memory::{Memory, Pending, PendingEvents};
use crate::recording::{LabelStep, Recording, Steps};
use crate::served::ServedModel;

use fold::Room;
pub use view::{MemorySummary, MemoryView};

/// Rows of a batch below which a thread of its own costs more than it gains.
const THREAD_ROWS_MIN: usize = 64;
/// Events of a recording that are folded together.
const FOLD_ROWS: usize = 512;

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
    threads: Threads,
    horizon_us: i64,
    members: Vec<MemberState>,
}

/// What one network of the model remembers.
#[derive(Debug)]
struct MemberState {
    memories: Vec<Paged<Memory>>,
    pending: PendingEvents,
    /// For each memory, the local number of each slot within a batch; [`NO_SLOT`] between batches.
    locals: Vec<Vec<u32>>,
    room: Room,
}

impl MemberState {
    fn new(memories: usize) -> Self {
        Self {
            memories: (0..memories).map(|_| Paged::default()).collect(),
            pending: PendingEvents::default(),
            locals: vec![Vec::new(); memories],
            room: Room::default(),
        }
    }
}

/// Names of a network's sections in a snapshot.
fn section(member: usize, name: &str) -> String {
    match member {
        0 => name.to_string(),
        member => format!("member.{member}.{name}"),
    }
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
        let horizon_us = relation
            .labels
            .as_ref()
            .map_or(0, |labels| labels.horizon_us);
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
        Self::with(
            model,
            recording.schema(),
            &entities,
            recording.horizon_us(),
            threads,
        )
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
            members: (0..model.members())
                .map(|_| MemberState::new(memories))
                .collect(),
            threads: Threads::named("scoring", threads, THREAD_ROWS_MIN),
            horizon_us,
            model,
        })
    }

    /// The model's version, by which its state is keyed.
    pub fn hash(&self) -> &str {
        self.model.hash()
    }

    /// The same scorer with the model's heads where `placement` says; what it remembers stays.
    ///
    /// # Errors
    /// [`ScoringError::Candle`] where the device does not take them.
    pub fn placed(mut self, placement: &Placement) -> Result<Self, ScoringError> {
        self.model = Arc::new(self.model.placed(placement)?);
        Ok(self)
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
            return Err(fault(
                "its features have another number of columns than the model's",
            ));
        }
        if batch.slots.len() != self.model.shape.entities.len() {
            return Err(fault(
                "it has slots for another number of entities than the model",
            ));
        }
        let features = feature_matrix(&batch.features)?;
        let all_times = batch.events.event_times_us();
        let first = batch.events.sequence.0;
        let times: Vec<i64> = batch
            .scored
            .iter()
            .map(|&row| all_times[row as usize])
            .collect();
        let sequences: Vec<u64> = batch
            .scored
            .iter()
            .map(|&row| first + u64::from(row))
            .collect();
        let slots: Vec<Vec<u32>> = batch
            .slots
            .iter()
            .map(|slots| {
                batch
                    .scored
                    .iter()
                    .map(|&row| slots[row as usize])
                    .collect()
            })
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
        let steps = Steps {
            features: &features,
            times: &times,
            sequences: &sequences,
            slots,
            labels,
        };
        let (rows, context) = self.fold(&steps);
        let scores = self
            .model
            .calibrated(self.outputs(&rows, &context, rung)?, rung);
        Ok(Scored {
            batch: ScoreBatch {
                output: self.model.output(),
                rung,
                scores,
            },
            inputs: ModelInputs {
                rows: times.len(),
                features,
                context,
            },
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
    ) -> Result<(), ScoringError> {
        for from in (from..to).step_by(FOLD_ROWS) {
            let to = (from + FOLD_ROWS).min(to);
            let (rows, context) = self.fold(&recording.steps(from, to));
            let outputs: Vec<Vec<f32>> = rungs
                .iter()
                .map(|&rung| self.outputs(&rows, &context, rung))
                .collect::<Result<_, _>>()?;
            let mut cells = vec![0.0; rungs.len()];
            for event in from..to {
                for (cell, output) in cells.iter_mut().zip(&outputs) {
                    *cell = output[event - from];
                }
                see(event, &cells);
            }
        }
        Ok(())
    }

    /// Pass 5: what `rung` puts out for standardised rows and their contexts, before calibration.
    fn outputs(
        &self,
        rows: &Standardised,
        context: &[f32],
        rung: Rung,
    ) -> Result<Vec<f32>, ScoringError> {
        let mut raw = match self.model.heads(rung) {
            Some(heads) => heads.raw(rows.all(), context, rung)?,
            None => self.in_parts(rows, context, |model, rows, context| {
                model.raw(rows, context, rung)
            }),
        };
        self.model.complete(&mut raw, rows.all(), rung);
        Ok(raw)
    }

    /// The state of this moment, by reference.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.add_value("model", self.hash().to_string());
        for (member, state) in self.members.iter().enumerate() {
            snapshot.add_value(&section(member, "newest_us"), state.pending.newest_us());
            let pending = state.pending.events();
            pending.snapshot(&section(member, "pending"), &mut snapshot);
            for (m, memory) in state.memories.iter().enumerate() {
                memory.snapshot(&section(member, &format!("memory.{m}")), &mut snapshot);
            }
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
        self.members = (0..self.members.len())
            .map(|member| self.restored(restored, member))
            .collect::<Result<_, _>>()?;
        Ok(())
    }

    fn restored(&self, restored: &Restored, member: usize) -> Result<MemberState, ScoringError> {
        let shape = &self.model.shape;
        let damaged = |what: &str| StateError::Damaged(format!("{what} of another size"));
        let part = |name: &str| restored.section(&section(member, name));
        let mut memories = Vec::new();
        for (m, layout) in shape.memories.iter().enumerate() {
            let memory = Paged::<Memory>::restore(part(&format!("memory.{m}"))?)?;
            let carry = self.model.cell(member, m).map_or(0, Cell::carry_size);
            let entry = 2 * shape.options.key_size();
            if !memory
                .iter()
                .all(|state| state.fits(carry, layout.events(), entry))
            {
                return Err(damaged("memory").into());
            }
            memories.push(memory);
        }
        let events = Paged::<Pending>::restore(part("pending")?)?;
        let slots_fit = |event: &Pending| {
            event
                .slots
                .iter()
                .zip(&memories[1..])
                .all(|(&slot, memory)| slot == NO_SLOT || (slot as usize) < memory.len())
        };
        if !events.iter().all(|event| {
            event.is_free() || (event.fits(memories.len() - 1, shape.token) && slots_fit(event))
        }) {
            return Err(damaged("pending event").into());
        }
        let locals = memories.iter().map(|memory| vec![NO_SLOT; memory.len()]);
        Ok(MemberState {
            pending: PendingEvents::restore(events, part("newest_us")?.value()?),
            locals: locals.collect(),
            memories,
            room: Room::default(),
        })
    }
}

#[cfg(test)]
mod referee;
#[cfg(test)]
mod tests;
