//! What cannot run on one event at a time is refused with the place, the reason and a cure.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use sanderling_features::{FeatureEngine, FeatureError};
use sanderling_schemas::{LateRows, Relation};

use crate::stream::relation;

const CARD: &str = "(PARTITION BY card_id ORDER BY event_time \
                    RANGE BETWEEN INTERVAL '1 day' PRECEDING AND CURRENT ROW)";

fn error(sql: &str) -> FeatureError {
    match FeatureEngine::new(relation(true), sql) {
        Ok(_) => panic!("accepted: {sql}"),
        Err(error) => error,
    }
}

#[track_caller]
fn refused(sql: &str, word: &str) {
    let error = error(sql);
    assert!(matches!(error, FeatureError::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains(word), "{error} lacks `{word}`");
    assert!(error.cure().is_some_and(|cure| !cure.is_empty()));
    assert!(
        error.line().is_some() && error.column().is_some(),
        "no place: {error:?}"
    );
}

#[test]
fn clauses_that_change_the_rows() {
    refused("SELECT amount FROM events WHERE amount > 1", "WHERE");
    refused("SELECT sum(amount) AS s FROM events", "GROUP BY");
    refused("SELECT amount FROM events ORDER BY amount", "ORDER BY");
    refused("SELECT amount FROM events LIMIT 3", "LIMIT");
    refused("SELECT DISTINCT amount FROM events", "DISTINCT");
    refused(
        "SELECT a.amount FROM events a JOIN events b ON a.tx_id = b.tx_id",
        "JOIN",
    );
    refused("SELECT 1 AS one", "FROM");
    refused("DROP TABLE events", "SELECT");
}

#[test]
fn columns_named_as_the_engine_names_its_own() {
    for name in ["window 0", "lookup 3 fee"] {
        let mut relation = (*relation(false)).clone();
        let mut fields = relation.schema.fields().to_vec();
        fields.push(Arc::new(Field::new(name, DataType::Int64, true)));
        relation.schema = Arc::new(Schema::new(fields));
        let sql = format!("SELECT max(\"{name}\") OVER {CARD} AS most FROM events");
        let error = FeatureEngine::new(Arc::new(relation), &sql).err().unwrap();
        assert!(error.to_string().contains(name), "{error}");
        assert!(error.cure().unwrap().contains("from:"), "{error:?}");
    }
}

#[test]
fn frames_that_cannot_be_kept() {
    let over = |frame: &str| {
        format!(
            "SELECT sum(amount) OVER (PARTITION BY card_id ORDER BY event_time {frame}) AS s FROM events"
        )
    };
    refused(&over("").replace("amount", "speed"), "UNBOUNDED");
    refused(
        &over("RANGE BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW").replace("sum", "median"),
        "UNBOUNDED",
    );
    refused(
        &over("GROUPS BETWEEN 5 PRECEDING AND CURRENT ROW"),
        "GROUPS",
    );
    refused(
        &over("ROWS BETWEEN 5 PRECEDING AND CURRENT ROW"),
        "counts rows",
    );
    refused(
        &over("ROWS BETWEEN 5 PRECEDING AND 1 FOLLOWING"),
        "after the row",
    );
    refused(
        &over("RANGE BETWEEN INTERVAL '1 day' PRECEDING AND INTERVAL '1 day' FOLLOWING"),
        "after the row",
    );
    refused(
        &over("RANGE BETWEEN INTERVAL '1 month' PRECEDING AND CURRENT ROW"),
        "month",
    );
    refused(
        "SELECT sum(amount) OVER (PARTITION BY card_id ORDER BY tx_id \
         RANGE BETWEEN 5 PRECEDING AND CURRENT ROW) AS s FROM events",
        "event time",
    );
}

#[test]
fn functions_without_a_kernel_or_a_meaning() {
    let over = |call: &str| format!("SELECT {call} OVER {CARD} AS f FROM events");
    refused(&over("lead(amount)"), "after the row");
    refused(&over("rank()"), "later ones");
    refused(&over("ntile(4)"), "later ones");
    refused(&over("array_agg(amount)"), "list");
    refused(&over("nth_value(amount, 0)"), "other than 0");
    refused(&over("lag(amount, -1)"), "look back");
    refused(&over("lag(amount) IGNORE NULLS"), "NULL");
    refused(&over("sum(amount) IGNORE NULLS"), "NULLs");
    refused(&over("sum(amount * random())"), "chance");
    for call in [
        "first_value(amount)",
        "lag(amount)",
        "row_number()",
        "nth_value(amount, 2)",
    ] {
        refused(&over(call), "counts rows");
        let sql = over(call).replace("card_id", "card_id, stream");
        assert!(FeatureEngine::new(relation(true), &sql).is_ok(), "{sql}");
    }
    refused("SELECT now() AS t FROM events", "clock");
    refused("SELECT random() AS r FROM events", "chance");
    refused(
        &format!("SELECT count(*) OVER {CARD} AS n FROM events"),
        "counts rows",
    );
    refused(
        &format!("SELECT count(card_id) OVER {CARD} AS n FROM events"),
        "counts rows",
    );
    let filtered =
        format!("SELECT count(*) FILTER (WHERE stream = 'payments') OVER {CARD} AS n FROM events");
    assert!(FeatureEngine::new(relation(true), &filtered).is_ok());
    let rows = format!("SELECT count(*) OVER {CARD} AS n FROM events");
    assert!(FeatureEngine::new(relation(false), &rows).is_ok());
}

#[test]
fn results_of_windows_are_those_of_label_rows_too() {
    let layered = |call: &str| {
        format!(
            "SELECT {call} OVER {CARD} AS f FROM \
             (SELECT *, avg(amount) OVER {CARD} AS mean, sum(is_fraud) OVER {CARD} AS frauds FROM events)"
        )
    };
    refused(&layered("avg(mean)"), "counts rows");
    refused(&layered("max(mean)"), "counts rows");
    for call in [
        "avg(amount / nullif(mean, 0))",
        "avg(mean) FILTER (WHERE stream = 'payments')",
    ] {
        assert!(FeatureEngine::new(relation(true), &layered(call)).is_ok());
    }
    // Whose history it is, and whether a label told it, is known through all levels.
    let sql = layered("avg(amount - frauds)").replace(", event_time", "");
    let sql = sql.replacen("PARTITION BY card_id", "PARTITION BY tx_id", 1);
    let engine = FeatureEngine::new(relation(true), &sql).unwrap();
    let field = &engine.schema().fields[0];
    assert_eq!((field.entity, field.from_label), (Some(0), true));
}

#[test]
fn a_key_that_windows_make_cannot_judge_what_comes_too_late() {
    let sql = format!(
        "SELECT count(amount) OVER (PARTITION BY n > 2 ORDER BY event_time) AS f \
         FROM (SELECT *, count(amount) OVER {CARD} AS n FROM events)"
    );
    assert!(FeatureEngine::new(relation(true), &sql).is_ok());
    let strict = Relation {
        late_rows: LateRows::Refuse,
        ..(*relation(true)).clone()
    };
    let Err(error) = FeatureEngine::new(Arc::new(strict), &sql) else {
        panic!("accepted: {sql}")
    };
    assert!(
        error.to_string().contains("too late for its key"),
        "{error}"
    );
    assert_eq!((error.line(), error.column()), (Some(1), Some(8)));
}

#[test]
fn errors_tell_the_place() {
    let parse = error("SELECT amount,\n FROM FROM events");
    assert_eq!(parse.line(), Some(2), "{parse:?}");
    let unknown = error("SELECT amount,\n  amont FROM events");
    assert_eq!(
        (unknown.line(), unknown.column()),
        (Some(2), Some(3)),
        "{unknown:?}"
    );
    let window = error(&format!(
        "SELECT amount,\n  lead(amount) OVER {CARD} AS m\nFROM events"
    ));
    assert_eq!(
        (window.line(), window.column()),
        (Some(2), Some(3)),
        "{window:?}"
    );
    let places = [
        ("SELECT amount FROM events\nWHERE amount > 1", (2, 7)),
        ("SELECT amount FROM events\nORDER BY amount", (2, 10)),
        ("SELECT amount FROM events\nLIMIT 3", (2, 7)),
        (
            "SELECT a.amount FROM events a\n  JOIN events b ON a.tx_id = b.tx_id",
            (2, 8),
        ),
        (
            "SELECT amount\nFROM (SELECT * FROM events\n  WHERE amount > 1) AS some",
            (3, 9),
        ),
        (
            "WITH c AS (\n  SELECT DISTINCT card_id FROM events)\nSELECT card_id FROM c",
            (2, 3),
        ),
        (
            "WITH c AS (\n  SELECT *, now() AS at FROM events)\nSELECT at FROM c",
            (3, 8),
        ),
        (
            "WITH c AS (SELECT *,\n  1 + lead(amount) OVER w AS next FROM events\n  \
          WINDOW w AS (PARTITION BY card_id ORDER BY event_time))\nSELECT next FROM c",
            (2, 7),
        ),
    ];
    for (sql, place) in places {
        let error = error(sql);
        let found = (error.line().unwrap_or(0), error.column().unwrap_or(0));
        assert_eq!(found, place, "{sql}: {error:?}");
    }
}

#[test]
fn subqueries_that_keep_the_rows_are_folded_in() {
    let sql = format!(
        "WITH w AS (SELECT *, avg(amount) OVER {CARD} AS mean, sum(is_fraud) OVER {CARD} AS frauds FROM events)
         SELECT amount, amount / nullif(mean, 0) AS ratio, frauds FROM w"
    );
    let engine = FeatureEngine::new(relation(true), &sql).unwrap();
    let fields = &engine.schema().fields;
    assert_eq!(
        fields.iter().map(|f| f.name.as_str()).collect::<Vec<_>>(),
        ["amount", "ratio", "frauds"]
    );
    assert_eq!(
        fields.iter().map(|f| f.entity).collect::<Vec<_>>(),
        [None, Some(0), Some(0)]
    );
    assert_eq!(
        fields.iter().map(|f| f.from_label).collect::<Vec<_>>(),
        [false, false, true]
    );
}
