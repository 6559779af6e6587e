//! The command line: what can be asked, and who answers.
//!
//! Exit status: 0 done, 1 failed, 2 used wrongly. People read stdout and a rendered error on
//! stderr; with `--json` both are JSON, one object a line.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use sanderling_features::Function;
use sanderling_ingest::Input;
use sanderling_schemas::{EventId, EventTime, RejectReason};
use serde::Serialize;

use crate::dlq::{Letters, Selection};
use crate::failure::Failure;
use crate::folder::PipelineFolder;
use crate::log::LogFormat;
use crate::model::Models;
use crate::replay::{ReplayInput, ReplayOrder};
use crate::state_query::{QueryOptions, StateOf};
use crate::{
    against, demo, dlq, evaluate, features, log, replay, run, simulate, state_query, train,
    validate,
};

/// What stands for the pipeline's topics where files can be named too.
const KAFKA: &str = "kafka";

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
    Demo(DemoArgs),
    /// Serve the pipeline's topics until asked to stop.
    Run(RunArgs),
    /// The fold over recorded files: decisions, dead letters, order, summary.
    Replay(ReplayArgs),
    /// Write the feature rows alone.
    Features(FeaturesArgs),
    /// Train a model on recorded files.
    Train(TrainArgs),
    /// Prequential folds: train, wait out the labels' delay, test; repeat.
    Evaluate(EvaluateArgs),
    /// Check a pipeline's folder without a broker.
    Validate(ValidateArgs),
    /// A seeded stream with planted frauds.
    Simulate(SimulateArgs),
    /// What the engine knows: SQL over its state, live or from a checkpoint.
    #[command(subcommand)]
    State(StateCommand),
    /// Refused records: list, show, and put back.
    #[command(subcommand)]
    Dlq(DlqCommand),
    /// Models: which there are, whether they are whole, and which one decides.
    #[command(subcommand)]
    Model(ModelCommand),
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
}

/// Which pipeline.
#[derive(Args)]
struct PipelineArgs {
    /// Folder with pipeline.yaml, features.sql, policy.yaml, reason_codes.yaml, model/.
    pipeline: PathBuf,
    /// Model folder instead of the pipeline's own.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    /// Overrides a key of pipeline.yaml.
    #[arg(long = "set", value_name = "PATH=VALUE")]
    sets: Vec<String>,
}

impl PipelineArgs {
    fn open(&self, functions: &[Function]) -> Result<PipelineFolder, Failure> {
        let model = self.model.as_deref();
        PipelineFolder::open_with(&self.pipeline, &self.sets, model, functions).map_err(|faults| {
            faults
                .into_iter()
                .next()
                .unwrap_or_else(|| Failure::new("config", "unknown fault"))
        })
    }
}

/// Recorded input.
#[derive(Args)]
struct InputArgs {
    /// Files: comma-separated [stream=]path; .parquet, .csv or .jsonl.
    #[arg(long, required = true, value_name = "FILES")]
    input: String,
}

impl InputArgs {
    fn files(&self, folder: &PipelineFolder) -> Result<Vec<Input>, Failure> {
        files(folder, &self.input)
    }
}

/// Comma-separated files.
fn files(folder: &PipelineFolder, list: &str) -> Result<Vec<Input>, Failure> {
    list.split(',')
        .filter(|part| !part.is_empty())
        .map(|part| file_input(folder, part))
        .collect()
}

fn file_input(folder: &PipelineFolder, part: &str) -> Result<Input, Failure> {
    let (stream, path) = match part.split_once('=') {
        Some((stream, path)) if !Path::new(part).exists() => (stream, path),
        _ => (folder.settings.score[0].as_str(), part),
    };
    if folder.settings.streams.get(stream).is_none() {
        return Err(Failure::usage(format!(
            "--input names the stream `{stream}`, which {} does not have",
            folder.name
        ))
        .cure("write --input PATH, or --input STREAM=PATH with one of its streams"));
    }
    let path = PathBuf::from(path);
    if !path.is_file() {
        return Err(Failure::new("input", "there is no such file")
            .in_file(&path)
            .cure("check the path given to --input"));
    }
    Ok(Input {
        stream: stream.into(),
        path,
    })
}

/// A date, or RFC 3339; UTC.
fn time(text: &str) -> Result<EventTime, String> {
    if let Ok(date) = text.parse::<chrono::NaiveDate>() {
        return Ok(EventTime(
            date.and_time(chrono::NaiveTime::MIN)
                .and_utc()
                .timestamp_micros(),
        ));
    }
    chrono::DateTime::parse_from_rfc3339(text)
        .map(|t| EventTime(t.timestamp_micros()))
        .map_err(|_| {
            "write a date such as 2018-07-25, or RFC 3339 such as 2018-07-25T06:00:00Z".into()
        })
}

