//! A training that is killed, and `train --resume`.

use std::fs;
use std::time::Duration;

use crate::sanderling::{answer, command, finish, scratch, start};
use crate::scenario::Scenario;

#[test]
fn a_training_that_was_killed_comes_to_the_same_model() {
    let scenario = Scenario::open("cards");
    let input = scenario.simulated();
    let whole = scenario.model(&input);
    let root = scratch();
    let out = root.path().join("model");
    let mut args = scenario.training(&input, &out);
    // Once in the trial of some of the rows, once in the network of all.
    for kept in ["trial.checkpoint", "network.0.checkpoint"] {
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
        if kept == "trial.checkpoint" {
            args.push("--resume".into());
        }
    }
    let mut other = args.clone();
    other.extend(["--set".into(), "model.training.rate=0.004".into()]);
    let refused = finish(command(&other));
    assert_eq!(refused.status, 1, "{refused:?}");
    assert!(refused.stderr.contains("another training"), "{refused:?}");
    assert!(refused.stderr.contains("--resume"), "{refused:?}");

    answer(&args);
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
}
