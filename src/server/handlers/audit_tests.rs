//! What the audit log says of requests, as clients that read it see it.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::{Admittance, Failure, Finished, Handled, HandlerContext, RequestLimits, Session};
use crate::protocol::{Envelope, Part, SubscriptionId, Tier};
use crate::server::Config;
use crate::server::access::{Access, Authority, Login, Permissions, Principal, Rights, Secret, Standing, TokenDigest, Work};
use crate::server::audit::AuditLog;
use crate::server::audit::tests::Gate;
use crate::server::config::{AuditConfig, AuditSink};
use crate::server::connection::registry::Registry;
use crate::server::statistics::{ConnectionFigures, Overview};
use crate::store::{Sink, Store, Update};

/// Knows `tk-<role>` as a user `<role>` of that role; `fails-<anything>` is a fault of its own.
#[derive(Default)]
struct Tokens {
    has_expired: AtomicBool,
    has_ended: AtomicBool,
    /// Whether whoever is not logged in holds the role of administrators.
    is_lax: AtomicBool,
}

impl Authority for Tokens {
    fn requires_login(&self) -> bool {
        !self.is_lax.load(Ordering::Relaxed)
    }

    fn version(&self) -> u64 {
        0
    }

    fn rights(&self, principal: Option<&Arc<Principal>>) -> Arc<dyn Rights> {
        let role = if self.is_lax.load(Ordering::Relaxed) { "admin" } else { "" };
        let nobody = Principal::new("nobody", [role]);
        Arc::new(Permissions::new(None).rights(principal.map_or(&nobody, |principal| principal)))
    }

    fn standing(&self, login: &Login, _: u64, _: bool) -> Standing {
        if self.has_expired.load(Ordering::Relaxed) {
            return Standing::Expired;
        }
        if self.has_ended.load(Ordering::Relaxed) {
            return Standing::Ended;
        }
        Standing::Holds(Arc::clone(&login.principal))
    }

    fn deadline(&self, _: &Login) -> Option<u64> {
        None
    }

    fn log_in(&self, token: Secret, _: IpAddr) -> Work<Result<Login, Failure>> {
        let role = token.expose().strip_prefix("tk-").map(str::to_owned);
        let digest = TokenDigest::of(token.expose());
        Box::pin(async move {
            let role = role.ok_or_else(|| Failure::new(crate::protocol::ErrorCode::Unauthorized, "Invalid token"))?;
            Ok(Login {
                principal: Arc::new(Principal::new(role.clone(), [role])),
                token: digest,
                session: Some("public-name".into()),
                proof: None,
            })
        })
    }

    fn log_out(&self, _: &Login) -> Work<Result<(), Failure>> {
        Box::pin(async { Ok(()) })
    }
}

struct NoSink;

impl Sink for NoSink {
    fn push(&self, _: SubscriptionId, _: Update) {}
}

struct Server {
    context: Arc<HandlerContext>,
    authority: Arc<Tokens>,
}

impl Server {
    async fn new(config: AuditConfig) -> Self {
        Self::with(Some(AuditLog::open(&config).unwrap())).await
    }

    async fn with(log: Option<AuditLog>) -> Self {
        let config = Config::default();
        let context = HandlerContext {
            store: Store::builder().in_memory().open().await.unwrap(),
            overview: Arc::new(Overview::new(&config, 8080, Registry::new(10, None), Arc::default())),
            max_subscriptions_per_connection: 2,
            max_total_subscriptions: 3,
            total_subscriptions: Arc::default(),
            max_bulk_records: 100,
            request_limits: RequestLimits::from(&config.connection_limits),
            parts: vec![Part::Auth, Part::Audit],
            max_result_bytes: 1 << 20,
            expose_error_details: true,
            long_reads: Arc::new(Semaphore::new(1)),
            audit: log.map(Arc::new),
        };
        Self {
            context: Arc::new(context),
            authority: Arc::default(),
        }
    }

    fn connect(&self) -> Client {
        let access = Access::of_nobody(Arc::clone(&self.authority) as Arc<dyn Authority>);
        let session = Session::new(Arc::clone(&self.context), Arc::new(NoSink), ConnectionFigures::new(0), access);
        Client { session }
    }

    async fn connect_as(&self, role: &str) -> Client {
        let mut client = self.connect();
        let answer = client.send("auth.login", json!({ "token": format!("tk-{role}") })).await;
        assert_eq!(answer["type"], "result", "{answer}");
        client
    }
}

