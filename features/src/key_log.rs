//! The rows of one PARTITION BY's keys, as the log has them: a list for each key.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::take_arrays;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::row::{RowConverter, SortField};
use datafusion::physical_expr::PhysicalExpr;
use sanderling_state::window::{Frame, Function, KeyRows, KeyTimes};

use crate::FeatureError;
use crate::columns::evaluate;
use crate::key_sample::KeySample;
use crate::keys::{KeyEncoder, Keys};
use crate::parity::{Call, ROWS_MAX};
use crate::plan::type_of;

/// One key may have this part of the rows that are kept, and no more.
const KEY_PART: usize = 4;

/// What a row of the log is to the windows of one PARTITION BY.
pub(crate) struct LoggedColumns {
    key: Vec<Arc<dyn PhysicalExpr>>,
    encoder: KeyEncoder,
    /// The arguments, in the order of the rings' columns.
    arguments: Vec<Arc<dyn PhysicalExpr>>,
    types: Vec<DataType>,
    /// How far the frames of times reach back, microseconds.
    pub range_us: i64,
    /// How many rows those of rows do.
    pub rows_before: Option<usize>,
    /// A row without any argument counts too.
    pub all_rows: bool,
}

/// The rows of one PARTITION BY.
pub(crate) struct GroupLog {
    pub columns: Arc<LoggedColumns>,
    converter: RowConverter,
    /// By a byte that says whether there is a key, and the key.
    keys: HashMap<Box<[u8]>, KeyLog>,
    /// What is known of a key without rows.
    never: KeyLog,
    /// Rows and keys that are kept.
    kept: usize,
    kept_max: usize,
    key_rows_max: usize,
    /// Zeros with which the hashes of the keys begin.
    zeros: u32,
    /// Columns in which a label row had a value.
    pub of_labels: Vec<bool>,
}

/// The rows of one key, in the order of (event time, arrival).
pub(crate) struct KeyLog {
    pub times: KeyTimes,
    pub rows: Vec<LoggedRow>,
    /// It had too many rows, and nothing is known of it.
    is_busy: bool,
}

pub(crate) struct LoggedRow {
    pub time_us: i64,
    /// The arguments in the row format of Arrow.
    values: Box<[u8]>,
}

/// Rows on their way into the lists of their keys.
pub(crate) struct Arriving<'a> {
    pub rows: &'a RecordBatch,
    pub times_us: &'a [i64],
    pub credible_us: &'a [i64],
    pub enters: &'a [bool],
    pub is_label: &'a [bool],
}

impl LoggedColumns {
    /// `key` and `arguments` are over the event's own columns, the first of those of `schema`.
    pub(crate) fn new(
        key: Vec<Arc<dyn PhysicalExpr>>,
        arguments: Vec<Arc<dyn PhysicalExpr>>,
        schema: &SchemaRef,
        calls: &[Call],
    ) -> Result<Self, FeatureError> {
        let types = |exprs: &[Arc<dyn PhysicalExpr>]| -> Result<Vec<DataType>, FeatureError> {
            exprs.iter().map(|expr| type_of(expr, schema)).collect()
        };
        let frames = || calls.iter().map(|call| call.frame);
        let range_us = frames().filter_map(|frame| match frame {
            Frame::Range {
                preceding_us,
                until_us,
            } => Some(preceding_us.unwrap_or(until_us)),
            Frame::Rows { .. } => None,
        });
        let rows_before = frames().filter_map(|frame| match frame {
            Frame::Rows { preceding, until } => Some(preceding.unwrap_or(until) as usize),
            Frame::Range { .. } => None,
        });
        let rows_before = rows_before.max();
        let by_place = |call: &Call| {
            matches!(
                call.function,
                Function::Rows
                    | Function::Nth {
                        skip_nulls: false,
                        ..
                    }
            )
        };
        Ok(LoggedColumns {
            encoder: KeyEncoder::new(&types(&key)?)?,
            key,
            types: types(&arguments)?,
            arguments,
            range_us: range_us.max().unwrap_or(0),
            rows_before,
            all_rows: rows_before.is_some() || calls.iter().any(by_place),
        })
    }

