//! Sources as their users see them: files of every format, and topics of a broker in process.

mod avro;
mod bad_rows;
mod cluster;
mod decoders;
mod encoders;
mod evolution;
mod files;
mod formats;
mod identifiers;
mod kafka;
mod ordered;
mod partitions;
mod protobuf;
mod registry;
mod registry_faults;
mod runs;
mod simulate;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Int64Type};
use arrow::util::display::array_value_to_string;
use sanderling_ingest::{
    ColumnSpec, EpochUnit, EventSource, EventTimeSpec, FileOptions, FileSource, Format, Input,
    SourceEvent, StreamSpec,
};
use sanderling_schemas::{DeadLetter, EventBatch, LabelColumns, Relation, Stream};

const MINUTE_US: i64 = 60_000_000;

fn column(name: &str, data_type: DataType) -> ColumnSpec {
    ColumnSpec {
        name: name.into(),
        from: name.into(),
        data_type,
        hash: None,
    }
}

fn spec(name: &str, columns: Vec<ColumnSpec>) -> StreamSpec {
    StreamSpec {
        name: name.into(),
        topic: Some(format!("{name}-topic")),
        format: Format::Json,
        id: Some("id".into()),
        key: Some("card".into()),
        event_time: EventTimeSpec {
            column: "at".into(),
            unit: Some(EpochUnit::Milliseconds),
        },
        columns,
        seal: None,
    }
}

/// Payments (scored) and their labels.
fn payments() -> (Arc<Relation>, Vec<StreamSpec>) {
    let money = DataType::Decimal128(12, 2);
    let columns = [
        ("id", DataType::Utf8),
        ("card", DataType::Utf8),
        ("amount", money.clone()),
        ("n", DataType::Int64),
        ("is_fraud", DataType::Int64),
    ];
    let columns = columns.map(|(name, data_type)| (name.to_string(), data_type));
    let stream = |name: &str, scored| Stream {
        name: name.into(),
        scored,
        key: Some("card".into()),
    };
    let relation = Relation {
        schema: Relation::schema_of(&columns),
        streams: vec![stream("payments", true), stream("labels", false)],
        id: Some("id".into()),
        entities: Vec::new(),
        labels: Some(LabelColumns {
            stream: 1,
            reference: "id".into(),
            value: "is_fraud".into(),
            horizon_us: i64::MAX,
        }),
        lateness_us: 0,
        late_rows: sanderling_schemas::LateRows::Decide,
        rows_per_key_max: None,
    };
    let payments = spec(
        "payments",
        vec![
            column("id", DataType::Utf8),
            column("card", DataType::Utf8),
            column("amount", money),
            column("n", DataType::Int64),
        ],
    );
    let mut labels = spec(
        "labels",
        vec![
            column("id", DataType::Utf8),
            column("is_fraud", DataType::Int64),
        ],
    );
    labels.id = None;
    (Arc::new(relation), vec![payments, labels])
}

fn open(paths: &[&Path], options: FileOptions) -> FileSource {
    let (relation, specs) = payments();
    let input = |path: &&Path| Input {
        stream: "payments".into(),
        path: path.to_path_buf(),
    };
    let inputs: Vec<Input> = paths.iter().map(input).collect();
    FileSource::open(relation, &specs, &inputs, options).unwrap()
}

/// Everything a source has, asked for `rows_max` rows at a time.
fn drain(source: &mut FileSource, rows_max: usize) -> (Vec<EventBatch>, Vec<DeadLetter>) {
    let (mut batches, mut letters) = (Vec::new(), Vec::new());
    loop {
        match source.next(rows_max, Duration::ZERO).unwrap() {
            SourceEvent::Batch(batch) => {
                assert!(batch.len() <= rows_max && !batch.is_empty());
                assert_eq!(batch.ids.len(), batch.len());
                batches.push(batch);
            }
            SourceEvent::Rejected(more) => letters.extend(more),
            SourceEvent::End => return (batches, letters),
            other => panic!("a file says {other:?}"),
        }
    }
}

/// Each row as one line: sequence, id, all columns.
fn lines(batches: &[EventBatch]) -> Vec<String> {
    let mut lines = Vec::new();
    for batch in batches {
        for row in 0..batch.len() {
            let columns = batch.rows.columns().iter();
            let shown: Vec<String> = columns
                .map(|c| {
                    if c.is_null(row) {
                        "-".into()
                    } else {
                        array_value_to_string(c, row).unwrap()
                    }
                })
                .collect();
            let sequence = batch.sequence.0 + row as u64;
            lines.push(format!("{sequence} {} {}", batch.ids[row], shown.join(" ")));
        }
    }
    lines
}

/// Ids of the payments and label rows, `label:` before the latter.
fn order(batches: &[EventBatch]) -> Vec<String> {
    let mut order = Vec::new();
    for batch in batches {
        let ids = batch.column("id").unwrap().as_string::<i32>();
        let labels = batch
            .column("is_fraud")
            .unwrap()
            .as_primitive::<Int64Type>();
        for row in 0..batch.len() {
            let id = ids.value(row);
            assert_eq!(labels.is_valid(row), batch.streams()[row] == 1);
            order.push(match labels.is_valid(row) {
                true => format!("label:{id}={}", labels.value(row)),
                false => id.to_string(),
            });
        }
    }
    order
}
