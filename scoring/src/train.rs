//! Training: chronological, from a recording, by truncated backpropagation with stored carries.
//!
//! The first stage and the linear map learn first. With the first stage's outputs fixed, the rest
//! learns by gradient rows: events of the training days whose label is known at the moment of
//! training. Each row's past is unrolled a few steps; where the steps begin, the carry is what the
//! serving kernels made of the stream under earlier weights, renewed every few epochs.

mod attend;
mod batch;
mod carries;
mod graph;
mod history;
mod loss;
mod params;
mod recurrence;
mod stages;

#[cfg(test)]
mod agreement;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use sanderling_schemas::{Output, Rung};

use crate::architecture::Architecture;
use crate::calibration::{CLASS_ROWS_MIN, platt};
use crate::error::ScoringError;
use crate::front::Front;
use crate::manifest::{
    Calibration, Manifest, ManifestGroup, ManifestInput, RungCalibrations, TrainingMetrics,
    TrainingRange,
};
use crate::metrics::{auc, average_precision};
use crate::options::ModelOptions;
use crate::recording::Recording;
use crate::scorer::Scorer;
use crate::served::ServedModel;
use crate::weights::{Weights, sha256};
use history::History;
use params::Params;
use stages::Stages;

/// Rows from which the long settings of [`crate::TrainingOptions`] hold.
const LONG_ROWS: usize = 300_000;
/// Share of the training rows, the last ones, that calibration is fitted on.
const CALIBRATION_SHARE: f64 = 0.2;

/// Which rows of a recording give gradients.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingPlan {
    /// First event time, microseconds since 1970.
    pub from_us: i64,
    /// Event times end before it.
    pub to_us: i64,
    /// The moment of training: what becomes known then or later is not used.
    pub known_by_us: i64,
    /// Seed of everything random.
    pub seed: u64,
}

/// How far training is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrainingProgress {
    /// Epochs done, of both stages.
    pub epochs: usize,
    /// Epochs in all.
    pub of: usize,
    /// Mean loss of the last one.
    pub loss: f64,
}

/// A model, and the scorer that folded the recording up to the moment of training.
pub(crate) struct Trained {
    pub(crate) model: Arc<ServedModel>,
    /// Of the same weights; its raw outputs count, not its calibration.
    pub(crate) scorer: Scorer,
    /// Events that the scorer folded.
    pub(crate) folded: usize,
}

/// Trains a model on `recording`. The same recording, options and plan give the same bytes on
/// the same machine. `progress` hears of every epoch.
///
/// candle takes its number of threads from `RAYON_NUM_THREADS`; on operations as small as these,
/// one is fastest by far.
///
/// # Errors
/// [`ScoringError::TooFewRows`] where there is nothing to learn from, [`ScoringError::Option`] for
/// options out of range, [`ScoringError::NotFinite`] where training diverged.
pub fn train(
    recording: &Recording,
    options: &ModelOptions,
    plan: &TrainingPlan,
    progress: &mut dyn FnMut(TrainingProgress),
) -> Result<ServedModel, ScoringError> {
    let Trained { model, scorer, .. } = train_and_fold(recording, options, plan, progress)?;
    drop(scorer);
    Ok(Arc::into_inner(model).expect("the scorer has a model of its own"))
}

/// Rows that give gradients.
pub(crate) struct GradientRows {
    pub(crate) rows: Vec<u32>,
    /// Target of each: 0 or 1, a standardised value, or 0 in a forecast.
    pub(crate) targets: Vec<f32>,
}

/// [`train`], and what was folded for it.
pub(crate) fn train_and_fold(
    recording: &Recording,
    options: &ModelOptions,
    plan: &TrainingPlan,
    progress: &mut dyn FnMut(TrainingProgress),
) -> Result<Trained, ScoringError> {
    let shape = Architecture::new(options, recording.schema(), recording.entities())?;
    let (mut gradient, label) = gradient_rows(recording, options.output, plan)?;
    let front = Front::fit(
        &shape,
        gradient
            .rows
            .iter()
            .map(|&row| recording.features(row as usize)),
    );
    let known = recording.prefix(plan.known_by_us);
    let mut history = History::new(recording, shape.memories.len());
    for known in &mut history.labels {
        known.value = (known.value - label[0]) / label[1];
    }
    for target in &mut gradient.targets {
        *target = (*target - label[0]) / label[1];
    }
    let mut rng = ChaCha8Rng::seed_from_u64(plan.seed);
    let params = Params::new(shape.tensors(), &mut rng)?;
    let mut stages = Stages::new(&shape, recording, &front, &history, &gradient, &params, rng);
    let loss = stages.run(known, progress)?;
    let mut weights = Weights::default();
    params.store(&mut weights)?;
    front.store(&mut weights);
    weights.insert("label", &[2], label.to_vec());
    let raw_scale = Calibration {
        slope: 1.0,
        intercept: 0.0,
    };
    let draft = Draft {
        recording,
        shape: &shape,
        plan,
        gradient: &gradient,
    };
    let uncalibrated = RungCalibrations {
        full: raw_scale,
        no_graph: raw_scale,
        linear: raw_scale,
        rules: raw_scale,
    };
    let metrics = TrainingMetrics {
        loss,
        ..TrainingMetrics::default()
    };
    let model = Arc::new(draft.finish(&mut weights, uncalibrated, metrics)?);
    let mut scorer = Scorer::of_recording(model, recording, 1)?;
    let (calibrations, metrics, folded) = draft.calibrate(&mut scorer, known, label, loss)?;
    let model = Arc::new(draft.finish(&mut weights, calibrations, metrics)?);
    Ok(Trained {
        model,
        scorer,
        folded,
    })
}

