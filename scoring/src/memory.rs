//! What is kept of an entity, and of an event until its label comes.

use std::collections::VecDeque;

use sanderling_state::{Paged, Persist, StateError};

use crate::kernels::activation::fifths_of_logs;

/// How long `us` microseconds are, to a network: 0 now, 1 after two and a half minutes, 3 after a
/// month. A time before now counts as now.
pub(crate) fn elapsed(us: i64) -> f32 {
    let mut value = [seconds(us)];
    fifths_of_logs(&mut value);
    value[0]
}

/// [`elapsed`] from each of `times_us` to `now_us`.
pub(crate) fn elapsed_since(now_us: i64, times_us: &[i64], out: &mut [f32]) {
    for (out, &time_us) in out.iter_mut().zip(times_us) {
        *out = seconds(now_us.saturating_sub(time_us));
    }
    fifths_of_logs(out);
}

fn seconds(us: i64) -> f32 {
    (us.max(0) as f64 * 1e-6) as f32
}

/// Whether there was one before, and how long ago that is: by [`elapsed`] and in tens of days, at
/// most three.
pub(crate) fn since(us: Option<i64>) -> [f32; 3] {
    const TEN_DAYS_US: f64 = 864e9;
    match us {
        None => [0.0; 3],
        Some(us) => {
            let days = (us.max(0) as f64 / TEN_DAYS_US).min(3.0);
            [1.0, elapsed(us), days as f32]
        }
    }
}

/// Puts the first stage's log-odds on the scale of the other inputs.
pub(crate) const FIRST_STAGE_SCALE: f32 = 1.0 / 3.0;

/// How many known labels, to a network.
pub(crate) fn known(labels: u32) -> f32 {
    (labels as f32).ln_1p() / 3.0
}

/// One entity's memory. Empty vectors until it is first written to.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Memory {
    /// Event time of the first entity's newest event, or when an endpoint's newest label became
    /// known; microseconds. Nothing while `steps` is 0.
    pub(crate) last_us: i64,
    /// Steps that the carry has taken.
    pub(crate) steps: u32,
    /// The cell's carry.
    pub(crate) carry: Vec<f32>,
    /// Where the next event goes in the ring.
    pub(crate) next: u32,
    /// Event times of the remembered events.
    pub(crate) times: Vec<i64>,
    /// Their keys and values, in the order of `times`.
    pub(crate) ring: Vec<f32>,
}

impl Persist for Memory {
    /// Each is some kilobytes, and the first event of any after a snapshot copies the page.
    const PAGE_VALUES: usize = 4;

    fn write(&self, out: &mut Vec<u8>) {
        self.last_us.write(out);
        self.steps.write(out);
        self.carry.write(out);
        self.next.write(out);
        self.times.write(out);
        self.ring.write(out);
    }

    fn read(input: &mut &[u8]) -> Result<Self, StateError> {
        Ok(Self {
            last_us: i64::read(input)?,
            steps: u32::read(input)?,
            carry: Vec::read(input)?,
            next: u32::read(input)?,
            times: Vec::read(input)?,
            ring: Vec::read(input)?,
        })
    }
}

impl Memory {
    /// Remembers an event: its time, its key and value. The oldest of `events` gives way.
    pub(crate) fn push(&mut self, time_us: i64, entry: &[f32], events: usize) {
        if self.times.len() < events {
            self.times.push(time_us);
            self.ring.extend_from_slice(entry);
        } else {
            let at = self.next as usize;
            self.times[at] = time_us;
            self.ring[at * entry.len()..][..entry.len()].copy_from_slice(entry);
        }
        self.next = (self.next + 1) % events as u32;
    }

    /// Whether the sizes are those of a model, so that a restored memory may be read.
    pub(crate) fn fits(&self, carry: usize, events: usize, entry: usize) -> bool {
        let n = self.times.len();
        [0, carry].contains(&self.carry.len())
            && n <= events
            && self.ring.len() == n * entry
            && if n < events {
                self.next as usize == n
            } else {
                self.next as usize <= events.saturating_sub(1)
            }
    }
}

/// An event whose label is not known yet.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Pending {
    /// Its sequence + 1; 0 where the place is free.
    place: u64,
    pub(crate) time_us: i64,
    /// First stage's output, as it was when the event was scored.
    pub(crate) first_stage: f32,
    /// Slot of each endpoint.
    pub(crate) slots: Vec<u32>,
    pub(crate) token: Vec<f32>,
}

impl Pending {
    /// Whether no event is here.
    pub(crate) fn is_free(&self) -> bool {
        self.place == 0
    }

    /// Whether the sizes are those of a model.
    pub(crate) fn fits(&self, endpoints: usize, token: usize) -> bool {
        self.slots.len() == endpoints && self.token.len() == token
    }
}

impl Persist for Pending {
    fn write(&self, out: &mut Vec<u8>) {
        self.place.write(out);
        self.time_us.write(out);
        self.first_stage.write(out);
        self.slots.write(out);
        self.token.write(out);
    }

