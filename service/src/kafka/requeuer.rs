//! Dead letters put back where they came from, each at most once.
//!
//! A record and the mark that it was put back are written in one transaction; the mark is a record
//! without a value under the letter's key, on the topic of dead letters. Whoever begins to requeue
//! first ends the transaction of whoever did before, so that what is then read of marks is final.

use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::util::Timeout;
use sanderling_schemas::EventId;

use super::properties::client_config;
use crate::failure::Failure;
use crate::settings::KafkaSettings;

/// Header of a record that was put back: the event that it was.
pub const REQUEUED_FROM_HEADER: &str = "sanderling-requeued-from";
/// How long a step of a transaction may take before it is tried again.
const STEP_WITHIN: Duration = Duration::from_secs(10);
/// How long the broker may be unable to begin or to commit.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(100);

/// A transactional producer that puts records back.
pub struct Requeuer<'a> {
    producer: BaseProducer,
    dead_letters: &'a str,
    open: bool,
}

impl<'a> Requeuer<'a> {
    /// Takes the transactional id `id` over. Marks go to the topic `dead_letters`.
    pub fn new(kafka: &KafkaSettings, id: &str, dead_letters: &'a str) -> Result<Self, Failure> {
        let producer: BaseProducer = client_config(kafka, &[])
            .set("transactional.id", id)
            .create()
            .map_err(|e| failed("make a producer", &e))?;
        retried(|| producer.init_transactions(STEP_WITHIN))
            .map_err(|e| failed("begin transactions", &e))?;
        Ok(Self {
            producer,
            dead_letters,
            open: false,
        })
    }

    /// Puts a record back on its partition, and marks its letter. It is there once committed.
    pub fn put_back(
        &mut self,
        event: &EventId,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) -> Result<(), Failure> {
        if !self.open {
            self.producer
                .begin_transaction()
                .map_err(|e| failed("begin a transaction", &e))?;
            self.open = true;
        }
        let id = event.to_string();
        let header = Header {
            key: REQUEUED_FROM_HEADER,
            value: Some(&id),
        };
        let headers = OwnedHeaders::new().insert(header);
        let mut record: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(&event.topic)
            .partition(event.partition.0)
            .headers(headers);
        record.key = key;
        record.payload = value;
        self.send(record, &id)?;
        let mark: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(self.dead_letters).key(id.as_bytes());
        self.send(mark, &id)
    }

    /// Commits what was put back since the last commit.
    pub fn commit(&mut self) -> Result<(), Failure> {
        if !std::mem::take(&mut self.open) {
            return Ok(());
        }
        let committed = retried(|| self.producer.commit_transaction(Timeout::Never));
        if committed.is_err() {
            // What cannot be aborted either, the next one to begin ends.
            let _ = self.producer.abort_transaction(STEP_WITHIN);
        }
        committed.map_err(|e| failed("commit", &e))
    }

    fn send(&self, record: BaseRecord<'_, [u8], [u8]>, id: &str) -> Result<(), Failure> {
        let mut record = record;
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    self.producer.poll(PAUSE);
                }
                Err((error, _)) => return Err(failed(&format!("put back {id}"), &error)),
            }
        }
    }
}

/// Does `step` again while the broker asks for that.
fn retried(step: impl Fn() -> Result<(), KafkaError>) -> Result<(), KafkaError> {
    let started = Instant::now();
    loop {
        match step() {
            Err(KafkaError::Transaction(error))
                if error.is_retriable() && started.elapsed() < SETTLED_WITHIN =>
            {
                std::thread::sleep(PAUSE);
            }
            done => return done,
        }
    }
}

fn failed(doing: &str, error: &KafkaError) -> Failure {
    let cure = match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::Fenced | RDKafkaErrorCode::ProducerFenced) => {
            "another requeue of this pipeline took over: let it finish, then run this again"
        }
        _ => "look at the broker, then run it again: what was put back is marked and stays once",
    };
    Failure::new("kafka", format!("requeue cannot {doing}: {error}")).cure(cure)
}
