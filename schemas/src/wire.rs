//! The wire forms of a decision, a dead letter and an order record: JSON for a topic, Arrow for
//! Parquet, and for a decision Avro.
//!
//! All forms carry the same fields. In JSON the event id is an object, the features and the
//! attribution are maps; in a table they are flat columns: `_topic`, `_partition`, `_offset`,
//! `f_<feature>`, `a_base`, `a_<group>`, `version_<name>`.
//!
//! Instants are integer microseconds since 1970 UTC in JSON, like `event_time_us`. NULL is `null`,
//! and so is a NaN or an infinity, which JSON has no number for.

mod avro;
mod json;
mod records;
mod scalar;
mod table;

use arrow::datatypes::DataType;
use arrow::error::ArrowError;

pub use avro::{DECISION_AVRO_SCHEMA, write_decision_avro};
pub use json::{decision_to_json, write_decision};
pub use records::{
    dead_letters_schema, dead_letters_to_batch, orders_from_batch, orders_schema, orders_to_batch,
};
pub use table::{DecisionTable, SourceId};

/// What cannot be put on the wire, or read from it.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// A feature of a type that has no JSON form.
    #[error(
        "the feature {name} has the type {data_type}, which has no wire form: cast it to a number, a string or a timestamp"
    )]
    FeatureType {
        /// Name of the feature.
        name: String,
        /// Its type.
        data_type: DataType,
    },
    /// Two columns of a table would have one name.
    #[error(
        "the id column {name:?} has the name of a decision's own column: give it another with `from`"
    )]
    NameTaken {
        /// The name.
        name: String,
    },
    /// A decision does not have the shape its table was made for.
    #[error("a decision does not fit its table: {what}")]
    Shape {
        /// What differs.
        what: String,
    },
    /// A table that is not what it should be.
    #[error("not an order table: {what}")]
    OrderTable {
        /// What is missing or wrong.
        what: String,
    },
    /// Arrow refused.
    #[error(transparent)]
    Arrow(#[from] ArrowError),
}

#[cfg(test)]
mod tests;
