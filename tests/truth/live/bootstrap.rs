//! History from files, then live at an exact offset; and what of a pipeline may change in between.

use std::time::Duration;

use serde_json::json;

use super::agreement::{bit_equal, each_once};
use super::broker::Broker;
use super::deployed::{Deployed, refusal};
use super::foreign::Isolation;
use super::recorded::record;
use crate::outcome::Outcome;
use crate::sanderling::answer;

const PAYMENTS: usize = 3_000;
/// Of these, what the files hold.
const HISTORY: usize = 2_000;
const LIVE_WITHIN: Duration = Duration::from_secs(60);
const DONE_WITHIN: Duration = Duration::from_secs(120);

#[test]
fn history_ends_where_live_begins() {
    let broker = Broker::shared();
    let deployed = Deployed::new("pipelines/card-fraud", "bootstrap", 1, broker);
    // Wide enough for nothing to be a backlog, which a plain replay does not know.
    deployed.edit(|settings| settings["deadline_ms"] = 600_000.into());
    let mut foreign = broker.foreign();
    deployed.create_topics(&mut foreign, &["transactions", "labels"]);
    let simulated = deployed.beside("payments.jsonl");
    let simulated = simulated.to_str().expect("a plain path");
    answer(&[
        "simulate",
        "card-fraud",
        "--seed",
        "12",
        "--days",
        "2",
        "--start",
        "2026-01-01",
        "--out",
        simulated,
    ]);
    let payments = deployed.topic("transactions");
    foreign.ask(
        &json!({"do": "produce", "topic": &payments, "file": simulated, "key": "card_id",
        "from": 0, "to": PAYMENTS - 500}),
    );
    let events = foreign.consume(&[&payments], Isolation::Committed);
    let past = deployed.beside("past.jsonl");
    record(&events[..HISTORY], &past);

    let past = past.to_str().expect("a plain path");
    let mut service = deployed.start_with("one", &["--history", past]);
    service.wait_until_live(LIVE_WITHIN);
    foreign.wait_for_end(&deployed.group(), &[&payments], DONE_WITHIN);
    service.stop();

    // The deadline may change, and the history is there already.
    deployed.edit(|settings| settings["deadline_ms"] = 900_000.into());
    let mut service = deployed.start_with("one", &["--history", past]);
    service.wait_until_live(LIVE_WITHIN);
    foreign.ask(
        &json!({"do": "produce", "topic": &payments, "file": simulated, "key": "card_id",
        "from": PAYMENTS - 500, "to": PAYMENTS}),
    );
    foreign.wait_for_end(&deployed.group(), &[&payments], DONE_WITHIN);
    service.stop();

    let events = foreign.consume(&[&payments], Isolation::Committed);
    assert_eq!(events.len(), PAYMENTS);
    let decisions = foreign.consume(&[&deployed.topic("decisions")], Isolation::Committed);
    each_once(&events[HISTORY..], &decisions);

    // As if all of it had been folded from the beginning.
    let all = deployed.beside("all.jsonl");
    record(&events, &all);
    let out = deployed.beside("replayed");
    answer(&[
        "replay",
        deployed.folder().to_str().expect("a plain path"),
        "--input",
        all.to_str().expect("a plain path"),
        "--out",
        out.to_str().expect("a plain path"),
    ]);
    let replayed = Outcome::read(&out);
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
