//! What does a page cost, by where in a million records it lies?

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use noex_server::protocol::{Datum, Record};
use noex_server::store::query::Reader;
use noex_server::store::state::{Effects, State, apply};
use noex_server::store::{BucketDefinition, Command, Operation};
use serde_json::json;

/// Where the benchmarks are only run once to see that they run, few records do.
fn record_count() -> i64 {
    if std::env::args().any(|argument| argument == "--test") {
        10_000
    } else {
        1_000_000
    }
}

const PAGE: usize = 50;

fn filled(config: &serde_json::Value) -> State {
    let definition = BucketDefinition::from_value(config).expect("a sound definition");
    let mut state = State::default();
    let mut run = |operation| {
        let command = Command::new(0, [0; 32], operation);
        apply(&mut state, &command, &mut Effects::default()).expect("a sound command");
    };
    run(Operation::DefineBucket {
        name: "t".into(),
        definition: Arc::new(definition),
    });
    for id in 0..record_count() {
        let record = json!({ "id": id, "text": "x" });
        run(Operation::Insert {
            bucket: "t".into(),
            record: Record::from_object(record.as_object().expect("an object")),
        });
    }
    state
}

fn pages(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("page");
    for (kind, config) in [
        ("by insertion", json!({ "key": "id", "schema": { "id": { "type": "number" } } })),
        (
            "by key",
            json!({ "key": "id", "etsType": "ordered_set", "schema": { "id": { "type": "number" } } }),
        ),
    ] {
        let state = filled(&config);
        let reader = Reader::new(state.bucket("t").expect("the bucket is there"), 0);
        group.bench_function(format!("{kind}, the first"), |bencher| {
            bencher.iter(|| black_box(reader.paginate(PAGE, None)))
        });
        let near_end = Datum::from(record_count() - PAGE as i64 - 1);
        group.bench_function(format!("{kind}, the last"), |bencher| {
            bencher.iter(|| black_box(reader.paginate(PAGE, Some(&near_end))))
        });
    }
    group.finish();
}

criterion_group! { name = benches; config = Criterion::default().sample_size(20); targets = pages }
criterion_main!(benches);
