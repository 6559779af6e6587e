//! Reference tables: files that say more of an event than the event does, read whole.
//!
//! A table's version is the SHA-256 of its file. It stands in every order record, since what a table said
//! when an event came is nothing that the events can tell. A service keeps each version that it has taken
//! beside its checkpoints ([`TableShelf`]), so that a recovery or a replay takes it again at the same batch.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::{CastOptions, cast_with_options, concat_batches};
use arrow::csv::ReaderBuilder;
use arrow::csv::reader::Format;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::error::ArrowError;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use sanderling_features::Table;
use sha2::{Digest, Sha256};

use crate::failure::{Failure, io_failure};
use crate::folder::PipelineFolder;

/// One version of each table of a pipeline.
pub type Tables = Arc<[Arc<Table>]>;

/// Versions by the tables' names.
pub fn versions(tables: &[Arc<Table>]) -> BTreeMap<String, String> {
    (tables.iter())
        .map(|table| (table.name().to_string(), table.version().to_string()))
        .collect()
}

/// A table that is declared.
#[derive(Debug, Clone)]
pub struct TableSpec {
    /// What features call it.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// The column that it is joined on.
    pub key: String,
    /// Types that are declared, by column.
    pub columns: Vec<(String, DataType)>,
}

impl TableSpec {
    /// Reads the table.
    ///
    /// # Errors
    /// A file that cannot be read, a column that is not of its type, a key that is missing or stands there
    /// twice.
    pub fn read(&self) -> Result<Table, Failure> {
        let bytes =
            std::fs::read(&self.path).map_err(|e| io_failure(&self.path, "read the table", &e))?;
        self.parse(bytes)
    }

    /// The table whose file has these bytes.
    ///
    /// # Errors
    /// As [`TableSpec::read`].
    pub fn parse(&self, bytes: Vec<u8>) -> Result<Table, Failure> {
        let version = hex::encode(Sha256::digest(&bytes));
        let wrong = |e: String| Failure::new("table", e).in_file(&self.path);
        let extension = self
            .path
            .extension()
            .and_then(|extension| extension.to_str());
        let rows = match extension {
            Some("parquet") => read_parquet(bytes),
            Some("csv") => self.read_csv(&bytes),
            _ => {
                return Err(wrong("the file is of no known kind".into())
                    .cure("name a .parquet file, or a .csv file with a header"));
            }
        };
        let rows = rows.map_err(|e| {
            wrong(e.to_string())
                .cure("correct the file, or the types of its columns under `tables:`")
        })?;
        let rows = self.typed(&rows)?;
        Table::new(&self.name, &self.key, rows, version.into()).map_err(|e| {
            let cure = e.cure().unwrap_or_default().to_string();
            wrong(e.to_string()).cure(cure)
        })
    }

    /// Types are guessed from all rows; a key is text, so that 007 stays 007.
    fn read_csv(&self, bytes: &[u8]) -> Result<RecordBatch, ArrowError> {
        let format = Format::default().with_header(true);
        let (guessed, _) = format.infer_schema(Cursor::new(bytes), None)?;
        let fields = guessed.fields().iter().map(|field| {
            let declared = self.columns.iter().find(|(name, _)| name == field.name());
            let data_type = match declared {
                Some((_, declared)) => declared.clone(),
                None if *field.name() == self.key => DataType::Utf8,
                None if *field.data_type() == DataType::Null => DataType::Utf8,
                None => field.data_type().clone(),
            };
            Field::new(field.name(), data_type, true)
        });
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let reader = ReaderBuilder::new(schema.clone())
            .with_format(format)
            .build(Cursor::new(bytes))?;
        let batches = reader.collect::<Result<Vec<_>, _>>()?;
        concat_batches(&schema, &batches)
    }

