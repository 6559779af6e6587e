//! `sanderling replay`: the fold over recorded files, or over what topics hold.
//!
//! Input order and the full rung, unless an order log says otherwise. Checkpoints are kept under
//! the output folder, so that `--resume` goes on after a crash with the same decisions.

mod given;
mod ordered;
mod source;
mod topics;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sanderling_ingest::{
    FileOptions, FileSource, IngestError, KafkaTrouble, LabelFileSpec, Position,
};
use sanderling_schemas::EventTime;
use sanderling_schemas::wire::{DecisionTable, SourceId};
use serde::{Deserialize, Serialize};

use self::given::Given;
use self::source::{Opened, Source, Step};
use crate::checkpoint::{Checkpoint, CheckpointManifest, CheckpointStore};
use crate::failure::{Failure, io_failure};
use crate::folder::{PipelineFolder, relation_field, short};
use crate::line::{self, Barrier, Feeder, Input, Lane, Outcome, Work};
use crate::out_folder::OutFolder;
use crate::pipeline::Pipeline;
use crate::progress::Progress;
use crate::tables::{TableShelf, Tables, versions};
use crate::tally::{Summary, Tally};

pub use self::source::{ReplayInput, ReplayOrder};

/// What to replay, and where to.
pub struct ReplayOptions {
    /// What is read.
    pub input: ReplayInput,
    /// Rows before it are folded as state only.
    pub from: Option<EventTime>,
    /// Rows from it on are not read.
    pub to: Option<EventTime>,
    /// Order log to follow, instead of the order of the input.
    pub order: Option<ReplayOrder>,
    /// Folder of the output.
    pub out: PathBuf,
    /// Go on from the newest good checkpoint in the output folder.
    pub resume: bool,
    /// Leave the state of the end as a checkpoint, where it is that of one fold.
    pub keep_state: bool,
    /// Rows of a batch.
    pub batch_rows: usize,
    /// Cores over which a batch is scored.
    pub threads: usize,
}

/// What a replay's checkpoint keeps beside the fold.
#[derive(Serialize, Deserialize)]
struct ReplayProgress {
    given: Given,
    parts: usize,
    tally: Tally,
}

