//! Values by dense slot, in pages that are shared with snapshots and cloned on the next write.

use std::sync::Arc;

use crate::snapshot::{Page, Section, Snapshot};
use crate::{Persist, StateError};

/// A vector of values, copy-on-write by pages of [`Persist::PAGE_VALUES`].
#[derive(Debug, Clone)]
pub struct Paged<V: Persist + Clone + Default> {
    pages: Vec<Arc<ValuePage<V>>>,
    len: usize,
}

#[derive(Debug, Clone)]
struct ValuePage<V> {
    values: Vec<V>,
}

impl<V: Persist + Send + Sync> Page for ValuePage<V> {
    fn write(&self, out: &mut Vec<u8>) {
        (self.values.len() as u64).write(out);
        for value in &self.values {
            value.write(out);
        }
    }
}

impl<V: Persist + Clone + Default> Default for Paged<V> {
    fn default() -> Self {
        Paged {
            pages: Vec::new(),
            len: 0,
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
    pub fn get(&self, slot: usize) -> &V {
        &self.pages[slot / V::PAGE_VALUES].values[slot % V::PAGE_VALUES]
    }

    /// The value of a slot below [`Paged::len`], to change. Clones its page if a snapshot holds it.
    pub fn get_mut(&mut self, slot: usize) -> &mut V {
        let page = Arc::make_mut(&mut self.pages[slot / V::PAGE_VALUES]);
        &mut page.values[slot % V::PAGE_VALUES]
    }

    /// Adds default values until there are `len`; never shrinks.
    pub fn grow_to(&mut self, len: usize) {
        while self.len < len {
            if self.len.is_multiple_of(V::PAGE_VALUES) {
                let values = Vec::with_capacity(V::PAGE_VALUES);
                self.pages.push(Arc::new(ValuePage { values }));
            }
            let page = self
                .pages
                .last_mut()
                .expect("a page was just made for this slot");
            let values = &mut Arc::make_mut(page).values;
            let more = (V::PAGE_VALUES - values.len()).min(len - self.len);
            values.resize_with(values.len() + more, V::default);
            self.len += more;
        }
    }

    /// Values in slot order.
    pub fn iter(&self) -> impl Iterator<Item = &V> {
        self.pages.iter().flat_map(|page| &page.values)
    }
}

impl<V: Persist + Clone + Default + Send + Sync + 'static> Paged<V> {
    /// Adds the pages to a snapshot, by reference.
    pub fn snapshot(&self, name: &str, snapshot: &mut Snapshot) {
        snapshot.add(
            name,
            self.pages
                .iter()
                .map(|page| page.clone() as Arc<dyn Page>)
                .collect(),
        );
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
            paged.len += count;
            paged.pages.push(Arc::new(ValuePage { values }));
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
