//! Exact sums of doubles, and of their products, in fixed point.
//!
//! A double is an integer of 53 bits times a power of two. Those whose bits all lie between 2^-128
//! and 2^95 are added as multiples of 2^-128 in 256 bits, and products of two of them as multiples of
//! 2^-256 in 512 bits. Addition of integers is exact, so taking a value out undoes adding it to the last
//! bit, in any order, and a sum is rounded once, when it is read. (The idea is Kulisch's long
//! accumulator, cut to the range that measured quantities live in.) What is outside, infinities and NaN
//! among it, is counted by the caller, and a frame that holds such a value is computed from its rows.

/// Words of a sum, least first: two's complement, in units of 2^-128.
pub(super) const SUM_WORDS: usize = 4;
/// Words of a sum of products: two's complement, in units of 2^-256.
pub(super) const PRODUCT_WORDS: usize = 8;
/// Words of a determinant: two's complement, in units of 2^-256.
const WIDE_WORDS: usize = 9;

const SUM_UNIT: i32 = -128;
const PRODUCT_UNIT: i32 = -256;
/// Highest shift of a mantissa: 2^31 values of the largest size still fit.
const SHIFT_MAX: i32 = 170;

/// A double in range, as `± mantissa * 2^shift` units.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fixed {
    negative: bool,
    mantissa: u64,
    shift: u32,
}

impl Fixed {
    /// The double with these bits, if it is in range.
    #[inline]
    pub(super) fn of(bits: u64) -> Option<Fixed> {
        let exponent = ((bits >> 52) & 0x7ff) as i32;
        let fraction = bits & ((1 << 52) - 1);
        let negative = bits >> 63 != 0;
        if exponent == 0 {
            let mantissa = 0;
            return (fraction == 0).then_some(Fixed {
                negative,
                mantissa,
                shift: 0,
            });
        }
        let mantissa = fraction | 1 << 52;
        let shift = exponent - 1075 - SUM_UNIT;
        if (0..=SHIFT_MAX).contains(&shift) {
            return Some(Fixed {
                negative,
                mantissa,
                shift: shift as u32,
            });
        }
        let down = shift.unsigned_abs();
        if shift < 0 && mantissa.trailing_zeros() >= down {
            return Some(Fixed {
                negative,
                mantissa: mantissa >> down,
                shift: 0,
            });
        }
        None
    }

    /// Adds the value to a sum of [`SUM_WORDS`], or takes it out.
    #[inline]
    pub(super) fn apply<const ADD: bool>(self, sum: &mut [u64]) {
        let at = (self.shift / 64) as usize;
        let part = u128::from(self.mantissa) << (self.shift % 64);
        let parts = [part as u64, (part >> 64) as u64];
        move_by(&mut sum[..SUM_WORDS], at, parts, self.negative != ADD);
    }

    /// Adds the product of two values to a sum of [`PRODUCT_WORDS`], or takes it out.
    #[inline]
    pub(super) fn apply_product<const ADD: bool>(self, other: Fixed, sum: &mut [u64]) {
        let product = u128::from(self.mantissa) * u128::from(other.mantissa);
        let shift = self.shift + other.shift;
        let (at, up) = ((shift / 64) as usize, shift % 64);
        let (low, high) = (product as u64, (product >> 64) as u64);
        let parts = match up {
            0 => [low, high, 0],
            up => [low << up, high << up | low >> (64 - up), high >> (64 - up)],
        };
        let negative = self.negative != other.negative;
        move_by(&mut sum[..PRODUCT_WORDS], at, parts, negative != ADD);
    }
}

/// Adds `parts`, which begin at word `at`, or subtracts them.
#[inline]
fn move_by<const PARTS: usize>(words: &mut [u64], at: usize, parts: [u64; PARTS], add: bool) {
    let mut carry = false;
    let step = |word: u64, part: u64, carry: bool| match add {
        true => {
            let (sum, first) = word.overflowing_add(part);
            let (sum, second) = sum.overflowing_add(u64::from(carry));
            (sum, first | second)
        }
        false => {
            let (rest, first) = word.overflowing_sub(part);
            let (rest, second) = rest.overflowing_sub(u64::from(carry));
            (rest, first | second)
        }
    };
    let words = &mut words[at..];
    for (word, part) in words.iter_mut().zip(parts) {
        (*word, carry) = step(*word, part, carry);
    }
    for word in words.iter_mut().skip(PARTS) {
        if !carry {
            break;
        }
        (*word, carry) = step(*word, 0, carry);
    }
}

/// A sum of [`SUM_WORDS`], rounded to the nearest double.
pub(super) fn sum_of(words: &[u64]) -> f64 {
    rounded(&words[..SUM_WORDS], SUM_UNIT)
}

/// `count * sum(x y) - sum(x) sum(y)`, rounded once: `count` times the sum of the products of deviations
/// from the means.
pub(super) fn deviations(count: u64, products: &[u64], xs: &[u64], ys: &[u64]) -> f64 {
    let mut wide = [0u64; WIDE_WORDS];
    let (negative, products) = magnitude::<PRODUCT_WORDS>(products);
    for (at, word) in products.into_iter().enumerate() {
        let part = u128::from(word) * u128::from(count);
        move_by(&mut wide, at, [part as u64, (part >> 64) as u64], !negative);
    }
    let ((x_negative, xs), (y_negative, ys)) =
        (magnitude::<SUM_WORDS>(xs), magnitude::<SUM_WORDS>(ys));
    let add = x_negative != y_negative;
    for (i, x) in xs.into_iter().enumerate() {
        for (j, y) in ys.into_iter().enumerate() {
            let part = u128::from(x) * u128::from(y);
            move_by(&mut wide, i + j, [part as u64, (part >> 64) as u64], add);
        }
    }
    rounded(&wide, PRODUCT_UNIT)
}

