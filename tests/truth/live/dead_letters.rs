//! Dead letters on a real broker: found, shown, and put back once, whoever asks and however often.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::broker::Broker;
use super::foreign::{Foreign, Isolation, Record};
use crate::sanderling::{Finished, command, finish, start};

/// A refused record, and its SHA-256.
const RAW: &str = r#"{"card_id":"C1","amount":"much"}"#;
const RAW_SHA256: &str = "500d46c8f0f7165ffea673051bfc146f2405b443e119b3721a80b782424f930f";
const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
/// Header of a record that was put back.
const HEADER: &str = "sanderling-requeued-from";

/// Topics of one test, and the settings that name them.
struct Desk {
    payments: String,
    letters: String,
    sets: Vec<String>,
    foreign: Foreign,
}

impl Desk {
    fn new(name: &str) -> Self {
        let broker = Broker::shared();
        let (payments, letters) = (format!("{name}-payments"), format!("{name}-letters"));
        let mut foreign = broker.foreign();
        foreign.create([(payments.as_str(), 3), (letters.as_str(), 2)]);
        let sets = [
            format!("kafka.brokers={}", broker.brokers()),
            format!("streams.transactions.topic={payments}"),
            format!("output.dead_letters={letters}"),
        ];
        Self {
            payments,
            letters,
            sets: sets.into(),
            foreign,
        }
    }

    fn dlq(&self, what: &str, more: &[&str]) -> Command {
        let mut args = vec!["dlq", what, "pipelines/card-fraud", "--json"];
        args.extend(self.sets.iter().flat_map(|set| ["--set", set.as_str()]));
        args.extend(more);
        command(&args)
    }

    fn ask(&self, what: &str, more: &[&str]) -> Value {
        let done = finish(self.dlq(what, more));
        assert_eq!(done.status, 0, "{what} {more:?}: {}", done.stderr);
        serde_json::from_str(done.stdout.trim()).expect("one line of JSON")
    }

    fn refused(&self, what: &str, more: &[&str]) -> Finished {
        let done = finish(self.dlq(what, more));
        assert_eq!(done.status, 1, "{what} {more:?}: {}", done.stdout);
        done
    }

    fn id(&self, partition: i32, offset: i64) -> String {
        format!("{}/{partition}/{offset}", self.payments)
    }

    /// A letter of a payment, as a record of the topic of dead letters.
    fn letter(&self, partition: i32, offset: i64, but: Value) -> Value {
        let mut letter = json!({
            "event": {"topic": self.payments, "partition": partition, "offset": offset},
            "reason": "wrong_type",
            "detail": "amount: \"much\" is not a decimal(12,2)",
            "raw_base64": BASE64.encode(RAW),
            "raw_sha256": RAW_SHA256,
            "truncated": false,
            "sealed": false,
            "key_base64": BASE64.encode("C1"),
        });
        for (key, value) in but.as_object().expect("an object") {
            letter[key] = value.clone();
        }
        json!({"key": self.id(partition, offset), "value": letter.to_string()})
    }

    fn write(&mut self, records: Vec<Value>, transaction: &str) {
        self.foreign.ask(&json!({
            "do": "produce",
            "topic": self.letters,
            "records": records,
            "transaction": transaction,
        }));
    }

    /// What was put back, by the event that it was.
    fn put_back(&mut self) -> BTreeMap<String, Vec<Record>> {
        let mut all: BTreeMap<String, Vec<Record>> = BTreeMap::new();
        for record in self
            .foreign
            .consume(&[&self.payments], Isolation::Committed)
        {
            let from = record.headers[HEADER].clone().expect("an event's id");
            all.entry(from).or_default().push(record);
        }
        all
    }
}

