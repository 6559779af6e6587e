//! How long a decision takes on a real broker, seen from outside: `make bench-live`.
//!
//! A foreign producer keeps a rate whatever becomes of its records. A foreign reader, a process of its
//! own, takes the time from the broker's append of an event to the receipt of its decision,
//! read_committed. Beside the service, in the same run, a bare copy of the topic by a foreign client
//! shows what the broker and this machine leave to be had; and where this machine is a virtual one, each second says how
//! much of it the host took.
//!
//! The service begins with thirty days of history, as long as its longest windows, and what is sent goes on
//! from there, faster than the days do: windows hold what a bank's hold, and as few payments look like fraud.
//!
//! Prints what was run where, a line of JSON for each result, and a table.
//!
//! Arguments: names of scenarios (`copy steady rates burst hot`; all), `--rate N`, `--warm-up SECONDS`,
//! `--measure SECONDS`, `--rates N,N,..`, `--partitions N`, `--delivery exactly_once|at_least_once`,
//! `--set PATH=VALUE`, `--quick`.
#![allow(clippy::print_stdout)]

mod clients;
mod host;
mod stream;

// The broker and the service as the tests have them.
#[allow(dead_code)]
#[path = "../../truth/live/broker.rs"]
mod broker;
#[path = "../../truth/live/client.rs"]
mod client;
#[allow(dead_code)]
#[path = "../../truth/live/deployed.rs"]
mod deployed;
#[allow(dead_code)]
#[path = "../../truth/live/foreign.rs"]
mod foreign;
#[path = "../../truth/live/http.rs"]
mod http;
#[allow(dead_code)]
#[path = "../../truth/sanderling.rs"]
mod sanderling;

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use broker::Broker;
use clients::{Copying, Producing, Reading, Sent};
use deployed::Deployed;
use foreign::Foreign;
use host::Taken;
use sanderling::{finish, root, shared};
use stream::{POPULATIONS, Stream};

/// The budget of a decision.
const BUDGET_MS: f64 = 50.0;
/// How long nothing is asked of anyone once sending has ended: to answer takes a core from those who still decide
/// and read.
const LEFT_ALONE: Duration = Duration::from_secs(2);
/// How long the service may take to fold its history.
const LIVE_WITHIN: Duration = Duration::from_secs(300);
/// A second of which the host took less than that, per cent of all cores, and of the one before it too, was
/// undisturbed.
const UNDISTURBED_PERCENT: f64 = 1.0;
/// How long what was sent may take to be decided once sending has ended.
const DRAINED_WITHIN: Duration = Duration::from_secs(120);
/// Milliseconds between two commits of the bare copy.
const COPY_INTERVAL_MS: u32 = 15;
const DELIVERIES: [&str; 2] = ["exactly_once", "at_least_once"];

struct Options {
    scenarios: Vec<String>,
    rate: u32,
    warm_up_s: u32,
    measure_s: u32,
    /// Tried from the lowest on until one is too high.
    rates: Vec<u32>,
    partitions: u32,
    deliveries: Vec<String>,
    sets: Vec<String>,
}

impl Options {
    fn of_the_command_line() -> Self {
        let mut options = Self {
            scenarios: Vec::new(),
            rate: 2_000,
            warm_up_s: 60,
            measure_s: 300,
            rates: vec![3_000, 4_000, 6_000, 8_000, 10_000, 14_000, 20_000],
            partitions: 4,
            deliveries: DELIVERIES.map(String::from).to_vec(),
            sets: Vec::new(),
        };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut value = || args.next().unwrap_or_else(|| panic!("{arg} wants a value"));
            let number = |text: String| text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            match arg.as_str() {
                // Cargo's own.
                "--bench" => {}
                "--rate" => options.rate = number(value()),
                "--warm-up" => options.warm_up_s = number(value()),
                "--measure" => options.measure_s = number(value()),
                "--partitions" => options.partitions = number(value()),
                "--rates" => options.rates = value().split(',').map(|n| number(n.into())).collect(),
                "--delivery" => options.deliveries = vec![value()],
                "--set" => options.sets.push(value()),
                "--quick" => (options.warm_up_s, options.measure_s) = (15, 20),
                "copy" | "steady" | "rates" | "burst" | "hot" => options.scenarios.push(arg),
                _ => panic!(
                    "{arg} is none of the arguments; see the head of tests/benches/latency/main.rs"
                ),
            }
        }
        options
    }

    fn wants(&self, scenario: &str) -> bool {
        self.scenarios.is_empty() || self.scenarios.iter().any(|s| s == scenario)
    }

    /// Phases of one rate: what is not measured, then what is.
    fn steady(&self, rate: u32) -> Vec<(u32, u32)> {
        vec![(rate, self.warm_up_s), (rate, self.measure_s)]
    }
}

