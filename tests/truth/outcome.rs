//! What a replay left in its folder, in a form that can be compared.

use std::fs::File;
use std::path::Path;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Float64Type, Int32Type, Int64Type};
use arrow::util::display::array_value_to_string;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};

/// Summary keys that tell of the run and not of the decisions.
const OF_THE_RUN: [&str; 4] = ["events_per_s", "seconds", "latency_us", "rss_mb"];

/// The output of one replay, less what may differ between two runs of the same input.
#[derive(Debug)]
pub struct Outcome {
    pub decisions: RecordBatch,
    pub dead_letters: RecordBatch,
    /// Runs of the order records, joined where they touch: `topic/partition/from..next`.
    pub order: Vec<String>,
    pub summary: Value,
}

impl Outcome {
    /// Reads the folder of a finished replay.
    pub fn read(folder: &Path) -> Self {
        let decisions = read_parquet(&folder.join("decisions.parquet"));
        let kept: Vec<usize> = (0..decisions.num_columns())
            .filter(|i| !decisions.schema().field(*i).name().starts_with("timing_"))
            .collect();
        let text = std::fs::read_to_string(folder.join("summary.json")).expect("a summary");
        let mut summary: Value = serde_json::from_str(&text).expect("a summary of JSON");
        let object = summary
            .as_object_mut()
            .expect("a summary that is an object");
        object.retain(|key, _| !OF_THE_RUN.contains(&key.as_str()));
        Self {
            decisions: decisions.project(&kept).expect("columns that are there"),
            dead_letters: read_parquet(&folder.join("dead_letters.parquet")),
            order: runs(&read_parquet(&folder.join("order.parquet"))),
            summary,
        }
    }

    /// A count of the summary.
    pub fn count(&self, key: &str) -> u64 {
        self.summary[key]
            .as_u64()
            .unwrap_or_else(|| panic!("no {key} in {}", self.summary))
    }

    /// A column of the decisions as doubles, NaN where NULL.
    pub fn doubles(&self, name: &str) -> Vec<f64> {
        let column = self.column(name);
        let doubles = cast(&column, &DataType::Float64).expect("a numeric column");
        doubles
            .as_primitive::<Float64Type>()
            .iter()
            .map(|v| v.unwrap_or(f64::NAN))
            .collect()
    }

    /// A column of the decisions as text, empty where NULL.
    pub fn texts(&self, name: &str) -> Vec<String> {
        let column = self.column(name);
        (0..column.len())
            .map(|i| array_value_to_string(&column, i).expect("a value"))
            .collect()
    }

    pub fn column(&self, name: &str) -> ArrayRef {
        self.decisions
            .column_by_name(name)
            .unwrap_or_else(|| panic!("no column {name}"))
            .clone()
    }

    /// Fails at the first value that differs.
    pub fn must_equal(&self, other: &Outcome, how: &str) {
        same_rows(
            &self.decisions,
            &other.decisions,
            &format!("{how}: decisions"),
        );
        same_rows(
            &self.dead_letters,
            &other.dead_letters,
            &format!("{how}: dead letters"),
        );
        assert_eq!(self.order, other.order, "{how}: order");
        assert_eq!(self.summary, other.summary, "{how}: summary");
    }

    /// What holds of every replay, whatever the pipeline.
    pub fn must_be_sound(&self) {
        let sum = self.count("decided") + self.count("dead_lettered") + self.count("state_only");
        assert_eq!(
            self.count("in"),
            sum,
            "in = decided + dead-lettered + state-only: {}",
            self.summary
        );
        assert_eq!(
            self.count("decided"),
            self.decisions.num_rows() as u64,
            "decisions are counted"
        );
        assert_eq!(
            self.count("dead_lettered"),
            self.dead_letters.num_rows() as u64
        );
        let actions = self.summary["actions"].as_object().expect("actions");
        assert_eq!(
            self.count("decided"),
            actions.values().filter_map(Value::as_u64).sum::<u64>()
        );

        let mut ids = self.texts("id");
        ids.sort();
        ids.dedup();
        assert_eq!(
            ids.len(),
            self.decisions.num_rows(),
            "an event was decided twice"
        );
        let sequences = self.doubles("sequence");
        assert!(
            sequences.windows(2).all(|w| w[0] < w[1]),
            "sequences ascend"
        );
        self.attributions_must_add_up();
    }

