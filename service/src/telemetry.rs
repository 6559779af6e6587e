//! Every metric of the live service: its name, its help and its labels, in one place.
//!
//! Names and labels are declared in [`Metrics::new`] and nowhere else; callers say what happened
//! (`metrics.batch(..)`, `metrics.rejected(..)`) and never name a metric. A label is one of a closed
//! set, or a stream, topic, partition or feature of the folder: never a card, a key or an event. Nothing
//! is global: two services in one process count apart.
//!
//! Counters and rates: a rate is `rate(..)` of a counter; an age is `time()` less a timestamp.

mod awaited;
mod declare;
mod labels;

use std::sync::Arc;
use std::time::Duration;

use prometheus::{Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, Registry, TextEncoder};
use sanderling_features::ParityReport;
use sanderling_schemas::{
    Action, DeadLetter, EventBatch, Flag, Partition, RejectReason, Relation, Rung,
};

pub use awaited::Awaited;
pub use declare::Declared;
pub use labels::{Stage, TransactionEnd};

use crate::clock::{now_us, unix_time};
use crate::line::Decided;
use declare::{Declare, Each, PartitionGauges};
use labels::{ParitySource, Part};

/// Content type of [`Metrics::render`].
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Bounds of latencies, seconds: fine around the deadline, coarse where only the alarm matters.
const LATENCY_S: [f64; 19] = [
    0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.075, 0.1, 0.2, 0.5,
    1.0, 2.0, 10.0, 60.0,
];
/// Bounds of what one stage takes, seconds.
const STAGE_S: [f64; 14] = [
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.5, 2.0,
];
/// Bounds of the rows of a batch.
const BATCH_ROWS: [f64; 9] = [
    1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0,
];
/// Bounds of what writing a checkpoint takes, seconds.
const CHECKPOINT_S: [f64; 9] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0];

