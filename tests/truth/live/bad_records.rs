//! Records that are wrong in every way a topic's records can be: each a dead letter with its reason,
//! and none the end of the stream. What identifies a card is found raw nowhere.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::agreement::{bit_equal, each_once, order_is_whole};
use super::broker::Broker;
use super::deployed::{DONE_WITHIN, Deployed, LIVE_WITHIN};
use super::foreign::{Isolation, Record};
use super::recorded::replay;
use super::registry::Registry;
use crate::outcome::Outcome;
use crate::sanderling::{answer_of, command};

/// In every card's number, and in nothing else.
const CARD: &str = "400012345678";
const LARGE_BYTES: usize = 10 << 20;
/// 2025-03-01, milliseconds.
const START_MS: i64 = 1_740_787_200_000;
const HOUR_MS: i64 = 3_600_000;
const LABEL_SCHEMA: &str = r#"{"type": "record", "name": "Label", "fields": [
    {"name": "transaction_id", "type": "string"}, {"name": "card_id", "type": "string"},
    {"name": "known_at", "type": "long"}, {"name": "is_fraud", "type": "long"}]}"#;

/// What must become of a record.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Decided,
    StateOnly,
    /// By its reason.
    DeadLetter(&'static str),
}
use Fate::{DeadLetter, Decided, StateOnly};

/// A record's value; `None` is no value at all.
type Bytes = Option<Vec<u8>>;

