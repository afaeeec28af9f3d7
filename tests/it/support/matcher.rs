//! What matches in a protocol vector; `protocol/vectors/README.md` has the table.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

/// What `$set:NAME` kept.
pub type Captures = HashMap<String, Value>;

/// Whether `got` is what the vector wants, and where it is not.
pub fn check(want: &Value, got: &Value, captures: &mut Captures) -> Result<(), String> {
    check_at("", want, got, captures)
}

/// Replaces `$get:NAME`, `$repeat:N:TEXT` and `$now:N` in what is to be sent.
pub fn fill(template: &Value, captures: &Captures) -> Value {
    match template {
        Value::String(text) => fill_text(text, captures),
        Value::Array(items) => items.iter().map(|item| fill(item, captures)).collect(),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| (name.clone(), fill(value, captures)))
            .collect::<Map<_, _>>()
            .into(),
        Value::Null | Value::Bool(_) | Value::Number(_) => template.clone(),
    }
}

fn fill_text(text: &str, captures: &Captures) -> Value {
    if let Some(name) = text.strip_prefix("$get:") {
        return captures.get(name).cloned().unwrap_or(Value::Null);
    }
    if let Some((count, unit)) = text.strip_prefix("$repeat:").and_then(|rest| rest.split_once(':')) {
        return unit.repeat(count.parse().expect("a count in $repeat")).into();
    }
    match text.strip_prefix("$now:") {
        Some(offset) => (now_ms() + offset.parse::<i64>().expect("milliseconds in $now")).into(),
        None => text.into(),
    }
}

fn check_at(at: &str, want: &Value, got: &Value, captures: &mut Captures) -> Result<(), String> {
    match want {
        Value::String(text) if text.starts_with('$') => check_text(at, text, got, captures),
        Value::Object(fields) => match fields.get("$unordered") {
            Some(items) => check_unordered(at, items.as_array().expect("$unordered holds an array"), got, captures),
            None => check_object(at, fields, got, captures),
        },
        Value::Array(items) => check_array(at, items, got, captures),
        Value::Number(number) => expect(got.as_f64() == number.as_f64() && got.is_number(), at, &number.to_string(), got),
        Value::Null | Value::Bool(_) | Value::String(_) => expect(want == got, at, &want.to_string(), got),
    }
}

fn check_text(at: &str, text: &str, got: &Value, captures: &mut Captures) -> Result<(), String> {
    if let Some(name) = text.strip_prefix("$set:") {
        captures.insert(name.to_owned(), got.clone());
        return Ok(());
    }
    if let Some(name) = text.strip_prefix("$get:") {
        let kept = captures
            .get(name)
            .cloned()
            .ok_or_else(|| format!("{at}: nothing is kept as {name:?}"))?;
        return expect(kept == *got, at, &kept.to_string(), got);
    }
    if let Some(part) = text.strip_prefix("$contains:") {
        return expect(
            got.as_str().is_some_and(|whole| whole.contains(part)),
            at,
            &format!("a text with {part:?}"),
            got,
        );
    }
    let (holds, wanted) = match text {
        "$any" => (true, "anything"),
        "$number" => (got.is_number(), "a number"),
        "$integer" => (got.is_i64() || got.is_u64(), "an integer"),
        "$string" => (got.is_string(), "a text"),
        "$bool" => (got.is_boolean(), "true or false"),
        "$array" => (got.is_array(), "an array"),
        "$object" => (got.is_object(), "an object"),
        "$uuid" => (got.as_str().is_some_and(is_uuid), "a UUID"),
        "$now" => (
            got.as_i64().is_some_and(|time| (time - now_ms()).abs() < 60_000),
            "the present time in ms",
        ),
        "$absent" => (false, "no such value"),
        _ => return Err(format!("{at}: there is no matcher {text}")),
    };
    expect(holds, at, wanted, got)
}

fn check_object(at: &str, fields: &Map<String, Value>, got: &Value, captures: &mut Captures) -> Result<(), String> {
    let Some(present) = got.as_object() else {
        return expect(false, at, "an object", got);
    };
    if fields.contains_key("$only")
        && let Some(extra) = present.keys().find(|name| !fields.contains_key(*name))
    {
        return Err(format!("{at}: unexpected field {extra:?} in {}", brief(got)));
    }
    for (name, want) in fields.iter().filter(|(name, _)| *name != "$only") {
        match present.get(name) {
            None if want == "$absent" => {}
            None => return Err(format!("{at}.{name}: is missing in {}", brief(got))),
            Some(value) => check_at(&format!("{at}.{name}"), want, value, captures)?,
        }
    }
    Ok(())
}

fn check_array(at: &str, items: &[Value], got: &Value, captures: &mut Captures) -> Result<(), String> {
    let present = array_of(items.len(), at, got)?;
    for (place, (want, value)) in items.iter().zip(present).enumerate() {
        check_at(&format!("{at}[{place}]"), want, value, captures)?;
    }
    Ok(())
}

fn check_unordered(at: &str, items: &[Value], got: &Value, captures: &mut Captures) -> Result<(), String> {
    let mut left: Vec<&Value> = array_of(items.len(), at, got)?.iter().collect();
    for want in items {
        // What a candidate that does not match would have kept must not stay: try on a copy.
        let place = left
            .iter()
            .position(|value| check_at(at, want, value, &mut captures.clone()).is_ok());
        let place = place.ok_or_else(|| format!("{at}: no item is {} in {}", brief(want), brief(got)))?;
        check_at(at, want, left.remove(place), captures)?;
    }
    Ok(())
}