/// Replays; returns the summary that also stands in `summary.json`.
pub fn replay(folder: &PipelineFolder, options: &ReplayOptions) -> Result<Summary, Failure> {
    let labels_come_as_rows = folder.relation.labels.as_ref().is_some_and(|labels| {
        let stream = &folder.relation.streams[labels.stream].name;
        match &options.input {
            ReplayInput::Files(inputs) => inputs.iter().any(|input| input.stream == *stream),
            ReplayInput::Kafka => true,
        }
    });
    let new_pipeline = || -> Result<Pipeline, Failure> {
        let mut pipeline = Pipeline::new(folder, options.threads)?;
        if let Some(from) = options.from {
            pipeline.judge = pipeline.judge.decide_from(from);
        }
        pipeline.judge = pipeline.judge.labels_are_made(!labels_come_as_rows);
        Ok(pipeline)
    };
    let mut pipeline = new_pipeline()?;
    let versions = pipeline.judge.versions().clone();
    let table = decision_table(folder, &pipeline)?;
    let Opened {
        mut source,
        lanes,
        rows,
    } = Source::open(folder, options, !labels_come_as_rows)?;
    let progress = Progress::rows("replay", rows);

    let state = options.out.join("state");
    std::fs::create_dir_all(&state).map_err(|e| io_failure(&state, "make the state folder", &e))?;
    let store = CheckpointStore::local(&state, &folder.name)?;
    // A replay that has reached its end has nothing to go on from: it is done again.
    let (parts, mut tally) = match options.resume && OutFolder::has_parts(&options.out) {
        false => {
            store.clear()?;
            (0, Tally::with_frauds(&folder.relation))
        }
        true => match store.newest()? {
            None => (0, Tally::with_frauds(&folder.relation)),
            Some(checkpoint) => restore(checkpoint, options, &mut pipeline, &mut source)?,
        },
    };
    let mut out = OutFolder::open(&options.out, table, parts)?;
    let decided_before = tally.decided_total();
    progress.set(tally.rows_in());

    // A checkpoint is of one fold that can be gone on with; elsewhere a crash begins anew.
    let one = lanes.len() == 1 && lanes.contains(&None) && source.can_resume();
    let interval = one.then_some(folder.checkpoint_every);
    let mut pipelines = vec![pipeline];
    for _ in lanes.iter().skip(1) {
        pipelines.push(new_pipeline()?);
    }
    let started = Instant::now();
    line::run(
        true,
        |feeder| {
            for (lane, pipeline) in lanes.into_iter().zip(pipelines) {
                feeder.send(Input::Open(Lane(lane), Box::new(pipeline)));
            }
            feed(folder, &mut source, feeder, options.batch_rows, interval)?;
            if one && options.keep_state {
                feeder.send(Input::Barrier(cut(&source)?));
            }
            Ok(())
        },
        |outcomes| {
            for outcome in outcomes {
                match outcome {
                    Outcome::Decided(decided) => {
                        tally.decided(&decided);
                        out.write_decided(&decided)?;
                    }
                    Outcome::Rejected(letters) => {
                        tally.rejected(&letters);
                        out.write_dead_letters(&letters)?;
                    }
                    Outcome::Mark(_) => {}
                    Outcome::Barrier(barrier) => {
                        let parts = out.close_part()?;
                        let progress = ReplayProgress {
                            given: Given::of(options),
                            parts,
                            tally: tally.clone(),
                        };
                        checkpoint(&store, barrier, &versions, &progress)?;
                    }
                }
                progress.set(tally.rows_in());
            }
            Ok(())
        },
    )?;
    out.finish()?;
    progress.finish();
    source.finish();
    let summary = tally.summary(
        tally.decided_total() - decided_before,
        started.elapsed().as_secs_f64(),
        None,
    );
    let file = options.out.join("summary.json");
    let text = serde_json::to_string_pretty(&summary)
        .map_err(|e| Failure::new("output", e.to_string()))?;
    std::fs::write(&file, text + "\n").map_err(|e| io_failure(&file, "write the summary", &e))?;
    Ok(summary)
}

/// Reads the source to its end, with a barrier whenever `interval` has passed, if one is given.
fn feed(
    folder: &PipelineFolder,
    source: &mut Source,
    feeder: &Feeder,
    batch_rows: usize,
    interval: Option<Duration>,
) -> Result<(), Failure> {
    let mut last_cut = Instant::now();
    let shelf = TableShelf::of(folder);
    let mut tables: BTreeMap<Option<i32>, Tables> = BTreeMap::new();
    loop {
        let step = source.next(batch_rows)?;
        if let Step::Batch(rows) = &step
            && let Some(wanted) = &rows.tables
        {
            let known = tables.get(&rows.lane);
            let known = known.map_or(&folder.catalog.tables[..], |tables| tables);
            let found = shelf.find(known, wanted)?;
            if versions(&found) != versions(known) {
                tables.insert(rows.lane, found.clone());
                if !feeder.send(Input::Tables(Lane(rows.lane), found)) {
                    return Ok(());
                }
            }
        }
        let input = match step {
            Step::Batch(rows) => Input::Batch(Work {
                lane: Lane(rows.lane),
                rung: Some(rows.rung),
                champion: rows.champion,
                backlog: rows.backlog,
                ..Work::whole(rows.events)
            }),
            Step::Rejected(letters) => Input::Rejected(letters),
            Step::End => return Ok(()),
        };
        if !feeder.send(input) {
            return Ok(());
        }
        if interval.is_some_and(|interval| last_cut.elapsed() >= interval) {
            last_cut = Instant::now();
            if !feeder.send(Input::Barrier(cut(source)?)) {
                return Ok(());
            }
        }
    }
}

/// A barrier where the source now stands.
fn cut(source: &Source) -> Result<Barrier, Failure> {
    let position = source.position();
    let sequence = match &position {
        Position::Files { accepted, .. } | Position::Topics { accepted, .. } => *accepted,
    };
    let position =
        serde_json::to_value(&position).map_err(|e| Failure::new("checkpoint", e.to_string()))?;
    Ok(Barrier {
        position,
        sequence,
        ..Barrier::default()
    })
}

