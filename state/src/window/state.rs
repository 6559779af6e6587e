//! The windows of one key over the fold: rows in, results out.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, new_empty_array};

use super::aggregate::{Output, rows_of};
use super::column::Values;
use super::cursor;
use super::ring::{KeyTimes, Ring, Step};
use super::spec::{Frame, FramePlan, Function, Storage, WindowSpec};
use super::view::WindowView;
use crate::snapshot::{Restored, Snapshot};
use crate::{KeyIndex, Paged, StateError};

/// Rows of a batch that the memory of a key is asked for in advance, a step at a time.
const AHEAD: [(usize, Step); 4] = [
    (24, Step::Page),
    (18, Step::Ring),
    (12, Step::Cursors),
    (6, Step::Rows),
];
/// One key's ring is looked at for old rows for so many rows taken.
const ROWS_PER_LOOK: usize = 4;
/// So many times more rings are looked at while a quarter of them is old.
const MORE_LOOKS: usize = 7;
/// From one page that is looked at to the next, a prime: page by page a look would follow the newest keys
/// and never come back to what has died behind it.
const STRIDE_PAGES: usize = 7919;

/// The rings of all keys.
#[derive(Debug, Clone)]
pub struct WindowState {
    pub(super) spec: Arc<WindowSpec>,
    /// Ring 0 is for rows whose key is NULL; slot `s` has ring `s + 1`.
    pub(super) rings: Paged<Ring>,
    /// Texts of each column that keeps texts, by number.
    pub(super) texts: Vec<KeyIndex>,
    /// Page of rings that is looked at for old rows next.
    look: usize,
    /// Newest event time among the rows that a key has given up to the cap, by ring.
    pub(super) lost_us: HashMap<usize, i64>,
    /// Keys that have become as new since they were last asked for.
    forgotten: Vec<u32>,
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

/// Called for each emitting row and each [`Function::Rows`], in this order, with the aggregate's number and
/// the columns of the rows in the frame.
pub type FrameRows<'a> = &'a mut dyn FnMut(usize, &[ArrayRef]) -> Result<(), StateError>;

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

    /// Takes the rows in order, and computes each emitting row's results at its turn.
    ///
    /// # Errors
    /// [`StateError::Mismatch`] when a column has another type or length than planned; what `frame_rows`
    /// fails with.
    pub fn compute(
        &mut self,
        rows: &WindowRows<'_>,
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
        let emitting = rows.emits.iter().filter(|emits| **emits).count();
        let mut outputs: Vec<Output> = spec
            .aggregates
            .iter()
            .map(|plan| Output::new(&plan.output, emitting))
            .collect();
        let mut lates = Vec::with_capacity(emitting);
        let mut capped = Vec::with_capacity(emitting);
        let rings = (rows.slots.iter().zip(rows.enters))
            .filter(|(_, enters)| **enters)
            .map(|(slot, _)| ring_of(*slot) + 1)
            .max();
        self.rings.grow_to(rings.unwrap_or(0));

        // No row before the first ones asks for their memory.
        for (ahead, step) in AHEAD {
            (0..ahead).for_each(|at| self.prefetch(rows, at, step));
        }
        let mut row = vec![0u64; spec.stride];
        for at in 0..count {
            for (ahead, step) in AHEAD {
                self.prefetch(rows, at + ahead, step);
            }
            if !rows.enters[at] {
                continue;
            }
            row.fill(0);
            row[0] = rows.times_us[at] as u64;
            for column in &values {
                column.put(at, &mut row);
            }
            let ring_at = ring_of(rows.slots[at]);
            let ring = self.rings.get_mut(ring_at);
            let arrival = Arrival {
                row: &row,
                credible_us: rows.credible_us[at],
                clock_us: rows.clock_us[at],
            };
            let (late, number) = accept(ring, &spec, &arrival, (&mut self.lost_us, ring_at));
            if rows.emits[at] {
                lates.push(late);
                let place = Place {
                    time_us: rows.times_us[at],
                    number,
                    late,
                };
                let lost_us = match self.lost_us.is_empty() {
                    true => None,
                    false => self.lost_us.get(&ring_at).copied(),
                };
                capped.push(lost_us.is_some_and(|lost_us| misses(ring, &spec, place, lost_us)));
                emit(ring, &spec, &self.texts, place, &mut outputs, frame_rows)?;
            }
        }
        if let Some(clock_us) = rows.clock_us.last() {
            self.tidy(*clock_us, count / ROWS_PER_LOOK + 1);
        }
        let columns = (outputs.into_iter().zip(&spec.aggregates))
            .map(|(output, plan)| match plan.function {
                Function::Rows => Ok(None),
                _ => output.finish(&self.texts[plan.columns[0]]).map(Some),
            })
            .collect::<Result<_, _>>()?;
        Ok(WindowOutput {
            columns,
            late: lates,
            capped,
        })
    }

