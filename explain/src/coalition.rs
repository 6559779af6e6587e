//! Coalitions: which groups are present, and the model's inputs when the others are absent.

use std::ops::Range;

use sanderling_scoring::{Group, ModelInputs};

use crate::{ExplainError, Rows};

/// Groups that are present, a bit each.
pub(crate) type Coalition = u64;
/// Bits of a coalition, less one so that the full one can be counted past.
pub(crate) const GROUPS_MAX: usize = 63;
/// The group of the current event's own features.
const EVENT: &str = "event";

/// What stands in for an absent group's inputs.
#[derive(Debug, Clone)]
pub(crate) struct Baseline {
    groups: Vec<Inputs>,
    medians: Vec<f32>,
    cold_context: Vec<f32>,
}

/// One group's inputs.
#[derive(Debug, Clone)]
struct Inputs {
    is_event: bool,
    features: Vec<usize>,
    context: Vec<Range<usize>>,
}

impl Baseline {
    pub(crate) fn new(
        groups: &[Group],
        medians: &[f32],
        cold_context: &[f32],
    ) -> Result<Self, ExplainError> {
        if groups.len() > GROUPS_MAX {
            return Err(ExplainError::TooManyGroups {
                groups: groups.len(),
            });
        }
        let mut features = vec![false; medians.len()];
        let mut context = vec![false; cold_context.len()];
        for group in groups {
            claim(
                &mut features,
                group.features.iter().copied(),
                group,
                "feature",
            )?;
            claim(
                &mut context,
                group.context.iter().cloned().flatten(),
                group,
                "context value",
            )?;
        }
        let inputs = |g: &Group| Inputs {
            is_event: g.name == EVENT,
            features: g.features.clone(),
            context: g.context.clone(),
        };
        Ok(Self {
            groups: groups.iter().map(inputs).collect(),
            medians: medians.to_vec(),
            cold_context: cold_context.to_vec(),
        })
    }

    /// F.
    pub(crate) fn features(&self) -> usize {
        self.medians.len()
    }

    /// C.
    pub(crate) fn context(&self) -> usize {
        self.cold_context.len()
    }

    /// One row of inputs for each (row, coalition).
    pub(crate) fn inputs_of(
        &self,
        rows: &Rows<'_>,
        coalitions: &[(usize, Coalition)],
    ) -> ModelInputs {
        let (f, c) = (self.features(), self.context());
        let mut features = Vec::with_capacity(coalitions.len() * f);
        let mut context = Vec::with_capacity(coalitions.len() * c);
        for &(row, present) in coalitions {
            let (feature_at, context_at) = (features.len(), context.len());
            features.extend_from_slice(&rows.inputs.features[row * f..][..f]);
            context.extend_from_slice(&rows.inputs.context[row * c..][..c]);
            let cold = &rows.cold_features[row * f..][..f];
            for (bit, group) in self.groups.iter().enumerate() {
                if present >> bit & 1 == 1 {
                    continue;
                }
                let absent = if group.is_event {
                    &self.medians[..]
                } else {
                    cold
                };
                for &i in &group.features {
                    features[feature_at + i] = absent[i];
                }
                for range in &group.context {
                    context[context_at..][range.clone()]
                        .copy_from_slice(&self.cold_context[range.clone()]);
                }
            }
        }
        ModelInputs {
            rows: coalitions.len(),
            features,
            context,
        }
    }
}

/// Marks a group's inputs as taken; each belongs to one group.
fn claim(
    taken: &mut [bool],
    inputs: impl Iterator<Item = usize>,
    group: &Group,
    what: &str,
) -> Result<(), ExplainError> {
    let wrong = |what: String| ExplainError::Group {
        group: group.name.clone(),
        what,
    };
    let have = taken.len();
    for i in inputs {
        match taken.get_mut(i) {
            None => return Err(wrong(format!("{what} {i} of {have}"))),
            Some(true) => return Err(wrong(format!("{what} {i} belongs to two groups"))),
            Some(free) => *free = true,
        }
    }
    Ok(())
}
