//! What is taken is read again: from its stored form a definition comes back the same, after any updates.

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Map, Value, json};

use super::limits::Limits;
use super::{BucketDefinition, FieldSpec};
use crate::protocol::Issue;
use crate::store::durability::{Catalog, StoredBucket, StoredQuery};
use crate::store::query::QueryDefinition;

fn object(value: Value) -> Map<String, Value> {
    value.as_object().expect("an object").clone()
}

fn parse(config: Value) -> BucketDefinition {
    BucketDefinition::parse(&object(config)).unwrap()
}

/// A bucket's definition as the next start finds it.
fn restarted(definition: &BucketDefinition) -> BucketDefinition {
    let catalog = Catalog {
        buckets: vec![StoredBucket {
            id: 0,
            name: "b".to_owned(),
            config: definition.shared_config().clone(),
            incarnation: 1,
        }],
        ..Catalog::default()
    };
    let bytes = serde_json::to_vec(&catalog).unwrap();
    let found: Catalog = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(found, catalog);
    BucketDefinition::stored(&found.buckets[0].config).unwrap()
}

/// Says that a definition is what the next start makes of it, and what a client may define.
fn check(definition: &BucketDefinition) {
    let again = restarted(definition);
    assert_eq!(format!("{again:?}"), format!("{definition:?}"));
    assert_eq!(
        serde_json::to_string(again.config()).unwrap(),
        serde_json::to_string(definition.config()).unwrap()
    );
    let defined = BucketDefinition::parse(definition.config()).unwrap_or_else(|issues| panic!("{issues:?}"));
    assert_eq!(format!("{defined:?}"), format!("{definition:?}"));
}

fn places(issues: &[Issue]) -> Vec<(&str, &str)> {
    issues.iter().map(|issue| (issue.field.as_str(), issue.code)).collect()
}

/// Text fields of these numbers, each with a pattern of its own.
fn patterned(numbers: std::ops::Range<usize>) -> Map<String, Value> {
    let field = |at: usize| (format!("p{at}"), json!({ "type": "string", "pattern": format!("^{at}$") }));
    numbers.map(field).collect()
}

fn keyed(mut fields: Map<String, Value>, properties: Value) -> Value {
    fields.insert("id".to_owned(), json!({ "type": "string" }));
    let mut config = json!({ "key": "id", "schema": fields });
    config.as_object_mut().unwrap().extend(object(properties));
    config
}

#[test]
fn patterns_count_together_with_those_that_are_there() {
    let full = parse(keyed(patterned(0..100), json!({})));
    let refused = full.updated(&object(json!({ "addFields": patterned(100..101) }))).unwrap_err();
    assert_eq!(places(&refused), [("addFields.p100.pattern", "limit")]);
    let inside = json!({ "o": { "type": "array", "items": { "type": "string", "pattern": "^other$" } } });
    let refused = full.updated(&object(json!({ "addFields": inside }))).unwrap_err();
    assert_eq!(places(&refused), [("addFields.o.items.pattern", "limit")]);
    let same = json!({ "again": { "type": "string", "pattern": "^7$" }, "none": { "type": "string" } });
    check(&full.updated(&object(json!({ "addFields": same }))).unwrap());
    let nearly = parse(keyed(patterned(0..99), json!({})));
    check(&nearly.updated(&object(json!({ "addFields": patterned(100..101) }))).unwrap());
}

#[test]
fn an_index_that_becomes_unique_takes_the_place_of_the_listed_one() {
    let names: Vec<String> = (0..40).map(|at| format!("p{at}")).collect();
    let unique: Vec<Value> = names.iter().map(|name| json!({ "fields": [name], "unique": true })).collect();
    let listed = parse(keyed(patterned(0..40), json!({ "indexes": names })));
    let updated = listed.updated(&object(json!({ "addIndexes": unique }))).unwrap();
    assert_eq!(updated.config()["indexes"], json!(unique));
    assert_eq!(updated.index_count(), 40);
    check(&updated);
}

#[test]
fn indexes_that_are_listed_many_times_make_room_with_an_update() {
    let listed = parse(keyed(patterned(0..4), json!({ "indexes": vec!["p0"; 64] })));
    check(&listed);
    let updated = listed
        .updated(&object(
            json!({ "addIndexes": ["p1", ["p0", "p1"], { "fields": ["p0"], "unique": true }] }),
        ))
        .unwrap();
    assert_eq!(
        updated.config()["indexes"],
        json!([{ "fields": ["p0"], "unique": true }, "p1", ["p0", "p1"]])
    );
    check(&updated);
}

