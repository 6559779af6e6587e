//! JSON records, one object each, to cells: only the wanted fields are looked at, and a string
//! without escapes is not copied. And files of them, one a line.

use std::borrow::Cow;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use sanderling_schemas::RejectReason;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::IngestError;
use crate::decode::Decoder;
use crate::recorded::{CHUNK_ROWS, Chunk, open_text};
use crate::values::Cell;

/// Reads the wanted `fields` of one record into `cells`, which it first sets to NULL; a field
/// that stands twice has its last value. On failure says why, for a dead letter; if `hidden`,
/// without a word of the record.
pub(crate) fn read_record<'a>(
    record: &'a [u8],
    fields: &[String],
    cells: &mut [Cell<'a>],
    hidden: bool,
) -> Result<(), (RejectReason, String)> {
    cells.fill(Cell::Null);
    if record.iter().all(u8::is_ascii_whitespace) {
        return Err((RejectReason::Malformed, "the record is empty".into()));
    }
    let mut input = serde_json::Deserializer::from_slice(record);
    let outcome = Record {
        fields,
        cells: &mut *cells,
    }
    .deserialize(&mut input)
    .and_then(|()| input.end());
    outcome.map_err(|error| match hidden {
        true => {
            let (reason, _) = why(record, &error.to_string());
            let what = match error.classify() {
                serde_json::error::Category::Eof => "it breaks off",
                serde_json::error::Category::Data => "it is something else",
                _ => "a syntax error",
            };
            let (line, column) = (error.line(), error.column());
            let place = format!("at line {line} column {column}");
            (reason, format!("not a JSON object: {what} {place}"))
        }
        false => why(record, &error.to_string()),
    })
}

/// NaN and infinities are not JSON, but common writers emit them: they get their own reason.
fn why(record: &[u8], message: &str) -> (RejectReason, String) {
    const TOKENS: [&str; 3] = ["-Infinity", "Infinity", "NaN"];
    if message.contains("number out of range") {
        return (RejectReason::NotFinite, message.into());
    }
    let Ok(text) = std::str::from_utf8(record) else {
        return (RejectReason::Malformed, "not UTF-8".into());
    };
    // Outside of strings: every token becomes a marked string; if that makes the record whole,
    // the tokens were all that was wrong.
    let (mut repaired, mut rest, mut in_string) = (String::new(), text, false);
    let mut found = false;
    'bytes: while let Some(first) = rest.chars().next() {
        if !in_string {
            for token in TOKENS {
                if let Some(after) = rest.strip_prefix(token) {
                    repaired.push_str(&format!("\"\\u0000{token}\""));
                    (rest, found) = (after, true);
                    continue 'bytes;
                }
            }
        }
        let mut len = first.len_utf8();
        if first == '"' {
            in_string = !in_string;
        } else if first == '\\' && in_string {
            len += rest[1..].chars().next().map_or(0, char::len_utf8);
        }
        repaired.push_str(&rest[..len]);
        rest = &rest[len..];
    }
    if found && let Ok(serde_json::Value::Object(object)) = serde_json::from_str(&repaired) {
        let marked = object.iter().find_map(|(name, value)| {
            let token = value.as_str()?.strip_prefix('\0')?;
            Some(format!("field {name}: {token} is not a number"))
        });
        let detail = marked.unwrap_or_else(|| "a number is not finite".into());
        return (RejectReason::NotFinite, detail);
    }
    (
        RejectReason::Malformed,
        format!("not a JSON object: {message}"),
    )
}

struct Record<'f, 'c, 'a> {
    fields: &'f [String],
    cells: &'c mut [Cell<'a>],
}

impl<'a> DeserializeSeed<'a> for Record<'_, '_, 'a> {
    type Value = ();

    fn deserialize<D: Deserializer<'a>>(self, input: D) -> Result<(), D::Error> {
        input.deserialize_map(self)
    }
}

impl<'a> Visitor<'a> for Record<'_, '_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<M: MapAccess<'a>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(field) = map.next_key_seed(FieldIndex(self.fields))? {
            match field {
                Some(index) => self.cells[index] = map.next_value_seed(AnyCell)?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

struct FieldIndex<'f>(&'f [String]);

impl<'a> DeserializeSeed<'a> for FieldIndex<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'a>>(self, input: D) -> Result<Option<usize>, D::Error> {
        input.deserialize_str(self)
    }
}

impl Visitor<'_> for FieldIndex<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Option<usize>, E> {
        Ok(self.0.iter().position(|field| field == name))
    }
}

struct AnyCell;

impl<'a> DeserializeSeed<'a> for AnyCell {
    type Value = Cell<'a>;

    fn deserialize<D: Deserializer<'a>>(self, input: D) -> Result<Cell<'a>, D::Error> {
        input.deserialize_any(self)
    }
}

