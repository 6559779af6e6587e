//! The shipped model on payments it has not seen: frauds are caught, and for the right reason.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use arrow::array::AsArray;
use arrow::compute::cast;
use arrow::datatypes::DataType;

use crate::outcome::{Outcome, read_parquet};
use crate::sanderling::{answer, scratch, simulate};

/// What each kind of planted fraud shows in, as the simulator documents it.
const CAUSES: [(&str, &str); 3] = [
    ("stolen_card", "card"),
    ("skimmed_terminal", "terminal"),
    ("device_ring", "device"),
];
/// Share of caught frauds whose largest attribution is the planted cause.
const NAMED_MIN: f64 = 0.8;

#[test]
fn caught_frauds_are_explained_by_their_planted_cause() {
    let folder = scratch();
    let path = |name: &str| {
        folder
            .path()
            .join(name)
            .to_str()
            .expect("a plain path")
            .to_string()
    };
    let (input, out) = (path("unseen.parquet"), path("out"));
    simulate(Path::new(&input), 99, 50, "2025-06-01");
    // Windows and memories are filled before the first decision.
    answer(&[
        "replay",
        "pipelines/card-fraud",
        "--input",
        &input,
        "--from",
        "2025-07-06",
        "--out",
        &out,
    ]);
    let outcome = Outcome::read(out.as_ref());
    outcome.must_be_sound();

    let kinds: HashMap<String, String> = {
        let payments = read_parquet(input.as_ref());
        let text = |name: &str| {
            let column = payments
                .column_by_name(name)
                .expect("a column of the simulator");
            cast(column, &DataType::Utf8)
                .expect("text")
                .as_string::<i32>()
                .clone()
        };
        let (ids, kinds) = (text("transaction_id"), text("fraud_kind"));
        ids.iter()
            .zip(&kinds)
            .filter_map(|(id, kind)| Some((id?.to_string(), kind?.to_string())))
            .collect()
    };
    let groups: Vec<(&str, Vec<f64>)> = ["event", "card", "terminal", "device"]
        .map(|group| (group, outcome.doubles(&format!("a_{group}"))))
        .to_vec();
    let (ids, actions) = (outcome.texts("transaction_id"), outcome.texts("action"));
    // For each kind: planted, caught, caught for the planted cause.
    let mut counts: BTreeMap<&str, [usize; 3]> = BTreeMap::new();
    for row in 0..ids.len() {
        let Some((kind, cause)) = kinds
            .get(&ids[row])
            .and_then(|k| CAUSES.iter().find(|(kind, _)| kind == k))
        else {
            continue;
        };
        let count = counts.entry(kind).or_default();
        count[0] += 1;
        if actions[row] != "approve" {
            let strongest = groups
                .iter()
                .max_by(|a, b| a.1[row].total_cmp(&b.1[row]))
                .expect("groups");
            count[1] += 1;
            count[2] += usize::from(strongest.0 == *cause);
        }
    }
    println!(
        "planted, caught, caught for the planted cause: {counts:?}; {}",
        outcome.summary
    );
    let total = |i: usize| counts.values().map(|count| count[i]).sum::<usize>() as f64;
    assert!(total(1) / total(0) > 0.4, "{counts:?}");
    assert!(total(2) / total(1) >= NAMED_MIN, "{counts:?}");
}
