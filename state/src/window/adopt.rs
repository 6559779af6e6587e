//! Rows that other windows kept of the same keys, taken over.
//!
//! What windows compute of their rows is never taken over, only the rows: each frame adds its own up again
//! when it is next asked. So a frame is whole as soon as its rows are.

use super::plan::Storage;
use super::ring::Ring;
use super::spec::{Frame, Function};
use super::state::{WindowState, ring_of};
use crate::bytes::Persist;
use crate::{KeyIndex, Paged, Restored, StateError};

/// How rings keep their rows, and how long: enough to read them without the windows that they were for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RingShape {
    /// How each column is kept.
    columns: Vec<u8>,
    retention_us: i64,
    /// Rows before those within the lateness that are kept whatever their age; `None` where age alone counts.
    rows_before: Option<u64>,
    all_rows: bool,
}

impl Persist for RingShape {
    fn write(&self, out: &mut Vec<u8>) {
        self.columns.write(out);
        self.retention_us.write(out);
        let rows: Vec<u64> = self.rows_before.into_iter().collect();
        rows.write(out);
        u8::from(self.all_rows).write(out);
    }

    fn read(input: &mut &[u8]) -> Result<Self, StateError> {
        let columns = Vec::<u8>::read(input)?;
        if columns
            .iter()
            .any(|storage| *storage as usize >= STORAGES.len())
        {
            return Err(StateError::Damaged(
                "a column that is kept in no known way".into(),
            ));
        }
        Ok(Self {
            columns,
            retention_us: i64::read(input)?,
            rows_before: Vec::<u64>::read(input)?.first().copied(),
            all_rows: u8::read(input)? != 0,
        })
    }
}

/// By their number in a [`RingShape`].
const STORAGES: [Storage; 5] = [
    Storage::Presence,
    Storage::Int,
    Storage::Wide,
    Storage::Float,
    Storage::Text,
];

impl RingShape {
    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns.len()
    }

    /// Whether rings of this shape hold every row that a frame reaches, where rows may be late by
    /// `lateness_us`.
    pub fn reaches(&self, frame: Frame, lateness_us: i64) -> bool {
        match frame {
            Frame::Range {
                preceding_us: Some(preceding_us),
                ..
            } => preceding_us.saturating_add(lateness_us) <= self.retention_us,
            Frame::Rows {
                preceding: Some(preceding),
                ..
            } => self.all_rows && self.rows_before.is_some_and(|rows| preceding <= rows),
            Frame::Range { .. } | Frame::Rows { .. } => false,
        }
    }

    /// Whether they hold what a function reads of a column.
    pub fn holds(&self, column: usize, function: Function) -> bool {
        let counted_only = STORAGES[self.columns[column] as usize] == Storage::Presence;
        match function {
            Function::Count => true,
            Function::Nth {
                skip_nulls: false, ..
            }
            | Function::Rows => self.all_rows && !counted_only,
            _ => !counted_only,
        }
    }

    /// Word of each column within a row, and the words of a row.
    fn words(&self) -> (Vec<usize>, usize) {
        let mut stride = 2;
        let word = |storage: &u8| {
            let word = stride;
            stride += STORAGES[*storage as usize].words();
            word
        };
        (self.columns.iter().map(word).collect(), stride)
    }
}

impl WindowState {
    /// How its rings keep their rows.
    pub fn shape(&self) -> RingShape {
        let number = |storage: Storage| {
            let mut known = STORAGES.iter();
            known
                .position(|other| *other == storage)
                .expect("all are listed") as u8
        };
        RingShape {
            columns: self
                .spec
                .slots
                .iter()
                .map(|slot| number(slot.storage))
                .collect(),
            retention_us: self.spec.retention_us,
            rows_before: self.spec.rows_before,
            all_rows: self.spec.all_rows,
        }
    }

    /// Whether the values of a column there can stand in one of its own.
    pub fn can_read(&self, column: usize, of: &RingShape, there: usize) -> bool {
        let (own, there) = (
            self.spec.slots[column].storage,
            STORAGES[of.columns[there] as usize],
        );
        own == Storage::Presence || own == there
    }

