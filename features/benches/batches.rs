//! Time of one batch through the feature engine, by its number of rows, for a pipeline's features.
//!
//! `cargo bench --profile measure -p sanderling-features --bench batches [-- FEATURES.sql] [ROWS]`
//!
//! The relation is that of `pipelines/card-fraud`, whose features are taken if no other are named; the stream
//! is made up: 2,000 cards, 3,000 terminals and 2,200 devices, two payments a second, and labels of one payment
//! in fifty, a minute later. A batch of n rows is what a live service gets when it closes its batches early,
//! so these are the microseconds that features add to a decision's latency.

#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{
    ArrayRef, Decimal128Array, DictionaryArray, Int8Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::DataType;
use sanderling_features::FeatureEngine;
use sanderling_schemas::{
    Entity, EventBatch, EventId, LabelColumns, LateRows, Offset, Partition, Relation, Sequence,
    Stream,
};

const DAY_US: i64 = 86_400_000_000;
/// Payments before the first batch that is timed.
const WARM: usize = 200_000;
const STEP_US: i64 = 500_000;
/// A label follows its payment by so many payments.
const LABEL_AFTER: usize = 120;

fn relation() -> Arc<Relation> {
    let columns = [
        ("transaction_id", DataType::Utf8),
        ("card_id", DataType::Utf8),
        ("terminal_id", DataType::Utf8),
        ("device_id", DataType::Utf8),
        ("amount", DataType::Decimal128(12, 2)),
        ("reference", DataType::Utf8),
        ("is_fraud", DataType::Int64),
    ];
    let columns: Vec<_> = (columns.into_iter())
        .map(|(name, data_type)| (name.to_string(), data_type))
        .collect();
    let stream = |name: &str, scored| Stream {
        name: name.into(),
        scored,
        key: Some("card_id".into()),
    };
    let entity = |name: &str| Entity {
        name: name.into(),
        key: format!("{name}_id"),
    };
    Arc::new(Relation {
        schema: Relation::schema_of(&columns),
        streams: vec![stream("transactions", true), stream("labels", false)],
        id: Some("transaction_id".into()),
        entities: vec![entity("card"), entity("terminal"), entity("device")],
        labels: Some(LabelColumns {
            stream: 1,
            reference: "reference".into(),
            value: "is_fraud".into(),
            horizon_us: 60 * DAY_US,
        }),
        lateness_us: DAY_US,
        late_rows: LateRows::Decide,
        rows_per_key_max: None,
    })
}

/// A number that looks random, from 0 to below `below`: splitmix64.
fn random(of: usize, salt: u64, below: u64) -> u64 {
    let mut z = (of as u64)
        .wrapping_add(salt << 40)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) % below
}

/// The rows from number `from` on.
fn batch(relation: &Relation, from: usize, count: usize) -> EventBatch {
    let rows = from..from + count;
    let labels: Vec<bool> = rows
        .clone()
        .map(|row| row > LABEL_AFTER && row % 50 == 0)
        .collect();
    let payments = || rows.clone().zip(&labels);
    let text = |prefix: &'static str, salt, below| -> ArrayRef {
        let name = |(row, label): (usize, &bool)| {
            (!label).then(|| format!("{prefix}-{}", random(row, salt, below)))
        };
        Arc::new(payments().map(name).collect::<StringArray>())
    };
    let id = |row: usize| format!("payment-{row}");
    let ids = payments().map(|(row, label)| (!label).then(|| id(row)));
    let references = payments().map(|(row, label)| label.then(|| id(row - LABEL_AFTER + 1)));
    let amounts =
        payments().map(|(row, label)| (!label).then(|| i128::from(random(row, 4, 20_000)) + 1));
    let streams = DictionaryArray::new(
        Int8Array::from_iter_values(labels.iter().map(|label| i8::from(*label))),
        Arc::new(StringArray::from(vec!["transactions", "labels"])) as ArrayRef,
    );
    let columns: Vec<ArrayRef> = vec![
        Arc::new(TimestampMicrosecondArray::from_iter_values(
            rows.clone()
                .map(|row| 1_780_000_000_000_000 + row as i64 * STEP_US),
        )),
        Arc::new(streams),
        Arc::new(ids.collect::<StringArray>()),
        text("card", 1, 2_000),
        text("terminal", 2, 3_000),
        text("device", 3, 2_200),
        Arc::new(
            amounts
                .collect::<Decimal128Array>()
                .with_precision_and_scale(12, 2)
                .expect("twelve digits hold it"),
        ),
        Arc::new(references.collect::<StringArray>()),
        Arc::new(
            payments()
                .map(|(row, label)| label.then(|| random(row, 5, 2) as i64))
                .collect::<Int64Array>(),
        ),
    ];
    let topic: Arc<str> = "payments".into();
    EventBatch {
        rows: RecordBatch::try_new(relation.schema.clone(), columns)
            .expect("columns of the relation"),
        ids: rows
            .map(|row| EventId {
                topic: topic.clone(),
                partition: Partition(0),
                offset: Offset(row as i64),
            })
            .collect(),
        sequence: Sequence(from as u64),
        broker_time_us: Vec::new(),
    }
}

fn main() {
    let arguments: Vec<String> = (std::env::args().skip(1))
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    let only: Option<usize> = arguments.iter().find_map(|rows| rows.parse().ok());
    let path = (arguments.into_iter())
        .find(|argument| argument.ends_with(".sql"))
        .unwrap_or_else(|| {
            concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../pipelines/card-fraud/features.sql"
            )
            .into()
        });
    let sql = std::fs::read_to_string(&path).expect("the file of features can be read");
    let relation = relation();
    let mut engine = FeatureEngine::new(relation.clone(), &sql).expect("the features are valid");
    println!("-- {path}: {} features", engine.schema().fields.len());
    let mut at = 0;
    while at < WARM {
        black_box(
            engine
                .compute(&batch(&relation, at, 4096))
                .expect("the rows fit"),
        );
        at += 4096;
    }
    for rows in only.map_or(vec![1, 11, 64, 256, 1024, 4096], |rows| vec![rows]) {
        let batches = (40_000 / rows).clamp(20, 2_000);
        let mut took_ns: Vec<u64> = (0..batches)
            .map(|_| {
                let batch = batch(&relation, at, rows);
                at += rows;
                let begun = Instant::now();
                black_box(engine.compute(&batch).expect("the rows fit"));
                begun.elapsed().as_nanos() as u64
            })
            .collect();
        took_ns.sort_unstable();
        let us = |share: f64| took_ns[(batches as f64 * share) as usize] as f64 / 1e3;
        println!(
            "{rows:>5} rows: p50 {:>7.1} us, p99 {:>7.1} us, {:>6.2} us a row",
            us(0.5),
            us(0.99),
            us(0.5) / rows as f64
        );
    }
}
