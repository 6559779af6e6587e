//! What came before each event of a recording: links that let a gradient row be unrolled.

use sanderling_schemas::NO_SLOT;

use crate::memory::{elapsed, known, since};
use crate::recording::Recording;

/// No event, no label.
pub(crate) const NONE: u32 = u32::MAX;

/// Links and times over a whole recording, as the scorer would come to know them.
pub(crate) struct History {
    /// For each memory, the previous event of each event's slot.
    pub(crate) previous: Vec<Vec<u32>>,
    /// For each event, whether its own entity was seen and how long ago.
    pub(crate) own: Vec<[f32; 3]>,
    /// One for each endpoint, from memory 1 on.
    pub(crate) endpoints: Vec<EndpointHistory>,
    /// Labels that move carries: the first of each event, in fold order.
    pub(crate) labels: Vec<HistoryLabel>,
}

/// A label that moves carries.
#[derive(Clone, Copy)]
pub(crate) struct HistoryLabel {
    /// Events folded before it.
    pub(crate) at: u32,
    pub(crate) of: u32,
    pub(crate) value: f32,
    /// Age of the event then, to a network.
    pub(crate) age: f32,
}

/// The known labels of one endpoint's slots.
pub(crate) struct EndpointHistory {
    /// The newest label that was known at each event's slot before the event.
    pub(crate) newest: Vec<u32>,
    /// For each event, how many labels are known and since when.
    pub(crate) scalars: Vec<[f32; 3]>,
    /// The label known at the slot before each label; [`NONE`] too where the event has no slot.
    pub(crate) previous: Vec<u32>,
    /// Slot of each label.
    pub(crate) slot: Vec<u32>,
    /// Whether there was a previous one, and the time since.
    pub(crate) since: Vec<[f32; 3]>,
}

impl History {
    /// Of the first entity and, if the model has a graph, of the others: `memories` in all.
    pub(crate) fn new(recording: &Recording, memories: usize) -> Self {
        let n = recording.len();
        let mut seen = vec![false; n];
        let times = recording.times_us();
        let mut known_us = Vec::new();
        let mut labels = Vec::new();
        for label in recording.labels() {
            if !std::mem::replace(&mut seen[label.of as usize], true) {
                known_us.push(label.time_us);
                labels.push(HistoryLabel {
                    at: label.at,
                    of: label.of,
                    value: label.value,
                    age: elapsed(label.time_us - times[label.of as usize]),
                });
            }
        }
        let previous = (0..memories)
            .map(|m| {
                let mut newest = vec![NONE; recording.slot_count(m)];
                let slots = recording.slots(m).iter().enumerate();
                slots
                    .map(|(event, &slot)| match slot {
                        NO_SLOT => NONE,
                        slot => std::mem::replace(&mut newest[slot as usize], event as u32),
                    })
                    .collect()
            })
            .collect();
        let mut last: Vec<Option<i64>> = vec![None; recording.slot_count(0)];
        let own = recording.slots(0).iter().zip(times);
        let own = own
            .map(|(&slot, &time)| {
                if slot == NO_SLOT {
                    return since(None);
                }
                let last = &mut last[slot as usize];
                let row = since(last.map(|last| time - last));
                *last = Some(last.map_or(time, |last| last.max(time)));
                row
            })
            .collect();
        let endpoints = (1..memories)
            .map(|m| EndpointHistory::new(recording, m, &labels, &known_us))
            .collect();
        Self {
            previous,
            own,
            endpoints,
            labels,
        }
    }
}

impl EndpointHistory {
    fn new(recording: &Recording, m: usize, labels: &[HistoryLabel], known_us: &[i64]) -> Self {
        let (n, slots) = (recording.len(), recording.slots(m));
        let count = recording.slot_count(m);
        let mut state: Vec<(u32, u32, i64)> = vec![(NONE, 0, 0); count];
        let mut history = Self {
            newest: Vec::with_capacity(n),
            scalars: Vec::with_capacity(n),
            previous: Vec::with_capacity(labels.len()),
            slot: Vec::with_capacity(labels.len()),
            since: Vec::with_capacity(labels.len()),
        };
        let mut next = 0;
        for event in 0..=n {
            while next < labels.len() && labels[next].at as usize <= event {
                let (slot, time) = (slots[labels[next].of as usize], known_us[next]);
                history.slot.push(slot);
                if slot == NO_SLOT {
                    history.previous.push(NONE);
                    history.since.push(since(None));
                } else {
                    let (newest, known, last) = &mut state[slot as usize];
                    history
                        .since
                        .push(since((*known > 0).then(|| time - *last)));
                    *last = if *known > 0 { time.max(*last) } else { time };
                    *known += 1;
                    history
                        .previous
                        .push(std::mem::replace(newest, next as u32));
                }
                next += 1;
            }
            if event == n {
                break;
            }
            if slots[event] == NO_SLOT {
                history.newest.push(NONE);
                history.scalars.push([0.0; 3]);
                continue;
            }
            let (newest, labels, last) = state[slots[event] as usize];
            history.newest.push(newest);
            let [_, log, days] = since((labels > 0).then(|| recording.times_us()[event] - last));
            history.scalars.push([known(labels), log, days]);
        }
        history
    }
}

/// The newest `steps` links from `newest` back, oldest first; [`NONE`] in front where there are
/// fewer.
pub(crate) fn unroll(newest: u32, previous: &[u32], steps: &mut [u32]) {
    let mut at = newest;
    for step in steps.iter_mut().rev() {
        *step = at;
        if at != NONE {
            at = previous[at as usize];
        }
    }
}
