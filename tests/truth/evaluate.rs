//! `evaluate`: the figures it prints, computed here again from the scores it writes.

use std::collections::HashMap;
use std::path::Path;

use arrow::array::{AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type};
use serde_json::Value;

use crate::outcome::{read_parquet, same_rows};
use crate::sanderling::{answer, scratch};
use crate::scenario::Scenario;

const FOLDS: usize = 2;

#[test]
fn folds_are_scored_as_told_and_the_same_each_time() {
    let scenario = Scenario::open("cards");
    let input = scenario.simulated();
    let out = scratch();
    let evaluate = |name: &str, more: &[&str]| -> (Value, RecordBatch) {
        let file = out.path().join(name);
        let mut args = vec![
            "evaluate",
            &scenario.pipeline,
            "--input",
            input.to_str().expect("a plain path"),
            "--start",
            "2025-01-01",
            "--folds",
            "2",
            "--step-days",
            "1",
            "--train-days",
            "4",
            "--delay-days",
            "4",
            "--test-days",
            "3",
            "--seed",
            "9",
            "--scores",
            file.to_str().expect("a plain path"),
        ];
        args.extend(scenario.quick());
        args.extend(more);
        (answer(&args), read_parquet(&file))
    };
    let (report, scores) = evaluate("all.parquet", &[]);
    let (fewer, again) = evaluate("known-excluded.parquet", &["--exclude-known"]);
    same_rows(&scores, &again, "a second training with the same seed");

    let frauds = frauds(&input);
    let folds = report["folds"].as_array().expect("folds");
    assert_eq!(folds.len(), FOLDS, "{report}");
    let (mut aucs, mut aps) = (Vec::new(), Vec::new());
    for (fold, told) in folds.iter().enumerate() {
        let rows = rows_of(&scores, fold, &frauds);
        let (auc, ap) = (auc(&rows), average_precision(&rows));
        let number = |key: &str| {
            told[key]
                .as_f64()
                .unwrap_or_else(|| panic!("no {key} in {told}"))
        };
        assert_eq!(number("rows") as usize, rows.len(), "{told}");
        assert_eq!(
            number("fraud") as usize,
            rows.iter().filter(|row| row.1).count(),
            "{told}"
        );
        assert!((number("auc") - auc).abs() < 1e-9, "AUC {auc}, told {told}");
        assert!((number("ap") - ap).abs() < 1e-9, "AP {ap}, told {told}");
        assert!(auc > 0.6, "what was learnt is worth something: AUC {auc}");
        assert!((0.0..=1.0).contains(&number("cp100")), "{told}");
        aucs.push(auc);
        aps.push(ap);
        let left = fewer["folds"][fold]["rows"].as_u64().expect("rows");
        assert!(
            left > 0 && left < rows.len() as u64,
            "{left} of {} rows are left",
            rows.len()
        );
    }
    for (key, values) in [("auc", &aucs), ("ap", &aps)] {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        assert!(
            (report["mean"][key].as_f64().expect("a mean") - mean).abs() < 1e-9,
            "{report}"
        );
        assert!(
            report["std"][key].as_f64().expect("a deviation") >= 0.0,
            "{report}"
        );
    }
}

/// Whether each payment is a fraud.
fn frauds(input: &Path) -> HashMap<String, bool> {
    let payments = read_parquet(input);
    let column = |name: &str, to: &DataType| {
        cast(payments.column_by_name(name).expect(name), to).expect(name)
    };
    let (ids, labels) = (
        column("transaction_id", &DataType::Utf8),
        column("is_fraud", &DataType::Int64),
    );
    let (ids, labels) = (ids.as_string::<i32>(), labels.as_primitive::<Int64Type>());
    (0..payments.num_rows())
        .map(|i| (ids.value(i).to_string(), labels.value(i) == 1))
        .collect()
}

/// Score and truth of a fold's rows, the highest score first.
fn rows_of(scores: &RecordBatch, fold: usize, frauds: &HashMap<String, bool>) -> Vec<(f64, bool)> {
    let column =
        |name: &str, to: &DataType| cast(scores.column_by_name(name).expect(name), to).expect(name);
    let (ids, folds) = (
        column("transaction_id", &DataType::Utf8),
        column("fold", &DataType::Int64),
    );
    let values = column("score", &DataType::Float64);
    let (ids, folds) = (ids.as_string::<i32>(), folds.as_primitive::<Int64Type>());
    let values = values.as_primitive::<Float64Type>();
    let mut rows: Vec<(f64, bool)> = (0..scores.num_rows())
        .filter(|i| folds.value(*i) == fold as i64)
        .map(|i| (values.value(i), frauds[ids.value(i)]))
        .collect();
    rows.sort_by(|a, b| b.0.total_cmp(&a.0));
    rows
}

/// Runs of equal scores: how many frauds, how many others.
fn ties(rows: &[(f64, bool)]) -> impl Iterator<Item = (f64, f64)> {
    rows.chunk_by(|a, b| a.0 == b.0).map(|tie| {
        let frauds = tie.iter().filter(|row| row.1).count();
        (frauds as f64, (tie.len() - frauds) as f64)
    })
}

/// The chance that a fraud scores above another payment, a tie counting half.
fn auc(rows: &[(f64, bool)]) -> f64 {
    let (mut above, mut pairs_won, mut others) = (0.0, 0.0, 0.0);
    for (frauds, rest) in ties(rows) {
        pairs_won += rest * (above + frauds / 2.0);
        above += frauds;
        others += rest;
    }
    pairs_won / (above * others)
}

/// The mean of precision over recall: sum over thresholds of (R_n - R_n-1) P_n.
fn average_precision(rows: &[(f64, bool)]) -> f64 {
    let total = rows.iter().filter(|row| row.1).count() as f64;
    let (mut caught, mut alerts, mut sum) = (0.0, 0.0, 0.0);
    for (frauds, rest) in ties(rows) {
        caught += frauds;
        alerts += frauds + rest;
        sum += frauds / total * (caught / alerts);
    }
    sum
}
