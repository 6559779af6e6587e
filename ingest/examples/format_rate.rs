//! Records a second from bytes to rows, on one thread, for each format:
//! `cargo run --profile measure -p sanderling-ingest --example format_rate`
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use apache_avro::Schema;
use apache_avro::types::Value as Avro;
use apache_avro::writer::datum::GenericDatumWriter;
use arrow::datatypes::DataType;
use prost_reflect::{DynamicMessage, Value as Proto};
use protox::prost::Message;
use sanderling_ingest::{
    ColumnSpec, Decoder, EpochUnit, EventTimeSpec, Format, Framing, HashKey, ProtobufSchema,
    RegistryOptions, SealKey, StreamSpec, framing_of,
};
use sanderling_schemas::{Relation, Stream};

const RECORDS: usize = 4096;
const MEASURED: Duration = Duration::from_secs(3);

const AVRO: &str = r#"{"type": "record", "name": "Payment", "fields": [
    {"name": "transaction_id", "type": "string"},
    {"name": "tx_time", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    {"name": "card_id", "type": "string"}, {"name": "terminal_id", "type": "string"},
    {"name": "device_id", "type": ["null", "string"]}, {"name": "amount", "type": "double"},
    {"name": "currency", "type": "string"}, {"name": "channel", "type": "int"}]}"#;

const PROTO: &str = "syntax = \"proto3\"; message Payment { string transaction_id = 1; \
    int64 tx_time = 2; string card_id = 3; string terminal_id = 4; optional string device_id = 5; \
    double amount = 6; string currency = 7; int32 channel = 8; }";

/// Texts and numbers of one payment.
fn payment(at: usize) -> ([String; 5], i64, f64) {
    let texts = [
        format!("t{at:012}"),
        format!("c{:07}", at * 7919 % 100_000),
        format!("m{:05}", at * 104_729 % 10_000),
        format!("d{:06}", at * 31 % 50_000),
        "EUR".to_string(),
    ];
    (
        texts,
        1_735_689_600_000 + at as i64,
        (at * 37 % 90_000) as f64 / 100.0,
    )
}

fn spec(format: Format, hash: Option<HashKey>) -> (Arc<Relation>, StreamSpec) {
    let columns = [
        ("transaction_id", DataType::Utf8),
        ("card_id", DataType::Utf8),
        ("terminal_id", DataType::Utf8),
        ("device_id", DataType::Utf8),
        ("amount", DataType::Decimal128(12, 2)),
    ]
    .map(|(name, data_type)| (name.to_string(), data_type));
    let relation = Relation {
        schema: Relation::schema_of(&columns),
        streams: vec![Stream {
            name: "payments".into(),
            scored: true,
            key: None,
        }],
        id: Some("transaction_id".into()),
        entities: Vec::new(),
        labels: None,
        lateness_us: 0,
        late_rows: sanderling_schemas::LateRows::Decide,
        rows_per_key_max: None,
    };
    let spec = StreamSpec {
        name: "payments".into(),
        topic: None,
        format,
        id: Some("transaction_id".into()),
        key: Some("card_id".into()),
        event_time: EventTimeSpec {
            column: "tx_time".into(),
            unit: Some(EpochUnit::Milliseconds),
        },
        seal: hash.as_ref().map(|_| SealKey::new(&[2; 32])),
        columns: columns
            .into_iter()
            .map(|(name, data_type)| ColumnSpec {
                from: name.clone(),
                hash: hash.clone().filter(|_| name == "card_id"),
                name,
                data_type,
            })
            .collect(),
    };
    (Arc::new(relation), spec)
}

/// Answers one question with the schema: its address.
fn registry() -> Result<String, Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}", listener.local_addr()?);
    let body = serde_json::json!({"schema": AVRO}).to_string();
    std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        while lines
            .next()
            .transpose()?
            .is_some_and(|line| !line.is_empty())
        {}
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    });
    Ok(url)
}

