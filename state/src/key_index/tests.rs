use std::collections::HashMap;

use super::*;
use crate::{Persist, Restored};

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
    let back = restored(snapshot);
    assert_eq!(back.len(), 5002);
    assert_eq!(back.find(b"key 4999"), Some(4999));
    assert_eq!(back.find(b""), Some(5000));
    assert_eq!(back.find(b"after the snapshot"), None);
    assert_eq!(back.key(17), b"key 17");
}

#[test]
fn a_forgotten_key_gives_its_slot_to_the_next_new_one() {
    // So long that the hash tables, whose room depends on the processor's hash, weigh little.
    let old = |n: u32| format!("key {n:0600}");
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
    let mut back = restored(snapshot);
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

/// Numbers that look random: splitmix64.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn restored(snapshot: Snapshot) -> KeyIndex {
    let mut file = Vec::new();
    snapshot.write_arrow(&mut file).unwrap();
    let restored = Restored::read_arrow(file.as_slice()).unwrap();
    KeyIndex::restore(restored.section("keys").unwrap()).unwrap()
}

#[test]
fn batches_mean_what_row_by_row_does() {
    let (mut batched, mut by_row) = (KeyIndex::default(), KeyIndex::default());
    let mut known: HashMap<Vec<u8>, u32> = HashMap::new();
    let mut state = 7;
    for round in 0..300 {
        // Some 4,000 keys of other lengths; those of a batch are near each other, so that many come twice.
        let near = random(&mut state) % 4000;
        let rows = (random(&mut state) % [1, 20, 40, 300][round % 4]) as usize;
        let keys: Vec<Option<Vec<u8>>> = (0..rows)
            .map(|_| {
                let n = near + random(&mut state) % (rows as u64 * 2);
                let key = format!("{n}{}", "-".repeat(n as usize % 7));
                (!n.is_multiple_of(9)).then(|| match n {
                    77 => Vec::new(),
                    _ => key.into_bytes(),
                })
            })
            .collect();
        let slots = batched.slots_of(rows, &|row, take| match &keys[row] {
            None if row % 2 == 0 => {}
            key => take(key.as_deref()),
        });
        for (key, slot) in keys.iter().zip(slots) {
            let expected = key.as_ref().map_or(NO_SLOT, |key| by_row.slot_of(key));
            assert_eq!(slot, expected, "round {round}");
            if let Some(key) = key {
                assert_eq!(*known.entry(key.clone()).or_insert(slot), slot);
            }
        }
        let held = (round % 2 == 0).then(|| batched.known());
        if round % 15 == 0 {
            let mut forgotten: Vec<u32> = known.values().copied().collect();
            forgotten.sort_unstable();
            forgotten.retain(|_| random(&mut state).is_multiple_of(3));
            for slot in forgotten {
                batched.forget(slot);
                by_row.forget(slot);
                known.retain(|_, other| *other != slot);
                if let Some(held) = &held {
                    assert!(held.key(slot).is_some(), "a key went from under its reader");
                }
            }
        }
        if round % 50 == 49 {
            let mut snapshot = Snapshot::default();
            batched.snapshot("keys", &mut snapshot);
            batched.slot_of(b"after the snapshot");
            // Which free slot goes first is not kept.
            batched = restored(snapshot.clone());
            by_row = restored(snapshot);
        }
        assert_eq!(batched.known_len(), known.len());
        assert_eq!(batched.len(), by_row.len());
        for (key, slot) in &known {
            assert_eq!(batched.find(key), Some(*slot));
            assert_eq!(batched.key(*slot), &key[..]);
        }
    }
    assert!(batched.len() > 1000, "{}", batched.len());
}

/// Bytes of a page as they were written.
struct Written(Vec<u8>);

impl Page for Written {
    fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }
}

#[test]
fn pages_of_another_number_of_keys_are_read() {
    // The first is as long as one may be, with words of those that were forgotten.
    let key = |n: u32| format!("key {n}");
    let mut pages: Vec<Arc<dyn Page>> = Vec::new();
    for (from, to) in [(0, 1024), (1024, 1127), (1127, 1500)] {
        let (mut ends, mut keys) = (Vec::<u32>::new(), Vec::<u8>::new());
        let mut gone = vec![0u64; 16];
        for n in from..to {
            if from == 0 && n % 100 == 5 {
                gone[n as usize / 64] |= 1 << (n % 64);
            } else {
                keys.extend_from_slice(key(n).as_bytes());
            }
            ends.push(keys.len() as u32);
        }
        let mut out = Vec::new();
        ends.write(&mut out);
        keys.write(&mut out);
        if from == 0 {
            gone.write(&mut out);
        }
        pages.push(Arc::new(Written(out)));
    }
    let mut snapshot = Snapshot::default();
    snapshot.add("keys", pages);
    let mut back = restored(snapshot);
    assert_eq!((back.len(), back.known_len()), (1500, 1489));
    for n in 0..1500 {
        let is_gone = n < 1024 && n % 100 == 5;
        assert_eq!(back.has_key(n), !is_gone);
        assert_eq!(back.find(key(n).as_bytes()), (!is_gone).then_some(n));
    }
    assert_eq!(back.slot_of(b"one more"), 1005);
}

#[test]
fn a_key_that_stands_twice_is_damage() {
    let mut out = Vec::new();
    vec![3u32, 6].write(&mut out);
    b"oneone".to_vec().write(&mut out);
    let mut snapshot = Snapshot::default();
    snapshot.add("keys", vec![Arc::new(Written(out))]);
    let mut file = Vec::new();
    snapshot.write_arrow(&mut file).unwrap();
    let restored = Restored::read_arrow(file.as_slice()).unwrap();
    let back = KeyIndex::restore(restored.section("keys").unwrap());
    assert!(matches!(back, Err(StateError::Damaged(_))));
}
