//! What does a filter cost, tested on records one by one and served by an index?

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use noex_server::protocol::Record;
use noex_server::store::query::{Filter, Reader};
use noex_server::store::state::{Effects, State, apply};
use noex_server::store::{BucketDefinition, Command, Operation};
use serde_json::{Value, json};

const RECORDS: usize = 100_000;

fn filled() -> State {
    let config = json!({ "key": "id", "indexes": ["group"], "schema": { "id": { "type": "number" }, "group": { "type": "string" } } });
    let definition = BucketDefinition::from_value(&config).expect("a sound definition");
    let mut state = State::default();
    let mut run = |operation| {
        let command = Command::new(0, [0; 32], operation);
        apply(&mut state, &command, &mut Effects::default()).expect("a sound command");
    };
    run(Operation::DefineBucket {
        name: "t".into(),
        definition: Arc::new(definition),
    });
    let record = |at: usize| json!({ "id": at, "group": format!("g{}", at / 10), "plain": format!("p{}", at % 1000), "n": at % 97 });
    let records = (0..RECORDS)
        .map(|at| Record::from_object(record(at).as_object().expect("an object")))
        .collect();
    run(Operation::InsertMany {
        bucket: "t".into(),
        records,
    });
    state
}

fn filter(value: &Value) -> Filter {
    Filter::from_value(value).expect("a sound filter")
}

fn filters(criterion: &mut Criterion) {
    let state = filled();
    let reader = Reader::new(state.bucket("t").expect("the bucket is there"), 0);
    let mut group = criterion.benchmark_group("filter");
    for (name, value) in [
        ("by key", json!({ "id": 77_777 })),
        ("by index, 10 results", json!({ "group": "g77" })),
        ("by index, two values", json!({ "group": { "$in": ["g77", "g99"] } })),
        ("scan of 100,000, equality", json!({ "plain": "p7" })),
        (
            "scan of 100,000, range and text",
            json!({ "n": { "$gte": 90 }, "plain": { "$contains": "P99" } }),
        ),
    ] {
        let filter = filter(&value);
        group.bench_function(name, |bencher| bencher.iter(|| black_box(reader.select(&filter).len())));
    }
    group.bench_function("parse", |bencher| {
        let value = json!({ "n": { "$gte": 90 }, "$or": [{ "plain": "p1" }, { "group": { "$in": ["g1", "g2"] } }] });
        bencher.iter(|| black_box(filter(&value)));
    });
    group.finish();
}

criterion_group! { name = benches; config = Criterion::default().sample_size(20); targets = filters }
criterion_main!(benches);
