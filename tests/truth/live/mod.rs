//! The live service on Apache Kafka, watched by clients that are not ours.

mod agreement;
mod at_least_once;
mod bad_records;
mod bootstrap;
mod broker;
mod catch_up;
mod client;
mod dead_letters;
mod deployed;
mod exactly_once;
mod foreign;
mod formats;
mod harness;
mod http;
mod ladder;
mod looked_at;
mod lost_state;
mod new_features;
mod parity;
mod payments;
mod rebalance;
mod recorded;
mod refusals;
mod registry;
mod tables;
mod takeover;
