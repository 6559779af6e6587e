//! `sanderling model`.

use std::fmt;

use clap::{Args, Subcommand};
use serde::Serialize;

use super::inputs::PipelineArgs;
use super::invocation::Invocation;
use crate::failure::Failure;
use crate::model::Models;

#[derive(Subcommand)]
pub(super) enum ModelCommand {
    /// All of a pipeline, one a line.
    List(PipelineArgs),
    /// The manifest of one.
    Show(ModelArgs),
    /// Check that one is whole and fits the features.
    Verify(ModelArgs),
    /// Let one decide, if it has beaten the one that does.
    Promote(PromoteArgs),
    /// Undo the last promotion.
    Rollback(PipelineArgs),
}

#[derive(Args)]
pub(super) struct ModelArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// A model folder, or the beginning of a hash; without it, the one that decides.
    name: Option<String>,
}

#[derive(Args)]
pub(super) struct PromoteArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// A model folder, or the beginning of a hash.
    name: String,
    /// Also one that has not beaten the one that decides.
    #[arg(long)]
    untried: bool,
}

impl ModelCommand {
    pub(super) fn answer(self, call: &Invocation<'_>) -> Result<(), Failure> {
        let pipeline = match &self {
            ModelCommand::List(pipeline) | ModelCommand::Rollback(pipeline) => pipeline,
            ModelCommand::Show(args) | ModelCommand::Verify(args) => &args.pipeline,
            ModelCommand::Promote(args) => &args.pipeline,
        };
        let folder = pipeline.open(call.functions)?;
        let models = Models::new(&folder);
        match &self {
            ModelCommand::List(_) => call.show(&models.list()?),
            ModelCommand::Show(args) => call.show(&Pretty(models.show(args.name.as_deref())?)),
            ModelCommand::Verify(args) => call.show(&models.verify(args.name.as_deref())?),
            ModelCommand::Promote(args) => call.show(&models.promote(&args.name, args.untried)?),
            ModelCommand::Rollback(_) => call.show(&models.rollback()?),
        }
    }
}

/// A value that people read as JSON too, over several lines.
#[derive(Serialize)]
#[serde(transparent)]
struct Pretty<T>(T);

impl<T: Serialize> fmt::Display for Pretty<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = serde_json::to_string_pretty(&self.0).map_err(|_| fmt::Error)?;
        f.write_str(&text)
    }
}
