//! What a replay writes: `decisions.parquet`, `dead_letters.parquet`, `order.parquet`.
//!
//! A Parquet file can't be added to once it is closed, and can't be read before. So a replay writes
//! parts, closed at each checkpoint; a part is only counted on once a checkpoint names it. At the
//! end the parts' column chunks are joined, undecoded, into one file each.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::column::writer::ColumnCloseResult;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::SerializedFileWriter;
use sanderling_schemas::DeadLetter;
use sanderling_schemas::wire::{
    DecisionTable, dead_letters_schema, dead_letters_to_batch, orders_schema, orders_to_batch,
};

use crate::failure::{Failure, io_failure};
use crate::line::Decided;

/// Raw bytes of a dead letter that are kept in a table.
const RAW_BYTES_MAX: usize = 1 << 20;
/// Rows of a row group: what a writer holds in memory.
const ROW_GROUP_ROWS: usize = 1 << 16;
/// Tables, in the order of [`OutFolder::schemas`].
const TABLES: [&str; 3] = ["decisions", "dead_letters", "order"];

/// The folder of one replay.
pub struct OutFolder {
    folder: PathBuf,
    decisions: DecisionTable,
    part: usize,
    writers: [Option<ArrowWriter<File>>; 3],
}

impl OutFolder {
    /// Goes on in `folder` after its first `parts` parts; whatever lies there beyond them is
    /// removed.
    pub fn open(folder: &Path, decisions: DecisionTable, parts: usize) -> Result<Self, Failure> {
        let (at, joined) = (parts_folder(folder), joined_folder(folder));
        if joined.is_dir() {
            fs::remove_dir_all(&joined).map_err(|e| io_failure(&joined, "remove old parts", &e))?;
        }
        fs::create_dir_all(&at).map_err(|e| io_failure(&at, "make the output folder", &e))?;
        for name in TABLES {
            remove_if_there(&folder.join(format!("{name}.parquet")))?;
        }
        remove_if_there(&folder.join("summary.json"))?;
        let listing = fs::read_dir(&at).map_err(|e| io_failure(&at, "list the parts", &e))?;
        for entry in listing.flatten() {
            let number = entry
                .path()
                .file_stem()
                .and_then(|stem| stem.to_str()?.rsplit_once('-')?.1.parse::<usize>().ok());
            if number.is_none_or(|number| number >= parts) {
                remove_if_there(&entry.path())?;
            }
        }
        Ok(Self {
            folder: folder.to_path_buf(),
            decisions,
            part: parts,
            writers: [None, None, None],
        })
    }

    /// Writes a batch's decisions, its dead letters and its order record.
    pub fn write_decided(&mut self, decided: &Decided) -> Result<(), Failure> {
        if !decided.decisions.is_empty() {
            let timings = vec![decided.timing; decided.decisions.len()];
            let rows = self
                .decisions
                .to_batch(&decided.decisions, decided.source_ids.clone(), &timings)
                .map_err(|e| Failure::new("output", e.to_string()))?;
            self.write(0, &rows)?;
        }
        if !decided.dead_letters.is_empty() {
            self.write_dead_letters(&decided.dead_letters)?;
        }
        let order = orders_to_batch(std::slice::from_ref(&decided.order))
            .map_err(|e| Failure::new("output", e.to_string()))?;
        self.write(2, &order)
    }

    /// Writes refused records.
    pub fn write_dead_letters(&mut self, letters: &[DeadLetter]) -> Result<(), Failure> {
        let rows = dead_letters_to_batch(letters, RAW_BYTES_MAX)
            .map_err(|e| Failure::new("output", e.to_string()))?;
        self.write(1, &rows)
    }

    /// Closes the current part, so that it outlives a crash. Returns the number of whole parts.
    pub fn close_part(&mut self) -> Result<usize, Failure> {
        for (table, writer) in self.writers.iter_mut().enumerate() {
            if let Some(writer) = writer.take() {
                let path = part_path(&self.folder, table, self.part);
                let file = writer
                    .into_inner()
                    .map_err(|e| parquet_failure(&path, &e))?;
                file.sync_all()
                    .map_err(|e| io_failure(&path, "write", &e))?;
            }
        }
        self.part += 1;
        Ok(self.part)
    }

