//! What can go wrong with an input as a whole. A single bad record is never an error but a dead
//! letter.

use std::path::PathBuf;

use crate::kafka::KafkaTrouble;

/// An input that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The stream's declaration contradicts the relation.
    #[error("stream {stream}: {message}")]
    Declaration {
        /// Stream of `pipeline.yaml`.
        stream: String,
        /// What is wrong and what to change.
        message: String,
    },
    /// A file that cannot be opened.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// A file of no format that is read or written here.
    #[error("{}: the extension tells the format; name the file .parquet, .csv or .jsonl", path.display())]
    Extension {
        /// The file.
        path: PathBuf,
    },
    /// A file that breaks off or is not of the format that its extension says.
    #[error("cannot read {}: {message}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// A declared column that the file does not have.
    #[error(
        "{}: no column {from}, which stream {stream} declares as {name}; \
         correct `from` in pipeline.yaml (the file has: {present})",
        path.display()
    )]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// Stream of `pipeline.yaml`.
        stream: String,
        /// Column of the relation, or `event_time`.
        name: String,
        /// Column that was looked for.
        from: String,
        /// Columns that are there.
        present: String,
    },
    /// A column none of whose values could be cast to the declared type.
    #[error("{}: column {column} is {found} and cannot be read as {wanted}; {cure}", path.display())]
    ColumnType {
        /// The file.
        path: PathBuf,
        /// Column of the file.
        column: String,
        /// Its type.
        found: String,
        /// The declared type.
        wanted: String,
        /// What to change.
        cure: String,
    },
    /// A position that the input does not reach: it is not the input that was read before.
    #[error(
        "the input ends before row {wanted} where reading was to go on (it has {found}); \
         resume with the input of the first run"
    )]
    ResumePastEnd {
        /// Rows and rejections read before.
        wanted: u64,
        /// Rows and rejections that there are.
        found: u64,
    },
    /// An order names a row that the input does not have.
    #[error(
        "the order takes {topic}/{partition}/{from}..{next}, but the input has no \
         {topic}/{partition}/{offset}"
    )]
    NotInInput {
        /// Topic of the run.
        topic: String,
        /// Partition of the run.
        partition: i32,
        /// First offset of the run.
        from: i64,
        /// The offset after its last.
        next: i64,
        /// The offset that is missing.
        offset: i64,
    },
    /// An order takes a row twice, or two rows of the input have one id.
    #[error("{topic}/{partition}/{offset} stands twice in the {place}")]
    Twice {
        /// Topic of the row.
        topic: String,
        /// Partition of the row.
        partition: i32,
        /// Offset of the row.
        offset: i64,
        /// The order, or the input.
        place: &'static str,
    },
    /// A position of another kind of source.
    #[error("a position in {found} cannot be resumed in {wanted}")]
    ForeignPosition {
        /// Kind of the position.
        found: &'static str,
        /// Kind of the source.
        wanted: &'static str,
    },
    /// The broker or its client refuses.
    #[error("Kafka ({brokers}): {action}: {word}")]
    Kafka {
        /// Bootstrap servers.
        brokers: String,
        /// What was being done.
        action: String,
        /// What kind of trouble it is.
        trouble: KafkaTrouble,
        /// The client's word.
        word: String,
    },
    /// Topics of different numbers of partitions, where each number is a fold of its own: a key's
    /// records would be in partitions of different numbers.
    #[error(
        "topic {topic} has {partitions} partitions and topic {other} has {others}: what belongs \
         to one key would come in partitions of different numbers"
    )]
    PartitionsDiffer {
        /// The first topic.
        topic: String,
        /// Its partitions.
        partitions: i32,
        /// Another topic.
        other: String,
        /// Its partitions.
        others: i32,
    },
    /// Records that must be read again, and that the broker does not have.
    #[error(
        "{topic}/{partition} does not hold the records [{from}, {next}) that are to be read from \
         it: it has [{low}, {high})"
    )]
    NotHeld {
        /// The topic.
        topic: String,
        /// Its partition.
        partition: i32,
        /// First offset that is needed.
        from: i64,
        /// The offset after the last.
        next: i64,
        /// First offset that is there.
        low: i64,
        /// The offset after the last.
        high: i64,
    },
    /// A reader was told to end before it had read what it was asked for.
    #[error("reading was stopped")]
    Stopped,
    /// A record of the order topic that is not an order record.
    #[error("{topic}/{partition}/{offset} is not an order record: {message}")]
    OrderRecord {
        /// The order topic.
        topic: String,
        /// Its partition.
        partition: i32,
        /// Offset of the record.
        offset: i64,
        /// What is wrong with it.
        message: String,
    },
    /// A file of a key that holds none.
    #[error("the key in {}: {message}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it; never the key.
        message: String,
    },
    /// A Protobuf schema that cannot be used.
    #[error("the Protobuf schema {}: {message}", path.display())]
    Protobuf {
        /// The .proto file or descriptor set.
        path: PathBuf,
        /// What is wrong with it.
        message: String,
    },
    /// The schema registry does not answer, or not as one. No record is at fault: what was read
    /// is read again.
    #[error("the schema registry {url}: {action}: {message}")]
    Registry {
        /// Its address.
        url: String,
        /// What was being done.
        action: String,
        /// What came back.
        message: String,
        /// What to do.
        cure: &'static str,
    },
    /// Arrow refuses to build a batch.
    #[error("cannot build a batch: {0}")]
    Arrow(#[from] arrow::error::ArrowError),
    /// A file that cannot be written.
    #[error("cannot write {}: {message}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
}
