//! What the fold has come to, kept and gone on from.

use sanderling_state::{KeyIndex, Restored, Snapshot, StateError};
use sha2::{Digest, Sha256};

use super::FeatureEngine;
use crate::FeatureError;
use crate::clock::Clock;

impl FeatureEngine {
    /// All that the fold has come to, by reference.
    pub fn snapshot(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.add_value("shape", self.shape());
        snapshot.add_value("relation", self.relation_shape());
        snapshot.add_value("accepted", self.accepted);
        self.clock.snapshot("clock", &mut snapshot);
        for (number, entity) in self.entities.iter().enumerate() {
            entity
                .index
                .snapshot(&format!("entity-{number}"), &mut snapshot);
        }
        for (number, group) in self.groups.iter().enumerate() {
            group.snapshot(&format!("window-{number}"), &mut snapshot);
        }
        if let Some(labels) = &self.labels {
            labels.snapshot("labels", &mut snapshot);
        }
        snapshot
    }

    /// Goes on from a snapshot of an engine with the same SQL over the same relation.
    ///
    /// # Errors
    /// [`FeatureError::State`] when it is damaged or of another engine.
    pub fn restore(&mut self, restored: Restored) -> Result<(), FeatureError> {
        if restored.section("shape")?.value::<String>()? != self.shape() {
            return Err(StateError::Mismatch("it is of other features".into()).into());
        }
        // Snapshots of before this was told have none.
        self.accepted = match restored.section("accepted") {
            Ok(section) => section.value()?,
            Err(_) => 0,
        };
        self.clock = Clock::restore("clock", &restored)?;
        for (number, entity) in self.entities.iter_mut().enumerate() {
            entity.index = KeyIndex::restore(restored.section(&format!("entity-{number}"))?)?;
        }
        for (number, group) in self.groups.iter_mut().enumerate() {
            group.restore(&format!("window-{number}"), &restored)?;
        }
        if let Some(labels) = &mut self.labels {
            labels.restore("labels", &restored)?;
        }
        Ok(())
    }

    /// A digest of what gives the state its meaning.
    fn shape(&self) -> String {
        let columns: Vec<_> = (self.layers.schema().fields().iter())
            .map(|field| format!("{} {}", field.name(), field.data_type()))
            .collect();
        let (hash, relation) = (&self.schema.hash, self.described_relation());
        hex::encode(Sha256::digest(format!("{hash} {columns:?} {relation}")))
    }

    /// A digest of what gives the state its meaning, but for the SQL.
    pub(crate) fn relation_shape(&self) -> String {
        hex::encode(Sha256::digest(self.described_relation()))
    }

    fn described_relation(&self) -> String {
        let relation = &self.relation;
        let columns: Vec<_> = (relation.schema.fields().iter())
            .map(|field| format!("{} {}", field.name(), field.data_type()))
            .collect();
        let described = format!(
            "{columns:?} {:?} {:?} {:?} {:?} {} {:?}",
            relation.streams,
            relation.id,
            relation.entities,
            relation.labels,
            relation.lateness_us,
            relation.late_rows
        );
        // Without a cap it is what it was before there were any.
        match relation.rows_per_key_max {
            None => described,
            Some(rows) => format!("{described} {rows}"),
        }
    }
}
