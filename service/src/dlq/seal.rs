//! Sealed letters, opened with the key of their stream.

use sanderling_ingest::{SealError, SealKey};
use sanderling_schemas::EventId;

use super::letter::Letter;
use crate::failure::Failure;
use crate::folder::PipelineFolder;

/// What was sealed.
pub(super) struct Opened {
    /// The record's bytes.
    pub raw: Vec<u8>,
    /// Its key, where it had one.
    pub key: Option<Vec<u8>>,
}

/// The bytes and the key of a sealed letter; `None` if the pipeline has no key for it.
pub(super) fn open(folder: &PipelineFolder, letter: &Letter) -> Result<Option<Opened>, Failure> {
    let Some(seal) = key_of(folder, &letter.event) else {
        return Ok(None);
    };
    let failed = |e: SealError| {
        Failure::new("dlq", format!("{}: {e}", letter.event))
            .cure("name the key that was in use then with dead_letter_key_file")
    };
    // Of a record that was too large to be kept, nothing is there to be opened.
    let raw = match letter.raw.is_empty() {
        true => Vec::new(),
        false => seal.open(&letter.event, &letter.raw).map_err(failed)?,
    };
    let key = match &letter.key {
        Some(key) => Some(seal.open_key(&letter.event, key).map_err(failed)?),
        None => None,
    };
    Ok(Some(Opened { raw, key }))
}

/// The key that an event was sealed with, if it is here.
pub(super) fn key_of<'a>(folder: &'a PipelineFolder, event: &EventId) -> Option<&'a SealKey> {
    let mut streams = folder.streams.iter();
    let of_topic = streams.find(|stream| stream.topic.as_deref() == Some(&*event.topic));
    // A file's events are called after the file: any stream's key may be theirs.
    match of_topic {
        Some(stream) => stream.seal.as_ref(),
        None => folder
            .streams
            .iter()
            .find_map(|stream| stream.seal.as_ref()),
    }
}
