//! Scoring: feature rows to calibrated scores.
//!
//! A model remembers. The first entity of an event (a card, a machine) has an LSTM carry and
//! attention over its last events; every other endpoint (a terminal, a device) has a carry that
//! advances when an event's label becomes known, and attention over its most recent events. One
//! event costs O(1): no history is run again.
//!
//! [`Scorer`] folds a [`ServedModel`] over feature batches. [`Model::forward`] is the pure part:
//! features and context in, scores out. [`train`] makes a model from a [`Recording`];
//! [`evaluate`] does so fold after fold and measures what comes out.

mod architecture;
mod attention;
mod background;
mod calibration;
mod cells;
mod device;
mod error;
mod evaluation;
mod first_stage;
#[cfg(test)]
mod fixtures;
mod front;
mod inputs;
mod kernels;
mod manifest;
mod memory;
pub mod metrics;
mod network;
mod options;
mod recording;
mod reliability;
mod scorer;
mod served;
mod train;
mod weights;

pub use device::{DEVICE_MARK, Placement, TrainingPlacement};
pub use error::ScoringError;
pub use evaluation::{Evaluation, EvaluationPlan, FoldReport, FoldScore, evaluate};
pub use inputs::{Group, Model, ModelInputs, feature_matrix};
pub use manifest::{
    Calibration, Manifest, ManifestGroup, ManifestInput, RungCalibrations, TrainingMetrics,
    TrainingRange, Trial, TrialMeasure,
};
pub use options::{
    ModelOptions, Precision, ScoringDevice, ScoringOptions, TrainingDevice, TrainingOptions,
};
pub use recording::{RecordedLabel, Recording};
pub use reliability::{Reliability, ReliabilityBin};
pub use scorer::{MemorySummary, MemoryView, Scored, Scorer};
pub use served::ServedModel;
pub use train::{TrainingCheckpoints, TrainingPlan, TrainingProgress, train, update};
