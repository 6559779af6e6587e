//! The program under test, run as a user runs it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use serde_json::Value;
use tempfile::TempDir;

/// What a finished command left.
#[derive(Debug)]
pub struct Finished {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

/// The root of the repository: paths in a command line are read from here.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the tests are a folder of the repository")
}

/// A folder of one test's own, under the build's folder for such things.
pub fn scratch() -> TempDir {
    TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).expect("a scratch folder")
}

/// A folder that the tests of this run share. Those of runs that have ended are removed.
pub fn shared() -> &'static Path {
    static SHARED: LazyLock<PathBuf> = LazyLock::new(|| {
        let parent = Path::new(env!("CARGO_TARGET_TMPDIR"));
        for entry in std::fs::read_dir(parent)
            .expect("the build's folder")
            .flatten()
        {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(pid) = name.strip_prefix("shared-")
                && !Path::new("/proc").join(pid).exists()
            {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        let folder = parent.join(format!("shared-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a shared folder");
        folder
    });
    &SHARED
}

/// The end of a log, for a failed test to show.
pub fn tail(log: &Path) -> String {
    const LINES: usize = 300;
    let log = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

/// The command `sanderling args..`, not yet started.
pub fn command<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sanderling-under-test"));
    plain(&mut command).args(args);
    command
}

/// The same on one core, where the system can do that.
pub fn on_one_core<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Command {
    let able = Command::new("taskset")
        .arg("--version")
        .output()
        .is_ok_and(|o| o.status.success());
    if !able {
        let mut one = command(args);
        one.env("RAYON_NUM_THREADS", "1");
        return one;
    }
    let mut command = Command::new("taskset");
    plain(&mut command)
        .args(["-c", "0", env!("CARGO_BIN_EXE_sanderling-under-test")])
        .args(args);
    command.env("RAYON_NUM_THREADS", "1");
    command
}

fn plain(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SANDERLING_")) {
        command.env_remove(name);
    }
    command.current_dir(root()).stdin(Stdio::null())
}

/// Runs a command to its end.
pub fn finish(mut command: Command) -> Finished {
    let output = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    Finished {
        status: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs `sanderling args.. --json`, which must succeed; returns its last line.
pub fn answer<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Value {
    let mut command = command(args);
    command.arg("--json");
    answer_of(command)
}

/// Simulates so many days of card payments, from the day `start` on, into a file.
pub fn simulate(out: &Path, seed: u64, days: u32, start: &str) {
    let (seed, days) = (seed.to_string(), days.to_string());
    let out = out.to_str().expect("a plain path");
    let what = ["simulate", "card-fraud", "--seed", &seed, "--days", &days];
    answer(&[&what[..], &["--start", start, "--out", out]].concat());
}

/// The last line of a command that must succeed.
pub fn answer_of(command: Command) -> Value {
    let shown = format!("{command:?}");
    let done = finish(command);
    assert_eq!(done.status, 0, "{shown}\n{}{}", done.stdout, done.stderr);
    let line = done.stdout.lines().last().unwrap_or_default();
    serde_json::from_str(line).unwrap_or_else(|e| panic!("{shown}\n{e}: {line}"))
}

/// Starts a command whose output is of no interest.
pub fn start(mut command: Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"))
}
