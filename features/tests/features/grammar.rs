//! Parity over random SQL: the engine against frames written out row by row and aggregated by DataFusion,
//! and against DataFusion's own windows where event time ascends strictly.

use std::fmt::Write;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::Config;
use sanderling_features::FeatureEngine;

use crate::calls::{CALLS, EXACT, FILTERS, FINITE, FRAMES, Frame, Kind, NUMBERS, TEXTS, Takes};
use crate::folded::{fold, joined, restarted};
use crate::frames::{TAKEN_BACK, expected, row_keys, same, table};
use crate::oracle::query;
use crate::parity::{is_right, logged, reports};
use crate::stream::{HOUR_US, Row, batch, relation, rows};

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

/// A feature that was drawn.
#[derive(Debug, Clone)]
pub struct Feature {
    /// Among [`CALLS`].
    pub call: usize,
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

    pub fn frame(&self) -> Frame {
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
    pub fn oracle(&self) -> String {
        let call = &CALLS[self.call];
        let template = if call.oracle.is_empty() {
            call.sql
        } else {
            call.oracle
        };
        let filter = match self.filter {
            Some(filter) => format!(" FILTER (WHERE {filter})"),
            None => String::new(),
        };
        let sql = self.filled(template);
        match sql.contains("$f") {
            true => sql.replace("$f", &filter),
            false => sql + &filter,
        }
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
