//! The numeric front: raw features to numbers that a network can take.
//!
//! A feature becomes `v = sign(x) ln(1 + |x|)`; from it a z-score clipped at 5, a missing flag and
//! a piecewise-linear embedding (Gorishniy et al. 2022, "On embeddings for numerical features",
//! equation 1) over quantile bins with extra edges in the upper tail, and around the values at which
//! the label changes most (section 3.2.2 there): a limit above which nearly all is fraud lies in a
//! thousandth of the rows, where quantiles see nothing. The statistics come from the training rows
//! alone.

use crate::architecture::{Architecture, TAIL_QUANTILES};
use crate::error::ScoringError;
use crate::kernels::{activation, dispatch};
use crate::weights::Weights;

/// Largest z-score.
const CLIP: f32 = 5.0;

/// Fewest rows on either side of a split.
const SPLIT_ROWS_MIN: usize = 16;
/// A split must explain this many times what it would by chance: about what the best of thousands of
/// cuts through noise reaches.
const SPLIT_GAIN_MIN: f64 = 20.0;

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

/// Some rows of [`Standardised`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct StandardisedRows<'a> {
    pub(crate) logs: &'a [f32],
    pub(crate) z: &'a [f32],
    pub(crate) missing: &'a [f32],
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

/// The value at quantile `q` of ascending `sorted`, between ranks linearly.
fn quantile(sorted: &[f32], q: f64) -> f32 {
    let at = q * (sorted.len() - 1) as f64;
    let (low, part) = (at.floor() as usize, at.fract());
    let high = (low + 1).min(sorted.len() - 1);
    (f64::from(sorted[low]) * (1.0 - part) + f64::from(sorted[high]) * part) as f32
}