/// Sign and absolute value.
fn magnitude<const WORDS: usize>(words: &[u64]) -> (bool, [u64; WORDS]) {
    let mut out: [u64; WORDS] = words[..WORDS]
        .try_into()
        .expect("the caller's accumulators have this width");
    let negative = out[WORDS - 1] >> 63 != 0;
    if negative {
        negate(&mut out);
    }
    (negative, out)
}

fn negate(words: &mut [u64]) {
    let mut carry = true;
    for word in words {
        (*word, carry) = (!*word).overflowing_add(u64::from(carry));
    }
}

/// The nearest double of a two's complement number of up to [`WIDE_WORDS`] in units of `2^unit`.
fn rounded(words: &[u64], unit: i32) -> f64 {
    let mut magnitude = [0u64; WIDE_WORDS];
    let magnitude = &mut magnitude[..words.len()];
    magnitude.copy_from_slice(words);
    let negative = words[words.len() - 1] >> 63 != 0;
    if negative {
        negate(magnitude);
    }
    let Some(top) = magnitude.iter().rposition(|word| *word != 0) else {
        return 0.0;
    };
    let up = magnitude[top].leading_zeros();
    let next = if top > 0 { magnitude[top - 1] } else { 0 };
    // The leading 64 bits; a lower bit that is set must only break a tie.
    let (leading, rest) = match up {
        0 => (magnitude[top], next),
        up => (magnitude[top] << up | next >> (64 - up), next << up),
    };
    let below = rest != 0
        || magnitude[..top.saturating_sub(1)]
            .iter()
            .any(|word| *word != 0);
    let value = (leading | u64::from(below)) as f64;
    let value = value * power_of_two(top as i32 * 64 - up as i32 + unit);
    if negative { -value } else { value }
}

fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((exponent + 1023) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(values: &[f64]) -> f64 {
        let mut words = [0; SUM_WORDS];
        for value in values {
            Fixed::of(value.to_bits())
                .unwrap()
                .apply::<true>(&mut words);
        }
        sum_of(&words)
    }

    #[test]
    fn sums_are_exact_and_rounded_once() {
        assert_eq!(sum(&[]), 0.0);
        assert_eq!(sum(&[0.1, 0.2, -0.3]), 2f64.powi(-55));
        assert_eq!(sum(&[1e17, 1.0, -1e17]), 1.0);
        assert_eq!(sum(&[-1e28, 1e-22, 1e28]), 1e-22);
        assert_eq!(sum(&[2f64.powi(53), 1.0]), 2f64.powi(53));
        assert_eq!(
            sum(&[2f64.powi(53), 1.0, 2f64.powi(-60)]),
            2f64.powi(53) + 2.0
        );
        assert_eq!(
            sum(&[-2f64.powi(53), -1.0, -2f64.powi(-60)]),
            -2f64.powi(53) - 2.0
        );
        assert_eq!(sum(&[2f64.powi(-128), 0.0, -0.0]), 2f64.powi(-128));
    }

    #[test]
    fn taking_out_undoes_putting_in() {
        let values: Vec<f64> = (1..2000)
            .map(|n| (f64::from(n) * 0.7).sin() * 10f64.powi(n % 30 - 12))
            .collect();
        let (mut sum, mut squares) = ([0; SUM_WORDS], [0; PRODUCT_WORDS]);
        let fixed: Vec<Fixed> = values
            .iter()
            .map(|v| Fixed::of(v.to_bits()).unwrap())
            .collect();
        for value in &fixed {
            value.apply::<true>(&mut sum);
            value.apply_product::<true>(*value, &mut squares);
        }
        for value in fixed.iter().rev().skip(1) {
            value.apply::<false>(&mut sum);
            value.apply_product::<false>(*value, &mut squares);
        }
        let last = values[values.len() - 1];
        assert_eq!(sum_of(&sum), last);
        assert_eq!(rounded(&squares, PRODUCT_UNIT), last * last);
    }

    #[test]
    fn deviations_do_not_cancel() {
        // 2 (x^2 + y^2) - (x + y)^2 = (x - y)^2
        for (x, y) in [(1e15, 1e15 + 0.125), (-3.5, 4.25), (1e-20, 0.0)] {
            let (mut sum, mut squares) = ([0; SUM_WORDS], [0; PRODUCT_WORDS]);
            for value in [x, y].map(|v: f64| Fixed::of(v.to_bits()).unwrap()) {
                value.apply::<true>(&mut sum);
                value.apply_product::<true>(value, &mut squares);
            }
            assert_eq!(deviations(2, &squares, &sum, &sum), (x - y) * (x - y));
        }
    }

    #[test]
    fn what_is_out_of_range_is_told() {
        for value in [
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            1e29,
            f64::MIN_POSITIVE,
            5e-324,
            1.1e-25,
        ] {
            assert!(Fixed::of(value.to_bits()).is_none(), "{value}");
        }
        for value in [0.0, -0.0, 1e-22, 1e28, 2f64.powi(-128), 1.5] {
            assert!(Fixed::of(value.to_bits()).is_some(), "{value}");
        }
    }
}
