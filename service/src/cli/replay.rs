//! `sanderling replay`.

use std::path::{Path, PathBuf};

use clap::Args;
use sanderling_schemas::EventTime;

use super::inputs::{KAFKA, PipelineArgs, ThreadsArgs, files, time};
use super::invocation::Invocation;
use crate::against;
use crate::failure::Failure;
use crate::replay::{ReplayInput, ReplayOptions, ReplayOrder, replay};

#[derive(Args)]
pub(super) struct ReplayArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// Files: comma-separated [stream=]path; .parquet, .csv or .jsonl. Or kafka: the topics of the
    /// pipeline, from their oldest record to their present end.
    #[arg(long, value_name = "FILES|kafka")]
    input: String,
    /// Rows before it are folded as state only.
    #[arg(long, value_parser = time, value_name = "T")]
    from: Option<EventTime>,
    /// Rows from it on are left out.
    #[arg(long, value_parser = time, value_name = "T")]
    to: Option<EventTime>,
    /// Follow the order and the rungs of this log: the order.parquet of a replay, order records as JSON
    /// lines, or kafka: the pipeline's order topic. Rows that it does not name are left out.
    #[arg(long, value_name = "FILE|kafka")]
    order: Option<PathBuf>,
    /// Folder of the output.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Go on after a crash, from the newest good checkpoint under --out.
    #[arg(long)]
    resume: bool,
    /// Keep the state of the end under --out/state, to be asked by `state query --checkpoint`. Of files,
    /// or of one lane's order.
    #[arg(long)]
    keep_state: bool,
    /// Compare with these decisions, value by value; fails if any differs. Scores that another processor or a GPU
    /// rounded, as versions.numerics tells, may be 1e-5 or 1e-4 apart.
    #[arg(long, value_name = "DECISIONS")]
    against: Option<PathBuf>,
    /// Rows of a batch; changes no decision.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch_rows: u32,
    #[command(flatten)]
    threads: ThreadsArgs,
}

impl ReplayArgs {
    pub(super) fn answer(self, call: &Invocation<'_>) -> Result<(), Failure> {
        let folder = self.pipeline.open(call.functions)?;
        let options = ReplayOptions {
            input: match self.input == KAFKA {
                true => ReplayInput::Kafka,
                false => ReplayInput::Files(files(&folder, &self.input)?),
            },
            from: self.from,
            to: self.to,
            order: self.order.map(|order| match order == Path::new(KAFKA) {
                true => ReplayOrder::Kafka,
                false => ReplayOrder::File(order),
            }),
            out: self.out,
            resume: self.resume,
            keep_state: self.keep_state,
            batch_rows: self.batch_rows as usize,
            threads: self.threads.count(),
        };
        call.show(&replay(&folder, &options)?)?;
        match &self.against {
            None => Ok(()),
            Some(recorded) => hold_against(&options.out.join("decisions.parquet"), recorded, call),
        }
    }
}

/// Says whether the decisions `made` are those `recorded`; not to be is a failure.
fn hold_against(made: &Path, recorded: &Path, call: &Invocation<'_>) -> Result<(), Failure> {
    let comparison = against::compare(made, recorded)?;
    if comparison.differing > 0 {
        return Err(Failure::new("against", comparison.to_string())
            .in_file(recorded)
            .cure("look at the columns named; other versions decide differently"));
    }
    match call.json {
        true => Ok(()),
        false => call.show(&comparison),
    }
}
