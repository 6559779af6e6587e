//! The manifest: what a model folder says of its weights.

use sanderling_schemas::{HeldOut, Output};
use serde::{Deserialize, Serialize};

use crate::options::ModelOptions;
use crate::reliability::Reliability;

/// `manifest.json` of a model folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Hash of the `features.sql` that the model was trained on.
    pub features: String,
    /// Columns of the feature schema, in order.
    pub inputs: Vec<ManifestInput>,
    /// What the score means.
    pub output: Output,
    /// Sizes and training settings.
    pub sizes: ModelOptions,
    /// Entities, the events' own first; an event is an edge from it to each of the others.
    pub entities: Vec<String>,
    /// Affine map from a rung's raw output to its score; a copy of the tensor `calibration`.
    pub calibration: RungCalibrations,
    /// Attribution groups: `event`, then one an entity.
    pub groups: Vec<ManifestGroup>,
    /// Median of each column of the feature schema over the training rows, `null` where most are
    /// NULL; a copy of the tensor `front.medians`. It stands for the event's own features when a
    /// score is explained; a never-seen entity's context is zeros.
    pub baseline: Vec<Option<f32>>,
    /// What it was trained on.
    pub training: TrainingRange,
    /// Figures on its labelled rows.
    pub metrics: TrainingMetrics,
    /// What each score meant on rows that it had not learnt from; absent where none were held out,
    /// and where the score is no log-odds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_out: Option<HeldOut>,
    /// How it did against the model that it went on from; absent where it was trained from nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trial>,
    /// SHA-256 of `model.safetensors`, hex.
    pub weights_sha256: String,
}

/// A column of the feature schema.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ManifestInput {
    /// The feature's name.
    pub name: String,
    /// Its Arrow type.
    pub data_type: String,
    /// Entity whose history it reads, as an index into `entities`.
    pub entity: Option<usize>,
    /// It knows labels.
    pub from_label: bool,
    /// The model sees it.
    pub used: bool,
}

/// Inputs that are explained together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ManifestGroup {
    /// `event`, or an entity's name.
    pub name: String,
    /// Names of its features.
    pub features: Vec<String>,
    /// Its ranges of a context row, `[from, to)`.
    pub context: Vec<[usize; 2]>,
}

/// `score = slope * raw + intercept`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    /// Above 0, so that calibration keeps order.
    pub slope: f64,
    /// Added to it.
    pub intercept: f64,
}

impl Calibration {
    /// The score of a raw output.
    pub fn apply(self, raw: f32) -> f64 {
        self.slope * f64::from(raw) + self.intercept
    }
}

/// One calibration for each rung.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RungCalibrations {
    /// Full model.
    pub full: Calibration,
    /// Without graph.
    pub no_graph: Calibration,
    /// Linear map.
    pub linear: Calibration,
    /// Policy alone; the raw output is 0, so its intercept is the base rate's score.
    pub rules: Calibration,
}

/// The rows that gave gradients.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrainingRange {
    /// First event time, microseconds since 1970.
    pub from_us: i64,
    /// Event times end before it, and labels were known before it.
    pub to_us: i64,
    /// Rows with a known label; for a forecast, all rows.
    pub rows: usize,
    /// Those with a positive label.
    pub positives: usize,
    /// Seed of everything random.
    pub seed: u64,
    /// Numbers in the weights.
    pub weights: usize,
}

/// Figures as served: on the rows held out of training, or where none were, on those that it learnt from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainingMetrics {
    /// Mean loss of the last epoch.
    pub loss: f64,
    /// Area under the ROC curve, where labels are classes.
    pub auc: Option<f64>,
    /// Average precision, where labels are classes.
    pub average_precision: Option<f64>,
    /// Rows that the calibration was fitted on.
    pub calibration_rows: usize,
    /// How reliable the full model's probabilities are, where rows were held out and labels are classes;
    /// absent in older manifests. Two numbers, slope and intercept, were fitted on the same rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reliability: Option<Reliability>,
}

/// A successor held against the model that it went on from, on rows later than those it learnt from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Hash of the model that it went on from.
    pub champion_hash: String,
    /// Event time of the first of the rows, microseconds since 1970.
    pub from_us: i64,
    /// Event time of the last of them.
    pub until_us: i64,
    /// Their number.
    pub rows: usize,
    /// Those with a positive label.
    pub positives: usize,
    /// What was measured.
    pub measure: TrialMeasure,
    /// The champion's figure.
    pub champion: f64,
    /// The successor's figure.
    pub successor: f64,
    /// The successor did better. As well is not better.
    pub won: bool,
}

/// What a trial measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrialMeasure {
    /// Of classes: more is better.
    AveragePrecision,
    /// Of values, in the label's own unit squared: less is better.
    MeanSquaredError,
}

impl TrialMeasure {
    /// Whether `figure` is better than `other`.
    pub(crate) fn is_better(self, figure: f64, other: f64) -> bool {
        match self {
            Self::AveragePrecision => figure > other,
            Self::MeanSquaredError => figure < other,
        }
    }
}

impl std::fmt::Display for Trial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let measure = match self.measure {
            TrialMeasure::AveragePrecision => "average precision",
            TrialMeasure::MeanSquaredError => "mean squared error",
        };
        let (successor, champion) = (self.successor, self.champion);
        let than = if self.won { "better" } else { "not better" };
        write!(
            f,
            "{measure} {successor:.4} against {champion:.4} of model {}, on {} later rows with {} \
             positives: {than}",
            &self.champion_hash[..self.champion_hash.len().min(12)],
            self.rows,
            self.positives
        )
    }
}
