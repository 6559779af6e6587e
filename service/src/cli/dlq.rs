//! `sanderling dlq`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use sanderling_schemas::{EventId, RejectReason};

use super::inputs::PipelineArgs;
use super::invocation::Invocation;
use crate::dlq::{self, Letters, RequeueOptions, Selection};
use crate::failure::Failure;

#[derive(Subcommand)]
pub(super) enum DlqCommand {
    /// The letters, one a line.
    List(DlqListArgs),
    /// One letter with its bytes.
    Show(DlqShowArgs),
    /// Put records back on the topics they came from, each once.
    Requeue(DlqRequeueArgs),
}

/// Which letters.
#[derive(Args)]
pub(super) struct SelectionArgs {
    /// Refused for this reason.
    #[arg(long, value_parser = reason)]
    reason: Option<RejectReason>,
    /// Of this topic.
    #[arg(long)]
    topic: Option<String>,
    /// Of this partition.
    #[arg(long)]
    partition: Option<i32>,
    /// From this offset of the refused record on.
    #[arg(long, value_name = "OFFSET")]
    from: Option<i64>,
    /// Before this offset of the refused record.
    #[arg(long, value_name = "OFFSET")]
    to: Option<i64>,
}

#[derive(Args)]
pub(super) struct DlqListArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    #[command(flatten)]
    selection: SelectionArgs,
    /// The folder of a replay instead of the topic.
    #[arg(long, value_name = "DIR")]
    input: Option<PathBuf>,
    /// Letters at most.
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

#[derive(Args)]
pub(super) struct DlqShowArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// The letter: topic/partition/offset of the refused record.
    #[arg(value_parser = event_id, value_name = "ID")]
    event: EventId,
    /// The folder of a replay instead of the topic.
    #[arg(long, value_name = "DIR")]
    input: Option<PathBuf>,
}

#[derive(Args)]
pub(super) struct DlqRequeueArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// These letters: topic/partition/offset of the refused records.
    #[arg(value_parser = event_id, value_name = "ID")]
    events: Vec<EventId>,
    #[command(flatten)]
    selection: SelectionArgs,
    /// All letters, where nothing else says which.
    #[arg(long)]
    all: bool,
    /// Say what would be put back, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Also records of which only the beginning is kept.
    #[arg(long)]
    truncated: bool,
}

impl DlqCommand {
    pub(super) fn answer(self, call: &Invocation<'_>) -> Result<(), Failure> {
        match self {
            DlqCommand::List(args) => {
                let folder = args.pipeline.open(&[])?;
                let selection = args.selection.selection(Vec::new());
                let letters = letters(args.input);
                call.show(&dlq::list(&folder, &letters, &selection, args.limit)?)
            }
            DlqCommand::Show(args) => {
                let folder = args.pipeline.open(&[])?;
                call.show(&dlq::show(&folder, &letters(args.input), &args.event)?)
            }
            DlqCommand::Requeue(args) => {
                let selection = args.selection.selection(args.events);
                if !args.all && selection == Selection::default() {
                    return Err(Failure::usage("requeue: nothing says which letters")
                        .cure("name their ids, or --reason, --topic, --from, --to; or --all"));
                }
                let folder = args.pipeline.open(&[])?;
                let options = RequeueOptions {
                    selection,
                    dry_run: args.dry_run,
                    truncated: args.truncated,
                };
                call.show(&dlq::requeue(&folder, &options)?)
            }
        }
    }
}

impl SelectionArgs {
    fn selection(self, events: Vec<EventId>) -> Selection {
        Selection {
            events,
            reason: self.reason,
            topic: self.topic,
            partition: self.partition,
            from: self.from,
            to: self.to,
        }
    }
}

fn letters(input: Option<PathBuf>) -> Letters {
    input.map_or(Letters::Topic, Letters::Folder)
}

fn reason(text: &str) -> Result<RejectReason, String> {
    let known = RejectReason::ALL.map(RejectReason::as_str);
    RejectReason::ALL
        .into_iter()
        .find(|reason| reason.as_str() == text)
        .ok_or_else(|| format!("write one of {}", known.join(", ")))
}

fn event_id(text: &str) -> Result<EventId, String> {
    dlq::parse_event_id(text).ok_or_else(|| "write topic/partition/offset".into())
}
