//! Who this process is among those that serve a pipeline, and that it is the only one of its name.
//!
//! Two processes of one name on one host are kept apart by a locked file, which the system lets go
//! of however a process ends: a ghost never holds it. On different hosts the transactional id and
//! the static membership fence off the older one.

use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::failure::{Failure, io_failure};

/// How long a process that was killed may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(3);

/// The name of an instance, held.
pub struct Instance {
    /// Its name: the client id, the static member, and part of the transactional id.
    pub name: String,
    _lock: File,
}

impl Instance {
    /// Takes the name `name`, or the host's, for a pipeline whose local state is under `folder`.
    pub fn take(name: Option<&str>, folder: &Path) -> Result<Self, Failure> {
        let name = match name {
            Some(name) => name.to_string(),
            None => host_name(),
        };
        let fits = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || !name.chars().all(fits) {
            return Err(Failure::usage(format!("`{name}` cannot name an instance"))
                .cure("write --instance with letters, digits, `-`, `_` and `.`"));
        }
        std::fs::create_dir_all(folder)
            .map_err(|e| io_failure(folder, "make the state folder", &e))?;
        let path = folder.join(format!("{name}.lock"));
        let lock = File::create(&path).map_err(|e| io_failure(&path, "lock the state", &e))?;
        let since = Instant::now();
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Self { name, _lock: lock }),
                // One that was just killed takes a moment to be gone.
                Err(TryLockError::WouldBlock) if since.elapsed() < GONE_WITHIN => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(Failure::new(
                        "instance",
                        format!("the instance `{name}` of this pipeline runs already on this host"),
                    )
                    .in_file(&path)
                    .cure("stop it first, or give this one another name with --instance"));
                }
                Err(TryLockError::Error(e)) => return Err(io_failure(&path, "lock the state", &e)),
            }
        }
    }
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_string())
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "sanderling".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_taken_once_and_free_again() {
        let folder = tempfile::tempdir().unwrap();
        let first = Instance::take(Some("a"), folder.path()).unwrap();
        assert!(Instance::take(Some("a"), folder.path()).is_err());
        Instance::take(Some("b"), folder.path()).unwrap();
        drop(first);
        Instance::take(Some("a"), folder.path()).unwrap();
        assert!(Instance::take(Some("a/b"), folder.path()).is_err());
    }
}
