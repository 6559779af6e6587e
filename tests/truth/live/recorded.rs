//! What was served, folded again: from the topics, or from a file of what a foreign consumer read.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::deployed::Deployed;
use super::foreign::Record;
use crate::outcome::Outcome;
use crate::sanderling::{answer_of, command};

/// Replays a pipeline as the arguments say; returns the folder of what came out.
pub fn replay(deployed: &Deployed, args: &[&str]) -> PathBuf {
    let out = deployed.beside("replayed");
    let mut replay = command(&["replay", "--json"]);
    replay.arg(deployed.folder()).args(args);
    replay.arg("--out").arg(&out);
    answer_of(replay);
    out
}

/// What a replay makes of records alone, all by the full model.
pub fn replay_of(deployed: &Deployed, records: &[Record]) -> Outcome {
    let file = deployed.beside("recorded.jsonl");
    record(records, &file);
    let file = file.to_str().expect("a plain path");
    Outcome::read(&replay(deployed, &["--input", file]))
}

/// Writes records as lines of JSON with their coordinates, less the label that a payment's own
/// stream does not carry.
pub fn record(records: &[Record], file: &Path) {
    let mut lines = std::io::BufWriter::new(File::create(file).expect("a file"));
    for record in records {
        let mut row = record.json();
        let fields = row.as_object_mut().expect("an object");
        if fields.contains_key("tx_time") {
            fields.remove("is_fraud");
        }
        fields.insert("_topic".into(), record.topic.as_str().into());
        fields.insert("_partition".into(), record.partition.into());
        fields.insert("_offset".into(), record.offset.into());
        fields.insert("_broker_time".into(), record.timestamp.into());
        writeln!(lines, "{row}").expect("a line");
    }
    lines.flush().expect("a file");
}
