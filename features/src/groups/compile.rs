//! From the calls of a plan to groups of windows.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion::logical_expr::Expr;
use sanderling_schemas::Relation;
use sanderling_state::window::{Aggregate, COLUMNS_MAX, Column, WindowSpec, WindowState};

use super::WindowGroup;
use super::key::GroupKey;
use super::prepared::Prepared;
use crate::FeatureError;
use crate::accumulate::FrameAggregate;
use crate::key_log::LoggedColumns;
use crate::parity::Call;
use crate::plan::{Plan, type_of};
use crate::program::Program;

/// Calls of one level and key.
struct Gathered<'a> {
    level: usize,
    key: &'a [Expr],
    /// What a row's ring keeps for them, each once.
    exprs: Vec<Expr>,
    /// With their numbers in the plan.
    calls: Vec<(usize, Prepared)>,
}

impl WindowGroup {
    /// Groups the plan's windows over rows of `schema` by level and key, and where a key has more arguments
    /// than a ring holds columns, into several groups. Lower levels come first.
    pub(crate) fn of(
        plan: &Plan,
        relation: &Relation,
        schema: &SchemaRef,
    ) -> Result<Vec<Self>, FeatureError> {
        let mut gathered: Vec<Gathered<'_>> = Vec::new();
        for (number, call) in plan.windows.iter().enumerate() {
            let prepared =
                Prepared::of(call, plan, relation, schema).map_err(|e| plan.about(number, e))?;
            let lacks = |known: &[Expr]| -> Vec<Expr> {
                let mut lacks: Vec<Expr> = Vec::new();
                for expr in prepared.exprs() {
                    if !known.contains(expr) && !lacks.contains(expr) {
                        lacks.push(expr.clone());
                    }
                }
                lacks
            };
            let room = |known: &[Expr]| known.len() + lacks(known).len() <= COLUMNS_MAX;
            let group = gathered.iter().position(|group| {
                group.level == call.level
                    && group.key == call.partition_by.as_slice()
                    && room(&group.exprs)
            });
            let group = group.unwrap_or_else(|| {
                gathered.push(Gathered {
                    level: call.level,
                    key: &call.partition_by,
                    exprs: Vec::new(),
                    calls: Vec::new(),
                });
                gathered.len() - 1
            });
            let group = &mut gathered[group];
            group.exprs.extend(lacks(&group.exprs));
            group.calls.push((number, prepared));
        }
        gathered.sort_by_key(|group| group.level);
        gathered
            .into_iter()
            .map(|group| Self::new(plan, relation, schema, group))
            .collect()
    }

    fn new(
        plan: &Plan,
        relation: &Relation,
        schema: &SchemaRef,
        group: Gathered<'_>,
    ) -> Result<Self, FeatureError> {
        let Gathered {
            level,
            key,
            exprs,
            calls,
        } = group;
        let mut columns = vec![None; exprs.len()];
        let mut arguments = Vec::new();
        for expr in &exprs {
            arguments.push((plan.compile(expr, schema)?, String::new()));
        }
        let (mut frames, mut aggregates) = (Vec::new(), Vec::new());
        let (mut windows, mut results) = (Vec::new(), Vec::new());
        let mut again = Vec::new();
        let place = |expr: &Expr| {
            let place = exprs.iter().position(|other| other == expr);
            place.expect("all expressions of the calls were collected")
        };
        for (number, prepared) in calls {
            let call = &plan.windows[number];
            for kept in &prepared.columns {
                let at = place(&kept.expr);
                columns[at] = Some(Column {
                    data_type: kept.data_type.clone(),
                });
                arguments[at].1.clone_from(&call.text);
            }
            if let Some(only) = &prepared.only {
                let at = place(only);
                columns[at].get_or_insert(Column {
                    data_type: DataType::Int64,
                });
                arguments[at].1.clone_from(&call.text);
            }
            let frame = frames
                .iter()
                .position(|frame| *frame == call.frame)
                .unwrap_or_else(|| {
                    frames.push(call.frame);
                    frames.len() - 1
                });
            aggregates.push(Aggregate {
                function: prepared.function,
                columns: prepared
                    .columns
                    .iter()
                    .map(|kept| place(&kept.expr))
                    .collect(),
                only: prepared.only.as_ref().map(place),
                frame,
                output: prepared.output,
            });
            // What DataFusion cannot accumulate is not checked that way.
            let accumulated = (call.aggregate.as_ref())
                .and_then(|function| FrameAggregate::new(call, function, plan, schema).ok());
            let aggregate = aggregates.last().expect("one was just added");
            again.push(Call {
                window: number,
                function: aggregate.function,
                columns: aggregate.columns.clone(),
                only: aggregate.only,
                frame: call.frame,
                data_type: call.data_type.clone(),
                text: call.text.clone(),
                again: accumulated.map(|(accumulated, _)| accumulated),
            });
            windows.push(number);
            results.push((call.data_type.clone(), prepared.from_rows));
        }
        let by: Vec<String> = key
            .iter()
            .map(|key| key.schema_name().to_string())
            .collect();
        let columns: Vec<Column> = columns.into_iter().flatten().collect();
        // What reads a table or another window means something else where those do.
        let is_of_event = |expr: &Expr| {
            let refs = expr.column_refs();
            refs.iter()
                .all(|c| relation.schema.index_of(&c.name).is_ok())
        };
        let is_shared = key.iter().all(is_of_event);
        let argument_kinds = (exprs.iter().zip(&columns))
            .map(|(expr, column)| {
                if !is_of_event(expr) {
                    return String::new();
                }
                format!("{:?} {}", expr.schema_name().to_string(), column.data_type)
            })
            .collect();
        let parts = (key.iter())
            .map(|key| plan.compile(key, schema))
            .collect::<Result<Vec<_>, _>>()?;
        let key_fields = (parts.iter().zip(&by))
            .map(|(part, text)| Ok(Field::new(text, type_of(part, schema)?, true)))
            .collect::<Result<_, FeatureError>>()?;
        let logged = match level == 0 && is_shared && exprs.iter().all(is_of_event) {
            true => {
                let values = arguments.iter().map(|(expr, _)| expr.clone()).collect();
                Some(Arc::new(LoggedColumns::new(parts, values, schema, &again)?))
            }
            false => None,
        };
        let key = GroupKey::of(key, plan, relation, schema)?;
        let spec = WindowSpec::new(columns, frames, aggregates, relation.lateness_us)?;
        let below = plan.windows_below();
        let spec = match spec.with_rows_max(relation.rows_per_key_max) {
            Ok(spec) => spec,
            Err(error) => {
                let cure = "give state.rows_per_key_max more rows, or look back over fewer";
                return Err(plan.about(
                    windows[0],
                    FeatureError::refused(by.join(", "), error, cure),
                ));
            }
        };
        Ok(WindowGroup {
            below: windows
                .iter()
                .copied()
                .filter(|n| below.contains(n))
                .collect(),
            windows,
            level,
            by: by.join(", ").into(),
            key,
            key_fields,
            argument_kinds,
            is_shared,
            argument_texts: (exprs.iter())
                .map(|expr| expr.schema_name().to_string())
                .collect(),
            arguments: Program::new(arguments, schema),
            results,
            state: WindowState::new(Arc::new(spec)),
            forgotten: 0,
            calls: Arc::new(again),
            logged,
        })
    }
}
