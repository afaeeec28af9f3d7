//! Reads over one bucket at one moment. Records whose time is up are in none of them.

use std::ops::Bound;

use super::aggregate::{Aggregate, AggregateFunction, Group};
use super::definition::ResolvedQuery;
use super::filter::Filter;
use super::page::Page;
use super::plan::{Access, Explanation, Plan, covering, explain};
use super::sort::{Placed, Sort, smallest};
use super::walk::Walk;
use crate::protocol::{Datum, FieldName, Number, Record};
use crate::store::state::{Bucket, IndexKey, RowId, Timestamp};

/// Reads one bucket at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    bucket: &'a Bucket,
    now: Timestamp,
    /// Whether any record's time is up: each is looked at only then.
    has_expired: bool,
}

/// Where a walk over a bucket begins.
#[derive(Clone, Copy)]
enum Start<'k> {
    Beginning,
    /// In an ordered bucket.
    BehindKey(&'k Datum),
    /// In any other.
    BehindRow(RowId),
}

/// Rows with their records, in some order.
type Rows<'a> = Box<dyn Iterator<Item = (RowId, &'a Record)> + 'a>;

/// What a query answers.
#[derive(Clone, Debug, PartialEq)]
pub enum QueryResult {
    /// Records in order, reduced to the wanted fields, with the rows that they come from.
    Records(Vec<(RowId, Record)>),
    /// A number; none where there is none, such as the least of nothing.
    Number(Option<Number>),
    /// A number for each group.
    Groups(Vec<Group>),
}

impl QueryResult {
    /// The result as clients see it; nothing where it has no value.
    #[must_use]
    pub fn to_json(&self) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        match self {
            Self::Records(records) => write_list(&mut out, records, |out, (_, record)| out.extend_from_slice(record.json())),
            Self::Number(number) => (*number)?.write(&mut out),
            Self::Groups(groups) => write_list(&mut out, groups, |out, group| group.write_json(out)),
        }
        Some(out)
    }
}

fn write_list<T>(out: &mut Vec<u8>, items: &[T], write: impl Fn(&mut Vec<u8>, &T)) {
    out.push(b'[');
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write(out, item);
    }
    out.push(b']');
}

impl<'a> Reader<'a> {
    /// Reads a bucket as it is at a moment.
    #[must_use]
    pub fn new(bucket: &'a Bucket, now: Timestamp) -> Self {
        Self {
            bucket,
            now,
            has_expired: bucket.has_expired(now),
        }
    }

