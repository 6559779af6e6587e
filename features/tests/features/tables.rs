//! Reference tables: joins that give one row for each event and those that are refused, labels, and versions
//! that change between two batches.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Decimal128Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{Decimal128Type, Int64Type};
use sanderling_features::{Catalog, FeatureEngine, FeatureError, Table};

use crate::stream::{HOUR_US, Row, batch, relation};

/// Terminals of kinds, and fees in hundredths.
fn terminals(rows: &[(&str, &str, i128)]) -> RecordBatch {
    let fees = Decimal128Array::from_iter_values(rows.iter().map(|row| row.2));
    RecordBatch::try_from_iter([
        (
            "id",
            Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.0))) as ArrayRef,
        ),
        (
            "kind",
            Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.1))),
        ),
        (
            "fee",
            Arc::new(fees.with_precision_and_scale(6, 2).unwrap()),
        ),
    ])
    .unwrap()
}

fn table(rows: &[(&str, &str, i128)], version: &str) -> Arc<Table> {
    Arc::new(Table::new("terminals", "id", terminals(rows), version.into()).unwrap())
}

fn catalog(rows: &[(&str, &str, i128)]) -> Catalog {
    Catalog {
        tables: vec![table(rows, "1")],
        ..Catalog::default()
    }
}

const TERMINALS: [(&str, &str, i128); 2] =
    [("terminal 0", "shop", 150), ("terminal 1", "atm", 225)];

fn payment(n: i64, terminal: u8) -> Row {
    Row {
        time_us: n * HOUR_US / 4,
        label: false,
        id: n,
        card: Some(0),
        terminal: Some(terminal),
        amount: Some(100),
        speed: None,
        units: Some(n),
        is_fraud: None,
    }
}

#[track_caller]
fn refused(sql: &str, words: &str, cure: &str) {
    match FeatureEngine::with_catalog(relation(false), sql, &catalog(&TERMINALS)) {
        Err(error @ FeatureError::Refused { .. }) => {
            assert!(error.to_string().contains(words), "{error} lacks `{words}`");
            let told = error.cure().unwrap();
            assert!(told.contains(cure), "{told} lacks `{cure}`");
            assert!(error.line().is_some(), "no place: {error:?}");
        }
        Err(other) => panic!("{sql}: {other}"),
        Ok(_) => panic!("accepted: {sql}"),
    }
}

#[test]
fn joins_that_could_change_the_rows() {
    let join = |join: &str| format!("SELECT fee FROM events\n{join}");
    let left = "LEFT JOIN terminals ON terminals.id = events.column";
    let key = "terminals.id = events.terminal_id";
    refused(
        &join(&format!("JOIN terminals ON {key}")),
        "would be lost",
        left,
    );
    refused(
        &join(&format!("FULL JOIN terminals ON {key}")),
        "would be lost",
        left,
    );
    refused(&join("CROSS JOIN terminals"), "would be lost", left);
    refused(
        &join("LEFT JOIN terminals ON terminals.kind = events.terminal_id"),
        "several rows of `terminals`",
        left,
    );
    refused(
        &join("LEFT JOIN terminals ON terminals.id > events.terminal_id"),
        "several rows of `terminals`",
        left,
    );
    refused(
        &join(&format!("LEFT JOIN terminals ON {key} AND fee > 1")),
        "on its key alone",
        "CASE WHEN",
    );
    refused(
        &join("LEFT JOIN terminals ON terminals.id = concat(events.terminal_id, random())"),
        "chance",
        "event_time",
    );
    refused(
        "SELECT e.amount FROM events e\nLEFT JOIN events h ON h.card_id = e.card_id",
        "several rows",
        "tables:",
    );
    refused(
        "SELECT kind FROM terminals",
        "one row for each event",
        "FROM events LEFT JOIN",
    );
    refused(
        "SELECT (SELECT max(fee) FROM terminals) AS most FROM events",
        "whole stream",
        "LEFT JOIN a reference table",
    );
    let place = FeatureEngine::with_catalog(
        relation(false),
        &join(&format!("JOIN terminals ON {key}")),
        &catalog(&TERMINALS),
    );
    assert_eq!(
        place.err().and_then(|e| Some((e.line()?, e.column()?))),
        Some((2, 6))
    );
}

#[test]
fn a_table_with_a_key_twice_or_without_one_is_no_table() {
    let error = |key: &str, rows: &[(&str, &str, i128)]| {
        Table::new("terminals", key, terminals(rows), "1".into()).unwrap_err()
    };
    let twice = error("id", &[("a", "x", 1), ("b", "x", 2), ("a", "y", 3)]);
    assert!(
        twice
            .to_string()
            .contains("`id` a stands there twice, the second time in row 3"),
        "{twice}"
    );
    assert!(twice.cure().is_some());
    assert!(
        error("name", &TERMINALS)
            .to_string()
            .contains("it has id, kind, fee")
    );
    let null = RecordBatch::try_from_iter([(
        "id",
        Arc::new(StringArray::from(vec![Some("a"), None])) as ArrayRef,
    )]);
    let null = Table::new("terminals", "id", null.unwrap(), "1".into()).unwrap_err();
    assert!(null.to_string().contains("row 2 has no `id`"), "{null}");
}

