//! Commits what was made of a source's records, from any thread.

use std::sync::Arc;

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerGroupMetadata};
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use sanderling_schemas::Offsets;

use super::broker::Broker;
use super::group::Group;
use crate::IngestError;

/// A source's membership of its group, for whoever commits. The membership lasts until the
/// source and all of these are dropped.
#[derive(Clone)]
pub struct Committer {
    consumer: Arc<BaseConsumer<Group>>,
    broker: Broker,
}

impl Committer {
    pub(super) fn new(consumer: Arc<BaseConsumer<Group>>, broker: Broker) -> Self {
        Self { consumer, broker }
    }

    /// Commits offsets, each the next to read, and waits until the broker has them.
    pub fn commit(&self, offsets: &Offsets) -> Result<(), IngestError> {
        let failed = |error| self.broker.failed("committing offsets", &error);
        let mut list = TopicPartitionList::new();
        for (topic, partition, next) in offsets.iter() {
            list.add_partition_offset(topic, partition.0, KafkaOffset::Offset(next.0))
                .map_err(failed)?;
        }
        if list.count() == 0 {
            return Ok(());
        }
        self.consumer
            .commit(&list, CommitMode::Sync)
            .map_err(failed)
    }

    /// Who commits, for a transactional producer that commits the offsets: to be asked for anew
    /// for every transaction, since it changes with every rebalance.
    pub fn group_metadata(&self) -> ConsumerGroupMetadata {
        self.consumer
            .group_metadata()
            .expect("a source's consumer has a group")
    }

    /// Whether the partitions being revoked are already someone else's, so that nothing of them
    /// can be committed any more: the member was silent for too long.
    pub fn is_lost(&self) -> bool {
        self.consumer.assignment_lost()
    }
}