    /// The keys of rows.
    pub(crate) fn keys(&self, rows: &RecordBatch) -> Result<Keys, FeatureError> {
        let of = |expr| Ok(evaluate(expr, rows, "PARTITION BY")?.array);
        let columns = self.key.iter().map(of);
        self.encoder
            .keys(&columns.collect::<Result<Vec<_>, FeatureError>>()?)
    }

    /// The arguments of rows.
    fn values(&self, rows: &RecordBatch) -> Result<Vec<ArrayRef>, FeatureError> {
        let of = |expr| Ok(evaluate(expr, rows, "OVER")?.array);
        self.arguments.iter().map(of).collect()
    }
}

/// A key with a byte before it that says whether there is one.
fn key_bytes(key: Option<&[u8]>) -> Vec<u8> {
    let mut bytes = vec![u8::from(key.is_some())];
    bytes.extend_from_slice(key.unwrap_or_default());
    bytes
}

impl GroupLog {
    /// No rows. `capped` is how many of one key a ring keeps at most.
    pub(crate) fn new(
        columns: &Arc<LoggedColumns>,
        kept_max: usize,
        capped: usize,
    ) -> Result<Self, FeatureError> {
        let fields = columns.types.iter().cloned().map(SortField::new);
        Ok(GroupLog {
            columns: columns.clone(),
            converter: RowConverter::new(fields.collect())?,
            keys: HashMap::new(),
            never: KeyLog::new(),
            kept: 0,
            kept_max,
            // A ring that has reached its cap may have given rows up.
            key_rows_max: (kept_max / KEY_PART).min(ROWS_MAX).min(capped),
            zeros: 0,
            of_labels: vec![false; columns.types.len()],
        })
    }

    /// What is known of a key of the sample; `None` if it had too many rows.
    pub(crate) fn key(&self, key: Option<&[u8]>) -> Option<&KeyLog> {
        let key = self.keys.get(&*key_bytes(key)).unwrap_or(&self.never);
        (!key.is_busy).then_some(key)
    }

    /// The rows of a key as a ring gives them.
    pub(crate) fn rows_of(&self, key: &KeyLog, times: KeyTimes) -> Result<KeyRows, FeatureError> {
        let parser = self.converter.parser();
        let values = key.rows.iter().map(|row| parser.parse(&row.values));
        Ok(KeyRows {
            times,
            times_us: key.rows.iter().map(|row| row.time_us).collect(),
            columns: self.converter.convert_rows(values)?,
            counted_only: vec![false; self.columns.types.len()],
        })
    }

    /// Rows that are kept.
    pub(crate) fn rows(&self) -> usize {
        self.keys.values().map(|key| key.rows.len()).sum()
    }

    /// Lets go what is no longer in the sample, and what is too much.
    pub(crate) fn fit(&mut self, keys: &KeySample, number: usize, clock_us: i64, lateness_us: i64) {
        if self.zeros != keys.zeros(number) {
            self.let_go(keys, number);
        }
        if self.kept > self.kept_max {
            self.forget(clock_us, lateness_us);
        }
        while self.kept > self.kept_max && keys.zeros(number) < u64::BITS {
            keys.halve(number);
            self.let_go(keys, number);
        }
    }

