//! The relation `events`: the one table that features are written over.
//!
//! All streams share it. A column belongs to one or more streams and is NULL on the rows of the
//! others; `stream` tells them apart.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

/// Column 0: event time, microseconds since 1970 UTC, never NULL.
pub const EVENT_TIME: &str = "event_time";
/// Column 1: the row's stream, dictionary-encoded; key = index into [`Relation::streams`].
pub const STREAM: &str = "stream";

/// One input stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Stream {
    /// Name, as in `pipeline.yaml` and in the column `stream`.
    pub name: Arc<str>,
    /// Rows get decisions. The others only move state.
    pub scored: bool,
    /// Column of the relation that keys the topic; it stands in a decision as `key`.
    pub key: Option<String>,
}

/// Something with a memory: a card, a terminal, a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entity {
    /// Name; also the name of the attribution group of its history.
    pub name: String,
    /// Column of the relation that identifies it.
    pub key: String,
}

/// Where labels stand in the relation.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelColumns {
    /// Index of the label stream in [`Relation::streams`].
    pub stream: usize,
    /// Column that names the labelled event; same type as [`Relation::id`].
    pub reference: String,
    /// Column of the label's value: Int64, NULL on all other rows.
    pub value: String,
    /// How long an event can be labelled after its event time, microseconds.
    pub horizon_us: i64,
}

/// What becomes of a row that is late for one of its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LateRows {
    /// It is taken as of its own time, decided and flagged.
    Decide,
    /// It is refused: no window, no memory and no decision knows of it. Labels are taken all the
    /// same: what they tell is news whenever it comes.
    Refuse,
}

/// The relation's shape and the roles of its columns.
#[derive(Debug, Clone)]
pub struct Relation {
    /// `event_time`, `stream`, then every declared column in the order of declaration.
    pub schema: SchemaRef,
    /// Streams, the scored ones among them.
    pub streams: Vec<Stream>,
    /// Column that identifies an event of a scored stream, under its source name and type.
    pub id: Option<String>,
    /// Entities in the order of `pipeline.yaml`; the first is the one the events belong to (the
    /// card, the machine), the others are endpoints (terminal, device).
    pub entities: Vec<Entity>,
    /// Labels, if the pipeline has any.
    pub labels: Option<LabelColumns>,
    /// Rows further behind their key's newest row than this are late, microseconds.
    pub lateness_us: i64,
    /// What becomes of late rows.
    pub late_rows: LateRows,
    /// Rows that windows keep of one key at most; the newest ones.
    pub rows_per_key_max: Option<u64>,
}

impl Relation {
    /// The relation's schema for the declared columns, which are all nullable.
    pub fn schema_of(columns: &[(String, DataType)]) -> SchemaRef {
        let mut fields = vec![
            Field::new(
                EVENT_TIME,
                DataType::Timestamp(TimeUnit::Microsecond, None),
                false,
            ),
            Field::new(STREAM, Self::stream_type(), false),
        ];
        fields.extend(
            columns
                .iter()
                .map(|(name, t)| Field::new(name, t.clone(), true)),
        );
        Arc::new(Schema::new(fields))
    }

    /// The type of the column `stream`.
    pub fn stream_type() -> DataType {
        DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8))
    }
}
