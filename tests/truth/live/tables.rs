//! A reference table that changes while the service runs, and while it is down: each batch's order record names
//! the version that it found, and recovery and replay find it again.

use std::path::Path;
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use serde_json::{Value, json};

use super::agreement::bit_equal;
use super::broker::Broker;
use super::deployed::Deployed;
use super::foreign::Isolation;
use crate::outcome::read_parquet;
use crate::sanderling::answer;

const LIVE_WITHIN: Duration = Duration::from_secs(60);
const DONE_WITHIN: Duration = Duration::from_secs(120);
/// A file is taken once it has rested from one look to the next.
const TAKEN_WITHIN: Duration = Duration::from_secs(20);

fn put(folder: &Path, kind: &str) {
    let part = folder.join("terminals.part");
    std::fs::write(&part, format!("terminal_id,kind\nT1,{kind}\n")).expect("a table");
    std::fs::rename(part, folder.join("terminals.csv")).expect("a table");
}

/// The versions in the order of their first record.
fn distinct(versions: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut distinct: Vec<String> = versions.into_iter().collect();
    distinct.dedup();
    distinct
}

#[test]
fn a_table_changes_between_two_batches_and_a_replay_changes_it_there() {
    let broker = Broker::shared();
    let deployed = Deployed::new("pipelines/card-fraud", "tables", 1, broker);
    deployed.edit(|settings| {
        let tables = "{terminals: {path: terminals.csv, key: terminal_id}}";
        settings["tables"] = serde_yaml_ng::from_str(tables).expect("YAML");
    });
    put(&deployed.folder(), "shop");
    let mut foreign = broker.foreign();
    deployed.create_topics(&mut foreign, &["transactions", "labels"]);
    let file = deployed.beside("payments.jsonl");
    let file = file.to_str().expect("a plain path");
    answer(&[
        "simulate",
        "card-fraud",
        "--seed",
        "17",
        "--days",
        "1",
        "--start",
        "2026-01-01",
        "--out",
        file,
    ]);
    let payments = deployed.topic("transactions");
    let mut produce = |from: usize| {
        foreign.ask(
            &json!({"do": "produce", "topic": &payments, "file": file, "key": "card_id",
            "from": from, "to": from + 300, "rate": 300}),
        );
        foreign.wait_for_end(&deployed.group(), &[&payments], DONE_WITHIN);
    };

    let mut service = deployed.start("one");
    service.wait_until_live(LIVE_WITHIN);
    produce(0);
    put(&deployed.folder(), "atm");
    let begun = Instant::now();
    while !service.log_tail().contains("table taken") {
        assert!(begun.elapsed() < TAKEN_WITHIN, "{}", service.log_tail());
        std::thread::sleep(Duration::from_millis(100));
    }
    produce(300);
    service.kill();
    // What was committed after the last checkpoint is folded again with the table that it found.
    put(&deployed.folder(), "online");
    let mut service = deployed.start("one");
    service.wait_until_live(LIVE_WITHIN);
    produce(600);
    service.stop();

    let orders = foreign.consume(&[&deployed.topic("order")], Isolation::Committed);
    let version = |order: &Value| {
        let version = order["versions"]["tables"]["terminals"].as_str();
        version.expect("a version").to_string()
    };
    let recorded = distinct(orders.iter().map(|order| version(&order.json())));
    assert_eq!(recorded.len(), 3, "{recorded:?}");

    let out = deployed.beside("replayed");
    let folder = deployed.folder();
    let (folder, to) = (
        folder.to_str().expect("a path"),
        out.to_str().expect("a path"),
    );
    answer(&[
        "replay", folder, "--input", "kafka", "--order", "kafka", "--out", to,
    ]);
    let replayed = read_parquet(&out.join("order.parquet"));
    let versions = replayed.column_by_name("version_tables").expect("versions");
    let versions = versions.as_string::<i32>().iter().flatten();
    let versions = versions.map(|text| {
        let tables: Value = serde_json::from_str(text).expect("JSON");
        tables["terminals"].as_str().expect("a version").to_string()
    });
    assert_eq!(distinct(versions), recorded);
    let decisions = foreign.consume(&[&deployed.topic("decisions")], Isolation::Committed);
    assert_eq!(decisions.len(), 900);
    bit_equal(&decisions, &read_parquet(&out.join("decisions.parquet")));
}
