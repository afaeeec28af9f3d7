//! What does it cost to tell those who watch 10,000 records that one of them changed: as a delta, and as a whole?

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use noex_server::store::query::QueryDefinition;
use noex_server::store::{BucketDefinition, LiveQuery, Store, ViewResult};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

const RECORDS: i64 = 10_000;

/// A store with live queries on all of its records: in the order of insertion, and by name in part.
struct Watched {
    runtime: Runtime,
    store: Store,
    at: i64,
}

impl Watched {
    fn open() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let store = runtime.block_on(async {
            let store = Store::builder().in_memory().open().await.expect("memory is always there");
            let config = json!({ "key": "id", "schema": { "id": { "type": "number" } } });
            let definition = BucketDefinition::from_value(&config).expect("a sound definition");
            store.define_bucket("t", definition).await.expect("the name is free");
            let records: Vec<_> = (0..RECORDS)
                .map(|at| json!({ "id": at, "name": format!("n{:05}", at * 7_919 % RECORDS), "n": 0, "text": "x".repeat(64) }))
                .collect();
            store.bucket("t").insert_many(&records).await.expect("sound records");
            for (name, query) in [
                ("all", json!({ "bucket": "t" })),
                (
                    "by name",
                    json!({ "bucket": "t", "sort": { "name": "asc" }, "fields": ["id", "name", "n"] }),
                ),
            ] {
                let query = QueryDefinition::from_value(&query).expect("a sound query");
                store.define_query(name, query).await.expect("the name is free");
            }
            store
        });
        Self { runtime, store, at: 0 }
    }

    /// The result before and after one record changed.
    fn change(&mut self, live: &mut LiveQuery) -> (Arc<ViewResult>, Arc<ViewResult>) {
        let older = Arc::clone(live.result());
        self.at += 1;
        let bucket = self.store.bucket("t");
        let changes = json!({ "n": self.at });
        let write = bucket.update(self.at * 7_919 % RECORDS, &changes);
        self.runtime.block_on(write).expect("the record is there");
        self.runtime.block_on(live.changed()).expect("a new result");
        (older, Arc::clone(live.result()))
    }
}

fn deltas(criterion: &mut Criterion) {
    let mut watched = Watched::open();
    let mut group = criterion.benchmark_group("delta");
    for name in ["all", "by name"] {
        let mut live = watched
            .runtime
            .block_on(watched.store.watch(name, Value::Null))
            .expect("a sound query");
        group.bench_function(format!("{name}, as a delta"), |bencher| {
            let change = || watched.change(&mut live);
            bencher.iter_batched(
                change,
                |(older, newer)| black_box(newer.delta_from(&older)),
                BatchSize::PerIteration,
            );
        });
        group.bench_function(format!("{name}, as a whole"), |bencher| {
            let change = || watched.change(&mut live);
            bencher.iter_batched(change, |(_, newer)| black_box(newer.data()), BatchSize::PerIteration);
        });
    }
    group.finish();
}

criterion_group! { name = benches; config = Criterion::default().sample_size(30); targets = deltas }
criterion_main!(benches);
