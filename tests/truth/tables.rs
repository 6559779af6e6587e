//! Reference tables: what a feature is for a card that was never seen, the versions in the order records, and
//! a replay that takes each version where the recorded run took it.

use std::path::{Path, PathBuf};

use arrow::array::{Array, AsArray};
use arrow::util::display::array_value_to_string;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::outcome::read_parquet;
use crate::sanderling::{answer, command, finish, root, scratch};
use crate::scenario::Scenario;

const PIPELINE: &str = r#"version: 1
streams:
  payments:
    id: id
    key: card
    event_time: {column: at, unit: ms}
    columns: {id: {}, card: {}, merchant: {}, amount: {type: "decimal(12,2)"}}
score: [payments]
entities: {card: {key: card, state: partition}}
tables:
  merchants: {path: merchants.csv, key: merchant, columns: {prior: {type: double}}}
"#;

const FEATURES: &str = "SELECT amount, m.segment,
  coalesce(CAST(avg(amount) OVER before AS DOUBLE), m.prior) AS usual,
  count(amount) OVER card_1d AS card_count_1d,
  stddev(amount) OVER card_1d AS card_spread_1d,
  coalesce(max(amount) OVER before, 0) AS most
FROM events LEFT JOIN merchants m ON m.merchant = events.merchant
WINDOW
  card_1d AS (PARTITION BY card ORDER BY event_time RANGE INTERVAL '1 day' PRECEDING),
  before  AS (PARTITION BY card ORDER BY event_time
              RANGE BETWEEN INTERVAL '30 days' PRECEDING AND INTERVAL '1 second' PRECEDING)
";

/// A pipeline whose payments are joined to a table of merchants.
fn pipeline(merchants: &str) -> TempDir {
    let folder = scratch();
    let files = [
        ("pipeline.yaml", PIPELINE),
        ("features.sql", FEATURES),
        ("merchants.csv", merchants),
    ];
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).expect("a file");
    }
    folder
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

#[test]
fn what_validate_says_of_an_unseen_card_is_what_its_first_payment_gets() {
    let folder = pipeline("merchant,segment,prior\n0042,food,20.5\n7,travel,310\n");
    let valid = answer(&["validate", text(folder.path())]);
    let said: Vec<(String, Value)> = (valid["features"].as_array().expect("features").iter())
        .map(|f| {
            (
                f["name"].as_str().expect("a name").to_string(),
                f["unseen"].clone(),
            )
        })
        .collect();
    let expected = [
        ("amount", json!("1.00")),
        ("segment", json!("food")),
        ("usual", json!("20.5")),
        ("card_count_1d", json!("1")),
        ("card_spread_1d", Value::Null),
        ("most", json!("0.00")),
    ];
    assert_eq!(
        said,
        expected
            .clone()
            .map(|(name, value)| (name.to_string(), value))
    );

    // The same payment, as the first of its card in a file; then one of another merchant, and one of none.
    let input = folder.path().join("payments.csv");
    let rows = "id,at,card,merchant,amount\n1,1735732800000,1,0042,1.00\n\
                2,1735732801000,2,7,5.00\n3,1735732802000,3,8,5.00\n4,1735732803000,1,7,2.00\n";
    std::fs::write(&input, rows).expect("a file");
    let out = scratch();
    answer(&[
        "features",
        text(folder.path()),
        "--input",
        text(&input),
        "--out",
        text(out.path()),
    ]);
    let written = read_parquet(&out.path().join("features.parquet"));
    for (name, unseen) in &expected {
        let column = written.column_by_name(name).expect("a feature");
        let value = match column.is_null(0) {
            true => Value::Null,
            false => json!(array_value_to_string(column, 0).expect("a value")),
        };
        assert_eq!(value, *unseen, "{name}");
    }
    let column = |name: &str| -> Vec<String> {
        let column = written.column_by_name(name).expect("a feature");
        (0..4)
            .map(|row| array_value_to_string(column, row).expect("a value"))
            .collect()
    };
    assert_eq!(column("segment"), ["food", "travel", "", "travel"]);
    assert_eq!(column("usual"), ["20.5", "310.0", "", "1.0"]);
}

