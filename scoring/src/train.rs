//! Training: chronological, from a recording, by truncated backpropagation with stored carries.
//!
//! A class that is rare keeps all its rows in every epoch; of the negatives a share is drawn anew, and
//! weighs as much as all of them. The focal loss turns down what is already told apart.
//!
//! The first stage and the linear map learn first. With the first stage's outputs fixed, the rest
//! learns by gradient rows: events of the training days whose label is known at the moment of
//! training. Each row's past is unrolled a few steps; where the steps begin, the carry is what the
//! serving kernels made of the stream under earlier weights, renewed every few epochs.

mod attend;
mod batch;
mod carries;
mod checkpoints;
mod draft;
mod embed;
mod graph;
mod history;
mod loss;
mod params;
mod recurrence;
mod stages;
mod update;

#[cfg(test)]
mod agreement;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use sanderling_schemas::Output;
use sha2::Digest;

use crate::architecture::Architecture;
use crate::background::Background;
use crate::calibration::CLASS_ROWS_MIN;
use crate::device::TrainingPlacement;
use crate::error::ScoringError;
use crate::front::Front;
use crate::options::ModelOptions;
use crate::recording::Recording;
use crate::scorer::Scorer;
use crate::served::ServedModel;
use crate::weights::Weights;
use draft::{Draft, RUNGS, outputs};
use history::History;
use params::Params;
use stages::Stages;

pub use checkpoints::TrainingCheckpoints;
pub use update::update;

/// Rows from which the long settings of [`crate::TrainingOptions`] hold.
const LONG_ROWS: usize = 300_000;

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
/// the same machine's CPU; a GPU adds up in an order of its own. `progress` hears of every epoch.
///
/// With `checkpoints` it can go on after it was cut off, from the last epoch that was done, and comes to
/// the same model.
///
/// candle takes its number of threads from `RAYON_NUM_THREADS`; on operations as small as these,
/// one is fastest by far.
///
/// # Errors
/// [`ScoringError::TooFewRows`] where there is nothing to learn from, [`ScoringError::Option`] for
/// options out of range, [`ScoringError::NotFinite`] where training diverged,
/// [`ScoringError::OtherTraining`] for checkpoints of another training.
pub fn train(
    recording: &Recording,
    options: &ModelOptions,
    plan: &TrainingPlan,
    checkpoints: Option<&TrainingCheckpoints>,
    progress: &mut dyn FnMut(TrainingProgress),
) -> Result<ServedModel, ScoringError> {
    let trained = train_and_fold(recording, options, plan, checkpoints, progress)?;
    let Trained { model, scorer, .. } = trained;
    drop(scorer);
    Ok(Arc::into_inner(model).expect("the scorer has a model of its own"))
}

/// Rows that give gradients, ascending.
#[derive(Clone)]
pub(crate) struct GradientRows {
    pub(crate) rows: Vec<u32>,
    /// Target of each: 0 or 1, a standardised value, or 0 in a forecast.
    pub(crate) targets: Vec<f32>,
}

impl GradientRows {
    fn positive(&self) -> Vec<bool> {
        self.targets.iter().map(|&y| y > 0.5).collect()
    }

    fn part(&self, range: Range<usize>) -> Self {
        Self {
            rows: self.rows[range.clone()].to_vec(),
            targets: self.targets[range].to_vec(),
        }
    }

    /// Splits off the last `share` of the rows; nothing where either part would have too few rows
    /// of a class.
    fn hold_out(&self, output: Output, share: f64) -> Option<(Self, Self)> {
        let all = self.rows.len();
        let at = all - (all as f64 * share) as usize;
        let (early, late) = (self.part(0..at), self.part(at..all));
        let enough = |part: &Self| match output {
            Output::LogOdds => {
                let positives = part.positive().iter().filter(|&&p| p).count();
                positives >= CLASS_ROWS_MIN && part.rows.len() - positives >= CLASS_ROWS_MIN
            }
            Output::Value => part.rows.len() >= 2 * CLASS_ROWS_MIN,
            Output::Forecast => false,
        };
        (enough(&early) && enough(&late)).then_some((early, late))
    }
}

