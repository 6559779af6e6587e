//! Random numbers with a seed: xorshift64* (Vigna, "An experimental exploration of Marsaglia's
//! xorshift generators, scrambled", 2016).

use std::time::{SystemTime, UNIX_EPOCH};

/// The generator.
pub struct Random(u64);

impl Random {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// From `TRUTH_SEED`, or else from the clock; says which, so that a failure can be had again.
    pub fn seeded(what: &str) -> Self {
        let seed = match std::env::var("TRUTH_SEED") {
            Ok(text) => text.parse().expect("TRUTH_SEED is a number"),
            Err(_) => {
                let now = SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .expect("a clock after 1970");
                now.as_micros() as u64 % 1_000_000
            }
        };
        println!("{what}: TRUTH_SEED={seed}");
        Self::new(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// In `[0, 1)`.
    pub fn share(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// About normal, mean 0 and variance 1: the sum of twelve shares, less 6.
    pub fn normal(&mut self) -> f64 {
        (0..12).map(|_| self.share()).sum::<f64>() - 6.0
    }
}
