//! Faults of a registry and of the schemas that it has: what a record is refused for, and what is no record's fault.

use std::time::{Duration, Instant};

use sanderling_ingest::{Format, IngestError, RegistryOptions, framing_of};
use sanderling_schemas::RejectReason;
use serde_json::json;

use crate::decoders::{avro_decoder, decode, decoder, outcome, reasons};
use crate::encoders::{AVRO, PAYMENTS, avro_of};
use crate::registry::FakeRegistry;

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
fn authorities_that_are_no_certificates_are_not_taken() {
    for no_authority in [
        "not a certificate",
        "",
        "-----BEGIN CERTIFICATE-----\nbm90IG9uZQ==\n-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
    ] {
        let options = RegistryOptions::new("https://registry.example:8081");
        let refused = options
            .trusting(no_authority.into())
            .expect_err("no certificate");
        assert!(!refused.is_empty(), "{no_authority:?}");
    }
}
