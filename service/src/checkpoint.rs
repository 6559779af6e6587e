//! Checkpoints: a cached fold, put where it survives the process.
//!
//! `<root>/<pipeline>/<sequence>/{windows-0.arrow, model-<hash>-0.arrow, manifest.json}`. The
//! manifest is written last and holds the checksum of every file and of itself, so a checkpoint is
//! whole or it is not one. The newest good one is taken; a damaged one is passed over and said.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::buffer::Buffer;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path as StorePath;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload, WriteMultipart};
use sanderling_schemas::Versions;
use sanderling_state::{Restored, Snapshot};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::runtime::Runtime;

use crate::failure::{Failure, io_failure};
use crate::roster::ModelSnapshots;

/// Checkpoints that are kept: the newest, and one to fall back on.
const KEPT: usize = 2;
const WINDOWS: &str = "windows-0.arrow";
const MANIFEST: &str = "manifest.json";
/// Bytes that are given to storage at once.
const PART_BYTES: usize = 4 << 20;
const CURE: &str = "check that the storage of `state.url` is there, writable and not full";

/// What a checkpoint says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CheckpointManifest {
    /// Sequence of the next row.
    pub sequence: u64,
    /// Where the source stood.
    pub position: serde_json::Value,
    /// What had decided until then.
    pub versions: Versions,
    /// What the command that wrote it keeps beside the fold.
    pub progress: serde_json::Value,
    /// SHA-256 of each file, hex.
    pub files: BTreeMap<String, String>,
}

/// A manifest with its own checksum.
#[derive(Serialize, Deserialize)]
struct Sealed {
    manifest: CheckpointManifest,
    sha256: String,
}

/// A checkpoint that was read back whole.
pub struct Checkpoint {
    /// What it says of itself.
    pub manifest: CheckpointManifest,
    /// State of the windows.
    pub windows: Restored,
    /// State of each model, by hash.
    pub models: BTreeMap<Arc<str>, Restored>,
}

/// The checkpoints of one pipeline.
pub struct CheckpointStore {
    store: Arc<dyn ObjectStore>,
    prefix: StorePath,
    runtime: Runtime,
    /// The folder that holds those of all pipelines, where that is one of this machine's.
    local: Option<PathBuf>,
}

