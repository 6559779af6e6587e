//! The one interface of files and topics.

use std::sync::Arc;
use std::time::Duration;

use sanderling_schemas::{DeadLetter, EventBatch, Offset, Partition};
use serde::{Deserialize, Serialize};

use crate::IngestError;

/// What a source has to say.
#[derive(Debug)]
pub enum SourceEvent {
    /// The next rows of the accepted order, at least one.
    Batch(EventBatch),
    /// Records refused since the last event, at least one, in input order. Those of a file that
    /// stand among the rows of a batch come before it.
    Rejected(Vec<DeadLetter>),
    /// Partitions that are now read.
    Assigned(Vec<(Arc<str>, Partition)>),
    /// Partitions that are no longer read.
    Revoked(Vec<(Arc<str>, Partition)>),
    /// Nothing came while waiting.
    Idle,
    /// Nothing will come any more.
    End,
}

/// Where a source stands after all that it has yielded: what is needed to go on from there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Position {
    /// Of files: how much has been yielded.
    Files {
        /// Rows in batches, label rows among them.
        accepted: u64,
        /// Rejections.
        rejected: u64,
    },
    /// Of topics: the next offset of each partition that was read.
    Topics {
        /// Topic, partition, next offset; by topic and partition.
        next: Vec<(Arc<str>, Partition, Offset)>,
        /// Rows in batches.
        accepted: u64,
        /// Rejections.
        rejected: u64,
    },
}

/// Somewhere that events come from, in an order that becomes the accepted order.
pub trait EventSource: Send {
    /// The next event: a batch has at most `rows_max` rows. A live source waits at most `wait`
    /// for a first record; a file never waits.
    fn next(&mut self, rows_max: usize, wait: Duration) -> Result<SourceEvent, IngestError>;

    /// The position after all events yielded so far.
    fn position(&self) -> Position;
}
