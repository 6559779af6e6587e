//! How a lane comes back: the newest good checkpoint, then the input again in the recorded order.
//!
//! What was committed is folded quietly: it moves the state, and nothing is written. With delivery
//! at least once the order log may reach beyond the committed offsets; what lies there is decided
//! and sent again, in the same order, so that a decision that comes twice is the same both times.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use sanderling_ingest::{IngestError, OrderLog, Progress, RunsReader};
use sanderling_schemas::{Offset, Offsets, OrderRecord, Partition, Rung, Sequence, Versions};

use super::Service;
use super::lanes::LanePosition;
use super::lost::rows_noted;
use crate::checkpoint::Checkpoint;
use crate::failure::Failure;
use crate::folder::short;
use crate::line::{Feeder, Input, Lane, Work};
use crate::pipeline::Pipeline;
use crate::tables::{Tables, versions};

/// How long a broker may take to show the order records of a transaction whose offsets it tells already.
const SHOWN_WITHIN: Duration = Duration::from_secs(5);
/// Time between two looks for them.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// A lane that has come back.
pub struct Recovered {
    /// Sequence of its next row.
    pub sequence: u64,
    /// Where to read on; a partition that is not named is read from where the group stands.
    pub next: Offsets,
    /// The tables that its last rows were folded with.
    tables: Tables,
}

/// What stops a recovery.
pub enum Stopped {
    Ingest(IngestError),
    Failure(Failure),
    /// The line has ended, or the service is asked to.
    Over,
}

impl From<IngestError> for Stopped {
    fn from(e: IngestError) -> Self {
        match e {
            IngestError::Stopped => Self::Over,
            e => Self::Ingest(e),
        }
    }
}

