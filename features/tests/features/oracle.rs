//! Parity: the engine's features equal a self-join over the accepted order, whatever the batches,
//! with or without a restart; and DataFusion's own windows wherever event time ascends strictly.

use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Float64Type};
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use proptest::prelude::*;
use proptest::test_runner::Config;
use sanderling_features::FeatureEngine;
use sanderling_schemas::{KnownLabel, LateRows, Relation};
use sanderling_state::Restored;

use crate::accepted::{accepted, in_time};
use crate::folded::{fold, joined};
use crate::stream::{HOUR_US, LATENESS_US, Row, batch, relation, rows};

/// A window: name, key, hours from and until which it looks back.
const WINDOWS: [(&str, &str, i64, i64); 6] = [
    ("card_1h", "card_id", 1, 0),
    ("card_1d", "card_id", 24, 0),
    ("card_3d", "card_id", 72, 0),
    ("card_past", "card_id", 48, 5),
    ("terminal_2d", "terminal_id", 48, 0),
    ("terminal_past", "terminal_id", 60, 24),
];

/// An aggregate and its window; `$` stands before each column.
const AGGREGATES: [(&str, &str); 27] = [
    ("count($amount)", "card_1h"),
    ("sum($amount)", "card_1h"),
    ("stddev($amount)", "card_1h"),
    ("count($amount)", "card_1d"),
    ("avg($amount)", "card_1d"),
    ("min($amount)", "card_1d"),
    ("max($amount)", "card_1d"),
    ("sum($units)", "card_1d"),
    ("avg($units)", "card_1d"),
    ("var_pop($units)", "card_1d"),
    ("max($speed)", "card_1d"),
    ("sum($speed)", "card_3d"),
    ("avg($speed)", "card_3d"),
    ("stddev($speed)", "card_3d"),
    ("stddev_pop($amount)", "card_3d"),
    ("min($units)", "card_3d"),
    ("sum($is_fraud)", "card_3d"),
    ("count(*) FILTER (WHERE $amount > 500)", "card_3d"),
    ("sum($amount)", "card_past"),
    ("max($units)", "card_past"),
    ("sum($is_fraud)", "terminal_2d"),
    ("avg($is_fraud)", "terminal_2d"),
    ("count($is_fraud)", "terminal_2d"),
    ("min($speed)", "terminal_2d"),
    ("avg($amount) FILTER (WHERE $units > 0)", "terminal_2d"),
    ("sum($is_fraud)", "terminal_past"),
    ("var($amount)", "terminal_past"),
];

pub fn features_sql() -> String {
    let features: Vec<String> = (AGGREGATES.iter().enumerate())
        .map(|(n, (call, window))| format!("{} OVER {window} AS f{n}", call.replace('$', "")))
        .collect();
    let windows: Vec<String> = WINDOWS
        .iter()
        .map(|(name, key, from, until)| {
            let until = match until {
                0 => "CURRENT ROW".to_string(),
                hours => format!("INTERVAL '{hours} hours' PRECEDING"),
            };
            format!(
                "{name} AS (PARTITION BY {key} ORDER BY event_time RANGE BETWEEN \
                 INTERVAL '{from} hours' PRECEDING AND {until})"
            )
        })
        .collect();
    format!(
        "SELECT event_time, tx_id, {}, amount / nullif(avg(amount) OVER card_1d, 0) AS ratio \
         FROM events WINDOW {}",
        features.join(", "),
        windows.join(", ")
    )
}

/// Runs SQL over tables.
pub fn query(tables: &[(&str, RecordBatch)], sql: &str) -> RecordBatch {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        let context =
            SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
        for (name, rows) in tables {
            let source = MemTable::try_new(rows.schema(), vec![vec![rows.clone()]]).unwrap();
            context.register_table(*name, Arc::new(source)).unwrap();
        }
        let frame = context
            .sql(sql)
            .await
            .unwrap_or_else(|e| panic!("{sql}: {e}"));
        let schema = frame.schema().as_arrow().clone();
        let batches = frame.collect().await.unwrap();
        // The plan's schema is of before types were coerced.
        let schema = batches
            .first()
            .map_or(Arc::new(schema), |batch| batch.schema());
        concat_batches(&schema, &batches).unwrap()
    })
}

