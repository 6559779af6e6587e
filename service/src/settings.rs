//! `pipeline.yaml` as it is written: every key, its default, and nothing resolved.
//!
//! Settings come from the file, then from `SANDERLING__SECTION__KEY` in the environment, then from
//! `--set path=value`; the last word wins. Unknown keys are refused with their place.

mod kafka;
mod load;
mod ordered;

use std::collections::BTreeMap;
use std::path::PathBuf;

use sanderling_schemas::Rung;
use serde::{Deserialize, Serialize};

pub use kafka::{KafkaSettings, RegistrySettings};
pub use ordered::Ordered;

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
    /// Where scores are computed.
    #[serde(default)]
    pub scoring: sanderling_scoring::ScoringOptions,
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
    /// Share of a core that reading the log again for it may take; 0 for not at all.
    pub log_share: f64,
    /// Rows of the log that are kept for it at most.
    pub log_rows_max: usize,
    /// How long before the start the log is read from, if it goes back as far.
    pub log_from: String,
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
            Self {
                rows_per_s: 1.0,
                log_share: 0.02,
                log_rows_max: 100_000,
                log_from: "1h".into(),
            }
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
