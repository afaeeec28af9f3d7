//! Guards against a naive model: what is done within one, and what is read, is what somebody would do and read who had
//! all records before them and kept to the guard by hand.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::{Index, select, subsequence};
use serde_json::{Map, Value, json};

use super::command::{Action, Command, Operation, Outcome, Step};
use super::query::{Aggregate, Filter, Reader};
use super::state::{BucketDefinition, Effects, State, apply};
use super::{Guard, StoreError};
use crate::protocol::{Datum, ErrorCode, FieldName, Number, Record};

type Object = Map<String, Value>;

const FIELDS: [&str; 4] = ["owner", "n", "code", "note"];
const METADATA: [&str; 3] = ["_version", "_createdAt", "_updatedAt"];
const NOW: u64 = 1_000;

fn object(value: &Value) -> Object {
    value.as_object().unwrap().clone()
}

fn filter(value: &Value) -> Filter {
    Filter::from_value(value).unwrap()
}

/// What somebody may see: filter and fields.
#[derive(Clone, Debug)]
struct Bounds {
    filter: Value,
    fields: Option<Vec<String>>,
}

impl Bounds {
    fn guard(&self) -> Arc<Guard> {
        Guard::new(&object(&self.filter), self.fields.clone()).unwrap()
    }

    fn has_row(&self, record: &Object) -> bool {
        filter(&self.filter).matches(&Record::from_object(record))
    }

    fn has_field(&self, name: &str) -> bool {
        name == "id" || METADATA.contains(&name) || self.fields.as_ref().is_none_or(|fields| fields.iter().any(|it| it == name))
    }

    fn shown(&self, record: &Object) -> Value {
        let shown = record.iter().filter(|(name, _)| self.has_field(name));
        Value::Object(shown.map(|(name, value)| (name.clone(), value.clone())).collect())
    }

    fn hides_one_of<'n>(&self, mut names: impl Iterator<Item = &'n String>) -> bool {
        names.any(|name| !self.has_field(name))
    }
}

/// What is done. Keys and codes are few, so that they clash.
#[derive(Clone, Debug)]
enum Doing {
    Insert(Object),
    InsertMany(Vec<Object>),
    Update(String, Object, Option<u64>),
    Upsert(Object, Option<u64>),
    Delete(String, Option<u64>),
    UpdateMany(Value, Object),
    DeleteMany(Value),
    Clear,
    Transaction(Vec<(Element, Option<Bounds>)>),
}

#[derive(Clone, Debug)]
enum Element {
    Get(String, Option<u64>),
    Insert(Object),
    Update(String, Object, Option<u64>),
    Delete(String, Option<u64>),
    Where(Value),
    FindOne(Value),
    Count(Value),
}

fn record(object: &Object) -> Record {
    Record::from_object(object)
}

impl Element {
    fn action(&self) -> Action {
        let key = |key: &String| Datum::text(key);
        match self {
            Self::Get(id, expect_version) => Action::Get {
                key: key(id),
                expect_version: *expect_version,
            },
            Self::Insert(data) => Action::Insert { record: record(data) },
            Self::Update(id, data, expect_version) => Action::Update {
                key: key(id),
                changes: record(data),
                expect_version: *expect_version,
            },
            Self::Delete(id, expect_version) => Action::Delete {
                key: key(id),
                expect_version: *expect_version,
            },
            Self::Where(wanted) => Action::Where { filter: filter(wanted) },
            Self::FindOne(wanted) => Action::FindOne { filter: filter(wanted) },
            Self::Count(wanted) => Action::Count { filter: filter(wanted) },
        }
    }
}

impl Doing {
    fn operation(&self) -> Operation {
        let bucket = || "t".into();
        match self {
            Self::Insert(data) => Operation::Insert {
                bucket: bucket(),
                record: record(data),
            },
            Self::InsertMany(data) => Operation::InsertMany {
                bucket: bucket(),
                records: data.iter().map(record).collect(),
            },
            Self::Update(id, data, expect_version) => Operation::Update {
                bucket: bucket(),
                key: Datum::text(id),
                changes: record(data),
                expect_version: *expect_version,
            },
            Self::Upsert(data, expect_version) => Operation::Upsert {
                bucket: bucket(),
                record: record(data),
                expect_version: *expect_version,
            },
            Self::Delete(id, expect_version) => Operation::Delete {
                bucket: bucket(),
                key: Datum::text(id),
                expect_version: *expect_version,
            },
            Self::UpdateMany(wanted, data) => Operation::UpdateMany {
                bucket: bucket(),
                filter: filter(wanted),
                changes: record(data),
            },
            Self::DeleteMany(wanted) => Operation::DeleteMany {
                bucket: bucket(),
                filter: filter(wanted),
            },
            Self::Clear => Operation::Clear { bucket: bucket() },
            Self::Transaction(elements) => Operation::Transaction {
                steps: elements
                    .iter()
                    .map(|(element, bounds)| Step {
                        bucket: bucket(),
                        action: element.action(),
                        guard: bounds.as_ref().map(Bounds::guard),
                    })
                    .collect(),
            },
        }
    }
}

