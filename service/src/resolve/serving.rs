//! What serving a topic asks of the settings: topics, deadline, storage, the health port and the
//! Kafka client's properties.
//!
//! What is wrong in itself is a fault for every command; what is only missing is one for `run`.

use std::path::Path;

use super::Resolver;
use crate::failure::Failure;
use crate::kafka::{PropertyFault, check_properties};
use crate::settings::{Delivery, Settings};

/// Properties that delivery rests on, each with what decides it instead.
const OWNED_PROPERTIES: [(&str, &str); 14] = [
    ("acks", "delivery"),
    ("auto.offset.reset", "the recovery"),
    ("bootstrap.servers", "kafka.brokers"),
    ("enable.auto.commit", "delivery"),
    ("enable.auto.offset.store", "delivery"),
    ("enable.idempotence", "delivery"),
    ("group.id", "the pipeline's name"),
    ("group.instance.id", "the instance"),
    ("group.protocol", "the recovery"),
    ("isolation.level", "delivery"),
    ("metadata.broker.list", "kafka.brokers"),
    ("partition.assignment.strategy", "the recovery"),
    ("request.required.acks", "delivery"),
    ("transactional.id", "the instance"),
];
/// Characters of a topic's name at most.
const TOPIC_CHARS_MAX: usize = 249;

/// What `run` needs and `settings` do not say.
///
/// # Errors
/// Every fault found.
pub fn check_run(file: &Path, text: &str, settings: &Settings) -> Result<(), Vec<Failure>> {
    let mut resolver = Resolver {
        file,
        text,
        faults: Vec::new(),
    };
    resolver.needed_to_run(settings);
    match resolver.faults.is_empty() {
        true => Ok(()),
        false => Err(resolver.faults),
    }
}

impl Resolver<'_> {
    /// Notes what no command lets pass.
    pub(super) fn serving(&mut self, settings: &Settings) {
        if settings.deadline_ms == 0 {
            self.fault(
                &["deadline_ms"],
                "a deadline of 0 ms cannot be kept",
                "write the milliseconds from the broker's append to the decision, for example 50",
            );
        }
        if !(0.0..=1000.0).contains(&settings.parity.rows_per_s) {
            self.fault(
                &["parity", "rows_per_s"],
                format!(
                    "{} rows a second cannot be checked",
                    settings.parity.rows_per_s
                ),
                "write a number from 0, for none, to 1000",
            );
        }
        let share = settings.parity.log_share;
        if share != 0.0 && !(0.001..=1.0).contains(&share) {
            self.fault(
                &["parity", "log_share"],
                format!("{share} of a core is too little or too much"),
                "write 0 for none, or a number from 0.001 to 1, for example 0.02",
            );
        }
        self.duration(&["parity", "log_from"], &settings.parity.log_from);
        self.topics(settings);
        self.state_url(&settings.state.url);
        self.listen(&settings.health.listen);
        self.properties(settings);
        if let Some(registry) = &settings.kafka.registry
            && registry.url.contains('@')
        {
            self.fault(
                &["kafka", "registry", "url"],
                "the registry's address holds a user or a password, which messages would repeat",
                "write username and password_file beside it",
            );
        }
    }

    fn needed_to_run(&mut self, settings: &Settings) {
        if settings.kafka.brokers.trim().is_empty() {
            self.fault(
                &["kafka", "brokers"],
                "no broker is named",
                "write host:port of at least one, for example localhost:9092",
            );
        }
        for (name, stream) in &settings.streams.0 {
            if stream.topic.is_none() {
                self.fault(
                    &["streams", name],
                    format!("the stream `{name}` has no topic to be read from"),
                    "write its topic",
                );
            }
        }
        let output = &settings.output;
        if output.decisions.is_none() {
            self.fault(
                &["output"],
                "there is no topic for decisions",
                "write output.decisions: and the topic's name",
            );
        }
        if output.dead_letters.is_none() {
            self.fault(
                &["output"],
                "there is no topic for dead letters: a refused record would be lost",
                "write output.dead_letters: and the topic's name",
            );
        }
        if output.order.is_none() && settings.delivery == Delivery::ExactlyOnce {
            self.fault(
                &["output"],
                "there is no topic for the order, without which nothing can be recovered exactly once",
                "write output.order: and the topic's name, or delivery: at_least_once",
            );
        }
    }

    /// Each topic has a name that a broker takes, and is read or written in one role alone.
    fn topics(&mut self, settings: &Settings) {
        let output = &settings.output;
        let streams = settings.streams.0.iter();
        let inputs = streams.filter_map(|(name, stream)| {
            let topic = stream.topic.as_deref()?;
            Some((vec!["streams", name.as_str(), "topic"], topic))
        });
        let outputs = [
            ("decisions", &output.decisions),
            ("dead_letters", &output.dead_letters),
            ("order", &output.order),
        ]
        .into_iter()
        .filter_map(|(key, topic)| Some((vec!["output", key], topic.as_deref()?)));
        let mut seen: Vec<(Vec<&str>, &str)> = Vec::new();
        for (path, topic) in inputs.chain(outputs) {
            if !is_topic(topic) {
                self.fault(
                    &path,
                    format!("`{topic}` is not a topic's name"),
                    "write letters, digits, dots, underscores and hyphens, 249 at most",
                );
            }
            if let Some((other, _)) = seen.iter().find(|(_, known)| *known == topic) {
                self.fault(
                    &path,
                    format!("`{topic}` is the topic of {} already", other.join(".")),
                    "give each stream and each output a topic of its own",
                );
            }
            seen.push((path, topic));
        }
    }

    fn state_url(&mut self, url: &str) {
        if !url.starts_with("file:///") {
            self.fault(
                &["state", "url"],
                format!("checkpoints cannot be kept at `{}`", without_password(url)),
                "write file:// and an absolute path, for example file:///var/lib/sanderling",
            );
        }
    }

    fn listen(&mut self, listen: &str) {
        let well_formed = listen
            .rsplit_once(':')
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if !well_formed {
            self.fault(
                &["health", "listen"],
                format!("`{listen}` is not host:port"),
                "write for example 127.0.0.1:9464, or 0.0.0.0:9464 to be reached from outside",
            );
        }
    }

    fn properties(&mut self, settings: &Settings) {
        let properties = &settings.kafka.properties;
        for name in properties.keys() {
            if let Some((_, decider)) = OWNED_PROPERTIES.iter().find(|(owned, _)| owned == name) {
                self.fault(
                    &["kafka", "properties", name],
                    format!("the property `{name}` is not yours to set: {decider} decides it"),
                    "take it out",
                );
            }
        }
        for PropertyFault { name, what } in check_properties(properties) {
            self.fault(
                &["kafka", "properties", &name],
                format!("the property `{name}` {what}"),
                "see librdkafka's CONFIGURATION.md for names and values; in the environment an underscore stands for a dot",
            );
        }
    }
}

