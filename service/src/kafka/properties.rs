//! The Kafka client's properties, checked without a broker.
//!
//! The client's own refusal repeats the value, which may be a password given to a misspelt name, so
//! every property is tried here first and a value is never passed on.

use std::collections::BTreeMap;

use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;

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
