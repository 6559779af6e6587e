//! Another features.sql goes on from the state of the one before.

use std::ops::Range;
use std::time::{Duration, Instant};

use super::agreement::{bit_equal, each_once};
use super::broker::Broker;
use super::deployed::{Deployed, LIVE_WITHIN, refusal};
use super::foreign::{Foreign, Isolation};
use super::payments::Payments;
use super::recorded::replay_of;

const PAYMENTS: usize = 2_000;
/// Of these, those that the features before have decided.
const BEFORE: usize = 1_500;

#[test]
fn new_features_take_over_and_fold_what_they_lack() {
    let broker = Broker::shared();
    let deployed = Deployed::new("pipelines/card-fraud", "taken-over", 1, broker);
    // Wide enough for nothing to be a backlog, which a plain replay does not know.
    deployed.edit(|settings| settings["deadline_ms"] = 600_000.into());
    let mut foreign = broker.foreign();
    let payments = Payments::simulated(&deployed, &mut foreign, 31, 1);
    let decide = |foreign: &mut Foreign, rows: Range<usize>| {
        foreign.ask(&payments.sending(rows));
        payments.wait_until_decided(foreign);
    };
    let mut service = deployed.start("one");
    service.wait_until_live(LIVE_WITHIN);
    decide(&mut foreign, 0..BEFORE);
    service.stop();

    // A frame that is shorter, and one that is longer than what was kept; the model takes both.
    let file = deployed.folder().join("features.sql");
    let sql = std::fs::read_to_string(&file).expect("features");
    let hash = |sql: &str| {
        let out = std::process::Command::new("sh")
            .args(["-c", "printf %s \"$0\" | sha256sum", sql])
            .output()
            .expect("sha256sum runs");
        String::from_utf8_lossy(&out.stdout)[..64].to_string()
    };
    let changed = sql
        .replacen("INTERVAL '15 minutes'", "INTERVAL '20 minutes'", 1)
        .replacen("terminal_1h  AS (PARTITION BY terminal_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 hour'",
            "terminal_1h  AS (PARTITION BY terminal_id ORDER BY event_time RANGE BETWEEN INTERVAL '40 days'", 1);
    assert!(changed.contains("40 days"), "the window is there");
    assert_ne!(sql, changed);
    std::fs::write(&file, &changed).expect("features");
    let manifest = deployed.folder().join("model/manifest.json");
    let text = std::fs::read_to_string(&manifest).expect("a manifest");
    assert!(
        text.contains(&hash(&sql)),
        "the model says of which features it is"
    );
    std::fs::write(&manifest, text.replace(&hash(&sql), &hash(&changed))).expect("a manifest");

    let (status, failure) = refusal(deployed.run(&["--instance", "one"]), LIVE_WITHIN);
    assert_eq!(status, 1, "{failure}");
    let cure = failure["cure"].as_str().expect("a cure");
    assert!(cure.contains("--take-over"), "{failure}");

    let mut service = deployed.start_with("one", &["--take-over"]);
    service.wait_until_live(LIVE_WITHIN);
    decide(&mut foreign, BEFORE..PAYMENTS);
    // A sample waits for the log, and is computed again a moment later.
    let begun = Instant::now();
    let metrics = loop {
        let (_, metrics) = service.get("/metrics").expect("metrics");
        let is_row = |line: &&str| line.starts_with("sanderling_parity_rows_total{");
        if (metrics.lines().filter(is_row)).any(|line| !line.ends_with(" 0")) {
            break metrics;
        }
        assert!(begun.elapsed() < LIVE_WITHIN, "no row was computed again");
        std::thread::sleep(Duration::from_millis(100));
    };
    service.stop();
    let wrong = ["mismatches", "missing_rows", "foreign_rows"];
    let wrong = wrong.map(|what| format!("sanderling_parity_{what}_total"));
    for line in metrics.lines() {
        let is_wrong = wrong.iter().any(|name| line.starts_with(name));
        assert!(!is_wrong || line.ends_with(" 0"), "{line}");
    }

    let events = foreign.consume(&[&payments.topic], Isolation::Committed);
    let decisions = foreign.consume(&[&deployed.topic("decisions")], Isolation::Committed);
    each_once(&events, &decisions);
    // As if the new features had been there from the beginning.
    let replayed = replay_of(&deployed, &events)
        .decisions
        .slice(BEFORE, PAYMENTS - BEFORE);
    let id = |n: usize| format!("{}/0/{n}", payments.topic);
    let later: Vec<_> = decisions
        .into_iter()
        .filter(|decision| {
            let offset = decision
                .key
                .as_deref()
                .and_then(|key| key.rsplit('/').next());
            offset
                .and_then(|offset| offset.parse::<usize>().ok())
                .expect("an id")
                >= BEFORE
        })
        .collect();
    assert_eq!(later.len(), PAYMENTS - BEFORE, "from {}", id(BEFORE));
    bit_equal(&later, &replayed);
}
