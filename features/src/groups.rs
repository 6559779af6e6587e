//! All windows of one `PARTITION BY` key: compiled arguments, slots, and the rings behind them.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array, new_null_array};
use arrow::compute::concat;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::PhysicalExpr;
use sanderling_schemas::Relation;
use sanderling_schemas::relation::{EVENT_TIME, STREAM};
use sanderling_state::window::{
    Aggregate, COLUMNS_MAX, Column, Function, WindowOutput, WindowRows, WindowSpec, WindowState,
};
use sanderling_state::{KeyIndex, Restored, Snapshot};

use crate::FeatureError;
use crate::engine::EntityKeys;
use crate::keys::{KeyEncoder, Keys};
use crate::lateness::NewestTimes;
use crate::plan::Plan;
use crate::windows::WindowCall;

/// All windows of one `PARTITION BY`.
pub(crate) struct WindowGroup {
    /// Windows of the plan, in the order of the outputs.
    windows: Vec<usize>,
    /// The PARTITION BY, as it is written.
    by: Arc<str>,
    key: GroupKey,
    arguments: Vec<(Arc<dyn PhysicalExpr>, String)>,
    state: WindowState,
}

/// Where a group's slots come from.
enum GroupKey {
    /// The key is an entity's, and so are the slots.
    Entity(usize),
    Own {
        exprs: Vec<Arc<dyn PhysicalExpr>>,
        encoder: KeyEncoder,
        index: KeyIndex,
    },
}

/// What a group is given of a batch.
pub(crate) struct GroupRows<'a> {
    pub rows: &'a RecordBatch,
    pub times_us: &'a [i64],
    pub enters: &'a [bool],
    pub emits: &'a [bool],
    /// Slots of the entities.
    pub slots: &'a [Vec<u32>],
}

impl WindowGroup {
    /// Groups the plan's windows by key, and where a key has more arguments than a ring holds columns,
    /// into several groups.
    pub(crate) fn of(plan: &Plan, relation: &Relation) -> Result<Vec<Self>, FeatureError> {
        let mut keys: Vec<(&[Expr], Vec<usize>)> = Vec::new();
        for (number, call) in plan.windows.iter().enumerate() {
            let room = |windows: &[usize]| {
                let arguments = |number: &usize| {
                    let call: &WindowCall = &plan.windows[*number];
                    (&call.argument, &call.filter)
                };
                let others: HashSet<_> = windows.iter().map(arguments).collect();
                others.len() < COLUMNS_MAX || others.contains(&arguments(&number))
            };
            let key = call.partition_by.as_slice();
            match keys
                .iter_mut()
                .find(|(other, windows)| *other == key && room(windows))
            {
                Some((_, windows)) => windows.push(number),
                None => keys.push((key, vec![number])),
            }
        }
        keys.into_iter()
            .map(|(key, windows)| Self::new(plan, relation, key, windows))
            .collect()
    }

    fn new(
        plan: &Plan,
        relation: &Relation,
        key: &[Expr],
        windows: Vec<usize>,
    ) -> Result<Self, FeatureError> {
        let schema = &relation.schema;
        let mut exprs: Vec<Expr> = Vec::new();
        let mut arguments = Vec::new();
        let (mut columns, mut frames, mut aggregates) = (Vec::new(), Vec::new(), Vec::new());
        for number in &windows {
            let call = &plan.windows[*number];
            let kept = call.kept(plan, schema)?;
            let column = match exprs.iter().position(|expr| *expr == kept) {
                Some(column) => column,
                None => {
                    let compiled = plan.compile(&kept, schema)?;
                    columns.push(Column {
                        data_type: type_of(&compiled, schema)?,
                    });
                    arguments.push((compiled, call.text.clone()));
                    exprs.push(kept);
                    columns.len() - 1
                }
            };
            let frame = frames
                .iter()
                .position(|frame| *frame == call.frame)
                .unwrap_or_else(|| {
                    frames.push(call.frame);
                    frames.len() - 1
                });
            check(call, &columns[column], plan, relation).map_err(|e| plan.about(*number, e))?;
            aggregates.push(Aggregate {
                function: call.function,
                column,
                frame,
                output: call.data_type.clone(),
            });
        }
        let by: Vec<String> = key
            .iter()
            .map(|key| key.schema_name().to_string())
            .collect();
        let key = match key {
            [Expr::Column(column)] => relation
                .entities
                .iter()
                .position(|entity| entity.key == column.name),
            _ => None,
        }
        .map(|entity| Ok(GroupKey::Entity(entity)))
        .unwrap_or_else(|| GroupKey::own(plan, schema, key))?;
        let spec = WindowSpec::new(columns, frames, aggregates, relation.lateness_us)?;
        Ok(WindowGroup {
            windows,
            by: by.join(", ").into(),
            key,
            arguments,
            state: WindowState::new(Arc::new(spec)),
        })
    }

