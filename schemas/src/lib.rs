//! The contracts of the stream: what an event, a feature row, a score, an attribution and a
//! decision are, and how each looks on the wire.
//!
//! Every room knows this one and none of the others' insides. Nothing here reads a clock, does IO
//! or holds state.

pub mod attribution;
pub mod dead_letter;
pub mod decision;
pub mod event;
pub mod feature;
pub mod progress;
pub mod relation;
pub mod score;
pub mod wire;

pub use attribution::{Attribution, AttributionError};
pub use dead_letter::{DeadLetter, RejectReason, Sealing};
pub use decision::{Action, Decision, Flag, Reason, Timing, Versions};
pub use event::{EventBatch, EventTime};
pub use feature::{
    FeatureBatch, FeatureField, FeatureRow, FeatureSchema, KnownLabel, NO_SLOT, TooLate,
};
pub use progress::{
    EventId, Offset, OffsetRange, Offsets, OrderRecord, OrderVersions, Partition, RangeError, Run,
    Sequence,
};
pub use relation::{Entity, LabelColumns, LateRows, Relation, Stream};
pub use score::{HeldOut, OperatingPoint, Output, Rung, ScoreBatch, probability};
