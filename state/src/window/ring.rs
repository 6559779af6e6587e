//! The rows of one key that a frame can still reach, ordered by (event time, sequence).
//!
//! A row is a few words: event time, a bit for each column that has a value, the values. Rows have
//! absolute numbers, so that dropping old ones moves nothing else.

use std::ops::Range;

use super::blocks::Blocks;
use super::distinct::Counts;
use super::plan::FramePlan;
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

/// What [`Ring::prefetch`] asks for. Each step finds its addresses in what the step before has asked for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// Where the ring's page stands, which the ring does not know itself.
    Page,
    /// The ring itself.
    Ring,
    /// The first line of its words.
    Words,
    /// The other lines of its cursors, and the last row.
    Cursors,
    /// The rows where the frames begin and end.
    Rows,
}

/// Asks for the cache line of an item, if there is such an item.
#[inline]
fn prefetch<T>(items: &[T], at: usize) {
    if let Some(item) = items.get(at) {
        prefetch_line(std::ptr::from_ref(item).cast());
    }
}

/// Words of a ring before its cursors: the number of the first live row.
const HEAD_WORDS: usize = 1;
const FIRST: usize = 0;

/// One key's rows and cursors.
///
/// A key that comes once in a while finds nothing of itself in the processor's caches. So it is two pieces of
/// memory and no more: a line here, and the rest elsewhere. Each piece more would be another address to be translated, and
/// each line more is waited for.
#[derive(Debug, Clone)]
#[repr(align(64))]
pub(super) struct Ring {
    /// [`HEAD_WORDS`], the cursors of all frames, words of dropped rows, rows; nothing before the first row.
    words: Vec<u64>,
    /// Where the cursors end.
    head: u32,
    /// Words of dropped rows.
    dead: u32,
    times: KeyTimes,
    /// No frame stands where it was moved to for a row after this event time.
    seen_us: i64,
    /// What long frames have come to need.
    pub aside: Option<Box<Aside>>,
}

/// The rows of a ring, while its cursors are moved.
#[derive(Clone, Copy)]
pub(super) struct Rows<'a> {
    words: &'a [u64],
    first: u64,
    stride: usize,
}

impl<'a> Rows<'a> {
    /// Number of the first row.
    pub(super) fn first(self) -> u64 {
        self.first
    }

    /// Number after the last row.
    pub(super) fn end(self) -> u64 {
        self.first + (self.words.len() / self.stride) as u64
    }

    /// A row by its number.
    #[inline]
    pub(super) fn row(self, number: u64) -> &'a [u64] {
        &self.words[(number - self.first) as usize * self.stride..][..self.stride]
    }

    /// Event time of a row, microseconds.
    #[inline]
    pub(super) fn time_us(self, number: u64) -> i64 {
        self.words[(number - self.first) as usize * self.stride] as i64
    }
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
            words: Vec::new(),
            head: 0,
            dead: 0,
            times: KeyTimes::NEVER,
            seen_us: NEVER_US,
            aside: None,
        }
    }
}

const _: () = assert!(size_of::<Ring>() == LINE_WORDS * size_of::<u64>());

impl Ring {
    /// A ring before its first row, with so many words of cursors, all 0.
    pub(super) fn new(cursor_words: usize) -> Self {
        Ring {
            head: (HEAD_WORDS + cursor_words) as u32,
            words: vec![0; HEAD_WORDS + cursor_words],
            ..Ring::default()
        }
    }

    /// It has never seen a row.
    pub(super) fn is_new(&self) -> bool {
        self.times.last_us == NEVER_US
    }

    /// How far rows have moved the key's time.
    #[inline]
    pub(super) fn times(&self) -> KeyTimes {
        self.times
    }

    pub(super) fn set_times(&mut self, times: KeyTimes) {
        self.times = times;
    }

    /// No frame stands where it was moved to for a row after this event time.
    pub(super) fn seen_us(&self) -> i64 {
        self.seen_us
    }

    pub(super) fn set_seen_us(&mut self, seen_us: i64) {
        self.seen_us = seen_us;
    }

    /// Cursors of all frames.
    #[inline]
    pub(super) fn cursors(&self) -> &[u64] {
        &self.words[HEAD_WORDS..self.head as usize]
    }

