//! Deviations from the mean, of one column's values and of pairs: from a frame's exact sums, or in one pass
//! over its rows where a value is out of the range of those.

use super::cursor::get_wide;
use super::exact::{deviations, sum_of};
use super::output::Computed;
use super::plan::{Accumulator, FramePlan, PairSums};
use super::ring::Ring;
use super::spec::Pair;

/// Sums of products of deviations from the means, of the pairs of a frame.
struct Deviations {
    mean_y: f64,
    mean_x: f64,
    yy: f64,
    xx: f64,
    xy: f64,
    /// As `xy`, with the roles changed: where values are infinite, the two are not, as DataFusion has it.
    yx: f64,
}

impl Deviations {
    fn of(sums: &PairSums, ring: &Ring, frame: &FramePlan, stride: usize) -> Self {
        let cursors = ring.cursors();
        let count = cursors[sums.count];
        if cursors[sums.outside] != 0 {
            return Self::of_rows(sums, ring, frame, stride);
        }
        let (y, x) = (&cursors[sums.sum_y..], &cursors[sums.sum_x..]);
        let of = |products: usize, one: &[u64], other: &[u64]| {
            deviations(count, &cursors[products..], one, other) / count as f64
        };
        let xy = of(sums.xy, x, y);
        Deviations {
            mean_y: sum_of(y) / count as f64,
            mean_x: sum_of(x) / count as f64,
            yy: of(sums.yy, y, y),
            xx: of(sums.xx, x, x),
            xy,
            yx: xy,
        }
    }

    /// In one pass over the rows (Welford, Technometrics 4 (3), 1962).
    fn of_rows(sums: &PairSums, ring: &Ring, frame: &FramePlan, stride: usize) -> Self {
        let mut all = Deviations {
            mean_y: 0.0,
            mean_x: 0.0,
            yy: 0.0,
            xx: 0.0,
            xy: 0.0,
            yx: 0.0,
        };
        let mut count = 0.0;
        for number in ring.cursors()[frame.at]..ring.cursors()[frame.at + 1] {
            let row = ring.row(number, stride);
            if row[1] & sums.y.bit == 0 || row[1] & sums.x.bit == 0 {
                continue;
            }
            let (y, x) = (
                f64::from_bits(row[sums.y.word]),
                f64::from_bits(row[sums.x.word]),
            );
            count += 1.0;
            let (before_y, before_x) = (y - all.mean_y, x - all.mean_x);
            all.mean_y += before_y / count;
            all.mean_x += before_x / count;
            all.yy += before_y * (y - all.mean_y);
            all.xx += before_x * (x - all.mean_x);
            all.xy += before_x * (y - all.mean_y);
            all.yx += before_y * (x - all.mean_x);
        }
        all
    }
}

/// The result of a function of pairs over the frame where its cursor stands.
pub(super) fn of_pair(
    pair: Pair,
    sums: &PairSums,
    ring: &Ring,
    frame: &FramePlan,
    stride: usize,
) -> Computed {
    let count = ring.cursors()[sums.count];
    if pair == Pair::Count {
        return Computed::Int(i128::from(count));
    }
    let pairs_min = match pair {
        Pair::CovarPop | Pair::AvgX | Pair::AvgY | Pair::Sxx | Pair::Syy | Pair::Sxy => 1,
        _ => 2,
    };
    if count == 0 || (count < pairs_min && pair != Pair::Corr) {
        return Computed::Null;
    }
    let Deviations {
        mean_y,
        mean_x,
        yy,
        xx,
        xy,
        yx,
    } = Deviations::of(sums, ring, frame, stride);
    let unless = |none: bool, value: f64| match none {
        true => Computed::Null,
        false => Computed::Float(value),
    };
    match pair {
        Pair::CovarSample => Computed::Float(yx / (count - 1) as f64),
        Pair::CovarPop => Computed::Float(yx / count as f64),
        // DataFusion tells columns that are NaN throughout from other frames without a correlation.
        Pair::Corr if mean_y.is_nan() && mean_x.is_nan() => Computed::Float(f64::NAN),
        Pair::Corr => {
            let none = count < 2 || mean_y.is_nan() || mean_x.is_nan() || xx == 0.0 || yy == 0.0;
            unless(none, yx / yy.sqrt() / xx.sqrt())
        }
        Pair::Slope => unless(xx == 0.0, xy / xx),
        Pair::Intercept => unless(xx == 0.0, mean_y - xy / xx * mean_x),
        Pair::R2 => unless(xx == 0.0 || yy == 0.0, xy * xy / (xx * yy)),
        Pair::AvgX => Computed::Float(mean_x),
        Pair::AvgY => Computed::Float(mean_y),
        Pair::Sxx => Computed::Float(xx),
        Pair::Syy => Computed::Float(yy),
        Pair::Sxy => Computed::Float(xy),
        Pair::Count => unreachable!("answered above"),
    }
}

/// `n sum(x^2) - sum(x)^2` of doubles; `None` where one is out of range.
pub(super) fn double_deviations(ring: &Ring, accumulator: &Accumulator, count: u64) -> Option<f64> {
    let (sum, squares) = (accumulator.sum?, accumulator.squares?);
    if ring.cursors()[sum] != 0 {
        return None;
    }
    let sum = &ring.cursors()[sum + 1..];
    Some(deviations(count, &ring.cursors()[squares..], sum, sum))
}

/// `n sum(x^2) - sum(x)^2` of unscaled integers; `None` where that may not fit.
pub(super) fn exact_deviations(ring: &Ring, accumulator: &Accumulator, count: u64) -> Option<i128> {
    let (sum, squares) = (accumulator.sum?, accumulator.squares?);
    if ring.cursors()[squares + 2] != 0 {
        return None;
    }
    let sum = get_wide(ring.cursors(), sum);
    let squares = get_wide(ring.cursors(), squares);
    squares
        .checked_mul(i128::from(count))?
        .checked_sub(sum.checked_mul(sum)?)
}

/// Sum of squared deviations from the mean, in one pass (Welford, Technometrics 4 (3), 1962).
pub(super) fn squared_deviations(values: impl Iterator<Item = f64>) -> f64 {
    let (mut count, mut mean, mut squares) = (0.0, 0.0, 0.0);
    for value in values {
        count += 1.0;
        let before = value - mean;
        mean += before / count;
        squares += before * (value - mean);
    }
    squares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn welford_agrees_with_two_passes() {
        let values = [3.0, 4.5, -2.0, 11.0, 0.25];
        let mean = values.iter().sum::<f64>() / 5.0;
        let direct: f64 = values.iter().map(|v| (v - mean) * (v - mean)).sum();
        assert!((squared_deviations(values.into_iter()) - direct).abs() < 1e-12);
    }
}
