//! The rings of all keys, kept in a snapshot and read back.

use super::plan::{Slot, Storage};
use super::ring::Ring;
use super::state::WindowState;
use crate::snapshot::{Restored, Snapshot};
use crate::{KeyIndex, Paged, StateError};

impl WindowState {
    /// Adds the rings to a snapshot, by reference.
    pub fn snapshot(&self, name: &str, snapshot: &mut Snapshot) {
        self.rings.snapshot(&format!("{name}/rings"), snapshot);
        if !self.lost_us.is_empty() {
            let mut lost: Vec<(usize, i64)> = self.lost_us.iter().map(|(k, v)| (*k, *v)).collect();
            lost.sort_unstable();
            let words = lost.into_iter().flat_map(|(ring, us)| [ring as i64, us]);
            snapshot.add_value(&format!("{name}/capped"), words.collect::<Vec<i64>>());
        }
        for (column, slot) in self.spec.slots.iter().enumerate() {
            if slot.storage == Storage::Text {
                self.texts[column].snapshot(&format!("{name}/texts-{column}"), snapshot);
            }
        }
    }

    /// Reads the rings back.
    ///
    /// # Errors
    /// [`StateError::Damaged`] when they cannot be read, [`StateError::Mismatch`] when they belong to
    /// other windows.
    pub fn restore(&mut self, name: &str, restored: &Restored) -> Result<(), StateError> {
        let mut texts = vec![KeyIndex::default(); self.spec.columns.len()];
        for (column, slot) in self.spec.slots.iter().enumerate() {
            if slot.storage == Storage::Text {
                let section = restored.section(&format!("{name}/texts-{column}"))?;
                texts[column] = KeyIndex::restore(section)?;
            }
        }
        let rings = Paged::<Ring>::restore(restored.section(&format!("{name}/rings"))?)?;
        for ring in rings.iter() {
            let whole = ring.fits(self.spec.stride, self.spec.cursor_words);
            let inside = whole
                && (ring.is_new()
                    || self.spec.frames.iter().all(|frame| {
                        let (lo, hi) = (ring.cursors()[frame.at], ring.cursors()[frame.at + 1]);
                        ring.first() <= lo && lo <= hi && hi <= ring.end(self.spec.stride)
                    }));
            let told = |(column, slot): (usize, &Slot)| {
                slot.storage != Storage::Text
                    || (ring.first()..ring.end(self.spec.stride)).all(|number| {
                        let row = ring.row(number, self.spec.stride);
                        row[1] & slot.bit == 0 || row[slot.word] < texts[column].len() as u64
                    })
            };
            if !inside || !self.spec.slots.iter().enumerate().all(told) {
                return Err(StateError::Mismatch("rows of other windows".into()));
            }
        }
        let lost: Vec<i64> = match restored.section(&format!("{name}/capped")) {
            Ok(section) => section.value()?,
            Err(_) => Vec::new(),
        };
        self.lost_us = lost
            .chunks_exact(2)
            .map(|pair| (pair[0] as usize, pair[1]))
            .collect();
        (self.rings, self.texts, self.look) = (rings, texts, 0);
        self.forgotten.clear();
        Ok(())
    }
}
