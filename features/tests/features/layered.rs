//! Parity over random SQL in three levels: windows and columns of a reference table in a CTE, windows over those in
//! another, and windows over all of it. Each level equals the frames over the table that the levels below make; and all of
//! it DataFusion's own answer where event time ascends strictly.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Decimal128Array, Float64Array, RecordBatch, StringArray,
};
use arrow::datatypes::Int64Type;
use proptest::prelude::*;
use proptest::test_runner::Config;
use sanderling_features::{Catalog, FeatureEngine, Table};

use crate::folded::{fold, joined, restarted};
use crate::frames::{RowKeys, TAKEN_BACK, expected, row_keys, same, table, with_column};
use crate::grammar::{Feature, KEYS, Words, payments};
use crate::oracle::query;
use crate::stream::{Row, batch, relation};

/// What windows of the lower level count or add up: whole numbers, and what gives doubles.
const LOWER: [[(&str, &str); 4]; 2] = [
    [
        ("count(*)", ""),
        ("count($x)", "amount"),
        ("sum($x)", "units"),
        ("max($x)", "units"),
    ],
    [
        ("avg($x)", "speed"),
        ("max($x)", "coalesce(speed, 0)"),
        ("avg($x)", "CAST(amount AS DOUBLE)"),
        ("min($x)", "speed"),
    ],
];
/// What windows of the middle level count or add up of the lower one's, likewise.
const MIDDLE: [[(&str, &str); 4]; 2] = [
    [
        ("count($x)", "l0"),
        ("sum($x)", "l0"),
        ("max($x)", "l0 + units"),
        ("min($x)", "l0"),
    ],
    [
        ("avg($x)", "l1"),
        ("max($x)", "coalesce(l1, 0)"),
        ("avg($x)", "CAST(l0 AS DOUBLE) / 4"),
        ("min($x)", "l1"),
    ],
];
/// Frames of both, among those of all.
const LOWER_FRAMES: [usize; 4] = [1, 3, 5, 6];

/// The columns of the levels below: `l0` and `m0` are whole, `l1` and `m1` doubles, `weight` and `prior` are the segment's.
const LAYERED: Words = Words {
    numbers: &[
        "l0",
        "l0 + units",
        "weight * l0",
        "amount - weight",
        "m0",
        "m0 - l0",
        "m1",
        "m1 - coalesce(l1, prior)",
        "l1",
        "CAST(amount AS DOUBLE) / nullif(l1, 0)",
        "speed - l1",
        "CASE WHEN l0 > 2 THEN speed END",
        "coalesce(l1, prior)",
    ],
    exact: 6,
    finite: 13,
    filters: &["l0 > 2", "weight > 1", "m0 < 3 OR amount > 500"],
    rounded: true,
};

/// What the segments say of a card: hundredths of the weight, and the prior.
fn segment(card: Option<u8>) -> Option<(i64, Option<f64>)> {
    match card {
        Some(0) => Some((100, Some(10.5))),
        Some(1) => Some((250, None)),
        Some(3) => Some((100, Some(3.25))),
        _ => None,
    }
}

fn segments() -> RecordBatch {
    let cards = [1u8, 0, 3];
    let of = |card: &u8| segment(Some(*card)).unwrap();
    let weights =
        Decimal128Array::from_iter_values(cards.iter().map(|card| i128::from(of(card).0)));
    let weights = weights.with_precision_and_scale(6, 2).unwrap();
    let priors: Float64Array = cards.iter().map(|card| of(card).1).collect();
    let cards = StringArray::from_iter_values(cards.iter().map(|card| format!("card {card}")));
    RecordBatch::try_from_iter([
        ("card", Arc::new(cards) as ArrayRef),
        ("weight", Arc::new(weights)),
        ("prior", Arc::new(priors)),
    ])
    .unwrap()
}

#[derive(Debug, Clone)]
struct Query {
    /// `l0` and `l1`.
    lower: Vec<Feature>,
    /// `m0` and `m1`.
    middle: Vec<Feature>,
    upper: Vec<Feature>,
}

impl Query {
    fn sql(&self) -> String {
        let named = |features: &[Feature], name: &str| -> String {
            let items = features.iter().enumerate();
            let items: Vec<String> = items
                .map(|(n, feature)| format!("{} AS {name}{n}", feature.sql()))
                .collect();
            items.join(", ")
        };
        format!(
            "WITH lower AS (SELECT events.*, s.weight, s.prior, {} \
             FROM events LEFT JOIN segments AS s ON s.card = events.card_id), \
             middle AS (SELECT *, {} FROM lower) \
             SELECT event_time, l0, l1, m0, m1, {} FROM middle",
            named(&self.lower, "l"),
            named(&self.middle, "m"),
            named(&self.upper, "f")
        )
    }

    /// Those that share a group with a feature: of its key, and over the same levels. A feature over what the event and its
    /// segment say stands beside the windows of the lowest level.
    fn beside(&self, feature: &Feature) -> Vec<&Feature> {
        let all = self.lower.iter().chain(&self.middle).chain(&self.upper);
        all.filter(|f| f.by() == feature.by() && level(f) == level(feature))
            .collect()
    }
}

/// Levels that a feature stands above.
fn level(feature: &Feature) -> usize {
    let sql = feature.sql();
    let reads = |names: [&str; 2]| names.iter().any(|name| sql.contains(name));
    match (reads(["l0", "l1"]), reads(["m0", "m1"])) {
        (_, true) => 2,
        (true, false) => 1,
        (false, false) => 0,
    }
}