    /// Takes the rows in and returns the results of those that emit.
    pub(crate) fn compute(&mut self, rows: &GroupRows<'_>) -> Result<WindowOutput, FeatureError> {
        let columns = self.arguments_of(rows.rows)?;
        let own;
        let slots = match &mut self.key {
            GroupKey::Entity(entity) => &rows.slots[*entity],
            GroupKey::Own {
                exprs,
                encoder,
                index,
            } => {
                let keys = own_keys(exprs, encoder, rows.rows)?;
                own = (rows.enters.iter().enumerate())
                    .map(|(row, enters)| match enters {
                        true => {
                            keys.with(row, |key| key.map_or(NULL_KEY, |key| index.slot_of(key)))
                        }
                        false => NULL_KEY,
                    })
                    .collect::<Vec<_>>();
                &own
            }
        };
        Ok(self.state.compute(&WindowRows {
            slots,
            times_us: rows.times_us,
            enters: rows.enters,
            emits: rows.emits,
            columns: &columns,
        })?)
    }

    /// The newest times of the keys of rows.
    pub(crate) fn newest<'a>(
        &'a self,
        rows: &RecordBatch,
        entities: &'a [EntityKeys],
    ) -> Result<NewestTimes<'a>, FeatureError> {
        let (keys, index) = match &self.key {
            GroupKey::Entity(entity) => {
                let entity = &entities[*entity];
                (entity.keys(rows)?, &entity.index)
            }
            GroupKey::Own {
                exprs,
                encoder,
                index,
            } => (own_keys(exprs, encoder, rows)?, index),
        };
        Ok(NewestTimes::new(self.by.clone(), keys, index, &self.state))
    }

    /// The results that the rows would have if each were the first of its key.
    pub(crate) fn alone(
        &self,
        rows: &RecordBatch,
        times_us: &[i64],
    ) -> Result<WindowOutput, FeatureError> {
        let columns = self.arguments_of(rows)?;
        let slots: Vec<u32> = (0..rows.num_rows() as u32).collect();
        let all = vec![true; rows.num_rows()];
        Ok(self.state.fresh().compute(&WindowRows {
            slots: &slots,
            times_us,
            enters: &all,
            emits: &all,
            columns: &columns,
        })?)
    }

    /// The plan's windows, in the order of the results.
    pub(crate) fn windows(&self) -> &[usize] {
        &self.windows
    }

    fn arguments_of(&self, rows: &RecordBatch) -> Result<Vec<ArrayRef>, FeatureError> {
        self.arguments
            .iter()
            .map(|(expr, text)| evaluate(expr, rows, text))
            .collect()
    }

    pub(crate) fn snapshot(&self, name: &str, snapshot: &mut Snapshot) {
        self.state.snapshot(&format!("{name}/rings"), snapshot);
        if let GroupKey::Own { index, .. } = &self.key {
            index.snapshot(&format!("{name}/keys"), snapshot);
        }
    }

    pub(crate) fn restore(&mut self, name: &str, restored: &Restored) -> Result<(), FeatureError> {
        self.state
            .restore(restored.section(&format!("{name}/rings"))?)?;
        if let GroupKey::Own { index, .. } = &mut self.key {
            *index = KeyIndex::restore(restored.section(&format!("{name}/keys"))?)?;
        }
        Ok(())
    }
}

/// The keys of rows that are no entity's.
fn own_keys(
    exprs: &[Arc<dyn PhysicalExpr>],
    encoder: &KeyEncoder,
    rows: &RecordBatch,
) -> Result<Keys, FeatureError> {
    let parts = (exprs.iter())
        .map(|expr| evaluate(expr, rows, "PARTITION BY"))
        .collect::<Result<Vec<_>, _>>()?;
    encoder.keys(&parts)
}

/// Slot of a single key column's NULL: a key of its own.
const NULL_KEY: u32 = sanderling_schemas::NO_SLOT;

