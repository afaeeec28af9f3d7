//! What definitions are taken, what is said about the others, and how they change.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::schema_tests::any_json;
use super::{BucketDefinition, FieldSpec, Format, Generated, OnDelete, Schema};
use crate::protocol::{Issue, join_issues};
use crate::store::StoreError;

fn object(value: Value) -> Map<String, Value> {
    value.as_object().expect("an object").clone()
}

fn parse(config: Value) -> Result<BucketDefinition, Vec<Issue>> {
    BucketDefinition::parse(&object(config))
}

fn good(config: Value) -> BucketDefinition {
    parse(config).unwrap_or_else(|issues| panic!("{}", join_issues(&issues)))
}

/// A definition with the key `id` and these further fields and properties.
fn with(fields: Value, properties: Value) -> Value {
    let mut config = json!({ "key": "id", "schema": { "id": { "type": "string" } } });
    config["schema"].as_object_mut().unwrap().extend(object(fields));
    config.as_object_mut().unwrap().extend(object(properties));
    config
}

fn places(issues: &[Issue]) -> Vec<(&str, &str)> {
    issues.iter().map(|issue| (issue.field.as_str(), issue.code)).collect()
}

fn check_refused(config: Value, expected: &[(&str, &str)]) {
    let issues = parse(config.clone()).err().unwrap_or_default();
    assert_eq!(places(&issues), expected, "{config}: {}", join_issues(&issues));
}

fn check_field_refused(field: Value, expected: &[(&str, &str)]) {
    check_refused(with(json!({ "f": field }), json!({})), expected);
}

#[test]
fn all_faults_of_a_definition_are_listed_with_their_places() {
    let config = json!({
        "key": "nope",
        "schema": { "id": { "type": "text" }, "s": { "type": "string", "pattern": "(" }, "n": 5 },
        "indexes": ["id", "gone", 7],
        "ttl": "10w",
        "maxSize": 0,
        "maxsize": 5,
        "etsType": "heap",
        "persistent": "yes",
    });
    check_refused(
        config.clone(),
        &[
            ("maxsize", "unknown"),
            ("schema.id.type", "enum"),
            ("schema.s.pattern", "pattern"),
            ("schema.n", "type"),
            ("key", "notFound"),
            ("indexes[1]", "notFound"),
            ("indexes[2]", "type"),
            ("maxSize", "min"),
            ("etsType", "enum"),
            ("persistent", "type"),
            ("ttl", "ttl"),
        ],
    );
    let messages = join_issues(&parse(config).unwrap_err());
    for message in [
        "maxsize: Unknown property; did you mean \"maxSize\"?",
        "schema.id.type: Value must be one of: string, number, boolean, object, array, date",
        "schema.s.pattern: Invalid pattern: unclosed group",
        "key: Key field \"nope\" does not exist in schema",
        "indexes[1]: Index field \"gone\" does not exist in schema",
    ] {
        assert!(messages.contains(message), "{message} in {messages}");
    }
}

#[test]
fn a_definition_needs_a_key_and_a_schema() {
    check_refused(json!({}), &[("key", "required"), ("schema", "required")]);
    check_refused(json!({ "key": "id" }), &[("schema", "required")]);
    check_refused(json!({ "key": 5, "schema": [] }), &[("key", "type"), ("schema", "type")]);
    check_refused(json!({ "key": "id", "schema": {} }), &[("key", "notFound")]);
}

#[test]
fn a_key_must_be_able_to_tell_records_apart() {
    for kind in ["object", "array"] {
        check_refused(json!({ "key": "id", "schema": { "id": { "type": kind } } }), &[("key", "conflict")]);
    }
    check_refused(
        json!({ "key": "id", "schema": { "id": { "type": "string", "ref": "t", "onDelete": "set_null" } } }),
        &[("key", "conflict")],
    );
    check_refused(
        json!({ "key": "_version", "schema": { "_version": { "type": "number" } } }),
        &[("key", "conflict")],
    );
}

