//! How fast a file of the Fraud-Detection-Handbook becomes batches, labels among them:
//! `cargo run --profile measure -p sanderling-ingest --example decode_rate -- FILE`
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::datatypes::DataType;
use sanderling_ingest::{
    ColumnSpec, EpochUnit, EventSource, EventTimeSpec, FileOptions, FileSource, Format, Input,
    LabelFileSpec, SourceEvent, StreamSpec,
};
use sanderling_schemas::{LabelColumns, Relation, Stream};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: decode_rate FILE")?;
    let columns = [
        ("TRANSACTION_ID", "TRANSACTION_ID", DataType::Int64),
        ("card_id", "CUSTOMER_ID", DataType::Utf8),
        ("terminal_id", "TERMINAL_ID", DataType::Utf8),
        ("amount", "TX_AMOUNT", DataType::Decimal128(12, 2)),
    ];
    let mut in_relation: Vec<(String, DataType)> = columns
        .iter()
        .map(|(name, _, data_type)| (name.to_string(), data_type.clone()))
        .collect();
    in_relation.push(("is_fraud".into(), DataType::Int64));
    let stream = |name: &str, scored| Stream {
        name: name.into(),
        scored,
        key: None,
    };
    let relation = Relation {
        schema: Relation::schema_of(&in_relation),
        streams: vec![stream("transactions", true), stream("labels", false)],
        id: Some("TRANSACTION_ID".into()),
        entities: Vec::new(),
        labels: Some(LabelColumns {
            stream: 1,
            reference: "TRANSACTION_ID".into(),
            value: "is_fraud".into(),
            horizon_us: i64::MAX,
        }),
        lateness_us: 0,
        late_rows: sanderling_schemas::LateRows::Decide,
        rows_per_key_max: None,
    };
    let spec = StreamSpec {
        name: "transactions".into(),
        topic: None,
        format: Format::Json,
        id: Some("TRANSACTION_ID".into()),
        key: Some("card_id".into()),
        event_time: EventTimeSpec {
            column: "TX_DATETIME".into(),
            unit: Some(EpochUnit::Nanoseconds),
        },
        columns: columns
            .map(|(name, from, data_type)| ColumnSpec {
                name: name.into(),
                from: from.into(),
                data_type,
                hash: None,
            })
            .into(),
        seal: None,
    };
    let input = Input {
        stream: "transactions".into(),
        path: path.into(),
    };
    let label = LabelFileSpec {
        column: "TX_FRAUD".into(),
        delay_us: 7 * 86_400_000_000,
    };
    for labels in [None, Some(label)] {
        let options = FileOptions {
            labels: labels.clone(),
            ..FileOptions::default()
        };
        let from = Instant::now();
        let relation = Arc::new(relation.clone());
        let specs = std::slice::from_ref(&spec);
        let mut source = FileSource::open(relation, specs, std::slice::from_ref(&input), options)?;
        let (mut rows, mut refused) = (0, 0);
        loop {
            match source.next(4096, Duration::ZERO)? {
                SourceEvent::Batch(batch) => rows += batch.len(),
                SourceEvent::Rejected(letters) => refused += letters.len(),
                SourceEvent::End => break,
                _ => {}
            }
        }
        let seconds = from.elapsed().as_secs_f64();
        println!(
            "labels {}: {rows} rows, {refused} refused, {seconds:.3} s, {:.0} rows/s",
            labels.is_some(),
            rows as f64 / seconds
        );
    }
    Ok(())
}
