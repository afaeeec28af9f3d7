//! How large the answer to a write will be, as far as can be known before it is carried out: a connection has no more on
//! the way than it may have unsent.

use std::ops::Deref;

use crate::protocol::{BucketName, Datum, Record};
use crate::store::state::State;
use crate::store::{Action, Operation, Step};

/// The bytes of the answer to an operation on a state, which is taken only where it tells; `result_bytes_max` where only
/// carrying the operation out does.
pub(super) fn expected_bytes<S: Deref<Target = State>>(operation: &Operation, state: impl FnOnce() -> S, result_bytes_max: usize) -> usize {
    match operation {
        Operation::Insert { record, .. } => record.json().len(),
        Operation::InsertMany { records, .. } => records.iter().map(|record| record.json().len()).sum(),
        Operation::Update { bucket, key, changes, .. } => updated(&state(), bucket, key, changes),
        Operation::Upsert { bucket, record, .. } => upserted(&state(), bucket, record),
        Operation::Transaction { steps } => {
            let state = state();
            let sizes = steps.iter().map(|step| of_step(step, &state, result_bytes_max));
            sizes.fold(0, usize::saturating_add).min(result_bytes_max)
        }
        Operation::Guarded { operation, .. } => expected_bytes(operation, state, result_bytes_max),
        // A number, or a word.
        Operation::Delete { .. }
        | Operation::UpdateMany { .. }
        | Operation::DeleteMany { .. }
        | Operation::Clear { .. }
        | Operation::Expire
        | Operation::DefineBucket { .. }
        | Operation::UpdateBucket { .. }
        | Operation::DropBucket { .. }
        | Operation::DefineQuery { .. }
        | Operation::DefineClosure { .. }
        | Operation::UndefineQuery { .. } => 0,
    }
}

fn of_step(step: &Step, state: &State, result_bytes_max: usize) -> usize {
    match &step.action {
        Action::Get { key, .. } => stored(state, &step.bucket, key),
        Action::Insert { record } => record.json().len(),
        Action::Update { key, changes, .. } => updated(state, &step.bucket, key, changes),
        Action::Delete { .. } | Action::Count { .. } => 0,
        Action::Where { .. } | Action::FindOne { .. } => result_bytes_max,
    }
}

fn updated(state: &State, bucket: &BucketName, key: &Datum, changes: &Record) -> usize {
    stored(state, bucket, key) + changes.json().len()
}

fn upserted(state: &State, bucket: &BucketName, record: &Record) -> usize {
    let key = state.bucket(bucket.as_str()).ok().map(|bucket| record.datum(bucket.key_field()));
    key.map_or(0, |key| stored(state, bucket, &key)) + record.json().len()
}

fn stored(state: &State, bucket: &BucketName, key: &Datum) -> usize {
    let record = state
        .bucket(bucket.as_str())
        .ok()
        .and_then(|bucket| bucket.row(bucket.row_of(key)?));
    record.map_or(0, |record| record.json().len())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::store::Command;
    use crate::store::query::Filter;
    use crate::store::state::{BucketDefinition, Effects, apply};

    const MAX: usize = 1_000_000;

    fn record(value: &Value) -> Record {
        Record::from_object(value.as_object().expect("tests give objects"))
    }

    /// A state with one large record.
    fn state() -> State {
        let config = json!({ "key": "id", "schema": { "id": { "type": "string" }, "text": { "type": "string" } } });
        let define = Operation::DefineBucket {
            name: "t".into(),
            definition: Arc::new(BucketDefinition::from_value(&config).expect("it is well formed")),
        };
        let insert = Operation::Insert {
            bucket: "t".into(),
            record: record(&json!({ "id": "a", "text": "x".repeat(50_000) })),
        };
        let mut state = State::default();
        for operation in [define, insert] {
            apply(&mut state, &Command::new(0, [0; 32], operation), &mut Effects::default()).expect("it is sound");
        }
        state
    }

    fn transaction(actions: impl IntoIterator<Item = Action>) -> Operation {
        let step = |action| Step {
            bucket: "t".into(),
            action,
            guard: None,
        };
        Operation::Transaction {
            steps: actions.into_iter().map(step).collect(),
        }
    }

    fn get() -> Action {
        Action::Get {
            key: Datum::text("a"),
            expect_version: None,
        }
    }

    #[test]
    fn a_small_request_about_a_large_record_counts_as_the_record() {
        let changes = record(&json!({ "id": "a" }));
        let update = Operation::Update {
            bucket: "t".into(),
            key: Datum::text("a"),
            changes: changes.clone(),
            expect_version: None,
        };
        let upsert = Operation::Upsert {
            bucket: "t".into(),
            record: changes.clone(),
            expect_version: None,
        };
        let update_step = Action::Update {
            key: Datum::text("a"),
            changes,
            expect_version: None,
        };
        let (state, nothing) = (state(), State::default());
        for operation in [update, upsert, transaction([update_step]), transaction([get()])] {
            let bytes = expected_bytes(&operation, || &state, MAX);
            assert!((50_000..51_000).contains(&bytes), "{bytes}: {operation:?}");
            assert!(expected_bytes(&operation, || &nothing, MAX) < 100, "{operation:?}");
        }
        assert!(expected_bytes(&transaction([get(), get(), get()]), || &state, MAX) > 150_000);
    }

    #[test]
    fn what_only_the_store_can_tell_counts_as_much_as_an_answer_may_be() {
        let state = state();
        let found = Action::Where {
            filter: Filter::everything(),
        };
        assert_eq!(expected_bytes(&transaction([get(), found]), || &state, MAX), MAX);
        let counted = Action::Count {
            filter: Filter::everything(),
        };
        assert_eq!(expected_bytes(&transaction([counted]), || &state, MAX), 0);
        assert_eq!(
            expected_bytes(&transaction(std::iter::repeat_with(get).take(100)), || &state, MAX),
            MAX
        );
    }
}
