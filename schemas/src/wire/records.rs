//! Dead letters and order records as tables, and order records read back.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int32Array, Int64Array, ListArray, RecordBatch,
    StringArray, StructArray, UInt64Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::{
    DataType, Field, Fields, Int32Type, Int64Type, Schema, SchemaRef, UInt64Type,
};
use base64::Engine;

use super::WireError;
use crate::dead_letter::DeadLetter;
use crate::progress::{Offset, OffsetRange, OrderRecord, OrderVersions, Partition, Run, Sequence};
use crate::score::Rung;

/// Columns of `dead_letters.parquet`: `_topic, _partition, _offset, reason, detail, raw_base64,
/// raw_sha256, truncated, sealed`.
pub fn dead_letters_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("_topic", DataType::Utf8, false),
        Field::new("_partition", DataType::Int32, false),
        Field::new("_offset", DataType::Int64, false),
        Field::new("reason", DataType::Utf8, false),
        Field::new("detail", DataType::Utf8, false),
        Field::new("raw_base64", DataType::Utf8, false),
        Field::new("raw_sha256", DataType::Utf8, false),
        Field::new("truncated", DataType::Boolean, false),
        Field::new("sealed", DataType::Boolean, false),
    ]))
}

/// Dead letters as rows of [`dead_letters_schema`], each with at most `raw_bytes_max` of its raw
/// bytes.
pub fn dead_letters_to_batch(
    letters: &[DeadLetter],
    raw_bytes_max: usize,
) -> Result<RecordBatch, WireError> {
    fn strings<'a>(values: impl Iterator<Item = &'a str>) -> ArrayRef {
        Arc::new(StringArray::from_iter_values(values))
    }
    let encode =
        |l: &DeadLetter| base64::engine::general_purpose::STANDARD.encode(l.kept(raw_bytes_max).0);
    let columns: Vec<ArrayRef> = vec![
        strings(letters.iter().map(|l| &*l.event.topic)),
        Arc::new(Int32Array::from_iter_values(
            letters.iter().map(|l| l.event.partition.0),
        )),
        Arc::new(Int64Array::from_iter_values(
            letters.iter().map(|l| l.event.offset.0),
        )),
        strings(letters.iter().map(|l| l.reason.as_str())),
        strings(letters.iter().map(|l| l.detail.as_str())),
        Arc::new(StringArray::from_iter_values(letters.iter().map(encode))),
        Arc::new(StringArray::from_iter_values(
            letters.iter().map(DeadLetter::raw_sha256),
        )),
        Arc::new(BooleanArray::from_iter(
            letters.iter().map(|l| Some(l.kept(raw_bytes_max).1)),
        )),
        Arc::new(BooleanArray::from_iter(
            letters.iter().map(|l| Some(l.sealed.is_some())),
        )),
    ];
    Ok(RecordBatch::try_new(dead_letters_schema(), columns)?)
}

fn run_fields() -> Fields {
    Fields::from(vec![
        Field::new("topic", DataType::Utf8, false),
        Field::new("partition", DataType::Int32, false),
        Field::new("from", DataType::Int64, false),
        Field::new("next", DataType::Int64, false),
    ])
}

fn run_field() -> Arc<Field> {
    Arc::new(Field::new("item", DataType::Struct(run_fields()), false))
}

/// Columns of `order.parquet`: `sequence, rung, lane` (NULL without lanes), `backlog,
/// version_features, version_model, version_policy, version_tables` (JSON) and `runs`, a list of
/// {topic, partition, from, next}.
pub fn orders_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("sequence", DataType::UInt64, false),
        Field::new("rung", DataType::Utf8, false),
        Field::new("lane", DataType::Int32, true),
        Field::new("backlog", DataType::Boolean, false),
        Field::new("version_features", DataType::Utf8, false),
        Field::new("version_model", DataType::Utf8, false),
        Field::new("version_policy", DataType::Utf8, false),
        Field::new("version_tables", DataType::Utf8, false),
        Field::new("runs", DataType::List(run_field()), false),
    ]))
}

