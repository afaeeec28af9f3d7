//! Deltas by the rule by which clients apply them: what they make of an older result is the newer one.

use std::collections::HashSet;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::live_view::{LiveView, Plan};
use super::result::ViewResult;
use super::rows::Versions;
use crate::protocol::{ErrorCode, Record};
use crate::store::command::{Action, Step};
use crate::store::query::QueryDefinition;
use crate::store::state::{BucketDefinition, Effects, State, apply};
use crate::store::{Command, Operation};

const BUCKET: &str = "t";

/// Applies a delta to a result as the protocol says.
fn applied(older: &Option<Value>, delta: &Value) -> Option<Value> {
    let Some(upserted) = delta.get("upserted") else {
        return delta.get("value").cloned();
    };
    let upserted: Vec<(usize, Value)> = serde_json::from_value(upserted.clone()).unwrap();
    let removed: Vec<Value> = serde_json::from_value(delta["removed"].clone()).unwrap();
    let mut list = older.as_ref().unwrap().as_array().unwrap().clone();
    for key in &removed {
        assert!(list.iter().any(|record| record["id"] == *key), "{key} is removed and was not there");
        assert!(upserted.iter().all(|(_, record)| record["id"] != *key), "{key} is in both lists");
    }
    list.retain(|record| !removed.contains(&record["id"]) && upserted.iter().all(|(_, it)| it["id"] != record["id"]));
    assert!(upserted.windows(2).all(|pair| pair[0].0 < pair[1].0), "positions ascend");
    for (at, record) in upserted {
        list.insert(at, record);
    }
    Some(Value::Array(list))
}

/// A list's delta tells what a client cannot know, and where no record passed another nothing else. Which of two records
/// that changed places has moved is open: it depends on what is known of the records, which a projection may hide.
fn assert_is_short(older: &Option<Value>, newer: &Option<Value>, delta: &Value) {
    let Some(upserted) = delta.get("upserted") else { return };
    // As texts: fields in another order look different.
    let texts = |list: &Value| -> Vec<String> { list.as_array().unwrap().iter().map(Value::to_string).collect() };
    let (older, newer) = (texts(older.as_ref().unwrap()), texts(newer.as_ref().unwrap()));
    let told: Vec<_> = upserted.as_array().unwrap().iter().map(|pair| pair[1].to_string()).collect();
    let unknown: Vec<_> = newer.iter().filter(|it| !older.contains(it)).cloned().collect();
    let stayed = older.iter().filter(|it| newer.contains(it));
    if stayed.eq(newer.iter().filter(|it| older.contains(it))) {
        assert_eq!(told, unknown, "from {older:?} to {newer:?}");
    } else {
        assert!(told.len() < newer.len(), "from {older:?} to {newer:?}: {told:?}");
        assert!(unknown.iter().all(|it| told.contains(it)), "from {older:?} to {newer:?}: {told:?}");
    }
}

fn value_of(result: &ViewResult) -> Option<Value> {
    result.data().map(|json| serde_json::from_slice(&json).unwrap())
}

fn parsed(json: &[u8]) -> Value {
    serde_json::from_slice(json).unwrap()
}

fn record(value: &Value) -> Record {
    Record::from_object(value.as_object().unwrap())
}

/// The state, what was seen of it earlier, and views of it.
struct World {
    state: State,
    views: Vec<LiveView>,
    /// Each earlier state with the results that the views had.
    past: Vec<(State, Vec<Arc<ViewResult>>)>,
}

impl World {
    fn new(queries: &[Value], records: impl IntoIterator<Item = Value>) -> Self {
        let config = json!({ "key": "id", "indexes": ["n"], "schema": { "id": { "type": "string" }, "n": { "type": "number" } } });
        let define = Operation::DefineBucket {
            name: BUCKET.into(),
            definition: Arc::new(BucketDefinition::from_value(&config).unwrap()),
        };
        let records = records.into_iter().map(|value| upsert(&value));
        let mut state = State::default();
        for operation in std::iter::once(define).chain(records) {
            apply(&mut state, &Command::new(0, [0; 32], operation), &mut Effects::default()).unwrap();
        }
        let views = queries.iter().map(|query| LiveView::evaluate(plan(query), &state).unwrap());
        let mut world = Self {
            views: views.collect(),
            past: Vec::new(),
            state,
        };
        world.remember();
        world
    }

