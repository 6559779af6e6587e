//! Which keys are followed through the log: those whose hash begins with enough zeros.
//!
//! Whether a key is one of them depends on the key alone, so whoever reads the log and whoever samples the live
//! line mean the same keys without a word between them. Each PARTITION BY begins with all keys; where they have too
//! many rows, half of the keys are let go. None ever comes in later, so that of a key that is in,
//! nothing is missed (adaptive sampling: Flajolet, "On adaptive sampling", Computing 43, 1990).

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// A sample of the keys of each PARTITION BY.
#[derive(Debug)]
pub struct KeySample {
    /// With how many zeros the hash of a key must begin.
    zeros: Vec<AtomicU32>,
    /// Rows of other keys are asked for too.
    any: AtomicBool,
}

impl KeySample {
    /// All keys of so many PARTITION BYs.
    pub(crate) fn of_all(groups: usize) -> Self {
        KeySample {
            zeros: (0..groups).map(|_| AtomicU32::new(0)).collect(),
            any: AtomicBool::new(true),
        }
    }

    /// Whether a row without any of these keys is asked for as well.
    pub fn ask_for_any(&self, any: bool) {
        self.any.store(any, Ordering::Relaxed);
    }

    pub(crate) fn asks_for_any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// Whether a key, `None` for NULL, is in the sample of a PARTITION BY.
    pub(crate) fn holds(&self, group: usize, key: Option<&[u8]>) -> bool {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        hasher.finish().leading_zeros() >= self.zeros(group)
    }

    /// With how many zeros the hashes of the keys begin.
    pub(crate) fn zeros(&self, group: usize) -> u32 {
        self.zeros[group].load(Ordering::Relaxed)
    }

    /// Lets half of the keys go.
    pub(crate) fn halve(&self, group: usize) {
        self.zeros[group].fetch_add(1, Ordering::Relaxed);
    }
}
