//! The columns that a row gains before its windows are computed, level by level.
//!
//! A row begins with the columns of the event. At each level reference tables add what they have for it,
//! windows of that level are computed, and those results that others read become columns too. So a window
//! over results of windows holds, for each row, what those were when the row came: it is causal, and equal
//! to a self-join over the table that the lower level's self-join makes.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Field, Schema, SchemaRef};

use crate::FeatureError;
use crate::catalog::Table;
use crate::joins::lookup_column;
use crate::lookup::Lookup;
use crate::plan::{Plan, window_column};
use crate::table_index::TableJoins;

/// What rows gain at each level.
pub(crate) struct Layers {
    layers: Vec<Layer>,
}

/// What rows gain at one level, in the order of their columns.
struct Layer {
    /// Windows of the level below whose results are read.
    windows: Vec<usize>,
    lookups: Vec<Lookup>,
    /// The columns once it is done.
    schema: SchemaRef,
}

/// Rows on their way through the levels.
pub(crate) struct Rows<'a> {
    layers: &'a Layers,
    rows: RecordBatch,
    /// Layers that are done.
    done: usize,
    /// Results by window, until they are columns.
    results: Vec<(usize, ArrayRef)>,
}

impl Layers {
    pub(crate) fn new(plan: &Plan, relation: &SchemaRef) -> Result<Self, FeatureError> {
        let mut layers = Vec::new();
        let mut fields: Vec<Arc<Field>> = relation.fields().iter().cloned().collect();
        let below = plan.windows_below();
        let read = plan.read();
        let levels = plan.windows.iter().map(|window| window.level);
        let levels = levels
            .chain(plan.lookups.iter().map(|lookup| lookup.level))
            .max();
        for level in 0..=levels.unwrap_or(0) {
            let mut layer = Layer {
                windows: Vec::new(),
                lookups: Vec::new(),
                schema: relation.clone(),
            };
            for (number, window) in plan.windows.iter().enumerate() {
                if window.level + 1 == level && below.contains(&number) {
                    layer.windows.push(number);
                    let name = window_column(number);
                    fields.push(Arc::new(Field::new(name, window.data_type.clone(), true)));
                }
            }
            for (number, call) in plan.lookups.iter().enumerate() {
                if call.level != level {
                    continue;
                }
                let table = plan.catalog.tables[call.table].rows().schema();
                let columns = table.fields().iter().enumerate();
                let (columns, found): (Vec<usize>, Vec<Arc<Field>>) = columns
                    .filter(|(_, field)| {
                        read.contains(lookup_column(number, field.name()).as_str())
                    })
                    .map(|(at, field)| {
                        let name = lookup_column(number, field.name());
                        (
                            at,
                            Arc::new(Field::new(name, field.data_type().clone(), true)),
                        )
                    })
                    .unzip();
                let so_far = Arc::new(Schema::new(fields.clone()));
                layer
                    .lookups
                    .push(Lookup::new(call, columns, plan, &so_far)?);
                fields.extend(found);
            }
            if fields.len() > relation.fields().len() {
                layer.schema = Arc::new(Schema::new(fields.clone()));
            }
            layers.push(layer);
        }
        Ok(Layers { layers })
    }

    /// All columns of a row that has gone through every level.
    pub(crate) fn schema(&self) -> &SchemaRef {
        let last = self.layers.last().expect("there is a level 0");
        &last.schema
    }

    /// Takes other versions of the tables.
    pub(crate) fn set_tables(&mut self, tables: &[Arc<Table>]) -> Result<(), FeatureError> {
        for lookup in self.layers.iter_mut().flat_map(|layer| &mut layer.lookups) {
            let name = lookup.table_key().table();
            if let Some(table) = tables.iter().find(|table| table.name() == name) {
                lookup.fill(table)?;
            }
        }
        Ok(())
    }

    /// How tables are joined.
    pub(crate) fn joins(&self) -> TableJoins {
        let lookups = self.layers.iter().flat_map(|layer| &layer.lookups);
        TableJoins(lookups.map(|lookup| lookup.table_key().clone()).collect())
    }

    /// Rows of events before the first level.
    pub(crate) fn rows(&self, events: &RecordBatch) -> Rows<'_> {
        Rows {
            layers: self,
            rows: events.clone(),
            done: 0,
            results: Vec::new(),
        }
    }
}

impl Rows<'_> {
    /// The rows with all that windows of `level` may read.
    pub(crate) fn at(&mut self, level: usize) -> Result<&RecordBatch, FeatureError> {
        while self.done <= level {
            let layer = &self.layers.layers[self.done];
            let mut columns = self.rows.columns().to_vec();
            for window in &layer.windows {
                let result = self.results.iter().find(|(number, _)| number == window);
                let (_, result) = result.expect("lower levels are computed before higher ones");
                columns.push(result.clone());
            }
            let before = self.rows.schema();
            for lookup in &layer.lookups {
                // A lookup reads columns by their place, and those before it are all there.
                let fields = layer.schema.fields()[..columns.len()].to_vec();
                let schema = match fields.len() == before.fields().len() {
                    true => before.clone(),
                    false => Arc::new(Schema::new(fields)),
                };
                let so_far = RecordBatch::try_new(schema, columns.clone())?;
                columns.extend(lookup.find(&so_far)?);
            }
            if columns.len() > self.rows.num_columns() {
                self.rows = RecordBatch::try_new(layer.schema.clone(), columns)?;
            }
            self.done += 1;
        }
        Ok(&self.rows)
    }

    /// Takes the results of a window for all rows.
    pub(crate) fn add(&mut self, window: usize, result: ArrayRef) {
        self.results.push((window, result));
    }

    /// The rows with all columns.
    pub(crate) fn all(mut self) -> Result<RecordBatch, FeatureError> {
        self.at(self.layers.layers.len() - 1)?;
        Ok(self.rows)
    }
}
