//! `sanderling simulate`: a seeded stream with planted frauds, to a file or to topics.

use std::collections::VecDeque;
use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use sanderling_ingest::IngestError;
use sanderling_ingest::simulate::{Options, Payment, Simulator, write_payments};
use sanderling_schemas::EventTime;
use serde::Serialize;

use crate::failure::Failure;
use crate::kafka::{Record, TopicWriter};
use crate::settings::KafkaSettings;

/// Topics that `pipelines/card-fraud` reads.
const PAYMENTS_TOPIC: &str = "payments";
const LABELS_TOPIC: &str = "payment-labels";

/// What to simulate, and where to.
pub struct SimulateOptions {
    /// The same seed gives the same payments.
    pub seed: u64,
    /// Days.
    pub days: u32,
    /// First day; the simulator's own by default.
    pub start: Option<EventTime>,
    /// A file, or `kafka`.
    pub out: String,
    /// To kafka: payments a second.
    pub rate: u32,
    /// To kafka: from sending a payment to sending its label.
    pub label_delay: Duration,
    /// To kafka: bootstrap servers.
    pub brokers: String,
}

/// What was simulated.
#[derive(Debug, Serialize)]
pub struct Simulated {
    out: String,
    rows: u64,
    frauds: u64,
    seconds: f64,
}

impl fmt::Display for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} payments, {} of them fraud, in {:.1} s",
            self.out, self.rows, self.frauds, self.seconds
        )
    }
}

/// Card payments with three kinds of fraud.
pub fn card_fraud(options: &SimulateOptions) -> Result<Simulated, Failure> {
    let started = Instant::now();
    let defaults = Options::default();
    let simulator = Simulator::new(Options {
        seed: options.seed,
        days: options.days,
        start_ms: options
            .start
            .map_or(defaults.start_ms, |start| start.0 / 1_000),
        ..defaults
    })
    .map_err(failed)?;
    let (rows, frauds) = match options.out.as_str() {
        "kafka" => send(simulator, options)?,
        file => {
            let written = write_payments(Path::new(file), simulator).map_err(failed)?;
            (written.rows, written.frauds)
        }
    };
    Ok(Simulated {
        out: options.out.clone(),
        rows,
        frauds,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// Sends payments at the rate, stamped with the time of sending, and their labels after the delay.
fn send(simulator: Simulator, options: &SimulateOptions) -> Result<(u64, u64), Failure> {
    let kafka = KafkaSettings {
        brokers: options.brokers.clone(),
        ..KafkaSettings::default()
    };
    let writer = TopicWriter::new(&kafka)?;
    let started = Instant::now();
    let mut unlabelled: VecDeque<(Instant, Payment)> = VecDeque::new();
    let (mut rows, mut frauds) = (0u64, 0u64);
    for payment in simulator {
        let due = Duration::from_secs_f64(rows as f64 / f64::from(options.rate.max(1)));
        if let Some(early) = due.checked_sub(started.elapsed()) {
            std::thread::sleep(early);
        }
        let now = Instant::now();
        while let Some((_, labelled)) = unlabelled.pop_front_if(|(at, _)| *at <= now) {
            send_label(&writer, &labelled)?;
        }
        let event = payment.to_event_json(chrono::Utc::now().timestamp_millis());
        writer.send(&Record {
            topic: PAYMENTS_TOPIC.into(),
            key: payment.card_id().into_bytes(),
            payload: event.into_bytes(),
            timing: None,
        })?;
        unlabelled.push_back((now + options.label_delay, payment));
        rows += 1;
        frauds += u64::from(payment.fraud.is_some());
    }
    for (at, labelled) in unlabelled {
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        send_label(&writer, &labelled)?;
    }
    writer.flush()?;
    Ok((rows, frauds))
}

fn send_label(writer: &TopicWriter, payment: &Payment) -> Result<(), Failure> {
    let label = payment.to_label_json(chrono::Utc::now().timestamp_millis());
    writer.send(&Record {
        topic: LABELS_TOPIC.into(),
        key: payment.card_id().into_bytes(),
        payload: label.into_bytes(),
        timing: None,
    })
}

fn failed(e: IngestError) -> Failure {
    Failure::new("simulate", e.to_string())
        .cure("name a .parquet, .csv or .jsonl file in a folder that is there")
}