#[test]
fn what_is_stored_may_be_larger_than_what_can_be_defined() {
    let names: Vec<String> = (0..40).map(|at| format!("p{at}")).collect();
    let mut indexes: Vec<Value> = names.iter().map(|name| json!(name)).collect();
    indexes.extend(names.iter().map(|name| json!({ "fields": [name], "unique": true })));
    let config = object(keyed(patterned(0..101), json!({ "indexes": indexes })));
    let refused = BucketDefinition::parse(&config).unwrap_err();
    assert_eq!(places(&refused), [("schema.p100.pattern", "limit"), ("indexes", "limit")]);
    let stored = BucketDefinition::stored(&config.into()).unwrap();
    assert_eq!((stored.schema().fields().len(), stored.index_count()), (102, 40));

    // It can be worked with, but not grow further.
    let updated = stored
        .updated(&object(json!({ "ttl": 5, "addFields": { "n": { "type": "number" } } })))
        .unwrap();
    assert_eq!(updated.ttl_ms(), Some(5.0));
    assert_eq!(format!("{:?}", restarted(&updated)), format!("{updated:?}"));
    for updates in [
        json!({ "addFields": { "q": { "type": "string", "pattern": "x" } } }),
        json!({ "addFields": { "q": { "type": "strin" } } }),
    ] {
        assert_eq!(updated.updated(&object(updates)).unwrap_err().len(), 1);
    }

    let fields: Map<String, Value> = (0..1_500).map(|at| (format!("f{at}"), json!({ "type": "number" }))).collect();
    let indexes: Vec<Value> = (0..70).map(|at| json!(format!("f{at}"))).collect();
    let many = BucketDefinition::stored(&object(keyed(fields, json!({ "indexes": indexes }))).into()).unwrap();
    assert_eq!((many.schema().fields().len(), many.index_count()), (1_501, 70));
    let updated = many.updated(&object(json!({ "ttl": 5, "addIndexes": ["f0"] }))).unwrap();
    assert_eq!(updated.index_count(), 70);
    let refused = |updates: Value, expected: (&str, &str)| {
        let issues = many.updated(&object(updates)).unwrap_err();
        assert_eq!(places(&issues), [expected]);
    };
    refused(json!({ "addFields": { "n": { "type": "number" } } }), ("addFields", "limit"));
    refused(json!({ "addIndexes": ["f70"] }), ("addIndexes", "limit"));
}

#[test]
fn what_makes_no_sense_is_not_taken_from_the_disk_either() {
    for config in [
        json!({}),
        json!({ "key": "id", "schema": {} }),
        json!({ "key": "id", "schema": { "id": { "type": "text" } } }),
        json!({ "key": "id", "schema": { "id": { "type": "string", "pattern": "(" } } }),
        json!({ "key": "id", "schema": { "id": { "type": "string" } }, "indexes": ["gone"] }),
    ] {
        assert!(BucketDefinition::stored(&object(config).into()).is_err());
    }
}

/// A value that is so many levels deep.
fn deep(levels: usize) -> Value {
    (1..levels).fold(json!([]), |inner, _| json!([inner]))
}

#[test]
fn nothing_is_defined_that_is_too_deep_to_be_read_again() {
    // The definition of the field is a level of its own.
    let most = Limits::GIVEN.levels - 1;
    let with_default = |levels: usize| json!({ "f": { "type": "array", "default": deep(levels) } });
    let definition = parse(keyed(object(with_default(most)), json!({})));
    check(&definition);
    let refused = BucketDefinition::parse(&object(keyed(object(with_default(most + 1)), json!({})))).unwrap_err();
    assert_eq!(places(&refused), [("schema.f", "limit")]);
    let plain = parse(keyed(Map::new(), json!({})));
    check(&plain.updated(&object(json!({ "addFields": with_default(most) }))).unwrap());
    let refused = plain.updated(&object(json!({ "addFields": with_default(most + 1) }))).unwrap_err();
    assert_eq!(places(&refused), [("addFields.f", "limit")]);

    let equal_to = |levels: usize| object(json!({ "bucket": "b", "filter": { "f": { "$eq": deep(levels) } } }));
    check_query(&QueryDefinition::parse(&equal_to(98)).unwrap());
    let refused = QueryDefinition::parse(&equal_to(99)).unwrap_err();
    assert_eq!(places(&refused), [("filter", "depth")]);
    let combined = (0..64).fold(json!({}), |inner, _| json!({ "$and": [inner] }));
    let refused = QueryDefinition::parse(&object(json!({ "bucket": "b", "filter": combined }))).unwrap_err();
    assert_eq!(places(&refused), [("filter", "depth")]);
}

