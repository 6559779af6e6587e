//! The line's ends.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::*;

/// What every feed of these tests does while nothing comes.
fn idle(feeder: &Feeder) -> Result<(), Failure> {
    let begun = Instant::now();
    while !feeder.is_over() {
        assert!(begun.elapsed() < Duration::from_secs(20), "nobody tells");
        sleep(Duration::from_millis(1));
    }
    assert!(!feeder.send(Input::Mark(Mark::default())));
    Ok(())
}

#[test]
fn a_feed_that_has_nothing_to_send_hears_of_a_failed_drain() {
    for apart in [false, true] {
        let ended = run(apart, idle, |_| Err(Failure::new("kafka", "gone")));
        assert_eq!(ended.expect_err("the drain's failure").code, "kafka");
    }
}

#[test]
fn what_was_fed_is_drained_before_the_end() {
    for apart in [false, true] {
        let mut marks = 0;
        let fed = |feeder: &Feeder| {
            assert!((0..100).all(|_| feeder.send(Input::Mark(Mark::default()))));
            Ok(())
        };
        let drained = run(apart, fed, |outcomes| {
            marks = outcomes.filter(|o| matches!(o, Outcome::Mark(_))).count();
            Ok(())
        });
        drained.expect("no stage fails");
        assert_eq!(marks, 100);
    }
}
