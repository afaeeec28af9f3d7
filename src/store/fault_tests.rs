//! A store whose disk fails: what was not kept is refused and forgotten, reads go on, nobody waits for ever.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use futures_util::FutureExt;
use serde_json::{Value, json};

use super::durability::{Batch, Durability, DurabilityError};
use super::query::{Filter, QueryDefinition};
use super::{BucketDefinition, Operation, RequestKey, Sink, Store, StoreError, StoreLimits, Update};
use crate::protocol::{ErrorCode, Record, SubscriptionId};

/// What the disk does with the groups that it is given.
#[derive(Default)]
struct Script {
    /// Groups that go well before one fails.
    good: AtomicUsize,
    /// Whether it fails by a panic.
    panics: AtomicBool,
    /// While true, appends wait.
    held: Mutex<bool>,
    released: Condvar,
    appended: AtomicUsize,
    /// Changes of remembered requests in the groups that went well.
    requests: AtomicUsize,
}

impl Script {
    fn of(good: usize) -> Arc<Self> {
        Arc::new(Self {
            good: AtomicUsize::new(good),
            ..Self::default()
        })
    }

    fn hold(&self, hold: bool) {
        *self.held.lock().unwrap() = hold;
        self.released.notify_all();
    }
}

struct ScriptedDisk(Arc<Script>);

impl Durability for ScriptedDisk {
    fn append(&mut self, batch: &Batch) -> Result<(), DurabilityError> {
        let held = self.0.held.lock().unwrap();
        drop(self.0.released.wait_while(held, |held| *held).unwrap());
        if self.0.appended.fetch_add(1, Ordering::SeqCst) < self.0.good.load(Ordering::SeqCst) {
            self.0.requests.fetch_add(batch.requests.len(), Ordering::SeqCst);
            return Ok(());
        }
        assert!(!self.0.panics.load(Ordering::SeqCst), "the disk panics, as the test wants it");
        Err(DurabilityError::Failed {
            dir: "data".into(),
            reason: "no space left on device".to_owned(),
        })
    }

    fn sync(&mut self) -> Result<(), DurabilityError> {
        Ok(())
    }

    fn tidy(&mut self) -> Result<bool, DurabilityError> {
        Ok(false)
    }

    fn close(self: Box<Self>) -> Result<(), DurabilityError> {
        Ok(())
    }
}

/// Two groups go well: the definitions of a bucket and of a query that counts it.
async fn open(script: &Arc<Script>) -> Store {
    let store = Store::builder()
        .open_with(Box::new(ScriptedDisk(Arc::clone(script))))
        .await
        .unwrap();
    let definition = BucketDefinition::from_value(&json!({ "key": "id", "schema": { "id": { "type": "number" } } })).unwrap();
    store.define_bucket("t", definition).await.unwrap();
    let count = json!({ "bucket": "t", "aggregate": { "function": "count" } });
    store
        .define_query("count", QueryDefinition::from_value(&count).unwrap())
        .await
        .unwrap();
    store
}

fn insert(id: u64) -> Operation {
    let record = json!({ "id": id });
    Operation::Insert {
        bucket: "t".into(),
        record: Record::from_object(record.as_object().unwrap()),
    }
}

fn is_refused<T: std::fmt::Debug>(outcome: Result<T, StoreError>) -> bool {
    outcome.is_err_and(|error| error.code() == ErrorCode::StorageUnavailable)
}

#[tokio::test]
async fn a_group_that_cannot_be_kept_is_refused_and_forgotten_and_reads_go_on() {
    let script = Script::of(3);
    let store = open(&script).await;
    let mut live = store.watch("count", Value::Null).await.unwrap();
    store.bucket("t").insert(&json!({ "id": 1 })).await.unwrap();
    live.changed().await.unwrap();

    script.hold(true);
    let in_flight = store.submit(insert(2)).unwrap();
    let behind_it = store.submit(insert(3)).unwrap();
    script.hold(false);
    assert!(is_refused(in_flight.await));
    assert!(is_refused(behind_it.await));

    let bucket = store.bucket("t");
    assert!(is_refused(bucket.insert(&json!({ "id": 4 })).await));
    assert!(is_refused(bucket.clear().await));
    assert_eq!(bucket.count(&Filter::everything()).unwrap(), 1);
    assert_eq!(bucket.get(2).unwrap(), None);
    assert_eq!(store.run_query("count", &Value::Null).unwrap(), Some(json!(1)));
    assert_eq!(live.value(), Some(json!(1)), "a live query was told of what was not kept");
    assert_eq!(store.watch("count", Value::Null).await.unwrap().value(), Some(json!(1)));
    assert!(store.close().await.is_err(), "closing says that not all was kept");
}

