//! What a replay was asked to read. A checkpoint keeps it, so that `--resume` goes on with the same
//! input or not at all: another input from there on would give decisions on events that never met.

use std::path::Path;

use sanderling_schemas::EventTime;
use serde::{Deserialize, Serialize};

use super::{ReplayInput, ReplayOptions, ReplayOrder};
use crate::failure::Failure;

/// What a replay was asked to read, and from when to when. How many rows a batch has and how many
/// cores score it change no decision, and may change on the way.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    input: Vec<String>,
    from: Option<EventTime>,
    to: Option<EventTime>,
    order: Option<String>,
}

impl Given {
    /// What `options` ask for. A file is told by its path and its size.
    pub fn of(options: &ReplayOptions) -> Self {
        let file = |path: &Path| {
            let whole = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
            let bytes = path.metadata().map_or(0, |file| file.len());
            format!("{} of {bytes} bytes", whole.display())
        };
        Self {
            input: match &options.input {
                ReplayInput::Kafka => vec!["kafka".into()],
                ReplayInput::Files(inputs) => (inputs.iter())
                    .map(|input| format!("{}={}", input.stream, file(&input.path)))
                    .collect(),
            },
            from: options.from,
            to: options.to,
            order: options.order.as_ref().map(|order| match order {
                ReplayOrder::Kafka => "kafka".into(),
                ReplayOrder::File(path) => file(path),
            }),
        }
    }

    /// Fails, naming what differs, unless a resumed run was asked for the same.
    pub fn must_be_that_of(&self, first: &Given) -> Result<(), Failure> {
        let time = |time: &Option<EventTime>| match time {
            None => "not given".to_string(),
            Some(time) => chrono::DateTime::from_timestamp_micros(time.0)
                .map_or_else(|| time.0.to_string(), |time| time.to_rfc3339()),
        };
        let order = |order: &Option<String>| order.clone().unwrap_or("not given".into());
        let parts = [
            ("--input", self.input.join(","), first.input.join(",")),
            ("--from", time(&self.from), time(&first.from)),
            ("--to", time(&self.to), time(&first.to)),
            ("--order", order(&self.order), order(&first.order)),
        ];
        match parts.iter().find(|(_, now, then)| now != then) {
            None => Ok(()),
            Some((flag, now, then)) => Err(Failure::usage(format!(
                "--resume goes on with a run whose {flag} was {then}; now it is {now}"
            ))
            .cure("give what the first run was given, or replay from the start, without --resume")),
        }
    }
}
