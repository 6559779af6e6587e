//! A decision as JSON.
//!
//! Written straight from the Arrow cells into bytes: a decision has some fifty features, and a
//! tree of values between them and the topic would cost more than the model. Decimals are written
//! digit by digit with their scale, so that an amount reads as it was.

use arrow::array::Array;
use serde::Serialize;

use super::WireError;
use super::scalar::Scalar;
use crate::decision::Decision;
use crate::score::{Output, probability};

/// Appends the decision's JSON object to `out`, without a line end. On error `out` is as it was.
pub fn write_decision(decision: &Decision, out: &mut Vec<u8>) -> Result<(), WireError> {
    let start = out.len();
    let written = write_object(decision, out);
    if written.is_err() {
        out.truncate(start);
    }
    written
}

/// The decision as a JSON value, for those who read single fields of it.
pub fn decision_to_json(decision: &Decision) -> Result<serde_json::Value, WireError> {
    let mut bytes = Vec::with_capacity(4096);
    write_decision(decision, &mut bytes)?;
    Ok(serde_json::from_slice(&bytes).expect("what write_decision wrote is JSON"))
}

fn write_object(decision: &Decision, out: &mut Vec<u8>) -> Result<(), WireError> {
    let event = &decision.event;
    out.extend_from_slice(b"{\"id\":");
    // The topic is escaped as a string of its own; partition and offset go before its closing quote.
    put(out, &*event.topic);
    out.pop();
    out.push(b'/');
    put(out, &event.partition.0);
    out.push(b'/');
    put(out, &event.offset.0);
    out.extend_from_slice(b"\",\"event\":{\"topic\":");
    put(out, &*event.topic);
    field(out, "partition", &event.partition.0);
    field(out, "offset", &event.offset.0);
    out.push(b'}');
    field(out, "key", &decision.key);
    field(out, "event_time_us", &decision.event_time.0);
    field(out, "sequence", &decision.sequence.0);
    field(out, "stream", &*decision.stream);
    field(out, "action", decision.action.as_str());
    let (logit, value) = match decision.output {
        Output::LogOdds => (Some(decision.score), None),
        Output::Value | Output::Forecast => (None, Some(decision.score)),
    };
    field(out, "logit", &logit);
    field(out, "probability", &logit.map(probability));
    field(out, "value", &value);
    field(out, "rung", decision.rung.as_str());
    field(out, "reasons", &decision.reasons);
    write_features(decision, out)?;
    write_attribution(decision, out);
    out.extend_from_slice(b",\"shadow\":{");
    for (i, (model, score)) in decision.shadow.iter().enumerate() {
        separate(out, i);
        entry(out, model, score);
    }
    out.push(b'}');
    field(out, "flags", &decision.flags);
    field(out, "versions", &*decision.versions);
    out.push(b'}');
    Ok(())
}

fn write_features(decision: &Decision, out: &mut Vec<u8>) -> Result<(), WireError> {
    let row = &decision.features;
    out.extend_from_slice(b",\"features\":{");
    let schema = row.batch.schema_ref();
    for (i, (field, column)) in schema.fields().iter().zip(row.batch.columns()).enumerate() {
        separate(out, i);
        put(out, field.name().as_str());
        out.push(b':');
        write_cell(field.name(), column.as_ref(), row.row, out)?;
    }
    out.push(b'}');
    Ok(())
}

fn write_attribution(decision: &Decision, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"attribution\":");
    let Some(attribution) = &decision.attribution else {
        out.extend_from_slice(b"null");
        return;
    };
    out.push(b'{');
    entry(out, "base", &attribution.base_value());
    out.extend_from_slice(b",\"values\":{");
    for (i, (group, value)) in attribution.iter().enumerate() {
        separate(out, i);
        entry(out, group, &value);
    }
    out.extend_from_slice(b"}}");
}

/// Numbers, strings and plain structs of them.
fn put<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) {
    serde_json::to_writer(&mut *out, value).expect("plain values serialise, and a Vec takes all");
}

fn field<T: Serialize + ?Sized>(out: &mut Vec<u8>, name: &str, value: &T) {
    out.push(b',');
    entry(out, name, value);
}

fn entry<T: Serialize + ?Sized>(out: &mut Vec<u8>, name: &str, value: &T) {
    put(out, name);
    out.push(b':');
    put(out, value);
}

fn separate(out: &mut Vec<u8>, index: usize) {
    if index > 0 {
        out.push(b',');
    }
}

/// One cell as a JSON value.
fn write_cell(
    name: &str,
    array: &dyn Array,
    row: usize,
    out: &mut Vec<u8>,
) -> Result<(), WireError> {
    match Scalar::of(name, array, row)? {
        Scalar::Null => out.extend_from_slice(b"null"),
        Scalar::Bool(value) => put(out, &value),
        Scalar::Int(value) => put(out, &value),
        Scalar::UInt(value) => put(out, &value),
        Scalar::Float(value) => put(out, &value),
        Scalar::Double(value) => put(out, &value),
        Scalar::Decimal(value, scale) => put_decimal(value, scale, out),
        Scalar::Text(value) => put(out, value),
    }
    Ok(())
}

/// `value` x 10^-`scale` with all its digits.
fn put_decimal(value: i128, scale: i8, out: &mut Vec<u8>) {
    if scale <= 0 {
        put(out, &value);
        if value != 0 {
            out.resize(out.len() + usize::from(scale.unsigned_abs()), b'0');
        }
        return;
    }
    if value < 0 {
        out.push(b'-');
    }
    let digits = usize::from(scale.unsigned_abs());
    let magnitude = value.unsigned_abs();
    let mut fraction = [b'0'; i8::MAX as usize];
    let fraction = &mut fraction[..digits];
    // 64-bit division is several times as fast, and nearly every amount fits.
    match (
        u64::try_from(magnitude),
        10u64.checked_pow(u32::from(scale.unsigned_abs())),
    ) {
        (Ok(magnitude), Some(unit)) => {
            put(out, &(magnitude / unit));
            let mut rest = magnitude % unit;
            for digit in fraction.iter_mut().rev() {
                *digit = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
        }
        _ => {
            let mut rest = magnitude;
            for digit in fraction.iter_mut().rev() {
                *digit = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
            put(out, &rest);
        }
    }
    out.push(b'.');
    out.extend_from_slice(fraction);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_keep_their_digits() {
        let text = |value, scale| {
            let mut out = Vec::new();
            put_decimal(value, scale, &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(text(1230, 2), "12.30");
        assert_eq!(text(-5, 2), "-0.05");
        assert_eq!(text(0, 2), "0.00");
        assert_eq!(text(7, 0), "7");
        assert_eq!(text(7, -2), "700");
        assert_eq!(text(0, -2), "0");
        assert_eq!(
            text(i128::MAX, 30),
            "170141183.460469231731687303715884105727"
        );
        assert_eq!(
            text(i128::MIN, 38),
            "-1.70141183460469231731687303715884105728"
        );
    }
}
