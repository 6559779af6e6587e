//! Reads again exactly what an order record says was read.
//!
//! Outside any group and assigned by hand: nobody's offsets are touched. Runs come in the order
//! of the first reading, and within a partition they go forward, so each partition is read on
//! from where its last run ended, through its own queue, while the others fill theirs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::topic_partition_list::{Offset as KafkaOffset, TopicPartitionList};
use sanderling_schemas::{DeadLetter, EventBatch, Offset, Relation, Run};

use super::broker::{Broker, Words};
use super::options::TopicPartition;
use super::seek::{held, seek};
use super::tap::{Drawn, Record, Tap};
use super::topics::Topics;
use super::trouble::KafkaTrouble;
use super::wake::Wake;
use crate::IngestError;
use crate::stream::StreamSpec;

/// A gap up to this many records is read through; over a longer one it is quicker to seek.
const GAP_MAX: i64 = 10_000;
/// How long a partition may bring nothing of what it holds.
const SILENT_MAX: Duration = Duration::from_secs(60);
/// The same, after the end of what it holds was seen.
const SILENT_AT_END_MAX: Duration = Duration::from_secs(3);
/// Longest wait for a record before the client is attended to.
const POLL: Duration = Duration::from_millis(100);

/// Reads runs of the input again.
pub struct RunsReader {
    topics: Topics,
    broker: Broker,
    /// Before `consumer`: queues go first.
    partitions: BTreeMap<TopicPartition, Reading>,
    consumer: Arc<BaseConsumer<Words>>,
    words: Words,
    /// Records before and between runs are read too, for those that are refused.
    with_refused: bool,
    /// Raised when what is read is no longer wanted.
    stop: Arc<AtomicBool>,
}

/// A partition that is being read.
struct Reading {
    tap: Tap<Words>,
    /// The next offset that may come.
    next: Offset,
    /// A record that came early.
    ahead: Option<Record>,
}

impl RunsReader {
    /// A reader of the topics of `streams`.
    pub fn new(
        relation: Arc<Relation>,
        streams: &[StreamSpec],
        brokers: &str,
        properties: &BTreeMap<String, String>,
    ) -> Result<Self, IngestError> {
        let broker = Broker {
            brokers: brokers.into(),
            properties: properties.clone(),
        };
        let words = Words::default();
        // The client wants the name of a group, though it joins none.
        let own = [("group.id", "sanderling-reader")];
        let fixed = [("auto.offset.reset", "error")];
        let consumer = broker.consumer(&own, &fixed, words.clone())?;
        Ok(Self {
            topics: Topics::new(relation, streams)?,
            broker,
            partitions: BTreeMap::new(),
            consumer: Arc::new(consumer),
            words,
            with_refused: false,
            stop: Arc::default(),
        })
    }

    /// The same, and it ends once `stop` is raised.
    pub fn until(self, stop: Arc<AtomicBool>) -> Self {
        Self { stop, ..self }
    }

    /// The same, and it brings what stands before and between the runs and is refused now as it was
    /// then. Where a long stretch of a partition is in no run, what is in it is passed over.
    pub fn with_refused(self) -> Self {
        Self {
            with_refused: true,
            ..self
        }
    }

    /// The rows of these runs, run by run, with sequence 0, `None` if there are none; and what was
    /// refused.
    ///
    /// # Errors
    /// [`IngestError::NotHeld`] if a topic no longer holds the first or the last record of a run;
    /// [`IngestError::Stopped`] if it was told to end.
    pub fn read(
        &mut self,
        runs: &[Run],
    ) -> Result<(Option<EventBatch>, Vec<DeadLetter>), IngestError> {
        let (mut records, mut between) = (Vec::new(), Vec::new());
        for run in runs {
            self.read_run(run, &mut records, &mut between)?;
        }
        let (batch, mut refused) = self.topics.decode(&records)?;
        refused.extend(self.topics.decode(&between)?.1);
        Ok((batch, refused))
    }

