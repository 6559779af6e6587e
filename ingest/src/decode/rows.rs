//! Values of a stream's fields, cast column by column, to rows of the relation; the first reason against a record
//! refuses it.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int8Array, Int8DictionaryArray, Int64Array,
    RecordBatch, StringArray, new_null_array,
};
use arrow::compute::filter;
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use sanderling_schemas::relation::EVENT_TIME;
use sanderling_schemas::{RejectReason, Relation};

use super::{Decoder, Slot};
use crate::IngestError;
use crate::convert::convert;
use crate::decoded::{Decoded, Origins, Refusal};
use crate::values::{Cell, Integers, Kind, Values};

/// How far an event time may be ahead of the broker's, microseconds.
pub const FUTURE_US_MAX: i64 = 3_600_000_000;

impl Decoder {
    /// The rows that the values of each of `fields` make, of so many records, without those that are refused: before,
    /// or by a column.
    pub(super) fn finish(
        &self,
        values: &[Values<'_>],
        records: usize,
        mut refused: BTreeMap<usize, Refusal>,
        mut broker_times: Option<Int64Array>,
    ) -> Result<Decoded, IngestError> {
        let schema = &self.relation.schema;
        let mut columns: Vec<Option<ArrayRef>> = vec![None; schema.fields().len()];
        let hidden = self.has_identifiers();
        let mut label = None;
        let (mut topic, mut partition, mut offset) = (None, None, None);
        for target in &self.targets {
            let source = &values[target.field];
            if matches!(source, Values::Absent) && !target.declared() {
                continue;
            }
            let name = &target.name;
            let refuse = |record: usize, reason, cell: &Cell<'_>| {
                // An identifier can stand in a column where it does not belong.
                let (shown, kind) = match hidden {
                    true => (cell.kind().to_string(), target.kind.name()),
                    false => (cell.shown(), target.kind.name()),
                };
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
            let mut array = convert(source, records, target.kind, refuse)?;
            if let Some(key) = &target.hash {
                array = key.hash_column(array.as_string());
            }
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
