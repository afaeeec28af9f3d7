//! What does a write cost, by the number of live views on its bucket that it does not touch?

use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use noex_server::protocol::SubscriptionId;
use noex_server::store::query::QueryDefinition;
use noex_server::store::{BucketDefinition, Sink, Store, Update};
use serde_json::json;

struct Nobody;

impl Sink for Nobody {
    fn push(&self, _: SubscriptionId, _: Update) {}
}

async fn open(views: usize) -> (Store, Vec<noex_server::store::Subscription>) {
    let store = Store::builder().in_memory().open().await.expect("memory is always there");
    let config = json!({ "key": "id", "indexes": ["group"], "schema": { "id": { "type": "number" }, "group": { "type": "string" } } });
    let definition = BucketDefinition::from_value(&config).expect("a sound definition");
    store.define_bucket("t", definition).await.expect("the name is free");
    let records: Vec<_> = (0..100_000)
        .map(|at| json!({ "id": at, "group": format!("g{}", at / 10), "n": 0 }))
        .collect();
    store.bucket("t").insert_many(&records).await.expect("sound records");
    let query = json!({ "bucket": "t", "filter": { "group": "{{ params.g }}" } });
    let query = QueryDefinition::from_value(&query).expect("a sound query");
    store.define_query("by-group", query).await.expect("the name is free");
    let mut held = Vec::new();
    for view in 0..views {
        let params = json!({ "g": format!("g{view}") });
        let subscribed = store
            .subscribe("by-group", &params, SubscriptionId::next(), Arc::new(Nobody))
            .await
            .expect("a sound query");
        held.push(subscribed.subscription);
    }
    (store, held)
}

fn maintenance(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let mut group = criterion.benchmark_group("views");
    for views in [10, 10_000] {
        let (store, _held) = runtime.block_on(open(views));
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

criterion_group! { name = benches; config = Criterion::default().sample_size(30); targets = maintenance }
criterion_main!(benches);
