//! Random records, filters, indexes and sorts: whatever way is taken, the answer is that of a plain scan.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::span::{Path, sources};
use super::support::bucket;
use super::walk::Walk;
use super::*;
use crate::protocol::{Datum, FieldName, Record, compare_utf16};
use crate::store::state::{Bucket, RowId, Timestamp};

const NOW: Timestamp = 1000;

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        2 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::from),
        4 => (-2..4i64).prop_map(Value::from),
        1 => Just(json!(0.5)),
        4 => prop::sample::select(vec!["", "a", "ab", "abc", "B", "b\"", "😀", "\u{FF5E}", "a\u{10FFFF}x"]).prop_map(Value::from),
        1 => prop::sample::select(vec![json!([1]), json!({"k": 1}), json!([])]),
    ]
}

fn field() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["id", "a", "b", "c", "n"])
}

/// A record without its key.
fn fields() -> impl Strategy<Value = Map<String, Value>> {
    let fields = prop::sample::subsequence(vec!["a", "b", "c", "n"], 0..=4);
    let end = prop_oneof![3 => Just(None), 1 => Just(Some(json!(NOW - 1))), 1 => Just(Some(json!(NOW + 1)))];
    (fields, prop::collection::vec(value(), 4), end).prop_map(|(fields, values, end)| {
        let mut record: Map<String, Value> = fields.into_iter().map(str::to_owned).zip(values).collect();
        record.extend(end.map(|end| ("_expiresAt".to_owned(), end)));
        record
    })
}

fn operand(operator: &'static str) -> BoxedStrategy<Value> {
    let ordered = || value().prop_filter("ordered", |value| value.is_number() || value.is_string() || value.is_boolean());
    match operator {
        "$eq" | "$neq" => value().boxed(),
        "$gt" | "$gte" | "$lt" | "$lte" => ordered().boxed(),
        "$in" | "$nin" => prop::collection::vec(value(), 0..4).prop_map(Value::from).boxed(),
        "$exists" => any::<bool>().prop_map(Value::from).boxed(),
        "$between" => (ordered(), ordered()).prop_map(|(low, high)| json!([low, high])).boxed(),
        _ => prop::sample::select(vec!["", "a", "AB", "b", "😀", "a\u{10FFFF}"])
            .prop_map(Value::from)
            .boxed(),
    }
}

fn condition() -> impl Strategy<Value = Value> {
    let operators = vec![
        "$eq",
        "$neq",
        "$gt",
        "$gte",
        "$lt",
        "$lte",
        "$in",
        "$nin",
        "$contains",
        "$startsWith",
        "$endsWith",
        "$exists",
        "$between",
    ];
    let operator = prop::sample::select(operators).prop_flat_map(|operator| (Just(operator), operand(operator)));
    let operators =
        prop::collection::vec(operator, 1..3).prop_map(|all| all.into_iter().map(|(name, operand)| (name.to_owned(), operand)).collect());
    prop_oneof![2 => value(), 3 => operators.prop_map(Value::Object)]
}

fn filter() -> impl Strategy<Value = Value> {
    let leaf = prop::collection::vec((field(), condition()), 0..3)
        .prop_map(|all| all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Map<_, _>>());
    let leaf = leaf.boxed();
    leaf.clone().prop_map(Value::Object).prop_recursive(3, 12, 3, move |inner| {
        (
            leaf.clone(),
            prop::sample::select(vec!["$or", "$and"]),
            prop::collection::vec(inner, 0..4),
        )
            .prop_map(|(mut fields, combinator, branches)| {
                fields.insert(combinator.to_owned(), Value::Array(branches));
                Value::Object(fields)
            })
    })
}

fn sort() -> impl Strategy<Value = Sort> {
    let direction = prop::sample::select(vec![Direction::Ascending, Direction::Descending]);
    prop::collection::vec((field(), direction), 0..3)
        .prop_map(|fields| Sort::new(fields.into_iter().map(|(name, direction)| (FieldName::new(name), direction))))
}

fn indexes() -> impl Strategy<Value = Value> {
    let all = vec![
        json!("a"),
        json!("b"),
        json!("n"),
        json!(["a", "b"]),
        json!(["b", "n"]),
        json!(["c", "a", "b"]),
    ];
    prop::sample::subsequence(all, 0..=6).prop_map(Value::from)
}

fn any_bucket() -> impl Strategy<Value = Bucket> {
    (prop::collection::vec(fields(), 0..24), indexes(), any::<bool>(), any::<bool>()).prop_map(|(records, indexes, expires, ordered)| {
        let count = records.len();
        let records = records.into_iter().enumerate().map(|(at, mut fields)| {
            // Keys that are neither in the order of insertion nor of one type.
            let place = (at * 7) % count.max(1);
            fields.insert(
                "id".to_owned(),
                if at % 2 == 0 {
                    json!(format!("k{place}{at}"))
                } else {
                    json!(place * 100 + at)
                },
            );
            Record::from_object(&fields)
        });
        let mut options = json!({ "indexes": indexes });
        if expires {
            options["ttl"] = json!(5000);
        }
        if ordered {
            options["etsType"] = json!("ordered_set");
        }
        bucket(options, records)
    })
}

