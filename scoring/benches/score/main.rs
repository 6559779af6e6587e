//! Events per second through the scorer alone, on one thread, in batches of 256.
//!
//! `cargo bench --profile measure -p sanderling-scoring --bench score [-- PART-OF-A-CASE'S-NAME]`; `-- keys`
//! measures what a card and a terminal take, and what an event costs from 1,000 cards to 1,000,000; `-- devices`
//! scores on each device and in each precision that there is, and says how far apart the scores are; `-- threads`
//! scores on one thread and on two by turns.

#![allow(clippy::print_stdout)]

mod stream;

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sanderling_schemas::{FeatureBatch, Rung};
use sanderling_scoring::{
    Placement, Precision, Scorer, ScoringDevice, ScoringOptions, ServedModel,
};

use stream::{FEATURES, Traffic, batch_of, labels_only, model, relation, schema, whole};

const ROWS: usize = 256;
const BATCHES: usize = 240;
/// Events of a card, in the mean, before what an event costs among many cards is measured.
const EVENTS_A_CARD: u64 = 16;
/// Batches of that measurement.
const BATCHES_OF_MANY: usize = 400;

/// Batch `number` of the stream: 256 scored events, and one label for each once they are old enough.
fn batch(number: usize, traffic: Traffic) -> FeatureBatch {
    batch_of(ROWS, number, traffic)
}

/// Seconds of each batch once memories are full, ascending.
fn measure(
    model: &Arc<ServedModel>,
    batches: &[FeatureBatch],
    rung: Rung,
    threads: usize,
) -> Vec<f64> {
    let mut scorer = Scorer::new(model.clone(), &schema(), &relation(), threads)
        .expect("the model is of this schema");
    let mut seconds = Vec::new();
    for batch in batches {
        let clock = Instant::now();
        black_box(scorer.score(batch, rung).expect("a batch of the schema"));
        seconds.push(clock.elapsed().as_secs_f64());
    }
    let mut late = seconds.split_off(batches.len() / 2);
    late.sort_by(f64::total_cmp);
    late
}

/// What an event costs, and how much is remembered, from few cards to many.
fn keys() {
    let model = Arc::new(model(whole()));
    println!(
        "one core, batches of {ROWS}, {FEATURES} features, a terminal for five cards, after {EVENTS_A_CARD} events a \
         card in the mean"
    );
    let mut few = None;
    for cards in [1_000, 10_000, 100_000, 1_000_000] {
        let traffic = Traffic {
            cards,
            terminals: cards / 5,
            crowded: false,
        };
        let mut scorer = Scorer::new(model.clone(), &schema(), &relation(), 1)
            .expect("the model is of this schema");
        let before = (cards * EVENTS_A_CARD) as usize / ROWS;
        let mut seconds = Vec::new();
        for number in 0..before + BATCHES_OF_MANY {
            let batch = batch(number, traffic);
            let clock = Instant::now();
            black_box(scorer.score(&batch, Rung::Full)).expect("a batch of the schema");
            seconds.push(clock.elapsed().as_secs_f64());
        }
        let mut seconds = seconds.split_off(before);
        seconds.sort_by(f64::total_cmp);
        let rate = ROWS as f64 / seconds[seconds.len() / 2];
        let bytes = scorer.memories().into_iter().map(|memory| {
            let slots = if memory.entity == 0 { cards } else { cards / 5 };
            let each = (0..slots as u32).filter_map(|slot| Some(memory.summary(slot)?.bytes));
            each.max().expect("some are remembered")
        });
        println!(
            "{cards:>9} cards {rate:>9.0} events/s at the median, {:.2} of the first; bytes at most of a card and of \
             a terminal {:?}",
            rate / *few.get_or_insert(rate),
            bytes.collect::<Vec<_>>(),
        );
    }
}

/// Rounds of the measurement on one thread and two.
const ROUNDS: usize = 8;

/// What a second thread gains, in batches of some and of many events.
fn threads() {
    let [whole, labels_only] = [whole(), labels_only(1)].map(|options| Arc::new(model(options)));
    println!(
        "events/s at the best round's median batch and at the best batch, {FEATURES} features"
    );
    for (name, model, traffic) in [
        ("full", &whole, Traffic::SPREAD),
        ("full, half at one terminal", &whole, Traffic::CROWDED),
        ("no card memory", &labels_only, Traffic::SPREAD),
    ] {
        for rows in [ROWS, 4096] {
            let batches: Vec<FeatureBatch> = (0..BATCHES * ROWS / rows)
                .map(|number| batch_of(rows, number, traffic))
                .collect();
            let mut best = [[f64::MAX; 2]; 2];
            for _ in 0..ROUNDS {
                for (threads, best) in [1, 2].into_iter().zip(&mut best) {
                    let seconds = measure(model, &batches, Rung::Full, threads);
                    best[0] = best[0].min(seconds[seconds.len() / 2]);
                    best[1] = best[1].min(seconds[0]);
                }
            }
            let rate = |seconds: f64| rows as f64 / seconds;
            let [one, two] = best;
            println!(
                "{name:<28} batches of {rows:>4}: one thread {:>9.0} {:>9.0}, two {:>9.0} {:>9.0}, {:.2} as fast",
                rate(one[0]),
                rate(one[1]),
                rate(two[0]),
                rate(two[1]),
                one[0] / two[0],
            );
        }
    }
}

