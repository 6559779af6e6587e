//! A small synthetic stream for tests, as feature batches.
//!
//! Cards pay at terminals. Now and then a terminal goes bad for a while, and then most of what is
//! paid there is positive; nothing of the event itself shows it. A label comes after a fixed delay,
//! so only what an endpoint's labels told can foretell. Large amounts are positive too.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, DictionaryArray, Float64Array, Int8Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Int8Type};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sanderling_schemas::{
    Entity, EventBatch, EventId, FeatureBatch, FeatureField, FeatureSchema, KnownLabel,
    LabelColumns, NO_SLOT, Offset, Partition, Relation, Sequence, Stream as RelationStream,
};

use crate::manifest::TrainingMetrics;
use crate::options::{ModelOptions, TrainingOptions};
use crate::recording::Recording;
use crate::scorer::Scorer;
use crate::served::ServedModel;
use crate::train::{TrainingPlan, train};

pub(crate) const MINUTE_US: i64 = 60_000_000;

enum Row {
    Event { features: Vec<f32>, slots: Vec<u32> },
    Label { of: u64, value: f32 },
}

/// Rows in fold order; a row's sequence is its number.
pub(crate) struct Stream {
    rows: Vec<(i64, Row)>,
    pub(crate) schema: FeatureSchema,
    pub(crate) relation: Relation,
}

/// Columns by name, entity, and whether they are of labels.
pub(crate) fn schema(fields: &[(&str, Option<usize>, bool)]) -> FeatureSchema {
    let fields = fields
        .iter()
        .map(|&(name, entity, from_label)| FeatureField {
            name: name.to_string(),
            data_type: DataType::Float64,
            entity,
            from_label,
        })
        .collect();
    FeatureSchema {
        fields,
        hash: "0123456789abcdef".into(),
    }
}

pub(crate) fn relation(entities: &[&str], horizon_us: i64) -> Relation {
    let stream = |name: &str, scored| RelationStream {
        name: name.into(),
        scored,
        key: None,
    };
    let entity = |name: &&str| Entity {
        name: name.to_string(),
        key: format!("{name}_id"),
    };
    Relation {
        schema: Relation::schema_of(&[]),
        streams: vec![stream("events", true), stream("labels", false)],
        id: None,
        entities: entities.iter().map(entity).collect(),
        labels: Some(LabelColumns {
            stream: 1,
            reference: "of".to_string(),
            value: "value".to_string(),
            horizon_us,
        }),
        lateness_us: 0,
        late_rows: sanderling_schemas::LateRows::Decide,
        rows_per_key_max: None,
    }
}

/// Payments of 40 cards at 12 terminals and 7 devices, one a minute, labels after two hours.
pub(crate) fn payments(events: usize, seed: u64) -> Stream {
    let delay_us = 120 * MINUTE_US;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut rows: Vec<(i64, Row)> = Vec::new();
    let mut waiting: std::collections::VecDeque<(i64, u64, f32)> = Default::default();
    let mut bad_until = [0i64; 12];
    let mut counts = [0u32; 40];
    for event in 0..events {
        // Some events come out of order.
        let jitter = if rng.random_bool(0.1) {
            rng.random_range(0..5 * MINUTE_US)
        } else {
            0
        };
        let now = event as i64 * MINUTE_US;
        while waiting.front().is_some_and(|label| label.0 <= now) {
            let (time, of, value) = waiting.pop_front().expect("front was there");
            rows.push((time, Row::Label { of, value }));
        }
        let (card, terminal) = (rng.random_range(0..40usize), rng.random_range(0..12usize));
        if rng.random_bool(0.002) {
            bad_until[rng.random_range(0..12)] = now + 1500 * MINUTE_US;
        }
        let amount: f32 = rng.random_range(0.0f32..5.0).exp();
        let positive = (bad_until[terminal] > now && rng.random_bool(0.8)) || amount > 135.0;
        counts[card] += 1;
        let features = vec![
            amount,
            if rng.random_bool(0.2) {
                f32::NAN
            } else {
                rng.random_range(-3.0..3.0)
            },
            (counts[card] as f32).min(50.0),
            rng.random_range(0..9) as f32,
        ];
        let device = if rng.random_bool(0.1) {
            NO_SLOT
        } else {
            rng.random_range(0..7)
        };
        waiting.push_back((
            now + delay_us,
            rows.len() as u64,
            if positive { 1.0 } else { 0.0 },
        ));
        let slots = vec![card as u32, terminal as u32, device];
        rows.push((now - jitter, Row::Event { features, slots }));
    }
    Stream {
        rows,
        schema: schema(&[
            ("amount", None, false),
            ("noise", None, false),
            ("card_count", Some(0), false),
            ("terminal_rate", Some(1), true),
        ]),
        relation: relation(&["card", "terminal", "device"], 100 * delay_us),
    }
}