/// All metrics of one service.
pub struct Metrics {
    registry: Registry,
    declared: Vec<Declared>,
    events: IntCounterVec,
    decisions: Each<Action, IntCounter>,
    state_only: IntCounter,
    dead_letters: Each<RejectReason, IntCounter>,
    late: IntCounter,
    backlog: IntCounter,
    capped: IntCounter,
    forgotten_keys: IntCounter,
    restored: IntCounter,
    batches: Each<Rung, IntCounter>,
    rung_decisions: Each<Rung, IntCounter>,
    batch_rows: Histogram,
    stages: Each<Stage, Histogram>,
    latency: Histogram,
    deadline_misses: Each<Part, IntCounter>,
    lag: PartitionGauges,
    transactions: Each<TransactionEnd, Histogram>,
    checkpoint_time: Histogram,
    checkpoint_bytes: IntGauge,
    checkpoint_at: Gauge,
    checkpoint_failures: IntCounter,
    parity_rows: Each<ParitySource, IntCounter>,
    parity_mismatches: IntCounterVec,
    parity_missing: IntCounter,
    parity_foreign: IntCounter,
    parity_log_rows: IntGauge,
    parity_time: Histogram,
    lanes: IntGauge,
    live: IntGauge,
    resident_bytes: IntGauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All metrics, at zero.
    pub fn new() -> Self {
        let mut declare = Declare::default();
        Self {
            events: declare.counters(
                "sanderling_events_total",
                "Events accepted, by stream; with the dead letters, all that came in",
                "stream",
            ),
            decisions: declare.counter_each(
                "sanderling_decisions_total",
                "Decisions, by action",
                "action",
                Action::ALL.map(|action| (action, action.as_str())),
            ),
            state_only: declare.counter(
                "sanderling_state_only_total",
                "Events that only moved state: labels, and streams that are not scored",
            ),
            dead_letters: declare.counter_each(
                "sanderling_dead_letters_total",
                "Refused records, by reason",
                "reason",
                RejectReason::ALL.map(|reason| (reason, reason.as_str())),
            ),
            late: declare.counter(
                "sanderling_late_total",
                "Decisions on events further behind their key's newest one than allowed",
            ),
            backlog: declare.counter(
                "sanderling_backlog_total",
                "Decisions on events that were past their deadline when they arrived",
            ),
            capped: declare.counter(
                "sanderling_capped_total",
                "Decisions on events with a key of more rows than state.rows_per_key_max: a window may miss the oldest",
            ),
            forgotten_keys: declare.counter(
                "sanderling_forgotten_keys_total",
                "Keys of windows that were silent for longer than any window reaches, and whose memory was given back; told at each checkpoint",
            ),
            restored: declare.counter(
                "sanderling_restored_events_total",
                "Events read again after a start, to bring the state back; nothing is written for them",
            ),
            batches: declare.counter_each(
                "sanderling_batches_total",
                "Batches, by the rung that scored them",
                "rung",
                Rung::ALL.map(|rung| (rung, rung.as_str())),
            ),
            rung_decisions: declare.counter_each(
                "sanderling_rung_decisions_total",
                "Decisions, by the rung that scored them",
                "rung",
                Rung::ALL.map(|rung| (rung, rung.as_str())),
            ),
            batch_rows: declare.histogram(
                "sanderling_batch_rows",
                "Rows of a batch",
                &BATCH_ROWS,
            ),
            stages: declare.histogram_each(
                "sanderling_stage_seconds",
                "What each stage takes of a batch",
                "stage",
                Stage::ALL.map(|stage| (stage, stage.as_str())),
                &STAGE_S,
            ),
            latency: declare.histogram(
                "sanderling_latency_seconds",
                "From the broker's append of an event to its decision's commit; at least once, to its hand-over to the producer",
                &LATENCY_S,
            ),
            deadline_misses: declare.counter_each(
                "sanderling_deadline_misses_total",
                "Decisions made after deadline_ms, backlog not counted, by the longest part of their way: the wait for the line, the line, or the commit",
                "part",
                Part::ALL.map(|part| (part, part.as_str())),
            ),
            lag: PartitionGauges::new(declare.gauges(
                "sanderling_lag_records",
                "Records of an owned partition that were not read yet",
                &["topic", "partition"],
            )),
            transactions: declare.histogram_each(
                "sanderling_transaction_seconds",
                "Transactions from their first record to their end, by how they ended",
                "end",
                TransactionEnd::ALL.map(|end| (end, end.as_str())),
                &LATENCY_S,
            ),
            checkpoint_time: declare.histogram(
                "sanderling_checkpoint_seconds",
                "What writing a checkpoint takes",
                &CHECKPOINT_S,
            ),
            checkpoint_bytes: declare.gauge(
                "sanderling_checkpoint_bytes",
                "Size of the newest checkpoint",
            ),
            checkpoint_at: declare.gauge_of_seconds(
                "sanderling_checkpoint_timestamp_seconds",
                "When the newest checkpoint was finished, Unix time; 0 before the first",
            ),
            checkpoint_failures: declare.counter(
                "sanderling_checkpoint_failures_total",
                "Checkpoints that could not be written",
            ),
            parity_rows: declare.counter_each(
                "sanderling_parity_rows_total",
                "Decided rows whose features were computed again by other means, by where the rows of their windows came from",
                "source",
                [
                    (ParitySource::Log, "log"),
                    (ParitySource::Both, "both"),
                    (ParitySource::Rings, "rings"),
                ],
            ),
            parity_mismatches: declare.counters(
                "sanderling_parity_mismatches_total",
                "Features that were served and are not what their rows say; the log names the events",
                "feature",
            ),
            parity_missing: declare.counter(
                "sanderling_parity_missing_rows_total",
                "Rows that the log has of a checked row's keys and windows do not keep",
            ),
            parity_foreign: declare.counter(
                "sanderling_parity_foreign_rows_total",
                "Rows that windows keep of a checked row's keys and the log does not have",
            ),
            parity_log_rows: declare.gauge(
                "sanderling_parity_log_rows",
                "Rows of the log that are kept for the parity check",
            ),
            parity_time: declare.histogram(
                "sanderling_parity_seconds",
                "What computing a row again takes, on a thread that lets all others go first",
                &STAGE_S,
            ),
            lanes: declare.gauge(
                "sanderling_lanes",
                "Lanes that this instance owns: folds with a state of their own",
            ),
            live: declare.gauge(
                "sanderling_live",
                "1 while events are decided as they come; 0 while starting, restoring or draining",
            ),
            resident_bytes: declare.gauge(
                "sanderling_resident_bytes",
                "Memory of the process that is in RAM",
            ),
            registry: declare.registry,
            declared: declare.declared,
        }
    }

    /// A batch was accepted from the source.
    pub fn taken(&self, relation: &Relation, batch: &EventBatch) {
        let mut rows = vec![0_u64; relation.streams.len()];
        for stream in batch.streams() {
            rows[*stream as usize] += 1;
        }
        for (stream, rows) in relation.streams.iter().zip(rows) {
            if rows > 0 {
                self.events.with_label_values(&[&*stream.name]).inc_by(rows);
            }
        }
        self.batch_rows.observe(batch.len() as f64);
    }

