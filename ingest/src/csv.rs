//! CSV files (RFC 4180) with a header, a batch of rows at a time.
//!
//! Read here and not by Arrow's reader, which gives up a whole batch for one bad row. An empty
//! field is NULL. The delimiter is whichever of comma, semicolon and tab the header has most of.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use sanderling_schemas::RejectReason;
use serde_json::{Map, Value};

use crate::IngestError;
use crate::decode::Decoder;
use crate::decoded::Refusal;
use crate::recorded::{CHUNK_ROWS, Chunk, open_text};

/// A record that spans lines ends within this many bytes, or its first line is refused and reading
/// goes on behind it.
const OPEN_QUOTE_BYTES_MAX: usize = 1 << 16;

pub(crate) struct CsvTable {
    path: PathBuf,
    lines: Lines,
    delimiter: u8,
    header: Vec<String>,
    schema: SchemaRef,
}

/// Lines with their ends; lines given back are read again.
struct Lines {
    file: BufReader<File>,
    returned: VecDeque<Vec<u8>>,
    bytes_read: u64,
}

impl Lines {
    fn next(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        if let Some(line) = self.returned.pop_front() {
            return Ok(Some(line));
        }
        let mut line = Vec::with_capacity(128);
        let bytes = self.file.read_until(b'\n', &mut line)?;
        self.bytes_read += bytes as u64;
        Ok((bytes > 0).then_some(line))
    }
}

/// How a record ended.
#[derive(Debug, PartialEq)]
enum End {
    Whole,
    InsideQuotes,
    Stray,
}

impl CsvTable {
    pub(crate) fn open(path: &Path) -> Result<Self, IngestError> {
        let mut lines = Lines {
            file: open_text(path)?,
            returned: VecDeque::new(),
            bytes_read: 0,
        };
        let unreadable = |message: String| IngestError::Read {
            path: path.into(),
            message,
        };
        let first = lines
            .next()
            .map_err(|error| unreadable(error.to_string()))?;
        let first = first.ok_or_else(|| {
            unreadable("the file is empty; its first line must name the columns".into())
        })?;
        let count = |delimiter: &u8| first.iter().filter(|byte| *byte == delimiter).count();
        let delimiter = [b'\t', b';', b',']
            .into_iter()
            .max_by_key(count)
            .unwrap_or(b',');
        let mut fields = Fields::default();
        if split(&first, delimiter, &mut fields) != End::Whole {
            return Err(unreadable(
                "the first line, which names the columns, is not CSV".into(),
            ));
        }
        let header: Option<Vec<String>> = (0..fields.len())
            .map(|i| Some(fields.text(i)?.trim().to_string()))
            .collect();
        let header = header.ok_or_else(|| unreadable("the first line is not UTF-8".into()))?;
        let columns: Vec<Field> = header
            .iter()
            .map(|name| Field::new(name, DataType::Utf8, true))
            .collect();
        let schema = Arc::new(Schema::new(columns));
        Ok(Self {
            path: path.into(),
            lines,
            delimiter,
            header,
            schema,
        })
    }

    pub(crate) fn columns(&self) -> Vec<&str> {
        self.header.iter().map(String::as_str).collect()
    }

    pub(crate) fn bytes_read(&self) -> u64 {
        self.lines.bytes_read
    }

    pub(crate) fn next_chunk(&mut self, decoder: &Decoder) -> Result<Option<Chunk>, IngestError> {
        let width = self.header.len();
        let mut columns: Vec<StringBuilder> = (0..width).map(|_| StringBuilder::new()).collect();
        let mut whole: Vec<(usize, Vec<u8>)> = Vec::new();
        let mut broken: Vec<(Refusal, Vec<u8>)> = Vec::new();
        let mut fields = Fields::default();
        let mut records = 0;
        while records < CHUNK_ROWS {
            let Some((record, end)) = self.next_record(&mut fields)? else {
                break;
            };
            let detail = match end {
                End::InsideQuotes => Some("a quote is never closed".to_string()),
                End::Stray => Some("text stands behind a closing quote".to_string()),
                End::Whole if fields.len() != width => {
                    Some(format!("{} fields for {width} columns", fields.len()))
                }
                End::Whole if (0..width).any(|i| fields.text(i).is_none()) => {
                    Some("not UTF-8".to_string())
                }
                End::Whole => None,
            };
            match detail {
                Some(detail) => {
                    let reason = RejectReason::Malformed;
                    let refusal = Refusal {
                        record: records,
                        event_time_us: None,
                        reason,
                        detail,
                        recorded: None,
                    };
                    broken.push((refusal, record));
                }
                None => {
                    for (index, column) in columns.iter_mut().enumerate() {
                        column.append_option(fields.text(index).filter(|text| !text.is_empty()));
                    }
                    whole.push((records, record));
                }
            }
            records += 1;
        }
        if records == 0 {
            return Ok(None);
        }
        let arrays = columns
            .iter_mut()
            .map(|c| Arc::new(c.finish()) as ArrayRef)
            .collect();
        let options = RecordBatchOptions::new().with_row_count(Some(whole.len()));
        let table = RecordBatch::try_new_with_options(self.schema.clone(), arrays, &options)?;
        let mut decoded = decoder.decode_table(&table)?;
        decoded
            .records
            .iter_mut()
            .for_each(|record| *record = whole[*record].0);
        for mut refusal in std::mem::take(&mut decoded.refused) {
            let (record, line) = &whole[refusal.record];
            refusal.record = *record;
            split(line, self.delimiter, &mut fields);
            broken.push((refusal, self.record_as_json(&fields)));
        }
        broken.sort_by_key(|(refusal, _)| refusal.record);
        let (refused, raw) = broken.into_iter().unzip();
        decoded.refused = refused;
        Ok(Some(Chunk {
            decoded,
            raw,
            records,
        }))
    }

