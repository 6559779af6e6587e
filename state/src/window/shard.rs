//! The rings of some keys, and a batch's rows as they go through them.
//!
//! Keys share nothing, so the rows of a batch can be taken on several threads: each has the rings of
//! consecutive pages, and all rows of their keys in their order. What a row's results are, and what is kept of it, does
//! not depend on where the pages are cut. The cuts are chosen by the batch's own rows, so that a stream whose
//! oldest keys are its busiest keeps all threads busy.

use std::collections::HashMap;
use std::ops::Range;

use arrow::array::new_empty_array;

use super::column::Values;
use super::cursor;
use super::output::{Output, rows_of};
use super::plan::FramePlan;
use super::ring::{KeyTimes, Ring, Step};
use super::spec::{Frame, Function, WindowSpec};
use super::state::{FrameRows, WindowRows, ring_of};
use crate::paged::PagedPart;
use crate::{KeyIndex, Paged, StateError};

/// Rows for which a piece of memory is asked for together. Where an address is not yet translated, asking waits
/// for that; of several that follow each other closely, all are translated at once.
const GROUP_ROWS: usize = 32;
/// How many groups ahead the first line of each piece is asked for, a step at a time.
const GROUPS_AHEAD: [(usize, Step); 3] = [(3, Step::Page), (2, Step::Ring), (1, Step::Words)];
/// How many rows ahead the other lines are asked for. Their addresses are translated, and a processor has few
/// requests for lines under way at once: a group's would be waited for, those of a row come while another row is
/// computed.
const ROWS_AHEAD: [(usize, Step); 2] = [(6, Step::Cursors), (3, Step::Rows)];
/// Rows of a batch by which it is judged where to cut.
const LOOKED_AT_ROWS: usize = 256;

/// Where a batch is cut.
pub(super) struct Cuts {
    /// First page of each part but the first.
    pages: Vec<usize>,
    /// For each part, the rows that enter.
    pub rows: Vec<Vec<u32>>,
    /// For each row that emits, in which part, and which of that part's it is. Empty where there is one part.
    places: Vec<(u32, u32)>,
}

impl Cuts {
    /// Cuts a batch into so many parts, some of which may have no rows.
    pub(super) fn of(rows: &WindowRows<'_>, parts: usize) -> Self {
        let entering = (0u32..).zip(rows.enters).filter(|(_, enters)| **enters);
        let entering: Vec<u32> = entering.map(|(row, _)| row).collect();
        let page = |row: u32| ring_of(rows.slots[row as usize]) / Paged::<Ring>::PAGE_VALUES;
        if parts == 1 {
            return Cuts {
                pages: Vec::new(),
                rows: vec![entering],
                places: Vec::new(),
            };
        }
        let step = (entering.len() / LOOKED_AT_ROWS).max(1);
        let mut pages: Vec<usize> = entering
            .iter()
            .step_by(step)
            .map(|row| page(*row))
            .collect();
        pages.sort_unstable();
        let cut = |part: usize| {
            let at = pages.len() * part / parts;
            let middle = *pages.get(at)?;
            let before = pages.partition_point(|page| *page < middle);
            let upto = pages.partition_point(|page| *page <= middle);
            // A page is in one part, so the cut is at its nearer end.
            Some(if at - before <= upto - at {
                middle
            } else {
                middle + 1
            })
        };
        let pages: Vec<usize> = (1..parts).filter_map(cut).collect();
        let mut cuts = Cuts {
            rows: vec![Vec::with_capacity(entering.len() / parts * 2); pages.len() + 1],
            pages,
            places: Vec::new(),
        };
        let mut emitted = vec![0u32; cuts.rows.len()];
        for row in entering {
            let page = page(row);
            let part = cuts.pages.iter().filter(|cut| **cut <= page).count();
            cuts.rows[part].push(row);
            if rows.emits[row as usize] {
                cuts.places.push((part as u32, emitted[part]));
                emitted[part] += 1;
            }
        }
        cuts
    }

    /// Number of rows that enter.
    pub(super) fn len(&self) -> usize {
        self.rows.iter().map(Vec::len).sum()
    }

    /// The rings of each part.
    pub(super) fn rings<'a>(&self, rings: &'a mut Paged<Ring>) -> Vec<PagedPart<'a, Ring>> {
        rings.parts(&self.pages)
    }

    /// What the parts have for the rows that emit, in the order of those.
    pub(super) fn joined<T: Copy>(&self, mut parts: Vec<Vec<T>>) -> Vec<T> {
        match parts.len() {
            1 => parts.swap_remove(0),
            _ => (self.places.iter())
                .map(|(part, at)| parts[*part as usize][*at as usize])
                .collect(),
        }
    }
}