/// Who stands between the topics.
#[derive(Clone, Copy, PartialEq)]
enum Between {
    Copy,
    Service,
}

struct Bench {
    options: Options,
    broker: Broker,
    foreign: Foreign,
    stream: Stream,
    taken: Taken,
    runs: u32,
    results: Vec<Value>,
}

fn main() {
    let options = Options::of_the_command_line();
    println!(
        "{}",
        json!({"bench": "latency", "where": place(), "command": std::env::args().collect::<Vec<_>>()})
    );
    let stream = Stream::simulated(shared());
    let broker = Broker::start();
    let foreign = broker.foreign();
    let mut bench = Bench {
        options,
        broker,
        foreign,
        stream,
        taken: Taken::watch(),
        runs: 0,
        results: Vec::new(),
    };

    let rate = bench.options.rate;
    for delivery in &bench.options.deliveries.clone() {
        for (between, scenario) in [(Between::Copy, "copy"), (Between::Service, "steady")] {
            if bench.options.wants(scenario) {
                let phases = bench.options.steady(rate);
                bench.run(scenario, between, delivery, 0, &phases);
            }
        }
    }
    if bench.options.wants("rates") {
        for delivery in &bench.options.deliveries.clone() {
            for rate in bench.options.rates.clone() {
                let phases = bench.options.steady(rate);
                let result = bench.run("rates", Between::Service, delivery, 0, &phases);
                if result["p99_ms"].as_f64().is_none_or(|p99| p99 >= BUDGET_MS) {
                    break;
                }
            }
        }
    }
    if bench.options.wants("burst") {
        let warm_up_s = bench.options.warm_up_s;
        let phases = [(rate, warm_up_s), (rate, 20), (rate * 10, 10), (rate, 60)];
        let delivery = bench.options.deliveries[0].clone();
        bench.run("burst", Between::Service, &delivery, 0, &phases);
    }
    if bench.options.wants("hot") {
        let phases = bench.options.steady(5_000);
        let delivery = bench.options.deliveries[0].clone();
        bench.run("hot", Between::Service, &delivery, 50, &phases);
    }
    println!("{}", bench.table());
}

/// The value of a series; 0 if there is none.
fn value(metrics: &str, series: &str) -> f64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(series));
    line.map_or(0.0, |value| value.trim().parse().expect("a number"))
}

/// Decisions that the service itself saw to be late, by the part of their way that took longest.
#[derive(Debug, Clone, Copy, Serialize)]
struct Misses {
    wait: f64,
    line: f64,
    commit: f64,
}

impl Misses {
    /// Those of the whole run so far.
    fn of(service: &deployed::Service) -> Self {
        let (_, metrics) = service.get("/metrics").expect("metrics");
        let of = |part: &str| {
            let series = format!("sanderling_deadline_misses_total{{part=\"{part}\"}}");
            value(&metrics, &series)
        };
        Self {
            wait: of("wait"),
            line: of("line"),
            commit: of("commit"),
        }
    }

    fn since(self, before: Self) -> Self {
        Self {
            wait: self.wait - before.wait,
            line: self.line - before.line,
            commit: self.commit - before.commit,
        }
    }
}

