//! What records a schema lets in, and what it says about the others.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{BucketDefinition, FieldSpec, Schema};
use crate::protocol::{FieldValue, Record, join_issues};

fn object(value: Value) -> Map<String, Value> {
    value.as_object().expect("an object").clone()
}

fn record(value: Value) -> Record {
    Record::from_object(&object(value))
}

fn schema(value: Value) -> Schema {
    Schema::parse(&object(value)).unwrap_or_else(|issues| panic!("{}", join_issues(&issues)))
}

/// Checks which issues a schema finds in a record: place, code and message of each.
fn check(schema_json: Value, record_json: Value, expected: &[(&str, &str, &str)]) {
    let issues = schema(schema_json).validate(&record(record_json.clone()));
    let found: Vec<_> = issues
        .iter()
        .map(|issue| (issue.field.as_str(), issue.code, issue.message.as_str()))
        .collect();
    assert_eq!(found, expected, "{record_json}");
}

/// Checks only the places and codes.
fn check_codes(schema_json: Value, record_json: Value, expected: &[(&str, &str)]) {
    let issues = schema(schema_json).validate(&record(record_json.clone()));
    let found: Vec<_> = issues.iter().map(|issue| (issue.field.as_str(), issue.code)).collect();
    assert_eq!(found, expected, "{record_json}");
}

#[test]
fn all_faults_are_listed_field_by_field_in_the_order_of_the_schema() {
    check(
        json!({
            "id": { "type": "string" },
            "name": { "type": "string", "required": true },
            "age": { "type": "number", "min": 16, "max": 99 },
            "level": { "type": "string", "enum": ["novice", "expert"] },
            "code": { "type": "string", "minLength": 3, "pattern": "^[A-Z]+$" },
        }),
        json!({ "id": "r", "code": "a", "level": "hero", "age": 7 }),
        &[
            ("name", "required", "Field is required"),
            ("age", "min", "Minimum value is 16"),
            ("level", "enum", "Value must be one of: novice, expert"),
            ("code", "minLength", "Minimum length is 3"),
            ("code", "pattern", "Value must match pattern \"^[A-Z]+$\""),
        ],
    );
}

#[test]
fn nothing_is_turned_into_another_type() {
    let values = [
        ("string", json!("")),
        ("number", json!(0)),
        ("boolean", json!(false)),
        ("object", json!({})),
        ("array", json!([])),
    ];
    for kind in ["string", "number", "boolean", "object", "array", "date"] {
        for (actual, value) in &values {
            let fits = kind == *actual || (kind == "date" && ["string", "number"].contains(actual));
            let message = format!("Expected type \"{kind}\", got {actual}");
            let expected: &[_] = if fits { &[] } else { &[("f", "type", message.as_str())] };
            check(json!({ "f": { "type": kind } }), json!({ "f": value }), expected);
        }
    }
}

#[test]
fn null_and_missing_are_fine_unless_the_field_is_required() {
    let optional = json!({ "f": { "type": "string", "enum": ["a"], "minLength": 1 } });
    check_codes(optional.clone(), json!({ "f": null }), &[]);
    check_codes(optional, json!({}), &[]);
    let required = json!({ "f": { "type": "number", "required": true, "min": 5 } });
    check_codes(required.clone(), json!({ "f": null }), &[("f", "required")]);
    check_codes(required.clone(), json!({}), &[("f", "required")]);
    check_codes(required, json!({ "f": "no" }), &[("f", "type")]);
}

#[test]
fn empty_values_are_present() {
    let required = |kind: &str| json!({ "type": kind, "required": true });
    check_codes(
        json!({ "s": required("string"), "n": required("number"), "b": required("boolean"), "o": required("object"), "a": required("array") }),
        json!({ "s": "", "n": 0, "b": false, "o": {}, "a": [] }),
        &[],
    );
}

