//! Results: from a frame's running values, or from its rows, to a column of output.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int8Array,
    Int16Array, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray, UInt8Array,
    UInt16Array, UInt32Array, UInt64Array,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::DataType;

use super::cursor::{End, double_of, get_wide, known_extreme, value_of};
use super::distinct;
use super::exact::{deviations, sum_of};
use super::ring::Ring;
use super::shard::Cuts;
use super::spec::{
    Accumulator, AggregatePlan, FramePlan, Function, Pair, PairSums, Slot, Storage, WindowSpec,
};
use crate::{KeyIndex, StateError};

/// One output column while it is filled.
pub(super) struct Output {
    data_type: DataType,
    values: Filled,
    valid: Vec<bool>,
}

enum Filled {
    Ints(Vec<i64>),
    Wides(Vec<i128>),
    Floats(Vec<f64>),
    Texts(Vec<u32>),
}

/// One result.
enum Result {
    Null,
    Int(i128),
    Float(f64),
    Text(u32),
}

impl Output {
    pub(super) fn new(data_type: &DataType, rows: usize) -> Self {
        let values = match data_type {
            DataType::Float32 | DataType::Float64 => Filled::Floats(Vec::with_capacity(rows)),
            DataType::Decimal128(..) | DataType::UInt64 => Filled::Wides(Vec::with_capacity(rows)),
            DataType::Utf8 => Filled::Texts(Vec::with_capacity(rows)),
            _ => Filled::Ints(Vec::with_capacity(rows)),
        };
        Output {
            data_type: data_type.clone(),
            values,
            valid: Vec::with_capacity(rows),
        }
    }

    /// Appends the result over an empty frame.
    pub(super) fn push_empty(&mut self, plan: &AggregatePlan) {
        self.push(match plan.function {
            Function::Count | Function::CountDistinct | Function::Pair(Pair::Count) => {
                Result::Int(0)
            }
            _ => Result::Null,
        });
    }

    /// Appends the result over the frame where its cursor stands.
    #[inline]
    pub(super) fn push_frame(
        &mut self,
        plan: &AggregatePlan,
        frame: &FramePlan,
        ring: &mut Ring,
        spec: &WindowSpec,
    ) {
        let result = evaluate(plan, frame, ring, spec, &self.data_type);
        self.push(result);
    }

    #[inline]
    fn push(&mut self, result: Result) {
        self.valid.push(!matches!(result, Result::Null));
        match (&mut self.values, result) {
            (Filled::Ints(values), Result::Int(value)) => values.push(value as i64),
            (Filled::Wides(values), Result::Int(value)) => values.push(value),
            (Filled::Floats(values), Result::Float(value)) => values.push(value),
            (Filled::Floats(values), Result::Int(value)) => values.push(double_of(value)),
            (Filled::Texts(values), Result::Text(value)) => values.push(value),
            (Filled::Ints(values), _) => values.push(0),
            (Filled::Wides(values), _) => values.push(0),
            (Filled::Floats(values), _) => values.push(0.0),
            (Filled::Texts(values), _) => values.push(0),
        }
    }

    /// Appends the stored value of a column in a row.
    pub(super) fn push_stored(&mut self, row: &[u64], slot: Slot) {
        self.push(stored(row, slot));
    }

    /// Appends whether a value is there.
    pub(super) fn push_presence(&mut self, is_there: bool) {
        self.push(Result::Int(i128::from(is_there)));
    }

    /// What the parts of a batch have, as one column.
    pub(super) fn joined(parts: Vec<Output>, cuts: &Cuts) -> Output {
        let data_type = parts[0].data_type.clone();
        let (values, valid): (Vec<Filled>, Vec<Vec<bool>>) = (parts.into_iter())
            .map(|part| (part.values, part.valid))
            .unzip();
        macro_rules! joined {
            ($kind:ident) => {
                Filled::$kind(
                    cuts.joined(
                        (values.into_iter())
                            .filter_map(|values| match values {
                                Filled::$kind(values) => Some(values),
                                _ => None,
                            })
                            .collect(),
                    ),
                )
            };
        }
        let values = match &values[0] {
            Filled::Ints(_) => joined!(Ints),
            Filled::Wides(_) => joined!(Wides),
            Filled::Floats(_) => joined!(Floats),
            Filled::Texts(_) => joined!(Texts),
        };
        Output {
            data_type,
            values,
            valid: cuts.joined(valid),
        }
    }