/// Means of the service's own histograms over its whole run: seconds of a batch by stage, and rows.
fn stages(service: &deployed::Service) -> Value {
    let (_, metrics) = service.get("/metrics").expect("metrics");
    let value = |series: &str| value(&metrics, series);
    let mean = |name: &str, labels: &str| {
        value(&format!("{name}_sum{labels} ")) / value(&format!("{name}_count{labels} ")).max(1.0)
    };
    let mut means = serde_json::Map::new();
    for stage in ["wait", "features", "score", "explain", "encode", "commit"] {
        let labels = format!("{{stage=\"{stage}\"}}");
        means.insert(
            stage.into(),
            mean("sanderling_stage_seconds", &labels).into(),
        );
    }
    means.insert("rows".into(), mean("sanderling_batch_rows", "").into());
    means.into()
}

/// Of every second of a phase its p99, how many of its decisions were below the full model, and how much of the
/// machine its host took: a checkpoint, a pause of the broker or a busy neighbour shows in some of them. And all
/// the undisturbed ones in one.
fn by_second(reader: &mut Reading, part: &Sent, taken: &Taken) -> Value {
    let (mut p99_ms, mut below_full, mut taken_percent) = (Vec::new(), Vec::new(), Vec::new());
    let (mut quiet, mut seconds) = (Vec::<(i64, i64)>::new(), 0);
    for from_ms in (part.from_ms..part.to_ms).step_by(1_000) {
        let second = (from_ms, from_ms + 1_000);
        let report = reader.report(&[second]);
        let count = |what: &Value| what.as_u64().unwrap_or_default();
        p99_ms.push(report["p99_ms"].clone());
        below_full.push(count(&report["decided"]) - count(&report["rungs"]["full"]));
        let percent = taken.percent(second.0, second.1);
        taken_percent.push(percent);
        if percent.max(taken.percent(from_ms - 1_000, from_ms)) < UNDISTURBED_PERCENT {
            seconds += 1;
            match quiet.last_mut() {
                Some(last) if last.1 == second.0 => last.1 = second.1,
                _ => quiet.push(second),
            }
        }
    }
    let mut undisturbed = match quiet.is_empty() {
        true => json!({}),
        false => reader.report(&quiet),
    };
    undisturbed["seconds"] = seconds.into();
    json!({
        "host_took_percent": taken.percent(part.from_ms, part.to_ms),
        "undisturbed": undisturbed,
        "p99_ms_by_second": p99_ms,
        "below_full_by_second": below_full,
        "host_took_percent_by_second": taken_percent,
    })
}

/// Date, host and processor.
fn place() -> Value {
    let said = |program: &str, args: &[&str]| {
        let mut command = std::process::Command::new(program);
        command.args(args).current_dir(root());
        finish(command).stdout.trim().to_string()
    };
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .unwrap_or_default();
    json!({
        "date": said("date", &["-u", "+%Y-%m-%dT%H:%MZ"]),
        "host": said("uname", &["-nrm"]),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "cpu": model.1,
        "commit": said("git", &["rev-parse", "--short", "HEAD"]),
    })
}

