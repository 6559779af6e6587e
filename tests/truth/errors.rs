//! What a user is told when something is wrong: an exit status, and one line of JSON that names
//! the file, the line and the cure.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::sanderling::{Finished, command, finish, root, scratch};
use crate::scenario::Scenario;

/// A copy of `pipelines/card-fraud` without its model, in which one text is replaced by another.
struct Edited {
    folder: TempDir,
    file: PathBuf,
    line: u64,
}

impl Edited {
    fn new(file: &str, from: &str, to: &str) -> Self {
        let folder = scratch();
        for name in [
            "pipeline.yaml",
            "features.sql",
            "policy.yaml",
            "reason_codes.yaml",
        ] {
            let source = root().join("pipelines/card-fraud").join(name);
            std::fs::copy(source, folder.path().join(name)).expect("a copy");
        }
        let mut edited = Self {
            file: folder.path().join(file),
            folder,
            line: 0,
        };
        edited.line = edited.edit(file, from, to);
        edited
    }

    /// Replaces the first `from` in `file`; returns its line.
    fn edit(&self, file: &str, from: &str, to: &str) -> u64 {
        let path = self.folder.path().join(file);
        let text = std::fs::read_to_string(&path).expect("a file of the pipeline");
        let at = text
            .find(from)
            .unwrap_or_else(|| panic!("{file} has no {from}"));
        std::fs::write(&path, text.replacen(from, to, 1)).expect("a file of the pipeline");
        text[..at].matches('\n').count() as u64 + 1
    }

    fn path(&self) -> &str {
        self.folder.path().to_str().expect("a plain path")
    }

    fn validate(&self) -> Vec<Value> {
        failures(&run(&["validate", self.path()]), 1)
    }
}

fn run(args: &[&str]) -> Finished {
    let mut command = command(args);
    command.arg("--json");
    finish(command)
}

/// The failures that a command printed, each whole and with a cure.
fn failures(done: &Finished, status: i32) -> Vec<Value> {
    assert_eq!(done.status, status, "{}{}", done.stdout, done.stderr);
    assert!(
        done.stdout.is_empty(),
        "a failure has no result: {}",
        done.stdout
    );
    let all: Vec<Value> = done
        .stderr
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect();
    assert!(!all.is_empty(), "a failure says something");
    for failure in &all {
        let object = failure.as_object().expect("an object");
        let keys: Vec<&str> = object.keys().map(String::as_str).collect();
        assert_eq!(keys, ["code", "file", "line", "column", "message", "cure"]);
        for key in ["code", "message", "cure"] {
            assert!(
                failure[key].as_str().is_some_and(|text| !text.is_empty()),
                "no {key}: {failure}"
            );
        }
    }
    all
}

