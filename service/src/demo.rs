//! `sanderling demo`: the real pipeline on simulated payments, with nothing to install.
//!
//! Five weeks of simulated history are folded first, so that 30-day windows and memories are right
//! from the first live payment. Then payments come through a broker in this process, at a steady
//! rate; simulated days pass in seconds, and end a little before now. A reader of the decisions
//! topic, as a bank's own consumer would be, shows what it gets and measures how long it took.

mod screen;
mod stage;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sanderling_features::Function;
use sanderling_ingest::{EventSource, FileSource, KafkaSource, SourceEvent};
use sanderling_schemas::Sequence;
use serde::Serialize;

use crate::failure::Failure;
use crate::folder::PipelineFolder;
use crate::kafka::{DecisionEncoder, DecisionReader, EmbeddedBroker, KafkaSink, TopicWriter};
use crate::line::{self, Feeder, Input, Lane, Mark, Next, Outcome, Outcomes, Work};
use crate::pipeline::Pipeline;
use crate::replay::{input_failure, open_files};
use crate::tally::{FraudSummary, Summary, Tally};
use screen::Screen;
use stage::{Stage, Topics};

/// Rows of a live batch at most.
const LIVE_ROWS_MAX: usize = 256;
/// How long the consumer waits for a first record.
const POLL: Duration = Duration::from_millis(2);
/// How long the last decisions may take after the last payment.
const DRAIN_WAIT: Duration = Duration::from_secs(10);
/// Rows of a batch of history.
const HISTORY_ROWS: usize = 1024;

/// What to show.
pub struct DemoOptions {
    /// Folder of the pipeline.
    pub pipeline: PathBuf,
    /// How long payments come.
    pub duration: Duration,
    /// Payments a second.
    pub rate: u32,
    /// Seed of the payments.
    pub seed: u64,
    /// Show nothing but the summary.
    pub quiet: bool,
    /// Functions that the pipeline's features may call.
    pub functions: Vec<Function>,
}

/// What was shown.
#[derive(Debug, Serialize)]
pub struct Demo {
    /// The summary of every run.
    #[serde(flatten)]
    pub summary: Summary,
    /// For each kind of planted fraud: how many came, were caught, and had their cause as the
    /// strongest reason.
    pub causes: BTreeMap<String, Cause>,
}

/// One kind of planted fraud.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Cause {
    /// Frauds decided on.
    pub planted: u64,
    /// Not approved.
    pub caught: u64,
    /// Caught, and the planted cause had the largest attribution.
    pub named: u64,
}

impl fmt::Display for Demo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        for (kind, cause) in &self.causes {
            writeln!(
                f,
                "{kind}: {} planted, {} caught, {} of them with the planted cause as first reason",
                cause.planted, cause.caught, cause.named
            )?;
        }
        write!(f, "{}", self.summary)
    }
}

/// What the threads of a demo tell each other.
#[derive(Default)]
pub(crate) struct Run {
    /// The consumer reads: payments may come.
    live: AtomicBool,
    /// Everything is over, or something failed.
    stop: AtomicBool,
    /// Payments sent so far.
    sent: AtomicU64,
    /// All payments are sent.
    all_sent: AtomicBool,
}

impl Run {
    fn is(&self, flag: &AtomicBool) -> bool {
        flag.load(Ordering::Acquire)
    }
}

/// Stops the run when its thread ends, however it ends.
struct StopsWith<'a>(&'a Run);

impl Drop for StopsWith<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Release);
    }
}

/// Runs the demo.
pub fn demo(options: &DemoOptions) -> Result<Demo, Failure> {
    let mut folder = PipelineFolder::open_with(&options.pipeline, &[], None, &options.functions)
        .map_err(|mut faults| faults.remove(0))?;
    let topics = Topics::of(&folder)?;
    let broker = EmbeddedBroker::start(topics.all())?;
    folder.settings.kafka.brokers = broker.brokers();
    let stage = Stage::set(options, &folder.settings.score[0])?;
    let mut pipeline = Pipeline::new(&folder, 1)?;
    pipeline.judge = pipeline.judge.decide_from(stage.live_from());
    let mut history = open_files(&folder, &stage.history(), None, None)?;
    let reader = DecisionReader::new(&folder.settings.kafka.brokers, &topics.decisions)?;
    let writer = TopicWriter::new(&folder.settings.kafka)?;
    // Labels are in no hurry, and the embedded broker looks through a topic's batches one by one.
    let mut unhurried = folder.settings.kafka.clone();
    unhurried
        .properties
        .insert("linger.ms".into(), "100".into());
    let label_writer = TopicWriter::new(&unhurried)?;
    let live = KafkaSource::new(
        folder.relation.clone(),
        &folder.streams,
        &folder.kafka_options("sanderling-demo"),
    )
    .map_err(input_failure)?;
    let sink = KafkaSink::at_least_once(
        &folder.settings.kafka,
        &folder.settings.output,
        DecisionEncoder::Json,
        live.committer(),
    )?;
    let mut screen = Screen::new(options.quiet);
    screen.say(&stage.announcement(options));

    let run = Run::default();
    let run = &run;
    let (tally, seconds) = thread::scope(|scope| {
        let fold = scope.spawn(move || {
            let _stops = StopsWith(run);
            let mut tally = Tally::default();
            line::run(
                true,
                |feeder| {
                    feeder.send(Input::Open(Lane::WHOLE, Box::new(pipeline)));
                    let sequence = feed_history(&mut history, feeder, run)?;
                    feed_live(live, sequence, feeder, run)
                },
                |outcomes| drain(outcomes, sink, &mut tally),
            )?;
            Ok::<_, Failure>(tally)
        });
        let payments =
            scope.spawn(|| stage.send_payments(options, &topics, [&writer, &label_writer], run));
        let watched = watch(&reader, &stage, run, &mut screen);
        run.stop.store(true, Ordering::Release);
        let sent = payments
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let tally = fold
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        sent?;
        watched.map(|seconds| (tally, seconds))
    })?;
    let mut summary = tally.summary(
        tally.decided_total(),
        seconds.as_secs_f64(),
        Some(screen.latency()),
    );
    let causes = screen.into_causes();
    summary.fraud = Some(FraudSummary {
        caught: causes.values().map(|cause| cause.caught).sum(),
        missed: causes
            .values()
            .map(|cause| cause.planted - cause.caught)
            .sum(),
    });
    Ok(Demo { summary, causes })
}