/// A client without a socket.
struct Client {
    session: Session,
}

impl Client {
    async fn send(&mut self, operation: &str, fields: Value) -> Value {
        let text = message(operation, &fields);
        let Ok(Envelope::Request(request)) = Envelope::parse(&text) else {
            panic!("no request: {text}");
        };
        let answer = match self.session.admit(&request) {
            Admittance::Refused(answer) => answer,
            Admittance::Granted => self.carry_out(&request).await,
            Admittance::Asking(_) => panic!("no program is asked here"),
        };
        serde_json::from_slice(&answer).unwrap()
    }

    async fn carry_out(&mut self, request: &crate::protocol::Request<'_>) -> Vec<u8> {
        match self.session.handle(request) {
            Handled::Answer(answer) => answer,
            Handled::Pending(pending) => pending.await,
            Handled::Alone(mut work) => loop {
                match self.session.complete(work.await) {
                    Finished::Answer(answer) => return answer,
                    Finished::Waits(more) => work = more,
                }
            },
        }
    }

    async fn define(&mut self, bucket: &str) {
        let config = json!({ "key": "id", "schema": { "id": { "type": "string" } } });
        let answer = self.send("store.defineBucket", json!({ "name": bucket, "config": config })).await;
        assert_eq!(answer["type"], "result", "{answer}");
    }

    /// What the log says, newest first.
    async fn log(&mut self, fields: Value) -> Vec<Value> {
        let answer = self.send("audit.query", fields).await;
        answer["data"]["entries"].as_array().unwrap_or_else(|| panic!("{answer}")).clone()
    }
}

fn message(operation: &str, fields: &Value) -> String {
    let mut message = json!({ "id": 1, "type": operation });
    message.as_object_mut().unwrap().extend(fields.as_object().cloned().unwrap());
    message.to_string()
}

/// One member of each entry.
fn each<'v>(entries: &'v [Value], member: &str) -> Vec<&'v Value> {
    entries.iter().map(|entry| &entry[member]).collect()
}

fn tiers(tiers: &[Tier]) -> AuditConfig {
    AuditConfig {
        tiers: tiers.to_vec(),
        ..AuditConfig::default()
    }
}

#[tokio::test]
async fn by_default_administration_is_recorded_with_who_what_and_where_from_and_writing_is_not() {
    let server = Server::new(AuditConfig::default()).await;
    let mut admin = server.connect_as("admin").await;
    admin.define("orders").await;
    admin
        .send("store.insert", json!({ "bucket": "orders", "data": { "id": "1" } }))
        .await;
    admin.send("server.stats", json!({})).await;
    let entries = admin.log(json!({})).await;
    assert_eq!(each(&entries, "operation"), ["server.stats", "store.defineBucket"]);
    let stats = &entries[0];
    assert_eq!((&stats["userId"], &stats["actor"]), (&json!("admin"), &json!("admin")));
    assert_eq!((&stats["resource"], &stats["result"]), (&json!("*"), &json!("success")));
    assert_eq!(
        (&stats["remoteAddress"], &stats["session"]),
        (&json!("127.0.0.1"), &json!("public-name"))
    );
    assert!(stats["sessionId"].as_str().unwrap().starts_with("conn-"));
    assert!(stats["durationUs"].is_u64() && stats["id"].is_u64() && stats["timestamp"].is_u64());
    let absent = ["error", "code", "details", "count", "lastTimestamp"];
    assert!(absent.iter().all(|member| stats.get(member).is_none()), "{stats}");
    assert_eq!(entries[1]["resource"], "orders");
    // The query itself appears in the answer to the next one.
    assert_eq!(admin.log(json!({})).await[0]["operation"], "audit.query");
}

#[tokio::test]
async fn what_was_refused_is_recorded_too_with_the_words_of_the_refusal() {
    let server = Server::new(AuditConfig::default()).await;
    let mut writer = server.connect();
    writer.send("store.dropBucket", json!({ "name": "orders" })).await;
    writer.send("auth.login", json!({ "token": "tk-writer" })).await;
    writer.send("store.dropBucket", json!({ "name": "orders" })).await;
    let mut admin = server.connect_as("admin").await;
    admin.send("store.dropBucket", json!({ "name": "nope" })).await;
    let entries = admin.log(json!({})).await;
    assert_eq!(each(&entries, "userId"), [&json!("admin"), &json!("writer"), &Value::Null]);
    assert_eq!(each(&entries, "code"), ["BUCKET_NOT_DEFINED", "FORBIDDEN", "UNAUTHORIZED"]);
    assert_eq!(each(&entries, "resource"), ["nope", "orders", "orders"]);
    assert_eq!(each(&entries, "result"), ["error"; 3]);
    assert_eq!(entries[1]["error"], "Role level insufficient for store.dropBucket (requires admin)");
    assert_eq!(entries[2]["error"], "Authentication required");
}