fn failure(args: &[&str], status: i32) -> Value {
    let mut all = failures(&run(args), status);
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

fn says(failure: &Value, words: &str) {
    let message = failure["message"].as_str().expect("a message");
    assert!(message.contains(words), "{words:?} is not in {message:?}");
}

#[test]
fn a_fault_in_a_pipelines_folder_has_its_place() {
    // code, file, text, what stands there instead, what the message names
    let faults = [
        (
            "config",
            "pipeline.yaml",
            "deadline_ms: 50",
            "dead_line_ms: 50",
            "dead_line_ms",
        ),
        (
            "config",
            "pipeline.yaml",
            "type: \"decimal(12,2)\"",
            "type: money",
            "money",
        ),
        (
            "config",
            "pipeline.yaml",
            "score: [transactions]",
            "score: [payments]",
            "payments",
        ),
        (
            "config",
            "pipeline.yaml",
            "{allowed: 1d,",
            "{allowed: soon,",
            "soon",
        ),
        (
            "config",
            "pipeline.yaml",
            "key: terminal_id, state: memory",
            "key: till, state: memory",
            "till",
        ),
        (
            "config",
            "pipeline.yaml",
            "key: terminal_id, state: memory",
            "key: terminal_id, state: partition",
            "terminal",
        ),
        (
            "config",
            "pipeline.yaml",
            "reference: transaction_id",
            "reference: payment",
            "payment",
        ),
        (
            "config",
            "pipeline.yaml",
            "version: 1",
            "version: 2",
            "version 2",
        ),
        (
            "config",
            "pipeline.yaml",
            "deadline_ms: 50",
            "deadline_ms: 0",
            "0 ms",
        ),
        (
            "config",
            "pipeline.yaml",
            "delivery: at_least_once",
            "delivery: at_most_once",
            "at_most_once",
        ),
        (
            "config",
            "pipeline.yaml",
            "order: payments-order",
            "order: payments",
            "streams.transactions.topic",
        ),
        (
            "config",
            "pipeline.yaml",
            "file:///var/lib/sanderling",
            "s3://bucket/sanderling",
            "s3://bucket",
        ),
        (
            "config",
            "pipeline.yaml",
            "decisions: payments-decisions, ",
            "",
            "decisions",
        ),
        (
            "features",
            "features.sql",
            "ln(1 + amount)",
            "ln(1 + amuont)",
            "amuont",
        ),
        (
            "features",
            "features.sql",
            "count(amount) OVER card_1h",
            "count(*) OVER card_1h",
            "count(*)",
        ),
        (
            "features",
            "features.sql",
            "OVER card_7d ",
            "OVER card_8d ",
            "card_8d",
        ),
        (
            "policy",
            "policy.yaml",
            "card_count_15m >= 8",
            "card_count_16m >= 8",
            "card_count_16m",
        ),
        (
            "policy",
            "policy.yaml",
            "{review: 0.20,",
            "{review: 1.20,",
            "1.2",
        ),
        (
            "policy",
            "policy.yaml",
            "thresholds: {review: 0.20, decline: 0.60}",
            "reviews_per_day: -5",
            "-5 is no number of reviews",
        ),
        (
            "policy",
            "reason_codes.yaml",
            "card_frauds_30d > 0",
            "card_fraud > 0",
            "card_fraud",
        ),
    ];
    for (code, file, from, to, named) in faults {
        let edited = Edited::new(file, from, to);
        let found = edited.validate();
        let first = &found[0];
        assert_eq!(first["code"], code, "{first}");
        assert_eq!(
            first["file"].as_str().map(Path::new),
            Some(&*edited.file),
            "{first}"
        );
        assert_eq!(
            first["line"].as_u64(),
            Some(edited.line),
            "{from} -> {to}: {first}"
        );
        says(first, named);
    }
}

#[test]
fn thresholds_must_fit_what_the_model_gives() {
    let edited = Edited::new("policy.yaml", "thresholds:", "thresholds:");
    let args = ["validate", edited.path(), "--set", "model.output=forecast"];
    let refused = failure(&args, 1);
    assert_eq!(refused["code"], "policy", "{refused}");
    assert_eq!(refused["line"].as_u64(), Some(edited.line), "{refused}");
    says(&refused, "probabilities");
    let cure = refused["cure"].as_str().expect("a cure");
    assert!(cure.contains("score_thresholds"), "{cure}");
}

#[test]
fn exactly_once_needs_the_order() {
    let edited = Edited::new("pipeline.yaml", "at_least_once", "exactly_once");
    edited.edit("pipeline.yaml", ", order: payments-order", "");
    let found = edited.validate();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0]["code"], "config", "{found:?}");
    says(&found[0], "order");
}

#[test]
fn sql_that_cannot_be_read_has_its_line() {
    let edited = Edited::new("features.sql", "FROM events", "FORM events");
    let found = edited.validate();
    assert_eq!(found[0]["code"], "features", "{found:?}");
    assert!(found[0]["line"].as_u64().is_some(), "{found:?}");
}

#[test]
fn validate_shows_every_fault() {
    let edited = Edited::new(
        "pipeline.yaml",
        "score: [transactions]",
        "score: [transactions, gone]",
    );
    edited.edit("pipeline.yaml", "{allowed: 1d,", "{allowed: soon,");
    let lines: Vec<_> = edited
        .validate()
        .iter()
        .map(|fault| fault["line"].as_u64())
        .collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(lines[0] != lines[1], "{lines:?}");
}

#[test]
fn sound_pipelines_are_valid() {
    let folders = std::fs::read_dir(root().join("pipelines")).expect("a folder of pipelines");
    let mut pipelines: Vec<String> = folders
        .map(|folder| {
            let name = folder.expect("a pipeline").file_name();
            format!("pipelines/{}", name.to_str().expect("a plain name"))
        })
        .collect();
    assert!(pipelines.len() >= 3, "{pipelines:?}");
    pipelines.push("tests/scenarios/telemetry".into());
    for pipeline in &pipelines {
        let done = run(&["validate", pipeline]);
        assert_eq!(done.status, 0, "{pipeline}: {}", done.stderr);
        let valid: Value = serde_json::from_str(done.stdout.trim()).expect("one line of JSON");
        assert!(
            valid["features"].as_array().is_some_and(|f| f.len() >= 20),
            "{valid}"
        );
    }
}

