//! Expressions over a batch's columns, compiled to one program.
//!
//! DataFusion's expressions make an array for each of their nodes. A live batch has a dozen rows, so that
//! nearly all of a feature's cost would be arrays, and an expression that stands in several features would be
//! computed in each. Here each different expression is one step, which computes its values of some rows
//! from those of the steps before it, and only what is asked for becomes an array. What has no step of its own is evaluated
//! by DataFusion and read like a column. Both give the same bits.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::Schema;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::expressions::{
    BinaryExpr, CaseExpr, CastExpr, Column, InListExpr, IsNotNullExpr, IsNullExpr, Literal, NotExpr,
};
use datafusion::physical_expr::{PhysicalExpr, ScalarFunctionExpr};
use datafusion::scalar::ScalarValue;

use crate::FeatureError;
use crate::columns::{Built, Input, evaluate};
use crate::scalar::{Arithmetic, Comparison, Kind, Part, Value, power_of_ten};

/// Expressions, each a column of the result.
pub(crate) struct Program {
    sources: Vec<Source>,
    /// Each after those that it reads.
    steps: Vec<Step>,
    roots: Vec<Root>,
}

/// What is read from the batch.
struct Source {
    expr: Expr,
    /// Steps read its values, of this kind.
    read: Option<Kind>,
    /// The first expression that reads it, for errors.
    text: String,
}

/// Where the column of an expression comes from.
#[derive(Clone, Copy)]
enum Root {
    Source(usize),
    Step(usize, Kind),
}

/// How a value is computed; operands are numbers of steps.
enum Step {
    /// A value of a source, by its number.
    Read(usize),
    Constant(Value),
    /// Integers, and whether they are of 32 bits.
    Integers(Arithmetic, usize, usize, bool),
    Floats(Arithmetic, usize, usize),
    Decimals(Arithmetic, usize, usize, (i128, i128)),
    Compare(Comparison, usize, usize),
    And(usize, usize),
    Or(usize, usize),
    Not(usize),
    IsNull(usize),
    IsNotNull(usize),
    /// An integer is one of these, or is none of them.
    OneOf(usize, Vec<i64>, bool),
    /// Conditions with their values, and what is left.
    Case(Vec<(usize, usize)>, Option<usize>),
    NullIf(usize, usize),
    Cast(usize, Kind, Kind),
    Ln(usize),
    Part(Part, usize),
}

type Expr = Arc<dyn PhysicalExpr>;

/// Rows that one step is computed for before the next: their values stay near the core.
const CHUNK_ROWS: usize = 64;

impl Program {
    /// Compiles expressions over columns of `schema`, each with the text that errors name.
    pub(crate) fn new(exprs: impl IntoIterator<Item = (Expr, String)>, schema: &Schema) -> Self {
        let mut compiler = Compiler {
            schema,
            steps: Vec::new(),
            sources: Vec::new(),
            known: HashMap::new(),
            text: String::new(),
        };
        let mut roots = Vec::new();
        for (expr, text) in exprs {
            compiler.text = text;
            let step = match expr.downcast_ref::<Column>() {
                Some(_) => None,
                None => compiler.step(&expr),
            };
            roots.push(match step {
                Some((step, kind)) => Root::Step(step, kind),
                None => Root::Source(compiler.source(&expr)),
            });
        }
        Program {
            sources: compiler.sources,
            steps: compiler.steps,
            roots,
        }
    }

