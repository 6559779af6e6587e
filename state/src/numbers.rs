//! Numbers by the bytes that they stand for.
//!
//! The bytes stand elsewhere, in pages that snapshots share; here is only the hash table beside them,
//! which whoever reads the pages back fills anew. So each call is told how to look a number's bytes up. Where they are
//! looked up for each row of a stream, short ones stand in the table too ([`Short`]), so that nothing else is
//! looked at.
//!
//! The tables are not hashbrown's, because a table that cannot be asked for its line ahead is waited for, once
//! for each key: hashbrown's bytes of control and then an entry elsewhere. Here an entry is found where its hash
//! says or right behind, most often in the one line that [`Numbers::prefetch`] has asked for.

use ahash::RandomState;

use crate::paged::prefetch_line;

/// Bits of a hash by which a number's table is chosen.
const TABLE_BITS: u32 = 8;

/// Entries of a table that has any.
const ENTRIES_MIN: usize = 8;

const LINE_BYTES: usize = 64;

/// Bytes -> number.
///
/// A table that grows moves all it has, which stops a stream for a tenth of a second at some millions. So
/// there are many, and each moves its own small part at another time.
#[derive(Debug, Clone)]
pub(crate) struct Numbers<K> {
    tables: Box<[Table<K>]>,
    hasher: RandomState,
}

/// What a table keeps of the bytes of a number.
pub(crate) trait Kept: Copy + Default + Eq {
    /// What is kept of these bytes.
    fn of(bytes: &[u8]) -> Self;

    /// Whether no other bytes have this kept of them.
    fn is_whole(&self) -> bool;
}

/// Nothing.
impl Kept for () {
    #[inline]
    fn of(_: &[u8]) {}

    #[inline]
    fn is_whole(&self) -> bool {
        false
    }
}

/// Up to 23 bytes and how many they are, or the first 23 of more. With it an entry is half a cache line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Short([u64; SHORT_WORDS]);

const SHORT_WORDS: usize = 3;
const SHORT_BYTES_MAX: usize = SHORT_WORDS * size_of::<u64>() - 1;
/// Stands for how many there are where there are more.
const LONG: u8 = u8::MAX;

impl Kept for Short {
    #[inline]
    fn of(bytes: &[u8]) -> Self {
        let mut kept = [0; SHORT_WORDS * size_of::<u64>()];
        let len = bytes.len().min(SHORT_BYTES_MAX);
        kept[..len].copy_from_slice(&bytes[..len]);
        kept[SHORT_BYTES_MAX] = if bytes.len() > SHORT_BYTES_MAX {
            LONG
        } else {
            len as u8
        };
        let (words, _) = kept.as_chunks();
        Short(std::array::from_fn(|word| u64::from_le_bytes(words[word])))
    }

    #[inline]
    fn is_whole(&self) -> bool {
        self.0[SHORT_WORDS - 1] >> (u64::BITS - u8::BITS) != u64::from(LONG)
    }
}

/// A number beside the hash of its bytes, so that a table grows, and most strangers are turned away,
/// without a look at the bytes. A hash is never 0, which stands where no number does.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(8))]
struct Entry<K> {
    hash: u32,
    number: u32,
    kept: K,
}

/// Numbers of hashes that begin with the same bits. Each stands where the other bits say, or behind that with
/// no free entry between.
#[derive(Debug, Clone, Default)]
struct Table<K> {
    /// As many as a power of two, or none; at most three of four are taken.
    entries: Box<[Entry<K>]>,
    taken: usize,
}

/// Bytes that are looked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sought<K> {
    /// Never 0.
    hash: u32,
    kept: K,
}

/// What a table alone knows of bytes that are looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Known {
    /// This is their number.
    As(u32),
    /// This is it, if they are the number's bytes, which is most likely.
    Perhaps(u32),
    /// They have none.
    No,
}

/// Which table holds the numbers of a hash.
#[inline]
fn table_of(hash: u32) -> usize {
    (hash >> (u32::BITS - TABLE_BITS)) as usize
}

impl<K: Kept> Table<K> {
    /// Entries of a cache line.
    const LINE_ENTRIES: usize = LINE_BYTES / size_of::<Entry<K>>();

