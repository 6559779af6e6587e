//! Keys, numbered densely in the order in which they are first seen.
//!
//! A slot never changes its meaning, so that everything else is a vector by slot. The bytes of the
//! keys stand in pages that snapshots share; only the hash table beside them is rebuilt on restore.

use std::sync::Arc;

use sanderling_schemas::NO_SLOT;

use crate::numbers::Numbers;
use crate::paged::prefetch_line;
use crate::snapshot::{Page, Section, Snapshot};
use crate::{Persist, StateError};

const PAGE_KEYS: usize = 1024;

/// Hands the key of a row to a function; see [`KeyIndex::slots_of`].
pub type KeyOf<'a> = &'a dyn Fn(usize, &mut dyn FnMut(Option<&[u8]>));

/// Bytes of a key -> dense slot.
#[derive(Debug, Clone, Default)]
pub struct KeyIndex {
    pages: Vec<Arc<KeyPage>>,
    slots: Numbers,
    len: u32,
}

/// The keys of one moment, shared with the index that goes on.
#[derive(Debug, Clone, Default)]
pub struct KnownKeys {
    pages: Vec<Arc<KeyPage>>,
    len: u32,
}

impl KnownKeys {
    /// Number of slots.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// No keys.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The key of a slot below [`KnownKeys::len`].
    pub fn key(&self, slot: u32) -> &[u8] {
        key_at(&self.pages, slot)
    }
}

#[derive(Debug, Clone, Default)]
struct KeyPage {
    bytes: Vec<u8>,
    /// Where each key of the page ends in `bytes`.
    ends: Vec<u32>,
}

impl KeyPage {
    /// Where a key of the page stands in `bytes`.
    fn span(&self, at: usize) -> (u32, u32) {
        let from = if at == 0 { 0 } else { self.ends[at - 1] };
        (from, self.ends[at])
    }

    fn key(&self, at: usize) -> &[u8] {
        let (from, to) = self.span(at);
        &self.bytes[from as usize..to as usize]
    }
}

impl Page for KeyPage {
    fn write(&self, out: &mut Vec<u8>) {
        self.ends.write(out);
        self.bytes.write(out);
    }
}

impl KeyIndex {
    /// Number of keys; the next new key gets this slot.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// No keys.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Heap bytes.
    pub fn bytes(&self) -> usize {
        let page = |page: &Arc<KeyPage>| {
            size_of::<KeyPage>() + page.bytes.capacity() + page.ends.capacity() * size_of::<u32>()
        };
        self.pages.iter().map(page).sum::<usize>() + self.slots.bytes()
    }

    /// The slot of a key, which gets one if it is new.
    ///
    /// # Panics
    /// At 2^32 - 2 keys, or 4 GiB of keys on one page of 1,024.
    pub fn slot_of(&mut self, key: &[u8]) -> u32 {
        let (pages, new) = (&self.pages, self.len);
        let slot = *(self.slots).find_or_insert(key, new, |slot| key_at(pages, slot));
        if slot == new {
            assert!(slot < u32::MAX - 1, "more keys than slots");
            self.append(key);
        }
        slot
    }

    /// The slots of the keys of `rows` rows, which get one if they are new; [`NO_SLOT`] for none. `key_of`
    /// hands the key of a row, if it has one, to the function it is given, as often as it is asked.
    ///
    /// Of a few rows at a time, everything is looked at in the same step, so that the memory of one is
    /// waited for while that of the others is on its way.
    pub fn slots_of(&mut self, rows: usize, key_of: KeyOf<'_>) -> Vec<u32> {
        const STEP: usize = 16;
        let mut slots = vec![NO_SLOT; rows];
        for (step, slots) in slots.chunks_mut(STEP).enumerate() {
            let from = step * STEP;
            let mut likely: [Option<(u32, u32, u32)>; STEP] = [None; STEP];
            for (at, likely) in likely.iter_mut().enumerate().take(slots.len()) {
                key_of(from + at, &mut |key| {
                    let known = key.and_then(|key| self.slots.likely(self.slots.hash_of(key)));
                    *likely = known.map(|slot| (slot, 0, 0));
                });
            }
            for (slot, from, to) in likely.iter_mut().flatten() {
                let page = &self.pages[*slot as usize / PAGE_KEYS];
                (*from, *to) = page.span(*slot as usize % PAGE_KEYS);
                prefetch_line(page.bytes[*from as usize..].as_ptr());
            }
            for (at, slot) in slots.iter_mut().enumerate() {
                key_of(from + at, &mut |key| {
                    let Some(key) = key else { return };
                    *slot = match likely[at] {
                        Some((likely, from, to))
                            if self.pages[likely as usize / PAGE_KEYS].bytes
                                [from as usize..to as usize]
                                == *key =>
                        {
                            likely
                        }
                        _ => self.slot_of(key),
                    };
                });
            }
        }
        slots
    }

