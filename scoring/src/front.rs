//! The numeric front: raw features to numbers that a network can take.
//!
//! A feature becomes `v = sign(x) ln(1 + |x|)`; from it a z-score clipped at 5, a missing flag and
//! a piecewise-linear embedding (Gorishniy et al. 2022, "On embeddings for numerical features",
//! equation 1) over bins whose edges (`edges`) come, like all statistics, from the training rows alone.

mod edges;
mod embedding;

pub(crate) use embedding::Embedding;

use edges::{quantile, splits};

use crate::architecture::{Architecture, TAIL_QUANTILES};
use crate::error::ScoringError;
use crate::kernels::activation;
use crate::weights::Weights;

/// Largest z-score.
const CLIP: f32 = 5.0;

/// Statistics of the inputs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Front {
    /// Columns of a feature row.
    columns: usize,
    /// Columns that are inputs.
    inputs: Vec<usize>,
    mean: Vec<f32>,
    /// Standard deviation; 1 where the input is constant.
    deviation: Vec<f32>,
    /// inputs x (bins + 1), ascending and distinct, then infinity.
    edges: Vec<f32>,
    bins: usize,
    /// Median of each column in its own units, NaN where most are NULL.
    medians: Vec<f32>,
}

/// Inputs after the front, rows x inputs each.
#[derive(Debug, Clone, Default)]
pub(crate) struct Standardised {
    /// Signed logarithm; NaN where missing.
    pub(crate) logs: Vec<f32>,
    /// Clipped z-score; 0 where missing.
    pub(crate) z: Vec<f32>,
    /// 1 where missing.
    pub(crate) missing: Vec<f32>,
}

impl Standardised {
    /// All the rows, borrowed.
    pub(crate) fn all(&self) -> StandardisedRows<'_> {
        StandardisedRows {
            logs: &self.logs,
            z: &self.z,
            missing: &self.missing,
        }
    }
}

/// Some rows of [`Standardised`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct StandardisedRows<'a> {
    pub(crate) logs: &'a [f32],
    pub(crate) z: &'a [f32],
    pub(crate) missing: &'a [f32],
}

impl<'a> StandardisedRows<'a> {
    /// `len` of these rows from row `from`.
    pub(crate) fn slice(&self, from: usize, len: usize, width: usize) -> StandardisedRows<'a> {
        let range = from * width..(from + len) * width;
        StandardisedRows {
            logs: &self.logs[range.clone()],
            z: &self.z[range.clone()],
            missing: &self.missing[range],
        }
    }
}

/// Where a value lies among the edges of its input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Place {
    /// Bins that are full, or [`Place::MISSING`].
    pub(crate) bin: u32,
    /// How full the next one is, 0 to 1.
    pub(crate) part: f32,
}

impl Place {
    pub(crate) const MISSING: u32 = u32::MAX;
}

