//! The parity check finds nothing where the engine is right, and what is wrong where it is made wrong.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, LargeBinaryArray, RecordBatch};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use proptest::prelude::*;
use proptest::test_runner::Config;
use sanderling_features::{FeatureEngine, ParityReport};
use sanderling_schemas::EventBatch;
use sanderling_state::Restored;
use sha2::{Digest, Sha256};

use crate::oracle::features_sql;
use crate::stream::{Row, batch, relation, rows};

/// Every row's features, computed again after it.
pub fn reports(engine: &mut FeatureEngine, whole: &EventBatch) -> Vec<ParityReport> {
    (0..whole.len())
        .filter_map(|row| engine.compute_sampled(&whole.slice(row, 1)).unwrap().1)
        .map(|sample| sample.check().unwrap())
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
