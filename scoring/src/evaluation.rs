//! Prequential evaluation: train, wait for the labels, test; then move on and do it again.
//!
//! The protocol is the Fraud-Detection-Handbook's (chapter 5, "Validation strategies"): training
//! days, then delay days whose labels are not known yet, then test days.

use std::time::Instant;

use sanderling_schemas::{NO_SLOT, Output, Rung};

use crate::device::Placement;
use crate::error::ScoringError;
use crate::metrics::{KeyedScore, auc, average_precision, card_precision};
use crate::options::ModelOptions;
use crate::recording::Recording;
use crate::train::{Trained, TrainingPlan, TrainingProgress, train_and_fold};

const DAY_US: i64 = 86_400_000_000;
/// Alerts a day in card precision.
const ALERTS: usize = 100;

/// Which days are for what.
#[derive(Debug, Clone)]
pub struct EvaluationPlan {
    /// First training day of the first fold, microseconds since 1970.
    pub start_us: i64,
    /// Number of folds.
    pub folds: usize,
    /// Days from a fold to the next.
    pub step_days: u32,
    /// Training days.
    pub train_days: u32,
    /// Days between training and test, for labels to become known.
    pub delay_days: u32,
    /// Test days.
    pub test_days: u32,
    /// Train each fold from here instead; test days and exclusions stay.
    pub train_from_us: Option<i64>,
    /// Leave out of the metrics, on each test day, keys with a positive event in the training days
    /// or later, up to `delay_days + 1` days before that day.
    pub exclude_known: bool,
    /// Seed of everything random.
    pub seed: u64,
    /// Where the test days are scored.
    pub placement: Placement,
}

/// What came of one fold.
#[derive(Debug, Clone, PartialEq)]
pub struct FoldReport {
    /// First training day, microseconds since 1970.
    pub start_us: i64,
    /// Area under the ROC curve.
    pub auc: f64,
    /// Average precision.
    pub average_precision: f64,
    /// Card precision at 100 alerts a day.
    pub card_precision: f64,
    /// Events that count in the metrics.
    pub rows: usize,
    /// Positive ones among them.
    pub positives: usize,
    /// Seconds of training.
    pub train_s: f64,
}

/// The score of a test-day event.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FoldScore {
    /// The event's number in the recording.
    pub event: u32,
    /// The fold, from 0.
    pub fold: u32,
    /// Calibrated score on the full rung.
    pub score: f64,
    /// It counts in the metrics.
    pub counted: bool,
}

/// All folds.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// One report a fold.
    pub folds: Vec<FoldReport>,
    /// Every test-day event, by fold.
    pub scores: Vec<FoldScore>,
}

impl Evaluation {
    /// Mean and sample standard deviation of a figure over the folds; the deviation of one fold
    /// is 0.
    pub fn spread(&self, figure: impl Fn(&FoldReport) -> f64) -> (f64, f64) {
        let n = self.folds.len() as f64;
        let mean = self.folds.iter().map(&figure).sum::<f64>() / n;
        let square = self
            .folds
            .iter()
            .map(|fold| (figure(fold) - mean).powi(2))
            .sum::<f64>();
        (
            mean,
            if n > 1.0 {
                (square / (n - 1.0)).sqrt()
            } else {
                0.0
            },
        )
    }
}

/// Trains and tests fold after fold, `threads` folds side by side.
///
/// `truth` holds the label of each event, NaN where nobody knows it; unlike the labels in the
/// recording, it knows those of the test days. `progress` hears of each fold's epochs.
///
/// # Errors
/// Those of training; [`ScoringError::TooFewRows`] for test days without events or with one class.
pub fn evaluate(
    recording: &Recording,
    truth: &[f32],
    options: &ModelOptions,
    plan: &EvaluationPlan,
    threads: usize,
    progress: &(dyn Fn(usize, TrainingProgress) + Sync),
) -> Result<Evaluation, ScoringError> {
    if options.output != Output::LogOdds {
        return Err(ScoringError::Option {
            name: "output".to_string(),
            wanted: "log_odds: the folds measure a class".to_string(),
        });
    }
    if truth.len() != recording.len() {
        return Err(ScoringError::Batch {
            rows: truth.len(),
            message: format!("a label for each of {} events is wanted", recording.len()),
        });
    }
    let run = |fold: usize| {
        run_fold(recording, truth, options, plan, fold, &|p| {
            progress(fold, p)
        })
    };
    let mut results: Vec<Option<Result<_, ScoringError>>> = (0..plan.folds).map(|_| None).collect();
    let share = plan
        .folds
        .div_ceil(threads.clamp(1, plan.folds.max(1)))
        .max(1);
    std::thread::scope(|scope| {
        for (part, results) in results.chunks_mut(share).enumerate() {
            scope.spawn(move || {
                for (i, result) in results.iter_mut().enumerate() {
                    *result = Some(run(part * share + i));
                }
            });
        }
    });
    let mut evaluation = Evaluation {
        folds: Vec::new(),
        scores: Vec::new(),
    };
    for result in results.into_iter().flatten() {
        let (report, scores) = result?;
        evaluation.folds.push(report);
        evaluation.scores.extend(scores);
    }
    Ok(evaluation)
}

