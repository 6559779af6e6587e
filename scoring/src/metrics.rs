//! Figures of merit for scores against labels.

/// Area under the ROC curve, ties counted half (the Mann-Whitney statistic). NaN where one of the
/// classes is missing.
pub fn auc(scores: &[f64], positive: &[bool]) -> f64 {
    let order = ascending(scores);
    let (mut rank_sum, mut positives, mut seen) = (0.0, 0usize, 0usize);
    for tie in order.chunk_by(|&a, &b| scores[a] == scores[b]) {
        let hits = tie.iter().filter(|&&i| positive[i]).count();
        // Negatives below, plus half of those beside.
        let below = (seen - positives) as f64;
        rank_sum += hits as f64 * (below + (tie.len() - hits) as f64 / 2.0);
        positives += hits;
        seen += tie.len();
    }
    rank_sum / (positives as f64 * (order.len() - positives) as f64)
}

/// Average precision: the sum over thresholds of (recall gained) x precision, without
/// interpolation (scikit-learn's `average_precision_score`). NaN without positives.
pub fn average_precision(scores: &[f64], positive: &[bool]) -> f64 {
    let mut order = ascending(scores);
    order.reverse();
    let total = positive.iter().filter(|&&p| p).count();
    let (mut hits, mut seen, mut sum) = (0usize, 0usize, 0.0);
    for tie in order.chunk_by(|&a, &b| scores[a] == scores[b]) {
        let gained = tie.iter().filter(|&&i| positive[i]).count();
        hits += gained;
        seen += tie.len();
        sum += gained as f64 * hits as f64 / seen as f64;
    }
    sum / total as f64
}

fn ascending(scores: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]));
    order
}

/// One scored event, for card precision.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KeyedScore {
    /// Day of the event.
    pub day: i64,
    /// Whose event it is.
    pub key: u32,
    /// Its score.
    pub score: f64,
    /// Its label.
    pub positive: bool,
}

/// Card precision at `alerts` a day, mean over the days (Fraud-Detection-Handbook,
/// `card_precision_top_k`): on each day the keys with the highest scores are looked at; precision
/// is the share of `alerts` with a positive event that day; a key that was found leaves later
/// days. Ties go to the smaller key. NaN without rows.
pub fn card_precision(rows: &[KeyedScore], alerts: usize) -> f64 {
    let mut rows = rows.to_vec();
    rows.sort_by_key(|row| (row.day, row.key));
    let mut found = std::collections::BTreeSet::new();
    let (mut sum, mut days) = (0.0, 0usize);
    for day in rows.chunk_by(|a, b| a.day == b.day) {
        let mut keys: Vec<(f64, u32, bool)> = day
            .chunk_by(|a, b| a.key == b.key)
            .filter(|events| !found.contains(&events[0].key))
            .map(|events| {
                let best = events
                    .iter()
                    .map(|e| e.score)
                    .fold(f64::NEG_INFINITY, f64::max);
                (best, events[0].key, events.iter().any(|e| e.positive))
            })
            .collect();
        keys.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let hits: Vec<u32> = keys
            .iter()
            .take(alerts)
            .filter(|key| key.2)
            .map(|key| key.1)
            .collect();
        sum += hits.len() as f64 / alerts as f64;
        days += 1;
        found.extend(hits);
    }
    sum / days as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auc_by_hand() {
        let positive = [true, false, true, false];
        assert_eq!(auc(&[0.9, 0.8, 0.7, 0.1], &positive), 0.75);
        assert_eq!(auc(&[0.5, 0.5, 0.5, 0.5], &positive), 0.5);
        // Pairs: (.9, .8) (.9, .1) (.8, .8) half, (.8, .1).
        assert_eq!(auc(&[0.9, 0.8, 0.8, 0.1], &positive), 0.875);
        assert!(auc(&[0.1], &[true]).is_nan());
    }

    #[test]
    fn average_precision_by_hand() {
        let positive = [true, false, true, false];
        let ap = average_precision(&[0.9, 0.8, 0.7, 0.1], &positive);
        assert!((ap - (1.0 + 2.0 / 3.0) / 2.0).abs() < 1e-12);
        // The tie counts as one threshold: 1 of 1, then 2 of 3.
        let ap = average_precision(&[0.9, 0.7, 0.7, 0.1], &positive);
        assert!((ap - (1.0 + 2.0 / 3.0) / 2.0).abs() < 1e-12);
        assert_eq!(average_precision(&[0.0; 4], &positive), 0.5);
    }

    #[test]
    fn a_found_card_leaves_later_days() {
        let row = |day, key, score, positive| KeyedScore {
            day,
            key,
            score,
            positive,
        };
        let rows = [
            row(1, 10, 0.2, false),
            row(1, 10, 0.9, true),
            row(1, 11, 0.8, false),
            row(1, 12, 0.1, true),
            row(2, 10, 0.9, true),
            row(2, 12, 0.7, true),
            row(2, 11, 0.8, false),
            row(2, 13, 0.6, true),
        ];
        // Day 1: 10 (found), 11. Day 2 without 10: 11, 12 (found).
        assert_eq!(card_precision(&rows, 2), 0.5);
        // Day 1: 10 of 10, 11, 12 -> two of three; day 2: 11, 13 -> one of three.
        assert!((card_precision(&rows, 3) - 0.5).abs() < 1e-12);
    }
}
