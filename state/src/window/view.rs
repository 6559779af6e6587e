//! What windows keep at one moment, for whoever looks: by reference, while the fold goes on.
//!
//! A view shows what some frame can still reach. What only waits for its memory to be given back is
//! not there, so that a view says the same however the rows were cut into batches.

use std::sync::Arc;

use arrow::array::{ArrayRef, TimestampMicrosecondArray};
use arrow::datatypes::DataType;
use sanderling_schemas::NO_SLOT;

use super::aggregate::Output;
use super::ring::{KeyTimes, Ring};
use super::spec::{Slot, Storage, WindowSpec};
use super::state::{reach, ring_of};
use crate::{KnownKeys, Paged, StateError};

/// The rings of one moment.
#[derive(Debug, Clone)]
pub struct WindowView {
    spec: Arc<WindowSpec>,
    rings: Paged<Ring>,
    texts: Vec<KnownKeys>,
    clock_us: i64,
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
            times: ring.times,
            rows: (ring.end(self.spec.stride) - reach(ring, &self.spec)) as usize,
            bytes: size_of::<Ring>() + ring.bytes(),
        })
    }

    /// The type of each column as [`WindowView::rows`] gives it: of one of which no more is kept than
    /// whether it has a value, that.
    pub fn types(&self) -> Vec<DataType> {
        (self.spec.columns.iter().zip(&self.spec.slots))
            .map(|(column, slot)| match slot.storage {
                Storage::Presence => DataType::Boolean,
                _ => column.data_type.clone(),
            })
            .collect()
    }

    /// Of which columns no more is kept than whether they have a value.
    pub fn counted_only(&self) -> Vec<bool> {
        let only = |slot: &Slot| slot.storage == Storage::Presence;
        self.spec.slots.iter().map(only).collect()
    }

    /// The rows of some keys, each in the order of (event time, arrival): for each row the index of its
    /// key in `slots`; then the event times, and the columns of the spec.
    ///
    /// # Errors
    /// [`StateError::Unsupported`] for a type that no ring keeps.
    pub fn rows(&self, slots: &[u32]) -> Result<(Vec<u32>, Vec<ArrayRef>), StateError> {
        let stride = self.spec.stride;
        let types = self.types();
        let mut owners = Vec::new();
        let mut times_us = Vec::new();
        let mut columns: Vec<Output> = types.iter().map(|t| Output::new(t, 0)).collect();
        for (owner, slot) in (0u32..).zip(slots) {
            let Some(ring) = self.ring(*slot) else {
                continue;
            };
            for number in reach(ring, &self.spec)..ring.end(stride) {
                let row = ring.row(number, stride);
                owners.push(owner);
                times_us.push(row[0] as i64);
                for (column, slot) in columns.iter_mut().zip(&self.spec.slots) {
                    match slot.storage {
                        Storage::Presence => column.push_presence(has_value(row, *slot)),
                        _ => column.push_stored(row, *slot),
                    }
                }
            }
        }
        let mut arrays: Vec<ArrayRef> = vec![Arc::new(TimestampMicrosecondArray::from(times_us))];
        for (column, texts) in columns.into_iter().zip(&self.texts) {
            arrays.push(column.finish_with(|text| texts.key(text))?);
        }
        Ok((owners, arrays))
    }

    /// The ring of a key that is not as new.
    fn ring(&self, slot: u32) -> Option<&Ring> {
        let at = ring_of(slot);
        let ring = (at < self.rings.len()).then(|| self.rings.get(at))?;
        let is_known =
            ring.times != KeyTimes::NEVER && !self.spec.is_forgotten(ring.times, self.clock_us);
        is_known.then_some(ring)
    }

    /// Whether rows without a key were taken.
    pub fn has_null_key(&self) -> bool {
        self.ring(NO_SLOT).is_some()
    }
}

fn has_value(row: &[u64], slot: Slot) -> bool {
    row[1] & slot.bit != 0
}
