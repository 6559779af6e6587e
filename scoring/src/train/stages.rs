//! The two stages of training.
//!
//! *Early stopping* here picks weights, and saves no time. A trial runs all its epochs, keeps the averaged weights
//! after each, and then takes those of the epoch that `enough` names; a network of all rows is trained for as many.
//! No rule that stops sooner takes the same epoch for sure: the rate falls by a cosine over all epochs, and what
//! is lost while it is high is won back when it is low. On a stream of `fixtures::payments` two epochs in a row
//! lay above the best so far by 4.3 and 3.4 standard errors, and three epochs later the loss was lower than ever.

use candle_core::Tensor;
use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use sanderling_schemas::Output;

use super::GradientRows;
use super::batch::{Present, Source, present};
use super::carries::{Carries, Inputs, scaled};
use super::checkpoints::{Checkpoint, CheckpointFile};
use super::graph::Graph;
use super::history::History;
use super::loss::{Targets, forecast_loss, log_loss, loss};
use super::params::{Optimiser, Params};
use crate::architecture::Architecture;
use crate::background::Background;
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
    background: &'a Background,
    history: &'a History,
    gradient: &'a GradientRows,
    params: &'a Params,
    rng: ChaCha8Rng,
    held: Option<&'a GradientRows>,
    checkpoints: Option<CheckpointFile>,
    first_epochs: usize,
    epochs: usize,
    batch: usize,
    negatives: f64,
}

/// Epochs of the first and of the second stage.
pub(super) fn epochs(shape: &Architecture, long: bool) -> [usize; 2] {
    let options = &shape.options.training;
    let epochs = options.epochs.unwrap_or(if long { 10 } else { 16 });
    match shape.options.output {
        Output::Forecast => [0, epochs],
        _ => [epochs.div_ceil(2), epochs],
    }
}

/// Which epoch to keep, counted from 1, given the losses of the held-out rows after each: the last
/// that cannot be told from the best, its mean no more than one standard error of the difference
/// above. A noisy dip stops nothing.
fn enough(losses: &[Vec<f64>]) -> usize {
    let mean = |row: &[f64]| row.iter().sum::<f64>() / row.len() as f64;
    let means: Vec<f64> = losses.iter().map(|row| mean(row)).collect();
    let Some(best) = (0..means.len()).min_by(|&a, &b| means[a].total_cmp(&means[b])) else {
        return 0;
    };
    let close = |epoch: &usize| {
        let gaps: Vec<f64> = losses[*epoch]
            .iter()
            .zip(&losses[best])
            .map(|(later, best)| later - best)
            .collect();
        let gap = mean(&gaps);
        let n = gaps.len() as f64;
        let variance = gaps.iter().map(|x| (x - gap).powi(2)).sum::<f64>() / (n - 1.0).max(1.0);
        gap <= (variance / n).sqrt()
    };
    (best..means.len()).rev().find(close).unwrap_or(best) + 1
}

/// A row of an epoch: its place among the gradient rows, and its weight.
type Drawn = (u32, f32);

impl<'a> Stages<'a> {
    /// For `gradient` rows: the settings of many rows if `long`, with another number of epochs for
    /// the second stage if given, and with rows that are held out.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn new(
        shape: &'a Architecture,
        recording: &'a Recording,
        (front, background): (&'a Front, &'a Background),
        history: &'a History,
        gradient: &'a GradientRows,
        params: &'a Params,
        rng: ChaCha8Rng,
        (long, second_epochs, held): (bool, Option<usize>, Option<&'a GradientRows>),
    ) -> Self {
        let options = &shape.options.training;
        let negatives = match shape.options.output {
            Output::LogOdds => options.negatives.unwrap_or(if long { 0.1 } else { 0.3 }),
            Output::Value | Output::Forecast => 1.0,
        };
        let [first_epochs, all_epochs] = epochs(shape, long);
        Self {
            shape,
            recording,
            front,
            background,
            history,
            gradient,
            params,
            rng,
            held,
            checkpoints: None,
            first_epochs,
            epochs: second_epochs.unwrap_or(all_epochs),
            batch: options.batch.unwrap_or(if long { 512 } else { 256 }),
            negatives,
        }
    }

    /// Keeps how far it is in `file`, and goes on from what is there.
    pub(super) fn kept_in(mut self, file: Option<CheckpointFile>) -> Self {
        self.checkpoints = file;
        self
    }

