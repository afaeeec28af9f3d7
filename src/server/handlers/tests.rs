//! Sessions on a store in memory: what clients are answered.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::{Failure, Finished, Handled, HandlerContext, RequestLimits, Session};
use crate::protocol::{BucketName, ConnectionId, Envelope, SubscriptionId};
use crate::server::Config;
use crate::server::access::{Access, Authority, Judged, Login, Open, Permissions, Principal, Rights, Secret, Standing, Work};
use crate::server::config::ConnectionLimits;
use crate::server::connection::registry::Registry;
use crate::server::statistics::{ConnectionFigures, Overview};
use crate::store::{EndReason, Sink, Store, Update};

/// Remembers what was pushed.
#[derive(Default)]
struct Recorder(Mutex<Vec<(SubscriptionId, Update)>>);

impl Sink for Recorder {
    fn push(&self, id: SubscriptionId, update: Update) {
        self.0.lock().push((id, update));
    }
}

/// A client without a socket.
struct Client {
    session: Session,
    pushed: Arc<Recorder>,
}

impl Client {
    fn new(context: &Arc<HandlerContext>) -> Self {
        Self::judged_by(context, Arc::new(Open))
    }

    fn judged_by(context: &Arc<HandlerContext>, authority: Arc<dyn Authority>) -> Self {
        let pushed = Arc::new(Recorder::default());
        let access = Access::of_nobody(authority);
        let session = Session::new(
            Arc::clone(context),
            Arc::clone(&pushed) as Arc<dyn Sink>,
            ConnectionFigures::new(0),
            access,
        );
        Self { session, pushed }
    }

    /// Sends text, and gives the answer.
    async fn send_text(&mut self, text: &str) -> Value {
        let answer = match Envelope::parse(text) {
            Err(answer) => answer,
            Ok(Envelope::Pong { .. }) => return Value::Null,
            Ok(Envelope::Request(request)) => match self.session.handle(&request) {
                Handled::Answer(answer) => answer,
                Handled::Pending(pending) => pending.await,
                Handled::Alone(work) => {
                    let mut work = work;
                    loop {
                        match self.session.complete(work.await) {
                            Finished::Answer(answer) => break answer,
                            Finished::Waits(more) => work = more,
                        }
                    }
                }
            },
        };
        serde_json::from_slice(&answer).unwrap()
    }

    /// Sends a request of the store under id 1, and gives the answer.
    async fn send(&mut self, operation: &str, fields: Value) -> Value {
        let mut message = json!({ "id": 1, "type": format!("store.{operation}") });
        message.as_object_mut().unwrap().extend(fields.as_object().cloned().unwrap());
        let answer = self.send_text(&message.to_string()).await;
        assert_eq!(answer["id"], 1);
        answer
    }

    /// Sends a request that must succeed, and gives its data.
    async fn get(&mut self, operation: &str, fields: Value) -> Value {
        let answer = self.send(operation, fields).await;
        assert_eq!(answer["type"], "result", "{answer}");
        answer.get("data").cloned().unwrap_or_else(|| json!("no data"))
    }

    /// Sends a request that must fail with this code and message.
    async fn check_refused(&mut self, operation: &str, fields: Value, code: &str, message: &str) {
        let answer = self.send(operation, fields.clone()).await;
        assert_eq!(
            (&answer["code"], &answer["message"]),
            (&json!(code), &json!(message)),
            "{operation} {fields}: {answer}"
        );
    }

    async fn define(&mut self, bucket: &str) {
        let config = json!({ "key": "id", "schema": { "id": { "type": "string" }, "n": { "type": "number" } } });
        self.get("defineBucket", json!({ "name": bucket, "config": config })).await;
    }
}

/// A server with the connections of `registry`.
fn overview(registry: &Arc<Registry>) -> Overview {
    Overview::new(&Config::default(), 8080, Arc::clone(registry), Arc::default())
}

async fn context() -> HandlerContext {
    HandlerContext {
        store: Store::builder().in_memory().open().await.unwrap(),
        overview: Arc::new(overview(&Registry::new(10, None))),
        max_subscriptions_per_connection: 2,
        max_total_subscriptions: 3,
        total_subscriptions: Arc::new(AtomicUsize::new(0)),
        max_bulk_records: 10_000,
        request_limits: RequestLimits::from(&ConnectionLimits {
            max_filter_conditions: 5,
            max_transaction_operations: 4,
            max_name_bytes: 20,
            ..ConnectionLimits::default()
        }),
        parts: Vec::new(),
        max_result_bytes: 1 << 20,
        expose_error_details: true,
        long_reads: Arc::new(Semaphore::new(1)),
        audit: None,
    }
}

async fn client() -> Client {
    Client::new(&Arc::new(context().await))
}

