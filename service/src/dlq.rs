//! `sanderling dlq`: what was refused, looked at and put back.
//!
//! Letters are found on the topic of dead letters, or in a replay's folder; an event that was refused
//! twice (a batch sent again) is one letter. A letter that was put back is marked on its topic in the
//! same transaction that puts the record back, so that it is put back once, whoever asks and however
//! often, and killed or not. The record gets a new offset, and so is a new event; its header
//! `sanderling-requeued-from` names the old one.

mod letter;
mod listed;
mod requeue;
mod seal;
mod search;

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use sanderling_schemas::EventId;
use serde::Serialize;

pub use letter::{Letter, parse_event_id};
pub use listed::Listed;
pub use requeue::{RequeueOptions, Requeued, requeue};
pub use search::{Letters, Selection};

use crate::failure::Failure;
use crate::folder::PipelineFolder;
use listed::printable;
use seal::Opened;
use search::find;

/// `dlq list`.
#[derive(Debug, Serialize)]
pub struct Listing {
    /// The letters, by topic, partition and offset.
    pub letters: Vec<Listed>,
    /// Letters that were meant, those beyond the limit among them.
    pub selected: usize,
    /// Records of the topic that are no dead letters.
    pub unreadable: u64,
}

/// `dlq show`.
#[derive(Debug, Serialize)]
pub struct Shown {
    /// What is known of it.
    #[serde(flatten)]
    pub listed: Listed,
    /// The record's key as text, if it is text.
    pub key: Option<String>,
    /// The record as text, if it is text that can be read here.
    pub raw: Option<String>,
    /// The record's bytes; sealed ones if the key file is not here.
    pub raw_base64: String,
    /// Hash of the whole record.
    pub raw_sha256: String,
    /// Sealed bytes were opened.
    pub opened: bool,
    #[serde(skip)]
    bytes: Vec<u8>,
}

/// The letters of `selection`, `limit` of them at most.
///
/// # Errors
/// A topic or a table that cannot be read.
pub fn list(
    folder: &PipelineFolder,
    letters: &Letters,
    selection: &Selection,
    limit: usize,
) -> Result<Listing, Failure> {
    let found = find(folder, letters, selection, |_| Ok(()))?;
    Ok(Listing {
        selected: found.letters.len(),
        letters: found.letters.into_values().take(limit).collect(),
        unreadable: found.unreadable,
    })
}

/// One letter with its bytes.
///
/// # Errors
/// A topic or a table that cannot be read, or has no such letter.
pub fn show(folder: &PipelineFolder, letters: &Letters, event: &EventId) -> Result<Shown, Failure> {
    let selection = Selection {
        events: vec![event.clone()],
        ..Selection::default()
    };
    let mut newest = None;
    let mut found = find(folder, letters, &selection, |letter| {
        newest = Some(letter);
        Ok(())
    })?;
    let (Some(letter), Some(listed)) = (newest, found.letters.remove(event)) else {
        return Err(not_there(event));
    };
    let opened = match letter.sealed {
        true => seal::open(folder, &letter)?,
        false => None,
    };
    let was_opened = opened.is_some();
    let Opened { raw: bytes, key } = opened.unwrap_or(Opened {
        raw: letter.raw,
        key: letter.key,
    });
    let readable = !letter.sealed || was_opened;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    Ok(Shown {
        listed,
        key: key.filter(|_| readable).as_deref().and_then(text),
        raw: text(&bytes).filter(|_| readable),
        raw_base64: BASE64.encode(&bytes),
        raw_sha256: letter.raw_sha256,
        opened: was_opened,
        bytes,
    })
}

fn topic_of(folder: &PipelineFolder) -> Result<&str, Failure> {
    let topic = folder.settings.output.dead_letters.as_deref();
    topic.ok_or_else(|| {
        Failure::new("config", "the pipeline names no topic for dead letters")
            .in_file(&folder.path.join("pipeline.yaml"))
            .cure("write output.dead_letters, or look at a replay's with --input DIR")
    })
}

fn not_there(event: &EventId) -> Failure {
    Failure::new("dlq", format!("there is no dead letter of {event}"))
        .cure("`sanderling dlq list` shows those there are; an id is topic/partition/offset")
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for letter in &self.letters {
            writeln!(f, "{letter}")?;
        }
        write!(f, "{} of {} letters", self.letters.len(), self.selected)?;
        match self.unreadable {
            0 => Ok(()),
            n => write!(f, "; {n} records of the topic are no dead letters"),
        }
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.listed)?;
        writeln!(f, "sha256 {}", self.raw_sha256)?;
        if let Some(key) = &self.key {
            writeln!(f, "key    {}", printable(key))?;
        }
        match &self.raw {
            Some(text) => write!(f, "{}", printable(text)),
            None if self.listed.sealed && !self.opened => {
                write!(
                    f,
                    "{} sealed bytes; their key is not here",
                    self.bytes.len()
                )
            }
            None => {
                for (row, bytes) in self.bytes.chunks(16).enumerate() {
                    let hex: Vec<String> = bytes.iter().map(|b| format!("{b:02x}")).collect();
                    writeln!(f, "{:08x}  {}", row * 16, hex.join(" "))?;
                }
                write!(f, "{} bytes that are no text", self.bytes.len())
            }
        }
    }
}