/// The whole scorer with its heads on each device; of a device that is not there, why.
fn devices() {
    let model = model(whole());
    let batches: Vec<FeatureBatch> = (0..BATCHES).map(|n| batch(n, Traffic::SPREAD)).collect();
    let score = |placement: &Placement| -> (Vec<f64>, f64) {
        let placed = Arc::new(model.placed(placement).expect("the device takes the heads"));
        let mut scorer =
            Scorer::new(placed, &schema(), &relation(), 1).expect("the model is of this schema");
        let (mut scores, mut seconds) = (Vec::new(), Vec::new());
        for batch in &batches {
            let clock = Instant::now();
            let scored = scorer
                .score(batch, Rung::Full)
                .expect("a batch of the schema");
            seconds.push(clock.elapsed().as_secs_f64());
            scores.extend(scored.batch.scores);
        }
        let mut late = seconds.split_off(BATCHES / 2);
        late.sort_by(f64::total_cmp);
        (scores, late[late.len() / 2])
    };
    println!("events/s at the median batch of {ROWS}, memory on one core; scores apart, log-odds");
    let (wanted, seconds) = score(&Placement::default());
    println!(
        "{:<40} {:>9.0} events/s",
        "the CPU's kernels",
        ROWS as f64 / seconds
    );
    for device in [ScoringDevice::Graph, ScoringDevice::Cuda] {
        for precision in [Precision::F32, Precision::F16, Precision::Bf16] {
            let placement = match Placement::of(&ScoringOptions { device, precision }) {
                Ok(placement) => placement,
                Err(e) => {
                    println!("{device:?} in {precision:?}: {e}");
                    continue;
                }
            };
            let (found, seconds) = score(&placement);
            let apart = wanted.iter().zip(&found).map(|(a, b)| (a - b).abs());
            let mean = apart.clone().sum::<f64>() / wanted.len() as f64;
            println!(
                "{:<40} {:>9.0} events/s; {mean:.1e} apart in the mean, {:.1e} at most",
                placement.to_string(),
                ROWS as f64 / seconds,
                apart.fold(0.0, f64::max),
            );
        }
    }
}

fn main() {
    // cargo's own arguments begin with dashes.
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let wanted = wanted.unwrap_or_default();
    if wanted == "keys" {
        return keys();
    }
    if wanted == "devices" {
        return devices();
    }
    if wanted == "threads" {
        return threads();
    }
    let whole = Arc::new(model(whole()));
    let [one, two, three] = [1, 2, 3].map(|members| Arc::new(model(labels_only(members))));
    let spread: Vec<FeatureBatch> = (0..BATCHES).map(|n| batch(n, Traffic::SPREAD)).collect();
    let crowded: Vec<FeatureBatch> = (0..BATCHES).map(|n| batch(n, Traffic::CROWDED)).collect();
    let cases = [
        ("full", &whole, &spread, Rung::Full),
        ("full, half at one terminal", &whole, &crowded, Rung::Full),
        ("no graph", &whole, &spread, Rung::NoGraph),
        ("linear", &whole, &spread, Rung::Linear),
        ("no card memory", &one, &spread, Rung::Full),
        ("the same, two members", &two, &spread, Rung::Full),
        ("the same, three members", &three, &spread, Rung::Full),
    ];
    println!("events/s on one core, batches of {ROWS}, {FEATURES} features");
    for (name, model, batches, rung) in cases {
        if !name.contains(&wanted) {
            continue;
        }
        let begun = Instant::now();
        let (mut median, mut best, mut all) = (f64::MAX, f64::MAX, Vec::new());
        while begun.elapsed() < Duration::from_secs(5) {
            let seconds = measure(model, batches, rung, 1);
            median = median.min(seconds[seconds.len() / 2]);
            best = best.min(seconds[0]);
            all.extend(seconds);
        }
        all.sort_by(f64::total_cmp);
        let rate = |seconds: f64| ROWS as f64 / seconds;
        println!(
            "{name:<28} {:>9.0} at the median, {:>9.0} at best; p99 of all {} batches {:.2} ms",
            rate(median),
            rate(best),
            all.len(),
            all[all.len() * 99 / 100] * 1e3,
        );
    }
}
