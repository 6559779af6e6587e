//! Whether what the group has read is in what was restored of it.
//!
//! A lane whose checkpoints and order records are gone comes back empty, and would be live at once: every window
//! would begin anew, and nothing would show it. What the group commits therefore notes whose rows are before an
//! offset, and how many ([`Note`]). An offset without a note was set by somebody else, who means the group to begin there.

use std::sync::Arc;

use sanderling_ingest::Progress;
use sanderling_schemas::Partition;

use super::Service;
use super::recover::Recovered;
use crate::failure::Failure;
use crate::line::{Lane, Note};
use crate::settings::EntityState;

const OF_ANOTHER_NAME: &str =
    "serve the new version as a pipeline folder of another name, which begins anew";

/// How many rows of `lane` are before the offsets that the group has committed.
pub fn rows_noted(lane: Lane, progress: &Progress) -> u64 {
    let notes = progress.notes.values().filter_map(|note| read(note));
    let own = notes.filter(|note| Lane(note.lane) == lane);
    own.map(|note| note.rows).max().unwrap_or(0)
}

/// A note of ours; whatever else stands there, somebody else has put it there.
fn read(note: &str) -> Option<Note> {
    serde_json::from_str(note).ok()
}

impl Service<'_> {
    /// Refuses to go on with `lane` at offsets behind which rows were folded that `recovered` lacks.
    pub fn nothing_is_lost(
        &self,
        lane: Lane,
        progress: &Progress,
        recovered: &Recovered,
    ) -> Result<(), Failure> {
        for (of, note) in &progress.notes {
            let Some(note) = read(note) else {
                continue;
            };
            if note.rows > 0 && Lane(note.lane) != lane {
                return Err(self.moved(of, lane, &note));
            }
            // Without an order log the input is read again from where the checkpoint stands.
            let is_read_again =
                self.folder.settings.output.order.is_none() && recovered.sequence > 0;
            if note.rows > recovered.sequence && !is_read_again {
                return Err(self.lost(of, lane, &note, recovered.sequence));
            }
        }
        Ok(())
    }

    /// The state is that of another lane, because entities live elsewhere than they did.
    fn moved(&self, of: &(Arc<str>, Partition), lane: Lane, note: &Note) -> Failure {
        let entities = &self.folder.settings.entities.0;
        let in_memory = entities
            .iter()
            .find(|(_, e)| e.state == EntityState::Memory);
        let rows = format!("{} rows", note.rows);
        let (message, cure, key) = match (lane, in_memory) {
            (Lane::WHOLE, Some((entity, _))) => (
                format!(
                    "{rows} were folded while every entity lived with its partition, and `{entity}` with `state: memory` makes one state of all partitions, which knows none of them"
                ),
                format!("write state: partition for `{entity}`, or take it out again"),
                entity.as_str(),
            ),
            _ => (
                format!(
                    "{rows} were folded into one state of all partitions, and now that every entity lives with its partition, each has a state of its own, which knows none of them"
                ),
                "write state: memory for the entity that had it, or put it back".to_string(),
                "",
            ),
        };
        let path = ["entities", key];
        let path = if key.is_empty() {
            &path[..1]
        } else {
            &path[..]
        };
        self.folder.at(
            Failure::new("state", format!("{}: {message}", self.read_on(of))).cure(format!(
                "{cure}; or {OF_ANOTHER_NAME}; or, if what was known may be lost, {}",
                self.to_current()
            )),
            path,
        )
    }

    /// Neither a checkpoint nor the order log brings the rows back.
    fn lost(&self, of: &(Arc<str>, Partition), lane: Lane, note: &Note, restored: u64) -> Failure {
        let order = match &self.folder.settings.output.order {
            Some(topic) => format!("the order topic {topic} ends before it"),
            None => "there is no order topic".into(),
        };
        self.folder.at(
            Failure::new(
                "state",
                format!(
                    "{}: {} rows were folded, and {restored} of them come back: the newest checkpoint in {} is older, or there is none, and {order}",
                    self.read_on(of),
                    note.rows,
                    self.folder_of(lane).display(),
                ),
            )
            .cure(format!(
                "put back the checkpoints of state.url, or name the folder where they are; or name the order topic that was written to (output.order); or serve a pipeline folder of another name, which begins anew; or, if what was known may be lost, {}",
                self.to_current()
            )),
            &["state", "url"],
        )
    }

    fn read_on(&self, (topic, partition): &(Arc<str>, Partition)) -> String {
        format!(
            "the group {} has read {topic}/{}",
            self.group(),
            partition.0
        )
    }

    /// How an operator says that the group is to begin where it stands.
    fn to_current(&self) -> String {
        format!(
            "move the group's offsets to where they are, which takes our note from them: kafka-consumer-groups --group {} --reset-offsets --to-current --all-topics --execute",
            self.group()
        )
    }
}
