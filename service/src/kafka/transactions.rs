//! Records and input offsets that become visible together, or not at all.
//!
//! What was sent since the last commit is kept until its fate is known. After an abort it is sent
//! again; after a commit whose outcome nobody told, a new producer with the same transactional id
//! settles the old transaction, and the group's committed offsets say which way it went.

use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{
    BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext, PurgeConfig,
};
use sanderling_ingest::{Committer, Progress};

use super::properties::client_config;
use super::{Record, TIMING_HEADER};
use crate::failure::Failure;
use crate::settings::KafkaSettings;

/// How long the broker keeps a transaction that nobody finishes; readers wait behind it.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(15);
const TRANSACTION_TIMEOUT_KEY: &str = "transaction.timeout.ms";
/// How long the end of a transaction may take before a new producer asks for its fate: the answer of
/// a coordinator that was restarted may never come.
const END_WITHIN: Duration = Duration::from_secs(5);
/// How long another step of a transaction may take before it is tried again.
const STEP_WITHIN: Duration = Duration::from_secs(10);
/// How long the broker may be unable to settle a transaction before we give up.
const SETTLED_WITHIN: Duration = Duration::from_secs(180);
/// How long a coordinator goes on writing the markers of a transaction that it has called committed. A
/// record that comes sooner is refused, and the client tries it again only after twenty milliseconds.
const SETTLES: Duration = Duration::from_millis(6);
/// Time between two looks at what is still on its way.
const LOOK_AGAIN: Duration = Duration::from_micros(200);
/// Time between two tries.
const PAUSE: Duration = Duration::from_millis(100);

/// A transactional producer that loses nothing and repeats nothing.
pub struct Transactions {
    config: ClientConfig,
    id: String,
    producer: BaseProducer<Deliveries>,
    committer: Committer,
    /// Sent since the last commit.
    kept: Vec<Record>,
    /// How many of them the client has.
    handed: usize,
    /// When the last transaction began.
    begun: Instant,
    /// When the last transaction ended.
    ended: Instant,
    /// A transaction is open at the producer.
    open: bool,
    /// Its commit has been asked for, and the answer is still to come.
    committing: bool,
}

/// Hears from the client what became of each record. A record that was not delivered makes the
/// commit fail, so there is nothing to do but to say so.
struct Deliveries;

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, _: ()) {
        if let Err((error, _)) = result
            && !matches!(
                error.rdkafka_error_code(),
                Some(RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight)
            )
        {
            tracing::debug!(%error, "a record of a transaction was not delivered");
        }
    }
}

/// What a failed step asks for.
enum Remedy {
    /// The same step again.
    Retry,
    /// Abort, then send everything again.
    Abort,
    /// A new producer.
    Rebuild,
}

impl Transactions {
    /// A producer of the transactional id `id`. An earlier one of that id, alive or dead, is fenced
    /// off and its open transaction aborted.
    pub fn new(kafka: &KafkaSettings, id: &str, committer: Committer) -> Result<Self, Failure> {
        let timeout = TRANSACTION_TIMEOUT.as_millis().to_string();
        let own = [
            ("linger.ms", "2"),
            // What the coordinator cannot do while it does something else is asked for again soon.
            ("retry.backoff.ms", "5"),
            (TRANSACTION_TIMEOUT_KEY, &timeout),
        ];
        let mut config = client_config(kafka, &own);
        config.set("transactional.id", id);
        let producer = begin_producer(&config, id)?;
        Ok(Self {
            config,
            id: id.into(),
            producer,
            committer,
            kept: Vec::new(),
            handed: 0,
            begun: Instant::now(),
            ended: Instant::now(),
            open: false,
            committing: false,
        })
    }

    /// Keeps a record of the transaction until the commit; it is still to be handed over.
    pub fn keep(&mut self, record: Record) {
        self.kept.push(record);
    }

    /// Hands to the client what it may have by now.
    pub fn hand_over(&mut self) -> Result<(), Failure> {
        if self.ended.elapsed() < SETTLES {
            return Ok(());
        }
        if !self.open && !self.kept.is_empty() {
            self.begin()?;
        }
        while let Some(record) = self.kept.get(self.handed) {
            match hand_over(&self.producer, record) {
                Ok(()) => {}
                Err(error) if too_large(&error) => {
                    return Err(Failure::new(
                        "kafka",
                        format!(
                            "a record of {} bytes is too large for {}",
                            record.payload.len(),
                            record.topic
                        ),
                    )
                    .cure("raise max.message.bytes of the topic, and message.max.bytes in kafka.properties"));
                }
                // The transaction has failed: its commit will say so, and everything is sent again.
                Err(error) => tracing::debug!(%error, "a transaction takes no more records"),
            }
            self.handed += 1;
        }
        Ok(())
    }

    /// Records sent since the last commit.
    pub fn pending(&self) -> usize {
        self.kept.len()
    }

    /// Lets the client's events through: delivery reports come while it is polled.
    pub fn poll(&self) {
        self.producer.poll(Duration::ZERO);
    }