#[tokio::test]
async fn checks_come_in_their_order() {
    let mut client = client().await;
    client.define("t").await;
    let bad = json!({ "n": { "$ne": 1 } });
    let reserved = "Cannot access system bucket \"_x\" directly";
    let missing = "Bucket \"u\" is not defined";
    for (operation, field) in [
        ("where", ""),
        ("findOne", ""),
        ("count", ""),
        ("deleteMany", ""),
        ("updateMany", "data"),
        ("sum", "field"),
    ] {
        let fields = |bucket: &str, filter: &Value| {
            let mut fields = json!({ "bucket": bucket, "filter": filter });
            match field {
                "data" => fields["data"] = json!({}),
                "field" => fields["field"] = json!("n"),
                _ => {}
            }
            fields
        };
        let shape = client.send(operation, fields("_x", &json!([]))).await;
        assert_eq!(shape["code"], "VALIDATION_ERROR", "the form comes first: {operation} {shape}");
        client.check_refused(operation, fields("_x", &bad), "FORBIDDEN", reserved).await;
        client
            .check_refused(operation, fields("u", &bad), "BUCKET_NOT_DEFINED", missing)
            .await;
        let invalid = client.send(operation, fields("t", &bad)).await;
        assert_eq!(invalid["code"], "VALIDATION_ERROR", "{operation} {invalid}");
        assert!(invalid["details"].is_array(), "{operation} {invalid}");
    }
}

#[tokio::test]
async fn transactions_check_form_then_permission_then_existence_then_validity() {
    let mut client = client().await;
    client.define("t").await;
    let steps = |last: Value| json!({ "operations": [{ "op": "where", "bucket": "t", "filter": { "$nor": [] } }, last] });
    client
        .check_refused(
            "transaction",
            steps(json!({ "op": "count" })),
            "VALIDATION_ERROR",
            "operations[1]: missing or invalid \"bucket\"",
        )
        .await;
    let reserved = "Cannot access system bucket \"_users\" in transaction";
    client
        .check_refused(
            "transaction",
            steps(json!({ "op": "count", "bucket": "_users" })),
            "FORBIDDEN",
            reserved,
        )
        .await;
    let missing = "Bucket \"u\" is not defined";
    client
        .check_refused(
            "transaction",
            steps(json!({ "op": "count", "bucket": "u" })),
            "BUCKET_NOT_DEFINED",
            missing,
        )
        .await;
    let answer = client.send("transaction", steps(json!({ "op": "count", "bucket": "t" }))).await;
    assert_eq!(answer["code"], "VALIDATION_ERROR");
}

#[tokio::test]
async fn no_operation_reaches_a_name_with_a_leading_underscore() {
    let mut client = client().await;
    client.define("t").await;
    let bucket = [
        ("get", json!({ "key": 1 })),
        ("all", json!({})),
        ("first", json!({ "n": 1 })),
        ("last", json!({ "n": 1 })),
        ("paginate", json!({ "limit": 1 })),
        ("groupBy", json!({ "field": "n", "aggregate": { "function": "count" } })),
        ("explain", json!({})),
        ("insert", json!({ "data": {} })),
        ("insertMany", json!({ "data": [] })),
        ("update", json!({ "key": 1, "data": {} })),
        ("upsert", json!({ "data": {} })),
        ("delete", json!({ "key": 1 })),
        ("clear", json!({})),
    ];
    let named = [
        ("defineBucket", json!({ "config": {} })),
        ("updateBucket", json!({ "updates": {} })),
        ("dropBucket", json!({})),
        ("getBucketSchema", json!({})),
        ("defineQuery", json!({ "config": { "bucket": "t" } })),
        ("undefineQuery", json!({})),
    ];
    let with = |fields: &Value, name: &str| {
        let mut fields = fields.clone();
        fields[name] = json!("_x");
        fields
    };
    let message = "Cannot access system bucket \"_x\" directly";
    for (operation, fields) in bucket {
        client.check_refused(operation, with(&fields, "bucket"), "FORBIDDEN", message).await;
    }
    for (operation, fields) in named {
        client.check_refused(operation, with(&fields, "name"), "FORBIDDEN", message).await;
    }
    for operation in ["subscribe", "runQuery", "explain"] {
        client
            .check_refused(operation, json!({ "query": "_x" }), "FORBIDDEN", message)
            .await;
    }
    client
        .check_refused(
            "defineQuery",
            json!({ "name": "q", "config": { "bucket": "_x", "limit": -1 } }),
            "FORBIDDEN",
            message,
        )
        .await;
}

#[tokio::test]
async fn no_field_refers_to_a_system_bucket() {
    let mut client = client().await;
    client.define("t").await;
    let message = "Cannot access system bucket \"_users\" directly";
    let field = json!({ "type": "string", "ref": "_users" });
    let config = json!({ "key": "id", "schema": { "id": { "type": "string" }, "by": field } });
    client
        .check_refused("defineBucket", json!({ "name": "probe", "config": config }), "FORBIDDEN", message)
        .await;
    let updates = json!({ "addFields": { "by": field } });
    client
        .check_refused("updateBucket", json!({ "name": "t", "updates": updates }), "FORBIDDEN", message)
        .await;
}

