//! The wall clock, from which ages and deadlines are counted. No decision depends on it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Time since 1970.
pub fn unix_time() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// The same in microseconds.
pub fn now_us() -> i64 {
    unix_time().as_micros() as i64
}
