//! From SQL text to one expression for each feature, over the event's columns, what reference tables say
//! of it, and window results.
//!
//! Projections, subqueries and CTEs are folded into the expressions; what would change the number of
//! rows has no meaning here and is refused. A window whose arguments hold results of other windows, or a
//! table that is joined on one, stands a level above them (`layers.rs`).

use std::collections::HashSet;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, TableReference};
use datafusion::datasource::empty::EmptyTable;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::sqlparser::ast;
use sanderling_schemas::Relation;
use sanderling_schemas::relation::{EVENT_TIME, STREAM};

use crate::FeatureError;
use crate::catalog::{Catalog, Function, Table};
use crate::joins::{LookupCall, lookup_of, only_of_events, without_casts};
use crate::places::{At, Place, Written};
use crate::windows::{WindowCall, lower};

/// The planned query.
pub(crate) struct Plan {
    pub outputs: Vec<Output>,
    pub windows: Vec<WindowCall>,
    pub lookups: Vec<LookupCall>,
    /// For each window, its text and place, where known.
    written: Vec<Option<Written>>,
    /// Where the query starts.
    start: Option<(u64, u64)>,
    /// The tables and functions that the query may name.
    pub catalog: Catalog,
    session: SessionState,
}

/// One feature.
pub(crate) struct Output {
    pub name: String,
    /// Over the relation's columns and [`window_column`]s.
    pub expr: Expr,
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
    pub(crate) fn new(
        sql: &str,
        relation: &SchemaRef,
        catalog: &Catalog,
    ) -> Result<Self, FeatureError> {
        let is_taken = |name: &str| window_of(name).is_some() || lookup_of(name).is_some();
        if let Some(field) = relation
            .fields()
            .iter()
            .find(|field| is_taken(field.name()))
        {
            return Err(FeatureError::refused(
                field.name(),
                "results of windows and of joins stand in columns of such names",
                format!(
                    "give the column another name: columns: {{name: {{from: \"{}\"}}}}",
                    field.name()
                ),
            ));
        }
        let mut statements = DFParser::parse_sql(sql).map_err(|e| FeatureError::sql(&e))?;
        let query = match (statements.pop_front(), statements.is_empty()) {
            (Some(Statement::Statement(statement)), true) => match *statement {
                ast::Statement::Query(query) => query,
                other => return Err(not_a_query(&other.to_string())),
            },
            _ => return Err(not_a_query(sql.trim())),
        };
        let session = session(relation, catalog).map_err(|e| FeatureError::sql(&e))?;
        let statement = ast::Statement::Query(query.clone());
        let logical = ready(session.statement_to_plan(Statement::Statement(Box::new(statement))))
            .and_then(|plan| {
                session
                    .analyzer()
                    .execute_and_check(plan, session.config_options(), |_, _| {})
            })
            .map_err(|e| FeatureError::sql(&e).placed_in(sql))?;

        let place = Place::of(&query);
        let mut plan = Plan {
            outputs: Vec::new(),
            windows: Vec::new(),
            lookups: Vec::new(),
            written: Vec::new(),
            start: place.start(),
            catalog: catalog.clone(),
            session,
        };
        let at = At::new(&place);
        let exprs = plan.resolve(&logical, at).map_err(|e| e.at(plan.start))?;
        let mut names = HashSet::new();
        let fields = logical.schema().fields();
        for (number, (expr, field)) in exprs.into_iter().zip(fields).enumerate() {
            let written = at.item(number, fields.len());
            let place = written.map(|written| written.place).or(plan.start);
            if !names.insert(field.name().clone()) {
                return Err(FeatureError::refused(
                    field.name(),
                    "two features have this name",
                    "name one of them otherwise with AS",
                )
                .at(place));
            }
            only_of_events(&expr)
                .and_then(|()| check_functions(&expr))
                .map_err(|e| e.at(place))?;
            plan.outputs.push(Output {
                name: field.name().clone(),
                expr,
            });
        }
        Ok(plan)
    }

    /// An error about a window, in the words and at the place of its call.
    pub(crate) fn about(&self, window: usize, error: FeatureError) -> FeatureError {
        error.of(self.written[window].clone()).at(self.start)
    }

