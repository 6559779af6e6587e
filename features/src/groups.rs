//! All windows of one `PARTITION BY` key: compiled arguments, slots, and the rings behind them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::array::{ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::PhysicalExpr;
use sanderling_schemas::relation::{EVENT_TIME, STREAM};
use sanderling_schemas::{LateRows, NO_SLOT, Relation};
use sanderling_state::window::{
    Aggregate, COLUMNS_MAX, Column, Footprint, Frame, Function, KeyRows, WindowOutput, WindowRows,
    WindowSpec, WindowState,
};
use sanderling_state::{KeyIndex, Restored, Snapshot, StateError, Threads};

use crate::FeatureError;
use crate::accumulate::{FrameAggregate, OTHERWISE};
use crate::engine::EntityKeys;
use crate::keys::KeyEncoder;
use crate::lateness::NewestTimes;
use crate::layers::Rows;
use crate::parity::{self, Call};
use crate::plan::Plan;
use crate::program::Program;
use crate::view::{self, KeyTable, WindowTable};
use crate::windows::{Kept, WindowCall};

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
}

/// A window's results, in the order of the windows, and whether rows are late.
pub(crate) struct GroupOutput {
    pub columns: Vec<ArrayRef>,
    pub late: Vec<bool>,
    pub capped: Vec<bool>,
}

/// A call before its group is known.
struct Prepared {
    function: Function,
    columns: Vec<Kept>,
    only: Option<Expr>,
    output: DataType,
    from_rows: Option<FrameAggregate>,
}

/// Where a group's slots come from.
pub(crate) enum GroupKey {
    /// The key is an entity's, and so are the slots.
    Entity(usize),
    Own {
        parts: Program,
        encoder: KeyEncoder,
        index: KeyIndex,
    },
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
    /// Groups the plan's windows over rows of `schema` by level and key, and where a key has more arguments
    /// than a ring holds columns, into several groups. Lower levels come first.
    pub(crate) fn of(
        plan: &Plan,
        relation: &Relation,
        schema: &SchemaRef,
    ) -> Result<Vec<Self>, FeatureError> {
        type Key<'a> = (usize, &'a [Expr]);
        let mut keys: Vec<(Key<'_>, Vec<Expr>, Vec<(usize, Prepared)>)> = Vec::new();
        for (number, call) in plan.windows.iter().enumerate() {
            let prepared =
                Prepared::of(call, plan, relation, schema).map_err(|e| plan.about(number, e))?;
            let key = (call.level, call.partition_by.as_slice());
            let lacks = |known: &[Expr]| -> Vec<Expr> {
                let mut lacks: Vec<Expr> = Vec::new();
                for expr in prepared.exprs() {
                    if !known.contains(expr) && !lacks.contains(expr) {
                        lacks.push(expr.clone());
                    }
                }
                lacks
            };
            let room = |known: &[Expr]| known.len() + lacks(known).len() <= COLUMNS_MAX;
            let group = keys
                .iter()
                .position(|(other, known, _)| *other == key && room(known));
            let group = group.unwrap_or_else(|| {
                keys.push((key, Vec::new(), Vec::new()));
                keys.len() - 1
            });
            let (_, known, calls) = &mut keys[group];
            known.extend(lacks(known));
            calls.push((number, prepared));
        }
        keys.sort_by_key(|((level, _), ..)| *level);
        keys.into_iter()
            .map(|(key, columns, calls)| Self::new(plan, relation, schema, key, columns, calls))
            .collect()
    }