#[tokio::test]
async fn what_the_rate_limiter_refuses_is_recorded() {
    let server = Server::new(tiers(&[Tier::Write])).await;
    let writer = server.connect_as("writer").await;
    let text = message("store.clear", &json!({ "bucket": "orders" }));
    let Ok(Envelope::Request(request)) = Envelope::parse(&text) else {
        panic!("it is a request")
    };
    let failure = Failure::rate_limited(std::time::Duration::from_secs(1));
    writer.session.record_refusal(&request, &failure);
    let entries = server.connect_as("admin").await.log(json!({})).await;
    assert_eq!(each(&entries, "code"), ["RATE_LIMITED"]);
    assert_eq!(each(&entries, "userId"), ["writer"]);
}

#[tokio::test]
async fn filters_are_joined_and_the_limit_counts_what_matches_newest_first() {
    let server = Server::new(tiers(&[Tier::Write])).await;
    let (mut admin, mut writer) = (server.connect_as("admin").await, server.connect_as("writer").await);
    admin.define("orders").await;
    for n in 0..3 {
        writer
            .send("store.insert", json!({ "bucket": "orders", "data": { "id": format!("w{n}") } }))
            .await;
        admin
            .send("store.insert", json!({ "bucket": "orders", "data": { "id": format!("a{n}") } }))
            .await;
    }
    writer.send("store.delete", json!({ "bucket": "orders", "key": "w0" })).await;
    writer.send("store.insert", json!({ "bucket": "gone", "data": {} })).await;
    let newest = admin.log(json!({ "userId": "writer", "limit": 2 })).await;
    assert_eq!(each(&newest, "operation"), ["store.insert", "store.delete"]);
    assert_eq!(each(&newest, "resource"), ["gone", "orders"]);
    let inserts = json!({ "userId": "writer", "operation": "store.insert", "result": "success" });
    assert_eq!(admin.log(inserts).await.len(), 3);
    assert_eq!(admin.log(json!({ "operation": "store.*" })).await.len(), 0);
    assert_eq!(admin.log(json!({ "operationPrefix": "store." })).await.len(), 8);
    assert_eq!(admin.log(json!({ "operationPrefix": "auth." })).await.len(), 2);
    assert_eq!(admin.log(json!({ "resource": "gone" })).await.len(), 1);
    assert_eq!(admin.log(json!({ "code": "BUCKET_NOT_DEFINED" })).await.len(), 1);
    assert_eq!(admin.log(json!({ "remoteAddress": "127.0.0.1" })).await.len(), 8);
    assert_eq!(admin.log(json!({ "remoteAddress": "127.0.0.2" })).await.len(), 0);
    assert_eq!(admin.log(json!({ "from": 4_102_444_800_000_u64 })).await.len(), 0);
    assert_eq!(admin.log(json!({ "to": 1000 })).await.len(), 0);
    // Both ends of the time are part of it.
    let at = newest[0]["timestamp"].clone();
    assert!(!admin.log(json!({ "from": at, "to": at, "resource": "gone" })).await.is_empty());
}

