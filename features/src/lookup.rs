//! A join to a reference table: for each row, the one row of the table with its key, or NULLs.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;

use crate::FeatureError;
use crate::catalog::Table;
use crate::columns::evaluate;
use crate::groups::type_of;
use crate::joins::LookupCall;
use crate::keys::KeyEncoder;
use crate::plan::Plan;

/// A compiled join.
pub(crate) struct Lookup {
    table: String,
    key: Arc<dyn PhysicalExpr>,
    /// The table's key over its rows.
    table_key: Arc<dyn PhysicalExpr>,
    key_type: DataType,
    encoder: KeyEncoder,
    /// The table's columns as they were when the features were planned.
    planned: SchemaRef,
    /// Those of them that are read.
    read: Vec<usize>,
    /// Row of the table, by key.
    rows: HashMap<Box<[u8]>, u32>,
    /// The columns that are read.
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
        let planned = table.rows().schema();
        let table_key = plan.compile(&call.table_key, &planned)?;
        let key_type = type_of(&table_key, &planned)?;
        let mut lookup = Lookup {
            table: table.name().to_string(),
            key: plan.compile(&call.key, schema)?,
            table_key,
            encoder: KeyEncoder::new(std::slice::from_ref(&key_type))?,
            key_type,
            planned,
            read,
            rows: HashMap::new(),
            columns: Vec::new(),
        };
        lookup.fill(table)?;
        Ok(lookup)
    }

    /// The table that it joins.
    pub(crate) fn table(&self) -> &str {
        &self.table
    }

    /// Takes the rows of a version of the table.
    pub(crate) fn fill(&mut self, table: &Table) -> Result<(), FeatureError> {
        let wrong = |message: String, cure: &str| FeatureError::Table {
            table: table.name().to_string(),
            message,
            cure: cure.to_string(),
        };
        let rows = table.rows();
        if rows.schema() != self.planned {
            return Err(wrong(
                "it has other columns than the version that the features were planned with".into(),
                "give it the columns and the types that it had, or start anew with it",
            ));
        }
        let keys = evaluate(&self.table_key, rows, table.key())?.array;
        let encoded = self.encoder.keys(std::slice::from_ref(&keys))?;
        let mut by_key: HashMap<Box<[u8]>, u32> = HashMap::with_capacity(keys.len());
        for row in (0..keys.len()).filter(|row| keys.is_valid(*row)) {
            let known = encoded.with(row, |key| {
                by_key.insert(key.unwrap_or_default().into(), row as u32)
            });
            if known.is_some() {
                return Err(wrong(
                    format!(
                        "two values of `{}` are the same as {}, as which the join compares them",
                        table.key(),
                        self.key_type
                    ),
                    "give the key the type of the column that it is joined to",
                ));
            }
        }
        self.rows = by_key;
        self.columns = (self.read.iter())
            .map(|column| rows.column(*column).clone())
            .collect();
        Ok(())
    }

    /// What the table has for each row.
    pub(crate) fn find(&self, rows: &RecordBatch) -> Result<Vec<ArrayRef>, FeatureError> {
        let keys = evaluate(&self.key, rows, "JOIN")?.array;
        let keys = match *keys.data_type() == self.key_type {
            true => keys,
            false => cast(&keys, &self.key_type)?,
        };
        let valid = keys.logical_nulls();
        let encoded = self.encoder.keys(std::slice::from_ref(&keys))?;
        let found: UInt32Array = (0..keys.len())
            .map(|row| {
                let valid = valid.as_ref().is_none_or(|nulls| nulls.is_valid(row));
                let find = |key: Option<&[u8]>| self.rows.get(key?).copied();
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