fn measure(name: &str, decoder: &Decoder, records: &[Vec<u8>]) -> Result<(), Box<dyn Error>> {
    let bytes: usize = records.iter().map(Vec::len).sum();
    let records: Vec<_> = records
        .iter()
        .map(|record| Some(record.as_slice()))
        .collect();
    let times = vec![Some(1_735_689_600_000_000); records.len()];
    let decoded = decoder.decode(&records, &times)?;
    assert_eq!(
        decoded.records.len(),
        records.len(),
        "{:?}",
        decoded.refused.first()
    );
    let (began, mut rounds) = (Instant::now(), 0);
    while began.elapsed() < MEASURED {
        black_box(decoder.decode(&records, &times)?);
        rounds += 1;
    }
    let rate = (rounds * records.len()) as f64 / began.elapsed().as_secs_f64();
    println!(
        "{name:<20} {rate:>12.0} records/s   {:>4} bytes each",
        bytes / records.len()
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let payments: Vec<_> = (0..RECORDS).map(payment).collect();
    let json = payments
        .iter()
        .map(|([id, card, terminal, device, currency], at, amount)| {
            let record = serde_json::json!({
                "transaction_id": id, "tx_time": at, "card_id": card, "terminal_id": terminal,
                "device_id": device, "amount": amount, "currency": currency, "channel": 3,
            });
            record.to_string().into_bytes()
        });
    let json: Vec<_> = json.collect();
    let schema = Schema::parse_str(AVRO)?;
    let mut avro = Vec::new();
    for ([id, card, terminal, device, currency], at, amount) in &payments {
        let text = |text: &String| Avro::String(text.clone());
        let record = vec![
            ("transaction_id".to_string(), text(id)),
            ("tx_time".into(), Avro::TimestampMillis(*at)),
            ("card_id".into(), text(card)),
            ("terminal_id".into(), text(terminal)),
            ("device_id".into(), Avro::Union(1, Box::new(text(device)))),
            ("amount".into(), Avro::Double(*amount)),
            ("currency".into(), text(currency)),
            ("channel".into(), Avro::Int(3)),
        ];
        let writer = GenericDatumWriter::builder(&schema).build()?;
        let datum = writer.write_value_to_vec(Avro::Record(record))?;
        avro.push([&framing_of(1)[..], &datum].concat());
    }
    let folder = std::env::temp_dir().join(format!("format_rate-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let path = folder.join("payment.proto");
    std::fs::write(&path, PROTO)?;
    let schema = ProtobufSchema::read(&path, "Payment")?;
    let pool = protox::compile([&path], [&folder])?;
    let pool = prost_reflect::DescriptorPool::from_file_descriptor_set(pool)?;
    std::fs::remove_dir_all(&folder)?;
    let descriptor = pool.get_message_by_name("Payment").ok_or("no Payment")?;
    let protobuf = payments
        .iter()
        .map(|([id, card, terminal, device, currency], at, amount)| {
            let mut message = DynamicMessage::new(descriptor.clone());
            for (name, value) in [
                ("transaction_id", id),
                ("card_id", card),
                ("terminal_id", terminal),
                ("device_id", device),
                ("currency", currency),
            ] {
                message.set_field_by_name(name, Proto::String(value.clone()));
            }
            message.set_field_by_name("tx_time", Proto::I64(*at));
            message.set_field_by_name("amount", Proto::F64(*amount));
            message.set_field_by_name("channel", Proto::I32(3));
            message.encode_to_vec()
        });
    let protobuf: Vec<_> = protobuf.collect();
    for hash in [None, Some(HashKey::new(&[1; 32]))] {
        let name = |format: &str| match hash {
            None => format.to_string(),
            Some(_) => format!("{format}, hashed"),
        };
        for (format, decoded_by, records) in [
            ("json", Format::Json, &json),
            (
                "avro",
                Format::Avro(RegistryOptions::new(&registry()?)),
                &avro,
            ),
            (
                "protobuf",
                Format::Protobuf(schema.clone(), Framing::None),
                &protobuf,
            ),
        ] {
            let (relation, spec) = spec(decoded_by, hash.clone());
            measure(&name(format), &Decoder::new(relation, spec)?, records)?;
        }
    }
    Ok(())
}
