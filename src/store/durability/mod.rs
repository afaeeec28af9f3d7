//! Where commits are kept. The store hands over one group of commits after the other and gets all of it back when
//! it starts again; nothing above this module knows which kind of storage is in use.
//!
//! What holds on disk: a group is there whole or not at all, in the order in which groups were handed over, and a
//! group that was reported durable is never missing without the next start saying so.

mod embedded;
mod engine;
mod history;
mod layout;
mod lock;
mod log;
mod mark;
mod open_error;
mod recovery;
mod tables;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::state::{BucketId, RequestChange, Requests, RowId, Timestamp};
use crate::protocol::Record;

pub use embedded::{Embedded, SyncLevel};
pub use open_error::OpenError;

/// One commit group as it goes to disk: atomically, whole or not at all.
#[derive(Debug, Default)]
pub struct Batch {
    /// The number of the last commit in the group.
    pub seq: u64,
    /// The clock after the group.
    pub now: Timestamp,
    /// What became of records. Where a row appears more than once, the last one counts.
    pub records: Vec<RecordChange>,
    /// The counters of the buckets in which they moved.
    pub progress: Vec<(BucketId, Progress)>,
    /// The whole catalog, when a definition changed.
    pub catalog: Option<Catalog>,
    /// Buckets that went with all of their records and their history. Ids are never reused.
    pub dropped: Vec<BucketId>,
    /// What becomes of the history.
    pub history: HistoryUpdate,
    /// Requests that were remembered or forgotten. Where a number appears more than once, the last one counts.
    pub requests: Vec<RequestChange>,
}

/// What becomes of the history with a commit group.
#[derive(Debug, Default, PartialEq)]
pub struct HistoryUpdate {
    /// What the group did, bucket by bucket.
    pub groups: Vec<StoredGroup>,
    /// From where on the history of a bucket is known now.
    pub floors: Vec<(BucketId, u64)>,
    /// Groups of a bucket that are not known any more, each by its last commit.
    pub forgotten: Vec<(BucketId, u64)>,
}

/// What a commit group did to one bucket.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredGroup {
    /// The bucket.
    pub bucket: BucketId,
    /// The commits that changed it, at least one, in order.
    pub commits: Vec<StoredCommit>,
}

/// What a commit did to one bucket.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredCommit {
    /// The number of the commit.
    pub seq: u64,
    /// The rows that changed and how each was before. How it is after is told by its next change, or by its record.
    pub changes: Vec<(RowId, Option<Record>)>,
}

/// The history of a bucket as it was found at the start.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredHistory {
    /// The bucket.
    pub bucket: BucketId,
    /// What happened up to this commit is not known.
    pub floor: u64,
    /// What was done after it, oldest first.
    pub groups: Vec<StoredGroup>,
}

/// What became of one record.
#[derive(Debug, Clone)]
pub struct RecordChange {
    /// Its bucket.
    pub bucket: BucketId,
    /// Its place in the bucket.
    pub row: RowId,
    /// Its new version, or nothing where it is gone.
    pub record: Option<Record>,
}

/// The counters of a bucket that outlive its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// The row of the next insert.
    pub next_row: u64,
    /// The last number that `autoincrement` gave out.
    pub counter: u64,
}

/// Everything that is defined.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Catalog {
    /// The id of the next bucket to be defined.
    pub next_bucket: u32,
    /// The buckets in the order of their definition.
    pub buckets: Vec<StoredBucket>,
    /// The queries in the order of their definition.
    pub queries: Vec<StoredQuery>,
}

/// A bucket's definition as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredBucket {
    /// Its id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Its definition as it was given.
    pub config: Arc<Map<String, Value>>,
    /// Which of those with its name it is.
    #[serde(default)]
    pub incarnation: u64,
}

/// A query's definition as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredQuery {
    /// Its name.
    pub name: String,
    /// Its definition as it was given.
    pub config: Arc<Map<String, Value>>,
    /// Which of those with its name it is.
    #[serde(default)]
    pub incarnation: u64,
}

/// What was found at the start, records aside.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Recovered {
    /// The number of the last commit.
    pub seq: u64,
    /// The clock after it.
    pub now: Timestamp,
    /// Everything that is defined.
    pub catalog: Catalog,
    /// The counters of buckets, in the order of their ids; a bucket without an entry has not moved yet.
    pub progress: Vec<(BucketId, Progress)>,
    /// The requests whose answers are remembered.
    pub requests: Requests,
}

/// Where commit groups go. Called from one thread of its own: calls may block.
pub trait Durability: Send {
    /// On return the group is as durable as the level promises.
    ///
    /// # Errors
    /// Where storage fails. The group may or may not be found at the next start, but never half of it. From then on
    /// every call fails.
    fn append(&mut self, batch: &Batch) -> Result<(), DurabilityError>;

    /// Makes all that was appended durable.
    ///
    /// # Errors
    /// Where storage fails.
    fn sync(&mut self) -> Result<(), DurabilityError>;

    /// Housekeeping in small bounded steps while idle: purges the records of dropped buckets. True when there is
    /// more to do.
    ///
    /// # Errors
    /// Where storage fails.
    fn tidy(&mut self) -> Result<bool, DurabilityError>;

    /// Makes all that was appended durable and lets go of the storage.
    ///
    /// # Errors
    /// Where storage fails.
    fn close(self: Box<Self>) -> Result<(), DurabilityError>;
}

/// Why storage failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurabilityError {
    /// The call itself failed.
    #[error("writing to {} failed: {reason}", dir.display())]
    Failed {
        /// The data directory.
        dir: PathBuf,
        /// What the disk or the engine said.
        reason: String,
    },
    /// An earlier call failed; what is on disk is what it was before.
    #[error("nothing is written to {} since an earlier failure: {cause}", dir.display())]
    Stopped {
        /// The data directory.
        dir: PathBuf,
        /// The first failure.
        cause: String,
    },
}
