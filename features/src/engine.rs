//! The feature engine: one fold step from events to feature rows.

mod snapshot;

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{Schema, TimestampMicrosecondType};
use sanderling_schemas::{EventBatch, FeatureBatch, FeatureSchema, LateRows, Relation, TooLate};
use sanderling_state::Threads;
use sanderling_state::window::Footprint;
use sha2::{Digest, Sha256};

use crate::catalog::{Catalog, Table};
use crate::clock::Clock;
use crate::entities::EntityKeys;
use crate::groups::{GroupOutput, GroupRows, WindowGroup};
use crate::key_sample::KeySample;
use crate::labels::{Joined, LabelJoin};
use crate::lateness::Lateness;
use crate::layers::Layers;
use crate::log_sample::LogSample;
use crate::outputs::Outputs;
use crate::parity::{ParityCheck, ParitySample};
use crate::plan::Plan;
use crate::table_index::TableJoins;
use crate::view::EngineView;
use crate::{FeatureError, LabelCounts};

/// SQL compiled over a relation, and all that its windows remember.
pub struct FeatureEngine {
    pub(crate) relation: Arc<Relation>,
    schema: FeatureSchema,
    scored: Vec<bool>,
    pub(crate) labels: Option<LabelJoin>,
    pub(crate) entities: Vec<EntityKeys>,
    layers: Layers,
    joined_on: Vec<(String, Arc<Table>)>,
    /// By level.
    pub(crate) groups: Vec<WindowGroup>,
    outputs: Outputs,
    pub(crate) clock: Clock,
    pub(crate) accepted: u64,
    pub(crate) parity: Arc<ParityCheck>,
    /// The keys that are followed through the log, if any are.
    followed: Option<Arc<KeySample>>,
    threads: Threads,
}

/// What a sample is taken of, beside a batch's features.
struct Sampled {
    /// All rows with the columns of every level.
    rows: RecordBatch,
    /// What the SELECT list was evaluated on: scored rows.
    input: RecordBatch,
    /// Which rows entered the windows.
    enters: Vec<bool>,
}

impl FeatureEngine {
    /// Plans and compiles `sql` over the relation `events`.
    ///
    /// # Errors
    /// [`FeatureError::Sql`] for what DataFusion refuses, [`FeatureError::Refused`] for what cannot run
    /// on one event at a time, [`FeatureError::Relation`] where the relation's roles have no column.
    pub fn new(relation: Arc<Relation>, sql: &str) -> Result<Self, FeatureError> {
        Self::with_catalog(relation, sql, &Catalog::default())
    }

