//! Events per second through the feature engine, from decoded batches.
//!
//! `cargo bench --profile measure --workspace --bench windows -- SECTION... [FILE.parquet] [THREADS]`
//!
//! Sections: `file`, `card` and `both` (need FILE; the last two are what `features/benches/compare` runs), `functions`, `lengths`,
//! `keys`, `hot`, `batches`, `memory`, `bytes`; without any, all that need no file. FILE has the columns TX_DATETIME, CUSTOMER_ID,
//! TERMINAL_ID and TX_AMOUNT of the Fraud-Detection-Handbook. The other streams are made up: times spread evenly over the
//! days, cards and terminals drawn evenly.
//!
//! Rates are of the second half of a stream, when windows are full, but for `card` and `both`. Time is what the thread spent
//! on a core, so that whoever else uses the machine counts little.
//! Where sizes are compared (`lengths`, `keys`, `hot`) they take turns: printed are the medians over the turns, of the rate and of
//! its ratio to the first, and that one's quartiles.
//! THREADS is how many `card` and `both` use, 1 if it is not there.

#![allow(clippy::print_stdout)]

mod stream;

use std::hint::black_box;
use std::time::{Duration, Instant};

use arrow::buffer::Buffer;
use sanderling_features::FeatureEngine;
use sanderling_schemas::EventBatch;
use sanderling_state::Restored;

use stream::{BATCH_ROWS, HANDBOOK, Made, file, relation};

/// The service's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const DAYS: [&str; 3] = ["1 day", "7 days", "30 days"];
const DECIMAL: [&str; 2] = ["count(amount)", "avg(amount)"];
const DOUBLE: [&str; 2] = ["count(price)", "avg(price)"];
const BOTH: [&str; 2] = ["card_id", "terminal_id"];

/// `items` over windows of each length by each key.
fn sql(items: &[&str], keys: &[&str], lengths: &[&str]) -> String {
    let (mut select, mut windows) = (Vec::new(), Vec::new());
    for key in keys {
        for (number, length) in lengths.iter().enumerate() {
            let window = format!("{key}_{number}");
            for (item, call) in items.iter().enumerate() {
                select.push(format!("{call} OVER {window} AS {window}_{item}"));
            }
            windows.push(format!(
                "{window} AS (PARTITION BY {key} ORDER BY event_time \
                 RANGE BETWEEN INTERVAL '{length}' PRECEDING AND CURRENT ROW)"
            ));
        }
    }
    format!(
        "SELECT {} FROM events WINDOW {}",
        select.join(", "),
        windows.join(", ")
    )
}

/// A run's figures.
struct Figures {
    events_per_s: f64,
    engine: FeatureEngine,
    rss_bytes: usize,
}

fn run(sql: &str, made: Made) -> Figures {
    let relation = relation();
    let before = rss_bytes();
    let mut engine = FeatureEngine::new(relation.clone(), sql).expect("the features are valid");
    let (mut spent, mut timed, mut seen) = (0.0, 0, 0);
    for batch in made.batches(relation, BATCH_ROWS) {
        let took = computed(&mut engine, &batch);
        if seen * 2 >= made.events {
            spent += took;
            timed += batch.len();
        }
        seen += batch.len();
    }
    Figures {
        events_per_s: timed as f64 / spent,
        engine,
        rss_bytes: rss_bytes().saturating_sub(before),
    }
}

/// Seconds that an engine needs for a batch.
fn computed(engine: &mut FeatureEngine, batch: &EventBatch) -> f64 {
    seconds(|| {
        black_box(engine.compute(batch).expect("the rows fit"));
    })
}

/// Rate over the second half of a file's batches.
fn run_file(sql: &str, batches: &[EventBatch]) -> f64 {
    let mut engine = FeatureEngine::new(relation(), sql).expect("the features are valid");
    let half = batches.len() / 2;
    for batch in &batches[..half] {
        black_box(engine.compute(batch).expect("the rows fit"));
    }
    let rest = &batches[half..];
    let spent = seconds(|| {
        for batch in rest {
            black_box(engine.compute(batch).expect("the rows fit"));
        }
    });
    rest.iter().map(EventBatch::len).sum::<usize>() as f64 / spent
}