/// The rings of some keys.
pub(super) struct Shard<'a> {
    spec: &'a WindowSpec,
    rings: PagedPart<'a, Ring>,
    texts: &'a [KeyIndex],
    lost: LostTimes<'a>,
}

/// What came of a shard's rows; one entry for each that emits.
pub(super) struct Taken {
    pub outputs: Vec<Output>,
    pub late: Vec<bool>,
    pub capped: Vec<bool>,
    /// What has become of the keys' lost rows: see [`LostTimes`].
    pub lost_us: HashMap<usize, Option<i64>>,
}

/// Newest event time among the rows that a key has given up to the cap, by ring: as it was before the batch, and what
/// has changed since.
struct LostTimes<'a> {
    before: &'a HashMap<usize, i64>,
    since: HashMap<usize, Option<i64>>,
}

impl LostTimes<'_> {
    fn get(&self, ring: usize) -> Option<i64> {
        match self.since.get(&ring) {
            Some(lost_us) => *lost_us,
            None => self.before.get(&ring).copied(),
        }
    }

    fn add(&mut self, ring: usize, lost_us: i64) {
        let newest = self.get(ring).map_or(lost_us, |newest| newest.max(lost_us));
        self.since.insert(ring, Some(newest));
    }

    fn forget(&mut self, ring: usize) {
        if self.get(ring).is_some() {
            self.since.insert(ring, None);
        }
    }
}

impl<'a> Shard<'a> {
    pub(super) fn new(
        spec: &'a WindowSpec,
        rings: PagedPart<'a, Ring>,
        texts: &'a [KeyIndex],
        lost_us: &'a HashMap<usize, i64>,
    ) -> Self {
        let lost = LostTimes {
            before: lost_us,
            since: HashMap::new(),
        };
        Shard {
            spec,
            rings,
            texts,
            lost,
        }
    }

    /// Takes the rows `picks` of a batch in order, all of them of this shard's keys, and computes each
    /// emitting row's results at its turn.
    pub(super) fn take(
        mut self,
        rows: &WindowRows<'_>,
        picks: &[u32],
        values: &[Values],
        frame_rows: FrameRows<'_>,
    ) -> Result<Taken, StateError> {
        let spec = self.spec;
        let mut taken = Taken {
            outputs: (spec.aggregates.iter())
                .map(|plan| Output::new(&plan.output, picks.len()))
                .collect(),
            late: Vec::with_capacity(picks.len()),
            capped: Vec::with_capacity(picks.len()),
            lost_us: HashMap::new(),
        };
        // No row before the first ones asks for their memory.
        for (ahead, step) in GROUPS_AHEAD {
            self.prefetch_all(rows, picks, 0..ahead * GROUP_ROWS, step);
        }
        for (ahead, step) in ROWS_AHEAD {
            self.prefetch_all(rows, picks, 0..ahead, step);
        }
        let mut row = vec![0u64; spec.stride];
        for (place, &pick) in picks.iter().enumerate() {
            if place.is_multiple_of(GROUP_ROWS) {
                for (ahead, step) in GROUPS_AHEAD {
                    let from = place + ahead * GROUP_ROWS;
                    self.prefetch_all(rows, picks, from..from + GROUP_ROWS, step);
                }
            }
            for (ahead, step) in ROWS_AHEAD {
                let from = place + ahead;
                self.prefetch_all(rows, picks, from..from + 1, step);
            }
            let at = pick as usize;
            row.fill(0);
            row[0] = rows.times_us[at] as u64;
            for column in values {
                column.put(at, &mut row);
            }
            let ring_at = ring_of(rows.slots[at]);
            let ring = self.rings.get_mut(ring_at);
            let arrival = Arrival {
                row: &row,
                credible_us: rows.credible_us[at],
                clock_us: rows.clock_us[at],
            };
            let (late, number) = accept(ring, spec, &arrival, (&mut self.lost, ring_at));
            if !rows.emits[at] {
                continue;
            }
            let place = Place {
                row: at,
                time_us: rows.times_us[at],
                number,
                late,
            };
            taken.late.push(late);
            let lost_us = self.lost.get(ring_at);
            taken
                .capped
                .push(lost_us.is_some_and(|lost_us| misses(ring, spec, place, lost_us)));
            emit(
                ring,
                spec,
                self.texts,
                place,
                &mut taken.outputs,
                frame_rows,
            )?;
        }
        taken.lost_us = self.lost.since;
        Ok(taken)
    }

