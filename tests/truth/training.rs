//! A training that is killed, and `train --resume`.

use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::sanderling::{command, finish, scratch, start};
use crate::scenario::Scenario;

#[test]
fn a_training_that_was_killed_comes_to_the_same_model() {
    let scenario = Scenario::open("cards");
    let input = scenario.simulated();
    let whole = scenario.model(&input);
    let root = scratch();
    let out = root.path().join("model");
    let mut args = scenario.training(&input, &out);
    // Once in the trial with some of the rows, once in the network of all.
    for kept in ["trial.0.checkpoint", "network.0.checkpoint"] {
        let mut child = start(command(&args));
        while !out.join("training").join(kept).exists() {
            assert_eq!(child.try_wait().expect("a child"), None, "it kept nothing");
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().expect("a child can be killed");
        child.wait().expect("a child ends");
        assert!(
            !out.join("manifest.json").exists(),
            "it was killed too late"
        );
        if kept == "trial.0.checkpoint" {
            args.push("--resume".into());
        }
    }
    let mut other = args.clone();
    other.extend(["--set".into(), "model.training.rate=0.004".into()]);
    let refused = finish(command(&other));
    assert_eq!(refused.status, 1, "{refused:?}");
    assert!(refused.stderr.contains("another training"), "{refused:?}");
    assert!(refused.stderr.contains("--resume"), "{refused:?}");

    let done = finish(command(&args));
    assert_eq!(done.status, 0, "{done:?}");
    for file in ["model.safetensors", "manifest.json"] {
        let [found, wanted] = [&out, &whole].map(|model| fs::read(model.join(file)));
        assert!(
            found.expect("a model") == wanted.expect("a model"),
            "{file}"
        );
    }
    assert!(
        !out.join("training").exists(),
        "nothing is left to go on from"
    );

    // What it says for people is what the manifest keeps.
    let manifest = fs::read(out.join("manifest.json")).expect("a manifest");
    let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    let (metrics, held_out) = (&manifest["metrics"], &manifest["held_out"]);
    let number = |of: &Value| of.as_f64().unwrap_or_else(|| panic!("{metrics}"));
    let reliability = &metrics["reliability"];
    let bins = reliability["bins"].as_array().expect("bins");
    let sums = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
        let parts = bins.iter();
        parts
            .map(|bin| {
                number(&bin["events"]) * f(number(&bin["predicted"]), number(&bin["positive"]))
            })
            .sum()
    };
    let rows = number(&held_out["rows"]);
    assert_eq!(sums(&|_, _| 1.0), rows);
    assert!((sums(&|_, positive| positive) - number(&held_out["positives"])).abs() < 1e-6);
    let error = number(&reliability["expected_calibration_error"]);
    assert!(
        (sums(&|predicted, positive| (predicted - positive).abs()) / rows - error).abs() < 1e-9
    );
    let said = [
        format!(
            "on {rows} rows held out: AUC {:.4}",
            number(&metrics["auc"])
        ),
        format!(
            "average precision {:.4}",
            number(&metrics["average_precision"])
        ),
        format!("expected calibration error {error:.5}"),
        format!("Brier score {:.5}", number(&reliability["brier"])),
    ];
    for said in said {
        assert!(done.stdout.contains(&said), "no {said} in {}", done.stdout);
    }
}
