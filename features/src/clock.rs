//! The stream's own time, which no single row can move far.
//!
//! The clock is the latest time that three rows running were all at or after. It trails the stream by two
//! rows, and never goes back. A row that is more than a day ahead of it is not credible: it gets its features
//! as of its own time and enters its windows there, but the newest time of its key, from which lateness is
//! judged and old rows are let go, moves to the clock only. So a wrong date does not cost a card its history.

use sanderling_state::{Restored, Snapshot, StateError};

/// How far ahead of the clock a row is believed, microseconds: a day.
const CREDIBLE_US: i64 = 86_400_000_000;

/// The clock of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Clock {
    /// Event times of the last two rows, the newer one last; `i64::MIN` where there was none.
    last_us: [i64; 2],
    now_us: i64,
    /// The furthest that a row has moved its key.
    newest_us: i64,
}

impl Default for Clock {
    fn default() -> Self {
        Clock {
            last_us: [i64::MIN; 2],
            now_us: i64::MIN,
            newest_us: i64::MIN,
        }
    }
}

impl Clock {
    /// Takes a row; returns the clock and how far the row moves its key's newest time, microseconds.
    pub(crate) fn observe(&mut self, time_us: i64) -> (i64, i64) {
        let [before, last] = self.last_us;
        self.now_us = self.now_us.max(time_us.min(last).min(before));
        self.last_us = [last, time_us];
        let credible =
            self.now_us == i64::MIN || time_us <= self.now_us.saturating_add(CREDIBLE_US);
        let credible_us = if credible { time_us } else { self.now_us };
        self.newest_us = self.newest_us.max(credible_us);
        (self.now_us, credible_us)
    }

    /// The clock as it is, microseconds; `i64::MIN` before the third row.
    pub(crate) fn now_us(&self) -> i64 {
        self.now_us
    }

    /// No key's newest time is after this.
    pub(crate) fn newest_us(&self) -> i64 {
        self.newest_us
    }

    pub(crate) fn snapshot(&self, name: &str, snapshot: &mut Snapshot) {
        let [before, last] = self.last_us;
        snapshot.add_value(name, vec![before, last, self.now_us, self.newest_us]);
    }

    pub(crate) fn restore(name: &str, restored: &Restored) -> Result<Self, StateError> {
        let words: Vec<i64> = restored.section(name)?.value()?;
        let [before, last, now_us, newest_us] = words[..] else {
            return Err(StateError::Damaged("the clock".into()));
        };
        Ok(Clock {
            last_us: [before, last],
            now_us,
            newest_us,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000;

    #[test]
    fn one_wrong_date_moves_nothing() {
        let mut clock = Clock::default();
        for hour in 0..10 {
            assert_eq!(clock.observe(hour * HOUR).1, hour * HOUR);
        }
        let wrong = 1_000_000 * HOUR;
        assert_eq!(clock.observe(wrong), (8 * HOUR, 8 * HOUR));
        assert_eq!(clock.observe(wrong), (9 * HOUR, 9 * HOUR));
        assert_eq!(clock.observe(10 * HOUR), (10 * HOUR, 10 * HOUR));
    }

    #[test]
    fn a_stream_that_slept_is_believed_at_its_third_row() {
        let mut clock = Clock::default();
        for hour in [0, 1, 2] {
            clock.observe(hour * HOUR);
        }
        let times = [500, 501, 502].map(|hour| clock.observe(hour * HOUR).1 / HOUR);
        assert_eq!(times, [1, 2, 502]);
    }
}
