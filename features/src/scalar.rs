//! Values of one row, and what a program's steps make of them: to the bit what DataFusion's kernels make
//! of a batch of that row alone.

use std::cmp::Ordering;

use arrow::compute::kernels::cast::{rescale_decimal, single_float_to_decimal};
use arrow::datatypes::{Decimal128Type, DecimalType};
use arrow::temporal_conversions::timestamp_us_to_datetime;

/// A step's value on one row.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value {
    Null,
    /// The row's own values made it fail; whatever needs it fails too.
    Failed,
    /// A boolean, an integer, or microseconds since 1970.
    Int(i64),
    /// The unscaled value of a decimal.
    Wide(i128),
    Float(f64),
}

/// How values of a type are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Bool,
    Int32,
    Int64,
    Float64,
    /// Precision and scale.
    Decimal(u8, i8),
    /// Microseconds, of no time zone.
    Time,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arithmetic {
    Add,
    Sub,
    Mul,
    Div,
    Rem,
}

/// The orderings for which a comparison holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Comparison {
    pub less: bool,
    pub equal: bool,
    pub greater: bool,
}

/// Parts of a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// Seconds since 1970, with their fraction.
    Epoch,
    Hour,
    /// Days since Sunday.
    Weekday,
}

const DAY_US: i64 = 86_400_000_000;
const HOUR_US: i64 = 3_600_000_000;

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Value::Int(value.into())
    }
}

impl From<Option<Value>> for Value {
    /// `None` is a failure.
    fn from(value: Option<Value>) -> Self {
        value.unwrap_or(Value::Failed)
    }
}

impl Value {
    pub(crate) fn is_true(self) -> bool {
        matches!(self, Value::Int(1))
    }

    /// What a function that is NULL for NULL makes of the value.
    #[inline]
    pub(crate) fn then(self, f: impl FnOnce(Value) -> Value) -> Value {
        match self {
            Value::Null | Value::Failed => self,
            value => f(value),
        }
    }

    /// The same of two values.
    #[inline]
    fn with(self, other: Value, f: impl FnOnce() -> Value) -> Value {
        match (self, other) {
            (Value::Failed, _) | (_, Value::Failed) => Value::Failed,
            (Value::Null, _) | (_, Value::Null) => Value::Null,
            _ => f(),
        }
    }

    /// Booleans after Kleene; the other is not looked at where this one decides.
    pub(crate) fn and(self, other: Value) -> Value {
        match (self, other) {
            (Value::Failed | Value::Int(0), _) => self,
            (_, Value::Failed | Value::Int(0)) => other,
            (Value::Null, _) => Value::Null,
            _ => other,
        }
    }

    /// See [`Value::and`].
    pub(crate) fn or(self, other: Value) -> Value {
        match (self, other) {
            (Value::Failed | Value::Int(1), _) => self,
            (_, Value::Failed | Value::Int(1)) => other,
            (Value::Null, _) => Value::Null,
            _ => other,
        }
    }

    pub(crate) fn not(self) -> Value {
        self.then(|value| (!value.is_true()).into())
    }

    pub(crate) fn is_null(self) -> Value {
        match self {
            Value::Failed => self,
            value => matches!(value, Value::Null).into(),
        }
    }

    /// Whether an integer is one of those `known`, or `none` of them.
    pub(crate) fn one_of(self, known: &[i64], none: bool) -> Value {
        match self {
            Value::Int(value) => (known.contains(&value) != none).into(),
            other => other,
        }
    }

    /// NULL where both are the same.
    pub(crate) fn null_if(self, other: Value) -> Value {
        match (self, other) {
            (Value::Failed, _) | (_, Value::Failed) => Value::Failed,
            (Value::Int(value), Value::Int(other)) if value == other => Value::Null,
            (Value::Wide(value), Value::Wide(other)) if value == other => Value::Null,
            (Value::Float(value), Value::Float(other)) if value.to_bits() == other.to_bits() => {
                Value::Null
            }
            _ => self,
        }
    }

    /// Doubles are in the total order of IEEE 754, but for -0, which is 0.
    #[inline]
    pub(crate) fn compare(self, other: Value, by: Comparison) -> Value {
        self.with(other, || {
            let order = match (self, other) {
                (Value::Int(value), Value::Int(other)) => value.cmp(&other),
                (Value::Wide(value), Value::Wide(other)) => value.cmp(&other),
                (Value::Float(value), Value::Float(other)) => {
                    let positive = |value: f64| if value == 0.0 { 0.0 } else { value };
                    positive(value).total_cmp(&positive(other))
                }
                _ => unreachable!("a comparison is compiled for values of one kind"),
            };
            let holds = match order {
                Ordering::Less => by.less,
                Ordering::Equal => by.equal,
                Ordering::Greater => by.greater,
            };
            holds.into()
        })
    }

    /// Integers wrap, and fail where they divide by zero.
    #[inline]
    pub(crate) fn integers(self, other: Value, by: Arithmetic, short: bool) -> Value {
        let (Value::Int(a), Value::Int(b)) = (self, other) else {
            return self.with(other, || unreachable!("compiled for integers"));
        };
        let least = if short { i64::from(i32::MIN) } else { i64::MIN };
        let value = match by {
            Arithmetic::Add => a.wrapping_add(b),
            Arithmetic::Sub => a.wrapping_sub(b),
            Arithmetic::Mul => a.wrapping_mul(b),
            Arithmetic::Div | Arithmetic::Rem if b == 0 => return Value::Failed,
            Arithmetic::Div if a == least && b == -1 => return Value::Failed,
            Arithmetic::Div => a / b,
            Arithmetic::Rem => a.wrapping_rem(b),
        };
        Value::Int(if short {
            i64::from(value as i32)
        } else {
            value
        })
    }

