//! Random commands against a naive model: lists of objects, scanned for everything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use noex_server::protocol::{Datum, Record};
use noex_server::store::query::{Filter, Reader};
use noex_server::store::state::{Effects, State, apply};
use noex_server::store::{Action, BucketDefinition, Command, Operation, Outcome, RequestKey, Step, StoreError};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

type Object = Map<String, Value>;

/// The buckets of the test: unique values, all three kinds of references, generated keys, a cap, a lifetime.
fn definitions() -> Vec<(&'static str, Value)> {
    vec![
        (
            "people",
            json!({ "key": "id", "indexes": ["g", ["g", "n"]], "schema": {
                "id": { "type": "string" }, "n": { "type": "number", "min": 0 }, "g": { "type": "string" },
                "u": { "type": "string", "unique": true },
                "boss": { "type": "string", "ref": "people", "onDelete": "set_null" },
                "tag": { "type": "string", "generated": "uuid" } } }),
        ),
        (
            "notes",
            json!({ "key": "no", "etsType": "ordered_set", "schema": {
                "no": { "type": "number", "generated": "autoincrement" },
                "who": { "type": "string", "ref": "people", "onDelete": "cascade" } } }),
        ),
        (
            "loans",
            json!({ "key": "id", "schema": { "id": { "type": "string" }, "who": { "type": "string", "ref": "people" } } }),
        ),
        (
            "cache",
            json!({ "key": "id", "maxSize": 3, "schema": { "id": { "type": "string" }, "n": { "type": "number", "min": 0 } } }),
        ),
        (
            "short",
            json!({ "key": "id", "ttl": 50, "schema": { "id": { "type": "string" }, "u": { "type": "string", "unique": true } } }),
        ),
    ]
}

