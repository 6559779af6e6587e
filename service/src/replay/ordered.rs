//! Input in a recorded order: each batch as an order record tells it, on its rung and in its lane.
//!
//! A record's rows come out together, or in pieces where they are more than a batch may hold; that
//! changes no decision. Sequences are counted here and held against the records', so that a log with
//! a hole is refused where the hole is.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use sanderling_ingest::{IngestError, OrderedFiles, Position, RunsReader};
use sanderling_schemas::{
    DeadLetter, EventBatch, EventTime, Offset, OffsetRange, OrderRecord, Relation, Run, Rung,
    Sequence,
};

use super::input_failure;
use super::source::{Rows, Step};
use crate::failure::Failure;
use crate::order_file::{OrderFile, Records};

/// An order log and the rows that it names.
pub struct OrderedSource {
    log: OrderFile,
    records: Records,
    rows: NamedRows,
    /// Next sequence of each lane.
    lanes: BTreeMap<Option<i32>, u64>,
    /// Stream of the labels that are made from a file's column, and so not in the log.
    made: Option<i8>,
    /// Rows from a moment on are left out, so that sequences are not those of the log.
    cut: bool,
    pieces: VecDeque<Piece>,
    ready: VecDeque<Rows>,
    rejected: VecDeque<DeadLetter>,
    rejected_to_skip: u64,
    accepted_yielded: u64,
    rejected_yielded: u64,
    ended: bool,
}

/// The rows that an order names, wherever they are kept.
pub enum NamedRows {
    /// In files.
    Files(Box<OrderedFiles>),
    /// In the topics that they were read from; rows from a moment on are left out.
    Topics(Box<RunsReader>, Option<EventTime>),
}

/// Some runs of a record.
struct Piece {
    lane: Option<i32>,
    rung: Rung,
    champion: Arc<str>,
    backlog: bool,
    /// Where the record says that it begins; of its first piece.
    sequence: Option<u64>,
    /// Versions of the tables that it was made with.
    tables: Arc<BTreeMap<String, String>>,
    runs: Vec<Run>,
}

impl OrderedSource {
    /// The rows in the order of `log`. `labels_are_made`: from a column of the files. `cut`: rows from a
    /// moment on are left out.
    pub fn new(
        log: OrderFile,
        rows: NamedRows,
        relation: &Relation,
        labels_are_made: bool,
        cut: bool,
    ) -> Result<Self, Failure> {
        let labels = relation.labels.as_ref().filter(|_| labels_are_made);
        Ok(Self {
            records: log.records()?,
            log,
            rows,
            lanes: BTreeMap::new(),
            made: labels.map(|labels| labels.stream as i8),
            cut,
            pieces: VecDeque::new(),
            ready: VecDeque::new(),
            rejected: VecDeque::new(),
            rejected_to_skip: 0,
            accepted_yielded: 0,
            rejected_yielded: 0,
            ended: false,
        })
    }

    /// The next rows, at most `rows_max` and the labels made before them.
    pub fn next(&mut self, rows_max: usize) -> Result<Step, Failure> {
        if self.ready.is_empty() {
            self.ready = self.read(rows_max)?;
        }
        if !self.rejected.is_empty() {
            self.rejected_yielded += self.rejected.len() as u64;
            return Ok(Step::Rejected(self.rejected.drain(..).collect()));
        }
        match self.ready.pop_front() {
            None => Ok(Step::End),
            Some(rows) => {
                self.accepted_yielded += rows.events.len() as u64;
                Ok(Step::Batch(rows))
            }
        }
    }

    /// Where it stands after all that it has yielded.
    pub fn position(&self) -> Position {
        Position::Files {
            accepted: self.accepted_yielded,
            rejected: self.rejected_yielded,
        }
    }

    /// Goes on from `position` of an earlier source over the same log and files, by reading again what
    /// led there.
    pub fn resume(&mut self, position: &Position, rows_max: usize) -> Result<(), Failure> {
        let Position::Files { accepted, rejected } = *position else {
            return Err(input_failure(IngestError::ForeignPosition {
                found: "topics",
                wanted: "files",
            }));
        };
        self.rejected_to_skip = rejected;
        while self.accepted_yielded < accepted {
            if self.ready.is_empty() {
                self.ready = self.read(rows_max)?;
            }
            let Some(mut rows) = self.ready.pop_front() else {
                return Err(input_failure(IngestError::ResumePastEnd {
                    wanted: accepted,
                    found: self.accepted_yielded,
                }));
            };
            let wanted = accepted - self.accepted_yielded;
            let read = rows.events.len() as u64;
            self.accepted_yielded += wanted.min(read);
            if read > wanted {
                rows.events = rows.events.slice(wanted as usize, (read - wanted) as usize);
                self.ready.push_front(rows);
            }
        }
        self.rejected_yielded = rejected;
        Ok(())
    }

    /// Rows of the files that the log does not name.
    pub fn rows_left_out(&self) -> u64 {
        match &self.rows {
            NamedRows::Files(files) => files.rows_left_out(),
            NamedRows::Topics(..) => 0,
        }
    }

