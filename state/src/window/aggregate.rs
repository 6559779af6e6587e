//! Results: from a frame's running values, or from its rows, to a column of output.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int8Array,
    Int16Array, Int32Array, Int64Array, TimestampMicrosecondArray, UInt8Array, UInt16Array,
    UInt32Array, UInt64Array,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::DataType;

use super::cursor::{double_of, get_wide, known_extreme, value_of};
use super::ring::Ring;
use super::spec::{Accumulator, AggregatePlan, FramePlan, Function, Storage};
use crate::StateError;

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
}

/// One result.
enum Result {
    Null,
    Int(i128),
    Float(f64),
}

impl Output {
    pub(super) fn new(plan: &AggregatePlan, rows: usize) -> Self {
        let values = match plan.output {
            DataType::Float32 | DataType::Float64 => Filled::Floats(Vec::with_capacity(rows)),
            DataType::Decimal128(..) | DataType::UInt64 => Filled::Wides(Vec::with_capacity(rows)),
            _ => Filled::Ints(Vec::with_capacity(rows)),
        };
        Output {
            data_type: plan.output.clone(),
            values,
            valid: Vec::with_capacity(rows),
        }
    }

    /// Appends the result over an empty frame.
    pub(super) fn push_empty(&mut self, plan: &AggregatePlan) {
        self.push(match plan.function {
            Function::Count => Result::Int(0),
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
        stride: usize,
    ) {
        let accumulator = &frame.accumulators[plan.accumulator];
        let result = evaluate(plan, frame, accumulator, ring, stride, &self.data_type);
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
            (Filled::Ints(values), _) => values.push(0),
            (Filled::Wides(values), _) => values.push(0),
            (Filled::Floats(values), Result::Null) => values.push(0.0),
        }
    }

    /// The column.
    pub(super) fn finish(self) -> std::result::Result<ArrayRef, StateError> {
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
            (Filled::Wides(_), other) => {
                return Err(StateError::Unsupported(format!("a result of type {other}")));
            }
        })
    }
}

#[inline]
fn evaluate(
    plan: &AggregatePlan,
    frame: &FramePlan,
    accumulator: &Accumulator,
    ring: &mut Ring,
    stride: usize,
    output: &DataType,
) -> Result {
    let count = ring.cursors[accumulator.count];
    if plan.function == Function::Count {
        return Result::Int(i128::from(count));
    }
    if count == 0 {
        return Result::Null;
    }
    let column = accumulator.column;
    match plan.function {
        Function::Count => unreachable!("answered above"),
        Function::Sum | Function::Avg => {
            let mean = plan.function == Function::Avg;
            let Some(at) = accumulator.sum else {
                let sum = doubles(ring, frame, accumulator, stride).fold(0.0, |sum, v| sum + v);
                return Result::Float(if mean { sum / count as f64 } else { sum });
            };
            let sum = get_wide(&ring.cursors, at);
            match output {
                DataType::Float64 => {
                    let sum = sum as f64 / power_of_ten(column.scale);
                    Result::Float(if mean { sum / count as f64 } else { sum })
                }
                // The mean of a decimal is cut off, not rounded, after its last place.
                DataType::Decimal128(_, scale) if mean => {
                    let places = 10i128.pow((*scale - column.scale) as u32);
                    Result::Int(sum.wrapping_mul(places) / i128::from(count))
                }
                _ => Result::Int(sum),
            }
        }
        Function::Min => {
            let at = accumulator.min.expect("planned for this function");
            Result::Int(known_extreme(
                ring,
                frame,
                accumulator,
                at,
                stride,
                |a, b| a < b,
            ))
        }
        Function::Max => {
            let at = accumulator.max.expect("planned for this function");
            Result::Int(known_extreme(
                ring,
                frame,
                accumulator,
                at,
                stride,
                |a, b| a > b,
            ))
        }
        Function::Variance { sample, root } => {
            let divisor = if sample { count - 1 } else { count };
            if divisor == 0 {
                return Result::Null;
            }
            let variance = match exact_deviations(ring, accumulator, count) {
                // n (n sum(x^2) - sum(x)^2) / n = the sum of squared deviations, times n.
                Some(deviations) => {
                    let places = power_of_ten(column.scale);
                    deviations as f64 / (count as f64 * divisor as f64) / (places * places)
                }
                None => {
                    let values = doubles(ring, frame, accumulator, stride);
                    squared_deviations(values) / divisor as f64
                }
            };
            Result::Float(if root { variance.sqrt() } else { variance })
        }
    }
}

/// `n sum(x^2) - sum(x)^2` of unscaled integers; `None` where that may not fit.
fn exact_deviations(ring: &Ring, accumulator: &Accumulator, count: u64) -> Option<i128> {
    let (sum, squares) = (accumulator.sum?, accumulator.squares?);
    if ring.cursors[squares + 2] != 0 {
        return None;
    }
    let sum = get_wide(&ring.cursors, sum);
    let squares = get_wide(&ring.cursors, squares);
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
    accumulator: &Accumulator,
    stride: usize,
) -> impl Iterator<Item = f64> + use<'a> {
    let column = accumulator.column;
    let places = power_of_ten(column.scale);
    (ring.cursors[frame.at]..ring.cursors[frame.at + 1]).filter_map(move |number| {
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
    fn welford_agrees_with_two_passes() {
        let values = [3.0, 4.5, -2.0, 11.0, 0.25];
        let mean = values.iter().sum::<f64>() / 5.0;
        let direct: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
        assert!((squared_deviations(values.into_iter()) - direct).abs() < 1e-12);
    }
}
