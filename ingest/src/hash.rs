//! Identifiers replaced by a keyed hash before anything sees them.
//!
//! HMAC-SHA256 of the value's text, in hex, cut to [`HASH_CHARS`] characters: 128 bits, so that no
//! two of a bank's cards meet. The name of the column is not hashed with it: what is equal in two
//! streams stays equal.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, StringArray, StringBuilder};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::{IngestError, key_file};

/// Characters of a hash.
const HASH_CHARS: usize = 32;

/// The key of the hashes. It is never shown.
#[derive(Clone)]
pub struct HashKey(Hmac<Sha256>);

impl HashKey {
    /// The key in a file: at least 32 bytes, or their hexadecimal digits.
    pub fn read(path: &Path) -> Result<Self, IngestError> {
        Ok(Self::new(&key_file::read(path)?))
    }

    /// A key of these bytes.
    pub fn new(key: &[u8]) -> Self {
        Self(Hmac::new_from_slice(key).expect("HMAC takes keys of any length"))
    }

    /// What stands for `value`.
    pub fn hash(&self, value: &str) -> String {
        let mut hash = String::with_capacity(HASH_CHARS);
        self.append(value, &mut hash);
        hash
    }

    /// What stands for the values of a column. NULL stays NULL.
    pub(crate) fn hash_column(&self, values: &StringArray) -> ArrayRef {
        let mut out = StringBuilder::with_capacity(values.len(), values.len() * HASH_CHARS);
        let mut hash = String::with_capacity(HASH_CHARS);
        for value in values {
            hash.clear();
            out.append_option(value.map(|value| {
                self.append(value, &mut hash);
                &hash
            }));
        }
        Arc::new(out.finish())
    }

    fn append(&self, value: &str, out: &mut String) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut mac = self.0.clone();
        mac.update(value.as_bytes());
        let tag = mac.finalize().into_bytes();
        for byte in &tag[..HASH_CHARS / 2] {
            out.push(DIGITS[usize::from(byte >> 4)].into());
            out.push(DIGITS[usize::from(byte & 15)].into());
        }
    }

    /// Tells keys apart without telling them: whoever changes the key changes what is remembered.
    pub fn fingerprint(&self) -> String {
        self.hash("sanderling: fingerprint of the key")
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4231, test case 2.
    #[test]
    fn the_hash_is_hmac_sha256_cut_to_32_characters() {
        let key = HashKey::new(b"Jefe");
        let hash = key.hash("what do ya want for nothing?");
        assert_eq!(hash, "5bdcc146bf60754e6a042426089575c7");
        assert_eq!(format!("{key:?}"), "HashKey(..)");
    }
}
