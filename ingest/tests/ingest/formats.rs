//! Records of every format become the same rows, and refuse what is wrong for the same reasons. The writers are the
//! formats' own libraries.

use std::path::Path;
use std::time::{Duration, Instant};

use apache_avro::types::Value as Avro;
use apache_avro::writer::datum::GenericDatumWriter;
use apache_avro::{Decimal, Schema};
use arrow::array::AsArray;
use prost_reflect::{DynamicMessage, MessageDescriptor, Value as Proto};
use protox::prost::Message;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sanderling_ingest::{
    Decoded, Decoder, EpochUnit, Format, Framing, IngestError, ProtobufSchema, RegistryOptions,
    framing_of,
};
use sanderling_schemas::{EventBatch, EventId, Offset, Partition, RejectReason, Sequence};
use serde_json::json;

use crate::registry::FakeRegistry;
use crate::{lines, payments};

const T: i64 = 1_735_689_600_000;

/// A payment as a producer has it: id, at, card, amount, n.
type Payment = (
    Option<&'static str>,
    i64,
    Option<&'static str>,
    f64,
    Option<i64>,
);

const PAYMENTS: [Payment; 6] = [
    (Some("a"), T, Some("c1"), 12.345, Some(3)),
    (Some("b"), T + 1, None, 1.0, Some(3)),
    (Some("c"), T + 2, Some("c2"), f64::NAN, None),
    (None, T + 3, Some("c2"), 1.0, None),
    (Some("é"), T + 4, Some("c3"), -0.5, None),
    (Some("f"), T + 5, Some("c3"), 1e12, Some(-7)),
];

const AVRO: &str = r#"{"type": "record", "name": "Payment", "namespace": "bank", "fields": [
    {"name": "id", "type": ["null", "string"]},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    {"name": "card", "type": ["string", "null"]},
    {"name": "amount", "type": "double"},
    {"name": "n", "type": ["null", "int", "long"]}]}"#;

const PROTO: &str = r#"
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

