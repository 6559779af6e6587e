//! `sanderling run`: serve the topics of a pipeline.
//!
//! A feeder takes what the group's partitions bring and puts it on the line in time (`feed`,
//! `pace`); what leaves the line goes to the broker, and checkpoints to storage (`drain`). A lane
//! that is assigned comes back as it was last committed (`recover`). Asked to stop, everything read
//! is decided, committed and checkpointed before the group is left.

mod champion;
mod drain;
mod feed;
mod history;
mod instance;
mod lanes;
mod live_tables;
mod log_reader;
mod look;
mod lost;
mod pace;
mod parity;
mod priority;
mod recover;
mod take_over;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use sanderling_ingest::{
    IngestError, KafkaOptions, KafkaSource, OffsetReset, RunsReader, TopicPartition,
};
use sanderling_schemas::Partition;

use crate::allocator::keep_freed_memory;
use crate::checkpoint::CheckpointStore;
use crate::failure::{Failure, io_failure};
use crate::folder::PipelineFolder;
use crate::health::{self, HealthState};
use crate::kafka::{DecisionEncoder, KafkaSink};
use crate::line::{self, Feeder, Lane};
use crate::pipeline::{Drill, Pipeline};
use crate::settings::{Delivery, EntityState};
use crate::tally::{Summary, Tally};
use crate::telemetry::Metrics;
use feed::{Feed, before_revoke};
use instance::Instance;
use lanes::Lanes;
use live_tables::LiveTables;
use look::LiveState;
use pace::Pace;

pub use pace::Permit;
pub use parity::Sampler;

/// How long another instance's ghost may stay in the group before it is taken for alive: longer
/// than a session lasts.
const GHOST_WITHIN: Duration = Duration::from_secs(40);
/// What a transaction's commit takes before any was measured.
const COMMIT_GUESS: Duration = Duration::from_millis(10);

/// Cores of a machine on which the stages of the line have threads of their own. On one of two cores that it shared with
/// the broker, the slowest hundredth of decisions came a third later that way.
const CORES_TO_SPARE: usize = 4;

/// How to serve.
pub struct RunOptions {
    /// Name of this instance; by default the host's.
    pub instance: Option<String>,
    /// Recorded files that are folded before the first live event of an empty state.
    pub history: Vec<sanderling_ingest::Input>,
    /// Go on from a state that other features, or another model, have left.
    pub take_over: bool,
    /// Cores over which a batch is split.
    pub threads: usize,
}

/// What the threads of a service share.
struct Service<'a> {
    folder: &'a PipelineFolder,
    options: &'a RunOptions,
    /// Hashes of all models that are folded, the first of which decides at the start.
    models: Vec<Arc<str>>,
    instance: &'a Instance,
    /// Each partition is a lane of its own.
    by_partition: bool,
    lanes: Arc<Lanes>,
    pace: Arc<Pace>,
    metrics: Arc<Metrics>,
    health: Arc<HealthState>,
    state: PathBuf,
    /// Samples for the parity check, if there is one.
    sampler: Option<Arc<Sampler>>,
    tables: LiveTables,
    /// A checkpoint is being taken.
    writing: AtomicBool,
    /// Checkpoints that someone waits for.
    waited_for: AtomicU32,
    drill: Drill,
    stop: Arc<AtomicBool>,
}