#[tokio::test]
async fn malformed_filters_are_refused_in_the_order_of_the_contract() {
    let server = Server::new(AuditConfig::default()).await;
    let mut admin = server.connect_as("admin").await;
    let mut wrong = json!({});
    let table = [
        ("cursor", json!("xyz"), "Invalid \"cursor\": expected the cursor of an answer"),
        ("all", json!(1), "Invalid \"all\": expected boolean"),
        ("remoteAddress", Value::Null, "Invalid \"remoteAddress\": expected string"),
        ("code", json!(5), "Invalid \"code\": expected string"),
        ("resource", json!({}), "Invalid \"resource\": expected string"),
        ("operationPrefix", json!([]), "Invalid \"operationPrefix\": expected string"),
        ("limit", json!(-1), "Invalid \"limit\": expected positive integer"),
        ("to", Value::Null, "Invalid \"to\": expected number"),
        ("from", json!("yesterday"), "Invalid \"from\": expected number"),
        ("result", json!("maybe"), "Invalid \"result\": expected \"success\" or \"error\""),
        ("operation", Value::Null, "Invalid \"operation\": expected string"),
        ("userId", Value::Null, "Invalid \"userId\": expected string"),
    ];
    for (field, value, complaint) in table {
        wrong[field] = value;
        let answer = admin.send("audit.query", wrong.clone()).await;
        assert_eq!(
            (&answer["code"], &answer["message"]),
            (&json!("VALIDATION_ERROR"), &json!(complaint))
        );
    }
    for limit in [json!(0), json!(1.5), json!("3"), Value::Null, json!(true)] {
        let answer = admin.send("audit.query", json!({ "limit": limit })).await;
        assert_eq!(answer["message"], "Invalid \"limit\": expected positive integer", "{limit}");
    }
    for cursor in ["", "-1", "+1", "ABC", "11111111111111111"] {
        let answer = admin.send("audit.query", json!({ "cursor": cursor })).await;
        assert_eq!(answer["code"], "VALIDATION_ERROR", "{cursor}");
    }
}

#[tokio::test]
async fn the_log_keeps_the_newest_entries_when_it_is_full() {
    let server = Server::new(AuditConfig {
        max_entries: 3,
        ..tiers(&[Tier::Write])
    })
    .await;
    let mut admin = server.connect_as("admin").await;
    for n in 0..5 {
        admin.send("rules.setFact", json!({ "key": format!("k{n}"), "value": n })).await;
    }
    assert_eq!(each(&admin.log(json!({})).await, "resource"), ["k4", "k3", "k2"]);
}

#[tokio::test]
async fn a_stray_field_does_not_choose_the_resource_that_is_recorded() {
    let server = Server::new(tiers(&[Tier::Admin, Tier::Write, Tier::Read])).await;
    let mut admin = server.connect_as("admin").await;
    let decoys = json!({ "bucket": "d1", "topic": "d2", "username": "d3", "userId": "d4", "roleId": "d5", "resourceType": "d6",
        "resourceName": "d7", "name": "d8", "key": "d9", "query": "d10", "pattern": "d11", "ruleId": "d12" });
    let table = [
        ("rules.setFact", "key", "real"),
        ("rules.unregisterRule", "ruleId", "real"),
        ("store.dropBucket", "name", "real"),
        ("store.defineQuery", "name", "real"),
        ("store.subscribe", "query", "real"),
        ("store.delete", "bucket", "real"),
        ("identity.deleteUser", "userId", "user:real"),
        ("identity.login", "username", "user:real"),
        ("identity.createRole", "name", "real"),
        ("identity.updateRole", "roleId", "role:real"),
        ("server.stats", "x", "*"),
        ("identity.loginWithSecret", "secret", "*"),
    ];
    for (operation, field, resource) in table {
        let mut fields = decoys.clone();
        fields[field] = json!("real");
        admin.send(operation, fields).await;
        let entries = admin.log(json!({ "operation": operation })).await;
        assert_eq!(entries[0]["resource"], resource, "{operation}");
    }
}

#[tokio::test]
async fn transactions_are_recorded_with_their_buckets_and_changes_of_records_with_the_key() {
    let server = Server::new(tiers(&[Tier::Write])).await;
    let mut writer = server.connect_as("writer").await;
    let step = |bucket: &str| json!({ "op": "delete", "bucket": bucket, "key": 1 });
    writer
        .send("store.transaction", json!({ "operations": [step("a"), step("b"), step("a"), 7] }))
        .await;
    writer
        .send("store.transaction", json!({ "operations": [step("a")], "bucket": "decoy" }))
        .await;
    writer.send("store.delete", json!({ "bucket": "a", "key": 12 })).await;
    writer
        .send(
            "store.update",
            json!({ "bucket": "a", "key": "k", "data": { "n": "text of a record" } }),
        )
        .await;
    let entries = server.connect_as("admin").await.log(json!({})).await;
    assert_eq!(each(&entries, "resource"), ["a", "a", "a", "*"]);
    assert_eq!(
        each(&entries, "details"),
        [
            &json!({ "key": "k" }),
            &json!({ "key": 12 }),
            &json!({ "buckets": ["a"] }),
            &json!({ "buckets": ["a", "b"] })
        ]
    );
    let about_b = server.connect_as("admin").await.log(json!({ "resource": "b" })).await;
    assert_eq!(each(&about_b, "operation"), ["store.transaction"]);
}

