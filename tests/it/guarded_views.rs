//! Live views and change feeds within guards: after every commit group they are what somebody would work out by hand who
//! had all records, also as deltas and for those who come back; and nothing else is in any byte of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use noex_server::protocol::{Cursor, CursorScope, SubscriptionId};
use noex_server::store::query::{Filter, QueryDefinition};
use noex_server::store::{
    BucketDefinition, Followed, Guard, Operation, Sink, Store, StoreError, SubscribeOptions, Subscribed, Update, ViewResult,
};
use proptest::prelude::*;
use proptest::sample::select;
use regex::Regex;
use serde_json::{Map, Value, json};

use crate::support::Recorder;

const QUERIES: [&str; 5] = ["all", "low", "top", "count", "groups"];

fn definition(query: &str) -> Value {
    match query {
        "all" => json!({ "bucket": "t" }),
        "low" => json!({ "bucket": "t", "filter": { "n": { "$lt": 5 } } }),
        "top" => json!({ "bucket": "t", "sort": { "n": "desc" }, "limit": 2 }),
        "count" => json!({ "bucket": "t", "aggregate": { "function": "count" } }),
        _ => json!({ "bucket": "t", "aggregate": { "function": "count", "groupBy": "n" } }),
    }
}

/// The same by hand, of all that is there.
fn by_hand(query: &str, mut there: Vec<Value>) -> Value {
    let number = |record: &Value| record["n"].as_i64().unwrap();
    match query {
        "all" => there.into(),
        "low" => there.into_iter().filter(|record| number(record) < 5).collect(),
        "top" => {
            there.sort_by_key(|record| -number(record));
            there.truncate(2);
            there.into()
        }
        "count" => there.len().into(),
        _ => {
            let mut groups: Vec<(i64, usize)> = Vec::new();
            for n in there.iter().map(number) {
                match groups.iter_mut().find(|(key, _)| *key == n) {
                    Some((_, count)) => *count += 1,
                    None => groups.push((n, 1)),
                }
            }
            groups
                .into_iter()
                .map(|(n, count)| json!({ "key": { "n": n }, "value": count }))
                .collect()
        }
    }
}

/// What somebody may see, as rule and by hand.
struct Bounds {
    guard: Arc<Guard>,
    filter: Filter,
    fields: Option<Vec<&'static str>>,
    /// Keys and notes of all that could be seen at any time.
    seen: BTreeSet<String>,
}

impl Bounds {
    fn all() -> Vec<Self> {
        let bounds = |filter: Value, fields: Option<Vec<&'static str>>| Self {
            guard: Guard::new(
                filter.as_object().unwrap(),
                fields.as_ref().map(|fields| fields.iter().map(|name| (*name).to_owned()).collect()),
            )
            .unwrap(),
            filter: Filter::from_value(&filter).unwrap(),
            fields,
            seen: BTreeSet::new(),
        };
        vec![
            bounds(json!({ "owner": "ida" }), None),
            bounds(json!({ "owner": "bob" }), Some(vec!["n"])),
            bounds(json!({ "n": { "$gte": 3 } }), Some(vec!["note", "n"])),
            bounds(json!({}), Some(vec!["n", "owner"])),
            bounds(json!({ "$or": [{ "owner": "ida" }, { "n": 7 }] }), None),
        ]
    }

    /// What is there of all records.
    fn there(&self, store: &Store) -> Vec<Value> {
        let records = store.bucket("t").all().unwrap();
        let admitted = records.into_iter().filter(|record| self.filter.matches(record));
        admitted.map(|record| self.shown(record.to_value())).collect()
    }

    fn shown(&self, record: Value) -> Value {
        let Value::Object(members) = record else { panic!("no record") };
        let is_shown =
            |name: &str| name == "id" || name.starts_with('_') || self.fields.as_ref().is_none_or(|fields| fields.contains(&name));
        members.into_iter().filter(|(name, _)| is_shown(name)).collect::<Map<_, _>>().into()
    }

    /// Notes a version of a record that was committed.
    fn note(&mut self, record: &Value) {
        let stored = noex_server::protocol::Record::from_object(record.as_object().unwrap());
        if self.filter.matches(&stored) {
            self.seen.extend(secrets(&self.shown(record.clone()).to_string()));
        }
    }

    fn check_bytes(&self, bytes: &[u8]) {
        let text = std::str::from_utf8(bytes).unwrap();
        let secrets = secrets(text);
        assert!(secrets.is_subset(&self.seen), "{:?} was sent {text}", self.guard);
    }
}

