//! Decisions as the bytes of their topic's records.

use sanderling_ingest::{Registry, RegistryOptions, framing_of};
use sanderling_schemas::{Decision, wire};

use crate::failure::Failure;
use crate::replay::input_failure;
use crate::settings::{OutputFormat, OutputSettings};

/// Turns decisions into records, in the format of `output:`.
#[derive(Debug, Clone, Copy)]
pub enum DecisionEncoder {
    /// One JSON object each.
    Json,
    /// Avro behind the id of its schema.
    Avro {
        /// A zero and the schema's id.
        framing: [u8; 5],
    },
}

impl DecisionEncoder {
    /// The encoder of `output`. For Avro the schema is registered under `<topic>-value` in
    /// `registry`, unless it is there already.
    ///
    /// # Errors
    /// A registry that does not answer, or that refuses the schema.
    pub fn new(
        output: &OutputSettings,
        registry: Option<&RegistryOptions>,
    ) -> Result<Self, Failure> {
        let (OutputFormat::Avro, Some(topic)) = (output.format, &output.decisions) else {
            return Ok(DecisionEncoder::Json);
        };
        let registry = registry.ok_or_else(|| {
            Failure::new("config", "output.format is avro, but there is no registry")
                .cure("write kafka: {registry: {url: \"http://host:8081\"}}")
        })?;
        let subject = format!("{topic}-value");
        let registered = Registry::new(registry)
            .and_then(|registry| registry.register(&subject, wire::DECISION_AVRO_SCHEMA));
        Ok(DecisionEncoder::Avro {
            framing: framing_of(registered.map_err(|error| Failure {
                code: "registry",
                ..input_failure(error)
            })?),
        })
    }