#[tokio::test]
async fn logins_are_recorded_whatever_the_tiers_and_shown_to_whoever_asks() {
    let server = Server::new(tiers(&[Tier::Read])).await;
    let mut client = server.connect();
    client.send("auth.login", json!({ "token": "wrong" })).await;
    client.send("auth.login", json!({ "token": "tk-writer" })).await;
    client.send("auth.refresh", json!({ "token": "tk-writer" })).await;
    client.send("auth.logout", json!({})).await;
    let mut admin = server.connect_as("admin").await;
    assert_eq!(admin.log(json!({})).await, [] as [Value; 0]);
    let entries = admin.log(json!({ "all": true })).await;
    assert_eq!(
        each(&entries, "operation"),
        ["auth.login", "auth.logout", "auth.refresh", "auth.login", "auth.login"]
    );
    // Who is logged in afterwards, and who was before.
    let user = |name: &str| json!(name);
    assert_eq!(
        each(&entries, "userId"),
        [&user("admin"), &Value::Null, &user("writer"), &user("writer"), &Value::Null]
    );
    assert_eq!(
        each(&entries, "actor"),
        [&Value::Null, &user("writer"), &user("writer"), &Value::Null, &Value::Null]
    );
    assert_eq!(entries[4]["error"], "Invalid token");
}

#[tokio::test]
async fn the_end_of_a_session_is_recorded_where_it_is_noticed() {
    let server = Server::new(AuditConfig::default()).await;
    let mut admin = server.connect_as("admin").await;
    let mut writer = server.connect_as("writer").await;
    server.authority.has_expired.store(true, Ordering::Relaxed);
    assert_eq!(writer.send("store.stats", json!({})).await["message"], "Session expired");
    server.authority.has_expired.store(false, Ordering::Relaxed);
    let mut other = server.connect_as("reader").await;
    server.authority.has_ended.store(true, Ordering::Relaxed);
    other.session.recheck();
    server.authority.has_ended.store(false, Ordering::Relaxed);
    let entries = admin.log(json!({ "operationPrefix": "session." })).await;
    assert_eq!(each(&entries, "operation"), ["session.ended", "session.expired"]);
    assert_eq!(each(&entries, "actor"), ["reader", "writer"]);
    assert_eq!(each(&entries, "userId"), [&Value::Null; 2]);
}

#[tokio::test]
async fn the_same_refusal_of_the_same_user_or_stranger_is_one_entry_that_counts() {
    let server = Server::new(AuditConfig::default()).await;
    for _ in 0..3 {
        let mut stranger = server.connect();
        stranger.send("store.dropBucket", json!({ "name": "a" })).await;
    }
    server.connect().send("store.dropBucket", json!({ "name": "b" })).await;
    let mut writer = server.connect_as("writer").await;
    for _ in 0..2 {
        writer.send("store.dropBucket", json!({ "name": "a" })).await;
    }
    let entries = server.connect_as("admin").await.log(json!({})).await;
    assert_eq!(each(&entries, "count"), [&json!(2), &Value::Null, &json!(3)], "{entries:?}");
    assert_eq!(each(&entries, "actor"), [&json!("writer"), &Value::Null, &Value::Null]);
    assert!(entries[2]["lastTimestamp"].as_u64() >= entries[2]["timestamp"].as_u64());
}

#[tokio::test]
async fn failed_logins_do_not_push_the_traces_of_administration_out_of_the_log() {
    let server = Server::new(AuditConfig {
        max_entries: 5,
        ..AuditConfig::default()
    })
    .await;
    let mut admin = server.connect_as("admin").await;
    admin.define("orders").await;
    for n in 0..50 {
        server
            .connect()
            .send("identity.login", json!({ "username": format!("guess{n}"), "password": "x" }))
            .await;
        server
            .connect_as("writer")
            .await
            .send("store.dropBucket", json!({ "name": format!("{n}") }))
            .await;
    }
    let entries = admin.log(json!({ "operation": "store.defineBucket" })).await;
    assert_eq!(each(&entries, "resource"), ["orders"]);
    assert!(admin.log(json!({ "all": true })).await.len() <= 5);
}