    /// Joins all parts and removes them.
    pub fn finish(mut self) -> Result<(), Failure> {
        let parts = self.close_part()?;
        for (table, schema) in self.schemas().into_iter().enumerate() {
            let whole = self.folder.join(format!("{}.parquet", TABLES[table]));
            let paths: Vec<PathBuf> = (0..parts)
                .map(|part| part_path(&self.folder, table, part))
                .filter(|path| path.exists())
                .collect();
            join(&paths, &whole, schema).map_err(|e| parquet_failure(&whole, &e))?;
        }
        // The parts go at one stroke, so that whoever resumes finds all of them or none.
        let (at, joined) = (parts_folder(&self.folder), joined_folder(&self.folder));
        fs::rename(&at, &joined).map_err(|e| io_failure(&at, "put the parts away", &e))?;
        fs::remove_dir_all(&joined).map_err(|e| io_failure(&joined, "remove the parts", &e))
    }

    /// Whether a replay into `folder` has parts to go on from: it has not been joined.
    pub fn has_parts(folder: &Path) -> bool {
        parts_folder(folder).is_dir()
    }

    fn write(&mut self, table: usize, rows: &RecordBatch) -> Result<(), Failure> {
        let path = part_path(&self.folder, table, self.part);
        let writer = match &mut self.writers[table] {
            Some(writer) => writer,
            empty => {
                let file = File::create(&path).map_err(|e| io_failure(&path, "write", &e))?;
                let writer = ArrowWriter::try_new(file, rows.schema(), Some(properties()))
                    .map_err(|e| parquet_failure(&path, &e))?;
                empty.insert(writer)
            }
        };
        writer.write(rows).map_err(|e| parquet_failure(&path, &e))
    }

    fn schemas(&self) -> [SchemaRef; 3] {
        [
            self.decisions.schema().clone(),
            dead_letters_schema(),
            orders_schema(),
        ]
    }
}

/// Joins Parquet files of one schema, copying column chunks as they are.
fn join(parts: &[PathBuf], whole: &Path, schema: SchemaRef) -> Result<(), ParquetError> {
    let Some(first) = parts.first() else {
        let writer = ArrowWriter::try_new(File::create(whole)?, schema, Some(properties()))?;
        return writer.close().map(drop);
    };
    let file_metadata = SerializedFileReader::new(File::open(first)?)?
        .metadata()
        .file_metadata()
        .clone();
    let properties = WriterProperties::builder()
        .set_key_value_metadata(file_metadata.key_value_metadata().cloned())
        .build();
    let mut writer = SerializedFileWriter::new(
        File::create(whole)?,
        file_metadata.schema_descr().root_schema_ptr(),
        properties.into(),
    )?;
    for path in parts {
        let input = File::open(path)?;
        let reader = SerializedFileReader::new(input.try_clone()?)?;
        for group in reader.metadata().row_groups() {
            let mut out = writer.next_row_group()?;
            for column in group.columns() {
                let close = ColumnCloseResult {
                    bytes_written: column.compressed_size() as u64,
                    rows_written: group.num_rows() as u64,
                    metadata: column.clone(),
                    bloom_filter: None,
                    column_index: None,
                    offset_index: None,
                };
                out.append_column(&input, close)?;
            }
            out.close()?;
        }
    }
    writer.close().map(drop)
}

fn properties() -> WriterProperties {
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .build()
}

fn parts_folder(folder: &Path) -> PathBuf {
    folder.join("parts")
}

fn joined_folder(folder: &Path) -> PathBuf {
    folder.join("parts-joined")
}

fn part_path(folder: &Path, table: usize, part: usize) -> PathBuf {
    parts_folder(folder).join(format!("{}-{part:06}.parquet", TABLES[table]))
}

fn remove_if_there(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io_failure(path, "remove", &e)),
        _ => Ok(()),
    }
}

fn parquet_failure(path: &Path, error: &ParquetError) -> Failure {
    Failure::new("output", format!("cannot write: {error}"))
        .in_file(path)
        .cure("check that there is space, and go on with --resume")
}