/// Keys and notes in a text: each is of one record, each note of one version.
fn secrets(text: &str) -> BTreeSet<String> {
    let pattern = Regex::new(r"\b(?:key|mark)\d+\b").unwrap();
    pattern.find_iter(text).map(|found| found.as_str().to_owned()).collect()
}

/// A query that somebody watches.
struct Watched {
    query: &'static str,
    sink: Arc<Recorder>,
    subscribed: Subscribed,
    latest: Arc<ViewResult>,
    /// What comes of the deltas.
    value: Value,
}

/// Somebody who follows everything within a guard, also as deltas.
struct Follower {
    bounds: Bounds,
    views: Vec<Watched>,
    feed: (Arc<Recorder>, Followed, BTreeMap<String, Value>),
    /// What there was at earlier commits.
    before: Vec<(u64, Vec<Value>)>,
}

impl Follower {
    async fn new(store: &Store, bounds: Bounds) -> Self {
        let mut views = Vec::new();
        for query in QUERIES {
            let sink = Arc::new(Recorder::default());
            let subscribed = subscribe(store, query, &bounds, None, &sink).await.unwrap();
            views.push(Watched {
                query,
                sink,
                latest: Arc::clone(&subscribed.result),
                value: value_of(&subscribed.result),
                subscribed,
            });
        }
        let sink = Arc::new(Recorder::default());
        let followed = follow(store, &bounds, None, &sink).await.unwrap();
        let there = bounds.there(store);
        let mirror = there.iter().map(|record| (key_of(record), record.clone())).collect();
        Self {
            before: vec![(followed.seq, there)],
            bounds,
            views,
            feed: (sink, followed, mirror),
        }
    }

    /// Takes what was pushed, and compares it with what there is.
    async fn check(&mut self, store: &Store) {
        let there = self.bounds.there(store);
        for watched in &mut self.views {
            let Watched {
                query,
                sink,
                latest,
                value,
                subscribed: _,
            } = watched;
            for update in sink.take() {
                let Update::Result(result) = update else {
                    panic!("unexpected {update:?}")
                };
                let delta = result.delta_from(latest);
                self.bounds.check_bytes(&delta);
                self.bounds.check_bytes(&result.data().unwrap());
                *value = applied(value, &serde_json::from_slice(&delta).unwrap());
                *latest = result;
            }
            let expected = by_hand(query, there.clone());
            assert_eq!(value_of(latest), expected, "{query} within {:?}", self.bounds.guard);
            assert_eq!(*value, expected, "deltas of {query} within {:?}", self.bounds.guard);
        }
        let (sink, _, mirror) = &mut self.feed;
        for update in sink.take() {
            let Update::Changes(set) = update else {
                panic!("unexpected {update:?}")
            };
            self.bounds.check_bytes(set.data());
            mirrored(mirror, &serde_json::from_slice(set.data()).unwrap());
        }
        assert_eq!(*mirror, mirror_of(&there), "feed within {:?}", self.bounds.guard);
        let seq = store.snapshot().seq();
        self.before.push((seq, there));
    }

