//! A SQL condition, compiled once.

use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, Schema};
use arrow::error::ArrowError;
use datafusion::common::tree_node::TreeNode;
use datafusion::common::{DFSchema, DataFusionError};
use datafusion::logical_expr::{Expr, Volatility};
use datafusion::physical_plan::PhysicalExpr;
use datafusion::prelude::SessionContext;

/// Compiles conditions over one schema.
pub(crate) struct Compiler {
    context: SessionContext,
    schema: Arc<Schema>,
    columns: DFSchema,
}

/// A boolean expression over the columns of its compiler's schema.
#[derive(Debug, Clone)]
pub(crate) struct Condition {
    expression: Arc<dyn PhysicalExpr>,
}

impl Compiler {
    pub(crate) fn new(schema: Arc<Schema>) -> Result<Self, String> {
        let columns = DFSchema::try_from(schema.clone()).map_err(|e| plain(&e))?;
        Ok(Self {
            context: SessionContext::new(),
            schema,
            columns,
        })
    }

    /// The condition, or what is wrong with it.
    pub(crate) fn compile(&self, sql: &str) -> Result<Condition, String> {
        let expr = self
            .context
            .parse_sql_expr(sql, &self.columns)
            .map_err(|e| plain(&e))?;
        if let Expr::Alias(alias) = &expr {
            return Err(format!(
                "a condition has no name, but {:?} follows it",
                alias.name
            ));
        }
        if let Some(name) = unsteady(&expr).map_err(|e| plain(&e))? {
            return Err(format!("{name} may give another answer at another time"));
        }
        let expression = self
            .context
            .create_physical_expr(expr, &self.columns)
            .map_err(|e| plain(&e))?;
        match expression.data_type(&self.schema).map_err(|e| plain(&e))? {
            DataType::Boolean => Ok(Condition { expression }),
            other => Err(format!(
                "it is of type {other}, a condition is true or false"
            )),
        }
    }
}

impl Condition {
    /// Whether it holds, for each row. NULL where it cannot be told: where a value is NULL, and where
    /// the row's own values make it fail (a division by zero, an overflow), whatever batch the row
    /// stands in.
    pub(crate) fn evaluate(&self, rows: &RecordBatch) -> Result<BooleanArray, String> {
        match self.values(rows) {
            Ok(holds) => Ok(holds),
            Err(error) if is_of_values(&error) => (0..rows.num_rows())
                .map(|row| match self.values(&rows.slice(row, 1)) {
                    Ok(holds) => Ok(holds.is_valid(0).then(|| holds.value(0))),
                    Err(error) if is_of_values(&error) => Ok(None),
                    Err(error) => Err(plain(&error)),
                })
                .collect(),
            Err(error) => Err(plain(&error)),
        }
    }

    fn values(&self, rows: &RecordBatch) -> Result<BooleanArray, DataFusionError> {
        let array = (self.expression.evaluate(rows)?).into_array(rows.num_rows())?;
        Ok(array.as_boolean().clone())
    }

    /// Whether it holds for the only row.
    pub(crate) fn holds(&self, row: &RecordBatch) -> Result<bool, String> {
        let holds = self.evaluate(row)?;
        Ok(holds.is_valid(0) && holds.value(0))
    }
}

/// Whether an expression failed on what a row holds, rather than on how it is built.
fn is_of_values(error: &DataFusionError) -> bool {
    match error.find_root() {
        DataFusionError::Execution(_) => true,
        DataFusionError::ArrowError(error, _) => matches!(
            error.as_ref(),
            ArrowError::DivideByZero
                | ArrowError::ArithmeticOverflow(_)
                | ArrowError::CastError(_)
                | ArrowError::ComputeError(_)
                | ArrowError::ParseError(_)
                | ArrowError::InvalidArgumentError(_)
        ),
        _ => false,
    }
}

/// The first function whose value is not a function of its arguments.
fn unsteady(expr: &Expr) -> Result<Option<String>, DataFusionError> {
    let mut found = None;
    expr.exists(|e| {
        if let Expr::ScalarFunction(call) = e
            && call.func.signature().volatility != Volatility::Immutable
        {
            found = Some(format!("{}()", call.func.name()));
        }
        Ok(found.is_some())
    })?;
    Ok(found)
}

/// What DataFusion says, without its list of every column there is.
fn plain(error: &DataFusionError) -> String {
    let text = error.strip_backtrace();
    let text = text.split(" Valid fields are ").next().unwrap_or(&text);
    let text = text
        .trim_start_matches("Schema error: ")
        .trim_start_matches("SQL error: ");
    text.trim_end_matches('.').to_string()
}
