//! A member of a consumer group as a source.
//!
//! Whoever calls `next` polls the client. What its queues hold is taken in the order of its
//! [`Lane`], payloads copied once, and decoded together. Offsets are committed only through a
//! [`Committer`], after what was made of the records is safe.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use sanderling_schemas::{EventBatch, Offsets, Partition, Relation, Sequence};

use super::broker::Broker;
use super::committer::Committer;
use super::group::{Group, STRATEGY};
use super::lane::{Lane, Slot};
use super::options::{KafkaOptions, OffsetReset, TopicPartition};
use super::probe::{GroupMember, Probe};
use super::seek::seek;
use super::tap::{Record, Tap};
use super::topics::Topics;
use super::trouble::KafkaTrouble;
use super::wake::Wake;
use crate::IngestError;
use crate::source::{EventSource, Position, SourceEvent};
use crate::stream::StreamSpec;

/// Payload bytes of one batch, beyond which no more records are taken into it.
const BATCH_BYTES_MAX: usize = 64 << 20;
/// Longest time for which a queue is believed to be empty without looking.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Topics, one for each stream, read as a member of a group.
pub struct KafkaSource {
    topics: Topics,
    broker: Broker,
    /// Before `consumer`: queues go first.
    lanes: Vec<Lane<Group>>,
    consumer: Arc<BaseConsumer<Group>>,
    wake: Arc<Wake>,
    hold: bool,
    by_number: bool,
    /// The lane to be asked first, so that none is left out.
    turn: usize,
    looked: Instant,
    rebalanced: VecDeque<SourceEvent>,
    ready: Option<EventBatch>,
    first_sequence: u64,
    accepted: u64,
    rejected: u64,
}

impl KafkaSource {
    /// Subscribes to the topics of `streams`. Fails if a stream has no topic, or if the client
    /// refuses its settings; a broker that cannot be reached shows in
    /// [`KafkaSource::check_topics`]. With `lanes` and several topics the broker is asked at once:
    /// all must have as many partitions as the first.
    pub fn new(
        relation: Arc<Relation>,
        streams: &[StreamSpec],
        options: &KafkaOptions,
    ) -> Result<Self, IngestError> {
        let topics = Topics::new(relation, streams)?;
        let broker = Broker::of(options);
        let reset = match options.offset_reset {
            OffsetReset::Earliest => "earliest",
            OffsetReset::Latest => "latest",
        };
        let mut own = vec![
            ("auto.offset.reset", reset),
            // How soon a member hears that another has come.
            ("heartbeat.interval.ms", "1000"),
        ];
        if let Some(instance) = &options.instance {
            own.push(("group.instance.id", instance));
            own.push(("client.id", instance));
        }
        let (mut subscribed, mut followers) = (topics.names(), Vec::new());
        if options.lanes && subscribed.len() > 1 {
            check_alike(&broker, &subscribed)?;
            followers = subscribed.split_off(1);
        }
        let followers = followers.into_iter().map(String::from).collect();
        let group = Group::new(followers, options.before_revoke.clone());
        let fixed = [STRATEGY, ("group.id", options.group.as_str())];
        let mut consumer = broker.consumer(&own, &fixed, group)?;
        let wake = Arc::new(Wake::default());
        let wakes = wake.clone();
        consumer.set_nonempty_callback(move || wakes.notify());
        let consumer = Arc::new(consumer);
        consumer.context().know(&consumer);
        consumer
            .subscribe(&subscribed)
            .map_err(|error| broker.failed("subscribing", &error))?;
        Ok(Self {
            topics,
            broker,
            lanes: Vec::new(),
            consumer,
            wake,
            hold: options.hold,
            by_number: options.lanes,
            turn: 0,
            looked: Instant::now(),
            rebalanced: VecDeque::new(),
            ready: None,
            first_sequence: options.first_sequence,
            accepted: 0,
            rejected: 0,
        })
    }

    /// Asks the broker for every topic; returns how many partitions each has. Fails if the broker
    /// cannot be reached or does not let us in, or if a topic is not there or may not be read.
    pub fn check_topics(&self) -> Result<BTreeMap<Arc<str>, i32>, IngestError> {
        let probe = Probe::new(&self.broker)?;
        let mut partitions = BTreeMap::new();
        for name in self.topics.names() {
            partitions.insert(name.into(), probe.partitions(name)?);
        }
        Ok(partitions)
    }

    /// How many partitions a topic has, asked without joining a group. Fails as
    /// [`KafkaSource::check_topics`] does.
    pub fn partitions_of(
        brokers: &str,
        properties: &BTreeMap<String, String>,
        topic: &str,
    ) -> Result<i32, IngestError> {
        let broker = Broker {
            brokers: brokers.into(),
            properties: properties.clone(),
        };
        Probe::new(&broker)?.partitions(topic)
    }