fn seconds(text: &str) -> Result<std::time::Duration, String> {
    let us = crate::resolve::parse_duration_us(text)
        .or_else(|| text.parse::<i64>().ok().map(|s| s * 1_000_000))
        .filter(|us| *us > 0)
        .ok_or("write a duration such as 60s or 5m")?;
    Ok(std::time::Duration::from_micros(us as u64))
}

#[derive(Args)]
struct DemoArgs {
    /// How long to run.
    #[arg(long = "for", value_parser = seconds, default_value = "60s", value_name = "DURATION")]
    duration: std::time::Duration,
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

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// Name of this instance among those of the pipeline; by default the host's.
    #[arg(long, value_name = "NAME")]
    instance: Option<String>,
    /// Files to fold before the first live event, if there is no state yet: comma-separated
    /// [stream=]path, with the columns _topic, _partition and _offset of their records.
    #[arg(long, value_name = "FILES")]
    history: Option<String>,
    /// Go on from a state that was folded with other features or another model: windows that both have go
    /// on, others are folded from the log as far as it reaches, and what then lacks rows is said.
    #[arg(long)]
    take_over: bool,
    /// Cores over which a long batch is featurised and scored; changes no decision.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
}

#[derive(Args)]
struct ReplayArgs {
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
    /// Compare with these decisions, value by value; fails if any differs.
    #[arg(long, value_name = "DECISIONS")]
    against: Option<PathBuf>,
    /// Rows of a batch; changes no decision.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    batch_rows: u32,
    /// Cores over which a long batch is featurised and scored; changes no decision.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    threads: u32,
}

#[derive(Args)]
struct FeaturesArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    #[command(flatten)]
    input: InputArgs,
    /// Folder of the output.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Args)]
struct TrainArgs {
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
}

#[derive(Args)]
struct EvaluateArgs {
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

#[derive(Args)]
struct ValidateArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
}

#[derive(Subcommand)]
enum StateCommand {
    /// Asks the running service, or else the newest checkpoint; it says which.
    Query(StateQueryArgs),
}

