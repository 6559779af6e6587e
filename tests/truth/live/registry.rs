//! A schema registry that is not ours, with Confluent's REST interface; it keeps all in memory.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::broker::cached;
use super::http;

/// Where `.ci/setup-tests.sh` puts it.
const FOLDER: &str = "sanderling-registry-1.8.0-tls";

/// A registry on a free port of this machine, stopped when dropped.
pub struct Registry {
    url: String,
    child: Child,
}

impl Registry {
    /// One that asks nobody who they are.
    pub fn start() -> Self {
        Self::launch(&mut binary())
    }

    /// One that answers over TLS alone.
    pub fn over_tls(certificate: &Path, key: &Path) -> Self {
        let mut command = binary();
        command.arg("-certificate").arg(certificate);
        Self::launch(command.arg("-key").arg(key))
    }

    /// One that wants `authorization` in the header of that name.
    pub fn guarded(authorization: &str) -> Self {
        Self::launch(binary().args(["-authorization", authorization]))
    }

    fn launch(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the registry runs");
        let mut url = String::new();
        let output = child.stdout.take().expect("an output");
        BufReader::new(output)
            .read_line(&mut url)
            .expect("an address");
        Self {
            url: url.trim().into(),
            child,
        }
    }

    /// Where it answers, `http://..` or `https://..`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Registers an Avro schema under a subject; returns its id.
    pub fn register(&self, subject: &str, schema: &str) -> u32 {
        let body = json!({"schema": schema}).to_string();
        let (status, answer) = http::ask(
            self.address(),
            "POST",
            &format!("/subjects/{subject}/versions"),
            &body,
        )
        .expect("the registry answers");
        assert_eq!(status, 200, "{answer}");
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        answer["id"].as_u64().expect("an id") as u32
    }

    /// Status and body of what it answers.
    pub fn get(&self, path: &str) -> (u16, String) {
        http::ask(self.address(), "GET", path, "").expect("the registry answers")
    }

    fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn binary() -> Command {
    Command::new(cached(FOLDER).join("registry"))
}
