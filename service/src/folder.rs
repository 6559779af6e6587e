//! A pipeline's folder: its settings resolved, and its features, model and policy made from its
//! files.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::Field;
use sanderling_decide::{Policy, PolicyError};
use sanderling_features::{Catalog, FeatureEngine, FeatureError, Function};
use sanderling_ingest::{
    IngestError, KafkaOptions, KafkaTrouble, LabelFileSpec, OffsetReset, RegistryOptions,
    StreamSpec,
};
use sanderling_schemas::{FeatureSchema, Relation};
use sanderling_scoring::{Placement, Scorer, ScoringError, ServedModel};
use sha2::{Digest, Sha256};

use crate::failure::{Failure, io_failure};
use crate::replay::input_failure;
use crate::resolve::{check_run, line_of, resolve};
use crate::settings::{Framing, Settings};
use crate::tables::TableSpec;

/// A folder whose `pipeline.yaml` makes sense.
#[derive(Debug)]
pub struct PipelineFolder {
    /// The folder.
    pub path: PathBuf,
    /// Its name: the prefix of its checkpoints.
    pub name: String,
    /// Settings as they stand after overrides.
    pub settings: Settings,
    /// The relation that its features are written over.
    pub relation: Arc<Relation>,
    /// One for each stream of the relation.
    pub streams: Vec<StreamSpec>,
    /// Labels made from a recorded file's column.
    pub label_file: Option<LabelFileSpec>,
    /// The schema registry, where one is named.
    pub registry: Option<RegistryOptions>,
    /// From one checkpoint to the next.
    pub checkpoint_every: Duration,
    /// Text of `features.sql`.
    pub sql: String,
    /// The tables and the functions that it may name.
    pub catalog: Catalog,
    /// Where the tables are read from.
    pub tables: Vec<TableSpec>,
    /// Hash of what in the settings can change a decision.
    pub version: Arc<str>,
    /// Text of `pipeline.yaml`, for the places of faults.
    text: String,
    model: Option<PathBuf>,
}

impl PipelineFolder {
    /// Reads and resolves a folder.
    ///
    /// # Errors
    /// Every fault found, in the order of the file.
    pub fn open(path: &Path, sets: &[String], model: Option<&Path>) -> Result<Self, Vec<Failure>> {
        Self::open_with(path, sets, model, &[])
    }

    /// The same for a folder whose `features.sql` may call `functions`.
    ///
    /// # Errors
    /// As [`PipelineFolder::open`].
    pub fn open_with(
        path: &Path,
        sets: &[String],
        model: Option<&Path>,
        functions: &[Function],
    ) -> Result<Self, Vec<Failure>> {
        if !path.is_dir() {
            return Err(vec![
                Failure::usage(format!("{} is not a pipeline's folder", path.display()))
                    .cure("name a folder with pipeline.yaml and features.sql, such as pipelines/card-fraud"),
            ]);
        }
        let file = path.join("pipeline.yaml");
        let (settings, text) = Settings::load(&file, sets).map_err(|e| vec![e])?;
        let resolved = resolve(&file, &text, &settings)?;
        let sql_file = path.join("features.sql");
        let sql = std::fs::read_to_string(&sql_file)
            .map_err(|e| vec![io_failure(&sql_file, "read the features", &e)])?;
        let (tables, faults): (Vec<_>, Vec<_>) = (resolved.tables.iter())
            .map(|table| table.read().map(Arc::new))
            .partition(Result::is_ok);
        let faults: Vec<Failure> = faults.into_iter().filter_map(Result::err).collect();
        if !faults.is_empty() {
            return Err(faults);
        }
        let name = path
            .canonicalize()
            .ok()
            .and_then(|p| p.file_name().map(|n| n.to_string_lossy().into_owned()))
            .unwrap_or_else(|| "pipeline".into());
        Ok(Self {
            path: path.to_path_buf(),
            name,
            version: version_of(&settings, resolved.hash_fingerprint.as_deref()),
            settings,
            relation: Arc::new(resolved.relation),
            streams: resolved.streams,
            label_file: resolved.label_file,
            registry: resolved.registry,
            checkpoint_every: resolved.checkpoint_every,
            sql,
            catalog: Catalog {
                tables: tables.into_iter().flatten().collect(),
                functions: functions.to_vec(),
            },
            tables: resolved.tables,
            text,
            model: model.map(Path::to_path_buf),
        })
    }

