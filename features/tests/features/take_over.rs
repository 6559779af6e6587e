//! Other features go on from the state that the ones before have left.

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use proptest::prelude::*;
use proptest::test_runner::Config;
use sanderling_features::{FeatureEngine, Folded, TakenOver};
use sanderling_schemas::FeatureBatch;
use sanderling_state::Restored;

use crate::folded::fold;
use crate::stream::{HOUR_US, batch, relation, rows};

const WINDOWS: &str = "FROM events WINDOW \
     hour AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW), \
     day AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW), \
     days AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '3 days' PRECEDING AND CURRENT ROW), \
     terminal AS (PARTITION BY terminal_id ORDER BY event_time RANGE BETWEEN INTERVAL '2 days' PRECEDING AND CURRENT ROW), \
     pair AS (PARTITION BY card_id, terminal_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW), \
     place AS (PARTITION BY card_id, stream ORDER BY event_time)";

/// What both have, in other functions and shorter frames, and under other names.
const SHARED: [&str; 7] = [
    "count(amount) OVER hour AS a",
    "min(amount) OVER day AS b",
    "avg(amount) OVER days AS c",
    "min(terminal_id) OVER day AS d",
    "sum(units) OVER terminal AS e",
    "max(speed) OVER pair AS f",
    "lag(amount, 2) OVER place AS g",
];
/// What only the new ones have: another column, a longer frame, another key.
const NEW: [&str; 3] = [
    "sum(units) OVER day AS x",
    "sum(amount) OVER terminal AS y",
    "count(amount) OVER pair AS z",
];

fn before() -> String {
    format!(
        "SELECT sum(amount) OVER days AS one, max(terminal_id) OVER days AS two, \
         stddev(units) OVER terminal AS three, avg(speed) OVER pair AS four, \
         lag(amount, 3) OVER place AS five, sum(amount) OVER place AS six {}",
        WINDOWS.replace("place AS (PARTITION BY card_id, stream ORDER BY event_time)",
            "place AS (PARTITION BY card_id, stream ORDER BY event_time ROWS BETWEEN 5 PRECEDING AND CURRENT ROW)")
    )
}

fn after(features: &[&str]) -> String {
    format!("SELECT {} {WINDOWS}", features.join(", "))
}

fn engine(sql: &str) -> FeatureEngine {
    FeatureEngine::new(relation(true), sql).unwrap_or_else(|e| panic!("{sql}: {e}"))
}

fn restored(engine: &FeatureEngine) -> Restored {
    let mut file = Vec::new();
    engine.snapshot().write_arrow(&mut file).unwrap();
    Restored::read_arrow(file.as_slice()).unwrap()
}

fn features(batches: &[FeatureBatch]) -> RecordBatch {
    let schema = batches[0].features.schema();
    concat_batches(&schema, batches.iter().map(|b| &b.features)).unwrap()
}

proptest! {
    #![proptest_config(Config { cases: 48, failure_persistence: None, ..Config::default() })]

    #[test]
    fn windows_that_both_have_go_on(rows in rows(250, false), at in 1usize..200) {
        let whole = batch(&relation(true), &rows);
        let at = at.min(whole.len());
        let (past, rest) = (whole.slice(0, at), whole.slice(at, whole.len() - at));
        let mut old = engine(&before());
        fold(&mut old, &past, &[]);
        let all: Vec<&str> = SHARED.iter().chain(&NEW).copied().collect();

        // Alone, nothing is missing.
        let mut shared = engine(&after(&SHARED));
        let taken = shared.take_over(&restored(&old), Folded::Nothing).unwrap();
        prop_assert_eq!(taken, TakenOver { shared: SHARED.len(), folded: 0, filling: Vec::new() });

        // With others that nobody has kept, those are said to lack rows.
        let mut filling = engine(&after(&all));
        let taken = filling.take_over(&restored(&old), Folded::Nothing).unwrap();
        prop_assert_eq!((taken.shared, taken.folded), (SHARED.len(), 0));
        let mut lacking: Vec<String> = taken.filling.iter().flat_map(|f| f.features.clone()).collect();
        lacking.sort();
        prop_assert_eq!(lacking, ["x", "y", "z"].map(String::from));

        // Folded from the log as well, all is there.
        let mut folded = engine(&after(&all));
        fold(&mut folded, &past, &[]);
        let taken = folded.take_over(&restored(&old), Folded::All).unwrap();
        prop_assert_eq!(taken.filling, Vec::new());

        let mut unbroken = engine(&after(&all));
        fold(&mut unbroken, &past, &[]);
        if rest.is_empty() {
            return Ok(());
        }
        let wanted = features(&fold(&mut unbroken, &rest, &[]));
        prop_assert_eq!(&features(&fold(&mut folded, &rest, &[])), &wanted);
        for mut engine in [shared, filling] {
            let ours = features(&fold(&mut engine, &rest, &[]));
            for (feature, name) in SHARED.iter().enumerate() {
                prop_assert_eq!(ours.column(feature), wanted.column(feature), "{}", name);
            }
        }
    }

    #[test]
    fn what_lacks_rows_is_whole_when_it_is_said_to_be(rows in rows(250, false), at in 1usize..60) {
        let whole = batch(&relation(true), &rows);
        let at = at.min(whole.len());
        let (past, rest) = (whole.slice(0, at), whole.slice(at, whole.len() - at));
        let mut old = engine(&before());
        fold(&mut old, &past, &[]);
        let mut new = engine(&after(&NEW));
        let taken = new.take_over(&restored(&old), Folded::Nothing).unwrap();
        let mut unbroken = engine(&after(&NEW));
        fold(&mut unbroken, &past, &[]);
        if rest.is_empty() {
            return Ok(());
        }
        let (ours, wanted) = (fold(&mut new, &rest, &[]), fold(&mut unbroken, &rest, &[]));
        let (ours, wanted) = (features(&ours), features(&wanted));
        // A row that came before its time is no past of what comes then.
        let ahead_us = rows[..at].iter().map(|row| row.time_us).max().unwrap() + 54 * HOUR_US;
        let scored = rows[at..].iter().filter(|row| !row.label);
        for (number, row) in scored.enumerate() {
            for filling in &taken.filling {
                if filling.full_at_us.is_some_and(|full_at_us| row.time_us >= full_at_us.max(ahead_us)) {
                    let name = &filling.features[0];
                    let of = |features: &RecordBatch| features.column_by_name(name).unwrap().slice(number, 1);
                    prop_assert_eq!(&of(&ours), &of(&wanted), "{}", name);
                }
            }
        }
    }
}

#[test]
fn a_state_of_another_relation_is_refused() {
    let old = FeatureEngine::new(relation(false), &before()).unwrap();
    let mut new = engine(&after(&SHARED));
    let refused = new
        .take_over(&restored(&old), Folded::Nothing)
        .err()
        .unwrap();
    assert!(
        refused.to_string().contains("another relation"),
        "{refused}"
    );

    let by_units = "SELECT count(amount) OVER (PARTITION BY units ORDER BY event_time \
                    RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW) AS n FROM events";
    let refused = engine(by_units).take_over(&restored(&engine(&before())), Folded::Nothing);
    assert!(refused.err().unwrap().to_string().contains("PARTITION BY"));
}
