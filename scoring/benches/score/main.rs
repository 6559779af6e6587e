//! Events per second through the scorer alone, on one thread, in batches of 256.
//!
//! `cargo bench --profile measure -p sanderling-scoring --bench score [-- PART-OF-A-CASE'S-NAME]`; `-- keys`
//! measures what a card and a terminal take, and what an event costs from 1,000 cards to 1,000,000; `-- devices`
//! scores on each device and in each precision that there is, and says how far apart the scores are.

#![allow(clippy::print_stdout)]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{
    ArrayRef, DictionaryArray, Float64Array, Int8Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Int8Type};
use sanderling_schemas::{
    Entity, EventBatch, EventId, FeatureBatch, FeatureField, FeatureSchema, KnownLabel,
    LabelColumns, LateRows, Offset, Partition, Relation, Rung, Sequence, Stream,
};
use sanderling_scoring::{
    ModelOptions, Placement, Precision, Recording, Scorer, ScoringDevice, ScoringOptions,
    ServedModel, TrainingOptions, TrainingPlan, train,
};

const FEATURES: usize = 40;
const ROWS: usize = 256;
const BATCHES: usize = 240;
/// Events of a card, in the mean, before what an event costs among many cards is measured.
const EVENTS_A_CARD: u64 = 16;
/// Batches of that measurement.
const BATCHES_OF_MANY: usize = 400;
/// A label comes this many events after its event.
const LABEL_DELAY: u64 = 20_000;
const MINUTE_US: i64 = 60_000_000;

/// A number below `n`, scrambled from a counter (splitmix64).
fn pick(n: u64, counter: u64) -> u32 {
    let mut x = counter.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ (x >> 31)) % n) as u32
}

fn features(event: u64) -> [f32; FEATURES] {
    std::array::from_fn(|f| match f % 5 {
        0 => pick(100_000, event * 41 + f as u64) as f32 * 0.01,
        1 if pick(10, event * 43 + f as u64) == 0 => f32::NAN,
        1 => pick(1_000, event * 47 + f as u64) as f32 * 0.003,
        2 => pick(30, event * 53 + f as u64) as f32,
        3 => pick(2, event * 59 + f as u64) as f32,
        _ => pick(100_000, event * 61 + f as u64) as f32 * 0.1 - 3_000.0,
    })
}

/// Who pays where.
#[derive(Clone, Copy)]
struct Traffic {
    cards: u64,
    terminals: u64,
    /// Half of all events are at one terminal.
    crowded: bool,
}

impl Traffic {
    const SPREAD: Self = Self {
        cards: 5_000,
        terminals: 10_000,
        crowded: false,
    };
    const CROWDED: Self = Self {
        crowded: true,
        ..Self::SPREAD
    };

    fn slots(self, event: u64) -> [u32; 2] {
        let terminal = match self.crowded && event.is_multiple_of(2) {
            true => 0,
            false => pick(self.terminals, event * 71 + 7),
        };
        [pick(self.cards, event * 67 + 3), terminal]
    }
}

fn schema() -> FeatureSchema {
    let field = |i: usize| FeatureField {
        name: format!("f{i}"),
        data_type: DataType::Float64,
        entity: [None, Some(0), Some(1)][i % 3],
        from_label: i % 6 == 2,
    };
    FeatureSchema {
        fields: (0..FEATURES).map(field).collect(),
        hash: "bench".into(),
    }
}

fn relation() -> Relation {
    let stream = |name: &str, scored| Stream {
        name: name.into(),
        scored,
        key: None,
    };
    let entity = |name: &str| Entity {
        name: name.to_string(),
        key: format!("{name}_id"),
    };
    Relation {
        schema: Relation::schema_of(&[]),
        streams: vec![stream("events", true), stream("labels", false)],
        id: None,
        entities: vec![entity("card"), entity("terminal")],
        labels: Some(LabelColumns {
            stream: 1,
            reference: "of".to_string(),
            value: "value".to_string(),
            horizon_us: 1 << 50,
        }),
        lateness_us: 0,
        late_rows: LateRows::Decide,
        rows_per_key_max: None,
    }
}

/// The sizes to measure: a card remembered by an LSTM, and attention over sixteen events on both sides.
fn whole() -> ModelOptions {
    ModelOptions {
        lstm: 64,
        own_events: 16,
        endpoint_events: 16,
        ..ModelOptions::default()
    }
}

