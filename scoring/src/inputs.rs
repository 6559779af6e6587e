//! What a model sees of an event: its features and the context that memory gave it.

use std::ops::Range;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use sanderling_schemas::Rung;

use crate::error::ScoringError;

/// Rows of features and contexts: all that a score depends on.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ModelInputs {
    /// Number of rows.
    pub rows: usize,
    /// Features, rows x columns of the feature schema, row-major; NaN is NULL.
    pub features: Vec<f32>,
    /// What memory held of the row's entities before the row, rows x [`Model::context_size`].
    pub context: Vec<f32>,
}

/// Inputs that stay or are replaced together when a score is explained.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// `event`, or an entity's name.
    pub name: String,
    /// Columns of [`ModelInputs::features`].
    pub features: Vec<usize>,
    /// Columns of [`ModelInputs::context`].
    pub context: Vec<Range<usize>>,
}

/// A pure function from inputs to scores.
pub trait Model {
    /// One score for each row, on the output's own scale (calibrated log-odds for
    /// `Output::LogOdds`). A row's bits depend neither on the other rows nor on their number.
    ///
    /// # Errors
    /// [`ScoringError::Candle`] where a device fails.
    fn forward(&self, inputs: &ModelInputs, rung: Rung) -> Result<Vec<f64>, ScoringError>;
}

/// The columns of `features` as rows x columns of f32, row-major; NaN is NULL.
///
/// Takes numbers, decimals, booleans and timestamps (microseconds since 1970); refuses any other
/// type with [`ScoringError::FeatureType`].
pub fn feature_matrix(features: &RecordBatch) -> Result<Vec<f32>, ScoringError> {
    let (rows, width) = (features.num_rows(), features.num_columns());
    let mut matrix = vec![f32::NAN; rows * width];
    for (column, array) in features.columns().iter().enumerate() {
        let name = features.schema_ref().field(column).name();
        let array = as_f64(array, name)?;
        let array = array.as_primitive::<Float64Type>();
        let cells = matrix.iter_mut().skip(column).step_by(width);
        if array.null_count() == 0 {
            for (cell, value) in cells.zip(array.values()) {
                *cell = *value as f32;
            }
        } else {
            for (cell, value) in cells.zip(array.iter()) {
                *cell = value.map_or(f32::NAN, |value| value as f32);
            }
        }
    }
    Ok(matrix)
}

fn as_f64(array: &ArrayRef, name: &str) -> Result<ArrayRef, ScoringError> {
    let refused = || ScoringError::FeatureType {
        name: name.to_string(),
        data_type: array.data_type().to_string(),
    };
    let number = |array: &ArrayRef| cast(array, &DataType::Float64).map_err(|_| refused());
    match array.data_type() {
        DataType::Float64 => Ok(array.clone()),
        DataType::Timestamp(_, zone) => {
            let unit = arrow::datatypes::TimeUnit::Microsecond;
            let micros =
                cast(array, &DataType::Timestamp(unit, zone.clone())).map_err(|_| refused())?;
            number(&cast(&micros, &DataType::Int64).map_err(|_| refused())?)
        }
        DataType::Boolean
        | DataType::Null
        | DataType::Decimal128(..)
        | DataType::Decimal256(..) => number(array),
        numeric if numeric.is_numeric() => number(array),
        _ => Err(refused()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{BooleanArray, Decimal128Array, Int64Array, StringArray};

    use super::*;

    #[test]
    fn numbers_become_rows_and_null_becomes_nan() {
        let amount = Decimal128Array::from(vec![Some(1250), None])
            .with_precision_and_scale(12, 2)
            .unwrap();
        let batch = RecordBatch::try_from_iter([
            ("amount", Arc::new(amount) as ArrayRef),
            ("count", Arc::new(Int64Array::from(vec![3, 4]))),
            ("night", Arc::new(BooleanArray::from(vec![true, false]))),
        ])
        .unwrap();
        let matrix = feature_matrix(&batch).unwrap();
        assert_eq!(matrix[..3], [12.5, 3.0, 1.0]);
        assert!(matrix[3].is_nan());
        assert_eq!(matrix[4..], [4.0, 0.0]);
    }

    #[test]
    fn words_are_refused() {
        let words = Arc::new(StringArray::from(vec!["a"])) as ArrayRef;
        let batch = RecordBatch::try_from_iter([("word", words)]).unwrap();
        assert!(
            matches!(feature_matrix(&batch), Err(ScoringError::FeatureType { name, .. }) if name == "word")
        );
    }
}
