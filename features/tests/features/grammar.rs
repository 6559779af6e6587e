//! Parity over random SQL: the engine against frames written out row by row and aggregated by DataFusion,
//! and against DataFusion's own windows where event time ascends strictly.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Float64Type, Schema};
use proptest::prelude::*;
use proptest::test_runner::Config;
use sanderling_features::FeatureEngine;

use crate::oracle::{fold, joined, query, restarted};
use crate::parity::{is_right, logged, reports};
use crate::stream::{HOUR_US, LATENESS_US, Row, batch, relation, rows};
use crate::times::{Clock, Keys, Known};

const DAY_US: i64 = 24 * HOUR_US;

type KeyOf = fn(&Row) -> Vec<Option<i64>>;

/// What may stand in PARTITION BY, and the key that it means.
pub const KEYS: [(&str, KeyOf); 8] = [
    ("card_id", |row| vec![row.card.map(i64::from)]),
    ("card_id", |row| vec![row.card.map(i64::from)]),
    ("terminal_id", |row| vec![row.terminal.map(i64::from)]),
    ("card_id, terminal_id", |row| {
        vec![row.card.map(i64::from), row.terminal.map(i64::from)]
    }),
    ("upper(card_id)", |row| vec![row.card.map(i64::from)]),
    ("tx_id % 3, stream", |row| vec![Some(row.id % 3)]),
    ("amount > 500, card_id", |row| {
        vec![
            row.amount.map(|cents| i64::from(cents > 50_000)),
            row.card.map(i64::from),
        ]
    }),
    ("", |_| Vec::new()),
];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Frame {
    /// Hours from and until which it looks back.
    Range(Option<i64>, i64),
    /// Rows from and until which it looks back.
    Rows(Option<usize>, usize),
}

const FRAMES: [(&str, Frame); 12] = [
    (
        "RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW",
        Frame::Range(Some(1), 0),
    ),
    (
        "RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW",
        Frame::Range(Some(24), 0),
    ),
    (
        "RANGE INTERVAL '3 days' PRECEDING",
        Frame::Range(Some(72), 0),
    ),
    (
        "RANGE BETWEEN INTERVAL '60 hours' PRECEDING AND INTERVAL '5 hours' PRECEDING",
        Frame::Range(Some(60), 5),
    ),
    (
        "RANGE BETWEEN INTERVAL '2 hours' PRECEDING AND INTERVAL '2 hours' PRECEDING",
        Frame::Range(Some(2), 2),
    ),
    (
        "RANGE BETWEEN CURRENT ROW AND CURRENT ROW",
        Frame::Range(Some(0), 0),
    ),
    (
        "ROWS BETWEEN 5 PRECEDING AND CURRENT ROW",
        Frame::Rows(Some(5), 0),
    ),
    (
        "ROWS BETWEEN 20 PRECEDING AND 3 PRECEDING",
        Frame::Rows(Some(20), 3),
    ),
    (
        "ROWS BETWEEN 1 PRECEDING AND 1 PRECEDING",
        Frame::Rows(Some(1), 1),
    ),
    (
        "RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW",
        Frame::Range(None, 0),
    ),
    (
        "RANGE BETWEEN UNBOUNDED PRECEDING AND INTERVAL '1 day' PRECEDING",
        Frame::Range(None, 24),
    ),
    (
        "ROWS BETWEEN UNBOUNDED PRECEDING AND 2 PRECEDING",
        Frame::Rows(None, 2),
    ),
];

/// Numbers: exact ones first.
const NUMBERS: [&str; 11] = [
    "amount",
    "units",
    "amount * 2",
    "units % 7",
    "CAST(amount AS DOUBLE)",
    "speed",
    "speed - 500",
    "coalesce(speed, 0)",
    "CASE WHEN units > 0 THEN speed END",
    "acos(speed / 500)",
    "(speed - 500) / (units % 3)",
];
const EXACT: usize = 4;
/// The last ones are NaN at times, or infinite.
const FINITE: usize = NUMBERS.len() - 2;

const TEXTS: [&str; 3] = [
    "terminal_id",
    "upper(card_id)",
    "CASE WHEN units > 0 THEN card_id END",
];

/// What a call takes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Takes {
    Nothing,
    Number,
    /// A number that adds up exactly.
    Exact,
    TwoNumbers,
    Text,
}