    /// Where the numbers of a hash begin: what its bits below those of the table are of their greatest value,
    /// of the entries, and of that where the cache line begins, so that one line is most often all. So a table that grows is read, and the new one written, from front to back.
    #[inline]
    fn home(&self, hash: u32) -> usize {
        let share = u64::from(hash << TABLE_BITS);
        let at = ((share * self.entries.len() as u64) >> u32::BITS) as usize;
        at & !(Self::LINE_ENTRIES - 1)
    }

    #[inline]
    fn next(&self, at: usize) -> usize {
        (at + 1) & (self.entries.len() - 1)
    }

    /// The entry of a hash that is the `same`, or else the one that is free for it; 0 without any.
    #[inline]
    fn find(&self, hash: u32, same: impl Fn(&Entry<K>) -> bool) -> Result<usize, usize> {
        let mut at = self.home(hash);
        while let Some(entry) = self.entries.get(at) {
            if entry.hash == hash && same(entry) {
                return Ok(at);
            }
            if entry.hash == 0 {
                return Err(at);
            }
            at = self.next(at);
        }
        Err(0)
    }

    /// The entry of these bytes, or else the one that is free for them; 0 without any.
    #[inline]
    fn find_bytes<'a>(
        &self,
        sought: &Sought<K>,
        bytes: &[u8],
        bytes_of: impl Fn(u32) -> &'a [u8],
    ) -> Result<usize, usize> {
        let whole = sought.kept.is_whole();
        self.find(sought.hash, |entry| {
            entry.kept == sought.kept && (whole || bytes_of(entry.number) == bytes)
        })
    }

    /// Puts a number in the free entry at `at`, or another where the table must grow first. Returns where.
    fn insert(&mut self, sought: &Sought<K>, number: u32, mut at: usize) -> usize {
        let &Sought { hash, kept } = sought;
        if (self.taken + 1) * 4 > self.entries.len() * 3 {
            self.grow();
            at = self.free(hash);
        }
        self.entries[at] = Entry { hash, number, kept };
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
        let old = std::mem::replace(&mut self.entries, vec![Entry::default(); len].into());
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
        self.entries[hole] = Entry::default();
        self.taken -= 1;
    }
}

impl<K: Kept> Default for Numbers<K> {
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

impl<K: Kept> Numbers<K> {
    /// Heap bytes.
    pub(crate) fn bytes(&self) -> usize {
        let entries: usize = self.tables.iter().map(|table| table.entries.len()).sum();
        entries * size_of::<Entry<K>>() + size_of_val(&*self.tables)
    }

    /// What numbers are looked up by.
    #[inline]
    pub(crate) fn sought(&self, bytes: &[u8]) -> Sought<K> {
        Sought {
            hash: (self.hasher.hash_one(bytes) as u32).max(1),
            kept: K::of(bytes),
        }
    }

    /// Asks for the memory in which the numbers of a hash begin.
    #[inline]
    pub(crate) fn prefetch(&self, sought: &Sought<K>) {
        let table = &self.tables[table_of(sought.hash)];
        let home = table.home(sought.hash);
        prefetch_line(table.entries.as_ptr().wrapping_add(home).cast());
    }

    /// What is known without a look at any number's bytes.
    #[inline]
    pub(crate) fn known(&self, sought: &Sought<K>) -> Known {
        let table = &self.tables[table_of(sought.hash)];
        match table.find(sought.hash, |entry| entry.kept == sought.kept) {
            Err(_) => Known::No,
            Ok(at) if sought.kept.is_whole() => Known::As(table.entries[at].number),
            Ok(at) => Known::Perhaps(table.entries[at].number),
        }
    }

    /// The number of `bytes`, if they have one.
    #[inline]
    pub(crate) fn find<'a>(&self, bytes: &[u8], bytes_of: impl Fn(u32) -> &'a [u8]) -> Option<u32> {
        let sought = self.sought(bytes);
        let table = &self.tables[table_of(sought.hash)];
        let at = table.find_bytes(&sought, bytes, bytes_of).ok()?;
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
        self.find_or_insert_sought(&self.sought(bytes), bytes, new, bytes_of)
    }

