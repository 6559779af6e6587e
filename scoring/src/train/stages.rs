//! The two stages of training.

use candle_core::{Device, Tensor};
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use sanderling_schemas::Output;

use super::batch::{Source, present};
use super::carries::{Carries, Inputs, scaled};
use super::graph::Graph;
use super::history::History;
use super::loss::{forecast_loss, loss};
use super::params::{Optimiser, Params};
use super::{GradientRows, LONG_ROWS, TrainingProgress};
use crate::architecture::Architecture;
use crate::error::ScoringError;
use crate::first_stage::FirstStage;
use crate::front::Front;
use crate::recording::Recording;
use crate::weights::Weights;

const DAY_US: i64 = 86_400_000_000;
/// Rows that are standardised together.
const CHUNK: usize = 1024;

/// Training under way.
pub(crate) struct Stages<'a> {
    shape: &'a Architecture,
    recording: &'a Recording,
    front: &'a Front,
    history: &'a History,
    gradient: &'a GradientRows,
    params: &'a Params,
    rng: ChaCha8Rng,
    epochs: usize,
    batch: usize,
    negatives: f64,
}

/// A row of an epoch: its place among the gradient rows, and its weight.
type Drawn = (u32, f32);

impl<'a> Stages<'a> {
    pub(crate) fn new(
        shape: &'a Architecture,
        recording: &'a Recording,
        front: &'a Front,
        history: &'a History,
        gradient: &'a GradientRows,
        params: &'a Params,
        rng: ChaCha8Rng,
    ) -> Self {
        let options = &shape.options.training;
        let long = gradient.rows.len() > LONG_ROWS;
        let negatives = match shape.options.output {
            Output::LogOdds => options.negatives.unwrap_or(if long { 0.1 } else { 0.3 }),
            Output::Value | Output::Forecast => 1.0,
        };
        let epochs = options.epochs.unwrap_or(if long { 10 } else { 12 });
        let batch = options.batch.unwrap_or(if long { 512 } else { 256 });
        Self {
            shape,
            recording,
            front,
            history,
            gradient,
            params,
            rng,
            epochs,
            batch,
            negatives,
        }
    }

    /// Trains all tensors; `known` events come before the moment of training. Gives back the mean
    /// loss of the last epoch.
    pub(crate) fn run(
        &mut self,
        known: usize,
        progress: &mut dyn FnMut(TrainingProgress),
    ) -> Result<f64, ScoringError> {
        let forecast = self.shape.options.output == Output::Forecast;
        let first_epochs = if forecast { 0 } else { self.epochs.div_ceil(2) };
        let of = first_epochs + self.epochs;
        let mut done = 0;
        let mut report = |loss: f64| {
            done += 1;
            progress(TrainingProgress {
                epochs: done,
                of,
                loss,
            });
        };
        if !forecast {
            self.first_stage(first_epochs, &mut report)?;
        }
        let inputs = self.inputs(known)?;
        self.second_stage(&inputs, &mut report)
    }

    /// The rows of an epoch in a fresh order: all but the negatives that were not drawn.
    fn draw(&mut self) -> Vec<Drawn> {
        let mut rows: Vec<Drawn> = Vec::new();
        for (place, &target) in self.gradient.targets.iter().enumerate() {
            if self.negatives >= 1.0 || target > 0.5 {
                rows.push((place as u32, 1.0));
            } else if self.rng.random_bool(self.negatives) {
                rows.push((place as u32, (1.0 / self.negatives) as f32));
            }
        }
        rows.shuffle(&mut self.rng);
        rows
    }

    fn epoch_steps(&self) -> usize {
        let drawn = self
            .gradient
            .targets
            .iter()
            .map(|&y| if y > 0.5 { 1.0 } else { self.negatives });
        (drawn.sum::<f64>() / self.batch as f64).ceil() as usize
    }

    /// Events, targets and weights of drawn rows; the last two rows x 1.
    fn targets(&self, drawn: &[Drawn]) -> Result<(Vec<u32>, Tensor, Tensor), ScoringError> {
        let column = |values: Vec<f32>| Tensor::from_vec(values, (drawn.len(), 1), &Device::Cpu);
        let events = drawn
            .iter()
            .map(|&(place, _)| self.gradient.rows[place as usize])
            .collect();
        let targets = drawn
            .iter()
            .map(|&(place, _)| self.gradient.targets[place as usize])
            .collect();
        Ok((
            events,
            column(targets)?,
            column(drawn.iter().map(|&(_, weight)| weight).collect())?,
        ))
    }

