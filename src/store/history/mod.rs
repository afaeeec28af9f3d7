//! What happened to the records of each bucket of late: so that somebody who was away can be told what was missed.
//!
//! For each bucket the last commits are remembered, with the rows that readers saw change. Rows, commits and bytes are
//! bounded; the oldest commits go first. What goes to disk goes with the commit group that it tells of, so it never
//! says anything else than the records do.

mod ring;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use indexmap::IndexMap;
use smallvec::smallvec;

pub(super) use self::ring::{Entry, RowChange};
use self::ring::{Ring, RowChanges};
use super::durability::{HistoryUpdate, StoredCommit, StoredGroup, StoredHistory};
use super::state::{Bucket, BucketId, Change, Effects, RowId, State};
use super::visible::{CommitChanges, Visible};
use crate::protocol::Record;

/// The part of the largest history that goes at once when all of them together are too large.
const EVICTED_PART: usize = 8;

/// How much is remembered of what happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryLimits {
    /// Changes of one bucket; 0 for no history. Default 10,000.
    pub max_changes: usize,
    /// Bytes of one bucket: of replaced and deleted versions, and a fixed number for each change. Default 16 MiB.
    pub max_bytes: usize,
    /// Bytes of all buckets. Default 256 MiB.
    pub max_total_bytes: usize,
}

impl Default for HistoryLimits {
    fn default() -> Self {
        Self {
            max_changes: 10_000,
            max_bytes: 16 << 20,
            max_total_bytes: 256 << 20,
        }
    }
}

/// What happened of late, bucket by bucket.
#[derive(Debug)]
pub(super) struct History {
    limits: HistoryLimits,
    rings: HashMap<BucketId, Ring>,
    bytes: usize,
    on_disk: bool,
    /// Buckets whose floor is another one than on disk.
    moved: Vec<BucketId>,
}

impl History {
    /// The history of a store without one: nothing is known of what was before this state.
    pub(super) fn new(limits: HistoryLimits, state: &State, on_disk: bool) -> Self {
        let mut history = Self {
            limits,
            rings: HashMap::new(),
            bytes: 0,
            on_disk,
            moved: Vec::new(),
        };
        for (_, bucket) in state.buckets() {
            history.restart(bucket.id(), state.seq());
        }
        history
    }

    /// Takes in what was on disk; `state` is the state that was there with it.
    ///
    /// # Errors
    /// What does not fit: the history of a bucket whose records it cannot belong to.
    pub(super) fn restore(limits: HistoryLimits, state: &State, stored: Vec<StoredHistory>) -> Result<Self, String> {
        let mut history = Self::new(limits, state, true);
        for StoredHistory { bucket, floor, groups } in stored {
            let Some(content) = state.bucket_by_id(bucket).filter(|content| content.definition().is_persistent()) else {
                continue;
            };
            let misfit = || format!("the history of bucket {} does not fit its records", bucket.0);
            let ring = restored(content, floor, groups, state).ok_or_else(misfit)?;
            history.bytes += ring.bytes();
            history.rings.insert(bucket, ring);
            history.moved.retain(|moved| *moved != bucket);
            history.trim(bucket);
        }
        history.trim_total();
        Ok(history)
    }

    /// Remembers a commit group, before it is published; what goes to disk with it.
    pub(super) fn record(&mut self, visible: &Visible, effects: &Effects, before: &State, after: &State) -> HistoryUpdate {
        let emptied = effects.emptied.iter().map(|(_, old, _)| old);
        for bucket in effects.dropped.iter().map(|(_, id)| id).chain(emptied) {
            self.forget(*bucket);
        }
        let anew: Vec<_> = visible.replaced.iter().filter_map(|it| after.bucket_id(it.name.as_str())).collect();
        let mut update = HistoryUpdate::default();
        for bucket in &anew {
            let stored = self.rings.get(bucket).into_iter().flat_map(|ring| &ring.stored);
            update.forgotten.extend(stored.map(|group| (*bucket, *group)));
            self.restart(*bucket, after.seq());
        }
        let mut touched = Vec::new();
        for commit in &visible.commits {
            self.add(commit, &anew, &mut touched);
        }
        for bucket in &touched {
            self.trim(*bucket);
        }
        self.trim_total();
        if self.on_disk {
            self.write(touched, before.seq(), after, &mut update);
        }
        update
    }

    /// The commits of a bucket after one and up to another.
    ///
    /// # Errors
    /// Where the history does not reach back so far: the oldest commit after which everything is known.
    pub(super) fn since(&self, bucket: BucketId, after: u64, until: u64) -> Result<impl DoubleEndedIterator<Item = &Entry>, u64> {
        let ring = match self.rings.get(&bucket) {
            // Nothing has happened, whatever a group has done that is on its way to disk or was lost there.
            _ if after >= until => None,
            None => return Err(until),
            ring => ring,
        };
        let entries = ring.map(|ring| ring.since(after, until)).transpose()?;
        Ok(entries.into_iter().flatten())
    }

    /// How the rows that have changed between two commits were at the first of them, none where there was no record;
    /// where that is known.
    pub(super) fn before(&self, bucket: BucketId, after: u64, until: u64) -> Option<HashMap<RowId, Option<Record>>> {
        let mut before = HashMap::new();
        for change in self.since(bucket, after, until).ok()?.flat_map(|entry| &entry.changes) {
            before.entry(change.row).or_insert_with(|| change.old.clone());
        }
        Some(before)
    }