/// How a call is checked.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    /// An aggregate; 0 over nothing.
    Count,
    /// An aggregate; NULL over nothing.
    Value,
    /// Picks rows by place; no FILTER, its own frame.
    Place(Option<Frame>),
}

struct Call {
    /// `$x`, `$y`: the arguments.
    sql: &'static str,
    /// The same over the rows of one frame; empty where it is the same text.
    oracle: &'static str,
    takes: Takes,
    kind: Kind,
    /// Over an unbounded frame its state does not grow.
    unbounded: bool,
    /// DataFusion's own windows can run it, without what is left of rows that are gone deciding whether
    /// there is a value at all.
    windows: bool,
}

const fn call(sql: &'static str, takes: Takes, kind: Kind, unbounded: bool, windows: bool) -> Call {
    Call {
        sql,
        oracle: "",
        takes,
        kind,
        unbounded,
        windows,
    }
}

const fn place(
    sql: &'static str,
    oracle: &'static str,
    takes: Takes,
    frame: Option<Frame>,
) -> Call {
    Call {
        sql,
        oracle,
        takes,
        kind: Kind::Place(frame),
        unbounded: false,
        windows: true,
    }
}

const LAG_1: Option<Frame> = Some(Frame::Rows(Some(1), 1));
const LAG_4: Option<Frame> = Some(Frame::Rows(Some(4), 4));
const SO_FAR: Option<Frame> = Some(Frame::Rows(None, 0));

const CALLS: [Call; 44] = [
    call("count(*)", Takes::Nothing, Kind::Count, true, true),
    call("count($x)", Takes::Number, Kind::Count, true, true),
    call("count($x)", Takes::Text, Kind::Count, true, true),
    call("sum($x)", Takes::Exact, Kind::Value, true, true),
    call("avg($x)", Takes::Exact, Kind::Value, true, true),
    call("sum($x)", Takes::Number, Kind::Value, false, true),
    call("avg($x)", Takes::Number, Kind::Value, false, true),
    call("min($x)", Takes::Number, Kind::Value, true, true),
    call("max($x)", Takes::Number, Kind::Value, true, true),
    call("min($x)", Takes::Text, Kind::Value, false, false),
    call("stddev($x)", Takes::Number, Kind::Value, false, true),
    call("stddev_pop($x)", Takes::Number, Kind::Value, false, true),
    call("var_samp($x)", Takes::Number, Kind::Value, false, true),
    call("var_pop($x)", Takes::Number, Kind::Value, false, true),
    call(
        "count(DISTINCT $x)",
        Takes::Number,
        Kind::Count,
        false,
        false,
    ),
    call("count(DISTINCT $x)", Takes::Text, Kind::Count, false, false),
    call("sum(DISTINCT $x)", Takes::Exact, Kind::Value, false, false),
    call("max(DISTINCT $x)", Takes::Number, Kind::Value, true, false),
    call("median($x)", Takes::Number, Kind::Value, false, true),
    call(
        "percentile_cont($x, 0.75)",
        Takes::Number,
        Kind::Value,
        false,
        false,
    ),
    call("corr($x, $y)", Takes::TwoNumbers, Kind::Value, false, false),
    call(
        "covar_samp($x, $y)",
        Takes::TwoNumbers,
        Kind::Value,
        false,
        true,
    ),
    call(
        "covar_pop($x, $y)",
        Takes::TwoNumbers,
        Kind::Value,
        false,
        true,
    ),
    call(
        "regr_slope($x, $y)",
        Takes::TwoNumbers,
        Kind::Value,
        false,
        false,
    ),
    call(
        "regr_intercept($x, $y)",
        Takes::TwoNumbers,
        Kind::Value,
        false,
        false,
    ),
    call(
        "regr_count($x, $y)",
        Takes::TwoNumbers,
        Kind::Count,
        false,
        true,
    ),
    call(
        "regr_r2($x, $y)",
        Takes::TwoNumbers,
        Kind::Value,
        false,
        false,
    ),
    call(
        "regr_avgx($x, $y)",
        Takes::TwoNumbers,
        Kind::Value,
        false,
        true,
    ),
    call(
        "regr_syy($x, $y)",
        Takes::TwoNumbers,
        Kind::Value,
        false,
        true,
    ),
    call(
        "regr_sxy($x, $y)",
        Takes::TwoNumbers,
        Kind::Value,
        false,
        true,
    ),
    call("bit_xor(units)", Takes::Nothing, Kind::Value, false, false),
    call(
        "bool_or(units > 0)",
        Takes::Nothing,
        Kind::Value,
        false,
        false,
    ),
    Call {
        oracle: "string_agg(CAST(tx_id AS VARCHAR), ' ' ORDER BY t, sequence)",
        ..call(
            "string_agg(CAST(tx_id AS VARCHAR), ' ')",
            Takes::Nothing,
            Kind::Value,
            false,
            false,
        )
    },
    place(
        "first_value($x)",
        "first_value($x ORDER BY t, sequence)",
        Takes::Number,
        None,
    ),
    place(
        "last_value($x)",
        "last_value($x ORDER BY t, sequence)",
        Takes::Text,
        None,
    ),
    place(
        "nth_value($x, 3)",
        "nth_value($x, 3 ORDER BY t, sequence)",
        Takes::Number,
        None,
    ),
    place(
        "nth_value($x, -2)",
        "nth_value($x, -2 ORDER BY t, sequence)",
        Takes::Text,
        None,
    ),
    place(
        "first_value($x) IGNORE NULLS",
        "first_value($x ORDER BY t, sequence) FILTER (WHERE $x IS NOT NULL)",
        Takes::Text,
        None,
    ),
    place(
        "last_value($x) IGNORE NULLS",
        "last_value($x ORDER BY t, sequence) FILTER (WHERE $x IS NOT NULL)",
        Takes::Number,
        None,
    ),
    place("lag($x)", "first_value($x)", Takes::Number, LAG_1),
    place("lag($x, 4)", "first_value($x)", Takes::Text, LAG_4),
    place(
        "lag(event_time, 1)",
        "first_value(event_time)",
        Takes::Nothing,
        LAG_1,
    ),
    place(
        "lag(coalesce(units, 0), 4, -1)",
        "first_value(coalesce(units, 0))",
        Takes::Nothing,
        LAG_4,
    ),
    place(
        "row_number()",
        "CAST(count(*) AS BIGINT UNSIGNED)",
        Takes::Nothing,
        SO_FAR,
    ),
];

