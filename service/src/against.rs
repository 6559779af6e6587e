//! Are these the decisions that were made then? Two decision tables, compared value by value.
//!
//! Timing is an envelope and is left out. Rows stand in the accepted order in both tables, so they
//! are compared in step; a table that has other events is another stream, and is said to be.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::path::Path;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::compute::kernels::cmp::not_distinct;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use serde::Serialize;

use crate::failure::{Failure, io_failure};

/// Rows compared at a time.
const ROWS: usize = 8192;
/// Differences that are told one by one.
const TOLD_MAX: usize = 20;

/// What the comparison found.
#[derive(Debug, Default, Serialize)]
pub struct Comparison {
    /// Decisions in both.
    pub compared: u64,
    /// Decisions that differ in at least one column.
    pub differing: u64,
    /// Differing values by column.
    pub columns: BTreeMap<String, u64>,
    /// The first decisions that differ, by id.
    pub first: Vec<String>,
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.differing {
            0 => write!(f, "{} decisions, every one the same", self.compared),
            differing => write!(
                f,
                "{differing} of {} decisions differ, in {}; the first: {}",
                self.compared,
                self.columns
                    .iter()
                    .map(|(c, n)| format!("{c} ({n})"))
                    .collect::<Vec<_>>()
                    .join(", "),
                self.first.join(", ")
            ),
        }
    }
}

/// Compares the decisions of `made` with those of `recorded`.
///
/// # Errors
/// Tables that cannot be read, of other columns, or of other events.
pub fn compare(made: &Path, recorded: &Path) -> Result<Comparison, Failure> {
    let mut comparison = Comparison::default();
    let (mut ours, mut theirs) = (open(made)?, open(recorded)?);
    loop {
        match (next(&mut ours, made)?, next(&mut theirs, recorded)?) {
            (None, None) => return Ok(comparison),
            (Some(ours), Some(theirs)) => comparison.add(&ours, &theirs, recorded)?,
            (Some(_), None) | (None, Some(_)) => {
                return Err(other_events(
                    recorded,
                    "the tables have different numbers of decisions",
                ));
            }
        }
    }
}

impl Comparison {
    fn add(
        &mut self,
        ours: &RecordBatch,
        theirs: &RecordBatch,
        recorded: &Path,
    ) -> Result<(), Failure> {
        if ours.num_rows() != theirs.num_rows() {
            return Err(other_events(
                recorded,
                "the tables have different numbers of decisions",
            ));
        }
        let mut differs = vec![false; ours.num_rows()];
        let ids = ours.column(0).as_string::<i32>();
        for (field, column) in ours.schema_ref().fields().iter().zip(ours.columns()) {
            if field.name().starts_with("timing_") {
                continue;
            }
            let Some(other) = theirs.column_by_name(field.name()) else {
                return Err(
                    Failure::new("against", format!("it has no column {}", field.name()))
                        .in_file(recorded)
                        .cure("compare with decisions of the same pipeline"),
                );
            };
            let same = same(column, other);
            if field.name() == "id" && same.false_count() > 0 {
                let row = (0..same.len())
                    .find(|&row| !same.value(row))
                    .unwrap_or_default();
                return Err(other_events(
                    recorded,
                    &format!(
                        "{} stands where {} was decided",
                        other.as_string::<i32>().value(row),
                        ids.value(row)
                    ),
                ));
            }
            for row in (0..same.len()).filter(|&row| !same.value(row)) {
                *self.columns.entry(field.name().clone()).or_default() += 1;
                differs[row] = true;
            }
        }
        self.compared += differs.len() as u64;
        for row in (0..differs.len()).filter(|&row| differs[row]) {
            self.differing += 1;
            if self.first.len() < TOLD_MAX {
                self.first.push(ids.value(row).to_string());
            }
        }
        Ok(())
    }
}

/// For each row, whether two columns hold the same value; NULL is the same as NULL.
fn same(a: &dyn Array, b: &dyn Array) -> BooleanArray {
    if a.data_type() != b.data_type() {
        return BooleanArray::from(vec![false; a.len()]);
    }
    match not_distinct(&a, &b) {
        Ok(same) => same,
        // Lists have no comparison kernel.
        Err(_) => (0..a.len())
            .map(|row| Some(a.slice(row, 1).to_data() == b.slice(row, 1).to_data()))
            .collect(),
    }
}

fn open(path: &Path) -> Result<ParquetRecordBatchReader, Failure> {
    let file = File::open(path).map_err(|e| io_failure(path, "read the decisions", &e))?;
    ParquetRecordBatchReaderBuilder::try_new(file)
        .and_then(|builder| builder.with_batch_size(ROWS).build())
        .map_err(|e| {
            Failure::new("against", e.to_string())
                .in_file(path)
                .cure("name a decisions.parquet that a replay wrote")
        })
}

fn next(
    reader: &mut ParquetRecordBatchReader,
    path: &Path,
) -> Result<Option<RecordBatch>, Failure> {
    reader
        .next()
        .transpose()
        .map_err(|e| Failure::new("against", e.to_string()).in_file(path))
}

fn other_events(recorded: &Path, message: &str) -> Failure {
    Failure::new(
        "against",
        format!("these are decisions on other events: {message}"),
    )
    .in_file(recorded)
    .cure("replay the same input over the same time")
}