/// Order records as rows of [`orders_schema`].
pub fn orders_to_batch(orders: &[OrderRecord]) -> Result<RecordBatch, WireError> {
    fn strings<'a>(orders: &'a [OrderRecord], of: impl Fn(&'a OrderRecord) -> &'a str) -> ArrayRef {
        Arc::new(StringArray::from_iter_values(orders.iter().map(of)))
    }
    let tables = orders
        .iter()
        .map(|o| serde_json::to_string(&o.versions.tables).expect("a map of strings serialises"));
    let runs: Vec<&Run> = orders.iter().flat_map(|o| &o.runs).collect();
    let runs_columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(
            runs.iter().map(|r| &*r.topic),
        )),
        Arc::new(Int32Array::from_iter_values(
            runs.iter().map(|r| r.partition.0),
        )),
        Arc::new(Int64Array::from_iter_values(
            runs.iter().map(|r| r.range.from.0),
        )),
        Arc::new(Int64Array::from_iter_values(
            runs.iter().map(|r| r.range.next.0),
        )),
    ];
    let runs = ListArray::try_new(
        run_field(),
        OffsetBuffer::from_lengths(orders.iter().map(|o| o.runs.len())),
        Arc::new(StructArray::try_new(run_fields(), runs_columns, None)?),
        None,
    )?;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt64Array::from_iter_values(
            orders.iter().map(|o| o.sequence.0),
        )),
        strings(orders, |o| o.rung.as_str()),
        Arc::new(Int32Array::from_iter(orders.iter().map(|o| o.lane))),
        Arc::new(BooleanArray::from_iter(
            orders.iter().map(|o| Some(o.backlog)),
        )),
        strings(orders, |o| &o.versions.features),
        strings(orders, |o| &o.versions.model),
        strings(orders, |o| &o.versions.policy),
        Arc::new(StringArray::from_iter_values(tables)),
        Arc::new(runs),
    ];
    Ok(RecordBatch::try_new(orders_schema(), columns)?)
}

/// The order records of a table that [`orders_to_batch`] made. A table without `lane` and `backlog`
/// has neither lanes nor a backlog.
pub fn orders_from_batch(batch: &RecordBatch) -> Result<Vec<OrderRecord>, WireError> {
    let of = |name: &str| {
        let schema = orders_schema();
        let field = schema.field_with_name(name)?;
        column(batch, name, field.data_type(), field.is_nullable())
    };
    let optional = |name: &str| match batch.column_by_name(name) {
        Some(_) => of(name).map(Some),
        None => Ok(None),
    };
    let (sequences, rungs, runs) = (of("sequence")?, of("rung")?, of("runs")?);
    let (sequences, rungs) = (
        sequences.as_primitive::<UInt64Type>(),
        rungs.as_string::<i32>(),
    );
    let (lanes, backlogs) = (optional("lane")?, optional("backlog")?);
    let [features, model, policy, tables] = [
        of("version_features")?,
        of("version_model")?,
        of("version_policy")?,
        of("version_tables")?,
    ];
    let text = |column: &ArrayRef, row: usize| column.as_string::<i32>().value(row).to_string();
    (0..batch.num_rows())
        .map(|row| {
            let rung = Rung::ALL
                .into_iter()
                .find(|r| r.as_str() == rungs.value(row));
            let rung = rung.ok_or_else(|| WireError::OrderTable {
                what: format!("{:?} is not a rung", rungs.value(row)),
            })?;
            let tables: BTreeMap<String, String> = serde_json::from_str(&text(&tables, row))
                .map_err(|e| WireError::OrderTable {
                    what: format!("version_tables: {e}"),
                })?;
            Ok(OrderRecord {
                sequence: Sequence(sequences.value(row)),
                rung,
                lane: lanes.as_ref().and_then(|lanes| {
                    let lanes = lanes.as_primitive::<Int32Type>();
                    lanes.is_valid(row).then(|| lanes.value(row))
                }),
                backlog: (backlogs.as_ref()).is_some_and(|b| b.as_boolean().value(row)),
                versions: OrderVersions {
                    features: text(&features, row).into(),
                    model: text(&model, row).into(),
                    policy: text(&policy, row).into(),
                    tables,
                },
                runs: runs_from(runs.as_list::<i32>().value(row).as_struct())?,
            })
        })
        .collect()
}

fn column(
    batch: &RecordBatch,
    name: &str,
    wanted: &DataType,
    nullable: bool,
) -> Result<ArrayRef, WireError> {
    let column = batch
        .column_by_name(name)
        .ok_or_else(|| WireError::OrderTable {
            what: format!("the column {name} is missing"),
        })?;
    // Other writers may call the list's items nullable or name them otherwise.
    let alike = match (column.data_type(), wanted) {
        (DataType::List(_), DataType::List(_)) => true,
        (is, wanted) => is == wanted,
    };
    if !alike || (column.null_count() > 0 && !nullable) {
        return Err(WireError::OrderTable {
            what: format!(
                "the column {name} is {} with {} NULLs, wanted {wanted}",
                column.data_type(),
                column.null_count()
            ),
        });
    }
    Ok(column.clone())
}

