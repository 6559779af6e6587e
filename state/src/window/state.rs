//! The windows of one key over the fold: rows in, results out.

use std::sync::Arc;

use arrow::array::ArrayRef;

use super::aggregate::Output;
use super::column::Values;
use super::cursor;
use super::ring::{NEVER_US, Ring, Step};
use super::spec::WindowSpec;
use crate::snapshot::{Section, Snapshot};
use crate::{Paged, StateError};

/// Rows of a batch that the memory of the next keys is asked for in advance.
const AHEAD: usize = 6;

/// The rings of all keys.
#[derive(Debug, Clone)]
pub struct WindowState {
    spec: Arc<WindowSpec>,
    /// Ring 0 is for rows whose key is NULL; slot `s` has ring `s + 1`.
    rings: Paged<Ring>,
}

/// Rows of a batch as the windows take them; all slices have one entry a row.
#[derive(Debug, Clone, Copy)]
pub struct WindowRows<'a> {
    /// Slot of each row's key; [`sanderling_schemas::NO_SLOT`] is a key of its own.
    pub slots: &'a [u32],
    /// Event time, microseconds.
    pub times_us: &'a [i64],
    /// Rows that are accepted into the windows; the others are as if they were not there.
    pub enters: &'a [bool],
    /// Rows that get results. They must enter too.
    pub emits: &'a [bool],
    /// Arguments, in the order of the spec's columns.
    pub columns: &'a [ArrayRef],
}

/// Results of a batch: one entry for each row that emits.
#[derive(Debug)]
pub struct WindowOutput {
    /// In the order of the spec's aggregates.
    pub columns: Vec<ArrayRef>,
    /// The row is further behind its key's newest one than the allowed lateness.
    pub late: Vec<bool>,
}

impl WindowState {
    /// Windows that have seen nothing.
    pub fn new(spec: Arc<WindowSpec>) -> Self {
        WindowState {
            spec,
            rings: Paged::default(),
        }
    }

    /// Windows of the same kind that have seen nothing.
    pub fn fresh(&self) -> Self {
        Self::new(self.spec.clone())
    }

    /// Takes the rows in order, and computes each emitting row's results at its turn.
    ///
    /// # Errors
    /// [`StateError::Mismatch`] when a column has another type or length than planned.
    pub fn compute(&mut self, rows: &WindowRows<'_>) -> Result<WindowOutput, StateError> {
        let spec = self.spec.clone();
        let count = rows.times_us.len();
        if rows.columns.len() != spec.columns.len() || rows.slots.len() != count {
            return Err(StateError::Mismatch(format!(
                "{} columns, {} slots for {} columns, {count} rows",
                rows.columns.len(),
                rows.slots.len(),
                spec.columns.len()
            )));
        }
        let values = (rows.columns.iter().zip(&spec.columns).zip(&spec.slots))
            .map(|((array, column), slot)| Values::of(array, column, *slot, count))
            .collect::<Result<Vec<_>, _>>()?;
        let emitting = rows.emits.iter().filter(|emits| **emits).count();
        let mut outputs: Vec<Output> = spec
            .aggregates
            .iter()
            .map(|plan| Output::new(plan, emitting))
            .collect();
        let mut late = Vec::with_capacity(emitting);
        let rings = (rows.slots.iter().zip(rows.enters))
            .filter(|(_, enters)| **enters)
            .map(|(slot, _)| ring_of(*slot) + 1)
            .max();
        self.rings.grow_to(rings.unwrap_or(0));

        let mut row = vec![0u64; spec.stride];
        for at in 0..count {
            for (ahead, step) in [
                (AHEAD * 3, Step::Ring),
                (AHEAD * 2, Step::Cursors),
                (AHEAD, Step::Rows),
            ] {
                if let Some(slot) = rows.slots.get(at + ahead)
                    && rows.enters[at + ahead]
                {
                    self.rings
                        .get(ring_of(*slot))
                        .prefetch(&spec.frames, spec.stride, step);
                }
            }
            if !rows.enters[at] {
                continue;
            }
            row.fill(0);
            row[0] = rows.times_us[at] as u64;
            for column in &values {
                column.put(at, &mut row);
            }
            let ring = self.rings.get_mut(ring_of(rows.slots[at]));
            let behind = accept(ring, &spec, &row);
            if rows.emits[at] {
                late.push(behind);
                emit(ring, &spec, rows.times_us[at], &mut outputs);
            }
        }
        let columns = outputs
            .into_iter()
            .map(Output::finish)
            .collect::<Result<_, _>>()?;
        Ok(WindowOutput { columns, late })
    }

