//! The feature engine against the self-join that defines it, and against DataFusion's own windows.

mod grammar;
mod oracle;
mod refusals;
mod stream;
mod times;
