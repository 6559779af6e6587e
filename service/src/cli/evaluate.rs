//! `sanderling evaluate`.

use std::path::PathBuf;

use clap::Args;
use sanderling_schemas::EventTime;

use super::inputs::{InputArgs, PipelineArgs, time};
use super::invocation::Invocation;
use crate::evaluate::{EvaluateOptions, evaluate};
use crate::failure::Failure;

#[derive(Args)]
pub(super) struct EvaluateArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    #[command(flatten)]
    input: InputArgs,
    /// First training day of the first fold.
    #[arg(long, value_parser = time, value_name = "DATE")]
    start: EventTime,
    /// Number of folds.
    #[arg(long, default_value_t = 4)]
    folds: u32,
    /// Days between the starts of two folds.
    #[arg(long, default_value_t = 7)]
    step_days: u32,
    /// Training days of a fold.
    #[arg(long, default_value_t = 7)]
    train_days: u32,
    /// Days between training and test; also until a label is known.
    #[arg(long, default_value_t = 7)]
    delay_days: u32,
    /// Test days of a fold.
    #[arg(long, default_value_t = 7)]
    test_days: u32,
    /// Train each fold from this date on; test days and exclusions stay.
    #[arg(long, value_parser = time, value_name = "DATE")]
    train_from: Option<EventTime>,
    /// Leave out of the metrics the cards that are already known to be compromised.
    #[arg(long)]
    exclude_known: bool,
    /// Seed of weights, dropout and drawing.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write source key, fold and score of every test row to this Parquet file.
    #[arg(long, value_name = "FILE")]
    scores: Option<PathBuf>,
}

impl EvaluateArgs {
    pub(super) fn answer(self, call: &Invocation<'_>) -> Result<(), Failure> {
        let folder = self.pipeline.open(call.functions)?;
        let options = EvaluateOptions {
            inputs: self.input.files(&folder)?,
            start: self.start,
            folds: self.folds,
            step_days: self.step_days,
            train_days: self.train_days,
            delay_days: self.delay_days,
            test_days: self.test_days,
            train_from: self.train_from,
            exclude_known: self.exclude_known,
            seed: self.seed,
            scores: self.scores,
        };
        call.show(&evaluate(&folder, &options)?)
    }
}
