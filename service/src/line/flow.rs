//! What enters the line, what leaves it, and what travels between.

use std::fmt;
use std::sync::Arc;

use arrow::array::ArrayRef;
use sanderling_features::{EngineView, FeatureError};
use sanderling_schemas::{DeadLetter, Decision, EventBatch, KnownLabel, OrderRecord, Rung, Timing};
use sanderling_scoring::MemoryView;
use sanderling_state::Snapshot;

use super::Mark;
use crate::pipeline::Pipeline;
use crate::roster::ModelSnapshots;
use crate::run::Permit;
use crate::tables::Tables;

/// An independent fold on the line: its own state and its own sequence. Where everything that is
/// remembered is keyed by what keys the topics, each partition is a lane, so that state moves with
/// its partition; else one lane takes every partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Lane(pub Option<i32>);

impl Lane {
    /// The one lane of every partition.
    pub const WHOLE: Lane = Lane(None);
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("all"),
            Some(partition) => write!(f, "{partition}"),
        }
    }
}

/// What enters the line, in order.
pub enum Input {
    /// A lane begins with this fold's state.
    Open(Lane, Box<Pipeline>),
    /// A lane is given up.
    Close(Lane),
    /// Events of a lane.
    Batch(Work),
    /// Records that could not become events.
    Rejected(Vec<DeadLetter>),
    /// Where the source stands, when that is not told by a batch.
    Mark(Mark),
    /// From here on a lane's events find what these tables say.
    Tables(Lane, Tables),
    /// A cut through the line is wanted here.
    Barrier(Barrier),
    /// A look at a lane's state is wanted here.
    Look(Look),
}

/// Events of a lane, and what is to be done with them.
pub struct Work {
    /// Whose they are.
    pub lane: Lane,
    /// The events.
    pub events: EventBatch,
    /// Rung to score them on; without one, the highest for which there is time when they are scored.
    pub rung: Option<Rung>,
    /// Hash of the model that decides from them on; without one, or where it is not here, whoever
    /// does so already.
    pub champion: Option<Arc<str>>,
    /// They were past their deadline when they arrived.
    pub backlog: bool,
    /// Folded before a crash: they move the state again and nothing comes out.
    pub quiet: bool,
    /// Where the source stands once they and all before them are dealt with; absent while records
    /// read with them are still to come.
    pub mark: Option<Mark>,
    /// Held while they are on the line.
    pub permit: Option<Arc<Permit>>,
}

impl Work {
    /// Events of the one lane, on the full model.
    pub fn whole(events: EventBatch) -> Self {
        Self {
            lane: Lane::WHOLE,
            events,
            rung: Some(Rung::Full),
            champion: None,
            backlog: false,
            quiet: false,
            mark: None,
            permit: None,
        }
    }
}

/// What leaves it, in the same order.
pub enum Outcome {
    /// What became of a batch.
    Decided(Decided),
    /// Passed through.
    Rejected(Vec<DeadLetter>),
    /// Passed through.
    Mark(Mark),
    /// The barrier, with the stages' state.
    Barrier(Barrier),
}

/// A decided batch.
pub struct Decided {
    /// Whose it is.
    pub lane: Lane,
    /// One for each scored row that was to be decided; none if the batch was folded quietly.
    pub decisions: Vec<Decision>,
    /// The source's own ids of the decided events, if the stream has them.
    pub source_ids: Option<ArrayRef>,
    /// Labels that became known in the batch.
    pub labels: Vec<KnownLabel>,
    /// Rows of the batch that came too late, where the pipeline refuses them.
    pub dead_letters: Vec<DeadLetter>,
    /// Rows of the batch, dead letters included.
    pub rows: usize,
    /// It was folded quietly.
    pub quiet: bool,
    /// The runs it took.
    pub order: OrderRecord,
    /// Broker append times of the decided events, microseconds; empty without a broker.
    pub broker_time_us: Vec<i64>,
    /// When the batch was put on the line, microseconds of Unix time.
    pub entered_us: i64,
    /// What each stage took.
    pub timing: Timing,
    /// Where the source stands after it.
    pub mark: Option<Mark>,
}

/// A consistent cut through the line.
#[derive(Default)]
pub struct Barrier {
    /// Whose state is cut.
    pub lane: Lane,
    /// Where the source stood.
    pub position: serde_json::Value,
    /// Sequence of the lane's next row.
    pub sequence: u64,
    /// State of the windows.
    pub windows: Option<Snapshot>,
    /// Hash of the model that decided until there.
    pub champion: Option<Arc<str>>,
    /// State of each model.
    pub models: Option<ModelSnapshots>,
    /// Keys that windows have forgotten since the lane came.
    pub forgotten: u64,
    /// Told once the barrier and all before it are dealt with.
    pub passed: Option<crossbeam_channel::Sender<()>>,
}

/// What the stages know of a lane at one moment, by reference. Nothing waits for it: it is told to who
/// asked, and no outcome.
pub struct Look {
    /// Whose state is looked at.
    pub lane: Lane,
    /// The windows, and how many rows were accepted; none if the lane is not on the line.
    pub windows: Option<(Result<EngineView, FeatureError>, u64)>,
    /// What the model remembers.
    pub memories: Vec<MemoryView>,
    told: crossbeam_channel::Sender<Look>,
}

impl Look {
    /// A look at `lane`, for who holds the other end of `told`.
    pub fn new(lane: Lane, told: crossbeam_channel::Sender<Look>) -> Self {
        Self {
            lane,
            windows: None,
            memories: Vec::new(),
            told,
        }
    }

    /// Gives it to who asked; who has gone away wants no answer.
    pub(super) fn tell(self) {
        let _ = self.told.clone().send(self);
    }
}