/// The self-join: all aggregates of one window for each payment.
fn self_join(table: &RecordBatch, window: (&str, &str, i64, i64)) -> RecordBatch {
    let (name, key, from, until) = window;
    let calls: Vec<String> = (AGGREGATES.iter().enumerate())
        .filter(|(_, (_, over))| *over == name)
        .map(|(n, (call, _))| format!("{} AS f{n}", call.replace('$', "h.")))
        .collect();
    let (from, until) = (from * HOUR_US, until * HOUR_US);
    let sql = format!(
        "SELECT e.sequence, {} FROM r e LEFT JOIN r h \
         ON (h.{key} IS NOT DISTINCT FROM e.{key}) AND h.sequence <= e.sequence \
         AND h.t BETWEEN e.t - {from} AND e.t - {until} \
         AND h.t >= e.newest_{key} - {from} - {LATENESS_US} \
         AND h.generation_{key} = e.generation_{key} \
         WHERE e.stream = 'payments' GROUP BY e.sequence ORDER BY e.sequence",
        calls.join(", ")
    );
    query(&[("r", table.clone())], &sql)
}

/// Exact for integers and decimals; doubles to 1e-12 of their size, and deviations beyond that to the
/// `slack` that the other side's one-pass update needs.
fn same(field: &str, ours: &dyn Array, theirs: &dyn Array, slack: f64) {
    assert_eq!(ours.data_type(), theirs.data_type(), "{field}");
    assert_eq!(ours.len(), theirs.len(), "{field}");
    if *ours.data_type() != DataType::Float64 {
        assert_eq!(ours, theirs, "{field}");
        return;
    }
    let call = field
        .strip_prefix('f')
        .map_or("", |n| AGGREGATES[n.parse::<usize>().unwrap()].0);
    let slack = if call.starts_with("std") || call.starts_with("var") {
        slack
    } else {
        0.0
    };
    let (ours, theirs) = (
        ours.as_primitive::<Float64Type>(),
        theirs.as_primitive::<Float64Type>(),
    );
    for (row, (one, other)) in ours.iter().zip(theirs).enumerate() {
        match (one, other) {
            (Some(one), Some(other)) => {
                let allowed = 1e-12 * one.abs().max(other.abs()) + slack;
                assert!(
                    (one - other).abs() <= allowed,
                    "{field} {call}, row {row}: {one} {other}"
                );
            }
            _ => assert_eq!(one, other, "{field} {call}, row {row}"),
        }
    }
}

/// An engine that refuses late rows.
fn strict() -> FeatureEngine {
    let relation = Relation {
        late_rows: LateRows::Refuse,
        ..(*relation(true)).clone()
    };
    FeatureEngine::new(Arc::new(relation), &features_sql()).unwrap()
}

fn engine(labels: bool) -> FeatureEngine {
    FeatureEngine::new(relation(labels), &features_sql()).unwrap()
}

