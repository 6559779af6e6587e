//! `sanderling simulate`.

use std::time::Duration;

use clap::{Args, ValueEnum};
use sanderling_schemas::EventTime;

use super::inputs::{seconds, time};
use super::invocation::Invocation;
use crate::failure::Failure;
use crate::simulate::{SimulateOptions, card_fraud};

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum SimulatedStream {
    /// Cards, terminals and devices, with three kinds of fraud.
    CardFraud,
}

#[derive(Args)]
pub(super) struct SimulateArgs {
    /// What to simulate.
    stream: SimulatedStream,
    /// A seed gives the same bytes.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Days to simulate.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..))]
    days: u32,
    /// First day.
    #[arg(long, value_parser = time, value_name = "DATE")]
    start: Option<EventTime>,
    /// A .jsonl, .csv or .parquet file, or `kafka`.
    #[arg(long, value_name = "FILE|kafka")]
    out: String,
    /// To kafka: payments a second.
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// To kafka: time until a payment's label is sent.
    #[arg(long, value_parser = seconds, default_value = "60s", value_name = "DURATION")]
    label_delay: Duration,
    /// To kafka: bootstrap servers.
    #[arg(long, default_value = "localhost:9092")]
    brokers: String,
}

impl SimulateArgs {
    pub(super) fn answer(self, call: &Invocation<'_>) -> Result<(), Failure> {
        let SimulatedStream::CardFraud = self.stream;
        call.show(&card_fraud(&SimulateOptions {
            seed: self.seed,
            days: self.days,
            start: self.start,
            out: self.out,
            rate: self.rate,
            label_delay: self.label_delay,
            brokers: self.brokers,
        })?)
    }
}
