//! What cannot become a row becomes a dead letter, for the same reasons in every format.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use sanderling_ingest::FileOptions;
use sanderling_schemas::RejectReason::{self, *};

use crate::{drain, lines, open};

const HOUR_MS: i64 = 3_600_000;
const T: i64 = 1_735_689_600_000;

/// id, at, card, amount, n, what becomes of it.
type Case = (
    Option<&'static str>,
    Option<i64>,
    Option<&'static str>,
    Option<&'static str>,
    Option<f64>,
    Option<RejectReason>,
);

fn cases() -> Vec<Case> {
    vec![
        (
            Some("a"),
            Some(T),
            Some("c"),
            Some("12.345"),
            Some(3.0),
            None,
        ),
        (
            Some("b"),
            Some(T),
            Some("c"),
            Some("abc"),
            Some(3.0),
            Some(WrongType),
        ),
        (
            Some("c"),
            Some(T),
            Some("c"),
            Some("NaN"),
            None,
            Some(NotFinite),
        ),
        (
            Some("d"),
            Some(T),
            None,
            Some("1"),
            None,
            Some(MissingField),
        ),
        (
            None,
            Some(T),
            Some("c"),
            Some("1"),
            None,
            Some(MissingField),
        ),
        (
            Some("f"),
            None,
            Some("c"),
            Some("1"),
            None,
            Some(MissingField),
        ),
        (Some("g"), Some(T), Some("c"), None, None, None),
        (
            Some("h"),
            Some(T),
            Some("c"),
            Some("1"),
            Some(1.5),
            Some(WrongType),
        ),
        (
            Some("i"),
            Some(T),
            Some("c"),
            Some("99999999999"),
            None,
            Some(WrongType),
        ),
        (
            Some("j"),
            Some(T + 2 * HOUR_MS),
            Some("c"),
            Some("1"),
            None,
            Some(FutureTime),
        ),
        (
            Some("k"),
            Some(T + HOUR_MS),
            Some("c"),
            Some("-0.5"),
            Some(-7.0),
            None,
        ),
        (
            Some("l"),
            Some(T),
            Some("c"),
            Some("inf"),
            Some(1.0),
            Some(NotFinite),
        ),
    ]
}

fn write(format: &str, folder: &std::path::Path) -> PathBuf {
    let path = folder.join(format!("pay.{format}"));
    let cases = cases();
    let text = |value: Option<&str>| value.map_or("null".into(), |v| format!("\"{v}\""));
    match format {
        "jsonl" => {
            let mut out = String::new();
            for (id, at, card, amount, n, _) in &cases {
                let at = at.map_or("null".into(), |v| v.to_string());
                let n = n.map_or("null".into(), |v| v.to_string());
                let (id, card, amount) = (text(*id), text(*card), text(*amount));
                out += &format!(
                    "{{\"id\":{id},\"at\":{at},\"card\":{card},\"amount\":{amount},\"n\":{n},\
                     \"_broker_time\":{T}}}\n"
                );
            }
            fs::write(&path, out).unwrap();
        }
        "csv" => {
            let mut out = String::from("\u{feff}id,at,card,amount,n,_broker_time\r\n");
            for (id, at, card, amount, n, _) in &cases {
                let at = at.map_or(String::new(), |v| v.to_string());
                let n = n.map_or(String::new(), |v| v.to_string());
                let (id, card) = (id.unwrap_or(""), card.unwrap_or(""));
                out += &format!("{id},{at},\"{card}\",{},{n},{T}\r\n", amount.unwrap_or(""));
            }
            fs::write(&path, out).unwrap();
        }
        _ => {
            let strings = |pick: fn(&Case) -> Option<&'static str>| -> ArrayRef {
                Arc::new(cases.iter().map(pick).collect::<StringArray>())
            };
            let columns: Vec<(&str, ArrayRef)> = vec![
                ("id", strings(|c| c.0)),
                (
                    "at",
                    Arc::new(cases.iter().map(|c| c.1).collect::<Int64Array>()),
                ),
                ("card", strings(|c| c.2)),
                ("amount", strings(|c| c.3)),
                (
                    "n",
                    Arc::new(cases.iter().map(|c| c.4).collect::<Float64Array>()),
                ),
                (
                    "_broker_time",
                    Arc::new(Int64Array::from(vec![T; cases.len()])),
                ),
            ];
            let batch = RecordBatch::try_from_iter_with_nullable(
                columns.into_iter().map(|(name, array)| (name, array, true)),
            );
            let batch = batch.unwrap();
            let file = fs::File::create(&path).unwrap();
            let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
            writer.write(&batch).unwrap();
            writer.close().unwrap();
        }
    }
    path
}