fn json_of((id, at, card, amount, n): &Payment) -> Vec<u8> {
    let text = |text: &Option<&str>| text.map_or("null".into(), |text| format!("{text:?}"));
    let n = n.map_or("null".into(), |n| n.to_string());
    let (id, card) = (text(id), text(card));
    format!(r#"{{"id":{id},"at":{at},"card":{card},"amount":{amount:?},"n":{n}}}"#).into_bytes()
}

pub fn union(branch: u32, value: Avro) -> Avro {
    Avro::Union(branch, Box::new(value))
}

fn avro_of((id, at, card, amount, n): &Payment) -> Vec<u8> {
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

fn proto_of(descriptor: &MessageDescriptor, (id, at, card, amount, n): &Payment) -> Vec<u8> {
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

pub fn decoder(format: Format) -> Decoder {
    decoder_of_columns(format, |_| {})
}

fn decoder_of_columns(
    format: Format,
    change: impl FnOnce(&mut sanderling_ingest::StreamSpec),
) -> Decoder {
    let (relation, specs) = payments();
    let mut spec = specs[0].clone();
    spec.format = format;
    change(&mut spec);
    Decoder::new(relation, spec).unwrap()
}

pub fn avro_decoder(registry: &FakeRegistry) -> Decoder {
    decoder(Format::Avro(RegistryOptions::new(&registry.url)))
}

pub fn decode(decoder: &Decoder, records: &[Vec<u8>]) -> Decoded {
    let records: Vec<_> = records
        .iter()
        .map(|record| Some(record.as_slice()))
        .collect();
    decoder.decode(&records, &[]).unwrap()
}

/// Rows as text, and refusals.
pub fn outcome(decoded: Decoded) -> (Vec<String>, Vec<(usize, RejectReason, String)>) {
    let id = |offset: &usize| EventId {
        topic: "t".into(),
        partition: Partition(0),
        offset: Offset(*offset as i64),
    };
    let batch = EventBatch {
        rows: decoded.rows,
        ids: decoded.records.iter().map(id).collect(),
        sequence: Sequence(0),
        broker_time_us: Vec::new(),
    };
    let refused = decoded.refused.into_iter();
    let refused = refused.map(|refusal| (refusal.record, refusal.reason, refusal.detail));
    (lines(&[batch]), refused.collect())
}

fn reasons(decoded: &Decoded) -> Vec<RejectReason> {
    decoded
        .refused
        .iter()
        .map(|refusal| refusal.reason)
        .collect()
}

#[test]
fn every_format_gives_the_same_rows_and_the_same_refusals() {
    let folder = tempfile::tempdir().unwrap();
    let registry = FakeRegistry::start();
    registry.put(7, AVRO);
    let (schema, descriptor) = proto(folder.path(), PROTO, "bank.Payment");
    let plain: Vec<Vec<u8>> = PAYMENTS.iter().map(|p| proto_of(&descriptor, p)).collect();
    // Behind a schema's id: two indexes would be a nested message's, this is the second one's.
    let confluent = plain
        .iter()
        .map(|record| [&framing_of(99)[..], &[2, 2], record].concat());
    let json = outcome(decode(
        &decoder(Format::Json),
        &PAYMENTS.iter().map(json_of).collect::<Vec<_>>(),
    ));
    assert_eq!(
        json.0,
        [
            "0 t/0/0 2025-01-01T00:00:00 payments a c1 12.35 3 -",
            "1 t/0/4 2025-01-01T00:00:00.004 payments é c3 -0.50 - -",
        ]
    );
    let others = [
        (
            "avro",
            avro_decoder(&registry),
            PAYMENTS.iter().map(avro_of).collect::<Vec<_>>(),
        ),
        (
            "protobuf",
            decoder(Format::Protobuf(schema.clone(), Framing::None)),
            plain.clone(),
        ),
        (
            "confluent",
            decoder(Format::Protobuf(schema, Framing::Confluent)),
            confluent.collect(),
        ),
    ];
    use RejectReason::*;
    for (name, decoder, records) in others {
        let (rows, refused) = outcome(decode(&decoder, &records));
        assert_eq!(rows, json.0, "{name}");
        let refused: Vec<_> = refused
            .iter()
            .map(|(at, reason, _)| (*at, *reason))
            .collect();
        let expected = [
            (1, MissingField),
            (2, NotFinite),
            (3, MissingField),
            (5, WrongType),
        ];
        assert_eq!(refused, expected, "{name}");
    }
    let json: Vec<_> = json
        .1
        .iter()
        .map(|(at, reason, _)| (*at, *reason))
        .collect();
    assert_eq!(json[1], (2, NotFinite));
    assert_eq!(json.len(), 4);
}

const RICH: &str = r#"{"type": "record", "name": "Payment", "fields": [
    {"name": "before", "type": {"type": "array", "items": {"type": "map", "values": ["null",
        {"type": "record", "name": "Tree", "fields": [
            {"name": "leaf", "type": {"type": "fixed", "name": "Four", "size": 4}},
            {"name": "more", "type": {"type": "array", "items": "Tree"}}]}]}}},
    {"name": "id", "type": {"type": "string", "logicalType": "uuid"}},
    {"name": "at", "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}]},
    {"name": "flag", "type": "boolean"},
    {"name": "ratio", "type": "float"},
    {"name": "card", "type": {"type": "enum", "name": "Scheme", "symbols": ["VISA", "AMEX"]}},
    {"name": "amount", "type": ["null", {"type": "bytes", "logicalType": "decimal",
        "precision": 20, "scale": 4}]},
    {"name": "four", "type": "Four"},
    {"name": "n", "type": {"type": "fixed", "name": "Money", "size": 12,
        "logicalType": "decimal", "precision": 28, "scale": 2}}]}"#;

/// Values of `RICH`'s type for what is passed over.
fn thicket(random: &mut StdRng, depth: usize) -> Avro {
    let tree = |random: &mut StdRng, depth: usize| {
        let more = if depth == 0 {
            0
        } else {
            random.random_range(0..3)
        };
        Avro::Record(vec![
            (
                "leaf".into(),
                Avro::Fixed(4, random.random::<[u8; 4]>().to_vec()),
            ),
            (
                "more".into(),
                Avro::Array((0..more).map(|_| thicket_tree(random, depth - 1)).collect()),
            ),
        ])
    };
    let maps = (0..random.random_range(0..3)).map(|_| {
        let entries = (0..random.random_range(0..3)).map(|i| {
            let value = match random.random_bool(0.3) {
                true => union(0, Avro::Null),
                false => union(1, tree(random, depth)),
            };
            (format!("key {i}"), value)
        });
        Avro::Map(entries.collect())
    });
    Avro::Array(maps.collect())
}

fn thicket_tree(random: &mut StdRng, depth: usize) -> Avro {
    let more = if depth == 0 {
        0
    } else {
        random.random_range(0..3)
    };
    let more = (0..more).map(|_| thicket_tree(random, depth - 1)).collect();
    Avro::Record(vec![
        (
            "leaf".into(),
            Avro::Fixed(4, random.random::<[u8; 4]>().to_vec()),
        ),
        ("more".into(), Avro::Array(more)),
    ])
}

fn rich(random: &mut StdRng, cents: i64, whole: i64) -> Vec<u8> {
    let record = vec![
        ("before".into(), thicket(random, 3)),
        (
            "id".into(),
            Avro::Uuid("6f3c1f57-6e0c-4d26-9f0a-0123456789ab".parse().unwrap()),
        ),
        ("at".into(), union(1, Avro::TimestampMicros(T * 1000 + 1))),
        ("flag".into(), Avro::Boolean(true)),
        ("ratio".into(), Avro::Float(0.5)),
        ("card".into(), Avro::Enum(1, "AMEX".into())),
        (
            "amount".into(),
            union(1, Avro::Decimal(Decimal::from((cents * 100).to_be_bytes()))),
        ),
        ("four".into(), Avro::Fixed(4, vec![0xff; 4])),
        (
            "n".into(),
            Avro::Decimal(Decimal::from(
                i128::from(whole * 100).to_be_bytes()[4..].to_vec(),
            )),
        ),
    ];
    framed(8, RICH, record)
}

#[test]
fn avro_s_logical_types_are_values_and_whatever_lies_between_is_passed_over() {
    let registry = FakeRegistry::start();
    registry.put(8, RICH);
    let decoder = avro_decoder(&registry);
    let mut random = StdRng::seed_from_u64(1);
    for round in 0..200 {
        let (cents, whole) = (
            random.random_range(-99_999..99_999),
            random.random_range(-9..9),
        );
        let record = rich(&mut random, cents, whole);
        let (rows, refused) = outcome(decode(&decoder, &[record]));
        let sign = if cents < 0 { "-" } else { "" };
        let amount = format!("{sign}{}.{:02}", cents.abs() / 100, cents.abs() % 100);
        let expected = format!(
            "0 t/0/0 2025-01-01T00:00:00.000001 payments \
             6f3c1f57-6e0c-4d26-9f0a-0123456789ab AMEX {amount} {whole} -"
        );
        assert_eq!(rows, [expected], "round {round}: {refused:?}");
    }
}

#[test]
fn what_breaks_off_or_is_noise_is_refused_whole() {
    let folder = tempfile::tempdir().unwrap();
    let registry = FakeRegistry::start();
    registry.put(7, AVRO);
    registry.put(8, RICH);
    let avro = avro_decoder(&registry);
    let (schema, descriptor) = proto(folder.path(), PROTO, "bank.Payment");
    let protobuf = decoder(Format::Protobuf(schema, Framing::None));
    let mut random = StdRng::seed_from_u64(2);
    let whole = rich(&mut random, 1, 1);
    for record in [&whole, &avro_of(&PAYMENTS[0])] {
        for len in 0..record.len() {
            let decoded = decode(&avro, &[record[..len].to_vec()]);
            let expected = match len {
                0..5 => RejectReason::BrokenFraming,
                _ => RejectReason::Malformed,
            };
            assert_eq!(reasons(&decoded), [expected], "{len}");
        }
    }
    let longer = [&whole[..], b"!"].concat();
    assert_eq!(
        reasons(&decode(&avro, &[longer])),
        [RejectReason::Malformed]
    );
    // A message may end behind any field, but nowhere else.
    let message = proto_of(&descriptor, &PAYMENTS[0]);
    let refused = (0..message.len())
        .filter(|len| {
            !decode(&protobuf, &[message[..*len].to_vec()])
                .refused
                .is_empty()
        })
        .count();
    assert!(
        refused >= message.len() - 2,
        "{refused} of {}",
        message.len()
    );
    // Whatever the bytes are, every record comes out once.
    for _ in 0..20_000 {
        let len = random.random_range(0..40);
        let noise: Vec<u8> = (0..len).map(|_| random.random()).collect();
        let framed = [&framing_of(8)[..], &noise].concat();
        for decoded in [decode(&avro, &[framed]), decode(&protobuf, &[noise])] {
            assert_eq!(decoded.records.len() + decoded.refused.len(), 1);
        }
    }
}

#[test]
fn a_schema_may_refer_to_others() {
    let registry = FakeRegistry::start();
    registry.put_raw(
        9,
        json!({
            "schema": r#"{"type": "record", "name": "Payment", "namespace": "bank", "fields": [
                {"name": "id", "type": "string"}, {"name": "at", "type": "common.At"},
                {"name": "card", "type": "string"}, {"name": "place", "type": "common.Place"}]}"#,
            "references": [
                {"name": "common.At", "subject": "at", "version": 1},
                {"name": "common.Place", "subject": "place", "version": 3},
            ],
        }),
    );
    let at = r#"{"type": "record", "name": "At", "namespace": "common", "fields": [
        {"name": "ms", "type": "long"}]}"#;
    let place = r#"{"type": "record", "name": "Place", "namespace": "common", "fields": [
        {"name": "first", "type": "At"}, {"name": "country", "type": "string"}]}"#;
    registry.put_path("/subjects/at/versions/1", json!({"id": 1, "schema": at}));
    registry.put_path(
        "/subjects/place/versions/3",
        json!({"id": 2, "schema": place, "references": [
            {"name": "common.At", "subject": "at", "version": 1}]}),
    );
    // Written by hand: "a", 1, "c", {{2}, "de"}.
    let record = [&framing_of(9)[..], b"\x02a\x02\x02c\x04\x04de"].concat();
    let (rows, refused) = outcome(decode(
        &avro_decoder(&registry),
        std::slice::from_ref(&record),
    ));
    assert!(rows.is_empty());
    let expected = "column event_time: a record cannot be read as timestamp";
    assert_eq!(
        refused,
        [(0, RejectReason::WrongType, expected.to_string())]
    );
    let places = decoder_of_columns(Format::Avro(RegistryOptions::new(&registry.url)), |spec| {
        spec.event_time.column = "card".into();
        spec.event_time.unit = Some(EpochUnit::Seconds);
    });
    let record = [&framing_of(9)[..], b"\x02a\x02\x025\x04\x04de"].concat();
    let (rows, _) = outcome(decode(&places, &[record]));
    assert_eq!(rows, ["0 t/0/0 1970-01-01T00:00:05 payments a 5 - - -"]);
}

