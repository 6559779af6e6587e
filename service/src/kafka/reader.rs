//! A reader of the decisions topic, as a bank's own consumer would be.

use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::Value;

use super::TIMING_HEADER;
use crate::clock::now_us;
use crate::failure::Failure;

/// A decision as its reader got it.
pub struct Received {
    /// The decision.
    pub decision: Value,
    /// From the broker's append of the event to the receipt of the decision, microseconds.
    pub latency_us: Option<u64>,
}

/// Reads decisions as they come.
pub struct DecisionReader {
    consumer: BaseConsumer,
}

impl DecisionReader {
    /// Reads partition 0 of `topic` from its beginning, on its own: a group would take seconds to form.
    pub fn new(brokers: &str, topic: &str) -> Result<Self, Failure> {
        let failed = |e| Failure::new("kafka", format!("cannot read {topic}: {e}"));
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", brokers)
            .set("group.id", "sanderling-demo-reader")
            .set("auto.offset.reset", "earliest")
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", "2")
            .create()
            .map_err(failed)?;
        let mut partitions = TopicPartitionList::new();
        partitions
            .add_partition_offset(topic, 0, Offset::Beginning)
            .map_err(failed)?;
        consumer.assign(&partitions).map_err(failed)?;
        Ok(Self { consumer })
    }

    /// The next decision, if one comes within `wait`.
    pub fn next(&self, wait: Duration) -> Result<Option<Received>, Failure> {
        let Some(message) = self.consumer.poll(wait) else {
            return Ok(None);
        };
        let message = message.map_err(|e| Failure::new("kafka", e.to_string()))?;
        let now_us = now_us();
        let decision = serde_json::from_slice(message.payload().unwrap_or_default())
            .map_err(|e| Failure::new("kafka", format!("a decision that is not JSON: {e}")))?;
        let timing = message.headers().and_then(|headers| {
            let header = headers.iter().find(|header| header.key == TIMING_HEADER)?;
            serde_json::from_slice::<Value>(header.value?).ok()
        });
        let appended_us = timing.and_then(|timing| timing["appended_us"].as_i64());
        Ok(Some(Received {
            decision,
            latency_us: appended_us.map(|appended| (now_us - appended).max(0) as u64),
        }))
    }
}
