//! Topics of librdkafka's mock broker: their records in the order of their times, and what is wrong with a topic or a
//! broker.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use sanderling_ingest::{EventSource, IngestError, KafkaTrouble, Position, Progress};
use sanderling_schemas::{Offset, Offsets, Partition, RejectReason};

use crate::cluster::{
    LONG_AGO_MS, POLL, WITHIN, cluster, open, options, produce, produce_labels, produce_payments,
    read,
};
use crate::order;

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
