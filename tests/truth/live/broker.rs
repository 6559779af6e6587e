//! Apache Kafka itself, one broker, as it comes from Maven. Started by the tests that need it;
//! `.ci/setup-tests.sh` fetches it.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::LazyLock;

use tempfile::TempDir;

use super::foreign::Foreign;
use crate::sanderling::{root, scratch, shared, tail};

/// Who may come in at the secured listener.
pub const USER: &str = "alice";
/// Her password.
pub const PASSWORD: &str = "wonderland";
/// As Kafka's own scripts start a broker, but that memory is there from the beginning.
const BROKER_JAVA: [&str; 8] = [
    "-Xms1g",
    "-Xmx1g",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
    "-XX:+AlwaysPreTouch",
    "-XX:+UseTransparentHugePages",
];
/// A small heap and the quick compiler: these processes live for minutes.
const CLIENT_JAVA: [&str; 3] = ["-Xmx800m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];
const STARTS_MAX: usize = 3;

/// A broker on free ports of this machine, stopped when dropped.
pub struct Broker {
    folder: PathBuf,
    ports: Ports,
    process: Option<Process>,
    /// Removed after everything else.
    _own: Option<TempDir>,
}

#[derive(Clone, Copy)]
struct Ports {
    plain: u16,
    controller: u16,
    secured: u16,
    tls: u16,
    mutual: u16,
}

struct Process {
    child: Child,
    /// Its end is the broker's.
    input: ChildStdin,
}

impl Broker {
    /// A broker of one test's own, which may stop it.
    pub fn start() -> Self {
        let own = scratch();
        let mut broker = Self::in_folder(own.path());
        broker._own = Some(own);
        broker
    }

    /// The broker that the tests of this run share. Names of topics and groups must be their own.
    pub fn shared() -> &'static Broker {
        static SHARED: LazyLock<Broker> = LazyLock::new(|| {
            let folder = shared().join("broker");
            std::fs::create_dir_all(&folder).expect("a folder for the broker");
            Broker::in_folder(&folder)
        });
        &SHARED
    }

    fn in_folder(folder: &Path) -> Self {
        self_signed(folder, "key.pem", "certificate.pem");
        self_signed(folder, "client-key.pem", "client.pem");
        let pem = |name: &str| std::fs::read_to_string(folder.join(name)).expect("a PEM file");
        std::fs::write(
            folder.join("store.pem"),
            pem("key.pem") + &pem("certificate.pem"),
        )
        .expect("a key store");

        let mut broker = Self {
            folder: folder.into(),
            ports: Ports::free(),
            process: None,
            _own: None,
        };
        // A free port may be taken by someone else before the broker listens there.
        for _ in 1..STARTS_MAX {
            match broker.launch() {
                Ok(()) => return broker,
                Err(log) => println!("the broker did not start, again on other ports:\n{log}"),
            }
            broker.ports = Ports::free();
        }
        broker
            .launch()
            .unwrap_or_else(|log| panic!("the broker does not start:\n{log}"));
        broker
    }

    /// Its bootstrap servers.
    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.ports.plain)
    }

    /// The same over TLS, for [`USER`] by PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.
    pub fn secured(&self) -> String {
        format!("127.0.0.1:{}", self.ports.secured)
    }

    /// The same over TLS, for anyone.
    pub fn over_tls(&self) -> String {
        format!("127.0.0.1:{}", self.ports.tls)
    }

    /// The same over TLS, for who shows [`Broker::client`].
    pub fn mutual(&self) -> String {
        format!("127.0.0.1:{}", self.ports.mutual)
    }

    /// The key and the certificate of the one client that [`Broker::mutual`] knows.
    pub fn client(&self) -> (PathBuf, PathBuf) {
        let [key, certificate] =
            ["client-key.pem", "client.pem"].map(|name| self.folder.join(name));
        (key, certificate)
    }

    /// The key of [`Broker::certificate`].
    pub fn key(&self) -> PathBuf {
        self.folder.join("key.pem")
    }

    /// The certificate of the listeners over TLS, which signed itself.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("certificate.pem")
    }

    /// A client of it that is not ours.
    pub fn foreign(&self) -> Foreign {
        Foreign::start(&self.brokers())
    }

    /// Ends it by SIGKILL.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("the broker runs");
        process.child.kill().expect("a child can be killed");
        process.child.wait().expect("a child ends");
    }

    /// Stops it in order.
    pub fn stop(&mut self) {
        let mut process = self.process.take().expect("the broker runs");
        process
            .input
            .write_all(b"stop\n")
            .expect("the broker listens");
        process.child.wait().expect("a child ends");
    }

    /// Starts it again, on its ports and its data.
    pub fn restart(&mut self) {
        assert!(self.process.is_none(), "the broker runs");
        self.launch()
            .unwrap_or_else(|log| panic!("the broker does not start again:\n{log}"));
    }

    fn launch(&mut self) -> Result<(), String> {
        let file = self.folder.join("server.properties");
        std::fs::write(&file, self.properties()).expect("the broker's settings");
        let log = self.log();
        let mut child = java("Broker")
            .arg(&file)
            .arg(format!("{USER}={PASSWORD}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).expect("a log"))
            .spawn()
            .expect("java runs");
        let mut said = String::new();
        let output = child.stdout.take().expect("an output");
        BufReader::new(output)
            .read_line(&mut said)
            .expect("an output that is text");
        if said.trim() == "ready" {
            let input = child.stdin.take().expect("an input");
            self.process = Some(Process { child, input });
            return Ok(());
        }
        let _ = child.kill();
        let _ = child.wait();
        Err(std::fs::read_to_string(&log).unwrap_or_default())
    }

    fn log(&self) -> PathBuf {
        self.folder.join("broker.log")
    }

    fn properties(&self) -> String {
        let Ports {
            plain,
            controller,
            secured,
            tls,
            mutual,
        } = self.ports;
        let (data, store) = (self.folder.join("data"), self.folder.join("store.pem"));
        let mut text = String::new();
        let mut set =
            |key: &str, value: &str| writeln!(text, "{key}={value}").expect("a string grows");
        set("process.roles", "broker,controller");
        set("node.id", "1");
        set(
            "controller.quorum.voters",
            &format!("1@127.0.0.1:{controller}"),
        );
        set("controller.listener.names", "CONTROLLER");
        let clients = format!(
            "PLAINTEXT://127.0.0.1:{plain},SASL_SSL://127.0.0.1:{secured},SSL://127.0.0.1:{tls},\
             MUTUAL://127.0.0.1:{mutual}"
        );
        set(
            "listeners",
            &format!("{clients},CONTROLLER://127.0.0.1:{controller}"),
        );
        set("advertised.listeners", &clients);
        set("inter.broker.listener.name", "PLAINTEXT");
        set(
            "listener.security.protocol.map",
            "PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL,MUTUAL:SSL,CONTROLLER:PLAINTEXT",
        );
        set(
            "sasl.enabled.mechanisms",
            "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
        );
        let module = |name: &str| format!("org.apache.kafka.common.security.{name} required");
        set(
            "listener.name.sasl_ssl.plain.sasl.jaas.config",
            &format!(
                "{} user_{USER}=\"{PASSWORD}\";",
                module("plain.PlainLoginModule")
            ),
        );
        for mechanism in ["scram-sha-256", "scram-sha-512"] {
            set(
                &format!("listener.name.sasl_ssl.{mechanism}.sasl.jaas.config"),
                &format!("{};", module("scram.ScramLoginModule")),
            );
        }
        for listener in ["sasl_ssl", "ssl", "mutual"] {
            let of = |key: &str| format!("listener.name.{listener}.ssl.keystore.{key}");
            set(&of("type"), "PEM");
            set(&of("location"), &store.to_string_lossy());
        }
        set("listener.name.mutual.ssl.client.auth", "required");
        set("listener.name.mutual.ssl.truststore.type", "PEM");
        let (_, known) = self.client();
        set(
            "listener.name.mutual.ssl.truststore.location",
            &known.to_string_lossy(),
        );
        // Of what is kept for the life of a broker, nearly all is this buffer.
        set("log.cleaner.dedupe.buffer.size", "8388608");
        set("log.dirs", &data.to_string_lossy());
        set("log.message.timestamp.type", "LogAppendTime");
        set("auto.create.topics.enable", "false");
        // One broker, and a start that does not wait for fifty partitions of each of these.
        set("offsets.topic.replication.factor", "1");
        set("offsets.topic.num.partitions", "4");
        set("transaction.state.log.replication.factor", "1");
        set("transaction.state.log.min.isr", "1");
        set("transaction.state.log.num.partitions", "4");
        set("group.initial.rebalance.delay.ms", "0");
        text
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", tail(&self.log()));
        }
        if let Some(mut process) = self.process.take() {
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }
}

impl Ports {
    fn free() -> Self {
        // Held together, so that they differ.
        let held: Vec<TcpListener> = (0..5)
            .map(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"))
            .collect();
        let port = |i: usize| held[i].local_addr().expect("an address").port();
        Self {
            plain: port(0),
            controller: port(1),
            secured: port(2),
            tls: port(3),
            mutual: port(4),
        }
    }
}

/// Writes a key and a certificate for this machine, which signs itself.
pub fn self_signed(folder: &Path, key: &str, certificate: &str) {
    let kind = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost";
    let made = Command::new("openssl")
        .args(kind.split(' '))
        .args(["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"])
        .args(["-keyout", key, "-out", certificate])
        .current_dir(folder)
        .output()
        .expect("openssl runs");
    let said = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{said}");
}

/// A port of this machine that is free now.
pub fn free_port() -> u16 {
    Ports::free().plain
}

/// `java` with Kafka's jars and a class of `tests/kafka`, compiled once in a run of the tests.
pub fn java(class: &str) -> Command {
    static CLASSES: LazyLock<String> = LazyLock::new(|| {
        let jars = cached("sanderling-kafka-4.1.1").join("libs").join("*");
        let classes = shared().join("classes");
        let sources = root().join("tests/kafka");
        let compiled = Command::new("javac")
            .arg("-cp")
            .arg(&jars)
            .arg("-d")
            .arg(&classes)
            .args(
                ["Broker", "Foreign", "Latency"]
                    .map(|name| sources.join(name).with_extension("java")),
            )
            .output()
            .expect("javac runs; `sh .ci/setup-tests.sh` installs it");
        assert!(
            compiled.status.success(),
            "{}",
            String::from_utf8_lossy(&compiled.stderr)
        );
        format!("{}:{}", jars.display(), classes.display())
    });
    let options: &[&str] = match class {
        "Broker" => &BROKER_JAVA,
        _ => &CLIENT_JAVA,
    };
    let mut command = Command::new("java");
    command.args(options).args([
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        "-cp",
        &CLASSES,
        class,
    ]);
    command
}

/// A folder that `.ci/setup-tests.sh` keeps in the user's cache.
pub fn cached(name: &str) -> PathBuf {
    let cache = match std::env::var_os("XDG_CACHE_HOME") {
        Some(cache) if !cache.is_empty() => PathBuf::from(cache),
        _ => PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache"),
    };
    let folder = cache.join(name);
    assert!(
        folder.is_dir(),
        "{} is missing: run `sh .ci/setup-tests.sh`",
        folder.display()
    );
    folder
}