fn runs_from(runs: &StructArray) -> Result<Vec<Run>, WireError> {
    let part = |name: &str, wanted: DataType| match runs.column_by_name(name) {
        Some(column) if *column.data_type() == wanted => Ok(column.clone()),
        _ => Err(WireError::OrderTable {
            what: format!("runs.{name} is not a {wanted}"),
        }),
    };
    let topic = part("topic", DataType::Utf8)?;
    let partition = part("partition", DataType::Int32)?;
    let from = part("from", DataType::Int64)?;
    let next = part("next", DataType::Int64)?;
    let mut result: Vec<Run> = Vec::with_capacity(runs.len());
    for row in 0..runs.len() {
        let name = topic.as_string::<i32>().value(row);
        let topic = match result.last() {
            Some(run) if &*run.topic == name => run.topic.clone(),
            _ => name.into(),
        };
        result.push(Run {
            topic,
            partition: Partition(partition.as_primitive::<Int32Type>().value(row)),
            range: OffsetRange {
                from: Offset(from.as_primitive::<Int64Type>().value(row)),
                next: Offset(next.as_primitive::<Int64Type>().value(row)),
            },
        });
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letter::{RejectReason, Sealing};
    use crate::progress::EventId;

    #[test]
    fn order_records_come_back() {
        let run = |topic: &str, from, next| Run {
            topic: topic.into(),
            partition: Partition(3),
            range: OffsetRange {
                from: Offset(from),
                next: Offset(next),
            },
        };
        let order = |sequence, rung, runs| OrderRecord {
            sequence: Sequence(sequence),
            rung,
            lane: (rung == Rung::Full).then_some(3),
            backlog: rung == Rung::Rules,
            versions: OrderVersions {
                features: "f".into(),
                model: "m".into(),
                policy: "p".into(),
                tables: BTreeMap::from([("bins".to_string(), "7".to_string())]),
            },
            runs,
        };
        let orders = vec![
            order(0, Rung::Full, vec![run("a", 0, 4), run("b", 9, 10)]),
            order(5, Rung::Rules, vec![]),
            order(5, Rung::NoGraph, vec![run("a", 4, 5)]),
        ];
        let batch = orders_to_batch(&orders).unwrap();
        assert_eq!(orders_from_batch(&batch).unwrap(), orders);
        assert_eq!(orders_from_batch(&batch.slice(2, 1)).unwrap(), orders[2..]);
        let partial = batch.project(&[0, 1]).unwrap();
        assert!(matches!(
            orders_from_batch(&partial),
            Err(WireError::OrderTable { .. })
        ));
        // Written before there were lanes.
        let early = batch.project(&[0, 1, 4, 5, 6, 7, 8]).unwrap();
        let plain = orders.iter().cloned().map(|order| OrderRecord {
            lane: None,
            backlog: false,
            ..order
        });
        assert_eq!(
            orders_from_batch(&early).unwrap(),
            plain.collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_dead_letter_s_row_says_what_its_json_says() {
        let letter = DeadLetter {
            event: EventId {
                topic: "payments".into(),
                partition: Partition(1),
                offset: Offset(7),
            },
            reason: RejectReason::WrongType,
            detail: "amount: \"x\" is not a decimal(12,2)".to_string(),
            raw: b"{\"amount\":\"x\"}".to_vec(),
            sealed: None,
            key: None,
        };
        let batch = dead_letters_to_batch(std::slice::from_ref(&letter), 5).unwrap();
        let json = letter.to_json(5);
        for name in ["reason", "detail", "raw_base64", "raw_sha256"] {
            let cell = batch
                .column_by_name(name)
                .unwrap()
                .as_string::<i32>()
                .value(0);
            assert_eq!(json[name], cell);
        }
        let flag = |batch: &RecordBatch, name: &str| {
            let column = batch.column_by_name(name).unwrap();
            column.as_boolean().value(0)
        };
        assert!(flag(&batch, "truncated") && !flag(&batch, "sealed"));
        assert!(json.get("key_base64").is_none());

        // A key goes with it, unless it is too long to.
        for (bytes, there) in [(3, true), (DeadLetter::KEY_BYTES_MAX + 1, false)] {
            let keyed = DeadLetter {
                key: Some(vec![b'k'; bytes]),
                ..letter.clone()
            };
            let json = keyed.to_json(100);
            assert_eq!(json.get("key_base64").is_some(), there);
            assert_eq!(json["truncated"], !there);
        }

        // What is sealed is whole or not there, and keeps the hash that it was given.
        let sealed = DeadLetter {
            sealed: Some(Sealing {
                raw_hmac: "ab".into(),
                truncated: false,
            }),
            ..letter
        };
        for (raw_bytes_max, kept) in [(5, 0), (100, 14)] {
            let batch = dead_letters_to_batch(std::slice::from_ref(&sealed), raw_bytes_max);
            let batch = batch.unwrap();
            let json = sealed.to_json(raw_bytes_max);
            assert_eq!(json["sealed"], true);
            assert_eq!(json["raw_sha256"], "ab");
            assert_eq!(json["truncated"], kept == 0);
            assert_eq!(sealed.kept(raw_bytes_max).0.len(), kept);
            assert!(flag(&batch, "sealed") && flag(&batch, "truncated") == (kept == 0));
        }
    }
}