    /// One column for each expression, with a value for each row. Where a row's own values make an expression
    /// fail (a division by zero, an overflow), that row gets NULL, whatever batch it stands in.
    pub(crate) fn run(&self, rows: &RecordBatch) -> Result<Vec<ArrayRef>, FeatureError> {
        let evaluated = (self.sources.iter())
            .map(|source| evaluate(&source.expr, rows, &source.text))
            .collect::<Result<Vec<_>, _>>()?;
        let inputs: Vec<Option<Input<'_>>> = (self.sources.iter().zip(&evaluated))
            .map(|(source, evaluated)| Some(Input::of(evaluated, source.read?)))
            .collect();
        let mut columns: Vec<(usize, Built)> = (self.roots.iter())
            .filter_map(|root| match root {
                Root::Step(step, kind) => Some((*step, Built::new(*kind, rows.num_rows()))),
                Root::Source(_) => None,
            })
            .collect();
        if !columns.is_empty() {
            let chunk = rows.num_rows().min(CHUNK_ROWS);
            let mut values = vec![Value::Null; self.steps.len() * chunk];
            for from in (0..rows.num_rows()).step_by(CHUNK_ROWS) {
                let count = (rows.num_rows() - from).min(CHUNK_ROWS);
                for (at, step) in self.steps.iter().enumerate() {
                    let (before, values) = values.split_at_mut(at * chunk);
                    let before = Before {
                        values: before,
                        chunk,
                    };
                    step.fill(&mut values[..count], from, &inputs, &before);
                }
                for (step, column) in &mut columns {
                    column.extend(&values[*step * chunk..][..count]);
                }
            }
        }
        let mut columns = columns.into_iter();
        (self.roots.iter())
            .map(|root| match root {
                Root::Source(source) => Ok(evaluated[*source].array.clone()),
                Root::Step(..) => {
                    let (_, column) = columns.next().expect("one was begun for each");
                    column.finish()
                }
            })
            .collect()
    }
}

/// The values of steps that were computed before, `chunk` of each.
struct Before<'a> {
    values: &'a [Value],
    chunk: usize,
}

impl Before<'_> {
    fn of(&self, step: usize) -> &[Value] {
        &self.values[step * self.chunk..][..self.chunk]
    }
}

impl Step {
    /// Computes the values of rows from number `from` on.
    fn fill(
        &self,
        values: &mut [Value],
        from: usize,
        inputs: &[Option<Input<'_>>],
        before: &Before<'_>,
    ) {
        let one = |values: &mut [Value], a: &usize, f: &dyn Fn(Value) -> Value| {
            for (value, a) in values.iter_mut().zip(before.of(*a)) {
                *value = f(*a);
            }
        };
        macro_rules! two {
            ($a:expr, $b:expr, $f:expr) => {
                for ((value, a), b) in (values.iter_mut().zip(before.of(*$a))).zip(before.of(*$b)) {
                    *value = $f(*a, *b);
                }
            };
        }
        match self {
            Step::Read(source) => {
                if let Some(input) = &inputs[*source] {
                    input.read(from, values);
                }
            }
            Step::Constant(constant) => values.fill(*constant),
            Step::Integers(by, a, b, short) => {
                two!(a, b, |a: Value, b| a.integers(b, *by, *short));
            }
            Step::Floats(by, a, b) => two!(a, b, |a: Value, b| a.floats(b, *by)),
            Step::Decimals(by, a, b, scaled) => {
                two!(a, b, |a: Value, b| a.decimals(b, *by, *scaled));
            }
            Step::Compare(by, a, b) => two!(a, b, |a: Value, b| a.compare(b, *by)),
            Step::And(a, b) => two!(a, b, |a: Value, b| a.and(b)),
            Step::Or(a, b) => two!(a, b, |a: Value, b| a.or(b)),
            Step::NullIf(a, b) => two!(a, b, |a: Value, b| a.null_if(b)),
            Step::Not(a) => one(values, a, &Value::not),
            Step::IsNull(a) => one(values, a, &Value::is_null),
            Step::IsNotNull(a) => one(values, a, &|a| a.is_null().not()),
            Step::OneOf(a, known, none) => one(values, a, &|a| a.one_of(known, *none)),
            Step::Cast(a, from, to) => one(values, a, &|a| a.cast(*from, *to)),
            Step::Ln(a) => one(values, a, &Value::ln),
            Step::Part(part, a) => one(values, a, &|a| a.part(*part)),
            Step::Case(branches, otherwise) => {
                // Of branches that hold, the first is taken: so the last is tried first.
                match otherwise {
                    Some(otherwise) => one(values, otherwise, &|value| value),
                    None => values.fill(Value::Null),
                }
                for (when, then) in branches.iter().rev() {
                    let branch = before.of(*when).iter().zip(before.of(*then));
                    for (value, (when, then)) in values.iter_mut().zip(branch) {
                        match when {
                            Value::Failed => *value = Value::Failed,
                            when if when.is_true() => *value = *then,
                            _ => {}
                        }
                    }
                }
            }
        }
    }
}

/// Expressions on their way to steps.
struct Compiler<'a> {
    schema: &'a Schema,
    steps: Vec<Step>,
    sources: Vec<Source>,
    known: HashMap<Expr, (usize, Kind)>,
    /// The expression that is compiled, as errors name it.
    text: String,
}

