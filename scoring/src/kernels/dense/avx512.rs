//! The product with AVX-512: a tile is one vector wide, and two tiles go side by side.

use std::arch::x86_64::{
    __mmask16, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps,
    _mm512_set1_ps, _mm512_setzero_ps,
};

use super::{Dense, LANES, Rows};

/// # Safety
/// The processor has AVX-512F; `x` and `y` have `rows` rows.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn product(
    dense: &Dense,
    x: Rows<'_>,
    y: &mut [f32],
    accumulate: bool,
    rows: usize,
) {
    let tiles = dense.stride / LANES;
    // SAFETY: all of these tiles exist.
    unsafe {
        for tile in (0..tiles - tiles % 2).step_by(2) {
            all_rows::<2>(dense, x, y, accumulate, tile, rows);
        }
        if tiles % 2 == 1 {
            all_rows::<1>(dense, x, y, accumulate, tiles - 1, rows);
        }
    }
}

/// `T` tiles from `tile` on. Of two, twelve rows at a time are what thirty-two registers hold.
///
/// # Safety
/// As for [`product`], and there are such tiles.
#[target_feature(enable = "avx512f")]
unsafe fn all_rows<const T: usize>(
    dense: &Dense,
    x: Rows<'_>,
    y: &mut [f32],
    accumulate: bool,
    tile: usize,
    rows: usize,
) {
    let mut row = 0;
    while row < rows {
        // SAFETY: all of these rows exist.
        row += unsafe {
            match rows - row {
                12.. => part::<12, T>(dense, x, y, accumulate, tile, row),
                6.. => part::<6, T>(dense, x, y, accumulate, tile, row),
                3.. => part::<3, T>(dense, x, y, accumulate, tile, row),
                2 => part::<2, T>(dense, x, y, accumulate, tile, row),
                _ => part::<1, T>(dense, x, y, accumulate, tile, row),
            }
        };
    }
}

/// `R` rows of `T` tiles; returns `R`.
///
/// # Safety
/// As for [`all_rows`], with rows `first..first + R`.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn part<const R: usize, const T: usize>(
    dense: &Dense,
    x: Rows<'_>,
    y: &mut [f32],
    accumulate: bool,
    tile: usize,
    first: usize,
) -> usize {
    let column = tile * LANES;
    // Outputs of each tile that there are.
    let masks: [__mmask16; T] = std::array::from_fn(|t| {
        let width = (dense.outputs - column - t * LANES).min(LANES);
        (u32::MAX >> (32 - width)) as __mmask16
    });
    let mut sums = [[_mm512_setzero_ps(); T]; R];
    for (r, sums) in sums.iter_mut().enumerate() {
        let begun = match accumulate {
            true => &y[(first + r) * dense.outputs + column..],
            false => &dense.bias[column..],
        };
        for (t, sum) in sums.iter_mut().enumerate() {
            // SAFETY: what the mask leaves is in `begun`.
            *sum = unsafe { _mm512_maskz_loadu_ps(masks[t], begun.as_ptr().add(t * LANES)) };
        }
    }
    let rows: [*const f32; R] =
        std::array::from_fn(|r| x.values[(first + r) * x.stride..][..dense.inputs].as_ptr());
    let weights = &dense.weights[column * dense.inputs..][..T * dense.inputs * LANES];
    for k in 0..dense.inputs {
        // SAFETY: each tile has sixteen weights for each k, and each of the rows has a number.
        unsafe {
            let weights: [_; T] = std::array::from_fn(|t| {
                _mm512_loadu_ps(weights.as_ptr().add((t * dense.inputs + k) * LANES))
            });
            for (r, sums) in sums.iter_mut().enumerate() {
                let value = _mm512_set1_ps(*rows[r].add(k));
                for (sum, weights) in sums.iter_mut().zip(weights) {
                    *sum = _mm512_fmadd_ps(value, weights, *sum);
                }
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        let out = &mut y[(first + r) * dense.outputs + column..];
        for (t, sum) in sums.iter().enumerate() {
            // SAFETY: what the mask leaves is in `out`.
            unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr().add(t * LANES), masks[t], *sum) };
        }
    }
    R
}