/// The filter language once more, written down as plainly as the specification has it.
mod model {
    use super::*;

    pub(super) fn matches(filter: &Value, record: &Value) -> bool {
        filter.as_object().unwrap().iter().all(|(name, condition)| match name.as_str() {
            "$and" => condition.as_array().unwrap().iter().all(|branch| matches(branch, record)),
            "$or" => condition.as_array().unwrap().iter().any(|branch| matches(branch, record)),
            field => {
                let value = record.get(field);
                match condition.as_object() {
                    Some(tests) if tests.keys().any(|name| name.starts_with('$')) => {
                        tests.iter().all(|(name, operand)| passes(value, name, operand))
                    }
                    _ => equal(value, condition),
                }
            }
        })
    }

    fn equal(value: Option<&Value>, operand: &Value) -> bool {
        value.is_some_and(|value| match (value, operand) {
            (Value::Array(_) | Value::Object(_), _) => false,
            (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
            (a, b) => a == b,
        })
    }

    fn compare(value: Option<&Value>, operand: &Value) -> Option<std::cmp::Ordering> {
        match (value?, operand) {
            (Value::Number(a), Value::Number(b)) => a.as_f64().unwrap().partial_cmp(&b.as_f64().unwrap()),
            (Value::String(a), Value::String(b)) => Some(compare_utf16(a, b)),
            _ => None,
        }
    }

    fn passes(value: Option<&Value>, name: &str, operand: &Value) -> bool {
        let list = || operand.as_array().unwrap();
        let texts = |test: fn(&str, &str) -> bool| {
            value
                .and_then(Value::as_str)
                .is_some_and(|text| test(text, operand.as_str().unwrap()))
        };
        match name {
            "$eq" => equal(value, operand),
            "$neq" => !equal(value, operand),
            "$gt" => compare(value, operand).is_some_and(|order| order.is_gt()),
            "$gte" => compare(value, operand).is_some_and(|order| order.is_ge()),
            "$lt" => compare(value, operand).is_some_and(|order| order.is_lt()),
            "$lte" => compare(value, operand).is_some_and(|order| order.is_le()),
            "$in" => list().iter().any(|member| equal(value, member)),
            "$nin" => !list().iter().any(|member| equal(value, member)),
            "$contains" => texts(|text, part| text.to_lowercase().contains(&part.to_lowercase())),
            "$startsWith" => texts(|text, part| text.starts_with(part)),
            "$endsWith" => texts(|text, part| text.ends_with(part)),
            "$exists" => operand.as_bool().unwrap() == value.is_some_and(|value| !value.is_null()),
            "$between" => {
                compare(value, &operand[0]).is_some_and(|order| order.is_ge())
                    && compare(value, &operand[1]).is_some_and(|order| order.is_le())
            }
            other => panic!("{other}"),
        }
    }
}

fn parse(filter: &Value) -> Filter {
    Filter::parse(filter.as_object().unwrap()).unwrap()
}

fn live_rows(bucket: &Bucket) -> impl Iterator<Item = (RowId, &Record)> {
    bucket.all_rows().filter(|(_, record)| !bucket.is_expired(record, NOW))
}

fn scan<'a>(bucket: &'a Bucket, filter: &Filter) -> Vec<(RowId, &'a Record)> {
    live_rows(bucket).filter(|(_, record)| filter.matches(record)).collect()
}

