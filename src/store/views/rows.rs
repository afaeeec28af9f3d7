//! The rows of a list view, kept in order, with a margin behind a window so that it refills from below.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use super::sequence::{Difference, Differences, Sequence};
use crate::protocol::{FieldName, Record};
use crate::store::query::{QueryResult, Reader, ResolvedQuery, SortKey};
use crate::store::state::{Bucket, Change, RowId, Timestamp};

/// Rows kept behind the end of a window, at least.
const MARGIN_MIN: usize = 32;

/// Where a row stands in the result.
pub(super) type Place = (SortKey, RowId);

/// The rows of a result, in order. Cloning shares them.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    held: Sequence<Place, Record>,
    shape: Arc<Shape>,
}

/// What all results of a view have in common.
#[derive(Debug, PartialEq)]
struct Shape {
    offset: usize,
    limit: Option<usize>,
    /// The field by which a client tells the records apart; none where the projection leaves it out.
    key: Option<FieldName>,
}

impl Rows {
    /// Which of the rows held are in the result.
    pub(super) fn window(&self) -> Range<usize> {
        let Shape { offset, limit, .. } = *self.shape;
        offset..limit.map_or(usize::MAX, |limit| offset.saturating_add(limit))
    }

    /// The field by which a client tells the records apart, where the records of both results have it.
    pub(super) fn key_shared_with(&self, other: &Self) -> Option<&FieldName> {
        self.shape.key.as_ref().filter(|_| self.shape == other.shape)
    }

    /// What has become of an older result. Positions count from the first row held.
    pub(super) fn differences<'a>(&'a self, older: &'a Self) -> Differences<'a, Place, Record> {
        self.held.differences(&older.held, self.window())
    }

    /// Whether the records in the window are the same.
    pub(super) fn same(&self, older: &Self) -> bool {
        let Range { start, end } = self.window();
        // Up to the first place that differs, the positions are those of equal records.
        let mut differences = self.held.differences(&older.held, 0..end);
        let first = differences.find_map(|difference| match difference {
            Difference::Both { old, new, .. } if old == new => None,
            Difference::Both { after: at, .. } | Difference::Came { after: at, .. } | Difference::Gone { before: at, .. } => Some(at),
        });
        first.is_none_or(|at| self.records(at.max(start)).eq(older.records(at.max(start))))
    }

    /// The records from a position to the end of the window.
    fn records(&self, start: usize) -> impl Iterator<Item = &Record> {
        let count = self.window().end.saturating_sub(start);
        self.held.iter_from(start).take(count).map(|(_, record)| record)
    }

    /// The window as a JSON list, spliced from the records.
    pub(super) fn to_json(&self) -> Vec<u8> {
        let records = || self.records(self.shape.offset);
        let size: usize = records().map(|record| record.json().len() + 1).sum();
        let mut out = Vec::with_capacity(size + 2);
        out.push(b'[');
        for record in records() {
            if out.len() > 1 {
                out.push(b',');
            }
            out.extend_from_slice(record.json());
        }
        out.push(b']');
        out
    }
}

/// What a change did to a result, the weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Effect {
    /// Nothing that can be seen.
    None,
    /// Perhaps something: the results have to be compared.
    Perhaps,
    /// The result is another one.
    Changed,
}

/// A list view that follows changes.
#[derive(Debug)]
pub(super) struct RowsView {
    rows: Rows,
    /// Whether every row that matches is held; otherwise the first ones are.
    complete: bool,
}

impl RowsView {
    /// How many rows to ask for when evaluating: the window and a margin, or all.
    fn capacity(query: &ResolvedQuery) -> Option<usize> {
        let window = query.wanted()?;
        Some(window.saturating_add(window.max(MARGIN_MIN)))
    }

    /// Evaluates a query that yields records; nothing for any other.
    pub(super) fn evaluate(query: &ResolvedQuery, bucket: &Bucket, now: Timestamp) -> Option<Self> {
        Self::first(query, bucket, now, Self::capacity(query))
    }

    /// The first rows of the sorted result, so many or all.
    fn first(query: &ResolvedQuery, bucket: &Bucket, now: Timestamp, count: Option<usize>) -> Option<Self> {
        let whole = ResolvedQuery {
            offset: 0,
            limit: count,
            projection: None,
            ..query.clone()
        };
        let QueryResult::Records(found) = Reader::new(bucket, now).run(&whole) else {
            return None;
        };
        let entries = found
            .iter()
            .map(|(row, record)| ((query.sort.key_of(record), *row), project(query, record)));
        let held = Sequence::from_sorted(entries);
        let complete = count.is_none_or(|count| held.len() < count);
        let shape = Shape {
            offset: query.offset,
            limit: query.limit,
            key: has_key(query, bucket.key_field()).then(|| bucket.key_field().clone()),
        };
        let rows = Rows {
            held,
            shape: Arc::new(shape),
        };
        Some(Self { rows, complete })
    }

