//! An order log in a file: the `order.parquet` of a replay, or order records as JSON, one a line, as
//! they stand on their topic.
//!
//! It is read twice, once for the rows that it names and once to follow it, so that its records need
//! not be held.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Lines, Write};
use std::path::{Path, PathBuf};

use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use sanderling_ingest::{IngestError, OrderLog, Wanted};
use sanderling_schemas::wire::orders_from_batch;
use sanderling_schemas::{Offsets, OrderRecord};

use crate::failure::{Failure, io_failure};
use crate::folder::PipelineFolder;
use crate::replay::input_failure;

/// Records of a table that are decoded at once.
const RECORDS: usize = 1024;

/// An order log in a file.
#[derive(Debug, Clone)]
pub struct OrderFile {
    path: PathBuf,
    is_table: bool,
}

/// What stops the copying of a topic.
enum Unwritten {
    Topic(IngestError),
    Disk(Failure),
}

impl From<IngestError> for Unwritten {
    fn from(e: IngestError) -> Self {
        Self::Topic(e)
    }
}

/// What an order log names.
pub struct Named {
    /// The rows.
    pub wanted: Wanted,
    /// Their number.
    pub rows: u64,
    /// The lanes; the one of all partitions is `None`.
    pub lanes: BTreeSet<Option<i32>>,
}

impl OrderFile {
    /// The log in `path`, whose extension tells the form: .parquet, or .jsonl or .json.
    pub fn new(path: &Path) -> Result<Self, Failure> {
        let is_table = match path.extension().and_then(|extension| extension.to_str()) {
            Some("parquet") => true,
            Some("jsonl" | "ndjson" | "json") => false,
            _ => {
                return Err(
                    Failure::usage("an order log is a .parquet file or a .jsonl file")
                        .in_file(path)
                        .cure("name the order.parquet of a replay, or order records as JSON lines"),
                );
            }
        };
        Ok(Self {
            path: path.to_path_buf(),
            is_table,
        })
    }

    /// The log of the pipeline's order topic, copied to `order-log.jsonl` in the folder `out`; with
    /// `again`, the copy that an earlier run made, if it did.
    pub fn of_topic(folder: &PipelineFolder, out: &Path, again: bool) -> Result<Self, Failure> {
        let copy = out.join("order-log.jsonl");
        if again && copy.is_file() {
            return Self::new(&copy);
        }
        let (kafka, order) = (&folder.settings.kafka, &folder.settings.output.order);
        let topic = order.as_ref().ok_or_else(|| {
            Failure::new("config", "the pipeline writes no order log")
                .in_file(&folder.path.join("pipeline.yaml"))
                .cure("name the topic with output.order, or give the log as a file: --order FILE")
        })?;
        let failed = |e: std::io::Error| io_failure(&copy, "write the order log", &e);
        std::fs::create_dir_all(out).map_err(failed)?;
        // Under another name until it is whole.
        let part = out.join("order-log.jsonl.part");
        let mut file = BufWriter::new(File::create(&part).map_err(failed)?);
        let mut records = 0_u64;
        let read = OrderLog::new(&kafka.brokers, &kafka.properties, topic)
            .map_err(input_failure)?
            .read_from(&Offsets::default(), |record| {
                records += 1;
                serde_json::to_writer(&mut file, &record)
                    .map_err(std::io::Error::from)
                    .and_then(|()| file.write_all(b"\n"))
                    .map_err(|e| Unwritten::Disk(failed(e)))
            });
        match read {
            Ok(_) => {}
            Err(Unwritten::Topic(e)) => return Err(input_failure(e)),
            Err(Unwritten::Disk(failure)) => return Err(failure),
        }
        if records == 0 {
            return Err(Failure::new("order", format!("the topic {topic} holds no order record"))
                .cure("run the pipeline first, or replay the topics in the broker's order, without --order"));
        }
        file.flush()
            .and_then(|()| std::fs::rename(&part, &copy))
            .map_err(failed)?;
        Self::new(&copy)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its records from the first on.
    pub fn records(&self) -> Result<Records, Failure> {
        let file =
            File::open(&self.path).map_err(|e| io_failure(&self.path, "read the order log", &e))?;
        let reader = match self.is_table {
            false => Reader::Lines(BufReader::new(file).lines()),
            true => {
                let reader = ParquetRecordBatchReaderBuilder::try_new(file)
                    .and_then(|builder| builder.with_batch_size(RECORDS).build());
                Reader::Table(reader.map_err(|e| unreadable(&self.path, e))?)
            }
        };
        Ok(Records {
            path: self.path.clone(),
            reader,
            decoded: Vec::new().into_iter(),
            line: 0,
        })
    }

    /// What all its records name.
    pub fn named(&self) -> Result<Named, Failure> {
        let mut named = Named {
            wanted: Wanted::default(),
            rows: 0,
            lanes: BTreeSet::new(),
        };
        for record in self.records()? {
            let record = record?;
            named.lanes.insert(record.lane);
            named.rows += (record.runs.iter())
                .map(|run| (run.range.next.0 - run.range.from.0).max(0) as u64)
                .sum::<u64>();
            named.wanted.add(&record.runs);
        }
        Ok(named)
    }
}

/// The records of a log, one after the other.
pub struct Records {
    path: PathBuf,
    reader: Reader,
    decoded: std::vec::IntoIter<OrderRecord>,
    line: usize,
}

enum Reader {
    Table(ParquetRecordBatchReader),
    Lines(Lines<BufReader<File>>),
}

impl Iterator for Records {
    type Item = Result<OrderRecord, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(record) = self.decoded.next() {
                return Some(Ok(record));
            }
            match &mut self.reader {
                Reader::Table(table) => {
                    let records = match table.next()? {
                        Ok(rows) => orders_from_batch(&rows).map_err(|e| e.to_string()),
                        Err(e) => Err(e.to_string()),
                    };
                    match records {
                        Ok(records) => self.decoded = records.into_iter(),
                        Err(message) => return Some(Err(unreadable(&self.path, message))),
                    }
                }
                Reader::Lines(lines) => {
                    let line = lines.next()?;
                    self.line += 1;
                    let record = match line {
                        Err(e) => Err(io_failure(&self.path, "read the order log", &e)),
                        Ok(line) if line.trim().is_empty() => continue,
                        Ok(line) => serde_json::from_str(&line).map_err(|e| {
                            unreadable(&self.path, &e).at(Some(self.line), Some(e.column()))
                        }),
                    };
                    return Some(record);
                }
            }
        }
    }
}

fn unreadable(path: &Path, message: impl ToString) -> Failure {
    Failure::new(
        "order",
        format!("not an order log: {}", message.to_string()),
    )
    .in_file(path)
    .cure("name the order.parquet of a replay, or order records as JSON lines")
}
