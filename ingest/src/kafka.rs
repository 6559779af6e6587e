//! Topics of a Kafka broker: read live as a source, read again by position, and read as a log of
//! order records.
//!
//! A live source is a member of a consumer group; its records are merged by the broker's time
//! while it is behind (`lane`), and committed only when told so. Whoever recovers reads the same
//! records again outside the group (`runs`), in the order that the order log tells (`order_log`).

mod broker;
mod committer;
mod group;
mod lane;
mod options;
mod order_log;
mod probe;
mod progress;
mod runs;
mod seek;
mod source;
mod tap;
mod topics;
mod trouble;
mod wake;

pub use committer::Committer;
pub use options::{BeforeRevoke, KafkaOptions, OffsetReset, TopicPartition};
pub use order_log::OrderLog;
pub use probe::GroupMember;
pub use progress::Progress;
pub use runs::RunsReader;
pub use source::KafkaSource;
pub use trouble::KafkaTrouble;
