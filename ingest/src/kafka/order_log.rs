//! The topic of order records, for whoever folds the log again: what was committed, to its end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use sanderling_schemas::{Offset, Offsets, OrderRecord, Partition};

use super::broker::{ANSWER_WITHIN, Broker, Words};
use super::probe::Probe;
use super::trouble::KafkaTrouble;
use crate::IngestError;

/// How long the topic may bring nothing of what it holds.
const SILENT_MAX: Duration = Duration::from_secs(60);
/// Longest wait for one record.
const POLL: Duration = Duration::from_millis(100);

/// Reads order records, outside any group.
pub struct OrderLog {
    broker: Broker,
    topic: String,
    partitions: i32,
    consumer: BaseConsumer<Words>,
}

impl OrderLog {
    /// A reader of `topic`, which must be there.
    pub fn new(
        brokers: &str,
        properties: &BTreeMap<String, String>,
        topic: &str,
    ) -> Result<Self, IngestError> {
        let broker = Broker {
            brokers: brokers.into(),
            properties: properties.clone(),
        };
        let partitions = Probe::new(&broker)?.partitions(topic)?;
        // The client wants the name of a group, though it joins none.
        let own = [("group.id", "sanderling-reader")];
        let fixed = [
            ("isolation.level", "read_committed"),
            ("auto.offset.reset", "error"),
        ];
        let consumer = broker.consumer(&own, &fixed, Words::default())?;
        Ok(Self {
            broker,
            topic: topic.into(),
            partitions,
            consumer,
        })
    }

    /// Where each partition ends for a reader of what was committed.
    pub fn ends(&self) -> Result<Offsets, IngestError> {
        let mut ends = Offsets::default();
        for partition in 0..self.partitions {
            let (_, high) = self.holds(partition)?;
            ends.set(
                self.topic.as_str().into(),
                Partition(partition),
                Offset(high),
            );
        }
        Ok(ends)
    }

    /// Where each partition's first record stands that was written at `time_ms` or later, Unix time, its end
    /// where there is none; and whether the topic still holds all of those.
    pub fn since(&self, time_ms: i64) -> Result<(Offsets, bool), IngestError> {
        let mut asked = TopicPartitionList::new();
        for partition in 0..self.partitions {
            asked
                .add_partition_offset(&self.topic, partition, KafkaOffset::Offset(time_ms))
                .map_err(|error| self.failed(&error))?;
        }
        let found = (self.consumer)
            .offsets_for_times(asked, ANSWER_WITHIN)
            .map_err(|error| self.failed(&error))?;
        let (mut since, mut is_held) = (Offsets::default(), true);
        for element in found.elements() {
            element.error().map_err(|error| self.failed(&error))?;
            let partition = element.partition();
            let (low, high) = self.holds(partition)?;
            let at = match element.offset() {
                KafkaOffset::Offset(at) => at,
                _ => high,
            };
            // What stood before the first record that is held may have been as new.
            is_held &= low < at || high == 0;
            since.set(self.topic.as_str().into(), Partition(partition), Offset(at));
        }
        Ok((since, is_held))
    }

    /// Calls `each` with every record from `from` on (a partition that is not named: from its
    /// beginning) to the end as of the call, a partition's records in their order. Returns that
    /// end.
    ///
    /// # Errors
    /// What `each` says; [`IngestError::NotHeld`] if the topic no longer holds what begins at
    /// `from`; [`IngestError::OrderRecord`] for a record that is none.
    pub fn read_from<E: From<IngestError>>(
        &mut self,
        from: &Offsets,
        mut each: impl FnMut(OrderRecord) -> Result<(), E>,
    ) -> Result<Offsets, E> {
        let mut ends = Offsets::default();
        let mut open: BTreeMap<i32, i64> = BTreeMap::new();
        let mut list = TopicPartitionList::new();
        for partition in 0..self.partitions {
            let (low, high) = self.holds(partition)?;
            let begin = match from.next(&self.topic, Partition(partition)) {
                None => low,
                Some(at) if (low..=high).contains(&at.0) => at.0,
                Some(at) => {
                    return Err(IngestError::NotHeld {
                        topic: self.topic.clone(),
                        partition,
                        from: at.0,
                        next: at.0,
                        low,
                        high,
                    }
                    .into());
                }
            };
            ends.set(
                self.topic.as_str().into(),
                Partition(partition),
                Offset(high),
            );
            if begin < high {
                open.insert(partition, high);
                list.add_partition_offset(&self.topic, partition, KafkaOffset::Offset(begin))
                    .map_err(|error| self.failed(&error))?;
            }
        }
        self.consumer
            .assign(&list)
            .map_err(|error| self.failed(&error))?;
        let read = self.read(&mut open, &mut each);
        self.consumer
            .unassign()
            .map_err(|error| self.failed(&error))?;
        read.map(|()| ends)
    }

    /// Reads until no partition is open any more.
    fn read<E: From<IngestError>>(
        &self,
        open: &mut BTreeMap<i32, i64>,
        each: &mut impl FnMut(OrderRecord) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut heard = Instant::now();
        while !open.is_empty() {
            match self.consumer.poll(POLL) {
                None if heard.elapsed() > SILENT_MAX => {
                    let action = format!("reading {}", self.topic);
                    let trouble = KafkaTrouble::Unreachable;
                    return Err(self.broker.trouble(&action, trouble, "nothing came").into());
                }
                None => {}
                // Behind the last record there may be control records, which are not given.
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    open.remove(&partition);
                }
                Some(Err(error))
                    if KafkaTrouble::passes(&error)
                        || KafkaTrouble::of(&error) == KafkaTrouble::GroupDenied =>
                {
                    tracing::warn!(brokers = %self.broker.brokers, %error, "the Kafka client goes on");
                }
                Some(Err(error)) => return Err(self.failed(&error).into()),
                Some(Ok(message)) => {
                    heard = Instant::now();
                    let (partition, offset) = (message.partition(), message.offset());
                    let Some(end) = open.get(&partition).copied() else {
                        continue;
                    };
                    if offset + 1 >= end {
                        open.remove(&partition);
                    }
                    if offset < end {
                        let payload = message.payload().unwrap_or_default();
                        let order = serde_json::from_slice(payload).map_err(|e| {
                            IngestError::OrderRecord {
                                topic: self.topic.clone(),
                                partition,
                                offset,
                                message: e.to_string(),
                            }
                        })?;
                        each(order)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The first offset and the one after the last committed record of a partition.
    fn holds(&self, partition: i32) -> Result<(i64, i64), IngestError> {
        self.consumer
            .fetch_watermarks(&self.topic, partition, ANSWER_WITHIN)
            .map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &KafkaError) -> IngestError {
        self.broker
            .failed(&format!("reading {}", self.topic), error)
    }
}
