//! Decisions, dead letters and order records to their topics, with the input's progress.
//!
//! A *mark* says where the source stood once everything sent before it was dealt with. At least
//! once, a mark is committed after the broker has every record sent before it; a decision can come
//! twice after a crash, under the same key. Exactly once, records and the newest mark commit in one
//! transaction, and no transaction ends between two marks.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sanderling_ingest::Committer;
use sanderling_schemas::DeadLetter;

use super::{Commit, DecisionEncoder, Record, Relay, TopicWriter};
use crate::failure::Failure;
use crate::line::{Decided, Mark};
use crate::replay::input_failure;
use crate::settings::{KafkaSettings, OutputSettings};

/// Time between two commits of offsets, at least once.
const OFFSETS_EVERY: Duration = Duration::from_secs(1);
/// Records of a transaction, beyond which it is committed before its time.
const TRANSACTION_RECORDS_MAX: usize = 20_000;

/// Where a live pipeline's results go.
pub struct KafkaSink {
    topics: Topics,
    encoder: DecisionEncoder,
    delivery: Delivery,
    /// The newest mark, and whether anything was sent after it.
    mark: Option<Mark>,
    behind_mark: bool,
}

/// A point in what was sent; see [`KafkaSink::is_settled`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Point(u64);

/// Names of the topics of `output:`; those not named there are not written.
struct Topics {
    decisions: Option<Arc<str>>,
    dead_letters: Option<Arc<str>>,
    order: Option<Arc<str>>,
}

enum Delivery {
    AtLeastOnce {
        writer: TopicWriter,
        committer: Committer,
        /// Marks, each with the number of records that must be delivered before it is committed.
        undelivered: VecDeque<(u64, Mark)>,
        committed_at: Instant,
    },
    ExactlyOnce {
        relay: Box<Relay>,
        every: Duration,
        /// When the first record of the transaction that is filling was sent.
        since: Option<Instant>,
        /// Decisions in it.
        decisions: usize,
        /// Transactions whose end was asked for, and those that have ended.
        asked: u64,
        ended: u64,
    },
}

impl KafkaSink {
    /// Every record reaches its topic, if need be twice.
    pub fn at_least_once(
        kafka: &KafkaSettings,
        output: &OutputSettings,
        encoder: DecisionEncoder,
        committer: Committer,
    ) -> Result<Self, Failure> {
        let delivery = Delivery::AtLeastOnce {
            writer: TopicWriter::new(kafka)?,
            committer,
            undelivered: VecDeque::new(),
            committed_at: Instant::now(),
        };
        Ok(Self::new(output, encoder, delivery))
    }

    /// Records and offsets commit together, `every` so often, as transactional ids that begin with `id`.
    pub fn exactly_once(
        kafka: &KafkaSettings,
        output: &OutputSettings,
        encoder: DecisionEncoder,
        committer: Committer,
        id: &str,
        every: Duration,
    ) -> Result<Self, Failure> {
        let delivery = Delivery::ExactlyOnce {
            relay: Box::new(Relay::new(kafka, id, committer)?),
            every,
            since: None,
            decisions: 0,
            asked: 0,
            ended: 0,
        };
        Ok(Self::new(output, encoder, delivery))
    }

    fn new(output: &OutputSettings, encoder: DecisionEncoder, delivery: Delivery) -> Self {
        let topic = |name: &Option<String>| name.as_deref().map(Arc::from);
        Self {
            topics: Topics {
                decisions: topic(&output.decisions),
                dead_letters: topic(&output.dead_letters),
                order: topic(&output.order),
            },
            encoder,
            delivery,
            mark: None,
            behind_mark: false,
        }
    }

    /// Sends a batch's decisions and its order record. The timing header's `appended_us`, the
    /// broker's append time of the event, lets a reader measure the whole way of a decision.
    pub fn send_decided(&mut self, decided: &Decided) -> Result<(), Failure> {
        if let Delivery::ExactlyOnce { decisions, .. } = &mut self.delivery {
            *decisions += decided.decisions.len();
        }
        if let Some(topic) = self.topics.decisions.clone() {
            for (at, decision) in decided.decisions.iter().enumerate() {
                let mut payload = Vec::with_capacity(2048);
                self.encoder.encode(decision, &mut payload)?;
                let timing = serde_json::json!({
                    "wait": decided.timing.wait_us,
                    "features": decided.timing.features_us,
                    "score": decided.timing.score_us,
                    "explain": decided.timing.explain_us,
                    "appended_us": decided.broker_time_us.get(at),
                });
                self.send(Record {
                    topic: topic.clone(),
                    key: decision.event.to_string().into_bytes(),
                    payload,
                    timing: Some(timing.to_string()),
                })?;
            }
        }
        if let Some(topic) = self.topics.order.clone() {
            let payload = serde_json::to_vec(&decided.order)
                .map_err(|e| Failure::new("output", e.to_string()))?;
            // One key a lane: a lane's records keep their order in one partition.
            self.send(Record {
                topic,
                key: decided.lane.to_string().into_bytes(),
                payload,
                timing: None,
            })?;
        }
        self.send_dead_letters(&decided.dead_letters)
    }

