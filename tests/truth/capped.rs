//! A cap on the rows of one key is a part of the fold: decisions say where it was felt, and are the same
//! however the rows were cut, and by the order log.

use std::path::Path;

use crate::outcome::Outcome;
use crate::sanderling::{answer, command, finish, scratch};
use crate::scenario::Scenario;

const PIPELINE: &str = "pipelines/card-fraud";
const CAP: &str = "state.rows_per_key_max=12";

fn replay(out: &Path, more: &[&str]) -> Outcome {
    let input = Scenario::open("cards").simulated();
    let (input, folder) = (input.to_str(), out.to_str());
    let (input, folder) = (input.expect("a plain path"), folder.expect("a plain path"));
    let mut args = vec!["replay", PIPELINE, "--input", input, "--out", folder];
    args.extend(more);
    answer(&args);
    Outcome::read(out)
}

#[test]
fn a_capped_key_is_told_and_replayed() {
    let folder = scratch();
    let out = |name: &str| folder.path().join(name);
    let capped = replay(&out("capped"), &["--set", CAP]);
    let again = replay(&out("again"), &["--set", CAP, "--batch-rows", "7"]);
    capped.must_equal(&again, "batches of 7");
    let order = out("capped").join("order.parquet");
    let order = order.to_str().expect("a plain path");
    let in_order = replay(&out("in-order"), &["--set", CAP, "--order", order]);
    capped.must_equal(&in_order, "in the recorded order");

    let flagged = |outcome: &Outcome| -> Vec<bool> {
        let flags = outcome.texts("flags");
        flags.iter().map(|flags| flags.contains("capped")).collect()
    };
    let flags = flagged(&capped);
    let count = flags.iter().filter(|is| **is).count();
    assert!(
        count > 100 && count < flags.len(),
        "{count} of {}",
        flags.len()
    );
    let free = replay(&out("free"), &[]);
    assert!(flagged(&free).iter().all(|is| !is));
    assert_ne!(
        capped.texts("version_pipeline"),
        free.texts("version_pipeline")
    );
    // What is not flagged is exact; what is may miss rows, and never has more.
    let (ours, all) = (
        capped.doubles("f_terminal_count_30d"),
        free.doubles("f_terminal_count_30d"),
    );
    let mut fewer = 0;
    for ((flag, ours), all) in flags.iter().zip(&ours).zip(&all) {
        assert!(
            ours <= all && (*flag || ours == all),
            "{ours} of {all}, flagged: {flag}"
        );
        fewer += usize::from(ours < all);
    }
    assert!(fewer > 100, "{fewer}");
}

#[test]
fn a_cap_that_cannot_be_is_refused() {
    let done = finish(command(&[
        "validate",
        PIPELINE,
        "--json",
        "--set",
        "state.rows_per_key_max=0",
    ]));
    assert_eq!(done.status, 1, "{done:?}");
    assert!(done.stderr.contains("no row"), "{done:?}");
}
