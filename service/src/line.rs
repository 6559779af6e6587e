//! The live line: the stages of [`Pipeline::process`](crate::pipeline::Pipeline::process) behind bounded
//! channels.
//!
//! Where there are cores to spare each stage has a thread, and batch n is scored while batch n + 1 is
//! featurised; else one thread takes a batch through all of them, which spares it two waits for its turn. Either
//! way each stage sees every batch once and in order, so the fold is the same. A [`Lane`] is a fold of its own
//! on the line. A [`Barrier`] travels between two batches and collects what each stage's state of its
//! lane was there: that is a checkpoint, without stopping the line.
//!
//! A thread that waits at one of these channels sleeps at once. One that spins and yields first, as they do
//! elsewhere, wakes sooner on an idle machine; on a busy one the kernel takes a yield at its word, and
//! the thread was seen to wait for its next turn four times as long.

mod flow;

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sanderling_features::FeatureEngine;
use sanderling_schemas::{
    DeadLetter, EventBatch, FeatureBatch, Flag, Offsets, OrderRecord, Rung, Timing,
};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::failure::Failure;
use crate::pipeline::{Drill, Judge, Pipeline, PipelineError, source_ids};
use crate::roster::{Rated, Roster};
use crate::run::{Permit, Sampler};
use crate::tables::Tables;
pub use flow::{Barrier, Decided, Input, Lane, Look, Outcome, Work};

/// Batches that may wait between two stages.
const CHANNEL_BATCHES_MAX: usize = 4;
/// Decided batches that may wait to be drained: a commit takes a while, and must not hold the line.
const DECIDED_BATCHES_MAX: usize = 64;

/// What is taken of a stage's state as something passes it.
enum Cut<'a> {
    Checkpoint(&'a mut Barrier),
    Look(&'a mut Look),
}

/// What travels between stages; `R` is what a stage leaves of a lane's pipeline to the next ones.
enum Flow<R, T> {
    Open(Lane, R),
    Close(Lane),
    Batch(Box<Carried<T>>),
    Rejected(Vec<DeadLetter>),
    Mark(Offsets),
    Tables(Lane, Tables),
    Barrier(Barrier),
    Look(Look),
}

/// A batch and what is known of it so far.
struct Carried<T> {
    lane: Lane,
    rung: Option<Rung>,
    champion: Option<Arc<str>>,
    backlog: bool,
    quiet: bool,
    mark: Option<Offsets>,
    permit: Option<Arc<Permit>>,
    timing: Timing,
    made: T,
}

impl<T> Carried<T> {
    /// With something made of it in the place of what was.
    fn with<U>(
        self,
        make: impl FnOnce(T, &mut Timing) -> Result<U, PipelineError>,
    ) -> Result<Carried<U>, PipelineError> {
        let Carried {
            lane,
            rung,
            champion,
            backlog,
            quiet,
            mark,
            permit,
            mut timing,
            made,
        } = self;
        let made = make(made, &mut timing)?;
        Ok(Carried {
            lane,
            rung,
            champion,
            backlog,
            quiet,
            mark,
            permit,
            timing,
            made,
        })
    }
}

/// Runs `feed` into the stages and their outcome into `drain`. `feed` has a thread of its own, so has the line or,
/// if they go `apart`, each of its stages; `drain` runs here. Returns the pipeline's error, if a stage failed;
/// `feed` and `drain` then see their channels close. Once `drain` has returned, `feed` is to end: see
/// [`Feeder::is_over`].
pub fn run<F, D>(apart: bool, feed: F, drain: D) -> Result<(), Failure>
where
    F: FnOnce(&Feeder) -> Result<(), Failure> + Send,
    D: FnOnce(&mut Outcomes) -> Result<(), Failure>,
{
    let (flows, events) = channel(CHANNEL_BATCHES_MAX);
    let over = Arc::new(AtomicBool::new(false));
    let feeder = Feeder {
        flows,
        over: over.clone(),
    };
    let (to_drain, outcomes) = channel(DECIDED_BATCHES_MAX);
    let mut featurising = Stage {
        lanes: BTreeMap::new(),
        split: split_pipeline,
        work: featurise,
        renew: |(features, _): &mut SampledEngine, tables: &Tables| Ok(features.set_tables(tables)?),
        cut: |(features, _): &SampledEngine, cut: Cut<'_>| match cut {
            Cut::Checkpoint(barrier) => {
                barrier.windows = Some(features.snapshot());
                barrier.forgotten = features.forgotten();
            }
            Cut::Look(look) => look.windows = Some((features.view(), features.accepted())),
        },
    };
    let mut scoring = Stage {
        lanes: BTreeMap::new(),
        split: |rest: (SlowModels, Judge)| rest,
        work: score,
        renew: |_: &mut SlowModels, _: &Tables| Ok(()),
        cut: |(models, _): &SlowModels, cut: Cut<'_>| match cut {
            Cut::Checkpoint(barrier) => {
                barrier.champion = Some(models.champion().into());
                barrier.models = Some(models.snapshots());
            }
            Cut::Look(look) => look.memories = models.memories(),
        },
    };
    let mut judging = Stage {
        lanes: BTreeMap::new(),
        split: |judge: Judge| (judge, ()),
        work: judge,
        renew: Judge::set_tables,
        cut: |_: &Judge, _: Cut<'_>| (),
    };
    thread::scope(|scope| {
        let source = named(scope, "feed", move || feed(&feeder));
        let stages = match apart {
            false => vec![named(scope, "line", move || {
                serve(events, to_drain, |flow| {
                    judging.pass(scoring.pass(featurising.pass(flow)?)?)
                })
            })],
            true => {
                let (to_score, featurised) = channel(CHANNEL_BATCHES_MAX);
                let (to_judge, scored) = channel(CHANNEL_BATCHES_MAX);
                vec![
                    named(scope, "features", move || {
                        serve(events, to_score, |flow| featurising.pass(flow))
                    }),
                    named(scope, "score", move || {
                        serve(featurised, to_judge, |flow| scoring.pass(flow))
                    }),
                    named(scope, "explain", move || {
                        serve(scored, to_drain, |flow| judging.pass(flow))
                    }),
                ]
            }
        };
        let drained = {
            let _over = Raise(&over);
            Outcomes::of(outcomes).and_then(|mut outcomes| drain(&mut outcomes))
        };
        let failed = |e: PipelineError| {
            Failure::new("pipeline", e.to_string())
                .cure("this is a fault of the program or of a folder changed under it; the input is untouched")
        };
        let fed = source.join().unwrap_or_else(|panic| resume_unwind(panic));
        for stage in stages {
            stage
                .join()
                .unwrap_or_else(|panic| resume_unwind(panic))
                .map_err(failed)?;
        }
        drained.and(fed)
    })
}

