//! What the windows of one key compute: columns, frames and functions over them, checked and compiled.

use arrow::datatypes::DataType;

use super::exact::{PRODUCT_WORDS, SUM_WORDS};
use super::plan::{
    Accumulator, AggregatePlan, FramePlan, PairSums, Slot, Storage, Words, storage_of,
};
use crate::StateError;

/// A function over the rows of a frame; but for [`Function::Nth`] and [`Function::Rows`], rows whose
/// argument is NULL are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Function {
    /// Number of arguments that are not NULL; never NULL itself.
    Count,
    /// Number of different arguments that are not NULL; never NULL itself.
    CountDistinct,
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
    /// A function of two columns of doubles, `y` and `x`, which are NULL on the same rows.
    Pair(Pair),
    /// The argument of one row of the frame; NULL where the frame is shorter.
    Nth {
        /// Which, from 0.
        nth: u64,
        /// Counted from the frame's last row back.
        from_end: bool,
        /// Rows whose argument is NULL are not counted.
        skip_nulls: bool,
    },
    /// Computed by the caller of [`super::WindowState::compute`], which is handed the frame's rows.
    Rows,
}

/// What is computed of pairs `(y, x)`; `Sxy` and its like are sums of products of deviations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pair {
    /// `Sxy / (n - 1)`; NULL for one pair.
    CovarSample,
    /// `Sxy / n`.
    CovarPop,
    /// `Sxy / sqrt(Sxx Syy)`; NULL where either is 0.
    Corr,
    /// `Sxy / Sxx`; NULL for one pair, and where all `x` are the same.
    Slope,
    /// `mean(y) - slope mean(x)`; NULL where the slope is.
    Intercept,
    /// Number of pairs; never NULL.
    Count,
    /// `Sxy^2 / (Sxx Syy)`; NULL where either is 0.
    R2,
    /// Mean of `x`.
    AvgX,
    /// Mean of `y`.
    AvgY,
    /// `Sxx`.
    Sxx,
    /// `Syy`.
    Syy,
    /// `Sxy`.
    Sxy,
}

/// An argument of aggregates.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// Type of the arrays that are passed in.
    pub data_type: DataType,
}

/// The rows that a window looks at, from a row of its key back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Frame {
    /// Those of the times `[t - preceding_us, t - until_us]` for a row at `t`, microseconds; rows of the
    /// same time are in or out together, as far as they came before it.
    Range {
        /// How far back the frame begins; `None` for UNBOUNDED PRECEDING.
        preceding_us: Option<i64>,
        /// How far back it ends; 0 for CURRENT ROW.
        until_us: i64,
    },
    /// Those that many places back in the order of (event time, arrival).
    Rows {
        /// How many rows back the frame begins; `None` for UNBOUNDED PRECEDING.
        preceding: Option<u64>,
        /// How many rows back it ends; 0 for CURRENT ROW.
        until: u64,
    },
}

impl Frame {
    fn is_unbounded(&self) -> bool {
        match self {
            Frame::Range { preceding_us, .. } => preceding_us.is_none(),
            Frame::Rows { preceding, .. } => preceding.is_none(),
        }
    }
}

/// One output column.
#[derive(Debug, Clone, PartialEq)]
pub struct Aggregate {
    /// What is computed.
    pub function: Function,
    /// Of which columns: one, two for [`Function::Pair`], any number for [`Function::Rows`].
    pub columns: Vec<usize>,
    /// For [`Function::Rows`]: rows on which this column is NULL are left out.
    pub only: Option<usize>,
    /// Over which frame.
    pub frame: usize,
    /// Type of the result: `Int64` for counts; `Float64`, `Int64` or `Decimal128` for sums and means; the
    /// column's for extremes and single rows; `Float64` for variances and pairs. Where it is `Float64` over
    /// an integer or a decimal, the argument is meant as cast to a double and is still summed exactly.
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
    /// Rows further behind the newest one than this are seen by no frame of times.
    pub(super) retention_us: i64,
    /// Frames of rows see this many rows before those within the lateness.
    pub(super) rows_before: Option<u64>,
    /// Rows count as such: one without any argument is kept too.
    pub(super) all_rows: bool,
    /// A key that has been silent for longer than any frame reaches is as new.
    pub(super) forgets: bool,
    /// Rows that are kept of one key at most.
    pub(super) rows_max: Option<u64>,
}

