//! Functions written in Rust: called like DataFusion's own, in features, arguments and keys, and refused where
//! they are not always the same.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::datatypes::{DataType, Int64Type};
use sanderling_features::datafusion::common::ScalarValue;
use sanderling_features::datafusion::error::Result;
use sanderling_features::datafusion::logical_expr::{
    Accumulator, ColumnarValue, ScalarUDF, Volatility, create_udaf, create_udf,
};
use sanderling_features::{Catalog, FeatureEngine, FeatureError, Function};

use crate::folded::{fold, joined, restarted};
use crate::stream::{Row, batch, relation};

const CARD: &str = "(PARTITION BY card_id ORDER BY event_time \
                    RANGE BETWEEN INTERVAL '1 hour' PRECEDING AND CURRENT ROW)";

/// Sum of an integer's decimal digits.
fn digits(volatility: Volatility) -> ScalarUDF {
    let sum = |value: i64| {
        value
            .to_string()
            .bytes()
            .filter(u8::is_ascii_digit)
            .map(|d| i64::from(d - b'0'))
            .sum()
    };
    let call = move |arguments: &[ColumnarValue]| -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(arguments)?;
        let values = arrays[0].as_primitive::<Int64Type>();
        let sums: Int64Array = values.iter().map(|value| value.map(sum)).collect();
        Ok(ColumnarValue::Array(Arc::new(sums)))
    };
    create_udf(
        "digits",
        vec![DataType::Int64],
        DataType::Int64,
        volatility,
        Arc::new(call),
    )
}

/// The product of the values that are not NULL, modulo 1,000,003.
#[derive(Debug)]
struct Product(i64);

impl Accumulator for Product {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for value in values[0].as_primitive::<Int64Type>().iter().flatten() {
            self.0 = (self.0 * value.rem_euclid(1_000_003)) % 1_000_003;
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(ScalarValue::Int64(Some(self.0)))
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
    }
}

fn catalog(volatility: Volatility) -> Catalog {
    let product = create_udaf(
        "product",
        vec![DataType::Int64],
        Arc::new(DataType::Int64),
        volatility,
        Arc::new(|_| Ok(Box::new(Product(1)))),
        Arc::new(vec![DataType::Int64]),
    );
    Catalog {
        functions: vec![
            Function::Scalar(Arc::new(digits(volatility))),
            Function::Aggregate(Arc::new(product)),
        ],
        ..Catalog::default()
    }
}

fn row(n: i64, units: Option<i64>) -> Row {
    Row {
        time_us: n * 1_200_000_000,
        label: false,
        id: n,
        card: Some(0),
        terminal: None,
        amount: None,
        speed: None,
        units,
        is_fraud: None,
    }
}

#[test]
fn own_functions_stand_where_others_do() {
    let sql = format!(
        "SELECT digits(units) AS d, sum(digits(units)) OVER {CARD} AS s, product(units) OVER {CARD} AS p, \
         product(units) FILTER (WHERE digits(units) > 3) OVER {CARD} AS f, \
         count(*) OVER (PARTITION BY digits(units) ORDER BY event_time) AS n FROM events"
    );
    let engine = || {
        FeatureEngine::with_catalog(relation(false), &sql, &catalog(Volatility::Immutable)).unwrap()
    };
    let units = [Some(12), Some(4), None, Some(-103), Some(1), Some(22)];
    let rows: Vec<Row> = (0..).zip(units).map(|(n, units)| row(n, units)).collect();
    let whole = batch(&relation(false), &rows);
    let ours = joined(fold(&mut engine(), &whole, &[]));
    let column = |n: usize| -> Vec<Option<i64>> {
        ours.features
            .column(n)
            .as_primitive::<Int64Type>()
            .iter()
            .collect()
    };
    assert_eq!(
        column(0),
        [Some(3), Some(4), None, Some(4), Some(1), Some(4)]
    );
    assert_eq!(
        column(1),
        [Some(3), Some(7), Some(7), Some(11), Some(9), Some(9)]
    );
    // -103 is 999,900 modulo 1,000,003; a frame holds the rows of the last hour.
    assert_eq!(
        column(2),
        [
            Some(12),
            Some(48),
            Some(48),
            Some(995_059),
            Some(999_591),
            Some(997_737)
        ]
    );
    assert_eq!(
        column(3),
        [
            Some(1),
            Some(4),
            Some(4),
            Some(999_591),
            Some(999_591),
            Some(997_737)
        ]
    );
    assert_eq!(
        column(4),
        [Some(1), Some(1), Some(1), Some(2), Some(1), Some(3)]
    );
    let again = restarted(&engine, &whole, &[1, 3, 4]);
    assert_eq!(format!("{again:?}"), format!("{ours:?}"));
}

#[test]
fn a_function_that_is_not_always_the_same_is_refused() {
    for volatility in [Volatility::Stable, Volatility::Volatile] {
        for call in [
            "digits(units)".to_string(),
            format!("sum(digits(units)) OVER {CARD}"),
            format!("product(units) OVER {CARD}"),
        ] {
            let sql = format!("SELECT {call} AS f FROM events");
            match FeatureEngine::with_catalog(relation(false), &sql, &catalog(volatility)) {
                Err(error @ FeatureError::Refused { .. }) => {
                    assert!(error.to_string().contains("chance"), "{error}");
                    assert!(error.cure().unwrap().contains("immutable"));
                    assert_eq!(error.line(), Some(1));
                }
                Err(other) => panic!("{other}"),
                Ok(_) => panic!("accepted: {sql}"),
            }
        }
    }
}
