//! Machines with 38 channels and no labels: the same fold, another head.

use std::f64::consts::TAU;
use std::fmt::Write;
use std::path::Path;

use crate::check::check;
use crate::random::Random;
use crate::sanderling::scratch;
use crate::scenario::Scenario;

const CHANNELS: usize = 38;
const MACHINES: usize = 3;
/// One row a minute and machine.
const MINUTES: usize = 2400;
/// Minutes without a fault, to learn from.
const HEALTHY: usize = 1300;
/// 2025-06-01, seconds.
const START_S: i64 = 1_748_736_000;

#[test]
fn faults_of_machines_stand_out_without_any_label() {
    let scenario = Scenario::open("telemetry");
    let folder = scratch();
    let input = folder.path().join("telemetry.csv");
    write(&input);
    let outcome = check(&scenario, &[input]);
    assert_eq!(outcome.count("decided"), (MACHINES * MINUTES) as u64);
    assert_eq!(outcome.count("state_only"), 0);
    assert!(
        outcome.summary["fraud"].is_null(),
        "without labels nothing is caught or missed"
    );
    assert!(
        outcome.texts("logit").iter().all(String::is_empty),
        "a forecast has no log-odds"
    );

    let scores = outcome.doubles("value");
    let (mut faulty, mut healthy) = (Vec::new(), Vec::new());
    for (row, score) in scores.into_iter().enumerate() {
        let (minute, machine) = (row / MACHINES, row % MACHINES);
        match (minute < HEALTHY, is_faulty(machine, minute)) {
            (false, true) => faulty.push(score),
            (false, false) => healthy.push(score),
            (true, _) => {}
        }
    }
    let higher: usize = faulty
        .iter()
        .map(|f| healthy.iter().filter(|h| f > h).count())
        .sum();
    let auc = higher as f64 / (faulty.len() * healthy.len()) as f64;
    println!(
        "{} faulty rows, {} healthy ones, AUC {auc:.4}",
        faulty.len(),
        healthy.len()
    );
    assert!(auc > 0.9, "AUC {auc}");
}

/// Each machine has a fault of half an hour every five hours, none at the same time.
fn is_faulty(machine: usize, minute: usize) -> bool {
    minute >= HEALTHY && (minute - HEALTHY + machine * 90) % 300 >= 270
}

/// Rhythms that share a load, with noise; in a fault a third of the channels go their own way.
pub fn write(path: &Path) {
    let mut random = Random::new(38);
    let shape: Vec<(f64, f64, f64)> = (0..CHANNELS)
        .map(|_| {
            (
                0.5 + random.share(),
                20.0 + 200.0 * random.share(),
                TAU * random.share(),
            )
        })
        .collect();
    let mut text = String::from("machine,at");
    for channel in 0..CHANNELS {
        let _ = write!(text, ",c{channel}");
    }
    text.push('\n');
    for minute in 0..MINUTES {
        for machine in 0..MACHINES {
            let _ = write!(text, "m{machine},{}", START_S + 60 * minute as i64);
            let time = minute as f64 + 37.0 * machine as f64;
            let load = 1.0 + 0.3 * (TAU * time / 720.0).sin();
            let fault = is_faulty(machine, minute);
            for (channel, (size, period, phase)) in shape.iter().enumerate() {
                let noise = 0.1 * random.normal();
                let own = size * load * (TAU * time / period + phase).sin();
                let off = if fault && channel % 3 == 0 {
                    3.0 * size
                } else {
                    0.0
                };
                match random.next() % 500 {
                    // A sensor is silent now and then.
                    0 => text.push(','),
                    _ => _ = write!(text, ",{:.4}", own + noise + off),
                }
            }
            text.push('\n');
        }
    }
    std::fs::write(path, text).expect("an input file");
}
