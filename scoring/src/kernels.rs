//! The arithmetic of serving: products and activations whose bits do not depend on the shape of
//! the batch, the number of threads or the width of the machine's vectors.
//!
//! Every element of a product is one chain of fused multiply-adds over k in ascending order,
//! begun with the bias; tiles and lanes only choose which chains run side by side. Activations
//! are polynomials made of the same lane-wise operations. The loops are plain Rust, each compiled for
//! AVX-512, for AVX2 with FMA and for the baseline, and one is chosen at run time; only the product
//! has intrinsics for AVX2. A fused multiply-add rounds once wherever it runs, so all of them agree.

pub(crate) mod activation;
pub(crate) mod dense;

/// What fixes the rounding of a score: the version of these kernels, and the platform. The width of
/// the machine's vectors is not in it.
pub fn numerics() -> String {
    format!(
        "kernels-2/{}-{}",
        std::env::consts::ARCH,
        std::env::consts::OS
    )
}

/// Compiles `$body` for each set of target features and defines `$name` to choose at run time.
macro_rules! dispatch {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) => $body:path) => {
        $(#[$doc])*
        $vis fn $name($($arg: $type),*) {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx2,fma")]
                fn wide($($arg: $type),*) {
                    $body($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn fused($($arg: $type),*) {
                    $body($($arg),*)
                }
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("fma")
                {
                    // SAFETY: the processor has the features, as just detected.
                    return unsafe { wide($($arg),*) };
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: the processor has the features, as just detected.
                    return unsafe { fused($($arg),*) };
                }
            }
            $body($($arg),*)
        }
    };
}
pub(crate) use dispatch;
