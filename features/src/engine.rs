//! The feature engine: one fold step from events to feature rows.

mod intake;
mod sample;
mod snapshot;

use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::TimestampMicrosecondType;
use sanderling_schemas::{EventBatch, FeatureBatch, FeatureSchema, Relation};
use sanderling_state::Threads;
use sanderling_state::window::Footprint;
use sha2::{Digest, Sha256};

use crate::catalog::{Catalog, Table};
use crate::clock::Clock;
use crate::entities::EntityKeys;
use crate::groups::{GroupOutput, GroupRows, WindowGroup};
use crate::key_sample::KeySample;
use crate::labels::{Joined, LabelJoin};
use crate::layers::Layers;
use crate::outputs::Outputs;
use crate::parity::ParityCheck;
use crate::plan::Plan;
use crate::table_index::TableJoins;
use crate::view::EngineView;
use crate::{FeatureError, LabelCounts};
use sample::Sampled;

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
