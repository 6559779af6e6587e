//! The streams that windows are measured on: a file of the handbook's, or made up.

use std::fs::File;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Decimal128Array, DictionaryArray, Float64Array, Int8Array,
    Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimeUnit};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use sanderling_schemas::{
    Entity, EventBatch, EventId, LateRows, Offset, Partition, Relation, Sequence, Stream,
};

const DAY_US: i64 = 86_400_000_000;
/// Rows of a batch, where nothing else is said.
pub const BATCH_ROWS: usize = 4096;

/// Payments of a card at a terminal.
pub fn relation() -> Arc<Relation> {
    let columns = [
        ("card_id", DataType::Utf8),
        ("terminal_id", DataType::Utf8),
        ("amount", DataType::Decimal128(12, 2)),
        ("price", DataType::Float64),
        ("second", DataType::Int64),
    ];
    let columns: Vec<_> = columns
        .into_iter()
        .map(|(name, data_type)| (name.to_string(), data_type))
        .collect();
    let entity = |name: &str| Entity {
        name: name.into(),
        key: format!("{name}_id"),
    };
    Arc::new(Relation {
        schema: Relation::schema_of(&columns),
        streams: vec![Stream {
            name: "payments".into(),
            scored: true,
            key: None,
        }],
        id: None,
        entities: vec![entity("card"), entity("terminal")],
        labels: None,
        lateness_us: DAY_US,
        late_rows: LateRows::Decide,
        rows_per_key_max: None,
    })
}

/// A made-up stream.
#[derive(Clone, Copy)]
pub struct Made {
    pub events: usize,
    pub cards: u64,
    pub terminals: u64,
    pub days: i64,
    /// Every second event is of one card.
    pub hot: bool,
}

/// As many as the handbook's stream has.
pub const HANDBOOK: Made = Made {
    events: 1_500_000,
    cards: 5_000,
    terminals: 10_000,
    days: 157,
    hot: false,
};

/// Rows before they are arrays.
#[derive(Default)]
struct Rows {
    times_us: Vec<i64>,
    cards: Vec<u64>,
    terminals: Vec<u64>,
    cents: Vec<i128>,
}

impl Rows {
    fn batch(self, relation: &Relation, sequence: usize) -> EventBatch {
        let count = self.times_us.len();
        let names = |prefix: &str, numbers: &[u64]| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(
                numbers.iter().map(|number| format!("{prefix}{number}")),
            ))
        };
        let streams = DictionaryArray::new(
            Int8Array::from(vec![0; count]),
            Arc::new(StringArray::from(vec!["payments"])) as ArrayRef,
        );
        let amounts = Decimal128Array::from(self.cents.clone())
            .with_precision_and_scale(12, 2)
            .expect("twelve digits hold it");
        let columns: Vec<ArrayRef> = vec![
            Arc::new(TimestampMicrosecondArray::from(self.times_us.clone())),
            Arc::new(streams),
            names("card-", &self.cards),
            names("terminal-", &self.terminals),
            Arc::new(amounts),
            Arc::new(Float64Array::from_iter_values(
                self.cents.iter().map(|cents| *cents as f64 / 100.0),
            )),
            Arc::new(Int64Array::from_iter_values(
                self.times_us.iter().map(|time_us| time_us / 1_000_000),
            )),
        ];
        let topic: Arc<str> = "payments".into();
        EventBatch {
            rows: RecordBatch::try_new(relation.schema.clone(), columns)
                .expect("columns of the relation"),
            ids: (0..count)
                .map(|row| EventId {
                    topic: topic.clone(),
                    partition: Partition(0),
                    offset: Offset((sequence + row) as i64),
                })
                .collect(),
            sequence: Sequence(sequence as u64),
            broker_time_us: Vec::new(),
        }
    }
}

/// Numbers that look random: splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Made {
    /// The stream in batches.
    pub fn batches(self, relation: Arc<Relation>, batch_rows: usize) -> Batches {
        Batches {
            made: self,
            relation,
            batch_rows,
            random: Random(1),
            at: 0,
        }
    }
}

/// A made-up stream, as far as it was not taken yet.
pub struct Batches {
    made: Made,
    relation: Arc<Relation>,
    batch_rows: usize,
    random: Random,
    at: usize,
}

impl Iterator for Batches {
    type Item = EventBatch;

    fn next(&mut self) -> Option<EventBatch> {
        let (made, random, at) = (self.made, &mut self.random, self.at);
        let step_us = made.days * DAY_US / made.events as i64;
        let mut rows = Rows::default();
        for event in at..(at + self.batch_rows).min(made.events) {
            let hot = made.hot && random.next().is_multiple_of(2);
            let jitter = random.next() as i64 % step_us.max(1);
            rows.times_us
                .push(1_525_132_800_000_000 + event as i64 * step_us + jitter.abs());
            rows.cards
                .push(if hot { 0 } else { random.next() % made.cards });
            rows.terminals.push(random.next() % made.terminals);
            rows.cents.push(i128::from(random.next() % 20_000));
        }
        self.at += rows.times_us.len();
        (self.at > at).then(|| rows.batch(&self.relation, at))
    }
}

/// The rows of a file of the handbook.
pub fn file(path: &str, relation: &Relation) -> Vec<EventBatch> {
    let reader =
        ParquetRecordBatchReaderBuilder::try_new(File::open(path).expect("the file opens"))
            .and_then(|builder| builder.with_batch_size(BATCH_ROWS).build())
            .expect("it is Parquet");
    let mut batches = Vec::new();
    let mut sequence = 0;
    for batch in reader {
        let batch = batch.expect("it is whole");
        let column = |name: &str, data_type: &DataType| {
            let column = batch
                .column_by_name(name)
                .expect("a column of the handbook");
            cast(column, data_type).expect("a type of the handbook")
        };
        let times = column(
            "TX_DATETIME",
            &DataType::Timestamp(TimeUnit::Microsecond, None),
        );
        let numbers = |name: &str| -> Vec<u64> {
            let numbers = column(name, &DataType::Int64);
            numbers
                .as_primitive::<Int64Type>()
                .values()
                .iter()
                .map(|n| *n as u64)
                .collect()
        };
        let amounts = column("TX_AMOUNT", &DataType::Float64);
        let amounts = amounts.as_primitive::<Float64Type>().values();
        let rows = Rows {
            times_us: cast(&times, &DataType::Int64)
                .expect("a timestamp is a number")
                .as_primitive::<Int64Type>()
                .values()
                .to_vec(),
            cards: numbers("CUSTOMER_ID"),
            terminals: numbers("TERMINAL_ID"),
            cents: amounts
                .iter()
                .map(|amount| (amount * 100.0).round() as i128)
                .collect(),
        };
        sequence += times.len();
        batches.push(rows.batch(relation, sequence - times.len()));
    }
    batches
}