    /// Forgets everything, and takes over the rows of the rings that a snapshot holds under `name`, which are
    /// of the shape `of`: for each column the one there that has its values, if one does. `slot_of` gives
    /// the slot here of the key with a slot there; without one a key is left out.
    ///
    /// # Errors
    /// [`StateError::Damaged`] and [`StateError::Mismatch`] for rings that are not of that shape.
    pub fn adopt(
        &mut self,
        name: &str,
        restored: &Restored,
        of: &RingShape,
        columns: &[Option<usize>],
        slot_of: &mut dyn FnMut(u32) -> Option<u32>,
    ) -> Result<(), StateError> {
        let mismatch = || StateError::Mismatch("rows of another shape".into());
        let fits = |(there, slot): (&Option<usize>, &super::plan::Slot)| {
            there.is_none_or(|there| {
                of.columns.get(there).is_some_and(|storage| {
                    slot.storage == Storage::Presence || STORAGES[*storage as usize] == slot.storage
                })
            })
        };
        if columns.len() != self.spec.slots.len() || !columns.iter().zip(&self.spec.slots).all(fits)
        {
            return Err(mismatch());
        }
        let mut fresh = self.fresh();
        let spec = fresh.spec.clone();
        let mut texts = Vec::new();
        for (there, slot) in columns.iter().zip(&spec.slots) {
            texts.push(match (there, slot.storage) {
                (Some(there), Storage::Text) => Some(KeyIndex::restore(
                    restored.section(&format!("{name}/texts-{there}"))?,
                )?),
                _ => None,
            });
        }
        let (words, stride) = of.words();
        let rings = Paged::<Ring>::restore(restored.section(&format!("{name}/rings"))?)?;
        let mut row = vec![0u64; spec.stride];
        for (at, ring) in rings.iter().enumerate() {
            if ring.is_new() {
                continue;
            }
            if !ring.has_whole_rows(stride) {
                return Err(mismatch());
            }
            let slot = match at.checked_sub(1) {
                None => Some(sanderling_schemas::NO_SLOT),
                Some(slot) => slot_of(slot as u32),
            };
            let Some(slot) = slot else { continue };
            fresh.rings.grow_to(ring_of(slot) + 1);
            let taken = fresh.rings.get_mut(ring_of(slot));
            *taken = Ring::new(spec.cursor_words);
            taken.set_times(ring.times());
            for number in ring.first()..ring.end(stride) {
                let there = ring.row(number, stride);
                row.fill(0);
                row[0] = there[0];
                for (column, slot) in spec.slots.iter().enumerate() {
                    let Some(from) = columns[column].filter(|from| there[1] >> from & 1 == 1)
                    else {
                        continue;
                    };
                    row[1] |= slot.bit;
                    match (slot.storage, &texts[column]) {
                        (Storage::Presence, _) => {}
                        (Storage::Text, Some(texts)) => {
                            let text = there[words[from]] as u32;
                            if text as usize >= texts.len() {
                                return Err(mismatch());
                            }
                            let text = fresh.texts[column].slot_of(texts.key(text));
                            row[slot.word] = u64::from(text);
                        }
                        (storage, _) => row[slot.word..slot.word + storage.words()]
                            .copy_from_slice(&there[words[from]..words[from] + storage.words()]),
                    }
                }
                if row[1] != 0 || spec.all_rows {
                    taken.insert(&row);
                }
            }
        }
        if let Ok(lost) = restored.section(&format!("{name}/capped")) {
            for pair in lost.value::<Vec<i64>>()?.chunks_exact(2) {
                let slot = match (pair[0] as usize).checked_sub(1) {
                    None => Some(sanderling_schemas::NO_SLOT),
                    Some(slot) => slot_of(slot as u32),
                };
                fresh
                    .lost_us
                    .extend(slot.map(|slot| (ring_of(slot), pair[1])));
            }
        }
        *self = fresh;
        Ok(())
    }
}
