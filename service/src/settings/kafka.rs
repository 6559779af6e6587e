//! How the broker is reached. A property of its client may be a password: it is never shown, neither in an
//! error nor by `Debug`, and is best kept out of the file (`overrides.rs`).

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};
use serde_yaml_ng::Value;

/// `kafka:`
#[derive(Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaSettings {
    /// Bootstrap servers.
    pub brokers: String,
    /// Passed to librdkafka as they are. Some are secrets: none is ever written anywhere.
    #[serde(deserialize_with = "properties", skip_serializing)]
    pub properties: BTreeMap<String, String>,
    /// Time between two commits of a transaction, milliseconds: shorter costs the broker more,
    /// longer lets readers wait.
    pub transaction_ms: u64,
    /// The schema registry; only Avro needs one.
    pub registry: Option<RegistrySettings>,
}

/// `kafka.registry:`
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RegistrySettings {
    /// `http://host:port`, or several, comma-separated.
    pub url: String,
    /// User, where it wants one.
    #[serde(default)]
    pub username: Option<String>,
    /// File that holds the user's password.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// PEM file of authorities that are trusted beside the system's, for https.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

impl fmt::Debug for KafkaSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&String> = self.properties.keys().collect();
        f.debug_struct("KafkaSettings")
            .field("brokers", &self.brokers)
            .field("properties", &names)
            .field("registry", &self.registry)
            .finish()
    }
}

/// Properties as text. What YAML takes for a number or a boolean is fine where its text is certain;
/// a refusal never repeats the value.
fn properties<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    let values: BTreeMap<String, Value> = BTreeMap::deserialize(deserializer)?;
    values
        .into_iter()
        .map(|(name, value)| match value {
            Value::String(text) => Ok((name, text)),
            Value::Bool(truth) => Ok((name, truth.to_string())),
            Value::Number(number) if number.is_i64() || number.is_u64() => {
                Ok((name, number.to_string()))
            }
            _ => Err(serde::de::Error::custom(format!(
                "the value of the property `{name}` is not a text: write it in quotes"
            ))),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_is_text_and_is_never_shown() {
        let kafka = |text: &str| serde_yaml_ng::from_str::<KafkaSettings>(text);
        let text = "properties: {sasl.password: hunter2, ssl.ca.location: 7, a: false}";
        let settings = kafka(text).unwrap();
        assert_eq!(settings.properties["sasl.password"], "hunter2");
        assert_eq!(settings.properties["ssl.ca.location"], "7");
        assert_eq!(settings.properties["a"], "false");
        let shown = format!("{settings:?}{}", serde_json::to_string(&settings).unwrap());
        assert!(shown.contains("sasl.password"), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
        // What is not text is refused without being repeated.
        for value in ["4.25e1", "[4.25e1]", "{b: 4.25e1}", ""] {
            let refused = kafka(&format!("properties: {{sasl.password: {value}}}"));
            let message = refused.unwrap_err().to_string();
            assert!(message.contains("sasl.password"), "{message}");
            assert!(!message.contains("42"), "{message}");
        }
    }
}
