//! Those who were away: views and change feeds go on behind a cursor, across restarts, and what they are told adds up
//! to what there is.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use noex_server::protocol::{Cursor, CursorScope, SubscriptionId};
use noex_server::store::query::{Filter, QueryDefinition, Reader};
use noex_server::store::{
    BucketDefinition, EndReason, Followed, HistoryLimits, Sink, Store, StoreBuilder, StoreError, StoreLimits, SubscribeOptions, Subscribed,
    Subscription, Update,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::{Recorder, told};

fn plain() -> BucketDefinition {
    BucketDefinition::from_value(&json!({ "key": "id", "schema": { "id": { "type": "string" } } })).unwrap()
}

fn mortal() -> BucketDefinition {
    BucketDefinition::from_value(&json!({ "key": "id", "schema": { "id": { "type": "string" } }, "ttl": 1000, "maxSize": 5 })).unwrap()
}

async fn define(store: &Store) {
    store.define_bucket("t", plain()).await.unwrap();
    for (name, config) in queries() {
        store
            .define_query(name, QueryDefinition::from_value(&config).unwrap())
            .await
            .unwrap();
    }
}

fn queries() -> Vec<(&'static str, Value)> {
    vec![
        ("all", json!({ "bucket": "t" })),
        ("low", json!({ "bucket": "t", "filter": { "n": { "$lt": 5 } } })),
        (
            "top",
            json!({ "bucket": "t", "sort": { "n": "desc" }, "limit": 3, "fields": ["id", "n"] }),
        ),
        ("count", json!({ "bucket": "t", "aggregate": { "function": "count" } })),
        (
            "groups",
            json!({ "bucket": "t", "aggregate": { "function": "count", "groupBy": "n" } }),
        ),
    ]
}

async fn in_memory() -> Store {
    let store = Store::builder().in_memory().open().await.unwrap();
    define(&store).await;
    store
}

async fn watch(store: &Store, query: &str, resume: Option<Cursor>, sink: &Arc<Recorder>) -> Subscribed {
    let options = SubscribeOptions {
        resume,
        ..SubscribeOptions::default()
    };
    let id = SubscriptionId::next();
    store
        .subscribe_with(query, &Value::Null, id, Arc::clone(sink) as Arc<dyn Sink>, options)
        .await
        .unwrap()
}

async fn follow(store: &Store, bucket: &str, filter: &Value, since: Option<Cursor>, sink: &Arc<Recorder>) -> Result<Followed, StoreError> {
    store
        .follow(bucket, filter, since, SubscriptionId::next(), Arc::clone(sink) as Arc<dyn Sink>)
        .await
}

fn value_of(subscribed: &Subscribed) -> Option<Value> {
    subscribed.result.data().map(|json| serde_json::from_slice(&json).unwrap())
}

fn delta_of(subscribed: &Subscribed) -> Option<Value> {
    subscribed.resumed.as_ref().map(|json| serde_json::from_slice(json).unwrap())
}

/// Applies a delta as the contract says.
fn apply(value: &mut Option<Value>, delta: &Value) {
    let Some(upserted) = delta["upserted"].as_array() else {
        *value = delta.get("value").cloned();
        return;
    };
    let items = value.as_mut().unwrap().as_array_mut().unwrap();
    let replaced: Vec<_> = upserted.iter().map(|entry| entry[1]["id"].clone()).collect();
    let removed = delta["removed"].as_array().unwrap();
    items.retain(|item| !removed.contains(&item["id"]) && !replaced.contains(&item["id"]));
    for entry in upserted {
        items.insert(usize::try_from(entry[0].as_u64().unwrap()).unwrap(), entry[1].clone());
    }
}

fn in_bucket(store: &Store, bucket: &str, filter: &Value) -> BTreeMap<String, Value> {
    let snapshot = store.snapshot();
    let Ok(content) = snapshot.bucket(bucket) else {
        return BTreeMap::new();
    };
    let found = Reader::new(content, snapshot.now())
        .select(&Filter::from_value(filter).unwrap())
        .into_iter()
        .map(|record| {
            let record = record.to_value();
            (record["id"].as_str().unwrap().to_owned(), record)
        });
    found.collect()
}

fn replay(records: &mut BTreeMap<String, Value>, changes: &Value) {
    for change in changes.as_array().unwrap() {
        let key = change["key"].as_str().unwrap().to_owned();
        let known = records.contains_key(&key);
        match change["op"].as_str().unwrap() {
            "deleted" => {
                assert!(known && change.get("record").is_none(), "{change}");
                records.remove(&key);
            }
            op => {
                assert_eq!(op, if known { "updated" } else { "inserted" }, "{change}");
                records.insert(key, change["record"].clone());
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// Several upserts that are submitted together: bucket, key, number.
    Put(Vec<(bool, u8, u8)>),
    Delete(bool, u8),
    Transaction(Vec<(bool, u8, u8)>),
    Clear(bool),
    Pass(u64),
    Ttl(bool),
    Leave(usize),
    Return(usize),
    Restart,
}

const CLIENTS: usize = 10;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let place = || (any::<bool>(), 0..8u8, 0..10u8);
    let step = prop_oneof![
        8 => prop::collection::vec(place(), 1..5).prop_map(Step::Put),
        2 => (any::<bool>(), 0..8u8).prop_map(|(bucket, key)| Step::Delete(bucket, key)),
        2 => prop::collection::vec(place(), 1..5).prop_map(Step::Transaction),
        1 => any::<bool>().prop_map(Step::Clear),
        2 => (100..1500u64).prop_map(Step::Pass),
        1 => any::<bool>().prop_map(Step::Ttl),
        4 => (0..CLIENTS).prop_map(Step::Leave),
        4 => (0..CLIENTS).prop_map(Step::Return),
        1 => Just(Step::Restart),
    ];
    prop::collection::vec(step, 1..40)
}

fn bucket_name(mortal: bool) -> &'static str {
    if mortal { "m" } else { "t" }
}

/// Somebody who watches a query or follows a bucket, and what it makes of what it is told.
struct Client {
    query: Option<&'static str>,
    bucket: &'static str,
    filter: Value,
    sink: Arc<Recorder>,
    scope: Option<CursorScope>,
    cursor: Option<Cursor>,
    value: Option<Value>,
    records: BTreeMap<String, Value>,
    subscription: Option<Subscription>,
}

impl Client {
    fn new(query: Option<&'static str>, bucket: &'static str, filter: Value) -> Self {
        Self {
            query,
            bucket,
            filter,
            sink: Arc::default(),
            scope: None,
            cursor: None,
            value: None,
            records: BTreeMap::new(),
            subscription: None,
        }
    }

    async fn come(&mut self, store: &Store) {
        if self.subscription.is_some() {
            return;
        }
        self.sink.take();
        match self.query {
            Some(query) => {
                let subscribed = watch(store, query, self.cursor, &self.sink).await;
                match delta_of(&subscribed) {
                    Some(delta) => apply(&mut self.value, &delta),
                    None => self.value = value_of(&subscribed),
                }
                assert_eq!(self.value, value_of(&subscribed), "{query} behind {:?}", self.cursor);
                self.scope = Some(subscribed.scope);
                self.cursor = Some(subscribed.scope.at(subscribed.seq));
                self.subscription = Some(subscribed.subscription);
            }
            None => self.come_to_feed(store).await,
        }
    }

    async fn come_to_feed(&mut self, store: &Store) {
        let followed = match follow(store, self.bucket, &self.filter, self.cursor, &self.sink).await {
            Ok(followed) => followed,
            Err(StoreError::CursorTooOld { .. }) => {
                self.cursor = None;
                follow(store, self.bucket, &self.filter, None, &self.sink).await.unwrap()
            }
            Err(error) => panic!("{error}"),
        };
        if self.cursor.is_none() {
            self.records = in_bucket(store, self.bucket, &self.filter);
        }
        self.scope = Some(followed.scope);
        self.cursor.get_or_insert(followed.scope.at(followed.seq));
        for set in &followed.backlog {
            self.take_changes(told(set));
        }
        self.cursor = Some(followed.scope.at(followed.seq));
        self.subscription = Some(followed.subscription);
    }

    fn take_changes(&mut self, (seq, changes): (u64, Value)) {
        assert!(self.cursor.is_some_and(|cursor| cursor.seq < seq), "nothing comes twice");
        replay(&mut self.records, &changes);
        self.cursor = self.scope.map(|scope| scope.at(seq));
    }

    /// False where there is a gap: then it has to come again.
    fn listen(&mut self) -> bool {
        for update in self.sink.take() {
            match update {
                Update::Result(result) => {
                    self.value = result.data().map(|json| serde_json::from_slice(&json).unwrap());
                    self.cursor = self.scope.map(|scope| scope.at(result.seq()));
                }
                Update::Changes(set) => self.take_changes(told(&set)),
                Update::Missed { changes, .. } => {
                    assert!(changes > 6, "so many can be told one by one");
                    self.subscription = None;
                    return false;
                }
                Update::Ended(_) | Update::Failed(_) => panic!("unexpected {update:?}"),
            }
        }
        true
    }

    fn check(&self, store: &Store) {
        if self.subscription.is_none() {
            return;
        }
        match self.query {
            Some(query) => {
                let snapshot = store.snapshot();
                let now = snapshot.run_query(query, &Value::Null, snapshot.now()).unwrap();
                let now: Option<Value> = now.map(|json| serde_json::from_slice(&json).unwrap());
                assert_eq!(self.value, now, "{query}");
            }
            None => assert_eq!(
                self.records,
                in_bucket(store, self.bucket, &self.filter),
                "{} {}",
                self.bucket,
                self.filter
            ),
        }
    }
}

fn builder(dir: Option<&Path>, clock: &Arc<AtomicU64>, limits: HistoryLimits) -> StoreBuilder {
    let clock = Arc::clone(clock);
    let limits = StoreLimits {
        history: limits,
        ..StoreLimits::default()
    };
    let builder = Store::builder().limits(limits).clock(move || clock.load(Ordering::SeqCst));
    match dir {
        Some(dir) => builder.on_disk(dir),
        None => builder.in_memory(),
    }
}

async fn carry_out(store: &Store, clock: &AtomicU64, step: &Step) {
    use noex_server::store::{Action, Operation};
    let record = |key: u8, number: u8| {
        let value = json!({ "id": format!("k{key}"), "n": number });
        noex_server::protocol::Record::from_object(value.as_object().unwrap())
    };
    let upsert = |(mortal, key, number): &(bool, u8, u8)| Operation::Upsert {
        bucket: bucket_name(*mortal).into(),
        record: record(*key, *number),
        expect_version: None,
    };
    match step {
        Step::Put(puts) => {
            // Submitted together, they are one commit group.
            let commits: Vec<_> = puts.iter().map(|put| store.submit(upsert(put)).unwrap()).collect();
            for commit in commits {
                commit.await.unwrap();
            }
        }
        Step::Delete(mortal, key) => drop(store.bucket(bucket_name(*mortal)).delete(format!("k{key}")).await.unwrap()),
        Step::Transaction(puts) => {
            let steps = puts.iter().map(|(mortal, key, number)| noex_server::store::Step {
                bucket: bucket_name(*mortal).into(),
                action: Action::Insert {
                    record: record(*key, *number),
                },
                guard: None,
            });
            // Refused as a whole where a key is taken.
            let _ = store.submit(Operation::Transaction { steps: steps.collect() }).unwrap().await;
        }
        Step::Clear(mortal) => store.bucket(bucket_name(*mortal)).clear().await.unwrap(),
        Step::Pass(ms) => {
            clock.fetch_add(*ms, Ordering::SeqCst);
            store.purge_expired().await.unwrap();
        }
        Step::Ttl(mortal) => {
            let ttl = if *mortal { json!({ "ttl": 700 }) } else { json!({ "ttl": null }) };
            store.update_bucket("m", ttl.as_object().unwrap().clone()).await.unwrap();
        }
        Step::Leave(_) | Step::Return(_) | Step::Restart => {}
    }
}

async fn run(steps: Vec<Step>, on_disk: bool, limits: HistoryLimits) {
    let dir = tempfile::tempdir().unwrap();
    let place = on_disk.then(|| dir.path());
    let clock = Arc::new(AtomicU64::new(1_000_000));
    let mut store = builder(place, &clock, limits).open().await.unwrap();
    define(&store).await;
    store.define_bucket("m", mortal()).await.unwrap();
    let mut clients = vec![
        Client::new(None, "t", json!({})),
        Client::new(None, "t", json!({})),
        Client::new(None, "t", json!({})),
        Client::new(None, "t", json!({ "n": { "$gte": 4 } })),
        Client::new(None, "m", json!({})),
    ];
    clients.extend(queries().iter().map(|(query, _)| Client::new(Some(query), "t", json!({}))));
    assert_eq!(clients.len(), CLIENTS);
    for client in &mut clients {
        client.come(&store).await;
    }
    for step in steps {
        match &step {
            Step::Leave(at) => {
                clients[*at].listen();
                clients[*at].subscription = None;
            }
            Step::Return(at) => clients[*at].come(&store).await,
            Step::Restart if on_disk => {
                for client in &mut clients {
                    client.listen();
                    client.subscription = None;
                }
                store.close().await.unwrap();
                drop(store);
                store = builder(place, &clock, limits).open().await.unwrap();
            }
            Step::Put(_) | Step::Delete(..) | Step::Transaction(_) | Step::Clear(_) | Step::Pass(_) | Step::Ttl(_) | Step::Restart => {
                carry_out(&store, &clock, &step).await;
            }
        }
        for client in &mut clients {
            if client.subscription.is_some() && !client.listen() {
                client.come(&store).await;
            }
            client.check(&store);
        }
    }
    for client in &mut clients {
        client.come(&store).await;
        client.check(&store);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn what_those_who_come_and_go_are_told_adds_up_to_what_there_is(steps in steps(), on_disk in any::<bool>(), small in any::<bool>()) {
        let limits = if small {
            HistoryLimits { max_changes: 6, max_bytes: 3_000, max_total_bytes: 4_000 }
        } else {
            HistoryLimits::default()
        };
        // One thread: between two steps of this test the store has finished what it has begun.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(steps, on_disk, limits));
    }
}

async fn put(store: &Store, key: &str, number: u64) {
    let table = store.bucket("t");
    let record = json!({ "id": key, "n": number });
    let upserted = table.upsert(&record).await;
    upserted.unwrap();
}

#[tokio::test]
async fn a_cursor_is_good_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Store::builder().on_disk(dir.path()).open();
    let store = open().await.unwrap();
    define(&store).await;
    put(&store, "a", 1).await;
    put(&store, "b", 2).await;
    let sink = Arc::default();
    let all = watch(&store, "all", None, &sink).await;
    let feed = follow(&store, "t", &Value::Null, None, &sink).await.unwrap();
    let (mut seen, from) = (value_of(&all), all.scope.at(all.seq));
    let from_feed = feed.scope.at(feed.seq);
    let epoch = store.epoch();
    put(&store, "a", 3).await;
    store.close().await.unwrap();
    drop((all, feed, store));

    let store = open().await.unwrap();
    assert_eq!(store.epoch(), epoch);
    store.bucket("t").delete("b").await.unwrap();
    put(&store, "c", 4).await;
    let sink = Arc::default();
    let all = watch(&store, "all", Some(from), &sink).await;
    let delta = delta_of(&all).unwrap();
    assert_eq!(
        (delta["removed"].clone(), delta["upserted"].as_array().unwrap().len()),
        (json!(["b"]), 2)
    );
    apply(&mut seen, &delta);
    assert_eq!(seen, value_of(&all));
    let feed = follow(&store, "t", &Value::Null, Some(from_feed), &sink).await.unwrap();
    let ops: Vec<_> = feed
        .backlog
        .iter()
        .map(told)
        .map(|(seq, data)| (seq - from_feed.seq, data[0]["op"].clone(), data[0]["key"].clone()))
        .collect();
    assert_eq!(
        ops,
        [
            (1, json!("updated"), json!("a")),
            (2, json!("deleted"), json!("b")),
            (3, json!("inserted"), json!("c"))
        ]
    );
}

#[tokio::test]
async fn cursors_end_with_the_store_where_it_cannot_vouch_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Store::builder().on_disk_with_interval(dir.path(), Duration::from_millis(5)).open();
    let store = open().await.unwrap();
    define(&store).await;
    let sink = Arc::default();
    let all = watch(&store, "all", None, &sink).await;
    let feed = follow(&store, "t", &Value::Null, None, &sink).await.unwrap();
    let (from, from_feed) = (all.scope.at(all.seq), feed.scope.at(feed.seq));
    assert!(watch(&store, "all", Some(from), &sink).await.resumed.is_some());
    store.close().await.unwrap();
    drop((all, feed, store));
    let store = open().await.unwrap();
    assert_ne!(store.epoch(), from.scope.epoch);
    assert_eq!(watch(&store, "all", Some(from), &sink).await.resumed, None);
    assert!(matches!(
        follow(&store, "t", &Value::Null, Some(from_feed), &sink).await.err(),
        Some(StoreError::CursorTooOld { .. })
    ));
}

#[tokio::test]
async fn cursors_of_a_bucket_that_is_not_kept_end_with_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Store::builder().on_disk(dir.path()).open();
    let store = open().await.unwrap();
    let definition = json!({ "key": "id", "schema": { "id": { "type": "string" } }, "persistent": false });
    store
        .define_bucket("t", BucketDefinition::from_value(&definition).unwrap())
        .await
        .unwrap();
    store
        .define_query("all", QueryDefinition::from_value(&json!({ "bucket": "t" })).unwrap())
        .await
        .unwrap();
    put(&store, "a", 1).await;
    let sink = Arc::default();
    let all = watch(&store, "all", None, &sink).await;
    let feed = follow(&store, "t", &Value::Null, None, &sink).await.unwrap();
    let (from, from_feed) = (all.scope.at(all.seq), feed.scope.at(feed.seq));
    store.close().await.unwrap();
    drop((all, feed, store));
    let store = open().await.unwrap();
    assert_eq!(store.snapshot().seq(), from.seq, "nothing was committed, but the records are gone");
    let all = watch(&store, "all", Some(from), &sink).await;
    assert_eq!((all.resumed.as_ref(), value_of(&all)), (None, Some(json!([]))));
    assert!(follow(&store, "t", &Value::Null, Some(from_feed), &sink).await.is_err());
}