    /// The members that a group has now, this program's own ghost among them: a static member
    /// stays until its session times out.
    pub fn members(
        brokers: &str,
        properties: &BTreeMap<String, String>,
        group: &str,
    ) -> Result<Vec<GroupMember>, IngestError> {
        let broker = Broker {
            brokers: brokers.into(),
            properties: properties.clone(),
        };
        Probe::new(&broker)?.members(group)
    }

    /// Reads partitions that were held: each at its offset in `at`, or where the group stands.
    /// Those that have gone meanwhile are left out.
    pub fn begin(
        &mut self,
        partitions: &[TopicPartition],
        at: &Offsets,
    ) -> Result<(), IngestError> {
        let mine: Vec<_> = partitions
            .iter()
            .filter_map(|partition| Some((partition, self.find(partition)?)))
            .collect();
        let sought: Vec<_> = mine
            .iter()
            .filter_map(|((topic, partition), _)| {
                Some(((topic.clone(), *partition), at.next(topic, *partition)?))
            })
            .collect();
        seek(&self.consumer, &self.broker, &sought)?;
        for ((topic, partition), (lane, slot)) in mine {
            self.lanes[lane].begin(slot, at.next(topic, *partition));
        }
        Ok(())
    }

    /// For whoever commits.
    pub fn committer(&self) -> Committer {
        Committer::new(self.consumer.clone(), self.broker.clone())
    }

    /// Whether all that was read has been given: no rows are kept back behind refused records.
    pub fn has_given_all(&self) -> bool {
        self.ready.is_none()
    }

    /// Whether there may be older records than those that were given, so that they are merged by
    /// the broker's time. True until the first assignment.
    pub fn is_behind(&self) -> bool {
        !self.consumer.context().has_joined() || self.lanes.iter().any(Lane::is_behind)
    }

    /// Records that each partition has beyond those that were given, where it is known. Control
    /// records count, until the partition's end is reached.
    pub fn lag(&self) -> Vec<(Arc<str>, Partition, i64)> {
        let slots = self.lanes.iter().flat_map(|lane| &lane.slots);
        let mut lag: Vec<_> = slots
            .filter_map(|slot| {
                Some((
                    self.topics.name(slot.topic).clone(),
                    slot.partition,
                    slot.lag()?,
                ))
            })
            .collect();
        lag.sort();
        lag
    }

    /// The next offset of every partition that was read, after all records that were given.
    pub fn offsets(&self) -> Offsets {
        let mut offsets = Offsets::default();
        for slot in self.lanes.iter().flat_map(|lane| &lane.slots) {
            if let Some(next) = slot.given() {
                offsets.set(self.topics.name(slot.topic).clone(), slot.partition, next);
            }
        }
        offsets
    }

    fn find(&self, (topic, partition): &TopicPartition) -> Option<(usize, usize)> {
        let topic = self.topics.index(topic)?;
        self.lanes.iter().enumerate().find_map(|(at, lane)| {
            let mut slots = lane.slots.iter();
            let slot = slots.position(|s| s.topic == topic && s.partition == *partition)?;
            Some((at, slot))
        })
    }

    /// Lets the client do what is due: rebalances above all.
    fn attend(&mut self) -> Result<(), IngestError> {
        loop {
            let polled = self.consumer.poll(Duration::ZERO);
            let quiet = polled.is_none();
            match polled {
                None => {}
                Some(Err(error)) => self.hear(error)?,
                Some(Ok(_)) => {
                    return Err(self.broker.trouble(
                        "reading",
                        KafkaTrouble::Refused,
                        "a record came outside its partition's queue",
                    ));
                }
            }
            let events: Vec<_> = self.consumer.context().events().drain(..).collect();
            if quiet && events.is_empty() {
                return Ok(());
            }
            for event in events {
                let event = event.map_err(|error| self.broker.failed("rebalancing", &error))?;
                match &event {
                    SourceEvent::Assigned(partitions) => self.assigned(partitions)?,
                    SourceEvent::Revoked(partitions) => self.revoked(partitions),
                    _ => {}
                }
                self.rebalanced.push_back(event);
            }
        }
    }

