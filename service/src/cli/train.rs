//! `sanderling train`.

use std::path::PathBuf;

use clap::Args;
use sanderling_schemas::EventTime;

use super::inputs::{InputArgs, PipelineArgs, time};
use super::invocation::Invocation;
use crate::failure::Failure;
use crate::train::{TrainOptions, train};

#[derive(Args)]
pub(super) struct TrainArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    #[command(flatten)]
    input: InputArgs,
    /// First training day.
    #[arg(long, value_parser = time, value_name = "T")]
    from: EventTime,
    /// The moment of training: labels not known by then give no gradient.
    #[arg(long, value_parser = time, value_name = "T")]
    to: EventTime,
    /// Days until a label is known, instead of the pipeline's.
    #[arg(long)]
    delay_days: Option<u32>,
    /// Folder of the model.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Go on from this model, and hold the two against each other on the last of the days: exits 1
    /// where the new one is not better.
    #[arg(long, value_name = "DIR")]
    from_model: Option<PathBuf>,
    /// Seed of weights, dropout and drawing.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Go on with a training of the same arguments that was cut off, from the last epoch it finished.
    #[arg(long)]
    resume: bool,
}

impl TrainArgs {
    pub(super) fn answer(self, call: &Invocation<'_>) -> Result<(), Failure> {
        let folder = self.pipeline.open(call.functions)?;
        let options = TrainOptions {
            inputs: self.input.files(&folder)?,
            from: self.from,
            to: self.to,
            delay_days: self.delay_days,
            out: self.out,
            from_model: self.from_model,
            seed: self.seed,
            resume: self.resume,
        };
        let trained = train(&folder, &options)?;
        call.show(&trained)?;
        trained.lost().map_or(Ok(()), Err)
    }
}
