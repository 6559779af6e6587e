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
use sanderling_state::window::{KeyTimes, WindowState};

use crate::clock::Clock;
use crate::keys::Keys;
use crate::labels::Joined;

/// How rows are judged.
pub(crate) struct Lateness {
    /// How far behind a row may be, microseconds.
    pub allowed_us: i64,
    /// The stream of labels, which are never refused.
    pub labels: Option<i8>,
    /// The stream's clock before the batch.
    pub clock: Clock,
}

impl Lateness {
    /// Whether a row of the batch may be late at all: no row can be that is not too far behind the
    /// newest row of any key.
    pub(crate) fn is_possible(&self, batch: &EventBatch) -> bool {
        let mut clock = self.clock.clone();
        batch.event_times_us().iter().any(|&time_us| {
            clock.observe(time_us);
            time_us < clock.newest_us().saturating_sub(self.allowed_us)
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
        let mut clock = self.clock.clone();
        let rows = batch.streams().iter().zip(batch.event_times_us());
        for (row, (stream, &time_us)) in rows.enumerate() {
            let mut with = clock.clone();
            let (clock_us, credible_us) = with.observe(time_us);
            if !joined.enters[row] && !refused.contains(&(row as u32)) {
                clock = with;
                continue;
            }
            let late = match Some(*stream) == self.labels {
                true => None,
                false => keys.iter().find_map(|key| {
                    let behind_us = key.of(row, clock_us)?.newest_us.saturating_sub(time_us);
                    (behind_us > self.allowed_us).then(|| (key.by.clone(), behind_us))
                }),
            };
            match late {
                Some((key, behind_us)) => too_late.push(TooLate {
                    row: row as u32,
                    key,
                    behind_us,
                }),
                None => {
                    clock = with;
                    let take =
                        |key: &mut NewestTimes<'_>| key.take(row, time_us, (clock_us, credible_us));
                    keys.iter_mut().for_each(take);
                }
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
    moved: HashMap<Box<[u8]>, KeyTimes>,
    null_moved: Option<KeyTimes>,
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

    /// How far a row's key had come before the row; `None` for a key that is new.
    fn of(&self, row: usize, clock_us: i64) -> Option<KeyTimes> {
        let moved = self.keys.with(row, |key| match key {
            None => self.null_moved,
            Some(key) => self.moved.get(key).copied(),
        });
        if let Some(times) = moved {
            return self.windows.unless_forgotten(times, clock_us);
        }
        let slot = self.keys.with(row, |key| match key {
            None => Some(NO_SLOT),
            Some(key) => self.index.find(key),
        })?;
        self.windows.times(slot, clock_us)
    }

    fn take(&mut self, row: usize, time_us: i64, (clock_us, credible_us): (i64, i64)) {
        let times = self.of(row, clock_us).unwrap_or(KeyTimes::NEVER);
        let times = times.with(time_us, credible_us);
        let (moved, null_moved) = (&mut self.moved, &mut self.null_moved);
        self.keys.with(row, |key| match key {
            None => *null_moved = Some(times),
            Some(key) => match moved.get_mut(key) {
                Some(known) => *known = times,
                None => {
                    moved.insert(key.into(), times);
                }
            },
        });
    }
}
