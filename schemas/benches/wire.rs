//! Decisions per second into JSON and into table rows, on one thread.
//!
//! `cargo bench --profile measure -p sanderling-schemas --bench wire`

#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Decimal128Array, Float64Array, Int64Array, RecordBatch};
use sanderling_schemas::attribution::EXACT_TOLERANCE;
use sanderling_schemas::wire::{DecisionTable, write_decision};
use sanderling_schemas::{
    Action, Attribution, Decision, EventId, EventTime, FeatureField, FeatureRow, FeatureSchema,
    Offset, Output, Partition, Reason, Rung, Sequence, Timing, Versions,
};

const ROWS: usize = 4096;
const FEATURES: usize = 45;
/// One in so many is not approved, and so has reasons and attributions.
const ALERT_EVERY: usize = 50;

fn features() -> RecordBatch {
    let column = |i: usize| -> (String, ArrayRef) {
        let value = |row: usize| (row * 7919 + i * 104_729) % 100_000;
        let array: ArrayRef = match i % 3 {
            0 => Arc::new(
                Decimal128Array::from_iter((0..ROWS).map(|r| Some(value(r) as i128)))
                    .with_precision_and_scale(12, 2)
                    .expect("twelve digits hold it"),
            ),
            1 => Arc::new(Int64Array::from_iter(
                (0..ROWS).map(|r| Some(value(r) as i64 % 50)),
            )),
            _ => Arc::new(Float64Array::from_iter(
                (0..ROWS).map(|r| Some(value(r) as f64 / 7.0)),
            )),
        };
        (format!("a_feature_called_{i}"), array)
    };
    RecordBatch::try_from_iter((0..FEATURES).map(column)).expect("columns of one length")
}

fn decisions(batch: &RecordBatch, groups: &Arc<[String]>) -> Vec<Decision> {
    let hash: Arc<str> = "0123456789abcdef".repeat(4).into();
    let versions = Arc::new(Versions {
        engine: "0.1.0".into(),
        numerics: "x86_64-avx2".into(),
        pipeline: hash.clone(),
        features: hash.clone(),
        model: hash.clone(),
        policy: hash,
    });
    let (topic, stream): (Arc<str>, Arc<str>) = ("payments".into(), "transactions".into());
    let attribution = Attribution::new(
        -5.0,
        groups.clone(),
        vec![1.0, 2.0, 3.0],
        1.0,
        EXACT_TOLERANCE,
    )
    .expect("it adds up");
    let reason = Reason {
        code: "C03".into(),
        text: "The amount is well above what the card usually pays".into(),
        group: "card".into(),
        contribution: 2.0,
    };
    let decision = |row: usize| {
        let alert = row.is_multiple_of(ALERT_EVERY);
        Decision {
            event: EventId {
                topic: topic.clone(),
                partition: Partition(0),
                offset: Offset(row as i64),
            },
            key: Some(format!("card-{row}").into()),
            event_time: EventTime(1_700_000_000_000_000 + row as i64),
            sequence: Sequence(row as u64),
            stream: stream.clone(),
            action: if alert {
                Action::Review
            } else {
                Action::Approve
            },
            output: Output::LogOdds,
            score: 1.0 - row as f64 / 977.0,
            rung: Rung::Full,
            reasons: if alert {
                vec![reason.clone(); 3]
            } else {
                Vec::new()
            },
            features: FeatureRow {
                batch: batch.clone(),
                row,
            },
            attribution: alert.then(|| attribution.clone()),
            shadow: BTreeMap::new(),
            flags: Vec::new(),
            versions: versions.clone(),
        }
    };
    (0..ROWS).map(decision).collect()
}

/// Best rate of a second of repetitions.
fn rate(mut work: impl FnMut()) -> f64 {
    let begun = Instant::now();
    let mut best = f64::MAX;
    while begun.elapsed() < Duration::from_secs(1) {
        let start = Instant::now();
        work();
        best = best.min(start.elapsed().as_secs_f64());
    }
    ROWS as f64 / best
}

fn main() {
    let batch = features();
    let groups: Arc<[String]> = ["event", "card", "terminal"]
        .map(String::from)
        .to_vec()
        .into();
    let decisions = decisions(&batch, &groups);
    let field = |f: &Arc<arrow::datatypes::Field>| FeatureField {
        name: f.name().clone(),
        data_type: f.data_type().clone(),
        entity: None,
        from_label: false,
    };
    let schema = FeatureSchema {
        fields: batch.schema_ref().fields().iter().map(field).collect(),
        hash: "".into(),
    };
    let table = DecisionTable::new(&schema, &groups, None, true).expect("no name is taken twice");
    let timings = vec![Timing::default(); ROWS];
    let mut shuffled = decisions.clone();
    shuffled.rotate_left(ROWS / 3);
    let mut bytes = Vec::new();
    let json = rate(|| {
        bytes.clear();
        for decision in &decisions {
            write_decision(decision, &mut bytes).expect("every feature has a JSON form");
        }
        black_box(&bytes);
    });
    let rows = |decisions: &[Decision]| {
        rate(|| {
            black_box(
                table
                    .to_batch(decisions, None, &timings)
                    .expect("they fit their table"),
            );
        })
    };
    println!(
        "json                 {json:>12.0} decisions/s, {} bytes each",
        bytes.len() / ROWS
    );
    println!(
        "table, consecutive   {:>12.0} decisions/s",
        rows(&decisions)
    );
    println!("table, gathered      {:>12.0} decisions/s", rows(&shuffled));
}