#[test]
fn every_field_property_has_its_type_and_range() {
    check_field_refused(json!({}), &[("schema.f.type", "required")]);
    check_field_refused(json!("string"), &[("schema.f", "type")]);
    check_field_refused(
        json!({ "type": "string", "required": 1, "unique": "no" }),
        &[("schema.f.required", "type"), ("schema.f.unique", "type")],
    );
    check_field_refused(
        json!({ "type": "string", "minLength": -1, "maxLength": 1.5 }),
        &[("schema.f.minLength", "min"), ("schema.f.maxLength", "min")],
    );
    check_field_refused(
        json!({ "type": "number", "min": "1", "max": null }),
        &[("schema.f.min", "type"), ("schema.f.max", "type")],
    );
    check_field_refused(json!({ "type": "string", "enum": "a" }), &[("schema.f.enum", "type")]);
    check_field_refused(json!({ "type": "string", "enum": [] }), &[("schema.f.enum", "limit")]);
    check_field_refused(json!({ "type": "string", "format": "phone" }), &[("schema.f.format", "enum")]);
    check_field_refused(
        json!({ "type": "string", "generated": "snowflake" }),
        &[("schema.f.generated", "enum")],
    );
    check_field_refused(json!({ "type": "string", "pattern": 5 }), &[("schema.f.pattern", "type")]);
    check_field_refused(json!({ "type": "string", "pattern": "(?=a)" }), &[("schema.f.pattern", "pattern")]);
    check_field_refused(
        json!({ "type": "string", "ref": "", "onDelete": "ignore" }),
        &[("schema.f.onDelete", "enum"), ("schema.f.ref", "limit")],
    );
    check_field_refused(
        json!({ "type": "string", "validate": "x", "reqired": true }),
        &[("schema.f.validate", "unknown"), ("schema.f.reqired", "unknown")],
    );
}

#[test]
fn what_can_never_be_satisfied_or_never_apply_is_refused() {
    check_field_refused(json!({ "type": "number", "min": 2, "max": 1 }), &[("schema.f.max", "range")]);
    check_field_refused(
        json!({ "type": "string", "minLength": 2, "maxLength": 1 }),
        &[("schema.f.maxLength", "range")],
    );
    check_field_refused(
        json!({ "type": "number", "minLength": 2, "format": "url" }),
        &[("schema.f.minLength", "conflict"), ("schema.f.format", "conflict")],
    );
    check_field_refused(json!({ "type": "string", "max": 2 }), &[("schema.f.max", "conflict")]);
    check_field_refused(json!({ "type": "array", "properties": {} }), &[("schema.f.properties", "conflict")]);
    check_field_refused(
        json!({ "type": "object", "items": { "type": "string" } }),
        &[("schema.f.items", "conflict")],
    );
    check_field_refused(
        json!({ "type": "array", "unique": true, "ref": "t" }),
        &[("schema.f.unique", "conflict"), ("schema.f.ref", "conflict")],
    );
    check_field_refused(
        json!({ "type": "string", "onDelete": "cascade" }),
        &[("schema.f.onDelete", "conflict")],
    );
    check_field_refused(
        json!({ "type": "string", "ref": "t", "onDelete": "set_null", "required": true }),
        &[("schema.f.onDelete", "conflict")],
    );
    for (kind, generated) in [
        ("number", "uuid"),
        ("boolean", "cuid"),
        ("string", "autoincrement"),
        ("string", "timestamp"),
    ] {
        check_field_refused(
            json!({ "type": kind, "generated": generated }),
            &[("schema.f.generated", "conflict")],
        );
    }
    check_refused(
        with(json!({ "_createdAt": { "type": "number", "generated": "timestamp" } }), json!({})),
        &[("schema._createdAt.generated", "conflict")],
    );
}

#[test]
fn a_default_is_not_judged_before_it_is_stored() {
    good(with(
        json!({ "size": { "type": "number", "default": 5, "max": 3 }, "nil": { "type": "string", "default": null } }),
        json!({}),
    ));
}

