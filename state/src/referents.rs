//! Events that a label may still refer to.
//!
//! Each is kept by its id with its sequence, its event time and some bytes (the keys that a label
//! takes over), in pages in order of arrival. A label finds its event for `horizon` after the event's
//! time; whether it does is judged row by row by event time, never by what happens to be stored.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::numbers::Numbers;
use crate::snapshot::{Page, Restored, Snapshot};
use crate::{Persist, StateError};

const PAGE_EVENTS: usize = 256;

/// One row moves the newest time by this much at most, microseconds: an hour. So a single row with a
/// wrong clock cannot make the events of months unreachable.
const NEWEST_STEP_US: i64 = 3_600_000_000;

/// What became of a label.
#[derive(Debug, PartialEq, Eq)]
pub enum Settled<'a> {
    /// It refers to no event that is known, or to one beyond the horizon.
    Unmatched,
    /// The event has this label already.
    Repeated,
    /// It became known.
    Known {
        /// Sequence of the event.
        of: u64,
        /// It replaces another value.
        reversal: bool,
        /// Bytes that were kept with the event.
        keys: &'a [u8],
    },
}

/// Events by id, for the time in which they can be labelled.
#[derive(Debug, Clone)]
pub struct Referents {
    horizon_us: i64,
    lateness_us: i64,
    newest_us: Option<i64>,
    pages: VecDeque<Arc<EventPage>>,
    /// Number of the first event of the first page; events are numbered as they arrive.
    first: u64,
    /// The last 32 bits of each event's number, by its id.
    numbers: Numbers<()>,
}

#[derive(Debug, Clone, Default)]
struct EventPage {
    newest_us: i64,
    sequences: Vec<u64>,
    times_us: Vec<i64>,
    /// Where each event's id, and then its keys, end in `bytes`.
    ends: Vec<u32>,
    bytes: Vec<u8>,
    /// 1 where `labels` holds one.
    labelled: Vec<u8>,
    labels: Vec<i64>,
}

impl EventPage {
    fn span(&self, at: usize) -> &[u8] {
        let from = if at == 0 {
            0
        } else {
            self.ends[at - 1] as usize
        };
        &self.bytes[from..self.ends[at] as usize]
    }

    fn id(&self, event: usize) -> &[u8] {
        self.span(event * 2)
    }

    fn keys(&self, event: usize) -> &[u8] {
        self.span(event * 2 + 1)
    }
}

impl Page for EventPage {
    fn write(&self, out: &mut Vec<u8>) {
        self.sequences.write(out);
        self.times_us.write(out);
        self.ends.write(out);
        self.bytes.write(out);
        self.labelled.write(out);
        self.labels.write(out);
    }
}

impl EventPage {
    fn read(mut bytes: &[u8]) -> Result<Self, StateError> {
        let input = &mut bytes;
        let page = EventPage {
            newest_us: 0,
            sequences: Vec::read(input)?,
            times_us: Vec::read(input)?,
            ends: Vec::read(input)?,
            bytes: Vec::read(input)?,
            labelled: Vec::read(input)?,
            labels: Vec::read(input)?,
        };
        let events = page.sequences.len();
        let ends_ascend = page.ends.windows(2).all(|pair| pair[0] <= pair[1]);
        let fits = (1..=PAGE_EVENTS).contains(&events)
            && page.times_us.len() == events
            && page.ends.len() == events * 2
            && page.labelled.len() == events
            && page.labels.len() == events
            && ends_ascend
            && page.ends.last().map(|end| *end as usize) == Some(page.bytes.len());
        if !fits {
            return Err(StateError::Damaged(
                "events of a page do not fit together".into(),
            ));
        }
        let newest_us = page
            .times_us
            .iter()
            .copied()
            .max()
            .expect("a page has events");
        Ok(EventPage { newest_us, ..page })
    }
}

impl Referents {
    /// No events; a label matches up to `horizon_us` after its event. `lateness_us`: how far behind
    /// the newest row a label may come and still find an event at the horizon.
    pub fn new(horizon_us: i64, lateness_us: i64) -> Self {
        Referents {
            horizon_us,
            lateness_us,
            newest_us: None,
            pages: VecDeque::new(),
            first: 0,
            numbers: Numbers::default(),
        }
    }

