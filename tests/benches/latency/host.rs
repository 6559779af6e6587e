//! Processor time that the host of a virtual machine keeps from it. What waits for a core then waits for
//! nobody's work on this machine.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::clients::TICKS_PER_S;

/// Time between two looks.
const EVERY: Duration = Duration::from_millis(100);

/// What was taken so far, looked at again and again on a thread of its own.
pub struct Taken(Arc<Mutex<Vec<Look>>>);

/// Milliseconds of Unix time, and the ticks of all cores that were taken until then.
type Look = (i64, f64);

impl Taken {
    /// Looks from now on; a machine whose kernel does not tell has nothing taken.
    pub fn watch() -> Self {
        let looks = Arc::new(Mutex::new(vec![look()]));
        let seen = looks.clone();
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(EVERY);
                let now = look();
                seen.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(now);
            }
        });
        Self(looks)
    }

    /// Per cent of the machine's processor time that was taken between two moments, milliseconds of Unix time.
    pub fn percent(&self, from_ms: i64, to_ms: i64) -> f64 {
        let looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let until = |ms: i64| {
            let after = looks.partition_point(|(at, _)| *at <= ms);
            looks[after.saturating_sub(1)].1
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let taken_ms = (until(to_ms) - until(from_ms)) * 1_000.0 / TICKS_PER_S;
        (1000.0 * taken_ms / ((to_ms - from_ms).max(1) as f64 * cores)).round() / 10.0
    }
}

fn look() -> Look {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock after 1970");
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    // `cpu`, then user, nice, system, idle, iowait, irq, softirq and steal, of all cores.
    let of_all = stat.lines().next().unwrap_or_default();
    let taken = of_all.split_whitespace().nth(8);
    let ticks = taken.and_then(|ticks| ticks.parse().ok()).unwrap_or(0.0);
    (now.as_millis() as i64, ticks)
}
