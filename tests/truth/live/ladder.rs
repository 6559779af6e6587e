//! A model that has become slow: decisions come in time from lower rungs, and nothing is forgotten; and what cannot
//! come in time any more.

use std::collections::BTreeMap;
use std::time::Duration;

use super::agreement::{bit_equal, each_once, order_is_whole};
use super::broker::Broker;
use super::deployed::{Deployed, LIVE_WITHIN};
use super::foreign::Isolation;
use super::payments::Payments;
use super::recorded::{replay, replay_of};
use crate::outcome::Outcome;

const PAYMENTS: usize = 4_000;
const RATE: u32 = 400;
/// The deadline of the test: wide, because other tests run beside it.
const DEADLINE_MS: u64 = 3_000;
/// At the test's rate the full model alone would take twenty-four seconds of every one.
const FULL_ROW_US: u64 = 60_000;

#[test]
fn a_slow_model_is_left_out_and_the_state_goes_on() {
    let broker = Broker::shared();
    let deployed = Deployed::new("pipelines/card-fraud", "ladder", 1, broker);
    deployed.edit(|settings| {
        settings["deadline_ms"] = DEADLINE_MS.into();
        settings["drill"]["score_row_us"]["full"] = FULL_ROW_US.into();
    });
    let mut foreign = broker.foreign();
    let payments = Payments::simulated(&deployed, &mut foreign, 11, 2);
    let mut service = deployed.start("slow");
    service.wait_until_live(LIVE_WITHIN);
    foreign.ask(&payments.sending_at(RATE, 0..PAYMENTS));
    payments.wait_until_decided(&mut foreign);
    let (_, metrics) = service.get("/metrics").expect("metrics");
    service.stop();

    let events = foreign.consume(&[&payments.topic], Isolation::Committed);
    let decisions = foreign.consume(&[&deployed.topic("decisions")], Isolation::Committed);
    each_once(&events, &decisions);
    let orders = foreign.consume(&[&deployed.topic("order")], Isolation::Committed);
    order_is_whole(&orders, &events);

    // Every decision says its rung, as does the order record of its batch.
    let mut rungs: BTreeMap<String, usize> = BTreeMap::new();
    for decision in &decisions {
        let rung = decision.json()["rung"]
            .as_str()
            .expect("a rung")
            .to_string();
        *rungs.entry(rung).or_default() += 1;
    }
    assert!(rungs.len() > 1, "only {rungs:?}");
    let full = rungs.get("full").copied().unwrap_or(0);
    // The full model alone would have taken four minutes for ten seconds of payments.
    assert!(
        full < PAYMENTS * 9 / 10,
        "too slow for all, and yet {rungs:?}"
    );
    let missed: Vec<&str> = metrics
        .lines()
        .filter(|line| line.starts_with("sanderling_deadline_misses_total{"))
        .collect();
    println!("{rungs:?}, {missed:?}");
    assert_eq!(missed.len(), 3, "a counter for each part of the way");
    let none = |line: &&str| line.ends_with("} 0");
    assert!(missed.iter().all(none), "{rungs:?} {missed:?}");

    // The state is the one at full speed: what a replay on the full model alone says of an event
    // is what the live service said of it, where that had the time for the full model too.
    let replayed = replay_of(&deployed, &events);
    let logits = replayed.doubles("logit");
    let mut compared = 0;
    for decision in decisions.iter().map(|decision| decision.json()) {
        if decision["rung"] == "full" {
            let sequence = decision["sequence"].as_u64().expect("a sequence");
            assert_eq!(
                decision["logit"].as_f64().map(f64::to_bits),
                Some(logits[sequence as usize].to_bits()),
                "{decision}"
            );
            compared += 1;
        }
    }
    assert!(compared > 0, "{rungs:?}");
}

/// What had waited for longer than the deadline when the service came is late already: the full model decides it.
#[test]
fn what_waited_in_the_topic_is_a_backlog() {
    const WAITED: usize = 1_000;
    const ALL: usize = 1_200;
    let broker = Broker::shared();
    let deployed = Deployed::new("pipelines/card-fraud", "backlog", 1, broker);
    deployed.edit(|settings| settings["deadline_ms"] = DEADLINE_MS.into());
    let mut foreign = broker.foreign();
    let payments = Payments::simulated(&deployed, &mut foreign, 14, 1);
    foreign.ask(&payments.sending(0..WAITED));
    std::thread::sleep(Duration::from_millis(DEADLINE_MS));
    let mut service = deployed.start("late");
    service.wait_until_live(LIVE_WITHIN);
    payments.wait_until_decided(&mut foreign);
    foreign.ask(&payments.sending_at(RATE, WAITED..ALL));
    payments.wait_until_decided(&mut foreign);
    let (_, metrics) = service.get("/metrics").expect("metrics");
    service.stop();

    let events = foreign.consume(&[&payments.topic], Isolation::Committed);
    let decisions = foreign.consume(&[&deployed.topic("decisions")], Isolation::Committed);
    each_once(&events, &decisions);
    for decision in decisions.iter().map(|decision| decision.json()) {
        let offset = decision["event"]["offset"].as_u64().expect("an offset");
        let flags = decision["flags"].as_array().expect("flags");
        let waited = offset < WAITED as u64;
        assert_eq!(flags.contains(&"backlog".into()), waited, "{decision}");
        assert!(!waited || decision["rung"] == "full", "{decision}");
    }
    let line = format!("sanderling_backlog_total {WAITED}");
    assert!(metrics.lines().any(|told| told == line), "{metrics}");
    // The order log keeps it.
    let again = replay(&deployed, &["--input", "kafka", "--order", "kafka"]);
    bit_equal(&decisions, &Outcome::read(&again).decisions);
}
