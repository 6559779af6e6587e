//! What a spec is compiled to: offsets into the rows and the cursors of a key.

use arrow::datatypes::{DataType, TimeUnit};

use super::exact::{PRODUCT_WORDS, SUM_WORDS};
use super::spec::{Frame, Function};
use crate::StateError;

/// How a column's values are kept in a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Storage {
    /// Only whether there is one.
    Presence,
    /// One word.
    Int,
    /// Two words.
    Wide,
    /// One word, the bits of a double.
    Float,
    /// One word, the number of a text.
    Text,
}

impl Storage {
    pub(super) fn words(self) -> usize {
        match self {
            Storage::Presence => 0,
            Storage::Int | Storage::Float | Storage::Text => 1,
            Storage::Wide => 2,
        }
    }
}

/// Whether values of a type can be kept, and how.
pub(super) fn storage_of(data_type: &DataType) -> Result<(Storage, i8), StateError> {
    Ok(match data_type {
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::UInt8
        | DataType::UInt16
        | DataType::UInt32
        | DataType::Date32
        | DataType::Timestamp(TimeUnit::Microsecond, _) => (Storage::Int, 0),
        DataType::UInt64 => (Storage::Wide, 0),
        DataType::Decimal128(precision, scale) if *precision <= 18 => (Storage::Int, *scale),
        DataType::Decimal128(_, scale) => (Storage::Wide, *scale),
        DataType::Float32 | DataType::Float64 => (Storage::Float, 0),
        DataType::Utf8 => (Storage::Text, 0),
        other => {
            return Err(StateError::Unsupported(format!(
                "values of type {other} in a window"
            )));
        }
    })
}

/// A column's place in a row of the ring.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub storage: Storage,
    /// Word of the value within the row.
    pub word: usize,
    /// Bit in the row's word of present columns.
    pub bit: u64,
    /// Decimal places.
    pub scale: i8,
}

/// Running values of one column in one frame; the numbers are words within the key's cursors.
#[derive(Debug, Clone, Copy)]
pub(super) struct Accumulator {
    pub column: Slot,
    pub count: usize,
    /// Of integers and decimals: i128, exact. Of doubles: how many are out of range, then the exact sum
    /// of the others.
    pub sum: Option<usize>,
    /// Of integers: i128, exact, of the values of up to 40 bits; then how many are longer. Of doubles: the
    /// exact sum of the squares of those in range.
    pub squares: Option<usize>,
    pub min: Option<Extreme>,
    pub max: Option<Extreme>,
    /// Among the key's tables of counted values.
    pub distinct: Option<usize>,
}

impl Accumulator {
    /// Makes room for what a function reads.
    pub(super) fn provide(&mut self, function: Function, unbounded: bool, words: &mut Words) {
        let storage = self.column.storage;
        let float = storage == Storage::Float;
        let mut sum = |words: &mut Words| {
            let at = || words.take(if float { 1 + SUM_WORDS } else { 2 });
            self.sum.get_or_insert_with(at);
        };
        let extreme = |words: &mut Words| Extreme {
            at: words.take(3),
            gone: unbounded.then(|| words.take(3)),
        };
        match function {
            Function::Sum | Function::Avg => sum(words),
            Function::Variance { .. } if storage != Storage::Wide => {
                sum(words);
                let at = || words.take(if float { PRODUCT_WORDS } else { 3 });
                self.squares.get_or_insert_with(at);
            }
            Function::Min => {
                self.min.get_or_insert_with(|| extreme(words));
            }
            Function::Max => {
                self.max.get_or_insert_with(|| extreme(words));
            }
            _ => {}
        }
    }
}

/// Where a least or greatest value stands: whether it is known, then the value as i128.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extreme {
    pub at: usize,
    /// The same of the rows that an unbounded frame has let go: whether there are any, then the extreme.
    pub gone: Option<usize>,
}

/// Exact sums of pairs in one frame, at words of the key's cursors.
#[derive(Debug, Clone, Copy)]
pub(super) struct PairSums {
    pub y: Slot,
    pub x: Slot,
    pub count: usize,
    /// Pairs with a value that is out of range; the sums below are without them.
    pub outside: usize,
    pub sum_y: usize,
    pub sum_x: usize,
    pub yy: usize,
    pub xx: usize,
    pub xy: usize,
}

/// A frame's place in the key's cursors. Its first words: the numbers `[lo, hi)` of its rows.
#[derive(Debug, Clone)]
pub(super) struct FramePlan {
    pub frame: Frame,
    pub unbounded: bool,
    pub at: usize,
    pub accumulators: Vec<Accumulator>,
    pub pairs: Vec<PairSums>,
    /// Output columns over this frame.
    pub outputs: Vec<usize>,
}

/// An output column, resolved.
#[derive(Debug, Clone)]
pub(super) struct AggregatePlan {
    pub function: Function,
    /// Among the accumulators, or the pairs, of its frame; nothing for functions of single rows.
    pub source: usize,
    pub columns: Vec<usize>,
    pub only: Option<usize>,
    pub output: DataType,
}

/// Hands out words of the cursors.
pub(super) struct Words(pub(super) usize);

impl Words {
    pub(super) fn take(&mut self, words: usize) -> usize {
        self.0 += words;
        self.0 - words
    }
}
