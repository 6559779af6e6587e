//! Events per second through the feature engine, on one thread, from decoded batches.
//!
//! `cargo bench --profile measure -p sanderling-features --bench windows [-- FILE.parquet]`
//!
//! The stream is made up: times spread evenly over the days, cards and terminals drawn evenly. With a file of
//! the Fraud-Detection-Handbook (columns TX_DATETIME, CUSTOMER_ID, TERMINAL_ID, TX_AMOUNT) its rows are taken
//! instead for the first figures. Rates are of the second half of a stream, when windows are full. Time is what
//! the thread spent on a core, so that whoever else uses the machine counts little (where the system tells it;
//! else time that passed).

#![allow(clippy::print_stdout)]

use std::fs::File;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{
    Array, ArrayRef, AsArray, Decimal128Array, DictionaryArray, Float64Array, Int8Array,
    Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimeUnit};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use sanderling_features::FeatureEngine;
use sanderling_schemas::{
    Entity, EventBatch, EventId, LateRows, Offset, Partition, Relation, Sequence, Stream,
};
use sanderling_state::Restored;

const DAY_US: i64 = 86_400_000_000;
const BATCH_ROWS: usize = 4096;

fn relation() -> Arc<Relation> {
    let columns = [
        ("card_id", DataType::Utf8),
        ("terminal_id", DataType::Utf8),
        ("amount", DataType::Decimal128(12, 2)),
        ("price", DataType::Float64),
        ("second", DataType::Int64),
    ];
    let columns: Vec<_> = columns
        .into_iter()
        .map(|(name, data_type)| (name.to_string(), data_type))
        .collect();
    let entity = |name: &str| Entity {
        name: name.into(),
        key: format!("{name}_id"),
    };
    Arc::new(Relation {
        schema: Relation::schema_of(&columns),
        streams: vec![Stream {
            name: "payments".into(),
            scored: true,
            key: None,
        }],
        id: None,
        entities: vec![entity("card"), entity("terminal")],
        labels: None,
        lateness_us: DAY_US,
        late_rows: LateRows::Decide,
        rows_per_key_max: None,
    })
}

/// A made-up stream.
#[derive(Clone, Copy)]
struct Made {
    events: usize,
    cards: u64,
    terminals: u64,
    days: i64,
    /// Every second event is of one card.
    hot: bool,
}

const HANDBOOK: Made = Made {
    events: 1_500_000,
    cards: 5_000,
    terminals: 10_000,
    days: 157,
    hot: false,
};

/// Rows before they are arrays.
#[derive(Default)]
struct Rows {
    times_us: Vec<i64>,
    cards: Vec<u64>,
    terminals: Vec<u64>,
    cents: Vec<i128>,
}

impl Rows {
    fn batch(self, relation: &Relation, sequence: usize) -> EventBatch {
        let count = self.times_us.len();
        let names = |prefix: &str, numbers: &[u64]| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(
                numbers.iter().map(|number| format!("{prefix}{number}")),
            ))
        };
        let streams = DictionaryArray::new(
            Int8Array::from(vec![0; count]),
            Arc::new(StringArray::from(vec!["payments"])) as ArrayRef,
        );
        let amounts = Decimal128Array::from(self.cents.clone())
            .with_precision_and_scale(12, 2)
            .expect("twelve digits hold it");
        let columns: Vec<ArrayRef> = vec![
            Arc::new(TimestampMicrosecondArray::from(self.times_us.clone())),
            Arc::new(streams),
            names("card-", &self.cards),
            names("terminal-", &self.terminals),
            Arc::new(amounts),
            Arc::new(Float64Array::from_iter_values(
                self.cents.iter().map(|cents| *cents as f64 / 100.0),
            )),
            Arc::new(Int64Array::from_iter_values(
                self.times_us.iter().map(|time_us| time_us / 1_000_000),
            )),
        ];
        let topic: Arc<str> = "payments".into();
        EventBatch {
            rows: RecordBatch::try_new(relation.schema.clone(), columns)
                .expect("columns of the relation"),
            ids: (0..count)
                .map(|row| EventId {
                    topic: topic.clone(),
                    partition: Partition(0),
                    offset: Offset((sequence + row) as i64),
                })
                .collect(),
            sequence: Sequence(sequence as u64),
            broker_time_us: Vec::new(),
        }
    }
}

/// Numbers that look random: splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

