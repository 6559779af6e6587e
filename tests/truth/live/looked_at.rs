//! A live state answers SQL while it goes on.

use serde_json::{Value, json};

use super::broker::Broker;
use super::deployed::{Deployed, LIVE_WITHIN};
use super::foreign::Isolation;
use super::http;
use super::payments::Payments;
use crate::sanderling::{command, finish};

const PAYMENTS: usize = 1_000;

#[test]
fn what_it_knows_of_a_card_now_is_asked_in_sql() {
    let broker = Broker::shared();
    let deployed = Deployed::new("pipelines/card-fraud", "looked-at", 1, broker);
    deployed.edit(|settings| settings["state"]["interval"] = "1h".into());
    let mut foreign = broker.foreign();
    let payments = Payments::simulated(&deployed, &mut foreign, 21, 1);
    let mut service = deployed.start("one");
    let folder = deployed.folder();
    let folder = folder.to_str().expect("a plain path");
    let address = service.address();
    let query = |sql: &str| {
        finish(command(&[
            "state", "query", folder, sql, "--json", "--at", &address,
        ]))
    };
    service.wait_until_live(LIVE_WITHIN);
    foreign.ask(&payments.sending(0..PAYMENTS));
    // It is asked all the while, and goes on.
    let mut looks = 0;
    while foreign.progress(&deployed.group(), &[&payments.topic]) < PAYMENTS as i64 {
        assert_eq!(
            query("SELECT count(*) FROM card_rows").status,
            0,
            "look {looks}"
        );
        looks += 1;
        assert!(looks < 1_000, "no end of it");
    }
    payments.wait_until_decided(&mut foreign);

    let events = foreign.consume(&[&payments.topic], Isolation::Committed);
    let card = events[0].json()["card_id"].clone();
    let of_card = events
        .iter()
        .filter(|e| e.json()["card_id"] == card)
        .count();
    let card = card.as_str().expect("a card");
    let done = query(&format!(
        "SELECT count(*) AS n, (SELECT rows_accepted FROM state) AS accepted \
         FROM card_rows WHERE card_id = '{card}'"
    ));
    assert_eq!(done.status, 0, "{}", done.stderr);
    let told: Value = serde_json::from_str(&done.stdout).expect("an answer of JSON");
    assert_eq!(told["source"], "live");
    assert_eq!(told["rows"][0], json!({"n": of_card, "accepted": PAYMENTS}));

    let done = query("SELECT * FROM cards");
    assert_eq!(done.status, 1);
    assert!(done.stderr.contains("card_rows"), "{}", done.stderr);
    let question = json!({"pipeline": "other", "sql": "SELECT 1", "limit": 1}).to_string();
    let (status, body) = http::ask(&address, "POST", "/state/query", &question).expect("an answer");
    assert_eq!(status, 422, "{body}");
    assert!(body.contains("not other"), "{body}");
    assert_eq!(
        http::ask(&address, "POST", "/state/query", "{}")
            .expect("an answer")
            .0,
        400
    );
    service.stop();
}
