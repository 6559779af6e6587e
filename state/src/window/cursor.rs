//! Cursors: where each frame of a key stands, and the exact sums of the rows inside.
//!
//! All of it is addition of integers, so moving back undoes moving forward to the bit. A frame that begins
//! with the first row ever keeps in its sums what the ring has let go.

use super::blocks;
use super::distinct::word_of;
use super::exact::{Fixed, SUM_WORDS};
use super::plan::{Accumulator, Extreme, FramePlan, PairSums, Storage};
use super::ring::{Aside, Ring};

/// Values of this many bits are squared into the running sum; longer ones are counted, and a frame
/// that holds one is computed from its rows.
const SQUARED_BITS: u32 = 40;

/// A word triple of an extreme: 1 when it is known, then the value. When it is not, the value still
/// bounds the frame's values, and the frame must be searched.
const KNOWN: u64 = 1;

pub(super) fn get_wide(words: &[u64], at: usize) -> i128 {
    (u128::from(words[at]) | u128::from(words[at + 1]) << 64) as i128
}

pub(super) fn set_wide(words: &mut [u64], at: usize, value: i128) {
    words[at] = value as u64;
    words[at + 1] = (value >> 64) as u64;
}

/// A double's bits as an integer of the same order, NaN of either sign above all numbers.
#[inline]
pub(super) fn order_of(bits: u64) -> i64 {
    let bits = match bits << 1 > f64::INFINITY.to_bits() << 1 {
        true => f64::NAN.to_bits() as i64,
        false => bits as i64,
    };
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

/// The double of [`order_of`].
pub(super) fn double_of(order: i128) -> f64 {
    let order = order as i64;
    f64::from_bits((order ^ (((order >> 63) as u64) >> 1) as i64) as u64)
}

/// A stored value as an integer: exact for integers and decimals, the order for doubles.
#[inline]
pub(super) fn value_of(row: &[u64], storage: Storage, word: usize) -> i128 {
    match storage {
        Storage::Presence => 0,
        Storage::Text => i128::from(row[word]),
        Storage::Int => i128::from(row[word] as i64),
        Storage::Wide => get_wide(row, word),
        Storage::Float => i128::from(order_of(row[word])),
    }
}

/// Whether a value is squared into the running sum.
fn is_short(value: i128) -> bool {
    value.unsigned_abs() >> SQUARED_BITS == 0
}

/// Adds a row to a frame's accumulators, or takes it out.
#[inline]
fn apply<const ADD: bool>(
    frame: &FramePlan,
    row: &[u64],
    cursors: &mut [u64],
    aside: &mut Option<Box<Aside>>,
) {
    for accumulator in &frame.accumulators {
        let column = accumulator.column;
        if row[1] & column.bit == 0 {
            continue;
        }
        let count = moved::<ADD>(&mut cursors[accumulator.count]);
        if let Some(table) = accumulator.distinct
            && let Some(aside) = aside
            && let Some(Some(counts)) = aside.distinct.get_mut(table)
        {
            counts.apply::<ADD>(word_of(row, column));
        }
        let value = match column.storage {
            Storage::Presence => continue,
            Storage::Float => {
                let bits = row[column.word];
                apply_double::<ADD>(accumulator, bits, cursors);
                i128::from(order_of(bits))
            }
            storage => {
                let value = value_of(row, storage, column.word);
                apply_integer::<ADD>(accumulator, value, cursors);
                value
            }
        };
        if let Some(min) = accumulator.min {
            extreme::<ADD>(cursors, min, count, value, |a, b| a <= b);
        }
        if let Some(max) = accumulator.max {
            extreme::<ADD>(cursors, max, count, value, |a, b| a >= b);
        }
    }
    for pair in &frame.pairs {
        apply_pair::<ADD>(pair, row, cursors);
    }
}

#[inline]
fn moved<const ADD: bool>(count: &mut u64) -> u64 {
    *count = if ADD { *count + 1 } else { *count - 1 };
    *count
}

#[inline]
fn apply_integer<const ADD: bool>(accumulator: &Accumulator, value: i128, cursors: &mut [u64]) {
    if let Some(at) = accumulator.sum {
        let sum = get_wide(cursors, at);
        let sum = match ADD {
            true => sum.wrapping_add(value),
            false => sum.wrapping_sub(value),
        };
        set_wide(cursors, at, sum);
    }
    if let Some(at) = accumulator.squares {
        if is_short(value) {
            let sum = get_wide(cursors, at);
            let square = value * value;
            set_wide(cursors, at, if ADD { sum + square } else { sum - square });
        } else {
            moved::<ADD>(&mut cursors[at + 2]);
        }
    }
}

#[inline]
fn apply_double<const ADD: bool>(accumulator: &Accumulator, bits: u64, cursors: &mut [u64]) {
    let Some(at) = accumulator.sum else { return };
    match Fixed::of(bits) {
        None => {
            moved::<ADD>(&mut cursors[at]);
        }
        Some(value) => {
            value.apply::<ADD>(&mut cursors[at + 1..at + 1 + SUM_WORDS]);
            if let Some(at) = accumulator.squares {
                value.apply_product::<ADD>(value, &mut cursors[at..]);
            }
        }
    }
}

fn apply_pair<const ADD: bool>(pair: &PairSums, row: &[u64], cursors: &mut [u64]) {
    if row[1] & pair.y.bit == 0 || row[1] & pair.x.bit == 0 {
        return;
    }
    moved::<ADD>(&mut cursors[pair.count]);
    let (Some(y), Some(x)) = (Fixed::of(row[pair.y.word]), Fixed::of(row[pair.x.word])) else {
        moved::<ADD>(&mut cursors[pair.outside]);
        return;
    };
    y.apply::<ADD>(&mut cursors[pair.sum_y..]);
    x.apply::<ADD>(&mut cursors[pair.sum_x..]);
    y.apply_product::<ADD>(y, &mut cursors[pair.yy..]);
    x.apply_product::<ADD>(x, &mut cursors[pair.xx..]);
    x.apply_product::<ADD>(y, &mut cursors[pair.xy..]);
}

#[inline]
fn extreme<const ADD: bool>(
    cursors: &mut [u64],
    extreme: Extreme,
    count: u64,
    value: i128,
    reaches: impl Fn(i128, i128) -> bool,
) {
    let at = extreme.at;
    let bound = get_wide(cursors, at + 1);
    if ADD {
        if count == 1 || reaches(value, bound) {
            cursors[at] = KNOWN;
            set_wide(cursors, at + 1, value);
        }
    } else if cursors[at] == KNOWN && value == bound {
        cursors[at] = 0;
    }
}

/// Which end of a frame's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Least,
    Greatest,
}

