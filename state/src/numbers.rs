//! Numbers by the bytes that they stand for.
//!
//! The bytes stand elsewhere, in pages that snapshots share; here is only the hash table beside them,
//! which whoever reads the pages back fills anew. So each call is told how to look a number's bytes up.
//!
//! The tables are not hashbrown's, because a table that cannot be asked for its line ahead is waited for, once
//! for each key: hashbrown's bytes of control and then an entry elsewhere. Here an entry is found where its hash
//! says or right behind, most often in the one line that [`Numbers::prefetch`] has asked for.

use ahash::RandomState;

use crate::paged::prefetch_line;

/// Bits of a hash by which a number's table is chosen.
const TABLE_BITS: u32 = 8;

/// Entries of a table that has any.
const ENTRIES_MIN: usize = 4;

/// Bytes -> number.
///
/// A table that grows moves all it has, which stops a stream for a tenth of a second at some millions. So
/// there are many, and each moves its own small part at another time.
#[derive(Debug, Clone)]
pub(crate) struct Numbers {
    tables: Box<[Table]>,
    hasher: RandomState,
}

/// A number beside the hash of its bytes, so that a table grows, and most strangers are turned away,
/// without a look at the bytes. A hash is never 0, which stands where no number does.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(8))]
struct Hashed {
    hash: u32,
    number: u32,
}

/// Numbers of hashes that begin with the same bits. Each stands where the other bits say, or behind that with
/// no free entry between.
#[derive(Debug, Clone, Default)]
struct Table {
    /// As many as a power of two, or none; at most three of four are taken.
    entries: Box<[Hashed]>,
    taken: usize,
}

/// Which table holds the numbers of a hash.
#[inline]
fn table_of(hash: u32) -> usize {
    (hash >> (u32::BITS - TABLE_BITS)) as usize
}

impl Table {
    /// Where the numbers of a hash begin: what its bits below those of the table are of their greatest value,
    /// of the entries. So a table that grows is read, and the new one written, from front to back.
    #[inline]
    fn home(&self, hash: u32) -> usize {
        let share = u64::from(hash << TABLE_BITS);
        ((share * self.entries.len() as u64) >> u32::BITS) as usize
    }

    #[inline]
    fn next(&self, at: usize) -> usize {
        (at + 1) & (self.entries.len() - 1)
    }

    /// The entry of a hash whose number is the `same`, or else the one that is free for it; 0 without any.
    #[inline]
    fn find(&self, hash: u32, same: impl Fn(u32) -> bool) -> Result<usize, usize> {
        let mut at = self.home(hash);
        while let Some(entry) = self.entries.get(at) {
            if entry.hash == hash && same(entry.number) {
                return Ok(at);
            }
            if entry.hash == 0 {
                return Err(at);
            }
            at = self.next(at);
        }
        Err(0)
    }

    /// Puts a number in the free entry at `at`, or another where the table must grow first. Returns where.
    fn insert(&mut self, hash: u32, number: u32, mut at: usize) -> usize {
        if (self.taken + 1) * 4 > self.entries.len() * 3 {
            self.grow();
            at = self.free(hash);
        }
        self.entries[at] = Hashed { hash, number };
        self.taken += 1;
        at
    }

    /// The first free entry for a hash.
    fn free(&self, hash: u32) -> usize {
        self.find(hash, |_| false)
            .expect_err("nothing is the same as nothing")
    }

    fn grow(&mut self) {
        let len = (self.entries.len() * 2).max(ENTRIES_MIN);
        let old = std::mem::replace(&mut self.entries, vec![Hashed::default(); len].into());
        for entry in old.iter().filter(|entry| entry.hash != 0) {
            let at = self.free(entry.hash);
            self.entries[at] = *entry;
        }
    }

    /// Frees an entry: whoever stands behind because of it moves up.
    fn remove(&mut self, mut hole: usize) {
        let mask = self.entries.len() - 1;
        let mut at = self.next(hole);
        while self.entries[at].hash != 0 {
            let from_home = at.wrapping_sub(self.home(self.entries[at].hash)) & mask;
            if from_home >= at.wrapping_sub(hole) & mask {
                self.entries[hole] = self.entries[at];
                hole = at;
            }
            at = self.next(at);
        }
        self.entries[hole] = Hashed::default();
        self.taken -= 1;
    }
}

