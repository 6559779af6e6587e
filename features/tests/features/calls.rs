//! What a random feature may call: each call and how it is checked, its arguments, its filters, and its frames.

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Frame {
    /// Hours from and until which it looks back.
    Range(Option<i64>, i64),
    /// Rows from and until which it looks back.
    Rows(Option<usize>, usize),
}

pub const FRAMES: [(&str, Frame); 12] = [
    (
        "RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW",
        Frame::Range(Some(1), 0),
    ),
    (
        "RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW",
        Frame::Range(Some(24), 0),
    ),
    (
        "RANGE INTERVAL '3 days' PRECEDING",
        Frame::Range(Some(72), 0),
    ),
    (
        "RANGE BETWEEN INTERVAL '60 hours' PRECEDING AND INTERVAL '5 hours' PRECEDING",
        Frame::Range(Some(60), 5),
    ),
    (
        "RANGE BETWEEN INTERVAL '2 hours' PRECEDING AND INTERVAL '2 hours' PRECEDING",
        Frame::Range(Some(2), 2),
    ),
    (
        "RANGE BETWEEN CURRENT ROW AND CURRENT ROW",
        Frame::Range(Some(0), 0),
    ),
    (
        "ROWS BETWEEN 5 PRECEDING AND CURRENT ROW",
        Frame::Rows(Some(5), 0),
    ),
    (
        "ROWS BETWEEN 20 PRECEDING AND 3 PRECEDING",
        Frame::Rows(Some(20), 3),
    ),
    (
        "ROWS BETWEEN 1 PRECEDING AND 1 PRECEDING",
        Frame::Rows(Some(1), 1),
    ),
    (
        "RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW",
        Frame::Range(None, 0),
    ),
    (
        "RANGE BETWEEN UNBOUNDED PRECEDING AND INTERVAL '1 day' PRECEDING",
        Frame::Range(None, 24),
    ),
    (
        "ROWS BETWEEN UNBOUNDED PRECEDING AND 2 PRECEDING",
        Frame::Rows(None, 2),
    ),
];

/// Numbers: exact ones first.
pub const NUMBERS: [&str; 11] = [
    "amount",
    "units",
    "amount * 2",
    "units % 7",
    "CAST(amount AS DOUBLE)",
    "speed",
    "speed - 500",
    "coalesce(speed, 0)",
    "CASE WHEN units > 0 THEN speed END",
    "acos(speed / 500)",
    "(speed - 500) / (units % 3)",
];
pub const EXACT: usize = 4;
/// The last ones are NaN at times, or infinite.
pub const FINITE: usize = NUMBERS.len() - 2;

pub const TEXTS: [&str; 3] = [
    "terminal_id",
    "upper(card_id)",
    "CASE WHEN units > 0 THEN card_id END",
];

/// What a call takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Takes {
    Nothing,
    Number,
    /// A number that adds up exactly.
    Exact,
    TwoNumbers,
    Text,
}

/// How a call is checked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// An aggregate; 0 over nothing.
    Count,
    /// An aggregate; NULL over nothing.
    Value,
    /// Picks rows by place; no FILTER, its own frame.
    Place(Option<Frame>),
}

pub struct Call {
    /// `$x`, `$y`: the arguments.
    pub sql: &'static str,
    /// The same over the rows of one frame; empty where it is the same text. A FILTER goes to every `$f`, or to
    /// the end where there is none.
    pub oracle: &'static str,
    pub takes: Takes,
    pub kind: Kind,
    /// Over an unbounded frame its state does not grow.
    pub unbounded: bool,
    /// DataFusion's own windows can run it, without what is left of rows that are gone deciding whether
    /// there is a value at all.
    pub windows: bool,
}

const fn call(sql: &'static str, takes: Takes, kind: Kind, unbounded: bool, windows: bool) -> Call {
    Call {
        sql,
        oracle: "",
        takes,
        kind,
        unbounded,
        windows,
    }
}

const fn place(
    sql: &'static str,
    oracle: &'static str,
    takes: Takes,
    frame: Option<Frame>,
) -> Call {
    Call {
        sql,
        oracle,
        takes,
        kind: Kind::Place(frame),
        unbounded: false,
        windows: true,
    }
}

const LAG_1: Option<Frame> = Some(Frame::Rows(Some(1), 1));
const LAG_4: Option<Frame> = Some(Frame::Rows(Some(4), 4));
const SO_FAR: Option<Frame> = Some(Frame::Rows(None, 0));

