//! A decision as Avro.
//!
//! The fields are those of the JSON, under the same names. Features, attributions and shadow scores
//! are maps, so that the schema is one for every pipeline and stays as it is when features change.
//! A decimal is the nearest double, as a reader of the JSON would have it.

use arrow::array::Array;

use super::WireError;
use super::scalar::Scalar;
use crate::decision::Decision;
use crate::score::{Output, probability};

/// The schema of what [`write_decision_avro`] writes.
pub const DECISION_AVRO_SCHEMA: &str = r#"{
  "type": "record", "name": "Decision", "namespace": "sanderling", "fields": [
    {"name": "id", "type": "string"},
    {"name": "event", "type": {"type": "record", "name": "Event", "fields": [
      {"name": "topic", "type": "string"},
      {"name": "partition", "type": "int"},
      {"name": "offset", "type": "long"}]}},
    {"name": "key", "type": ["null", "string"], "default": null},
    {"name": "event_time_us", "type": "long"},
    {"name": "sequence", "type": "long"},
    {"name": "stream", "type": "string"},
    {"name": "action", "type": "string"},
    {"name": "logit", "type": ["null", "double"], "default": null},
    {"name": "probability", "type": ["null", "double"], "default": null},
    {"name": "value", "type": ["null", "double"], "default": null},
    {"name": "rung", "type": "string"},
    {"name": "reasons", "type": {"type": "array", "items":
      {"type": "record", "name": "Reason", "fields": [
        {"name": "code", "type": "string"},
        {"name": "text", "type": "string"},
        {"name": "group", "type": "string"},
        {"name": "contribution", "type": "double"}]}}},
    {"name": "features", "type": {"type": "map", "values":
      ["null", "boolean", "long", "double", "string"]}},
    {"name": "attribution", "type": ["null",
      {"type": "record", "name": "Attribution", "fields": [
        {"name": "base", "type": "double"},
        {"name": "values", "type": {"type": "map", "values": "double"}}]}], "default": null},
    {"name": "shadow", "type": {"type": "map", "values": "double"}},
    {"name": "flags", "type": {"type": "array", "items": "string"}},
    {"name": "versions", "type": {"type": "record", "name": "Versions", "fields": [
      {"name": "engine", "type": "string"},
      {"name": "numerics", "type": "string"},
      {"name": "pipeline", "type": "string"},
      {"name": "features", "type": "string"},
      {"name": "model", "type": "string"},
      {"name": "policy", "type": "string"}]}}
  ]
}"#;

/// Appends the decision as a record of [`DECISION_AVRO_SCHEMA`] to `out`, without framing. On error
/// `out` is as it was.
pub fn write_decision_avro(decision: &Decision, out: &mut Vec<u8>) -> Result<(), WireError> {
    let start = out.len();
    let written = write_record(decision, out);
    if written.is_err() {
        out.truncate(start);
    }
    written
}

fn write_record(decision: &Decision, out: &mut Vec<u8>) -> Result<(), WireError> {
    let event = &decision.event;
    put_text(out, &event.to_string());
    put_text(out, &event.topic);
    put_long(out, event.partition.0.into());
    put_long(out, event.offset.0);
    match &decision.key {
        None => put_long(out, 0),
        Some(key) => {
            put_long(out, 1);
            put_text(out, key);
        }
    }
    put_long(out, decision.event_time.0);
    put_long(out, decision.sequence.0 as i64);
    put_text(out, &decision.stream);
    put_text(out, decision.action.as_str());
    let (logit, value) = match decision.output {
        Output::LogOdds => (Some(decision.score), None),
        Output::Value | Output::Forecast => (None, Some(decision.score)),
    };
    for number in [logit, logit.map(probability), value] {
        match number {
            None => put_long(out, 0),
            Some(number) => {
                put_long(out, 1);
                put_double(out, number);
            }
        }
    }
    put_text(out, decision.rung.as_str());
    put_items(out, decision.reasons.iter(), |out, reason| {
        put_text(out, &reason.code);
        put_text(out, &reason.text);
        put_text(out, &reason.group);
        put_double(out, reason.contribution);
    });
    write_features(decision, out)?;
    match &decision.attribution {
        None => put_long(out, 0),
        Some(attribution) => {
            put_long(out, 1);
            put_double(out, attribution.base_value());
            put_items(
                out,
                attribution.groups().iter().zip(attribution.values()),
                put_entry,
            );
        }
    }
    put_items(out, decision.shadow.iter(), put_entry);
    put_items(out, decision.flags.iter(), |out, flag| {
        put_text(out, flag.as_str())
    });
    let versions = &*decision.versions;
    for version in [
        &versions.engine,
        &versions.numerics,
        &versions.pipeline,
        &versions.features,
        &versions.model,
        &versions.policy,
    ] {
        put_text(out, version);
    }
    Ok(())
}