#[test]
fn what_only_fields_of_the_record_can_have_is_refused_inside_of_them() {
    let inside = json!({ "type": "string", "ref": "t", "unique": true, "default": 1, "generated": "uuid", "color": 1 });
    check_field_refused(
        json!({ "type": "object", "properties": { "a": inside } }),
        &[
            ("schema.f.properties.a.color", "unknown"),
            ("schema.f.properties.a.default", "conflict"),
            ("schema.f.properties.a.generated", "conflict"),
            ("schema.f.properties.a.unique", "conflict"),
            ("schema.f.properties.a.ref", "conflict"),
        ],
    );
    check_field_refused(
        json!({ "type": "array", "items": { "type": "strin" } }),
        &[("schema.f.items.type", "enum")],
    );
    check_field_refused(json!({ "type": "array", "items": [] }), &[("schema.f.items", "type")]);
}

#[test]
fn a_definition_is_bounded_in_every_direction() {
    let nested = |levels: usize| (0..levels).fold(json!({ "type": "number" }), |inner, _| json!({ "type": "array", "items": inner }));
    good(with(json!({ "f": nested(10) }), json!({})));
    let issues = parse(with(json!({ "f": nested(11) }), json!({}))).unwrap_err();
    assert_eq!((issues.len(), issues[0].code), (1, "limit"));

    let fields = |count: usize| -> Map<String, Value> { (0..count).map(|at| (format!("f{at}"), json!({ "type": "number" }))).collect() };
    good(with(json!(fields(999)), json!({})));
    check_refused(with(json!(fields(5000)), json!({})), &[("schema", "limit")]);
    check_field_refused(
        json!({ "type": "object", "properties": fields(5000) }),
        &[("schema.f.properties", "limit")],
    );
    let issues = good(with(json!(fields(999)), json!({})))
        .updated(&object(json!({ "addFields": { "one": { "type": "number" } } })))
        .unwrap_err();
    assert_eq!(places(&issues), [("addFields", "limit")]);

    let indexes: Vec<String> = (0..65).map(|at| format!("f{at}")).collect();
    good(with(json!(fields(65)), json!({ "indexes": indexes[..64] })));
    check_refused(with(json!(fields(65)), json!({ "indexes": indexes })), &[("indexes", "limit")]);
    let unique: Map<String, Value> = (0..65)
        .map(|at| (format!("u{at}"), json!({ "type": "number", "unique": true })))
        .collect();
    check_refused(with(json!(unique), json!({})), &[("indexes", "limit")]);

    let patterns: Map<String, Value> = (0..101)
        .map(|at| (format!("p{at}"), json!({ "type": "string", "pattern": format!("^{at}$") })))
        .collect();
    check_refused(with(json!(patterns), json!({})), &[("schema.p100.pattern", "limit")]);

    let long = "x".repeat(257);
    check_refused(
        with(json!({ &long: { "type": "string" } }), json!({})),
        &[(&format!("schema.{long}"), "limit")],
    );
    check_refused(with(json!({ "": { "type": "string" } }), json!({})), &[("schema.", "limit")]);
    check_field_refused(json!({ "type": "string", "ref": long }), &[("schema.f.ref", "limit")]);
    check_field_refused(json!({ "type": "string", "enum": vec!["a"; 1001] }), &[("schema.f.enum", "limit")]);
    check_field_refused(
        json!({ "type": "string", "enum": ["a".repeat(40_000)] }),
        &[("schema.f.enum", "limit")],
    );

    let unknown: Map<String, Value> = (0..5000).map(|at| (format!("unknown{at}"), json!(1))).collect();
    assert_eq!(parse(with(json!({}), json!(unknown))).unwrap_err().len(), 101);
}

