//! The store and the server as an embedding program uses them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use noex_server::protocol::ErrorCode;
use noex_server::server::{Config, NoexServer};
use noex_server::store::query::{Filter, QueryDefinition};
use noex_server::store::state::OnDelete;
use noex_server::store::{
    BucketDefinition, EndReason, EventKind, Events, FieldSpec, Heard, MaintenanceStats, Store, StoreError, Transaction, WatchError,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::support::TestClient;

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Task {
    id: String,
    open: bool,
}

async fn store_with_tasks() -> Store {
    let store = Store::builder().in_memory().open().await.unwrap();
    let definition = BucketDefinition::builder("id")
        .field("id", FieldSpec::string())
        .field("open", FieldSpec::boolean())
        .build()
        .unwrap();
    store.define_bucket("tasks", definition).await.unwrap();
    let open = QueryDefinition::from_value(&json!({ "bucket": "tasks", "filter": { "open": true } })).unwrap();
    store.define_query("open", open).await.unwrap();
    store
}

fn task(id: &str) -> Task {
    Task {
        id: id.to_owned(),
        open: true,
    }
}

/// What is heard next: the topic, and the versions before and after.
async fn next(events: &mut Events) -> (String, Option<u64>, Option<u64>) {
    let Some(Heard::Event(event)) = events.next().await else {
        panic!("no event")
    };
    let versions = match &event.kind {
        EventKind::Inserted { record } => (None, Some(record.version())),
        EventKind::Updated { old, new } => (Some(old.version()), Some(new.version())),
        EventKind::Deleted { record } => (Some(record.version()), None),
    };
    (event.topic(), versions.0, versions.1)
}

#[tokio::test]
async fn records_go_in_and_come_out_as_rust_types() {
    let store = store_with_tasks().await;
    let tasks = store.bucket("tasks");
    tasks.insert_many(&[task("a"), task("b")]).await.unwrap();
    let stored: Task = tasks.get("a").unwrap().unwrap().parse().unwrap();
    assert_eq!(stored, task("a"));
    assert_eq!(tasks.update("b", &json!({ "open": false })).await.unwrap().version(), 2);
    let closed = Filter::from_value(&json!({ "open": false })).unwrap();
    assert_eq!(tasks.count(&closed).unwrap(), 1);
    assert_eq!(
        tasks.update_version("b", 1, &json!({})).await.unwrap_err().code(),
        ErrorCode::Conflict
    );
    assert!(tasks.delete("b").await.unwrap());
    assert!(!tasks.delete("b").await.unwrap());
    assert_eq!(tasks.insert(&"no object").await.unwrap_err().code(), ErrorCode::ValidationError);
    assert_eq!(store.bucket("nowhere").all().unwrap_err().code(), ErrorCode::BucketNotDefined);
}

#[tokio::test]
async fn events_tell_of_every_record_in_order_and_of_those_that_match_only() {
    let store = store_with_tasks().await;
    let (mut all, mut deleted) = (store.on("bucket.tasks.*"), store.on("bucket.*.deleted"));
    let tasks = store.bucket("tasks");
    tasks.insert_many(&[task("a"), task("b")]).await.unwrap();
    tasks.update("a", &json!({})).await.unwrap();
    tasks.insert(&task("a")).await.unwrap_err();
    tasks.clear().await.unwrap();
    for expected in [
        ("bucket.tasks.inserted", None, Some(1)),
        ("bucket.tasks.inserted", None, Some(1)),
        ("bucket.tasks.updated", Some(1), Some(2)),
        ("bucket.tasks.deleted", Some(2), None),
        ("bucket.tasks.deleted", Some(1), None),
    ] {
        let (topic, before, after) = next(&mut all).await;
        assert_eq!((topic.as_str(), before, after), expected);
    }
    assert_eq!(next(&mut deleted).await.0, "bucket.tasks.deleted");
}

#[tokio::test]
async fn a_listener_that_falls_behind_is_told_how_much_it_missed() {
    let store = store_with_tasks().await;
    let mut events = store.on("*");
    let tasks: Vec<_> = (0..5_000).map(|at| task(&at.to_string())).collect();
    store.bucket("tasks").insert_many(&tasks).await.unwrap();
    store.purge_expired().await.unwrap();
    let Some(Heard::Missed(missed)) = events.next().await else {
        panic!("nothing was missed")
    };
    let mut heard = 1;
    while heard + missed < 5_000 {
        next(&mut events).await;
        heard += 1;
    }
}

#[tokio::test]
async fn a_live_query_ends_with_its_reason_when_what_it_watches_goes() {
    let store = store_with_tasks().await;
    let mut live = store.watch("open", Value::Null).await.unwrap();
    store.undefine_query("open").await.unwrap();
    assert_eq!(live.changed().await, Err(WatchError::Ended(EndReason::QueryRemoved)));
    let count = |context: &noex_server::store::QueryContext<'_>, _: &Value| Ok(json!(context.bucket("tasks")?.all().len()));
    store.define_closure("how-many", count).await.unwrap();
    let mut live = store.watch("how-many", Value::Null).await.unwrap();
    store.bucket("tasks").insert(&task("a")).await.unwrap();
    live.changed().await.unwrap();
    assert_eq!(live.value(), Some(json!(1)));
    store.drop_bucket("tasks").await.unwrap();
    assert_eq!(live.changed().await, Err(WatchError::Ended(EndReason::BucketDropped)));
    assert_eq!(store.stats().queries.active_subscriptions, 0);
    assert_eq!(store.stats().views.live, 0);
}

#[tokio::test]
async fn a_closure_that_panics_fails_its_query_and_nothing_else() {
    let store = store_with_tasks().await;
    let panics = |context: &noex_server::store::QueryContext<'_>, _: &Value| -> Result<Value, StoreError> {
        assert!(context.bucket("tasks")?.get("bad").is_none(), "the test wants it");
        Ok(json!("well"))
    };
    store.define_closure("moody", panics).await.unwrap();
    let mut live = store.watch("moody", Value::Null).await.unwrap();
    store.bucket("tasks").insert(&task("bad")).await.unwrap();
    assert!(matches!(live.changed().await, Err(WatchError::Failed(StoreError::QueryFailed(_)))));
    store.bucket("tasks").delete("bad").await.unwrap();
    store.bucket("tasks").insert(&task("good")).await.unwrap();
    assert_eq!(store.run_query("moody", &Value::Null).unwrap(), Some(json!("well")));
}

