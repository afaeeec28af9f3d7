//! Which index serves a filter, chosen by how many rows it leads to.

use serde::Serialize;

use super::constraint::Constraints;
use super::filter::Filter;
use super::sort::Sort;
use super::span::{Estimate, Path, Source, sources};
use super::walk::Walk;
use crate::store::state::{Bucket, RowId};

/// In a bucket this small no way is slow: an index that serves is used.
const SMALL_BUCKET: usize = 256;

/// How the rows that can pass a filter are found.
pub(super) enum Access<'a> {
    /// There are none.
    Nothing,
    /// Every row is looked at.
    Scan,
    /// The rows under these pieces of indexes, taken together.
    Paths(Vec<Path<'a>>),
}

/// A way to the rows, and how many it leads to.
pub(super) struct Plan<'a> {
    pub(super) access: Access<'a>,
    pub(super) rows: Estimate,
    total: usize,
}

impl<'a> Plan<'a> {
    /// The cheapest way to the rows that can pass a filter.
    pub(super) fn new(bucket: &'a Bucket, filter: &Filter) -> Self {
        let (constraints, total) = (filter.constraints(), bucket.row_count());
        if constraints.match_nothing() {
            return Self {
                access: Access::Nothing,
                rows: Estimate::Exact(0),
                total,
            };
        }
        match best_paths(bucket, constraints, total) {
            // A row by an index costs about twice a row in passing.
            Some(found) if total <= SMALL_BUCKET || found.expected <= total / 2 => Self {
                access: Access::Paths(found.paths),
                rows: found.rows,
                total,
            },
            Some(_) | None => Self {
                access: Access::Scan,
                rows: Estimate::Exact(total),
                total,
            },
        }
    }

    /// Whether every row is looked at.
    pub(super) fn is_scan(&self) -> bool {
        match self.access {
            Access::Scan => true,
            Access::Nothing | Access::Paths(_) => false,
        }
    }

    /// How many rows will be looked at, at most.
    pub(super) fn cost(&self) -> usize {
        self.rows.at_most(self.total)
    }

    /// The rows in the order of the bucket; nothing where a scan is the better way after all, which shows only
    /// now when counting was given up early.
    pub(super) fn collect(&self, paths: &[Path<'a>]) -> Option<Vec<RowId>> {
        let enough = match self.rows {
            Estimate::Exact(_) => usize::MAX,
            Estimate::AtLeast(_) => self.total / 3,
        };
        let mut rows = Vec::new();
        if !paths.iter().all(|path| path.collect(enough, &mut rows)) {
            return None;
        }
        rows.sort_unstable();
        rows.dedup();
        Some(rows)
    }

    fn kind(&self) -> AccessKind {
        match &self.access {
            Access::Nothing => AccessKind::Nothing,
            Access::Scan => AccessKind::Scan,
            Access::Paths(paths) => match paths.as_slice() {
                [path] if path.is_lookup() => AccessKind::Lookup,
                [_] => AccessKind::Range,
                _ => AccessKind::Union,
            },
        }
    }

    /// Whether rows are tested against the filter when they have been found.
    fn is_tested(&self, filter: &Filter) -> bool {
        match &self.access {
            Access::Nothing => false,
            Access::Scan => !filter.is_everything(),
            Access::Paths(paths) => paths.len() > 1 || paths.iter().any(|path| !path.covers),
        }
    }
}

/// The paths with the fewest rows, if any index serves.
fn best_paths<'a>(bucket: &'a Bucket, constraints: &Constraints, enough: usize) -> Option<Found<'a>> {
    let mut best: Option<Found<'a>> = None;
    let mut offer = |found: Found<'a>| {
        if best.as_ref().is_none_or(|known| found.rank() < known.rank()) {
            best = Some(found);
        }
        best.as_ref().map_or(enough, |best| best.expected.min(enough))
    };
    let mut enough = enough;
    for path in sources(bucket).filter_map(|source| Path::new(source, constraints)) {
        let rows = path.estimate(enough);
        enough = offer(Found::new(bucket, vec![path], rows));
    }
    for branches in constraints.alternatives() {
        if let Some((paths, rows)) = union(bucket, branches, enough) {
            enough = offer(Found::new(bucket, paths, rows));
        }
    }
    best
}

/// Paths with what there is to say for them.
struct Found<'a> {
    paths: Vec<Path<'a>>,
    rows: Estimate,
    expected: usize,
}

