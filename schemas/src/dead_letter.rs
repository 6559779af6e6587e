//! Dead letters: input that could not become an event, kept with its reason.

use std::fmt;

use base64::Engine;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::progress::EventId;

/// Why a record was refused. The label of a counter, so a closed set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RejectReason {
    /// The bytes are not of the declared format.
    Malformed,
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
    pub const ALL: [RejectReason; 6] = [
        RejectReason::Malformed,
        RejectReason::WrongType,
        RejectReason::NotFinite,
        RejectReason::MissingField,
        RejectReason::FutureTime,
        RejectReason::TooLate,
    ];

    /// Name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            RejectReason::Malformed => "malformed",
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
    /// The record's bytes; for a row of a table, the row as JSON.
    pub raw: Vec<u8>,
}

impl DeadLetter {
    /// SHA-256 of the whole record, hex.
    pub fn raw_sha256(&self) -> String {
        hex::encode(Sha256::digest(&self.raw))
    }

    /// The wire form, with at most `raw_bytes_max` of the raw bytes.
    pub fn to_json(&self, raw_bytes_max: usize) -> serde_json::Value {
        let kept = &self.raw[..self.raw.len().min(raw_bytes_max)];
        json!({
            "event": {
                "topic": self.event.topic,
                "partition": self.event.partition.0,
                "offset": self.event.offset.0,
            },
            "reason": self.reason.as_str(),
            "detail": self.detail,
            "raw_base64": base64::engine::general_purpose::STANDARD.encode(kept),
            "raw_sha256": self.raw_sha256(),
            "truncated": kept.len() < self.raw.len(),
        })
    }
}