#[tokio::test]
async fn many_who_resume_at_once_cost_one_evaluation() {
    let store = in_memory().await;
    for key in 0..20 {
        put(&store, &format!("k{key}"), key).await;
    }
    let sink = Arc::default();
    let first = watch(&store, "low", None, &sink).await;
    let from = first.scope.at(first.seq);
    drop(first);
    put(&store, "k1", 9).await;
    put(&store, "k7", 3).await;
    let before = store.stats().views.evaluated;
    let mut held = Vec::new();
    for _ in 0..50 {
        let subscribed = watch(&store, "low", Some(from), &sink).await;
        assert!(subscribed.resumed.is_some());
        held.push(subscribed);
    }
    assert_eq!(store.stats().views.evaluated, before + 1);
    let bytes = |subscribed: &Subscribed| subscribed.resumed.as_ref().unwrap().as_ptr();
    assert!(
        held.iter().all(|subscribed| bytes(subscribed) == bytes(&held[0])),
        "the delta was worked out once"
    );
    // With the next change there is another delta.
    put(&store, "k2", 8).await;
    let later = watch(&store, "low", Some(from), &sink).await;
    assert_ne!(later.resumed, held[0].resumed);
}

#[tokio::test]
async fn where_most_of_a_result_has_changed_all_are_given_the_whole() {
    let store = in_memory().await;
    let sink = Arc::default();
    let records = |from: u64, to: u64, n: u64| -> Vec<_> { (from..to).map(|id| json!({ "id": format!("k{id}"), "n": n })).collect() };
    let insert = async |from, to| store.bucket("t").insert_many(&records(from, to, 1)).await.unwrap();
    insert(0, 1_200).await;
    let first = watch(&store, "all", None, &sink).await;
    let from = first.scope.at(first.seq);
    insert(1_200, 3_000).await;
    let again = watch(&store, "all", Some(from), &sink).await;
    assert!(again.resumed.is_none() && value_of(&again).unwrap().as_array().unwrap().len() == 3_000);
    // The same number of changes is told to those who watch enough that is as it was; and any number of one row.
    insert(3_000, 6_000).await;
    let from = Some(again.scope.at(store.snapshot().seq()));
    let mut value = value_of(&watch(&store, "all", None, &sink).await);
    insert(6_000, 7_500).await;
    for number in 0..20 {
        put(&store, "k1", number).await;
    }
    let resumed = watch(&store, "all", from, &sink).await;
    apply(&mut value, &delta_of(&resumed).unwrap());
    assert_eq!(value, value_of(&resumed));
}

