//! How far the source is dealt with, as it travels down the line behind what it speaks of.

use std::collections::BTreeMap;

use sanderling_ingest::Progress;
use sanderling_schemas::Offsets;
use serde::{Deserialize, Serialize};

use super::Lane;

/// Where the source stands, and how far that has brought the lanes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Mark {
    /// The next offsets to read.
    pub next: Offsets,
    /// Sequence of each lane's next row.
    pub rows: BTreeMap<Lane, u64>,
}

/// What the group's offset of a partition says besides: without it nobody could tell an offset whose rows are in
/// a state that was lost from one before which there was nothing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Note {
    /// Partition whose lane has folded what is before the offset; none if it was the lane of all.
    pub lane: Option<i32>,
    /// Sequence of that lane's next row then.
    pub rows: u64,
}

impl Mark {
    /// In the form in which the group commits it.
    pub fn progress(&self) -> Progress {
        let mut progress = Progress::from(self.next.clone());
        for (topic, partition, _) in self.next.iter() {
            let own = Lane(Some(partition.0));
            let lane = (self.rows.get_key_value(&Lane::WHOLE)).or(self.rows.get_key_value(&own));
            if let Some((lane, rows)) = lane {
                let (lane, rows) = (lane.0, *rows);
                let note = serde_json::to_string(&Note { lane, rows });
                let note = note.expect("two numbers have a JSON form");
                progress.notes.insert((topic.into(), partition), note);
            }
        }
        progress
    }
}
