//! The windows of one key over the fold: rows in, results out.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::ArrayRef;

use super::column::Values;
use super::output::Output;
use super::ring::{KeyTimes, Ring};
use super::shard::{Cuts, Shard, Taken};
use super::spec::{Function, WindowSpec};
use super::tidy::ROWS_PER_LOOK;
use super::view::WindowView;
use crate::{KeyIndex, Paged, StateError, Threads};

/// The rings of all keys.
#[derive(Debug, Clone)]
pub struct WindowState {
    pub(super) spec: Arc<WindowSpec>,
    /// Ring 0 is for rows whose key is NULL; slot `s` has ring `s + 1`.
    pub(super) rings: Paged<Ring>,
    /// Texts of each column that keeps texts, by number.
    pub(super) texts: Vec<KeyIndex>,
    /// Page of rings that is looked at for old rows next.
    pub(super) look: usize,
    /// Newest event time among the rows that a key has given up to the cap, by ring.
    pub(super) lost_us: HashMap<usize, i64>,
    /// Keys that have become as new since they were last asked for.
    pub(super) forgotten: Vec<u32>,
}

/// Rows of a batch as the windows take them; all slices have one entry a row.
#[derive(Debug, Clone, Copy)]
pub struct WindowRows<'a> {
    /// Slot of each row's key; [`sanderling_schemas::NO_SLOT`] is a key of its own.
    pub slots: &'a [u32],
    /// Event time, microseconds.
    pub times_us: &'a [i64],
    /// How far each row moves the newest time of its key: its event time, if that is credible.
    pub credible_us: &'a [i64],
    /// The stream's own time at each row, microseconds; it never goes back. A key whose last row is
    /// further behind it than the longest frame and twice the lateness is as new.
    pub clock_us: &'a [i64],
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
    /// In the order of the spec's aggregates; `None` for [`Function::Rows`].
    pub columns: Vec<Option<ArrayRef>>,
    /// The row is further behind its key's newest one than the allowed lateness.
    pub late: Vec<bool>,
    /// A frame may miss rows that the key has given up to the cap.
    pub capped: Vec<bool>,
}

/// Called for each emitting row and each [`Function::Rows`] with the aggregate's number, the row's in the
/// batch, and the columns of the rows in the frame. Of one key's rows in their order; other keys' may be between them, or
/// on other threads.
pub type FrameRows<'a> = &'a (dyn Fn(usize, usize, &[ArrayRef]) -> Result<(), StateError> + Sync);

impl WindowState {
    /// Windows that have seen nothing.
    pub fn new(spec: Arc<WindowSpec>) -> Self {
        WindowState {
            texts: vec![KeyIndex::default(); spec.columns.len()],
            spec,
            rings: Paged::default(),
            look: 0,
            lost_us: HashMap::new(),
            forgotten: Vec::new(),
        }
    }

    /// Windows of the same kind that have seen nothing.
    pub fn fresh(&self) -> Self {
        Self::new(self.spec.clone())
    }