#[test]
fn bounds_are_inclusive_and_numbers_are_written_in_the_shortest_form() {
    let bounded = json!({ "p": { "type": "number", "min": 0.5, "max": 1e21 } });
    check(bounded.clone(), json!({ "p": 0.5 }), &[]);
    check(bounded.clone(), json!({ "p": 1e21 }), &[]);
    check(bounded.clone(), json!({ "p": 0.49 }), &[("p", "min", "Minimum value is 0.5")]);
    check(bounded, json!({ "p": 1e22 }), &[("p", "max", "Maximum value is 1e+21")]);
    check(
        json!({ "p": { "type": "number", "max": 100.0 } }),
        json!({ "p": 101 }),
        &[("p", "max", "Maximum value is 100")],
    );
    // As doubles these two are one number.
    let exact = json!({ "p": { "type": "number", "max": 9_007_199_254_740_992_u64 } });
    check_codes(exact, json!({ "p": 9_007_199_254_740_993_u64 }), &[("p", "max")]);
}

#[test]
fn lengths_count_utf16_units() {
    let bounded = json!({ "s": { "type": "string", "minLength": 2, "maxLength": 3 } });
    check_codes(bounded.clone(), json!({ "s": "💙" }), &[]);
    check_codes(bounded.clone(), json!({ "s": "💙a" }), &[]);
    check_codes(bounded.clone(), json!({ "s": "é" }), &[("s", "minLength")]);
    check_codes(bounded.clone(), json!({ "s": "💙💙" }), &[("s", "maxLength")]);
    check_codes(bounded, json!({ "s": "\n\"" }), &[]);
}

#[test]
fn an_enum_compares_type_and_value_and_prints_as_script_would() {
    let mixed = json!({ "f": { "type": "date", "enum": [1.0, "1", true, null, ["a", null, [2]], {}] } });
    check(mixed.clone(), json!({ "f": 1 }), &[]);
    check(mixed.clone(), json!({ "f": "1" }), &[]);
    check(
        mixed,
        json!({ "f": "true" }),
        &[("f", "enum", "Value must be one of: 1, 1, true, , a,,2, [object Object]")],
    );
    check_codes(
        json!({ "f": { "type": "array", "enum": [[1]] } }),
        json!({ "f": [1] }),
        &[("f", "enum")],
    );
    check_codes(
        json!({ "f": { "type": "boolean", "enum": [true] } }),
        json!({ "f": false }),
        &[("f", "enum")],
    );
}

#[test]
fn constraints_look_at_the_value_in_a_date_field() {
    let date = json!({ "d": { "type": "date", "min": 10, "minLength": 3 } });
    check_codes(date.clone(), json!({ "d": 5 }), &[("d", "min")]);
    check_codes(date.clone(), json!({ "d": "ab" }), &[("d", "minLength")]);
    check_codes(date, json!({ "d": "anything" }), &[]);
    let formatted = json!({ "d": { "type": "date", "format": "iso-date" } });
    check(
        formatted.clone(),
        json!({ "d": "soon" }),
        &[("d", "format", "Invalid iso-date format")],
    );
    check(formatted, json!({ "d": 7 }), &[]);
}

#[test]
fn faults_inside_objects_and_lists_are_named_by_their_path() {
    let nested = json!({
        "address": { "type": "object", "properties": {
            "zip": { "type": "string", "required": true, "minLength": 4 },
            "geo": { "type": "object", "properties": { "lat": { "type": "number", "max": 90 } } },
        } },
        "tags": { "type": "array", "items": { "type": "string", "maxLength": 3 } },
        "lines": { "type": "array", "items": { "type": "object", "properties": { "sku": { "type": "string", "required": true } } } },
        "grid": { "type": "array", "items": { "type": "array", "items": { "type": "number" } } },
    });
    check_codes(
        nested.clone(),
        json!({ "address": { "geo": { "lat": 91 } }, "tags": ["ok", "long!", 7], "lines": [{ "sku": "a" }, {}], "grid": [[1], [2, "x"]] }),
        &[
            ("address.zip", "required"),
            ("address.geo.lat", "max"),
            ("tags[1]", "maxLength"),
            ("tags[2]", "type"),
            ("lines[1].sku", "required"),
            ("grid[1][1]", "type"),
        ],
    );
    check_codes(
        nested,
        json!({ "address": { "zip": "1234", "more": 1 }, "tags": [null, "abc"], "lines": [null], "grid": [] }),
        &[],
    );
}

#[test]
fn the_tenth_level_is_still_checked() {
    let (mut definition, mut value, mut path) = (json!({ "type": "number" }), json!("x"), "f".to_owned());
    for _ in 0..10 {
        definition = json!({ "type": "array", "items": definition });
        value = json!([value]);
        path.push_str("[0]");
    }
    check_codes(json!({ "f": definition }), json!({ "f": value }), &[(&path, "type")]);
}