impl Bench {
    /// Runs one scenario on topics of its own; returns the result of what was measured. Phases are
    /// `(rate, seconds)`; of several after the first each has a result.
    fn run(
        &mut self,
        scenario: &str,
        between: Between,
        delivery: &str,
        hot_percent: u32,
        phases: &[(u32, u32)],
    ) -> Value {
        self.runs += 1;
        let name = format!("bench{}", self.runs);
        let brokers = self.broker.brokers();
        let deployed = Deployed::new(
            "pipelines/card-fraud",
            &name,
            self.options.partitions,
            &self.broker,
        );
        deployed.edit(|settings| {
            settings["delivery"] = delivery.into();
            settings["state"]["interval"] = "30s".into();
        });
        let (events, decisions) = (deployed.topic("transactions"), deployed.topic("decisions"));
        deployed.create_topics(&mut self.foreign, &["transactions", "labels"]);

        let mut service = None;
        let mut copy = None;
        match between {
            Between::Copy => {
                copy = Some(Copying::start(
                    &brokers,
                    &events,
                    &decisions,
                    delivery,
                    COPY_INTERVAL_MS,
                ));
            }
            Between::Service => {
                let history = self.stream.history.to_str().expect("a plain path");
                let sets = self.options.sets.iter().flat_map(|set| ["--set", set]);
                let more: Vec<&str> = ["--history", history].into_iter().chain(sets).collect();
                let mut running = deployed.start_with("bench", &more);
                running.wait_until_live(LIVE_WITHIN);
                service = Some(running);
            }
        }
        let pid = match (&service, &copy) {
            (Some(service), _) => service.id(),
            (_, Some(copy)) => copy.id(),
            _ => unreachable!("someone stands between the topics"),
        };
        let mut reader = Reading::start(&brokers, &events, &decisions);
        let mut producer = Producing::start(
            &brokers,
            &events,
            &self.stream.payments,
            POPULATIONS,
            hot_percent,
            phases,
        );
        let mut sent = Vec::new();
        let mut cpu_s = Vec::new();
        // Until each phase began, and at last all of them.
        let mut missed = Vec::new();
        for _ in phases {
            missed.push(service.as_ref().map(Misses::of));
            let before = clients::cpu_s(pid);
            sent.push(producer.phase());
            cpu_s.push(clients::cpu_s(pid) - before);
        }
        std::thread::sleep(LEFT_ALONE);
        let whole = Sent {
            sent: sent.iter().map(|part| part.sent).sum(),
            from_ms: sent[0].from_ms,
            to_ms: i64::MAX,
            ..sent[0]
        };
        let all = reader.report_when_all(&whole, DRAINED_WITHIN);
        let stages = service.as_ref().map(stages).unwrap_or_default();
        missed.push(service.as_ref().map(Misses::of));

        let mut last = Value::Null;
        for (at, (part, (rate, seconds))) in sent.iter().zip(phases).enumerate().skip(1) {
            let report = reader.report(&[part.span()]);
            let by_second = by_second(&mut reader, part, &self.taken);
            let mut result = json!({
                "scenario": scenario,
                "between": match between { Between::Copy => "bare copy", Between::Service => "service" },
                "delivery": delivery,
                "phase": at,
                "rate": rate,
                "seconds": seconds,
                "producer_behind_ms_max": part.behind_ms_max,
                "stages_mean": stages,
                "deadline_misses": missed[at + 1].zip(missed[at]).map(|(all, before)| all.since(before)),
                "cpu_cores": (cpu_s[at] / f64::from(*seconds) * 100.0).round() / 100.0,
                // From the end of sending to the last decision about what was sent.
                "caught_up_ms": report["last_ms"].as_i64().unwrap_or_default() - part.to_ms,
            });
            let object = result.as_object_mut().expect("an object");
            for told in [&report, &by_second] {
                object.extend(told.as_object().expect("an object").clone());
            }
            println!("{result}");
            self.results.push(result.clone());
            last = result;
        }
        if all["events"] != whole.sent || all["events"] != all["decided"] || all["again"] != 0 {
            println!(
                "{}",
                json!({"scenario": scenario, "delivery": delivery, "lost_or_repeated": all})
            );
        }
        if let Some(service) = service {
            service.stop();
        }
        last
    }

    fn table(&self) -> String {
        let mut table = String::from(
            "| scenario | between | delivery | events/s | p50 ms | p99 ms | p99.9 ms | decided | alerts | full model | cores | host took | undisturbed p99 ms |\n\
             |---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
        );
        for result in &self.results {
            let text = |name: &str| result[name].as_str().unwrap_or_default().to_string();
            let number = |name: &str| result[name].to_string();
            let decided = result["decided"].as_f64().unwrap_or_default();
            let share = |of: &Value| 100.0 * of.as_f64().unwrap_or_default() / decided.max(1.0);
            let _ = writeln!(
                table,
                "| {} | {} | {} | {} | {} | {} | {} | {} of {} | {:.2} % | {:.2} % | {} | {} % | {} of {} s |",
                text("scenario"),
                text("between"),
                text("delivery").replace('_', " "),
                number("rate"),
                number("p50_ms"),
                number("p99_ms"),
                number("p999_ms"),
                number("decided"),
                number("events"),
                share(&result["alerts"]),
                share(&result["rungs"]["full"]),
                number("cpu_cores"),
                number("host_took_percent"),
                result["undisturbed"]["p99_ms"],
                result["undisturbed"]["seconds"],
            );
        }
        table
    }
}
