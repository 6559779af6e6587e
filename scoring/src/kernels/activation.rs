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

/// `ln(1 + x)` for `x >= 0`, within 3 units in the last place; infinity counts as the largest
/// number, and NaN stays NaN.
///
/// The logarithm of `u = 1 + x` by Cephes' polynomial on [sqrt(1/2), sqrt 2), corrected for what
/// the sum rounded off (Kahan's `ln(u) x / (u - 1)`; Goldberg 1991, theorem 4).
#[inline(always)]
pub(crate) fn ln_1p(x: f32) -> f32 {
    const ROOT_HALF: u32 = 0x3f35_04f3;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = if x > f32::MAX { f32::MAX } else { x };
    let u = 1.0 + x;
    let bits = u.to_bits();
    let exponent = (bits.wrapping_sub(ROOT_HALF) as i32) >> 23;
    let f = f32::from_bits(bits.wrapping_sub((exponent as u32) << 23)) - 1.0;
    let e = exponent as f32;
    let mut p = 7.037_683_6e-2;
    for c in [
        -1.151_461e-1,
        1.167_699_9e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_8e-1,
        2.000_071_5e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ] {
        p = f.mul_add(p, c);
    }
    let square = f * f;
    let tail = e.mul_add(LN2_LOW, square.mul_add(-0.5, p * (f * square)));
    let ln = e.mul_add(LN2_HIGH, f + tail);
    let rounded = u - 1.0;
    if rounded == 0.0 {
        x
    } else {
        ln * (x / rounded)
    }
}

dispatch! {
    /// `sign(x) ln(1 + |x|)`, in place; NaN stays NaN.
    pub(crate) fn signed_logs(values: &mut [f32]) => signed_log_lanes
}

#[inline(always)]
fn signed_log_lanes(values: &mut [f32]) {
    for x in values {
        *x = ln_1p(x.abs()).copysign(*x);
    }
}

dispatch! {
    /// `ln(1 + x) / 5` of numbers that are not negative, in place.
    pub(crate) fn fifths_of_logs(values: &mut [f32]) => fifth_of_log_lanes
}

#[inline(always)]
fn fifth_of_log_lanes(values: &mut [f32]) {
    for x in values {
        *x = ln_1p(*x) * 0.2;
    }
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
        for i in 0..200_000 {
            let x = (i as f32 * 4e-4).exp() * 1e-7;
            let relative = f64::from(ln_1p(x)) / f64::from(x).ln_1p() - 1.0;
            assert!(relative.abs() < 4e-7, "ln_1p({x}): {relative}");
        }
        assert_eq!(ln_1p(0.0), 0.0);
        assert_eq!(ln_1p(f32::INFINITY), ln_1p(f32::MAX));
        assert!(ln_1p(f32::NAN).is_nan());
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
