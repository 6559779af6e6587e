//! A challenger is promoted while the service runs: it decides from one batch to the next, through a
//! crash, and the order log tells which decision is whose.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::agreement::{bit_equal, each_once};
use super::broker::Broker;
use super::deployed::{Deployed, LIVE_WITHIN};
use super::foreign::{Foreign, Isolation};
use super::payments::Payments;
use super::recorded::replay;
use crate::outcome::Outcome;
use crate::sanderling::answer;
use crate::scenario::Scenario;

/// Before the promotion, between it and the crash, and after.
const PAYMENTS: [usize; 4] = [0, 400, 800, 1200];

#[test]
fn a_challenger_that_is_promoted_decides_from_the_next_batch_on() {
    let scenario = Scenario::open("cards");
    let challenger = scenario.model(&scenario.simulated());
    let challenger = challenger.to_str().expect("a plain path");
    let broker = Broker::shared();
    let deployed = Deployed::new("pipelines/card-fraud", "takeover", 1, broker);
    deployed.edit(|settings| settings["deadline_ms"] = 600_000.into());
    let folder = deployed.folder();
    let folder = folder.to_str().expect("a plain path");
    let mut foreign = broker.foreign();
    let payments = Payments::simulated(&deployed, &mut foreign, 12, 1);
    let decide = |foreign: &mut Foreign, part: usize| {
        foreign.ask(&payments.sending_at(2_000, PAYMENTS[part]..PAYMENTS[part + 1]));
        payments.wait_until_decided(foreign);
    };

    let beside = format!("challengers=[{challenger}]");
    let mut service = deployed.start_with("one", &["--set", &beside]);
    service.wait_until_live(LIVE_WITHIN);
    decide(&mut foreign, 0);
    let promotion = answer(&["model", "promote", folder, challenger, "--untried"]);
    let name = |key: &str| promotion[key].as_str().expect("a hash").to_string();
    let (before, after) = (name("from"), name("to"));
    let since = Instant::now();
    while !service.log_tail().contains("another model decides") {
        assert!(since.elapsed() < LIVE_WITHIN, "{}", service.log_tail());
        std::thread::sleep(Duration::from_millis(50));
    }
    decide(&mut foreign, 1);
    service.kill();
    // The one that gave way is kept, and goes on beside the other.
    let kept = format!("challengers=[models/{}]", &before[..12]);
    let mut service = deployed.start_with("one", &["--set", &kept]);
    service.wait_until_live(LIVE_WITHIN);
    decide(&mut foreign, 2);
    service.stop();

    let events = foreign.consume(&[&payments.topic], Isolation::Committed);
    let decisions = foreign.consume(&[&deployed.topic("decisions")], Isolation::Committed);
    each_once(&events, &decisions);
    let mut by: BTreeMap<String, usize> = BTreeMap::new();
    for decision in decisions.iter().map(|decision| decision.json()) {
        let model = decision["versions"]["model"].as_str().expect("a model");
        *by.entry(model.into()).or_default() += 1;
        let other = if model == before { &after } else { &before };
        let shadow = decision["shadow"].as_object().expect("a map of scores");
        assert_eq!(shadow.keys().collect::<Vec<_>>(), [other], "{decision}");
    }
    let [_, first, _, last] = PAYMENTS;
    assert_eq!(by.get(&before), Some(&first), "{by:?}");
    assert_eq!(by.get(&after), Some(&(last - first)), "{by:?}");

    // The order log says who decided, so that a replay gives all of it again.
    let args = ["--set", &kept, "--input", "kafka", "--order", "kafka"];
    let again = Outcome::read(&replay(&deployed, &args));
    bit_equal(&decisions, &again.decisions);
    let shadows: BTreeMap<String, Value> = (again.texts("id").into_iter())
        .zip(again.texts("shadow"))
        .map(|(id, shadow)| (id, serde_json::from_str(&shadow).expect("a map of scores")))
        .collect();
    for decision in decisions.iter().map(|decision| decision.json()) {
        let id = decision["id"].as_str().expect("an id");
        assert_eq!(decision["shadow"], shadows[id], "{id}");
    }
}