#[tokio::test]
async fn pages_follow_each_other_while_entries_arrive() {
    let server = Server::new(tiers(&[Tier::Write])).await;
    let mut writer = server.connect_as("writer").await;
    let mut admin = server.connect_as("admin").await;
    for n in 0..1_200 {
        writer.send("store.clear", json!({ "bucket": n.to_string() })).await;
    }
    let mut seen = Vec::new();
    let mut fields = json!({ "limit": 500 });
    loop {
        let answer = admin.send("audit.query", fields.clone()).await;
        let entries = answer["data"]["entries"].as_array().unwrap();
        seen.extend(
            entries
                .iter()
                .map(|entry| entry["resource"].as_str().unwrap().parse::<u32>().unwrap()),
        );
        let Some(cursor) = answer["data"].get("cursor") else { break };
        assert_eq!(entries.len(), 500);
        fields["cursor"] = cursor.clone();
        writer.send("store.clear", json!({ "bucket": "9999" })).await;
    }
    assert_eq!(seen, (0..1_200).rev().collect::<Vec<_>>());
    // There is no cursor where the limit is met by the very last entry.
    let all = admin
        .send("audit.query", json!({ "limit": 1_200, "cursor": fields["cursor"] }))
        .await;
    assert_eq!(all["data"].get("cursor"), None);
}

#[tokio::test]
async fn without_a_limit_there_is_as_much_as_an_answer_may_hold_and_a_cursor() {
    let server = Server::new(tiers(&[Tier::Write])).await;
    let mut writer = server.connect_as("writer").await;
    let mut admin = server.connect_as("admin").await;
    for n in 0..5_000 {
        writer.send("store.clear", json!({ "bucket": n.to_string() })).await;
    }
    let answer = admin.send("audit.query", json!({})).await;
    let count = answer["data"]["entries"].as_array().unwrap().len();
    assert!((2_000..5_000).contains(&count), "{count}");
    assert!(serde_json::to_vec(&answer["data"]).unwrap().len() <= 1 << 20);
    let rest = admin.send("audit.query", json!({ "cursor": answer["data"]["cursor"] })).await;
    assert_eq!(rest["data"]["entries"].as_array().unwrap().len(), 5_000 - count);
    assert_eq!(rest["data"]["entries"][0]["resource"], (4_999 - count).to_string());
}

#[tokio::test]
async fn nothing_secret_is_in_any_entry() {
    let server = Server::new(tiers(&[Tier::Admin, Tier::Write, Tier::Read])).await;
    let mut admin = server.connect_as("admin").await;
    admin.define("orders").await;
    const SECRET: &str = "hunter2-is-secret";
    let config = json!({ "key": "id", "schema": { "id": { "type": "string" }, "mail": { "type": "string", "unique": true } } });
    admin
        .send("store.defineBucket", json!({ "name": "unique", "config": config }))
        .await;
    for id in ["1", "2"] {
        admin
            .send("store.insert", json!({ "bucket": "unique", "data": { "id": id, "mail": SECRET } }))
            .await;
    }
    let everything = json!({ "bucket": "orders", "name": "orders", "query": "q", "key": "k", "username": "mira", "userId": "u",
        "token": SECRET, "password": SECRET, "secret": SECRET, "currentPassword": SECRET, "newPassword": SECRET, "adminSecret": SECRET,
        "data": { "id": "k", "x": SECRET }, "records": [{ "id": "k", "x": SECRET }], "filter": { "id": SECRET }, "metadata": { "x": SECRET },
        "config": { "bucket": "orders", "filter": { "id": SECRET } }, "value": SECRET, "updates": { "x": SECRET },
        "operations": [{ "op": "insert", "bucket": "orders", "data": { "id": "k", "x": SECRET } }], "requestKey": SECRET });
    for operation in crate::protocol::Operation::ALL {
        for _ in 0..2 {
            admin.send(operation.name(), everything.clone()).await;
        }
        admin.send("auth.login", json!({ "token": "tk-admin" })).await;
    }
    let entries = admin.log(json!({ "all": true })).await;
    assert!(entries.len() > 100, "{}", entries.len());
    for entry in entries {
        assert!(!entry.to_string().contains("hunter2"), "{entry}");
    }
}

#[tokio::test]
async fn what_strangers_write_is_cut_to_size() {
    let server = Server::new(AuditConfig::default()).await;
    let long = "ü".repeat(100_000);
    server
        .connect()
        .send("identity.login", json!({ "username": long, "password": "x" }))
        .await;
    let entries = server.connect_as("admin").await.log(json!({ "operation": "identity.login" })).await;
    let resource = entries[0]["resource"].as_str().unwrap();
    assert!(
        resource.len() <= 256 && resource.len() > 250 && resource.ends_with('…'),
        "{resource}"
    );
    // A name that no user can have stands there once.
    assert_eq!(entries[0].get("details"), None);
}

