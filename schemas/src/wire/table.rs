//! Decisions as rows of an Arrow table, for Parquet.
//!
//! A table is made once for a pipeline and then fed slices of its decisions. Feature columns are
//! gathered from the batches they were computed in, a column at a time; nothing is copied where the
//! decisions are consecutive rows of one batch.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, DictionaryArray, Float64Array, Int32Array, Int64Array, ListArray, RecordBatch,
    StringArray, StringBuilder, StructArray, UInt64Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::interleave_record_batch;
use arrow::datatypes::{DataType, Field, Fields, Int32Type, Schema, SchemaRef};

use super::WireError;
use crate::decision::{Decision, Reason, Timing, Versions};
use crate::feature::FeatureSchema;
use crate::score::{Output, probability};

/// The column that identifies an event in its source.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceId {
    /// Name.
    pub name: String,
    /// Type.
    pub data_type: DataType,
}

/// Names of the versions, in the order of their columns.
const VERSIONS: [&str; 6] = [
    "engine", "numerics", "pipeline", "features", "model", "policy",
];
/// Names of the timing columns.
const TIMINGS: [&str; 4] = [
    "timing_wait_us",
    "timing_features_us",
    "timing_score_us",
    "timing_explain_us",
];

/// The shape of one pipeline's decisions as a table.
#[derive(Debug, Clone)]
pub struct DecisionTable {
    schema: SchemaRef,
    source_id: Option<SourceId>,
    features: Fields,
    groups: Vec<String>,
    timing: bool,
}

impl DecisionTable {
    /// The table for decisions with these features, attributed to `groups`. `source_id` is kept
    /// under its own name; with `timing` the table has the `timing_*` columns too.
    ///
    /// Fails if the source's id column is called like a column of ours.
    pub fn new(
        features: &FeatureSchema,
        groups: &[String],
        source_id: Option<SourceId>,
        timing: bool,
    ) -> Result<Self, WireError> {
        let own = |name: &str, data_type, nullable| Field::new(name, data_type, nullable);
        let mut fields = vec![
            own("id", DataType::Utf8, false),
            own("_topic", DataType::Utf8, false),
            own("_partition", DataType::Int32, false),
            own("_offset", DataType::Int64, false),
        ];
        let id_at = fields.len();
        fields.extend([
            own("key", DataType::Utf8, true),
            own("event_time_us", DataType::Int64, false),
            own("sequence", DataType::UInt64, false),
            own("stream", DataType::Utf8, false),
            own("action", DataType::Utf8, false),
            own("logit", DataType::Float64, true),
            own("probability", DataType::Float64, true),
            own("value", DataType::Float64, true),
            own("rung", DataType::Utf8, false),
            own("reasons", DataType::List(reason_field()), false),
            own("flags", DataType::List(flag_field()), false),
        ]);
        let feature_fields: Fields = features
            .fields
            .iter()
            .map(|f| Field::new(format!("f_{}", f.name), f.data_type.clone(), true))
            .collect();
        fields.extend(feature_fields.iter().map(|f| f.as_ref().clone()));
        fields.push(own("a_base", DataType::Float64, true));
        fields.extend(
            groups
                .iter()
                .map(|g| own(&format!("a_{g}"), DataType::Float64, true)),
        );
        fields.push(own("shadow", DataType::Utf8, true));
        fields.extend(
            VERSIONS
                .iter()
                .map(|v| own(&format!("version_{v}"), version_type(), false)),
        );
        if timing {
            fields.extend(
                TIMINGS
                    .iter()
                    .map(|name| own(name, DataType::UInt64, false)),
            );
        }
        if let Some(id) = &source_id {
            if fields.iter().any(|f| *f.name() == id.name) {
                return Err(WireError::NameTaken {
                    name: id.name.clone(),
                });
            }
            fields.insert(id_at, own(&id.name, id.data_type.clone(), true));
        }
        Ok(Self {
            schema: Arc::new(Schema::new(fields)),
            source_id,
            features: feature_fields,
            groups: groups.to_vec(),
            timing,
        })
    }