/// [`train`], and what was folded for it.
///
/// Trial networks, as many as the model will have, learn from all but the last rows of the plan. On those
/// they never saw, the epochs of each are counted (how many are enough) and the calibration of their mean is
/// fitted: a mean of several lies closer together than one of them, so one alone would not do. Then the
/// model's networks learn from all rows, each for as many epochs as its trial. With rows in plenty the trial
/// is left out: the networks themselves never see the last rows.
pub(crate) fn train_and_fold(
    recording: &Recording,
    options: &ModelOptions,
    plan: &TrainingPlan,
    checkpoints: Option<&TrainingCheckpoints>,
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
        (options.output != Output::Forecast).then_some(&gradient.targets[..]),
    );
    let background = background(&shape, recording, &gradient);
    let known = recording.prefix(plan.known_by_us);
    let mut history = History::new(recording, shape.memories.len());
    standardise(
        history.labels.iter_mut().map(|known| &mut known.value),
        label,
    );
    standardise(gradient.targets.iter_mut(), label);
    let long = gradient.rows.len() > LONG_ROWS;
    let task = Task {
        shape: &shape,
        recording,
        front: &front,
        background: &background,
        history: &history,
        label,
        known,
        seed: plan.seed,
        long,
        start: None,
        checkpoints: checkpoints.map(|kept| (kept, key(recording, options, plan, None))),
    };
    let share = options
        .training
        .hold_out
        .unwrap_or(if long { 0.05 } else { 0.15 });
    let held = gradient.hold_out(options.output, share);
    let draft = Draft {
        recording,
        shape: &shape,
        plan,
        gradient: &gradient,
        label,
    };
    let runs = match &held {
        Some(_) if !long => 2,
        _ => 1,
    };
    let (mut epochs, of) = (0, task.epochs() * runs);
    let mut progress = |loss: f64| {
        epochs += 1;
        progress(TrainingProgress { epochs, of, loss });
    };
    let (mut weights, calibrated, scorer, folded) = match &held {
        Some((early, late)) if !long => {
            let trials = task.networks("trial", early, Some(late), None, &mut progress)?;
            let enough: Vec<usize> = trials.iter().map(|trial| trial.epochs).collect();
            let mut scorer = draft.scorer(&mut task.weights(&trials))?;
            let (raw, _) = outputs(recording, &mut scorer, late, &RUNGS)?;
            let calibrated = draft.calibrate(&raw, late, trials[0].loss);
            let networks =
                task.networks("network", &gradient, None, Some(&enough), &mut progress)?;
            let mut weights = task.weights(&networks);
            let scorer = draft.scorer(&mut weights)?;
            (weights, calibrated, scorer, 0)
        }
        held => {
            let (early, late) = match held {
                Some((early, late)) => (early, Some(late)),
                None => (&gradient, None),
            };
            let networks = task.networks("network", early, late, None, &mut progress)?;
            let mut weights = task.weights(&networks);
            let mut scorer = draft.scorer(&mut weights)?;
            let seen = late.unwrap_or(&gradient);
            let (raw, folded) = outputs(recording, &mut scorer, seen, &RUNGS)?;
            let calibrated = draft.calibrate(&raw, seen, networks[0].loss);
            (weights, calibrated, scorer, folded)
        }
    };
    let mut scorer = scorer;
    scorer.fold_recording(recording, (folded, known.max(folded)), &[], |_, _| {})?;
    let model = Arc::new(draft.finish(&mut weights, calibrated, None)?);
    Ok(Trained {
        model,
        scorer,
        folded: known.max(folded),
    })
}

/// What every network of a model learns from.
struct Task<'a> {
    shape: &'a Architecture,
    recording: &'a Recording,
    front: &'a Front,
    background: &'a Background,
    history: &'a History,
    /// Mean and deviation of the labels.
    label: [f32; 2],
    /// Events before the moment of training.
    known: usize,
    seed: u64,
    long: bool,
    /// Weights to go on from.
    start: Option<&'a Weights>,
    /// Where it is kept how far the networks are, and the key of this training.
    checkpoints: Option<(&'a TrainingCheckpoints, String)>,
}

