//! Trainable tensors and the optimiser that moves them.

use std::collections::BTreeMap;

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use sanderling_state::{Persist, StateError};

use crate::architecture::{Init, TensorSpec};
use crate::device::TrainingPlacement;
use crate::error::ScoringError;
use crate::options::TrainingOptions;
use crate::weights::Weights;

/// Tensors that gradients reach, by name.
pub(crate) struct Params {
    specs: Vec<TensorSpec>,
    vars: Vec<Var>,
    places: BTreeMap<String, usize>,
    placement: TrainingPlacement,
}

impl Params {
    /// Fresh tensors where `placement` says.
    pub(crate) fn new(
        specs: Vec<TensorSpec>,
        rng: &mut ChaCha8Rng,
        placement: TrainingPlacement,
    ) -> Result<Self, ScoringError> {
        let mut vars = Vec::with_capacity(specs.len());
        for spec in &specs {
            let n: usize = spec.shape.iter().product();
            let values: Vec<f32> = match spec.init {
                Init::Zero => vec![0.0; n],
                Init::FanIn(inputs) => {
                    let bound = 1.0 / (inputs.max(1) as f32).sqrt();
                    (0..n).map(|_| rng.random_range(-bound..bound)).collect()
                }
                Init::Forget => (0..n)
                    .map(|i| if i / (n / 4) == 1 { 1.0 } else { 0.0 })
                    .collect(),
            };
            let tensor = Tensor::from_vec(values, spec.shape.as_slice(), placement.device())?;
            vars.push(Var::from_tensor(&tensor)?);
        }
        let places = specs
            .iter()
            .enumerate()
            .map(|(i, spec)| (spec.name.clone(), i))
            .collect();
        Ok(Self {
            specs,
            vars,
            places,
            placement,
        })
    }

    /// Where the tensors are.
    pub(crate) fn device(&self) -> &Device {
        self.placement.device()
    }

    /// Where the graph is computed, and with which numbers.
    pub(crate) fn placement(&self) -> &TrainingPlacement {
        &self.placement
    }

    /// A tensor by name.
    pub(crate) fn get(&self, name: &str) -> &Tensor {
        let place = self.places.get(name);
        self.vars[*place.expect("the graph asks for the architecture's tensors alone")].as_tensor()
    }

    /// The first tensor with a number that is not finite, or else the one with the largest.
    pub(crate) fn most_extreme(&self) -> Result<&str, ScoringError> {
        let mut worst = ("", f32::NEG_INFINITY);
        for (spec, var) in self.specs.iter().zip(&self.vars) {
            let values: Vec<f32> = var.flatten_all()?.to_vec1()?;
            if values.iter().any(|x| !x.is_finite()) {
                return Ok(&spec.name);
            }
            let largest = values.iter().fold(0.0f32, |most, x| most.max(x.abs()));
            if largest > worst.1 {
                worst = (&spec.name, largest);
            }
        }
        Ok(worst.0)
    }

    /// Copies all tensors to `weights`.
    pub(crate) fn store(&self, weights: &mut Weights) -> Result<(), ScoringError> {
        for (spec, var) in self.specs.iter().zip(&self.vars) {
            weights.insert(&*spec.name, &spec.shape, var.flatten_all()?.to_vec1()?);
        }
        Ok(())
    }

    /// Takes all tensors from `weights`.
    pub(crate) fn load(&self, weights: &Weights) -> Result<(), ScoringError> {
        for (place, spec) in self.specs.iter().enumerate() {
            self.set(place, weights.get(&spec.name, &spec.shape)?)?;
        }
        Ok(())
    }

    /// Puts values back, one list a tensor that has one.
    pub(crate) fn restore(&self, values: &[(usize, Vec<f32>)]) -> Result<(), ScoringError> {
        for (place, values) in values {
            self.set(*place, values)?;
        }
        Ok(())
    }

    fn set(&self, place: usize, values: &[f32]) -> Result<(), ScoringError> {
        let tensor = Tensor::from_slice(values, self.specs[place].shape.as_slice(), self.device())?;
        Ok(self.vars[place].set(&tensor)?)
    }
}

/// AdamW (Loshchilov and Hutter 2019, algorithm 2) with clipping by global norm, warm-up and
/// cosine, and a moving average of the weights.
pub(crate) struct Optimiser {
    options: TrainingOptions,
    stage: &'static str,
    steps: usize,
    step: usize,
    moments: Vec<Moments>,
}

/// What the optimiser keeps of one tensor.
#[derive(Debug, Clone)]
pub(super) struct Moments {
    place: usize,
    values: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
    average: Vec<f32>,
}

impl Moments {
    /// Before the first step.
    pub(super) fn new(place: usize, values: Vec<f32>) -> Self {
        let zero = vec![0.0; values.len()];
        Self {
            place,
            values,
            first: zero.clone(),
            second: zero.clone(),
            average: zero,
        }
    }
}

impl Persist for Moments {
    fn write(&self, out: &mut Vec<u8>) {
        (self.place as u64).write(out);
        let lists = [&self.values, &self.first, &self.second, &self.average];
        lists.iter().for_each(|list| list.write(out));
    }

    fn read(input: &mut &[u8]) -> Result<Self, StateError> {
        Ok(Self {
            place: u64::read(input)? as usize,
            values: Vec::read(input)?,
            first: Vec::read(input)?,
            second: Vec::read(input)?,
            average: Vec::read(input)?,
        })
    }
}