/// All records, in the order of insertion.
#[derive(Clone, Debug, Default)]
struct Model(Vec<Object>);

type Told = Result<Value, ErrorCode>;

impl Model {
    fn do_it(&mut self, doing: &Doing, bounds: Option<&Bounds>) -> Told {
        let before = self.clone();
        let told = self.carry_out(doing, bounds).and_then(|told| self.check_codes().map(|()| told));
        if told.is_err() {
            *self = before;
        }
        told
    }

    fn carry_out(&mut self, doing: &Doing, bounds: Option<&Bounds>) -> Told {
        match doing {
            Doing::Insert(data) => self.insert(data, bounds, ErrorCode::AlreadyExists),
            Doing::InsertMany(data) => data
                .iter()
                .map(|data| self.insert(data, bounds, ErrorCode::AlreadyExists))
                .collect(),
            Doing::Update(id, data, version) => self.update(id, data, *version, bounds),
            Doing::Upsert(data, version) => {
                let id = data["id"].as_str().unwrap();
                if self.visible(id, bounds).is_some() {
                    return self.update(id, data, *version, bounds);
                }
                named(data, bounds)?;
                expect(None, *version)?;
                self.insert(data, bounds, ErrorCode::AlreadyExists)
            }
            Doing::Delete(id, version) => self.delete(id, *version, bounds),
            Doing::UpdateMany(wanted, data) => {
                named(data, bounds)?;
                let rows = self.matching(wanted, bounds)?;
                for at in &rows {
                    self.change(*at, data, bounds)?;
                }
                Ok(json!(rows.len()))
            }
            Doing::DeleteMany(wanted) => {
                let rows = self.matching(wanted, bounds)?;
                for at in rows.iter().rev() {
                    self.0.remove(*at);
                }
                Ok(json!(rows.len()))
            }
            Doing::Clear if bounds.is_some() => Err(ErrorCode::Forbidden),
            Doing::Clear => {
                self.0.clear();
                Ok(Value::Null)
            }
            Doing::Transaction(_) if bounds.is_some() => Err(ErrorCode::Forbidden),
            Doing::Transaction(elements) => elements
                .iter()
                .map(|(element, bounds)| self.step(element, bounds.as_ref()))
                .collect(),
        }
    }

    fn step(&mut self, element: &Element, bounds: Option<&Bounds>) -> Told {
        let shown = |model: &Self, at: usize| shown(&model.0[at], bounds);
        match element {
            Element::Get(id, version) => {
                let found = self.visible(id, bounds);
                expect(found.map(|at| &self.0[at]), *version)?;
                Ok(found.map_or(Value::Null, |at| shown(self, at)))
            }
            Element::Insert(data) => self.insert(data, bounds, ErrorCode::Conflict),
            Element::Update(id, data, version) => self.update(id, data, *version, bounds),
            Element::Delete(id, version) => self.delete(id, *version, bounds),
            Element::Where(wanted) => Ok(self.matching(wanted, bounds)?.into_iter().map(|at| shown(self, at)).collect()),
            Element::FindOne(wanted) => Ok(self.matching(wanted, bounds)?.first().map_or(Value::Null, |at| shown(self, *at))),
            Element::Count(wanted) => Ok(json!(self.matching(wanted, bounds)?.len())),
        }
    }

    fn visible(&self, id: &str, bounds: Option<&Bounds>) -> Option<usize> {
        let at = self.0.iter().position(|record| record["id"] == id)?;
        bounds.is_none_or(|bounds| bounds.has_row(&self.0[at])).then_some(at)
    }

    fn matching(&self, wanted: &Value, bounds: Option<&Bounds>) -> Result<Vec<usize>, ErrorCode> {
        if bounds.is_some_and(|bounds| bounds.hides_one_of(names(wanted).iter())) {
            return Err(ErrorCode::Forbidden);
        }
        let wanted = filter(wanted);
        let matches = |object: &Object| wanted.matches(&record(object)) && bounds.is_none_or(|bounds| bounds.has_row(object));
        Ok((0..self.0.len()).filter(|at| matches(&self.0[*at])).collect())
    }

    fn insert(&mut self, data: &Object, bounds: Option<&Bounds>, taken: ErrorCode) -> Told {
        named(data, bounds)?;
        let mut new = data.clone();
        new.entry("note").or_insert_with(|| json!("plain"));
        new.insert("_version".to_owned(), json!(1));
        if bounds.is_some_and(|bounds| !bounds.has_row(&new)) {
            return Err(ErrorCode::Forbidden);
        }
        valid(&new)?;
        if self.0.iter().any(|record| record["id"] == new["id"]) {
            return Err(taken);
        }
        self.0.push(new.clone());
        Ok(shown(&new, bounds))
    }

