//! The broker's side of this room: what is written to topics, and what a reader of them sees.
//!
//! Together with `ingest`, the only place that knows rdkafka.

mod embedded;
mod encoder;
mod properties;
mod reader;
mod relay;
mod requeuer;
mod scan;
mod sink;
mod transactions;
mod writer;

pub use embedded::EmbeddedBroker;
pub use encoder::DecisionEncoder;
pub use properties::{PropertyFault, check_properties};
pub use reader::{DecisionReader, Received};
pub use relay::{Commit, Relay};
pub use requeuer::{REQUEUED_FROM_HEADER, Requeuer};
pub use scan::{Scanned, check_readable, scan};
pub use sink::{KafkaSink, Point};
pub use transactions::Transactions;
pub use writer::TopicWriter;

use std::sync::Arc;

/// A record on its way to a topic.
pub struct Record {
    /// Where to.
    pub topic: Arc<str>,
    /// Its key.
    pub key: Vec<u8>,
    /// Its value.
    pub payload: Vec<u8>,
    /// Value of the header [`TIMING_HEADER`].
    pub timing: Option<String>,
}

/// Header that carries a decision's timing.
pub const TIMING_HEADER: &str = "sanderling-timing";