/// Serves until the process is asked to stop; returns what became of the input meanwhile.
pub fn run(folder: &PipelineFolder, options: &RunOptions) -> Result<Summary, Failure> {
    let settings = &folder.settings;
    let stop = stop_on_signals()?;
    keep_freed_memory();
    let state = state_folder(folder)?;
    let instance = Instance::take(
        options.instance.as_deref().or(settings.instance.as_deref()),
        &state.join(&folder.name),
    )?;
    // Faults of the folder are found before anything is touched.
    let pipeline = Pipeline::new(folder, options.threads)?;
    tracing::info!("scores are computed on {}", pipeline.judge.placement());
    let versions = pipeline.judge.versions().clone();
    let models = pipeline.models.hashes();
    let sampling = (settings.parity.rows_per_s > 0.0)
        .then(|| Sampler::new(settings.parity.rows_per_s, pipeline.features.key_sample()));
    let (sampler, sampled) = sampling.unzip();
    drop(pipeline);
    let metrics = Arc::new(Metrics::new());
    let health = Arc::new(HealthState::new());
    health.starting("connecting to the broker");
    let lanes = Arc::new(Lanes::default());
    let looked_at = LiveState::new(&folder.name, folder.relation.clone(), lanes.clone());
    let looked_at = Arc::new(looked_at);
    let _server = health::serve(
        &settings.health.listen,
        metrics.clone(),
        health.clone(),
        looked_at.clone().routes(),
    )?;
    let transaction = Duration::from_millis(settings.kafka.transaction_ms);
    let after = match settings.delivery {
        Delivery::ExactlyOnce => transaction + COMMIT_GUESS,
        Delivery::AtLeastOnce => Duration::ZERO,
    };
    let service = Service {
        folder,
        options,
        models,
        instance: &instance,
        by_partition: settings
            .entities
            .0
            .iter()
            .all(|(_, entity)| entity.state == EntityState::Partition),
        pace: Pace::new(Duration::from_millis(settings.deadline_ms), after),
        lanes,
        sampler: sampler.map(Arc::new),
        metrics,
        health,
        state,
        tables: LiveTables::of(folder)?,
        writing: AtomicBool::new(false),
        waited_for: AtomicU32::new(0),
        drill: Drill::of(&settings.drill),
        stop,
    };
    // What is missing is missed before the group is joined.
    let all = service.partitions()?;
    service.outputs_are_there()?;
    service.alone()?;
    let mut tally = Tally::with_frauds(&folder.relation);
    let started = Instant::now();
    let (to_writer, barriers) = bounded(1);
    thread::scope(|scope| {
        let service = &service;
        scope.spawn(move || service.write_checkpoints(&barriers, &versions));
        // Closed with the drain.
        let (running, ended) = bounded::<()>(0);
        if let (Some(sampler), Some(sampled)) = (&service.sampler, sampled) {
            let checks = move || service.check_parity(sampler.keys(), &sampled, &ended);
            let checking = thread::Builder::new().name("parity".into());
            if let Err(error) = checking.spawn_scoped(scope, checks) {
                tracing::warn!(%error, "no thread for the parity check");
            }
        }
        // The consumer is made where it is polled, and whoever commits waits for it.
        let (committers, committer) = bounded(1);
        // What an earlier instance left open is settled before anyone asks what was committed.
        let (settle, settled) = bounded(1);
        line::run(
            thread::available_parallelism().map_or(1, usize::from) >= CORES_TO_SPARE,
            |feeder| {
                let open = Arc::new(feeder.clone());
                looked_at.fed_by(Arc::downgrade(&open));
                let options = service.kafka_options(Arc::downgrade(&open));
                let source = KafkaSource::new(folder.relation.clone(), &folder.streams, &options)
                    .map_err(|e| folder.input_failure(e))?;
                let _ = committers.send(source.committer());
                drop(committers);
                if settled.recv().is_err() || !service.history(&source.committer(), &all, feeder)? {
                    return Ok(());
                }
                Feed::new(service, source, feeder, all).run()
            },
            |outcomes| {
                let _running = running;
                // Gone with this, however it ends: the feeder waits for it.
                let settle = settle;
                // Without a committer the feeder has failed and says why.
                let Ok(committer) = committer.recv() else {
                    return Ok(());
                };
                let encoder = DecisionEncoder::new(&settings.output, folder.registry.as_ref())
                    .map_err(|failure| folder.at(failure, &["kafka", "registry", "url"]))?;
                let (kafka, output) = (&settings.kafka, &settings.output);
                let sink = match settings.delivery {
                    Delivery::AtLeastOnce => {
                        KafkaSink::at_least_once(kafka, output, encoder, committer)?
                    }
                    Delivery::ExactlyOnce => KafkaSink::exactly_once(
                        kafka,
                        output,
                        encoder,
                        committer,
                        &format!("{}-{}", service.group(), instance.name),
                        transaction,
                    )?,
                };
                let _ = settle.send(());
                let drained = service.drain(outcomes, sink, &to_writer, &mut tally);
                drop(to_writer);
                drained
            },
        )
    })?;
    Ok(tally.summary(tally.decided_total(), started.elapsed().as_secs_f64(), None))
}