    /// Columns of the table.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The decisions as rows. `source_ids` holds the source's id of each decision, and is there
    /// if the table was made with one; `timings` likewise, one for each decision.
    pub fn to_batch(
        &self,
        decisions: &[Decision],
        source_ids: Option<ArrayRef>,
        timings: &[Timing],
    ) -> Result<RecordBatch, WireError> {
        let mut columns: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        columns.push(ids(decisions));
        columns.push(strings(decisions, |d| &d.event.topic));
        columns.push(Arc::new(Int32Array::from_iter_values(
            decisions.iter().map(|d| d.event.partition.0),
        )));
        columns.push(Arc::new(Int64Array::from_iter_values(
            decisions.iter().map(|d| d.event.offset.0),
        )));
        match (&self.source_id, source_ids) {
            (None, None) => {}
            (Some(id), Some(ids))
                if ids.len() == decisions.len() && *ids.data_type() == id.data_type =>
            {
                columns.push(ids);
            }
            (wanted, got) => {
                let got = got.map(|a| (a.data_type().clone(), a.len()));
                let what = format!(
                    "source ids {got:?}, wanted {wanted:?}, {} of them",
                    decisions.len()
                );
                return Err(WireError::Shape { what });
            }
        }
        columns.push(Arc::new(StringArray::from_iter(
            decisions.iter().map(|d| d.key.as_deref()),
        )));
        columns.push(Arc::new(Int64Array::from_iter_values(
            decisions.iter().map(|d| d.event_time.0),
        )));
        columns.push(Arc::new(UInt64Array::from_iter_values(
            decisions.iter().map(|d| d.sequence.0),
        )));
        columns.push(strings(decisions, |d| &d.stream));
        columns.push(strings(decisions, |d| d.action.as_str()));
        let logit = |d: &Decision| (d.output == Output::LogOdds).then_some(d.score);
        let value = |d: &Decision| (d.output != Output::LogOdds).then_some(d.score);
        columns.push(numbers(decisions, logit));
        columns.push(numbers(decisions, |d| logit(d).map(probability)));
        columns.push(numbers(decisions, value));
        columns.push(strings(decisions, |d| d.rung.as_str()));
        columns.push(reasons(decisions)?);
        columns.push(flags(decisions)?);
        columns.extend(self.feature_columns(decisions)?);
        columns.extend(self.attribution_columns(decisions)?);
        columns.push(shadows(decisions));
        columns.extend(version_columns(decisions)?);
        if self.timing {
            if timings.len() != decisions.len() {
                let what = format!(
                    "{} timings for {} decisions",
                    timings.len(),
                    decisions.len()
                );
                return Err(WireError::Shape { what });
            }
            let part = |of: fn(&Timing) -> u64| -> ArrayRef {
                Arc::new(UInt64Array::from_iter_values(timings.iter().map(of)))
            };
            columns.push(part(|t| t.wait_us));
            columns.push(part(|t| t.features_us));
            columns.push(part(|t| t.score_us));
            columns.push(part(|t| t.explain_us));
        }
        Ok(RecordBatch::try_new(self.schema.clone(), columns)?)
    }

    fn feature_columns(&self, decisions: &[Decision]) -> Result<Vec<ArrayRef>, WireError> {
        let mut batches: Vec<&RecordBatch> = Vec::new();
        let mut picks: Vec<(usize, usize)> = Vec::with_capacity(decisions.len());
        for decision in decisions {
            let row = &decision.features;
            // Decisions of one batch follow one another and share its columns.
            let same = batches.last().is_some_and(|last| {
                last.num_columns() == row.batch.num_columns()
                    && last
                        .columns()
                        .iter()
                        .zip(row.batch.columns())
                        .take(1)
                        .all(|(a, b)| Arc::ptr_eq(a, b))
            });
            if !same {
                self.check_features(&row.batch)?;
                batches.push(&row.batch);
            }
            picks.push((batches.len() - 1, row.row));
        }
        let consecutive = picks
            .windows(2)
            .all(|w| w[1].0 == w[0].0 && w[1].1 == w[0].1 + 1);
        match (batches.as_slice(), picks.first()) {
            (_, None) => Ok(
                RecordBatch::new_empty(Arc::new(Schema::new(self.features.clone())))
                    .columns()
                    .to_vec(),
            ),
            ([batch], Some((_, from))) if consecutive => {
                Ok(batch.slice(*from, picks.len()).columns().to_vec())
            }
            _ => Ok(interleave_record_batch(&batches, &picks)?
                .columns()
                .to_vec()),
        }
    }

    fn check_features(&self, batch: &RecordBatch) -> Result<(), WireError> {
        let schema = batch.schema_ref();
        let alike = schema.fields().len() == self.features.len()
            && schema
                .fields()
                .iter()
                .zip(&self.features)
                .all(|(is, wanted)| {
                    wanted.name().strip_prefix("f_") == Some(is.name().as_str())
                        && is.data_type() == wanted.data_type()
                });
        if alike {
            return Ok(());
        }
        Err(WireError::Shape {
            what: format!("features {:?}, wanted {:?}", schema.fields(), self.features),
        })
    }

    fn attribution_columns(&self, decisions: &[Decision]) -> Result<Vec<ArrayRef>, WireError> {
        for attribution in decisions.iter().filter_map(|d| d.attribution.as_ref()) {
            if **attribution.groups() != *self.groups {
                return Err(WireError::Shape {
                    what: format!(
                        "groups {:?}, wanted {:?}",
                        attribution.groups(),
                        self.groups
                    ),
                });
            }
        }
        let base = numbers(decisions, |d| {
            d.attribution.as_ref().map(|a| a.base_value())
        });
        let group =
            |i: usize| numbers(decisions, |d| d.attribution.as_ref().map(|a| a.values()[i]));
        Ok(std::iter::once(base)
            .chain((0..self.groups.len()).map(group))
            .collect())
    }
}

