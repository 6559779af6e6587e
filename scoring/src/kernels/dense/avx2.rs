//! The product with AVX2 and FMA, by intrinsics: left to itself the compiler keeps the sums of a tile in
//! memory, at a third of the speed.

use std::arch::x86_64::{
    __m256, _mm256_broadcast_ss, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps,
    _mm256_storeu_ps,
};

use super::{Dense, LANES, Rows};

/// Rows of a tile: with two vectors a row, what sixteen registers hold.
const TILE_ROWS: usize = 6;

/// # Safety
/// The processor has AVX2 and FMA; `x` and `y` have `rows` rows.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn product(
    dense: &Dense,
    x: Rows<'_>,
    y: &mut [f32],
    accumulate: bool,
    rows: usize,
) {
    // A tile of weights stays in the first cache while all rows pass.
    for tile in 0..dense.stride / LANES {
        let mut row = 0;
        // SAFETY: all of these rows exist.
        unsafe {
            while row + TILE_ROWS <= rows {
                part::<TILE_ROWS>(dense, x, y, accumulate, tile, row);
                row += TILE_ROWS;
            }
            match rows - row {
                0 => {}
                1 => part::<1>(dense, x, y, accumulate, tile, row),
                2 => part::<2>(dense, x, y, accumulate, tile, row),
                3 => part::<3>(dense, x, y, accumulate, tile, row),
                4 => part::<4>(dense, x, y, accumulate, tile, row),
                _ => part::<5>(dense, x, y, accumulate, tile, row),
            }
        }
    }
}

/// `R` rows of one tile.
///
/// # Safety
/// As for [`product`], with rows `first..first + R`.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn part<const R: usize>(
    dense: &Dense,
    x: Rows<'_>,
    y: &mut [f32],
    accumulate: bool,
    tile: usize,
    first: usize,
) {
    let column = tile * LANES;
    let width = LANES.min(dense.outputs - column);
    let weights = &dense.weights[tile * dense.inputs * LANES..][..dense.inputs * LANES];
    let mut sums: [[__m256; 2]; R] = [[_mm256_setzero_ps(); 2]; R];
    let mut edge = [0.0f32; LANES];
    for (r, sums) in sums.iter_mut().enumerate() {
        let from = (first + r) * dense.outputs + column;
        let begun = match (accumulate, width) {
            (false, _) => &dense.bias[column..column + LANES],
            (true, LANES) => &y[from..from + LANES],
            (true, _) => {
                edge[..width].copy_from_slice(&y[from..from + width]);
                &edge
            }
        };
        // SAFETY: `begun` has sixteen numbers.
        unsafe {
            sums[0] = _mm256_loadu_ps(begun.as_ptr());
            sums[1] = _mm256_loadu_ps(begun.as_ptr().add(8));
        }
    }
    let rows: [*const f32; R] =
        std::array::from_fn(|r| x.values[(first + r) * x.stride..][..dense.inputs].as_ptr());
    let mut weight = weights.as_ptr();
    for k in 0..dense.inputs {
        // SAFETY: `weights` has sixteen numbers for each k, and each of the rows has one.
        unsafe {
            let (low, high) = (_mm256_loadu_ps(weight), _mm256_loadu_ps(weight.add(8)));
            weight = weight.add(LANES);
            for (r, sums) in sums.iter_mut().enumerate() {
                let value = _mm256_broadcast_ss(&*rows[r].add(k));
                sums[0] = _mm256_fmadd_ps(value, low, sums[0]);
                sums[1] = _mm256_fmadd_ps(value, high, sums[1]);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        let from = (first + r) * dense.outputs + column;
        let out = if width == LANES {
            &mut y[from..from + LANES]
        } else {
            &mut edge
        };
        // SAFETY: `out` has sixteen numbers.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), sums[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), sums[1]);
        }
        if width < LANES {
            y[from..from + width].copy_from_slice(&edge[..width]);
        }
    }
}
