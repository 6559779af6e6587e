//! Window functions lowered to keyed state, grouped by their key.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::logical_expr::expr::WindowFunctionDefinition;
use datafusion::logical_expr::{Expr, WindowFrameBound, WindowFrameUnits, when};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::scalar::ScalarValue;
use sanderling_schemas::Relation;
use sanderling_schemas::relation::{EVENT_TIME, STREAM};
use sanderling_state::window::{
    Aggregate, Column, Frame, Function, WindowOutput, WindowRows, WindowSpec, WindowState,
};
use sanderling_state::{KeyIndex, Restored, Snapshot};

use crate::FeatureError;
use crate::keys::KeyEncoder;
use crate::plan::{Plan, window_of};

const FUNCTIONS: &str = "count, sum, avg, min, max, stddev, stddev_pop, var or var_pop";
const FRAME: &str = "RANGE BETWEEN INTERVAL '30 days' PRECEDING AND CURRENT ROW";

/// A window function's call, over columns of the relation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WindowCall {
    pub function: Function,
    pub argument: Expr,
    /// Rows that it does not hold for are left out.
    pub filter: Option<Expr>,
    pub partition_by: Vec<Expr>,
    pub frame: Frame,
    pub data_type: DataType,
    /// As DataFusion writes it.
    pub text: String,
}

/// Lowers a window expression, whose columns are the relation's, or says why it cannot be.
pub(crate) fn lower(expr: &Expr, data_type: DataType) -> Result<WindowCall, FeatureError> {
    let expr = expr.clone().unalias();
    let text = expr.schema_name().to_string();
    let refuse = |reason: &str, cure: &str| FeatureError::refused(&text, reason, cure);
    let Expr::WindowFunction(call) = &expr else {
        return Err(refuse(
            "it is not a window function",
            "use an aggregate with OVER",
        ));
    };
    let params = &call.params;
    let function = match &call.fun {
        WindowFunctionDefinition::AggregateUDF(function) => match function.name() {
            "count" => Function::Count,
            "sum" => Function::Sum,
            "avg" => Function::Avg,
            "min" => Function::Min,
            "max" => Function::Max,
            "stddev" => Function::Variance {
                sample: true,
                root: true,
            },
            "stddev_pop" => Function::Variance {
                sample: false,
                root: true,
            },
            "var" => Function::Variance {
                sample: true,
                root: false,
            },
            "var_pop" => Function::Variance {
                sample: false,
                root: false,
            },
            _ => {
                return Err(refuse(
                    "there is no kernel for this aggregate",
                    &format!("use {FUNCTIONS}"),
                ));
            }
        },
        WindowFunctionDefinition::WindowUDF(_) => {
            return Err(refuse(
                "it depends on how many rows there are, not on their times",
                &format!("use {FUNCTIONS} over a RANGE frame"),
            ));
        }
    };
    if params.distinct {
        return Err(refuse(
            "DISTINCT has no kernel in a window",
            "leave DISTINCT out",
        ));
    }
    if params.null_treatment.is_some() {
        return Err(refuse(
            "aggregates leave NULLs out anyway",
            "leave IGNORE/RESPECT NULLS out",
        ));
    }
    let [argument] = params.args.as_slice() else {
        return Err(refuse(
            "it needs exactly one argument",
            "write one window for each argument",
        ));
    };
    match params.order_by.as_slice() {
        [sort] if sort.asc && matches!(&sort.expr, Expr::Column(c) if c.name == EVENT_TIME) => {}
        _ => {
            return Err(refuse(
                "a window looks back over event time",
                "write ORDER BY event_time in the window",
            ));
        }
    }
    let frame = frame_of(&params.window_frame, &text)?;
    let nested = |e: &Expr| e.column_refs().iter().any(|c| window_of(&c.name).is_some());
    let filter = params.filter.as_deref();
    if nested(argument) || filter.is_some_and(nested) || params.partition_by.iter().any(nested) {
        return Err(refuse(
            "a window over the results of a window would need its rows again",
            "aggregate the event's own columns, and combine windows outside OVER",
        ));
    }
    Ok(WindowCall {
        function,
        argument: argument.clone(),
        filter: filter.cloned(),
        partition_by: params.partition_by.clone(),
        frame,
        data_type,
        text,
    })
}

