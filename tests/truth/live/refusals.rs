//! What a user is told when the service cannot start: at once, where and what to do.

use std::time::Duration;

use serde_json::{Value, json};
use serde_yaml_ng::Value as Yaml;

use super::broker::{Broker, PASSWORD, USER, free_port, self_signed};
use super::deployed::{DONE_WITHIN, Deployed, LIVE_WITHIN, refusal};
use super::foreign::Isolation;
use super::registry::Registry;

const REFUSED_WITHIN: Duration = Duration::from_secs(90);

/// The refusal of a start, which has a cure and whose message holds `words`.
pub fn refused(deployed: &Deployed, instance: &str, words: &[&str]) -> Value {
    let port = free_port();
    let (health, instance) = (
        format!("health.listen=127.0.0.1:{port}"),
        format!("instance={instance}"),
    );
    let run = deployed.run(&["--set", &health, "--set", &instance]);
    let (status, failure) = refusal(run, REFUSED_WITHIN);
    assert_eq!(status, 1, "{failure}");
    let told = failure.to_string();
    for word in words {
        assert!(told.contains(word), "{word:?} is not in {told}");
    }
    assert!(
        failure["cure"]
            .as_str()
            .is_some_and(|cure| !cure.is_empty()),
        "{failure}"
    );
    failure
}

/// Fails unless a failure names the line of `pipeline.yaml` to which these keys lead.
pub fn stands_at(failure: &Value, deployed: &Deployed, keys: &[&str]) {
    let file = deployed.folder().join("pipeline.yaml");
    assert_eq!(failure["file"].as_str(), file.to_str(), "{failure}");
    let text = std::fs::read_to_string(&file).expect("settings");
    let mut lines = text.lines().enumerate();
    let mut line = 0;
    for key in keys {
        let found = lines.find(|(_, text)| text.trim_start().starts_with(key));
        line = found.unwrap_or_else(|| panic!("no {key} in {text}")).0 + 1;
    }
    assert_eq!(failure["line"], line, "{failure}");
}

#[test]
fn a_broker_that_is_not_there() {
    let deployed = Deployed::new("pipelines/card-fraud", "nobody", 1, Broker::shared());
    let nobody = format!("127.0.0.1:{}", free_port());
    deployed.edit(|settings| settings["kafka"]["brokers"] = nobody.as_str().into());
    let failure = refused(&deployed, "one", &[&nobody]);
    stands_at(&failure, &deployed, &["kafka:", "brokers:"]);
}

#[test]
fn a_registry_that_is_not_there() {
    let broker = Broker::shared();
    let deployed = Deployed::new("pipelines/card-fraud", "unregistered", 1, broker);
    deployed.create_topics(&mut broker.foreign(), &["transactions", "labels"]);
    let nobody = format!("http://127.0.0.1:{}", free_port());
    deployed.edit(|settings| {
        settings["output"]["format"] = "avro".into();
        settings["kafka"]["registry"]["url"] = nobody.as_str().into();
    });
    let failure = refused(&deployed, "one", &[&nobody]);
    stands_at(&failure, &deployed, &["kafka:", "registry:", "url:"]);
    // One whose certificate nobody here knows.
    let registry = Registry::over_tls(&broker.certificate(), &broker.key());
    deployed.edit(|settings| settings["kafka"]["registry"]["url"] = registry.url().into());
    let failure = refused(&deployed, "one", &["certificate", "kafka.registry.ca_file"]);
    stands_at(&failure, &deployed, &["kafka:", "registry:", "url:"]);
    let certificate = broker.certificate();
    let certificate = certificate.to_str().expect("a plain path");
    deployed.edit(|settings| settings["kafka"]["registry"]["ca_file"] = certificate.into());
    let mut service = deployed.start("one");
    service.wait_until_live(LIVE_WITHIN);
    service.stop();
}

#[test]
fn topics_that_are_not_there() {
    let broker = Broker::shared();
    let deployed = Deployed::new("pipelines/card-fraud", "homeless", 1, broker);
    let mut foreign = broker.foreign();
    // None; then those of the input; then all but one of the output.
    let failure = refused(&deployed, "one", &[&deployed.topic("transactions")]);
    stands_at(
        &failure,
        &deployed,
        &["streams:", "transactions:", "topic:"],
    );
    let (payments, labels) = (deployed.topic("transactions"), deployed.topic("labels"));
    foreign.create([(payments.as_str(), 1), (labels.as_str(), 1)]);
    let failure = refused(&deployed, "one", &[&deployed.topic("decisions")]);
    stands_at(&failure, &deployed, &["output:", "decisions:"]);
    let (decisions, letters) = (deployed.topic("decisions"), deployed.topic("dead_letters"));
    foreign.create([(decisions.as_str(), 1), (letters.as_str(), 1)]);
    let failure = refused(&deployed, "one", &[&deployed.topic("order")]);
    stands_at(&failure, &deployed, &["output:", "order:"]);
}

#[test]
fn a_broken_folder_has_its_place() {
    let broker = Broker::shared();
    let deployed = Deployed::new("pipelines/card-fraud", "broken", 1, broker);
    let sql = deployed.folder().join("features.sql");
    let text = std::fs::read_to_string(&sql).expect("features");
    let line = text
        .lines()
        .position(|line| line.contains("ln(1 + amount)"))
        .expect("a line")
        + 1;
    std::fs::write(&sql, text.replace("ln(1 + amount)", "ln(1 + amuont)")).expect("features");
    let failure = refused(&deployed, "one", &["amuont"]);
    assert_eq!(failure["code"], "features", "{failure}");
    assert_eq!(failure["line"], line, "{failure}");

    std::fs::write(&sql, text.replace("ln(1 + amount)", "ln(2 + amount)")).expect("features");
    let failure = refused(&deployed, "one", &["trained"]);
    assert_eq!(failure["code"], "model", "{failure}");
}