/// The rows of the plan, and mean and deviation of their labels (0 and 1 for classes).
fn gradient_rows(
    recording: &Recording,
    output: Output,
    plan: &TrainingPlan,
) -> Result<(GradientRows, [f32; 2]), ScoringError> {
    let times = recording.times_us();
    let inside = |event: usize| times[event] >= plan.from_us && times[event] < plan.to_us;
    if output == Output::Forecast {
        let rows: Vec<u32> = (0..recording.len())
            .filter(|&e| inside(e))
            .map(|e| e as u32)
            .collect();
        if rows.len() < 2 {
            return Err(ScoringError::TooFewRows(format!(
                "{} events in the training range",
                rows.len()
            )));
        }
        let targets = vec![0.0; rows.len()];
        return Ok((GradientRows { rows, targets }, [0.0, 1.0]));
    }
    let known = recording.known_labels(plan.known_by_us);
    let rows: Vec<u32> = (0..recording.len())
        .filter(|&event| inside(event) && !known[event].is_nan())
        .map(|event| event as u32)
        .collect();
    let targets: Vec<f32> = rows.iter().map(|&row| known[row as usize]).collect();
    if rows.is_empty() {
        return Err(ScoringError::TooFewRows(
            "no event of the training range has a label that is known by its end; widen the range \
             or shorten the label delay"
                .to_string(),
        ));
    }
    if output == Output::LogOdds {
        let positives = targets.iter().filter(|&&y| y > 0.5).count();
        if positives == 0 || positives == rows.len() {
            return Err(ScoringError::TooFewRows(format!(
                "{positives} of {} labelled events are positive; both classes are needed",
                rows.len()
            )));
        }
        return Ok((GradientRows { rows, targets }, [0.0, 1.0]));
    }
    let n = targets.len() as f64;
    let mean = targets.iter().map(|&y| f64::from(y)).sum::<f64>() / n;
    let variance = targets
        .iter()
        .map(|&y| (f64::from(y) - mean).powi(2))
        .sum::<f64>()
        / n;
    let deviation = if variance > 1e-12 {
        variance.sqrt()
    } else {
        1.0
    };
    Ok((
        GradientRows { rows, targets },
        [mean as f32, deviation as f32],
    ))
}

/// What a model is written down from.
struct Draft<'a> {
    recording: &'a Recording,
    shape: &'a Architecture,
    plan: &'a TrainingPlan,
    gradient: &'a GradientRows,
}