    #[inline]
    pub(crate) fn floats(self, other: Value, by: Arithmetic) -> Value {
        let (Value::Float(a), Value::Float(b)) = (self, other) else {
            return self.with(other, || unreachable!("compiled for doubles"));
        };
        Value::Float(match by {
            Arithmetic::Add => a + b,
            Arithmetic::Sub => a - b,
            Arithmetic::Mul => a * b,
            Arithmetic::Div => a / b,
            Arithmetic::Rem => a % b,
        })
    }

    /// Decimals fail where they leave 128 bits or divide by zero; `scaled` are the powers of ten that bring
    /// both to the result's scale.
    #[inline]
    pub(crate) fn decimals(self, other: Value, by: Arithmetic, scaled: (i128, i128)) -> Value {
        let (Value::Wide(a), Value::Wide(b)) = (self, other) else {
            return self.with(other, || unreachable!("compiled for decimals"));
        };
        let (a, b) = match scaled {
            (1, 1) => (a, b),
            (left, right) => match (a.checked_mul(left), b.checked_mul(right)) {
                (Some(a), Some(b)) => (a, b),
                _ => return Value::Failed,
            },
        };
        let value = match by {
            Arithmetic::Add => a.checked_add(b),
            Arithmetic::Sub => a.checked_sub(b),
            Arithmetic::Mul => a.checked_mul(b),
            Arithmetic::Div => a.checked_div(b),
            Arithmetic::Rem => a.checked_rem(b),
        };
        value.map(Value::Wide).into()
    }

    /// The value as one of another kind; fails where it does not fit.
    pub(crate) fn cast(self, from: Kind, to: Kind) -> Value {
        self.then(|value| match (value, from, to) {
            (value, from, to) if from == to => value,
            (Value::Int(value), _, Kind::Int64) => Value::Int(value),
            (Value::Int(value), _, Kind::Int32) => {
                let fits = i32::try_from(value).is_ok().then_some(Value::Int(value));
                fits.into()
            }
            (Value::Int(value), _, Kind::Float64) => Value::Float(value as f64),
            (Value::Int(value), _, Kind::Decimal(precision, scale)) => {
                let scaled = i128::from(value).checked_mul(power_of_ten(scale));
                in_precision(scaled, precision)
            }
            (Value::Wide(value), Kind::Decimal(_, scale), Kind::Float64) => {
                Value::Float(value as f64 / 10f64.powi(scale.into()))
            }
            (Value::Wide(value), Kind::Decimal(precision, scale), Kind::Decimal(to, to_scale)) => {
                if scale == to_scale && precision <= to {
                    return Value::Wide(value);
                }
                let rescaled = rescale_decimal::<Decimal128Type, Decimal128Type>(
                    value, precision, scale, to, to_scale,
                );
                rescaled.map(Value::Wide).into()
            }
            (Value::Float(value), _, Kind::Decimal(precision, scale)) => {
                let scaled =
                    single_float_to_decimal::<Decimal128Type>(value, 10f64.powi(scale.into()));
                in_precision(scaled, precision)
            }
            _ => unreachable!("compiled for kinds that can be cast"),
        })
    }

    pub(crate) fn ln(self) -> Value {
        match self {
            Value::Float(value) => Value::Float(value.ln()),
            other => other,
        }
    }

    /// A part of a time; NULL where the calendar does not reach.
    pub(crate) fn part(self, part: Part) -> Value {
        let Value::Int(us) = self else { return self };
        if part == Part::Epoch {
            return Value::Float(us as f64 / 1_000_000.0);
        }
        // The calendar of years reaches further than 2^62 us either way.
        if us.unsigned_abs() >= 1 << 62 && timestamp_us_to_datetime(us).is_none() {
            return Value::Null;
        }
        Value::Int(match part {
            Part::Hour => us.rem_euclid(DAY_US) / HOUR_US,
            // 1970 began on a Thursday.
            _ => (us.div_euclid(DAY_US) + 4).rem_euclid(7),
        })
    }
}

impl Kind {
    /// Whether [`Value::cast`] knows the way.
    pub(crate) fn casts_to(self, to: Kind) -> bool {
        use Kind::{Bool, Decimal, Float64, Int32, Int64, Time};
        match (self, to) {
            (Decimal(_, from), Decimal(_, to)) => from >= 0 && to >= 0,
            (Int32 | Int64 | Float64, Decimal(_, scale)) | (Decimal(_, scale), Float64) => {
                (0..=38).contains(&scale)
            }
            (Int32 | Int64, Int32 | Int64 | Float64) => true,
            (Bool | Time, other) => self == other,
            _ => false,
        }
    }
}

/// 10^scale, for a scale of 0 to 38.
pub(crate) fn power_of_ten(scale: i8) -> i128 {
    10i128.pow(u32::from(scale.unsigned_abs()))
}

fn in_precision(value: Option<i128>, precision: u8) -> Value {
    let fits = |value: &i128| Decimal128Type::is_valid_decimal_precision(*value, precision);
    value.filter(fits).map(Value::Wide).into()
}
