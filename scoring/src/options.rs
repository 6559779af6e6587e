//! What a model is made of and how it is trained; the `model:` section of `pipeline.yaml`.

use sanderling_schemas::{FeatureSchema, Output};
use serde::{Deserialize, Serialize};

use crate::error::ScoringError;

/// Sizes of a model, and which parts of it there are.
///
/// Every key has a default; unknown keys are refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelOptions {
    /// What the score means.
    pub output: Output,
    /// Endpoint memory on or off. Off, the full rung is the model without graph.
    pub graph: bool,
    /// Globs (`*` and `?`) of feature names that the model does not see.
    pub exclude: Vec<String>,
    /// Globs of the features by which an event is remembered; unset: what no label went into and
    /// what tells of the event alone or of its own entity. Every event carries the first stage's
    /// score besides.
    pub remember: Option<Vec<String>>,
    /// Quantile bins of a feature's piecewise-linear embedding.
    pub bins: usize,
    /// Values of a feature around which its embedding has edges because the label changes there most;
    /// 0: none.
    pub splits: usize,
    /// Dimensions of a feature's piecewise-linear embedding; 0: none, features enter as z-scores.
    pub embedding: usize,
    /// Hidden units of the first stage.
    pub first_stage: usize,
    /// Numbers by which an event is remembered; unset: 8, or in a forecast one an input, at most 64.
    pub token: Option<usize>,
    /// Hidden units of the first entity's LSTM; 0: none.
    pub lstm: usize,
    /// Hidden units of an endpoint's GRU over known labels; 0: none.
    pub gru: usize,
    /// Events of the first entity that attention looks over (L); 0: no attention.
    pub own_events: usize,
    /// Events of an endpoint that attention looks over (K); 0: no attention.
    pub endpoint_events: usize,
    /// Attention heads.
    pub heads: usize,
    /// Dimensions of a head.
    pub head_size: usize,
    /// Time since an entity was last seen, or a label known, in days too and not by its logarithm
    /// alone.
    pub days: bool,
    /// Networks whose outputs are averaged; each has its own weights and memory.
    pub members: usize,
    /// Units of the two hidden layers of the head.
    pub hidden: [usize; 2],
    /// How it is trained.
    pub training: TrainingOptions,
}

impl Default for ModelOptions {
    fn default() -> Self {
        Self {
            output: Output::LogOdds,
            graph: true,
            exclude: Vec::new(),
            remember: None,
            bins: 12,
            splits: 3,
            embedding: 4,
            first_stage: 48,
            token: None,
            lstm: 32,
            gru: 16,
            own_events: 16,
            endpoint_events: 16,
            heads: 4,
            head_size: 4,
            days: false,
            members: 1,
            hidden: [128, 64],
            training: TrainingOptions::default(),
        }
    }
}

/// Where a network's gradients are computed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainingDevice {
    /// On the first CUDA device, if this build can use one and there is one; else on the CPU.
    #[default]
    Auto,
    /// On the CPU.
    Cpu,
    /// On the first CUDA device.
    Cuda,
    /// What a GPU would compute, by candle on the CPU: slow, and there to be compared with.
    Graph,
}

impl TrainingDevice {
    fn is_auto(&self) -> bool {
        *self == TrainingDevice::Auto
    }
}

/// Where scores are computed, and how exactly; the `scoring:` section of `pipeline.yaml`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScoringOptions {
    /// What computes them.
    pub device: ScoringDevice,
    /// Numbers that the heads are computed with.
    pub precision: Precision,
}

/// What computes scores. Memory is folded on the CPU in any case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoringDevice {
    /// The first CUDA device, if this build can use one and there is one; else the CPU.
    #[default]
    Auto,
    /// The kernels of the CPU.
    Cpu,
    /// The first CUDA device.
    Cuda,
    /// What a GPU would compute, by candle on the CPU: slow, and there to be compared with.
    Graph,
}

/// Numbers that a device multiplies matrices with. What decides how a value falls into a bin and how
/// attention is shared out is computed in 32 bits in any case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits, 11 of them significant.
    F16,
    /// 16 bits, 8 of them significant.
    Bf16,
}

impl Precision {
    fn is_f32(&self) -> bool {
        *self == Precision::F32
    }
}

