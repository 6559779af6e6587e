//! Parity of what was served: one decided row's features, computed again by other means.
//!
//! A sample holds the rows that windows keep of the keys of one row, as they were when it was computed. The
//! check finds each frame by looking at every row of the key, aggregates with DataFusion's accumulators (or
//! counts, or picks, by hand), and evaluates the SELECT list with DataFusion's expressions. None of it is
//! the code that serves: no cursor, no running sum, no block, no program. Of keys that are followed through the
//! log ([`LogSample`]) the rows are those of the log, and those that windows keep are held against them. Of
//! other keys, and of frames that reach back to before what was read of the log, it is taken on trust that the rows
//! which came are in the rings, and the arguments that were kept of them.
//!
//! Not checked: frames without a beginning, whose first rows nobody keeps any more; and numbers that depend on the
//! order of additions more than on the rows, such as the slope over values that are all but one.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::{cast, filter};
use arrow::datatypes::{DataType, Float64Type};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::scalar::ScalarValue;
use sanderling_schemas::EventId;
use sanderling_state::window::{Frame, Function, KeyRows, Pair};

use crate::FeatureError;
use crate::accumulate::FrameAggregate;
use crate::columns::evaluate;
use crate::key_log::LoggedColumns;
use crate::log_sample::LogSample;

/// Rows of a key beyond which a sample is not taken: to copy them would be felt.
pub(crate) const ROWS_MAX: usize = 20_000;
/// By how much two doubles may differ that were summed in other ways, relative to them.
const RELATIVE: f64 = 1e-9;
/// The same, relative to the greatest value that went into each addition.
const OF_ADDENDS: f64 = 1e-12;
/// Values are all but one where they differ by less than this, relative to the greatest.
const FLAT: f64 = 1e-3;

/// What computes an engine's features again.
pub(crate) struct ParityCheck {
    /// For each PARTITION BY its windows, and what a row of the log is to them.
    pub(crate) groups: Vec<Group>,
    pub(crate) lateness_us: i64,
    /// The SELECT list: expression, name, and the windows that it reads.
    outputs: Vec<(Arc<dyn PhysicalExpr>, String, Vec<usize>)>,
}

type Group = (Arc<Vec<Call>>, Option<Arc<LoggedColumns>>);

/// A window function's call, as it is computed again.
pub(crate) struct Call {
    pub window: usize,
    pub function: Function,
    /// Columns of the key's rows.
    pub columns: Vec<usize>,
    /// Rows on which this one has no value are left out.
    pub only: Option<usize>,
    pub frame: Frame,
    pub data_type: DataType,
    /// As it is written.
    pub text: String,
    /// DataFusion's accumulator; none where the function picks rows.
    pub again: Option<FrameAggregate>,
}

/// A decided row, its features as they were served, and what they were made of.
pub struct ParitySample {
    /// The row's event.
    pub event: EventId,
    /// The row's place in the accepted order of its lane.
    pub sequence: u64,
    pub(crate) check: Arc<ParityCheck>,
    pub(crate) time_us: i64,
    /// The row, with the columns of every level.
    pub(crate) row: RecordBatch,
    /// For each PARTITION BY, the rows of the row's key.
    pub(crate) keys: Vec<KeyRows>,
    /// The columns and window results that the SELECT list was evaluated on; one row.
    pub(crate) input: RecordBatch,
    /// For each window, its column in `input`.
    pub(crate) results: Vec<usize>,
    /// One row.
    pub(crate) features: RecordBatch,
}

/// What came of a check.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ParityReport {
    /// Features that are not what they should be.
    pub mismatches: Vec<String>,
    /// Window functions that were computed again.
    pub checked: usize,
    /// Those of them that were computed from the log's rows.
    pub from_log: usize,
    /// Rows that the log has of the row's keys, and windows do not.
    pub missing: usize,
    /// Rows that windows keep of the row's keys, and the log does not have.
    pub foreign: usize,
    /// Window functions that cannot be: see the module.
    pub unchecked: usize,
}

impl ParityCheck {
    pub(crate) fn new(
        groups: Vec<Group>,
        lateness_us: i64,
        outputs: Vec<(Arc<dyn PhysicalExpr>, String, Vec<usize>)>,
    ) -> Self {
        Self {
            groups,
            lateness_us,
            outputs,
        }
    }

    /// Names of the features that read a window.
    pub(crate) fn features_of(&self, window: usize) -> Vec<String> {
        let reads = self
            .outputs
            .iter()
            .filter(|(_, _, windows)| windows.contains(&window));
        reads.map(|(_, name, _)| name.clone()).collect()
    }
}