impl Default for Numbers {
    /// No numbers. The hasher's seeds are fixed; nothing ever depends on a hash's value but speed.
    fn default() -> Self {
        Numbers {
            tables: vec![Table::default(); 1 << TABLE_BITS].into(),
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
        let entries: usize = self.tables.iter().map(|table| table.entries.len()).sum();
        entries * size_of::<Hashed>() + size_of_val(&*self.tables)
    }

    /// What numbers are looked up by; not 0.
    #[inline]
    pub(crate) fn hash_of(&self, bytes: &[u8]) -> u32 {
        (self.hasher.hash_one(bytes) as u32).max(1)
    }

    /// Asks for the memory in which the numbers of a hash begin.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u32) {
        let table = &self.tables[table_of(hash)];
        prefetch_line(table.entries.as_ptr().wrapping_add(table.home(hash)).cast());
    }

    /// A number whose bytes have this hash; most often the one that is meant.
    #[inline]
    pub(crate) fn likely(&self, hash: u32) -> Option<u32> {
        let table = &self.tables[table_of(hash)];
        let at = table.find(hash, |_| true).ok()?;
        Some(table.entries[at].number)
    }

    /// The number of `bytes`, if they have one.
    #[inline]
    pub(crate) fn find<'a>(&self, bytes: &[u8], bytes_of: impl Fn(u32) -> &'a [u8]) -> Option<u32> {
        let hash = self.hash_of(bytes);
        let table = &self.tables[table_of(hash)];
        let at = table.find(hash, |number| bytes_of(number) == bytes).ok()?;
        Some(table.entries[at].number)
    }

    /// The number of `bytes`, which is `new` if they had none. It may be changed.
    #[inline]
    pub(crate) fn find_or_insert<'a>(
        &mut self,
        bytes: &[u8],
        new: u32,
        bytes_of: impl Fn(u32) -> &'a [u8],
    ) -> &mut u32 {
        self.find_or_insert_hashed(self.hash_of(bytes), bytes, new, bytes_of)
    }

    /// The same where [`Numbers::hash_of`] the bytes is known.
    #[inline]
    pub(crate) fn find_or_insert_hashed<'a>(
        &mut self,
        hash: u32,
        bytes: &[u8],
        new: u32,
        bytes_of: impl Fn(u32) -> &'a [u8],
    ) -> &mut u32 {
        let table = &mut self.tables[table_of(hash)];
        let at = match table.find(hash, |number| bytes_of(number) == bytes) {
            Ok(at) => at,
            Err(free) => table.insert(hash, new, free),
        };
        &mut table.entries[at].number
    }

    /// Forgets `bytes` if their number is `number`.
    pub(crate) fn remove(&mut self, bytes: &[u8], number: u32) {
        let hash = self.hash_of(bytes);
        let table = &mut self.tables[table_of(hash)];
        if let Ok(at) = table.find(hash, |known| known == number) {
            table.remove(at);
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
        assert_eq!(numbers.likely(numbers.hash_of(b"key 7")), Some(3007));
        // The number is another one by now.
        numbers.remove(b"key 7", 7);
        assert_eq!(numbers.find(b"key 7", bytes_of), Some(3007));
        numbers.remove(b"key 7", 3007);
        assert_eq!(numbers.find(b"key 7", bytes_of), None);
        assert_eq!(numbers.likely(numbers.hash_of(b"key 7")), None);
        assert_eq!(numbers.find(b"key 2999", bytes_of), Some(2999));
    }

    #[test]
    fn a_table_keeps_what_stands_behind_an_entry_that_goes() {
        // Few homes, some of them the last ones, so that many stand behind and around the end.
        let hash_of = |n: u32| match n % 4 {
            0 => 0x0000_0001 + n % 3,
            1 => 0x00ff_ffff - n % 2,
            2 => 0x00ff_f000 + n,
            _ => n << 16 | 1,
        };
        let mut table = Table::default();
        let mut there = [false; 200];
        for step in 0..20_000u32 {
            let n = step.wrapping_mul(2_654_435_761) >> 8;
            // Full for a while, and nearly empty for another.
            let (n, comes) = (
                n % 200,
                n / 200 % 8 < if step / 2000 % 2 == 0 { 6 } else { 2 },
            );
            let hash = hash_of(n);
            match table.find(hash, |number| number == n) {
                Ok(at) if !comes => {
                    table.remove(at);
                    there[n as usize] = false;
                }
                Err(free) if comes => {
                    table.insert(hash, n, free);
                    there[n as usize] = true;
                }
                _ => {}
            }
            assert_eq!(table.taken, there.iter().filter(|there| **there).count());
            for n in 0..200 {
                let found = table.find(hash_of(n), |number| number == n);
                assert_eq!(found.is_ok(), there[n as usize], "{n} after {step}");
            }
        }
        assert_eq!(table.entries.len(), 256);
    }
}
