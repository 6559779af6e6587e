//! Hashed columns: what stood there is found nowhere behind the decoder.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::StringArray;
use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use parquet::arrow::ArrowWriter;
use sanderling_ingest::{
    Decoder, FileOptions, FileSource, HashKey, IngestError, Input, SealKey, StreamSpec,
};
use sanderling_schemas::{DeadLetter, EventBatch, EventId, Offset, Partition, Relation};

use crate::{drain, payments};

const CARD: &str = "4000123412341234";

fn hash_key() -> HashKey {
    HashKey::new(&[1; 32])
}

fn seal_key() -> SealKey {
    SealKey::new(&[2; 32])
}

/// Payments whose ids and cards are hashed.
fn hashed() -> (Arc<Relation>, Vec<StreamSpec>) {
    let (relation, mut specs) = payments();
    for spec in &mut specs {
        spec.seal = Some(seal_key());
        for column in &mut spec.columns {
            if ["id", "card"].contains(&column.name.as_str()) {
                column.hash = Some(hash_key());
            }
        }
    }
    (relation, specs)
}

fn texts(batch: &EventBatch, name: &str) -> Vec<Option<String>> {
    let column = batch.column(name).unwrap().as_string::<i32>();
    column.iter().map(|text| text.map(str::to_string)).collect()
}

/// Nothing of the card's number: not in rows, details, or raw bytes.
fn assert_hidden(batches: &[EventBatch], letters: &[DeadLetter]) {
    let shown = format!("{batches:?} {letters:?}");
    assert!(!shown.contains(CARD), "{shown}");
    for letter in letters {
        let text = String::from_utf8_lossy(&letter.raw);
        assert!(!text.contains("4000") && letter.sealed.is_some());
        assert!(
            !letter
                .to_json(DeadLetter::RAW_BYTES_MAX)
                .to_string()
                .contains(CARD)
        );
        let raw = seal_key().open(&letter.event, &letter.raw).unwrap();
        assert!(String::from_utf8_lossy(&raw).contains(CARD));
    }
}

fn write(folder: &Path, format: &str) -> std::path::PathBuf {
    let path = folder.join(format!("pay.{format}"));
    // Cards as text and as numbers; the second row is refused for its amount, which is a card.
    let rows = [
        (1, CARD, "1"),
        (2, CARD, CARD),
        (3, "4000999999999999", "2"),
    ];
    match format {
        "csv" => {
            let mut text = "id,at,card,amount,n\n".to_string();
            for (id, card, amount) in rows {
                text += &format!("{id},{id}000,{card},{amount},\n");
            }
            text += &format!("5,5000,{CARD}\n");
            fs::write(&path, text).unwrap();
        }
        "jsonl" => {
            let mut text = String::new();
            for (id, card, amount) in rows {
                text += &format!(
                    "{{\"id\":{id},\"at\":{id}000,\"card\":{card},\"amount\":\"{amount}\"}}\n"
                );
            }
            text += &format!("\"{CARD}\"\n");
            fs::write(&path, text).unwrap();
        }
        _ => {
            let columns: [(&str, ArrayRef); 4] = [
                ("id", Arc::new(Int64Array::from(vec![1, 2, 3]))),
                ("at", Arc::new(Int64Array::from(vec![1000, 2000, 3000]))),
                (
                    "card",
                    Arc::new(StringArray::from_iter_values(rows.map(|row| row.1))),
                ),
                (
                    "amount",
                    Arc::new(StringArray::from_iter_values(rows.map(|row| row.2))),
                ),
            ];
            let columns = columns.into_iter().chain([(
                "n",
                Arc::new(Int64Array::from(vec![None::<i64>; 3])) as ArrayRef,
            )]);
            let batch =
                RecordBatch::try_from_iter_with_nullable(columns.map(|(n, a)| (n, a, true)));
            let batch = batch.unwrap();
            let file = fs::File::create(&path).unwrap();
            let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
            writer.write(&batch).unwrap();
            writer.close().unwrap();
        }
    }
    path
}

