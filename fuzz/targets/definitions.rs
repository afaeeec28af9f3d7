//! Definitions of buckets and queries, updates of them, and writes: whatever is refused leaves everything as it was,
//! whatever is taken can be read again, and live queries equal fresh ones.

#![no_main]

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use libfuzzer_sys::fuzz_target;
use noex_server::protocol::{Datum, ErrorCode, FieldName};
use noex_server::store::query::{Filter, QueryDefinition, Reader};
use noex_server::store::{BucketDefinition, LiveQuery, Snapshot, Store, StoreError, Transaction, WatchError};
use noex_server_fuzz::{BUCKETS, FIELDS, NOW, QUERIES, Source, lines, new_store, run, settle};
use serde_json::{Map, Value, json};

/// The most steps that one input is carried out.
const STEPS: usize = 40;

fuzz_target!(|data: &[u8]| {
    if let Some(objects) = lines(data) {
        run(define_lines(objects));
    } else {
        run(take_steps(Source::new(data)));
    }
});

/// Seeds and old findings as text: a definition of a bucket on each line, or of a query, each followed by a record.
async fn define_lines(objects: impl Iterator<Item = Map<String, Value>>) {
    let mut world = World::new().await;
    for (at, config) in objects.take(STEPS).enumerate() {
        let config = &config;
        let outcome = if config.contains_key("schema") {
            world.define_bucket(BUCKETS[at % BUCKETS.len()], config).await
        } else if config.contains_key("bucket") {
            world.define_query(QUERIES[at % QUERIES.len()], config).await
        } else {
            world.store.bucket(BUCKETS[0]).upsert(config).await.map(drop)
        };
        world.check(outcome).await;
    }
    world.end().await;
}

async fn take_steps(mut source: Source<'_>) {
    let mut world = World::new().await;
    for _ in 0..STEPS {
        if source.is_empty() {
            break;
        }
        let outcome = world.step(&mut source).await;
        world.check(outcome).await;
    }
    world.end().await;
}

/// A live query with what it was asked for.
struct Watched {
    name: &'static str,
    params: Value,
    live: LiveQuery,
}

struct World {
    store: Store,
    time: Arc<AtomicU64>,
    watched: Vec<Watched>,
    before: Snapshot,
}

impl World {
    async fn new() -> Self {
        let time = Arc::new(AtomicU64::new(NOW));
        let clock = Arc::clone(&time);
        let store = new_store(move || clock.load(Ordering::Relaxed)).await;
        let before = store.snapshot();
        Self {
            store,
            time,
            watched: Vec::new(),
            before,
        }
    }

    async fn define_bucket(&mut self, name: &str, config: &Map<String, Value>) -> Result<(), StoreError> {
        let definition = BucketDefinition::parse(config).map_err(|issues| invalid(issues.len()))?;
        assert_eq!(definition.config(), config);
        self.store.define_bucket(name, definition).await
    }

    async fn define_query(&mut self, name: &str, config: &Map<String, Value>) -> Result<(), StoreError> {
        let definition = QueryDefinition::parse(config).map_err(|issues| invalid(issues.len()))?;
        self.store.define_query(name, definition).await
    }

    async fn step(&mut self, source: &mut Source<'_>) -> Result<(), StoreError> {
        let name = source.pick(BUCKETS);
        let bucket = self.store.bucket(name);
        match source.below(16) {
            0 | 1 => {
                let config = source.bucket();
                self.define_bucket(name, &config).await
            }
            2 => self.store.update_bucket(name, source.updates()).await,
            3 if source.once_in(4) => self.store.drop_bucket(name).await,
            3 | 4 => {
                let config = source.query(name);
                self.define_query(source.pick(QUERIES), &config).await
            }
            5 if source.once_in(4) => self.store.undefine_query(source.pick(QUERIES)).await,
            5 | 6 => self.watch(source.pick(QUERIES), source.params()).await,
            7 | 8 => bucket.insert(&source.record()).await.map(drop),
            9 => bucket.upsert(&source.record()).await.map(drop),
            10 => bucket.update(Datum::from(&source.value(0)), &source.record()).await.map(drop),
            11 => bucket.delete(Datum::from(&source.value(0))).await.map(drop),
            12 => {
                let filter = filter(source)?;
                let changes = source.record();
                bucket.update_many(filter, &changes).await.map(drop)
            }
            13 if source.once_in(3) => bucket.clear().await,
            13 => bucket.delete_many(filter(source)?).await.map(drop),
            14 => self.transact(source).await,
            _ => {
                let leap = source.pick(&[1, 1_000, 60_000, 12 * 3_600_000]);
                self.time.fetch_add(leap, Ordering::Relaxed);
                self.store.purge_expired().await
            }
        }
    }

