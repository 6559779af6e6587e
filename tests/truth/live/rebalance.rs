//! Partitions that move between instances take their state with them.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use arrow::array::{Array, AsArray, Float64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use serde_json::{Value, json};

use super::agreement::{each_once, order_is_whole};
use super::broker::Broker;
use super::deployed::{DONE_WITHIN, Deployed, LIVE_WITHIN};
use super::foreign::Isolation;
use super::recorded::replay;
use crate::outcome::Outcome;
use crate::scenario::Scenario;
use crate::telemetry;

const PARTITIONS: u32 = 4;
/// Each simulated machine stands for so many, so that every partition has some.
const COPIES: usize = 4;
const RATE: u32 = 1_500;

#[test]
fn partitions_move_with_their_state() {
    let broker = Broker::shared();
    let deployed = Deployed::new("tests/scenarios/telemetry", "moves", PARTITIONS, broker);
    let scenario = Scenario::open("telemetry");
    let table = deployed.beside("telemetry.csv");
    telemetry::write(&table);
    let model = scenario.model(&table);
    let lines = deployed.beside("telemetry.jsonl");
    let rows = to_lines(&table, &lines);
    deployed.edit(|settings| {
        // What is compared is made by the full model, however slow this machine is.
        settings["deadline_ms"] = 600_000.into();
    });
    deployed.put_model(&model);

    let (input, group) = (deployed.topic("telemetry"), deployed.group());
    let mut watcher = broker.foreign();
    deployed.create_topics(&mut watcher, &["telemetry"]);
    let mut first = deployed.start("one");
    first.wait_until_live(LIVE_WITHIN);
    let mut producer = broker.foreign();
    producer.begin(
        &json!({"do": "produce", "topic": input, "file": lines, "key": "machine", "rate": RATE}),
    );

    let share = |of: f64| (rows as f64 * of) as i64;
    watcher.wait_for_progress(&group, &[&input], share(0.2), DONE_WITHIN);
    let mut second = deployed.start("two");
    second.wait_until_live(LIVE_WITHIN);
    let members = watcher.ask(&json!({"do": "members", "group": group}));
    assert_eq!(members["members"], 2);
    watcher.wait_for_progress(&group, &[&input], share(0.5), DONE_WITHIN);
    // Leaves in order; what it had goes back.
    second.stop();
    watcher.wait_for_progress(&group, &[&input], share(0.7), DONE_WITHIN);
    // Another comes, is killed, and never comes back: the broker finds out by itself.
    let mut third = deployed.start("three");
    third.wait_until_live(LIVE_WITHIN);
    third.kill();
    producer.finish();
    watcher.wait_for_end(&group, &[&input], DONE_WITHIN);
    first.stop();

    let events = watcher.consume(&[&input], Isolation::Committed);
    assert_eq!(events.len(), rows);
    let decisions = watcher.consume(&[&deployed.topic("decisions")], Isolation::Committed);
    each_once(&events, &decisions);
    let orders = watcher.consume(&[&deployed.topic("order")], Isolation::Committed);
    order_is_whole(&orders, &events);

    // A machine's decisions are a function of its own past, wherever that was kept: one process that
    // reads the file from its beginning to its end makes the same.
    let lines = lines.to_str().expect("a plain path");
    let replayed = Outcome::read(&replay(&deployed, &["--input", lines]));
    let times = replayed
        .decisions
        .column_by_name("event_time_us")
        .expect("event times")
        .clone();
    let times = times.as_primitive::<Int64Type>().values().clone();
    let keys = replayed.texts("key").into_iter().zip(times.iter().copied());
    let places: BTreeMap<(String, i64), usize> = keys.zip(0..).collect();
    let values = replayed.doubles("value");
    let features: BTreeMap<String, Float64Array> = (decisions[0].json()["features"].as_object())
        .expect("features")
        .keys()
        .map(|name| {
            let column = replayed.decisions.column_by_name(&format!("f_{name}"));
            let column = cast(column.expect("the feature"), &DataType::Float64).expect("numbers");
            (name.clone(), column.as_primitive::<Float64Type>().clone())
        })
        .collect();
    assert!(features.len() > 1);
    for record in &decisions {
        let decision = record.json();
        let key = decision["key"].as_str().expect("a key").to_string();
        let time = decision["event_time_us"].as_i64().expect("a time");
        let place = places[&(key, time)];
        let value = decision["value"].as_f64().expect("a forecast's value");
        assert_eq!(
            value.to_bits(),
            values[place].to_bits(),
            "{value} live, {} replayed: {decision}",
            values[place]
        );
        for (name, column) in &features {
            let live = decision["features"][name].as_f64();
            let replayed = column.is_valid(place).then(|| column.value(place));
            assert_eq!(
                live.map(f64::to_bits),
                replayed.map(f64::to_bits),
                "{name}: {live:?} live, {replayed:?} replayed: {decision}"
            );
        }
    }
}

/// The rows of a table as lines of JSON, [`COPIES`] of each under other names; returns how many.
fn to_lines(table: &Path, lines: &Path) -> usize {
    let text = std::fs::read_to_string(table).expect("a table");
    let mut rows = text.lines();
    let names: Vec<&str> = rows.next().expect("a header").split(',').collect();
    let mut out = std::io::BufWriter::new(std::fs::File::create(lines).expect("a file"));
    let mut written = 0;
    for row in rows {
        for copy in 0..COPIES {
            let fields = names.iter().zip(row.split(',')).map(|(name, field)| {
                let value = match (*name, field) {
                    ("machine", machine) => json!(format!("{machine}-{copy}")),
                    (_, "") => Value::Null,
                    (_, number) => serde_json::from_str(number).expect("a number"),
                };
                (name.to_string(), value)
            });
            writeln!(out, "{}", Value::Object(fields.collect())).expect("a line");
            written += 1;
        }
    }
    written
}