impl ParitySample {
    /// Computes the row's features again, from the rows of `log` where it has them. The row must be the last
    /// that was folded into it.
    ///
    /// # Errors
    /// [`FeatureError::Evaluate`] where DataFusion cannot compute at all what was served.
    pub fn check(&self, log: Option<&LogSample>) -> Result<ParityReport, FeatureError> {
        let check = &self.check;
        let mut report = ParityReport::default();
        let mut wrong = vec![false; self.results.len()];
        for (group, ((calls, _), kept)) in check.groups.iter().zip(&self.keys).enumerate() {
            let logged = match log {
                Some(log) => log.rows_of(group, self)?,
                None => None,
            };
            if let Some(logged) = &logged {
                report.missing += logged.missing;
                report.foreign += logged.foreign;
            }
            for call in calls.iter() {
                let served = self.input.column(self.results[call.window]);
                let logged = (logged.as_ref()).filter(|logged| logged.cover(call, self.time_us));
                let rows = logged.map_or(kept, |logged| &logged.rows);
                match call.holds(rows, self.time_us, check.lateness_us, served)? {
                    None => report.unchecked += 1,
                    Some(holds) => {
                        report.checked += 1;
                        report.from_log += usize::from(logged.is_some());
                        wrong[call.window] = !holds;
                    }
                }
            }
        }
        for ((expr, name, windows), served) in check.outputs.iter().zip(self.features.columns()) {
            let again = evaluate(expr, &self.input, name)?.array;
            let (again, served) = (scalar(&again)?, scalar(served)?);
            if windows.iter().any(|window| wrong[*window]) || again != served {
                report.mismatches.push(name.clone());
            }
        }
        Ok(report)
    }
}

impl Call {
    /// Whether what was served is what the frame's rows say; `None` where that cannot be told.
    fn holds(
        &self,
        rows: &KeyRows,
        time_us: i64,
        lateness_us: i64,
        served: &ArrayRef,
    ) -> Result<Option<bool>, FeatureError> {
        let Some((from, to)) = self.frame_of(rows, time_us, lateness_us) else {
            return Ok(None);
        };
        let of = |column: &usize| rows.columns[*column].slice(from, to - from);
        let is_there = |column: usize, row: usize| match rows.counted_only[column] {
            true => rows.columns[column].as_boolean().value(row),
            false => rows.columns[column].is_valid(row),
        };
        let again = match self.function {
            Function::Count => {
                let count = (from..to)
                    .filter(|row| is_there(self.columns[0], *row))
                    .count();
                ScalarValue::Int64(Some(count as i64))
            }
            Function::Nth {
                nth,
                from_end,
                skip_nulls,
            } => {
                let column = &rows.columns[self.columns[0]];
                let mut seen = (from..to).filter(|row| !skip_nulls || column.is_valid(*row));
                let row = match from_end {
                    false => seen.nth(nth as usize),
                    true => seen.nth_back(nth as usize),
                };
                match row {
                    Some(row) => ScalarValue::try_from_array(column, row),
                    None => ScalarValue::try_from(column.data_type()),
                }
                .map_err(|e| FeatureError::sql(&e))?
            }
            _ => {
                let Some(again) = &self.again else {
                    return Ok(None);
                };
                let columns: Vec<ArrayRef> = self.columns.iter().map(of).collect();
                let columns = match self.only {
                    None => columns,
                    Some(only) => {
                        let kept: BooleanArray =
                            (from..to).map(|row| Some(is_there(only, row))).collect();
                        (columns.iter().map(|column| filter(column, &kept)))
                            .collect::<Result<Vec<_>, _>>()?
                    }
                };
                if !self.is_steady(&columns)? {
                    return Ok(None);
                }
                let value = again.value(&columns)?;
                let again = value.to_array().map_err(|e| FeatureError::sql(&e))?;
                let again = scalar(&cast(&again, &self.data_type)?)?;
                return Ok(Some(self.is_near(&again, &scalar(served)?, &columns)?));
            }
        };
        let again = again.to_array().map_err(|e| FeatureError::sql(&e))?;
        Ok(Some(
            scalar(&cast(&again, &self.data_type)?)? == scalar(served)?,
        ))
    }