/// What `pipelines/fraud-handbook` has: nothing but what a terminal's known labels tell is remembered.
fn labels_only(members: usize) -> ModelOptions {
    ModelOptions {
        lstm: 0,
        own_events: 0,
        endpoint_events: 0,
        members,
        ..ModelOptions::default()
    }
}

/// A model of these sizes; how well it scores does not matter here.
fn model(options: ModelOptions) -> ServedModel {
    let mut recording = Recording::new(&schema(), &relation());
    for event in 0..2_000u64 {
        recording.push_event(
            &features(event),
            &Traffic::SPREAD.slots(event),
            event as i64 * MINUTE_US,
        );
        let label = if pick(20, event * 73) == 0 { 1.0 } else { 0.0 };
        recording.push_label(event as usize, label, event as i64 * MINUTE_US + 1);
    }
    let options = ModelOptions {
        training: TrainingOptions {
            epochs: Some(1),
            ..TrainingOptions::default()
        },
        ..options
    };
    let plan = TrainingPlan {
        from_us: 0,
        to_us: i64::MAX,
        known_by_us: i64::MAX,
        seed: 1,
    };
    train(&recording, &options, &plan, None, &mut |_| {})
        .expect("two thousand events train a model")
}

/// Batch `number` of the stream: 256 scored events, and one label for each once they are old enough.
fn batch(number: usize, traffic: Traffic) -> FeatureBatch {
    let first = (number * ROWS) as u64;
    // Every event is followed by a row that may carry a label, so sequences count both.
    let mut times = Vec::new();
    let mut streams = Vec::new();
    let (mut scored, mut labels) = (Vec::new(), Vec::new());
    let mut all_slots = vec![Vec::new(); 2];
    let mut columns = vec![Vec::new(); FEATURES];
    for event in first..first + ROWS as u64 {
        scored.push(times.len() as u32);
        for (column, &x) in columns.iter_mut().zip(&features(event)) {
            column.push((!x.is_nan()).then_some(f64::from(x)));
        }
        let of = event.saturating_sub(LABEL_DELAY);
        if event >= LABEL_DELAY {
            labels.push(KnownLabel {
                row: times.len() as u32 + 1,
                of: Sequence(of * 2),
                value: if pick(100, of) == 0 { 1.0 } else { 0.0 },
                reversal: false,
            });
        }
        for (row, of) in [(0, event), (1, of)] {
            times.push(event as i64 * MINUTE_US / 10);
            streams.push(row);
            for (all, slot) in all_slots.iter_mut().zip(traffic.slots(of)) {
                all.push(slot);
            }
        }
    }
    let names: ArrayRef = Arc::new(StringArray::from(vec!["events", "labels"]));
    let rows = RecordBatch::try_new(
        relation().schema,
        vec![
            Arc::new(TimestampMicrosecondArray::from(times)),
            Arc::new(DictionaryArray::<Int8Type>::new(
                Int8Array::from(streams),
                names,
            )),
        ],
    )
    .expect("columns fit the schema");
    let id = |row: usize| EventId {
        topic: "t".into(),
        partition: Partition(0),
        offset: Offset(row as i64),
    };
    let columns = columns.into_iter().enumerate().map(|(i, column)| {
        let array: ArrayRef = Arc::new(Float64Array::from(column));
        (format!("f{i}"), array, true)
    });
    FeatureBatch {
        events: EventBatch {
            rows,
            ids: (0..2 * ROWS).map(id).collect(),
            sequence: Sequence(2 * first),
            broker_time_us: Vec::new(),
        },
        late: vec![false; ROWS],
        capped: vec![false; ROWS],
        too_late: Vec::new(),
        scored,
        features: RecordBatch::try_from_iter_with_nullable(columns)
            .expect("columns have one length"),
        slots: all_slots,
        labels,
    }
}

/// Seconds of each batch once memories are full, ascending.
fn measure(model: &Arc<ServedModel>, batches: &[FeatureBatch], rung: Rung) -> Vec<f64> {
    let mut scorer =
        Scorer::new(model.clone(), &schema(), &relation(), 1).expect("the model is of this schema");
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
            let seconds = measure(model, batches, rung);
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
