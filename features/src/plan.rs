//! From SQL text to one expression for each feature, over the event's columns and window results.
//!
//! Projections, subqueries and CTEs are folded into the expressions; what would change the number of
//! rows has no meaning here and is refused.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema};
use datafusion::datasource::empty::EmptyTable;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::sqlparser::ast::{self, SelectItem, SetExpr, Spanned};
use sanderling_schemas::Relation;
use sanderling_schemas::relation::{EVENT_TIME, STREAM};

use crate::FeatureError;
use crate::windows::{WindowCall, lower};

/// The planned query.
pub(crate) struct Plan {
    pub outputs: Vec<Output>,
    pub windows: Vec<WindowCall>,
    /// For each window, the text and the place of the first item that reads it, where known.
    written: Vec<Option<Written>>,
    session: SessionState,
}

/// One feature.
pub(crate) struct Output {
    pub name: String,
    /// Over the relation's columns and [`window_column`]s.
    pub expr: Expr,
}

/// An item of the SELECT list as it stands in the SQL.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    pub text: String,
    /// Line and column, from 1.
    pub place: (u64, u64),
}

/// Name of the column with the results of a window.
pub(crate) fn window_column(window: usize) -> String {
    format!("window {window}")
}

/// The window whose results a column holds.
pub(crate) fn window_of(column: &str) -> Option<usize> {
    column.strip_prefix("window ")?.parse().ok()
}

impl Plan {
    pub(crate) fn new(sql: &str, relation: &SchemaRef) -> Result<Self, FeatureError> {
        let mut statements = DFParser::parse_sql(sql).map_err(|e| FeatureError::sql(&e))?;
        let query = match (statements.pop_front(), statements.is_empty()) {
            (Some(Statement::Statement(statement)), true) => match *statement {
                ast::Statement::Query(query) => query,
                other => return Err(not_a_query(&other.to_string())),
            },
            _ => return Err(not_a_query(sql.trim())),
        };
        let mut places = Places::of(&query);

        let mut config = SessionConfig::new();
        config.options_mut().sql_parser.collect_spans = true;
        let context = SessionContext::new_with_config(config);
        context
            .register_table("events", Arc::new(EmptyTable::new(relation.clone())))
            .map_err(|e| FeatureError::sql(&e))?;
        let session = context.state();
        let statement = Statement::Statement(Box::new(ast::Statement::Query(query)));
        let logical = ready(session.statement_to_plan(statement))
            .and_then(|plan| {
                session
                    .analyzer()
                    .execute_and_check(plan, session.config_options(), |_, _| {})
            })
            .map_err(|e| FeatureError::sql(&e).placed_in(sql))?;

        places.find_windows(&logical);
        let mut plan = Plan {
            outputs: Vec::new(),
            windows: Vec::new(),
            written: Vec::new(),
            session,
        };
        let exprs = plan.resolve(&logical, &places)?;
        let mut names = HashSet::new();
        for (number, (expr, field)) in exprs.into_iter().zip(logical.schema().fields()).enumerate()
        {
            let place = places.item(number);
            if !names.insert(field.name().clone()) {
                return Err(FeatureError::refused(
                    field.name(),
                    "two features have this name",
                    "name one of them otherwise with AS",
                )
                .at(place));
            }
            check_functions(&expr).map_err(|e| e.at(place))?;
            plan.outputs.push(Output {
                name: field.name().clone(),
                expr,
            });
        }
        Ok(plan)
    }

    /// An error about a window, in the words and at the place of the item that reads it.
    pub(crate) fn about(&self, window: usize, error: FeatureError) -> FeatureError {
        error.of(self.written[window].clone())
    }

