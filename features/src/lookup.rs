//! A join to a reference table: for each row, the one row of the table with its key, or NULLs.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{cast, take};
use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::PhysicalExpr;

use crate::FeatureError;
use crate::catalog::Table;
use crate::columns::evaluate;
use crate::joins::LookupCall;
use crate::plan::Plan;
use crate::table_index::{TableIndex, TableKey};

/// A compiled join.
pub(crate) struct Lookup {
    key: Arc<dyn PhysicalExpr>,
    table_key: Arc<TableKey>,
    /// The table's columns that are read.
    read: Vec<usize>,
    index: Arc<TableIndex>,
    columns: Vec<ArrayRef>,
}

impl Lookup {
    /// Compiles a join of rows of `schema` that finds the table's columns `read`.
    pub(crate) fn new(
        call: &LookupCall,
        read: Vec<usize>,
        plan: &Plan,
        schema: &SchemaRef,
    ) -> Result<Self, FeatureError> {
        let table = &plan.catalog.tables[call.table];
        let table_key = TableKey::of(call, plan)?;
        Ok(Lookup {
            key: plan.compile(&call.key, schema)?,
            index: table_key.index(table)?,
            table_key: Arc::new(table_key),
            columns: columns(table, &read),
            read,
        })
    }

    /// How it compares the table's keys.
    pub(crate) fn table_key(&self) -> &Arc<TableKey> {
        &self.table_key
    }

    /// Takes the rows of a version of the table.
    pub(crate) fn fill(&mut self, table: &Table) -> Result<(), FeatureError> {
        self.index = self.table_key.index(table)?;
        self.columns = columns(table, &self.read);
        Ok(())
    }

    /// What the table has for each row.
    pub(crate) fn find(&self, rows: &RecordBatch) -> Result<Vec<ArrayRef>, FeatureError> {
        let TableKey {
            data_type, encoder, ..
        } = &*self.table_key;
        let keys = evaluate(&self.key, rows, "JOIN")?.array;
        let keys = match keys.data_type() == data_type {
            true => keys,
            false => cast(&keys, data_type)?,
        };
        let valid = keys.logical_nulls();
        let encoded = encoder.keys(std::slice::from_ref(&keys))?;
        let found: UInt32Array = (0..keys.len())
            .map(|row| {
                let valid = valid.as_ref().is_none_or(|nulls| nulls.is_valid(row));
                let find = |key: Option<&[u8]>| self.index.row(key?);
                valid.then(|| encoded.with(row, find)).flatten()
            })
            .collect();
        let columns = self
            .columns
            .iter()
            .map(|column| Ok(take(column, &found, None)?));
        columns.collect()
    }
}

fn columns(table: &Table, read: &[usize]) -> Vec<ArrayRef> {
    let column = |at: &usize| table.rows().column(*at).clone();
    read.iter().map(column).collect()
}