    fn update(&mut self, id: &str, data: &Object, version: Option<u64>, bounds: Option<&Bounds>) -> Told {
        named(data, bounds)?;
        let found = self.visible(id, bounds);
        expect(found.map(|at| &self.0[at]), version)?;
        let at = found.ok_or(ErrorCode::NotFound)?;
        self.change(at, data, bounds)?;
        Ok(shown(&self.0[at], bounds))
    }

    fn change(&mut self, at: usize, data: &Object, bounds: Option<&Bounds>) -> Result<(), ErrorCode> {
        let record = &mut self.0[at];
        for (name, value) in data.iter().filter(|(name, _)| *name != "id") {
            record.insert(name.clone(), value.clone());
        }
        record["_version"] = json!(record["_version"].as_u64().unwrap() + 1);
        if bounds.is_some_and(|bounds| !bounds.has_row(record)) {
            return Err(ErrorCode::Forbidden);
        }
        valid(record)
    }

    fn delete(&mut self, id: &str, version: Option<u64>, bounds: Option<&Bounds>) -> Told {
        let found = self.visible(id, bounds);
        expect(found.map(|at| &self.0[at]), version)?;
        found.map(|at| self.0.remove(at));
        Ok(json!(found.is_some()))
    }

    /// A code is one record's.
    fn check_codes(&self) -> Result<(), ErrorCode> {
        let codes: Vec<_> = self.0.iter().filter_map(|record| record.get("code")?.as_str()).collect();
        let different: BTreeSet<_> = codes.iter().collect();
        if different.len() == codes.len() {
            Ok(())
        } else {
            Err(ErrorCode::AlreadyExists)
        }
    }
}

fn shown(record: &Object, bounds: Option<&Bounds>) -> Value {
    bounds.map_or_else(|| Value::Object(record.clone()), |bounds| bounds.shown(record))
}

fn named(data: &Object, bounds: Option<&Bounds>) -> Result<(), ErrorCode> {
    if bounds.is_some_and(|bounds| bounds.hides_one_of(data.keys())) {
        return Err(ErrorCode::Forbidden);
    }
    Ok(())
}

fn expect(found: Option<&Object>, version: Option<u64>) -> Result<(), ErrorCode> {
    let actual = found.map_or(0, |record| record["_version"].as_u64().unwrap());
    if version.is_none_or(|version| version == actual) {
        Ok(())
    } else {
        Err(ErrorCode::Conflict)
    }
}

fn valid(record: &Object) -> Result<(), ErrorCode> {
    if record.get("n").and_then(Value::as_i64).is_some_and(|n| n > 7) {
        Err(ErrorCode::ValidationError)
    } else {
        Ok(())
    }
}

fn names(filter: &Value) -> Vec<String> {
    let branches = |value: &Value| value.as_array().unwrap().iter().flat_map(names).collect::<Vec<_>>();
    let members = filter.as_object().unwrap().iter();
    members
        .flat_map(|(name, value)| {
            if name.starts_with('$') {
                branches(value)
            } else {
                vec![name.clone()]
            }
        })
        .collect()
}

fn without_times(value: Value) -> Value {
    match value {
        Value::Object(members) => members
            .into_iter()
            .filter(|(name, _)| name != "_createdAt" && name != "_updatedAt")
            .collect::<Object>()
            .into(),
        Value::Array(items) => items.into_iter().map(without_times).collect(),
        other @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => other,
    }
}

fn told(outcome: &Outcome) -> Value {
    let records = |records: &[Record]| records.iter().map(|record| without_times(record.to_value())).collect();
    match outcome {
        Outcome::Done | Outcome::Record(None) => Value::Null,
        Outcome::Record(Some(record)) => without_times(record.to_value()),
        Outcome::Records(found) => records(found),
        Outcome::Count(count) => json!(count),
        Outcome::Deleted(deleted) => json!(deleted),
        Outcome::Steps(steps) => steps.iter().map(told).collect(),
    }
}

fn state(options: &Value) -> State {
    let mut config = json!({ "key": "id", "schema": {
        "id": { "type": "string" }, "owner": { "type": "string" }, "n": { "type": "number", "max": 7 },
        "code": { "type": "string", "unique": true }, "note": { "type": "string", "default": "plain" },
    } });
    config.as_object_mut().unwrap().extend(object(options));
    let definition = BucketDefinition::from_value(&config).unwrap();
    let mut state = State::default();
    let define = Operation::DefineBucket {
        name: "t".into(),
        definition: Arc::new(definition),
    };
    run(&mut state, define).unwrap();
    state
}

fn run(state: &mut State, operation: Operation) -> Result<Outcome, StoreError> {
    let command = Command::new(NOW, [7; 32], operation);
    apply(state, &command, &mut Effects::default())
}

