//! Which groups of inputs moved a score, and by how much.
//!
//! The players are the model's named groups: the event itself and the history of each entity. The
//! value of a coalition is the score with every other group absent, and absent means something a
//! bank can say aloud: an entity that was never seen, or a payment with the training medians for
//! its own features. Shapley values over that game add up to the score by construction, and
//! [`Attribution`] refuses to exist when they do not.
//!
//! The rooms hand over what the model saw *before* an event updated anything, so an explanation
//! reads no state and can be made again from a decision's inputs.

mod coalition;
mod shapley;

use std::sync::Arc;

use sanderling_schemas::attribution::{EXACT_TOLERANCE, SAMPLED_TOLERANCE};
use sanderling_schemas::{Attribution, AttributionError, Rung, Sequence};
use sanderling_scoring::{Group, Model, ModelInputs, ScoringError};

use coalition::{Baseline, Coalition};

/// Up to this many groups every coalition is scored; above, permutations are sampled.
pub const EXACT_GROUPS_MAX: usize = 6;
/// Permutations sampled for each row above that, each with its reverse.
pub const SAMPLED_PAIRS: usize = 32;
/// Coalitions scored by one call of the model. Bounds the memory, not the answer.
const FORWARD_ROWS_MAX: usize = 4096;

/// What cannot be explained.
#[derive(Debug, thiserror::Error)]
pub enum ExplainError {
    /// More groups than a coalition can name.
    #[error("{groups} groups, at most {} can be explained", coalition::GROUPS_MAX)]
    TooManyGroups {
        /// Number of groups.
        groups: usize,
    },
    /// Two groups share an input, or a group names one that the model does not have.
    #[error("group {group:?}: {what}")]
    Group {
        /// Name of the group.
        group: String,
        /// What is wrong with it.
        what: String,
    },
    /// Inputs that are not of the model's shape.
    #[error("{what}: {got} values, wanted {wanted}")]
    Shape {
        /// Which input.
        what: &'static str,
        /// Number of values.
        got: usize,
        /// Number wanted.
        wanted: usize,
    },
    /// The model could not be asked.
    #[error(transparent)]
    Model(#[from] ScoringError),
    /// The parts differ from the whole.
    #[error("event {}: {error}", sequence.0)]
    Attribution {
        /// The event.
        sequence: Sequence,
        /// What did not add up.
        error: AttributionError,
    },
}

/// Scored rows that are to be explained.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// What the model saw of them.
    pub inputs: &'a ModelInputs,
    /// rows x F: their features if every entity had never been seen; NaN = NULL.
    pub cold_features: &'a [f32],
    /// The score of each row, which its attributions must add up to.
    pub scores: &'a [f64],
    /// The place of each row in the accepted order; seeds the sampling.
    pub sequences: &'a [Sequence],
}

/// Shapley values over one model's groups.
#[derive(Debug, Clone)]
pub struct Explainer {
    names: Arc<[String]>,
    baseline: Baseline,
    seed: u64,
}

impl Explainer {
    /// An explainer for a model with these groups, the training medians of its F features and the C
    /// context values of an entity never seen. The group called `event` falls back to the
    /// medians, every other to a cold row.
    pub fn new(
        groups: &[Group],
        medians: &[f32],
        cold_context: &[f32],
        seed: u64,
    ) -> Result<Self, ExplainError> {
        Ok(Self {
            names: groups.iter().map(|g| g.name.clone()).collect(),
            baseline: Baseline::new(groups, medians, cold_context)?,
            seed,
        })
    }

    /// Names of the groups, in the order of an attribution's values.
    pub fn groups(&self) -> &Arc<[String]> {
        &self.names
    }

    /// One attribution for each row, on the scale of the score. The same bytes whatever rows it is
    /// asked about together.
    pub fn explain(
        &self,
        model: &dyn Model,
        rows: &Rows<'_>,
        rung: Rung,
    ) -> Result<Vec<Attribution>, ExplainError> {
        self.check(rows)?;
        let plans: Vec<Plan> = rows.sequences.iter().map(|s| self.plan(*s)).collect();
        let coalitions: Vec<(usize, Coalition)> = plans
            .iter()
            .enumerate()
            .flat_map(|(row, plan)| plan.coalitions.iter().map(move |c| (row, *c)))
            .collect();
        let mut values = Vec::with_capacity(coalitions.len());
        for chunk in coalitions.chunks(FORWARD_ROWS_MAX) {
            let inputs = self.baseline.inputs_of(rows, chunk);
            values.extend(model.forward(&inputs, rung)?);
        }
        let mut rest = values.as_slice();
        let mut attributions = Vec::with_capacity(plans.len());
        for (row, plan) in plans.iter().enumerate() {
            let (own, others) = rest.split_at(plan.coalitions.len());
            rest = others;
            attributions.push(self.attribution(plan, own, rows, row)?);
        }
        Ok(attributions)
    }

    /// The coalitions to score for an event. The full one is among them: the model must say again
    /// what the row's score was.
    fn plan(&self, sequence: Sequence) -> Plan {
        let groups = self.names.len();
        if groups <= EXACT_GROUPS_MAX {
            return Plan {
                coalitions: shapley::subsets(groups),
                orders: None,
            };
        }
        let orders = shapley::antithetic_orders(groups, SAMPLED_PAIRS, self.seed, sequence.0);
        Plan {
            coalitions: shapley::prefixes(&orders),
            orders: Some(orders),
        }
    }

    fn attribution(
        &self,
        plan: &Plan,
        values: &[f64],
        rows: &Rows<'_>,
        row: usize,
    ) -> Result<Attribution, ExplainError> {
        let groups = self.names.len();
        let value_of = |coalition: Coalition| {
            let at = plan.coalitions.binary_search(&coalition);
            values[at.expect("a plan holds every coalition that its orders pass through")]
        };
        let base = value_of(0);
        let (parts, tolerance) = match &plan.orders {
            None => (shapley::exact(groups, value_of), EXACT_TOLERANCE),
            Some(orders) => (
                shapley::averaged(groups, orders, value_of),
                SAMPLED_TOLERANCE,
            ),
        };
        Attribution::new(base, self.names.clone(), parts, rows.scores[row], tolerance).map_err(
            |error| ExplainError::Attribution {
                sequence: rows.sequences[row],
                error,
            },
        )
    }

    fn check(&self, rows: &Rows<'_>) -> Result<(), ExplainError> {
        let n = rows.inputs.rows;
        let (features, context) = (self.baseline.features(), self.baseline.context());
        for (what, got, wanted) in [
            ("features", rows.inputs.features.len(), n * features),
            ("context", rows.inputs.context.len(), n * context),
            ("cold features", rows.cold_features.len(), n * features),
            ("scores", rows.scores.len(), n),
            ("sequences", rows.sequences.len(), n),
        ] {
            if got != wanted {
                return Err(ExplainError::Shape { what, got, wanted });
            }
        }
        Ok(())
    }
}

/// What must be scored to explain one row.
struct Plan {
    /// Ascending, the full coalition among them.
    coalitions: Vec<Coalition>,
    /// Sampled orders in which groups join; `None` where every coalition is scored.
    orders: Option<Vec<Vec<u8>>>,
}

#[cfg(test)]
mod tests;
