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

/// The logistic function: log-odds to probability.
pub fn probability(logit: f64) -> f64 {
    1.0 / (1.0 + (-logit).exp())
}
