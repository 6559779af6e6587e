//! A batch in the making: rows taken one by one from chunks of files, and labels between them.

use arrow::array::RecordBatch;
use sanderling_schemas::{EventBatch, EventId, Relation, Sequence};

use crate::IngestError;
use crate::assemble::assemble;
use crate::labels::{LabelRows, Pending, label_rows};

/// A batch in the making.
pub(crate) struct Merged {
    /// The first is for labels.
    batches: Vec<RecordBatch>,
    /// For each place that chunks come from, the batch of its current one.
    current: Vec<Option<usize>>,
    picks: Vec<(usize, usize)>,
    ids: Vec<EventId>,
    /// Event time of the row (of the next row, for a label) and broker time, if known.
    times: Vec<(i64, Option<i64>)>,
    labels: Vec<Pending>,
}

impl Merged {
    /// No rows yet; they will come from `places` places.
    pub(crate) fn new(places: usize) -> Self {
        Self {
            batches: Vec::new(),
            current: vec![None; places],
            picks: Vec::new(),
            ids: Vec::new(),
            times: Vec::new(),
            labels: Vec::new(),
        }
    }

    /// Rows so far, labels among them.
    pub(crate) fn len(&self) -> usize {
        self.picks.len()
    }

    /// What comes from `place` after this is of another chunk.
    pub(crate) fn leave(&mut self, place: usize) {
        self.current[place] = None;
    }

    /// Takes row `row` of the chunk `rows`, which is the current one of `place`.
    pub(crate) fn take(
        &mut self,
        place: usize,
        rows: &RecordBatch,
        row: usize,
        id: EventId,
        at: i64,
        broker_time: Option<i64>,
    ) {
        let batch = *self.current[place].get_or_insert_with(|| {
            self.batches.push(rows.clone());
            self.batches.len()
        });
        self.picks.push((batch, row));
        self.ids.push(id);
        self.times.push((at, broker_time));
    }

    /// Takes a label, before the row whose times these are.
    pub(crate) fn take_label(
        &mut self,
        label: Pending,
        id: EventId,
        at: i64,
        broker_time: Option<i64>,
    ) {
        self.ids.push(id);
        self.picks.push((0, self.labels.len()));
        self.labels.push(label);
        self.times.push((at, broker_time));
    }

    /// The batch, at sequence 0.
    pub(crate) fn finish(
        self,
        relation: &Relation,
        labels: Option<&LabelRows>,
    ) -> Result<EventBatch, IngestError> {
        let mut batches = vec![match labels.filter(|_| !self.labels.is_empty()) {
            Some(l) => label_rows(relation, &l.columns, l.stream, &self.labels)?,
            None => RecordBatch::new_empty(relation.schema.clone()),
        }];
        batches.extend(self.batches);
        let known = self.times.iter().any(|(_, broker)| broker.is_some());
        let broker = self.times.iter().map(|(at, broker)| broker.unwrap_or(*at));
        Ok(EventBatch {
            rows: assemble(relation, &batches, &self.picks)?,
            ids: self.ids,
            sequence: Sequence(0),
            broker_time_us: if known { broker.collect() } else { Vec::new() },
        })
    }
}
