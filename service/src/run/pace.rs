//! Deadline first: how much to take on, and on which rung.
//!
//! The pace knows what a batch costs on each rung, learnt from the batches before, and what is on
//! the line already. A batch is scored on the highest rung that will be done in time. A rung changes
//! a score and never the state, so the ladder can be climbed again at any batch.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use sanderling_schemas::{Rung, Timing};

/// Batches on the line at once: one for each stage that takes time.
const BATCHES_MAX: usize = 3;
/// Rows of a batch, at most.
const ROWS_MAX: usize = 1024;
/// Rows of a batch, at least, however slow the model.
const ROWS_MIN: usize = 16;
/// From this many rows on, a batch tells what a row costs; below, what a batch costs by itself.
const ROWS_TELLING: usize = 8;
/// Weight of the newest observation, and of one that is worse than was predicted.
const NEWEST: f64 = 0.1;
const NEWEST_WORSE: f64 = 0.5;
/// What is predicted is held to be this much longer.
const MARGIN: f64 = 1.25;
/// By how much the cost of a rung that was too slow for a batch is forgotten, so that it is tried
/// again after an outlier.
const FORGET: f64 = 0.9998;
/// Rows of a batch before anything is known of what one costs.
const ROWS_FIRST: usize = 64;
/// Share of the deadline that the work on one batch may take.
const BATCH_SHARE: f64 = 0.3;

/// What a batch costs on a rung, microseconds.
#[derive(Debug, Clone, Copy, Default)]
struct Cost {
    batch_us: f64,
    row_us: f64,
}

impl Cost {
    fn of(&self, rows: usize) -> f64 {
        self.batch_us + self.row_us * rows as f64
    }
}

/// Predicts, and keeps count of what is on the line.
pub struct Pace {
    deadline_us: f64,
    costs: Mutex<[Cost; Rung::ALL.len()]>,
    /// Predicted cost of all that is on the line, microseconds.
    ahead_us: AtomicU64,
    /// What comes after the line: the wait for a commit, and the commit. Microseconds.
    after_us: AtomicU64,
    permits: (Sender<()>, Receiver<()>),
}

/// A place on the line, held by a batch while it is on it.
pub struct Permit {
    pace: Arc<Pace>,
    cost_us: u64,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.pace.ahead_us.fetch_sub(self.cost_us, Ordering::AcqRel);
        // There are as many places in the channel as there are permits.
        let _ = self.pace.permits.0.try_send(());
    }
}

impl Pace {
    /// A pace that keeps `deadline`, of which `after` is needed behind the line.
    pub fn new(deadline: Duration, after: Duration) -> Arc<Self> {
        let (give, take) = bounded(BATCHES_MAX);
        for _ in 0..BATCHES_MAX {
            let _ = give.try_send(());
        }
        Arc::new(Self {
            deadline_us: deadline.as_micros() as f64,
            costs: Mutex::default(),
            ahead_us: AtomicU64::new(0),
            after_us: AtomicU64::new(after.as_micros() as u64),
            permits: (give, take),
        })
    }

    /// A place on the line, if one is free within `wait`.
    pub fn permit(self: &Arc<Self>, wait: Duration) -> Option<Permit> {
        self.permits.1.recv_timeout(wait).ok()?;
        Some(Permit {
            pace: self.clone(),
            cost_us: 0,
        })
    }

    /// Rows to take into one batch.
    pub fn rows_max(&self) -> usize {
        let row_us = self.costs()[Rung::Full as usize].row_us;
        if row_us == 0.0 {
            return ROWS_FIRST;
        }
        ((self.deadline_us * BATCH_SHARE / row_us) as usize).clamp(ROWS_MIN, ROWS_MAX)
    }

    /// Whether an event that the broker took `age_us` ago has missed its deadline already.
    pub fn is_past(&self, age_us: i64) -> bool {
        age_us as f64 > self.deadline_us
    }

    /// The highest rung on which a batch of `rows` rows, the oldest of which the broker took
    /// `age_us` ago, will be done in time; the lowest if there is none.
    pub fn rung(&self, rows: usize, age_us: i64) -> Rung {
        let waits = self.ahead_us.load(Ordering::Acquire) as f64
            + self.after_us.load(Ordering::Acquire) as f64;
        let left = self.deadline_us - age_us as f64;
        let mut costs = self.costs();
        for rung in Rung::ALL {
            let cost = &mut costs[rung as usize];
            if (waits + cost.of(rows)) * MARGIN <= left {
                return rung;
            }
            cost.batch_us *= FORGET;
            cost.row_us *= FORGET;
        }
        Rung::Rules
    }

