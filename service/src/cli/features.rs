//! `sanderling features`.

use std::path::PathBuf;

use clap::Args;

use super::inputs::{InputArgs, PipelineArgs, ThreadsArgs};
use super::invocation::Invocation;
use crate::failure::Failure;
use crate::features;

#[derive(Args)]
pub(super) struct FeaturesArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    #[command(flatten)]
    input: InputArgs,
    /// Folder of the output.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    threads: ThreadsArgs,
}

impl FeaturesArgs {
    pub(super) fn answer(self, call: &Invocation<'_>) -> Result<(), Failure> {
        let folder = self.pipeline.open(call.functions)?;
        let inputs = self.input.files(&folder)?;
        call.show(&features::write(
            &folder,
            &inputs,
            &self.out,
            self.threads.count(),
        )?)
    }
}