    fn restart(&mut self, bucket: BucketId, floor: u64) {
        self.forget(bucket);
        self.rings.insert(bucket, Ring::new(floor));
        if self.on_disk {
            self.moved.push(bucket);
        }
    }

    fn forget(&mut self, bucket: BucketId) {
        if let Some(ring) = self.rings.remove(&bucket) {
            self.bytes -= ring.bytes();
        }
    }

    /// Files a commit under its buckets.
    fn add(&mut self, commit: &CommitChanges, anew: &[BucketId], touched: &mut Vec<BucketId>) {
        let [first, others @ ..] = &*commit.changes else { return };
        if others.is_empty() {
            self.push(commit.seq, first.bucket, smallvec![row_change(first)], anew, touched);
            return;
        }
        let mut by_bucket: IndexMap<BucketId, RowChanges> = IndexMap::new();
        for change in &commit.changes {
            by_bucket.entry(change.bucket).or_default().push(row_change(change));
        }
        for (bucket, changes) in by_bucket {
            self.push(commit.seq, bucket, changes, anew, touched);
        }
    }

    fn push(&mut self, seq: u64, bucket: BucketId, changes: RowChanges, anew: &[BucketId], touched: &mut Vec<BucketId>) {
        if anew.contains(&bucket) {
            return;
        }
        let Some(ring) = self.rings.get_mut(&bucket) else { return };
        let bytes = ring.bytes();
        ring.push(Entry { seq, changes });
        self.bytes += ring.bytes() - bytes;
        if touched.last() != Some(&bucket) && !touched.contains(&bucket) {
            touched.push(bucket);
        }
    }

    /// Brings a bucket back within its bounds.
    fn trim(&mut self, bucket: BucketId) {
        let HistoryLimits {
            max_changes, max_bytes, ..
        } = self.limits;
        self.pop_while(bucket, |ring| ring.changes() > max_changes || ring.bytes() > max_bytes);
    }

    /// Brings all buckets together back within their bound: a part of the largest goes, so that this is not asked
    /// again with the next commit.
    fn trim_total(&mut self) {
        while self.bytes > self.limits.max_total_bytes {
            let largest = self.rings.iter().max_by_key(|(bucket, ring)| (ring.bytes(), bucket.0));
            let Some((bucket, bytes)) = largest.map(|(bucket, ring)| (*bucket, ring.bytes())) else {
                return;
            };
            self.pop_while(bucket, |ring| ring.bytes() > bytes - bytes.div_ceil(EVICTED_PART));
        }
    }

    fn pop_while(&mut self, bucket: BucketId, too_much: impl Fn(&Ring) -> bool) {
        let Some(ring) = self.rings.get_mut(&bucket) else { return };
        let (floor, bytes) = (ring.floor(), ring.bytes());
        while too_much(ring) && ring.pop() {}
        self.bytes -= bytes - ring.bytes();
        if self.on_disk && ring.floor() != floor {
            self.moved.push(bucket);
        }
    }

    /// Says what is to be written: what the group added, floors that moved, and what lies below them.
    fn write(&mut self, touched: Vec<BucketId>, before: u64, after: &State, update: &mut HistoryUpdate) {
        let persistent = |bucket: &BucketId| {
            after
                .bucket_by_id(*bucket)
                .is_some_and(|bucket| bucket.definition().is_persistent())
        };
        for bucket in touched.into_iter().filter(persistent) {
            let Some(ring) = self.rings.get_mut(&bucket) else { continue };
            let commits: Vec<_> = ring
                .since(before.max(ring.floor()), after.seq())
                .into_iter()
                .flatten()
                .map(stored)
                .collect();
            if let Some(last) = commits.last() {
                ring.stored.push_back(last.seq);
                update.groups.push(StoredGroup { bucket, commits });
            }
        }
        self.moved.sort_unstable();
        self.moved.dedup();
        for bucket in self.moved.drain(..).filter(persistent) {
            let Some(ring) = self.rings.get_mut(&bucket) else { continue };
            let floor = ring.floor();
            update.floors.push((bucket, floor));
            while let Some(group) = ring.stored.pop_front_if(|group| *group <= floor) {
                update.forgotten.push((bucket, group));
            }
        }
    }
}

fn row_change(change: &Change) -> RowChange {
    RowChange {
        row: change.row,
        old: change.old.clone(),
        new: change.new.clone(),
    }
}

fn stored(entry: &Entry) -> StoredCommit {
    StoredCommit {
        seq: entry.seq,
        changes: entry.changes.iter().map(|change| (change.row, change.old.clone())).collect(),
    }
}

/// The history of a bucket as it was; nothing where it is not that of this bucket.
fn restored(bucket: &Bucket, floor: u64, groups: Vec<StoredGroup>, state: &State) -> Option<Ring> {
    let mut ring = Ring::new(floor);
    let mut last = floor;
    for group in groups {
        ring.stored.push_back(group.commits.last()?.seq);
        for StoredCommit { seq, changes } in group.commits {
            // The older commits of a group may be forgotten already.
            if seq <= floor {
                continue;
            }
            if seq <= last || seq > state.seq() {
                return None;
            }
            last = seq;
            let changes = changes.into_iter().map(|(row, old)| RowChange { row, old, new: None }).collect();
            ring.push(Entry { seq, changes });
        }
    }
    let current = |row| bucket.row(row).filter(|record| !bucket.is_expired(record, state.now())).cloned();
    (floor <= state.seq() && ring.complete(current)).then_some(ring)
}