#[tokio::test]
async fn a_cursor_is_good_for_its_own_query_and_definition_alone() {
    let store = in_memory().await;
    put(&store, "a", 1).await;
    let sink = Arc::default();
    let all = watch(&store, "all", None, &sink).await;
    let from = all.scope.at(all.seq);
    assert_eq!(
        delta_of(&watch(&store, "all", Some(from), &sink).await),
        Some(json!({ "removed": [], "upserted": [] }))
    );
    assert_eq!(watch(&store, "low", Some(from), &sink).await.resumed, None);
    let ahead = Cursor { seq: from.seq + 1, ..from };
    assert_eq!(watch(&store, "all", Some(ahead), &sink).await.resumed, None);
    drop(all);
    store.undefine_query("all").await.unwrap();
    let other = json!({ "bucket": "t", "filter": { "n": 2 } });
    store
        .define_query("all", QueryDefinition::from_value(&other).unwrap())
        .await
        .unwrap();
    assert_eq!(watch(&store, "all", Some(from), &sink).await.resumed, None);
}

#[tokio::test]
async fn a_closure_resumes_only_where_nothing_has_changed() {
    let store = in_memory().await;
    store
        .define_closure("size", |context, _| Ok(json!(context.bucket("t")?.count(&Filter::everything()))))
        .await
        .unwrap();
    put(&store, "a", 1).await;
    let sink = Arc::default();
    let first = watch(&store, "size", None, &sink).await;
    let from = first.scope.at(first.seq);
    put(&store, "a", 2).await;
    assert_eq!(
        delta_of(&watch(&store, "size", Some(from), &sink).await),
        Some(json!({ "value": 1 }))
    );
    put(&store, "b", 2).await;
    assert_eq!(watch(&store, "size", Some(from), &sink).await.resumed, None);
}

