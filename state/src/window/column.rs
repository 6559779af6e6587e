//! The arguments of one batch, as the words that rings keep.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, TimestampMicrosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};

use super::plan::{Slot, Storage};
use super::spec::Column;
use crate::{KeyIndex, StateError};

/// A column's values for the rows of a batch.
pub(super) struct Values {
    words: Words,
    nulls: Option<NullBuffer>,
    slot: Slot,
}

enum Words {
    Presence,
    Ints(ScalarBuffer<i64>),
    Wides(Vec<i128>),
    Floats(ScalarBuffer<f64>),
    Texts(Vec<u32>),
}

impl Values {
    /// Reads `array`, which must have the column's type and `rows` rows. Texts that are new get a number;
    /// rows that do not enter are not looked at.
    pub(super) fn of(
        array: &ArrayRef,
        column: &Column,
        slot: Slot,
        enters: &[bool],
        texts: &mut KeyIndex,
    ) -> Result<Self, StateError> {
        let rows = enters.len();
        if *array.data_type() != column.data_type || array.len() != rows {
            return Err(StateError::Mismatch(format!(
                "{} rows of {} where {rows} of {} were planned",
                array.len(),
                array.data_type(),
                column.data_type
            )));
        }
        let nulls = array.logical_nulls().filter(|nulls| nulls.null_count() > 0);
        let words = match slot.storage {
            Storage::Presence => Words::Presence,
            Storage::Int => Words::Ints(ints(array)),
            Storage::Wide => Words::Wides(wides(array)),
            Storage::Text => Words::Texts(
                (array.as_string::<i32>().iter().zip(enters))
                    .map(|(text, enters)| match (text, enters) {
                        (Some(text), true) => texts.slot_of(text.as_bytes()),
                        _ => 0,
                    })
                    .collect(),
            ),
            Storage::Float => Words::Floats(match array.data_type() {
                DataType::Float32 => array
                    .as_primitive::<Float32Type>()
                    .values()
                    .iter()
                    .map(|v| f64::from(*v))
                    .collect(),
                _ => array.as_primitive::<Float64Type>().values().clone(),
            }),
        };
        Ok(Values { words, nulls, slot })
    }

    /// Writes row `row` of this column into a row of a ring.
    #[inline]
    pub(super) fn put(&self, row: usize, into: &mut [u64]) {
        if self.nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
            return;
        }
        into[1] |= self.slot.bit;
        match &self.words {
            Words::Presence => {}
            Words::Ints(values) => into[self.slot.word] = values[row] as u64,
            Words::Floats(values) => into[self.slot.word] = values[row].to_bits(),
            Words::Texts(values) => into[self.slot.word] = u64::from(values[row]),
            Words::Wides(values) => {
                into[self.slot.word] = values[row] as u64;
                into[self.slot.word + 1] = (values[row] >> 64) as u64;
            }
        }
    }
}

macro_rules! widen {
    ($array:expr, $t:ty) => {
        $array
            .as_primitive::<$t>()
            .values()
            .iter()
            .map(|v| *v as i64)
            .collect()
    };
}

/// Values of a type that is kept in one integer word.
fn ints(array: &ArrayRef) -> ScalarBuffer<i64> {
    match array.data_type() {
        DataType::Int64 => array.as_primitive::<Int64Type>().values().clone(),
        DataType::Timestamp(..) => array
            .as_primitive::<TimestampMicrosecondType>()
            .values()
            .clone(),
        DataType::Int8 => widen!(array, Int8Type),
        DataType::Int16 => widen!(array, Int16Type),
        DataType::Int32 => widen!(array, Int32Type),
        DataType::UInt8 => widen!(array, UInt8Type),
        DataType::UInt16 => widen!(array, UInt16Type),
        DataType::UInt32 => widen!(array, UInt32Type),
        DataType::Date32 => widen!(array, Date32Type),
        DataType::Boolean => array.as_boolean().values().iter().map(i64::from).collect(),
        // Decimals of up to 18 digits.
        _ => widen!(array, Decimal128Type),
    }
}

/// Values of a type that is kept in two integer words.
fn wides(array: &ArrayRef) -> Vec<i128> {
    match array.data_type() {
        DataType::UInt64 => array
            .as_primitive::<UInt64Type>()
            .values()
            .iter()
            .map(|v| i128::from(*v))
            .collect(),
        _ => array.as_primitive::<Decimal128Type>().values().to_vec(),
    }
}