/// A thread that says in the machine's own lists which stage it is.
fn named<'scope, T: Send + 'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> thread::ScopedJoinHandle<'scope, T> {
    thread::Builder::new()
        .name(name.into())
        .spawn_scoped(scope, work)
        .expect("the machine has a thread to give")
}

/// Raises a flag at the end of its scope, whatever ends it.
struct Raise<'a>(&'a AtomicBool);

impl Drop for Raise<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The line's entry. Sending blocks while the first stage is behind.
#[derive(Clone)]
pub struct Feeder {
    flows: Sender<Flow<Pipeline, EventBatch>>,
    over: Arc<AtomicBool>,
}

impl Feeder {
    /// Whether nobody drains the line any more. Who has nothing to send learns it only here.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// `false` once the line has stopped.
    pub fn send(&self, input: Input) -> bool {
        let flow = match input {
            Input::Open(lane, pipeline) => Flow::Open(lane, *pipeline),
            Input::Close(lane) => Flow::Close(lane),
            Input::Batch(Work {
                lane,
                events,
                rung,
                champion,
                backlog,
                quiet,
                mark,
                permit,
            }) => Flow::Batch(Box::new(Carried {
                lane,
                rung,
                champion,
                backlog,
                quiet,
                mark,
                permit,
                timing: Timing {
                    wait_us: age_us(&events.broker_time_us),
                    ..Timing::default()
                },
                made: events,
            })),
            Input::Rejected(letters) => Flow::Rejected(letters),
            Input::Mark(offsets) => Flow::Mark(offsets),
            Input::Tables(lane, tables) => Flow::Tables(lane, tables),
            Input::Barrier(barrier) => Flow::Barrier(barrier),
            Input::Look(look) => Flow::Look(look),
        };
        !self.is_over() && self.flows.blocking_send(flow).is_ok()
    }
}