#[tokio::test]
async fn deltas_are_refused_where_items_have_no_key() {
    let store = in_memory().await;
    let no_key = json!({ "bucket": "t", "fields": ["n"] });
    store
        .define_query("no-key", QueryDefinition::from_value(&no_key).unwrap())
        .await
        .unwrap();
    let options = SubscribeOptions {
        delta: true,
        ..SubscribeOptions::default()
    };
    for (query, fine) in [("all", true), ("top", true), ("count", true), ("groups", false), ("no-key", false)] {
        let sink: Arc<Recorder> = Arc::default();
        let subscribed = store
            .subscribe_with(query, &Value::Null, SubscriptionId::next(), sink, options.clone())
            .await;
        assert_eq!(subscribed.is_ok(), fine, "{query}");
    }
}

#[tokio::test]
async fn every_commit_of_a_group_is_told_by_itself_and_can_be_resumed_behind() {
    let store = in_memory().await;
    let sink = Arc::default();
    let feed = follow(&store, "t", &json!({ "n": { "$gt": 1 } }), None, &sink).await.unwrap();
    let other: Arc<Recorder> = Arc::default();
    let _other = follow(&store, "t", &json!({ "n": 100 }), None, &other).await.unwrap();
    for (key, number) in [("a", 1), ("a", 2), ("a", 3), ("a", 0)] {
        put(&store, key, number).await;
    }
    let pushed = sink.changes();
    let ops: Vec<_> = pushed
        .iter()
        .map(|(seq, data)| (seq - feed.seq, data[0]["op"].as_str().unwrap()))
        .collect();
    assert_eq!(ops, [(2, "inserted"), (3, "updated"), (4, "deleted")]);
    assert_eq!(other.changes(), []);
    let late = Arc::default();
    let since = feed.scope.at(pushed[1].0);
    let again = follow(&store, "t", &json!({ "n": { "$gt": 1 } }), Some(since), &late)
        .await
        .unwrap();
    assert_eq!(again.backlog.iter().map(told).collect::<Vec<_>>(), pushed[2..]);
    drop(feed);
    put(&store, "a", 5).await;
    assert_eq!((sink.changes().len(), late.changes().len()), (0, 1), "who has gone is told nothing");
}

