//! Positions in the log, and the algebra of progress over them.
//!
//! An offset names the next record to read; a range is `[from, next)`. Ranges join only when they
//! touch, so that a gap or an overlap is an error where it arises and not a wrong count later.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A partition of a topic, or 0 for a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Partition(pub i32);

/// A position in a partition: of one record, or of the next record to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Offset(pub i64);

/// The number of a row in the order in which the fold accepted it, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sequence(pub u64);

/// Where an event came from: the idempotency key of everything downstream.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EventId {
    /// Topic, or the stem of a file's name. Shared by all the rows of a topic.
    pub topic: Arc<str>,
    /// Partition of the topic.
    pub partition: Partition,
    /// Offset in the partition, or the row's number in the file from 0.
    pub offset: Offset,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.partition.0, self.offset.0)
    }
}

/// A half-open run of offsets of one partition, `[from, next)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OffsetRange {
    /// First offset of the range.
    pub from: Offset,
    /// The offset after the last.
    pub next: Offset,
}

/// Two pieces of progress that do not touch.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RangeError {
    /// The later range begins after the earlier one ends: records are missing.
    #[error("gap in {topic}/{partition}: expected offset {expected}, got {got}")]
    Gap {
        /// Topic of the range.
        topic: String,
        /// Partition of the range.
        partition: i32,
        /// Where the later range had to begin.
        expected: i64,
        /// Where it began.
        got: i64,
    },
    /// The later range begins before the earlier one ends: records would be taken twice.
    #[error("overlap in {topic}/{partition}: expected offset {expected}, got {got}")]
    Overlap {
        /// Topic of the range.
        topic: String,
        /// Partition of the range.
        partition: i32,
        /// Where the later range had to begin.
        expected: i64,
        /// Where it began.
        got: i64,
    },
}

/// A contiguous run of one partition inside a batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Topic of the run.
    pub topic: Arc<str>,
    /// Partition of the run.
    pub partition: Partition,
    /// Offsets of the run.
    #[serde(flatten)]
    pub range: OffsetRange,
}

/// What had been read: partition -> next offset to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Offsets(BTreeMap<(Arc<str>, Partition), Offset>);

impl Offsets {
    /// The next offset to read of a partition, if anything of it was read.
    pub fn next(&self, topic: &str, partition: Partition) -> Option<Offset> {
        self.0.get(&(Arc::from(topic), partition)).copied()
    }

    /// Moves past `run`, which must begin where the last one of its partition ended.
    pub fn advance(&mut self, run: &Run) -> Result<(), RangeError> {
        let key = (run.topic.clone(), run.partition);
        if let Some(expected) = self.0.get(&key) {
            let (topic, partition) = (run.topic.to_string(), run.partition.0);
            let (expected, got) = (expected.0, run.range.from.0);
            if got > expected {
                return Err(RangeError::Gap {
                    topic,
                    partition,
                    expected,
                    got,
                });
            }
            if got < expected {
                return Err(RangeError::Overlap {
                    topic,
                    partition,
                    expected,
                    got,
                });
            }
        }
        self.0.insert(key, run.range.next);
        Ok(())
    }

    /// Sets the next offset of a partition, whatever was read before: where a broker's log has
    /// holes (control records, compaction) the source knows the position and the runs do not.
    pub fn set(&mut self, topic: Arc<str>, partition: Partition, next: Offset) {
        self.0.insert((topic, partition), next);
    }

    /// All positions, by topic and partition.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Partition, Offset)> {
        self.0
            .iter()
            .map(|((topic, partition), next)| (&**topic, *partition, *next))
    }
}