/// One thing to do, in terms of the test.
#[derive(Clone, Debug)]
enum Doing {
    Insert(&'static str, Object),
    Upsert(&'static str, Object),
    Update(&'static str, Value, Object),
    Delete(&'static str, Value),
    InsertMany(&'static str, Vec<Object>),
    UpdateMany(&'static str, Object, Object),
    DeleteMany(&'static str, Object),
    Clear(&'static str),
    Transaction(Vec<Doing>),
    Wait(u64),
}

fn record(object: &Object) -> Record {
    Record::from_object(object)
}

fn filter(object: &Object) -> Filter {
    Filter::parse(object).unwrap()
}

impl Doing {
    fn operation(&self) -> Operation {
        let bucket = |name: &str| name.into();
        match self {
            Self::Insert(b, r) => Operation::Insert {
                bucket: bucket(b),
                record: record(r),
            },
            Self::Upsert(b, r) => Operation::Upsert {
                bucket: bucket(b),
                record: record(r),
                expect_version: None,
            },
            Self::Update(b, key, c) => Operation::Update {
                bucket: bucket(b),
                key: Datum::from(key),
                changes: record(c),
                expect_version: None,
            },
            Self::Delete(b, key) => Operation::Delete {
                bucket: bucket(b),
                key: Datum::from(key),
                expect_version: None,
            },
            Self::InsertMany(b, list) => Operation::InsertMany {
                bucket: bucket(b),
                records: list.iter().map(record).collect(),
            },
            Self::UpdateMany(b, f, c) => Operation::UpdateMany {
                bucket: bucket(b),
                filter: filter(f),
                changes: record(c),
            },
            Self::DeleteMany(b, f) => Operation::DeleteMany {
                bucket: bucket(b),
                filter: filter(f),
            },
            Self::Clear(b) => Operation::Clear { bucket: bucket(b) },
            Self::Transaction(list) => Operation::Transaction {
                steps: list.iter().filter_map(Self::step).collect(),
            },
            Self::Wait(_) => Operation::Expire,
        }
    }

    fn step(&self) -> Option<Step> {
        let (bucket, action) = match self {
            Self::Insert(b, r) => (b, Action::Insert { record: record(r) }),
            Self::Update(b, key, c) => (
                b,
                Action::Update {
                    key: Datum::from(key),
                    changes: record(c),
                    expect_version: None,
                },
            ),
            Self::Delete(b, key) => (
                b,
                Action::Delete {
                    key: Datum::from(key),
                    expect_version: None,
                },
            ),
            Self::Upsert(..)
            | Self::InsertMany(..)
            | Self::UpdateMany(..)
            | Self::DeleteMany(..)
            | Self::Clear(_)
            | Self::Transaction(_)
            | Self::Wait(_) => return None,
        };
        Some(Step {
            bucket: (*bucket).into(),
            action,
            guard: None,
        })
    }
}

/// The naive model. Metadata is left out but for the version and the end of life.
#[derive(Clone, Debug, Default)]
struct Model {
    buckets: BTreeMap<&'static str, Vec<Object>>,
    numbers: u64,
    now: u64,
    /// Keys that went in the current command.
    gone: Vec<(&'static str, Value)>,
    /// References made in the current command.
    made: Vec<(&'static str, Value, &'static str)>,
}

struct Refused;

fn key_field(bucket: &str) -> &'static str {
    if bucket == "notes" { "no" } else { "id" }
}

impl Model {
    fn rows(&mut self, bucket: &'static str) -> &mut Vec<Object> {
        self.buckets.entry(bucket).or_default()
    }

    fn find(&mut self, bucket: &'static str, key: &Value) -> Option<usize> {
        self.rows(bucket).iter().position(|row| row[key_field(bucket)] == *key)
    }

    fn run(&mut self, doing: &Doing) -> Result<(), Refused> {
        let mut next = self.clone();
        let now = next.now;
        next.rows("short")
            .retain(|row| row["_expiresAt"].as_u64().is_some_and(|end| end > now));
        let expired = next.clone();
        next.gone.clear();
        next.made.clear();
        let outcome = next.act(doing).and_then(|()| next.settle());
        *self = if outcome.is_ok() { next } else { expired };
        outcome
    }

    fn act(&mut self, doing: &Doing) -> Result<(), Refused> {
        match doing {
            Doing::Insert(b, r) => self.insert(b, r),
            Doing::InsertMany(b, list) => list.iter().try_for_each(|r| self.insert(b, r)),
            Doing::Upsert(b, r) => match r.get(key_field(b)).and_then(|key| self.find(b, key)) {
                Some(at) => self.update_at(b, at, r),
                None => self.insert(b, r),
            },
            Doing::Update(b, key, changes) => {
                let at = self.find(b, key).ok_or(Refused)?;
                self.update_at(b, at, changes)
            }
            Doing::Delete(b, key) => {
                if let Some(at) = self.find(b, key) {
                    self.remove_at(b, at);
                }
                Ok(())
            }
            Doing::UpdateMany(b, f, changes) => {
                let matching: Vec<_> = self.matching(b, f);
                matching.into_iter().try_for_each(|at| self.update_at(b, at, changes))
            }
            Doing::DeleteMany(b, f) => {
                let matching = self.matching(b, f);
                for at in matching.into_iter().rev() {
                    self.remove_at(b, at);
                }
                Ok(())
            }
            Doing::Clear(b) => {
                while !self.rows(b).is_empty() {
                    self.remove_at(b, 0);
                }
                Ok(())
            }
            Doing::Transaction(list) => list
                .iter()
                .filter(|doing| doing.step().is_some())
                .try_for_each(|doing| self.act(doing)),
            Doing::Wait(_) => Ok(()),
        }
    }

    fn matching(&mut self, bucket: &'static str, filter: &Object) -> Vec<usize> {
        let (field, value) = filter.iter().next().expect("every filter of the test has one field");
        let rows = self.rows(bucket).iter().enumerate();
        rows.filter(|(_, row)| row.get(field) == Some(value)).map(|(at, _)| at).collect()
    }

    fn insert(&mut self, bucket: &'static str, given: &Object) -> Result<(), Refused> {
        let mut row = given.clone();
        if bucket == "notes" {
            match row.get("no").and_then(Value::as_u64) {
                Some(given) => self.numbers = self.numbers.max(given),
                None => {
                    self.numbers += 1;
                    row.insert("no".to_owned(), json!(self.numbers));
                }
            }
        }
        row.insert("_version".to_owned(), json!(1));
        if bucket == "short" {
            row.insert("_expiresAt".to_owned(), json!(self.now + 50));
        }
        if row.get("n").and_then(Value::as_i64).is_some_and(|n| n < 0) {
            return Err(Refused);
        }
        let key = row.get(key_field(bucket)).cloned().ok_or(Refused)?;
        if self.find(bucket, &key).is_some() {
            return Err(Refused);
        }
        self.note_references(bucket, &row, None);
        self.rows(bucket).push(row);
        Ok(())
    }

    fn update_at(&mut self, bucket: &'static str, at: usize, changes: &Object) -> Result<(), Refused> {
        let old = self.rows(bucket)[at].clone();
        let mut row = old.clone();
        for (name, value) in changes {
            if name != key_field(bucket) {
                row.insert(name.clone(), value.clone());
            }
        }
        let version = row["_version"].as_u64().unwrap_or(0);
        row.insert("_version".to_owned(), json!(version + 1));
        if row.get("n").and_then(Value::as_i64).is_some_and(|n| n < 0) {
            return Err(Refused);
        }
        self.note_references(bucket, &row, Some(&old));
        self.rows(bucket)[at] = row;
        Ok(())
    }

    fn remove_at(&mut self, bucket: &'static str, at: usize) {
        let row = self.rows(bucket).remove(at);
        self.gone.push((bucket, row[key_field(bucket)].clone()));
    }

    fn note_references(&mut self, bucket: &'static str, row: &Object, old: Option<&Object>) {
        for field in ["boss", "who"] {
            let value = row.get(field);
            if value.is_some_and(|value| !value.is_null()) && old.and_then(|old| old.get(field)) != value {
                self.made.push((bucket, row[key_field(bucket)].clone(), field));
            }
        }
    }

    /// References, cap and unique values, on the state at the end.
    fn settle(&mut self) -> Result<(), Refused> {
        let mut next = 0;
        while let Some((bucket, key)) = self.gone.get(next).cloned() {
            next += 1;
            if bucket != "people" || self.find("people", &key).is_some() {
                continue;
            }
            while let Some(at) = self.rows("notes").iter().position(|row| row.get("who") == Some(&key)) {
                self.remove_at("notes", at);
            }
            while let Some(at) = self.rows("people").iter().position(|row| row.get("boss") == Some(&key)) {
                self.update_at("people", at, json!({ "boss": null }).as_object().expect("an object"))?;
            }
        }
        for (bucket, key) in self.gone.clone() {
            if bucket == "people"
                && self.find("people", &key).is_none()
                && self.rows("loans").iter().any(|row| row.get("who") == Some(&key))
            {
                return Err(Refused);
            }
        }
        for (bucket, key, field) in self.made.clone() {
            let Some(at) = self.find(bucket, &key) else { continue };
            let target = self.rows(bucket)[at].get(field).cloned().unwrap_or(Value::Null);
            if !target.is_null() && self.find("people", &target).is_none() {
                return Err(Refused);
            }
        }
        while self.rows("cache").len() > 3 {
            self.rows("cache").remove(0);
        }
        for bucket in ["people", "short"] {
            let mut taken: Vec<_> = self
                .rows(bucket)
                .iter()
                .filter_map(|row| row.get("u"))
                .filter(|value| !value.is_null())
                .collect();
            let all = taken.len();
            taken.sort_by_key(|value| value.to_string());
            taken.dedup();
            if taken.len() < all {
                return Err(Refused);
            }
        }
        Ok(())
    }

    fn visible(&self, bucket: &str) -> Vec<Value> {
        let rows = self.buckets.get(bucket).cloned().unwrap_or_default();
        let live = |row: &Object| row.get("_expiresAt").and_then(Value::as_u64).is_none_or(|end| end > self.now);
        rows.into_iter().filter(live).map(Value::Object).collect()
    }
}

// Strategies are boxed: nested by value they are too large for a test thread's stack.
fn names() -> BoxedStrategy<Value> {
    prop::sample::select(vec!["a", "b", "c", "d"]).prop_map(Value::from).boxed()
}

fn people() -> BoxedStrategy<Object> {
    let optional = |name: &'static str| prop::option::of(names().prop_map(move |value| (name.to_owned(), value)));
    let number = prop::option::of((-1..4_i64).prop_map(|n| ("n".to_owned(), json!(n))));
    let boss = prop::option::weighted(
        0.2,
        prop_oneof![names(), Just(Value::Null)].prop_map(|value| ("boss".to_owned(), value)),
    );
    (
        optional("id"),
        number,
        optional("g"),
        prop::option::weighted(0.3, names().prop_map(|value| ("u".to_owned(), value))),
        boss,
    )
        .prop_map(|(id, n, g, u, boss)| [id, n, g, u, boss].into_iter().flatten().collect())
        .boxed()
}

fn referring(key: &'static str) -> BoxedStrategy<Object> {
    let given = prop::option::weighted(if key == "no" { 0.3 } else { 0.9 }, 1..6_u64);
    (given, prop::option::of(prop_oneof![4 => names(), 1 => Just(Value::Null)]))
        .prop_map(move |(id, who)| {
            let id = id.map(|id| (key.to_owned(), if key == "no" { json!(id) } else { json!(id.to_string()) }));
            id.into_iter().chain(who.map(|who| ("who".to_owned(), who))).collect()
        })
        .boxed()
}

fn object() -> BoxedStrategy<(&'static str, Object)> {
    prop_oneof![
        4 => people().prop_map(|object| ("people", object)),
        2 => referring("no").prop_map(|object| ("notes", object)),
        1 => referring("id").prop_map(|object| ("loans", object)),
        1 => people().prop_map(|mut object| { object.remove("u"); object.remove("boss"); ("cache", object) }),
        2 => people().prop_map(|mut object| { object.remove("n"); object.remove("boss"); ("short", object) }),
    ]
    .boxed()
}

fn key_for(bucket: &'static str) -> BoxedStrategy<Value> {
    match bucket {
        "notes" => (1..6_u64).prop_map(|no| json!(no)).boxed(),
        "loans" => (1..6_u64).prop_map(|id| json!(id.to_string())).boxed(),
        _ => names().boxed(),
    }
}

fn single() -> BoxedStrategy<Doing> {
    prop_oneof![
        4 => object().prop_map(|(bucket, object)| Doing::Insert(bucket, object)),
        2 => object().prop_flat_map(|(bucket, object)| key_for(bucket).prop_map(move |key| Doing::Update(bucket, key, object.clone()))),
        2 => object().prop_flat_map(|(bucket, _)| key_for(bucket).prop_map(move |key| Doing::Delete(bucket, key))),
    ]
    .boxed()
}

fn doing() -> BoxedStrategy<Doing> {
    let by_group = || names().prop_map(|group| Object::from_iter([("g".to_owned(), group)]));
    prop_oneof![
        12 => single(),
        2 => object().prop_map(|(bucket, object)| Doing::Upsert(bucket, object)),
        1 => prop::collection::vec(people(), 0..4).prop_map(|list| Doing::InsertMany("people", list)),
        1 => (by_group(), people()).prop_map(|(filter, mut changes)| { changes.remove("u"); Doing::UpdateMany("people", filter, changes) }),
        1 => by_group().prop_map(|filter| Doing::DeleteMany("people", filter)),
        1 => prop::sample::select(vec!["people", "notes", "loans", "cache", "short"]).prop_map(Doing::Clear),
        4 => prop::collection::vec(single(), 1..6).prop_map(Doing::Transaction),
        2 => (1..60_u64).prop_map(Doing::Wait),
    ]
    .boxed()
}

fn empty_state() -> State {
    let mut state = State::default();
    for (name, config) in definitions() {
        let definition = Arc::new(BucketDefinition::from_value(&config).unwrap());
        let command = Command::new(
            1_000,
            [0; 32],
            Operation::DefineBucket {
                name: name.into(),
                definition,
            },
        );
        apply(&mut state, &command, &mut Effects::default()).unwrap();
    }
    state
}

/// Everything that can be seen of a bucket, without what the model leaves out.
fn visible(state: &State, bucket: &str, now: u64) -> Vec<Value> {
    let reader = Reader::new(state.bucket(bucket).unwrap(), now);
    let strip = |record: &&Record| {
        let mut object = record.to_value();
        for name in ["_createdAt", "_updatedAt", "tag"] {
            object.as_object_mut().unwrap().shift_remove(name);
        }
        object
    };
    reader.all().iter().map(strip).collect()
}

fn everything(state: &State) -> Vec<String> {
    let records =
        |(name, bucket): (&_, &Arc<noex_server::store::state::Bucket>)| format!("{name}: {:?}", bucket.all_rows().collect::<Vec<_>>());
    state.buckets().map(records).collect()
}

/// Follows the order of commands as the store actor gives it: what has had its time goes first.
fn commands(doings: &[Doing]) -> Vec<Command> {
    let mut now = 1_000;
    let mut commands = Vec::new();
    for (at, doing) in doings.iter().enumerate() {
        if let Doing::Wait(ms) = doing {
            now += ms;
        }
        let seed = [u8::try_from(at % 251).unwrap(); 32];
        commands.push(Command::new(now, seed, Operation::Expire));
        commands.push(Command::new(now, seed, doing.operation()));
    }
    commands
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn random_commands_leave_what_a_naive_model_says(doings in prop::collection::vec(doing(), 1..40)) {
        let mut state = empty_state();
        let mut model = Model { now: 1_000, ..Model::default() };
        for (at, doing) in doings.iter().enumerate() {
            if let Doing::Wait(ms) = doing {
                model.now += ms;
            }
            let now = model.now;
            let seed = [1; 32];
            apply(&mut state, &Command::new(now, seed, Operation::Expire), &mut Effects::default()).unwrap();
            let before = everything(&state);
            let outcome = apply(&mut state, &Command::new(now, seed, doing.operation()), &mut Effects::default());
            let expected = model.run(doing);
            prop_assert_eq!(outcome.is_ok(), expected.is_ok(), "step {}: {:?} gave {:?}", at, doing, outcome);
            if outcome.is_err() {
                prop_assert_eq!(before, everything(&state), "step {}: a refused command changed something: {:?}", at, doing);
            }
            for (name, _) in definitions() {
                prop_assert_eq!(visible(&state, name, now), model.visible(name), "step {}: bucket {} after {:?}", at, name, doing);
            }
        }
    }

    #[test]
    fn the_same_commands_give_the_same_state(doings in prop::collection::vec(doing(), 1..40)) {
        let (mut one, mut other) = (empty_state(), empty_state());
        for command in commands(&doings) {
            let first = apply(&mut one, &command, &mut Effects::default());
            prop_assert_eq!(first, apply(&mut other, &command, &mut Effects::default()));
        }
        prop_assert_eq!(one.seq(), other.seq());
        prop_assert_eq!(everything(&one), everything(&other));
    }

    /// Commands come with keys of their own, and some come again later: what a repeat is answered, and what is there
    /// after all, is as if it had never come. After the window it is carried out anew, as if it had another key.
    #[test]
    fn repeats_within_the_window_are_as_if_they_had_never_come(
        doings in prop::collection::vec((doing(), any::<bool>(), prop::option::of(0..40_usize)), 1..40), window in 1..200_u64,
    ) {
        let (mut state, mut plain) = (empty_state(), empty_state());
        let mut now = 1_000;
        let mut sent: Vec<(Operation, String, u64, Result<Outcome, StoreError>)> = Vec::new();
        for (at, (doing, keyed, repeated)) in doings.iter().enumerate() {
            if let Doing::Wait(ms) = doing {
                now += ms;
            }
            let command = |operation: Operation| {
                let mut command = Command::new(now, [u8::try_from(at).unwrap(); 32], operation);
                command.limits.requests.window = Duration::from_millis(window);
                command
            };
            let mut both = |command: &Command, other: &Command| {
                (apply(&mut state, command, &mut Effects::default()), apply(&mut plain, other, &mut Effects::default()))
            };
            let expire = command(Operation::Expire);
            let (one, other) = both(&expire, &expire);
            prop_assert_eq!(one, other);
            let without_key = command(doing.operation());
            let name = format!("request {at}");
            let with_key = if *keyed { without_key.clone().once(RequestKey::new(&*name, at as u64).unwrap()) } else { without_key.clone() };
            let (answer, expected) = both(&with_key, &without_key);
            prop_assert_eq!(&answer, &expected, "step {}: {:?}", at, doing);
            if *keyed {
                sent.push((doing.operation(), name, now, answer));
            }
            let Some((operation, name, time, first)) = repeated.and_then(|which| sent.get_mut(which)) else { continue };
            let fingerprint = name.rsplit(' ').next().unwrap().parse().unwrap();
            let repeat = command(operation.clone()).once(RequestKey::new(&**name, fingerprint).unwrap());
            if *time + window > now {
                let answer = apply(&mut state, &repeat, &mut Effects::default());
                let told = |answer: &Result<Outcome, StoreError>| answer.clone().map_err(|error| (error.code(), error.to_string(), error.details()));
                prop_assert_eq!(told(&answer), told(first), "step {}: the repeat of {:?}", at, operation);
            } else {
                let (answer, expected) = both(&repeat, &command(operation.clone()));
                prop_assert_eq!(&answer, &expected, "step {}: {:?} after the window", at, operation);
                (*time, *first) = (now, answer);
            }
            prop_assert_eq!(everything(&state), everything(&plain));
        }
        prop_assert_eq!(everything(&state), everything(&plain));
    }

    #[test]
    fn the_effects_of_a_command_lead_from_the_state_before_to_the_one_after(doings in prop::collection::vec(doing(), 1..40)) {
        let mut state = empty_state();
        for command in commands(&doings) {
            let before = state.clone();
            let mut effects = Effects::default();
            let _ = apply(&mut state, &command, &mut effects);
            if !effects.emptied.is_empty() {
                continue;
            }
            for (name, bucket) in state.buckets() {
                let mut rows: BTreeMap<_, _> =
                    before.bucket(name.as_str()).unwrap().all_rows().map(|(row, record)| (row, record.clone())).collect();
                for change in effects.changes.iter().filter(|change| change.bucket == bucket.id()) {
                    prop_assert_eq!(rows.get(&change.row), change.old.as_ref());
                    match &change.new {
                        Some(record) => { rows.insert(change.row, record.clone()); }
                        None => { rows.remove(&change.row); }
                    }
                }
                let after: BTreeMap<_, _> = bucket.all_rows().map(|(row, record)| (row, record.clone())).collect();
                prop_assert_eq!(rows, after);
            }
        }
    }
}
