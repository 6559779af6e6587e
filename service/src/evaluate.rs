//! `sanderling evaluate`: prequential folds. Train, wait out the labels' delay, test; repeat.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Schema};
use parquet::arrow::ArrowWriter;
use sanderling_ingest::Input;
use sanderling_schemas::EventTime;
use sanderling_scoring::{Evaluation, EvaluationPlan, FoldReport};
use serde::Serialize;

use crate::failure::{Failure, io_failure};
use crate::folder::PipelineFolder;
use crate::progress::Progress;
use crate::record::{Recorded, model_failure, record};

const DAY_US: i64 = 86_400_000_000;

/// What to evaluate.
pub struct EvaluateOptions {
    /// Files, each of a stream.
    pub inputs: Vec<Input>,
    /// First training day of the first fold.
    pub start: EventTime,
    /// Number of folds.
    pub folds: u32,
    /// Days between the starts of two folds.
    pub step_days: u32,
    /// Training days of a fold.
    pub train_days: u32,
    /// Days between training and test, and until a label is known.
    pub delay_days: u32,
    /// Test days of a fold.
    pub test_days: u32,
    /// Train each fold from this date on.
    pub train_from: Option<EventTime>,
    /// Leave known compromised cards out of the metrics.
    pub exclude_known: bool,
    /// Seed of weights, dropout and drawing.
    pub seed: u64,
    /// Where the scores of every test row go.
    pub scores: Option<PathBuf>,
}

/// The folds and their metrics.
#[derive(Debug, Serialize)]
pub struct Report {
    folds: Vec<Fold>,
    mean: Figures,
    std: Figures,
}

/// One fold.
#[derive(Debug, Serialize)]
struct Fold {
    start: String,
    auc: f64,
    ap: f64,
    cp100: f64,
    rows: usize,
    fraud: usize,
    train_s: f64,
}

/// AUC, average precision, card precision at 100 alerts a day.
#[derive(Debug, Serialize)]
struct Figures {
    auc: f64,
    ap: f64,
    cp100: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<12} {:>6} {:>6} {:>7} {:>8} {:>6} {:>8}",
            "start", "AUC", "AP", "CP@100", "rows", "fraud", "train s"
        )?;
        for fold in &self.folds {
            writeln!(
                f,
                "{:<12} {:>6.3} {:>6.3} {:>7.3} {:>8} {:>6} {:>8.1}",
                fold.start, fold.auc, fold.ap, fold.cp100, fold.rows, fold.fraud, fold.train_s
            )?;
        }
        writeln!(
            f,
            "{:<12} {:>6.3} {:>6.3} {:>7.3}",
            "mean", self.mean.auc, self.mean.ap, self.mean.cp100
        )?;
        write!(
            f,
            "{:<12} {:>6.3} {:>6.3} {:>7.3}",
            "std", self.std.auc, self.std.ap, self.std.cp100
        )
    }
}

/// Folds the files once, then trains and tests each fold on what its moment knew.
pub fn evaluate(folder: &PipelineFolder, options: &EvaluateOptions) -> Result<Report, Failure> {
    if folder.label_file.is_none() {
        return Err(Failure::new(
            "evaluate",
            "the pipeline has no labels.file, so nothing tells right from wrong",
        )
        .in_file(&folder.path.join("pipeline.yaml"))
        .cure("name the label's column: labels: {file: {column: ..., delay: 7d}}"));
    }
    let last_fold = i64::from(options.folds.saturating_sub(1)) * i64::from(options.step_days);
    let days = last_fold + i64::from(options.train_days + options.delay_days + options.test_days);
    let end = EventTime(options.start.0 + days * DAY_US);
    let recorded = record(folder, &options.inputs, Some(end), Some(options.delay_days))?;
    let plan = EvaluationPlan {
        start_us: options.start.0,
        folds: options.folds as usize,
        step_days: options.step_days,
        train_days: options.train_days,
        delay_days: options.delay_days,
        test_days: options.test_days,
        train_from_us: options.train_from.map(|t| t.0),
        exclude_known: options.exclude_known,
        seed: options.seed,
        placement: folder.placement()?,
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let progress = Progress::epochs("evaluate");
    let evaluation = sanderling_scoring::evaluate(
        &recorded.recording,
        &recorded.truth,
        &folder.settings.model,
        &plan,
        threads.min(options.folds as usize),
        &|fold, p| progress.fold_epoch(fold, options.folds as usize, p.epochs, p.of),
    )
    .map_err(model_failure)?;
    progress.finish();
    if let Some(path) = &options.scores {
        write_scores(folder, &recorded, &evaluation, path)?;
    }
    let figures = |of: fn(&(f64, f64)) -> f64| Figures {
        auc: of(&evaluation.spread(|fold| fold.auc)),
        ap: of(&evaluation.spread(|fold| fold.average_precision)),
        cp100: of(&evaluation.spread(|fold| fold.card_precision)),
    };
    Ok(Report {
        folds: evaluation.folds.iter().map(fold).collect(),
        mean: figures(|spread| spread.0),
        std: figures(|spread| spread.1),
    })
}

fn fold(report: &FoldReport) -> Fold {
    let start = chrono::DateTime::from_timestamp_micros(report.start_us);
    Fold {
        start: start.map_or_else(String::new, |start| start.date_naive().to_string()),
        auc: report.auc,
        ap: report.average_precision,
        cp100: report.card_precision,
        rows: report.rows,
        fraud: report.positives,
        train_s: report.train_s,
    }
}

/// Source key, fold and score of every test-day row, counted in the metrics or not.
fn write_scores(
    folder: &PipelineFolder,
    recorded: &Recorded,
    evaluation: &Evaluation,
    path: &Path,
) -> Result<(), Failure> {
    let events = UInt32Array::from_iter_values(evaluation.scores.iter().map(|score| score.event));
    let failed = |e: arrow::error::ArrowError| Failure::new("output", e.to_string()).in_file(path);
    let (name, ids): (&str, ArrayRef) = match (&folder.relation.id, &recorded.source_ids) {
        (Some(name), Some(ids)) => (name, take(ids, &events, None).map_err(failed)?),
        _ => ("event", Arc::new(events)),
    };
    let schema = Arc::new(Schema::new(vec![
        Field::new(name, ids.data_type().clone(), true),
        Field::new("fold", DataType::UInt32, false),
        Field::new("score", DataType::Float64, false),
    ]));
    let folds = UInt32Array::from_iter_values(evaluation.scores.iter().map(|score| score.fold));
    let scores = Float64Array::from_iter_values(evaluation.scores.iter().map(|score| score.score));
    let rows = RecordBatch::try_new(schema.clone(), vec![ids, Arc::new(folds), Arc::new(scores)])
        .map_err(failed)?;
    let file = File::create(path).map_err(|e| io_failure(path, "write the scores", &e))?;
    let written = ArrowWriter::try_new(file, schema, None).and_then(|mut writer| {
        writer.write(&rows)?;
        writer.close()
    });
    written
        .map(drop)
        .map_err(|e| Failure::new("output", e.to_string()).in_file(path))
}
