//! The SELECT list: one expression for each feature, over columns of the row and results of windows.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::take_arrays;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::PhysicalExpr;
use sanderling_schemas::{FeatureField, Relation};

use crate::FeatureError;
use crate::plan::{Plan, type_of, window_of};
use crate::program::Program;

/// The SELECT list, compiled.
pub(crate) struct Outputs {
    /// Columns of the row that are read.
    base: Vec<usize>,
    windows: usize,
    input: SchemaRef,
    program: Program,
    schema: SchemaRef,
}

/// An expression of the SELECT list, its name, and the windows that it reads.
type ReadOutput = (Arc<dyn PhysicalExpr>, String, Vec<usize>);

impl Outputs {
    /// Compiles the list over rows of `row`.
    pub(crate) fn of(plan: &Plan, row: &SchemaRef) -> Result<Self, FeatureError> {
        let (base, input) = plan.output_schema(row);
        let exprs = (plan.outputs.iter())
            .map(|output| plan.compile(&output.expr, &input))
            .collect::<Result<Vec<_>, _>>()?;
        let fields = (plan.outputs.iter().zip(&exprs))
            .map(|(output, expr)| Ok(Field::new(&output.name, type_of(expr, &input)?, true)))
            .collect::<Result<Vec<_>, FeatureError>>()?;
        let named = (exprs.into_iter().zip(&plan.outputs))
            .map(|(expr, output)| (expr, output.name.clone()));
        Ok(Outputs {
            base,
            windows: plan.windows.len(),
            program: Program::new(named, &input),
            input: Arc::new(input),
            schema: Arc::new(Schema::new(fields)),
        })
    }

    /// What is told of each feature.
    pub(crate) fn fields(&self, plan: &Plan, relation: &Relation) -> Vec<FeatureField> {
        (plan.outputs.iter().zip(self.schema.fields()))
            .map(|(output, field)| {
                let (entity, from_label) = lineage(&output.expr, plan, relation);
                FeatureField {
                    name: output.name.clone(),
                    data_type: field.data_type().clone(),
                    entity,
                    from_label,
                }
            })
            .collect()
    }

    /// The SELECT list as DataFusion evaluates it: expression, name, and the windows that it reads.
    pub(crate) fn again(&self, plan: &Plan) -> Result<Vec<ReadOutput>, FeatureError> {
        (plan.outputs.iter())
            .map(|output| {
                let refs = output.expr.column_refs();
                let windows = refs.iter().filter_map(|column| window_of(&column.name));
                let windows = windows.collect();
                Ok((
                    plan.compile(&output.expr, &self.input)?,
                    output.name.clone(),
                    windows,
                ))
            })
            .collect()
    }

    /// The results of windows among the columns that the list is evaluated on.
    pub(crate) fn results(&self) -> Range<usize> {
        self.base.len()..self.base.len() + self.windows
    }

    /// Evaluates the list on the `picked` of `rows`, or on all; `results` are those of each window, for these
    /// rows alone. Gives what it was evaluated on too.
    pub(crate) fn evaluate(
        &self,
        rows: &RecordBatch,
        picked: Option<&[u32]>,
        results: impl IntoIterator<Item = (usize, ArrayRef)>,
    ) -> Result<(RecordBatch, RecordBatch), FeatureError> {
        let mut columns: Vec<ArrayRef> = self
            .base
            .iter()
            .map(|at| rows.column(*at).clone())
            .collect();
        if let Some(picked) = picked {
            columns = take_arrays(&columns, &UInt32Array::from(picked.to_vec()), None)?;
        }
        let count = picked.map_or(rows.num_rows(), <[u32]>::len);
        let mut windows: Vec<Option<ArrayRef>> = vec![None; self.windows];
        for (window, column) in results {
            windows[window] = Some(column);
        }
        columns.extend(windows.into_iter().flatten());
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        let input = RecordBatch::try_new_with_options(self.input.clone(), columns, &options)?;
        let features = RecordBatch::try_new_with_options(
            self.schema.clone(),
            self.program.run(&input)?,
            &options,
        )?;
        Ok((features, input))
    }
}

/// The entity whose history an expression reads first, and whether it reads the label's value.
fn lineage(expr: &Expr, plan: &Plan, relation: &Relation) -> (Option<usize>, bool) {
    let value = relation.labels.as_ref().map(|labels| labels.value.as_str());
    let reads_label = |expr: &Expr| {
        expr.column_refs()
            .iter()
            .any(|c| Some(c.name.as_str()) == value)
    };
    let windows = plan.windows_of(expr);
    let entity = windows.iter().find_map(|window| {
        relation.entities.iter().position(|entity| {
            let refs = |key: &Expr| key.column_refs().iter().any(|c| c.name == entity.key);
            window.partition_by.iter().any(refs)
        })
    });
    let from_label =
        reads_label(expr) || (windows.iter()).any(|window| window.exprs().any(reads_label));
    (entity, from_label)
}