#[test]
fn a_fault_of_a_table_names_its_file_and_the_key() {
    let faults = [
        (
            "merchant,segment,prior\n1,food,20\n2,food,30\n1,food,40\n",
            "`merchant` 1 stands there twice",
        ),
        ("merchant,segment,prior\n1,food,much\n", "much"),
        (
            "id,segment,prior\n1,food,20\n",
            "it has no column `merchant`",
        ),
    ];
    for (merchants, words) in faults {
        let folder = pipeline(merchants);
        let mut validate = command(&["validate", text(folder.path())]);
        validate.arg("--json");
        let done = finish(validate);
        assert_eq!(done.status, 1, "{}", done.stderr);
        let failure: Value = serde_json::from_str(done.stderr.trim()).expect("one failure");
        assert_eq!(failure["code"], "table");
        let file = failure["file"].as_str().expect("a file");
        assert!(file.ends_with("merchants.csv"), "{file}");
        let message = failure["message"].as_str().expect("a message");
        assert!(message.contains(words), "{words:?} is not in {message:?}");
        assert!(!failure["cure"].as_str().expect("a cure").is_empty());
    }
}

/// A copy of `pipelines/card-fraud` with a table beside its streams, and its state in the same folder.
fn with_table(table: &str) -> (TempDir, PathBuf) {
    let scratch = scratch();
    let folder = scratch.path().join("card-fraud");
    std::fs::create_dir_all(&folder).expect("a folder");
    let source = root().join("pipelines/card-fraud");
    for name in ["features.sql", "policy.yaml", "reason_codes.yaml"] {
        std::fs::copy(source.join(name), folder.join(name)).expect("a copy");
    }
    let settings = std::fs::read_to_string(source.join("pipeline.yaml")).expect("settings");
    let tables = "\ntables: {terminals: {path: terminals.csv, key: terminal_id}}\n";
    std::fs::write(folder.join("pipeline.yaml"), settings + tables).expect("settings");
    std::fs::write(folder.join("terminals.csv"), table).expect("a table");
    (scratch, folder)
}

#[test]
fn a_replay_takes_the_version_of_a_table_that_the_record_names() {
    let (scratch, folder) = with_table("terminal_id,kind\nT1,atm\n");
    let input = Scenario::open("cards").simulated();
    let model = root().join("pipelines/card-fraud/model");
    let state = format!("state.url=file://{}", text(&scratch.path().join("kept")));
    let replay = |out: &Path, order: Option<&Path>| {
        let mut args = vec![
            "replay",
            text(&folder),
            "--model",
            text(&model),
            "--input",
            text(&input),
        ];
        args.extend(["--to", "2025-01-10", "--set", &state, "--out", text(out)]);
        if let Some(order) = order {
            args.extend(["--order", text(order)]);
        }
        let mut replay = command(&args);
        replay.arg("--json");
        finish(replay)
    };
    let versions = |out: &Path| -> Vec<Value> {
        let orders = read_parquet(&out.join("order.parquet"));
        let column = orders
            .column_by_name("version_tables")
            .expect("versions")
            .as_string::<i32>()
            .clone();
        let all =
            (0..column.len()).map(|row| serde_json::from_str(column.value(row)).expect("JSON"));
        all.collect()
    };
    let first = scratch.path().join("first");
    let done = replay(&first, None);
    assert_eq!(done.status, 0, "{}", done.stderr);
    let recorded = versions(&first);
    assert!(recorded.len() > 1);
    let version = recorded[0]["terminals"]
        .as_str()
        .expect("a version")
        .to_string();
    assert_eq!(version.len(), 64);

    // The file has changed, and nobody has kept the one that the records name.
    let order = first.join("order.parquet");
    std::fs::write(folder.join("terminals.csv"), "terminal_id,kind\nT1,shop\n").expect("a table");
    let again = scratch.path().join("again");
    let refused = replay(&again, Some(&order));
    assert_eq!(refused.status, 1, "{}", refused.stdout);
    let failure: Value =
        serde_json::from_str(refused.stderr.lines().last().expect("a failure")).expect("JSON");
    assert_eq!(failure["code"], "table");
    assert!(
        failure["message"]
            .as_str()
            .expect("a message")
            .contains(&version[..12]),
        "{failure}"
    );

    // Kept where a service keeps what it has read, it is taken, and stands in the new records.
    let shelf = scratch.path().join("kept/card-fraud/tables");
    std::fs::create_dir_all(&shelf).expect("a folder");
    std::fs::write(
        shelf.join(format!("terminals-{version}.csv")),
        "terminal_id,kind\nT1,atm\n",
    )
    .expect("a table");
    let done = replay(&again, Some(&order));
    assert_eq!(done.status, 0, "{}", done.stderr);
    assert_eq!(versions(&again), recorded);
}
