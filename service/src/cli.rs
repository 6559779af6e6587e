//! The command line: what can be asked, and who answers. The arguments of each command are a module of this
//! folder; the work is done by a module of the room.
//!
//! Exit status: 0 done, 1 failed, 2 used wrongly. People read stdout and a rendered error on
//! stderr; with `--json` both are JSON, one object a line.

mod demo;
mod dlq;
mod evaluate;
mod features;
mod inputs;
mod invocation;
mod model;
mod replay;
mod run;
mod simulate;
mod state;
mod train;
mod validate;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sanderling_features::Function;

use crate::failure::Failure;
use crate::log::{self, LogFormat};
use invocation::Invocation;

/// Streaming risk and anomaly engine: features, scores, explanations and decisions on every event,
/// and the same answers again on replay.
#[derive(Parser)]
#[command(name = "sanderling", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Results and errors as JSON, for machines.
    #[arg(long, global = true)]
    json: bool,
    /// Lines of the log on stderr; RUST_LOG says which.
    #[arg(long, global = true, value_enum, default_value_t)]
    log_format: LogFormat,
}

#[derive(Subcommand)]
enum Command {
    /// Embedded broker, simulated card payments, live decisions; needs nothing else.
    Demo(demo::DemoArgs),
    /// Serve the pipeline's topics until asked to stop.
    Run(run::RunArgs),
    /// The fold over recorded files: decisions, dead letters, order, summary.
    Replay(replay::ReplayArgs),
    /// Write the feature rows alone.
    Features(features::FeaturesArgs),
    /// Train a model on recorded files.
    Train(train::TrainArgs),
    /// Prequential folds: train, wait out the labels' delay, test; repeat.
    Evaluate(evaluate::EvaluateArgs),
    /// Check a pipeline's folder without a broker.
    Validate(validate::ValidateArgs),
    /// A seeded stream with planted frauds.
    Simulate(simulate::SimulateArgs),
    /// What the engine knows: SQL over its state, live or from a checkpoint.
    #[command(subcommand)]
    State(state::StateCommand),
    /// Refused records: list, show, and put back.
    #[command(subcommand)]
    Dlq(dlq::DlqCommand),
    /// Models: which there are, whether they are whole, and which one decides.
    #[command(subcommand)]
    Model(model::ModelCommand),
}

impl Command {
    /// From which level on a command logs: a service tells what it does, the others only what
    /// should not be.
    fn log_level(&self) -> &'static str {
        match self {
            Command::Run(_) => "info",
            _ => "warn",
        }
    }

    fn answer(self, call: &Invocation<'_>) -> Result<(), Vec<Failure>> {
        match self {
            Command::Demo(args) => args.answer(call)?,
            Command::Run(args) => args.answer(call)?,
            Command::Replay(args) => args.answer(call)?,
            Command::Features(args) => args.answer(call)?,
            Command::Train(args) => args.answer(call)?,
            Command::Evaluate(args) => args.answer(call)?,
            Command::Validate(args) => args.answer(call)?,
            Command::Simulate(args) => args.answer(call)?,
            Command::State(command) => command.answer(call)?,
            Command::Dlq(command) => command.answer(call)?,
            Command::Model(command) => command.answer(call)?,
        }
        Ok(())
    }
}

/// Runs the command that the program's arguments ask for.
pub fn main() -> ExitCode {
    main_with(&[])
}

/// The same where every `features.sql` may call `functions` too: the `main` of a service with functions of
/// its own.
///
/// ```no_run
/// use std::process::ExitCode;
///
/// use sanderling_features::Function;
/// use sanderling_features::datafusion::logical_expr::ScalarUDF;
///
/// fn main_of(country_of_bin: ScalarUDF) -> ExitCode {
///     sanderling_service::cli::main_with(&[Function::Scalar(country_of_bin.into())])
/// }
/// ```
pub fn main_with(functions: &[Function]) -> ExitCode {
    one_tensor_thread();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version are errors to clap, and successes to everyone else.
            if !e.use_stderr() {
                let _ = e.print();
                return ExitCode::SUCCESS;
            }
            match std::env::args_os().any(|arg| arg == "--json") {
                true => report(misuse(&e), true),
                false => _ = e.print(),
            }
            return ExitCode::from(2);
        }
    };
    let call = Invocation {
        functions,
        json: cli.json,
    };
    let done = log::init(cli.log_format, cli.command.log_level()).map_err(Vec::from);
    match done.and_then(|()| cli.command.answer(&call)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failures) => {
            let code = failures.iter().map(Failure::exit_code).max().unwrap_or(1);
            failures
                .into_iter()
                .for_each(|failure| report(failure, call.json));
            ExitCode::from(code)
        }
    }
}

/// Training makes many small tensor operations. candle asks for its number of threads at each of
/// them, reads /proc/cpuinfo for it where no variable says, and lets threads spin at barriers:
/// several times slower than one thread.
fn one_tensor_thread() {
    if std::env::var_os("RAYON_NUM_THREADS").is_none() {
        // SAFETY: the process has just begun, and no other thread runs yet.
        unsafe { std::env::set_var("RAYON_NUM_THREADS", "1") };
    }
}

/// What clap says of a command line, up to its first blank line.
fn misuse(e: &clap::Error) -> Failure {
    let text = e.to_string();
    let said: Vec<&str> = text
        .lines()
        .take_while(|line| !line.trim().is_empty())
        .map(str::trim)
        .collect();
    let message = said.join(" ");
    Failure::usage(message.strip_prefix("error: ").unwrap_or(&message))
        .cure("`sanderling --help` lists the commands, `sanderling COMMAND --help` their flags")
}

fn report(failure: Failure, json: bool) {
    let text = match json {
        true => serde_json::to_string(&failure).unwrap_or_else(|e| e.to_string()),
        false => {
            let mut text = format!("error: {failure}");
            if let Some(cure) = &failure.cure {
                text += &format!("\n  cure: {cure}");
            }
            text
        }
    };
    let _ = writeln!(std::io::stderr(), "{text}");
}
