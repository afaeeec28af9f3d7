//! The state: pure data, no clock, no randomness, no I/O.

mod bucket;
mod definition;
mod index;
pub mod persistent;
mod schema;

pub use bucket::{Bucket, BucketId, RowId, Timestamp};
pub use definition::{BucketDefinition, IndexDefinition, OnDelete, Reference};
pub use index::{Index, IndexKey, RowSet};
pub use schema::{Generated, Schema};
