//! Over how many threads keys are split shows neither in the features nor in the state.

use std::sync::Arc;

use proptest::prelude::*;
use proptest::test_runner::Config;
use sanderling_features::FeatureEngine;
use sanderling_schemas::Relation;

use crate::folded::fold;
use crate::oracle::features_sql;
use crate::stream::{Row, batch, relation, rows};

/// What no kernel computes, what keeps texts, what is capped, and windows over windows.
const OTHERS_SQL: &str = "WITH lower AS (SELECT *, median(speed) OVER card AS m, \
     count(DISTINCT units) OVER card AS d, count(amount) OVER ever AS n FROM events WINDOW \
     card AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '3 hours' PRECEDING AND CURRENT ROW), \
     ever AS (PARTITION BY card_id ORDER BY event_time RANGE UNBOUNDED PRECEDING)) \
     SELECT m, d, n, \
     max(m) FILTER (WHERE amount > 0) OVER (PARTITION BY d, card_id ORDER BY event_time RANGE INTERVAL '2 days' PRECEDING) AS of_both, \
     last_value(terminal_id) OVER (PARTITION BY card_id, stream ORDER BY event_time RANGE INTERVAL '1 day' PRECEDING) AS terminal, \
     lag(amount, 2) OVER (PARTITION BY card_id, stream ORDER BY event_time) AS before \
     FROM lower";

/// The same rows over sixty times as many cards: the rings of a few stand together and are never split.
fn spread(mut rows: Vec<Row>) -> Vec<Row> {
    for row in &mut rows {
        row.card = row.card.map(|card| card * 60 + (row.id % 60) as u8);
    }
    rows
}

/// Everything that came of the rows, and the bytes of the state.
fn everything(
    sql: &str,
    relation: &Arc<Relation>,
    rows: &[Row],
    ends: &[usize],
    threads: usize,
) -> (Vec<String>, Vec<u8>) {
    let engine = FeatureEngine::new(relation.clone(), sql).unwrap();
    let mut engine = engine.with_threads(threads);
    let batches = fold(&mut engine, &batch(relation, rows), ends);
    let told = (batches.iter())
        .map(|batch| {
            let (features, slots) = (&batch.features, &batch.slots);
            format!("{features:?} {slots:?} {:?} {:?}", batch.late, batch.capped)
        })
        .collect();
    let mut state = Vec::new();
    engine.snapshot().write_arrow(&mut state).unwrap();
    (told, state)
}

proptest! {
    #![proptest_config(Config { cases: 8, failure_persistence: None, max_shrink_iters: 50, ..Config::default() })]

    #[test]
    fn threads_change_nothing(
        rows in rows(2400, false),
        mut ends in prop::collection::vec(1usize..2400, 0..3),
        capped in prop::option::of(Just(4)),
    ) {
        prop_assume!(rows.len() > 700);
        ends.sort_unstable();
        let rows = spread(rows);
        let relation = Arc::new(Relation { rows_per_key_max: capped, ..(*relation(true)).clone() });
        for sql in [features_sql(), OTHERS_SQL.into()] {
            let one = everything(&sql, &relation, &rows, &ends, 1);
            for threads in [2, 3, 8] {
                prop_assert!(everything(&sql, &relation, &rows, &ends, threads) == one, "{threads} threads");
            }
        }
    }
}
