//! What a foreign consumer read, as a file of rows that know where they came from.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::foreign::Record;

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
