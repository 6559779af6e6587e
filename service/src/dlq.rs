//! `sanderling dlq`: what was refused, looked at and put back.
//!
//! Letters are found on the topic of dead letters, or in a replay's folder; an event that was refused
//! twice (a batch sent again) is one letter. A letter that was put back is marked on its topic in the
//! same transaction that puts the record back, so that it is put back once, whoever asks and however
//! often, and killed or not. The record gets a new offset, and so is a new event; its header
//! `sanderling-requeued-from` names the old one.

mod letter;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use sanderling_ingest::SealKey;
use sanderling_schemas::{EventId, RejectReason};
use serde::Serialize;

pub use letter::{Letter, parse_event_id};

use crate::failure::{Failure, io_failure};
use crate::folder::PipelineFolder;
use crate::kafka::{Requeuer, check_readable, scan};

/// Letters that one command looks at: what is known of each is held in memory.
const LETTERS_MAX: usize = 1_000_000;
/// Letters of one transaction.
const TRANSACTION_LETTERS_MAX: usize = 500;
/// Bytes of one transaction, beyond which no more letters are taken into it.
const TRANSACTION_BYTES_MAX: usize = 16 << 20;
/// Characters of a detail in a table for people.
const DETAIL_CHARS: usize = 80;
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

/// What is known of a letter without its bytes.
#[derive(Debug, Clone, Serialize)]
pub struct Listed {
    /// The event's id.
    pub event: String,
    /// When it was refused, RFC 3339; null in a replay's table.
    pub time: Option<String>,
    /// Why it was refused.
    pub reason: String,
    /// The column, the value and what was wanted.
    pub detail: String,
    /// Bytes that are kept of it.
    pub bytes: usize,
    /// Some of its bytes are missing.
    pub truncated: bool,
    /// Its bytes are sealed.
    pub sealed: bool,
    /// It was put back.
    pub requeued: bool,
}

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

/// What is known of the letters on a topic or in a folder.
#[derive(Default)]
struct Found {
    letters: BTreeMap<EventId, Listed>,
    requeued: BTreeSet<EventId>,
    unreadable: u64,
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
        true => open(folder, &letter)?,
        false => None,
    };
    let was_opened = opened.is_some();
    let (bytes, key) = opened.unwrap_or((letter.raw, letter.key));
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
        if listed.sealed && seal_key(folder, event).is_none() {
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
    let (raw, key) = match letter.sealed {
        true => open(folder, &letter)?.ok_or_else(|| not_there(&letter.event))?,
        false => (letter.raw, letter.key),
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

/// Finds the letters of `selection`, and gives each as it comes to `each`: an event's letters may
/// be several, and the last is the one that counts.
fn find(
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
        found.letters.insert(letter.event.clone(), listed(&letter));
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

fn listed(letter: &Letter) -> Listed {
    let time = letter
        .time_ms
        .and_then(chrono::DateTime::from_timestamp_millis);
    Listed {
        event: letter.event.to_string(),
        time: time.map(|t| t.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)),
        reason: letter.reason.clone(),
        detail: letter.detail.clone(),
        bytes: letter.raw.len(),
        truncated: letter.truncated,
        sealed: letter.sealed,
        requeued: false,
    }
}

/// The bytes and the key of a sealed letter; `None` if the pipeline has no key for it.
#[allow(clippy::type_complexity)]
fn open(
    folder: &PipelineFolder,
    letter: &Letter,
) -> Result<Option<(Vec<u8>, Option<Vec<u8>>)>, Failure> {
    let Some(seal) = seal_key(folder, &letter.event) else {
        return Ok(None);
    };
    let failed = |e: sanderling_ingest::SealError| {
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
    Ok(Some((raw, key)))
}

fn seal_key<'a>(folder: &'a PipelineFolder, event: &EventId) -> Option<&'a SealKey> {
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

impl fmt::Display for Listed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.time.as_deref().unwrap_or("-");
        let detail = printable(&self.detail.chars().take(DETAIL_CHARS).collect::<String>());
        write!(
            f,
            "{:<28} {time:<24} {:<14} {detail}",
            self.event, self.reason
        )?;
        for (set, name) in [
            (self.truncated, "truncated"),
            (self.sealed, "sealed"),
            (self.requeued, "requeued"),
        ] {
            if set {
                write!(f, " [{name}]")?;
            }
        }
        Ok(())
    }
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

/// Text from a stranger, fit for a terminal.
fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| match c.is_control() && c != '\n' && c != '\t' {
            true => c.escape_default().collect::<Vec<_>>(),
            false => vec![c],
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(event: &str, reason: &str) -> Letter {
        Letter {
            event: parse_event_id(event).unwrap(),
            reason: reason.into(),
            detail: "amount: \u{1b}[31m".into(),
            raw: b"{}".to_vec(),
            raw_sha256: String::new(),
            truncated: true,
            sealed: false,
            key: None,
            time_ms: Some(1_700_000_000_000),
        }
    }

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

    #[test]
    fn a_line_is_fit_for_a_terminal() {
        let line = listed(&letter("a/0/5", "malformed")).to_string();
        assert!(line.contains("2023-11-14T22:13:20.000Z"), "{line}");
        assert!(
            line.contains("\\u{1b}[31m") && !line.contains('\u{1b}'),
            "{line:?}"
        );
        assert!(line.ends_with("[truncated]"), "{line}");
    }

    #[test]
    fn cut_letters_are_refused_unless_asked_for() {
        let letters: Vec<Letter> = (0..5)
            .map(|n| letter(&format!("a/0/{n}"), "malformed"))
            .collect();
        let all: Vec<Listed> = letters.iter().map(listed).collect();
        let wanted = letters.iter().map(|l| &l.event).zip(&all).collect();
        assert!(refuse_cut(&wanted, true).is_ok());
        let refused = refuse_cut(&wanted, false).unwrap_err();
        assert!(refused.message.contains("a/0/2 and 2 more"), "{refused}");
    }
}