#[test]
fn every_format_refuses_the_same_rows_for_the_same_reasons() {
    let folder = tempfile::tempdir().unwrap();
    let expected: Vec<(i64, RejectReason)> = cases()
        .iter()
        .enumerate()
        .filter_map(|(row, case)| Some((row as i64, case.5?)))
        .collect();
    let mut accepted = Vec::new();
    for format in ["jsonl", "csv", "parquet"] {
        let path = write(format, folder.path());
        for rows_max in [1, 2, 100] {
            let (batches, letters) = drain(&mut open(&[&path], FileOptions::default()), rows_max);
            let found: Vec<_> = letters
                .iter()
                .map(|l| (l.event.offset.0, l.reason))
                .collect();
            assert_eq!(found, expected, "{format}: {letters:#?}");
            let rows: usize = batches.iter().map(|batch| batch.len()).sum();
            assert_eq!(rows + letters.len(), cases().len());
            accepted.push(lines(&batches));
            for letter in &letters {
                let raw: serde_json::Value = serde_json::from_slice(&letter.raw).unwrap();
                assert!(raw.get("id").is_some(), "{raw}");
                assert!(letter.detail.contains("column "), "{}", letter.detail);
            }
        }
    }
    assert!(
        accepted.windows(2).all(|pair| pair[0] == pair[1]),
        "{accepted:#?}"
    );
    assert_eq!(
        accepted[0],
        [
            "0 pay/0/0 2025-01-01T00:00:00 payments a c 12.35 3 -",
            "1 pay/0/6 2025-01-01T00:00:00 payments g c - - -",
            "2 pay/0/10 2025-01-01T01:00:00 payments k c -0.50 -7 -",
        ]
    );
}

#[test]
fn broken_text_is_refused_record_by_record() {
    let folder = tempfile::tempdir().unwrap();
    let good = |id: &str| format!("{{\"id\":\"{id}\",\"at\":{T},\"card\":\"c\",\"amount\":1}}");
    let path = folder.path().join("t.jsonl");
    let text = [
        &good("a"),
        "{\"id\": \"b\", \"at\": 1",
        "",
        "[]",
        "{\"id\":\"c\",\"at\":1,\"card\":\"c\",\"amount\":NaN}",
        "{\"id\":\"d\",\"at\":1,\"card\":{\"x\":1}}",
        &good("e"),
    ];
    fs::write(&path, text.join("\n")).unwrap();
    let (batches, letters) = drain(&mut open(&[&path], FileOptions::default()), 10);
    let found: Vec<_> = letters
        .iter()
        .map(|l| (l.event.offset.0, l.reason))
        .collect();
    assert_eq!(
        found,
        [
            (1, Malformed),
            (2, Malformed),
            (3, NotFinite),
            (4, WrongType)
        ]
    );
    assert_eq!(letters[0].raw, b"{\"id\": \"b\", \"at\": 1");
    assert_eq!(batches.iter().map(|b| b.len()).sum::<usize>(), 2);

    let path = folder.path().join("t.csv");
    let text = format!(
        "id,at,card,amount,n\na,{T},c,1,\nb,{T},c\nc,{T},\"c,1,\nd,{T},\"x\"y,1,\ne,{T},\"c\nc\",1,\n\
         f,{T},c,1,\n"
    );
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(format!("g,{T},\u{00ff},1,\n").as_bytes());
    let at = bytes.len() - 6;
    bytes[at] = 0xff;
    fs::write(&path, bytes).unwrap();
    let (batches, letters) = drain(&mut open(&[&path], FileOptions::default()), 10);
    let id = |line: &String| line.split(' ').nth(4).unwrap_or_default().to_string();
    assert_eq!(
        lines(&batches).iter().map(id).collect::<Vec<_>>(),
        ["a", "e", "f"]
    );
    let found: Vec<_> = letters
        .iter()
        .map(|l| (l.event.offset.0, l.reason))
        .collect();
    assert_eq!(
        found,
        [
            (1, Malformed),
            (2, Malformed),
            (3, Malformed),
            (6, Malformed)
        ]
    );
}
