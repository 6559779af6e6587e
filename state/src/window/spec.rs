//! What the windows of one key compute, compiled to offsets into rows and cursors.

use arrow::datatypes::{DataType, TimeUnit};

use crate::StateError;

/// An aggregate function over the rows of a frame; NULL arguments are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Function {
    /// Number of arguments that are not NULL; never NULL itself.
    Count,
    /// Sum; NULL over nothing.
    Sum,
    /// Mean; NULL over nothing.
    Avg,
    /// Least argument.
    Min,
    /// Greatest argument.
    Max,
    /// Variance or standard deviation.
    Variance {
        /// Divide by n - 1 (NULL for one row) rather than by n.
        sample: bool,
        /// Take the square root.
        root: bool,
    },
}

/// An argument of aggregates.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// Type of the arrays that are passed in.
    pub data_type: DataType,
}

/// The times a window looks at: `[t - preceding_us, t - until_us]` for a row at `t`, microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Frame {
    /// How far back the frame begins.
    pub preceding_us: i64,
    /// How far back it ends; 0 for CURRENT ROW.
    pub until_us: i64,
}

/// One output column.
#[derive(Debug, Clone, PartialEq)]
pub struct Aggregate {
    /// What is computed.
    pub function: Function,
    /// Of which column.
    pub column: usize,
    /// Over which frame.
    pub frame: usize,
    /// Type of the result: `Int64` for counts; `Float64`, `Int64` or `Decimal128` for sums and means; the
    /// column's for extremes; `Float64` for variances. Where it is `Float64` over an integer or a decimal,
    /// the argument is meant as cast to a double and is still summed exactly.
    pub output: DataType,
}

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
}

impl Storage {
    fn words(self) -> usize {
        match self {
            Storage::Presence => 0,
            Storage::Int | Storage::Float => 1,
            Storage::Wide => 2,
        }
    }
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
    /// i128, exact.
    pub sum: Option<usize>,
    /// i128, exact, of the values of up to 40 bits; then how many are longer.
    pub squares: Option<usize>,
    /// Whether the extreme is known, then the extreme as i128.
    pub min: Option<usize>,
    pub max: Option<usize>,
}

/// A frame's place in the key's cursors. Its first words: the numbers `[lo, hi)` of its rows, then the
/// times `[start, end]` that it was moved to last.
#[derive(Debug, Clone)]
pub(super) struct FramePlan {
    pub frame: Frame,
    pub at: usize,
    pub accumulators: Vec<Accumulator>,
    /// Output columns over this frame.
    pub outputs: Vec<usize>,
}

/// An output column, resolved.
#[derive(Debug, Clone)]
pub(super) struct AggregatePlan {
    pub function: Function,
    /// Among the accumulators of its frame.
    pub accumulator: usize,
    pub output: DataType,
}

/// The windows of one `PARTITION BY` key.
#[derive(Debug, Clone)]
pub struct WindowSpec {
    pub(super) columns: Vec<Column>,
    pub(super) slots: Vec<Slot>,
    pub(super) frames: Vec<FramePlan>,
    pub(super) aggregates: Vec<AggregatePlan>,
    /// Words of a row: time, present columns, values.
    pub(super) stride: usize,
    pub(super) cursor_words: usize,
    pub(super) lateness_us: i64,
    /// Rows further behind the newest one than this are seen by no frame.
    pub(super) retention_us: i64,
}

/// Words of a frame before its accumulators.
const FRAME_WORDS: usize = 4;

/// Most columns of one key's windows: one bit each in a row's second word.
pub const COLUMNS_MAX: usize = 64;