#[test]
fn an_update_keeps_the_checks_that_a_program_has_given() {
    let definition = BucketDefinition::builder("id")
        .field("id", FieldSpec::string().validator(|_, _| Some("field".to_owned())))
        .validator(|_| vec!["record".to_owned()])
        .build()
        .unwrap();
    let updates = json!({ "addFields": { "late": { "type": "string" } }, "addIndexes": ["late"], "ttl": 1 });
    let updated = definition.updated(&object(updates)).unwrap();
    let record = crate::protocol::Record::from_object(&object(json!({ "id": "a" })));
    let messages: Vec<_> = updated.schema().validate(&record).into_iter().map(|issue| issue.message).collect();
    assert_eq!(messages, ["field", "record"]);
}

/// Says that a query is what the next start makes of it.
fn check_query(definition: &QueryDefinition) {
    let catalog = Catalog {
        queries: vec![StoredQuery {
            name: "q".to_owned(),
            config: definition.shared_config().clone(),
            incarnation: 1,
        }],
        ..Catalog::default()
    };
    let found: Catalog = serde_json::from_slice(&serde_json::to_vec(&catalog).unwrap()).unwrap();
    let again = QueryDefinition::stored(&found.queries[0].config).unwrap();
    assert_eq!(format!("{again:?}"), format!("{definition:?}"));
    let defined = QueryDefinition::parse(definition.config()).unwrap();
    assert_eq!(format!("{defined:?}"), format!("{definition:?}"));
}

fn number() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<f64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
    ]
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        number(),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
        ".{0,8}".prop_map(Value::from)
    ]
}

fn any_value() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((".{0,3}", inner), 0..4).prop_map(|members| members.into_iter().collect()),
        ]
    })
}

/// The definition of a field: mostly a sound one.
fn field() -> impl Strategy<Value = Value> {
    let inside = (0..130_usize, any::<bool>()).prop_map(|(pattern, list)| {
        let inner = json!({ "type": "string", "pattern": format!("^{pattern}$") });
        match list {
            true => json!({ "type": "array", "items": inner }),
            false => json!({ "type": "object", "properties": { "a": inner, "b": { "type": "number", "required": true } } }),
        }
    });
    prop_oneof![
        20 => (0..400_usize).prop_map(|pattern| json!({ "type": "string", "pattern": format!("^{pattern}$") })),
        2 => inside,
        1 => number().prop_map(|min| json!({ "type": "number", "min": min })),
        1 => (prop::sample::select(vec!["string", "array", "object", "date"]), any_value()).prop_map(|(kind, value)| json!({ "type": kind, "default": value })),
        1 => prop::collection::vec(any_value(), 1..5).prop_map(|members| json!({ "type": "string", "enum": members })),
        1 => Just(json!({ "type": "string", "unique": true })),
        1 => prop::sample::select(vec!["restrict", "cascade", "set_null"]).prop_map(|word| json!({ "type": "string", "ref": "b", "onDelete": word })),
        1 => prop::sample::select(vec!["uuid", "cuid", "autoincrement", "timestamp"]).prop_map(|word| json!({ "type": "date", "generated": word })),
        1 => prop::sample::select(vec!["email", "url", "iso-date"]).prop_map(|word| json!({ "type": "string", "format": word, "minLength": 1, "maxLength": 1e3 })),
    ]
}

/// So many fields, named by their number.
fn fields(count: std::ops::Range<usize>) -> impl Strategy<Value = Map<String, Value>> {
    let name = prop_oneof![20 => (0..400_usize).prop_map(|at| format!("f{at}")), 1 => ".{1,3}"];
    prop::collection::vec((name, field()), count).prop_map(|fields| fields.into_iter().collect())
}

/// Indexes on fields that are picked once it is known which there are.
fn indexes(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<(Vec<Index>, u8)>> {
    prop::collection::vec((prop::collection::vec(any::<Index>(), 1..3), 0..4_u8), count)
}

fn resolved(indexes: &[(Vec<Index>, u8)], names: &[&String]) -> Value {
    let element = |(picks, form): &(Vec<Index>, u8)| {
        let mut picked: Vec<_> = picks.iter().map(|pick| pick.get(names)).collect();
        picked.dedup();
        match form {
            0 => json!(picked[0]),
            1 => json!(picked),
            form => json!({ "fields": picked, "unique": *form == 2 }),
        }
    };
    indexes.iter().map(element).collect()
}

fn ttl() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => Just(json!("1.5h")),
        1 => number(),
        4 => Just(Value::Null),
        4 => (f64::MIN_POSITIVE..f64::MAX).prop_map(Value::from),
    ]
}