    /// How many windows stand under an expression, one over the other: it can be evaluated once all
    /// windows of lower levels are known.
    pub(crate) fn level<'a>(&self, exprs: impl IntoIterator<Item = &'a Expr>) -> usize {
        let columns = exprs.into_iter().flat_map(Expr::column_refs);
        let of = |name: &str| match (window_of(name), lookup_of(name)) {
            (Some(window), _) => self.windows[window].level + 1,
            (_, Some(lookup)) => self.lookups[lookup].level,
            _ => 0,
        };
        columns.map(|column| of(&column.name)).max().unwrap_or(0)
    }

    /// The expression of each of a node's columns.
    fn resolve(&mut self, node: &LogicalPlan, at: At<'_>) -> Result<Vec<Expr>, FeatureError> {
        match node {
            LogicalPlan::TableScan(scan) => {
                let name = scan.table_name.table();
                // What is left of this after joins is refused: rows come from `events`.
                let table = (self.catalog.table(name)).map(|_| TableReference::bare(name));
                let fields = scan.projected_schema.fields().iter();
                Ok(fields
                    .map(|field| Expr::Column(Column::new(table.clone(), field.name())))
                    .collect())
            }
            LogicalPlan::SubqueryAlias(alias) => {
                let place = at.input();
                self.resolve(&alias.input, place.as_ref().map_or(At::default(), At::new))
            }
            LogicalPlan::Projection(list) => {
                let Some(below) = at.below(list) else {
                    let place = at.input();
                    return self.resolve(node, place.as_ref().map_or(At::default(), At::new));
                };
                let inputs = self.resolve(&list.input, below)?;
                (list.expr.iter().enumerate())
                    .map(|(number, expr)| {
                        let made = substitute(expr.clone(), list.input.schema(), &inputs);
                        made.map_err(|e| {
                            let written = at.item(number, list.expr.len());
                            e.at(written.map(|written| written.place))
                        })
                    })
                    .collect()
            }
            LogicalPlan::Window(window) => {
                let mut columns = self.resolve(&window.input, at)?;
                let inputs = columns.clone();
                let from = inputs.len();
                for (number, expr) in window.window_expr.iter().enumerate() {
                    let field = window.schema.field(from + number);
                    let expr = substitute(expr.clone(), window.input.schema(), &inputs)?;
                    only_of_events(&expr)?;
                    let written = || at.call(&function_of(&expr), field.name());
                    let lowered =
                        lower(&expr, field.data_type().clone()).map_err(|e| e.of(written()))?;
                    let mut results = Vec::new();
                    for mut call in lowered.calls {
                        call.level = self.level(call.exprs());
                        let known = self.windows.iter().position(|other| *other == call);
                        let known = known.unwrap_or_else(|| {
                            self.windows.push(call);
                            self.written.push(written());
                            self.windows.len() - 1
                        });
                        let column = Column::new_unqualified(window_column(known));
                        results.push(Expr::Column(column));
                    }
                    columns.push(lowered.shape.over(&results)?);
                }
                Ok(columns)
            }
            LogicalPlan::Join(join) => {
                let (left, right) = at.sides();
                let (left, right) = (
                    self.resolve(&join.left, left)?,
                    self.resolve(&join.right, right)?,
                );
                self.join(join, left, right)
                    .map_err(|e| e.at(at.clause(node)))
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
                .at(at.clause(other)))
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

    /// Columns that identify what an event is about, by index: entities' keys, what windows are
    /// partitioned by and tables are joined on. A label takes them over from its event.
    pub(crate) fn key_columns(&self, relation: &Relation) -> Vec<usize> {
        let mut names: HashSet<&str> = relation.entities.iter().map(|e| e.key.as_str()).collect();
        let partition_by = self.windows.iter().flat_map(|window| &window.partition_by);
        let looked_up_by = self.lookups.iter().map(|lookup| &lookup.key);
        names.extend(
            partition_by
                .chain(looked_up_by)
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

    /// All columns that anything reads, by name.
    pub(crate) fn read(&self) -> HashSet<&str> {
        let windows = self.windows.iter().flat_map(WindowCall::exprs);
        let lookups = self.lookups.iter().map(|lookup| &lookup.key);
        let outputs = self.outputs.iter().map(|output| &output.expr);
        (windows.chain(lookups).chain(outputs))
            .flat_map(Expr::column_refs)
            .map(|column| column.name.as_str())
            .collect()
    }

    /// Windows that other windows or lookups read, by number.
    pub(crate) fn windows_below(&self) -> HashSet<usize> {
        let windows = self.windows.iter().flat_map(WindowCall::exprs);
        let lookups = self.lookups.iter().map(|lookup| &lookup.key);
        (windows.chain(lookups))
            .flat_map(Expr::column_refs)
            .filter_map(|column| window_of(&column.name))
            .collect()
    }

    /// The windows that an expression reads, those that they read in turn behind them.
    pub(crate) fn windows_of(&self, expr: &Expr) -> Vec<&WindowCall> {
        let mut found: Vec<&WindowCall> = Vec::new();
        let mut columns: Vec<&Column> = in_order(expr);
        while !columns.is_empty() {
            let mut below = Vec::new();
            for column in columns {
                if let Some(window) = window_of(&column.name) {
                    let window = &self.windows[window];
                    if !found.contains(&window) {
                        found.push(window);
                        below.extend(window.exprs().flat_map(in_order));
                    }
                } else if let Some(lookup) = lookup_of(&column.name) {
                    below.extend(in_order(&self.lookups[lookup].key));
                }
            }
            columns = below;
        }
        found
    }

    /// The columns of a row that outputs read, and then all window results.
    pub(crate) fn output_schema(&self, row: &SchemaRef) -> (Vec<usize>, Schema) {
        let read: HashSet<&Column> = self
            .outputs
            .iter()
            .flat_map(|output| output.expr.column_refs())
            .collect();
        let base: Vec<usize> = (0..row.fields().len())
            .filter(|at| {
                let name = row.field(*at).name();
                window_of(name).is_none() && read.iter().any(|column| column.name == *name)
            })
            .collect();
        let mut fields: Vec<Field> = base.iter().map(|at| row.field(*at).clone()).collect();
        fields.extend(
            (self.windows.iter().enumerate())
                .map(|(n, window)| Field::new(window_column(n), window.data_type.clone(), true)),
        );
        (base, Schema::new(fields))
    }

    /// Columns of the relation that tables are joined on, where it is a column and no expression.
    pub(crate) fn joined_on(&self) -> Vec<(String, Arc<Table>)> {
        let tables = &self.catalog.tables;
        let joined = self
            .lookups
            .iter()
            .filter_map(|lookup| match without_casts(&lookup.key) {
                Expr::Column(column) if lookup.level == 0 && lookup_of(&column.name).is_none() => {
                    Some((column.name.clone(), tables[lookup.table].clone()))
                }
                _ => None,
            });
        joined.collect()
    }
}

/// Type of an expression over rows of a schema.
pub(crate) fn type_of(
    expr: &Arc<dyn PhysicalExpr>,
    schema: &Schema,
) -> Result<DataType, FeatureError> {
    expr.data_type(schema).map_err(|e| FeatureError::sql(&e))
}

/// A planner that knows the relation, the tables and the functions.
fn session(relation: &SchemaRef, catalog: &Catalog) -> datafusion::error::Result<SessionState> {
    let mut config = SessionConfig::new();
    config.options_mut().sql_parser.collect_spans = true;
    let context = SessionContext::new_with_config(config);
    for function in &catalog.functions {
        match function {
            Function::Scalar(function) => context.register_udf(function.as_ref().clone()),
            Function::Aggregate(function) => context.register_udaf(function.as_ref().clone()),
        }
    }
    for table in &catalog.tables {
        let columns = Arc::new(EmptyTable::new(table.rows().schema()));
        context.register_table(TableReference::bare(table.name()), columns)?;
    }
    context.register_table("events", Arc::new(EmptyTable::new(relation.clone())))?;
    Ok(context.state())
}

/// The name of the function that a window expression calls.
fn function_of(expr: &Expr) -> String {
    match expr.clone().unalias() {
        Expr::WindowFunction(call) => call.fun.name().to_string(),
        other => other.schema_name().to_string(),
    }
}

/// An expression's columns in the order in which they are written.
fn in_order(expr: &Expr) -> Vec<&Column> {
    let mut columns = Vec::new();
    let walked = expr.apply(|expr| {
        if let Expr::Column(column) = expr {
            columns.push(column);
        }
        Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue)
    });
    walked.expect("the walk itself never fails");
    columns
}

fn not_a_query(text: &str) -> FeatureError {
    FeatureError::refused(
        text,
        "features are one SELECT",
        "write SELECT ... FROM events",
    )
    .at(Some((1, 1)))
}

/// Replaces the columns of `schema` in an expression by the expressions that make them.
pub(crate) fn substitute(
    expr: Expr,
    schema: &DFSchema,
    inputs: &[Expr],
) -> Result<Expr, FeatureError> {
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
    let mut refused = Ok(());
    let walked = expr.apply(|expr| {
        use datafusion::common::tree_node::TreeNodeRecursion::{Continue, Stop};
        refused = match expr {
            Expr::ScalarFunction(call) => {
                check_volatility(&expr.to_string(), call.func.signature().volatility)
            }
            Expr::ScalarSubquery(_)
            | Expr::InSubquery(_)
            | Expr::Exists(_)
            | Expr::SetComparison(_) => Err(FeatureError::refused(
                expr,
                "a subquery reads the whole stream",
                "write a window: aggregate OVER (PARTITION BY ... RANGE ...); or LEFT JOIN a reference table",
            )),
            _ => Ok(()),
        };
        Ok(if refused.is_err() { Stop } else { Continue })
    });
    walked.map_err(|e| FeatureError::sql(&e))?;
    refused
}

/// Refuses the call `text` of a function that is not always the same.
pub(crate) fn check_volatility(text: &str, volatility: Volatility) -> Result<(), FeatureError> {
    match volatility {
        Volatility::Immutable => Ok(()),
        Volatility::Stable | Volatility::Volatile => Err(FeatureError::refused(
            text,
            "it depends on the clock, the session or chance, so a replay would differ",
            "use `event_time` and the columns of the event; a function of your own must be declared immutable",
        )),
    }
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
