//! A trained network's way to a model: calibration by a fold of the serving kernels, and the
//! manifest.

use std::sync::Arc;

use sanderling_schemas::{HeldOut, Output, Rung};

use super::{GradientRows, TrainingPlan};
use crate::architecture::Architecture;
use crate::calibration::platt;
use crate::error::ScoringError;
use crate::manifest::{
    Calibration, Manifest, ManifestGroup, ManifestInput, RungCalibrations, TrainingMetrics,
    TrainingRange, Trial,
};
use crate::metrics::{auc, average_precision};
use crate::recording::Recording;
use crate::reliability::Reliability;
use crate::scorer::Scorer;
use crate::served::ServedModel;
use crate::weights::{Weights, sha256};

const RAW_SCALE: Calibration = Calibration {
    slope: 1.0,
    intercept: 0.0,
};

/// The rungs that are calibrated each for itself.
pub(super) const RUNGS: [Rung; 3] = [Rung::Full, Rung::NoGraph, Rung::Linear];

/// Folds the recording up to the last of `rows`: their outputs on each of `rungs`, and the number of
/// events folded.
pub(super) fn outputs(
    recording: &Recording,
    scorer: &mut Scorer,
    rows: &GradientRows,
    rungs: &[Rung],
) -> Result<(Vec<Vec<f32>>, usize), ScoringError> {
    let first = rows.rows[0] as usize;
    let end = rows.rows[rows.rows.len() - 1] as usize + 1;
    let mut raw: Vec<Vec<f32>> = vec![Vec::with_capacity(rows.rows.len()); rungs.len()];
    let mut next = rows.rows.iter().peekable();
    scorer.fold_recording(recording, (0, first), &[], |_, _| {})?;
    scorer.fold_recording(recording, (first, end), rungs, |event, cells| {
        if next.next_if(|&&row| row as usize == event).is_some() {
            raw.iter_mut()
                .zip(cells)
                .for_each(|(raw, &cell)| raw.push(cell));
        }
    })?;
    Ok((raw, end))
}

/// A model's scale, and what was seen when it was fitted.
pub(super) struct Calibrated {
    pub(super) calibrations: RungCalibrations,
    pub(super) metrics: TrainingMetrics,
    pub(super) held_out: Option<HeldOut>,
}

/// What a model is written down from.
pub(super) struct Draft<'a> {
    pub(super) recording: &'a Recording,
    pub(super) shape: &'a Architecture,
    pub(super) plan: &'a TrainingPlan,
    /// All rows of the plan.
    pub(super) gradient: &'a GradientRows,
    /// Mean and deviation of the labels.
    pub(super) label: [f32; 2],
}

impl Draft<'_> {
    /// The scorer of a model without calibration.
    pub(super) fn scorer(&self, weights: &mut Weights) -> Result<Scorer, ScoringError> {
        let uncalibrated = RungCalibrations {
            full: RAW_SCALE,
            no_graph: RAW_SCALE,
            linear: RAW_SCALE,
            rules: RAW_SCALE,
        };
        let uncalibrated = Calibrated {
            calibrations: uncalibrated,
            metrics: TrainingMetrics::default(),
            held_out: None,
        };
        let model = self.finish(weights, uncalibrated, None)?;
        Scorer::of_recording(Arc::new(model), self.recording, 1)
    }

    /// Fits each rung's calibration on `rows`, for which `raw` are the outputs of [`RUNGS`]. Where
    /// they are not all rows of the plan, they were held out.
    pub(super) fn calibrate(&self, raw: &[Vec<f32>], rows: &GradientRows, loss: f64) -> Calibrated {
        let mut held_out = None;
        let mut metrics = TrainingMetrics {
            loss,
            ..TrainingMetrics::default()
        };
        let constant = |intercept: f64| Calibration {
            slope: 1.0,
            intercept,
        };
        let alike = |full: Calibration, rules: Calibration| RungCalibrations {
            full,
            no_graph: full,
            linear: full,
            rules,
        };
        let calibrations = match self.shape.options.output {
            Output::Forecast => {
                let mean = raw[0].iter().map(|&x| f64::from(x)).sum::<f64>() / raw[0].len() as f64;
                alike(RAW_SCALE, constant(mean))
            }
            Output::Value => {
                let full = Calibration {
                    slope: f64::from(self.label[1]),
                    intercept: f64::from(self.label[0]),
                };
                alike(full, constant(full.intercept))
            }
            Output::LogOdds => {
                let positive = rows.positive();
                let scores: Vec<f64> = raw[0].iter().map(|&x| f64::from(x)).collect();
                metrics.auc = Some(auc(&scores, &positive));
                metrics.average_precision = Some(average_precision(&scores, &positive));
                metrics.calibration_rows = positive.len();
                let all = self.gradient.positive();
                let positives = all.iter().filter(|&&p| p).count() as f64;
                let full = platt(&raw[0], &positive);
                if rows.rows.len() < self.gradient.rows.len() {
                    let scores: Vec<f64> = raw[0].iter().map(|&x| full.apply(x)).collect();
                    metrics.reliability = Some(Reliability::new(&scores, &positive));
                    held_out = Some(HeldOut::new(&scores, &positive, self.events_per_day()));
                }
                RungCalibrations {
                    full,
                    no_graph: platt(&raw[1], &positive),
                    linear: platt(&raw[2], &positive),
                    rules: constant((positives / (all.len() as f64 - positives)).ln()),
                }
            }
        };
        Calibrated {
            calibrations,
            metrics,
            held_out,
        }
    }

    /// Events a day, labelled or not, from the first to the last of the plan's rows.
    fn events_per_day(&self) -> f64 {
        const DAY_US: f64 = 86_400e6;
        let (Some(&first), Some(&last)) = (self.gradient.rows.first(), self.gradient.rows.last())
        else {
            return 0.0;
        };
        let times = self.recording.times_us();
        let us = times[last as usize] - times[first as usize];
        f64::from(last - first) * DAY_US / us.max(1) as f64
    }

    /// Weights, calibrations and figures as a model.
    pub(super) fn finish(
        &self,
        weights: &mut Weights,
        calibrated: Calibrated,
        trial: Option<Trial>,
    ) -> Result<ServedModel, ScoringError> {
        let RungCalibrations {
            full,
            no_graph,
            linear,
            rules,
        } = calibrated.calibrations;
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
            metrics: calibrated.metrics,
            held_out: calibrated.held_out,
            trial,
            weights_sha256: sha256(&bytes),
        };
        ServedModel::new(manifest, weights, bytes)
    }
}
