//! Records of every format become the same rows, and refuse what is wrong for the same reasons.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sanderling_ingest::{Format, Framing, framing_of};
use sanderling_schemas::RejectReason;

use crate::avro::{RICH, rich};
use crate::decoders::{avro_decoder, decode, decoder, outcome, reasons};
use crate::encoders::{AVRO, PAYMENTS, PROTO, avro_of, json_of, proto, proto_of};
use crate::registry::FakeRegistry;

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
