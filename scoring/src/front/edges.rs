//! Where the bins of an input end: at quantiles, and on both sides of the values at which the label changes
//! most (section 3.2.2 of the paper). A limit above which nearly all is fraud lies in a thousandth of the
//! rows, where quantiles see nothing.

/// Fewest rows on either side of a split.
const SPLIT_ROWS_MIN: usize = 16;
/// A split must explain this many times what it would by chance: about what the best of thousands of
/// cuts through noise reaches.
const SPLIT_GAIN_MIN: f64 = 20.0;

/// The value at quantile `q` of ascending `sorted`, between ranks linearly.
pub(super) fn quantile(sorted: &[f32], q: f64) -> f32 {
    let at = q * (sorted.len() - 1) as f64;
    let (low, part) = (at.floor() as usize, at.fract());
    let high = (low + 1).min(sorted.len() - 1);
    (f64::from(sorted[low]) * (1.0 - part) + f64::from(sorted[high]) * part) as f32
}

/// Values between which the target changes most: at most `count` splits of the regression tree that
/// is grown best first by squared error, two values each, the last below and the first above.
/// `points` are values, ascending, with their targets.
pub(super) fn splits(points: &[(f32, f32)], count: usize) -> Vec<f32> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
