//! Window functions of the plan, lowered to what keyed state can compute, or refused.
//!
//! What has a kernel runs on it. `lag` and `row_number` are written with frames of rows. Any other
//! aggregate is computed from the rows of its frame by DataFusion's own accumulator.

mod frame;

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::logical_expr::expr::{
    NullTreatment, WindowFunctionDefinition, WindowFunctionParams,
};
use datafusion::logical_expr::{AggregateUDF, Expr, cast, lit, when};
use datafusion::scalar::ScalarValue;
use sanderling_schemas::relation::EVENT_TIME;
use sanderling_state::window::{Frame, Function, Pair};

use crate::FeatureError;
use crate::plan::{Plan, check_functions, check_volatility, type_of};
use frame::{FRAME, frame_of};

/// A window function's call, over columns of the relation.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct WindowCall {
    /// What computes it from running values, if the argument's type allows.
    pub kernel: Option<Function>,
    /// What computes it from the frame's rows.
    pub aggregate: Option<FrameFunction>,
    pub arguments: Vec<Expr>,
    /// Rows that it does not hold for are left out.
    pub filter: Option<Expr>,
    pub partition_by: Vec<Expr>,
    pub frame: Frame,
    pub data_type: DataType,
    /// As DataFusion writes it.
    pub text: String,
    /// 0 where it reads no other window's results; see [`Plan`].
    pub level: usize,
}

/// An aggregate function as DataFusion runs it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FrameFunction {
    pub function: Arc<AggregateUDF>,
    pub distinct: bool,
}

/// A window expression in terms of calls.
pub(crate) struct Lowered {
    pub calls: Vec<WindowCall>,
    pub shape: Shape,
}

/// What is made of the calls' results.
pub(crate) enum Shape {
    /// The first one's.
    Call,
    /// The first one's, a count, as a row number.
    RowNumber,
    /// The first one's where the second, a count, is not 0; else this.
    OrElse(Expr),
}

impl Shape {
    /// The window expression over the columns of the calls' results.
    pub(crate) fn over(self, columns: &[Expr]) -> Result<Expr, FeatureError> {
        let counted = |column: &Expr| column.clone().gt(lit(0i64));
        match self {
            Shape::Call => Ok(columns[0].clone()),
            Shape::RowNumber => when(
                counted(&columns[0]),
                cast(columns[0].clone(), DataType::UInt64),
            )
            .end(),
            Shape::OrElse(default) => {
                when(counted(&columns[1]), columns[0].clone()).otherwise(default)
            }
        }
        .map_err(|e| FeatureError::sql(&e))
    }
}

/// The kernel of an aggregate function of DataFusion's.
fn kernel_of(name: &str) -> Option<Function> {
    let variance = |sample, root| Function::Variance { sample, root };
    Some(match name {
        "count" => Function::Count,
        "sum" => Function::Sum,
        "avg" => Function::Avg,
        "min" => Function::Min,
        "max" => Function::Max,
        "stddev" => variance(true, true),
        "stddev_pop" => variance(false, true),
        "var" => variance(true, false),
        "var_pop" => variance(false, false),
        "covar_samp" => Function::Pair(Pair::CovarSample),
        "covar_pop" => Function::Pair(Pair::CovarPop),
        "corr" => Function::Pair(Pair::Corr),
        "regr_slope" => Function::Pair(Pair::Slope),
        "regr_intercept" => Function::Pair(Pair::Intercept),
        "regr_count" => Function::Pair(Pair::Count),
        "regr_r2" => Function::Pair(Pair::R2),
        "regr_avgx" => Function::Pair(Pair::AvgX),
        "regr_avgy" => Function::Pair(Pair::AvgY),
        "regr_sxx" => Function::Pair(Pair::Sxx),
        "regr_syy" => Function::Pair(Pair::Syy),
        "regr_sxy" => Function::Pair(Pair::Sxy),
        _ => return None,
    })
}

/// Lowers a window expression, whose columns are the relation's, or says why it cannot be.
pub(crate) fn lower(expr: &Expr, data_type: DataType) -> Result<Lowered, FeatureError> {
    let expr = expr.clone().unalias();
    let text = expr.schema_name().to_string();
    let Expr::WindowFunction(call) = &expr else {
        return Err(FeatureError::refused(
            &text,
            "it is not a window function",
            "use an aggregate with OVER",
        ));
    };
    let params = &call.params;
    let refuse = |reason: &str, cure: &str| Err(FeatureError::refused(&text, reason, cure));
    match params.order_by.as_slice() {
        [sort] if sort.asc && matches!(&sort.expr, Expr::Column(c) if c.name == EVENT_TIME) => {}
        _ => {
            return refuse(
                "a window looks back over event time",
                "write ORDER BY event_time in the window",
            );
        }
    }
    let parts = params.args.iter().chain(&params.partition_by);
    for part in parts.chain(params.filter.as_deref()) {
        check_functions(part)?;
    }
    match &call.fun {
        WindowFunctionDefinition::AggregateUDF(function) => {
            aggregate(function, params, data_type, text)
        }
        WindowFunctionDefinition::WindowUDF(function) => {
            by_place(function.name(), params, data_type, text)
        }
    }
}

