//! The rows of a reference table by key: made once for each version, and shared by all who join it.
//!
//! To index a large table takes long. Who has a thread for that does it before the table is handed to engines
//! ([`TableJoins::index`]); they then take it at once. What was not indexed before is when an engine takes it.

use std::sync::{Arc, PoisonError};

use arrow::array::Array;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;
use sanderling_state::KeyIndex;

use crate::FeatureError;
use crate::catalog::Table;
use crate::columns::evaluate;

use crate::joins::LookupCall;
use crate::keys::KeyEncoder;
use crate::plan::{Plan, type_of};

/// Where the rows of a table stand.
#[derive(Debug)]
pub(crate) struct TableIndex {
    keys: KeyIndex,
    /// Row of the table, by the slot of its key.
    rows: Vec<u32>,
}

impl TableIndex {
    /// The row with a key.
    pub(crate) fn row(&self, key: &[u8]) -> Option<u32> {
        self.keys.find(key).map(|slot| self.rows[slot as usize])
    }
}

/// How a join compares the keys of a table.
pub(crate) struct TableKey {
    table: String,
    /// The key over the table's rows, and as it is written.
    expr: Arc<dyn PhysicalExpr>,
    text: String,
    pub data_type: DataType,
    pub encoder: KeyEncoder,
    /// The table's columns as they were when the features were planned.
    planned: SchemaRef,
}

impl TableKey {
    pub(crate) fn of(call: &LookupCall, plan: &Plan) -> Result<Self, FeatureError> {
        let table = &plan.catalog.tables[call.table];
        let planned = table.rows().schema();
        let expr = plan.compile(&call.table_key, &planned)?;
        let data_type = type_of(&expr, &planned)?;
        Ok(TableKey {
            table: table.name().to_string(),
            text: call.table_key.to_string(),
            encoder: KeyEncoder::new(std::slice::from_ref(&data_type))?,
            expr,
            data_type,
            planned,
        })
    }

    /// Name of the table.
    pub(crate) fn table(&self) -> &str {
        &self.table
    }

    /// The index of a version of the table. Whoever else asks for it meanwhile waits, and gets the same.
    pub(crate) fn index(&self, table: &Table) -> Result<Arc<TableIndex>, FeatureError> {
        if table.rows().schema() != self.planned {
            return Err(self.wrong(
                "it has other columns than the version that the features were planned with".into(),
                "give it the columns and the types that it had, or start anew with it",
            ));
        }
        let mut known = (table.indexes.lock()).unwrap_or_else(PoisonError::into_inner);
        if let Some((_, index)) = known.iter().find(|(text, _)| *text == self.text) {
            return Ok(index.clone());
        }
        let index = Arc::new(self.made(table)?);
        known.push((self.text.clone(), index.clone()));
        Ok(index)
    }

    fn made(&self, table: &Table) -> Result<TableIndex, FeatureError> {
        let keys = evaluate(&self.expr, table.rows(), table.key())?.array;
        let encoded = self.encoder.keys(std::slice::from_ref(&keys))?;
        let mut index = TableIndex {
            keys: KeyIndex::default(),
            rows: Vec::with_capacity(keys.len()),
        };
        for row in (0..keys.len()).filter(|row| keys.is_valid(*row)) {
            let slot = encoded.with(row, |key| index.keys.slot_of(key.unwrap_or_default()));
            if (slot as usize) < index.rows.len() {
                return Err(self.wrong(
                    format!(
                        "two values of `{}` are the same as {}, as which the join compares them",
                        table.key(),
                        self.data_type
                    ),
                    "give the key the type of the column that it is joined to",
                ));
            }
            index.rows.push(row as u32);
        }
        Ok(index)
    }

    fn wrong(&self, message: String, cure: &str) -> FeatureError {
        FeatureError::Table {
            table: self.table.clone(),
            message,
            cure: cure.to_string(),
        }
    }
}

/// How features join reference tables.
#[derive(Clone)]
pub struct TableJoins(pub(crate) Vec<Arc<TableKey>>);

impl TableJoins {
    /// Indexes tables, which changes nothing but how long it takes an engine to take them.
    ///
    /// # Errors
    /// Those that [`crate::FeatureEngine::set_tables`] would have with them.
    pub fn index(&self, tables: &[Arc<Table>]) -> Result<(), FeatureError> {
        for table in tables {
            for key in self.0.iter().filter(|key| key.table() == table.name()) {
                key.index(table)?;
            }
        }
        Ok(())
    }
}
