//! SIGHUP: what of the configuration changes while the server runs, and what does not.
#![cfg(unix)]

use serde_json::{Value, json};

use crate::support::{Site, TestClient, TestServer};

const ADA: &str = "tk-ada-5be0cd19137e2179";
const IDA: &str = "tk-ida-1f83d9abfb41bd6b";

fn config(tokens: Value, rules: Value) -> Value {
    json!({
        "host": "127.0.0.1",
        "auth": { "tokens": tokens, "permissions": { "rules": rules } },
        "buckets": { "tasks": { "key": "id", "schema": { "id": { "type": "string" }, "for": { "type": "string" } } } },
        "queries": { "all": { "bucket": "tasks" } },
    })
}

fn both() -> Value {
    json!({ ADA: { "userId": "ada", "roles": ["admin"] }, IDA: { "userId": "ida", "roles": ["clerk"] } })
}

fn all_for_everybody() -> Value {
    json!([{ "role": "admin", "allow": "*" }, { "role": "clerk", "allow": "store.*", "buckets": ["tasks"] }])
}

/// Writes another configuration file, and has the server read it; waits until the log says what came of it.
async fn reload(server: &TestServer, config: &Value, said: &str) {
    let before = server.stderr().len();
    std::fs::write(server.site().config_file(), config.to_string()).unwrap();
    server.signal("HUP");
    server.says(said, before).await;
}

async fn login(server: &TestServer, token: &str) -> TestClient {
    let mut client = server.connect().await;
    let answer = client.call("auth.login", json!({ "token": token })).await;
    assert_eq!(answer["type"], "result", "{answer}");
    client
}

async fn code_of(client: &mut TestClient, operation: &str, fields: Value) -> Value {
    client.call(operation, fields).await["code"].clone()
}

#[tokio::test]
async fn a_token_that_is_taken_out_of_the_file_ends_its_sessions_and_their_subscriptions() {
    let server = TestServer::start(config(both(), all_for_everybody())).await;
    let (mut ada, mut ida) = (login(&server, ADA).await, login(&server, IDA).await);
    assert_eq!(code_of(&mut ida, "store.subscribe", json!({ "query": "all" })).await, Value::Null);
    let only_ada = json!({ ADA: { "userId": "ada", "roles": ["admin"] } });
    reload(&server, &config(only_ada, all_for_everybody()), "was read again").await;
    let notice = ida.receive(|message| message["type"] == "system").await.unwrap();
    assert_eq!(
        (&notice["event"], &notice["reason"]),
        (&json!("subscription_ended"), &json!("session_ended"))
    );
    assert_eq!(code_of(&mut ida, "store.all", json!({ "bucket": "tasks" })).await, "UNAUTHORIZED");
    assert_eq!(code_of(&mut ida, "auth.login", json!({ "token": IDA })).await, "UNAUTHORIZED");
    assert_eq!(code_of(&mut ada, "store.all", json!({ "bucket": "tasks" })).await, Value::Null);
}

#[tokio::test]
async fn a_rule_that_is_taken_out_of_the_file_ends_what_strangers_follow_at_once() {
    let for_strangers = |rules: Value| {
        let mut config = config(both(), rules);
        config["auth"]["required"] = json!(false);
        config["auth"]["anonymousRoles"] = json!(["clerk"]);
        config
    };
    let server = TestServer::start(for_strangers(all_for_everybody())).await;
    let mut stranger = server.connect().await;
    assert_eq!(
        code_of(&mut stranger, "store.subscribe", json!({ "query": "all" })).await,
        Value::Null
    );
    let nothing = json!([{ "role": "admin", "allow": "*" }]);
    reload(&server, &for_strangers(nothing), "was read again").await;
    let notice = stranger.receive(|message| message["type"] == "system").await.unwrap();
    assert_eq!(
        (&notice["event"], &notice["reason"]),
        (&json!("subscription_ended"), &json!("forbidden"))
    );
}

