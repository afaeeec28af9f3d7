//! Change feeds: what happened to the records of a bucket, commit by commit, for those who follow them.

use bytes::Bytes;

/// What happened to the records that a feed follows in one commit. Encoded once, shared by all who follow the same.
#[derive(Debug)]
pub struct ChangeSet {
    seq: u64,
    count: usize,
    data: Bytes,
}

impl ChangeSet {
    /// So many changes of the commit `seq`, as a JSON list.
    #[must_use]
    pub fn new(seq: u64, count: usize, data: Bytes) -> Self {
        Self { seq, count, data }
    }

    /// The number of the commit.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// How many changes these are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The changes as a JSON list.
    #[must_use]
    pub fn data(&self) -> &Bytes {
        &self.data
    }
}