    /// Asks for memory that row `at` of a batch will want, if there is such a row. Only a hint.
    #[inline]
    fn prefetch(&self, rows: &WindowRows<'_>, at: usize, step: Step) {
        let Some(slot) = rows.slots.get(at).filter(|_| rows.enters[at]) else {
            return;
        };
        let ring = ring_of(*slot);
        match step {
            Step::Page => return self.rings.prefetch_place(ring),
            Step::Ring => self.rings.prefetch_page(ring),
            Step::Cursors | Step::Rows => {}
        }
        let WindowSpec { frames, stride, .. } = &*self.spec;
        self.rings.get(ring).prefetch(frames, *stride, step);
    }

    /// Looks at some rings, and gives back the memory of rows that no frame can reach any more.
    fn tidy(&mut self, clock_us: i64, rings: usize) {
        let spec = self.spec.clone();
        let page_rings = Paged::<Ring>::PAGE_VALUES;
        let mut pages = rings.div_ceil(page_rings).min(self.rings.pages());
        // Keys that come once come faster than that. Where a part of a page was forgotten, so are others.
        let mut more = (pages * MORE_LOOKS).min(self.rings.pages() - pages);
        let stride = match self.rings.pages() % STRIDE_PAGES {
            0 => 1,
            _ => STRIDE_PAGES,
        };
        while pages > 0 {
            pages -= 1;
            self.look = (self.look + stride) % self.rings.pages();
            let before = self.forgotten.len();
            let idle =
                |ring: &Ring| spec.is_forgotten(ring.times, clock_us) || ring.is_slack(spec.stride);
            if !self.rings.page(self.look).iter().any(idle) {
                continue;
            }
            let first = self.look * page_rings;
            let page = self.rings.page_mut(self.look);
            for (at, ring) in (first..).zip(page.iter_mut()) {
                if spec.is_forgotten(ring.times, clock_us) {
                    *ring = Ring::default();
                    self.lost_us.remove(&at);
                    // Ring 0 is that of NULL, which has no slot to give back.
                    self.forgotten
                        .extend(at.checked_sub(1).map(|slot| slot as u32));
                } else if ring.is_slack(spec.stride) {
                    forget(ring, &spec);
                    ring.tighten(spec.stride);
                }
            }
            if page.iter().all(|ring| ring.times == KeyTimes::NEVER) {
                self.rings.release(self.look);
            }
            if more > 0 && (self.forgotten.len() - before) * 4 >= page_rings {
                (pages, more) = (pages + 1, more - 1);
            }
        }
    }

