//! The feature engine against the self-join that defines it, and against DataFusion's own windows.

mod oracle;
mod refusals;
mod stream;