impl End {
    fn of(self, one: i128, other: i128) -> i128 {
        match self {
            End::Least => one.min(other),
            End::Greatest => one.max(other),
        }
    }
}

/// The least or greatest value of a frame that has one, searching the frame's rows if it is unknown.
pub(super) fn known_extreme(
    ring: &mut Ring,
    frame: &FramePlan,
    accumulator: &Accumulator,
    extreme: Extreme,
    end: End,
    stride: usize,
) -> i128 {
    let at = extreme.at;
    if ring.cursors()[at] != KNOWN {
        let column = accumulator.column;
        let (lo, hi) = (ring.cursors()[frame.at], ring.cursors()[frame.at + 1]);
        let mut best = None;
        if column.storage == Storage::Wide {
            for number in lo..hi {
                let row = ring.row(number, stride);
                if row[1] & column.bit != 0 {
                    let value = value_of(row, column.storage, column.word);
                    best = Some(best.map_or(value, |best| end.of(best, value)));
                }
            }
        } else {
            let found = blocks::search(ring, column, lo, hi, stride);
            if found.min <= found.max {
                best = Some(i128::from(match end {
                    End::Least => found.min,
                    End::Greatest => found.max,
                }));
            }
        }
        if let Some(gone) = extreme.gone.filter(|gone| ring.cursors()[*gone] == KNOWN) {
            let value = get_wide(ring.cursors(), gone + 1);
            best = Some(best.map_or(value, |best| end.of(best, value)));
        }
        let best = best.expect("the frame's count says that it holds a value");
        ring.cursors_mut()[at] = KNOWN;
        set_wide(ring.cursors_mut(), at + 1, best);
    }
    get_wide(ring.cursors(), at + 1)
}

/// Moves a frame to the rows of `[start_us, end_us]`. Rows come in before others go out, so that
/// the frame never turns inside out. Only a frame that moves `back` in time looks at rows behind it.
#[inline]
pub(super) fn seek_times(
    ring: &mut Ring,
    frame: &FramePlan,
    stride: usize,
    (start_us, end_us): (i64, i64),
    back: bool,
) {
    let (cursors, rows, aside) = ring.moving(stride);
    let (first, end) = (rows.first(), rows.end());
    let (mut lo, mut hi) = (cursors[frame.at], cursors[frame.at + 1]);
    while hi < end && rows.time_us(hi) <= end_us {
        apply::<true>(frame, rows.row(hi), cursors, aside);
        hi += 1;
    }
    if !frame.unbounded {
        while back && lo > first && rows.time_us(lo - 1) >= start_us {
            lo -= 1;
            apply::<true>(frame, rows.row(lo), cursors, aside);
        }
        while lo < hi && rows.time_us(lo) < start_us {
            apply::<false>(frame, rows.row(lo), cursors, aside);
            lo += 1;
        }
    }
    while back && hi > lo && rows.time_us(hi - 1) > end_us {
        hi -= 1;
        apply::<false>(frame, rows.row(hi), cursors, aside);
    }
    cursors[frame.at] = lo;
    cursors[frame.at + 1] = hi;
}

