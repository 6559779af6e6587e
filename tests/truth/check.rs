//! `check`: one scenario, every way it may be run, one result.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;

use crate::crash::killed_and_resumed;
use crate::outcome::Outcome;
use crate::sanderling::{answer_of, command, on_one_core, scratch};
use crate::scenario::Scenario;

/// A replay of a scenario: the arguments without `--out`.
pub struct Replay {
    pub args: Vec<String>,
    pub pipeline: String,
}

impl Replay {
    /// The replay of `inputs` by the scenario's pipeline and `model`.
    pub fn new(scenario: &Scenario, model: &Path, inputs: &[PathBuf]) -> Self {
        let inputs: Vec<&str> = inputs
            .iter()
            .map(|p| p.to_str().expect("a plain path"))
            .collect();
        let mut args: Vec<String> = [
            "replay",
            &scenario.pipeline,
            "--input",
            &inputs.join(","),
            "--json",
            "--model",
        ]
        .map(String::from)
        .to_vec();
        args.push(model.to_str().expect("a plain path").into());
        args.extend(scenario.replay.iter().cloned());
        let pipeline = scenario
            .pipeline
            .rsplit('/')
            .next()
            .expect("a name")
            .to_string();
        Self { args, pipeline }
    }

    /// The same with more arguments.
    pub fn with(&self, more: &[&str]) -> Vec<String> {
        self.args
            .iter()
            .cloned()
            .chain(more.iter().map(|arg| arg.to_string()))
            .collect()
    }
}

/// Runs a scenario plain, against its golden; then cut into other batches, on one core, and killed
/// and resumed, against the plain run. Returns the plain run's outcome.
pub fn check(scenario: &Scenario, inputs: &[PathBuf]) -> Outcome {
    let model = scenario.model(&inputs[0]);
    let replay = Replay::new(scenario, &model, inputs);
    let begun = Instant::now();
    let passed = |what: &str| {
        println!(
            "{:>6.1} s  {}: {what}",
            begun.elapsed().as_secs_f64(),
            replay.pipeline
        )
    };
    let folder = scratch();
    let out = |name: &str| {
        folder
            .path()
            .join(name)
            .to_str()
            .expect("a plain path")
            .to_string()
    };

    let plain_out = out("plain");
    let started = Instant::now();
    let answer = answer_of(command(&replay.with(&["--out", &plain_out])));
    let took = started.elapsed();
    let plain = Outcome::read(Path::new(&plain_out));
    plain.must_be_sound();
    let written: Value = serde_json::from_str(
        &std::fs::read_to_string(Path::new(&plain_out).join("summary.json")).expect("a summary"),
    )
    .expect("a summary of JSON");
    assert_eq!(answer, written, "the last line is the summary");
    against_golden(scenario, &plain);
    passed("plain");

    for rows in &scenario.batch_rows {
        let (rows, again) = (rows.to_string(), out(&format!("batches-of-{rows}")));
        answer_of(command(&replay.with(&[
            "--out",
            &again,
            "--batch-rows",
            &rows,
            "--threads",
            "2",
        ])));
        plain.must_equal(
            &Outcome::read(Path::new(&again)),
            &format!("batches of {rows}"),
        );
        passed(&format!("batches of {rows}"));
    }

    let (one, decisions) = (out("one-core"), format!("{plain_out}/decisions.parquet"));
    let against = [
        "--out",
        &one,
        "--batch-rows",
        "333",
        "--threads",
        "3",
        "--against",
        &decisions,
    ];
    answer_of(on_one_core(&replay.with(&against)));
    plain.must_equal(&Outcome::read(Path::new(&one)), "on one core");
    passed("on one core");

    let crashed = PathBuf::from(out("crashed"));
    killed_and_resumed(&replay, &crashed, plain.count("in"), took);
    plain.must_equal(&Outcome::read(&crashed), "killed and resumed");
    passed("killed and resumed");
    plain
}

/// Compares with `golden.json`; `UPDATE_GOLDENS=1` writes it instead.
fn against_golden(scenario: &Scenario, outcome: &Outcome) {
    let file = scenario.folder.join("golden.json");
    let now = outcome.golden();
    if std::env::var_os("UPDATE_GOLDENS").is_some() {
        let text = serde_json::to_string_pretty(&now).expect("JSON") + "\n";
        std::fs::write(&file, text).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        return;
    }
    let text = std::fs::read_to_string(&file)
        .unwrap_or_else(|e| panic!("{}: {e}; UPDATE_GOLDENS=1 writes it", file.display()));
    let golden: Value = serde_json::from_str(&text).expect("a golden of JSON");
    assert_eq!(
        now,
        golden,
        "{} (left: now); UPDATE_GOLDENS=1 writes it",
        file.display()
    );
}
