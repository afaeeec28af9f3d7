//! What does it cost to be bound by a guard: reading a record, and a write on a bucket that many follow, each within a
//! guard of their own?

use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use noex_server::protocol::{Datum, FieldName, SubscriptionId};
use noex_server::store::query::QueryDefinition;
use noex_server::store::{BucketDefinition, Guard, Sink, Store, SubscribeOptions, Subscription, Update};
use serde_json::{Value, json};

const OWNERS: usize = 1_000;

struct Nobody;

impl Sink for Nobody {
    fn push(&self, _: SubscriptionId, _: Update) {}
}

fn own(owner: usize, fields: Option<&[&str]>) -> Arc<Guard> {
    let filter = json!({ "owner": format!("o{owner}") });
    let fields = fields.map(|fields| fields.iter().map(|name| (*name).to_owned()).collect());
    Guard::new(filter.as_object().expect("an object"), fields).expect("a sound filter")
}

async fn open() -> Store {
    let store = Store::builder().in_memory().open().await.expect("memory is always there");
    let config = json!({ "key": "id", "indexes": ["owner"], "schema": { "id": { "type": "number" }, "owner": { "type": "string" } } });
    let definition = BucketDefinition::from_value(&config).expect("a sound definition");
    store.define_bucket("t", definition).await.expect("the name is free");
    let records: Vec<_> = (0..100_000)
        .map(|at| json!({ "id": at, "owner": format!("o{}", at % OWNERS), "n": 0, "name": "a record of some length", "secret": "x" }))
        .collect();
    store.bucket("t").insert_many(&records).await.expect("sound records");
    let query = QueryDefinition::from_value(&json!({ "bucket": "t" })).expect("a sound query");
    store.define_query("all", query).await.expect("the name is free");
    store
}

/// Everybody follows what is theirs.
async fn follow_all(store: &Store) -> Vec<Subscription> {
    let mut held = Vec::new();
    for owner in 0..OWNERS {
        let options = SubscribeOptions {
            guard: Some(own(owner, None)),
            ..SubscribeOptions::default()
        };
        let watching = store.subscribe_with("all", &Value::Null, SubscriptionId::next(), Arc::new(Nobody), options);
        held.push(watching.await.expect("a sound query").subscription);
    }
    held
}

fn guards(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let store = runtime.block_on(open());
    let mut group = criterion.benchmark_group("guard");

    let (key, id) = (Datum::from(7_007_i64), FieldName::new("id"));
    let guards = [
        ("free", None),
        ("rows", Some(own(7, None))),
        ("rows and fields", Some(own(7, Some(&["owner", "n", "name"])))),
    ];
    for (name, guard) in &guards {
        group.bench_function(BenchmarkId::new("get", name), |bencher| {
            bencher.iter(|| {
                let found = store.bucket("t").read(|reader| {
                    let record = reader.get(&key)?;
                    match guard {
                        None => Some(record.clone()),
                        Some(guard) => guard.admits(record).then(|| guard.shown(record, &id)),
                    }
                });
                found.expect("the bucket is there").expect("the record is theirs")
            });
        });
    }

    for views in [0, OWNERS] {
        let _held = if views > 0 {
            runtime.block_on(follow_all(&store))
        } else {
            Vec::new()
        };
        group.bench_with_input(BenchmarkId::new("update", views), &views, |bencher, _| {
            let mut at = 0_i64;
            bencher.iter(|| {
                at = (at + 7_919) % 100_000;
                runtime
                    .block_on(store.bucket("t").update(at, &json!({ "n": 1 })))
                    .expect("the record is there")
            });
        });
    }
    group.finish();
}

criterion_group! { name = benches; config = Criterion::default().sample_size(30); targets = guards }
criterion_main!(benches);
