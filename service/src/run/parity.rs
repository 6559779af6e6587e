//! The live parity check: some of the decided rows are computed again, by other means.
//!
//! The line takes a sample (the rows of one event's keys) no more often than it is allowed to, and a thread
//! that lets all others go first computes its features again. It reads the log behind the line (`log_reader`); a sample
//! waits until the log has come to its row, and if that takes too long its features are computed from the
//! rows of its own rings. So the check never holds a batch up, and what it costs is bounded by the rate of samples
//! and by the share of a core that reading the log may take.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, TryLockError};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use sanderling_features::{KeySample, LogSample, ParitySample};

use super::Service;
use super::log_reader::LogReader;
use super::priority::run_when_idle;
use crate::line::Lane;
use crate::telemetry::Metrics;

/// Samples that wait for the log at most.
const WAITING_MAX: usize = 64;
/// How long one waits for it.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Time between two looks at the log.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Time until a log that could not be read is tried again.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// Takes samples off the line.
pub struct Sampler {
    every: Duration,
    next: Mutex<Instant>,
    samples: Sender<ParitySample>,
    /// The keys that are followed through the log.
    keys: Arc<KeySample>,
}

impl Sampler {
    /// A sampler of at most `rows_per_s` rows a second, rows of `keys` first, and where its samples come out.
    pub fn new(rows_per_s: f64, keys: KeySample) -> (Self, Receiver<ParitySample>) {
        let (samples, sampled) = bounded(1);
        let sampler = Self {
            every: Duration::from_secs_f64(1.0 / rows_per_s),
            next: Mutex::new(Instant::now()),
            samples,
            keys: Arc::new(keys),
        };
        (sampler, sampled)
    }

    /// The keys whose rows come first.
    pub fn keys(&self) -> &Arc<KeySample> {
        &self.keys
    }

    /// Whether a sample may be taken now.
    pub fn is_due(&self) -> bool {
        let now = Instant::now();
        let next = match self.next.try_lock() {
            Ok(next) => *next,
            Err(TryLockError::Poisoned(next)) => **next.get_ref(),
            Err(TryLockError::WouldBlock) => return false,
        };
        // If no row of a followed key comes for as long again, any will do.
        self.keys.ask_for_any(now >= next + self.every);
        now >= next && self.samples.is_empty()
    }

    /// Has a sample checked, unless another one has not been fetched yet.
    pub fn take(&self, sample: ParitySample) {
        // That it is one less shows in the count of rows.
        if self.samples.try_send(sample).is_ok()
            && let Ok(mut next) = self.next.lock()
        {
            *next = Instant::now() + self.every;
        }
    }
}

/// The samples that wait to be checked.
pub struct Checks<'a> {
    metrics: &'a Metrics,
    /// Each partition is a lane of its own.
    by_partition: bool,
    sampled: &'a Receiver<ParitySample>,
    /// Closed when the line has ended.
    ended: &'a Receiver<()>,
    waiting: VecDeque<(Instant, ParitySample)>,
    /// There is a log to wait for.
    is_read: bool,
}

impl Service<'_> {
    /// Checks samples, and reads the log for them, until the line has ended.
    pub fn check_parity(
        &self,
        keys: &Arc<KeySample>,
        sampled: &Receiver<ParitySample>,
        ended: &Receiver<()>,
    ) {
        run_when_idle();
        let mut checks = Checks {
            metrics: &self.metrics,
            by_partition: self.by_partition,
            sampled,
            ended,
            waiting: VecDeque::new(),
            is_read: false,
        };
        loop {
            let read = LogReader::open(self, keys).and_then(|reader| {
                let Some(mut reader) = reader else {
                    return Ok(());
                };
                checks.is_read = true;
                while checks.wait(LOOK_EVERY) {
                    reader.turn(&mut checks)?;
                }
                Ok(())
            });
            checks.is_read = false;
            checks.expire(Duration::ZERO);
            let pause = match read {
                Ok(()) => Duration::MAX,
                Err(failure) => {
                    tracing::warn!(%failure, "parity: the log cannot be read again; rows are checked without it");
                    AGAIN_AFTER
                }
            };
            if !checks.wait(pause) {
                return;
            }
        }
    }
}

impl Checks<'_> {
    /// Takes samples as they come, for so long; `false` once the line has ended.
    pub fn wait(&mut self, wait: Duration) -> bool {
        let began = Instant::now();
        loop {
            self.expire(WAIT_MAX);
            let left = wait.saturating_sub(began.elapsed()).min(WAIT_MAX);
            select! {
                recv(self.ended) -> _ => return false,
                recv(self.sampled) -> sample => match sample {
                    Ok(sample) => self.waiting.push_back((Instant::now(), sample)),
                    Err(_) => return false,
                },
                default(left) => if began.elapsed() >= wait {
                    return true;
                },
            }
        }
    }

    /// The first sample that waits for one of these rows of a lane.
    pub fn take(&mut self, lane: Lane, rows: &Range<u64>) -> Option<ParitySample> {
        let by_partition = self.by_partition;
        let lane_of = |sample: &ParitySample| match by_partition {
            true => Lane(Some(sample.event.partition.0)),
            false => Lane::WHOLE,
        };
        let wanted = (self.waiting.iter().enumerate())
            .filter(|(_, (_, sample))| rows.contains(&sample.sequence) && lane_of(sample) == lane);
        let (first, _) = wanted.min_by_key(|(_, (_, sample))| sample.sequence)?;
        self.waiting.remove(first).map(|(_, sample)| sample)
    }

    /// Computes a row again, and says what is wrong.
    pub fn check(&self, sample: &ParitySample, log: Option<&LogSample>) {
        let started = Instant::now();
        match sample.check(log) {
            Ok(report) => {
                self.metrics.parity(&report, started.elapsed());
                for feature in &report.mismatches {
                    tracing::error!(event = %sample.event, feature, "parity: the feature that was served is not what its rows say");
                }
                let (missing, foreign) = (report.missing, report.foreign);
                if missing + foreign > 0 {
                    tracing::error!(event = %sample.event, missing, foreign, "parity: windows keep other rows of the event's keys than the log has");
                }
            }
            Err(error) => {
                tracing::error!(event = %sample.event, %error, "parity: a row could not be computed again");
            }
        }
    }

    /// How many rows of the log are kept.
    pub fn kept(&self, rows: usize) {
        self.metrics.parity_log(rows);
    }

    /// Checks without the log what has waited for so long, or too many.
    fn expire(&mut self, wait_max: Duration) {
        while let Some((since, _)) = self.waiting.front()
            && (!self.is_read || since.elapsed() >= wait_max || self.waiting.len() > WAITING_MAX)
            && let Some((_, sample)) = self.waiting.pop_front()
        {
            self.check(&sample, None);
        }
    }
}
