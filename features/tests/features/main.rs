//! The feature engine against the self-join that defines it, and against DataFusion's own windows.

mod accepted;
mod calls;
mod folded;
mod frames;
mod functions;
mod grammar;
mod kept;
mod layered;
mod oracle;
mod parity;
mod refusals;
mod schemas;
mod slt;
mod stream;
mod tables;
mod take_over;
mod threads;
mod times;
mod updates;
