//! The broker, the clients and the registry behave as the tests beside this one take for granted.

use std::time::Duration;

use serde_json::json;

use super::broker::Broker;
use super::foreign::{Foreign, Isolation, Record};
use super::registry::Registry;

fn values(records: &[Record]) -> Vec<&str> {
    records
        .iter()
        .filter_map(|record| record.value.as_deref())
        .collect()
}

fn send(foreign: &mut Foreign, value: &str, transaction: &str) {
    let record = json!({"key": "k", "value": value, "headers": {"h": value}});
    let request = json!({"do": "produce", "topic": "harness", "records": [record], "transaction": transaction});
    foreign.ask(&request);
}

#[test]
fn what_was_aborted_is_hidden_from_those_who_ask() {
    let mut broker = Broker::start();
    let mut foreign = broker.foreign();
    foreign.create([("harness", 1)]);
    send(&mut foreign, "plain", "");
    send(&mut foreign, "aborted", "abort");
    send(&mut foreign, "committed", "commit");
    // Neither kind of end loses what the broker took.
    broker.kill();
    broker.restart();
    broker.stop();
    broker.restart();
    send(&mut foreign, "last", "");

    let committed = foreign.consume(&["harness"], Isolation::Committed);
    assert_eq!(values(&committed), ["plain", "committed", "last"]);
    // The marker of a transaction takes an offset, and a broker that was killed may write it again;
    // so the end is known only behind a plain record.
    let last = committed[2].offset;
    assert!(last >= 5, "{last}");
    assert_eq!(committed[2].headers["h"].as_deref(), Some("last"));
    assert!(committed[0].timestamp <= committed[2].timestamp);
    let all = foreign.consume(&["harness"], Isolation::Uncommitted);
    assert_eq!(values(&all), ["plain", "aborted", "committed", "last"]);

    assert_eq!(foreign.ends(&["harness"])["harness"]["0"], last + 1);
    assert!(foreign.committed("nobody").is_empty());
    assert_eq!(foreign.progress("nobody", &["harness"]), 0);
    foreign.wait_for_progress("nobody", &["harness"], 0, Duration::ZERO);
}

#[test]
fn the_registry_knows_what_it_was_told() {
    let registry = Registry::start();
    let id = registry.register("people-value", r#"{"type": "string"}"#);
    let (status, body) = registry.get(&format!("/schemas/ids/{id}"));
    assert_eq!(status, 200, "{body}");
    assert!(body.contains("string"), "{body}");
    let (status, body) = registry.get("/schemas/ids/4711");
    assert_eq!(status, 404);
    assert!(body.contains("40403"), "{body}");
    let guarded = Registry::guarded("Basic bm9ib2R5Om5vdGhpbmc=");
    assert_eq!(guarded.get("/subjects").0, 401);
}
