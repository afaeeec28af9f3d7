//! Rules for rows and fields on the wire: what each operation answers to somebody who may touch a part of a bucket.

use noex_server::server::NoexServer;
use noex_server::server::config::{AuthConfig, Config, PermissionRule, PermissionsConfig, Secret, StaticToken, Storage};
use serde_json::{Map, Value, json};

use crate::support::TestClient;

/// The orders of `ida` and of `bob`; `margin` is for neither of them.
const ORDERS: [(&str, &str, i64, i64); 5] = [
    ("a", "ida", 1, 71),
    ("b", "bob", 2, 72),
    ("c", "ida", 3, 73),
    ("d", "bob", 4, 74),
    ("e", "ida", 5, 75),
];

async fn start() -> NoexServer {
    let own = json!({
        "role": "clerk", "allow": "store.*", "buckets": ["orders"],
        "where": { "owner": "{{ session.userId }}" }, "fields": ["owner", "n"],
    });
    let rules = [
        own,
        json!({ "role": "clerk", "allow": "store.*", "buckets": ["open"] }),
        json!({ "role": "root", "allow": "*" }),
    ];
    let token = |user: &str, role: &str| StaticToken {
        token: Secret::from(format!("token-of-{user}")),
        user_id: user.to_owned(),
        roles: vec![role.to_owned()],
        metadata: Map::new(),
        expires_at: None,
    };
    let (text, number) = (json!({ "type": "string" }), json!({ "type": "number" }));
    let buckets = json!({
        "orders": { "key": "id", "schema": { "id": text, "owner": text, "n": number, "margin": number }, "indexes": ["owner"] },
        "open": { "key": "id", "schema": { "id": text } },
        "vault": { "key": "id", "schema": { "id": text } },
    });
    let queries = json!({
        "orders": { "bucket": "orders" },
        "margins": { "bucket": "orders", "sort": { "margin": "asc" } },
        "open": { "bucket": "open" },
        "vault": { "bucket": "vault" },
    });
    let objects = |value: Value| value.as_object().unwrap().clone().into_iter();
    let object = |value: Value| value.as_object().unwrap().clone();
    let config = Config {
        port: 0,
        storage: Storage::Memory,
        buckets: objects(buckets)
            .map(|(name, bucket)| (name.as_str().into(), object(bucket)))
            .collect(),
        queries: objects(queries)
            .map(|(name, query)| (name.as_str().into(), object(query)))
            .collect(),
        auth: Some(AuthConfig {
            tokens: vec![token("ida", "clerk"), token("bob", "clerk"), token("root", "root")],
            permissions: Some(PermissionsConfig {
                default: None,
                rules: Some(rules.iter().map(|rule| PermissionRule::parse(rule).unwrap()).collect()),
                check: None,
            }),
            ..AuthConfig::default()
        }),
        ..Config::default()
    };
    NoexServer::start(config).await.unwrap()
}

async fn log_in(server: &NoexServer, user: &str) -> TestClient {
    let mut client = TestClient::connect(server.local_addr().port()).await;
    client.result("auth.login", json!({ "token": format!("token-of-{user}") })).await;
    client
}

/// A server with orders, and `ida` and `root` on it.
async fn with_orders() -> (NoexServer, TestClient, TestClient) {
    let server = start().await;
    let mut root = log_in(&server, "root").await;
    for (id, owner, n, margin) in ORDERS {
        let data = json!({ "id": id, "owner": owner, "n": n, "margin": margin });
        root.result("store.insert", json!({ "bucket": "orders", "data": data })).await;
    }
    let ida = log_in(&server, "ida").await;
    (server, ida, root)
}

fn of_orders(fields: Value) -> Value {
    let mut all = json!({ "bucket": "orders" });
    all.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    all
}

/// Ids of records, none of which holds what is hidden.
fn ids(records: &Value) -> Vec<&str> {
    let records = records.as_array().unwrap();
    assert!(
        records
            .iter()
            .all(|record| record.get("margin").is_none() && record["_version"].is_u64())
    );
    records.iter().map(|record| record["id"].as_str().unwrap()).collect()
}