impl CheckpointStore {
    /// The checkpoints of `pipeline` in `store`.
    pub fn new(store: Arc<dyn ObjectStore>, pipeline: &str) -> Result<Self, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Failure::new("checkpoint", format!("no runtime for storage: {e}")))?;
        Ok(Self {
            store,
            prefix: StorePath::from(pipeline),
            runtime,
            local: None,
        })
    }

    /// The checkpoints of `pipeline` under `root`, a folder of this machine.
    pub fn local(root: &Path, pipeline: &str) -> Result<Self, Failure> {
        // Without the cleanup every dropped checkpoint would leave its empty folder to be listed for ever.
        let store = LocalFileSystem::new_with_prefix(root)
            .map_err(|e| Failure::new("checkpoint", e.to_string()).in_file(root))?
            .with_automatic_cleanup(true);
        Ok(Self {
            local: Some(root.into()),
            ..Self::new(Arc::new(store), pipeline)?
        })
    }

    /// Writes a checkpoint, manifest last, then drops the oldest beyond those kept. Returns its
    /// size, bytes. After each part of some megabytes `rest` hears how long that took, and may wait.
    pub fn write(
        &self,
        windows: Snapshot,
        models: ModelSnapshots,
        mut manifest: CheckpointManifest,
        rest: &dyn Fn(Duration),
    ) -> Result<u64, Failure> {
        let folder = self.prefix.clone().join(manifest.sequence.to_string());
        manifest.files.clear();
        let mut written = 0;
        let models = (models.into_iter()).map(|(hash, snapshot)| (model_file(&hash), snapshot));
        for (name, snapshot) in std::iter::once((WINDOWS.to_string(), windows)).chain(models) {
            let (bytes, sha256) =
                self.put_parts(&folder.clone().join(name.as_str()), snapshot, rest)?;
            written += bytes;
            manifest.files.insert(name, hex::encode(sha256));
        }
        let sha256 = checksum(&manifest);
        let sealed = serde_json::to_vec_pretty(&Sealed { manifest, sha256 })
            .map_err(|e| Failure::new("checkpoint", e.to_string()))?;
        written += sealed.len() as u64;
        self.put(&folder.join(MANIFEST), sealed)?;
        self.prune()?;
        Ok(written)
    }

    /// The newest checkpoint that is whole, if there is one.
    pub fn newest(&self) -> Result<Option<Checkpoint>, Failure> {
        for sequence in self.sequences()? {
            match self.read(sequence) {
                Ok(checkpoint) => return Ok(Some(checkpoint)),
                Err(why) => tracing::warn!(sequence, %why, "checkpoint passed over"),
            }
        }
        Ok(None)
    }

    /// The checkpoint at `sequence`.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn at(&self, sequence: u64) -> Result<Checkpoint, String> {
        self.read(sequence)
    }

    /// Removes all of them.
    pub fn clear(&self) -> Result<(), Failure> {
        for sequence in self.sequences()? {
            self.remove(sequence)?;
        }
        Ok(())
    }

    fn read(&self, sequence: u64) -> Result<Checkpoint, String> {
        let folder = self.prefix.clone().join(sequence.to_string());
        let sealed: Sealed = serde_json::from_slice(&self.get(&folder.clone().join(MANIFEST))?)
            .map_err(|e| format!("manifest: {e}"))?;
        if checksum(&sealed.manifest) != sealed.sha256 {
            return Err("the manifest's checksum is wrong".into());
        }
        let (mut windows, mut models) = (None, BTreeMap::new());
        for (name, sha256) in &sealed.manifest.files {
            let bytes = self.get(&folder.clone().join(name.as_str()))?;
            let state =
                Restored::of_file(Buffer::from(bytes)).map_err(|e| format!("{name}: {e}"))?;
            if *sha256 != hex::encode(state.sha256()) {
                return Err(format!("the checksum of {name} is wrong"));
            }
            match model_of(name) {
                Some(hash) => _ = models.insert(hash.into(), state),
                None => windows = Some(state),
            }
        }
        Ok(Checkpoint {
            manifest: sealed.manifest,
            windows: windows.ok_or("no windows")?,
            models,
        })
    }

    /// Sequences that have a folder, newest first.
    fn sequences(&self) -> Result<Vec<u64>, Failure> {
        let listing = self
            .runtime
            .block_on(self.store.list_with_delimiter(Some(&self.prefix)))
            .map_err(|e| storage("list", &self.prefix, &e))?;
        let mut sequences: Vec<u64> = listing
            .common_prefixes
            .iter()
            .filter_map(|folder| folder.filename()?.parse().ok())
            .collect();
        sequences.sort_unstable_by(|a, b| b.cmp(a));
        Ok(sequences)
    }

    /// Removes all but the newest of those that were written to their end.
    fn prune(&self) -> Result<(), Failure> {
        let mut kept = 0;
        for sequence in self.sequences()? {
            if kept < KEPT && self.is_written(sequence)? {
                kept += 1;
            } else {
                self.remove(sequence)?;
            }
        }
        Ok(())
    }

    /// Whether a checkpoint has its manifest, which comes last.
    fn is_written(&self, sequence: u64) -> Result<bool, Failure> {
        let manifest = self
            .prefix
            .clone()
            .join(sequence.to_string())
            .join(MANIFEST);
        match self.runtime.block_on(self.store.head(&manifest)) {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(e) => Err(storage("find", &manifest, &e)),
        }
    }

    /// Removes one checkpoint, manifest first.
    fn remove(&self, sequence: u64) -> Result<(), Failure> {
        let folder = self.prefix.clone().join(sequence.to_string());
        self.runtime
            .block_on(async {
                match self.store.delete(&folder.clone().join(MANIFEST)).await {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                    Err(e) => return Err(e),
                }
                let files: Vec<_> = self.store.list(Some(&folder)).try_collect().await?;
                for file in files {
                    self.store.delete(&file.location).await?;
                }
                Ok(())
            })
            .map_err(|e| storage("remove", &folder, &e))?;
        // What a writer left that was killed is in no listing.
        if let Some(root) = &self.local {
            let left = root.join(folder.as_ref());
            match std::fs::remove_dir_all(&left) {
                Err(e) if e.kind() != ErrorKind::NotFound => {
                    return Err(io_failure(&left, "remove the rest of a checkpoint", &e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn put(&self, path: &StorePath, bytes: Vec<u8>) -> Result<(), Failure> {
        self.runtime
            .block_on(self.store.put(path, PutPayload::from(bytes)))
            .map(drop)
            .map_err(|e| storage("write", path, &e))
    }

    /// Writes a snapshot in parts, so that it is never in memory as a whole beside the state. Returns its
    /// size, bytes, and its SHA-256.
    fn put_parts(
        &self,
        path: &StorePath,
        snapshot: Snapshot,
        rest: &dyn Fn(Duration),
    ) -> Result<(u64, [u8; 32]), Failure> {
        let failed = |e| storage("write", path, &e);
        let upload = (self.runtime)
            .block_on(self.store.put_multipart(path))
            .map_err(failed)?;
        let mut parts = Parts {
            upload: WriteMultipart::new_with_chunk_size(upload, PART_BYTES),
            runtime: &self.runtime,
            rest,
            since: Instant::now(),
            part: 0,
            written: 0,
        };
        let sha256 = snapshot.write_arrow(&mut parts).map_err(|e| {
            Failure::new("checkpoint", format!("cannot write {path}: {e}")).cure(CURE)
        })?;
        let written = parts.written;
        (self.runtime)
            .block_on(parts.upload.finish())
            .map_err(failed)?;
        Ok((written, sha256))
    }

    fn get(&self, path: &StorePath) -> Result<Bytes, String> {
        self.runtime
            .block_on(async { self.store.get(path).await?.bytes().await })
            .map_err(|e| e.to_string())
    }
}

/// A file that goes to storage in parts.
struct Parts<'a> {
    upload: WriteMultipart,
    runtime: &'a Runtime,
    rest: &'a dyn Fn(Duration),
    /// When the present part was begun.
    since: Instant,
    /// Bytes of it.
    part: usize,
    written: u64,
}

impl Write for Parts<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _entered = self.runtime.enter();
        self.upload.write(bytes);
        self.part += bytes.len();
        self.written += bytes.len() as u64;
        if self.part >= PART_BYTES {
            self.part = 0;
            (self.runtime).block_on(self.upload.wait_for_capacity(1))?;
            (self.rest)(self.since.elapsed());
            self.since = Instant::now();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn model_file(hash: &str) -> String {
    format!("model-{hash}-0.arrow")
}

/// Hash of the model whose state the file `name` holds.
fn model_of(name: &str) -> Option<&str> {
    name.strip_prefix("model-")?.strip_suffix("-0.arrow")
}

fn checksum(manifest: &CheckpointManifest) -> String {
    hex::encode(Sha256::digest(
        serde_json::json!(manifest).to_string().as_bytes(),
    ))
}

fn storage(doing: &str, path: &StorePath, error: &object_store::Error) -> Failure {
    Failure::new(
        "checkpoint",
        format!("cannot {doing} the checkpoint {path}: {error}"),
    )
    .cure(CURE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use object_store::memory::InMemory;

    fn manifest(sequence: u64) -> CheckpointManifest {
        let v = || Arc::<str>::from("v");
        CheckpointManifest {
            sequence,
            position: serde_json::json!({"row": sequence}),
            versions: Versions {
                engine: v(),
                numerics: v(),
                pipeline: v(),
                features: v(),
                model: v(),
                policy: v(),
            },
            progress: serde_json::Value::Null,
            files: BTreeMap::new(),
        }
    }

    #[test]
    fn the_newest_good_one_is_taken_and_two_are_kept() {
        let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let store = CheckpointStore::new(memory.clone(), "cards").unwrap();
        assert!(store.newest().unwrap().is_none());
        for sequence in [9, 10, 100] {
            store
                .write(
                    Snapshot::default(),
                    ModelSnapshots::from([("v".into(), Snapshot::default())]),
                    manifest(sequence),
                    &|_| (),
                )
                .unwrap();
        }
        assert_eq!(store.sequences().unwrap(), [100, 10]);
        assert_eq!(store.newest().unwrap().unwrap().manifest.sequence, 100);
        // A damaged file, then a torn manifest: the one before is taken.
        store
            .put(
                &StorePath::from("cards/100/windows-0.arrow"),
                b"garbage".to_vec(),
            )
            .unwrap();
        assert_eq!(store.newest().unwrap().unwrap().manifest.sequence, 10);
        store
            .put(
                &StorePath::from("cards/10/manifest.json"),
                b"{\"manifest\":".to_vec(),
            )
            .unwrap();
        assert!(store.newest().unwrap().is_none());
    }

    #[test]
    fn what_a_killed_writer_left_goes_with_the_next_checkpoint() {
        let root = tempfile::tempdir().unwrap();
        let store = CheckpointStore::local(root.path(), "cards").unwrap();
        let write = |sequence| {
            let models = ModelSnapshots::new();
            (store.write(Snapshot::default(), models, manifest(sequence), &|_| ())).unwrap();
        };
        write(1);
        write(2);
        let torn = root.path().join("cards/3");
        std::fs::create_dir(&torn).unwrap();
        std::fs::write(torn.join("windows-0.arrow#1"), b"half a part").unwrap();
        assert_eq!(store.newest().unwrap().unwrap().manifest.sequence, 2);
        write(4);
        assert!(!torn.exists());
        assert_eq!(store.sequences().unwrap(), [4, 2]);
    }
}