    /// The expression of each of a node's columns.
    fn resolve(&mut self, node: &LogicalPlan, places: &Places) -> Result<Vec<Expr>, FeatureError> {
        match node {
            LogicalPlan::TableScan(scan) => Ok(scan
                .projected_schema
                .fields()
                .iter()
                .map(|field| Expr::Column(Column::new_unqualified(field.name())))
                .collect()),
            LogicalPlan::SubqueryAlias(alias) => self.resolve(&alias.input, places),
            LogicalPlan::Projection(projection) => {
                let inputs = self.resolve(&projection.input, places)?;
                (projection.expr.iter().enumerate())
                    .map(|(number, expr)| {
                        substitute(expr.clone(), projection.input.schema(), &inputs)
                            .map_err(|e| e.at(places.item(number)))
                    })
                    .collect()
            }
            LogicalPlan::Window(window) => {
                let mut columns = self.resolve(&window.input, places)?;
                let inputs = columns.clone();
                let from = inputs.len();
                for (number, expr) in window.window_expr.iter().enumerate() {
                    let field = window.schema.field(from + number);
                    let expr = substitute(expr.clone(), window.input.schema(), &inputs)?;
                    let lowered = lower(&expr, field.data_type().clone())
                        .map_err(|e| e.of(places.window(field.name())))?;
                    let mut results = Vec::new();
                    for call in lowered.calls {
                        let known = self.windows.iter().position(|other| *other == call);
                        let known = known.unwrap_or_else(|| {
                            self.windows.push(call);
                            self.written.push(places.window(field.name()));
                            self.windows.len() - 1
                        });
                        let column = Column::new_unqualified(window_column(known));
                        results.push(Expr::Column(column));
                    }
                    columns.push(lowered.shape.over(&results)?);
                }
                Ok(columns)
            }
            other => {
                let (clause, cure) = match other {
                    LogicalPlan::Filter(_) => (
                        "WHERE",
                        "use FILTER (WHERE ...) on the aggregate, or CASE in the feature",
                    ),
                    LogicalPlan::Aggregate(_) => (
                        "GROUP BY or an aggregate without OVER",
                        "write the aggregate with OVER (PARTITION BY ... ORDER BY event_time RANGE ...)",
                    ),
                    LogicalPlan::Join(_) => ("JOIN", "declare the columns in the stream itself"),
                    LogicalPlan::Sort(_) => ("ORDER BY", "rows come in the order of the stream"),
                    LogicalPlan::Limit(_) => ("LIMIT", "every event gets its features"),
                    LogicalPlan::Distinct(_) => ("DISTINCT", "every event gets its features"),
                    LogicalPlan::Union(_) => ("UNION", "all streams are rows of `events`"),
                    LogicalPlan::EmptyRelation(_) | LogicalPlan::Values(_) => {
                        ("a query without FROM events", "select FROM events")
                    }
                    _ => ("this clause", "select expressions and windows FROM events"),
                };
                Err(FeatureError::refused(
                    clause,
                    "a feature query gives exactly one row for each event",
                    cure,
                )
                .at(places.clause(other)))
            }
        }
    }

    /// Compiles an expression over columns of `schema`.
    pub(crate) fn compile(
        &self,
        expr: &Expr,
        schema: &Schema,
    ) -> Result<Arc<dyn PhysicalExpr>, FeatureError> {
        let compile = || {
            let schema = Arc::new(DFSchema::try_from(schema.clone())?);
            let context = SimplifyContext::builder()
                .with_schema(schema.clone())
                .with_config_options(self.session.config_options().clone())
                .build();
            let expr = ExprSimplifier::new(context).simplify(expr.clone())?;
            self.session.create_physical_expr(expr, &schema)
        };
        compile().map_err(|e| FeatureError::sql(&e))
    }

    /// Columns that identify what an event is about, by index: entities' keys and what windows are
    /// partitioned by. A label takes them over from its event.
    pub(crate) fn key_columns(&self, relation: &Relation) -> Vec<usize> {
        let mut names: HashSet<&str> = relation.entities.iter().map(|e| e.key.as_str()).collect();
        let partition_by = self.windows.iter().flat_map(|window| &window.partition_by);
        names.extend(
            partition_by
                .flat_map(Expr::column_refs)
                .map(|column| column.name.as_str()),
        );
        let apart = relation
            .labels
            .iter()
            .flat_map(|l| [l.reference.as_str(), l.value.as_str()]);
        for name in apart.chain([EVENT_TIME, STREAM]) {
            names.remove(name);
        }
        (0..relation.schema.fields().len())
            .filter(|at| names.contains(relation.schema.field(*at).name().as_str()))
            .collect()
    }

    /// The relation's columns that outputs read, and then all window results.
    pub(crate) fn output_schema(&self, relation: &SchemaRef) -> (Vec<usize>, Schema) {
        let read: HashSet<&Column> = self
            .outputs
            .iter()
            .flat_map(|output| output.expr.column_refs())
            .collect();
        let base: Vec<usize> = (0..relation.fields().len())
            .filter(|at| {
                read.iter()
                    .any(|column| column.name == *relation.field(*at).name())
            })
            .collect();
        let mut fields: Vec<Field> = base.iter().map(|at| relation.field(*at).clone()).collect();
        fields.extend(
            (self.windows.iter().enumerate())
                .map(|(n, window)| Field::new(window_column(n), window.data_type.clone(), true)),
        );
        (base, Schema::new(fields))
    }
}

