//! Keeps commits in a directory on this machine, in an LSM tree.
//!
//! One commit group is one atomic batch of the engine, with the number of its last commit in it.

use std::collections::{HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fjall::{AbstractTree, Database, Keyspace, OwnedWriteBatch, PersistMode};

use super::engine::{self, Opened, guarded};
use super::history::{self, history_key};
use super::layout::{CATALOG, EPOCH, Epoch, HEAD, Stamp, decode_record_key, encode_progress, progress_key, record_key, request_key};
use super::lock::DirectoryLock;
use super::mark::{CommitMark, Marked};
use super::open_error::OpenError;
use super::recovery::{self, Standing};
use super::{Batch, Durability, DurabilityError, Recovered, StoredHistory};
use crate::protocol::Record;
use crate::store::state::{BucketId, RowId};

/// Writes collect in memory up to this size, then they become a table. It bounds memory, and what has to be read
/// from the log at start.
const WRITE_BUFFER_BYTES: u64 = 16 << 20;
/// Full write buffers that wait for the engine to make tables of them; beyond it appends wait.
const FULL_BUFFERS_MAX: usize = 3;
/// How long to wait before looking again whether the engine has caught up.
const BUFFER_WAIT: Duration = Duration::from_millis(2);
/// Records that one step of housekeeping removes.
const PURGE_STEP: usize = 1000;

/// When a commit group is forced to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncLevel {
    /// Before `append` returns.
    EveryGroup,
    /// With the next `sync`. A killed process loses nothing; a power failure loses what was appended since.
    OnRequest,
}

/// Storage in a directory on this machine.
pub struct Embedded {
    // The engine is dropped before the lock, in the order of these fields.
    pub(super) records: Keyspace,
    pub(super) meta: Keyspace,
    db: Database,
    mark: CommitMark,
    dir: PathBuf,
    level: SyncLevel,
    head: Stamp,
    epoch: u64,
    marked: u64,
    known: HashSet<BucketId>,
    orphans: VecDeque<Orphan>,
    failed: Option<String>,
    _lock: DirectoryLock,
}

/// A dropped bucket whose records from a row on, or whose history, are still there.
#[derive(Debug, Clone, Copy)]
struct Orphan {
    bucket: BucketId,
    from: RowId,
}

/// A new name for the order of commits.
fn new_epoch(level: SyncLevel) -> Result<Epoch, OpenError> {
    let no_randomness = |error: getrandom::Error| OpenError::Io {
        path: PathBuf::from("the system's source of randomness"),
        source: std::io::Error::other(error.to_string()),
    };
    Ok(Epoch {
        id: getrandom::u64().map_err(no_randomness)?,
        synced: level == SyncLevel::EveryGroup,
    })
}

/// Whether what earlier cursors saw is all there: every group was synced and will be, and none was given up.
fn is_continued(epoch: &Epoch, level: SyncLevel, standing: &Standing) -> bool {
    let nothing_given_up = match standing {
        Standing::Fresh => true,
        Standing::Data(findings) => findings.marked != Marked::Nothing,
    };
    epoch.synced && level == SyncLevel::EveryGroup && nothing_given_up
}

impl Embedded {
    /// Opens a data directory, or makes a new one.
    ///
    /// # Errors
    /// Where another process has it, anything in it is damaged, or the operating system refuses. What was reported as
    /// stored is as it was then.
    pub fn open(dir: &Path, level: SyncLevel) -> Result<(Self, Recovered), OpenError> {
        engine::create_folder(dir)?;
        let lock = DirectoryLock::acquire(dir)?;
        let standing = recovery::examine(dir)?;
        let Opened {
            records,
            meta,
            db,
            recovered,
            head,
            epoch: found,
        } = engine::open(dir, &standing)?;
        let mark = CommitMark::create(dir, head.seq).map_err(OpenError::io(&CommitMark::path(dir)))?;
        let kept = found.filter(|epoch| is_continued(epoch, level, &standing));
        let epoch = kept.map_or_else(|| new_epoch(level), Ok)?;
        let known = recovered.catalog.buckets.iter().map(|bucket| BucketId(bucket.id)).collect();
        let mut embedded = Self {
            records,
            meta,
            db,
            mark,
            dir: dir.to_owned(),
            level,
            head,
            epoch: epoch.id,
            marked: head.seq,
            known,
            orphans: VecDeque::new(),
            failed: None,
            _lock: lock,
        };
        if kept.is_none() {
            embedded.write_epoch(epoch).map_err(|reason| embedded.unwritable(reason))?;
        }
        let sealed = matches!(&standing, Standing::Data(findings) if findings.current);
        if !sealed {
            recovery::write_format(dir)?;
        }
        Ok((embedded, recovered))
    }

