//! A sorted result by walking an index in the order of the sort, no further than the limit needs.

use std::ops::Bound;

use super::constraint::{Domain, ValueRange};
use super::filter::Filter;
use super::plan::{Access, Plan};
use super::sort::{Direction, Placed, Sort};
use super::span::{Path, Prefix, Source, Span, sources};
use crate::protocol::{Datum, Record};
use crate::store::state::{Bucket, RowId};

/// A walk that has looked at a quarter of the bucket and this many records more gives up: a scan is better then.
const PATIENCE: usize = 1024;

/// A source whose order begins with the first sort field, behind fields that the filter ties to one value each.
pub(super) struct Walk<'a, 'q> {
    bucket: &'a Bucket,
    source: Source<'a>,
    prefix: Prefix,
    /// Where the values of the sort field lie, those without a value left out.
    present: ValueRange,
    /// Whether records without a value can pass: they come last.
    with_absent: bool,
    direction: Direction,
    filter: &'q Filter,
    sort: &'q Sort,
    wanted: usize,
    covers: bool,
    expected: usize,
}

impl<'a, 'q> Walk<'a, 'q> {
    /// The walk that promises to look at fewer records than the plan does, if there is one.
    pub(super) fn choose(bucket: &'a Bucket, filter: &'q Filter, sort: &'q Sort, wanted: usize, plan: &Plan<'_>) -> Option<Self> {
        let total = bucket.row_count();
        // Of an unknown share of the records that pass, a tenth is assumed.
        let passing = match &plan.access {
            Access::Nothing => return None,
            Access::Scan => total / 10,
            Access::Paths(_) => plan.rows.expected(total),
        };
        let walks = sources(bucket).filter_map(|source| Self::over(bucket, source, filter, sort, wanted, passing));
        walks
            .min_by_key(|walk| walk.expected)
            .filter(|walk| walk.expected < plan.rows.expected(total))
    }

    /// The walk over one source, if its order is of use. `passing` is how many records are thought to pass the filter.
    pub(super) fn over(
        bucket: &'a Bucket,
        source: Source<'a>,
        filter: &'q Filter,
        sort: &'q Sort,
        wanted: usize,
        passing: usize,
    ) -> Option<Self> {
        let (field, direction) = sort.fields().first()?;
        let constraints = filter.constraints();
        let mut prefix = Prefix::new();
        for leading in source.fields() {
            if leading == field {
                break;
            }
            match constraints.domain(leading) {
                Some(Domain::Values(values)) if values.len() == 1 => prefix.extend(values.iter().cloned()),
                Some(_) | None => return None,
            }
        }
        if prefix.len() == source.fields().len() {
            return None;
        }
        let everything = ValueRange {
            low: Bound::Unbounded,
            high: Bound::Excluded(Datum::Null),
        };
        let (present, with_absent) = match constraints.domain(field) {
            None => (everything, true),
            Some(Domain::Range(range)) => (range.intersect(&everything), range.contains(&Datum::Null)),
            // Looking the values up is better.
            Some(Domain::Values(_)) => return None,
        };
        let covers = constraints.say_all_by(source.fields().get(..=prefix.len()).unwrap_or_default());
        let mut walk = Self {
            bucket,
            source,
            prefix,
            present,
            with_absent,
            direction: *direction,
            filter,
            sort,
            wanted,
            covers,
            expected: wanted,
        };
        walk.expected = walk.estimate(passing);
        Some(walk)
    }

    /// How many records it takes to find the wanted ones, if those that pass are spread evenly.
    fn estimate(&self, passing: usize) -> usize {
        let total = self.bucket.row_count();
        let length = if self.prefix.is_empty() && self.with_absent {
            total
        } else {
            let (low, high) = self.source.span(&self.prefix, &self.present);
            let path = Path {
                source: self.source,
                spans: vec![Span::Range(low, high)],
                covers: false,
            };
            path.estimate(total).expected(total)
        };
        let each = if self.covers { 1 } else { length / passing.clamp(1, length.max(1)) };
        self.wanted.saturating_mul(each).min(length)
    }

