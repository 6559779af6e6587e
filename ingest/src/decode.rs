//! Records of one stream -> rows of the relation.
//!
//! A decoder takes many records at once, casts column by column, and leaves out the records that
//! cannot become rows, each with its reason: the first that applies in the order event time,
//! declared columns, label, recorded origin, future time.
//!
//! Identifiers that are to be hashed are replaced here, so nothing behind a decoder holds one:
//! not a row, and of a stream with such columns no detail of a refusal and no dead letter either.

mod rows;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use sanderling_schemas::relation::EVENT_TIME;
use sanderling_schemas::{DeadLetter, EventId, RejectReason, Relation};

pub use rows::FUTURE_US_MAX;
pub(crate) use rows::stream_column;

use crate::IngestError;
use crate::avro::AvroReader;
use crate::convert::never_casts;
use crate::decoded::{Decoded, Refusal};
use crate::hash::HashKey;
use crate::json::read_record;
use crate::protobuf::{ProtobufReader, WantedField};
use crate::stream::{Format, StreamSpec};
use crate::values::{Cell, Integers, Kind, Values};

/// Columns that a recorded stream has beside its own.
const RECORDED: [(&str, Slot, Kind); 4] = [
    ("_topic", Slot::Topic, Kind::Text),
    ("_partition", Slot::Partition, Kind::Int),
    ("_offset", Slot::Offset, Kind::BigInt),
    (
        "_broker_time",
        Slot::BrokerTime,
        Kind::Time(Integers::BySize),
    ),
];

#[derive(Debug, Clone, Copy, PartialEq)]
enum Slot {
    EventTime,
    Column(usize),
    Label,
    Topic,
    Partition,
    Offset,
    BrokerTime,
}

#[derive(Debug, Clone)]
struct Target {
    field: usize,
    name: String,
    kind: Kind,
    slot: Slot,
    required: bool,
    hash: Option<HashKey>,
}

impl Target {
    /// Absence from a table is a mistake of the user's, not an ordinary case.
    fn declared(&self) -> bool {
        matches!(self.slot, Slot::EventTime | Slot::Column(_))
    }
}

/// Decodes the records of one stream.
#[derive(Debug, Clone)]
pub struct Decoder {
    relation: Arc<Relation>,
    spec: StreamSpec,
    stream: i8,
    fields: Vec<String>,
    targets: Vec<Target>,
    records: Records,
}

/// How a topic's records become cells.
#[derive(Debug, Clone)]
enum Records {
    Json,
    Avro(Arc<AvroReader>),
    Protobuf(Arc<ProtobufReader>),
}

