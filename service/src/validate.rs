//! `sanderling validate`: every fault of a pipeline's folder, with its place and cure, and without
//! a broker.

use std::fmt;
use std::path::Path;

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
}

impl fmt::Display for Valid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for feature in &self.features {
            writeln!(
                f,
                "  {:<32} {:<16} {}{}",
                feature.name,
                feature.data_type,
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

/// Checks all of a folder. A policy and a model are checked where they are there.
///
/// # Errors
/// Every fault found.
pub fn validate(path: &Path, sets: &[String], model: Option<&Path>) -> Result<Valid, Vec<Failure>> {
    let folder = PipelineFolder::open(path, sets, model)?;
    let engine = folder.features().map_err(|e| vec![e])?;
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
    if model.is_some() || folder.model_path().exists() {
        match folder.models(schema) {
            Ok(models) => {
                output = models[0].output();
                groups = (models[0].groups().iter())
                    .map(|g| g.name.clone())
                    .collect();
                hashes.extend(models.iter().map(|model| model.hash().to_string()));
            }
            Err(fault) => faults.push(fault),
        }
    }
    if let Some(policy) = &policy
        && let Err(e) = policy.validate(output, &groups)
    {
        faults.push(folder.policy_failure(&e));
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
        features: schema
            .fields
            .iter()
            .map(|field| ValidFeature {
                name: field.name.clone(),
                data_type: field.data_type.to_string(),
                history_of: field
                    .entity
                    .map(|at| folder.relation.entities[at].name.clone()),
                from_label: field.from_label,
            })
            .collect(),
        model: hashes.next(),
        challengers: hashes.collect(),
        policy: has_policy,
    })
}
