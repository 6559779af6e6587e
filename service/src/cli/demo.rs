//! `sanderling demo`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::inputs::seconds;
use super::invocation::Invocation;
use crate::demo::{DemoOptions, demo};
use crate::failure::Failure;

#[derive(Args)]
pub(super) struct DemoArgs {
    /// How long to run.
    #[arg(long = "for", value_parser = seconds, default_value = "60s", value_name = "DURATION")]
    duration: Duration,
    /// Payments a second.
    #[arg(long, default_value_t = 200)]
    rate: u32,
    /// Seed of the simulated payments.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Folder of the pipeline.
    #[arg(long, default_value = "pipelines/card-fraud", value_name = "DIR")]
    pipeline: PathBuf,
}

impl DemoArgs {
    pub(super) fn answer(self, call: &Invocation<'_>) -> Result<(), Failure> {
        call.show(&demo(&DemoOptions {
            pipeline: self.pipeline,
            duration: self.duration,
            rate: self.rate,
            seed: self.seed,
            quiet: call.json,
            functions: call.functions.to_vec(),
        })?)
    }
}
