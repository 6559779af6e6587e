//! Features: standard SQL over the relation `events`, folded row by row.
//!
//! DataFusion parses, plans and type-checks the SQL; what is stateless runs as a program of its physical
//! expressions (`program`). Windows run on our own rings (`sanderling_state::window`), because a row's
//! features must come out with the row, keys must be forgotten, and all of it must fit into a checkpoint.

mod accumulate;
mod catalog;
mod clock;
mod columns;
mod engine;
mod entities;
mod error;
mod groups;
mod joins;
mod key_log;
mod key_sample;
mod keys;
mod labels;
mod lateness;
mod layers;
mod log_sample;
mod lookup;
mod outputs;
mod parity;
mod places;
mod plan;
mod program;
mod scalar;
mod table_index;
mod take_over;
mod view;
mod windows;

/// What planned and compiled the SQL; user functions are made with it.
pub use datafusion;

pub use catalog::{Catalog, Function, Table};
pub use engine::FeatureEngine;
pub use error::FeatureError;
pub use key_sample::KeySample;
pub use labels::LabelCounts;
pub use log_sample::LogSample;
pub use parity::{ParityReport, ParitySample};
pub use table_index::TableJoins;
pub use take_over::{Filling, Folded, TakenOver};
pub use view::{EngineView, KeyTable, WindowTable};
