//! Deadline first: how much to take on, and on which rung.
//!
//! The pace knows what a batch costs on each rung, learnt from the batches before. The rung is
//! chosen when a batch is about to be scored, since only then is it known how long it has waited:
//! the highest one that will be done in time, and that leaves the batch behind it the time for a
//! lower one. A rung changes a score and never the state, so the ladder can be climbed again at any
//! batch.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sanderling_schemas::{Rung, Timing};

/// Batches on the line at once: one that is worked on, and one behind it. With more they get smaller,
/// and what every batch costs by itself adds up.
const BATCHES_MAX: usize = 2;
/// Rows of a batch, at most: 2 to this power.
const ROWS_MAX_LOG2: usize = 10;
/// Rows of a batch that are always taken, however slow the model: a lower rung will do for them.
const ROWS_MIN: usize = 16;
/// Weight of the newest observation, and of one that is worse than was predicted.
const NEWEST: f64 = 0.1;
const NEWEST_WORSE: f64 = 0.5;
/// What is predicted is held to be this much longer.
const MARGIN: f64 = 1.25;
/// By how much the cost of a single row is forgotten on a rung that was too slow, so that the rung
/// is tried again once everything had been slow for a while.
const FORGET: f64 = 0.9998;
/// Share of the deadline that one stage's work on a batch should take.
const STAGE_SHARE: f64 = 0.3;
/// Share of the deadline that scoring a batch may take: the rest is for those that wait meanwhile.
const SCORE_SHARE: f64 = 0.6;
/// Share of the deadline that is not worth a lower rung: what is late for other reasons is not late for
/// this.
const SCORE_SHARE_SMALL: f64 = 0.05;
/// Share of the deadline that is kept for what nothing predicts.
const RESERVE: f64 = 0.15;
/// Share of the deadline that is left for what comes after the line, at most: where commits take longer, it is
/// they that make decisions late, and a lower rung all the time would not help it.
const AFTER_SHARE: f64 = 0.5;
/// What came after the line is remembered of so many commits; at least once, of so many batches. On a busy stream that
/// is longer than from one stall of the broker to the next, as when it collects its garbage.
const COMMITS: u64 = 1_024;
/// What a rung that was never tried is held to cost, of what the one above it costs.
const UNTRIED: f64 = 0.5;

/// What batches cost by their size, microseconds: one entry for each power of two of rows. Batches
/// of a size that was never seen are held to cost what those next in size do, never less.
#[derive(Debug, Clone, Copy, Default)]
struct Costs([Option<f64>; ROWS_MAX_LOG2 + 1]);

impl Costs {
    /// The entry of batches of so many rows: those of `2^n` and fewer, but more than `2^(n-1)`.
    fn size(rows: usize) -> usize {
        (rows.max(1).next_power_of_two().ilog2() as usize).min(ROWS_MAX_LOG2)
    }

    /// The least of what larger batches cost, and of what it would cost in smaller ones.
    fn predict(&self, rows: usize) -> Option<f64> {
        let wanted = Self::size(rows);
        let known = self.0.iter().enumerate();
        known
            .filter_map(|(size, cost)| {
                let batches = 1 << wanted.saturating_sub(size);
                Some((*cost)? * f64::from(batches))
            })
            .reduce(f64::min)
    }

    fn learn(&mut self, rows: usize, took_us: f64) {
        let estimate = &mut self.0[Self::size(rows)];
        *estimate = Some(match *estimate {
            None => took_us,
            Some(before) => towards(before, took_us),
        });
    }

    fn forget(&mut self) {
        if let Some(one) = &mut self.0[0] {
            *one *= FORGET;
        }
    }
}

/// An estimate after one more observation: quick to see the worse, slow to believe the better.
fn towards(before: f64, seen: f64) -> f64 {
    let weight = match seen > before {
        true => NEWEST_WORSE,
        false => NEWEST,
    };
    before + weight * (seen - before)
}

/// The slowest of the last commits. Their tail is long, and a budget that holds for most of them is none.
struct Behind {
    /// How many there were.
    commits: u64,
    /// Those of the last that were slower than all that came after them, at most [`COMMITS`]: which one, and
    /// microseconds. The slowest is the first.
    slow: VecDeque<(u64, u64)>,
}

impl Behind {
    fn new(guess: Duration) -> Self {
        Self {
            commits: 0,
            slow: [(0, guess.as_micros() as u64)].into(),
        }
    }

