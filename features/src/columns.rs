//! Arrays as a program reads them, value by value, and as it makes them.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Float64Array, Int32Array, Int64Array,
    RecordBatch, TimestampMicrosecondArray, new_null_array,
};
use arrow::buffer::{BooleanBuffer, NullBuffer};
use arrow::compute::concat;
use arrow::datatypes::{
    DataType, Decimal128Type, Float64Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
};
use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;

use crate::FeatureError;
use crate::scalar::{Kind, Value};

/// An array, and the rows whose own values made it fail; NULL stands there.
pub(crate) struct Evaluated {
    pub array: ArrayRef,
    failed: Vec<bool>,
}

/// Has DataFusion evaluate an expression. Where the rows' own values make it fail, each row is evaluated alone.
pub(crate) fn evaluate(
    expr: &Arc<dyn PhysicalExpr>,
    rows: &RecordBatch,
    text: &str,
) -> Result<Evaluated, FeatureError> {
    if let Some(column) = expr.downcast_ref::<Column>() {
        return Ok(Evaluated {
            array: rows.column(column.index()).clone(),
            failed: Vec::new(),
        });
    }
    let values = |rows: &RecordBatch| {
        expr.evaluate(rows)
            .and_then(|value| value.into_array(rows.num_rows()))
    };
    let error = |source: DataFusionError| FeatureError::Evaluate {
        feature: text.to_string(),
        source: Box::new(source),
    };
    match values(rows) {
        Ok(array) => Ok(Evaluated {
            array,
            failed: Vec::new(),
        }),
        Err(e) if is_of_values(&e) => {
            let data_type = expr.data_type(&rows.schema()).map_err(error)?;
            let mut failed = vec![false; rows.num_rows()];
            let mut arrays = Vec::new();
            for (row, failed) in failed.iter_mut().enumerate() {
                arrays.push(match values(&rows.slice(row, 1)) {
                    Err(e) if is_of_values(&e) => {
                        *failed = true;
                        new_null_array(&data_type, 1)
                    }
                    other => other.map_err(error)?,
                });
            }
            let arrays: Vec<_> = arrays.iter().map(|array| array.as_ref()).collect();
            Ok(Evaluated {
                array: concat(&arrays)?,
                failed,
            })
        }
        Err(e) => Err(error(e)),
    }
}

/// Whether an expression failed on what a row holds, rather than on how it is built.
pub(crate) fn is_of_values(error: &DataFusionError) -> bool {
    match error.find_root() {
        DataFusionError::Execution(_) => true,
        DataFusionError::ArrowError(error, _) => matches!(
            error.as_ref(),
            ArrowError::DivideByZero
                | ArrowError::ArithmeticOverflow(_)
                | ArrowError::CastError(_)
                | ArrowError::ComputeError(_)
                | ArrowError::ParseError(_)
                | ArrowError::InvalidArgumentError(_)
        ),
        _ => false,
    }
}

/// The values of a source, as steps read them.
pub(crate) struct Input<'a> {
    values: Values<'a>,
    nulls: Option<&'a NullBuffer>,
    failed: &'a [bool],
}

