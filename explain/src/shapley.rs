//! Shapley values of a game over a few players.
//!
//! Exact: L. S. Shapley, "A value for n-person games" (1953): the value of `i` is the mean of
//! `v(S + i) - v(S)` over the orders in which players may join, S being those before `i`. Sampled:
//! the same mean over random orders, each with its reverse (R. Mitchell et al., "Sampling
//! permutations for Shapley value estimation", 2022, section 3.2), which is exact where players
//! interact at most in pairs. Either way the values add up to `v(all) - v(none)`.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};

use crate::coalition::Coalition;

fn full(players: usize) -> Coalition {
    (1 << players) - 1
}

/// Every coalition, ascending.
pub(crate) fn subsets(players: usize) -> Vec<Coalition> {
    (0..=full(players)).collect()
}

/// The values of all players, by enumeration: 2^players calls of `value`, each several times.
pub(crate) fn exact(players: usize, value: impl Fn(Coalition) -> f64) -> Vec<f64> {
    // Orders in which a coalition of `size` comes first, then the player: size! (n-size-1)! / n!.
    let mut weights = vec![1.0 / players.max(1) as f64; players];
    for size in 1..players {
        weights[size] = weights[size - 1] * size as f64 / (players - size) as f64;
    }
    let values: Vec<f64> = (0..=full(players)).map(value).collect();
    (0..players)
        .map(|player| {
            let joins = 1 << player;
            (0..=full(players))
                .filter(|coalition| coalition & joins == 0)
                .map(|c| {
                    let gain = values[(c | joins) as usize] - values[c as usize];
                    weights[c.count_ones() as usize] * gain
                })
                .sum()
        })
        .collect()
}

/// `pairs` random orders of the players, each followed by its reverse: a function of the seed and
/// the event alone.
pub(crate) fn antithetic_orders(
    players: usize,
    pairs: usize,
    seed: u64,
    event: u64,
) -> Vec<Vec<u8>> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(event);
    let mut orders = Vec::with_capacity(2 * pairs);
    for _ in 0..pairs {
        let mut order: Vec<u8> = (0..players as u8).collect();
        for last in (1..players).rev() {
            // The high half of a 128-bit product is uniform over 0..=last up to 2^-58.
            let pick = (u128::from(random.next_u64()) * (last as u128 + 1)) >> 64;
            order.swap(last, pick as usize);
        }
        let reverse = order.iter().rev().copied().collect();
        orders.push(order);
        orders.push(reverse);
    }
    orders
}

/// The coalitions that the orders pass through, ascending, each once.
pub(crate) fn prefixes(orders: &[Vec<u8>]) -> Vec<Coalition> {
    let mut coalitions = vec![0];
    for order in orders {
        let mut present: Coalition = 0;
        for player in order {
            present |= 1 << player;
            coalitions.push(present);
        }
    }
    coalitions.sort_unstable();
    coalitions.dedup();
    coalitions
}

/// Each player's mean gain over the orders.
pub(crate) fn averaged(
    players: usize,
    orders: &[Vec<u8>],
    value: impl Fn(Coalition) -> f64,
) -> Vec<f64> {
    let mut gains = vec![0.0; players];
    for order in orders {
        let mut present: Coalition = 0;
        let mut before = value(present);
        for &player in order {
            present |= 1 << player;
            let after = value(present);
            gains[usize::from(player)] += after - before;
            before = after;
        }
    }
    gains.iter().map(|g| g / orders.len() as f64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition itself: the mean over all n! orders.
    fn by_orders(players: usize, value: &dyn Fn(Coalition) -> f64) -> Vec<f64> {
        fn permute(order: &mut Vec<u8>, from: usize, all: &mut Vec<Vec<u8>>) {
            if from == order.len() {
                all.push(order.clone());
            }
            for i in from..order.len() {
                order.swap(from, i);
                permute(order, from + 1, all);
                order.swap(from, i);
            }
        }
        let mut all = Vec::new();
        permute(&mut (0..players as u8).collect(), 0, &mut all);
        averaged(players, &all, value)
    }

    fn close(a: &[f64], b: &[f64], tolerance: f64) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= tolerance)
    }

    fn games() -> impl Strategy<Value = (usize, Vec<f64>)> {
        (1usize..=6).prop_flat_map(|n| (Just(n), proptest::collection::vec(-5.0..5.0f64, 1 << n)))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn enumeration_is_the_mean_over_all_orders((n, game) in games()) {
            let value = |c: Coalition| game[c as usize];
            let values = exact(n, value);
            prop_assert!(close(&values, &by_orders(n, &value), 1e-9));
            let sum: f64 = values.iter().sum();
            prop_assert!((sum - (value(full(n)) - value(0))).abs() < 1e-9);
        }

        #[test]
        fn a_player_who_never_matters_gets_nothing((n, game) in games(), dummy in 0usize..6) {
            let dummy = dummy % n;
            let value = |c: Coalition| game[(c & !(1 << dummy)) as usize];
            prop_assert_eq!(exact(n, value)[dummy], 0.0);
        }

        #[test]
        fn players_that_do_the_same_get_the_same((n, game) in games(), a in 0usize..6, b in 0usize..6) {
            let (a, b) = (a % n, b % n);
            let swapped = |c: Coalition| {
                let (has_a, has_b) = (c >> a & 1, c >> b & 1);
                (c & !(1 << a) & !(1 << b)) | has_a << b | has_b << a
            };
            let value = |c: Coalition| game[c as usize] + game[swapped(c) as usize];
            let values = exact(n, value);
            prop_assert!((values[a] - values[b]).abs() < 1e-9);
        }

        #[test]
        fn sampled_orders_add_up_and_are_exact_for_pairs(
            alone in proptest::collection::vec(-3.0..3.0f64, 8),
            pairs in proptest::collection::vec(-3.0..3.0f64, 64),
            event in any::<u64>(),
        ) {
            let value = |c: Coalition| {
                let on = |i: usize| (c >> i & 1) as f64;
                let mut v = 0.5;
                for i in 0..8 {
                    v += alone[i] * on(i);
                    for j in 0..i {
                        v += pairs[i * 8 + j] * on(i) * on(j);
                    }
                }
                v
            };
            let orders = antithetic_orders(8, 4, 1, event);
            let values = averaged(8, &orders, value);
            prop_assert!(close(&values, &exact(8, value), 1e-9));
        }
    }

    #[test]
    fn sampled_comes_near_exact_where_three_interact() {
        // 1 where any of three adjacent players are all present.
        let value = |c: Coalition| f64::from(u8::from((0..6).any(|i| c >> i & 7 == 7)));
        let orders = antithetic_orders(8, 200, 7, 3);
        assert!(close(&averaged(8, &orders, value), &exact(8, value), 0.04));
    }

    #[test]
    fn orders_depend_on_seed_and_event_and_nothing_else() {
        let orders = antithetic_orders(9, 4, 7, 3);
        assert_eq!(orders, antithetic_orders(9, 4, 7, 3));
        assert_ne!(orders, antithetic_orders(9, 4, 7, 4));
        assert_ne!(orders, antithetic_orders(9, 4, 8, 3));
        assert_eq!(orders.len(), 8);
        assert!(orders.chunks(2).all(|p| p[0].iter().eq(p[1].iter().rev())));
    }
}