    /// Takes the rows whose key `holds` says to be followed.
    pub(crate) fn take(
        &mut self,
        arriving: &Arriving<'_>,
        from_us: i64,
        lateness_us: i64,
        holds: impl Fn(Option<&[u8]>) -> bool,
    ) -> Result<(), FeatureError> {
        let keys = self.columns.keys(arriving.rows)?;
        let enters: Vec<bool> = (arriving.enters.iter().enumerate())
            .map(|(row, enters)| *enters && keys.with(row, &holds))
            .collect();
        let picks: Vec<u32> = (0..enters.len() as u32)
            .filter(|row| enters[*row as usize] || arriving.is_label[*row as usize])
            .collect();
        if picks.is_empty() {
            return Ok(());
        }
        let picked = take_arrays(
            arriving.rows.columns(),
            &UInt32Array::from_iter_values(picks.iter().copied()),
            None,
        )?;
        let picked = RecordBatch::try_new(arriving.rows.schema(), picked)?;
        let columns = self.columns.values(&picked)?;
        let values = self.converter.convert_columns(&columns)?;
        let nulls: Vec<_> = columns.iter().map(|c| c.logical_nulls()).collect();
        for (at, row) in picks.iter().map(|row| *row as usize).enumerate() {
            let has = |column: usize| nulls[column].as_ref().is_none_or(|n| n.is_valid(at));
            let has_any = (0..nulls.len()).any(has);
            if arriving.is_label[row] {
                let of_labels = self.of_labels.iter_mut().enumerate();
                of_labels.for_each(|(column, of_labels)| *of_labels |= has(column));
            }
            if !enters[row] {
                continue;
            }
            let time_us = arriving.times_us[row];
            let key = keys.with(row, key_bytes);
            let key = match self.keys.get_mut(&*key) {
                Some(key) => key,
                None => {
                    self.kept += 1;
                    (self.keys.entry(key.into())).or_insert_with(KeyLog::new)
                }
            };
            key.times = key.times.with(time_us, arriving.credible_us[row]);
            if key.is_busy || time_us < from_us || !(self.columns.all_rows || has_any) {
                continue;
            }
            let before = key.rows.len();
            key.take(LoggedRow {
                time_us,
                values: values.row(at).data().into(),
            });
            if key.rows.len() > self.key_rows_max {
                let reached = key.reached(&self.columns, lateness_us, key.times.newest_us);
                key.rows.drain(..reached);
                if key.rows.len() >= self.key_rows_max {
                    (key.rows, key.is_busy) = (Vec::new(), true);
                }
            }
            self.kept = self.kept + key.rows.len() - before;
        }
        Ok(())
    }

    /// Drops what no frame of a row in time can reach any more.
    fn forget(&mut self, clock_us: i64, lateness_us: i64) {
        let columns = &self.columns;
        let reach_us = (clock_us.saturating_sub(columns.range_us))
            .saturating_sub(lateness_us)
            .saturating_sub(lateness_us);
        self.keys.retain(|_, key| {
            let reached = key.reached(columns, lateness_us, key.times.newest_us);
            key.rows.drain(..reached);
            columns.rows_before.is_some() || key.times.last_us >= reach_us
        });
        self.count();
    }

    /// Lets keys go that are no longer in the sample.
    fn let_go(&mut self, keys: &KeySample, number: usize) {
        self.zeros = keys.zeros(number);
        (self.keys).retain(|key, _| keys.holds(number, (key[0] == 1).then_some(&key[1..])));
        self.count();
    }

    fn count(&mut self) {
        self.kept = self.rows() + self.keys.len();
    }
}

impl KeyLog {
    fn new() -> Self {
        KeyLog {
            times: KeyTimes::NEVER,
            rows: Vec::new(),
            is_busy: false,
        }
    }

    /// Takes a row to its place.
    fn take(&mut self, row: LoggedRow) {
        let upto = (self.rows).partition_point(|other| other.time_us <= row.time_us);
        self.rows.insert(upto, row);
    }

    /// The first row that a frame can still reach.
    pub(crate) fn reached(
        &self,
        columns: &LoggedColumns,
        lateness_us: i64,
        newest_us: i64,
    ) -> usize {
        let before = |behind_us: i64| {
            let time_us = newest_us.saturating_sub(behind_us);
            self.rows.partition_point(|row| row.time_us < time_us)
        };
        let by_time = before(columns.range_us.saturating_add(lateness_us));
        match columns.rows_before {
            None => by_time,
            Some(rows) => by_time.min(before(lateness_us).saturating_sub(rows)),
        }
    }
}