fn data() -> impl Strategy<Value = Object> {
    let values = (select(vec!["ida", "bob"]), 0..10_i64, 0..6_u8, any::<bool>());
    (values, subsequence(FIELDS.to_vec(), 0..=4)).prop_map(|((owner, n, code, plain), given)| {
        let all = json!({ "owner": owner, "n": n, "code": format!("mark{code}"), "note": if plain { "plain" } else { "marked" } });
        object(&all)
            .into_iter()
            .filter(|(name, _)| given.contains(&name.as_str()))
            .collect()
    })
}

fn id() -> impl Strategy<Value = String> {
    (0..6_u8).prop_map(|id| format!("id{id}"))
}

fn with_id() -> impl Strategy<Value = Object> {
    (id(), data()).prop_map(|(id, data)| {
        let mut whole = object(&json!({ "id": id }));
        whole.extend(data);
        whole
    })
}

fn wanted() -> impl Strategy<Value = Value> {
    select(vec![
        json!({}),
        json!({ "owner": "ida" }),
        json!({ "n": { "$gte": 3 } }),
        json!({ "id": { "$in": ["id1", "id2", "id3"] } }),
        json!({ "$or": [{ "owner": "bob" }, { "n": { "$lt": 2 } }] }),
        json!({ "code": { "$exists": true }, "note": "plain" }),
        json!({ "note": { "$nin": [] } }),
        json!({ "_version": { "$gt": 1 } }),
    ])
}

fn bounds() -> impl Strategy<Value = Bounds> {
    let fields = subsequence(FIELDS.to_vec(), 0..=4);
    let fields = prop::option::of(fields.prop_map(|fields| fields.into_iter().map(str::to_owned).collect()));
    (wanted(), fields).prop_map(|(filter, fields)| Bounds { filter, fields })
}

fn element() -> impl Strategy<Value = Element> {
    let version = || prop::option::weighted(0.3, 1..4_u64);
    prop_oneof![
        4 => (id(), version()).prop_map(|(id, version)| Element::Get(id, version)),
        1 => with_id().prop_map(Element::Insert),
        1 => (id(), data(), version()).prop_map(|(id, data, version)| Element::Update(id, data, version)),
        1 => (id(), version()).prop_map(|(id, version)| Element::Delete(id, version)),
        2 => wanted().prop_map(Element::Where),
        2 => wanted().prop_map(Element::FindOne),
        2 => wanted().prop_map(Element::Count),
    ]
}

fn doing() -> impl Strategy<Value = Doing> {
    let version = || prop::option::weighted(0.3, 0..4_u64);
    let steps = prop::collection::vec((element(), prop::option::weighted(0.7, bounds())), 1..5);
    prop_oneof![
        3 => with_id().prop_map(Doing::Insert),
        1 => prop::collection::vec(with_id(), 0..3).prop_map(Doing::InsertMany),
        3 => (id(), data(), version()).prop_map(|(id, data, version)| Doing::Update(id, data, version)),
        3 => (with_id(), version()).prop_map(|(data, version)| Doing::Upsert(data, version)),
        2 => (id(), version()).prop_map(|(id, version)| Doing::Delete(id, version)),
        1 => (wanted(), data()).prop_map(|(wanted, data)| Doing::UpdateMany(wanted, data)),
        1 => wanted().prop_map(Doing::DeleteMany),
        1 => Just(Doing::Clear),
        3 => steps.prop_map(Doing::Transaction),
    ]
}

/// The ids and codes in a text.
fn secrets(text: &str) -> BTreeSet<&str> {
    let starts = ["mark", "id"].into_iter().flat_map(|word| text.match_indices(word));
    starts
        .filter_map(|(at, word)| {
            let end = at + word.len() + 1;
            text.get(at..end)
                .filter(|found| found.ends_with(|last: char| last.is_ascii_digit()))
        })
        .collect()
}