/// What the query must give, by sorting the whole scan.
fn sorted_scan<'a>(bucket: &'a Bucket, filter: &Filter, sort: &Sort) -> Vec<(RowId, &'a Record)> {
    let mut rows = scan(bucket, filter);
    rows.sort_by(|(_, a), (_, b)| {
        let order = sort.fields().iter().map(|(field, direction)| {
            let (a, b) = (a.datum(field), b.datum(field));
            match direction {
                Direction::Descending if a.is_present() && b.is_present() => b.sort_cmp(&a),
                Direction::Ascending | Direction::Descending => a.sort_cmp(&b),
            }
        });
        order.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then)
    });
    rows
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_filter_matches_what_the_specification_says(filter in filter(), records in prop::collection::vec(fields(), 1..12)) {
        let checked = parse(&filter);
        for fields in records {
            let matches = checked.matches(&Record::from_object(&fields));
            prop_assert_eq!(matches, model::matches(&filter, &Value::Object(fields)));
        }
    }

    #[test]
    fn constraints_admit_every_record_that_matches_and_no_other_where_they_are_exact(filter in filter(), records in prop::collection::vec(fields(), 1..12)) {
        let filter = parse(&filter);
        let constraints = filter.constraints();
        for record in records.iter().map(Record::from_object) {
            let (matches, admitted) = (filter.matches(&record), constraints.admit(&record));
            prop_assert!(admitted || !matches);
            prop_assert!(!constraints.are_exact() || matches == admitted);
            for (field, domain) in constraints.fields().filter(|_| matches) {
                prop_assert!(domain.contains(&record.datum(field)));
            }
        }
    }

    #[test]
    fn a_read_by_any_index_is_the_read_by_a_scan(bucket in any_bucket(), filter in filter()) {
        let (reader, filter) = (Reader::new(&bucket, NOW), parse(&filter));
        let expected = scan(&bucket, &filter);
        prop_assert_eq!(reader.select_rows(&filter), expected.clone());
        prop_assert_eq!(reader.find_one(&filter), expected.first().map(|(_, record)| *record));
        prop_assert_eq!(reader.count(&filter), expected.len());
        prop_assert!(reader.cost(&filter) >= expected.len());
        prop_assert!(reader.cost(&filter) <= bucket.row_count());
    }

    #[test]
    fn every_path_of_every_index_leads_to_all_matching_rows(bucket in any_bucket(), filter in filter()) {
        let filter = parse(&filter);
        let expected: Vec<_> = bucket.all_rows().filter(|(_, record)| filter.matches(record)).map(|(row, _)| row).collect();
        for path in sources(&bucket).filter_map(|source| Path::new(source, filter.constraints())) {
            let mut rows = Vec::new();
            prop_assert!(path.collect(usize::MAX, &mut rows));
            prop_assert_eq!(path.count(), rows.len());
            rows.sort_unstable();
            prop_assert!(rows.windows(2).all(|pair| pair[0] != pair[1]));
            prop_assert!(expected.iter().all(|row| rows.contains(row)));
            prop_assert!(!path.covers || rows == expected);
        }
    }

    #[test]
    fn a_sorted_result_is_the_same_by_index_and_in_memory(bucket in any_bucket(), filter in filter(), sort in sort(), wanted in 1..12usize) {
        let filter = parse(&filter);
        let mut expected = sorted_scan(&bucket, &filter, &sort);
        expected.truncate(wanted);
        for walk in sources(&bucket).filter_map(|source| Walk::over(&bucket, source, &filter, &sort, wanted, 1)) {
            if !filter.constraints().match_nothing() {
                prop_assert_eq!(walk.run(|record| !bucket.is_expired(record, NOW)), Some(expected.clone()));
            }
        }
    }

    #[test]
    fn a_query_gives_the_cut_out_of_the_sorted_scan(bucket in any_bucket(), filter in filter(), sort in sort(), offset in 0..6usize, limit in prop::option::of(0..8usize)) {
        let filter = parse(&filter);
        let expected: Vec<_> = sorted_scan(&bucket, &filter, &sort).into_iter().skip(offset).take(limit.unwrap_or(usize::MAX)).collect();
        let query = ResolvedQuery { bucket: "t".into(), filter, sort, offset, limit, projection: None, aggregate: None };
        let reader = Reader::new(&bucket, NOW);
        let QueryResult::Records(records) = reader.run(&query) else { panic!("records are expected") };
        prop_assert_eq!(records.iter().map(|(row, record)| (*row, record)).collect::<Vec<_>>(), expected);
        prop_assert!(reader.query_cost(&query) <= bucket.row_count());
    }

    #[test]
    fn aggregates_are_those_of_the_scan(bucket in any_bucket(), filter in filter(), function in prop::sample::select(vec!["count", "sum", "avg", "min", "max"])) {
        let filter = parse(&filter);
        let aggregate = Aggregate::parse(&json!({ "function": function, "field": "n" }), "").unwrap().grouped_by(&json!(["a", "b"]), "").unwrap();
        let records = || scan(&bucket, &filter).into_iter().map(|(_, record)| record);
        let reader = Reader::new(&bucket, NOW);
        prop_assert_eq!(reader.aggregate(&aggregate, &filter), aggregate.over(records()));
        prop_assert_eq!(reader.aggregate(&aggregate, &Filter::everything()), aggregate.over(live_rows(&bucket).map(|(_, record)| record)));
        prop_assert_eq!(reader.group_by(&aggregate, &filter), aggregate.group(records()));
    }

    #[test]
    fn pages_put_together_are_the_whole_bucket(bucket in any_bucket(), limit in 1..5usize) {
        let reader = Reader::new(&bucket, NOW);
        let (mut seen, mut after, mut rounds) = (Vec::new(), None::<Datum>, 0);
        loop {
            let page = reader.paginate(limit, after.as_ref());
            prop_assert!(page.records.len() <= limit);
            seen.extend(page.records);
            rounds += 1;
            if !page.has_more {
                break;
            }
            after = page.next_cursor;
        }
        prop_assert_eq!(&seen, &reader.first(usize::MAX));
        prop_assert_eq!(&seen, &reader.last(usize::MAX));
        prop_assert_eq!(rounds, seen.len().div_ceil(limit).max(1));
    }
}