const FILTERS: [&str; 3] = [
    "units > 0",
    "amount < 400 OR speed > 500",
    "terminal_id = 'terminal 1'",
];

/// A feature that was drawn.
#[derive(Debug, Clone)]
pub struct Feature {
    call: usize,
    arguments: [String; 2],
    filter: Option<&'static str>,
    /// Among [`KEYS`].
    pub key: usize,
    /// PARTITION BY, where it is none of those.
    pub by: Option<&'static str>,
    frame: usize,
}

/// What features may be made of.
pub struct Words {
    /// Numbers: those that add up exactly first, and last those that may be NaN or infinite.
    pub numbers: &'static [&'static str],
    pub exact: usize,
    pub finite: usize,
    pub filters: &'static [&'static str],
    /// Two ways to compute a number may differ in its last digit, so that nothing may tell values apart.
    pub rounded: bool,
}

/// The columns of the event.
pub const EVENT: Words = Words {
    numbers: &NUMBERS,
    exact: EXACT,
    finite: FINITE,
    filters: &FILTERS,
    rounded: false,
};

impl Feature {
    /// A feature of `words`; one that is in `order` can be asked of DataFusion's own windows.
    pub fn of(drawn: [usize; 6], words: &Words, in_order: bool) -> Feature {
        let [call, x, y, filter, key, frame] = drawn;
        let mut call = call % CALLS.len();
        if in_order && !CALLS[call].windows {
            call = 0;
        }
        let takes = CALLS[call].takes;
        let mut frame = frame % FRAMES.len();
        if !CALLS[call].unbounded
            && matches!(
                FRAMES[frame].1,
                Frame::Range(None, _) | Frame::Rows(None, _)
            )
        {
            frame = 1;
        }
        // With values that are not finite, DataFusion's implementations of these do not agree.
        let apart = ["min(", "max("]
            .iter()
            .any(|name| CALLS[call].sql.starts_with(name));
        let finite = in_order || takes == Takes::TwoNumbers || apart;
        let told_apart = CALLS[call].sql.contains("DISTINCT") || takes == Takes::TwoNumbers;
        let exact = takes == Takes::Exact || (words.rounded && told_apart);
        let numbers = match (exact, finite) {
            (true, _) => words.exact,
            (false, true) => words.finite,
            (false, false) => words.numbers.len(),
        };
        let x = match takes {
            Takes::Text => TEXTS[x % TEXTS.len()],
            _ => words.numbers[x % numbers],
        };
        let by_place = matches!(CALLS[call].kind, Kind::Place(_));
        Feature {
            call,
            arguments: [x.to_string(), words.numbers[y % numbers].to_string()],
            filter: (!by_place)
                .then(|| words.filters.get(filter % 9).copied())
                .flatten(),
            key: key % KEYS.len(),
            by: None,
            frame,
        }
    }

