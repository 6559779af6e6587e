//! Order, labels and positions of files.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sanderling_ingest::{
    EventSource, FileOptions, FileSource, IngestError, Input, LabelFileSpec, Position, SourceEvent,
};

use crate::{MINUTE_US, drain, lines, open, order, payments};

/// Rows (id, minute, label) as a .jsonl file.
fn write(folder: &Path, name: &str, rows: &[(&str, i64, Option<i64>)]) -> PathBuf {
    let path = folder.join(format!("{name}.jsonl"));
    let mut text = String::new();
    for (id, minute, label) in rows {
        let at = minute * MINUTE_US / 1000;
        let label = label.map_or(String::new(), |label| format!(",\"fraud\":{label}"));
        text += &format!("{{\"id\":\"{id}\",\"at\":{at},\"card\":\"c\"{label}}}\n");
    }
    fs::write(&path, text).unwrap();
    path
}

fn labelled(delay_minutes: i64) -> FileOptions {
    let delay_us = delay_minutes * MINUTE_US;
    FileOptions {
        labels: Some(LabelFileSpec {
            column: "fraud".into(),
            delay_us,
        }),
        ..FileOptions::default()
    }
}

#[test]
fn several_files_are_merged_by_their_heads_and_one_is_not_sorted() {
    let folder = tempfile::tempdir().unwrap();
    let one = write(
        folder.path(),
        "one",
        &[("a", 5, None), ("b", 2, None), ("c", 9, None)],
    );
    let two = write(
        folder.path(),
        "two",
        &[("x", 5, None), ("y", 6, None), ("z", 1, None)],
    );
    let (batches, _) = drain(&mut open(&[&one], FileOptions::default()), 2);
    assert_eq!(order(&batches), ["a", "b", "c"]);
    // A tie goes to the file named first; what stands behind a late head waits for it.
    let (batches, _) = drain(&mut open(&[&one, &two], FileOptions::default()), 4);
    assert_eq!(order(&batches), ["a", "b", "x", "y", "z", "c"]);
    let (batches, _) = drain(&mut open(&[&two, &one], FileOptions::default()), 4);
    assert_eq!(order(&batches), ["x", "a", "b", "y", "z", "c"]);
}

#[test]
fn a_label_stands_before_the_first_row_that_reaches_it() {
    let folder = tempfile::tempdir().unwrap();
    let rows = [
        ("a", 0, Some(1)),
        ("b", 3, Some(0)),
        ("c", 1, Some(1)),
        ("d", 10, None),
        ("e", 11, Some(0)),
        ("f", 13, Some(1)),
        ("g", 40, None),
    ];
    let path = write(folder.path(), "one", &rows);
    let expected = [
        "a",
        "b",
        "c",
        "label:a=1",
        "d",
        "label:c=1",
        "e",
        "label:b=0",
        "f",
        "label:e=0",
        "label:f=1",
        "g",
    ];
    for rows_max in 1..=12 {
        let (batches, _) = drain(&mut open(&[&path], labelled(10)), rows_max);
        assert_eq!(order(&batches), expected);
        let lines = lines(&batches);
        assert_eq!(
            lines[3],
            "3 one.labels/0/0 1970-01-01T00:10:00 labels a - - - 1"
        );
        assert_eq!(
            lines[9],
            "9 one.labels/0/3 1970-01-01T00:21:00 labels e - - - 0"
        );
    }
    // What is not reached is not told.
    let (batches, _) = drain(&mut open(&[&path], labelled(40)), 100);
    assert_eq!(
        order(&batches)
            .iter()
            .filter(|id| id.starts_with("label"))
            .count(),
        1
    );
}

#[test]
fn rows_at_or_past_the_end_are_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let rows = [
        ("a", 0, Some(1)),
        ("b", 30, None),
        ("c", 19, None),
        ("d", 20, None),
    ];
    let path = write(folder.path(), "one", &rows);
    let options = FileOptions {
        to: Some(20 * MINUTE_US),
        ..labelled(19)
    };
    let (batches, letters) = drain(&mut open(&[&path], options), 10);
    assert_eq!(order(&batches), ["a", "label:a=1", "c"]);
    assert!(letters.is_empty());
}