/// How long this thread has run.
fn cpu_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the place is valid for the call.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(done, 0, "the machine has a clock for each thread");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Seconds that some work kept a core.
fn seconds(work: impl FnOnce()) -> f64 {
    let from = cpu_time();
    work();
    (cpu_time() - from).as_secs_f64()
}

fn rss_bytes() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let resident = pages
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse::<usize>().ok());
    resident.unwrap_or(0) * 4096
}

fn tell(what: &str, events_per_s: f64, of: Option<f64>) {
    let ratio = of.map_or(String::new(), |of| {
        format!("  {:.2} of the first", events_per_s / of)
    });
    println!("{what:<58} {events_per_s:>10.0} events/s{ratio}");
}

fn main() {
    let arguments: Vec<String> = (std::env::args().skip(1))
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    let sections: [(&str, fn()); 7] = [
        ("functions", functions),
        ("lengths", lengths),
        ("keys", keys),
        ("hot", hot),
        ("batches", batches),
        ("memory", memory),
        ("bytes", bytes),
    ];
    type OfFile = fn(&[EventBatch], usize);
    let of_file: [(&str, OfFile); 3] = [
        ("file", |batches, _| whole_windows(batches)),
        ("card", |batches, threads| {
            compare(&BOTH[..1], batches, threads)
        }),
        ("both", |batches, threads| compare(&BOTH, batches, threads)),
    ];
    let threads = arguments.iter().find_map(|argument| argument.parse().ok());
    let is_section = |argument: &&String| {
        let argument = argument.as_str();
        sections.iter().any(|(name, _)| *name == argument)
            || of_file.iter().any(|(name, _)| *name == argument)
    };
    let is_number = |argument: &&String| argument.parse::<usize>().is_ok();
    let path = arguments
        .iter()
        .find(|argument| !is_section(argument) && !is_number(argument));
    let named: Vec<&String> = arguments.iter().filter(is_section).collect();
    let wants = |name: &str| named.iter().any(|section| section.as_str() == name);
    if let Some(path) = path {
        let batches = file(path, &relation());
        for (name, section) in of_file {
            if wants(name) || (named.is_empty() && name == "file") {
                section(&batches, threads.unwrap_or(1));
            }
        }
    }
    for (name, section) in sections {
        if wants(name) || (named.is_empty() && path.is_none()) {
            section();
        }
    }
}

/// The windows of the bars, by card and by both.
fn whole_windows(batches: &[EventBatch]) {
    println!("-- the file, count + avg over 1, 7 and 30 days");
    for (what, items, keys) in [
        ("decimal, by card", DECIMAL, &BOTH[..1]),
        ("decimal, by card and by terminal", DECIMAL, &BOTH),
        ("double, by card", DOUBLE, &BOTH[..1]),
        ("double, by card and by terminal", DOUBLE, &BOTH),
    ] {
        tell(what, run_file(&sql(&items, keys, &DAYS), batches), None);
    }
}

/// Seconds for the whole file, as they pass.
fn compare(keys: &[&str], batches: &[EventBatch], threads: usize) {
    let sql = sql(&DOUBLE, keys, &DAYS);
    let engine = FeatureEngine::new(relation(), &sql).expect("the features are valid");
    let mut engine = engine.with_threads(threads);
    let begun = Instant::now();
    for batch in batches {
        black_box(engine.compute(batch).expect("the rows fit"));
    }
    println!("{}", begun.elapsed().as_secs_f64());
}

fn functions() {
    println!("-- 5,000 cards, 10,000 terminals, 157 days, 3 windows by card");
    let first = run(&sql(&DECIMAL, &BOTH[..1], &DAYS), HANDBOOK).events_per_s;
    tell("decimal, count + avg", first, None);
    for (what, items, keys) in [
        ("the same by card and by terminal", DECIMAL, &BOTH[..]),
        ("double, count + avg", DOUBLE, &BOTH[..1]),
        ("double, by card and by terminal", DOUBLE, &BOTH[..]),
    ] {
        tell(
            what,
            run(&sql(&items, keys, &DAYS), HANDBOOK).events_per_s,
            Some(first),
        );
    }
    for (what, call) in [
        ("max(price)", "max(price)"),
        ("min(second): the least one always leaves", "min(second)"),
        ("stddev(price)", "stddev(price)"),
        ("corr(price, second)", "corr(price, CAST(second AS DOUBLE))"),
        ("last_value(terminal_id)", "last_value(terminal_id)"),
        ("count(DISTINCT terminal_id)", "count(DISTINCT terminal_id)"),
        ("median(price)", "median(price)"),
    ] {
        let short = Made {
            events: HANDBOOK.events / 5,
            days: HANDBOOK.days / 5,
            ..HANDBOOK
        };
        tell(
            what,
            run(&sql(&[call], &BOTH[..1], &DAYS), short).events_per_s,
            Some(first),
        );
    }
}