impl<'a> Found<'a> {
    fn new(bucket: &Bucket, paths: Vec<Path<'a>>, rows: Estimate) -> Self {
        Self {
            paths,
            rows,
            expected: rows.expected(bucket.row_count()),
        }
    }

    /// Fewer rows are better, then fewer paths, then those that need no further test.
    fn rank(&self) -> (usize, usize, bool) {
        (self.expected, self.paths.len(), self.paths.iter().any(|path| !path.covers))
    }
}

/// The paths of all branches together, if each of them is served.
fn union<'a>(bucket: &'a Bucket, branches: &[Constraints], enough: usize) -> Option<(Vec<Path<'a>>, Estimate)> {
    let mut all = Vec::new();
    let mut rows = Estimate::Exact(0);
    for branch in branches {
        let found = best_paths(bucket, branch, enough.saturating_sub(rows.counted()))?;
        all.extend(found.paths);
        rows = rows.plus(found.rows);
        if rows.counted() > enough {
            return None;
        }
    }
    Some((all, rows))
}

/// A path whose rows are exactly those that pass the filter, if there is one: counting needs no record then.
pub(super) fn covering<'a>(bucket: &'a Bucket, constraints: &Constraints) -> Option<Path<'a>> {
    sources(bucket)
        .filter_map(|source| Path::new(source, constraints))
        .find(|path| path.covers)
}

/// How a filter, a sort and a limit are carried out: what `store.explain` tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The index in use, where it is one.
    pub index: Option<IndexUsed>,
    /// How it is used.
    pub access: AccessKind,
    /// All indexes in use, where it is a union.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub union: Vec<IndexUsed>,
    /// How many records will be looked at; an upper bound where counting them would cost too much.
    pub rows_looked_at: usize,
    /// How many records the bucket holds.
    pub rows_in_bucket: usize,
    /// Whether records are tested against the filter after they have been found.
    pub tested: bool,
    /// What puts the result in order.
    pub sorted: SortedBy,
}

/// The index in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IndexUsed {
    /// The primary key: `"primary"`.
    Primary,
    /// The index over these fields: their names.
    Fields(Vec<String>),
}

impl Serialize for IndexUsed {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Primary => serializer.serialize_str("primary"),
            Self::Fields(fields) => fields.serialize(serializer),
        }
    }
}

/// How records are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AccessKind {
    /// Single keys of an index.
    Lookup,
    /// A part of an index.
    Range,
    /// Parts of several indexes, or several parts for the branches of an `$or`.
    Union,
    /// An index in the order of the sort, as far as the limit needs.
    Order,
    /// Every record.
    Scan,
    /// Not at all: the filter contradicts itself.
    Nothing,
}

/// What puts a result in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SortedBy {
    /// The index.
    Index,
    /// Sorting what was found.
    Memory,
    /// Nothing: no order is asked for beyond that of insertion.
    None,
}

impl From<Source<'_>> for IndexUsed {
    fn from(source: Source<'_>) -> Self {
        match source {
            Source::Primary(_) => Self::Primary,
            Source::Index(index) => Self::Fields(index.fields().iter().map(|field| field.as_str().to_owned()).collect()),
        }
    }
}

/// Explains how a filter, a sort and a limit would be carried out.
pub(super) fn explain(bucket: &Bucket, filter: &Filter, sort: &Sort, limit: Option<usize>) -> Explanation {
    let plan = Plan::new(bucket, filter);
    if let Some(walk) = limit.and_then(|limit| Walk::choose(bucket, filter, sort, limit, &plan)) {
        return Explanation {
            index: Some(walk.source().into()),
            access: AccessKind::Order,
            union: Vec::new(),
            rows_looked_at: walk.expected_rows(),
            rows_in_bucket: bucket.row_count(),
            tested: !walk.covers(),
            sorted: SortedBy::Index,
        };
    }
    let mut used: Vec<Source<'_>> = Vec::new();
    if let Access::Paths(paths) = &plan.access {
        for path in paths {
            if !used.iter().any(|known| known.is(path.source)) {
                used.push(path.source);
            }
        }
    }
    Explanation {
        index: if let [only] = used.as_slice() { Some((*only).into()) } else { None },
        access: plan.kind(),
        union: if used.len() > 1 {
            used.into_iter().map(IndexUsed::from).collect()
        } else {
            Vec::new()
        },
        rows_looked_at: plan.cost(),
        rows_in_bucket: bucket.row_count(),
        tested: plan.is_tested(filter),
        sorted: if sort.is_empty() { SortedBy::None } else { SortedBy::Memory },
    }
}
