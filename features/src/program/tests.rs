//! Programs against DataFusion's own evaluation of the same expressions, a row at a time.

use arrow::array::{
    Array, AsArray, BooleanArray, Decimal128Array, Float64Array, Int32Array, Int64Array,
    StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Float64Type, TimeUnit};
use proptest::prelude::*;

use super::*;
use crate::catalog::Catalog;
use crate::plan::Plan;

/// Numbers that look random: splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % below as u64) as usize
    }

    fn of<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())].clone()
    }

    /// Values of a pool, one in six NULL.
    fn values<T: Clone>(&mut self, rows: usize, pool: &[T]) -> Vec<Option<T>> {
        (0..rows)
            .map(|_| (self.below(6) > 0).then(|| self.of(pool)))
            .collect()
    }

    fn number(&mut self, depth: usize) -> String {
        const LEAVES: [&str; 17] = [
            "a",
            "b",
            "s",
            "x",
            "y",
            "d",
            "e",
            "f",
            "0",
            "1",
            "-1",
            "3.50",
            "1e300",
            "0.0",
            "7",
            "9223372036854775807",
            "CAST(NULL AS BIGINT)",
        ];
        if depth == 0 {
            return self.of(&LEAVES).into();
        }
        let below = depth - 1;
        match self.below(12) {
            0..=3 => {
                let by = self.of(&["+", "-", "*", "/", "%"]);
                format!("({} {by} {})", self.number(below), self.number(below))
            }
            4 => format!("nullif({}, {})", self.number(below), self.number(below)),
            5 => format!("coalesce({}, {})", self.number(below), self.number(below)),
            6 => format!(
                "CASE WHEN {} THEN {} WHEN {} THEN {} ELSE {} END",
                self.truth(below),
                self.number(below),
                self.truth(below),
                self.number(below),
                self.number(below)
            ),
            7 => format!(
                "CASE WHEN {} THEN {} END",
                self.truth(below),
                self.number(below)
            ),
            8 => format!("ln({})", self.number(below)),
            9 => {
                let part = self.of(&["hour", "dow", "epoch", "minute"]);
                format!("date_part('{part}', t)")
            }
            10 => {
                let types = [
                    "DOUBLE",
                    "BIGINT",
                    "INT",
                    "DECIMAL(10, 2)",
                    "DECIMAL(38, 10)",
                ];
                format!("CAST({} AS {})", self.number(below), self.of(&types))
            }
            _ => self.of(&LEAVES).into(),
        }
    }

    fn truth(&mut self, depth: usize) -> String {
        if depth == 0 {
            return self.of(&["p", "q", "n = 'x'"]).into();
        }
        let below = depth - 1;
        match self.below(8) {
            0..=2 => {
                let by = self.of(&["=", "<>", "<", "<=", ">", ">="]);
                format!("({} {by} {})", self.number(below), self.number(below))
            }
            3 => format!("({} AND {})", self.truth(below), self.truth(below)),
            4 => format!("({} OR {})", self.truth(below), self.truth(below)),
            5 => format!("(NOT {})", self.truth(below)),
            6 => {
                let is = self.of(&["IS NULL", "IS NOT NULL"]);
                format!("({} {is})", self.number(below))
            }
            _ => {
                let is = self.of(&["IN", "NOT IN"]);
                format!("({} {is} (0, 1, 5, 7, 11))", self.of(&["a", "s", "b"]))
            }
        }
    }
}

fn schema() -> Arc<Schema> {
    let decimal = |precision, scale| DataType::Decimal128(precision, scale);
    let fields = [
        ("a", DataType::Int64),
        ("b", DataType::Int64),
        ("s", DataType::Int32),
        ("x", DataType::Float64),
        ("y", DataType::Float64),
        ("d", decimal(12, 2)),
        ("e", decimal(12, 2)),
        ("f", decimal(38, 6)),
        ("t", DataType::Timestamp(TimeUnit::Microsecond, None)),
        ("p", DataType::Boolean),
        ("q", DataType::Boolean),
        ("n", DataType::Utf8),
    ];
    let fields = fields.map(|(name, data_type)| Field::new(name, data_type, true));
    Arc::new(Schema::new(fields.to_vec()))
}

