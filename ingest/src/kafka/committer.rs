//! Commits what was made of a source's records, from any thread.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionList;
use sanderling_schemas::{Offset, Offsets};

use super::broker::{ANSWER_WITHIN, Broker};
use super::group::Group;
use super::options::TopicPartition;
use super::progress::Progress;
use crate::IngestError;

/// Time between two tries of a coordinator that is not ready.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// How long the transaction of an instance that was killed while it committed stays open: its timeout, and the time
/// between two looks of the broker for such ones, which are 15 s and 10 s.
const ABANDONED_WITHIN: Duration = Duration::from_secs(40);

/// A source's membership of its group, for whoever commits. The membership lasts until the
/// source and all of these are dropped: a `before_revoke` that holds one would keep it for ever.
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
    pub fn commit(&self, progress: &Progress) -> Result<(), IngestError> {
        self.commit_as(progress, CommitMode::Sync)
    }

    /// Begins to commit offsets, each the next to read, and waits for nothing. A commit that the broker
    /// refuses is said in the log; the next one makes up for it.
    pub fn begin_commit(&self, progress: &Progress) -> Result<(), IngestError> {
        self.commit_as(progress, CommitMode::Async)
    }

    fn commit_as(&self, progress: &Progress, mode: CommitMode) -> Result<(), IngestError> {
        let failed = |error| self.broker.failed("committing offsets", &error);
        let list = progress.list().map_err(failed)?;
        if list.count() == 0 {
            return Ok(());
        }
        self.consumer.commit(&list, mode).map_err(failed)
    }

    /// What the group has committed of these partitions. Waits while a transaction that may
    /// commit more of them is open.
    pub fn committed(&self, partitions: &[TopicPartition]) -> Result<Offsets, IngestError> {
        self.progress(partitions).map(|progress| progress.next)
    }

    /// The same with what was noted beside it.
    pub fn progress(&self, partitions: &[TopicPartition]) -> Result<Progress, IngestError> {
        let failed = |error| self.broker.failed("asking for committed offsets", &error);
        let mut list = TopicPartitionList::new();
        for (topic, partition) in partitions {
            list.add_partition(topic, partition.0);
        }
        if list.count() == 0 {
            return Ok(Progress::default());
        }
        let asked = Instant::now();
        loop {
            match self.ask(&list) {
                Err(error) if is_moving(&error) && asked.elapsed() < ANSWER_WITHIN => {
                    thread::sleep(AGAIN_AFTER);
                }
                Err(error) if has_waited(&error) && asked.elapsed() < ABANDONED_WITHIN => {}
                answer => return answer.map_err(failed),
            }
        }
    }

    fn ask(&self, list: &TopicPartitionList) -> KafkaResult<Progress> {
        Progress::of(&(self.consumer).committed_offsets(list.clone(), ANSWER_WITHIN)?)
    }

    /// Where each of these partitions ends, if none of them holds a record.
    pub fn ends_if_empty(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<Option<Offsets>, IngestError> {
        let mut ends = Offsets::default();
        for (topic, partition) in partitions {
            let (low, high) = (self.consumer)
                .fetch_watermarks(topic, partition.0, ANSWER_WITHIN)
                .map_err(|e| {
                    let asking = format!("asking what {topic}/{} holds", partition.0);
                    self.broker.failed(&asking, &e)
                })?;
            if low < high {
                return Ok(None);
            }
            ends.set(topic.clone(), *partition, Offset(high));
        }
        Ok(Some(ends))
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

/// No answer came, as while a transaction that may commit more is open.
fn has_waited(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::OperationTimedOut)
}

/// The group's coordinator is being found, or has just begun, as on a broker that is new.
fn is_moving(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{CoordinatorLoadInProgress, CoordinatorNotAvailable, NotCoordinator};
    matches!(
        error.rdkafka_error_code(),
        Some(CoordinatorLoadInProgress | CoordinatorNotAvailable | NotCoordinator)
    )
}
