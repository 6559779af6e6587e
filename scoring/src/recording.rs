//! A stream as compact rows in fold order: what training and evaluation read.

use sanderling_schemas::{FeatureBatch, FeatureSchema, NO_SLOT, Relation};
use sha2::{Digest, Sha256};

use crate::error::ScoringError;
use crate::inputs::feature_matrix;

/// The scored events and the labels of a stream, in the order in which the fold took them.
///
/// Built by pushing the batches that the feature engine made; about 4 bytes a feature and 20 an
/// event.
#[derive(Debug, Clone)]
pub struct Recording {
    schema: FeatureSchema,
    entities: Vec<String>,
    horizon_us: i64,
    features: Vec<f32>,
    /// For each entity, the slot of each event.
    slots: Vec<Vec<u32>>,
    times: Vec<i64>,
    sequences: Vec<u64>,
    labels: Vec<RecordedLabel>,
}

/// A label, at its place in the fold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RecordedLabel {
    /// Number of events folded before it.
    pub at: u32,
    /// The event it is about, by its number.
    pub of: u32,
    /// Its value.
    pub value: f32,
    /// When it became known, microseconds.
    pub time_us: i64,
}

/// What a scorer folds: some events, with the labels that become known among them.
pub(crate) struct Steps<'a> {
    /// Events x columns.
    pub(crate) features: &'a [f32],
    pub(crate) times: &'a [i64],
    pub(crate) sequences: &'a [u64],
    /// For each entity, the slot of each event.
    pub(crate) slots: Vec<&'a [u32]>,
    pub(crate) labels: Vec<LabelStep>,
}

/// A label among the events of [`Steps`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct LabelStep {
    /// Events of the steps that come before it.
    pub(crate) before: usize,
    /// Sequence of its event.
    pub(crate) of: u64,
    pub(crate) value: f32,
    pub(crate) time_us: i64,
}

impl Recording {
    /// A recording without rows.
    pub fn new(schema: &FeatureSchema, relation: &Relation) -> Self {
        Self {
            schema: schema.clone(),
            entities: relation
                .entities
                .iter()
                .map(|entity| entity.name.clone())
                .collect(),
            horizon_us: relation
                .labels
                .as_ref()
                .map_or(0, |labels| labels.horizon_us),
            features: Vec::new(),
            slots: vec![Vec::new(); relation.entities.len()],
            times: Vec::new(),
            sequences: Vec::new(),
            labels: Vec::new(),
        }
    }

    /// Appends the scored events and the labels of `batch`. A label of an event that is not in
    /// the recording is left out.
    pub fn push(&mut self, batch: &FeatureBatch) -> Result<(), ScoringError> {
        let fault = |message: &str| ScoringError::Batch {
            rows: batch.events.len(),
            message: message.to_string(),
        };
        if batch.features.num_columns() != self.schema.fields.len() {
            return Err(fault(
                "its features have another number of columns than the schema",
            ));
        }
        if batch.slots.len() != self.entities.len() {
            return Err(fault("it has slots for another number of entities"));
        }
        let first = batch.events.sequence.0;
        if self.sequences.last().is_some_and(|&last| first <= last) {
            return Err(fault("its rows do not follow the recording's"));
        }
        self.features.extend(feature_matrix(&batch.features)?);
        let times = batch.events.event_times_us();
        let from = self.times.len();
        for &row in &batch.scored {
            self.times.push(times[row as usize]);
            self.sequences.push(first + u64::from(row));
        }
        for (slots, of) in self.slots.iter_mut().zip(&batch.slots) {
            slots.extend(batch.scored.iter().map(|&row| of[row as usize]));
        }
        for label in &batch.labels {
            let before = batch.scored.partition_point(|&row| row < label.row);
            if let Ok(of) = self.sequences.binary_search(&label.of.0) {
                self.labels.push(RecordedLabel {
                    at: (from + before) as u32,
                    of: of as u32,
                    value: label.value,
                    time_us: times[label.row as usize],
                });
            }
        }
        Ok(())
    }

