//! The broker's side of this room: what is written to topics, and what a reader of them sees.
//!
//! Together with `ingest`, the only place that knows rdkafka.

mod embedded;
mod encoder;
mod reader;
mod sink;
mod writer;

pub use embedded::EmbeddedBroker;
pub use encoder::DecisionEncoder;
pub use reader::{DecisionReader, Received};
pub use sink::KafkaSink;
pub use writer::TopicWriter;

/// Header that carries a decision's timing.
pub const TIMING_HEADER: &str = "sanderling-timing";
