//! Files read again in a recorded order.

use std::fs;
use std::path::{Path, PathBuf};

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sanderling_ingest::{FileOptions, IngestError, Input, LabelFileSpec, OrderedFiles, Wanted};
use sanderling_schemas::{
    DeadLetter, EventBatch, EventId, Offset, OffsetRange, OrderRecord, Partition, Run,
};

use crate::{MINUTE_US, drain, lines, open, order, payments};

/// Rows of a file: every seventh has a label, every ninth record is refused.
fn write(folder: &Path, name: &str, rows: i64) -> PathBuf {
    let path = folder.join(format!("{name}.jsonl"));
    let mut text = String::new();
    for n in 0..rows {
        let at = n * MINUTE_US / 1000;
        let label = match n % 7 {
            0 => format!(",\"fraud\":{}", n % 2),
            _ => String::new(),
        };
        let n_value = match n % 9 {
            4 => "\"none\"".to_string(),
            _ => n.to_string(),
        };
        text += &format!(
            "{{\"id\":\"{name}{n}\",\"at\":{at},\"card\":\"c\",\"n\":{n_value}{label}}}\n"
        );
    }
    fs::write(&path, text).unwrap();
    path
}

fn options() -> FileOptions {
    FileOptions {
        labels: Some(LabelFileSpec {
            column: "fraud".into(),
            delay_us: 30 * MINUTE_US,
        }),
        ..FileOptions::default()
    }
}

fn ordered(
    paths: &[&Path],
    options: FileOptions,
    records: &[Vec<Run>],
) -> Result<OrderedFiles, IngestError> {
    let (relation, specs) = payments();
    let inputs: Vec<Input> = paths
        .iter()
        .map(|path| Input {
            stream: "payments".into(),
            path: path.to_path_buf(),
        })
        .collect();
    let mut wanted = Wanted::default();
    records.iter().for_each(|runs| wanted.add(runs));
    OrderedFiles::open(relation, &specs, &inputs, options, wanted)
}

/// All rows of the records, in one lane, numbered as they come; and what was refused.
fn read(files: &mut OrderedFiles, records: &[Vec<Run>]) -> (Vec<EventBatch>, Vec<DeadLetter>) {
    let (mut batches, mut sequence) = (Vec::new(), 0);
    for runs in records {
        if let Some(mut batch) = files.read(None, runs).unwrap() {
            batch.sequence.0 = sequence;
            sequence += batch.len() as u64;
            batches.push(batch);
        }
    }
    files.finish().unwrap();
    (batches, files.take_rejected())
}

fn run(topic: &str, from: i64, next: i64) -> Run {
    Run {
        topic: topic.into(),
        partition: Partition(0),
        range: OffsetRange {
            from: Offset(from),
            next: Offset(next),
        },
    }
}

/// Ids of the rows that are not made of labels.
fn recorded(batch: &EventBatch) -> Vec<EventId> {
    (batch.ids.iter())
        .filter(|id| !id.topic.ends_with(".labels"))
        .cloned()
        .collect()
}

#[test]
fn the_order_that_a_reading_took_gives_the_same_rows() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (
        write(folder.path(), "one", 9000),
        write(folder.path(), "two", 700),
    );
    let paths: [&Path; 2] = [&one, &two];
    for rows_max in [1, 13, 4096] {
        let (batches, mut letters) = drain(&mut open(&paths, options()), rows_max);
        let records: Vec<Vec<Run>> = batches
            .iter()
            .map(|batch| OrderRecord::runs_of(&recorded(batch)))
            .collect();
        let mut files = ordered(&paths, options(), &records).unwrap();
        let (again, mut letters_again) = read(&mut files, &records);
        assert_eq!(lines(&again), lines(&batches), "batches of {rows_max}");
        let id = |letter: &DeadLetter| letter.event.clone();
        letters.sort_by_key(id);
        letters_again.sort_by_key(id);
        assert_eq!(letters_again, letters);
        assert_eq!(files.rows_left_out(), 0);
    }
}

