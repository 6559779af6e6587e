//! Partitions of the mock broker's topics: their lanes, their assignment, and how they are given up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::mocking::MockCluster;
use sanderling_ingest::{
    EventSource, IngestError, KafkaOptions, KafkaSource, SourceEvent, TopicPartition,
};
use sanderling_schemas::{Offset, Offsets, Partition, Sequence};

use crate::cluster::{
    LONG_AGO_MS, POLL, WITHIN, cluster, open, options, produce_labels, produce_payments, read,
};
use crate::{order, payments};

/// Longer than the mock broker waits for more members of a group.
const UNSEEN: Duration = Duration::from_secs(8);

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
