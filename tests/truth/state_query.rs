//! `sanderling state query`: SQL over a stored state says what the features say, and what cannot be
//! answered is refused with what can.

use std::path::Path;

use arrow::array::AsArray;
use serde_json::{Value, json};

use crate::outcome::Outcome;
use crate::sanderling::{Finished, answer, command, finish, scratch};
use crate::scenario::Scenario;

const PIPELINE: &str = "pipelines/card-fraud";

/// Replays the scenario's input and keeps the state of its end.
fn replayed(out: &Path) {
    let input = Scenario::open("cards").simulated();
    let (input, out) = (input.to_str(), out.to_str());
    let (input, out) = (input.expect("a plain path"), out.expect("a plain path"));
    answer(&[
        "replay",
        PIPELINE,
        "--input",
        input,
        "--out",
        out,
        "--keep-state",
    ]);
}

fn asked(state: &Path, sql: &str, more: &[&str]) -> Finished {
    let state = state.to_str().expect("a plain path");
    let mut args = vec![
        "state",
        "query",
        PIPELINE,
        sql,
        "--checkpoint",
        state,
        "--json",
    ];
    args.extend(more);
    finish(command(&args))
}

/// The rows of an answer.
fn rows(state: &Path, sql: &str) -> Vec<Value> {
    let done = asked(state, sql, &[]);
    assert_eq!(done.status, 0, "{sql}: {}", done.stderr);
    let answer: Value = serde_json::from_str(&done.stdout).expect("an answer of JSON");
    assert_eq!(answer["source"], "checkpoint");
    answer["rows"].as_array().expect("rows").clone()
}

/// What the refusal says, and its cure.
fn refusal(state: &Path, sql: &str) -> (String, String) {
    let done = asked(state, sql, &[]);
    assert_eq!(done.status, 1, "{sql}: {}", done.stdout);
    let failure: Value = serde_json::from_str(done.stderr.trim()).expect("a failure of JSON");
    let text = |key: &str| failure[key].as_str().expect("a text").to_string();
    (text("message"), text("cure"))
}

#[test]
fn a_stored_state_says_what_the_features_say() {
    let out = scratch();
    replayed(out.path());
    let state = out.path().join("state/card-fraud");
    let outcome = Outcome::read(out.path());
    let last = outcome.decisions.num_rows() - 1;
    let (counts, sums) = (
        outcome.doubles("f_card_count_30d"),
        outcome.doubles("f_card_sum_1d"),
    );
    let card = outcome.column("key");
    let card = card.as_string::<i32>().value(last).to_string();

    // The last decision's features, from the rows themselves.
    let sql = format!(
        "SELECT count(amount) AS n, sum(amount) FILTER (WHERE event_time >= newest - INTERVAL '1 day') AS s \
         FROM (SELECT *, max(event_time) OVER () AS newest FROM card_rows WHERE card_id = '{card}') \
         WHERE event_time >= newest - INTERVAL '30 days'"
    );
    let found = rows(&state, &sql);
    assert_eq!(
        found[0]["n"].as_f64(),
        Some(counts[last]),
        "{card}: {found:?}"
    );
    let sum = found[0]["s"].as_f64().expect("a sum");
    assert!((sum - sums[last]).abs() < 1e-9, "{found:?}, {}", sums[last]);

    // Keys, rows and the model's memory are of the same cards.
    let whole = rows(
        &state,
        "SELECT (SELECT sum(rows) FROM card_keys) AS told, (SELECT count(*) FROM card_rows) AS there, \
         (SELECT count(*) FROM card_keys) AS cards, \
         (SELECT count(*) FROM card_memory WHERE steps > 0 AND bytes > 0) AS remembered, \
         (SELECT rows_accepted FROM state) AS accepted",
    );
    assert_eq!(whole[0]["told"], whole[0]["there"], "{whole:?}");
    assert_eq!(whole[0]["cards"], whole[0]["remembered"], "{whole:?}");
    assert_eq!(
        whole[0]["accepted"],
        json!(outcome.count("in")),
        "{whole:?}"
    );
    // A key of two parts is two columns.
    let pair = rows(
        &state,
        &format!("SELECT DISTINCT card_id FROM device_id_card_id_keys WHERE card_id = '{card}'"),
    );
    assert_eq!(pair, [json!({"card_id": card})]);

    let done = asked(&state, "SELECT card_id FROM card_keys", &["--limit", "3"]);
    let answer: Value = serde_json::from_str(&done.stdout).expect("JSON");
    assert_eq!(answer["rows"].as_array().map(Vec::len), Some(3));
    assert_eq!(answer["truncated"], true);

    let (message, cure) = refusal(&state, "SELECT * FROM cards");
    assert!(message.contains("cards"), "{message}");
    assert!(
        cure.contains("card_rows") && cure.contains("terminal_memory"),
        "{cure}"
    );
    let (message, _) = refusal(&state, "SELECT nothing FROM card_rows");
    assert!(message.contains("nothing"), "{message}");
    for sql in [
        "COPY card_rows TO 'x.csv'",
        "DROP TABLE card_rows",
        "CREATE TABLE t AS SELECT 1",
    ] {
        refusal(&state, sql);
    }
}

#[test]
fn a_state_that_is_not_there_or_of_others_is_refused() {
    let out = scratch();
    let nowhere = out.path().join("nowhere");
    let (message, cure) = refusal(&nowhere, "SELECT 1");
    assert!(message.contains("no checkpoint"), "{message}");
    assert!(cure.contains("--checkpoint"), "{cure}");
    // Where nobody is asked to answer and no state was ever kept.
    let url = format!("state.url=file://{}", nowhere.display());
    let mut args = vec![
        "state", "query", PIPELINE, "SELECT 1", "--json", "--set", &url,
    ];
    args.extend(["--set", "health.listen=127.0.0.1:1"]);
    assert_eq!(finish(command(&args)).status, 1);
    args.push("--live");
    let done = finish(command(&args));
    assert_eq!(done.status, 1);
    assert!(
        done.stderr.contains("127.0.0.1:1") && done.stderr.contains("--at"),
        "{done:?}"
    );

    replayed(out.path());
    let state = out.path().join("state/card-fraud");
    let state = state.to_str().expect("a plain path");
    let other = [
        "state",
        "query",
        "pipelines/fraud-handbook",
        "SELECT 1",
        "--checkpoint",
        state,
    ];
    let done = finish(command(&other));
    assert_eq!(done.status, 1, "{}", done.stdout);
    assert!(done.stderr.contains("made by"), "{}", done.stderr);
}