/// What the fold cannot recompute about one batch: which runs it took, in which order, on which
/// rung. Label rows made from a file's column are not in it; they follow from the rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderRecord {
    /// Sequence of the batch's first row.
    pub sequence: Sequence,
    /// The rung the batch was scored on.
    pub rung: crate::Rung,
    /// The lane that took it: a partition number, where each partition is a fold of its own; absent
    /// where one fold takes them all. Sequences are contiguous within a lane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<i32>,
    /// Every row was past its deadline on arrival, and the decisions say so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub backlog: bool,
    /// What decided.
    pub versions: OrderVersions,
    /// Runs in the order of their rows.
    pub runs: Vec<Run>,
}

/// The versions that an order record pins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderVersions {
    /// Hash of `features.sql`.
    pub features: Arc<str>,
    /// Hash of the model's weights.
    pub model: Arc<str>,
    /// Version of the policy and the reason codes.
    pub policy: Arc<str>,
    /// Versions of reference tables, by name.
    pub tables: BTreeMap<String, String>,
}

impl OrderRecord {
    /// Collapses the ids of a batch's rows, in row order, into runs.
    pub fn runs_of<'a>(ids: impl IntoIterator<Item = &'a EventId>) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for id in ids {
            let after = Offset(id.offset.0 + 1);
            match runs.last_mut() {
                Some(run)
                    if run.partition == id.partition
                        && run.range.next == id.offset
                        && run.topic == id.topic =>
                {
                    run.range.next = after;
                }
                _ => runs.push(Run {
                    topic: id.topic.clone(),
                    partition: id.partition,
                    range: OffsetRange {
                        from: id.offset,
                        next: after,
                    },
                }),
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(topic: &str, offset: i64) -> EventId {
        EventId {
            topic: topic.into(),
            partition: Partition(0),
            offset: Offset(offset),
        }
    }

    #[test]
    fn runs_break_where_the_rows_change_partition() {
        let ids = [id("a", 0), id("a", 1), id("b", 7), id("a", 2)];
        let runs = OrderRecord::runs_of(&ids);
        let ends: Vec<_> = runs
            .iter()
            .map(|r| (&*r.topic, r.range.from.0, r.range.next.0))
            .collect();
        assert_eq!(ends, [("a", 0, 2), ("b", 7, 8), ("a", 2, 3)]);
    }

    #[test]
    fn lane_and_backlog_are_told_only_where_they_say_something() {
        let plain = OrderRecord {
            sequence: Sequence(7),
            rung: crate::Rung::Full,
            lane: None,
            backlog: false,
            versions: OrderVersions {
                features: "f".into(),
                model: "m".into(),
                policy: "p".into(),
                tables: BTreeMap::new(),
            },
            runs: OrderRecord::runs_of(&[id("a", 0)]),
        };
        let json = serde_json::to_value(&plain).unwrap();
        assert!(json.get("lane").is_none() && json.get("backlog").is_none());
        let told = OrderRecord {
            lane: Some(3),
            backlog: true,
            ..plain.clone()
        };
        let json_told = serde_json::to_value(&told).unwrap();
        assert_eq!(json_told["lane"], 3);
        assert_eq!(json_told["backlog"], true);
        for (record, json) in [(plain, json), (told, json_told)] {
            assert_eq!(serde_json::from_value::<OrderRecord>(json).unwrap(), record);
        }
    }

    #[test]
    fn progress_refuses_gaps_and_overlaps() {
        let run = |from, next| Run {
            topic: "a".into(),
            partition: Partition(0),
            range: OffsetRange {
                from: Offset(from),
                next: Offset(next),
            },
        };
        let mut offsets = Offsets::default();
        offsets.advance(&run(3, 5)).unwrap();
        assert!(matches!(
            offsets.advance(&run(6, 7)),
            Err(RangeError::Gap {
                expected: 5,
                got: 6,
                ..
            })
        ));
        assert!(matches!(
            offsets.advance(&run(4, 7)),
            Err(RangeError::Overlap { .. })
        ));
        offsets.advance(&run(5, 9)).unwrap();
        assert_eq!(offsets.next("a", Partition(0)), Some(Offset(9)));
    }
}