impl GroupKey {
    fn own(plan: &Plan, schema: &SchemaRef, key: &[Expr]) -> Result<Self, FeatureError> {
        let exprs = key
            .iter()
            .map(|expr| plan.compile(expr, schema))
            .collect::<Result<Vec<_>, _>>()?;
        let types = exprs
            .iter()
            .map(|expr| type_of(expr, schema))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(GroupKey::Own {
            exprs,
            encoder: KeyEncoder::new(&types)?,
            index: KeyIndex::default(),
        })
    }
}

/// Type of an expression over the relation.
pub(crate) fn type_of(
    expr: &Arc<dyn PhysicalExpr>,
    schema: &SchemaRef,
) -> Result<DataType, FeatureError> {
    expr.data_type(schema).map_err(|e| FeatureError::sql(&e))
}

/// Refuses what there is no kernel for, and what counts rows where rows are of several kinds.
fn check(
    call: &WindowCall,
    column: &Column,
    plan: &Plan,
    relation: &Relation,
) -> Result<(), FeatureError> {
    if let (Function::Avg, DataType::Decimal128(26.., scale)) = (call.function, &column.data_type) {
        return Err(FeatureError::refused(
            &call.text,
            "the mean of a decimal of more than 25 digits may not fit",
            format!("cast the argument to decimal(25, {scale}) or to double"),
        ));
    }
    let aggregate = Aggregate {
        function: call.function,
        column: 0,
        frame: 0,
        output: call.data_type.clone(),
    };
    WindowSpec::new(vec![column.clone()], vec![call.frame], vec![aggregate], 0).map_err(|e| {
        FeatureError::refused(
            &call.text,
            e,
            "cast the argument to bigint, decimal or double",
        )
    })?;

    let several = relation.labels.is_some() || relation.streams.len() > 1;
    let by_rows = !matches!(call.function, Function::Min | Function::Max);
    let apart = call.filter.is_some()
        || call
            .partition_by
            .iter()
            .any(|key| key.column_refs().iter().any(|c| c.name == STREAM));
    // Columns that every row has, and those that label rows have or take over from their event.
    let mut shared = vec![EVENT_TIME, STREAM];
    let keys = plan.key_columns(relation);
    if let Some(labels) = &relation.labels {
        shared.push(&labels.reference);
        shared.extend(
            keys.iter()
                .map(|at| relation.schema.field(*at).name().as_str()),
        );
    }
    let own = call
        .argument
        .column_refs()
        .iter()
        .any(|c| !shared.contains(&c.name.as_str()));
    if several && by_rows && !apart && !own {
        return Err(FeatureError::refused(
            &call.text,
            "it counts rows as such, those of labels and other streams too",
            "aggregate a column that only this stream has, such as count(amount), or add \
             FILTER (WHERE stream = '...')",
        ));
    }
    Ok(())
}

/// Evaluates an expression to one value a row. Where a row's own values make it fail (a division by
/// zero, an overflow), that row gets NULL, whatever batch it stands in.
pub(crate) fn evaluate(
    expr: &Arc<dyn PhysicalExpr>,
    rows: &RecordBatch,
    what: &str,
) -> Result<ArrayRef, FeatureError> {
    let values = |rows: &RecordBatch| {
        expr.evaluate(rows)
            .and_then(|value| value.into_array(rows.num_rows()))
    };
    let failed = |source: DataFusionError| FeatureError::Evaluate {
        feature: what.to_string(),
        source: Box::new(source),
    };
    match values(rows) {
        Ok(array) => Ok(array),
        Err(error) if is_of_values(&error) => {
            let data_type = expr.data_type(&rows.schema()).map_err(failed)?;
            let single = |row: usize| match values(&rows.slice(row, 1)) {
                Err(error) if is_of_values(&error) => Ok(new_null_array(&data_type, 1)),
                other => other.map_err(failed),
            };
            let arrays = (0..rows.num_rows())
                .map(single)
                .collect::<Result<Vec<_>, _>>()?;
            let arrays: Vec<_> = arrays.iter().map(|array| array.as_ref()).collect();
            Ok(concat(&arrays)?)
        }
        Err(error) => Err(failed(error)),
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

/// The rows `picks` of a batch's columns.
pub(crate) fn take_rows(
    columns: &[ArrayRef],
    picks: &UInt32Array,
) -> Result<Vec<ArrayRef>, FeatureError> {
    columns
        .iter()
        .map(|column| Ok(arrow::compute::take(column, picks, None)?))
        .collect()
}