/// Whoever writes a reference learns which keys there are, and can keep records from being removed.
#[tokio::test]
async fn nobody_has_fields_refer_to_a_bucket_that_they_may_not_read_as_a_whole() {
    let (server, mut ida, mut root) = with_orders().await;
    let referring = |to: &str| json!({ "of": { "type": "string", "ref": to } });
    let update = |to: &str| json!({ "name": "open", "updates": { "addFields": referring(to) } });
    let define = |to: &str| {
        let mut schema = referring(to);
        schema["id"] = json!({ "type": "string" });
        json!({ "name": "open", "config": { "key": "id", "schema": schema } })
    };
    for (to, message) in [
        ("vault", "No permission for store.get on vault"),
        ("nowhere", "No permission for store.get on nowhere"),
        (
            "orders",
            "This concerns all records of the bucket, and you have access to some of them",
        ),
    ] {
        let refused = ida.call("store.updateBucket", update(to)).await;
        assert_eq!((&refused["code"], &refused["message"]), (&json!("FORBIDDEN"), &json!(message)));
    }
    ida.result("store.dropBucket", json!({ "name": "open" })).await;
    let refused = ida.call("store.defineBucket", define("vault")).await;
    assert_eq!(refused["message"], "No permission for store.get on vault");
    ida.result("store.defineBucket", define("open")).await;
    root.result("store.dropBucket", json!({ "name": "open" })).await;
    root.result("store.defineBucket", define("vault")).await;
    server.stop_now().await;
}

#[tokio::test]
async fn every_read_is_of_what_is_there_for_the_reader() {
    let (server, mut ida, _root) = with_orders().await;
    let mut read = async |operation: &str, fields: Value| ida.result(operation, of_orders(fields)).await;
    assert_eq!(ids(&read("store.all", json!({})).await), ["a", "c", "e"]);
    assert_eq!(
        ids(&read("store.where", json!({ "filter": { "n": { "$gt": 1 } } })).await),
        ["c", "e"]
    );
    assert_eq!(ids(&read("store.first", json!({ "n": 2 })).await), ["a", "c"]);
    assert_eq!(ids(&read("store.last", json!({ "n": 2 })).await), ["c", "e"]);
    assert_eq!(read("store.get", json!({ "key": "b" })).await, Value::Null);
    let own = read("store.get", json!({ "key": "a" })).await;
    assert_eq!((&own["n"], own.get("margin")), (&json!(1), None));
    assert_eq!(read("store.findOne", json!({ "filter": { "owner": "bob" } })).await, Value::Null);
    assert_eq!(read("store.count", json!({})).await, 3);
    assert_eq!(read("store.count", json!({ "filter": { "n": { "$gte": 4 } } })).await, 1);
    for (operation, expected) in [("sum", 9), ("avg", 3), ("min", 1), ("max", 5)] {
        assert_eq!(
            read(&format!("store.{operation}"), json!({ "field": "n" })).await,
            expected,
            "{operation}"
        );
    }
    let groups = read("store.groupBy", json!({ "field": "owner", "aggregate": { "function": "count" } })).await;
    assert_eq!(groups, json!([{ "key": { "owner": "ida" }, "value": 3 }]));
    let page = read("store.paginate", json!({ "limit": 2 })).await;
    assert_eq!(
        (ids(&page["records"]), &page["hasMore"], &page["nextCursor"]),
        (vec!["a", "c"], &json!(true), &json!("c"))
    );
    let page = read("store.paginate", json!({ "limit": 2, "after": "c" })).await;
    assert_eq!((ids(&page["records"]), &page["hasMore"]), (vec!["e"], &json!(false)));
    for hidden in ["b", "nowhere"] {
        let page = read("store.paginate", json!({ "limit": 2, "after": hidden })).await;
        assert_eq!(page, json!({ "records": [], "hasMore": false }), "{hidden}");
    }
    let all = ida.result("store.runQuery", json!({ "query": "orders" })).await;
    assert_eq!(ids(&all), ["a", "c", "e"]);
    server.stop_now().await;
}