    /// Appends the record of a decision to `out`. On error `out` is as it was.
    pub fn encode(&self, decision: &Decision, out: &mut Vec<u8>) -> Result<(), Failure> {
        let start = out.len();
        let written = match self {
            DecisionEncoder::Json => wire::write_decision(decision, out),
            DecisionEncoder::Avro { framing } => {
                out.extend_from_slice(framing);
                wire::write_decision_avro(decision, out)
            }
        };
        written.map_err(|error| {
            out.truncate(start);
            Failure::new("output", error.to_string())
                .cure("cast the feature in features.sql to a number, a string or a timestamp")
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use apache_avro::Schema;
    use apache_avro::reader::datum::GenericDatumReader;
    use apache_avro::types::Value as Avro;
    use arrow::array::{
        ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int64Array, RecordBatch,
        StringArray, TimestampMicrosecondArray, UInt64Array,
    };
    use sanderling_schemas::attribution::EXACT_TOLERANCE;
    use sanderling_schemas::{
        Action, Attribution, EventId, EventTime, FeatureRow, Flag, Offset, Output, Partition,
        Reason, Rung, Sequence, Versions,
    };
    use serde_json::{Map, Value, json};

    use super::*;

    fn decisions() -> Vec<Decision> {
        let amounts = Decimal128Array::from(vec![Some(1230), Some(-5)]);
        let columns: [(&str, ArrayRef); 7] = [
            (
                "amount",
                Arc::new(amounts.with_precision_and_scale(12, 2).unwrap()),
            ),
            ("count", Arc::new(Int64Array::from(vec![None, Some(-3)]))),
            ("ratio", Arc::new(Float64Array::from(vec![0.1, f64::NAN]))),
            ("night", Arc::new(BooleanArray::from(vec![true, false]))),
            (
                "name of it",
                Arc::new(StringArray::from(vec!["\u{e9}", ""])),
            ),
            (
                "seen",
                Arc::new(TimestampMicrosecondArray::from(vec![7, -7])),
            ),
            ("large", Arc::new(UInt64Array::from(vec![3, 1 << 40]))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let groups: Arc<[String]> = vec!["event".to_string(), "card".to_string()].into();
        let attribution = Attribution::new(-2.0, groups, vec![0.5, 1.5], 0.0, EXACT_TOLERANCE);
        let text = |text: &str| -> Arc<str> { text.into() };
        let first = Decision {
            event: EventId {
                topic: "payments".into(),
                partition: Partition(2),
                offset: Offset(i64::MAX),
            },
            key: Some("card 7".into()),
            event_time: EventTime(-1_700_000_000_000_000),
            sequence: Sequence(9),
            stream: "transactions".into(),
            action: Action::Decline,
            output: Output::LogOdds,
            score: 0.0,
            rung: Rung::NoGraph,
            reasons: vec![Reason {
                code: "C03".into(),
                text: "The amount is high".into(),
                group: "card".into(),
                contribution: 1.5,
            }],
            features: FeatureRow {
                batch: batch.clone(),
                row: 0,
            },
            attribution: Some(attribution.unwrap()),
            shadow: BTreeMap::from([(text("abc"), 0.25)]),
            flags: vec![Flag::Late, Flag::Backlog],
            versions: Arc::new(Versions {
                engine: text("0.1.0"),
                numerics: text("x86-64"),
                pipeline: text("p"),
                features: text("f"),
                model: text("m"),
                policy: text("q"),
            }),
        };
        let second = Decision {
            key: None,
            output: Output::Value,
            score: 3.5,
            reasons: Vec::new(),
            features: FeatureRow { batch, row: 1 },
            attribution: None,
            shadow: BTreeMap::new(),
            flags: Vec::new(),
            ..first.clone()
        };
        vec![first, second]
    }

    /// What an Avro reader that is not ours has read, as JSON.
    fn as_json(value: Avro) -> Value {
        match value {
            Avro::Null => Value::Null,
            Avro::Boolean(value) => value.into(),
            Avro::Int(value) => value.into(),
            Avro::Long(value) => value.into(),
            Avro::Double(value) => json!(value),
            Avro::String(value) => value.into(),
            Avro::Union(_, value) => as_json(*value),
            Avro::Array(items) => items.into_iter().map(as_json).collect(),
            Avro::Map(entries) => {
                let entries = entries
                    .into_iter()
                    .map(|(name, value)| (name, as_json(value)));
                Value::Object(entries.collect())
            }
            Avro::Record(fields) => {
                let fields = fields
                    .into_iter()
                    .map(|(name, value)| (name, as_json(value)));
                Value::Object(fields.collect::<Map<_, _>>())
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_avro_reader_finds_what_the_json_says() {
        let schema = Schema::parse_str(wire::DECISION_AVRO_SCHEMA).unwrap();
        let reader = GenericDatumReader::builder(&schema).build().unwrap();
        let encoder = DecisionEncoder::Avro {
            framing: framing_of(70_000),
        };
        for decision in decisions() {
            let (mut avro, mut json) = (b"x".to_vec(), Vec::new());
            encoder.encode(&decision, &mut avro).unwrap();
            DecisionEncoder::Json.encode(&decision, &mut json).unwrap();
            assert_eq!(avro[..6], [b'x', 0, 0, 1, 0x11, 0x70]);
            let mut rest = &avro[6..];
            let read = as_json(reader.read_value(&mut rest).unwrap());
            assert!(rest.is_empty());
            let json: Value = serde_json::from_slice(&json).unwrap();
            assert_eq!(read, json);
        }
    }

    #[test]
    fn avro_without_a_registry_is_refused_and_without_a_topic_not_made() {
        let mut output = OutputSettings {
            format: OutputFormat::Avro,
            ..OutputSettings::default()
        };
        assert!(matches!(
            DecisionEncoder::new(&output, None),
            Ok(DecisionEncoder::Json)
        ));
        output.decisions = Some("decisions".into());
        assert!(
            DecisionEncoder::new(&output, None)
                .unwrap_err()
                .cure
                .is_some()
        );
    }
}
