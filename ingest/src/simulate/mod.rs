//! Streams made up from a seed, where nobody's data is needed.

pub mod card_fraud;
mod fraud;
mod population;
mod write;

pub use card_fraud::{FraudKind, Options, Payment, Simulator};
pub use write::{Written, write_payments};
