//! What `features.sql` may name beside `events` and DataFusion's own functions: reference tables, and
//! functions written in Rust.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, RecordBatch};
use arrow::row::{RowConverter, SortField};
use arrow::util::display::array_value_to_string;
use datafusion::logical_expr::{AggregateUDF, ScalarUDF};

use crate::FeatureError;
use crate::table_index::TableIndex;

/// Tables and functions that a query may name.
///
/// A function must be immutable: the same arguments always give the same value, or a replay would
/// differ. Its name stands for what it does in the version of the features, so a function that is
/// changed gets another name.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    /// Reference tables, each under its name.
    pub tables: Vec<Arc<Table>>,
    /// User functions, by the names that they carry.
    pub functions: Vec<Function>,
}

/// A function written in Rust.
#[derive(Debug, Clone)]
pub enum Function {
    /// Of the values of one row.
    Scalar(Arc<ScalarUDF>),
    /// Of the rows of a window. Its accumulator is run over all rows of a frame for each event.
    Aggregate(Arc<AggregateUDF>),
}

impl Catalog {
    /// The number of a table.
    pub(crate) fn table(&self, name: &str) -> Option<usize> {
        self.tables.iter().position(|table| table.name == name)
    }
}

/// A reference table, to be joined on its key: what is known of a merchant, a segment, a machine.
#[derive(Debug)]
pub struct Table {
    name: String,
    key: String,
    rows: RecordBatch,
    version: Arc<str>,
    /// Those that were asked for, by how the key is compared.
    pub(crate) indexes: Mutex<Vec<(String, Arc<TableIndex>)>>,
}

impl Table {
    /// A table of `rows` that is joined on the column `key`. `version` identifies the contents.
    ///
    /// # Errors
    /// [`FeatureError::Table`] where there is no such column, a row lacks a key, or two have the same.
    pub fn new(
        name: &str,
        key: &str,
        rows: RecordBatch,
        version: Arc<str>,
    ) -> Result<Self, FeatureError> {
        let wrong = |message: String, cure: &str| FeatureError::Table {
            table: name.to_string(),
            message,
            cure: cure.to_string(),
        };
        let Some(keys) = rows.column_by_name(key) else {
            let schema = rows.schema();
            let known: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
            return Err(wrong(
                format!("it has no column `{key}`; it has {}", known.join(", ")),
                "name the column that identifies a row as its key",
            ));
        };
        if let Some(row) = (0..keys.len()).find(|row| keys.is_null(*row)) {
            return Err(wrong(
                format!("row {} has no `{key}`", row + 1),
                "give every row a key, or take the row out",
            ));
        }
        let converter = RowConverter::new(vec![SortField::new(keys.data_type().clone())])?;
        let converted = converter.convert_columns(std::slice::from_ref(keys))?;
        let mut seen = HashSet::new();
        if let Some(twice) = (0..keys.len()).find(|row| !seen.insert(converted.row(*row))) {
            let value = array_value_to_string(keys, twice)?;
            return Err(wrong(
                format!(
                    "`{key}` {value} stands there twice, the second time in row {}",
                    twice + 1
                ),
                "leave one row for each key: a join must give one row for each event",
            ));
        }
        drop(seen);
        Ok(Table {
            name: name.to_string(),
            key: key.to_string(),
            rows,
            version,
            indexes: Mutex::default(),
        })
    }

    /// Whether an engine joins it now.
    pub fn is_joined(&self) -> bool {
        let indexes = self.indexes.lock().unwrap_or_else(PoisonError::into_inner);
        indexes
            .iter()
            .any(|(_, index)| Arc::strong_count(index) > 1)
    }

    /// What queries call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The column that it is joined on.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Its rows.
    pub fn rows(&self) -> &RecordBatch {
        &self.rows
    }

    /// What identifies its contents.
    pub fn version(&self) -> &Arc<str> {
        &self.version
    }
}
