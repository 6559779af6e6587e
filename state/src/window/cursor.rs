//! Cursors: where each frame of a key stands, and the exact sums of the rows inside.
//!
//! All of it is addition in i128, so moving back undoes moving forward to the bit.

use super::ring::Ring;
use super::spec::{Accumulator, FramePlan, Storage, WindowSpec};

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

/// A double's bits as an integer of the same (total) order.
fn order_of(bits: u64) -> i64 {
    let bits = bits as i64;
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
fn apply<const ADD: bool>(accumulators: &[Accumulator], row: &[u64], cursors: &mut [u64]) {
    for accumulator in accumulators {
        let column = accumulator.column;
        if row[1] & column.bit == 0 {
            continue;
        }
        let count = &mut cursors[accumulator.count];
        *count = if ADD { *count + 1 } else { *count - 1 };
        let count = *count;
        if column.storage == Storage::Presence {
            continue;
        }
        let value = value_of(row, column.storage, column.word);
        if let Some(at) = accumulator.sum {
            let sum = get_wide(cursors, at);
            let moved = if ADD {
                sum.wrapping_add(value)
            } else {
                sum.wrapping_sub(value)
            };
            set_wide(cursors, at, moved);
        }
        if let Some(at) = accumulator.squares {
            if is_short(value) {
                let sum = get_wide(cursors, at);
                let square = value * value;
                set_wide(cursors, at, if ADD { sum + square } else { sum - square });
            } else {
                let long = &mut cursors[at + 2];
                *long = if ADD { *long + 1 } else { *long - 1 };
            }
        }
        if let Some(at) = accumulator.min {
            extreme::<ADD>(cursors, at, count, value, |a, b| a <= b);
        }
        if let Some(at) = accumulator.max {
            extreme::<ADD>(cursors, at, count, value, |a, b| a >= b);
        }
    }
}

#[inline]
fn extreme<const ADD: bool>(
    cursors: &mut [u64],
    at: usize,
    count: u64,
    value: i128,
    reaches: impl Fn(i128, i128) -> bool,
) {
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

/// The least or greatest value of a frame that has one, searching the frame's rows if it is unknown.
pub(super) fn known_extreme(
    ring: &mut Ring,
    frame: &FramePlan,
    accumulator: &Accumulator,
    at: usize,
    stride: usize,
    reaches: impl Fn(i128, i128) -> bool,
) -> i128 {
    if ring.cursors[at] != KNOWN {
        let column = accumulator.column;
        let mut best = None;
        for number in ring.cursors[frame.at]..ring.cursors[frame.at + 1] {
            let row = ring.row(number, stride);
            if row[1] & column.bit != 0 {
                let value = value_of(row, column.storage, column.word);
                if best.is_none_or(|best| reaches(value, best)) {
                    best = Some(value);
                }
            }
        }
        let best = best.expect("the frame's count says that it holds a value");
        ring.cursors[at] = KNOWN;
        set_wide(&mut ring.cursors, at + 1, best);
    }
    get_wide(&ring.cursors, at + 1)
}

/// Cursors before the first row.
pub(super) fn start(spec: &WindowSpec) -> Box<[u64]> {
    let mut cursors = vec![0; spec.cursor_words];
    for frame in &spec.frames {
        cursors[frame.at + 2] = i64::MIN as u64;
        cursors[frame.at + 3] = i64::MIN as u64;
    }
    cursors.into()
}

/// Moves a frame to the rows of `[start_us, end_us]`. Rows come in before others go out, so that
/// the frame never turns inside out. Only a frame that moves back in time looks at rows behind it.
pub(super) fn seek(ring: &mut Ring, frame: &FramePlan, stride: usize, start_us: i64, end_us: i64) {
    let mut cursors = std::mem::take(&mut ring.cursors);
    let (first, end) = (ring.first(), ring.end(stride));
    let (mut lo, mut hi) = (cursors[frame.at], cursors[frame.at + 1]);
    let earlier_start = start_us < cursors[frame.at + 2] as i64;
    let earlier_end = end_us < cursors[frame.at + 3] as i64;
    let accumulators = &frame.accumulators;
    while hi < end && ring.time_us(hi, stride) <= end_us {
        apply::<true>(accumulators, ring.row(hi, stride), &mut cursors);
        hi += 1;
    }
    while earlier_start && lo > first && ring.time_us(lo - 1, stride) >= start_us {
        lo -= 1;
        apply::<true>(accumulators, ring.row(lo, stride), &mut cursors);
    }
    while lo < hi && ring.time_us(lo, stride) < start_us {
        apply::<false>(accumulators, ring.row(lo, stride), &mut cursors);
        lo += 1;
    }
    while earlier_end && hi > lo && ring.time_us(hi - 1, stride) > end_us {
        hi -= 1;
        apply::<false>(accumulators, ring.row(hi, stride), &mut cursors);
    }
    cursors[frame.at] = lo;
    cursors[frame.at + 1] = hi;
    cursors[frame.at + 2] = start_us as u64;
    cursors[frame.at + 3] = end_us as u64;
    ring.cursors = cursors;
}

/// Tells the frames that a row came to stand at `number`.
pub(super) fn inserted(ring: &mut Ring, frames: &[FramePlan], number: u64, stride: usize) {
    let mut cursors = std::mem::take(&mut ring.cursors);
    for frame in frames {
        if number < cursors[frame.at] {
            cursors[frame.at] += 1;
            cursors[frame.at + 1] += 1;
        } else if number < cursors[frame.at + 1] {
            cursors[frame.at + 1] += 1;
            apply::<true>(&frame.accumulators, ring.row(number, stride), &mut cursors);
        }
    }
    ring.cursors = cursors;
}

/// Moves all frames behind the rows up to `number`, which are about to be dropped.
pub(super) fn leave(ring: &mut Ring, frames: &[FramePlan], number: u64, stride: usize) {
    let mut cursors = std::mem::take(&mut ring.cursors);
    for frame in frames {
        let hi = cursors[frame.at + 1];
        for lost in cursors[frame.at]..number.min(hi) {
            apply::<false>(&frame.accumulators, ring.row(lost, stride), &mut cursors);
        }
        cursors[frame.at] = cursors[frame.at].max(number);
        cursors[frame.at + 1] = hi.max(number);
    }
    ring.cursors = cursors;
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
    }
}