/// The line's end.
pub struct Outcomes {
    flows: Receiver<Flow<(), Box<Decided>>>,
    /// Waits for the next one and for something else at once.
    runtime: Runtime,
}

/// What there is to be had from the line.
pub enum Next {
    /// The next outcome.
    Outcome(Outcome),
    /// None before something else was to be done.
    Nothing,
    /// Everything fed has been drained.
    End,
}

impl Outcomes {
    fn of(flows: Receiver<Flow<(), Box<Decided>>>) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(|e| Failure::new("line", format!("cannot wait for its end: {e}")))?;
        Ok(Self { flows, runtime })
    }

    /// The next outcome, if one comes before `other` is done.
    pub fn next_before(&mut self, other: impl Future<Output = ()>) -> Next {
        let flow = self.runtime.block_on(async {
            tokio::select! {
                biased;
                flow = self.flows.recv() => Some(flow),
                () = other => None,
            }
        });
        match flow {
            Some(Some(flow)) => outcome(flow).map_or(Next::Nothing, Next::Outcome),
            Some(None) => Next::End,
            None => Next::Nothing,
        }
    }
}

/// The outcomes in order, each waited for as long as it takes.
impl Iterator for Outcomes {
    type Item = Outcome;

    fn next(&mut self) -> Option<Outcome> {
        loop {
            if let Some(outcome) = outcome(self.flows.blocking_recv()?) {
                return Some(outcome);
            }
        }
    }
}

fn outcome(flow: Flow<(), Box<Decided>>) -> Option<Outcome> {
    match flow {
        Flow::Batch(carried) => Some(Outcome::Decided(*carried.made)),
        Flow::Rejected(letters) => Some(Outcome::Rejected(letters)),
        Flow::Mark(offsets) => Some(Outcome::Mark(offsets)),
        Flow::Barrier(barrier) => Some(Outcome::Barrier(barrier)),
        Flow::Look(look) => {
            look.tell();
            None
        }
        Flow::Open(..) | Flow::Close(_) | Flow::Tables(..) => None,
    }
}

/// A stage, with a state `S` for each lane.
struct Stage<S, Split, Make, Renew, See> {
    lanes: BTreeMap<Lane, S>,
    /// What a stage keeps of a lane's pipeline, and what it leaves to the next ones.
    split: Split,
    work: Make,
    renew: Renew,
    cut: See,
}

