//! `sanderling state`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::inputs::PipelineArgs;
use super::invocation::Invocation;
use crate::failure::Failure;
use crate::state_query::{QueryOptions, StateOf, query};

#[derive(Subcommand)]
pub(super) enum StateCommand {
    /// Asks the running service, or else the newest checkpoint; it says which.
    Query(StateQueryArgs),
}

#[derive(Args)]
pub(super) struct StateQueryArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// One SELECT; `show tables` lists what there is.
    sql: String,
    /// The running service alone.
    #[arg(long, conflicts_with = "checkpoint")]
    live: bool,
    /// Health port of the running service, instead of health.listen.
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "checkpoint")]
    at: Option<String>,
    /// A checkpoint's folder, or a folder of checkpoints, of which the newest good one is taken; without
    /// a value, the one under state.url.
    #[arg(long, value_name = "DIR", num_args = 0..=1)]
    checkpoint: Option<Option<PathBuf>>,
    /// Rows at most.
    #[arg(long, default_value_t = 1000)]
    limit: usize,
}

impl StateCommand {
    pub(super) fn answer(self, call: &Invocation<'_>) -> Result<(), Failure> {
        let StateCommand::Query(args) = self;
        let folder = args.pipeline.open(call.functions)?;
        let options = QueryOptions {
            sql: args.sql,
            limit: args.limit,
            of: match (args.checkpoint, args.live || args.at.is_some()) {
                (Some(place), _) => StateOf::Checkpoint(place),
                (None, true) => StateOf::Live(args.at),
                (None, false) => StateOf::Either,
            },
        };
        call.show(&query(&folder, &options)?)
    }
}
