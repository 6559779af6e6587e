//! Recorded files, read again in a recorded order.
//!
//! Rows are found by their event ids. Files are decoded from front to back, a chunk at a time, and a
//! chunk is held until the order has taken all that it wants of it. So what is held is what stands
//! between a row's place in the files and its place in the order: next to nothing where the two are
//! nearly the same, and all wanted rows, decoded, where they have nothing to do with each other. Rows
//! that the order does not name are dropped as they are read. Refused records come out as they are met.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::TimestampMicrosecondType;
use sanderling_schemas::{DeadLetter, EventBatch, EventId, Offset, Partition, Relation, Run};

use crate::IngestError;
use crate::file::{FileOptions, Input, open_inputs};
use crate::labels::{LabelRows, PendingLabels};
use crate::merged::Merged;
use crate::recorded::{RecordedFile, Rows};
use crate::stream::StreamSpec;

/// All rows that an order names, as the fewest ranges.
#[derive(Debug, Default)]
pub struct Wanted {
    /// Number of each partition.
    partitions: HashMap<(Arc<str>, Partition), u32>,
    /// Ranges `[from, next)` of each partition, by number.
    ranges: Vec<Vec<(i64, i64)>>,
}

impl Wanted {
    /// Adds the runs of a record.
    pub fn add(&mut self, runs: &[Run]) {
        for run in runs {
            let key = (run.topic.clone(), run.partition);
            let number = *self.partitions.entry(key).or_insert_with(|| {
                self.ranges.push(Vec::new());
                self.ranges.len() as u32 - 1
            });
            let (from, next) = (run.range.from.0, run.range.next.0);
            let ranges = &mut self.ranges[number as usize];
            match ranges.last_mut() {
                Some(last) if last.1 == from => last.1 = next,
                _ => ranges.push((from, next)),
            }
        }
    }

    /// Sorts and joins the ranges; fails if a row is in two of them.
    fn settle(&mut self) -> Result<(), IngestError> {
        for (key, number) in &self.partitions {
            let ranges = &mut self.ranges[*number as usize];
            ranges.retain(|(from, next)| from < next);
            ranges.sort_unstable();
            let mut joined: Vec<(i64, i64)> = Vec::with_capacity(ranges.len());
            for &(from, next) in ranges.iter() {
                match joined.last_mut() {
                    Some(last) if from < last.1 => return Err(twice(key, from, "order")),
                    Some(last) if from == last.1 => last.1 = next,
                    _ => joined.push((from, next)),
                }
            }
            *ranges = joined;
        }
        Ok(())
    }

    /// The number of a row's partition, if the order names the row.
    fn number(&self, id: &EventId) -> Option<u32> {
        let number = *self.partitions.get(&(id.topic.clone(), id.partition))?;
        let ranges = &self.ranges[number as usize];
        let behind = ranges.partition_point(|(from, _)| *from <= id.offset.0);
        (behind > 0 && id.offset.0 < ranges[behind - 1].1).then_some(number)
    }
}

/// Where a wanted row is.
#[derive(Debug, Clone, Copy)]
enum Place {
    Row {
        chunk: u32,
        row: u32,
    },
    /// The record was refused, or its row is left out.
    Nowhere,
}

/// A chunk of which rows are wanted.
struct Held {
    rows: Rows,
    input: usize,
    /// Wanted rows that have not been taken.
    left: usize,
}

/// The labels made from a column, in one lane.
#[derive(Default)]
struct LaneLabels {
    pending: PendingLabels,
    rows: u64,
}

/// Recorded files, read in the order of a record's runs.
pub struct OrderedFiles {
    relation: Arc<Relation>,
    files: Vec<RecordedFile>,
    labels: Option<LabelRows>,
    to: Option<i64>,
    wanted: Wanted,
    places: HashMap<(u32, i64), Place>,
    /// The files that rows of a partition came from, by the partition's number.
    found_in: Vec<Vec<usize>>,
    chunks: Vec<Option<Held>>,
    free: Vec<u32>,
    lanes: BTreeMap<Option<i32>, LaneLabels>,
    rejected: VecDeque<DeadLetter>,
    rows_left_out: u64,
    /// File that is asked next for a row of which nothing is known.
    turn: usize,
}

impl OrderedFiles {
    /// Opens `inputs`, of which the rows `wanted` will be asked for.
    ///
    /// # Errors
    /// Those of [`FileSource::open`](crate::FileSource::open); [`IngestError::Twice`] if two records
    /// name one row.
    pub fn open(
        relation: Arc<Relation>,
        streams: &[StreamSpec],
        inputs: &[Input],
        options: FileOptions,
        mut wanted: Wanted,
    ) -> Result<Self, IngestError> {
        wanted.settle()?;
        let (files, labels) = open_inputs(&relation, streams, inputs, options.labels.as_ref())?;
        Ok(Self {
            relation,
            files,
            labels,
            to: options.to,
            found_in: vec![Vec::new(); wanted.ranges.len()],
            wanted,
            places: HashMap::new(),
            chunks: Vec::new(),
            free: Vec::new(),
            lanes: BTreeMap::new(),
            rejected: VecDeque::new(),
            rows_left_out: 0,
            turn: 0,
        })
    }