/// Words of a frame before its accumulators.
const FRAME_WORDS: usize = 2;

/// Most columns of one key's windows: one bit each in a row's second word.
pub const COLUMNS_MAX: usize = 64;

impl WindowSpec {
    /// Compiles the windows of one key; `lateness_us` as in [`sanderling_schemas::Relation`].
    ///
    /// # Errors
    /// [`StateError::Unsupported`] for a type that a function has no kernel for, for more than 64
    /// columns, for a frame that ends before it begins, and for a function over an unbounded frame whose
    /// state would grow with it.
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
        let backwards = |frame: &&Frame| match **frame {
            Frame::Range {
                preceding_us,
                until_us,
            } => until_us < 0 || preceding_us.is_some_and(|from| from < until_us),
            Frame::Rows { preceding, until } => preceding.is_some_and(|from| from < until),
        };
        if let Some(frame) = frames.iter().find(backwards) {
            return Err(StateError::Unsupported(format!(
                "a frame that ends before it begins: {frame:?}"
            )));
        }
        let mut slots = Vec::new();
        let mut stride = 2;
        for (index, column) in columns.iter().enumerate() {
            let counted_only = (aggregates.iter())
                .all(|a| !a.columns.contains(&index) || a.function == Function::Count);
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
        let (mut words, mut tables) = (Words(0), 0);
        for (number, frame) in frames.iter().enumerate() {
            let mut plan = FramePlan {
                frame: *frame,
                unbounded: frame.is_unbounded(),
                at: words.take(FRAME_WORDS),
                accumulators: Vec::new(),
                pairs: Vec::new(),
                outputs: Vec::new(),
            };
            let mut known: Vec<(usize, usize)> = Vec::new();
            let mut pairs: Vec<Vec<usize>> = Vec::new();
            let of_frame = aggregates
                .iter()
                .enumerate()
                .filter(|(_, a)| a.frame == number);
            for (at, aggregate) in of_frame {
                let Some(slot) = aggregate.columns.first().map(|c| slots[*c]) else {
                    return Err(StateError::Unsupported("an aggregate of no column".into()));
                };
                check(aggregate, &columns, &slots, plan.unbounded)?;
                let source = match aggregate.function {
                    Function::Nth { .. } | Function::Rows => 0,
                    Function::Pair(_) => {
                        let same = pairs.iter().position(|other| *other == aggregate.columns);
                        same.unwrap_or_else(|| {
                            pairs.push(aggregate.columns.clone());
                            plan.pairs.push(PairSums {
                                y: slot,
                                x: slots[aggregate.columns[1]],
                                count: words.take(1),
                                outside: words.take(1),
                                sum_y: words.take(SUM_WORDS),
                                sum_x: words.take(SUM_WORDS),
                                yy: words.take(PRODUCT_WORDS),
                                xx: words.take(PRODUCT_WORDS),
                                xy: words.take(PRODUCT_WORDS),
                            });
                            pairs.len() - 1
                        })
                    }
                    _ => {
                        let column = aggregate.columns[0];
                        let same = known.iter().find(|(other, _)| *other == column);
                        let source = same.map_or(plan.accumulators.len(), |(_, source)| *source);
                        if source == plan.accumulators.len() {
                            known.push((column, source));
                            plan.accumulators.push(Accumulator {
                                column: slot,
                                count: words.take(1),
                                sum: None,
                                squares: None,
                                min: None,
                                max: None,
                                distinct: None,
                            });
                        }
                        let unbounded = plan.unbounded;
                        let accumulator = &mut plan.accumulators[source];
                        accumulator.provide(aggregate.function, unbounded, &mut words);
                        if aggregate.function == Function::CountDistinct {
                            let table = accumulator.distinct.get_or_insert(tables);
                            tables = tables.max(*table + 1);
                        }
                        source
                    }
                };
                plan.outputs.push(at);
                resolved[at] = Some(AggregatePlan {
                    function: aggregate.function,
                    source,
                    columns: aggregate.columns.clone(),
                    only: aggregate.only,
                    output: aggregate.output.clone(),
                });
            }
            plans.push(plan);
        }
        let resolved = (resolved.into_iter())
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| StateError::Unsupported("an aggregate of no frame".into()))?;
        let reach_us = |frame: &Frame| match *frame {
            Frame::Range {
                preceding_us,
                until_us,
            } => preceding_us.unwrap_or(until_us),
            Frame::Rows { .. } => 0,
        };
        let rows_before = |frame: &Frame| match *frame {
            Frame::Range { .. } => None,
            Frame::Rows { preceding, until } => Some(preceding.unwrap_or(until)),
        };
        let reach_us = frames.iter().map(reach_us).max().unwrap_or(0);
        let rows_before = frames.iter().filter_map(rows_before).max();
        let by_place = |a: &AggregatePlan| {
            matches!(
                a.function,
                Function::Rows
                    | Function::Nth {
                        skip_nulls: false,
                        ..
                    }
            )
        };
        Ok(WindowSpec {
            columns,
            slots,
            stride,
            cursor_words: words.0,
            lateness_us,
            retention_us: reach_us.saturating_add(lateness_us),
            rows_before,
            all_rows: rows_before.is_some() || resolved.iter().any(by_place),
            forgets: rows_before.is_none() && !frames.iter().any(Frame::is_unbounded),
            rows_max: None,
            frames: plans,
            aggregates: resolved,
        })
    }

    /// The same, but of one key no more than `rows_max` rows are kept: the newest, in the order of (event
    /// time, arrival). What a frame misses of the others is told by [`super::WindowOutput::capped`].
    ///
    /// # Errors
    /// [`StateError::Unsupported`] where a frame of rows looks back as many rows or more.
    pub fn with_rows_max(mut self, rows_max: Option<u64>) -> Result<Self, StateError> {
        if let (Some(max), Some(before)) = (rows_max, self.rows_before)
            && before >= max
        {
            return Err(StateError::Unsupported(format!(
                "a frame that looks {before} rows back, where {max} rows are kept of a key"
            )));
        }
        if rows_max == Some(0) {
            return Err(StateError::Unsupported("no row of a key to be kept".into()));
        }
        self.rows_max = rows_max;
        Ok(self)
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

/// Whether a result of the wanted type can be computed.
fn check(
    aggregate: &Aggregate,
    columns: &[Column],
    slots: &[Slot],
    unbounded: bool,
) -> Result<(), StateError> {
    let (input, output) = (&columns[aggregate.columns[0]].data_type, &aggregate.output);
    let slot = &slots[aggregate.columns[0]];
    let number = !matches!(
        input,
        DataType::Boolean | DataType::Date32 | DataType::Timestamp(..) | DataType::Utf8
    );
    let float = slot.storage == Storage::Float;
    let arguments = match aggregate.function {
        Function::Pair(_) => Some(2),
        Function::Rows => None,
        _ => Some(1),
    };
    let fits = match aggregate.function {
        Function::Count => *output == DataType::Int64,
        Function::CountDistinct => {
            *output == DataType::Int64 && !matches!(slot.storage, Storage::Wide | Storage::Presence)
        }
        Function::Min | Function::Max => input == output && slot.storage != Storage::Text,
        Function::Variance { .. } => number && *output == DataType::Float64,
        Function::Pair(pair) => {
            let double = |column: &usize| columns[*column].data_type == DataType::Float64;
            aggregate.columns.iter().all(double)
                && *output
                    == match pair {
                        Pair::Count => DataType::UInt64,
                        _ => DataType::Float64,
                    }
        }
        Function::Nth { .. } => input == output,
        Function::Rows => true,
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
    if !fits || arguments.is_some_and(|n| n != aggregate.columns.len()) {
        return Err(StateError::Unsupported(format!(
            "{:?} of {input} as {output}",
            aggregate.function
        )));
    }
    let grows = match aggregate.function {
        Function::Sum | Function::Avg => float,
        Function::Count | Function::Min | Function::Max => false,
        _ => true,
    };
    if unbounded && grows {
        return Err(StateError::Unsupported(format!(
            "{:?} of {input} over an unbounded frame needs every row that ever was",
            aggregate.function
        )));
    }
    Ok(())
}
