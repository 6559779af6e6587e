//! Whole-pipeline truth: what a user may rely on, held against the real command line.
//!
//! A scenario is a folder under `scenarios/`: a pipeline, input, and a golden. `check` runs it
//! plain, cut into other batches, on one core, and killed and resumed; all must give the same.

// What a test saw is shown where it failed, and to who asks with `--nocapture`.
#![allow(clippy::print_stdout)]

mod arrows;
mod bad_rows;
mod capped;
mod cards;
mod causes;
mod challengers;
mod check;
mod crash;
mod demo;
mod errors;
mod evaluate;
mod identifiers;
mod late;
mod live;
mod offline;
mod operations;
mod order;
mod outcome;
mod placement;
mod random;
mod sanderling;
mod scenario;
mod setup;
mod state_query;
mod tables;
mod telemetry;
mod training;
