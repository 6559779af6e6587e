//! The parity check finds nothing where the engine is right, and what is wrong where it is made wrong.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, LargeBinaryArray, RecordBatch};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use proptest::prelude::*;
use proptest::test_runner::Config;
use sanderling_features::{FeatureEngine, KeySample, LogSample, ParityReport};
use sanderling_schemas::{EventBatch, Relation};
use sanderling_state::Restored;
use sha2::{Digest, Sha256};

use crate::oracle::features_sql;
use crate::stream::{Row, batch, relation, rows};

/// Rows that are kept of the log where it is to hold them all.
const ALL_ROWS: usize = 100_000;

/// Every row's features, computed again after it.
pub fn reports(engine: &mut FeatureEngine, whole: &EventBatch) -> Vec<ParityReport> {
    (0..whole.len())
        .filter_map(|row| engine.compute_sampled(&whole.slice(row, 1)).unwrap().1)
        .map(|sample| sample.check(None).unwrap())
        .collect()
}

proptest! {
    #![proptest_config(Config { cases: 24, failure_persistence: None, ..Config::default() })]

    #[test]
    fn what_is_right_is_not_blamed(rows in rows(160, false)) {
        let relation = relation(true);
        let mut engine = FeatureEngine::new(relation.clone(), &features_sql()).unwrap();
        let reports = reports(&mut engine, &batch(&relation, &rows));
        // A key that is as new again as soon as its row was taken has nothing to be looked at.
        let payments = rows.iter().filter(|row| !row.label).count();
        prop_assert!(reports.len() * 2 > payments, "{} of {payments}", reports.len());
        for report in reports {
            prop_assert_eq!(report.mismatches, Vec::<String>::new());
            prop_assert!(report.checked > report.unchecked, "{} of {}", report.checked, report.unchecked);
        }
    }
}

/// Whether nothing was found to be wrong.
pub fn is_right(report: &ParityReport) -> bool {
    (report.mismatches.is_empty(), report.missing, report.foreign) == (true, 0, 0)
}

/// The same, each row after the log was folded up to it; `lost` are rows that the engine never got.
pub fn logged(
    engine: &mut FeatureEngine,
    log: &mut LogSample,
    whole: &EventBatch,
    lost: &[usize],
) -> Vec<ParityReport> {
    let mut reports = Vec::new();
    for row in 0..whole.len() {
        let batch = whole.slice(row, 1);
        log.fold(&batch).unwrap();
        if !lost.contains(&row)
            && let Some(sample) = engine.compute_sampled(&batch).unwrap().1
        {
            reports.push(sample.check(Some(log)).unwrap());
        }
    }
    reports
}

fn followed(engine: &mut FeatureEngine, from_us: i64, rows_max: usize) -> LogSample {
    let keys: Arc<KeySample> = Arc::new(engine.key_sample());
    engine.follow(keys.clone());
    let log = engine.log_sample(keys, from_us, rows_max).unwrap();
    log.expect("windows over the event's own columns")
}

/// Sums over all reports: functions from the log, and rows missing and foreign.
fn sums(reports: &[ParityReport]) -> (usize, usize, usize) {
    let sum = |of: fn(&ParityReport) -> usize| reports.iter().map(of).sum::<usize>();
    (sum(|r| r.from_log), sum(|r| r.missing), sum(|r| r.foreign))
}