fn is_topic(name: &str) -> bool {
    let legal = |c: char| c.is_ascii_alphanumeric() || ['.', '_', '-'].contains(&c);
    !name.is_empty()
        && name.len() <= TOPIC_CHARS_MAX
        && name != "."
        && name != ".."
        && name.chars().all(legal)
}

/// An address less what stands before its `@`.
fn without_password(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://...@{rest}"),
        _ => url.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolve::resolve;

    const PIPELINE: &str = "\
version: 1
kafka: {brokers: \"localhost:9092\"}
streams:
  payments:
    topic: payments
    event_time: {column: at}
    columns: {amount: {type: double}}
score: [payments]
output:
  decisions: decisions
  dead_letters: dead-letters
  order: order
";

    /// The faults of the pipeline with `more` at its end: line and message.
    fn faults(more: &str) -> Vec<(Option<usize>, String)> {
        let text = format!("{PIPELINE}{more}");
        let settings: Settings = serde_yaml_ng::from_str(&text).unwrap();
        let file = Path::new("pipeline.yaml");
        let mut faults = resolve(file, &text, &settings).err().unwrap_or_default();
        faults.extend(check_run(file, &text, &settings).err().unwrap_or_default());
        faults
            .into_iter()
            .map(|fault| {
                assert!(fault.cure.is_some(), "{fault}");
                (fault.line, fault.message)
            })
            .collect()
    }

    fn only(more: &str) -> (Option<usize>, String) {
        let mut all = faults(more);
        assert_eq!(all.len(), 1, "{more}: {all:?}");
        all.remove(0)
    }

    #[test]
    fn a_pipeline_that_can_run_has_no_fault() {
        assert_eq!(faults(""), []);
        assert_eq!(faults("health: {listen: \"[::1]:0\"}\n"), []);
    }

    #[test]
    fn what_cannot_be_served_has_its_place() {
        for (more, named) in [
            ("deadline_ms: 0\n", "0 ms"),
            ("parity: {rows_per_s: -1}\n", "-1 rows"),
            ("parity: {log_share: 1.5}\n", "1.5 of a core"),
            ("parity: {log_from: soon}\n", "`soon`"),
            ("state: {url: \"s3://bucket\"}\n", "s3://bucket"),
            ("state: {url: \"file://relative\"}\n", "file://relative"),
            ("health: {listen: \"9464\"}\n", "9464"),
            ("health: {listen: \"localhost:port\"}\n", "localhost:port"),
        ] {
            let (line, message) = only(more);
            assert_eq!(line, Some(13), "{more}");
            assert!(message.contains(named), "{message}");
        }
        let (_, message) = only("state: {url: \"s3://me:hunter2@bucket\"}\n");
        assert!(!message.contains("hunter2"), "{message}");
        let text = PIPELINE.replacen(
            "9092\"}",
            "9092\", registry: {url: \"http://me:hunter2@registry\"}}",
            1,
        );
        let settings: Settings = serde_yaml_ng::from_str(&text).unwrap();
        let faults = resolve(Path::new("pipeline.yaml"), &text, &settings).err();
        assert_eq!(faults.as_ref().map(Vec::len), Some(1));
        assert!(!format!("{faults:?}").contains("hunter2"), "{faults:?}");
    }

    #[test]
    fn a_topic_has_one_role() {
        let twice = |from: &str, to: &str| {
            let text = PIPELINE.replacen(from, to, 1);
            let settings: Settings = serde_yaml_ng::from_str(&text).unwrap();
            let faults = resolve(Path::new("pipeline.yaml"), &text, &settings).err();
            let faults = faults.unwrap_or_default();
            assert_eq!(faults.len(), 1, "{faults:?}");
            (faults[0].line, faults[0].message.clone())
        };
        let (line, message) = twice("decisions: decisions", "decisions: payments");
        assert_eq!(line, Some(10));
        assert!(message.contains("streams.payments.topic"), "{message}");
        assert_eq!(twice("order: order", "order: decisions").0, Some(12));
        assert_eq!(twice("order: order", "order: \"the order\"").0, Some(12));
    }

    #[test]
    fn what_is_missing_stops_only_run() {
        for (missing, named) in [
            ("  decisions: decisions\n", "decisions"),
            ("  dead_letters: dead-letters\n", "dead letters"),
            ("  order: order\n", "order"),
            ("    topic: payments\n", "payments"),
        ] {
            let text = PIPELINE.replacen(missing, "", 1);
            let settings: Settings = serde_yaml_ng::from_str(&text).unwrap();
            let file = Path::new("pipeline.yaml");
            assert!(resolve(file, &text, &settings).is_ok(), "{missing}");
            let faults = check_run(file, &text, &settings).unwrap_err();
            assert_eq!(faults.len(), 1, "{faults:?}");
            assert!(faults[0].message.contains(named), "{}", faults[0]);
        }
        let text = PIPELINE.replacen("  order: order\n", "", 1) + "delivery: at_least_once\n";
        let settings: Settings = serde_yaml_ng::from_str(&text).unwrap();
        assert!(check_run(Path::new("pipeline.yaml"), &text, &settings).is_ok());
    }

    #[test]
    fn a_property_is_refused_by_its_name_alone() {
        let of = |properties: &str| {
            let text = PIPELINE.replacen(
                "9092\"}",
                &format!("9092\",\n  properties: {{{properties}}}}}"),
                1,
            );
            let settings: Settings = serde_yaml_ng::from_str(&text).unwrap();
            resolve(Path::new("pipeline.yaml"), &text, &settings).err()
        };
        assert!(of("security.protocol: sasl_ssl, sasl.password: hunter2").is_none());
        for (properties, named) in [
            ("sasl.pasword: hunter2", "sasl.pasword"),
            (
                "ssl.key.pem: hunter2, security.protocol: hunter2",
                "security.protocol",
            ),
            ("isolation.level: read_uncommitted", "delivery"),
        ] {
            let faults = of(properties).unwrap();
            assert_eq!(faults.len(), 1, "{faults:?}");
            assert_eq!(faults[0].line, Some(3), "{}", faults[0]);
            assert!(faults[0].message.contains(named), "{}", faults[0]);
            assert!(!format!("{faults:?}").contains("hunter2"), "{faults:?}");
        }
    }
}
