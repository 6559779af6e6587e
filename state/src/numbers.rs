//! Numbers by the bytes that they stand for.
//!
//! The bytes stand elsewhere, in pages that snapshots share; here is only the hash table beside them,
//! which whoever reads the pages back fills anew. So each call is told how to look a number's bytes up.

use ahash::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// Bits of a hash by which a number's table is chosen.
const TABLE_BITS: u32 = 8;

/// Bytes -> number.
///
/// A table that grows moves all it has, which stops a stream for a tenth of a second at some millions. So
/// there are many, and each moves its own small part at another time.
#[derive(Debug, Clone)]
pub(crate) struct Numbers {
    tables: Box<[HashTable<Hashed>]>,
    hasher: RandomState,
}

/// A number beside the hash of its bytes, so that a table grows, and most strangers are turned away,
/// without a look at the bytes.
#[derive(Debug, Clone, Copy)]
struct Hashed {
    hash: u32,
    number: u32,
}

/// Which table holds the numbers of a hash.
fn table_of(hash: u32) -> usize {
    (hash >> (u32::BITS - TABLE_BITS)) as usize
}

/// 32 bits of a hash as the 64 that a table wants.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Default for Numbers {
    /// No numbers. The hasher's seeds are fixed; nothing ever depends on a hash's value but speed.
    fn default() -> Self {
        Numbers {
            tables: vec![HashTable::new(); 1 << TABLE_BITS].into(),
            hasher: RandomState::with_seeds(
                0x243f_6a88_85a3_08d3,
                0x1319_8a2e_0370_7344,
                0xa409_3822_299f_31d0,
                0x082e_fa98_ec4e_6c89,
            ),
        }
    }
}

impl Numbers {
    /// Heap bytes.
    pub(crate) fn bytes(&self) -> usize {
        let slots: usize = self.tables.iter().map(HashTable::capacity).sum();
        slots * (size_of::<Hashed>() + 1) + size_of_val(&*self.tables)
    }

    /// What numbers are looked up by.
    #[inline]
    pub(crate) fn hash_of(&self, bytes: &[u8]) -> u32 {
        self.hasher.hash_one(bytes) as u32
    }

    /// A number whose bytes have this hash; most often the one that is meant.
    #[inline]
    pub(crate) fn likely(&self, hash: u32) -> Option<u32> {
        self.tables[table_of(hash)]
            .find(spread(hash), |known| known.hash == hash)
            .map(|known| known.number)
    }

    /// The number of `bytes`, if they have one.
    #[inline]
    pub(crate) fn find<'a>(&self, bytes: &[u8], bytes_of: impl Fn(u32) -> &'a [u8]) -> Option<u32> {
        let hash = self.hasher.hash_one(bytes) as u32;
        let same = |known: &Hashed| known.hash == hash && bytes_of(known.number) == bytes;
        self.tables[table_of(hash)]
            .find(spread(hash), same)
            .map(|known| known.number)
    }

    /// The number of `bytes`, which is `new` if they had none. It may be changed.
    #[inline]
    pub(crate) fn find_or_insert<'a>(
        &mut self,
        bytes: &[u8],
        new: u32,
        bytes_of: impl Fn(u32) -> &'a [u8],
    ) -> &mut u32 {
        let hash = self.hasher.hash_one(bytes) as u32;
        let entry = self.tables[table_of(hash)].entry(
            spread(hash),
            |known| known.hash == hash && bytes_of(known.number) == bytes,
            |known| spread(known.hash),
        );
        let known = match entry {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(vacant) => vacant.insert(Hashed { hash, number: new }).into_mut(),
        };
        &mut known.number
    }

    /// Forgets `bytes` if their number is `number`.
    pub(crate) fn remove(&mut self, bytes: &[u8], number: u32) {
        let hash = self.hasher.hash_one(bytes) as u32;
        let entry =
            self.tables[table_of(hash)].find_entry(spread(hash), |known| known.number == number);
        if let Ok(entry) = entry {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_changed_and_forgotten() {
        let all: Vec<String> = (0..3000).map(|n| format!("key {n}")).collect();
        let bytes_of = |number: u32| all[number as usize % 3000].as_bytes();
        let mut numbers = Numbers::default();
        for (n, key) in all.iter().enumerate() {
            assert_eq!(
                *numbers.find_or_insert(key.as_bytes(), n as u32, bytes_of),
                n as u32
            );
        }
        assert_eq!(*numbers.find_or_insert(b"key 7", 9999, bytes_of), 7);
        *numbers.find_or_insert(b"key 7", 9999, bytes_of) = 3007;
        assert_eq!(numbers.find(b"key 7", bytes_of), Some(3007));
        // The number is another one by now.
        numbers.remove(b"key 7", 7);
        assert_eq!(numbers.find(b"key 7", bytes_of), Some(3007));
        numbers.remove(b"key 7", 3007);
        assert_eq!(numbers.find(b"key 7", bytes_of), None);
        assert_eq!(numbers.find(b"key 2999", bytes_of), Some(2999));
    }
}