/// What is read of the state within a guard is what is read of the model by hand.
fn check_reads(state: &State, model: &Model, bounds: &Bounds, cursor: &str, ordered: bool) -> Result<(), TestCaseError> {
    let bucket = state.bucket("t").unwrap();
    let (reader, guard, key) = (Reader::new(bucket, NOW), bounds.guard(), bucket.key_field());
    let seen = |record: &Record| without_times(guard.shown(record, key).to_value());
    let all_seen = |records: Vec<&Record>| records.into_iter().map(seen).collect::<Vec<_>>();
    let mut there: Vec<_> = model.0.iter().filter(|record| bounds.has_row(record)).collect();
    let of_there = |records: &[&Object]| records.iter().map(|record| bounds.shown(record)).collect::<Vec<_>>();

    let everything = guard.narrow(&Filter::everything(), key).unwrap();
    prop_assert_eq!(all_seen(reader.select(&everything)), of_there(&there));
    prop_assert_eq!(reader.count(&everything), there.len());
    for text in [
        json!({ "n": { "$gt": 2 } }),
        json!({ "note": { "$nin": [] } }),
        json!({ "code": "mark1" }),
    ] {
        let narrowed = guard.narrow(&filter(&text), key);
        prop_assert_eq!(narrowed.is_err(), bounds.hides_one_of(names(&text).iter()), "{}", text);
        let Ok(narrowed) = narrowed else { continue };
        let wanted = filter(&text);
        let matching: Vec<_> = there.iter().copied().filter(|object| wanted.matches(&record(object))).collect();
        prop_assert_eq!(all_seen(reader.select(&narrowed)), of_there(&matching), "{}", text);
        prop_assert_eq!(reader.count(&narrowed), matching.len(), "{}", text);
    }
    let sum = Aggregate::parse(&json!({ "function": "max", "field": "n" }), "").unwrap();
    let numbers = there.iter().filter_map(|record| record.get("n")?.as_i64());
    prop_assert_eq!(reader.aggregate(&sum, &everything), numbers.max().map(Number::Int));

    let place = there.iter().position(|record| record["id"] == cursor);
    let mut behind: Vec<_> = place.map_or_else(Vec::new, |at| there[at + 1..].to_vec());
    if ordered {
        there.sort_by_key(|record| record["id"].to_string());
        behind = there
            .iter()
            .copied()
            .filter(|record| record["id"].as_str().unwrap() > cursor)
            .collect();
    }
    prop_assert_eq!(all_seen(reader.first_of(&everything, 2)), of_there(&there[..there.len().min(2)]));
    prop_assert_eq!(
        all_seen(reader.last_of(&everything, 2)),
        of_there(&there[there.len().saturating_sub(2)..])
    );
    let page = reader.paginate_of(&everything, 2, Some(&Datum::text(cursor)));
    prop_assert_eq!(page.has_more, behind.len() > 2);
    prop_assert_eq!(all_seen(page.records), of_there(&behind[..behind.len().min(2)]));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn within_a_guard_everything_is_as_if_the_rest_were_not_there(
        options in select(vec![json!({}), json!({ "indexes": ["owner", "n"] }), json!({ "etsType": "ordered_set" })]),
        doings in prop::collection::vec((doing(), prop::option::weighted(0.7, bounds()), bounds(), any::<Index>()), 1..25),
    ) {
        let ordered = options.get("etsType").is_some();
        let mut state = state(&options);
        let mut model = Model::default();
        for at in 0..5 {
            let doing = Doing::Insert(object(&json!({ "id": format!("id{at}"), "owner": if at % 2 == 0 { "ida" } else { "bob" }, "n": at })));
            prop_assert_eq!(run(&mut state, doing.operation()).is_ok(), model.do_it(&doing, None).is_ok());
        }
        for (doing, within, reader, cursor) in &doings {
            let is_transaction = matches!(doing, Doing::Transaction(_));
            let within = within.as_ref().filter(|_| !is_transaction);
            let operation = match within {
                Some(bounds) => doing.operation().within(bounds.guard()),
                None => doing.operation(),
            };
            let outcome = run(&mut state, operation);
            let expected = model.do_it(doing, within);
            match (&outcome, &expected) {
                (Ok(outcome), Ok(expected)) => prop_assert_eq!(&told(outcome), expected, "{:?}", doing),
                (Err(error), Err(code)) => {
                    prop_assert_eq!(error.code(), *code, "{}: {:?} within {:?}", error, doing, within);
                    let (text, said) = (format!("{error} {:?}", error.details()), format!("{doing:?}"));
                    let said = secrets(&said);
                    prop_assert!(secrets(&text).is_subset(&said), "{}: {:?} within {:?}", text, doing, within);
                }
                (outcome, expected) => prop_assert!(false, "{:?} for {:?}: {:?} within {:?}", outcome, expected, doing, within),
            }
            let stored: Vec<_> = state.bucket("t").unwrap().all_rows().map(|(_, record)| without_times(record.to_value())).collect();
            prop_assert_eq!(json!(stored), json!(model.0), "{:?}", doing);
            check_reads(&state, &model, reader, &format!("id{}", cursor.index(7)), ordered)?;
        }
    }
}

fn guard(filter: Value, fields: Option<&[&str]>) -> Arc<Guard> {
    Guard::new(
        &object(&filter),
        fields.map(|fields| fields.iter().map(|name| (*name).to_owned()).collect()),
    )
    .unwrap()
}

