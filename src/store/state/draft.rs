//! A command in progress: changes rows at once, checks what they have to satisfy at the end, and can take
//! everything back.

use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::bucket::{Bucket, BucketId, RowId, Timestamp};
use super::catalog::State;
use super::index::IndexKey;
use super::requests::RequestChange;
use crate::protocol::{BucketName, Datum, QueryName, Record};
use crate::store::StoreError;
use crate::store::command::{Command, CommandLimits};

/// One row before and after.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The bucket.
    pub bucket: BucketId,
    /// The row.
    pub row: RowId,
    /// The record before; none where there was none.
    pub old: Option<Record>,
    /// The record after; none where it is gone.
    pub new: Option<Record>,
}

/// Where a commit ends within the effects of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitEnd {
    /// The number of the commit; that of the last one where a command made several.
    pub seq: u64,
    /// The clock at the commit.
    pub now: Timestamp,
    /// How many changes of the group there are up to its end.
    pub changes: usize,
}

/// What a command did, for the disk, the live views and the listeners.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    /// The rows that changed, in order; one row may be there several times.
    pub changes: Vec<Change>,
    /// Where the commits end in `changes`, in order.
    pub commits: Vec<CommitEnd>,
    /// Buckets that were emptied as a whole: the identity that is gone and the one that took its place.
    pub emptied: Vec<(BucketName, BucketId, BucketId)>,
    /// Buckets that were dropped.
    pub dropped: Vec<(BucketName, BucketId)>,
    /// Buckets whose definition is new or changed.
    pub redefined: Vec<BucketName>,
    /// Queries that were removed.
    pub undefined: Vec<QueryName>,
    /// Whether a definition came, changed or went.
    pub catalog_changed: bool,
    /// Requests that were remembered or forgotten, in order; one may be there twice.
    pub requests: Vec<RequestChange>,
}

/// How far a bucket's counters were when a draft first touched it.
struct Progress {
    bucket: BucketId,
    next_row: u64,
    counter: u64,
}

/// A command in progress.
pub(super) struct Draft<'a> {
    pub(super) state: &'a mut State,
    pub(super) now: Timestamp,
    pub(super) ids: ChaCha8Rng,
    changes: Vec<Change>,
    /// Unique indexes, by position, and keys that now need a look.
    touched: Vec<(BucketId, usize, IndexKey)>,
    progress: Vec<Progress>,
    limits: CommandLimits,
    rows_read: usize,
    bytes_read: usize,
    bytes_written: usize,
}

/// A point to go back to.
pub(super) struct Savepoint {
    changes: usize,
    touched: usize,
}

impl<'a> Draft<'a> {
    pub(super) fn new(state: &'a mut State, command: &Command) -> Self {
        Self {
            state,
            now: command.now,
            ids: ChaCha8Rng::from_seed(command.seed),
            changes: Vec::new(),
            touched: Vec::new(),
            progress: Vec::new(),
            limits: command.limits,
            rows_read: 0,
            bytes_read: 0,
            bytes_written: 0,
        }
    }

    /// Counts a record that is about to be written.
    pub(super) fn charge_write(&mut self, record: &Record) -> Result<(), StoreError> {
        let bytes = record.json().len();
        if bytes > self.limits.record_bytes {
            return Err(StoreError::LimitExceeded(format!(
                "A record may have at most {} bytes",
                self.limits.record_bytes
            )));
        }
        self.bytes_written += bytes;
        if self.bytes_written > self.limits.bytes {
            return Err(StoreError::LimitExceeded(format!(
                "One command may write at most {} bytes",
                self.limits.bytes
            )));
        }
        Ok(())
    }

    /// Counts rows that a step of a transaction is about to look at.
    pub(super) fn charge_rows(&mut self, rows: usize) -> Result<(), StoreError> {
        self.rows_read = self.rows_read.saturating_add(rows);
        if self.rows_read > self.limits.rows_read {
            let max = self.limits.rows_read;
            return Err(StoreError::LimitExceeded(format!(
                "The reads of one transaction may look at {max} records at most"
            )));
        }
        Ok(())
    }