impl Service<'_> {
    fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn exactly_once(&self) -> bool {
        self.folder.settings.delivery == Delivery::ExactlyOnce
    }

    /// A fold with empty state.
    fn new_pipeline(&self) -> Result<Pipeline, Failure> {
        let mut pipeline = Pipeline::new(self.folder, self.options.threads)?;
        pipeline.drill = self.drill.clone();
        if let Some(sampler) = &self.sampler {
            pipeline.features.follow(sampler.keys().clone());
            pipeline.sampler = Some(sampler.clone());
        }
        Ok(pipeline)
    }

    /// The consumer group of the pipeline.
    fn group(&self) -> String {
        format!("sanderling-{}", self.folder.name)
    }

    fn kafka_options(&self, feeder: Weak<Feeder>) -> KafkaOptions {
        let kafka = &self.folder.settings.kafka;
        let mut properties = kafka.properties.clone();
        let mut default = |key: &str, value: &str| {
            properties.entry(key.into()).or_insert_with(|| value.into());
        };
        // Bringing state back may take long, and meanwhile nobody polls.
        default("max.poll.interval.ms", "1800000");
        if self.by_partition {
            default("client.id", &self.instance.name);
            // A member that has died is missed soon: its partitions go to others.
            default("session.timeout.ms", "6000");
        } else {
            // One that comes back under its name is known at once, so this is how long the broker
            // may be away.
            default("session.timeout.ms", "30000");
        }
        KafkaOptions {
            brokers: kafka.brokers.clone(),
            group: self.group(),
            // One that comes back within its session keeps its partitions. Where partitions move
            // between instances, members leave at once instead.
            instance: (!self.by_partition).then(|| self.instance.name.clone()),
            properties,
            offset_reset: OffsetReset::Earliest,
            first_sequence: 0,
            hold: true,
            lanes: self.by_partition,
            before_revoke: Some(Arc::new(before_revoke(
                self.lanes.clone(),
                feeder,
                self.by_partition,
            ))),
        }
    }

    /// Every partition of every topic.
    ///
    /// # Errors
    /// A topic that is not there; topics that cannot share lanes.
    fn partitions(&self) -> Result<Vec<TopicPartition>, Failure> {
        let kafka = &self.folder.settings.kafka;
        let mut topics: BTreeMap<Arc<str>, i32> = BTreeMap::new();
        for stream in &self.folder.streams {
            let Some(topic) = stream.topic.as_deref() else {
                continue;
            };
            let count = KafkaSource::partitions_of(&kafka.brokers, &kafka.properties, topic)
                .map_err(|e| (self.folder).topic_failure(e, &["streams", &stream.name, "topic"]))?;
            topics.insert(topic.into(), count);
        }
        let counts: Vec<i32> = topics.values().copied().collect();
        if self.by_partition && counts.windows(2).any(|pair| pair[0] != pair[1]) {
            let each: Vec<String> = topics.iter().map(|(t, n)| format!("{t} {n}")).collect();
            return Err(Failure::new(
                "kafka",
                format!(
                    "topics whose state lives with the partition have different numbers of partitions: {}",
                    each.join(", ")
                ),
            )
            .in_file(&self.folder.path.join("pipeline.yaml"))
            .cure("give them the same number of partitions and the same key; or write state: memory and run one instance"));
        }
        Ok(topics
            .into_iter()
            .flat_map(|(topic, count)| (0..count).map(move |p| (topic.clone(), Partition(p))))
            .collect())
    }

    /// Refuses to start without somewhere to write to: that would show at the first decision only.
    fn outputs_are_there(&self) -> Result<(), Failure> {
        let (kafka, output) = (&self.folder.settings.kafka, &self.folder.settings.output);
        let topics = [
            ("decisions", &output.decisions),
            ("dead_letters", &output.dead_letters),
            ("order", &output.order),
        ];
        for (key, topic) in topics {
            if let Some(topic) = topic {
                KafkaSource::partitions_of(&kafka.brokers, &kafka.properties, topic)
                    .map_err(|e| self.folder.topic_failure(e, &["output", key]))?;
            }
        }
        Ok(())
    }

    /// Refuses to stand beside another instance where one must own every partition. A ghost, of
    /// this name or another, is waited out.
    fn alone(&self) -> Result<(), Failure> {
        if self.by_partition {
            return Ok(());
        }
        let kafka = &self.folder.settings.kafka;
        let since = Instant::now();
        loop {
            let members = KafkaSource::members(&kafka.brokers, &kafka.properties, &self.group())
                .map_err(|e| self.folder.input_failure(e))?;
            let other = members
                .into_iter()
                .find(|member| member.client_id != self.instance.name);
            let Some(other) = other else { return Ok(()) };
            if since.elapsed() > GHOST_WITHIN || self.is_stopping() {
                let shared: Vec<&str> = self
                    .folder
                    .settings
                    .entities
                    .0
                    .iter()
                    .filter(|(_, entity)| entity.state == EntityState::Memory)
                    .map(|(name, _)| name.as_str())
                    .collect();
                return Err(Failure::new(
                    "instance",
                    format!(
                        "the instance `{}` on {} serves this pipeline, and `{}` with `state: memory` can live in one instance only",
                        other.client_id,
                        other.host,
                        shared.join("`, `")
                    ),
                )
                .in_file(&self.folder.path.join("pipeline.yaml"))
                .cure("stop the other instance; or key the topic by the entity and write state: partition"));
            }
            tracing::warn!(
                other = other.client_id,
                host = other.host,
                "another instance is in the group; waiting for it to go"
            );
            thread::sleep(Duration::from_millis(500));
        }
    }

    /// A reader of what was read before, as long as the service is not asked to stop.
    fn runs_reader(
        &self,
        properties: &BTreeMap<String, String>,
    ) -> Result<RunsReader, IngestError> {
        let PipelineFolder {
            relation,
            streams,
            settings,
            ..
        } = self.folder;
        let reader = RunsReader::new(
            relation.clone(),
            streams,
            &settings.kafka.brokers,
            properties,
        )?;
        Ok(reader.until(self.stop.clone()))
    }

    /// The checkpoints of a lane.
    fn store(&self, lane: Lane) -> Result<CheckpointStore, Failure> {
        CheckpointStore::local(&self.state, &self.prefix(lane))
    }

    /// The folder of a lane's checkpoints.
    fn folder_of(&self, lane: Lane) -> PathBuf {
        self.state.join(self.prefix(lane))
    }

    fn prefix(&self, lane: Lane) -> String {
        match lane {
            Lane(None) => self.folder.name.clone(),
            Lane(Some(partition)) => format!("{}/lane-{partition}", self.folder.name),
        }
    }
}