    /// The rows of `runs`, in this order, as rows of a lane, each with the labels that become known
    /// before it; `None` if all of them are left out. The batch's sequence is 0.
    ///
    /// # Errors
    /// [`IngestError::NotInInput`] if a row is not there, and what reading files may give.
    pub fn read(
        &mut self,
        lane: Option<i32>,
        runs: &[Run],
    ) -> Result<Option<EventBatch>, IngestError> {
        let mut taken: Vec<(u32, u32, EventId)> = Vec::new();
        for run in runs {
            let key = (run.topic.clone(), run.partition);
            let number = self.wanted.partitions.get(&key).copied();
            for offset in run.range.from.0..run.range.next.0 {
                let place = match number {
                    Some(number) => self.find(number, offset, run)?,
                    None => return Err(not_in_input(run, offset)),
                };
                if let Place::Row { chunk, row } = place {
                    let id = EventId {
                        topic: run.topic.clone(),
                        partition: run.partition,
                        offset: Offset(offset),
                    };
                    taken.push((chunk, row, id));
                }
            }
        }
        let mut merged = Merged::new(self.chunks.len());
        let lane = self.lanes.entry(lane).or_default();
        for (chunk, row, id) in taken {
            let place = &mut self.chunks[chunk as usize];
            let held = place
                .as_mut()
                .expect("it is held while rows of it are wanted");
            let (rows, row) = (&held.rows, row as usize);
            let times = rows
                .rows
                .column(0)
                .as_primitive::<TimestampMicrosecondType>();
            let at = times.value(row);
            let broker_time = (rows.broker_times.as_ref())
                .and_then(|times| times.is_valid(row).then(|| times.value(row)));
            while let Some(label) = lane.pending.pop_known(at) {
                let id = self.files[label.input].next_label_id();
                merged.take_label(label, id, at, broker_time);
            }
            merged.take(chunk as usize, &rows.rows, row, id, at, broker_time);
            let value = (rows.labels.as_ref())
                .and_then(|labels| labels.is_valid(row).then(|| labels.value(row)));
            if let (Some(labels), Some(value)) = (&self.labels, value) {
                let label = labels.label(&rows.rows, row, value, lane.rows, held.input);
                lane.pending.push(label);
            }
            lane.rows += 1;
            held.left -= 1;
            if held.left == 0 {
                *place = None;
                self.free.push(chunk);
            }
        }
        match merged.len() {
            0 => Ok(None),
            _ => merged
                .finish(&self.relation, self.labels.as_ref())
                .map(Some),
        }
    }

    /// Reads what is left of the files, for the records refused there.
    pub fn finish(&mut self) -> Result<(), IngestError> {
        while let Some(file) = self.files.iter().position(|file| !file.ended()) {
            self.load(file)?;
        }
        Ok(())
    }

    /// Records refused since the last call.
    pub fn take_rejected(&mut self) -> Vec<DeadLetter> {
        self.rejected.drain(..).collect()
    }

    /// Rows read so far that the order does not name.
    pub fn rows_left_out(&self) -> u64 {
        self.rows_left_out
    }

    /// Finds a wanted row and gives it away.
    fn find(&mut self, number: u32, offset: i64, run: &Run) -> Result<Place, IngestError> {
        loop {
            if let Some(place) = self.places.remove(&(number, offset)) {
                return Ok(place);
            }
            let files = &self.files;
            let known =
                (self.found_in[number as usize].iter().copied()).find(|file| !files[*file].ended());
            let next = known.or_else(|| {
                let turns = (0..files.len()).map(|turn| (self.turn + turn) % files.len());
                turns.into_iter().find(|file| !files[*file].ended())
            });
            let Some(next) = next else {
                return Err(not_in_input(run, offset));
            };
            self.turn = next + 1;
            self.load(next)?;
        }
    }

    /// Decodes the next chunk of a file.
    fn load(&mut self, input: usize) -> Result<(), IngestError> {
        let file = &mut self.files[input];
        let refused_before = self.rejected.len();
        file.load(None, self.to, &mut self.rejected)?;
        let mut rows = file.take_chunk(&mut self.rejected);
        let refused = self.rejected.iter().skip(refused_before);
        for id in refused.map(|letter| &letter.event).chain(&rows.left_out) {
            if let Some(number) = self.wanted.number(id) {
                self.places.insert((number, id.offset.0), Place::Nowhere);
            }
        }
        let chunk = match self.free.pop() {
            Some(chunk) => chunk,
            None => {
                self.chunks.push(None);
                self.chunks.len() as u32 - 1
            }
        };
        let times = rows
            .rows
            .column(0)
            .as_primitive::<TimestampMicrosecondType>();
        let mut left = 0;
        for (row, (id, at)) in rows.ids.iter().zip(times.values()).enumerate() {
            let Some(number) = self.wanted.number(id) else {
                self.rows_left_out += 1;
                continue;
            };
            let place = match self.to.is_some_and(|to| *at >= to) {
                true => Place::Nowhere,
                false => Place::Row {
                    chunk,
                    row: row as u32,
                },
            };
            left += usize::from(matches!(place, Place::Row { .. }));
            if self.places.insert((number, id.offset.0), place).is_some() {
                return Err(twice(
                    &(id.topic.clone(), id.partition),
                    id.offset.0,
                    "input",
                ));
            }
            let found_in = &mut self.found_in[number as usize];
            if !found_in.contains(&input) {
                found_in.push(input);
            }
        }
        rows.ids = Vec::new();
        match left {
            0 => self.free.push(chunk),
            _ => self.chunks[chunk as usize] = Some(Held { rows, input, left }),
        }
        Ok(())
    }
}

fn not_in_input(run: &Run, offset: i64) -> IngestError {
    IngestError::NotInInput {
        topic: run.topic.to_string(),
        partition: run.partition.0,
        from: run.range.from.0,
        next: run.range.next.0,
        offset,
    }
}

fn twice(key: &(Arc<str>, Partition), offset: i64, place: &'static str) -> IngestError {
    IngestError::Twice {
        topic: key.0.to_string(),
        partition: key.1.0,
        offset,
        place,
    }
}