    /// Counts records that a transaction has read.
    pub(super) fn charge_read<'r>(&mut self, records: impl IntoIterator<Item = &'r Record>) -> Result<(), StoreError> {
        for record in records {
            self.bytes_read += record.json().len();
        }
        if self.bytes_read > self.limits.bytes {
            return Err(StoreError::ResultTooLarge {
                limit_bytes: self.limits.bytes,
            });
        }
        Ok(())
    }

    /// A bucket by name: its identity and content.
    pub(super) fn bucket(&self, name: &BucketName) -> Result<&Arc<Bucket>, StoreError> {
        self.state.bucket(name.as_str())
    }

    /// Moves a row from one version of its record to the next.
    pub(super) fn put(&mut self, bucket: BucketId, row: RowId, old: Option<Record>, new: Option<Record>) {
        let touched = &mut self.touched;
        if let Some(content) = self.state.bucket_mut(bucket) {
            content.put(row, old.as_ref(), new.as_ref(), |index, key| touched.push((bucket, index, key)));
            self.changes.push(Change { bucket, row, old, new });
        }
    }

    /// Takes the row of a new record.
    pub(super) fn next_row(&mut self, bucket: BucketId) -> RowId {
        self.remember_progress(bucket);
        self.state.bucket_mut(bucket).map_or(RowId(0), |content| {
            let row = RowId(content.next_row);
            content.next_row += 1;
            row
        })
    }

    /// Takes the next generated number.
    pub(super) fn next_number(&mut self, bucket: BucketId) -> u64 {
        self.remember_progress(bucket);
        self.state.bucket_mut(bucket).map_or(0, |content| {
            content.counter = content.counter.saturating_add(1);
            content.counter
        })
    }

    /// Makes sure that a number given by hand is not generated again.
    pub(super) fn skip_number(&mut self, bucket: BucketId, number: u64) {
        self.remember_progress(bucket);
        if let Some(content) = self.state.bucket_mut(bucket) {
            content.counter = content.counter.max(number);
        }
    }

    fn remember_progress(&mut self, bucket: BucketId) {
        if self.progress.iter().any(|progress| progress.bucket == bucket) {
            return;
        }
        if let Some(content) = self.state.bucket_by_id(bucket) {
            self.progress.push(Progress {
                bucket,
                next_row: content.next_row,
                counter: content.counter,
            });
        }
    }

    /// The rows changed so far.
    pub(super) fn changes(&self) -> &[Change] {
        &self.changes
    }

    pub(super) fn savepoint(&self) -> Savepoint {
        Savepoint {
            changes: self.changes.len(),
            touched: self.touched.len(),
        }
    }

    /// Takes back what happened since. Counters stay where they are: they only ever count up.
    pub(super) fn rollback_to(&mut self, savepoint: &Savepoint) {
        while self.changes.len() > savepoint.changes {
            let Some(Change { bucket, row, old, new }) = self.changes.pop() else {
                return;
            };
            if let Some(content) = self.state.bucket_mut(bucket) {
                content.put(row, new.as_ref(), old.as_ref(), |_, _| {});
            }
        }
        self.touched.truncate(savepoint.touched);
    }

    /// Takes back everything, counters included.
    pub(super) fn rollback(mut self) {
        self.rollback_to(&Savepoint { changes: 0, touched: 0 });
        for progress in &self.progress {
            if let Some(content) = self.state.bucket_mut(progress.bucket) {
                content.next_row = progress.next_row;
                content.counter = progress.counter;
            }
        }
    }

    /// Keeps everything.
    pub(super) fn keep(self) -> Vec<Change> {
        self.changes
    }

    /// Whether any two records share a value that only one may have.
    pub(super) fn check_unique(&self) -> Result<(), StoreError> {
        for (bucket, at, key) in &self.touched {
            let Some(content) = self.state.bucket_by_id(*bucket) else {
                continue;
            };
            let Some(index) = content.indexes().get(*at) else { continue };
            let Some(rows) = index.rows(key) else { continue };
            if rows.len() < 2 {
                continue;
            }
            let live = rows
                .iter()
                .filter_map(|row| content.row(row))
                .filter(|record| !content.is_expired(record, self.now));
            if live.count() > 1 {
                let names: Vec<_> = index.fields().iter().map(|field| field.as_str()).collect();
                return Err(StoreError::UniqueViolation {
                    bucket: self.state.name_of(*bucket),
                    field: names.join(","),
                    value: key.values().first().cloned().unwrap_or(Datum::Null),
                });
            }
        }
        Ok(())
    }
}
