//! Decisions, dead letters and order records to their topics, at least once.
//!
//! What was read may be committed once the broker has every record that was made of it:
//! [`KafkaSink::progress`] tells without waiting, [`KafkaSink::flush`] waits. A decision can come twice after a crash; its key, the
//! decision's id, is what duplicates are dropped by.

use sanderling_schemas::{DeadLetter, wire};

use super::TopicWriter;
use crate::failure::Failure;
use crate::line::Decided;
use crate::settings::{KafkaSettings, OutputSettings};

/// Where a live pipeline's results go.
pub struct KafkaSink {
    writer: TopicWriter,
    topics: OutputSettings,
    payload: Vec<u8>,
}

impl KafkaSink {
    /// A sink for the topics of `output:`; those not named there are not written.
    pub fn new(kafka: &KafkaSettings, output: &OutputSettings) -> Result<Self, Failure> {
        Ok(Self {
            writer: TopicWriter::new(kafka)?,
            topics: output.clone(),
            payload: Vec::new(),
        })
    }

    /// Sends a batch's decisions and its order record. The timing header's `appended_us`, the
    /// broker's append time of the event, lets a reader measure the whole way of a decision.
    pub fn send_decided(&mut self, decided: &Decided) -> Result<(), Failure> {
        if let Some(topic) = &self.topics.decisions {
            for (at, decision) in decided.decisions.iter().enumerate() {
                self.payload.clear();
                wire::write_decision(decision, &mut self.payload)
                    .map_err(|e| Failure::new("output", e.to_string()))?;
                let timing = serde_json::json!({
                    "wait": decided.timing.wait_us,
                    "features": decided.timing.features_us,
                    "score": decided.timing.score_us,
                    "explain": decided.timing.explain_us,
                    "appended_us": decided.broker_time_us.get(at),
                });
                let key = decision.event.to_string();
                self.writer.send(
                    topic,
                    key.as_bytes(),
                    &self.payload,
                    Some(&timing.to_string()),
                )?;
            }
        }
        if let Some(topic) = &self.topics.order {
            let order = serde_json::to_vec(&decided.order)
                .map_err(|e| Failure::new("output", e.to_string()))?;
            self.writer
                .send(topic, &decided.order.sequence.0.to_be_bytes(), &order, None)?;
        }
        Ok(())
    }

    /// Sends refused records.
    pub fn send_dead_letters(&self, letters: &[DeadLetter]) -> Result<(), Failure> {
        let Some(topic) = &self.topics.dead_letters else {
            return Ok(());
        };
        for letter in letters {
            let payload = letter.to_json(DeadLetter::RAW_BYTES_MAX).to_string();
            self.writer.send(
                topic,
                letter.event.to_string().as_bytes(),
                payload.as_bytes(),
                None,
            )?;
        }
        Ok(())
    }

    /// Records sent so far, and how many of them the broker has.
    ///
    /// # Errors
    /// If it refused any for good.
    pub fn progress(&self) -> Result<(u64, u64), Failure> {
        Ok((self.writer.sent(), self.writer.delivered()?))
    }

    /// Waits until the broker has everything sent so far.
    pub fn flush(&self) -> Result<(), Failure> {
        self.writer.flush()
    }
}
