//! What waited in several topics while nobody read them, in the order in which the broker took it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::agreement::{each_once, order_is_whole};
use super::broker::Broker;
use super::deployed::{Deployed, LIVE_WITHIN};
use super::foreign::{Foreign, Isolation, Record};
use super::payments::Payments;

const PARTITIONS: u32 = 3;
/// Payments decided before the service is stopped, and those that then wait.
const BEFORE: usize = 500;
const ALL: usize = 8_500;
const RATE: u32 = 2_000;
/// One label for so many payments.
const LABEL_EVERY: usize = 20;
/// Older than what a partition at its end may still bring.
const WAITED: Duration = Duration::from_secs(3);

/// Stopped, and come back to more than a fetch holds of any partition: payments of three partitions and their
/// labels are one relation, in the order of the times at which the broker appended them.
#[test]
fn partitions_are_merged_by_the_brokers_time() {
    let broker = Broker::shared();
    let deployed = Deployed::new("pipelines/card-fraud", "catch-up", PARTITIONS, broker);
    deployed.edit(|settings| {
        // A fetch brings a part of one partition, as it does of a topic that is much longer.
        settings["kafka"]["properties"]["max.partition.fetch.bytes"] = (64 << 10).into();
    });
    let mut watcher = broker.foreign();
    let payments = Payments::simulated(&deployed, &mut watcher, 23, 3);
    let labels = deployed.topic("labels");
    let mut service = deployed.start("one");
    service.wait_until_live(LIVE_WITHIN);
    watcher.ask(&payments.sending_at(RATE, 0..BEFORE));
    payments.wait_until_decided(&mut watcher);
    service.stop();
    let decided = orders_of(&mut watcher, &deployed).len();

    let mut labeller = broker.foreign();
    let rate = RATE / LABEL_EVERY as u32;
    labeller.begin(&payments.sending_labels(ALL, LABEL_EVERY, rate, &labels));
    watcher.ask(&payments.sending_at(RATE, BEFORE..ALL));
    labeller.finish();
    std::thread::sleep(WAITED);
    let mut service = deployed.start("one");
    service.wait_until_live(LIVE_WITHIN);
    payments.wait_until_decided(&mut watcher);
    watcher.wait_for_end(&deployed.group(), &[&labels], LIVE_WITHIN);
    service.stop();

    let rows = watcher.consume(&[&payments.topic, &labels], Isolation::Committed);
    let decisions = watcher.consume(&[&deployed.topic("decisions")], Isolation::Committed);
    let events = rows.iter().filter(|row| row.topic == payments.topic);
    assert_eq!(events.clone().count(), ALL);
    each_once(events, &decisions);
    let orders = orders_of(&mut watcher, &deployed);
    order_is_whole(&orders, &rows);

    let times: BTreeMap<String, i64> = rows.iter().map(|row| (row.id(), row.timestamp)).collect();
    let order: Vec<String> = orders[decided..].iter().flat_map(ids_of).collect();
    assert_eq!(order.len(), ALL - BEFORE + ALL / LABEL_EVERY);
    let back: Vec<_> = (order.windows(2))
        .filter(|pair| times[&pair[0]] > times[&pair[1]])
        .collect();
    assert!(
        back.is_empty(),
        "{} times an older row after a newer one, first {:?}",
        back.len(),
        back[0]
    );
    // Taking partition after partition would not have done.
    let partition = |id: &str| id.rsplit_once('/').expect("an offset").0.to_string();
    let switches = (order.windows(2))
        .filter(|pair| partition(&pair[0]) != partition(&pair[1]))
        .count();
    assert!(
        switches > order.len() / 10,
        "only {switches} of {}",
        order.len()
    );
}

fn orders_of(watcher: &mut Foreign, deployed: &Deployed) -> Vec<Record> {
    watcher.consume(&[&deployed.topic("order")], Isolation::Committed)
}

/// `topic/partition/offset` of the rows of a batch, in their order.
fn ids_of(order: &Record) -> Vec<String> {
    let order = order.json();
    let runs = order["runs"].as_array().expect("runs");
    let ids = runs.iter().flat_map(|run| {
        let (from, next) = (run["from"].as_i64(), run["next"].as_i64());
        let of = format!(
            "{}/{}",
            run["topic"].as_str().expect("a topic"),
            run["partition"]
        );
        (from.expect("an offset")..next.expect("an offset")).map(move |at| format!("{of}/{at}"))
    });
    ids.collect()
}