#[test]
fn the_definition_comes_back_as_it_was_given() {
    let config = with(
        json!({ "n": { "type": "number", "min": 0, "default": 1 } }),
        json!({ "indexes": ["n", "n"], "ttl": "2h", "maxSize": 10, "etsType": "bag" }),
    );
    let definition = good(config.clone());
    assert_eq!(serde_json::to_string(definition.config()).unwrap(), config.to_string());
    assert_eq!(
        (
            definition.ttl_ms(),
            definition.max_size(),
            definition.is_ordered(),
            definition.is_persistent()
        ),
        (Some(7_200_000.0), Some(10), false, true)
    );
    let definition = good(with(json!({}), json!({ "etsType": "ordered_set", "persistent": false })));
    assert_eq!(
        (
            definition.ttl_ms(),
            definition.max_size(),
            definition.is_ordered(),
            definition.is_persistent()
        ),
        (None, None, true, false)
    );
}

/// The indexes as text: `a`, `a+b`, with an exclamation mark where they are unique.
fn index_names(definition: &BucketDefinition) -> Vec<String> {
    let name = |index: &super::IndexDefinition| index.fields.iter().map(|field| field.as_str()).collect::<Vec<_>>().join("+");
    definition
        .indexes()
        .iter()
        .map(|index| format!("{}{}", name(index), if index.unique { "!" } else { "" }))
        .collect()
}

fn indexed_fields() -> Value {
    json!({
        "a": { "type": "number" },
        "u": { "type": "string", "unique": true },
        "v": { "type": "string", "unique": true },
        "r": { "type": "string", "ref": "t" },
        "q": { "type": "string", "ref": "t", "onDelete": "cascade" },
    })
}

#[test]
fn listed_indexes_come_first_then_those_of_unique_fields_then_those_of_references() {
    let definition = good(with(
        indexed_fields(),
        json!({ "indexes": ["r", "v", "a", ["a", "r"], { "fields": ["r", "a"], "unique": true }] }),
    ));
    assert_eq!(index_names(&definition), ["r", "v!", "a", "a+r", "r+a!", "u!", "q"]);
    assert_eq!(definition.index_count(), 6);
    let targets: Vec<_> = definition
        .references()
        .iter()
        .map(|reference| (reference.field.as_str(), reference.on_delete))
        .collect();
    assert_eq!(targets, [("r", OnDelete::Restrict), ("q", OnDelete::Cascade)]);
}

#[test]
fn an_index_that_is_listed_twice_is_one_index() {
    let definition = good(with(
        indexed_fields(),
        json!({ "indexes": ["a", ["a"], { "fields": ["a"], "unique": true }, ["a", "u"], ["a", "u"], ["u", "a"]] }),
    ));
    assert_eq!(index_names(&definition), ["a!", "a+u", "u+a", "u!", "v!", "r", "q"]);
}

#[test]
fn a_malformed_index_is_refused() {
    let refused = |index: Value, expected: &[(&str, &str)]| check_refused(with(indexed_fields(), json!({ "indexes": [index] })), expected);
    refused(json!([]), &[("indexes[0]", "limit")]);
    refused(json!(["a", "a"]), &[("indexes[0][1]", "duplicate")]);
    refused(json!(["a", 5, "gone"]), &[("indexes[0][1]", "type"), ("indexes[0][2]", "notFound")]);
    refused(json!({}), &[("indexes[0].fields", "required")]);
    refused(
        json!({ "fields": "a", "unique": 1 }),
        &[("indexes[0].unique", "type"), ("indexes[0].fields", "type")],
    );
    refused(json!({ "fields": ["a"], "uniqe": true }), &[("indexes[0].uniqe", "unknown")]);
    refused(json!(vec!["a"; 9]), &[("indexes[0]", "limit")]);
    check_refused(with(json!({}), json!({ "indexes": "id" })), &[("indexes", "type")]);
}

