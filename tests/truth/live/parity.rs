//! What is served is computed again from the log, beside the live line and across a restart.

use std::io::Write;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};

use super::broker::Broker;
use super::deployed::{DONE_WITHIN, Deployed, LIVE_WITHIN, Service};
use crate::sanderling::answer;

/// Payments that each of the two lives begins with.
const PAYMENTS: usize = 3_000;
/// Payments that come after them, as often as it takes: rows are computed again only where a core is idle, and on a
/// busy machine few of a short stream are.
const MORE: usize = 500;
/// Payments a second, so that there is a stream to take samples of.
const RATE: u32 = 400;
/// One label for so many payments.
const LABEL_EVERY: usize = 10;
/// Rows that each life must compute again from the log alone.
const FROM_LOG: u64 = 20;

#[test]
fn rows_are_computed_again_from_the_log_also_after_a_restart() {
    let broker = Broker::shared();
    let deployed = Deployed::new("pipelines/card-fraud", "parity", 2, broker);
    deployed.edit(|settings| {
        settings["deadline_ms"] = 600_000.into();
        settings["parity"] =
            serde_yaml_ng::from_str("{rows_per_s: 50, log_share: 1, log_rows_max: 1000000}")
                .expect("YAML");
    });
    let mut foreign = broker.foreign();
    deployed.create_topics(&mut foreign, &["transactions", "labels"]);
    let (payments, labels) = simulated(&deployed.beside("input"));
    let (to_payments, to_labels) = (deployed.topic("transactions"), deployed.topic("labels"));
    let group = deployed.group();
    let mut sent = 0;
    for life in 0..2 {
        let mut service = deployed.start("one");
        service.wait_until_live(LIVE_WITHIN);
        // What is no row must not be missed: a record without a meaning, and what its producer takes back.
        foreign.ask(&json!({"do": "produce", "topic": &to_payments, "records": [{"key": "C0", "value": "no payment"}]}));
        foreign.ask(
            &json!({"do": "produce", "topic": &to_payments, "file": &payments, "key": "card_id",
            "from": sent, "to": sent + 50, "transaction": "abort"}),
        );
        let mut produce = |count: usize| {
            foreign.ask(
                &json!({"do": "produce", "topic": &to_payments, "file": &payments, "key": "card_id",
                "from": sent, "to": sent + count, "rate": RATE}),
            );
            foreign.ask(
                &json!({"do": "produce", "topic": &to_labels, "file": &labels, "key": "card_id",
                "from": sent / LABEL_EVERY, "to": (sent + count) / LABEL_EVERY}),
            );
            foreign.wait_for_end(&group, &[&to_payments, &to_labels], DONE_WITHIN);
            sent += count;
        };
        produce(PAYMENTS / 2);
        produce(PAYMENTS / 2);
        let begun = Instant::now();
        let checked = loop {
            let (checked, told) = checked(&service);
            if checked >= FROM_LOG {
                break told;
            }
            assert!(
                begun.elapsed() < DONE_WITHIN,
                "{told}\n{}",
                service.log_tail()
            );
            produce(MORE);
        };
        println!("life {life}: {checked}");
        service.stop();
    }
}

/// How many rows were computed again from the log alone, and what the metrics say of them; none of any may have been
/// wrong.
fn checked(service: &Service) -> (u64, String) {
    let (_, metrics) = service.get("/metrics").expect("metrics");
    let of = |name: &str| -> u64 {
        let of_it = |line: &&str| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with([' ', '{']))
        };
        let lines = metrics.lines().filter(of_it);
        let counts = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
        counts.sum()
    };
    for wrong in [
        "sanderling_parity_mismatches_total",
        "sanderling_parity_missing_rows_total",
        "sanderling_parity_foreign_rows_total",
    ] {
        assert_eq!(of(wrong), 0, "{wrong}\n{}", service.log_tail());
    }
    // What is kept of the log is told after what was checked by it.
    let from_log = match of("sanderling_parity_log_rows") {
        0 => 0,
        _ => of("sanderling_parity_rows_total{source=\"log\"}"),
    };
    let told = (metrics.lines()).filter(|line| line.starts_with("sanderling_parity_rows"));
    (from_log, told.collect::<Vec<_>>().join(", "))
}

/// Files of payments and of labels for some of them.
fn simulated(folder: &Path) -> (String, String) {
    std::fs::create_dir_all(folder).expect("a folder");
    let path = |name: &str| {
        folder
            .join(name)
            .to_str()
            .expect("a plain path")
            .to_string()
    };
    let (payments, labels) = (path("payments.jsonl"), path("labels.jsonl"));
    let simulate = ["simulate", "card-fraud", "--seed", "47", "--days", "14"];
    answer(
        &[
            &simulate[..],
            &["--start", "2026-01-01", "--out", &payments],
        ]
        .concat(),
    );
    let text = std::fs::read_to_string(&payments).expect("simulated payments");
    let mut file = std::fs::File::create(&labels).expect("a file");
    for line in text.lines().step_by(LABEL_EVERY) {
        let payment: Value = serde_json::from_str(line).expect("JSON");
        let label = json!({
            "transaction_id": payment["transaction_id"],
            "card_id": payment["card_id"],
            "is_fraud": payment["is_fraud"],
            "known_at": payment["tx_time"].as_i64().expect("a time") + 1000,
        });
        writeln!(file, "{label}").expect("a line");
    }
    (payments, labels)
}
