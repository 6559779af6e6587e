//! What casts start from and lead to: kinds of the relation's columns, and values of any source.

use std::borrow::Cow;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Float64Array, Int64Array, RecordBatch,
    StringArray, UInt64Array,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, TimeUnit};
use arrow::error::ArrowError;
use arrow::util::display::array_value_to_string;
use serde_json::{Map, Value};

use crate::stream::EpochUnit;

/// A type of the relation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Text,
    BigInt,
    Int,
    Double,
    Boolean,
    Decimal { precision: u8, scale: i8 },
    Time(Integers),
}

/// What an integer means where a time is wanted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Integers {
    /// Nothing: the unit was not declared.
    Undeclared,
    /// Units since 1970.
    Count(EpochUnit),
    /// Seconds, milli-, micro- or nanoseconds, told by size; unambiguous from 1973 to 5138.
    BySize,
}

impl Kind {
    /// The kind of a relation's column; `None` for types that no column can have.
    pub(crate) fn of(data_type: &DataType) -> Option<Kind> {
        Some(match data_type {
            DataType::Utf8 => Kind::Text,
            DataType::Int64 => Kind::BigInt,
            DataType::Int32 => Kind::Int,
            DataType::Float64 => Kind::Double,
            DataType::Boolean => Kind::Boolean,
            DataType::Decimal128(precision, scale) => Kind::Decimal {
                precision: *precision,
                scale: *scale,
            },
            DataType::Timestamp(TimeUnit::Microsecond, None) => {
                Kind::Time(Integers::Count(EpochUnit::Microseconds))
            }
            _ => return None,
        })
    }

    /// The name it has in `pipeline.yaml`.
    pub(crate) fn name(self) -> String {
        match self {
            Kind::Text => "string".into(),
            Kind::BigInt => "bigint".into(),
            Kind::Int => "int".into(),
            Kind::Double => "double".into(),
            Kind::Boolean => "boolean".into(),
            Kind::Decimal { precision, scale } => format!("decimal({precision},{scale})"),
            Kind::Time(_) => "timestamp".into(),
        }
    }
}

/// One value of a source.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cell<'a> {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Decimal(i128, i8),
    Text(Cow<'a, str>),
    /// Microseconds since 1970.
    Time(i64),
    /// Something with no scalar value, in words.
    Other(&'static str),
}

impl Cell<'_> {
    /// What it is, where its value must not be shown.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Cell::Null => "null",
            Cell::Bool(_) => "a boolean",
            Cell::Int(_) => "an integer",
            Cell::Float(v) if !v.is_finite() => "a number that is not finite",
            Cell::Float(_) | Cell::Decimal(..) => "a number",
            Cell::Text(_) => "text",
            Cell::Time(_) => "a timestamp",
            Cell::Other(what) => what,
        }
    }

    /// The value as a dead letter's detail shows it.
    pub(crate) fn shown(&self) -> String {
        const SHOWN_CHARS_MAX: usize = 60;
        match self {
            Cell::Null => "null".into(),
            Cell::Bool(v) => v.to_string(),
            Cell::Int(v) => v.to_string(),
            Cell::Float(v) => v.to_string(),
            Cell::Decimal(v, scale) => format!("{v}e{}", -i32::from(*scale)),
            Cell::Text(v) if v.chars().count() > SHOWN_CHARS_MAX => {
                let cut: String = v.chars().take(SHOWN_CHARS_MAX).collect();
                format!("{cut:?}...")
            }
            Cell::Text(v) => format!("{v:?}"),
            Cell::Time(v) => format!("timestamp {v} us"),
            Cell::Other(what) => (*what).into(),
        }
    }
}

/// A column of a source in one of the shapes that casts start from.
#[derive(Debug)]
pub(crate) enum Values<'a> {
    Absent,
    Bool(BooleanArray),
    Int(Int64Array),
    UInt(UInt64Array),
    Float(Float64Array),
    Decimal(Decimal128Array, i8),
    Text(StringArray),
    Time(Int64Array, EpochUnit),
    Cells(Vec<Cell<'a>>),
}

