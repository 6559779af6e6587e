//! What parity is checked on: a scored row, with what its features were made of, and the keys that are followed
//! through the log.

use std::sync::Arc;

use arrow::array::RecordBatch;
use sanderling_schemas::{EventBatch, FeatureBatch};

use super::FeatureEngine;
use crate::FeatureError;
use crate::key_sample::KeySample;
use crate::log_sample::LogSample;
use crate::parity::ParitySample;

/// What a sample is taken of, beside a batch's features.
pub(super) struct Sampled {
    /// All rows with the columns of every level.
    pub rows: RecordBatch,
    /// What the SELECT list was evaluated on: scored rows.
    pub input: RecordBatch,
    /// Which rows entered the windows.
    pub enters: Vec<bool>,
}

impl FeatureEngine {
    /// As [`FeatureEngine::compute`], and of the batch's last scored row what is needed to compute its features
    /// again by other means: of none if a later row of the batch has moved the windows, a key has too many rows, or
    /// the row is none that is asked for (see [`KeySample::ask_for_any`]).
    ///
    /// # Errors
    /// As [`FeatureEngine::compute`].
    pub fn compute_sampled(
        &mut self,
        batch: &EventBatch,
    ) -> Result<(FeatureBatch, Option<ParitySample>), FeatureError> {
        let (features, sampled) = self.compute_whole(batch)?;
        let last = sampled.enters.iter().rposition(|enters| *enters);
        let sample = match (features.scored.last(), last) {
            (Some(scored), Some(last)) if *scored as usize == last => {
                self.sample(&features, last, &sampled)?
            }
            _ => None,
        };
        Ok((features, sample))
    }

    /// A sample of the keys of this engine's windows, to follow them through the log; of all keys at first.
    pub fn key_sample(&self) -> KeySample {
        KeySample::of_all(self.groups.len())
    }

    /// Has rows of these keys sampled before others.
    pub fn follow(&mut self, keys: Arc<KeySample>) {
        self.followed = Some(keys);
    }

    /// What follows `keys` through the log. The log's rows from event time `from_us` on, microseconds, are
    /// to be folded into it, those of all streams; `i64::MIN` says that those are all there ever were. At
    /// most about `rows_max` rows are kept. `None` where no window of the engine can be computed
    /// from the log's rows of some keys alone.
    ///
    /// # Errors
    /// [`FeatureError::Arrow`] for arguments whose type has no row format.
    pub fn log_sample(
        &self,
        keys: Arc<KeySample>,
        from_us: i64,
        rows_max: usize,
    ) -> Result<Option<LogSample>, FeatureError> {
        let labels = match &self.labels {
            Some(labels) => labels.fresh(&self.relation)?,
            None => None,
        };
        LogSample::new(
            &self.parity,
            &self.relation,
            labels,
            keys,
            from_us,
            rows_max,
        )
    }

    /// A sample of the last scored row, `row` of the batch.
    fn sample(
        &self,
        batch: &FeatureBatch,
        row: usize,
        sampled: &Sampled,
    ) -> Result<Option<ParitySample>, FeatureError> {
        let event = sampled.rows.slice(row, 1);
        if let Some(keys) = &self.followed
            && !keys.asks_for_any()
            && !self.parity.is_of(keys, &event)?
        {
            return Ok(None);
        }
        let slots: Vec<u32> = batch.slots.iter().map(|slots| slots[row]).collect();
        let mut keys = Vec::with_capacity(self.groups.len());
        for group in &self.groups {
            match group.rows_of(&event, &slots)? {
                Some(rows) => keys.push(rows),
                None => return Ok(None),
            }
        }
        let last = batch.features.num_rows() - 1;
        Ok(Some(ParitySample {
            event: batch.events.ids[row].clone(),
            check: self.parity.clone(),
            time_us: batch.events.event_times_us()[row],
            sequence: batch.events.sequence.0 + row as u64,
            row: event,
            keys,
            input: sampled.input.slice(last, 1),
            results: self.outputs.results().collect(),
            features: batch.features.slice(last, 1),
        }))
    }
}
