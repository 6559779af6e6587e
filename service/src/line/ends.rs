//! The line's two ends: where batches are put on it, and where outcomes come off.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sanderling_schemas::{EventBatch, Timing};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{Receiver, Sender};

use super::flow::{Decided, Input, Outcome, Work};
use super::stages::age_us;
use super::{Carried, Flow};
use crate::clock::now_us;
use crate::failure::Failure;
use crate::pipeline::Pipeline;

/// The line's entry. Sending blocks while the first stage is behind.
#[derive(Clone)]
pub struct Feeder {
    pub(super) flows: Sender<Flow<Pipeline, EventBatch>>,
    pub(super) over: Arc<AtomicBool>,
}

impl Feeder {
    /// Whether nobody drains the line any more. Who has nothing to send learns it only here.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// `false` once the line has stopped.
    pub fn send(&self, input: Input) -> bool {
        let flow = match input {
            Input::Open(lane, pipeline) => Flow::Open(lane, *pipeline),
            Input::Close(lane) => Flow::Close(lane),
            Input::Batch(Work {
                lane,
                events,
                rung,
                champion,
                backlog,
                quiet,
                mark,
                permit,
            }) => {
                let entered_us = now_us();
                Flow::Batch(Box::new(Carried {
                    lane,
                    rung,
                    champion,
                    backlog,
                    quiet,
                    mark,
                    permit,
                    entered_us,
                    timing: Timing {
                        wait_us: age_us(&events.broker_time_us, entered_us),
                        ..Timing::default()
                    },
                    made: events,
                }))
            }
            Input::Rejected(letters) => Flow::Rejected(letters),
            Input::Mark(mark) => Flow::Mark(mark),
            Input::Tables(lane, tables) => Flow::Tables(lane, tables),
            Input::Barrier(barrier) => Flow::Barrier(barrier),
            Input::Look(look) => Flow::Look(look),
        };
        !self.is_over() && self.flows.blocking_send(flow).is_ok()
    }
}

/// The line's end.
pub struct Outcomes {
    flows: Receiver<Flow<(), Box<Decided>>>,
    /// Waits for the next one and for something else at once.
    runtime: Runtime,
}

/// What there is to be had from the line.
pub enum Next {
    /// The next outcome.
    Outcome(Outcome),
    /// None before something else was to be done.
    Nothing,
    /// Everything fed has been drained.
    End,
}

impl Outcomes {
    pub(super) fn of(flows: Receiver<Flow<(), Box<Decided>>>) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .map_err(|e| Failure::new("line", format!("cannot wait for its end: {e}")))?;
        Ok(Self { flows, runtime })
    }

    /// The next outcome, if one comes before `other` is done.
    pub fn next_before(&mut self, other: impl Future<Output = ()>) -> Next {
        let flow = self.runtime.block_on(async {
            tokio::select! {
                biased;
                flow = self.flows.recv() => Some(flow),
                () = other => None,
            }
        });
        match flow {
            Some(Some(flow)) => outcome(flow).map_or(Next::Nothing, Next::Outcome),
            Some(None) => Next::End,
            None => Next::Nothing,
        }
    }
}

/// The outcomes in order, each waited for as long as it takes.
impl Iterator for Outcomes {
    type Item = Outcome;

    fn next(&mut self) -> Option<Outcome> {
        loop {
            if let Some(outcome) = outcome(self.flows.blocking_recv()?) {
                return Some(outcome);
            }
        }
    }
}

fn outcome(flow: Flow<(), Box<Decided>>) -> Option<Outcome> {
    match flow {
        Flow::Batch(carried) => Some(Outcome::Decided(*carried.made)),
        Flow::Rejected(letters) => Some(Outcome::Rejected(letters)),
        Flow::Mark(offsets) => Some(Outcome::Mark(offsets)),
        Flow::Barrier(barrier) => Some(Outcome::Barrier(barrier)),
        Flow::Look(look) => {
            look.tell();
            None
        }
        Flow::Open(..) | Flow::Close(_) | Flow::Tables(..) => None,
    }
}