    async fn transact(&mut self, source: &mut Source<'_>) -> Result<(), StoreError> {
        let mut transaction = Transaction::new();
        for _ in 0..1 + source.below(4) {
            let bucket = source.pick(BUCKETS);
            let key = Datum::from(&source.value(0));
            transaction = match source.below(5) {
                0 | 1 => transaction.insert(bucket, &source.record())?,
                2 => transaction.update(bucket, key, &source.record())?,
                3 => transaction.delete(bucket, key),
                _ => transaction.select(bucket, filter(source)?),
            };
        }
        self.store.transact(transaction).await.map(drop)
    }

    async fn watch(&mut self, name: &'static str, params: Value) -> Result<(), StoreError> {
        let live = self.store.watch(name, params.clone()).await?;
        self.watched.push(Watched { name, params, live });
        Ok(())
    }

    /// What holds after every step.
    async fn check(&mut self, outcome: Result<(), StoreError>) {
        settle().await;
        let snapshot = self.store.snapshot();
        if let Err(error) = &outcome {
            assert_ne!(error.code(), ErrorCode::InternalError, "{error}");
            assert!(!error.to_string().is_empty());
        }
        for (name, bucket) in snapshot.buckets() {
            let config = bucket.definition().config();
            let again = BucketDefinition::parse(config)
                .unwrap_or_else(|issues| panic!("{name}: {config:?} is stored and cannot be read: {issues:?}"));
            assert_eq!(again.config(), config);
            check_bucket(bucket, snapshot.now());
        }
        for (_, query) in snapshot.queries() {
            if let noex_server::store::state::QueryKind::Declarative(definition) = &query.kind {
                QueryDefinition::parse(definition.config()).expect("what is stored can be read");
            }
        }
        self.check_watched();
        self.before = snapshot;
    }

    fn check_watched(&mut self) {
        self.watched.retain_mut(|watched| {
            use std::task::{Context, Poll, Waker};
            loop {
                let mut changed = std::pin::pin!(watched.live.changed());
                match changed.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(WatchError::Failed(error))) => panic!("a live query fails: {error}"),
                    Poll::Ready(Err(WatchError::Ended(_) | WatchError::Closed)) => return false,
                    Poll::Pending => break,
                }
            }
            let fresh = self.store.run_query(watched.name, &watched.params).expect("the query is there");
            assert_eq!(watched.live.value(), fresh, "{} {}", watched.name, watched.params);
            true
        });
    }

    async fn end(self) {
        drop(self.watched);
        settle().await;
        assert_eq!(self.store.stats().queries.active_subscriptions, 0);
        self.store.close().await.expect("a store in memory closes");
    }
}

fn invalid(issues: usize) -> StoreError {
    assert!(issues > 0, "refused without a reason");
    StoreError::Invalid {
        what: "definition".to_owned(),
        issues: Vec::new(),
    }
}

fn filter(source: &mut Source<'_>) -> Result<Filter, StoreError> {
    Filter::parse(&source.filter(2)).map_err(|issues| invalid(issues.len()))
}

/// Keys and unique values are held once, and indexes find what a scan finds.
fn check_bucket(bucket: &noex_server::store::state::Bucket, now: u64) {
    let reader = Reader::new(bucket, now);
    let all = reader.all();
    let key = bucket.key_field();
    let mut keys = HashSet::new();
    for record in &all {
        assert!(keys.insert(record.datum(key)), "two records have one key");
        assert!(reader.get(&record.datum(key)).is_some_and(|found| found.json() == record.json()));
    }
    if let Some(most) = bucket.definition().max_size() {
        assert!(
            all.len() <= most || !bucket.definition().references().is_empty() || all.len() <= most + 64,
            "more records than allowed"
        );
    }
    for field in FIELDS {
        let Some(record) = all.first() else { return };
        let Ok(value) = serde_json::from_slice::<Value>(record.token(&FieldName::new(field)).unwrap_or(b"null")) else {
            continue;
        };
        if value.is_array() || value.is_object() {
            continue;
        }
        let filter = Filter::from_value(&json!({ *field: { "$eq": value } })).expect("a sound filter");
        let scan = all.iter().filter(|record| filter.matches(record)).count();
        assert_eq!(reader.count(&filter), scan, "{filter:?}");
    }
}
