//! The life of an event, on one screen: features, score, judgement.
//!
//! [`Pipeline::process`] is the fold: synchronous, without IO, clock or randomness. The live line
//! (`line.rs`) runs the same three stages one thread each; `parts` hands them over.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, UInt32Array};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use sanderling_decide::{Policy, PolicyError, Settled};
use sanderling_explain::{ExplainError, Explainer, Rows};
use sanderling_features::{FeatureEngine, FeatureError};
use sanderling_ingest::StreamSpec;
use sanderling_schemas::{
    Action, Attribution, DeadLetter, Decision, EventBatch, EventTime, FeatureBatch, FeatureRow,
    Flag, OrderRecord, OrderVersions, RejectReason, Relation, Rung, Sequence, Versions,
};
use sanderling_scoring::{
    ModelInputs, Placement, Scored, ScoringError, ServedModel, feature_matrix,
};

use crate::failure::Failure;
use crate::folder::PipelineFolder;
use crate::roster::{Rated, Roster};
use crate::run::Sampler;
use crate::settings::DrillSettings;
use crate::tables::{Tables, versions};

/// Seed of sampled attributions, of which a pipeline of six groups or fewer has none.
const SAMPLING_SEED: u64 = 0;

/// A stage that could not do its work. Bad input never gets this far; this is a fault of ours or of
/// the folder.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// Of the feature engine.
    #[error("features: {0}")]
    Features(#[from] FeatureError),
    /// Of the scorer.
    #[error("scoring: {0}")]
    Scoring(#[from] ScoringError),
    /// Of the explainer.
    #[error("explain: {0}")]
    Explain(#[from] ExplainError),
    /// Of the policy.
    #[error("decide: {0}")]
    Policy(#[from] PolicyError),
    /// Of arrow.
    #[error("rows: {0}")]
    Arrow(#[from] arrow::error::ArrowError),
}

/// The whole fold over one pipeline's events.
pub struct Pipeline {
    /// Events to feature rows.
    pub features: FeatureEngine,
    /// Feature rows to scores.
    pub models: Roster,
    /// Scores to decisions.
    pub judge: Judge,
    /// Slowness added on purpose; the live line alone minds it.
    pub drill: Drill,
    /// Takes samples for the parity check; the live line alone minds it.
    pub sampler: Option<Arc<Sampler>>,
}

/// How much longer each rung takes than it has to: a rehearsal of an overload.
#[derive(Debug, Clone, Default)]
pub struct Drill([Duration; Rung::ALL.len()]);

impl Drill {
    /// As `drill:` says.
    pub fn of(settings: &DrillSettings) -> Self {
        let of = |rung| settings.score_row_us.get(&rung).copied().unwrap_or(0);
        Self(Rung::ALL.map(|rung| Duration::from_micros(of(rung))))
    }

    /// Takes the time that `rows` rows take longer on `rung`.
    pub fn wait(&self, rung: Rung, rows: usize) {
        let longer = self.0[rung as usize];
        if !longer.is_zero() {
            std::thread::sleep(longer * rows as u32);
        }
    }
}

impl Pipeline {
    /// The fold of a folder, with empty state. A long batch is featurised and scored on `threads` cores, which
    /// changes no decision.
    pub fn new(folder: &PipelineFolder, threads: usize) -> Result<Self, Failure> {
        let features = folder.features()?.with_threads(threads);
        let all = folder.models(features.schema())?;
        let models = Roster::new(&all, features.schema(), &folder.relation, threads)
            .map_err(|e| folder.model_failure(&e))?;
        let judge = Judge::new(folder, &all)?;
        Ok(Self {
            features,
            models,
            judge,
            drill: Drill::default(),
            sampler: None,
        })
    }

    /// What becomes of a batch. Batch boundaries never change a decision.
    pub fn process(&mut self, batch: &EventBatch, rung: Rung) -> Result<Judged, PipelineError> {
        let features = self.features.compute(batch)?;
        let rated = self.models.score(&features, rung)?;
        Ok(Judged {
            decisions: self.judge.judge(&features, &rated)?,
            dead_letters: self.judge.too_late(&features),
        })
    }
}

/// What became of a batch; its other rows only moved state.
pub struct Judged {
    /// In the order of their events.
    pub decisions: Vec<Decision>,
    /// Rows that came too late, where the pipeline refuses them.
    pub dead_letters: Vec<DeadLetter>,
}

/// The stage that acts on scores: policy, attributions for whatever is not approved, reasons.
pub struct Judge {
    relation: Arc<Relation>,
    policy: Policy,
    /// The champion that it began with.
    model: Arc<ServedModel>,
    /// What it needs of each model that may decide, by hash.
    seats: BTreeMap<Arc<str>, Seat>,
    /// An engine without state, for the features of an event whose entities were never seen.
    unseen: FeatureEngine,
    /// Versions of the reference tables.
    tables: BTreeMap<String, String>,
    decide_from_us: i64,
    labels_are_made: bool,
    streams: Vec<StreamSpec>,
}

/// What belongs to the model that decides.
struct Seat {
    model: Arc<ServedModel>,
    thresholds: Settled,
    explainer: Explainer,
    versions: Arc<Versions>,
}

impl Judge {
    /// Of `models` the first decides, until another is appointed.
    fn new(folder: &PipelineFolder, models: &[Arc<ServedModel>]) -> Result<Self, Failure> {
        let unseen = folder.features()?;
        let policy = folder.policy(unseen.schema())?;
        let mut seats = BTreeMap::new();
        for model in models {
            let groups: Vec<String> = model.groups().iter().map(|g| g.name.clone()).collect();
            policy
                .validate(model.output(), &groups)
                .map_err(|e| folder.policy_failure(&e))?;
            let thresholds = policy
                .settle(model.manifest().held_out.as_ref())
                .map_err(|e| folder.policy_failure(&e))?;
            let decided_by = Versions {
                engine: env!("CARGO_PKG_VERSION").into(),
                numerics: model.numerics().into(),
                pipeline: folder.version.clone(),
                features: unseen.schema().hash.clone(),
                model: model.hash().into(),
                policy: policy.version().into(),
            };
            let explainer = Explainer::new(
                model.groups(),
                model.medians(),
                model.cold_context(),
                SAMPLING_SEED,
            )
            .map_err(|e| Failure::new("model", e.to_string()).in_file(&folder.model_path()))?;
            let seat = Seat {
                model: model.clone(),
                thresholds,
                explainer,
                versions: Arc::new(decided_by),
            };
            seats.insert(model.hash().into(), seat);
        }
        Ok(Self {
            relation: folder.relation.clone(),
            policy,
            model: models[0].clone(),
            seats,
            unseen,
            tables: versions(&folder.catalog.tables),
            decide_from_us: i64::MIN,
            labels_are_made: false,
            streams: folder.streams.clone(),
        })
    }

    /// Rows before `time` are folded as state only: they get no decision.
    pub fn decide_from(mut self, time: EventTime) -> Self {
        self.decide_from_us = time.0;
        self
    }

    /// Takes other versions of the reference tables.
    pub fn set_tables(&mut self, tables: &Tables) -> Result<(), PipelineError> {
        self.tables = versions(tables);
        Ok(self.unseen.set_tables(tables)?)
    }

    /// What decides, unless another model is appointed.
    pub fn versions(&self) -> &Arc<Versions> {
        &self.seats[self.model.hash()].versions
    }

    /// Where the champion that it began with scores.
    pub fn placement(&self) -> &Placement {
        self.model.placement()
    }

    /// The relation whose events it judges.
    pub fn relation(&self) -> &Arc<Relation> {
        &self.relation
    }

    /// Label rows were made from a file's column: they follow from the rows, so that order records
    /// leave them out.
    pub fn labels_are_made(mut self, made: bool) -> Self {
        self.labels_are_made = made;
        self
    }

    /// What the fold cannot recompute about a batch.
    pub fn order(&self, batch: &FeatureBatch, rated: &Rated) -> OrderRecord {
        let versions = &self.seats[&rated.champion].versions;
        let made = self
            .relation
            .labels
            .as_ref()
            .filter(|_| self.labels_are_made);
        let made = made.map(|labels| labels.stream as i8);
        let streams = batch.events.streams();
        let recorded = batch
            .events
            .ids
            .iter()
            .zip(streams)
            .filter(|(_, stream)| Some(**stream) != made);
        OrderRecord {
            sequence: batch.events.sequence,
            rung: rated.scored.batch.rung,
            lane: None,
            backlog: false,
            versions: OrderVersions {
                features: versions.features.clone(),
                model: versions.model.clone(),
                policy: versions.policy.clone(),
                tables: self.tables.clone(),
            },
            runs: OrderRecord::runs_of(recorded.map(|(id, _)| id)),
        }
    }

    /// Attribution groups, in order.
    pub fn groups(&self) -> Vec<String> {
        self.model.groups().iter().map(|g| g.name.clone()).collect()
    }

    /// Decisions for the scored rows of a batch that are not before the start.
    pub fn judge(
        &self,
        batch: &FeatureBatch,
        rated: &Rated,
    ) -> Result<Vec<Decision>, PipelineError> {
        let (scored, seat) = (&rated.scored, &self.seats[&rated.champion]);
        let mut actions = (self.policy).act(&seat.thresholds, &scored.batch, &batch.features)?;
        let times = batch.events.event_times_us();
        let decided: Vec<bool> = batch
            .scored
            .iter()
            .map(|&row| times[row as usize] >= self.decide_from_us)
            .collect();
        let alerts: Vec<u32> = (0..batch.scored.len() as u32)
            .filter(|&pick| decided[pick as usize] && actions[pick as usize] != Action::Approve)
            .collect();
        let mut attributions = self.attribute(seat, batch, scored, &alerts)?.into_iter();
        let streams = batch.events.streams();
        let keys = self.keys(batch)?;
        let mut decisions = Vec::with_capacity(batch.scored.len());
        for (pick, action) in actions.drain(..).enumerate() {
            if !decided[pick] {
                continue;
            }
            let row = batch.scored[pick] as usize;
            let features = FeatureRow {
                batch: batch.features.clone(),
                row: pick,
            };
            let attribution = match action {
                Action::Approve => None,
                _ => attributions.next(),
            };
            decisions.push(Decision {
                event: batch.events.ids[row].clone(),
                key: keys[streams[row] as usize]
                    .as_ref()
                    .and_then(|key| key.is_valid(row).then(|| key.text(row))),
                event_time: EventTime(times[row]),
                sequence: Sequence(batch.events.sequence.0 + row as u64),
                stream: self.relation.streams[streams[row] as usize].name.clone(),
                action,
                output: scored.batch.output,
                score: scored.batch.scores[pick],
                rung: scored.batch.rung,
                reasons: match &attribution {
                    Some(attribution) => self.policy.reasons(attribution, &features)?,
                    None => Vec::new(),
                },
                features,
                attribution,
                shadow: (rated.shadows.iter())
                    .map(|(model, scores)| (model.clone(), scores[pick]))
                    .collect(),
                flags: [
                    (Flag::Late, batch.late[pick]),
                    (Flag::Capped, batch.capped[pick]),
                ]
                .into_iter()
                .filter_map(|(flag, is)| is.then_some(flag))
                .collect(),
                versions: seat.versions.clone(),
            });
        }
        Ok(decisions)
    }

    /// The rows of a batch that were refused for being late. Their bytes are gone by now: the row
    /// stands for them, as a record of its stream.
    pub fn too_late(&self, batch: &FeatureBatch) -> Vec<DeadLetter> {
        let (events, streams) = (&batch.events, batch.events.streams());
        (batch.too_late.iter())
            .map(|late| {
                let row = late.row as usize;
                let whose = match &*late.key {
                    "" => String::new(),
                    key => format!(" with its {key}"),
                };
                DeadLetter {
                    event: events.ids[row].clone(),
                    reason: RejectReason::TooLate,
                    detail: format!(
                        "{} s behind the newest row{whose}; {} s are allowed",
                        late.behind_us as f64 / 1e6,
                        self.relation.lateness_us as f64 / 1e6
                    ),
                    raw: self.streams[streams[row] as usize].record_of(&events.rows, row),
                    sealed: None,
                    key: None,
                }
            })
            .collect()
    }

    /// Attributions of the scored rows `alerts`, in their order.
    fn attribute(
        &self,
        seat: &Seat,
        batch: &FeatureBatch,
        scored: &Scored,
        alerts: &[u32],
    ) -> Result<Vec<Attribution>, PipelineError> {
        if alerts.is_empty() {
            return Ok(Vec::new());
        }
        let cold_features = feature_matrix(&self.unseen.cold(batch, alerts)?)?;
        let sequence = |row: u32| Sequence(batch.events.sequence.0 + u64::from(row));
        let rows = Rows {
            inputs: &pick(&scored.inputs, alerts),
            cold_features: &cold_features,
            scores: &alerts
                .iter()
                .map(|&i| scored.batch.scores[i as usize])
                .collect::<Vec<_>>(),
            sequences: &alerts
                .iter()
                .map(|&i| sequence(batch.scored[i as usize]))
                .collect::<Vec<_>>(),
        };
        Ok(seat
            .explainer
            .explain(&*seat.model, &rows, scored.batch.rung)?)
    }

    /// For each stream, the column that keys it.
    fn keys<'a>(
        &self,
        batch: &'a FeatureBatch,
    ) -> Result<Vec<Option<KeyColumn<'a>>>, PipelineError> {
        self.relation
            .streams
            .iter()
            .map(|stream| {
                match stream
                    .key
                    .as_deref()
                    .and_then(|key| batch.events.column(key))
                {
                    None => Ok(None),
                    Some(column) => Ok(Some(KeyColumn {
                        column,
                        text: ArrayFormatter::try_new(column, &FormatOptions::default())?,
                    })),
                }
            })
            .collect()
    }
}

/// The rows `picks` of what a model saw.
fn pick(inputs: &ModelInputs, picks: &[u32]) -> ModelInputs {
    let rows_of = |values: &[f32]| {
        let width = values.len() / inputs.rows;
        picks
            .iter()
            .flat_map(|&i| &values[i as usize * width..][..width])
            .copied()
            .collect()
    };
    ModelInputs {
        rows: picks.len(),
        features: rows_of(&inputs.features),
        context: rows_of(&inputs.context),
    }
}

/// A key column and how its values are written.
struct KeyColumn<'a> {
    column: &'a dyn Array,
    text: ArrayFormatter<'a>,
}

impl KeyColumn<'_> {
    fn is_valid(&self, row: usize) -> bool {
        self.column.is_valid(row)
    }

    fn text(&self, row: usize) -> Box<str> {
        self.text.value(row).to_string().into_boxed_str()
    }
}

/// The values of the source's id column for a batch's decisions, under their own type.
pub fn source_ids(
    relation: &Relation,
    batch: &FeatureBatch,
    decisions: &[Decision],
) -> Result<Option<arrow::array::ArrayRef>, PipelineError> {
    let Some(column) = relation
        .id
        .as_deref()
        .and_then(|id| batch.events.column(id))
    else {
        return Ok(None);
    };
    let rows: UInt32Array = decisions
        .iter()
        .map(|d| Some((d.sequence.0 - batch.events.sequence.0) as u32))
        .collect();
    Ok(Some(arrow::compute::take(column, &rows, None)?))
}
