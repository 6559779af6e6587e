//! An update: a model goes on learning from new days, and is then held against what it was.
//!
//! The last of the new rows are kept from it. On them both are measured, each with a memory that
//! folded the same stream, so that the figures are those a service would have seen. The inputs keep
//! the statistics of the first training: weights mean nothing with others.

use std::sync::Arc;

use sanderling_schemas::{Output, Rung};

use super::draft::{Draft, RUNGS, outputs};
use super::history::History;
use super::{
    GradientRows, LONG_ROWS, Task, TrainingCheckpoints, TrainingPlan, TrainingProgress, background,
    gradient_rows, key, stages, standardise,
};
use crate::architecture::Architecture;
use crate::error::ScoringError;
use crate::manifest::{Trial, TrialMeasure};
use crate::metrics::average_precision;
use crate::options::{ModelOptions, TrainingOptions};
use crate::recording::Recording;
use crate::scorer::Scorer;
use crate::served::ServedModel;

/// Share of the rows that the two are measured on, where the options name none.
const HOLD_OUT: f64 = 0.15;

/// Goes on from `champion` on the rows of `plan`. The new model's manifest holds the
/// [`Trial`](crate::Trial), whether it was won or not.
///
/// # Errors
/// Those of [`train`](super::train()); [`ScoringError::OtherFeatures`] and
/// [`ScoringError::OtherEntities`] where the recording is not one of the champion's features.
pub fn update(
    recording: &Recording,
    champion: Arc<ServedModel>,
    training: &TrainingOptions,
    plan: &TrainingPlan,
    checkpoints: Option<&TrainingCheckpoints>,
    progress: &mut dyn FnMut(TrainingProgress),
) -> Result<ServedModel, ScoringError> {
    let mut before = Scorer::of_recording(champion.clone(), recording, 1)?;
    let output = champion.output();
    let options = ModelOptions {
        training: training.clone(),
        ..champion.manifest().sizes.clone()
    };
    let shape = Architecture::new(&options, recording.schema(), recording.entities())?;
    let label = champion.label();
    let (mut gradient, _) = gradient_rows(recording, output, plan)?;
    standardise(gradient.targets.iter_mut(), label);
    let share = training.hold_out.unwrap_or(HOLD_OUT);
    let Some((early, late)) = gradient.hold_out(output, share) else {
        return Err(ScoringError::TooFewRows(format!(
            "of {} labelled rows the last {share} are too few to hold the two models against each \
             other; give more days",
            gradient.rows.len()
        )));
    };
    let long = early.rows.len() > LONG_ROWS;
    let epochs = training.update_epochs.unwrap_or_else(|| {
        let [_, epochs] = stages::epochs(&shape, long);
        epochs.div_ceil(4)
    });
    let gentle = ModelOptions {
        training: TrainingOptions {
            epochs: Some(epochs),
            rate: training.update_rate,
            ..training.clone()
        },
        ..options.clone()
    };
    let gentle = Architecture::new(&gentle, recording.schema(), recording.entities())?;
    let start = champion.weights()?;
    let mut history = History::new(recording, shape.memories.len());
    standardise(
        history.labels.iter_mut().map(|known| &mut known.value),
        label,
    );
    let background = background(&gentle, recording, &gradient);
    let task = Task {
        shape: &gentle,
        recording,
        front: &champion.front,
        background: &background,
        history: &history,
        label,
        known: recording.prefix(plan.known_by_us),
        seed: plan.seed,
        long,
        start: Some(&start),
        checkpoints: checkpoints
            .map(|kept| (kept, key(recording, &options, plan, Some(&champion)))),
    };
    let (mut epochs, of) = (0, task.epochs());
    let networks = task.networks("network", &early, None, None, &mut |loss| {
        epochs += 1;
        progress(TrainingProgress { epochs, of, loss });
    })?;
    let mut weights = task.weights(&networks);
    let draft = Draft {
        recording,
        shape: &shape,
        plan,
        gradient: &gradient,
        label,
    };
    let mut after = draft.scorer(&mut weights)?;
    let (raw, _) = outputs(recording, &mut after, &late, &RUNGS)?;
    let calibrated = draft.calibrate(&raw, &late, networks[0].loss);
    let (raw_before, _) = outputs(recording, &mut before, &late, &[Rung::Full])?;
    let times = recording.times_us();
    let (first, last) = (late.rows[0], late.rows[late.rows.len() - 1]);
    let measure = match output {
        Output::LogOdds => TrialMeasure::AveragePrecision,
        Output::Value | Output::Forecast => TrialMeasure::MeanSquaredError,
    };
    let before = figure(output, &raw_before[0], &late, label[1]);
    let after = figure(output, &raw[0], &late, label[1]);
    let trial = Trial {
        champion_hash: champion.hash().to_string(),
        from_us: times[first as usize],
        until_us: times[last as usize],
        rows: late.rows.len(),
        positives: match output {
            Output::LogOdds => late.positive().iter().filter(|&&p| p).count(),
            Output::Value | Output::Forecast => 0,
        },
        measure,
        champion: before,
        successor: after,
        won: measure.is_better(after, before),
    };
    draft.finish(&mut weights, calibrated, Some(trial))
}

/// The figure of a trial: `raw` outputs against the targets, which are standardised by `deviation`.
fn figure(output: Output, raw: &[f32], rows: &GradientRows, deviation: f32) -> f64 {
    match output {
        Output::LogOdds => {
            let scores: Vec<f64> = raw.iter().map(|&x| f64::from(x)).collect();
            average_precision(&scores, &rows.positive())
        }
        Output::Value | Output::Forecast => {
            let squares = raw.iter().zip(&rows.targets);
            let squares =
                squares.map(|(raw, target)| f64::from((raw - target) * deviation).powi(2));
            squares.sum::<f64>() / raw.len() as f64
        }
    }
}