#[tokio::test]
async fn those_who_missed_the_same_share_it_until_something_new_happens() {
    let store = in_memory().await;
    let sink = Arc::default();
    let stays = follow(&store, "t", &Value::Null, None, &sink).await.unwrap();
    let since = |commits: u64| Some(stays.scope.at(stays.seq + commits));
    put(&store, "a", 1).await;
    put(&store, "b", 1).await;
    let (first, second) = (
        follow(&store, "t", &Value::Null, since(0), &sink).await.unwrap(),
        follow(&store, "t", &Value::Null, since(1), &sink).await.unwrap(),
    );
    assert_eq!((first.backlog.len(), second.backlog.len()), (2, 1));
    assert!(Arc::ptr_eq(&first.backlog[1], &second.backlog[0]));
    put(&store, "c", 1).await;
    let third = follow(&store, "t", &Value::Null, since(1), &sink).await.unwrap();
    let commits: Vec<_> = third.backlog.iter().map(|set| set.seq() - stays.seq).collect();
    assert_eq!(commits, [2, 3]);
    // Who has missed more shares what is known of it.
    let fourth = follow(&store, "t", &Value::Null, since(0), &sink).await.unwrap();
    assert_eq!(
        fourth.backlog.iter().map(told).map(|(seq, _)| seq - stays.seq).collect::<Vec<_>>(),
        [1, 2, 3]
    );
    assert!(Arc::ptr_eq(&fourth.backlog[1], &third.backlog[0]) && Arc::ptr_eq(&fourth.backlog[2], &third.backlog[1]));
}

