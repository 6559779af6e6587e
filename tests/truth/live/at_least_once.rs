//! Delivery at least once: after a crash a decision may come twice, and is the same both times.

use std::collections::BTreeMap;
use std::time::Duration;

use super::broker::Broker;
use super::deployed::{Deployed, LIVE_WITHIN};
use super::foreign::Isolation;
use super::payments::Payments;
use crate::random::Random;

const PAYMENTS: usize = 6_000;
const RATE: u32 = 1_000;
/// More than `state.interval`.
const CHECKPOINTED_WITHIN: Duration = Duration::from_secs(4);

#[test]
fn killed_each_payment_is_decided_and_never_in_two_ways() {
    let mut random = Random::seeded("at least once");
    let broker = Broker::shared();
    let deployed = Deployed::new("pipelines/card-fraud", "at-least", 1, broker);
    deployed.edit(|settings| {
        settings["delivery"] = "at_least_once".into();
        // A decision may be sent and its order record not. Then the rung is chosen anew.
        settings["deadline_ms"] = 60_000.into();
    });
    let mut foreign = broker.foreign();
    let payments = Payments::simulated(&deployed, &mut foreign, 13, 2);
    let mut producer = broker.foreign();
    producer.begin(&payments.sending_at(RATE, 0..PAYMENTS));
    for _ in 0..3 {
        let mut service = deployed.start("one");
        service.wait_until_live(LIVE_WITHIN);
        std::thread::sleep(Duration::from_secs(2).mul_f64(0.2 + random.share()));
        service.kill();
    }
    let mut service = deployed.start("one");
    service.wait_until_live(LIVE_WITHIN);
    producer.finish();
    // What is decided is not all committed yet; and the next instance has a checkpoint before anything
    // new has come.
    service.kill();
    let mut service = deployed.start("one");
    service.wait_until_live(LIVE_WITHIN);
    std::thread::sleep(CHECKPOINTED_WITHIN);
    service.kill();
    let mut service = deployed.start("one");
    service.wait_until_live(LIVE_WITHIN);
    payments.wait_until_decided(&mut foreign);
    service.stop();

    let mut decided: BTreeMap<String, String> = BTreeMap::new();
    let mut again = 0;
    for record in foreign.consume(&[&deployed.topic("decisions")], Isolation::Committed) {
        let id = record.key.clone().expect("a decision has its id as key");
        let decision = record.json().to_string();
        match decided.get(&id) {
            None => {
                decided.insert(id, decision);
            }
            Some(first) => {
                assert_eq!(*first, decision, "{id}");
                again += 1;
            }
        }
    }
    println!("{again} decisions came twice");
    assert_eq!(decided.len(), PAYMENTS);
}
