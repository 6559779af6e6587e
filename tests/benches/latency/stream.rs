//! The stream of the bench: what the service knows when it begins, and what is then sent.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::sanderling::simulate;

const SEED: u64 = 7;
/// Days of history, as long as the longest window, and as many to be sent.
const DAYS: u32 = 30;
/// Milliseconds of a day.
const DAY_MS: u64 = 86_400_000;
/// Midnight of the first day, and the same in milliseconds.
const START: (&str, u64) = ("2025-01-01", 1_735_689_600_000);
/// Populations of cards, terminals and devices: each payment of the simulation is made once in each.
pub const POPULATIONS: u32 = 4;

/// Files of simulated payments, JSON lines in order of their time.
pub struct Stream {
    /// Of all populations, with labels.
    pub history: PathBuf,
    /// Of one population, the days after; whoever sends them makes the others' of it.
    pub payments: PathBuf,
}

impl Stream {
    /// Simulates both into `folder`.
    pub fn simulated(folder: &Path) -> Self {
        let all = folder.join("all.jsonl");
        simulate(&all, SEED, 2 * DAYS, START.0);
        let stream = Self {
            history: folder.join("history.jsonl"),
            payments: folder.join("payments.jsonl"),
        };
        let create = |path| BufWriter::new(File::create(path).expect("a file in the folder"));
        let (mut history, mut payments) = (create(&stream.history), create(&stream.payments));
        let live_from = START.1 + u64::from(DAYS) * DAY_MS;
        for line in BufReader::new(File::open(&all).expect("the simulation")).lines() {
            let line = line.expect("a line");
            let payment: Value = serde_json::from_str(&line).expect("a payment");
            if payment["tx_time"].as_u64().expect("milliseconds") >= live_from {
                writeln!(payments, "{line}").expect("disk");
                continue;
            }
            for population in 0..POPULATIONS {
                let mut own = payment.clone();
                for name in ["transaction_id", "card_id", "terminal_id", "device_id"] {
                    let id = own[name].as_str().expect("an identifier");
                    own[name] = format!("{id}-{population}").into();
                }
                writeln!(history, "{own}").expect("disk");
            }
        }
        for mut file in [history, payments] {
            file.flush().expect("disk");
        }
        stream
    }
}