#[test]
fn no_bulk_update_takes_a_record_out_of_the_guard() {
    let mut state = state(&json!({}));
    for id in ["id1", "id2"] {
        run(
            &mut state,
            Doing::Insert(object(&json!({ "id": id, "owner": "ida", "n": 1 }))).operation(),
        )
        .unwrap();
    }
    let give_away = |wanted| Doing::UpdateMany(wanted, object(&json!({ "owner": "bob" }))).operation();
    for wanted in [json!({}), json!({ "id": "id2" })] {
        let refused = run(&mut state, give_away(wanted).within(guard(json!({ "owner": "ida" }), None)));
        assert_eq!(refused, Err(StoreError::OutsideGuard));
    }
    let owners: Vec<_> = state
        .bucket("t")
        .unwrap()
        .all_rows()
        .map(|(_, record)| record.to_value()["owner"].clone())
        .collect();
    assert_eq!(owners, ["ida", "ida"]);
}

#[test]
fn equal_guards_have_equal_keys_whatever_the_order_of_their_fields() {
    let one = guard(json!({ "owner": "ida" }), Some(&["b", "a", "b"]));
    assert_eq!(one, guard(json!({ "owner": "ida" }), Some(&["a", "b"])));
    for other in [
        guard(json!({ "owner": "bob" }), Some(&["a", "b"])),
        guard(json!({ "owner": "ida" }), Some(&["a"])),
        guard(json!({ "owner": "ida" }), None),
        guard(json!({}), Some(&["a", "b"])),
    ] {
        assert_ne!(one, other);
    }
}

#[test]
fn key_and_metadata_are_always_shown_and_in_the_order_of_the_record() {
    let bound = guard(json!({}), Some(&["z\"", "a"]));
    let whole =
        json!({ "z\"": 1, "secret": 2, "id": "x", "a": [3], "_version": 4, "_createdAt": 5, "_updatedAt": 6, "_expiresAt": 7, "_x": 8 });
    let shown = bound.shown(&record(&object(&whole)), &FieldName::new("id"));
    assert_eq!(
        std::str::from_utf8(shown.json()).unwrap(),
        r#"{"z\"":1,"id":"x","a":[3],"_version":4,"_createdAt":5,"_updatedAt":6,"_expiresAt":7}"#
    );
}

#[test]
fn who_has_no_field_may_give_the_key_and_what_the_store_sets_itself_but_no_end_of_life() {
    let bound = guard(json!({}), Some(&[]));
    let key = FieldName::new("id");
    let check = |data: Value| bound.check_written(&record(&object(&data)), &key);
    assert_eq!(check(json!({ "id": 1, "_version": 2, "_createdAt": 3, "_updatedAt": 4 })), Ok(()));
    for name in ["_expiresAt", "n", "a\"b"] {
        assert_eq!(
            check(json!({ "id": 1, name: 5 })),
            Err(StoreError::NoAccessToField(name.to_owned()))
        );
    }
    assert_eq!(
        check(json!({ "salary": 1 })).unwrap_err().to_string(),
        "No access to field \"salary\""
    );
}

#[test]
fn what_is_not_an_operation_on_records_is_refused_within_a_guard() {
    let mut state = state(&json!({}));
    let bound = guard(json!({}), None);
    for operation in [
        Operation::Clear { bucket: "t".into() },
        Operation::Expire,
        Operation::DropBucket { name: "t".into() },
        Operation::UndefineQuery { name: "q".into() },
        Operation::Transaction { steps: Vec::new() },
        Doing::Insert(object(&json!({ "id": "a" }))).operation().within(Arc::clone(&bound)),
    ] {
        let refused = run(&mut state, operation.within(Arc::clone(&bound)));
        assert_eq!(refused, Err(StoreError::NeedsAllRecords));
    }
    assert!(state.bucket("t").unwrap().row_count() == 0);
}

#[test]
fn faults_of_fields_that_are_not_there_are_told_without_their_values() {
    let mut state = State::default();
    let config = json!({ "key": "id", "schema": {
        "id": { "type": "string" }, "n": { "type": "number" }, "level": { "type": "string", "required": true, "enum": ["low", "high"] },
    } });
    let define = Operation::DefineBucket {
        name: "t".into(),
        definition: Arc::new(BucketDefinition::from_value(&config).unwrap()),
    };
    run(&mut state, define).unwrap();
    let insert = Doing::Insert(object(&json!({ "id": "a", "n": "x" }))).operation();
    let refused = run(&mut state, insert.within(guard(json!({}), Some(&["n"])))).unwrap_err();
    let issues = refused.details().unwrap();
    assert_eq!(refused.code(), ErrorCode::ValidationError);
    let places: Vec<_> = issues
        .as_array()
        .unwrap()
        .iter()
        .map(|issue| issue["field"].as_str().unwrap())
        .collect();
    assert_eq!(places, ["n", ""], "{issues}");
    assert!(
        !refused.to_string().contains("level") && !refused.to_string().contains("low"),
        "{refused}"
    );
}