#[test]
fn bad_records_are_told_apart_and_card_numbers_are_kept_secret() {
    let broker = Broker::shared();
    let registry = Registry::start();
    let deployed = Deployed::new("pipelines/card-fraud", "bad", 1, broker);
    let key_file = |name: &str, digit: char| {
        let path = deployed.beside(name);
        std::fs::write(&path, digit.to_string().repeat(64)).expect("a key");
        path.to_str().expect("a plain path").to_string()
    };
    deployed.edit(|settings| {
        settings["hash_key_file"] = key_file("hash.key", 'a').into();
        settings["dead_letter_key_file"] = key_file("letters.key", 'b').into();
        for stream in ["transactions", "labels"] {
            settings["streams"][stream]["columns"]["card_id"]["hash"] = "hmac".into();
        }
        settings["streams"]["labels"]["format"] = "avro".into();
        settings["kafka"]["registry"]["url"] = registry.url().into();
    });
    let mut foreign = broker.foreign();
    let (payments, labels) = (deployed.topic("transactions"), deployed.topic("labels"));
    let roomy = json!({"partitions": 1, "configs": {"max.message.bytes": 2 * LARGE_BYTES}});
    foreign.ask(&json!({"do": "topics", "topics": {&payments: roomy}}));
    let others =
        ["labels", "decisions", "dead_letters", "order"].map(|topic| deployed.topic(topic));
    foreign.create(others.iter().map(|topic| (topic.as_str(), 1)));

    let mut service = deployed.start("one");
    service.wait_until_live(LIVE_WITHIN);
    let corpus = [
        (&payments, bad_payments()),
        (&labels, bad_labels(&registry)),
    ];
    for (topic, records) in &corpus {
        let records: Vec<Value> = records.iter().map(|(value, _)| sent(value)).collect();
        foreign.ask(&json!({"do": "produce", "topic": topic, "records": records}));
        foreign.wait_for_end(&deployed.group(), &[topic], DONE_WITHIN);
    }
    let metrics = service.get("/metrics").expect("metrics").1;
    // A checkpoint that holds them all.
    std::thread::sleep(Duration::from_secs(3));
    service.stop();

    let outputs = ["decisions", "dead_letters", "order"].map(|topic| deployed.topic(topic));
    let [decisions, letters, orders] = outputs
        .each_ref()
        .map(|topic| foreign.consume(&[topic], Isolation::Committed));
    let mut reasons: BTreeMap<String, String> = BTreeMap::new();
    for letter in letters.iter().map(Record::json) {
        let event = &letter["event"];
        let id = format!(
            "{}/{}/{}",
            event["topic"].as_str().expect("a topic"),
            event["partition"],
            event["offset"]
        );
        let reason = letter["reason"].as_str().expect("a reason").to_string();
        assert!(
            reasons.insert(id, reason).is_none(),
            "dead-lettered twice: {letter}"
        );
    }
    let (mut decided, mut folded) = (Vec::new(), Vec::new());
    for (topic, records) in &corpus {
        let read = foreign.consume(&[topic], Isolation::Committed);
        assert_eq!(read.len(), records.len());
        for (record, (value, fate)) in read.into_iter().zip(records) {
            let shown = || {
                let bytes = value.as_deref().unwrap_or_default();
                String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned()
            };
            let reason = reasons.remove(&record.id());
            match fate {
                DeadLetter(wanted) => assert_eq!(reason.as_deref(), Some(*wanted), "{}", shown()),
                Decided | StateOnly => assert_eq!(reason, None, "{}", shown()),
            }
            if matches!(fate, Decided | StateOnly) {
                folded.push(record.clone());
            }
            if *fate == Decided {
                decided.push(record);
            }
        }
    }
    // In = decided + dead-lettered + state-only, and each record is in one of them.
    assert!(reasons.is_empty(), "letters about no record: {reasons:?}");
    each_once(&decided, &decisions);
    order_is_whole(&orders, &folded);

    counters_are_sets(&metrics, &decisions, &letters, &folded);

    let log = std::fs::read(deployed.beside("one.log")).expect("a log");
    assert!(!log.is_empty(), "the service says what it does");
    secret(&log, "the log");
    secret(metrics.as_bytes(), "the metrics");
    for record in decisions.iter().chain(&letters).chain(&orders) {
        secret(&record.bytes(), "a record");
        secret(
            format!("{:?} {:?}", record.key, record.headers).as_bytes(),
            "a key or a header",
        );
        let raw = record.json()["raw_base64"]
            .as_str()
            .map(|raw| BASE64.decode(raw).expect("base64"));
        secret(&raw.unwrap_or_default(), "the raw bytes of a dead letter");
    }
    let checkpoints = files(&deployed.state());
    assert!(
        checkpoints
            .iter()
            .any(|(name, _)| name.ends_with("manifest.json")),
        "a checkpoint"
    );
    for (name, bytes) in &checkpoints {
        secret(bytes, name);
    }
    // The topics themselves, folded again: in the recorded order every decision is the same, and in
    // the broker's nothing is missing either.
    for order in [&["--order", "kafka"][..], &[]] {
        let out = replay(&deployed, &[&["--input", "kafka"], order].concat());
        let again = Outcome::read(&out);
        assert_eq!(again.count("decided"), decided.len() as u64);
        let state_only = folded.len() - decided.len();
        assert_eq!(again.count("state_only"), state_only as u64);
        match order {
            [] => assert_eq!(again.count("dead_lettered"), letters.len() as u64),
            _ => bit_equal(&decisions, &again.decisions),
        }
        secret(
            &std::fs::read(out.join("dead_letters.parquet")).expect("a table"),
            "a replay's dead letters",
        );
    }

    // The search finds what is there to be found.
    let seen = foreign.consume(&[&payments], Isolation::Committed);
    assert!(seen.iter().any(|record| finds(&record.bytes())));

    // Requeue opens what was sealed: the record is there again as it was.
    let refused = letters
        .iter()
        .map(Record::json)
        .find(|letter| letter["reason"] == "wrong_type")
        .expect("a letter about a wrong type");
    assert_eq!(refused["sealed"], true, "{refused}");
    let offset = refused["event"]["offset"].as_i64().expect("an offset");
    let mut requeue = command(&["dlq", "requeue", "--json"]);
    requeue
        .arg(deployed.folder())
        .arg(format!("{payments}/0/{offset}"));
    assert_eq!(
        answer_of(requeue)["requeued"].as_array().map(Vec::len),
        Some(1)
    );
    let now = foreign.consume(&[&payments], Isolation::Committed);
    assert_eq!(now.len(), seen.len() + 1);
    let (was, is) = (&seen[offset as usize], &now[seen.len()]);
    assert!(finds(&is.bytes()));
    assert_eq!((was.bytes(), &was.key), (is.bytes(), &is.key));
}

