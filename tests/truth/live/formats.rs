//! Protobuf in and Avro out, through the broker, while a producer changes its schema.

use std::collections::BTreeMap;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::types::Value as Avro;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use serde_yaml_ng::Value as Yaml;

use super::broker::Broker;
use super::deployed::{DONE_WITHIN, Deployed, LIVE_WITHIN};
use super::foreign::{Isolation, Record};
use super::recorded::replay;
use super::registry::Registry;
use crate::outcome::Outcome;

const PAYMENTS: usize = 60;
/// 2025-03-01, milliseconds.
const START_MS: u64 = 1_740_787_200_000;
const SCHEMA: &str = r#"syntax = "proto3";
message Payment {
    string transaction_id = 1;
    int64 tx_time = 2;
    string card_id = 3;
    string terminal_id = 4;
    optional string device_id = 5;
    double amount = 6;
}
"#;

#[test]
fn protobuf_comes_in_and_avro_goes_out_while_the_producer_changes() {
    let broker = Broker::shared();
    let registry = Registry::start();
    let deployed = Deployed::new("pipelines/card-fraud", "formats", 1, broker);
    std::fs::write(deployed.folder().join("payment.proto"), SCHEMA).expect("a schema");
    deployed.edit(|settings| {
        let payments = &mut settings["streams"]["transactions"];
        payments["format"] = "protobuf".into();
        let schema = [
            ("file", "payment.proto"),
            ("message", "Payment"),
            ("framing", "confluent"),
        ];
        payments["schema"] = Yaml::Mapping(
            schema
                .into_iter()
                .map(|(key, value)| (key.into(), value.into()))
                .collect(),
        );
        settings["output"]["format"] = "avro".into();
        settings["kafka"]["registry"] = Yaml::Mapping(Default::default());
        settings["kafka"]["registry"]["url"] = registry.url().into();
        settings["deadline_ms"] = 600_000.into();
    });
    let mut foreign = broker.foreign();
    deployed.create_topics(&mut foreign, &["transactions", "labels"]);
    let topic = deployed.topic("transactions");
    let mut service = deployed.start("one");
    service.wait_until_live(LIVE_WITHIN);

    // The second third has a field that nobody here knows, the last lacks one that was there.
    let mut sent: Vec<Vec<u8>> = (0..PAYMENTS)
        .map(|at| payment(at, at / (PAYMENTS / 3) == 1, at / (PAYMENTS / 3) < 2))
        .collect();
    // Broken off, and of another message of the schema.
    let mut broken = payment(PAYMENTS, false, true);
    broken.truncate(broken.len() - 3);
    sent.insert(PAYMENTS / 2, broken);
    let records: Vec<Value> = sent
        .iter()
        .map(|bytes| json!({"key": "c", "value_base64": BASE64.encode(bytes)}))
        .collect();
    foreign.ask(&json!({"do": "produce", "topic": topic, "records": records}));
    foreign.wait_for_end(&deployed.group(), &[&topic], DONE_WITHIN);
    service.stop();

    let letters = foreign.consume(&[&deployed.topic("dead_letters")], Isolation::Committed);
    assert_eq!(letters.len(), 1);
    assert_eq!(letters[0].json()["reason"], "malformed");
    let decisions = foreign.consume(&[&deployed.topic("decisions")], Isolation::Committed);
    assert_eq!(decisions.len(), PAYMENTS);
    let mut schemas = BTreeMap::new();
    let live: BTreeMap<String, f64> = decisions
        .iter()
        .map(|record| logit(record, &registry, &mut schemas))
        .collect();

    // What the topics hold gives the same again.
    let again = Outcome::read(&replay(
        &deployed,
        &["--input", "kafka", "--order", "kafka"],
    ));
    assert_eq!(again.count("decided"), PAYMENTS as u64);
    assert_eq!(again.count("dead_lettered"), 1);
    for (id, logit) in again.texts("id").into_iter().zip(again.doubles("logit")) {
        assert_eq!(logit.to_bits(), live[&id].to_bits(), "{id}");
    }
}

/// A message behind the registry's framing: magic byte, id of the schema, and index 0 of its messages.
fn payment(at: usize, with_unknown: bool, with_device: bool) -> Vec<u8> {
    let mut out = vec![0, 0, 0, 0, 7, 0];
    let text = |field: u8, text: &str, out: &mut Vec<u8>| {
        out.extend([field << 3 | 2, text.len() as u8]);
        out.extend(text.as_bytes());
    };
    text(1, &format!("T{at}"), &mut out);
    out.push(2 << 3);
    varint(START_MS + 60_000 * at as u64, &mut out);
    text(3, &format!("C{}", at % 5), &mut out);
    text(4, &format!("M{}", at % 3), &mut out);
    if with_device {
        text(5, &format!("D{}", at % 7), &mut out);
    }
    if with_unknown {
        text(15, "of a later version", &mut out);
    }
    out.push(6 << 3 | 1);
    out.extend((10.5 + at as f64).to_le_bytes());
    out
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Id and logit of a decision, read with the schema that the registry has under the record's number.
fn logit(
    record: &Record,
    registry: &Registry,
    schemas: &mut BTreeMap<u32, Schema>,
) -> (String, f64) {
    let bytes = record.bytes();
    assert_eq!(bytes[0], 0, "the magic byte");
    let number = u32::from_be_bytes(bytes[1..5].try_into().expect("four bytes"));
    let schema = schemas.entry(number).or_insert_with(|| {
        let (status, body) = registry.get(&format!("/schemas/ids/{number}"));
        assert_eq!(status, 200, "{body}");
        let body: Value = serde_json::from_str(&body).expect("JSON");
        Schema::parse_str(body["schema"].as_str().expect("a schema")).expect("a schema")
    });
    let reader = GenericDatumReader::builder(schema)
        .build()
        .expect("a reader");
    let decision = reader.read_value(&mut &bytes[5..]).expect("a decision");
    let Avro::Record(fields) = decision else {
        panic!("a decision is a record: {decision:?}");
    };
    let field = |name: &str| {
        let found = fields.iter().find(|(field, _)| field == name);
        match &found.unwrap_or_else(|| panic!("no {name}: {fields:?}")).1 {
            Avro::Union(_, value) => (**value).clone(),
            value => value.clone(),
        }
    };
    let (Avro::String(id), Avro::Double(logit)) = (field("id"), field("logit")) else {
        panic!("an id and a logit: {fields:?}");
    };
    (id, logit)
}