impl<'a> Visitor<'a> for AnyCell {
    type Value = Cell<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Cell<'a>, E> {
        Ok(Cell::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Cell<'a>, E> {
        Ok(Cell::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Cell<'a>, E> {
        Ok(Cell::Int(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Cell<'a>, E> {
        Ok(Cell::Int(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Cell<'a>, E> {
        Ok(Cell::Float(value))
    }

    fn visit_borrowed_str<E>(self, value: &'a str) -> Result<Cell<'a>, E> {
        Ok(Cell::Text(Cow::Borrowed(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Cell<'a>, E> {
        Ok(Cell::Text(Cow::Owned(value.into())))
    }

    fn visit_seq<S: SeqAccess<'a>>(self, mut items: S) -> Result<Cell<'a>, S::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Cell::Other("an array"))
    }

    fn visit_map<M: MapAccess<'a>>(self, mut fields: M) -> Result<Cell<'a>, M::Error> {
        while fields.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Cell::Other("an object"))
    }
}

/// One JSON object a line; blank lines are passed over.
pub(crate) struct JsonLines {
    path: PathBuf,
    file: BufReader<File>,
    bytes_read: u64,
}

impl JsonLines {
    pub(crate) fn open(path: &Path) -> Result<Self, IngestError> {
        Ok(Self {
            path: path.into(),
            file: open_text(path)?,
            bytes_read: 0,
        })
    }

    pub(crate) fn bytes_read(&self) -> u64 {
        self.bytes_read
    }

    pub(crate) fn next_chunk(&mut self, decoder: &Decoder) -> Result<Option<Chunk>, IngestError> {
        let (mut bytes, mut ends) = (Vec::with_capacity(CHUNK_ROWS * 128), Vec::new());
        while ends.len() < CHUNK_ROWS {
            let from = bytes.len();
            let read =
                self.file
                    .read_until(b'\n', &mut bytes)
                    .map_err(|error| IngestError::Read {
                        path: self.path.clone(),
                        message: error.to_string(),
                    })?;
            if read == 0 {
                break;
            }
            self.bytes_read += read as u64;
            while bytes.len() > from && matches!(bytes[bytes.len() - 1], b'\n' | b'\r') {
                bytes.pop();
            }
            if bytes[from..].iter().all(u8::is_ascii_whitespace) {
                bytes.truncate(from);
            } else {
                ends.push((from, bytes.len()));
            }
        }
        if ends.is_empty() {
            return Ok(None);
        }
        let records: Vec<_> = ends
            .iter()
            .map(|(from, end)| Some(&bytes[*from..*end]))
            .collect();
        let decoded = decoder.decode_json(&records, &[])?;
        let bytes_of = |record: usize| bytes[ends[record].0..ends[record].1].to_vec();
        let raw = decoded
            .refused
            .iter()
            .map(|refusal| bytes_of(refusal.record))
            .collect();
        Ok(Some(Chunk {
            decoded,
            raw,
            records: records.len(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(record: &str) -> Result<(), RejectReason> {
        let fields = ["a".to_string(), "b".to_string()];
        let mut cells = [Cell::Null, Cell::Null];
        read_record(record.as_bytes(), &fields, &mut cells, false).map_err(|(reason, _)| reason)
    }

    #[test]
    fn where_nothing_may_be_shown_nothing_is() {
        for broken in [
            r#""4000123412341234""#,
            "4000123412341234",
            r#"{"a": 4000123412341234 5"#,
            r#"{"4000123412341234": NaN}"#,
            r#"{4000123412341234: 1}"#,
        ] {
            let (fields, mut cells) = (["a".to_string()], [Cell::Null]);
            let (_, detail) =
                read_record(broken.as_bytes(), &fields, &mut cells, true).unwrap_err();
            assert!(detail.starts_with("not a JSON object: "), "{detail}");
            assert!(!detail.contains("4000"), "{detail}");
        }
    }

    #[test]
    fn broken_records_have_their_reasons() {
        assert_eq!(
            reason(r#"{"a": 1, "c": {"deep": [1, 2]}, "b": "x"}"#),
            Ok(())
        );
        for broken in ["", "null", "[1]", "{\"a\": 1", "{\"a\": 1} x", "{a: 1}"] {
            assert_eq!(reason(broken), Err(RejectReason::Malformed), "{broken}");
        }
        for endless in [
            r#"{"a": NaN}"#,
            r#"{"b": "an \"Infinity\" here", "a": -Infinity}"#,
            r#"{"a": 1e999}"#,
        ] {
            assert_eq!(reason(endless), Err(RejectReason::NotFinite), "{endless}");
        }
        assert_eq!(reason(r#"{"a": NaN"#), Err(RejectReason::Malformed));
    }

    #[test]
    fn the_last_of_two_equal_fields_counts() {
        let mut cells = [Cell::Null];
        read_record(
            br#"{"a": 1, "a": "\u00e9"}"#,
            &["a".to_string()],
            &mut cells,
            false,
        )
        .unwrap();
        assert_eq!(cells[0], Cell::Text("é".into()));
    }
}