fn write_features(decision: &Decision, out: &mut Vec<u8>) -> Result<(), WireError> {
    let row = &decision.features;
    let schema = row.batch.schema_ref();
    if !schema.fields().is_empty() {
        put_long(out, schema.fields().len() as i64);
    }
    for (field, column) in schema.fields().iter().zip(row.batch.columns()) {
        put_text(out, field.name());
        put_feature(
            out,
            Scalar::of(field.name(), column.as_ref() as &dyn Array, row.row)?,
        );
    }
    put_long(out, 0);
    Ok(())
}

/// A branch of the union of what features can be, by its place there.
fn put_feature(out: &mut Vec<u8>, value: Scalar<'_>) {
    const NULL: i64 = 0;
    const BOOLEAN: i64 = 1;
    const LONG: i64 = 2;
    const DOUBLE: i64 = 3;
    const STRING: i64 = 4;
    let number = match value {
        Scalar::Null => return put_long(out, NULL),
        Scalar::Bool(value) => {
            put_long(out, BOOLEAN);
            return out.push(u8::from(value));
        }
        Scalar::Text(value) => {
            put_long(out, STRING);
            return put_text(out, value);
        }
        Scalar::Int(value) => {
            put_long(out, LONG);
            return put_long(out, value);
        }
        Scalar::UInt(value) => match i64::try_from(value) {
            Ok(value) => return put_feature(out, Scalar::Int(value)),
            Err(_) => value as f64,
        },
        Scalar::Float(value) => value.into(),
        Scalar::Double(value) => value,
        Scalar::Decimal(value, scale) => decimal(value, scale),
    };
    // JSON has no number for these, and both forms say the same.
    if number.is_finite() {
        put_long(out, DOUBLE);
        put_double(out, number);
    } else {
        put_long(out, NULL);
    }
}

/// The double nearest to `value` x 10^-`scale`.
fn decimal(value: i128, scale: i8) -> f64 {
    // Both are exact below, so one division rounds once.
    const EXACT: i128 = 1 << f64::MANTISSA_DIGITS;
    const POWER_MAX: i8 = 22;
    if value.abs() <= EXACT && (0..=POWER_MAX).contains(&scale) {
        return value as f64 / 10f64.powi(scale.into());
    }
    let text = format!("{value}e{}", -i32::from(scale));
    text.parse().expect("digits and an exponent are a number")
}

fn put_entry(out: &mut Vec<u8>, (name, value): (impl AsRef<str>, &f64)) {
    put_text(out, name.as_ref());
    put_double(out, *value);
}

/// An array, or a map whose items are entries: one block of all items, then the end.
fn put_items<T>(
    out: &mut Vec<u8>,
    items: impl ExactSizeIterator<Item = T>,
    put: impl Fn(&mut Vec<u8>, T),
) {
    if items.len() > 0 {
        put_long(out, items.len() as i64);
        items.for_each(|item| put(out, item));
    }
    put_long(out, 0);
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    put_long(out, text.len() as i64);
    out.extend_from_slice(text.as_bytes());
}

fn put_double(out: &mut Vec<u8>, value: f64) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// Seven bits a byte, the lowest first, the sign in the lowest bit. Ints, lengths and the places of
/// union branches are written so too.
fn put_long(out: &mut Vec<u8>, value: i64) {
    let mut bits = ((value << 1) ^ (value >> 63)) as u64;
    while bits >= 0x80 {
        out.push(bits as u8 | 0x80);
        bits >>= 7;
    }
    out.push(bits as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longs_are_as_the_specification_shows_them() {
        let bytes = |value| {
            let mut out = Vec::new();
            put_long(&mut out, value);
            out
        };
        assert_eq!(bytes(0), [0]);
        assert_eq!(bytes(-1), [1]);
        assert_eq!(bytes(-64), [0x7f]);
        assert_eq!(bytes(64), [0x80, 1]);
        assert_eq!(bytes(i64::MIN).len(), 10);
    }

    #[test]
    fn decimals_become_the_nearest_double() {
        for (value, scale, expected) in [
            (205, 2, 2.05),
            (-1, 3, -0.001),
            (7, -2, 700.0),
            (10i128.pow(30), 30, 1.0),
            (123_456_789_012_345_678, 2, 1_234_567_890_123_456.8),
        ] {
            assert_eq!(decimal(value, scale), expected);
        }
    }
}
