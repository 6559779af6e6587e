//! What an operator sees and says: metrics, dead letters, secrets.

use std::collections::BTreeSet;

use sanderling_service::telemetry::{Declared, Metrics};
use serde_json::Value;

use crate::sanderling::{answer, command, finish, root, scratch};

/// Begins every name of ours.
const PREFIX: &str = "sanderling_";
/// A password that must not be seen anywhere.
const SECRET: &str = "hunter2-7f3a";

fn text(path: &str) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Names of metrics in a text.
fn named(text: &str) -> BTreeSet<&str> {
    let word = |c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    text.split(word)
        .filter(|word| word.starts_with(PREFIX))
        .collect()
}

/// The metric that a name in a query is of: a histogram has three.
fn of<'a>(declared: &'a [Declared], name: &str) -> Option<&'a Declared> {
    declared.iter().find(|metric| {
        let rest = name.strip_prefix(metric.name);
        rest == Some("")
            || metric.kind == "histogram"
                && rest.is_some_and(|r| ["_bucket", "_sum", "_count"].contains(&r))
    })
}

#[test]
fn what_is_watched_is_declared() {
    let metrics = Metrics::new();
    for file in [
        "deploy/alerts.yml",
        "deploy/grafana/dashboards/sanderling.json",
    ] {
        let text = text(file);
        let named = named(&text);
        assert!(named.len() >= 5, "{file} names {named:?}");
        for name in &named {
            assert!(
                of(metrics.declared(), name).is_some(),
                "{file}: {name} is not declared"
            );
        }
    }
    // A dashboard that leaves out a metric leaves somebody blind.
    let dashboard = text("deploy/grafana/dashboards/sanderling.json");
    let shown: BTreeSet<&str> = named(&dashboard)
        .iter()
        .filter_map(|name| Some(of(metrics.declared(), name)?.name))
        .collect();
    for metric in metrics.declared() {
        assert!(shown.contains(metric.name), "{} is not shown", metric.name);
    }
}

#[test]
fn the_page_on_operations_lists_every_metric() {
    let page = text("docs/operations.md");
    let row = |metric: &Declared| {
        let labels: Vec<String> = metric.labels.iter().map(|l| format!("`{l}`")).collect();
        format!(
            "| `{}` | {} | {} | {} |",
            metric.name,
            metric.kind,
            labels.join(", "),
            metric.help
        )
    };
    let metrics = Metrics::new();
    let wanted: Vec<String> = metrics.declared().iter().map(row).collect();
    let section = page.split("\n## ").find(|part| part.starts_with("Metrics"));
    let rows: Vec<&str> = section
        .expect("a section on metrics")
        .lines()
        .filter(|line| line.starts_with(&format!("| `{PREFIX}")))
        .collect();
    assert_eq!(rows, wanted, "the table should be\n{}", wanted.join("\n"));
}

#[test]
fn no_event_shows_in_what_is_watched() {
    // Labels are closed sets, or come from the settings or the features.
    let known = [
        "stream",
        "action",
        "reason",
        "rung",
        "stage",
        "topic",
        "partition",
        "end",
        "part",
        "feature",
        "source",
    ];
    for metric in Metrics::new().declared() {
        for label in &metric.labels {
            assert!(known.contains(label), "{}: {label}", metric.name);
        }
    }
}

#[test]
fn dead_letters_of_a_replay_are_listed_and_shown() {
    let out = scratch();
    let out = out.path().to_str().expect("a plain path");
    let summary = answer(&[
        "replay",
        "pipelines/card-fraud",
        "--input",
        "tests/scenarios/bad-rows/lines.jsonl",
        "--out",
        out,
    ]);
    let refused = summary["dead_lettered"].as_u64().expect("a count");
    assert!(refused > 3, "{summary}");
    let list = |more: &[&str]| {
        let base = ["dlq", "list", "pipelines/card-fraud", "--input", out];
        let args: Vec<&str> = base.iter().chain(more).copied().collect();
        answer(&args)
    };
    let all = list(&[]);
    assert_eq!(all["selected"].as_u64(), Some(refused), "{all}");
    let letters = all["letters"].as_array().expect("letters");
    assert_eq!(letters.len() as u64, refused);

    let limited = list(&["--limit", "2"]);
    assert_eq!(limited["selected"].as_u64(), Some(refused));
    assert_eq!(limited["letters"].as_array().map(Vec::len), Some(2));
    let missing = list(&["--reason", "missing_field"]);
    let missing = missing["letters"].as_array().expect("letters");
    let counted = letters.iter().filter(|l| l["reason"] == "missing_field");
    assert!(!missing.is_empty() && missing.len() == counted.count());

    let id = missing[0]["event"].as_str().expect("an id");
    let offset = id.rsplit('/').next().expect("an offset");
    let one: i64 = offset.parse().expect("a number");
    let ranged = list(&["--from", offset, "--to", &(one + 1).to_string()]);
    assert_eq!(ranged["selected"], 1, "{ranged}");

    let show = |args: &[&str]| {
        let base = ["dlq", "show", "pipelines/card-fraud"];
        let args: Vec<&str> = base.iter().chain(args).copied().collect();
        finish(command(&args))
    };
    let shown = show(&[id, "--input", out]);
    assert_eq!(shown.status, 0, "{}", shown.stderr);
    assert!(
        shown.stdout.contains("why missing_field"),
        "the record itself is shown: {}",
        shown.stdout
    );
    let gone = show(&["payments/0/999999", "--input", out]);
    assert_eq!(gone.status, 1, "{}", gone.stdout);
    assert!(gone.stderr.contains("payments/0/999999"), "{}", gone.stderr);
    assert_eq!(show(&["payments-0-1", "--input", out]).status, 2);
}