    /// Columns in their declared types, texts of any kind as plain ones.
    fn typed(&self, rows: &RecordBatch) -> Result<RecordBatch, Failure> {
        let wrong = |message: String, cure: &str| {
            Failure::new("table", format!("table `{}`: {message}", self.name))
                .in_file(&self.path)
                .cure(cure)
        };
        let schema = rows.schema();
        if let Some((name, _)) =
            (self.columns.iter()).find(|(name, _)| schema.index_of(name).is_err())
        {
            return Err(wrong(
                format!("it has no column `{name}`"),
                "declare types of columns that the file has",
            ));
        }
        let strict = CastOptions {
            safe: false,
            ..CastOptions::default()
        };
        let columns = (schema.fields().iter().zip(rows.columns())).map(|(field, column)| {
            let declared = self.columns.iter().find(|(name, _)| name == field.name());
            let data_type = match (declared, column.data_type()) {
                (Some((_, declared)), _) => declared.clone(),
                (None, DataType::Utf8View | DataType::LargeUtf8) => DataType::Utf8,
                (None, DataType::Dictionary(_, values)) if **values == DataType::Utf8 => {
                    DataType::Utf8
                }
                (None, other) => other.clone(),
            };
            let column: ArrayRef = cast_with_options(column, &data_type, &strict).map_err(|e| {
                wrong(
                    format!("column `{}`: {e}", field.name()),
                    "declare a type that its values have",
                )
            })?;
            Ok((field.name().clone(), column))
        });
        let columns = columns.collect::<Result<Vec<_>, Failure>>()?;
        let fields = columns
            .iter()
            .map(|(name, column)| Field::new(name, column.data_type().clone(), true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let columns = columns.into_iter().map(|(_, column)| column).collect();
        RecordBatch::try_new(schema, columns).map_err(|e| wrong(e.to_string(), "correct the file"))
    }
}

fn read_parquet(bytes: Vec<u8>) -> Result<RecordBatch, ArrowError> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(Bytes::from(bytes))?;
    let schema = reader.schema().clone();
    let batches = reader.build()?.collect::<Result<Vec<_>, _>>()?;
    // Metadata of the file is no part of the table.
    let plain = Arc::new(Schema::new(schema.fields().clone()));
    let batches = (batches.into_iter())
        .map(|batch| batch.with_schema(plain.clone()))
        .collect::<Result<Vec<_>, _>>()?;
    concat_batches(&plain, &batches)
}

/// The folder in which the versions of tables are kept that an order record may name:
/// `<state.url>/<pipeline>/tables/<table>-<version>.<extension>`.
#[derive(Debug)]
pub struct TableShelf {
    specs: Vec<TableSpec>,
    folder: Option<PathBuf>,
}

impl TableShelf {
    /// The shelf of a pipeline; an empty one where its state is in no folder.
    pub fn of(folder: &PipelineFolder) -> Self {
        let state = folder.settings.state.url.strip_prefix("file://");
        TableShelf {
            specs: folder.tables.clone(),
            folder: state.map(|state| Path::new(state).join(&folder.name).join("tables")),
        }
    }

    /// The tables that it is for.
    pub fn specs(&self) -> &[TableSpec] {
        &self.specs
    }

    /// The versions that an order record names, of those in `known` and those on the shelf. A table that it
    /// does not name stays as it is in `known`.
    ///
    /// # Errors
    /// A version that is kept nowhere.
    pub fn find(
        &self,
        known: &[Arc<Table>],
        wanted: &BTreeMap<String, String>,
    ) -> Result<Tables, Failure> {
        (self.specs.iter().zip(known))
            .map(|(spec, table)| match wanted.get(table.name()) {
                Some(version) if **version != **table.version() => self.take(spec, version),
                _ => Ok(table.clone()),
            })
            .collect()
    }

    fn take(&self, spec: &TableSpec, version: &str) -> Result<Arc<Table>, Failure> {
        let missing = || {
            Failure::new(
                "table",
                format!(
                    "the order records were made with version {} of table `{}`, which is kept nowhere",
                    &version[..version.len().min(12)],
                    spec.name
                ),
            )
            .in_file(&spec.path)
            .cure("put that version of the file back; a service keeps those it has taken under state.url, so name that with --set state.url=file:///path")
        };
        // A version that is no hash could lead out of the folder.
        if !version.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(missing());
        }
        let kept = self.path_of(spec, version).ok_or_else(missing)?;
        let bytes = std::fs::read(kept).map_err(|_| missing())?;
        let table = spec.parse(bytes)?;
        match **table.version() == *version {
            true => Ok(Arc::new(table)),
            false => Err(missing()),
        }
    }

