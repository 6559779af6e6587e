//! Aggregates without a kernel: DataFusion's own accumulator, run over the rows of each frame.
//!
//! The rows come in order of (event time, arrival) and the accumulator is new each time, so a value
//! depends on the frame alone. DISTINCT is taken out of the rows before, the first of equal ones staying,
//! because the accumulators for it add in the order of a hash table.

use std::collections::HashSet;

use arrow::array::{Array, ArrayRef, BooleanArray, new_empty_array};
use arrow::compute::{cast, filter};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::row::{RowConverter, SortField};
use datafusion::error::DataFusionError;
use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion::physical_expr::expressions::Literal;
use datafusion::scalar::ScalarValue;

use crate::FeatureError;
use crate::columns::is_of_values;

use crate::plan::{Plan, type_of};
use crate::windows::{FrameFunction, Kept, WindowCall, kept_as};

/// An aggregate over frames.
pub(crate) struct FrameAggregate {
    function: AggregateFunctionExpr,
    distinct: bool,
    arguments: Vec<Argument>,
    text: String,
}

/// Where an argument comes from.
enum Argument {
    /// The next kept column, cast to this type.
    Column(DataType),
    Constant(ScalarValue),
}

impl FrameAggregate {
    /// Compiles a call, and tells what rings have to keep for it.
    pub(crate) fn new(
        call: &WindowCall,
        aggregate: &FrameFunction,
        plan: &Plan,
        schema: &SchemaRef,
    ) -> Result<(Self, Vec<Kept>), FeatureError> {
        let mut kept = Vec::new();
        let mut arguments = Vec::new();
        let compiled = (call.arguments.iter())
            .map(|argument| plan.compile(argument, schema))
            .collect::<Result<Vec<_>, _>>()?;
        for (at, (argument, compiled)) in call.arguments.iter().zip(&compiled).enumerate() {
            match compiled.downcast_ref::<Literal>() {
                Some(constant) if at > 0 => {
                    arguments.push(Argument::Constant(constant.value().clone()));
                }
                _ => {
                    arguments.push(Argument::Column(type_of(compiled, schema)?));
                    kept.push(kept_as(argument, plan, schema)?);
                }
            }
        }
        let distinct = aggregate.distinct && kept.len() == 1;
        let function = AggregateExprBuilder::new(aggregate.function.clone(), compiled)
            .schema(schema.clone())
            .alias(&call.text)
            .with_distinct(aggregate.distinct && !distinct)
            .build()
            .map_err(|e| FeatureError::sql(&e))?;
        // What an accumulator refuses, it refuses before the first row.
        function
            .create_accumulator()
            .map_err(|e| FeatureError::refused(&call.text, e.strip_backtrace(), OTHERWISE))?;
        Ok((
            FrameAggregate {
                function,
                distinct,
                arguments,
                text: call.text.clone(),
            },
            kept,
        ))
    }

    /// The value over a frame; NULL where the frame's own values make it fail.
    pub(crate) fn value(&self, columns: &[ArrayRef]) -> Result<ScalarValue, FeatureError> {
        let value = self
            .try_value(columns)
            .or_else(|error| match is_of_values(&error) {
                true => ScalarValue::try_from(self.function.field().data_type()),
                false => Err(error),
            });
        value.map_err(|source| FeatureError::Evaluate {
            feature: self.text.clone(),
            source: Box::new(source),
        })
    }

    fn try_value(&self, columns: &[ArrayRef]) -> Result<ScalarValue, DataFusionError> {
        let first_of_each;
        let columns = match self.distinct {
            true => {
                first_of_each = [first_of_each_value(&columns[0])?];
                &first_of_each[..]
            }
            false => columns,
        };
        let rows = columns.first().map_or(0, |column| column.len());
        let mut accumulator = self.function.create_accumulator()?;
        if rows > 0 {
            let mut kept = columns.iter();
            let arguments = (self.arguments.iter())
                .map(|argument| match argument {
                    Argument::Constant(value) => value.to_array_of_size(rows),
                    Argument::Column(data_type) => {
                        let column = kept.next().expect("one column for each that is kept");
                        match column.data_type() == data_type {
                            true => Ok(column.clone()),
                            false => Ok(cast(column, data_type)?),
                        }
                    }
                })
                .collect::<Result<Vec<_>, _>>()?;
            accumulator.update_batch(&arguments)?;
        }
        accumulator.evaluate()
    }

    /// Values as a column.
    pub(crate) fn column(&self, values: Vec<ScalarValue>) -> Result<ArrayRef, FeatureError> {
        match values.is_empty() {
            true => Ok(new_empty_array(self.function.field().data_type())),
            false => ScalarValue::iter_to_array(values).map_err(|e| FeatureError::sql(&e)),
        }
    }
}

/// What to write where an aggregate cannot run.
pub(crate) const OTHERWISE: &str = "use count, sum, avg, min, max, stddev, var, median, percentile_cont(column, 0.9), \
     count(DISTINCT column), corr, regr_slope, first_value or last_value";

/// The values of a column without their repetitions, in order.
fn first_of_each_value(column: &ArrayRef) -> Result<ArrayRef, DataFusionError> {
    let converter = RowConverter::new(vec![SortField::new(column.data_type().clone())])?;
    let rows = converter.convert_columns(std::slice::from_ref(column))?;
    let mut seen = HashSet::new();
    let first: BooleanArray = rows.iter().map(|row| Some(seen.insert(row))).collect();
    Ok(filter(column, &first)?)
}
