//! A challenger is promoted while the service runs, and rolled back: each decides from one batch to the next, through
//! a crash, and the order log tells which decision is whose.

use std::time::{Duration, Instant};

use super::agreement::{bit_equal, each_once};
use super::broker::Broker;
use super::deployed::{Deployed, LIVE_WITHIN};
use super::foreign::{Foreign, Isolation};
use super::payments::Payments;
use super::recorded::replay;
use crate::outcome::Outcome;
use crate::sanderling::answer;
use crate::scenario::Scenario;

/// Before the promotion, between it and the rollback, until it is promoted again, until the crash, and after.
const PAYMENTS: [usize; 6] = [0, 400, 800, 1200, 1600, 2000];

#[test]
fn a_challenger_that_is_promoted_decides_from_the_next_batch_on() {
    let scenario = Scenario::open("cards");
    let challenger = scenario.model(&scenario.simulated());
    let challenger = challenger.to_str().expect("a plain path");
    let broker = Broker::shared();
    let deployed = Deployed::new("pipelines/card-fraud", "takeover", 1, broker);
    deployed.edit(|settings| settings["deadline_ms"] = 600_000.into());
    let folder = deployed.folder();
    let folder = folder.to_str().expect("a plain path");
    let mut foreign = broker.foreign();
    let payments = Payments::simulated(&deployed, &mut foreign, 12, 1);
    let decide = |foreign: &mut Foreign, part: usize| {
        foreign.ask(&payments.sending_at(2_000, PAYMENTS[part]..PAYMENTS[part + 1]));
        payments.wait_until_decided(foreign);
    };

    let beside = format!("challengers=[{challenger}]");
    let mut service = deployed.start_with("one", &["--set", &beside]);
    service.wait_until_live(LIVE_WITHIN);
    decide(&mut foreign, 0);
    // Each of them is told, and from the next batch on it decides.
    let mut told = 0;
    let mut changed = |args: &[&str]| {
        let change = answer(args);
        told += 1;
        let (log, since) = (deployed.beside("one.log"), Instant::now());
        let read = || std::fs::read_to_string(&log).expect("a log");
        while read().matches("another model decides").count() < told {
            assert!(since.elapsed() < LIVE_WITHIN, "{}", read());
            std::thread::sleep(Duration::from_millis(50));
        }
        ["from", "to"].map(|key| change[key].as_str().expect("a hash").to_string())
    };
    let promote = ["model", "promote", folder, challenger, "--untried"];
    let [before, after] = changed(&promote);
    decide(&mut foreign, 1);
    let back = changed(&["model", "rollback", folder]);
    assert_eq!(back, [after.clone(), before.clone()]);
    decide(&mut foreign, 2);
    changed(&promote);
    decide(&mut foreign, 3);
    service.kill();
    // The one that gave way is kept, and goes on beside the other.
    let kept = format!("challengers=[models/{}]", &before[..12]);
    let mut service = deployed.start_with("one", &["--set", &kept]);
    service.wait_until_live(LIVE_WITHIN);
    decide(&mut foreign, 4);
    service.stop();

    let events = foreign.consume(&[&payments.topic], Isolation::Committed);
    let decisions = foreign.consume(&[&deployed.topic("decisions")], Isolation::Committed);
    each_once(&events, &decisions);
    let parts = [&before, &after, &before, &after, &after];
    for record in &decisions {
        let decision = record.json();
        let offset = decision["event"]["offset"].as_u64().expect("an offset") as usize;
        let part = PAYMENTS.iter().rposition(|from| *from <= offset);
        let model = parts[part.expect("the first begins with 0")];
        assert_eq!(decision["versions"]["model"], **model, "{decision}");
        let other = if *model == before { &after } else { &before };
        let shadow = decision["shadow"].as_object().expect("a map of scores");
        assert_eq!(shadow.keys().collect::<Vec<_>>(), [other], "{decision}");
    }

    // The order log says who decided, so that a replay gives all of it again.
    let args = ["--set", &kept, "--input", "kafka", "--order", "kafka"];
    let again = Outcome::read(&replay(&deployed, &args));
    bit_equal(&decisions, &again.decisions);
}
