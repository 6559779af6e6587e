//! `sanderling validate`: every fault of a pipeline's folder, with its place and cure, and without
//! a broker; and what each feature is for an event whose keys were never seen, by the engine itself.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, DictionaryArray, Int8Array, RecordBatch, StringArray};
use arrow::array::{TimestampMicrosecondArray, new_null_array};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use sanderling_features::{FeatureEngine, Function};
use sanderling_schemas::relation::{EVENT_TIME, STREAM};
use serde::Serialize;

use crate::failure::Failure;
use crate::folder::PipelineFolder;

/// A folder without a fault.
#[derive(Debug, Serialize)]
pub struct Valid {
    pipeline: String,
    streams: usize,
    entities: Vec<String>,
    features: Vec<ValidFeature>,
    model: Option<String>,
    challengers: Vec<String>,
    policy: bool,
}

/// What is known of a feature before any event.
#[derive(Debug, Serialize)]
struct ValidFeature {
    name: String,
    #[serde(rename = "type")]
    data_type: String,
    history_of: Option<String>,
    from_label: bool,
    /// What it is for the probe, as text; `None` where it is NULL.
    unseen: Option<String>,
}

/// Event time of the probe: 2025-01-01T12:00:00Z, a Wednesday.
const PROBE_US: i64 = 1_735_732_800_000_000;

impl fmt::Display for Valid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  {:<32} {:<16} {:<12} told by",
            "feature", "type", "unseen"
        )?;
        for feature in &self.features {
            writeln!(
                f,
                "  {:<32} {:<16} {:<12} {}{}",
                feature.name,
                feature.data_type,
                feature.unseen.as_deref().unwrap_or("NULL"),
                feature
                    .history_of
                    .as_deref()
                    .map_or("the event alone".into(), |e| format!("history of {e}")),
                if feature.from_label {
                    ", from labels"
                } else {
                    ""
                }
            )?;
        }
        write!(
            f,
            "{} is valid: {} streams, {} features, entities {}, {}, {}",
            self.pipeline,
            self.streams,
            self.features.len(),
            if self.entities.is_empty() {
                "none".into()
            } else {
                self.entities.join(", ")
            },
            if self.policy { "a policy" } else { "no policy" },
            match &self.model {
                Some(hash) => format!("model {}", &hash[..hash.len().min(12)]),
                None => "no model yet".into(),
            }
        )
    }
}

/// An event of the first scored stream that says 1 wherever it says anything, and names the first row of each
/// table that it is joined to. What it has no column for is NULL, and so is what only labels tell.
fn probe(folder: &PipelineFolder, engine: &FeatureEngine) -> Result<RecordBatch, ArrowError> {
    let relation = &folder.relation;
    let stream = (relation.streams.iter().position(|stream| stream.scored)).unwrap_or(0);
    let own = &folder.streams[stream].columns;
    let label = relation.labels.as_ref().map(|labels| &labels.value);
    let fields = relation.schema.fields().iter();
    let columns = fields.map(|field| -> Result<ArrayRef, ArrowError> {
        let (name, data_type) = (field.name(), field.data_type());
        let said = own.iter().any(|column| column.name == *name) && label != Some(name);
        let joined = engine.joined_on().iter().find(|(column, _)| column == name);
        Ok(match (name.as_str(), joined) {
            (EVENT_TIME, _) => Arc::new(TimestampMicrosecondArray::from(vec![PROBE_US])),
            (STREAM, _) => {
                let names = relation.streams.iter().map(|stream| &*stream.name);
                let names = StringArray::from_iter_values(names);
                Arc::new(DictionaryArray::new(
                    Int8Array::from(vec![stream as i8]),
                    Arc::new(names),
                ))
            }
            (_, Some((_, table))) if table.rows().num_rows() > 0 => {
                let keys = table.rows().column_by_name(table.key());
                let keys = keys.expect("a table has its key");
                cast(&keys.slice(0, 1), data_type)?
            }
            _ if !said => new_null_array(data_type, 1),
            _ if matches!(data_type, DataType::Timestamp(..)) => {
                cast(&TimestampMicrosecondArray::from(vec![PROBE_US]), data_type)?
            }
            _ => cast(&StringArray::from(vec!["1"]), data_type)?,
        })
    });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    RecordBatch::try_new(relation.schema.clone(), columns)
}

