//! `pipeline.yaml` as it is written: every key, its default, and nothing resolved.
//!
//! Settings come from the file, then from `SANDERLING__SECTION__KEY` in the environment, then from
//! `--set path=value`; the last word wins. Unknown keys are refused with their place.
//!
//! A property of the Kafka client may be a password: it is never shown, neither in an error nor by
//! `Debug`, and is best kept out of the file (`overrides.rs`).

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use sanderling_schemas::Rung;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_yaml_ng::Value;

use crate::failure::{Failure, io_failure};
use crate::overrides::{self, Override};

/// A map that keeps the order of the file: the first entity is the one that events belong to.
#[derive(Debug, Clone)]
pub struct Ordered<V>(pub Vec<(String, V)>);

impl<V> Default for Ordered<V> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<V> Ordered<V> {
    /// The value of a key.
    pub fn get(&self, name: &str) -> Option<&V> {
        self.0
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value)
    }
}

impl<V: Serialize> Serialize for Ordered<V> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Ordered<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Entries<V> {
            type Value = Ordered<V>;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Ordered(entries))
            }
        }
        deserializer.deserialize_map(Entries(PhantomData))
    }
}

/// The whole file.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Version of this format: 1.
    pub version: u32,
    /// The broker.
    #[serde(default)]
    pub kafka: KafkaSettings,
    /// Input streams.
    pub streams: Ordered<StreamSettings>,
    /// Labels, if there are any.
    #[serde(default)]
    pub labels: Option<LabelSettings>,
    /// Streams whose rows get decisions.
    pub score: Vec<String>,
    /// Things with a memory; the first is the one an event belongs to.
    #[serde(default)]
    pub entities: Ordered<EntitySettings>,
    /// Reference tables, by the names under which features join them.
    #[serde(default)]
    pub tables: Ordered<TableSettings>,
    /// Time from the broker's append to the decision, milliseconds.
    #[serde(default = "defaults::deadline_ms")]
    pub deadline_ms: u64,
    /// How far out of order rows may come.
    #[serde(default)]
    pub lateness: LatenessSettings,
    /// Delivery guarantee.
    #[serde(default)]
    pub delivery: Delivery,
    /// Where checkpoints go.
    #[serde(default)]
    pub state: StateSettings,
    /// Topics of what comes out.
    #[serde(default)]
    pub output: OutputSettings,
    /// File of the key that columns with `hash: hmac` are hashed with: at least 32 bytes, or their
    /// hexadecimal digits, as `openssl rand -hex 32` writes them. A value is replaced by the first
    /// 32 hexadecimal digits of its HMAC-SHA256, so another key gives other identifiers and makes
    /// what is remembered of the old ones useless. Like every path here, from the pipeline's folder.
    #[serde(default)]
    pub hash_key_file: Option<PathBuf>,
    /// File of the key that dead letters are sealed with, AES-256-GCM: 32 bytes, or their 64
    /// hexadecimal digits. Needed where a column is hashed, since a record that cannot be read
    /// holds the identifier itself; `dlq requeue` opens with it.
    #[serde(default)]
    pub dead_letter_key_file: Option<PathBuf>,
    /// Where `run` answers to those who watch it.
    #[serde(default)]
    pub health: HealthSettings,
    /// How much of what is served is computed again.
    #[serde(default)]
    pub parity: ParitySettings,
    /// Name of this instance among those of one pipeline; by default the host's.
    #[serde(default)]
    pub instance: Option<String>,
    /// A rehearsal of trouble.
    #[serde(default)]
    pub drill: DrillSettings,
    /// Folders of models that score beside the pipeline's own and decide nothing.
    #[serde(default)]
    pub challengers: Vec<PathBuf>,
    /// Sizes and training of the model.
    #[serde(default)]
    pub model: sanderling_scoring::ModelOptions,
}

/// `kafka:`
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaSettings {
    /// Bootstrap servers.
    pub brokers: String,
    /// Passed to librdkafka as they are. Some are secrets: none is ever written anywhere.
    #[serde(deserialize_with = "properties", skip_serializing)]
    pub properties: BTreeMap<String, String>,
    /// Time between two commits of a transaction, milliseconds: shorter costs the broker more,
    /// longer lets readers wait.
    pub transaction_ms: u64,
    /// The schema registry; only Avro needs one.
    pub registry: Option<RegistrySettings>,
}