/// Values between which the target changes most: at most `count` splits of the regression tree that
/// is grown best first by squared error, two values each, the last below and the first above.
/// `points` are values, ascending, with their targets.
fn splits(points: &[(f32, f32)], count: usize) -> Vec<f32> {
    let mut sums = vec![0.0f64];
    let mut squares = vec![0.0f64];
    for &(_, target) in points {
        let target = f64::from(target);
        sums.push(sums[sums.len() - 1] + target);
        squares.push(squares[squares.len() - 1] + target * target);
    }
    // How much better two means are than one, and where to cut.
    let best = |from: usize, to: usize| -> Option<(f64, usize)> {
        let (n, sum) = ((to - from) as f64, sums[to] - sums[from]);
        let square = (squares[to] - squares[from]) / n;
        // Never below what rounding makes of equal targets.
        let variance = (square - (sum / n).powi(2)).max(1e-9 * square);
        let cuts = (from + SPLIT_ROWS_MIN)..(to + 1).saturating_sub(SPLIT_ROWS_MIN);
        let cuts = cuts.filter(|&at| points[at - 1].0 < points[at].0);
        let gains = cuts.map(|at| {
            let (left, right) = (sums[at] - sums[from], sums[to] - sums[at]);
            let gain = left * left / (at - from) as f64 + right * right / (to - at) as f64;
            (gain - sum * sum / n, at)
        });
        gains
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .filter(|(gain, _)| *gain > SPLIT_GAIN_MIN * variance)
    };
    let mut leaves = vec![(0, points.len(), best(0, points.len()))];
    let mut values = Vec::new();
    for _ in 0..count {
        let gain = |leaf: &(usize, usize, Option<(f64, usize)>)| leaf.2.map_or(0.0, |best| best.0);
        let Some(widest) =
            (0..leaves.len()).max_by(|&a, &b| gain(&leaves[a]).total_cmp(&gain(&leaves[b])))
        else {
            break;
        };
        let (from, to, Some((_, at))) = leaves[widest] else {
            break;
        };
        values.extend([points[at - 1].0, points[at].0]);
        leaves[widest] = (from, at, best(from, at));
        leaves.push((at, to, best(at, to)));
    }
    values
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
        let edges = &self.edges[input * (self.bins + 1)..][..self.bins + 1];
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

/// The embeddings of some of the inputs as tables: bins below a value add up to a stored sum, so
/// that a value costs one row of a table however many bins there are.
#[derive(Debug, Clone)]
pub(crate) struct Embedding {
    /// Inputs, as indices into the front's.
    inputs: Vec<usize>,
    /// All inputs of the front.
    width: usize,
    size: usize,
    bins: usize,
    /// inputs x (bins + 1).
    edges: Vec<f32>,
    /// 1 / width of each bin; 0 past the last edge.
    inverse: Vec<f32>,
    /// inputs x (bins + 1) x size: bias and all bins below.
    base: Vec<f32>,
    /// inputs x (bins + 1) x size.
    slope: Vec<f32>,
    /// inputs x size, for a missing value.
    bias: Vec<f32>,
}

impl Embedding {
    /// Tables for `inputs` from the tensors `{name}.weight` and `{name}.bias`.
    pub(crate) fn load(
        front: &Front,
        inputs: &[usize],
        size: usize,
        weights: &Weights,
        name: &str,
    ) -> Result<Self, ScoringError> {
        let (n, bins) = (inputs.len(), front.bins);
        let (weight, bias) = match size {
            0 => (&[][..], &[][..]),
            _ => (
                weights.get(&format!("{name}.weight"), &[n, bins, size])?,
                weights.get(&format!("{name}.bias"), &[n, size])?,
            ),
        };
        let (mut edges, mut inverse, mut base, mut slope) = (vec![], vec![], vec![], vec![]);
        for (i, &input) in inputs.iter().enumerate() {
            let own = &front.edges[input * (bins + 1)..][..bins + 1];
            let mut sum = bias[i * size..][..size].to_vec();
            for bin in 0..=bins {
                let real = bin < bins && own[bin + 1].is_finite();
                edges.push(own[bin]);
                inverse.push(if real {
                    1.0 / (own[bin + 1] - own[bin])
                } else {
                    0.0
                });
                base.extend_from_slice(&sum);
                if real {
                    let row = &weight[(i * bins + bin) * size..][..size];
                    slope.extend_from_slice(row);
                    sum.iter_mut().zip(row).for_each(|(s, w)| *s += w);
                } else {
                    slope.extend(std::iter::repeat_n(0.0, size));
                }
            }
        }
        let (inputs, width) = (inputs.to_vec(), front.inputs.len());
        Ok(Self {
            inputs,
            width,
            size,
            bins,
            edges,
            inverse,
            base,
            slope,
            bias: bias.to_vec(),
        })
    }

    /// Numbers in an embedded row.
    pub(crate) fn embedded(&self) -> usize {
        self.inputs.len() * (self.size + 2)
    }

    /// Writes the embedded form of each row into the first [`Embedding::embedded`] cells of a row
    /// of `out`, whose rows are `stride` apart: embeddings, z-scores, missing flags.
    pub(crate) fn fill(&self, rows: StandardisedRows<'_>, out: &mut [f32], stride: usize) {
        fill(self, rows, out, stride);
    }
}

dispatch! {
    fn fill(embedding: &Embedding, rows: StandardisedRows<'_>, out: &mut [f32], stride: usize) => fill_lanes
}

#[inline(always)]
fn fill_lanes(embedding: &Embedding, rows: StandardisedRows<'_>, out: &mut [f32], stride: usize) {
    // Usual sizes as constants, for loops that the compiler can unroll.
    match (embedding.bins, embedding.size) {
        (16, 4) => fill_sized(embedding, rows, out, stride, 16, 4),
        (22, 4) => fill_sized(embedding, rows, out, stride, 22, 4),
        (bins, size) => fill_sized(embedding, rows, out, stride, bins, size),
    }
}

#[inline(always)]
fn fill_sized(
    embedding: &Embedding,
    rows: StandardisedRows<'_>,
    out: &mut [f32],
    stride: usize,
    bins: usize,
    size: usize,
) {
    let n = embedding.inputs.len();
    let sources = rows
        .logs
        .chunks_exact(embedding.width)
        .zip(rows.z.chunks_exact(embedding.width))
        .zip(rows.missing.chunks_exact(embedding.width));
    for (((logs, z), missing), out) in sources.zip(out.chunks_mut(stride)) {
        let (codes, rest) = out.split_at_mut(n * size);
        let (out_z, rest) = rest.split_at_mut(n);
        let out_missing = &mut rest[..n];
        for (i, &input) in embedding.inputs.iter().enumerate() {
            let cell = &mut codes[i * size..][..size];
            let log = logs[input];
            out_z[i] = z[input];
            out_missing[i] = missing[input];
            if log.is_nan() {
                let bias = &embedding.bias[i * size..][..size];
                for (cell, bias) in cell.iter_mut().zip(bias) {
                    *cell = bias.max(0.0);
                }
                continue;
            }
            let edges = &embedding.edges[i * (bins + 1)..][..bins + 1];
            let below = edges[1..]
                .iter()
                .map(|&edge| u32::from(edge <= log))
                .sum::<u32>();
            let bin = below as usize;
            let at = i * (bins + 1) + bin;
            let part = match embedding.inverse[at] {
                0.0 => 0.0,
                inverse => ((log - edges[bin]) * inverse).clamp(0.0, 1.0),
            };
            let base = &embedding.base[at * size..][..size];
            let slope = &embedding.slope[at * size..][..size];
            for j in 0..size {
                cell[j] = (base[j] + part * slope[j]).max(0.0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use arrow::datatypes::DataType;
    use sanderling_schemas::{FeatureField, FeatureSchema};

    use super::*;
    use crate::options::ModelOptions;

    fn shape() -> Architecture {
        let field = |name: &str| FeatureField {
            name: name.to_string(),
            data_type: DataType::Float64,
            entity: None,
            from_label: false,
        };
        let fields = vec![field("a"), field("b"), field("constant")];
        let schema = FeatureSchema {
            fields,
            hash: "x".into(),
        };
        Architecture::new(&ModelOptions::default(), &schema, &["card".to_string()]).unwrap()
    }

    #[test]
    fn a_rare_step_of_the_target_gets_edges_of_its_own() {
        // One in a thousand lies beyond 5, and all of it is positive; elsewhere one in fifty.
        let mut points: Vec<(f32, f32)> = (0..20_000)
            .map(|i| (i as f32 / 4000.0, f32::from(i % 50 == 0)))
            .collect();
        points.extend((0..20).map(|i| (5.5 + i as f32, 1.0)));
        assert_eq!(splits(&points, 3), [points[19_999].0, 5.5]);
        assert!(splits(&points[..20_000], 3).is_empty(), "noise has no step");
        assert!(splits(&[], 3).is_empty());
    }

    #[test]
    fn tables_equal_the_code_times_the_weights() {
        let shape = shape();
        let rows: Vec<[f32; 3]> = (0..500)
            .map(|i| {
                let x = i as f32;
                [
                    x * x - 1000.0,
                    if i % 3 == 0 { f32::NAN } else { (i % 2) as f32 },
                    7.0,
                ]
            })
            .collect();
        let targets: Vec<f32> = (0..500).map(|i| f32::from(i % 7 == 0 || i > 440)).collect();
        let front = Front::fit(&shape, rows.iter().map(|r| r.as_slice()), Some(&targets));
        let (n, bins, size) = (3, shape.bins(), 4);
        let weight: Vec<f32> = (0..n * bins * size)
            .map(|i| ((i * 37 % 19) as f32 - 9.0) * 0.1)
            .collect();
        let bias: Vec<f32> = (0..n * size).map(|i| (i as f32 - 5.0) * 0.1).collect();
        let mut weights = Weights::default();
        weights.insert("e.weight", &[n, bins, size], weight.clone());
        weights.insert("e.bias", &[n, size], bias.clone());
        let embedding = Embedding::load(&front, &[0, 1, 2], size, &weights, "e").unwrap();
        let mut probe: Vec<f32> = rows.iter().flatten().copied().collect();
        probe.extend([-1e9, 0.5, 8.0, f32::INFINITY, -3.0, f32::NEG_INFINITY]);
        let standard = front.standardise(&probe);
        assert!(standard.z.iter().all(|z| z.abs() <= CLIP));
        let stride = embedding.embedded();
        let mut out = vec![0.0; probe.len() / 3 * stride];
        embedding.fill(standard.all(), &mut out, stride);
        for (row, out) in out.chunks_exact(stride).enumerate() {
            for input in 0..n {
                let log = standard.logs[row * n + input];
                let edges = &front.edges[input * (bins + 1)..][..bins + 1];
                // Equation 1; nothing in bins that are not there.
                let code = |b: usize| match edges[b + 1].is_finite() && !log.is_nan() {
                    true => ((log - edges[b]) / (edges[b + 1] - edges[b])).clamp(0.0, 1.0),
                    false => 0.0,
                };
                let place = front.place(input, log);
                for b in 0..bins {
                    let coded = match b.cmp(&(place.bin as usize)) {
                        _ if place.bin == Place::MISSING => 0.0,
                        Ordering::Less => 1.0,
                        Ordering::Equal => place.part,
                        Ordering::Greater => 0.0,
                    };
                    assert_eq!(coded, code(b), "row {row} input {input} bin {b}");
                }
                for d in 0..size {
                    let sum: f64 = (0..bins)
                        .map(|b| {
                            f64::from(code(b)) * f64::from(weight[(input * bins + b) * size + d])
                        })
                        .sum();
                    let wanted = (sum + f64::from(bias[input * size + d])).max(0.0);
                    let found = f64::from(out[input * size + d]);
                    assert!(
                        (wanted - found).abs() < 1e-5,
                        "row {row} input {input}: {wanted} {found}"
                    );
                }
            }
        }
        assert!(front.medians()[1] == 0.0 || front.medians()[1] == 1.0);
        assert_eq!(front.medians()[2], 7.0);
    }
}
