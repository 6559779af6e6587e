//! Payments as producers write them in every format, by the formats' own libraries.

use std::path::Path;

use apache_avro::Schema;
use apache_avro::types::Value as Avro;
use apache_avro::writer::datum::GenericDatumWriter;
use prost_reflect::{DynamicMessage, MessageDescriptor, Value as Proto};
use protox::prost::Message;
use sanderling_ingest::{ProtobufSchema, framing_of};

pub const T: i64 = 1_735_689_600_000;

/// A payment as a producer has it: id, at, card, amount, n.
pub type Payment = (
    Option<&'static str>,
    i64,
    Option<&'static str>,
    f64,
    Option<i64>,
);

pub const PAYMENTS: [Payment; 6] = [
    (Some("a"), T, Some("c1"), 12.345, Some(3)),
    (Some("b"), T + 1, None, 1.0, Some(3)),
    (Some("c"), T + 2, Some("c2"), f64::NAN, None),
    (None, T + 3, Some("c2"), 1.0, None),
    (Some("é"), T + 4, Some("c3"), -0.5, None),
    (Some("f"), T + 5, Some("c3"), 1e12, Some(-7)),
];

pub const AVRO: &str = r#"{"type": "record", "name": "Payment", "namespace": "bank", "fields": [
    {"name": "id", "type": ["null", "string"]},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    {"name": "card", "type": ["string", "null"]},
    {"name": "amount", "type": "double"},
    {"name": "n", "type": ["null", "int", "long"]}]}"#;

pub const PROTO: &str = r#"
    syntax = "proto3";
    package bank;
    import "google/protobuf/timestamp.proto";
    import "google/protobuf/wrappers.proto";
    message Other { string name = 1; }
    message Payment {
        optional string id = 1;
        google.protobuf.Timestamp at = 2;
        optional string card = 3;
        double amount = 4;
        google.protobuf.Int64Value n = 5;
    }
"#;

pub fn json_of((id, at, card, amount, n): &Payment) -> Vec<u8> {
    let text = |text: &Option<&str>| text.map_or("null".into(), |text| format!("{text:?}"));
    let n = n.map_or("null".into(), |n| n.to_string());
    let (id, card) = (text(id), text(card));
    format!(r#"{{"id":{id},"at":{at},"card":{card},"amount":{amount:?},"n":{n}}}"#).into_bytes()
}

pub fn union(branch: u32, value: Avro) -> Avro {
    Avro::Union(branch, Box::new(value))
}

pub fn avro_of((id, at, card, amount, n): &Payment) -> Vec<u8> {
    let text = |text: &Option<&str>, null, string| match text {
        Some(text) => union(string, Avro::String(text.to_string())),
        None => union(null, Avro::Null),
    };
    let record = vec![
        ("id".into(), text(id, 0, 1)),
        ("at".into(), Avro::TimestampMillis(*at)),
        ("card".into(), text(card, 1, 0)),
        ("amount".into(), Avro::Double(*amount)),
        (
            "n".into(),
            n.map_or(union(0, Avro::Null), |n| union(2, Avro::Long(n))),
        ),
    ];
    framed(7, AVRO, record)
}

pub fn framed(id: u32, schema: &str, record: Vec<(String, Avro)>) -> Vec<u8> {
    let schema = Schema::parse_str(schema).unwrap();
    let writer = GenericDatumWriter::builder(&schema).build().unwrap();
    let datum = writer.write_value_to_vec(Avro::Record(record)).unwrap();
    [&framing_of(id)[..], &datum].concat()
}

/// The message and its schema, of a .proto file.
pub fn proto(folder: &Path, text: &str, name: &str) -> (ProtobufSchema, MessageDescriptor) {
    let path = folder.join("payment.proto");
    std::fs::write(&path, text).unwrap();
    let pool = protox::Compiler::new([folder])
        .unwrap()
        .include_imports(true)
        .open_file(&path)
        .unwrap()
        .descriptor_pool();
    let message = pool.get_message_by_name(name).unwrap();
    (ProtobufSchema::read(&path, name).unwrap(), message)
}

fn inner(message: &MessageDescriptor, field: &str, values: &[(&str, Proto)]) -> Proto {
    let kind = message.get_field_by_name(field).unwrap().kind();
    let mut inner = DynamicMessage::new(kind.as_message().unwrap().clone());
    for (name, value) in values {
        inner.set_field_by_name(name, value.clone());
    }
    Proto::Message(inner)
}

pub fn proto_of(descriptor: &MessageDescriptor, (id, at, card, amount, n): &Payment) -> Vec<u8> {
    let mut message = DynamicMessage::new(descriptor.clone());
    for (name, value) in [("id", id), ("card", card)] {
        if let Some(value) = value {
            message.set_field_by_name(name, Proto::String(value.to_string()));
        }
    }
    let time = [
        ("seconds", Proto::I64(at.div_euclid(1000))),
        ("nanos", Proto::I32(at.rem_euclid(1000) as i32 * 1_000_000)),
    ];
    message.set_field_by_name("at", inner(descriptor, "at", &time));
    message.set_field_by_name("amount", Proto::F64(*amount));
    if let Some(n) = n {
        let value = [("value", Proto::I64(*n))];
        message.set_field_by_name("n", inner(descriptor, "n", &value));
    }
    message.encode_to_vec()
}
