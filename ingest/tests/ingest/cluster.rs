//! librdkafka's mock broker with the two topics: what is produced to them, and a source that reads them.

use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use sanderling_ingest::{EventSource, KafkaOptions, KafkaSource, SourceEvent};
use sanderling_schemas::{EventBatch, Offset, OffsetRange, Partition, RejectReason, Run};

use crate::payments;

/// A rebalance of the mock broker takes its time on a busy machine.
pub const WITHIN: Duration = Duration::from_secs(90);
pub const POLL: Duration = Duration::from_millis(50);
/// A time long past, milliseconds.
pub const LONG_AGO_MS: i64 = 1_700_000_000_000;

/// A broker with the two topics, each of so many partitions.
pub fn cluster(partitions: i32) -> MockCluster<'static, DefaultProducerContext> {
    let cluster = MockCluster::new(1).unwrap();
    for topic in ["payments-topic", "labels-topic"] {
        cluster.create_topic(topic, partitions, 1).unwrap();
    }
    cluster
}

/// Records for a partition, each with its time where it matters.
pub fn produce_to(
    brokers: &str,
    topic: &str,
    partition: i32,
    records: &[(Option<&str>, Option<i64>)],
) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .create()
        .unwrap();
    for (record, at_ms) in records {
        let mut message: BaseRecord<'_, str, str> =
            BaseRecord::to(topic).key("c").partition(partition);
        message.payload = *record;
        message.timestamp = *at_ms;
        producer.send(message).unwrap();
    }
    producer.flush(WITHIN).unwrap();
}

pub fn produce(brokers: &str, topic: &str, records: &[Option<&str>]) {
    let records: Vec<_> = records.iter().map(|record| (*record, None)).collect();
    produce_to(brokers, topic, 0, &records);
}

/// `count` good payments, one each `step_ms` from `from_ms` on.
pub fn produce_payments(brokers: &str, partition: i32, count: i64, from_ms: i64, step_ms: i64) {
    let records: Vec<_> = (0..count)
        .map(|i| {
            let at = from_ms + i * step_ms;
            (
                format!("{{\"id\":\"p{partition}-{i}\",\"at\":{at},\"card\":\"c\"}}"),
                at,
            )
        })
        .collect();
    let records: Vec<_> = records
        .iter()
        .map(|(record, at)| (Some(record.as_str()), Some(*at)))
        .collect();
    produce_to(brokers, "payments-topic", partition, &records);
}

pub fn produce_labels(brokers: &str, partition: i32, count: i64, from_ms: i64, step_ms: i64) {
    let records: Vec<_> = (0..count)
        .map(|i| {
            let at = from_ms + i * step_ms;
            (
                format!("{{\"id\":\"l{partition}-{i}\",\"at\":{at},\"is_fraud\":1}}"),
                at,
            )
        })
        .collect();
    let records: Vec<_> = records
        .iter()
        .map(|(record, at)| (Some(record.as_str()), Some(*at)))
        .collect();
    produce_to(brokers, "labels-topic", partition, &records);
}

pub fn options(brokers: &str) -> KafkaOptions {
    KafkaOptions {
        brokers: brokers.into(),
        group: "ingest".into(),
        // The mock broker keeps a group waiting for that long after its last member has left.
        properties: [
            ("session.timeout.ms", "6000"),
            ("heartbeat.interval.ms", "500"),
        ]
        .map(|(name, value)| (name.into(), value.into()))
        .into(),
        ..KafkaOptions::default()
    }
}

pub fn open(options: &KafkaOptions) -> KafkaSource {
    let (relation, specs) = payments();
    KafkaSource::new(relation, &specs, options).unwrap()
}

/// What comes until there are `records` rows and rejections.
pub fn read(
    source: &mut KafkaSource,
    records: usize,
) -> (Vec<EventBatch>, Vec<(i64, RejectReason)>) {
    let (mut batches, mut letters, from) = (Vec::<EventBatch>::new(), Vec::new(), Instant::now());
    while batches.iter().map(EventBatch::len).sum::<usize>() + letters.len() < records {
        assert!(from.elapsed() < WITHIN, "{records} records did not come");
        match source.next(100, POLL).unwrap() {
            SourceEvent::Batch(batch) => batches.push(batch),
            SourceEvent::Rejected(more) => {
                letters.extend(more.iter().map(|l| (l.event.offset.0, l.reason)));
            }
            _ => {}
        }
    }
    (batches, letters)
}

pub fn run(topic: &str, partition: i32, from: i64, next: i64) -> Run {
    Run {
        topic: topic.into(),
        partition: Partition(partition),
        range: OffsetRange {
            from: Offset(from),
            next: Offset(next),
        },
    }
}