#[test]
fn each_fault_of_a_schema_has_its_reason_and_is_not_asked_for_again_at_once() {
    let registry = FakeRegistry::start();
    registry.put(7, AVRO);
    registry.put_raw(
        30,
        json!({"schema": "syntax = \"proto3\";", "schemaType": "PROTOBUF"}),
    );
    registry.put(
        31,
        r#"{"type": "record", "name": "P", "fields": [{"name": "id"}]}"#,
    );
    registry.put(32, r#""string""#);
    let decoder = avro_decoder(&registry);
    let good = avro_of(&PAYMENTS[0]);
    let of = |id| [&framing_of(id)[..], &good[5..]].concat();
    let records: Vec<Vec<u8>> = vec![of(7), of(29), of(30), of(31), of(32), of(7), vec![], of(29)];
    use RejectReason::*;
    let expected = [
        (1, UnknownSchema),
        (2, UnreadableSchema),
        (3, UnreadableSchema),
        (4, UnreadableSchema),
        (6, BrokenFraming),
        (7, UnknownSchema),
    ];
    for _ in 0..3 {
        let (rows, refused) = outcome(decode(&decoder, &records));
        assert_eq!(rows.len(), 2);
        let found: Vec<_> = refused
            .iter()
            .map(|(at, reason, _)| (*at, *reason))
            .collect();
        assert_eq!(found, expected, "{refused:?}");
        assert!(refused[0].2.contains("29"), "{refused:?}");
        assert_eq!(registry.asked(), 5);
    }
    let null = decoder.decode(&[None], &[]).unwrap();
    assert_eq!(reasons(&null), [NullValue]);
}

#[test]
fn a_registry_that_does_not_answer_is_no_record_s_fault() {
    let registry = FakeRegistry::start();
    registry.put(7, AVRO);
    let mut options = RegistryOptions::new(&registry.url);
    options.give_up_after = Duration::from_millis(300);
    let patient = decoder(Format::Avro(options.clone()));
    let record = avro_of(&PAYMENTS[0]);
    registry.leave_unanswered(2);
    assert_eq!(decode(&patient, std::slice::from_ref(&record)).records, [0]);
    assert_eq!(registry.asked(), 3);
    // What is known needs no registry.
    registry.leave_unanswered(1000);
    assert_eq!(decode(&patient, std::slice::from_ref(&record)).records, [0]);

    let impatient = decoder(Format::Avro(options));
    let began = Instant::now();
    let error = impatient.decode(&[Some(&record)], &[]).unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(matches!(&error, IngestError::Registry { url, cure, .. }
        if *url == registry.url && cure.contains("nothing")));
    assert!(error.to_string().contains(&registry.url), "{error}");
    let nobody = RegistryOptions {
        give_up_after: Duration::ZERO,
        ..RegistryOptions::new("http://127.0.0.1:1")
    };
    let nobody = decoder(Format::Avro(nobody)).decode(&[Some(&record)], &[]);
    let error = nobody.unwrap_err().to_string();
    assert!(error.contains("refused"), "{error}");
    // The same records, once it answers.
    registry.leave_unanswered(0);
    assert_eq!(decode(&impatient, &[record]).records, [0]);
}

#[test]
fn a_registry_may_want_a_password_and_something_else_is_no_registry() {
    let registry = FakeRegistry::start();
    registry.put(7, AVRO);
    registry.want("Basic dXNlcjpzZWNyZXQ=");
    let record = avro_of(&PAYMENTS[0]);
    let began = Instant::now();
    let refused = avro_decoder(&registry)
        .decode(&[Some(&record)], &[])
        .unwrap_err();
    assert!(matches!(refused, IngestError::Registry { cure, .. } if cure.contains("username")));
    let options = RegistryOptions {
        username: Some("user".into()),
        password: Some("secret".into()),
        ..RegistryOptions::new(&registry.url)
    };
    assert!(!format!("{options:?}").contains("secret"));
    let known = decoder(Format::Avro(options));
    assert_eq!(decode(&known, std::slice::from_ref(&record)).records, [0]);

    let website = FakeRegistry::start();
    website.put_raw(7, json!(["not", "a", "schema"]));
    let other = avro_decoder(&website)
        .decode(&[Some(&record)], &[])
        .unwrap_err();
    assert!(
        matches!(other, IngestError::Registry { cure, .. } if cure.contains("url")),
        "{other}"
    );
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn protobuf_s_zeros_are_values_but_nobody_s_key() {
    let folder = tempfile::tempdir().unwrap();
    let text = "syntax = \"proto3\"; message P { string id = 1; int64 at = 2; string card = 3; \
                double amount = 4; int32 n = 5; }";
    let (schema, descriptor) = proto(folder.path(), text, "P");
    let decoder = decoder(Format::Protobuf(schema, Framing::None));
    let write = |values: &[(&str, Proto)]| {
        let mut message = DynamicMessage::new(descriptor.clone());
        for (name, value) in values {
            message.set_field_by_name(name, value.clone());
        }
        message.encode_to_vec()
    };
    let id = ("id", Proto::String("a".into()));
    let at = ("at", Proto::I64(1000));
    let card = ("card", Proto::String("c".into()));
    let (rows, refused) = outcome(decode(
        &decoder,
        &[
            write(&[id.clone(), at.clone(), card.clone()]),
            write(&[id.clone(), at.clone()]),
            write(&[id, card.clone()]),
            write(&[at, card]),
            Vec::new(),
        ],
    ));
    assert_eq!(rows, ["0 t/0/0 1970-01-01T00:00:01 payments a c 0.00 0 -"]);
    let details: Vec<_> = refused
        .iter()
        .map(|(_, _, detail)| detail.as_str())
        .collect();
    assert_eq!(
        details,
        [
            "column card is missing",
            "column event_time is missing",
            "column id is missing",
            "column event_time is missing",
        ]
    );
}

#[test]
fn protobuf_behind_another_framing_or_of_another_message_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (schema, descriptor) = proto(folder.path(), PROTO, "bank.Payment");
    let record = proto_of(&descriptor, &PAYMENTS[0]);
    let behind = |bytes: &[u8]| [bytes, &record].concat();
    let decoder = decoder(Format::Protobuf(schema, Framing::Confluent));
    use RejectReason::*;
    for (record, expected) in [
        (behind(&[]), BrokenFraming),
        (vec![0, 0, 0, 0, 1], BrokenFraming),
        (vec![0, 0, 0, 0, 1, 4, 2], BrokenFraming),
        // The file's first message in its short form, and a nested one.
        (behind(&[0, 0, 0, 0, 1, 0]), UnreadableSchema),
        (behind(&[0, 0, 0, 0, 1, 4, 2, 0]), UnreadableSchema),
    ] {
        assert_eq!(reasons(&decode(&decoder, &[record])), [expected]);
    }
}

#[test]
fn what_is_wrong_with_a_protobuf_schema_is_told_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("payment.proto");
    let read = |text: &str, message: &str| {
        std::fs::write(&path, text).unwrap();
        ProtobufSchema::read(&path, message).map_err(|error| error.to_string())
    };
    let error = read(
        "syntax = \"proto3\";\nmessage P {\n  Strange id = 1;\n}",
        "P",
    )
    .unwrap_err();
    assert!(
        error.contains("payment.proto:3:") && error.contains("Strange"),
        "{error}"
    );
    let error = read(PROTO, "bank.Paiment").unwrap_err();
    assert!(error.contains("bank.Other, bank.Payment"), "{error}");
    let missing = ProtobufSchema::read(&folder.path().join("none.proto"), "P");
    assert!(missing.unwrap_err().to_string().contains("none.proto"));

    // A field that the pipeline reads and the message lacks; a descriptor set does as well.
    let schema = read(&PROTO.replace("card", "karte"), "bank.Payment").unwrap();
    let (relation, specs) = payments();
    let mut spec = specs[0].clone();
    spec.format = Format::Protobuf(schema, Framing::None);
    let error = Decoder::new(relation, spec).unwrap_err().to_string();
    assert!(
        error.contains("no field card") && error.contains("karte"),
        "{error}"
    );
    let (_, descriptor) = proto(folder.path(), PROTO, "bank.Payment");
    let set = folder.path().join("payment.pb");
    std::fs::write(&set, descriptor.parent_pool().encode_to_vec()).unwrap();
    let schema = ProtobufSchema::read(&set, "bank.Payment").unwrap();
    let record = proto_of(&descriptor, &PAYMENTS[0]);
    let decoded = decode(&decoder(Format::Protobuf(schema, Framing::None)), &[record]);
    let ids = decoded
        .rows
        .column_by_name("id")
        .unwrap()
        .as_string::<i32>();
    assert_eq!(ids.value(0), "a");
}
