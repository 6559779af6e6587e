//! What training makes small.

use candle_core::Tensor;
use candle_nn::ops::sigmoid;
use sanderling_schemas::Output;

use crate::error::ScoringError;

/// Log loss of one row of a class, beside its background.
pub(crate) fn log_loss(raw: f64, target: f64, background: f64) -> f64 {
    let s = raw * (2.0 * target - 1.0);
    let plain = (-s).max(0.0) + (-s.abs()).exp().ln_1p();
    match target > 0.5 && background > 0.0 {
        true => -(background + (1.0 - background) * (-plain).exp()).ln(),
        false => plain,
    }
}

/// Rows of a step, rows x 1 each.
pub(crate) struct Targets {
    pub(crate) target: Tensor,
    pub(crate) weight: Tensor,
    /// Probability that a row is positive for what no input tells; absent where it is 0 for all.
    pub(crate) background: Option<Tensor>,
}

/// Weighted mean loss of `raw` (rows x 1): for classes cross-entropy or focal loss with the exponent
/// `gamma` (Lin et al. 2017, equation 4; 0 is cross-entropy), for values squared error.
///
/// With a background b a row is positive with probability b + (1 - b) sigmoid(raw), the forward
/// correction of label noise (Patrini et al. 2017, theorem 2): a positive that looks like all the
/// negatives pulls no harder than b allows, so that the network does not learn it by heart.
pub(crate) fn loss(
    output: Output,
    raw: &Tensor,
    rows: &Targets,
    gamma: f64,
) -> Result<Tensor, ScoringError> {
    let Targets {
        target,
        weight,
        background,
    } = rows;
    let rows = match output {
        Output::LogOdds => {
            // With s the log-odds of the true class, the loss is (1 - sigmoid(s))^gamma softplus(-s).
            let s = (raw * ((target * 2.0)? - 1.0)?)?;
            let softplus = (s.neg()?.relu()? + (s.abs()?.neg()?.exp()? + 1.0)?.log()?)?;
            let plain = match background {
                Some(b) => {
                    let told = softplus.neg()?.exp()?;
                    let seen = ((b.affine(-1.0, 1.0)? * told)? + b)?.log()?.neg()?;
                    // Of a negative, the background takes a constant and nothing else.
                    ((target * seen)? + (target.affine(-1.0, 1.0)? * softplus)?)?
                }
                None => softplus,
            };
            match gamma {
                0.0 => plain,
                1.0 => (plain * sigmoid(&s.neg()?)?)?,
                gamma => (plain * sigmoid(&s.neg()?)?.powf(gamma)?)?,
            }
        }
        Output::Value | Output::Forecast => (raw - target)?.sqr()?,
    };
    let sum = (rows * weight)?.sum_all()?;
    Ok((sum / weight.sum_all()?)?)
}

/// Mean squared gap between the forecast and the z-scores (rows x inputs each) that are there.
pub(crate) fn forecast_loss(
    forecast: &Tensor,
    z: &Tensor,
    missing: &Tensor,
) -> Result<Tensor, ScoringError> {
    let there = missing.affine(-1.0, 1.0)?;
    let gap = ((forecast - z)?.sqr()? * &there)?;
    Ok((gap.sum_all()? / (there.sum_all()? + 1e-6)?)?)
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};

    use super::*;

    fn column(values: &[f32]) -> Tensor {
        Tensor::from_slice(values, (values.len(), 1), &Device::Cpu).unwrap()
    }

    #[test]
    fn a_hopeless_positive_pulls_as_far_as_the_background_lets_it() {
        let (raws, targets) = ([-6.0f32, -6.0, 0.5, 2.0], [1.0f32, 0.0, 1.0, 0.0]);
        for background in [[0.0; 4], [0.02, 0.02, 0.01, 0.03]] {
            let rows = Targets {
                target: column(&targets),
                weight: column(&[1.0; 4]),
                background: (background[0] > 0.0).then(|| column(&background)),
            };
            let raw = Var::from_tensor(&column(&raws)).unwrap();
            let mean = loss(Output::LogOdds, &raw, &rows, 0.0).unwrap();
            let rows = raws.iter().zip(targets).zip(background);
            let rows = rows.map(|((&raw, y), b)| log_loss(raw.into(), y.into(), b.into()));
            let wanted = rows.sum::<f64>() / 4.0;
            let found = f64::from(mean.to_scalar::<f32>().unwrap());
            assert!((found - wanted).abs() < 1e-6, "{found} {wanted}");
            let grads = mean.backward().unwrap();
            let pull = grads.get(&raw).unwrap().flatten_all().unwrap();
            let pull: Vec<f32> = pull.to_vec1().unwrap();
            // d/df of -ln(b + (1 - b) p) is -(1 - b) p (1 - p) / (b + (1 - b) p).
            for (i, &x) in raws.iter().enumerate() {
                let p = 1.0 / (1.0 + (-f64::from(x)).exp());
                let b = f64::from(background[i]);
                let wanted = match targets[i] > 0.5 {
                    true => -(1.0 - b) * p * (1.0 - p) / (b + (1.0 - b) * p),
                    false => p,
                };
                assert!((f64::from(pull[i]) * 4.0 - wanted).abs() < 1e-5, "row {i}");
            }
        }
    }
}