/// A network that has learnt.
struct Network {
    weights: Weights,
    /// Epochs of the second stage that its weights had.
    epochs: usize,
    /// Mean loss of the last epoch.
    loss: f64,
}

impl Task<'_> {
    /// Epochs of both stages.
    fn epochs(&self) -> usize {
        stages::epochs(self.shape, self.long).iter().sum()
    }

    /// Trains the network `member` on `rows`, and keeps by `name` how far it is. With rows `held` out, it
    /// stops where they say; else after `epochs`, or as many as the options say.
    fn network(
        &self,
        (name, member): (&str, u64),
        rows: &GradientRows,
        held: Option<&GradientRows>,
        epochs: Option<usize>,
        progress: &mut dyn FnMut(f64),
    ) -> Result<Network, ScoringError> {
        // Far apart, so that the networks of one seed are not those of the next.
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed ^ (member << 40));
        let placement = TrainingPlacement::of(&self.shape.options.training)?;
        let params = Params::new(self.shape.tensors(), &mut rng, placement)?;
        if let Some(start) = self.start {
            params.load(&start.of_member(member as usize))?;
        }
        let stages = Stages::new(
            self.shape,
            self.recording,
            (self.front, self.background),
            self.history,
            rows,
            &params,
            rng,
            (self.long, epochs, held),
        );
        let checkpoints = self.checkpoints.as_ref();
        let file = checkpoints.map(|(folder, key)| folder.of_network(name, key));
        let (epochs, loss) = stages.kept_in(file).run(self.known, progress)?;
        let mut weights = Weights::default();
        params.store(&mut weights)?;
        Ok(Network {
            weights,
            epochs,
            loss,
        })
    }

    /// Trains all networks side by side, and keeps by `name` and number how far each is; for `epochs` of
    /// each, if given. `progress` hears of the first.
    fn networks(
        &self,
        name: &str,
        rows: &GradientRows,
        held: Option<&GradientRows>,
        epochs: Option<&[usize]>,
        progress: &mut dyn FnMut(f64),
    ) -> Result<Vec<Network>, ScoringError> {
        let members = self.shape.options.members;
        let network = |member: usize, progress: &mut dyn FnMut(f64)| {
            let name = format!("{name}.{member}");
            let epochs = epochs.map(|epochs| epochs[member]);
            self.network((&name, member as u64), rows, held, epochs, progress)
        };
        std::thread::scope(|scope| {
            let network = &network;
            let others: Vec<_> = (1..members)
                .map(|member| scope.spawn(move || network(member, &mut |_| {})))
                .collect();
            let mut networks = vec![network(0, progress)?];
            for other in others {
                networks.push(other.join().expect("training does not panic")?);
            }
            Ok(networks)
        })
    }

    /// All tensors of a model but its calibration.
    fn weights(&self, networks: &[Network]) -> Weights {
        let mut weights = Weights::default();
        for (member, network) in networks.iter().enumerate() {
            weights.insert_member(member, &network.weights);
        }
        self.front.store(&mut weights);
        self.background.store(&mut weights);
        weights.insert("label", &[2], self.label.to_vec());
        weights
    }
}

/// What no input tells of the gradient rows.
fn background(shape: &Architecture, recording: &Recording, gradient: &GradientRows) -> Background {
    let rows = gradient.rows.iter();
    let rows = rows.map(|&row| recording.features(row as usize));
    Background::fit(shape, rows, &gradient.targets)
}

/// Names a training among all others: its rows, options and plan, and the model that it went on from.
fn key(
    recording: &Recording,
    options: &ModelOptions,
    plan: &TrainingPlan,
    start: Option<&ServedModel>,
) -> String {
    checkpoints::key(|hash| {
        recording.digest(hash);
        hash.update(format!("{options:?} {plan:?}"));
        hash.update(start.map_or("", ServedModel::hash));
    })
}

/// Labels by their mean and deviation.
fn standardise<'a>(values: impl Iterator<Item = &'a mut f32>, [mean, deviation]: [f32; 2]) {
    values.for_each(|value| *value = (*value - mean) / deviation);
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