#[test]
fn files_of_every_format_are_hashed_alike_and_show_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let key = hash_key();
    let cards = [Some(key.hash(CARD)), Some(key.hash("4000999999999999"))];
    for (format, refused) in [("csv", 2), ("jsonl", 2), ("parquet", 1)] {
        let (relation, specs) = hashed();
        let input = Input {
            stream: "payments".into(),
            path: write(folder.path(), format),
        };
        let mut source =
            FileSource::open(relation, &specs, &[input], FileOptions::default()).unwrap();
        let (batches, letters) = drain(&mut source, 10);
        assert_eq!(letters.len(), refused, "{format}: {letters:?}");
        let found: Vec<_> = batches
            .iter()
            .flat_map(|batch| texts(batch, "card"))
            .collect();
        assert_eq!(found, cards, "{format}");
        let ids: Vec<_> = batches
            .iter()
            .flat_map(|batch| texts(batch, "id"))
            .collect();
        assert_eq!(ids, [Some(key.hash("1")), Some(key.hash("3"))], "{format}");
        assert_hidden(&batches, &letters);
    }
}

#[test]
fn labels_meet_their_events_and_no_refusal_of_a_topic_tells() {
    let (relation, specs) = hashed();
    let event = EventId {
        topic: "t".into(),
        partition: Partition(0),
        offset: Offset(0),
    };
    let payments = Decoder::new(relation.clone(), specs[0].clone()).unwrap();
    let labels = Decoder::new(relation, specs[1].clone()).unwrap();
    let good = format!(r#"{{"id":"{CARD}","at":1000,"card":"{CARD}","amount":1}}"#);
    let label = format!(r#"{{"id":{CARD},"at":1000,"is_fraud":1}}"#);
    let id_of = |decoder: &Decoder, record: &str| {
        let decoded = decoder.decode(&[Some(record.as_bytes())], &[]).unwrap();
        let ids = decoded
            .rows
            .column_by_name("id")
            .unwrap()
            .as_string::<i32>();
        ids.value(0).to_string()
    };
    assert_eq!(id_of(&payments, &good), id_of(&labels, &label));
    assert_eq!(id_of(&payments, &good), hash_key().hash(CARD));

    for bad in [
        format!(r#"{{"id":"a","at":1000,"card":["{CARD}"]}}"#),
        format!(r#"{{"id":"a","at":"{CARD}9999","card":"{CARD}"}}"#),
        format!(r#"{{"id":"a","at":1000,"card":"{CARD}","n":"x{CARD}"}}"#),
        format!(r#"{{"id":"a","at":1000,"card":"{CARD}","amount":{CARD}}}"#),
        format!(r#"{{"id":"a","at":1000,"{CARD}":NaN}}"#),
        format!(r#"{{"id":"a","at":1000,"card":{CARD}x}}"#),
        CARD.into(),
        format!(r#""{CARD}""#),
    ] {
        let decoded = payments.decode(&[Some(bad.as_bytes())], &[]).unwrap();
        let refusal = decoded
            .refused
            .into_iter()
            .next()
            .unwrap_or_else(|| panic!("{bad}"));
        let letter = payments.dead_letter(
            event.clone(),
            refusal.reason,
            refusal.detail,
            bad.as_bytes(),
            Some(CARD.as_bytes()),
        );
        let key = letter.key.as_deref().expect("a key");
        assert_eq!(seal_key().open_key(&event, key).unwrap(), CARD.as_bytes());
        assert!(!letter.detail.contains("4000"), "{}", letter.detail);
        assert_hidden(&[], &[letter]);
    }
}

#[test]
fn a_hashed_column_needs_text_and_a_key_for_dead_letters() {
    let (relation, mut specs) = hashed();
    specs[0].seal = None;
    let refused = Decoder::new(relation.clone(), specs.remove(0));
    assert!(
        matches!(refused, Err(IngestError::Declaration { message, .. })
        if message.contains("dead letters"))
    );
    let (_, mut specs) = payments();
    specs[0].seal = Some(seal_key());
    specs[0].columns[3].hash = Some(hash_key());
    let refused = Decoder::new(relation, specs.remove(0));
    assert!(
        matches!(refused, Err(IngestError::Declaration { message, .. })
        if message.contains("string"))
    );
}
