//! What is kept of a key: nothing of one that is silent for longer than any window reaches, and of one that
//! is too busy the newest rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Decimal128Type, Int64Type};
use proptest::prelude::*;
use proptest::test_runner::Config;
use sanderling_features::FeatureEngine;
use sanderling_schemas::{FeatureBatch, Relation};

use crate::folded::{fold, joined, restarted};
use crate::stream::{HOUR_US, LATENESS_US, Row, batch, relation, rows};

/// Windows by a key of their own, and by an entity's.
const SILENT_SQL: &str = "SELECT tx_id, \
     count(amount) OVER pair AS n, sum(amount) OVER pair AS s, max(speed) OVER pair AS m, \
     count(DISTINCT units) OVER card AS d, avg(speed) OVER card AS a \
     FROM events WINDOW \
     pair AS (PARTITION BY card_id, terminal_id ORDER BY event_time RANGE BETWEEN INTERVAL '3 hours' PRECEDING AND CURRENT ROW), \
     card AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '2 hours' PRECEDING AND CURRENT ROW)";

/// Keys forgotten in all cases of the property below.
static FORGOTTEN: AtomicU64 = AtomicU64::new(0);

fn silent() -> FeatureEngine {
    FeatureEngine::new(relation(true), SILENT_SQL).unwrap()
}

proptest! {
    #![proptest_config(Config { cases: 64, failure_persistence: None, ..Config::default() })]

    #[test]
    fn to_forget_silent_keys_changes_no_feature(
        rows in rows(250, false),
        mut ends in prop::collection::vec(1usize..250, 0..10),
    ) {
        ends.sort_unstable();
        let whole = batch(&relation(true), &rows);
        // Memory is given back after a batch: in one batch, not before the last row.
        let mut none = silent();
        let kept = joined(fold(&mut none, &whole, &[])).features;
        let mut each = silent();
        let singly: Vec<usize> = (1..=whole.len()).collect();
        prop_assert_eq!(&joined(fold(&mut each, &whole, &singly)).features, &kept);
        FORGOTTEN.fetch_add(each.forgotten(), Ordering::Relaxed);
        prop_assert_eq!(&restarted(&silent, &whole, &ends).features, &kept);
    }

    #[test]
    fn a_busy_key_keeps_its_newest_rows(
        drawn in prop::collection::vec((0i64..10, 0i64..300, 0u8..3, prop::option::weighted(0.9, 1i64..1000)), 1..200),
        mut ends in prop::collection::vec(1usize..200, 0..10),
    ) {
        ends.sort_unstable();
        let mut now = 1_525_132_800_000_000i64;
        let rows: Vec<Row> = (0i64..).zip(drawn).map(|(id, (minutes, back, card, amount))| {
            now += minutes * 60_000_000;
            // Most in order; some up to five hours behind.
            let back = if back > 240 { (back - 240) * 300_000_000 } else { 0 };
            Row {
                time_us: now - back,
                label: false,
                id,
                card: Some(card),
                terminal: None,
                amount,
                speed: None,
                units: None,
                is_fraud: None,
            }
        }).collect();
        let whole = batch(&relation(false), &rows);
        let wanted = by_hand(&rows);
        let unbroken = fold(&mut capped(Some(KEPT)).unwrap(), &whole, &[]);
        for (row, (ours, by_hand)) in results(&unbroken).into_iter().zip(wanted).enumerate() {
            let ever = by_hand.2.or(ours.2);
            prop_assert_eq!(ours, (by_hand.0, by_hand.1, ever, by_hand.3), "row {}", row);
        }
        let cut = fold(&mut capped(Some(KEPT)).unwrap(), &whole, &ends);
        prop_assert_eq!(results(&cut), results(&unbroken));
        let engine = || capped(Some(KEPT)).unwrap();
        prop_assert_eq!(&restarted(&engine, &whole, &ends).features, &joined(unbroken).features);
        // Room for all is no cap.
        let roomy = fold(&mut capped(Some(1000)).unwrap(), &whole, &[]);
        prop_assert!(roomy.iter().all(|batch| batch.capped.iter().all(|capped| !capped)));
        let free = fold(&mut capped(None).unwrap(), &whole, &[]);
        prop_assert_eq!(&joined(roomy).features, &joined(free).features);
    }
}

#[test]
fn keys_were_forgotten_in_that() {
    to_forget_silent_keys_changes_no_feature();
    assert!(FORGOTTEN.load(Ordering::Relaxed) > 100, "{FORGOTTEN:?}");
}

