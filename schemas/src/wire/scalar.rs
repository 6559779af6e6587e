//! One cell of a feature, whatever Arrow keeps it in, as the wire knows it.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{
    ArrowDictionaryKeyType, ArrowPrimitiveType, DataType, Date32Type, Date64Type, Decimal32Type,
    Decimal64Type, Decimal128Type, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type,
    Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};

use super::WireError;

/// A value of a feature. An instant is microseconds since 1970 UTC.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Scalar<'a> {
    Null,
    Bool(bool),
    Int(i64),
    UInt(u64),
    Float(f32),
    Double(f64),
    /// Value and scale: value x 10^-scale.
    Decimal(i128, i8),
    Text(&'a str),
}

impl<'a> Scalar<'a> {
    /// The cell of the feature `name` in row `row` of `array`.
    #[inline]
    pub(super) fn of(name: &str, array: &'a dyn Array, row: usize) -> Result<Self, WireError> {
        if array.is_null(row) {
            return Ok(Scalar::Null);
        }
        Ok(match array.data_type() {
            DataType::Null => Scalar::Null,
            DataType::Boolean => Scalar::Bool(array.as_boolean().value(row)),
            DataType::Int8 => Scalar::Int(primitive::<Int8Type>(array, row).into()),
            DataType::Int16 => Scalar::Int(primitive::<Int16Type>(array, row).into()),
            DataType::Int32 => Scalar::Int(primitive::<Int32Type>(array, row).into()),
            DataType::Int64 => Scalar::Int(primitive::<Int64Type>(array, row)),
            DataType::UInt8 => Scalar::UInt(primitive::<UInt8Type>(array, row).into()),
            DataType::UInt16 => Scalar::UInt(primitive::<UInt16Type>(array, row).into()),
            DataType::UInt32 => Scalar::UInt(primitive::<UInt32Type>(array, row).into()),
            DataType::UInt64 => Scalar::UInt(primitive::<UInt64Type>(array, row)),
            DataType::Float16 => Scalar::Float(primitive::<Float16Type>(array, row).to_f32()),
            DataType::Float32 => Scalar::Float(primitive::<Float32Type>(array, row)),
            DataType::Float64 => Scalar::Double(primitive::<Float64Type>(array, row)),
            DataType::Decimal32(_, scale) => {
                Scalar::Decimal(primitive::<Decimal32Type>(array, row).into(), *scale)
            }
            DataType::Decimal64(_, scale) => {
                Scalar::Decimal(primitive::<Decimal64Type>(array, row).into(), *scale)
            }
            DataType::Decimal128(_, scale) => {
                Scalar::Decimal(primitive::<Decimal128Type>(array, row), *scale)
            }
            DataType::Utf8 => Scalar::Text(array.as_string::<i32>().value(row)),
            DataType::LargeUtf8 => Scalar::Text(array.as_string::<i64>().value(row)),
            DataType::Utf8View => Scalar::Text(array.as_string_view().value(row)),
            DataType::Date32 => {
                Scalar::Int(i64::from(primitive::<Date32Type>(array, row)) * 86_400_000_000)
            }
            DataType::Date64 => Scalar::Int(primitive::<Date64Type>(array, row) * 1000),
            DataType::Timestamp(unit, _) => Scalar::Int(instant_us(unit, array, row)),
            DataType::Dictionary(key, _) => match **key {
                DataType::Int8 => return of_dictionary::<Int8Type>(name, array, row),
                DataType::Int16 => return of_dictionary::<Int16Type>(name, array, row),
                DataType::Int32 => return of_dictionary::<Int32Type>(name, array, row),
                _ => return Err(no_form(name, array)),
            },
            _ => return Err(no_form(name, array)),
        })
    }
}

fn primitive<T: ArrowPrimitiveType>(array: &dyn Array, row: usize) -> T::Native {
    array.as_primitive::<T>().value(row)
}

fn of_dictionary<'a, K: ArrowDictionaryKeyType>(
    name: &str,
    array: &'a dyn Array,
    row: usize,
) -> Result<Scalar<'a>, WireError> {
    let array = array.as_dictionary::<K>();
    match array.key(row) {
        Some(key) => Scalar::of(name, array.values().as_ref(), key),
        None => Ok(Scalar::Null),
    }
}

fn no_form(name: &str, array: &dyn Array) -> WireError {
    WireError::FeatureType {
        name: name.to_string(),
        data_type: array.data_type().clone(),
    }
}

fn instant_us(unit: &TimeUnit, array: &dyn Array, row: usize) -> i64 {
    match unit {
        TimeUnit::Second => primitive::<TimestampSecondType>(array, row).saturating_mul(1_000_000),
        TimeUnit::Millisecond => {
            primitive::<TimestampMillisecondType>(array, row).saturating_mul(1000)
        }
        TimeUnit::Microsecond => primitive::<TimestampMicrosecondType>(array, row),
        TimeUnit::Nanosecond => primitive::<TimestampNanosecondType>(array, row).div_euclid(1000),
    }
}