#[test]
fn recorded_origins_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rec.jsonl");
    let line =
        |id: &str, rest: &str| format!("{{\"id\":\"{id}\",\"at\":0,\"card\":\"c\"{rest}}}\n");
    let origin = ",\"_topic\":\"pay\",\"_partition\":3,\"_offset\":17";
    let text = line("a", origin) + &line("b", "") + &line("c\",\"n\":\"x", origin);
    fs::write(&path, text).unwrap();
    let (batches, letters) = drain(&mut open(&[&path], FileOptions::default()), 10);
    let ids: Vec<String> = batches[0].ids.iter().map(|id| id.to_string()).collect();
    assert_eq!(ids, ["pay/3/17", "rec/0/1"]);
    assert_eq!(letters[0].event.to_string(), "pay/3/17");
    assert!(batches[0].broker_time_us.is_empty());
}

/// A few thousand rows in two files, out of order, some of them bad, with labels.
fn disordered(folder: &Path, seed: u64) -> [PathBuf; 2] {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    ["one", "two"].map(|name| {
        let path = folder.join(format!("{name}.jsonl"));
        let mut text = String::new();
        for row in 0..1500 {
            let at = row * 60_000 + rng.random_range(-600_000..600_000);
            match rng.random_range(0..20) {
                0 => text += "{\"id\": broken}\n",
                1 => text += &format!("{{\"id\":\"{name}{row}\",\"at\":{at},\"card\":null}}\n"),
                _ => {
                    let fraud = rng.random_range(0..2);
                    text += &format!(
                        "{{\"id\":\"{name}{row}\",\"at\":{at},\"card\":\"c\",\"fraud\":{fraud}}}\n"
                    );
                }
            }
        }
        fs::write(&path, text).unwrap();
        path
    })
}

#[test]
fn a_resumed_source_goes_on_where_the_first_one_stood() {
    let folder = tempfile::tempdir().unwrap();
    let [one, two] = disordered(folder.path(), 7);
    let options = || FileOptions {
        to: Some(80_000_000_000),
        ..labelled(60)
    };
    let paths = [one.as_path(), two.as_path()];
    let (batches, letters) = drain(&mut open(&paths, options()), 4096);
    let (whole, refused) = (lines(&batches), letters);
    assert!(
        whole.len() > 4000 && refused.len() > 100,
        "{} {}",
        whole.len(),
        refused.len()
    );

    let mut rng = ChaCha8Rng::seed_from_u64(8);
    for _ in 0..25 {
        let mut first = open(&paths, options());
        let (mut batches, mut letters) = (Vec::new(), Vec::new());
        let rows_max = rng.random_range(1..700);
        for _ in 0..rng.random_range(0..30) {
            match first.next(rows_max, Duration::ZERO).unwrap() {
                SourceEvent::Batch(batch) => batches.push(batch),
                SourceEvent::Rejected(more) => letters.extend(more),
                _ => break,
            }
        }
        let saved = serde_json::to_string(&first.position()).unwrap();
        let position: Position = serde_json::from_str(&saved).unwrap();
        let mut second = open(&paths, options());
        second.resume(&position).unwrap();
        assert_eq!(second.position(), position);
        let (rest, more) = drain(&mut second, rng.random_range(1..700));
        batches.extend(rest);
        letters.extend(more);
        assert_eq!(lines(&batches), whole);
        assert_eq!(letters, refused);
    }
    let past = Position::Files {
        accepted: whole.len() as u64 + 1,
        rejected: 0,
    };
    let outcome = open(&paths, options()).resume(&past);
    assert!(
        matches!(outcome, Err(IngestError::ResumePastEnd { .. })),
        "{outcome:?}"
    );
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let (relation, specs) = payments();
    let error = |name: &str, content: &str| {
        let path = folder.path().join(name);
        if !content.is_empty() {
            fs::write(&path, content).unwrap();
        }
        let input = Input {
            stream: "payments".into(),
            path,
        };
        FileSource::open(relation.clone(), &specs, &[input], FileOptions::default())
            .err()
            .unwrap_or_else(|| panic!("{name} was opened"))
            .to_string()
    };
    assert!(error("none.csv", "").contains("none.csv"));
    assert!(error("pay.txt", "x").contains(".parquet, .csv or .jsonl"));
    assert!(error("bad.parquet", "PAR1 nothing").contains("bad.parquet"));
    let missing = error("lacks.csv", "id,at,amount,n\n");
    assert!(
        missing.contains("no column card") && missing.contains("id, at, amount, n"),
        "{missing}"
    );
}
