//! The history of one bucket: its last commits, each with the rows that were seen to change.

use std::collections::{HashMap, VecDeque};

use smallvec::SmallVec;

use crate::protocol::Record;
use crate::store::state::RowId;

/// What one change counts beside the bytes of the version that it replaced.
const CHANGE_BYTES: usize = 96;

/// One row of a commit, as readers saw it before and see it after.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::store) struct RowChange {
    pub(in crate::store) row: RowId,
    pub(in crate::store) old: Option<Record>,
    pub(in crate::store) new: Option<Record>,
}

impl RowChange {
    /// What it takes to remember it. The new version is the current one, or counts as the old one of a later change.
    fn bytes(&self) -> usize {
        CHANGE_BYTES + self.old.as_ref().map_or(0, |record| record.as_bytes().len())
    }
}

/// The rows of one bucket that a commit changed. Most commits change one.
pub(super) type RowChanges = SmallVec<[RowChange; 1]>;

/// One commit of a bucket.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::store) struct Entry {
    pub(in crate::store) seq: u64,
    pub(in crate::store) changes: RowChanges,
}

/// The last commits of a bucket.
#[derive(Debug)]
pub(super) struct Ring {
    /// What happened up to this commit is not known any more.
    floor: u64,
    entries: VecDeque<Entry>,
    changes: usize,
    bytes: usize,
    /// The groups that are on disk, by the last commit of each, oldest first.
    pub(super) stored: VecDeque<u64>,
}

impl Ring {
    /// Nothing is known before the commit `floor`.
    pub(super) fn new(floor: u64) -> Self {
        Self {
            floor,
            entries: VecDeque::new(),
            changes: 0,
            bytes: 0,
            stored: VecDeque::new(),
        }
    }

    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    pub(super) fn changes(&self) -> usize {
        self.changes
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.changes += entry.changes.len();
        self.bytes += bytes_of(&entry);
        self.entries.push_back(entry);
    }

    /// Forgets the oldest commit; false where there is none.
    pub(super) fn pop(&mut self) -> bool {
        let Some(oldest) = self.entries.pop_front() else { return false };
        self.changes -= oldest.changes.len();
        self.bytes -= bytes_of(&oldest);
        self.floor = oldest.seq;
        true
    }

    /// The commits after one and up to another; where the history does not reach back, how far it does.
    pub(super) fn since(&self, after: u64, until: u64) -> Result<impl DoubleEndedIterator<Item = &Entry>, u64> {
        if after < self.floor {
            return Err(self.floor);
        }
        let start = self.entries.partition_point(|entry| entry.seq <= after);
        let end = self.entries.partition_point(|entry| entry.seq <= until).max(start);
        Ok(self.entries.range(start..end))
    }

    /// Fills in the new version of every change, which is not stored: it is the old version of the row's next change
    /// or, for its last, what `current` gives. False where a change comes out that changes nothing from nothing.
    pub(super) fn complete(&mut self, current: impl Fn(RowId) -> Option<Record>) -> bool {
        let mut later: HashMap<RowId, Option<Record>> = HashMap::new();
        for entry in self.entries.iter_mut().rev() {
            for change in entry.changes.iter_mut().rev() {
                let next = later.insert(change.row, change.old.clone());
                change.new = next.unwrap_or_else(|| current(change.row));
                if change.old.is_none() && change.new.is_none() {
                    return false;
                }
            }
        }
        true
    }
}

fn bytes_of(entry: &Entry) -> usize {
    entry.changes.iter().map(RowChange::bytes).sum()
}
