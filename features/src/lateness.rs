//! Which rows of a batch are too late, judged before anything takes them.
//!
//! A row is late if, for one of its window keys, it is further behind the newest row taken so far
//! than allowed. Whether a row was taken shows in the verdict on the next one, so rows are judged one
//! after the other, on times that move along beside the windows' own.
//!
//! A label takes its keys from its event, and moves their newest time. So labels are joined first, and
//! joined again if a row turns out to be refused, until a pass refuses what the one before did. A verdict
//! depends on the rows before it alone, hence each pass settles at least one more row; in practice two
//! passes do.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use sanderling_schemas::{EventBatch, NO_SLOT, TooLate};
use sanderling_state::KeyIndex;
use sanderling_state::window::WindowState;

use crate::keys::Keys;
use crate::labels::Joined;

/// How rows are judged.
pub(crate) struct Lateness {
    /// How far behind a row may be, microseconds.
    pub allowed_us: i64,
    /// The stream of labels, which are never refused.
    pub labels: Option<i8>,
    /// Newest event time of any row before the batch.
    pub newest_us: i64,
}

impl Lateness {
    /// Whether a row of the batch may be late at all: no row can be that is not too far behind the
    /// newest row of any key.
    pub(crate) fn is_possible(&self, batch: &EventBatch) -> bool {
        let mut newest_us = self.newest_us;
        batch.event_times_us().iter().any(|&time_us| {
            newest_us = newest_us.max(time_us);
            time_us < newest_us.saturating_sub(self.allowed_us)
        })
    }

    /// The rows of a joined batch that are too late. Those that were `refused` in the join are judged
    /// like the others.
    pub(crate) fn judge(
        &self,
        batch: &EventBatch,
        joined: &Joined,
        refused: &HashSet<u32>,
        keys: &mut [NewestTimes<'_>],
    ) -> Vec<TooLate> {
        let mut too_late = Vec::new();
        let rows = batch.streams().iter().zip(batch.event_times_us());
        for (row, (stream, &time_us)) in rows.enumerate() {
            if !joined.enters[row] && !refused.contains(&(row as u32)) {
                continue;
            }
            let late = match Some(*stream) == self.labels {
                true => None,
                false => keys.iter().find_map(|key| {
                    let behind_us = key.of(row)?.saturating_sub(time_us);
                    (behind_us > self.allowed_us).then(|| (key.by.clone(), behind_us))
                }),
            };
            match late {
                Some((key, behind_us)) => too_late.push(TooLate {
                    row: row as u32,
                    key,
                    behind_us,
                }),
                None => keys.iter_mut().for_each(|key| key.take(row, time_us)),
            }
        }
        too_late
    }
}

/// The newest event time of each key of one PARTITION BY, as rows of a batch are judged.
pub(crate) struct NewestTimes<'a> {
    by: Arc<str>,
    keys: Keys,
    index: &'a KeyIndex,
    windows: &'a WindowState,
    /// Of the keys that the batch has moved.
    moved: HashMap<Box<[u8]>, i64>,
    null_moved: Option<i64>,
}

impl<'a> NewestTimes<'a> {
    pub(crate) fn new(
        by: Arc<str>,
        keys: Keys,
        index: &'a KeyIndex,
        windows: &'a WindowState,
    ) -> Self {
        Self {
            by,
            keys,
            index,
            windows,
            moved: HashMap::new(),
            null_moved: None,
        }
    }

    /// Newest time of a row's key before the row, microseconds.
    fn of(&self, row: usize) -> Option<i64> {
        self.keys.with(row, |key| match key {
            None => self.null_moved.or_else(|| self.windows.newest_us(NO_SLOT)),
            Some(key) => self.moved.get(key).copied().or_else(|| {
                let slot = self.index.find(key)?;
                self.windows.newest_us(slot)
            }),
        })
    }

    fn take(&mut self, row: usize, time_us: i64) {
        let newest = self.of(row).map_or(time_us, |newest| newest.max(time_us));
        let (moved, null_moved) = (&mut self.moved, &mut self.null_moved);
        self.keys.with(row, |key| match key {
            None => *null_moved = Some(newest),
            Some(key) => match moved.get_mut(key) {
                Some(known) => *known = newest,
                None => {
                    moved.insert(key.into(), newest);
                }
            },
        });
    }
}
