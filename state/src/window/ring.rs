//! The rows of one key that a frame can still reach, ordered by (event time, sequence).
//!
//! A row is a few words: event time, a bit for each column that has a value, the values. Rows have
//! absolute numbers, so that dropping old ones moves nothing else.

use super::blocks::Blocks;
use super::distinct::Counts;
use super::spec::FramePlan;
use crate::paged::prefetch_line;
use crate::{Persist, StateError};

/// Event time before any row.
pub(super) const NEVER_US: i64 = i64::MIN;

/// How far the rows of a key have come, stored or not; microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyTimes {
    /// Newest credible event time: what lateness is judged from.
    pub newest_us: i64,
    /// Newest event time, credible or not.
    pub last_us: i64,
}

impl KeyTimes {
    /// Before any row.
    pub const NEVER: KeyTimes = KeyTimes {
        newest_us: NEVER_US,
        last_us: NEVER_US,
    };

    /// After a row more.
    #[must_use]
    pub fn with(self, time_us: i64, credible_us: i64) -> KeyTimes {
        KeyTimes {
            newest_us: self.newest_us.max(credible_us),
            last_us: self.last_us.max(time_us),
        }
    }
}

/// Words of a cache line.
const LINE_WORDS: usize = 8;

/// What [`Ring::prefetch`] asks for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// Where the ring's page stands, which the ring does not know itself.
    Page,
    Ring,
    Cursors,
    Rows,
}

/// Asks for the cache line of an item, if there is such an item.
#[inline]
fn prefetch<T>(items: &[T], at: usize) {
    if let Some(item) = items.get(at) {
        prefetch_line(std::ptr::from_ref(item).cast());
    }
}

/// One key's rows and cursors.
#[derive(Debug, Clone)]
pub(super) struct Ring {
    /// How far rows have moved the key's time.
    pub times: KeyTimes,
    /// Absolute number of the first live row.
    first: u64,
    /// Words of dropped rows, still at the front of `rows`.
    dead: u32,
    rows: Vec<u64>,
    /// Cursors of all frames; empty until the first row.
    pub cursors: Box<[u64]>,
    /// No frame stands where it was moved to for a row after this event time.
    pub seen_us: i64,
    /// What long frames have come to need.
    pub aside: Option<Box<Aside>>,
}

/// What a ring's rows say in another form, made when a long frame is asked for it.
#[derive(Debug, Clone, Default)]
pub(super) struct Aside {
    /// Extremes of runs of rows.
    pub blocks: Blocks,
    /// Values of frames whose different ones are counted.
    pub distinct: Vec<Option<Counts>>,
}

impl Default for Ring {
    fn default() -> Self {
        Ring {
            times: KeyTimes::NEVER,
            first: 0,
            dead: 0,
            rows: Vec::new(),
            cursors: Box::default(),
            seen_us: NEVER_US,
            aside: None,
        }
    }
}

impl Ring {
    /// Number of the first row.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Number after the last row.
    pub(super) fn end(&self, stride: usize) -> u64 {
        self.first + ((self.rows.len() - self.dead as usize) / stride) as u64
    }

    /// A row by its number.
    #[inline]
    pub(super) fn row(&self, number: u64, stride: usize) -> &[u64] {
        let at = (number - self.first) as usize * stride + self.dead as usize;
        &self.rows[at..at + stride]
    }

    /// Event time of a row, microseconds.
    #[inline]
    pub(super) fn time_us(&self, number: u64, stride: usize) -> i64 {
        let at = (number - self.first) as usize * stride + self.dead as usize;
        self.rows[at] as i64
    }

    /// Puts a row behind all rows of its time or before; returns its number.
    pub(super) fn insert(&mut self, row: &[u64]) -> u64 {
        let stride = row.len();
        let time_us = row[0] as i64;
        let mut number = self.end(stride);
        while number > self.first && self.time_us(number - 1, stride) > time_us {
            number -= 1;
        }
        let at = (number - self.first) as usize * stride + self.dead as usize;
        let tail = self.rows.len();
        self.rows.extend_from_slice(row);
        if at != tail {
            self.rows.copy_within(at..tail, at + stride);
            self.rows[at..at + stride].copy_from_slice(row);
            if let Some(aside) = &mut self.aside {
                aside.blocks.moved_from(number);
            }
        }
        number
    }

    /// Number of the first row at or after a time.
    pub(super) fn number_at(&self, time_us: i64, stride: usize) -> u64 {
        let (mut lo, mut hi) = (self.first, self.end(stride));
        while lo < hi {
            let middle = lo + (hi - lo) / 2;
            match self.time_us(middle, stride) < time_us {
                true => lo = middle + 1,
                false => hi = middle,
            }
        }
        lo
    }

    /// Heap bytes.
    pub(super) fn bytes(&self) -> usize {
        let aside = |aside: &Aside| {
            let counts = aside.distinct.iter().flatten().map(Counts::bytes);
            size_of::<Aside>() + aside.blocks.bytes() + counts.sum::<usize>()
        };
        (self.rows.capacity() + self.cursors.len()) * size_of::<u64>()
            + self.aside.as_deref().map_or(0, aside)
    }

    /// The next row would not fit.
    pub(super) fn is_full(&self, stride: usize) -> bool {
        self.rows.len() + stride > self.rows.capacity()
    }