    /// Asks for memory that the rows at some places of `picks` will want, as far as there are such.
    #[inline]
    fn prefetch_all(&self, rows: &WindowRows<'_>, picks: &[u32], places: Range<usize>, step: Step) {
        let WindowSpec { frames, stride, .. } = self.spec;
        for pick in picks.iter().take(places.end).skip(places.start) {
            let at = ring_of(rows.slots[*pick as usize]);
            match step {
                Step::Page => self.rings.prefetch_place(at),
                step => self.rings.get(at).prefetch(frames, *stride, step),
            }
        }
    }
}

/// A row that comes.
struct Arrival<'a> {
    row: &'a [u64],
    credible_us: i64,
    clock_us: i64,
}

/// Takes a row into its key's ring. Returns whether it is late, and where it stands, if it is kept. What the
/// key gives up to the cap is noted in `lost` under the ring's number.
fn accept(
    ring: &mut Ring,
    spec: &WindowSpec,
    arrival: &Arrival<'_>,
    (lost, at): (&mut LostTimes<'_>, usize),
) -> (bool, Option<u64>) {
    let &Arrival {
        row,
        credible_us,
        clock_us,
    } = arrival;
    let time_us = row[0] as i64;
    if spec.is_forgotten(ring.times().last_us, clock_us) {
        *ring = Ring::default();
        lost.forget(at);
    }
    if ring.is_new() {
        *ring = Ring::new(spec.cursor_words);
    }
    let before = ring.times();
    let late =
        before != KeyTimes::NEVER && time_us < before.newest_us.saturating_sub(spec.lateness_us);
    let times = before.with(time_us, credible_us);
    ring.set_times(times);
    // A row without any argument changes no result: it only moves the newest time.
    let reach_us = times.newest_us.saturating_sub(spec.retention_us);
    if !spec.all_rows && (row[1] == 0 || time_us < reach_us) {
        cursor::passed(ring, &spec.frames, row);
        return (late, None);
    }
    if let Some(rows_max) = spec.rows_max
        && let Some(given_up) = give_up(ring, spec, time_us, rows_max)
    {
        lost.add(at, given_up.newest_us);
        if given_up.is_the_row {
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
pub(super) fn forget(ring: &mut Ring, spec: &WindowSpec) {
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
    let in_time_us = ring.times().newest_us.saturating_sub(spec.lateness_us);
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
struct GivenUp {
    /// Newest event time among it.
    newest_us: i64,
    /// It is the row that comes.
    is_the_row: bool,
}

/// Makes room for a row at `time_us` where a key has `rows_max` that a frame can still reach: the oldest
/// gives way, which may be the row itself.
fn give_up(ring: &mut Ring, spec: &WindowSpec, time_us: i64, rows_max: u64) -> Option<GivenUp> {
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
        return Some(GivenUp {
            newest_us: time_us,
            is_the_row: true,
        });
    }
    let kept = first + rows + 1 - rows_max;
    let newest_us = ring.time_us(kept - 1, stride);
    cursor::leave(ring, &spec.frames, kept, stride);
    ring.drop_front(kept - first, stride);
    Some(GivenUp {
        newest_us,
        is_the_row: false,
    })
}

/// Number of the first row that a frame can still reach.
pub(super) fn reach(ring: &Ring, spec: &WindowSpec) -> u64 {
    let at = |behind_us: i64| {
        ring.number_at(
            ring.times().newest_us.saturating_sub(behind_us),
            spec.stride,
        )
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
    /// In the batch.
    row: usize,
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
    let back = place.time_us < ring.seen_us();
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
                frame_rows(at, place.row, &columns)?;
            } else if empty {
                output.push_empty(plan);
            } else {
                output.push_frame(plan, frame, ring, spec);
            }
        }
    }
    if all_moved || !back {
        ring.set_seen_us(place.time_us);
    }
    Ok(())
}

/// Moves a frame to the rows that a row at `place` sees; false if it sees none whatever is kept.
#[inline]
fn seek(ring: &mut Ring, spec: &WindowSpec, frame: &FramePlan, place: Place, back: bool) -> bool {
    let in_time_us = ring.times().newest_us.saturating_sub(spec.lateness_us);
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