    fn remember(&mut self) {
        let results = self.views.iter().map(|view| Arc::clone(view.latest())).collect();
        self.past.push((self.state.clone(), results));
    }

    /// Carries out a commit group and lets the views follow.
    fn commit(&mut self, group: &[Operation]) {
        let mut effects = Effects::default();
        for operation in group {
            // What is refused changes nothing.
            let _ = apply(&mut self.state, &Command::new(0, [0; 32], operation.clone()), &mut effects);
        }
        let changes: Vec<_> = effects.changes.iter().collect();
        for view in &mut self.views {
            if effects.emptied.is_empty() {
                view.follow(&changes, &self.state, &mut 0);
            } else {
                view.reevaluate(&self.state, &mut 0);
            }
        }
        self.remember();
    }

    /// The rows that differ from an earlier state, as they were, and some that do not.
    fn versions(&self, earlier: &State) -> Versions {
        let bucket = |state: &State| Arc::clone(state.bucket(BUCKET).unwrap());
        let (old, new) = (bucket(earlier), bucket(&self.state));
        let rows: HashSet<_> = old.all_rows().chain(new.all_rows()).map(|(row, _)| row).collect();
        let touched = rows.into_iter().filter(|row| row.0 % 7 == 0 || old.row(*row) != new.row(*row));
        touched.map(|row| (row, old.row(row).cloned())).collect()
    }

    /// Every earlier result becomes the latest one.
    fn check(&self) {
        let last = self.past.last().unwrap();
        for (state, results) in &self.past {
            let before = self.versions(state);
            for (at, older) in results.iter().enumerate() {
                let (older_value, newer) = (value_of(older), &last.1[at]);
                let expected = value_of(newer);
                let context = || format!("view {at} from {older_value:?} to {expected:?}");
                let between = newer.compare(older);
                let since = self.views[at].delta_since(&before, &self.state);
                for delta in [&between, &since] {
                    let json = parsed(&delta.to_json());
                    assert_eq!(applied(&older_value, &json), expected, "{}", context());
                    assert_is_short(&older_value, &expected, &json);
                }
                let is_list = parsed(&between.to_json()).get("upserted").is_some();
                assert_eq!(since.is_empty(), is_list && older.data() == newer.data(), "{}", context());
                let back = parsed(&older.delta_from(newer));
                assert_eq!(applied(&expected, &back), older_value, "back: {}", context());
                assert_eq!(parsed(&newer.delta_from(older)), parsed(&between.to_json()));
            }
        }
    }
}

fn plan(query: &Value) -> Plan {
    let mut config = query.as_object().unwrap().clone();
    config.insert("bucket".to_owned(), json!(BUCKET));
    let definition = QueryDefinition::parse(&config).unwrap();
    Plan::Query(Arc::new(definition.resolve(&serde_json::Map::new()).unwrap()))
}

fn upsert(value: &Value) -> Operation {
    Operation::Upsert {
        bucket: BUCKET.into(),
        record: record(value),
        expect_version: None,
    }
}

fn delete(key: &str) -> Operation {
    Operation::Delete {
        bucket: BUCKET.into(),
        key: key.into(),
        expect_version: None,
    }
}

/// The same key, in another row.
fn replace(value: &Value) -> Operation {
    let step = |action| Step {
        bucket: BUCKET.into(),
        action,
        guard: None,
    };
    let key = value["id"].as_str().unwrap().into();
    Operation::Transaction {
        steps: vec![
            step(Action::Delete { key, expect_version: None }),
            step(Action::Insert { record: record(value) }),
        ],
    }
}

fn a_record(keys: u32) -> impl Strategy<Value = Value> {
    let number = prop::option::weighted(0.9, 0..12_i64);
    (0..keys, number, 0..3_u8).prop_map(|(key, n, m)| {
        let mut value = json!({ "id": format!("k{key}"), "m": m });
        if let Some(n) = n {
            value["n"] = json!(n);
        }
        value
    })
}

fn operation(keys: u32) -> impl Strategy<Value = Operation> {
    prop_oneof![
        12 => a_record(keys).prop_map(|value| upsert(&value)),
        6 => (0..keys).prop_map(|key| delete(&format!("k{key}"))),
        4 => a_record(keys).prop_map(|value| replace(&value)),
        1 => Just(Operation::Clear { bucket: BUCKET.into() }),
    ]
}

