//! Two transactional producers in turn: while the transaction of one ends, that of the other fills.
//!
//! To end a transaction takes several requests, one after the other, and for some time after that the
//! coordinator refuses the next one. With one producer, what is decided meanwhile waits for all that and
//! then for a transaction of its own.
//!
//! Transactions end in the order in which they were filled, so what is committed is always a beginning
//! of what was sent. Nothing of the later one is handed to the client before the broker has all of the
//! earlier one: so records keep their order in every partition, and an open transaction is never in front
//! of a committed one, where it would hide it from readers. If the earlier one fails, the later one is taken
//! back first, and both are sent again.

use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use rdkafka::error::KafkaError;
use sanderling_ingest::Committer;
use sanderling_schemas::Offsets;

use super::transactions::Underway;
use super::{Record, Transactions};
use crate::failure::Failure;
use crate::settings::KafkaSettings;

/// Time between two looks at something that is on its way.
const LOOK_AGAIN: Duration = Duration::from_millis(1);

/// Records and offsets that become visible together, in transactions one after the other.
pub struct Relay {
    filling: Transactions,
    /// The other one, unless its transaction is being ended.
    resting: Option<Transactions>,
    /// Records of the transaction before, until the broker has them.
    ahead: Option<Underway>,
    to_end: Sender<Leg>,
    ended: Receiver<Leg>,
}

/// A transaction that is being ended.
struct Leg {
    transactions: Transactions,
    offsets: Offsets,
    /// Decisions in it.
    decisions: usize,
    /// When its first record was sent.
    begun: Instant,
    /// When its end was asked for.
    asked: Instant,
    failed: Option<KafkaError>,
}

/// What a commit took.
#[derive(Debug, Clone, Copy)]
pub struct Commit {
    /// Decisions that have become visible.
    pub decisions: usize,
    /// From the transaction's first record to its end.
    pub whole: Duration,
    /// The commit itself.
    pub waited: Duration,
    /// How many times it was aborted and sent again.
    pub aborts: u32,
}

impl Relay {
    /// Producers of the transactional ids `id/1` and `id/2`. Earlier ones of these ids, alive or dead,
    /// are fenced off and their open transactions aborted.
    pub fn new(kafka: &KafkaSettings, id: &str, committer: Committer) -> Result<Self, Failure> {
        let producer = |n: u8| Transactions::new(kafka, &format!("{id}/{n}"), committer.clone());
        let (filling, resting) = thread::scope(|scope| {
            let other = scope.spawn(|| producer(2));
            let one = producer(1);
            let other = other
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            Ok::<_, Failure>((one?, other?))
        })?;
        let (to_end, legs) = bounded::<Leg>(1);
        let (tell, ended) = bounded(1);
        thread::Builder::new()
            .name("commit".into())
            .spawn(move || {
                for mut leg in legs {
                    leg.failed = leg.transactions.try_commit(&leg.offsets).err();
                    if tell.send(leg).is_err() {
                        break;
                    }
                }
            })
            .expect("the machine has a thread to give");
        Ok(Self {
            filling,
            resting: Some(resting),
            ahead: None,
            to_end,
            ended,
        })
    }

    /// Adds a record to the transaction that is filling.
    pub fn send(&mut self, record: Record) -> Result<(), Failure> {
        self.filling.keep(record);
        self.hand_over()
    }

    /// Records in the transaction that is filling.
    pub fn pending(&self) -> usize {
        self.filling.pending()
    }

    /// Lets the client's events through, and hands it what had to wait.
    pub fn poll(&mut self) -> Result<(), Failure> {
        self.filling.poll();
        self.hand_over()
    }

    /// How long until there is something to look at.
    pub fn due(&self) -> Option<Duration> {
        match self.resting {
            Some(_) => self.filling.due(),
            None => Some(LOOK_AGAIN),
        }
    }

    /// Whether a transaction is being ended.
    pub fn is_ending(&self) -> bool {
        self.resting.is_none()
    }

    /// Begins to end the transaction that is filling, together with the input's `offsets`, once the one
    /// before has ended. What is sent from here on is in the next one.
    pub fn end(
        &mut self,
        offsets: Offsets,
        decisions: usize,
        begun: Instant,
    ) -> Result<(), Failure> {
        let Some(next) = self.resting.take() else {
            return Err(Failure::new("kafka", "two transactions would end at once"));
        };
        let transactions = std::mem::replace(&mut self.filling, next);
        self.ahead = Some(transactions.underway());
        let leg = Leg {
            transactions,
            offsets,
            decisions,
            begun,
            asked: Instant::now(),
            failed: None,
        };
        self.to_end.send(leg).map_err(|_| gone())
    }

    /// The transaction that has ended since this was last asked.
    pub fn ended(&mut self) -> Result<Option<Commit>, Failure> {
        match self.ended.try_recv() {
            Ok(leg) => self.settle(leg).map(Some),
            Err(_) => Ok(None),
        }
    }

    /// The end of the transaction that is being ended, if there is one; waits for it.
    pub fn wait(&mut self) -> Result<Option<Commit>, Failure> {
        if !self.is_ending() {
            return Ok(None);
        }
        let leg = self.ended.recv().map_err(|_| gone())?;
        self.settle(leg).map(Some)
    }

    fn settle(&mut self, leg: Leg) -> Result<Commit, Failure> {
        let mut transactions = leg.transactions;
        let aborts = match leg.failed {
            None => 0,
            Some(error) => {
                self.filling.take_back()?;
                transactions.commit_after(error, &leg.offsets)?
            }
        };
        self.ahead = None;
        self.resting = Some(transactions);
        Ok(Commit {
            decisions: leg.decisions,
            whole: leg.begun.elapsed(),
            waited: leg.asked.elapsed(),
            aborts,
        })
    }

    fn hand_over(&mut self) -> Result<(), Failure> {
        if self.ahead.as_ref().is_some_and(|ahead| !ahead.is_over()) {
            return Ok(());
        }
        self.ahead = None;
        self.filling.hand_over()
    }
}

fn gone() -> Failure {
    Failure::new("kafka", "the thread that ends transactions is gone")
}
