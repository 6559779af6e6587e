//! Keys, numbered densely in the order in which they are first seen.
//!
//! A slot never changes its meaning while its key is known, so that everything else is a vector by slot. A
//! key that is forgotten gives its slot to the next new one. The bytes of the keys stand in pages that
//! snapshots share; only the hash table beside them is rebuilt on restore.

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
    /// Slots whose key was forgotten.
    free: Vec<u32>,
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

    /// The key of a slot below [`KnownKeys::len`]; `None` if it was forgotten.
    pub fn key(&self, slot: u32) -> Option<&[u8]> {
        let (page, at) = (slot as usize / PAGE_KEYS, slot as usize % PAGE_KEYS);
        (!self.pages[page].is_gone(at)).then(|| self.pages[page].key(at))
    }
}

#[derive(Debug, Clone, Default)]
struct KeyPage {
    bytes: Vec<u8>,
    /// Where each key of the page ends in `bytes`.
    ends: Vec<u32>,
    /// A bit for each place of the page, set where the key was forgotten; nothing while none was.
    gone: Vec<u64>,
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

    fn is_gone(&self, at: usize) -> bool {
        (self.gone.get(at / 64)).is_some_and(|bits| bits >> (at % 64) & 1 == 1)
    }

    fn set_gone(&mut self, at: usize, gone: bool) {
        self.gone.resize(PAGE_KEYS / 64, 0);
        self.gone[at / 64] &= !(1 << (at % 64));
        self.gone[at / 64] |= u64::from(gone) << (at % 64);
    }

    /// Puts a key in the place of what stands there.
    fn replace(&mut self, at: usize, key: &[u8]) {
        let (from, to) = self.span(at);
        self.bytes
            .splice(from as usize..to as usize, key.iter().copied());
        for end in &mut self.ends[at..] {
            *end = *end - (to - from) + key.len() as u32;
        }
        if self.bytes.capacity() > 4 * self.bytes.len().max(1024) {
            self.bytes.shrink_to_fit();
        }
    }
}

impl Page for KeyPage {
    fn write(&self, out: &mut Vec<u8>) {
        self.ends.write(out);
        self.bytes.write(out);
        if !self.gone.is_empty() {
            self.gone.write(out);
        }
    }
}

impl KeyIndex {
    /// Number of slots: of all keys that are known, or were once and gave theirs to no other yet.
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
        let (pages, new) = (&self.pages, self.free.last().copied().unwrap_or(self.len));
        let slot = *(self.slots).find_or_insert(key, new, |slot| key_at(pages, slot));
        if slot == new {
            assert!(slot < u32::MAX - 1, "more keys than slots");
            match self.free.pop() {
                None => self.append(key),
                Some(_) => {
                    let page = Arc::make_mut(&mut self.pages[slot as usize / PAGE_KEYS]);
                    let at = slot as usize % PAGE_KEYS;
                    page.set_gone(at, false);
                    page.replace(at, key);
                }
            }
        }
        slot
    }

    /// Forgets the key of a slot that has one; the next new key gets the slot.
    pub fn forget(&mut self, slot: u32) {
        let (page, at) = (slot as usize / PAGE_KEYS, slot as usize % PAGE_KEYS);
        self.slots.remove(self.pages[page].key(at), slot);
        let page = Arc::make_mut(&mut self.pages[page]);
        page.replace(at, &[]);
        page.set_gone(at, true);
        self.free.push(slot);
    }

    /// Whether a slot below [`KeyIndex::len`] has a key.
    pub fn has_key(&self, slot: u32) -> bool {
        !self.pages[slot as usize / PAGE_KEYS].is_gone(slot as usize % PAGE_KEYS)
    }

    /// Number of keys that are known.
    pub fn known_len(&self) -> usize {
        self.len as usize - self.free.len()
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
            let mut hashes = [None; STEP];
            for (at, hash) in hashes.iter_mut().enumerate().take(slots.len()) {
                key_of(from + at, &mut |key| {
                    *hash = key.map(|key| self.slots.hash_of(key));
                });
            }
            let mut likely = [None; STEP];
            for (likely, hash) in likely.iter_mut().zip(hashes) {
                let known = hash.and_then(|hash| self.slots.likely(hash));
                *likely = known.map(|slot| (slot, 0, 0));
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
            let gone = match bytes {
                [] => Vec::new(),
                _ => Vec::<u64>::read(&mut bytes)?,
            };
            let page = KeyPage {
                gone: gone.clone(),
                ..KeyPage::default()
            };
            let mut from = 0;
            for (at, end) in ends.into_iter().enumerate() {
                let Some(key) = keys.get(from..end as usize) else {
                    return Err(StateError::Damaged("a key ends outside its page".into()));
                };
                let (pages, next) = (&index.pages, index.len);
                if page.is_gone(at) {
                    index.free.push(next);
                } else if *(index.slots).find_or_insert(key, next, |slot| key_at(pages, slot))
                    != next
                {
                    return Err(StateError::Damaged("a key stands twice".into()));
                }
                index.append(key);
                from = end as usize;
            }
            if let Some(page) = index.pages.last_mut() {
                Arc::make_mut(page).gone = gone;
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

    #[test]
    fn a_forgotten_key_gives_its_slot_to_the_next_new_one() {
        // So long that the hash tables, whose room depends on the processor's hash, weigh little.
        let old = |n: u32| format!("key {n:060}");
        let mut index = KeyIndex::default();
        for n in 0..3000 {
            index.slot_of(old(n).as_bytes());
        }
        let before = index.bytes();
        for slot in (0..3000u32).filter(|slot| !slot.is_multiple_of(10)) {
            index.forget(slot);
        }
        assert_eq!((index.known_len(), index.len()), (300, 3000));
        assert!(index.bytes() < before / 2, "{} of {before}", index.bytes());
        assert_eq!(index.find(old(7).as_bytes()), None);
        assert_eq!(index.find(old(2990).as_bytes()), Some(2990));
        assert_eq!(index.slot_of(b"a longer key than those before"), 2999);
        assert_eq!(index.known().key(2998), None);

        let mut snapshot = Snapshot::default();
        index.snapshot("keys", &mut snapshot);
        index.forget(2990);
        let mut file = Vec::new();
        snapshot.write_arrow(&mut file).unwrap();
        let restored = Restored::read_arrow(file.as_slice()).unwrap();
        let mut back = KeyIndex::restore(restored.section("keys").unwrap()).unwrap();
        assert_eq!((back.known_len(), back.len()), (301, 3000));
        assert_eq!(back.find(old(2990).as_bytes()), Some(2990));
        assert_eq!(back.find(b"a longer key than those before"), Some(2999));
        for n in 0..2699 {
            let slot = back.slot_of(format!("new {n}").as_bytes());
            assert!(slot < 2999 && !slot.is_multiple_of(10), "{slot}");
        }
        assert_eq!(back.slot_of(b"one more"), 3000);
        assert!((0..300).all(|n| back.key(n * 10) == old(n * 10).as_bytes()));
    }
}
