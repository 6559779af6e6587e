//! A broker's address, and how every consumer of it is set up.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientConfig, ClientContext};

use super::options::KafkaOptions;
use super::trouble::KafkaTrouble;
use crate::IngestError;

/// Where the client's own log goes, as that of its producers does.
const LOG_TARGET: &str = "librdkafka";
/// How long the broker may take to answer a question.
pub(super) const ANSWER_WITHIN: Duration = Duration::from_secs(15);

/// What the user may override. An idle fetch must not keep a partition that has just become
/// readable waiting, nor a full queue one that has just been emptied; the queues are of one
/// partition each, so they bound what a partition that is ahead of the others holds.
const DEFAULTS: [(&str, &str); 7] = [
    ("isolation.level", "read_committed"),
    ("fetch.wait.max.ms", "5"),
    ("fetch.error.backoff.ms", "100"),
    ("fetch.queue.backoff.ms", "5"),
    ("queued.min.messages", "8000"),
    ("queued.max.messages.kbytes", "8192"),
    ("reconnect.backoff.max.ms", "1000"),
];
/// What the code relies on.
const ALWAYS: [(&str, &str); 3] = [
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("enable.partition.eof", "true"),
];

/// Where a broker is and how to speak with it.
#[derive(Debug, Clone)]
pub(super) struct Broker {
    /// Bootstrap servers.
    pub brokers: String,
    /// The user's properties of librdkafka.
    pub properties: BTreeMap<String, String>,
}

impl Broker {
    pub(super) fn of(options: &KafkaOptions) -> Self {
        Self {
            brokers: options.brokers.clone(),
            properties: options.properties.clone(),
        }
    }

    /// A consumer with these settings: `own` gives way to the user's properties, `fixed` does not.
    pub(super) fn consumer<C: ConsumerContext>(
        &self,
        own: &[(&str, &str)],
        fixed: &[(&str, &str)],
        context: C,
    ) -> Result<BaseConsumer<C>, IngestError> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers);
        for (name, value) in DEFAULTS.iter().chain(own) {
            config.set(*name, *value);
        }
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        for (name, value) in ALWAYS.iter().chain(fixed) {
            config.set(*name, *value);
        }
        config
            .create_with_context(context)
            .map_err(|error| self.failed("creating the consumer", &error))
    }

    /// `error` while doing `action`.
    pub(super) fn failed(&self, action: &str, error: &KafkaError) -> IngestError {
        self.trouble(action, KafkaTrouble::of(error), error.to_string())
    }

    /// The same with the client's own words on why.
    pub(super) fn failed_because(
        &self,
        action: &str,
        error: &KafkaError,
        words: &Words,
    ) -> IngestError {
        let reason = words.last().filter(|(code, reason)| {
            !reason.is_empty()
                && KafkaTrouble::of(&KafkaError::Global(*code)) == KafkaTrouble::of(error)
        });
        let word = match reason {
            Some((_, reason)) => format!("{error} ({reason})"),
            None => error.to_string(),
        };
        self.trouble(action, KafkaTrouble::of(error), word)
    }

    pub(super) fn trouble(
        &self,
        action: &str,
        trouble: KafkaTrouble,
        word: impl Into<String>,
    ) -> IngestError {
        IngestError::Kafka {
            brokers: self.brokers.clone(),
            action: action.into(),
            trouble,
            word: word.into(),
        }
    }
}

/// What a client said last of its own accord. The client's log goes to ours.
#[derive(Debug, Clone, Default)]
pub(super) struct Words(Arc<Mutex<Option<(RDKafkaErrorCode, String)>>>);

impl Words {
    pub(super) fn last(&self) -> Option<(RDKafkaErrorCode, String)> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(super) fn hear(&self, error: &KafkaError, reason: &str) {
        // The end of a partition comes this way too; it is no trouble.
        match error.rdkafka_error_code() {
            None | Some(RDKafkaErrorCode::PartitionEOF) => {}
            Some(code) => {
                let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                // That all are down says less than why the last one went.
                if code != RDKafkaErrorCode::AllBrokersDown || last.is_none() {
                    *last = Some((code, reason.to_string()));
                }
            }
        }
    }

    pub(super) fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Emerg
            | RDKafkaLogLevel::Alert
            | RDKafkaLogLevel::Critical
            | RDKafkaLogLevel::Error
            | RDKafkaLogLevel::Warning => {
                tracing::warn!(target: LOG_TARGET, facility, "{message}")
            }
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::info!(target: LOG_TARGET, facility, "{message}")
            }
            RDKafkaLogLevel::Debug => tracing::debug!(target: LOG_TARGET, facility, "{message}"),
        }
    }
}

impl ClientContext for Words {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        Words::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.hear(&error, reason);
    }
}

impl ConsumerContext for Words {}
