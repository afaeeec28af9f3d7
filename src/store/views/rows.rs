//! The rows of a list view, kept in order, with a margin behind a window so that it refills from below.

use std::cmp::Ordering;

use crate::protocol::Record;
use crate::store::query::{ResolvedQuery, SortKey};
use crate::store::state::persistent::OrdMap;
use crate::store::state::{Change, RowId};

/// Rows kept behind the end of a window, at least.
const MARGIN_MIN: usize = 32;

/// The rows of a result, in order. Cloning shares them.
#[derive(Clone, Debug)]
pub(super) struct Rows {
    held: OrdMap<(SortKey, RowId), Record>,
    offset: usize,
    limit: Option<usize>,
}

impl Rows {
    /// The records in the window.
    pub(super) fn window(&self) -> impl Iterator<Item = &Record> {
        self.held.values().skip(self.offset).take(self.limit.unwrap_or(usize::MAX))
    }

    /// The window as a JSON list, spliced from the records.
    pub(super) fn to_json(&self) -> Vec<u8> {
        let size: usize = self.window().map(|record| record.json().len() + 1).sum();
        let mut out = Vec::with_capacity(size + 2);
        out.push(b'[');
        for record in self.window() {
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
    /// Whether `held` has every row that matches; otherwise it has the first ones.
    complete: bool,
}

impl RowsView {
    /// How many rows to ask for when evaluating: the window and a margin, or all.
    pub(super) fn capacity(query: &ResolvedQuery) -> Option<usize> {
        let window = query.offset.saturating_add(query.limit?);
        Some(window.saturating_add(window.max(MARGIN_MIN)))
    }

    /// A view over the first rows of a result. The records are whole, not projected yet.
    pub(super) fn new<'r>(query: &ResolvedQuery, found: impl Iterator<Item = (RowId, &'r Record)>) -> Self {
        let held: OrdMap<_, _> = found
            .map(|(row, record)| ((query.sort.key_of(record), row), project(query, record)))
            .collect();
        let complete = Self::capacity(query).is_none_or(|capacity| held.len() < capacity);
        Self {
            rows: Rows {
                held,
                offset: query.offset,
                limit: query.limit,
            },
            complete,
        }
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
        let removed = before.as_ref().and_then(|position| self.rows.held.remove(position));
        let Some((position, record)) = after else {
            return if removed.is_some() {
                Self::seen(query, Effect::Changed)
            } else {
                Effect::None
            };
        };
        if !self.complete && self.is_behind_the_end(&position) {
            return if removed.is_some() {
                Self::seen(query, Effect::Changed)
            } else {
                Effect::None
            };
        }
        let same_record = removed.as_ref() == Some(&record);
        let same_place = before.as_ref().is_some_and(|before| before.cmp(&position) == Ordering::Equal);
        self.rows.held.insert(position, record);
        self.trim(query);
        match (same_record, same_place) {
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

    /// Whether rows that are not held may come before this position.
    fn is_behind_the_end(&self, position: &(SortKey, RowId)) -> bool {
        self.rows.held.get_max().is_none_or(|(last, _)| position > last)
    }

    fn trim(&mut self, query: &ResolvedQuery) {
        let Some(capacity) = Self::capacity(query) else { return };
        while self.rows.held.len() > capacity {
            let Some((last, _)) = self.rows.held.get_max().cloned() else {
                return;
            };
            self.rows.held.remove(&last);
            self.complete = false;
        }
    }

    /// Whether the window is short of rows that the bucket may still have.
    pub(super) fn needs_refill(&self) -> bool {
        let window = self.rows.limit.map(|limit| self.rows.offset.saturating_add(limit));
        !self.complete && window.is_some_and(|window| self.rows.held.len() < window)
    }
}

fn project(query: &ResolvedQuery, record: &Record) -> Record {
    query
        .projection
        .as_ref()
        .map_or_else(|| record.clone(), |projection| projection.apply(record))
}
