//! Scores computed elsewhere than by the CPU's kernels: the same but for rounding, and the decision says so.

use serde_json::Value;

use crate::outcome::Outcome;
use crate::sanderling::{answer, command, finish, scratch, simulate};

const PIPELINE: &str = "pipelines/card-fraud";
/// What the design allows between a CPU and a GPU, log-odds.
const APART_MAX: f64 = 1e-4;

#[test]
fn tensors_decide_as_the_kernels_do() {
    let folder = scratch();
    let input = folder.path().join("payments.parquet");
    simulate(&input, 4, 3, "2025-03-01");
    let replayed = |name: &str, sets: &[&str]| {
        let out = folder.path().join(name);
        let paths = [
            "--input".as_ref(),
            input.as_os_str(),
            "--out".as_ref(),
            out.as_os_str(),
        ];
        let mut args: Vec<_> = ["replay", PIPELINE].map(AsRef::as_ref).to_vec();
        args.extend(paths);
        args.extend(sets.iter().map(|set| -> &std::ffi::OsStr { set.as_ref() }));
        answer(&args);
        Outcome::read(&out)
    };
    let kernels = replayed("kernels", &[]);
    // Held against the kernels' decisions, they are the same within the bound.
    let recorded = folder.path().join("kernels/decisions.parquet");
    let recorded = recorded.to_str().expect("a plain path");
    let tensors = replayed(
        "tensors",
        &["--set", "scoring.device=graph", "--against", recorded],
    );
    // Explained decisions add up there too.
    tensors.must_be_sound();
    let told = |outcome: &Outcome| outcome.texts("version_numerics").swap_remove(0);
    assert_eq!(told(&tensors), format!("{}+graph-f32", told(&kernels)));
    let pairs = kernels.doubles("logit").into_iter();
    let apart = pairs
        .zip(tensors.doubles("logit"))
        .map(|(here, there)| (here - there).abs())
        .fold(0.0, f64::max);
    assert!(apart < APART_MAX, "{apart}");
    assert_eq!(kernels.texts("action"), tensors.texts("action"));
    let alerts = kernels.texts("action");
    assert!(alerts.iter().any(|action| action != "approve"));
}

#[test]
fn what_cannot_be_had_is_refused_with_the_cure() {
    let refused = |sets: &[&str], status: i32, word: &str| {
        let mut validate = command(&["validate", PIPELINE, "--json"]);
        validate.args(sets.iter().flat_map(|set| ["--set", set]));
        let done = finish(validate);
        assert_eq!(done.status, status, "{sets:?}: {}", done.stdout);
        let failure = done.stderr.lines().last().expect("a failure");
        let failure: Value = serde_json::from_str(failure).expect("a failure in JSON");
        assert!(failure.to_string().contains(word), "{failure}");
        let cure = failure["cure"].as_str();
        assert!(cure.is_some_and(|cure| !cure.is_empty()), "{failure}");
    };
    refused(&["scoring.device=tpu"], 2, "tpu");
    refused(
        &["scoring.device=cpu", "scoring.precision=bf16"],
        1,
        "scoring.precision",
    );
    // Where there is no GPU, `auto` takes the CPU.
    let auto = answer(&["validate", PIPELINE, "--set", "scoring.precision=f16"]);
    assert_eq!(auto["pipeline"], "card-fraud", "{auto}");
}
