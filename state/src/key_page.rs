//! A page of keys in one piece of memory.
//!
//! Where a key ends stands near its bytes. A long key that is looked at among millions is in no cache, and what is
//! waited for most is the translation of its address; so a page is small, and of the machine's pages it
//! touches one, or two. A short one is found without a look here (`numbers.rs`).

use std::iter::repeat_n;
use std::sync::Arc;

use crate::paged::prefetch_line;
use crate::snapshot::Page;
use crate::{Persist, StateError};

/// Number of keys that share a page.
pub(crate) const PAGE_KEYS: usize = 64;

/// Number of pages that are written as one.
pub(crate) const PAGES_TAKEN: usize = 16;

/// Bytes of keys that a page stays under: those that are written as one are under 4 GiB.
const BYTES_MAX: usize = 1 << 28;

/// Where the bit of each key stands that says whether it was forgotten.
const GONE_AT: usize = PAGE_KEYS * size_of::<u32>();
/// Where the bytes of the keys begin.
const KEYS_AT: usize = GONE_AT + size_of::<u64>();

/// Where each key ends, as 32 bits; a word of those that were forgotten; the bytes of the keys, and room for
/// more while the page is not full. Of those that are not there yet, the ends are that of the last key.
#[derive(Debug, Clone)]
pub(crate) struct KeyPage(Arc<[u8]>);

impl Default for KeyPage {
    fn default() -> Self {
        KeyPage(repeat_n(0, KEYS_AT).collect())
    }
}

impl KeyPage {
    #[inline]
    fn end(&self, at: usize) -> usize {
        let (ends, _) = self.0[..GONE_AT].as_chunks();
        u32::from_le_bytes(ends[at]) as usize
    }

    /// Where a key stands.
    #[inline]
    fn span(&self, at: usize) -> (usize, usize) {
        let from = if at == 0 { 0 } else { self.end(at - 1) };
        (from, self.end(at))
    }

    fn gone(&self) -> u64 {
        let (words, _) = self.0[GONE_AT..KEYS_AT].as_chunks();
        u64::from_le_bytes(words[0])
    }

    /// The key at a place; nothing where it was forgotten.
    #[inline]
    pub(crate) fn key(&self, at: usize) -> &[u8] {
        let (from, to) = self.span(at);
        &self.0[KEYS_AT + from..KEYS_AT + to]
    }

    /// Whether the key at a place was forgotten.
    pub(crate) fn is_gone(&self, at: usize) -> bool {
        self.gone() >> at & 1 == 1
    }

    /// Heap bytes.
    pub(crate) fn bytes(&self) -> usize {
        // The counts of an `Arc` stand before what it holds.
        2 * size_of::<usize>() + self.0.len()
    }

    /// Asks for the memory that tells where a key stands.
    #[inline]
    pub(crate) fn prefetch_span(&self, at: usize) {
        let end = self.0.as_ptr().wrapping_add(at * size_of::<u32>());
        prefetch_line(end);
        prefetch_line(end.wrapping_sub(size_of::<u32>()));
    }

    /// Asks for a key.
    #[inline]
    pub(crate) fn prefetch_key(&self, at: usize) {
        let key = self.key(at).as_ptr_range();
        prefetch_line(key.start);
        prefetch_line(key.end.wrapping_sub(1));
    }

    /// Puts a key in the place of what stands there, or nothing and that it was forgotten.
    ///
    /// # Panics
    /// At 256 MiB of keys.
    pub(crate) fn put(&mut self, at: usize, key: Option<&[u8]>) {
        let (from, to) = self.span(at);
        let used = self.end(PAGE_KEYS - 1);
        let gone = self.gone() & !(1 << at) | u64::from(key.is_none()) << at;
        let key = key.unwrap_or_default();
        let len = used - (to - from) + key.len();
        assert!(len < BYTES_MAX, "a page of keys is under 256 MiB");
        // As long as keys are added, room for as many bytes again: each is moved a few times.
        let room = if from == used && at + 1 < PAGE_KEYS {
            len
        } else {
            0
        };
        let fits = (len..=len + room).contains(&(self.0.len() - KEYS_AT));
        let (old_rest, rest) = (KEYS_AT + to..KEYS_AT + used, KEYS_AT + from + key.len());
        match Arc::get_mut(&mut self.0) {
            Some(page) if fits => page.copy_within(old_rest, rest),
            _ => {
                let mut page: Arc<[u8]> = repeat_n(0, KEYS_AT + len + room).collect();
                let new = Arc::get_mut(&mut page).expect("no one else has it yet");
                new[..KEYS_AT + from].copy_from_slice(&self.0[..KEYS_AT + from]);
                new[rest..KEYS_AT + len].copy_from_slice(&self.0[old_rest]);
                self.0 = page;
            }
        }
        let page = Arc::get_mut(&mut self.0).expect("a page that is shared was just copied");
        page[KEYS_AT + from..rest].copy_from_slice(key);
        page[GONE_AT..KEYS_AT].copy_from_slice(&gone.to_le_bytes());
        let (ends, _) = page[..GONE_AT].as_chunks_mut();
        for end in &mut ends[at..] {
            let moved = u32::from_le_bytes(*end) - (to - from) as u32 + key.len() as u32;
            *end = moved.to_le_bytes();
        }
    }
}

