//! Keys, numbered densely in the order in which they are first seen.
//!
//! A slot never changes its meaning while its key is known, so that everything else is a vector by slot. A
//! key that is forgotten gives its slot to the next new one. The bytes of the keys stand in pages that
//! snapshots share; only the hash table beside them is rebuilt on restore.

use std::sync::Arc;

use sanderling_schemas::NO_SLOT;

use crate::StateError;
use crate::key_page::{self, KeyPage, PAGE_KEYS, PAGES_TAKEN, Taken};
use crate::numbers::{Known, Numbers, Short, Sought};
use crate::snapshot::{Page, Section, Snapshot};

/// Rows of a batch that are looked at together.
const STEP: usize = 32;
/// What is done for a row, one after the other; see [`KeyIndex::slots_of`].
const STAGES: usize = 4;

/// Hands the key of a row to a function; see [`KeyIndex::slots_of`].
pub type KeyOf<'a> = &'a dyn Fn(usize, &mut dyn FnMut(Option<&[u8]>));

/// Bytes of a key -> dense slot.
#[derive(Debug, Clone, Default)]
pub struct KeyIndex {
    pages: Vec<KeyPage>,
    slots: Numbers<Short>,
    len: u32,
    /// Slots whose key was forgotten.
    free: Vec<u32>,
}

/// The keys of one moment, shared with the index that goes on.
#[derive(Debug, Clone, Default)]
pub struct KnownKeys {
    pages: Vec<KeyPage>,
    len: u32,
}

/// What is known of a row whose key is looked up.
#[derive(Clone, Copy)]
struct Ahead {
    /// Its key, if it has one.
    sought: Option<Sought<Short>>,
    slot: Known,
}

impl Ahead {
    const NOTHING: Ahead = Ahead {
        sought: None,
        slot: Known::No,
    };