impl Draft<'_> {
    /// Folds the first `known` events and fits each rung's calibration on the late rows. Also
    /// gives the number of events folded.
    fn calibrate(
        &self,
        scorer: &mut Scorer,
        known: usize,
        label: [f32; 2],
        loss: f64,
    ) -> Result<(RungCalibrations, TrainingMetrics, usize), ScoringError> {
        let output = self.shape.options.output;
        let rungs = [Rung::Full, Rung::NoGraph, Rung::Linear];
        let (first, last) = (
            self.gradient.rows[0],
            self.gradient.rows[self.gradient.rows.len() - 1],
        );
        let mut raw: Vec<Vec<f32>> = vec![Vec::with_capacity(self.gradient.rows.len()); 3];
        let mut next = self.gradient.rows.iter().peekable();
        scorer.fold_recording(self.recording, (0, first as usize), &[], |_, _| {});
        let end = last as usize + 1;
        scorer.fold_recording(
            self.recording,
            (first as usize, end),
            &rungs,
            |event, cells| {
                if next.next_if(|&&row| row as usize == event).is_some() {
                    raw.iter_mut()
                        .zip(cells)
                        .for_each(|(raw, &cell)| raw.push(cell));
                }
            },
        );
        let folded = known.max(end);
        scorer.fold_recording(self.recording, (end, folded), &[], |_, _| {});
        let mut metrics = TrainingMetrics {
            loss,
            ..TrainingMetrics::default()
        };
        let constant = |intercept: f64| Calibration {
            slope: 1.0,
            intercept,
        };
        if output == Output::Forecast {
            let mean = raw[0].iter().map(|&x| f64::from(x)).sum::<f64>() / raw[0].len() as f64;
            let (full, rules) = (constant(0.0), constant(mean));
            return Ok((
                RungCalibrations {
                    full,
                    no_graph: full,
                    linear: full,
                    rules,
                },
                metrics,
                folded,
            ));
        }
        if output == Output::Value {
            let full = Calibration {
                slope: f64::from(label[1]),
                intercept: f64::from(label[0]),
            };
            let rules = constant(full.intercept);
            return Ok((
                RungCalibrations {
                    full,
                    no_graph: full,
                    linear: full,
                    rules,
                },
                metrics,
                folded,
            ));
        }
        let positive: Vec<bool> = self.gradient.targets.iter().map(|&y| y > 0.5).collect();
        let late = positive.len() - (positive.len() as f64 * CALIBRATION_SHARE) as usize;
        let enough = |rows: &[bool]| {
            let positives = rows.iter().filter(|&&p| p).count();
            positives >= CLASS_ROWS_MIN && rows.len() - positives >= CLASS_ROWS_MIN
        };
        let from = if enough(&positive[late..]) { late } else { 0 };
        let fit = |raw: &[f32]| platt(&raw[from..], &positive[from..]);
        let scores: Vec<f64> = raw[0].iter().map(|&x| f64::from(x)).collect();
        metrics.auc = Some(auc(&scores, &positive));
        metrics.average_precision = Some(average_precision(&scores, &positive));
        metrics.calibration_rows = positive.len() - from;
        let positives = positive.iter().filter(|&&p| p).count() as f64;
        let base = (positives / (positive.len() as f64 - positives)).ln();
        let calibrations = RungCalibrations {
            full: fit(&raw[0]),
            no_graph: fit(&raw[1]),
            linear: fit(&raw[2]),
            rules: constant(base),
        };
        Ok((calibrations, metrics, folded))
    }

    /// Weights, calibrations and figures as a model.
    fn finish(
        &self,
        weights: &mut Weights,
        calibrations: RungCalibrations,
        metrics: TrainingMetrics,
    ) -> Result<ServedModel, ScoringError> {
        let RungCalibrations {
            full,
            no_graph,
            linear,
            rules,
        } = calibrations;
        let affine: Vec<f32> = [full, no_graph, linear, rules]
            .iter()
            .flat_map(|c| [c.slope as f32, c.intercept as f32])
            .collect();
        let rounded = |i: usize| Calibration {
            slope: f64::from(affine[2 * i]),
            intercept: f64::from(affine[2 * i + 1]),
        };
        let calibration = RungCalibrations {
            full: rounded(0),
            no_graph: rounded(1),
            linear: rounded(2),
            rules: rounded(3),
        };
        weights.insert("calibration", &[4, 2], affine);
        let bytes = weights.to_bytes().map_err(|e| ScoringError::Folder {
            path: "model.safetensors".to_string(),
            message: e.to_string(),
        })?;
        let schema = self.recording.schema();
        let inputs = schema
            .fields
            .iter()
            .enumerate()
            .map(|(i, field)| ManifestInput {
                name: field.name.clone(),
                data_type: field.data_type.to_string(),
                entity: field.entity,
                from_label: field.from_label,
                used: self.shape.inputs.contains(&i),
            });
        let groups = self
            .shape
            .groups(schema)
            .into_iter()
            .map(|group| ManifestGroup {
                name: group.name,
                features: group
                    .features
                    .iter()
                    .map(|&i| schema.fields[i].name.clone())
                    .collect(),
                context: group
                    .context
                    .iter()
                    .map(|range| [range.start, range.end])
                    .collect(),
            });
        let medians = weights.get("front.medians", &[schema.fields.len()])?;
        let positives = match self.shape.options.output {
            Output::LogOdds => self.gradient.targets.iter().filter(|&&y| y > 0.5).count(),
            Output::Value | Output::Forecast => 0,
        };
        let manifest = Manifest {
            features: schema.hash.to_string(),
            inputs: inputs.collect(),
            output: self.shape.options.output,
            sizes: self.shape.options.clone(),
            entities: self.shape.entities.clone(),
            calibration,
            groups: groups.collect(),
            baseline: medians
                .iter()
                .map(|&m| (!m.is_nan()).then_some(m))
                .collect(),
            training: TrainingRange {
                from_us: self.plan.from_us,
                to_us: self.plan.to_us,
                rows: self.gradient.rows.len(),
                positives,
                seed: self.plan.seed,
                weights: weights.len(),
            },
            metrics,
            weights_sha256: sha256(&bytes),
        };
        ServedModel::new(manifest, weights, bytes)
    }
}
