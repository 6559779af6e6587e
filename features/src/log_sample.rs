//! Rows of some keys as the log has them, kept beside the rings and by plain means.
//!
//! Windows serve from rings, and a row that a ring has lost, or has too often, shows in no computation over
//! it. So the log is read once more, and of a sample of keys each has a list of its rows: when they
//! were, and the arguments of the windows, as DataFusion evaluates them. A sample of the live line is then computed again
//! from these, and what its ring keeps is held against them.
//!
//! What is known begins somewhere: either all rows there ever were are folded, or those from some event time on. Of a
//! frame that reaches back further nothing is said. Labels take their keys from events of before, so
//! until their horizon has passed it is not known whose they are; what label rows have no value in is known all the same.
//! A key with too many rows is let go, and so are half of the keys where all have too many.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{cast, is_not_null};
use arrow::datatypes::{DataType, Float32Type, Float64Type};
use arrow::row::{RowConverter, SortField};
use sanderling_schemas::{EventBatch, LateRows, Relation};
use sanderling_state::window::{Frame, KeyRows};

use crate::FeatureError;
use crate::clock::Clock;
use crate::key_log::{Arriving, GroupLog, LoggedColumns};
use crate::key_sample::KeySample;
use crate::labels::LabelJoin;
use crate::parity::{Call, ParityCheck, ParitySample};

/// The rows of a sample of keys, from the log.
pub struct LogSample {
    check: Arc<ParityCheck>,
    keys: Arc<KeySample>,
    labels: Option<Labels>,
    clock: Clock,
    /// By PARTITION BY; none where the event's own columns do not tell its rows.
    groups: Vec<Option<GroupLog>>,
    /// All rows from this event time on are here.
    from_us: i64,
}

struct Labels {
    join: LabelJoin,
    stream: i8,
    horizon_us: i64,
}

/// What the log has of the key of a sampled row.
pub(crate) struct LoggedRows {
    pub rows: KeyRows,
    /// Rows that the log has and the ring does not, and the other way round.
    pub missing: usize,
    pub foreign: usize,
    /// Columns of which all values are known.
    known: Vec<bool>,
    from_us: i64,
    /// No row before it is in time.
    in_time_us: i64,
}