pub const CALLS: [Call; 44] = [
    call("count(*)", Takes::Nothing, Kind::Count, true, true),
    call("count($x)", Takes::Number, Kind::Count, true, true),
    call("count($x)", Takes::Text, Kind::Count, true, true),
    call("sum($x)", Takes::Exact, Kind::Value, true, true),
    call("avg($x)", Takes::Exact, Kind::Value, true, true),
    call("sum($x)", Takes::Number, Kind::Value, false, true),
    call("avg($x)", Takes::Number, Kind::Value, false, true),
    call("min($x)", Takes::Number, Kind::Value, true, true),
    call("max($x)", Takes::Number, Kind::Value, true, true),
    call("min($x)", Takes::Text, Kind::Value, false, false),
    call("stddev($x)", Takes::Number, Kind::Value, false, true),
    call("stddev_pop($x)", Takes::Number, Kind::Value, false, true),
    call("var_samp($x)", Takes::Number, Kind::Value, false, true),
    call("var_pop($x)", Takes::Number, Kind::Value, false, true),
    call(
        "count(DISTINCT $x)",
        Takes::Number,
        Kind::Count,
        false,
        false,
    ),
    call("count(DISTINCT $x)", Takes::Text, Kind::Count, false, false),
    call("sum(DISTINCT $x)", Takes::Exact, Kind::Value, false, false),
    call("max(DISTINCT $x)", Takes::Number, Kind::Value, true, false),
    call("median($x)", Takes::Number, Kind::Value, false, true),
    call(
        "percentile_cont($x, 0.75)",
        Takes::Number,
        Kind::Value,
        false,
        false,
    ),
    Call {
        // DataFusion's `corr` of groups takes a sum's square from the sum of squares, and where values are nearly one
        // what is left of that is rounding.
        oracle: "regr_sxy($x, $y)$f / sqrt(nullif(regr_sxx($x, $y)$f * regr_syy($x, $y)$f, 0))",
        ..call("corr($x, $y)", Takes::TwoNumbers, Kind::Value, false, false)
    },
    call(
        "covar_samp($x, $y)",
        Takes::TwoNumbers,
        Kind::Value,
        false,
        true,
    ),
    call(
        "covar_pop($x, $y)",
        Takes::TwoNumbers,
        Kind::Value,
        false,
        true,
    ),
    call(
        "regr_slope($x, $y)",
        Takes::TwoNumbers,
        Kind::Value,
        false,
        false,
    ),
    call(
        "regr_intercept($x, $y)",
        Takes::TwoNumbers,
        Kind::Value,
        false,
        false,
    ),
    call(
        "regr_count($x, $y)",
        Takes::TwoNumbers,
        Kind::Count,
        false,
        true,
    ),
    call(
        "regr_r2($x, $y)",
        Takes::TwoNumbers,
        Kind::Value,
        false,
        false,
    ),
    call(
        "regr_avgx($x, $y)",
        Takes::TwoNumbers,
        Kind::Value,
        false,
        true,
    ),
    call(
        "regr_syy($x, $y)",
        Takes::TwoNumbers,
        Kind::Value,
        false,
        true,
    ),
    call(
        "regr_sxy($x, $y)",
        Takes::TwoNumbers,
        Kind::Value,
        false,
        true,
    ),
    call("bit_xor(units)", Takes::Nothing, Kind::Value, false, false),
    call(
        "bool_or(units > 0)",
        Takes::Nothing,
        Kind::Value,
        false,
        false,
    ),
    Call {
        oracle: "string_agg(CAST(tx_id AS VARCHAR), ' ' ORDER BY t, sequence)",
        ..call(
            "string_agg(CAST(tx_id AS VARCHAR), ' ')",
            Takes::Nothing,
            Kind::Value,
            false,
            false,
        )
    },
    place(
        "first_value($x)",
        "first_value($x ORDER BY t, sequence)",
        Takes::Number,
        None,
    ),
    place(
        "last_value($x)",
        "last_value($x ORDER BY t, sequence)",
        Takes::Text,
        None,
    ),
    place(
        "nth_value($x, 3)",
        "nth_value($x, 3 ORDER BY t, sequence)",
        Takes::Number,
        None,
    ),
    place(
        "nth_value($x, -2)",
        "nth_value($x, -2 ORDER BY t, sequence)",
        Takes::Text,
        None,
    ),
    place(
        "first_value($x) IGNORE NULLS",
        "first_value($x ORDER BY t, sequence) FILTER (WHERE $x IS NOT NULL)",
        Takes::Text,
        None,
    ),
    place(
        "last_value($x) IGNORE NULLS",
        "last_value($x ORDER BY t, sequence) FILTER (WHERE $x IS NOT NULL)",
        Takes::Number,
        None,
    ),
    place("lag($x)", "first_value($x)", Takes::Number, LAG_1),
    place("lag($x, 4)", "first_value($x)", Takes::Text, LAG_4),
    place(
        "lag(event_time, 1)",
        "first_value(event_time)",
        Takes::Nothing,
        LAG_1,
    ),
    place(
        "lag(coalesce(units, 0), 4, -1)",
        "first_value(coalesce(units, 0))",
        Takes::Nothing,
        LAG_4,
    ),
    place(
        "row_number()",
        "CAST(count(*) AS BIGINT UNSIGNED)",
        Takes::Nothing,
        SO_FAR,
    ),
];

pub const FILTERS: [&str; 3] = [
    "units > 0",
    "amount < 400 OR speed > 500",
    "terminal_id = 'terminal 1'",
];