/// What `/metrics` counts is what the topics hold.
fn counters_are_sets(metrics: &str, decisions: &[Record], letters: &[Record], folded: &[Record]) {
    let counted = |name: &str| -> BTreeMap<String, u64> {
        let lines = (metrics.lines()).filter_map(|line| line.strip_prefix(name)?.split_once(' '));
        let lines = lines.filter(|(labels, _)| labels.is_empty() || labels.starts_with('{'));
        // One label at most, whose value is between quotes.
        let value = |labels: &str| labels.split('"').nth(1).unwrap_or_default().to_string();
        let counts = lines.map(|(labels, count)| (value(labels), count.parse::<f64>()));
        let counts = counts.map(|(label, count)| (label, count.expect("a number") as u64));
        counts.filter(|(_, count)| *count > 0).collect()
    };
    let by = |records: &[Record], of: &str| {
        let mut by: BTreeMap<String, u64> = BTreeMap::new();
        for record in records {
            let value = record.json()[of].as_str().expect("text").to_string();
            *by.entry(value).or_default() += 1;
        }
        by
    };
    let sum = |of: &BTreeMap<String, u64>| of.values().sum::<u64>() as usize;
    let refused = counted("sanderling_dead_letters_total");
    assert_eq!(refused, by(letters, "reason"));
    let actions = counted("sanderling_decisions_total");
    assert_eq!(actions, by(decisions, "action"));
    let state_only = sum(&counted("sanderling_state_only_total"));
    assert_eq!(state_only, folded.len() - decisions.len());
    let accepted = sum(&counted("sanderling_events_total"));
    assert_eq!(accepted, sum(&actions) + state_only);
    assert_eq!(accepted + sum(&refused), folded.len() + letters.len());
}

fn secret(bytes: &[u8], place: &str) {
    assert!(!finds(bytes), "a raw card number stands in {place}");
}

fn finds(bytes: &[u8]) -> bool {
    // Its base64 at each of the three ways in which it can stand among other bytes.
    let mut forms = vec![CARD.as_bytes().to_vec()];
    for ahead in 0..3 {
        let text = BASE64.encode([vec![b'"'; ahead], CARD.as_bytes().to_vec()].concat());
        // Less the characters that depend on what stands before and behind.
        let from = [0, 2, 3][ahead];
        forms.push(text.trim_end_matches('=').as_bytes()[from..text.len() - 4].to_vec());
    }
    forms
        .iter()
        .any(|form| bytes.windows(form.len()).any(|window| window == form))
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
        .flatten()
    {
        match entry.path().is_dir() {
            true => found.extend(files(&entry.path())),
            false => {
                let bytes = std::fs::read(entry.path()).expect("a file");
                found.push((entry.path().to_string_lossy().into_owned(), bytes));
            }
        }
    }
    found
}

/// A record for the foreign producer, keyed as a bank would key it.
fn sent(value: &Bytes) -> Value {
    json!({"key": format!("{CARD}0001"), "value_base64": value.as_ref().map(|value| BASE64.encode(value))})
}

fn payment(id: &str) -> Value {
    json!({
        "transaction_id": id, "tx_time": START_MS, "card_id": format!("{CARD}0001"), "terminal_id": "M1",
        "device_id": "D1", "amount": 12.5,
    })
}