    /// A fault with its place: the line of `pipeline.yaml` where the key `path` stands.
    pub fn at(&self, failure: Failure, path: &[&str]) -> Failure {
        failure
            .in_file(&self.path.join("pipeline.yaml"))
            .at(line_of(&self.text, path), None)
    }

    /// A fault of the input, with the place of what names the broker or the registry.
    pub fn input_failure(&self, e: IngestError) -> Failure {
        let path: &[&str] = match &e {
            IngestError::Kafka { trouble, .. } => match trouble {
                KafkaTrouble::Authentication | KafkaTrouble::Tls | KafkaTrouble::Setting => {
                    &["kafka", "properties"]
                }
                _ => &["kafka", "brokers"],
            },
            IngestError::Registry { .. } => &["kafka", "registry", "url"],
            _ => return input_failure(e),
        };
        self.at(input_failure(e), path)
    }

    /// The same of a topic that the key `path` names.
    pub fn topic_failure(&self, e: IngestError, path: &[&str]) -> Failure {
        match &e {
            IngestError::Kafka {
                trouble: KafkaTrouble::MissingTopic | KafkaTrouble::TopicDenied,
                ..
            } => self.at(input_failure(e), path),
            _ => self.input_failure(e),
        }
    }

    /// What `run` needs beyond what every command does.
    ///
    /// # Errors
    /// Every fault found.
    pub fn check_run(&self) -> Result<(), Vec<Failure>> {
        check_run(&self.path.join("pipeline.yaml"), &self.text, &self.settings)
    }

    /// The engine for its features, with empty state.
    pub fn features(&self) -> Result<FeatureEngine, Failure> {
        self.features_over(self.relation.clone())
    }

    /// The engine over a relation that has more columns than its own.
    pub fn features_over(&self, relation: Arc<Relation>) -> Result<FeatureEngine, Failure> {
        FeatureEngine::with_catalog(relation, &self.sql, &self.catalog)
            .map_err(|e| self.feature_failure(&e))
    }

    /// A fault of `features.sql`, with its place and cure.
    pub fn feature_failure(&self, e: &FeatureError) -> Failure {
        let file = match e {
            FeatureError::Table { table, .. } => {
                let spec = self.tables.iter().find(|spec| spec.name == *table);
                spec.map(|spec| spec.path.clone())
            }
            _ => None,
        };
        let failure = Failure::new("features", e.to_string())
            .in_file(&file.unwrap_or_else(|| self.path.join("features.sql")))
            .at(
                e.line().map(|line| line as usize),
                e.column().map(|column| column as usize),
            );
        match e.cure() {
            Some(cure) => failure.cure(cure),
            None => failure.cure("correct the statement: it is DataFusion's SQL over the columns that pipeline.yaml declares"),
        }
    }

    /// Where its model stands: `--model`, else `model/` in the folder.
    pub fn model_path(&self) -> PathBuf {
        self.model
            .clone()
            .unwrap_or_else(|| self.path.join("model"))
    }

    /// Its model, which must be one of these features.
    pub fn model(&self, features: &FeatureSchema) -> Result<Arc<ServedModel>, Failure> {
        self.model_at(&self.model_path(), features)
    }

    /// Its model, then its challengers, each once.
    pub fn models(&self, features: &FeatureSchema) -> Result<Vec<Arc<ServedModel>>, Failure> {
        let mut models = vec![self.model(features)?];
        for challenger in &self.settings.challengers {
            let path = self.path.join(challenger);
            let model = self.model_at(&path, features)?;
            if model.output() != models[0].output() {
                return Err(Failure::new(
                    "model",
                    "the challenger's score means something else than the champion's",
                )
                .in_file(&path)
                .cure("train it with the same model.output, or take it out of challengers"));
            }
            if models.iter().all(|known| known.hash() != model.hash()) {
                models.push(model);
            }
        }
        Ok(models)
    }