/// What each feature is for the probe.
fn unseen(folder: &PipelineFolder, engine: &FeatureEngine) -> Result<Vec<Option<String>>, Failure> {
    let failed = |e: ArrowError| Failure::new("features", e.to_string());
    let probe = probe(folder, engine).map_err(failed)?;
    let features = engine
        .unseen(&probe)
        .map_err(|e| folder.feature_failure(&e))?;
    let columns = features.columns().iter();
    columns
        .map(|column| {
            let text =
                ArrayFormatter::try_new(column, &FormatOptions::default()).map_err(failed)?;
            Ok((!column.is_null(0)).then(|| text.value(0).to_string()))
        })
        .collect()
}

/// Checks all of a folder. A policy and a model are checked where they are there.
///
/// # Errors
/// Every fault found.
pub fn validate(
    path: &Path,
    sets: &[String],
    model: Option<&Path>,
    functions: &[Function],
) -> Result<Valid, Vec<Failure>> {
    let folder = PipelineFolder::open_with(path, sets, model, functions)?;
    let engine = folder.features().map_err(|e| vec![e])?;
    let unseen = unseen(&folder, &engine).map_err(|e| vec![e])?;
    let schema = engine.schema();
    let mut faults = Vec::new();
    let has_policy = path.join("policy.yaml").exists() || path.join("reason_codes.yaml").exists();
    let policy = match has_policy.then(|| folder.policy(schema)) {
        Some(Ok(policy)) => Some(policy),
        Some(Err(fault)) => {
            faults.push(fault);
            None
        }
        None => None,
    };
    let mut hashes = Vec::new();
    // Before there is a model, the settings say what it will give.
    let mut output = folder.settings.model.output;
    let mut groups: Vec<String> = Vec::new();
    let mut held_out = Vec::new();
    if model.is_some() || folder.model_path().exists() {
        match folder.models(schema) {
            Ok(models) => {
                output = models[0].output();
                groups = (models[0].groups().iter())
                    .map(|g| g.name.clone())
                    .collect();
                held_out.extend(models.iter().map(|model| model.manifest().held_out.clone()));
                hashes.extend(models.iter().map(|model| model.hash().to_string()));
            }
            Err(fault) => faults.push(fault),
        }
    }
    if let Some(policy) = &policy {
        let fits = policy.validate(output, &groups);
        let settled = fits.and_then(|()| {
            let mut settled = held_out.iter().map(|rows| policy.settle(rows.as_ref()));
            settled.try_for_each(|settled| settled.map(drop))
        });
        faults.extend(settled.err().map(|e| folder.policy_failure(&e)));
    }
    if folder.settings.output.names_a_topic()
        && let Err(more) = folder.check_run()
    {
        faults.extend(more);
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let mut hashes = hashes.into_iter();
    Ok(Valid {
        pipeline: folder.name.clone(),
        streams: folder.relation.streams.len(),
        entities: folder
            .relation
            .entities
            .iter()
            .map(|e| e.name.clone())
            .collect(),
        features: (schema.fields.iter().zip(unseen))
            .map(|(field, unseen)| ValidFeature {
                name: field.name.clone(),
                data_type: field.data_type.to_string(),
                history_of: field
                    .entity
                    .map(|at| folder.relation.entities[at].name.clone()),
                from_label: field.from_label,
                unseen,
            })
            .collect(),
        model: hashes.next(),
        challengers: hashes.collect(),
        policy: has_policy,
    })
}