    /// How many rows are held.
    pub(super) fn len(&self) -> usize {
        self.rows.held.len()
    }

    /// The rows as they are now.
    pub(super) fn rows(&self) -> Rows {
        self.rows.clone()
    }

    /// Follows one row from one version to the next.
    pub(super) fn follow(&mut self, query: &ResolvedQuery, change: &Change) -> Effect {
        let matching = |record: &Option<Record>| record.as_ref().filter(|record| query.filter.matches(record)).cloned();
        let before = matching(&change.old).map(|record| (query.sort.key_of(&record), change.row));
        let after = matching(&change.new).map(|record| ((query.sort.key_of(&record), change.row), project(query, &record)));
        let same_place = before.as_ref() == after.as_ref().map(|(place, _)| place);
        let removed = before.filter(|_| !same_place).and_then(|place| self.rows.held.remove(&place));
        let Some((place, record)) = after.filter(|(place, _)| self.complete || !self.is_behind_the_end(place)) else {
            return if removed.is_some() {
                Self::seen(query, Effect::Changed)
            } else {
                Effect::None
            };
        };
        let replaced = self.rows.held.insert(place, record.clone());
        self.trim(query);
        match (removed.or(replaced) == Some(record), same_place) {
            (true, true) => Effect::None,
            (true, false) => Effect::Perhaps,
            (false, _) => Self::seen(query, Effect::Changed),
        }
    }

    /// A change may lie outside of the window, and a projection may make a row that goes and one that comes look
    /// alike.
    fn seen(query: &ResolvedQuery, effect: Effect) -> Effect {
        let partial = query.limit.is_some() || query.offset > 0 || query.projection.is_some();
        if partial { Effect::Perhaps } else { effect }
    }

    /// Whether rows that are not held may come before this place.
    fn is_behind_the_end(&self, place: &Place) -> bool {
        self.rows.held.last().is_none_or(|(last, _)| place > last)
    }

    fn trim(&mut self, query: &ResolvedQuery) {
        let Some(capacity) = Self::capacity(query) else { return };
        while self.rows.held.len() > capacity {
            self.rows.held.pop_last();
            self.complete = false;
        }
    }

    /// Whether the window is short of rows that the bucket may still have.
    pub(super) fn needs_refill(&self) -> bool {
        !self.complete && self.rows.shape.limit.is_some() && self.rows.held.len() < self.rows.window().end
    }

    /// The rows as they were when these rows of the bucket had these versions and the others the ones they have in
    /// `bucket`. The bucket is read only where the window needs rows that are not held.
    pub(super) fn earlier(&self, query: &ResolvedQuery, before: &Versions, bucket: &Bucket, now: Timestamp) -> Option<Rows> {
        self.undone(query, before, bucket).or_else(|| {
            let wanted = query.wanted()?.saturating_add(before.len());
            Self::first(query, bucket, now, Some(wanted))?.undone(query, before, bucket)
        })
    }

    /// The rows held with changes taken back; nothing where that leaves too few of them for the window.
    fn undone(&self, query: &ResolvedQuery, before: &Versions, bucket: &Bucket) -> Option<Rows> {
        let mut rows = self.rows.clone();
        for row in before.keys() {
            if let Some(record) = bucket.row(*row) {
                rows.held.remove(&(query.sort.key_of(record), *row));
            }
        }
        for (row, record) in before {
            let Some(record) = record.as_ref().filter(|record| query.filter.matches(record)) else {
                continue;
            };
            let place = (query.sort.key_of(record), *row);
            // Behind the end the order is not known.
            if self.complete || !self.is_behind_the_end(&place) {
                rows.held.insert(place, project(query, record));
            }
        }
        (self.complete || rows.held.len() >= rows.window().end).then_some(rows)
    }
}

/// Earlier versions of rows of a bucket; none where there was no record.
pub(super) type Versions = HashMap<RowId, Option<Record>>;

/// Whether the records of a result hold the bucket's key.
pub(super) fn has_key(query: &ResolvedQuery, key: &FieldName) -> bool {
    query.projection.as_ref().is_none_or(|projection| projection.keeps(key))
}

fn project(query: &ResolvedQuery, record: &Record) -> Record {
    query
        .projection
        .as_ref()
        .map_or_else(|| record.clone(), |projection| projection.apply(record))
}