#[test]
fn sealed_letters_open_with_their_key_alone() {
    let folder = scratch();
    let at = |name: &str| folder.path().join(name);
    let copied = |name: &str, edit: &dyn Fn(String) -> String| {
        let text = edit(text(&format!("pipelines/card-fraud/{name}")));
        std::fs::write(at(name), text).expect("a file of the pipeline");
    };
    for name in ["features.sql", "policy.yaml", "reason_codes.yaml"] {
        copied(name, &|text| text);
    }
    copied("pipeline.yaml", &|text| {
        let hashed = text.replace(
            "card_id: {type: string}",
            "card_id: {type: string, hash: hmac}",
        );
        hashed + "\nhash_key_file: hash.key\ndead_letter_key_file: seal.key\n"
    });
    std::fs::write(at("hash.key"), [1; 32]).expect("a key");
    std::fs::write(at("seal.key"), [2; 32]).expect("a key");
    std::fs::write(at("other.key"), [3; 32]).expect("a key");
    let (pipeline, out) = (folder.path(), at("out"));
    let (pipeline, out) = (
        pipeline.to_str().expect("a plain path"),
        out.to_str().expect("a plain path"),
    );
    answer(&[
        "replay",
        pipeline,
        "--model",
        "pipelines/card-fraud/model",
        "--input",
        "tests/scenarios/bad-rows/lines.jsonl",
        "--out",
        out,
    ]);
    let listing = answer(&["dlq", "list", pipeline, "--input", out]);
    let letters = listing["letters"].as_array().expect("letters");
    assert!(letters.len() > 3 && letters.iter().all(|l| l["sealed"] == true));
    let missing = letters.iter().find(|l| l["reason"] == "missing_field");
    let id = missing.expect("a letter")["event"].as_str().expect("an id");
    let show = ["dlq", "show", pipeline, id, "--input", out];
    let shown = answer(&show);
    assert_eq!(shown["opened"], true, "{shown}");
    assert!(
        shown["raw"]
            .as_str()
            .is_some_and(|raw| raw.contains("why missing_field")),
        "{shown}"
    );
    let mut other = command(&show);
    other.args(["--set", "dead_letter_key_file=other.key"]);
    let done = finish(other);
    assert_eq!(done.status, 1, "{}", done.stdout);
    assert!(!done.stdout.contains("why missing_field"));
    assert!(
        done.stderr.contains("dead_letter_key_file"),
        "{}",
        done.stderr
    );
}

#[test]
fn requeue_wants_to_be_told_which() {
    let done = finish(command(&["dlq", "requeue", "pipelines/card-fraud"]));
    assert_eq!(done.status, 2, "{}", done.stderr);
    assert!(done.stderr.contains("--all"), "{}", done.stderr);
}

#[test]
fn a_secret_is_never_printed() {
    let folder = scratch();
    let file = folder.path().join("password");
    std::fs::write(&file, format!("{SECRET}\n")).expect("a file");
    let file = file.to_str().expect("a plain path");
    let property = "SANDERLING__KAFKA__PROPERTIES__SASL_PASSWORD";
    let misspelt = "SANDERLING__KAFKA__PROPERTIES__SASL_PASWORD";
    // variable, ending, value, exit status
    let cases = [
        (property, "", SECRET, 0),
        (property, "_FILE", file, 0),
        (misspelt, "", SECRET, 1),
        (misspelt, "_FILE", file, 1),
        ("SANDERLING__KAFKA", "_FILE", file, 2),
        ("SANDERLING__DEADLINE_MS", "_FILE", file, 2),
    ];
    for (name, ending, value, status) in cases {
        let name = format!("{name}{ending}");
        for json in [true, false] {
            let mut validate = command(&["validate", "pipelines/card-fraud"]);
            validate.env(&name, value).env("RUST_LOG", "trace");
            if json {
                validate.arg("--json");
            }
            let done = finish(validate);
            assert_eq!(done.status, status, "{name}: {}", done.stderr);
            for text in [&done.stdout, &done.stderr] {
                assert!(!text.contains(SECRET), "{name}: {text}");
            }
        }
    }
    let set = format!("kafka.properties.sasl.pasword={SECRET}");
    let done = finish(command(&[
        "validate",
        "pipelines/card-fraud",
        "--set",
        &set,
    ]));
    assert_eq!(done.status, 1, "{}", done.stderr);
    assert!(done.stderr.contains("sasl.pasword") && !done.stderr.contains(SECRET));
}

#[test]
fn a_log_line_is_one_json_object_if_asked_for() {
    let mut validate = command(&[
        "validate",
        "pipelines/card-fraud",
        "--log-format",
        "json",
        "--json",
    ]);
    validate.env("RUST_LOG", "trace");
    let done = finish(validate);
    assert_eq!(done.status, 0, "{}", done.stderr);
    for line in done.stderr.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(
            line["level"].is_string() && line["target"].is_string(),
            "{line}"
        );
    }
    let mut senseless = command(&["validate", "pipelines/card-fraud"]);
    senseless.env("RUST_LOG", "sanderling=loud");
    assert_eq!(finish(senseless).status, 2);
}
