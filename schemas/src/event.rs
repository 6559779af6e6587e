//! Events: decoded rows of the relation, in the order in which the fold takes them.

use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{Int8Type, TimestampMicrosecondType};
use serde::{Deserialize, Serialize};

use crate::progress::{EventId, Sequence};

/// When an event happened, microseconds since 1970 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EventTime(pub i64);

/// Consecutive rows of the accepted order.
#[derive(Debug, Clone)]
pub struct EventBatch {
    /// Rows of [`crate::Relation::schema`].
    pub rows: RecordBatch,
    /// Origin of each row.
    pub ids: Vec<EventId>,
    /// Sequence of row 0; row `i` has `sequence + i`.
    pub sequence: Sequence,
    /// Broker append time of each row, microseconds; empty where the input has none. An envelope:
    /// the fold never reads it.
    pub broker_time_us: Vec<i64>,
}

impl EventBatch {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.num_rows()
    }

    /// No rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Event time of each row, microseconds.
    pub fn event_times_us(&self) -> &[i64] {
        self.rows
            .column(0)
            .as_primitive::<TimestampMicrosecondType>()
            .values()
    }

    /// Stream of each row, as an index into [`crate::Relation::streams`].
    pub fn streams(&self) -> &[i8] {
        self.rows
            .column(1)
            .as_dictionary::<Int8Type>()
            .keys()
            .values()
    }

    /// The rows `[from, from + len)` as a batch of their own, with the sequence they had.
    pub fn slice(&self, from: usize, len: usize) -> EventBatch {
        EventBatch {
            rows: self.rows.slice(from, len),
            ids: self.ids[from..from + len].to_vec(),
            sequence: Sequence(self.sequence.0 + from as u64),
            broker_time_us: match self.broker_time_us.as_slice() {
                [] => Vec::new(),
                times => times[from..from + len].to_vec(),
            },
        }
    }

    /// A column by name.
    pub fn column(&self, name: &str) -> Option<&ArrayRef> {
        self.rows.column_by_name(name)
    }
}