    fn read_run(
        &mut self,
        run: &Run,
        records: &mut Vec<Record>,
        between: &mut Vec<Record>,
    ) -> Result<(), IngestError> {
        if run.range.from >= run.range.next {
            return Ok(());
        }
        let key = (run.topic.clone(), run.partition);
        self.place(&key, run)?;
        let Some(reading) = self.partitions.get_mut(&key) else {
            return Ok(());
        };
        let before = records.len();
        let (mut heard, mut patience) = (Instant::now(), SILENT_MAX);
        while reading.next < run.range.next {
            if self.stop.load(Ordering::Acquire) {
                return Err(IngestError::Stopped);
            }
            let drawn = match reading.ahead.take() {
                Some(record) => Ok(Drawn::Record(record)),
                None => reading.tap.draw_within(POLL),
            };
            match drawn {
                Ok(Drawn::Record(record)) => {
                    (heard, patience) = (Instant::now(), SILENT_MAX);
                    reading.next = Offset(record.offset.0 + 1);
                    if record.offset >= run.range.next {
                        reading.next = run.range.next;
                        reading.ahead = Some(record);
                        break;
                    }
                    match record.offset >= run.range.from {
                        true => records.push(record),
                        false if self.with_refused => between.push(record),
                        false => {}
                    }
                }
                // This may be the end that was reached by an earlier run. If nothing more comes,
                // what is missing is told below.
                Ok(Drawn::End) => patience = SILENT_AT_END_MAX,
                Ok(Drawn::Nothing)
                    if patience == SILENT_AT_END_MAX && heard.elapsed() > patience =>
                {
                    break;
                }
                Ok(Drawn::Nothing) => {
                    while let Some(polled) = self.consumer.poll(Duration::ZERO) {
                        if let Err(error) = polled
                            && !passes(&error)
                        {
                            return Err(self.broker.failed("reading again", &error));
                        }
                    }
                    if heard.elapsed() > patience {
                        let word = match self.words.last() {
                            Some((_, reason)) => format!("nothing came ({reason})"),
                            None => "nothing came".into(),
                        };
                        return Err(self.broker.trouble(
                            &format!("reading {}/{} again", run.topic, run.partition.0),
                            KafkaTrouble::Unreachable,
                            word,
                        ));
                    }
                }
                Err(error)
                    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset) =>
                {
                    break;
                }
                Err(error) if passes(&error) => {
                    tracing::warn!(brokers = %self.broker.brokers, %error, "the Kafka client goes on");
                }
                Err(error) => return Err(self.broker.failed("reading again", &error)),
            }
        }
        let ends = |at: Option<&Record>, offset: i64| at.is_some_and(|r| r.offset.0 == offset);
        let read = &records[before..];
        if ends(read.first(), run.range.from.0) && ends(read.last(), run.range.next.0 - 1) {
            return Ok(());
        }
        self.partitions.remove(&key);
        let (from, next) = (run.range.from, run.range.next);
        held(&self.consumer, &self.broker, &key, from, next)?;
        // The broker has something there, but no records of its own: it is another topic, or it
        // was emptied in the middle.
        Err(IngestError::NotHeld {
            topic: run.topic.to_string(),
            partition: run.partition.0,
            from: from.0,
            next: next.0,
            low: read.first().map_or(next.0, |record| record.offset.0),
            high: read.last().map_or(from.0, |record| record.offset.0 + 1),
        })
    }

    /// Makes the partition's queue go on at the run's beginning.
    fn place(&mut self, key: &TopicPartition, run: &Run) -> Result<(), IngestError> {
        let from = run.range.from;
        if let Some(reading) = self.partitions.get_mut(key) {
            if (0..=GAP_MAX).contains(&(from.0 - reading.next.0)) {
                return Ok(());
            }
            reading.ahead = None;
            reading.next = from;
            return seek(&self.consumer, &self.broker, &[(key.clone(), from)]);
        }
        let low = held(&self.consumer, &self.broker, key, from, run.range.next)?;
        let from = match self.with_refused {
            true => low.max(Offset(from.0 - GAP_MAX)),
            false => from,
        };
        let (name, partition) = key;
        let no_topic = || IngestError::Declaration {
            stream: name.to_string(),
            message: "the order log names this topic, and no stream has it; \
                      give the stream back its topic"
                .into(),
        };
        let topic = self.topics.index(name).ok_or_else(no_topic)?;
        let wake = Arc::new(Wake::default());
        let tap = Tap::new(&self.consumer, topic, name, *partition, &wake).ok_or_else(no_topic)?;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(name, partition.0, KafkaOffset::Offset(from.0))
            .and_then(|()| self.consumer.incremental_assign(&list))
            .map_err(|error| self.broker.failed("reading again", &error))?;
        let reading = Reading {
            tap,
            next: from,
            ahead: None,
        };
        self.partitions.insert(key.clone(), reading);
        Ok(())
    }
}

/// Of a reader outside any group, what the broker says of groups is no trouble.
fn passes(error: &rdkafka::error::KafkaError) -> bool {
    KafkaTrouble::passes(error) || KafkaTrouble::of(error) == KafkaTrouble::GroupDenied
}
