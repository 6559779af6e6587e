//! Are these the decisions that were made then? Two decision tables, compared value by value.
//!
//! Timing is an envelope and is left out. Rows stand in the accepted order in both tables, so they
//! are compared in step; a table that has other events is another stream, and is said to be.
//!
//! Decisions whose `versions.numerics` differ were rounded elsewhere: scores and contributions are then the same
//! within a bound, and all else to the bit. A decision whose action differs all the same is a flip, and is told.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::path::Path;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch, StructArray};
use arrow::compute::cast;
use arrow::compute::kernels::cmp::not_distinct;
use arrow::datatypes::{DataType, Float64Type};
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use sanderling_scoring::DEVICE_MARK;
use serde::Serialize;

use crate::failure::{Failure, io_failure};

/// Rows compared at a time.
const ROWS: usize = 8192;
/// Differences that are told one by one.
const TOLD_MAX: usize = 20;
/// How far scores may be apart that were rounded by other kernels of a CPU, log-odds.
const KERNELS_APART: f64 = 1e-5;
/// The same where one of them was computed on a device.
const DEVICES_APART: f64 = 1e-4;
/// The column of `versions.numerics`.
const NUMERICS: &str = "version_numerics";
/// A reason's share of the score.
const CONTRIBUTION: &str = "contribution";

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
    /// Decisions that were rounded elsewhere.
    pub rounded: u64,
    /// The furthest that scores of those are apart, log-odds or the output's own unit.
    pub apart_max: f64,
    /// The first of those whose action differs, by id.
    pub flips: Vec<String>,
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.differing {
            0 => write!(f, "{} decisions, every one the same", self.compared)?,
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
            )?,
        }
        if self.rounded > 0 {
            write!(
                f,
                "; {} were rounded elsewhere, scores at most {:.1e} apart",
                self.rounded, self.apart_max
            )?;
        }
        if !self.flips.is_empty() {
            write!(
                f,
                "; the first whose action differs: {}",
                self.flips.join(", ")
            )?;
        }
        Ok(())
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
        let bounds = bounds(ours, theirs);
        self.rounded += bounds.iter().flatten().count() as u64;
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
                if let Some(bound) = bounds[row] {
                    let apart = apart(field.name(), column, other, row);
                    if matches!(field.name().as_str(), "logit" | "value") {
                        self.apart_max = self.apart_max.max(apart);
                    }
                    if field.name() == "action" && self.flips.len() < TOLD_MAX {
                        self.flips.push(ids.value(row).to_string());
                    }
                    if apart <= bound {
                        continue;
                    }
                }
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

/// How far the scores of each row may be apart, where `versions.numerics` differ.
fn bounds(ours: &RecordBatch, theirs: &RecordBatch) -> Vec<Option<f64>> {
    let numerics = |table: &RecordBatch| table.column_by_name(NUMERICS).cloned();
    let (Some(ours), Some(theirs)) = (numerics(ours), numerics(theirs)) else {
        return vec![None; ours.num_rows()];
    };
    // Texts that repeat are kept by number.
    let texts = |column: &dyn Array| cast(column, &DataType::Utf8);
    let (Ok(ours), Ok(theirs)) = (texts(&ours), texts(&theirs)) else {
        return vec![None; ours.len()];
    };
    let rows = (ours.as_string::<i32>().iter()).zip(theirs.as_string::<i32>());
    rows.map(|(ours, theirs)| {
        let (ours, theirs) = (ours?, theirs?);
        let on_device = [ours, theirs].iter().any(|n| n.contains(DEVICE_MARK));
        let bound = match on_device {
            true => DEVICES_APART,
            false => KERNELS_APART,
        };
        (ours != theirs).then_some(bound)
    })
    .collect()
}