    /// The slot that its key most likely has, where that is not certain.
    fn likely(&self) -> Option<u32> {
        match self.slot {
            Known::Perhaps(slot) => Some(slot),
            Known::As(_) | Known::No => None,
        }
    }
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
        let pages: usize = self.pages.iter().map(KeyPage::bytes).sum();
        pages + self.pages.capacity() * size_of::<KeyPage>() + self.slots.bytes()
    }

    /// The slot of a key, which gets one if it is new.
    ///
    /// # Panics
    /// At 2^32 - 2 keys, or 256 MiB of keys on one page of 64.
    pub fn slot_of(&mut self, key: &[u8]) -> u32 {
        self.slot_of_sought(&self.slots.sought(key), key)
    }

    fn slot_of_sought(&mut self, sought: &Sought<Short>, key: &[u8]) -> u32 {
        let (pages, new) = (&self.pages, self.free.last().copied().unwrap_or(self.len));
        let key_of = |slot| key_at(pages, slot);
        let slot = *(self.slots).find_or_insert_sought(sought, key, new, key_of);
        if slot == new {
            assert!(slot < u32::MAX - 1, "more keys than slots");
            match self.free.pop() {
                None => self.append(Some(key)),
                Some(_) => {
                    self.pages[slot as usize / PAGE_KEYS].put(slot as usize % PAGE_KEYS, Some(key))
                }
            }
        }
        slot
    }

    /// Forgets the key of a slot that has one; the next new key gets the slot.
    pub fn forget(&mut self, slot: u32) {
        let page = &mut self.pages[slot as usize / PAGE_KEYS];
        let at = slot as usize % PAGE_KEYS;
        self.slots.remove(page.key(at), slot);
        page.put(at, None);
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
    /// A look at a short key needs one piece of memory, and at a longer one three, each of which tells where the next one
    /// is. So rows go through in steps of a few, and while one step asks for its first piece, those before it have
    /// got theirs and ask for the second, for the third, or are done.
    pub fn slots_of(&mut self, rows: usize, key_of: KeyOf<'_>) -> Vec<u32> {
        let mut slots = vec![NO_SLOT; rows];
        let steps = rows.div_ceil(STEP);
        let mut ahead = [[Ahead::NOTHING; STEP]; STAGES];
        for newest in 0..steps + STAGES - 1 {
            let step_at = |stage| newest.checked_sub(stage).filter(|step| *step < steps);
            let rows_of = |step| step * STEP..rows.min((step + 1) * STEP);
            if let Some(step) = step_at(0) {
                ahead[step % STAGES] = [Ahead::NOTHING; STEP];
                for (ahead, row) in ahead[step % STAGES].iter_mut().zip(rows_of(step)) {
                    key_of(row, &mut |key| {
                        ahead.sought = key.map(|key| self.slots.sought(key));
                    });
                    if let Some(sought) = &ahead.sought {
                        self.slots.prefetch(sought);
                    }
                }
            }
            if let Some(step) = step_at(1) {
                for ahead in &mut ahead[step % STAGES] {
                    let Some(sought) = &ahead.sought else {
                        continue;
                    };
                    ahead.slot = self.slots.known(sought);
                    if let Some(slot) = ahead.likely() {
                        self.pages[slot as usize / PAGE_KEYS]
                            .prefetch_span(slot as usize % PAGE_KEYS);
                    }
                }
            }
            if let Some(step) = step_at(2) {
                for slot in ahead[step % STAGES].iter().filter_map(Ahead::likely) {
                    self.pages[slot as usize / PAGE_KEYS].prefetch_key(slot as usize % PAGE_KEYS);
                }
            }
            if let Some(step) = step_at(3) {
                for (ahead, row) in ahead[step % STAGES].iter().zip(rows_of(step)) {
                    let Some(sought) = &ahead.sought else {
                        continue;
                    };
                    if let Known::As(slot) = ahead.slot {
                        slots[row] = slot;
                        continue;
                    }
                    key_of(row, &mut |key| {
                        let Some(key) = key else { return };
                        slots[row] = match ahead.likely() {
                            Some(likely) if self.has(likely, key) => likely,
                            _ => self.slot_of_sought(sought, key),
                        };
                    });
                }
            }
        }
        slots
    }

    fn append(&mut self, key: Option<&[u8]>) {
        let at = self.len as usize % PAGE_KEYS;
        if at == 0 {
            self.pages.push(KeyPage::default());
        }
        let page = (self.pages.last_mut()).expect("a page was just made for this key");
        page.put(at, key);
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

    /// Whether this is the key of a slot below [`KeyIndex::len`].
    fn has(&self, slot: u32, key: &[u8]) -> bool {
        self.key(slot) == key
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
        let mut left = self.len();
        let pages = self.pages.chunks(PAGES_TAKEN).map(|pages| {
            let len = left.min(PAGES_TAKEN * PAGE_KEYS);
            left -= len;
            Arc::new(Taken::of(pages, len)) as Arc<dyn Page>
        });
        snapshot.add(name, pages.collect());
    }

    /// Reads the keys of a section back, each to the slot it had.
    ///
    /// # Errors
    /// [`StateError::Damaged`] when a page cannot be read or a key stands twice.
    pub fn restore(section: &Section) -> Result<Self, StateError> {
        let mut index = KeyIndex::default();
        for bytes in section.pages() {
            key_page::read(bytes, |key| index.append(key))?;
        }
        let pages = &index.pages;
        for slot in 0..index.len {
            let (page, at) = (slot as usize / PAGE_KEYS, slot as usize % PAGE_KEYS);
            if pages[page].is_gone(at) {
                index.free.push(slot);
                continue;
            }
            let key_of = |slot| key_at(pages, slot);
            if *(index.slots).find_or_insert(pages[page].key(at), slot, key_of) != slot {
                return Err(StateError::Damaged("a key stands twice".into()));
            }
        }
        Ok(index)
    }
}

fn key_at(pages: &[KeyPage], slot: u32) -> &[u8] {
    pages[slot as usize / PAGE_KEYS].key(slot as usize % PAGE_KEYS)
}

#[cfg(test)]
mod tests;