proptest! {
    #![proptest_config(Config { cases: 24, failure_persistence: None, ..Config::default() })]

    #[test]
    fn rings_hold_what_the_log_has(
        rows in rows(160, false),
        rows_max in prop_oneof![Just(ALL_ROWS), 20usize..400],
        cap in prop_oneof![Just(None), (2u64..40).prop_map(Some)],
    ) {
        let relation = Arc::new(Relation { rows_per_key_max: cap, ..(*relation(true)).clone() });
        let mut engine = FeatureEngine::new(relation.clone(), &features_sql()).unwrap();
        let mut log = followed(&mut engine, i64::MIN, rows_max);
        let reports = logged(&mut engine, &mut log, &batch(&relation, &rows), &[]);
        prop_assert!(reports.iter().all(is_right), "{reports:?}");
        let from_log = sums(&reports).0;
        prop_assert!(rows_max < ALL_ROWS || cap.is_some() || reports.len() < 4 || from_log > 0, "{reports:?}");
        prop_assert!(log.rows() <= rows_max);
    }

    #[test]
    fn a_log_that_begins_later_blames_nobody(rows in rows(160, false), begin in 0usize..160) {
        let relation = relation(true);
        let whole = batch(&relation, &rows);
        let begin = begin.min(whole.len());
        let mut engine = FeatureEngine::new(relation.clone(), &features_sql()).unwrap();
        if begin > 0 {
            engine.compute(&whole.slice(0, begin)).unwrap();
        }
        let newest_us = rows[..begin].iter().map(|row| row.time_us).max();
        let from_us = newest_us.map_or(i64::MIN, |newest_us| newest_us + 1);
        let mut log = followed(&mut engine, from_us, ALL_ROWS);
        let rest = whole.slice(begin, whole.len() - begin);
        let reports = logged(&mut engine, &mut log, &rest, &[]);
        prop_assert!(reports.iter().all(is_right), "{reports:?}");
    }
}

const BY_DAY: &str = "SELECT count(units) OVER day AS n, max(units) OVER day AS m, \
    sum(units) OVER (PARTITION BY terminal_id ORDER BY event_time RANGE INTERVAL '1 hour' PRECEDING) AS t \
    FROM events WINDOW day AS (PARTITION BY card_id ORDER BY event_time \
    RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW)";

/// A payment each minute by one card, at one of two terminals.
fn payments(count: i64) -> Vec<Row> {
    let row = |n: i64| Row {
        time_us: n * 60_000_000,
        label: false,
        id: n,
        card: Some(1),
        terminal: Some((n % 2) as u8),
        amount: Some(n),
        speed: None,
        units: Some(n),
        is_fraud: None,
    };
    (0..count).map(row).collect()
}

#[test]
fn a_row_that_a_ring_has_lost_is_found_by_the_log() {
    let relation = relation(false);
    let whole = batch(&relation, &payments(100));
    let mut engine = FeatureEngine::new(relation, BY_DAY).unwrap();
    let mut log = followed(&mut engine, i64::MIN, ALL_ROWS);
    let reports = logged(&mut engine, &mut log, &whole, &[20]);
    let blamed: Vec<&[String]> = reports.iter().map(|r| r.mismatches.as_slice()).collect();
    assert!(blamed[..20].iter().all(|features| features.is_empty()));
    // The terminal's next payment but one is the first that is served without the row.
    assert_eq!(blamed[20], ["n"], "{:?}", reports[20]);
    assert_eq!(blamed[21], ["n", "t"], "{:?}", reports[21]);
    assert_eq!((reports[20].missing, reports[20].foreign), (1, 0));
    assert_eq!((reports[21].missing, reports[21].foreign), (2, 0));
    // An hour later the terminal's frame has passed it; the card's has not.
    assert_eq!(blamed[91], ["n"], "{:?}", reports[91]);
    assert_eq!((reports[91].missing, reports[91].foreign), (1, 0));
    assert_eq!(reports[91].from_log, 3);
}

