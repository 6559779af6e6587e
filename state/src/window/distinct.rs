//! How many different values a frame holds.
//!
//! A short frame is sorted and counted when it is asked for. Of a long one the values are counted as rows
//! come and go, from the first time on that it is asked for; these counts hold nothing that the rows do
//! not say, so snapshots leave them out.

use ahash::RandomState;
use hashbrown::HashTable;

use super::cursor::order_of;
use super::plan::{Accumulator, FramePlan, Slot, Storage};
use super::ring::Ring;

/// Frames of fewer values are sorted.
const SORTED_MAX: u64 = 64;
/// Frames of fewer values give their counts up.
const COUNTED_MIN: u64 = 16;

/// The values of one frame, each with how often it is there.
#[derive(Debug, Clone)]
pub(super) struct Counts {
    values: HashTable<(u64, u64)>,
    hasher: RandomState,
}

impl Default for Counts {
    fn default() -> Self {
        Counts {
            values: HashTable::new(),
            // Nothing depends on a hash's value but speed.
            hasher: RandomState::with_seeds(3, 1, 4, 1),
        }
    }
}

impl Counts {
    #[inline]
    pub(super) fn apply<const ADD: bool>(&mut self, value: u64) {
        let hasher = &self.hasher;
        let hash = hasher.hash_one(value);
        let rehash = |known: &(u64, u64)| hasher.hash_one(known.0);
        if ADD {
            let entry = self.values.entry(hash, |known| known.0 == value, rehash);
            entry.or_insert((value, 0)).into_mut().1 += 1;
        } else if let Ok(mut entry) = self.values.find_entry(hash, |known| known.0 == value) {
            entry.get_mut().1 -= 1;
            if entry.get().1 == 0 {
                entry.remove();
            }
        }
    }

    /// Heap bytes.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Counts>() + self.values.capacity() * (size_of::<(u64, u64)>() + 1)
    }
}

/// A stored value such that equal ones have equal words.
#[inline]
pub(super) fn word_of(row: &[u64], column: Slot) -> u64 {
    match column.storage {
        Storage::Float => order_of(row[column.word]) as u64,
        _ => row[column.word],
    }
}

/// How many different values the frame holds where its cursor stands.
pub(super) fn count(
    ring: &mut Ring,
    frame: &FramePlan,
    accumulator: &Accumulator,
    stride: usize,
) -> u64 {
    let (column, table) = (
        accumulator.column,
        accumulator.distinct.expect("planned for this"),
    );
    let held = ring.cursors()[accumulator.count];
    let counted = (ring.aside.as_mut()).and_then(|aside| aside.distinct.get_mut(table));
    if let Some(counted @ Some(_)) = counted {
        let counts = counted.take().expect("it was matched");
        let different = counts.values.len() as u64;
        *counted = (held >= COUNTED_MIN).then_some(counts);
        return different;
    }
    let (lo, hi) = (ring.cursors()[frame.at], ring.cursors()[frame.at + 1]);
    let rows = (lo..hi).map(|number| ring.row(number, stride));
    let values = rows
        .filter(|row| row[1] & column.bit != 0)
        .map(|row| word_of(row, column));
    if held < SORTED_MAX {
        let mut sorted = [0; SORTED_MAX as usize];
        let mut len = 0;
        for value in values {
            sorted[len] = value;
            len += 1;
        }
        let sorted = &mut sorted[..len];
        sorted.sort_unstable();
        return sorted.chunk_by(|one, other| one == other).count() as u64;
    }
    let mut counts = Counts::default();
    values.for_each(|value| counts.apply::<true>(value));
    let different = counts.values.len() as u64;
    let tables = &mut ring.aside.get_or_insert_default().distinct;
    if tables.len() <= table {
        tables.resize(table + 1, None);
    }
    tables[table] = Some(counts);
    different
}
