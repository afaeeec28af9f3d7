//! What a commit group did, commit by commit, as readers and views see it: a record whose time is up is not there.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use super::state::{Bucket, BucketId, Change, Effects, RowId, State, Timestamp};
use crate::protocol::{BucketName, Record};

/// What one commit did: each row at most once.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct CommitChanges {
    /// The number of the commit.
    pub(super) seq: u64,
    /// The rows, each from how it was seen before to how it is seen after it.
    pub(super) changes: Vec<Change>,
}

/// What a commit group did.
#[derive(Debug)]
pub(super) struct Visible {
    /// Its commits that can be seen, in order.
    pub(super) commits: Vec<CommitChanges>,
    /// The changes of all commits together, where there are several.
    net: Option<Vec<Change>>,
    /// Whether what is seen is what is stored: nothing ends by itself.
    is_stored: bool,
    /// The buckets whose content after the group is not told by the changes of rows.
    pub(super) replaced: Vec<Replaced>,
}

/// A bucket that was emptied as a whole, came, went, or whose records are seen under another rule than before.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Replaced {
    /// Its name.
    pub(super) name: BucketName,
    /// Whether it was dropped on the way, also where one of its name is there again.
    pub(super) dropped: bool,
}

impl Visible {
    /// Reads it from the effects of a group and the states around it.
    pub(super) fn of(effects: &Effects, before: &State, after: &State) -> Self {
        let is_stored = !before.has_mortal_buckets() && !after.has_mortal_buckets();
        let mut commits = if is_stored {
            slices(effects)
                .map(|(seq, changes)| CommitChanges {
                    seq,
                    changes: net(changes),
                })
                .collect()
        } else {
            Sight::new(before, after).follow(effects)
        };
        commits.retain(|commit| !commit.changes.is_empty());
        let net = match &*commits {
            [] | [_] => None,
            _ if is_stored => Some(net(&effects.changes)),
            several => {
                let changes: Vec<_> = several.iter().flat_map(|commit| &commit.changes).cloned().collect();
                Some(net(&changes))
            }
        };
        Self {
            commits,
            net,
            is_stored,
            replaced: replaced(effects, before, after),
        }
    }

    /// The rows that are seen to be other ones after the group, each once.
    pub(super) fn net(&self) -> &[Change] {
        match (&self.net, &*self.commits) {
            (Some(net), _) => net,
            (None, [commit, ..]) => &commit.changes,
            (None, []) => &[],
        }
    }

    /// The rows that are stored otherwise after the group, each once.
    pub(super) fn stored(&self, effects: &Effects) -> Cow<'_, [Change]> {
        if self.is_stored {
            Cow::Borrowed(self.net())
        } else {
            Cow::Owned(net(&effects.changes))
        }
    }
}

/// The changes of each commit, by its number.
fn slices(effects: &Effects) -> impl Iterator<Item = (u64, &[Change])> {
    let mut start = 0;
    effects.commits.iter().map(move |commit| {
        let changes = effects.changes.get(start..commit.changes).unwrap_or_default();
        start = commit.changes;
        (commit.seq, changes)
    })
}

/// Row by row, the first old version and the last new one, in order of first appearance.
fn net(changes: &[Change]) -> Vec<Change> {
    if let [] | [_] = changes {
        return changes.to_vec();
    }
    let mut places: HashMap<(BucketId, RowId), usize> = HashMap::with_capacity(changes.len());
    let mut net: Vec<Change> = Vec::with_capacity(changes.len());
    for change in changes {
        match places.get(&(change.bucket, change.row)) {
            Some(at) => {
                if let Some(earlier) = net.get_mut(*at) {
                    earlier.new.clone_from(&change.new);
                }
            }
            None => {
                places.insert((change.bucket, change.row), net.len());
                net.push(change.clone());
            }
        }
    }
    net.retain(|change| change.old.is_some() || change.new.is_some());
    net
}

/// The eyes of a reader who looks on while a group happens.
struct Sight<'s> {
    before: &'s State,
    after: &'s State,
    /// How the rows that were touched were last seen.
    seen: HashMap<(BucketId, RowId), Option<Record>>,
}

