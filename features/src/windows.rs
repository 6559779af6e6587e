//! Window functions of the plan, lowered to what keyed state can compute, or refused.

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::logical_expr::expr::WindowFunctionDefinition;
use datafusion::logical_expr::{Expr, WindowFrameBound, WindowFrameUnits, when};
use datafusion::scalar::ScalarValue;
use sanderling_schemas::relation::EVENT_TIME;
use sanderling_state::window::{Frame, Function};

use crate::FeatureError;
use crate::groups::type_of;
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
    pub(crate) fn kept(&self, plan: &Plan, schema: &SchemaRef) -> Result<Expr, FeatureError> {
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
