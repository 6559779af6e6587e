//! Recorded files as a source.
//!
//! One file is read in row order, however disordered. Several are merged by the event times of
//! their next rows, ties in argument order. A refused record has no place in that order; it comes
//! out when its file is read past it. Labels of a column become rows before the first row whose
//! event time reaches the moment they are known.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sanderling_schemas::{DeadLetter, EventBatch, LateRows, Relation, Sequence};

use crate::IngestError;
use crate::decode::Decoder;
use crate::labels::{LabelFileSpec, LabelRows, PendingLabels};
use crate::merged::Merged;
use crate::recorded::{CHUNK_ROWS, RecordedFile};
use crate::source::{EventSource, Position, SourceEvent};
use crate::stream::StreamSpec;

/// Rejections held back before they are handed over.
const REJECTED_MAX: usize = 4096;

/// One file and the stream that its rows belong to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// Stream of the pipeline.
    pub stream: Arc<str>,
    /// A .parquet, .csv or .jsonl file.
    pub path: PathBuf,
}

/// How files are read.
#[derive(Debug, Clone, Default)]
pub struct FileOptions {
    /// Rows at or past this event time, microseconds, are left out as if they were not there.
    pub to: Option<i64>,
    /// Labels in a column of the scored streams' files.
    pub labels: Option<LabelFileSpec>,
    /// Sequence of the first row.
    pub first_sequence: u64,
}

/// Recorded files, merged.
pub struct FileSource {
    relation: Arc<Relation>,
    files: Vec<RecordedFile>,
    labels: Option<LabelRows>,
    pending: PendingLabels,
    to: Option<i64>,
    first_sequence: u64,
    rows_merged: u64,
    rejected: VecDeque<DeadLetter>,
    rejected_to_skip: u64,
    /// Rejections come out between the rows that they stood between, so that they have one order with
    /// the rows that the fold refuses, however the input is cut into batches.
    in_place: bool,
    ready: Option<EventBatch>,
    accepted_yielded: u64,
    rejected_yielded: u64,
}

impl FileSource {
    /// Opens `inputs`, whose streams are declared in `streams`. Fails if a file is missing, is not
    /// of its format, or lacks a declared column.
    pub fn open(
        relation: Arc<Relation>,
        streams: &[StreamSpec],
        inputs: &[Input],
        options: FileOptions,
    ) -> Result<Self, IngestError> {
        let (files, labels) = open_inputs(&relation, streams, inputs, options.labels.as_ref())?;
        let in_place = relation.late_rows == LateRows::Refuse;
        Ok(Self {
            relation,
            files,
            labels,
            pending: PendingLabels::default(),
            to: options.to,
            first_sequence: options.first_sequence,
            rows_merged: 0,
            rejected: VecDeque::new(),
            rejected_to_skip: 0,
            in_place,
            ready: None,
            accepted_yielded: 0,
            rejected_yielded: 0,
        })
    }

    /// Goes on from `position` of an earlier source over the same input with the same options, by
    /// reading again what led there. Only for a source that has yielded nothing yet.
    pub fn resume(&mut self, position: &Position) -> Result<(), IngestError> {
        let Position::Files { accepted, rejected } = *position else {
            return Err(IngestError::ForeignPosition {
                found: "topics",
                wanted: "files",
            });
        };
        self.rejected_to_skip = rejected;
        let mut left = accepted;
        while left > 0 {
            let rows_max = usize::try_from(left).unwrap_or(usize::MAX).min(CHUNK_ROWS);
            match self.merge(rows_max)? {
                Some(batch) => left -= batch.len() as u64,
                // More rejections than before, or fewer rows: another input.
                None if self.ended() || self.rejected_to_skip == 0 => {
                    let found = accepted - left;
                    return Err(IngestError::ResumePastEnd {
                        wanted: accepted,
                        found,
                    });
                }
                None => {}
            }
            self.skip_rejected();
        }
        self.accepted_yielded = accepted;
        self.rejected_yielded = rejected;
        Ok(())
    }

    /// Rows of all files together, where every file tells (Parquet does). Label rows do not count.
    pub fn rows_total(&self) -> Option<u64> {
        self.files.iter().map(|file| file.rows_total()).sum()
    }

    /// How much of the input has been read, from 0 to 1.
    pub fn fraction_read(&self) -> f64 {
        let parts: f64 = self.files.iter().map(RecordedFile::fraction_read).sum();
        if self.files.is_empty() {
            1.0
        } else {
            parts / self.files.len() as f64
        }
    }

    fn ended(&self) -> bool {
        self.files.iter().all(|file| file.ended())
    }

    fn skip_rejected(&mut self) {
        let skipped = self.rejected_to_skip.min(self.rejected.len() as u64);
        self.rejected.drain(..skipped as usize);
        self.rejected_to_skip -= skipped;
    }

