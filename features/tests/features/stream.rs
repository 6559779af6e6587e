//! Random streams of payments and labels: bursts, ties, gaps, disorder, NULLs.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, Decimal128Array, DictionaryArray, Float64Array, Int8Array, Int64Array, RecordBatch,
    StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::DataType;
use proptest::prelude::*;
use sanderling_schemas::{
    Entity, EventBatch, EventId, LabelColumns, LateRows, Offset, Partition, Relation, Sequence,
    Stream,
};

pub const HOUR_US: i64 = 3_600_000_000;
pub const LATENESS_US: i64 = 6 * HOUR_US;
pub const HORIZON_US: i64 = 48 * HOUR_US;

/// One row: a payment, or a label of an earlier payment.
#[derive(Debug, Clone)]
pub struct Row {
    pub time_us: i64,
    pub label: bool,
    /// Id of the payment, or of the one it labels.
    pub id: i64,
    pub card: Option<u8>,
    pub terminal: Option<u8>,
    pub amount: Option<i64>,
    pub speed: Option<f64>,
    pub units: Option<i64>,
    pub is_fraud: Option<i64>,
}

pub fn relation(labels: bool) -> Arc<Relation> {
    let columns = [
        ("tx_id", DataType::Int64),
        ("card_id", DataType::Utf8),
        ("terminal_id", DataType::Utf8),
        ("amount", DataType::Decimal128(12, 2)),
        ("speed", DataType::Float64),
        ("units", DataType::Int64),
        ("reference", DataType::Int64),
        ("is_fraud", DataType::Int64),
    ];
    let columns: Vec<_> = columns
        .into_iter()
        .map(|(name, t)| (name.to_string(), t))
        .collect();
    let stream = |name: &str, scored| Stream {
        name: name.into(),
        scored,
        key: None,
    };
    let entity = |name: &str, key: &str| Entity {
        name: name.into(),
        key: key.into(),
    };
    Arc::new(Relation {
        schema: Relation::schema_of(&columns),
        streams: match labels {
            true => vec![stream("payments", true), stream("labels", false)],
            false => vec![stream("payments", true)],
        },
        id: Some("tx_id".into()),
        entities: vec![entity("card", "card_id"), entity("terminal", "terminal_id")],
        labels: labels.then(|| LabelColumns {
            stream: 1,
            reference: "reference".into(),
            value: "is_fraud".into(),
            horizon_us: HORIZON_US,
        }),
        lateness_us: LATENESS_US,
        late_rows: LateRows::Decide,
        rows_per_key_max: None,
    })
}

pub fn batch(relation: &Relation, rows: &[Row]) -> EventBatch {
    let name = |prefix: &str, n: Option<u8>| n.map(|n| format!("{prefix}{n}"));
    let of = |label: bool, value: i64, row: &Row| (row.label == label).then_some(value);
    let names: Vec<&str> = relation
        .streams
        .iter()
        .map(|stream| &*stream.name)
        .collect();
    let streams: Int8Array = rows.iter().map(|row| Some(i8::from(row.label))).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(
            rows.iter()
                .map(|row| Some(row.time_us))
                .collect::<TimestampMicrosecondArray>(),
        ),
        Arc::new(DictionaryArray::new(
            streams,
            Arc::new(StringArray::from(names)),
        )),
        Arc::new(
            rows.iter()
                .map(|row| of(false, row.id, row))
                .collect::<Int64Array>(),
        ),
        Arc::new(
            rows.iter()
                .map(|row| name("card ", row.card))
                .collect::<StringArray>(),
        ),
        Arc::new(
            rows.iter()
                .map(|row| name("terminal ", row.terminal))
                .collect::<StringArray>(),
        ),
        Arc::new(
            (rows
                .iter()
                .map(|row| row.amount.map(i128::from))
                .collect::<Decimal128Array>())
            .with_precision_and_scale(12, 2)
            .unwrap(),
        ),
        Arc::new(rows.iter().map(|row| row.speed).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|row| row.units).collect::<Int64Array>()),
        Arc::new(
            rows.iter()
                .map(|row| of(true, row.id, row))
                .collect::<Int64Array>(),
        ),
        Arc::new(rows.iter().map(|row| row.is_fraud).collect::<Int64Array>()),
    ];
    let ids = (0..rows.len())
        .map(|n| EventId {
            topic: "payments".into(),
            partition: Partition(0),
            offset: Offset(n as i64),
        })
        .collect();
    EventBatch {
        rows: RecordBatch::try_new(relation.schema.clone(), columns).unwrap(),
        ids,
        sequence: Sequence(0),
        broker_time_us: Vec::new(),
    }
}

/// A stream of up to `rows_max` rows. In order: event times ascend strictly and all are payments.
pub fn rows(rows_max: usize, ordered: bool) -> impl Strategy<Value = Vec<Row>> {
    let gap = prop_oneof![
        4 => Just(0i64),
        4 => 1i64..60_000_000,
        4 => 60_000_000i64..HOUR_US,
        1 => HOUR_US..30 * HOUR_US,
    ];
    let back = prop_oneof![
        12 => Just(0i64),
        2 => 1i64..2 * HOUR_US,
        1 => HOUR_US..8 * HOUR_US,
        1 => 20 * HOUR_US..90 * HOUR_US,
    ];
    let value = || prop::option::weighted(0.85, 1i64..100_000);
    let row = (
        (gap, back),
        (
            prop::bool::weighted(0.3),
            0usize..12,
            0i64..2,
            prop::bool::weighted(0.05),
        ),
        (
            prop::option::weighted(0.93, 0u8..4),
            prop::option::weighted(0.93, 0u8..3),
        ),
        (
            value(),
            prop::option::weighted(0.8, 0.1f64..1000.0),
            value(),
        ),
    );
    prop::collection::vec(row, 1..rows_max).prop_map(move |drawn| {
        let mut now = 1_525_132_800_000_000i64;
        let mut rows: Vec<Row> = Vec::new();
        for (
            n,
            ((gap, back), (label, of, value, unknown), (card, terminal), (amount, speed, units)),
        ) in drawn.into_iter().enumerate()
        {
            now += if ordered { gap.max(1) } else { gap };
            let time_us = if ordered { now } else { now - back };
            let earlier: Vec<i64> = rows
                .iter()
                .filter(|row| !row.label)
                .map(|row| row.id)
                .collect();
            let label = label && !ordered && !earlier.is_empty();
            let of = earlier.iter().rev().nth(of).or(earlier.first());
            rows.push(match (label, of) {
                (true, Some(of)) => Row {
                    time_us,
                    label: true,
                    id: if unknown { -1 } else { *of },
                    card: None,
                    terminal: None,
                    amount: None,
                    speed: None,
                    units: None,
                    is_fraud: Some(value),
                },
                _ => Row {
                    time_us,
                    label: false,
                    id: n as i64,
                    card,
                    terminal,
                    amount,
                    speed,
                    units: units.map(|units| units - 50_000),
                    is_fraud: None,
                },
            });
        }
        rows
    })
}
