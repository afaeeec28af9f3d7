//! Texts such as `{{ session.userId }}` in the row rules of permissions.

use serde_json::{Map, Value, json};

use super::places::{Wanted, replaced};
use crate::server::access::Principal;

/// A filter with the session's values in the places of `{{ session.userId }}`, `{{ session.roles }}` and
/// `{{ session.metadata.x }}`. None where the session lacks one of them, or has something that does not belong there: then
/// nothing is to be allowed.
pub(super) fn resolve(filter: &Map<String, Value>, principal: &Principal) -> Option<Map<String, Value>> {
    replaced(filter, &|text, wanted| resolve_text(text, wanted, principal))
}

/// A text that is nothing but a reference becomes the value itself; in a longer text, texts and numbers are put in.
fn resolve_text(text: &str, wanted: Wanted, principal: &Principal) -> Option<Value> {
    if let Some(("", path, "")) = split(text) {
        return lookup(path, principal).filter(|value| belongs(value, wanted));
    }
    let (mut resolved, mut rest) = (String::new(), text);
    while let Some((before, path, after)) = split(rest) {
        resolved.push_str(before);
        match lookup(path, principal)? {
            Value::String(text) if text.is_empty() && wanted == Wanted::Part => return None,
            Value::String(text) => resolved.push_str(&text),
            Value::Number(number) => resolved.push_str(&number.to_string()),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
        }
        rest = after;
    }
    resolved.push_str(rest);
    Some(Value::String(resolved))
}

/// Whether a value of the session may stand where something is wanted. Nothing equals a list, so that one would make
/// `$neq` let everything through; an object would be read as a condition, which a session must not bring along.
fn belongs(value: &Value, wanted: Wanted) -> bool {
    let is_single = |value: &Value| !value.is_null() && !value.is_array() && !value.is_object();
    match wanted {
        Wanted::Equal | Wanted::Bound | Wanted::Flag => is_single(value),
        Wanted::Values | Wanted::Bounds => value.as_array().is_some_and(|values| values.iter().all(is_single)),
        // Every text contains the empty one.
        Wanted::Part => value.as_str().is_some_and(|text| !text.is_empty()),
        Wanted::Filters => false,
    }
}

/// A filter with values in the places of references that fit there, where any do.
pub(super) fn sampled(filter: &Map<String, Value>) -> Map<String, Value> {
    let sample = |text: &str, wanted| match (wanted, split(text)) {
        (Wanted::Bound, Some(("", _, ""))) => json!(0),
        (Wanted::Values, Some(("", _, ""))) => json!(["x"]),
        (Wanted::Bounds, Some(("", _, ""))) => json!([0, 1]),
        (Wanted::Flag, Some(("", _, ""))) => json!(true),
        // A text: what it says does not matter.
        (_, Some(_) | None) => json!(text),
    };
    replaced(filter, &|text, wanted| Some(sample(text, wanted))).unwrap_or_default()
}

/// What stands before the first reference, its path, and what stands behind it.
fn split(text: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = text.split_once("{{")?;
    let (path, after) = rest.split_once("}}")?;
    Some((before, path.trim(), after))
}

fn lookup(path: &str, principal: &Principal) -> Option<Value> {
    let mut parts = path.split('.');
    if parts.next()? != "session" {
        return None;
    }
    let value = match parts.next()? {
        // Whoever is not logged in has none.
        "userId" if principal.user_id.is_empty() => return None,
        "userId" => Value::from(principal.user_id.as_str()),
        "roles" => Value::from(principal.roles.clone()),
        "metadata" => parts.next().and_then(|name| principal.metadata.get(name)).cloned()?,
        _ => return None,
    };
    // Deeper into objects, where there are any.
    let found = parts.try_fold(value, |value, name| value.get(name).cloned())?;
    (!found.is_null()).then_some(found)
}

/// The paths that a filter refers to and no session can have.
pub(super) fn unknown_references(filter: &Map<String, Value>) -> Vec<String> {
    let mut unknown = Vec::new();
    for value in filter.values() {
        collect_unknown(value, &mut unknown);
    }
    unknown
}

