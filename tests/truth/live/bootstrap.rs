//! History from files, then live at an exact offset; and what of a pipeline may change in between.

use super::agreement::{bit_equal, each_once};
use super::broker::Broker;
use super::deployed::{Deployed, LIVE_WITHIN, refusal};
use serde_json::Value;

use super::foreign::{Isolation, Record};
use super::payments::Payments;
use super::recorded::{record, replay_of};
use crate::sanderling::simulate;

const PAYMENTS: usize = 3_000;
/// Of these, what the files hold.
const HISTORY: usize = 2_000;

#[test]
fn history_ends_where_live_begins() {
    let broker = Broker::shared();
    let deployed = Deployed::new("pipelines/card-fraud", "bootstrap", 1, broker);
    // Wide enough for nothing to be a backlog, which a plain replay does not know.
    deployed.edit(|settings| settings["deadline_ms"] = 600_000.into());
    let mut foreign = broker.foreign();
    let payments = Payments::simulated(&deployed, &mut foreign, 12, 2);
    foreign.ask(&payments.sending(0..PAYMENTS - 500));
    let events = foreign.consume(&[&payments.topic], Isolation::Committed);
    let past = deployed.beside("past.jsonl");
    record(&events[..HISTORY], &past);

    let past = past.to_str().expect("a plain path");
    let mut service = deployed.start_with("one", &["--history", past]);
    service.wait_until_live(LIVE_WITHIN);
    payments.wait_until_decided(&mut foreign);
    service.stop();

    // The deadline may change, and the history is there already.
    deployed.edit(|settings| settings["deadline_ms"] = 900_000.into());
    let mut service = deployed.start_with("one", &["--history", past]);
    service.wait_until_live(LIVE_WITHIN);
    foreign.ask(&payments.sending(PAYMENTS - 500..PAYMENTS));
    payments.wait_until_decided(&mut foreign);
    service.stop();

    let events = foreign.consume(&[&payments.topic], Isolation::Committed);
    assert_eq!(events.len(), PAYMENTS);
    let decisions = foreign.consume(&[&deployed.topic("decisions")], Isolation::Committed);
    each_once(&events[HISTORY..], &decisions);

    // As if all of it had been folded from the beginning.
    let replayed = replay_of(&deployed, &events);
    let live = replayed.decisions.slice(HISTORY, PAYMENTS - HISTORY);
    bit_equal(&decisions, &live);

    // What is folded may not change under a state.
    deployed.edit(|settings| settings["lateness"]["allowed"] = "2d".into());
    let (status, failure) = refusal(deployed.run(&["--instance", "one"]), LIVE_WITHIN);
    assert_eq!(status, 1, "{failure}");
    assert_eq!(failure["code"], "checkpoint", "{failure}");
    let cure = failure["cure"].as_str().expect("a cure");
    assert!(cure.contains("--history"), "{failure}");
}

#[test]
fn history_from_elsewhere_comes_before_empty_topics() {
    let broker = Broker::shared();
    let deployed = Deployed::new("pipelines/card-fraud", "warehouse", 1, broker);
    let mut foreign = broker.foreign();
    let payments = Payments::simulated(&deployed, &mut foreign, 12, 2);
    let past = deployed.beside("warehouse.parquet");
    simulate(&past, 12, 30, "2025-12-02");

    let history = ["--history", past.to_str().expect("a plain path")];
    let mut service = deployed.start_with("one", &history);
    service.wait_until_live(LIVE_WITHIN);
    foreign.ask(&payments.sending(0..PAYMENTS));
    payments.wait_until_decided(&mut foreign);
    service.stop();
    let events = foreign.consume(&[&payments.topic], Isolation::Committed);
    let decisions = foreign.consume(&[&deployed.topic("decisions")], Isolation::Committed);
    each_once(&events, &decisions);
    // The same cards as in the history, which goes up to their first payments here.
    let paid_before = |decision: &Value| {
        let count = decision["features"]["card_count_30d"].as_f64();
        count.expect("a number") > 5.0
    };
    let first = decisions.iter().take(100).map(Record::json);
    let known = first.filter(paid_before).count();
    assert!(known > 90, "{known} of 100 cards have a history");

    // Of what the topics hold by now, nobody can tell whether the files hold it too.
    let other = Deployed::new("pipelines/card-fraud", "warehouse2", 1, broker);
    other.edit(|settings| {
        settings["streams"]["transactions"]["topic"] = payments.topic.clone().into();
    });
    other.create_topics(&mut foreign, &["labels"]);
    let (status, failure) = refusal(other.run(&history), LIVE_WITHIN);
    assert_eq!(status, 1, "{failure}");
    assert_eq!(failure["code"], "history", "{failure}");
    let cure = failure["cure"].as_str().expect("a cure");
    assert!(cure.contains("empty topics"), "{failure}");
}