    /// The call of `CALLS` that is written as `sql`, of `x`; `frame` and `key` as drawn.
    pub fn of_call(sql: &str, x: &str, key: usize, frame: usize) -> Feature {
        Feature {
            call: CALLS.iter().position(|call| call.sql == sql).unwrap(),
            arguments: [x.to_string(), String::new()],
            filter: None,
            key: key % KEYS.len(),
            by: None,
            frame,
        }
    }

    /// What it stands for in PARTITION BY.
    pub fn by(&self) -> &'static str {
        self.by.unwrap_or(KEYS[self.key].0)
    }

    fn frame(&self) -> Frame {
        match CALLS[self.call].kind {
            Kind::Place(Some(frame)) => frame,
            _ => FRAMES[self.frame].1,
        }
    }

    fn filled(&self, template: &str) -> String {
        template
            .replace("$x", &self.arguments[0])
            .replace("$y", &self.arguments[1])
    }

    /// The call in a feature query.
    pub fn sql(&self) -> String {
        let mut sql = self.filled(CALLS[self.call].sql);
        if let Some(filter) = self.filter {
            let _ = write!(sql, " FILTER (WHERE {filter})");
        }
        let by = match self.by() {
            "" => String::new(),
            key => format!("PARTITION BY {key} "),
        };
        format!(
            "{sql} OVER ({by}ORDER BY event_time {})",
            FRAMES[self.frame].0
        )
    }

    /// The call over the rows of one frame.
    fn oracle(&self) -> String {
        let call = &CALLS[self.call];
        let template = if call.oracle.is_empty() {
            call.sql
        } else {
            call.oracle
        };
        let mut sql = self.filled(template);
        if let Some(filter) = self.filter {
            let _ = write!(sql, " FILTER (WHERE {filter})");
        }
        sql
    }
}

/// What each row is of in a PARTITION BY.
pub type RowKeys = Vec<Vec<Option<i64>>>;

/// Plays the rows through the keys of one PARTITION BY.
fn known(rows: &[Row], of: &RowKeys, longest_us: Option<i64>) -> Vec<Known> {
    let (mut clock, mut keys) = (Clock::default(), Keys::new(longest_us));
    (rows.iter().zip(of))
        .map(|(row, of)| {
            let credible_us = clock.observe(row.time_us);
            keys.take(of.clone(), &clock, credible_us)
        })
        .collect()
}

/// The rows of each row's frame.
fn frames(rows: &[Row], keys: &[Known], of: &RowKeys, frame: Frame) -> Vec<Vec<usize>> {
    (0..rows.len())
        .map(|e| {
            let seen = |h: &usize| of[*h] == of[e] && keys[*h].generation == keys[e].generation;
            let mut order: Vec<usize> = (0..=e).filter(seen).collect();
            order.sort_by_key(|h| (rows[*h].time_us, *h));
            let in_time_us = keys[e].newest_us - LATENESS_US;
            let late = rows[e].time_us < in_time_us;
            match frame {
                Frame::Range(None, _) | Frame::Rows(None, _) if late => Vec::new(),
                Frame::Range(from, until) => {
                    let end_us = rows[e].time_us - until * HOUR_US;
                    let start_us = from.map_or(i64::MIN, |from| {
                        rows[e].time_us.max(in_time_us) - from * HOUR_US
                    });
                    order.retain(|h| (start_us..=end_us).contains(&rows[*h].time_us));
                    order
                }
                Frame::Rows(from, until) => {
                    let place = order.iter().position(|h| *h == e).unwrap();
                    let in_time = order
                        .iter()
                        .position(|h| rows[*h].time_us >= in_time_us)
                        .unwrap_or(order.len());
                    let least = if late {
                        in_time.saturating_sub(from.unwrap())
                    } else {
                        0
                    };
                    let from = from.map_or(0, |from| place.saturating_sub(from)).max(least);
                    match (place + 1).checked_sub(until) {
                        Some(to) if to > from => order[from..to].to_vec(),
                        _ => Vec::new(),
                    }
                }
            }
        })
        .collect()
}