impl Service<'_> {
    /// Opens `lane` on the line, in the state in which it was last committed. `None` if the line
    /// ended or the service was asked to stop on the way.
    pub fn recover(
        &self,
        lane: Lane,
        partitions: &[(Arc<str>, Partition)],
        progress: &Progress,
        feeder: &Feeder,
    ) -> Result<Option<Recovered>, Failure> {
        let committed = &progress.next;
        let started = Instant::now();
        let mut pipeline = self.new_pipeline()?;
        let mut recovered = Recovered {
            sequence: 0,
            next: committed.clone(),
            tables: self.folder.catalog.tables.clone().into(),
        };
        let checkpoint = self.store(lane)?.newest()?;
        let checkpoint = match checkpoint {
            Some(checkpoint) if self.is_same(&checkpoint, &pipeline)? => {
                self.with_all_models(lane, checkpoint, &pipeline)?
            }
            other => other,
        };
        let (order_from, checkpointed) = match checkpoint {
            None => Default::default(),
            Some(checkpoint) => {
                match self.restore(lane, checkpoint, &mut pipeline, &mut recovered)? {
                    None => return Ok(None),
                    Some(from) => from,
                }
            }
        };
        let at_checkpoint = recovered.sequence;
        if self.folder.settings.output.order.is_none() && at_checkpoint > 0 {
            // Without an order log the state is that of the checkpoint, and so is the input.
            recovered.next = checkpointed;
        }
        if !feeder.send(Input::Open(lane, Box::new(pipeline))) {
            return Ok(None);
        }
        if let Some(topic) = &self.folder.settings.output.order {
            let kafka = &self.folder.settings.kafka;
            let mut log = OrderLog::new(&kafka.brokers, &kafka.properties, topic)
                .map_err(|e| self.folder.input_failure(e))?;
            let mut runs = self
                .runs_reader(&kafka.properties)
                .map_err(|e| self.folder.input_failure(e))?;
            let noted = rows_noted(lane, progress);
            let began = Instant::now();
            let mut folded = Ok(order_from);
            loop {
                folded = folded.and_then(|from| {
                    log.read_from(&from, |record| {
                        if record.lane != lane.0 || record.sequence.0 < recovered.sequence {
                            return Ok(());
                        }
                        self.fold_again(lane, &record, committed, &mut runs, &mut recovered, feeder)
                    })
                });
                let lacks = recovered.sequence < noted && began.elapsed() < SHOWN_WITHIN;
                if folded.is_err() || !lacks {
                    break;
                }
                if self.is_stopping() {
                    return Ok(None);
                }
                thread::sleep(AGAIN_AFTER);
            }
            match folded {
                Ok(_) => {}
                Err(Stopped::Over) => return Ok(None),
                Err(Stopped::Failure(failure)) => return Err(failure),
                Err(Stopped::Ingest(e)) => {
                    let failure = self.folder.input_failure(e);
                    return Err(failure.cure(
                        "put back the checkpoints of state.url, and the models that were served with them; or keep the order topic and the input for longer than state.interval; to begin anew, remove the state folder and the group's offsets",
                    ));
                }
            }
        }
        self.nothing_is_lost(lane, progress, &recovered)?;
        let now = self.tables.now();
        if versions(&now) != versions(&recovered.tables) && !feeder.send(Input::Tables(lane, now)) {
            return Ok(None);
        }
        tracing::info!(
            %lane,
            checkpoint = at_checkpoint,
            sequence = recovered.sequence,
            partitions = partitions.len(),
            seconds = started.elapsed().as_secs_f64(),
            "restored"
        );
        Ok(Some(recovered))
    }

    /// Whether a checkpoint is of these features; if not, it is to be taken over.
    fn is_same(&self, checkpoint: &Checkpoint, pipeline: &Pipeline) -> Result<bool, Failure> {
        let (before, now) = (&checkpoint.manifest.versions, pipeline.judge.versions());
        same_state(before, now, self.options.take_over)
    }

    /// The checkpoint, if it holds the state of every model. One that has come since has to fold all
    /// that the others have: then the log is folded again from its beginning.
    fn with_all_models(
        &self,
        lane: Lane,
        checkpoint: Checkpoint,
        pipeline: &Pipeline,
    ) -> Result<Option<Checkpoint>, Failure> {
        let Some(model) = pipeline.models.missing_from(&checkpoint.models) else {
            return Ok(Some(checkpoint));
        };
        if self.folder.settings.output.order.is_none() {
            return Err(Failure::new(
                "checkpoint",
                format!(
                    "the model {} has no state in the checkpoint, and there is no order log to fold again for it",
                    short(model)
                ),
            )
            .cure("put back the model that was served, or take the challenger out; or serve as a pipeline folder of another name, with --history to give the model its past"));
        }
        tracing::warn!(
            %lane,
            model,
            "the model has no state in the checkpoint: the order log is folded again from its beginning"
        );
        Ok(None)
    }

    /// Puts a checkpoint's state in place; returns where its order records begin, and where its
    /// input stood. `None` if the service was asked to stop on the way.
    fn restore(
        &self,
        lane: Lane,
        checkpoint: Checkpoint,
        pipeline: &mut Pipeline,
        recovered: &mut Recovered,
    ) -> Result<Option<(Offsets, Offsets)>, Failure> {
        let is_same = self.is_same(&checkpoint, pipeline)?;
        let manifest = checkpoint.manifest;
        let unreadable = |e: String| {
            Failure::new("checkpoint", e).cure(
                "this checkpoint is of another program: go on with the program that wrote it, or remove the state folder and begin anew with --history",
            )
        };
        if is_same {
            pipeline
                .features
                .restore(checkpoint.windows)
                .map_err(|e| unreadable(e.to_string()))?;
            pipeline
                .models
                .restore(&checkpoint.models)
                .map_err(|e| unreadable(e.to_string()))?;
        } else {
            let (windows, until) = (&checkpoint.windows, manifest.sequence);
            let tables = &mut recovered.tables;
            let taken = self.take_over(lane, windows, until, pipeline, tables)?;
            if taken.is_none() {
                return Ok(None);
            }
        }
        let position: LanePosition =
            serde_json::from_value(manifest.position).map_err(|e| unreadable(e.to_string()))?;
        let order: LanePosition =
            serde_json::from_value(manifest.progress).map_err(|e| unreadable(e.to_string()))?;
        recovered.sequence = manifest.sequence;
        // The group's own offsets are behind a checkpoint only where nothing was committed yet.
        let checkpointed = position.offsets();
        for (topic, partition, next) in checkpointed.iter() {
            move_on(&mut recovered.next, topic, partition, next);
        }
        Ok(Some((order.offsets(), checkpointed)))
    }

    /// Folds what one order record names.
    fn fold_again(
        &self,
        lane: Lane,
        record: &OrderRecord,
        committed: &Offsets,
        runs: &mut RunsReader,
        recovered: &mut Recovered,
        feeder: &Feeder,
    ) -> Result<(), Stopped> {
        if self.is_stopping() {
            return Err(Stopped::Over);
        }
        if record.sequence.0 != recovered.sequence {
            return Err(Stopped::Failure(
                Failure::new(
                    "order",
                    format!(
                        "the order topic has a gap in lane {lane}: row {} was expected, {} came",
                        recovered.sequence, record.sequence.0
                    ),
                )
                .cure("put back the checkpoints of state.url, or keep the order topic for longer than state.interval"),
            ));
        }
        let shelf = self.tables.shelf();
        let tables = shelf
            .find(&recovered.tables, &record.versions.tables)
            .map_err(Stopped::Failure)?;
        if versions(&tables) != versions(&recovered.tables) {
            recovered.tables = tables.clone();
            if !feeder.send(Input::Tables(lane, tables)) {
                return Err(Stopped::Over);
            }
        }
        let (Some(mut events), _) = runs.read(&record.runs)? else {
            return Ok(());
        };
        events.sequence = Sequence(recovered.sequence);
        recovered.sequence += events.len() as u64;
        // Exactly once, a record of the order is there only if what was made of it is, too.
        let mut quiet = true;
        for run in &record.runs {
            let done = committed.next(&run.topic, run.partition);
            quiet &= self.exactly_once() || done.is_some_and(|next| run.range.next <= next);
            move_on(
                &mut recovered.next,
                &run.topic,
                run.partition,
                run.range.next,
            );
        }
        self.metrics.restored(events.len());
        self.health.heartbeat();
        let work = Work {
            lane,
            events,
            // A rung changes a score and never the state.
            rung: Some(if quiet { Rung::Rules } else { record.rung }),
            champion: Some(record.versions.model.clone()),
            backlog: record.backlog,
            quiet,
            mark: None,
            permit: None,
        };
        match feeder.send(Input::Batch(work)) {
            true => Ok(()),
            false => Err(Stopped::Over),
        }
    }
}