    fn new(
        plan: &Plan,
        relation: &Relation,
        schema: &SchemaRef,
        (level, key): (usize, &[Expr]),
        exprs: Vec<Expr>,
        calls: Vec<(usize, Prepared)>,
    ) -> Result<Self, FeatureError> {
        let mut columns = vec![None; exprs.len()];
        let mut arguments = Vec::new();
        for expr in &exprs {
            arguments.push((plan.compile(expr, schema)?, String::new()));
        }
        let (mut frames, mut aggregates) = (Vec::new(), Vec::new());
        let (mut windows, mut results) = (Vec::new(), Vec::new());
        let mut again = Vec::new();
        let place = |expr: &Expr| {
            let place = exprs.iter().position(|other| other == expr);
            place.expect("all expressions of the calls were collected")
        };
        for (number, prepared) in calls {
            let call = &plan.windows[number];
            for kept in &prepared.columns {
                let at = place(&kept.expr);
                columns[at] = Some(Column {
                    data_type: kept.data_type.clone(),
                });
                arguments[at].1.clone_from(&call.text);
            }
            if let Some(only) = &prepared.only {
                let at = place(only);
                columns[at].get_or_insert(Column {
                    data_type: DataType::Int64,
                });
                arguments[at].1.clone_from(&call.text);
            }
            let frame = frames
                .iter()
                .position(|frame| *frame == call.frame)
                .unwrap_or_else(|| {
                    frames.push(call.frame);
                    frames.len() - 1
                });
            aggregates.push(Aggregate {
                function: prepared.function,
                columns: prepared
                    .columns
                    .iter()
                    .map(|kept| place(&kept.expr))
                    .collect(),
                only: prepared.only.as_ref().map(place),
                frame,
                output: prepared.output,
            });
            // What DataFusion cannot accumulate is not checked that way.
            let accumulated = (call.aggregate.as_ref())
                .and_then(|function| FrameAggregate::new(call, function, plan, schema).ok());
            let aggregate = aggregates.last().expect("one was just added");
            again.push(Call {
                window: number,
                function: aggregate.function,
                columns: aggregate.columns.clone(),
                only: aggregate.only,
                frame: call.frame,
                data_type: call.data_type.clone(),
                text: call.text.clone(),
                again: accumulated.map(|(accumulated, _)| accumulated),
            });
            windows.push(number);
            results.push((call.data_type.clone(), prepared.from_rows));
        }
        let by: Vec<String> = key
            .iter()
            .map(|key| key.schema_name().to_string())
            .collect();
        let columns: Vec<Column> = columns.into_iter().flatten().collect();
        // What reads a table or another window means something else where those do.
        let is_of_event = |expr: &Expr| {
            let refs = expr.column_refs();
            refs.iter()
                .all(|c| relation.schema.index_of(&c.name).is_ok())
        };
        let is_shared = key.iter().all(is_of_event);
        let argument_kinds = (exprs.iter().zip(&columns))
            .map(|(expr, column)| {
                if !is_of_event(expr) {
                    return String::new();
                }
                format!("{:?} {}", expr.schema_name().to_string(), column.data_type)
            })
            .collect();
        let key_fields = (key.iter().zip(&by))
            .map(|(key, text)| {
                let data_type = type_of(&plan.compile(key, schema)?, schema)?;
                Ok(Field::new(text, data_type, true))
            })
            .collect::<Result<_, FeatureError>>()?;
        let key = match key {
            [Expr::Column(column)] => relation
                .entities
                .iter()
                .position(|entity| entity.key == column.name),
            _ => None,
        }
        .map(|entity| Ok(GroupKey::Entity(entity)))
        .unwrap_or_else(|| GroupKey::own(plan, schema, key))?;
        let spec = WindowSpec::new(columns, frames, aggregates, relation.lateness_us)?;
        let below = plan.windows_below();
        let spec = match spec.with_rows_max(relation.rows_per_key_max) {
            Ok(spec) => spec,
            Err(error) => {
                let cure = "give state.rows_per_key_max more rows, or look back over fewer";
                return Err(plan.about(
                    windows[0],
                    FeatureError::refused(by.join(", "), error, cure),
                ));
            }
        };
        Ok(WindowGroup {
            below: windows
                .iter()
                .copied()
                .filter(|n| below.contains(n))
                .collect(),
            windows,
            level,
            by: by.join(", ").into(),
            key,
            key_fields,
            argument_kinds,
            is_shared,
            argument_texts: (exprs.iter())
                .map(|expr| expr.schema_name().to_string())
                .collect(),
            arguments: Program::new(arguments, schema),
            results,
            state: WindowState::new(Arc::new(spec)),
            forgotten: 0,
            calls: Arc::new(again),
        })
    }

