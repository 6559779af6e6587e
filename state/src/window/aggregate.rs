//! Results: from a frame's running values, or from its rows, to one value of output.

use arrow::datatypes::DataType;

use super::cursor::{End, get_wide, known_extreme, value_of};
use super::deviations::{double_deviations, exact_deviations, of_pair, squared_deviations};
use super::distinct;
use super::exact::sum_of;
use super::output::{Computed, stored};
use super::plan::{AggregatePlan, FramePlan, Slot, Storage};
use super::ring::Ring;
use super::spec::{Function, WindowSpec};

/// The result over the frame where its cursor stands.
#[inline]
pub(super) fn evaluate(
    plan: &AggregatePlan,
    frame: &FramePlan,
    ring: &mut Ring,
    spec: &WindowSpec,
    output: &DataType,
) -> Computed {
    let stride = spec.stride;
    match plan.function {
        Function::Nth {
            nth,
            from_end,
            skip_nulls,
        } => {
            let slot = spec.slots[plan.columns[0]];
            return nth_row(ring, frame, slot, stride, (nth, from_end, skip_nulls))
                .map_or(Computed::Null, |number| {
                    stored(ring.row(number, stride), slot)
                });
        }
        Function::Pair(pair) => {
            let sums = &frame.pairs[plan.source];
            return of_pair(pair, sums, ring, frame, stride);
        }
        _ => {}
    }
    let accumulator = &frame.accumulators[plan.source];
    let count = ring.cursors()[accumulator.count];
    if plan.function == Function::Count {
        return Computed::Int(i128::from(count));
    }
    if plan.function == Function::CountDistinct {
        return Computed::Int(i128::from(distinct::count(
            ring,
            frame,
            accumulator,
            stride,
        )));
    }
    if count == 0 {
        return Computed::Null;
    }
    let column = accumulator.column;
    match plan.function {
        Function::Sum | Function::Avg => {
            let mean = plan.function == Function::Avg;
            let at = accumulator.sum.expect("planned for this function");
            if column.storage == Storage::Float {
                let sum = match ring.cursors()[at] {
                    0 => sum_of(&ring.cursors()[at + 1..]),
                    _ => doubles(ring, frame, column, stride).fold(0.0, |sum, v| sum + v),
                };
                return Computed::Float(if mean { sum / count as f64 } else { sum });
            }
            let sum = get_wide(ring.cursors(), at);
            match output {
                DataType::Float64 => {
                    let sum = sum as f64 / power_of_ten(column.scale);
                    Computed::Float(if mean { sum / count as f64 } else { sum })
                }
                DataType::Decimal128(_, scale) if mean => {
                    decimal_mean(sum, count, (*scale - column.scale) as u32)
                        .map_or(Computed::Null, Computed::Int)
                }
                _ => Computed::Int(sum),
            }
        }
        Function::Min => {
            let min = accumulator.min.expect("planned for this function");
            Computed::Int(known_extreme(
                ring,
                frame,
                accumulator,
                min,
                End::Least,
                stride,
            ))
        }
        Function::Max => {
            let max = accumulator.max.expect("planned for this function");
            Computed::Int(known_extreme(
                ring,
                frame,
                accumulator,
                max,
                End::Greatest,
                stride,
            ))
        }
        Function::Variance { sample, root } => {
            let divisor = if sample { count - 1 } else { count };
            if divisor == 0 {
                return Computed::Null;
            }
            let exact = match column.storage {
                Storage::Float => double_deviations(ring, accumulator, count),
                // n (n sum(x^2) - sum(x)^2) / n = the sum of squared deviations, times n.
                _ => exact_deviations(ring, accumulator, count).map(|deviations| {
                    let places = power_of_ten(column.scale);
                    deviations as f64 / (places * places)
                }),
            };
            let variance = match exact {
                Some(deviations) => deviations / (count as f64 * divisor as f64),
                None => squared_deviations(doubles(ring, frame, column, stride)) / divisor as f64,
            };
            Computed::Float(if root { variance.sqrt() } else { variance })
        }
        Function::Count
        | Function::CountDistinct
        | Function::Nth { .. }
        | Function::Pair(_)
        | Function::Rows => {
            unreachable!("answered above, or by the caller")
        }
    }
}