fn a_query() -> impl Strategy<Value = Value> {
    let filter = prop::sample::select(vec![
        json!({}),
        json!({ "n": { "$lt": 6 } }),
        json!({ "m": { "$neq": 1 } }),
        json!({ "n": { "$exists": true }, "m": 0 }),
    ]);
    let sort = prop::sample::select(vec![
        json!({}),
        json!({ "n": "asc" }),
        json!({ "n": "desc" }),
        json!({ "m": "asc", "n": "desc" }),
        json!({ "id": "desc" }),
    ]);
    let fields = prop::sample::select(vec![
        json!([]),
        json!([]),
        json!(["id"]),
        json!(["m", "id"]),
        json!(["id", "n"]),
        json!(["m"]),
    ]);
    let offset = prop_oneof![Just(0_usize), 0..8_usize, 30..60_usize];
    let limit = prop::option::of(prop_oneof![0..8_usize, 30..50_usize]);
    (filter, sort, fields, offset, limit).prop_map(|(filter, sort, fields, offset, limit)| {
        let mut query = json!({ "filter": filter, "sort": sort, "fields": fields, "offset": offset });
        if let Some(limit) = limit {
            query["limit"] = json!(limit);
        }
        query
    })
}

fn run(queries: &[Value], records: Vec<Value>, groups: &[Vec<Operation>]) {
    let aggregates = [
        json!({ "aggregate": { "function": "min", "field": "n" } }),
        json!({ "aggregate": { "function": "count", "groupBy": "m" } }),
    ];
    let queries: Vec<_> = queries.iter().chain(&aggregates).cloned().collect();
    let mut world = World::new(&queries, records);
    for group in groups {
        world.commit(group);
        world.check();
    }
}

/// Two versions of a view that look alike, but hold their records in other places, find different records moved.
#[test]
fn two_records_that_changed_places_are_told_as_one_move_of_either() {
    let query = json!({ "filter": { "n": { "$lt": 6 } }, "sort": { "m": "asc", "n": "desc" }, "fields": ["id"] });
    let groups = [
        vec![upsert(&json!({ "id": "k1", "m": 0, "n": 0 }))],
        vec![upsert(&json!({ "id": "k1", "m": 0, "n": 1 }))],
        vec![upsert(&json!({ "id": "k8", "m": 1 }))],
    ];
    run(&[query], vec![json!({ "id": "k8", "m": 0, "n": 0 })], &groups);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_delta_makes_the_newer_result_of_the_older_one(
        queries in prop::collection::vec(a_query(), 3),
        records in prop::collection::vec(a_record(10), 0..12),
        groups in prop::collection::vec(prop::collection::vec(operation(10), 1..4), 1..10),
    ) {
        run(&queries, records, &groups);
    }

    #[test]
    fn every_delta_of_many_records_makes_the_newer_result_of_the_older_one(
        queries in prop::collection::vec(a_query(), 3),
        records in prop::collection::vec(a_record(300), 100..300),
        groups in prop::collection::vec(prop::collection::vec(operation(300), 1..40), 1..6),
    ) {
        run(&queries, records, &groups);
    }
}

fn numbered(count: u32) -> Vec<Value> {
    (0..count).map(|n| json!({ "id": format!("k{n:03}"), "n": n, "m": 0 })).collect()
}

/// The delta that a commit makes of a query's result over so many records, both ways of computing it.
fn delta_of(query: Value, count: u32, group: &[Operation]) -> Value {
    let mut world = World::new(&[query], numbered(count));
    world.commit(group);
    world.check();
    let (older, newer) = (&world.past[0].1[0], &world.past[1].1[0]);
    parsed(&newer.delta_from(older))
}

#[test]
fn one_changed_record_is_one_upsert() {
    let change = [upsert(&json!({ "id": "k150", "m": 5 }))];
    let delta = delta_of(json!({ "sort": { "n": "asc" }, "fields": ["id", "m"] }), 200, &change);
    assert_eq!(delta, json!({ "removed": [], "upserted": [[150, { "id": "k150", "m": 5 }]] }));
}