#[tokio::test]
async fn naming_a_hidden_field_is_refused_wherever_it_may_be_named() {
    let (server, mut ida, _root) = with_orders().await;
    let filter = json!({ "margin": { "$gt": 0 } });
    let count = json!({ "function": "count" });
    let table = [
        ("store.where", of_orders(json!({ "filter": filter }))),
        (
            "store.where",
            of_orders(json!({ "filter": { "$or": [{}, { "margin": { "$nin": [] } }] } })),
        ),
        ("store.findOne", of_orders(json!({ "filter": filter }))),
        ("store.count", of_orders(json!({ "filter": filter }))),
        ("store.sum", of_orders(json!({ "field": "margin" }))),
        ("store.max", of_orders(json!({ "field": "n", "filter": filter }))),
        ("store.groupBy", of_orders(json!({ "field": "margin", "aggregate": count }))),
        (
            "store.groupBy",
            of_orders(json!({ "field": "n", "aggregate": { "function": "sum", "field": "margin" } })),
        ),
        ("store.runQuery", json!({ "query": "margins" })),
        ("store.subscribe", json!({ "query": "margins" })),
        ("store.changes", of_orders(json!({ "filter": filter }))),
        (
            "store.insert",
            of_orders(json!({ "data": { "id": "x", "owner": "ida", "margin": 1 } })),
        ),
        ("store.update", of_orders(json!({ "key": "a", "data": { "margin": 1 } }))),
        ("store.update", of_orders(json!({ "key": "b", "data": { "margin": 1 } }))),
        ("store.upsert", of_orders(json!({ "data": { "id": "a", "margin": 1 } }))),
        ("store.updateMany", of_orders(json!({ "filter": {}, "data": { "margin": 1 } }))),
        ("store.updateMany", of_orders(json!({ "filter": filter, "data": { "n": 1 } }))),
        ("store.deleteMany", of_orders(json!({ "filter": filter }))),
        (
            "store.transaction",
            json!({ "operations": [{ "op": "count", "bucket": "orders", "filter": filter }] }),
        ),
    ];
    for (operation, fields) in table {
        let answer = ida.call(operation, fields.clone()).await;
        assert_eq!(answer["code"], "FORBIDDEN", "{operation} {fields}: {answer}");
        assert_eq!(answer["message"], "No access to field \"margin\"", "{operation} {fields}");
    }
    server.stop_now().await;
}

#[tokio::test]
async fn writes_reach_what_is_there_and_stay_within_it() {
    let (server, mut ida, mut root) = with_orders().await;
    let outside = "The record is outside of what you may write";
    let table = [
        (
            "store.insert",
            json!({ "data": { "id": "x", "owner": "bob" } }),
            "FORBIDDEN",
            outside,
        ),
        (
            "store.insertMany",
            json!({ "data": [{ "id": "x", "owner": "ida" }, { "id": "y" }] }),
            "FORBIDDEN",
            outside,
        ),
        (
            "store.upsert",
            json!({ "data": { "id": "x", "owner": "bob" } }),
            "FORBIDDEN",
            outside,
        ),
        (
            "store.update",
            json!({ "key": "a", "data": { "owner": "bob" } }),
            "FORBIDDEN",
            outside,
        ),
        (
            "store.updateMany",
            json!({ "filter": {}, "data": { "owner": "bob" } }),
            "FORBIDDEN",
            outside,
        ),
        (
            "store.insert",
            json!({ "data": { "id": "b", "owner": "ida" } }),
            "ALREADY_EXISTS",
            "Record with key \"b\" already exists in bucket \"orders\"",
        ),
        (
            "store.upsert",
            json!({ "data": { "id": "b", "owner": "ida" } }),
            "ALREADY_EXISTS",
            "Record with key \"b\" already exists in bucket \"orders\"",
        ),
        (
            "store.update",
            json!({ "key": "b", "data": { "n": 9 } }),
            "NOT_FOUND",
            "Record with key \"b\" not found in bucket \"orders\"",
        ),
        (
            "store.clear",
            json!({}),
            "FORBIDDEN",
            "This concerns all records of the bucket, and you have access to some of them",
        ),
    ];
    let before = root.result("store.all", of_orders(json!({}))).await;
    for (operation, fields, code, message) in table {
        let answer = ida.call(operation, of_orders(fields.clone())).await;
        assert_eq!(
            (&answer["code"], &answer["message"]),
            (&json!(code), &json!(message)),
            "{operation} {fields}"
        );
    }
    assert_eq!(
        ida.result("store.delete", of_orders(json!({ "key": "b" }))).await,
        json!({ "deleted": true })
    );
    assert_eq!(root.result("store.all", of_orders(json!({}))).await, before);

    let updated = ida
        .result("store.update", of_orders(json!({ "key": "a", "data": { "n": 10 } })))
        .await;
    assert_eq!((&updated["n"], updated.get("margin")), (&json!(10), None));
    assert_eq!(
        ida.result("store.updateMany", of_orders(json!({ "filter": {}, "data": { "n": 8 } })))
            .await,
        3
    );
    assert_eq!(
        ida.result("store.deleteMany", of_orders(json!({ "filter": { "n": { "$gte": 2 } } })))
            .await,
        3
    );
    let left = root.result("store.all", of_orders(json!({}))).await;
    assert_eq!(left.as_array().unwrap().len(), 2);
    server.stop_now().await;
}