#[test]
fn a_row_that_a_ring_has_twice_is_found_by_the_log() {
    let relation = relation(false);
    let whole = batch(&relation, &payments(30));
    let mut engine = FeatureEngine::new(relation, BY_DAY).unwrap();
    let mut log = followed(&mut engine, i64::MIN, ALL_ROWS);
    let reports = logged(&mut engine, &mut log, &whole.slice(0, 20), &[]);
    assert_eq!(sums(&reports), (60, 0, 0));
    engine.compute(&whole.slice(19, 1)).unwrap();
    let reports = logged(&mut engine, &mut log, &whole.slice(20, 2), &[]);
    assert_eq!(reports[0].mismatches, ["n"], "{:?}", reports[0]);
    assert_eq!((reports[0].missing, reports[0].foreign), (0, 1));
    assert_eq!(reports[1].mismatches, ["n", "t"], "{:?}", reports[1]);
    assert_eq!((reports[1].missing, reports[1].foreign), (0, 2));
}

#[test]
fn what_a_ring_lost_before_the_log_begins_is_not_told_from_the_log() {
    let relation = relation(false);
    let whole = batch(&relation, &payments(200));
    let mut engine = FeatureEngine::new(relation, BY_DAY).unwrap();
    for row in (0..100).filter(|row| *row != 90) {
        engine.compute(&whole.slice(row, 1)).unwrap();
    }
    let mut log = followed(&mut engine, 100 * 60_000_000, ALL_ROWS);
    let reports = logged(&mut engine, &mut log, &whole.slice(100, 100), &[50]);
    // No frame of an hour is whole yet; one of a day never is, but the rows since are compared.
    assert_eq!(reports[0].from_log, 0);
    assert_eq!((reports[0].missing, reports[0].foreign), (0, 0));
    assert_eq!(reports[0].checked, 3);
    let last = reports.last().unwrap();
    assert_eq!(last.from_log, 1, "{last:?}");
    assert_eq!(last.missing, 1, "{last:?}");
    assert_eq!(last.mismatches, Vec::<String>::new());
}

#[test]
fn a_log_that_begins_with_an_incredible_row_believes_it_no_more_than_the_line() {
    let relation = relation(false);
    let mut rows = payments(60);
    for (n, row) in rows.iter_mut().enumerate().skip(50) {
        // Three days ahead, and then where the stream really is.
        let minutes = if n == 50 { 3 * 1440 } else { 1500 + n as i64 };
        row.time_us = minutes * 60_000_000;
    }
    let whole = batch(&relation, &rows);
    let mut engine = FeatureEngine::new(relation, BY_DAY).unwrap();
    engine.compute(&whole.slice(0, 50)).unwrap();
    let mut log = followed(&mut engine, 50 * 60_000_000, ALL_ROWS);
    let reports = logged(&mut engine, &mut log, &whole.slice(50, 10), &[]);
    assert!(reports.iter().all(is_right), "{reports:?}");
    assert_eq!(sums(&reports).0, 3 * reports.len());
}

#[test]
fn a_sample_of_keys_keeps_within_its_rows_and_asks_for_those_keys() {
    let relation = relation(false);
    let mut rows = payments(4_000);
    for (n, row) in rows.iter_mut().enumerate() {
        row.card = Some((n * 7 % 200) as u8);
        row.terminal = Some((n * 11 % 200) as u8);
    }
    let whole = batch(&relation, &rows);
    let mut engine = FeatureEngine::new(relation, BY_DAY).unwrap();
    let keys = Arc::new(engine.key_sample());
    engine.follow(keys.clone());
    let mut log = (engine.log_sample(keys.clone(), i64::MIN, 500).unwrap()).expect("a log");
    let before = logged(&mut engine, &mut log, &whole.slice(0, 3_000), &[]);
    assert!(log.rows() <= 500, "{}", log.rows());
    assert!(log.rows() > 50, "{}", log.rows());
    let unfollowed = before.iter().filter(|report| report.from_log == 0).count();
    assert!(unfollowed > 0, "all keys were followed to the end");
    keys.ask_for_any(false);
    let asked = logged(&mut engine, &mut log, &whole.slice(3_000, 1_000), &[]);
    assert!((20..900).contains(&asked.len()), "{}", asked.len());
    assert!(asked.iter().all(|report| report.from_log > 0));
    assert_eq!(sums(&[before, asked].concat()).1, 0);
}

