//! Settings checked against each other and turned into each room's own options.
//!
//! The checks collect every fault before they give up, so that `validate` can show them all.

mod formats;
mod identifiers;
mod labels;
mod serving;
mod values;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::DataType;
use sanderling_ingest::{
    ColumnSpec, Decoder, EpochUnit, EventTimeSpec, Format, LabelFileSpec, RegistryOptions,
    StreamSpec,
};
use sanderling_schemas::{Entity, LateRows, Relation, Stream};

use crate::failure::Failure;
use crate::settings::{self, Beyond, EntityState, Settings};
use crate::tables::TableSpec;

pub use serving::check_run;
pub use values::parse_duration_us;
use values::parse_type;

/// What resolving gives.
pub struct Resolved {
    /// The relation that features are written over.
    pub relation: Relation,
    /// One for each declared stream.
    pub streams: Vec<StreamSpec>,
    /// Labels made from a recorded file's column.
    pub label_file: Option<LabelFileSpec>,
    /// The schema registry, where one is named.
    pub registry: Option<RegistryOptions>,
    /// Reference tables, not read yet.
    pub tables: Vec<TableSpec>,
    /// From one checkpoint to the next.
    pub checkpoint_every: Duration,
    /// Tells one key of hashed columns from another; `None` where none is hashed.
    pub hash_fingerprint: Option<String>,
}

/// Resolves `settings`, which were read from `file` with the text `text`.
///
/// # Errors
/// Every fault found, in the order of the checks.
pub fn resolve(file: &Path, text: &str, settings: &Settings) -> Result<Resolved, Vec<Failure>> {
    Resolver {
        file,
        text,
        faults: Vec::new(),
    }
    .resolve(settings)
}

/// Checks settings against each other, noting every fault with its place.
struct Resolver<'a> {
    file: &'a Path,
    text: &'a str,
    faults: Vec<Failure>,
}