fn checkpoint(
    store: &CheckpointStore,
    barrier: Barrier,
    versions: &sanderling_schemas::Versions,
    progress: &ReplayProgress,
) -> Result<(), Failure> {
    let (Some(windows), Some(models)) = (barrier.windows, barrier.models) else {
        return Err(Failure::new(
            "checkpoint",
            "a stage let a barrier pass without its state",
        ));
    };
    let manifest = CheckpointManifest {
        sequence: barrier.sequence,
        position: barrier.position,
        versions: versions.clone(),
        progress: serde_json::to_value(progress)
            .map_err(|e| Failure::new("checkpoint", e.to_string()))?,
        files: Default::default(),
    };
    store.write(windows, models, manifest, &|_| ()).map(drop)
}

/// Puts a checkpoint's state in place; returns what the replay kept beside it.
fn restore(
    checkpoint: Checkpoint,
    options: &ReplayOptions,
    pipeline: &mut Pipeline,
    source: &mut Source,
) -> Result<(usize, Tally), Failure> {
    let manifest = checkpoint.manifest;
    if manifest.versions != **pipeline.judge.versions() {
        return Err(Failure::usage(
            "the checkpoint was made by another version of the pipeline, its model or this program",
        )
        .cure("replay from the start, without --resume, or put the folder back as it was"));
    }
    let unreadable =
        |e: String| Failure::new("checkpoint", e).cure("replay from the start, without --resume");
    pipeline
        .features
        .restore(checkpoint.windows)
        .map_err(|e| unreadable(e.to_string()))?;
    if let Some(model) = pipeline.models.missing_from(&checkpoint.models) {
        return Err(Failure::usage(format!(
            "the checkpoint has no state of the challenger {}",
            short(model)
        ))
        .cure(
            "replay from the start, without --resume, or with the challengers of the first run",
        ));
    }
    pipeline
        .models
        .restore(&checkpoint.models)
        .map_err(|e| unreadable(e.to_string()))?;
    let position: Position =
        serde_json::from_value(manifest.position).map_err(|e| unreadable(e.to_string()))?;
    let progress: ReplayProgress =
        serde_json::from_value(manifest.progress).map_err(|e| unreadable(e.to_string()))?;
    Given::of(options).must_be_that_of(&progress.given)?;
    source.resume(&position, options.batch_rows)?;
    Ok((progress.parts, progress.tally))
}

/// The table of a pipeline's decisions.
pub fn decision_table(
    folder: &PipelineFolder,
    pipeline: &Pipeline,
) -> Result<DecisionTable, Failure> {
    let source_id = folder.relation.id.as_deref().and_then(|id| {
        let field = relation_field(&folder.relation, id)?;
        Some(SourceId {
            name: field.name().clone(),
            data_type: field.data_type().clone(),
        })
    });
    DecisionTable::new(
        pipeline.features.schema(),
        &pipeline.judge.groups(),
        source_id,
        true,
    )
    .map_err(|e| {
        Failure::new("config", e.to_string())
            .in_file(&folder.path.join("pipeline.yaml"))
            .cure("give the id column another name with `from`")
    })
}

/// Recorded files as a source; `delay_us` overrides the delay of labels made from a column.
pub fn open_files(
    folder: &PipelineFolder,
    inputs: &[sanderling_ingest::Input],
    to: Option<EventTime>,
    delay_us: Option<i64>,
) -> Result<FileSource, Failure> {
    let labels = folder.label_file.clone().map(|file| LabelFileSpec {
        delay_us: delay_us.unwrap_or(file.delay_us),
        ..file
    });
    let options = FileOptions {
        to: to.map(|t| t.0),
        labels,
        first_sequence: 0,
    };
    FileSource::open(folder.relation.clone(), &folder.streams, inputs, options)
        .map_err(input_failure)
}