    /// The column.
    pub(super) fn finish(self, texts: &KeyIndex) -> std::result::Result<ArrayRef, StateError> {
        self.finish_with(|text| texts.key(text))
    }

    /// The column, whose texts are looked up by `text_of`.
    pub(super) fn finish_with<'a>(
        self,
        text_of: impl Fn(u32) -> &'a [u8],
    ) -> std::result::Result<ArrayRef, StateError> {
        if let Filled::Texts(values) = &self.values {
            let text = |(value, valid): (&u32, &bool)| {
                valid.then(|| String::from_utf8_lossy(text_of(*value)))
            };
            let texts: StringArray = values.iter().zip(&self.valid).map(text).collect();
            return Ok(Arc::new(texts));
        }
        let nulls = match self.valid.iter().all(|valid| *valid) {
            true => None,
            false => Some(NullBuffer::from(self.valid)),
        };
        macro_rules! array {
            ($array:ty, $values:expr, $t:ty) => {
                Arc::new(<$array>::new(
                    $values.into_iter().map(|v| v as $t).collect(),
                    nulls,
                ))
            };
        }
        Ok(match (self.values, &self.data_type) {
            (Filled::Floats(values), DataType::Float32) => array!(Float32Array, values, f32),
            (Filled::Floats(values), _) => Arc::new(Float64Array::new(values.into(), nulls)),
            (Filled::Wides(values), DataType::UInt64) => array!(UInt64Array, values, u64),
            (Filled::Wides(values), DataType::Decimal128(precision, scale)) => Arc::new(
                Decimal128Array::new(values.into(), nulls)
                    .with_precision_and_scale(*precision, *scale)?,
            ),
            (Filled::Ints(values), DataType::Int8) => array!(Int8Array, values, i8),
            (Filled::Ints(values), DataType::Int16) => array!(Int16Array, values, i16),
            (Filled::Ints(values), DataType::Int32) => array!(Int32Array, values, i32),
            (Filled::Ints(values), DataType::UInt8) => array!(UInt8Array, values, u8),
            (Filled::Ints(values), DataType::UInt16) => array!(UInt16Array, values, u16),
            (Filled::Ints(values), DataType::UInt32) => array!(UInt32Array, values, u32),
            (Filled::Ints(values), DataType::Date32) => array!(Date32Array, values, i32),
            (Filled::Ints(values), DataType::Boolean) => Arc::new(BooleanArray::new(
                values.iter().map(|v| *v != 0).collect(),
                nulls,
            )),
            (Filled::Ints(values), DataType::Timestamp(_, zone)) => Arc::new(
                TimestampMicrosecondArray::new(values.into(), nulls)
                    .with_timezone_opt(zone.clone()),
            ),
            (Filled::Ints(values), _) => Arc::new(Int64Array::new(values.into(), nulls)),
            (Filled::Wides(_) | Filled::Texts(_), other) => {
                return Err(StateError::Unsupported(format!("a result of type {other}")));
            }
        })
    }
}