    pub(super) fn source(&self) -> Source<'a> {
        self.source
    }

    pub(super) fn expected_rows(&self) -> usize {
        self.expected
    }

    /// Whether every record on the way passes the filter.
    pub(super) fn covers(&self) -> bool {
        self.covers
    }

    /// The first of the sorted result, as many as are wanted; nothing where too many records on the way did not
    /// pass. `is_live` tells records whose time is not up.
    pub(super) fn run(&self, is_live: impl Fn(&Record) -> bool) -> Option<Vec<(RowId, &'a Record)>> {
        let passes = |record: &Record| is_live(record) && (self.covers || self.filter.matches(record));
        let mut taken = Taken {
            walk: self,
            passes,
            rows: Vec::new(),
            looked_at: 0,
            patience: self.bucket.row_count() / 4 + PATIENCE,
        };
        let (low, high) = self.source.span(&self.prefix, &self.present);
        let entries = self.source.range(low, high);
        match self.direction {
            Direction::Ascending => taken.groups(entries),
            Direction::Descending => taken.groups(entries.rev()),
        }
        if self.with_absent && !taken.is_over() {
            taken.absent();
        }
        taken.finish()
    }
}

/// What a walk has found so far.
struct Taken<'w, 'a, 'q, P> {
    walk: &'w Walk<'a, 'q>,
    passes: P,
    rows: Vec<(RowId, &'a Record)>,
    looked_at: usize,
    patience: usize,
}

impl<'a, P: Fn(&Record) -> bool> Taken<'_, 'a, '_, P> {
    fn is_over(&self) -> bool {
        self.rows.len() >= self.walk.wanted || self.looked_at > self.patience
    }

    /// Takes entries in their order; those with one value of the sort field are one group.
    fn groups(&mut self, entries: impl Iterator<Item = super::span::Entry<'a>>) {
        let at = self.walk.prefix.len();
        let mut entries = entries.peekable();
        while let Some(first) = entries.next() {
            let mut group = Vec::new();
            while let Some(next) = entries.next_if(|next| next.key.get(at) == first.key.get(at)) {
                group.extend(next.rows.iter());
            }
            if group.is_empty() {
                self.group(first.rows.iter());
            } else {
                group.extend(first.rows.iter());
                group.sort_unstable();
                self.group(group.into_iter());
            }
            if self.is_over() {
                return;
            }
        }
    }

    /// Takes the records without a value of the sort field, which are equals.
    fn absent(&mut self) {
        let range = ValueRange {
            low: Bound::Included(Datum::Null),
            high: Bound::Unbounded,
        };
        let (low, high) = self.walk.source.span(&self.walk.prefix, &range);
        let mut group: Vec<_> = self
            .walk
            .source
            .range(low, high)
            .flat_map(|entry| entry.rows.iter().collect::<Vec<_>>())
            .collect();
        group.sort_unstable();
        self.group(group.into_iter());
    }

    /// Takes rows that are equal in the first sort field, in ascending order.
    fn group(&mut self, rows: impl Iterator<Item = RowId>) {
        let is_decided = self.walk.sort.fields().len() == 1;
        let mut undecided = Vec::new();
        for row in rows {
            if self.is_over() {
                return;
            }
            self.looked_at += 1;
            let Some(record) = self.walk.bucket.row(row).filter(|record| (self.passes)(record)) else {
                continue;
            };
            if is_decided {
                self.rows.push((row, record));
            } else {
                undecided.push(Placed::new(self.walk.sort, row, record));
            }
        }
        undecided.sort_unstable();
        self.rows.extend(undecided.into_iter().map(Placed::into_row));
    }

    fn finish(mut self) -> Option<Vec<(RowId, &'a Record)>> {
        if self.rows.len() < self.walk.wanted && self.looked_at > self.patience {
            return None;
        }
        self.rows.truncate(self.walk.wanted);
        Some(self.rows)
    }
}