fn run_fold(
    recording: &Recording,
    truth: &[f32],
    options: &ModelOptions,
    plan: &EvaluationPlan,
    fold: usize,
    progress: &dyn Fn(TrainingProgress),
) -> Result<(FoldReport, Vec<FoldScore>), ScoringError> {
    let days = |days: u32| i64::from(days) * DAY_US;
    let start_us = plan.start_us + fold as i64 * days(plan.step_days);
    let train_end = start_us + days(plan.train_days);
    let test_start = train_end + days(plan.delay_days);
    let test_end = test_start + days(plan.test_days);
    let training = TrainingPlan {
        from_us: plan.train_from_us.unwrap_or(start_us),
        to_us: train_end,
        known_by_us: test_start,
        seed: plan.seed,
    };
    let clock = Instant::now();
    let Trained {
        model,
        scorer,
        folded,
    } = train_and_fold(recording, options, &training, None, &mut |p| progress(p))?;
    let train_s = clock.elapsed().as_secs_f64();
    let mut scorer = scorer.placed(&plan.placement)?;

    let times = recording.times_us();
    let excluded = Excluded::new(recording, truth, plan, start_us);
    let mut scores = Vec::new();
    let end = recording.prefix(test_end).max(folded);
    scorer.fold_recording(recording, (folded, end), &[Rung::Full], |event, raw| {
        if times[event] < test_start || times[event] >= test_end {
            return;
        }
        let counted =
            !truth[event].is_nan() && !excluded.covers(recording.slots(0)[event], times[event]);
        scores.push(FoldScore {
            event: event as u32,
            fold: fold as u32,
            score: model.calibrations.full.apply(raw[0]),
            counted,
        });
    })?;
    let counted: Vec<&FoldScore> = scores.iter().filter(|score| score.counted).collect();
    let values: Vec<f64> = counted.iter().map(|score| score.score).collect();
    let positive: Vec<bool> = counted
        .iter()
        .map(|score| truth[score.event as usize] > 0.5)
        .collect();
    let positives = positive.iter().filter(|&&p| p).count();
    if positives == 0 || positives == positive.len() {
        return Err(ScoringError::TooFewRows(format!(
            "fold {fold} has {positives} positive events of {} in its test days; both classes are needed",
            positive.len()
        )));
    }
    let keyed: Vec<KeyedScore> = counted
        .iter()
        .zip(&positive)
        .map(|(score, &positive)| KeyedScore {
            day: times[score.event as usize].div_euclid(DAY_US),
            key: recording.slots(0)[score.event as usize],
            score: score.score,
            positive,
        })
        .collect();
    let report = FoldReport {
        start_us,
        auc: auc(&values, &positive),
        average_precision: average_precision(&values, &positive),
        card_precision: card_precision(&keyed, ALERTS),
        rows: positive.len(),
        positives,
        train_s,
    };
    Ok((report, scores))
}

/// From which day on each key is known to be compromised.
struct Excluded {
    /// For each slot, the first day on which its events no longer count.
    from_day: Vec<i64>,
}

impl Excluded {
    fn new(recording: &Recording, truth: &[f32], plan: &EvaluationPlan, start_us: i64) -> Self {
        let mut from_day = vec![i64::MAX; recording.slot_count(0)];
        if plan.exclude_known {
            let train_end = start_us + i64::from(plan.train_days) * DAY_US;
            for (event, &time) in recording.times_us().iter().enumerate() {
                let slot = recording.slots(0)[event];
                let is_positive = truth[event] > 0.5;
                if slot == NO_SLOT || time < start_us || !is_positive {
                    continue;
                }
                let day = match time < train_end {
                    true => i64::MIN,
                    false => time.div_euclid(DAY_US) + i64::from(plan.delay_days) + 1,
                };
                let from = &mut from_day[slot as usize];
                *from = (*from).min(day);
            }
        }
        Self { from_day }
    }

    fn covers(&self, slot: u32, time_us: i64) -> bool {
        self.from_day
            .get(slot as usize)
            .is_some_and(|&from| time_us.div_euclid(DAY_US) >= from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_keys_leave_when_their_label_would_be_known() {
        use sanderling_schemas::{Entity, FeatureSchema, Relation};
        let relation = Relation {
            schema: Relation::schema_of(&[]),
            streams: Vec::new(),
            id: None,
            entities: vec![Entity {
                name: "card".into(),
                key: "card_id".into(),
            }],
            labels: None,
            lateness_us: 0,
            late_rows: sanderling_schemas::LateRows::Decide,
            rows_per_key_max: None,
        };
        let schema = FeatureSchema {
            fields: Vec::new(),
            hash: "x".into(),
        };
        let mut recording = Recording::new(&schema, &relation);
        // Training days 0 to 6, delay 7 to 13, test 14 to 20.
        for (slot, day) in [(0, 3), (1, 6), (2, 7), (3, 8), (4, -1)] {
            recording.push_event(&[], &[slot], day * DAY_US);
        }
        let plan = EvaluationPlan {
            start_us: 0,
            folds: 1,
            step_days: 7,
            train_days: 7,
            delay_days: 7,
            test_days: 7,
            train_from_us: None,
            exclude_known: true,
            seed: 0,
            placement: Placement::default(),
        };
        let excluded = Excluded::new(&recording, &[1.0; 5], &plan, 0);
        let first_day = |slot: u32| (14..21).find(|day| excluded.covers(slot, day * DAY_US + 5));
        assert_eq!(
            [0, 1, 2, 3, 4].map(first_day),
            [Some(14), Some(14), Some(15), Some(16), None]
        );
    }
}