fn bad_payments() -> Vec<(Bytes, Fate)> {
    let now_ms = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .expect("a clock after 1970")
        .as_millis() as i64;
    let text = |text: &str| Some(text.replace("CARD", CARD).into_bytes());
    let with = |field: &str, value: Value| {
        let mut payment = payment("T");
        payment[field] = value;
        Some(payment.to_string().into_bytes())
    };
    let without = |field: &str| {
        let mut payment = payment("T");
        payment.as_object_mut().expect("an object").remove(field);
        Some(payment.to_string().into_bytes())
    };
    let large = "x".repeat(LARGE_BYTES);
    let good = |id: &str| (Some(payment(id).to_string().into_bytes()), Decided);
    vec![
        good("first"),
        (
            text(r#"{"transaction_id": "T", "card_id": "CARD0001", "#),
            DeadLetter("malformed"),
        ),
        (text(r#"["CARD0001"]"#), DeadLetter("malformed")),
        (text("card CARD0001"), DeadLetter("malformed")),
        (Some(vec![0xff, 0xfe, 0x00, 0x01]), DeadLetter("malformed")),
        (Some(Vec::new()), DeadLetter("malformed")),
        (None, DeadLetter("null_value")),
        good("between"),
        (with("amount", "a lot".into()), DeadLetter("wrong_type")),
        (
            with("card_id", json!({"number": format!("{CARD}0002")})),
            DeadLetter("wrong_type"),
        ),
        (
            with("tx_time", format!("card {CARD}0003").into()),
            DeadLetter("wrong_type"),
        ),
        (
            text(
                r#"{"transaction_id":"T","tx_time":1740787200000,"card_id":"CARD0001","terminal_id":"M1","device_id":"D1","amount":NaN}"#,
            ),
            DeadLetter("not_finite"),
        ),
        (
            text(
                r#"{"transaction_id":"T","tx_time":1740787200000,"card_id":"CARD0001","terminal_id":"M1","device_id":"D1","amount":-Infinity}"#,
            ),
            DeadLetter("not_finite"),
        ),
        (without("card_id"), DeadLetter("missing_field")),
        (with("card_id", Value::Null), DeadLetter("missing_field")),
        (without("transaction_id"), DeadLetter("missing_field")),
        (without("tx_time"), DeadLetter("missing_field")),
        (
            with("tx_time", (now_ms + 2 * HOUR_MS).into()),
            DeadLetter("future_time"),
        ),
        good("before the large one"),
        (
            text(&format!(r#"{{"card_id": "CARD0001", "note": "{large}"#)),
            DeadLetter("malformed"),
        ),
        (with("note", large.as_str().into()), Decided),
        good("last"),
    ]
}

fn bad_labels(registry: &Registry) -> Vec<(Bytes, Fate)> {
    let schema = registry.register("labels-value", LABEL_SCHEMA);
    // Of another shape, and what is no Avro at all.
    let text = registry.register("text-value", r#""string""#);
    let framed = |schema: u32, body: &[u8]| Some([&[0], &schema.to_be_bytes()[..], body].concat());
    let label = |payment: &str| {
        let mut body = Vec::new();
        for field in [payment, &format!("{CARD}0001")] {
            avro_long(field.len() as i64, &mut body);
            body.extend(field.as_bytes());
        }
        avro_long(START_MS + 1000, &mut body);
        avro_long(1, &mut body);
        body
    };
    let good = label("first");
    vec![
        (framed(schema, &good), StateOnly),
        (framed(4711, &good), DeadLetter("unknown_schema")),
        (framed(text, &good), DeadLetter("unreadable_schema")),
        (
            framed(schema, &good[..good.len() - 8]),
            DeadLetter("malformed"),
        ),
        (
            Some(format!("{CARD}0001").into_bytes()),
            DeadLetter("broken_framing"),
        ),
        (Some(vec![0, 0]), DeadLetter("broken_framing")),
        (None, DeadLetter("null_value")),
        (framed(schema, &label("last")), StateOnly),
    ]
}

/// Zigzag, seven bits at a time, the lowest first (Avro specification, "Binary encoding").
fn avro_long(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