#[test]
fn a_label_is_of_what_its_event_is_of() {
    let sql = "SELECT sum(is_fraud) OVER (PARTITION BY t.kind ORDER BY event_time \
               RANGE INTERVAL '1 day' PRECEDING) AS frauds \
               FROM events LEFT JOIN terminals t ON t.id = events.terminal_id";
    let mut engine =
        FeatureEngine::with_catalog(relation(true), sql, &catalog(&TERMINALS)).unwrap();
    assert!(engine.schema().fields[0].from_label);
    let label = Row {
        label: true,
        terminal: None,
        card: None,
        amount: None,
        units: None,
        is_fraud: Some(1),
        id: 0,
        ..payment(1, 0)
    };
    let rows = [payment(0, 0), label, payment(2, 1), payment(3, 0)];
    let features = engine
        .compute(&batch(&relation(true), &rows))
        .unwrap()
        .features;
    let frauds: Vec<Option<i64>> = features
        .column(0)
        .as_primitive::<Int64Type>()
        .iter()
        .collect();
    assert_eq!(frauds, [None, None, Some(1)]);
}

#[test]
fn another_version_is_found_from_the_next_batch_on() {
    let sql = "SELECT fee, sum(fee) OVER (PARTITION BY card_id ORDER BY event_time \
               RANGE INTERVAL '1 day' PRECEDING) AS fees \
               FROM events LEFT JOIN terminals t ON t.id = events.terminal_id";
    let mut engine =
        FeatureEngine::with_catalog(relation(false), sql, &catalog(&TERMINALS)).unwrap();
    let mut of = |rows: &[Row], renew: Option<&[(&str, &str, i128)]>| -> Vec<[Option<i128>; 2]> {
        if let Some(rows) = renew {
            engine.set_tables(&[table(rows, "2")]).unwrap();
        }
        let features = engine
            .compute(&batch(&relation(false), rows))
            .unwrap()
            .features;
        let [fee, fees] =
            [0, 1].map(|n| features.column(n).as_primitive::<Decimal128Type>().clone());
        fee.iter()
            .zip(&fees)
            .map(|(fee, fees)| [fee, fees])
            .collect()
    };
    assert_eq!(
        of(&[payment(0, 0), payment(1, 1), payment(2, 2)], None),
        [
            [Some(150), Some(150)],
            [Some(225), Some(375)],
            [None, Some(375)]
        ]
    );
    let other: [(&str, &str, i128); 2] = [("terminal 2", "shop", 1000), ("terminal 0", "shop", 1)];
    assert_eq!(
        of(&[payment(3, 0), payment(4, 1), payment(5, 2)], Some(&other)),
        [
            [Some(1), Some(376)],
            [None, Some(376)],
            [Some(1000), Some(1376)]
        ]
    );
    let narrow =
        RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]);
    let narrow = Table::new("terminals", "id", narrow.unwrap(), "3".into()).unwrap();
    let error = engine.set_tables(&[Arc::new(narrow)]).unwrap_err();
    assert!(error.to_string().contains("other columns"), "{error}");
}

#[test]
fn a_version_is_joined_until_another_takes_its_place() {
    let sql = "SELECT fee FROM events LEFT JOIN terminals t ON t.id = events.terminal_id";
    let [first, second] = ["1", "2"].map(|version| table(&TERMINALS, version));
    let catalog = Catalog {
        tables: vec![first.clone()],
        ..Catalog::default()
    };
    let engine = || FeatureEngine::with_catalog(relation(false), sql, &catalog).unwrap();
    let mut engines = [engine(), engine()];
    let tables = [second.clone()];
    engines[0].joins().index(&tables).unwrap();
    assert!(first.is_joined() && !second.is_joined());
    engines[0].set_tables(&tables).unwrap();
    assert!(first.is_joined() && second.is_joined());
    engines[1].set_tables(&tables).unwrap();
    assert!(!first.is_joined() && second.is_joined());

    let twice = RecordBatch::try_from_iter([(
        "id",
        Arc::new(StringArray::from(vec!["1", "01"])) as ArrayRef,
    )]);
    let twice = Table::new("terminals", "id", twice.unwrap(), "1".into()).unwrap();
    let catalog = Catalog {
        tables: vec![Arc::new(twice)],
        ..Catalog::default()
    };
    let sql =
        "SELECT t.id FROM events LEFT JOIN terminals t ON CAST(t.id AS BIGINT) = events.units";
    let error = FeatureEngine::with_catalog(relation(false), sql, &catalog).err();
    let error = error.unwrap().to_string();
    assert!(error.contains("two values of `id` are the same"), "{error}");
}