    /// The same for SQL that may also name the tables and the functions of `catalog`.
    ///
    /// ```
    /// use std::sync::Arc;
    ///
    /// use arrow::array::{AsArray, Int64Array};
    /// use arrow::datatypes::{DataType, Int64Type};
    /// use sanderling_features::datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
    /// use sanderling_features::{Catalog, FeatureEngine, Function};
    /// # use sanderling_schemas::{LateRows, Relation, Stream};
    ///
    /// // The first six digits of a card's number: who has issued it.
    /// let issuer = create_udf(
    ///     "issuer",
    ///     vec![DataType::Int64],
    ///     DataType::Int64,
    ///     Volatility::Immutable,
    ///     Arc::new(|arguments: &[ColumnarValue]| {
    ///         let numbers = ColumnarValue::values_to_arrays(arguments)?;
    ///         let numbers = numbers[0].as_primitive::<Int64Type>();
    ///         let issuers: Int64Array = numbers.unary(|number| number / 10_000_000_000);
    ///         Ok(ColumnarValue::Array(Arc::new(issuers)))
    ///     }),
    /// );
    /// let catalog = Catalog {
    ///     functions: vec![Function::Scalar(Arc::new(issuer))],
    ///     ..Catalog::default()
    /// };
    /// # let relation = Arc::new(Relation {
    /// #     schema: Relation::schema_of(&[("card".into(), DataType::Int64)]),
    /// #     streams: vec![Stream { name: "payments".into(), scored: true, key: None }],
    /// #     id: None,
    /// #     entities: Vec::new(),
    /// #     labels: None,
    /// #     lateness_us: 0,
    /// #     late_rows: LateRows::Decide,
    /// #     rows_per_key_max: None,
    /// # });
    /// let sql = "SELECT count(*) OVER (PARTITION BY issuer(card) ORDER BY event_time \
    ///            RANGE INTERVAL '1 hour' PRECEDING) AS of_issuer FROM events";
    /// let engine = FeatureEngine::with_catalog(relation, sql, &catalog)?;
    /// # let schema = engine.schema();
    /// # assert_eq!(schema.fields[0].name, "of_issuer");
    /// # Ok::<(), sanderling_features::FeatureError>(())
    /// ```
    ///
    /// # Errors
    /// As [`FeatureEngine::new`]; [`FeatureError::Table`] where a table cannot be joined as `sql` does.
    pub fn with_catalog(
        relation: Arc<Relation>,
        sql: &str,
        catalog: &Catalog,
    ) -> Result<Self, FeatureError> {
        let plan = Plan::new(sql, &relation.schema, catalog)?;
        let entities = EntityKeys::all(&relation)?;
        let labels = LabelJoin::of(&relation, plan.key_columns(&relation))?;
        let layers = Layers::new(&plan, &relation.schema)?;
        let groups = WindowGroup::of(&plan, &relation, layers.schema())?;
        let outputs = Outputs::of(&plan, layers.schema())?;
        let again = |group: &WindowGroup| (group.calls().clone(), group.logged().clone());
        let calls = groups.iter().map(again).collect();
        let parity = ParityCheck::new(calls, relation.lateness_us, outputs.again(&plan)?);
        Ok(FeatureEngine {
            schema: FeatureSchema {
                fields: outputs.fields(&plan, &relation),
                hash: hex::encode(Sha256::digest(sql)).into(),
            },
            scored: relation
                .streams
                .iter()
                .map(|stream| stream.scored)
                .collect(),
            labels,
            entities,
            joined_on: plan.joined_on(),
            layers,
            groups,
            outputs,
            clock: Clock::default(),
            accepted: 0,
            parity: Arc::new(parity),
            followed: None,
            threads: Threads::new(1),
            relation,
        })
    }

    /// The engine with the keys of a long batch split over so many threads, which changes no feature.
    #[must_use]
    pub fn with_threads(self, threads: usize) -> Self {
        FeatureEngine {
            threads: Threads::new(threads),
            ..self
        }
    }

    /// The columns of the feature rows.
    pub fn schema(&self) -> &FeatureSchema {
        &self.schema
    }

    /// What became of the label rows so far.
    pub fn label_counts(&self) -> LabelCounts {
        self.labels
            .as_ref()
            .map(LabelJoin::counts)
            .unwrap_or_default()
    }

    /// Takes a batch into the state, row by row, and gives the features of its scored rows. The
    /// result of a row does not depend on how rows are cut into batches. An expression that fails on
    /// a row's values, as a division by zero does, is NULL there. Where the relation refuses late
    /// rows, such a row is in the batch, but as if it had never come.
    ///
    /// # Errors
    /// [`FeatureError::Batch`] for rows of another relation, [`FeatureError::Evaluate`] where an
    /// expression fails. The state is then undefined: restore it before going on.
    pub fn compute(&mut self, batch: &EventBatch) -> Result<FeatureBatch, FeatureError> {
        Ok(self.compute_whole(batch)?.0)
    }

    /// The same, and of the batch's last scored row what is needed to compute its features again by other
    /// means: of none if a later row of the batch has moved the windows, a key has too many rows, or the row
    /// is none that is asked for (see [`KeySample::ask_for_any`]).
    ///
    /// # Errors
    /// As [`FeatureEngine::compute`].
    pub fn compute_sampled(
        &mut self,
        batch: &EventBatch,
    ) -> Result<(FeatureBatch, Option<ParitySample>), FeatureError> {
        let (features, sampled) = self.compute_whole(batch)?;
        let last = sampled.enters.iter().rposition(|enters| *enters);
        let sample = match (features.scored.last(), last) {
            (Some(scored), Some(last)) if *scored as usize == last => {
                self.sample(&features, last, &sampled)?
            }
            _ => None,
        };
        Ok((features, sample))
    }

