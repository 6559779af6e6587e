//! Card payments with planted frauds, through the shipped pipeline and a model trained here.

use crate::check::check;
use crate::scenario::Scenario;

#[test]
fn card_payments_are_decided_the_same_however_they_are_run() {
    let scenario = Scenario::open("cards");
    let outcome = check(&scenario, &[scenario.simulated()]);
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
}