impl Resolver<'_> {
    fn resolve(mut self, settings: &Settings) -> Result<Resolved, Vec<Failure>> {
        if settings.version != 1 {
            self.fault(
                &["version"],
                format!("version {} is not known", settings.version),
                "write version: 1",
            );
        }
        let keys = self.keys(settings);
        let registry = self.registry(settings);
        let label_value = settings.labels.as_ref().map(|l| l.value.clone());
        let mut columns: Vec<(String, DataType)> = Vec::new();
        let mut streams = Vec::new();
        let mut specs = Vec::new();
        for (name, stream) in &settings.streams.0 {
            let scored = settings.score.contains(name);
            let mut spec = self.stream(name, stream, scored, label_value.as_deref(), &mut columns);
            if let Some(format) = self.format(name, stream, registry.as_ref()) {
                spec.format = format;
            }
            for column in &mut spec.columns {
                let declared = stream.columns.get(&column.name);
                let hashed = declared.is_some_and(|declared| declared.hash.is_some());
                column.hash = keys.hash.clone().filter(|_| hashed);
            }
            spec.seal = keys.seal.clone();
            streams.push(Stream {
                name: name.as_str().into(),
                scored,
                key: stream.key.clone().filter(|_| scored),
            });
            specs.push(spec);
        }
        for name in &settings.score {
            if settings.streams.get(name).is_none() {
                self.fault(
                    &["score", name],
                    format!("score names the stream `{name}`, which is not in streams"),
                    "name one of streams",
                );
            }
        }
        if settings.score.is_empty() {
            self.fault(
                &["score"],
                "no stream is scored",
                "name at least one of streams under score",
            );
        }
        let mut ids: Vec<&String> = settings
            .streams
            .0
            .iter()
            .filter(|(name, _)| settings.score.contains(name))
            .filter_map(|(_, stream)| stream.id.as_ref())
            .collect();
        ids.dedup();
        if ids.len() > 1 {
            self.fault(
                &["score"],
                "scored streams have ids of different names",
                "give their id columns one name with `from`",
            );
        }
        let id = ids.first().map(|id| id.to_string());
        let labels = self.labels(settings, id.as_deref(), &mut columns, &mut streams);
        let label_file = self.label_file(settings, labels.as_ref(), &streams, &specs);
        let mut entities = Vec::new();
        for (name, entity) in &settings.entities.0 {
            if !columns.iter().any(|(column, _)| *column == entity.key) {
                self.fault(
                    &["entities", name, "key"],
                    format!(
                        "the key `{}` of entity `{name}` is not a column of any stream",
                        entity.key
                    ),
                    "name a declared column",
                );
            }
            if name == "event" {
                self.fault(
                    &["entities", name],
                    "an entity cannot be called `event`",
                    "that is the group of the current event; choose another name",
                );
            }
            entities.push(Entity {
                name: name.clone(),
                key: entity.key.clone(),
            });
        }
        let lateness_us = self.duration(&["lateness", "allowed"], &settings.lateness.allowed);
        let checkpoint_us = self.duration(&["state", "interval"], &settings.state.interval);
        if settings.state.rows_per_key_max == Some(0) {
            self.fault(
                &["state", "rows_per_key_max"],
                "windows that keep no row know nothing",
                "write how many rows of one key are kept, for example 100000, or leave it out",
            );
        }
        self.partitioned_entities(settings);
        self.hashed_columns(settings);
        self.serving(settings);
        let tables = self.tables(settings);
        if !self.faults.is_empty() {
            return Err(self.faults);
        }
        let relation = Relation {
            schema: Relation::schema_of(&columns),
            streams,
            id,
            entities,
            labels,
            lateness_us,
            late_rows: match settings.lateness.beyond {
                Beyond::Decide => LateRows::Decide,
                Beyond::DeadLetter => LateRows::Refuse,
            },
            rows_per_key_max: settings.state.rows_per_key_max,
        };
        for spec in &specs {
            self.decoder(&relation, spec);
        }
        if !self.faults.is_empty() {
            return Err(self.faults);
        }
        let hashes = specs.iter().flat_map(|spec| &spec.columns);
        let hash_fingerprint = hashes.filter_map(|column| column.hash.as_ref()).next();
        Ok(Resolved {
            hash_fingerprint: hash_fingerprint.map(|key| key.fingerprint()),
            relation,
            streams: specs,
            label_file,
            registry,
            tables,
            checkpoint_every: Duration::from_micros(checkpoint_us.unsigned_abs()),
        })
    }

    /// Where reference tables are read from, and as what.
    fn tables(&mut self, settings: &Settings) -> Vec<TableSpec> {
        let mut specs = Vec::new();
        for (name, table) in &settings.tables.0 {
            if name == "events" || *name != name.to_lowercase() {
                self.fault(
                    &["tables", name],
                    format!("a table cannot be called `{name}`"),
                    "choose another name, in small letters: `events` are the streams' rows",
                );
            }
            let mut columns = Vec::new();
            for (column, declared) in &table.columns.0 {
                match parse_type(&declared.data_type) {
                    Some(data_type) => columns.push((column.clone(), data_type)),
                    None => self.fault(
                        &["tables", name, "columns", column, "type"],
                        format!("`{}` is not a type", declared.data_type),
                        "write string, bigint, int, double, boolean, decimal(p,s) or timestamp",
                    ),
                }
            }
            specs.push(TableSpec {
                name: name.clone(),
                path: self.beside(&table.path),
                key: table.key.clone(),
                columns,
            });
        }
        specs
    }

    fn stream(
        &mut self,
        name: &str,
        stream: &settings::StreamSettings,
        scored: bool,
        label_value: Option<&str>,
        columns: &mut Vec<(String, DataType)>,
    ) -> StreamSpec {
        let mut specs = Vec::new();
        for (column, declared) in &stream.columns.0 {
            let mut data_type = match parse_type(&declared.data_type) {
                Some(data_type) => data_type,
                None => {
                    self.fault(
                        &["streams", name, "columns", column, "type"],
                        format!("`{}` is not a type", declared.data_type),
                        "write string, bigint, int, double, boolean, decimal(p,s) or timestamp",
                    );
                    DataType::Utf8
                }
            };
            if label_value == Some(column) {
                data_type = DataType::Int64;
            }
            match columns.iter().find(|(known, _)| known == column) {
                None => columns.push((column.clone(), data_type.clone())),
                Some((_, known)) if *known == data_type => {}
                Some((_, known)) => self.fault(
                    &["streams", name, "columns", column],
                    format!("column `{column}` is {known} in another stream and {data_type} here"),
                    "give a column one type in all streams, or two names with `from`",
                ),
            }
            specs.push(ColumnSpec {
                name: column.clone(),
                from: declared.from.clone().unwrap_or_else(|| column.clone()),
                data_type,
                hash: None,
            });
        }
        if let Some(id) = &stream.id
            && !specs.iter().any(|spec| spec.name == *id)
            && scored
        {
            if !columns.iter().any(|(known, _)| known == id) {
                columns.push((id.clone(), DataType::Utf8));
            }
            specs.push(ColumnSpec {
                name: id.clone(),
                from: id.clone(),
                data_type: DataType::Utf8,
                hash: None,
            });
        }
        if let Some(key) = stream.key.as_ref().filter(|_| scored)
            && !specs.iter().any(|spec| spec.name == *key)
        {
            self.fault(
                &["streams", name, "key"],
                format!("the key `{key}` is not one of the stream's columns"),
                "declare it under columns",
            );
        }
        StreamSpec {
            name: name.into(),
            topic: stream.topic.clone(),
            format: Format::Json,
            id: stream
                .id
                .clone()
                .filter(|id| specs.iter().any(|spec| spec.name == *id)),
            key: stream.key.clone().filter(|_| scored),
            event_time: EventTimeSpec {
                column: stream.event_time.column.clone(),
                unit: stream.event_time.unit.map(|unit| match unit {
                    settings::TimeUnit::S => EpochUnit::Seconds,
                    settings::TimeUnit::Ms => EpochUnit::Milliseconds,
                    settings::TimeUnit::Us => EpochUnit::Microseconds,
                    settings::TimeUnit::Ns => EpochUnit::Nanoseconds,
                }),
            },
            columns: specs,
            seal: None,
        }
    }

    /// An entity whose state lives with its partition must key the topic.
    fn partitioned_entities(&mut self, settings: &Settings) {
        for (name, entity) in &settings.entities.0 {
            if entity.state != EntityState::Partition {
                continue;
            }
            for (stream_name, stream) in &settings.streams.0 {
                if settings.score.contains(stream_name)
                    && stream.key.is_some()
                    && stream.key.as_ref() != Some(&entity.key)
                {
                    self.fault(
                        &["entities", name, "state"],
                        format!(
                            "entity `{name}` lives with its partition, but `{stream_name}` is keyed by `{}`",
                            stream.key.as_deref().unwrap_or_default()
                        ),
                        "write state: memory, or key the stream by it",
                    );
                }
            }
        }
    }

    /// Whether a stream's records can be decoded as it declares.
    fn decoder(&mut self, relation: &Relation, spec: &StreamSpec) {
        if let Err(error) = Decoder::new(Arc::new(relation.clone()), spec.clone()) {
            self.fault(
                &["streams", &spec.name],
                error.to_string(),
                "correct `from` or `columns`, or take the schema that has the field",
            );
        }
    }

    /// A path that `pipeline.yaml` names, from its folder.
    fn beside(&self, path: &Path) -> PathBuf {
        match self.file.parent() {
            Some(folder) => folder.join(path),
            None => path.to_path_buf(),
        }
    }

    fn duration(&mut self, path: &[&str], text: &str) -> i64 {
        match parse_duration_us(text) {
            Some(us) => us,
            None => {
                self.fault(
                    path,
                    format!("`{text}` is not a duration"),
                    "write a number and us, ms, s, m, h or d, for example 30s",
                );
                0
            }
        }
    }

    fn fault(&mut self, path: &[&str], message: impl Into<String>, cure: impl Into<String>) {
        let failure = Failure::new("config", message)
            .in_file(self.file)
            .at(line_of(self.text, path), None)
            .cure(cure);
        self.faults.push(failure);
    }
}