    /// How long until something is to be handed over.
    pub fn due(&self) -> Option<Duration> {
        let waits = self.handed < self.kept.len();
        waits.then(|| SETTLES.saturating_sub(self.ended.elapsed()))
    }

    /// Commits what was kept, together with the input's `progress`, in one try. Tells once the fate of every
    /// record is known.
    ///
    /// # Errors
    /// The client's. Nothing is lost by then: see [`Self::commit_after`].
    pub fn try_commit(
        &mut self,
        progress: &Progress,
        delivered: impl FnOnce(),
    ) -> Result<(), KafkaError> {
        self.end(progress, delivered)?;
        self.kept.clear();
        self.is_over();
        Ok(())
    }

    /// Commits what was kept, whatever it takes, after a try that ended with `error`. Returns how many
    /// times it had to be aborted and sent again.
    ///
    /// # Errors
    /// When another producer has taken the transactional id, or the broker settles nothing for long.
    pub fn commit_after(
        &mut self,
        mut error: KafkaError,
        progress: &Progress,
    ) -> Result<u32, Failure> {
        let started = Instant::now();
        let mut aborts = 0;
        loop {
            if started.elapsed() > SETTLED_WITHIN || is_no_member(&error) {
                return Err(self.failed("commit a transaction", &error));
            }
            match remedy(&error) {
                Remedy::Retry if self.committing && started.elapsed() >= END_WITHIN => {
                    tracing::warn!(%error, "the producer is made anew to learn a transaction's fate");
                    aborts += 1;
                    if self.rebuild(progress)? {
                        return Ok(aborts);
                    }
                }
                Remedy::Retry => std::thread::sleep(PAUSE),
                Remedy::Abort => {
                    tracing::warn!(%error, records = self.kept.len(), "a transaction is aborted and sent again");
                    aborts += 1;
                    if !self.abort() && self.rebuild(progress)? {
                        return Ok(aborts);
                    }
                }
                Remedy::Rebuild => {
                    if is_fenced(&error) && !self.has_timed_out() {
                        return Err(self.failed("commit a transaction", &error));
                    }
                    tracing::warn!(%error, "the producer is made anew to learn a transaction's fate");
                    aborts += 1;
                    if self.rebuild(progress)? {
                        return Ok(aborts);
                    }
                }
            }
            match self.try_commit(progress, || ()) {
                Ok(()) => return Ok(aborts),
                Err(again) => error = again,
            }
        }
    }

