//! The room with a runtime, a clock, sockets and storage: it carries events through the others.
//!
//! `pipeline` tells the story of an event; `line` runs it on several cores; `replay` and `demo`
//! give it input and take its output away.

pub mod against;
mod allocator;
pub mod checkpoint;
pub mod cli;
pub mod clock;
pub mod demo;
pub mod dlq;
pub mod evaluate;
pub mod failure;
pub mod features;
pub mod folder;
pub mod health;
pub mod kafka;
pub mod line;
pub mod log;
pub mod model;
pub mod order_file;
pub mod out_folder;
pub mod overrides;
pub mod pipeline;
pub mod progress;
pub mod record;
pub mod replay;
pub mod resolve;
pub mod roster;
pub mod run;
pub mod settings;
pub mod simulate;
pub mod state_query;
pub mod tables;
pub mod tally;
pub mod telemetry;
pub mod train;
pub mod validate;