    /// The same where the bytes are [`Numbers::sought`] already.
    #[inline]
    pub(crate) fn find_or_insert_sought<'a>(
        &mut self,
        sought: &Sought<K>,
        bytes: &[u8],
        new: u32,
        bytes_of: impl Fn(u32) -> &'a [u8],
    ) -> &mut u32 {
        let table = &mut self.tables[table_of(sought.hash)];
        let at = match table.find_bytes(sought, bytes, bytes_of) {
            Ok(at) => at,
            Err(free) => table.insert(sought, new, free),
        };
        &mut table.entries[at].number
    }

    /// Forgets `bytes` if their number is `number`.
    pub(crate) fn remove(&mut self, bytes: &[u8], number: u32) {
        let sought = self.sought(bytes);
        let table = &mut self.tables[table_of(sought.hash)];
        if let Ok(at) = table.find(sought.hash, |entry| entry.number == number) {
            table.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found_changed_and_forgotten<K: Kept>(key: fn(usize) -> String) {
        let all: Vec<String> = (0..3000).map(key).collect();
        let bytes_of = |number: u32| all[number as usize % 3000].as_bytes();
        let mut numbers = Numbers::<K>::default();
        for (n, key) in all.iter().enumerate() {
            assert_eq!(
                *numbers.find_or_insert(key.as_bytes(), n as u32, bytes_of),
                n as u32
            );
        }
        let seventh = all[7].as_bytes();
        assert_eq!(*numbers.find_or_insert(seventh, 9999, bytes_of), 7);
        *numbers.find_or_insert(seventh, 9999, bytes_of) = 3007;
        assert_eq!(numbers.find(seventh, bytes_of), Some(3007));
        let known = match K::of(seventh).is_whole() {
            true => Known::As(3007),
            false => Known::Perhaps(3007),
        };
        assert_eq!(numbers.known(&numbers.sought(seventh)), known);
        // The number is another one by now.
        numbers.remove(seventh, 7);
        assert_eq!(numbers.find(seventh, bytes_of), Some(3007));
        numbers.remove(seventh, 3007);
        assert_eq!(numbers.find(seventh, bytes_of), None);
        assert_eq!(numbers.known(&numbers.sought(seventh)), Known::No);
        assert_eq!(numbers.find(all[2999].as_bytes(), bytes_of), Some(2999));
    }

    #[test]
    fn numbers_are_found_changed_and_forgotten() {
        found_changed_and_forgotten::<()>(|n| format!("key {n}"));
        found_changed_and_forgotten::<Short>(|n| format!("key {n}"));
        found_changed_and_forgotten::<Short>(|n| format!("of more than 23 bytes, key {n}"));
    }

    #[test]
    fn short_bytes_are_kept_whole_and_no_others() {
        let all: Vec<Vec<u8>> = (0..30)
            .flat_map(|len| {
                [
                    vec![b'k'; len],
                    vec![0; len],
                    [vec![0; len], vec![b'k']].concat(),
                ]
            })
            .collect();
        for one in &all {
            let kept = Short::of(one);
            assert_eq!(kept.is_whole(), one.len() <= SHORT_BYTES_MAX);
            for other in &all {
                assert!(one == other || !kept.is_whole() || kept != Short::of(other));
            }
        }
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
        let mut table = Table::<()>::default();
        let mut there = [false; 200];
        for step in 0..20_000u32 {
            let n = step.wrapping_mul(2_654_435_761) >> 8;
            // Full for a while, and nearly empty for another.
            let (n, comes) = (
                n % 200,
                n / 200 % 8 < if step / 2000 % 2 == 0 { 6 } else { 2 },
            );
            let hash = hash_of(n);
            match table.find(hash, |entry| entry.number == n) {
                Ok(at) if !comes => {
                    table.remove(at);
                    there[n as usize] = false;
                }
                Err(free) if comes => {
                    table.insert(&Sought { hash, kept: () }, n, free);
                    there[n as usize] = true;
                }
                _ => {}
            }
            assert_eq!(table.taken, there.iter().filter(|there| **there).count());
            for n in 0..200 {
                let found = table.find(hash_of(n), |entry| entry.number == n);
                assert_eq!(found.is_ok(), there[n as usize], "{n} after {step}");
            }
        }
        assert_eq!(table.entries.len(), 256);
    }
}
