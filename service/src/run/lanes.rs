//! The lanes that this instance owns, and how far each has come.
//!
//! Shared between the feeder, which moves them on, and the hook that runs while partitions are
//! being given up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crossbeam_channel::Sender;
use sanderling_schemas::{Offset, Offsets, Partition};
use serde::{Deserialize, Serialize};

use crate::line::{Barrier, Lane, Mark};

/// Where a lane's input stood at a checkpoint.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct LanePosition {
    /// Topic, partition and next offset.
    pub next: Vec<(String, i32, i64)>,
}

impl LanePosition {
    /// As offsets.
    pub fn offsets(&self) -> Offsets {
        let mut offsets = Offsets::default();
        for (topic, partition, next) in &self.next {
            offsets.set(topic.as_str().into(), Partition(*partition), Offset(*next));
        }
        offsets
    }
}

/// All of them.
#[derive(Default)]
pub struct Lanes(Mutex<Owned>);

#[derive(Default)]
struct Owned {
    /// Sequence of each lane's next row.
    sequences: BTreeMap<Lane, u64>,
    /// Where each partition's input stands: where its lane came back, then the last mark.
    marked: Offsets,
    /// Sequence of each lane's last checkpoint.
    checkpointed: BTreeMap<Lane, u64>,
    /// Lanes of which nothing may be committed yet.
    held: BTreeSet<Lane>,
}

impl Lanes {
    /// A lane goes on at `sequence`, and its partitions at `next`.
    pub fn open(&self, lane: Lane, sequence: u64, next: &Offsets) -> Mark {
        self.owned().sequences.insert(lane, sequence);
        self.mark(next.clone())
    }

    /// Nothing of a lane is committed until it has a checkpoint: without an order log there is nothing else
    /// that could bring it back.
    pub fn hold(&self, lane: Lane) {
        self.owned().held.insert(lane);
    }

    /// A lane has a checkpoint.
    pub fn kept(&self, lane: Lane) {
        self.owned().held.remove(&lane);
    }

    /// A lane is given up; whether it was owned.
    pub fn close(&self, lane: Lane) -> bool {
        let mut owned = self.owned();
        owned.checkpointed.remove(&lane);
        owned.held.remove(&lane);
        owned.sequences.remove(&lane).is_some()
    }

    /// All that are owned.
    pub fn all(&self) -> Vec<Lane> {
        self.owned().sequences.keys().copied().collect()
    }

    /// Sequence of the first of the next `rows` rows of a lane, if it is owned.
    pub fn advance(&self, lane: Lane, rows: usize) -> Option<u64> {
        let mut owned = self.owned();
        let sequence = owned.sequences.get_mut(&lane)?;
        let first = *sequence;
        *sequence += rows as u64;
        Some(first)
    }

    /// Where the source stands now, with how far each lane has come. Of a partition that has brought nothing it says nothing, and what
    /// was known of it holds.
    pub fn mark(&self, next: Offsets) -> Mark {
        let mut owned = self.owned();
        for (topic, partition, next) in next.iter() {
            owned.marked.set(topic.into(), partition, next);
        }
        let rows = owned.sequences.clone();
        if owned.held.is_empty() {
            return Mark { next, rows };
        }
        let is_held = |p: Partition| {
            [Lane::WHOLE, Lane(Some(p.0))]
                .iter()
                .any(|l| owned.held.contains(l))
        };
        let mut free = Offsets::default();
        for (topic, partition, next) in next.iter().filter(|(_, p, _)| !is_held(*p)) {
            free.set(topic.into(), partition, next);
        }
        Mark { next: free, rows }
    }

    /// The lanes that have moved on since their last checkpoint was asked for.
    pub fn moved(&self) -> Vec<Lane> {
        let owned = self.owned();
        let moved =
            |(lane, sequence): &(&Lane, &u64)| owned.checkpointed.get(lane) != Some(sequence);
        owned
            .sequences
            .iter()
            .filter(moved)
            .map(|(lane, _)| *lane)
            .collect()
    }

    /// A barrier for a checkpoint of `lane` where it stands now.
    pub fn barrier(&self, lane: Lane, passed: Option<Sender<()>>) -> Option<Barrier> {
        let mut owned = self.owned();
        let sequence = *owned.sequences.get(&lane)?;
        owned.checkpointed.insert(lane, sequence);
        let mine = |partition: Partition| lane.0.is_none_or(|number| number == partition.0);
        let next = owned.marked.iter().filter(|(_, p, _)| mine(*p));
        let position = LanePosition {
            next: next.map(|(t, p, o)| (t.into(), p.0, o.0)).collect(),
        };
        Some(Barrier {
            lane,
            position: serde_json::to_value(position).expect("names and numbers have a JSON form"),
            sequence,
            passed,
            ..Barrier::default()
        })
    }

    fn owned(&self) -> MutexGuard<'_, Owned> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offsets(each: &[(&str, i32, i64)]) -> Offsets {
        let next = each.iter().map(|(t, p, o)| (t.to_string(), *p, *o));
        LanePosition {
            next: next.collect(),
        }
        .offsets()
    }

    fn position(lanes: &Lanes, lane: Lane) -> Offsets {
        let barrier = lanes.barrier(lane, None).expect("an owned lane");
        let position: LanePosition = serde_json::from_value(barrier.position).unwrap();
        position.offsets()
    }

    #[test]
    fn a_checkpoint_knows_where_its_lane_came_back_though_nothing_came_since() {
        let lanes = Lanes::default();
        lanes.open(Lane::WHOLE, 6, &offsets(&[("a", 0, 4), ("b", 0, 2)]));
        assert_eq!(
            position(&lanes, Lane::WHOLE),
            offsets(&[("a", 0, 4), ("b", 0, 2)])
        );
        lanes.advance(Lane::WHOLE, 1);
        let mark = lanes.mark(offsets(&[("b", 0, 3)]));
        assert_eq!(mark.rows[&Lane::WHOLE], 7);
        assert_eq!(
            position(&lanes, Lane::WHOLE),
            offsets(&[("a", 0, 4), ("b", 0, 3)])
        );
    }

    #[test]
    fn a_lane_that_nothing_could_bring_back_is_not_committed() {
        let lanes = Lanes::default();
        lanes.hold(Lane(Some(0)));
        lanes.open(Lane(Some(0)), 0, &Offsets::default());
        lanes.open(Lane(Some(1)), 0, &Offsets::default());
        let read = offsets(&[("a", 0, 3), ("a", 1, 2)]);
        assert_eq!(lanes.mark(read.clone()).next, offsets(&[("a", 1, 2)]));
        assert_eq!(position(&lanes, Lane(Some(0))), offsets(&[("a", 0, 3)]));
        lanes.kept(Lane(Some(0)));
        assert_eq!(lanes.mark(read.clone()).next, read);
    }

    #[test]
    fn a_checkpoint_of_a_lane_tells_of_its_own_partitions() {
        let lanes = Lanes::default();
        lanes.open(Lane(Some(0)), 1, &offsets(&[("a", 0, 1)]));
        lanes.open(Lane(Some(1)), 2, &offsets(&[("a", 1, 2)]));
        assert_eq!(position(&lanes, Lane(Some(1))), offsets(&[("a", 1, 2)]));
    }
}
