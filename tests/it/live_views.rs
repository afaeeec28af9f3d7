//! Live views against fresh evaluations: after every commit group each view holds what the query would give now,
//! and a result is pushed only when it is another one. Deltas make any result of any other one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use noex_server::protocol::SubscriptionId;
use noex_server::store::query::{Filter, QueryDefinition};
use noex_server::store::{BucketDefinition, Operation, Sink, Store, StoreError, Update, ViewResult};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// Keeps everything that was pushed.
#[derive(Default)]
struct Recorder(Mutex<HashMap<SubscriptionId, Vec<Arc<ViewResult>>>>);

impl Sink for Recorder {
    fn push(&self, id: SubscriptionId, update: Update) {
        if let Update::Result(result) = update {
            self.0.lock().unwrap().entry(id).or_default().push(result);
        }
    }
}

fn value_of(result: &ViewResult) -> Option<Value> {
    result.data().map(|json| serde_json::from_slice(&json).unwrap())
}

/// What a client makes of an older result and a delta.
fn applied(older: Option<&Value>, delta: &Value) -> Option<Value> {
    let Some(upserted) = delta.get("upserted").and_then(Value::as_array) else {
        return delta.get("value").cloned();
    };
    let mut list = older?.as_array()?.clone();
    let removed = delta["removed"].as_array()?;
    list.retain(|record| !removed.contains(&record["id"]) && upserted.iter().all(|pair| pair[1]["id"] != record["id"]));
    for pair in upserted {
        list.insert(usize::try_from(pair[0].as_u64()?).ok()?, pair[1].clone());
    }
    Some(Value::Array(list))
}

/// Deltas lead from any version to any other.
fn check_deltas(name: &str, results: &[Arc<ViewResult>]) -> Result<(), TestCaseError> {
    let values: Vec<_> = results.iter().map(|result| value_of(result)).collect();
    for (older, from) in results.iter().zip(&values) {
        for (newer, to) in results.iter().zip(&values) {
            let delta = serde_json::from_slice(&newer.delta_from(older)).unwrap();
            prop_assert_eq!(&applied(from.as_ref(), &delta), to, "query {} from {:?} by {}", name, from, delta);
        }
    }
    Ok(())
}

/// Queries of every kind that views are kept by.
fn queries() -> Vec<(&'static str, Value, Value)> {
    let query = |mut config: Value| {
        config.as_object_mut().unwrap().insert("bucket".to_owned(), json!("t"));
        config
    };
    vec![
        ("all", query(json!({})), Value::Null),
        (
            "by-group",
            query(json!({ "filter": { "g": "{{ params.g }}" } })),
            json!({ "g": "a" }),
        ),
        ("by-key", query(json!({ "filter": { "id": "k3" } })), Value::Null),
        (
            "in",
            query(json!({ "filter": { "g": { "$in": ["a", "c"] } }, "sort": { "n": "asc" } })),
            Value::Null,
        ),
        ("range", query(json!({ "filter": { "n": { "$gte": 2, "$lt": 6 } } })), Value::Null),
        (
            "above",
            query(json!({ "filter": { "n": { "$gt": "{{ params.n }}" } } })),
            json!({ "n": 4 }),
        ),
        ("prefix", query(json!({ "filter": { "g": { "$startsWith": "a" } } })), Value::Null),
        (
            "either",
            query(json!({ "filter": { "$or": [{ "g": "a" }, { "n": 3 }] } })),
            Value::Null,
        ),
        ("none", query(json!({ "filter": { "g": { "$exists": false } } })), Value::Null),
        ("top", query(json!({ "sort": { "n": "desc" }, "limit": 3 })), Value::Null),
        (
            "page",
            query(json!({ "sort": { "g": "asc", "n": "desc" }, "offset": 2, "limit": 2, "fields": ["id"] })),
            Value::Null,
        ),
        ("first", query(json!({ "filter": { "g": "b" }, "limit": 1 })), Value::Null),
        ("no-rows", query(json!({ "limit": 0 })), Value::Null),
        ("groups", query(json!({ "fields": ["g"] })), Value::Null),
        (
            "sorted",
            query(json!({ "sort": { "n": "asc" }, "fields": ["id", "g"] })),
            Value::Null,
        ),
        (
            "count",
            query(json!({ "filter": { "g": "a" }, "aggregate": { "function": "count" } })),
            Value::Null,
        ),
        (
            "sum",
            query(json!({ "aggregate": { "function": "sum", "field": "n" } })),
            Value::Null,
        ),
        (
            "avg",
            query(json!({ "aggregate": { "function": "avg", "field": "n" } })),
            Value::Null,
        ),
        (
            "min",
            query(json!({ "filter": { "g": "b" }, "aggregate": { "function": "min", "field": "n" } })),
            Value::Null,
        ),
        (
            "max",
            query(json!({ "aggregate": { "function": "max", "field": "n" } })),
            Value::Null,
        ),
        (
            "by-two",
            query(json!({ "filter": { "n": { "$neq": 7 } }, "aggregate": { "function": "min", "field": "n", "groupBy": ["g", "n"] } })),
            Value::Null,
        ),
        (
            "average-by",
            query(json!({ "aggregate": { "function": "avg", "field": "n", "groupBy": "g" } })),
            Value::Null,
        ),
        (
            "by",
            query(json!({ "aggregate": { "function": "sum", "field": "n", "groupBy": "g" } })),
            Value::Null,
        ),
    ]
}