#[test]
fn a_letter_is_put_back_where_it_came_from_and_once() {
    let mut desk = Desk::new("dlq-once");
    let (wrong, empty, cut) = (desk.id(2, 7), desk.id(0, 3), desk.id(1, 5));
    let letter = desk.letter(2, 7, json!({}));
    let nothing = json!({"reason": "null_value", "raw_base64": "", "raw_sha256": EMPTY_SHA256, "key_base64": null});
    let records = vec![
        letter.clone(),
        // A batch that was sent again.
        letter,
        desk.letter(0, 3, nothing),
        desk.letter(1, 5, json!({"truncated": true, "reason": "malformed"})),
        json!({"value": "not a letter"}),
    ];
    desk.write(records, "commit");
    let aborted = vec![desk.letter(0, 99, json!({}))];
    desk.write(aborted, "abort");

    let listing = desk.ask("list", &[]);
    assert_eq!(listing["selected"], 3, "{listing}");
    assert_eq!(listing["unreadable"], 1, "{listing}");
    let ids: Vec<&str> = listing["letters"]
        .as_array()
        .expect("letters")
        .iter()
        .filter_map(|l| l["event"].as_str())
        .collect();
    assert_eq!(ids, [&*empty, &*cut, &*wrong]);
    let shown = desk.ask("show", &[&wrong]);
    assert_eq!(shown["raw"], RAW);
    assert_eq!(shown["key"], "C1");
    assert!(shown["time"].is_string(), "{shown}");

    let refused = desk.refused("requeue", &["--all"]);
    assert!(refused.stderr.contains(&cut), "{}", refused.stderr);
    let gone = desk.refused("requeue", &[&desk.id(0, 99)]);
    assert!(gone.stderr.contains("no dead letter"), "{}", gone.stderr);
    let dry = desk.ask("requeue", &["--reason", "wrong_type", "--dry-run"]);
    assert_eq!(dry["requeued"], json!([wrong]));
    assert!(desk.put_back().is_empty(), "nothing was to be put back");

    let done = desk.ask("requeue", &[&wrong, &empty]);
    assert_eq!(done["requeued"], json!([empty, wrong]));
    let again = desk.ask("requeue", &[&wrong, &empty]);
    assert_eq!(again["requeued"], json!([]));
    assert_eq!(again["requeued_before"], 2);
    let put_back = desk.put_back();
    assert_eq!(put_back.len(), 2, "{put_back:?}");
    assert!(put_back.values().all(|records| records.len() == 1));
    let record = &put_back[&wrong][0];
    assert_eq!(record.partition, 2);
    assert_eq!(record.key.as_deref(), Some("C1"));
    assert_eq!(record.value.as_deref(), Some(RAW));
    let record = &put_back[&empty][0];
    assert_eq!((record.partition, record.key.as_deref()), (0, None));
    assert!(record.value.is_none() && record.value_base64.is_none());

    let all = desk.ask("requeue", &["--all", "--truncated"]);
    assert_eq!(all["requeued"], json!([cut]));
    let listing = desk.ask("list", &[]);
    let mut letters = listing["letters"].as_array().expect("letters").iter();
    assert!(
        letters.all(|letter| letter["requeued"] == true),
        "{listing}"
    );
}

#[test]
fn requeue_by_many_and_killed_puts_each_back_once() {
    const LETTERS: i64 = 6000;
    // Records on the topic, whatever becomes of their transaction.
    let written = |desk: &mut Desk| {
        let ends = desk.foreign.ends(&[&desk.payments]);
        ends[&desk.payments].values().sum::<i64>()
    };
    let mut desk = Desk::new("dlq-many");
    let records: Vec<Value> = (0..LETTERS)
        .map(|n| desk.letter((n % 3) as i32, n, json!({})))
        .collect();
    desk.write(records, "");
    // One is killed wherever it stands, others take over from each other.
    let mut killed = start(desk.dlq("requeue", &["--all"]));
    while written(&mut desk) == 0 && killed.try_wait().expect("a child").is_none() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = killed.kill();
    killed.wait().expect("a child ends");
    println!("killed after {} of {LETTERS}", written(&mut desk));
    let others: Vec<_> = (0..2)
        .map(|_| start(desk.dlq("requeue", &["--all"])))
        .collect();
    for mut other in others {
        other.wait().expect("a child ends");
    }
    let done = desk.ask("requeue", &["--all"]);
    assert_eq!(done["selected"], LETTERS);
    let put_back = desk.put_back();
    assert_eq!(put_back.len() as i64, LETTERS);
    for (event, records) in &put_back {
        assert_eq!(records.len(), 1, "{event}");
    }
}

#[test]
fn a_topic_or_a_broker_that_is_not_there_is_named() {
    let desk = Desk::new("dlq-gone");
    let gone = desk.refused("list", &["--set", "output.dead_letters=dlq-nowhere"]);
    let failure: Value = serde_json::from_str(gone.stderr.trim()).expect("one failure");
    assert_eq!(failure["code"], "kafka");
    let (message, cure) = (failure["message"].to_string(), failure["cure"].to_string());
    assert!(message.contains("dlq-nowhere"), "{message}");
    assert!(cure.contains("create the topic"), "{cure}");
}

#[test]
fn a_secured_broker_lets_in_who_knows_the_password_and_shows_it_nobody() {
    let broker = Broker::shared();
    let desk = Desk::new("dlq-secured");
    let certificate = broker.certificate();
    let list = |password: &str| {
        let mut list = desk.dlq(
            "list",
            &["--set", &format!("kafka.brokers={}", broker.secured())],
        );
        for (name, value) in [
            ("SECURITY_PROTOCOL", "SASL_SSL"),
            ("SASL_MECHANISM", "SCRAM-SHA-256"),
            ("SASL_USERNAME", super::broker::USER),
            ("SASL_PASSWORD", password),
            (
                "SSL_CA_LOCATION",
                certificate.to_str().expect("a plain path"),
            ),
        ] {
            list.env(format!("SANDERLING__KAFKA__PROPERTIES__{name}"), value);
        }
        list.env("RUST_LOG", "trace");
        finish(list)
    };
    let let_in = list(super::broker::PASSWORD);
    assert_eq!(let_in.status, 0, "{}", let_in.stderr);
    assert!(!let_in.stderr.contains(super::broker::PASSWORD));
    let wrong = list("looking-glass");
    assert_eq!(wrong.status, 1, "{}", wrong.stdout);
    assert!(wrong.stderr.contains("sasl.username"), "{}", wrong.stderr);
    assert!(!wrong.stderr.contains("looking-glass"), "{}", wrong.stderr);
}
