//! A whole recorded stream as the models see it: the feature engine's fold, kept in compact form
//! for training and for back-testing.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, UInt32Array};
use arrow::compute::{concat, take};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use sanderling_ingest::{
    ColumnSpec, EventSource, FileOptions, FileSource, Input, LabelFileSpec, SourceEvent,
};
use sanderling_schemas::EventTime;
use sanderling_scoring::{Recording, ScoringError};

use crate::failure::Failure;
use crate::folder::PipelineFolder;
use crate::progress::Progress;
use crate::replay::input_failure;

/// Rows that the engine takes at once.
const BATCH_ROWS: usize = 4096;
/// Column that carries a file's label beside the relation's own, for measuring and nothing else.
const TRUTH: &str = "_truth";

/// A recorded stream.
pub struct Recorded {
    /// Rows in the order of the fold.
    pub recording: Recording,
    /// The source's own id of each event, if the stream has one.
    pub source_ids: Option<ArrayRef>,
    /// The label that the file has for each event, whenever it becomes known; NaN without one.
    pub truth: Vec<f32>,
}

/// Folds `inputs` up to `to`. Labels made from a column become known `delay_days` after their
/// event, or after the pipeline's own delay.
pub fn record(
    folder: &PipelineFolder,
    inputs: &[Input],
    to: Option<EventTime>,
    delay_days: Option<u32>,
) -> Result<Recorded, Failure> {
    let mut relation = (*folder.relation).clone();
    let mut streams = folder.streams.clone();
    if let Some(labels) = &folder.label_file {
        let mut fields: Vec<_> = relation.schema.fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new(TRUTH, DataType::Int64, true)));
        relation.schema = Arc::new(Schema::new(fields));
        for (spec, stream) in streams.iter_mut().zip(&relation.streams) {
            if stream.scored {
                spec.columns.push(ColumnSpec {
                    name: TRUTH.into(),
                    from: labels.column.clone(),
                    data_type: DataType::Int64,
                    hash: None,
                });
            }
        }
    }
    let relation = Arc::new(relation);
    let labels = folder.label_file.clone().map(|file| LabelFileSpec {
        delay_us: delay_days.map_or(file.delay_us, |days| i64::from(days) * 86_400_000_000),
        ..file
    });
    let options = FileOptions {
        to: to.map(|t| t.0),
        labels,
        first_sequence: 0,
    };
    let mut source =
        FileSource::open(relation.clone(), &streams, inputs, options).map_err(input_failure)?;
    let mut engine = folder.features_over(relation.clone())?;
    let mut recording = Recording::new(engine.schema(), &relation);
    let progress = Progress::rows("fold", source.rows_total());
    let mut ids: Vec<ArrayRef> = Vec::new();
    let mut truth = Vec::new();
    let arrow = |e: arrow::error::ArrowError| Failure::new("input", e.to_string());
    loop {
        match source
            .next(BATCH_ROWS, Duration::ZERO)
            .map_err(input_failure)?
        {
            SourceEvent::Batch(batch) => {
                let batch = engine
                    .compute(&batch)
                    .map_err(|e| folder.feature_failure(&e))?;
                let scored = UInt32Array::from(batch.scored.clone());
                if let Some(column) = relation
                    .id
                    .as_deref()
                    .and_then(|id| batch.events.column(id))
                {
                    ids.push(take(column, &scored, None).map_err(arrow)?);
                }
                match batch.events.column(TRUTH) {
                    Some(column) => {
                        let column = take(column, &scored, None).map_err(arrow)?;
                        truth.extend(
                            column
                                .as_primitive::<Int64Type>()
                                .iter()
                                .map(|v| v.map_or(f32::NAN, |v| v as f32)),
                        );
                    }
                    None => truth.resize(truth.len() + batch.scored.len(), f32::NAN),
                }
                recording.push(&batch).map_err(model_failure)?;
            }
            SourceEvent::End => break,
            SourceEvent::Rejected(_)
            | SourceEvent::Idle
            | SourceEvent::Assigned(_)
            | SourceEvent::Revoked(_) => {}
        }
        progress.set(recording.len() as u64);
    }
    progress.finish();
    let source_ids = match ids.is_empty() {
        true => None,
        false => {
            let parts: Vec<&dyn Array> = ids.iter().map(|part| part.as_ref()).collect();
            Some(concat(&parts).map_err(arrow)?)
        }
    };
    Ok(Recorded {
        recording,
        source_ids,
        truth,
    })
}

/// A fault of training or of a model.
pub fn model_failure(e: ScoringError) -> Failure {
    let failure = Failure::new("model", e.to_string());
    match e {
        ScoringError::TooFewRows { .. } => failure
            .cure("choose training days with more labelled events; labels must be known by --to"),
        ScoringError::Option { .. } => {
            failure.cure("correct the model: section, or the --set of it")
        }
        ScoringError::OtherTraining { .. } => {
            failure.cure("give the arguments of then, or leave --resume out to begin anew")
        }
        _ => failure,
    }
}
