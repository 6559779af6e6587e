//! Positives that nothing tells of.
//!
//! Some rows are positive and look like any other: fraud at a terminal of which nothing bad is known yet.
//! What is known of it is old news, and the older, the likelier that something has happened since. With a
//! constant hazard (the exponential model of survival analysis) the probability is in proportion to that
//! age, the row's *exposure*, while it is small. A row is then positive with probability
//! `b + (1 - b) sigmoid(f)`, f being the network's output; training and serving hold to the same.

use crate::architecture::Architecture;
use crate::error::ScoringError;
use crate::front::StandardisedRows;
use crate::kernels::activation;
use crate::weights::Weights;

/// Largest probability: beyond it, what the inputs tell would count for less than their absence.
const MOST: f32 = 0.5;
/// Smallest probability: the loss takes its logarithm, where an output far from its label leaves nothing else.
const LEAST: f32 = 1e-12;
/// Smallest output that is told from smaller ones beside a background.
const LOWEST: f32 = -80.0;

/// Probability that a row is positive for what no input tells.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Background {
    /// The exposure, as an index into the inputs; absent where all rows are alike.
    input: Option<usize>,
    /// Of a row whose exposure is not known: the mean.
    mean: f32,
    /// For each unit of exposure.
    per_unit: f32,
}

impl Background {
    /// For training rows, each a feature row of the schema's columns: `training.unexplained` of the
    /// positives among `targets`, spread over the rows by their exposure.
    pub(crate) fn fit<'a>(
        shape: &Architecture,
        rows: impl Iterator<Item = &'a [f32]>,
        targets: &[f32],
    ) -> Self {
        let positives = targets.iter().filter(|&&y| y > 0.5).count() as f64;
        let mean = shape.options.training.unexplained * positives / targets.len().max(1) as f64;
        let per_unit = shape.exposure.map_or(0.0, |input| {
            let column = shape.inputs[input];
            let exposures: Vec<f64> = rows
                .map(|row| row[column])
                .filter(|exposure| exposure.is_finite())
                .map(|exposure| f64::from(exposure.max(0.0)))
                .collect();
            let sum: f64 = exposures.iter().sum();
            if sum > 0.0 {
                mean * exposures.len() as f64 / sum
            } else {
                0.0
            }
        });
        Self {
            input: shape.exposure,
            mean: mean as f32,
            per_unit: per_unit as f32,
        }
    }

    /// None, where the model's options name no exposure: alike for all rows, it moves none past another.
    pub(crate) fn load(
        shape: &Architecture,
        weights: &Weights,
    ) -> Result<Option<Self>, ScoringError> {
        let Some(input) = shape.exposure else {
            return Ok(None);
        };
        let numbers = weights.get("background", &[2])?;
        Ok(Some(Self {
            input: Some(input),
            mean: numbers[0],
            per_unit: numbers[1],
        }))
    }

    pub(crate) fn store(&self, weights: &mut Weights) {
        if self.input.is_some() {
            weights.insert("background", &[2], vec![self.mean, self.per_unit]);
        }
    }

    /// Whether any row has one.
    pub(crate) fn is_none(&self) -> bool {
        self.mean == 0.0
    }

    /// Of a row with such an exposure; NaN where it has none.
    fn at(&self, exposure: f32) -> f32 {
        let b = match exposure.is_nan() {
            true => self.mean,
            false => self.per_unit * exposure.max(0.0),
        };
        b.clamp(LEAST, MOST)
    }

    /// Of a feature row.
    pub(crate) fn of(&self, shape: &Architecture, features: &[f32]) -> f32 {
        self.at((self.input).map_or(f32::NAN, |input| features[shape.inputs[input]]))
    }

    /// Turns the outputs of some rows into the log-odds of `b + (1 - b) sigmoid(output)`, in place.
    pub(crate) fn add_to(&self, outputs: &mut [f32], rows: StandardisedRows<'_>) {
        let inputs = rows.logs.len() / outputs.len().max(1);
        for (output, logs) in outputs.iter_mut().zip(rows.logs.chunks_exact(inputs)) {
            // The logarithm is of 1 + x.
            let b =
                self.at((self.input).map_or(f32::NAN, |input| activation::exp(logs[input]) - 1.0));
            if b > 0.0 {
                // ln(b + e^f) - ln(1 - b), with e^f taken out of the first.
                let f = output.max(LOWEST);
                let seen = activation::ln_1p(b * activation::exp(-f));
                *output = f + seen + activation::ln_1p(b / (1.0 - b));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::schema;
    use crate::options::ModelOptions;

    fn shape(exposure: Option<&str>) -> Architecture {
        let mut options = ModelOptions::default();
        options.training.unexplained = 0.25;
        options.training.exposure = exposure.map(str::to_string);
        let schema = schema(&[("amount", None, false), ("unseen_for", Some(0), false)]);
        Architecture::new(&options, &schema, &["card".to_string()]).unwrap()
    }

    const ROWS: [[f32; 2]; 5] = [
        [1.0, 2.0],
        [2.0, 4.0],
        [3.0, f32::NAN],
        [4.0, 6.0],
        [5.0, -3.0],
    ];
    const TARGETS: [f32; 5] = [0.0, 1.0, 0.0, 0.0, 1.0];

    fn fitted(shape: &Architecture) -> Background {
        Background::fit(shape, ROWS.iter().map(|row| &row[..]), &TARGETS)
    }

    #[test]
    fn as_many_positives_as_are_unexplained_are_spread_by_exposure() {
        let shape = shape(Some("unseen_for"));
        let background = fitted(&shape);
        let found: Vec<f32> = ROWS.iter().map(|row| background.of(&shape, row)).collect();
        // A quarter of 2 positives on 5 rows: 0.1 a row; exposures of 2, 4, 6 and 0 have a mean of 3.
        for (found, wanted) in found.iter().zip([0.2 / 3.0, 0.4 / 3.0, 0.1, 0.2, 0.0]) {
            assert!((found - wanted).abs() < 1e-6, "{found} {wanted}");
        }
        assert!(found[4] > 0.0, "its logarithm is finite");
        let alike = super::tests::shape(None);
        assert_eq!(fitted(&alike).of(&alike, &[0.0, 0.0]), 0.1);
    }

    #[test]
    fn an_output_becomes_the_log_odds_of_both() {
        let background = fitted(&shape(Some("unseen_for")));
        for exposure in [0.0f32, 0.5, 6.0, 1e6, f32::NAN] {
            let mut logs = [0.0, exposure];
            activation::signed_logs(&mut logs);
            let b = f64::from(background.at(exposure));
            for f in [-200.0f32, -30.0, -6.5, -1.0, 0.0, 3.0, 40.0] {
                let mut found = [f];
                let rows = StandardisedRows {
                    logs: &logs,
                    z: &[0.0; 2],
                    missing: &[0.0; 2],
                };
                background.add_to(&mut found, rows);
                let wanted = (b + f64::from(f).exp()).ln() - (1.0 - b).ln();
                let wanted = if b > 0.0 { wanted } else { f64::from(f) };
                assert!(
                    (f64::from(found[0]) - wanted).abs() < 1e-5,
                    "exposure {exposure}, output {f}: {} {wanted}",
                    found[0]
                );
            }
        }
    }

    #[test]
    fn it_is_kept_with_the_weights() {
        let shape = shape(Some("unseen_for"));
        let mut weights = Weights::default();
        assert!(Background::load(&shape, &weights).is_err());
        fitted(&shape).store(&mut weights);
        assert_eq!(
            Background::load(&shape, &weights).unwrap(),
            Some(fitted(&shape))
        );
    }
}
