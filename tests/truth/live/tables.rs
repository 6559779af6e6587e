//! A reference table that changes while the service runs, and while it is down: each batch's order record names
//! the version that it found, and recovery and replay find it again.

use std::path::Path;
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use serde_json::Value;

use super::agreement::bit_equal;
use super::broker::Broker;
use super::deployed::{Deployed, LIVE_WITHIN};
use super::foreign::{Foreign, Isolation};
use super::payments::Payments;
use super::recorded::replay;
use crate::outcome::read_parquet;

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
    let payments = Payments::simulated(&deployed, &mut foreign, 17, 1);
    let decide = |foreign: &mut Foreign, from: usize| {
        foreign.ask(&payments.sending_at(300, from..from + 300));
        payments.wait_until_decided(foreign);
    };

    let mut service = deployed.start("one");
    service.wait_until_live(LIVE_WITHIN);
    decide(&mut foreign, 0);
    put(&deployed.folder(), "atm");
    let begun = Instant::now();
    while !service.log_tail().contains("table taken") {
        assert!(begun.elapsed() < TAKEN_WITHIN, "{}", service.log_tail());
        std::thread::sleep(Duration::from_millis(100));
    }
    decide(&mut foreign, 300);
    service.kill();
    // What was committed after the last checkpoint is folded again with the table that it found.
    put(&deployed.folder(), "online");
    let mut service = deployed.start("one");
    service.wait_until_live(LIVE_WITHIN);
    decide(&mut foreign, 600);
    service.stop();

    let orders = foreign.consume(&[&deployed.topic("order")], Isolation::Committed);
    let version = |order: &Value| {
        let version = order["versions"]["tables"]["terminals"].as_str();
        version.expect("a version").to_string()
    };
    let recorded = distinct(orders.iter().map(|order| version(&order.json())));
    assert_eq!(recorded.len(), 3, "{recorded:?}");

    let out = replay(&deployed, &["--input", "kafka", "--order", "kafka"]);
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