#[tokio::test]
async fn a_cursor_that_is_too_old_is_answered_with_the_oldest_that_is_not() {
    let limits = HistoryLimits {
        max_changes: 3,
        ..HistoryLimits::default()
    };
    let store = builder(None, &Arc::new(AtomicU64::new(1)), limits).open().await.unwrap();
    define(&store).await;
    let sink = Arc::default();
    let feed = follow(&store, "t", &Value::Null, None, &sink).await.unwrap();
    for number in 0..5 {
        put(&store, "a", number).await;
    }
    let Some(StoreError::CursorTooOld { oldest }) = follow(&store, "t", &Value::Null, Some(feed.scope.at(feed.seq)), &sink).await.err()
    else {
        panic!("two commits are forgotten");
    };
    assert_eq!(oldest, feed.scope.at(feed.seq + 2));
    assert_eq!(
        follow(&store, "t", &Value::Null, Some(oldest), &sink).await.unwrap().backlog.len(),
        3
    );
    // A cursor of another feed is of no use here, however new.
    let error = follow(&store, "t", &json!({ "n": 1 }), Some(feed.scope.at(feed.seq + 5)), &sink)
        .await
        .err()
        .unwrap();
    assert_eq!(error.details().unwrap()["oldest"].as_str().unwrap().split('-').count(), 3);
    assert_eq!(error.code().as_str(), "CURSOR_TOO_OLD");
    assert!(matches!(
        follow(&store, "none", &Value::Null, None, &sink).await.err(),
        Some(StoreError::BucketNotDefined(_))
    ));
    assert!(matches!(
        follow(&store, "t", &json!({ "n": { "$what": 1 } }), None, &sink).await.err(),
        Some(StoreError::Invalid { .. })
    ));
}

