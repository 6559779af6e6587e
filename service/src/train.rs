//! `sanderling train`: a model from recorded files.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use sanderling_decide::{POLICY_FILE, Settled};
use sanderling_ingest::Input;
use sanderling_schemas::EventTime;
use sanderling_scoring::{
    ServedModel, TrainingCheckpoints, TrainingMetrics, TrainingPlacement, TrainingPlan,
    TrainingRange, Trial,
};
use serde::Serialize;

use crate::failure::Failure;
use crate::folder::PipelineFolder;
use crate::progress::Progress;
use crate::record::{model_failure, record};

/// Folder of the model's folder in which training keeps how far it is.
const CHECKPOINTS: &str = "training";

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
    /// Folder of the model to go on from, instead of from nothing.
    pub from_model: Option<PathBuf>,
    /// Seed of weights, dropout and drawing.
    pub seed: u64,
    /// Go on with a training that was cut off.
    pub resume: bool,
}

/// What was trained.
#[derive(Debug, Serialize)]
pub struct Trained {
    model: PathBuf,
    hash: String,
    training: TrainingRange,
    metrics: TrainingMetrics,
    /// What the folder's policy makes of it, if there is a policy.
    thresholds: Option<Settled>,
    /// Why the policy makes nothing of it.
    without_thresholds: Option<String>,
    /// Against the model that it went on from.
    trial: Option<Trial>,
    /// Where its gradients were computed.
    device: String,
    seconds: f64,
}

impl Trained {
    /// Why the model should not take the place of the one that it went on from.
    pub fn lost(&self) -> Option<Failure> {
        let trial = self.trial.as_ref().filter(|trial| !trial.won)?;
        Some(
            Failure::new("not_promoted", trial.to_string())
                .in_file(&self.model)
                .cure("keep the champion; try again with more days, or train from nothing"),
        )
    }

    /// How good its ranks and how reliable its probabilities are, where rows were held out.
    fn write_held_out(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let metrics = &self.metrics;
        let (Some(reliability), Some(auc), Some(average_precision)) =
            (&metrics.reliability, metrics.auc, metrics.average_precision)
        else {
            return Ok(());
        };
        write!(
            f,
            "\non {} rows held out: AUC {auc:.4}, average precision {average_precision:.4}, {reliability}",
            metrics.calibration_rows
        )
    }
}

impl fmt::Display for Trained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: model {} of {} weights, from {} rows with {} positives, in {:.0} s on {}",
            self.model.display(),
            &self.hash[..self.hash.len().min(12)],
            self.training.weights,
            self.training.rows,
            self.training.positives,
            self.seconds,
            self.device
        )?;
        self.write_held_out(f)?;
        if let Some(settled) = &self.thresholds {
            write!(f, "\n{settled}")?;
        }
        if let Some(why) = &self.without_thresholds {
            write!(f, "\nno thresholds: {why}")?;
        }
        match self.trial.as_ref().filter(|trial| trial.won) {
            Some(trial) => write!(
                f,
                "\n{trial}\nit may take over: sanderling model promote PIPELINE {}",
                self.model.display()
            ),
            None => Ok(()),
        }
    }
}

/// Folds the files up to the moment of training, trains, and writes the model folder.
pub fn train(folder: &PipelineFolder, options: &TrainOptions) -> Result<Trained, Failure> {
    if options.from >= options.to {
        return Err(Failure::usage("--from must be before --to"));
    }
    let started = Instant::now();
    // A device that is not there shows before the hours of folding.
    let device = TrainingPlacement::of(&folder.settings.model.training).map_err(model_failure)?;
    let device = device.to_string();
    let champion = options.from_model.as_deref().map(|path| {
        let failed = |e| {
            model_failure(e)
                .in_file(path)
                .cure("name a model folder of these features")
        };
        ServedModel::load(path).map(Arc::new).map_err(failed)
    });
    let champion = champion.transpose()?;
    let recorded = record(
        folder,
        &options.inputs,
        Some(options.to),
        options.delay_days,
    )?;
    // A policy that is wrong shows before the hours of training, not after.
    let has_policy = folder.path.join(POLICY_FILE).exists();
    let policy = has_policy.then(|| folder.policy(recorded.recording.schema()));
    let policy = policy.transpose()?;
    let plan = TrainingPlan {
        from_us: options.from.0,
        to_us: options.to.0,
        known_by_us: options.to.0,
        seed: options.seed,
    };
    let progress = Progress::epochs("train");
    let mut tell = |p: sanderling_scoring::TrainingProgress| progress.epoch(p.epochs, p.of, p.loss);
    let (recording, settings) = (&recorded.recording, &folder.settings.model);
    let checkpoints = TrainingCheckpoints::new(&options.out.join(CHECKPOINTS), options.resume)
        .map_err(model_failure)?;
    let kept = Some(&checkpoints);
    let model = match champion {
        None => sanderling_scoring::train(recording, settings, &plan, kept, &mut tell),
        Some(champion) => {
            let settings = &settings.training;
            sanderling_scoring::update(recording, champion, settings, &plan, kept, &mut tell)
        }
    }
    .map_err(model_failure)?;
    progress.finish();
    model.save(&options.out).map_err(model_failure)?;
    checkpoints.remove().map_err(model_failure)?;
    let manifest = model.manifest();
    let settled = policy.map(|policy| policy.settle(manifest.held_out.as_ref()));
    let (thresholds, without_thresholds) = match settled {
        Some(Ok(settled)) => (Some(settled), None),
        Some(Err(e)) => (None, Some(format!("{}; {}", e.message, e.cure))),
        None => (None, None),
    };
    Ok(Trained {
        model: options.out.clone(),
        hash: model.hash().to_string(),
        training: manifest.training.clone(),
        metrics: manifest.metrics.clone(),
        thresholds,
        without_thresholds,
        trial: manifest.trial.clone(),
        device,
        seconds: started.elapsed().as_secs_f64(),
    })
}
