//! What training makes small.

use candle_core::Tensor;
use candle_nn::ops::sigmoid;
use sanderling_schemas::Output;

use crate::error::ScoringError;

/// Weighted mean loss of `raw` (rows x 1) against `target` and `weight` (rows x 1 each): focal
/// loss (Lin et al. 2017, equation 4) for classes, squared error for values.
pub(crate) fn loss(
    output: Output,
    raw: &Tensor,
    target: &Tensor,
    weight: &Tensor,
    gamma: f64,
) -> Result<Tensor, ScoringError> {
    let rows = match output {
        Output::LogOdds => {
            // With s the log-odds of the true class, the loss is (1 - sigmoid(s))^gamma softplus(-s).
            let s = (raw * ((target * 2.0)? - 1.0)?)?;
            let softplus = (s.neg()?.relu()? + (s.abs()?.neg()?.exp()? + 1.0)?.log()?)?;
            match gamma {
                0.0 => softplus,
                1.0 => (softplus * sigmoid(&s.neg()?)?)?,
                gamma => (softplus * sigmoid(&s.neg()?)?.powf(gamma)?)?,
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