/// `kafka.registry:`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RegistrySettings {
    /// `http://host:port`, or several, comma-separated.
    pub url: String,
    /// User, where it wants one.
    #[serde(default)]
    pub username: Option<String>,
    /// File that holds the user's password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
}

impl fmt::Debug for KafkaSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&String> = self.properties.keys().collect();
        f.debug_struct("KafkaSettings")
            .field("brokers", &self.brokers)
            .field("properties", &names)
            .field("registry", &self.registry)
            .finish()
    }
}

/// Properties as text. What YAML takes for a number or a boolean is fine where its text is certain;
/// a refusal never repeats the value.
fn properties<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    let values: BTreeMap<String, Value> = BTreeMap::deserialize(deserializer)?;
    values
        .into_iter()
        .map(|(name, value)| match value {
            Value::String(text) => Ok((name, text)),
            Value::Bool(truth) => Ok((name, truth.to_string())),
            Value::Number(number) if number.is_i64() || number.is_u64() => {
                Ok((name, number.to_string()))
            }
            _ => Err(serde::de::Error::custom(format!(
                "the value of the property `{name}` is not a text: write it in quotes"
            ))),
        })
        .collect()
}

/// One of `streams:`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StreamSettings {
    /// Topic; only `run` and `demo` need it.
    #[serde(default)]
    pub topic: Option<String>,
    /// Encoding of the topic's records.
    #[serde(default)]
    pub format: Format,
    /// Schema of Protobuf records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<SchemaSettings>,
    /// Column that identifies an event.
    #[serde(default)]
    pub id: Option<String>,
    /// Column that keys the topic.
    #[serde(default)]
    pub key: Option<String>,
    /// Where the event time stands.
    pub event_time: EventTimeSettings,
    /// Columns of the relation.
    pub columns: Ordered<ColumnSettings>,
}

/// `event_time:`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EventTimeSettings {
    /// Source column.
    pub column: String,
    /// Unit of an integer: s, ms, us or ns. Without it, a timestamp or RFC 3339.
    #[serde(default)]
    pub unit: Option<TimeUnit>,
}

/// Unit of an integer time.
#[derive(Debug, Clone, Copy, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum TimeUnit {
    S,
    Ms,
    Us,
    Ns,
}

/// One of `columns:`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnSettings {
    /// string, bigint, int, double, boolean, decimal(p,s) or timestamp.
    #[serde(rename = "type", default = "defaults::column_type")]
    pub data_type: String,
    /// Source column; by default of the same name.
    #[serde(default)]
    pub from: Option<String>,
    /// Replaced by a keyed hash at the decoder, with the key of `hash_key_file`.
    #[serde(default)]
    pub hash: Option<Hash>,
}

/// What stands for an identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Hash {
    /// HMAC-SHA256 in hexadecimal digits, the first 32 of them.
    Hmac,
}

/// One of `tables:`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TableSettings {
    /// A .parquet or a .csv file with a header, from the pipeline's folder.
    pub path: PathBuf,
    /// Column that it is joined on: no two rows have the same.
    pub key: String,
    /// Types of columns, where they are not to be those of the file. A CSV file's are guessed from its
    /// values, but for the key, which is text.
    #[serde(default)]
    pub columns: Ordered<TableColumnSettings>,
}

/// One of a table's `columns:`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TableColumnSettings {
    /// As a stream's column.
    #[serde(rename = "type")]
    pub data_type: String,
}

/// Encoding of a topic's records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One JSON object a record.
    #[default]
    Json,
    /// One Avro record each, behind the id of its schema in `kafka.registry`.
    Avro,
    /// One Protobuf message a record, of `schema`.
    Protobuf,
}

/// Encoding of decisions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OutputFormat {
    /// One JSON object each.
    #[default]
    Json,
    /// Avro behind the id of its schema, which is registered under `<topic>-value`.
    Avro,
}

/// `schema:` of a stream.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SchemaSettings {
    /// A .proto file, or a descriptor set whose name ends in .pb.
    pub file: PathBuf,
    /// Full name of the message.
    pub message: String,
    /// What stands before it in a record.
    #[serde(default)]
    pub framing: Framing,
}

/// What stands before a Protobuf message in a record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Framing {
    /// Nothing.
    #[default]
    None,
    /// What a schema registry's client writes.
    Confluent,
}

