//! Labels made from a column of a file: each becomes a row of the label stream once the stream of
//! events has reached the time at which the bank would have known it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int8Array, Int32Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray, new_null_array,
};
use arrow::datatypes::{DataType, Int32Type, Int64Type, TimestampMicrosecondType};
use sanderling_schemas::{LabelColumns, Relation};

use crate::IngestError;
use crate::decode::stream_column;
use crate::stream::StreamSpec;

/// Labels that stand in a column of the scored stream's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelFileSpec {
    /// Column of the file: 0 or 1, or any integer. NULL: there is no label.
    pub column: String,
    /// From an event's time to the moment its label is known, microseconds.
    pub delay_us: i64,
}

/// The id of a labelled event.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reference {
    Int(i64),
    Text(Box<str>),
}

impl Reference {
    /// Whether ids of this type can be referred to.
    pub(crate) fn can_read(ids: &DataType) -> bool {
        matches!(ids, DataType::Utf8 | DataType::Int64 | DataType::Int32)
    }

    /// The id in row `row` of a column whose type can be read.
    pub(crate) fn read(ids: &ArrayRef, row: usize) -> Reference {
        match ids.data_type() {
            DataType::Int64 => Reference::Int(ids.as_primitive::<Int64Type>().value(row)),
            DataType::Int32 => Reference::Int(ids.as_primitive::<Int32Type>().value(row).into()),
            _ => Reference::Text(ids.as_string::<i32>().value(row).into()),
        }
    }
}

/// How labels of a column become rows.
pub(crate) struct LabelRows {
    pub columns: LabelColumns,
    pub stream: i8,
    delay_us: i64,
    id_column: usize,
}

impl LabelRows {
    /// How those of the scored stream `spec` do, or what is wrong with its declaration.
    pub(crate) fn new(
        relation: &Relation,
        spec: &StreamSpec,
        label: &LabelFileSpec,
    ) -> Result<Self, String> {
        let columns = relation
            .labels
            .clone()
            .ok_or("labels.file is set, but there are no labels")?;
        let id = spec
            .id
            .as_ref()
            .ok_or("labels refer to rows by id; declare `id`")?;
        let index = |name: &str| {
            relation
                .schema
                .index_of(name)
                .map_err(|_| format!("{name} is not in the relation"))
        };
        let (id_column, reference) = (index(id)?, index(&columns.reference)?);
        index(&columns.value)?;
        let (id_type, reference_type) = (
            relation.schema.field(id_column).data_type(),
            relation.schema.field(reference).data_type(),
        );
        if id_type != reference_type || !Reference::can_read(id_type) {
            return Err(format!(
                "id {id} is {id_type} and labels refer to it by {} {reference_type}; \
                 both must be string, or both bigint or int",
                columns.reference
            ));
        }
        let stream = i8::try_from(columns.stream).map_err(|_| "too many streams")?;
        Ok(Self {
            columns,
            stream,
            delay_us: label.delay_us,
            id_column,
        })
    }

    /// The label `value` of a row, which is number `number` of the accepted order and came from the
    /// input `input`.
    pub(crate) fn label(
        &self,
        rows: &RecordBatch,
        row: usize,
        value: i64,
        number: u64,
        input: usize,
    ) -> Pending {
        let times = rows.column(0).as_primitive::<TimestampMicrosecondType>();
        Pending {
            known_at_us: times.value(row).saturating_add(self.delay_us),
            row: number,
            input,
            reference: Reference::read(rows.column(self.id_column), row),
            value,
        }
    }
}

/// A label that is not known yet. Ordered by (known at, row).
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pending {
    pub known_at_us: i64,
    /// Number of the row it labels, in accepted order.
    pub row: u64,
    /// Input that the row came from.
    pub input: usize,
    pub reference: Reference,
    pub value: i64,
}

/// Labels waiting for their time. What comes in order waits in a queue, the rest in a heap.
#[derive(Debug, Default)]
pub(crate) struct PendingLabels {
    queue: VecDeque<Pending>,
    heap: BinaryHeap<Reverse<Pending>>,
}

impl PendingLabels {
    pub(crate) fn push(&mut self, label: Pending) {
        match self.queue.back() {
            Some(last) if *last > label => self.heap.push(Reverse(label)),
            _ => self.queue.push_back(label),
        }
    }

    /// The next label, if it is known by `now_us`.
    pub(crate) fn pop_known(&mut self, now_us: i64) -> Option<Pending> {
        let from_heap = match (self.queue.front(), self.heap.peek()) {
            (Some(first), Some(Reverse(top))) => top < first,
            (first, _) => first.is_none(),
        };
        if from_heap {
            let due = self.heap.peek()?.0.known_at_us <= now_us;
            return if due {
                self.heap.pop().map(|Reverse(label)| label)
            } else {
                None
            };
        }
        let due = self.queue.front()?.known_at_us <= now_us;
        if due { self.queue.pop_front() } else { None }
    }
}

/// Rows of the label stream, which is `stream` of the relation.
pub(crate) fn label_rows(
    relation: &Relation,
    columns: &LabelColumns,
    stream: i8,
    labels: &[Pending],
) -> Result<RecordBatch, IngestError> {
    let rows = labels.len();
    let ints = || {
        labels.iter().map(|label| match &label.reference {
            Reference::Int(id) => Some(*id),
            Reference::Text(_) => None,
        })
    };
    let mut arrays: Vec<ArrayRef> = Vec::with_capacity(relation.schema.fields().len());
    for (index, field) in relation.schema.fields().iter().enumerate() {
        arrays.push(if index == 0 {
            let times = labels.iter().map(|label| label.known_at_us);
            Arc::new(TimestampMicrosecondArray::from_iter_values(times))
        } else if index == 1 {
            stream_column(relation, Int8Array::from(vec![stream; rows]))
        } else if *field.name() == columns.value {
            Arc::new(Int64Array::from_iter_values(
                labels.iter().map(|label| label.value),
            ))
        } else if *field.name() == columns.reference {
            match field.data_type() {
                DataType::Int64 => Arc::new(ints().collect::<Int64Array>()),
                DataType::Int32 => Arc::new(
                    ints()
                        .map(|id| id.map(|id| id as i32))
                        .collect::<Int32Array>(),
                ),
                _ => {
                    let text = labels.iter().map(|label| match &label.reference {
                        Reference::Text(id) => Some(&**id),
                        Reference::Int(_) => None,
                    });
                    Arc::new(text.collect::<StringArray>())
                }
            }
        } else {
            new_null_array(field.data_type(), rows)
        });
    }
    Ok(RecordBatch::try_new(relation.schema.clone(), arrays)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_come_by_known_at_then_row_however_pushed() {
        let mut pending = PendingLabels::default();
        for (row, known_at_us) in [5, 9, 2, 9, 5, 7].into_iter().enumerate() {
            let reference = Reference::Int(0);
            pending.push(Pending {
                known_at_us,
                row: row as u64,
                input: 0,
                reference,
                value: 0,
            });
        }
        let mut order = Vec::new();
        while let Some(label) = pending.pop_known(8) {
            order.push((label.known_at_us, label.row));
        }
        assert_eq!(order, [(2, 2), (5, 0), (5, 4), (7, 5)]);
        assert!(pending.pop_known(8).is_none());
        assert_eq!(pending.pop_known(9).map(|l| l.row), Some(1));
    }
}
