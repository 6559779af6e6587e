//! Output columns while they are filled: results go in one at a time, and an array comes out.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int8Array,
    Int16Array, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray, UInt8Array,
    UInt16Array, UInt32Array, UInt64Array,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::DataType;

use super::aggregate::evaluate;
use super::cursor::{double_of, value_of};
use super::plan::{AggregatePlan, FramePlan, Slot, Storage};
use super::ring::Ring;
use super::shard::Cuts;
use super::spec::{Function, Pair, WindowSpec};
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
pub(super) enum Computed {
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
                Computed::Int(0)
            }
            _ => Computed::Null,
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
    fn push(&mut self, result: Computed) {
        self.valid.push(!matches!(result, Computed::Null));
        match (&mut self.values, result) {
            (Filled::Ints(values), Computed::Int(value)) => values.push(value as i64),
            (Filled::Wides(values), Computed::Int(value)) => values.push(value),
            (Filled::Floats(values), Computed::Float(value)) => values.push(value),
            (Filled::Floats(values), Computed::Int(value)) => values.push(double_of(value)),
            (Filled::Texts(values), Computed::Text(value)) => values.push(value),
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
        self.push(Computed::Int(i128::from(is_there)));
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
    pub(super) fn finish(self, texts: &KeyIndex) -> Result<ArrayRef, StateError> {
        self.finish_with(|text| texts.key(text))
    }

    /// The column, whose texts are looked up by `text_of`.
    pub(super) fn finish_with<'a>(
        self,
        text_of: impl Fn(u32) -> &'a [u8],
    ) -> Result<ArrayRef, StateError> {
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

/// A stored value.
pub(super) fn stored(row: &[u64], slot: Slot) -> Computed {
    match slot.storage {
        _ if row[1] & slot.bit == 0 => Computed::Null,
        Storage::Float => Computed::Float(f64::from_bits(row[slot.word])),
        Storage::Text => Computed::Text(row[slot.word] as u32),
        storage => Computed::Int(value_of(row, storage, slot.word)),
    }
}

/// The columns of a frame's rows, for a function that is computed elsewhere.
pub(super) fn rows_of(
    plan: &AggregatePlan,
    frame: &FramePlan,
    ring: &Ring,
    spec: &WindowSpec,
    texts: &[KeyIndex],
) -> Result<Vec<ArrayRef>, StateError> {
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
