//! Topics of a Kafka broker as a source.
//!
//! One consumer, polled by whoever calls `next`. Records are taken in the order in which the
//! client hands them over, their payloads copied once, and decoded together, a stream at a time.
//! Offsets are committed only when told so, after what was made of the records is safe.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arrow::array::RecordBatch;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, ConsumerContext, Rebalance};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use rdkafka::{ClientConfig, ClientContext};
use sanderling_schemas::{
    DeadLetter, EventBatch, EventId, Offset, Offsets, Partition, Relation, Sequence,
};

use crate::IngestError;
use crate::assemble::assemble;
use crate::decode::Decoder;
use crate::source::{EventSource, Position, SourceEvent};
use crate::stream::StreamSpec;

/// Payload bytes of one batch, beyond which no more records are taken into it.
const BATCH_BYTES_MAX: usize = 64 << 20;
/// How long the broker may take to answer a question.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);

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
#[derive(Debug, Clone, Default)]
pub struct KafkaOptions {
    /// Bootstrap servers, comma-separated.
    pub brokers: String,
    /// Consumer group.
    pub group: String,
    /// Properties of librdkafka that override those set here.
    pub properties: BTreeMap<String, String>,
    /// Where to begin without a committed offset.
    pub offset_reset: OffsetReset,
    /// Sequence of the first row.
    pub first_sequence: u64,
}

/// Topics, one for each stream.
pub struct KafkaSource {
    relation: Arc<Relation>,
    brokers: String,
    consumer: BaseConsumer<Rebalances>,
    topics: Vec<Topic>,
    first_sequence: u64,
    taken: Taken,
    rebalanced: VecDeque<SourceEvent>,
    ready: Option<EventBatch>,
    read: Offsets,
    accepted: u64,
    rejected: u64,
}

struct Topic {
    name: Arc<str>,
    decoder: Decoder,
}

/// Records that wait to be decoded.
#[derive(Default)]
struct Taken {
    bytes: Vec<u8>,
    records: Vec<TakenRecord>,
}

struct TakenRecord {
    topic: usize,
    partition: Partition,
    offset: Offset,
    broker_time_us: Option<i64>,
    /// Where its payload stands in `bytes`.
    payload: Option<(usize, usize)>,
}

impl KafkaSource {
    /// Subscribes to the topics of `streams`. Fails if a stream has no topic, or if the client
    /// refuses its settings; a broker that cannot be reached shows in `next`, or in
    /// [`KafkaSource::check_topics`].
    pub fn new(
        relation: Arc<Relation>,
        streams: &[StreamSpec],
        options: &KafkaOptions,
    ) -> Result<Self, IngestError> {
        let failed = |action: &str, source| IngestError::Kafka {
            brokers: options.brokers.clone(),
            action: action.into(),
            source,
        };
        let mut topics = Vec::with_capacity(streams.len());
        for spec in streams {
            let name = spec
                .topic
                .as_deref()
                .ok_or_else(|| IngestError::Declaration {
                    stream: spec.name.to_string(),
                    message: "to be read from a broker it needs `topic`".into(),
                })?;
            let decoder = Decoder::new(relation.clone(), spec.clone())?;
            topics.push(Topic {
                name: name.into(),
                decoder,
            });
        }
        let reset = match options.offset_reset {
            OffsetReset::Earliest => "earliest",
            OffsetReset::Latest => "latest",
        };
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &options.brokers)
            .set("group.id", &options.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", reset)
            .set("isolation.level", "read_committed")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("fetch.wait.max.ms", "5")
            .set("queued.min.messages", "20000")
            .set("queued.max.messages.kbytes", "65536");
        for (name, value) in &options.properties {
            config.set(name, value);
        }
        let consumer: BaseConsumer<Rebalances> = config
            .create_with_context(Rebalances::default())
            .map_err(|error| failed("creating the consumer", error))?;
        let names: Vec<&str> = topics.iter().map(|topic| &*topic.name).collect();
        consumer
            .subscribe(&names)
            .map_err(|error| failed("subscribing", error))?;
        Ok(Self {
            relation,
            brokers: options.brokers.clone(),
            consumer,
            topics,
            first_sequence: options.first_sequence,
            taken: Taken::default(),
            rebalanced: VecDeque::new(),
            ready: None,
            read: Offsets::default(),
            accepted: 0,
            rejected: 0,
        })
    }

