//! A decision on its way to whoever reads it.

use std::time::Duration;

use sanderling_schemas::Flag;

use super::labels::Part;
use crate::clock::now_us;
use crate::line::Decided;

/// A decision that nobody can read yet. Times are microseconds of Unix time.
#[derive(Debug, Clone, Copy)]
pub struct Awaited {
    appended_us: i64,
    /// When its batch was put on the line.
    entered_us: i64,
    /// When it left the line.
    decided_us: i64,
    backlog: bool,
}

impl Awaited {
    /// Those of a batch that leaves the line now; none if its broker gave no times.
    pub fn of(decided: &Decided) -> impl Iterator<Item = Self> {
        let (entered_us, decided_us) = (decided.entered_us, now_us());
        let decisions = decided.broker_time_us.iter().zip(&decided.decisions);
        decisions.map(move |(appended_us, decision)| Self {
            appended_us: *appended_us,
            entered_us,
            decided_us,
            backlog: decision.flags.contains(&Flag::Backlog),
        })
    }

    /// Whether it was past its deadline when it arrived.
    pub(super) fn is_backlog(&self) -> bool {
        self.backlog
    }

    /// From the broker's append until now, when it can be read.
    pub(super) fn took(&self, now_us: i64) -> Duration {
        Duration::from_micros((now_us - self.appended_us).max(0) as u64)
    }

    /// The longest part of that; the earlier one of equals.
    pub(super) fn longest(&self, now_us: i64) -> Part {
        let wait = (Part::Wait, self.entered_us - self.appended_us);
        let rest = [
            (Part::Line, self.decided_us - self.entered_us),
            (Part::Commit, now_us - self.decided_us),
        ];
        let longer = |longest: (Part, i64), part: (Part, i64)| match part.1 > longest.1 {
            true => part,
            false => longest,
        };
        rest.into_iter().fold(wait, longer).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_part_is_of_the_decision_s_own_way() {
        let awaited = |appended_us| Awaited {
            appended_us,
            entered_us: 1_000,
            decided_us: 1_300,
            backlog: false,
        };
        // Two payments of one batch: only the older one waited long for the line.
        assert_eq!(awaited(200).longest(1_700), Part::Wait);
        assert_eq!(awaited(900).longest(1_700), Part::Commit);
        assert_eq!(awaited(900).longest(1_400), Part::Line);
        assert_eq!(awaited(700).longest(1_600), Part::Wait);
        assert_eq!(awaited(200).took(1_700), Duration::from_micros(1_500));
    }
}
