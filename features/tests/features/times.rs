//! What rows know of the stream's time and of their keys', written out plainly.

use std::collections::HashMap;
use std::hash::Hash;

use crate::stream::{HOUR_US, LATENESS_US};

const DAY_US: i64 = 24 * HOUR_US;

/// The latest time that three rows running were at or after.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    times_us: Vec<i64>,
    now_us: Option<i64>,
}

impl Clock {
    /// Takes a row; how far it moves the newest time of its keys.
    pub fn observe(&mut self, time_us: i64) -> i64 {
        self.times_us.push(time_us);
        if let [.., a, b, c] = self.times_us[..] {
            self.now_us = self.now_us.max(Some(a.min(b).min(c)));
        }
        match self.now_us {
            Some(now_us) if time_us > now_us + DAY_US => now_us,
            _ => time_us,
        }
    }
}

/// What a row knows of its key.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// Times that the key was forgotten before.
    pub generation: i64,
    /// What lateness is judged from.
    pub newest_us: i64,
    last_us: i64,
}

/// The keys of one PARTITION BY.
pub struct Keys<K> {
    /// The longest frame, if keys are forgotten at all.
    longest_us: Option<i64>,
    known: HashMap<K, Known>,
}

impl<K: Hash + Eq> Keys<K> {
    pub fn new(longest_us: Option<i64>) -> Self {
        Keys {
            longest_us,
            known: HashMap::new(),
        }
    }

    fn unless_forgotten(&self, key: &K, clock: &Clock) -> Option<Known> {
        let known = *self.known.get(key)?;
        let reach_us = self
            .longest_us
            .map(|longest_us| longest_us + 2 * LATENESS_US);
        let forgotten = match (reach_us, clock.now_us) {
            (Some(reach_us), Some(now_us)) => known.last_us < now_us - reach_us,
            _ => false,
        };
        (!forgotten).then_some(known)
    }

    /// The newest time of a key, if it is not new.
    pub fn newest_us(&self, key: &K, clock: &Clock) -> Option<i64> {
        self.unless_forgotten(key, clock)
            .map(|known| known.newest_us)
    }

    /// Takes a row of the key.
    pub fn take(&mut self, key: K, clock: &Clock, credible_us: i64) -> Known {
        let time_us = *clock.times_us.last().unwrap();
        let known = match (self.known.get(&key), self.unless_forgotten(&key, clock)) {
            (_, Some(known)) => Known {
                newest_us: known.newest_us.max(credible_us),
                last_us: known.last_us.max(time_us),
                ..known
            },
            (before, None) => Known {
                generation: before.map_or(0, |before| before.generation + 1),
                newest_us: credible_us,
                last_us: time_us,
            },
        };
        self.known.insert(key, known);
        known
    }
}