    /// Takes the rows in and returns the results of those that emit.
    pub(crate) fn compute(&mut self, rows: &GroupRows<'_>) -> Result<GroupOutput, FeatureError> {
        let columns = self.arguments.run(rows.rows)?;
        let own;
        let slots = match &mut self.key {
            GroupKey::Entity(entity) => &rows.slots[*entity],
            GroupKey::Own {
                parts,
                encoder,
                index,
            } => {
                let keys = encoder.keys(&parts.run(rows.rows)?)?;
                own = index.slots_of(rows.enters.len(), &|row, take| {
                    if rows.enters[row] {
                        keys.with(row, take);
                    }
                });
                &own
            }
        };
        let threads = rows.threads;
        let rows = WindowRows {
            slots,
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
        // An entity's slot is known to others too, who may remember it.
        if let GroupKey::Own { index, .. } = &mut self.key {
            forgotten.into_iter().for_each(|slot| index.forget(slot));
        }
        Ok(output)
    }

    /// Keys that have become as new so far, and those that something is known of.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// The newest times of the keys of rows.
    pub(crate) fn newest<'a>(
        &'a self,
        rows: &RecordBatch,
        entities: &'a [EntityKeys],
    ) -> Result<NewestTimes<'a>, FeatureError> {
        let (keys, index) = match &self.key {
            GroupKey::Entity(entity) => {
                let entity = &entities[*entity];
                (entity.keys(rows)?, &entity.index)
            }
            GroupKey::Own {
                parts,
                encoder,
                index,
            } => (encoder.keys(&parts.run(rows)?)?, index),
        };
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
        if let GroupKey::Own { index, .. } = &self.key {
            footprint.bytes += index.bytes();
        }
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

    /// What is kept of the key of `row`, a row that was just taken, whose entities have these slots; `None`
    /// if that is too much.
    pub(crate) fn rows_of(
        &self,
        row: &RecordBatch,
        slots: &[u32],
    ) -> Result<Option<KeyRows>, FeatureError> {
        let slot = match &self.key {
            GroupKey::Entity(entity) => slots[*entity],
            GroupKey::Own {
                parts,
                encoder,
                index,
            } => {
                let keys = encoder.keys(&parts.run(row)?)?;
                let find = |key: Option<&[u8]>| key.map_or(Some(NO_SLOT), |key| index.find(key));
                match keys.with(0, find) {
                    Some(slot) => slot,
                    None => return Ok(None),
                }
            }
        };
        Ok(self.state.rows_of(slot, parity::ROWS_MAX)?)
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
            columns: take_rows(&output.columns, &kept)?,
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
        if let GroupKey::Own { index, .. } = &self.key {
            index.snapshot(&format!("{name}/keys"), snapshot);
        }
    }

    pub(crate) fn restore(&mut self, name: &str, restored: &Restored) -> Result<(), FeatureError> {
        self.state.restore(name, restored)?;
        if let GroupKey::Own { index, .. } = &mut self.key {
            *index = KeyIndex::restore(restored.section(&format!("{name}/keys"))?)?;
            // Slots that were not given back when keys never were.
            for slot in 0..index.len() as u32 {
                if index.has_key(slot) && self.state.is_unknown(slot) {
                    index.forget(slot);
                }
            }
        }
        Ok(())
    }
}

impl GroupKey {
    fn own(plan: &Plan, schema: &SchemaRef, key: &[Expr]) -> Result<Self, FeatureError> {
        let exprs = key
            .iter()
            .map(|expr| plan.compile(expr, schema))
            .collect::<Result<Vec<_>, _>>()?;
        let types = exprs
            .iter()
            .map(|expr| type_of(expr, schema))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(GroupKey::Own {
            parts: Program::new(
                exprs.into_iter().map(|expr| (expr, "PARTITION BY".into())),
                schema,
            ),
            encoder: KeyEncoder::new(&types)?,
            index: KeyIndex::default(),
        })
    }
}