/// Keys that are written as one page: a list of their ends, one of their bytes and, where some were forgotten,
/// one of words of bits. So few pages are taken and written.
pub(crate) struct Taken {
    pages: Vec<KeyPage>,
    len: usize,
}

impl Taken {
    /// The first `len` keys of `pages`, of which there are [`PAGES_TAKEN`] at most, and none but the last is not
    /// full.
    pub(crate) fn of(pages: &[KeyPage], len: usize) -> Self {
        Taken {
            pages: pages.to_vec(),
            len,
        }
    }
}

impl Page for Taken {
    fn write(&self, out: &mut Vec<u8>) {
        let (mut ends, mut keys) = (Vec::<u32>::new(), Vec::<u8>::new());
        for page in &self.pages {
            let (from, count) = (keys.len(), PAGE_KEYS.min(self.len - ends.len()));
            ends.extend((0..count).map(|at| (from + page.end(at)) as u32));
            keys.extend_from_slice(&page.0[KEYS_AT..KEYS_AT + page.end(PAGE_KEYS - 1)]);
        }
        ends.write(out);
        keys.write(out);
        let mut gone: Vec<u64> = self.pages.iter().map(KeyPage::gone).collect();
        if gone.iter().any(|bits| *bits != 0) {
            gone.resize(PAGES_TAKEN, 0);
            gone.write(out);
        }
    }
}

/// Hands the keys of a page that was written to `take`, `None` for one that was forgotten. A page may have
/// any number of them.
///
/// # Errors
/// [`StateError::Damaged`] when it cannot be read.
pub(crate) fn read(
    mut bytes: &[u8],
    mut take: impl FnMut(Option<&[u8]>),
) -> Result<(), StateError> {
    let ends = Vec::<u32>::read(&mut bytes)?;
    let keys = Vec::<u8>::read(&mut bytes)?;
    let gone = match bytes {
        [] => Vec::new(),
        _ => Vec::<u64>::read(&mut bytes)?,
    };
    let mut from = 0;
    for (at, end) in ends.into_iter().enumerate() {
        let Some(key) = keys.get(from..end as usize) else {
            return Err(StateError::Damaged("a key ends outside its page".into()));
        };
        let is_gone = gone
            .get(at / 64)
            .is_some_and(|bits| bits >> (at % 64) & 1 == 1);
        take((!is_gone).then_some(key));
        from = end as usize;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_put_replaced_and_forgotten_while_a_clone_stays() {
        let mut page = KeyPage::default();
        let key = |at: usize| "k".repeat(at % 5) + &at.to_string();
        for at in 0..PAGE_KEYS {
            page.put(at, Some(key(at).as_bytes()));
        }
        let all: usize = (0..PAGE_KEYS).map(|at| key(at).len()).sum();
        assert_eq!(page.0.len(), KEYS_AT + all, "a full page has no room");
        let before = page.clone();
        page.put(3, None);
        page.put(63, None);
        page.put(10, Some(b"longer than what stood there"));
        page.put(11, Some(b""));
        for at in 0..PAGE_KEYS {
            assert_eq!(before.key(at), key(at).as_bytes());
            assert!(!before.is_gone(at));
            let now = match at {
                3 | 63 | 11 => String::new(),
                10 => "longer than what stood there".into(),
                _ => key(at),
            };
            assert_eq!(page.key(at), now.as_bytes());
            assert_eq!(page.is_gone(at), at == 3 || at == 63);
        }
        let mut out = Vec::new();
        Taken::of(&[page.clone()], PAGE_KEYS).write(&mut out);
        let mut back = Vec::new();
        read(&out, |key| back.push(key.map(<[u8]>::to_vec))).unwrap();
        assert_eq!(back.len(), PAGE_KEYS);
        for (at, back) in back.iter().enumerate() {
            assert_eq!(back.as_deref(), (!page.is_gone(at)).then(|| page.key(at)));
        }
        page.put(3, Some(b"again"));
        assert_eq!((page.key(3), page.is_gone(3)), (&b"again"[..], false));
        assert_eq!(page.key(62), key(62).as_bytes());
    }

    #[test]
    fn pages_are_written_as_one_up_to_the_last_key() {
        let (mut full, mut page) = (KeyPage::default(), KeyPage::default());
        for at in 0..PAGE_KEYS {
            full.put(at, Some(b"k"));
        }
        full.put(9, None);
        page.put(0, Some(b"one"));
        page.put(1, Some(b"two"));
        let taken = Taken::of(&[full, page.clone()], PAGE_KEYS + 2);
        page.put(2, Some(b"three"));
        let (mut out, mut expected) = (Vec::new(), Vec::new());
        taken.write(&mut out);
        let ends = (1..=64).map(|end| if end < 10 { end } else { end - 1 });
        ends.chain([66, 69])
            .collect::<Vec<u32>>()
            .write(&mut expected);
        ("k".repeat(63) + "onetwo")
            .into_bytes()
            .write(&mut expected);
        let mut gone = vec![0u64; 16];
        gone[0] = 1 << 9;
        gone.write(&mut expected);
        assert_eq!(out, expected);
    }
}
