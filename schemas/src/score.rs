//! Scores and the ladder of models that can give one in time.

use serde::{Deserialize, Serialize};

/// What a model's number means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// Calibrated log-odds of the positive class.
    LogOdds,
    /// A quantity, in the units of the label.
    Value,
    /// How far the row is from what was forecast for it: root mean square over the inputs, in
    /// standard deviations.
    Forecast,
}

/// A step of the ladder from the full model down. A rung changes the score, never the state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// Everything the model has.
    Full,
    /// Without what other endpoints remember.
    NoGraph,
    /// One linear map of the event's own features.
    Linear,
    /// The policy's conditions alone; every score is the training base rate.
    Rules,
}

impl Rung {
    /// From the most to the least expensive.
    pub const ALL: [Rung; 4] = [Rung::Full, Rung::NoGraph, Rung::Linear, Rung::Rules];

    /// Name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Rung::Full => "full",
            Rung::NoGraph => "no_graph",
            Rung::Linear => "linear",
            Rung::Rules => "rules",
        }
    }
}

/// One score for each scored row of a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct ScoreBatch {
    /// What the numbers mean.
    pub output: Output,
    /// The rung they were made on.
    pub rung: Rung,
    /// On the output's own scale: calibrated log-odds for [`Output::LogOdds`].
    pub scores: Vec<f64>,
}

/// What a model did on labelled events that it had not learnt from, by score: what a threshold would
/// have meant. Policies choose theirs by it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeldOut {
    /// Labelled events.
    pub rows: usize,
    /// Those with a positive label.
    pub positives: usize,
    /// Events a day, labelled or not, over the days of training.
    pub events_per_day: f64,
    /// Scores descending; the first few places one by one, then ever wider apart, the last event's
    /// among them.
    pub points: Vec<OperatingPoint>,
}

/// What lies at or above a score.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OperatingPoint {
    /// Calibrated log-odds.
    pub score: f64,
    /// Events.
    pub rows: usize,
    /// Positive ones among them.
    pub positives: usize,
}

impl HeldOut {
    /// Of scores with their labels. Tied scores are never parted.
    pub fn new(scores: &[f64], positive: &[bool], events_per_day: f64) -> Self {
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
        let (mut rows, mut positives, mut wanted) = (0, 0, 1);
        let mut points = Vec::new();
        for tie in order.chunk_by(|&a, &b| scores[a] == scores[b]) {
            rows += tie.len();
            positives += tie.iter().filter(|&&i| positive[i]).count();
            if rows >= wanted || rows == scores.len() {
                let score = scores[tie[0]];
                points.push(OperatingPoint {
                    score,
                    rows,
                    positives,
                });
                wanted = rows + (rows / 10).max(1);
            }
        }
        Self {
            rows,
            positives,
            events_per_day,
            points,
        }
    }
}

/// The logistic function: log-odds to probability.
pub fn probability(logit: f64) -> f64 {
    1.0 / (1.0 + (-logit).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_out_points_count_what_lies_above() {
        let scores: Vec<f64> = (0..1000).map(|i| f64::from(i / 2)).collect();
        let positive: Vec<bool> = (0..1000).map(|i| i >= 900).collect();
        let held_out = HeldOut::new(&scores, &positive, 500.0);
        assert_eq!((held_out.rows, held_out.positives), (1000, 100));
        let first = held_out.points[0];
        assert_eq!((first.score, first.rows, first.positives), (499.0, 2, 2));
        let last = held_out.points[held_out.points.len() - 1];
        assert_eq!((last.score, last.rows, last.positives), (0.0, 1000, 100));
        assert!(held_out.points.len() < 100);
        for point in &held_out.points {
            let above = |i: &usize| scores[*i] >= point.score;
            assert_eq!(point.rows, (0..1000).filter(above).count());
            let found = (0..1000).filter(above).filter(|&i| positive[i]).count();
            assert_eq!(point.positives, found);
        }
    }
}