fn aggregate(
    function: &Arc<AggregateUDF>,
    params: &WindowFunctionParams,
    data_type: DataType,
    text: String,
) -> Result<Lowered, FeatureError> {
    let refuse = |reason: &str, cure: &str| Err(FeatureError::refused(&text, reason, cure));
    check_volatility(&text, function.signature().volatility)?;
    if params.null_treatment.is_some() {
        return refuse(
            "aggregates leave NULLs out anyway",
            "leave IGNORE/RESPECT NULLS out",
        );
    }
    if params.args.is_empty() {
        return refuse("it has no argument", "name a column of the event");
    }
    if data_type.is_nested() {
        return refuse(
            "a feature is one value, not a list",
            "aggregate to a number, a text or a time",
        );
    }
    let kernel = match (kernel_of(function.name()), params.distinct) {
        (Some(Function::Count), true) => Some(Function::CountDistinct),
        // The least and the greatest of different values are those of all.
        (kernel @ Some(Function::Min | Function::Max), true) => kernel,
        (_, true) => None,
        (kernel, false) => kernel,
    };
    let kernel = kernel.filter(|kernel| {
        let wanted = if matches!(kernel, Function::Pair(_)) {
            2
        } else {
            1
        };
        params.args.len() == wanted
    });
    let call = WindowCall {
        kernel,
        aggregate: Some(FrameFunction {
            function: function.clone(),
            distinct: params.distinct,
        }),
        arguments: params.args.clone(),
        filter: params.filter.as_deref().cloned(),
        partition_by: params.partition_by.clone(),
        frame: frame_of(&params.window_frame, &text)?,
        data_type,
        text,
        level: 0,
    };
    Ok(Lowered {
        calls: vec![call],
        shape: Shape::Call,
    })
}

/// Functions that pick or number rows.
fn by_place(
    name: &str,
    params: &WindowFunctionParams,
    data_type: DataType,
    text: String,
) -> Result<Lowered, FeatureError> {
    let refuse = |reason: &str, cure: &str| Err(FeatureError::refused(&text, reason, cure));
    if params.filter.is_some() {
        return refuse(
            "FILTER belongs to aggregates",
            "leave FILTER out, or aggregate with max(...) FILTER (WHERE ...)",
        );
    }
    if params.distinct {
        return refuse("DISTINCT belongs to aggregates", "leave DISTINCT out");
    }
    let skip_nulls = params.null_treatment == Some(NullTreatment::IgnoreNulls);
    let call =
        |kernel: Function, arguments: Vec<Expr>, frame: Frame, data_type: DataType| WindowCall {
            kernel: Some(kernel),
            aggregate: None,
            arguments,
            filter: None,
            partition_by: params.partition_by.clone(),
            frame,
            data_type,
            text: text.clone(),
            level: 0,
        };
    let value = || params.args.first().cloned().into_iter().collect::<Vec<_>>();
    let nth = |nth: u64, from_end: bool| -> Result<Lowered, FeatureError> {
        let frame = frame_of(&params.window_frame, &text)?;
        let function = Function::Nth {
            nth,
            from_end,
            skip_nulls,
        };
        Ok(Lowered {
            calls: vec![call(function, value(), frame, data_type.clone())],
            shape: Shape::Call,
        })
    };
    match (name, params.args.as_slice()) {
        ("first_value", [_]) => nth(0, false),
        ("last_value", [_]) => nth(0, true),
        ("nth_value", [_, place]) => match whole_number(place) {
            Some(place @ 1..) => nth(place as u64 - 1, false),
            Some(place @ ..=-1) => nth(place.unsigned_abs() - 1, true),
            _ => refuse(
                "the row's place must be a number other than 0 that stands in the query",
                "write nth_value(column, 2), or -2 to count from the frame's end",
            ),
        },
        ("lag", [_, rest @ ..]) if rest.len() <= 2 => {
            let back = match rest.first() {
                None | Some(Expr::Literal(ScalarValue::Null, _)) => Some(1),
                Some(back) => whole_number(back).filter(|back| *back >= 0),
            };
            let Some(back) = back else {
                return refuse(
                    "it must look back a number of rows that stands in the query",
                    "write lag(column, 1)",
                );
            };
            if skip_nulls {
                return refuse(
                    "the last value that is not NULL may be any number of rows back",
                    &format!("write last_value(column) IGNORE NULLS OVER (... {FRAME})"),
                );
            }
            let frame = Frame::Rows {
                preceding: Some(back as u64),
                until: back as u64,
            };
            let first = Function::Nth {
                nth: 0,
                from_end: false,
                skip_nulls: false,
            };
            let mut calls = vec![call(first, value(), frame, data_type.clone())];
            let shape = match rest.get(1) {
                None | Some(Expr::Literal(ScalarValue::Null, _)) => Shape::Call,
                Some(default) => {
                    calls.push(call(
                        Function::Count,
                        vec![lit(1i64)],
                        frame,
                        DataType::Int64,
                    ));
                    Shape::OrElse(cast(default.clone(), data_type))
                }
            };
            Ok(Lowered { calls, shape })
        }
        ("row_number", []) => {
            let frame = Frame::Rows {
                preceding: None,
                until: 0,
            };
            Ok(Lowered {
                calls: vec![call(
                    Function::Count,
                    vec![lit(1i64)],
                    frame,
                    DataType::Int64,
                )],
                shape: Shape::RowNumber,
            })
        }
        ("lead", _) => refuse(
            "it looks at what comes after the row",
            "look back with lag(column, 1)",
        ),
        _ => refuse(
            "it compares the row with all others of its key, later ones too",
            "use row_number(), lag, first_value, last_value, nth_value or an aggregate",
        ),
    }
}

