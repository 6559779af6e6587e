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

use rdkafka::error::KafkaError;
use sanderling_ingest::{Committer, Progress};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::{Record, Transactions};
use crate::failure::Failure;
use crate::settings::KafkaSettings;

/// Records and offsets that become visible together, in transactions one after the other.
pub struct Relay {
    filling: Transactions,
    /// The other one, unless its transaction is being ended.
    resting: Option<Transactions>,
    /// The broker may not have every record of the other one.
    is_behind: bool,
    to_end: Sender<Leg>,
    told: Receiver<Told>,
    /// What was told and is still to be looked at.
    heard: Option<Told>,
}

/// What there is to tell of a transaction that is being ended.
enum Told {
    /// The broker has every record of it.
    Delivered,
    /// It has ended, or failed to.
    Ended(Leg),
}

/// A transaction that is being ended.
struct Leg {
    transactions: Transactions,
    progress: Progress,
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
        let (to_end, mut legs) = channel::<Leg>(1);
        let (tell, told) = channel(2);
        thread::Builder::new()
            .name("commit".into())
            .spawn(move || {
                while let Some(mut leg) = legs.blocking_recv() {
                    let delivered = || _ = tell.blocking_send(Told::Delivered);
                    leg.failed = leg.transactions.try_commit(&leg.progress, delivered).err();
                    if tell.blocking_send(Told::Ended(leg)).is_err() {
                        break;
                    }
                }
            })
            .expect("the machine has a thread to give");
        Ok(Self {
            filling,
            resting: Some(resting),
            is_behind: false,
            to_end,
            told,
            heard: None,
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

    /// Done when there is something to look at.
    pub async fn due(&mut self) {
        if self.heard.is_some() {
            return;
        }
        let waits = self.filling.due().filter(|_| !self.is_behind);
        let hand_over = async {
            match waits {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            told = self.told.recv() => self.heard = told,
            () = hand_over => {}
        }
    }

    /// Whether a transaction is being ended.
    pub fn is_ending(&self) -> bool {
        self.resting.is_none()
    }

    /// Begins to end the transaction that is filling, together with the input's `progress`, once the one
    /// before has ended. What is sent from here on is in the next one.
    pub fn end(
        &mut self,
        progress: Progress,
        decisions: usize,
        begun: Instant,
    ) -> Result<(), Failure> {
        let Some(next) = self.resting.take() else {
            return Err(Failure::new("kafka", "two transactions would end at once"));
        };
        let transactions = std::mem::replace(&mut self.filling, next);
        self.is_behind = true;
        let leg = Leg {
            transactions,
            progress,
            decisions,
            begun,
            asked: Instant::now(),
            failed: None,
        };
        self.to_end.blocking_send(leg).map_err(|_| gone())
    }

    /// The transaction that has ended since this was last asked.
    pub fn ended(&mut self) -> Result<Option<Commit>, Failure> {
        while let Some(told) = self.heard.take().or_else(|| self.told.try_recv().ok()) {
            if let Some(commit) = self.hear(told)? {
                return Ok(Some(commit));
            }
        }
        Ok(None)
    }

    /// The end of the transaction that is being ended, if there is one; waits for it.
    pub fn wait(&mut self) -> Result<Option<Commit>, Failure> {
        while self.is_ending() {
            let told = self.heard.take().or_else(|| self.told.blocking_recv());
            if let Some(commit) = self.hear(told.ok_or_else(gone)?)? {
                return Ok(Some(commit));
            }
        }
        Ok(None)
    }

    fn hear(&mut self, told: Told) -> Result<Option<Commit>, Failure> {
        match told {
            Told::Delivered => {
                self.is_behind = false;
                Ok(None)
            }
            Told::Ended(leg) => self.settle(leg).map(Some),
        }
    }

    fn settle(&mut self, leg: Leg) -> Result<Commit, Failure> {
        let mut transactions = leg.transactions;
        let aborts = match leg.failed {
            None => 0,
            Some(error) => {
                self.filling.take_back()?;
                transactions.commit_after(error, &leg.progress)?
            }
        };
        self.is_behind = false;
        self.resting = Some(transactions);
        Ok(Commit {
            decisions: leg.decisions,
            whole: leg.begun.elapsed(),
            waited: leg.asked.elapsed(),
            aborts,
        })
    }

    fn hand_over(&mut self) -> Result<(), Failure> {
        match self.is_behind {
            true => Ok(()),
            false => self.filling.hand_over(),
        }
    }
}

fn gone() -> Failure {
    Failure::new("kafka", "the thread that ends transactions is gone")
}
