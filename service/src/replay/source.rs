//! Where a replay's rows come from: files or topics, in their own order or in a recorded one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sanderling_ingest::{
    EventSource, FileOptions, FileSource, Input, LabelFileSpec, OrderedFiles, Position, RunsReader,
    SourceEvent,
};
use sanderling_schemas::{DeadLetter, EventBatch, Rung};

use super::ordered::{NamedRows, OrderedSource, of_order};
use super::topics::TopicsSource;
use super::{ReplayOptions, input_failure, open_files};
use crate::failure::Failure;
use crate::folder::PipelineFolder;
use crate::order_file::OrderFile;

/// What a replay reads.
pub enum ReplayInput {
    /// Files, each of a stream.
    Files(Vec<Input>),
    /// The topics of the pipeline's streams.
    Kafka,
}

/// The order in which it is read.
pub enum ReplayOrder {
    /// That of a log in a file.
    File(PathBuf),
    /// That of the pipeline's order topic.
    Kafka,
}

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
    /// Hash of the model that decided, where an order log tells.
    pub champion: Option<Arc<str>>,
    /// They were past their deadline when they arrived.
    pub backlog: bool,
    /// Versions of the tables that a record names for them.
    pub tables: Option<Arc<BTreeMap<String, String>>>,
}

impl Rows {
    /// Rows in the order of the input, for the full model.
    pub fn of(events: EventBatch) -> Self {
        Self {
            lane: None,
            events,
            rung: Rung::Full,
            champion: None,
            backlog: false,
            tables: None,
        }
    }
}

/// The input of a replay.
pub enum Source {
    /// Input order, on the full rung.
    Files(Box<FileSource>),
    /// Topics from their beginning, merged by the broker's time, on the full rung.
    Topics(Box<TopicsSource>),
    /// The order of a log, on its rungs.
    Ordered(Box<OrderedSource>),
}

/// A source, and what is known of what it will bring.
pub struct Opened {
    /// The source.
    pub source: Source,
    /// Its lanes.
    pub lanes: BTreeSet<Option<i32>>,
    /// Number of its rows.
    pub rows: Option<u64>,
}

impl Source {
    /// Opens what `options` name. `labels_are_made`: from a column of the files.
    pub fn open(
        folder: &PipelineFolder,
        options: &ReplayOptions,
        labels_are_made: bool,
    ) -> Result<Opened, Failure> {
        let one_lane = |source, rows| Opened {
            source,
            lanes: BTreeSet::from([None]),
            rows,
        };
        let log = match &options.order {
            Some(ReplayOrder::File(path)) => OrderFile::new(path)?,
            Some(ReplayOrder::Kafka) => OrderFile::of_topic(folder, &options.out, options.resume)?,
            None => {
                return Ok(match &options.input {
                    ReplayInput::Files(inputs) => {
                        let files = open_files(folder, inputs, options.to, None)?;
                        let rows = files.rows_total();
                        one_lane(Self::Files(Box::new(files)), rows)
                    }
                    ReplayInput::Kafka => {
                        let topics = TopicsSource::open(folder, options.to)?;
                        one_lane(Self::Topics(Box::new(topics)), None)
                    }
                });
            }
        };
        let named = log.named()?;
        let rows = match &options.input {
            ReplayInput::Files(inputs) => {
                let labels: Option<LabelFileSpec> = folder.label_file.clone();
                let files = OrderedFiles::open(
                    folder.relation.clone(),
                    &folder.streams,
                    inputs,
                    FileOptions {
                        to: options.to.map(|to| to.0),
                        labels,
                        first_sequence: 0,
                    },
                    named.wanted,
                )
                .map_err(|e| of_order(input_failure(e), &log))?;
                NamedRows::Files(Box::new(files))
            }
            ReplayInput::Kafka => {
                let kafka = &folder.settings.kafka;
                let reader = RunsReader::new(
                    folder.relation.clone(),
                    &folder.streams,
                    &kafka.brokers,
                    &kafka.properties,
                )
                .map_err(input_failure)?;
                NamedRows::Topics(Box::new(reader.with_refused()), options.to)
            }
        };
        let cut = options.to.is_some();
        let source = OrderedSource::new(log, rows, &folder.relation, labels_are_made, cut)?;
        Ok(Opened {
            source: Self::Ordered(Box::new(source)),
            lanes: named.lanes,
            rows: Some(named.rows),
        })
    }

    /// The next rows, about `rows_max` at most.
    pub fn next(&mut self, rows_max: usize) -> Result<Step, Failure> {
        let files = match self {
            Self::Files(files) => files,
            Self::Topics(topics) => return topics.next(rows_max),
            Self::Ordered(ordered) => return ordered.next(rows_max),
        };
        loop {
            let event = files.next(rows_max, Duration::ZERO);
            return Ok(match event.map_err(input_failure)? {
                SourceEvent::Batch(events) => Step::Batch(Rows::of(events)),
                SourceEvent::Rejected(letters) => Step::Rejected(letters),
                SourceEvent::End => Step::End,
                SourceEvent::Idle | SourceEvent::Assigned(_) | SourceEvent::Revoked(_) => continue,
            });
        }
    }

    /// Whether it can go on from a position.
    pub fn can_resume(&self) -> bool {
        !matches!(self, Self::Topics(_))
    }

    /// Where it stands after all that it has yielded.
    pub fn position(&self) -> Position {
        match self {
            Self::Files(files) => files.position(),
            Self::Topics(topics) => topics.position(),
            Self::Ordered(ordered) => ordered.position(),
        }
    }

    /// Goes on from a position of an earlier source over the same input.
    pub fn resume(&mut self, position: &Position, rows_max: usize) -> Result<(), Failure> {
        match self {
            Self::Files(files) => files.resume(position).map_err(input_failure),
            Self::Topics(_) => Err(Failure::usage(
                "topics are merged as they are read, so a replay of them has nothing to go on from",
            )
            .cure("give --order too, or replay from the start, without --resume")),
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