/// How far the values of a row are apart that are not the same: a number for scores and contributions, nothing
/// for what names the rounding, and without bound for all else.
fn apart(name: &str, ours: &dyn Array, theirs: &dyn Array, row: usize) -> f64 {
    let doubles = |column: &dyn Array| {
        let column = column.as_primitive_opt::<Float64Type>()?;
        column.is_valid(row).then(|| column.value(row))
    };
    let reasons = |column: &dyn Array| Some(column.as_list_opt::<i32>()?.value(row));
    let shadow = |column: &dyn Array| -> Option<BTreeMap<String, f64>> {
        serde_json::from_str(column.as_string_opt::<i32>()?.value(row)).ok()
    };
    let far = |pairs: Vec<(f64, f64)>| {
        let gaps = pairs.into_iter().map(|(a, b)| (a - b).abs());
        // A gap that is no number is none that a bound allows.
        gaps.fold(0.0, |most, gap| if gap <= most { most } else { gap })
    };
    let found = match name {
        NUMERICS => return 0.0,
        "reasons" => reasons(ours).zip(reasons(theirs)).and_then(|(a, b)| {
            let (a, b) = (a.as_struct_opt()?, b.as_struct_opt()?);
            let rest = |of: &StructArray| {
                let columns = of.fields().iter().zip(of.columns());
                let rest = columns.filter(|(field, _)| field.name() != CONTRIBUTION);
                rest.map(|(_, column)| column.to_data()).collect::<Vec<_>>()
            };
            let numbers = |of: &StructArray| -> Option<Vec<f64>> {
                let column = of.column_by_name(CONTRIBUTION)?;
                Some(column.as_primitive_opt::<Float64Type>()?.values().to_vec())
            };
            let pairs = numbers(a)?.into_iter().zip(numbers(b)?).collect();
            (rest(a) == rest(b)).then(|| far(pairs))
        }),
        "shadow" => shadow(ours).zip(shadow(theirs)).and_then(|(a, b)| {
            let same_models = a.keys().eq(b.keys());
            let pairs = a.into_values().zip(b.into_values()).collect();
            same_models.then(|| far(pairs))
        }),
        "logit" | "probability" | "value" => doubles(ours)
            .zip(doubles(theirs))
            .map(|pair| far(vec![pair])),
        name if name.starts_with("a_") => doubles(ours)
            .zip(doubles(theirs))
            .map(|pair| far(vec![pair])),
        _ => None,
    };
    found.unwrap_or(f64::INFINITY)
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Float64Array, StringArray};

    use super::*;

    fn table(numerics: &str, actions: [&str; 3], logits: [f64; 3], feature: f64) -> RecordBatch {
        let texts = |texts: [&str; 3]| Arc::new(StringArray::from(texts.to_vec())) as ArrayRef;
        let numbers =
            |numbers: [f64; 3]| Arc::new(Float64Array::from(numbers.to_vec())) as ArrayRef;
        RecordBatch::try_from_iter([
            ("id", texts(["t/0/0", "t/0/1", "t/0/2"])),
            ("action", texts(actions)),
            ("logit", numbers(logits)),
            ("f_amount", numbers([feature; 3])),
            (NUMERICS, texts([numerics; 3])),
        ])
        .unwrap()
    }

    fn compared(ours: &RecordBatch, theirs: &RecordBatch) -> Comparison {
        let mut comparison = Comparison::default();
        let file = Path::new("decisions.parquet");
        comparison.add(ours, theirs, file).unwrap();
        comparison
    }

    #[test]
    fn other_rounding_is_allowed_where_the_numerics_say_so_and_flips_are_told() {
        let actions = ["approve", "review", "approve"];
        let kernels = table("kernels", actions, [-3.0, 1.0, 2.0], 5.0);
        let close = table("kernels+cuda-f32", actions, [-3.0, 1.00005, 2.0], 5.0);
        let found = compared(&close, &kernels);
        assert_eq!((found.differing, found.rounded), (0, 3));
        assert!((found.apart_max - 5e-5).abs() < 1e-9 && found.flips.is_empty());
        let told = found.to_string();
        assert!(
            told.contains("rounded elsewhere") && told.contains("5.0e-5"),
            "{told}"
        );

        // Between two CPUs less is allowed, and with one numerics nothing.
        let other_cpu = table("other kernels", actions, [-3.0, 1.00005, 2.0], 5.0);
        assert_eq!(compared(&other_cpu, &kernels).first, ["t/0/1"]);
        let same = table("kernels", actions, [-3.0, 1.0 + 1e-12, 2.0], 5.0);
        assert_eq!(compared(&same, &kernels).columns["logit"], 1);

        // A score across a threshold; and a feature, which no device rounds.
        let flipped = table(
            "kernels+cuda-f32",
            ["approve"; 3],
            [-3.0, 0.99999, 2.0],
            5.0,
        );
        let found = compared(&flipped, &kernels);
        assert_eq!(
            (found.differing, &found.flips[..]),
            (1, &["t/0/1".to_string()][..])
        );
        let feature = table("kernels+cuda-f32", actions, [-3.0, 1.0, 2.0], 5.000001);
        assert_eq!(compared(&feature, &kernels).columns["f_amount"], 3);
        let gone = table("kernels+cuda-f32", actions, [-3.0, f64::NAN, 2.0], 5.0);
        assert_eq!(compared(&gone, &kernels).first, ["t/0/1"]);
    }
}
