//! Features: what SQL said of each scored event, and what the model must know beside it.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use serde::{Deserialize, Serialize};

use crate::event::EventBatch;
use crate::progress::Sequence;

/// Slot of a row whose entity key is NULL.
pub const NO_SLOT: u32 = u32::MAX;

/// One output column of `features.sql`.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureField {
    /// Name.
    pub name: String,
    /// Type that SQL gives it.
    pub data_type: DataType,
    /// Entity whose history it reads, as an index into [`crate::Relation::entities`]: the key of
    /// the first window in its expression. `None`: it depends on the current event alone.
    pub entity: Option<usize>,
    /// Its expression reads the label's value, so it knows only what labels told.
    pub from_label: bool,
}

/// The columns of a feature row, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureSchema {
    /// Columns in the order of the SELECT list.
    pub fields: Vec<FeatureField>,
    /// SHA-256 of `features.sql`, hex.
    pub hash: Arc<str>,
}

/// A label that has become known at a row of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct KnownLabel {
    /// Row of the batch at which it became known.
    pub row: u32,
    /// The event it is about.
    pub of: Sequence,
    /// 0 or 1 for a class; any value for a regression target.
    pub value: f32,
    /// It replaces an earlier label of the same event with another value.
    pub reversal: bool,
}

/// A batch with its features.
#[derive(Debug, Clone)]
pub struct FeatureBatch {
    /// The events, all of them; label rows have the keys of the event they refer to.
    pub events: EventBatch,
    /// Rows that get decisions, ascending.
    pub scored: Vec<u32>,
    /// One row for each entry of `scored`; columns of [`FeatureSchema::fields`].
    pub features: RecordBatch,
    /// For each entity, the slot of each row of `events`, or [`NO_SLOT`]. Slots are dense, from 0,
    /// and never change meaning within a fold.
    pub slots: Vec<Vec<u32>>,
    /// Labels that became known, ascending by row: matched and not mere repetitions.
    pub labels: Vec<KnownLabel>,
    /// Rows further behind their key's newest row than the allowed lateness, one for each entry of
    /// `scored`.
    pub late: Vec<bool>,
    /// Rows of which a window may miss what their key had to give up, one for each entry of `scored`.
    pub capped: Vec<bool>,
    /// Rows that were refused for being late, ascending: nothing has taken them, and they are not
    /// among `scored`.
    pub too_late: Vec<TooLate>,
}

/// A row that was refused for being late.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TooLate {
    /// Row of the batch.
    pub row: u32,
    /// Key that it is late for: the PARTITION BY of the first such windows; empty where they have
    /// none.
    pub key: Arc<str>,
    /// How far it is behind the key's newest row, microseconds.
    pub behind_us: i64,
}

/// One event's features: a row of a shared batch.
#[derive(Debug, Clone)]
pub struct FeatureRow {
    /// The batch's features.
    pub batch: RecordBatch,
    /// The event's row in it.
    pub row: usize,
}
