//! Where the parts of a query stand in its text, looked up when something is refused.

use std::ops::ControlFlow;

use datafusion::logical_expr::{Expr, LogicalPlan, Projection};
use datafusion::sql::sqlparser::ast::{
    self, SelectItem, SetExpr, Spanned, TableFactor, visit_expressions,
};
use datafusion::sql::sqlparser::tokenizer::Span;

/// A part of the SQL as it is written.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    pub text: String,
    /// Line and column, from 1.
    pub place: (u64, u64),
}

/// A query in the text, and the queries around it, whose CTEs it may name.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    query: &'a ast::Query,
    outer: Option<&'a Place<'a>>,
}

/// Where the planner's walk is.
#[derive(Clone, Copy, Default)]
pub(crate) struct At<'a> {
    place: Option<&'a Place<'a>>,
    /// The SELECT list over the node.
    list: Option<&'a Projection>,
    /// Relations of FROM up to which the node reaches; all of them at first.
    relations: Option<usize>,
}

impl<'a> Place<'a> {
    pub(crate) fn of(query: &'a ast::Query) -> Self {
        Place { query, outer: None }
    }

    fn select(&self) -> Option<&'a ast::Select> {
        let mut body = self.query.body.as_ref();
        while let SetExpr::Query(query) = body {
            body = query.body.as_ref();
        }
        match body {
            SetExpr::Select(select) => Some(select),
            _ => None,
        }
    }

    /// The start of the SELECT.
    pub(crate) fn start(&self) -> Option<(u64, u64)> {
        let select = self.select().map(|select| select.select_token.0.span);
        start(select.unwrap_or_else(|| self.query.span()))
    }

    /// The item of the SELECT list that makes a column, unless a wildcard does.
    fn item(&self, number: usize, of: usize) -> Option<&'a SelectItem> {
        let items = &self.select()?.projection;
        let plain = |item: &SelectItem| {
            matches!(
                item,
                SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. }
            )
        };
        let before = items.iter().take_while(|item| plain(item)).count();
        let after = items.iter().rev().take_while(|item| plain(item)).count();
        match of - number <= after {
            true => Some(&items[items.len() - (of - number)]),
            false => items.get(number).filter(|_| number < before),
        }
    }

    /// The relations of FROM, and what joins them.
    fn relations(&self) -> Vec<(&'a TableFactor, Option<&'a ast::Join>)> {
        let from = self.select().map_or(&[][..], |select| &select.from);
        from.iter()
            .flat_map(|table| {
                let joined = table.joins.iter().map(|join| (&join.relation, Some(join)));
                std::iter::once((&table.relation, None)).chain(joined)
            })
            .collect()
    }

    /// The query that a relation of FROM stands for.
    fn input(&'a self, relation: usize) -> Option<Place<'a>> {
        let relations = self.relations();
        match relations.get(relation)?.0 {
            TableFactor::Derived { subquery, .. } => Some(Place {
                query: subquery,
                outer: Some(self),
            }),
            TableFactor::Table { name, .. } => self.cte(&name.to_string().to_lowercase()),
            _ => None,
        }
    }

    fn cte(&'a self, name: &str) -> Option<Place<'a>> {
        let tables = self.query.with.iter().flat_map(|with| &with.cte_tables);
        let found = tables
            .into_iter()
            .find(|cte| cte.alias.name.value.to_lowercase() == name);
        match (found, self.outer) {
            (Some(cte), _) => Some(Place {
                query: &cte.query,
                outer: Some(self),
            }),
            (None, Some(outer)) => outer.cte(name),
            (None, None) => None,
        }
    }
}

impl<'a> At<'a> {
    pub(crate) fn new(place: &'a Place<'a>) -> Self {
        At {
            place: Some(place),
            ..At::default()
        }
    }

    /// Below a SELECT list; `None` where the list is that of a subquery in FROM.
    pub(crate) fn below(self, list: &'a Projection) -> Option<Self> {
        self.list.is_none().then_some(At {
            list: Some(list),
            ..self
        })
    }

    /// The query that the node's only relation stands for.
    pub(crate) fn input(&self) -> Option<Place<'a>> {
        let place = self.place?;
        let last = self.relations.unwrap_or_else(|| place.relations().len());
        place.input(last.checked_sub(1)?)
    }

    /// What a join has on its left and on its right.
    pub(crate) fn sides(self) -> (Self, Self) {
        let all = || self.place.map_or(0, |place| place.relations().len());
        let relations = self.relations.unwrap_or_else(all);
        let left = At {
            relations: Some(relations.saturating_sub(1)),
            ..self
        };
        (
            left,
            At {
                relations: Some(relations),
                ..self
            },
        )
    }

    /// The item that makes a column of the SELECT list.
    pub(crate) fn item(&self, number: usize, of: usize) -> Option<Written> {
        let item = self.place?.item(number, of)?;
        written(item, item.span())
    }

    /// The call of the window function whose result the SELECT list reads as `column`: the whole item
    /// where it has several of that name.
    pub(crate) fn call(&self, function: &str, column: &str) -> Option<Written> {
        let (place, list) = (self.place?, self.list?);
        let reads = |expr: &Expr| expr.column_refs().iter().any(|c| c.name == column);
        let number = list.expr.iter().position(reads)?;
        let item = place.item(number, list.expr.len())?;
        let mut calls = Vec::new();
        let _ = visit_expressions(item, |expr| {
            if let ast::Expr::Function(call) = expr
                && call.over.is_some()
            {
                calls.push(call.clone());
            }
            ControlFlow::<()>::Continue(())
        });
        calls.retain(|call| call.name.to_string().to_lowercase() == function);
        match &calls[..] {
            [call] => written(call, call.span()),
            _ => written(item, item.span()),
        }
    }

    /// The clause that a node of the plan stands for, or the start of its SELECT.
    pub(crate) fn clause(&self, node: &LogicalPlan) -> Option<(u64, u64)> {
        let place = self.place?;
        let (query, select) = (place.query, place.select());
        let span = match node {
            LogicalPlan::Filter(_) => select.and_then(|select| {
                let filters = [&select.selection, &select.having, &select.qualify];
                filters.into_iter().flatten().map(Spanned::span).next()
            }),
            LogicalPlan::Sort(_) => query.order_by.as_ref().map(Spanned::span),
            LogicalPlan::Limit(_) => query.limit_clause.as_ref().map(Spanned::span),
            LogicalPlan::Aggregate(_) => select.map(|select| select.group_by.span()),
            LogicalPlan::Join(_) => {
                let relations = place.relations();
                let last = self.relations.unwrap_or(relations.len());
                let joined = relations.get(last.wrapping_sub(1));
                joined.map(|(relation, join)| join.map_or(relation.span(), Spanned::span))
            }
            _ => None,
        };
        span.and_then(start).or_else(|| place.start())
    }
}

fn start(span: Span) -> Option<(u64, u64)> {
    (span.start.line > 0).then_some((span.start.line, span.start.column))
}

fn written(part: &impl ToString, span: Span) -> Option<Written> {
    Some(Written {
        text: part.to_string(),
        place: start(span)?,
    })
}