impl Decoder {
    /// A decoder of `spec`. Fails if the declaration does not fit the relation.
    pub fn new(relation: Arc<Relation>, spec: StreamSpec) -> Result<Self, IngestError> {
        let wrong = |message: String| IngestError::Declaration {
            stream: spec.name.to_string(),
            message,
        };
        let stream = relation.streams.iter().position(|s| s.name == spec.name);
        let stream = stream
            .and_then(|index| i8::try_from(index).ok())
            .ok_or_else(|| wrong("not among the relation's streams".into()))?;
        let labels = relation
            .labels
            .as_ref()
            .filter(|l| l.stream == stream as usize);
        let mut decoder = Decoder {
            relation: relation.clone(),
            spec: spec.clone(),
            stream,
            fields: Vec::new(),
            targets: Vec::new(),
            records: Records::Json,
        };
        let unit = spec
            .event_time
            .unit
            .map_or(Integers::Undeclared, Integers::Count);
        let kind = Kind::Time(unit);
        decoder.add(
            &spec.event_time.column,
            EVENT_TIME,
            kind,
            Slot::EventTime,
            true,
            None,
        );
        for column in &spec.columns {
            let index = relation
                .schema
                .index_of(&column.name)
                .map_err(|_| wrong(format!("column {} is not in the relation", column.name)))?;
            let wanted = relation.schema.field(index).data_type();
            if *wanted != column.data_type {
                return Err(wrong(format!(
                    "column {} is {} here and {wanted} in the relation; declare one type",
                    column.name, column.data_type
                )));
            }
            let kind = Kind::of(wanted).ok_or_else(|| {
                wrong(format!("column {}: no column can be {wanted}", column.name))
            })?;
            let name = &column.name;
            let required = spec.id.as_ref() == Some(name)
                || spec.key.as_ref() == Some(name)
                || labels.is_some_and(|l| l.reference == *name || l.value == *name);
            if column.hash.is_some() && kind != Kind::Text {
                return Err(wrong(format!(
                    "column {name}: a hash is text; declare it as string"
                )));
            }
            let hash = column.hash.clone();
            decoder.add(
                &column.from,
                name,
                kind,
                Slot::Column(index),
                required,
                hash,
            );
        }
        if decoder.has_identifiers() && spec.seal.is_none() {
            return Err(wrong(
                "has hashed columns, but no key that seals its dead letters".into(),
            ));
        }
        if let Some(id) = &spec.id
            && !spec.columns.iter().any(|column| column.name == *id)
        {
            return Err(wrong(format!("{id} is its id; declare it under `columns`")));
        }
        decoder.records = match &spec.format {
            Format::Json => Records::Json,
            Format::Avro(registry) => Records::Avro(Arc::new(AvroReader::new(
                &spec.name,
                registry.clone(),
                &decoder.fields,
            ))),
            Format::Protobuf(schema, framing) => {
                // A label's value is often the zero that is not written.
                let value = labels.map(|labels| labels.value.as_str());
                let wanted = decoder.fields.iter().enumerate().map(|(index, field)| {
                    let mut targets = decoder.targets.iter().filter(|t| t.field == index);
                    let first = targets.clone().next();
                    WantedField {
                        name: field,
                        column: first.map_or(field, |target| &target.name),
                        essential: targets.any(|t| t.required && Some(t.name.as_str()) != value),
                    }
                });
                let wanted: Vec<_> = wanted.collect();
                let reader = ProtobufReader::new(schema, *framing, &wanted)?;
                Records::Protobuf(Arc::new(reader))
            }
        };
        Ok(decoder)
    }

    /// The same for files, which may have recorded origins and, in `label`, a column of labels.
    pub(crate) fn for_files(mut self, label: Option<&str>) -> Self {
        if let Some(label) = label {
            self.add(label, label, Kind::BigInt, Slot::Label, false, None);
        }
        for (name, slot, kind) in RECORDED {
            self.add(name, name, kind, slot, false, None);
        }
        self
    }

    fn add(
        &mut self,
        field: &str,
        name: &str,
        kind: Kind,
        slot: Slot,
        required: bool,
        hash: Option<HashKey>,
    ) {
        let index = self
            .fields
            .iter()
            .position(|f| f == field)
            .unwrap_or_else(|| {
                self.fields.push(field.to_string());
                self.fields.len() - 1
            });
        let name = name.to_string();
        self.targets.push(Target {
            field: index,
            name,
            kind,
            slot,
            required,
            hash,
        });
    }

    /// Whether the stream has columns that are hashed.
    fn has_identifiers(&self) -> bool {
        self.targets.iter().any(|target| target.hash.is_some())
    }

    /// The dead letter of a refused record, `raw`, which came from `event` and had `key`. Sealed
    /// where the pipeline says so: whoever makes dead letters makes them here.
    pub fn dead_letter(
        &self,
        event: EventId,
        reason: RejectReason,
        detail: String,
        raw: &[u8],
        key: Option<&[u8]>,
    ) -> DeadLetter {
        let (raw, key, sealed) = match &self.spec.seal {
            Some(seal) => {
                let (raw, sealing) = seal.seal(&event, raw);
                let key = key.map(|key| seal.seal_key(&event, key));
                (raw, key, Some(sealing))
            }
            None => (raw.to_vec(), key.map(<[u8]>::to_vec), None),
        };
        DeadLetter {
            event,
            reason,
            detail,
            raw,
            sealed,
            key,
        }
    }

    /// The stream's declaration.
    pub fn spec(&self) -> &StreamSpec {
        &self.spec
    }

    pub(crate) fn relation(&self) -> &Relation {
        &self.relation
    }