#[inline]
fn evaluate(
    plan: &AggregatePlan,
    frame: &FramePlan,
    ring: &mut Ring,
    spec: &WindowSpec,
    output: &DataType,
) -> Result {
    let stride = spec.stride;
    match plan.function {
        Function::Nth {
            nth,
            from_end,
            skip_nulls,
        } => {
            let slot = spec.slots[plan.columns[0]];
            return nth_row(ring, frame, slot, stride, (nth, from_end, skip_nulls))
                .map_or(Result::Null, |number| {
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
        return Result::Int(i128::from(count));
    }
    if plan.function == Function::CountDistinct {
        return Result::Int(i128::from(distinct::count(
            ring,
            frame,
            accumulator,
            stride,
        )));
    }
    if count == 0 {
        return Result::Null;
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
                return Result::Float(if mean { sum / count as f64 } else { sum });
            }
            let sum = get_wide(ring.cursors(), at);
            match output {
                DataType::Float64 => {
                    let sum = sum as f64 / power_of_ten(column.scale);
                    Result::Float(if mean { sum / count as f64 } else { sum })
                }
                DataType::Decimal128(_, scale) if mean => {
                    decimal_mean(sum, count, (*scale - column.scale) as u32)
                        .map_or(Result::Null, Result::Int)
                }
                _ => Result::Int(sum),
            }
        }
        Function::Min => {
            let min = accumulator.min.expect("planned for this function");
            Result::Int(known_extreme(
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
            Result::Int(known_extreme(
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
                return Result::Null;
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
            Result::Float(if root { variance.sqrt() } else { variance })
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

/// A stored value.
fn stored(row: &[u64], slot: Slot) -> Result {
    match slot.storage {
        _ if row[1] & slot.bit == 0 => Result::Null,
        Storage::Float => Result::Float(f64::from_bits(row[slot.word])),
        Storage::Text => Result::Text(row[slot.word] as u32),
        storage => Result::Int(value_of(row, storage, slot.word)),
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

/// The columns of a frame's rows, for a function that is computed elsewhere.
pub(super) fn rows_of(
    plan: &AggregatePlan,
    frame: &FramePlan,
    ring: &Ring,
    spec: &WindowSpec,
    texts: &[KeyIndex],
) -> std::result::Result<Vec<ArrayRef>, StateError> {
    let (lo, hi) = (ring.cursors()[frame.at], ring.cursors()[frame.at + 1]);
    let only = plan.only.map_or(0, |column| spec.slots[column].bit);
    (plan.columns.iter())
        .map(|&column| {
            let mut output = Output::new(&spec.columns[column].data_type, (hi - lo) as usize);
            for number in lo..hi {
                let row = ring.row(number, spec.stride);
                if row[1] & only == only {
                    output.push(stored(row, spec.slots[column]));
                }
            }
            output.finish(&texts[column])
        })
        .collect()
}

/// Sums of products of deviations from the means, of the pairs of a frame.
struct Deviations {
    mean_y: f64,
    mean_x: f64,
    yy: f64,
    xx: f64,
    xy: f64,
    /// As `xy`, with the roles changed: where values are infinite, the two are not, as DataFusion has it.
    yx: f64,
}

impl Deviations {
    fn of(sums: &PairSums, ring: &Ring, frame: &FramePlan, stride: usize) -> Self {
        let cursors = ring.cursors();
        let count = cursors[sums.count];
        if cursors[sums.outside] != 0 {
            return Self::of_rows(sums, ring, frame, stride);
        }
        let (y, x) = (&cursors[sums.sum_y..], &cursors[sums.sum_x..]);
        let of = |products: usize, one: &[u64], other: &[u64]| {
            deviations(count, &cursors[products..], one, other) / count as f64
        };
        let xy = of(sums.xy, x, y);
        Deviations {
            mean_y: sum_of(y) / count as f64,
            mean_x: sum_of(x) / count as f64,
            yy: of(sums.yy, y, y),
            xx: of(sums.xx, x, x),
            xy,
            yx: xy,
        }
    }

    /// In one pass over the rows (Welford, Technometrics 4 (3), 1962).
    fn of_rows(sums: &PairSums, ring: &Ring, frame: &FramePlan, stride: usize) -> Self {
        let mut all = Deviations {
            mean_y: 0.0,
            mean_x: 0.0,
            yy: 0.0,
            xx: 0.0,
            xy: 0.0,
            yx: 0.0,
        };
        let mut count = 0.0;
        for number in ring.cursors()[frame.at]..ring.cursors()[frame.at + 1] {
            let row = ring.row(number, stride);
            if row[1] & sums.y.bit == 0 || row[1] & sums.x.bit == 0 {
                continue;
            }
            let (y, x) = (
                f64::from_bits(row[sums.y.word]),
                f64::from_bits(row[sums.x.word]),
            );
            count += 1.0;
            let (before_y, before_x) = (y - all.mean_y, x - all.mean_x);
            all.mean_y += before_y / count;
            all.mean_x += before_x / count;
            all.yy += before_y * (y - all.mean_y);
            all.xx += before_x * (x - all.mean_x);
            all.xy += before_x * (y - all.mean_y);
            all.yx += before_y * (x - all.mean_x);
        }
        all
    }
}

fn of_pair(pair: Pair, sums: &PairSums, ring: &Ring, frame: &FramePlan, stride: usize) -> Result {
    let count = ring.cursors()[sums.count];
    if pair == Pair::Count {
        return Result::Int(i128::from(count));
    }
    let pairs_min = match pair {
        Pair::CovarPop | Pair::AvgX | Pair::AvgY | Pair::Sxx | Pair::Syy | Pair::Sxy => 1,
        _ => 2,
    };
    if count == 0 || (count < pairs_min && pair != Pair::Corr) {
        return Result::Null;
    }
    let Deviations {
        mean_y,
        mean_x,
        yy,
        xx,
        xy,
        yx,
    } = Deviations::of(sums, ring, frame, stride);
    let unless = |none: bool, value: f64| match none {
        true => Result::Null,
        false => Result::Float(value),
    };
    match pair {
        Pair::CovarSample => Result::Float(yx / (count - 1) as f64),
        Pair::CovarPop => Result::Float(yx / count as f64),
        // DataFusion tells columns that are NaN throughout from other frames without a correlation.
        Pair::Corr if mean_y.is_nan() && mean_x.is_nan() => Result::Float(f64::NAN),
        Pair::Corr => {
            let none = count < 2 || mean_y.is_nan() || mean_x.is_nan() || xx == 0.0 || yy == 0.0;
            unless(none, yx / yy.sqrt() / xx.sqrt())
        }
        Pair::Slope => unless(xx == 0.0, xy / xx),
        Pair::Intercept => unless(xx == 0.0, mean_y - xy / xx * mean_x),
        Pair::R2 => unless(xx == 0.0 || yy == 0.0, xy * xy / (xx * yy)),
        Pair::AvgX => Result::Float(mean_x),
        Pair::AvgY => Result::Float(mean_y),
        Pair::Sxx => Result::Float(xx),
        Pair::Syy => Result::Float(yy),
        Pair::Sxy => Result::Float(xy),
        Pair::Count => unreachable!("answered above"),
    }
}

/// `n sum(x^2) - sum(x)^2` of doubles; `None` where one is out of range.
fn double_deviations(ring: &Ring, accumulator: &Accumulator, count: u64) -> Option<f64> {
    let (sum, squares) = (accumulator.sum?, accumulator.squares?);
    if ring.cursors()[sum] != 0 {
        return None;
    }
    let sum = &ring.cursors()[sum + 1..];
    Some(deviations(count, &ring.cursors()[squares..], sum, sum))
}

/// `n sum(x^2) - sum(x)^2` of unscaled integers; `None` where that may not fit.
fn exact_deviations(ring: &Ring, accumulator: &Accumulator, count: u64) -> Option<i128> {
    let (sum, squares) = (accumulator.sum?, accumulator.squares?);
    if ring.cursors()[squares + 2] != 0 {
        return None;
    }
    let sum = get_wide(ring.cursors(), sum);
    let squares = get_wide(ring.cursors(), squares);
    squares
        .checked_mul(i128::from(count))?
        .checked_sub(sum.checked_mul(sum)?)
}

/// Sum of squared deviations from the mean, in one pass (Welford, Technometrics 4 (3), 1962).
fn squared_deviations(values: impl Iterator<Item = f64>) -> f64 {
    let (mut count, mut mean, mut squares) = (0.0, 0.0, 0.0);
    for value in values {
        count += 1.0;
        let before = value - mean;
        mean += before / count;
        squares += before * (value - mean);
    }
    squares
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

    #[test]
    fn welford_agrees_with_two_passes() {
        let values = [3.0, 4.5, -2.0, 11.0, 0.25];
        let mean = values.iter().sum::<f64>() / 5.0;
        let direct: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
        assert!((squared_deviations(values.into_iter()) - direct).abs() < 1e-12);
    }
}
