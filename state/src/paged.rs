//! Values by dense slot, in pages that are shared with snapshots and cloned on the next write.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::snapshot::{Page, Section, Snapshot};
use crate::{Persist, StateError};

/// A vector of values, copy-on-write by pages of [`Persist::PAGE_VALUES`].
#[derive(Debug)]
pub struct Paged<V: Persist + Clone + Default> {
    /// All pages are full; the last one's values from `len` on are defaults.
    pages: Vec<Arc<[V]>>,
    /// For each page, whether it is known that nobody else has it: whoever clones it takes that back. So the
    /// counts of a page, a line of memory that nothing else is wanted of, are seldom looked at.
    owned: Vec<AtomicBool>,
    len: usize,
    /// A page of defaults, which stands wherever nothing was ever written, or all was given back.
    empty: Arc<[V]>,
}

/// The first `len` values of a page.
struct Taken<V> {
    values: Arc<[V]>,
    len: usize,
}

impl<V: Persist + Send + Sync> Page for Taken<V> {
    fn write(&self, out: &mut Vec<u8>) {
        (self.len as u64).write(out);
        for value in &self.values[..self.len] {
            value.write(out);
        }
    }
}

impl<V: Persist + Clone + Default> Default for Paged<V> {
    fn default() -> Self {
        Paged {
            pages: Vec::new(),
            owned: Vec::new(),
            len: 0,
            empty: (0..V::PAGE_VALUES).map(|_| V::default()).collect(),
        }
    }
}

/// Asks for a cache line. Only a hint.
#[inline]
pub(crate) fn prefetch_line(address: *const u8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing into the program and fails at no address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// The values of a page, to change; of a clone of it if a snapshot holds it.
///
/// What [`Arc::make_mut`] does, less its locked instructions. Those wait for all memory that was asked for before
/// them, so that the rows of a batch would be fetched one after the other.
#[inline]
fn own<'a, V: Clone>(page: &'a mut Arc<[V]>, owned: &mut AtomicBool) -> &'a mut [V] {
    if !*owned.get_mut() {
        Arc::make_mut(page);
        *owned.get_mut() = true;
    }
    // SAFETY: `page` is borrowed mutably and is the only reference: `make_mut` has seen to that, and whoever has made
    // another one from it since has said that it is not owned. There are no weak ones, for none is ever made of a page.
    unsafe { &mut *Arc::as_ptr(page).cast_mut() }
}

impl<V: Persist + Clone + Default> Clone for Paged<V> {
    fn clone(&self) -> Self {
        self.disown();
        Paged {
            pages: self.pages.clone(),
            owned: self.pages.iter().map(|_| AtomicBool::new(false)).collect(),
            len: self.len,
            empty: self.empty.clone(),
        }
    }
}

impl<V: Persist + Clone + Default> Paged<V> {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// No values.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value of a slot below [`Paged::len`].
    #[inline]
    pub fn get(&self, slot: usize) -> &V {
        &self.pages[slot / V::PAGE_VALUES][slot % V::PAGE_VALUES]
    }

    /// The value of a slot below [`Paged::len`], to change. Clones its page if a snapshot holds it.
    #[inline]
    pub fn get_mut(&mut self, slot: usize) -> &mut V {
        let number = slot / V::PAGE_VALUES;
        &mut own(&mut self.pages[number], &mut self.owned[number])[slot % V::PAGE_VALUES]
    }

    /// Says that others have the pages too, or are about to.
    fn disown(&self) {
        for owned in &self.owned {
            owned.store(false, Ordering::Relaxed);
        }
    }

    /// Adds default values until there are `len`; never shrinks.
    pub fn grow_to(&mut self, len: usize) {
        while self.pages.len() * V::PAGE_VALUES < len {
            self.pages.push(self.empty.clone());
            self.owned.push(AtomicBool::new(false));
        }
        self.len = self.len.max(len);
    }

    /// Number of values that share a page.
    pub const PAGE_VALUES: usize = V::PAGE_VALUES;

    /// Number of pages.
    pub fn pages(&self) -> usize {
        self.pages.len()
    }

    /// All values of a page; those beyond the last are defaults.
    pub fn page(&self, number: usize) -> &[V] {
        &self.pages[number]
    }

    /// All values of a page, to change, but for those beyond the last. Clones it if a snapshot holds it.
    pub fn page_mut(&mut self, number: usize) -> &mut [V] {
        own(&mut self.pages[number], &mut self.owned[number])
    }

