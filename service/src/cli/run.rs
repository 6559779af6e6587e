//! `sanderling run`.

use clap::Args;

use super::inputs::{PipelineArgs, ThreadsArgs, files};
use super::invocation::Invocation;
use crate::failure::Failure;
use crate::run::{RunOptions, run};

#[derive(Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// Name of this instance among those of the pipeline; by default the host's.
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
    /// Files to fold before the first live event, if there is no state yet: comma-separated
    /// [stream=]path, with the columns _topic, _partition and _offset of their records or, while the
    /// topics are empty, without.
    #[arg(long, value_name = "FILES")]
    history: Option<String>,
    /// Go on from a state that was folded with other features or another model: windows that both have go
    /// on, others are folded from the log as far as it reaches, and what then lacks rows is said.
    #[arg(long)]
    take_over: bool,
    #[command(flatten)]
    threads: ThreadsArgs,
}

impl RunArgs {
    pub(super) fn answer(self, call: &Invocation<'_>) -> Result<(), Vec<Failure>> {
        let folder = self.pipeline.open(call.functions)?;
        folder.check_run()?;
        let options = RunOptions {
            instance: self.instance,
            history: files(&folder, self.history.as_deref().unwrap_or_default())?,
            take_over: self.take_over,
            threads: self.threads.count(),
        };
        Ok(call.show(&run(&folder, &options)?)?)
    }
}
