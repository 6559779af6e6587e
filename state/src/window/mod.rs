//! Windows over a keyed stream: for each key one ring of rows that serves all frames.
//!
//! The contract, which a self-join over the accepted order also states: the frame of a row `e` holds
//! the rows `h` of its key that were accepted before it or are it, with
//! `e.time - preceding <= h.time <= e.time - until`, and
//! `h.time >= newest - preceding - lateness`, where `newest` is the newest event time of the key up to `e`.
//! The last condition lets old rows be dropped without anyone ever seeing it.
//!
//! Values depend on the frame's rows alone. Integers and decimals are summed exactly while a cursor
//! moves over the ring, forwards for rows in order and back for late ones; exact addition forgets
//! its history. Floats are added from the frame's first row to its last, anew for each result.

mod aggregate;
mod column;
mod cursor;
mod ring;
mod spec;
mod state;

pub use spec::{Aggregate, COLUMNS_MAX, Column, Frame, Function, WindowSpec};
pub use state::{WindowOutput, WindowRows, WindowState};
