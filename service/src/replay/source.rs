//! Where a replay's rows come from: files in their own order, or files in a recorded one.

use std::time::Duration;

use sanderling_ingest::{
    EventSource, FileOptions, FileSource, LabelFileSpec, OrderedFiles, Position, SourceEvent,
};
use sanderling_schemas::{DeadLetter, EventBatch, Rung};

use super::ordered::{OrderedSource, of_order};
use super::{ReplayOptions, input_failure, open_files};
use crate::failure::Failure;
use crate::folder::PipelineFolder;
use crate::order_file::OrderFile;

/// What comes next.
pub enum Step {
    /// Rows of one lane.
    Batch(Rows),
    /// Records that were refused.
    Rejected(Vec<DeadLetter>),
    /// There is no more.
    End,
}

/// Rows, and how they are to be scored.
pub struct Rows {
    /// The lane that takes them.
    pub lane: Option<i32>,
    /// The rows.
    pub events: EventBatch,
    /// The rung they are scored on.
    pub rung: Rung,
    /// They were past their deadline when they arrived.
    pub backlog: bool,
}

/// The input of a replay.
pub enum Source {
    /// Input order, on the full rung.
    Files(Box<FileSource>),
    /// The order of a log, on its rungs.
    Ordered(Box<OrderedSource>),
}

impl Source {
    /// Opens what `options` name; also the lanes that there are, and the number of rows where that is
    /// known. `labels_are_made`: from a column of the files.
    pub fn open(
        folder: &PipelineFolder,
        options: &ReplayOptions,
        labels_are_made: bool,
    ) -> Result<(Self, Vec<Option<i32>>, Option<u64>), Failure> {
        let Some(order) = &options.order else {
            let files = open_files(folder, &options.inputs, options.to, None)?;
            let rows = files.rows_total();
            return Ok((Self::Files(Box::new(files)), vec![None], rows));
        };
        let log = OrderFile::new(order)?;
        let named = log.named()?;
        let labels: Option<LabelFileSpec> = folder.label_file.clone();
        let files = OrderedFiles::open(
            folder.relation.clone(),
            &folder.streams,
            &options.inputs,
            FileOptions {
                to: options.to.map(|to| to.0),
                labels,
                first_sequence: 0,
            },
            named.wanted,
        )
        .map_err(|e| of_order(input_failure(e), &log))?;
        let relation = &folder.relation;
        let cut = options.to.is_some();
        let source = OrderedSource::new(log, files, relation, labels_are_made, cut)?;
        let lanes = named.lanes.into_iter().collect();
        Ok((Self::Ordered(Box::new(source)), lanes, Some(named.rows)))
    }

    /// The next rows, about `rows_max` at most.
    pub fn next(&mut self, rows_max: usize) -> Result<Step, Failure> {
        let files = match self {
            Self::Files(files) => files,
            Self::Ordered(ordered) => return ordered.next(rows_max),
        };
        loop {
            let event = files.next(rows_max, Duration::ZERO);
            return Ok(match event.map_err(input_failure)? {
                SourceEvent::Batch(events) => Step::Batch(Rows {
                    lane: None,
                    events,
                    rung: Rung::Full,
                    backlog: false,
                }),
                SourceEvent::Rejected(letters) => Step::Rejected(letters),
                SourceEvent::End => Step::End,
                SourceEvent::Idle | SourceEvent::Assigned(_) | SourceEvent::Revoked(_) => continue,
            });
        }
    }

    /// Where it stands after all that it has yielded.
    pub fn position(&self) -> Position {
        match self {
            Self::Files(files) => files.position(),
            Self::Ordered(ordered) => ordered.position(),
        }
    }

    /// Goes on from a position of an earlier source over the same input.
    pub fn resume(&mut self, position: &Position, rows_max: usize) -> Result<(), Failure> {
        match self {
            Self::Files(files) => files.resume(position).map_err(input_failure),
            Self::Ordered(ordered) => ordered.resume(position, rows_max),
        }
    }

    /// Says what it did not read.
    pub fn finish(&self) {
        if let Self::Ordered(ordered) = self
            && ordered.rows_left_out() > 0
        {
            tracing::warn!(
                rows = ordered.rows_left_out(),
                "the order log does not name these rows of the input; they were left out"
            );
        }
    }
}
