//! Other features over a state that is there.
//!
//! First what the order log and the topics still hold from before the checkpoint is folded into a new
//! pipeline, in the recorded order: that gives new windows their past and the model its memory. Then
//! every window that the old features had too takes over its rows from the checkpoint, which knows them all. What
//! neither of the two knows is said: which window, which features, and from when on it is whole.

use chrono::DateTime;
use sanderling_features::{Filling, Folded};
use sanderling_ingest::{IngestError, OrderLog};
use sanderling_schemas::{Offsets, Rung};
use sanderling_state::Restored;

use super::Service;
use super::recover::Stopped;
use crate::failure::Failure;
use crate::line::Lane;
use crate::pipeline::Pipeline;
use crate::tables::{Tables, versions};

/// Rows between two words on how far it has come.
const TOLD_EVERY: u64 = 100_000;

impl Service<'_> {
    /// Brings `pipeline`, which is new, to where a checkpoint at row `until` was made by another one of
    /// the same relation; `tables` are those of its last row. `None` if the service was asked to stop on the way.
    pub fn take_over(
        &self,
        lane: Lane,
        windows: &Restored,
        until: u64,
        pipeline: &mut Pipeline,
        tables: &mut Tables,
    ) -> Result<Option<()>, Failure> {
        let folded = match self.fold_log(lane, until, pipeline, tables) {
            Ok(folded) => folded,
            Err(Stopped::Over) => return Ok(None),
            Err(Stopped::Failure(failure)) => return Err(failure),
            Err(Stopped::Ingest(e)) => return Err(self.folder.input_failure(e)),
        };
        let taken = pipeline.features.take_over(windows, folded).map_err(|e| {
            Failure::new("checkpoint", format!("its state cannot be taken over: {e}")).cure(
                "serve the new version as a pipeline folder of another name, with --history to give it its past",
            )
        })?;
        tracing::info!(
            %lane,
            shared = taken.shared,
            folded = taken.folded,
            filling = taken.filling.len(),
            "window functions: shared with the features before, folded from the log, not whole yet"
        );
        for Filling {
            window,
            features,
            full_at_us,
        } in &taken.filling
        {
            let full_at = full_at_us.and_then(DateTime::from_timestamp_micros);
            let full_at = full_at.map_or("when its frame has filled".into(), |at| at.to_rfc3339());
            let features = features.join(", ");
            tracing::warn!(%lane, window, features, full_at, "lacks rows from before the checkpoint");
        }
        if folded != Folded::All {
            tracing::warn!(%lane, "the model remembers what the log still held, and nothing from before");
        }
        Ok(Some(()))
    }

    /// Folds the rows before `until` again, from the first one from which on the log and the topics hold all.
    fn fold_log(
        &self,
        lane: Lane,
        until: u64,
        pipeline: &mut Pipeline,
        tables: &mut Tables,
    ) -> Result<Folded, Stopped> {
        let Some(topic) = &self.folder.settings.output.order else {
            return Ok(Folded::Nothing);
        };
        let kafka = &self.folder.settings.kafka;
        let mut log = OrderLog::new(&kafka.brokers, &kafka.properties, topic)?;
        let mut runs = self.runs_reader(&kafka.properties)?;
        let fault = |e: String| Stopped::Failure(Failure::new("pipeline", e));
        // Sequence and event time of the first row, and sequence of the next.
        let mut folded: Option<(u64, i64, u64)> = None;
        log.read_from(&Offsets::default(), |record| {
            if record.lane != lane.0 || record.sequence.0 >= until {
                return Ok(());
            }
            if self.is_stopping() {
                return Err(Stopped::Over);
            }
            self.health.heartbeat();
            let read = match runs.read(&record.runs) {
                Ok((events, _)) => events,
                Err(IngestError::NotHeld { .. }) => None,
                Err(e) => return Err(e.into()),
            };
            let goes_on = folded.is_none_or(|(_, _, next)| next == record.sequence.0);
            if folded.is_some() && (read.is_none() || !goes_on) {
                // What came before a gap is no past of what comes after it.
                *pipeline = self.new_pipeline().map_err(Stopped::Failure)?;
                *tables = self.folder.catalog.tables.clone().into();
                folded = None;
            }
            let Some(mut events) = read else {
                return Ok(());
            };
            let shelf = self.tables.shelf();
            let then = shelf.find(tables, &record.versions.tables);
            let then = then.map_err(Stopped::Failure)?;
            if versions(&then) != versions(tables) {
                let set = pipeline.features.set_tables(&then);
                set.map_err(|e| fault(e.to_string()))?;
                let set = pipeline.judge.set_tables(&then);
                set.map_err(|e| fault(e.to_string()))?;
                *tables = then;
            }
            events.sequence = record.sequence;
            let next = record.sequence.0 + events.len() as u64;
            let times = events.event_times_us();
            let first_us = times.iter().copied().min().unwrap_or(i64::MAX);
            let batch = pipeline.features.compute(&events);
            let batch = batch.map_err(|e| fault(e.to_string()))?;
            // A rung changes a score and never the state.
            let scored = pipeline.models.score(&batch, Rung::Rules);
            scored.map_err(|e| fault(e.to_string()))?;
            let (from, from_us, before) = folded.unwrap_or((record.sequence.0, first_us, 0));
            if next / TOLD_EVERY != before / TOLD_EVERY {
                let reason = format!("folding the log again: row {next} of {until}");
                self.health.starting(reason);
            }
            folded = Some((from, from_us, next));
            Ok::<(), Stopped>(())
        })?;
        match folded {
            Some((0, _, next)) if next == until => Ok(Folded::All),
            Some((_, from_us, next)) if next == until => Ok(Folded::From(from_us)),
            _ => {
                *pipeline = self.new_pipeline().map_err(Stopped::Failure)?;
                *tables = self.folder.catalog.tables.clone().into();
                Ok(Folded::Nothing)
            }
        }
    }
}
