//! The lanes that this instance owns, and how far each has come.
//!
//! Shared between the feeder, which moves them on, and the hook that runs while partitions are
//! being given up.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crossbeam_channel::Sender;
use sanderling_schemas::{Offset, Offsets, Partition};
use serde::{Deserialize, Serialize};

use crate::line::{Barrier, Lane};

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
    /// Where the source stood at the last mark.
    marked: Offsets,
    /// Sequence of each lane's last checkpoint.
    checkpointed: BTreeMap<Lane, u64>,
}

impl Lanes {
    /// A lane goes on at `sequence`.
    pub fn open(&self, lane: Lane, sequence: u64) {
        self.owned().sequences.insert(lane, sequence);
    }

    /// A lane is given up; whether it was owned.
    pub fn close(&self, lane: Lane) -> bool {
        let mut owned = self.owned();
        owned.checkpointed.remove(&lane);
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

    /// Where the source stands now.
    pub fn mark(&self, offsets: &Offsets) {
        self.owned().marked = offsets.clone();
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