    /// Comes back behind each earlier commit.
    async fn come_back(&self, store: &Store) {
        let there = self.bounds.there(store);
        for (seq, before) in &self.before {
            for Watched { query, subscribed, .. } in &self.views {
                let cursor = subscribed.scope.at(*seq);
                let again = subscribe(store, query, &self.bounds, Some(cursor), &Arc::default()).await.unwrap();
                let Some(delta) = &again.resumed else { continue };
                self.bounds.check_bytes(delta);
                let value = applied(&by_hand(query, before.clone()), &serde_json::from_slice(delta).unwrap());
                assert_eq!(
                    value,
                    by_hand(query, there.clone()),
                    "{query} behind {seq} within {:?}",
                    self.bounds.guard
                );
            }
            let cursor = self.feed.1.scope.at(*seq);
            let Ok(again) = follow(store, &self.bounds, Some(cursor), &Arc::default()).await else {
                continue;
            };
            let mut mirror = mirror_of(before);
            for set in &again.backlog {
                self.bounds.check_bytes(set.data());
                mirrored(&mut mirror, &serde_json::from_slice(set.data()).unwrap());
            }
            assert_eq!(mirror, mirror_of(&there), "feed behind {seq} within {:?}", self.bounds.guard);
        }
    }
}

async fn subscribe(
    store: &Store,
    query: &str,
    bounds: &Bounds,
    resume: Option<Cursor>,
    sink: &Arc<Recorder>,
) -> Result<Subscribed, StoreError> {
    let options = SubscribeOptions {
        resume,
        guard: Some(Arc::clone(&bounds.guard)),
        ..SubscribeOptions::default()
    };
    let sink = Arc::clone(sink) as Arc<dyn Sink>;
    store
        .subscribe_with(query, &Value::Null, SubscriptionId::next(), sink, options)
        .await
}

async fn follow(store: &Store, bounds: &Bounds, since: Option<Cursor>, sink: &Arc<Recorder>) -> Result<Followed, StoreError> {
    let sink = Arc::clone(sink) as Arc<dyn Sink>;
    store
        .follow_within(Some(&bounds.guard), "t", &Value::Null, since, SubscriptionId::next(), sink)
        .await
}

fn value_of(result: &ViewResult) -> Value {
    serde_json::from_slice(&result.data().unwrap()).unwrap()
}

fn key_of(record: &Value) -> String {
    record["id"].as_str().unwrap().to_owned()
}

fn mirror_of(records: &[Value]) -> BTreeMap<String, Value> {
    records.iter().map(|record| (key_of(record), record.clone())).collect()
}

fn mirrored(mirror: &mut BTreeMap<String, Value>, changes: &Value) {
    for change in changes.as_array().unwrap() {
        let key = change["key"].as_str().unwrap().to_owned();
        let was = match change.get("record") {
            Some(record) => mirror.insert(key, record.clone()),
            None => mirror.remove(&key),
        };
        assert_eq!(was.is_none(), change["op"] == "inserted", "{change}");
        assert_eq!(change.get("record").is_none(), change["op"] == "deleted", "{change}");
    }
}

/// A result with a delta applied.
fn applied(value: &Value, delta: &Value) -> Value {
    let Some(upserted) = delta.get("upserted") else {
        return delta["value"].clone();
    };
    let upserted: Vec<(usize, Value)> = serde_json::from_value(upserted.clone()).unwrap();
    let mut gone: Vec<Value> = delta["removed"].as_array().unwrap().clone();
    gone.extend(upserted.iter().map(|(_, record)| record["id"].clone()));
    let mut records: Vec<Value> = value.as_array().unwrap().clone();
    records.retain(|record| !gone.contains(&record["id"]));
    for (at, record) in upserted {
        records.insert(at, record);
    }
    records.into()
}

