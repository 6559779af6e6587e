//! Which model decides: the one in the pipeline's folder.
//!
//! The folder is looked at now and then. A model that was promoted there takes over between two
//! batches if it has been folding beside the other all along, and the order log says from where on.
//! One that the service does not fold waits for a restart, which folds the log for it.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;

use crate::folder::{PipelineFolder, short};

/// Who decides now.
pub struct Champion {
    manifest: PathBuf,
    hash: Arc<str>,
    /// Hashes of all models that are folded.
    folded: Vec<Arc<str>>,
    /// The last model found that is not folded, so that it is told of once.
    stranger: Option<String>,
}

/// Of a manifest, what names the model.
#[derive(Deserialize)]
struct Named {
    weights_sha256: String,
}

impl Champion {
    /// The first of the models `folded`, until the folder says otherwise.
    pub fn new(folder: &PipelineFolder, folded: &[Arc<str>]) -> Self {
        Self {
            manifest: folder.model_path().join("manifest.json"),
            hash: folded[0].clone(),
            folded: folded.to_vec(),
            stranger: None,
        }
    }

    /// Its hash.
    pub fn hash(&self) -> &Arc<str> {
        &self.hash
    }

    /// Looks whether another model was promoted. A folder that cannot be read just now, because it is
    /// being exchanged, changes nothing.
    pub fn look(&mut self) {
        let named = std::fs::read(&self.manifest).ok();
        let named = named.and_then(|bytes| serde_json::from_slice::<Named>(&bytes).ok());
        let Some(Named { weights_sha256 }) = named else {
            return;
        };
        if *self.hash == *weights_sha256 {
            self.stranger = None;
            return;
        }
        match self.folded.iter().find(|hash| ***hash == *weights_sha256) {
            Some(hash) => {
                tracing::info!(
                    before = short(&self.hash),
                    now = short(hash),
                    "another model decides"
                );
                self.hash = hash.clone();
                self.stranger = None;
            }
            None if self.stranger.as_ref() != Some(&weights_sha256) => {
                tracing::warn!(
                    model = short(&weights_sha256),
                    "this model was promoted, but the service does not fold it: it decides after a restart; next time name it under challengers first"
                );
                self.stranger = Some(weights_sha256);
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_takes_over_if_it_has_been_folding() {
        let folder = tempfile::tempdir().unwrap();
        let manifest = folder.path().join("manifest.json");
        let promote = |hash: &str| {
            let text = format!("{{\"weights_sha256\":\"{hash}\",\"inputs\":[]}}");
            std::fs::write(&manifest, text).unwrap();
        };
        let mut champion = Champion {
            manifest: manifest.clone(),
            hash: "a".into(),
            folded: vec!["a".into(), "b".into()],
            stranger: None,
        };
        let mut after = || {
            champion.look();
            champion.hash().to_string()
        };
        assert_eq!(after(), "a", "no folder, no change");
        promote("b");
        assert_eq!(after(), "b");
        promote("c");
        assert_eq!(after(), "b", "c has no memory of the stream");
        std::fs::write(&manifest, "{\"weights").unwrap();
        assert_eq!(after(), "b", "half a file");
        promote("a");
        assert_eq!(after(), "a");
    }
}
