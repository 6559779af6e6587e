//! How far a network has learnt, kept on disk after every epoch, so that training that was cut off can go on.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use sanderling_state::{Persist, StateError};
use sha2::{Digest, Sha256};

use super::params::Moments;
use crate::error::ScoringError;
use crate::weights::{Weights, sha256};

/// Ending of a file that tells how far a network is, and of one that is being written.
const ENDINGS: [&str; 2] = ["checkpoint", "unfinished"];

/// A folder in which a training keeps how far it is.
#[derive(Debug, Clone)]
pub struct TrainingCheckpoints {
    folder: PathBuf,
}

impl TrainingCheckpoints {
    /// In `folder`, which is made when there is something to keep. With `resume`, training goes on from
    /// the checkpoints there; else they are removed.
    pub fn new(folder: &Path, resume: bool) -> Result<Self, ScoringError> {
        let folder = folder.to_path_buf();
        let checkpoints = Self { folder };
        if !resume {
            checkpoints.remove()?;
        }
        Ok(checkpoints)
    }

    /// Removes all checkpoints, for when the model is safe; and the folder, if nothing else is in it.
    pub fn remove(&self) -> Result<(), ScoringError> {
        if !self.folder.exists() {
            return Ok(());
        }
        let here = |e: std::io::Error| failed(&self.folder, &e);
        let mut others = false;
        for file in fs::read_dir(&self.folder).map_err(here)? {
            let path = file.map_err(here)?.path();
            let ending = path.extension().and_then(|ending| ending.to_str());
            match ending.is_some_and(|ending| ENDINGS.contains(&ending)) {
                true => fs::remove_file(&path).map_err(|e| failed(&path, &e))?,
                false => others = true,
            }
        }
        match others {
            true => Ok(()),
            false => fs::remove_dir(&self.folder).map_err(here),
        }
    }

    /// The file of one network of the training that `key` names.
    pub(super) fn of_network(&self, network: &str, key: &str) -> CheckpointFile {
        CheckpointFile {
            path: self.folder.join(format!("{network}.{}", ENDINGS[0])),
            key: key.to_string(),
        }
    }
}

/// Where one network's training keeps how far it is.
#[derive(Debug)]
pub(crate) struct CheckpointFile {
    path: PathBuf,
    /// Of all that the training depends on.
    key: String,
}

impl CheckpointFile {
    /// How far the network was; nothing if it never kept anything.
    pub(super) fn load(&self) -> Result<Option<Checkpoint>, ScoringError> {
        if !self.path.exists() {
            return Ok(None);
        }
        let bytes = fs::read(&self.path).map_err(|e| failed(&self.path, &e))?;
        let damaged = || {
            let message = "the checkpoint is damaged; leave --resume out to begin anew";
            failed(&self.path, &message)
        };
        let mut input = bytes.as_slice();
        let [key, hash] = [(); 2].map(|()| String::read(&mut input).map_err(|_| damaged()));
        if hash? != sha256(input) {
            return Err(damaged());
        }
        if key? != self.key {
            return Err(ScoringError::OtherTraining {
                path: self.path.display().to_string(),
            });
        }
        let checkpoint = Checkpoint::read(&mut input).map_err(|_| damaged())?;
        Ok(Some(checkpoint))
    }

    /// Keeps `checkpoint` in place of the one before.
    pub(super) fn save(&self, checkpoint: &Checkpoint) -> Result<(), ScoringError> {
        let mut body = Vec::new();
        checkpoint.write(&mut body);
        let mut bytes = Vec::with_capacity(body.len() + 256);
        self.key.write(&mut bytes);
        sha256(&body).write(&mut bytes);
        bytes.extend_from_slice(&body);
        let unfinished = self.path.with_extension(ENDINGS[1]);
        let folder = self.path.parent().unwrap_or(Path::new("."));
        let written = fs::create_dir_all(folder)
            .and_then(|()| File::create(&unfinished))
            .and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&unfinished, &self.path));
        written.map_err(|e| failed(&self.path, &e))
    }
}

fn failed(path: &Path, message: &dyn std::fmt::Display) -> ScoringError {
    ScoringError::Folder {
        path: path.display().to_string(),
        message: message.to_string(),
    }
}

/// A network between two epochs of the second stage.
#[derive(Debug, Clone)]
pub(super) struct Checkpoint {
    /// Epochs of the second stage that are done.
    pub(super) epochs: usize,
    /// Mean loss of the last epoch.
    pub(super) loss: f64,
    /// What draws rows and drops units from here on.
    pub(super) rng: ChaCha8Rng,
    /// All tensors of the network.
    pub(super) tensors: Weights,
    /// Steps that the optimiser has taken, and what it keeps of each tensor.
    pub(super) steps: usize,
    pub(super) moments: Vec<Moments>,
    /// The tensors by which the stored carries were folded; none before they first are.
    pub(super) folded_by: Option<Weights>,
    /// Losses of the held-out rows after each epoch.
    pub(super) losses: Vec<Vec<f64>>,
    /// Averaged tensors after each epoch, for the one that is kept in the end.
    pub(super) averages: Vec<Vec<(usize, Vec<f32>)>>,
}

/// A list of anything that persists.
fn write_all<T>(items: &[T], out: &mut Vec<u8>, write: impl Fn(&T, &mut Vec<u8>)) {
    (items.len() as u64).write(out);
    items.iter().for_each(|item| write(item, out));
}

