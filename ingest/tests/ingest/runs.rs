//! Runs of records that are read again in a recorded order, and the order log that has them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sanderling_ingest::{IngestError, OrderLog, RunsReader};
use sanderling_schemas::{Offset, Offsets, OrderRecord, OrderVersions, Partition, Rung, Sequence};

use crate::cluster::{LONG_AGO_MS, cluster, produce, produce_payments, produce_to, run};
use crate::{order, payments};

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
