//! `sanderling state query`: SQL over what the engine knows, live or from a checkpoint.
//!
//! A live state is cut between two batches, by reference, and read while the fold goes on
//! (`run/look.rs`); a stored one is read from its checkpoint (`stored`). Both are the same tables
//! (`tables`). What was hashed at the decoder is hashed here too: nothing else ever was in the state.

mod client;
mod stored;
mod tables;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int32Array, RecordBatch, TimestampMicrosecondArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use arrow::util::pretty::pretty_format_batches;
use datafusion::datasource::MemTable;
use datafusion::error::DataFusionError;
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{SQLOptions, SessionConfig, SessionContext};
use sanderling_schemas::Relation;
use serde::ser::Error as _;
use serde::{Deserialize, Serialize, Serializer};

use crate::failure::Failure;
use crate::folder::PipelineFolder;
use crate::line::Lane;

pub use client::PATH;
pub use tables::LaneView;

/// Memory that a query may take beside the state, bytes.
const MEMORY_BYTES_MAX: usize = 256 << 20;
/// How long a query may take.
const WITHIN: Duration = Duration::from_secs(60);
/// Key of the Arrow schema's metadata that says what an answer is about.
const ABOUT: &str = "sanderling";

/// What is asked, and of which state.
pub struct QueryOptions {
    /// One SELECT over the state's tables.
    pub sql: String,
    /// Rows at most.
    pub limit: usize,
    /// Which state.
    pub of: StateOf,
}

/// Where a state is looked for.
pub enum StateOf {
    /// Of the service that runs on this machine, if one does; else the newest checkpoint.
    Either,
    /// Of the service that answers at this address, or at `health.listen`.
    Live(Option<String>),
    /// Of a checkpoint's folder, or of the newest one in a folder of checkpoints; without either, of the
    /// newest under `state.url`.
    Checkpoint(Option<PathBuf>),
}

/// Rows, and of which state they are.
#[derive(Debug)]
pub struct Answer {
    about: About,
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
}

/// Which state an answer is of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct About {
    /// `live` or `checkpoint`.
    pub source: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// Where a checkpoint lies.
    pub folder: Option<PathBuf>,
    /// How old a checkpoint is, seconds.
    pub age_s: Option<f64>,
    /// Each lane, and how many rows it had accepted.
    pub lanes: Vec<(Option<i32>, u64)>,
    /// There are more rows than were asked for.
    pub truncated: bool,
}

/// Asks the state of a pipeline.
pub fn query(folder: &PipelineFolder, options: &QueryOptions) -> Result<Answer, Failure> {
    let live = |at: Option<&str>| client::ask(folder, at, &options.sql, options.limit);
    match &options.of {
        StateOf::Live(at) => live(at.as_deref())?.ok_or_else(|| client::nobody(folder)),
        StateOf::Checkpoint(path) => stored::ask(folder, path.as_deref(), options),
        StateOf::Either => match live(None)? {
            Some(answer) => Ok(answer),
            None => stored::ask(folder, None, options),
        },
    }
}

/// Runs `sql` over lanes, on the calling thread.
///
/// # Errors
/// What is not a SELECT, or names what is not there; a query that takes too long or too much memory.
pub fn run(
    sql: &str,
    limit: usize,
    relation: &Relation,
    lanes: Vec<(LaneView, u64)>,
    mut about: About,
) -> Result<Answer, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .map_err(|e| Failure::new("query", e.to_string()))?;
    let memory = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(GreedyMemoryPool::new(MEMORY_BYTES_MAX)))
        .build_arc()
        .map_err(|e| Failure::new("query", e.to_string()))?;
    let config = SessionConfig::new()
        .with_target_partitions(1)
        .with_information_schema(true);
    let context = SessionContext::new_with_config_rt(config, memory);
    about.lanes = lanes
        .iter()
        .map(|(view, rows)| (view.lane.0, *rows))
        .collect();
    let overview = overview(&lanes).map_err(|e| Failure::new("query", e.to_string()))?;
    let lanes = lanes.into_iter().map(|(view, _)| view).collect();
    let mut tables = tables::tables(relation, lanes);
    tables.push(("state".into(), Arc::new(overview)));
    let names: Vec<String> = tables.iter().map(|(name, _)| name.clone()).collect();
    let refused = |e: DataFusionError| refusal(&e, &names);
    for (name, table) in tables {
        context.register_table(name, table).map_err(refused)?;
    }
    let read_only = SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false);
    let collected = runtime.block_on(async {
        let asked = async {
            let frame = context.sql_with_options(sql, read_only).await?;
            let frame = frame.limit(0, Some(limit + 1))?;
            let schema: SchemaRef = Arc::new(frame.schema().as_arrow().clone());
            Ok::<_, DataFusionError>((schema, frame.collect().await?))
        };
        tokio::time::timeout(WITHIN, asked).await
    });
    let (schema, batches) = collected
        .map_err(|_| {
            Failure::new("query", format!("not done within {} s", WITHIN.as_secs()))
                .cure("name the keys it is about: WHERE on a key column reads those alone")
        })?
        .map_err(refused)?;
    let schema = batches.first().map_or(schema, RecordBatch::schema);
    let mut left = limit;
    about.truncated = batches.iter().map(RecordBatch::num_rows).sum::<usize>() > limit;
    let batches = (batches.iter())
        .map(|batch| {
            let rows = batch.num_rows().min(left);
            left -= rows;
            batch.slice(0, rows)
        })
        .collect();
    Ok(Answer {
        about,
        schema,
        batches,
    })
}