    #[inline]
    pub(super) fn cursors_mut(&mut self) -> &mut [u64] {
        &mut self.words[HEAD_WORDS..self.head as usize]
    }

    /// Cursors to move, the rows that they move over, and what else moves with them.
    #[inline]
    pub(super) fn moving(
        &mut self,
        stride: usize,
    ) -> (&mut [u64], Rows<'_>, &mut Option<Box<Aside>>) {
        let (head, words) = self.words.split_at_mut(self.head as usize);
        let (head, cursors) = head.split_at_mut(HEAD_WORDS);
        let rows = Rows {
            words: &words[self.dead as usize..],
            first: head[FIRST],
            stride,
        };
        (cursors, rows, &mut self.aside)
    }

    /// Number of the first row.
    pub(super) fn first(&self) -> u64 {
        self.words.get(FIRST).copied().unwrap_or(0)
    }

    /// Number after the last row.
    pub(super) fn end(&self, stride: usize) -> u64 {
        self.first() + (self.live_words() / stride) as u64
    }

    /// Words of rows that were not dropped.
    fn live_words(&self) -> usize {
        self.words.len() - self.rows_at()
    }

    /// Where the first row stands.
    #[inline]
    fn rows_at(&self) -> usize {
        self.head as usize + self.dead as usize
    }

    /// A row by its number.
    #[inline]
    pub(super) fn row(&self, number: u64, stride: usize) -> &[u64] {
        let at = (number - self.first()) as usize * stride + self.rows_at();
        &self.words[at..at + stride]
    }

    /// Event time of a row, microseconds.
    #[inline]
    pub(super) fn time_us(&self, number: u64, stride: usize) -> i64 {
        let at = (number - self.first()) as usize * stride + self.rows_at();
        self.words[at] as i64
    }

    /// Puts a row behind all rows of its time or before; returns its number.
    pub(super) fn insert(&mut self, row: &[u64]) -> u64 {
        let stride = row.len();
        let time_us = row[0] as i64;
        let mut number = self.end(stride);
        while number > self.first() && self.time_us(number - 1, stride) > time_us {
            number -= 1;
        }
        let at = (number - self.first()) as usize * stride + self.rows_at();
        let tail = self.words.len();
        self.words.extend_from_slice(row);
        if at != tail {
            self.words.copy_within(at..tail, at + stride);
            self.words[at..at + stride].copy_from_slice(row);
            if let Some(aside) = &mut self.aside {
                aside.blocks.moved_from(number);
            }
        }
        number
    }

    /// Number of the first row at or after a time.
    pub(super) fn number_at(&self, time_us: i64, stride: usize) -> u64 {
        let (mut lo, mut hi) = (self.first(), self.end(stride));
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
        self.words.capacity() * size_of::<u64>() + self.aside.as_deref().map_or(0, aside)
    }

    /// The next row would not fit.
    pub(super) fn is_full(&self, stride: usize) -> bool {
        self.words.len() + stride > self.words.capacity()
    }

    /// Reuses the room of dropped rows where that is worth a move; else grows by half.
    pub(super) fn make_room(&mut self, stride: usize) {
        let rows = (self.words.len() - self.head as usize) / stride;
        if self.dead as usize / stride * 4 >= rows && self.dead > 0 {
            self.close_up();
        } else {
            self.words.reserve_exact((rows / 2).max(2) * stride);
        }
    }

    /// Moves the rows to where dropped ones were.
    fn close_up(&mut self) {
        self.words.drain(self.head as usize..self.rows_at());
        self.dead = 0;
    }

    /// Most of its room is for rows that are gone, or never came.
    pub(super) fn is_slack(&self, stride: usize) -> bool {
        let room = self.words.capacity() - self.head as usize;
        room > 64 * stride && self.live_words() * 3 < room
    }

    /// Gives back the room of dropped rows, and most of what is free.
    pub(super) fn tighten(&mut self, stride: usize) {
        if self.is_slack(stride) {
            self.close_up();
            self.words
                .shrink_to(self.words.len() + self.live_words() / 4 + 2 * stride);
        }
    }

