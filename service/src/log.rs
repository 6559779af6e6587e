//! The log, on stderr: lines for people, or JSON for machines.
//!
//! What is logged says what the program does, never what an event holds: no key, no column's value,
//! no setting that may be a secret. The Kafka client's own log comes through under the target
//! `librdkafka`, its levels kept.

use std::io::IsTerminal;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;

use crate::failure::Failure;

/// What is logged, by target, where no default will do.
const VARIABLE: &str = "RUST_LOG";

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object a line, for machines.
    Json,
}

/// Begins to log, from `level` on unless `RUST_LOG` says otherwise.
///
/// # Errors
/// A `RUST_LOG` that makes no sense.
pub fn init(format: LogFormat, level: &str) -> Result<(), Failure> {
    let directives = std::env::var(VARIABLE).unwrap_or_else(|_| level.into());
    let filter = EnvFilter::try_new(&directives).map_err(|e| {
        Failure::usage(format!("{VARIABLE}: {e}"))
            .cure("write for example RUST_LOG=info or RUST_LOG=warn,librdkafka=debug")
    })?;
    let log = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(filter);
    match format {
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().flatten_event(true).init(),
    }
    Ok(())
}