    /// The first declared column that a table with columns `present` lacks: (relation's, source's).
    pub(crate) fn missing<'a>(&'a self, present: &[&str]) -> Option<(&'a str, &'a str)> {
        let mut declared = self.targets.iter().filter(|t| t.declared());
        let target = declared.find(|t| !present.contains(&self.fields[t.field].as_str()))?;
        Some((&target.name, &self.fields[target.field]))
    }

    /// The first column of a table none of whose values can be cast: (column, type, wanted, cure).
    pub(crate) fn never_casts(
        &self,
        schema: &SchemaRef,
    ) -> Option<(String, DataType, String, &'static str)> {
        self.targets.iter().find_map(|target| {
            let name = &self.fields[target.field];
            let found = schema.field_with_name(name).ok()?.data_type();
            let cure = never_casts(found, target.kind)?;
            Some((name.clone(), found.clone(), target.kind.name(), cure))
        })
    }

    /// Decodes the rows of a table.
    pub(crate) fn decode_table(&self, table: &RecordBatch) -> Result<Decoded, IngestError> {
        let mut values = Vec::with_capacity(self.fields.len());
        for field in &self.fields {
            values.push(match table.column_by_name(field) {
                Some(array) => Values::of(array)?.unwrap_or(Values::Absent),
                None => Values::Absent,
            });
        }
        self.finish(&values, table.num_rows(), BTreeMap::new(), None)
    }

    /// Decodes a topic's records by the stream's format; `None` is a record without a value.
    /// `broker_times_us` has one entry for each record, or none at all.
    ///
    /// # Errors
    /// Only for what no record is at fault for: a schema registry that cannot be reached, after
    /// many tries. Nothing is lost if the records are read again.
    pub fn decode(
        &self,
        records: &[Option<&[u8]>],
        broker_times_us: &[Option<i64>],
    ) -> Result<Decoded, IngestError> {
        match &self.records {
            Records::Json => self.decode_json(records, broker_times_us),
            Records::Avro(reader) => {
                let plans = reader.plans(records)?;
                self.decode_with(records, broker_times_us, |record, cells| {
                    plans.read(record, cells)
                })
            }
            Records::Protobuf(reader) => {
                self.decode_with(records, broker_times_us, |record, cells| {
                    reader.read(record, cells)
                })
            }
        }
    }

    /// Decodes JSON records, of a topic or of a file.
    pub(crate) fn decode_json(
        &self,
        records: &[Option<&[u8]>],
        broker_times_us: &[Option<i64>],
    ) -> Result<Decoded, IngestError> {
        let hidden = self.has_identifiers();
        self.decode_with(records, broker_times_us, |record, cells| {
            read_record(record, &self.fields, cells, hidden)
        })
    }

    /// Decodes records that `read` makes cells of, one for each of `fields`.
    fn decode_with<'a>(
        &self,
        records: &[Option<&'a [u8]>],
        broker_times_us: &[Option<i64>],
        read: impl Fn(&'a [u8], &mut [Cell<'a>]) -> Result<(), (RejectReason, String)>,
    ) -> Result<Decoded, IngestError> {
        let mut columns: Vec<Vec<Cell<'_>>> = self
            .fields
            .iter()
            .map(|_| Vec::with_capacity(records.len()))
            .collect();
        let mut cells = vec![Cell::Null; self.fields.len()];
        let mut refused = BTreeMap::new();
        for (index, record) in records.iter().enumerate() {
            let outcome = match record {
                Some(record) => read(record, &mut cells),
                None => Err((
                    RejectReason::NullValue,
                    "the record has no value".to_string(),
                )),
            };
            if let Err((reason, detail)) = outcome {
                cells.fill(Cell::Null);
                let refusal = Refusal {
                    record: index,
                    event_time_us: None,
                    reason,
                    detail,
                    recorded: None,
                };
                refused.insert(index, refusal);
            }
            for (column, cell) in columns.iter_mut().zip(&mut cells) {
                column.push(std::mem::replace(cell, Cell::Null));
            }
        }
        let values: Vec<Values<'_>> = columns.into_iter().map(Values::Cells).collect();
        let known = broker_times_us.iter().any(Option::is_some);
        let broker = known.then(|| broker_times_us.iter().copied().collect());
        self.finish(&values, records.len(), refused, broker)
    }
}
