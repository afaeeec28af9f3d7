//! What does one command cost, by the size of the bucket it goes to?

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use noex_server::protocol::{Datum, Record};
use noex_server::store::state::{Effects, State, apply};
use noex_server::store::{BucketDefinition, Command, Operation};
use serde_json::json;

fn definition() -> Arc<BucketDefinition> {
    let config = json!({ "key": "id", "indexes": ["group"], "schema": {
        "id": { "type": "string", "required": true }, "group": { "type": "string" },
        "n": { "type": "number" }, "text": { "type": "string" } } });
    Arc::new(BucketDefinition::from_value(&config).expect("a sound definition"))
}

fn record(at: usize) -> Record {
    let value = json!({ "id": format!("k{at}"), "group": format!("g{}", at / 10), "n": at, "text": "x".repeat(64) });
    Record::from_object(value.as_object().expect("an object"))
}

fn run(state: &mut State, operation: Operation) {
    let command = Command::new(1_790_000_000_000, [7; 32], operation);
    let _ = black_box(apply(state, &command, &mut Effects::default()));
}

fn filled(records: usize) -> State {
    let mut state = State::default();
    run(
        &mut state,
        Operation::DefineBucket {
            name: "load".into(),
            definition: definition(),
        },
    );
    for at in 0..records {
        run(
            &mut state,
            Operation::Insert {
                bucket: "load".into(),
                record: record(at),
            },
        );
    }
    state
}

/// One command on a state of which a reader holds the version before, as after every commit group.
fn commands(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("apply");
    for records in [1_000, 100_000] {
        let published = filled(records);
        let changes = Record::from_object(json!({ "n": 5 }).as_object().expect("an object"));
        group.bench_with_input(BenchmarkId::new("insert", records), &records, |bencher, _| {
            let new = record(records + 1);
            bencher.iter(|| {
                run(
                    &mut published.clone(),
                    Operation::Insert {
                        bucket: "load".into(),
                        record: new.clone(),
                    },
                )
            });
        });
        group.bench_with_input(BenchmarkId::new("update", records), &records, |bencher, _| {
            let mut at = 0;
            bencher.iter(|| {
                at = (at + 7_919) % records;
                let key = Datum::from(format!("k{at}"));
                let operation = Operation::Update {
                    bucket: "load".into(),
                    key,
                    changes: changes.clone(),
                    expect_version: None,
                };
                run(&mut published.clone(), operation);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, commands);
criterion_main!(benches);