/// Moves a frame to the rows of the numbers `[from, to)`.
pub(super) fn seek_rows(ring: &mut Ring, frame: &FramePlan, stride: usize, from: u64, to: u64) {
    let (cursors, rows, aside) = ring.moving(stride);
    let (mut lo, mut hi) = (cursors[frame.at], cursors[frame.at + 1]);
    while hi < to {
        apply::<true>(frame, rows.row(hi), cursors, aside);
        hi += 1;
    }
    if !frame.unbounded {
        while lo > from {
            lo -= 1;
            apply::<true>(frame, rows.row(lo), cursors, aside);
        }
        while lo < from {
            apply::<false>(frame, rows.row(lo), cursors, aside);
            lo += 1;
        }
    }
    while hi > to {
        hi -= 1;
        apply::<false>(frame, rows.row(hi), cursors, aside);
    }
    cursors[frame.at] = lo;
    cursors[frame.at + 1] = hi;
}

/// Tells the frames that a row came to stand at `number`.
pub(super) fn inserted(ring: &mut Ring, frames: &[FramePlan], number: u64, stride: usize) {
    if number + 1 == ring.end(stride) {
        return;
    }
    let (cursors, rows, aside) = ring.moving(stride);
    for frame in frames {
        if number < cursors[frame.at] {
            cursors[frame.at] += 1;
            cursors[frame.at + 1] += 1;
        } else if number < cursors[frame.at + 1] {
            cursors[frame.at + 1] += 1;
            apply::<true>(frame, rows.row(number), cursors, aside);
        }
    }
}

/// Moves all frames behind the rows up to `number`, which are about to be dropped. A frame that begins with
/// the first row ever takes them in for good.
pub(super) fn leave(ring: &mut Ring, frames: &[FramePlan], number: u64, stride: usize) {
    let (cursors, rows, aside) = ring.moving(stride);
    for frame in frames {
        let hi = cursors[frame.at + 1];
        if frame.unbounded {
            for gone in hi..number {
                apply::<true>(frame, rows.row(gone), cursors, aside);
            }
            for gone in cursors[frame.at]..number {
                keep_extremes(frame, rows.row(gone), cursors);
            }
        } else {
            for lost in cursors[frame.at]..number.min(hi) {
                apply::<false>(frame, rows.row(lost), cursors, aside);
            }
        }
        cursors[frame.at] = cursors[frame.at].max(number);
        cursors[frame.at + 1] = hi.max(number);
    }
}

/// Tells the frames of a row that is too old to be kept: those that begin with the first row ever have it.
pub(super) fn passed(ring: &mut Ring, frames: &[FramePlan], row: &[u64]) {
    for frame in frames.iter().filter(|frame| frame.unbounded) {
        let (cursors, _, aside) = ring.moving(row.len());
        apply::<true>(frame, row, cursors, aside);
        keep_extremes(frame, row, cursors);
    }
}

fn keep_extremes(frame: &FramePlan, row: &[u64], cursors: &mut [u64]) {
    for accumulator in &frame.accumulators {
        let column = accumulator.column;
        if row[1] & column.bit == 0 {
            continue;
        }
        let value = value_of(row, column.storage, column.word);
        for (extreme, end) in [
            (accumulator.min, End::Least),
            (accumulator.max, End::Greatest),
        ] {
            if let Some(at) = extreme.and_then(|extreme| extreme.gone) {
                let best = match cursors[at] {
                    KNOWN => end.of(get_wide(cursors, at + 1), value),
                    _ => value,
                };
                cursors[at] = KNOWN;
                set_wide(cursors, at + 1, best);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_keep_their_order_as_integers() {
        let values = [
            f64::NEG_INFINITY,
            -1.5,
            -0.0,
            0.0,
            1e-300,
            2.0,
            f64::INFINITY,
            f64::NAN,
        ];
        for pair in values.windows(2) {
            assert!(
                order_of(pair[0].to_bits()) < order_of(pair[1].to_bits()),
                "{pair:?}"
            );
        }
        for value in values {
            let back = double_of(i128::from(order_of(value.to_bits())));
            assert_eq!(back.to_bits(), value.to_bits());
        }
        assert_eq!(
            order_of((-f64::NAN).to_bits()),
            order_of(f64::NAN.to_bits())
        );
    }
}
