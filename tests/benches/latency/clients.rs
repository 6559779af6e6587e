//! The processes of `tests/kafka/Latency.java`.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use crate::broker::java;
use crate::client::Client;

/// Ticks of the clock by which the kernel counts processor time.
pub const TICKS_PER_S: f64 = 100.0;

fn start(args: &[&str]) -> Client {
    Client::start(java("Latency").args(args))
}

/// The paced producer.
pub struct Producing(Client);

/// One phase of it, as it was.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Sent {
    /// Number of payments.
    pub sent: u64,
    pub from_ms: i64,
    pub to_ms: i64,
    /// How far it fell behind its own rate; large where this machine had no time for it.
    pub behind_ms_max: i64,
}

impl Sent {
    /// From when until when.
    pub fn span(&self) -> (i64, i64) {
        (self.from_ms, self.to_ms)
    }
}

impl Producing {
    /// Starts with the first of `(rate, seconds)`.
    pub fn start(
        brokers: &str,
        topic: &str,
        payments: &Path,
        populations: u32,
        hot_percent: u32,
        phases: &[(u32, u32)],
    ) -> Self {
        let phases: Vec<String> = phases
            .iter()
            .map(|(rate, seconds)| format!("{rate}x{seconds}"))
            .collect();
        Self(start(&[
            "produce",
            brokers,
            topic,
            payments.to_str().expect("a plain path"),
            &populations.to_string(),
            &hot_percent.to_string(),
            &phases.join(","),
        ]))
    }

    /// Waits for the end of the present phase.
    pub fn phase(&mut self) -> Sent {
        self.0.answer()
    }
}

/// The reader that measures.
pub struct Reading(Client);

impl Reading {
    /// Returns when it reads.
    pub fn start(brokers: &str, events: &str, decisions: &str) -> Self {
        let mut client = start(&["read", brokers, events, decisions]);
        let _: Value = client.answer();
        Self(client)
    }

    /// What it saw of the events appended within these spans, milliseconds of Unix time.
    pub fn report(&mut self, spans: &[(i64, i64)]) -> Value {
        let mut line = String::from("report");
        for (from_ms, to_ms) in spans {
            let _ = write!(line, " {from_ms} {to_ms}");
        }
        self.0.tell(format_args!("{line}"));
        self.0.answer()
    }

    /// The same once all that were sent are seen and decided, or the wait is over.
    pub fn report_when_all(&mut self, of: &Sent, within: Duration) -> Value {
        let begun = Instant::now();
        loop {
            let report = self.report(&[of.span()]);
            let seen = report["events"] == of.sent;
            if seen && report["events"] == report["decided"] || begun.elapsed() > within {
                return report;
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}

/// The bare copy.
pub struct Copying(Client);

impl Copying {
    /// Returns when it has its partitions.
    pub fn start(brokers: &str, from: &str, to: &str, delivery: &str, interval_ms: u32) -> Self {
        let mut client = start(&[
            "copy",
            brokers,
            from,
            to,
            delivery,
            &interval_ms.to_string(),
        ]);
        let _: Value = client.answer();
        Self(client)
    }

    /// The process.
    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

/// Processor time that a process has had, seconds.
pub fn cpu_s(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let behind_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    // User and system time are the 14th and 15th field; the state, behind the name, is the 3rd.
    let ticks = behind_name
        .split(' ')
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<f64>().ok());
    ticks.sum::<f64>() / TICKS_PER_S
}
