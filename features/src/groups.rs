//! All windows of one `PARTITION BY` key: compiled arguments, slots, and the rings behind them.

mod compile;
mod key;
mod prepared;
mod results;

use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{take, take_arrays};
use arrow::datatypes::{DataType, Field};
use sanderling_schemas::Relation;
use sanderling_state::window::{Footprint, KeyRows, WindowRows, WindowState};
use sanderling_state::{Restored, Snapshot, Threads};

pub(crate) use key::GroupKey;
pub(crate) use results::GroupOutput;

use crate::FeatureError;
use crate::accumulate::FrameAggregate;
use crate::entities::EntityKeys;
use crate::key_log::LoggedColumns;
use crate::lateness::NewestTimes;
use crate::layers::Rows;
use crate::parity::{self, Call};
use crate::program::Program;
use crate::view::{self, KeyTable, WindowTable};
use results::run;

/// All windows of one `PARTITION BY`.
pub(crate) struct WindowGroup {
    /// Windows of the plan, in the order of the outputs.
    windows: Vec<usize>,
    /// Level of all of them.
    level: usize,
    /// Those of them that higher levels read; where there are any, every row gets results.
    below: Vec<usize>,
    /// The PARTITION BY, as it is written.
    by: Arc<str>,
    key: GroupKey,
    arguments: Program,
    /// Name and type of each part of the key, and the text of each argument.
    key_fields: Vec<Field>,
    argument_texts: Vec<String>,
    /// Text and type of each argument; empty where it is of more than the event's own columns.
    argument_kinds: Vec<String>,
    /// Its key is of the event's own columns.
    is_shared: bool,
    /// For each window, its type, and what computes it from the frame's rows, if no kernel does.
    results: Vec<(DataType, Option<FrameAggregate>)>,
    state: WindowState,
    /// Keys that have become as new so far.
    forgotten: u64,
    /// How the windows are computed again by other means.
    calls: Arc<Vec<Call>>,
    /// What a row of the log is to the windows, if the event's own columns tell.
    logged: Option<Arc<LoggedColumns>>,
}

/// What a group is given of a batch.
pub(crate) struct GroupRows<'a> {
    pub rows: &'a RecordBatch,
    pub times_us: &'a [i64],
    /// See [`WindowRows::credible_us`].
    pub credible_us: &'a [i64],
    /// See [`WindowRows::clock_us`].
    pub clock_us: &'a [i64],
    pub enters: &'a [bool],
    pub emits: &'a [bool],
    /// Slots of the entities.
    pub slots: &'a [Vec<u32>],
    pub threads: &'a Threads,
}

impl WindowGroup {
    /// Takes the rows in and returns the results of those that emit.
    pub(crate) fn compute(&mut self, rows: &GroupRows<'_>) -> Result<GroupOutput, FeatureError> {
        let columns = self.arguments.run(rows.rows)?;
        let slots = self.key.slots(rows)?;
        let threads = rows.threads;
        let rows = WindowRows {
            slots: &slots,
            times_us: rows.times_us,
            credible_us: rows.credible_us,
            clock_us: rows.clock_us,
            enters: rows.enters,
            emits: rows.emits,
            columns: &columns,
        };
        let output = run(&mut self.state, &self.results, &rows, threads)?;
        let forgotten = self.state.take_forgotten();
        self.forgotten += forgotten.len() as u64;
        self.key.forget(forgotten);
        Ok(output)
    }

