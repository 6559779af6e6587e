//! The policy: thresholds and conditions to an action, attributions to reasons.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Float64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use sanderling_schemas::{
    Action, Attribution, FeatureRow, FeatureSchema, HeldOut, Output, Reason, ScoreBatch,
    probability,
};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::condition::{Compiler, Condition};
use crate::place::Source;
use crate::reason::ReasonCodes;
use crate::thresholds::{Aim, Costs, Expected, Settled, Thresholds};
use crate::{POLICY_FILE, PolicyError, REASON_CODES_FILE};

/// Column of the calibrated probability in a condition; NULL where the score is not log-odds.
const PROBABILITY: &str = "probability";
/// Column of the score on its own scale in a condition.
const SCORE: &str = "score";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PolicyFile {
    version: u32,
    #[serde(default)]
    pub(crate) thresholds: Thresholds,
    #[serde(default)]
    score_thresholds: Thresholds,
    pub(crate) reviews_per_day: Option<f64>,
    pub(crate) costs: Option<Costs>,
    #[serde(default)]
    combine: Combine,
    #[serde(default)]
    conditions: Vec<ConditionEntry>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Combine {
    #[default]
    Strictest,
    First,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConditionEntry {
    when: String,
    action: Action,
}

/// What is done about a scored event, and what is said about it. Made once for a pipeline.
#[derive(Debug)]
pub struct Policy {
    thresholds: Thresholds,
    score_thresholds: Thresholds,
    /// What is chosen by the model's held-out rows.
    aim: Option<Aim>,
    combine: Combine,
    conditions: Vec<(Condition, Action)>,
    /// Features, then `probability` and `score`.
    schema: SchemaRef,
    codes: ReasonCodes,
    /// What is wrong with a model whose score is no log-odds.
    misfit: Option<PolicyError>,
    version: Arc<str>,
    declared_versions: (u32, u32),
}

impl Policy {
    /// The policy that the two files say, over these features.
    ///
    /// Fails on what is not YAML of the documented form, on conditions that do not compile over the
    /// features, and on codes that are not unique or could never be given.
    pub fn parse(
        policy_yaml: &str,
        reason_codes_yaml: &str,
        features: &FeatureSchema,
    ) -> Result<Self, PolicyError> {
        let source = Source {
            file: POLICY_FILE,
            text: policy_yaml,
        };
        let file: PolicyFile =
            source.parse("see the form in the documentation: version, thresholds, conditions")?;
        file.thresholds.check(source, "thresholds", true)?;
        file.score_thresholds
            .check(source, "score_thresholds", false)?;
        let aim = Aim::of(source, &file)?;

        let mut fields: Vec<Field> = features
            .fields
            .iter()
            .map(|f| Field::new(&f.name, f.data_type.clone(), true))
            .collect();
        if let Some(taken) = fields
            .iter()
            .find(|f| [PROBABILITY, SCORE].contains(&f.name().as_str()))
        {
            let message = format!(
                "a feature is called {}, which names the model's answer here",
                taken.name()
            );
            return Err(source.fault_of_key(
                "conditions",
                message,
                "rename the feature in features.sql",
            ));
        }
        let feature_schema = Arc::new(Schema::new(fields.clone()));
        fields.push(Field::new(PROBABILITY, DataType::Float64, true));
        fields.push(Field::new(SCORE, DataType::Float64, true));
        let schema = Arc::new(Schema::new(fields));
        let compiler = Compiler::new(schema.clone()).map_err(|message| {
            source.fault_of_key(
                "conditions",
                message,
                "name each feature once in features.sql",
            )
        })?;

        let mut conditions = Vec::with_capacity(file.conditions.len());
        for (i, entry) in file.conditions.iter().enumerate() {
            let condition = compiler.compile(&entry.when).map_err(|message| {
                source.fault(
                    "when",
                    i,
                    &entry.when,
                    message,
                    "write a SQL condition over the features, probability and score",
                )
            })?;
            if entry.action == Action::Approve && file.combine == Combine::Strictest {
                let message = "approve never wins where the strictest action does";
                return Err(source.fault(
                    "when",
                    i,
                    &entry.when,
                    message,
                    "write combine: first, or drop the condition",
                ));
            }
            conditions.push((condition, entry.action));
        }

        let codes_source = Source {
            file: REASON_CODES_FILE,
            text: reason_codes_yaml,
        };
        let (codes, codes_version) = ReasonCodes::parse(codes_source, feature_schema)?;
        let mut hash = Sha256::new();
        for text in [policy_yaml, reason_codes_yaml] {
            hash.update((text.len() as u64).to_le_bytes());
            hash.update(text.as_bytes());
        }
        Ok(Self {
            thresholds: file.thresholds,
            score_thresholds: file.score_thresholds,
            combine: file.combine,
            conditions,
            schema,
            codes,
            misfit: (!file.thresholds.is_empty())
                .then_some(("thresholds", "thresholds are probabilities"))
                .or(aim.map(|aim| {
                    (
                        aim.key(),
                        "what a threshold brings is told of probabilities",
                    )
                }))
                .map(|(key, why)| {
                    source.fault_of_key(
                        key,
                        format!("{why}, and this model's score is none"),
                        "write score_thresholds, on the scale of the model's own score",
                    )
                }),
            aim,
            version: hex::encode(hash.finalize()).into(),
            declared_versions: (file.version, codes_version),
        })
    }

    /// SHA-256 over both files, hex.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The version numbers that `policy.yaml` and `reason_codes.yaml` give themselves.
    pub fn declared_versions(&self) -> (u32, u32) {
        self.declared_versions
    }

    /// Checks that a model fits, whose scores mean `output`: thresholds are on its scale, and
    /// whatever it can attribute a score to can be put in words, since every group has a code that
    /// holds always. Codes of other groups are allowed, for a model without them.
    pub fn validate(&self, output: Output, groups: &[String]) -> Result<(), PolicyError> {
        self.fits(output)?;
        match self.codes.group_without_words(groups) {
            None => Ok(()),
            Some(group) => Err(PolicyError {
                file: REASON_CODES_FILE,
                line: None,
                column: None,
                message: format!(
                    "the group {group:?} of the model has no code without a condition"
                ),
                cure: format!("add a code with `group: {group}` and no `when`"),
            }),
        }
    }

    /// The thresholds for a model that did on held-out rows what `held_out` says.
    ///
    /// # Errors
    /// `reviews_per_day` and `costs` without such rows.
    pub fn settle(&self, held_out: Option<&HeldOut>) -> Result<Settled, PolicyError> {
        let mut settled = Settled {
            by_probability: self.thresholds,
            by_score: self.score_thresholds,
            expected: None,
        };
        match (self.aim, held_out) {
            (Some(aim), Some(held_out)) => {
                settled.by_probability = aim.choose(self.thresholds, held_out);
            }
            (Some(aim), None) => {
                return Err(PolicyError {
                    file: POLICY_FILE,
                    line: None,
                    column: None,
                    message: format!(
                        "{} is met by what the model did on held-out rows, and it tells of none",
                        aim.key()
                    ),
                    cure:
                        "train the model again, with training.hold_out above 0; or write thresholds"
                            .to_string(),
                });
            }
            (None, _) => {}
        }
        settled.expected = held_out
            .filter(|_| !settled.by_probability.is_empty())
            .map(|held_out| Expected::of(settled.by_probability, self.aim, held_out));
        Ok(settled)
    }

    /// What to do about each scored row, by the thresholds for the model that scored. `features` are the rows that were scored, with the columns
    /// the policy was parsed for. A condition does not hold where it is NULL, which it also is where a
    /// row makes it divide by zero or overflow.
    pub fn act(
        &self,
        settled: &Settled,
        scores: &ScoreBatch,
        features: &RecordBatch,
    ) -> Result<Vec<Action>, PolicyError> {
        if scores.scores.len() != features.num_rows() {
            return Err(self.unfit(format!(
                "{} scores for {} rows",
                scores.scores.len(),
                features.num_rows()
            )));
        }
        self.fits(scores.output)?;
        if let Some(row) = scores.scores.iter().position(|s| s.is_nan()) {
            return Err(self.unfit(format!("the score of row {row} is not a number")));
        }
        let mut actions: Vec<Action> = scores
            .scores
            .iter()
            .map(|s| settled.action(scores.output, scores.rung, *s))
            .collect();
        if self.conditions.is_empty() {
            return Ok(actions);
        }
        let rows = self.rows(scores, features)?;
        let mut settled = vec![false; actions.len()];
        for (condition, action) in &self.conditions {
            let holds = condition
                .evaluate(&rows)
                .map_err(|message| self.unfit(message))?;
            for (row, decided) in settled.iter_mut().enumerate() {
                if !holds.is_valid(row) || !holds.value(row) {
                    continue;
                }
                match self.combine {
                    Combine::Strictest => actions[row] = actions[row].max(*action),
                    Combine::First if !*decided => actions[row] = *action,
                    Combine::First => {}
                }
                *decided = true;
            }
        }
        Ok(actions)
    }

    /// The principal reasons for a score, strongest first: the groups that raised it, in words. A
    /// group that lowered it, or did nothing, is no reason.
    pub fn reasons(
        &self,
        attribution: &Attribution,
        features: &FeatureRow,
    ) -> Result<Vec<Reason>, PolicyError> {
        self.codes.reasons(attribution, features)
    }

    fn fits(&self, output: Output) -> Result<(), PolicyError> {
        match &self.misfit {
            Some(misfit) if output != Output::LogOdds => Err(misfit.clone()),
            _ => Ok(()),
        }
    }

    /// What conditions are evaluated over.
    fn rows(
        &self,
        scores: &ScoreBatch,
        features: &RecordBatch,
    ) -> Result<RecordBatch, PolicyError> {
        let probability: Float64Array = match scores.output {
            Output::LogOdds => scores
                .scores
                .iter()
                .map(|s| Some(probability(*s)))
                .collect(),
            Output::Value | Output::Forecast => scores.scores.iter().map(|_| None::<f64>).collect(),
        };
        let mut columns: Vec<ArrayRef> = features.columns().to_vec();
        columns.push(Arc::new(probability));
        columns.push(Arc::new(Float64Array::from(scores.scores.clone())));
        RecordBatch::try_new(self.schema.clone(), columns).map_err(|e| self.unfit(e.to_string()))
    }

    /// What it was given to act on is not what it was made for.
    fn unfit(&self, message: String) -> PolicyError {
        PolicyError {
            file: POLICY_FILE,
            line: None,
            column: None,
            message,
            cure: "thresholds are for models of log-odds, score_thresholds for any".to_string(),
        }
    }
}

#[cfg(test)]
mod tests;
