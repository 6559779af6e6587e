//! A letter in a table, for people and for machines.

use std::fmt;

use serde::Serialize;

use super::letter::Letter;

/// Characters of a detail in a table for people.
const DETAIL_CHARS: usize = 80;

/// What is known of a letter without its bytes.
#[derive(Debug, Clone, Serialize)]
pub struct Listed {
    /// The event's id.
    pub event: String,
    /// When it was refused, RFC 3339; null in a replay's table.
    pub time: Option<String>,
    /// Why it was refused.
    pub reason: String,
    /// The column, the value and what was wanted.
    pub detail: String,
    /// Bytes that are kept of it.
    pub bytes: usize,
    /// Some of its bytes are missing.
    pub truncated: bool,
    /// Its bytes are sealed.
    pub sealed: bool,
    /// It was put back.
    pub requeued: bool,
}

impl Listed {
    pub(super) fn of(letter: &Letter) -> Self {
        let time = letter
            .time_ms
            .and_then(chrono::DateTime::from_timestamp_millis);
        Self {
            event: letter.event.to_string(),
            time: time.map(|t| t.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)),
            reason: letter.reason.clone(),
            detail: letter.detail.clone(),
            bytes: letter.raw.len(),
            truncated: letter.truncated,
            sealed: letter.sealed,
            requeued: false,
        }
    }
}

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.time.as_deref().unwrap_or("-");
        let detail = printable(&self.detail.chars().take(DETAIL_CHARS).collect::<String>());
        write!(
            f,
            "{:<28} {time:<24} {:<14} {detail}",
            self.event, self.reason
        )?;
        for (set, name) in [
            (self.truncated, "truncated"),
            (self.sealed, "sealed"),
            (self.requeued, "requeued"),
        ] {
            if set {
                write!(f, " [{name}]")?;
            }
        }
        Ok(())
    }
}

/// Text from a stranger, fit for a terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| match c.is_control() && c != '\n' && c != '\t' {
            true => c.escape_default().collect::<Vec<_>>(),
            false => vec![c],
        })
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::dlq::parse_event_id;

    pub(in crate::dlq) fn letter(event: &str, reason: &str) -> Letter {
        Letter {
            event: parse_event_id(event).unwrap(),
            reason: reason.into(),
            detail: "amount: \u{1b}[31m".into(),
            raw: b"{}".to_vec(),
            raw_sha256: String::new(),
            truncated: true,
            sealed: false,
            key: None,
            time_ms: Some(1_700_000_000_000),
        }
    }

    #[test]
    fn a_line_is_fit_for_a_terminal() {
        let line = Listed::of(&letter("a/0/5", "malformed")).to_string();
        assert!(line.contains("2023-11-14T22:13:20.000Z"), "{line}");
        assert!(
            line.contains("\\u{1b}[31m") && !line.contains('\u{1b}'),
            "{line:?}"
        );
        assert!(line.ends_with("[truncated]"), "{line}");
    }
}
