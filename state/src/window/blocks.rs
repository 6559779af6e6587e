//! Least and greatest values of runs of rows, so that a long frame is not searched row by row.
//!
//! Blocks are made when a search wants them, from rows that stand still: blocks of 64 rows, blocks of 64
//! such blocks, and so on, each beginning at a multiple of its size in the ring's absolute numbers. They
//! hold nothing that the rows do not say, so snapshots leave them out.

use super::plan::{Slot, Storage};
use super::ring::Ring;

const FAN: u64 = 64;
/// Shorter frames are searched row by row.
const ROWS_MIN: u64 = 4 * FAN;

/// The least and the greatest value of some rows; of none, each is beyond all values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extremes {
    pub min: i64,
    pub max: i64,
}

impl Extremes {
    const NONE: Extremes = Extremes {
        min: i64::MAX,
        max: i64::MIN,
    };

    fn with(self, other: Extremes) -> Extremes {
        Extremes {
            min: self.min.min(other.min),
            max: self.max.max(other.max),
        }
    }
}

/// Blocks of the columns that were searched so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Blocks {
    columns: Vec<ColumnBlocks>,
}

#[derive(Debug, Clone)]
struct ColumnBlocks {
    bit: u64,
    /// Blocks of `FAN` rows, of `FAN` times as many, ...
    levels: Vec<Level>,
}

#[derive(Debug, Clone)]
struct Level {
    /// Number of the first block, in blocks of this size.
    first: u64,
    blocks: Vec<Extremes>,
}

impl Blocks {
    /// Forgets all blocks with rows from `number` on, which are about to move.
    pub(super) fn moved_from(&mut self, number: u64) {
        for column in &mut self.columns {
            let mut size = FAN;
            for level in &mut column.levels {
                let still = (number / size).saturating_sub(level.first);
                level.blocks.truncate(still as usize);
                size *= FAN;
            }
        }
    }

    /// Heap bytes.
    pub(super) fn bytes(&self) -> usize {
        let levels = self.columns.iter().flat_map(|column| &column.levels);
        levels
            .map(|level| level.blocks.capacity() * size_of::<Extremes>())
            .sum()
    }
}

/// The extremes of a column of one word in the rows `[lo, hi)`.
pub(super) fn search(ring: &mut Ring, column: Slot, lo: u64, hi: u64, stride: usize) -> Extremes {
    if hi - lo < ROWS_MIN {
        return of_rows(ring, column, lo, hi, stride);
    }
    let mut aside = ring.aside.take().unwrap_or_default();
    let blocks = &mut aside.blocks;
    let at = blocks.columns.iter().position(|c| c.bit == column.bit);
    let at = at.unwrap_or_else(|| {
        blocks.columns.push(ColumnBlocks {
            bit: column.bit,
            levels: Vec::new(),
        });
        blocks.columns.len() - 1
    });
    let found = blocks.columns[at].search(ring, column, lo, hi, stride);
    ring.aside = Some(aside);
    found
}

impl ColumnBlocks {
    fn search(&mut self, ring: &Ring, column: Slot, lo: u64, hi: u64, stride: usize) -> Extremes {
        self.extend(ring, column, hi, stride);
        let mut found = Extremes::NONE;
        let mut at = lo;
        while at < hi {
            let mut step = (1, None);
            let mut size = FAN;
            for level in &self.levels {
                if !at.is_multiple_of(size) || at + size > hi {
                    break;
                }
                let Some(block) = (at / size)
                    .checked_sub(level.first)
                    .and_then(|block| level.blocks.get(block as usize))
                else {
                    break;
                };
                step = (size, Some(*block));
                size *= FAN;
            }
            let (rows, block) = step;
            found = found.with(block.unwrap_or_else(|| of_rows(ring, column, at, at + 1, stride)));
            at += rows;
        }
        found
    }

    /// Makes the blocks that end at or before `hi`, and drops those before the ring's first row.
    fn extend(&mut self, ring: &Ring, column: Slot, hi: u64, stride: usize) {
        let mut size = FAN;
        for at in 0.. {
            if at == self.levels.len() {
                if hi / size == ring.first() / size {
                    break;
                }
                self.levels.push(Level {
                    first: ring.first() / size,
                    blocks: Vec::new(),
                });
            }
            let (below, level) = self.levels.split_at_mut(at);
            let level = &mut level[0];
            let gone = (ring.first() / size).saturating_sub(level.first) as usize;
            if gone >= level.blocks.len() && gone > 0 {
                level.blocks.clear();
                level.first = ring.first() / size;
            } else if gone * 2 > level.blocks.len() {
                level.blocks.drain(..gone);
                level.first += gone as u64;
            }
            loop {
                let block = level.first + level.blocks.len() as u64;
                let (from, to) = (block * size, (block + 1) * size);
                if to > hi {
                    break;
                }
                // A block that begins before the ring does is asked for by no frame.
                let from = from.max(ring.first());
                let made = match below.last() {
                    None => of_rows(ring, column, from, to, stride),
                    Some(parts) => {
                        let part = |number: u64| number / (size / FAN) - parts.first;
                        let from = (from / (size / FAN)).max(parts.first) - parts.first;
                        (parts.blocks[from as usize..part(to) as usize].iter())
                            .fold(Extremes::NONE, |all, part| all.with(*part))
                    }
                };
                level.blocks.push(made);
            }
            size *= FAN;
        }
    }
}

#[inline]
fn of_rows(ring: &Ring, column: Slot, lo: u64, hi: u64, stride: usize) -> Extremes {
    let mut found = Extremes::NONE;
    for number in lo..hi {
        let row = ring.row(number, stride);
        if row[1] & column.bit != 0 {
            let word = row[column.word];
            let value = match column.storage {
                Storage::Float => super::cursor::order_of(word),
                _ => word as i64,
            };
            found = found.with(Extremes {
                min: value,
                max: value,
            });
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_say_what_the_rows_say() {
        let column = Slot {
            storage: Storage::Int,
            word: 2,
            bit: 1,
            scale: 0,
        };
        let mut ring = Ring::new(0);
        let mut random = 1u64;
        let mut next = move || {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            random >> 33
        };
        for time in 0..20_000u64 {
            // Most in order, some far back, some without a value.
            let time = if next() % 50 == 0 {
                time.saturating_sub(next() % 3000)
            } else {
                time
            };
            let value = (next() as i64 - (1 << 30)) as u64;
            ring.insert(&[time, u64::from(next() % 7 != 0), value]);
            if next() % 3 == 0 && ring.end(3) - ring.first() > 9000 {
                ring.drop_front(next() % 9, 3);
            }
            if next() % 40 == 0 {
                let (first, end) = (ring.first(), ring.end(3));
                let lo = first + next() % (end - first + 1);
                let hi = lo + next() % (end - lo + 1);
                let (ours, theirs) = (
                    search(&mut ring, column, lo, hi, 3),
                    of_rows(&ring, column, lo, hi, 3),
                );
                assert_eq!((ours.min, ours.max), (theirs.min, theirs.max), "{lo} {hi}");
            }
        }
        assert!(
            ring.aside
                .as_ref()
                .is_some_and(|aside| aside.blocks.columns[0].levels.len() > 1)
        );
    }
}