impl WindowCall {
    /// What the ring keeps: NULL where the filter leaves the row out. A cast to double around an exact
    /// number only names the type of the result, so the number itself is kept and summed exactly.
    fn kept(&self, plan: &Plan, schema: &SchemaRef) -> Result<Expr, FeatureError> {
        let mut kept = &self.argument;
        let numeric = matches!(
            self.function,
            Function::Sum | Function::Avg | Function::Variance { .. }
        );
        if let (true, Expr::Cast(cast)) = (numeric, kept)
            && *cast.field.data_type() == DataType::Float64
        {
            let inner = type_of(&plan.compile(&cast.expr, schema)?, schema)?;
            if inner.is_integer() || matches!(inner, DataType::Decimal128(..)) {
                kept = cast.expr.as_ref();
            }
        }
        match &self.filter {
            Some(filter) => when(filter.clone(), kept.clone())
                .end()
                .map_err(|e| FeatureError::sql(&e)),
            None => Ok(kept.clone()),
        }
    }
}

fn frame_of(
    frame: &datafusion::logical_expr::WindowFrame,
    text: &str,
) -> Result<Frame, FeatureError> {
    let refuse = |reason: &str, cure: &str| Err(FeatureError::refused(text, reason, cure));
    if frame.units != WindowFrameUnits::Range {
        return refuse(
            &format!(
                "{} frames count rows, and a late row would change how many",
                frame.units
            ),
            &format!("give a span of time: {FRAME}"),
        );
    }
    let reach = |bound: &WindowFrameBound| match bound {
        WindowFrameBound::CurrentRow => Ok(0),
        WindowFrameBound::Preceding(value) => interval_us(value, text),
        WindowFrameBound::Following(_) => Err(FeatureError::refused(
            text,
            "a frame must not look at what comes after the row",
            format!("end the frame at the row: {FRAME}"),
        )),
    };
    let preceding_us = reach(&frame.start_bound)?;
    let until_us = reach(&frame.end_bound)?;
    if preceding_us < until_us {
        return refuse(
            "the frame ends before it begins",
            "put the longer interval first",
        );
    }
    Ok(Frame {
        preceding_us,
        until_us,
    })
}

fn interval_us(value: &ScalarValue, text: &str) -> Result<i64, FeatureError> {
    let refuse = |reason: &str, cure: &str| Err(FeatureError::refused(text, reason, cure));
    match value {
        value if value.is_null() => refuse(
            "an UNBOUNDED frame would keep every row for ever",
            &format!("bound it: {FRAME}"),
        ),
        ScalarValue::IntervalMonthDayNano(Some(interval)) => {
            if interval.months != 0 {
                return refuse("months differ in length", "give the frame in days");
            }
            if interval.nanoseconds % 1000 != 0 {
                return refuse("event times are in microseconds", "give whole microseconds");
            }
            let us = i64::from(interval.days) * 86_400_000_000 + interval.nanoseconds / 1000;
            match us {
                0.. => Ok(us),
                _ => refuse("the interval is negative", "give a positive interval"),
            }
        }
        _ => refuse("the frame is not an interval", &format!("write {FRAME}")),
    }
}

/// All windows of one `PARTITION BY`.
pub(crate) struct WindowGroup {
    /// Windows of the plan, in the order of the outputs.
    windows: Vec<usize>,
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
    /// Groups the plan's windows by key.
    pub(crate) fn of(plan: &Plan, relation: &Relation) -> Result<Vec<Self>, FeatureError> {
        let mut keys: Vec<(&[Expr], Vec<usize>)> = Vec::new();
        for (number, call) in plan.windows.iter().enumerate() {
            match keys
                .iter_mut()
                .find(|(key, _)| *key == call.partition_by.as_slice())
            {
                Some((_, windows)) => windows.push(number),
                None => keys.push((&call.partition_by, vec![number])),
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
            check(call, &columns[column], plan, relation)?;
            aggregates.push(Aggregate {
                function: call.function,
                column,
                frame,
                output: call.data_type.clone(),
            });
        }
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
                let parts = (exprs.iter())
                    .map(|expr| evaluate(expr, rows.rows, "PARTITION BY"))
                    .collect::<Result<Vec<_>, _>>()?;
                let keys = encoder.keys(&parts)?;
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

fn type_of(expr: &Arc<dyn PhysicalExpr>, schema: &SchemaRef) -> Result<DataType, FeatureError> {
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

/// Evaluates an expression to one value a row.
pub(crate) fn evaluate(
    expr: &Arc<dyn PhysicalExpr>,
    rows: &RecordBatch,
    what: &str,
) -> Result<ArrayRef, FeatureError> {
    expr.evaluate(rows)
        .and_then(|value| value.into_array(rows.num_rows()))
        .map_err(|source| FeatureError::Evaluate {
            feature: what.to_string(),
            source: Box::new(source),
        })
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
