//! Parquet files, a batch of rows at a time.

use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::datatypes::SchemaRef;
use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};

use crate::IngestError;
use crate::decode::Decoder;
use crate::recorded::{CHUNK_ROWS, Chunk};
use crate::values::row_as_json;

pub(crate) struct ParquetTable {
    path: PathBuf,
    schema: SchemaRef,
    batches: ParquetRecordBatchReader,
    pub(crate) rows: u64,
}

impl ParquetTable {
    pub(crate) fn open(path: &Path, decoder: &Decoder) -> Result<Self, IngestError> {
        let file = File::open(path).map_err(|source| IngestError::Open {
            path: path.into(),
            source,
        })?;
        let unreadable = |error: parquet::errors::ParquetError| IngestError::Read {
            path: path.into(),
            message: error.to_string(),
        };
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(unreadable)?;
        let schema = builder.schema().clone();
        if let Some((column, found, wanted, cure)) = decoder.never_casts(&schema) {
            return Err(IngestError::ColumnType {
                path: path.into(),
                column,
                found: found.to_string(),
                wanted,
                cure: cure.into(),
            });
        }
        let rows = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
        let batches = builder
            .with_batch_size(CHUNK_ROWS)
            .build()
            .map_err(unreadable)?;
        Ok(Self {
            path: path.into(),
            schema,
            batches,
            rows,
        })
    }

    pub(crate) fn columns(&self) -> Vec<&str> {
        self.schema
            .fields()
            .iter()
            .map(|field| field.name().as_str())
            .collect()
    }

    pub(crate) fn next_chunk(&mut self, decoder: &Decoder) -> Result<Option<Chunk>, IngestError> {
        let Some(table) = self.batches.next() else {
            return Ok(None);
        };
        let table = table.map_err(|error| IngestError::Read {
            path: self.path.clone(),
            message: error.to_string(),
        })?;
        let decoded = decoder.decode_table(&table)?;
        let raw = decoded
            .refused
            .iter()
            .map(|r| row_as_json(&table, r.record))
            .collect();
        Ok(Some(Chunk {
            decoded,
            raw,
            records: table.num_rows(),
        }))
    }
}
