//! Texts such as `{{ session.userId }}` in the row rules of permissions.

use serde_json::{Map, Value};

use crate::server::access::Principal;

/// A filter with the session's values in the places of `{{ session.userId }}`, `{{ session.roles }}` and
/// `{{ session.metadata.x }}`. None where the session lacks one of them: then nothing is to be allowed.
pub(super) fn resolve(filter: &Map<String, Value>, principal: &Principal) -> Option<Map<String, Value>> {
    filter
        .iter()
        .map(|(name, value)| Some((name.clone(), resolve_value(value, principal)?)))
        .collect()
}

fn resolve_value(value: &Value, principal: &Principal) -> Option<Value> {
    match value {
        Value::String(text) => resolve_text(text, principal),
        Value::Array(items) => items.iter().map(|item| resolve_value(item, principal)).collect(),
        Value::Object(members) => resolve(members, principal).map(Value::Object),
        Value::Null | Value::Bool(_) | Value::Number(_) => Some(value.clone()),
    }
}

/// A text that is nothing but a reference becomes the value itself; in a longer text, texts and numbers are put in.
fn resolve_text(text: &str, principal: &Principal) -> Option<Value> {
    let Some((before, path, after)) = split(text) else {
        return Some(Value::from(text));
    };
    let value = lookup(path, principal).filter(is_plain)?;
    if before.is_empty() && after.is_empty() {
        return Some(value);
    }
    let middle = match value {
        Value::String(text) => text,
        Value::Number(number) => number.to_string(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    match resolve_text(after, principal)? {
        Value::String(rest) => Some(Value::String(format!("{before}{middle}{rest}"))),
        Value::Number(rest) => Some(Value::String(format!("{before}{middle}{rest}"))),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Objects would be read as conditions, which a session must not bring along.
fn is_plain(value: &Value) -> bool {
    match value {
        Value::Object(_) => false,
        Value::Array(items) => !items.iter().any(|item| item.is_object() || item.is_array()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => true,
    }
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
    use serde_json::json;

    use super::*;

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

    #[test]
    fn references_that_no_session_can_have_are_found() {
        let filter = json!({ "a": "{{ session.userId }}{{ sesion.userId }}", "b": ["{{ session.metadata. }}", "{{session.token}}"] });
        assert_eq!(
            unknown_references(filter.as_object().unwrap()),
            ["sesion.userId", "session.metadata.", "session.token"]
        );
    }
}