#[test]
fn fields_that_the_schema_does_not_name_are_never_checked() {
    check_codes(
        json!({ "n": { "type": "number" } }),
        json!({ "N": "text", "n ": [], "": false, "extra": { "n": "x" } }),
        &[],
    );
}

#[test]
fn fields_are_found_in_any_order_and_among_many() {
    let fields = |range: std::ops::Range<usize>| range.map(|at| format!("f{at}")).collect::<Vec<_>>();
    for count in [3, 40, 300] {
        let declared: Map<String, Value> = fields(0..count)
            .into_iter()
            .map(|name| (name, json!({ "type": "number", "required": true })))
            .collect();
        let schema = Schema::parse(&declared).unwrap();
        let mut names = fields(0..count);
        for _ in 0..2 {
            let members: Map<String, Value> = names.iter().map(|name| (name.clone(), json!(1))).collect();
            assert_eq!(schema.validate(&Record::from_object(&members)), []);
            names.reverse();
        }
        names.remove(1);
        let members: Map<String, Value> = names.iter().map(|name| (name.clone(), json!(1))).collect();
        let issues = schema.validate(&Record::from_object(&members));
        assert_eq!(join_issues(&issues), "f1: Field is required");
    }
}

#[test]
fn a_record_full_of_faults_gets_a_bounded_answer() {
    let schema = schema(json!({ "a": { "type": "array", "items": { "type": "string" } } }));
    let issues = schema.validate(&record(json!({ "a": vec![1; 100_000] })));
    assert_eq!(issues.len(), 101);
    assert_eq!(issues[100].code, "limit");
}

#[test]
fn the_key_must_be_there_and_be_a_key() {
    let config = json!({ "key": "id", "schema": { "n": { "type": "number" }, "id": { "type": "string", "required": true } } });
    let definition = BucketDefinition::parse(&object(config)).unwrap();
    let codes = |json: Value| {
        definition
            .schema()
            .validate(&record(json))
            .into_iter()
            .map(|issue| (issue.field, issue.code))
            .collect::<Vec<_>>()
    };
    assert_eq!(codes(json!({ "id": "a" })), []);
    for (json, code) in [
        (json!({}), "required"),
        (json!({ "id": null }), "required"),
        (json!({ "id": [] }), "type"),
        (json!({ "id": {} }), "type"),
    ] {
        assert_eq!(codes(json), [("id".to_owned(), code)]);
    }
    let undemanding = BucketDefinition::builder("id").field("id", FieldSpec::date()).build().unwrap();
    assert_eq!(undemanding.schema().validate(&record(json!({})))[0].code, "required");
    assert_eq!(undemanding.schema().validate(&record(json!({ "id": 5 }))), []);
}

#[test]
fn validators_come_after_the_constraints_of_their_field_and_of_all_fields() {
    let definition = BucketDefinition::builder("id")
        .field("id", FieldSpec::string())
        .field(
            "list",
            FieldSpec::array()
                .items(FieldSpec::number())
                .validator(|_, _| Some("never right".to_owned())),
        )
        .field(
            "text",
            FieldSpec::string().min_length(9).validator(|value, record| {
                let text = matches!(value, FieldValue::Text(text) if text == "abc");
                Some(format!("{text} {}", record.field_count()))
            }),
        )
        .validator(|_| vec!["one".to_owned(), "two".to_owned()])
        .build()
        .unwrap();
    let updated = definition
        .updated(&object(json!({ "addFields": { "late": { "type": "string" } } })))
        .unwrap();
    for definition in [definition, updated] {
        let issues = definition
            .schema()
            .validate(&record(json!({ "id": "a", "list": ["x"], "text": "abc" })));
        let found: Vec<_> = issues
            .iter()
            .map(|issue| (issue.field.as_str(), issue.code, issue.message.as_str()))
            .collect();
        let expected = [
            ("list", "custom", "never right"),
            ("list[0]", "type", "Expected type \"number\", got string"),
            ("text", "minLength", "Minimum length is 9"),
            ("text", "custom", "true 3"),
            ("_record", "custom", "one"),
            ("_record", "custom", "two"),
        ];
        assert_eq!(found, expected);
        let issues = definition.schema().validate(&record(json!({ "id": "a", "list": null, "text": 5 })));
        assert_eq!(
            join_issues(&issues),
            "text: Expected type \"string\", got number; _record: one; _record: two"
        );
    }
}