    /// A sample of the keys of this engine's windows, to follow them through the log; of all keys at first.
    pub fn key_sample(&self) -> KeySample {
        KeySample::of_all(self.groups.len())
    }

    /// Has rows of these keys sampled before others.
    pub fn follow(&mut self, keys: Arc<KeySample>) {
        self.followed = Some(keys);
    }

    /// What follows `keys` through the log. The log's rows from event time `from_us` on, microseconds, are
    /// to be folded into it, those of all streams; `i64::MIN` says that those are all there ever were. At
    /// most about `rows_max` rows are kept. `None` where no window of the engine can be computed
    /// from the log's rows of some keys alone.
    ///
    /// # Errors
    /// [`FeatureError::Arrow`] for arguments whose type has no row format.
    pub fn log_sample(
        &self,
        keys: Arc<KeySample>,
        from_us: i64,
        rows_max: usize,
    ) -> Result<Option<LogSample>, FeatureError> {
        let labels = match &self.labels {
            Some(labels) => labels.fresh(&self.relation)?,
            None => None,
        };
        LogSample::new(
            &self.parity,
            &self.relation,
            labels,
            keys,
            from_us,
            rows_max,
        )
    }

    /// A sample of the last scored row, `row` of the batch.
    fn sample(
        &self,
        batch: &FeatureBatch,
        row: usize,
        sampled: &Sampled,
    ) -> Result<Option<ParitySample>, FeatureError> {
        let event = sampled.rows.slice(row, 1);
        if let Some(keys) = &self.followed
            && !keys.asks_for_any()
            && !self.parity.is_of(keys, &event)?
        {
            return Ok(None);
        }
        let slots: Vec<u32> = batch.slots.iter().map(|slots| slots[row]).collect();
        let mut keys = Vec::with_capacity(self.groups.len());
        for group in &self.groups {
            match group.rows_of(&event, &slots)? {
                Some(rows) => keys.push(rows),
                None => return Ok(None),
            }
        }
        let last = batch.features.num_rows() - 1;
        Ok(Some(ParitySample {
            event: batch.events.ids[row].clone(),
            check: self.parity.clone(),
            time_us: batch.events.event_times_us()[row],
            sequence: batch.events.sequence.0 + row as u64,
            row: event,
            keys,
            input: sampled.input.slice(last, 1),
            results: self.outputs.results().collect(),
            features: batch.features.slice(last, 1),
        }))
    }