/// The line where a key stands, found by walking down the text; the nearest ancestor's line if the
/// key itself is not written.
pub fn line_of(text: &str, path: &[&str]) -> Option<usize> {
    let mut found = None;
    let mut lines = text.lines().enumerate();
    for key in path {
        let names_key = |line: &str| {
            line.match_indices(key).any(|(at, _)| {
                let before = line[..at].chars().next_back();
                let after = line[at + key.len()..].chars().next();
                let edge = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && c != '_');
                edge(before) && edge(after)
            })
        };
        // A flow mapping holds several keys on one line, so the search begins at the last line found.
        if let Some(at) = found
            && text.lines().nth(at).is_some_and(names_key)
        {
            continue;
        }
        match lines.by_ref().find(|(_, line)| names_key(line)) {
            Some((at, _)) => found = Some(at),
            None => break,
        }
    }
    found.map(|at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pipeline whose columns stand in line 4.
    pub(super) const PAYMENTS: &str = "version: 1\n\
        streams:\n  \
          p: {topic: p, id: id, key: card, event_time: {column: at, unit: ms},\n    \
              columns: {id: {type: string}, card: {}}}\n\
        score: [p]\n";

    /// Resolves `yaml` in a folder of `files`.
    pub(super) fn pipeline(yaml: &str, files: &[(&str, &str)]) -> Result<Resolved, Vec<Failure>> {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        let file = folder.path().join("pipeline.yaml");
        let settings: Settings = serde_yaml_ng::from_str(yaml).unwrap();
        resolve(&file, yaml, &settings)
    }

    /// The faults of `yaml`: message and line.
    pub(super) fn faults(yaml: &str, files: &[(&str, &str)]) -> Vec<(String, Option<usize>)> {
        let faults = pipeline(yaml, files).err().unwrap_or_default().into_iter();
        faults
            .map(|fault| {
                assert!(fault.cure.is_some() && fault.file.is_some(), "{fault:?}");
                (fault.to_string(), fault.line)
            })
            .collect()
    }

    #[test]
    fn a_fault_is_found_at_its_line() {
        let text = "version: 1\nstreams:\n  a: {id: x}\nentities:\n  card: {key: y}\n";
        assert_eq!(line_of(text, &["entities", "card", "key"]), Some(5));
        assert_eq!(line_of(text, &["labels", "value"]), None);
    }
}
