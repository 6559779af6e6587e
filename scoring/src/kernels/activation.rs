//! Activations, on slices.

use super::dispatch;

/// `e^x`, within 2 units in the last place for x in [-87, 88]; clamped outside.
///
/// Cody and Waite's reduction to `2^n e^r`, |r| <= ln 2 / 2, and the Taylor polynomial of degree 7.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// 1.5 * 2^23: adding it rounds to an integer, which the low bits then hold.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.0, 88.0);
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-LN2_LOW, n.mul_add(-LN2_HIGH, x));
    let mut p = 1.0 / 5040.0;
    for c in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        p = r.mul_add(p, c);
    }
    let power = shifted.to_bits().wrapping_shl(23).wrapping_add(0x3f80_0000);
    p * f32::from_bits(power)
}

/// The logistic function.
#[inline(always)]
pub(crate) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// Hyperbolic tangent.
#[inline(always)]
pub(crate) fn tanh(x: f32) -> f32 {
    1.0 - 2.0 / (1.0 + exp(2.0 * x))
}

dispatch! {
    /// GELU in its tanh form (Hendrycks and Gimpel 2016), in place.
    pub(crate) fn gelu(values: &mut [f32]) => gelu_lanes
}

#[inline(always)]
fn gelu_lanes(values: &mut [f32]) {
    // 0.5 (1 + tanh(u)) = sigmoid(2 u)
    const TWICE_ROOT_2_BY_PI: f32 = 1.595_769_2;
    for x in values {
        let u = TWICE_ROOT_2_BY_PI * *x * (0.044_715f32 * *x).mul_add(*x, 1.0);
        *x *= sigmoid(u);
    }
}

dispatch! {
    /// max(x, 0), in place.
    pub(crate) fn relu(values: &mut [f32]) => relu_lanes
}

#[inline(always)]
fn relu_lanes(values: &mut [f32]) {
    for x in values {
        *x = x.max(0.0);
    }
}

dispatch! {
    /// One LSTM step (Hochreiter and Schmidhuber 1997, with a forget gate). `gates` is rows x 4H
    /// (input, forget, cell, output, before activation), `carry` rows x 2H (h, then c), in place.
    pub(crate) fn lstm(gates: &[f32], carry: &mut [f32], hidden: usize) => lstm_lanes
}

#[inline(always)]
fn lstm_lanes(gates: &[f32], carry: &mut [f32], hidden: usize) {
    for (gates, carry) in gates
        .chunks_exact(4 * hidden)
        .zip(carry.chunks_exact_mut(2 * hidden))
    {
        let (input, rest) = gates.split_at(hidden);
        let (forget, rest) = rest.split_at(hidden);
        let (cell, output) = rest.split_at(hidden);
        let (h, c) = carry.split_at_mut(hidden);
        for j in 0..hidden {
            c[j] = sigmoid(forget[j]).mul_add(c[j], sigmoid(input[j]) * tanh(cell[j]));
            h[j] = sigmoid(output[j]) * tanh(c[j]);
        }
    }
}

dispatch! {
    /// One GRU step (Cho et al. 2014, in PyTorch's form). `from_input` and `from_carry` are rows
    /// x 3H (reset, update, new, before activation), `carry` rows x H, in place.
    pub(crate) fn gru(from_input: &[f32], from_carry: &[f32], carry: &mut [f32], hidden: usize) => gru_lanes
}

#[inline(always)]
fn gru_lanes(from_input: &[f32], from_carry: &[f32], carry: &mut [f32], hidden: usize) {
    let gates = from_input
        .chunks_exact(3 * hidden)
        .zip(from_carry.chunks_exact(3 * hidden));
    for ((x, u), h) in gates.zip(carry.chunks_exact_mut(hidden)) {
        let (x_reset, x) = x.split_at(hidden);
        let (x_update, x_new) = x.split_at(hidden);
        let (u_reset, u) = u.split_at(hidden);
        let (u_update, u_new) = u.split_at(hidden);
        for j in 0..hidden {
            let reset = sigmoid(x_reset[j] + u_reset[j]);
            let update = sigmoid(x_update[j] + u_update[j]);
            let new = tanh(reset.mul_add(u_new[j], x_new[j]));
            h[j] = update.mul_add(h[j] - new, new);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_to_the_real_functions() {
        for i in -40_000..=40_000 {
            let x = i as f32 * 1e-3;
            let wide = f64::from(x);
            let relative = (f64::from(exp(x)) / wide.exp() - 1.0).abs();
            assert!(relative < 4e-7, "exp({x}): {relative}");
            assert!((f64::from(sigmoid(x)) - 1.0 / (1.0 + (-wide).exp())).abs() < 2e-7);
            assert!((f64::from(tanh(x)) - wide.tanh()).abs() < 3e-7);
        }
        assert_eq!(sigmoid(1e30), 1.0);
        assert!(sigmoid(-1e30) < 1e-37);
    }

    #[test]
    fn lanes_and_tails_agree() {
        let values: Vec<f32> = (0..67).map(|i| (i as f32 - 33.0) * 0.17).collect();
        let mut whole = values.clone();
        gelu(&mut whole);
        for (i, x) in values.iter().enumerate() {
            let mut one = [*x];
            gelu(&mut one);
            assert_eq!(one[0].to_bits(), whole[i].to_bits());
        }
    }
}