/// The texts of a filter that hold `{{` or `}}` and are not made of references and what stands around them, and the names
/// that hold any: a reference can stand in the place of a value alone.
pub(super) fn stray_braces(filter: &Map<String, Value>) -> Vec<String> {
    let mut stray = Vec::new();
    for (name, value) in filter {
        if has_braces(name) {
            stray.push(name.clone());
        }
        collect_stray(value, &mut stray);
    }
    stray
}

fn collect_stray(value: &Value, stray: &mut Vec<String>) {
    match value {
        Value::String(text) => {
            let (mut is_stray, mut rest) = (false, text.as_str());
            while let Some((before, _, after)) = split(rest) {
                is_stray |= has_braces(before);
                rest = after;
            }
            if is_stray || has_braces(rest) {
                stray.push(text.clone());
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect_stray(item, stray)),
        Value::Object(members) => stray.extend(stray_braces(members)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn has_braces(text: &str) -> bool {
    text.contains("{{") || text.contains("}}")
}

fn collect_unknown(value: &Value, unknown: &mut Vec<String>) {
    match value {
        Value::String(text) => {
            let mut rest = text.as_str();
            while let Some((_, path, after)) = split(rest) {
                let known = path == "session.userId"
                    || path == "session.roles"
                    || path.strip_prefix("session.metadata.").is_some_and(|name| !name.is_empty());
                if !known {
                    unknown.push(path.to_owned());
                }
                rest = after;
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect_unknown(item, unknown)),
        Value::Object(members) => members.values().for_each(|value| collect_unknown(value, unknown)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::query::Filter;

    fn resolved(filter: Value) -> Option<Value> {
        let mut principal = Principal::new("ida", ["clerk", "desk"]);
        principal.metadata = json!({ "team": "blue", "level": 3, "areas": ["n", "s"], "home": { "city": "x" }, "none": null })
            .as_object()
            .cloned()
            .unwrap();
        resolve(filter.as_object().unwrap(), &principal).map(Value::Object)
    }

    #[test]
    fn references_become_the_values_of_the_session() {
        let table = [
            (json!({ "a": "{{ session.userId }}" }), json!({ "a": "ida" })),
            (json!({ "a": "{{session.metadata.level}}" }), json!({ "a": 3 })),
            (
                json!({ "a": { "$in": "{{ session.metadata.areas }}" } }),
                json!({ "a": { "$in": ["n", "s"] } }),
            ),
            (
                json!({ "a": { "$in": "{{ session.roles }}" } }),
                json!({ "a": { "$in": ["clerk", "desk"] } }),
            ),
            (json!({ "a": "{{ session.metadata.home.city }}" }), json!({ "a": "x" })),
            (
                json!({ "$or": [{ "a": "t-{{ session.metadata.team }}-{{ session.metadata.level }}" }, { "b": true }] }),
                json!({ "$or": [{ "a": "t-blue-3" }, { "b": true }] }),
            ),
            (json!({ "a": "plain", "b": 1 }), json!({ "a": "plain", "b": 1 })),
        ];
        for (filter, expected) in table {
            assert_eq!(resolved(filter.clone()), Some(expected), "{filter}");
        }
    }

    #[test]
    fn what_a_session_lacks_leaves_nothing() {
        for filter in [
            json!({ "a": "{{ session.metadata.absent }}" }),
            json!({ "a": "{{ session.metadata.none }}" }),
            json!({ "a": "{{ session.metadata }}" }),
            json!({ "a": "{{ session.metadata.home }}" }),
            json!({ "a": "{{ session }}" }),
            json!({ "a": "{{ params.x }}" }),
            json!({ "a": "x{{ session.metadata.areas }}" }),
            json!({ "b": 1, "$or": [{ "a": "{{ session.metadata.absent }}" }, { "c": 1 }] }),
        ] {
            assert_eq!(resolved(filter.clone()), None, "{filter}");
        }
    }

    /// All places of a reference, with the kinds of values that may stand there: none that an author who thinks of another
    /// kind would be surprised by.
    #[test]
    fn a_value_of_a_kind_that_nobody_means_in_its_place_leaves_nothing() {
        let values = [
            ("text", json!("x")),
            ("empty", json!("")),
            ("number", json!(3)),
            ("flag", json!(true)),
            ("list", json!(["x", 3, "y"])),
            ("bounds", json!([1, 3])),
            ("void", json!([])),
            ("holed", json!(["x", null])),
            ("nested", json!([["x"]])),
            ("object", json!({ "$exists": true })),
            ("null", Value::Null),
        ];
        let single = ["text", "empty", "number", "flag"].as_slice();
        let lists = ["list", "bounds", "void"].as_slice();
        let table: [(&str, &[&str]); 15] = [
            (r#"{"a":"?"}"#, single),
            (r#"{"a":{"$eq":"?"}}"#, single),
            (r#"{"a":{"$neq":"?"}}"#, single),
            (r#"{"a":{"$gt":"?"}}"#, single),
            (r#"{"a":{"$lte":"?"}}"#, single),
            (r#"{"a":{"$in":"?"}}"#, lists),
            (r#"{"a":{"$nin":"?"}}"#, lists),
            (r#"{"a":{"$in":["?","y"]}}"#, single),
            (r#"{"a":{"$nin":["y","?"]}}"#, single),
            (r#"{"$or":[{"a":{"$nin":["y","?"]}},{"b":1}]}"#, single),
            (r#"{"a":{"$between":"?"}}"#, &["bounds"]),
            (r#"{"a":{"$between":["?",9]}}"#, single),
            (r#"{"a":{"$contains":"?"}}"#, &["text"]),
            (r#"{"a":{"$endsWith":"of-?"}}"#, &["text", "number"]),
            (r#"{"a":{"$exists":"?"}}"#, &["flag"]),
        ];
        for (filter, fitting) in table {
            let filter: Value = serde_json::from_str(&filter.replace('?', "{{ session.metadata.m }}")).unwrap();
            for (kind, value) in &values {
                let mut principal = Principal::new("ida", ["clerk"]);
                principal.metadata.insert("m".to_owned(), value.clone());
                let guard = resolve(filter.as_object().unwrap(), &principal).and_then(|filter| Filter::parse(&filter).ok());
                assert_eq!(guard.is_some(), fitting.contains(kind), "{filter} with {value}");
            }
        }
    }

    #[test]
    fn a_filter_is_tried_with_values_that_fit_the_places_of_its_references() {
        let fits = |filter: &str| {
            let filter: Value = serde_json::from_str(&filter.replace('?', "{{ session.metadata.m }}")).unwrap();
            Filter::parse(&sampled(filter.as_object().unwrap())).is_ok()
        };
        assert!(fits(
            r#"{"n":{"$gt":"?"},"a":{"$in":"?"},"b":{"$between":"?"},"c":{"$exists":"?"},"d":{"$startsWith":"?-"},"e":"?","$or":[{"f":{"$nin":["?"]}}]}"#
        ));
        for filter in [
            r#"{"$and":"?"}"#,
            r#"{"$or":["?"]}"#,
            r#"{"a":{"$in":"of-?"}}"#,
            r#"{"a":{"$exists":"?!"}}"#,
            r#"{"a":{"$between":["?"]}}"#,
        ] {
            assert!(!fits(filter), "{filter}");
        }
    }

    #[test]
    fn braces_that_make_no_reference_are_found() {
        let filter = json!({
            "a": "{{ session.userId", "b": { "$neq": "session.userId }}" }, "c": ["}} {{ session.userId }}", "{ x }"],
            "{{ session.metadata.f }}": 1, "$or": [{ "d": "of-{{ session.userId }}-{{session.roles" }, { "e": "{{ session.userId }}" }],
        });
        assert_eq!(
            stray_braces(filter.as_object().unwrap()),
            [
                "{{ session.userId",
                "session.userId }}",
                "}} {{ session.userId }}",
                "{{ session.metadata.f }}",
                "of-{{ session.userId }}-{{session.roles"
            ]
        );
    }

    #[test]
    fn references_that_no_session_can_have_are_found() {
        let filter = json!({ "a": "{{ session.userId }}{{ sesion.userId }}", "b": ["{{ session.metadata. }}", "{{session.token}}"] });
        assert_eq!(
            unknown_references(filter.as_object().unwrap()),
            ["sesion.userId", "session.metadata.", "session.token"]
        );
    }
}
