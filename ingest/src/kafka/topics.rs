//! The topics of a relation's streams: their records become rows here, and nowhere else.

use std::sync::Arc;

use arrow::array::RecordBatch;
use sanderling_schemas::{DeadLetter, EventBatch, EventId, Relation, Sequence};

use super::tap::Record;
use crate::IngestError;
use crate::assemble::assemble;
use crate::decode::Decoder;
use crate::stream::StreamSpec;

/// Topics, one for each stream.
pub(super) struct Topics {
    relation: Arc<Relation>,
    all: Vec<Topic>,
}

struct Topic {
    name: Arc<str>,
    decoder: Decoder,
}

impl Topics {
    /// Fails if a stream has no topic.
    pub(super) fn new(
        relation: Arc<Relation>,
        streams: &[StreamSpec],
    ) -> Result<Self, IngestError> {
        let mut all = Vec::with_capacity(streams.len());
        for spec in streams {
            let name = spec
                .topic
                .as_deref()
                .ok_or_else(|| IngestError::Declaration {
                    stream: spec.name.to_string(),
                    message: "to be read from a broker it needs `topic`".into(),
                })?;
            let decoder = Decoder::new(relation.clone(), spec.clone())?;
            all.push(Topic {
                name: name.into(),
                decoder,
            });
        }
        Ok(Self { relation, all })
    }

    pub(super) fn names(&self) -> Vec<&str> {
        self.all.iter().map(|topic| &*topic.name).collect()
    }

    pub(super) fn name(&self, index: usize) -> &Arc<str> {
        &self.all[index].name
    }

    pub(super) fn index(&self, name: &str) -> Option<usize> {
        self.all.iter().position(|topic| *topic.name == *name)
    }

    /// The rows of records, in their order, and those that cannot become rows. The batch has
    /// sequence 0.
    pub(super) fn decode(
        &self,
        records: &[Record],
    ) -> Result<(Option<EventBatch>, Vec<DeadLetter>), IngestError> {
        let mut batches: Vec<RecordBatch> = Vec::with_capacity(self.all.len());
        // For each record, its row in its topic's batch.
        let mut rows: Vec<Option<usize>> = vec![None; records.len()];
        let mut letters: Vec<(usize, DeadLetter)> = Vec::new();
        let mut of_topic: Vec<Vec<usize>> = vec![Vec::new(); self.all.len()];
        for (at, record) in records.iter().enumerate() {
            of_topic[record.topic].push(at);
        }
        for (topic, mine) in self.all.iter().zip(of_topic) {
            let payloads: Vec<_> = mine
                .iter()
                .map(|at| records[*at].payload.as_deref())
                .collect();
            let times: Vec<_> = mine.iter().map(|at| records[*at].broker_time_us).collect();
            let decoded = topic.decoder.decode(&payloads, &times)?;
            for (row, record) in decoded.records.iter().enumerate() {
                rows[mine[*record]] = Some(row);
            }
            for refusal in decoded.refused {
                let at = mine[refusal.record];
                let raw = payloads[refusal.record].unwrap_or_default();
                let letter = topic.decoder.dead_letter(
                    self.id(&records[at]),
                    refusal.reason,
                    refusal.detail,
                    raw,
                    records[at].key.as_deref(),
                );
                letters.push((at, letter));
            }
            batches.push(decoded.rows);
        }
        letters.sort_by_key(|(at, _)| *at);
        let letters = letters.into_iter().map(|(_, letter)| letter).collect();
        let mut picks = Vec::with_capacity(records.len());
        let (mut ids, mut broker_times) = (Vec::new(), Vec::new());
        for (record, row) in records.iter().zip(&rows) {
            if let Some(row) = row {
                picks.push((record.topic, *row));
                ids.push(self.id(record));
                broker_times.push(record.broker_time_us);
            }
        }
        if picks.is_empty() {
            return Ok((None, letters));
        }
        let mut batch = EventBatch {
            rows: assemble(&self.relation, &batches, &picks)?,
            ids,
            sequence: Sequence(0),
            broker_time_us: Vec::new(),
        };
        // Without a broker's time the event's own is the nearest known.
        let times = broker_times.iter().zip(batch.event_times_us());
        batch.broker_time_us = times
            .map(|(broker, event)| broker.unwrap_or(*event))
            .collect();
        Ok((Some(batch), letters))
    }

    fn id(&self, record: &Record) -> EventId {
        EventId {
            topic: self.all[record.topic].name.clone(),
            partition: record.partition,
            offset: record.offset,
        }
    }
}
