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

mod ends;
mod flow;
mod mark;
mod stages;

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use sanderling_schemas::{DeadLetter, Rung, Timing};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::failure::Failure;
use crate::pipeline::{Judge, PipelineError};
use crate::run::Permit;
use crate::tables::Tables;
pub use ends::{Feeder, Next, Outcomes};
pub use flow::{Barrier, Decided, Input, Lane, Look, Outcome, Work};
pub use mark::{Mark, Note};
use stages::{SampledEngine, SlowModels, Stage, featurise, judge, score, split_pipeline};

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
    Mark(Mark),
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
    mark: Option<Mark>,
    permit: Option<Arc<Permit>>,
    /// When it was put on the line, microseconds of Unix time.
    entered_us: i64,
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
            entered_us,
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
            entered_us,
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

#[cfg(test)]
mod tests;
