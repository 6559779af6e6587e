//! Kafka's own Java clients, driven from here. What a test says about exactly-once is seen by them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::{Value, json};

use super::broker::java;
use super::client::Client;
use crate::sanderling::scratch;

/// How often progress is asked for.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// A process that does one thing at a time; a second one is a second client.
pub struct Foreign(Client);

/// A record as a foreign consumer sees it.
#[derive(Debug, Clone, Deserialize)]
pub struct Record {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds, of the broker's append.
    pub timestamp: i64,
    #[serde(default)]
    pub key: Option<String>,
    /// Text; bytes that are none stand in `value_base64`.
    #[serde(default)]
    pub value: Option<String>,
    #[serde(default)]
    pub value_base64: Option<String>,
    #[serde(default)]
    pub headers: BTreeMap<String, Option<String>>,
}

/// What a consumer is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    Committed,
    Uncommitted,
}

impl Isolation {
    /// As a consumer's setting.
    fn name(self) -> &'static str {
        match self {
            Self::Committed => "read_committed",
            Self::Uncommitted => "read_uncommitted",
        }
    }
}

/// Partition -> next offset, by topic.
pub type Ends = BTreeMap<String, BTreeMap<String, i64>>;

impl Record {
    /// `topic/partition/offset`.
    pub fn id(&self) -> String {
        format!("{}/{}/{}", self.topic, self.partition, self.offset)
    }

    /// Its value's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        match (&self.value, &self.value_base64) {
            (Some(text), _) => text.clone().into_bytes(),
            (None, Some(encoded)) => BASE64.decode(encoded).expect("base64"),
            (None, None) => Vec::new(),
        }
    }

    /// Its value, which is JSON.
    pub fn json(&self) -> Value {
        let text = self
            .value
            .as_deref()
            .unwrap_or_else(|| panic!("no text in {}", self.id()));
        serde_json::from_str(text).unwrap_or_else(|e| panic!("{}: {e}: {text}", self.id()))
    }
}

impl Foreign {
    /// Clients of these brokers.
    pub fn start(brokers: &str) -> Self {
        let mut command = java("Foreign");
        Self(Client::start(command.arg(brokers).stderr(Stdio::null())))
    }

    /// Begins what `request` asks for; `tests/kafka/Foreign.java` says what that can be.
    pub fn begin(&mut self, request: &Value) {
        self.0.tell(request);
    }

    /// Waits for the answer to what was begun.
    pub fn finish(&mut self) -> Value {
        let answer: Value = self.0.answer();
        assert!(
            answer.get("error").is_none(),
            "{}",
            answer["error"].as_str().unwrap_or_default()
        );
        answer
    }

    /// Both.
    pub fn ask(&mut self, request: &Value) -> Value {
        self.begin(request);
        self.finish()
    }

    /// Makes topics of so many partitions.
    pub fn create<'a>(&mut self, topics: impl IntoIterator<Item = (&'a str, u32)>) {
        let topics: BTreeMap<&str, Value> = topics
            .into_iter()
            .map(|(name, partitions)| (name, json!({"partitions": partitions})))
            .collect();
        self.ask(&json!({"do": "topics", "topics": topics}));
    }

    /// All records of these topics up to their present end, a topic's partition in order.
    pub fn consume(&mut self, topics: &[&str], isolation: Isolation) -> Vec<Record> {
        let folder = scratch();
        let out = folder.path().join("records.jsonl");
        let isolation = isolation.name();
        self.ask(&json!({"do": "consume", "topics": topics, "isolation": isolation, "out": out}));
        BufReader::new(File::open(&out).expect("what was consumed"))
            .lines()
            .map(|line| serde_json::from_str(&line.expect("text")).expect("a record"))
            .collect()
    }

    /// Ends of topics, whatever became of the transactions that wrote there.
    pub fn ends(&mut self, topics: &[&str]) -> Ends {
        let answer = self.ask(&json!({"do": "ends", "topics": topics}));
        serde_json::from_value(answer).expect("offsets by topic")
    }

    /// Whether records of a transaction that is neither committed nor aborted are in `topic`.
    pub fn is_transaction_open(&mut self, topic: &str) -> bool {
        let [committed, all] = [Isolation::Committed, Isolation::Uncommitted].map(|isolation| {
            let request = json!({"do": "ends", "topics": [topic], "isolation": isolation.name()});
            self.ask(&request)
        });
        committed != all
    }

    /// What a group has committed.
    pub fn committed(&mut self, group: &str) -> Ends {
        let answer = self.ask(&json!({"do": "committed", "group": group}));
        serde_json::from_value(answer).expect("offsets by topic")
    }

    /// Records of `topics` that `group` has committed; markers of transactions count.
    pub fn progress(&mut self, group: &str, topics: &[&str]) -> i64 {
        let committed = self.committed(group);
        topics
            .iter()
            .filter_map(|topic| committed.get(*topic))
            .flat_map(BTreeMap::values)
            .sum()
    }

    /// Waits until `group` has committed at least `records` of `topics`.
    pub fn wait_for_progress(
        &mut self,
        group: &str,
        topics: &[&str],
        records: i64,
        within: Duration,
    ) {
        let begun = Instant::now();
        loop {
            let now = self.progress(group, topics);
            if now >= records {
                return;
            }
            assert!(
                begun.elapsed() < within,
                "{group} has committed {now} of {records} records after {within:?}"
            );
            std::thread::sleep(ASK_EVERY);
        }
    }

    /// Waits until `group` has committed all of `topics`, whose last records must not be a
    /// transaction's: its marker is behind them, and no consumer commits that.
    pub fn wait_for_end(&mut self, group: &str, topics: &[&str], within: Duration) {
        let ends = self.ends(topics);
        let all = ends.values().flat_map(BTreeMap::values).sum();
        self.wait_for_progress(group, topics, all, within);
    }
}
