//! What became of the input: counters that must add up, and who was caught.
//!
//! `in = decided + dead-lettered + state-only`, always. A fraud counts as caught when the decision
//! on it was not to approve; it is known to be one only when its label arrives.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use sanderling_schemas::{Action, DeadLetter, Decision, Flag, KnownLabel};
use serde::{Deserialize, Serialize};

/// A set of sequence numbers, one bit each.
#[derive(Debug, Clone, Default)]
struct Sequences(Vec<u64>);

impl Sequences {
    fn insert(&mut self, sequence: u64) {
        let word = (sequence / 64) as usize;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (sequence % 64);
    }

    fn contains(&self, sequence: u64) -> bool {
        self.0
            .get((sequence / 64) as usize)
            .is_some_and(|word| word >> (sequence % 64) & 1 == 1)
    }
}

impl Serialize for Sequences {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes: Vec<u8> = self.0.iter().flat_map(|word| word.to_le_bytes()).collect();
        serializer.serialize_str(&BASE64.encode(bytes))
    }
}

impl<'de> Deserialize<'de> for Sequences {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = BASE64.decode(text).map_err(serde::de::Error::custom)?;
        let words = bytes
            .chunks_exact(8)
            .map(|word| u64::from_le_bytes(word.try_into().expect("chunks of eight")));
        Ok(Self(words.collect()))
    }
}

/// Running counts.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Tally {
    rows_in: u64,
    decided: u64,
    dead_lettered: u64,
    late: u64,
    actions: BTreeMap<Action, u64>,
    caught: u64,
    missed: u64,
    judged: Sequences,
    flagged: Sequences,
}

impl Tally {
    /// Counts a batch of `rows` rows and what was decided of them.
    pub fn decided(&mut self, rows: usize, decisions: &[Decision], labels: &[KnownLabel]) {
        self.rows_in += rows as u64;
        self.decided += decisions.len() as u64;
        for decision in decisions {
            *self.actions.entry(decision.action).or_default() += 1;
            self.late += u64::from(decision.flags.contains(&Flag::Late));
            self.judged.insert(decision.sequence.0);
            if decision.action != Action::Approve {
                self.flagged.insert(decision.sequence.0);
            }
        }
        for label in labels {
            if label.value > 0.5 && !label.reversal && self.judged.contains(label.of.0) {
                match self.flagged.contains(label.of.0) {
                    true => self.caught += 1,
                    false => self.missed += 1,
                }
            }
        }
    }

    /// Counts refused records.
    pub fn rejected(&mut self, letters: &[DeadLetter]) {
        self.rows_in += letters.len() as u64;
        self.dead_lettered += letters.len() as u64;
    }

    /// Rows that were read, whatever became of them.
    pub fn rows_in(&self) -> u64 {
        self.rows_in
    }

    /// Events that were decided.
    pub fn decided_total(&self) -> u64 {
        self.decided
    }

    /// The summary after `seconds`, in which `decided_now` decisions were made.
    pub fn summary(
        &self,
        has_labels: bool,
        decided_now: u64,
        seconds: f64,
        latency_us: Option<LatencySummary>,
    ) -> Summary {
        let actions = Action::ALL.map(|action| {
            (
                action.as_str().into(),
                self.actions.get(&action).copied().unwrap_or(0),
            )
        });
        Summary {
            rows_in: self.rows_in,
            decided: self.decided,
            dead_lettered: self.dead_lettered,
            state_only: self.rows_in - self.decided - self.dead_lettered,
            late: self.late,
            actions: actions.into_iter().collect(),
            fraud: has_labels.then_some(FraudSummary {
                caught: self.caught,
                missed: self.missed,
            }),
            events_per_s: if seconds > 0.0 {
                (decided_now as f64 / seconds).round()
            } else {
                0.0
            },
            seconds: (seconds * 1e3).round() / 1e3,
            latency_us,
            rss_mb: rss_mb(),
        }
    }
}

/// `summary.json`, and the last line of `--json`.
#[derive(Debug, Clone, Serialize)]
pub struct Summary {
    /// Rows read, label rows made from a column among them.
    #[serde(rename = "in")]
    pub rows_in: u64,
    /// Events with a decision.
    pub decided: u64,
    /// Refused records.
    pub dead_lettered: u64,
    /// Rows that only moved state.
    pub state_only: u64,
    /// Decisions flagged late.
    pub late: u64,
    /// Decisions by action.
    pub actions: BTreeMap<String, u64>,
    /// Known frauds; null without labels.
    pub fraud: Option<FraudSummary>,
    /// Decided / seconds.
    pub events_per_s: f64,
    /// Wall time of this run.
    pub seconds: f64,
    /// From the broker's append to the decision's receipt; null without a broker.
    pub latency_us: Option<LatencySummary>,
    /// Peak resident memory, MiB.
    pub rss_mb: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} in = {} decided + {} dead-lettered + {} state-only; {} late",
            self.rows_in, self.decided, self.dead_lettered, self.state_only, self.late
        )?;
        let actions: Vec<String> = self
            .actions
            .iter()
            .map(|(a, n)| format!("{a} {n}"))
            .collect();
        writeln!(f, "{}", actions.join(", "))?;
        if let Some(fraud) = &self.fraud {
            writeln!(f, "fraud: {} caught, {} missed", fraud.caught, fraud.missed)?;
        }
        if let Some(latency) = &self.latency_us {
            let ms = |us: u64| us as f64 / 1e3;
            writeln!(
                f,
                "append to decision: p50 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms",
                ms(latency.p50),
                ms(latency.p99),
                ms(latency.p999)
            )?;
        }
        write!(
            f,
            "{} events/s over {} s, {} MiB",
            self.events_per_s, self.seconds, self.rss_mb
        )
    }
}

/// Known frauds: those whose label arrived or, in a demo, those that were planted.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct FraudSummary {
    /// Not approved.
    pub caught: u64,
    /// Approved.
    pub missed: u64,
}

/// Quantiles, microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
#[allow(missing_docs)]
pub struct LatencySummary {
    pub p50: u64,
    pub p99: u64,
    pub p999: u64,
}

/// Peak resident memory of this process, MiB; 0 where the system does not tell.
fn rss_mb() -> u64 {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        })
        .map_or(0, |kib| kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_survives_its_text() {
        let mut set = Sequences::default();
        for sequence in [0, 63, 64, 1000] {
            set.insert(sequence);
        }
        let text = serde_json::to_string(&set).unwrap();
        let back: Sequences = serde_json::from_str(&text).unwrap();
        for sequence in [0, 1, 63, 64, 65, 1000, 100_000] {
            assert_eq!(
                back.contains(sequence),
                set.contains(sequence),
                "{sequence}"
            );
        }
    }
}
