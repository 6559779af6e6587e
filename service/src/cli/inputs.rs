//! Arguments that several commands have: which pipeline, which files, which time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use sanderling_features::Function;
use sanderling_ingest::Input;
use sanderling_schemas::EventTime;

use crate::failure::Failure;
use crate::folder::PipelineFolder;
use crate::resolve::parse_duration_us;

/// What stands for the pipeline's topics where files can be named too.
pub(super) const KAFKA: &str = "kafka";

/// Which pipeline.
#[derive(Args)]
pub(super) struct PipelineArgs {
    /// Folder with pipeline.yaml, features.sql, policy.yaml, reason_codes.yaml, model/.
    pub pipeline: PathBuf,
    /// Model folder instead of the pipeline's own.
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Overrides a key of pipeline.yaml.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    pub sets: Vec<String>,
}

impl PipelineArgs {
    pub(super) fn open(&self, functions: &[Function]) -> Result<PipelineFolder, Failure> {
        let model = self.model.as_deref();
        PipelineFolder::open_with(&self.pipeline, &self.sets, model, functions).map_err(|faults| {
            faults
                .into_iter()
                .next()
                .unwrap_or_else(|| Failure::new("config", "unknown fault"))
        })
    }
}

/// How much of the machine.
#[derive(Args)]
pub(super) struct ThreadsArgs {
    /// Cores over which a long batch is featurised and scored; changes no decision.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
}

impl ThreadsArgs {
    pub(super) fn count(&self) -> usize {
        self.threads as usize
    }
}

/// Recorded input.
#[derive(Args)]
pub(super) struct InputArgs {
    /// Files: comma-separated [stream=]path; .parquet, .csv or .jsonl.
    #[arg(long, required = true, value_name = "FILES")]
    input: String,
}

impl InputArgs {
    pub(super) fn files(&self, folder: &PipelineFolder) -> Result<Vec<Input>, Failure> {
        files(folder, &self.input)
    }
}

/// Comma-separated files.
pub(super) fn files(folder: &PipelineFolder, list: &str) -> Result<Vec<Input>, Failure> {
    list.split(',')
        .filter(|part| !part.is_empty())
        .map(|part| file_input(folder, part))
        .collect()
}

fn file_input(folder: &PipelineFolder, part: &str) -> Result<Input, Failure> {
    let (stream, path) = match part.split_once('=') {
        Some((stream, path)) if !Path::new(part).exists() => (stream, path),
        _ => (folder.settings.score[0].as_str(), part),
    };
    if folder.settings.streams.get(stream).is_none() {
        return Err(Failure::usage(format!(
            "--input names the stream `{stream}`, which {} does not have",
            folder.name
        ))
        .cure("write --input PATH, or --input STREAM=PATH with one of its streams"));
    }
    let path = PathBuf::from(path);
    if !path.is_file() {
        return Err(Failure::new("input", "there is no such file")
            .in_file(&path)
            .cure("check the path given to --input"));
    }
    Ok(Input {
        stream: stream.into(),
        path,
    })
}

/// A date, or RFC 3339; UTC.
pub(super) fn time(text: &str) -> Result<EventTime, String> {
    if let Ok(date) = text.parse::<chrono::NaiveDate>() {
        return Ok(EventTime(
            date.and_time(chrono::NaiveTime::MIN)
                .and_utc()
                .timestamp_micros(),
        ));
    }
    chrono::DateTime::parse_from_rfc3339(text)
        .map(|t| EventTime(t.timestamp_micros()))
        .map_err(|_| {
            "write a date such as 2018-07-25, or RFC 3339 such as 2018-07-25T06:00:00Z".into()
        })
}

/// A length of time that is not none.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let us = parse_duration_us(text)
        .or_else(|| text.parse::<i64>().ok().map(|s| s * 1_000_000))
        .filter(|us| *us > 0)
        .ok_or("write a duration such as 60s or 5m")?;
    Ok(Duration::from_micros(us as u64))
}
