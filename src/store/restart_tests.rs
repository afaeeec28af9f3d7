//! What was taken is there after the next start, whatever the next start is allowed.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::command::CommandLimits;
use super::durability::{Batch, Catalog, Durability, Embedded, RecordChange, StoredBucket, StoredQuery, SyncLevel};
use super::history::HistoryLimits;
use super::query::{Filter, QueryDefinition};
use super::state::{BucketId, RequestLimits, RowId};
use super::{BucketDefinition, OpenError, Operation, RequestKey, Store, StoreError, StoreLimits};
use crate::protocol::Record;

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

async fn open(dir: &Path, limits: StoreLimits) -> Store {
    let store = Store::builder().on_disk(dir).limits(limits).clock(|| 1_000).open().await;
    store.unwrap_or_else(|error| panic!("{error}"))
}

fn definition(config: Value) -> BucketDefinition {
    BucketDefinition::from_value(&config).unwrap()
}

/// A directory with one bucket, which holds one record, and one query.
fn stored(bucket: Value, query: Value) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (mut embedded, _) = Embedded::open(dir.path(), SyncLevel::EveryGroup).unwrap();
    let catalog = Catalog {
        next_bucket: 1,
        buckets: vec![StoredBucket {
            id: 0,
            name: "b".to_owned(),
            config: Arc::new(object(bucket)),
            incarnation: 1,
        }],
        queries: vec![StoredQuery {
            name: "q".to_owned(),
            config: Arc::new(object(query)),
            incarnation: 1,
        }],
    };
    let records = vec![RecordChange {
        bucket: BucketId(0),
        row: RowId(0),
        record: Some(Record::from_object(&object(json!({ "id": "kept", "f0": "0" })))),
    }];
    let batch = Batch {
        seq: 1,
        now: 1,
        catalog: Some(catalog),
        records,
        ..Batch::default()
    };
    embedded.append(&batch).unwrap();
    Box::new(embedded).close().unwrap();
    dir
}

#[tokio::test]
async fn a_store_whose_definitions_went_over_their_limits_comes_up_again() {
    let mut schema: Map<String, Value> = (0..101)
        .map(|at| (format!("f{at}"), json!({ "type": "string", "pattern": format!("^{at}$") })))
        .collect();
    schema.insert("id".to_owned(), json!({ "type": "string" }));
    let mut indexes: Vec<Value> = (0..40).map(|at| json!(format!("f{at}"))).collect();
    indexes.extend((0..40).map(|at| json!({ "fields": [format!("f{at}")], "unique": true })));
    let dir = stored(
        json!({ "key": "id", "schema": schema, "indexes": indexes }),
        json!({ "bucket": "b" }),
    );
    let store = open(dir.path(), StoreLimits::default()).await;
    assert_eq!(store.bucket("b").count(&Filter::everything()).unwrap(), 1);
    let refused = store.bucket("b").insert(&json!({ "id": "x", "f100": "1" })).await.unwrap_err();
    assert!(refused.to_string().contains("f100"), "every pattern is in force: {refused}");
    let refused = store.bucket("b").insert(&json!({ "id": "x", "f0": "0" })).await.unwrap_err();
    assert!(matches!(refused, StoreError::UniqueViolation { .. }), "{refused}");
    store.update_bucket("b", object(json!({ "ttl": 60_000 }))).await.unwrap();
    store.close().await.unwrap();
    let store = open(dir.path(), StoreLimits::default()).await;
    assert_eq!(store.snapshot().bucket("b").unwrap().definition().ttl_ms(), Some(60_000.0));
}

#[tokio::test]
async fn a_stored_definition_that_makes_no_sense_is_named() {
    let good = json!({ "key": "id", "schema": { "id": { "type": "string" } } });
    for (bucket, query, what) in [
        (
            json!({ "key": "id", "schema": { "id": { "type": "text" } } }),
            json!({ "bucket": "b" }),
            "bucket \"b\"",
        ),
        (good, json!({ "bucket": 5 }), "query \"q\""),
    ] {
        let dir = stored(bucket, query);
        let Err(OpenError::Definition { what: named, .. }) = Store::builder().on_disk(dir.path()).open().await else {
            panic!("{what} is taken")
        };
        assert_eq!(named, what);
    }
}

/// Limits that leave room for nothing.
fn nothing_goes() -> StoreLimits {
    StoreLimits {
        max_pending_commands: 1,
        max_buckets: 1,
        max_queries: 1,
        command: CommandLimits {
            rows_read: 1,
            bytes: 1,
            record_bytes: 1,
            requests: RequestLimits {
                window: Duration::from_secs(600),
                keys: 1,
                bytes: 1,
            },
        },
        history: HistoryLimits {
            max_changes: 0,
            max_bytes: 0,
            max_total_bytes: 0,
        },
        ttl_check_interval: Duration::from_millis(1),
    }
}

#[tokio::test]
async fn limits_that_were_lowered_below_what_is_stored_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), StoreLimits::default()).await;
    for name in ["a", "b", "gone"] {
        let schema = json!({ "id": { "type": "string" }, "to": { "type": "string", "ref": "gone", "onDelete": "set_null" } });
        store
            .define_bucket(name, definition(json!({ "key": "id", "schema": schema, "ttl": "1h" })))
            .await
            .unwrap();
        let query = json!({ "bucket": name, "filter": { "to": "{{ params.to }}" } });
        store
            .define_query(name, QueryDefinition::from_value(&query).unwrap())
            .await
            .unwrap();
    }
    let insert = |at: u32| Operation::Insert {
        bucket: "a".into(),
        record: Record::from_object(&object(json!({ "id": format!("r{at}"), "text": "x".repeat(1_000) }))),
    };
    let key = |at: u32| RequestKey::new(format!("k{at}"), 0).unwrap();
    let mut answers = Vec::new();
    for at in 0..3 {
        answers.push(store.submit_once(insert(at), key(at)).unwrap().await);
    }
    store.drop_bucket("gone").await.unwrap();
    store
        .update_bucket(
            "a",
            object(json!({ "addFields": { "late": { "type": "string", "default": "x" } } })),
        )
        .await
        .unwrap();
    store.close().await.unwrap();

    let check = async |store: &Store| {
        let snapshot = store.snapshot();
        assert_eq!(snapshot.bucket_names().map(|name| name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(
            snapshot.queries().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            ["a", "b", "gone"]
        );
        assert_eq!(store.bucket("a").count(&Filter::everything()).unwrap(), 3);
        assert_eq!(store.stats().request_keys.count, 3);
        for (at, answer) in (0..).zip(&answers) {
            assert_eq!(store.submit_once(insert(at), key(at)).unwrap().await, *answer);
        }
    };
    let lowered = open(dir.path(), nothing_goes()).await;
    check(&lowered).await;
    let other = definition(json!({ "key": "id", "schema": { "id": { "type": "string" } } }));
    assert!(matches!(lowered.define_bucket("c", other).await, Err(StoreError::LimitExceeded(_))));
    assert!(lowered.submit_once(insert(9), key(9)).unwrap().await.is_err());
    assert!(lowered.bucket("a").insert(&json!({ "id": "new" })).await.is_err());
    lowered.close().await.unwrap();
    let again = open(dir.path(), StoreLimits::default()).await;
    check(&again).await;
}
