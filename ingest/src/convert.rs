//! The one cast: a value of any source, a Parquet column, a CSV field or a JSON value, to a column
//! of the relation.
//!
//! A source column is first brought to one of a few shapes ([`Values`]) by Arrow's kernels or not
//! at all; then every value passes the same functions, so that a row means the same whatever file
//! it came in. Casts never lose more than a decimal's rounding (half away from zero) and a
//! timestamp's nanoseconds: 3.5 is not a bigint.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BooleanBuilder, Decimal128Array, PrimitiveBuilder, StringBuilder,
};
use arrow::compute::cast;
use arrow::compute::kernels::cast_utils::string_to_datetime;
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Decimal128Type, Float64Type, Int32Type, Int64Type,
    TimestampMicrosecondType,
};
use arrow::error::ArrowError;
use arrow::util::display::array_value_to_string;
use sanderling_schemas::RejectReason;

use crate::stream::EpochUnit;
use crate::values::{Cell, Integers, Kind, Values};

/// Why columns of type `found` can never be read as `kind`, as a cure; `None` if some value can.
pub(crate) fn never_casts(found: &DataType, kind: Kind) -> Option<&'static str> {
    use DataType as T;
    match (found, kind) {
        (T::Dictionary(_, values), _) => never_casts(values, kind),
        (T::Null, _) => None,
        (T::Boolean, Kind::Double | Kind::Decimal { .. } | Kind::Time(_)) => {
            Some("declare it as boolean, int or bigint")
        }
        (T::Timestamp(..) | T::Date32 | T::Date64, Kind::Text | Kind::Time(_)) => None,
        (T::Timestamp(..) | T::Date32 | T::Date64, _) => Some("declare it as timestamp or string"),
        (t, Kind::Time(Integers::Undeclared)) if t.is_numeric() => {
            Some("declare `unit: s`, `ms`, `us` or `ns` beside event_time.column")
        }
        (T::Decimal128(..) | T::Decimal256(..), Kind::Time(_)) => {
            Some("write it as an integer or a timestamp")
        }
        (t, _) if t.is_nested() || matches!(t, T::Time32(_) | T::Time64(_) | T::Duration(_)) => {
            Some("flatten it before it is read")
        }
        (T::Interval(_) | T::FixedSizeBinary(_), _) => Some("flatten it before it is read"),
        _ => None,
    }
}

