//! Kafka partitions, recorded files or a simulator -> ordered, decoded event batches.
//!
//! An [`EventSource`] yields batches of the relation's rows in the accepted order, each row with
//! its origin and its sequence. What cannot become a row comes out as a dead letter, so every
//! record of the input is in exactly one batch or in exactly one rejection. The rows, their order
//! and their sequences depend on the input's bytes alone: never on how many rows are asked for at
//! a time, nor on timing within a file.

mod assemble;
mod avro;
mod convert;
mod csv;
mod decode;
mod decoded;
mod error;
mod file;
mod framing;
mod hash;
mod json;
mod kafka;
mod key_file;
mod labels;
mod merged;
mod ordered;
mod parquet;
mod protobuf;
mod recorded;
mod registry;
mod seal;
pub mod simulate;
mod source;
mod stream;
mod values;

pub use decode::{Decoder, FUTURE_US_MAX};
pub use decoded::{Decoded, Refusal};
pub use error::IngestError;
pub use file::{FileOptions, FileSource, Input};
pub use framing::framing_of;
pub use hash::HashKey;
pub use kafka::{
    BeforeRevoke, Committer, GroupMember, KafkaOptions, KafkaSource, KafkaTrouble, OffsetReset,
    OrderLog, Progress, RunsReader, TopicPartition,
};
pub use labels::LabelFileSpec;
pub use ordered::{OrderedFiles, Wanted};
pub use protobuf::ProtobufSchema;
pub use registry::{Registry, RegistryOptions};
pub use seal::{SealError, SealKey};
pub use source::{EventSource, Position, SourceEvent};
pub use stream::{ColumnSpec, EpochUnit, EventTimeSpec, Format, Framing, StreamSpec};