    /// Sends refused records.
    pub fn send_dead_letters(&mut self, letters: &[DeadLetter]) -> Result<(), Failure> {
        let Some(topic) = self.topics.dead_letters.clone() else {
            return Ok(());
        };
        for letter in letters {
            self.send(Record {
                topic: topic.clone(),
                key: letter.event.to_string().into_bytes(),
                payload: letter
                    .to_json(DeadLetter::RAW_BYTES_MAX)
                    .to_string()
                    .into_bytes(),
                timing: None,
            })?;
        }
        Ok(())
    }

    fn send(&mut self, record: Record) -> Result<(), Failure> {
        self.behind_mark = true;
        match &mut self.delivery {
            Delivery::AtLeastOnce { writer, .. } => writer.send(&record),
            Delivery::ExactlyOnce { relay, since, .. } => {
                since.get_or_insert_with(Instant::now);
                relay.send(record)
            }
        }
    }

    /// Everything the source gave up to `mark` has been sent.
    pub fn mark(&mut self, mark: Mark) {
        self.behind_mark = false;
        match &mut self.delivery {
            Delivery::AtLeastOnce {
                writer,
                undelivered,
                ..
            } => undelivered.push_back((writer.sent(), mark)),
            Delivery::ExactlyOnce { since, .. } => {
                // A mark without records, as after records that say nothing, is worth a commit too.
                if self.mark.as_ref() != Some(&mark) {
                    since.get_or_insert_with(Instant::now);
                }
                self.mark = Some(mark);
            }
        }
    }

    /// Done when there is something to do besides sending.
    pub async fn due(&mut self) {
        const IDLE: Duration = Duration::from_millis(100);
        match &mut self.delivery {
            Delivery::AtLeastOnce { .. } => tokio::time::sleep(IDLE).await,
            Delivery::ExactlyOnce {
                relay,
                every,
                since,
                ..
            } => {
                let commit = match since {
                    Some(since) if !self.behind_mark && !relay.is_ending() => {
                        every.saturating_sub(since.elapsed())
                    }
                    _ => IDLE,
                };
                // Whichever it was, the sink is settled next.
                let _ = tokio::time::timeout(commit, relay.due()).await;
            }
        }
    }

    /// The point that sending has come to.
    pub fn point(&self) -> Point {
        Point(match &self.delivery {
            Delivery::AtLeastOnce { writer, .. } => writer.sent(),
            Delivery::ExactlyOnce { since, asked, .. } => asked + u64::from(since.is_some()),
        })
    }

    /// Whether everything sent until `point` is there to be read: the broker has it or, exactly once, has
    /// committed it.
    pub fn is_settled(&self, point: Point) -> Result<bool, Failure> {
        Ok(match &self.delivery {
            Delivery::AtLeastOnce { writer, .. } => writer.delivered()? >= point.0,
            Delivery::ExactlyOnce { ended, .. } => *ended >= point.0,
        })
    }

    /// At least once: what it took until the broker had the slowest of the records of which it has said so since
    /// this was last asked.
    pub fn delivery_took(&self) -> Option<Duration> {
        match &self.delivery {
            Delivery::AtLeastOnce { writer, .. } => writer.took(),
            Delivery::ExactlyOnce { .. } => None,
        }
    }

    /// Commits what is due. If it must be `now`, everything up to the newest mark is committed on return.
    /// Returns what each transaction took that has ended.
    pub fn settle(&mut self, now: bool) -> Result<Vec<Commit>, Failure> {
        match &mut self.delivery {
            Delivery::AtLeastOnce {
                writer,
                committer,
                undelivered,
                committed_at,
            } => {
                if now {
                    writer.flush()?;
                }
                let delivered = writer.delivered()?;
                if !now && committed_at.elapsed() < OFFSETS_EVERY {
                    // Marks that are superseded need not be kept.
                    while undelivered
                        .get(1)
                        .is_some_and(|(sent, _)| *sent <= delivered)
                    {
                        undelivered.pop_front();
                    }
                    return Ok(Vec::new());
                }
                let mut newest = None;
                while let Some((_, mark)) = undelivered.pop_front_if(|(sent, _)| *sent <= delivered)
                {
                    newest = Some(mark.progress());
                }
                if let Some(progress) = newest {
                    *committed_at = Instant::now();
                    let committed = match now {
                        true => committer.commit(&progress),
                        false => committer.begin_commit(&progress),
                    };
                    committed.map_err(input_failure)?;
                }
                Ok(Vec::new())
            }
            Delivery::ExactlyOnce {
                relay,
                every,
                since,
                decisions,
                asked,
                ended: all_ended,
            } => {
                let mut ended = Vec::new();
                ended.extend(relay.ended()?);
                relay.poll()?;
                if let (Some(begun), false, Some(mark)) = (*since, self.behind_mark, &self.mark) {
                    let full = relay.pending() >= TRANSACTION_RECORDS_MAX;
                    if now || full {
                        ended.extend(relay.wait()?);
                    }
                    let due = now || full || begun.elapsed() >= *every;
                    if due && !relay.is_ending() {
                        relay.end(mark.progress(), std::mem::take(decisions), begun)?;
                        *asked += 1;
                        *since = None;
                    }
                }
                if now {
                    ended.extend(relay.wait()?);
                }
                *all_ended += ended.len() as u64;
                Ok(ended)
            }
        }
    }
}
