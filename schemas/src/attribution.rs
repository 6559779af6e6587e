//! Attributions: which group of inputs moved a score, and by how much.

use std::sync::Arc;

/// The largest gap between base value + attributions and the score that enumeration may leave.
pub const EXACT_TOLERANCE: f64 = 1e-6;
/// The same, for sampled attributions.
pub const SAMPLED_TOLERANCE: f64 = 1e-3;

/// Shapley values over named groups, on the score's own scale.
#[derive(Debug, Clone, PartialEq)]
pub struct Attribution {
    base_value: f64,
    groups: Arc<[String]>,
    values: Vec<f64>,
}

/// An attribution that does not add up. It is never emitted.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum AttributionError {
    /// The parts differ from the whole.
    #[error(
        "base {base_value} + attributions {sum} differ from the score {score} by more than {tolerance}"
    )]
    DoesNotAddUp {
        /// Score with every group absent.
        base_value: f64,
        /// Sum of the attributions.
        sum: f64,
        /// Score that was to be explained.
        score: f64,
        /// What was allowed.
        tolerance: f64,
    },
    /// A value for each group, no more and no less.
    #[error("{values} values for {groups} groups")]
    Shape {
        /// Number of values.
        values: usize,
        /// Number of groups.
        groups: usize,
    },
}

impl Attribution {
    /// Attributions for `groups` that add up to `score` within `tolerance`.
    pub fn new(
        base_value: f64,
        groups: Arc<[String]>,
        values: Vec<f64>,
        score: f64,
        tolerance: f64,
    ) -> Result<Self, AttributionError> {
        if values.len() != groups.len() {
            return Err(AttributionError::Shape {
                values: values.len(),
                groups: groups.len(),
            });
        }
        let sum: f64 = values.iter().sum();
        // NaN does not.
        let adds_up = (base_value + sum - score).abs() <= tolerance;
        if !adds_up {
            return Err(AttributionError::DoesNotAddUp {
                base_value,
                sum,
                score,
                tolerance,
            });
        }
        Ok(Self {
            base_value,
            groups,
            values,
        })
    }

    /// The score when every group is absent.
    pub fn base_value(&self) -> f64 {
        self.base_value
    }

    /// Group names, in the order of `values`.
    pub fn groups(&self) -> &Arc<[String]> {
        &self.groups
    }

    /// One value for each group.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// Group and value.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.groups
            .iter()
            .map(String::as_str)
            .zip(self.values.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_add_up_cannot_be_made() {
        let groups: Arc<[String]> = vec!["event".to_string(), "card".to_string()].into();
        let new = |values: Vec<f64>, score| {
            Attribution::new(-2.0, groups.clone(), values, score, EXACT_TOLERANCE)
        };
        assert!(new(vec![1.0, 0.5], -0.5).is_ok());
        assert!(matches!(
            new(vec![1.0, 0.5], -0.4),
            Err(AttributionError::DoesNotAddUp { .. })
        ));
        assert!(new(vec![f64::NAN, 0.5], -0.5).is_err());
        assert!(matches!(
            new(vec![1.5], -0.5),
            Err(AttributionError::Shape { .. })
        ));
    }
}
