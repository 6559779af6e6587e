//! A feature means the same online and offline: `sanderling features` against DataFusion's own
//! window operator over the same rows, by the very same SQL.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, UInt32Array};
use arrow::compute::{cast, concat, concat_batches, take};
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimeUnit};
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;

use crate::outcome::read_parquet;
use crate::sanderling::{answer, root, scratch};
use crate::scenario::Scenario;

/// After this a payment's label is known, microseconds: `labels.file.delay` of the pipeline.
const DELAY_US: i64 = 7 * 86_400_000_000;
/// Doubles may differ by the rounding of DataFusion's running sums.
const TOLERANCE: f64 = 1e-6;

#[test]
fn features_equal_datafusions_own_windows() {
    let input = Scenario::open("cards").simulated();
    let out = scratch();
    let pipeline = "pipelines/card-fraud";
    let path = |path: &Path| path.to_str().expect("a plain path").to_string();
    answer(&[
        "features",
        pipeline,
        "--input",
        &path(&input),
        "--out",
        &path(out.path()),
        "--threads",
        "2",
    ]);
    let online = read_parquet(&out.path().join("features.parquet"));

    let sql = std::fs::read_to_string(root().join(pipeline).join("features.sql")).expect("SQL");
    let sql = sql.replacen(
        "SELECT\n",
        "SELECT transaction_id, amount IS NOT NULL AS is_payment,\n",
        1,
    );
    let events = events(&read_parquet(&input));
    let offline = query(events.clone(), &sql);

    let row_of: HashMap<String, usize> = {
        let (ids, payments) = (
            text(&offline, "transaction_id"),
            offline.column(1).as_boolean().clone(),
        );
        (0..ids.len())
            .filter(|i| payments.value(*i))
            .map(|i| (ids.value(i).to_string(), i))
            .collect()
    };
    let ids = text(&online, "transaction_id");
    let rows: Vec<usize> = (0..ids.len()).map(|i| row_of[ids.value(i)]).collect();
    assert_eq!(rows.len(), row_of.len(), "one row a payment");
    let picks = UInt32Array::from_iter_values(rows.iter().map(|row| *row as u32));

    // DataFusion's frames hold rows of the same instant that come later; ours do not.
    let times = cast(
        online.column_by_name("event_time").expect("times"),
        &DataType::Int64,
    )
    .expect("integers");
    let mut shared: HashMap<i64, usize> = HashMap::new();
    let times = times.as_primitive::<Int64Type>().values().to_vec();
    times
        .iter()
        .for_each(|time| *shared.entry(*time).or_default() += 1);
    let mut compared = 0;
    for (name, doubles) in columns(&online) {
        let other = offline
            .column_by_name(&name)
            .unwrap_or_else(|| panic!("no column {name}"));
        let other = to_doubles(&take(other, &picks, None).expect("rows that are there"));
        let spread = to_doubles(online.column_by_name("card_stddev_30d").expect("a feature"));
        for row in 0..doubles.len() {
            // Where all amounts are equal, DataFusion's deviation is a little off 0.
            let unstable = name.contains("_z_") && spread.is_valid(row) && spread.value(row) < 1e-3;
            if shared[&times[row]] > 1 || unstable {
                continue;
            }
            let near = match (doubles.is_valid(row), other.is_valid(row)) {
                (true, true) => {
                    let (a, b) = (doubles.value(row), other.value(row));
                    (a - b).abs() <= TOLERANCE * a.abs().max(1.0)
                }
                (a, b) => a == b,
            };
            let show = |a: &arrow::array::Float64Array| a.is_valid(row).then(|| a.value(row));
            assert!(
                near,
                "{name} of {}: {:?}, offline {:?}",
                ids.value(row),
                show(&doubles),
                show(&other)
            );
            compared += 1;
        }
    }
    println!("{compared} values of {} payments compared", ids.len());
    assert!(compared > 100_000);
}

