//! Keyed state: what a fold over the log remembers, by key.
//!
//! State is paged and copy-on-write. A [`Snapshot`] takes a reference to every page and copies
//! nothing, so it can be written by another thread while the fold goes on; a page that is written
//! to after that is cloned first. Nothing here knows SQL, models or the network, and nothing that
//! is kept depends on how the rows were cut into batches.

mod bytes;
mod error;
mod key_index;
mod key_page;
mod numbers;
mod paged;
mod referents;
mod snapshot;
mod threads;
pub mod window;

pub use bytes::Persist;
pub use error::StateError;
pub use key_index::{KeyIndex, KeyOf, KnownKeys};
pub use paged::Paged;
pub use referents::{Referents, Settled};
pub use snapshot::{Page, Restored, Section, Snapshot};
pub use threads::Threads;
