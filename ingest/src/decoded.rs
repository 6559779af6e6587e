//! What became of records that were decoded together.

use std::sync::Arc;

use arrow::array::{
    Array, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray,
};
use arrow::compute::{filter, filter_record_batch};
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use sanderling_schemas::{EventId, Offset, Partition, RejectReason};

use crate::IngestError;

/// A record that cannot become a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// Index among the records that were decoded together.
    pub record: usize,
    /// Its event time, microseconds, where that much can be told.
    pub event_time_us: Option<i64>,
    /// Why.
    pub reason: RejectReason,
    /// Column, value and what was wanted.
    pub detail: String,
    /// Its origin, in a file that was recorded with origins.
    pub recorded: Option<EventId>,
}

/// Records decoded together.
#[derive(Debug)]
pub struct Decoded {
    /// Rows of [`Relation::schema`], in the order of their records.
    pub rows: RecordBatch,
    /// For each row, the index of its record.
    pub records: Vec<usize>,
    /// The other records, ascending.
    pub refused: Vec<Refusal>,
    /// Broker time of each row, microseconds; NULL where unknown. `None`: of no row.
    pub broker_times: Option<Int64Array>,
    pub(crate) labels: Option<Int64Array>,
    pub(crate) origins: Option<Origins>,
}

/// Where recorded rows came from. A row with a NULL in any of the three has no recorded origin.
#[derive(Debug)]
pub(crate) struct Origins {
    pub topic: StringArray,
    pub partition: Int32Array,
    pub offset: Int64Array,
}

impl Origins {
    /// The id of row `row`, unless a part of it is NULL; `topic` makes a topic of its name.
    pub(crate) fn id(&self, row: usize, topic: impl FnOnce(&str) -> Arc<str>) -> Option<EventId> {
        let parts = [
            self.topic.is_valid(row),
            self.partition.is_valid(row),
            self.offset.is_valid(row),
        ];
        (parts == [true; 3]).then(|| EventId {
            topic: topic(self.topic.value(row)),
            partition: Partition(self.partition.value(row)),
            offset: Offset(self.offset.value(row)),
        })
    }
}

impl Decoded {
    /// Leaves out rows and refusals whose event time is `to` or later.
    pub(crate) fn before(mut self, to: i64) -> Result<Self, IngestError> {
        self.refused
            .retain(|refusal| refusal.event_time_us.is_none_or(|at| at < to));
        let times = self
            .rows
            .column(0)
            .as_primitive::<TimestampMicrosecondType>();
        if times.values().iter().all(|at| *at < to) {
            return Ok(self);
        }
        let kept: BooleanArray = times.values().iter().map(|at| Some(*at < to)).collect();
        self.rows = filter_record_batch(&self.rows, &kept)?;
        self.keep_beside(&kept)?;
        Ok(self)
    }

    /// Applies to the columns beside `rows` what was applied to `rows`.
    pub(crate) fn keep_beside(&mut self, kept: &BooleanArray) -> Result<(), IngestError> {
        let mut row = 0;
        self.records.retain(|_| {
            row += 1;
            kept.value(row - 1)
        });
        let int64 = |array: &mut Option<Int64Array>| -> Result<(), IngestError> {
            if let Some(values) = array {
                *values = filter(&*values, kept)?.as_primitive::<Int64Type>().clone();
            }
            Ok(())
        };
        int64(&mut self.broker_times)?;
        int64(&mut self.labels)?;
        if let Some(origins) = &mut self.origins {
            origins.topic = filter(&origins.topic, kept)?.as_string::<i32>().clone();
            let partition = filter(&origins.partition, kept)?;
            origins.partition = partition.as_primitive::<Int32Type>().clone();
            origins.offset = filter(&origins.offset, kept)?
                .as_primitive::<Int64Type>()
                .clone();
        }
        Ok(())
    }
}
