//! A decision for each payment, once, through everything that can be killed.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::agreement::{bit_equal, each_once, order_is_whole};
use super::broker::Broker;
use super::deployed::{Deployed, LIVE_WITHIN, Service};
use super::foreign::{Foreign, Isolation};
use super::payments::{Payments, label_of};
use super::recorded::{record, replay};
use crate::outcome::Outcome;
use crate::random::Random;
use crate::sanderling::simulate;

const PAYMENTS: usize = 50_000;
/// Payments of a transaction that its producer aborts.
const ABORTED: usize = 500;
/// Simulated days that have as many.
const DAYS: u32 = 14;
/// Payments a second, so that there is a middle to be killed in.
const RATE: u32 = 2_500;
/// The last payments, sent when nothing interrupts any more: behind them no topic ends in an aborted
/// transaction, whose offsets no consumer commits.
const AFTERWARDS: usize = 2_000;
/// One label for so many payments.
const LABEL_EVERY: usize = 25;
const PARTITIONS: u32 = 4;
/// Small state: live again within this.
const AGAIN_WITHIN: Duration = Duration::from_secs(10);
const DONE_WITHIN: Duration = Duration::from_secs(180);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Interruption {
    Kill,
    Terminate,
    Broker,
    Abort,
}

#[test]
fn killed_stopped_and_cut_off_each_payment_is_decided_once() {
    use Interruption::{Abort, Broker as OfBroker, Kill, Terminate};
    let mut random = Random::seeded("exactly once");
    let mut broker = Broker::start();
    let deployed = Deployed::new("pipelines/card-fraud", "once", PARTITIONS, &broker);
    let mut watcher = broker.foreign();
    deployed.create_topics(&mut watcher, &["transactions", "labels"]);
    let files = Files::simulated(&deployed.beside("input"));
    let payments = deployed.topic("transactions");
    let group = deployed.group();

    let mut producers: Vec<Foreign> = (0..2).map(|_| broker.foreign()).collect();
    let begun = Instant::now();
    let mut service = deployed.start("one");
    service.wait_until_live(LIVE_WITHIN);
    println!("{:>6.1} s  live", begun.elapsed().as_secs_f64());
    let send = |topic: &str, file: &Path, rows: Range<usize>, rate: u32| json!({"do": "produce", "topic": topic, "file": file, "key": "card_id", "from": rows.start, "to": rows.end, "rate": rate});
    let amid = PAYMENTS - AFTERWARDS;
    producers[0].begin(&send(&payments, &files.payments, 0..amid, RATE));
    producers[1].begin(&send(
        &deployed.topic("labels"),
        &files.labels,
        0..PAYMENTS / LABEL_EVERY,
        RATE / LABEL_EVERY as u32,
    ));

    let interruptions = [
        Kill, Terminate, Kill, Abort, Kill, OfBroker, Kill, Terminate, Kill,
    ];
    let mut back = Vec::new();
    for (at, interruption) in interruptions.into_iter().enumerate() {
        // Spread over the stream, at moments that nothing in the service can know.
        let share = (at as f64 + 0.5 + random.share() * 0.5) / (interruptions.len() + 1) as f64;
        watcher.wait_for_progress(
            &group,
            &[&payments],
            (amid as f64 * share) as i64,
            DONE_WITHIN,
        );
        std::thread::sleep(Duration::from_millis(50).mul_f64(random.share()));
        let told = format!("{:>6.1} s  {interruption:?}", begun.elapsed().as_secs_f64());
        match interruption {
            Kill => {
                service.kill();
                service = deployed.start("one");
                back.push(service.wait_until_live(LIVE_WITHIN));
                println!(
                    "{told}, live again after {:.2?}",
                    back.last().expect("a time")
                );
            }
            Terminate => {
                let took = service.stop();
                service = deployed.start("one");
                let live = service.wait_until_live(LIVE_WITHIN);
                println!("{told}, ended after {took:.2?}, live again after {live:.2?}");
            }
            OfBroker => {
                let killed = Instant::now();
                broker.kill();
                broker.restart();
                println!("{told}, up again after {:.2?}", killed.elapsed());
            }
            Abort => {
                let sent = watcher.ask(&json!({
                    "do": "produce", "topic": &payments, "file": &files.aborted, "key": "card_id", "transaction": "abort",
                }));
                assert_eq!(sent["sent"], ABORTED);
                println!("{told}");
            }
        }
    }
    for producer in &mut producers {
        producer.finish();
    }
    watcher.ask(&send(&payments, &files.payments, amid..PAYMENTS, RATE));
    watcher.wait_for_end(&group, &[&payments, &deployed.topic("labels")], DONE_WITHIN);
    println!("{:>6.1} s  all decided", begun.elapsed().as_secs_f64());
    service.stop();

    let labels = watcher.consume(&[&deployed.topic("labels")], Isolation::Committed);
    let events = watcher.consume(&[&payments], Isolation::Committed);
    assert_eq!(events.len(), PAYMENTS);
    let decisions = watcher.consume(&[&deployed.topic("decisions")], Isolation::Committed);
    each_once(&events, &decisions);
    let letters = watcher.consume(&[&deployed.topic("dead_letters")], Isolation::Committed);
    assert!(letters.is_empty(), "{:?}", letters[0]);
    let orders = watcher.consume(&[&deployed.topic("order")], Isolation::Committed);
    let batches = order_is_whole(&orders, events.iter().chain(&labels));

    // Who reads what was not committed sees more: the test could have failed.
    let seen = watcher.consume(&[&payments], Isolation::Uncommitted);
    assert_eq!(seen.len(), PAYMENTS + ABORTED);
    let sent = watcher.consume(&[&deployed.topic("decisions")], Isolation::Uncommitted);
    println!(
        "{batches} batches, {} decisions sent in transactions that were aborted",
        sent.len() - decisions.len()
    );

    // What a foreign consumer recorded, folded again in the order that was written down.
    let files =
        ["payments", "labels", "order"].map(|name| deployed.beside(&format!("{name}.jsonl")));
    record(&events, &files[0]);
    record(&labels, &files[1]);
    let order: String = orders
        .iter()
        .map(|order| order.json().to_string() + "\n")
        .collect();
    std::fs::write(&files[2], order).expect("an order log");
    let input = format!(
        "transactions={},labels={}",
        files[0].display(),
        files[1].display()
    );
    let order = files[2].to_str().expect("a plain path");
    let out = replay(&deployed, &["--input", &input, "--order", order]);
    let replayed = Outcome::read(&out);
    bit_equal(&decisions, &replayed.decisions);
    println!(
        "{:>6.1} s  replayed, every decision the same",
        begun.elapsed().as_secs_f64()
    );

    let slowest = back.iter().max().expect("restarts");
    assert!(*slowest < AGAIN_WITHIN, "live again only after {back:?}");
}

