//! Decisions: what was done about an event, on what grounds, and by which versions.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::attribution::Attribution;
use crate::event::EventTime;
use crate::feature::FeatureRow;
use crate::progress::{EventId, Sequence};
use crate::score::{Output, Rung};

/// What is done about an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Let it pass.
    Approve,
    /// Let a person look.
    Review,
    /// Stop it.
    Decline,
}

impl Action {
    /// All of them, mildest first.
    pub const ALL: [Action; 3] = [Action::Approve, Action::Review, Action::Decline];

    /// Name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Action::Approve => "approve",
            Action::Review => "review",
            Action::Decline => "decline",
        }
    }
}

/// A principal reason, from the versioned map of reason codes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Reason {
    /// Code of the map.
    pub code: Arc<str>,
    /// The map's plain words for it.
    pub text: Arc<str>,
    /// Attribution group it speaks for.
    pub group: Arc<str>,
    /// What the group added to the score.
    pub contribution: f64,
}

/// Something a reader of the decision should know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flag {
    /// Further behind its key's newest row than the allowed lateness.
    Late,
    /// Already past its deadline when it arrived.
    Backlog,
    /// One of its keys has had more rows than windows keep: a feature may miss the oldest of them.
    Capped,
}

impl Flag {
    /// Name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Flag::Late => "late",
            Flag::Backlog => "backlog",
            Flag::Capped => "capped",
        }
    }
}

/// Everything that can change a decision's bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    /// Version of the program.
    pub engine: Arc<str>,
    /// Engine and target features that fix rounding.
    pub numerics: Arc<str>,
    /// Hash of what in `pipeline.yaml` can change a decision.
    pub pipeline: Arc<str>,
    /// Hash of `features.sql`.
    pub features: Arc<str>,
    /// Hash of the model's weights.
    pub model: Arc<str>,
    /// Hash of `policy.yaml` and `reason_codes.yaml`.
    pub policy: Arc<str>,
}

/// What was decided about one event. Its id is the event's.
#[derive(Debug, Clone)]
pub struct Decision {
    /// The event, and the decision's id.
    pub event: EventId,
    /// Value of the stream's key column.
    pub key: Option<Box<str>>,
    /// When the event happened.
    pub event_time: EventTime,
    /// Its place in the accepted order.
    pub sequence: Sequence,
    /// Its stream.
    pub stream: Arc<str>,
    /// What to do.
    pub action: Action,
    /// What `score` means.
    pub output: Output,
    /// Score on its own scale: calibrated log-odds, or a value.
    pub score: f64,
    /// Rung the score was made on.
    pub rung: Rung,
    /// At most four, strongest first.
    pub reasons: Vec<Reason>,
    /// The features that were scored.
    pub features: FeatureRow,
    /// Why; for whatever is not approved.
    pub attribution: Option<Attribution>,
    /// Scores of models that do not decide, by model.
    pub shadow: BTreeMap<Arc<str>, f64>,
    /// What a reader should know.
    pub flags: Vec<Flag>,
    /// What decided.
    pub versions: Arc<Versions>,
}

/// How long a batch took on its way, microseconds. An envelope around its decisions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Timing {
    /// From the broker's append to the batch's hand-over.
    pub wait_us: u64,
    /// Windows and expressions.
    pub features_us: u64,
    /// Model.
    pub score_us: u64,
    /// Policy and attributions.
    pub explain_us: u64,
}
