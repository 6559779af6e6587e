//! A group that has read on while the state of what it read is nowhere to be found: to go on with empty windows
//! would be wrong in every decision and visible in none, so it is refused.

use std::collections::BTreeSet;
use std::ops::Range;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::agreement::each_once;
use super::broker::Broker;
use super::deployed::{DONE_WITHIN, Deployed, LIVE_WITHIN};
use super::foreign::{Foreign, Isolation};
use super::refusals::{refused, stands_at};
use crate::scenario::Scenario;
use crate::telemetry;

const MACHINES: usize = 8;

/// Machines whose state lives with their partition.
fn machines(name: &str, broker: &Broker, foreign: &mut Foreign) -> Deployed {
    let deployed = Deployed::new("tests/scenarios/telemetry", name, 2, broker);
    let table = deployed.beside("telemetry.csv");
    telemetry::write(&table);
    deployed.put_model(&Scenario::open("telemetry").model(&table));
    deployed.create_topics(foreign, &["telemetry"]);
    deployed
}

/// Has the machines' state live elsewhere.
fn live_with(deployed: &Deployed, state: &str) {
    deployed.edit(|settings| settings["entities"]["machine"]["state"] = state.into());
}

/// Sends readings to a service, from its start to its end in order.
fn serve(deployed: &Deployed, foreign: &mut Foreign, rows: Range<usize>) {
    let mut service = deployed.start("one");
    service.wait_until_live(LIVE_WITHIN);
    send(deployed, foreign, readings(rows));
    service.stop();
}

/// Each machine's in turn, one a second.
fn readings(rows: Range<usize>) -> Vec<Value> {
    let reading = |i: usize| {
        let machine = format!("M{}", i % MACHINES);
        let reading = json!({"machine": machine, "at": 1_748_736_000 + i, "c0": 0.5});
        json!({"key": machine, "value": reading.to_string()})
    };
    rows.map(reading).collect()
}

fn send(deployed: &Deployed, foreign: &mut Foreign, records: Vec<Value>) {
    let input = deployed.topic("telemetry");
    foreign.ask(&json!({"do": "produce", "topic": input, "records": records}));
    foreign.wait_for_end(&deployed.group(), &[&input], DONE_WITHIN);
}

/// How many readings of its machine the last decision knows of.
fn known_to_the_last(deployed: &Deployed, foreign: &mut Foreign) -> f64 {
    let decisions = foreign.consume(&[&deployed.topic("decisions")], Isolation::Committed);
    let newest = (decisions.iter().map(|decision| decision.json()))
        .max_by_key(|decision| decision["event_time_us"].as_i64());
    let count = newest.expect("a decision")["features"]["readings_15m"].as_f64();
    count.expect("a number")
}

#[test]
fn an_entity_that_moves_leaves_its_state_behind() {
    let broker = Broker::shared();
    let mut foreign = broker.foreign();
    let deployed = machines("moved-out", broker, &mut foreign);
    serve(&deployed, &mut foreign, 0..80);

    // The lane of all partitions has another folder than a partition's own.
    live_with(&deployed, "memory");
    let failure = refused(&deployed, "one", &["pipeline.yaml", "`machine`"]);
    assert_eq!(failure["code"], "state", "{failure}");
    stands_at(&failure, &deployed, &["entities:", "machine:"]);
    let cure = failure["cure"].as_str().expect("a cure");
    for word in ["state: partition", "another name", "--to-current"] {
        assert!(cure.contains(word), "{word:?} is not in {cure}");
    }
    // Put back, it goes on where it was.
    live_with(&deployed, "partition");
    serve(&deployed, &mut foreign, 80..160);
    assert_eq!(known_to_the_last(&deployed, &mut foreign), 20.0);

    // The other way: a partition's own fold does not find what the one of all knew.
    let deployed = machines("moved-in", broker, &mut foreign);
    live_with(&deployed, "memory");
    serve(&deployed, &mut foreign, 0..80);
    live_with(&deployed, "partition");
    let failure = refused(&deployed, "one", &["pipeline.yaml"]);
    assert_eq!(failure["code"], "state", "{failure}");
    let cure = failure["cure"].as_str().expect("a cure");
    assert!(cure.contains("state: memory"), "{failure}");
    live_with(&deployed, "memory");
    serve(&deployed, &mut foreign, 80..160);
    assert_eq!(known_to_the_last(&deployed, &mut foreign), 20.0);
}

