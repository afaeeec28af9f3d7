//! Pieces of indexes: where the rows that satisfy constraints lie.

use std::borrow::Cow;
use std::ops::Bound;

use smallvec::SmallVec;

use super::constraint::{Constraints, Domain, ValueRange};
use crate::protocol::{Datum, FieldName};
use crate::store::state::{Bucket, Index, IndexKey, RowId, RowSet};

/// How many keys are visited at most to learn how many rows a range holds.
const COUNT_EFFORT: usize = 4096;
/// Into how many pieces the values of several fields are multiplied out at most.
const SPANS_MAX: usize = 4096;

/// The values of the first fields of an index.
pub(super) type Prefix = SmallVec<[Datum; 2]>;

/// Something ordered by values that leads to rows.
#[derive(Clone, Copy)]
pub(super) enum Source<'a> {
    /// The primary key.
    Primary(&'a Bucket),
    /// A secondary index.
    Index(&'a Index),
}

/// One key of a source with its rows.
pub(super) struct Entry<'a> {
    pub(super) key: &'a [Datum],
    pub(super) rows: Cow<'a, RowSet>,
}

/// A piece of a source.
#[derive(Clone, Debug)]
pub(super) enum Span {
    /// One key.
    Key(IndexKey),
    /// All keys between two bounds.
    Range(Bound<IndexKey>, Bound<IndexKey>),
}

/// A number of rows, as far as it is worth knowing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Estimate {
    /// So many.
    Exact(usize),
    /// So many or more: counting went no further.
    AtLeast(usize),
}

impl Estimate {
    pub(super) const fn counted(self) -> usize {
        match self {
            Self::Exact(rows) | Self::AtLeast(rows) => rows,
        }
    }

    /// The number to reckon with when ways are compared: what is not known is taken for a quarter of the bucket.
    pub(super) fn expected(self, total: usize) -> usize {
        match self {
            Self::Exact(rows) => rows,
            Self::AtLeast(rows) => rows.max(total / 4),
        }
    }

    /// The number that it certainly does not exceed.
    pub(super) fn at_most(self, total: usize) -> usize {
        match self {
            Self::Exact(rows) => rows.min(total),
            Self::AtLeast(_) => total,
        }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        let sum = self.counted().saturating_add(other.counted());
        match (self, other) {
            (Self::Exact(_), Self::Exact(_)) => Self::Exact(sum),
            (Self::AtLeast(_), _) | (_, Self::AtLeast(_)) => Self::AtLeast(sum),
        }
    }
}

/// All sources of a bucket, the primary key first.
pub(super) fn sources(bucket: &Bucket) -> impl Iterator<Item = Source<'_>> {
    std::iter::once(Source::Primary(bucket)).chain(bucket.indexes().iter().map(Source::Index))
}

impl<'a> Source<'a> {
    /// The fields that order the source, the most significant first.
    pub(super) fn fields(self) -> &'a [FieldName] {
        match self {
            Self::Primary(bucket) => std::slice::from_ref(bucket.key_field()),
            Self::Index(index) => index.fields(),
        }
    }

    pub(super) fn is(self, other: Self) -> bool {
        match (self, other) {
            (Self::Primary(_), Self::Primary(_)) => true,
            (Self::Index(a), Self::Index(b)) => std::ptr::eq(a, b),
            (Self::Primary(_), Self::Index(_)) | (Self::Index(_), Self::Primary(_)) => false,
        }
    }

    fn lookup(self, key: &IndexKey) -> Option<Cow<'a, RowSet>> {
        match self {
            Self::Primary(bucket) => bucket.row_of(key.values().first()?).map(|row| Cow::Owned(RowSet::One(row))),
            Self::Index(index) => index.rows(key).map(Cow::Borrowed),
        }
    }

    /// The entries between two bounds, ascending; the iterator can be reversed.
    pub(super) fn range(self, low: Bound<IndexKey>, high: Bound<IndexKey>) -> Box<dyn DoubleEndedIterator<Item = Entry<'a>> + 'a> {
        match self {
            Self::Primary(bucket) => {
                let range = ValueRange {
                    low: low.map(first_value),
                    high: high.map(first_value),
                };
                if range.is_empty() {
                    return Box::new(std::iter::empty());
                }
                let keys = bucket.keys((range.low, range.high));
                Box::new(keys.map(|(key, row)| Entry {
                    key: std::slice::from_ref(key),
                    rows: Cow::Owned(RowSet::One(row)),
                }))
            }
            Self::Index(index) => Box::new(index.range((low, high)).map(|(key, rows)| Entry {
                key: key.values(),
                rows: Cow::Borrowed(rows),
            })),
        }
    }

    /// The keys that begin with a prefix and go on within a range.
    pub(super) fn span(self, prefix: &Prefix, range: &ValueRange) -> (Bound<IndexKey>, Bound<IndexKey>) {
        let width = self.fields().len();
        let before = |value: Option<&Datum>| IndexKey::new(width, prefix.iter().chain(value).cloned().collect());
        // Nothing sorts behind a missing value, so this is the last key that begins so.
        let behind = |value: Option<&Datum>| {
            let mut values: Prefix = prefix.iter().chain(value).cloned().collect();
            values.resize(width, Datum::Missing);
            IndexKey::new(width, values)
        };
        let low = match &range.low {
            Bound::Included(value) => Bound::Included(before(Some(value))),
            Bound::Excluded(value) => Bound::Excluded(behind(Some(value))),
            Bound::Unbounded if prefix.is_empty() => Bound::Unbounded,
            Bound::Unbounded => Bound::Included(before(None)),
        };
        let high = match &range.high {
            Bound::Included(value) => Bound::Included(behind(Some(value))),
            Bound::Excluded(value) => Bound::Excluded(before(Some(value))),
            Bound::Unbounded if prefix.is_empty() => Bound::Unbounded,
            Bound::Unbounded => Bound::Included(behind(None)),
        };
        (low, high)
    }
}

