//! What there is to follow and to write: a bounded number of records, whatever the clients do.

use serde_json::{Value, json};

use super::support::dice::Dice;
use super::support::follow::{Follow, Mode, Subject};
use super::support::view::Shape;

/// How many keys records may have; about half of them are there at any time.
const KEYS: u64 = 2_000;

/// How many groups the records fall into.
const GROUPS: u64 = 50;

/// The buckets and queries of the server.
pub fn definitions() -> (Value, Value) {
    let buckets = json!({
        "items": {
            "key": "id",
            "schema": {
                "id": { "type": "string" },
                "group": { "type": "string", "required": true },
                "owner": { "type": "string" },
                "n": { "type": "number" },
                "text": { "type": "string" },
            },
            "indexes": ["group", "owner"],
        },
        "events": {
            "key": "id",
            "schema": { "id": { "type": "string", "generated": "cuid" }, "owner": { "type": "string" }, "n": { "type": "number" } },
            "maxSize": 300,
        },
    });
    let queries = json!({
        "group": { "bucket": "items", "filter": { "group": "{{ params.group }}" } },
        "own": { "bucket": "items", "filter": { "owner": "{{ params.owner }}" }, "sort": { "n": "asc" } },
        "top": { "bucket": "items", "sort": { "n": "desc" }, "limit": 20 },
        "low": { "bucket": "items", "filter": { "n": { "$lt": 300 } }, "sort": { "n": "asc", "id": "asc" } },
        "sum": { "bucket": "items", "filter": { "group": "{{ params.group }}" }, "aggregate": { "function": "sum", "field": "n" } },
        "groups": { "bucket": "items", "aggregate": { "function": "count", "groupBy": "group" } },
        "recent": { "bucket": "events", "sort": { "_createdAt": "desc", "id": "desc" }, "limit": 15 },
    });
    (buckets, queries)
}

fn group(dice: &mut Dice) -> Value {
    format!("g{}", dice.below(GROUPS)).into()
}

/// Something to follow for the client of this name. `features` says what the server can do.
pub fn follow(dice: &mut Dice, owner: &str, features: &[String]) -> Follow {
    let can = |feature: &str| features.iter().any(|it| it == feature);
    let records = |name, params| Subject::Query {
        name,
        params,
        shape: Shape::Records,
    };
    let whole = |name, params| Subject::Query {
        name,
        params,
        shape: Shape::Whole,
    };
    let subject = match dice.below(13) {
        0..=2 => records("group", json!({ "group": group(dice) })),
        3 | 4 => records("own", json!({ "owner": owner })),
        5 => records("top", json!({})),
        6 => records("low", json!({})),
        7 => whole("sum", json!({ "group": group(dice) })),
        8 => records("recent", json!({})),
        9 if can("changes") => Subject::Feed {
            bucket: "items",
            filter: json!({ "group": group(dice) }),
        },
        10 if can("changes") => Subject::Feed {
            bucket: "items",
            filter: json!({}),
        },
        11 if can("changes") => Subject::Feed {
            bucket: "events",
            filter: json!({}),
        },
        // A grouping has no keys to tell differences by: followed in full.
        _ => return Follow::new(whole("groups", json!({})), Mode::Full),
    };
    let mode = if can("delta") && dice.percent(60) {
        Mode::Delta
    } else {
        Mode::Full
    };
    Follow::new(subject, mode)
}

/// A write: the operation and its fields.
pub fn write(dice: &mut Dice, owner: &str, features: &[String]) -> (&'static str, Value) {
    let key = format!("k{}", dice.below(KEYS));
    let record = |dice: &mut Dice, key: &str| {
        json!({
            "id": key,
            "group": group(dice),
            "owner": if dice.percent(30) { json!(owner) } else { Value::Null },
            "n": dice.below(10_000),
            "text": "x".repeat(50 + dice.below(1_500) as usize),
        })
    };
    let (operation, mut fields) = match dice.below(20) {
        0..=6 => ("store.upsert", json!({ "bucket": "items", "data": record(dice, &key) })),
        7..=10 => (
            "store.update",
            json!({ "bucket": "items", "key": key, "data": { "n": dice.below(10_000) } }),
        ),
        11..=15 => ("store.delete", json!({ "bucket": "items", "key": key })),
        16 => {
            let other = format!("k{}", dice.below(KEYS));
            let steps = json!([
                { "op": "update", "bucket": "items", "key": key, "data": { "n": dice.below(10_000) } },
                { "op": "update", "bucket": "items", "key": other, "data": { "n": dice.below(10_000) } },
                { "op": "insert", "bucket": "events", "data": { "owner": owner, "n": dice.below(100) } },
            ]);
            ("store.transaction", json!({ "operations": steps }))
        }
        _ => (
            "store.insert",
            json!({ "bucket": "events", "data": { "owner": owner, "n": dice.below(100) } }),
        ),
    };
    if dice.percent(10) && features.iter().any(|it| it == "idempotency") {
        fields["requestKey"] = format!("{owner}-{}", dice.below(u64::MAX)).into();
    }
    (operation, fields)
}

/// Whether a write of these clients may be answered with this code.
pub fn may_answer(code: &str) -> bool {
    matches!(code, "NOT_FOUND" | "ALREADY_EXISTS" | "CONFLICT" | "BACKPRESSURE")
}