impl<'s> Sight<'s> {
    fn new(before: &'s State, after: &'s State) -> Self {
        Self {
            before,
            after,
            seen: HashMap::new(),
        }
    }

    /// Each commit as it is seen. What goes by itself until the end of the group goes with the last one.
    fn follow(mut self, effects: &Effects) -> Vec<CommitChanges> {
        let mut commits: Vec<_> = slices(effects)
            .zip(&effects.commits)
            .map(|((seq, changes), end)| CommitChanges {
                seq,
                changes: net(changes).into_iter().filter_map(|change| self.look(change, end.now)).collect(),
            })
            .collect();
        let ended = self.ended();
        match commits.last_mut() {
            Some(last) if last.seq == self.after.seq() => {
                last.changes.extend(ended);
                // A row that came with this commit and has ended since was never seen.
                last.changes = net(&last.changes);
            }
            Some(_) | None => commits.push(CommitChanges {
                seq: self.after.seq(),
                changes: ended,
            }),
        }
        commits
    }

    /// The change as it is seen at a moment, where it is.
    fn look(&mut self, change: Change, now: Timestamp) -> Option<Change> {
        let Some(bucket) = self.after.bucket_by_id(change.bucket) else {
            return Some(change);
        };
        let new = live(change.new, bucket, now);
        let old = match self.seen.insert((change.bucket, change.row), new.clone()) {
            Some(seen) => seen,
            // What was seen before was seen under the definition of that time.
            None => live(
                change.old,
                self.before.bucket_by_id(change.bucket).unwrap_or(bucket),
                self.before.now(),
            ),
        };
        (old.is_some() || new.is_some()).then_some(Change { old, new, ..change })
    }

    /// The rows whose time has come since they were last seen. Records that stay past their time because something
    /// refers to them are seen to go when it comes.
    fn ended(&self) -> Vec<Change> {
        let now = self.after.now();
        let mut touched: Vec<_> = self
            .seen
            .iter()
            .filter_map(|((bucket, row), seen)| Some((*bucket, *row, seen.as_ref()?)))
            .filter(|(bucket, _, seen)| self.after.bucket_by_id(*bucket).is_some_and(|bucket| bucket.is_expired(seen, now)))
            .map(|(bucket, row, seen)| gone(bucket, row, seen.clone()))
            .collect();
        touched.sort_unstable_by_key(|change| (change.bucket, change.row));
        let untouched = self.after.buckets().flat_map(|(_, bucket)| {
            let ended = bucket.rows_ended_between(self.before.now(), now).into_iter();
            ended.filter_map(|row| {
                let record = bucket.row(row).filter(|_| !self.seen.contains_key(&(bucket.id(), row)));
                record.map(|record| gone(bucket.id(), row, record.clone()))
            })
        });
        touched.into_iter().chain(untouched).collect()
    }
}

fn live(record: Option<Record>, bucket: &Bucket, now: Timestamp) -> Option<Record> {
    record.filter(|record| !bucket.is_expired(record, now))
}

fn gone(bucket: BucketId, row: RowId, old: Record) -> Change {
    Change {
        bucket,
        row,
        old: Some(old),
        new: None,
    }
}

fn replaced(effects: &Effects, before: &State, after: &State) -> Vec<Replaced> {
    if effects.emptied.is_empty() && effects.redefined.is_empty() && effects.dropped.is_empty() {
        return Vec::new();
    }
    let dropped: HashSet<_> = effects.dropped.iter().map(|(name, _)| name).collect();
    let emptied = effects.emptied.iter().map(|(name, ..)| name);
    let mut names = HashSet::new();
    emptied
        .chain(&effects.redefined)
        .chain(dropped.iter().copied())
        .filter(|name| names.insert(*name))
        .filter(|name| {
            let (old, new) = (before.bucket(name.as_str()), after.bucket(name.as_str()));
            let (Ok(old), Ok(new)) = (old, new) else { return true };
            // New fields and indexes do not change what is seen; whether records end by themselves does.
            old.id() != new.id() || old.definition().ttl_ms().is_some() != new.definition().ttl_ms().is_some()
        })
        .map(|name| Replaced {
            name: name.clone(),
            dropped: dropped.contains(name),
        })
        .collect()
}
