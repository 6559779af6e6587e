//! The models of a fold: the champion, which decides, and the challengers, which score beside it.
//!
//! Each folds the same features into a memory of its own, keyed by its hash, whether it decides or
//! not. So which of them decides can change between two batches: whoever takes over has seen all
//! that the other has.

use std::collections::BTreeMap;
use std::sync::Arc;

use sanderling_schemas::{FeatureBatch, FeatureSchema, Relation, Rung};
use sanderling_scoring::{MemoryView, Scored, Scorer, ScoringError, ServedModel};
use sanderling_state::{Restored, Snapshot};

/// All of them.
pub struct Roster {
    scorers: Vec<Scorer>,
    /// Which of them decides.
    champion: usize,
}

/// A scored batch: by the champion, and by those beside it.
pub struct Rated {
    /// Hash of the model that decides.
    pub champion: Arc<str>,
    /// What the champion saw and said.
    pub scored: Scored,
    /// For each other model its hash and its score of each scored row.
    pub shadows: Vec<(Arc<str>, Vec<f64>)>,
}

/// The state of each model, by hash.
pub type ModelSnapshots = BTreeMap<Arc<str>, Snapshot>;

impl Roster {
    /// The first of `models` decides; none is there twice. A batch's rows are scored on `threads`
    /// cores.
    ///
    /// # Errors
    /// Those of [`Scorer::new`], with the model.
    pub fn new(
        models: &[Arc<ServedModel>],
        schema: &FeatureSchema,
        relation: &Relation,
        threads: usize,
    ) -> Result<Self, ScoringError> {
        Ok(Self {
            scorers: models
                .iter()
                .map(|model| Scorer::new(model.clone(), schema, relation, threads))
                .collect::<Result<_, _>>()?,
            champion: 0,
        })
    }

    /// Their hashes.
    pub fn hashes(&self) -> Vec<Arc<str>> {
        self.scorers
            .iter()
            .map(|scorer| scorer.hash().into())
            .collect()
    }

    /// Hash of the one that decides.
    pub fn champion(&self) -> &str {
        self.scorers[self.champion].hash()
    }

    /// Lets the model `hash` decide from the next batch on; `false` where it is not here.
    pub fn appoint(&mut self, hash: &str) -> bool {
        let place = self.scorers.iter().position(|scorer| scorer.hash() == hash);
        if let Some(place) = place {
            self.champion = place;
        }
        place.is_some()
    }

    /// Scores a batch on `rung`, by every model, and has it in every memory.
    pub fn score(&mut self, batch: &FeatureBatch, rung: Rung) -> Result<Rated, ScoringError> {
        let hash = |scorer: &Scorer| Arc::<str>::from(scorer.hash());
        let scored = self.scorers[self.champion].score(batch, rung)?;
        let mut shadows = Vec::with_capacity(self.scorers.len() - 1);
        for (place, scorer) in self.scorers.iter_mut().enumerate() {
            if place != self.champion {
                shadows.push((hash(scorer), scorer.score(batch, rung)?.batch.scores));
            }
        }
        Ok(Rated {
            champion: hash(&self.scorers[self.champion]),
            scored,
            shadows,
        })
    }

    /// The state of this moment, by reference.
    pub fn snapshots(&self) -> ModelSnapshots {
        let each = self.scorers.iter();
        each.map(|scorer| (scorer.hash().into(), scorer.snapshot()))
            .collect()
    }

    /// What the champion remembers at this moment, by reference.
    pub fn memories(&self) -> Vec<MemoryView> {
        self.scorers[self.champion].memories()
    }

    /// The first model that has no state in `restored`.
    pub fn missing_from(&self, restored: &BTreeMap<Arc<str>, Restored>) -> Option<&str> {
        let mut hashes = self.scorers.iter().map(Scorer::hash);
        hashes.find(|&hash| !restored.contains_key(hash))
    }

    /// Takes over the state of each model. What is there of others is left out.
    ///
    /// # Errors
    /// [`ScoringError::State`] for a snapshot that is damaged. Where one is missing, that is asked
    /// before by [`Roster::missing_from`].
    pub fn restore(&mut self, restored: &BTreeMap<Arc<str>, Restored>) -> Result<(), ScoringError> {
        for scorer in &mut self.scorers {
            if let Some(state) = restored.get(scorer.hash()) {
                scorer.restore(state)?;
            }
        }
        Ok(())
    }
}
