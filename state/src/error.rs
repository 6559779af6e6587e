//! What can go wrong with keyed state.

/// Errors of keyed state.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The bytes of a snapshot are not what was written.
    #[error("snapshot is damaged: {0}")]
    Damaged(String),
    /// A section that the state needs is not in the snapshot.
    #[error("snapshot has no section `{0}`")]
    MissingSection(String),
    /// The snapshot belongs to state of another shape.
    #[error("snapshot does not fit: {0}")]
    Mismatch(String),
    /// A window asks for what no kernel here computes.
    #[error("{0}")]
    Unsupported(String),
    /// Encoding or decoding Arrow failed.
    #[error(transparent)]
    Arrow(#[from] arrow::error::ArrowError),
    /// Reading or writing a snapshot failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}