fn read_all<T>(
    input: &mut &[u8],
    read: impl Fn(&mut &[u8]) -> Result<T, StateError>,
) -> Result<Vec<T>, StateError> {
    let count = u64::read(input)?;
    (0..count).map(|_| read(input)).collect()
}

fn write_placed((place, values): &(usize, Vec<f32>), out: &mut Vec<u8>) {
    (*place as u64).write(out);
    values.write(out);
}

fn read_placed(input: &mut &[u8]) -> Result<(usize, Vec<f32>), StateError> {
    Ok((u64::read(input)? as usize, Vec::read(input)?))
}

fn write_weights(weights: &Weights, out: &mut Vec<u8>) {
    let bytes = weights.to_bytes();
    bytes.expect("tensors fill their shapes").write(out);
}

fn read_weights(input: &mut &[u8]) -> Result<Weights, StateError> {
    Weights::from_bytes(&Vec::<u8>::read(input)?).map_err(StateError::Damaged)
}

impl Persist for Checkpoint {
    fn write(&self, out: &mut Vec<u8>) {
        (self.epochs as u64).write(out);
        self.loss.write(out);
        self.rng.get_seed().to_vec().write(out);
        self.rng.get_stream().write(out);
        (self.rng.get_word_pos() as i128).write(out);
        write_weights(&self.tensors, out);
        (self.steps as u64).write(out);
        write_all(&self.moments, out, Persist::write);
        write_all(self.folded_by.as_slice(), out, write_weights);
        write_all(&self.losses, out, Persist::write);
        write_all(&self.averages, out, |average, out| {
            write_all(average, out, write_placed);
        });
    }

    fn read(input: &mut &[u8]) -> Result<Self, StateError> {
        let (epochs, loss) = (u64::read(input)? as usize, f64::read(input)?);
        let seed = <[u8; 32]>::try_from(Vec::<u8>::read(input)?);
        let seed = seed.map_err(|_| StateError::Damaged("a seed of another size".to_string()))?;
        let mut rng = ChaCha8Rng::from_seed(seed);
        rng.set_stream(u64::read(input)?);
        rng.set_word_pos(i128::read(input)? as u128);
        Ok(Self {
            epochs,
            loss,
            rng,
            tensors: read_weights(input)?,
            steps: u64::read(input)? as usize,
            moments: read_all(input, Persist::read)?,
            folded_by: read_all(input, read_weights)?.pop(),
            losses: read_all(input, Persist::read)?,
            averages: read_all(input, |input| read_all(input, read_placed))?,
        })
    }
}

/// A hash of all that a training depends on: the version of this program among it, and whatever
/// `parts` adds.
pub(super) fn key(parts: impl FnOnce(&mut Sha256)) -> String {
    let mut hash = Sha256::new_with_prefix(env!("CARGO_PKG_VERSION"));
    parts(&mut hash);
    hex::encode(hash.finalize())
}

#[cfg(test)]
mod tests {
    use rand::RngCore;

    use super::*;

    fn checkpoint() -> Checkpoint {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        rng.next_u32();
        let mut tensors = Weights::default();
        tensors.insert("a", &[2], vec![1.5, f32::MIN_POSITIVE]);
        Checkpoint {
            epochs: 2,
            loss: 0.1 + 0.2,
            rng,
            folded_by: Some(tensors.clone()),
            tensors,
            steps: 7,
            moments: vec![Moments::new(4, vec![0.1, 0.2])],
            losses: vec![vec![1.0, 2.0], vec![0.5]],
            averages: vec![vec![(4, vec![0.3])], vec![]],
        }
    }

    #[test]
    fn comes_back_whole_or_says_why_not() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("kept");
        let kept = |resume| TrainingCheckpoints::new(&folder, resume).unwrap();
        let file = |key: &str, resume| kept(resume).of_network("network", key);
        assert!(file("a", true).load().unwrap().is_none(), "nothing is kept");
        let wanted = checkpoint();
        file("a", false).save(&wanted).unwrap();
        let found = file("a", true).load().unwrap().expect("it was kept");
        assert_eq!(format!("{found:?}"), format!("{wanted:?}"));
        assert_eq!(
            found.rng.clone().next_u64(),
            wanted.rng.clone().next_u64(),
            "what is drawn goes on"
        );
        let other = file("b", true).load().unwrap_err();
        assert!(matches!(other, ScoringError::OtherTraining { .. }));
        let path = folder.join("network.checkpoint");
        let mut bytes = fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        fs::write(&path, bytes).unwrap();
        let damaged = file("a", true).load().unwrap_err().to_string();
        assert!(damaged.contains("--resume"), "{damaged}");
        kept(true).remove().unwrap();
        assert!(!folder.exists());
    }

    #[test]
    fn beginning_anew_leaves_nothing_to_go_on_from_and_nobody_elses_files() {
        let folder = tempfile::tempdir().unwrap();
        let theirs = folder.path().join("theirs.csv");
        fs::write(&theirs, "1").unwrap();
        let kept = |resume| TrainingCheckpoints::new(folder.path(), resume).unwrap();
        kept(false)
            .of_network("network.1", "a")
            .save(&checkpoint())
            .unwrap();
        // Another training begins and is cut off before it comes to that network.
        kept(false);
        assert!(
            kept(true)
                .of_network("network.1", "b")
                .load()
                .unwrap()
                .is_none()
        );
        kept(false)
            .of_network("trial", "b")
            .save(&checkpoint())
            .unwrap();
        kept(false).remove().unwrap();
        assert!(theirs.exists());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
