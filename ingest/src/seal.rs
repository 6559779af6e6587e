//! Raw bytes of dead letters, sealed where a pipeline has hashed columns: a record that could not
//! be read holds the very identifiers that must not be seen.
//!
//! AES-256-GCM with a fresh random nonce of 12 bytes, which stands before the ciphertext; the
//! associated data is the event's id (`topic/partition/offset`), so that a letter cannot be given
//! another's bytes; for the record's key, the id and `/key`. `dlq requeue` reads the key of
//! `dead_letter_key_file` with [`SealKey::read`] and calls [`SealKey::open`] with the letter's event
//! and the bytes of its `raw_base64`.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use hmac::{Hmac, Mac};
use rand::TryRngCore;
use rand::rngs::OsRng;
use sanderling_schemas::{DeadLetter, EventId, Sealing};
use sha2::Sha256;

use crate::{IngestError, key_file};

const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
/// Of a longer record only the beginning is sealed, so that what is sealed fits a record itself.
const PLAIN_BYTES_MAX: usize = DeadLetter::RAW_BYTES_MAX - NONCE_BYTES - TAG_BYTES;

/// Sealed bytes that this key does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sealed bytes were not sealed with this key for this event, or were changed since")]
pub struct SealError;

/// The key that dead letters are sealed with. It is never shown.
#[derive(Clone)]
pub struct SealKey(Arc<Keys>);

struct Keys {
    cipher: Aes256Gcm,
    /// Keys the hash of the whole record.
    digest: Hmac<Sha256>,
}

impl SealKey {
    /// The key in a file: 32 bytes, or their 64 hexadecimal digits.
    pub fn read(path: &Path) -> Result<Self, IngestError> {
        let key = key_file::read(path)?;
        let key: [u8; key_file::KEY_BYTES] =
            key.as_slice().try_into().map_err(|_| IngestError::Key {
                path: path.into(),
                message: format!("{} bytes, where AES-256 takes 32", key.len()),
            })?;
        Ok(Self::new(&key))
    }

    /// A key of these bytes.
    pub fn new(key: &[u8; key_file::KEY_BYTES]) -> Self {
        // A key of its own for the digest, since one key should not serve two algorithms.
        let mac = <Hmac<Sha256> as Mac>::new_from_slice(key);
        let mut mac = mac.expect("HMAC takes keys of any length");
        mac.update(b"sanderling: digest of a dead letter");
        let digest = <Hmac<Sha256> as Mac>::new_from_slice(&mac.finalize().into_bytes());
        Self(Arc::new(Keys {
            cipher: Aes256Gcm::new(key.into()),
            digest: digest.expect("HMAC takes keys of any length"),
        }))
    }

    /// Seals the record of `event`: nonce and ciphertext, and what may be known of the record.
    pub(crate) fn seal(&self, event: &EventId, raw: &[u8]) -> (Vec<u8>, Sealing) {
        let kept = &raw[..raw.len().min(PLAIN_BYTES_MAX)];
        let mut digest = self.0.digest.clone();
        digest.update(raw);
        let sealing = Sealing {
            raw_hmac: hex::encode(digest.finalize().into_bytes()),
            truncated: kept.len() < raw.len(),
        };
        (self.encrypt(&event.to_string(), kept), sealing)
    }

    /// Seals the key of the record of `event`, which may be the identifier itself.
    pub(crate) fn seal_key(&self, event: &EventId, key: &[u8]) -> Vec<u8> {
        self.encrypt(&key_id(event), key)
    }

    /// The record of `event` that was sealed as `sealed`: nonce, then ciphertext.
    ///
    /// # Errors
    /// If they were sealed with another key or for another event, or are not whole.
    pub fn open(&self, event: &EventId, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        self.decrypt(&event.to_string(), sealed)
    }

    /// The key of the record of `event` that was sealed as `sealed`.
    ///
    /// # Errors
    /// As [`SealKey::open`].
    pub fn open_key(&self, event: &EventId, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        self.decrypt(&key_id(event), sealed)
    }

    /// Nonce and ciphertext of `plain`, bound to `id`.
    fn encrypt(&self, id: &str, plain: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_BYTES];
        let drawn = OsRng.try_fill_bytes(&mut nonce);
        drawn.expect("the operating system gives random bytes");
        let nonce = Nonce::from(nonce);
        let payload = Payload {
            msg: plain,
            aad: id.as_bytes(),
        };
        let sealed = self.0.cipher.encrypt(&nonce, payload);
        let sealed = sealed.expect("the cipher takes what is far below its 64 GiB");
        [nonce.as_slice(), &sealed].concat()
    }

    fn decrypt(&self, id: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        if sealed.len() < NONCE_BYTES + TAG_BYTES {
            return Err(SealError);
        }
        let (nonce, ciphertext) = sealed.split_at(NONCE_BYTES);
        let payload = Payload {
            msg: ciphertext,
            aad: id.as_bytes(),
        };
        let opened = self.0.cipher.decrypt(Nonce::from_slice(nonce), payload);
        opened.map_err(|_| SealError)
    }
}

/// What a sealed key is bound to, so that a key and a record cannot be taken for each other.
fn key_id(event: &EventId) -> String {
    format!("{event}/key")
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use sanderling_schemas::{Offset, Partition};

    use super::*;

    fn event(offset: i64) -> EventId {
        EventId {
            topic: "payments".into(),
            partition: Partition(3),
            offset: Offset(offset),
        }
    }

    #[test]
    fn only_the_key_opens_and_only_for_its_event() {
        let key = SealKey::new(&[7; 32]);
        let raw = br#"{"card": "4000123412341234", "amount": "x"}"#;
        let (sealed, sealing) = key.seal(&event(1), raw);
        assert_eq!(key.open(&event(1), &sealed).unwrap(), raw);
        assert_eq!(key.open(&event(2), &sealed), Err(SealError));
        assert_eq!(
            SealKey::new(&[8; 32]).open(&event(1), &sealed),
            Err(SealError)
        );
        for at in [0, 15, sealed.len() - 1] {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(key.open(&event(1), &changed), Err(SealError));
        }
        assert_eq!(key.open(&event(1), &sealed[..20]), Err(SealError));
        assert!(
            !sealed
                .windows(6)
                .any(|part| raw.windows(6).any(|of| of == part))
        );
        let sealed_key = key.seal_key(&event(1), b"4000123412341234");
        let opened = key.open_key(&event(1), &sealed_key).unwrap();
        assert_eq!(opened, b"4000123412341234");
        assert_eq!(key.open(&event(1), &sealed_key), Err(SealError));
        assert_eq!(key.open_key(&event(2), &sealed_key), Err(SealError));
        // Nothing repeats but the digest, which needs the key.
        let (again, same) = key.seal(&event(1), raw);
        assert_ne!(again, sealed);
        assert_eq!(same, sealing);
        assert_ne!(SealKey::new(&[8; 32]).seal(&event(1), raw).1, sealing);
    }

    #[test]
    fn a_long_record_is_cut_so_that_it_fits_and_still_opens() {
        let key = SealKey::new(&[7; 32]);
        let raw = vec![b'x'; 10 << 20];
        let (sealed, sealing) = key.seal(&event(1), &raw);
        assert_eq!(sealed.len(), DeadLetter::RAW_BYTES_MAX);
        assert!(sealing.truncated);
        let opened = key.open(&event(1), &sealed).unwrap();
        assert_eq!(opened, raw[..PLAIN_BYTES_MAX]);
    }
}
