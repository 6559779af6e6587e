//! `lateness.beyond: dead_letter`: a row that comes too late is refused, and every other row is
//! decided as if it had never come.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray,
    UInt32Array,
};
use arrow::compute::{filter_record_batch, take_record_batch};
use arrow::datatypes::{Field, Int64Type, Schema};
use base64::Engine;
use parquet::arrow::ArrowWriter;
use serde_json::Value;

use crate::check::{Replay, check};
use crate::outcome::{Outcome, read_parquet, same_rows};
use crate::sanderling::{answer_of, command, scratch};
use crate::scenario::Scenario;

/// Rows that are replayed: about a day.
const ROWS: usize = 4000;
/// Of so many rows one comes late, by so many rows; and of so many one has no card.
const LATE_EACH: usize = 13;
const LATE_ROWS: usize = 800;
const BROKEN_EACH: usize = 501;

#[test]
fn a_row_that_is_refused_for_being_late_has_never_come() {
    let scenario = Scenario::open("late");
    let folder = scratch();
    let table = disordered(&read_parquet(&Scenario::open("cards").simulated()));
    let input = folder.path().join("input.parquet");
    write(&input, &table);
    let outcome = check(&scenario, std::slice::from_ref(&input));

    let letters = &outcome.dead_letters;
    let text = |name: &str| letters.column_by_name(name).expect("a column").clone();
    let (reasons, offsets, raw) = (text("reason"), text("_offset"), text("raw_base64"));
    let reasons = reasons.as_string::<i32>();
    let offsets = offsets.as_primitive::<Int64Type>();
    let mut refused: BTreeMap<i64, Value> = BTreeMap::new();
    for row in (0..letters.num_rows()).filter(|row| reasons.value(*row) == "too_late") {
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(raw.as_string::<i32>().value(row))
            .expect("base64");
        let record = serde_json::from_slice(&bytes).expect("a record of JSON");
        refused.insert(offsets.value(row), record);
    }
    assert!(outcome.count("state_only") > 0, "labels become known");
    let broken = reasons.iter().flatten().filter(|r| *r == "missing_field");
    assert!(broken.count() > 3, "records that the decoder refused");
    assert!(refused.len() > 20, "{} rows are too late", refused.len());
    assert_eq!(
        outcome.count("late"),
        0,
        "no decision is on a row that is late"
    );

    // Only rows that were moved can be late, and of those only some are.
    let positions = table.column_by_name("_offset").expect("offsets").clone();
    let positions = positions.as_primitive::<Int64Type>().clone();
    for (offset, record) in &refused {
        let row = positions.iter().position(|at| at == Some(*offset));
        let row = row.expect("a row of the input");
        assert_eq!(*offset as usize % LATE_EACH, 0, "row {row} came in time");
        for name in ["transaction_id", "card_id", "terminal_id", "device_id"] {
            let cell = table.column_by_name(name).expect("a column").clone();
            assert_eq!(record[name], cell.as_string::<i32>().value(row), "{name}");
        }
        let time = table.column_by_name("tx_time").expect("times");
        let time = time.as_primitive::<Int64Type>().value(row);
        assert_eq!(record["tx_time"], time);
    }
    let moved = (0..ROWS).filter(|at| at % LATE_EACH == 0).count();
    assert!(refused.len() < moved, "all of {moved} rows are too late");

    let kept: BooleanArray = (positions.iter())
        .map(|at| Some(!refused.contains_key(&at.expect("an offset"))))
        .collect();
    let without = folder.path().join("without.parquet");
    write(
        &without,
        &filter_record_batch(&table, &kept).expect("a filter of that length"),
    );
    let replay = |input: &Path, name: &str| {
        let out = folder.path().join(name);
        let model = scenario.model(input);
        let replay = Replay::new(&scenario, &model, &[input.to_path_buf()]);
        answer_of(command(&replay.with(&[
            "--set",
            "lateness.beyond=decide",
            "--out",
            out.to_str().expect("a plain path"),
        ])));
        Outcome::read(&out)
    };
    same_rows(
        &in_any_place(&outcome.decisions),
        &in_any_place(&replay(&without, "without").decisions),
        "without the rows that came too late",
    );

    // What the dead letters keep can be put back.
    let again = folder.path().join("again.jsonl");
    let lines: Vec<String> = refused.values().map(Value::to_string).collect();
    std::fs::write(&again, lines.join("\n")).expect("a file");
    let again = replay(&again, "again");
    let ids = |values: &mut dyn Iterator<Item = String>| values.collect::<BTreeSet<_>>();
    assert_eq!(
        ids(&mut again.texts("transaction_id").into_iter()),
        ids(&mut refused
            .values()
            .map(|record| record["transaction_id"].as_str().expect("an id").into())),
    );
}

/// The columns that do not tell a row's place, or what the pipeline is set to.
fn in_any_place(decisions: &RecordBatch) -> RecordBatch {
    let kept: Vec<usize> = (0..decisions.num_columns())
        .filter(|i| {
            let schema = decisions.schema();
            !["sequence", "version_pipeline"].contains(&schema.field(*i).name().as_str())
        })
        .collect();
    decisions.project(&kept).expect("columns that are there")
}

/// The first rows of a recorded stream, some of them far behind where they belong, some without a
/// card; `_offset` is a row's place in the stream as it was.
fn disordered(whole: &RecordBatch) -> RecordBatch {
    let whole = whole.slice(0, ROWS);
    let mut order: Vec<u32> = (0..ROWS as u32).collect();
    order.sort_by_key(|at| match *at as usize % LATE_EACH {
        0 => (*at as usize + LATE_ROWS, 1),
        _ => (*at as usize, 0),
    });
    let order = UInt32Array::from(order);
    let mut fields: Vec<Arc<Field>> = whole.schema().fields().iter().cloned().collect();
    let mut columns: Vec<ArrayRef> = whole.columns().to_vec();
    let cards = whole.schema().index_of("card_id").expect("cards");
    let names = columns[cards].as_string::<i32>();
    let with_gaps: StringArray = (names.iter().enumerate())
        .map(|(at, name)| name.filter(|_| at % BROKEN_EACH != 1))
        .collect();
    fields[cards] = Arc::new(fields[cards].as_ref().clone().with_nullable(true));
    columns[cards] = Arc::new(with_gaps);
    let places: [(&str, ArrayRef); 3] = [
        (
            "_topic",
            Arc::new(StringArray::from_iter_values((0..ROWS).map(|_| "payments"))),
        ),
        (
            "_partition",
            Arc::new(Int32Array::from_iter_values((0..ROWS).map(|_| 2))),
        ),
        (
            "_offset",
            Arc::new(Int64Array::from_iter_values(0..ROWS as i64)),
        ),
    ];
    for (name, column) in places {
        fields.push(Arc::new(Field::new(
            name,
            column.data_type().clone(),
            false,
        )));
        columns.push(column);
    }
    let table = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns);
    take_record_batch(&table.expect("columns of one length"), &order).expect("rows that are there")
}

fn write(path: &Path, table: &RecordBatch) {
    let file = File::create(path).expect("a file");
    let mut writer = ArrowWriter::try_new(file, table.schema(), None).expect("a writer");
    writer.write(table).expect("rows");
    writer.close().expect("a footer");
}