#[test]
fn a_model_must_be_there_and_of_these_features() {
    let scenario = Scenario::open("cards");
    let input = scenario.simulated();
    let model = scenario.model(&input);
    let input = input.to_str().expect("a plain path");
    let out = scratch();
    let out = out.path().to_str().expect("a plain path");

    let unchanged = Edited::new("policy.yaml", "version: 1", "version: 2");
    let missing = failure(
        &["replay", unchanged.path(), "--input", input, "--out", out],
        1,
    );
    assert_eq!(missing["code"], "model", "{missing}");
    assert!(
        missing["cure"]
            .as_str()
            .expect("a cure")
            .contains("sanderling train"),
        "{missing}"
    );

    let model = model.to_str().expect("a plain path");
    let other = Edited::new("features.sql", "ln(1 + amount)", "ln(2 + amount)");
    let refused = failure(
        &[
            "replay",
            other.path(),
            "--input",
            input,
            "--out",
            out,
            "--model",
            model,
        ],
        1,
    );
    assert_eq!(refused["code"], "model", "{refused}");
    says(&refused, "trained");

    // Weights that are not the manifest's.
    let damaged = scratch();
    for entry in std::fs::read_dir(model).expect("a model").flatten() {
        std::fs::copy(entry.path(), damaged.path().join(entry.file_name())).expect("a copy");
    }
    let weights = damaged.path().join("model.safetensors");
    let mut bytes = std::fs::read(&weights).expect("weights");
    *bytes.last_mut().expect("weights are not empty") ^= 1;
    std::fs::write(&weights, bytes).expect("weights");
    let damaged = damaged.path().to_str().expect("a plain path");
    let refused = failure(
        &[
            "replay",
            "pipelines/card-fraud",
            "--input",
            input,
            "--out",
            out,
            "--model",
            damaged,
        ],
        1,
    );
    assert_eq!(refused["code"], "model", "{refused}");
    says(&refused, "sha256");
}

#[test]
fn input_that_cannot_be_read_is_named() {
    let folder = scratch();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.to_str().expect("a plain path").to_string()
    };
    let out = folder.path().join("out");
    let features = |input: &str| {
        failure(
            &[
                "features",
                "pipelines/card-fraud",
                "--input",
                input,
                "--out",
                out.to_str().expect("a plain path"),
            ],
            1,
        )
    };
    let gone = folder.path().join("gone.csv");
    let missing = features(gone.to_str().expect("a plain path"));
    assert_eq!(
        missing["file"].as_str().map(Path::new),
        Some(&*gone),
        "{missing}"
    );
    // file, what the message names
    let bad = [
        (file("payments.txt", "a,b\n1,2\n"), "payments.txt"),
        (
            file(
                "short.csv",
                "transaction_id,tx_time,card_id,terminal_id,device_id\n",
            ),
            "amount",
        ),
        (file("empty.csv", ""), "empty"),
        (
            file("not.parquet", "this is no Parquet file"),
            "not.parquet",
        ),
    ];
    for (path, named) in &bad {
        let refused = features(path);
        assert_eq!(refused["code"], "input", "{refused}");
        assert_eq!(refused["file"].as_str(), Some(path.as_str()), "{refused}");
        let whole = refused.to_string();
        assert!(whole.contains(named), "{named} is not in {whole}");
    }
}

#[test]
fn wrong_use_is_told_from_failure() {
    let scenario = Scenario::open("bad-rows");
    let lines = scenario.folder.join("lines.jsonl");
    let lines = lines.to_str().expect("a plain path");
    let out = scratch();
    let out = out.path().to_str().expect("a plain path");
    let base = [
        "features",
        "pipelines/card-fraud",
        "--input",
        lines,
        "--out",
        out,
    ];
    let with = |more: &[&'static str]| -> Vec<&str> {
        base.iter().copied().chain(more.iter().copied()).collect()
    };
    let uses: Vec<Vec<&str>> = vec![
        with(&["--set", "state.interval"]),
        with(&["--set", "state.intervall=1s"]),
        with(&["--set", "deadline_ms=soon"]),
        with(&["--set", "deadline_ms.of=1"]),
        with(&["--no-such-flag"]),
        vec!["features", "pipelines/gone", "--input", lines, "--out", out],
        vec![
            "features",
            "pipelines/card-fraud",
            "--input",
            "refunds=gone.csv",
            "--out",
            out,
        ],
        vec!["features", "pipelines/card-fraud", "--out", out],
        vec![
            "replay",
            "pipelines/card-fraud",
            "--input",
            lines,
            "--out",
            out,
            "--from",
            "yesterday",
        ],
        vec![
            "replay",
            "pipelines/card-fraud",
            "--input",
            lines,
            "--out",
            out,
            "--batch-rows",
            "0",
        ],
        vec!["no-such-command"],
        vec![],
    ];
    for args in &uses {
        let refused = failure(args, 2);
        assert_eq!(refused["code"], "usage", "{args:?}: {refused}");
    }
}

#[test]
fn people_are_told_in_words() {
    let done = finish(command(&[
        "features",
        "pipelines/card-fraud",
        "--input",
        "gone.csv",
        "--out",
        "gone",
    ]));
    assert_eq!(done.status, 1, "{}", done.stderr);
    assert!(done.stderr.starts_with("error: "), "{}", done.stderr);
    assert!(done.stderr.contains("cure: "), "{}", done.stderr);
    for args in [["--help"], ["--version"]] {
        let done = finish(command(&args));
        assert_eq!(done.status, 0, "{args:?}");
        assert!(
            done.stdout.contains("sanderling"),
            "{args:?}: {}",
            done.stdout
        );
    }
}