    /// The record with a key.
    #[must_use]
    pub fn get(&self, key: &Datum) -> Option<&'a Record> {
        self.bucket.get(key, self.now)
    }

    /// Every record, in the order of insertion.
    #[must_use]
    pub fn all(&self) -> Vec<&'a Record> {
        self.live_rows(Bound::Unbounded).map(|(_, record)| record).collect()
    }

    /// The records that pass a filter, in the order of insertion, whichever index serves.
    #[must_use]
    pub fn select(&self, filter: &Filter) -> Vec<&'a Record> {
        self.matching(filter).map(|(_, record)| record).collect()
    }

    /// The same with their rows.
    #[must_use]
    pub fn select_rows(&self, filter: &Filter) -> Vec<(RowId, &'a Record)> {
        self.matching(filter).collect()
    }

    /// The first record that passes a filter.
    #[must_use]
    pub fn find_one(&self, filter: &Filter) -> Option<&'a Record> {
        self.matching(filter).next().map(|(_, record)| record)
    }

    /// How many records pass a filter. Where an index says it, no record is looked at but those whose time is up.
    #[must_use]
    pub fn count(&self, filter: &Filter) -> usize {
        let all = if filter.is_everything() {
            self.bucket.row_count()
        } else if filter.constraints().match_nothing() {
            return 0;
        } else if let Some(path) = covering(self.bucket, filter.constraints()) {
            path.count()
        } else {
            return self.matching(filter).count();
        };
        let expired = self
            .bucket
            .expired_rows(self.now)
            .into_iter()
            .filter_map(|row| self.bucket.row(row));
        all - expired.filter(|record| filter.matches(record)).count()
    }

    /// The first records: by key in an ordered bucket, else by insertion.
    #[must_use]
    pub fn first(&self, n: usize) -> Vec<&'a Record> {
        self.first_of(&Filter::everything(), n)
    }

    /// The first records of those that pass a filter.
    #[must_use]
    pub fn first_of(&self, filter: &Filter, n: usize) -> Vec<&'a Record> {
        self.from(filter, Start::Beginning).take(n).collect()
    }

    /// The last records, in the same forward order as [`Reader::first`].
    #[must_use]
    pub fn last(&self, n: usize) -> Vec<&'a Record> {
        self.last_of(&Filter::everything(), n)
    }

    /// The last records of those that pass a filter, in forward order.
    #[must_use]
    pub fn last_of(&self, filter: &Filter, n: usize) -> Vec<&'a Record> {
        if let Some(plan) = self.shortcut(filter) {
            let mut records: Vec<_> = self.found(&plan, filter).into_iter().map(|(_, record)| record).collect();
            return records.split_off(records.len().saturating_sub(n));
        }
        let passes = |record: &&Record| filter.matches(record);
        let mut records: Vec<_> = if self.is_ordered() {
            self.live_keys(Bound::Unbounded).rev().filter(passes).take(n).collect()
        } else {
            let backwards = self.live_rows(Bound::Unbounded).map(|(_, record)| record).rev();
            backwards.filter(passes).take(n).collect()
        };
        records.reverse();
        records
    }

    /// A page of records behind a cursor, which is a key. Null and missing are no cursor.
    ///
    /// An ordered bucket goes on behind the cursor whether or not its record is still there. In any other bucket
    /// the place of a record that was deleted is not known any more, since a key says nothing about the order of
    /// insertion and keeping the places of all deleted keys would grow without bound: the page is empty.
    #[must_use]
    pub fn paginate(&self, limit: usize, after: Option<&Datum>) -> Page<'a> {
        self.paginate_of(&Filter::everything(), limit, after)
    }

    /// A page of the records that pass a filter. A record that does not is as one that was deleted, also as a cursor.
    #[must_use]
    pub fn paginate_of(&self, filter: &Filter, limit: usize, after: Option<&Datum>) -> Page<'a> {
        let start = match after.filter(|cursor| cursor.is_present()) {
            None => Start::Beginning,
            Some(key) if self.is_ordered() => Start::BehindKey(key),
            Some(key) => {
                let row = self.bucket.row_of(key);
                let passes = |row: &RowId| self.bucket.row(*row).is_some_and(|record| filter.matches(record));
                match row.filter(passes) {
                    Some(row) => Start::BehindRow(row),
                    None => return Page::default(),
                }
            }
        };
        self.page(self.from(filter, start), limit)
    }

    fn page(&self, mut records: impl Iterator<Item = &'a Record>, limit: usize) -> Page<'a> {
        let page: Vec<_> = records.by_ref().take(limit).collect();
        let next_cursor = page.last().map(|record| record.datum(self.bucket.key_field()));
        Page {
            records: page,
            has_more: records.next().is_some(),
            next_cursor,
        }
    }

    /// The records that pass a filter from a place on, in the order of the bucket: a walk over all, or what an index
    /// finds where that is less.
    fn from(&self, filter: &Filter, start: Start<'_>) -> Box<dyn Iterator<Item = &'a Record> + 'a> {
        if let Some(plan) = self.shortcut(filter) {
            let key = self.bucket.key_field();
            let rows: Rows<'a> = match start {
                Start::BehindRow(last) => Box::new(self.by_plan(&plan, filter).skip_while(move |(row, _)| *row <= last)),
                Start::Beginning if !self.is_ordered() => self.by_plan(&plan, filter),
                Start::Beginning => Box::new(self.found(&plan, filter).into_iter()),
                Start::BehindKey(last) => {
                    let mut found = self.found(&plan, filter);
                    found.retain(|(_, record)| record.datum(key) > *last);
                    Box::new(found.into_iter())
                }
            };
            return Box::new(rows.map(|(_, record)| record));
        }
        let records: Box<dyn Iterator<Item = &'a Record> + 'a> = match start {
            Start::Beginning if self.is_ordered() => Box::new(self.live_keys(Bound::Unbounded)),
            Start::Beginning => Box::new(self.live_rows(Bound::Unbounded).map(|(_, record)| record)),
            Start::BehindKey(last) => Box::new(self.live_keys(Bound::Excluded(last.clone()))),
            Start::BehindRow(last) => Box::new(self.live_rows(Bound::Excluded(last)).map(|(_, record)| record)),
        };
        if filter.is_everything() {
            return records;
        }
        let filter = filter.clone();
        Box::new(records.filter(move |record| filter.matches(record)))
    }

    /// The way to the records that pass a filter, where that is not to look at all of them.
    fn shortcut(&self, filter: &Filter) -> Option<Plan<'a>> {
        if filter.is_everything() {
            return None;
        }
        Some(Plan::new(self.bucket, filter)).filter(|plan| !plan.is_scan())
    }

    /// All records that a plan finds, in the order of the bucket.
    fn found(&self, plan: &Plan<'a>, filter: &Filter) -> Vec<(RowId, &'a Record)> {
        let mut found: Vec<_> = self.by_plan(plan, filter).collect();
        if self.is_ordered() {
            let key = self.bucket.key_field();
            found.sort_by_cached_key(|(_, record)| record.datum(key));
        }
        found
    }

    /// A number made of the records that pass a filter; `group_by` plays no part.
    #[must_use]
    pub fn aggregate(&self, aggregate: &Aggregate, filter: &Filter) -> Option<Number> {
        let extreme = |last: bool| {
            aggregate
                .field
                .as_ref()
                .filter(|_| filter.is_everything())
                .and_then(|field| self.extreme(field, last))
        };
        match aggregate.function {
            AggregateFunction::Count => Some(Number::from(self.count(filter) as u64)),
            AggregateFunction::Sum | AggregateFunction::Avg => aggregate.over(self.matching(filter).map(|(_, record)| record)),
            function @ (AggregateFunction::Min | AggregateFunction::Max) => match extreme(function == AggregateFunction::Max) {
                Some(number) => number,
                None => aggregate.over(self.matching(filter).map(|(_, record)| record)),
            },
        }
    }

    /// The least or the greatest number of a field over all records, where an index says it.
    fn extreme(&self, field: &FieldName, last: bool) -> Option<Option<Number>> {
        let index = self.bucket.index_on(field).filter(|_| !self.has_expired)?;
        // Numbers come before all texts.
        let mut numbers = index.range((Bound::Unbounded, Bound::Excluded(IndexKey::One(Datum::text("")))));
        let key = if last { numbers.next_back() } else { numbers.next() };
        Some(match key.map(|(key, _)| key.values()) {
            Some([Datum::Number(number)]) => Some(*number),
            Some(_) | None => None,
        })
    }

    /// A number for each group of the records that pass a filter, in order of first appearance.
    #[must_use]
    pub fn group_by(&self, aggregate: &Aggregate, filter: &Filter) -> Vec<Group> {
        aggregate.group(self.matching(filter).map(|(_, record)| record))
    }

    /// Carries out a query: filter, then either the aggregate, or sort, offset, limit and projection.
    #[must_use]
    pub fn run(&self, query: &ResolvedQuery) -> QueryResult {
        if let Some(aggregate) = &query.aggregate {
            return if aggregate.group_by.is_empty() {
                QueryResult::Number(self.aggregate(aggregate, &query.filter))
            } else {
                QueryResult::Groups(self.group_by(aggregate, &query.filter))
            };
        }
        let records = self
            .sorted(&query.filter, &query.sort, query.wanted())
            .skip(query.offset)
            .map(|(row, record)| {
                let record = query
                    .projection
                    .as_ref()
                    .map_or_else(|| record.clone(), |projection| projection.apply(record));
                (row, record)
            });
        QueryResult::Records(records.collect())
    }

    /// The first records, as many as are wanted, of the sorted result.
    fn sorted(&self, filter: &Filter, sort: &Sort, wanted: Option<usize>) -> Rows<'a> {
        let wanted = wanted.unwrap_or(usize::MAX);
        if wanted == 0 {
            return Box::new(std::iter::empty());
        }
        if sort.is_empty() {
            return Box::new(self.matching(filter).take(wanted));
        }
        let plan = Plan::new(self.bucket, filter);
        if let Some(rows) = Walk::choose(self.bucket, filter, sort, wanted, &plan).and_then(|walk| walk.run(|record| self.is_live(record)))
        {
            return Box::new(rows.into_iter());
        }
        let placed = self
            .by_plan(&plan, filter)
            .map(|(row, record)| Placed::new(sort, row, record))
            .collect();
        Box::new(smallest(placed, wanted).into_iter().map(Placed::into_row))
    }

    /// How many records a read with this filter will look at, at most.
    #[must_use]
    pub fn cost(&self, filter: &Filter) -> usize {
        Plan::new(self.bucket, filter).cost()
    }

    /// How many records a query will look at, about.
    #[must_use]
    pub fn query_cost(&self, query: &ResolvedQuery) -> usize {
        let plan = Plan::new(self.bucket, &query.filter);
        match query.wanted() {
            Some(wanted) if query.aggregate.is_none() => {
                if query.sort.is_empty() && query.filter.is_everything() {
                    return plan.cost().min(wanted);
                }
                Walk::choose(self.bucket, &query.filter, &query.sort, wanted, &plan)
                    .map_or_else(|| plan.cost(), |walk| walk.expected_rows())
            }
            Some(_) | None => plan.cost(),
        }
    }

    /// How a filter, a sort and a limit are carried out.
    #[must_use]
    pub fn explain(&self, filter: &Filter, sort: &Sort, limit: Option<usize>) -> Explanation {
        explain(self.bucket, filter, sort, limit)
    }

    /// The records that pass a filter, in the order of insertion, found as they are asked for.
    fn matching(&self, filter: &Filter) -> Rows<'a> {
        self.by_plan(&Plan::new(self.bucket, filter), filter)
    }

    fn by_plan(&self, plan: &Plan<'a>, filter: &Filter) -> Rows<'a> {
        let Access::Paths(paths) = &plan.access else {
            return match plan.access {
                Access::Nothing => Box::new(std::iter::empty()),
                Access::Scan | Access::Paths(_) => self.scan(filter),
            };
        };
        let covers = matches!(paths.as_slice(), [path] if path.covers);
        if let [path] = paths.as_slice()
            && let Some(rows) = path.single_key()
        {
            return self.look_up(rows.iter(), filter, covers);
        }
        match plan.collect(paths) {
            Some(rows) => self.look_up(rows.into_iter(), filter, covers),
            None => self.scan(filter),
        }
    }

    fn scan(&self, filter: &Filter) -> Rows<'a> {
        if filter.is_everything() {
            return Box::new(self.live_rows(Bound::Unbounded));
        }
        let filter = filter.clone();
        Box::new(self.live_rows(Bound::Unbounded).filter(move |(_, record)| filter.matches(record)))
    }

    fn look_up(&self, rows: impl Iterator<Item = RowId> + 'a, filter: &Filter, covers: bool) -> Rows<'a> {
        let reader = *self;
        let records = rows
            .filter_map(move |row| Some((row, reader.bucket.row(row)?)))
            .filter(move |(_, record)| reader.is_live(record));
        if covers {
            return Box::new(records);
        }
        let filter = filter.clone();
        Box::new(records.filter(move |(_, record)| filter.matches(record)))
    }

    fn is_ordered(&self) -> bool {
        self.bucket.definition().is_ordered()
    }

    fn is_live(&self, record: &Record) -> bool {
        !self.has_expired || !self.bucket.is_expired(record, self.now)
    }

    fn live_rows(&self, start: Bound<RowId>) -> impl DoubleEndedIterator<Item = (RowId, &'a Record)> + use<'a> {
        let reader = *self;
        self.bucket
            .rows((start, Bound::Unbounded))
            .filter(move |(_, record)| reader.is_live(record))
    }

    fn live_keys(&self, start: Bound<Datum>) -> impl DoubleEndedIterator<Item = &'a Record> + use<'a> {
        let reader = *self;
        let records = self
            .bucket
            .keys((start, Bound::Unbounded))
            .filter_map(move |(_, row)| reader.bucket.row(row));
        records.filter(move |record| reader.is_live(record))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::support::{bucket, filter, object, record};
    use super::super::{AccessKind, IndexUsed, QueryDefinition, SortedBy};
    use super::*;

    fn ids(records: &[&Record]) -> Vec<Value> {
        records.iter().map(|record| record.to_value()["id"].clone()).collect()
    }

    fn keyed(options: Value, keys: &[Value]) -> Bucket {
        bucket(options, keys.iter().map(|key| record(&json!({ "id": key }).to_string())))
    }

    fn run(bucket: &Bucket, config: &str) -> Option<String> {
        let query = QueryDefinition::parse(&object(config)).unwrap().resolve(&object("{}")).unwrap();
        Reader::new(bucket, 0)
            .run(&query)
            .to_json()
            .map(|json| String::from_utf8(json).unwrap())
    }

    /// Numbered records, half of them with `a`, in groups of ten by `b`, with `n` scattered.
    fn large() -> Bucket {
        let records = (0..20_000u64).map(|at| {
            let scattered = at.wrapping_mul(7919) % 20_000;
            record(&json!({ "id": at, "a": (at % 2 == 0).then_some(at), "b": at / 10, "c": at % 2, "n": scattered }).to_string())
        });
        bucket(json!({ "indexes": ["b", "c", "n", ["c", "n"]] }), records)
    }

    #[test]
    fn pages_go_through_the_bucket_and_the_last_one_still_names_its_cursor() {
        let bucket = keyed(json!({}), &[5, 3, 1, 4, 2].map(Value::from));
        let reader = Reader::new(&bucket, 0);
        for (after, expected, has_more, next) in [
            (None, vec![5, 3], true, Some(3)),
            (Some(3), vec![1, 4], true, Some(4)),
            (Some(4), vec![2], false, Some(2)),
            (Some(2), vec![], false, None),
        ] {
            let page = reader.paginate(2, after.map(Datum::from).as_ref());
            assert_eq!(
                (ids(&page.records), page.has_more, page.next_cursor),
                (expected.into_iter().map(Value::from).collect(), has_more, next.map(Datum::from))
            );
        }
        assert_eq!(reader.paginate(usize::MAX, Some(&5.into())).records.len(), 4);
        assert_eq!(reader.paginate(9, Some(&Datum::Null)).records.len(), 5);
    }

    #[test]
    fn a_cursor_that_is_gone_has_a_place_only_in_an_ordered_bucket() {
        let keys = [40, 10, 30].map(Value::from);
        let ordered = keyed(json!({ "etsType": "ordered_set" }), &keys);
        let page = Reader::new(&ordered, 0).paginate(1, Some(&20.into()));
        assert_eq!((ids(&page.records), page.has_more), (vec![json!(30)], true));
        let unordered = keyed(json!({}), &keys);
        let page = Reader::new(&unordered, 0).paginate(1, Some(&20.into()));
        assert_eq!((page.records.len(), page.has_more, page.next_cursor), (0, false, None));
    }

    #[test]
    fn an_ordered_bucket_gives_first_and_last_by_key_and_everything_else_by_insertion() {
        let bucket = keyed(
            json!({ "etsType": "ordered_set" }),
            &[json!("b"), json!(10), json!(-3), json!("B"), json!(9), json!("10")],
        );
        let reader = Reader::new(&bucket, 0);
        assert_eq!(
            ids(&reader.first(99)),
            [json!(-3), json!(9), json!(10), json!("10"), json!("B"), json!("b")]
        );
        assert_eq!(ids(&reader.last(2)), [json!("B"), json!("b")]);
        assert_eq!(reader.last(0).len() + reader.first(0).len(), 0);
        assert_eq!(ids(&reader.select(&filter(r#"{"id":{"$gt":0}}"#))), [json!(10), json!(9)]);
        assert_eq!(ids(&reader.all())[0], json!("b"));
    }

    #[test]
    fn what_has_had_its_time_is_in_no_read() {
        let records = [
            r#"{"id":1,"n":5,"_expiresAt":100}"#,
            r#"{"id":2,"n":6,"_expiresAt":101}"#,
            r#"{"id":3,"n":7}"#,
        ]
        .map(record);
        let bucket = bucket(json!({ "ttl": 1000, "indexes": ["n"] }), records);
        for (now, expected) in [(99, vec![1, 2, 3]), (100, vec![2, 3]), (101, vec![3])] {
            let reader = Reader::new(&bucket, now);
            let expected: Vec<_> = expected.into_iter().map(Value::from).collect();
            let some = filter(r#"{"n":{"$gt":0}}"#);
            for found in [
                reader.all(),
                reader.select(&some),
                reader.first(9),
                reader.last(9),
                reader.paginate(9, None).records,
            ] {
                assert_eq!(ids(&found), expected, "{now}");
            }
            assert_eq!(reader.count(&some), expected.len());
            assert_eq!(reader.count(&Filter::everything()), expected.len());
            assert_eq!(reader.get(&1.into()).is_some(), now < 100);
        }
    }

    #[test]
    fn queries_sort_cut_and_reduce() {
        let bucket = bucket(
            json!({}),
            (1..=5).map(|at| record(&json!({ "id": (at * 2) % 5, "n": at }).to_string())),
        );
        for (rest, expected) in [
            (
                r#""sort":{"id":"asc"},"offset":1,"limit":2,"fields":["id"]"#,
                r#"[{"id":1},{"id":2}]"#,
            ),
            (r#""sort":{"id":"asc"},"limit":0"#, "[]"),
            (r#""sort":{"id":"desc"},"offset":9,"limit":1"#, "[]"),
            (r#""limit":1"#, r#"[{"id":2,"n":1}]"#),
            (r#""offset":3,"fields":["n","x"]"#, r#"[{"n":4},{"n":5}]"#),
            (r#""aggregate":{"function":"sum","field":"n"},"limit":1"#, "15"),
            (
                r#""aggregate":{"function":"count","groupBy":"x"},"filter":{"n":{"$gt":3}}"#,
                r#"[{"key":{},"value":2}]"#,
            ),
            (r#""aggregate":{"function":"sum","field":"n","groupBy":"x"},"filter":{"n":9}"#, "[]"),
        ] {
            assert_eq!(
                run(&bucket, &format!(r#"{{"bucket":"t",{rest}}}"#)).as_deref(),
                Some(expected),
                "{rest}"
            );
        }
        assert_eq!(run(&bucket, r#"{"bucket":"t","aggregate":{"function":"min","field":"x"}}"#), None);
    }

    #[test]
    fn the_index_with_the_fewest_rows_serves() {
        let bucket = large();
        let reader = Reader::new(&bucket, 0);
        let fields = |names: &[&str]| Some(IndexUsed::Fields(names.iter().map(|name| (*name).to_owned()).collect()));
        let table = [
            (r#"{"id":7,"b":0}"#, Some(IndexUsed::Primary), AccessKind::Lookup, 1),
            (r#"{"b":3,"c":1}"#, fields(&["b"]), AccessKind::Lookup, 10),
            (r#"{"b":{"$in":[3,4,-1]}}"#, fields(&["b"]), AccessKind::Lookup, 20),
            (r#"{"n":{"$between":[5,9]},"c":1}"#, fields(&["c", "n"]), AccessKind::Range, 3),
            (r#"{"c":1,"n":77}"#, fields(&["c", "n"]), AccessKind::Lookup, 1),
            (r#"{"n":{"$gte":0}}"#, fields(&["n"]), AccessKind::Range, 20_000),
            (
                r#"{"$or":[{"b":3},{"b":{"$between":[5,6]}}]}"#,
                fields(&["b"]),
                AccessKind::Union,
                30,
            ),
            (r#"{"$or":[{"b":3},{"id":5}],"c":1}"#, None, AccessKind::Union, 11),
            (r#"{"$or":[{"b":3},{"a":5}]}"#, None, AccessKind::Scan, 20_000),
            (r#"{"a":5}"#, None, AccessKind::Scan, 20_000),
            (r#"{"b":3,"$and":[{"b":4}]}"#, None, AccessKind::Nothing, 0),
        ];
        for (text, index, access, rows) in table {
            let found = reader.explain(&filter(text), &Sort::default(), None);
            assert_eq!((found.index, found.access, found.rows_looked_at), (index, access, rows), "{text}");
            assert_eq!(reader.cost(&filter(text)), rows, "{text}");
        }
    }

    #[test]
    fn a_sort_with_a_limit_walks_an_index_unless_the_filter_is_narrower() {
        let bucket = large();
        let reader = Reader::new(&bucket, 0);
        let by_n = Sort::parse(&json!({ "n": "desc" }), "").unwrap();
        let table = [
            ("{}", Some(10), AccessKind::Order, SortedBy::Index, 10),
            (r#"{"c":1}"#, Some(10), AccessKind::Order, SortedBy::Index, 10),
            (r#"{"n":{"$lt":500}}"#, Some(10), AccessKind::Order, SortedBy::Index, 10),
            (r#"{"a":{"$neq":null}}"#, Some(10), AccessKind::Order, SortedBy::Index, 100),
            (r#"{"b":3}"#, Some(10), AccessKind::Lookup, SortedBy::Memory, 10),
            ("{}", None, AccessKind::Scan, SortedBy::Memory, 20_000),
            (
                r#"{"c":1,"n":{"$between":[0,3]}}"#,
                Some(10),
                AccessKind::Range,
                SortedBy::Memory,
                2,
            ),
        ];
        for (text, limit, access, sorted, rows) in table {
            let found = reader.explain(&filter(text), &by_n, limit);
            assert_eq!((found.access, found.sorted, found.rows_looked_at), (access, sorted, rows), "{text}");
        }
    }

    #[test]
    fn a_way_that_turns_out_long_is_given_up_and_the_answer_stays_right() {
        let bucket = large();
        let reader = Reader::new(&bucket, 0);
        // The range is longer than counting goes, and almost all of the bucket.
        let wide = filter(r#"{"n":{"$gte":10}}"#);
        assert_eq!(reader.count(&wide), 19_990);
        assert_eq!(
            reader.select_rows(&wide),
            bucket.all_rows().filter(|(_, record)| wide.matches(record)).collect::<Vec<_>>()
        );
        // Nothing on the way passes until the very end.
        let rare = r#"{"bucket":"t","filter":{"a":{"$gte":19998}},"sort":{"n":"asc"},"limit":2,"fields":["a"]}"#;
        assert_eq!(run(&bucket, rare).unwrap(), r#"[{"a":19998}]"#);
    }

    #[test]
    fn an_explanation_is_plain_json() {
        let bucket = bucket(json!({ "indexes": ["a"] }), [record(r#"{"id":"x","a":1}"#)]);
        let explain = |text: &str| serde_json::to_value(Reader::new(&bucket, 0).explain(&filter(text), &Sort::default(), None)).unwrap();
        assert_eq!(
            explain(r#"{"a":1,"b":2}"#),
            json!({ "index": ["a"], "access": "lookup", "rowsLookedAt": 1, "rowsInBucket": 1, "tested": true, "sorted": "none" })
        );
        assert_eq!(explain(r#"{"id":"x"}"#)["index"], "primary");
        assert_eq!(explain("{}")["access"], "scan");
    }
}