#[tokio::test]
async fn a_backlog_is_never_larger_than_a_history_may_be() {
    let limits = HistoryLimits {
        max_bytes: 4_000,
        ..HistoryLimits::default()
    };
    let store = builder(None, &Arc::new(AtomicU64::new(1)), limits).open().await.unwrap();
    define(&store).await;
    let sink = Arc::default();
    let feed = follow(&store, "t", &Value::Null, None, &sink).await.unwrap();
    for key in 0..6 {
        let record = json!({ "id": format!("k{key}"), "text": "x".repeat(1_000) });
        store.bucket("t").insert(&record).await.unwrap();
    }
    // Inserts replace nothing, so the history holds them all; to tell them takes more than its bound.
    let Some(StoreError::CursorTooOld { oldest }) = follow(&store, "t", &Value::Null, Some(feed.scope.at(feed.seq)), &sink).await.err()
    else {
        panic!("the backlog is too large");
    };
    let again = follow(&store, "t", &Value::Null, Some(oldest), &sink).await.unwrap();
    assert_eq!(again.backlog.len(), 3);
}

#[tokio::test]
async fn a_bucket_that_is_emptied_is_told_record_by_record_or_as_a_gap() {
    let limits = HistoryLimits {
        max_changes: 3,
        ..HistoryLimits::default()
    };
    let store = builder(None, &Arc::new(AtomicU64::new(1)), limits).open().await.unwrap();
    define(&store).await;
    let sink = Arc::default();
    let feed = follow(&store, "t", &json!({ "n": 1 }), None, &sink).await.unwrap();
    for (key, number) in [("a", 1), ("b", 1), ("c", 1), ("d", 2)] {
        put(&store, key, number).await;
    }
    let before = sink.changes().last().unwrap().0;
    store.bucket("t").clear().await.unwrap();
    let [(seq, data)] = &*sink.changes() else {
        panic!("one push for all")
    };
    let keys: Vec<_> = data
        .as_array()
        .unwrap()
        .iter()
        .map(|change| (change["op"].as_str().unwrap(), change["key"].as_str().unwrap()))
        .collect();
    assert_eq!(keys, [("deleted", "a"), ("deleted", "b"), ("deleted", "c")]);
    let error = follow(&store, "t", &json!({ "n": 1 }), Some(feed.scope.at(before)), &sink)
        .await
        .err()
        .unwrap();
    assert_eq!(
        error,
        StoreError::CursorTooOld {
            oldest: feed.scope.at(*seq)
        }
    );

    for key in ["a", "b", "c", "d"] {
        put(&store, key, 1).await;
    }
    sink.take();
    store.bucket("t").clear().await.unwrap();
    let [Update::Missed { changes: 4, seq }] = &*sink.take() else {
        panic!("too much to be told")
    };
    assert_eq!(*seq, store.snapshot().seq());
}