impl Compiler<'_> {
    /// The step of an expression, and what values it has; `None` for a type that steps do not know.
    fn step(&mut self, expr: &Expr) -> Option<(usize, Kind)> {
        let kind = Kind::of(&expr.data_type(self.schema).ok()?)?;
        if let Some(known) = self.known.get(expr) {
            return Some(*known);
        }
        let (steps, sources) = (self.steps.len(), self.sources.len());
        let step = self.own(expr, kind).unwrap_or_else(|| {
            // Its operands are of no use.
            self.steps.truncate(steps);
            self.sources.truncate(sources);
            self.known.retain(|_, (step, _)| *step < steps);
            let source = self.source(expr);
            self.sources[source].read = Some(kind);
            Step::Read(source)
        });
        self.steps.push(step);
        let known = (self.steps.len() - 1, kind);
        self.known.insert(expr.clone(), known);
        Some(known)
    }

    fn source(&mut self, expr: &Expr) -> usize {
        let known = self
            .sources
            .iter()
            .position(|source| source.expr.as_ref() == expr.as_ref());
        known.unwrap_or_else(|| {
            self.sources.push(Source {
                expr: expr.clone(),
                read: None,
                text: self.text.clone(),
            });
            self.sources.len() - 1
        })
    }

    /// The step of an expression that DataFusion is not needed for.
    fn own(&mut self, expr: &Expr, kind: Kind) -> Option<Step> {
        if let Some(literal) = expr.downcast_ref::<Literal>() {
            return Some(Step::Constant(constant(literal.value())?));
        }
        if let Some(binary) = expr.downcast_ref::<BinaryExpr>() {
            return self.binary(binary, kind);
        }
        if let Some(not) = expr.downcast_ref::<NotExpr>() {
            return Some(Step::Not(self.operand(not.arg(), Kind::Bool)?));
        }
        if let Some(is_null) = expr.downcast_ref::<IsNullExpr>() {
            return Some(Step::IsNull(self.step(is_null.arg())?.0));
        }
        if let Some(is_not_null) = expr.downcast_ref::<IsNotNullExpr>() {
            return Some(Step::IsNotNull(self.step(is_not_null.arg())?.0));
        }
        if let Some(list) = expr.downcast_ref::<InListExpr>() {
            let (operand, of) = self.step(list.expr())?;
            let known = (list.list().iter())
                .map(|item| {
                    let item = item.downcast_ref::<Literal>()?.value();
                    match (Kind::of(&item.data_type()), constant(item)) {
                        (Some(kind), Some(Value::Int(value))) if kind == of => Some(value),
                        _ => None,
                    }
                })
                .collect::<Option<Vec<_>>>()?;
            return Some(Step::OneOf(operand, known, list.negated()));
        }
        if let Some(cast) = expr.downcast_ref::<CastExpr>() {
            let (operand, from) = self.step(cast.expr())?;
            let known = from.casts_to(kind) && !cast.cast_options().safe;
            return known.then_some(Step::Cast(operand, from, kind));
        }
        if let Some(case) = expr.downcast_ref::<CaseExpr>() {
            if case.expr().is_some() {
                return None;
            }
            let branches = (case.when_then_expr().iter())
                .map(|(when, then)| {
                    let when = self.operand(when, Kind::Bool)?;
                    Some((when, self.operand(then, kind)?))
                })
                .collect::<Option<Vec<_>>>()?;
            let otherwise = match case.else_expr() {
                Some(otherwise) => Some(self.operand(otherwise, kind)?),
                None => None,
            };
            return Some(Step::Case(branches, otherwise));
        }
        let call = expr.downcast_ref::<ScalarFunctionExpr>()?;
        match (call.fun().name(), call.args()) {
            ("ln", [x]) => Some(Step::Ln(self.operand(x, Kind::Float64)?)),
            ("nullif", [value, other]) => {
                let value = self.operand(value, kind)?;
                Some(Step::NullIf(value, self.operand(other, kind)?))
            }
            ("date_part", [part, time]) => {
                let part = part.downcast_ref::<Literal>()?.value();
                let part = match part.try_as_str()??.to_lowercase().as_str() {
                    "epoch" => Part::Epoch,
                    "hour" => Part::Hour,
                    "dow" => Part::Weekday,
                    _ => return None,
                };
                Some(Step::Part(part, self.operand(time, Kind::Time)?))
            }
            _ => None,
        }
    }

    /// The step of an operand, if its values are of this kind.
    fn operand(&mut self, expr: &Expr, kind: Kind) -> Option<usize> {
        let (step, of) = self.step(expr)?;
        (of == kind).then_some(step)
    }

    fn binary(&mut self, binary: &BinaryExpr, kind: Kind) -> Option<Step> {
        let (left, right) = (binary.left(), binary.right());
        if *binary != BinaryExpr::new(left.clone(), *binary.op(), right.clone()) {
            // Another one fails on overflow.
            return None;
        }
        let ((a, of), (b, other)) = (self.step(left)?, self.step(right)?);
        let holds = |less, equal, greater| {
            let by = Comparison {
                less,
                equal,
                greater,
            };
            (of == other).then_some(Step::Compare(by, a, b))
        };
        let by = match binary.op() {
            Operator::And if of == Kind::Bool && other == of => return Some(Step::And(a, b)),
            Operator::Or if of == Kind::Bool && other == of => return Some(Step::Or(a, b)),
            Operator::Eq => return holds(false, true, false),
            Operator::NotEq => return holds(true, false, true),
            Operator::Lt => return holds(true, false, false),
            Operator::LtEq => return holds(true, true, false),
            Operator::Gt => return holds(false, false, true),
            Operator::GtEq => return holds(false, true, true),
            Operator::Plus => Arithmetic::Add,
            Operator::Minus => Arithmetic::Sub,
            Operator::Multiply => Arithmetic::Mul,
            Operator::Divide => Arithmetic::Div,
            Operator::Modulo => Arithmetic::Rem,
            _ => return None,
        };
        match (of, other) {
            (Kind::Int32 | Kind::Int64, _) if of == other && kind == of => {
                Some(Step::Integers(by, a, b, of == Kind::Int32))
            }
            (Kind::Float64, Kind::Float64) => Some(Step::Floats(by, a, b)),
            (Kind::Decimal(_, left), Kind::Decimal(_, right)) => {
                let Kind::Decimal(_, scale) = kind else {
                    return None;
                };
                // The result's scale, and the powers of ten that bring the operands to it, as Arrow has them.
                let (result, up, down) = match by {
                    Arithmetic::Mul => (left.saturating_add(right), 0, 0),
                    Arithmetic::Div => {
                        let result = left.saturating_add(4).min(38);
                        (result, result - left + right, 0)
                    }
                    _ => (
                        left.max(right),
                        left.max(right) - left,
                        left.max(right) - right,
                    ),
                };
                let known = scale == result && left >= 0 && right >= 0 && up <= 38;
                known.then(|| Step::Decimals(by, a, b, (power_of_ten(up), power_of_ten(down))))
            }
            _ => None,
        }
    }
}

fn constant(value: &ScalarValue) -> Option<Value> {
    Some(match value {
        value if value.is_null() => Value::Null,
        ScalarValue::Boolean(Some(value)) => (*value).into(),
        ScalarValue::Int32(Some(value)) => Value::Int((*value).into()),
        ScalarValue::Int64(Some(value)) | ScalarValue::TimestampMicrosecond(Some(value), _) => {
            Value::Int(*value)
        }
        ScalarValue::Float64(Some(value)) => Value::Float(*value),
        ScalarValue::Decimal128(Some(value), ..) => Value::Wide(*value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests;
