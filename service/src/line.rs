//! The live line: the stages of [`Pipeline::process`](crate::pipeline::Pipeline::process), one
//! thread each, joined by bounded channels.
//!
//! Batch n is scored while batch n + 1 is featurised; each stage still sees every batch once and in
//! order, so the fold is the same. A [`Barrier`] travels between two batches and collects what each
//! stage's state was there: that is a checkpoint, without stopping the line.

use std::panic::resume_unwind;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arrow::array::ArrayRef;
use crossbeam_channel::{Receiver, Sender, bounded};
use sanderling_schemas::{
    DeadLetter, Decision, EventBatch, FeatureBatch, KnownLabel, OrderRecord, Rung, Timing,
};
use sanderling_scoring::Scored;
use sanderling_state::Snapshot;

use crate::failure::Failure;
use crate::pipeline::{Pipeline, PipelineError, source_ids};

/// Batches that may wait between two stages.
const CHANNEL_BATCHES_MAX: usize = 4;

/// What enters the line, in order.
pub enum Input {
    /// Events to decide.
    Batch(EventBatch, Rung),
    /// Records that could not become events.
    Rejected(Vec<DeadLetter>),
    /// A checkpoint is wanted here.
    Barrier(Barrier),
}

/// What leaves it, in the same order.
pub enum Outcome {
    /// What became of a batch.
    Decided(Decided),
    /// Passed through.
    Rejected(Vec<DeadLetter>),
    /// The barrier, with the stages' state.
    Barrier(Barrier),
}

/// A decided batch.
pub struct Decided {
    /// One for each scored row that was to be decided.
    pub decisions: Vec<Decision>,
    /// The source's own ids of the decided events, if the stream has them.
    pub source_ids: Option<ArrayRef>,
    /// Labels that became known in the batch.
    pub labels: Vec<KnownLabel>,
    /// Rows of the batch.
    pub rows: usize,
    /// The runs it took.
    pub order: OrderRecord,
    /// Broker append times of the decided events, microseconds; empty without a broker.
    pub broker_time_us: Vec<i64>,
    /// What each stage took.
    pub timing: Timing,
}

/// A consistent cut through the line.
#[derive(Default)]
pub struct Barrier {
    /// Where the source stood.
    pub position: serde_json::Value,
    /// Sequence of the next row.
    pub sequence: u64,
    /// The stages put their state in. Without it, a barrier marks a position and nothing more.
    pub with_state: bool,
    /// State of the windows.
    pub windows: Option<Snapshot>,
    /// State of the model.
    pub model: Option<Snapshot>,
}

/// What travels between stages.
enum Flow<T> {
    Batch(Box<T>),
    Rejected(Vec<DeadLetter>),
    Barrier(Barrier),
}

