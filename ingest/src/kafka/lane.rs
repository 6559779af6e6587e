//! Partitions whose records become one order: merged by the broker's time while that matters.
//!
//! A catch-up reads in minutes what came in days. If every partition were read as fast as it
//! goes, a terminal would see next week's payments of one card before today's of another. So while
//! a lane is *behind*, the oldest record at hand goes first, and one that may still come from a
//! partition with nothing at hand is waited for: until that partition is known to be at its end, or
//! has brought nothing for a while ([`PATIENCE`]). Those ahead are not read meanwhile. Once every partition
//! is at its end the lane is *live*: what is at hand goes at once, whatever else may come.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rdkafka::consumer::ConsumerContext;
use rdkafka::error::KafkaError;
use sanderling_schemas::{Offset, Partition};

use super::tap::{Drawn, Record, Tap};

/// How long a partition that brings nothing is waited for while behind.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long the first word of a partition is waited for while behind.
const FIRST_PATIENCE: Duration = Duration::from_secs(5);
/// A partition whose last record came so recently is at its end for all that matters here, even
/// if it has more: records of open transactions, or a flow that never pauses.
const RECENT_US: i64 = 1_000_000;
/// A live lane whose records come this late is behind again.
const LATE_US: i64 = 5_000_000;

/// A partition of a lane.
pub(super) struct Slot<C: ConsumerContext + 'static> {
    pub topic: usize,
    pub partition: Partition,
    tap: Tap<C>,
    held: bool,
    /// Where it begins: the client may bring what is before, if it was moved while it still asked the
    /// group where to begin.
    from: Option<Offset>,
    head: Option<Record>,
    /// The next offset after what the lane gave.
    given: Option<Offset>,
    /// The next offset after what the queue gave.
    drawn: Option<Offset>,
    drawn_time_us: i64,
    /// The end was reached, and nothing has come since.
    at_end: bool,
    dry_since: Option<Instant>,
}

impl<C: ConsumerContext + 'static> Slot<C> {
    pub(super) fn new(topic: usize, partition: Partition, tap: Tap<C>, held: bool) -> Self {
        Self {
            topic,
            partition,
            tap,
            held,
            from: None,
            head: None,
            given: None,
            drawn: None,
            drawn_time_us: i64::MIN,
            at_end: false,
            dry_since: None,
        }
    }

    /// The next offset after what was given.
    pub(super) fn given(&self) -> Option<Offset> {
        self.given
    }

    /// Records that the partition has beyond those that were given, as far as is known.
    pub(super) fn lag(&self) -> Option<i64> {
        let known = match (self.given, &self.head) {
            (Some(given), _) => given,
            (None, Some(head)) => head.offset,
            (None, None) if self.at_end => return Some(0),
            (None, None) => return None,
        };
        // Beyond the last record there may be control records, which nobody is ever given.
        if self.at_end && self.head.is_none() {
            return Some(0);
        }
        self.tap.end().map(|end| (end.0 - known.0).max(0))
    }

    /// Takes the next record to hand; whether there is one.
    fn draw(&mut self) -> Result<bool, KafkaError> {
        loop {
            match self.tap.draw()? {
                Drawn::Record(record) if self.from.is_some_and(|from| record.offset < from) => {}
                Drawn::Record(record) => {
                    self.drawn = Some(Offset(record.offset.0 + 1));
                    self.drawn_time_us = record.broker_time_us.unwrap_or(i64::MIN);
                    self.at_end = false;
                    self.dry_since = None;
                    self.head = Some(record);
                    return Ok(true);
                }
                Drawn::End => self.at_end = true,
                Drawn::Nothing => return Ok(false),
            }
        }
    }

    /// Whether nothing at hand means that there is nothing to wait for.
    fn is_done(&mut self, now: Instant, now_us: i64) -> bool {
        if self.at_end || self.drawn_time_us >= now_us - RECENT_US {
            return true;
        }
        let patience = match (self.drawn, self.tap.end()) {
            (Some(drawn), Some(end)) if drawn >= end => return true,
            (_, Some(_)) => PATIENCE,
            (_, None) => FIRST_PATIENCE,
        };
        let since = *self.dry_since.get_or_insert(now);
        now.duration_since(since) >= patience
    }
}

