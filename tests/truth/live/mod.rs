//! The live service on Apache Kafka, watched by clients that are not ours.

mod broker;
mod dead_letters;
mod foreign;
mod harness;
mod http;
mod registry;