/// A machine that stands still for longer than a transaction may last, as when it is moved: the broker ends the
/// transaction and fences its producer, and nobody else is there.
#[test]
fn paused_beyond_a_transactions_time_it_goes_on() {
    const ALL: usize = 30_000;
    const BEFORE: usize = 8_000;
    // The broker looks for such transactions every ten seconds.
    const PAUSE: Duration = Duration::from_secs(13);
    let broker = Broker::shared();
    let deployed = Deployed::new("pipelines/card-fraud", "paused", 1, broker);
    deployed.edit(|settings| {
        settings["kafka"]["properties"]["transaction.timeout.ms"] = 2_000.into();
        // So long that one is open at most moments.
        settings["kafka"]["transaction_ms"] = 1_000.into();
    });
    let mut watcher = broker.foreign();
    let payments = Payments::simulated(&deployed, &mut watcher, 21, 8);
    let mut service = deployed.start("one");
    service.wait_until_live(LIVE_WITHIN);
    let mut producer = broker.foreign();
    producer.begin(&payments.sending_at(RATE, 0..ALL));
    let group = deployed.group();
    watcher.wait_for_progress(&group, &[&payments.topic], BEFORE as i64, DONE_WITHIN);
    stand_still_within_a_transaction(&service, &mut watcher, &deployed.topic("decisions"));
    std::thread::sleep(PAUSE);
    service.go_on();
    producer.finish();
    payments.wait_until_decided(&mut watcher);
    service.stop();

    let events = watcher.consume(&[&payments.topic], Isolation::Committed);
    assert_eq!(events.len(), ALL);
    let decisions = watcher.consume(&[&deployed.topic("decisions")], Isolation::Committed);
    each_once(&events, &decisions);
    let sent = watcher.consume(&[&deployed.topic("decisions")], Isolation::Uncommitted);
    assert!(
        sent.len() > ALL,
        "no decision was sent in a transaction that was aborted"
    );
}

/// Has it stand still at a moment at which decisions of an open transaction are in their topic.
fn stand_still_within_a_transaction(service: &Service, watcher: &mut Foreign, decisions: &str) {
    const TRIES: usize = 30;
    // A commit that was asked for ends by itself, within this.
    const COMMITTED_WITHIN: Duration = Duration::from_millis(500);
    for _ in 0..TRIES {
        service.stand_still();
        if watcher.is_transaction_open(decisions) {
            std::thread::sleep(COMMITTED_WITHIN);
            if watcher.is_transaction_open(decisions) {
                return;
            }
        }
        service.go_on();
        std::thread::sleep(Duration::from_millis(250));
    }
    panic!("no transaction was open at any of {TRIES} moments");
}

/// Payments and their labels as lines of JSON.
struct Files {
    payments: PathBuf,
    labels: PathBuf,
    /// Others, that are never committed.
    aborted: PathBuf,
}

impl Files {
    fn simulated(folder: &Path) -> Self {
        std::fs::create_dir_all(folder).expect("a folder");
        let all = folder.join("all.jsonl");
        simulate(&all, 5, DAYS, "2025-01-01");
        let files = Self {
            payments: folder.join("payments.jsonl"),
            labels: folder.join("labels.jsonl"),
            aborted: folder.join("aborted.jsonl"),
        };
        let create = |path| std::io::BufWriter::new(File::create(path).expect("a file"));
        let (mut payments, mut labels, mut aborted) = (
            create(&files.payments),
            create(&files.labels),
            create(&files.aborted),
        );
        let mut rows = 0;
        for line in BufReader::new(File::open(&all).expect("simulated payments")).lines() {
            let line = line.expect("text");
            let into = if rows < PAYMENTS {
                &mut payments
            } else {
                &mut aborted
            };
            writeln!(into, "{line}").expect("a line");
            if rows < PAYMENTS && rows % LABEL_EVERY == 0 {
                let payment: Value = serde_json::from_str(&line).expect("JSON");
                writeln!(labels, "{}", label_of(&payment)).expect("a line");
            }
            rows += 1;
            if rows == PAYMENTS + ABORTED {
                break;
            }
        }
        assert_eq!(rows, PAYMENTS + ABORTED, "DAYS are too few");
        files
    }
}
