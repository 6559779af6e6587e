use super::*;
use sanderling_schemas::{EventId, Offset};

#[test]
fn what_is_counted_is_shown() {
    let metrics = Metrics::new();
    let letter = DeadLetter {
        event: EventId {
            topic: "payments".into(),
            partition: Partition(0),
            offset: Offset(7),
        },
        reason: RejectReason::NotFinite,
        detail: "amount is NaN".into(),
        raw: b"{\"card_id\":\"4000123412341234\"}".to_vec(),
        sealed: None,
        key: Some(b"4000123412341234".to_vec()),
    };
    metrics.rejected(&[letter]);
    metrics.stage(Stage::Commit, Duration::from_millis(4));
    metrics.transaction(TransactionEnd::Aborted, Duration::from_millis(20));
    metrics.checkpoint(Duration::from_secs(1), 4096);
    metrics.lanes(3);
    let text = metrics.render(true);
    for line in [
        "sanderling_dead_letters_total{reason=\"not_finite\"} 1",
        "sanderling_dead_letters_total{reason=\"malformed\"} 0",
        "sanderling_stage_seconds_count{stage=\"commit\"} 1",
        "sanderling_transaction_seconds_count{end=\"aborted\"} 1",
        "sanderling_checkpoint_bytes 4096",
        "sanderling_lanes 3",
        "sanderling_live 1",
    ] {
        assert!(text.lines().any(|l| l == line), "no {line} in\n{text}");
    }
    assert!(!text.contains("4000123412341234"), "{text}");
    assert!(metrics.render(false).contains("sanderling_live 0"));
}

#[test]
fn a_partition_that_was_given_up_has_no_lag() {
    let metrics = Metrics::new();
    let lag = |partition, records| (Arc::from("payments"), Partition(partition), records);
    metrics.lag(&[lag(0, 5), lag(1, 9)]);
    metrics.lag(&[lag(1, 2)]);
    let text = metrics.render(true);
    let of = |partition| {
        format!("sanderling_lag_records{{partition=\"{partition}\",topic=\"payments\"}}")
    };
    assert!(text.contains(&format!("{} 2", of(1))), "{text}");
    assert!(!text.contains(&of(0)), "{text}");
}

#[test]
fn every_name_is_ours_and_says_its_unit() {
    let units = ["_total", "_seconds", "_bytes", "_rows", "_records"];
    for declared in Metrics::new().declared() {
        let name = declared.name;
        assert!(name.starts_with("sanderling_"), "{name}");
        assert_eq!(
            name.ends_with("_total"),
            declared.kind == "counter",
            "{name}"
        );
        let plain = ["sanderling_lanes", "sanderling_live"].contains(&name);
        assert!(
            plain || units.iter().any(|unit| name.ends_with(unit)),
            "{name}"
        );
    }
}
