//! A grouped aggregate that follows changes: only the groups that a change touches are worked out again.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::tally::Tally;
use crate::protocol::Record;
use crate::store::query::{Aggregate, Group, GroupKey, Reader, ResolvedQuery};
use crate::store::state::{Bucket, Change, RowId};

/// A live grouped aggregate.
#[derive(Debug)]
pub(super) struct GroupsView {
    aggregate: Aggregate,
    groups: HashMap<GroupKey, Members>,
    /// Groups that changed since the result was last worked out.
    touched: HashSet<GroupKey>,
}

/// One group: its rows in the order of the bucket, and how it is shown.
#[derive(Debug)]
struct Members {
    rows: BTreeSet<RowId>,
    tally: Tally,
    shown: Option<Group>,
}

impl GroupsView {
    /// Looks at all records.
    pub(super) fn new(query: &ResolvedQuery, aggregate: &Aggregate, reader: &Reader<'_>, bucket: &Bucket) -> Self {
        let mut view = Self {
            aggregate: aggregate.clone(),
            groups: HashMap::new(),
            touched: HashSet::new(),
        };
        for (row, record) in reader.select_rows(&query.filter) {
            view.add(row, record);
        }
        view.settle(bucket);
        view
    }

    /// Follows one row from one version to the next. True where a group may look different.
    pub(super) fn follow(&mut self, query: &ResolvedQuery, change: &Change) -> bool {
        let matching = |record: &Option<Record>| record.clone().filter(|record| query.filter.matches(record));
        let (old, new) = (matching(&change.old), matching(&change.new));
        if let Some(record) = &old {
            self.remove(change.row, record);
        }
        if let Some(record) = &new {
            self.add(change.row, record);
        }
        old.is_some() || new.is_some()
    }

    fn add(&mut self, row: RowId, record: &Record) {
        let key = self.aggregate.group_key_of(record);
        let empty = || Members {
            rows: BTreeSet::new(),
            tally: Tally::new(self.aggregate.function),
            shown: None,
        };
        let members = self.groups.entry(key.clone()).or_insert_with(empty);
        members.rows.insert(row);
        members.tally.add(self.aggregate.operand(record));
        self.touched.insert(key);
    }

    fn remove(&mut self, row: RowId, record: &Record) {
        let key = self.aggregate.group_key_of(record);
        let Some(members) = self.groups.get_mut(&key) else { return };
        if !members.rows.remove(&row) {
            return;
        }
        members.tally.remove(self.aggregate.operand(record));
        if members.rows.is_empty() {
            self.groups.remove(&key);
        }
        self.touched.insert(key);
    }

    /// Works out the groups that changed; `bucket` is the content after the changes.
    pub(super) fn settle(&mut self, bucket: &Bucket) {
        for key in self.touched.drain() {
            let Some(members) = self.groups.get_mut(&key) else { continue };
            let records = || members.rows.iter().filter_map(|row| bucket.row(*row));
            let Some(first) = records().next() else { continue };
            let value = match members.tally.result() {
                Some(value) => value,
                None => {
                    members.tally = Tally::of(self.aggregate.function, records().map(|record| self.aggregate.operand(record)));
                    self.aggregate.over(records())
                }
            };
            members.shown = Some(self.aggregate.group_of(first, value));
        }
    }

    /// The groups in order of first appearance.
    pub(super) fn result(&self) -> Vec<Group> {
        let mut groups: Vec<_> = self
            .groups
            .values()
            .filter_map(|members| Some((members.rows.first()?, members.shown.as_ref()?)))
            .collect();
        groups.sort_unstable_by_key(|(first, _)| **first);
        groups.into_iter().map(|(_, group)| group.clone()).collect()
    }
}