#[test]
fn what_checks_of_the_program_say_is_for_those_who_have_all_fields() {
    use super::FieldSpec;

    let note_of = |record: &Record| record.to_value()["note"].as_str().unwrap_or_default().to_owned();
    let n = FieldSpec::number().validator(move |_, record| Some(format!("n does not go with {}", note_of(record))));
    let definition = BucketDefinition::builder("id")
        .field("id", FieldSpec::string())
        .field("n", n)
        .field("note", FieldSpec::string())
        .validator(move |record| vec![format!("{} is no good", note_of(record))]);
    let mut state = State::default();
    let define = Operation::DefineBucket {
        name: "t".into(),
        definition: Arc::new(definition.build().unwrap()),
    };
    run(&mut state, define).unwrap();
    let insert = Doing::Insert(object(&json!({ "id": "a", "n": 1, "note": "s3cret" }))).operation();
    let mut told = |fields| {
        let refused = run(&mut state, insert.clone().within(guard(json!({}), fields))).unwrap_err();
        (refused.to_string(), refused.details().unwrap().as_array().unwrap().len())
    };
    assert_eq!(told(None).1, 2);
    // Also where all that is checked is theirs: what a check looks at is not known.
    let (text, issues) = told(Some(&["n", "note"]));
    assert!(issues == 1 && !text.contains("s3cret"), "{text}");
}

#[test]
fn who_is_bound_is_not_told_which_records_refer_to_what_would_go() {
    let mut state = state(&json!({}));
    let config =
        json!({ "key": "id", "schema": { "id": { "type": "string" }, "to": { "type": "string", "ref": "t", "onDelete": "restrict" } } });
    let define = Operation::DefineBucket {
        name: "child".into(),
        definition: Arc::new(BucketDefinition::from_value(&config).unwrap()),
    };
    run(&mut state, define).unwrap();
    run(&mut state, Doing::Insert(object(&json!({ "id": "a" }))).operation()).unwrap();
    let child = Operation::Insert {
        bucket: "child".into(),
        record: record(&object(&json!({ "id": "secret", "to": "a" }))),
    };
    run(&mut state, child).unwrap();
    let delete = || Doing::Delete("a".to_owned(), None).operation();
    let openly = run(&mut state, delete()).unwrap_err();
    assert!(openly.to_string().contains("secret"), "{openly}");
    let refused = run(&mut state, delete().within(guard(json!({}), None))).unwrap_err();
    assert_eq!(refused, StoreError::ReferredTo);
    assert_eq!((refused.code(), refused.details()), (ErrorCode::Conflict, None));
}

#[test]
fn a_unique_value_that_is_taken_is_not_repeated() {
    let mut state = State::default();
    let config = json!({
        "key": "id", "schema": { "id": { "type": "string" }, "secret": { "type": "string" }, "n": { "type": "number" } },
        "indexes": [{ "fields": ["secret", "n"], "unique": true }]
    });
    let define = Operation::DefineBucket {
        name: "t".into(),
        definition: Arc::new(BucketDefinition::from_value(&config).unwrap()),
    };
    run(&mut state, define).unwrap();
    for (id, n) in [("a", 1), ("b", 2)] {
        run(
            &mut state,
            Doing::Insert(object(&json!({ "id": id, "secret": "s3cret", "n": n }))).operation(),
        )
        .unwrap();
    }
    let update = Doing::Update("a".to_owned(), object(&json!({ "n": 2 })), None).operation();
    let refused = run(&mut state, update.within(guard(json!({}), Some(&["n"])))).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::AlreadyExists);
    assert!(!format!("{refused} {:?}", refused.details()).contains("s3cret"), "{refused}");
}

/// A bucket in which fields have what they clash by without being named: by default, or since before.
fn state_with_defaults() -> State {
    let mut state = state(&json!({}));
    let text = json!({ "type": "string" });
    let config = json!({
        "key": "id",
        "schema": {
            "id": text, "n": { "type": "number" }, "group": text,
            "seal": { "type": "string", "default": "s3al" }, "boss": { "type": "string", "ref": "t", "default": "b0ss" },
        },
        "indexes": [{ "fields": ["group", "seal"], "unique": true }, { "fields": ["seal", "n"], "unique": true }],
    });
    let define = Operation::DefineBucket {
        name: "d".into(),
        definition: Arc::new(BucketDefinition::from_value(&config).unwrap()),
    };
    run(&mut state, define).unwrap();
    state
}

fn insert_into_d(data: Value) -> Operation {
    Operation::Insert {
        bucket: "d".into(),
        record: record(&object(&data)),
    }
}