/// All rows with their sequence and time.
pub fn table(rows: &[Row]) -> RecordBatch {
    numbered(batch(&relation(false), rows).rows, rows)
}

/// Rows with their sequence and time.
pub fn numbered(table: RecordBatch, rows: &[Row]) -> RecordBatch {
    let sequences = Int64Array::from_iter_values(0..rows.len() as i64);
    let times = Int64Array::from_iter_values(rows.iter().map(|row| row.time_us));
    let table = with_column(&table, "sequence", Arc::new(sequences));
    with_column(&table, "t", Arc::new(times))
}

/// A table with one more column.
pub fn with_column(table: &RecordBatch, name: &str, column: ArrayRef) -> RecordBatch {
    let mut fields = table.schema().fields().to_vec();
    fields.push(Arc::new(Field::new(name, column.data_type().clone(), true)));
    let mut columns = table.columns().to_vec();
    columns.push(column);
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

/// The feature, from the rows of each frame; `table` has the columns that it reads, `of` says what rows are
/// of in the PARTITION BY that it shares with the features in `group`.
pub fn expected(
    table: &RecordBatch,
    rows: &[Row],
    of: &RowKeys,
    group: &[&Feature],
    feature: &Feature,
) -> ArrayRef {
    let lengths: Option<Vec<i64>> = (group.iter())
        .map(|other| match other.frame() {
            Frame::Range(from, _) => from.map(|hours| hours * HOUR_US),
            Frame::Rows(..) => None,
        })
        .collect();
    let keys = known(
        rows,
        of,
        lengths.and_then(|lengths| lengths.into_iter().max()),
    );
    let frames = frames(rows, &keys, of, feature.frame());
    let (mut e, mut h) = (Vec::new(), Vec::new());
    for (row, frame) in frames.iter().enumerate() {
        e.extend(frame.iter().map(|_| row as i64));
        h.extend(frame.iter().map(|row| *row as i64));
    }
    let pairs = RecordBatch::try_from_iter([
        ("e", Arc::new(Int64Array::from(e)) as ArrayRef),
        ("h", Arc::new(Int64Array::from(h))),
    ])
    .unwrap();
    let mut value = "a.f".to_string();
    if CALLS[feature.call].kind == Kind::Count {
        value = match feature.sql().starts_with("regr_count") {
            true => "coalesce(a.f, arrow_cast(0, 'UInt64'))".into(),
            false => "coalesce(a.f, 0)".into(),
        };
    }
    if feature.sql().starts_with("lag(coalesce(units, 0), 4, -1)") {
        value = "CASE WHEN a.e IS NULL THEN -1 ELSE a.f END".into();
    }
    let sql = format!(
        "SELECT {value} AS f FROM r LEFT JOIN \
         (SELECT p.e, {} AS f FROM p JOIN r ON p.h = r.sequence GROUP BY p.e) a ON r.sequence = a.e \
         ORDER BY r.sequence",
        feature.oracle()
    );
    let result = query(&[("r", table.clone()), ("p", pairs)], &sql);
    result.column(0).clone()
}

/// What the rows are of in a PARTITION BY over their own columns.
pub fn row_keys(rows: &[Row], key: usize) -> RowKeys {
    rows.iter().map(KEYS[key].1).collect()
}

/// The slack of deviations that DataFusion took rows back from.
pub const TAKEN_BACK: f64 = 1e-2;

/// Exact, but doubles to 1e-12 of their size, and to `slack` for what the other side computes with sums
/// that cancel. A variance of equal values that DataFusion took rows back from may come out below 0, and its
/// root as NaN.
pub fn same(feature: &str, ours: &dyn Array, theirs: &dyn Array, slack: f64) {
    assert_eq!(ours.data_type(), theirs.data_type(), "{feature}");
    assert_eq!(ours.len(), theirs.len(), "{feature}");
    if *ours.data_type() != DataType::Float64 {
        assert_eq!(ours, theirs, "{feature}");
        return;
    }
    let (ours, theirs) = (
        ours.as_primitive::<Float64Type>(),
        theirs.as_primitive::<Float64Type>(),
    );
    let from_zero = slack >= TAKEN_BACK && feature.starts_with("stddev");
    for (row, (one, other)) in ours.iter().zip(theirs).enumerate() {
        let fits = match (one, other) {
            (Some(one), Some(other)) => {
                one == other
                    || (one.is_nan() && other.is_nan())
                    || (from_zero && other.is_nan() && one.abs() <= slack)
                    || (one - other).abs() <= 1e-12 * one.abs().max(other.abs()) + slack
            }
            _ => one == other,
        };
        assert!(fits, "{feature}, row {row}: {one:?} {other:?}");
    }
}

fn select(features: &[Feature]) -> String {
    let items = features.iter().enumerate();
    let items: Vec<String> = items.map(|(n, f)| format!("{} AS f{n}", f.sql())).collect();
    format!("SELECT event_time, {} FROM events", items.join(", "))
}

/// Payments only; speeds on a grid, so that sums of their squares are exact for the other side too; some
/// dates far off.
pub fn payments(rows_max: usize, ordered: bool) -> impl Strategy<Value = Vec<Row>> {
    let far = prop::collection::vec(prop::bool::weighted(0.02), rows_max);
    (rows(rows_max, ordered), far).prop_map(move |(mut rows, far)| {
        rows.retain(|row| !row.label);
        for (row, far) in rows.iter_mut().zip(far) {
            row.speed = row.speed.map(|speed| (speed * 4.0).round() / 4.0);
            if far && !ordered {
                row.time_us += 10_000 * DAY_US;
            }
        }
        rows
    })
}

fn features(in_order: bool) -> impl Strategy<Value = Vec<Feature>> {
    let drawn = prop::array::uniform6(0usize..1000)
        .prop_map(move |drawn| Feature::of(drawn, &EVENT, in_order));
    prop::collection::vec(drawn, 1..14)
}

proptest! {
    #![proptest_config(Config { cases: 32, failure_persistence: None, max_shrink_iters: 200, ..Config::default() })]

    #[test]
    fn any_feature_equals_its_frame(
        rows in payments(140, false),
        features in features(false),
        ends in prop::collection::vec(1usize..140, 0..6),
    ) {
        prop_assume!(!rows.is_empty());
        let sql = select(&features);
        let engine = || FeatureEngine::new(relation(false), &sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
        let whole = batch(&relation(false), &rows);
        for report in reports(&mut engine(), &whole) {
            prop_assert_eq!(report.mismatches, Vec::<String>::new(), "{}", sql);
        }
        for begin in [0, whole.len() / 2] {
            let mut engine = engine();
            if begin > 0 {
                engine.compute(&whole.slice(0, begin)).unwrap();
            }
            let newest_us = rows[..begin].iter().map(|row| row.time_us).max();
            let from_us = newest_us.map_or(i64::MIN, |newest_us| newest_us + 1);
            let keys = Arc::new(engine.key_sample());
            let Some(mut log) = engine.log_sample(keys, from_us, 100_000).unwrap() else {
                continue;
            };
            let rest = whole.slice(begin, whole.len() - begin);
            for report in logged(&mut engine, &mut log, &rest, &[]) {
                prop_assert!(is_right(&report), "from {}: {:?} {}", begin, report, sql);
            }
        }
        let ours = joined(fold(&mut engine(), &whole, &[]));
        let table = table(&rows);
        for (n, feature) in features.iter().enumerate() {
            let group: Vec<&Feature> = features.iter().filter(|f| f.by() == feature.by()).collect();
            let of = row_keys(&rows, feature.key);
            let theirs = expected(&table, &rows, &of, &group, feature);
            same(&feature.sql(), ours.features.column(n + 1), &theirs, 1e-7);
        }
        prop_assert_eq!(format!("{:?}", restarted(&engine, &whole, &ends)), format!("{:?}", ours));
    }

    #[test]
    fn any_feature_equals_datafusion_in_order(rows in payments(140, true), features in features(true)) {
        prop_assume!(!rows.is_empty());
        let sql = select(&features);
        let mut engine = FeatureEngine::new(relation(false), &sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
        let whole = batch(&relation(false), &rows);
        let ours = joined(fold(&mut engine, &whole, &[])).features;
        let theirs = query(&[("events", whole.rows)], &format!("SELECT * FROM ({sql}) ORDER BY event_time"));
        for (n, feature) in features.iter().enumerate() {
            same(&feature.sql(), ours.column(n + 1), theirs.column(n + 1), TAKEN_BACK);
        }
    }
}