/// The folder that `state.url` names, which is made if it is not there.
fn state_folder(folder: &PipelineFolder) -> Result<PathBuf, Failure> {
    let url = &folder.settings.state.url;
    let path = url.strip_prefix("file://").ok_or_else(|| {
        Failure::new("config", format!("state.url `{url}` is not a folder"))
            .in_file(&folder.path.join("pipeline.yaml"))
            .cure("write file:///path/of/a/folder")
    })?;
    let path = PathBuf::from(path);
    std::fs::create_dir_all(&path).map_err(|e| {
        io_failure(&path, "make the state folder", &e)
            .cure("name a folder that this user may write to: --set state.url=file:///path")
    })?;
    Ok(path)
}

/// A flag that is set when the process is asked to stop.
fn stop_on_signals() -> Result<Arc<AtomicBool>, Failure> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let failed = |e: std::io::Error| Failure::new("signals", format!("cannot listen: {e}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(failed)?;
    let (mut terminate, mut interrupt) = {
        let _entered = runtime.enter();
        (
            signal(SignalKind::terminate()).map_err(failed)?,
            signal(SignalKind::interrupt()).map_err(failed)?,
        )
    };
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        tracing::info!("asked to stop");
        flag.store(true, Ordering::Release);
    });
    Ok(stop)
}