/// Three machines with 38 channels each: three waves, shifted, one row a second, no labels.
pub(crate) fn telemetry(rows: usize, seed: u64) -> Stream {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let rows = (0..rows)
        .map(|row| {
            let (machine, t) = ((row % 3) as u32, (row / 3) as f32);
            let features = (0..38)
                .map(|channel| {
                    let phase =
                        t * [0.11, 0.19, 0.31][channel % 3] + (channel + machine as usize) as f32;
                    phase.sin() + rng.random_range(-0.05..0.05)
                })
                .collect();
            (
                row as i64 * 333_333,
                Row::Event {
                    features,
                    slots: vec![machine],
                },
            )
        })
        .collect();
    let names: Vec<String> = (0..38).map(|channel| format!("c{channel}")).collect();
    let fields: Vec<_> = names
        .iter()
        .map(|name| (name.as_str(), None, false))
        .collect();
    let mut relation = relation(&["machine"], 0);
    relation.labels = None;
    Stream {
        rows,
        schema: schema(&fields),
        relation,
    }
}

impl Stream {
    /// The same stream with so many endpoints beside the card: the first of them, or those and further ones at which
    /// one card in four never pays.
    pub(crate) fn with_endpoints(mut self, endpoints: usize) -> Self {
        for (_, row) in &mut self.rows {
            let Row::Event { slots, .. } = row else {
                continue;
            };
            let (card, terminal) = (slots[0], slots[1]);
            slots.truncate(1 + endpoints);
            while slots.len() <= endpoints {
                slots.push(match card % 4 {
                    0 => NO_SLOT,
                    _ => (card + terminal) % 5,
                });
            }
        }
        let entities = &mut self.relation.entities;
        entities.truncate(1 + endpoints);
        while entities.len() <= endpoints {
            let name = format!("endpoint_{}", entities.len());
            let key = format!("{name}_id");
            entities.push(Entity { name, key });
        }
        for field in &mut self.schema.fields {
            field.entity = field.entity.filter(|&entity| entity <= endpoints);
        }
        self
    }

