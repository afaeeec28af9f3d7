//! What those missed who were away.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Missed;
use super::change_set::{ChangeSet, Sight, encode};

/// Everything that happened after a commit, for the followers of one feed.
#[derive(Debug)]
pub(super) struct Backlog {
    since: u64,
    sets: VecDeque<Arc<ChangeSet>>,
    bytes: usize,
}

impl Backlog {
    /// Reads it from the history, up to where a later one begins that is `known`: what that one holds is shared.
    ///
    /// # Errors
    /// Where the history does not reach back, or it would be larger than so many bytes: the oldest commit since which
    /// it can be had.
    pub(super) fn read(sight: &Sight, missed: &Missed<'_>, bytes_max: usize, known: Option<&Self>) -> Result<Self, u64> {
        let Missed {
            since,
            until,
            bucket,
            history,
        } = missed;
        let until = known.map_or(*until, |known| known.since);
        let entries = history.since(bucket.id(), *since, until)?;
        let mut backlog = Self {
            since: *since,
            sets: known.map_or_else(VecDeque::new, |known| known.sets.clone()),
            bytes: known.map_or(0, |known| known.bytes),
        };
        for entry in entries.rev() {
            let versions = entry.changes.iter().map(|change| (change.old.as_ref(), change.new.as_ref()));
            let Some(set) = encode(entry.seq, versions, sight, bucket.key_field()) else {
                continue;
            };
            backlog.bytes += set.data().len();
            if backlog.bytes > bytes_max {
                return Err(entry.seq);
            }
            backlog.sets.push_front(Arc::new(set));
        }
        Ok(backlog)
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn all(&self) -> Vec<Arc<ChangeSet>> {
        self.sets.iter().cloned().collect()
    }

    /// What happened after a commit, where that is in it.
    pub(super) fn since(&self, since: u64) -> Option<Vec<Arc<ChangeSet>>> {
        let after = self.sets.partition_point(|set| set.seq() <= since);
        (since >= self.since).then(|| self.sets.range(after..).cloned().collect())
    }
}