/// Runs `feed` into the stages and their outcome into `drain`, each on a thread of its own but
/// `drain`, which runs here. Returns the pipeline's error, if a stage failed; `feed` and `drain`
/// then see their channels close.
pub fn run<F, D>(pipeline: Pipeline, feed: F, mut drain: D) -> Result<(), Failure>
where
    F: FnOnce(&Feeder) -> Result<(), Failure> + Send,
    D: FnMut(Outcome) -> Result<(), Failure>,
{
    let Pipeline {
        mut features,
        mut scorer,
        judge,
    } = pipeline;
    let (feeder, events) = bounded::<Input>(CHANNEL_BATCHES_MAX);
    let (to_score, featurised) = bounded(CHANNEL_BATCHES_MAX);
    let (to_judge, scored) = bounded(CHANNEL_BATCHES_MAX);
    let (to_drain, outcomes) = bounded(CHANNEL_BATCHES_MAX);
    let relation = judge.relation().clone();
    thread::scope(|scope| {
        let source = scope.spawn(move || feed(&Feeder(feeder)));
        let featurise = scope.spawn(move || -> Result<(), PipelineError> {
            for input in events {
                let flow = match input {
                    Input::Batch(batch, rung) => {
                        let start = Instant::now();
                        let wait_us = waited_us(&batch.broker_time_us);
                        let batch = features.compute(&batch)?;
                        let features_us = micros(start.elapsed());
                        let timing = Timing {
                            wait_us,
                            features_us,
                            ..Timing::default()
                        };
                        Flow::Batch(Box::new((batch, rung, timing)))
                    }
                    Input::Rejected(letters) => Flow::Rejected(letters),
                    Input::Barrier(barrier) => {
                        let windows = barrier.with_state.then(|| features.snapshot());
                        Flow::Barrier(Barrier { windows, ..barrier })
                    }
                };
                if to_score.send(flow).is_err() {
                    break;
                }
            }
            Ok(())
        });
        let score = scope.spawn(move || {
            stage(
                featurised,
                to_judge,
                |(batch, rung, mut timing): (FeatureBatch, Rung, Timing),
                 scorer: &mut sanderling_scoring::Scorer| {
                    let start = Instant::now();
                    let scored = scorer.score(&batch, rung)?;
                    timing.score_us = micros(start.elapsed());
                    Ok((batch, scored, timing))
                },
                |barrier, scorer| {
                    let model = barrier.with_state.then(|| scorer.snapshot());
                    Barrier { model, ..barrier }
                },
                &mut scorer,
            )
        });
        let judging = scope.spawn(move || {
            stage(
                scored,
                to_drain,
                |(batch, scored, mut timing): (FeatureBatch, Scored, Timing),
                 judge: &mut crate::pipeline::Judge| {
                    let start = Instant::now();
                    let decisions = judge.judge(&batch, &scored)?;
                    timing.explain_us = micros(start.elapsed());
                    let source_ids = source_ids(&relation, &batch, &decisions)?;
                    let first = batch.events.sequence.0;
                    let broker_time_us = match batch.events.broker_time_us.as_slice() {
                        [] => Vec::new(),
                        times => decisions
                            .iter()
                            .map(|d| times[(d.sequence.0 - first) as usize])
                            .collect(),
                    };
                    Ok(Decided {
                        source_ids,
                        rows: batch.events.len(),
                        order: judge.order(&batch, scored.batch.rung),
                        labels: batch.labels,
                        decisions,
                        broker_time_us,
                        timing,
                    })
                },
                |barrier, _| barrier,
                &mut { judge },
            )
        });
        let mut drained = Ok(());
        for flow in &outcomes {
            drained = drain(match flow {
                Flow::Batch(decided) => Outcome::Decided(*decided),
                Flow::Rejected(letters) => Outcome::Rejected(letters),
                Flow::Barrier(barrier) => Outcome::Barrier(barrier),
            });
            if drained.is_err() {
                break;
            }
        }
        drop(outcomes);
        let failed = |e: PipelineError| {
            Failure::new("pipeline", e.to_string())
                .cure("this is a fault of the program or of a folder changed under it; the input is untouched")
        };
        let fed = source.join().unwrap_or_else(|panic| resume_unwind(panic));
        for stage in [featurise, score, judging] {
            stage
                .join()
                .unwrap_or_else(|panic| resume_unwind(panic))
                .map_err(failed)?;
        }
        drained.and(fed)
    })
}

/// The line's entry. Sending blocks while the first stage is behind.
pub struct Feeder(Sender<Input>);

impl Feeder {
    /// `false` once the line has stopped.
    pub fn send(&self, input: Input) -> bool {
        self.0.send(input).is_ok()
    }
}

/// Runs one stage until its input ends or its output is no longer wanted.
fn stage<I, O, S>(
    input: Receiver<Flow<I>>,
    output: Sender<Flow<O>>,
    mut work: impl FnMut(I, &mut S) -> Result<O, PipelineError>,
    mut cut: impl FnMut(Barrier, &mut S) -> Barrier,
    state: &mut S,
) -> Result<(), PipelineError> {
    for flow in input {
        let flow = match flow {
            Flow::Batch(batch) => Flow::Batch(Box::new(work(*batch, state)?)),
            Flow::Rejected(letters) => Flow::Rejected(letters),
            Flow::Barrier(barrier) => Flow::Barrier(cut(barrier, state)),
        };
        if output.send(flow).is_err() {
            break;
        }
    }
    Ok(())
}

/// How long ago the broker took the oldest of a batch's records; 0 without a broker.
fn waited_us(broker_time_us: &[i64]) -> u64 {
    let now_us = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_micros() as i64;
    broker_time_us
        .iter()
        .min()
        .map_or(0, |oldest| (now_us - oldest).max(0) as u64)
}

fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}