/// A record that is hidden and one that is not there are answered alike, whatever version is expected.
#[tokio::test]
async fn an_expected_version_tells_nothing_of_a_hidden_record() {
    let (server, mut ida, _root) = with_orders().await;
    for version in [1, 2, 99] {
        let steps = |key: &str| json!({ "operations": [{ "op": "get", "bucket": "orders", "key": key, "expectVersion": version }] });
        let requests = |key: &str| {
            [
                (
                    "store.update",
                    of_orders(json!({ "key": key, "data": { "n": 1 }, "expectVersion": version })),
                ),
                ("store.delete", of_orders(json!({ "key": key, "expectVersion": version }))),
                ("store.transaction", steps(key)),
            ]
        };
        for (hidden, absent) in requests("b").into_iter().zip(requests("z")) {
            let hidden = ida.call(hidden.0, hidden.1).await;
            let absent = ida.call(absent.0, absent.1).await;
            assert_eq!(hidden["code"], absent["code"]);
            assert_eq!(
                hidden["message"].as_str().unwrap(),
                absent["message"].as_str().unwrap().replace("\"z\"", "\"b\"")
            );
        }
    }
    server.stop_now().await;
}

#[tokio::test]
async fn each_step_of_a_transaction_is_bound_by_what_holds_for_its_bucket() {
    let (server, mut ida, mut root) = with_orders().await;
    let mut transact = async |operations: Value| ida.call("store.transaction", json!({ "operations": operations })).await;
    let answer = transact(json!([
        { "op": "insert", "bucket": "open", "data": { "id": "o", "anything": 1 } },
        { "op": "get", "bucket": "orders", "key": "b" },
        { "op": "get", "bucket": "orders", "key": "a" },
        { "op": "where", "bucket": "orders", "filter": {} },
        { "op": "findOne", "bucket": "orders", "filter": { "owner": "bob" } },
        { "op": "count", "bucket": "orders" },
        { "op": "delete", "bucket": "orders", "key": "d" },
    ]))
    .await;
    let results: Vec<&Value> = answer["data"]["results"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| &step["data"])
        .collect();
    assert_eq!(
        (results[0]["anything"].as_i64(), results[1], results[4], results[5]),
        (Some(1), &Value::Null, &Value::Null, &json!(3))
    );
    assert_eq!((results[2].get("margin"), ids(results[3])), (None, vec!["a", "c", "e"]));
    assert_eq!(root.result("store.count", of_orders(json!({}))).await, 5);

    let failed = transact(json!([
        { "op": "insert", "bucket": "open", "data": { "id": "p" } },
        { "op": "update", "bucket": "orders", "key": "a", "data": { "owner": "bob" } },
    ]))
    .await;
    assert_eq!(failed["code"], "FORBIDDEN");
    assert_eq!(root.result("store.count", json!({ "bucket": "open" })).await, 1, "all or nothing");
    let system = transact(json!([{ "op": "count", "bucket": "_secret" }])).await;
    assert_eq!(system["code"], "FORBIDDEN");
    server.stop_now().await;
}