    /// Number of events that are stored.
    pub fn len(&self) -> usize {
        match self.pages.back() {
            Some(last) => (self.pages.len() - 1) * PAGE_EVENTS + last.sequences.len(),
            None => 0,
        }
    }

    /// No event is stored.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Tells the time of a row that is accepted, whatever its stream. Call it for each row, before
    /// [`Referents::admit`] or [`Referents::settle`].
    pub fn observe(&mut self, time_us: i64) {
        let newest = match self.newest_us {
            None => time_us,
            Some(newest) => newest.max(time_us.min(newest.saturating_add(NEWEST_STEP_US))),
        };
        self.newest_us = Some(newest);
        let reach_us = self.reach_us();
        while self.pages.len() > 1 && self.pages[0].newest_us < reach_us {
            let page = self.pages.pop_front().expect("there are two pages");
            for event in 0..page.sequences.len() {
                let number = (self.first + event as u64) as u32;
                self.numbers.remove(page.id(event), number);
            }
            self.first += page.sequences.len() as u64;
        }
    }

    /// Event time before which no label reaches.
    fn reach_us(&self) -> i64 {
        let newest = self.newest_us.unwrap_or(i64::MIN);
        newest
            .saturating_sub(self.horizon_us)
            .saturating_sub(self.lateness_us)
    }

    /// Keeps an event. An id that stands already means this event from now on.
    pub fn admit(&mut self, id: &[u8], sequence: u64, time_us: i64, keys: &[u8]) {
        if self
            .pages
            .back()
            .is_none_or(|page| page.sequences.len() == PAGE_EVENTS)
        {
            self.pages.push_back(Arc::new(EventPage {
                newest_us: i64::MIN,
                ..Default::default()
            }));
        }
        let at = self.len();
        let page = Arc::make_mut(self.pages.back_mut().expect("a page was just made"));
        page.newest_us = page.newest_us.max(time_us);
        page.sequences.push(sequence);
        page.times_us.push(time_us);
        for part in [id, keys] {
            page.bytes.extend_from_slice(part);
            page.ends
                .push(u32::try_from(page.bytes.len()).expect("a page is under 4 GiB"));
        }
        page.labelled.push(0);
        page.labels.push(0);
        self.index(at);
    }

    /// Points the id of the event at `at`, counted from the first stored one, to it.
    fn index(&mut self, at: usize) {
        let (pages, first) = (&self.pages, self.first as u32);
        let number = first.wrapping_add(at as u32);
        let id_of = |number: u32| id_at(pages, number.wrapping_sub(first) as usize);
        *(self.numbers).find_or_insert(id_at(pages, at), number, id_of) = number;
    }

    /// Gives the event `reference` the label `value`, known at `time_us`.
    pub fn settle(&mut self, reference: &[u8], value: i64, time_us: i64) -> Settled<'_> {
        let reach_us = self.reach_us().max(time_us.saturating_sub(self.horizon_us));
        let (pages, first) = (&self.pages, self.first as u32);
        let id_of = |number: u32| id_at(pages, number.wrapping_sub(first) as usize);
        let Some(number) = self.numbers.find(reference, id_of) else {
            return Settled::Unmatched;
        };
        let at = number.wrapping_sub(first) as usize;
        let (page, event) = (at / PAGE_EVENTS, at % PAGE_EVENTS);
        if self.pages[page].times_us[event] < reach_us {
            return Settled::Unmatched;
        }
        let reversal = self.pages[page].labelled[event] == 1;
        if reversal && self.pages[page].labels[event] == value {
            return Settled::Repeated;
        }
        let page = Arc::make_mut(&mut self.pages[page]);
        page.labelled[event] = 1;
        page.labels[event] = value;
        Settled::Known {
            of: page.sequences[event],
            reversal,
            keys: page.keys(event),
        }
    }

    /// Adds the events to a snapshot, by reference, in the sections `name` and `name/newest`.
    pub fn snapshot(&self, name: &str, snapshot: &mut Snapshot) {
        snapshot.add(
            name,
            self.pages
                .iter()
                .map(|page| page.clone() as Arc<dyn Page>)
                .collect(),
        );
        let newest: Vec<i64> = self.newest_us.into_iter().collect();
        snapshot.add_value(&format!("{name}/newest"), newest);
    }

    /// Reads the events back.
    ///
    /// # Errors
    /// [`StateError::MissingSection`] or [`StateError::Damaged`].
    pub fn restore(&mut self, name: &str, restored: &Restored) -> Result<(), StateError> {
        let newest: Vec<i64> = restored.section(&format!("{name}/newest"))?.value()?;
        let section = restored.section(name)?;
        let mut fresh = Referents::new(self.horizon_us, self.lateness_us);
        fresh.newest_us = newest.first().copied();
        for (number, bytes) in section.pages().enumerate() {
            let page = EventPage::read(bytes)?;
            if page.sequences.len() != PAGE_EVENTS && number + 1 != section.len() {
                return Err(StateError::Damaged("a page of events is not full".into()));
            }
            let from = number * PAGE_EVENTS;
            let events = page.sequences.len();
            fresh.pages.push_back(Arc::new(page));
            for event in from..from + events {
                fresh.index(event);
            }
        }
        *self = fresh;
        Ok(())
    }
}