fn lengths() {
    println!("-- length of one window, count + avg by card, decimal and double");
    for call in [&DECIMAL, &DOUBLE] {
        let contenders =
            ["1 hour", "1 day", "7 days", "30 days", "90 days"].map(|length| Contender {
                what: length.into(),
                sql: sql(call, &BOTH[..1], &[length]),
                made: HANDBOOK,
                before: HANDBOOK.events / 2,
            });
        by_turns(8, &contenders);
    }
}

fn keys() {
    println!("-- number of keys, count + avg over 3 windows by card, 20 events a key in 30 days");
    const TURN_BATCHES: usize = 64;
    let contenders = [1_000, 10_000, 100_000, 1_000_000].map(|cards: u64| {
        // By then rings have long stopped growing.
        let before = (cards as usize * 40).max(2_000_000);
        let events = before + 48 * TURN_BATCHES * BATCH_ROWS;
        Contender {
            what: format!("{cards} cards"),
            sql: sql(&DECIMAL, &BOTH[..1], &DAYS),
            made: Made {
                events,
                cards,
                days: events as i64 * 30 / (cards as i64 * 20),
                ..HANDBOOK
            },
            before,
        }
    });
    by_turns(TURN_BATCHES, &contenders);
}

fn hot() {
    println!("-- half of the events on one key");
    for (what, call) in [
        ("decimal", DECIMAL),
        ("double", DOUBLE),
        ("min(second), max(price)", ["min(second)", "max(price)"]),
    ] {
        let contenders =
            [("even", false), ("half on one card", true)].map(|(how, hot)| Contender {
                what: format!("{what}, {how}"),
                sql: sql(&call, &BOTH[..1], &DAYS),
                made: Made { hot, ..HANDBOOK },
                before: HANDBOOK.events / 2,
            });
        by_turns(8, &contenders);
    }
}

/// An engine that is compared with others.
struct Contender {
    what: String,
    sql: String,
    made: Made,
    /// Events before the measurement.
    before: usize,
}

/// Rates of engines that take turns of so many batches, since the machine is at one time twice as fast as at another: what
/// is compared was measured within seconds.
fn by_turns<const COUNT: usize>(turn_batches: usize, contenders: &[Contender; COUNT]) {
    let mut running = contenders.each_ref().map(|contender| {
        let mut engine =
            FeatureEngine::new(relation(), &contender.sql).expect("the features are valid");
        let mut batches = contender.made.batches(relation(), BATCH_ROWS);
        for batch in batches.by_ref().take(contender.before / BATCH_ROWS) {
            computed(&mut engine, &batch);
        }
        (engine, batches)
    });
    let turns = (contenders.iter())
        .map(|contender| (contender.made.events - contender.before) / BATCH_ROWS / turn_batches)
        .min()
        .expect("something is compared");
    let mut rates = [const { Vec::new() }; COUNT];
    for _ in 0..turns {
        for ((engine, batches), rates) in running.iter_mut().zip(&mut rates) {
            let turn = batches.take(turn_batches);
            let spent: f64 = turn.map(|batch| computed(engine, &batch)).sum();
            rates.push((turn_batches * BATCH_ROWS) as f64 / spent);
        }
    }
    for (contender, own) in contenders.iter().zip(&rates) {
        let of_first = own.iter().zip(&rates[0]).map(|(rate, first)| rate / first);
        let [low, middle, high] = quartiles(of_first.collect());
        println!(
            "{:<58} {:>10.0} events/s  {middle:.2} of the first ({low:.2} to {high:.2})",
            contender.what,
            quartiles(own.clone())[1],
        );
    }
}

