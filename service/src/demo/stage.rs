//! The world of a demo: simulated payments, the part of them that is history, and the live rest
//! with its labels.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sanderling_ingest::simulate::{FraudKind, Options, Payment, Simulator, write_payments};
use sanderling_ingest::{IngestError, Input};
use sanderling_schemas::EventTime;
use serde_json::Value;
use tempfile::TempDir;

use super::screen::Planted;
use super::{DemoOptions, Run};
use crate::failure::{Failure, io_failure};
use crate::folder::PipelineFolder;
use crate::kafka::{Record, TopicWriter};

/// Days folded before the first live payment: more than the longest window.
const HISTORY_DAYS: u32 = 35;
/// Days until a label is known, as in the pipeline's own `labels.file`.
const LABEL_DELAY_MS: i64 = 7 * DAY_MS;
const DAY_MS: i64 = 86_400_000;
const HISTORY_FILE: &str = "history.parquet";

/// Topics of the pipeline.
pub struct Topics {
    pub payments: String,
    pub labels: Option<String>,
    pub decisions: String,
    others: Vec<String>,
}

impl Topics {
    /// The topics of `pipeline.yaml`, those that a demo cannot do without among them.
    pub fn of(folder: &PipelineFolder) -> Result<Self, Failure> {
        let missing = |what: &str| {
            Failure::new(
                "config",
                format!("the pipeline names no topic for its {what}"),
            )
            .in_file(&folder.path.join("pipeline.yaml"))
            .cure("run the demo on pipelines/card-fraud, or name the topic")
        };
        let settings = &folder.settings;
        let topic = |stream: &str| settings.streams.get(stream).and_then(|s| s.topic.clone());
        let output = &settings.output;
        Ok(Self {
            payments: topic(&settings.score[0]).ok_or_else(|| missing("payments"))?,
            labels: settings
                .labels
                .as_ref()
                .and_then(|labels| topic(&labels.stream)),
            decisions: output
                .decisions
                .clone()
                .ok_or_else(|| missing("decisions"))?,
            others: [&output.dead_letters, &output.order]
                .into_iter()
                .flatten()
                .cloned()
                .collect(),
        })
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        [&self.payments, &self.decisions]
            .into_iter()
            .chain(&self.labels)
            .chain(&self.others)
            .map(String::as_str)
    }
}

/// Payments of a demo: history in a file, the rest in memory.
pub struct Stage {
    folder: TempDir,
    stream: Arc<str>,
    live: Vec<Payment>,
    /// Payments whose labels are not known when the history ends, in the order in which they will be.
    unlabelled: Vec<Payment>,
    live_from_ms: i64,
    day_seconds: f64,
}

impl Stage {
    /// Simulates as many days as the demo will need, ending a little before now.
    pub fn set(options: &DemoOptions, stream: &str) -> Result<Self, Failure> {
        let defaults = Options::default();
        let payments_a_day = f64::from(defaults.cards) * defaults.payments_per_card_day;
        let wanted = (f64::from(options.rate) * options.duration.as_secs_f64()).ceil();
        let days = HISTORY_DAYS + (wanted / payments_a_day * 1.2).ceil() as u32 + 1;
        let now_ms = chrono::Utc::now().timestamp_millis();
        let start_ms = now_ms - now_ms.rem_euclid(DAY_MS) - i64::from(days) * DAY_MS;
        let live_from_ms = start_ms + i64::from(HISTORY_DAYS) * DAY_MS;
        let failed = |e: IngestError| Failure::new("simulate", e.to_string());
        let simulator = Simulator::new(Options {
            seed: options.seed,
            days,
            start_ms,
            ..defaults
        })
        .map_err(failed)?;
        let (history, mut live): (Vec<Payment>, Vec<Payment>) =
            simulator.partition(|payment| payment.tx_time_ms < live_from_ms);
        live.truncate(wanted as usize);
        let last_ms = history
            .last()
            .map_or(i64::MIN, |payment| payment.tx_time_ms);
        let unlabelled = history
            .iter()
            .chain(&live)
            .filter(|payment| payment.tx_time_ms + LABEL_DELAY_MS > last_ms)
            .copied()
            .collect();
        let folder = tempfile::tempdir()
            .map_err(|e| io_failure(&std::env::temp_dir(), "make a temporary folder", &e))?;
        write_payments(&folder.path().join(HISTORY_FILE), history.into_iter()).map_err(failed)?;
        Ok(Self {
            folder,
            stream: stream.into(),
            live,
            unlabelled,
            live_from_ms,
            day_seconds: payments_a_day / f64::from(options.rate),
        })
    }

    /// What is about to be seen.
    pub fn announcement(&self, options: &DemoOptions) -> String {
        format!(
            "{HISTORY_DAYS} days of simulated history, then {} payments at {} a second; \
             a simulated day passes in {:.0} s",
            self.live.len(),
            options.rate,
            self.day_seconds
        )
    }

    /// Time of the first live payment, or just before it.
    pub fn live_from(&self) -> EventTime {
        EventTime(self.live_from_ms * 1_000)
    }

    /// The history as a recorded file.
    pub fn history(&self) -> Vec<Input> {
        vec![Input {
            stream: self.stream.clone(),
            path: self.folder.path().join(HISTORY_FILE),
        }]
    }

    /// The fraud that was planted in a live payment, told by its offset in the payments topic.
    pub fn planted(&self, decision: &Value) -> Option<Planted> {
        let offset = decision["event"]["offset"].as_u64()?;
        let kind = self.live.get(offset as usize)?.fraud?;
        let cause = match kind {
            FraudKind::StolenCard => "card",
            FraudKind::SkimmedTerminal => "terminal",
            FraudKind::DeviceRing => "device",
        };
        Some(Planted {
            kind: kind.as_str(),
            cause,
        })
    }

    /// Sends the live payments at the demo's rate, once the consumer reads, and each label when
    /// simulated time reaches it.
    pub fn send_payments(
        &self,
        options: &DemoOptions,
        topics: &Topics,
        [writer, label_writer]: [&TopicWriter; 2],
        run: &Run,
    ) -> Result<(), Failure> {
        while !run.live.load(Ordering::Acquire) {
            if run.stop.load(Ordering::Acquire) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let started = Instant::now();
        let mut unlabelled = self.unlabelled.iter().peekable();
        for (number, payment) in self.live.iter().enumerate() {
            let due = Duration::from_secs_f64(number as f64 / f64::from(options.rate));
            if let Some(early) = due.checked_sub(started.elapsed()) {
                std::thread::sleep(early);
            }
            if run.stop.load(Ordering::Acquire) {
                return Ok(());
            }
            let known =
                |labelled: &&Payment| labelled.tx_time_ms + LABEL_DELAY_MS <= payment.tx_time_ms;
            while let Some(labelled) = unlabelled.next_if(known) {
                if let Some(topic) = &topics.labels {
                    let label = labelled.to_label_json(labelled.tx_time_ms + LABEL_DELAY_MS);
                    label_writer.send(&Record {
                        topic: topic.as_str().into(),
                        key: labelled.card_id().into_bytes(),
                        payload: label.into_bytes(),
                        timing: None,
                    })?;
                }
            }
            let event = payment.to_event_json(payment.tx_time_ms);
            writer.send(&Record {
                topic: topics.payments.as_str().into(),
                key: payment.card_id().into_bytes(),
                payload: event.into_bytes(),
                timing: None,
            })?;
            run.sent.fetch_add(1, Ordering::Release);
        }
        writer.flush()?;
        label_writer.flush()?;
        run.all_sent.store(true, Ordering::Release);
        Ok(())
    }
}