/// Id of the event at `at`, counted from the first one of the first page.
fn id_at(pages: &VecDeque<Arc<EventPage>>, at: usize) -> &[u8] {
    pages[at / PAGE_EVENTS].id(at % PAGE_EVENTS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000_000;

    #[test]
    fn labels_match_repeat_and_reverse() {
        let mut events = Referents::new(10 * HOUR, HOUR);
        events.observe(0);
        events.admit(b"a", 7, 0, b"card 1");
        assert_eq!(events.settle(b"b", 1, 0), Settled::Unmatched);
        let known = Settled::Known {
            of: 7,
            reversal: false,
            keys: b"card 1",
        };
        assert_eq!(events.settle(b"a", 1, HOUR), known);
        assert_eq!(events.settle(b"a", 1, HOUR), Settled::Repeated);
        let reversed = Settled::Known {
            of: 7,
            reversal: true,
            keys: b"card 1",
        };
        assert_eq!(events.settle(b"a", 0, HOUR), reversed);
        events.admit(b"a", 8, HOUR, b"card 2");
        let newer = Settled::Known {
            of: 8,
            reversal: false,
            keys: b"card 2",
        };
        assert_eq!(events.settle(b"a", 0, HOUR), newer);
        assert_eq!(events.settle(b"a", 1, 11 * HOUR + 1), Settled::Unmatched);
    }

    #[test]
    fn expired_events_go_and_the_rest_survives_a_snapshot() {
        let mut events = Referents::new(10 * HOUR, HOUR);
        for n in 0..4000i64 {
            events.observe(n * HOUR / 50);
            events.admit(
                format!("event {n}").as_bytes(),
                n as u64,
                n * HOUR / 50,
                &[],
            );
        }
        assert!(
            events.len() < 1100,
            "{} events for 11 hours of 50",
            events.len()
        );
        let mut snapshot = Snapshot::default();
        events.snapshot("events", &mut snapshot);
        let mut file = Vec::new();
        snapshot.write_arrow(&mut file).unwrap();
        let restored = Restored::read_arrow(file.as_slice()).unwrap();
        let mut back = Referents::new(10 * HOUR, HOUR);
        back.restore("events", &restored).unwrap();
        assert_eq!(back.len(), events.len());
        let now = 3999 * HOUR / 50;
        for n in (0..4000i64).step_by(7) {
            let id = format!("event {n}");
            let (one, other) = (
                back.settle(id.as_bytes(), 1, now),
                events.settle(id.as_bytes(), 1, now),
            );
            assert_eq!(one, other);
            assert_eq!(one == Settled::Unmatched, n < 3999 - 500);
        }
    }

    #[test]
    fn one_wrong_clock_does_not_forget_everything() {
        let mut events = Referents::new(10 * HOUR, HOUR);
        events.observe(0);
        events.admit(b"a", 0, 0, &[]);
        events.observe(1_000_000 * HOUR);
        assert_ne!(events.settle(b"a", 1, HOUR), Settled::Unmatched);
    }
}
