//! The simulator's promises.

use std::collections::{BTreeMap, HashSet};
use std::fs;

use sanderling_ingest::simulate::{FraudKind, Options, Payment, Simulator, write_payments};

fn payments(options: Options) -> Vec<Payment> {
    Simulator::new(options).unwrap().collect()
}

fn small() -> Options {
    Options {
        days: 3,
        cards: 300,
        terminals: 500,
        seed: 5,
        ..Options::default()
    }
}

#[test]
fn a_seed_gives_the_same_bytes_in_every_format() {
    let folder = tempfile::tempdir().unwrap();
    for format in ["jsonl", "csv", "parquet"] {
        let bytes: Vec<Vec<u8>> = [("a", 5), ("b", 5), ("c", 6)]
            .iter()
            .map(|(name, seed)| {
                let path = folder.path().join(format!("{name}.{format}"));
                let simulator = Simulator::new(Options {
                    seed: *seed,
                    ..small()
                })
                .unwrap();
                let written = write_payments(&path, simulator).unwrap();
                assert!(written.rows > 1000, "{written:?}");
                fs::read(path).unwrap()
            })
            .collect();
        assert_eq!(bytes[0], bytes[1], "{format}");
        assert_ne!(bytes[0], bytes[2], "{format}");
    }
}

#[test]
fn payments_come_in_time_order_from_the_start_on() {
    let options = small();
    let (from, days) = (options.start_ms, i64::from(options.days));
    let payments = payments(options);
    assert!(
        payments
            .windows(2)
            .all(|pair| pair[0].tx_time_ms <= pair[1].tx_time_ms)
    );
    assert!(
        payments
            .iter()
            .enumerate()
            .all(|(i, p)| p.number == i as u64)
    );
    assert!(payments[0].tx_time_ms >= from);
    assert!(payments[payments.len() - 1].tx_time_ms < from + days * 86_400_000);
    let line: serde_json::Value = serde_json::from_str(&payments[0].to_json()).unwrap();
    let fields: Vec<&String> = line.as_object().unwrap().keys().collect();
    assert_eq!(
        fields,
        [
            "transaction_id",
            "tx_time",
            "card_id",
            "terminal_id",
            "device_id",
            "amount",
            "is_fraud",
            "fraud_kind"
        ]
    );
    // The first day is the same however many follow.
    let one_day: Vec<Payment> = self::payments(Options { days: 1, ..small() });
    assert_eq!(one_day[..], payments[..one_day.len()]);
}

#[test]
fn about_one_payment_in_a_hundred_is_fraud_and_each_kind_has_its_cause() {
    let payments = payments(Options {
        days: 60,
        seed: 3,
        ..Options::default()
    });
    let total = payments.len() as f64;
    assert!(
        (total / (60.0 * 4000.0) - 1.0).abs() < 0.1,
        "{total} payments"
    );
    let mut by_kind: BTreeMap<FraudKind, Vec<&Payment>> = BTreeMap::new();
    for payment in &payments {
        if let Some(kind) = payment.fraud {
            by_kind.entry(kind).or_default().push(payment);
        }
    }
    for (kind, frauds) in &by_kind {
        let share = frauds.len() as f64 / total;
        assert!(
            (0.002..0.006).contains(&share),
            "{}: {share}",
            kind.as_str()
        );
    }
    assert_eq!(by_kind.len(), 3);

    // Ratio of an amount to the card's own genuine mean.
    let mut habit: BTreeMap<u32, (f64, f64)> = BTreeMap::new();
    for payment in payments.iter().filter(|payment| payment.fraud.is_none()) {
        let habit = habit.entry(payment.card).or_default();
        *habit = (habit.0 + payment.amount_cents as f64, habit.1 + 1.0);
    }
    let ratio = |frauds: &[&Payment]| {
        let ratios = frauds.iter().filter_map(|payment| {
            let (sum, count) = habit.get(&payment.card)?;
            Some(payment.amount_cents as f64 * count / sum)
        });
        ratios.sum::<f64>() / frauds.len() as f64
    };
    assert!(ratio(&by_kind[&FraudKind::StolenCard]) > 3.5);
    assert!((0.7..1.4).contains(&ratio(&by_kind[&FraudKind::SkimmedTerminal])));
    assert!((0.7..1.4).contains(&ratio(&by_kind[&FraudKind::DeviceRing])));

    // A ring's device goes through many cards, a skimmed terminal has many frauds.
    let rings = &by_kind[&FraudKind::DeviceRing];
    let devices: HashSet<u32> = rings.iter().map(|payment| payment.device).collect();
    let cards: HashSet<(u32, u32)> = rings.iter().map(|p| (p.device, p.card)).collect();
    assert!(
        cards.len() > 10 * devices.len(),
        "{} {}",
        cards.len(),
        devices.len()
    );
    let skimmed = &by_kind[&FraudKind::SkimmedTerminal];
    let terminals: HashSet<u32> = skimmed.iter().map(|payment| payment.terminal).collect();
    assert!(
        skimmed.len() > 5 * terminals.len(),
        "{} {}",
        skimmed.len(),
        terminals.len()
    );
}
