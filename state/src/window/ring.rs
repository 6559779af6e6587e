//! The rows of one key that a frame can still reach, ordered by (event time, sequence).
//!
//! A row is a few words: event time, a bit for each column that has a value, the values. Rows have
//! absolute numbers, so that dropping old ones moves nothing else.

use super::spec::FramePlan;
use crate::{Persist, StateError};

/// Event time before any row.
pub(super) const NEVER_US: i64 = i64::MIN;

/// What [`Ring::prefetch`] asks for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    Ring,
    Cursors,
    Rows,
}

/// Asks for the cache line of an item, if there is such an item.
#[inline]
fn prefetch<T>(items: &[T], at: usize) {
    #[cfg(target_arch = "x86_64")]
    if let Some(item) = items.get(at) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the address is that of a live item; a prefetch reads nothing into the program.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(item).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (items, at);
}

/// One key's rows and cursors.
#[derive(Debug, Clone)]
pub(super) struct Ring {
    /// Newest event time of any accepted row, stored or not.
    pub newest_us: i64,
    /// Absolute number of the first live row.
    first: u64,
    /// Words of dropped rows, still at the front of `rows`.
    dead: u32,
    rows: Vec<u64>,
    /// Cursors of all frames; empty until the first row.
    pub cursors: Box<[u64]>,
}

impl Default for Ring {
    fn default() -> Self {
        Ring {
            newest_us: NEVER_US,
            first: 0,
            dead: 0,
            rows: Vec::new(),
            cursors: Box::default(),
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
        }
        number
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
            Step::Ring => prefetch(std::slice::from_ref(self), 0),
            Step::Cursors => {
                for line in (0..self.cursors.len()).step_by(8) {
                    prefetch(&self.cursors, line);
                }
                prefetch(&self.rows, self.rows.len().saturating_sub(1));
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
        self.newest_us.write(out);
        self.first.write(out);
        (self.rows.len() as u64 - u64::from(self.dead)).write(out);
        for word in &self.rows[self.dead as usize..] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        self.cursors.to_vec().write(out);
    }

    fn read(input: &mut &[u8]) -> Result<Self, StateError> {
        Ok(Ring {
            newest_us: i64::read(input)?,
            first: u64::read(input)?,
            dead: 0,
            rows: Vec::read(input)?,
            cursors: Vec::read(input)?.into(),
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