    /// Drops the first `count` rows.
    pub(super) fn drop_front(&mut self, count: u64, stride: usize) {
        self.words[FIRST] += count;
        self.dead += count as u32 * stride as u32;
        if self.live_words() == 0 {
            self.words.truncate(self.head as usize);
            self.dead = 0;
        }
    }

    /// Asks for the memory that the next row's results will read, a step at a time. Only a hint.
    #[inline]
    pub(super) fn prefetch(&self, frames: &[FramePlan], stride: usize, step: Step) {
        let ask = |words: Range<usize>| {
            for word in words.clone().step_by(LINE_WORDS) {
                prefetch_line(self.words.as_ptr().wrapping_add(word).cast());
            }
            prefetch_line(self.words.as_ptr().wrapping_add(words.end - 1).cast());
        };
        match step {
            Step::Page => {}
            Step::Ring => prefetch_line(std::ptr::from_ref(self).cast()),
            Step::Words => prefetch_line(self.words.as_ptr().cast()),
            Step::Cursors => {
                let end = self.words.len();
                // All rows, if they have to make room for the next one.
                if self.is_full(stride) {
                    return ask(LINE_WORDS..end + stride);
                }
                ask(LINE_WORDS..(self.head as usize).max(LINE_WORDS + 1));
                // The last row, and where the next one goes.
                ask(end.saturating_sub(stride)..end + stride);
            }
            Step::Rows => {
                if self.words.is_empty() {
                    return;
                }
                let (rows, first) = (&self.words[self.rows_at()..], self.first());
                for frame in frames {
                    for cursor in [frame.at, frame.at + 1] {
                        let at = self.cursors()[cursor].wrapping_sub(first) as usize * stride;
                        prefetch(rows, at);
                        // As many rows leave as come, one in the mean: whether the next one leaves too is looked at.
                        prefetch(rows, at + 2 * stride - 1);
                    }
                }
            }
        }
    }

    /// Whether its words are rows of `stride` words.
    pub(super) fn has_whole_rows(&self, stride: usize) -> bool {
        self.live_words().is_multiple_of(stride)
    }

    /// Whether rows and cursors have the shape that a spec gives them.
    pub(super) fn fits(&self, stride: usize, cursor_words: usize) -> bool {
        self.words.is_empty()
            || (self.has_whole_rows(stride) && self.cursors().len() == cursor_words)
    }
}

impl Persist for Ring {
    const PAGE_VALUES: usize = 16;

    fn write(&self, out: &mut Vec<u8>) {
        self.times.newest_us.write(out);
        self.times.last_us.write(out);
        self.first().write(out);
        (self.live_words() as u64).write(out);
        for word in &self.words[self.rows_at()..] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        let cursors = match self.words.is_empty() {
            true => Vec::new(),
            false => self.cursors().to_vec(),
        };
        cursors.write(out);
        self.seen_us.write(out);
    }

    fn read(input: &mut &[u8]) -> Result<Self, StateError> {
        let times = KeyTimes {
            newest_us: i64::read(input)?,
            last_us: i64::read(input)?,
        };
        let first = u64::read(input)?;
        let (rows, cursors) = (Vec::<u64>::read(input)?, Vec::<u64>::read(input)?);
        let seen_us = i64::read(input)?;
        if times == KeyTimes::NEVER && rows.is_empty() {
            return Ok(Ring::default());
        }
        let mut words = Vec::with_capacity(HEAD_WORDS + cursors.len() + rows.len());
        words.push(first);
        words.extend(cursors);
        let head = words.len() as u32;
        words.extend(rows);
        Ok(Ring {
            words,
            head,
            dead: 0,
            times,
            seen_us,
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
        let mut ring = Ring::new(0);
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
        let mut ring = Ring::new(0);
        for time in 0..10_000u64 {
            if ring.is_full(2) {
                ring.make_room(2);
            }
            ring.insert(&[time, 0]);
            if ring.end(2) - ring.first() > 10 {
                ring.drop_front(1, 2);
            }
        }
        assert!(ring.words.capacity() <= 64, "{}", ring.words.capacity());
        assert_eq!(times(&ring).len(), 10);
    }
}
