//! Records of one stream -> rows of the relation.
//!
//! A decoder takes many records at once, casts column by column, and leaves out the records that
//! cannot become rows, each with its reason: the first that applies in the order event time,
//! declared columns, label, recorded origin, future time.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int8Array, Int8DictionaryArray, Int32Array, Int64Array,
    RecordBatch, StringArray, new_null_array,
};
use arrow::compute::{filter, filter_record_batch};
use arrow::datatypes::{
    DataType, Decimal128Type, Int32Type, Int64Type, SchemaRef, TimestampMicrosecondType,
};
use arrow::util::display::array_value_to_string;
use sanderling_schemas::relation::EVENT_TIME;
use sanderling_schemas::{EventId, Offset, Partition, RejectReason, Relation};
use serde_json::{Map, Value};

use crate::IngestError;
use crate::convert::{Cell, Integers, Kind, Values, convert, never_casts};
use crate::json::read_record;
use crate::stream::StreamSpec;

/// How far an event time may be ahead of the broker's, microseconds.
const FUTURE_US_MAX: i64 = 3_600_000_000;

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

/// A record that cannot become a row.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// Index among the records that were decoded together.
    pub record: usize,
    /// Its event time, microseconds, where that much can be told.
    pub event_time_us: Option<i64>,
    /// Why.
    pub reason: RejectReason,
    /// Column, value and what was wanted.
    pub detail: String,
    /// Its origin, in a file that was recorded with origins.
    pub recorded: Option<EventId>,
}

/// Records decoded together.
#[derive(Debug)]
pub struct Decoded {
    /// Rows of [`Relation::schema`], in the order of their records.
    pub rows: RecordBatch,
    /// For each row, the index of its record.
    pub records: Vec<usize>,
    /// The other records, ascending.
    pub refused: Vec<Refusal>,
    /// Broker time of each row, microseconds; NULL where unknown. `None`: of no row.
    pub broker_times: Option<Int64Array>,
    pub(crate) labels: Option<Int64Array>,
    pub(crate) origins: Option<Origins>,
}

/// Where recorded rows came from. A row with a NULL in any of the three has no recorded origin.
#[derive(Debug)]
pub(crate) struct Origins {
    pub topic: StringArray,
    pub partition: Int32Array,
    pub offset: Int64Array,
}