fn reason_fields() -> Fields {
    Fields::from(vec![
        Field::new("code", DataType::Utf8, false),
        Field::new("text", DataType::Utf8, false),
        Field::new("group", DataType::Utf8, false),
        Field::new("contribution", DataType::Float64, false),
    ])
}

fn reason_field() -> Arc<Field> {
    Arc::new(Field::new("item", DataType::Struct(reason_fields()), false))
}

fn flag_field() -> Arc<Field> {
    Arc::new(Field::new("item", DataType::Utf8, false))
}

fn version_type() -> DataType {
    DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8))
}

fn strings<'a>(decisions: &'a [Decision], of: impl Fn(&'a Decision) -> &'a str) -> ArrayRef {
    Arc::new(StringArray::from_iter_values(decisions.iter().map(of)))
}

fn numbers(decisions: &[Decision], of: impl Fn(&Decision) -> Option<f64>) -> ArrayRef {
    Arc::new(Float64Array::from_iter(decisions.iter().map(of)))
}

fn ids(decisions: &[Decision]) -> ArrayRef {
    let mut builder = StringBuilder::with_capacity(decisions.len(), decisions.len() * 24);
    for decision in decisions {
        write!(builder, "{}", decision.event).expect("a string builder takes all");
        builder.append_value("");
    }
    Arc::new(builder.finish())
}

fn reasons(decisions: &[Decision]) -> Result<ArrayRef, WireError> {
    let all: Vec<&Reason> = decisions.iter().flat_map(|d| &d.reasons).collect();
    let parts: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(all.iter().map(|r| &*r.code))),
        Arc::new(StringArray::from_iter_values(all.iter().map(|r| &*r.text))),
        Arc::new(StringArray::from_iter_values(all.iter().map(|r| &*r.group))),
        Arc::new(Float64Array::from_iter_values(
            all.iter().map(|r| r.contribution),
        )),
    ];
    Ok(Arc::new(ListArray::try_new(
        reason_field(),
        OffsetBuffer::from_lengths(decisions.iter().map(|d| d.reasons.len())),
        Arc::new(StructArray::try_new(reason_fields(), parts, None)?),
        None,
    )?))
}

fn flags(decisions: &[Decision]) -> Result<ArrayRef, WireError> {
    let all: Vec<&str> = decisions
        .iter()
        .flat_map(|d| &d.flags)
        .map(|f| f.as_str())
        .collect();
    Ok(Arc::new(ListArray::try_new(
        flag_field(),
        OffsetBuffer::from_lengths(decisions.iter().map(|d| d.flags.len())),
        Arc::new(StringArray::from_iter_values(all)),
        None,
    )?))
}

fn shadows(decisions: &[Decision]) -> ArrayRef {
    Arc::new(StringArray::from_iter(decisions.iter().map(|d| {
        (!d.shadow.is_empty())
            .then(|| serde_json::to_string(&d.shadow).expect("a map of numbers serialises"))
    })))
}

fn version_columns(decisions: &[Decision]) -> Result<Vec<ArrayRef>, WireError> {
    // A batch has one or two sets of versions, shared by its decisions.
    let mut sets: Vec<&Arc<Versions>> = Vec::new();
    let mut set_of = Vec::with_capacity(decisions.len());
    for decision in decisions {
        let versions = &decision.versions;
        let known = sets
            .iter()
            .rposition(|v| Arc::ptr_eq(v, versions) || *v == versions);
        set_of.push(known.unwrap_or_else(|| {
            sets.push(versions);
            sets.len() - 1
        }));
    }
    let parts: [fn(&Versions) -> &str; VERSIONS.len()] = [
        |v| &v.engine,
        |v| &v.numerics,
        |v| &v.pipeline,
        |v| &v.features,
        |v| &v.model,
        |v| &v.policy,
    ];
    parts
        .iter()
        .map(|part| {
            let mut values: Vec<&str> = Vec::new();
            let keys: Vec<i32> = sets
                .iter()
                .map(|set| {
                    let value = part(set);
                    let at = values.iter().position(|v| *v == value).unwrap_or_else(|| {
                        values.push(value);
                        values.len() - 1
                    });
                    at as i32
                })
                .collect();
            let keys = Int32Array::from_iter_values(set_of.iter().map(|set| keys[*set]));
            let values = Arc::new(StringArray::from_iter_values(&values));
            Ok(Arc::new(DictionaryArray::<Int32Type>::try_new(keys, values)?) as ArrayRef)
        })
        .collect()
}