/// A snapshot in whose pages one number stands in the place of another, as often as the other was there.
fn doctored(engine: &FeatureEngine, from: i128, to: i128) -> (Restored, usize) {
    let mut file = Vec::new();
    engine.snapshot().write_arrow(&mut file).unwrap();
    let reader = StreamReader::try_new(file.as_slice(), None).unwrap();
    let mut writer = StreamWriter::try_new(Vec::new(), &reader.schema()).unwrap();
    let mut found = 0;
    for rows in reader {
        let rows = rows.unwrap();
        let pages = rows.column(2).as_binary::<i64>();
        let mut changed: Vec<Vec<u8>> = pages.iter().map(|page| page.unwrap().to_vec()).collect();
        for page in &mut changed {
            for at in 0..page.len().saturating_sub(15) {
                if page[at..at + 16] == from.to_le_bytes() {
                    page[at..at + 16].copy_from_slice(&to.to_le_bytes());
                    found += 1;
                }
            }
        }
        let pages: ArrayRef = Arc::new(LargeBinaryArray::from_iter_values(changed));
        let columns = vec![rows.column(0).clone(), rows.column(1).clone(), pages];
        writer
            .write(&RecordBatch::try_new(rows.schema(), columns).unwrap())
            .unwrap();
    }
    let mut file = writer.into_inner().unwrap();
    let digest = Sha256::digest(&file);
    file.write_all(&digest).unwrap();
    (Restored::read_arrow(file.as_slice()).unwrap(), found)
}

#[test]
fn a_sum_that_went_wrong_is_found_in_all_that_reads_it() {
    let sql = "SELECT count(units) OVER day AS n, sum(units) OVER day AS s, 1 + avg(units) OVER day AS a, \
               max(units) OVER day AS m, sum(amount) OVER day AS other, amount AS itself \
               FROM events WINDOW day AS (PARTITION BY card_id ORDER BY event_time \
               RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW)";
    let relation = relation(false);
    let row = |n: i64| Row {
        time_us: n * 1_000_000,
        label: false,
        id: n,
        card: Some(1),
        terminal: None,
        amount: Some(n),
        speed: None,
        units: Some(1_234_567_890_123 + n),
        is_fraud: None,
    };
    let rows: Vec<Row> = (0..10).map(row).collect();
    let sum: i128 = rows
        .iter()
        .filter_map(|row| row.units)
        .map(i128::from)
        .sum();
    let engine = || FeatureEngine::new(relation.clone(), sql).unwrap();
    let mut before = engine();
    assert!(
        reports(&mut before, &batch(&relation, &rows))
            .iter()
            .all(|r| r.mismatches.is_empty())
    );

    let mut after = engine();
    let (restored, found) = doctored(&before, sum, sum + 1_000_000);
    assert_eq!(found, 1, "the running sum stands in the snapshot once");
    after.restore(restored).unwrap();
    let found = reports(&mut after, &batch(&relation, &[row(10)]));
    assert_eq!(found[0].mismatches, ["s", "a"], "{found:?}");
    assert_eq!((found[0].checked, found[0].unchecked), (5, 0), "{found:?}");
}

#[test]
fn a_row_after_which_others_came_is_no_sample() {
    let relation = relation(true);
    let mut engine = FeatureEngine::new(relation.clone(), &features_sql()).unwrap();
    let payment = Row {
        time_us: 0,
        label: false,
        id: 7,
        card: Some(1),
        terminal: Some(1),
        amount: Some(100),
        speed: Some(1.0),
        units: Some(1),
        is_fraud: None,
    };
    let label = Row {
        label: true,
        amount: None,
        is_fraud: Some(1),
        ..payment.clone()
    };
    let both = batch(&relation, &[payment, label]);
    assert!(engine.compute_sampled(&both).unwrap().1.is_none());
}