#[test]
fn who_may_come_in_and_who_may_not() {
    let broker = Broker::shared();
    let deployed = Deployed::new("pipelines/card-fraud", "guarded", 1, broker);
    let mut foreign = broker.foreign();
    deployed.create_topics(&mut foreign, &["transactions", "labels"]);
    let payment = json!({
        "transaction_id": "T1", "tx_time": 1_740_787_200_000_i64, "card_id": "C1", "terminal_id": "M1",
        "device_id": "D1", "amount": 12.5,
    });
    let certificate = broker.certificate();
    let come_as = |brokers: String, properties: &[(&str, &str)]| {
        let properties = properties
            .iter()
            .map(|(k, v)| (Yaml::from(*k), Yaml::from(*v)));
        let properties = Yaml::Mapping(properties.collect());
        deployed.edit(|settings| {
            settings["kafka"]["brokers"] = brokers.into();
            settings["kafka"]["properties"] = properties;
        });
    };
    let mut events = 0;
    let mut decides = |how: &str| {
        let mut service = deployed.start("one");
        service.wait_until_live(LIVE_WITHIN);
        let input = deployed.topic("transactions");
        let record = json!({"key": "C1", "value": payment.to_string()});
        foreign.ask(&json!({"do": "produce", "topic": input, "records": [record]}));
        foreign.wait_for_end(&deployed.group(), &[&input], DONE_WITHIN);
        service.stop();
        events += 1;
        let decisions = foreign.consume(&[&deployed.topic("decisions")], Isolation::Committed);
        assert_eq!(decisions.len(), events, "{how}");
    };
    let trusted = (
        "ssl.ca.location",
        certificate.to_str().expect("a plain path"),
    );
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        let as_user = |password: &str| {
            let properties = [
                ("security.protocol", "SASL_SSL"),
                trusted,
                ("sasl.mechanism", mechanism),
                ("sasl.username", USER),
                ("sasl.password", password),
            ];
            come_as(broker.secured(), &properties);
        };
        as_user("queen-of-hearts");
        let failure = refused(&deployed, "one", &["sasl"]);
        assert!(
            !failure.to_string().contains("queen-of-hearts"),
            "a secret is told: {failure}"
        );
        stands_at(&failure, &deployed, &["kafka:", "properties:"]);

        as_user(PASSWORD);
        decides(mechanism);
    }

    // TLS alone; then with a certificate that somebody else signed.
    let over_tls = ("security.protocol", "ssl");
    self_signed(
        deployed.state().parent().expect("a folder"),
        "other-key.pem",
        "other.pem",
    );
    let other = deployed.beside("other.pem");
    let other = ("ssl.ca.location", other.to_str().expect("a plain path"));
    come_as(broker.over_tls(), &[over_tls, other]);
    let failure = refused(&deployed, "one", &["certificate", "ssl.ca.location"]);
    stands_at(&failure, &deployed, &["kafka:", "properties:"]);
    come_as(broker.over_tls(), &[over_tls, trusted]);
    decides("TLS");

    // A broker that wants to see a certificate, without one and with it.
    come_as(broker.mutual(), &[over_tls, trusted]);
    let failure = refused(
        &deployed,
        "one",
        &["certificate", "ssl.certificate.location"],
    );
    stands_at(&failure, &deployed, &["kafka:", "properties:"]);
    let (key, client) = broker.client();
    let [key, client] = [&key, &client].map(|path| path.to_str().expect("a plain path"));
    let shown = [
        ("ssl.key.location", key),
        ("ssl.certificate.location", client),
    ];
    come_as(broker.mutual(), &[over_tls, trusted, shown[0], shown[1]]);
    decides("a certificate of the client's");
}

#[test]
fn a_second_instance_beside_shared_memory() {
    let broker = Broker::shared();
    let deployed = Deployed::new("pipelines/card-fraud", "second", 2, broker);
    let mut foreign = broker.foreign();
    deployed.create_topics(&mut foreign, &["transactions", "labels"]);
    let mut first = deployed.start("one");
    first.wait_until_live(LIVE_WITHIN);
    refused(&deployed, "two", &["terminal"]);
    // The first goes on as if nothing had been.
    let (input, group) = (deployed.topic("transactions"), deployed.group());
    let records: Vec<Value> = (0..40)
        .map(|i| {
            let payment = json!({
                "transaction_id": format!("T{i}"), "tx_time": 1_740_787_200_000_i64 + i, "card_id": format!("C{i}"),
                "terminal_id": "M1", "device_id": "D1", "amount": 12.5,
            });
            json!({"key": format!("C{i}"), "value": payment.to_string()})
        })
        .collect();
    foreign.ask(&json!({"do": "produce", "topic": input, "records": records}));
    foreign.wait_for_end(&group, &[&input], DONE_WITHIN);
    first.stop();
    let decisions = foreign.consume(&[&deployed.topic("decisions")], Isolation::Committed);
    assert_eq!(decisions.len(), records.len());
}
