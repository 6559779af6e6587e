//! Card payments with planted frauds, through the shipped pipeline and a model trained here.

use std::path::{Path, PathBuf};

use arrow::array::BooleanArray;
use arrow::compute::filter_record_batch;

use crate::check::{Replay, check};
use crate::outcome::{Outcome, same_rows};
use crate::sanderling::{answer_of, command, scratch, simulate};
use crate::scenario::Scenario;

/// 2025-01-09 and 2025-01-11, microseconds.
const FROM_US: f64 = 1_736_380_800e6;
const TO_US: f64 = 1_736_553_600e6;

#[test]
fn card_payments_are_decided_the_same_however_they_are_run() {
    let scenario = Scenario::open("cards");
    let input = scenario.simulated();
    let outcome = check(&scenario, std::slice::from_ref(&input));
    assert!(
        outcome.count("state_only") > 0,
        "labels become known within the simulated days"
    );
    assert!(outcome.count("decided") > 10_000, "{}", outcome.summary);
    let actions = outcome.texts("action");
    let alerts = actions.iter().filter(|action| *action != "approve").count();
    assert!(
        alerts > 0 && alerts < actions.len() / 2,
        "{alerts} alerts of {}",
        actions.len()
    );
    let fraud = &outcome.summary["fraud"];
    assert!(fraud["caught"].as_u64() > Some(0), "{fraud}");
    a_stretch_is_decided_as_in_the_whole(&scenario, &input, &outcome);
}

/// Rows before `--from` are folded all the same, and rows from `--to` on are as if not there.
fn a_stretch_is_decided_as_in_the_whole(scenario: &Scenario, input: &Path, whole: &Outcome) {
    let out = scratch();
    let out = out.path().to_str().expect("a plain path");
    let replay = Replay::new(scenario, &scenario.model(input), &[input.to_path_buf()]);
    answer_of(command(&replay.with(&[
        "--from",
        "2025-01-09",
        "--to",
        "2025-01-11T00:00:00Z",
        "--out",
        out,
    ])));
    let stretch = Outcome::read(Path::new(out));
    stretch.must_be_sound();
    let inside: BooleanArray = whole
        .doubles("event_time_us")
        .iter()
        .map(|at| Some((FROM_US..TO_US).contains(at)))
        .collect();
    assert!(inside.true_count() > 1000 && inside.true_count() < inside.len());
    let expected = filter_record_batch(&whole.decisions, &inside).expect("a filter of that length");
    same_rows(&expected, &stretch.decisions, "a stretch of the whole");
}

#[test]
fn a_seed_gives_the_same_bytes_and_every_format_the_same_decisions() {
    let cards = Scenario::open("cards");
    let model = cards.model(&cards.simulated());
    let folder = scratch();
    let simulated = |place: &str, extension: &str| -> PathBuf {
        let path = folder.path().join(place);
        std::fs::create_dir_all(&path).expect("a folder");
        let path = path.join(format!("payments.{extension}"));
        simulate(&path, 5, 4, "2025-03-01");
        path
    };
    let bytes = |path: &Path| std::fs::read(path).expect("a file");
    let mut outcomes = Vec::new();
    for extension in ["parquet", "csv", "jsonl"] {
        let first = simulated("first", extension);
        assert_eq!(
            bytes(&first),
            bytes(&simulated("second", extension)),
            "{extension}"
        );
        let out = folder.path().join(extension);
        let out_text = out.to_str().expect("a plain path");
        let replay = Replay::new(&cards, &model, &[first]);
        answer_of(command(&replay.with(&["--out", out_text])));
        outcomes.push((extension, Outcome::read(&out)));
    }
    let (_, of_parquet) = &outcomes[0];
    of_parquet.must_be_sound();
    assert!(of_parquet.count("decided") > 100, "{}", of_parquet.summary);
    for (extension, outcome) in &outcomes[1..] {
        of_parquet.must_equal(outcome, extension);
    }
}