    /// The slots of keys that have become as new and whose memory was given back since this was last asked.
    /// When that is done shows in no result.
    pub fn take_forgotten(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.forgotten)
    }

    /// Whether nothing is kept of a key.
    pub fn is_unknown(&self, slot: u32) -> bool {
        let at = ring_of(slot);
        at >= self.rings.len() || self.rings.get(at).times == KeyTimes::NEVER
    }

    /// What is kept, and in how many bytes.
    pub fn footprint(&self) -> Footprint {
        let live = self
            .rings
            .iter()
            .filter(|ring| ring.times != KeyTimes::NEVER);
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
        let times = (at < self.rings.len()).then(|| self.rings.get(at).times)?;
        self.unless_forgotten(times, clock_us)
    }

    /// The same times, but `None` if the key is new again at `clock_us`.
    pub fn unless_forgotten(&self, times: KeyTimes, clock_us: i64) -> Option<KeyTimes> {
        (times != KeyTimes::NEVER && !self.spec.is_forgotten(times, clock_us)).then_some(times)
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

    /// Adds the rings to a snapshot, by reference.
    pub fn snapshot(&self, name: &str, snapshot: &mut Snapshot) {
        self.rings.snapshot(&format!("{name}/rings"), snapshot);
        if !self.lost_us.is_empty() {
            let mut lost: Vec<(usize, i64)> = self.lost_us.iter().map(|(k, v)| (*k, *v)).collect();
            lost.sort_unstable();
            let words = lost.into_iter().flat_map(|(ring, us)| [ring as i64, us]);
            snapshot.add_value(&format!("{name}/capped"), words.collect::<Vec<i64>>());
        }
        for (column, slot) in self.spec.slots.iter().enumerate() {
            if slot.storage == Storage::Text {
                self.texts[column].snapshot(&format!("{name}/texts-{column}"), snapshot);
            }
        }
    }

    /// Reads the rings back.
    ///
    /// # Errors
    /// [`StateError::Damaged`] when they cannot be read, [`StateError::Mismatch`] when they belong to
    /// other windows.
    pub fn restore(&mut self, name: &str, restored: &Restored) -> Result<(), StateError> {
        let mut texts = vec![KeyIndex::default(); self.spec.columns.len()];
        for (column, slot) in self.spec.slots.iter().enumerate() {
            if slot.storage == Storage::Text {
                let section = restored.section(&format!("{name}/texts-{column}"))?;
                texts[column] = KeyIndex::restore(section)?;
            }
        }
        let rings = Paged::<Ring>::restore(restored.section(&format!("{name}/rings"))?)?;
        for ring in rings.iter() {
            let whole = ring.fits(self.spec.stride, self.spec.cursor_words);
            let inside = whole
                && (ring.cursors.is_empty()
                    || self.spec.frames.iter().all(|frame| {
                        let (lo, hi) = (ring.cursors[frame.at], ring.cursors[frame.at + 1]);
                        ring.first() <= lo && lo <= hi && hi <= ring.end(self.spec.stride)
                    }));
            let told = |(column, slot): (usize, &super::spec::Slot)| {
                slot.storage != Storage::Text
                    || (ring.first()..ring.end(self.spec.stride)).all(|number| {
                        let row = ring.row(number, self.spec.stride);
                        row[1] & slot.bit == 0 || row[slot.word] < texts[column].len() as u64
                    })
            };
            if !inside || !self.spec.slots.iter().enumerate().all(told) {
                return Err(StateError::Mismatch("rows of other windows".into()));
            }
        }
        let lost: Vec<i64> = match restored.section(&format!("{name}/capped")) {
            Ok(section) => section.value()?,
            Err(_) => Vec::new(),
        };
        self.lost_us = lost
            .chunks_exact(2)
            .map(|pair| (pair[0] as usize, pair[1]))
            .collect();
        (self.rings, self.texts, self.look) = (rings, texts, 0);
        self.forgotten.clear();
        Ok(())
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

impl WindowSpec {
    /// No row of the key can be reached any more by one that is not late for the whole stream.
    pub(super) fn is_forgotten(&self, times: KeyTimes, clock_us: i64) -> bool {
        let reach_us = self.retention_us.saturating_add(self.lateness_us);
        self.forgets
            && times != KeyTimes::NEVER
            && times.last_us < clock_us.saturating_sub(reach_us)
    }
}

/// A row that comes.
struct Arrival<'a> {
    row: &'a [u64],
    credible_us: i64,
    clock_us: i64,
}

/// Takes a row into its key's ring. Returns whether it is late, and where it stands, if it is kept. What the
/// key gives up to the cap is noted in `lost_us` under the ring's number.
fn accept(
    ring: &mut Ring,
    spec: &WindowSpec,
    arrival: &Arrival<'_>,
    (lost_us, at): (&mut HashMap<usize, i64>, usize),
) -> (bool, Option<u64>) {
    let &Arrival {
        row,
        credible_us,
        clock_us,
    } = arrival;
    let time_us = row[0] as i64;
    if spec.is_forgotten(ring.times, clock_us) {
        *ring = Ring::default();
        lost_us.remove(&at);
    }
    let late = ring.times != KeyTimes::NEVER
        && time_us < ring.times.newest_us.saturating_sub(spec.lateness_us);
    ring.times = ring.times.with(time_us, credible_us);
    if ring.cursors.is_empty() {
        ring.cursors = cursor::start(spec);
    }
    // A row without any argument changes no result: it only moves the newest time.
    let reach_us = ring.times.newest_us.saturating_sub(spec.retention_us);
    if !spec.all_rows && (row[1] == 0 || time_us < reach_us) {
        cursor::passed(ring, &spec.frames, row);
        return (late, None);
    }
    if let Some(rows_max) = spec.rows_max
        && let Some(lost) = give_up(ring, spec, time_us, rows_max)
    {
        let newest = lost_us.entry(at).or_insert(lost.newest_us);
        *newest = lost.newest_us.max(*newest);
        if lost.is_the_row {
            cursor::passed(ring, &spec.frames, row);
            return (late, None);
        }
    }
    if ring.is_full(spec.stride) {
        forget(ring, spec);
        ring.make_room(spec.stride);
    }
    let number = ring.insert(row);
    cursor::inserted(ring, &spec.frames, number, spec.stride);
    (late, Some(number))
}

/// Drops the rows that no frame can reach any more. That no one can see it is what allows waiting until
/// their room is wanted.
fn forget(ring: &mut Ring, spec: &WindowSpec) {
    let stride = spec.stride;
    let (first, kept) = (ring.first(), reach(ring, spec));
    if kept > first {
        cursor::leave(ring, &spec.frames, kept, stride);
        ring.drop_front(kept - first, stride);
    }
}

/// Whether a frame of the row at `place` may miss rows of its key that were given up to the cap, the newest
/// of them at `lost_us`.
fn misses(ring: &Ring, spec: &WindowSpec, place: Place, lost_us: i64) -> bool {
    let in_time_us = ring.times.newest_us.saturating_sub(spec.lateness_us);
    spec.frames.iter().any(|frame| match frame.frame {
        Frame::Range {
            preceding_us: Some(preceding_us),
            until_us,
        } => {
            let start_us = (place.time_us.max(in_time_us)).saturating_sub(preceding_us);
            start_us <= lost_us && start_us <= place.time_us.saturating_sub(until_us)
        }
        // What leaves the ring stays in such a frame, and is in it too soon where it ends before the row.
        Frame::Range {
            preceding_us: None,
            until_us,
        } => !place.late && place.time_us.saturating_sub(until_us) < lost_us,
        Frame::Rows { preceding, .. } => match (place.number, preceding) {
            (None, _) => true,
            (Some(_), None) => false,
            // Counted from what is in reach, because it must not show when the rest is dropped.
            (Some(number), Some(preceding)) => number < reach(ring, spec) + preceding,
        },
    })
}

/// What a key gives up.
struct Lost {
    /// Newest event time among it.
    newest_us: i64,
    /// It is the row that comes.
    is_the_row: bool,
}

/// Makes room for a row at `time_us` where a key has `rows_max` that a frame can still reach: the oldest
/// gives way, which may be the row itself.
fn give_up(ring: &mut Ring, spec: &WindowSpec, time_us: i64, rows_max: u64) -> Option<Lost> {
    let stride = spec.stride;
    if ring.end(stride) - ring.first() < rows_max {
        return None;
    }
    // When rows that no frame reaches are dropped must not show.
    forget(ring, spec);
    let (first, rows) = (ring.first(), ring.end(stride) - ring.first());
    if rows < rows_max {
        return None;
    }
    if time_us < ring.time_us(first, stride) {
        return Some(Lost {
            newest_us: time_us,
            is_the_row: true,
        });
    }
    let kept = first + rows + 1 - rows_max;
    let newest_us = ring.time_us(kept - 1, stride);
    cursor::leave(ring, &spec.frames, kept, stride);
    ring.drop_front(kept - first, stride);
    Some(Lost {
        newest_us,
        is_the_row: false,
    })
}

/// Number of the first row that a frame can still reach.
pub(super) fn reach(ring: &Ring, spec: &WindowSpec) -> u64 {
    let at = |behind_us: i64| {
        ring.number_at(ring.times.newest_us.saturating_sub(behind_us), spec.stride)
    };
    let kept = at(spec.retention_us);
    match spec.rows_before {
        None => kept,
        Some(before) => (kept.min(at(spec.lateness_us).saturating_sub(before))).max(ring.first()),
    }
}

/// Where a row stands among those of its key.
#[derive(Debug, Clone, Copy)]
struct Place {
    time_us: i64,
    /// Its number, if it is kept.
    number: Option<u64>,
    late: bool,
}

/// Computes all results of the row at `place`.
fn emit(
    ring: &mut Ring,
    spec: &WindowSpec,
    texts: &[KeyIndex],
    place: Place,
    outputs: &mut [Output],
    frame_rows: FrameRows<'_>,
) -> Result<(), StateError> {
    let back = place.time_us < ring.seen_us;
    let mut all_moved = true;
    for frame in &spec.frames {
        let empty = !seek(ring, spec, frame, place, back);
        all_moved &= !empty;
        for &at in &frame.outputs {
            let (plan, output) = (&spec.aggregates[at], &mut outputs[at]);
            if plan.function == Function::Rows {
                let columns = match empty {
                    true => (plan.columns.iter())
                        .map(|column| new_empty_array(&spec.columns[*column].data_type))
                        .collect(),
                    false => rows_of(plan, frame, ring, spec, texts)?,
                };
                frame_rows(at, &columns)?;
            } else if empty {
                output.push_empty(plan);
            } else {
                output.push_frame(plan, frame, ring, spec);
            }
        }
    }
    if all_moved || !back {
        ring.seen_us = place.time_us;
    }
    Ok(())
}

/// Moves a frame to the rows that a row at `place` sees; false if it sees none whatever is kept.
#[inline]
fn seek(ring: &mut Ring, spec: &WindowSpec, frame: &FramePlan, place: Place, back: bool) -> bool {
    let in_time_us = ring.times.newest_us.saturating_sub(spec.lateness_us);
    match frame.frame {
        Frame::Range {
            preceding_us,
            until_us,
        } => {
            let end_us = place.time_us.saturating_sub(until_us);
            let start_us = match preceding_us {
                None if place.late => return false,
                None => i64::MIN,
                Some(preceding_us) => (place.time_us.saturating_sub(preceding_us))
                    .max(in_time_us.saturating_sub(preceding_us)),
            };
            if start_us > end_us {
                return false;
            }
            cursor::seek_times(ring, frame, spec.stride, (start_us, end_us), back);
        }
        Frame::Rows { preceding, until } => {
            let Some(number) = place.number else {
                return false;
            };
            let least = match (preceding, place.late) {
                (None, true) => return false,
                (None, false) => 0,
                (Some(_), false) => ring.first(),
                (Some(preceding), true) => {
                    let in_time = ring.number_at(in_time_us, spec.stride);
                    in_time.saturating_sub(preceding)
                }
            };
            let from = preceding.map_or(0, |preceding| number.saturating_sub(preceding));
            let from = from.max(least).max(ring.first());
            let Some(to) = (number + 1).checked_sub(until).filter(|to| *to > from) else {
                return false;
            };
            cursor::seek_rows(ring, frame, spec.stride, from, to);
        }
    }
    true
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
        state.compute(&rows, &mut |_, _| Ok(())).unwrap()
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
}
