//! `sanderling features`: the feature rows alone, by the same engine that serves them.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use sanderling_ingest::{EventSource, Input, SourceEvent};
use sanderling_schemas::FeatureBatch;
use sanderling_schemas::relation::EVENT_TIME;
use serde::Serialize;

use crate::failure::{Failure, io_failure};
use crate::folder::PipelineFolder;
use crate::progress::Progress;
use crate::replay::{input_failure, open_files};

/// Rows that the engine takes at once.
const BATCH_ROWS: usize = 4096;

/// What was written.
#[derive(Debug, Serialize)]
pub struct FeaturesWritten {
    file: PathBuf,
    #[serde(rename = "in")]
    rows_in: u64,
    rows: u64,
    dead_lettered: u64,
    features: usize,
    events_per_s: f64,
    seconds: f64,
}

impl fmt::Display for FeaturesWritten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} rows of {} features ({} read, {} dead-lettered), {} rows/s",
            self.file.display(),
            self.rows,
            self.features,
            self.rows_in,
            self.dead_lettered,
            self.events_per_s
        )
    }
}

/// Folds `inputs` and writes `out/features.parquet`. A long batch is featurised on `threads` cores, which changes no
/// feature.
pub fn write(
    folder: &PipelineFolder,
    inputs: &[Input],
    out: &Path,
    threads: usize,
) -> Result<FeaturesWritten, Failure> {
    let started = Instant::now();
    let mut engine = folder.features()?.with_threads(threads);
    std::fs::create_dir_all(out).map_err(|e| io_failure(out, "make the output folder", &e))?;
    let file = out.join("features.parquet");
    let schema = schema(
        folder,
        &engine
            .schema()
            .fields
            .iter()
            .map(|f| (f.name.clone(), f.data_type.clone()))
            .collect::<Vec<_>>(),
    )?;
    let failed =
        |e: parquet::errors::ParquetError| Failure::new("output", e.to_string()).in_file(&file);
    let target = File::create(&file).map_err(|e| io_failure(&file, "write", &e))?;
    let mut writer = ArrowWriter::try_new(target, schema.clone(), None).map_err(failed)?;
    let mut written = FeaturesWritten {
        file: file.clone(),
        rows_in: 0,
        rows: 0,
        dead_lettered: 0,
        features: engine.schema().fields.len(),
        events_per_s: 0.0,
        seconds: 0.0,
    };
    let mut source = open_files(folder, inputs, None, None)?;
    let progress = Progress::rows("features", source.rows_total());
    loop {
        match source
            .next(BATCH_ROWS, Duration::ZERO)
            .map_err(input_failure)?
        {
            SourceEvent::Batch(batch) => {
                written.rows_in += batch.len() as u64;
                let features = engine
                    .compute(&batch)
                    .map_err(|e| folder.feature_failure(&e))?;
                written.rows += features.scored.len() as u64;
                written.dead_lettered += features.too_late.len() as u64;
                let rows = rows(folder, &schema, &features)
                    .map_err(|e| Failure::new("output", e.to_string()))?;
                writer.write(&rows).map_err(failed)?;
            }
            SourceEvent::Rejected(letters) => {
                written.rows_in += letters.len() as u64;
                written.dead_lettered += letters.len() as u64;
            }
            SourceEvent::End => break,
            SourceEvent::Idle | SourceEvent::Assigned(_) | SourceEvent::Revoked(_) => {}
        }
        progress.set(written.rows_in);
    }
    writer.close().map_err(failed)?;
    progress.finish();
    written.seconds = started.elapsed().as_secs_f64();
    written.events_per_s = (written.rows as f64 / written.seconds).round();
    Ok(written)
}

/// `_topic, _partition, _offset`, the id column, `event_time`, the features.
fn schema(folder: &PipelineFolder, features: &[(String, DataType)]) -> Result<SchemaRef, Failure> {
    let relation = &folder.relation;
    let mut fields = vec![
        Field::new("_topic", DataType::Utf8, false),
        Field::new("_partition", DataType::Int32, false),
        Field::new("_offset", DataType::Int64, false),
    ];
    if let Some(id) = &relation.id
        && let Ok(field) = relation.schema.field_with_name(id)
    {
        fields.push(field.clone());
    }
    fields.push(relation.schema.field(0).clone());
    for (name, data_type) in features {
        if fields.iter().any(|f| f.name() == name) {
            return Err(Failure::new(
                "features",
                format!("the feature `{name}` has the name of an own column"),
            )
            .in_file(&folder.path.join("features.sql"))
            .cure("give it another name with AS"));
        }
        fields.push(Field::new(name, data_type.clone(), true));
    }
    Ok(Arc::new(Schema::new(fields)))
}

fn rows(
    folder: &PipelineFolder,
    schema: &SchemaRef,
    batch: &FeatureBatch,
) -> Result<RecordBatch, arrow::error::ArrowError> {
    let ids = || {
        batch
            .scored
            .iter()
            .map(|&row| &batch.events.ids[row as usize])
    };
    let scored = UInt32Array::from(batch.scored.clone());
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(ids().map(|id| &*id.topic))),
        Arc::new(Int32Array::from_iter_values(ids().map(|id| id.partition.0))),
        Arc::new(Int64Array::from_iter_values(ids().map(|id| id.offset.0))),
    ];
    for name in folder
        .relation
        .id
        .as_deref()
        .into_iter()
        .chain([EVENT_TIME])
    {
        if let Some(column) = batch.events.column(name) {
            columns.push(take(column, &scored, None)?);
        }
    }
    columns.extend(batch.features.columns().iter().cloned());
    RecordBatch::try_new(schema.clone(), columns)
}