#[test]
fn rows_that_move_into_a_window_and_out_of_it_are_told() {
    let query = json!({ "sort": { "n": "asc" }, "offset": 10, "limit": 50, "fields": ["id"] });
    let delta = delta_of(query.clone(), 200, &[delete("k005")]);
    assert_eq!(delta, json!({ "removed": ["k010"], "upserted": [[49, { "id": "k060" }]] }));
    let delta = delta_of(query, 200, &[upsert(&json!({ "id": "new", "n": -1 }))]);
    assert_eq!(delta, json!({ "removed": ["k059"], "upserted": [[0, { "id": "k009" }]] }));
}

#[test]
fn a_record_that_moves_is_upserted_alone() {
    let query = json!({ "sort": { "n": "asc" }, "fields": ["id"] });
    let delta = delta_of(query, 200, &[upsert(&json!({ "id": "k010", "n": 1_000 }))]);
    assert_eq!(delta, json!({ "removed": [], "upserted": [[199, { "id": "k010" }]] }));
}

#[test]
fn a_record_in_another_row_that_looks_the_same_in_the_same_place_is_not_told() {
    let query = json!({ "sort": { "n": "asc" }, "fields": ["id"] });
    let mut world = World::new(&[query], numbered(100));
    world.commit(&[
        replace(&json!({ "id": "k050", "n": 50 })),
        upsert(&json!({ "id": "k060", "n": 60.5 })),
    ]);
    let earlier = world.versions(&world.past[0].0);
    assert!(world.views[0].delta_since(&earlier, &world.state).is_empty());
    world.check();
}

#[test]
fn a_window_that_lost_more_rows_than_are_held_behind_it_is_made_up_from_the_bucket() {
    let query = json!({ "sort": { "n": "asc" }, "limit": 40, "fields": ["id"] });
    let mut world = World::new(&[query], numbered(300));
    // The rows in front now were in no window earlier, and those of the earlier window stand far behind.
    for n in 0..60 {
        world.commit(&[upsert(&json!({ "id": format!("k{n:03}"), "n": 500 + n }))]);
    }
    for n in 0..200 {
        world.commit(&[upsert(&json!({ "id": format!("front{n}"), "n": n }))]);
    }
    world.check();
}

#[test]
fn a_bucket_that_was_emptied_gives_its_rows_to_other_keys() {
    let mut world = World::new(&[json!({ "sort": { "n": "asc" } }), json!({ "limit": 3 })], numbered(40));
    world.commit(&[
        Operation::Clear { bucket: BUCKET.into() },
        upsert(&json!({ "id": "other", "n": 0 })),
    ]);
    world.check();
    world.commit(&numbered(5).iter().rev().map(upsert).collect::<Vec<_>>());
    world.check();
}

#[test]
fn a_result_without_value_has_a_delta_without_value() {
    let mut world = World::new(&[json!({ "aggregate": { "function": "min", "field": "n" } })], numbered(1));
    world.commit(&[delete("k000")]);
    assert_eq!(&*world.past[1].1[0].delta_from(&world.past[0].1[0]), b"{}");
    assert_eq!(&*world.past[0].1[0].delta_from(&world.past[1].1[0]), br#"{"value":0}"#);
}

#[test]
fn the_same_bytes_go_to_all_who_come_from_the_same_version() {
    let mut world = World::new(&[json!({})], numbered(10));
    for n in 0..8 {
        world.commit(&[upsert(&json!({ "id": "k000", "n": n + 1 }))]);
    }
    let newest = &world.past[8].1[0];
    for (at, (_, results)) in world.past.iter().enumerate() {
        let (first, second) = (newest.delta_from(&results[0]), newest.delta_from(&results[0]));
        assert_eq!(first, second);
        assert_eq!(first.as_ptr() == second.as_ptr(), at < 4, "version {at}");
    }
}

#[test]
fn deltas_are_refused_where_records_have_no_key() {
    let world = World::new(&[], []);
    let check = |query: Value| plan(&query).check_delta(&world.state);
    for sound in [
        json!({}),
        json!({ "fields": ["n", "id"] }),
        json!({ "fields": ["n"], "aggregate": { "function": "count" } }),
    ] {
        assert_eq!(check(sound), Ok(()));
    }
    for faulty in [
        json!({ "fields": ["n"] }),
        json!({ "aggregate": { "function": "count", "groupBy": "m" } }),
    ] {
        let error = check(faulty).unwrap_err();
        assert_eq!(error.code(), ErrorCode::ValidationError);
        assert_eq!(error.details().unwrap()[0]["field"], "mode");
    }
}