    /// There are rejections that belong before any further row.
    fn owes_rejections(&self) -> bool {
        self.in_place && !self.rejected.is_empty()
    }

    /// The next rows in order, at most `rows_max`; `None` at the end, or when rejections must be
    /// handed over first.
    fn merge(&mut self, rows_max: usize) -> Result<Option<EventBatch>, IngestError> {
        let mut merged = Merged::new(self.files.len());
        while merged.len() < rows_max && !self.owes_rejections() {
            let mut next: Option<(i64, usize)> = None;
            for (index, file) in self.files.iter_mut().enumerate() {
                while file.head().is_none() && !file.ended() && self.rejected.len() < REJECTED_MAX {
                    file.load(self.to, self.to, &mut self.rejected)?;
                    merged.leave(index);
                }
                if let Some(at) = file.head()
                    && next.is_none_or(|(earliest, _)| at < earliest)
                {
                    next = Some((at, index));
                }
            }
            let undecided = self
                .files
                .iter()
                .any(|file| file.head().is_none() && !file.ended());
            let (Some((at, index)), false) = (next, undecided) else {
                break;
            };
            if let Some(label) = self.pending.pop_known(at) {
                let id = self.files[label.input].next_label_id();
                merged.take_label(label, id, at, self.files[index].head_broker_time());
                continue;
            }
            let file = &self.files[index];
            merged.take(
                index,
                file.rows(),
                file.next(),
                file.head_id(),
                at,
                file.head_broker_time(),
            );
            if let Some(labels) = &self.labels
                && let Some(value) = file.head_label()
            {
                let label = labels.label(file.rows(), file.next(), value, self.rows_merged, index);
                self.pending.push(label);
            }
            self.rows_merged += 1;
            self.files[index].advance(&mut self.rejected);
        }
        if merged.len() == 0 {
            return Ok(None);
        }
        merged
            .finish(&self.relation, self.labels.as_ref())
            .map(Some)
    }
}

impl EventSource for FileSource {
    fn next(&mut self, rows_max: usize, _wait: Duration) -> Result<SourceEvent, IngestError> {
        loop {
            if self.ready.is_none() && !self.owes_rejections() {
                self.ready = self.merge(rows_max.max(1))?;
                self.skip_rejected();
            }
            let is_rows_turn = self.in_place && self.ready.is_some();
            if !self.rejected.is_empty() && !is_rows_turn {
                self.rejected_yielded += self.rejected.len() as u64;
                return Ok(SourceEvent::Rejected(self.rejected.drain(..).collect()));
            }
            if let Some(mut batch) = self.ready.take() {
                batch.sequence = Sequence(self.first_sequence + self.accepted_yielded);
                self.accepted_yielded += batch.len() as u64;
                return Ok(SourceEvent::Batch(batch));
            }
            if self.ended() {
                return Ok(SourceEvent::End);
            }
        }
    }

    fn position(&self) -> Position {
        Position::Files {
            accepted: self.accepted_yielded,
            rejected: self.rejected_yielded,
        }
    }
}

/// Opens `inputs`, and says how labels of their columns become rows, if they do.
pub(crate) fn open_inputs(
    relation: &Arc<Relation>,
    streams: &[StreamSpec],
    inputs: &[Input],
    label_file: Option<&LabelFileSpec>,
) -> Result<(Vec<RecordedFile>, Option<LabelRows>), IngestError> {
    let mut files: Vec<RecordedFile> = Vec::with_capacity(inputs.len());
    let mut labels = None;
    for input in inputs {
        let spec = streams.iter().find(|spec| spec.name == input.stream);
        let wrong = |message: String| IngestError::Declaration {
            stream: input.stream.to_string(),
            message,
        };
        let spec = spec.ok_or_else(|| {
            wrong(format!(
                "{} is to be read as it, but it is not declared",
                input.path.display()
            ))
        })?;
        let scored = relation
            .streams
            .iter()
            .any(|s| s.name == spec.name && s.scored);
        let label = label_file.filter(|_| scored);
        if let (Some(label), None) = (label, &labels) {
            labels = Some(LabelRows::new(relation, spec, label).map_err(wrong)?);
        }
        let decoder = Decoder::new(relation.clone(), spec.clone())?
            .for_files(label.map(|label| label.column.as_str()));
        let file = RecordedFile::open(&input.path, decoder)?;
        if let Some(other) = files.iter().find(|other| other.stem() == file.stem())
            && !file.recorded()
        {
            return Err(IngestError::Read {
                path: input.path.clone(),
                message: format!(
                    "{} has the same name, which would give two rows one id; rename one",
                    other.path().display()
                ),
            });
        }
        if let Some(label) = label
            && !file.has_column(&label.column)
        {
            tracing::warn!(
                file = %input.path.display(), column = %label.column,
                "the file has no label column, so its rows stay unlabelled"
            );
        }
        files.push(file);
    }
    Ok((files, labels))
}