/// The relation `events` of a file of payments, made here from its definition: the payments, and a
/// row for each label, which has the keys of its payment.
fn events(payments: &RecordBatch) -> RecordBatch {
    let count = payments.num_rows();
    let ms = cast(
        payments.column_by_name("tx_time").expect("times"),
        &DataType::Int64,
    )
    .expect("integers");
    let us: Vec<i64> = ms
        .as_primitive::<Int64Type>()
        .values()
        .iter()
        .map(|ms| ms * 1000)
        .collect();
    assert!(us.is_sorted(), "payments are simulated in order");
    let known: Int64Array = us.iter().map(|us| us + DELAY_US).collect();
    let instants: ArrayRef = concat(&[&Int64Array::from(us), &known]).expect("integers");
    let twice = |name: &str, as_type: &DataType| {
        let column = cast(payments.column_by_name(name).expect(name), as_type).expect("a cast");
        concat(&[&column, &column]).expect("columns of one type")
    };
    let half = |name: &str, as_type: &DataType, of_labels: bool| {
        let column = cast(payments.column_by_name(name).expect(name), as_type).expect("a cast");
        let nulls = arrow::array::new_null_array(as_type, count);
        let (first, second) = if of_labels {
            (&nulls, &column)
        } else {
            (&column, &nulls)
        };
        concat(&[first.as_ref(), second.as_ref()]).expect("columns of one type")
    };
    let streams = (0..2 * count).map(|i| if i < count { "transactions" } else { "labels" });
    let columns: Vec<(&str, ArrayRef)> = vec![
        (
            "event_time",
            cast(&instants, &DataType::Timestamp(TimeUnit::Microsecond, None)).expect("times"),
        ),
        ("stream", Arc::new(StringArray::from_iter_values(streams))),
        ("transaction_id", twice("transaction_id", &DataType::Utf8)),
        ("card_id", twice("card_id", &DataType::Utf8)),
        ("terminal_id", twice("terminal_id", &DataType::Utf8)),
        ("device_id", twice("device_id", &DataType::Utf8)),
        (
            "amount",
            half("amount", &DataType::Decimal128(12, 2), false),
        ),
        ("is_fraud", half("is_fraud", &DataType::Int64, true)),
    ];
    RecordBatch::try_from_iter_with_nullable(
        columns
            .into_iter()
            .map(|(name, column)| (name, column, true)),
    )
    .expect("columns of one length")
}

fn query(events: RecordBatch, sql: &str) -> RecordBatch {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let context = SessionContext::new();
        let table = MemTable::try_new(events.schema(), vec![vec![events]]).expect("a table");
        context
            .register_table("events", Arc::new(table))
            .expect("a name that is free");
        let batches = context
            .sql(sql)
            .await
            .expect("a plan")
            .collect()
            .await
            .expect("rows");
        concat_batches(&batches[0].schema(), &batches).expect("batches of one schema")
    })
}

/// The features of the online rows, as doubles.
fn columns(online: &RecordBatch) -> Vec<(String, arrow::array::Float64Array)> {
    let own = [
        "_topic",
        "_partition",
        "_offset",
        "transaction_id",
        "event_time",
    ];
    (online.schema().fields().iter().zip(online.columns()))
        .filter(|(field, _)| !own.contains(&field.name().as_str()))
        .map(|(field, column)| (field.name().clone(), to_doubles(column)))
        .collect()
}

fn to_doubles(column: &ArrayRef) -> arrow::array::Float64Array {
    cast(column, &DataType::Float64)
        .expect("a number")
        .as_primitive::<Float64Type>()
        .clone()
}

fn text(batch: &RecordBatch, name: &str) -> StringArray {
    let column = batch
        .column_by_name(name)
        .unwrap_or_else(|| panic!("no column {name}"));
    cast(column, &DataType::Utf8)
        .expect("text")
        .as_string::<i32>()
        .clone()
}