/// The number of the `nth` row of a frame.
fn nth_row(
    ring: &Ring,
    frame: &FramePlan,
    slot: Slot,
    stride: usize,
    (nth, from_end, skip_nulls): (u64, bool, bool),
) -> Option<u64> {
    let (lo, hi) = (ring.cursors()[frame.at], ring.cursors()[frame.at + 1]);
    if !skip_nulls {
        return match from_end {
            false => (nth < hi - lo).then(|| lo + nth),
            true => (nth < hi - lo).then(|| hi - 1 - nth),
        };
    }
    let has_value = |number: &u64| ring.row(*number, stride)[1] & slot.bit != 0;
    match from_end {
        false => (lo..hi).filter(has_value).nth(nth as usize),
        true => (lo..hi).rev().filter(has_value).nth(nth as usize),
    }
}

/// The values of a frame's rows in order, as doubles.
fn doubles<'a>(
    ring: &'a Ring,
    frame: &FramePlan,
    column: Slot,
    stride: usize,
) -> impl Iterator<Item = f64> + use<'a> {
    let places = power_of_ten(column.scale);
    (ring.cursors()[frame.at]..ring.cursors()[frame.at + 1]).filter_map(move |number| {
        let row = ring.row(number, stride);
        if row[1] & column.bit == 0 {
            return None;
        }
        Some(match column.storage {
            Storage::Float => f64::from_bits(row[column.word]),
            storage => value_of(row, storage, column.word) as f64 / places,
        })
    })
}

/// The mean with so many more decimal places, cut off, not rounded, after the last; `None` where it has more
/// than the 38 digits of a decimal.
fn decimal_mean(sum: i128, count: u64, places: u32) -> Option<i128> {
    // Most sums fit one word, and division of one word takes a fraction of the time.
    let one_word = (i64::try_from(sum).ok())
        .zip(10i64.checked_pow(places))
        .and_then(|(sum, more)| sum.checked_mul(more))
        .zip(i64::try_from(count).ok());
    if let Some((sum, count)) = one_word {
        return Some(i128::from(sum / count));
    }
    let (count, more) = (i128::from(count), 10i128.pow(places));
    let mean = match sum.checked_mul(more) {
        Some(sum) => sum / count,
        None => (sum / count).checked_mul(more)? + sum % count * more / count,
    };
    (mean.unsigned_abs() < 10u128.pow(38)).then_some(mean)
}

/// 10^scale, exact up to 10^22.
fn power_of_ten(scale: i8) -> f64 {
    const POWERS: [f64; 23] = [
        1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16,
        1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
    ];
    match usize::try_from(scale) {
        Ok(scale) if scale < POWERS.len() => POWERS[scale],
        Ok(scale) => POWERS[22] * power_of_ten((scale - 22) as i8),
        Err(_) => 1.0 / power_of_ten(scale.saturating_neg()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_ten() {
        assert_eq!(power_of_ten(2), 100.0);
        assert_eq!(power_of_ten(-2), 0.01);
        assert!((power_of_ten(38) / 1e38 - 1.0).abs() < 1e-15);
    }

    #[test]
    fn means_of_long_decimals() {
        assert_eq!(decimal_mean(-10, 3, 4), Some(-33_333));
        let long = 4 * 10i128.pow(35) + 7;
        assert_eq!(
            decimal_mean(-long, 300, 4),
            Some(-(long / 300) * 10_000 - (long % 300) * 10_000 / 300)
        );
        assert_eq!(decimal_mean(long, 1, 4), None);
        // At both sides of what one word holds.
        for sum in i64::MAX / 10_000 - 3..i64::MAX / 10_000 + 3 {
            let sum = i128::from(sum);
            assert_eq!(decimal_mean(sum, 7, 4), Some(sum * 10_000 / 7));
            assert_eq!(decimal_mean(-sum, 7, 4), Some(-sum * 10_000 / 7));
        }
    }
}
