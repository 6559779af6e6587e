//! Sums of doubles after a million rows have come into a frame and gone out of it again.

use sanderling_features::FeatureEngine;

use arrow::array::AsArray;
use arrow::datatypes::Float64Type;

use crate::stream::{Row, batch, relation};

const ROWS: usize = 1_000_000;
const BATCH_ROWS: usize = 4096;
const FRAME_US: i64 = 20 * 60 * 1_000_000;
const SQL: &str = "SELECT sum(speed) OVER frame AS sum, avg(speed) OVER frame AS mean, \
     stddev(speed) OVER frame AS deviation, corr(speed, CAST(units AS DOUBLE)) OVER frame AS correlation \
     FROM events WINDOW frame AS (PARTITION BY card_id ORDER BY event_time \
     RANGE BETWEEN INTERVAL '20 minutes' PRECEDING AND CURRENT ROW)";

/// One card's payments, a second apart, some of them late; doubles of fourteen orders of magnitude.
fn payments() -> Vec<Row> {
    let mut random = 7u64;
    let mut next = move || {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        random >> 33
    };
    (0..ROWS as i64)
        .map(|id| {
            let late_s = if next() % 50 == 0 { next() % 600 } else { 0 };
            let digits = (next() % 1_000_000) as f64 + 1.0;
            Row {
                time_us: (1000 + id - late_s as i64) * 1_000_000,
                label: false,
                id,
                card: Some(0),
                terminal: Some(0),
                amount: None,
                speed: Some(digits * 10f64.powi((next() % 9) as i32 - 9)),
                units: Some((next() % 1000) as i64 - 500),
                is_fraud: None,
            }
        })
        .collect()
}

/// Sum with what each addition loses carried along (Neumaier, ZAMM 54, 1974).
fn sum(values: impl Iterator<Item = f64>) -> f64 {
    let (mut sum, mut lost) = (0.0f64, 0.0f64);
    for value in values {
        let next = sum + value;
        lost += match sum.abs() >= value.abs() {
            true => (sum - next) + value,
            false => (value - next) + sum,
        };
        sum = next;
    }
    sum + lost
}

/// The features of the last of `rows`, in two passes over the rows of its frame.
fn wanted(rows: &[Row]) -> [f64; 4] {
    let at_us = rows[rows.len() - 1].time_us;
    let frame = |row: &&Row| (at_us - FRAME_US..=at_us).contains(&row.time_us);
    let pairs: Vec<(f64, f64)> = (rows.iter().filter(frame))
        .map(|row| (row.speed.unwrap(), row.units.unwrap() as f64))
        .collect();
    let n = pairs.len() as f64;
    let total = sum(pairs.iter().map(|(y, _)| *y));
    let (mean_y, mean_x) = (total / n, sum(pairs.iter().map(|(_, x)| *x)) / n);
    let deviations = |one: fn(&(f64, f64), [f64; 2]) -> f64| {
        sum(pairs.iter().map(|pair| one(pair, [mean_y, mean_x])))
    };
    let yy = deviations(|pair, [y, _]| (pair.0 - y).powi(2));
    let xx = deviations(|pair, [_, x]| (pair.1 - x).powi(2));
    let xy = deviations(|pair, [y, x]| (pair.0 - y) * (pair.1 - x));
    let deviation = (yy / (n - 1.0)).sqrt();
    [total, mean_y, deviation, xy / (yy.sqrt() * xx.sqrt())]
}

#[test]
fn a_million_updates_leave_no_trace_in_a_sum() {
    let relation = relation(false);
    let rows = payments();
    let whole = batch(&relation, &rows);
    let mut engine = FeatureEngine::new(relation, SQL).unwrap();
    for from in (0..ROWS).step_by(BATCH_ROWS) {
        let len = BATCH_ROWS.min(ROWS - from);
        let features = engine.compute(&whole.slice(from, len)).unwrap().features;
        let is_checked = (from / BATCH_ROWS).is_multiple_of(20) || from + len == ROWS;
        if !is_checked {
            continue;
        }
        let wanted = wanted(&rows[..from + len]);
        for (column, wanted) in features.columns().iter().zip(wanted) {
            let found = column.as_primitive::<Float64Type>().value(len - 1);
            // What the oracle itself rounds is as large where products cancel.
            assert!(
                (found - wanted).abs() <= 1e-12 * wanted.abs(),
                "row {}: {found} for {wanted}",
                from + len
            );
        }
    }
}

#[test]
fn a_correlation_of_values_that_are_nearly_one_is_right_to_the_last_digits() {
    const NEARLY_ONE: &str = "SELECT corr(units, 32768 + CASE WHEN units > -20000 THEN 1 ELSE 0 END) \
         OVER (PARTITION BY card_id ORDER BY event_time ROWS BETWEEN 5 PRECEDING AND CURRENT ROW) AS c FROM events";
    let mut rows = payments();
    rows.truncate(3);
    for (row, units) in rows.iter_mut().zip([32_769, -18_164, -34_450]) {
        row.units = Some(units);
    }
    let relation = relation(false);
    let whole = batch(&relation, &rows);
    let mut engine = FeatureEngine::new(relation, NEARLY_ONE).unwrap();
    let features = engine.compute(&whole).unwrap().features;
    let found = features.column(0).as_primitive::<Float64Type>().value(2);
    // By whole numbers and a root of fifty digits.
    let wanted = 0.687_438_886_200_257_6;
    assert!((found - wanted).abs() <= 1e-14, "{found} for {wanted}");
}
