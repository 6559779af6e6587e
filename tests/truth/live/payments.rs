//! Simulated card payments on their way to a deployed pipeline.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::ops::Range;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::deployed::{DONE_WITHIN, Deployed};
use super::foreign::Foreign;
use crate::sanderling::simulate;

/// Payments in a file, and where they go.
pub struct Payments {
    file: PathBuf,
    /// Their topic.
    pub topic: String,
    group: String,
}

impl Payments {
    /// So many days of payments for `deployed`, whose topics are made. None is sent yet.
    pub fn simulated(deployed: &Deployed, foreign: &mut Foreign, seed: u64, days: u32) -> Self {
        deployed.create_topics(foreign, &["transactions", "labels"]);
        let file = deployed.beside("payments.jsonl");
        simulate(&file, seed, days, "2026-01-01");
        Self {
            file,
            topic: deployed.topic("transactions"),
            group: deployed.group(),
        }
    }

    /// Writes labels of every `nth` of the first `rows` payments to a file, and the request to send all of them,
    /// `rate` a second.
    pub fn sending_labels(&self, rows: usize, nth: usize, rate: u32, labels: &str) -> Value {
        let file = self.file.with_file_name("labels.jsonl");
        let mut written = BufWriter::new(File::create(&file).expect("a file"));
        let mut sent = 0;
        let payments = BufReader::new(File::open(&self.file).expect("payments"));
        for line in payments.lines().take(rows).step_by(nth) {
            let payment = serde_json::from_str(&line.expect("text")).expect("JSON");
            writeln!(written, "{}", label_of(&payment)).expect("a line");
            sent += 1;
        }
        json!({
            "do": "produce",
            "topic": labels,
            "file": file,
            "key": "card_id",
            "from": 0,
            "to": sent,
            "rate": rate,
        })
    }

    /// The request to send these of them, as fast as they go.
    pub fn sending(&self, rows: Range<usize>) -> Value {
        json!({
            "do": "produce",
            "topic": self.topic,
            "file": self.file,
            "key": "card_id",
            "from": rows.start,
            "to": rows.end,
        })
    }

    /// The same, so many a second.
    pub fn sending_at(&self, rate: u32, rows: Range<usize>) -> Value {
        let mut request = self.sending(rows);
        request["rate"] = rate.into();
        request
    }

    /// Waits until all that was sent is decided.
    pub fn wait_until_decided(&self, foreign: &mut Foreign) {
        foreign.wait_for_end(&self.group, &[&self.topic], DONE_WITHIN);
    }
}

/// The label of a simulated payment, known a second after it.
pub fn label_of(payment: &Value) -> Value {
    json!({
        "transaction_id": payment["transaction_id"],
        "card_id": payment["card_id"],
        "is_fraud": payment["is_fraud"],
        "known_at": payment["tx_time"].as_i64().expect("a time") + 1000,
    })
}
