//! Dead letters: input that could not become an event, kept with its reason.

use std::fmt;

use base64::Engine;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::progress::EventId;

/// Why a record was refused. The label of a counter, so a closed set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RejectReason {
    /// The record has no value.
    NullValue,
    /// The bytes are not of the declared format.
    Malformed,
    /// The bytes do not begin as a registry's client writes them: a zero, then a schema's id.
    BrokenFraming,
    /// The registry does not know the schema's id.
    UnknownSchema,
    /// The registry's schema is not one that rows can be read by.
    UnreadableSchema,
    /// A value cannot be cast to its column's type.
    WrongType,
    /// NaN or an infinity where a number is wanted.
    NotFinite,
    /// The stream's key, id or event time is missing.
    MissingField,
    /// The event time is over an hour ahead of the broker's.
    FutureTime,
    /// Further behind its key's newest row than allowed, where the pipeline says so.
    TooLate,
}

impl RejectReason {
    /// All of them.
    pub const ALL: [RejectReason; 10] = [
        RejectReason::NullValue,
        RejectReason::Malformed,
        RejectReason::BrokenFraming,
        RejectReason::UnknownSchema,
        RejectReason::UnreadableSchema,
        RejectReason::WrongType,
        RejectReason::NotFinite,
        RejectReason::MissingField,
        RejectReason::FutureTime,
        RejectReason::TooLate,
    ];

    /// Name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            RejectReason::NullValue => "null_value",
            RejectReason::Malformed => "malformed",
            RejectReason::BrokenFraming => "broken_framing",
            RejectReason::UnknownSchema => "unknown_schema",
            RejectReason::UnreadableSchema => "unreadable_schema",
            RejectReason::WrongType => "wrong_type",
            RejectReason::NotFinite => "not_finite",
            RejectReason::MissingField => "missing_field",
            RejectReason::FutureTime => "future_time",
            RejectReason::TooLate => "too_late",
        }
    }
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refused record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Where it came from.
    pub event: EventId,
    /// Why it was refused.
    pub reason: RejectReason,
    /// The column, the value and what was wanted.
    pub detail: String,
    /// The record's bytes; for a row of a table, the row as JSON. If sealed, what only the holder
    /// of the key can open.
    pub raw: Vec<u8>,
    /// Set if `raw` and `key` are sealed.
    pub sealed: Option<Sealing>,
    /// The record's key, where it had one: whoever puts the record back needs it.
    pub key: Option<Vec<u8>>,
}

/// What is known of raw bytes that are sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealing {
    /// A keyed hash of the whole record, hex. A plain one of a card number could be looked up.
    pub raw_hmac: String,
    /// The record was cut before it was sealed.
    pub truncated: bool,
}

impl DeadLetter {
    /// Raw bytes kept of a record on a topic: below a broker's usual limit of 1 MiB.
    pub const RAW_BYTES_MAX: usize = 512 << 10;
    /// A longer key is not kept: with the raw bytes it would be over that limit.
    pub const KEY_BYTES_MAX: usize = 32 << 10;

    /// SHA-256 of the whole record, hex; of a sealed one the keyed hash.
    pub fn raw_sha256(&self) -> String {
        match &self.sealed {
            Some(sealing) => sealing.raw_hmac.clone(),
            None => hex::encode(Sha256::digest(&self.raw)),
        }
    }

    /// At most `raw_bytes_max` of the raw bytes, and whether some are missing. Sealed bytes are
    /// kept whole or not at all, since a part of them cannot be opened.
    pub fn kept(&self, raw_bytes_max: usize) -> (&[u8], bool) {
        match &self.sealed {
            Some(_) if self.raw.len() > raw_bytes_max => (&[], true),
            Some(sealing) => (&self.raw, sealing.truncated),
            None => {
                let kept = &self.raw[..self.raw.len().min(raw_bytes_max)];
                (kept, kept.len() < self.raw.len())
            }
        }
    }

    /// The wire form, with at most `raw_bytes_max` of the raw bytes. `key_base64` is there if the
    /// record had a key.
    pub fn to_json(&self, raw_bytes_max: usize) -> serde_json::Value {
        let (kept, truncated) = self.kept(raw_bytes_max);
        let base64 = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
        let key = self.key.as_deref();
        let kept_key = key.filter(|key| key.len() <= Self::KEY_BYTES_MAX);
        let mut wire = json!({
            "event": {
                "topic": self.event.topic,
                "partition": self.event.partition.0,
                "offset": self.event.offset.0,
            },
            "reason": self.reason.as_str(),
            "detail": self.detail,
            "raw_base64": base64(kept),
            "raw_sha256": self.raw_sha256(),
            "truncated": truncated || kept_key.is_none() && key.is_some(),
            "sealed": self.sealed.is_some(),
        });
        if let Some(key) = kept_key {
            wire["key_base64"] = base64(key).into();
        }
        wire
    }
}
