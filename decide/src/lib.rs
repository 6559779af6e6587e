//! From a score to an action, and from an attribution to reasons a person can read. Pure.
//!
//! A policy is two files. `policy.yaml` says what is done:
//!
//! ```yaml
//! version: 1
//! thresholds: {review: 0.15, decline: 0.60}    # on the probability, for log-odds
//! score_thresholds: {review: 3.0}              # on the score itself, for any output
//! reviews_per_day: 200                         # instead of thresholds.review
//! costs: {missed: 120, review: 4, declined: 25} # instead of all thresholds
//! combine: strictest                           # or first
//! conditions:
//!   - {when: "card_count_15m >= 8", action: review}
//! ```
//!
//! With `strictest` everything is considered and the strictest action wins. With `first` the
//! conditions are tried in their order and the first that holds decides, `approve` included; only
//! where none holds do the thresholds speak. On the rung `rules` the score knows nothing of the
//! event, so the thresholds are silent and the conditions stand alone. A condition that is NULL
//! does not hold.
//!
//! `reviews_per_day` and `costs` become thresholds on the probability by what the model did on the
//! rows that were held out of its training: the lowest from which on no more than so many events a
//! day are reviewed, beside those declined; or those of least cost.
//!
//! `reason_codes.yaml` gives each attribution group its codes, most specific first:
//!
//! ```yaml
//! version: 1
//! codes:
//!   - {code: T01, group: terminal, when: "terminal_frauds_7d > 0", text: "Fraud at the terminal ..."}
//!   - {code: T04, group: terminal, text: "The recent activity of the terminal is unusual"}
//! ```

mod condition;
mod place;
mod policy;
mod reason;
mod thresholds;

pub use policy::Policy;
pub use thresholds::{Expected, Settled, Thresholds};

/// The file of actions, in a pipeline's folder.
pub const POLICY_FILE: &str = "policy.yaml";
/// The file of reason codes, in a pipeline's folder.
pub const REASON_CODES_FILE: &str = "reason_codes.yaml";
/// Reasons that one decision gives at most.
pub const REASONS_MAX: usize = 4;

/// A policy that cannot be used, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}{}: {message}", place::display(*line, *column))]
pub struct PolicyError {
    /// Which of the policy's files.
    pub file: &'static str,
    /// Line, from 1, where it could be found.
    pub line: Option<usize>,
    /// Column, from 1.
    pub column: Option<usize>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub cure: String,
}