#[tokio::test]
async fn a_feed_ends_with_its_bucket() {
    let store = in_memory().await;
    let sink = Arc::default();
    let _feed = follow(&store, "t", &Value::Null, None, &sink).await.unwrap();
    store.drop_bucket("t").await.unwrap();
    assert!(matches!(&*sink.take(), [Update::Ended(EndReason::BucketDropped)]));
    store.define_bucket("t", plain()).await.unwrap();
    put(&store, "a", 1).await;
    assert!(sink.take().is_empty(), "an ended feed does not come back");
}

#[tokio::test]
async fn a_rule_that_changes_what_is_seen_is_told() {
    let clock = Arc::new(AtomicU64::new(1_000));
    let store = builder(None, &clock, HistoryLimits::default()).open().await.unwrap();
    store.define_bucket("m", plain()).await.unwrap();
    for (key, end) in [("a", 1_500), ("b", 9_000)] {
        store.bucket("m").insert(&json!({ "id": key, "_expiresAt": end })).await.unwrap();
    }
    clock.store(2_000, Ordering::SeqCst);
    let sink = Arc::default();
    let _feed = follow(&store, "m", &Value::Null, None, &sink).await.unwrap();
    store
        .update_bucket(
            "m",
            json!({ "addFields": { "x": { "type": "number" } } }).as_object().unwrap().clone(),
        )
        .await
        .unwrap();
    assert_eq!(sink.changes(), [], "nothing that is seen has changed");
    store
        .update_bucket("m", json!({ "ttl": 5000 }).as_object().unwrap().clone())
        .await
        .unwrap();
    let pushed: Vec<_> = sink.changes().into_iter().map(|(_, data)| data).collect();
    assert_eq!(pushed, [json!([{ "op": "deleted", "key": "a" }])]);
}