    /// The pages in parts, each but the first beginning at a page of `cuts`, which ascend.
    pub(crate) fn parts(&mut self, cuts: &[usize]) -> Vec<PagedPart<'_, V>> {
        let mut rest = PagedPart {
            pages: &mut self.pages,
            owned: &mut self.owned,
            first: 0,
        };
        let mut parts = Vec::new();
        for cut in cuts {
            let first = rest.first;
            let at = cut.min(&(first + rest.pages.len())) - first;
            let (pages, pages_after) = rest.pages.split_at_mut(at);
            let (owned, owned_after) = rest.owned.split_at_mut(at);
            parts.push(PagedPart {
                pages,
                owned,
                first,
            });
            rest = PagedPart {
                pages: pages_after,
                owned: owned_after,
                first: *cut,
            };
        }
        parts.push(rest);
        parts
    }

    /// Gives back a page whose values are all defaults.
    pub fn release(&mut self, number: usize) {
        self.pages[number] = self.empty.clone();
        self.owned[number] = AtomicBool::new(false);
    }

    /// Bytes of the pages, without what their values own.
    pub fn bytes(&self) -> usize {
        let own = |page: &&Arc<[V]>| !Arc::ptr_eq(page, &self.empty);
        self.pages.iter().filter(own).count() * V::PAGE_VALUES * size_of::<V>()
            + self.pages.capacity() * size_of::<Arc<[V]>>()
            + self.owned.capacity()
    }

    /// Values in slot order.
    pub fn iter(&self) -> impl Iterator<Item = &V> {
        self.pages
            .iter()
            .flat_map(|page| page.iter())
            .take(self.len)
    }
}

/// Consecutive pages, apart from the others, so that several threads can change values at once.
pub(crate) struct PagedPart<'a, V> {
    pages: &'a mut [Arc<[V]>],
    owned: &'a mut [AtomicBool],
    /// Number of the first page.
    first: usize,
}

impl<V: Persist + Clone> PagedPart<'_, V> {
    /// Asks for the memory that tells where a slot's page stands.
    #[inline]
    pub(crate) fn prefetch_place(&self, slot: usize) {
        let number = slot / V::PAGE_VALUES - self.first;
        prefetch_line(std::ptr::from_ref(&self.pages[number]).cast());
        prefetch_line(std::ptr::from_ref(&self.owned[number]).cast());
    }

    /// The value of a slot on one of the pages.
    #[inline]
    pub(crate) fn get(&self, slot: usize) -> &V {
        &self.pages[slot / V::PAGE_VALUES - self.first][slot % V::PAGE_VALUES]
    }

    /// The value of a slot on one of the pages, to change. Clones the page if a snapshot holds it.
    #[inline]
    pub(crate) fn get_mut(&mut self, slot: usize) -> &mut V {
        let number = slot / V::PAGE_VALUES - self.first;
        &mut own(&mut self.pages[number], &mut self.owned[number])[slot % V::PAGE_VALUES]
    }
}

impl<V: Persist + Clone + Default + Send + Sync + 'static> Paged<V> {
    /// Adds the pages to a snapshot, by reference.
    pub fn snapshot(&self, name: &str, snapshot: &mut Snapshot) {
        self.disown();
        let pages = self.pages.iter().enumerate().map(|(number, values)| {
            let len = (self.len - number * V::PAGE_VALUES).min(V::PAGE_VALUES);
            let values = values.clone();
            Arc::new(Taken { values, len }) as Arc<dyn Page>
        });
        snapshot.add(name, pages.collect());
    }

    /// Reads the values of a section back.
    ///
    /// # Errors
    /// [`StateError::Damaged`] when a page cannot be read or has the wrong number of values.
    pub fn restore(section: &Section) -> Result<Self, StateError> {
        let mut paged = Self::default();
        for (number, mut bytes) in section.pages().enumerate() {
            let count = u64::read(&mut bytes)? as usize;
            let last = number + 1 == section.len();
            if count > V::PAGE_VALUES || count == 0 || (!last && count != V::PAGE_VALUES) {
                return Err(StateError::Damaged(format!(
                    "{count} values on page {number}"
                )));
            }
            let mut values = Vec::with_capacity(V::PAGE_VALUES);
            for _ in 0..count {
                values.push(V::read(&mut bytes)?);
            }
            if !bytes.is_empty() {
                return Err(StateError::Damaged(format!("page {number} is too long")));
            }
            values.resize_with(V::PAGE_VALUES, V::default);
            paged.len += count;
            paged.pages.push(values.into());
            paged.owned.push(AtomicBool::new(false));
        }
        Ok(paged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Restored;

    #[test]
    fn a_snapshot_keeps_the_values_it_was_taken_of() {
        let mut paged = Paged::<i64>::default();
        paged.grow_to(200);
        for slot in 0..200 {
            *paged.get_mut(slot) = slot as i64;
        }
        let mut snapshot = Snapshot::default();
        paged.snapshot("values", &mut snapshot);
        *paged.get_mut(70) = -1;
        paged.grow_to(300);

        let mut file = Vec::new();
        snapshot.write_arrow(&mut file).unwrap();
        let restored = Restored::read_arrow(file.as_slice()).unwrap();
        let back = Paged::<i64>::restore(restored.section("values").unwrap()).unwrap();
        assert_eq!(back.len(), 200);
        assert!((0..200).all(|slot| *back.get(slot) == slot as i64));
        assert_eq!(*paged.get(70), -1);
        assert_eq!(*paged.get(299), 0);
    }
}