/// What may stand in PARTITION BY of the upper level beside the event's own columns.
const UPPER_KEYS: [&str; 3] = ["l0 % 3", "weight, card_id", "m0 % 2, terminal_id"];

fn upper_keys(rows: &[Row], feature: &Feature, table: &RecordBatch) -> RowKeys {
    let whole = |name: &str| {
        table
            .column_by_name(name)
            .unwrap()
            .as_primitive::<Int64Type>()
    };
    let (l0, m0) = (whole("l0"), whole("m0"));
    let of = |(at, row): (usize, &Row)| match feature.by {
        Some("l0 % 3") => vec![l0.is_valid(at).then(|| l0.value(at) % 3)],
        Some("m0 % 2, terminal_id") => vec![
            m0.is_valid(at).then(|| m0.value(at) % 2),
            row.terminal.map(i64::from),
        ],
        Some(_) => vec![
            segment(row.card).map(|(weight, _)| weight),
            row.card.map(i64::from),
        ],
        None => KEYS[feature.key].1(row),
    };
    rows.iter().enumerate().map(of).collect()
}

fn queries(in_order: bool) -> impl Strategy<Value = Query> {
    let drawn = || prop::array::uniform6(0usize..1000);
    let upper = (drawn(), 0usize..8).prop_map(move |(drawn, by)| {
        let mut upper = Feature::of(drawn, &LAYERED, in_order);
        upper.by = UPPER_KEYS.get(by).copied();
        upper
    });
    let two = || prop::array::uniform2(prop::array::uniform3(0usize..100));
    let of = |drawn: [[usize; 3]; 2], calls: [[(&str, &str); 4]; 2]| {
        (drawn.iter().zip(calls))
            .map(|([call, key, frame], calls)| {
                let (call, x) = calls[call % calls.len()];
                Feature::of_call(call, x, *key, LOWER_FRAMES[frame % LOWER_FRAMES.len()])
            })
            .collect()
    };
    (two(), two(), prop::collection::vec(upper, 1..8)).prop_map(move |(lower, middle, upper)| {
        Query {
            lower: of(lower, LOWER),
            middle: of(middle, MIDDLE),
            upper,
        }
    })
}

fn catalog() -> Catalog {
    let segments = Table::new("segments", "card", segments(), "1".into()).unwrap();
    Catalog {
        tables: vec![Arc::new(segments)],
        ..Catalog::default()
    }
}

proptest! {
    #![proptest_config(Config { cases: 32, failure_persistence: None, max_shrink_iters: 200, ..Config::default() })]

    #[test]
    fn each_level_equals_the_frames_over_the_one_below(
        rows in payments(120, false),
        query_of in queries(false),
        ends in prop::collection::vec(1usize..120, 0..4),
    ) {
        prop_assume!(!rows.is_empty());
        let sql = query_of.sql();
        let engine = || FeatureEngine::with_catalog(relation(false), &sql, &catalog())
            .unwrap_or_else(|e| panic!("{sql}: {e}"));
        let whole = batch(&relation(false), &rows);
        let ours = joined(fold(&mut engine(), &whole, &[]));

        let said = query(&[("r", table(&rows)), ("segments", segments())],
            "SELECT s.weight, s.prior FROM r LEFT JOIN segments AS s ON s.card = r.card_id ORDER BY sequence");
        let mut table = with_column(&table(&rows), "weight", said.column(0).clone());
        table = with_column(&table, "prior", said.column(1).clone());
        for (level, features) in [&query_of.lower, &query_of.middle].into_iter().enumerate() {
            let below = table.clone();
            for (n, feature) in features.iter().enumerate() {
                let of = row_keys(&rows, feature.key);
                let theirs = expected(&below, &rows, &of, &query_of.beside(feature), feature);
                same(&feature.sql(), ours.features.column(1 + 2 * level + n), &theirs, 1e-7);
                table = with_column(&table, &format!("{}{n}", ["l", "m"][level]), theirs);
            }
        }
        for (n, feature) in query_of.upper.iter().enumerate() {
            let of = upper_keys(&rows, feature, &table);
            let theirs = expected(&table, &rows, &of, &query_of.beside(feature), feature);
            same(&feature.sql(), ours.features.column(n + 5), &theirs, 1e-7);
        }
        prop_assert_eq!(format!("{:?}", restarted(&engine, &whole, &ends)), format!("{:?}", ours));
    }

    #[test]
    fn levels_equal_datafusion_in_order(rows in payments(120, true), query_of in queries(true)) {
        prop_assume!(!rows.is_empty());
        let sql = query_of.sql();
        let mut engine = FeatureEngine::with_catalog(relation(false), &sql, &catalog())
            .unwrap_or_else(|e| panic!("{sql}: {e}"));
        let whole = batch(&relation(false), &rows);
        let ours = joined(fold(&mut engine, &whole, &[])).features;
        let theirs = query(
            &[("events", whole.rows), ("segments", segments())],
            &format!("SELECT * FROM ({sql}) ORDER BY event_time"),
        );
        for (n, feature) in query_of.upper.iter().enumerate() {
            same(&feature.sql(), ours.column(n + 5), theirs.column(n + 5), TAKEN_BACK);
        }
    }
}