    /// The rows of the frame, by looking at all of them; `None` where some may be kept no more.
    fn frame_of(&self, rows: &KeyRows, time_us: i64, lateness_us: i64) -> Option<(usize, usize)> {
        let times = &rows.times_us;
        let newest_us = rows.times.newest_us;
        let late = time_us < newest_us.saturating_sub(lateness_us);
        match self.frame {
            Frame::Range {
                preceding_us: Some(preceding_us),
                until_us,
            } => {
                let begins_us = time_us.saturating_sub(preceding_us).max(
                    newest_us
                        .saturating_sub(preceding_us)
                        .saturating_sub(lateness_us),
                );
                let ends_us = time_us.saturating_sub(until_us);
                let before = times.iter().filter(|time| **time < begins_us).count();
                let upto = times.iter().filter(|time| **time <= ends_us).count();
                Some((before, upto.max(before)))
            }
            Frame::Rows {
                preceding: Some(preceding),
                until,
            } => {
                // The row itself is the last of its time that has come.
                let upto = times.iter().filter(|time| **time <= time_us).count();
                let own = upto.checked_sub(1).filter(|row| times[*row] == time_us)?;
                let least = match late {
                    false => 0,
                    true => {
                        let in_time_us = newest_us.saturating_sub(lateness_us);
                        let in_time = times.iter().filter(|time| **time < in_time_us).count();
                        in_time.saturating_sub(preceding as usize)
                    }
                };
                let from = own.saturating_sub(preceding as usize).max(least);
                let to = (own + 1).saturating_sub(until as usize);
                Some((from, to.max(from)))
            }
            Frame::Range {
                preceding_us: None, ..
            }
            | Frame::Rows {
                preceding: None, ..
            } => None,
        }
    }

    /// Whether the function's value depends on its arguments more than on how they are rounded.
    fn is_steady(&self, columns: &[ArrayRef]) -> Result<bool, FeatureError> {
        let divides = matches!(
            self.function,
            Function::Pair(Pair::Corr | Pair::Slope | Pair::Intercept | Pair::R2)
        );
        for column in columns.iter().filter(|column| is_float(column)) {
            let values = doubles(column)?;
            let finite = values.iter().all(|value| value.is_finite());
            let (least, most) = (values.iter()).fold((f64::MAX, f64::MIN), |(least, most), v| {
                (least.min(*v), most.max(*v))
            });
            let is_flat = most - least <= FLAT * most.abs().max(least.abs());
            if !finite || (divides && !values.is_empty() && is_flat) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn is_near(
        &self,
        again: &ScalarValue,
        served: &ScalarValue,
        columns: &[ArrayRef],
    ) -> Result<bool, FeatureError> {
        let (ScalarValue::Float64(Some(again)), ScalarValue::Float64(Some(served))) =
            (again, served)
        else {
            return Ok(again == served);
        };
        let greatest = |column: Option<&ArrayRef>| -> Result<f64, FeatureError> {
            let values = column.map_or(Ok(Vec::new()), doubles)?;
            Ok(values.iter().fold(0.0, |most, value| value.abs().max(most)))
        };
        let rows = columns.first().map_or(0, |column| column.len()) as f64;
        let (y, x) = (greatest(columns.first())?, greatest(columns.get(1))?);
        let (again, served, addends) = match self.function {
            // A deviation is as good as its square.
            Function::Variance { root, .. } => match root {
                true => (again * again, served * served, y * y),
                false => (*again, *served, y * y),
            },
            // Quotients, of spreads that are no less than `FLAT` of the values.
            Function::Pair(pair @ (Pair::Corr | Pair::Slope | Pair::Intercept | Pair::R2)) => {
                let size = match pair {
                    Pair::Slope => y / x,
                    Pair::Intercept => y,
                    _ => 1.0,
                };
                let allowed = 1e-6 * (again.abs().max(served.abs()) + size);
                return Ok((again - served).abs() <= allowed);
            }
            Function::Pair(Pair::AvgX) => (*again, *served, x),
            Function::Pair(Pair::Sxx) => (*again, *served, x * x),
            Function::Pair(Pair::Syy) => (*again, *served, y * y),
            Function::Pair(_) => (*again, *served, (x * y).max(y)),
            _ => (*again, *served, y),
        };
        let allowed = RELATIVE * again.abs().max(served.abs()) + OF_ADDENDS * rows * addends;
        Ok((again - served).abs() <= allowed || again.to_bits() == served.to_bits())
    }
}

fn is_float(column: &ArrayRef) -> bool {
    matches!(column.data_type(), DataType::Float32 | DataType::Float64)
}

/// The values of numbers that are not NULL.
fn doubles(column: &ArrayRef) -> Result<Vec<f64>, FeatureError> {
    match column.data_type().is_numeric() {
        false => Ok(Vec::new()),
        true => {
            let column = cast(column, &DataType::Float64)?;
            Ok(column
                .as_primitive::<Float64Type>()
                .iter()
                .flatten()
                .collect())
        }
    }
}

fn scalar(column: &ArrayRef) -> Result<ScalarValue, FeatureError> {
    ScalarValue::try_from_array(column, 0).map_err(|e| FeatureError::sql(&e))
}