/// Casts `values` (`rows` of them) to an array of `kind`. Values that cannot be cast are NULL
/// there, and `refuse` is told row, reason and value.
pub(crate) fn convert(
    values: &Values<'_>,
    rows: usize,
    kind: Kind,
    mut refuse: impl FnMut(usize, RejectReason, &Cell<'_>),
) -> Result<ArrayRef, ArrowError> {
    Ok(match (kind, values) {
        (Kind::Text, Values::Text(a)) => Arc::new(a.clone()),
        (Kind::Text, Values::Int(a)) => cast(a, &DataType::Utf8)?,
        (Kind::BigInt, Values::Int(a)) => Arc::new(a.clone()),
        (Kind::Text, _) => {
            let mut out = StringBuilder::with_capacity(rows, rows * 12);
            for i in 0..rows {
                match values.cell(i) {
                    Cell::Null => out.append_null(),
                    Cell::Text(text) => out.append_value(text),
                    cell => match to_text(&cell) {
                        Ok(text) => out.append_value(text),
                        Err(reason) => {
                            refuse(i, reason, &cell);
                            out.append_null();
                        }
                    },
                }
            }
            Arc::new(out.finish())
        }
        (Kind::Boolean, _) => {
            let mut out = BooleanBuilder::with_capacity(rows);
            for i in 0..rows {
                let cell = values.cell(i);
                out.append_option(match cell {
                    Cell::Null => None,
                    _ => to_bool(&cell)
                        .map_err(|reason| refuse(i, reason, &cell))
                        .ok(),
                });
            }
            Arc::new(out.finish())
        }
        (Kind::BigInt, _) => {
            primitive::<Int64Type>(values, rows, refuse, |c| to_int(c, i64::MIN, i64::MAX))?
        }
        (Kind::Int, _) => primitive::<Int32Type>(values, rows, refuse, |c| {
            to_int(c, i64::from(i32::MIN), i64::from(i32::MAX)).map(|v| v as i32)
        })?,
        (Kind::Double, _) => primitive::<Float64Type>(values, rows, refuse, to_double)?,
        (Kind::Decimal { precision, scale }, _) => {
            let limit = 10i128.pow(u32::from(precision));
            let array = primitive::<Decimal128Type>(values, rows, refuse, |c| {
                to_decimal(c, scale).and_then(|v| {
                    if v.unsigned_abs() < limit.unsigned_abs() {
                        Ok(v)
                    } else {
                        Err(RejectReason::WrongType)
                    }
                })
            })?;
            let decimals = array.as_primitive::<Decimal128Type>().clone();
            Arc::new(decimals.with_precision_and_scale(precision, scale)?)
        }
        (Kind::Time(integers), _) => {
            primitive::<TimestampMicrosecondType>(values, rows, refuse, |c| to_time(c, integers))?
        }
    })
}

fn primitive<T: ArrowPrimitiveType>(
    values: &Values<'_>,
    rows: usize,
    mut refuse: impl FnMut(usize, RejectReason, &Cell<'_>),
    one: impl Fn(&Cell<'_>) -> Result<T::Native, RejectReason>,
) -> Result<ArrayRef, ArrowError> {
    let mut out = PrimitiveBuilder::<T>::with_capacity(rows);
    for i in 0..rows {
        let cell = values.cell(i);
        match &cell {
            Cell::Null => out.append_null(),
            cell => match one(cell) {
                Ok(value) => out.append_value(value),
                Err(reason) => {
                    refuse(i, reason, cell);
                    out.append_null();
                }
            },
        }
    }
    Ok(Arc::new(out.finish()))
}

type Cast<T> = Result<T, RejectReason>;

fn to_text(cell: &Cell<'_>) -> Cast<String> {
    Ok(match cell {
        Cell::Text(text) => text.to_string(),
        Cell::Int(v) => v.to_string(),
        Cell::Bool(v) => v.to_string(),
        Cell::Float(v) if v.is_finite() => format!("{v:?}"),
        Cell::Float(_) => return Err(RejectReason::NotFinite),
        Cell::Decimal(v, scale) => {
            let array = Decimal128Array::from(vec![*v]).with_precision_and_scale(38, *scale);
            let text = array.and_then(|a| array_value_to_string(&a, 0));
            text.map_err(|_| RejectReason::WrongType)?
        }
        Cell::Time(us) => {
            let at = chrono::DateTime::from_timestamp_micros(*us);
            let at = at.ok_or(RejectReason::WrongType)?;
            at.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)
        }
        Cell::Null | Cell::Other(_) => return Err(RejectReason::WrongType),
    })
}

fn to_bool(cell: &Cell<'_>) -> Cast<bool> {
    match cell {
        Cell::Bool(v) => Ok(*v),
        Cell::Text(text) if text.trim().eq_ignore_ascii_case("true") => Ok(true),
        Cell::Text(text) if text.trim().eq_ignore_ascii_case("false") => Ok(false),
        cell => match to_int(cell, 0, 1)? {
            0 => Ok(false),
            _ => Ok(true),
        },
    }
}

fn to_int(cell: &Cell<'_>, min: i64, max: i64) -> Cast<i64> {
    let value: i128 = match cell {
        Cell::Bool(v) => i128::from(*v),
        Cell::Int(v) => *v,
        Cell::Float(v) if !v.is_finite() => return Err(RejectReason::NotFinite),
        Cell::Float(v) if v.fract() == 0.0 && v.abs() < 1e30 => *v as i128,
        Cell::Decimal(v, scale) => whole(*v, *scale).ok_or(RejectReason::WrongType)?,
        Cell::Text(text) => {
            let text = text.trim();
            match text.parse::<i64>() {
                Ok(v) => i128::from(v),
                Err(_) if text.eq_ignore_ascii_case("true") => 1,
                Err(_) if text.eq_ignore_ascii_case("false") => 0,
                Err(_) => {
                    // Nine decimal places tell "12.0" from "12.5".
                    const PLACES: i8 = 9;
                    whole(decimal_of_text(text, PLACES)?, PLACES).ok_or(RejectReason::WrongType)?
                }
            }
        }
        _ => return Err(RejectReason::WrongType),
    };
    i64::try_from(value)
        .ok()
        .filter(|v| (min..=max).contains(v))
        .ok_or(RejectReason::WrongType)
}

fn whole(value: i128, scale: i8) -> Option<i128> {
    let unit = 10i128.checked_pow(u32::from(scale.unsigned_abs()))?;
    if scale < 0 {
        return value.checked_mul(unit);
    }
    (value % unit == 0).then_some(value / unit)
}

fn to_double(cell: &Cell<'_>) -> Cast<f64> {
    let value = match cell {
        Cell::Float(v) => *v,
        Cell::Int(v) => *v as f64,
        // Through text, so that the nearest double is taken.
        Cell::Decimal(v, scale) => {
            let text = format!("{v}e{}", -i32::from(*scale));
            text.parse().map_err(|_| RejectReason::WrongType)?
        }
        Cell::Text(text) => text.trim().parse().map_err(|_| RejectReason::WrongType)?,
        _ => return Err(RejectReason::WrongType),
    };
    if value.is_finite() {
        Ok(value)
    } else {
        Err(RejectReason::NotFinite)
    }
}

/// `cell` in units of 10^-scale, rounded half away from zero.
fn to_decimal(cell: &Cell<'_>, scale: i8) -> Cast<i128> {
    match cell {
        Cell::Int(v) => rescale(*v, i32::from(scale)),
        Cell::Decimal(v, from) => rescale(*v, i32::from(scale) - i32::from(*from)),
        Cell::Float(v) if !v.is_finite() => Err(RejectReason::NotFinite),
        // As Arrow's own cast does it.
        Cell::Float(v) => match (10f64.powi(i32::from(scale)) * v).round() {
            units if units.abs() < 1e38 => Ok(units as i128),
            _ => Err(RejectReason::WrongType),
        },
        Cell::Text(text) => decimal_of_text(text.trim(), scale),
        _ => Err(RejectReason::WrongType),
    }
}

/// `value` x 10^`places`, rounded half away from zero.
fn rescale(value: i128, places: i32) -> Cast<i128> {
    const WRONG: RejectReason = RejectReason::WrongType;
    if places >= 0 {
        let unit = 10i128.checked_pow(places.unsigned_abs()).ok_or(WRONG)?;
        return value.checked_mul(unit).ok_or(WRONG);
    }
    let Some(unit) = 10i128.checked_pow(places.unsigned_abs()) else {
        return Ok(0);
    };
    let (quotient, rest) = (value / unit, value % unit);
    let away = i128::from(rest.unsigned_abs() * 2 >= unit.unsigned_abs()) * value.signum();
    Ok(quotient + away)
}

/// Decimal text, with or without an exponent, in units of 10^-scale.
fn decimal_of_text(text: &str, scale: i8) -> Cast<i128> {
    const WRONG: RejectReason = RejectReason::WrongType;
    let (negative, digits) = match text.as_bytes() {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        all => (false, all),
    };
    let (mut value, mut exponent, mut seen, mut point) = (0i128, 0i32, false, false);
    let mut bytes = digits.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'0'..=b'9' => {
                seen = true;
                let next = value
                    .checked_mul(10)
                    .and_then(|v| v.checked_add((byte - b'0').into()));
                match next {
                    Some(next) => {
                        value = next;
                        exponent -= i32::from(point);
                    }
                    // Digits beyond what 128 bits hold: those behind the point cannot matter.
                    None if point => {}
                    None => return Err(WRONG),
                }
            }
            b'.' if !point => point = true,
            b'e' | b'E' if seen => {
                let rest = std::str::from_utf8(bytes.as_slice()).map_err(|_| WRONG)?;
                let power: i32 = rest.parse().map_err(|_| WRONG)?;
                exponent = exponent.checked_add(power).ok_or(WRONG)?;
                break;
            }
            _ => {
                return Err(match text.parse::<f64>() {
                    Ok(v) if !v.is_finite() => RejectReason::NotFinite,
                    _ => WRONG,
                });
            }
        }
    }
    if !seen {
        return Err(WRONG);
    }
    if value == 0 {
        return Ok(0);
    }
    let places = exponent.checked_add(i32::from(scale)).ok_or(WRONG)?;
    rescale(if negative { -value } else { value }, places)
}

