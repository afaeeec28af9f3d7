//! `requestKey`: what makes a write and its repeats known as the same.

use serde_json::{Map, Value};
use xxhash_rust::xxh3::Xxh3;

use super::failure::Failure;
use super::fields;
use crate::protocol::{Fields, Operation, json};
use crate::server::access::Access;
use crate::store::RequestKey;

const KEY: &str = "requestKey";
/// What differs between a request and its repeats: the one is the request's own, the other is compared by itself.
const NOT_ASKED_FOR: [&str; 2] = ["id", KEY];

/// The key of a request, where it has one. It is that of the user who asks: what one was answered is never told to
/// another, and none takes the room of all. Those who are not logged in have theirs in common; where nobody ever is,
/// there is nobody to leave room for.
pub(super) fn read(operation: Operation, fields: &Fields<'_>, access: &Access) -> Result<Option<RequestKey>, Failure> {
    let Some(json) = fields::present(fields.get(KEY)) else {
        return Ok(None);
    };
    let expected = || format!("Invalid \"{KEY}\": expected text of 1 to 200 bytes");
    let key = fields::read_text(Some(json)).map_err(|misfit| misfit.failure(expected))?;
    let key = RequestKey::new(key, fingerprint(operation, fields)).map_err(|_| Failure::validation(expected()))?;
    Ok(Some(match access.principal() {
        Some(user) => key.in_scope(format!("user:{}", user.user_id)),
        None if access.authority().is_on() => key.in_scope("anonymous"),
        None => key,
    }))
}

/// What is asked for, as a number that is the same for the same members in any order and any spelling.
fn fingerprint(operation: Operation, fields: &Fields<'_>) -> u64 {
    let members = fields.iter().filter(|(name, _)| !NOT_ASKED_FOR.contains(name));
    let members = members.map(|(name, json)| match serde_json::from_str(json) {
        Ok(value) => hash_of_member(name, &value),
        // No operation reads such a field: the text will do.
        Err(_) => hash_of_parts([name.as_bytes(), json.as_bytes()]),
    });
    let members = members.fold(0, u64::wrapping_add);
    hash_of_parts([operation.name().as_bytes(), &members.to_be_bytes()])
}

fn hash_of_member(name: &str, value: &Value) -> u64 {
    hash_of_parts([name.as_bytes(), &hash_of_value(value).to_be_bytes()])
}

fn hash_of_value(value: &Value) -> u64 {
    match value {
        Value::Object(members) => hash_of_parts([b"{", &hash_of_members(members).to_be_bytes()]),
        Value::Array(items) => {
            let items: Vec<u8> = items.iter().flat_map(|item| hash_of_value(item).to_be_bytes()).collect();
            hash_of_parts([b"[", &items])
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => hash_of_parts([b"", &json::to_vec(value)]),
    }
}

fn hash_of_members(members: &Map<String, Value>) -> u64 {
    let members = members.iter().map(|(name, value)| hash_of_member(name, value));
    members.fold(0, u64::wrapping_add)
}

/// XXH3 of 64 bits: it is kept on disk, so it must be the same in every version; and sums of it must be as good as it
/// is itself, since members are added up.
fn hash_of_parts(parts: [&[u8]; 2]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&(parts[0].len() as u64).to_be_bytes());
    parts.into_iter().for_each(|part| hash.update(part));
    hash.digest()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::server::access::Open;

    fn fingerprint_of(operation: Operation, text: &str) -> u64 {
        fingerprint(operation, &Fields::parse(text).unwrap())
    }

    #[test]
    fn repeats_are_the_same_in_any_order_and_spelling() {
        let insert = |text: &str| fingerprint_of(Operation::StoreInsert, text);
        let first = insert(r#"{"id":1,"requestKey":"k","bucket":"t","data":{"a":1,"b":[{"x":1.0,"y":"\u0041"}]}}"#);
        let same = [
            r#"{"data":{"b":[{"y":"A","x":1e0}],"a":1},"bucket":"t","requestKey":"l","id":2}"#,
            r#" { "bucket" : "t", "d\u0061ta" : { "a" : 1 , "b" : [ { "x" : 1 , "y" : "A" } ] } } "#,
        ];
        for text in same {
            assert_eq!(insert(text), first, "{text}");
        }
        let others = [
            r#"{"bucket":"u","data":{"a":1,"b":[{"x":1,"y":"A"}]}}"#,
            r#"{"bucket":"t","data":{"b":1,"a":[{"x":1,"y":"A"}]}}"#,
            r#"{"bucket":"t","data":{"a":1,"b":[{"x":"A","y":1}]}}"#,
            r#"{"bucket":"t","data":{"a":1,"b":{"x":1,"y":"A"}}}"#,
            r#"{"bucket":"t","data":{"a":"1","b":[{"x":1,"y":"A"}]}}"#,
            r#"{"bucket":"t","data":{"a":1,"b":[{"x":1,"y":"A"}]},"more":null}"#,
            r#"{"bucket":"t","data":{"a":1,"b":[{"x":1,"y":"A"}]},"more":"\ud800"}"#,
            r#"{"bucket":"t"}"#,
            "{}",
        ];
        let mut seen = vec![first];
        for text in others {
            assert!(!seen.contains(&insert(text)), "{text}");
            seen.push(insert(text));
        }
        let text = r#"{"bucket":"t","key":1}"#;
        assert_ne!(
            fingerprint_of(Operation::StoreDelete, text),
            fingerprint_of(Operation::StoreUpdate, text)
        );
    }

    #[test]
    fn values_that_change_places_make_another_request() {
        let of = |a: u32, b: u32| fingerprint_of(Operation::StoreInsert, &format!("{{\"data\":{{\"a\":{a},\"b\":{b}}}}}"));
        let all: std::collections::HashSet<_> = (0..100).flat_map(|a| (0..100).map(move |b| of(a, b))).collect();
        assert_eq!(all.len(), 10_000);
    }

    /// It is kept on disk: a repeat may come to a newer version.
    #[test]
    fn the_fingerprint_stays_as_it_is() {
        let text = r#"{"bucket":"t","data":{"a":[1,null,true,"x"]}}"#;
        assert_eq!(fingerprint_of(Operation::StoreInsert, text), 6_926_351_369_040_922_887);
    }

    fn read(operation: Operation, fields: &Fields<'_>) -> Result<Option<RequestKey>, Failure> {
        super::read(operation, fields, &Access::of_nobody(Arc::new(Open)))
    }

    #[test]
    fn keys_are_texts_of_bounded_length_and_null_is_none() {
        let key_of = |json: &str| {
            let text = format!("{{\"requestKey\":{json}}}");
            read(Operation::StoreClear, &Fields::parse(&text).unwrap()).map(|key| key.is_some())
        };
        assert_eq!(key_of("null"), Ok(false));
        assert_eq!(read(Operation::StoreClear, &Fields::default()), Ok(None));
        for length in [1, 200] {
            assert_eq!(key_of(&format!("\"{}\"", "k".repeat(length))), Ok(true));
        }
        let refusal = Failure::validation("Invalid \"requestKey\": expected text of 1 to 200 bytes");
        for json in ["\"\"", "1", "true", "[]", "{}", &format!("\"{}\"", "é".repeat(101))] {
            assert_eq!(key_of(json), Err(refusal.clone()), "{json}");
        }
        assert_eq!(key_of("\"\\ud800\""), Err(Failure::unreadable()));
    }
}
