//! What a producer's changes come to, in every format: what is added is passed over, what is removed is NULL, what
//! has another type is cast or refused.

use std::path::Path;

use apache_avro::types::Value as Avro;
use prost_reflect::{DynamicMessage, MapKey, Value as Proto};
use protox::prost::Message;
use sanderling_ingest::{Decoder, Format, Framing};
use sanderling_schemas::RejectReason;
use serde_json::json;

use crate::decoders::{avro_decoder, decode, decoder, outcome};
use crate::encoders::{framed, proto, union};
use crate::registry::FakeRegistry;

/// The same payment as each version of a producer writes it.
struct Versions {
    name: &'static str,
    decoder: Decoder,
    /// As the pipeline was made for.
    before: Vec<u8>,
    /// With a new field.
    added: Vec<u8>,
    /// Without `n`.
    removed: Vec<u8>,
    /// Without the key.
    keyless: Vec<u8>,
    /// `amount` as text that is a number.
    recast: Vec<u8>,
    /// `amount` as something that is none.
    unreadable: Vec<u8>,
}

fn versions(folder: &Path, registry: &FakeRegistry) -> Vec<Versions> {
    let json = |text: &str| text.as_bytes().to_vec();
    let mut all = vec![Versions {
        name: "json",
        decoder: decoder(Format::Json),
        before: json(r#"{"id":"a","at":1000,"card":"c","amount":1.5,"n":3}"#),
        added: json(r#"{"new":{"x":[1]},"id":"a","at":1000,"card":"c","amount":1.5,"n":3}"#),
        removed: json(r#"{"id":"a","at":1000,"card":"c","amount":1.5}"#),
        keyless: json(r#"{"id":"a","at":1000,"amount":1.5,"n":3}"#),
        recast: json(r#"{"id":"a","at":1000,"card":"c","amount":"1.50","n":3}"#),
        unreadable: json(r#"{"id":"a","at":1000,"card":"c","amount":[1.5],"n":3}"#),
    }];

    let fields = |fields: &[(&str, &str)]| {
        let fields = fields.iter().map(|(name, kind)| {
            let kind: serde_json::Value = serde_json::from_str(kind).unwrap();
            json!({"name": name, "type": kind})
        });
        let fields: Vec<_> = fields.collect();
        json!({"type": "record", "name": "P", "fields": fields}).to_string()
    };
    let text = |text: &str| Avro::String(text.into());
    let mut id = 20;
    let mut avro = |with: &[(&str, &str, Avro)]| {
        id += 1;
        let schema = fields(
            &with
                .iter()
                .map(|(name, kind, _)| (*name, *kind))
                .collect::<Vec<_>>(),
        );
        registry.put(id, &schema);
        let record = with
            .iter()
            .map(|(name, _, value)| (name.to_string(), value.clone()));
        framed(id, &schema, record.collect())
    };
    let a = ("id", r#""string""#, text("a"));
    let at = ("at", r#""long""#, Avro::Long(1000));
    let card = ("card", r#""string""#, text("c"));
    let amount = ("amount", r#""double""#, Avro::Double(1.5));
    let n = ("n", r#""int""#, Avro::Int(3));
    let new = ("new", r#"["null", "string"]"#, union(1, text("x")));
    let as_text = ("amount", r#""string""#, text("1.50"));
    let list = (
        "amount",
        r#"{"type": "array", "items": "double"}"#,
        Avro::Array(vec![Avro::Double(1.5)]),
    );
    all.push(Versions {
        name: "avro",
        decoder: avro_decoder(registry),
        before: avro(&[
            a.clone(),
            at.clone(),
            card.clone(),
            amount.clone(),
            n.clone(),
        ]),
        added: avro(&[
            a.clone(),
            new,
            at.clone(),
            card.clone(),
            amount.clone(),
            n.clone(),
        ]),
        removed: avro(&[a.clone(), at.clone(), card.clone(), amount.clone()]),
        keyless: avro(&[a.clone(), at.clone(), amount, n.clone()]),
        recast: avro(&[a.clone(), at.clone(), card.clone(), as_text, n.clone()]),
        unreadable: avro(&[a, at, card, list, n]),
    });

    let text = |fields: &str| format!("syntax = \"proto3\"; message P {{ {fields} }}");
    let known = "string id = 1; int64 at = 2; string card = 3; optional string amount = 4; \
                 optional int32 n = 5;";
    let write = |fields: &str, values: &[(&str, Proto)]| {
        let (_, descriptor) = proto(folder, &text(fields), "P");
        let mut message = DynamicMessage::new(descriptor);
        for (name, value) in values {
            message.set_field_by_name(name, value.clone());
        }
        message.encode_to_vec()
    };
    let string = |text: &str| Proto::String(text.into());
    let (a, at, card) = (
        ("id", string("a")),
        ("at", Proto::I64(1000)),
        ("card", string("c")),
    );
    let (amount, n) = (("amount", string("1.5")), ("n", Proto::I32(3)));
    let whole = [
        a.clone(),
        at.clone(),
        card.clone(),
        amount.clone(),
        n.clone(),
    ];
    let more = [
        &whole[..],
        &[("new", Proto::Map([(MapKey::I32(1), Proto::I32(1))].into()))],
    ];
    let shorter = [a.clone(), at.clone(), card.clone(), amount.clone()];
    let keyless = [a.clone(), at.clone(), amount.clone(), n.clone()];
    let bytes = Proto::Bytes(b"1.50"[..].to_vec().into());
    let recast = [
        a.clone(),
        at.clone(),
        card.clone(),
        ("amount", bytes),
        n.clone(),
    ];
    let double = [a, at, card, ("amount", Proto::F64(1.5)), n];
    all.push(Versions {
        name: "protobuf",
        before: write(known, &whole),
        added: write(
            &format!("{known} map<int32, int32> new = 9;"),
            &more.concat(),
        ),
        removed: write(known, &shorter),
        keyless: write(known, &keyless),
        recast: write(
            &known.replace("optional string amount", "bytes amount"),
            &recast,
        ),
        unreadable: write(
            &known.replace("optional string amount", "double amount"),
            &double,
        ),
        decoder: decoder(Format::Protobuf(
            proto(folder, &text(known), "P").0,
            Framing::None,
        )),
    });
    all
}

#[test]
fn a_producer_may_add_fields_and_what_it_removes_is_null() {
    let (folder, registry) = (tempfile::tempdir().unwrap(), FakeRegistry::start());
    for versions in versions(folder.path(), &registry) {
        let Versions { name, decoder, .. } = &versions;
        let row = |n| {
            [format!(
                "0 t/0/0 1970-01-01T00:00:01 payments a c 1.50 {n} -"
            )]
        };
        let rows = |record: &[u8]| outcome(decode(decoder, &[record.to_vec()]));
        assert_eq!(rows(&versions.before), (row("3").into(), vec![]), "{name}");
        assert_eq!(rows(&versions.added), (row("3").into(), vec![]), "{name}");
        assert_eq!(rows(&versions.removed), (row("-").into(), vec![]), "{name}");
        let (_, refused) = rows(&versions.keyless);
        let missing = "column card is missing".to_string();
        assert_eq!(
            refused,
            [(0, RejectReason::MissingField, missing)],
            "{name}"
        );
    }
}

#[test]
fn a_changed_type_is_cast_or_refused_with_the_column_named() {
    let (folder, registry) = (tempfile::tempdir().unwrap(), FakeRegistry::start());
    for versions in versions(folder.path(), &registry) {
        let Versions { name, decoder, .. } = &versions;
        let (rows, refused) = outcome(decode(decoder, std::slice::from_ref(&versions.recast)));
        let expected = "0 t/0/0 1970-01-01T00:00:01 payments a c 1.50 3 -";
        assert_eq!(rows, [expected], "{name}: {refused:?}");
        let (rows, refused) = outcome(decode(decoder, std::slice::from_ref(&versions.unreadable)));
        assert!(rows.is_empty(), "{name}");
        let (_, reason, detail) = &refused[0];
        assert_eq!(*reason, RejectReason::WrongType, "{name}");
        assert!(detail.starts_with("column amount: "), "{name}: {detail}");
    }
}
