//! How often the scorer asks for memory: a few times a batch, however many rows the batch has.
//!
//! A test binary of its own, because the allocator counts for all of it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use sanderling_schemas::Rung;
use sanderling_scoring::Scorer;

#[allow(dead_code)]
#[path = "../benches/score/stream.rs"]
mod stream;

use stream::{LABEL_DELAY, Traffic, batch_of, labels_only, model, relation, schema, whole};

/// The system's, with a count of how often it was asked.
struct Counting;

static ASKED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ASKED.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Every card and terminal is known and has its fill of events long before labels come.
const TRAFFIC: Traffic = Traffic {
    cards: 300,
    terminals: 100,
    crowded: false,
};
const CROWDED: Traffic = Traffic {
    crowded: true,
    ..TRAFFIC
};

#[test]
fn a_batch_asks_for_memory_a_few_times_however_long_it_is() {
    for (name, options, at_most) in [
        ("whole", whole(), 32),
        ("labels only", labels_only(1), 32),
        ("two members", labels_only(2), 48),
    ] {
        let model = Arc::new(model(options));
        for traffic in [TRAFFIC, CROWDED] {
            let mut scorer = Scorer::new(model.clone(), &schema(), &relation(), 1)
                .expect("the model is of this schema");
            let mut asked = |rows: usize, number: usize| {
                let batch = batch_of(rows, number, traffic);
                let before = ASKED.load(Ordering::Relaxed);
                let scored = scorer.score(&batch, Rung::Full);
                let asked = ASKED.load(Ordering::Relaxed) - before;
                assert_eq!(
                    scored.expect("a batch of the schema").batch.scores.len(),
                    rows
                );
                asked
            };
            // Until labels have come for a while, and once with as many rows as will be asked about.
            let warm = LABEL_DELAY as usize / 512 + 20;
            for number in 0..warm {
                asked(512, number);
            }
            let of_256: Vec<usize> = (0..4).map(|i| asked(256, 2 * warm + i)).collect();
            let of_512: Vec<usize> = (0..4).map(|i| asked(512, warm + 2 + i)).collect();
            let [few, many] = [of_256, of_512].map(|asked| asked.into_iter().max().unwrap_or(0));
            assert!(few <= at_most, "{name}: {few}");
            assert!(many <= few + 4, "{name}: {few}, of twice the rows {many}");
        }
    }
}
