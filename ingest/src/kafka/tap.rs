//! The queue of one partition, which the client fills and bounds.
//!
//! Each partition has its own, so that one that is ahead of the others just stays full, while
//! those that are behind are fetched: nothing that was fetched is thrown away, as a pause would.

use std::ffi::CString;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::bindings::rd_kafka_get_watermark_offsets;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::types::RDKafkaRespErr;
use sanderling_schemas::{Offset, Partition};

use super::wake::Wake;

/// A record as it came.
#[derive(Debug)]
pub(super) struct Record {
    /// Index of its topic.
    pub topic: usize,
    pub partition: Partition,
    pub offset: Offset,
    /// When the broker took it, microseconds; with topics whose producers set the time, that.
    pub broker_time_us: Option<i64>,
    pub key: Option<Box<[u8]>>,
    pub payload: Option<Box<[u8]>>,
}

/// What a queue has.
pub(super) enum Drawn {
    Record(Record),
    /// The partition's end was reached.
    End,
    /// Nothing at the moment.
    Nothing,
}

/// One partition's queue.
pub(super) struct Tap<C: ConsumerContext + 'static> {
    consumer: Arc<BaseConsumer<C>>,
    queue: PartitionQueue<C>,
    topic: usize,
    partition: Partition,
    name: CString,
    /// Set by the client when something comes into the empty queue.
    stirred: Arc<AtomicBool>,
    /// Whether the queue may hold something: it is not asked in vain.
    filled: bool,
}

impl<C: ConsumerContext + 'static> Tap<C> {
    /// The queue of a partition; `topic` is what its records will bear, `name` what it is called.
    /// `None` for a name that no topic can have.
    pub(super) fn new(
        consumer: &Arc<BaseConsumer<C>>,
        topic: usize,
        name: &str,
        partition: Partition,
        wake: &Arc<Wake>,
    ) -> Option<Self> {
        let mut queue = consumer.split_partition_queue(name, partition.0)?;
        let stirred = Arc::new(AtomicBool::new(false));
        let (stirs, wake) = (stirred.clone(), wake.clone());
        queue.set_nonempty_callback(move || {
            stirs.store(true, Ordering::Release);
            wake.notify();
        });
        Some(Self {
            consumer: consumer.clone(),
            queue,
            topic,
            partition,
            name: CString::new(name).ok()?,
            stirred,
            filled: true,
        })
    }

    /// What the queue has now.
    pub(super) fn draw(&mut self) -> Result<Drawn, KafkaError> {
        loop {
            if !self.filled && !self.stirred.swap(false, Ordering::AcqRel) {
                return Ok(Drawn::Nothing);
            }
            // What comes into the queue after it was found empty stirs it again.
            self.filled = true;
            match self.draw_within(Duration::ZERO)? {
                Drawn::Nothing => self.filled = false,
                drawn => return Ok(drawn),
            }
        }
    }

    /// What comes within `wait`.
    pub(super) fn draw_within(&self, wait: Duration) -> Result<Drawn, KafkaError> {
        match self.queue.poll(wait) {
            None => Ok(Drawn::Nothing),
            Some(Err(KafkaError::PartitionEOF(_))) => Ok(Drawn::End),
            Some(Err(error)) => Err(error),
            Some(Ok(message)) => Ok(Drawn::Record(Record {
                topic: self.topic,
                partition: self.partition,
                offset: Offset(message.offset()),
                broker_time_us: message
                    .timestamp()
                    .to_millis()
                    .map(|ms| ms.saturating_mul(1000)),
                key: message.key().map(Box::from),
                payload: message.payload().map(Box::from),
            })),
        }
    }

    /// Looks at the queue again even if nothing was heard of it.
    pub(super) fn suspect(&mut self) {
        self.filled = true;
    }

    /// The offset after the partition's last record, as of the last answer to a fetch.
    pub(super) fn end(&self) -> Option<Offset> {
        let (mut low, mut high) = (0, 0);
        // SAFETY: the client lives as long as `consumer`, `name` ends with a zero byte, and the
        // two places are valid for the call.
        let code = unsafe {
            rd_kafka_get_watermark_offsets(
                self.consumer.client().native_ptr(),
                self.name.as_ptr(),
                self.partition.0,
                &mut low,
                &mut high,
            )
        };
        (code == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0).then_some(Offset(high))
    }
}