fn key(name: &str) -> RequestKey {
    RequestKey::new(name, 0).unwrap()
}

#[tokio::test]
async fn a_group_that_cannot_be_kept_takes_its_request_keys_with_it() {
    let script = Script::of(3);
    let store = open(&script).await;
    store.submit_once(insert(1), key("kept")).unwrap().await.unwrap();
    script.hold(true);
    let in_flight = store.submit_once(insert(2), key("lost")).unwrap();
    let repeat = store.submit_once(insert(2), key("lost")).unwrap();
    let refusal = store.submit_once(insert(1), key("lost too")).unwrap();
    script.hold(false);
    assert!(is_refused(in_flight.await));
    assert!(is_refused(repeat.await));
    assert!(is_refused(refusal.await));
    assert_eq!(store.stats().request_keys.count, 1);
    assert_eq!(script.requests.load(Ordering::SeqCst), 1);
    // Whether the disk has the group or not shows at the next start only: until then nothing is promised.
    assert!(is_refused(async { store.submit_once(insert(2), key("lost"))?.await }.await));
}

#[tokio::test]
async fn a_repeat_waits_until_the_first_answer_is_durable_and_a_refusal_is_kept_too() {
    let script = Script::of(usize::MAX);
    let store = open(&script).await;
    script.hold(true);
    let mut first = store.submit_once(insert(1), key("a")).unwrap();
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    let mut repeat = store.submit_once(insert(1), key("a")).unwrap();
    let mut refusal = store.submit_once(insert(1), key("b")).unwrap();
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    for waiting in [&mut first, &mut repeat, &mut refusal] {
        assert!(waiting.now_or_never().is_none());
    }
    assert_eq!(store.stats().request_keys.count, 0);
    script.hold(false);
    assert_eq!(first.await, repeat.await);
    let refusal = refusal.await.unwrap_err();
    assert_eq!(refusal.code(), ErrorCode::AlreadyExists);
    assert_eq!(script.requests.load(Ordering::SeqCst), 2, "also the refusal is on disk");
    store.bucket("t").delete(1).await.unwrap();
    let again = store.submit_once(insert(1), key("b")).unwrap().await.unwrap_err();
    assert_eq!((again.code(), again.to_string()), (refusal.code(), refusal.to_string()));
}

#[tokio::test]
async fn a_repeat_of_the_last_definition_that_is_allowed_is_answered_as_it_was() {
    let limits = StoreLimits {
        max_buckets: 1,
        ..StoreLimits::default()
    };
    let store = Store::builder().limits(limits).open().await.unwrap();
    let define = |name: &str| {
        let operation = Operation::DefineBucket {
            name: name.into(),
            definition: definition(),
        };
        store.submit_once(operation, key(name)).unwrap()
    };
    let first = define("a").await.unwrap();
    assert_eq!(define("a").await, Ok(first));
    assert!(matches!(define("b").await, Err(StoreError::LimitExceeded(_))));
}

#[tokio::test]
async fn a_disk_thread_that_panics_leaves_nobody_waiting() {
    let script = Script::of(2);
    script.panics.store(true, Ordering::SeqCst);
    let store = open(&script).await;
    assert!(is_refused(store.bucket("t").insert(&json!({ "id": 1 })).await));
    assert_eq!(store.bucket("t").count(&Filter::everything()).unwrap(), 0);
    assert!(store.close().await.is_err());
}

#[tokio::test]
async fn nothing_is_seen_answered_or_pushed_before_it_is_durable() {
    let script = Script::of(usize::MAX);
    let store = open(&script).await;
    let mut live = store.watch("count", Value::Null).await.unwrap();
    script.hold(true);
    let mut pending = store.submit(insert(1)).unwrap();
    // The refusal of a second insert rests on the first, which a crash could still take back: it waits too.
    let mut refused = store.submit(insert(1)).unwrap();
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    assert!((&mut pending).now_or_never().is_none());
    assert!((&mut refused).now_or_never().is_none());
    assert_eq!(store.bucket("t").count(&Filter::everything()).unwrap(), 0);
    assert_eq!(live.value(), Some(json!(0)));

    script.hold(false);
    pending.await.unwrap();
    assert_eq!(refused.await.unwrap_err().code(), ErrorCode::AlreadyExists);
    live.changed().await.unwrap();
    assert_eq!(live.value(), Some(json!(1)));
}