    /// Takes the rows in order, and computes each emitting row's results at its turn. Over how many threads
    /// keys are split changes nothing.
    ///
    /// # Errors
    /// [`StateError::Mismatch`] when a column has another type or length than planned; what `frame_rows`
    /// fails with.
    pub fn compute(
        &mut self,
        rows: &WindowRows<'_>,
        threads: &Threads,
        frame_rows: FrameRows<'_>,
    ) -> Result<WindowOutput, StateError> {
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
        let columns = rows.columns.iter().zip(&spec.columns).zip(&spec.slots);
        let values = (columns.zip(&mut self.texts))
            .map(|(((array, column), slot), texts)| {
                Values::of(array, column, *slot, rows.enters, texts)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let cuts = Cuts::of(rows, threads.parts(count));
        let entering = cuts.rows.iter().flatten();
        let rings = entering.map(|row| ring_of(rows.slots[*row as usize]) + 1);
        self.rings.grow_to(rings.max().unwrap_or(0));
        let shards = (cuts.rings(&mut self.rings).into_iter()).zip(&cuts.rows);
        let jobs = shards.map(|(rings, picks)| {
            let shard = Shard::new(&spec, rings, &self.texts, &self.lost_us);
            let values = &values;
            move || shard.take(rows, picks, values, frame_rows)
        });
        let taken = threads.run(count, jobs.collect());
        let taken = taken.into_iter().collect::<Result<Vec<_>, _>>()?;
        if let Some(clock_us) = rows.clock_us.last() {
            self.tidy(*clock_us, count / ROWS_PER_LOOK + 1);
        }
        self.joined(&cuts, taken, threads)
    }

    /// Takes what came of a batch's parts together.
    fn joined(
        &mut self,
        cuts: &Cuts,
        parts: Vec<Taken>,
        threads: &Threads,
    ) -> Result<WindowOutput, StateError> {
        let (mut outputs, mut late, mut capped) = (Vec::new(), Vec::new(), Vec::new());
        for part in parts {
            outputs.push(part.outputs.into_iter());
            late.push(part.late);
            capped.push(part.capped);
            for (ring, lost_us) in part.lost_us {
                match lost_us {
                    Some(lost_us) => self.lost_us.insert(ring, lost_us),
                    None => self.lost_us.remove(&ring),
                };
            }
        }
        let texts = &self.texts;
        let columns = self.spec.aggregates.iter().map(|plan| {
            let parts: Vec<Output> = outputs.iter_mut().filter_map(Iterator::next).collect();
            move || match plan.function {
                Function::Rows => Ok(None),
                _ => Output::joined(parts, cuts)
                    .finish(&texts[plan.columns[0]])
                    .map(Some),
            }
        });
        let columns = threads.run(cuts.len(), columns.collect());
        let columns = columns.into_iter().collect::<Result<_, StateError>>()?;
        Ok(WindowOutput {
            columns,
            late: cuts.joined(late),
            capped: cuts.joined(capped),
        })
    }

    /// Whether nothing is kept of a key.
    pub fn is_unknown(&self, slot: u32) -> bool {
        let at = ring_of(slot);
        at >= self.rings.len() || self.rings.get(at).is_new()
    }

    /// What is kept, and in how many bytes.
    pub fn footprint(&self) -> Footprint {
        let live = self.rings.iter().filter(|ring| !ring.is_new());
        let mut footprint = Footprint {
            bytes: self.rings.bytes() + self.texts.iter().map(KeyIndex::bytes).sum::<usize>(),
            ..Footprint::default()
        };
        for ring in live {
            footprint.keys += 1;
            footprint.rows += (ring.end(self.spec.stride) - ring.first()) as usize;
            footprint.bytes += ring.bytes();
        }
        footprint
    }

    /// How far the rows of a key have come; `None` for one that is new when the stream's time is `clock_us`.
    pub fn times(&self, slot: u32, clock_us: i64) -> Option<KeyTimes> {
        let at = ring_of(slot);
        let times = (at < self.rings.len()).then(|| self.rings.get(at).times())?;
        self.unless_forgotten(times, clock_us)
    }

    /// The same times, but `None` if the key is new again at `clock_us`.
    pub fn unless_forgotten(&self, times: KeyTimes, clock_us: i64) -> Option<KeyTimes> {
        let is_known = times != KeyTimes::NEVER && !self.spec.is_forgotten(times.last_us, clock_us);
        is_known.then_some(times)
    }

    /// What is kept now, by reference, as it looks when the stream's time is `clock_us`.
    pub fn view(&self, clock_us: i64) -> WindowView {
        let texts = self.texts.iter().map(KeyIndex::known).collect();
        WindowView::new(self.spec.clone(), self.rings.clone(), texts, clock_us)
    }

    /// Number of rings, the one for NULL keys included.
    pub fn len(&self) -> usize {
        self.rings.len()
    }

    /// No row was taken yet.
    pub fn is_empty(&self) -> bool {
        self.rings.is_empty()
    }
}

/// How much windows keep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Keys with a ring.
    pub keys: usize,
    /// Rows in all rings.
    pub rows: usize,
    /// Bytes of rings, rows, sums and texts; without the keys themselves.
    pub bytes: usize,
}

pub(super) fn ring_of(slot: u32) -> usize {
    slot.wrapping_add(1) as usize
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

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
                columns: vec![0],
                only: None,
                frame: 0,
                output,
            })
            .collect();
        let frame = Frame::Range {
            preceding_us: Some(10),
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
            credible_us: times_us,
            clock_us: &vec![i64::MIN; times_us.len()],
            enters: &all,
            emits: &all,
            columns: &[values],
        };
        state
            .compute(&rows, &Threads::new(1), &|_, _, _| Ok(()))
            .unwrap()
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
        let column = |n: usize| {
            out.columns[n]
                .as_ref()
                .unwrap()
                .as_primitive::<Int64Type>()
                .values()
                .to_vec()
        };
        let big = -(1i64 << 50);
        assert_eq!(column(0), [i64::MIN, -1, 2, 5, 5 + big, 7]);
        assert_eq!(column(1), [i64::MIN, i64::MIN, i64::MIN, 5, big, 7]);
        assert_eq!(column(2), [i64::MIN, i64::MAX, i64::MAX, 5, 5, 7]);
        let spread = out.columns[3]
            .as_ref()
            .unwrap()
            .as_primitive::<Float64Type>();
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
        let sums = out.columns[0]
            .as_ref()
            .unwrap()
            .as_primitive::<Decimal128Type>();
        assert_eq!(
            sums.values(),
            &[values[0], values[0] + values[1], values[1] + 1]
        );
        let most = out.columns[1]
            .as_ref()
            .unwrap()
            .as_primitive::<Decimal128Type>();
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
            .as_ref()
            .unwrap()
            .as_primitive::<Float64Type>()
            .iter()
            .collect();
        assert_eq!(
            sums,
            [Some(1.0), Some(2.0), Some(1.0), Some(2.0), None, Some(2.0)]
        );
    }

    #[test]
    fn keys_are_split_over_threads() {
        let rows_of = [(Function::Rows, DataType::Float64)];
        let count = 2000u32;
        let all = vec![true; count as usize];
        let times_us: Vec<i64> = (0..i64::from(count)).collect();
        // A third of the rows are of the first key, the others of a hundred.
        let slots: Vec<u32> = (0..count)
            .map(|n| if n % 3 == 0 { 0 } else { n % 100 })
            .collect();
        let values: ArrayRef = Arc::new(Float64Array::from(vec![1.0; count as usize]));
        let rows = WindowRows {
            slots: &slots,
            times_us: &times_us,
            credible_us: &times_us,
            clock_us: &times_us,
            enters: &all,
            emits: &all,
            columns: &[values],
        };
        for threads in [1, 2] {
            let seen = Mutex::new(HashMap::<_, Vec<usize>>::new());
            let mut state = windows(DataType::Float64, &rows_of);
            let threads_of = Threads::new(threads);
            let look = |_: usize, row: usize, _: &[ArrayRef]| {
                let mut seen = seen.lock().unwrap();
                seen.entry(std::thread::current().id())
                    .or_default()
                    .push(row);
                Ok(())
            };
            state.compute(&rows, &threads_of, &look).unwrap();
            let seen = seen.into_inner().unwrap();
            assert_eq!(seen.len() > 1, threads > 1, "{seen:?}");
            assert!(seen.values().all(|rows| rows.is_sorted()), "{seen:?}");
        }
    }
}