/// Type of an expression over the relation.
pub(crate) fn type_of(
    expr: &Arc<dyn PhysicalExpr>,
    schema: &SchemaRef,
) -> Result<DataType, FeatureError> {
    expr.data_type(schema).map_err(|e| FeatureError::sql(&e))
}

/// Computes windows; those that no kernel computes, from the rows of their frames.
fn run(
    state: &mut WindowState,
    results: &[(DataType, Option<FrameAggregate>)],
    rows: &WindowRows<'_>,
    threads: &Threads,
) -> Result<GroupOutput, FeatureError> {
    // Values of the windows that no kernel computes, each with its row; threads put them there as they come.
    let values: Vec<_> = results.iter().map(|_| Mutex::new(Vec::new())).collect();
    let failed = Mutex::new(None);
    let output = state.compute(rows, threads, &|window, row, columns| {
        let aggregate = results[window].1.as_ref();
        let aggregate = aggregate.expect("the plan gives one for each such window");
        match aggregate.value(columns) {
            Ok(value) => locked(&values[window]).push((row, value)),
            Err(error) => {
                let told = StateError::Unsupported(error.to_string());
                locked(&failed).get_or_insert(error);
                return Err(told);
            }
        }
        Ok(())
    });
    if let Some(error) = locked(&failed).take() {
        return Err(error);
    }
    let WindowOutput {
        columns,
        late,
        capped,
    } = output?;
    let columns = (columns.into_iter().zip(results).zip(&values))
        .map(|((column, (data_type, aggregate)), values)| {
            let column = match (column, aggregate) {
                (Some(column), _) => column,
                (None, Some(aggregate)) => {
                    let mut values = std::mem::take(&mut *locked(values));
                    values.sort_unstable_by_key(|(row, _)| *row);
                    aggregate.column(values.into_iter().map(|(_, value)| value).collect())?
                }
                (None, None) => unreachable!("the plan gives one for each such window"),
            };
            match column.data_type() == data_type {
                true => Ok(column),
                false => Ok(cast(&column, data_type)?),
            }
        })
        .collect::<Result<Vec<_>, FeatureError>>()?;
    Ok(GroupOutput {
        columns,
        late,
        capped,
    })
}

/// A thread that panics takes the others with it, so nobody sees what it left.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Prepared {
    /// Finds what computes a call; refuses what nothing can, and what counts rows where rows are of
    /// several kinds.
    fn of(
        call: &WindowCall,
        plan: &Plan,
        relation: &Relation,
        schema: &SchemaRef,
    ) -> Result<Self, FeatureError> {
        let refuse =
            |reason: String, cure: &str| Err(FeatureError::refused(&call.text, reason, cure));
        check_rows(call, plan, relation)?;
        check_key(call, plan, relation)?;
        let unbounded = matches!(
            call.frame,
            Frame::Range {
                preceding_us: None,
                ..
            } | Frame::Rows {
                preceding: None,
                ..
            }
        );
        let mut reason = None;
        if let Some(kernel) = call.kernel {
            let columns = call.kernel_columns(kernel, plan, schema)?;
            let output = match kernel {
                Function::Min | Function::Max | Function::Nth { .. } => {
                    columns[0].data_type.clone()
                }
                _ => call.data_type.clone(),
            };
            let prepared = Prepared {
                function: kernel,
                columns,
                only: None,
                output,
                from_rows: None,
            };
            match prepared.check(call.frame) {
                Ok(()) => return Ok(prepared),
                Err(error) => reason = Some(error),
            }
        }
        let Some(aggregate) = &call.aggregate else {
            let reason = reason.map_or_else(String::new, |e| e.to_string());
            let cure = match unbounded {
                true => {
                    "bound the frame: RANGE BETWEEN INTERVAL '30 days' PRECEDING AND CURRENT ROW"
                }
                false => "cast the argument to bigint, decimal, double or varchar",
            };
            return refuse(reason, cure);
        };
        if unbounded {
            return refuse(
                "over an UNBOUNDED frame it would need every row that ever was".into(),
                "bound the frame: RANGE BETWEEN INTERVAL '30 days' PRECEDING AND CURRENT ROW; \
                 count, min, max, and sum and avg of bigint or decimal may be unbounded",
            );
        }
        let (from_rows, columns) = FrameAggregate::new(call, aggregate, plan, schema)?;
        let prepared = Prepared {
            function: Function::Rows,
            columns,
            only: call.only()?,
            output: call.data_type.clone(),
            from_rows: Some(from_rows),
        };
        match prepared.check(call.frame) {
            Ok(()) => Ok(prepared),
            Err(error) => refuse(error.to_string(), OTHERWISE),
        }
    }

    /// What a row's ring must keep.
    fn exprs(&self) -> impl Iterator<Item = &Expr> {
        self.columns.iter().map(|kept| &kept.expr).chain(&self.only)
    }

    /// Whether windows can be made of it.
    fn check(&self, frame: Frame) -> Result<(), StateError> {
        let columns: Vec<Column> = (self.columns.iter())
            .map(|kept| Column {
                data_type: kept.data_type.clone(),
            })
            .collect();
        let aggregate = Aggregate {
            function: self.function,
            columns: (0..columns.len()).collect(),
            only: None,
            frame: 0,
            output: self.output.clone(),
        };
        WindowSpec::new(columns, vec![frame], vec![aggregate], 0).map(|_| ())
    }
}