/// How a model is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingOptions {
    /// Where gradients are computed.
    #[serde(skip_serializing_if = "TrainingDevice::is_auto")]
    pub device: TrainingDevice,
    /// Numbers that the layers' matrices are multiplied with on a GPU; weights, sums and whatever else there is
    /// stay in 32 bits.
    #[serde(skip_serializing_if = "Precision::is_f32")]
    pub precision: Precision,
    /// Passes over the gradient rows; unset: 16, or 10 beyond 300,000 rows.
    pub epochs: Option<usize>,
    /// Rows of a gradient step; unset: 256, or 512 beyond 300,000 rows.
    pub batch: Option<usize>,
    /// Share of the negatives drawn anew each epoch, reweighted; unset: 0.3, or 0.1 beyond 300,000
    /// rows.
    pub negatives: Option<f64>,
    /// Share of the training rows, the last ones, that are held out: they say when to stop, and
    /// calibration is fitted on them; unset: 0.15, or 0.05 beyond 300,000 rows. 0: nothing is held
    /// out, no epoch is left out, and calibration is fitted on the training rows.
    pub hold_out: Option<f64>,
    /// Peak learning rate of AdamW.
    pub rate: f64,
    /// Passes over the gradient rows when a model goes on from what it is; unset: a quarter of
    /// `epochs`.
    pub update_epochs: Option<usize>,
    /// Peak learning rate then: low, so that what was learnt before is not unlearnt in a week.
    pub update_rate: f64,
    /// Decoupled weight decay, on matrices only.
    pub decay: f64,
    /// Share of the steps over which the rate warms up; a cosine follows.
    pub warm_up: f64,
    /// Largest global norm of a gradient.
    pub clip: f64,
    /// Decay of the moving average of the weights.
    pub average: f64,
    /// Exponent of the focal loss; 0 is cross-entropy.
    pub focal: f64,
    /// Share of the positives that no input tells: they fall on any row alike, and are not learnt by
    /// heart.
    pub unexplained: f64,
    /// Feature by which the rows share those positives: how long nothing has been known of what the
    /// row is about, say, in any unit; below 0 it counts as 0. Scores hold to it too. Unset: all rows alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exposure: Option<String>,
    /// Share of hidden units dropped.
    pub dropout: f64,
    /// Weight of the loss of the head without graph.
    pub no_graph_weight: f64,
    /// Known labels of an endpoint through which gradients flow.
    pub endpoint_steps: usize,
    /// Events of the first entity through which gradients flow.
    pub own_steps: usize,
    /// Epochs between two folds that renew the stored carries.
    pub refresh_epochs: usize,
    /// Days before the gradient rows over which those folds run.
    pub refresh_days: u32,
}

impl Default for TrainingOptions {
    fn default() -> Self {
        Self {
            device: TrainingDevice::Auto,
            precision: Precision::F32,
            epochs: None,
            batch: None,
            negatives: None,
            hold_out: None,
            rate: 2e-3,
            update_epochs: None,
            update_rate: 5e-4,
            decay: 0.01,
            warm_up: 0.1,
            clip: 1.0,
            average: 0.995,
            focal: 1.0,
            unexplained: 0.0,
            exposure: None,
            dropout: 0.2,
            no_graph_weight: 0.3,
            endpoint_steps: 24,
            own_steps: 8,
            refresh_epochs: 4,
            refresh_days: 60,
        }
    }
}

