//! What can go wrong in scoring and training, with its cure.

use sanderling_state::StateError;

/// An error of this room.
#[derive(Debug, thiserror::Error)]
pub enum ScoringError {
    /// A model option out of its range.
    #[error("option {name}: wanted {wanted}")]
    Option {
        /// The option's key, of `model:` where no section is named.
        name: String,
        /// What it may be.
        wanted: String,
    },
    /// A feature's type is no number.
    #[error("feature {name} has type {data_type}, which is no number; cast it in features.sql")]
    FeatureType {
        /// The feature.
        name: String,
        /// Its Arrow type.
        data_type: String,
    },
    /// The model was trained on other features.
    #[error(
        "the model was trained on features {trained}, but features.sql has {given}; train again or restore the features it was trained on"
    )]
    OtherFeatures {
        /// Hash in the manifest.
        trained: String,
        /// Hash of the pipeline's features.
        given: String,
    },
    /// The model was trained with other entities.
    #[error(
        "the model was trained with entities [{trained}], but the pipeline has [{given}]; train again"
    )]
    OtherEntities {
        /// Entities in the manifest.
        trained: String,
        /// Entities of the pipeline.
        given: String,
    },
    /// The weights are not those that the manifest names.
    #[error(
        "{path}: sha256 is {found}, but the manifest says {expected}; the file was changed or cut short: restore it or train again"
    )]
    WeightsHash {
        /// The weights' file.
        path: String,
        /// Hash in the manifest.
        expected: String,
        /// Hash of the file.
        found: String,
    },
    /// A file of the model folder cannot be read, written or understood.
    #[error("{path}: {message}")]
    Folder {
        /// The file.
        path: String,
        /// What was wrong.
        message: String,
    },
    /// A tensor is missing or has another shape than the manifest's sizes give it.
    #[error("tensor {name}: wanted shape {wanted:?}, found {found:?}")]
    Tensor {
        /// Name in the safetensors file.
        name: String,
        /// Shape by the sizes.
        wanted: Vec<usize>,
        /// Shape found; empty where the tensor is missing.
        found: Vec<usize>,
    },
    /// There is nothing to train on.
    #[error("cannot train: {0}")]
    TooFewRows(String),
    /// Training ran into NaN or infinity.
    #[error(
        "training stopped at step {step} of {stage}: {what} is not finite; lower model.training.rate, or look at that input"
    )]
    NotFinite {
        /// First or second stage.
        stage: &'static str,
        /// Gradient step, from 0.
        step: usize,
        /// The loss or the tensor.
        what: String,
    },
    /// A checkpoint of training is of other rows, options or seeds.
    #[error(
        "{path} is a checkpoint of another training: rows, model options, plan, seed or program differ"
    )]
    OtherTraining {
        /// The checkpoint's file.
        path: String,
    },
    /// A batch does not belong to this fold.
    #[error("batch of {rows} rows: {message}")]
    Batch {
        /// Rows of the batch.
        rows: usize,
        /// What does not fit.
        message: String,
    },
    /// candle refused an operation.
    #[error("tensor operation failed: {0}")]
    Candle(#[from] candle_core::Error),
    /// Keyed state could not be restored.
    #[error(transparent)]
    State(#[from] StateError),
}
