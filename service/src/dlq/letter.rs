//! A dead letter as it is found again: in a record of its topic, or in a row of a replay's table.

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Int32Type, Int64Type};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use sanderling_schemas::{EventId, Offset, Partition};
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// A refused record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Where it came from.
    pub event: EventId,
    /// Why it was refused.
    pub reason: String,
    /// The column, the value and what was wanted.
    pub detail: String,
    /// Its bytes; sealed, if `sealed`.
    pub raw: Vec<u8>,
    /// Hash of the whole record, hex.
    pub raw_sha256: String,
    /// Some of its bytes are missing.
    pub truncated: bool,
    /// Bytes and key are sealed.
    pub sealed: bool,
    /// The record's key, where it had one.
    pub key: Option<Vec<u8>>,
    /// When it was refused, milliseconds.
    pub time_ms: Option<i64>,
}

/// The JSON of `DeadLetter::to_json`. Unknown keys are a later version's.
#[derive(Deserialize)]
struct Wire {
    event: EventId,
    reason: String,
    detail: String,
    raw_base64: String,
    raw_sha256: String,
    truncated: bool,
    #[serde(default)]
    sealed: bool,
    #[serde(default)]
    key_base64: Option<String>,
}

impl Letter {
    /// The letter in a record of the topic.
    ///
    /// # Errors
    /// What is wrong with it, if it is none.
    pub fn from_json(value: &[u8], time_ms: Option<i64>) -> Result<Self, String> {
        let wire: Wire = serde_json::from_slice(value).map_err(|e| e.to_string())?;
        let decode = |text: &str| BASE64.decode(text).map_err(|e| e.to_string());
        Ok(Self {
            raw: decode(&wire.raw_base64)?,
            key: wire.key_base64.as_deref().map(decode).transpose()?,
            event: wire.event,
            reason: wire.reason,
            detail: wire.detail,
            raw_sha256: wire.raw_sha256,
            truncated: wire.truncated,
            sealed: wire.sealed,
            time_ms,
        })
    }

    /// The letters in rows of `dead_letters.parquet`.
    ///
    /// # Errors
    /// What is wrong, if these are no dead letters.
    pub fn from_rows(rows: &RecordBatch) -> Result<Vec<Self>, String> {
        let column = |name: &str| {
            let column = rows.column_by_name(name);
            column.ok_or_else(|| format!("the column {name} is missing"))
        };
        let kind = |name: &str| format!("the column {name} is of another type");
        let strings = |name: &str| {
            let strings = column(name)?.as_string_opt::<i32>();
            strings.ok_or_else(|| kind(name))
        };
        let topic = strings("_topic")?;
        let partition = column("_partition")?.as_primitive_opt::<Int32Type>();
        let partition = partition.ok_or_else(|| kind("_partition"))?;
        let offset = column("_offset")?.as_primitive_opt::<Int64Type>();
        let offset = offset.ok_or_else(|| kind("_offset"))?;
        let (reason, detail) = (strings("reason")?, strings("detail")?);
        let (raw, raw_sha256) = (strings("raw_base64")?, strings("raw_sha256")?);
        let truncated = column("truncated")?.as_boolean_opt();
        let truncated = truncated.ok_or_else(|| kind("truncated"))?;
        let sealed = rows.column_by_name("sealed").map(|c| c.as_boolean());
        (0..rows.num_rows())
            .map(|row| {
                Ok(Self {
                    event: EventId {
                        topic: topic.value(row).into(),
                        partition: Partition(partition.value(row)),
                        offset: Offset(offset.value(row)),
                    },
                    reason: reason.value(row).into(),
                    detail: detail.value(row).into(),
                    raw: BASE64.decode(raw.value(row)).map_err(|e| e.to_string())?,
                    raw_sha256: raw_sha256.value(row).into(),
                    truncated: truncated.value(row),
                    sealed: sealed.is_some_and(|sealed| sealed.value(row)),
                    key: None,
                    time_ms: None,
                })
            })
            .collect()
    }

    /// Whether the bytes are those that were refused; of sealed or cut ones the hash tells nothing.
    pub fn is_intact(&self) -> bool {
        self.sealed || self.truncated || hex::encode(Sha256::digest(&self.raw)) == self.raw_sha256
    }
}

/// Parses `topic/partition/offset`.
pub fn parse_event_id(text: &str) -> Option<EventId> {
    let mut parts = text.rsplitn(3, '/');
    let offset = parts.next()?.parse().ok()?;
    let partition = parts.next()?.parse().ok()?;
    let topic = parts.next().filter(|topic| !topic.is_empty())?;
    Some(EventId {
        topic: topic.into(),
        partition: Partition(partition),
        offset: Offset(offset),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sanderling_schemas::wire::dead_letters_to_batch;
    use sanderling_schemas::{DeadLetter, RejectReason};

    fn refused() -> DeadLetter {
        DeadLetter {
            event: parse_event_id("pay/ments/3/70").unwrap(),
            reason: RejectReason::WrongType,
            detail: "amount".into(),
            raw: b"{\"amount\":\"x\"}".to_vec(),
            sealed: None,
            key: Some(b"C1".to_vec()),
        }
    }

    #[test]
    fn both_forms_give_the_letter_back() {
        let refused = refused();
        let json = refused.to_json(100).to_string();
        let letter = Letter::from_json(json.as_bytes(), Some(7)).unwrap();
        assert_eq!(letter.event, refused.event);
        assert_eq!(letter.reason, "wrong_type");
        assert_eq!(letter.raw, refused.raw);
        assert_eq!(letter.key.as_deref(), Some(&b"C1"[..]));
        assert!(!letter.truncated && !letter.sealed && letter.is_intact());
        let rows = dead_letters_to_batch(std::slice::from_ref(&refused), 100).unwrap();
        let of_rows = Letter::from_rows(&rows).unwrap().remove(0);
        assert_eq!(
            of_rows,
            Letter {
                key: None,
                time_ms: None,
                ..letter.clone()
            }
        );
        let changed = Letter {
            raw: b"{}".to_vec(),
            ..letter
        };
        assert!(!changed.is_intact());
        assert!(Letter::from_rows(&rows.project(&[0, 1]).unwrap()).is_err());
        assert!(Letter::from_json(b"{\"id\": 1}", None).is_err());
    }

    #[test]
    fn an_id_has_three_parts() {
        for text in ["payments/0", "payments/0/x", "/0/1", "payments", ""] {
            assert_eq!(parse_event_id(text), None, "{text}");
        }
        let id = parse_event_id("a/b/-1/9").unwrap();
        assert_eq!((&*id.topic, id.partition.0, id.offset.0), ("a/b", -1, 9));
    }
}
