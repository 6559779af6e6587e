//! `sanderling train`: a model from recorded files.

use std::fmt;
use std::path::PathBuf;
use std::time::Instant;

use sanderling_ingest::Input;
use sanderling_schemas::EventTime;
use sanderling_scoring::{TrainingMetrics, TrainingPlan, TrainingRange};
use serde::Serialize;

use crate::failure::Failure;
use crate::folder::PipelineFolder;
use crate::progress::Progress;
use crate::record::{model_failure, record};

/// What to train on.
pub struct TrainOptions {
    /// Files, each of a stream.
    pub inputs: Vec<Input>,
    /// First training day.
    pub from: EventTime,
    /// The moment of training.
    pub to: EventTime,
    /// Days until a label is known, instead of the pipeline's.
    pub delay_days: Option<u32>,
    /// Folder of the model.
    pub out: PathBuf,
    /// Seed of weights, dropout and drawing.
    pub seed: u64,
}

/// What was trained.
#[derive(Debug, Serialize)]
pub struct Trained {
    model: PathBuf,
    hash: String,
    training: TrainingRange,
    metrics: TrainingMetrics,
    seconds: f64,
}

impl fmt::Display for Trained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: model {} of {} weights, from {} rows with {} positives, in {:.0} s",
            self.model.display(),
            &self.hash[..self.hash.len().min(12)],
            self.training.weights,
            self.training.rows,
            self.training.positives,
            self.seconds
        )
    }
}

/// Folds the files up to the moment of training, trains, and writes the model folder.
pub fn train(folder: &PipelineFolder, options: &TrainOptions) -> Result<Trained, Failure> {
    if options.from >= options.to {
        return Err(Failure::usage("--from must be before --to"));
    }
    let started = Instant::now();
    let recorded = record(
        folder,
        &options.inputs,
        Some(options.to),
        options.delay_days,
    )?;
    let plan = TrainingPlan {
        from_us: options.from.0,
        to_us: options.to.0,
        known_by_us: options.to.0,
        seed: options.seed,
    };
    let progress = Progress::epochs("train");
    let model = sanderling_scoring::train(
        &recorded.recording,
        &folder.settings.model,
        &plan,
        &mut |p| {
            progress.epoch(p.epochs, p.of, p.loss);
        },
    )
    .map_err(model_failure)?;
    progress.finish();
    model.save(&options.out).map_err(model_failure)?;
    let manifest = model.manifest();
    Ok(Trained {
        model: options.out.clone(),
        hash: model.hash().to_string(),
        training: manifest.training.clone(),
        metrics: manifest.metrics.clone(),
        seconds: started.elapsed().as_secs_f64(),
    })
}
