//! Keyed state as tables that DataFusion scans page by page.
//!
//! A condition on key columns alone is held against the keys, and only what passes is looked at further:
//! to ask for one card among a million reads a million keys and one ring. Nothing is copied but the page
//! that is being read.

use std::fmt;
use std::sync::Arc;

use arrow::array::TimestampMicrosecondArray;
use arrow::array::{ArrayRef, AsArray, Int32Array, RecordBatch, UInt32Array, UInt64Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::DFSchema;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use sanderling_features::{EngineView, KeyTable, WindowTable};
use sanderling_schemas::{NO_SLOT, Relation};
use sanderling_scoring::MemoryView;

use crate::line::Lane;

/// Keys that are read at once.
const PAGE_KEYS: usize = 128;
/// Column of the lane, where there are several.
const LANE: &str = "lane";

/// What is told of keys beside themselves.
enum Facts {
    /// One row each: how far its rows have come, and how many there are.
    Windows(WindowTable),
    /// Every row that a window can still reach.
    Rows(WindowTable),
    /// One row for each network that remembers it.
    Memory(Arc<KeyTable>, Vec<MemoryView>),
}

impl Facts {
    fn keys(&self) -> &KeyTable {
        match self {
            Facts::Windows(table) | Facts::Rows(table) => table.keys(),
            Facts::Memory(keys, _) => keys,
        }
    }

    fn has_null_key(&self) -> bool {
        match self {
            Facts::Windows(table) | Facts::Rows(table) => table.has_null_key(),
            Facts::Memory(..) => false,
        }
    }

    fn fields(&self) -> Vec<Field> {
        match self {
            Facts::Windows(_) => WindowTable::summary_fields(),
            Facts::Rows(table) => table.row_fields().to_vec(),
            Facts::Memory(..) => vec![
                Field::new("member", DataType::UInt32, false),
                Field::new("last_time", time_type(), true),
                Field::new("steps", DataType::UInt32, false),
                Field::new("events", DataType::UInt64, false),
                Field::new("bytes", DataType::UInt64, false),
            ],
        }
    }

    /// The rows of some keys: for each the index of its key in `slots`, and the columns.
    fn of(&self, slots: &[u32]) -> Result<(Vec<u32>, Vec<ArrayRef>)> {
        match self {
            Facts::Windows(table) => Ok(table.summaries(slots)),
            Facts::Rows(table) => table.rows(slots).map_err(external),
            Facts::Memory(_, members) => Ok(remembered(members, slots)),
        }
    }
}

fn remembered(members: &[MemoryView], slots: &[u32]) -> (Vec<u32>, Vec<ArrayRef>) {
    let of_slot = |(at, slot): (u32, &u32)| {
        let slot = *slot;
        members
            .iter()
            .filter_map(move |view| Some((at, view.member as u32, view.summary(slot)?)))
            .collect::<Vec<_>>()
    };
    let known: Vec<_> = (0u32..).zip(slots).flat_map(of_slot).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(UInt32Array::from_iter_values(
            known.iter().map(|(_, member, _)| *member),
        )),
        Arc::new(
            known
                .iter()
                .map(|(_, _, of)| of.last_us)
                .collect::<TimestampMicrosecondArray>(),
        ),
        Arc::new(UInt32Array::from_iter_values(
            known.iter().map(|(_, _, of)| of.steps),
        )),
        Arc::new(UInt64Array::from_iter_values(
            known.iter().map(|(_, _, of)| of.events as u64),
        )),
        Arc::new(UInt64Array::from_iter_values(
            known.iter().map(|(_, _, of)| of.bytes as u64),
        )),
    ];
    (known.iter().map(|(at, ..)| *at).collect(), columns)
}

/// One table over all lanes.
pub struct StateTable {
    schema: SchemaRef,
    /// Columns that a key has, the lane among them.
    key_columns: usize,
    parts: Arc<[(Lane, Facts)]>,
}

impl fmt::Debug for StateTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StateTable")
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

/// The state of one lane at one moment.
pub struct LaneView {
    /// Which.
    pub lane: Lane,
    /// Its windows.
    pub windows: EngineView,
    /// What its model remembers.
    pub memories: Vec<MemoryView>,
}

/// The tables of all lanes, by name.
pub fn tables(relation: &Relation, lanes: Vec<LaneView>) -> Vec<(String, Arc<dyn TableProvider>)> {
    let mut named: Vec<(String, Vec<(Lane, Facts)>)> = Vec::new();
    let mut add = |name: String, lane: Lane, facts: Facts| match named
        .iter_mut()
        .find(|(known, _)| *known == name)
    {
        Some((_, parts)) => parts.push((lane, facts)),
        None => named.push((name, vec![(lane, facts)])),
    };
    for LaneView {
        lane,
        windows,
        memories,
    } in lanes
    {
        for table in windows.windows {
            add(
                format!("{}_keys", table.name),
                lane,
                Facts::Windows(table.clone()),
            );
            add(format!("{}_rows", table.name), lane, Facts::Rows(table));
        }
        for (number, (entity, keys)) in relation.entities.iter().zip(&windows.entities).enumerate()
        {
            let mine: Vec<MemoryView> = memories
                .iter()
                .filter(|view| view.entity == number)
                .cloned()
                .collect();
            if !mine.is_empty() {
                let facts = Facts::Memory(keys.clone(), mine);
                add(format!("{}_memory", entity.name), lane, facts);
            }
        }
    }
    let table = |(name, parts)| {
        (
            name,
            Arc::new(StateTable::new(parts)) as Arc<dyn TableProvider>,
        )
    };
    named.into_iter().map(table).collect()
}