impl ParityCheck {
    /// Whether a row has a key of the sample.
    pub(crate) fn is_of(&self, keys: &KeySample, row: &RecordBatch) -> Result<bool, FeatureError> {
        for (number, (_, columns)) in self.groups.iter().enumerate() {
            if let Some(columns) = columns
                && columns.keys(row)?.with(0, |key| keys.holds(number, key))
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl LogSample {
    /// Before any row; see [`crate::FeatureEngine::log_sample`].
    pub(crate) fn new(
        check: &Arc<ParityCheck>,
        relation: &Relation,
        labels: Option<LabelJoin>,
        keys: Arc<KeySample>,
        from_us: i64,
        rows_max: usize,
    ) -> Result<Option<Self>, FeatureError> {
        let known = check.groups.iter().filter(|(_, columns)| columns.is_some());
        // Whether a row is refused depends on all of its keys, and most of them are not followed.
        if known.clone().count() == 0 || relation.late_rows == LateRows::Refuse {
            return Ok(None);
        }
        let kept_max = rows_max / known.count();
        let capped = relation.rows_per_key_max.unwrap_or(u64::MAX) as usize;
        let group = |columns: &Arc<LoggedColumns>| GroupLog::new(columns, kept_max, capped);
        let labels = labels.zip(relation.labels.as_ref());
        Ok(Some(LogSample {
            groups: (check.groups.iter())
                .map(|(_, columns)| columns.as_ref().map(group).transpose())
                .collect::<Result<_, _>>()?,
            check: check.clone(),
            keys,
            labels: labels.map(|(join, labels)| Labels {
                join,
                stream: labels.stream as i8,
                horizon_us: labels.horizon_us,
            }),
            clock: Clock::default(),
            from_us,
        }))
    }

    /// Takes the log's next rows.
    ///
    /// # Errors
    /// [`FeatureError::Evaluate`] where an expression fails.
    pub fn fold(&mut self, batch: &EventBatch) -> Result<(), FeatureError> {
        let times_us = batch.event_times_us();
        // A clock that begins with the reading trails the line's: what it does not believe moves a key less far
        // than it did, so that no row is dropped too soon.
        let mut credible_us = Vec::with_capacity(times_us.len());
        for time_us in times_us {
            let (now_us, moved_us) = self.clock.observe(*time_us);
            credible_us.push(match now_us == i64::MIN && self.from_us != i64::MIN {
                true => i64::MIN,
                false => moved_us,
            });
        }
        let (mut rows, mut enters) = (batch.rows.clone(), vec![true; batch.len()]);
        let mut is_label = vec![false; batch.len()];
        if let Some(labels) = &mut self.labels {
            let mut is_kept = vec![false; batch.len()];
            for (number, group) in self.groups.iter().enumerate() {
                let Some(group) = group else { continue };
                let keys = group.columns.keys(&batch.rows)?;
                for (row, is_kept) in is_kept.iter_mut().enumerate() {
                    *is_kept |= keys.with(row, |key| self.keys.holds(number, key));
                }
            }
            let joined = labels
                .join
                .join(batch, &HashSet::new(), |row| is_kept[row])?;
            (rows, enters) = (joined.rows, joined.enters);
            let streams = batch.streams().iter();
            is_label = streams.map(|stream| *stream == labels.stream).collect();
        }
        let arriving = Arriving {
            rows: &rows,
            times_us,
            credible_us: &credible_us,
            enters: &enters,
            is_label: &is_label,
        };
        let (from_us, lateness_us) = (self.from_us, self.check.lateness_us);
        for (number, group) in self.groups.iter_mut().enumerate() {
            let Some(group) = group else { continue };
            group.take(&arriving, from_us, lateness_us, |key| {
                self.keys.holds(number, key)
            })?;
            group.fit(&self.keys, number, self.clock.now_us(), lateness_us);
        }
        Ok(())
    }

    /// Rows that are kept.
    pub fn rows(&self) -> usize {
        self.groups.iter().flatten().map(GroupLog::rows).sum()
    }

    /// What the log has of a sampled row's key; `None` where it cannot tell.
    pub(crate) fn rows_of(
        &self,
        group: usize,
        sample: &ParitySample,
    ) -> Result<Option<LoggedRows>, FeatureError> {
        let Some(log) = &self.groups[group] else {
            return Ok(None);
        };
        let (columns, lateness_us) = (&log.columns, self.check.lateness_us);
        // A key that has been silent for long is as new, and what a late row of it finds depends on when
        // it was forgotten.
        if sample.time_us < self.clock.now_us().saturating_sub(lateness_us) {
            return Ok(None);
        }
        let keys = columns.keys(&sample.row)?;
        if !keys.with(0, |key| self.keys.holds(group, key)) {
            return Ok(None);
        }
        let Some(key) = keys.with(0, |key| log.key(key)) else {
            return Ok(None);
        };
        let is_whole = self.from_us == i64::MIN;
        let begins_us = sample.time_us.saturating_sub(columns.range_us);
        let has_labels = match &self.labels {
            None => true,
            Some(labels) => {
                let known_us = self.from_us.saturating_add(labels.horizon_us);
                is_whole || (columns.rows_before.is_none() && begins_us >= known_us)
            }
        };
        if columns.all_rows && !has_labels {
            return Ok(None);
        }
        let known: Vec<bool> = (log.of_labels.iter())
            .map(|of_labels| has_labels || !of_labels)
            .collect();
        let ring = &sample.keys[group];
        // How far a key has come is known to who has seen all of the stream.
        let times = match is_whole {
            true => key.times.with(ring.times.last_us, ring.times.newest_us),
            false => ring.times,
        };
        let reached = key.reached(columns, lateness_us, times.newest_us);
        let start_us = match columns.rows_before {
            None => begins_us.max(
                (times.newest_us)
                    .saturating_sub(columns.range_us)
                    .saturating_sub(lateness_us),
            ),
            Some(_) => match reached.checked_sub(1) {
                None => i64::MIN,
                Some(before) => key.rows[before].time_us.saturating_add(1),
            },
        };
        let rows = log.rows_of(key, times)?;
        let start_us = start_us.max(self.from_us);
        let compared = |rows| Compared::of(rows, ring, &known, columns.all_rows, start_us);
        let (missing, foreign) = compared(&rows)?.against(&compared(ring)?);
        Ok(Some(LoggedRows {
            rows,
            missing,
            foreign,
            known,
            from_us: self.from_us,
            in_time_us: times.newest_us.saturating_sub(lateness_us),
        }))
    }
}

impl LoggedRows {
    /// Whether the log has all that a call over the frame of a row at `time_us` reads.
    pub(crate) fn cover(&self, call: &Call, time_us: i64) -> bool {
        let mut read = call.columns.iter().chain(&call.only);
        let from_us = self.from_us;
        read.all(|column| self.known[*column])
            && match call.frame {
                Frame::Range { preceding_us, .. } => preceding_us.is_some_and(|preceding_us| {
                    time_us.max(self.in_time_us).saturating_sub(preceding_us) >= from_us
                }),
                Frame::Rows { preceding, .. } => preceding.is_some_and(|preceding| {
                    let upto = self.rows.times_us.partition_point(|time| *time <= time_us);
                    from_us == i64::MIN || upto > preceding as usize
                }),
            }
    }
}

/// Rows of a key in a form in which those of the log and those of a ring are equal: what is known of them, sorted.
struct Compared(Vec<(i64, Vec<u8>)>);

impl Compared {
    /// The rows from `start_us` on, in the known columns of `ring`.
    fn of(
        rows: &KeyRows,
        ring: &KeyRows,
        known: &[bool],
        all_rows: bool,
        start_us: i64,
    ) -> Result<Self, FeatureError> {
        let from = rows.times_us.partition_point(|time_us| *time_us < start_us);
        let mut has_any = vec![all_rows; rows.times_us.len() - from];
        let mut columns = Vec::new();
        for (number, column) in rows.columns.iter().enumerate() {
            if !known[number] {
                continue;
            }
            let column = column.slice(from, has_any.len());
            let column = match (rows.counted_only[number], ring.counted_only[number]) {
                (true, _) => column,
                (false, true) => Arc::new(is_not_null(&column)?),
                (false, false) => plain(&cast(&column, ring.columns[number].data_type())?),
            };
            for (row, has_any) in has_any.iter_mut().enumerate() {
                *has_any |= match ring.counted_only[number] {
                    true => column.as_boolean().value(row),
                    false => column.is_valid(row),
                };
            }
            columns.push(column);
        }
        if columns.is_empty() {
            return Ok(Compared(Vec::new()));
        }
        let fields = columns
            .iter()
            .map(|c| SortField::new(c.data_type().clone()));
        let converter = RowConverter::new(fields.collect())?;
        let values = converter.convert_columns(&columns)?;
        let times_us = rows.times_us[from..].iter().copied();
        let mut told: Vec<(i64, Vec<u8>)> = (times_us.zip(&values).zip(has_any))
            .filter(|(_, has_any)| *has_any)
            .map(|((time_us, values), _)| (time_us, values.data().to_vec()))
            .collect();
        told.sort_unstable();
        Ok(Compared(told))
    }

    /// How many rows the other side does not have, and how many it has beside these.
    fn against(&self, other: &Compared) -> (usize, usize) {
        let (mut here, mut there) = (self.0.as_slice(), other.0.as_slice());
        let (mut missing, mut foreign) = (0, 0);
        while let ([first, here_after @ ..], [other, there_after @ ..]) = (here, there) {
            match first.cmp(other) {
                std::cmp::Ordering::Less => (missing, here) = (missing + 1, here_after),
                std::cmp::Ordering::Greater => (foreign, there) = (foreign + 1, there_after),
                std::cmp::Ordering::Equal => (here, there) = (here_after, there_after),
            }
        }
        (missing + here.len(), foreign + there.len())
    }
}

/// One NaN and one zero instead of several.
fn plain(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Float64 => Arc::new(
            column
                .as_primitive::<Float64Type>()
                .unary::<_, Float64Type>(|value| {
                    if value.is_nan() {
                        f64::NAN
                    } else {
                        value + 0.0
                    }
                }),
        ),
        DataType::Float32 => Arc::new(
            column
                .as_primitive::<Float32Type>()
                .unary::<_, Float32Type>(|value| {
                    if value.is_nan() {
                        f32::NAN
                    } else {
                        value + 0.0
                    }
                }),
        ),
        _ => column.clone(),
    }
}
