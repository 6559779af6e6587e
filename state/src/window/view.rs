//! What windows keep at one moment, for whoever looks: by reference, while the fold goes on.
//!
//! A view shows what some frame can still reach. What only waits for its memory to be given back is
//! not there, so that a view says the same however the rows were cut into batches.

use std::sync::Arc;

use arrow::array::{ArrayRef, TimestampMicrosecondArray};
use arrow::datatypes::DataType;
use sanderling_schemas::NO_SLOT;

use super::output::Output;
use super::plan::{Slot, Storage};
use super::ring::{KeyTimes, Ring};
use super::shard::reach;
use super::spec::WindowSpec;
use super::state::{WindowState, ring_of};
use crate::{KnownKeys, Paged, StateError};

/// The rings of one moment.
#[derive(Debug, Clone)]
pub struct WindowView {
    spec: Arc<WindowSpec>,
    rings: Paged<Ring>,
    texts: Vec<KnownKeys>,
    clock_us: i64,
}

/// The rows of one key, for whoever computes of them what windows have.
#[derive(Debug, Clone)]
pub struct KeyRows {
    /// How far the key's rows have come.
    pub times: KeyTimes,
    /// Event times of the rows that a frame can still reach, in the order of (event time, arrival).
    pub times_us: Vec<i64>,
    /// The columns of the spec; of one that is only counted, whether it is there.
    pub columns: Vec<ArrayRef>,
    /// Which columns are only counted.
    pub counted_only: Vec<bool>,
}

impl WindowState {
    /// The rows of a key; `None` if there are more than `rows_max`, or if it has been forgotten.
    ///
    /// # Errors
    /// [`StateError::Unsupported`] for a type that no ring keeps.
    pub fn rows_of(&self, slot: u32, rows_max: usize) -> Result<Option<KeyRows>, StateError> {
        let at = ring_of(slot);
        let known = (at < self.rings.len()).then(|| self.rings.get(at));
        let Some(ring) = known.filter(|ring| !ring.is_new()) else {
            return Ok(None);
        };
        let spec = &self.spec;
        if (ring.end(spec.stride) - reach(ring, spec)) as usize > rows_max {
            return Ok(None);
        }
        let (_, times_us, columns) = collected(spec, std::iter::once((0, ring)));
        let columns = (columns.into_iter().zip(&self.texts))
            .map(|(column, texts)| column.finish(texts))
            .collect::<Result<_, _>>()?;
        Ok(Some(KeyRows {
            times: ring.times(),
            times_us,
            columns,
            counted_only: counted_only(spec),
        }))
    }
}

/// What is known of one key without its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeySummary {
    /// How far its rows have come.
    pub times: KeyTimes,
    /// Rows that a frame can still reach.
    pub rows: usize,
    /// Bytes that it holds, those of rows that wait to be dropped among them.
    pub bytes: usize,
}

impl WindowView {
    pub(super) fn new(
        spec: Arc<WindowSpec>,
        rings: Paged<Ring>,
        texts: Vec<KnownKeys>,
        clock_us: i64,
    ) -> Self {
        Self {
            spec,
            rings,
            texts,
            clock_us,
        }
    }

    /// What is known of a key; `None` for one that is as new. [`NO_SLOT`] is the key NULL.
    pub fn summary(&self, slot: u32) -> Option<KeySummary> {
        let ring = self.ring(slot)?;
        Some(KeySummary {
            times: ring.times(),
            rows: (ring.end(self.spec.stride) - reach(ring, &self.spec)) as usize,
            bytes: size_of::<Ring>() + ring.bytes(),
        })
    }

    /// The type of each column as [`WindowView::rows`] gives it: of one of which no more is kept than
    /// whether it has a value, that.
    pub fn types(&self) -> Vec<DataType> {
        types(&self.spec)
    }

    /// Of which columns no more is kept than whether they have a value.
    pub fn counted_only(&self) -> Vec<bool> {
        counted_only(&self.spec)
    }

    /// The rows of some keys, each in the order of (event time, arrival): for each row the index of its
    /// key in `slots`; then the event times, and the columns of the spec.
    ///
    /// # Errors
    /// [`StateError::Unsupported`] for a type that no ring keeps.
    pub fn rows(&self, slots: &[u32]) -> Result<(Vec<u32>, Vec<ArrayRef>), StateError> {
        let rings = (0u32..)
            .zip(slots)
            .filter_map(|(owner, slot)| Some((owner, self.ring(*slot)?)));
        let (owners, times_us, columns) = collected(&self.spec, rings);
        let mut arrays: Vec<ArrayRef> = vec![Arc::new(TimestampMicrosecondArray::from(times_us))];
        for (column, texts) in columns.into_iter().zip(&self.texts) {
            // A text is never forgotten.
            arrays.push(column.finish_with(|text| texts.key(text).unwrap_or_default())?);
        }
        Ok((owners, arrays))
    }

    /// The ring of a key that is not as new.
    fn ring(&self, slot: u32) -> Option<&Ring> {
        let at = ring_of(slot);
        let ring = (at < self.rings.len()).then(|| self.rings.get(at))?;
        let is_known =
            !ring.is_new() && !self.spec.is_forgotten(ring.times().last_us, self.clock_us);
        is_known.then_some(ring)
    }

    /// Whether rows without a key were taken.
    pub fn has_null_key(&self) -> bool {
        self.ring(NO_SLOT).is_some()
    }
}

fn types(spec: &WindowSpec) -> Vec<DataType> {
    (spec.columns.iter().zip(&spec.slots))
        .map(|(column, slot)| match slot.storage {
            Storage::Presence => DataType::Boolean,
            _ => column.data_type.clone(),
        })
        .collect()
}

fn counted_only(spec: &WindowSpec) -> Vec<bool> {
    let only = |slot: &Slot| slot.storage == Storage::Presence;
    spec.slots.iter().map(only).collect()
}

/// The rows of rings that a frame can still reach: whose they are, their event times, and their columns.
fn collected<'a>(
    spec: &WindowSpec,
    rings: impl Iterator<Item = (u32, &'a Ring)>,
) -> (Vec<u32>, Vec<i64>, Vec<Output>) {
    let (mut owners, mut times_us) = (Vec::new(), Vec::new());
    let mut columns: Vec<Output> = types(spec).iter().map(|t| Output::new(t, 0)).collect();
    for (owner, ring) in rings {
        for number in reach(ring, spec)..ring.end(spec.stride) {
            let row = ring.row(number, spec.stride);
            owners.push(owner);
            times_us.push(row[0] as i64);
            for (column, slot) in columns.iter_mut().zip(&spec.slots) {
                match slot.storage {
                    Storage::Presence => column.push_presence(row[1] & slot.bit != 0),
                    _ => column.push_stored(row, *slot),
                }
            }
        }
    }
    (owners, times_us, columns)
}