impl Origins {
    /// The id of row `row`, unless a part of it is NULL; `topic` makes a topic of its name.
    pub(crate) fn id(&self, row: usize, topic: impl FnOnce(&str) -> Arc<str>) -> Option<EventId> {
        let parts = [
            self.topic.is_valid(row),
            self.partition.is_valid(row),
            self.offset.is_valid(row),
        ];
        (parts == [true; 3]).then(|| EventId {
            topic: topic(self.topic.value(row)),
            partition: Partition(self.partition.value(row)),
            offset: Offset(self.offset.value(row)),
        })
    }
}

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
            decoder.add(&column.from, name, kind, Slot::Column(index), required);
        }
        if let Some(id) = &spec.id
            && !spec.columns.iter().any(|column| column.name == *id)
        {
            return Err(wrong(format!("{id} is its id; declare it under `columns`")));
        }
        Ok(decoder)
    }

    /// The same for files, which may have recorded origins and, in `label`, a column of labels.
    pub(crate) fn for_files(mut self, label: Option<&str>) -> Self {
        if let Some(label) = label {
            self.add(label, label, Kind::BigInt, Slot::Label, false);
        }
        for (name, slot, kind) in RECORDED {
            self.add(name, name, kind, slot, false);
        }
        self
    }

    fn add(&mut self, field: &str, name: &str, kind: Kind, slot: Slot, required: bool) {
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
        });
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

    /// Decodes JSON records; `None` is a record without a value. `broker_times_us` has one entry
    /// for each record, or none at all.
    pub fn decode_json(
        &self,
        records: &[Option<&[u8]>],
        broker_times_us: &[Option<i64>],
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
                Some(record) => read_record(record, &self.fields, &mut cells),
                None => Err((
                    RejectReason::Malformed,
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

    fn finish(
        &self,
        values: &[Values<'_>],
        records: usize,
        mut refused: BTreeMap<usize, Refusal>,
        mut broker_times: Option<Int64Array>,
    ) -> Result<Decoded, IngestError> {
        let schema = &self.relation.schema;
        let mut columns: Vec<Option<ArrayRef>> = vec![None; schema.fields().len()];
        let mut label = None;
        let (mut topic, mut partition, mut offset) = (None, None, None);
        for target in &self.targets {
            let source = &values[target.field];
            if matches!(source, Values::Absent) && !target.declared() {
                continue;
            }
            let name = &target.name;
            let refuse = |record: usize, reason, cell: &Cell<'_>| {
                let (shown, kind) = (cell.shown(), target.kind.name());
                let cure = match target.kind {
                    Kind::Time(Integers::Undeclared) if matches!(cell, Cell::Int(_)) => {
                        "; declare event_time.unit"
                    }
                    _ => "",
                };
                let detail = format!("column {name}: {shown} cannot be read as {kind}{cure}");
                let refusal = Refusal {
                    record,
                    event_time_us: None,
                    reason,
                    detail,
                    recorded: None,
                };
                refused.entry(record).or_insert(refusal);
            };
            let array = convert(source, records, target.kind, refuse)?;
            if target.required && array.null_count() > 0 {
                for record in (0..records).filter(|record| array.is_null(*record)) {
                    refused.entry(record).or_insert_with(|| Refusal {
                        record,
                        event_time_us: None,
                        reason: RejectReason::MissingField,
                        detail: format!("column {name} is missing"),
                        recorded: None,
                    });
                }
            }
            match target.slot {
                Slot::EventTime => columns[0] = Some(array),
                Slot::Column(index) => columns[index] = Some(array),
                Slot::Label => label = Some(array.as_primitive::<Int64Type>().clone()),
                Slot::Topic => topic = Some(array.as_string::<i32>().clone()),
                Slot::Partition => partition = Some(array.as_primitive::<Int32Type>().clone()),
                Slot::Offset => offset = Some(array.as_primitive::<Int64Type>().clone()),
                Slot::BrokerTime if array.null_count() < array.len() => {
                    let times = array.as_primitive::<TimestampMicrosecondType>();
                    let (_, times, nulls) = times.clone().into_parts();
                    broker_times = Some(Int64Array::new(times, nulls));
                }
                Slot::BrokerTime => {}
            }
        }
        let event_times = columns[0]
            .clone()
            .unwrap_or_else(|| new_null_array(schema.field(0).data_type(), records));
        let event_times = event_times.as_primitive::<TimestampMicrosecondType>();
        if let Some(broker) = &broker_times {
            for record in 0..records {
                if event_times.is_null(record) || broker.is_null(record) {
                    continue;
                }
                let ahead = event_times
                    .value(record)
                    .saturating_sub(broker.value(record));
                if ahead > FUTURE_US_MAX {
                    refused.entry(record).or_insert_with(|| Refusal {
                        record,
                        event_time_us: None,
                        reason: RejectReason::FutureTime,
                        detail: format!(
                            "column {EVENT_TIME} is {} s ahead of the broker's time",
                            ahead / 1_000_000
                        ),
                        recorded: None,
                    });
                }
            }
        }
        let origins = match (topic, partition, offset) {
            (Some(topic), Some(partition), Some(offset)) => Some(Origins {
                topic,
                partition,
                offset,
            }),
            _ => None,
        };
        for (record, refusal) in &mut refused {
            refusal.event_time_us = event_times
                .is_valid(*record)
                .then(|| event_times.value(*record));
            refusal.recorded = origins
                .as_ref()
                .and_then(|o| o.id(*record, |name| Arc::from(name)));
        }
        let mut decoded = Decoded {
            rows: RecordBatch::new_empty(schema.clone()),
            records: (0..records).collect(),
            refused: refused.into_values().collect(),
            broker_times,
            labels: label,
            origins,
        };
        let kept = (!decoded.refused.is_empty()).then(|| {
            let mut kept = vec![true; records];
            decoded
                .refused
                .iter()
                .for_each(|refusal| kept[refusal.record] = false);
            BooleanArray::from(kept)
        });
        let rows = kept.as_ref().map_or(records, BooleanArray::true_count);
        let mut arrays = Vec::with_capacity(columns.len());
        for (index, column) in columns.into_iter().enumerate() {
            arrays.push(match (index, column, &kept) {
                (1, ..) => self.stream_column(rows),
                (_, Some(column), Some(kept)) => filter(&column, kept)?,
                (_, Some(column), None) => column,
                (_, None, _) => new_null_array(schema.field(index).data_type(), rows),
            });
        }
        decoded.rows = RecordBatch::try_new(schema.clone(), arrays)?;
        if let Some(kept) = &kept {
            decoded.keep_beside(kept)?;
        }
        Ok(decoded)
    }

    fn stream_column(&self, rows: usize) -> ArrayRef {
        stream_column(&self.relation, Int8Array::from(vec![self.stream; rows]))
    }
}

/// The column `stream` with these keys, over the names of all streams.
pub(crate) fn stream_column(relation: &Relation, keys: Int8Array) -> ArrayRef {
    let names: StringArray = relation.streams.iter().map(|s| Some(&*s.name)).collect();
    Arc::new(Int8DictionaryArray::new(keys, Arc::new(names)))
}

impl Decoded {
    /// Leaves out rows and refusals whose event time is `to` or later.
    pub(crate) fn before(mut self, to: i64) -> Result<Self, IngestError> {
        self.refused
            .retain(|refusal| refusal.event_time_us.is_none_or(|at| at < to));
        let times = self
            .rows
            .column(0)
            .as_primitive::<TimestampMicrosecondType>();
        if times.values().iter().all(|at| *at < to) {
            return Ok(self);
        }
        let kept: BooleanArray = times.values().iter().map(|at| Some(*at < to)).collect();
        self.rows = filter_record_batch(&self.rows, &kept)?;
        self.keep_beside(&kept)?;
        Ok(self)
    }

    /// Applies to the columns beside `rows` what was applied to `rows`.
    fn keep_beside(&mut self, kept: &BooleanArray) -> Result<(), IngestError> {
        let mut row = 0;
        self.records.retain(|_| {
            row += 1;
            kept.value(row - 1)
        });
        let int64 = |array: &mut Option<Int64Array>| -> Result<(), IngestError> {
            if let Some(values) = array {
                *values = filter(&*values, kept)?.as_primitive::<Int64Type>().clone();
            }
            Ok(())
        };
        int64(&mut self.broker_times)?;
        int64(&mut self.labels)?;
        if let Some(origins) = &mut self.origins {
            origins.topic = filter(&origins.topic, kept)?.as_string::<i32>().clone();
            let partition = filter(&origins.partition, kept)?;
            origins.partition = partition.as_primitive::<Int32Type>().clone();
            origins.offset = filter(&origins.offset, kept)?
                .as_primitive::<Int64Type>()
                .clone();
        }
        Ok(())
    }
}

/// Row `row` of a table as a JSON object, for a dead letter: numbers that JSON does not have stand
/// as text.
pub(crate) fn row_as_json(table: &RecordBatch, row: usize) -> Vec<u8> {
    let mut object = Map::new();
    for (field, array) in table.schema().fields().iter().zip(table.columns()) {
        let value = match array.data_type() {
            _ if array.is_null(row) => Value::Null,
            DataType::Decimal128(..) => {
                Value::String(array.as_primitive::<Decimal128Type>().value_as_string(row))
            }
            _ => match Values::of(&array.slice(row, 1)) {
                Ok(Some(values)) => json_of(&values.cell(0), array, row),
                _ => Value::String(array_value_to_string(array, row).unwrap_or_default()),
            },
        };
        object.insert(field.name().clone(), value);
    }
    Value::Object(object).to_string().into_bytes()
}

fn json_of(cell: &Cell<'_>, array: &ArrayRef, row: usize) -> Value {
    match cell {
        Cell::Null => Value::Null,
        Cell::Bool(v) => Value::Bool(*v),
        Cell::Int(v) => i64::try_from(*v)
            .map(Value::from)
            .or_else(|_| u64::try_from(*v).map(Value::from))
            .unwrap_or(Value::Null),
        Cell::Float(v) if v.is_finite() => Value::from(*v),
        Cell::Text(text) => Value::String(text.to_string()),
        _ => Value::String(array_value_to_string(array, row).unwrap_or_default()),
    }
}