#[derive(Args)]
struct StateQueryArgs {
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

#[derive(Subcommand)]
enum DlqCommand {
    /// The letters, one a line.
    List(DlqListArgs),
    /// One letter with its bytes.
    Show(DlqShowArgs),
    /// Put records back on the topics they came from, each once.
    Requeue(DlqRequeueArgs),
}

#[derive(Subcommand)]
enum ModelCommand {
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
struct ModelArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// A model folder, or the beginning of a hash; without it, the one that decides.
    name: Option<String>,
}

#[derive(Args)]
struct PromoteArgs {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// A model folder, or the beginning of a hash.
    name: String,
    /// Also one that has not beaten the one that decides.
    #[arg(long)]
    untried: bool,
}

/// Which letters.
#[derive(Args)]
struct SelectionArgs {
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

impl SelectionArgs {
    fn selection(&self, events: &[EventId]) -> Selection {
        Selection {
            events: events.to_vec(),
            reason: self.reason,
            topic: self.topic.clone(),
            partition: self.partition,
            from: self.from,
            to: self.to,
        }
    }
}

fn letters(input: &Option<PathBuf>) -> Letters {
    match input {
        None => Letters::Topic,
        Some(folder) => Letters::Folder(folder.clone()),
    }
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

#[derive(Args)]
struct DlqListArgs {
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
struct DlqShowArgs {
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
struct DlqRequeueArgs {
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

#[derive(Clone, Copy, ValueEnum)]
enum SimulatedStream {
    /// Cards, terminals and devices, with three kinds of fraud.
    CardFraud,
}

#[derive(Args)]
struct SimulateArgs {
    /// What to simulate.
    stream: SimulatedStream,
    /// A seed gives the same bytes.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Days to simulate.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    days: u32,
    /// First day.
    #[arg(long, value_parser = time, value_name = "DATE")]
    start: Option<EventTime>,
    /// A .jsonl, .csv or .parquet file, or `kafka`.
    #[arg(long, value_name = "FILE|kafka")]
    out: String,
    /// To kafka: payments a second.
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// To kafka: time until a payment's label is sent.
    #[arg(long, value_parser = seconds, default_value = "60s", value_name = "DURATION")]
    label_delay: std::time::Duration,
    /// To kafka: bootstrap servers.
    #[arg(long, default_value = "localhost:9092")]
    brokers: String,
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
    let begun = log::init(cli.log_format, cli.command.log_level());
    match begun
        .map_err(|e| vec![e])
        .and_then(|()| answer(&cli, functions))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(failures) => {
            let code = failures.iter().map(Failure::exit_code).max().unwrap_or(1);
            failures
                .into_iter()
                .for_each(|failure| report(failure, cli.json));
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

fn answer(cli: &Cli, functions: &[Function]) -> Result<(), Vec<Failure>> {
    let one = |failure: Failure| vec![failure];
    match &cli.command {
        Command::Demo(args) => {
            let options = demo::DemoOptions {
                pipeline: args.pipeline.clone(),
                duration: args.duration,
                rate: args.rate,
                seed: args.seed,
                quiet: cli.json,
                functions: functions.to_vec(),
            };
            let shown = demo::demo(&options).map_err(one)?;
            show(cli.json, &shown, || shown.to_string()).map_err(one)
        }
        Command::Run(args) => {
            let folder = args.pipeline.open(functions).map_err(one)?;
            folder.check_run()?;
            let history = args.history.as_deref().unwrap_or_default();
            let options = run::RunOptions {
                instance: args.instance.clone(),
                history: files(&folder, history).map_err(one)?,
                take_over: args.take_over,
                threads: args.threads as usize,
            };
            let summary = run::run(&folder, &options).map_err(one)?;
            show(cli.json, &summary, || summary.to_string()).map_err(one)
        }
        Command::Replay(args) => (|| {
            let folder = args.pipeline.open(functions)?;
            let summary = replay::replay(
                &folder,
                &replay::ReplayOptions {
                    input: match args.input == KAFKA {
                        true => ReplayInput::Kafka,
                        false => ReplayInput::Files(files(&folder, &args.input)?),
                    },
                    from: args.from,
                    to: args.to,
                    order: args
                        .order
                        .as_ref()
                        .map(|order| match order == Path::new(KAFKA) {
                            true => ReplayOrder::Kafka,
                            false => ReplayOrder::File(order.clone()),
                        }),
                    out: args.out.clone(),
                    resume: args.resume,
                    keep_state: args.keep_state,
                    batch_rows: args.batch_rows as usize,
                    threads: args.threads as usize,
                },
            )?;
            show(cli.json, &summary, || summary.to_string())?;
            match &args.against {
                None => Ok(()),
                Some(recorded) => {
                    hold_against(&args.out.join("decisions.parquet"), recorded, cli.json)
                }
            }
        })()
        .map_err(one),
        Command::Features(args) => (|| {
            let folder = args.pipeline.open(functions)?;
            let written = features::write(&folder, &args.input.files(&folder)?, &args.out)?;
            show(cli.json, &written, || written.to_string())
        })()
        .map_err(one),
        Command::Train(args) => (|| {
            let folder = args.pipeline.open(functions)?;
            let trained = train::train(
                &folder,
                &train::TrainOptions {
                    inputs: args.input.files(&folder)?,
                    from: args.from,
                    to: args.to,
                    delay_days: args.delay_days,
                    out: args.out.clone(),
                    from_model: args.from_model.clone(),
                    seed: args.seed,
                },
            )?;
            show(cli.json, &trained, || trained.to_string())?;
            trained.lost().map_or(Ok(()), Err)
        })()
        .map_err(one),
        Command::Evaluate(args) => (|| {
            let folder = args.pipeline.open(functions)?;
            let report = evaluate::evaluate(
                &folder,
                &evaluate::EvaluateOptions {
                    inputs: args.input.files(&folder)?,
                    start: args.start,
                    folds: args.folds,
                    step_days: args.step_days,
                    train_days: args.train_days,
                    delay_days: args.delay_days,
                    test_days: args.test_days,
                    train_from: args.train_from,
                    exclude_known: args.exclude_known,
                    seed: args.seed,
                    scores: args.scores.clone(),
                },
            )?;
            show(cli.json, &report, || report.to_string())
        })()
        .map_err(one),
        Command::Validate(args) => {
            let valid = validate::validate(
                &args.pipeline.pipeline,
                &args.pipeline.sets,
                args.pipeline.model.as_deref(),
                functions,
            )?;
            show(cli.json, &valid, || valid.to_string()).map_err(one)
        }
        Command::Simulate(args) => {
            let SimulatedStream::CardFraud = args.stream;
            let simulated = simulate::card_fraud(&simulate::SimulateOptions {
                seed: args.seed,
                days: args.days,
                start: args.start,
                out: args.out.clone(),
                rate: args.rate,
                label_delay: args.label_delay,
                brokers: args.brokers.clone(),
            })
            .map_err(one)?;
            show(cli.json, &simulated, || simulated.to_string()).map_err(one)
        }
        Command::State(StateCommand::Query(args)) => (|| {
            let folder = args.pipeline.open(functions)?;
            let of = match (&args.checkpoint, args.live || args.at.is_some()) {
                (Some(place), _) => StateOf::Checkpoint(place.clone()),
                (None, true) => StateOf::Live(args.at.clone()),
                (None, false) => StateOf::Either,
            };
            let options = QueryOptions {
                sql: args.sql.clone(),
                limit: args.limit,
                of,
            };
            let answer = state_query::query(&folder, &options)?;
            show(cli.json, &answer, || answer.to_string())
        })()
        .map_err(one),
        Command::Dlq(command) => dead_letters(command, cli.json).map_err(one),
        Command::Model(command) => models(command, functions, cli.json).map_err(one),
    }
}

fn dead_letters(command: &DlqCommand, json: bool) -> Result<(), Failure> {
    match command {
        DlqCommand::List(args) => {
            let folder = args.pipeline.open(&[])?;
            let selection = args.selection.selection(&[]);
            let listing = dlq::list(&folder, &letters(&args.input), &selection, args.limit)?;
            show(json, &listing, || listing.to_string())
        }
        DlqCommand::Show(args) => {
            let folder = args.pipeline.open(&[])?;
            let shown = dlq::show(&folder, &letters(&args.input), &args.event)?;
            show(json, &shown, || shown.to_string())
        }
        DlqCommand::Requeue(args) => {
            let selection = args.selection.selection(&args.events);
            if !args.all && selection == Selection::default() {
                return Err(Failure::usage("requeue: nothing says which letters")
                    .cure("name their ids, or --reason, --topic, --from, --to; or --all"));
            }
            let folder = args.pipeline.open(&[])?;
            let requeued = dlq::requeue(
                &folder,
                &dlq::RequeueOptions {
                    selection,
                    dry_run: args.dry_run,
                    truncated: args.truncated,
                },
            )?;
            show(json, &requeued, || requeued.to_string())
        }
    }
}

fn models(command: &ModelCommand, functions: &[Function], json: bool) -> Result<(), Failure> {
    match command {
        ModelCommand::List(args) => {
            let folder = args.open(functions)?;
            let listing = Models::new(&folder).list()?;
            show(json, &listing, || listing.to_string())
        }
        ModelCommand::Show(args) => {
            let folder = args.pipeline.open(functions)?;
            let manifest = Models::new(&folder).show(args.name.as_deref())?;
            let text = serde_json::to_string_pretty(&manifest)
                .map_err(|e| Failure::new("output", e.to_string()))?;
            show(json, &manifest, || text)
        }
        ModelCommand::Verify(args) => {
            let folder = args.pipeline.open(functions)?;
            let verified = Models::new(&folder).verify(args.name.as_deref())?;
            show(json, &verified, || verified.to_string())
        }
        ModelCommand::Promote(args) => {
            let folder = args.pipeline.open(functions)?;
            let promotion = Models::new(&folder).promote(&args.name, args.untried)?;
            show(json, &promotion, || promotion.to_string())
        }
        ModelCommand::Rollback(args) => {
            let folder = args.open(functions)?;
            let promotion = Models::new(&folder).rollback()?;
            show(json, &promotion, || promotion.to_string())
        }
    }
}

/// Says whether the decisions `made` are those `recorded`; not to be is a failure.
fn hold_against(made: &Path, recorded: &Path, json: bool) -> Result<(), Failure> {
    let comparison = against::compare(made, recorded)?;
    if comparison.differing > 0 {
        return Err(Failure::new("against", comparison.to_string())
            .in_file(recorded)
            .cure("look at the columns named; other versions decide differently"));
    }
    if !json {
        show(false, &comparison, || comparison.to_string())?;
    }
    Ok(())
}

/// Prints a result: one line of JSON, or text for people.
fn show<T: Serialize>(
    json: bool,
    result: &T,
    text: impl FnOnce() -> String,
) -> Result<(), Failure> {
    let line = match json {
        true => serde_json::to_string(result).map_err(|e| Failure::new("output", e.to_string()))?,
        false => text(),
    };
    let mut stdout = std::io::stdout().lock();
    // A reader that has gone away wants no more output; that is not a failure of the command.
    let _ = writeln!(stdout, "{line}");
    Ok(())
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
