//! The live parity check: some of the decided rows are computed again, by other means.
//!
//! The line takes a sample (the rows of one event's keys) no more often than it is allowed to, and a thread
//! that lets all others go first computes its features again. While that one is busy no other sample is kept;
//! so it never holds a batch up, and what it costs is bounded by the rate.

use std::sync::{Arc, Mutex, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use sanderling_features::ParitySample;

use super::priority::yield_to_others;
use crate::telemetry::Metrics;

/// Takes samples off the line.
pub struct Sampler {
    every: Duration,
    next: Mutex<Instant>,
    samples: Sender<ParitySample>,
}

impl Sampler {
    /// A sampler of at most `rows_per_s` rows a second, and the thread that checks them, which ends when the
    /// sampler does; none if that is 0.
    pub fn start(rows_per_s: f64, metrics: Arc<Metrics>) -> Option<Arc<Self>> {
        if rows_per_s <= 0.0 {
            return None;
        }
        let (samples, sampled) = bounded(1);
        let checking = thread::Builder::new().name("parity".into());
        if let Err(error) = checking.spawn(move || check(&sampled, &metrics)) {
            tracing::warn!(%error, "no thread for the parity check");
            return None;
        }
        Some(Arc::new(Self {
            every: Duration::from_secs_f64(1.0 / rows_per_s),
            next: Mutex::new(Instant::now()),
            samples,
        }))
    }

    /// Whether a sample may be taken now.
    pub fn is_due(&self) -> bool {
        let now = Instant::now();
        let mut next = match self.next.try_lock() {
            Ok(next) => next,
            Err(TryLockError::Poisoned(next)) => next.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        let is_due = now >= *next && self.samples.is_empty();
        if is_due {
            *next = now + self.every;
        }
        is_due
    }

    /// Has a sample checked, unless another one still is.
    pub fn take(&self, sample: ParitySample) {
        // That it is one less shows in the count of rows.
        let _ = self.samples.try_send(sample);
    }
}

fn check(sampled: &Receiver<ParitySample>, metrics: &Metrics) {
    yield_to_others();
    for sample in sampled {
        let started = Instant::now();
        match sample.check() {
            Ok(report) => {
                metrics.parity(&report, started.elapsed());
                for feature in &report.mismatches {
                    tracing::error!(event = %sample.event, feature, "parity: the feature that was served is not what its rows say");
                }
            }
            Err(error) => {
                tracing::error!(event = %sample.event, %error, "parity: a row could not be computed again");
            }
        }
    }
}