/// Partitions that become one order.
pub(super) struct Lane<C: ConsumerContext + 'static> {
    /// The number of its partitions, or `None` if all numbers are in this lane.
    pub number: Option<Partition>,
    pub slots: Vec<Slot<C>>,
    /// Time and slot of every record at hand.
    heads: BinaryHeap<Reverse<(i64, usize)>>,
    behind: bool,
}

impl<C: ConsumerContext + 'static> Lane<C> {
    pub(super) fn new(number: Option<Partition>) -> Self {
        Self {
            number,
            slots: Vec::new(),
            heads: BinaryHeap::new(),
            behind: true,
        }
    }

    pub(super) fn is_behind(&self) -> bool {
        self.behind && self.slots.iter().any(|slot| !slot.held)
    }

    pub(super) fn add(&mut self, slot: Slot<C>) {
        self.slots.push(slot);
        self.slots.sort_by_key(|slot| (slot.topic, slot.partition));
        self.reorder();
    }

    /// Forgets partitions and what was at hand of them.
    pub(super) fn keep(&mut self, kept: impl Fn(&Slot<C>) -> bool) {
        self.slots.retain(|slot| kept(slot));
        self.reorder();
    }

    /// Reads a partition that was held; nothing before `from`, if that is given.
    pub(super) fn begin(&mut self, slot: usize, from: Option<Offset>) {
        self.slots[slot].held = false;
        self.slots[slot].from = from;
        self.slots[slot].tap.suspect();
        self.behind = true;
    }

    /// Looks at every queue again, whether anything was heard of it or not.
    pub(super) fn suspect(&mut self) {
        self.slots.iter_mut().for_each(|slot| slot.tap.suspect());
    }

    fn reorder(&mut self) {
        let heads = self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let head = slot.head.as_ref()?;
            Some(Reverse((time_of(head), index)))
        });
        self.heads = heads.collect();
        self.behind = true;
    }

    /// Moves records to `taken` in their order, as many as may go now, up to `rows_max` of them
    /// or `bytes_max`.
    pub(super) fn take(
        &mut self,
        rows_max: usize,
        bytes_max: usize,
        taken: &mut Vec<Record>,
    ) -> Result<(), KafkaError> {
        let (now, now_us) = (Instant::now(), wall_us());
        let mut waited_for = false;
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            if slot.held || slot.head.is_some() {
                continue;
            }
            if slot.draw()? {
                self.push(index);
            } else if self.behind && !slot.is_done(now, now_us) {
                waited_for = true;
            }
        }
        let Some(Reverse((oldest_us, _))) = self.heads.peek() else {
            if !waited_for && self.slots.iter().any(|slot| !slot.held) {
                self.behind = false;
            }
            return Ok(());
        };
        if !self.behind && *oldest_us != i64::MIN && *oldest_us < now_us - LATE_US {
            self.behind = true;
            return self.take(rows_max, bytes_max, taken);
        }
        if waited_for {
            return Ok(());
        }
        let mut bytes = 0;
        while taken.len() < rows_max && bytes < bytes_max {
            let Some(Reverse((_, index))) = self.heads.pop() else {
                break;
            };
            let slot = &mut self.slots[index];
            let Some(record) = slot.head.take() else {
                continue;
            };
            slot.given = Some(Offset(record.offset.0 + 1));
            bytes += record.payload.as_ref().map_or(0, |payload| payload.len());
            taken.push(record);
            if slot.draw()? {
                self.push(index);
            } else if self.behind && !self.slots[index].is_done(now, now_us) {
                break;
            }
        }
        Ok(())
    }

    fn push(&mut self, index: usize) {
        if let Some(head) = &self.slots[index].head {
            self.heads.push(Reverse((time_of(head), index)));
        }
    }
}

/// A record without a time goes first: nothing is known to stand before it.
fn time_of(record: &Record) -> i64 {
    record.broker_time_us.unwrap_or(i64::MIN)
}

fn wall_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_micros() as i64)
}