/// Something that is done to the records, by whoever may do everything or within one of the guards.
#[derive(Clone, Debug)]
enum Doing {
    Put { key: u8, owner: &'static str, n: i64 },
    Delete { key: u8 },
    Give { from: &'static str, to: &'static str },
    Clear,
}

fn doing() -> impl Strategy<Value = (Doing, Option<usize>)> {
    let owner = || select(vec!["ida", "bob", "eve"]);
    let doing = prop_oneof![
        10 => (0..8_u8, owner(), 0..9_i64).prop_map(|(key, owner, n)| Doing::Put { key, owner, n }),
        3 => (0..8_u8).prop_map(|key| Doing::Delete { key }),
        2 => (owner(), owner()).prop_map(|(from, to)| Doing::Give { from, to }),
        1 => Just(Doing::Clear),
    ];
    (doing, prop::option::weighted(0.3, 0..5_usize))
}

fn operation(doing: &Doing, marks: &mut usize) -> Operation {
    let record = |value: Value| noex_server::protocol::Record::from_object(value.as_object().unwrap());
    let bucket = || "t".into();
    *marks += 1;
    match doing {
        Doing::Put { key, owner, n } => Operation::Upsert {
            bucket: bucket(),
            record: record(json!({ "id": format!("key{key}"), "owner": owner, "n": n, "note": format!("mark{marks}") })),
            expect_version: None,
        },
        Doing::Delete { key } => Operation::Delete {
            bucket: bucket(),
            key: format!("key{key}").as_str().into(),
            expect_version: None,
        },
        Doing::Give { from, to } => Operation::UpdateMany {
            bucket: bucket(),
            filter: Filter::from_value(&json!({ "owner": from })).unwrap(),
            changes: record(json!({ "owner": to })),
        },
        Doing::Clear => Operation::Clear { bucket: bucket() },
    }
}

async fn open() -> Store {
    let store = Store::builder().in_memory().open().await.unwrap();
    let config = json!({ "key": "id", "indexes": ["owner"], "schema": { "id": { "type": "string" }, "owner": { "type": "string" } } });
    store
        .define_bucket("t", BucketDefinition::from_value(&config).unwrap())
        .await
        .unwrap();
    for query in QUERIES {
        let definition = QueryDefinition::from_value(&definition(query)).unwrap();
        store.define_query(query, definition).await.unwrap();
    }
    store
}

/// Carries operations out as one commit group, and waits until everybody was told.
async fn carry_out(store: &Store, operations: Vec<Operation>) {
    let commits: Vec<_> = operations.into_iter().map(|operation| store.submit(operation).unwrap()).collect();
    for commit in commits {
        // Not everything is allowed within every guard.
        let _ = commit.await;
    }
    store.purge_expired().await.unwrap();
}

async fn check_all(groups: Vec<Vec<(Doing, Option<usize>)>>) {
    let store = open().await;
    let guards = Bounds::all();
    let within: Vec<_> = guards.iter().map(|bounds| Arc::clone(&bounds.guard)).collect();
    // Sees every version, since each is committed by itself in what it follows.
    let everything = Arc::new(Recorder::default());
    let _all = store
        .follow(
            "t",
            &Value::Null,
            None,
            SubscriptionId::next(),
            Arc::clone(&everything) as Arc<dyn Sink>,
        )
        .await
        .unwrap();
    let mut followers = Vec::new();
    for bounds in guards {
        followers.push(Follower::new(&store, bounds).await);
    }
    let mut marks = 0;
    for group in groups {
        let operations = group.iter().map(|(doing, by)| {
            let operation = operation(doing, &mut marks);
            match by {
                Some(by) => operation.within(Arc::clone(&within[*by])),
                None => operation,
            }
        });
        carry_out(&store, operations.collect()).await;
        for update in everything.take() {
            let Update::Changes(set) = update else {
                panic!("unexpected {update:?}")
            };
            let changes: Value = serde_json::from_slice(set.data()).unwrap();
            for record in changes.as_array().unwrap().iter().filter_map(|change| change.get("record")) {
                followers.iter_mut().for_each(|follower| follower.bounds.note(record));
            }
        }
        for follower in &mut followers {
            follower.check(&store).await;
        }
    }
    for follower in &followers {
        follower.come_back(&store).await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn what_is_followed_within_a_guard_is_what_is_there_within_it(
        groups in prop::collection::vec(prop::collection::vec(doing(), 1..4), 1..14),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(check_all(groups));
    }
}

fn owned_by(owner: &str) -> Arc<Guard> {
    Guard::new(json!({ "owner": owner }).as_object().unwrap(), None).unwrap()
}

fn options(guard: &Arc<Guard>) -> SubscribeOptions {
    SubscribeOptions {
        guard: Some(Arc::clone(guard)),
        ..SubscribeOptions::default()
    }
}

#[tokio::test]
async fn a_write_costs_the_views_of_its_owner_however_many_others_there_are() {
    let store = open().await;
    let mut kept = Vec::new();
    for owner in 0..1_000 {
        for query in ["all", "low", "count"] {
            let sink = Arc::new(Recorder::default());
            let options = options(&owned_by(&format!("o{owner}")));
            let subscribed = store
                .subscribe_with(
                    query,
                    &Value::Null,
                    SubscriptionId::next(),
                    Arc::clone(&sink) as Arc<dyn Sink>,
                    options,
                )
                .await
                .unwrap();
            kept.push((subscribed, sink));
        }
    }
    let before = store.stats().views;
    assert_eq!(before.live, 3_000);
    let record = json!({ "id": "a", "owner": "o7", "n": 1 });
    store.bucket("t").insert(&record).await.unwrap();
    store.purge_expired().await.unwrap();
    let after = store.stats().views;
    assert_eq!(
        (after.offered - before.offered, after.evaluated - before.evaluated),
        (3, 0),
        "offered to the three views of the owner, and nothing was looked at anew"
    );
    assert_eq!(kept.iter().filter(|(_, sink)| !sink.take().is_empty()).count(), 3);
}

#[tokio::test]
async fn equal_guards_share_a_view_and_others_do_not() {
    let store = open().await;
    let mut kept = Vec::new();
    for guard in [owned_by("ida"), owned_by("ida"), owned_by("bob")] {
        let sink = Arc::new(Recorder::default());
        let subscribed = store
            .subscribe_with("all", &Value::Null, SubscriptionId::next(), sink, options(&guard))
            .await;
        kept.push(subscribed.unwrap());
    }
    let sink = Arc::new(Recorder::default());
    kept.push(store.subscribe("all", &Value::Null, SubscriptionId::next(), sink).await.unwrap());
    assert_eq!(store.stats().views.live, 3);
    let scopes: Vec<CursorScope> = kept.iter().map(|subscribed| subscribed.scope).collect();
    assert_eq!(scopes[0], scopes[1]);
    assert!(scopes[0] != scopes[2] && scopes[0] != scopes[3] && scopes[2] != scopes[3]);
}

#[tokio::test]
async fn a_feed_goes_on_from_a_cursor_of_the_same_guard_and_of_no_other() {
    let store = open().await;
    let guards = [Some(owned_by("ida")), Some(owned_by("bob")), None];
    let follow = async |guard: &Option<Arc<Guard>>, since: Option<Cursor>| {
        let sink = Arc::new(Recorder::default());
        store
            .follow_within(guard.as_deref(), "t", &Value::Null, since, SubscriptionId::next(), sink)
            .await
    };
    for of in &guards {
        let begun = follow(of, None).await.unwrap();
        let cursor = begun.scope.at(begun.seq);
        for by in &guards {
            let outcome = follow(by, Some(cursor)).await;
            match (of == by, outcome) {
                (true, Ok(_)) | (false, Err(StoreError::CursorTooOld { .. })) => {}
                (_, outcome) => panic!("by {by:?} from a cursor of {of:?}: {:?}", outcome.map(|followed| followed.seq)),
            }
        }
    }
}

#[tokio::test]
async fn what_names_a_hidden_field_cannot_be_followed() {
    let store = open().await;
    let bounds = Guard::new(&Map::new(), Some(vec!["n".to_owned()])).unwrap();
    for (query, config) in [
        ("filtered", json!({ "bucket": "t", "filter": { "note": { "$in": [] } } })),
        (
            "with-parameter",
            json!({ "bucket": "t", "filter": { "n": 1, "note": "{{ params.x }}" } }),
        ),
        ("sorted", json!({ "bucket": "t", "sort": { "owner": "asc" } })),
        ("reduced", json!({ "bucket": "t", "fields": ["id", "note"] })),
        (
            "summed",
            json!({ "bucket": "t", "aggregate": { "function": "sum", "field": "note" } }),
        ),
        (
            "grouped",
            json!({ "bucket": "t", "aggregate": { "function": "count", "groupBy": ["n", "note"] } }),
        ),
    ] {
        store
            .define_query(query, QueryDefinition::from_value(&config).unwrap())
            .await
            .unwrap();
        let params = json!({ "x": "y" });
        let sink = Arc::new(Recorder::default());
        let refused = store
            .subscribe_with(query, &params, SubscriptionId::next(), sink, options(&bounds))
            .await;
        assert!(matches!(refused.err(), Some(StoreError::NoAccessToField(_))), "{query}");
    }
    let follow = |filter: Value| {
        let sink = Arc::new(Recorder::default());
        store.follow_within(Some(&bounds), "t", &filter, None, SubscriptionId::next(), sink)
    };
    let refused = follow(json!({ "note": "x" })).await.err();
    assert_eq!(refused, Some(StoreError::NoAccessToField("note".to_owned())));
    assert!(follow(json!({ "id": "x", "n": 1, "_version": 2 })).await.is_ok());
}

#[tokio::test]
async fn functions_are_not_for_those_who_are_bound() {
    let store = open().await;
    store
        .define_closure("everything", |context, _| Ok(json!(context.bucket("t")?.all().len())))
        .await
        .unwrap();
    let sink = Arc::new(Recorder::default());
    let refused = store
        .subscribe_with("everything", &Value::Null, SubscriptionId::next(), sink, options(&owned_by("ida")))
        .await;
    assert_eq!(refused.err(), Some(StoreError::NeedsAllRecords));
}

#[tokio::test]
async fn a_query_that_was_defined_anew_is_not_the_one_that_was_found() {
    let store = open().await;
    let found_in = Some(store.snapshot());
    store.undefine_query("all").await.unwrap();
    let config = json!({ "bucket": "t", "filter": { "n": 1 } });
    store
        .define_query("all", QueryDefinition::from_value(&config).unwrap())
        .await
        .unwrap();
    let options = SubscribeOptions {
        found_in,
        ..SubscribeOptions::default()
    };
    let sink = Arc::new(Recorder::default());
    let refused = store
        .subscribe_with("all", &Value::Null, SubscriptionId::next(), sink, options)
        .await;
    assert_eq!(refused.err(), Some(StoreError::QueryNotDefined("all".into())));
}

#[tokio::test]
async fn a_guard_ends_with_the_bucket_that_it_was_put_in_place_for() {
    let store = open().await;
    let bounds = Guard::new(&Map::new(), Some(vec!["n".to_owned()])).unwrap();
    let sink = Arc::new(Recorder::default());
    let _subscribed = store
        .subscribe_with(
            "all",
            &Value::Null,
            SubscriptionId::next(),
            Arc::clone(&sink) as Arc<dyn Sink>,
            options(&bounds),
        )
        .await
        .unwrap();
    // Another field is the key now, and `id` is one that is hidden.
    let config = json!({ "key": "n", "schema": { "n": { "type": "number" }, "id": { "type": "string" } } });
    let define = Operation::DefineBucket {
        name: "t".into(),
        definition: Arc::new(BucketDefinition::from_value(&config).unwrap()),
    };
    let insert = Operation::Insert {
        bucket: "t".into(),
        record: noex_server::protocol::Record::from_object(json!({ "n": 1, "id": "secret" }).as_object().unwrap()),
    };
    carry_out(&store, vec![Operation::DropBucket { name: "t".into() }, define, insert]).await;
    let updates = sink.take();
    assert!(matches!(updates.as_slice(), [Update::Ended(_)]), "{updates:?}");
}
