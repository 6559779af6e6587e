//! Models beside the one that decides: each folds for itself, none of them changes a decision, and
//! one that takes over has seen all that the other has.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::slice;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StringArray};
use parquet::arrow::ArrowWriter;
use serde_json::Value;

use crate::check::Replay;
use crate::crash::killed_and_resumed;
use crate::outcome::{Outcome, read_parquet, same_rows};
use crate::sanderling::{answer, answer_of, command, finish, root, scratch};
use crate::scenario::Scenario;

/// The pipeline's shipped model, of other sizes than the scenario's own.
const SHIPPED: &str = "pipelines/card-fraud/model";

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

fn hash_of(model: &Path) -> String {
    let manifest = fs::read_to_string(model.join("manifest.json")).expect("a manifest");
    let manifest: Value = serde_json::from_str(&manifest).expect("a manifest of JSON");
    manifest["weights_sha256"].as_str().expect("a hash").into()
}

/// The flag that names `model` a challenger.
fn beside(model: &Path) -> [String; 2] {
    ["--set".into(), format!("challengers=[{}]", text(model))]
}

/// Decisions less what tells of other models than the one that decides.
fn without_shadow(outcome: &Outcome) -> RecordBatch {
    let schema = outcome.decisions.schema();
    let kept: Vec<usize> = (0..schema.fields().len())
        .filter(|i| schema.field(*i).name() != "shadow")
        .collect();
    outcome
        .decisions
        .project(&kept)
        .expect("columns that are there")
}

/// The score of the one model in the shadow of each decision.
fn shadows(outcome: &Outcome, model: &str) -> Vec<f64> {
    let parse = |text: &String| -> Value { serde_json::from_str(text).expect("a map of scores") };
    let of = |shadow: Value| {
        let shadow = shadow.as_object().expect("a map of scores").clone();
        assert_eq!(shadow.len(), 1, "one challenger: {shadow:?}");
        shadow[model].as_f64().expect("a score of the challenger")
    };
    outcome.texts("shadow").iter().map(parse).map(of).collect()
}

#[test]
fn challengers_fold_for_themselves_and_change_nothing() {
    let scenario = Scenario::open("cards");
    let input = scenario.simulated();
    let (own, other) = (scenario.model(&input), root().join(SHIPPED));
    let inputs = [input];
    let folder = scratch();
    let out = |name: &str| folder.path().join(name);
    let replay = |args: Vec<String>, name: &str| {
        let mut args = args;
        args.extend(["--out".into(), text(&out(name)).into()]);
        answer_of(command(&args));
        Outcome::read(&out(name))
    };
    let alone = Replay::new(&scenario, &own, &inputs);
    let mut both = Replay::new(&scenario, &own, &inputs);
    both.args.extend(beside(&other));

    let without = replay(alone.with(&[]), "alone");
    let begun = Instant::now();
    let with = replay(both.with(&[]), "both");
    let took = begun.elapsed();
    with.must_be_sound();
    same_rows(
        &without_shadow(&without),
        &without_shadow(&with),
        "decisions with a challenger",
    );
    assert!(without.texts("shadow").iter().all(String::is_empty));

    // What it says is what it would have said as the champion.
    let champion = replay(Replay::new(&scenario, &other, &inputs).with(&[]), "other");
    assert_eq!(shadows(&with, &hash_of(&other)), champion.doubles("logit"));

    let small = ["--batch-rows", "61", "--threads", "2"];
    with.must_equal(&replay(both.with(&small), "small"), "batches of 61");
    let crashed = out("crashed");
    killed_and_resumed(&both, &crashed, with.count("in"), took);
    with.must_equal(&Outcome::read(&crashed), "killed and resumed");

    // The other took over in the middle, as the order log tells.
    let order = out("swapped.parquet");
    let half = swapped(&out("both").join("order.parquet"), &order, &hash_of(&other));
    let followed = replay(both.with(&["--order", text(&order)]), "followed");
    let (deciders, sequences) = (
        followed.texts("version_model"),
        followed.doubles("sequence"),
    );
    let (logits, rows) = (followed.doubles("logit"), deciders.len());
    let (ours, theirs) = (without.doubles("logit"), champion.doubles("logit"));
    assert_eq!(rows, ours.len());
    let mut each = [0, 0];
    for row in 0..rows {
        let (decider, logit) = match sequences[row] < half as f64 {
            true => (&own, ours[row]),
            false => (&other, theirs[row]),
        };
        assert_eq!(deciders[row], hash_of(decider), "row {row}");
        assert_eq!(logits[row], logit, "row {row}");
        each[usize::from(decider == &other)] += 1;
    }
    assert!(each[0] > 1000 && each[1] > 1000, "{each:?}");
}

/// Copies an order log, with another model from its middle on; gives the sequence from which that
/// decides.
fn swapped(from: &Path, to: &Path, model: &str) -> u64 {
    let orders = read_parquet(from);
    let middle = orders.num_rows() / 2;
    let schema = orders.schema();
    let columns = schema.fields().iter().zip(orders.columns());
    let columns: Vec<ArrayRef> = columns
        .map(|(field, column)| match field.name().as_str() {
            "version_model" => {
                let before = column.as_string::<i32>();
                let named = (0..before.len()).map(|row| match row < middle {
                    true => before.value(row),
                    false => model,
                });
                Arc::new(StringArray::from_iter_values(named)) as ArrayRef
            }
            _ => column.clone(),
        })
        .collect();
    let batch = RecordBatch::try_new(schema.clone(), columns).expect("the same columns");
    let file = File::create(to).expect("a file");
    let mut writer = ArrowWriter::try_new(file, schema, None).expect("a writer");
    writer.write(&batch).expect("rows");
    writer.close().expect("a footer");
    let sequences = orders.column_by_name("sequence").expect("sequences");
    sequences
        .as_primitive::<arrow::datatypes::UInt64Type>()
        .value(middle)
}