#[tokio::test]
async fn records_end_by_the_clock_that_the_program_gives() {
    let clock = Arc::new(AtomicU64::new(1_000));
    let reading = Arc::clone(&clock);
    let store = Store::builder().clock(move || reading.load(Ordering::SeqCst)).open().await.unwrap();
    let definition = BucketDefinition::builder("id")
        .field("id", FieldSpec::string())
        .ttl(Duration::from_secs(1))
        .build()
        .unwrap();
    store.define_bucket("sessions", definition).await.unwrap();
    let count = QueryDefinition::from_value(&json!({ "bucket": "sessions", "aggregate": { "function": "count" } })).unwrap();
    store.define_query("sessions", count).await.unwrap();
    let sessions = store.bucket("sessions");
    sessions.insert(&json!({ "id": "a" })).await.unwrap();
    let mut live = store.watch("sessions", Value::Null).await.unwrap();
    clock.store(1_999, Ordering::SeqCst);
    assert!(sessions.get("a").unwrap().is_some());
    clock.store(2_000, Ordering::SeqCst);
    assert!(sessions.get("a").unwrap().is_none(), "its time is up, purged or not");
    store.purge_expired().await.unwrap();
    live.changed().await.unwrap();
    assert_eq!(live.value(), Some(json!(0)));
}

/// Tickets that live for 10 ms by the clock that comes along, and seats that refer to them.
async fn store_with_seats() -> (Store, Arc<AtomicU64>) {
    let clock = Arc::new(AtomicU64::new(0));
    let reading = Arc::clone(&clock);
    let store = Store::builder().clock(move || reading.load(Ordering::SeqCst)).open().await.unwrap();
    let tickets = BucketDefinition::builder("id")
        .field("id", FieldSpec::string())
        .ttl(Duration::from_millis(10))
        .build()
        .unwrap();
    store.define_bucket("tickets", tickets).await.unwrap();
    let seats = BucketDefinition::builder("id")
        .field("id", FieldSpec::string())
        .field("ticket", FieldSpec::string().references("tickets", OnDelete::Restrict))
        .build()
        .unwrap();
    store.define_bucket("seats", seats).await.unwrap();
    (store, clock)
}

#[tokio::test]
async fn an_expired_record_that_is_still_referred_to_is_unseen_and_goes_with_the_reference() {
    let (store, clock) = store_with_seats().await;
    store.bucket("tickets").insert(&json!({ "id": "t" })).await.unwrap();
    store.bucket("seats").insert(&json!({ "id": "1", "ticket": "t" })).await.unwrap();
    clock.store(10, Ordering::SeqCst);
    store.purge_expired().await.unwrap();
    assert_eq!(store.bucket("tickets").all().unwrap(), []);
    assert_eq!(store.stats().records.per_bucket["tickets"], 1, "it is held in place");
    let second = store.bucket("seats").insert(&json!({ "id": "2", "ticket": "t" })).await;
    assert_eq!(second.unwrap_err().code(), ErrorCode::Conflict, "nobody new can refer to it");
    store.bucket("seats").delete("1").await.unwrap();
    store.purge_expired().await.unwrap();
    assert_eq!(store.stats().records.per_bucket["tickets"], 0);
}