/// The first quartile, the median and the third quartile.
fn quartiles(mut values: Vec<f64>) -> [f64; 3] {
    values.sort_unstable_by(f64::total_cmp);
    [1, 2, 3].map(|quarter| values[values.len() * quarter / 4])
}

/// What a batch of 256 rows takes, as time passes.
fn batches() {
    println!("-- batches of 256, count + avg over 3 windows");
    let relation = relation();
    for (what, items, keys) in [
        ("decimal, by card", DECIMAL, &BOTH[..1]),
        ("decimal, by card and by terminal", DECIMAL, &BOTH),
        ("double, by card", DOUBLE, &BOTH[..1]),
    ] {
        let sql = sql(&items, keys, &DAYS);
        let mut engine =
            FeatureEngine::new(relation.clone(), &sql).expect("the features are valid");
        let mut micros = Vec::new();
        for batch in HANDBOOK.batches(relation.clone(), 256) {
            let begun = Instant::now();
            black_box(engine.compute(&batch).expect("the rows fit"));
            micros.push(begun.elapsed().as_micros());
        }
        let mut micros = micros.split_off(micros.len() / 2);
        micros.sort_unstable();
        let at = |share: f64| micros[(micros.len() as f64 * share) as usize];
        println!(
            "{what:<58} p50 {} us, p99 {} us, p99.9 {} us",
            at(0.5),
            at(0.99),
            at(0.999)
        );
    }
}

/// A million keys with sixty events each: what they take, and how a checkpoint of them goes.
fn memory() {
    let made = Made {
        events: 60_000_000,
        cards: 1_000_000,
        days: 29,
        ..HANDBOOK
    };
    let sql = sql(&DECIMAL, &BOTH[..1], &DAYS);
    let figures = run(&sql, made);
    let mut engine = figures.engine;
    let kept = engine.footprint();
    println!(
        "-- {} keys, {} events: {:.0} events/s, {} MB of state, {} MB resident, {} bytes a key, {:.1} bytes an event",
        kept.keys,
        kept.rows,
        figures.events_per_s,
        kept.bytes >> 20,
        figures.rss_bytes >> 20,
        kept.bytes / kept.keys,
        kept.bytes as f64 / kept.rows as f64,
    );
    let begun = Instant::now();
    let mut snapshot = Some(engine.snapshot());
    let pause = begun.elapsed().as_secs_f64();
    let mut bytes = Vec::new();
    let written = seconds(|| {
        let snapshot = snapshot.take().expect("it was just taken");
        snapshot.write_arrow(&mut bytes).expect("memory takes it");
    });
    let megabytes = bytes.len() >> 20;
    let restored = seconds(|| {
        let restored = Restored::of_file(Buffer::from_vec(bytes)).expect("it was just written");
        engine.restore(restored).expect("it is of these features");
    });
    println!(
        "-- checkpoint: pause {:.1} ms, written in {written:.1} s, {megabytes} MB, restored in {restored:.1} s",
        pause * 1e3,
    );
}

/// What a key and a buffered event take, by what is computed: the state of 10,000 keys with few events and with many.
fn bytes() {
    const CARDS: u64 = 10_000;
    println!("-- 3 windows by card, 10,000 cards, 10 and 100 events each");
    let kept = |sql: &str, events_each: usize| {
        let made = Made {
            events: CARDS as usize * events_each,
            cards: CARDS,
            days: 29,
            ..HANDBOOK
        };
        run(sql, made).engine.footprint().bytes as f64 / CARDS as f64
    };
    for call in [
        "count(amount)",
        "avg(amount)",
        "avg(price)",
        "stddev(price)",
        "min(amount), max(amount)",
        "corr(price, CAST(second AS DOUBLE))",
        "last_value(terminal_id)",
        "count(DISTINCT terminal_id)",
        "median(price)",
    ] {
        let calls: Vec<&str> = match call {
            "min(amount), max(amount)" => vec!["min(amount)", "max(amount)"],
            one => vec![one],
        };
        let sql = sql(&calls, &BOTH[..1], &DAYS);
        let (few, many) = (kept(&sql, 10), kept(&sql, 100));
        let event = (many - few) / 90.0;
        println!(
            "{call:<58} {event:>6.1} bytes an event, {:>6.0} a key beside its events",
            few - 10.0 * event
        );
    }
}