/// A copy of the shipped pipeline that a test may change.
fn copied(folder: &Path) -> PathBuf {
    let (from, to) = (
        root().join("pipelines/card-fraud"),
        folder.join("card-fraud"),
    );
    copy(&from, &to);
    to
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        match from.is_dir() {
            true => copy(&from, &to),
            false => _ = fs::copy(&from, &to).expect("a file"),
        }
    }
}

#[test]
fn a_successor_goes_on_from_the_champion_and_the_better_one_decides() {
    let scenario = Scenario::open("cards");
    let input = scenario.simulated();
    let folder = scratch();
    let pipeline = copied(folder.path());
    let pipeline = text(&pipeline);
    let model = |name: &str| folder.path().join(name);
    let (first, second) = (scenario.model(&input), model("second"));

    // The shipped model was trained on other payments. Nothing says that this one is better.
    let list = |role: &str| -> Vec<String> {
        let listing = answer(&["model", "list", pipeline]);
        let models = listing["models"].as_array().expect("models").clone();
        let of = models.into_iter().filter(|m| m["role"] == role);
        of.map(|m| m["hash"].as_str().expect("a hash").to_string())
            .collect()
    };
    let shipped = hash_of(&root().join(SHIPPED));
    assert_eq!(list("champion"), slice::from_ref(&shipped));
    let refused = finish(command(&[
        "model",
        "promote",
        pipeline,
        text(&first),
        "--json",
    ]));
    assert_eq!(refused.status, 1, "{refused:?}");
    assert!(refused.stderr.contains("not_promoted"), "{refused:?}");
    answer(&["model", "promote", pipeline, text(&first), "--untried"]);
    assert_eq!(list("champion"), [hash_of(&first)]);
    assert_eq!(list("kept"), slice::from_ref(&shipped));

    // One that learns a little more from newer days, and one that unlearns.
    let update = |out: &Path, rate: &str| {
        let rate = format!("model.training.update_rate={rate}");
        let mut args: Vec<String> = ["train", pipeline, "--input", text(&input), "--json"]
            .map(String::from)
            .to_vec();
        args.extend(["--from", "2025-01-02", "--to", "2025-01-15"].map(String::from));
        args.extend(["--delay-days", "0", "--from-model", text(&first)].map(String::from));
        args.extend(["--set", &rate, "--out", text(out)].map(String::from));
        args.extend(scenario.quick().into_iter().map(String::from));
        finish(command(&args))
    };
    let lost = update(&model("worse"), "1.0");
    assert_eq!(lost.status, 1, "{lost:?}");
    let told: Value = serde_json::from_str(lost.stdout.trim()).expect("a report");
    assert_eq!(told["trial"]["won"], false, "{told}");
    assert!(lost.stderr.contains("not_promoted"), "{lost:?}");
    let refused = finish(command(&[
        "model",
        "promote",
        pipeline,
        text(&model("worse")),
    ]));
    assert_eq!(refused.status, 1, "{refused:?}");
    assert_eq!(list("champion"), [hash_of(&first)]);

    let won = update(&second, "2e-3");
    let told: Value = serde_json::from_str(won.stdout.trim()).expect("a report");
    let trial = &told["trial"];
    assert_eq!(trial["champion_hash"].as_str(), Some(&*hash_of(&first)));
    assert_eq!(
        (won.status, &trial["won"]),
        (0, &Value::Bool(true)),
        "{won:?}"
    );
    assert!(
        trial["successor"].as_f64() > trial["champion"].as_f64(),
        "{told}"
    );
    let reliability = &told["metrics"]["reliability"];
    let error = &reliability["expected_calibration_error"];
    assert!(error.is_f64() && reliability["brier"].is_f64(), "{told}");
    assert!(
        reliability["bins"]
            .as_array()
            .is_some_and(|bins| !bins.is_empty()),
        "{told}"
    );
    answer(&["model", "promote", pipeline, text(&second)]);
    assert_eq!(list("champion"), [hash_of(&second)]);
    let verified = answer(&["model", "verify", pipeline]);
    assert_eq!(verified["hash"].as_str(), Some(&*hash_of(&second)));

    // Back, step by step, and no further than there was a step.
    answer(&["model", "rollback", pipeline]);
    assert_eq!(list("champion"), [hash_of(&first)]);
    answer(&["model", "rollback", pipeline]);
    assert_eq!(list("champion"), [shipped]);
    let refused = finish(command(&["model", "rollback", pipeline]));
    assert_eq!(refused.status, 1, "{refused:?}");

    // A damaged one is found out and never decides.
    let weights = second.join("model.safetensors");
    let mut bytes = fs::read(&weights).expect("weights");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&weights, bytes).expect("weights");
    for command_of in [["verify", text(&second)], ["promote", text(&second)]] {
        let refused = finish(command(&["model", command_of[0], pipeline, command_of[1]]));
        assert_eq!(refused.status, 1, "{refused:?}");
        assert!(refused.stderr.contains("sha256"), "{refused:?}");
    }
}
