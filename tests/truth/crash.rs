//! SIGKILL at random moments, and `--resume`.
//!
//! The moments come from a seed, which is printed; `TRUTH_SEED` sets it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::check::Replay;
use crate::outcome::Outcome;
use crate::random::Random;
use crate::sanderling::{answer_of, command, start};

/// Kills of a run that had a checkpoint to go on from, before it may finish.
const KILLS: usize = 3;
/// Starts, those that were killed too early or too late included.
const STARTS_MAX: usize = 24;
/// Checkpoints that an unbroken run would make, if they took no time.
const CHECKPOINTS: u64 = 100;
/// A replay of fewer rows makes one for each of them.
const SHORT_ROWS: u64 = 1000;

/// Replays `rows` rows, which takes `took`, into `out`: killed [`KILLS`] times at random moments, the
/// newest checkpoint damaged once, and resumed each time, at last to the end. Then it is resumed
/// once more, which must change nothing.
pub fn killed_and_resumed(replay: &Replay, out: &Path, rows: u64, took: Duration) {
    let mut random = Random::seeded("killed and resumed");
    let out_text = out.to_str().expect("a plain path");
    let (interval_us, batch_rows) = match rows < SHORT_ROWS {
        true => (1, "1"),
        false => (took.as_micros() as u64 / CHECKPOINTS, "128"),
    };
    let interval = format!("state.interval={}us", interval_us.max(1));
    let args = replay.with(&["--out", out_text, "--batch-rows", batch_rows]);
    let state = out.join("state").join(&replay.pipeline);
    let mut kills = 0;
    for _ in 0..STARTS_MAX {
        if kills == KILLS {
            break;
        }
        let mut known = checkpoints(&state);
        let mut process = command(&args);
        process.args(["--set", &interval]);
        if !known.is_empty() {
            process.arg("--resume");
        }
        let mut child = start(process);
        // Mostly after a few checkpoints, now and then far into the stream.
        let mut to_wait_for = random.next() % 5 * (1 + random.next() % 5);
        while to_wait_for > 0 && child.try_wait().expect("a child").is_none() {
            let now = checkpoints(&state);
            to_wait_for -= u64::from(now != known);
            known = now;
            std::thread::sleep(Duration::from_micros(200));
        }
        std::thread::sleep(Duration::from_millis(10).mul_f64(random.share()));
        // Kill comes as SIGKILL: nothing is flushed, nothing is tidied up.
        child.kill().expect("a child can be killed");
        let finished = child.wait().expect("a child ends").success();
        if finished {
            // Too late for a kill: begin anew.
            std::fs::remove_dir_all(out).expect("an output folder");
            continue;
        }
        let left = checkpoints(&state);
        if let Some(newest) = left.last() {
            kills += 1;
            if kills == 1 && left.len() > 1 {
                damage(&state.join(newest.to_string()), &mut random);
            }
        }
    }
    println!("killed {kills} times with a checkpoint to go on from");
    assert!(
        kills > 0,
        "no kill came between the first checkpoint and the end"
    );
    let mut resumed = args.clone();
    resumed.push("--resume".into());
    answer_of(command(&resumed));
    let first = Outcome::read(out);
    answer_of(command(&resumed));
    first.must_equal(&Outcome::read(out), "resumed after its end");
}

/// The checkpoints that are whole by their manifest, oldest first.
pub fn checkpoints(state: &Path) -> Vec<u64> {
    let Ok(listing) = std::fs::read_dir(state) else {
        return Vec::new();
    };
    let mut found: Vec<u64> = listing
        .flatten()
        .filter(|entry| entry.path().join("manifest.json").exists())
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    found.sort_unstable();
    found
}

/// Flips a byte of one of a checkpoint's files, or cuts the file short. What a killed writer left half
/// written beside them, `windows-0.arrow#1`, is none of them and may be empty.
fn damage(checkpoint: &Path, random: &mut Random) {
    let mut files: Vec<PathBuf> = std::fs::read_dir(checkpoint)
        .expect("a checkpoint")
        .flatten()
        .map(|e| e.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|e| e == "arrow" || e == "json")
        })
        .collect();
    files.sort();
    let file = &files[random.next() as usize % files.len()];
    let mut bytes = std::fs::read(file).expect("a file of a checkpoint");
    let at = random.next() as usize % bytes.len();
    match random.next() % 2 {
        0 => bytes[at] ^= 0x10,
        _ => bytes.truncate(at),
    }
    println!("damaged {} at byte {at}", file.display());
    std::fs::write(file, bytes).expect("a file of a checkpoint");
}

#[test]
fn damage_is_done_to_what_a_checkpoint_consists_of() {
    let checkpoint = crate::sanderling::scratch();
    let left = checkpoint.path().join("windows-0.arrow#1");
    let windows = checkpoint.path().join("windows-0.arrow");
    let mut random = Random::seeded("damage");
    for _ in 0..32 {
        std::fs::write(&left, []).expect("a file");
        std::fs::write(&windows, [7; 64]).expect("a file");
        damage(checkpoint.path(), &mut random);
        assert_ne!(std::fs::read(&windows).expect("a file"), [7; 64]);
    }
}
