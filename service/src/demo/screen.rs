//! What a demo shows: a line for each alert, rates and latencies every few seconds.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde_json::Value;

use super::Cause;
use crate::kafka::Received;
use crate::tally::LatencySummary;

/// Time between two lines of rates.
const RATES_EVERY: Duration = Duration::from_secs(5);
/// Latencies beyond an hour count as an hour.
const LATENCY_US_MAX: u64 = 3_600_000_000;
/// Alerts shown a second at most; the rest are counted.
const ALERTS_PER_S_MAX: u32 = 4;

/// The demo's output, and what it has seen.
pub struct Screen {
    quiet: bool,
    latency_us: Histogram<u64>,
    recent_us: Histogram<u64>,
    causes: BTreeMap<String, Cause>,
    decided: u64,
    shown_this_second: (Instant, u32),
    last_rates: (Instant, u64),
}

/// A fraud that the simulator planted.
pub struct Planted {
    /// Its kind.
    pub kind: &'static str,
    /// The attribution group that it should be recognised by.
    pub cause: &'static str,
}

impl Screen {
    /// A screen that shows nothing if `quiet`.
    pub fn new(quiet: bool) -> Self {
        let histogram = || {
            Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("bounds in order, three digits")
        };
        Self {
            quiet,
            latency_us: histogram(),
            recent_us: histogram(),
            causes: BTreeMap::new(),
            decided: 0,
            shown_this_second: (Instant::now(), 0),
            last_rates: (Instant::now(), 0),
        }
    }

    /// One line.
    pub fn say(&self, line: &str) {
        if !self.quiet {
            // A reader that has gone away wants no more output.
            let _ = writeln!(std::io::stdout().lock(), "{line}");
        }
    }

    /// Counts a decision, and shows it if it is an alert.
    pub fn show(&mut self, received: &Received, planted: Option<Planted>) {
        self.decided += 1;
        if let Some(latency_us) = received.latency_us {
            self.latency_us.saturating_record(latency_us);
            self.recent_us.saturating_record(latency_us);
        }
        let decision = &received.decision;
        let caught = decision["action"] != "approve";
        if let Some(planted) = &planted {
            let cause = self.causes.entry(planted.kind.to_string()).or_default();
            cause.planted += 1;
            cause.caught += u64::from(caught);
            cause.named += u64::from(caught && strongest_group(decision) == Some(planted.cause));
        }
        if caught {
            self.alert(decision, planted);
        }
        self.rates();
    }

    /// Quantiles over the whole run.
    pub fn latency(&self) -> LatencySummary {
        quantiles(&self.latency_us)
    }

    /// What became of the planted frauds, by kind.
    pub fn into_causes(self) -> BTreeMap<String, Cause> {
        self.causes
    }

    fn alert(&mut self, decision: &Value, planted: Option<Planted>) {
        if self.shown_this_second.0.elapsed() >= Duration::from_secs(1) {
            self.shown_this_second = (Instant::now(), 0);
        }
        self.shown_this_second.1 += 1;
        if self.shown_this_second.1 > ALERTS_PER_S_MAX {
            return;
        }
        let reasons: Vec<&str> = decision["reasons"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|reason| reason["text"].as_str())
            .take(2)
            .collect();
        self.say(&format!(
            "{:<8} {:>5.1} %  {:>9}  {:<12} {}{}",
            decision["action"].as_str().unwrap_or_default(),
            decision["probability"].as_f64().unwrap_or_default() * 100.0,
            decision["features"]["amount"].to_string(),
            decision["key"].as_str().unwrap_or_default(),
            reasons.join("; "),
            planted.map_or(String::new(), |planted| format!(
                "   [planted: {}]",
                planted.kind
            )),
        ));
    }

    fn rates(&mut self) {
        let since = self.last_rates.0.elapsed();
        if since < RATES_EVERY {
            return;
        }
        let recent = quantiles(&self.recent_us);
        self.say(&format!(
            "-- {} decided, {:.0}/s; append to receipt p50 {:.1} ms, p99 {:.1} ms",
            self.decided,
            (self.decided - self.last_rates.1) as f64 / since.as_secs_f64(),
            recent.p50 as f64 / 1e3,
            recent.p99 as f64 / 1e3,
        ));
        self.recent_us.reset();
        self.last_rates = (Instant::now(), self.decided);
    }
}

/// The group with the largest attribution.
fn strongest_group(decision: &Value) -> Option<&str> {
    let values = decision["attribution"]["values"].as_object()?;
    values
        .iter()
        .filter_map(|(group, value)| Some((group.as_str(), value.as_f64()?)))
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(group, _)| group)
}

fn quantiles(histogram: &Histogram<u64>) -> LatencySummary {
    LatencySummary {
        p50: histogram.value_at_quantile(0.5),
        p99: histogram.value_at_quantile(0.99),
        p999: histogram.value_at_quantile(0.999),
    }
}
