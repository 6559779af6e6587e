//! The wire forms of a decision: JSON for a topic, Arrow for Parquet.
