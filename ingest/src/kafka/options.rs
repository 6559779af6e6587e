//! How to read topics as a member of a group.

use std::collections::BTreeMap;
use std::sync::Arc;

use sanderling_schemas::Partition;

/// A partition of a topic.
pub type TopicPartition = (Arc<str>, Partition);

/// Is told which partitions are about to be given up, and may take its time.
pub type BeforeRevoke = Arc<dyn Fn(&[TopicPartition]) + Send + Sync>;

/// Where to begin in a partition without a committed offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OffsetReset {
    /// With the oldest record.
    #[default]
    Earliest,
    /// With the next new record.
    Latest,
}

/// How to read topics.
#[derive(Clone, Default)]
pub struct KafkaOptions {
    /// Bootstrap servers, comma-separated.
    pub brokers: String,
    /// Consumer group.
    pub group: String,
    /// Name of this member, which makes its membership static: one that comes back within the
    /// session's timeout keeps its partitions, without a rebalance.
    pub instance: Option<String>,
    /// Properties of librdkafka that override those set here.
    pub properties: BTreeMap<String, String>,
    /// Where to begin without a committed offset.
    pub offset_reset: OffsetReset,
    /// Sequence of the first row.
    pub first_sequence: u64,
    /// Newly assigned partitions bring nothing before [`crate::KafkaSource::begin`].
    pub hold: bool,
    /// A batch has records of one partition number only, whichever their topics, and this member
    /// has that number of every topic; sequences are the caller's to set.
    pub lanes: bool,
    /// Called inside `next`, before partitions are given up. While it runs the group waits, and
    /// what was read of them can still be committed. Not called when the source is dropped.
    pub before_revoke: Option<BeforeRevoke>,
}