#[tokio::test]
async fn a_server_and_the_program_around_it_share_one_store() {
    let store = store_with_tasks().await;
    let server = NoexServer::start_with(
        Config {
            port: 0,
            ..Config::default()
        },
        store.clone(),
    )
    .await
    .unwrap();
    let mut client = TestClient::connect(server.local_addr().port()).await;
    let subscribed = client.result("store.subscribe", json!({ "query": "open" })).await;
    assert_eq!(subscribed["data"], json!([]));
    store
        .transact(Transaction::new().insert("tasks", &task("a")).unwrap())
        .await
        .unwrap();
    assert_eq!(client.expect_push().await["data"][0]["id"], "a");
    client
        .result("store.update", json!({ "bucket": "tasks", "key": "a", "data": { "open": false } }))
        .await;
    assert!(!store.bucket("tasks").get("a").unwrap().unwrap().parse::<Task>().unwrap().open);
    server.stop_now().await;
    store.bucket("tasks").delete("a").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_that_is_replaced_while_its_view_is_built_never_shows_the_old_one() {
    let store = store_with_tasks().await;
    let tasks: Vec<_> = (0..20_000).map(|at| task(&at.to_string())).collect();
    store.bucket("tasks").insert_many(&tasks).await.unwrap();
    for _ in 0..10 {
        let early = tokio::spawn({
            let store = store.clone();
            async move { store.watch("open", Value::Null).await.map(|live| live.value()) }
        });
        store.undefine_query("open").await.unwrap();
        let count = json!({ "bucket": "tasks", "aggregate": { "function": "count" } });
        store
            .define_query("open", QueryDefinition::from_value(&count).unwrap())
            .await
            .unwrap();
        assert_eq!(store.watch("open", Value::Null).await.unwrap().value(), Some(json!(20_000)));
        // Whoever asked earlier got the old result, the new one, or was told that the query is gone.
        if let Err(error) = early.await.unwrap() {
            assert_eq!(error.code(), ErrorCode::QueryNotDefined);
        }
        store.undefine_query("open").await.unwrap();
        let open = json!({ "bucket": "tasks", "filter": { "open": true } });
        store
            .define_query("open", QueryDefinition::from_value(&open).unwrap())
            .await
            .unwrap();
    }
    store.purge_expired().await.unwrap();
    assert_eq!(store.stats().views.live, 0, "a view is left that nobody watches");
}

#[tokio::test]
async fn a_live_query_drops_a_record_at_its_time_also_where_a_reference_holds_it() {
    let (store, clock) = store_with_seats().await;
    let count = json!({ "bucket": "tickets", "aggregate": { "function": "count" } });
    store
        .define_query("tickets", QueryDefinition::from_value(&count).unwrap())
        .await
        .unwrap();
    store.bucket("tickets").insert(&json!({ "id": "held" })).await.unwrap();
    store
        .bucket("tickets")
        .insert(&json!({ "id": "lasting", "_expiresAt": null }))
        .await
        .unwrap();
    store.bucket("seats").insert(&json!({ "id": "1", "ticket": "held" })).await.unwrap();
    let mut live = store.watch("tickets", Value::Null).await.unwrap();
    assert_eq!(live.value(), Some(json!(2)));
    clock.store(10, Ordering::SeqCst);
    // Any commit after its time shows that it is gone.
    store.bucket("seats").insert(&json!({ "id": "2" })).await.unwrap();
    live.changed().await.unwrap();
    assert_eq!(live.value(), Some(json!(1)));
    let late = store.watch("tickets", Value::Null).await.unwrap();
    store.bucket("seats").delete("1").await.unwrap();
    clock.store(5_000, Ordering::SeqCst);
    store.purge_expired().await.unwrap();
    store.purge_expired().await.unwrap();
    assert_eq!(store.stats().records.per_bucket["tickets"], 1);
    assert_eq!(live.value(), store.run_query("tickets", &Value::Null).unwrap());
    assert_eq!(late.value(), live.value());
}

#[tokio::test]
async fn a_closure_that_recovers_to_an_older_result_says_so() {
    let store = store_with_tasks().await;
    let moody = |context: &noex_server::store::QueryContext<'_>, _: &Value| -> Result<Value, StoreError> {
        match context.bucket("tasks")?.get("bad") {
            Some(_) => Err(StoreError::QueryFailed("a bad record".to_owned())),
            None => Ok(json!("well")),
        }
    };
    store.define_closure("moody", moody).await.unwrap();
    let mut live = store.watch("moody", Value::Null).await.unwrap();
    store.bucket("tasks").insert(&task("bad")).await.unwrap();
    assert!(matches!(live.changed().await, Err(WatchError::Failed(_))));
    store.bucket("tasks").delete("bad").await.unwrap();
    live.changed().await.unwrap();
    assert_eq!(live.value(), Some(json!("well")));
}

