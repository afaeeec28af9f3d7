//! The state: pure data and pure functions. No clock, no randomness, no I/O: a command brings all of that along.

mod apply;
mod bucket;
mod builder;
mod catalog;
mod definition;
mod draft;
mod duration;
mod ecmascript;
mod faults;
mod format;
mod guarded;
mod index;
mod index_definition;
mod limits;
mod pattern;
pub mod persistent;
mod properties;
mod reference;
mod requests;
mod rule;
mod schema;
mod schema_reader;
mod write;

#[cfg(test)]
mod definition_tests;
#[cfg(test)]
mod schema_tests;
#[cfg(test)]
mod stored_tests;

pub use apply::apply;
pub use bucket::{Bucket, BucketId, RowId, Timestamp};
pub use builder::{BucketBuilder, FieldSpec};
pub use catalog::{QueryEntry, QueryKind, State};
pub use definition::{BucketDefinition, OnDelete, Reference};
pub use draft::{Change, CommitEnd, Effects};
pub use format::Format;
pub use index::{Index, IndexKey, RowSet};
pub use index_definition::IndexDefinition;
pub use requests::{Answer, Remembered, RequestChange, RequestKey, RequestLimits, Requests};
pub use schema::{Field, FieldCheck, Generated, RecordCheck, Schema};