    /// Appends one event: its features (NaN is NULL), its slot of each entity, and its event time.
    pub fn push_event(&mut self, features: &[f32], slots: &[u32], time_us: i64) {
        assert_eq!(
            features.len(),
            self.schema.fields.len(),
            "a cell for each feature"
        );
        self.features.extend_from_slice(features);
        for (all, &slot) in self.slots.iter_mut().zip(slots) {
            all.push(slot);
        }
        self.times.push(time_us);
        self.sequences
            .push(self.sequences.last().map_or(0, |last| last + 1));
    }

    /// Appends the label of event `of`, which becomes known at `time_us`.
    pub fn push_label(&mut self, of: usize, value: f32, time_us: i64) {
        assert!(of < self.times.len(), "the event is in the recording");
        self.labels.push(RecordedLabel {
            at: self.times.len() as u32,
            of: of as u32,
            value,
            time_us,
        });
    }

    /// Number of events.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// No events.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// The columns of a feature row.
    pub fn schema(&self) -> &FeatureSchema {
        &self.schema
    }

    /// Entities, the events' own first.
    pub fn entities(&self) -> &[String] {
        &self.entities
    }

    /// How long an event can be labelled, microseconds.
    pub fn horizon_us(&self) -> i64 {
        self.horizon_us
    }

    /// The features of an event.
    pub fn features(&self, event: usize) -> &[f32] {
        let columns = self.schema.fields.len();
        &self.features[event * columns..][..columns]
    }

    /// Event times, microseconds.
    pub fn times_us(&self) -> &[i64] {
        &self.times
    }

    /// Sequence of each event.
    pub fn sequences(&self) -> &[u64] {
        &self.sequences
    }

    /// Slots of an entity, one an event.
    pub fn slots(&self, entity: usize) -> &[u32] {
        &self.slots[entity]
    }

    /// Labels in fold order.
    pub fn labels(&self) -> &[RecordedLabel] {
        &self.labels
    }

    /// The newest label of each event that became known before `to_us`; NaN where there is none.
    pub fn known_labels(&self, to_us: i64) -> Vec<f32> {
        let mut known = vec![f32::NAN; self.len()];
        for label in self.labels.iter().filter(|label| label.time_us < to_us) {
            known[label.of as usize] = label.value;
        }
        known
    }

    /// Adds all that it holds to `hash`.
    pub(crate) fn digest(&self, hash: &mut Sha256) {
        hash.update(self.schema.hash.as_bytes());
        hash.update(format!("{:?} {}", self.entities, self.horizon_us));
        for feature in &self.features {
            hash.update(feature.to_le_bytes());
        }
        for slot in self.slots.iter().flatten() {
            hash.update(slot.to_le_bytes());
        }
        for (time, sequence) in self.times.iter().zip(&self.sequences) {
            hash.update(time.to_le_bytes());
            hash.update(sequence.to_le_bytes());
        }
        for label in &self.labels {
            hash.update(label.at.to_le_bytes());
            hash.update(label.of.to_le_bytes());
            hash.update(label.value.to_le_bytes());
            hash.update(label.time_us.to_le_bytes());
        }
    }

    /// Number of events before the first that is at `to_us` or later.
    pub(crate) fn prefix(&self, to_us: i64) -> usize {
        self.times
            .iter()
            .position(|&time| time >= to_us)
            .unwrap_or(self.len())
    }

    /// The events `[from, to)` with the labels that come before each of them.
    pub(crate) fn steps(&self, from: usize, to: usize) -> Steps<'_> {
        let columns = self.schema.fields.len();
        let first = self
            .labels
            .partition_point(|label| (label.at as usize) < from);
        let labels = self.labels[first..]
            .iter()
            .take_while(|label| (label.at as usize) < to)
            .map(|label| LabelStep {
                before: label.at as usize - from,
                of: self.sequences[label.of as usize],
                value: label.value,
                time_us: label.time_us,
            })
            .collect();
        Steps {
            features: &self.features[from * columns..to * columns],
            times: &self.times[from..to],
            sequences: &self.sequences[from..to],
            slots: self.slots.iter().map(|slots| &slots[from..to]).collect(),
            labels,
        }
    }

    /// One more than the largest slot of an entity.
    pub(crate) fn slot_count(&self, entity: usize) -> usize {
        self.slots[entity]
            .iter()
            .filter(|&&slot| slot != NO_SLOT)
            .max()
            .map_or(0, |&s| s as usize + 1)
    }
}