    /// Takes back what the client was handed: it is still kept, and can be handed over again.
    pub fn take_back(&mut self) -> Result<(), Failure> {
        if self.open && !self.abort() {
            self.producer = begin_producer(&self.config, &self.id)?;
            self.is_over();
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), Failure> {
        self.try_begin()
            .map_err(|e| self.failed("begin a transaction", &e))
    }

    fn try_begin(&mut self) -> Result<(), KafkaError> {
        self.producer.begin_transaction()?;
        self.begun = Instant::now();
        self.open = true;
        self.handed = 0;
        Ok(())
    }

    /// Whether the broker may have ended the transaction that was begun last. It then fences its producer, as
    /// it does where another has taken the transactional id. If another has, it has our membership of the
    /// group too, and the offsets that we send next are refused.
    fn has_timed_out(&self) -> bool {
        let set = self.config.get(TRANSACTION_TIMEOUT_KEY);
        let timeout = set.and_then(|ms| ms.parse().ok().map(Duration::from_millis));
        self.begun.elapsed() >= timeout.unwrap_or(TRANSACTION_TIMEOUT)
    }

    fn end(&mut self, progress: &Progress, delivered: impl FnOnce()) -> Result<(), KafkaError> {
        if !self.open {
            self.try_begin()?;
        }
        while let Some(record) = self.kept.get(self.handed) {
            hand_over(&self.producer, record)?;
            self.handed += 1;
        }
        if !self.committing {
            let list = progress.list()?;
            if list.count() > 0 {
                let group = self.committer.group_metadata();
                self.producer
                    .send_offsets_to_transaction(&list, &group, STEP_WITHIN)?;
            }
        }
        self.committing = true;
        if self.deliver(END_WITHIN) {
            delivered();
        }
        self.producer.commit_transaction(END_WITHIN)
    }

    /// Waits until the fate of every record is known; `false` if it is not by then. The producer's own `flush`
    /// would do, but it looks only ten times a second.
    fn deliver(&self, within: Duration) -> bool {
        let until = Instant::now() + within;
        self.producer.poll(Duration::ZERO);
        while self.producer.in_flight_count() > 0 && Instant::now() < until {
            // A poll that waits is a busy one below some milliseconds.
            std::thread::sleep(LOOK_AGAIN);
            self.producer.poll(Duration::ZERO);
        }
        self.producer.in_flight_count() == 0
    }

    fn is_over(&mut self) {
        self.open = false;
        self.committing = false;
        self.handed = 0;
        self.ended = Instant::now();
    }

    /// Aborts the open transaction; `false` if that cannot be had from this producer.
    fn abort(&mut self) -> bool {
        let started = Instant::now();
        // `abort_transaction` waits for the fate of every record and lets no report of one through,
        // so nothing may be on its way any more.
        self.producer
            .purge(PurgeConfig::default().queue().inflight());
        if let Err(error) = self.producer.flush(STEP_WITHIN) {
            tracing::debug!(%error, "records of an aborted transaction are still on their way");
            return false;
        }
        loop {
            match self.producer.abort_transaction(END_WITHIN) {
                Ok(()) => {
                    self.is_over();
                    return true;
                }
                Err(error) => match remedy(&error) {
                    Remedy::Retry if started.elapsed() < END_WITHIN => {
                        std::thread::sleep(PAUSE);
                    }
                    _ => return false,
                },
            }
        }
    }

    /// Replaces the producer; returns whether the transaction that carried `progress` turned out to
    /// be committed, in which case nothing is sent again.
    fn rebuild(&mut self, progress: &Progress) -> Result<bool, Failure> {
        let offsets = &progress.next;
        self.producer = begin_producer(&self.config, &self.id)?;
        self.is_over();
        let partitions: Vec<_> = offsets.iter().map(|(t, p, _)| (t.into(), p)).collect();
        let committed = self
            .committer
            .committed(&partitions)
            .map_err(crate::replay::input_failure)?;
        let went_through = !partitions.is_empty()
            && offsets
                .iter()
                .all(|(topic, partition, next)| committed.next(topic, partition) == Some(next));
        if went_through {
            self.kept.clear();
        }
        Ok(went_through)
    }

    fn failed(&self, doing: &str, error: &KafkaError) -> Failure {
        let cure = if is_fenced(error) {
            format!(
                "another process writes as {}: stop it, or give this one a name of its own with --instance",
                self.id
            )
        } else if is_no_member(error) {
            "start it again: nothing is lost. The broker heard nothing of this instance for session.timeout.ms and gave its partitions away; raise that under kafka.properties if the broker is away for longer".into()
        } else {
            "look at the broker; nothing is lost, and a restart goes on where the last commit left off".into()
        };
        Failure::new("kafka", format!("cannot {doing} as {}: {error}", self.id)).cure(cure)
    }
}

/// A producer whose transactions may begin.
fn begin_producer(config: &ClientConfig, id: &str) -> Result<BaseProducer<Deliveries>, Failure> {
    let producer: BaseProducer<Deliveries> =
        config.create_with_context(Deliveries).map_err(|e| {
            Failure::new("kafka", format!("cannot make a producer: {e}"))
                .cure("check kafka.brokers and kafka.properties in pipeline.yaml")
        })?;
    let started = Instant::now();
    loop {
        match producer.init_transactions(STEP_WITHIN) {
            Ok(()) => return Ok(producer),
            // A coordinator that has just started, or still settles the last transaction.
            Err(error)
                if started.elapsed() < SETTLED_WITHIN
                    && !matches!(remedy(&error), Remedy::Rebuild) =>
            {
                tracing::debug!(%error, "transactions cannot begin yet");
                std::thread::sleep(PAUSE);
            }
            Err(error) => {
                return Err(Failure::new(
                    "kafka",
                    format!("transactions as {id} cannot begin: {error}"),
                )
                .cure("see that the broker allows transactions, and this user the transactional id; or write delivery: at_least_once"));
            }
        }
    }
}

fn remedy(error: &KafkaError) -> Remedy {
    match error {
        KafkaError::Transaction(error) if error.is_fatal() => Remedy::Rebuild,
        KafkaError::Transaction(error) if error.txn_requires_abort() => Remedy::Abort,
        KafkaError::Transaction(error) if error.is_retriable() => Remedy::Retry,
        KafkaError::Flush(_) => Remedy::Abort,
        _ => Remedy::Rebuild,
    }
}

/// The transactional id has another producer, or the transaction timed out.
fn is_fenced(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fenced)
}

/// The group has gone on without this instance. What it had not committed may be another's by now, so
/// it is never sent again.
fn is_no_member(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(RDKafkaErrorCode::UnknownMemberId | RDKafkaErrorCode::FencedInstanceId)
    )
}

fn too_large(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge)
}

/// Hands a record to the client, waiting while its queue is full.
fn hand_over(producer: &BaseProducer<Deliveries>, record: &Record) -> Result<(), KafkaError> {
    let mut handed = BaseRecord::to(&record.topic)
        .key(&record.key)
        .payload(&record.payload);
    if let Some(timing) = &record.timing {
        handed = handed.headers(OwnedHeaders::new().insert(Header {
            key: TIMING_HEADER,
            value: Some(timing),
        }));
    }
    loop {
        match producer.send(handed) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                producer.poll(Duration::from_millis(1));
                handed = back;
            }
            Err((error, _)) => return Err(error),
        }
    }
}