#[tokio::test]
async fn a_request_whose_answer_nobody_waits_for_leaves_its_trace() {
    let server = Server::new(AuditConfig::default()).await;
    let mut gone = server.connect_as("admin").await;
    gone.define("orders").await;
    let text = message("store.dropBucket", &json!({ "name": "orders" }));
    let Ok(Envelope::Request(request)) = Envelope::parse(&text) else {
        panic!("it is a request")
    };
    assert!(matches!(gone.session.admit(&request), Admittance::Granted));
    drop(gone.session.handle(&request));
    let entries = server
        .connect_as("admin")
        .await
        .log(json!({ "operation": "store.dropBucket" }))
        .await;
    assert_eq!(each(&entries, "error"), ["The connection was gone before the outcome was known"]);
}

#[tokio::test]
async fn the_embedding_program_is_handed_every_entry_once_and_its_panics_are_its_own() {
    let (handed, entries) = std::sync::mpsc::channel();
    let handed = Mutex::new(handed);
    let on_entry = AuditSink::new(move |entry| {
        handed.lock().send(entry["operation"].clone()).unwrap();
        assert_ne!(entry["operation"], "store.defineBucket", "as asked for");
    });
    let server = Server::new(AuditConfig {
        on_entry: Some(on_entry),
        ..AuditConfig::default()
    })
    .await;
    let mut admin = server.connect_as("admin").await;
    admin.define("orders").await;
    admin.send("server.stats", json!({})).await;
    let wait = || entries.recv_timeout(std::time::Duration::from_secs(10)).unwrap();
    assert_eq!([wait(), wait(), wait()], ["auth.login", "store.defineBucket", "server.stats"]);
}

#[tokio::test]
async fn without_a_log_there_is_nothing_to_query() {
    let server = Server::with(None).await;
    let mut admin = server.connect_as("admin").await;
    let answer = admin.send("audit.query", json!({})).await;
    assert_eq!(
        (&answer["code"], &answer["message"]),
        (&json!("UNKNOWN_OPERATION"), &json!("Audit log is not configured"))
    );
    let answer = server.connect_as("writer").await.send("audit.query", json!({})).await;
    assert_eq!(answer["message"], "Role level insufficient for audit.query (requires admin)");
}

/// A log with a file that fails when the test says so, and waits for it while it is locked.
fn log_on(file: Arc<dyn Fn() -> io::Result<()> + Send + Sync>) -> AuditLog {
    AuditLog::with_failing_file(&tiers(&[Tier::Admin, Tier::Write]), file)
}

/// A log on a disk that is full while this says so.
fn log_on_disk(is_full: &Arc<AtomicBool>) -> AuditLog {
    let is_full = Arc::clone(is_full);
    log_on(Arc::new(move || {
        if is_full.load(Ordering::Relaxed) {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            Ok(())
        }
    }))
}

#[tokio::test]
async fn what_must_not_go_unrecorded_is_answered_when_it_is_on_disk_and_the_rest_at_once() {
    let disk = Arc::new(Gate::default());
    let slow = Arc::clone(&disk);
    let server = Server::with(Some(log_on(Arc::new(move || {
        slow.pass();
        Ok(())
    }))))
    .await;
    let mut admin = server.connect_as("admin").await;
    admin.define("orders").await;
    disk.shut();
    let insert = admin
        .send("store.insert", json!({ "bucket": "orders", "data": { "id": "1" } }))
        .await;
    assert_eq!(insert["type"], "result");
    server.connect().send("auth.login", json!({ "token": "wrong" })).await;
    for (operation, fields) in [
        ("store.dropBucket", json!({ "name": "orders" })),
        ("store.dropBucket", json!({ "name": "nope" })),
        ("auth.refresh", json!({ "token": "tk-admin" })),
        ("server.stats", json!({})),
    ] {
        let text = message(operation, &fields);
        let Ok(Envelope::Request(request)) = Envelope::parse(&text) else {
            panic!("it is a request")
        };
        assert!(matches!(admin.session.admit(&request), Admittance::Granted));
        let mut answering = std::pin::pin!(admin.carry_out(&request));
        for _ in 0..50 {
            let poll = answering.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(poll.is_pending(), "{operation}");
            tokio::task::yield_now().await;
        }
    }
    disk.open();
    assert_eq!(admin.send("server.stats", json!({})).await["type"], "result");
}