    fn read(input: &mut &[u8]) -> Result<Self, StateError> {
        Ok(Self {
            place: u64::read(input)?,
            time_us: i64::read(input)?,
            first_stage: f32::read(input)?,
            slots: Vec::read(input)?,
            token: Vec::read(input)?,
        })
    }
}

/// Events by sequence until their label comes or the horizon passes.
///
/// An event leaves when it stands at the front of the order of arrival and its event time is more
/// than the horizon behind the newest seen. What is gone is a function of the rows alone.
#[derive(Debug, Default)]
pub(crate) struct PendingEvents {
    events: Paged<Pending>,
    /// Sequences ascending, and where each event is; those whose label came may linger.
    queue: VecDeque<(u64, u32)>,
    free: Vec<u32>,
    newest_us: i64,
}

impl PendingEvents {
    /// Keeps an event; sequences ascend.
    pub(crate) fn insert(
        &mut self,
        sequence: u64,
        time_us: i64,
        first_stage: f32,
        slots: impl Iterator<Item = u32>,
        token: &[f32],
    ) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.grow_to(self.events.len() + 1);
            self.events.len() as u32 - 1
        });
        let event = self.events.get_mut(place as usize);
        event.place = sequence + 1;
        event.time_us = time_us;
        event.first_stage = first_stage;
        event.slots.clear();
        event.slots.extend(slots);
        event.token.clear();
        event.token.extend_from_slice(token);
        self.queue.push_back((sequence, place));
    }

    /// Gives an event to `read` and forgets it; `None` where there is no such event.
    pub(crate) fn take<T>(&mut self, sequence: u64, read: impl FnOnce(&Pending) -> T) -> Option<T> {
        let at = self
            .queue
            .binary_search_by_key(&sequence, |&(sequence, _)| sequence)
            .ok()?;
        let place = self.queue[at].1;
        let event = self.events.get(place as usize);
        if event.place != sequence + 1 {
            return None;
        }
        let taken = read(event);
        self.events.get_mut(place as usize).place = 0;
        self.free.push(place);
        Some(taken)
    }

    /// Notes that `time_us` was reached and lets go of what is beyond the horizon.
    pub(crate) fn advance(&mut self, time_us: i64, horizon_us: i64) {
        self.newest_us = self.newest_us.max(time_us);
        while let Some(&(sequence, place)) = self.queue.front() {
            let event = self.events.get(place as usize);
            if event.place == sequence + 1 {
                if self.newest_us - event.time_us <= horizon_us {
                    break;
                }
                self.events.get_mut(place as usize).place = 0;
                self.free.push(place);
            }
            self.queue.pop_front();
        }
    }

    pub(crate) fn newest_us(&self) -> i64 {
        self.newest_us
    }

    pub(crate) fn events(&self) -> &Paged<Pending> {
        &self.events
    }

    /// The store that held `events` when `newest_us` had been reached.
    pub(crate) fn restore(events: Paged<Pending>, newest_us: i64) -> Self {
        let mut queue: Vec<(u64, u32)> = Vec::new();
        let mut free = Vec::new();
        for (place, event) in events.iter().enumerate() {
            match event.place {
                0 => free.push(place as u32),
                place_of => queue.push((place_of - 1, place as u32)),
            }
        }
        queue.sort_unstable();
        Self {
            events,
            queue: queue.into(),
            free,
            newest_us,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_keeps_the_newest() {
        let mut memory = Memory::default();
        for i in 0..5 {
            memory.push(i, &[i as f32, -(i as f32)], 3);
            assert!(memory.fits(4, 3, 2));
        }
        assert_eq!(memory.times, [3, 4, 2], "the oldest gives way in its place");
        assert_eq!(memory.ring, [3.0, -3.0, 4.0, -4.0, 2.0, -2.0]);
        let mut bytes = Vec::new();
        memory.write(&mut bytes);
        assert_eq!(Memory::read(&mut bytes.as_slice()).unwrap(), memory);
    }

    #[test]
    fn events_wait_for_their_label_or_the_horizon() {
        let mut pending = PendingEvents::default();
        for sequence in 0..6u64 {
            let time = sequence as i64 * 10;
            pending.advance(time, 25);
            pending.insert(sequence, time, sequence as f32, [7].into_iter(), &[1.0]);
        }
        assert_eq!(pending.take(0, |e| e.time_us), None, "beyond the horizon");
        assert_eq!(
            pending.take(2, |e| (e.first_stage, e.slots[0])),
            None,
            "30 us ago"
        );
        assert_eq!(
            pending.take(4, |e| (e.first_stage, e.slots[0])),
            Some((4.0, 7))
        );
        assert_eq!(pending.take(4, |e| e.time_us), None, "its label came");
        let mut again = PendingEvents::restore(pending.events.clone(), pending.newest_us);
        assert_eq!(again.take(5, |e| e.time_us), Some(50));
        assert_eq!(again.take(4, |e| e.time_us), None);
        pending.insert(9, 60, 0.0, [1].into_iter(), &[2.0]);
        assert_eq!(pending.events.len(), 3, "places are used again");
    }
}