/// Moves a partition's next offset forward, never back.
fn move_on(offsets: &mut Offsets, topic: &str, partition: Partition, next: Offset) {
    if offsets
        .next(topic, partition)
        .is_none_or(|known| known < next)
    {
        offsets.set(topic.into(), partition, next);
    }
}

/// Whether state made by `before` is state of `now`: the broker, the policy, the deadline and the
/// output may have changed, what is folded may not, unless it is to be taken over.
fn same_state(before: &Versions, now: &Versions, take_over: bool) -> Result<bool, Failure> {
    let differs = [
        ("pipeline.yaml", &before.pipeline, &now.pipeline),
        ("features.sql", &before.features, &now.features),
    ]
    .into_iter()
    .find(|(_, before, now)| before != now);
    let Some((what, before, now)) = differs else {
        return Ok(true);
    };
    let is_relation = what == "pipeline.yaml";
    if take_over && !is_relation {
        return Ok(false);
    }
    let cure = match is_relation {
        true => {
            "put it back as it was; or serve the new version as a pipeline folder of another name, with --history to give it its past"
        }
        false => {
            "put it back as it was; or start once with --take-over: windows that both have go on, others are folded from the log as far as it reaches, and what then lacks rows is said; or serve the new version as a pipeline folder of another name, with --history to give it its past"
        }
    };
    Err(Failure::new(
        "checkpoint",
        format!(
            "the state was folded with another version of {what} ({} then, {} now)",
            short(before),
            short(now)
        ),
    )
    .cure(cure))
}