    fn append(&mut self, key: &[u8]) {
        if (self.len as usize).is_multiple_of(PAGE_KEYS) {
            self.pages.push(Arc::default());
        }
        let page = Arc::make_mut(
            self.pages
                .last_mut()
                .expect("a page was just made for this key"),
        );
        page.bytes.extend_from_slice(key);
        page.ends
            .push(u32::try_from(page.bytes.len()).expect("a page of keys is under 4 GiB"));
        self.len += 1;
    }

    /// The slot of a key that has one.
    pub fn find(&self, key: &[u8]) -> Option<u32> {
        self.slots.find(key, |slot| self.key(slot))
    }

    /// The key of a slot below [`KeyIndex::len`].
    pub fn key(&self, slot: u32) -> &[u8] {
        key_at(&self.pages, slot)
    }

    /// The keys as they are now, by reference.
    pub fn known(&self) -> KnownKeys {
        KnownKeys {
            pages: self.pages.clone(),
            len: self.len,
        }
    }

    /// Adds the keys to a snapshot, by reference.
    pub fn snapshot(&self, name: &str, snapshot: &mut Snapshot) {
        snapshot.add(
            name,
            self.pages
                .iter()
                .map(|page| page.clone() as Arc<dyn Page>)
                .collect(),
        );
    }

    /// Reads the keys of a section back, each to the slot it had.
    ///
    /// # Errors
    /// [`StateError::Damaged`] when a page cannot be read or a key stands twice.
    pub fn restore(section: &Section) -> Result<Self, StateError> {
        let mut index = KeyIndex::default();
        for mut bytes in section.pages() {
            let ends = Vec::<u32>::read(&mut bytes)?;
            let keys = Vec::<u8>::read(&mut bytes)?;
            let mut from = 0;
            for end in ends {
                let Some(key) = keys.get(from..end as usize) else {
                    return Err(StateError::Damaged("a key ends outside its page".into()));
                };
                let next = index.len;
                if index.slot_of(key) != next {
                    return Err(StateError::Damaged("a key stands twice".into()));
                }
                from = end as usize;
            }
        }
        Ok(index)
    }
}

fn key_at(pages: &[Arc<KeyPage>], slot: u32) -> &[u8] {
    pages[slot as usize / PAGE_KEYS].key(slot as usize % PAGE_KEYS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Restored;

    #[test]
    fn slots_are_dense_and_survive_a_snapshot() {
        let mut index = KeyIndex::default();
        for n in 0..5000u32 {
            assert_eq!(index.slot_of(format!("key {n}").as_bytes()), n);
        }
        assert_eq!(index.slot_of(b"key 17"), 17);
        assert_eq!(index.slot_of(b""), 5000);
        let known: Vec<String> = (0..100).rev().map(|n| format!("key {n}")).collect();
        let slots = index.slots_of(103, &|row, take| match row {
            100 | 102 => take(Some(b"new in a batch")),
            101 => take(None),
            row => take(Some(known[row].as_bytes())),
        });
        assert_eq!(slots[..3], [99, 98, 97]);
        assert_eq!(slots[100..], [5001, NO_SLOT, 5001]);

        let mut snapshot = Snapshot::default();
        index.snapshot("keys", &mut snapshot);
        index.slot_of(b"after the snapshot");
        let mut file = Vec::new();
        snapshot.write_arrow(&mut file).unwrap();
        let restored = Restored::read_arrow(file.as_slice()).unwrap();
        let back = KeyIndex::restore(restored.section("keys").unwrap()).unwrap();
        assert_eq!(back.len(), 5002);
        assert_eq!(back.find(b"key 4999"), Some(4999));
        assert_eq!(back.find(b""), Some(5000));
        assert_eq!(back.find(b"after the snapshot"), None);
        assert_eq!(back.key(17), b"key 17");
    }
}