fn object(value: &Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

async fn open() -> Store {
    let store = Store::builder().in_memory().open().await.unwrap();
    let config =
        json!({ "key": "id", "indexes": ["g"], "maxSize": 12, "schema": { "id": { "type": "string" }, "g": { "type": "string" } } });
    store
        .define_bucket("t", BucketDefinition::from_value(&config).unwrap())
        .await
        .unwrap();
    for (name, config, _) in queries() {
        store
            .define_query(name, QueryDefinition::from_value(&config).unwrap())
            .await
            .unwrap();
    }
    // Reads by key, and by more than that where a key says so: its dependencies move.
    let closure = |context: &noex_server::store::QueryContext<'_>, _: &Value| -> Result<Value, StoreError> {
        let bucket = context.bucket("t")?;
        match bucket.get("k1") {
            Some(record) if record.to_value()["g"] == "a" => Ok(json!(bucket.count(&Filter::everything()))),
            Some(record) => Ok(record.to_value()),
            None => Ok(Value::Null),
        }
    };
    store.define_closure("closure", closure).await.unwrap();
    store
}

fn record() -> impl Strategy<Value = Value> {
    let id = (0..8_u8).prop_map(|n| format!("k{n}"));
    let group = prop::option::of(prop::sample::select(vec!["a", "ab", "b", "c"]));
    let number = prop_oneof![4 => (0..8_i64).prop_map(|n| json!(n)), 1 => Just(json!(0.1)), 1 => Just(json!("x")), 1 => Just(Value::Null)];
    (id, group, prop::option::of(number)).prop_map(|(id, group, number)| {
        let mut object = json!({ "id": id });
        if let Some(group) = group {
            object["g"] = json!(group);
        }
        if let Some(number) = number {
            object["n"] = number;
        }
        object
    })
}

fn operation() -> impl Strategy<Value = Operation> {
    let bucket = || "t".into();
    let encode = |value: &Value| noex_server::protocol::Record::from_object(&object(value));
    prop_oneof![
        8 => record().prop_map(move |value| Operation::Upsert { bucket: bucket(), record: encode(&value), expect_version: None }),
        2 => record().prop_map(move |value| Operation::Insert { bucket: bucket(), record: encode(&value) }),
        4 => record().prop_map(move |value| Operation::Delete { bucket: bucket(), key: (&value["id"]).into(), expect_version: None }),
        1 => Just(()).prop_map(move |()| Operation::Clear { bucket: bucket() }),
        1 => record().prop_map(move |value| Operation::DeleteMany { bucket: bucket(), filter: Filter::from_value(&json!({ "g": value["g"] })).unwrap() }),
    ]
}

/// Subscribes to everything before, then carries out the operations in groups; checks after each group.
async fn check(groups: Vec<Vec<Operation>>) -> Result<(), TestCaseError> {
    let store = open().await;
    let sink = Arc::new(Recorder::default());
    let mut watched = Vec::new();
    let closure = ("closure", Value::Null, Value::Null);
    for (name, _, params) in queries().into_iter().chain([closure]) {
        let id = SubscriptionId::next();
        let subscribed = store.subscribe(name, &params, id, Arc::<Recorder>::clone(&sink)).await.unwrap();
        sink.0.lock().unwrap().insert(id, vec![subscribed.result]);
        watched.push((name, params, id, subscribed.subscription));
    }
    for group in groups {
        let commits: Vec<_> = group.iter().map(|operation| store.submit(operation.clone()).unwrap()).collect();
        for commit in commits {
            let _ = commit.await;
        }
        // Answers come before views follow; the answer to one more operation comes after.
        store.purge_expired().await.unwrap();
        for (name, params, id, _) in &watched {
            let fresh = store.run_query(name, params).unwrap();
            let pushed: Vec<_> = sink.0.lock().unwrap()[id].iter().map(|result| value_of(result)).collect();
            prop_assert_eq!(pushed.last().unwrap(), &fresh, "query {} after {:?}", name, group);
            for pair in pushed.windows(2) {
                prop_assert_ne!(&pair[0], &pair[1], "query {} pushed an equal result after {:?}", name, group);
            }
        }
    }
    store.close().await.unwrap();
    for (name, _, id, _) in &watched {
        check_deltas(name, &sink.0.lock().unwrap()[id])?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]

    #[test]
    fn every_view_equals_a_fresh_evaluation_after_every_commit_group(groups in prop::collection::vec(prop::collection::vec(operation(), 1..5), 1..25)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check(groups))?;
    }
}

#[test]
fn a_view_that_is_built_while_the_bucket_changes_misses_nothing() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = Store::builder().in_memory().open().await.unwrap();
        let config = json!({ "key": "id", "schema": { "id": { "type": "number" } } });
        store
            .define_bucket("big", BucketDefinition::from_value(&config).unwrap())
            .await
            .unwrap();
        let records: Vec<_> = (0..20_000).map(|id| json!({ "id": id, "odd": id % 2 == 1 })).collect();
        store.bucket("big").insert_many(&records).await.unwrap();
        let query = json!({ "bucket": "big", "filter": { "odd": { "$neq": false } }, "aggregate": { "function": "count" } });
        store
            .define_query("odd", QueryDefinition::from_value(&query).unwrap())
            .await
            .unwrap();
        for round in 0..20 {
            let watching = store.watch("odd", Value::Null);
            let mut writes = Vec::new();
            for id in 0..50 {
                let key = 20_000 + round * 50 + id;
                let record = noex_server::protocol::Record::from_object(&object(&json!({ "id": key, "odd": true })));
                writes.push(
                    store
                        .submit(Operation::Insert {
                            bucket: "big".into(),
                            record,
                        })
                        .unwrap(),
                );
            }
            let mut live = watching.await.unwrap();
            for write in writes {
                write.await.unwrap();
            }
            store.purge_expired().await.unwrap();
            let fresh = store.run_query("odd", &Value::Null).unwrap();
            while live.value() != fresh {
                live.changed().await.unwrap();
            }
        }
    });
}
