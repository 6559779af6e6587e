//! What cannot run on one event at a time is refused with the place, the reason and a cure.

use sanderling_features::{FeatureEngine, FeatureError};

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
    refused(
        &format!(
            "SELECT sum(sum(amount) OVER w) OVER w AS m FROM \
        (SELECT * FROM events) WINDOW w AS {CARD}"
        )
        .replace("sum(sum(amount) OVER w)", "sum(amount)")
        .replace(
            "(SELECT * FROM events)",
            &format!("(SELECT card_id, event_time, sum(amount) OVER {CARD} AS amount FROM events)"),
        ),
        "window",
    );
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