/// A row for each lane: how far it has come.
fn overview(lanes: &[(LaneView, u64)]) -> Result<MemTable, DataFusionError> {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(
            lanes
                .iter()
                .map(|(view, _)| view.lane.0)
                .collect::<Int32Array>(),
        ),
        Arc::new(
            lanes
                .iter()
                .map(|(_, rows)| Some(*rows))
                .collect::<UInt64Array>(),
        ),
        Arc::new(
            lanes
                .iter()
                .map(|(view, _)| view.windows.clock_us)
                .collect::<TimestampMicrosecondArray>(),
        ),
    ];
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    let schema = Arc::new(Schema::new(vec![
        Field::new("lane", DataType::Int32, true),
        Field::new("rows_accepted", DataType::UInt64, false),
        Field::new("stream_time", time, true),
    ]));
    let batch = RecordBatch::try_new(schema.clone(), columns)?;
    MemTable::try_new(schema, vec![vec![batch]])
}

fn refusal(error: &DataFusionError, tables: &[String]) -> Failure {
    let said = error.strip_backtrace();
    let cure = match said.contains("not found") && said.contains("table") {
        true => format!("the tables are {}", tables.join(", ")),
        false => format!(
            "write one SELECT over {}; `describe {}` lists a table's columns",
            tables.join(", "),
            tables[0]
        ),
    };
    Failure::new("query", said).cure(cure)
}

impl Answer {
    /// As bytes: an Arrow IPC stream whose schema says what it is about.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Failure> {
        let failed = |e: String| Failure::new("query", e);
        let about = serde_json::to_string(&self.about).map_err(|e| failed(e.to_string()))?;
        let metadata = HashMap::from([(ABOUT.to_string(), about)]);
        let schema = Arc::new(self.schema.as_ref().clone().with_metadata(metadata));
        let write = || {
            let mut writer = StreamWriter::try_new(Vec::new(), &schema)?;
            for batch in &self.batches {
                writer.write(&batch.clone().with_schema(schema.clone())?)?;
            }
            writer.into_inner()
        };
        write().map_err(|e| failed(e.to_string()))
    }

    /// The answer again.
    fn from_bytes(bytes: &[u8]) -> Result<Self, Failure> {
        let failed = |e: String| Failure::new("query", format!("the answer cannot be read: {e}"));
        let reader = StreamReader::try_new(bytes, None).map_err(|e| failed(e.to_string()))?;
        let schema = reader.schema();
        let about = schema.metadata().get(ABOUT).map(String::as_str);
        let about =
            serde_json::from_str(about.unwrap_or_default()).map_err(|e| failed(e.to_string()))?;
        let batches = reader
            .collect::<Result<_, _>>()
            .map_err(|e| failed(e.to_string()))?;
        Ok(Self {
            about,
            schema,
            batches,
        })
    }

    /// The rows as JSON objects.
    fn rows(&self) -> Result<serde_json::Value, String> {
        let mut writer = arrow::json::WriterBuilder::new()
            .with_explicit_nulls(true)
            .build::<_, arrow::json::writer::JsonArray>(Vec::new());
        for batch in &self.batches {
            writer.write(batch).map_err(|e| e.to_string())?;
        }
        writer.finish().map_err(|e| e.to_string())?;
        match writer.into_inner() {
            empty if empty.is_empty() => Ok(serde_json::Value::Array(Vec::new())),
            rows => serde_json::from_slice(&rows).map_err(|e| e.to_string()),
        }
    }
}

impl Serialize for Answer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Whole<'a> {
            #[serde(flatten)]
            about: &'a About,
            rows: serde_json::Value,
        }
        let rows = self.rows().map_err(S::Error::custom)?;
        let whole = Whole {
            about: &self.about,
            rows,
        };
        whole.serialize(serializer)
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let batches: Vec<RecordBatch> = match self.batches.is_empty() {
            true => vec![RecordBatch::new_empty(self.schema.clone())],
            false => self.batches.clone(),
        };
        writeln!(
            f,
            "{}",
            pretty_format_batches(&batches).map_err(|_| fmt::Error)?
        )?;
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        write!(f, "{rows} rows")?;
        if self.about.truncated {
            write!(f, ", and there are more: --limit")?;
        }
        let About {
            source, pipeline, ..
        } = &self.about;
        write!(f, "; {source} state of {pipeline}")?;
        if let Some(age_s) = self.about.age_s {
            write!(f, ", {age_s:.0} s old")?;
        }
        for (lane, accepted) in &self.about.lanes {
            match lane {
                None => write!(f, ", {accepted} rows accepted")?,
                Some(lane) => write!(f, ", lane {lane}: {accepted}")?,
            }
        }
        Ok(())
    }
}

impl About {
    /// About the state of `pipeline`; lanes are added by [`run`].
    pub fn of(source: &str, pipeline: &str) -> Self {
        Self {
            source: source.into(),
            pipeline: pipeline.into(),
            folder: None,
            age_s: None,
            lanes: Vec::new(),
            truncated: false,
        }
    }
}

/// The lane that a folder of checkpoints is of: `lane-3`, or the pipeline's own.
fn lane_of(folder: &str) -> Lane {
    Lane(
        folder
            .strip_prefix("lane-")
            .and_then(|number| number.parse().ok()),
    )
}