fn array_of<'a>(length: usize, at: &str, got: &'a Value) -> Result<&'a Vec<Value>, String> {
    got.as_array()
        .filter(|present| present.len() == length)
        .ok_or_else(|| format!("{at}: expected {length} items, got {}", brief(got)))
}

fn expect(holds: bool, at: &str, wanted: &str, got: &Value) -> Result<(), String> {
    if holds {
        Ok(())
    } else {
        Err(format!("{at}: expected {wanted}, got {}", brief(got)))
    }
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(place, byte)| {
            if [8, 13, 18, 23].contains(&place) {
                byte == b'-'
            } else {
                byte.is_ascii_hexdigit()
            }
        })
}

fn now_ms() -> i64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    i64::try_from(since_1970.as_millis()).expect("the clock is before the year 292 million")
}

fn brief(value: &Value) -> String {
    const LONGEST: usize = 300;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

fn verdict(want: Value, got: Value) -> bool {
    check(&want, &got, &mut Captures::new()).is_ok()
}

#[test]
fn an_object_may_hold_more_unless_only_what_is_named_may_be_there() {
    assert!(verdict(json!({ "a": 1 }), json!({ "a": 1, "b": 2 })));
    assert!(!verdict(json!({ "a": 1, "$only": true }), json!({ "a": 1, "b": 2 })));
    assert!(verdict(json!({ "a": 1, "$only": true }), json!({ "a": 1 })));
    assert!(!verdict(json!({ "a": 1 }), json!({ "b": 1 })));
    assert!(!verdict(json!({}), json!([])));
}

#[test]
fn numbers_match_by_value_and_nothing_else_matches_them() {
    assert!(verdict(json!(1), json!(1.0)));
    assert!(!verdict(json!(1), json!("1")));
    assert!(!verdict(json!(0), json!(null)));
    assert!(!verdict(json!(1), json!(true)));
}

#[test]
fn arrays_match_in_order_and_length_unless_any_order_is_allowed() {
    assert!(verdict(json!([1, 2]), json!([1, 2])));
    assert!(!verdict(json!([1, 2]), json!([2, 1])));
    assert!(!verdict(json!([1]), json!([1, 1])));
    assert!(verdict(json!({ "$unordered": [1, 2] }), json!([2, 1])));
    assert!(!verdict(json!({ "$unordered": [1, 2] }), json!([2, 2])));
    assert!(!verdict(json!({ "$unordered": [1] }), json!([1, 1])));
}

#[test]
fn an_absent_field_may_not_be_null() {
    assert!(verdict(json!({ "a": "$absent" }), json!({})));
    assert!(!verdict(json!({ "a": "$absent" }), json!({ "a": null })));
}

#[test]
fn kinds_are_told_apart() {
    let kinds = [
        ("$number", json!(1.5)),
        ("$string", json!("x")),
        ("$bool", json!(false)),
        ("$array", json!([])),
        ("$object", json!({})),
        ("$uuid", json!("0f8c6f0e-6a0b-4d1a-9c55-2f6f0a1b7c33")),
        ("$now", json!(now_ms() - 5_000)),
    ];
    for (matcher, value) in &kinds {
        assert!(verdict(json!(matcher), value.clone()), "{matcher} against {value}");
        assert!(!verdict(json!(matcher), Value::Null), "{matcher} against null");
        assert!(verdict(json!("$any"), value.clone()));
    }
    assert!(verdict(json!("$integer"), json!(7)));
    assert!(!verdict(json!("$integer"), json!(7.0)));
    assert!(!verdict(json!("$uuid"), json!("0f8c6f0e-6a0b-4d1a-9c55-2f6f0a1b7c3g")));
    assert!(!verdict(json!("$now"), json!(0)));
    assert!(verdict(json!("$contains:ell"), json!("hello")));
    assert!(!verdict(json!("$contains:ell"), json!(["ell"])));
    assert!(!verdict(json!("$nonsense"), json!("$nonsense")));
}

#[test]
fn what_is_kept_must_come_again_and_can_be_sent() {
    let mut captures = Captures::new();
    check(
        &json!({ "id": "$set:key", "again": "$get:key" }),
        &json!({ "id": 7, "again": 7 }),
        &mut captures,
    )
    .unwrap();
    assert!(check(&json!("$get:key"), &json!(8), &mut captures).is_err());
    assert!(check(&json!("$get:unknown"), &json!(null), &mut captures).is_err());
    assert_eq!(
        fill(&json!({ "key": "$get:key", "text": ["$repeat:3:ab"] }), &captures),
        json!({ "key": 7, "text": ["ababab"] })
    );
    assert!(fill(&json!("$now:1000"), &captures).as_i64().unwrap() >= now_ms());
}

#[test]
fn a_candidate_that_does_not_match_keeps_nothing() {
    let mut captures = Captures::new();
    let want = json!({ "$unordered": [{ "id": "$set:id", "kind": "b" }] });
    check(&want, &json!([{ "id": 2, "kind": "b" }]), &mut captures).unwrap();
    assert_eq!(captures["id"], 2);
}
