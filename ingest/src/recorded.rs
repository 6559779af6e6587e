//! One recorded file, read up to its next row.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{Array, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::TimestampMicrosecondType;
use sanderling_schemas::{DeadLetter, EventId, Offset, Partition};

use crate::IngestError;
use crate::csv::CsvTable;
use crate::decode::Decoder;
use crate::decoded::Decoded;
use crate::json::JsonLines;
use crate::parquet::ParquetTable;

/// Records decoded at a time.
pub(crate) const CHUNK_ROWS: usize = 8192;

/// Records of a file, decoded.
pub(crate) struct Chunk {
    pub decoded: Decoded,
    /// Bytes of each refused record.
    pub raw: Vec<Vec<u8>>,
    /// All of them, accepted and refused.
    pub records: usize,
}

/// Rows of a chunk, all of them.
pub(crate) struct Rows {
    pub rows: RecordBatch,
    pub ids: Vec<EventId>,
    pub broker_times: Option<Int64Array>,
    pub labels: Option<Int64Array>,
    /// Refused records that are left out, being past the end.
    pub left_out: Vec<EventId>,
}

/// One file, read up to its next row.
pub(crate) struct RecordedFile {
    path: PathBuf,
    stem: Arc<str>,
    label_topic: Arc<str>,
    labels_made: i64,
    recorded: bool,
    decoder: Decoder,
    reader: Reader,
    ended: bool,
    records_read: u64,
    /// Rows of the current chunk; `next` is the next of them.
    rows: RecordBatch,
    next: usize,
    ids: Vec<EventId>,
    records: Vec<usize>,
    broker_times: Option<Int64Array>,
    labels: Option<Int64Array>,
    /// Refused records of the current chunk that have not been passed yet.
    refused: VecDeque<(usize, DeadLetter)>,
    /// Refused records of the current chunk that are past the end.
    left_out: Vec<EventId>,
    topics: Vec<Arc<str>>,
}