#[tokio::test]
async fn system_buckets_show_in_no_list_and_no_statistic() {
    let context = Arc::new(context().await);
    let mut client = Client::new(&context);
    client.define("t").await;
    let definition = json!({ "key": "id", "schema": { "id": { "type": "string" } } });
    let definition = crate::store::BucketDefinition::parse(definition.as_object().unwrap()).unwrap();
    context.store.define_bucket("_secret", definition).await.unwrap();
    context.store.bucket("_secret").insert(&json!({ "id": "a" })).await.unwrap();
    let query = json!({ "bucket": "_secret" });
    let query = crate::store::query::QueryDefinition::parse(query.as_object().unwrap()).unwrap();
    context.store.define_query("leak", query).await.unwrap();
    assert_eq!(client.get("buckets", json!({})).await, json!({ "count": 1, "names": ["t"] }));
    assert_eq!(client.get("listQueries", json!({})).await, json!({ "queries": [] }));
    let stats = client.get("stats", json!({})).await;
    assert_eq!(stats["buckets"], json!({ "count": 1, "names": ["t"] }));
    assert_eq!(stats["records"], json!({ "total": 0, "perBucket": { "t": 0 } }));
    for operation in ["subscribe", "runQuery", "explain"] {
        let message = "Cannot access system bucket \"_secret\" directly";
        client
            .check_refused(operation, json!({ "query": "leak" }), "FORBIDDEN", message)
            .await;
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_under_the_id_of_its_request() {
    let mut client = client().await;
    client.define("t").await;
    for text in [
        r#"{"id":7,"type":"store.insert","bucket":"t","data":{"id":"\ud800"}}"#,
        r#"{"id":7,"type":"store.insert","bucket":"t","data":{"id":"a","n":1e999}}"#,
        r#"{"id":7,"type":"store.insert","bucket":"\udfff","data":{"id":"a"}}"#,
        r#"{"id":7,"type":"store.transaction","operations":[{"op":"insert","bucket":"t","data":{"id":"\ud800"}}]}"#,
    ] {
        let answer = client.send_text(text).await;
        assert_eq!(
            answer,
            json!({ "id": 7, "type": "error", "code": "PARSE_ERROR", "message": "Invalid JSON" }),
            "{text}"
        );
    }
    assert_eq!(client.get("count", json!({ "bucket": "t" })).await, 0);
}

#[tokio::test]
async fn writes_are_answered_with_what_they_did() {
    let mut client = client().await;
    client.define("t").await;
    let record = client
        .get("insert", json!({ "bucket": "t", "data": { "id": "a", "n": 1.0 } }))
        .await;
    assert_eq!(
        (&record["id"], &record["n"], &record["_version"]),
        (&json!("a"), &json!(1), &json!(1))
    );
    let records = client
        .get(
            "insertMany",
            json!({ "bucket": "t", "data": [{ "id": "b", "n": 2 }, { "id": "c" }] }),
        )
        .await;
    assert_eq!((&records[0]["id"], &records[1]["id"]), (&json!("b"), &json!("c")));
    assert_eq!(client.get("insertMany", json!({ "bucket": "t", "data": [] })).await, json!([]));
    assert_eq!(
        client.get("update", json!({ "bucket": "t", "key": "a", "data": { "n": 5 } })).await["_version"],
        2
    );
    assert_eq!(
        client.get("upsert", json!({ "bucket": "t", "data": { "id": "a", "n": 6 } })).await["_version"],
        3
    );
    let filter = json!({ "n": { "$exists": true } });
    assert_eq!(
        client
            .get("updateMany", json!({ "bucket": "t", "filter": filter, "data": { "n": 9 } }))
            .await,
        2
    );
    assert_eq!(
        client.get("delete", json!({ "bucket": "t", "key": "b" })).await,
        json!({ "deleted": true })
    );
    assert_eq!(
        client.get("delete", json!({ "bucket": "t", "key": ["b"] })).await,
        json!({ "deleted": true })
    );
    assert_eq!(client.get("deleteMany", json!({ "bucket": "t", "filter": { "n": 9 } })).await, 1);
    assert_eq!(client.get("clear", json!({ "bucket": "t" })).await, json!({ "cleared": true }));
    assert_eq!(client.get("all", json!({ "bucket": "t" })).await, json!([]));
    let missing = "Record with key \"[object]\" not found in bucket \"t\"";
    client
        .check_refused("update", json!({ "bucket": "t", "key": {}, "data": {} }), "NOT_FOUND", missing)
        .await;
}

#[tokio::test]
async fn a_version_that_is_expected_must_be_there() {
    let mut client = client().await;
    client.define("t").await;
    client.get("insert", json!({ "bucket": "t", "data": { "id": "a" } })).await;
    for (operation, fields) in [
        ("update", json!({ "bucket": "t", "key": "a", "data": {}, "expectVersion": 4 })),
        ("delete", json!({ "bucket": "t", "key": "a", "expectVersion": 4 })),
        ("upsert", json!({ "bucket": "t", "data": { "id": "a" }, "expectVersion": 4 })),
        (
            "transaction",
            json!({ "operations": [{ "op": "update", "bucket": "t", "key": "a", "data": {}, "expectVersion": 4 }] }),
        ),
    ] {
        let answer = client.send(operation, fields).await;
        assert_eq!(answer["code"], "CONFLICT", "{operation} {answer}");
        assert_eq!(
            answer["details"],
            json!({ "bucket": "t", "key": "a", "expected": 4, "actual": 1 }),
            "{operation}"
        );
    }
    let answer = client
        .send("upsert", json!({ "bucket": "t", "data": { "id": "a" }, "expectVersion": 0 }))
        .await;
    assert_eq!(answer["code"], "CONFLICT");
    assert_eq!(
        client
            .get("upsert", json!({ "bucket": "t", "data": { "id": "b" }, "expectVersion": 0 }))
            .await["_version"],
        1
    );
    assert_eq!(
        client
            .get("update", json!({ "bucket": "t", "key": "a", "data": {}, "expectVersion": 1 }))
            .await["_version"],
        2
    );
    let message = "Invalid \"expectVersion\": expected positive integer";
    client
        .check_refused(
            "delete",
            json!({ "bucket": "t", "key": "a", "expectVersion": 0 }),
            "VALIDATION_ERROR",
            message,
        )
        .await;
}

#[tokio::test]
async fn filters_are_limited_wherever_they_stand() {
    let mut client = client().await;
    client.define("t").await;
    client
        .get(
            "defineQuery",
            json!({ "name": "q", "config": { "bucket": "t", "filter": { "n": { "$in": "{{ params.n }}" } } } }),
        )
        .await;
    let long = json!({ "n": { "$in": [1, 2, 3, 4] }, "$and": [{ "id": "a" }] });
    let fits = json!({ "n": { "$in": [1, 2, 3] }, "$and": [{ "id": "a" }] });
    let requests = |filter: &Value| {
        let aggregate = json!({ "function": "count" });
        let step = |op: &str| json!({ "op": op, "bucket": "t", "filter": filter });
        [
            ("where", json!({ "bucket": "t", "filter": filter })),
            ("findOne", json!({ "bucket": "t", "filter": filter })),
            ("count", json!({ "bucket": "t", "filter": filter })),
            ("sum", json!({ "bucket": "t", "field": "n", "filter": filter })),
            (
                "groupBy",
                json!({ "bucket": "t", "field": "n", "aggregate": aggregate, "filter": filter }),
            ),
            ("explain", json!({ "bucket": "t", "filter": filter })),
            ("updateMany", json!({ "bucket": "t", "filter": filter, "data": { "n": 1 } })),
            ("deleteMany", json!({ "bucket": "t", "filter": filter })),
            (
                "transaction",
                json!({ "operations": [step("where"), step("findOne"), step("count")] }),
            ),
            ("defineQuery", json!({ "name": "p", "config": { "bucket": "t", "filter": filter } })),
        ]
    };
    let message = "Invalid filter: filter: A filter may hold at most 5 conditions, elements of lists included";
    for (operation, fields) in requests(&long) {
        client.check_refused(operation, fields, "VALIDATION_ERROR", message).await;
    }
    for (operation, fields) in requests(&fits) {
        assert_eq!(client.send(operation, fields).await["type"], "result", "{operation}");
    }
    let message = "Invalid \"params\": 6 elements of lists, at most 5 are allowed";
    for operation in ["runQuery", "subscribe", "explain"] {
        let with = |n: Value| json!({ "query": "q", "params": { "n": n } });
        client
            .check_refused(operation, with(json!([1, 2, 3, 4, 5, 6])), "VALIDATION_ERROR", message)
            .await;
        assert_eq!(client.send(operation, with(json!([1, 2]))).await["type"], "result", "{operation}");
    }
}

#[tokio::test]
async fn transactions_are_limited() {
    let mut client = client().await;
    client.define("t").await;
    let steps = |count| json!({ "operations": vec![json!({ "op": "get", "bucket": "t", "key": "a" }); count] });
    let message = "Invalid \"operations\": 5 operations, at most 4 are allowed";
    client.check_refused("transaction", steps(5), "VALIDATION_ERROR", message).await;
    assert_eq!(client.send("transaction", steps(4)).await["type"], "result");
}

#[tokio::test]
async fn names_are_limited() {
    let mut client = client().await;
    let (fits, long) = ("x".repeat(20), "é".repeat(11));
    client.define(&fits).await;
    let schema = json!({ "key": "id", "schema": { "id": { "type": "string" } } });
    let message = "Invalid \"name\": 22 bytes, at most 20 are allowed";
    for (operation, config) in [("defineBucket", schema), ("defineQuery", json!({ "bucket": fits }))] {
        client
            .check_refused(operation, json!({ "name": long, "config": config }), "VALIDATION_ERROR", message)
            .await;
    }
    client
        .get("defineQuery", json!({ "name": fits, "config": { "bucket": fits } }))
        .await;
}

#[tokio::test]
async fn bulk_inserts_are_limited() {
    let context = HandlerContext {
        max_bulk_records: 2,
        ..context().await
    };
    let mut client = Client::new(&Arc::new(context));
    client.define("t").await;
    let message = "Invalid \"data\": 3 records, at most 2 are allowed";
    client
        .check_refused(
            "insertMany",
            json!({ "bucket": "t", "data": [{}, {}, {}] }),
            "VALIDATION_ERROR",
            message,
        )
        .await;
}

#[tokio::test]
async fn a_result_that_is_too_large_is_refused_and_says_whether_anything_was_done() {
    let context = HandlerContext {
        max_result_bytes: 200,
        ..context().await
    };
    let mut client = Client::new(&Arc::new(context));
    client.define("t").await;
    client.get("defineQuery", json!({ "name": "q", "config": { "bucket": "t" } })).await;
    let long = "x".repeat(150);
    client
        .get("insert", json!({ "bucket": "t", "data": { "id": "a", "s": long } }))
        .await;
    for (operation, fields) in [
        ("all", json!({ "bucket": "t" })),
        ("runQuery", json!({ "query": "q" })),
        ("subscribe", json!({ "query": "q" })),
    ] {
        assert_eq!(client.send(operation, fields).await["code"], "BACKPRESSURE", "{operation}");
    }
    assert_eq!(
        client.session.context.total_subscriptions.load(Ordering::Relaxed),
        0,
        "a refused subscription takes no place"
    );
    let read = json!({ "op": "where", "bucket": "t", "filter": {} });
    assert_eq!(
        client.send("transaction", json!({ "operations": [read] })).await["code"],
        "BACKPRESSURE"
    );
    let write = json!({ "op": "insert", "bucket": "t", "data": { "id": "b" } });
    let answer = client.send("transaction", json!({ "operations": [write, read] })).await;
    assert_eq!(
        answer["message"],
        "The transaction is committed, but what it read is larger than 200 bytes"
    );
    assert_eq!(client.get("count", json!({ "bucket": "t" })).await, 2);
}

#[tokio::test]
async fn a_long_read_gives_what_a_short_one_gives() {
    let mut client = client().await;
    client.define("t").await;
    for start in [0, 4000] {
        let records: Vec<_> = (start..start + 4000).map(|n| json!({ "id": n.to_string(), "n": n })).collect();
        client.get("insertMany", json!({ "bucket": "t", "data": records })).await;
    }
    let text = r#"{"id":1,"type":"store.all","bucket":"t"}"#;
    let Ok(Envelope::Request(request)) = Envelope::parse(text) else {
        panic!("refused")
    };
    assert!(matches!(client.session.handle(&request), Handled::Alone(_)));
    assert_eq!(client.get("all", json!({ "bucket": "t" })).await.as_array().unwrap().len(), 8000);
    assert_eq!(
        client.get("where", json!({ "bucket": "t", "filter": { "n": 7999 } })).await[0]["id"],
        "7999"
    );
    assert_eq!(client.get("sum", json!({ "bucket": "t", "field": "n" })).await, 31_996_000);
    let text = r#"{"id":1,"type":"store.get","bucket":"t","key":"5"}"#;
    let Ok(Envelope::Request(request)) = Envelope::parse(text) else {
        panic!("refused")
    };
    assert!(matches!(client.session.handle(&request), Handled::Answer(_)));
}

#[tokio::test]
async fn subscriptions_take_places_and_give_them_back() {
    let context = Arc::new(context().await);
    let (mut one, mut two) = (Client::new(&context), Client::new(&context));
    one.define("t").await;
    one.get("defineQuery", json!({ "name": "q", "config": { "bucket": "t" } })).await;
    one.check_refused(
        "subscribe",
        json!({ "query": "nope" }),
        "QUERY_NOT_DEFINED",
        "Query \"nope\" is not defined",
    )
    .await;
    let missing = "Missing or invalid \"query\": expected non-empty string";
    one.check_refused("subscribe", json!({}), "VALIDATION_ERROR", missing).await;
    let first = one.get("subscribe", json!({ "query": "q" })).await;
    assert_eq!(first["data"], json!([]));
    one.get("subscribe", json!({ "query": "q" })).await;
    let per_connection = "Subscription limit reached (max 2 per connection)";
    one.check_refused("subscribe", json!({}), "RATE_LIMITED", per_connection).await;
    two.get("subscribe", json!({ "query": "q" })).await;
    two.check_refused(
        "subscribe",
        json!({ "query": "q" }),
        "RATE_LIMITED",
        "Global subscription limit reached (max 3)",
    )
    .await;
    let id = first["subscriptionId"].clone();
    let not_found = format!("Subscription {id} not found");
    two.check_refused("unsubscribe", json!({ "subscriptionId": id }), "NOT_FOUND", &not_found)
        .await;
    assert_eq!(
        one.get("unsubscribe", json!({ "subscriptionId": id })).await,
        json!({ "unsubscribed": true })
    );
    one.check_refused("unsubscribe", json!({ "subscriptionId": id }), "NOT_FOUND", &not_found)
        .await;
    two.get("subscribe", json!({ "query": "q" })).await;
    drop(two);
    assert_eq!(context.total_subscriptions.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_subscription_that_the_store_ends_frees_its_place() {
    let context = Arc::new(context().await);
    let mut client = Client::new(&context);
    client.define("t").await;
    client.get("defineQuery", json!({ "name": "q", "config": { "bucket": "t" } })).await;
    let answer = client.get("subscribe", json!({ "query": "q" })).await;
    let id: SubscriptionId = answer["subscriptionId"].as_str().unwrap().parse().unwrap();
    client.get("dropBucket", json!({ "name": "t" })).await;
    // The views follow on the store's own task: a request that passes through it comes after them.
    client
        .check_refused(
            "subscribe",
            json!({ "query": "q" }),
            "BUCKET_NOT_DEFINED",
            "Bucket \"t\" is not defined",
        )
        .await;
    client.define("u").await;
    let ended = client
        .pushed
        .0
        .lock()
        .iter()
        .any(|(other, update)| *other == id && matches!(update, Update::Ended(EndReason::BucketDropped)));
    assert!(ended);
    let ended = || Update::Ended(EndReason::BucketDropped);
    assert!(client.session.message(id, ended()).is_some());
    assert!(client.session.message(id, ended()).is_none());
    assert_eq!(context.total_subscriptions.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_client_is_not_sent_what_it_has_where_the_states_between_were_left_out() {
    let context = Arc::new(context().await);
    for (mode, query) in [("full", "list"), ("full", "count"), ("delta", "list"), ("delta", "count")] {
        let mut client = Client::new(&context);
        let bucket = format!("{mode}-{query}");
        client.define(&bucket).await;
        let config = match query {
            "list" => json!({ "bucket": bucket }),
            _ => json!({ "bucket": bucket, "aggregate": { "function": "count" } }),
        };
        client.get("defineQuery", json!({ "name": bucket, "config": config })).await;
        let answer = client.get("subscribe", json!({ "query": bucket, "mode": mode })).await;
        let id: SubscriptionId = answer["subscriptionId"].as_str().unwrap().parse().unwrap();
        client.get("insert", json!({ "bucket": bucket, "data": { "id": "a" } })).await;
        client.get("delete", json!({ "bucket": bucket, "key": "a" })).await;
        // A request that passes through the store's own task comes after the views.
        client.get("subscribe", json!({ "query": bucket })).await;
        let results: Vec<Update> = client.pushed.0.lock().iter().map(|(_, update)| update.clone()).collect();
        let [inserted, deleted] = &*results else {
            panic!("{mode}, {query}: {} pushes", results.len())
        };
        assert!(
            client.session.message(id, deleted.clone()).is_none(),
            "{mode}, {query}: the first result again"
        );
        assert!(
            client.session.message(id, inserted.clone()).is_some(),
            "{mode}, {query}: another result"
        );
        assert!(
            client.session.message(id, deleted.clone()).is_some(),
            "{mode}, {query}: and back again"
        );
        let failed = Update::Failed(crate::store::StoreError::QueryFailed("not now".to_owned()));
        assert!(client.session.message(id, failed).is_some());
        assert!(
            client.session.message(id, deleted.clone()).is_some(),
            "{mode}, {query}: it works again"
        );
    }
}

#[tokio::test]
async fn what_followers_are_yet_to_be_told_is_bounded() {
    let (mut client, _) = client_among(0, 200).await;
    client.define("t").await;
    let first = client.get("changes", json!({ "bucket": "t", "filter": { "n": 1 } })).await;
    client
        .get("unsubscribe", json!({ "subscriptionId": first["subscriptionId"] }))
        .await;
    for id in ["a", "b", "c"] {
        client.get("insert", json!({ "bucket": "t", "data": { "id": id, "n": 1 } })).await;
    }
    let since = json!({ "bucket": "t", "filter": { "n": 1 }, "since": first["cursor"] });
    let behind = client.get("changes", since.clone()).await;
    let message = "Other change feeds of this connection have yet to be told what they missed";
    client.check_refused("changes", since.clone(), "BACKPRESSURE", message).await;
    let now = json!({ "bucket": "t", "filter": { "n": 2 } });
    let other = client.get("changes", now).await;
    client
        .get("unsubscribe", json!({ "subscriptionId": other["subscriptionId"] }))
        .await;
    // Once it has been told, or is given up, there is room.
    assert_eq!(std::iter::from_fn(|| client.session.backlog()).count(), 3);
    let again = client.get("changes", since.clone()).await;
    for gone in [behind, again] {
        client.get("unsubscribe", json!({ "subscriptionId": gone["subscriptionId"] })).await;
    }
    client.get("changes", since).await;
}

/// Lets everybody do everything, until its version rises: then nobody may do anything.
#[derive(Default)]
struct Fickle(AtomicU64);

impl Authority for Fickle {
    fn requires_login(&self) -> bool {
        false
    }

    fn version(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    fn rights(&self, _: Option<&Arc<Principal>>) -> Arc<dyn Rights> {
        let role = if self.version() == 0 { "admin" } else { "none" };
        Arc::new(Permissions::new(None).rights(&Principal::new("", [role])))
    }

    fn standing(&self, _: &Login, _: u64, _: bool) -> Standing {
        unreachable!("nobody logs in")
    }

    fn deadline(&self, _: &Login) -> Option<u64> {
        unreachable!("nobody logs in")
    }

    fn log_in(&self, _: Secret, _: IpAddr) -> Work<Result<Login, Failure>> {
        unreachable!("nobody logs in")
    }

    fn log_out(&self, _: &Login) -> Work<Result<(), Failure>> {
        unreachable!("nobody logs in")
    }
}

#[tokio::test]
async fn what_was_missed_is_not_told_any_more_once_the_right_is_gone() {
    let authority = Arc::new(Fickle::default());
    let mut client = Client::judged_by(&Arc::new(context().await), Arc::<Fickle>::clone(&authority));
    client.define("t").await;
    let first = client.get("changes", json!({ "bucket": "t" })).await;
    for id in ["a", "b", "c"] {
        client.get("insert", json!({ "bucket": "t", "data": { "id": id, "n": 1 } })).await;
    }
    client.get("changes", json!({ "bucket": "t", "since": first["cursor"] })).await;
    let mut next = || {
        let message = client.session.backlog()?;
        Some(serde_json::from_slice::<Value>(&message).unwrap())
    };
    let missed = next().unwrap();
    assert!(missed.to_string().contains(r#""key":"a""#), "{missed}");
    authority.0.store(1, Ordering::Release);
    for _ in ["the first", "the second"] {
        let notice = next().unwrap();
        assert_eq!(notice["reason"], "forbidden", "{notice}");
    }
    assert_eq!(next(), None);
}

#[tokio::test]
async fn who_resumes_gets_the_whole_result_where_the_delta_is_longer() {
    let mut client = client().await;
    client.define("t").await;
    client
        .get("defineQuery", json!({ "name": "all", "config": { "bucket": "t" } }))
        .await;
    let long = |id: u32| format!("{id}{}", "k".repeat(100));
    for id in 0..50 {
        client.get("insert", json!({ "bucket": "t", "data": { "id": long(id) } })).await;
    }
    let first = client.get("subscribe", json!({ "query": "all" })).await;
    let resume = json!({ "query": "all", "resume": first["cursor"] });
    client.get("delete", json!({ "bucket": "t", "key": long(0) })).await;
    let few = client.get("subscribe", resume.clone()).await;
    assert_eq!((&few["resumed"], &few["delta"]["removed"]), (&json!(true), &json!([long(0)])));
    client.get("unsubscribe", json!({ "subscriptionId": few["subscriptionId"] })).await;
    for id in 1..50 {
        client.get("delete", json!({ "bucket": "t", "key": long(id) })).await;
    }
    let many = client.get("subscribe", resume).await;
    assert_eq!((&many["resumed"], &many["data"]), (&json!(false), &json!([])));
    assert_eq!(many.get("delta"), None);
}

#[tokio::test]
async fn queries_can_be_run_once() {
    let context = Arc::new(context().await);
    let mut client = Client::new(&context);
    client.define("t").await;
    client.get("insert", json!({ "bucket": "t", "data": { "id": "a", "n": 1 } })).await;
    let config = json!({ "bucket": "t", "filter": { "n": "{{ params.n }}" }, "fields": ["id"] });
    client.get("defineQuery", json!({ "name": "q", "config": config })).await;
    client
        .get(
            "defineQuery",
            json!({ "name": "low", "config": { "bucket": "t", "aggregate": { "function": "min", "field": "x" } } }),
        )
        .await;
    context
        .store
        .define_closure("f", |read, params| Ok(json!([read.bucket("t")?.all().len(), params])))
        .await
        .unwrap();
    assert_eq!(
        client.get("runQuery", json!({ "query": "q", "params": { "n": 1 } })).await,
        json!([{ "id": "a" }])
    );
    assert_eq!(client.send("runQuery", json!({ "query": "q" })).await["code"], "VALIDATION_ERROR");
    assert_eq!(client.get("runQuery", json!({ "query": "low", "params": 7 })).await, "no data");
    assert_eq!(client.get("runQuery", json!({ "query": "f", "params": 5 })).await, json!([1, 5]));
    client
        .check_refused(
            "runQuery",
            json!({ "query": "nope" }),
            "QUERY_NOT_DEFINED",
            "Query \"nope\" is not defined",
        )
        .await;
    let queries = client.get("listQueries", json!({})).await;
    assert_eq!(
        queries["queries"][0],
        json!({ "name": "q", "type": "declarative", "activeSubscriptions": 0, "config": config })
    );
    assert_eq!(
        queries["queries"][2],
        json!({ "name": "f", "type": "programmatic", "activeSubscriptions": 0 })
    );
}

#[tokio::test]
async fn plans_are_explained() {
    let context = Arc::new(context().await);
    let mut client = Client::new(&context);
    let schema = json!({ "id": { "type": "string" }, "n": { "type": "number" } });
    client
        .get(
            "defineBucket",
            json!({ "name": "t", "config": { "key": "id", "schema": schema, "indexes": ["n"] } }),
        )
        .await;
    let plan = client
        .get(
            "explain",
            json!({ "bucket": "t", "filter": { "n": 1 }, "sort": { "id": "asc" }, "limit": 3 }),
        )
        .await;
    assert_eq!((&plan["index"], &plan["liveView"]), (&json!(["n"]), &json!("maintained")), "{plan}");
    let grouped = json!({ "bucket": "t", "aggregate": { "function": "count", "groupBy": "n" } });
    client.get("defineQuery", json!({ "name": "g", "config": grouped })).await;
    assert_eq!(client.get("explain", json!({ "query": "g" })).await["liveView"], "maintained");
    context.store.define_closure("f", |_, _| Ok(Value::Null)).await.unwrap();
    assert_eq!(
        client.get("explain", json!({ "query": "f" })).await,
        json!({ "liveView": "reevaluated" })
    );
    assert_eq!(
        client.send("explain", json!({ "bucket": "t", "sort": { "n": "up" } })).await["code"],
        "VALIDATION_ERROR"
    );
    let message = "Missing or invalid \"bucket\": expected non-empty string";
    client.check_refused("explain", json!({}), "VALIDATION_ERROR", message).await;
}

#[tokio::test]
async fn definitions_are_checked_after_names() {
    let mut client = client().await;
    client.define("t").await;
    let message = "Bucket \"t\" already exists";
    client
        .check_refused("defineBucket", json!({ "name": "t", "config": {} }), "ALREADY_EXISTS", message)
        .await;
    let missing = json!({ "name": "q", "config": { "bucket": "u", "limit": -1 } });
    client
        .check_refused("defineQuery", missing, "BUCKET_NOT_DEFINED", "Bucket \"u\" is not defined")
        .await;
    for config in [json!({}), json!({ "bucket": 7 }), json!({ "bucket": "t", "limit": -1 })] {
        let answer = client.send("defineQuery", json!({ "name": "q", "config": config })).await;
        assert_eq!(answer["code"], "VALIDATION_ERROR", "{config} {answer}");
        assert!(answer["details"].is_array(), "{config} {answer}");
    }
    client.get("defineQuery", json!({ "name": "q", "config": { "bucket": "t" } })).await;
    let taken = json!({ "name": "q", "config": { "bucket": "t", "limit": -1 } });
    client
        .check_refused("defineQuery", taken, "ALREADY_EXISTS", "Query \"q\" is already defined")
        .await;
    client
        .check_refused(
            "undefineQuery",
            json!({ "name": "r" }),
            "QUERY_NOT_DEFINED",
            "Query \"r\" is not defined",
        )
        .await;
    client
        .check_refused(
            "dropBucket",
            json!({ "name": "u" }),
            "BUCKET_NOT_DEFINED",
            "Bucket \"u\" does not exist",
        )
        .await;
    client
        .check_refused(
            "getBucketSchema",
            json!({ "name": "u" }),
            "BUCKET_NOT_DEFINED",
            "Bucket \"u\" does not exist",
        )
        .await;
}

/// A client of a server that has so many connections, and those connections.
async fn client_among(connections: usize, max_result_bytes: usize) -> (Client, Vec<impl Drop>) {
    let registry = Registry::new(connections, None);
    let seats = (0..connections).map(|at| {
        let seat = registry.take_seat().expect("a seat is free");
        let address = std::net::Ipv4Addr::new(10, 0, 0, 7).into();
        let figures = ConnectionFigures::new(1_790_000_000_000 + at as u64);
        let registered = seat.register(ConnectionId::next(), address, Arc::default(), figures);
        registered.unwrap_or_else(|_| panic!("it is admitted"))
    });
    let seats: Vec<_> = seats.collect();
    let context = HandlerContext {
        overview: Arc::new(overview(&registry)),
        max_result_bytes,
        ..context().await
    };
    (Client::new(&Arc::new(context)), seats)
}

#[tokio::test]
async fn connections_are_listed_whole_and_in_the_order_in_which_they_came_however_many_there_are() {
    for connections in [0, 1, 3, 256, 257, 2000] {
        let (mut client, _seats) = client_among(connections, 1 << 20).await;
        let answer = client.send_text(r#"{"id":5,"type":"server.connections"}"#).await;
        let listed = answer["data"].as_array().expect("a list");
        assert_eq!((&answer["id"], listed.len()), (&json!(5), connections));
        for (at, connection) in listed.iter().enumerate() {
            assert_eq!(connection["connectedAt"], 1_790_000_000_000_u64 + at as u64);
        }
    }
}

#[tokio::test]
async fn a_list_of_connections_beyond_the_limit_is_refused_and_not_cut_off() {
    for connections in [100, 2000] {
        let (mut client, _seats) = client_among(connections, 20_000).await;
        let answer = client.send_text(r#"{"id":5,"type":"server.connections"}"#).await;
        assert_eq!(
            (&answer["id"], &answer["code"]),
            (&json!(5), &json!("BACKPRESSURE")),
            "{connections}"
        );
    }
}

#[tokio::test]
async fn a_connection_is_shown_with_every_field_of_the_contract() {
    let (mut client, _seats) = client_among(1, 1 << 20).await;
    let mut answer = client.send_text(r#"{"id":5,"type":"server.connections"}"#).await;
    let connection = answer["data"][0].as_object_mut().expect("an object");
    let id = connection.shift_remove("connectionId").expect("an id");
    assert!(id.as_str().is_some_and(|id| id.starts_with("conn-")), "{id}");
    let expected = json!({
        "remoteAddress": "10.0.0.7", "connectedAt": 1_790_000_000_000_u64,
        "authenticated": false, "userId": null, "roles": [],
        "storeSubscriptionCount": 0, "rulesSubscriptionCount": 0,
        "bytesIn": 0, "bytesOut": 0, "unsentBytes": 0, "requestsInFlight": 0,
    });
    assert_eq!(&expected, &Value::Object(connection.clone()));
}

#[tokio::test]
async fn a_query_is_read_only_where_it_is_over_the_bucket_that_was_judged() {
    let mut client = client().await;
    client.define("t").await;
    client.define("u").await;
    client.get("defineQuery", json!({ "name": "q", "config": { "bucket": "t" } })).await;
    let requests = ["runQuery", "subscribe", "explain"];
    for judged in [Some("u"), None] {
        client.session.judged = Judged::Query(judged.map(BucketName::from));
        for operation in requests {
            let message = "Query \"q\" is not defined";
            client
                .check_refused(operation, json!({ "query": "q" }), "QUERY_NOT_DEFINED", message)
                .await;
        }
    }
    client.session.judged = Judged::Query(Some("t".into()));
    for operation in requests {
        client.get(operation, json!({ "query": "q" })).await;
    }
}