proptest! {
    #![proptest_config(Config { cases: 48, failure_persistence: None, ..Config::default() })]

    #[test]
    fn features_equal_the_self_join(rows in rows(160, false)) {
        let relation = relation(true);
        let whole = batch(&relation, &rows);
        let ours = joined(fold(&mut engine(true), &whole, &[]));
        let (table, known) = accepted(&rows);
        prop_assert_eq!(&ours.labels, &known);
        let late = query(&[("r", table.clone())], &format!(
            "SELECT t < greatest(newest_card_id, newest_terminal_id) - {LATENESS_US} AS late \
             FROM r WHERE stream = 'payments' ORDER BY sequence"
        ));
        let late: Vec<bool> = late.column(0).as_boolean().values().iter().collect();
        prop_assert_eq!(&ours.late, &late);
        for window in WINDOWS {
            let theirs = self_join(&table, window);
            for field in theirs.schema().fields().iter().skip(1) {
                let one = ours.features.column_by_name(field.name()).unwrap();
                same(field.name(), one, theirs.column_by_name(field.name()).unwrap(), 1e-5);
            }
        }
    }

    #[test]
    fn batches_and_restarts_change_nothing(
        rows in rows(300, false),
        mut ends in prop::collection::vec(1usize..300, 0..12),
        restart in 0usize..13,
    ) {
        ends.sort_unstable();
        let whole = batch(&relation(true), &rows);
        let unbroken = joined(fold(&mut engine(true), &whole, &[]));
        let mut first = engine(true);
        prop_assert_eq!(&joined(fold(&mut first, &whole, &ends)), &unbroken);

        let middle = ends.get(restart).copied().unwrap_or(0).min(whole.len());
        let mut before = engine(true);
        let mut batches = match middle {
            0 => Vec::new(),
            _ => fold(&mut before, &whole.slice(0, middle), &ends),
        };
        let snapshot = before.snapshot();
        // What comes after the snapshot must not show in it.
        if middle > 0 && middle < whole.len() {
            fold(&mut before, &whole.slice(middle, whole.len() - middle), &[]);
        }
        let mut file = Vec::new();
        snapshot.write_arrow(&mut file).unwrap();
        let mut after = engine(true);
        after.restore(Restored::read_arrow(file.as_slice()).unwrap()).unwrap();
        if middle < whole.len() {
            batches.extend(fold(&mut after, &whole.slice(middle, whole.len() - middle), &[]));
        }
        prop_assert_eq!(after.label_counts(), first.label_counts());
        prop_assert_eq!(&joined(batches), &unbroken);
    }

    #[test]
    fn refused_rows_are_as_if_they_had_never_come(
        rows in rows(160, false),
        mut ends in prop::collection::vec(1usize..160, 0..8),
        restart in 0usize..9,
    ) {
        ends.sort_unstable();
        let kept = in_time(&rows);
        let refused: Vec<u32> = (0..rows.len()).filter(|n| !kept.contains(n)).map(|n| n as u32).collect();
        let survivors: Vec<Row> = kept.iter().map(|n| rows[*n].clone()).collect();
        let expected = joined(fold(&mut engine(true), &batch(&relation(true), &survivors), &[]));

        let whole = batch(&relation(true), &rows);
        let at_once = joined(fold(&mut strict(), &whole, &[]));
        prop_assert_eq!(&at_once.too_late, &refused);
        prop_assert_eq!(&at_once.features, &expected.features);
        prop_assert!(at_once.late.iter().all(|late| !late));
        let as_sent = |label: &KnownLabel| KnownLabel {
            row: kept[label.row as usize] as u32,
            of: sanderling_schemas::Sequence(kept[label.of.0 as usize] as u64),
            ..*label
        };
        let labels: Vec<KnownLabel> = expected.labels.iter().map(as_sent).collect();
        prop_assert_eq!(&at_once.labels, &labels);
        for (slots, expected) in at_once.slots.iter().zip(&expected.slots) {
            let taken: Vec<u32> = kept.iter().map(|n| slots[*n]).collect();
            prop_assert_eq!(&taken, expected);
        }

        let middle = ends.get(restart).copied().unwrap_or(0).min(whole.len());
        let mut before = strict();
        let mut batches = match middle {
            0 => Vec::new(),
            _ => fold(&mut before, &whole.slice(0, middle), &ends),
        };
        let mut file = Vec::new();
        before.snapshot().write_arrow(&mut file).unwrap();
        let mut after = strict();
        after.restore(Restored::read_arrow(file.as_slice()).unwrap()).unwrap();
        if middle < whole.len() {
            let rest: Vec<usize> = ends.iter().filter(|end| **end > middle).map(|end| end - middle).collect();
            batches.extend(fold(&mut after, &whole.slice(middle, whole.len() - middle), &rest));
        }
        prop_assert_eq!(&joined(batches), &at_once);
    }

    #[test]
    fn ordered_streams_equal_datafusion(rows in rows(200, true)) {
        let whole = batch(&relation(false), &rows);
        let ours = joined(fold(&mut engine(false), &whole, &[])).features;
        let sql = format!("SELECT * FROM ({}) ORDER BY event_time", features_sql());
        let theirs = query(&[("events", whole.rows)], &sql);
        for field in theirs.schema().fields() {
            let one = ours.column_by_name(field.name()).unwrap();
            same(field.name(), one, theirs.column_by_name(field.name()).unwrap(), 1e-2);
        }
    }
}