impl Made {
    /// Hands the stream out in batches.
    fn each(&self, relation: &Relation, batch_rows: usize, mut take: impl FnMut(EventBatch)) {
        let mut random = Random(1);
        let step_us = self.days * DAY_US / self.events as i64;
        let mut at = 0;
        while at < self.events {
            let mut rows = Rows::default();
            for event in at..(at + batch_rows).min(self.events) {
                let hot = self.hot && random.next() % 2 == 0;
                let jitter = random.next() as i64 % step_us.max(1);
                rows.times_us
                    .push(1_525_132_800_000_000 + event as i64 * step_us + jitter.abs());
                rows.cards
                    .push(if hot { 0 } else { random.next() % self.cards });
                rows.terminals.push(random.next() % self.terminals);
                rows.cents.push(i128::from(random.next() % 20_000));
            }
            let count = rows.times_us.len();
            take(rows.batch(relation, at));
            at += count;
        }
    }
}

/// The rows of a file of the handbook.
fn file(path: &str, relation: &Relation) -> Vec<EventBatch> {
    let reader =
        ParquetRecordBatchReaderBuilder::try_new(File::open(path).expect("the file opens"))
            .and_then(|builder| builder.with_batch_size(BATCH_ROWS).build())
            .expect("it is Parquet");
    let mut batches = Vec::new();
    let mut sequence = 0;
    for batch in reader {
        let batch = batch.expect("it is whole");
        let column = |name: &str, data_type: &DataType| {
            let column = batch
                .column_by_name(name)
                .expect("a column of the handbook");
            cast(column, data_type).expect("a type of the handbook")
        };
        let times = column(
            "TX_DATETIME",
            &DataType::Timestamp(TimeUnit::Microsecond, None),
        );
        let numbers = |name: &str| -> Vec<u64> {
            let numbers = column(name, &DataType::Int64);
            numbers
                .as_primitive::<Int64Type>()
                .values()
                .iter()
                .map(|n| *n as u64)
                .collect()
        };
        let amounts = column("TX_AMOUNT", &DataType::Float64);
        let amounts = amounts.as_primitive::<Float64Type>().values();
        let rows = Rows {
            times_us: cast(&times, &DataType::Int64)
                .expect("a timestamp is a number")
                .as_primitive::<Int64Type>()
                .values()
                .to_vec(),
            cards: numbers("CUSTOMER_ID"),
            terminals: numbers("TERMINAL_ID"),
            cents: amounts
                .iter()
                .map(|amount| (amount * 100.0).round() as i128)
                .collect(),
        };
        sequence += times.len();
        batches.push(rows.batch(relation, sequence - times.len()));
    }
    batches
}

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
    made.each(&relation, BATCH_ROWS, |batch| {
        let took = seconds(|| {
            black_box(engine.compute(&batch).expect("the rows fit"));
        });
        if seen * 2 >= made.events {
            spent += took;
            timed += batch.len();
        }
        seen += batch.len();
    });
    Figures {
        events_per_s: timed as f64 / spent,
        engine,
        rss_bytes: rss_bytes().saturating_sub(before),
    }
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

/// Nanoseconds that this thread has run.
fn now_ns(begun: Instant) -> u64 {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let ran = told
        .split_whitespace()
        .next()
        .and_then(|ns| ns.parse().ok());
    ran.unwrap_or(begun.elapsed().as_nanos() as u64)
}

