//! What became of the input: counters that must add up, and who was caught.
//!
//! `in = decided + dead-lettered + state-only`, always. A fraud counts as caught when the decision
//! on it was not to approve; it is known to be one only when its label arrives. So each decision is
//! remembered, in two bits, for as long as a label may still refer to its event.

use std::collections::BTreeMap;
use std::fmt;

use sanderling_schemas::{Action, DeadLetter, Decision, Flag, KnownLabel, Relation};
use serde::{Deserialize, Serialize};

use crate::line::Decided;

/// Sequences of a page of remembered decisions.
const PAGE_SEQUENCES: u64 = 4096;
/// One decision moves the newest time by this much at most, microseconds: an hour. So a single event
/// with a wrong clock does not make the decisions of months forgotten.
const NEWEST_STEP_US: i64 = 3_600_000_000;

/// Known frauds among the decided events.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Frauds {
    /// How far behind the newest decided event a label may find its event, microseconds.
    reach_us: i64,
    caught: u64,
    missed: u64,
    lanes: Vec<LaneDecisions>,
}

/// The remembered decisions of one lane.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct LaneDecisions {
    lane: Option<i32>,
    newest_us: Option<i64>,
    /// By sequence / [`PAGE_SEQUENCES`].
    pages: BTreeMap<u64, Page>,
}

/// What was decided of consecutive sequences.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Page {
    /// Newest event time of the decided, microseconds.
    newest_us: i64,
    /// Sequences that were decided, and those that were not approved; from the page's first.
    decided: Vec<u64>,
    alerted: Vec<u64>,
}

impl Page {
    fn has(bits: &[u64], at: u64) -> bool {
        bits[(at / 64) as usize] >> (at % 64) & 1 == 1
    }
}

impl Frauds {
    fn new(reach_us: i64) -> Self {
        Self {
            reach_us,
            caught: 0,
            missed: 0,
            lanes: Vec::new(),
        }
    }

    fn take(&mut self, lane: Option<i32>, decisions: &[Decision], labels: &[KnownLabel]) {
        let known = self.lanes.iter().position(|of| of.lane == lane);
        let at = known.unwrap_or_else(|| {
            self.lanes.push(LaneDecisions {
                lane,
                newest_us: None,
                pages: BTreeMap::new(),
            });
            self.lanes.len() - 1
        });
        let lane = &mut self.lanes[at];
        decisions.iter().for_each(|decision| lane.decided(decision));
        for label in labels.iter().filter(|l| l.value > 0.5 && !l.reversal) {
            match lane.alerted(label.of.0) {
                Some(true) => self.caught += 1,
                Some(false) => self.missed += 1,
                None => {}
            }
        }
        lane.forget(self.reach_us);
    }
}

impl LaneDecisions {
    fn decided(&mut self, decision: &Decision) {
        let time_us = decision.event_time.0;
        self.newest_us = Some(match self.newest_us {
            None => time_us,
            Some(newest) => newest.max(time_us.min(newest.saturating_add(NEWEST_STEP_US))),
        });
        let sequence = decision.sequence.0;
        let words = vec![0; (PAGE_SEQUENCES / 64) as usize];
        let page = (self.pages)
            .entry(sequence / PAGE_SEQUENCES)
            .or_insert_with(|| Page {
                newest_us: time_us,
                decided: words.clone(),
                alerted: words,
            });
        page.newest_us = page.newest_us.max(time_us);
        let at = sequence % PAGE_SEQUENCES;
        let bit = 1 << (at % 64);
        page.decided[(at / 64) as usize] |= bit;
        if decision.action != Action::Approve {
            page.alerted[(at / 64) as usize] |= bit;
        }
    }

    /// Whether the event of a sequence was not approved; `None` if it was not decided.
    fn alerted(&self, sequence: u64) -> Option<bool> {
        let page = self.pages.get(&(sequence / PAGE_SEQUENCES))?;
        let at = sequence % PAGE_SEQUENCES;
        Page::has(&page.decided, at).then(|| Page::has(&page.alerted, at))
    }

