//! History before live: recorded files are folded into an empty state, and the topics are read on
//! from where the files end. Files that do not say where that is come before all that the topics will hold, so those
//! must be empty.

use std::sync::Arc;
use std::time::Duration;

use sanderling_ingest::{Committer, EventSource, SourceEvent, TopicPartition};
use sanderling_schemas::{Offset, Offsets, Rung};

use super::Service;
use super::feed::give_up;
use crate::failure::Failure;
use crate::line::{Feeder, Input, Lane, Work};
use crate::replay::{input_failure, open_files};

/// Rows of a batch of history.
const ROWS: usize = 1024;

impl Service<'_> {
    /// Folds the history that was given, if no state is there yet, and checkpoints it; `false` if
    /// the service was asked to stop on the way.
    ///
    /// # Errors
    /// History without the coordinates of its records, where the topics hold some that could be among them.
    pub fn history(
        &self,
        committer: &Committer,
        all: &[TopicPartition],
        feeder: &Feeder,
    ) -> Result<bool, Failure> {
        if self.options.history.is_empty() {
            return Ok(true);
        }
        if self.by_partition {
            return Err(Failure::usage(
                "--history folds files into one state, and this pipeline has one for each partition",
            )
            .cure("write the history to the topic and let it be read from the beginning"));
        }
        if self.store(Lane::WHOLE)?.newest()?.is_some() {
            tracing::info!("there is a state already: the history is left out");
            return Ok(true);
        }
        let committed = (committer.committed(all)).map_err(|e| self.folder.input_failure(e))?;
        if committed.iter().next().is_some() {
            return Err(Failure::new(
                "history",
                "the group has read the topics already, but its checkpoints are gone",
            )
            .cure("put back the checkpoints of state.url; to begin anew with the history, remove the group's offsets and the order topic"));
        }
        // What comes while the history is folded comes after it.
        let begin = (committer.ends_if_empty(all)).map_err(|e| self.folder.input_failure(e))?;
        self.health.starting("folding the history");
        let mut files = open_files(self.folder, &self.options.history, None, None)?;
        let pipeline = self.new_pipeline()?;
        if !feeder.send(Input::Open(Lane::WHOLE, Box::new(pipeline))) {
            return Ok(false);
        }
        let (mut rows, mut refused) = (0, 0);
        let mut reached = Offsets::default();
        loop {
            if self.is_stopping() {
                return Ok(false);
            }
            self.health.heartbeat();
            match files.next(ROWS, Duration::ZERO).map_err(input_failure)? {
                SourceEvent::Batch(events) => {
                    rows += events.len() as u64;
                    for id in &events.ids {
                        let after = Offset(id.offset.0 + 1);
                        if reached.next(&id.topic, id.partition) < Some(after) {
                            reached.set(id.topic.clone(), id.partition, after);
                        }
                    }
                    if begin.is_none() && !is_of_topics(&reached, all) {
                        return Err(could_overlap());
                    }
                    let work = Work {
                        rung: Some(Rung::Rules),
                        quiet: true,
                        ..Work::whole(events)
                    };
                    if !feeder.send(Input::Batch(work)) {
                        return Ok(false);
                    }
                }
                SourceEvent::Rejected(letters) => refused += letters.len(),
                SourceEvent::End => break,
                SourceEvent::Idle | SourceEvent::Assigned(_) | SourceEvent::Revoked(_) => {}
            }
        }
        let next = match (is_of_topics(&reached, all), begin) {
            (false, Some(begin)) => begin,
            _ => of_topics(&reached, all),
        };
        self.lanes.open(Lane::WHOLE, rows, &next);
        give_up(&self.lanes, &[Lane::WHOLE], feeder);
        self.lanes.close(Lane::WHOLE);
        feeder.send(Input::Close(Lane::WHOLE));
        tracing::info!(rows, refused, "the history is folded");
        Ok(true)
    }
}

fn could_overlap() -> Failure {
    Failure::new(
        "history",
        "the history does not say which records of the topics it holds, so that some could be folded twice",
    )
    .cure("record it with the columns _topic, _partition and _offset of its records; or start with empty topics")
}

fn is_of_topics(reached: &Offsets, all: &[TopicPartition]) -> bool {
    all.iter().any(|(t, p)| reached.next(t, *p).is_some())
}

/// What was reached of these partitions.
fn of_topics(reached: &Offsets, all: &[TopicPartition]) -> Offsets {
    let mut next = Offsets::default();
    for (topic, partition) in all {
        if let Some(offset) = reached.next(topic, *partition) {
            next.set(Arc::clone(topic), *partition, offset);
        }
    }
    next
}