    /// A batch of `rows` rows goes onto the line with `permit`, to be scored on `rung`.
    pub fn enter(&self, permit: &mut Permit, rows: usize, rung: Rung) {
        let cost_us = self.costs()[rung as usize].of(rows) as u64;
        permit.cost_us += cost_us;
        self.ahead_us.fetch_add(cost_us, Ordering::AcqRel);
    }

    /// What a batch has really cost.
    pub fn learn(&self, rung: Rung, rows: usize, timing: &Timing) {
        let took = (timing.features_us + timing.score_us + timing.explain_us) as f64;
        let cost = &mut self.costs()[rung as usize];
        let (estimate, seen) = match rows {
            0 => return,
            ROWS_TELLING.. => (
                &mut cost.row_us,
                (took - cost.batch_us).max(0.0) / rows as f64,
            ),
            _ => {
                let of_rows = cost.row_us * rows as f64;
                (&mut cost.batch_us, (took - of_rows).max(0.0))
            }
        };
        *estimate = match *estimate == 0.0 {
            true => seen,
            false if seen > *estimate => *estimate + NEWEST_WORSE * (seen - *estimate),
            false => *estimate + NEWEST * (seen - *estimate),
        };
    }

    /// What a decision had to wait for behind the line, at most.
    pub fn committed(&self, took: Duration) {
        let took = took.as_micros() as f64;
        let before = self.after_us.load(Ordering::Acquire) as f64;
        let now = before + NEWEST * (took - before);
        self.after_us.store(now as u64, Ordering::Release);
    }

    fn costs(&self) -> MutexGuard<'_, [Cost; Rung::ALL.len()]> {
        self.costs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timing(us: u64) -> Timing {
        Timing {
            score_us: us,
            ..Timing::default()
        }
    }

    #[test]
    fn the_ladder_is_climbed_down_when_time_runs_out_and_up_again() {
        let pace = Pace::new(Duration::from_millis(50), Duration::from_millis(10));
        for (rung, us_per_row) in [
            (Rung::Full, 100),
            (Rung::NoGraph, 50),
            (Rung::Linear, 10),
            (Rung::Rules, 5),
        ] {
            for _ in 0..100 {
                pace.learn(rung, 256, &timing(256 * us_per_row));
            }
        }
        assert_eq!(pace.rung(256, 0), Rung::Full);
        assert_eq!(pace.rung(256, 20_000), Rung::NoGraph);
        assert_eq!(pace.rung(256, 30_000), Rung::Linear);
        assert_eq!(pace.rung(256, 49_000), Rung::Rules);
        assert_eq!(pace.rung(8, 20_000), Rung::Full, "few rows cost little");
        let mut permit = pace.permit(Duration::ZERO).unwrap();
        pace.enter(&mut permit, 256, Rung::Full);
        assert_ne!(
            pace.rung(256, 0),
            Rung::Full,
            "what is on the line comes first"
        );
        drop(permit);
        assert_eq!(pace.rung(256, 0), Rung::Full);
    }

    #[test]
    fn an_outlier_is_forgotten() {
        let pace = Pace::new(Duration::from_millis(50), Duration::ZERO);
        pace.learn(Rung::Full, 100, &timing(10_000_000));
        assert_ne!(pace.rung(100, 0), Rung::Full);
        let again = (0..100_000).any(|_| pace.rung(100, 0) == Rung::Full);
        assert!(again, "a rung that is never tried cannot be learnt anew");
    }

    #[test]
    fn there_are_only_so_many_places() {
        let pace = Pace::new(Duration::from_millis(50), Duration::ZERO);
        let mut held: Vec<_> = (0..BATCHES_MAX)
            .map(|_| pace.permit(Duration::ZERO).unwrap())
            .collect();
        assert!(pace.permit(Duration::ZERO).is_none());
        held.pop();
        assert!(pace.permit(Duration::ZERO).is_some());
    }
}
