//! Topics of librdkafka's mock broker.

use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use sanderling_ingest::{EventSource, KafkaOptions, KafkaSource, Position, SourceEvent};
use sanderling_schemas::{EventBatch, Offsets, Partition, RejectReason};

use crate::{order, payments};

const WITHIN: Duration = Duration::from_secs(30);

fn produce(brokers: &str, topic: &str, records: &[Option<&str>]) {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .create()
        .unwrap();
    for record in records {
        let mut message: BaseRecord<'_, str, str> = BaseRecord::to(topic).key("c").partition(0);
        message.payload = *record;
        producer.send(message).unwrap();
    }
    producer.flush(WITHIN).unwrap();
}

fn source(brokers: &str) -> KafkaSource {
    let (relation, specs) = payments();
    let options = KafkaOptions {
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
    };
    KafkaSource::new(relation, &specs, &options).unwrap()
}

/// What comes until there are `records` rows and rejections.
fn read(source: &mut KafkaSource, records: usize) -> (Vec<EventBatch>, Vec<(i64, RejectReason)>) {
    let (mut batches, mut letters, from) = (Vec::<EventBatch>::new(), Vec::new(), Instant::now());
    while batches.iter().map(EventBatch::len).sum::<usize>() + letters.len() < records {
        assert!(from.elapsed() < WITHIN, "{records} records did not come");
        match source.next(4, Duration::from_millis(50)).unwrap() {
            SourceEvent::Batch(batch) => batches.push(batch),
            SourceEvent::Rejected(more) => {
                letters.extend(more.iter().map(|l| (l.event.offset.0, l.reason)));
            }
            _ => {}
        }
    }
    (batches, letters)
}

#[test]
fn records_become_rows_and_bad_ones_dead_letters() {
    let cluster = MockCluster::new(1).unwrap();
    let brokers = cluster.bootstrap_servers();
    for topic in ["payments-topic", "labels-topic"] {
        cluster.create_topic(topic, 1, 1).unwrap();
    }
    let ahead = chrono::Utc::now().timestamp_millis() + 2 * 3_600_000;
    let ahead = format!("{{\"id\":\"h\",\"at\":{ahead},\"card\":\"c\"}}");
    produce(
        &brokers,
        "payments-topic",
        &[
            Some(r#"{"id":"a","at":1000,"card":"c","amount":12.5,"n":1,"unknown":[1]}"#),
            Some(r#"{"id":"b","at":2000,"card":"c","amount":"#),
            Some(r#"{"id":"c","at":3000,"card":"c","amount":NaN}"#),
            Some(r#"{"id":"d","at":4000,"amount":1}"#),
            None,
            Some(r#"{"id":"f","at":5000,"card":"c","amount":true}"#),
            Some(r#"{"id":"g","at":6000,"card":"c"}"#),
            Some(&ahead),
        ],
    );
    let mut first = source(&brokers);
    first.check_topics().unwrap();
    let (batches, letters) = read(&mut first, 8);
    assert_eq!(order(&batches), ["a", "g"]);
    use RejectReason::*;
    let reasons = [
        (1, Malformed),
        (2, NotFinite),
        (3, MissingField),
        (4, NullValue),
        (5, WrongType),
        (7, FutureTime),
    ];
    assert_eq!(letters, reasons);
    assert!(
        batches
            .iter()
            .all(|batch| batch.broker_time_us.len() == batch.len())
    );

    produce(
        &brokers,
        "labels-topic",
        &[Some(r#"{"id":"a","at":9000,"is_fraud":1}"#)],
    );
    let (batches, _) = read(&mut first, 1);
    assert_eq!(order(&batches), ["label:a=1"]);
    assert_eq!(batches[0].sequence.0, 2);
    let Position::Topics {
        next,
        accepted,
        rejected,
    } = first.position()
    else {
        panic!()
    };
    assert_eq!((next.len(), accepted, rejected), (2, 3, 6));

    // A new consumer of the group goes on from what was committed.
    let mut committed = Offsets::default();
    committed.set(
        "payments-topic".into(),
        Partition(0),
        sanderling_schemas::Offset(6),
    );
    first.commit(&committed).unwrap();
    drop(first);
    let mut second = source(&brokers);
    let (batches, letters) = read(&mut second, 3);
    let mut ids = order(&batches);
    ids.sort();
    assert_eq!(
        (ids, letters),
        (
            vec!["g".to_string(), "label:a=1".into()],
            vec![(7, FutureTime)]
        )
    );
}

#[test]
fn a_topic_that_is_not_there_is_named() {
    let cluster = MockCluster::new(1).unwrap();
    let brokers = cluster.bootstrap_servers();
    cluster.create_topic("labels-topic", 1, 1).unwrap();
    cluster
        .topic_error(
            "payments-topic",
            rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
        )
        .unwrap();
    let error = source(&brokers).check_topics().unwrap_err().to_string();
    assert!(error.contains("payments-topic"), "{error}");
}
