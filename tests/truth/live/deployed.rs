//! A pipeline put before a broker: a copy of its folder with topics of its own, and the service
//! that runs it, as a process that can be killed.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use serde_yaml_ng::Value as Yaml;
use tempfile::TempDir;

use super::broker::{Broker, free_port};
use super::foreign::Foreign;
use super::http;
use crate::sanderling::{command, root, scratch, tail};

/// How long a service may take to be live, on a machine that has other tests to run.
pub const LIVE_WITHIN: Duration = Duration::from_secs(60);
/// How long what was sent may take to be decided.
pub const DONE_WITHIN: Duration = Duration::from_secs(120);

const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a service may take to its end after SIGTERM.
const DRAIN_WITHIN: Duration = Duration::from_secs(30);

/// A pipeline's folder, its topics and its state.
pub struct Deployed {
    scratch: TempDir,
    name: String,
    partitions: u32,
}

impl Deployed {
    /// A copy of `pipeline`, a folder of the repository, under `name`, which its topics and its
    /// group begin with. Its input topics get `partitions` each. No topic is there yet.
    pub fn new(pipeline: &str, name: &str, partitions: u32, broker: &Broker) -> Self {
        let scratch = scratch();
        let deployed = Self {
            scratch,
            name: name.into(),
            partitions,
        };
        copy(&root().join(pipeline), &deployed.folder());
        let topic = |original: &str| Yaml::from(format!("{name}-{original}"));
        deployed.edit(|settings| {
            for (stream, of_stream) in settings["streams"].as_mapping_mut().expect("streams") {
                let stream = stream.as_str().expect("a name");
                of_stream["topic"] = topic(stream);
            }
            settings["kafka"]["brokers"] = broker.brokers().into();
            for output in ["decisions", "dead_letters", "order"] {
                settings["output"][output] = topic(output);
            }
            settings["delivery"] = "exactly_once".into();
            let state = deployed.state();
            settings["state"]["url"] = format!("file://{}", state.display()).into();
            settings["state"]["interval"] = "2s".into();
        });
        deployed
    }

    /// Changes its `pipeline.yaml`.
    pub fn edit(&self, change: impl FnOnce(&mut Yaml)) {
        let file = self.folder().join("pipeline.yaml");
        let text = std::fs::read_to_string(&file).expect("a pipeline");
        let mut settings: Yaml = serde_yaml_ng::from_str(&text).expect("a pipeline of YAML");
        for section in ["kafka", "output", "state"] {
            if settings.get(section).is_none() {
                settings[section] = Yaml::Mapping(Default::default());
            }
        }
        change(&mut settings);
        std::fs::write(&file, serde_yaml_ng::to_string(&settings).expect("YAML"))
            .expect("a pipeline");
    }

    /// Gives it a trained model.
    pub fn put_model(&self, model: &Path) {
        copy(model, &self.folder().join("model"));
    }

    /// Makes its topics.
    pub fn create_topics(&self, foreign: &mut Foreign, streams: &[&str]) {
        let outputs = ["decisions", "dead_letters", "order"].map(|output| self.topic(output));
        let inputs: Vec<String> = streams.iter().map(|stream| self.topic(stream)).collect();
        let inputs = inputs.iter().map(|topic| (topic.as_str(), self.partitions));
        foreign.create(inputs.chain(outputs.iter().map(|topic| (topic.as_str(), 1))));
    }

    /// The folder of the pipeline.
    pub fn folder(&self) -> PathBuf {
        self.scratch.path().join(&self.name)
    }

    /// The folder of its checkpoints.
    pub fn state(&self) -> PathBuf {
        self.scratch.path().join("state")
    }

    /// A folder beside it.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// The topic of a stream, or of `decisions`, `dead_letters`, `order`.
    pub fn topic(&self, of: &str) -> String {
        format!("{}-{of}", self.name)
    }

    /// Its consumer group.
    pub fn group(&self) -> String {
        format!("sanderling-{}", self.name)
    }

    /// `sanderling run` of it, not yet started.
    pub fn run(&self, more: &[&str]) -> Command {
        self.run_at(free_port(), more)
    }

    /// The same with a port for its health.
    fn run_at(&self, port: u16, more: &[&str]) -> Command {
        let folder = self.folder();
        let mut args = vec!["run", folder.to_str().expect("a plain path"), "--json"];
        args.extend(more);
        let mut run = command(&args);
        run.args(["--set", &format!("health.listen=127.0.0.1:{port}")]);
        run
    }

