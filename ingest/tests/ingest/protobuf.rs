//! Protobuf's own: zeros, framings, and what is wrong with a schema.

use arrow::array::AsArray;
use prost_reflect::{DynamicMessage, Value as Proto};
use protox::prost::Message;
use sanderling_ingest::{Decoder, Format, Framing, ProtobufSchema};
use sanderling_schemas::RejectReason;

use crate::decoders::{decode, decoder, outcome, reasons};
use crate::encoders::{PAYMENTS, PROTO, proto, proto_of};
use crate::payments;

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
