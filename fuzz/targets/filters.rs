//! Filters and queries against records: every way to find records finds what a plain scan finds.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use noex_server::protocol::{Datum, FieldName, Record};
use noex_server::store::query::{Filter, QueryDefinition, Reader, ResolvedQuery, Sort};
use noex_server::store::{BucketDefinition, Snapshot, Store};
use noex_server_fuzz::{BUCKETS, NOW, Source, lines, new_store, run};
use serde_json::{Map, Value, json};

fuzz_target!(|data: &[u8]| {
    let snapshot = snapshot();
    if let Some(queries) = lines(data) {
        for query in queries {
            check(snapshot, &query, &Value::Null);
        }
        return;
    }
    let mut source = Source::new(data);
    let bucket = source.pick(BUCKETS);
    let query = source.query(bucket);
    let params = source.params();
    check(snapshot, &query, &params);
});

/// Buckets with the same records and different indexes.
fn snapshot() -> &'static Snapshot {
    static SNAPSHOT: OnceLock<(Store, Snapshot)> = OnceLock::new();
    &SNAPSHOT
        .get_or_init(|| {
            let store = run(fill());
            let snapshot = store.snapshot();
            (store, snapshot)
        })
        .1
}

async fn fill() -> Store {
    let store = new_store(|| NOW).await;
    let indexes = [
        json!([]),
        json!(["a", "b", "n", "o", "ü"]),
        json!([["a", "b"], ["n", "a", "b"], ["ü", "n"], "b"]),
    ];
    for (name, indexes) in BUCKETS.iter().zip(indexes) {
        let order = if *name == "v" { "ordered_set" } else { "set" };
        let config = json!({ "key": "id", "schema": { "id": {} , "a": {}, "b": {}, "n": {}, "o": {}, "ü": {} }, "indexes": indexes, "etsType": order, "ttl": "1h" });
        let mut config = config;
        for (field, kind) in [
            ("id", "number"),
            ("a", "string"),
            ("b", "string"),
            ("n", "number"),
            ("o", "object"),
            ("ü", "string"),
        ] {
            config["schema"][field] = json!({ "type": kind });
        }
        let definition = BucketDefinition::from_value(&config).expect("a sound definition");
        store.define_bucket(*name, definition).await.expect("the name is free");
        store.bucket(*name).insert_many(&records()).await.expect("sound records");
    }
    store
}

fn records() -> Vec<Value> {
    let texts = [
        "",
        "a",
        "ab",
        "abc",
        "B",
        "x\"y\\z\n",
        "😀",
        "\u{FF5E}",
        "\u{10FFFF}",
        "{{ params.p }}",
    ];
    let numbers = [
        json!(-2),
        json!(-1),
        json!(0),
        json!(1),
        json!(0.5),
        json!(i64::MAX),
        json!(u64::MAX),
        json!(1e19),
        json!(NOW),
    ];
    let mut records = Vec::new();
    for at in 0..40_usize {
        let mut record = json!({ "id": at as i64 - 3, "a": texts[at % texts.len()], "b": texts[at * 7 % texts.len()], "n": numbers[at % numbers.len()] });
        if at % 3 == 0 {
            record["ü"] = texts[at * 3 % texts.len()].into();
        }
        if at % 5 == 0 {
            record["o"] = json!({ "id": at });
            record["n"] = Value::Null;
        }
        if at % 7 == 0 {
            record["a"] = Value::Null;
        }
        if at % 4 == 0 {
            record.as_object_mut().expect("an object").shift_remove("b");
        }
        records.push(record);
    }
    records
}

fn check(snapshot: &Snapshot, config: &Map<String, Value>, params: &Value) {
    if let Some(filter) = config.get("filter").and_then(Value::as_object) {
        check_filter(snapshot, filter);
    }
    match QueryDefinition::parse(config) {
        Err(issues) => assert!(!issues.is_empty()),
        Ok(query) => {
            let again = QueryDefinition::parse(query.config()).expect("a definition that was taken is taken again");
            assert_eq!(again.parameters(), query.parameters());
            let none = Map::new();
            let resolved = query.resolve(params.as_object().unwrap_or(&none));
            if let (Ok(resolved), Ok(bucket)) = (resolved, snapshot.bucket(query.bucket().as_str())) {
                check_query(&Reader::new(bucket, NOW), &resolved);
            }
        }
    }
}

fn check_filter(snapshot: &Snapshot, filter: &Map<String, Value>) {
    let Ok(filter) = Filter::parse(filter) else { return };
    for name in BUCKETS {
        let bucket = snapshot.bucket(name).expect("it is defined");
        let reader = Reader::new(bucket, NOW);
        check_reads(&reader, &filter);
        // Every way a filter is carried out can be explained.
        let _ = reader.explain(&filter, &Sort::default(), None);
    }
}

/// What a plain scan finds.
fn scan<'r>(reader: &Reader<'r>, filter: &Filter) -> Vec<&'r Record> {
    reader.all().into_iter().filter(|record| filter.matches(record)).collect()
}

fn check_reads(reader: &Reader<'_>, filter: &Filter) {
    let expected = scan(reader, filter);
    let constraints = filter.constraints();
    for record in reader.all() {
        let matches = filter.matches(record);
        assert!(
            !matches || constraints.admit(record),
            "{filter:?} takes what its constraints do not"
        );
        assert!(
            !constraints.are_exact() || matches == constraints.admit(record),
            "{filter:?} has constraints that are not exact"
        );
        assert!(!matches || !constraints.match_nothing(), "{filter:?} matches something");
        assert!(!filter.is_everything() || matches, "{filter:?} does not match everything");
    }
    assert_eq!(keys(&reader.select(filter)), keys(&expected), "{filter:?}");
    assert_eq!(reader.count(filter), expected.len(), "{filter:?}");
    let first: Vec<&Record> = reader.find_one(filter).into_iter().collect();
    assert_eq!(keys(&first), keys(&expected[..expected.len().min(1)]), "{filter:?}");
    assert!(reader.cost(filter) >= expected.len(), "{filter:?} costs less than it yields");
}

fn keys(records: &[&Record]) -> Vec<Datum> {
    let key = FieldName::new("id");
    records.iter().map(|record| record.datum(&key)).collect()
}

/// A query yields what a plain scan, a stable sort and a cut make.
fn check_query(reader: &Reader<'_>, query: &ResolvedQuery) {
    check_reads(reader, &query.filter);
    let result = reader.run(query).to_json();
    if let Some(aggregate) = &query.aggregate {
        let records = scan(reader, &query.filter);
        if aggregate.group_by.is_empty() {
            let number = aggregate.over(records.iter().copied());
            let value: Option<Value> = result.map(|json| serde_json::from_slice(&json).expect("a result is JSON"));
            assert_eq!(value.is_some(), number.is_some());
        }
        return;
    }
    let result: Value = serde_json::from_slice(&result.expect("a list is a value")).expect("a result is JSON");
    let mut expected = scan(reader, &query.filter);
    expected.sort_by_cached_key(|record| query.sort.key_of(record));
    let cut = expected.into_iter().skip(query.offset).take(query.limit.unwrap_or(usize::MAX));
    let shown = cut.map(|record| {
        query
            .projection
            .as_ref()
            .map_or_else(|| record.clone(), |projection| projection.apply(record))
    });
    let expected: Vec<Value> = shown.map(|record| record.to_value()).collect();
    assert_eq!(result, Value::Array(expected), "{query:?}");
}
