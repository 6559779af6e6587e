//! Values of key columns as bytes.

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray};
use arrow::datatypes::{DataType, Int64Type};
use arrow::row::{RowConverter, Rows, SortField};

use crate::FeatureError;

/// Turns columns into one key a row. A single string is its own bytes, a single bigint its eight,
/// and anything else the row format of Arrow; all tell apart what SQL tells apart.
#[derive(Debug)]
pub(crate) enum KeyEncoder {
    /// No column: all rows have one key.
    Unit,
    Text,
    Number,
    Row(RowConverter),
}

/// The keys of a batch.
pub(crate) enum Keys {
    Unit,
    Text(StringArray),
    Number(Int64Array),
    Row(Rows),
}

impl KeyEncoder {
    pub(crate) fn new(types: &[DataType]) -> Result<Self, FeatureError> {
        Ok(match types {
            [] => KeyEncoder::Unit,
            [DataType::Utf8] => KeyEncoder::Text,
            [DataType::Int64] => KeyEncoder::Number,
            _ => {
                let fields = types.iter().map(|t| SortField::new(t.clone())).collect();
                KeyEncoder::Row(RowConverter::new(fields)?)
            }
        })
    }

    pub(crate) fn keys(&self, columns: &[ArrayRef]) -> Result<Keys, FeatureError> {
        Ok(match (self, columns) {
            (KeyEncoder::Unit, _) => Keys::Unit,
            (KeyEncoder::Text, [column]) => Keys::Text(column.as_string::<i32>().clone()),
            (KeyEncoder::Number, [column]) => {
                Keys::Number(column.as_primitive::<Int64Type>().clone())
            }
            (KeyEncoder::Row(converter), _) => Keys::Row(converter.convert_columns(columns)?),
            _ => return Err(FeatureError::Batch),
        })
    }
}

impl Keys {
    /// Calls `f` with the key of a row; `None` where a single string or bigint is NULL.
    #[inline]
    pub(crate) fn with<R>(&self, row: usize, f: impl FnOnce(Option<&[u8]>) -> R) -> R {
        match self {
            Keys::Unit => f(Some(&[])),
            Keys::Text(column) if column.is_null(row) => f(None),
            Keys::Text(column) => f(Some(column.value(row).as_bytes())),
            Keys::Number(column) if column.is_null(row) => f(None),
            Keys::Number(column) => f(Some(&column.value(row).to_le_bytes())),
            Keys::Row(rows) => f(Some(rows.row(row).data())),
        }
    }
}