#[test]
fn a_cold_event_sees_itself_alone() {
    let mut rows: Vec<Row> = Vec::new();
    for n in 0..20 {
        rows.push(Row {
            time_us: n * HOUR_US / 4,
            label: false,
            id: n,
            card: Some(0),
            terminal: Some(0),
            amount: Some(100 + n),
            speed: Some(1.0),
            units: Some(n),
            is_fraud: None,
        });
    }
    let relation = relation(true);
    let mut warm = engine(true);
    let features = warm.compute(&batch(&relation, &rows)).unwrap();
    let cold = warm.cold(&features, &[3, 19]).unwrap();
    for (at, row) in [3usize, 19].into_iter().enumerate() {
        let alone = engine(true)
            .compute(&batch(&relation, &rows[row..=row]))
            .unwrap();
        assert_eq!(cold.slice(at, 1), alone.features);
    }
}

#[test]
fn a_key_may_have_more_arguments_than_a_ring_has_columns() {
    let features: Vec<String> = (0..150)
        .map(|n| format!("sum(units + {n}) OVER w AS f{n}"))
        .collect();
    let sql = format!(
        "SELECT {} FROM events WINDOW w AS (PARTITION BY card_id ORDER BY event_time \
         RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW)",
        features.join(", ")
    );
    let relation = relation(true);
    let row = |n: i64| Row {
        time_us: n,
        label: false,
        id: n,
        card: Some(0),
        terminal: None,
        amount: None,
        speed: None,
        units: Some(n),
        is_fraud: None,
    };
    let mut engine = FeatureEngine::new(relation.clone(), &sql).unwrap();
    let features = engine
        .compute(&batch(&relation, &[row(1), row(2)]))
        .unwrap()
        .features;
    for (n, column) in features.columns().iter().enumerate() {
        let sums = column.as_primitive::<arrow::datatypes::Int64Type>();
        assert_eq!(sums.values(), &[1 + n as i64, 3 + 2 * n as i64]);
    }
}

#[test]
fn a_value_that_cannot_be_computed_is_null_in_its_row_alone() {
    let sql = "SELECT units / (units - 2) AS ratio, sum(units / (units - 2)) OVER w AS total \
               FROM events WINDOW w AS (PARTITION BY card_id ORDER BY event_time \
               RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW)";
    let relation = relation(true);
    let rows: Vec<Row> = (1..5)
        .map(|n| Row {
            time_us: n,
            label: false,
            id: n,
            card: Some(0),
            terminal: None,
            amount: None,
            speed: None,
            units: Some(n),
            is_fraud: None,
        })
        .collect();
    let mut engine = FeatureEngine::new(relation.clone(), sql).unwrap();
    let features = engine.compute(&batch(&relation, &rows)).unwrap().features;
    let column = |n: usize| {
        let values = features
            .column(n)
            .as_primitive::<arrow::datatypes::Int64Type>();
        values.iter().collect::<Vec<_>>()
    };
    assert_eq!(column(0), [Some(-1), None, Some(3), Some(2)]);
    assert_eq!(column(1), [Some(-1), Some(-1), Some(2), Some(4)]);
}