    /// The next record that is not blank, split into `fields`.
    fn next_record(&mut self, fields: &mut Fields) -> Result<Option<(Vec<u8>, End)>, IngestError> {
        let unreadable = |error: std::io::Error| IngestError::Read {
            path: self.path.clone(),
            message: error.to_string(),
        };
        loop {
            let Some(first) = self.lines.next().map_err(unreadable)? else {
                return Ok(None);
            };
            if first.iter().all(u8::is_ascii_whitespace) {
                continue;
            }
            let mut end = split(&first, self.delimiter, fields);
            if end != End::InsideQuotes {
                return Ok(Some((first, end)));
            }
            let (mut record, mut more) = (first.clone(), Vec::new());
            while end == End::InsideQuotes && record.len() < OPEN_QUOTE_BYTES_MAX {
                let Some(line) = self.lines.next().map_err(unreadable)? else {
                    break;
                };
                record.extend_from_slice(&line);
                more.push(line);
                end = split(&record, self.delimiter, fields);
            }
            if end != End::Whole {
                more.into_iter()
                    .rev()
                    .for_each(|line| self.lines.returned.push_front(line));
                return Ok(Some((first, End::InsideQuotes)));
            }
            return Ok(Some((record, end)));
        }
    }

    fn record_as_json(&self, fields: &Fields) -> Vec<u8> {
        let mut object = Map::new();
        for (index, name) in self.header.iter().enumerate() {
            let text = fields.text(index).filter(|text| !text.is_empty());
            object.insert(name.clone(), text.map_or(Value::Null, Value::from));
        }
        Value::Object(object).to_string().into_bytes()
    }
}

/// The fields of one record, unquoted, end to end.
#[derive(Debug, Default)]
struct Fields {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Fields {
    fn len(&self) -> usize {
        self.ends.len()
    }

    /// Field `index`, if it is UTF-8.
    fn text(&self, index: usize) -> Option<&str> {
        let from = if index == 0 { 0 } else { self.ends[index - 1] };
        std::str::from_utf8(&self.bytes[from..self.ends[index]]).ok()
    }
}

fn split(record: &[u8], delimiter: u8, fields: &mut Fields) -> End {
    let record = record.strip_suffix(b"\n").unwrap_or(record);
    let record = record.strip_suffix(b"\r").unwrap_or(record);
    fields.bytes.clear();
    fields.ends.clear();
    let mut at = 0;
    loop {
        if record.get(at) == Some(&b'"') {
            at += 1;
            loop {
                match (record.get(at), record.get(at + 1)) {
                    (Some(b'"'), Some(b'"')) => {
                        fields.bytes.push(b'"');
                        at += 2;
                    }
                    (Some(b'"'), _) => {
                        at += 1;
                        break;
                    }
                    (Some(byte), _) => {
                        fields.bytes.push(*byte);
                        at += 1;
                    }
                    (None, _) => return End::InsideQuotes,
                }
            }
            if record.get(at).is_some_and(|byte| *byte != delimiter) {
                return End::Stray;
            }
        } else {
            let rest = &record[at..];
            let len = rest
                .iter()
                .position(|byte| *byte == delimiter)
                .unwrap_or(rest.len());
            fields.bytes.extend_from_slice(&rest[..len]);
            at += len;
        }
        fields.ends.push(fields.bytes.len());
        if at >= record.len() {
            return End::Whole;
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(record: &str) -> (End, Vec<String>) {
        let mut fields = Fields::default();
        let end = split(record.as_bytes(), b',', &mut fields);
        let all = (0..fields.len())
            .map(|i| fields.text(i).unwrap().to_string())
            .collect();
        (end, all)
    }

    #[test]
    fn records_split_by_rfc_4180() {
        let whole = |record, parts: &[&str]| {
            let parts = parts.iter().map(|part| part.to_string()).collect();
            assert_eq!(fields(record), (End::Whole, parts), "{record}");
        };
        whole("a,b,c\r\n", &["a", "b", "c"]);
        whole("a,,\n", &["a", "", ""]);
        whole("\"a,\"\"b\"\"\nc\",d", &["a,\"b\"\nc", "d"]);
        assert_eq!(fields("a,\"b").0, End::InsideQuotes);
        assert_eq!(fields("\"a\"b,c").0, End::Stray);
    }
}
