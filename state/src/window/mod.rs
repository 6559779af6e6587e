//! Windows over a keyed stream: for each key one ring of rows that serves all frames.
//!
//! The contract, which a self-join over the accepted order also states: the frame of a row `e` holds
//! the rows `h` of its key that were accepted before it or are it, with
//! `e.time - preceding <= h.time <= e.time - until`, and
//! `h.time >= newest - preceding - lateness`, where `newest` is the newest event time of the key up to `e`.
//! The last condition lets old rows be dropped without anyone ever seeing it. A frame of rows is counted
//! in the order of (event time, arrival) among the same `h`: it holds those from `preceding` places before
//! `e` up to `until` places before it; for an `e` that is late, none that stands more than `preceding`
//! places before the first row within the lateness. An unbounded frame of a late row is empty.
//!
//! Where the rows of a key are capped, a key has its newest rows only, in that order, as many as are kept; a
//! row of which a frame may miss some of the others is told to be capped. An unbounded frame up to the row
//! itself misses nothing.
//!
//! Values depend on the frame's rows alone. While a cursor moves over the ring, forwards for rows in order
//! and back for late ones, integers, decimals and doubles alike are summed as integers that are wide
//! enough (`exact`), and exact addition forgets its history. Least and greatest values are looked for in
//! blocks of rows (`blocks`). What has no such kernel is computed from the frame's rows, each time.

mod adopt;
mod aggregate;
mod blocks;
mod column;
mod cursor;
mod deviations;
mod distinct;
mod exact;
mod output;
mod plan;
mod ring;
mod shard;
mod snapshot;
mod spec;
mod state;
mod tidy;
mod view;

pub use adopt::RingShape;
pub use ring::KeyTimes;
pub use spec::{Aggregate, COLUMNS_MAX, Column, Frame, Function, Pair, WindowSpec};
pub use state::{Footprint, FrameRows, WindowOutput, WindowRows, WindowState};
pub use view::{KeyRows, KeySummary, WindowView};
