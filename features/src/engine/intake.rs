//! What of a batch is taken into the state: rows of the engine's own relation, with labels joined to their
//! events, but for those that are too late.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::datatypes::Schema;
use sanderling_schemas::{EventBatch, LateRows, TooLate};

use super::FeatureEngine;
use crate::FeatureError;
use crate::labels::{Joined, LabelJoin};
use crate::lateness::Lateness;

impl FeatureEngine {
    /// Refuses a batch of another relation.
    pub(super) fn check(&self, batch: &EventBatch) -> Result<(), FeatureError> {
        let types = |schema: &Schema| -> Vec<_> {
            schema
                .fields()
                .iter()
                .map(|field| field.data_type().clone())
                .collect()
        };
        let expected = &self.relation.schema;
        if !Arc::ptr_eq(expected, &batch.rows.schema())
            && types(expected) != types(&batch.rows.schema())
        {
            return Err(FeatureError::Batch);
        }
        if batch
            .streams()
            .iter()
            .any(|stream| self.scored.get(*stream as usize).is_none())
        {
            return Err(FeatureError::Batch);
        }
        Ok(())
    }

    /// Joins labels to their events, without the rows that are too late.
    pub(super) fn join_in_time(
        &mut self,
        batch: &EventBatch,
    ) -> Result<(Joined, Vec<TooLate>), FeatureError> {
        let lateness = Lateness {
            allowed_us: self.relation.lateness_us,
            labels: self
                .relation
                .labels
                .as_ref()
                .map(|labels| labels.stream as i8),
            clock: self.clock.clone(),
        };
        let mut refused = HashSet::new();
        if self.relation.late_rows == LateRows::Decide || !lateness.is_possible(batch) {
            return Ok((self.join(batch, &refused)?, Vec::new()));
        }
        let before = self.labels.as_ref().map(LabelJoin::mark);
        loop {
            let joined = self.join(batch, &refused)?;
            let mut rows = self.layers.rows(&joined.rows);
            let rows = rows.at(0)?;
            let mut newest = (self.groups.iter())
                .map(|group| group.newest(rows, &self.entities))
                .collect::<Result<Vec<_>, _>>()?;
            let too_late = lateness.judge(batch, &joined, &refused, &mut newest);
            let now: HashSet<u32> = too_late.iter().map(|late| late.row).collect();
            if now == refused {
                return Ok((joined, too_late));
            }
            refused = now;
            if let (Some(labels), Some(before)) = (&mut self.labels, &before) {
                labels.back_to(before);
            }
        }
    }

    fn join(&mut self, batch: &EventBatch, refused: &HashSet<u32>) -> Result<Joined, FeatureError> {
        match &mut self.labels {
            Some(labels) => labels.join(batch, refused, |_| true),
            None => Ok(Joined {
                rows: batch.rows.clone(),
                enters: (0..batch.len() as u32)
                    .map(|row| !refused.contains(&row))
                    .collect(),
                labels: Vec::new(),
            }),
        }
    }
}
