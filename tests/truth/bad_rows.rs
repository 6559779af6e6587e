//! Rows that are wrong in every way a recorded file can be wrong: each a dead letter with its
//! reason, and none a failure.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray,
};
use arrow::datatypes::Int64Type;
use base64::Engine;
use parquet::arrow::ArrowWriter;
use serde_json::Value;

use crate::check::check;
use crate::sanderling::scratch;
use crate::scenario::Scenario;

/// 2025-03-01, milliseconds.
const START_MS: i64 = 1_740_787_200_000;

#[test]
fn bad_rows_become_dead_letters() {
    let scenario = Scenario::open("bad-rows");
    let folder = scratch();
    let columns = folder.path().join("columns.parquet");
    write_columns(&columns);
    let committed = |name: &str| scenario.folder.join(name);
    let inputs: Vec<PathBuf> = vec![committed("lines.jsonl"), committed("table.csv"), columns];
    let outcome = check(&scenario, &inputs);

    // Every row says itself why it must be refused, or nothing if it must not.
    let raw = raw_bytes(&outcome.dead_letters);
    let golden = outcome.golden();
    for letter in golden["dead_letters"].as_array().expect("dead letters") {
        let mut parts = letter["id"].as_str().expect("an id").split('/');
        let (topic, offset) = (
            parts.next().expect("a topic"),
            parts.next_back().expect("an offset"),
        );
        let bytes = &raw[&format!("{topic}/{offset}")];
        let text = String::from_utf8_lossy(bytes);
        let reason = letter["reason"].as_str().expect("a reason");
        assert!(
            text.contains(&format!("why {reason}")),
            "{reason} of {text}"
        );
    }
    for id in outcome.texts("transaction_id") {
        assert!(id.starts_with("good"), "{id} is not to be decided");
    }
}

/// The bytes of each refused record, by topic and offset.
fn raw_bytes(letters: &RecordBatch) -> BTreeMap<String, Vec<u8>> {
    let text = |name: &str| letters.column_by_name(name).expect("a column").clone();
    let (topics, offsets, raw) = (text("_topic"), text("_offset"), text("raw_base64"));
    (0..letters.num_rows())
        .map(|i| {
            let id = format!(
                "{}/{}",
                topics.as_string::<i32>().value(i),
                offsets.as_primitive::<Int64Type>().value(i)
            );
            let bytes =
                base64::engine::general_purpose::STANDARD.decode(raw.as_string::<i32>().value(i));
            (id, bytes.expect("base64"))
        })
        .collect()
}

/// A recorded file, whose rows say where they came from and when the broker had them.
fn write_columns(path: &Path) {
    struct Row {
        id: &'static str,
        card: Option<&'static str>,
        at: Option<i64>,
        amount: Option<f64>,
        fraud: Option<&'static str>,
        ahead_ms: i64,
    }
    let good = Row {
        id: "good-p",
        card: Some("c1"),
        at: Some(0),
        amount: Some(12.5),
        fraud: Some("0"),
        ahead_ms: 0,
    };
    let rows = [
        Row {
            id: "good-p0",
            ..good
        },
        Row {
            id: "bad why not_finite",
            amount: Some(f64::NAN),
            ..good
        },
        Row {
            id: "bad why not_finite",
            amount: Some(f64::INFINITY),
            ..good
        },
        Row {
            id: "bad why wrong_type",
            amount: Some(1e30),
            ..good
        },
        Row {
            id: "good-p1",
            amount: None,
            at: Some(60_000),
            ..good
        },
        Row {
            id: "bad why missing_field",
            card: None,
            ..good
        },
        Row {
            id: "bad why missing_field",
            at: None,
            ..good
        },
        Row {
            id: "good-p2",
            ahead_ms: 3_600_000,
            at: Some(120_000),
            ..good
        },
        Row {
            id: "bad why future_time",
            ahead_ms: 3_600_001,
            at: Some(130_000),
            ..good
        },
        Row {
            id: "bad why wrong_type",
            fraud: Some("perhaps"),
            ..good
        },
        Row {
            id: "good-p3",
            fraud: None,
            at: Some(180_000),
            ..good
        },
    ];
    let times = rows.iter().map(|row| row.at.map(|at| START_MS + at));
    let broker = rows
        .iter()
        .map(|row| row.at.map(|at| START_MS + at - row.ahead_ms));
    let columns: Vec<(&str, ArrayRef)> = vec![
        (
            "_topic",
            Arc::new(StringArray::from_iter_values(
                rows.iter().map(|_| "recorded"),
            )),
        ),
        (
            "_partition",
            Arc::new(Int32Array::from_iter_values(rows.iter().map(|_| 3))),
        ),
        (
            "_offset",
            Arc::new(Int64Array::from_iter_values(1000..1000 + rows.len() as i64)),
        ),
        ("_broker_time", Arc::new(Int64Array::from_iter(broker))),
        (
            "transaction_id",
            Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.id))),
        ),
        ("tx_time", Arc::new(Int64Array::from_iter(times))),
        (
            "card_id",
            Arc::new(StringArray::from_iter(rows.iter().map(|row| row.card))),
        ),
        (
            "terminal_id",
            Arc::new(StringArray::from_iter_values(rows.iter().map(|_| "t1"))),
        ),
        (
            "device_id",
            Arc::new(StringArray::from_iter_values(rows.iter().map(|_| "d1"))),
        ),
        (
            "amount",
            Arc::new(Float64Array::from_iter(rows.iter().map(|row| row.amount))),
        ),
        (
            "is_fraud",
            Arc::new(StringArray::from_iter(rows.iter().map(|row| row.fraud))),
        ),
    ];
    let table = RecordBatch::try_from_iter_with_nullable(
        columns
            .into_iter()
            .map(|(name, column)| (name, column, true)),
    )
    .expect("columns of one length");
    let file = File::create(path).expect("a file");
    let mut writer = ArrowWriter::try_new(file, table.schema(), None).expect("a writer");
    writer.write(&table).expect("rows");
    writer.close().expect("a footer");
}

#[test]
fn every_line_of_the_committed_files_says_what_becomes_of_it() {
    let scenario = Scenario::open("bad-rows");
    let text = std::fs::read_to_string(scenario.folder.join("lines.jsonl")).expect("lines");
    for line in text.lines() {
        let marked = line.contains("why ") || line.contains("\"good-");
        assert!(marked, "{line}");
    }
    let good = text
        .lines()
        .filter(|line| serde_json::from_str::<Value>(line).is_ok())
        .count();
    assert!(good > 5);
}