#[tokio::test]
async fn making_room_never_takes_what_the_same_command_stored() {
    let store = Store::builder().in_memory().open().await.unwrap();
    let tree = BucketDefinition::builder("id")
        .field("id", FieldSpec::number())
        .field("parent", FieldSpec::number().references("tree", OnDelete::Cascade))
        .max_size(2)
        .build()
        .unwrap();
    store.define_bucket("tree", tree).await.unwrap();
    let tree = store.bucket("tree");
    tree.insert(&json!({ "id": 1 })).await.unwrap();
    tree.insert(&json!({ "id": 2 })).await.unwrap();
    tree.insert(&json!({ "id": 3, "parent": 1 })).await.unwrap();
    let left: Vec<_> = tree.all().unwrap().iter().map(|record| record.to_value()["id"].clone()).collect();
    assert_eq!(left, [json!(1), json!(3)]);
}

#[tokio::test]
async fn dropping_the_last_handle_carries_out_and_keeps_what_was_submitted() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::builder().on_disk(folder.path()).open().await.unwrap();
    let definition = BucketDefinition::builder("id").field("id", FieldSpec::number()).build().unwrap();
    store.define_bucket("t", definition).await.unwrap();
    let record = |id: u64| noex_server::protocol::Record::from_object(json!({ "id": id }).as_object().unwrap());
    let insert = |id| noex_server::store::Operation::Insert {
        bucket: "t".into(),
        record: record(id),
    };
    let commits: Vec<_> = (0..10).map(|id| store.submit(insert(id)).unwrap()).collect();
    drop(store);
    for commit in commits {
        commit.await.unwrap();
    }
    // The directory is free once the old store has let go of it.
    let reopened = loop {
        match Store::builder().on_disk(folder.path()).open().await {
            Ok(store) => break store,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    assert_eq!(reopened.bucket("t").count(&Filter::everything()).unwrap(), 10);
}

#[tokio::test]
async fn what_one_command_may_cost_is_limited() {
    let limits = noex_server::store::StoreLimits {
        command: noex_server::store::CommandLimits {
            rows_read: 1_000,
            bytes: 10_000,
            record_bytes: 2_000,
            ..Default::default()
        },
        ..Default::default()
    };
    let store = Store::builder().limits(limits).open().await.unwrap();
    let definition = BucketDefinition::builder("id")
        .field("id", FieldSpec::number())
        .field("text", FieldSpec::string())
        .build()
        .unwrap();
    store.define_bucket("t", definition).await.unwrap();
    let bucket = store.bucket("t");
    let refused = |outcome: Result<_, StoreError>| outcome.map(|_: usize| ()).unwrap_err().code();
    let long = json!({ "id": 0, "text": "x".repeat(2_000) });
    assert_eq!(refused(bucket.insert(&long).await.map(|_| 0)), ErrorCode::ValidationError);
    let records: Vec<_> = (0..20).map(|id| json!({ "id": id, "text": "x".repeat(300) })).collect();
    bucket.insert_many(&records).await.unwrap();
    let grow = json!({ "text": "x".repeat(1_500) });
    assert_eq!(
        refused(bucket.update_many(Filter::everything(), &grow).await),
        ErrorCode::ValidationError
    );
    let text = Filter::from_value(&json!({ "text": "y" })).unwrap();
    let searching = |steps| (0..steps).fold(Transaction::new(), |transaction, _| transaction.count("t", text.clone()));
    store.transact(searching(50)).await.unwrap();
    assert_eq!(refused(store.transact(searching(51)).await.map(|_| 0)), ErrorCode::ValidationError);
    let reading = (0..2).fold(Transaction::new(), |transaction, _| transaction.select("t", Filter::everything()));
    assert_eq!(refused(store.transact(reading).await.map(|_| 0)), ErrorCode::Backpressure);
    assert_eq!(bucket.count(&text).unwrap(), 0, "nothing of what was refused is there");
}

async fn served(store: &Store, name: &str) -> NoexServer {
    let config = Config {
        port: 0,
        name: name.to_owned(),
        ..Config::default()
    };
    NoexServer::start_with(config, store.clone()).await.unwrap()
}

#[tokio::test]
async fn a_server_tells_its_program_who_is_connected_and_how_it_is_doing() {
    let store = store_with_tasks().await;
    let server = served(&store, "desk").await;
    assert!(server.is_running());
    assert!(server.connections().is_empty());
    let (mut first, mut second) = (
        TestClient::connect(server.local_addr().port()).await,
        TestClient::connect(server.local_addr().port()).await,
    );
    first.result("store.subscribe", json!({ "query": "open" })).await;
    first.result("store.subscribe", json!({ "query": "open" })).await;
    assert_eq!(
        first.call("store.get", json!({ "bucket": "nowhere", "key": "a" })).await["code"],
        "BUCKET_NOT_DEFINED"
    );
    second.result("store.insert", json!({ "bucket": "tasks", "data": task("a") })).await;
    first.expect_push().await;
    first.expect_push().await;
    // A round of work is seen once it is over: one more request, and everything before it is.
    first.result("store.buckets", json!({})).await;
    second.result("store.buckets", json!({})).await;

    let listed = server.connections();
    assert_eq!(listed.iter().map(|it| it.store_subscription_count).collect::<Vec<_>>(), [2, 0]);
    assert!(listed[0].connection_id < listed[1].connection_id);
    assert!(
        listed
            .iter()
            .all(|it| it.remote_address.is_loopback() && it.bytes_in > 0 && it.bytes_out > 0)
    );
    let stats = server.stats();
    assert_eq!((stats.port, stats.host.as_str()), (server.local_addr().port(), "127.0.0.1"));
    assert!(u128::from(stats.uptime_ms) <= server.uptime().as_millis());
    let service = &stats.service;
    assert_eq!(
        (
            service.name.as_str(),
            service.connection_count,
            service.connections.total_store_subscriptions
        ),
        ("desk", 2, 2)
    );
    assert_eq!(
        (service.pushes.sent, service.store.views.live, service.store.views.offered),
        (2, 1, 2)
    );
    assert_eq!(service.errors.iter().collect::<Vec<_>>(), [(&"BUCKET_NOT_DEFINED", &1)]);
    assert_eq!((service.latency.write.count, service.traffic.errors), (1, 1));
    assert!(service.latency.read.count >= 4 && service.latency.read.max_us >= service.latency.read.p50_us);

    server.stop_now().await;
    assert!(!server.is_running());
    assert!(server.connections().is_empty());
    let closed = server.stats().service;
    assert_eq!(closed.closes.iter().collect::<Vec<_>>(), [(&1001, &2)]);
    assert_eq!((closed.connections.active, closed.connections.total_store_subscriptions), (0, 0));
    assert_eq!((closed.queues.requests_in_flight, closed.queues.unsent_bytes), (0, 0));
}

#[tokio::test]
async fn live_views_are_counted_by_how_they_follow_changes() {
    let store = store_with_tasks().await;
    let count = json!({ "bucket": "tasks", "aggregate": { "function": "count" } });
    let groups = json!({ "bucket": "tasks", "aggregate": { "function": "count", "groupBy": "open" } });
    for (name, config) in [("count", &count), ("groups", &groups)] {
        store
            .define_query(name, QueryDefinition::from_value(config).unwrap())
            .await
            .unwrap();
    }
    store
        .define_closure("first", |context, _| Ok(json!(context.bucket("tasks")?.all().len())))
        .await
        .unwrap();
    let mut live = Vec::new();
    for name in ["open", "open", "count", "groups", "first"] {
        live.push(store.watch(name, Value::Null).await.unwrap());
    }
    let each = MaintenanceStats {
        by_row: 1,
        by_value: 1,
        by_group: 1,
        anew: 1,
    };
    let counted = || (store.stats().views.live, store.stats().views.maintenance);
    assert_eq!(counted(), (4, each));
    // Followed and evaluated anew, they stay what they are.
    store.bucket("tasks").insert(&task("a")).await.unwrap();
    store.bucket("tasks").clear().await.unwrap();
    store.purge_expired().await.unwrap();
    assert_eq!(counted(), (4, each));
    store.undefine_query("count").await.unwrap();
    live.clear();
    // What ends a watch is handled before what comes after it.
    let _last = store.watch("groups", Value::Null).await.unwrap();
    assert_eq!(
        counted(),
        (
            1,
            MaintenanceStats {
                by_group: 1,
                ..MaintenanceStats::default()
            }
        )
    );
}