impl WindowSpec {
    /// Compiles the windows of one key; `lateness_us` as in [`sanderling_schemas::Relation`].
    ///
    /// # Errors
    /// [`StateError::Unsupported`] for a type that a function has no kernel for, for more than 64
    /// columns and for a frame that ends before it begins.
    pub fn new(
        columns: Vec<Column>,
        frames: Vec<Frame>,
        aggregates: Vec<Aggregate>,
        lateness_us: i64,
    ) -> Result<Self, StateError> {
        if columns.len() > COLUMNS_MAX {
            return Err(StateError::Unsupported(format!(
                "{} different arguments over one key; at most {COLUMNS_MAX}",
                columns.len()
            )));
        }
        if let Some(frame) = frames
            .iter()
            .find(|f| f.until_us < 0 || f.preceding_us < f.until_us)
        {
            return Err(StateError::Unsupported(format!(
                "a frame from {} us to {} us before the row",
                frame.preceding_us, frame.until_us
            )));
        }
        let mut slots = Vec::new();
        let mut stride = 2;
        for (index, column) in columns.iter().enumerate() {
            let counted_only = aggregates
                .iter()
                .all(|a| a.column != index || a.function == Function::Count);
            let (storage, scale) = match counted_only {
                true => (Storage::Presence, 0),
                false => storage_of(&column.data_type)?,
            };
            slots.push(Slot {
                storage,
                word: stride,
                bit: 1 << index,
                scale,
            });
            stride += storage.words();
        }

        let mut plans = Vec::new();
        let mut resolved: Vec<Option<AggregatePlan>> = vec![None; aggregates.len()];
        let mut word = 0;
        for (number, frame) in frames.iter().enumerate() {
            let mut plan = FramePlan {
                frame: *frame,
                at: word,
                accumulators: Vec::new(),
                outputs: Vec::new(),
            };
            word += FRAME_WORDS;
            for (index, slot) in slots.iter().enumerate() {
                let mut wanted = aggregates
                    .iter()
                    .enumerate()
                    .filter(|(_, a)| a.frame == number && a.column == index)
                    .peekable();
                if wanted.peek().is_none() {
                    continue;
                }
                let mut take = |words: usize| {
                    word += words;
                    word - words
                };
                let mut accumulator = Accumulator {
                    column: *slot,
                    count: take(1),
                    sum: None,
                    squares: None,
                    min: None,
                    max: None,
                };
                let exact = matches!(slot.storage, Storage::Int | Storage::Wide);
                for (at, aggregate) in wanted {
                    check(aggregate, &columns[index], slot)?;
                    match aggregate.function {
                        Function::Sum | Function::Avg if exact => {
                            accumulator.sum.get_or_insert_with(|| take(2));
                        }
                        Function::Variance { .. } if slot.storage == Storage::Int => {
                            accumulator.sum.get_or_insert_with(|| take(2));
                            accumulator.squares.get_or_insert_with(|| take(3));
                        }
                        Function::Min => {
                            accumulator.min.get_or_insert_with(|| take(3));
                        }
                        Function::Max => {
                            accumulator.max.get_or_insert_with(|| take(3));
                        }
                        _ => {}
                    }
                    plan.outputs.push(at);
                    resolved[at] = Some(AggregatePlan {
                        function: aggregate.function,
                        accumulator: plan.accumulators.len(),
                        output: aggregate.output.clone(),
                    });
                }
                plan.accumulators.push(accumulator);
            }
            plans.push(plan);
        }
        let aggregates = resolved
            .into_iter()
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| StateError::Unsupported("an aggregate of no column or frame".into()))?;
        let reach_us = frames.iter().map(|f| f.preceding_us).max().unwrap_or(0);
        Ok(WindowSpec {
            columns,
            slots,
            frames: plans,
            aggregates,
            stride,
            cursor_words: word,
            lateness_us,
            retention_us: reach_us.saturating_add(lateness_us),
        })
    }

    /// Number of columns that [`super::WindowState::compute`] takes.
    pub fn columns(&self) -> usize {
        self.columns.len()
    }

    /// Number of columns that [`super::WindowState::compute`] returns.
    pub fn outputs(&self) -> usize {
        self.aggregates.len()
    }
}

/// Whether values of a type can be kept, and how.
fn storage_of(data_type: &DataType) -> Result<(Storage, i8), StateError> {
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
        other => {
            return Err(StateError::Unsupported(format!(
                "values of type {other} in a window"
            )));
        }
    })
}

/// Whether a result of the wanted type can be computed.
fn check(aggregate: &Aggregate, column: &Column, slot: &Slot) -> Result<(), StateError> {
    let (input, output) = (&column.data_type, &aggregate.output);
    let number = !matches!(
        input,
        DataType::Boolean | DataType::Date32 | DataType::Timestamp(..)
    );
    let float = slot.storage == Storage::Float;
    let fits = match aggregate.function {
        Function::Count => *output == DataType::Int64,
        Function::Min | Function::Max => input == output,
        Function::Variance { .. } => number && *output == DataType::Float64,
        Function::Sum | Function::Avg => {
            number
                && match (input, output) {
                    (_, DataType::Float64) => true,
                    (DataType::Decimal128(_, from), DataType::Decimal128(_, to)) => {
                        match aggregate.function {
                            Function::Sum => to == from,
                            _ => to >= from,
                        }
                    }
                    (_, DataType::Int64 | DataType::UInt64) => {
                        !float && slot.scale == 0 && aggregate.function == Function::Sum
                    }
                    _ => false,
                }
        }
    };
    match fits {
        true => Ok(()),
        false => Err(StateError::Unsupported(format!(
            "{:?} of {input} as {output}",
            aggregate.function
        ))),
    }
}
