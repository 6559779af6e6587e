//! Thresholds: as they are written, or chosen by what a model did on rows that it had not learnt from.
//!
//! A model's manifest tells what lies above each score. So the same policy gives each model thresholds of its own, and
//! a successor that scores higher or lower sends no more and no fewer events to review than the
//! policy allows. The choice is a function of the policy and the manifest alone, so that a replay
//! makes it again.

use std::fmt;

use sanderling_schemas::{Action, HeldOut, OperatingPoint, Output, Rung, probability};
use serde::{Deserialize, Serialize};

use crate::PolicyError;
use crate::place::Source;
use crate::policy::PolicyFile;

/// From where on a score is reviewed and declined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thresholds {
    /// At or above it an event is reviewed.
    pub review: Option<f64>,
    /// At or above it an event is declined.
    pub decline: Option<f64>,
}

impl Thresholds {
    pub(crate) fn is_empty(self) -> bool {
        self == Self::default()
    }

    fn action(self, value: f64) -> Action {
        let reached = |threshold: Option<f64>| threshold.is_some_and(|t| value >= t);
        if reached(self.decline) {
            Action::Decline
        } else if reached(self.review) {
            Action::Review
        } else {
            Action::Approve
        }
    }

    pub(crate) fn check(
        self,
        source: Source<'_>,
        key: &str,
        probabilities: bool,
    ) -> Result<(), PolicyError> {
        let fault = |message: String, cure: &str| Err(source.fault_of_key(key, message, cure));
        for value in [self.review, self.decline].into_iter().flatten() {
            if !value.is_finite() || (probabilities && !(0.0..=1.0).contains(&value)) {
                let cure = "write probabilities between 0 and 1 under thresholds, scores under score_thresholds";
                return fault(format!("{value} is no threshold"), cure);
            }
        }
        match (self.review, self.decline) {
            (Some(review), Some(decline)) if review > decline => fault(
                format!("review at {review} never comes before decline at {decline}"),
                "let review begin at a lower threshold than decline",
            ),
            _ => Ok(()),
        }
    }
}

/// What each outcome costs, in any one unit. A review finds out what the event is.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Costs {
    /// A positive event that is approved.
    missed: f64,
    /// An event that is reviewed.
    review: f64,
    /// A negative event that is declined.
    declined: f64,
}

/// What thresholds are chosen for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Aim {
    /// As many reviews a day, beside what is declined.
    ReviewsPerDay(f64),
    /// The least cost.
    Costs(Costs),
}

/// The thresholds of a policy for one model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Settled {
    /// On the probability, for log-odds.
    pub by_probability: Thresholds,
    /// On the score itself, for any output.
    pub by_score: Thresholds,
    /// What those on the probability bring; absent where the model tells of no held-out rows.
    pub expected: Option<Expected>,
}

/// What thresholds bring by what held-out rows tell.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Expected {
    /// Rows that it was measured on.
    pub held_out_rows: usize,
    /// Positive ones among them.
    pub held_out_positives: usize,
    /// Reviews a day.
    pub reviews_per_day: f64,
    /// Events declined a day.
    pub declined_per_day: f64,
    /// Share of the positive rows that are reviewed or declined.
    pub caught: f64,
    /// Cost a day, where costs are given.
    pub cost_per_day: Option<f64>,
}

impl fmt::Display for Settled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from = |threshold: Option<f64>| match threshold {
            Some(p) => format!("from {:.2} % on", 100.0 * p),
            None => "never".to_string(),
        };
        let Thresholds { review, decline } = self.by_probability;
        write!(
            f,
            "by probability: review {}, decline {}",
            from(review),
            from(decline)
        )?;
        let Some(expected) = &self.expected else {
            return Ok(());
        };
        write!(
            f,
            "; on {} held-out rows that makes {:.0} reviewed and {:.0} declined a day, {:.0} % of {} \
             positives among them",
            expected.held_out_rows,
            expected.reviews_per_day,
            expected.declined_per_day,
            100.0 * expected.caught,
            expected.held_out_positives
        )?;
        match expected.cost_per_day {
            Some(cost) => write!(f, ", at a cost of {cost:.0} a day"),
            None => Ok(()),
        }
    }
}

impl Settled {
    /// What the thresholds say to a score. They are silent on the rung `rules`.
    pub(crate) fn action(&self, output: Output, rung: Rung, score: f64) -> Action {
        if rung == Rung::Rules {
            return Action::Approve;
        }
        let by_score = self.by_score.action(score);
        match output {
            Output::LogOdds => by_score.max(self.by_probability.action(probability(score))),
            Output::Value | Output::Forecast => by_score,
        }
    }
}