    /// The features, and what else a sample is taken of.
    fn compute_whole(
        &mut self,
        batch: &EventBatch,
    ) -> Result<(FeatureBatch, Sampled), FeatureError> {
        self.check(batch)?;
        let (joined, too_late) = self.join_in_time(batch)?;
        let Joined {
            rows,
            enters,
            labels,
        } = joined;
        let events = EventBatch {
            rows,
            ..batch.clone()
        };
        let mut emits: Vec<bool> = events
            .streams()
            .iter()
            .map(|stream| self.scored[*stream as usize])
            .collect();
        for refused in &too_late {
            emits[refused.row as usize] = false;
        }
        let scored: Vec<u32> = (0u32..)
            .zip(&emits)
            .filter(|(_, emits)| **emits)
            .map(|(row, _)| row)
            .collect();
        let (of, enter) = (&events.rows, &enters);
        let slots = self.entities.iter_mut();
        let slots = slots.map(|entity| move || entity.slots(of, enter));
        let slots = self.threads.run(events.len(), slots.collect());
        let slots = slots.into_iter().collect::<Result<Vec<_>, _>>()?;

        let times_us = events.event_times_us();
        let mut refused = too_late.iter().map(|late| late.row as usize).peekable();
        let (clock_us, credible_us): (Vec<i64>, Vec<i64>) = (times_us.iter().enumerate())
            .map(|(row, time_us)| match refused.next_if_eq(&row) {
                Some(_) => (self.clock.now_us(), self.clock.now_us()),
                None => self.clock.observe(*time_us),
            })
            .unzip();
        let mut rows = self.layers.rows(&events.rows);
        let mut results = Vec::with_capacity(self.groups.len());
        for group in &mut self.groups {
            let below = group.is_below();
            let result = group.compute(&GroupRows {
                rows: rows.at(group.level())?,
                times_us,
                credible_us: &credible_us,
                clock_us: &clock_us,
                enters: &enters,
                emits: if below { &enters } else { &emits },
                slots: &slots,
                threads: &self.threads,
            })?;
            results.push(match below {
                true => group.pass_on(result, &enters, &emits, &mut rows)?,
                false => result,
            });
        }
        let rows = rows.all()?;
        let any = |of: fn(&GroupOutput) -> &[bool]| {
            let mut any = vec![false; scored.len()];
            for result in &results {
                any.iter_mut()
                    .zip(of(result))
                    .for_each(|(any, is)| *any |= is);
            }
            any
        };
        let late = any(|result| &result.late);
        let capped = any(|result| &result.capped);
        let picked = match scored.len() == events.len() {
            true => None,
            false => Some(&scored[..]),
        };
        let (features, input) = self.features(&rows, picked, results)?;
        self.accepted = events.sequence.0 + events.len() as u64;
        let batch = FeatureBatch {
            events,
            scored,
            features,
            slots,
            labels,
            late,
            capped,
            too_late,
        };
        let sampled = Sampled {
            rows,
            input,
            enters,
        };
        Ok((batch, sampled))
    }

    /// The features that events of a batch would have if every key were never seen before: each
    /// window holds the event alone. `picks` are indices into `batch.scored`; one row for each.
    ///
    /// # Errors
    /// [`FeatureError::Evaluate`] where an expression fails.
    pub fn cold(&self, batch: &FeatureBatch, picks: &[u32]) -> Result<RecordBatch, FeatureError> {
        let rows: Vec<u32> = picks
            .iter()
            .map(|pick| batch.scored[*pick as usize])
            .collect();
        let rows = take_record_batch(&batch.events.rows, &UInt32Array::from(rows))?;
        self.unseen(&rows)
    }

    /// The features that rows of the relation would have if each were the first of all its keys.
    ///
    /// # Errors
    /// [`FeatureError::Evaluate`] where an expression fails.
    pub fn unseen(&self, events: &RecordBatch) -> Result<RecordBatch, FeatureError> {
        let times_us = events.column(0).as_primitive::<TimestampMicrosecondType>();
        let every = vec![true; events.num_rows()];
        let mut rows = self.layers.rows(events);
        let mut results = Vec::with_capacity(self.groups.len());
        for group in &self.groups {
            let result = group.alone(rows.at(group.level())?, times_us.values())?;
            results.push(match group.is_below() {
                true => group.pass_on(result, &every, &every, &mut rows)?,
                false => result,
            });
        }
        Ok(self.features(&rows.all()?, None, results)?.0)
    }

    /// Takes other versions of the reference tables: rows from here on find what these say. What windows
    /// hold of rows before stays as it was.
    ///
    /// # Errors
    /// [`FeatureError::Table`] for a table with other columns than it had, or with a key twice. The tables
    /// before it are taken all the same.
    pub fn set_tables(&mut self, tables: &[Arc<Table>]) -> Result<(), FeatureError> {
        self.layers.set_tables(tables)
    }

    /// How reference tables are joined: whoever indexes them so before they are set has them set at once.
    pub fn joins(&self) -> TableJoins {
        self.layers.joins()
    }

    /// Columns of the relation that reference tables are joined on, each with its table.
    pub fn joined_on(&self) -> &[(String, Arc<Table>)] {
        &self.joined_on
    }

    /// What the windows of all keys keep, the bytes of the entities' keys among it.
    pub fn footprint(&self) -> Footprint {
        let mut all = Footprint::default();
        for group in &self.groups {
            let Footprint { keys, rows, bytes } = group.footprint();
            all.keys += keys;
            all.rows += rows;
            all.bytes += bytes;
        }
        let entities = self.entities.iter().map(|entity| entity.index.bytes());
        all.bytes += entities.sum::<usize>();
        all
    }