#[test]
fn an_update_adds_fields_and_indexes_and_moves_the_ttl() {
    let definition = good(with(json!({ "v": { "type": "number" } }), json!({ "maxSize": 9 })));
    let updates = json!({
        "addFields": { "mail": { "type": "string", "unique": true }, "by": { "type": "string", "ref": "users" } },
        "addIndexes": ["v", ["v", "mail"]],
        "ttl": "45s",
        "maxSize": 0,
        "anything": [],
    });
    let updated = definition.updated(&object(updates)).unwrap();
    let config = with(
        json!({ "v": { "type": "number" }, "mail": { "type": "string", "unique": true }, "by": { "type": "string", "ref": "users" } }),
        json!({ "maxSize": 9, "indexes": ["v", ["v", "mail"]], "ttl": "45s" }),
    );
    assert_eq!(Value::from(updated.config().clone()), config);
    assert_eq!(index_names(&updated), ["v", "v+mail", "mail!", "by"]);
    assert_eq!(updated.index_count(), 3);
    assert_eq!(updated.references().len(), 1);
    assert_eq!((updated.ttl_ms(), updated.max_size()), (Some(45_000.0), Some(9)));

    let without = updated
        .updated(&object(json!({ "ttl": null, "addIndexes": ["v", { "fields": ["v"] }] })))
        .unwrap();
    assert_eq!(without.ttl_ms(), None);
    let names: Vec<_> = without.config().keys().collect();
    assert_eq!(names, ["key", "schema", "maxSize", "indexes"]);
    assert_eq!(without.config()["indexes"], json!(["v", ["v", "mail"]]));
}

#[test]
fn an_empty_update_changes_nothing_but_an_empty_list_of_indexes() {
    let config = with(json!({}), json!({ "indexes": [], "ttl": 5 }));
    let updated = good(config).updated(&Map::new()).unwrap();
    assert_eq!(Value::from(updated.config().clone()), with(json!({}), json!({ "ttl": 5 })));
}

#[test]
fn an_index_can_become_unique_later() {
    let definition = good(with(json!({ "v": { "type": "number" } }), json!({ "indexes": ["v"] })));
    let updated = definition
        .updated(&object(json!({ "addIndexes": [{ "fields": ["v"], "unique": true }] })))
        .unwrap();
    assert_eq!(index_names(&updated), ["v!"]);
    assert_eq!(index_names(&good(Value::from(updated.config().clone()))), ["v!"]);
}

#[test]
fn a_faulty_update_is_refused_whole_with_its_places() {
    let definition = good(with(json!({ "v": { "type": "number" } }), json!({})));
    let refused = |updates: Value, expected: &[(&str, &str)]| {
        let issues = definition.updated(&object(updates)).unwrap_err();
        assert_eq!(places(&issues), expected);
    };
    refused(
        json!({ "addFields": { "w": { "type": "number" } }, "addIndexes": ["w", "nope"] }),
        &[("addIndexes[1]", "notFound")],
    );
    refused(
        json!({ "addFields": { "w": { "type": "number" }, "v": { "type": "string" } } }),
        &[("addFields.v", "exists")],
    );
    refused(
        json!({ "addFields": { "w": { "type": "numeric" } }, "ttl": "5M" }),
        &[("addFields.w.type", "enum"), ("ttl", "ttl")],
    );
    refused(
        json!({ "addFields": [], "addIndexes": {}, "ttl": true }),
        &[("addFields", "type"), ("addIndexes", "type"), ("ttl", "ttl")],
    );
    let issues = definition
        .updated(&object(json!({ "addFields": { "v": { "type": "string" } } })))
        .unwrap_err();
    assert_eq!(issues[0].message, "Field \"v\" already exists");
}

