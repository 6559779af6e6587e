//! All that a topic holds, once, as a reader of committed records sees it.

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use sanderling_ingest::{IngestError, KafkaTrouble};

use super::properties::client_config;
use crate::failure::Failure;
use crate::settings::KafkaSettings;

/// How long the broker may take to hand over the next record.
const ANSWER_WITHIN: Duration = Duration::from_secs(15);
/// How long one question may take: between two it is heard why the first had no answer.
const TRY: Duration = Duration::from_secs(1);
/// How long a broker may take to appear, or to know a topic that was made just now.
const APPEARS_WITHIN: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(100);

/// One record.
pub struct Scanned<'a> {
    /// Partition and offset, for messages.
    pub place: (i32, i64),
    /// When it was written, milliseconds.
    pub time_ms: Option<i64>,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: Option<&'a [u8]>,
}

/// Gives `each` every record that the partitions of `topic` hold now, partition by partition in
/// order; what is written meanwhile may be among them or not.
///
/// # Errors
/// A broker that cannot be reached, a topic that is not there, and what `each` returns.
pub fn scan(
    kafka: &KafkaSettings,
    topic: &str,
    mut each: impl FnMut(Scanned<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let failed = |error: &KafkaError| trouble(kafka, topic, error);
    let (consumer, partitions) = open(kafka, topic)?;
    let mut unfinished = BTreeSet::new();
    let mut assignment = TopicPartitionList::new();
    for partition in partitions {
        let (low, high) = consumer
            .fetch_watermarks(topic, partition, ANSWER_WITHIN)
            .map_err(|e| failed(&e))?;
        if low < high {
            assignment
                .add_partition_offset(topic, partition, Offset::Beginning)
                .map_err(|e| failed(&e))?;
            unfinished.insert(partition);
        }
    }
    consumer.assign(&assignment).map_err(|e| failed(&e))?;
    let mut heard = Instant::now();
    while !unfinished.is_empty() {
        match consumer.poll(POLL) {
            Some(Ok(message)) => each(Scanned {
                place: (message.partition(), message.offset()),
                time_ms: message.timestamp().to_millis(),
                key: message.key(),
                value: message.payload(),
            })?,
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                unfinished.remove(&partition);
            }
            None => {
                if heard.elapsed() > ANSWER_WITHIN {
                    return Err(failed(&KafkaError::MessageConsumption(
                        RDKafkaErrorCode::OperationTimedOut,
                    )));
                }
                continue;
            }
            // The client connects again by itself; silence has its limit above.
            Some(Err(error)) if KafkaTrouble::of(&error) == KafkaTrouble::Unreachable => continue,
            Some(Err(error)) => return Err(failed(&error)),
        }
        heard = Instant::now();
    }
    Ok(())
}

/// Asks whether `topic` can be read.
///
/// # Errors
/// A broker that cannot be reached or does not let us in, a topic that is not there.
pub fn check_readable(kafka: &KafkaSettings, topic: &str) -> Result<(), Failure> {
    open(kafka, topic).map(drop)
}

/// A consumer, and the partitions of `topic`.
fn open(kafka: &KafkaSettings, topic: &str) -> Result<(BaseConsumer<Refusal>, Vec<i32>), Failure> {
    let failed = |error: &KafkaError| trouble(kafka, topic, error);
    let consumer = client_config(kafka, &[])
        .set("group.id", "sanderling-scan")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .create_with_context(Refusal::default())
        .map_err(|e| failed(&e))?;
    let begun = Instant::now();
    loop {
        let error = match partitions(&consumer, topic) {
            Ok(partitions) => return Ok((consumer, partitions)),
            Err(error) => error,
        };
        while consumer.poll(Duration::ZERO).is_some() {}
        if let Some(refusal) = consumer.context().0.get() {
            return Err(failed(refusal));
        }
        let may_pass = matches!(
            KafkaTrouble::of(&error),
            KafkaTrouble::Unreachable | KafkaTrouble::MissingTopic
        );
        if !may_pass || begun.elapsed() >= APPEARS_WITHIN {
            return Err(failed(&error));
        }
        std::thread::sleep(POLL);
    }
}

fn partitions(consumer: &BaseConsumer<Refusal>, topic: &str) -> Result<Vec<i32>, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(topic), TRY)?;
    let known = metadata.topics().iter().find(|known| known.name() == topic);
    let unknown = KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition);
    let known = known.ok_or(unknown)?;
    match known.error().map(RDKafkaErrorCode::from) {
        None => Ok(known.partitions().iter().map(|p| p.id()).collect()),
        Some(code) => Err(KafkaError::MetadataFetch(code)),
    }
}

/// What the client says of its own accord when it is not let in: whoever asked it something hears
/// only that no answer came.
#[derive(Default)]
struct Refusal(OnceLock<KafkaError>);

impl ClientContext for Refusal {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "the Kafka client");
        if let KafkaTrouble::Authentication | KafkaTrouble::Tls = KafkaTrouble::of(&error) {
            // The first word is the one that tells.
            let _ = self.0.set(error);
        }
    }
}

impl ConsumerContext for Refusal {}

fn trouble(kafka: &KafkaSettings, topic: &str, error: &KafkaError) -> Failure {
    IngestError::Kafka {
        brokers: kafka.brokers.clone(),
        action: format!("reading {topic}"),
        trouble: KafkaTrouble::of(error),
        word: error.to_string(),
    }
    .into()
}