/// Seconds that some work kept a core.
fn seconds(work: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    let from = now_ns(begun);
    work();
    (now_ns(begun) - from) as f64 / 1e9
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
    let path = std::env::args()
        .skip(1)
        .find(|argument| !argument.starts_with("--"));
    let days = ["1 day", "7 days", "30 days"];
    let decimal = ["count(amount)", "avg(amount)"];
    let double = ["count(price)", "avg(price)"];
    let both = ["card_id", "terminal_id"];

    if let Some(path) = path {
        println!("-- {path}");
        let batches = file(&path, &relation());
        tell(
            "decimal, count + avg, 3 windows by card",
            run_file(&sql(&decimal, &both[..1], &days), &batches),
            None,
        );
        tell(
            "the same by card and by terminal",
            run_file(&sql(&decimal, &both, &days), &batches),
            None,
        );
        tell(
            "double, by card",
            run_file(&sql(&double, &both[..1], &days), &batches),
            None,
        );
        tell(
            "double, by card and by terminal",
            run_file(&sql(&double, &both, &days), &batches),
            None,
        );
    }

    println!("-- 5,000 cards, 10,000 terminals, 157 days");
    let first = run(&sql(&decimal, &both[..1], &days), HANDBOOK).events_per_s;
    tell("decimal, count + avg, 3 windows by card", first, None);
    tell(
        "the same by card and by terminal",
        run(&sql(&decimal, &both, &days), HANDBOOK).events_per_s,
        Some(first),
    );
    tell(
        "double, by card",
        run(&sql(&double, &both[..1], &days), HANDBOOK).events_per_s,
        Some(first),
    );
    tell(
        "double, by card and by terminal",
        run(&sql(&double, &both, &days), HANDBOOK).events_per_s,
        Some(first),
    );
    for (what, call) in [
        ("max(price), 3 windows by card", "max(price)"),
        (
            "min(second), 3 windows by card: the least one always leaves",
            "min(second)",
        ),
        ("stddev(price), 3 windows by card", "stddev(price)"),
        (
            "corr(price, second), 3 windows by card",
            "corr(price, CAST(second AS DOUBLE))",
        ),
        (
            "last_value(terminal_id), 3 windows by card",
            "last_value(terminal_id)",
        ),
        (
            "count(DISTINCT terminal_id), 3 windows by card",
            "count(DISTINCT terminal_id)",
        ),
        ("median(price), 3 windows by card", "median(price)"),
    ] {
        let short = Made {
            events: HANDBOOK.events / 5,
            days: HANDBOOK.days / 5,
            ..HANDBOOK
        };
        tell(
            what,
            run(&sql(&[call], &both[..1], &days), short).events_per_s,
            Some(first),
        );
    }

    println!("-- length of one window, count + avg by card, decimal and double");
    for call in [&decimal, &double] {
        let mut first = None;
        for length in ["1 hour", "1 day", "7 days", "30 days", "90 days"] {
            let rate = run(&sql(call, &both[..1], &[length]), HANDBOOK).events_per_s;
            tell(length, rate, first);
            first.get_or_insert(rate);
        }
    }

    println!(
        "-- number of keys, count + avg over 3 windows by card, 60 events a key in 30 days or as many as fit"
    );
    let mut first = None;
    for cards in [1_000, 10_000, 100_000, 1_000_000] {
        let made = Made {
            events: 4_000_000,
            cards,
            days: (4_000_000 / (2 * cards as i64)).clamp(4, 60),
            ..HANDBOOK
        };
        let rate = run(&sql(&decimal, &both[..1], &days), made).events_per_s;
        tell(&format!("{cards} cards"), rate, first);
        first.get_or_insert(rate);
    }

    println!("-- half of the events on one key");
    for (what, call) in [
        ("decimal", decimal),
        ("double", double),
        ("min(second), max(price)", ["min(second)", "max(price)"]),
    ] {
        let even = run(&sql(&call, &both[..1], &days), HANDBOOK).events_per_s;
        let hot = run(
            &sql(&call, &both[..1], &days),
            Made {
                hot: true,
                ..HANDBOOK
            },
        )
        .events_per_s;
        tell(&format!("{what}, even"), even, None);
        tell(&format!("{what}, half on one card"), hot, Some(even));
    }

    micro_batches();
    memory();
}

/// What a batch of 256 rows takes.
fn micro_batches() {
    let relation = relation();
    let sql = sql(
        &["count(amount)", "avg(amount)"],
        &["card_id", "terminal_id"],
        &["1 day", "7 days", "30 days"],
    );
    let mut engine = FeatureEngine::new(relation.clone(), &sql).expect("the features are valid");
    let mut micros = Vec::new();
    HANDBOOK.each(&relation, 256, |batch| {
        let begun = Instant::now();
        black_box(engine.compute(&batch).expect("the rows fit"));
        micros.push(begun.elapsed().as_micros());
    });
    let mut micros = micros.split_off(micros.len() / 2);
    micros.sort_unstable();
    let at = |share: f64| micros[(micros.len() as f64 * share) as usize];
    println!(
        "-- batches of 256, card and terminal: p50 {} us, p99 {} us, p99.9 {} us",
        at(0.5),
        at(0.99),
        at(0.999)
    );
}

/// A million keys with sixty events each: what they take, and how a checkpoint of them goes.
fn memory() {
    let made = Made {
        events: 60_000_000,
        cards: 1_000_000,
        days: 29,
        ..HANDBOOK
    };
    let days = ["1 day", "7 days", "30 days"];
    let sql = sql(&["count(amount)", "avg(amount)"], &["card_id"], &days);
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
    let mut snapshot = None;
    let pause = seconds(|| snapshot = Some(engine.snapshot()));
    let mut bytes = Vec::new();
    let written = seconds(|| {
        let snapshot = snapshot.take().expect("it was just taken");
        snapshot.write_arrow(&mut bytes).expect("memory takes it");
    });
    let restored = seconds(|| {
        let restored = Restored::read_arrow(bytes.as_slice()).expect("it was just written");
        engine.restore(restored).expect("it is of these features");
    });
    println!(
        "-- checkpoint: pause {:.1} ms, written in {written:.1} s, {} MB, restored in {restored:.1} s",
        pause * 1e3,
        bytes.len() >> 20,
    );
}
