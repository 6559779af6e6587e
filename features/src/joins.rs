//! Joins to reference tables: which ones give exactly one row for each event, and what they become.

use std::collections::HashSet;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, JoinType, TableReference};
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{Expr, Join, Operator, binary_expr};

use crate::FeatureError;
use crate::plan::{Plan, check_functions, substitute};

/// A join to a reference table.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LookupCall {
    /// Number of the table in the catalog.
    pub table: usize,
    /// What the event is looked up by.
    pub key: Expr,
    /// The table's key, in the type that it is compared in.
    pub table_key: Expr,
    /// See [`Plan::level`].
    pub level: usize,
}

/// Name of the column with what a lookup finds.
pub(crate) fn lookup_column(lookup: usize, column: &str) -> String {
    format!("lookup {lookup} {column}")
}

/// The lookup whose finds a column holds.
pub(crate) fn lookup_of(column: &str) -> Option<usize> {
    let (number, _) = column.strip_prefix("lookup ")?.split_once(' ')?;
    number.parse().ok()
}

impl Plan {
    /// A join to a reference table on its key, which gives one row for each event; any other is refused.
    pub(crate) fn join(
        &mut self,
        join: &Join,
        left: Vec<Expr>,
        right: Vec<Expr>,
    ) -> Result<Vec<Expr>, FeatureError> {
        let tables: HashSet<Option<&str>> = right.iter().map(table_of).collect();
        let table = match tables.into_iter().collect::<Vec<_>>()[..] {
            [Some(name)] => self.catalog.table(name),
            _ => None,
        };
        let Some(table) = table.filter(|_| left.iter().all(|expr| table_of(expr).is_none())) else {
            return Err(FeatureError::refused(
                "JOIN",
                "it could give several rows for an event, or none",
                "join reference tables, declared under `tables:`, to events: \
                 FROM events LEFT JOIN table t ON t.key = events.column; and look back by windows",
            ));
        };
        let (name, key) = {
            let table = &self.catalog.tables[table];
            (table.name().to_string(), table.key().to_string())
        };
        let cure = format!("write LEFT JOIN {name} ON {name}.{key} = events.column");
        let refuse = |reason: String| Err(FeatureError::refused("JOIN", reason, &cure));
        if join.join_type != JoinType::Left {
            return refuse(format!("an event without a row in `{name}` would be lost"));
        }
        let inputs: Vec<Expr> = left.iter().chain(&right).cloned().collect();
        let pairs = (join.on.iter())
            .map(|(one, other)| binary_expr(one.clone(), Operator::Eq, other.clone()));
        let conditions = pairs
            .chain(
                join.filter
                    .clone()
                    .into_iter()
                    .flat_map(split_conjunction_owned),
            )
            .map(|condition| substitute(condition, &join.schema, &inputs))
            .collect::<Result<Vec<_>, _>>()?;
        let on_key = |condition: &Expr| -> Option<(Expr, Expr)> {
            let Expr::BinaryExpr(equal) = condition else {
                return None;
            };
            let is_key = |expr: &Expr| {
                matches!(without_casts(expr), Expr::Column(column)
                    if column.relation.is_some() && column.name == key)
            };
            let (one, other) = (equal.left.as_ref(), equal.right.as_ref());
            let of_event = |expr: &Expr| expr.column_refs().iter().all(|c| c.relation.is_none());
            match equal.op {
                Operator::Eq if is_key(one) && of_event(other) => {
                    Some((other.clone(), one.clone()))
                }
                Operator::Eq if is_key(other) && of_event(one) => {
                    Some((one.clone(), other.clone()))
                }
                _ => None,
            }
        };
        let Some((by, table_key)) = conditions.iter().find_map(on_key) else {
            return refuse(format!(
                "it could give several rows of `{name}` for an event: only `{key}` has one row for each value"
            ));
        };
        if conditions.len() > 1 {
            return Err(FeatureError::refused(
                "JOIN",
                format!("a reference table is joined on its key alone, `{name}` on `{key}`"),
                "put the other conditions into the feature: CASE WHEN condition THEN value END",
            ));
        }
        check_functions(&by)?;
        let call = LookupCall {
            table,
            level: self.level([&by]),
            key: by,
            table_key: substitute_tables(table_key, |column| column.to_string())?,
        };
        let known = self.lookups.iter().position(|other| *other == call);
        let lookup = known.unwrap_or_else(|| {
            self.lookups.push(call);
            self.lookups.len() - 1
        });
        let found = right
            .into_iter()
            .map(|column| substitute_tables(column, |column| lookup_column(lookup, column)));
        left.into_iter().map(Ok).chain(found).collect()
    }
}

/// The reference table whose column an expression is.
fn table_of(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Column(column) => column.relation.as_ref().map(TableReference::table),
        _ => None,
    }
}

/// Refuses rows that come from a reference table.
pub(crate) fn only_of_events(expr: &Expr) -> Result<(), FeatureError> {
    match expr
        .column_refs()
        .into_iter()
        .find_map(|c| c.relation.as_ref())
    {
        None => Ok(()),
        Some(table) => Err(FeatureError::refused(
            format!("FROM {table}"),
            "a feature query gives exactly one row for each event",
            format!("select FROM events LEFT JOIN {table} ON ..."),
        )),
    }
}

pub(crate) fn without_casts(expr: &Expr) -> &Expr {
    match expr {
        Expr::Cast(cast) => without_casts(&cast.expr),
        other => other,
    }
}

/// Names the columns of reference tables anew.
fn substitute_tables(expr: Expr, name: impl Fn(&str) -> String) -> Result<Expr, FeatureError> {
    let replaced = expr.transform_up(|expr| match &expr {
        Expr::Column(column) if column.relation.is_some() => {
            let column = Column::new_unqualified(name(&column.name));
            Ok(Transformed::yes(Expr::Column(column)))
        }
        _ => Ok(Transformed::no(expr)),
    });
    replaced
        .map(|replaced| replaced.data)
        .map_err(|e| FeatureError::sql(&e))
}