type Update = (Map<String, Value>, Vec<(Vec<Index>, u8)>, Option<Value>);

fn update() -> impl Strategy<Value = Update> {
    (fields(0..60), indexes(0..40), prop::option::of(ttl()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn whatever_is_defined_and_updated_is_read_again_the_same(
        given in fields(0..140),
        listed in indexes(0..40),
        properties in (prop::option::of(ttl()), prop::option::of(1..1_000_u64), any::<bool>(), any::<bool>()),
        updates in prop::collection::vec(update(), 1..6),
    ) {
        let mut config = keyed(given.clone(), json!({}));
        config["indexes"] = resolved(&listed, &config["schema"].as_object().unwrap().keys().collect::<Vec<_>>());
        let (ttl, max_size, ordered, persistent) = properties;
        config["persistent"] = json!(persistent);
        if let Some(ttl) = ttl.filter(|ttl| !ttl.is_null()) {
            config["ttl"] = ttl;
        }
        if let Some(max_size) = max_size {
            config["maxSize"] = json!(max_size);
        }
        if ordered {
            config["etsType"] = json!("ordered_set");
        }
        // What is refused is reduced until it is taken: most of it is too much of something.
        let mut definition = BucketDefinition::parse(&object(config.clone()));
        let mut kept: Vec<_> = given.keys().cloned().collect();
        while let (Err(_), Some(_)) = (&definition, kept.len().checked_sub(1)) {
            kept.truncate(kept.len() / 2);
            config["schema"].as_object_mut().unwrap().retain(|name, _| name == "id" || kept.contains(name));
            config.as_object_mut().unwrap().shift_remove("indexes");
            definition = BucketDefinition::parse(&object(config.clone()));
        }
        let Ok(mut definition) = definition else { return Ok(()) };
        check(&definition);
        for (added, listed, ttl) in updates {
            let mut all = definition.config()["schema"].as_object().unwrap().clone();
            let added: Map<_, _> = added.into_iter().filter(|(name, _)| !all.contains_key(name)).collect();
            all.extend(added.clone());
            let listed = resolved(&listed, &all.keys().collect::<Vec<_>>());
            let mut parts = vec![json!({ "addIndexes": listed }), json!({ "addFields": added })];
            parts.extend(ttl.map(|ttl| json!({ "ttl": ttl })));
            let whole: Map<String, Value> = parts.iter().flat_map(|part| object(part.clone())).collect();
            // All of it, and where that is refused, part by part and index by index.
            parts.extend(listed.as_array().unwrap().iter().map(|index| json!({ "addIndexes": [index] })));
            let steps = std::iter::once(whole).chain(parts.into_iter().map(object));
            for step in steps {
                if let Ok(updated) = definition.updated(&step) {
                    definition = updated;
                }
            }
            check(&definition);
        }
    }

    #[test]
    fn whatever_query_is_defined_is_read_again_the_same(
        fields in prop::collection::vec((".{0,4}", any_value()), 0..6),
        operators in prop::collection::vec((prop::sample::select(vec!["$eq", "$neq", "$gt", "$lte", "$in", "$nin", "$between", "$exists", "$contains", "$startsWith"]), any_value()), 0..4),
        others in (prop::option::of(number()), prop::option::of(number()), prop::option::of(any_value()), prop::option::of(any_value()), any::<bool>()),
    ) {
        let (limit, offset, projection, sort, aggregates) = others;
        let mut filter: Map<String, Value> = fields.into_iter().collect();
        for (at, (operator, operand)) in operators.into_iter().enumerate() {
            filter.insert(format!("o{at}"), json!({ operator: operand }));
        }
        filter.insert("p".to_owned(), json!("{{ params.p }}"));
        let filter = json!({ "$or": [filter.clone(), { "$and": [filter] }] });
        let mut parts = vec![
            ("filter", filter),
            ("sort", sort.unwrap_or_else(|| json!({ "a": "asc", "": "desc" }))),
            ("fields", projection.unwrap_or_else(|| json!(["a", "", "\u{10FFFF}"]))),
        ];
        parts.extend(limit.map(|limit| ("limit", limit)));
        parts.extend(offset.map(|offset| ("offset", offset)));
        if aggregates {
            parts.push(("aggregate", json!({ "function": "sum", "field": "a", "groupBy": ["b", "c"] })));
        }
        let mut config = object(json!({ "bucket": "b" }));
        for (name, part) in parts {
            config.insert(name.to_owned(), part);
            match QueryDefinition::parse(&config) {
                Ok(definition) => check_query(&definition),
                Err(_) => drop(config.shift_remove(name)),
            }
        }
    }
}