    /// The newest event time that the rows of a key have come to, microseconds; `None` before the
    /// first.
    pub fn newest_us(&self, slot: u32) -> Option<i64> {
        let at = ring_of(slot);
        let newest_us = (at < self.rings.len()).then(|| self.rings.get(at).newest_us)?;
        (newest_us != NEVER_US).then_some(newest_us)
    }

    /// Number of rings, the one for NULL keys included.
    pub fn len(&self) -> usize {
        self.rings.len()
    }

    /// No row was taken yet.
    pub fn is_empty(&self) -> bool {
        self.rings.is_empty()
    }

    /// Adds the rings to a snapshot, by reference.
    pub fn snapshot(&self, name: &str, snapshot: &mut Snapshot) {
        self.rings.snapshot(name, snapshot);
    }

    /// Reads the rings of a section back.
    ///
    /// # Errors
    /// [`StateError::Damaged`] when they cannot be read, [`StateError::Mismatch`] when they belong to
    /// other windows.
    pub fn restore(&mut self, section: &Section) -> Result<(), StateError> {
        let rings = Paged::<Ring>::restore(section)?;
        for ring in rings.iter() {
            let whole = ring.fits(self.spec.stride, self.spec.cursor_words);
            let inside = whole
                && (ring.cursors.is_empty()
                    || self.spec.frames.iter().all(|frame| {
                        let (lo, hi) = (ring.cursors[frame.at], ring.cursors[frame.at + 1]);
                        ring.first() <= lo && lo <= hi && hi <= ring.end(self.spec.stride)
                    }));
            if !inside {
                return Err(StateError::Mismatch("rows of other windows".into()));
            }
        }
        self.rings = rings;
        Ok(())
    }
}

fn ring_of(slot: u32) -> usize {
    slot.wrapping_add(1) as usize
}

/// Takes a row into its key's ring; true if it is late.
fn accept(ring: &mut Ring, spec: &WindowSpec, row: &[u64]) -> bool {
    let time_us = row[0] as i64;
    let late =
        ring.newest_us != NEVER_US && time_us < ring.newest_us.saturating_sub(spec.lateness_us);
    ring.newest_us = ring.newest_us.max(time_us);
    if ring.cursors.is_empty() {
        ring.cursors = cursor::start(spec);
    }
    // A row without any argument changes no result: it only moves the newest time.
    let reach_us = ring.newest_us.saturating_sub(spec.retention_us);
    if row[1] != 0 && time_us >= reach_us {
        if ring.is_full(spec.stride) {
            forget(ring, spec, reach_us);
            ring.make_room(spec.stride);
        }
        let number = ring.insert(row);
        cursor::inserted(ring, &spec.frames, number, spec.stride);
    }
    late
}

/// Drops the rows before `reach_us`, which no frame can reach any more. That no one can see it is
/// what allows waiting until their room is wanted.
fn forget(ring: &mut Ring, spec: &WindowSpec, reach_us: i64) {
    let stride = spec.stride;
    let (first, end) = (ring.first(), ring.end(stride));
    let mut kept = first;
    while kept < end && ring.time_us(kept, stride) < reach_us {
        kept += 1;
    }
    if kept > first {
        cursor::leave(ring, &spec.frames, kept, stride);
        ring.drop_front(kept - first, stride);
    }
}