    fn learn(&mut self, took: Duration) {
        let took_us = took.as_micros() as u64;
        self.commits += 1;
        while self.slow.back().is_some_and(|(_, us)| *us <= took_us) {
            self.slow.pop_back();
        }
        self.slow.push_back((self.commits, took_us));
        let is_old = |(at, _): &(u64, u64)| at + COMMITS <= self.commits;
        while self.slow.front().is_some_and(is_old) {
            self.slow.pop_front();
        }
    }

    /// What all of them stayed below, microseconds.
    fn most(&self) -> u64 {
        self.slow.front().map_or(0, |(_, us)| *us)
    }
}

#[derive(Default)]
struct Learnt {
    features: Costs,
    /// Scoring, and explaining what it found, by rung.
    rungs: [Costs; Rung::ALL.len()],
}

impl Learnt {
    fn scoring(&self, rung: Rung, rows: usize) -> Option<f64> {
        let mut above = None;
        for tried in Rung::ALL {
            let known = self.rungs[tried as usize].predict(rows);
            above = known.or(above.map(|above: f64| above * UNTRIED));
            if tried == rung {
                break;
            }
        }
        above
    }
}

/// Predicts, and lets only so much onto the line.
pub struct Pace {
    deadline_us: f64,
    learnt: Mutex<Learnt>,
    behind: Mutex<Behind>,
    /// What is to be left for what comes after the line: the wait for a commit, and the commit. Microseconds.
    after_us: AtomicU64,
    /// Places on the line that are free.
    free: Mutex<usize>,
    freed: Condvar,
}

/// A place on the line, held by a batch while it is on it.
pub struct Permit {
    pace: Arc<Pace>,
}

impl Permit {
    /// The rung for a batch that is about to be scored.
    pub fn rung(&self, rows: usize, age_us: i64) -> Rung {
        self.pace.rung(rows, age_us)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        *self.pace.free() += 1;
        self.pace.freed.notify_one();
    }
}

impl Pace {
    /// A pace that keeps `deadline`, of which `after` is needed behind the line.
    pub fn new(deadline: Duration, after: Duration) -> Arc<Self> {
        Arc::new(Self {
            deadline_us: deadline.as_micros() as f64,
            learnt: Mutex::default(),
            behind: Mutex::new(Behind::new(after)),
            after_us: AtomicU64::new(after.as_micros() as u64),
            free: Mutex::new(BATCHES_MAX),
            freed: Condvar::new(),
        })
    }

    /// A place on the line, if one is free within `wait`.
    pub fn permit(self: &Arc<Self>, wait: Duration) -> Option<Arc<Permit>> {
        let (mut free, _) = self
            .freed
            .wait_timeout_while(self.free(), wait, |free| *free == 0)
            .unwrap_or_else(PoisonError::into_inner);
        *free = free.checked_sub(1)?;
        Some(Arc::new(Permit { pace: self.clone() }))
    }

    /// Rows to take into one batch: as many as the slower of two stages does in its share of the
    /// deadline. The first batch of all is a single row, which tells what one costs.
    pub fn rows_max(&self) -> usize {
        let learnt = self.learnt();
        let full = &learnt.rungs[Rung::Full as usize];
        let within = |rows: usize| {
            let stages = [full.predict(rows), learnt.features.predict(rows)];
            let slower = stages.into_iter().flatten().reduce(f64::max);
            slower.map(|us| us <= self.deadline_us * STAGE_SHARE)
        };
        if within(1).is_none() {
            return 1;
        }
        let sizes = (0..=ROWS_MAX_LOG2).rev().map(|size| 1 << size);
        sizes
            .take_while(|rows| *rows > ROWS_MIN)
            .find(|rows| within(*rows) == Some(true))
            .unwrap_or(ROWS_MIN)
    }

    /// Whether an event that the broker took `age_us` ago has missed its deadline already.
    pub fn is_past(&self, age_us: i64) -> bool {
        age_us as f64 > self.deadline_us
    }

    /// The highest rung on which a batch of `rows` rows, the oldest of which the broker took
    /// `age_us` ago, will be done in time; the lowest if there is none.
    fn rung(&self, rows: usize, age_us: i64) -> Rung {
        let after =
            (self.after_us.load(Ordering::Acquire) as f64).min(self.deadline_us * AFTER_SHARE);
        let whole = self.deadline_us * (1.0 - RESERVE) - after;
        let left = (whole - age_us as f64)
            .min(whole * SCORE_SHARE)
            .max(self.deadline_us * SCORE_SHARE_SMALL);
        let mut learnt = self.learnt();
        for rung in Rung::ALL {
            let predicted = learnt.scoring(rung, rows).unwrap_or(0.0);
            if predicted * MARGIN <= left {
                return rung;
            }
            learnt.rungs[rung as usize].forget();
        }
        Rung::Rules
    }