#[tokio::test]
async fn a_rule_that_changes_decides_the_next_request_of_live_connections() {
    let server = TestServer::start(config(both(), all_for_everybody())).await;
    let (mut ada, mut ida) = (login(&server, ADA).await, login(&server, IDA).await);
    let tasks = json!([{ "id": "a", "for": "ada" }, { "id": "i", "for": "ida" }]);
    ada.call("store.insertMany", json!({ "bucket": "tasks", "data": tasks })).await;
    let count = async |ida: &mut TestClient| ida.call("store.count", json!({ "bucket": "tasks" })).await["data"].clone();
    assert_eq!(count(&mut ida).await, 2);
    let own =
        json!([{ "role": "admin", "allow": "*" }, { "role": "clerk", "allow": "store.*", "where": { "for": "{{ session.userId }}" } }]);
    reload(&server, &config(both(), own), "was read again").await;
    assert_eq!(count(&mut ida).await, 1);
    reload(
        &server,
        &config(both(), json!([{ "role": "admin", "allow": "*" }])),
        "was read again",
    )
    .await;
    assert_eq!(code_of(&mut ida, "store.count", json!({ "bucket": "tasks" })).await, "FORBIDDEN");
}

#[tokio::test]
async fn whoever_removes_the_last_rule_allows_nothing_by_it() {
    let server = TestServer::start(config(both(), all_for_everybody())).await;
    let mut ada = login(&server, ADA).await;
    let count = async |ada: &mut TestClient| code_of(ada, "store.count", json!({ "bucket": "tasks" })).await;
    assert_eq!(count(&mut ada).await, Value::Null);
    reload(&server, &config(both(), json!([])), "was read again").await;
    assert_eq!(count(&mut ada).await, "FORBIDDEN");
    // Where no rules are given, built-in roles decide.
    let mut without = config(both(), json!([]));
    without["auth"]["permissions"] = json!({});
    reload(&server, &without, "was read again").await;
    assert_eq!(count(&mut ada).await, Value::Null);
}

#[tokio::test]
async fn a_file_with_faults_changes_nothing_and_all_faults_are_logged() {
    let server = TestServer::start(config(both(), all_for_everybody())).await;
    let mut ida = login(&server, IDA).await;
    let mut faulty = config(json!({ ADA: { "user": "ada" } }), json!([{ "role": "clerk" }]));
    faulty["portt"] = json!(1);
    reload(&server, &faulty, "the configuration stays as it was").await;
    let log = server.stderr();
    for said in ["auth.tokens[0].userId", "auth.permissions.rules[0].allow", "portt: unknown key"] {
        assert!(log.contains(said), "{said}: {log}");
    }
    assert!(!log.contains(ADA), "{log}");
    assert_eq!(code_of(&mut ida, "store.all", json!({ "bucket": "tasks" })).await, Value::Null);
}

#[tokio::test]
async fn what_takes_a_restart_is_named_in_the_log() {
    let server = TestServer::start(config(both(), all_for_everybody())).await;
    let mut other = config(both(), all_for_everybody());
    other["maxPayloadBytes"] = json!(5_000);
    other["auth"]["required"] = json!(false);
    reload(&server, &other, "a restart is needed for auth.required, maxPayloadBytes").await;
}

#[tokio::test]
async fn the_secret_of_signed_tokens_is_read_again_from_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secret");
    std::fs::write(&file, "k7-vectors-only-hs256-secret-0123456789abcdef\n").unwrap();
    let token = token_of_the_vectors();
    let config = json!({ "auth": { "jwt": { "secretFile": file } } });
    let server = TestServer::start(config).await;
    let mut client = login(&server, &token).await;
    std::fs::write(&file, "another-secret-of-more-than-thirty-two-bytes").unwrap();
    reload(&server, server.site().config(), "was read again").await;
    assert_eq!(code_of(&mut client, "store.buckets", json!({})).await, "UNAUTHORIZED");
    assert_eq!(code_of(&mut client, "auth.login", json!({ "token": token })).await, "UNAUTHORIZED");
}

fn token_of_the_vectors() -> String {
    let vectors = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/protocol/vectors/auth-jwt.json")).unwrap();
    let vectors: Value = serde_json::from_str(&vectors).unwrap();
    let steps = vectors[0]["steps"].as_array().unwrap();
    steps[0]["send"]["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn without_logins_the_signal_ends_nothing() {
    let server = TestServer::serve(&Site::new(json!({}))).await;
    let mut client = server.connect().await;
    reload(
        &server,
        &json!({ "host": "127.0.0.1", "auth": { "tokens": both() } }),
        "a restart is needed for auth",
    )
    .await;
    assert_eq!(client.call("store.buckets", json!({})).await["type"], "result");
}