/// Folds the history; returns the sequence of the first live row.
fn feed_history(history: &mut FileSource, feeder: &Feeder, run: &Run) -> Result<u64, Failure> {
    let mut rows = 0;
    loop {
        match history
            .next(HISTORY_ROWS, Duration::ZERO)
            .map_err(input_failure)?
        {
            SourceEvent::Batch(batch) => {
                rows += batch.len() as u64;
                if !feeder.send(Input::Batch(Work::whole(batch))) || run.is(&run.stop) {
                    return Ok(rows);
                }
            }
            SourceEvent::End => return Ok(rows),
            SourceEvent::Rejected(_)
            | SourceEvent::Idle
            | SourceEvent::Assigned(_)
            | SourceEvent::Revoked(_) => {}
        }
    }
}

/// Feeds what the topics hold until the run stops; the first live row has the number `sequence`.
fn feed_live(
    mut live: KafkaSource,
    mut sequence: u64,
    feeder: &Feeder,
    run: &Run,
) -> Result<(), Failure> {
    while !run.is(&run.stop) {
        let fed = match live.next(LIVE_ROWS_MAX, POLL).map_err(input_failure)? {
            SourceEvent::Batch(mut batch) => {
                batch.sequence = Sequence(sequence);
                sequence += batch.len() as u64;
                feeder.send(Input::Batch(Work {
                    mark: Some(Mark {
                        next: live.offsets(),
                        ..Mark::default()
                    }),
                    ..Work::whole(batch)
                }))
            }
            SourceEvent::Rejected(letters) => feeder.send(Input::Rejected(letters)),
            SourceEvent::Assigned(_) => {
                run.live.store(true, Ordering::Release);
                true
            }
            SourceEvent::Idle | SourceEvent::Revoked(_) => true,
            SourceEvent::End => false,
        };
        if !fed {
            return Ok(());
        }
    }
    Ok(())
}

/// Sends what comes out of the line, and commits what has been delivered.
fn drain(outcomes: &mut Outcomes, mut sink: KafkaSink, tally: &mut Tally) -> Result<(), Failure> {
    loop {
        match outcomes.next_before(sink.due()) {
            Next::Outcome(Outcome::Decided(decided)) => {
                tally.decided(&decided);
                // History is not decided, and its order is the file's.
                if !decided.broker_time_us.is_empty() {
                    sink.send_decided(&decided)?;
                }
                if let Some(mark) = decided.mark {
                    sink.mark(mark);
                }
            }
            Next::Outcome(Outcome::Rejected(letters)) => {
                tally.rejected(&letters);
                sink.send_dead_letters(&letters)?;
            }
            Next::Outcome(Outcome::Mark(_) | Outcome::Barrier(_)) | Next::Nothing => {}
            Next::End => {
                sink.settle(true)?;
                return Ok(());
            }
        }
        sink.settle(false)?;
    }
}

/// Shows decisions until the last payment's has come. Returns the time from the first to the last.
fn watch(
    reader: &DecisionReader,
    stage: &Stage,
    run: &Run,
    screen: &mut Screen,
) -> Result<Duration, Failure> {
    let mut received = 0;
    let mut first = None;
    let mut last = Instant::now();
    loop {
        if let Some(decision) = reader.next(Duration::from_millis(50))? {
            first.get_or_insert_with(Instant::now);
            last = Instant::now();
            received += 1;
            screen.show(&decision, stage.planted(&decision.decision));
        }
        let all = run.is(&run.all_sent) && received >= run.sent.load(Ordering::Acquire);
        let overdue = run.is(&run.all_sent) && last.elapsed() > DRAIN_WAIT;
        if all || overdue || run.is(&run.stop) {
            return Ok(first.map_or(Duration::ZERO, |first| last - first));
        }
    }
}