/// A key of the primary index has exactly one value; the fallback keeps an impossible one out of every range.
fn first_value(key: IndexKey) -> Datum {
    key.values().first().cloned().unwrap_or(Datum::Missing)
}

/// Pieces of one source that hold every row that satisfies some constraints.
#[derive(Clone)]
pub(super) struct Path<'a> {
    pub(super) source: Source<'a>,
    pub(super) spans: Vec<Span>,
    /// Whether every row in the pieces satisfies the whole filter.
    pub(super) covers: bool,
}

impl<'a> Path<'a> {
    /// The pieces of a source that constraints lead to, where they say anything about its first field.
    pub(super) fn new(source: Source<'a>, constraints: &Constraints) -> Option<Self> {
        let fields = source.fields();
        let mut prefixes = vec![Prefix::new()];
        let mut used = 0;
        let mut range = ValueRange {
            low: Bound::Unbounded,
            high: Bound::Unbounded,
        };
        for field in fields {
            match constraints.domain(field) {
                Some(Domain::Values(values)) if used == 0 || prefixes.len().saturating_mul(values.len()) <= SPANS_MAX => {
                    prefixes = prefixes
                        .iter()
                        .flat_map(|prefix| values.iter().map(|value| extended(prefix, value)))
                        .collect();
                    used += 1;
                }
                Some(Domain::Range(bounds)) => {
                    range = bounds.clone();
                    used += 1;
                    break;
                }
                Some(Domain::Values(_)) | None => break,
            }
        }
        if used == 0 {
            return None;
        }
        let spans = prefixes.into_iter().map(|prefix| {
            if prefix.len() == fields.len() {
                return Span::Key(IndexKey::new(fields.len(), prefix));
            }
            let (low, high) = source.span(&prefix, &range);
            Span::Range(low, high)
        });
        let covers = constraints.say_all_by(fields.get(..used).unwrap_or_default());
        Some(Self {
            source,
            spans: spans.collect(),
            covers,
        })
    }

    /// Whether single keys are looked up and no range is walked.
    pub(super) fn is_lookup(&self) -> bool {
        self.spans.iter().all(|span| matches!(span, Span::Key(_)))
    }

    /// Counts the rows; no further than `enough`, and with bounded effort.
    pub(super) fn estimate(&self, enough: usize) -> Estimate {
        let mut rows = 0;
        let mut visited = 0;
        for span in &self.spans {
            // Looking keys up is work that the filter's own length bounds; walking a range is not.
            let effort = usize::from(matches!(span, Span::Range(..)));
            for count in self.row_counts(span) {
                rows += count;
                visited += effort;
                if rows > enough || visited > COUNT_EFFORT {
                    return Estimate::AtLeast(rows);
                }
            }
        }
        Estimate::Exact(rows)
    }

    /// Counts the rows, all of them.
    pub(super) fn count(&self) -> usize {
        self.spans.iter().map(|span| self.row_counts(span).sum::<usize>()).sum()
    }

    fn row_counts(&self, span: &Span) -> Box<dyn Iterator<Item = usize> + 'a> {
        match span {
            Span::Key(key) => Box::new(std::iter::once(self.source.lookup(key).map_or(0, |rows| rows.len()))),
            Span::Range(low, high) => Box::new(self.source.range(low.clone(), high.clone()).map(|entry| entry.rows.len())),
        }
    }

    /// Adds the rows to a list, in the order of keys; false where they would be more than `enough`.
    pub(super) fn collect(&self, enough: usize, rows: &mut Vec<RowId>) -> bool {
        for span in &self.spans {
            match span {
                Span::Key(key) => rows.extend(self.source.lookup(key).iter().flat_map(|found| found.iter())),
                Span::Range(low, high) => {
                    for entry in self.source.range(low.clone(), high.clone()) {
                        rows.extend(entry.rows.iter());
                        if rows.len() > enough {
                            return false;
                        }
                    }
                }
            }
        }
        rows.len() <= enough
    }

    /// The rows in the order of the bucket, where they lie under one key and so need no sorting.
    pub(super) fn single_key(&self) -> Option<&'a RowSet> {
        match (self.source, self.spans.as_slice()) {
            (Source::Index(index), [Span::Key(key)]) => index.rows(key),
            (Source::Index(_) | Source::Primary(_), _) => None,
        }
    }
}

fn extended(prefix: &Prefix, value: &Datum) -> Prefix {
    prefix.iter().chain([value]).cloned().collect()
}