    fn path_of(&self, spec: &TableSpec, version: &str) -> Option<PathBuf> {
        let extension = spec.path.extension()?.to_str()?;
        Some(
            self.folder
                .as_ref()?
                .join(format!("{}-{version}.{extension}", spec.name)),
        )
    }

    /// Reads a table and keeps what was read.
    ///
    /// # Errors
    /// As [`TableSpec::read`], and where the shelf cannot be written.
    pub fn read_and_keep(&self, spec: &TableSpec) -> Result<Arc<Table>, Failure> {
        let bytes =
            std::fs::read(&spec.path).map_err(|e| io_failure(&spec.path, "read the table", &e))?;
        let table = spec.parse(bytes.clone())?;
        if let Some(kept) = self.path_of(spec, table.version())
            && !kept.exists()
        {
            let failed = |e: std::io::Error| io_failure(&kept, "keep the table", &e);
            let parent = kept.parent().expect("a file on the shelf is in its folder");
            std::fs::create_dir_all(parent).map_err(failed)?;
            let part = kept.with_extension("part");
            std::fs::write(&part, bytes).map_err(failed)?;
            std::fs::rename(&part, &kept).map_err(failed)?;
        }
        Ok(Arc::new(table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, columns: &[(&str, DataType)]) -> TableSpec {
        TableSpec {
            name: "merchants".into(),
            path: name.into(),
            key: "id".into(),
            columns: (columns.iter())
                .map(|(name, data_type)| (name.to_string(), data_type.clone()))
                .collect(),
        }
    }

    fn fault(name: &str, columns: &[(&str, DataType)], text: &str) -> String {
        let failure = spec(name, columns).parse(text.into()).unwrap_err();
        assert!(
            failure.cure.is_some() && failure.file.is_some(),
            "{failure:?}"
        );
        failure.to_string()
    }

    #[test]
    fn a_csv_has_the_types_of_its_values_and_a_key_of_text() {
        let text = "id,mean,count,open\n007,1.50,3,true\n7,2,,false\n";
        let money = DataType::Decimal128(12, 2);
        let table = spec("m.csv", &[("mean", money.clone())])
            .parse(text.into())
            .unwrap();
        let schema = table.rows().schema();
        let types: Vec<&DataType> = schema.fields().iter().map(|f| f.data_type()).collect();
        assert_eq!(
            types,
            [
                &DataType::Utf8,
                &money,
                &DataType::Int64,
                &DataType::Boolean
            ]
        );
        assert_eq!(table.rows().column(2).null_count(), 1);
        let again = spec("m.csv", &[]).parse(text.into()).unwrap();
        assert_eq!(table.version(), again.version());
        let other = spec("m.csv", &[])
            .parse(text.replace("1.50", "1.51").into())
            .unwrap();
        assert_ne!(table.version(), other.version());
    }

    #[test]
    fn a_parquet_file_is_the_same_table() {
        let table = spec("m.csv", &[])
            .parse("id,mean\na,1.5\nb,\n".into())
            .unwrap();
        let mut file = Vec::new();
        let schema = table.rows().schema();
        let mut writer = parquet::arrow::ArrowWriter::try_new(&mut file, schema, None).unwrap();
        writer.write(table.rows()).unwrap();
        writer.close().unwrap();
        let read = spec("m.parquet", &[]).parse(file).unwrap();
        assert_eq!(read.rows(), table.rows());
    }

    #[test]
    fn a_table_that_cannot_be_joined_is_refused() {
        let double = [("mean", DataType::Float64)];
        let faults = [
            (
                fault("m.csv", &[], "id,mean\na,1\nb,2\na,3\n"),
                "`id` a stands there twice, the second time in row 3",
            ),
            (
                fault("m.csv", &[], "id,mean\na,1\n,2\n"),
                "row 2 has no `id`",
            ),
            (
                fault("m.csv", &[], "name,mean\na,1\n"),
                "it has no column `id`; it has name, mean",
            ),
            (fault("m.csv", &double, "id,mean\na,much\n"), "much"),
            (
                fault("m.csv", &double, "id\na\n"),
                "it has no column `mean`",
            ),
            (fault("m.json", &[], "{}"), "no known kind"),
            (fault("m.parquet", &[], "id"), "m.parquet"),
        ];
        for (fault, words) in faults {
            assert!(fault.contains(words), "{words:?} is not in {fault:?}");
        }
    }
}