impl ModelOptions {
    /// Refuses sizes that cannot make a model.
    pub fn check(&self) -> Result<(), ScoringError> {
        let sizes = [
            ("bins", self.bins, 256),
            ("first_stage", self.first_stage, 4096),
            ("token", self.token.unwrap_or(1), 1024),
            ("members", self.members, 64),
            ("heads", self.heads, 64),
            ("head_size", self.head_size, 256),
            ("hidden", self.hidden[0], 65_536),
            ("hidden", self.hidden[1], 65_536),
            (
                "training.endpoint_steps",
                self.training.endpoint_steps,
                1024,
            ),
            ("training.own_steps", self.training.own_steps, 1024),
            (
                "training.refresh_epochs",
                self.training.refresh_epochs,
                1_000_000,
            ),
        ];
        for (name, size, max) in sizes {
            if size == 0 || size > max {
                return Err(ScoringError::Option {
                    name: name.to_string(),
                    wanted: format!("a number from 1 to {max}"),
                });
            }
        }
        let may_be_none = [
            ("splits", self.splits, 32),
            ("embedding", self.embedding, 64),
            ("lstm", self.lstm, 4096),
            ("gru", self.gru, 4096),
            ("own_events", self.own_events, 1024),
            ("endpoint_events", self.endpoint_events, 1024),
        ];
        for (name, size, max) in may_be_none {
            if size > max {
                return Err(ScoringError::Option {
                    name: name.to_string(),
                    wanted: format!("a number up to {max}"),
                });
            }
        }
        if self.output == Output::Forecast && self.lstm == 0 {
            return Err(ScoringError::Option {
                name: "lstm".to_string(),
                wanted: "at least 1, for a forecast comes from nothing else".to_string(),
            });
        }
        let training = &self.training;
        let shares = [
            ("training.warm_up", training.warm_up),
            ("training.average", training.average),
            ("training.dropout", training.dropout),
            ("training.unexplained", training.unexplained),
            ("training.hold_out", training.hold_out.unwrap_or(0.0)),
        ];
        for (name, share) in shares {
            if !(0.0..1.0).contains(&share) {
                return Err(ScoringError::Option {
                    name: name.to_string(),
                    wanted: "at least 0 and below 1".to_string(),
                });
            }
        }
        if training.exposure.is_some()
            && !(self.output == Output::LogOdds && training.unexplained > 0.0)
        {
            return Err(ScoringError::Option {
                name: "training.exposure".to_string(),
                wanted: "output: log_odds and training.unexplained above 0 beside it, which it \
                         spreads over the rows"
                    .to_string(),
            });
        }
        if training
            .negatives
            .is_some_and(|share| !(share > 0.0 && share <= 1.0))
        {
            return Err(ScoringError::Option {
                name: "training.negatives".to_string(),
                wanted: "above 0 and at most 1".to_string(),
            });
        }
        let positive = [
            ("training.rate", training.rate),
            ("training.update_rate", training.update_rate),
            (
                "training.update_epochs",
                training.update_epochs.unwrap_or(1) as f64,
            ),
            ("training.clip", training.clip),
            ("training.epochs", training.epochs.unwrap_or(1) as f64),
            ("training.batch", training.batch.unwrap_or(1) as f64),
        ];
        for (name, value) in positive {
            if !(value > 0.0 && value.is_finite()) {
                return Err(ScoringError::Option {
                    name: name.to_string(),
                    wanted: "above 0".to_string(),
                });
            }
        }
        let not_negative = [
            ("training.decay", training.decay),
            ("training.focal", training.focal),
            ("training.no_graph_weight", training.no_graph_weight),
        ];
        for (name, value) in not_negative {
            if !(value >= 0.0 && value.is_finite()) {
                return Err(ScoringError::Option {
                    name: name.to_string(),
                    wanted: "at least 0".to_string(),
                });
            }
        }
        Ok(())
    }

    /// Columns of `schema` that the model sees, ascending.
    pub fn inputs(&self, schema: &FeatureSchema) -> Vec<usize> {
        let seen = |name: &str| !self.exclude.iter().any(|glob| matches_glob(glob, name));
        (0..schema.fields.len())
            .filter(|&i| seen(&schema.fields[i].name))
            .collect()
    }

    /// Those of `inputs` by which an event is remembered, as indices into `inputs`.
    pub(crate) fn remembered(&self, schema: &FeatureSchema, inputs: &[usize]) -> Vec<usize> {
        let keeps = |i: usize| {
            let field = &schema.fields[i];
            match &self.remember {
                Some(globs) => globs.iter().any(|glob| matches_glob(glob, &field.name)),
                None => !field.from_label && field.entity.is_none_or(|entity| entity == 0),
            }
        };
        (0..inputs.len()).filter(|&i| keeps(inputs[i])).collect()
    }

    /// Dimensions of a key, and of a value.
    pub(crate) fn key_size(&self) -> usize {
        self.heads * self.head_size
    }
}

/// Whether `name` matches `glob`, in which `*` stands for any run and `?` for one character.
fn matches_glob(glob: &str, name: &str) -> bool {
    fn matches(glob: &[u8], name: &[u8]) -> bool {
        match glob.split_first() {
            None => name.is_empty(),
            Some((b'*', rest)) => (0..=name.len()).any(|taken| matches(rest, &name[taken..])),
            Some((b'?', rest)) => !name.is_empty() && matches(rest, &name[1..]),
            Some((c, rest)) => name.first() == Some(c) && matches(rest, &name[1..]),
        }
    }
    matches(glob.as_bytes(), name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        assert!(matches_glob("terminal_*", "terminal_count_1d"));
        assert!(matches_glob("*_1d", "terminal_count_1d"));
        assert!(matches_glob("card_?d", "card_1d"));
        assert!(!matches_glob("terminal_*", "card_count_1d"));
        assert!(!matches_glob("amount", "log_amount"));
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(ModelOptions::default().check().is_ok());
        let none = ModelOptions {
            heads: 0,
            ..ModelOptions::default()
        };
        assert!(matches!(none.check(), Err(ScoringError::Option { name, .. }) if name == "heads"));
        let mut all = ModelOptions::default();
        all.training.dropout = 1.0;
        assert!(all.check().is_err());
        let mut exposed = ModelOptions::default();
        exposed.training.exposure = Some("days_unknown".to_string());
        let refused = exposed.check().unwrap_err().to_string();
        assert!(
            refused.contains("training.unexplained above 0"),
            "{refused}"
        );
        exposed.training.unexplained = 0.2;
        assert!(exposed.check().is_ok());
    }
}
