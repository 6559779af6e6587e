//! What `pipeline.yaml` says of one stream, resolved.

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{DataType, TimestampMicrosecondType};
use serde_json::{Map, Value};

use crate::values::value_as_json;

use crate::hash::HashKey;
use crate::protobuf::ProtobufSchema;
use crate::registry::RegistryOptions;
use crate::seal::SealKey;

/// How the records of a topic are encoded. Files tell their format by extension.
#[derive(Debug, Clone, Default)]
pub enum Format {
    /// One JSON object a record.
    #[default]
    Json,
    /// One Avro record each, behind a zero and the id of its schema in a registry.
    Avro(RegistryOptions),
    /// One Protobuf message a record.
    Protobuf(ProtobufSchema, Framing),
}

/// What stands before a Protobuf message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Framing {
    /// Nothing.
    #[default]
    None,
    /// A zero, a schema's id and the message's place in its file, as a registry's client writes
    /// them.
    Confluent,
}

/// What an integer event time counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EpochUnit {
    /// Seconds since 1970 UTC.
    Seconds,
    /// Milliseconds.
    Milliseconds,
    /// Microseconds.
    Microseconds,
    /// Nanoseconds.
    Nanoseconds,
}

impl EpochUnit {
    /// Parses `s`, `ms`, `us` or `ns`.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "s" => Some(EpochUnit::Seconds),
            "ms" => Some(EpochUnit::Milliseconds),
            "us" => Some(EpochUnit::Microseconds),
            "ns" => Some(EpochUnit::Nanoseconds),
            _ => None,
        }
    }

    /// `value` in microseconds, rounded down; `None` if it does not fit.
    pub(crate) fn to_us(self, value: i64) -> Option<i64> {
        match self {
            EpochUnit::Seconds => value.checked_mul(1_000_000),
            EpochUnit::Milliseconds => value.checked_mul(1_000),
            EpochUnit::Microseconds => Some(value),
            EpochUnit::Nanoseconds => Some(value.div_euclid(1_000)),
        }
    }

    /// `us` microseconds as a count of the unit, rounded down.
    pub(crate) fn of_us(self, us: i64) -> i64 {
        match self {
            EpochUnit::Seconds => us.div_euclid(1_000_000),
            EpochUnit::Milliseconds => us.div_euclid(1_000),
            EpochUnit::Microseconds => us,
            EpochUnit::Nanoseconds => us.saturating_mul(1_000),
        }
    }

    /// Microseconds in one unit.
    pub(crate) fn us_each(self) -> f64 {
        match self {
            EpochUnit::Seconds => 1e6,
            EpochUnit::Milliseconds => 1e3,
            EpochUnit::Microseconds => 1.0,
            EpochUnit::Nanoseconds => 1e-3,
        }
    }
}

impl StreamSpec {
    /// A row of the relation as a JSON record of the stream, under the names of its source: what
    /// stands for the record's bytes where only the row is left. Fields that are not declared are not in
    /// it, and hashed columns stay hashed.
    pub fn record_of(&self, rows: &RecordBatch, row: usize) -> Vec<u8> {
        let mut record = Map::new();
        for column in &self.columns {
            if let Some(values) = rows.column_by_name(&column.name) {
                record.insert(column.from.clone(), value_as_json(values, row));
            }
        }
        let time_us = rows
            .column(0)
            .as_primitive::<TimestampMicrosecondType>()
            .value(row);
        let time = match self.event_time.unit {
            Some(unit) => Value::from(unit.of_us(time_us)),
            None => value_as_json(rows.column(0), row),
        };
        record.insert(self.event_time.column.clone(), time);
        Value::Object(record).to_string().into_bytes()
    }
}

/// Where a stream's event time stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventTimeSpec {
    /// Field of the source.
    pub column: String,
    /// What integers count. Timestamps and RFC 3339 text need none.
    pub unit: Option<EpochUnit>,
}

/// One declared column of a stream.
#[derive(Debug, Clone)]
pub struct ColumnSpec {
    /// Column of the relation.
    pub name: String,
    /// Field of the source.
    pub from: String,
    /// Type in the relation: Utf8, Int64, Int32, Float64, Boolean, Decimal128 or
    /// Timestamp(Microsecond).
    pub data_type: DataType,
    /// Its values, which are text then, are replaced by their keyed hashes.
    pub hash: Option<HashKey>,
}

/// One stream.
#[derive(Debug, Clone)]
pub struct StreamSpec {
    /// Name, one of the relation's streams.
    pub name: Arc<str>,
    /// Topic, where the stream comes from a broker.
    pub topic: Option<String>,
    /// Encoding of the topic's records.
    pub format: Format,
    /// Column of the relation that identifies an event; one of `columns`.
    pub id: Option<String>,
    /// Column of the relation that keys the topic. It need not be one of `columns`: a record of
    /// labels is keyed like its event without naming the key again.
    pub key: Option<String>,
    /// Event time.
    pub event_time: EventTimeSpec,
    /// Declared columns.
    pub columns: Vec<ColumnSpec>,
    /// Seals the raw bytes of dead letters; must be there if a column is hashed.
    pub seal: Option<SealKey>,
}