    /// Whatever is not approved is explained, and the explanation adds up to the score.
    fn attributions_must_add_up(&self) {
        let groups: Vec<String> = (self.decisions.schema().fields().iter())
            .map(|field| field.name().clone())
            .filter(|name| name.starts_with("a_"))
            .collect();
        let parts: Vec<Vec<f64>> = groups.iter().map(|name| self.doubles(name)).collect();
        let (actions, ids) = (self.texts("action"), self.texts("id"));
        let (logits, values) = (self.doubles("logit"), self.doubles("value"));
        let probabilities = self.doubles("probability");
        for row in 0..actions.len() {
            let id = &ids[row];
            assert!(
                logits[row].is_nan() != values[row].is_nan(),
                "{id}: a logit or a value"
            );
            assert_eq!(logits[row].is_nan(), probabilities[row].is_nan(), "{id}");
            let explained: f64 = parts.iter().map(|part| part[row]).sum();
            if actions[row] == "approve" {
                assert!(
                    parts.iter().all(|part| part[row].is_nan()),
                    "{id} is approved"
                );
                continue;
            }
            let score = if logits[row].is_nan() {
                values[row]
            } else {
                logits[row]
            };
            assert!(
                (explained - score).abs() <= 1e-6,
                "{id}: {explained} explains {score}"
            );
        }
    }

    /// What the golden of a scenario holds: counts and refusals, which no machine's rounding moves.
    pub fn golden(&self) -> Value {
        let mut counts = self.summary.clone();
        counts
            .as_object_mut()
            .expect("an object")
            .retain(|key, _| key != "actions" && key != "fraud");
        let text = |name: &str| {
            self.dead_letters
                .column_by_name(name)
                .expect("a column")
                .clone()
        };
        let topics = text("_topic");
        let partitions = text("_partition");
        let offsets = text("_offset");
        let (reasons, details) = (text("reason"), text("detail"));
        let letters: Vec<Value> = (0..self.dead_letters.num_rows())
            .map(|i| {
                let id = format!(
                    "{}/{}/{}",
                    topics.as_string::<i32>().value(i),
                    partitions.as_primitive::<Int32Type>().value(i),
                    offsets.as_primitive::<Int64Type>().value(i)
                );
                let (reason, detail) = (reasons.as_string::<i32>(), details.as_string::<i32>());
                json!({"id": id, "reason": reason.value(i), "detail": detail.value(i)})
            })
            .collect();
        json!({"summary": counts, "dead_letters": letters})
    }
}

/// All rows of a Parquet file.
pub fn read_parquet(path: &Path) -> RecordBatch {
    let file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
        .with_batch_size(1 << 16);
    let schema = reader.schema().clone();
    let batches: Vec<RecordBatch> = reader
        .build()
        .expect("a reader")
        .collect::<Result<_, _>>()
        .expect("whole rows");
    concat_batches(&schema, &batches).expect("batches of one schema")
}

/// Fails at the first value that differs.
pub fn same_rows(one: &RecordBatch, other: &RecordBatch, what: &str) {
    assert_eq!(
        one.schema().fields(),
        other.schema().fields(),
        "{what}: columns"
    );
    assert_eq!(one.num_rows(), other.num_rows(), "{what}: rows");
    for (field, (left, right)) in one
        .schema()
        .fields()
        .iter()
        .zip(one.columns().iter().zip(other.columns()))
    {
        if **left == **right {
            continue;
        }
        for row in 0..left.len() {
            let (l, r) = (left.slice(row, 1), right.slice(row, 1));
            if *l != *r {
                let show = |a: &ArrayRef| array_value_to_string(a, 0).unwrap_or_default();
                panic!(
                    "{what}: {} of row {row} is {} and {}",
                    field.name(),
                    show(&l),
                    show(&r)
                );
            }
        }
    }
}

/// The runs of all order records, joined where one ends as the next begins.
fn runs(orders: &RecordBatch) -> Vec<String> {
    let lists = orders
        .column_by_name("runs")
        .expect("runs")
        .as_list::<i32>()
        .clone();
    let mut joined: Vec<(String, i32, i64, i64)> = Vec::new();
    for row in 0..lists.len() {
        let list = lists.value(row);
        let list = list.as_struct();
        let part = |name: &str| list.column_by_name(name).expect("a part of a run").clone();
        let (topics, partitions, from, next) =
            (part("topic"), part("partition"), part("from"), part("next"));
        for i in 0..list.len() {
            let topic = topics.as_string::<i32>().value(i).to_string();
            let partition = partitions.as_primitive::<Int32Type>().value(i);
            let (from, next) = (
                from.as_primitive::<Int64Type>().value(i),
                next.as_primitive::<Int64Type>().value(i),
            );
            match joined.last_mut() {
                Some(last) if last.0 == topic && last.1 == partition && last.3 == from => {
                    last.3 = next
                }
                _ => joined.push((topic, partition, from, next)),
            }
        }
    }
    joined
        .into_iter()
        .map(|(t, p, from, next)| format!("{t}/{p}/{from}..{next}"))
        .collect()
}