fn whole_number(expr: &Expr) -> Option<i64> {
    match expr {
        Expr::Literal(value, _) => match value.cast_to(&DataType::Int64).ok()? {
            ScalarValue::Int64(value) => value,
            _ => None,
        },
        Expr::Negative(inner) => whole_number(inner)?.checked_neg(),
        _ => None,
    }
}

/// An argument as a ring keeps it.
pub(crate) struct Kept {
    pub expr: Expr,
    pub data_type: DataType,
}

impl WindowCall {
    /// All that it reads of a row.
    pub(crate) fn exprs(&self) -> impl Iterator<Item = &Expr> {
        (self.arguments.iter())
            .chain(&self.filter)
            .chain(&self.partition_by)
    }

    /// What a kernel needs of each row: NULL where the filter leaves the row out. A cast to double around
    /// an exact number only names the type of the result, so the number itself is kept and summed exactly.
    pub(crate) fn kernel_columns(
        &self,
        kernel: Function,
        plan: &Plan,
        schema: &SchemaRef,
    ) -> Result<Vec<Kept>, FeatureError> {
        let double = |expr: &Expr| cast(expr.clone(), DataType::Float64);
        let kept = match (kernel, self.arguments.as_slice()) {
            (Function::Pair(_), [y, x]) => {
                let both = y.clone().is_not_null().and(x.clone().is_not_null());
                let both = match &self.filter {
                    Some(filter) => filter.clone().and(both),
                    None => both,
                };
                return [y, x]
                    .into_iter()
                    .map(|expr| {
                        let expr = when(both.clone(), double(expr)).end();
                        Ok(Kept {
                            expr: expr.map_err(|e| FeatureError::sql(&e))?,
                            data_type: DataType::Float64,
                        })
                    })
                    .collect();
            }
            (Function::Sum | Function::Avg | Function::Variance { .. }, [Expr::Cast(cast)])
                if *cast.field.data_type() == DataType::Float64 =>
            {
                let inner = type_of(&plan.compile(&cast.expr, schema)?, schema)?;
                match inner.is_integer() || matches!(inner, DataType::Decimal128(..)) {
                    true => cast.expr.as_ref(),
                    false => &self.arguments[0],
                }
            }
            (_, arguments) => &arguments[0],
        };
        let Kept { expr, data_type } = kept_as(kept, plan, schema)?;
        let expr = match &self.filter {
            Some(filter) => when(filter.clone(), expr)
                .end()
                .map_err(|e| FeatureError::sql(&e))?,
            None => expr,
        };
        Ok(vec![Kept { expr, data_type }])
    }

    /// A column that is not NULL on the rows that the filter leaves in.
    pub(crate) fn only(&self) -> Result<Option<Expr>, FeatureError> {
        (self.filter.as_ref())
            .map(|filter| when(filter.clone(), lit(1i64)).end())
            .transpose()
            .map_err(|e| FeatureError::sql(&e))
    }
}

/// An expression over the relation in a form that rings keep: texts of any kind as plain ones.
pub(crate) fn kept_as(expr: &Expr, plan: &Plan, schema: &SchemaRef) -> Result<Kept, FeatureError> {
    let data_type = type_of(&plan.compile(expr, schema)?, schema)?;
    let text = match &data_type {
        DataType::Utf8View | DataType::LargeUtf8 => true,
        DataType::Dictionary(_, values) => **values == DataType::Utf8,
        _ => false,
    };
    Ok(match text {
        true => Kept {
            expr: cast(expr.clone(), DataType::Utf8),
            data_type: DataType::Utf8,
        },
        false => Kept {
            expr: expr.clone(),
            data_type,
        },
    })
}