/// A fault of the input as a whole.
pub fn input_failure(e: IngestError) -> Failure {
    let (file, cure) = match &e {
        IngestError::Declaration { .. } => (None, "correct the stream in pipeline.yaml"),
        IngestError::Open { path, .. } => (Some(path), "check the path given to --input"),
        IngestError::Extension { path } => (Some(path), "name the file .parquet, .csv or .jsonl"),
        IngestError::Read { path, .. } => (
            Some(path),
            "check that the file is whole and of the format that its extension says",
        ),
        IngestError::MissingColumn { path, .. } => (
            Some(path),
            "correct `from` in pipeline.yaml, or give a file that has the column",
        ),
        IngestError::ColumnType { path, cure, .. } => (Some(path), cure.as_str()),
        IngestError::ResumePastEnd { .. } | IngestError::ForeignPosition { .. } => (
            None,
            "resume with the input of the first run, or start anew without --resume",
        ),
        IngestError::Key { path, .. } => (
            Some(path),
            "write one with `openssl rand -hex 32`, and let only the service's user read it",
        ),
        IngestError::Protobuf { path, .. } => (
            Some(path),
            "correct the schema, or name another in pipeline.yaml",
        ),
        IngestError::Registry { cure, .. } => (None, *cure),
        IngestError::NotInInput { .. } => (
            None,
            "give all files that the recorded run read with --input, and the order that it wrote",
        ),
        IngestError::Twice { .. } => (None, "give each file and each order record once"),
        IngestError::Kafka { trouble, .. } => (None, kafka_cure(*trouble)),
        IngestError::PartitionsDiffer { .. } => (
            None,
            "create the topics with as many partitions each, and key their records alike",
        ),
        IngestError::NotHeld { .. } => (
            None,
            "keep the topic's records for longer (retention.ms) than the pipeline may be down; \
             to begin anew without them, clear its folder under state.url and its group's offsets",
        ),
        IngestError::Stopped => (None, "start it again; nothing is lost"),
        IngestError::OrderRecord { .. } => (
            None,
            "give output.order a topic that nothing else writes to",
        ),
        IngestError::Arrow(_) => (
            None,
            "this is a fault of the program; the input is untouched",
        ),
        IngestError::Write { path, .. } => (Some(path), "check the path and the disk"),
    };
    let code = match &e {
        IngestError::Kafka { .. } => "kafka",
        _ => "input",
    };
    let failure = Failure::new(code, e.to_string()).cure(cure);
    match file {
        Some(file) => failure.in_file(file),
        None => failure,
    }
}

/// What to do about trouble with a broker.
fn kafka_cure(trouble: KafkaTrouble) -> &'static str {
    match trouble {
        KafkaTrouble::Unreachable => {
            "check kafka.brokers, and that a broker runs there and can be reached from here; one \
             that wants TLS or a login needs security.protocol under kafka.properties"
        }
        KafkaTrouble::Authentication => {
            "check sasl.mechanism, sasl.username and sasl.password under kafka.properties; the \
             broker must know the user"
        }
        KafkaTrouble::Tls => {
            "check security.protocol and ssl.ca.location under kafka.properties, that the broker's \
             certificate is made out to the name in kafka.brokers, and that this port speaks TLS; \
             a broker that asks who comes wants ssl.certificate.location and ssl.key.location too"
        }
        KafkaTrouble::MissingTopic => {
            "create the topic, or correct its name in pipeline.yaml (streams.*.topic, output.*)"
        }
        KafkaTrouble::TopicDenied => {
            "let this user read and describe the topic (kafka-acls --add --operation Read \
             --operation Describe --topic NAME)"
        }
        KafkaTrouble::GroupDenied => {
            "let this user read the consumer group, which is named after the pipeline (kafka-acls \
             --add --operation Read --group sanderling-NAME)"
        }
        KafkaTrouble::Fenced => {
            "another process took this one's place under the same name: stop one of them, or give \
             each its own `instance`"
        }
        KafkaTrouble::Setting => "correct the setting under kafka.properties in pipeline.yaml",
        KafkaTrouble::Refused => "look at the broker's log; it says more",
    }
}

impl From<IngestError> for Failure {
    fn from(e: IngestError) -> Self {
        input_failure(e)
    }
}