fn not_a_query(text: &str) -> FeatureError {
    FeatureError::refused(
        text,
        "features are one SELECT",
        "write SELECT ... FROM events",
    )
}

/// Replaces the columns of `schema` in an expression by the expressions that make them.
fn substitute(expr: Expr, schema: &DFSchema, inputs: &[Expr]) -> Result<Expr, FeatureError> {
    let replaced = expr.unalias().transform_up(|expr| match &expr {
        Expr::Column(column) => {
            let at = schema.index_of_column(column)?;
            Ok(Transformed::yes(inputs[at].clone()))
        }
        _ => Ok(Transformed::no(expr)),
    });
    replaced
        .map(|replaced| replaced.data)
        .map_err(|e| FeatureError::sql(&e))
}

/// Refuses what would give another value tomorrow, or needs another query.
pub(crate) fn check_functions(expr: &Expr) -> Result<(), FeatureError> {
    let mut refused = None;
    let walked = expr.apply(|expr| {
        use datafusion::common::tree_node::TreeNodeRecursion::{Continue, Stop};
        refused = match expr {
            Expr::ScalarFunction(call)
                if call.func.signature().volatility != Volatility::Immutable =>
            {
                Some(FeatureError::refused(
                    expr,
                    "it depends on the clock, the session or chance, so a replay would differ",
                    "use `event_time` and the columns of the event",
                ))
            }
            Expr::ScalarSubquery(_)
            | Expr::InSubquery(_)
            | Expr::Exists(_)
            | Expr::SetComparison(_) => Some(FeatureError::refused(
                expr,
                "a subquery reads the whole stream",
                "write a window: aggregate OVER (PARTITION BY ... RANGE ...)",
            )),
            _ => None,
        };
        Ok(if refused.is_some() { Stop } else { Continue })
    });
    walked.map_err(|e| FeatureError::sql(&e))?;
    refused.map_or(Ok(()), Err)
}

/// Polls a future that waits for nothing: planning over a table in memory.
fn ready<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
    }
}

/// Where the parts of the query stand in its text.
struct Places {
    /// Start and text of each item of the SELECT list; empty when it has a wildcard.
    items: Vec<((u64, u64), String)>,
    /// First item that reads a window's column, by the column's name.
    windows: HashMap<String, usize>,
    filter: Option<(u64, u64)>,
}

impl Places {
    fn of(query: &ast::Query) -> Self {
        let start = |span: datafusion::sql::sqlparser::tokenizer::Span| {
            (span.start.line, span.start.column)
        };
        let SetExpr::Select(select) = query.body.as_ref() else {
            return Places {
                items: Vec::new(),
                windows: HashMap::new(),
                filter: None,
            };
        };
        let plain = select.projection.iter().all(|item| {
            matches!(
                item,
                SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. }
            )
        });
        let items = match plain {
            true => select
                .projection
                .iter()
                .map(|item| (start(item.span()), item.to_string()))
                .collect(),
            false => Vec::new(),
        };
        Places {
            items,
            windows: HashMap::new(),
            filter: select.selection.as_ref().map(|filter| start(filter.span())),
        }
    }

    fn item(&self, number: usize) -> Option<(u64, u64)> {
        self.items
            .get(number)
            .map(|(place, _)| *place)
            .filter(|(line, _)| *line > 0)
    }

    /// Notes which item reads each window's column.
    fn find_windows(&mut self, plan: &LogicalPlan) {
        let LogicalPlan::Projection(projection) = plan else {
            return;
        };
        for (number, expr) in projection.expr.iter().enumerate() {
            for column in expr.column_refs() {
                self.windows.entry(column.name.clone()).or_insert(number);
            }
        }
    }

    /// The first item that has a window function's call in it.
    fn window(&self, name: &str) -> Option<Written> {
        let (place, text) = self
            .windows
            .get(name)
            .and_then(|&number| self.items.get(number))?;
        (place.0 > 0).then(|| Written {
            text: text.clone(),
            place: *place,
        })
    }

    fn clause(&self, node: &LogicalPlan) -> Option<(u64, u64)> {
        match node {
            LogicalPlan::Filter(_) => self.filter.filter(|(line, _)| *line > 0),
            _ => None,
        }
    }
}
