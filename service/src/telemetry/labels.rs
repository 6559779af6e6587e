//! What labels of metrics can be.

/// A part of a batch's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// From the broker's append of its oldest record to the batch's hand-over.
    Wait,
    /// Windows and expressions.
    Features,
    /// Model.
    Score,
    /// Policy and attributions.
    Explain,
    /// Decisions to bytes, and to the producer.
    Encode,
    /// Waiting for the transaction's commit.
    Commit,
}

impl Stage {
    /// All of them, in the order of a batch's way.
    pub const ALL: [Stage; 6] = [
        Stage::Wait,
        Stage::Features,
        Stage::Score,
        Stage::Explain,
        Stage::Encode,
        Stage::Commit,
    ];

    /// Value of the label `stage`.
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Wait => "wait",
            Stage::Features => "features",
            Stage::Score => "score",
            Stage::Explain => "explain",
            Stage::Encode => "encode",
            Stage::Commit => "commit",
        }
    }
}

/// A part of a decision's way, as long as its deadline is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// From the broker's append to the hand-over of its batch.
    Wait,
    /// All stages, and the waits between them.
    Line,
    /// From there to the end of its transaction; at least once, to its hand-over to the producer.
    Commit,
}

impl Part {
    /// All of them, in order.
    pub(super) const ALL: [Part; 3] = [Part::Wait, Part::Line, Part::Commit];

    /// Value of the label `part`.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Part::Wait => "wait",
            Part::Line => "line",
            Part::Commit => "commit",
        }
    }
}

/// How a transaction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionEnd {
    /// Readers see it.
    Committed,
    /// Its records are sent again in another.
    Aborted,
}

impl TransactionEnd {
    /// Both.
    pub const ALL: [TransactionEnd; 2] = [TransactionEnd::Committed, TransactionEnd::Aborted];

    /// Value of the label `end`.
    pub fn as_str(self) -> &'static str {
        match self {
            TransactionEnd::Committed => "committed",
            TransactionEnd::Aborted => "aborted",
        }
    }
}

/// Where the rows came from that a row's window functions were computed from again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ParitySource {
    /// The log, for all of them.
    Log,
    /// The log for some, the rings for others.
    Both,
    /// The rings, for all of them.
    Rings,
}
