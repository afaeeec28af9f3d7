//! What does encoding cost: a record when it is written, a result of a thousand records when it is pushed?

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use noex_server::protocol::{FieldName, Record};
use noex_server::store::query::QueryDefinition;
use noex_server::store::{BucketDefinition, Store};
use serde_json::{Map, Value, json};

fn object(at: usize) -> Map<String, Value> {
    let value = json!({ "id": format!("k{at}"), "group": "g7", "n": at, "text": "x".repeat(64), "deep": { "a": [1, 2.5, null] } });
    value.as_object().cloned().unwrap_or_default()
}

fn records(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    let one = object(1);
    let record = Record::from_object(&one);
    group.throughput(Throughput::Bytes(record.json().len() as u64));
    group.bench_function("a record from a value", |bencher| {
        bencher.iter(|| black_box(Record::from_object(&one)))
    });
    let field = FieldName::new("text");
    group.bench_function("a field of a record", |bencher| bencher.iter(|| black_box(record.value(&field))));
    group.finish();
}

fn results(criterion: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let store = runtime.block_on(async {
        let store = Store::builder().in_memory().open().await.expect("memory is always there");
        let config = json!({ "key": "id", "schema": { "id": { "type": "string" } } });
        let definition = BucketDefinition::from_value(&config).expect("a sound definition");
        store.define_bucket("t", definition).await.expect("the name is free");
        let records: Vec<_> = (0..1_000).map(object).collect();
        store.bucket("t").insert_many(&records).await.expect("sound records");
        let query = QueryDefinition::from_value(&json!({ "bucket": "t" })).expect("a sound query");
        store.define_query("all", query).await.expect("the name is free");
        store
    });
    criterion.bench_function("encode/a result of 1,000 records", |bencher| {
        bencher.iter(|| black_box(store.snapshot().run_query("all", &Value::Null, 0)));
    });
}

criterion_group!(benches, records, results);
criterion_main!(benches);