enum Values<'a> {
    Bools(&'a BooleanBuffer),
    Shorts(&'a [i32]),
    Ints(&'a [i64]),
    Floats(&'a [f64]),
    Wides(&'a [i128]),
}

impl<'a> Input<'a> {
    pub(crate) fn of(Evaluated { array, failed }: &'a Evaluated, kind: Kind) -> Self {
        Input {
            values: match kind {
                Kind::Bool => Values::Bools(array.as_boolean().values()),
                Kind::Int32 => Values::Shorts(array.as_primitive::<Int32Type>().values()),
                Kind::Int64 => Values::Ints(array.as_primitive::<Int64Type>().values()),
                Kind::Time => {
                    Values::Ints(array.as_primitive::<TimestampMicrosecondType>().values())
                }
                Kind::Float64 => Values::Floats(array.as_primitive::<Float64Type>().values()),
                Kind::Decimal(..) => Values::Wides(array.as_primitive::<Decimal128Type>().values()),
            },
            nulls: array.nulls(),
            failed,
        }
    }

    /// Reads the values of rows from number `from` on.
    pub(crate) fn read(&self, from: usize, into: &mut [Value]) {
        let rows = from..from + into.len();
        macro_rules! read {
            ($values:expr, $value:expr) => {
                for (value, read) in into.iter_mut().zip(&$values[rows.clone()]) {
                    *value = $value(*read);
                }
            };
        }
        match self.values {
            Values::Bools(values) => {
                for (value, row) in into.iter_mut().zip(rows.clone()) {
                    *value = values.value(row).into();
                }
            }
            Values::Shorts(values) => read!(values, |value: i32| Value::Int(value.into())),
            Values::Ints(values) => read!(values, Value::Int),
            Values::Floats(values) => read!(values, Value::Float),
            Values::Wides(values) => read!(values, Value::Wide),
        }
        let Some(nulls) = self.nulls else { return };
        for (value, row) in into.iter_mut().zip(rows) {
            if nulls.is_null(row) {
                *value = match self.failed.get(row) {
                    Some(true) => Value::Failed,
                    _ => Value::Null,
                };
            }
        }
    }
}

/// A column of results while it is filled.
pub(crate) struct Built {
    kind: Kind,
    values: Filled,
    valid: Vec<bool>,
}

enum Filled {
    Ints(Vec<i64>),
    Floats(Vec<f64>),
    Wides(Vec<i128>),
}

impl Built {
    pub(crate) fn new(kind: Kind, rows: usize) -> Self {
        Built {
            kind,
            values: match kind {
                Kind::Float64 => Filled::Floats(Vec::with_capacity(rows)),
                Kind::Decimal(..) => Filled::Wides(Vec::with_capacity(rows)),
                _ => Filled::Ints(Vec::with_capacity(rows)),
            },
            valid: Vec::with_capacity(rows),
        }
    }

    /// Appends values.
    pub(crate) fn extend(&mut self, values: &[Value]) {
        let is_valid = |value: &Value| !matches!(value, Value::Null | Value::Failed);
        self.valid.extend(values.iter().map(is_valid));
        match &mut self.values {
            Filled::Ints(filled) => filled.extend(values.iter().map(|value| match value {
                Value::Int(value) => *value,
                _ => 0,
            })),
            Filled::Floats(filled) => filled.extend(values.iter().map(|value| match value {
                Value::Float(value) => *value,
                _ => 0.0,
            })),
            Filled::Wides(filled) => filled.extend(values.iter().map(|value| match value {
                Value::Wide(value) => *value,
                _ => 0,
            })),
        }
    }

    pub(crate) fn finish(self) -> Result<ArrayRef, FeatureError> {
        let nulls = match self.valid.iter().all(|valid| *valid) {
            true => None,
            false => Some(NullBuffer::from(self.valid)),
        };
        Ok(match (self.values, self.kind) {
            (Filled::Floats(values), _) => Arc::new(Float64Array::new(values.into(), nulls)),
            (Filled::Wides(values), Kind::Decimal(precision, scale)) => Arc::new(
                Decimal128Array::new(values.into(), nulls)
                    .with_precision_and_scale(precision, scale)?,
            ),
            (Filled::Ints(values), Kind::Bool) => Arc::new(BooleanArray::new(
                values.iter().map(|value| *value != 0).collect(),
                nulls,
            )),
            (Filled::Ints(values), Kind::Int32) => Arc::new(Int32Array::new(
                values.into_iter().map(|value| value as i32).collect(),
                nulls,
            )),
            (Filled::Ints(values), Kind::Time) => {
                Arc::new(TimestampMicrosecondArray::new(values.into(), nulls))
            }
            (Filled::Ints(values), _) => Arc::new(Int64Array::new(values.into(), nulls)),
            (Filled::Wides(_), kind) => unreachable!("{kind:?} is not kept in two words"),
        })
    }
}

impl Kind {
    /// How values of a type are kept, if steps know it.
    pub(crate) fn of(data_type: &DataType) -> Option<Kind> {
        Some(match data_type {
            DataType::Boolean => Kind::Bool,
            DataType::Int32 => Kind::Int32,
            DataType::Int64 => Kind::Int64,
            DataType::Float64 => Kind::Float64,
            DataType::Decimal128(precision, scale) => Kind::Decimal(*precision, *scale),
            DataType::Timestamp(TimeUnit::Microsecond, None) => Kind::Time,
            _ => return None,
        })
    }
}
