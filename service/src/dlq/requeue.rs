//! `dlq requeue`: records put back, each once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use sanderling_schemas::{EventId, RejectReason};
use serde::Serialize;

use super::letter::Letter;
use super::listed::Listed;
use super::seal::{self, Opened};
use super::search::{Letters, Selection, find};
use super::{not_there, topic_of};
use crate::failure::Failure;
use crate::folder::PipelineFolder;
use crate::kafka::{Requeuer, check_readable};

/// Letters of one transaction.
const TRANSACTION_LETTERS_MAX: usize = 500;
/// Bytes of one transaction, beyond which no more letters are taken into it.
const TRANSACTION_BYTES_MAX: usize = 16 << 20;

/// What to put back.
#[derive(Debug, Clone, Default)]
pub struct RequeueOptions {
    /// Which letters.
    pub selection: Selection,
    /// Say what would be done, and do nothing.
    pub dry_run: bool,
    /// Also those of which only the beginning is kept.
    pub truncated: bool,
}

/// `dlq requeue`.
#[derive(Debug, Serialize)]
pub struct Requeued {
    /// Letters that were meant.
    pub selected: usize,
    /// Put back now; in a dry run, what would be.
    pub requeued: Vec<String>,
    /// Put back before.
    pub requeued_before: usize,
    /// Nothing was done.
    pub dry_run: bool,
}

/// Puts letters back where their records came from.
///
/// # Errors
/// Before anything is put back: a selection of everything that is not said to be, letters that are
/// not there, cut ones unless they are asked for, sealed ones without their key. Later: the broker's
/// word; what was committed by then is marked, and running it again goes on.
pub fn requeue(folder: &PipelineFolder, options: &RequeueOptions) -> Result<Requeued, Failure> {
    let topic = topic_of(folder)?;
    check_readable(&folder.settings.kafka, topic)?;
    let id = format!("sanderling-dlq-{}", folder.name);
    // Before the marks are read: whoever wrote marks until now can write no more.
    let mut requeuer = match options.dry_run {
        true => None,
        false => Some(Requeuer::new(&folder.settings.kafka, &id, topic)?),
    };
    let selection = &options.selection;
    let found = find(folder, &Letters::Topic, selection, |_| Ok(()))?;
    if let Some(gone) = selection
        .events
        .iter()
        .find(|event| !found.letters.contains_key(event))
    {
        return Err(not_there(gone));
    }
    let wanted: BTreeMap<&EventId, &Listed> = found
        .letters
        .iter()
        .filter(|(_, listed)| !listed.requeued)
        .collect();
    refuse_cut(&wanted, options.truncated)?;
    for (event, listed) in &wanted {
        if listed.sealed && seal::key_of(folder, event).is_none() {
            return Err(Failure::new("dlq", format!("{event} is sealed, and its key is not here"))
                .cure("name the key's file with dead_letter_key_file in pipeline.yaml; nothing was put back"));
        }
    }
    let mut done = BTreeSet::new();
    if let Some(requeuer) = &mut requeuer {
        let (mut letters, mut bytes) = (0, 0);
        find(folder, &Letters::Topic, selection, |letter| {
            if !wanted.contains_key(&letter.event) || !done.insert(letter.event.clone()) {
                return Ok(());
            }
            letters += 1;
            bytes += put_back(folder, requeuer, letter)?;
            if letters >= TRANSACTION_LETTERS_MAX || bytes >= TRANSACTION_BYTES_MAX {
                (letters, bytes) = (0, 0);
                requeuer.commit()?;
            }
            Ok(())
        })?;
        requeuer.commit()?;
    }
    Ok(Requeued {
        selected: found.letters.len(),
        requeued: wanted.keys().map(|event| event.to_string()).collect(),
        requeued_before: found.letters.len() - wanted.len(),
        dry_run: options.dry_run,
    })
}

/// Puts one letter back; returns its bytes.
fn put_back(
    folder: &PipelineFolder,
    requeuer: &mut Requeuer<'_>,
    letter: Letter,
) -> Result<usize, Failure> {
    if !letter.is_intact() {
        return Err(Failure::new(
            "dlq",
            format!(
                "the bytes of {} are not those that were refused",
                letter.event
            ),
        )
        .cure("see who wrote to the topic of dead letters; leave this letter out"));
    }
    let had_no_value = letter.reason == RejectReason::NullValue.as_str();
    let Opened { raw, key } = match letter.sealed {
        true => seal::open(folder, &letter)?.ok_or_else(|| not_there(&letter.event))?,
        false => Opened {
            raw: letter.raw,
            key: letter.key,
        },
    };
    let value = (!had_no_value).then_some(raw.as_slice());
    requeuer.put_back(&letter.event, key.as_deref(), value)?;
    Ok(raw.len())
}

fn refuse_cut(wanted: &BTreeMap<&EventId, &Listed>, told: bool) -> Result<(), Failure> {
    let cut: Vec<String> = wanted
        .iter()
        .filter(|(_, listed)| listed.truncated)
        .map(|(event, _)| event.to_string())
        .collect();
    if cut.is_empty() || told {
        return Ok(());
    }
    let (first, more) = cut.split_at(cut.len().min(3));
    let others = match more.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    Err(Failure::new(
        "dlq",
        format!("of {}{others} only the beginning is kept", first.join(", ")),
    )
    .cure("send those records again from their source; --truncated puts the beginnings back all the same. Nothing was put back"))
}

impl fmt::Display for Requeued {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for event in &self.requeued {
            writeln!(f, "{event}")?;
        }
        let done = match self.dry_run {
            true => "would be put back",
            false => "put back",
        };
        write!(
            f,
            "{} of {} letters {done}; {} were before",
            self.requeued.len(),
            self.selected,
            self.requeued_before
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dlq::listed::tests::letter;

    #[test]
    fn cut_letters_are_refused_unless_asked_for() {
        let letters: Vec<Letter> = (0..5)
            .map(|n| letter(&format!("a/0/{n}"), "malformed"))
            .collect();
        let all: Vec<Listed> = letters.iter().map(Listed::of).collect();
        let wanted = letters.iter().map(|l| &l.event).zip(&all).collect();
        assert!(refuse_cut(&wanted, true).is_ok());
        let refused = refuse_cut(&wanted, false).unwrap_err();
        assert!(refused.message.contains("a/0/2 and 2 more"), "{refused}");
    }
}
