//! A feature from the rows of each row's frame, which are written out one by one and aggregated by DataFusion.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Float64Type, Schema};

use crate::calls::{CALLS, Frame, Kind};
use crate::grammar::{Feature, KEYS};
use crate::oracle::query;
use crate::stream::{HOUR_US, LATENESS_US, Row, batch, relation};
use crate::times::{Clock, Keys, Known};

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
