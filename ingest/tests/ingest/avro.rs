//! Avro's own: logical types, what is passed over, and schemas that refer to others.

use apache_avro::Decimal;
use apache_avro::types::Value as Avro;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sanderling_ingest::{EpochUnit, Format, RegistryOptions, framing_of};
use sanderling_schemas::RejectReason;
use serde_json::json;

use crate::decoders::{avro_decoder, decode, decoder_of_columns, outcome};
use crate::encoders::{T, framed, union};
use crate::registry::FakeRegistry;

pub const RICH: &str = r#"{"type": "record", "name": "Payment", "fields": [
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

pub fn rich(random: &mut StdRng, cents: i64, whole: i64) -> Vec<u8> {
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