impl StateTable {
    fn new(parts: Vec<(Lane, Facts)>) -> Self {
        let (lane, first) = parts.first().expect("a table is of at least one lane");
        let lane = lane.0.map(|_| Field::new(LANE, DataType::Int32, false));
        let mut fields: Vec<Field> = lane.into_iter().collect();
        fields.extend(first.keys().fields().iter().cloned());
        let key_columns = fields.len();
        for field in first.fields() {
            // What a key is called is what it is asked for by.
            let is_taken = fields.iter().any(|known| known.name() == field.name());
            let name = match is_taken {
                true => format!("{}_2", field.name()),
                false => field.name().clone(),
            };
            fields.push(field.with_name(name));
        }
        Self {
            schema: Arc::new(Schema::new(fields)),
            key_columns,
            parts: parts.into(),
        }
    }

    fn key_schema(&self) -> Schema {
        Schema::new(self.schema.fields()[..self.key_columns].to_vec())
    }

    fn is_of_keys(&self, filter: &Expr) -> bool {
        let is_key = |name: &str| {
            let keys = &self.schema.fields()[..self.key_columns];
            keys.iter().any(|field| field.name() == name)
        };
        filter
            .column_refs()
            .iter()
            .all(|column| is_key(&column.name))
    }

    /// First slot and number of slots of each page of a part; a page of [`NO_SLOT`] is that of NULL.
    fn pages(&self) -> Vec<(usize, u32, u32)> {
        let mut pages = Vec::new();
        for (part, (_, facts)) in self.parts.iter().enumerate() {
            if facts.has_null_key() {
                pages.push((part, NO_SLOT, 1));
            }
            let len = facts.keys().len();
            for from in (0..len).step_by(PAGE_KEYS) {
                pages.push((part, from as u32, (len - from).min(PAGE_KEYS) as u32));
            }
        }
        pages
    }

    fn page(
        &self,
        (part, from, len): (usize, u32, u32),
        filters: &[Arc<dyn PhysicalExpr>],
    ) -> Result<RecordBatch> {
        let (lane, facts) = &self.parts[part];
        let slots: Vec<u32> = match from {
            NO_SLOT => vec![NO_SLOT],
            from => (from..from + len).collect(),
        };
        let mut keys: Vec<ArrayRef> = Vec::with_capacity(self.schema.fields().len());
        keys.extend(
            lane.0
                .map(|lane| Arc::new(Int32Array::from(vec![lane; slots.len()])) as ArrayRef),
        );
        keys.extend(facts.keys().columns(&slots).map_err(external)?);
        let slots = UInt32Array::from(slots);
        let (keys, slots) = self.passing(keys, slots, filters)?;
        let (owners, columns) = facts.of(slots.values())?;
        let owners = UInt32Array::from(owners);
        let mut all = (keys.iter())
            .map(|column| take(column, &owners, None))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        all.extend(columns);
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(owners.len()));
        Ok(RecordBatch::try_new_with_options(
            self.schema.clone(),
            all,
            &options,
        )?)
    }

    /// The keys for which all filters hold.
    fn passing(
        &self,
        keys: Vec<ArrayRef>,
        slots: UInt32Array,
        filters: &[Arc<dyn PhysicalExpr>],
    ) -> Result<(Vec<ArrayRef>, UInt32Array)> {
        if filters.is_empty() {
            return Ok((keys, slots));
        }
        let rows = slots.len();
        let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(rows));
        let schema = Arc::new(self.key_schema());
        let batch = RecordBatch::try_new_with_options(schema, keys, &options)?;
        let mut passes = vec![true; rows];
        for filter in filters {
            let holds = filter.evaluate(&batch)?.into_array(rows)?;
            // NULL is not true.
            for (passes, holds) in passes.iter_mut().zip(holds.as_boolean()) {
                *passes &= holds == Some(true);
            }
        }
        let picks: UInt32Array = (0u32..)
            .zip(passes)
            .filter_map(|(at, passes)| passes.then_some(Some(at)))
            .collect();
        let keys = (batch.columns().iter())
            .map(|column| take(column, &picks, None))
            .collect::<std::result::Result<Vec<_>, _>>()?;
        let slots = UInt32Array::from_iter_values(
            picks.values().iter().map(|at| slots.value(*at as usize)),
        );
        Ok((keys, slots))
    }
}

#[async_trait]
impl TableProvider for StateTable {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let keys = DFSchema::try_from(self.key_schema())?;
        let filters = (filters.iter())
            .map(|filter| state.create_physical_expr(filter.clone(), &keys))
            .collect::<Result<Vec<_>>>()?;
        let scan = Scan {
            table: Arc::new(Self {
                schema: self.schema.clone(),
                key_columns: self.key_columns,
                parts: self.parts.clone(),
            }),
            filters,
        };
        Ok(Arc::new(StreamingTableExec::try_new(
            self.schema.clone(),
            vec![Arc::new(scan)],
            projection,
            [],
            false,
            limit,
        )?))
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        let kind = |filter: &&Expr| match self.is_of_keys(filter) {
            true => TableProviderFilterPushDown::Exact,
            false => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(kind).collect())
    }
}

/// A table that is being read.
#[derive(Debug)]
struct Scan {
    table: Arc<StateTable>,
    filters: Vec<Arc<dyn PhysicalExpr>>,
}

impl PartitionStream for Scan {
    fn schema(&self) -> &SchemaRef {
        &self.table.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (table, filters) = (self.table.clone(), self.filters.clone());
        let schema = table.schema.clone();
        let pages = table.pages().into_iter();
        let batches = pages.map(move |page| table.page(page, &filters));
        Box::pin(RecordBatchStreamAdapter::new(
            schema,
            futures::stream::iter(batches),
        ))
    }
}

fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, None)
}

fn external(e: impl std::error::Error + Send + Sync + 'static) -> DataFusionError {
    DataFusionError::External(Box::new(e))
}