    /// A batch's decisions were handed to the producer.
    pub fn batch(&self, decided: &Decided) {
        let decisions = decided.decisions.len() as u64;
        for decision in &decided.decisions {
            self.decisions.of(decision.action).inc();
        }
        let flagged = |flag: Flag| {
            let with = decided.decisions.iter().filter(|d| d.flags.contains(&flag));
            with.count() as u64
        };
        self.late.inc_by(flagged(Flag::Late));
        self.backlog.inc_by(flagged(Flag::Backlog));
        self.capped.inc_by(flagged(Flag::Capped));
        self.rejected(&decided.dead_letters);
        let refused = decided.dead_letters.len() as u64;
        self.state_only
            .inc_by(decided.rows as u64 - decisions - refused);
        self.batches.of(decided.order.rung).inc();
        self.rung_decisions.of(decided.order.rung).inc_by(decisions);
        let timing = &decided.timing;
        for (stage, us) in [
            (Stage::Wait, timing.wait_us),
            (Stage::Features, timing.features_us),
            (Stage::Score, timing.score_us),
            (Stage::Explain, timing.explain_us),
        ] {
            self.stage(stage, Duration::from_micros(us));
        }
    }

    /// These decisions can be read now, `deadline` being what each had.
    pub fn visible(&self, decided: impl Iterator<Item = Awaited>, deadline: Duration) {
        let now_us = now_us();
        for awaited in decided {
            let took = awaited.took(now_us);
            self.latency.observe(took.as_secs_f64());
            if took > deadline && !awaited.is_backlog() {
                self.deadline_misses.of(awaited.longest(now_us)).inc();
            }
        }
    }

    /// Records were refused.
    pub fn rejected(&self, letters: &[DeadLetter]) {
        for letter in letters {
            self.dead_letters.of(letter.reason).inc();
        }
    }

    /// So many more keys were forgotten.
    pub fn forgotten(&self, keys: u64) {
        self.forgotten_keys.inc_by(keys);
    }

    /// Events were folded again, silently.
    pub fn restored(&self, rows: usize) {
        self.restored.inc_by(rows as u64);
    }

    /// A stage took this long of a batch. [`Metrics::batch`] tells those of the line.
    pub fn stage(&self, stage: Stage, took: Duration) {
        self.stages.of(stage).observe(took.as_secs_f64());
    }

    /// A transaction ended, `took` after its first record.
    pub fn transaction(&self, end: TransactionEnd, took: Duration) {
        self.transactions.of(end).observe(took.as_secs_f64());
    }

    /// A row was computed again.
    pub fn parity(&self, report: &ParityReport, took: Duration) {
        let source = match report.from_log {
            0 => ParitySource::Rings,
            all if all == report.checked => ParitySource::Log,
            _ => ParitySource::Both,
        };
        self.parity_rows.of(source).inc();
        self.parity_missing.inc_by(report.missing as u64);
        self.parity_foreign.inc_by(report.foreign as u64);
        self.parity_time.observe(took.as_secs_f64());
        for feature in &report.mismatches {
            self.parity_mismatches.with_label_values(&[feature]).inc();
        }
    }

    /// So many rows of the log are kept to compute others again.
    pub fn parity_log(&self, rows: usize) {
        self.parity_log_rows.set(rows as i64);
    }

    /// A checkpoint was finished.
    pub fn checkpoint(&self, took: Duration, bytes: u64) {
        self.checkpoint_time.observe(took.as_secs_f64());
        self.checkpoint_bytes.set(bytes as i64);
        self.checkpoint_at.set(unix_time().as_secs_f64());
    }

    /// A checkpoint could not be written.
    pub fn checkpoint_failed(&self) {
        self.checkpoint_failures.inc();
    }

    /// Records behind, of every owned partition; those not named are no longer owned.
    pub fn lag(&self, partitions: &[(Arc<str>, Partition, i64)]) {
        self.lag.set(partitions);
    }

    /// This many lanes are owned.
    pub fn lanes(&self, owned: usize) {
        self.lanes.set(owned as i64);
    }

    /// Everything, in Prometheus' text format; `live` is what the health endpoint knows.
    pub fn render(&self, live: bool) -> String {
        self.live.set(i64::from(live));
        self.resident_bytes.set(resident_bytes() as i64);
        TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .expect("declared metrics have a text form")
    }

    /// What there is, in the order of declaration.
    pub fn declared(&self) -> &[Declared] {
        &self.declared
    }
}

/// Resident memory now; 0 where the system does not tell.
fn resident_bytes() -> u64 {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        })
        .map_or(0, |kib| kib * 1024)
}

#[cfg(test)]
mod tests;