    /// Keys that have become as new so far.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// The newest times of the keys of rows.
    pub(crate) fn newest<'a>(
        &'a self,
        rows: &RecordBatch,
        entities: &'a [EntityKeys],
    ) -> Result<NewestTimes<'a>, FeatureError> {
        let (keys, index) = self.key.keys(rows, entities)?;
        Ok(NewestTimes::new(self.by.clone(), keys, index, &self.state))
    }

    /// The results that the rows would have if each were the first of its key.
    pub(crate) fn alone(
        &self,
        rows: &RecordBatch,
        times_us: &[i64],
    ) -> Result<GroupOutput, FeatureError> {
        let columns = self.arguments.run(rows)?;
        let slots: Vec<u32> = (0..rows.num_rows() as u32).collect();
        let all = vec![true; rows.num_rows()];
        let rows = WindowRows {
            slots: &slots,
            times_us,
            credible_us: times_us,
            clock_us: &vec![i64::MIN; times_us.len()],
            enters: &all,
            emits: &all,
            columns: &columns,
        };
        run(
            &mut self.state.fresh(),
            &self.results,
            &rows,
            &Threads::new(1),
        )
    }

    /// What the windows keep, the group's own keys among it.
    pub(crate) fn footprint(&self) -> Footprint {
        let mut footprint = self.state.footprint();
        footprint.bytes += self.key.bytes();
        footprint
    }

    /// What its rows are keyed by: the same text means the same keys.
    pub(crate) fn described_key(&self) -> String {
        if !self.is_shared {
            return String::new();
        }
        let parts = self
            .key_fields
            .iter()
            .map(|f| format!("{:?} {}", f.name(), f.data_type()));
        format!("by {}", parts.collect::<Vec<_>>().join(", "))
    }

    /// What its rows hold: for each column, the same text means the same values.
    pub(crate) fn described_columns(&self) -> &[String] {
        &self.argument_kinds
    }

    pub(crate) fn state(&self) -> &WindowState {
        &self.state
    }

    pub(crate) fn key_and_state(&mut self) -> (&mut GroupKey, &mut WindowState) {
        (&mut self.key, &mut self.state)
    }

    /// How the windows are computed again by other means.
    pub(crate) fn calls(&self) -> &Arc<Vec<Call>> {
        &self.calls
    }

    /// What a row of the log is to the windows, if the event's own columns tell.
    pub(crate) fn logged(&self) -> &Option<Arc<LoggedColumns>> {
        &self.logged
    }

    /// What is kept of the key of `row`, a row that was just taken, whose entities have these slots; `None`
    /// if that is too much.
    pub(crate) fn rows_of(
        &self,
        row: &RecordBatch,
        slots: &[u32],
    ) -> Result<Option<KeyRows>, FeatureError> {
        match self.key.slot_of(row, slots)? {
            Some(slot) => Ok(self.state.rows_of(slot, parity::ROWS_MAX)?),
            None => Ok(None),
        }
    }

    /// What the windows keep now; `entities` are the keys of the relation's.
    pub(crate) fn view(
        &self,
        relation: &Relation,
        entities: &[Arc<KeyTable>],
        clock_us: i64,
    ) -> Result<WindowTable, FeatureError> {
        let (name, keys) = match &self.key {
            GroupKey::Entity(entity) => {
                let name = relation.entities[*entity].name.clone();
                (name, entities[*entity].clone())
            }
            GroupKey::Own { index, .. } => {
                let keys = KeyTable::new(self.key_fields.clone(), index.known())?;
                (view::name_of(&self.by), Arc::new(keys))
            }
        };
        let windows = self.state.view(clock_us);
        Ok(WindowTable::new(name, keys, &self.argument_texts, windows))
    }

    /// The plan's windows, in the order of the results.
    pub(crate) fn windows(&self) -> &[usize] {
        &self.windows
    }

    /// Level of its windows.
    pub(crate) fn level(&self) -> usize {
        self.level
    }

    /// Whether higher levels read its results, so that every row must get them.
    pub(crate) fn is_below(&self) -> bool {
        !self.below.is_empty()
    }

    /// Hands the results for the rows marked in `of` to those who read them, and leaves those for the rows
    /// that emit.
    pub(crate) fn pass_on(
        &self,
        output: GroupOutput,
        of: &[bool],
        emits: &[bool],
        rows: &mut Rows<'_>,
    ) -> Result<GroupOutput, FeatureError> {
        let places = of.iter().scan(0, |next, there| {
            let place = there.then_some(*next);
            *next += u32::from(*there);
            Some(place)
        });
        let places: UInt32Array = places.collect();
        for (window, column) in self.windows.iter().zip(&output.columns) {
            if self.below.contains(window) {
                rows.add(*window, take(column, &places, None)?);
            }
        }
        let kept = places.iter().zip(emits).filter(|(_, emits)| **emits);
        let kept: UInt32Array = kept.map(|(place, _)| place).collect();
        Ok(GroupOutput {
            columns: take_arrays(&output.columns, &kept, None)?,
            late: kept
                .values()
                .iter()
                .map(|at| output.late[*at as usize])
                .collect(),
            capped: kept
                .values()
                .iter()
                .map(|at| output.capped[*at as usize])
                .collect(),
        })
    }

    pub(crate) fn snapshot(&self, name: &str, snapshot: &mut Snapshot) {
        snapshot.add_value(&format!("{name}/by"), self.described_key());
        snapshot.add_value(&format!("{name}/columns"), self.argument_kinds.join("\n"));
        snapshot.add_value(&format!("{name}/shape"), self.state.shape());
        self.state.snapshot(name, snapshot);
        self.key.snapshot(name, snapshot);
    }

    pub(crate) fn restore(&mut self, name: &str, restored: &Restored) -> Result<(), FeatureError> {
        self.state.restore(name, restored)?;
        self.key.restore(name, restored, &self.state)
    }
}
