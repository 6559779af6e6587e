//! Membership of a consumer group: what rebalances do, and what is said of them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, ConsumerContext, Rebalance};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::TopicPartitionList;
use sanderling_schemas::Partition;

use super::broker::Words;
use super::options::{BeforeRevoke, TopicPartition};
use crate::source::SourceEvent;

/// Hears of rebalances, inside the consumer's poll.
pub(super) struct Group {
    pub words: Words,
    before_revoke: Option<BeforeRevoke>,
    consumer: OnceLock<Weak<BaseConsumer<Group>>>,
    events: Mutex<VecDeque<SourceEvent>>,
    joined: AtomicBool,
    leaving: AtomicBool,
}

impl Group {
    pub(super) fn new(before_revoke: Option<BeforeRevoke>) -> Self {
        Self {
            words: Words::default(),
            before_revoke,
            consumer: OnceLock::new(),
            events: Mutex::default(),
            joined: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
        }
    }

    /// To be told once, before the consumer subscribes.
    pub(super) fn know(&self, consumer: &Arc<BaseConsumer<Group>>) {
        // A second time cannot be, since the consumer owns this and is made once.
        let _ = self.consumer.set(Arc::downgrade(consumer));
    }

    /// What happened since it was last taken.
    pub(super) fn events(&self) -> MutexGuard<'_, VecDeque<SourceEvent>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the group has given this member an assignment, be it empty.
    pub(super) fn has_joined(&self) -> bool {
        self.joined.load(Ordering::Acquire)
    }

    /// From now on partitions go without `before_revoke`.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
    }
}

impl ClientContext for Group {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        Words::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.words.hear(&error, reason);
    }
}

impl ConsumerContext for Group {
    fn pre_rebalance(&self, _consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            // A partition's queue is set apart before anything can come into the common one. It
            // stays so when the handle is dropped.
            Rebalance::Assign(list) => {
                if let Some(consumer) = self.consumer.get().and_then(Weak::upgrade) {
                    for element in list.elements() {
                        drop(consumer.split_partition_queue(element.topic(), element.partition()));
                    }
                }
            }
            Rebalance::Revoke(list) if list.count() > 0 => {
                if let Some(before) = &self.before_revoke
                    && !self.leaving.load(Ordering::Acquire)
                {
                    before(&partitions(list));
                }
            }
            Rebalance::Revoke(_) | Rebalance::Error(_) => {}
        }
    }

    fn post_rebalance(&self, _consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        match rebalance {
            Rebalance::Assign(list) => {
                self.joined.store(true, Ordering::Release);
                if list.count() > 0 {
                    let event = SourceEvent::Assigned(partitions(list));
                    self.events().push_back(event);
                }
            }
            Rebalance::Revoke(list) if list.count() > 0 => {
                let event = SourceEvent::Revoked(partitions(list));
                self.events().push_back(event);
            }
            Rebalance::Revoke(_) => {}
            Rebalance::Error(error) => tracing::warn!(%error, "a rebalance failed"),
        }
    }
}

fn partitions(list: &TopicPartitionList) -> Vec<TopicPartition> {
    let elements = list.elements();
    let mut all: Vec<_> = elements
        .iter()
        .map(|e| (e.topic().into(), Partition(e.partition())))
        .collect();
    all.sort();
    all
}
