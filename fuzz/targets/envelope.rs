//! Texts from a peer to envelopes and fields, against what serde_json makes of the same text.

#![no_main]

use std::collections::HashMap;

use libfuzzer_sys::fuzz_target;
use noex_server::protocol::{Datum, Envelope, Fields, MAX_DEPTH, Record};
use noex_server::server::fuzzing::Readings;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let value: Option<Value> = serde_json::from_str(text).ok();
    match Envelope::parse(text) {
        Ok(Envelope::Pong { timestamp }) => {
            assert!(timestamp.is_finite());
            check_fields(text, &Fields::parse(text).expect("the envelope is an object"));
        }
        Ok(Envelope::Request(request)) => {
            assert!(!request.name().is_empty());
            assert!(request.id().as_f64().is_finite());
            check_fields(text, request.fields());
        }
        Err(answer) => {
            check_refusal(&answer);
            if let Some(Value::Object(object)) = &value {
                assert!(!is_sound(object), "refused: {}", String::from_utf8_lossy(&answer));
            }
        }
    }
});

/// Whether an object that serde_json takes whole makes an envelope.
fn is_sound(object: &Map<String, Value>) -> bool {
    let number = |name| object.get(name).is_some_and(Value::is_number);
    match object.get("type").and_then(Value::as_str) {
        None | Some("") => false,
        Some(_) if depth_of(object.values()) >= MAX_DEPTH => false,
        Some("pong") => number("timestamp"),
        Some(_) => number("id"),
    }
}

fn depth_of<'v>(values: impl Iterator<Item = &'v Value>) -> usize {
    let depth = |value: &Value| match value {
        Value::Array(items) => 1 + depth_of(items.iter()),
        Value::Object(members) => 1 + depth_of(members.values()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    };
    values.map(depth).max().unwrap_or(0)
}

fn check_refusal(answer: &[u8]) {
    let answer: Value = serde_json::from_slice(answer).expect("a refusal is JSON");
    assert_eq!(answer["type"], "error");
    assert!(answer["code"] == "PARSE_ERROR" || answer["code"] == "INVALID_REQUEST");
    assert!(answer["id"].is_number());
}

/// Every member is what serde_json finds, and every reader says of it what serde_json says.
fn check_fields(text: &str, fields: &Fields<'_>) {
    let members: HashMap<String, &RawValue> = serde_json::from_str(text).expect("an envelope is an object");
    for (name, json) in members {
        assert_eq!(fields.get(&name), Some(json.get()), "member {name:?}");
        check_readings(json.get());
    }
}

fn check_readings(json: &str) {
    let readings = Readings::of(json);
    let value: Option<Value> = serde_json::from_str(json).ok();
    let text = value.as_ref().and_then(Value::as_str).filter(|text| !text.is_empty());
    assert_eq!(readings.text.as_deref(), text, "{json}");
    assert_eq!(readings.object.as_ref(), value.as_ref().and_then(Value::as_object), "{json}");
    if let Some(record) = &readings.record {
        assert_eq!(Record::from_bytes(record.as_bytes()).as_ref(), Some(record));
        let again: Value = serde_json::from_slice(record.json()).expect("a record is JSON");
        assert_eq!(record.to_value(), again);
        assert_eq!(
            Record::from_object(again.as_object().expect("a record is an object")).json(),
            record.json()
        );
    }
    if let (Some(value), Some(key)) = (&value, &readings.key) {
        assert_eq!(*key, Datum::from(value), "{json}");
    }
    if let Some(value) = &value {
        assert_eq!(readings.key.is_none(), value.is_null(), "{json}");
        assert_eq!(readings.list.as_ref().map(Vec::len), value.as_array().map(Vec::len), "{json}");
        if let Some(whole) = value.as_u64() {
            assert_eq!(readings.whole, Some(whole), "{json}");
        }
        if value.as_f64().is_none_or(|number| number < 0.0 || number.fract() != 0.0) {
            assert_eq!(readings.whole, None, "{json}");
        }
    }
}