    /// Asks the broker for every topic: fails if it cannot be reached or has one of them not.
    pub fn check_topics(&self) -> Result<(), IngestError> {
        for topic in &self.topics {
            let asked = self
                .consumer
                .fetch_metadata(Some(&topic.name), ANSWER_WITHIN);
            let action = || format!("asking for topic {}", topic.name);
            let metadata = asked.map_err(|error| self.failed(&action(), error))?;
            let known = metadata
                .topics()
                .iter()
                .find(|known| known.name() == &*topic.name);
            let error = match known {
                Some(known) => known.error().map(RDKafkaErrorCode::from),
                None => Some(RDKafkaErrorCode::UnknownTopicOrPartition),
            };
            if let Some(code) = error {
                return Err(self.failed(&action(), KafkaError::MetadataFetch(code)));
            }
        }
        Ok(())
    }

    /// Commits offsets, each the next to read, and waits until the broker has them.
    pub fn commit(&self, offsets: &Offsets) -> Result<(), IngestError> {
        let mut list = TopicPartitionList::new();
        for (topic, partition, next) in offsets.iter() {
            list.add_partition_offset(topic, partition.0, KafkaOffset::Offset(next.0))
                .map_err(|error| self.failed("committing offsets", error))?;
        }
        if list.count() == 0 {
            return Ok(());
        }
        let committed = self.consumer.commit(&list, CommitMode::Sync);
        committed.map_err(|error| self.failed("committing offsets", error))
    }

    /// The next offset of every partition, after all records that were handed over.
    pub fn offsets(&self) -> &Offsets {
        &self.read
    }

    fn failed(&self, action: &str, source: KafkaError) -> IngestError {
        IngestError::Kafka {
            brokers: self.brokers.clone(),
            action: action.into(),
            source,
        }
    }

    /// Takes what the client has, waiting at most `wait` for the first record, up to
    /// `rows_max` records or a rebalance.
    fn take(&mut self, rows_max: usize, wait: Duration) -> Result<(), IngestError> {
        while self.taken.records.len() < rows_max && self.taken.bytes.len() < BATCH_BYTES_MAX {
            let empty = self.taken.records.is_empty();
            let polled = self
                .consumer
                .poll(if empty { wait } else { Duration::ZERO });
            // A poll that handles a rebalance brings no record.
            self.rebalanced
                .extend(self.consumer.context().events().drain(..));
            match polled {
                None => return Ok(()),
                Some(Ok(message)) => {
                    let topics = &self.topics;
                    let topic = topics
                        .iter()
                        .position(|topic| *topic.name == *message.topic());
                    let Some(topic) = topic else { continue };
                    let payload = message.payload().map(|payload| {
                        let from = self.taken.bytes.len();
                        self.taken.bytes.extend_from_slice(payload);
                        (from, self.taken.bytes.len())
                    });
                    let broker_time_ms = message.timestamp().to_millis();
                    self.taken.records.push(TakenRecord {
                        topic,
                        partition: Partition(message.partition()),
                        offset: Offset(message.offset()),
                        broker_time_us: broker_time_ms.map(|ms| ms.saturating_mul(1000)),
                        payload,
                    });
                }
                Some(Err(error)) if passing(&error) => {
                    tracing::warn!(brokers = %self.brokers, %error, "the Kafka client goes on");
                    if empty {
                        return Ok(());
                    }
                }
                Some(Err(error)) => return Err(self.failed("reading", error)),
            }
        }
        Ok(())
    }

