//! A producer that loses nothing: a full queue is back-pressure, a refusal is a failure.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer, ProducerContext, ThreadedProducer};

use super::properties::client_config;
use super::{Record, TIMING_HEADER};
use crate::failure::Failure;
use crate::settings::KafkaSettings;

/// How long a flush waits for the broker before it is a failure.
const FLUSH_WAIT: Duration = Duration::from_secs(30);

/// Writes records to topics, at least once.
pub struct TopicWriter {
    producer: ThreadedProducer<Deliveries>,
    sent: AtomicU64,
    fates: Arc<Fates>,
}

/// What became of the records handed over.
struct Fates {
    delivered: AtomicU64,
    refused: AtomicU64,
    since: Instant,
    /// The longest that one took of those delivered since this was last asked, microseconds.
    took_us: AtomicU64,
}

impl Fates {
    fn now_us(&self) -> u64 {
        self.since.elapsed().as_micros() as u64
    }
}

/// Hears from the client what became of each record.
struct Deliveries(Arc<Fates>);

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    /// When the record was handed over, in the time of [`Fates`].
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, handed_us: usize) {
        let fate = match result {
            Ok(_) => {
                let took_us = self.0.now_us().saturating_sub(handed_us as u64);
                self.0.took_us.fetch_max(took_us, Ordering::AcqRel);
                &self.0.delivered
            }
            Err((error, _)) => {
                tracing::error!(%error, "a record was not delivered");
                &self.0.refused
            }
        };
        fate.fetch_add(1, Ordering::Release);
    }
}

impl TopicWriter {
    /// A writer to the brokers of `kafka`, whose properties go to librdkafka as they are.
    pub fn new(kafka: &KafkaSettings) -> Result<Self, Failure> {
        let fates = Arc::new(Fates {
            delivered: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            since: Instant::now(),
            took_us: AtomicU64::new(0),
        });
        let own = [("linger.ms", "1"), ("enable.idempotence", "true")];
        let producer = client_config(kafka, &own)
            .create_with_context(Deliveries(fates.clone()))
            .map_err(|e| {
                Failure::new(
                    "kafka",
                    format!("cannot make a producer for {}: {e}", kafka.brokers),
                )
                .cure("check kafka.brokers and kafka.properties in pipeline.yaml")
            })?;
        Ok(Self {
            producer,
            sent: AtomicU64::new(0),
            fates,
        })
    }

    /// Hands one record over, waiting while the client's queue is full.
    pub fn send(&self, record: &Record) -> Result<(), Failure> {
        let now_us = self.fates.now_us() as usize;
        let mut handed = BaseRecord::with_opaque_to(&record.topic, now_us)
            .key(&record.key)
            .payload(&record.payload);
        if let Some(timing) = &record.timing {
            let header = Header {
                key: TIMING_HEADER,
                value: Some(timing),
            };
            handed = handed.headers(OwnedHeaders::new().insert(header));
        }
        loop {
            match self.producer.send(handed) {
                Ok(()) => {
                    self.sent.fetch_add(1, Ordering::Release);
                    return Ok(());
                }
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    handed = back;
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err((e, _)) => {
                    return Err(Failure::new(
                        "kafka",
                        format!("cannot write to {}: {e}", record.topic),
                    )
                    .cure("check that the topic is there and may be written to"));
                }
            }
        }
    }

    /// Waits until the broker has everything sent so far.
    pub fn flush(&self) -> Result<(), Failure> {
        self.producer.flush(FLUSH_WAIT).map_err(|e| {
            Failure::new(
                "kafka",
                format!("the broker did not take the records in time: {e}"),
            )
            .cure("look at the broker; nothing read since the last commit is lost")
        })?;
        self.delivered().map(drop)
    }

    /// Records handed over so far.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Acquire)
    }

    /// The longest that a record took from here to the broker's word that it has it, of those whose word came
    /// since this was last asked.
    pub fn took(&self) -> Option<Duration> {
        let us = self.fates.took_us.swap(0, Ordering::AcqRel);
        (us > 0).then(|| Duration::from_micros(us))
    }

    /// Records that the broker has.
    ///
    /// # Errors
    /// If it refused any for good.
    pub fn delivered(&self) -> Result<u64, Failure> {
        match self.fates.refused.load(Ordering::Acquire) {
            0 => Ok(self.fates.delivered.load(Ordering::Acquire)),
            refused => Err(
                Failure::new("kafka", format!("the broker refused {refused} records"))
                    .cure("look at the log above for the broker's word, and at the topic's limits"),
            ),
        }
    }
}