impl Values<'_> {
    /// Brings an Arrow column to its shape; `None` for types with no scalar values (lists, ...).
    pub(crate) fn of(array: &ArrayRef) -> Result<Option<Values<'static>>, ArrowError> {
        use DataType as T;
        let to = |t: &DataType| cast(array, t);
        Ok(Some(match array.data_type() {
            T::Null => Values::Absent,
            T::Boolean => Values::Bool(array.as_boolean().clone()),
            T::Int8 | T::Int16 | T::Int32 | T::Int64 | T::UInt8 | T::UInt16 | T::UInt32 => {
                Values::Int(to(&T::Int64)?.as_primitive().clone())
            }
            T::UInt64 => Values::UInt(array.as_primitive().clone()),
            T::Float16 | T::Float32 | T::Float64 => {
                Values::Float(to(&T::Float64)?.as_primitive().clone())
            }
            T::Decimal32(_, s) | T::Decimal64(_, s) | T::Decimal128(_, s) => {
                Values::Decimal(to(&T::Decimal128(38, *s))?.as_primitive().clone(), *s)
            }
            T::Utf8
            | T::LargeUtf8
            | T::Utf8View
            | T::Binary
            | T::LargeBinary
            | T::BinaryView
            | T::Decimal256(..) => Values::Text(to(&T::Utf8)?.as_string().clone()),
            T::Timestamp(unit, _) => {
                let unit = match unit {
                    TimeUnit::Second => EpochUnit::Seconds,
                    TimeUnit::Millisecond => EpochUnit::Milliseconds,
                    TimeUnit::Microsecond => EpochUnit::Microseconds,
                    TimeUnit::Nanosecond => EpochUnit::Nanoseconds,
                };
                Values::Time(to(&T::Int64)?.as_primitive().clone(), unit)
            }
            T::Date32 | T::Date64 => {
                let ms = to(&T::Timestamp(TimeUnit::Millisecond, None))?;
                Values::Time(
                    cast(&ms, &T::Int64)?.as_primitive().clone(),
                    EpochUnit::Milliseconds,
                )
            }
            T::Dictionary(_, values) => return Values::of(&to(values)?),
            _ => return Ok(None),
        }))
    }

    /// The value of row `i`.
    pub(crate) fn cell(&self, i: usize) -> Cell<'_> {
        let null = match self {
            Values::Absent => true,
            Values::Bool(a) => a.is_null(i),
            Values::Int(a) | Values::Time(a, _) => a.is_null(i),
            Values::UInt(a) => a.is_null(i),
            Values::Float(a) => a.is_null(i),
            Values::Decimal(a, _) => a.is_null(i),
            Values::Text(a) => a.is_null(i),
            Values::Cells(_) => false,
        };
        if null {
            return Cell::Null;
        }
        match self {
            Values::Absent => Cell::Null,
            Values::Bool(a) => Cell::Bool(a.value(i)),
            Values::Int(a) => Cell::Int(a.value(i).into()),
            Values::UInt(a) => Cell::Int(a.value(i).into()),
            Values::Float(a) => Cell::Float(a.value(i)),
            Values::Decimal(a, scale) => Cell::Decimal(a.value(i), *scale),
            Values::Text(a) => Cell::Text(Cow::Borrowed(a.value(i))),
            Values::Time(a, unit) => match unit.to_us(a.value(i)) {
                Some(us) => Cell::Time(us),
                None => Cell::Other("a timestamp out of range"),
            },
            Values::Cells(cells) => match &cells[i] {
                Cell::Text(text) => Cell::Text(Cow::Borrowed(text)),
                other => other.clone(),
            },
        }
    }
}

/// Row `row` of a table as a JSON object, for a dead letter: numbers that JSON does not have stand
/// as text.
pub(crate) fn row_as_json(table: &RecordBatch, row: usize) -> Vec<u8> {
    let mut object = Map::new();
    for (field, array) in table.schema().fields().iter().zip(table.columns()) {
        object.insert(field.name().clone(), value_as_json(array, row));
    }
    Value::Object(object).to_string().into_bytes()
}

/// A value of a column, with all its digits.
pub(crate) fn value_as_json(array: &ArrayRef, row: usize) -> Value {
    match array.data_type() {
        _ if array.is_null(row) => Value::Null,
        DataType::Decimal128(..) => {
            Value::String(array.as_primitive::<Decimal128Type>().value_as_string(row))
        }
        _ => match Values::of(&array.slice(row, 1)) {
            Ok(Some(values)) => json_of(&values.cell(0), array, row),
            _ => Value::String(array_value_to_string(array, row).unwrap_or_default()),
        },
    }
}

fn json_of(cell: &Cell<'_>, array: &ArrayRef, row: usize) -> Value {
    match cell {
        Cell::Null => Value::Null,
        Cell::Bool(v) => Value::Bool(*v),
        Cell::Int(v) => i64::try_from(*v)
            .map(Value::from)
            .or_else(|_| u64::try_from(*v).map(Value::from))
            .unwrap_or(Value::Null),
        Cell::Float(v) if v.is_finite() => Value::from(*v),
        Cell::Text(text) => Value::String(text.to_string()),
        _ => Value::String(array_value_to_string(array, row).unwrap_or_default()),
    }
}
