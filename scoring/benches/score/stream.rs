//! A stream of payments that costs nothing to make, and models for it: what the bench and the test of allocations score.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, DictionaryArray, Float64Array, Int8Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Int8Type};
use sanderling_schemas::{
    Entity, EventBatch, EventId, FeatureBatch, FeatureField, FeatureSchema, KnownLabel,
    LabelColumns, LateRows, Offset, Partition, Relation, Sequence, Stream,
};
use sanderling_scoring::{
    ModelOptions, Recording, ServedModel, TrainingOptions, TrainingPlan, train,
};

pub const FEATURES: usize = 40;
/// A label comes this many events after its event.
pub const LABEL_DELAY: u64 = 20_000;
const MINUTE_US: i64 = 60_000_000;

/// A number below `n`, scrambled from a counter (splitmix64).
fn pick(n: u64, counter: u64) -> u32 {
    let mut x = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ (x >> 31)) % n) as u32
}

fn features(event: u64) -> [f32; FEATURES] {
    std::array::from_fn(|f| match f % 5 {
        0 => pick(100_000, event * 41 + f as u64) as f32 * 0.01,
        1 if pick(10, event * 43 + f as u64) == 0 => f32::NAN,
        1 => pick(1_000, event * 47 + f as u64) as f32 * 0.003,
        2 => pick(30, event * 53 + f as u64) as f32,
        3 => pick(2, event * 59 + f as u64) as f32,
        _ => pick(100_000, event * 61 + f as u64) as f32 * 0.1 - 3_000.0,
    })
}

/// Who pays where.
#[derive(Clone, Copy)]
pub struct Traffic {
    pub cards: u64,
    pub terminals: u64,
    /// Half of all events are at one terminal.
    pub crowded: bool,
}

impl Traffic {
    pub const SPREAD: Self = Self {
        cards: 5_000,
        terminals: 10_000,
        crowded: false,
    };
    pub const CROWDED: Self = Self {
        crowded: true,
        ..Self::SPREAD
    };

    fn slots(self, event: u64) -> [u32; 2] {
        let terminal = match self.crowded && event.is_multiple_of(2) {
            true => 0,
            false => pick(self.terminals, event * 71 + 7),
        };
        [pick(self.cards, event * 67 + 3), terminal]
    }
}

pub fn schema() -> FeatureSchema {
    let field = |i: usize| FeatureField {
        name: format!("f{i}"),
        data_type: DataType::Float64,
        entity: [None, Some(0), Some(1)][i % 3],
        from_label: i % 6 == 2,
    };
    FeatureSchema {
        fields: (0..FEATURES).map(field).collect(),
        hash: "bench".into(),
    }
}

pub fn relation() -> Relation {
    let stream = |name: &str, scored| Stream {
        name: name.into(),
        scored,
        key: None,
    };
    let entity = |name: &str| Entity {
        name: name.to_string(),
        key: format!("{name}_id"),
    };
    Relation {
        schema: Relation::schema_of(&[]),
        streams: vec![stream("events", true), stream("labels", false)],
        id: None,
        entities: vec![entity("card"), entity("terminal")],
        labels: Some(LabelColumns {
            stream: 1,
            reference: "of".to_string(),
            value: "value".to_string(),
            horizon_us: 1 << 50,
        }),
        lateness_us: 0,
        late_rows: LateRows::Decide,
        rows_per_key_max: None,
    }
}

/// The sizes to measure: a card remembered by an LSTM, and attention over sixteen events on both sides.
pub fn whole() -> ModelOptions {
    ModelOptions {
        lstm: 64,
        own_events: 16,
        endpoint_events: 16,
        ..ModelOptions::default()
    }
}

/// What `pipelines/fraud-handbook` has: nothing but what a terminal's known labels tell is remembered.
pub fn labels_only(members: usize) -> ModelOptions {
    ModelOptions {
        lstm: 0,
        own_events: 0,
        endpoint_events: 0,
        members,
        ..ModelOptions::default()
    }
}

/// A model of these sizes; how well it scores does not matter here.
pub fn model(options: ModelOptions) -> ServedModel {
    let mut recording = Recording::new(&schema(), &relation());
    for event in 0..2_000u64 {
        recording.push_event(
            &features(event),
            &Traffic::SPREAD.slots(event),
            event as i64 * MINUTE_US,
        );
        let label = if pick(20, event * 73) == 0 { 1.0 } else { 0.0 };
        recording.push_label(event as usize, label, event as i64 * MINUTE_US + 1);
    }
    let options = ModelOptions {
        training: TrainingOptions {
            epochs: Some(1),
            ..TrainingOptions::default()
        },
        ..options
    };
    let plan = TrainingPlan {
        from_us: 0,
        to_us: i64::MAX,
        known_by_us: i64::MAX,
        seed: 1,
    };
    train(&recording, &options, &plan, None, &mut |_| {})
        .expect("two thousand events train a model")
}

/// Batch `number` of the stream: so many scored events, and one label for each once they are old enough.
pub fn batch_of(rows: usize, number: usize, traffic: Traffic) -> FeatureBatch {
    let first = (number * rows) as u64;
    // Every event is followed by a row that may carry a label, so sequences count both.
    let mut times = Vec::new();
    let mut streams = Vec::new();
    let (mut scored, mut labels) = (Vec::new(), Vec::new());
    let mut all_slots = vec![Vec::new(); 2];
    let mut columns = vec![Vec::new(); FEATURES];
    for event in first..first + rows as u64 {
        scored.push(times.len() as u32);
        for (column, &x) in columns.iter_mut().zip(&features(event)) {
            column.push((!x.is_nan()).then_some(f64::from(x)));
        }
        let of = event.saturating_sub(LABEL_DELAY);
        if event >= LABEL_DELAY {
            labels.push(KnownLabel {
                row: times.len() as u32 + 1,
                of: Sequence(of * 2),
                value: if pick(100, of) == 0 { 1.0 } else { 0.0 },
                reversal: false,
            });
        }
        for (row, of) in [(0, event), (1, of)] {
            times.push(event as i64 * MINUTE_US / 10);
            streams.push(row);
            for (all, slot) in all_slots.iter_mut().zip(traffic.slots(of)) {
                all.push(slot);
            }
        }
    }
    let names: ArrayRef = Arc::new(StringArray::from(vec!["events", "labels"]));
    let event_rows = RecordBatch::try_new(
        relation().schema,
        vec![
            Arc::new(TimestampMicrosecondArray::from(times)),
            Arc::new(DictionaryArray::<Int8Type>::new(
                Int8Array::from(streams),
                names,
            )),
        ],
    )
    .expect("columns fit the schema");
    let id = |row: usize| EventId {
        topic: "t".into(),
        partition: Partition(0),
        offset: Offset(row as i64),
    };
    let columns = columns.into_iter().enumerate().map(|(i, column)| {
        let array: ArrayRef = Arc::new(Float64Array::from(column));
        (format!("f{i}"), array, true)
    });
    FeatureBatch {
        events: EventBatch {
            rows: event_rows,
            ids: (0..2 * rows).map(id).collect(),
            sequence: Sequence(2 * first),
            broker_time_us: Vec::new(),
        },
        late: vec![false; rows],
        capped: vec![false; rows],
        too_late: Vec::new(),
        scored,
        features: RecordBatch::try_from_iter_with_nullable(columns)
            .expect("columns have one length"),
        slots: all_slots,
        labels,
    }
}