    fn first_stage(
        &mut self,
        epochs: usize,
        report: &mut dyn FnMut(f64),
    ) -> Result<(), ScoringError> {
        let (options, output) = (&self.shape.options.training, self.shape.options.output);
        let graph = Graph {
            shape: self.shape,
            params: self.params,
        };
        let mut optimiser =
            Optimiser::new(self.params, true, options, epochs * self.epoch_steps())?;
        for _ in 0..epochs {
            let drawn = self.draw();
            let (mut sum, mut steps) = (0.0, 0.0);
            for drawn in drawn.chunks(self.batch) {
                let (events, target, weight) = self.targets(drawn)?;
                let present = present(
                    self.shape,
                    self.recording,
                    self.front,
                    &events,
                    &self.shape.first,
                )?;
                let first = loss(
                    output,
                    &graph.first_stage(&present)?,
                    &target,
                    &weight,
                    options.focal,
                )?;
                let linear = loss(
                    output,
                    &graph.linear(&present)?,
                    &target,
                    &weight,
                    options.focal,
                )?;
                sum += optimiser.step(self.params, &(first + linear)?)? / 2.0;
                steps += 1.0;
            }
            report(sum / steps);
        }
        optimiser.finish(self.params)
    }

    /// Standardised inputs and first stage of the events that gradients can reach or that the
    /// stored carries are folded over.
    pub(super) fn inputs(&self, known: usize) -> Result<Inputs, ScoringError> {
        let options = &self.shape.options;
        let times = self.recording.times_us();
        let start = times[self.gradient.rows[0] as usize];
        let since = start.saturating_sub(i64::from(options.training.refresh_days) * DAY_US);
        let first = times[..self.gradient.rows[0] as usize]
            .iter()
            .position(|&time| time >= since);
        let first = first.unwrap_or(self.gradient.rows[0] as usize);
        let forecast = options.output == Output::Forecast;
        let mut weights = Weights::default();
        self.params.store(&mut weights)?;
        let stage = match forecast {
            true => None,
            false => Some(FirstStage::load(self.shape, self.front, &weights)?),
        };
        let mut inputs = Inputs {
            first,
            z: Vec::new(),
            first_stage: Vec::new(),
        };
        let mut features = Vec::new();
        for from in (first..known).step_by(CHUNK) {
            let to = (from + CHUNK).min(known);
            features.clear();
            for event in from..to {
                features.extend_from_slice(self.recording.features(event));
            }
            let rows = self.front.standardise(&features);
            match &stage {
                Some(stage) => inputs
                    .first_stage
                    .extend(scaled(&stage.outputs(rows.all()))),
                None => inputs
                    .first_stage
                    .extend(std::iter::repeat_n(0.0, to - from)),
            }
            for z in rows.z.chunks_exact(self.shape.inputs.len()) {
                inputs
                    .z
                    .extend(self.shape.remembered.iter().map(|&input| z[input]));
            }
        }
        Ok(inputs)
    }

    fn second_stage(
        &mut self,
        inputs: &Inputs,
        report: &mut dyn FnMut(f64),
    ) -> Result<f64, ScoringError> {
        let options = self.shape.options.training.clone();
        let output = self.shape.options.output;
        let graph = Graph {
            shape: self.shape,
            params: self.params,
        };
        let every: Vec<usize> = (0..self.shape.inputs.len()).collect();
        let mut optimiser = Optimiser::new(
            self.params,
            false,
            &options,
            self.epochs * self.epoch_steps(),
        )?;
        let mut carries = Carries::default();
        let mut mean = f64::NAN;
        for epoch in 0..self.epochs {
            if epoch % options.refresh_epochs == 1 % options.refresh_epochs {
                let mut weights = Weights::default();
                self.params.store(&mut weights)?;
                carries =
                    Carries::fold(self.shape, self.recording, self.history, inputs, &weights)?;
            }
            let source = Source {
                shape: self.shape,
                recording: self.recording,
                history: self.history,
                inputs,
                carries: &carries,
            };
            let drawn = self.draw();
            let (mut sum, mut steps) = (0.0, 0.0);
            for drawn in drawn.chunks(self.batch) {
                let (events, target, weight) = self.targets(drawn)?;
                let present = present(self.shape, self.recording, self.front, &events, &every)?;
                let total = if output == Output::Forecast {
                    let forecast = graph.forecast(&source.own(&events)?)?;
                    forecast_loss(&forecast, &present.z, &present.missing)?
                } else {
                    let mut pasts = vec![source.own(&events)?];
                    for m in 1..self.shape.memories.len() {
                        pasts.push(source.endpoint(m, &events)?);
                    }
                    let keep = 1.0 - options.dropout;
                    let rng = &mut self.rng;
                    let mut dropout = |x: &Tensor| -> Result<Tensor, ScoringError> {
                        let kept = (0..x.elem_count())
                            .map(|_| {
                                if rng.random::<f32>() < keep as f32 {
                                    1.0 / keep as f32
                                } else {
                                    0.0
                                }
                            })
                            .collect();
                        Ok((x * Tensor::from_vec(kept, x.shape(), &Device::Cpu)?)?)
                    };
                    let raws = graph.heads(&present, &pasts, Some(&mut dropout))?;
                    let full = loss(output, &raws[0], &target, &weight, options.focal)?;
                    match raws.get(1) {
                        Some(raw) => {
                            let no_graph = loss(output, raw, &target, &weight, options.focal)?;
                            (full + (no_graph * options.no_graph_weight)?)?
                        }
                        None => full,
                    }
                };
                sum += optimiser.step(self.params, &total)?;
                steps += 1.0;
            }
            mean = sum / steps;
            report(mean);
        }
        optimiser.finish(self.params)?;
        Ok(mean)
    }
}