    /// Sequence of the row after the last one.
    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    /// What the windows of all keys know now, by reference.
    ///
    /// # Errors
    /// [`FeatureError::Arrow`] for a key whose type has no row format, which the engine itself would
    /// have refused.
    pub fn view(&self) -> Result<EngineView, FeatureError> {
        let entities = (self.entities.iter())
            .map(|keys| Ok(Arc::new(keys.view(&self.relation)?)))
            .collect::<Result<Vec<_>, FeatureError>>()?;
        let clock_us = self.clock.now_us();
        let windows = (self.groups.iter())
            .map(|group| group.view(&self.relation, &entities, clock_us))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(EngineView::new(clock_us, entities, windows))
    }

    /// Keys of windows that have been silent for so long that they are as new, and whose memory was given
    /// back since the engine began.
    pub fn forgotten(&self) -> u64 {
        self.groups.iter().map(WindowGroup::forgotten).sum()
    }

    /// Refuses a batch of another relation.
    fn check(&self, batch: &EventBatch) -> Result<(), FeatureError> {
        let types = |schema: &Schema| -> Vec<_> {
            schema
                .fields()
                .iter()
                .map(|field| field.data_type().clone())
                .collect()
        };
        let expected = &self.relation.schema;
        if !Arc::ptr_eq(expected, &batch.rows.schema())
            && types(expected) != types(&batch.rows.schema())
        {
            return Err(FeatureError::Batch);
        }
        if batch
            .streams()
            .iter()
            .any(|stream| self.scored.get(*stream as usize).is_none())
        {
            return Err(FeatureError::Batch);
        }
        Ok(())
    }

    /// Joins labels to their events, without the rows that are too late.
    fn join_in_time(&mut self, batch: &EventBatch) -> Result<(Joined, Vec<TooLate>), FeatureError> {
        let lateness = Lateness {
            allowed_us: self.relation.lateness_us,
            labels: self
                .relation
                .labels
                .as_ref()
                .map(|labels| labels.stream as i8),
            clock: self.clock.clone(),
        };
        let mut refused = HashSet::new();
        if self.relation.late_rows == LateRows::Decide || !lateness.is_possible(batch) {
            return Ok((self.join(batch, &refused)?, Vec::new()));
        }
        let before = self.labels.as_ref().map(LabelJoin::mark);
        loop {
            let joined = self.join(batch, &refused)?;
            let mut rows = self.layers.rows(&joined.rows);
            let rows = rows.at(0)?;
            let mut newest = (self.groups.iter())
                .map(|group| group.newest(rows, &self.entities))
                .collect::<Result<Vec<_>, _>>()?;
            let too_late = lateness.judge(batch, &joined, &refused, &mut newest);
            let now: HashSet<u32> = too_late.iter().map(|late| late.row).collect();
            if now == refused {
                return Ok((joined, too_late));
            }
            refused = now;
            if let (Some(labels), Some(before)) = (&mut self.labels, &before) {
                labels.back_to(before);
            }
        }
    }

    fn join(&mut self, batch: &EventBatch, refused: &HashSet<u32>) -> Result<Joined, FeatureError> {
        match &mut self.labels {
            Some(labels) => labels.join(batch, refused, |_| true),
            None => Ok(Joined {
                rows: batch.rows.clone(),
                enters: (0..batch.len() as u32)
                    .map(|row| !refused.contains(&row))
                    .collect(),
                labels: Vec::new(),
            }),
        }
    }

    /// Evaluates the SELECT list; `results` hold the picked rows already. Gives what it was evaluated on too.
    fn features(
        &self,
        rows: &RecordBatch,
        picked: Option<&[u32]>,
        results: Vec<GroupOutput>,
    ) -> Result<(RecordBatch, RecordBatch), FeatureError> {
        let results = (self.groups.iter().zip(results))
            .flat_map(|(group, result)| group.windows().iter().copied().zip(result.columns));
        self.outputs.evaluate(rows, picked, results)
    }
}
