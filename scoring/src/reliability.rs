//! Whether a probability means what it says: of the events that were given one in ten, one in ten should be
//! positive.
//!
//! Positives are rare, so bins of one width would put nearly all events into the first and tell nothing of
//! the rest, and bins of as many events each would put all thresholds of a policy into the last. The bins
//! here are narrow where probabilities are low, and are always the same, so that two models can be held
//! against each other.

use sanderling_schemas::probability;
use serde::{Deserialize, Serialize};

/// Ends of the bins; each reaches from the end before to below its own, the last to 1.
const ENDS: [f64; 10] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0];

/// How far calibrated probabilities are from what came true, on events that the weights had not learnt from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reliability {
    /// Mean over the events of (probability - label)^2; 0 is best, and who always says the share of
    /// positives s has s (1 - s). Half of what Brier 1950 defines ("Verification of forecasts expressed in
    /// terms of probability"), where both classes are summed.
    pub brier: f64,
    /// Sum over the bins of their share of the events times the distance between mean probability and
    /// share of positives (Guo et al. 2017, "On calibration of modern neural networks", equation 3).
    pub expected_calibration_error: f64,
    /// From low to high probabilities; those that no event is in are left out.
    pub bins: Vec<ReliabilityBin>,
}

/// The events whose probability lies in one range.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ReliabilityBin {
    /// Mean probability that was given.
    pub predicted: f64,
    /// Share of the events that were positive.
    pub positive: f64,
    /// Number of events.
    pub events: usize,
}

impl Reliability {
    /// Of calibrated log-odds with their labels, of which there is at least one.
    pub(crate) fn new(scores: &[f64], positive: &[bool]) -> Self {
        let n = scores.len() as f64;
        let mut bins = [(0.0, 0usize, 0usize); ENDS.len()];
        let mut squares = 0.0;
        for (&score, &positive) in scores.iter().zip(positive) {
            let p = probability(score);
            squares += (p - if positive { 1.0 } else { 0.0 }).powi(2);
            let at = ENDS.partition_point(|&end| end <= p).min(ENDS.len() - 1);
            let (sum, positives, events) = &mut bins[at];
            *sum += p;
            *positives += usize::from(positive);
            *events += 1;
        }
        let bins: Vec<ReliabilityBin> = bins
            .iter()
            .filter(|&&(_, _, events)| events > 0)
            .map(|&(sum, positives, events)| ReliabilityBin {
                predicted: sum / events as f64,
                positive: positives as f64 / events as f64,
                events,
            })
            .collect();
        let gaps = bins
            .iter()
            .map(|bin| bin.events as f64 / n * (bin.predicted - bin.positive).abs());
        Self {
            brier: squares / n,
            expected_calibration_error: gaps.sum(),
            bins,
        }
    }
}

impl std::fmt::Display for Reliability {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "expected calibration error {:.5}, Brier score {:.5}\n{:>11}{:>11}{:>11}",
            self.expected_calibration_error, self.brier, "predicted", "positive", "events"
        )?;
        for bin in &self.bins {
            write!(
                f,
                "\n{:>11.5}{:>11.5}{:>11}",
                bin.predicted, bin.positive, bin.events
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logit(p: f64) -> f64 {
        (p / (1.0 - p)).ln()
    }

    #[test]
    fn brier_bins_and_error_by_hand() {
        let given = [
            (0.02, false),
            (0.01, false),
            (0.01, true),
            (0.6, true),
            (0.8, true),
            (0.8, true),
            (0.8, false),
            (1.0 - 1e-12, true),
        ];
        let scores: Vec<f64> = given.iter().map(|&(p, _)| logit(p)).collect();
        let positive: Vec<bool> = given.iter().map(|&(_, positive)| positive).collect();
        let found = Reliability::new(&scores, &positive);
        // Three events from .01 to .03, one from .5, three from .7, one at the very top.
        let bins = [
            (0.04 / 3.0, 1.0 / 3.0, 3),
            (0.6, 1.0, 1),
            (0.8, 2.0 / 3.0, 3),
            (1.0, 1.0, 1),
        ];
        assert_eq!(found.bins.len(), bins.len());
        for (bin, (predicted, positive, events)) in found.bins.iter().zip(bins) {
            assert!((bin.predicted - predicted).abs() < 1e-9, "{bin:?}");
            assert!((bin.positive - positive).abs() < 1e-12, "{bin:?}");
            assert_eq!(bin.events, events);
        }
        // .0004 + .0001 + .9801 + .16 + .04 + .04 + .64 + 0, of eight.
        assert!((found.brier - 1.8606 / 8.0).abs() < 1e-9, "{}", found.brier);
        // 3/8 x .32 + 1/8 x .4 + 3/8 x .13333 + 1/8 x 0.
        let error = found.expected_calibration_error;
        assert!((error - (0.96 + 0.4 + 0.4) / 8.0).abs() < 1e-9, "{error}");
    }

    #[test]
    fn what_is_always_right_about_the_share_has_no_error() {
        let positive: Vec<bool> = (0..100).map(|i| i % 4 == 0).collect();
        let found = Reliability::new(&[logit(0.25); 100], &positive);
        assert!(found.expected_calibration_error < 1e-12);
        assert!((found.brier - 0.25 * 0.75).abs() < 1e-12);
        assert_eq!(found.bins.len(), 1);
    }

    #[test]
    fn no_score_is_beyond_the_bins() {
        let found = Reliability::new(
            &[f64::MIN, -800.0, 800.0, f64::MAX],
            &[false, false, true, true],
        );
        assert_eq!((found.brier, found.expected_calibration_error), (0.0, 0.0));
        assert_eq!(found.bins.iter().map(|bin| bin.events).sum::<usize>(), 4);
    }
}