    /// Names the order of commits. It is another one wherever an earlier cursor may have seen what is gone.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    fn write_epoch(&mut self, epoch: Epoch) -> Result<(), String> {
        let stamp = self.stamp(self.head.seq, self.head.now);
        let mut write = self.batch(1, PersistMode::SyncData, stamp);
        write.insert(&self.meta, EPOCH, epoch.encode());
        guarded(|| write.commit())?;
        self.head = stamp;
        Ok(())
    }

    fn unwritable(&self, reason: String) -> OpenError {
        OpenError::Io {
            path: self.dir.clone(),
            source: std::io::Error::other(reason),
        }
    }

    /// The history of every bucket that is in the catalog, in ascending order of buckets. To be called once, before
    /// the first append.
    ///
    /// # Errors
    /// Where it cannot be read.
    pub fn load_history(&mut self) -> Result<Vec<StoredHistory>, OpenError> {
        let (stored, orphans) = history::load(&self.meta, &self.known).map_err(|reason| self.refuse(reason))?;
        for bucket in orphans {
            if self.orphans.iter().all(|orphan| orphan.bucket != bucket) {
                self.orphans.push_back(Orphan { bucket, from: RowId(0) });
            }
        }
        Ok(stored)
    }

    /// Refuses what was loaded: it is not what was written.
    #[must_use]
    pub fn refuse(&self, reason: String) -> OpenError {
        OpenError::damaged(self.meta.path(), reason).behind_the_engine()
    }

    /// Gives every record of a bucket that is in the catalog, in ascending order of buckets and rows. To be called
    /// once, before the first append. Records of other buckets were dropped and are purged later, by `tidy`.
    ///
    /// # Errors
    /// Where a record cannot be read.
    pub fn load(&mut self, mut each: impl FnMut(BucketId, RowId, Record)) -> Result<u64, OpenError> {
        let mut count = 0;
        let mut next = Some(record_key(BucketId(0), RowId(0)));
        while let Some(from) = next.take() {
            let mut entries = self.records.range(from..);
            while let Some(entry) =
                guarded(|| entries.next().map(fjall::Guard::into_inner).transpose()).map_err(|error| self.unreadable(error))?
            {
                let (key, value) = entry;
                let Some((bucket, row)) = decode_record_key(&key) else {
                    return Err(self.unreadable("it holds a key of the wrong form".to_owned()));
                };
                if !self.known.contains(&bucket) {
                    self.orphans.push_back(Orphan { bucket, from: row });
                    next = bucket.0.checked_add(1).map(|bucket| record_key(BucketId(bucket), RowId(0)));
                    break;
                }
                let Some(record) = Record::from_bytes(&value) else {
                    return Err(self.unreadable(format!("row {} of bucket {} is no record", row.0, bucket.0)));
                };
                each(bucket, row, record);
                count += 1;
            }
        }
        Ok(count)
    }

    fn unreadable(&self, reason: String) -> OpenError {
        OpenError::damaged(self.records.path(), reason).behind_the_engine()
    }

    pub(super) fn batch(&self, length: usize, persist: PersistMode, stamp: Stamp) -> OwnedWriteBatch {
        let mut batch = OwnedWriteBatch::with_capacity(self.db.clone(), length + 1).durability(Some(persist));
        batch.insert(&self.meta, HEAD, stamp.encode());
        batch
    }

    pub(super) fn stamp(&self, seq: u64, now: u64) -> Stamp {
        Stamp {
            seq,
            previous: self.head.seq,
            now,
            floor: self.db.supervisor.seqno.get(),
        }
    }

    /// Carries one step out, unless an earlier one failed: after a failure nobody knows what the engine holds.
    pub(super) fn attempt<T>(&mut self, step: impl FnOnce(&mut Self) -> Result<T, String>) -> Result<T, DurabilityError> {
        if let Some(cause) = &self.failed {
            return Err(DurabilityError::Stopped {
                dir: self.dir.clone(),
                cause: cause.clone(),
            });
        }
        step(self).map_err(|reason| {
            self.failed = Some(reason.clone());
            DurabilityError::Failed {
                dir: self.dir.clone(),
                reason,
            }
        })
    }

    fn write(&mut self, batch: &Batch) -> Result<(), String> {
        let persist = match self.level {
            SyncLevel::EveryGroup => PersistMode::SyncData,
            SyncLevel::OnRequest => PersistMode::Buffer,
        };
        let stamp = self.stamp(batch.seq, batch.now);
        let history = batch.history.groups.len() + batch.history.floors.len() + batch.history.forgotten.len();
        let length = batch.records.len() + batch.progress.len() + batch.dropped.len() + batch.requests.len() + history + 1;
        let mut write = self.batch(length, persist, stamp);
        self.write_records(&mut write, batch);
        self.write_definitions(&mut write, batch)?;
        history::write(&mut write, &self.meta, &batch.history)?;
        self.write_requests(&mut write, batch);
        guarded(|| write.commit())?;
        self.head = stamp;
        self.orphans.extend(batch.dropped.iter().map(|bucket| Orphan {
            bucket: *bucket,
            from: RowId(0),
        }));
        if self.level == SyncLevel::EveryGroup {
            self.move_mark()?;
        }
        self.rotate();
        Ok(())
    }

    fn write_records(&self, write: &mut OwnedWriteBatch, batch: &Batch) {
        for change in batch.records.iter().filter(|change| !batch.dropped.contains(&change.bucket)) {
            let key = record_key(change.bucket, change.row);
            match &change.record {
                Some(record) => write.insert(&self.records, key, record.as_bytes()),
                None => write.remove(&self.records, key),
            }
        }
    }

    fn write_definitions(&self, write: &mut OwnedWriteBatch, batch: &Batch) -> Result<(), String> {
        for (bucket, progress) in batch.progress.iter().filter(|(bucket, _)| !batch.dropped.contains(bucket)) {
            write.insert(&self.meta, progress_key(*bucket), encode_progress(*progress));
        }
        for bucket in &batch.dropped {
            write.remove(&self.meta, progress_key(*bucket));
        }
        if let Some(catalog) = &batch.catalog {
            write.insert(&self.meta, CATALOG, serde_json::to_vec(catalog).map_err(|error| error.to_string())?);
        }
        Ok(())
    }

    fn write_requests(&self, write: &mut OwnedWriteBatch, batch: &Batch) {
        for change in &batch.requests {
            let key = request_key(change.number);
            match &change.remembered {
                Some(remembered) => write.insert(&self.meta, key, remembered.to_bytes()),
                None => write.remove(&self.meta, key),
            }
        }
    }

    fn move_mark(&mut self) -> Result<(), String> {
        self.mark
            .write(self.head.seq)
            .map_err(|error| format!("the commit mark: {error}"))?;
        self.marked = self.head.seq;
        Ok(())
    }

    /// Turns full write buffers into tables, both at once, so that the log behind them can go.
    ///
    /// The engine would do this by itself, but asks for it again with every write until it is done, which can fill its
    /// queue and then stop its only worker for good; and it lets writes wait for a worker that has failed.
    fn rotate(&self) {
        let buffered: u64 = [&self.records, &self.meta]
            .map(|keyspace| keyspace.tree.active_memtable().size())
            .iter()
            .sum();
        if buffered < WRITE_BUFFER_BYTES {
            return;
        }
        let result = guarded(|| {
            let full_buffers = || self.records.sealed_memtable_count().max(self.meta.sealed_memtable_count());
            while full_buffers() >= FULL_BUFFERS_MAX {
                // Fails when the worker has: then the next append says so.
                self.db.persist(PersistMode::Buffer)?;
                std::thread::sleep(BUFFER_WAIT);
            }
            self.records.rotate_memtable()?;
            self.meta.rotate_memtable()
        });
        if let Err(reason) = result {
            tracing::error!(reason, "the storage engine does not take writes over into tables");
        }
    }

    fn purge_step(&mut self) -> Result<bool, String> {
        let Some(orphan) = self.orphans.front().copied() else {
            return Ok(false);
        };
        let range = record_key(orphan.bucket, orphan.from)..=record_key(orphan.bucket, RowId(u64::MAX));
        let history = history_key(orphan.bucket, 0)..=history_key(orphan.bucket, u64::MAX);
        let keys = first_keys(self.records.range(range), PURGE_STEP)?;
        let told = first_keys(self.meta.range(history), PURGE_STEP - keys.len())?;
        let purged = keys.len() + told.len();
        let next = keys
            .last()
            .and_then(|key| decode_record_key(key))
            .and_then(|(_, row)| row.0.checked_add(1));
        if purged > 0 {
            let stamp = self.stamp(self.head.seq, self.head.now);
            let mut write = self.batch(purged, PersistMode::Buffer, stamp);
            for key in &keys {
                write.remove(&self.records, key.clone());
            }
            for key in told {
                write.remove(&self.meta, key);
            }
            guarded(|| write.commit())?;
            self.head = stamp;
            self.rotate();
        }
        if let Some(row) = next {
            self.orphans[0].from = RowId(row);
        }
        if purged < PURGE_STEP {
            self.orphans.pop_front();
        }
        Ok(!self.orphans.is_empty())
    }

    fn sync_all(&mut self) -> Result<(), String> {
        guarded(|| self.db.persist(PersistMode::SyncData))?;
        if self.marked < self.head.seq {
            self.move_mark()?;
        }
        Ok(())
    }
}

fn first_keys(entries: fjall::Iter, max: usize) -> Result<Vec<fjall::UserKey>, String> {
    guarded(|| entries.take(max).map(fjall::Guard::key).collect())
}

impl Durability for Embedded {
    fn append(&mut self, batch: &Batch) -> Result<(), DurabilityError> {
        self.attempt(|this| this.write(batch))
    }

    fn sync(&mut self) -> Result<(), DurabilityError> {
        self.attempt(Self::sync_all)
    }

    fn tidy(&mut self) -> Result<bool, DurabilityError> {
        self.attempt(Self::purge_step)
    }

    fn close(mut self: Box<Self>) -> Result<(), DurabilityError> {
        self.sync()
    }
}