/// `labels:`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LabelSettings {
    /// The stream that carries them; `labels` where they come from a file's column alone.
    #[serde(default = "defaults::label_stream")]
    pub stream: String,
    /// Column that names the labelled event.
    pub reference: String,
    /// Column of the label's value.
    pub value: String,
    /// How long an event can be labelled.
    #[serde(default = "defaults::horizon")]
    pub horizon: String,
    /// A column of a recorded file that becomes known after a delay.
    #[serde(default)]
    pub file: Option<LabelFileSettings>,
}

/// `labels.file:`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LabelFileSettings {
    /// Source column.
    pub column: String,
    /// From event time to when the label is known.
    pub delay: String,
}

/// `drill:`: makes rungs slow on purpose, to see that deadlines are kept all the same.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct DrillSettings {
    /// Time added to the scoring of each row, by rung, microseconds.
    pub score_row_us: BTreeMap<Rung, u64>,
}

/// One of `entities:`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EntitySettings {
    /// Column that identifies it.
    pub key: String,
    /// Where its state lives.
    #[serde(default)]
    pub state: EntityState,
}

/// Where an entity's state lives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EntityState {
    /// With the partition: the entity keys the topic.
    #[default]
    Partition,
    /// In this process, which must own all partitions.
    Memory,
}

/// `lateness:`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct LatenessSettings {
    /// Rows further behind their key's newest row are late.
    pub allowed: String,
    /// What becomes of them.
    pub beyond: Beyond,
}

/// What becomes of a late row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Beyond {
    /// It is decided and flagged.
    #[default]
    Decide,
    /// It is dead-lettered, and nothing else knows of it: no window, no memory, no decision. This holds
    /// for rows of every stream but the labels': what a label tells is news whenever it comes.
    DeadLetter,
}

/// Delivery guarantee.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Delivery {
    /// Decisions and offsets commit together.
    #[default]
    ExactlyOnce,
    /// A decision may come twice, under the same id.
    AtLeastOnce,
}

/// `state:`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct StateSettings {
    /// Where checkpoints are kept.
    pub url: String,
    /// Time between two of them.
    pub interval: String,
    /// Rows that windows keep of one key at most; without it, all that a frame can reach. Of a key that
    /// has more the oldest are given up, and decisions whose windows may miss them are flagged `capped`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_per_key_max: Option<u64>,
}

/// `output:`
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutputSettings {
    /// Topic of decisions.
    pub decisions: Option<String>,
    /// Topic of dead letters.
    pub dead_letters: Option<String>,
    /// Topic of order records.
    pub order: Option<String>,
    /// Encoding of decisions.
    pub format: OutputFormat,
}

impl OutputSettings {
    /// The pipeline is meant to write to topics.
    pub fn names_a_topic(&self) -> bool {
        self.decisions.is_some() || self.dead_letters.is_some() || self.order.is_some()
    }
}

/// `health:`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct HealthSettings {
    /// `host:port` of `/livez`, `/readyz` and `/metrics`; port 0 takes a free one.
    pub listen: String,
}

/// `parity:`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ParitySettings {
    /// Decided rows a second at most whose features are computed again by other means; 0 for none.
    pub rows_per_s: f64,
}

/// Every default that is not `Default::default()` of a standard type, in one place.
mod defaults {
    use super::*;

    pub fn deadline_ms() -> u64 {
        50
    }
    pub fn column_type() -> String {
        "string".into()
    }
    pub fn label_stream() -> String {
        "labels".into()
    }
    pub fn horizon() -> String {
        "60d".into()
    }

    impl Default for KafkaSettings {
        fn default() -> Self {
            Self {
                brokers: "localhost:9092".into(),
                properties: BTreeMap::new(),
                transaction_ms: 10,
                registry: None,
            }
        }
    }
    impl Default for LatenessSettings {
        fn default() -> Self {
            Self {
                allowed: "1d".into(),
                beyond: Beyond::Decide,
            }
        }
    }
    impl Default for HealthSettings {
        fn default() -> Self {
            Self {
                listen: "127.0.0.1:9464".into(),
            }
        }
    }
    impl Default for ParitySettings {
        fn default() -> Self {
            Self { rows_per_s: 1.0 }
        }
    }
    impl Default for StateSettings {
        fn default() -> Self {
            Self {
                url: "file:///var/lib/sanderling".into(),
                interval: "30s".into(),
                rows_per_key_max: None,
            }
        }
    }
}