    /// What a batch of so many rows, `scored` of which were scored, has really cost.
    pub fn learn(&self, rung: Rung, rows: usize, scored: usize, timing: &Timing) {
        let mut learnt = self.learnt();
        learnt.features.learn(rows, timing.features_us as f64);
        if scored > 0 {
            let took_us = (timing.score_us + timing.explain_us) as f64;
            learnt.rungs[rung as usize].learn(scored, took_us);
        }
    }

    /// What the first decision of a transaction had to wait for behind the line; at least once, what a record
    /// had to until the broker had it.
    pub fn committed(&self, took: Duration) {
        let mut behind = self.behind.lock().unwrap_or_else(PoisonError::into_inner);
        behind.learn(took);
        self.after_us.store(behind.most(), Ordering::Release);
    }

    fn free(&self) -> MutexGuard<'_, usize> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn learnt(&self) -> MutexGuard<'_, Learnt> {
        self.learnt.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn learns(pace: &Pace, rung: Rung, rows: usize, us: u64) {
        for _ in 0..100 {
            pace.learn(rung, rows, rows, &timing(us));
        }
    }

    #[test]
    fn the_ladder_is_climbed_down_when_time_runs_out_and_up_again() {
        let pace = Pace::new(Duration::from_millis(50), Duration::from_millis(5));
        for (rung, us_per_row) in [
            (Rung::Full, 70),
            (Rung::NoGraph, 50),
            (Rung::Linear, 10),
            (Rung::Rules, 5),
        ] {
            for rows in [8, 256] {
                learns(&pace, rung, rows, rows as u64 * us_per_row);
            }
        }
        assert_eq!(pace.rung(256, 0), Rung::Full);
        assert_eq!(pace.rung(256, 20_000), Rung::NoGraph);
        assert_eq!(pace.rung(256, 33_000), Rung::Linear);
        assert_eq!(pace.rung(256, 49_000), Rung::Rules);
        assert_eq!(pace.rung(8, 25_000), Rung::Full, "few rows cost little");
        pace.committed(Duration::from_millis(40));
        assert_ne!(pace.rung(256, 0), Rung::Full, "a commit was slow");
        assert_eq!(
            pace.rung(64, 0),
            Rung::Full,
            "but not so slow that a lower rung would help"
        );
        assert_eq!(pace.rung(8, 20_000), Rung::Full, "not worth a lower rung");
        for _ in 1..COMMITS {
            pace.committed(Duration::from_millis(5));
        }
        assert_ne!(pace.rung(256, 0), Rung::Full, "it is still remembered");
        pace.committed(Duration::from_millis(5));
        assert_eq!(pace.rung(256, 0), Rung::Full);
    }

    #[test]
    fn a_batch_leaves_time_for_the_one_behind_it() {
        let pace = Pace::new(Duration::from_millis(100), Duration::ZERO);
        learns(&pace, Rung::Full, 16, 70_000);
        assert_ne!(
            pace.rung(16, 0),
            Rung::Full,
            "it would be done in time itself"
        );
    }

    #[test]
    fn what_was_never_tried_is_not_held_to_be_cheap() {
        let pace = Pace::new(Duration::from_millis(50), Duration::ZERO);
        assert_eq!(pace.rows_max(), 1, "nothing is known");
        learns(&pace, Rung::Full, 1, 1_000);
        assert_eq!(pace.rung(16, 0), Rung::Full);
        assert_ne!(pace.rung(64, 0), Rung::Full);
        assert_eq!(pace.rows_max(), ROWS_MIN);
        learns(&pace, Rung::Full, 16, 1_600);
        assert_eq!(pace.rung(64, 0), Rung::Full);
        assert_eq!(pace.rows_max(), 128);
    }

    #[test]
    fn an_outlier_is_forgotten() {
        let pace = Pace::new(Duration::from_millis(50), Duration::ZERO);
        pace.learn(Rung::Full, 100, 100, &timing(10_000_000));
        assert_ne!(pace.rung(100, 0), Rung::Full);
        learns(&pace, Rung::Full, 8, 1_000);
        assert_eq!(
            pace.rung(100, 0),
            Rung::Full,
            "smaller batches tell otherwise"
        );
        learns(&pace, Rung::Full, 1, 10_000_000);
        learns(&pace, Rung::Full, 8, 10_000_000);
        assert_ne!(pace.rung(8, 0), Rung::Full);
        let again = (0..100_000).any(|_| pace.rung(1, 0) == Rung::Full);
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