/// Refuses what counts rows as such where rows are of several kinds.
fn check_rows(call: &WindowCall, plan: &Plan, relation: &Relation) -> Result<(), FeatureError> {
    let several = relation.labels.is_some() || relation.streams.len() > 1;
    let by_stream =
        (call.partition_by.iter()).any(|key| key.column_refs().iter().any(|c| c.name == STREAM));
    if !several || by_stream {
        return Ok(());
    }
    let by_place = matches!(call.frame, Frame::Rows { .. })
        || matches!(call.kernel, Some(Function::Nth { .. }));
    if by_place {
        return Err(FeatureError::refused(
            &call.text,
            "it counts rows as such, those of labels and other streams too",
            "write PARTITION BY ..., stream",
        ));
    }
    let of_extreme = matches!(call.kernel, Some(Function::Min | Function::Max));
    if call.filter.is_some() || (of_extreme && call.level == 0) {
        return Ok(());
    }
    // Columns that every row has, and those that label rows have or take over from their event.
    let mut shared = vec![EVENT_TIME, STREAM];
    let keys = plan.key_columns(relation);
    if let Some(labels) = &relation.labels {
        shared.push(&labels.reference);
        shared.extend(
            keys.iter()
                .map(|at| relation.schema.field(*at).name().as_str()),
        );
    }
    // What windows and tables say, they say of every row.
    let is_own = |name: &str| relation.schema.index_of(name).is_ok() && !shared.contains(&name);
    let own = (call.arguments.iter())
        .flat_map(|argument| argument.column_refs())
        .any(|c| is_own(&c.name));
    match own {
        true => Ok(()),
        false => Err(FeatureError::refused(
            &call.text,
            "it counts rows as such, those of labels and other streams too",
            "aggregate a column that only this stream has, such as count(amount), or add \
             FILTER (WHERE stream = '...')",
        )),
    }
}

/// Refuses a key that is known too late to judge rows by, where those that come too late are refused.
fn check_key(call: &WindowCall, plan: &Plan, relation: &Relation) -> Result<(), FeatureError> {
    let by_window = (call.partition_by.iter()).any(|key| !plan.windows_of(key).is_empty());
    match by_window && relation.late_rows == LateRows::Refuse {
        false => Ok(()),
        true => Err(FeatureError::refused(
            &call.text,
            "whether a row comes too late for its key is judged before any window is computed",
            "partition by the event's own columns, or take late rows: lateness: {beyond: decide}",
        )),
    }
}

/// The rows `picks` of a batch's columns.
pub(crate) fn take_rows(
    columns: &[ArrayRef],
    picks: &UInt32Array,
) -> Result<Vec<ArrayRef>, FeatureError> {
    columns
        .iter()
        .map(|column| Ok(arrow::compute::take(column, picks, None)?))
        .collect()
}
