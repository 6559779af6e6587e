//! The Kafka client's properties: those that every client here has, and the user's, checked without a broker.
//!
//! The client's own refusal repeats the value, which may be a password given to a misspelt name, so
//! every property is tried here first and a value is never passed on.

use std::collections::BTreeMap;

use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;

use crate::settings::KafkaSettings;

/// Longest wait before a broker that is away is tried again, as Kafka's own clients have it: with librdkafka's ten
/// seconds, one that has come back is found when an open transaction has nearly timed out.
const RECONNECT_MS_MAX: &str = "1000";

/// What a client of these brokers is made with. `own` gives way to the user's properties.
pub fn client_config(kafka: &KafkaSettings, own: &[(&str, &str)]) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &kafka.brokers)
        .set("reconnect.backoff.max.ms", RECONNECT_MS_MAX);
    for (name, value) in own {
        config.set(*name, *value);
    }
    for (name, value) in &kafka.properties {
        config.set(name, value);
    }
    config
}

/// A property that the client does not take.
#[derive(Debug, PartialEq, Eq)]
pub struct PropertyFault {
    /// Its name.
    pub name: String,
    /// What is wrong with it; never its value.
    pub what: &'static str,
}

/// The properties that the client does not take.
pub fn check_properties(properties: &BTreeMap<String, String>) -> Vec<PropertyFault> {
    properties
        .iter()
        .filter_map(|(name, value)| {
            let mut config = ClientConfig::new();
            config.set(name, value);
            let what = match config.create_native_config() {
                Ok(_) => return None,
                Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)) => {
                    "is not known to the client"
                }
                Err(_) => "has a value that the client does not take",
            };
            Some(PropertyFault {
                name: name.clone(),
                what,
            })
        })
        .collect()
}
