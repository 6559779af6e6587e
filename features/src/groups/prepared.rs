//! A window function's call before its group is known: what computes it, and what that needs of a row.

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::logical_expr::Expr;
use sanderling_schemas::relation::{EVENT_TIME, STREAM};
use sanderling_schemas::{LateRows, Relation};
use sanderling_state::StateError;
use sanderling_state::window::{Aggregate, Column, Frame, Function, WindowSpec};

use crate::FeatureError;
use crate::accumulate::{FrameAggregate, OTHERWISE};
use crate::plan::Plan;
use crate::windows::{Kept, WindowCall};

/// A call, and what computes it.
pub(super) struct Prepared {
    pub function: Function,
    pub columns: Vec<Kept>,
    pub only: Option<Expr>,
    pub output: DataType,
    pub from_rows: Option<FrameAggregate>,
}

impl Prepared {
    /// Finds what computes a call; refuses what nothing can, and what counts rows where rows are of
    /// several kinds.
    pub(super) fn of(
        call: &WindowCall,
        plan: &Plan,
        relation: &Relation,
        schema: &SchemaRef,
    ) -> Result<Self, FeatureError> {
        let refuse =
            |reason: String, cure: &str| Err(FeatureError::refused(&call.text, reason, cure));
        check_rows(call, plan, relation)?;
        check_key(call, plan, relation)?;
        let unbounded = matches!(
            call.frame,
            Frame::Range {
                preceding_us: None,
                ..
            } | Frame::Rows {
                preceding: None,
                ..
            }
        );
        let mut reason = None;
        if let Some(kernel) = call.kernel {
            let columns = call.kernel_columns(kernel, plan, schema)?;
            let output = match kernel {
                Function::Min | Function::Max | Function::Nth { .. } => {
                    columns[0].data_type.clone()
                }
                _ => call.data_type.clone(),
            };
            let prepared = Prepared {
                function: kernel,
                columns,
                only: None,
                output,
                from_rows: None,
            };
            match prepared.check(call.frame) {
                Ok(()) => return Ok(prepared),
                Err(error) => reason = Some(error),
            }
        }
        let Some(aggregate) = &call.aggregate else {
            let reason = reason.map_or_else(String::new, |e| e.to_string());
            let cure = match unbounded {
                true => {
                    "bound the frame: RANGE BETWEEN INTERVAL '30 days' PRECEDING AND CURRENT ROW"
                }
                false => "cast the argument to bigint, decimal, double or varchar",
            };
            return refuse(reason, cure);
        };
        if unbounded {
            return refuse(
                "over an UNBOUNDED frame it would need every row that ever was".into(),
                "bound the frame: RANGE BETWEEN INTERVAL '30 days' PRECEDING AND CURRENT ROW; \
                 count, min, max, and sum and avg of bigint or decimal may be unbounded",
            );
        }
        let (from_rows, columns) = FrameAggregate::new(call, aggregate, plan, schema)?;
        let prepared = Prepared {
            function: Function::Rows,
            columns,
            only: call.only()?,
            output: call.data_type.clone(),
            from_rows: Some(from_rows),
        };
        match prepared.check(call.frame) {
            Ok(()) => Ok(prepared),
            Err(error) => refuse(error.to_string(), OTHERWISE),
        }
    }

    /// What a row's ring must keep.
    pub(super) fn exprs(&self) -> impl Iterator<Item = &Expr> {
        self.columns.iter().map(|kept| &kept.expr).chain(&self.only)
    }

    /// Whether windows can be made of it.
    fn check(&self, frame: Frame) -> Result<(), StateError> {
        let columns: Vec<Column> = (self.columns.iter())
            .map(|kept| Column {
                data_type: kept.data_type.clone(),
            })
            .collect();
        let aggregate = Aggregate {
            function: self.function,
            columns: (0..columns.len()).collect(),
            only: None,
            frame: 0,
            output: self.output.clone(),
        };
        WindowSpec::new(columns, vec![frame], vec![aggregate], 0).map(|_| ())
    }
}

/// Refuses what counts rows as such where rows are of several kinds.
fn check_rows(call: &WindowCall, plan: &Plan, relation: &Relation) -> Result<(), FeatureError> {
    let several = relation.labels.is_some() || relation.streams.len() > 1;
    let by_stream =
        (call.partition_by.iter()).any(|key| key.column_refs().iter().any(|c| c.name == STREAM));
    if !several || by_stream {
        return Ok(());
    }
    let by_place = matches!(call.frame, Frame::Rows { .. })
        || matches!(call.kernel, Some(Function::Nth { .. }));
    if by_place {
        return Err(FeatureError::refused(
            &call.text,
            "it counts rows as such, those of labels and other streams too",
            "write PARTITION BY ..., stream",
        ));
    }
    let of_extreme = matches!(call.kernel, Some(Function::Min | Function::Max));
    if call.filter.is_some() || (of_extreme && call.level == 0) {
        return Ok(());
    }
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
    // What windows and tables say, they say of every row.
    let is_own = |name: &str| relation.schema.index_of(name).is_ok() && !shared.contains(&name);
    let own = (call.arguments.iter())
        .flat_map(|argument| argument.column_refs())
        .any(|c| is_own(&c.name));
    match own {
        true => Ok(()),
        false => Err(FeatureError::refused(
            &call.text,
            "it counts rows as such, those of labels and other streams too",
            "aggregate a column that only this stream has, such as count(amount), or add \
             FILTER (WHERE stream = '...')",
        )),
    }
}

/// Refuses a key that is known too late to judge rows by, where those that come too late are refused.
fn check_key(call: &WindowCall, plan: &Plan, relation: &Relation) -> Result<(), FeatureError> {
    let by_window = (call.partition_by.iter()).any(|key| !plan.windows_of(key).is_empty());
    match by_window && relation.late_rows == LateRows::Refuse {
        false => Ok(()),
        true => Err(FeatureError::refused(
            &call.text,
            "whether a row comes too late for its key is judged before any window is computed",
            "partition by the event's own columns, or take late rows: lateness: {beyond: decide}",
        )),
    }
}