#[tokio::test]
async fn a_request_key_is_that_of_its_user() {
    let (server, mut ida, mut root) = with_orders().await;
    let insert = |id: &str, owner: &str| {
        let data = json!({ "id": id, "owner": owner, "n": 1 });
        of_orders(json!({ "data": data, "requestKey": "k" }))
    };
    let first = ida.result("store.insert", insert("x", "ida")).await;
    assert_eq!(ida.result("store.insert", insert("x", "ida")).await, first);
    let mut bob = log_in(&server, "bob").await;
    // Asked for the same, word by word: it is another request, and refused for what it is.
    assert_eq!(bob.call("store.insert", insert("x", "ida")).await["code"], "FORBIDDEN");
    assert_eq!(root.call("store.insert", insert("x", "ida")).await["code"], "ALREADY_EXISTS");
    assert_eq!(ida.call("store.insert", insert("y", "ida")).await["code"], "CONFLICT");
    server.stop_now().await;
}

#[tokio::test]
async fn what_is_told_of_all_buckets_is_told_as_far_as_they_may_be_seen() {
    let (server, mut ida, mut root) = with_orders().await;
    root.result("store.insert", json!({ "bucket": "open", "data": { "id": "o" } }))
        .await;
    root.result("store.insert", json!({ "bucket": "vault", "data": { "id": "v" } }))
        .await;
    root.result("store.subscribe", json!({ "query": "vault" })).await;
    root.result("store.subscribe", json!({ "query": "orders" })).await;
    root.result("store.subscribe", json!({ "query": "open" })).await;
    let buckets = ida.result("store.buckets", json!({})).await;
    assert_eq!(buckets, json!({ "count": 2, "names": ["orders", "open"] }));
    let stats = ida.result("store.stats", json!({})).await;
    assert_eq!(stats["buckets"], buckets);
    assert_eq!(stats["records"], json!({ "total": 1, "perBucket": { "open": 1 } }));
    assert_eq!(stats["indexes"], json!({ "total": 0, "perBucket": { "open": 0 } }));
    // Of three: the one to a bucket that is there as a whole.
    assert_eq!(stats["queries"], json!({ "defined": 3, "activeSubscriptions": 1 }));
    for whole in ["views", "pendingCommands", "requestKeys"] {
        assert_eq!(stats.get(whole), None, "{whole}");
    }
    let stats = root.result("store.stats", json!({})).await;
    assert_eq!(stats["records"]["total"], 7);
    assert_eq!(stats["queries"], json!({ "defined": 4, "activeSubscriptions": 3 }));
    assert!(stats["views"].is_object());
    assert_eq!(
        root.result("store.listQueries", json!({})).await["queries"]
            .as_array()
            .unwrap()
            .len(),
        4
    );
    let explained = ida.call("store.explain", of_orders(json!({}))).await;
    assert_eq!(explained["code"], "FORBIDDEN");
    server.stop_now().await;
}

#[tokio::test]
async fn records_come_and_go_in_a_feed_as_they_come_and_go_for_its_follower() {
    let (server, mut ida, mut root) = with_orders().await;
    ida.result("store.changes", of_orders(json!({}))).await;
    let mut give = async |key: &str, owner: &str| {
        let data = json!({ "owner": owner });
        root.result("store.update", of_orders(json!({ "key": key, "data": data }))).await;
    };
    give("d", "eve").await;
    give("b", "ida").await;
    let came = ida.expect_push().await["data"][0].clone();
    assert_eq!((&came["op"], &came["key"]), (&json!("inserted"), &json!("b")));
    assert_eq!((came["record"]["n"].as_i64(), came["record"].get("margin")), (Some(2), None));
    give("b", "bob").await;
    assert_eq!(ida.expect_push().await["data"], json!([{ "op": "deleted", "key": "b" }]));
    server.stop_now().await;
}