    /// Reuses the room of dropped rows where that is worth a move; else grows by half.
    pub(super) fn make_room(&mut self, stride: usize) {
        if self.dead as usize * 4 >= self.rows.len() && self.dead > 0 {
            self.rows.drain(..self.dead as usize);
            self.dead = 0;
        } else {
            let rows = self.rows.len() / stride;
            self.rows.reserve_exact((rows / 2).max(2) * stride);
        }
    }

    /// Most of its room is for rows that are gone, or never came.
    pub(super) fn is_slack(&self, stride: usize) -> bool {
        self.rows.capacity() > 64 * stride
            && (self.rows.len() - self.dead as usize) * 3 < self.rows.capacity()
    }

    /// Gives back the room of dropped rows, and most of what is free.
    pub(super) fn tighten(&mut self, stride: usize) {
        if self.is_slack(stride) {
            self.rows.drain(..self.dead as usize);
            self.dead = 0;
            self.rows
                .shrink_to(self.rows.len() + self.rows.len() / 4 + 2 * stride);
        }
    }

    /// Drops the first `count` rows.
    pub(super) fn drop_front(&mut self, count: u64, stride: usize) {
        self.first += count;
        self.dead += count as u32 * stride as u32;
        if self.dead as usize == self.rows.len() {
            self.rows.clear();
            self.dead = 0;
        }
    }

    /// Asks for the memory that the next row's results will read, a step at a time: the ring
    /// itself, then its cursors and last row, then the rows where the frames begin and end. Only a hint.
    #[inline]
    pub(super) fn prefetch(&self, frames: &[FramePlan], stride: usize, step: Step) {
        match step {
            Step::Page => {}
            Step::Ring => {
                let lines = std::ptr::from_ref(self).cast::<u8>();
                for line in (0..size_of::<Ring>()).step_by(LINE_WORDS * 8) {
                    prefetch_line(lines.wrapping_add(line));
                }
                prefetch_line(lines.wrapping_add(size_of::<Ring>() - 1));
            }
            Step::Cursors => {
                for line in (0..self.cursors.len()).step_by(LINE_WORDS) {
                    prefetch(&self.cursors, line);
                }
                // The last row, and where the next one goes; all rows, if they have to make room for it.
                let end = self.rows.len();
                let from = if self.is_full(stride) {
                    0
                } else {
                    end.saturating_sub(1)
                };
                for word in (from..end + stride).step_by(LINE_WORDS) {
                    prefetch_line(self.rows.as_ptr().wrapping_add(word).cast());
                }
                prefetch_line(self.rows.as_ptr().wrapping_add(end + stride - 1).cast());
            }
            Step::Rows => {
                for frame in frames {
                    for cursor in [frame.at, frame.at + 1] {
                        if let Some(number) = self.cursors.get(cursor) {
                            let at = number.wrapping_sub(self.first) as usize * stride;
                            prefetch(&self.rows, at + self.dead as usize);
                        }
                    }
                }
            }
        }
    }

    /// Whether its words are rows of `stride` words.
    pub(super) fn has_whole_rows(&self, stride: usize) -> bool {
        (self.rows.len() - self.dead as usize).is_multiple_of(stride)
    }

    /// Whether rows and cursors have the shape that a spec gives them.
    pub(super) fn fits(&self, stride: usize, cursor_words: usize) -> bool {
        self.rows.len().is_multiple_of(stride)
            && (self.cursors.len() == cursor_words
                || (self.cursors.is_empty() && self.rows.is_empty()))
    }
}

impl Persist for Ring {
    const PAGE_VALUES: usize = 16;

    fn write(&self, out: &mut Vec<u8>) {
        self.times.newest_us.write(out);
        self.times.last_us.write(out);
        self.first.write(out);
        (self.rows.len() as u64 - u64::from(self.dead)).write(out);
        for word in &self.rows[self.dead as usize..] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        self.cursors.to_vec().write(out);
        self.seen_us.write(out);
    }

    fn read(input: &mut &[u8]) -> Result<Self, StateError> {
        Ok(Ring {
            times: KeyTimes {
                newest_us: i64::read(input)?,
                last_us: i64::read(input)?,
            },
            first: u64::read(input)?,
            dead: 0,
            rows: Vec::read(input)?,
            cursors: Vec::read(input)?.into(),
            seen_us: i64::read(input)?,
            aside: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(ring: &Ring) -> Vec<(i64, u64)> {
        (ring.first()..ring.end(2))
            .map(|n| (ring.time_us(n, 2), ring.row(n, 2)[1]))
            .collect()
    }

    #[test]
    fn rows_stay_ordered_and_ties_stay_in_order_of_arrival() {
        let mut ring = Ring::default();
        for (arrival, time) in [5u64, 9, 5, 1, 9, 7].into_iter().enumerate() {
            ring.insert(&[time, arrival as u64]);
        }
        assert_eq!(
            times(&ring),
            [(1, 3), (5, 0), (5, 2), (7, 5), (9, 1), (9, 4)]
        );
        ring.drop_front(2, 2);
        assert_eq!(ring.insert(&[6, 6]), 3);
        assert_eq!(times(&ring), [(5, 2), (6, 6), (7, 5), (9, 1), (9, 4)]);
    }

    #[test]
    fn room_is_reused() {
        let mut ring = Ring::default();
        for time in 0..10_000u64 {
            if ring.is_full(2) {
                ring.make_room(2);
            }
            ring.insert(&[time, 0]);
            if ring.end(2) - ring.first() > 10 {
                ring.drop_front(1, 2);
            }
        }
        assert!(ring.rows.capacity() <= 64, "{}", ring.rows.capacity());
        assert_eq!(times(&ring).len(), 10);
    }
}