impl Aim {
    /// That of a policy, if it has one.
    pub(crate) fn of(source: Source<'_>, file: &PolicyFile) -> Result<Option<Self>, PolicyError> {
        let fault = |key: &str, message: &str, cure: &str| {
            Err(source.fault_of_key(key, message.to_string(), cure))
        };
        if let Some(reviews) = file.reviews_per_day {
            if !(reviews.is_finite() && reviews >= 0.0) {
                let cure = "write how many events people can look at in a day";
                return fault(
                    "reviews_per_day",
                    &format!("{reviews} is no number of reviews"),
                    cure,
                );
            }
            if file.thresholds.review.is_some() {
                let message = "review has a threshold and a number a day";
                return fault("reviews_per_day", message, "keep one of them");
            }
        }
        let Some(costs) = file.costs else {
            return Ok(file.reviews_per_day.map(Self::ReviewsPerDay));
        };
        if [costs.missed, costs.review, costs.declined]
            .iter()
            .any(|cost| !(cost.is_finite() && *cost >= 0.0))
        {
            return fault(
                "costs",
                "a cost is a number from 0 on",
                "write costs in one unit",
            );
        }
        if !file.thresholds.is_empty() || file.reviews_per_day.is_some() {
            let message = "costs say where to review and to decline, and so does another key";
            return fault(
                "costs",
                message,
                "keep costs, or thresholds and reviews_per_day",
            );
        }
        Ok(Some(Self::Costs(costs)))
    }

    /// Its key in the file.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::ReviewsPerDay(_) => "reviews_per_day",
            Self::Costs(_) => "costs",
        }
    }

    /// Thresholds on the probability, `given` being those that are written down.
    pub(crate) fn choose(self, given: Thresholds, held_out: &HeldOut) -> Thresholds {
        let threshold = |point: OperatingPoint| probability(point.score);
        match self {
            Self::ReviewsPerDay(reviews) => {
                let declined = given.decline.map_or(NOTHING, |p| above(held_out, p));
                let wanted = declined.rows as f64 + reviews / events_a_row(held_out);
                let points = held_out.points.iter();
                let within = points.take_while(|point| point.rows as f64 <= wanted);
                let lowest = within.last().filter(|point| point.rows > declined.rows);
                Thresholds {
                    review: lowest.copied().map(threshold),
                    ..given
                }
            }
            Self::Costs(costs) => {
                let (reached, declined) = costs.cheapest(held_out);
                Thresholds {
                    review: (reached.rows > declined.rows).then(|| threshold(reached)),
                    decline: (declined.rows > 0).then(|| threshold(declined)),
                }
            }
        }
    }
}

impl Expected {
    /// What thresholds on the probability bring, and what that costs.
    pub(crate) fn of(thresholds: Thresholds, aim: Option<Aim>, held_out: &HeldOut) -> Self {
        let at = |p: Option<f64>| p.map_or(NOTHING, |p| above(held_out, p));
        let declined = at(thresholds.decline);
        let reached = match at(thresholds.review) {
            reviewed if reviewed.rows > declined.rows => reviewed,
            _ => declined,
        };
        let per_day = events_a_row(held_out);
        Self {
            held_out_rows: held_out.rows,
            held_out_positives: held_out.positives,
            reviews_per_day: (reached.rows - declined.rows) as f64 * per_day,
            declined_per_day: declined.rows as f64 * per_day,
            caught: reached.positives as f64 / held_out.positives.max(1) as f64,
            cost_per_day: match aim {
                Some(Aim::Costs(costs)) => Some(costs.of(held_out, reached, declined) * per_day),
                Some(Aim::ReviewsPerDay(_)) | None => None,
            },
        }
    }
}

impl Costs {
    /// Of reviewing and declining what lies above two points.
    fn of(self, held_out: &HeldOut, reached: OperatingPoint, declined: OperatingPoint) -> f64 {
        let missed = held_out.positives - reached.positives;
        let reviewed = reached.rows - declined.rows;
        let wronged = declined.rows - declined.positives;
        self.missed * missed as f64 + self.review * reviewed as f64 + self.declined * wronged as f64
    }

    /// Points from which to review and from which to decline at the least cost; of equal ones those
    /// that do the least.
    fn cheapest(self, held_out: &HeldOut) -> (OperatingPoint, OperatingPoint) {
        let all = || std::iter::once(NOTHING).chain(held_out.points.iter().copied());
        let mut best = (self.of(held_out, NOTHING, NOTHING), (NOTHING, NOTHING));
        for reached in all() {
            for declined in all().take_while(|declined| declined.rows <= reached.rows) {
                let cost = self.of(held_out, reached, declined);
                if cost < best.0 {
                    best = (cost, (reached, declined));
                }
            }
        }
        best.1
    }
}

/// Above every score.
const NOTHING: OperatingPoint = OperatingPoint {
    score: f64::INFINITY,
    rows: 0,
    positives: 0,
};

/// Events a day that one held-out row stands for.
fn events_a_row(held_out: &HeldOut) -> f64 {
    held_out.events_per_day / held_out.rows.max(1) as f64
}

/// The last point at or above a probability.
fn above(held_out: &HeldOut, threshold: f64) -> OperatingPoint {
    let points = held_out.points.iter();
    let reached = points.take_while(|point| probability(point.score) >= threshold);
    reached.last().copied().unwrap_or(NOTHING)
}