impl<S, Split, Make, Renew, See> Stage<S, Split, Make, Renew, See> {
    /// Does its part of what comes, in order.
    fn pass<P, R, I, O>(&mut self, flow: Flow<P, I>) -> Result<Flow<R, O>, PipelineError>
    where
        Split: Fn(P) -> (S, R),
        Make: Fn(Carried<I>, &mut S) -> Result<Carried<O>, PipelineError>,
        Renew: Fn(&mut S, &Tables) -> Result<(), PipelineError>,
        See: Fn(&S, Cut<'_>),
    {
        Ok(match flow {
            Flow::Open(lane, pipeline) => {
                let (own, rest) = (self.split)(pipeline);
                self.lanes.insert(lane, own);
                Flow::Open(lane, rest)
            }
            Flow::Close(lane) => {
                self.lanes.remove(&lane);
                Flow::Close(lane)
            }
            Flow::Batch(carried) => {
                let state = (self.lanes)
                    .get_mut(&carried.lane)
                    .expect("a batch comes after its lane was opened");
                Flow::Batch(Box::new((self.work)(*carried, state)?))
            }
            Flow::Rejected(letters) => Flow::Rejected(letters),
            Flow::Mark(offsets) => Flow::Mark(offsets),
            Flow::Tables(lane, tables) => {
                if let Some(state) = self.lanes.get_mut(&lane) {
                    (self.renew)(state, &tables)?;
                }
                Flow::Tables(lane, tables)
            }
            Flow::Barrier(mut barrier) => {
                if let Some(state) = self.lanes.get(&barrier.lane) {
                    (self.cut)(state, Cut::Checkpoint(&mut barrier));
                }
                Flow::Barrier(barrier)
            }
            Flow::Look(mut look) => {
                if let Some(state) = self.lanes.get(&look.lane) {
                    (self.cut)(state, Cut::Look(&mut look));
                }
                Flow::Look(look)
            }
        })
    }
}

/// Passes what comes through `pass` until it ends, or what it gives is no longer wanted.
fn serve<P, R, I, O>(
    mut input: Receiver<Flow<P, I>>,
    output: Sender<Flow<R, O>>,
    mut pass: impl FnMut(Flow<P, I>) -> Result<Flow<R, O>, PipelineError>,
) -> Result<(), PipelineError> {
    while let Some(flow) = input.blocking_recv() {
        if output.blocking_send(pass(flow)?).is_err() {
            break;
        }
    }
    Ok(())
}

/// The models and the slowness added to them.
type SlowModels = (Roster, Drill);

/// An engine and who samples what it makes.
type SampledEngine = (FeatureEngine, Option<Arc<Sampler>>);

fn split_pipeline(pipeline: Pipeline) -> (SampledEngine, (SlowModels, Judge)) {
    let Pipeline {
        features,
        models,
        judge,
        drill,
        sampler,
    } = pipeline;
    ((features, sampler), ((models, drill), judge))
}

fn featurise(
    carried: Carried<EventBatch>,
    (features, sampler): &mut SampledEngine,
) -> Result<Carried<FeatureBatch>, PipelineError> {
    let quiet = carried.quiet;
    let due = sampler
        .as_ref()
        .filter(|sampler| !quiet && sampler.is_due());
    carried.with(|events, timing| {
        let start = Instant::now();
        let batch = match due {
            None => features.compute(&events)?,
            Some(sampler) => {
                let (batch, sample) = features.compute_sampled(&events)?;
                sample.into_iter().for_each(|sample| sampler.take(sample));
                batch
            }
        };
        timing.features_us = micros(start.elapsed());
        Ok(batch)
    })
}

fn score(
    carried: Carried<FeatureBatch>,
    (models, drill): &mut SlowModels,
) -> Result<Carried<(FeatureBatch, Rated)>, PipelineError> {
    let in_time = || {
        let age_us = age_us(&carried.made.events.broker_time_us);
        let permit = carried.permit.as_ref()?;
        Some(permit.rung(carried.made.scored.len(), age_us as i64))
    };
    let rung = carried.rung.or_else(in_time).unwrap_or(Rung::Full);
    if let Some(champion) = &carried.champion {
        models.appoint(champion);
    }
    carried.with(|batch, timing| {
        let start = Instant::now();
        let rated = models.score(&batch, rung)?;
        drill.wait(rung, batch.scored.len());
        timing.score_us = micros(start.elapsed());
        Ok((batch, rated))
    })
}

fn judge(
    carried: Carried<(FeatureBatch, Rated)>,
    judge: &mut Judge,
) -> Result<Carried<Box<Decided>>, PipelineError> {
    let Carried {
        lane,
        backlog,
        quiet,
        ..
    } = carried;
    let mut carried = carried.with(|(batch, rated), timing| {
        let start = Instant::now();
        let mut decisions = match quiet {
            true => Vec::new(),
            false => judge.judge(&batch, &rated)?,
        };
        if backlog {
            decisions
                .iter_mut()
                .for_each(|decision| decision.flags.push(Flag::Backlog));
        }
        timing.explain_us = micros(start.elapsed());
        let source_ids = source_ids(judge.relation(), &batch, &decisions)?;
        let first = batch.events.sequence.0;
        let broker_time_us = match batch.events.broker_time_us.as_slice() {
            [] => Vec::new(),
            times => decisions
                .iter()
                .map(|d| times[(d.sequence.0 - first) as usize])
                .collect(),
        };
        Ok(Box::new(Decided {
            lane,
            source_ids,
            dead_letters: match quiet {
                true => Vec::new(),
                false => judge.too_late(&batch),
            },
            rows: batch.events.len(),
            quiet,
            order: OrderRecord {
                lane: lane.0,
                backlog,
                ..judge.order(&batch, &rated)
            },
            labels: batch.labels,
            decisions,
            broker_time_us,
            timing: *timing,
            mark: None,
        }))
    })?;
    carried.made.mark = carried.mark.take();
    // What comes after the decision has its own bounds.
    drop(carried.permit.take());
    Ok(carried)
}

/// How long ago the broker took the oldest of a batch's records; 0 without a broker.
fn age_us(broker_time_us: &[i64]) -> u64 {
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

#[cfg(test)]
mod tests;
