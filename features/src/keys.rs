//! Values of key columns as bytes.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray, UInt32Array};
use arrow::compute::take_arrays;
use arrow::datatypes::{DataType, Int64Type};
use arrow::row::{RowConverter, Rows, SortField};

use sanderling_state::StateError;

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

    /// The columns again, of keys that [`KeyEncoder::keys`] has made; `None` is a key of NULL alone. A
    /// dictionary comes back as its values.
    pub(crate) fn columns(&self, keys: &[Option<&[u8]>]) -> Result<Vec<ArrayRef>, FeatureError> {
        let damaged = || StateError::Damaged("a key of another type".into());
        Ok(match self {
            KeyEncoder::Unit => Vec::new(),
            KeyEncoder::Text => {
                let texts = keys.iter().map(|key| key.map(String::from_utf8_lossy));
                vec![Arc::new(texts.collect::<StringArray>())]
            }
            KeyEncoder::Number => {
                let number = |key: &Option<&[u8]>| match key {
                    None => Ok(None),
                    Some(key) => Ok(Some(i64::from_le_bytes(
                        (*key).try_into().map_err(|_| damaged())?,
                    ))),
                };
                let numbers = keys.iter().map(number);
                vec![Arc::new(
                    numbers.collect::<Result<Int64Array, StateError>>()?,
                )]
            }
            KeyEncoder::Row(converter) => {
                let parser = converter.parser();
                let known = keys.iter().flatten().map(|key| parser.parse(key));
                let columns = converter.convert_rows(known)?;
                let mut next = 0;
                let picks: UInt32Array = (keys.iter())
                    .map(|key| {
                        key.map(|_| {
                            next += 1;
                            next - 1
                        })
                    })
                    .collect();
                take_arrays(&columns, &picks, None)?
            }
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