impl Settings {
    /// Reads `file`, then lays the environment and `sets` (`path=value`) over it.
    ///
    /// # Errors
    /// A file that cannot be read or parsed, with its place; an override that names no key or
    /// gives it a value of the wrong kind.
    pub fn load(file: &Path, sets: &[String]) -> Result<(Self, String), Failure> {
        let text =
            std::fs::read_to_string(file).map_err(|e| io_failure(file, "read the pipeline", &e))?;
        let settings: Settings = serde_yaml_ng::from_str(&text).map_err(|e| {
            let (line, column) = match e.location() {
                Some(place) => (Some(place.line()), Some(place.column())),
                None => (None, None),
            };
            Failure::new("config", without_place(&e.to_string()))
                .in_file(file)
                .at(line, column)
                .cure("compare with pipelines/card-fraud/pipeline.yaml; the message names the keys that are known")
        })?;
        let overrides = overrides::all(sets)?;
        if overrides.is_empty() {
            return Ok((settings, text));
        }
        let mut value: Value = serde_yaml_ng::from_str(&text)
            .map_err(|e| Failure::new("config", e.to_string()).in_file(file))?;
        let mut settings = settings;
        for Override {
            origin,
            path,
            value: new,
            hidden,
        } in overrides
        {
            set(&mut value, &path, new).map_err(|at| {
                Failure::usage(format!(
                    "{origin}: `{at}` is not a section of {}",
                    file.display()
                ))
                .cure("write the path of the key with dots, for example --set state.interval=10s")
            })?;
            settings = serde_yaml_ng::from_value(value.clone()).map_err(|e| {
                let message = match hidden {
                    false => e.to_string(),
                    true => "there is no such key, or its value is of another kind".into(),
                };
                Failure::usage(format!("{origin}: {message}"))
                    .cure("give the key a value of its kind")
            })?;
        }
        Ok((settings, text))
    }
}

/// Sets a key, making sections on the way; the error names the part of the path that holds a value.
fn set(root: &mut Value, path: &[String], new: Value) -> Result<(), String> {
    let mut at = root;
    for (depth, key) in path.iter().enumerate() {
        if at.is_null() {
            *at = Value::Mapping(Default::default());
        }
        let Value::Mapping(section) = at else {
            return Err(path[..depth].join("."));
        };
        at = section
            .entry(Value::String(key.clone()))
            .or_insert(Value::Null);
    }
    *at = new;
    Ok(())
}

/// The message of a YAML error less the place, which is reported beside it.
fn without_place(message: &str) -> String {
    match message.rfind(" at line ") {
        Some(at) => message[..at].to_string(),
        None => message.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_makes_sections_and_refuses_values() {
        let mut root: Value =
            serde_yaml_ng::from_str("{state: {interval: 30s}, version: 1}").unwrap();
        let path = |p: &str| p.split('.').map(str::to_string).collect::<Vec<_>>();
        set(&mut root, &path("state.interval"), "1s".into()).unwrap();
        set(&mut root, &path("model.seed"), 3.into()).unwrap();
        assert_eq!(root["state"]["interval"], "1s");
        assert_eq!(root["model"]["seed"], 3);
        assert_eq!(
            set(&mut root, &path("version.major"), 1.into()),
            Err("version".into())
        );
    }

    #[test]
    fn a_property_is_text_and_is_never_shown() {
        let kafka = |text: &str| serde_yaml_ng::from_str::<KafkaSettings>(text);
        let text = "properties: {sasl.password: hunter2, ssl.ca.location: 7, a: false}";
        let settings = kafka(text).unwrap();
        assert_eq!(settings.properties["sasl.password"], "hunter2");
        assert_eq!(settings.properties["ssl.ca.location"], "7");
        assert_eq!(settings.properties["a"], "false");
        let shown = format!("{settings:?}{}", serde_json::to_string(&settings).unwrap());
        assert!(shown.contains("sasl.password"), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
        // What is not text is refused without being repeated.
        for value in ["4.25e1", "[4.25e1]", "{b: 4.25e1}", ""] {
            let refused = kafka(&format!("properties: {{sasl.password: {value}}}"));
            let message = refused.unwrap_err().to_string();
            assert!(message.contains("sasl.password"), "{message}");
            assert!(!message.contains("42"), "{message}");
        }
    }
}