    /// Decodes what was taken: the rows in the order of the records, and the refused ones.
    fn decode(&mut self) -> Result<(Option<EventBatch>, Vec<DeadLetter>), IngestError> {
        let Taken { bytes, records } = std::mem::take(&mut self.taken);
        let mut batches: Vec<RecordBatch> = Vec::with_capacity(self.topics.len());
        // For each record, its row in its topic's batch.
        let mut rows: Vec<Option<usize>> = vec![None; records.len()];
        let mut letters: Vec<(usize, DeadLetter)> = Vec::new();
        let id = |record: &TakenRecord| EventId {
            topic: self.topics[record.topic].name.clone(),
            partition: record.partition,
            offset: record.offset,
        };
        for (index, topic) in self.topics.iter().enumerate() {
            let mine: Vec<usize> = (0..records.len())
                .filter(|i| records[*i].topic == index)
                .collect();
            let payload = |i: usize| records[i].payload.map(|(from, until)| &bytes[from..until]);
            let payloads: Vec<_> = mine.iter().map(|i| payload(*i)).collect();
            let times: Vec<_> = mine.iter().map(|i| records[*i].broker_time_us).collect();
            let decoded = topic.decoder.decode(&payloads, &times)?;
            for (row, record) in decoded.records.iter().enumerate() {
                rows[mine[*record]] = Some(row);
            }
            for refusal in decoded.refused {
                let at = mine[refusal.record];
                let letter = topic.decoder.dead_letter(
                    id(&records[at]),
                    refusal.reason,
                    refusal.detail,
                    payload(at).unwrap_or_default(),
                );
                letters.push((at, letter));
            }
            batches.push(decoded.rows);
        }
        letters.sort_by_key(|(at, _)| *at);
        let letters = letters.into_iter().map(|(_, letter)| letter).collect();
        let mut picks = Vec::with_capacity(records.len());
        let (mut ids, mut broker_times) = (Vec::new(), Vec::new());
        for (record, row) in records.iter().zip(&rows) {
            let next = Offset(record.offset.0 + 1);
            self.read.set(
                self.topics[record.topic].name.clone(),
                record.partition,
                next,
            );
            if let Some(row) = row {
                picks.push((record.topic, *row));
                ids.push(id(record));
                broker_times.push(record.broker_time_us);
            }
        }
        if picks.is_empty() {
            return Ok((None, letters));
        }
        let rows = assemble(&self.relation, &batches, &picks)?;
        let mut batch = EventBatch {
            rows,
            ids,
            sequence: Sequence(0),
            broker_time_us: Vec::new(),
        };
        // Without a broker's time the event's own is the nearest known.
        let times = broker_times.iter().zip(batch.event_times_us());
        batch.broker_time_us = times
            .map(|(broker, event)| broker.unwrap_or(*event))
            .collect();
        Ok((Some(batch), letters))
    }
}

impl EventSource for KafkaSource {
    fn next(&mut self, rows_max: usize, wait: Duration) -> Result<SourceEvent, IngestError> {
        if let Some(mut batch) = self.ready.take() {
            batch.sequence = Sequence(self.first_sequence + self.accepted);
            self.accepted += batch.len() as u64;
            return Ok(SourceEvent::Batch(batch));
        }
        if let Some(event) = self.rebalanced.pop_front() {
            return Ok(event);
        }
        self.take(rows_max.max(1), wait)?;
        if self.taken.records.is_empty() {
            return Ok(self.rebalanced.pop_front().unwrap_or(SourceEvent::Idle));
        }
        let (batch, letters) = self.decode()?;
        self.ready = batch;
        if letters.is_empty() {
            return self.next(rows_max, wait);
        }
        self.rejected += letters.len() as u64;
        Ok(SourceEvent::Rejected(letters))
    }

    fn position(&self) -> Position {
        let next = self.read.iter();
        Position::Topics {
            next: next
                .map(|(topic, partition, next)| (topic.into(), partition, next))
                .collect(),
            accepted: self.accepted,
            rejected: self.rejected,
        }
    }
}

/// Errors after which the client goes on by itself.
fn passing(error: &KafkaError) -> bool {
    !matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::Fatal
                | RDKafkaErrorCode::Authentication
                | RDKafkaErrorCode::SaslAuthenticationFailed
                | RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::GroupAuthorizationFailed
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::UnknownTopic
        )
    )
}

/// What rebalances said while polling.
#[derive(Default)]
struct Rebalances(Mutex<VecDeque<SourceEvent>>);

impl Rebalances {
    fn events(&self) -> MutexGuard<'_, VecDeque<SourceEvent>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Rebalances {}

impl ConsumerContext for Rebalances {
    fn post_rebalance(&self, _consumer: &BaseConsumer<Self>, rebalance: &Rebalance<'_>) {
        let partitions = |list: &TopicPartitionList| {
            let elements = list.elements();
            let mut all: Vec<(Arc<str>, Partition)> = elements
                .iter()
                .map(|e| (e.topic().into(), Partition(e.partition())))
                .collect();
            all.sort();
            all
        };
        match rebalance {
            Rebalance::Assign(list) if list.count() > 0 => {
                self.events()
                    .push_back(SourceEvent::Assigned(partitions(list)));
            }
            Rebalance::Revoke(list) if list.count() > 0 => {
                self.events()
                    .push_back(SourceEvent::Revoked(partitions(list)));
            }
            Rebalance::Assign(_) | Rebalance::Revoke(_) => {}
            Rebalance::Error(error) => tracing::warn!(%error, "a rebalance failed"),
        }
    }
}