    /// Forgets the oldest decisions that no label reaches any more.
    fn forget(&mut self, reach_us: i64) {
        let Some(newest_us) = self.newest_us else {
            return;
        };
        let reach_us = newest_us.saturating_sub(reach_us);
        while let Some(oldest) = self.pages.first_entry()
            && oldest.get().newest_us < reach_us
        {
            oldest.remove();
        }
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
    frauds: Option<Frauds>,
}

impl Tally {
    /// A tally that also knows who was caught, if the relation has labels. It remembers the decisions
    /// of their horizon. The default counts nothing but rows.
    pub fn with_frauds(relation: &Relation) -> Self {
        Self {
            frauds: (relation.labels.as_ref())
                .map(|l| Frauds::new(l.horizon_us.saturating_add(relation.lateness_us))),
            ..Self::default()
        }
    }

    /// Counts a batch's rows and what became of them.
    pub fn decided(&mut self, batch: &Decided) {
        self.rows_in += batch.rows as u64;
        self.dead_lettered += batch.dead_letters.len() as u64;
        self.decided += batch.decisions.len() as u64;
        for decision in &batch.decisions {
            *self.actions.entry(decision.action).or_default() += 1;
            self.late += u64::from(decision.flags.contains(&Flag::Late));
        }
        if let Some(frauds) = &mut self.frauds {
            frauds.take(batch.order.lane, &batch.decisions, &batch.labels);
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
            fraud: self.frauds.as_ref().map(|frauds| FraudSummary {
                caught: frauds.caught,
                missed: frauds.missed,
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

    use std::sync::Arc;

    use sanderling_schemas::{
        EventId, EventTime, FeatureRow, Offset, Output, Partition, Rung, Sequence, Versions,
    };

    const HOUR_US: i64 = 3_600_000_000;

    fn decision(sequence: u64, time_us: i64, action: Action) -> Decision {
        let v = || Arc::<str>::from("v");
        Decision {
            event: EventId {
                topic: v(),
                partition: Partition(0),
                offset: Offset(sequence as i64),
            },
            key: None,
            event_time: EventTime(time_us),
            sequence: Sequence(sequence),
            stream: v(),
            action,
            output: Output::LogOdds,
            score: 0.0,
            rung: Rung::Full,
            reasons: Vec::new(),
            features: FeatureRow {
                batch: arrow::array::RecordBatch::new_empty(Arc::new(
                    arrow::datatypes::Schema::empty(),
                )),
                row: 0,
            },
            attribution: None,
            shadow: BTreeMap::new(),
            flags: Vec::new(),
            versions: Arc::new(Versions {
                engine: v(),
                numerics: v(),
                pipeline: v(),
                features: v(),
                model: v(),
                policy: v(),
            }),
        }
    }

    fn fraud(of: u64) -> KnownLabel {
        KnownLabel {
            row: 0,
            of: Sequence(of),
            value: 1.0,
            reversal: false,
        }
    }

    #[test]
    fn frauds_are_known_for_the_horizon_and_no_longer_kept() {
        let mut frauds = Frauds::new(48 * HOUR_US);
        // One event a minute for a year; the label of each comes after 40 hours, where every third row is
        // not decided and every fifth of the rest is not approved.
        let mut pages_max = 0;
        let (mut caught, mut missed) = (0, 0);
        for n in 0..525_600u64 {
            let action = match n % 5 {
                0 => Action::Review,
                _ => Action::Approve,
            };
            let decisions: Vec<Decision> = (n % 3 != 0)
                .then(|| decision(n, n as i64 * HOUR_US / 60, action))
                .into_iter()
                .collect();
            let labels: Vec<KnownLabel> = n.checked_sub(2400).map(fraud).into_iter().collect();
            frauds.take(Some(2), &decisions, &labels);
            if let Some(of) = n.checked_sub(2400) {
                caught += u64::from(of % 3 != 0 && of % 5 == 0);
                missed += u64::from(of % 3 != 0 && of % 5 != 0);
            }
            pages_max = pages_max.max(frauds.lanes[0].pages.len());
        }
        assert_eq!((frauds.caught, frauds.missed), (caught, missed));
        assert!(pages_max <= 2, "{pages_max} pages for 2,880 events");

        // It survives its text, and a wrong clock.
        let text = serde_json::to_string(&frauds).unwrap();
        let mut back: Frauds = serde_json::from_str(&text).unwrap();
        let wrong = decision(525_600, i64::MAX / 2, Action::Approve);
        back.take(Some(2), &[wrong], &[]);
        // The same sequence of another lane is another event.
        back.take(None, &[], &[fraud(525_599)]);
        assert_eq!(back.missed, missed);
        back.take(Some(2), &[], &[fraud(525_599)]);
        assert_eq!(back.missed, missed + 1);
    }
}