/// Microseconds since 1970.
fn to_time(cell: &Cell<'_>, integers: Integers) -> Cast<i64> {
    const WRONG: RejectReason = RejectReason::WrongType;
    let counted = |value: i64| match integers {
        Integers::Undeclared => Err(WRONG),
        Integers::Count(unit) => unit.to_us(value).ok_or(WRONG),
        Integers::BySize => {
            let unit = match value.unsigned_abs() {
                0..100_000_000_000 => EpochUnit::Seconds,
                100_000_000_000..100_000_000_000_000 => EpochUnit::Milliseconds,
                100_000_000_000_000..100_000_000_000_000_000 => EpochUnit::Microseconds,
                _ => EpochUnit::Nanoseconds,
            };
            unit.to_us(value).ok_or(WRONG)
        }
    };
    match cell {
        Cell::Time(us) => Ok(*us),
        Cell::Int(v) => counted(i64::try_from(*v).map_err(|_| WRONG)?),
        Cell::Float(v) if !v.is_finite() => Err(RejectReason::NotFinite),
        Cell::Float(v) => match integers {
            Integers::Count(unit) => match (v * unit.us_each()).floor() {
                us if us.abs() < 9e18 => Ok(us as i64),
                _ => Err(WRONG),
            },
            _ if v.fract() == 0.0 && v.abs() < 9e18 => counted(*v as i64),
            _ => Err(WRONG),
        },
        Cell::Text(text) => {
            let text = text.trim();
            if let Ok(value) = text.parse::<i64>() {
                return counted(value);
            }
            if let Ok(at) = string_to_datetime(&chrono::Utc, text) {
                return Ok(at.timestamp_micros());
            }
            match text.parse::<f64>() {
                Ok(v) => to_time(&Cell::Float(v), integers),
                Err(_) => Err(WRONG),
            }
        }
        _ => Err(WRONG),
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;

    fn text(v: &str) -> Cell<'_> {
        Cell::Text(Cow::Borrowed(v))
    }

    #[test]
    fn decimals_round_half_away_from_zero_from_every_source() {
        let cases: [(Cell<'_>, Cast<i128>); 14] = [
            (text("12.345"), Ok(1235)),
            (text("-12.345"), Ok(-1235)),
            (text(" 1.5e3 "), Ok(150_000)),
            (text(".5"), Ok(50)),
            (text("7"), Ok(700)),
            (text("1e-9"), Ok(0)),
            (text("abc"), Err(RejectReason::WrongType)),
            (text(""), Err(RejectReason::WrongType)),
            (text("NaN"), Err(RejectReason::NotFinite)),
            (text("-inf"), Err(RejectReason::NotFinite)),
            (Cell::Float(0.125), Ok(13)),
            (Cell::Float(f64::NAN), Err(RejectReason::NotFinite)),
            (Cell::Decimal(12345, 3), Ok(1235)),
            (Cell::Int(-3), Ok(-300)),
        ];
        for (cell, expected) in cases {
            assert_eq!(to_decimal(&cell, 2), expected, "{cell:?}");
        }
    }

    #[test]
    fn integers_come_from_whatever_is_whole() {
        let int = |c| to_int(&c, i64::MIN, i64::MAX);
        assert_eq!(int(Cell::Float(3.0)), Ok(3));
        assert_eq!(int(Cell::Float(3.5)), Err(RejectReason::WrongType));
        assert_eq!(int(Cell::Bool(true)), Ok(1));
        assert_eq!(int(Cell::Decimal(1200, 2)), Ok(12));
        assert_eq!(int(text("12.0")), Ok(12));
        assert_eq!(
            int(text("9223372036854775808")),
            Err(RejectReason::WrongType)
        );
        assert_eq!(
            int(Cell::Int(i128::from(u64::MAX))),
            Err(RejectReason::WrongType)
        );
        assert_eq!(
            to_int(&Cell::Int(1 << 40), i32::MIN.into(), i32::MAX.into()),
            Err(RejectReason::WrongType)
        );
    }

    #[test]
    fn times_come_from_counts_timestamps_and_text() {
        let ms = Integers::Count(EpochUnit::Milliseconds);
        let us = 1_735_689_600_123_000;
        assert_eq!(to_time(&Cell::Int(1_735_689_600_123), ms), Ok(us));
        assert_eq!(to_time(&text("1735689600123"), ms), Ok(us));
        assert_eq!(to_time(&text("2025-01-01T00:00:00.123Z"), ms), Ok(us));
        assert_eq!(
            to_time(&text("2025-01-01 01:00:00.123+01:00"), Integers::Undeclared),
            Ok(us)
        );
        assert_eq!(
            to_time(&Cell::Int(5), Integers::Undeclared),
            Err(RejectReason::WrongType)
        );
        for value in [1_735_689_600, 1_735_689_600_000, 1_735_689_600_000_000] {
            assert_eq!(
                to_time(&Cell::Int(value), Integers::BySize),
                Ok(1_735_689_600_000_000)
            );
        }
        assert_eq!(
            to_time(&Cell::Float(f64::INFINITY), ms),
            Err(RejectReason::NotFinite)
        );
    }
}