    /// Trains all tensors; `known` events come before the moment of training. Gives back the epochs
    /// of the second stage that the tensors have had, and the mean loss of the last.
    pub(crate) fn run(
        &mut self,
        known: usize,
        report: &mut dyn FnMut(f64),
    ) -> Result<(usize, f64), ScoringError> {
        let kept = self.checkpoints.as_ref().map(CheckpointFile::load);
        let begun = kept.transpose()?.flatten();
        match &begun {
            Some(begun) => {
                self.params.load(&begun.tensors)?;
                self.rng = begun.rng.clone();
                (0..self.first_epochs + begun.epochs).for_each(|_| report(begun.loss));
            }
            None if self.first_epochs > 0 => self.first_stage(report)?,
            None => {}
        }
        let inputs = self.inputs(known)?;
        self.second_stage(&inputs, begun, report)
    }

    /// All tensors as they are.
    fn tensors(&self) -> Result<Weights, ScoringError> {
        let mut weights = Weights::default();
        self.params.store(&mut weights)?;
        Ok(weights)
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

    /// Background of an event.
    fn background(&self, event: u32) -> f32 {
        let features = self.recording.features(event as usize);
        self.background.of(self.shape, features)
    }

    /// Drawn rows: their events, and what is wanted of them.
    fn targets(&self, drawn: &[Drawn]) -> Result<(Vec<u32>, Targets), ScoringError> {
        let device = self.params.device();
        let column = |values: Vec<f32>| Tensor::from_vec(values, (drawn.len(), 1), device);
        let events: Vec<u32> = drawn
            .iter()
            .map(|&(place, _)| self.gradient.rows[place as usize])
            .collect();
        let targets = drawn
            .iter()
            .map(|&(place, _)| self.gradient.targets[place as usize])
            .collect();
        let background = match self.background.is_none() {
            true => None,
            false => Some(column(
                events.iter().map(|&event| self.background(event)).collect(),
            )?),
        };
        let targets = Targets {
            target: column(targets)?,
            weight: column(drawn.iter().map(|&(_, weight)| weight).collect())?,
            background,
        };
        Ok((events, targets))
    }

    /// The present of `events` for the inputs `used`.
    fn present(&self, events: &[u32], used: &[usize]) -> Result<Present, ScoringError> {
        let device = self.params.device();
        present(device, self.shape, self.recording, self.front, events, used)
    }

    fn first_stage(&mut self, report: &mut dyn FnMut(f64)) -> Result<(), ScoringError> {
        let epochs = self.first_epochs;
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
                let (events, targets) = self.targets(drawn)?;
                let present = self.present(&events, &self.shape.first)?;
                let of = |raw: &Tensor| loss(output, raw, &targets, options.focal);
                let first = of(&graph.first_stage(&present)?)?;
                let linear = of(&graph.linear(&present)?)?;
                let step = optimiser.step(self.params, &(first + linear)?);
                sum += step.map_err(|e| self.diagnose(e, &events))? / 2.0;
                steps += 1.0;
            }
            report(sum / steps);
        }
        optimiser.average(self.params)?;
        Ok(())
    }

    /// Says of numbers that are not finite which tensor they are in, and which event of the step is
    /// farthest from the rest and by which feature.
    fn diagnose(&self, error: ScoringError, events: &[u32]) -> ScoringError {
        let ScoringError::NotFinite { stage, step, what } = error else {
            return error;
        };
        let tensor = match self.params.most_extreme() {
            Ok(tensor) => tensor,
            Err(error) => return error,
        };
        let columns = &self.shape.inputs;
        let mut farthest = (0.0, events[0], columns[0]);
        for &event in events {
            let features = self.recording.features(event as usize);
            let rows = self.front.standardise(features);
            for ((&log, &z), &column) in rows.logs.iter().zip(&rows.z).zip(columns) {
                // Beyond the clip, the larger number counts.
                let far = f64::from(z.abs()) * 1e3 + f64::from(log.abs());
                if far > farthest.0 {
                    farthest = (far, event, column);
                }
            }
        }
        let (_, event, column) = farthest;
        let value = self.recording.features(event as usize)[column];
        let name = &self.recording.schema().fields[column].name;
        let sequence = self.recording.sequences()[event as usize];
        ScoringError::NotFinite {
            stage,
            step,
            what: format!(
                "{what} (tensor {tensor}; of the step's rows, event {sequence} is farthest from the \
                 others, its {name} being {value})"
            ),
        }
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
        let stage = match forecast {
            true => None,
            false => Some(FirstStage::load(self.shape, self.front, &self.tensors()?)?),
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

    /// From where it was, if it was `begun`.
    fn second_stage(
        &mut self,
        inputs: &Inputs,
        begun: Option<Checkpoint>,
        report: &mut dyn FnMut(f64),
    ) -> Result<(usize, f64), ScoringError> {
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
        let fold =
            |by: &Weights| Carries::fold(self.shape, self.recording, self.history, inputs, by);
        let (mut done, mut mean, mut folded_by) = (0, f64::NAN, None);
        let (mut losses, mut averages) = (Vec::new(), Vec::new());
        if let Some(begun) = begun {
            optimiser.restore((begun.steps, begun.moments));
            (done, mean, folded_by) = (begun.epochs, begun.loss, begun.folded_by);
            (losses, averages) = (begun.losses, begun.averages);
        }
        let mut carries = folded_by
            .as_ref()
            .map(fold)
            .transpose()?
            .unwrap_or_default();
        for epoch in done..self.epochs {
            if epoch % options.refresh_epochs == 1 % options.refresh_epochs {
                let tensors = self.tensors()?;
                carries = fold(&tensors)?;
                folded_by = Some(tensors);
            }
            let source = Source {
                device: self.params.device(),
                shape: self.shape,
                recording: self.recording,
                history: self.history,
                inputs,
                carries: &carries,
            };
            let drawn = self.draw();
            let (mut sum, mut steps) = (0.0, 0.0);
            for drawn in drawn.chunks(self.batch) {
                let (events, targets) = self.targets(drawn)?;
                let present = self.present(&events, &every)?;
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
                        Ok((x * Tensor::from_vec(kept, x.shape(), x.device())?)?)
                    };
                    let raws = graph.heads(&present, &pasts, Some(&mut dropout))?;
                    let full = loss(output, &raws[0], &targets, options.focal)?;
                    match raws.get(1) {
                        Some(raw) => {
                            let no_graph = loss(output, raw, &targets, options.focal)?;
                            (full + (no_graph * options.no_graph_weight)?)?
                        }
                        None => full,
                    }
                };
                sum += optimiser
                    .step(self.params, &total)
                    .map_err(|e| self.diagnose(e, &events))?;
                steps += 1.0;
            }
            mean = sum / steps;
            if let Some(held) = self.held {
                averages.push(optimiser.average(self.params)?);
                losses.push(self.held_losses(&source, held)?);
                optimiser.go_on(self.params)?;
            }
            if let Some(file) = &self.checkpoints {
                let (steps, moments) = optimiser.state();
                file.save(&Checkpoint {
                    epochs: epoch + 1,
                    loss: mean,
                    rng: self.rng.clone(),
                    tensors: self.tensors()?,
                    steps,
                    moments,
                    folded_by: folded_by.clone(),
                    losses: losses.clone(),
                    averages: averages.clone(),
                })?;
            }
            report(mean);
        }
        if self.held.is_none() {
            optimiser.average(self.params)?;
            return Ok((self.epochs, mean));
        }
        let epochs = enough(&losses);
        self.params.restore(&averages[epochs - 1])?;
        Ok((epochs, mean))
    }

    /// Loss of each held-out row: its log loss, or its squared error.
    fn held_losses(
        &self,
        source: &Source<'_>,
        held: &GradientRows,
    ) -> Result<Vec<f64>, ScoringError> {
        let graph = Graph {
            shape: self.shape,
            params: self.params,
        };
        let every: Vec<usize> = (0..self.shape.inputs.len()).collect();
        let mut losses = Vec::with_capacity(held.rows.len());
        for (rows, targets) in held.rows.chunks(CHUNK).zip(held.targets.chunks(CHUNK)) {
            let present = self.present(rows, &every)?;
            let mut pasts = vec![source.own(rows)?];
            for m in 1..self.shape.memories.len() {
                pasts.push(source.endpoint(m, rows)?);
            }
            let raws = graph.heads(&present, &pasts, None)?;
            let raw: Vec<f32> = raws[0].flatten_all()?.to_vec1()?;
            losses.extend(
                raw.iter()
                    .zip(targets)
                    .zip(rows)
                    .map(|((&raw, &target), &row)| {
                        let (raw, target) = (f64::from(raw), f64::from(target));
                        match self.shape.options.output {
                            Output::LogOdds => log_loss(raw, target, self.background(row).into()),
                            Output::Value | Output::Forecast => (raw - target).powi(2),
                        }
                    }),
            );
        }
        Ok(losses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_noisy_dip_stops_nothing_and_a_rise_does() {
        let rows = |mean: f64, noise: f64| -> Vec<f64> {
            (0..100)
                .map(|row| mean + noise * if row % 2 == 0 { 1.0 } else { -1.0 })
                .collect()
        };
        // The second epoch is best by less than its rows differ.
        let flat = [rows(0.5, 0.1), rows(0.499, 0.3), rows(0.5, 0.1)];
        assert_eq!(enough(&flat), 3);
        let rising = [rows(0.5, 0.1), rows(0.4, 0.1), rows(0.45, 0.11)];
        assert_eq!(enough(&rising), 2);
        assert_eq!(enough(&[rows(0.5, 0.0)]), 1);
    }
}