#[test]
fn what_the_group_has_read_is_nowhere() {
    let broker = Broker::shared();
    let mut foreign = broker.foreign();
    let deployed = machines("bereft", broker, &mut foreign);
    let other_log = |foreign: &mut Foreign, name: &str| {
        let topic = deployed.topic(name);
        foreign.create([(topic.as_str(), 1)]);
        deployed.edit(|settings| settings["output"]["order"] = topic.into());
    };
    let lose_checkpoints =
        || std::fs::remove_dir_all(deployed.state()).expect("a folder of checkpoints");
    serve(&deployed, &mut foreign, 0..40);

    // The order log alone brings it back, and so does the checkpoint alone.
    lose_checkpoints();
    serve(&deployed, &mut foreign, 40..80);
    assert_eq!(known_to_the_last(&deployed, &mut foreign), 10.0);
    other_log(&mut foreign, "order-2");
    serve(&deployed, &mut foreign, 80..120);
    assert_eq!(known_to_the_last(&deployed, &mut foreign), 15.0);

    // Neither.
    other_log(&mut foreign, "order-3");
    lose_checkpoints();
    let failure = refused(&deployed, "one", &["pipeline.yaml", "bereft-order-3"]);
    assert_eq!(failure["code"], "state", "{failure}");
    stands_at(&failure, &deployed, &["state:", "url:"]);
    let cure = failure["cure"].as_str().expect("a cure");
    for word in ["state.url", "another name", "--to-current"] {
        assert!(cure.contains(word), "{word:?} is not in {cure}");
    }

    // Who means it says so to the broker: an offset that we did not commit is where the group begins.
    let input = deployed.topic("telemetry");
    let to = json!({&input: foreign.committed(&deployed.group())[&input]});
    foreign.ask(&json!({"do": "move", "group": deployed.group(), "to": to}));
    serve(&deployed, &mut foreign, 120..160);
    assert_eq!(known_to_the_last(&deployed, &mut foreign), 5.0);
    // And from there on it is missed again.
    serve(&deployed, &mut foreign, 160..200);
    assert_eq!(known_to_the_last(&deployed, &mut foreign), 10.0);

    let events = foreign.consume(&[&input], Isolation::Committed);
    let decisions = foreign.consume(&[&deployed.topic("decisions")], Isolation::Committed);
    each_once(&events, &decisions);
}

/// A group that has committed only what could not become events.
#[test]
fn who_never_decided_anything_has_nothing_to_lose() {
    let broker = Broker::shared();
    let mut foreign = broker.foreign();
    let deployed = machines("unmoved", broker, &mut foreign);
    live_with(&deployed, "memory");
    let mut service = deployed.start("one");
    service.wait_until_live(LIVE_WITHIN);
    let refuse = |i: usize| json!({"key": format!("M{i}"), "value": "no reading"});
    send(&deployed, &mut foreign, (0..MACHINES).map(refuse).collect());
    service.stop();
    std::fs::remove_dir_all(deployed.state()).expect("a folder of checkpoints");
    live_with(&deployed, "partition");
    serve(&deployed, &mut foreign, 0..40);
    assert_eq!(known_to_the_last(&deployed, &mut foreign), 5.0);
}

/// Without an order log a state is only as old as its checkpoint, and the input is read on from there. Before the
/// first one that is its beginning.
#[test]
fn killed_before_the_first_checkpoint_without_an_order_log() {
    let broker = Broker::shared();
    let mut foreign = broker.foreign();
    let deployed = machines("young", broker, &mut foreign);
    deployed.edit(|settings| {
        settings["delivery"] = "at_least_once".into();
        settings["output"]
            .as_mapping_mut()
            .expect("outputs")
            .remove("order");
        settings["state"]["interval"] = "10m".into();
    });
    let mut service = deployed.start("one");
    service.wait_until_live(LIVE_WITHIN);
    let input = deployed.topic("telemetry");
    foreign.ask(&json!({"do": "produce", "topic": input, "records": readings(0..40)}));
    // Longer than between two commits.
    std::thread::sleep(Duration::from_secs(3));
    service.kill();
    let mut service = deployed.start("one");
    service.wait_until_live(LIVE_WITHIN);
    foreign.ask(&json!({"do": "produce", "topic": input, "records": readings(40..80)}));
    let begun = Instant::now();
    let decided = |foreign: &mut Foreign| {
        let decisions = foreign.consume(&[&deployed.topic("decisions")], Isolation::Committed);
        let ids: BTreeSet<_> = decisions.iter().map(|d| d.key.clone()).collect();
        ids.len()
    };
    while decided(&mut foreign) < 80 {
        assert!(begun.elapsed() < DONE_WITHIN, "{}", service.log_tail());
    }
    assert_eq!(known_to_the_last(&deployed, &mut foreign), 10.0);
    service.stop();
    // Its end in order has left a checkpoint.
    serve(&deployed, &mut foreign, 80..120);
    assert_eq!(known_to_the_last(&deployed, &mut foreign), 15.0);
}
