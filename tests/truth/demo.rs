//! The demo: a broker in the process, a real consumer and producer, the shipped model.

use crate::sanderling::{answer, root};

#[test]
fn the_demo_decides_what_it_simulates() {
    let model = root().join("pipelines/card-fraud/model/manifest.json");
    assert!(
        model.exists(),
        "pipelines/card-fraud ships a model; `make model` trains it"
    );
    let summary = answer(&["demo", "--for", "5s", "--rate", "100", "--seed", "4"]);
    let count = |key: &str| {
        summary[key]
            .as_u64()
            .unwrap_or_else(|| panic!("no {key} in {summary}"))
    };
    assert!(count("decided") > 100, "{summary}");
    assert_eq!(
        count("in"),
        count("decided") + count("dead_lettered") + count("state_only"),
        "{summary}"
    );
    assert_eq!(count("dead_lettered"), 0, "{summary}");
    let latency = &summary["latency_us"];
    assert!(latency["p50"].as_u64() > Some(0), "{summary}");
    assert!(
        latency["p50"].as_u64() <= latency["p99"].as_u64(),
        "{summary}"
    );
}