/// Computes all results as of `time_us`.
fn emit(ring: &mut Ring, spec: &WindowSpec, time_us: i64, outputs: &mut [Output]) {
    for frame in &spec.frames {
        let end_us = time_us.saturating_sub(frame.frame.until_us);
        let reach_us = frame.frame.preceding_us.saturating_add(spec.lateness_us);
        let start_us = time_us
            .saturating_sub(frame.frame.preceding_us)
            .max(ring.newest_us.saturating_sub(reach_us));
        let empty = start_us > end_us;
        if !empty {
            cursor::seek(ring, frame, spec.stride, start_us, end_us);
        }
        for at in &frame.outputs {
            let (plan, output) = (&spec.aggregates[*at], &mut outputs[*at]);
            match empty {
                true => output.push_empty(plan),
                false => output.push_frame(plan, frame, ring, spec.stride),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Array, AsArray, Decimal128Array, Float64Array, Int64Array};
    use arrow::datatypes::{DataType, Decimal128Type, Float64Type, Int64Type};

    use super::super::{Aggregate, Column, Frame, Function};
    use super::*;

    const STDDEV: Function = Function::Variance {
        sample: true,
        root: true,
    };

    /// Windows over one column: the given functions over the last 10 us.
    fn windows(input: DataType, functions: &[(Function, DataType)]) -> WindowState {
        let aggregates = (functions.iter().cloned())
            .map(|(function, output)| Aggregate {
                function,
                column: 0,
                frame: 0,
                output,
            })
            .collect();
        let frame = Frame {
            preceding_us: 10,
            until_us: 0,
        };
        let column = Column { data_type: input };
        WindowState::new(Arc::new(
            WindowSpec::new(vec![column], vec![frame], aggregates, 5).unwrap(),
        ))
    }

    /// One key's results for rows at the given times.
    fn run(state: &mut WindowState, times_us: &[i64], values: ArrayRef) -> WindowOutput {
        let all = vec![true; times_us.len()];
        let slots = vec![0; times_us.len()];
        let rows = WindowRows {
            slots: &slots,
            times_us,
            enters: &all,
            emits: &all,
            columns: &[values],
        };
        state.compute(&rows).unwrap()
    }

    #[test]
    fn integers_of_any_size_are_exact() {
        let functions = [
            (Function::Sum, DataType::Int64),
            (Function::Min, DataType::Int64),
            (Function::Max, DataType::Int64),
            (STDDEV, DataType::Float64),
        ];
        let mut state = windows(DataType::Int64, &functions);
        let values = [i64::MIN, i64::MAX, 3, 5, -(1 << 50), 7];
        let times = [0, 1, 2, 20, 21, 40];
        let out = run(
            &mut state,
            &times,
            Arc::new(Int64Array::from(values.to_vec())),
        );
        let column = |n: usize| out.columns[n].as_primitive::<Int64Type>().values().to_vec();
        let big = -(1i64 << 50);
        assert_eq!(column(0), [i64::MIN, -1, 2, 5, 5 + big, 7]);
        assert_eq!(column(1), [i64::MIN, i64::MIN, i64::MIN, 5, big, 7]);
        assert_eq!(column(2), [i64::MIN, i64::MAX, i64::MAX, 5, 5, 7]);
        let spread = out.columns[3].as_primitive::<Float64Type>();
        assert!(spread.is_null(0) && spread.is_null(3) && spread.is_null(5));
        let expected = (5.0 - big as f64) / 2f64.sqrt();
        assert!((spread.value(4) / expected - 1.0).abs() < 1e-12);
    }

    #[test]
    fn wide_decimals_are_exact() {
        let wide = DataType::Decimal128(38, 4);
        let functions = [(Function::Sum, wide.clone()), (Function::Max, wide.clone())];
        let mut state = windows(wide, &functions);
        let values = [10i128.pow(37), -(10i128.pow(36)), 1];
        let array = Decimal128Array::from(values.to_vec())
            .with_precision_and_scale(38, 4)
            .unwrap();
        let out = run(&mut state, &[0, 1, 11], Arc::new(array));
        let sums = out.columns[0].as_primitive::<Decimal128Type>();
        assert_eq!(
            sums.values(),
            &[values[0], values[0] + values[1], values[1] + 1]
        );
        let most = out.columns[1].as_primitive::<Decimal128Type>();
        assert_eq!(most.values(), &[values[0], values[0], 1]);
    }

    #[test]
    fn a_late_row_sees_only_what_all_stores_still_have() {
        let mut state = windows(DataType::Float64, &[(Function::Sum, DataType::Float64)]);
        let times = [0, 8, 20, 14, 4, 9];
        let out = run(
            &mut state,
            &times,
            Arc::new(Float64Array::from(vec![1.0; 6])),
        );
        // The newest time is 20 from the third row on: 5 us late are allowed, 15 us back are seen.
        assert_eq!(out.late, [false, false, false, true, true, true]);
        let sums: Vec<_> = out.columns[0]
            .as_primitive::<Float64Type>()
            .iter()
            .collect();
        assert_eq!(
            sums,
            [Some(1.0), Some(2.0), Some(1.0), Some(2.0), None, Some(2.0)]
        );
    }
}