fn rows(random: &mut Random, rows: usize) -> RecordBatch {
    let ints = [
        0,
        1,
        -1,
        5,
        7,
        1000,
        i64::MIN,
        i64::MAX,
        i64::from(i32::MAX) + 1,
    ];
    let shorts = [0, 1, -1, 11, i32::MIN, i32::MAX];
    let floats = [
        0.0,
        -0.0,
        1.0,
        -2.5,
        1e-300,
        1e300,
        f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::MIN_POSITIVE / 2.0,
    ];
    let cents = [0, 1, -1, 1999, 999_999_999_999, -999_999_999_999];
    let wide = [
        0,
        1,
        -1_000_000,
        10i128.pow(37),
        -(10i128.pow(38) - 1),
        2_500_000,
    ];
    let times = [
        0,
        -1,
        1_780_000_000_123_456,
        -86_400_000_000,
        i64::MAX,
        i64::MIN,
        1 << 62,
    ];
    let decimals = |values: Vec<Option<i128>>, precision, scale| -> ArrayRef {
        let values = Decimal128Array::from(values);
        Arc::new(values.with_precision_and_scale(precision, scale).unwrap())
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(random.values(rows, &ints))),
        Arc::new(Int64Array::from(random.values(rows, &ints))),
        Arc::new(Int32Array::from(random.values(rows, &shorts))),
        Arc::new(Float64Array::from(random.values(rows, &floats))),
        Arc::new(Float64Array::from(random.values(rows, &floats))),
        decimals(random.values(rows, &cents), 12, 2),
        decimals(random.values(rows, &cents), 12, 2),
        decimals(random.values(rows, &wide), 38, 6),
        Arc::new(TimestampMicrosecondArray::from(random.values(rows, &times))),
        Arc::new(BooleanArray::from(random.values(rows, &[true, false]))),
        Arc::new(BooleanArray::from(random.values(rows, &[true, false]))),
        Arc::new(StringArray::from(random.values(rows, &["x", "y"]))),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

/// What DataFusion makes of each row by itself; NULL where that fails on its values.
fn expected(expr: &Expr, rows: &RecordBatch) -> Vec<ArrayRef> {
    let alone = |row| evaluate(expr, &rows.slice(row, 1), "alone").unwrap().array;
    (0..rows.num_rows()).map(alone).collect()
}

fn same(one: &dyn Array, other: &dyn Array) -> bool {
    if let (Some(one), Some(other)) = (
        one.as_primitive_opt::<Float64Type>(),
        other.as_primitive_opt::<Float64Type>(),
    ) {
        let same = |a: f64, b: f64| a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan());
        return one.is_null(0) == other.is_null(0)
            && (one.is_null(0) || same(one.value(0), other.value(0)));
    }
    one.to_data() == other.to_data()
}

/// Expressions that can be planned.
fn planned(random: &mut Random, count: usize) -> Vec<(Expr, String)> {
    let mut exprs = Vec::new();
    while exprs.len() < count {
        let depth = 1 + random.below(4);
        let text = match random.below(3) {
            0 => random.truth(depth),
            _ => random.number(depth),
        };
        let sql = format!("SELECT {text} AS feature FROM events");
        let Ok(plan) = Plan::new(&sql, &schema(), &Catalog::default()) else {
            continue;
        };
        if let Ok(expr) = plan.compile(&plan.outputs[0].expr, &schema()) {
            exprs.push((expr, text));
        }
    }
    exprs
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_program_gives_what_datafusion_gives(seed: u64) {
        let mut random = Random(seed);
        let exprs = planned(&mut random, 12);
        let rows = rows(&mut random, 24);
        let columns = Program::new(exprs.clone(), &schema()).run(&rows).unwrap();
        for ((expr, text), column) in exprs.iter().zip(&columns) {
            prop_assert_eq!(column.data_type(), &expr.data_type(&schema()).unwrap());
            for (row, expected) in expected(expr, &rows).iter().enumerate() {
                let found = column.slice(row, 1);
                prop_assert!(
                    same(&found, expected),
                    "{text}\n{expr}\nrow {row}: {:?}\nfound {found:?}\nexpected {expected:?}",
                    rows.slice(row, 1)
                );
            }
        }
    }
}

#[test]
fn what_features_are_made_of_has_steps_of_its_own() {
    let exprs = [
        "d / nullif(f, 0)",
        "coalesce(a, 0) - coalesce(b, 0)",
        "CASE WHEN date_part('dow', t) IN (0, 6) THEN 1 ELSE 0 END",
        "ln(1 + d)",
        "(date_part('epoch', t) - x) / 86400",
        "(d - e) / nullif(x, 0)",
        "extract(hour FROM t) < 6 AND NOT p",
    ];
    let compiled = exprs.map(|text| {
        let sql = format!("SELECT {text} AS feature FROM events");
        let plan = Plan::new(&sql, &schema(), &Catalog::default()).unwrap();
        let expr = plan.compile(&plan.outputs[0].expr, &schema()).unwrap();
        (expr, text.to_string())
    });
    let program = Program::new(compiled, &schema());
    let foreign: Vec<_> = (program.sources.iter())
        .filter(|source| source.expr.downcast_ref::<Column>().is_none())
        .map(|source| source.expr.to_string())
        .collect();
    assert!(foreign.is_empty(), "{foreign:?}");
}

#[test]
fn an_expression_that_stands_twice_is_one_step() {
    let sql = "SELECT a / nullif(b, 0) AS one, a / nullif(b, 0) + 1 AS other FROM events";
    let plan = Plan::new(sql, &schema(), &Catalog::default()).unwrap();
    let exprs = plan.outputs.iter().map(|output| {
        let expr = plan.compile(&output.expr, &schema()).unwrap();
        (expr, output.name.clone())
    });
    let divisions = |step: &&Step| matches!(step, Step::Integers(Arithmetic::Div, ..));
    let program = Program::new(exprs, &schema());
    assert_eq!(program.steps.iter().filter(divisions).count(), 1);
}