    /// The model of a folder, which must be one of these features.
    pub fn model_at(
        &self,
        path: &Path,
        features: &FeatureSchema,
    ) -> Result<Arc<ServedModel>, Failure> {
        if !path.join("manifest.json").is_file() {
            return Err(Failure::new("model", "there is no model here")
                .in_file(path)
                .cure(format!(
                    "train one: sanderling train {} --input FILES --from T --to T --out {}",
                    self.path.display(),
                    path.display()
                )));
        }
        let fault = |e: ScoringError| {
            Failure::new("model", e.to_string())
                .in_file(path)
                .cure("train the model again on these features, or name another")
        };
        let placement = self.placement()?;
        let model = ServedModel::load(path)
            .and_then(|model| model.placed(&placement))
            .map_err(fault)?;
        // Making a scorer is what checks that the model is one of these features and entities.
        let model = Arc::new(model);
        Scorer::new(model.clone(), features, &self.relation, 1).map_err(fault)?;
        Ok(model)
    }

    /// Where it scores, as far as this build and this machine go.
    pub fn placement(&self) -> Result<Placement, Failure> {
        Placement::of(&self.settings.scoring).map_err(|e| {
            Failure::new("scoring", e.to_string())
                .in_file(&self.path.join("pipeline.yaml"))
                .cure("correct the scoring: section, or the --set of it")
        })
    }

    /// A model that does not load or does not fit.
    pub fn model_failure(&self, e: &ScoringError) -> Failure {
        Failure::new("model", e.to_string())
            .in_file(&self.model_path())
            .cure("train the model again on these features, or name another with --model")
    }

    /// Its policy and reason codes, which must fit the features.
    pub fn policy(&self, features: &FeatureSchema) -> Result<Policy, Failure> {
        let read = |name: &str| {
            let file = self.path.join(name);
            std::fs::read_to_string(&file).map_err(|e| io_failure(&file, "read the policy", &e))
        };
        Policy::parse(&read("policy.yaml")?, &read("reason_codes.yaml")?, features)
            .map_err(|e| self.policy_failure(&e))
    }

    /// A fault of the policy or the reason codes, with its place and cure.
    pub fn policy_failure(&self, e: &PolicyError) -> Failure {
        Failure::new("policy", e.message.clone())
            .in_file(&self.path.join(e.file))
            .at(e.line, e.column)
            .cure(e.cure.clone())
    }
}

impl PipelineFolder {
    /// How its topics are consumed by the group `group`.
    pub fn kafka_options(&self, group: &str) -> KafkaOptions {
        KafkaOptions {
            brokers: self.settings.kafka.brokers.clone(),
            group: group.into(),
            properties: self.settings.kafka.properties.clone(),
            offset_reset: OffsetReset::Earliest,
            ..KafkaOptions::default()
        }
    }
}

/// SHA-256 of the settings that can change a decision: not the broker, the topics, where schemas
/// come from, the deadline, delivery, checkpoints or output, nor where an entity's state lives (who finds none where
/// it is looked for hears of that from the group's offsets). The model's sizes are in the model's
/// own hash. Of the key of hashed columns only a fingerprint stands for it: with another key the
/// same card is another.
fn version_of(settings: &Settings, hash_fingerprint: Option<&str>) -> Arc<str> {
    let mut streams = settings.streams.clone();
    for (_, stream) in &mut streams.0 {
        stream.topic = None;
        if let Some(schema) = &mut stream.schema {
            schema.file = PathBuf::new();
            schema.framing = Framing::None;
        }
    }
    let mut decisive = serde_json::json!({
        "version": settings.version,
        "streams": streams,
        "labels": settings.labels,
        "score": settings.score,
        "entities": settings.entities.0.iter().map(|(name, e)| (name, &e.key)).collect::<Vec<_>>(),
        "lateness": settings.lateness,
    });
    if !settings.tables.0.is_empty() {
        // What they say has its own versions, in the order records.
        let declared = settings.tables.0.iter();
        let declared = declared.map(|(name, table)| (name, &table.key, &table.columns));
        decisive["tables"] = serde_json::json!(declared.collect::<Vec<_>>());
    }
    if let Some(rows) = settings.state.rows_per_key_max {
        decisive["rows_per_key_max"] = rows.into();
    }
    if let Some(fingerprint) = hash_fingerprint {
        decisive["hash_key"] = fingerprint.into();
    }
    hex::encode(Sha256::digest(decisive.to_string().as_bytes())).into()
}

/// The beginning of a hash, for people.
pub fn short(hash: &str) -> &str {
    &hash[..hash.len().min(12)]
}

/// A column of the relation, for messages and for the decision table.
pub fn relation_field<'a>(relation: &'a Relation, name: &str) -> Option<&'a Field> {
    relation.schema.field_with_name(name).ok()
}
