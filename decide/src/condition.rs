//! A SQL condition, compiled once.

use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, Schema};
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
    /// Whether it holds, for each row. NULL where it cannot be told.
    pub(crate) fn evaluate(&self, rows: &RecordBatch) -> Result<BooleanArray, String> {
        let value = self.expression.evaluate(rows).map_err(|e| plain(&e))?;
        let array = value.into_array(rows.num_rows()).map_err(|e| plain(&e))?;
        Ok(array.as_boolean().clone())
    }

    /// Whether it holds for the only row.
    pub(crate) fn holds(&self, row: &RecordBatch) -> Result<bool, String> {
        let holds = self.evaluate(row)?;
        Ok(holds.is_valid(0) && holds.value(0))
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