    /// Starts an instance; its log goes on in one file.
    pub fn start(&self, instance: &str) -> Service {
        self.start_with(instance, &[])
    }

    /// The same with more arguments.
    pub fn start_with(&self, instance: &str, more: &[&str]) -> Service {
        let port = free_port();
        let mut run = self.run_at(port, more);
        run.args(["--set", &format!("instance={instance}")]);
        let log = self.beside(&format!("{instance}.log"));
        let open = || {
            File::options()
                .create(true)
                .append(true)
                .open(&log)
                .expect("a log")
        };
        let child = run
            .stdout(Stdio::from(open()))
            .stderr(Stdio::from(open()))
            .spawn()
            .unwrap_or_else(|e| panic!("{run:?}: {e}"));
        Service {
            child,
            port,
            log,
            started: Instant::now(),
        }
    }
}

/// A running instance, killed when dropped.
pub struct Service {
    child: Child,
    port: u16,
    log: PathBuf,
    started: Instant,
}

impl Service {
    /// Waits until it decides events as they come; returns the time since its start.
    pub fn wait_until_live(&mut self, within: Duration) -> Duration {
        loop {
            if self.get("/readyz").is_some_and(|(status, _)| status == 200) {
                return self.started.elapsed();
            }
            if let Some(status) = self.child.try_wait().expect("a child") {
                panic!("the service has ended, {status}:\n{}", self.log_tail());
            }
            assert!(
                self.started.elapsed() < within,
                "not live after {within:?}: {:?}\n{}",
                self.get("/readyz"),
                self.log_tail()
            );
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Status and body of what its health port answers, if it does.
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        http::ask(&format!("127.0.0.1:{}", self.port), "GET", path, "")
    }

    /// Where its health port is.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The process, for who measures it.
    #[allow(dead_code)]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it by SIGKILL: nothing is flushed, nothing is tidied up.
    pub fn kill(mut self) {
        assert!(
            self.child.try_wait().expect("a child").is_none(),
            "ended by itself:\n{}",
            self.log_tail()
        );
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a child ends");
    }

    /// Has it stand still, until it is told to go on.
    pub fn stand_still(&self) {
        self.signal("STOP");
    }

    /// Has it go on.
    pub fn go_on(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let told = Command::new("sh")
            .args(["-c", &format!("kill -{name} {}", self.child.id())])
            .status()
            .expect("sh runs");
        assert!(told.success(), "ended by itself:\n{}", self.log_tail());
    }

    /// Stops it by SIGTERM, which must end in order.
    pub fn stop(mut self) -> Duration {
        let begun = Instant::now();
        self.signal("TERM");
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                assert!(
                    status.success(),
                    "{status} after SIGTERM:\n{}",
                    self.log_tail()
                );
                return begun.elapsed();
            }
            assert!(
                begun.elapsed() < DRAIN_WITHIN,
                "does not end after SIGTERM:\n{}",
                self.log_tail()
            );
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        tail(&self.log)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.log_tail());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The failure that a command ends with: exit status and the last line of JSON on stderr.
pub fn refusal(mut command: Command, within: Duration) -> (i32, Value) {
    let shown = format!("{command:?}");
    let folder = scratch();
    let log = folder.path().join("stderr");
    let mut child = command
        .stdout(Stdio::null())
        .stderr(File::create(&log).expect("a log"))
        .spawn()
        .unwrap_or_else(|e| panic!("{shown}: {e}"));
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        if begun.elapsed() > within {
            let _ = child.kill();
            let _ = child.wait();
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            panic!("{shown}: not refused within {within:?}:\n{said}");
        }
        std::thread::sleep(LOOK_EVERY);
    };
    let said = std::fs::read_to_string(&log).expect("a log");
    let failure = said
        .lines()
        .rev()
        .find_map(|line| {
            serde_json::from_str::<Value>(line)
                .ok()
                .filter(|v| v.get("cure").is_some())
        })
        .unwrap_or_else(|| panic!("{shown}: {status}, no failure in JSON:\n{said}"));
    (status.code().unwrap_or(-1), failure)
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from)
        .unwrap_or_else(|e| panic!("{}: {e}", from.display()))
        .flatten()
    {
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => {
                std::fs::copy(entry.path(), target).expect("a copy");
            }
        }
    }
}