#[test]
fn fields_that_are_not_there_are_not_named_by_what_they_clash_with() {
    let mut state = state_with_defaults();
    run(&mut state, Doing::Insert(object(&json!({ "id": "b0ss" }))).operation()).unwrap();
    run(&mut state, insert_into_d(json!({ "id": "a", "n": 1, "group": "g" }))).unwrap();
    let by_n = || insert_into_d(json!({ "id": "b", "n": 1 }));
    let refused = run(&mut state, by_n().within(guard(json!({}), Some(&["n"])))).unwrap_err();
    let named = |field: &str| StoreError::ValueTaken {
        bucket: "d".into(),
        field: field.to_owned(),
    };
    assert_eq!(refused, named("n"));
    let refused = run(&mut state, by_n().within(guard(json!({}), None))).unwrap_err();
    assert_eq!(refused, named("seal,n"));
    // Of several guards in a transaction the closest counts, whichever of them has brought it about.
    let Operation::Insert { bucket, record } = by_n() else {
        unreachable!()
    };
    let of_group = Step {
        bucket: bucket.clone(),
        action: Action::Count {
            filter: Filter::everything(),
        },
        guard: Some(guard(json!({}), Some(&["group"]))),
    };
    let insert = Step {
        bucket,
        action: Action::Insert { record },
        guard: None,
    };
    let steps = vec![insert, of_group];
    let refused = run(&mut state, Operation::Transaction { steps }).unwrap_err();
    assert_eq!(refused, StoreError::HiddenValueTaken("d".into()));
    assert_eq!(refused.code(), ErrorCode::AlreadyExists);
    assert!(!format!("{refused} {:?}", refused.details()).contains("seal"), "{refused}");
}

#[test]
fn a_reference_that_is_not_there_is_not_named_where_it_leads_nowhere() {
    let mut state = state_with_defaults();
    let insert = || insert_into_d(json!({ "id": "a", "n": 1 }));
    let openly = run(&mut state, insert().within(guard(json!({}), Some(&["n", "boss"])))).unwrap_err();
    assert!(matches!(openly, StoreError::MissingTarget { .. }), "{openly}");
    let refused = run(&mut state, insert().within(guard(json!({}), Some(&["n"])))).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::ValidationError);
    let told = format!("{refused} {:?}", refused.details());
    assert!(!told.contains("boss") && !told.contains("b0ss"), "{told}");
}

#[test]
fn a_fault_whose_place_may_stand_for_a_hidden_field_is_not_told() {
    let mut state = State::default();
    let config = json!({ "key": "id", "schema": { "id": { "type": "string" }, "a.b": { "type": "string" } } });
    let define = Operation::DefineBucket {
        name: "t".into(),
        definition: Arc::new(BucketDefinition::from_value(&config).unwrap()),
    };
    run(&mut state, define).unwrap();
    let insert = Doing::Insert(object(&json!({ "id": "x", "a": { "b": "no number" } })));
    run(&mut state, insert.operation()).unwrap();
    let a = json!({ "type": "object", "properties": { "b": { "type": "number" } } });
    let update = Operation::UpdateBucket {
        name: "t".into(),
        updates: object(&json!({ "addFields": { "a": a } })),
    };
    run(&mut state, update).unwrap();
    for (fields, place) in [(["a", "a.b"], "a.b"), (["c", "a.b"], "")] {
        let update = Doing::Update("x".to_owned(), object(&json!({ "a.b": "y" })), None).operation();
        let refused = run(&mut state, update.within(guard(json!({}), Some(&fields)))).unwrap_err();
        assert_eq!(refused.details().unwrap()[0]["field"], place, "{refused}");
    }
}

#[tokio::test]
async fn what_was_answered_within_a_guard_is_not_told_within_another() {
    use super::{RequestKey, Store};

    let store = Store::builder().in_memory().open().await.unwrap();
    let config = json!({ "key": "id", "schema": { "id": { "type": "string" } } });
    store
        .define_bucket("t", BucketDefinition::from_value(&config).unwrap())
        .await
        .unwrap();
    let wide = guard(json!({}), None);
    let narrow = guard(json!({}), Some(&["n"]));
    let step = |bound: Option<&Arc<Guard>>| Operation::Transaction {
        steps: vec![Step {
            bucket: "t".into(),
            action: Action::Insert {
                record: record(&object(&json!({ "id": "b", "n": 1 }))),
            },
            guard: bound.cloned(),
        }],
    };
    let insert = || Doing::Insert(object(&json!({ "id": "a", "n": 1 }))).operation();
    let once = async |key: &str, operation: Operation| store.submit_once(operation, RequestKey::new(key, 1).unwrap()).unwrap().await;
    for (key, operations) in [
        (
            "single",
            [insert(), insert().within(Arc::clone(&wide)), insert().within(Arc::clone(&narrow))],
        ),
        ("steps", [step(Some(&wide)), step(None), step(Some(&narrow))]),
    ] {
        let [first, second, third] = operations;
        let answer = once(key, first.clone()).await.unwrap();
        assert_eq!(once(key, first).await, Ok(answer));
        for other in [second, third] {
            assert_eq!(once(key, other).await, Err(StoreError::RequestKeyReused(key.to_owned())));
        }
    }
}