    /// The next rows there are; none at the end.
    fn read(&mut self, rows_max: usize) -> Result<VecDeque<Rows>, Failure> {
        loop {
            let Some(piece) = self.pieces.pop_front() else {
                match self.records.next().transpose()? {
                    Some(record) => self.pieces = pieces(record, rows_max),
                    None if self.ended => return Ok(VecDeque::new()),
                    None => {
                        self.ended = true;
                        if let NamedRows::Files(files) = &mut self.rows {
                            files.finish().map_err(input_failure)?;
                            let rejected = files.take_rejected();
                            self.collect_rejected(rejected);
                        }
                        return Ok(VecDeque::new());
                    }
                }
                continue;
            };
            let (batches, rejected) = match &mut self.rows {
                NamedRows::Files(files) => files
                    .read(piece.lane, &piece.runs)
                    .map(|events| (Vec::from_iter(events), files.take_rejected())),
                NamedRows::Topics(reader, to) => reader
                    .read(&piece.runs)
                    .map(|(events, rejected)| (before(events, *to), rejected)),
            }
            .map_err(|e| of_order(input_failure(e), &self.log))?;
            self.collect_rejected(rejected);
            let Some(first) = batches.first() else {
                continue;
            };
            let mut next = self.follow(&piece, first)?;
            let mut ready = VecDeque::with_capacity(batches.len());
            for mut events in batches {
                events.sequence = Sequence(next);
                next += events.len() as u64;
                ready.push_back(Rows {
                    lane: piece.lane,
                    events,
                    rung: piece.rung,
                    champion: Some(piece.champion.clone()),
                    backlog: piece.backlog,
                    tables: Some(piece.tables.clone()),
                });
            }
            self.lanes.insert(piece.lane, next);
            return Ok(ready);
        }
    }

    /// The sequence at which a piece begins, which must be where its record says. A record may say so
    /// past the labels that were made before its first row: these belong to the one before then.
    fn follow(&self, piece: &Piece, events: &EventBatch) -> Result<u64, Failure> {
        let Some(recorded) = piece.sequence else {
            return Ok(self.lanes.get(&piece.lane).copied().unwrap_or(0));
        };
        let labels = (events.streams().iter())
            .take_while(|stream| Some(**stream) == self.made)
            .count() as u64;
        let Some(&next) = self.lanes.get(&piece.lane) else {
            if recorded > labels && !self.cut {
                tracing::warn!(
                    order = %self.log.path().display(), lane = ?piece.lane, sequence = recorded,
                    "the order log does not begin at sequence 0: what came before is not known here"
                );
            }
            return Ok(recorded.saturating_sub(labels));
        };
        if self.cut || (next..=next + labels).contains(&recorded) {
            return Ok(next);
        }
        let lane = match piece.lane {
            None => String::new(),
            Some(lane) => format!(" of lane {lane}"),
        };
        Err(Failure::new(
            "order",
            format!(
                "the record of sequence {recorded}{lane} stands where sequence {next} comes next"
            ),
        )
        .in_file(self.log.path())
        .cure(
            "give the whole log in its order, the files that its run read, and its delay of labels",
        ))
    }

    fn collect_rejected(&mut self, rejected: Vec<DeadLetter>) {
        self.rejected.extend(rejected);
        let skipped = self.rejected_to_skip.min(self.rejected.len() as u64);
        self.rejected.drain(..skipped as usize);
        self.rejected_to_skip -= skipped;
    }
}

/// The rows before a moment, in as few batches as there are stretches of them.
pub fn before(events: Option<EventBatch>, to: Option<EventTime>) -> Vec<EventBatch> {
    let (Some(events), Some(to)) = (&events, to) else {
        return Vec::from_iter(events);
    };
    let (times, mut batches, mut from) = (events.event_times_us(), Vec::new(), 0);
    for stretch in times.chunk_by(|a, b| (*a < to.0) == (*b < to.0)) {
        if stretch[0] < to.0 {
            batches.push(events.slice(from, stretch.len()));
        }
        from += stretch.len();
    }
    batches
}

/// A fault of an input without a file of its own is one of the log that asked for it.
pub fn of_order(failure: Failure, log: &OrderFile) -> Failure {
    match failure.file {
        Some(_) => failure,
        None => failure.in_file(log.path()),
    }
}

/// A record's runs in pieces of at most `rows_max` rows.
fn pieces(record: OrderRecord, rows_max: usize) -> VecDeque<Piece> {
    let mut pieces = VecDeque::new();
    let tables = Arc::new(record.versions.tables);
    let mut piece = |runs, first: bool| {
        pieces.push_back(Piece {
            lane: record.lane,
            rung: record.rung,
            champion: record.versions.model.clone(),
            backlog: record.backlog,
            sequence: first.then_some(record.sequence.0),
            tables: tables.clone(),
            runs,
        });
    };
    let rows_max = rows_max.max(1) as i64;
    let (mut runs, mut room, mut first): (Vec<Run>, i64, bool) = (Vec::new(), rows_max, true);
    for run in record.runs {
        let mut from = run.range.from.0;
        while from < run.range.next.0 {
            if room == 0 {
                piece(std::mem::take(&mut runs), first);
                (room, first) = (rows_max, false);
            }
            let next = run.range.next.0.min(from + room);
            room -= next - from;
            runs.push(Run {
                range: OffsetRange {
                    from: Offset(from),
                    next: Offset(next),
                },
                ..run.clone()
            });
            from = next;
        }
    }
    if !runs.is_empty() {
        piece(runs, first);
    }
    pieces
}
