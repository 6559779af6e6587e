//! Card numbers under `hash: hmac`: no file, line or checkpoint that a run leaves holds one, and
//! the decisions are those of the numbers themselves.

use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray};
use arrow::datatypes::DataType;
use base64::Engine;
use serde_json::Value;

use crate::check::Replay;
use crate::outcome::{Outcome, read_parquet};
use crate::sanderling::{Finished, answer_of, command, finish, root, scratch, simulate};
use crate::scenario::Scenario;

/// What every card number here begins with; no time, count or bit pattern does.
const NUMBER: &str = "4716293851";

fn number(card: &str) -> String {
    let digits: String = card.chars().filter(char::is_ascii_digit).collect();
    format!("{NUMBER}{digits:0>6}")
}

/// Payments by card number, and records that cannot be read with a number where it hurts.
fn input(folder: &Path) -> PathBuf {
    let simulated = folder.join("simulated.jsonl");
    simulate(&simulated, 5, 3, "2025-03-01");
    let mut text = String::new();
    for line in std::fs::read_to_string(&simulated)
        .expect("payments")
        .lines()
    {
        let mut payment: Value = serde_json::from_str(line).expect("JSON");
        let card = number(payment["card_id"].as_str().expect("a card"));
        payment["card_id"] = card.into();
        text += &format!("{payment}\n");
    }
    let card = number("7");
    for bad in [
        format!(r#"{{"transaction_id":"x","tx_time":1740787200000,"card_id":{card}"#),
        format!(r#"{{"transaction_id":"x","tx_time":1740787200000,"card_id":["{card}"]}}"#),
        format!(
            r#"{{"transaction_id":"x","tx_time":1740787200000,"card_id":"{card}","amount":"{card}"}}"#
        ),
        format!(r#"{{"transaction_id":"x","tx_time":"{card}x","card_id":"{card}"}}"#),
        format!(r#"{{"transaction_id":"x","tx_time":1740787200000,"{card}":NaN}}"#),
        format!(r#""{card}""#),
    ] {
        text += &format!("{bad}\n");
    }
    let path = folder.join("payments.jsonl");
    std::fs::write(&path, text).expect("a file");
    path
}

/// The shipped pipeline with hashed cards, in a folder of the same name.
fn hashed_pipeline(folder: &Path) -> PathBuf {
    let pipeline = folder.join("card-fraud");
    std::fs::create_dir_all(&pipeline).expect("a folder");
    for name in [
        "pipeline.yaml",
        "features.sql",
        "policy.yaml",
        "reason_codes.yaml",
    ] {
        let source = root().join("pipelines/card-fraud").join(name);
        std::fs::copy(source, pipeline.join(name)).expect("a copy");
    }
    let yaml = pipeline.join("pipeline.yaml");
    let text = std::fs::read_to_string(&yaml).expect("settings");
    let hashed = text.replace(
        "card_id: {type: string}",
        "card_id: {type: string, hash: hmac}",
    );
    assert_ne!(hashed, text);
    let keys = "hash_key_file: hash.key\ndead_letter_key_file: letters.key\n";
    std::fs::write(&yaml, format!("{hashed}\n{keys}")).expect("settings");
    std::fs::write(pipeline.join("hash.key"), "5".repeat(64)).expect("a key");
    std::fs::write(pipeline.join("letters.key"), "6".repeat(64)).expect("a key");
    pipeline
}

fn replay(pipeline: &Path, model: &Path, input: &Path, out: &Path) -> Finished {
    let replay = replay_of(pipeline, model, input);
    let out = out.to_str().expect("a plain path");
    let mut command = command(&replay.with(&["--out", out, "--set", "state.interval=50ms"]));
    command.env("RUST_LOG", "debug");
    finish(command)
}

fn replay_of(pipeline: &Path, model: &Path, input: &Path) -> Replay {
    let mut cards = Scenario::open("cards");
    cards.pipeline = pipeline.to_str().expect("a plain path").into();
    Replay::new(&cards, model, &[input.to_path_buf()])
}

/// Every file below `folder`.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder").flatten();
    entries
        .flat_map(|entry| match entry.path() {
            path if path.is_dir() => files(&path),
            path => vec![path],
        })
        .collect()
}

fn shows(bytes: &[u8]) -> bool {
    bytes
        .windows(NUMBER.len())
        .any(|part| part == NUMBER.as_bytes())
}

/// Whether a file shows a number: in its bytes, and in the text of its columns, base64 decoded too.
fn file_shows(path: &Path) -> bool {
    if shows(&std::fs::read(path).expect("a file")) {
        return true;
    }
    if path
        .extension()
        .is_none_or(|extension| extension != "parquet")
    {
        return false;
    }
    let table = read_parquet(path);
    let columns = table.columns().iter();
    let texts = columns.filter(|column| *column.data_type() == DataType::Utf8);
    texts
        .flat_map(|column| column.as_string::<i32>().iter().flatten())
        .any(|text| {
            let decoded = base64::engine::general_purpose::STANDARD.decode(text);
            shows(text.as_bytes()) || decoded.is_ok_and(|bytes| shows(&bytes))
        })
}

#[test]
fn no_card_number_is_left_anywhere_and_every_decision_is_the_same() {
    let cards = Scenario::open("cards");
    let model = cards.model(&cards.simulated());
    let folder = scratch();
    let input = input(folder.path());
    let outs = ["plain", "hashed"].map(|name| folder.path().join(name));
    let plain = root().join(&cards.pipeline);
    let hashed = hashed_pipeline(folder.path());
    let mut outcomes = Vec::new();
    for (pipeline, out) in [plain, hashed.clone()].iter().zip(&outs) {
        let done = replay(pipeline, &model, &input, out);
        assert_eq!(done.status, 0, "{}", done.stderr);
        outcomes.push((Outcome::read(out), done));
    }
    let [(plain, _), (hashed_outcome, said)] = &outcomes[..] else {
        panic!("two replays")
    };
    assert!(plain.count("decided") > 100 && plain.count("dead_lettered") == 6);
    for key in ["in", "decided", "dead_lettered", "state_only"] {
        assert_eq!(plain.count(key), hashed_outcome.count(key), "{key}");
    }
    for column in ["transaction_id", "action", "logit", "sequence"] {
        assert_eq!(
            plain.texts(column),
            hashed_outcome.texts(column),
            "{column}"
        );
    }
    assert!(
        hashed_outcome
            .texts("key")
            .iter()
            .all(|key| key.len() == 32)
    );

    // The plain run shows that this can fail.
    assert!(files(&outs[0]).iter().any(|path| file_shows(path)));
    let left = files(&outs[1]);
    assert!(
        left.iter()
            .any(|path| path.starts_with(outs[1].join("state"))),
        "{left:?}"
    );
    for path in left {
        assert!(!file_shows(&path), "{}", path.display());
    }
    assert!(
        !shows(said.stderr.as_bytes()) && !shows(said.stdout.as_bytes()),
        "{said:?}"
    );

    // With another key every card is another, and no checkpoint of the first one fits.
    std::fs::write(hashed.join("hash.key"), "7".repeat(64)).expect("a key");
    let other = folder.path().join("other");
    let done = replay(&hashed, &model, &input, &other);
    assert_eq!(done.status, 0, "{}", done.stderr);
    let other = Outcome::read(&other);
    assert_eq!(other.texts("logit"), plain.texts("logit"));
    for column in ["key", "version_pipeline"] {
        assert_ne!(other.texts(column)[0], hashed_outcome.texts(column)[0]);
    }
}

#[test]
fn a_hashed_column_without_its_keys_is_refused_with_the_cure() {
    let folder = scratch();
    let pipeline = hashed_pipeline(folder.path());
    let path = pipeline.to_str().expect("a plain path");
    answer_of(command(&["validate", path, "--json"]));
    let yaml = pipeline.join("pipeline.yaml");
    let text = std::fs::read_to_string(&yaml).expect("settings");
    std::fs::write(&yaml, text.replace("dead_letter_key_file: letters.key", "")).expect("settings");
    let done = finish(command(&["validate", path, "--json"]));
    assert_eq!(done.status, 1, "{}", done.stdout);
    let failure: Value =
        serde_json::from_str(done.stderr.lines().next().unwrap_or_default()).expect("a failure");
    let cure = failure["cure"].as_str().unwrap_or_default();
    assert!(
        cure.contains("dead_letter_key_file") && cure.contains("openssl"),
        "{failure}"
    );
    let line = failure["line"].as_u64().expect("a line") as usize;
    assert!(
        text.lines()
            .nth(line - 1)
            .is_some_and(|line| line.contains("hmac")),
        "{failure}"
    );
}
