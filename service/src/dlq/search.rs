//! Where letters are looked for, and which are meant.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use sanderling_schemas::{EventId, RejectReason};

use super::letter::{Letter, parse_event_id};
use super::listed::Listed;
use super::topic_of;
use crate::failure::{Failure, io_failure};
use crate::folder::PipelineFolder;
use crate::kafka::scan;

/// Letters that one command looks at: what is known of each is held in memory.
const LETTERS_MAX: usize = 1_000_000;
/// Table of a replay's dead letters.
const TABLE: &str = "dead_letters.parquet";

/// Where letters are looked for.
#[derive(Debug, Clone)]
pub enum Letters {
    /// The topic of `output.dead_letters`.
    Topic,
    /// The folder that a replay wrote.
    Folder(PathBuf),
}

/// Which letters are meant; what is not said takes all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// These events.
    pub events: Vec<EventId>,
    /// Refused for this reason.
    pub reason: Option<RejectReason>,
    /// Of this topic.
    pub topic: Option<String>,
    /// Of this partition.
    pub partition: Option<i32>,
    /// From this offset on.
    pub from: Option<i64>,
    /// Before this offset.
    pub to: Option<i64>,
}

impl Selection {
    fn takes(&self, letter: &Letter) -> bool {
        let event = &letter.event;
        (self.events.is_empty() || self.events.contains(event))
            && self.reason.is_none_or(|r| r.as_str() == letter.reason)
            && self.topic.as_deref().is_none_or(|t| *t == *event.topic)
            && self.partition.is_none_or(|p| p == event.partition.0)
            && self.from.is_none_or(|from| event.offset.0 >= from)
            && self.to.is_none_or(|to| event.offset.0 < to)
    }
}

/// What is known of the letters on a topic or in a folder.
#[derive(Default)]
pub(super) struct Found {
    pub letters: BTreeMap<EventId, Listed>,
    requeued: BTreeSet<EventId>,
    /// Records of the topic that are no dead letters.
    pub unreadable: u64,
}

/// Finds the letters of `selection`, and gives each as it comes to `each`: an event's letters may
/// be several, and the last is the one that counts.
pub(super) fn find(
    folder: &PipelineFolder,
    letters: &Letters,
    selection: &Selection,
    mut each: impl FnMut(Letter) -> Result<(), Failure>,
) -> Result<Found, Failure> {
    let mut found = Found::default();
    let mut take = |found: &mut Found, letter: Letter| {
        if !selection.takes(&letter) {
            return Ok(());
        }
        if found.letters.len() >= LETTERS_MAX {
            return Err(
                Failure::new("dlq", format!("more than {LETTERS_MAX} letters are meant"))
                    .cure("narrow it with --reason, --topic, --partition, --from and --to"),
            );
        }
        found
            .letters
            .insert(letter.event.clone(), Listed::of(&letter));
        each(letter)
    };
    match letters {
        Letters::Topic => scan(&folder.settings.kafka, topic_of(folder)?, |record| {
            let Some(value) = record.value else {
                let key = record.key.and_then(|key| std::str::from_utf8(key).ok());
                match key.and_then(parse_event_id) {
                    Some(event) => _ = found.requeued.insert(event),
                    None => found.unreadable += 1,
                }
                return Ok(());
            };
            match Letter::from_json(value, record.time_ms) {
                Ok(letter) => take(&mut found, letter),
                Err(error) => {
                    let (partition, offset) = record.place;
                    tracing::warn!(partition, offset, %error, "a record is no dead letter");
                    found.unreadable += 1;
                    Ok(())
                }
            }
        })?,
        Letters::Folder(out) => {
            for letter in of_folder(out)? {
                take(&mut found, letter?)?;
            }
        }
    }
    for (event, listed) in &mut found.letters {
        listed.requeued = found.requeued.contains(event);
    }
    Ok(found)
}

/// The letters of a replay's table.
fn of_folder(out: &Path) -> Result<impl Iterator<Item = Result<Letter, Failure>>, Failure> {
    let path = out.join(TABLE);
    let file = File::open(&path).map_err(|e| io_failure(&path, "read the dead letters", &e))?;
    let damaged = move |what: String| {
        Failure::new("dlq", format!("not a table of dead letters: {what}"))
            .in_file(&path)
            .cure("name the folder that `sanderling replay --out` wrote")
    };
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .and_then(|builder| builder.build())
        .map_err(|e| damaged(e.to_string()))?;
    Ok(reader.flat_map(move |rows| {
        let letters = rows
            .map_err(|e| e.to_string())
            .and_then(|rows| Letter::from_rows(&rows));
        match letters {
            Ok(letters) => letters.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(what) => vec![Err(damaged(what))],
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dlq::listed::tests::letter;

    #[test]
    fn a_selection_takes_what_all_its_parts_take() {
        let all = ["a/0/5", "a/1/6", "b/0/7"].map(|event| letter(event, "malformed"));
        let taken = |selection: Selection| {
            let taken = all.iter().filter(|letter| selection.takes(letter));
            taken.map(|l| l.event.to_string()).collect::<Vec<_>>()
        };
        let any = Selection::default;
        assert_eq!(taken(any()).len(), 3);
        assert_eq!(
            taken(Selection {
                from: Some(6),
                ..any()
            }),
            ["a/1/6", "b/0/7"]
        );
        assert_eq!(
            taken(Selection {
                to: Some(6),
                ..any()
            }),
            ["a/0/5"]
        );
        assert_eq!(
            taken(Selection {
                partition: Some(0),
                topic: Some("b".into()),
                ..any()
            }),
            ["b/0/7"]
        );
        let reason = Some(RejectReason::Malformed);
        assert_eq!(taken(Selection { reason, ..any() }).len(), 3);
        let reason = Some(RejectReason::TooLate);
        assert_eq!(taken(Selection { reason, ..any() }).len(), 0);
        let events = vec![parse_event_id("a/1/6").unwrap()];
        assert_eq!(taken(Selection { events, ..any() }), ["a/1/6"]);
    }
}