#[test]
fn a_builder_writes_what_a_client_would_send() {
    let definition = BucketDefinition::builder("id")
        .field("id", FieldSpec::string().generated(Generated::Uuid))
        .field(
            "mail",
            FieldSpec::string()
                .required()
                .format(Format::Email)
                .pattern("@")
                .min_length(3)
                .max_length(99)
                .unique(),
        )
        .field("group", FieldSpec::number().min(1).max(2.5).default(1).one_of([1, 2]))
        .field("team", FieldSpec::string().references("teams", OnDelete::SetNull))
        .field("home", FieldSpec::object().properties([("zip", FieldSpec::string().required())]))
        .field("tags", FieldSpec::array().items(FieldSpec::string()))
        .field("born", FieldSpec::date())
        .field("ok", FieldSpec::boolean())
        .index("group")
        .compound_index(["team", "group"])
        .unique_index(["group", "born"])
        .ttl(Duration::from_millis(1500))
        .max_size(7)
        .ordered()
        .in_memory()
        .build()
        .unwrap();
    let expected = json!({
        "key": "id",
        "schema": {
            "id": { "type": "string", "generated": "uuid" },
            "mail": { "type": "string", "required": true, "format": "email", "pattern": "@", "minLength": 3, "maxLength": 99, "unique": true },
            "group": { "type": "number", "min": 1, "max": 2.5, "default": 1, "enum": [1, 2] },
            "team": { "type": "string", "ref": "teams", "onDelete": "set_null" },
            "home": { "type": "object", "properties": { "zip": { "type": "string", "required": true } } },
            "tags": { "type": "array", "items": { "type": "string" } },
            "born": { "type": "date" },
            "ok": { "type": "boolean" },
        },
        "ttl": 1500,
        "maxSize": 7,
        "etsType": "ordered_set",
        "persistent": false,
        "indexes": ["group", ["team", "group"], { "fields": ["group", "born"], "unique": true }],
    });
    assert_eq!(
        serde_json::to_string_pretty(definition.config()).unwrap(),
        serde_json::to_string_pretty(&expected).unwrap()
    );
}

#[test]
fn a_builder_says_all_that_is_wrong() {
    let built = BucketDefinition::builder("id")
        .field("id", FieldSpec::string())
        .field("id", FieldSpec::number().min(f64::NAN))
        .index("gone")
        .ttl(Duration::ZERO)
        .build();
    let Err(StoreError::Invalid { issues, .. }) = built else {
        panic!("the builder says nothing")
    };
    assert_eq!(
        places(&issues),
        [
            ("schema.id", "exists"),
            ("schema.id.min", "type"),
            ("indexes[0]", "notFound"),
            ("ttl", "ttl")
        ]
    );
    let unknown = good(with(json!({}), json!({}))).with_field_validator("gone", std::sync::Arc::new(|_, _| None));
    assert_eq!(places(&unknown.unwrap_err()), [("gone", "notFound")]);
}

proptest! {
    #[test]
    fn no_json_makes_the_reading_of_a_definition_panic(schema in any_json(), properties in any_json(), updates in any_json()) {
        let mut config = object(with(json!({}), json!({})));
        if let Value::Object(properties) = properties {
            config.extend(properties);
        }
        let _ = BucketDefinition::parse(&config);
        if let Value::Object(schema) = &schema {
            let _ = Schema::parse(schema);
        }
        let _ = BucketDefinition::parse(&object(json!({ "key": "id", "schema": schema, "indexes": updates, "ttl": updates })));
        let definition = good(with(indexed_fields(), json!({})));
        if let Value::Object(updates) = &updates {
            let _ = definition.updated(updates);
        }
        let _ = definition.updated(&object(json!({ "addFields": schema, "addIndexes": updates, "ttl": updates })));
    }

    #[test]
    fn an_updated_definition_is_what_its_config_says(name in "[a-c]", unique in any::<bool>(), index in prop::sample::select(vec![json!("u"), json!("a"), json!(["a", "u"]), json!({ "fields": ["a"], "unique": true })])) {
        let definition = good(with(indexed_fields(), json!({ "indexes": ["a"] })));
        let updates = json!({ "addFields": { format!("new_{name}"): { "type": "string", "unique": unique, "pattern": "x" } }, "addIndexes": [index, format!("new_{name}")] });
        let updated = definition.updated(&object(updates)).unwrap();
        let read_again = BucketDefinition::parse(updated.config()).unwrap();
        prop_assert_eq!(index_names(&updated), index_names(&read_again));
        prop_assert_eq!(updated.index_count(), read_again.index_count());
    }
}