    /// The same stream with events of so many cards at so many terminals in turn, so that hundreds of events in a row
    /// share neither.
    pub(crate) fn in_turn(mut self, cards: u32, terminals: u32) -> Self {
        let mut event = 0;
        for (_, row) in &mut self.rows {
            if let Row::Event { slots, .. } = row {
                (slots[0], slots[1]) = (event % cards, event % terminals);
                event += 1;
            }
        }
        self
    }

    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// The rows `[from, to)` as the feature engine would give them.
    pub(crate) fn batch(&self, from: usize, to: usize) -> FeatureBatch {
        let rows = &self.rows[from..to];
        let keys = |of: u64| match &self.rows[of as usize].1 {
            Row::Event { slots, .. } => slots.clone(),
            Row::Label { .. } => unreachable!("labels are of events"),
        };
        let mut slots = vec![Vec::new(); self.relation.entities.len()];
        let (mut scored, mut labels, mut columns) = (
            Vec::new(),
            Vec::new(),
            vec![Vec::new(); self.schema.fields.len()],
        );
        let mut streams = Vec::new();
        for (row, (_, kind)) in rows.iter().enumerate() {
            let own = match kind {
                Row::Event { features, slots } => {
                    scored.push(row as u32);
                    for (column, &x) in columns.iter_mut().zip(features) {
                        column.push((!x.is_nan()).then_some(f64::from(x)));
                    }
                    slots.clone()
                }
                Row::Label { of, value } => {
                    let of = Sequence(*of);
                    labels.push(KnownLabel {
                        row: row as u32,
                        of,
                        value: *value,
                        reversal: false,
                    });
                    keys(of.0)
                }
            };
            streams.push(i8::from(matches!(kind, Row::Label { .. })));
            for (slots, own) in slots.iter_mut().zip(own) {
                slots.push(own);
            }
        }
        let names: ArrayRef = Arc::new(StringArray::from(vec!["events", "labels"]));
        let streams = DictionaryArray::<Int8Type>::new(Int8Array::from(streams), names);
        let times = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.0));
        let event_rows = RecordBatch::try_new(
            self.relation.schema.clone(),
            vec![Arc::new(times), Arc::new(streams)],
        )
        .expect("columns fit the schema");
        let features = self
            .schema
            .fields
            .iter()
            .zip(columns)
            .map(|(field, column)| {
                (
                    field.name.clone(),
                    Arc::new(Float64Array::from(column)) as ArrayRef,
                )
            });
        let id = |row: usize| EventId {
            topic: "t".into(),
            partition: Partition(0),
            offset: Offset(row as i64),
        };
        FeatureBatch {
            too_late: Vec::new(),
            events: EventBatch {
                rows: event_rows,
                ids: (from..to).map(id).collect(),
                sequence: Sequence(from as u64),
                broker_time_us: Vec::new(),
            },
            late: vec![false; scored.len()],
            capped: vec![false; scored.len()],
            scored,
            features: RecordBatch::try_from_iter_with_nullable(
                features.map(|(name, column)| (name, column, true)),
            )
            .expect("columns have one length"),
            slots,
            labels,
        }
    }

    pub(crate) fn recording(&self) -> Recording {
        let mut recording = Recording::new(&self.schema, &self.relation);
        for from in (0..self.len()).step_by(100) {
            let batch = self.batch(from, (from + 100).min(self.len()));
            recording.push(&batch).expect("a batch of the schema");
        }
        recording
    }
}

/// Small sizes and few epochs.
pub(crate) fn small(epochs: usize) -> ModelOptions {
    ModelOptions {
        token: Some(8),
        lstm: 8,
        gru: 6,
        first_stage: 8,
        own_events: 5,
        endpoint_events: 6,
        heads: 2,
        head_size: 3,
        hidden: [24, 12],
        training: TrainingOptions {
            epochs: Some(epochs),
            batch: Some(64),
            negatives: Some(1.0),
            endpoint_steps: 6,
            own_steps: 4,
            refresh_epochs: 2,
            rate: 1e-2,
            average: 0.98,
            ..TrainingOptions::default()
        },
        ..ModelOptions::default()
    }
}

/// A model trained on the first `share` of the recording.
pub(crate) fn model(recording: &Recording, options: &ModelOptions, share: f64) -> ServedModel {
    let times = recording.times_us();
    let to_us = times[(recording.len() as f64 * share) as usize];
    let plan = TrainingPlan {
        from_us: i64::MIN,
        to_us,
        known_by_us: to_us,
        seed: 7,
    };
    let model =
        train(recording, options, &plan, None, &mut |_| {}).expect("the stream can be learnt");
    assert_ne!(model.manifest().metrics, TrainingMetrics::default());
    model
}

/// A scorer of a stream that has seen nothing.
pub(crate) fn scorer(stream: &Stream, model: &Arc<ServedModel>, threads: usize) -> Scorer {
    let scorer = Scorer::new(model.clone(), &stream.schema, &stream.relation, threads);
    scorer.expect("the model is one of the stream's")
}

/// All that a scorer remembers, as bytes.
pub(crate) fn state(scorer: &Scorer) -> Vec<u8> {
    let mut bytes = Vec::new();
    let written = scorer.snapshot().write_arrow(&mut bytes);
    written.expect("memory takes it");
    bytes
}