#[test]
fn a_silent_key_gives_back_its_memory_and_its_slot() {
    let sql = "SELECT count(amount) OVER (PARTITION BY tx_id ORDER BY event_time \
               RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW) AS n FROM events";
    let relation = relation(false);
    let mut engine = FeatureEngine::new(relation.clone(), sql).unwrap();
    let row = |id: i64| Row {
        time_us: id * 60_000_000,
        label: false,
        id,
        card: None,
        terminal: None,
        amount: Some(1),
        speed: None,
        units: None,
        is_fraud: None,
    };
    let mut bytes = Vec::new();
    for from in (0i64..40_000).step_by(100) {
        let rows: Vec<Row> = (from..from + 100).map(row).collect();
        engine.compute(&batch(&relation, &rows)).unwrap();
        bytes.push(engine.footprint().bytes);
    }
    // A key is as new after 13 hours, so 800 are alive; those that were are found by looking around.
    let (early, late) = (bytes[100], bytes[399]);
    assert!(
        late < early * 3 / 2,
        "{early} bytes after 10,000 keys, {late} after 40,000"
    );
    assert!(engine.forgotten() > 30_000, "{}", engine.forgotten());
    assert!(engine.view().unwrap().windows[0].keys().len() < 10_000);
}

/// Rows that are kept of a key below.
const KEPT: u64 = 5;

fn capped(
    rows_per_key_max: Option<u64>,
) -> Result<FeatureEngine, sanderling_features::FeatureError> {
    let sql = "SELECT count(amount) OVER day AS n, sum(amount) OVER day AS s, count(amount) OVER ever AS e \
         FROM events WINDOW \
         day AS (PARTITION BY card_id ORDER BY event_time RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW), \
         ever AS (PARTITION BY card_id ORDER BY event_time RANGE UNBOUNDED PRECEDING)";
    let relation = Relation {
        rows_per_key_max,
        ..(*relation(false)).clone()
    };
    FeatureEngine::new(Arc::new(relation), sql)
}

/// Of a row: the count and the sum of a day, and how many there ever were if that is certain; and
/// whether it is capped.
type Result3 = (i64, Option<i128>, Option<i64>, bool);

/// The results by lists that are searched from end to end.
fn by_hand(rows: &[Row]) -> Vec<Result3> {
    #[derive(Default, Clone)]
    struct Key {
        newest_us: Option<i64>,
        kept: Vec<(i64, i64)>,
        all: Vec<i64>,
        lost_us: Option<i64>,
    }
    let day = 24 * HOUR_US;
    let mut keys = vec![Key::default(); 3];
    let mut results = Vec::new();
    for row in rows {
        let key = &mut keys[row.card.unwrap() as usize];
        let at = row.time_us;
        key.newest_us = key.newest_us.max(Some(at));
        let newest_us = key.newest_us.unwrap();
        if let Some(amount) = row.amount {
            key.all.push(at);
            key.kept
                .retain(|(time, _)| *time >= newest_us - day - LATENESS_US);
            let place = key.kept.iter().filter(|(time, _)| *time <= at).count();
            key.kept.insert(place, (at, amount));
            while key.kept.len() as u64 > KEPT {
                let (time, _) = key.kept.remove(0);
                key.lost_us = key.lost_us.max(Some(time));
            }
        }
        let from = at.max(newest_us - LATENESS_US) - day;
        let seen = key
            .kept
            .iter()
            .filter(|(time, _)| (from..=at).contains(time));
        let amounts: Vec<i128> = seen.map(|(_, amount)| i128::from(*amount)).collect();
        let is_capped = key.lost_us.is_some_and(|lost| from <= lost || at < lost);
        let ever = key.all.iter().filter(|time| **time <= at).count() as i64;
        let certain = key.lost_us.is_none_or(|lost| at >= lost);
        results.push((
            amounts.len() as i64,
            (!amounts.is_empty()).then(|| amounts.iter().sum()),
            certain.then_some(ever),
            is_capped,
        ));
    }
    results
}

fn results(batches: &[FeatureBatch]) -> Vec<Result3> {
    let of = |batch: &FeatureBatch| {
        let columns: &RecordBatch = &batch.features;
        let (n, s, e) = (columns.column(0), columns.column(1), columns.column(2));
        let (n, e) = (n.as_primitive::<Int64Type>(), e.as_primitive::<Int64Type>());
        let sums: Vec<Option<i128>> = s.as_primitive::<Decimal128Type>().iter().collect();
        (0..n.len())
            .map(|row| {
                (
                    n.value(row),
                    sums[row],
                    Some(e.value(row)),
                    batch.capped[row],
                )
            })
            .collect::<Vec<_>>()
    };
    batches.iter().flat_map(of).collect()
}

#[test]
fn a_cap_must_leave_what_frames_of_rows_look_back_over() {
    let sql = "SELECT lag(amount, 5) OVER (PARTITION BY card_id, stream ORDER BY event_time) AS before FROM events";
    let engine = |rows_per_key_max: u64| {
        let relation = Relation {
            rows_per_key_max: Some(rows_per_key_max),
            ..(*relation(false)).clone()
        };
        FeatureEngine::new(Arc::new(relation), sql)
    };
    assert!(engine(6).is_ok());
    let refused = engine(5).err().unwrap();
    assert!(refused.to_string().contains("5 rows back"), "{refused}");
    assert!(
        refused.cure().unwrap().contains("state.rows_per_key_max"),
        "{refused:?}"
    );
}