/// Any JSON value of moderate size, with names and texts that definitions use.
pub(super) fn any_json() -> impl Strategy<Value = Value> {
    let words = [
        "id",
        "a",
        "type",
        "string",
        "number",
        "array",
        "object",
        "date",
        "required",
        "enum",
        "pattern",
        "(a|b)*[^]",
        "format",
        "url",
        "min",
        "maxLength",
        "items",
        "properties",
        "unique",
        "ref",
        "onDelete",
        "set_null",
        "default",
        "generated",
        "uuid",
        "key",
        "schema",
        "indexes",
        "fields",
        "ttl",
        "1h",
        "maxSize",
        "addFields",
        "addIndexes",
        "validate",
        "_version",
        "",
    ];
    let word = prop::sample::select(words.to_vec()).prop_map(str::to_owned);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3_i64..1000).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 8, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((word.clone(), inner), 0..8).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// A field definition that is valid, or nearly so.
fn any_field() -> impl Strategy<Value = Value> {
    let kind = prop::sample::select(vec!["string", "number", "boolean", "object", "array", "date"]);
    let leaf = (
        kind,
        any::<bool>(),
        0_u64..4,
        prop::option::of(prop::sample::select(vec!["^a+$", "b", r"\d{2}"])),
    )
        .prop_map(|(kind, required, length, pattern)| {
            let mut field = json!({ "type": kind, "required": required });
            match (kind, pattern) {
                ("string" | "date", Some(pattern)) => field["pattern"] = pattern.into(),
                ("string" | "date", None) => field["minLength"] = length.into(),
                ("number", _) => field["max"] = length.into(),
                _ => field["enum"] = json!([true, [], {}]),
            }
            field
        });
    leaf.prop_recursive(4, 16, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|items| json!({ "type": "array", "items": items })),
            prop::collection::vec(inner, 0..3).prop_map(|fields| {
                let members: Map<String, Value> = ["a", "b", "c"].map(str::to_owned).into_iter().zip(fields).collect();
                json!({ "type": "object", "properties": members })
            }),
        ]
    })
}

/// Says the same as the validation of a record, in the plainest way: only whether there is a fault.
fn is_valid(field: &Value, value: &Value) -> bool {
    let kind = field["type"].as_str().unwrap();
    let of_type = match value {
        Value::Null => return field["required"] != true,
        Value::Bool(_) => kind == "boolean",
        Value::Number(_) => ["number", "date"].contains(&kind),
        Value::String(_) => ["string", "date"].contains(&kind),
        Value::Array(_) => kind == "array",
        Value::Object(_) => kind == "object",
    };
    let length = |text: &str| text.encode_utf16().count() as u64;
    of_type
        && field["enum"]
            .as_array()
            .is_none_or(|members| !value.is_array() && !value.is_object() && members.contains(value))
        && field["minLength"]
            .as_u64()
            .is_none_or(|least| value.as_str().is_none_or(|text| length(text) >= least))
        && field["max"]
            .as_f64()
            .is_none_or(|most| value.as_f64().is_none_or(|number| number <= most))
        && field["pattern"]
            .as_str()
            .is_none_or(|pattern| value.as_str().is_none_or(|text| regex::Regex::new(pattern).unwrap().is_match(text)))
        && field["items"].as_object().is_none_or(|_| {
            value
                .as_array()
                .is_none_or(|items| items.iter().all(|item| item.is_null() || is_valid(&field["items"], item)))
        })
        && field["properties"]
            .as_object()
            .is_none_or(|fields| fields.iter().all(|(name, field)| is_valid(field, &value[name])))
}

proptest! {
    #[test]
    fn a_record_is_refused_exactly_where_a_field_is_not_as_described(field in any_field(), value in any_json()) {
        let schema = Schema::parse(&object(json!({ "f": field }))).unwrap();
        let issues = schema.validate(&record(json!({ "other": 1, "f": value })));
        prop_assert_eq!(issues.is_empty(), is_valid(&field, &value), "{:?}", issues);
    }
}