impl RecordedFile {
    pub(crate) fn open(path: &Path, decoder: Decoder) -> Result<Self, IngestError> {
        let reader = Reader::open(path, &decoder)?;
        if let Some(present) = reader.columns()
            && let Some((name, from)) = decoder.missing(&present)
        {
            return Err(IngestError::MissingColumn {
                path: path.into(),
                stream: decoder.spec().name.to_string(),
                name: name.into(),
                from: from.into(),
                present: present.join(", "),
            });
        }
        let recorded = reader.columns().is_some_and(|present| {
            ["_topic", "_partition", "_offset"]
                .iter()
                .all(|name| present.contains(name))
        });
        let stem: Arc<str> = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into();
        let label_topic = format!("{stem}.labels").into();
        let rows = RecordBatch::new_empty(decoder.relation().schema.clone());
        Ok(Self {
            path: path.into(),
            stem,
            label_topic,
            labels_made: 0,
            recorded,
            decoder,
            reader,
            ended: false,
            records_read: 0,
            rows,
            next: 0,
            ids: Vec::new(),
            records: Vec::new(),
            broker_times: None,
            labels: None,
            refused: VecDeque::new(),
            left_out: Vec::new(),
            topics: Vec::new(),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn stem(&self) -> &str {
        &self.stem
    }

    /// The file has the columns of a recorded origin.
    pub(crate) fn recorded(&self) -> bool {
        self.recorded
    }

    /// There is nothing left to load.
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// Rows of the current chunk.
    pub(crate) fn rows(&self) -> &RecordBatch {
        &self.rows
    }

    /// The next row, as an index into the current chunk.
    pub(crate) fn next(&self) -> usize {
        self.next
    }

    pub(crate) fn rows_total(&self) -> Option<u64> {
        self.reader.rows_total()
    }

    pub(crate) fn has_column(&self, name: &str) -> bool {
        self.reader
            .columns()
            .is_none_or(|present| present.contains(&name))
    }

    pub(crate) fn fraction_read(&self) -> f64 {
        match (self.ended, self.reader.fraction_read(self.records_read)) {
            (true, _) => 1.0,
            (false, fraction) => fraction,
        }
    }

    /// Event time of the next row, if the current chunk has one.
    pub(crate) fn head(&self) -> Option<i64> {
        let times = self
            .rows
            .column(0)
            .as_primitive::<TimestampMicrosecondType>();
        times.values().get(self.next).copied()
    }

    pub(crate) fn head_id(&self) -> EventId {
        self.ids[self.next].clone()
    }

    pub(crate) fn head_broker_time(&self) -> Option<i64> {
        let times = self.broker_times.as_ref()?;
        times.is_valid(self.next).then(|| times.value(self.next))
    }

    pub(crate) fn head_label(&self) -> Option<i64> {
        let labels = self.labels.as_ref()?;
        labels.is_valid(self.next).then(|| labels.value(self.next))
    }

    /// The id of the next row that a label of this file becomes.
    pub(crate) fn next_label_id(&mut self) -> EventId {
        self.labels_made += 1;
        EventId {
            topic: self.label_topic.clone(),
            partition: Partition(0),
            offset: Offset(self.labels_made - 1),
        }
    }

    /// Passes the next row and the refused records before the one that follows.
    pub(crate) fn advance(&mut self, rejected: &mut VecDeque<DeadLetter>) {
        self.next += 1;
        self.pass_refused(rejected);
    }

    fn pass_refused(&mut self, rejected: &mut VecDeque<DeadLetter>) {
        let until = self.records.get(self.next).copied().unwrap_or(usize::MAX);
        while self
            .refused
            .front()
            .is_some_and(|(record, _)| *record < until)
        {
            rejected.extend(self.refused.pop_front().map(|(_, letter)| letter));
        }
    }

    /// Passes the whole current chunk and its refused records.
    pub(crate) fn take_chunk(&mut self, rejected: &mut VecDeque<DeadLetter>) -> Rows {
        let rows = RecordBatch::new_empty(self.rows.schema());
        self.next = 0;
        self.records.clear();
        self.pass_refused(rejected);
        Rows {
            rows: std::mem::replace(&mut self.rows, rows),
            ids: std::mem::take(&mut self.ids),
            broker_times: self.broker_times.take(),
            labels: self.labels.take(),
            left_out: std::mem::take(&mut self.left_out),
        }
    }

    /// Reads the next chunk in place of the current one, which is used up: rows before `to`, and
    /// refused records that are not known to be at or past `refused_to`.
    pub(crate) fn load(
        &mut self,
        to: Option<i64>,
        refused_to: Option<i64>,
        rejected: &mut VecDeque<DeadLetter>,
    ) -> Result<(), IngestError> {
        let Some(mut chunk) = self.reader.next_chunk(&self.decoder)? else {
            self.ended = true;
            return Ok(());
        };
        let first = self.records_read;
        self.records_read += chunk.records as u64;
        let letters: Vec<_> = chunk
            .decoded
            .refused
            .iter()
            .cloned()
            .zip(chunk.raw)
            .collect();
        let kept = |time: Option<i64>| match (time, refused_to) {
            (Some(time), Some(to)) => time < to,
            _ => true,
        };
        self.refused.clear();
        self.left_out.clear();
        for (refusal, raw) in letters {
            let event = refusal.recorded;
            let event = event.unwrap_or_else(|| self.file_id(first, refusal.record));
            if !kept(refusal.event_time_us) {
                self.left_out.push(event);
                continue;
            }
            let (reason, detail) = (refusal.reason, refusal.detail);
            let letter = self.decoder.dead_letter(event, reason, detail, &raw, None);
            self.refused.push_back((refusal.record, letter));
        }
        if let Some(to) = to {
            chunk.decoded = chunk.decoded.before(to)?;
        }
        let decoded = chunk.decoded;
        self.ids = Vec::with_capacity(decoded.records.len());
        for (row, record) in decoded.records.iter().enumerate() {
            let origins = decoded.origins.as_ref();
            let recorded = origins
                .and_then(|origins| origins.id(row, |name| topic_named(&mut self.topics, name)));
            let id = recorded.unwrap_or_else(|| self.file_id(first, *record));
            self.ids.push(id);
        }
        self.rows = decoded.rows;
        self.records = decoded.records;
        self.broker_times = decoded.broker_times;
        self.labels = decoded.labels;
        self.next = 0;
        self.pass_refused(rejected);
        Ok(())
    }

    fn file_id(&self, first: u64, record: usize) -> EventId {
        EventId {
            topic: self.stem.clone(),
            partition: Partition(0),
            offset: Offset(first as i64 + record as i64),
        }
    }
}

/// The one copy of a topic's name.
fn topic_named(topics: &mut Vec<Arc<str>>, name: &str) -> Arc<str> {
    if let Some(topic) = topics.iter().find(|topic| &***topic == name) {
        return topic.clone();
    }
    topics.push(name.into());
    topics[topics.len() - 1].clone()
}

/// A file in one of the formats.
enum Reader {
    Parquet(ParquetTable),
    Csv(CsvTable, u64),
    JsonLines(JsonLines, u64),
}

impl Reader {
    fn open(path: &Path, decoder: &Decoder) -> Result<Self, IngestError> {
        let bytes = std::fs::metadata(path)
            .map_err(|source| IngestError::Open {
                path: path.into(),
                source,
            })?
            .len();
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("parquet") => Ok(Reader::Parquet(ParquetTable::open(path, decoder)?)),
            Some("csv") => Ok(Reader::Csv(CsvTable::open(path)?, bytes)),
            Some("jsonl" | "ndjson") => Ok(Reader::JsonLines(JsonLines::open(path)?, bytes)),
            _ => Err(IngestError::Extension { path: path.into() }),
        }
    }

    /// Column names, where the file has a schema.
    fn columns(&self) -> Option<Vec<&str>> {
        match self {
            Reader::Parquet(table) => Some(table.columns()),
            Reader::Csv(table, _) => Some(table.columns()),
            Reader::JsonLines(..) => None,
        }
    }

    fn rows_total(&self) -> Option<u64> {
        match self {
            Reader::Parquet(table) => Some(table.rows),
            Reader::Csv(..) | Reader::JsonLines(..) => None,
        }
    }

    fn fraction_read(&self, records: u64) -> f64 {
        let (done, total) = match self {
            Reader::Parquet(table) => (records, table.rows),
            Reader::Csv(table, bytes) => (table.bytes_read(), *bytes),
            Reader::JsonLines(lines, bytes) => (lines.bytes_read(), *bytes),
        };
        if total == 0 {
            1.0
        } else {
            done as f64 / total as f64
        }
    }

    fn next_chunk(&mut self, decoder: &Decoder) -> Result<Option<Chunk>, IngestError> {
        match self {
            Reader::Parquet(table) => table.next_chunk(decoder),
            Reader::Csv(table, _) => table.next_chunk(decoder),
            Reader::JsonLines(lines, _) => lines.next_chunk(decoder),
        }
    }
}

/// A text file, behind its byte order mark if it has one.
pub(crate) fn open_text(path: &Path) -> Result<BufReader<File>, IngestError> {
    let open = |source| IngestError::Open {
        path: path.into(),
        source,
    };
    let mut file = BufReader::with_capacity(1 << 18, File::open(path).map_err(open)?);
    if file.fill_buf().map_err(open)?.starts_with(b"\xef\xbb\xbf") {
        file.consume(3);
    }
    Ok(file)
}
