//! The topics of a pipeline from their oldest record to the end that they have when the replay begins,
//! merged by the broker's time.
//!
//! Read in a group of its own that commits nothing, so that no service is disturbed.

use std::time::Duration;

use sanderling_ingest::{
    EventSource, KafkaOptions, KafkaSource, OffsetReset, Position, SourceEvent,
};
use sanderling_schemas::{EventTime, Sequence};

use super::input_failure;
use super::ordered::before;
use super::source::{Rows, Step};
use crate::clock::now_us;
use crate::failure::Failure;
use crate::folder::PipelineFolder;

/// Longest wait for a record before the client is attended to.
const POLL: Duration = Duration::from_millis(100);

/// Topics, read once.
pub struct TopicsSource {
    source: KafkaSource,
    to: Option<EventTime>,
    sequence: u64,
    ready: Vec<Rows>,
    assigned: bool,
}

impl TopicsSource {
    /// The topics of the pipeline's streams; rows from `to` on are left out.
    pub fn open(folder: &PipelineFolder, to: Option<EventTime>) -> Result<Self, Failure> {
        let kafka = &folder.settings.kafka;
        let options = KafkaOptions {
            brokers: kafka.brokers.clone(),
            group: format!("sanderling-{}-replay-{}", folder.name, now_us()),
            properties: kafka.properties.clone(),
            offset_reset: OffsetReset::Earliest,
            ..KafkaOptions::default()
        };
        let source = KafkaSource::new(folder.relation.clone(), &folder.streams, &options)
            .map_err(input_failure)?;
        source.check_topics().map_err(input_failure)?;
        Ok(Self {
            source,
            to,
            sequence: 0,
            ready: Vec::new(),
            assigned: false,
        })
    }

    /// The next rows, at most `rows_max`.
    pub fn next(&mut self, rows_max: usize) -> Result<Step, Failure> {
        loop {
            if let Some(rows) = self.ready.pop() {
                return Ok(Step::Batch(rows));
            }
            match self.source.next(rows_max, POLL).map_err(input_failure)? {
                SourceEvent::Batch(events) => {
                    for mut events in before(Some(events), self.to) {
                        events.sequence = Sequence(self.sequence);
                        self.sequence += events.len() as u64;
                        self.ready.push(Rows::of(events));
                    }
                    self.ready.reverse();
                }
                SourceEvent::Rejected(letters) => return Ok(Step::Rejected(letters)),
                SourceEvent::Assigned(_) => self.assigned = true,
                SourceEvent::Idle if self.assigned && self.is_at_end() => return Ok(Step::End),
                SourceEvent::End => return Ok(Step::End),
                SourceEvent::Idle | SourceEvent::Revoked(_) => {}
            }
        }
    }

    /// Where it stands.
    pub fn position(&self) -> Position {
        self.source.position()
    }

    fn is_at_end(&self) -> bool {
        !self.source.is_behind() && self.source.lag().iter().all(|(_, _, lag)| *lag == 0)
    }
}
