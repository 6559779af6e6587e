//! Platt calibration (Platt 1999): an affine map of a raw output to log-odds.

use crate::manifest::Calibration;

/// Smallest slope: below it, order would be lost to rounding.
const SLOPE_MIN: f64 = 1e-3;
/// Events of each class that a fit needs.
pub(crate) const CLASS_ROWS_MIN: usize = 10;

/// The map that maximises the likelihood of the labels, with Platt's smoothed targets and slope
/// above 0. By Newton steps with backtracking, from `raw` as it is.
pub(crate) fn platt(raw: &[f32], positive: &[bool]) -> Calibration {
    let positives = positive.iter().filter(|&&p| p).count() as f64;
    let negatives = positive.len() as f64 - positives;
    let (high, low) = (
        (positives + 1.0) / (positives + 2.0),
        1.0 / (negatives + 2.0),
    );
    let target = |i: usize| if positive[i] { high } else { low };
    let loss = |slope: f64, intercept: f64| -> f64 {
        raw.iter()
            .enumerate()
            .map(|(i, &x)| {
                let s = slope * f64::from(x) + intercept;
                s.max(0.0) - s * target(i) + (-s.abs()).exp().ln_1p()
            })
            .sum()
    };
    let (mut slope, mut intercept) = (1.0, 0.0);
    let mut best = loss(slope, intercept);
    for _ in 0..100 {
        let (mut g0, mut g1, mut h00, mut h01, mut h11) = (0.0, 0.0, 1e-9, 0.0, 1e-9);
        for (i, &x) in raw.iter().enumerate() {
            let x = f64::from(x);
            let p = 1.0 / (1.0 + (-(slope * x + intercept)).exp());
            let (gap, weight) = (p - target(i), p * (1.0 - p));
            g0 += gap * x;
            g1 += gap;
            h00 += weight * x * x;
            h01 += weight * x;
            h11 += weight;
        }
        let determinant = h00 * h11 - h01 * h01;
        let (d0, d1) = (
            (h11 * g0 - h01 * g1) / determinant,
            (h00 * g1 - h01 * g0) / determinant,
        );
        let mut step = 1.0;
        let improved = loop {
            let next = ((slope - step * d0).max(SLOPE_MIN), intercept - step * d1);
            let value = loss(next.0, next.1);
            if value < best {
                (slope, intercept) = next;
                break best - value;
            }
            step /= 2.0;
            if step < 1e-6 {
                break 0.0;
            }
        };
        best -= improved;
        if improved <= 1e-10 * best.abs() {
            break;
        }
    }
    Calibration { slope, intercept }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_map_that_made_the_labels() {
        // 1,000 rows at each of 9 raw outputs, with the shares that 2 x - 1 gives.
        let (mut raw, mut positive) = (Vec::new(), Vec::new());
        for i in 0..9 {
            let x = (i as f32 - 4.0) / 2.0;
            let share = 1.0 / (1.0 + (-(2.0 * f64::from(x) - 1.0)).exp());
            for row in 0..1000 {
                raw.push(x);
                positive.push(f64::from(row) < share * 1000.0);
            }
        }
        let found = platt(&raw, &positive);
        assert!((found.slope - 2.0).abs() < 0.02, "{found:?}");
        assert!((found.intercept + 1.0).abs() < 0.02, "{found:?}");
    }

    #[test]
    fn keeps_order_even_for_scores_that_lie() {
        let raw = [0.0, 1.0, 2.0, 3.0];
        let found = platt(&raw, &[true, true, false, false]);
        assert!(found.slope > 0.0);
    }
}