    fn assigned(&mut self, partitions: &[TopicPartition]) -> Result<(), IngestError> {
        for (name, partition) in partitions {
            let Some(topic) = self.topics.index(name) else {
                continue;
            };
            let tap = Tap::new(&self.consumer, topic, name, *partition, &self.wake);
            let tap = tap.ok_or_else(|| {
                let word = format!("partition {name}/{} has no queue", partition.0);
                self.broker.trouble("reading", KafkaTrouble::Refused, word)
            })?;
            let number = self.by_number.then_some(*partition);
            let lane = match self.lanes.iter().position(|lane| lane.number == number) {
                Some(lane) => lane,
                None => {
                    self.lanes.push(Lane::new(number));
                    self.lanes.len() - 1
                }
            };
            self.lanes[lane].add(Slot::new(topic, *partition, tap, self.hold));
        }
        Ok(())
    }

    fn revoked(&mut self, partitions: &[TopicPartition]) {
        let gone: Vec<_> = partitions
            .iter()
            .filter_map(|(name, partition)| Some((self.topics.index(name)?, *partition)))
            .collect();
        for lane in &mut self.lanes {
            if lane
                .slots
                .iter()
                .any(|s| gone.contains(&(s.topic, s.partition)))
            {
                lane.keep(|slot| !gone.contains(&(slot.topic, slot.partition)));
            }
        }
        self.lanes.retain(|lane| !lane.slots.is_empty());
    }

    /// The records of the next lane that has some.
    fn take(&mut self, rows_max: usize) -> Result<Vec<Record>, IngestError> {
        if self.looked.elapsed() >= LOOK_AGAIN {
            self.looked = Instant::now();
            self.lanes.iter_mut().for_each(Lane::suspect);
        }
        let mut taken = Vec::new();
        for ahead in 0..self.lanes.len() {
            let at = (self.turn + ahead) % self.lanes.len();
            if let Err(error) = self.lanes[at].take(rows_max, BATCH_BYTES_MAX, &mut taken) {
                self.hear(error)?;
            }
            if !taken.is_empty() {
                self.turn = at + 1;
                break;
            }
        }
        Ok(taken)
    }

    /// Fails unless the client goes on by itself.
    fn hear(&self, error: KafkaError) -> Result<(), IngestError> {
        // For a while after a restart a broker may not know its own topics.
        if KafkaTrouble::of(&error) == KafkaTrouble::MissingTopic {
            return self.check_topics().map(drop);
        }
        if KafkaTrouble::passes(&error) {
            tracing::warn!(brokers = %self.broker.brokers, %error, "the Kafka client goes on");
            return Ok(());
        }
        let words = &self.consumer.context().words;
        Err(self.broker.failed_because("reading", &error, words))
    }

    fn give(&mut self, mut batch: EventBatch) -> SourceEvent {
        if !self.by_number {
            batch.sequence = Sequence(self.first_sequence + self.accepted);
        }
        self.accepted += batch.len() as u64;
        SourceEvent::Batch(batch)
    }
}

/// Fails unless all topics have as many partitions as the first.
fn check_alike(broker: &Broker, topics: &[&str]) -> Result<(), IngestError> {
    let probe = Probe::new(broker)?;
    let partitions = probe.partitions(topics[0])?;
    for topic in &topics[1..] {
        let others = probe.partitions(topic)?;
        if others != partitions {
            return Err(IngestError::PartitionsDiffer {
                topic: topics[0].into(),
                partitions,
                other: (*topic).into(),
                others,
            });
        }
    }
    Ok(())
}

impl EventSource for KafkaSource {
    fn next(&mut self, rows_max: usize, wait: Duration) -> Result<SourceEvent, IngestError> {
        // Before anything else, so that a partition goes only when all that was taken of it has
        // been given.
        if let Some(batch) = self.ready.take() {
            return Ok(self.give(batch));
        }
        let until = Instant::now() + wait;
        loop {
            self.wake.clear();
            if self.rebalanced.is_empty() {
                self.attend()?;
            }
            if let Some(event) = self.rebalanced.pop_front() {
                return Ok(event);
            }
            let taken = self.take(rows_max.max(1))?;
            if !taken.is_empty() {
                let (batch, letters) = self.topics.decode(&taken)?;
                if letters.is_empty() {
                    if let Some(batch) = batch {
                        return Ok(self.give(batch));
                    }
                    continue;
                }
                self.ready = batch;
                self.rejected += letters.len() as u64;
                return Ok(SourceEvent::Rejected(letters));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(SourceEvent::Idle);
            }
            self.wake.wait(left.min(LOOK_AGAIN));
        }
    }

    fn position(&self) -> Position {
        Position::Topics {
            next: self
                .offsets()
                .iter()
                .map(|(topic, partition, next)| (topic.into(), partition, next))
                .collect(),
            accepted: self.accepted,
            rejected: self.rejected,
        }
    }
}

impl Drop for KafkaSource {
    fn drop(&mut self) {
        self.consumer.context().leave();
    }
}
