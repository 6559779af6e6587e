//! The end of the live line: results to the broker, checkpoints to storage.
//!
//! A checkpoint is written only after everything before it is committed, so that no checkpoint
//! knows more than the order log does.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use sanderling_ingest::OrderLog;
use sanderling_schemas::{Offsets, Versions};

use super::Service;
use super::lanes::LanePosition;
use super::priority::run_when_idle;
use crate::checkpoint::CheckpointManifest;
use crate::failure::Failure;
use crate::kafka::{KafkaSink, Point};
use crate::line::{Barrier, Lane, Next, Outcome, Outcomes};
use crate::tally::Tally;
use crate::telemetry::{Awaited, Stage, TransactionEnd};

/// How many times longer than it took to write a part of a checkpoint its writer rests after it, so that the
/// line has the cores. Whoever waits for a checkpoint is spared that.
const RESTS: u32 = 2;

impl Service<'_> {
    /// Sends what comes out of the line until it ends. Barriers with state go to `checkpoints`.
    pub fn drain(
        &self,
        outcomes: &mut Outcomes,
        mut sink: KafkaSink,
        checkpoints: &Sender<Barrier>,
        tally: &mut Tally,
    ) -> Result<(), Failure> {
        let mut awaited = VecDeque::new();
        let mut cuts = VecDeque::new();
        loop {
            match outcomes.next_before(sink.due()) {
                Next::Outcome(Outcome::Decided(decided)) => {
                    if !decided.quiet {
                        self.pace.learn(
                            decided.order.rung,
                            decided.rows,
                            decided.decisions.len(),
                            &decided.timing,
                        );
                        let started = Instant::now();
                        sink.send_decided(&decided)?;
                        self.metrics.stage(Stage::Encode, started.elapsed());
                        self.metrics.batch(&decided);
                        awaited.extend(Awaited::of(&decided));
                        tally.decided(&decided);
                    }
                    if let Some(mark) = decided.mark {
                        sink.mark(mark);
                    }
                }
                Next::Outcome(Outcome::Rejected(letters)) => {
                    tally.rejected(&letters);
                    sink.send_dead_letters(&letters)?;
                }
                Next::Outcome(Outcome::Mark(offsets)) => sink.mark(offsets),
                Next::Outcome(Outcome::Barrier(barrier)) => {
                    // Who waits for a cut gives something up, and nothing may be open by then.
                    let now = barrier.passed.is_some();
                    let is_written = barrier.windows.is_some();
                    cuts.push_back((sink.point(), barrier));
                    if now {
                        self.waited_for
                            .fetch_add(u32::from(is_written), Ordering::AcqRel);
                        self.settle(&mut sink, &mut awaited, true)?;
                        pass_on(&mut cuts, &sink, checkpoints, true)?;
                    }
                }
                Next::Nothing => {}
                Next::End => {
                    self.settle(&mut sink, &mut awaited, true)?;
                    return pass_on(&mut cuts, &sink, checkpoints, true);
                }
            }
            self.settle(&mut sink, &mut awaited, false)?;
            pass_on(&mut cuts, &sink, checkpoints, false)?;
        }
    }

    fn settle(
        &self,
        sink: &mut KafkaSink,
        awaited: &mut VecDeque<Awaited>,
        now: bool,
    ) -> Result<(), Failure> {
        let deadline = Duration::from_millis(self.folder.settings.deadline_ms);
        for commit in sink.settle(now)? {
            let visible = commit.decisions.min(awaited.len());
            self.metrics.visible(awaited.drain(..visible), deadline);
            self.pace.committed(commit.whole);
            self.metrics.stage(Stage::Commit, commit.waited);
            for _ in 0..commit.aborts {
                self.metrics
                    .transaction(TransactionEnd::Aborted, commit.whole);
            }
            self.metrics
                .transaction(TransactionEnd::Committed, commit.whole);
        }
        if !self.exactly_once() {
            if let Some(took) = sink.delivery_took() {
                self.pace.committed(took);
            }
            self.metrics.visible(awaited.drain(..), deadline);
        }
        Ok(())
    }

    /// Writes checkpoints as they come, on a thread of its own, and tells who waits for one.
    pub fn write_checkpoints(&self, barriers: &Receiver<Barrier>, versions: &Versions) {
        run_when_idle();
        // Where the order log ended before the last checkpoint began: what comes after the next
        // one is certainly not before that.
        let mut order_from = self.order_ends();
        let mut forgotten: BTreeMap<Lane, u64> = BTreeMap::new();
        for barrier in barriers {
            // A lane that has come back counts anew.
            let before = forgotten
                .insert(barrier.lane, barrier.forgotten)
                .unwrap_or(0);
            self.metrics.forgotten(
                barrier
                    .forgotten
                    .checked_sub(before)
                    .unwrap_or(barrier.forgotten),
            );
            let started = Instant::now();
            let (lane, sequence) = (barrier.lane, barrier.sequence);
            let passed = barrier.passed.clone();
            match order_from.and_then(|from| self.write_checkpoint(barrier, versions, &from)) {
                Ok(bytes) => {
                    self.lanes.kept(lane);
                    self.metrics.checkpoint(started.elapsed(), bytes);
                    tracing::info!(%lane, sequence, bytes, seconds = started.elapsed().as_secs_f64(), "checkpoint");
                }
                Err(failure) => {
                    self.metrics.checkpoint_failed();
                    tracing::error!(%lane, sequence, %failure, cure = failure.cure, "no checkpoint; the last one and the order log still do");
                }
            }
            order_from = self.order_ends();
            self.writing.store(false, Ordering::Release);
            if let Some(passed) = passed {
                self.waited_for.fetch_sub(1, Ordering::AcqRel);
                let _ = passed.send(());
            }
        }
    }

    fn write_checkpoint(
        &self,
        barrier: Barrier,
        versions: &Versions,
        order_from: &Offsets,
    ) -> Result<u64, Failure> {
        let (Some(windows), Some(models)) = (barrier.windows, barrier.models) else {
            return Err(Failure::new(
                "checkpoint",
                "a stage let a barrier pass without its state",
            ));
        };
        let order = LanePosition {
            next: order_from
                .iter()
                .map(|(t, p, o)| (t.into(), p.0, o.0))
                .collect(),
        };
        let manifest = CheckpointManifest {
            sequence: barrier.sequence,
            position: barrier.position,
            versions: Versions {
                model: barrier.champion.unwrap_or_else(|| versions.model.clone()),
                ..versions.clone()
            },
            progress: serde_json::to_value(order)
                .map_err(|e| Failure::new("checkpoint", e.to_string()))?,
            files: Default::default(),
        };
        let rest = |took: Duration| {
            if self.waited_for.load(Ordering::Acquire) == 0 {
                thread::sleep(took * RESTS);
            }
        };
        (self.store(barrier.lane)?).write(windows, models, manifest, &rest)
    }

    /// Where the order log ends now; nowhere if there is none.
    fn order_ends(&self) -> Result<Offsets, Failure> {
        let Some(topic) = &self.folder.settings.output.order else {
            return Ok(Offsets::default());
        };
        let kafka = &self.folder.settings.kafka;
        OrderLog::new(&kafka.brokers, &kafka.properties, topic)
            .and_then(|log| log.ends())
            .map_err(|e| self.folder.input_failure(e))
    }
}

/// Gives the writer the cuts before which everything is there to be read, in order. Unless it must be `now`,
/// those that the writer has no time for stay: results do not wait for a checkpoint.
fn pass_on(
    cuts: &mut VecDeque<(Point, Barrier)>,
    sink: &KafkaSink,
    checkpoints: &Sender<Barrier>,
    now: bool,
) -> Result<(), Failure> {
    while let Some((point, barrier)) = cuts.pop_front() {
        if !now && (checkpoints.is_full() || !sink.is_settled(point)?) {
            cuts.push_front((point, barrier));
            break;
        }
        if barrier.windows.is_some() {
            // A writer that has failed has said so; the service goes on without it.
            let _ = checkpoints.send(barrier);
        } else if let Some(passed) = barrier.passed {
            let _ = passed.send(());
        }
    }
    Ok(())
}