const BETAS: (f64, f64) = (0.9, 0.99);
const EPSILON: f64 = 1e-8;

impl Optimiser {
    /// For the tensors of one stage, over `steps` steps.
    pub(crate) fn new(
        params: &Params,
        first_stage: bool,
        options: &TrainingOptions,
        steps: usize,
    ) -> Result<Self, ScoringError> {
        let mut moments = Vec::new();
        for (place, spec) in params.specs.iter().enumerate() {
            if spec.first_stage == first_stage {
                let values: Vec<f32> = params.vars[place].flatten_all()?.to_vec1()?;
                moments.push(Moments::new(place, values));
            }
        }
        let stage = if first_stage {
            "the first stage"
        } else {
            "the second stage"
        };
        Ok(Self {
            options: options.clone(),
            stage,
            steps,
            step: 0,
            moments,
        })
    }

    /// Steps taken, and what is kept of each tensor.
    pub(super) fn state(&self) -> (usize, Vec<Moments>) {
        (self.step, self.moments.clone())
    }

    /// Goes on from a [`Optimiser::state`]; the tensors are those of then.
    pub(super) fn restore(&mut self, (step, moments): (usize, Vec<Moments>)) {
        (self.step, self.moments) = (step, moments);
    }

    fn rate(&self) -> f64 {
        let warm = (self.options.warm_up * self.steps as f64).max(1.0);
        let at = self.step as f64;
        if at < warm {
            return self.options.rate * (at + 1.0) / warm;
        }
        let part = (at - warm) / (self.steps as f64 - warm).max(1.0);
        self.options.rate * 0.5 * (1.0 + (std::f64::consts::PI * part.min(1.0)).cos())
    }

    /// One step along the gradients of `loss`; gives back the loss.
    pub(crate) fn step(&mut self, params: &Params, loss: &Tensor) -> Result<f64, ScoringError> {
        let value = f64::from(loss.to_scalar::<f32>()?);
        let not_finite = |what: &str| ScoringError::NotFinite {
            stage: self.stage,
            step: self.step,
            what: what.to_string(),
        };
        if !value.is_finite() {
            return Err(not_finite("the loss"));
        }
        let by = params.placement.loss_scale();
        let grads: GradStore = match by {
            1.0 => loss.backward()?,
            by => (loss * by)?.backward()?,
        };
        let mut all = Vec::with_capacity(self.moments.len());
        let mut square = 0.0;
        for moments in &self.moments {
            let grad: Option<Vec<f32>> = match grads.get(&params.vars[moments.place]) {
                Some(grad) => Some(grad.flatten_all()?.to_vec1()?),
                None => None,
            };
            if let Some(grad) = &grad {
                let own: f64 = grad.iter().map(|&g| f64::from(g) * f64::from(g)).sum();
                if !own.is_finite() {
                    let name = &params.specs[moments.place].name;
                    return Err(not_finite(&format!("the gradient of {name}")));
                }
                square += own;
            }
            all.push(grad);
        }
        let norm = square.sqrt() / by;
        let scale = if norm > self.options.clip {
            self.options.clip / norm / by
        } else {
            1.0 / by
        } as f32;
        let rate = self.rate();
        self.step += 1;
        let bias_first = 1.0 - BETAS.0.powi(self.step as i32);
        let bias_second = 1.0 - BETAS.1.powi(self.step as i32);
        for (moments, grad) in self.moments.iter_mut().zip(all) {
            let place = moments.place;
            let matrix = params.specs[place].shape.len() > 1;
            let decay = if matrix {
                (rate * self.options.decay) as f32
            } else {
                0.0
            };
            let keep = self.options.average as f32;
            for i in 0..moments.values.len() {
                let g = grad.as_ref().map_or(0.0, |grad| grad[i] * scale);
                let first = BETAS.0 as f32 * moments.first[i] + (1.0 - BETAS.0) as f32 * g;
                let second = BETAS.1 as f32 * moments.second[i] + (1.0 - BETAS.1) as f32 * g * g;
                moments.first[i] = first;
                moments.second[i] = second;
                let root = (f64::from(second) / bias_second).sqrt() + EPSILON;
                let change = rate * (f64::from(first) / bias_first) / root;
                let value = moments.values[i] * (1.0 - decay) - change as f32;
                moments.values[i] = value;
                moments.average[i] = keep * moments.average[i] + (1.0 - keep) * value;
            }
            params.set(place, &moments.values)?;
        }
        Ok(value)
    }

    /// Leaves the moving average in the tensors, and gives it back too.
    pub(crate) fn average(&self, params: &Params) -> Result<Vec<(usize, Vec<f32>)>, ScoringError> {
        let weight = 1.0 - self.options.average.powi(self.step as i32);
        let averages = self.moments.iter().map(|moments| {
            let values = moments.average.iter();
            let values = values.map(|&x| (f64::from(x) / weight) as f32).collect();
            (moments.place, values)
        });
        let averages: Vec<_> = averages.collect();
        params.restore(&averages)?;
        Ok(averages)
    }

    /// Puts the tensors where the last step left them.
    pub(crate) fn go_on(&self, params: &Params) -> Result<(), ScoringError> {
        for moments in &self.moments {
            params.set(moments.place, &moments.values)?;
        }
        Ok(())
    }
}