#[tokio::test]
async fn while_the_disk_fails_administration_is_refused_and_everything_else_goes_on() {
    let is_full = Arc::new(AtomicBool::new(false));
    let server = Server::with(Some(log_on_disk(&is_full))).await;
    let mut admin = server.connect_as("admin").await;
    admin.define("orders").await;
    is_full.store(true, Ordering::Relaxed);
    // The one during which it comes out is carried out, and is told so.
    let answer = admin.send("store.dropBucket", json!({ "name": "orders" })).await;
    assert_eq!(answer["code"], "STORAGE_UNAVAILABLE");
    assert_eq!(answer["message"], "Carried out, but the audit log cannot be written");
    let config = json!({ "key": "id", "schema": { "id": { "type": "string" } } });
    let define = json!({ "name": "other", "config": config });
    let answer = admin.send("store.defineBucket", define.clone()).await;
    assert_eq!(answer["message"], "Not carried out: the audit log cannot be written");
    let answer = admin
        .send("store.insert", json!({ "bucket": "other", "data": { "id": "1" } }))
        .await;
    assert_eq!(answer["code"], "BUCKET_NOT_DEFINED", "the bucket was not defined");
    // Whoever is to mend it can log in and look.
    let mut other = server.connect_as("admin").await;
    let refused = other.log(json!({ "operation": "store.defineBucket", "result": "error" })).await;
    assert_eq!(each(&refused, "code"), ["STORAGE_UNAVAILABLE"]);
    is_full.store(false, Ordering::Relaxed);
    server.context.audit.as_ref().unwrap().try_again().await;
    assert_eq!(other.send("store.defineBucket", define).await["type"], "result");
}

#[tokio::test]
async fn what_nobody_in_particular_administers_is_recorded_before_it_is_answered_too() {
    let is_full = Arc::new(AtomicBool::new(true));
    let server = Server::with(Some(log_on_disk(&is_full))).await;
    server.authority.is_lax.store(true, Ordering::Relaxed);
    let mut nobody = server.connect();
    let config = json!({ "key": "id", "schema": { "id": { "type": "string" } } });
    for (bucket, message) in [
        ("a", "Carried out, but the audit log cannot be written"),
        ("b", "Not carried out: the audit log cannot be written"),
    ] {
        let answer = nobody.send("store.defineBucket", json!({ "name": bucket, "config": config })).await;
        assert_eq!(
            (&answer["code"], &answer["message"]),
            (&json!("STORAGE_UNAVAILABLE"), &json!(message))
        );
    }
    is_full.store(false, Ordering::Relaxed);
    server.context.audit.as_ref().unwrap().try_again().await;
    nobody.define("b").await;
}

#[tokio::test]
async fn a_flood_of_refusals_pushes_nothing_that_administrators_have_done_out_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let server = Server::new(AuditConfig {
        file: Some(path.clone()),
        file_max_bytes: 65_536,
        file_keep: 2,
        ..tiers(&[Tier::Admin, Tier::Write])
    })
    .await;
    let mut admin = server.connect_as("admin").await;
    admin.define("orders").await;
    let mut reader = server.connect_as("reader").await;
    let mut writer = server.connect_as("writer").await;
    for n in 0..800 {
        let name = format!("{n} {}", "x".repeat(300));
        let answer = reader.send("store.defineBucket", json!({ "name": name })).await;
        assert_eq!(answer["code"], "FORBIDDEN");
        server.connect().send("auth.login", json!({ "token": "wrong" })).await;
        server.connect_as("writer").await.send("auth.logout", json!({})).await;
        let record = json!({ "bucket": "orders", "data": { "id": name } });
        assert_eq!(writer.send("store.insert", record).await["type"], "result");
    }
    server.context.audit.as_ref().unwrap().close().await;
    let text = std::fs::read_to_string(&path).unwrap();
    let is_there = |what: &str| text.lines().any(|line| line.contains(what));
    assert!(is_there("\"resource\":\"orders\",\"result\":\"success\""), "{text}");
    assert!(is_there("audit.missed"), "what has no line is counted");
    // In memory, too.
    assert_eq!(
        admin
            .log(json!({ "operation": "store.defineBucket", "result": "success" }))
            .await
            .len(),
        1
    );
    // Data is in a file of its own, where it pushes out data.
    assert!(std::fs::metadata(folder.path().join("audit.jsonl.data")).unwrap().len() > 1_000);
}
