//! Topics of librdkafka's mock broker.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use sanderling_ingest::{
    EventSource, IngestError, KafkaOptions, KafkaSource, KafkaTrouble, OrderLog, Position,
    Progress, RunsReader, SourceEvent, TopicPartition,
};
use sanderling_schemas::{
    EventBatch, Offset, OffsetRange, Offsets, OrderRecord, OrderVersions, Partition, RejectReason,
    Run, Rung, Sequence,
};

use crate::{order, payments};

/// A rebalance of the mock broker takes its time on a busy machine.
const WITHIN: Duration = Duration::from_secs(90);
const POLL: Duration = Duration::from_millis(50);
/// Longer than the mock broker waits for more members of a group.
const UNSEEN: Duration = Duration::from_secs(8);
/// A time long past, milliseconds.
const LONG_AGO_MS: i64 = 1_700_000_000_000;

/// A broker with the two topics, each of so many partitions.
fn cluster(partitions: i32) -> MockCluster<'static, DefaultProducerContext> {
    let cluster = MockCluster::new(1).unwrap();
    for topic in ["payments-topic", "labels-topic"] {
        cluster.create_topic(topic, partitions, 1).unwrap();
    }
    cluster
}

/// Records for a partition, each with its time where it matters.
fn produce_to(brokers: &str, topic: &str, partition: i32, records: &[(Option<&str>, Option<i64>)]) {
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

fn produce(brokers: &str, topic: &str, records: &[Option<&str>]) {
    let records: Vec<_> = records.iter().map(|record| (*record, None)).collect();
    produce_to(brokers, topic, 0, &records);
}

/// `count` good payments, one each `step_ms` from `from_ms` on.
fn produce_payments(brokers: &str, partition: i32, count: i64, from_ms: i64, step_ms: i64) {
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

fn produce_labels(brokers: &str, partition: i32, count: i64, from_ms: i64, step_ms: i64) {
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

fn options(brokers: &str) -> KafkaOptions {
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

fn open(options: &KafkaOptions) -> KafkaSource {
    let (relation, specs) = payments();
    KafkaSource::new(relation, &specs, options).unwrap()
}

/// What comes until there are `records` rows and rejections.
fn read(source: &mut KafkaSource, records: usize) -> (Vec<EventBatch>, Vec<(i64, RejectReason)>) {
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

fn run(topic: &str, partition: i32, from: i64, next: i64) -> Run {
    Run {
        topic: topic.into(),
        partition: Partition(partition),
        range: OffsetRange {
            from: Offset(from),
            next: Offset(next),
        },
    }
}

#[test]
fn records_become_rows_and_bad_ones_dead_letters() {
    let cluster = cluster(1);
    let brokers = cluster.bootstrap_servers();
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
    let mut first = open(&options(&brokers));
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
    committed.set("payments-topic".into(), Partition(0), Offset(6));
    let asked = [("payments-topic".into(), Partition(0))];
    let mut progress = Progress::from(committed.clone());
    let note = "what is before it".to_string();
    progress.notes.insert(asked[0].clone(), note);
    first.committer().commit(&progress).unwrap();
    assert_eq!(first.committer().committed(&asked).unwrap(), committed);
    assert_eq!(first.committer().progress(&asked).unwrap(), progress);
    drop(first);
    let mut second = open(&options(&brokers));
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
    let cluster = cluster(1);
    let brokers = cluster.bootstrap_servers();
    cluster
        .topic_error(
            "payments-topic",
            rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
        )
        .unwrap();
    let error = open(&options(&brokers)).check_topics().unwrap_err();
    assert!(error.to_string().contains("payments-topic"), "{error}");
    let trouble = trouble_of(&error);
    assert_eq!(trouble, Some(KafkaTrouble::MissingTopic), "{error}");
}

#[test]
fn a_topic_that_may_not_be_read_is_named() {
    let cluster = cluster(1);
    let brokers = cluster.bootstrap_servers();
    cluster
        .topic_error(
            "labels-topic",
            rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
        )
        .unwrap();
    let error = open(&options(&brokers)).check_topics().unwrap_err();
    assert!(error.to_string().contains("labels-topic"), "{error}");
    assert_eq!(
        trouble_of(&error),
        Some(KafkaTrouble::TopicDenied),
        "{error}"
    );
}

#[test]
fn a_broker_that_is_not_there_is_told_with_the_clients_reason() {
    // Nothing listens on a port that was just given back.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let brokers = port.local_addr().unwrap().to_string();
    drop(port);
    let error = open(&options(&brokers)).check_topics().unwrap_err();
    assert_eq!(
        trouble_of(&error),
        Some(KafkaTrouble::Unreachable),
        "{error}"
    );
    assert!(error.to_string().contains("refused"), "{error}");
}

fn trouble_of(error: &IngestError) -> Option<KafkaTrouble> {
    match error {
        IngestError::Kafka { trouble, .. } => Some(*trouble),
        _ => None,
    }
}

/// Backlogs of very different length over the same month: read as fast as it goes, the short one
/// would come first as a whole.
#[test]
fn a_backlog_is_merged_by_the_brokers_time_and_live_records_come_at_once() {
    let cluster = cluster(3);
    let brokers = cluster.bootstrap_servers();
    let month_ms = 30 * 86_400_000;
    for (partition, count) in [(0, 6000), (1, 60), (2, 1000)] {
        produce_payments(&brokers, partition, count, LONG_AGO_MS, month_ms / count);
        produce_labels(&brokers, partition, 20, LONG_AGO_MS, month_ms / 20);
    }
    let mut source = open(&options(&brokers));
    assert!(source.is_behind());
    let (batches, _) = read(&mut source, 7060 + 60);
    let times: Vec<i64> = batches
        .iter()
        .flat_map(|b| b.broker_time_us.clone())
        .collect();
    let back = times.windows(2).filter(|pair| pair[0] > pair[1]).count();
    assert_eq!((times.len(), back), (7120, 0));
    let ids: BTreeSet<String> = order(&batches).into_iter().collect();
    assert_eq!(ids.len(), 7120);
    let mut sequence = 0;
    for batch in &batches {
        assert_eq!(batch.sequence.0, sequence);
        sequence += batch.len() as u64;
    }

    let from = Instant::now();
    while source.is_behind() {
        assert!(from.elapsed() < WITHIN);
        source.next(100, POLL).unwrap();
    }
    assert!(
        source.lag().iter().all(|(_, _, lag)| *lag == 0),
        "{:?}",
        source.lag()
    );
    // However old its time, and whatever the others may still bring.
    let from = Instant::now();
    produce_payments(&brokers, 1, 1, LONG_AGO_MS, 1);
    let (batches, _) = read(&mut source, 1);
    assert_eq!(order(&batches), ["p1-0"]);
    assert!(
        from.elapsed() < Duration::from_millis(800),
        "{:?}",
        from.elapsed()
    );
}

#[test]
fn a_lane_has_one_partition_number_of_every_topic() {
    let cluster = cluster(3);
    let brokers = cluster.bootstrap_servers();
    for partition in 0..3 {
        produce_payments(&brokers, partition, 300, LONG_AGO_MS, 1000);
        produce_labels(&brokers, partition, 30, LONG_AGO_MS + 500, 10_000);
    }
    let mut source = open(&KafkaOptions {
        lanes: true,
        hold: true,
        ..options(&brokers)
    });
    let partitions = assigned(&mut source);
    source.begin(&partitions, &Offsets::default()).unwrap();
    // Until all of them have something at hand.
    std::thread::sleep(Duration::from_secs(2));
    let (batches, _) = read(&mut source, 990);
    let mut last: BTreeMap<Partition, i64> = BTreeMap::new();
    for batch in &batches {
        let number = batch.ids[0].partition;
        assert!(batch.ids.iter().all(|id| id.partition == number));
        assert_eq!(batch.sequence, Sequence(0));
        for time in &batch.broker_time_us {
            assert!(
                last.insert(number, *time)
                    .is_none_or(|before| before <= *time)
            );
        }
    }
    assert_eq!(last.len(), 3);
    // No lane is left out while another has records.
    let first = batches.iter().take(5).map(|batch| batch.ids[0].partition);
    assert_eq!(first.collect::<BTreeSet<_>>().len(), 3);
}

/// Waits for the partitions that a source is assigned.
fn assigned(source: &mut KafkaSource) -> Vec<TopicPartition> {
    let from = Instant::now();
    loop {
        assert!(from.elapsed() < WITHIN);
        match source.next(100, POLL).unwrap() {
            SourceEvent::Assigned(partitions) => return partitions,
            SourceEvent::Idle => {}
            other => panic!("before an assignment: {other:?}"),
        }
    }
}

#[test]
fn held_partitions_wait_and_begin_where_they_are_told() {
    let cluster = cluster(2);
    let brokers = cluster.bootstrap_servers();
    for partition in 0..2 {
        produce_payments(&brokers, partition, 10, LONG_AGO_MS, 1000);
    }
    let mut source = open(&KafkaOptions {
        hold: true,
        ..options(&brokers)
    });
    let partitions = assigned(&mut source);
    assert_eq!(partitions.len(), 4);
    for _ in 0..3 {
        let from = Instant::now();
        let wait = Duration::from_millis(300);
        assert!(matches!(source.next(100, wait).unwrap(), SourceEvent::Idle));
        let took = from.elapsed();
        assert!(
            took >= wait && took < wait + Duration::from_millis(200),
            "{took:?}"
        );
    }
    let mut at = Offsets::default();
    at.set("payments-topic".into(), Partition(0), Offset(7));
    at.set("payments-topic".into(), Partition(1), Offset(10));
    source.begin(&partitions, &at).unwrap();
    let (batches, _) = read(&mut source, 3);
    assert_eq!(order(&batches), ["p0-7", "p0-8", "p0-9"]);
    produce_payments(&brokers, 1, 1, LONG_AGO_MS, 1);
    let (batches, _) = read(&mut source, 1);
    assert_eq!(batches[0].ids[0].to_string(), "payments-topic/1/10");

    // Where a topic no longer reaches, nothing else is read in its place.
    at.set("payments-topic".into(), Partition(0), Offset(500));
    let error = source.begin(&partitions, &at).unwrap_err();
    assert!(
        matches!(
            error,
            IngestError::NotHeld {
                from: 500,
                high: 10,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn partitions_are_given_up_only_after_what_was_read_of_them_is_committed() {
    let cluster = cluster(4);
    let brokers = cluster.bootstrap_servers();
    for partition in 0..4 {
        produce_payments(&brokers, partition, 500, LONG_AGO_MS, 1000);
    }
    let told: Arc<Mutex<Vec<TopicPartition>>> = Arc::default();
    let heard = told.clone();
    let lanes = KafkaOptions {
        lanes: true,
        ..options(&brokers)
    };
    let mut first = open(&KafkaOptions {
        before_revoke: Some(Arc::new(move |gone| {
            heard.lock().unwrap().extend_from_slice(gone)
        })),
        ..lanes.clone()
    });
    read(&mut first, 100);
    let mut second = open(&lanes);
    let from = Instant::now();
    let (mut gone, mut come) = (None, Vec::new());
    while come.is_empty() {
        assert!(from.elapsed() < WITHIN);
        match first.next(10, POLL).unwrap() {
            SourceEvent::Revoked(partitions) => {
                assert_eq!(*told.lock().unwrap(), partitions);
                gone = Some(partitions);
            }
            SourceEvent::Batch(batch) => {
                let gone = gone.iter().flatten();
                for (topic, partition) in gone {
                    let mut ids = batch.ids.iter();
                    assert!(!ids.any(|id| id.topic == *topic && id.partition == *partition));
                }
            }
            _ => {}
        }
        if let SourceEvent::Assigned(partitions) = second.next(10, POLL).unwrap() {
            come = partitions;
        }
    }
    // A lane moves as a whole: the same numbers of every topic.
    let numbers = |topic: &str| -> Vec<Partition> {
        let of_topic = come.iter().filter(|(name, _)| **name == *topic);
        of_topic.map(|(_, partition)| *partition).collect()
    };
    assert_eq!(numbers("payments-topic").len(), 2, "{come:?} {gone:?}");
    assert_eq!(numbers("payments-topic"), numbers("labels-topic"));
    assert_eq!(Some(come), gone);
    // Those that stay are not told of when the source goes.
    let before = told.lock().unwrap().len();
    drop(first);
    assert_eq!(told.lock().unwrap().len(), before);
}

#[test]
fn lanes_of_topics_with_different_partitions_are_refused() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("payments-topic", 4, 1).unwrap();
    cluster.create_topic("labels-topic", 3, 1).unwrap();
    let (relation, specs) = payments();
    let lanes = KafkaOptions {
        lanes: true,
        ..options(&cluster.bootstrap_servers())
    };
    let Err(error) = KafkaSource::new(relation, &specs, &lanes) else {
        panic!("was taken");
    };
    let named = matches!(
        error,
        IngestError::PartitionsDiffer {
            partitions: 4,
            others: 3,
            ..
        }
    );
    assert!(named, "{error}");
}

#[test]
fn a_broker_that_comes_back_only_costs_time() {
    let cluster = cluster(1);
    let brokers = cluster.bootstrap_servers();
    produce_payments(&brokers, 0, 50, LONG_AGO_MS, 1000);
    let mut source = open(&options(&brokers));
    read(&mut source, 50);
    cluster.broker_down(1).unwrap();
    let from = Instant::now();
    while from.elapsed() < Duration::from_secs(3) {
        source.next(100, POLL).unwrap();
    }
    cluster.broker_up(1).unwrap();
    produce_payments(&brokers, 0, 50, LONG_AGO_MS, 1000);
    let (batches, _) = read(&mut source, 50);
    assert_eq!(batches[0].ids[0].offset, Offset(50));
}

/// The client knows of its partitions, and nobody has asked it: it is told that they come and that they go in
/// one breath.
#[test]
fn a_member_that_never_looked_at_its_partitions_can_leave() {
    let cluster = cluster(1);
    let brokers = cluster.bootstrap_servers();
    let sources = (0..64).map(|member| {
        open(&KafkaOptions {
            group: format!("unseen-{member}"),
            instance: Some("one".into()),
            ..options(&brokers)
        })
    });
    let sources: Vec<_> = sources.collect();
    thread::sleep(UNSEEN);
    let (gone, going) = mpsc::channel();
    for source in sources {
        let gone = gone.clone();
        thread::spawn(move || {
            drop(source);
            gone.send(()).unwrap();
        });
    }
    for left in (1..=64).rev() {
        let waited = going.recv_timeout(WITHIN);
        waited.unwrap_or_else(|_| panic!("{left} are still there"));
    }
}

#[test]
fn a_coordinator_that_is_not_ready_is_asked_again() {
    let cluster = cluster(1);
    let source = open(&options(&cluster.bootstrap_servers()));
    let asked = [("payments-topic".into(), Partition(0))];
    cluster.request_errors(
        RDKafkaApiKey::OffsetFetch,
        &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_COORDINATOR; 3],
    );
    let committed = source.committer().committed(&asked).unwrap();
    assert_eq!(committed, Offsets::default());
}

#[test]
fn reading_again_ends_when_it_is_told_to() {
    let cluster = cluster(2);
    let brokers = cluster.bootstrap_servers();
    produce_payments(&brokers, 0, 100, LONG_AGO_MS, 1000);
    let (relation, specs) = payments();
    let stop = Arc::new(AtomicBool::new(false));
    let mut reader = RunsReader::new(relation, &specs, &brokers, &BTreeMap::new())
        .unwrap()
        .until(stop.clone());
    let runs = [run("payments-topic", 0, 3, 5)];
    assert_eq!(reader.read(&runs).unwrap().0.unwrap().len(), 2);
    // Beyond the end, it waits for what may still come.
    let runs = [run("payments-topic", 0, 98, 101)];
    let reading = std::thread::spawn(move || reader.read(&runs));
    std::thread::sleep(Duration::from_millis(300));
    stop.store(true, Ordering::Release);
    let error = reading.join().unwrap().map(|_| ()).unwrap_err();
    assert!(matches!(error, IngestError::Stopped), "{error}");
}

#[test]
fn runs_are_read_again_in_their_order() {
    let cluster = cluster(2);
    let brokers = cluster.bootstrap_servers();
    produce_payments(&brokers, 0, 100, LONG_AGO_MS, 1000);
    produce_payments(&brokers, 1, 100, LONG_AGO_MS, 1000);
    produce(
        &brokers,
        "labels-topic",
        &[Some("{"), Some(r#"{"id":"a","at":9000,"is_fraud":1}"#)],
    );
    let (relation, specs) = payments();
    let mut reader = RunsReader::new(relation, &specs, &brokers, &BTreeMap::new()).unwrap();
    let batch = reader
        .read(&[
            run("payments-topic", 1, 40, 42),
            run("payments-topic", 0, 3, 5),
            run("labels-topic", 0, 1, 2),
            run("payments-topic", 1, 42, 43),
            // Over records that were rejected.
            run("payments-topic", 0, 8, 9),
        ])
        .unwrap()
        .0
        .unwrap();
    let ids = [
        "p1-40",
        "p1-41",
        "p0-3",
        "p0-4",
        "label:a=1",
        "p1-42",
        "p0-8",
    ];
    assert_eq!(order(&[batch]), ids);
    // Backwards, to the end, and on from there.
    let batch = reader
        .read(&[run("payments-topic", 0, 98, 100)])
        .unwrap()
        .0
        .unwrap();
    assert_eq!(order(&[batch]), ["p0-98", "p0-99"]);
    let batch = reader
        .read(&[run("payments-topic", 0, 1, 2)])
        .unwrap()
        .0
        .unwrap();
    assert_eq!(order(&[batch]), ["p0-1"]);
    assert!(
        reader
            .read(&[run("labels-topic", 0, 0, 1)])
            .unwrap()
            .0
            .is_none()
    );
    produce_payments(&brokers, 0, 5, LONG_AGO_MS, 1000);
    std::thread::sleep(Duration::from_millis(300));
    let batch = reader
        .read(&[run("payments-topic", 0, 98, 103)])
        .unwrap()
        .0
        .unwrap();
    assert_eq!(batch.len(), 5);

    let error = reader
        .read(&[run("payments-topic", 1, 99, 101)])
        .unwrap_err();
    let NotHeld {
        topic,
        from,
        next,
        high,
        ..
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!(
        (&*topic, from, next, high),
        ("payments-topic", 99, 101, 100)
    );
    use IngestError::NotHeld;
}

#[test]
fn the_order_log_is_read_to_its_end() {
    let cluster = cluster(2);
    let brokers = cluster.bootstrap_servers();
    let record = |sequence: u64| OrderRecord {
        sequence: Sequence(sequence),
        lane: None,
        backlog: false,
        rung: Rung::Full,
        versions: OrderVersions {
            features: "f".into(),
            model: "m".into(),
            policy: "p".into(),
            tables: BTreeMap::new(),
        },
        runs: vec![run("payments-topic", 0, 0, 1)],
    };
    let produce_orders = |partition, sequences: std::ops::Range<u64>| {
        let records: Vec<_> = sequences
            .map(|sequence| serde_json::to_string(&record(sequence)).unwrap())
            .collect();
        let records: Vec<_> = records.iter().map(|r| (Some(r.as_str()), None)).collect();
        produce_to(&brokers, "labels-topic", partition, &records);
    };
    produce_orders(0, 0..20);
    produce_orders(1, 100..110);
    let mut log = OrderLog::new(&brokers, &BTreeMap::new(), "labels-topic").unwrap();
    let ends = log.ends().unwrap();
    assert_eq!(ends.next("labels-topic", Partition(0)), Some(Offset(20)));
    let mut seen = Vec::new();
    let mut read = |log: &mut OrderLog, from: &Offsets| {
        seen.clear();
        let read = log.read_from::<IngestError>(from, |record| {
            seen.push(record.sequence.0);
            Ok(())
        });
        seen.sort();
        (read, seen.clone())
    };
    let (end, all) = read(&mut log, &Offsets::default());
    assert_eq!((end.unwrap(), all.len()), (ends, 30));
    let mut from = Offsets::default();
    from.set("labels-topic".into(), Partition(0), Offset(18));
    from.set("labels-topic".into(), Partition(1), Offset(10));
    let (_, some) = read(&mut log, &from);
    assert_eq!(some, [18, 19]);
    produce_orders(1, 110..111);
    assert_eq!(read(&mut log, &from).1, [18, 19, 110]);

    from.set("labels-topic".into(), Partition(1), Offset(12));
    let error = read(&mut log, &from).0.unwrap_err();
    assert!(
        matches!(error, IngestError::NotHeld { from: 12, .. }),
        "{error}"
    );
    produce_to(&brokers, "labels-topic", 1, &[(Some("{}"), None)]);
    from.set("labels-topic".into(), Partition(1), Offset(10));
    let error = read(&mut log, &from).0.unwrap_err();
    assert!(
        matches!(error, IngestError::OrderRecord { offset: 11, .. }),
        "{error}"
    );
}
