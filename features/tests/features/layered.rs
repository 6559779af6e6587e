//! Parity over random SQL in two levels: windows and columns of a reference table in a CTE, and windows over
//! those. Each level equals the frames over the table that the level below makes; and all of it DataFusion's
//! own answer where event time ascends strictly.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Decimal128Array, Float64Array, RecordBatch, StringArray,
};
use arrow::datatypes::Int64Type;
use proptest::prelude::*;
use proptest::test_runner::Config;
use sanderling_features::{Catalog, FeatureEngine, Table};

use crate::grammar::{
    Feature, KEYS, RowKeys, TAKEN_BACK, Words, expected, payments, row_keys, same, table,
    with_column,
};
use crate::oracle::{fold, joined, query, restarted};
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
/// Their frames, among those of all.
const LOWER_FRAMES: [usize; 4] = [1, 3, 5, 6];

/// The columns of the lower level: `l0` is whole, `l1` a double, `weight` and `prior` are the segment's.
const LAYERED: Words = Words {
    numbers: &[
        "l0",
        "l0 + units",
        "weight * l0",
        "amount - weight",
        "l1",
        "CAST(amount AS DOUBLE) / nullif(l1, 0)",
        "speed - l1",
        "CASE WHEN l0 > 2 THEN speed END",
        "coalesce(l1, prior)",
    ],
    exact: 4,
    finite: 9,
    filters: &["l0 > 2", "weight > 1", "l0 < 3 OR amount > 500"],
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
             FROM events LEFT JOIN segments AS s ON s.card = events.card_id) \
             SELECT event_time, l0, l1, {} FROM lower",
            named(&self.lower, "l"),
            named(&self.upper, "f")
        )
    }
}

/// Whether a feature stands above the windows of the lower level, or beside them.
fn is_above(feature: &Feature) -> bool {
    let sql = feature.sql();
    sql.contains("l0") || sql.contains("l1")
}

/// What may stand in PARTITION BY of the upper level beside the event's own columns.
const UPPER_KEYS: [&str; 2] = ["l0 % 3", "weight, card_id"];

fn upper_keys(rows: &[Row], feature: &Feature, l0: &dyn Array) -> RowKeys {
    let l0 = l0.as_primitive::<Int64Type>();
    let of = |(at, row): (usize, &Row)| match feature.by {
        Some("l0 % 3") => vec![l0.is_valid(at).then(|| l0.value(at) % 3)],
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
    let upper = (drawn(), 0usize..6).prop_map(move |(drawn, by)| {
        let mut upper = Feature::of(drawn, &LAYERED, in_order);
        upper.by = UPPER_KEYS.get(by).copied();
        upper
    });
    let lower = prop::array::uniform2(prop::array::uniform3(0usize..100));
    (lower, prop::collection::vec(upper, 1..8)).prop_map(|(lower, upper)| Query {
        lower: (lower.iter().zip(LOWER))
            .map(|([call, key, frame], calls)| {
                let (call, x) = calls[call % calls.len()];
                Feature::of_call(call, x, *key, LOWER_FRAMES[frame % LOWER_FRAMES.len()])
            })
            .collect(),
        upper,
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
        // A feature over what the event and its segment say stands beside the windows of the lower level.
        let beside = |feature: &Feature| -> Vec<&Feature> {
            let all = query_of.lower.iter().chain(&query_of.upper);
            all.filter(|f| f.by() == feature.by() && is_above(f) == is_above(feature)).collect()
        };
        for (n, feature) in query_of.lower.iter().enumerate() {
            let of = row_keys(&rows, feature.key);
            let theirs = expected(&table, &rows, &of, &beside(feature), feature);
            same(&feature.sql(), ours.features.column(n + 1), &theirs, 1e-7);
            table = with_column(&table, &format!("l{n}"), theirs);
        }
        let l0 = table.column_by_name("l0").unwrap().clone();
        for (n, feature) in query_of.upper.iter().enumerate() {
            let of = upper_keys(&rows, feature, &l0);
            let theirs = expected(&table, &rows, &of, &beside(feature), feature);
            same(&feature.sql(), ours.features.column(n + 3), &theirs, 1e-7);
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
            same(&feature.sql(), ours.column(n + 3), theirs.column(n + 3), TAKEN_BACK);
        }
    }
}