#[tokio::test]
async fn what_was_submitted_before_closing_is_kept_and_answered() {
    let script = Script::of(usize::MAX);
    let store = open(&script).await;
    script.hold(true);
    let first = store.submit(insert(1)).unwrap();
    let second = store.submit(insert(2)).unwrap();
    let closing = tokio::spawn({
        let store = store.clone();
        async move { store.close().await }
    });
    tokio::task::yield_now().await;
    script.hold(false);
    first.await.unwrap();
    second.await.unwrap();
    closing.await.unwrap().unwrap();
    assert_eq!(store.submit(insert(3)).unwrap_err(), StoreError::Closed);
    assert_eq!(
        store.bucket("t").count(&Filter::everything()).unwrap(),
        2,
        "a closed store can still be read"
    );
}

/// Keeps everything that was pushed.
#[derive(Default)]
struct Recorder(Mutex<Vec<Update>>);

impl Sink for Recorder {
    fn push(&self, _: SubscriptionId, update: Update) {
        self.0.lock().unwrap().push(update);
    }
}

fn definition() -> Arc<BucketDefinition> {
    Arc::new(BucketDefinition::from_value(&json!({ "key": "id", "schema": { "id": { "type": "number" } } })).unwrap())
}

#[tokio::test]
async fn a_cursor_up_to_the_last_commit_is_good_whatever_is_on_its_way_to_disk_or_was_lost_there() {
    for operation in [
        Operation::Clear { bucket: "t".into() },
        Operation::DropBucket { name: "t".into() },
        Operation::UpdateBucket {
            name: "t".into(),
            updates: json!({ "ttl": 5000 }).as_object().unwrap().clone(),
        },
    ] {
        let script = Script::of(3);
        let store = open(&script).await;
        store.submit(insert(1)).unwrap().await.unwrap();
        let sink: Arc<dyn Sink> = Arc::new(Recorder::default());
        let follow = |since| store.follow("t", &Value::Null, since, SubscriptionId::next(), Arc::clone(&sink));
        let feed = follow(None).await.unwrap();
        script.hold(true);
        let lost = store.submit(operation).unwrap();
        let now = Some(feed.scope.at(feed.seq));
        let resumed = follow(now).await.map(|followed| (followed.seq, followed.backlog.len()));
        script.hold(false);
        assert_eq!(resumed, Ok((feed.seq, 0)));
        assert!(is_refused(lost.await));
        let resumed = follow(now).await.map(|followed| (followed.seq, followed.backlog.len()));
        assert_eq!(resumed, Ok((feed.seq, 0)), "nothing has happened since");
    }
}

#[tokio::test]
async fn a_view_whose_bucket_is_replaced_in_a_group_has_one_result_for_the_group() {
    let update = |updates: Value| Operation::UpdateBucket {
        name: "t".into(),
        updates: updates.as_object().unwrap().clone(),
    };
    let define = Operation::DefineBucket {
        name: "t".into(),
        definition: definition(),
    };
    let groups = [
        (vec![Operation::DropBucket { name: "t".into() }, define, insert(2)], json!([2])),
        (vec![update(json!({ "ttl": 5000 })), insert(2)], json!([1, 2])),
        (vec![insert(2), update(json!({ "ttl": 5000 })), insert(3)], json!([1, 2, 3])),
        (vec![insert(2), Operation::Clear { bucket: "t".into() }, insert(3)], json!([3])),
    ];
    for (group, expected) in groups {
        let script = Script::of(usize::MAX);
        let store = open(&script).await;
        let all = QueryDefinition::from_value(&json!({ "bucket": "t" })).unwrap();
        store.define_query("all", all).await.unwrap();
        // Of a record that ends, one rule sees what the other does not.
        let mortal = json!({ "id": 7, "_expiresAt": 1 });
        store.bucket("t").insert(&json!({ "id": 1 })).await.unwrap();
        store.bucket("t").insert(&mortal).await.unwrap();
        let sink = Arc::new(Recorder::default());
        let watching = store.subscribe("all", &Value::Null, SubscriptionId::next(), Arc::clone(&sink) as Arc<dyn Sink>);
        let _watched = watching.await.unwrap();
        // Nothing else runs before the last of them is submitted: they are one group.
        let answers: Vec<_> = group.into_iter().map(|operation| store.submit(operation).unwrap()).collect();
        for answer in answers {
            answer.await.unwrap();
        }
        // The actor is through with the group.
        store.watch("all", Value::Null).await.unwrap();
        let pushed: Vec<_> = std::mem::take(&mut *sink.0.lock().unwrap());
        let ids: Vec<_> = pushed
            .iter()
            .map(|update| match update {
                Update::Result(result) => {
                    let records: Value = serde_json::from_slice(&result.data().unwrap()).unwrap();
                    records
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(|record| record["id"].clone())
                        .collect::<Value>()
                }
                Update::Ended(_) | Update::Failed(_) | Update::Changes(_) | Update::Missed { .. } => panic!("unexpected {update:?}"),
            })
            .collect();
        assert_eq!(ids, [expected]);
    }
}
