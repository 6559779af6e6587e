//! Values that are written as text: lengths of time, and types.

use arrow::datatypes::{DataType, TimeUnit};

/// Microseconds of `30s`, `7d`, `1500ms`; `None` if it is not a duration.
pub fn parse_duration_us(text: &str) -> Option<i64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let number: i64 = text[..digits].parse().ok()?;
    let unit: i64 = match text[digits..].trim() {
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        "d" => 86_400_000_000,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// The type of a column, named as in SQL; `None` if there is no such type.
pub(super) fn parse_type(text: &str) -> Option<DataType> {
    Some(match text.trim().to_lowercase().as_str() {
        "string" | "text" | "varchar" => DataType::Utf8,
        "bigint" | "long" => DataType::Int64,
        "int" | "integer" => DataType::Int32,
        "double" | "float" => DataType::Float64,
        "boolean" | "bool" => DataType::Boolean,
        "timestamp" => DataType::Timestamp(TimeUnit::Microsecond, None),
        other => {
            let inner = other.strip_prefix("decimal(")?.strip_suffix(')')?;
            let (precision, scale) = inner.split_once(',')?;
            let (precision, scale) = (precision.trim().parse().ok()?, scale.trim().parse().ok()?);
            if precision == 0 || precision > 38 || scale < 0 || scale as u8 > precision {
                return None;
            }
            DataType::Decimal128(precision, scale)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(parse_duration_us("30s"), Some(30_000_000));
        assert_eq!(parse_duration_us("7d"), Some(7 * 86_400_000_000));
        assert_eq!(parse_duration_us("7"), None);
        assert_eq!(parse_duration_us("-1s"), None);
        assert_eq!(parse_duration_us("99999999999999d"), None);
    }

    #[test]
    fn types_are_named_as_in_sql() {
        assert_eq!(
            parse_type("decimal(12, 2)"),
            Some(DataType::Decimal128(12, 2))
        );
        assert_eq!(parse_type("decimal(2,3)"), None);
        assert_eq!(parse_type("money"), None);
    }
}