#[test]
fn any_order_is_followed_and_labels_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (
        write(folder.path(), "one", 9000),
        write(folder.path(), "two", 700),
    );
    let paths: [&Path; 2] = [&one, &two];
    let (batches, _) = drain(&mut open(&paths, options()), 4096);
    let mut ids: Vec<EventId> = batches.iter().flat_map(recorded).collect();
    let mut random = ChaCha8Rng::seed_from_u64(7);
    ids.shuffle(&mut random);
    let mut records = Vec::new();
    let mut rest = &ids[..];
    while !rest.is_empty() {
        let (some, left) = rest.split_at(random.random_range(1..200).min(rest.len()));
        records.push(OrderRecord::runs_of(some));
        rest = left;
    }
    let mut files = ordered(&paths, options(), &records).unwrap();
    let (again, _) = read(&mut files, &records);
    let taken: Vec<EventId> = again.iter().flat_map(recorded).collect();
    assert_eq!(taken, ids);
    // Labels come before the first row that reaches them, in this order too.
    let names = order(&again);
    let times: Vec<i64> = again
        .iter()
        .flat_map(|b| b.event_times_us().to_vec())
        .collect();
    let mut newest = i64::MIN;
    let mut due: Vec<(i64, String)> = Vec::new();
    for (name, at) in names.iter().zip(times) {
        if name.starts_with("label:") {
            let found = due
                .iter()
                .position(|(known, label)| known == &at && label == name);
            due.remove(found.unwrap_or_else(|| panic!("{name} is not due")));
            continue;
        }
        newest = newest.max(at);
        assert!(due.iter().all(|(known, _)| *known > at), "before {name}");
        let n: i64 = name[3..].parse().unwrap();
        if n % 7 == 0 {
            due.push((at + 30 * MINUTE_US, format!("label:{name}={}", n % 2)));
        }
    }
    assert!(names.iter().any(|name| name.starts_with("label:")));
}

#[test]
fn lanes_have_labels_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "one", 60);
    let records = [vec![run("one", 0, 2)], vec![run("one", 40, 42)]];
    let mut files = ordered(&[&path], options(), &records).unwrap();
    let first = files.read(Some(0), &records[0]).unwrap().unwrap();
    assert_eq!(order(&[first]), ["one0", "one1"]);
    // The label of `one0` is known by now, but not in this lane.
    let other = files.read(Some(1), &records[1]).unwrap().unwrap();
    assert_eq!(order(&[other]), ["one41"]);
}

#[test]
fn what_is_not_there_or_there_twice_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "one", 60);
    let records = [vec![run("one", 50, 70)]];
    let mut files = ordered(&[&path], options(), &records).unwrap();
    let error = files.read(None, &records[0]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the order takes one/0/50..70, but the input has no one/0/60"
    );
    let records = [vec![run("one", 0, 5), run("other", 0, 1)]];
    let mut files = ordered(&[&path], options(), &records).unwrap();
    let error = files.read(None, &records[0]).unwrap_err();
    assert!(
        matches!(error, IngestError::NotInInput { offset: 0, .. }),
        "{error}"
    );
    let records = [
        vec![run("one", 0, 5)],
        vec![run("one", 10, 12), run("one", 4, 6)],
    ];
    let error = ordered(&[&path], options(), &records).err().unwrap();
    assert_eq!(error.to_string(), "one/0/4 stands twice in the order");
}

#[test]
fn rows_past_the_end_are_left_out_and_others_are_not_held() {
    let folder = tempfile::tempdir().unwrap();
    let path = write(folder.path(), "one", 60);
    let records = [vec![run("one", 30, 33)], vec![run("one", 7, 12)]];
    let until = FileOptions {
        to: Some(31 * MINUTE_US),
        ..options()
    };
    let mut files = ordered(&[&path], until, &records).unwrap();
    let (batches, letters) = read(&mut files, &records);
    assert_eq!(
        order(&batches),
        ["one30", "one7", "one8", "one9", "one10", "one11"]
    );
    // 4 and 13 and 22 are refused, and what is behind the end is as if it were not there.
    assert_eq!(letters.len(), 3);
    assert!(files.rows_left_out() > 40);
}
