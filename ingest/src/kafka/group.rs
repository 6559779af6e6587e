//! Membership of a consumer group: what rebalances do, and what is said of them.
//!
//! Cooperative-sticky, the only strategy that leaves alone what need not move, balances the
//! partitions of all topics together: payments may go to one member, their labels to another.
//! Where a lane needs one partition of every topic, the group therefore shares out those of the
//! first topic only, and whoever gets one takes the same number of the other topics with it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;
use sanderling_schemas::Partition;

use super::broker::Words;
use super::options::{BeforeRevoke, TopicPartition};
use crate::source::SourceEvent;

/// How the group shares out its partitions: always cooperatively, so a rebalance names what comes and
/// what goes, never all there is. The client is not asked for the protocol: it does not answer while
/// it is being closed.
pub(super) const STRATEGY: (&str, &str) = ("partition.assignment.strategy", "cooperative-sticky");

/// How long a group that has given everything up may take to end before it is answered again: it then still listens.
const CLOSES_WITHIN: Duration = Duration::from_secs(5);
/// Time between two looks at whether it has.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Hears of rebalances, inside the consumer's poll.
pub(super) struct Group {
    pub words: Words,
    /// Topics whose partitions go with those of the same number that the group shares out.
    followers: Vec<String>,
    before_revoke: Option<BeforeRevoke>,
    consumer: OnceLock<Weak<BaseConsumer<Group>>>,
    events: Mutex<VecDeque<KafkaResult<SourceEvent>>>,
    joined: AtomicBool,
    leaving: AtomicBool,
    /// Of the rebalances that are due while it leaves, one has been answered.
    let_go: AtomicBool,
}

impl Group {
    pub(super) fn new(followers: Vec<String>, before_revoke: Option<BeforeRevoke>) -> Self {
        Self {
            words: Words::default(),
            followers,
            before_revoke,
            consumer: OnceLock::new(),
            events: Mutex::default(),
            joined: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            let_go: AtomicBool::new(false),
        }
    }

    /// To be told once, before the consumer subscribes.
    pub(super) fn know(&self, consumer: &Arc<BaseConsumer<Group>>) {
        // A second time cannot be, since the consumer owns this and is made once.
        let _ = self.consumer.set(Arc::downgrade(consumer));
    }

    /// What happened since it was last taken.
    pub(super) fn events(&self) -> MutexGuard<'_, VecDeque<KafkaResult<SourceEvent>>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the group has given this member an assignment, be it empty.
    pub(super) fn has_joined(&self) -> bool {
        self.joined.load(Ordering::Acquire)
    }

    fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
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
    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::warn!(%error, "offsets were not committed; the next commit makes up for it");
        }
    }

    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        code: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        if self.is_leaving() && self.let_go.swap(true, Ordering::AcqRel) && closes(consumer) {
            return;
        }
        for (_, partition) in partitions(list) {
            for topic in &self.followers {
                list.add_partition(topic, partition.0);
            }
        }
        let all = partitions(list);
        let done = match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                self.joined.store(true, Ordering::Release);
                // A partition's queue is set apart before anything can come into the common one.
                // It stays so when the handle is dropped.
                if let Some(consumer) = self.consumer.get().and_then(Weak::upgrade) {
                    for (topic, partition) in &all {
                        drop(consumer.split_partition_queue(topic, partition.0));
                    }
                }
                let done = consumer.incremental_assign(list);
                done.map(|()| SourceEvent::Assigned(all))
            }
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS => {
                if let Some(before) = &self.before_revoke
                    && !all.is_empty()
                    && !self.is_leaving()
                {
                    before(&all);
                }
                let done = consumer.incremental_unassign(list);
                done.map(|()| SourceEvent::Revoked(all))
            }
            _ => Err(KafkaError::Rebalance(RDKafkaErrorCode::from(code))),
        };
        match &done {
            Ok(SourceEvent::Assigned(all) | SourceEvent::Revoked(all)) if all.is_empty() => {}
            _ => self.events().push_back(done),
        }
    }
}

/// Whether a consumer that is being closed comes to its end by itself.
///
/// Its first answer to a rebalance gives up everything, whatever it says. If the close found partitions that
/// had come and that nobody had looked at, it asks once more, for what goes; an answer to that may reach a
/// group that has ended meanwhile, and would be waited for without end
/// (<https://github.com/confluentinc/librdkafka/issues/4884>).
fn closes(consumer: &BaseConsumer<Group>) -> bool {
    let asked = Instant::now();
    while !consumer.closed() {
        if asked.elapsed() > CLOSES_WITHIN {
            return false;
        }
        thread::sleep(LOOK_AGAIN);
    }
    true
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