impl Front {
    /// Statistics of `rows`, each a feature row of the schema's columns, and of their `targets`;
    /// without targets there are no splits.
    pub(crate) fn fit<'a>(
        shape: &Architecture,
        rows: impl Iterator<Item = &'a [f32]> + Clone,
        targets: Option<&[f32]>,
    ) -> Self {
        let bins = shape.bins();
        let mut quantiles: Vec<f64> = (0..shape.options.bins)
            .map(|i| i as f64 / shape.options.bins as f64)
            .chain(TAIL_QUANTILES)
            .chain([1.0])
            .collect();
        quantiles.sort_by(f64::total_cmp);
        let mut medians = vec![f32::NAN; shape.columns];
        for (column, median) in medians.iter_mut().enumerate() {
            let mut values: Vec<f32> = rows.clone().map(|row| row[column]).collect();
            let all = values.len();
            values.retain(|x| !x.is_nan());
            values.sort_by(f32::total_cmp);
            if 2 * values.len() > all {
                *median = quantile(&values, 0.5);
            }
        }
        let (mut mean, mut deviation, mut edges) = (Vec::new(), Vec::new(), Vec::new());
        for &column in &shape.inputs {
            let mut logs: Vec<f32> = rows
                .clone()
                .map(|row| row[column])
                .filter(|x| !x.is_nan())
                .collect();
            activation::signed_logs(&mut logs);
            logs.sort_by(f32::total_cmp);
            let n = logs.len().max(1) as f64;
            let average = logs.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
            let variance = logs
                .iter()
                .map(|&x| (f64::from(x) - average).powi(2))
                .sum::<f64>()
                / n;
            mean.push(average as f32);
            deviation.push(if variance.sqrt() > 1e-6 {
                variance.sqrt() as f32
            } else {
                1.0
            });
            let mut own: Vec<f32> = match logs.is_empty() {
                true => Vec::new(),
                false => quantiles.iter().map(|&q| quantile(&logs, q)).collect(),
            };
            if let Some(targets) = targets {
                let mut points: Vec<(f32, f32)> = (rows.clone().map(|row| row[column]))
                    .zip(targets.iter().copied())
                    .filter(|(x, _)| !x.is_nan())
                    .collect();
                let mut values: Vec<f32> = points.iter().map(|point| point.0).collect();
                activation::signed_logs(&mut values);
                points
                    .iter_mut()
                    .zip(values)
                    .for_each(|(point, log)| point.0 = log);
                points.sort_by(|a, b| a.0.total_cmp(&b.0));
                own.extend(splits(&points, shape.options.splits));
                own.sort_by(f32::total_cmp);
            }
            own.dedup_by(|b, a| *b - *a <= 1e-6);
            own.resize(bins + 1, f32::INFINITY);
            edges.extend(own);
        }
        Self {
            columns: shape.columns,
            inputs: shape.inputs.clone(),
            mean,
            deviation,
            edges,
            bins,
            medians,
        }
    }

    pub(crate) fn load(shape: &Architecture, weights: &Weights) -> Result<Self, ScoringError> {
        let (n, bins) = (shape.inputs.len(), shape.bins());
        Ok(Self {
            columns: shape.columns,
            inputs: shape.inputs.clone(),
            mean: weights.get("front.mean", &[n])?.to_vec(),
            deviation: weights.get("front.deviation", &[n])?.to_vec(),
            edges: weights.get("front.edges", &[n, bins + 1])?.to_vec(),
            bins,
            medians: weights.get("front.medians", &[shape.columns])?.to_vec(),
        })
    }

    pub(crate) fn store(&self, weights: &mut Weights) {
        let n = self.inputs.len();
        weights.insert("front.mean", &[n], self.mean.clone());
        weights.insert("front.deviation", &[n], self.deviation.clone());
        weights.insert("front.edges", &[n, self.bins + 1], self.edges.clone());
        weights.insert("front.medians", &[self.columns], self.medians.clone());
    }

    /// Bins of an input, real or not.
    pub(crate) fn bins(&self) -> usize {
        self.bins
    }

    /// The edges of an input's bins, ascending, then infinity.
    pub(crate) fn edges_of(&self, input: usize) -> &[f32] {
        &self.edges[input * (self.bins + 1)..][..self.bins + 1]
    }

    pub(crate) fn medians(&self) -> &[f32] {
        &self.medians
    }

    /// The inputs of `features`, rows x columns.
    pub(crate) fn standardise(&self, features: &[f32]) -> Standardised {
        let width = self.inputs.len();
        let cells = features.len() / self.columns * width;
        let mut out = Standardised {
            logs: Vec::with_capacity(cells),
            z: vec![0.0; cells],
            missing: vec![0.0; cells],
        };
        for row in features.chunks_exact(self.columns) {
            out.logs
                .extend(self.inputs.iter().map(|&column| row[column]));
        }
        activation::signed_logs(&mut out.logs);
        let rows = out
            .logs
            .chunks_exact(width)
            .zip(out.z.chunks_exact_mut(width))
            .zip(out.missing.chunks_exact_mut(width));
        for ((logs, z), missing) in rows {
            for i in 0..width {
                let log = logs[i];
                let own = ((log - self.mean[i]) / self.deviation[i]).clamp(-CLIP, CLIP);
                z[i] = if log.is_nan() { 0.0 } else { own };
                missing[i] = if log.is_nan() { 1.0 } else { 0.0 };
            }
        }
        out
    }

    /// Where a log value of input `input` lies among its edges. The piecewise-linear code is 1 in the
    /// bins below, the part in the bin itself, 0 beyond; all 0 for a missing value.
    pub(crate) fn place(&self, input: usize, log: f32) -> Place {
        if log.is_nan() {
            let bin = Place::MISSING;
            return Place { bin, part: 0.0 };
        }
        let edges = self.edges_of(input);
        let reached = edges[1..]
            .iter()
            .filter(|&&edge| edge <= log && edge.is_finite());
        let bin = reached.count();
        let part = match edges.get(bin + 1) {
            Some(&high) if high.is_finite() => (log - edges[bin]) / (high - edges[bin]),
            _ => 0.0,
        };
        Place {
            bin: bin as u32,
            part: part.clamp(0.0, 1.0),
        }
    }
}
