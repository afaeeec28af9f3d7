//! A function of the embedding program that is asked before the permission rules are.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use noex_server::server::config::{AuthConfig, PermissionCheck, PermissionRule, PermissionsConfig, RateLimitConfig, StaticToken, Storage};
use noex_server::server::{Config, NoexServer};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::support::TestClient;

fn known(token: &str, roles: &[&str]) -> StaticToken {
    StaticToken {
        token: token.into(),
        user_id: token.to_owned(),
        roles: roles.iter().map(|&role| role.to_owned()).collect(),
        metadata: serde_json::Map::new(),
        expires_at: None,
    }
}

async fn start(check: PermissionCheck, rules: &[Value], change: impl FnOnce(&mut Config)) -> NoexServer {
    let schema = json!({ "key": "id", "schema": { "id": { "type": "string" } } });
    let bucket = || schema.as_object().cloned().expect("an object");
    let query = |bucket: &str| json!({ "bucket": bucket }).as_object().cloned().expect("an object");
    let mut config = Config {
        port: 0,
        storage: Storage::Memory,
        buckets: ["orders", "salaries", "slow", "panic"]
            .map(|name| (name.into(), bucket()))
            .into_iter()
            .collect(),
        queries: [("q", "orders"), ("orders", "salaries")]
            .map(|(name, bucket)| (name.into(), query(bucket)))
            .into_iter()
            .collect(),
        auth: Some(AuthConfig {
            required: false,
            tokens: vec![
                known("clerk", &["clerk"]),
                known("other", &["clerk"]),
                known("rita", &["reader"]),
                known("walt", &["writer"]),
            ],
            permissions: Some(PermissionsConfig {
                rules: (!rules.is_empty()).then(|| rules.iter().map(|rule| PermissionRule::parse(rule).expect("a rule")).collect()),
                check: Some(check),
                ..PermissionsConfig::default()
            }),
            ..AuthConfig::default()
        }),
        ..Config::default()
    };
    change(&mut config);
    NoexServer::start(config).await.expect("the server starts")
}

/// Orders are for everybody, salaries for nobody; about others nothing is said.
fn by_bucket() -> PermissionCheck {
    PermissionCheck::new(|_, _, target| async move {
        match target.as_str() {
            "orders" => Some(true),
            "salaries" => Some(false),
            "panic" => panic!("a fault of the program"),
            _ => None,
        }
    })
}

async fn logged_in(server: &NoexServer, token: &str) -> TestClient {
    let mut client = TestClient::connect(server.local_addr().port()).await;
    client.result("auth.login", json!({ "token": token })).await;
    client
}

/// The code of an answer; of a result, `ok`.
async fn outcome(client: &mut TestClient, operation: &str, fields: Value) -> String {
    let answer = client.call(operation, fields).await;
    answer["code"].as_str().unwrap_or("ok").to_owned()
}

#[tokio::test]
async fn what_it_says_is_final_and_where_it_says_nothing_the_rules_decide() {
    let rules = [json!({ "role": "clerk", "allow": "store.get", "buckets": ["slow", "salaries"] })];
    let server = start(by_bucket(), &rules, |_| {}).await;
    let mut clerk = logged_in(&server, "clerk").await;
    for (operation, bucket, expected) in [
        ("store.get", "orders", "ok"),
        ("store.count", "orders", "ok"),
        ("store.get", "salaries", "FORBIDDEN"),
        ("store.get", "slow", "ok"),
        ("store.count", "slow", "FORBIDDEN"),
        ("store.get", "orders", "ok"),
    ] {
        let answer = outcome(&mut clerk, operation, json!({ "bucket": bucket, "key": "x" })).await;
        assert_eq!(answer, expected, "{operation} {bucket}");
    }
    server.stop_now().await;
}

#[tokio::test]
async fn it_lifts_nobody_above_a_tier_and_is_not_asked_about_strangers() {
    let server = start(by_bucket(), &[], |_| {}).await;
    let mut rita = logged_in(&server, "rita").await;
    let insert = json!({ "bucket": "orders", "data": { "id": "a" } });
    assert_eq!(outcome(&mut rita, "store.insert", insert.clone()).await, "FORBIDDEN");
    assert_eq!(outcome(&mut rita, "store.count", json!({ "bucket": "orders" })).await, "ok");
    let mut stranger = TestClient::connect(server.local_addr().port()).await;
    assert_eq!(
        outcome(&mut stranger, "store.count", json!({ "bucket": "orders" })).await,
        "UNAUTHORIZED"
    );
    server.stop_now().await;
}

#[tokio::test]
async fn it_is_asked_about_every_element_of_a_transaction_and_the_bucket_behind_a_query() {
    let server = start(by_bucket(), &[], |_| {}).await;
    let mut clerk = logged_in(&server, "clerk").await;
    let count = |bucket: &str| json!({ "op": "count", "bucket": bucket });
    let transaction =
        |buckets: &[&str]| json!({ "operations": buckets.iter().map(|bucket| count(bucket)).collect::<Vec<_>>(), "bucket": "orders" });
    assert_eq!(
        outcome(&mut clerk, "store.transaction", transaction(&["orders", "orders"])).await,
        "ok"
    );
    assert_eq!(
        outcome(&mut clerk, "store.transaction", transaction(&["orders", "salaries"])).await,
        "FORBIDDEN"
    );
    assert_eq!(outcome(&mut clerk, "store.runQuery", json!({ "query": "q" })).await, "ok");
    // Its name is that of a bucket that is allowed; it reads another one.
    assert_eq!(
        outcome(&mut clerk, "store.runQuery", json!({ "query": "orders" })).await,
        "FORBIDDEN"
    );
    let names: Vec<String> = (0..300).map(|number| format!("b{number}")).collect();
    let many: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(
        outcome(&mut clerk, "store.transaction", transaction(&many)).await,
        "VALIDATION_ERROR"
    );
    server.stop_now().await;
}

#[tokio::test]
async fn a_panic_in_it_allows_nothing_and_harms_nobody() {
    let everything = [json!({ "role": "clerk", "allow": "*" })];
    let server = start(by_bucket(), &everything, |_| {}).await;
    let mut clerk = logged_in(&server, "clerk").await;
    for _ in 0..3 {
        let answer = clerk.call("store.count", json!({ "bucket": "panic" })).await;
        assert_eq!(
            (&answer["code"], &answer["message"]),
            (&json!("INTERNAL_ERROR"), &json!("Internal server error"))
        );
    }
    assert_eq!(outcome(&mut clerk, "store.count", json!({ "bucket": "orders" })).await, "ok");
    server.stop_now().await;
}

#[tokio::test]
async fn while_it_takes_its_time_the_connection_waits_in_order_and_others_do_not() {
    let gate = Arc::new(Semaphore::new(0));
    let check = {
        let gate = Arc::clone(&gate);
        PermissionCheck::new(move |_, _, target| {
            let gate = Arc::clone(&gate);
            async move {
                if target == "slow" {
                    gate.acquire().await.expect("it is open").forget();
                }
                Some(true)
            }
        })
    };
    let server = start(check, &[], |_| {}).await;
    let (mut walt, mut clerk) = (logged_in(&server, "walt").await, logged_in(&server, "clerk").await);
    let insert = |bucket: &str, id: &str| json!({ "bucket": bucket, "data": { "id": id } });
    let mut ids = Vec::new();
    for (bucket, id) in [("orders", "a"), ("slow", "b"), ("orders", "c"), ("slow", "d"), ("orders", "e")] {
        ids.push(walt.request("store.insert", insert(bucket, id)).await.expect("it can be sent"));
    }
    let first = walt.next().await.expect("an answer");
    assert_eq!(first["id"], ids[0]);
    assert_eq!(clerk.result("store.count", json!({ "bucket": "orders" })).await, 1);
    gate.add_permits(1);
    for id in &ids[1..3] {
        assert_eq!(walt.next().await.expect("an answer")["id"], *id);
    }
    assert_eq!(clerk.result("store.count", json!({ "bucket": "orders" })).await, 2);
    gate.add_permits(1);
    for id in &ids[3..] {
        assert_eq!(walt.next().await.expect("an answer")["id"], *id);
    }
    // A batch is one answer, and each of its requests is asked about.
    gate.add_permits(1);
    let requests = json!([
        { "id": 1, "type": "store.count", "bucket": "slow" },
        { "id": 2, "type": "store.count", "bucket": "orders" },
    ]);
    let answers = walt.result("batch", json!({ "requests": requests })).await;
    assert_eq!((&answers[0]["data"], &answers[1]["data"]), (&json!(2), &json!(3)));
    // Somebody who goes while it is asked leaves nothing behind.
    walt.request("store.count", json!({ "bucket": "slow" }))
        .await
        .expect("it can be sent");
    clerk.result("store.count", json!({ "bucket": "orders" })).await;
    drop(walt);
    server.stop_now().await;
    assert_eq!(server.connection_count(), 0);
}

#[tokio::test]
async fn a_request_is_asked_about_once_and_counts_once() {
    let asked = Arc::new(AtomicUsize::new(0));
    let check = {
        let asked = Arc::clone(&asked);
        PermissionCheck::new(move |_, _, _| {
            asked.fetch_add(1, Ordering::Relaxed);
            async { Some(true) }
        })
    };
    let limit = RateLimitConfig {
        max_requests: 3,
        ..RateLimitConfig::default()
    };
    let server = start(check, &[], |config| config.rate_limit = Some(limit)).await;
    let mut clerk = logged_in(&server, "clerk").await;
    for _ in 0..3 {
        assert_eq!(outcome(&mut clerk, "store.count", json!({ "bucket": "orders" })).await, "ok");
    }
    assert_eq!(
        asked.load(Ordering::Relaxed),
        3,
        "what was said of one request is not said of the next"
    );
    assert_eq!(
        outcome(&mut clerk, "store.count", json!({ "bucket": "orders" })).await,
        "RATE_LIMITED"
    );
    server.stop_now().await;
}

#[tokio::test]
async fn a_subscription_that_it_has_allowed_goes_on_until_somebody_else_logs_in() {
    let server = start(by_bucket(), &[], |_| {}).await;
    let (mut clerk, mut walt) = (logged_in(&server, "clerk").await, logged_in(&server, "walt").await);
    clerk.result("store.subscribe", json!({ "query": "q" })).await;
    assert_eq!(
        outcome(&mut clerk, "store.subscribe", json!({ "query": "orders" })).await,
        "FORBIDDEN"
    );
    walt.result("store.insert", json!({ "bucket": "orders", "data": { "id": "a" } }))
        .await;
    assert_eq!(clerk.expect_push().await["data"][0]["id"], "a");
    // Somebody else's revocation changes nothing about it.
    server.revoke_session("rita").await.expect("it is stored");
    clerk.result("auth.refresh", json!({ "token": "clerk" })).await;
    walt.result("store.insert", json!({ "bucket": "orders", "data": { "id": "b" } }))
        .await;
    assert_eq!(clerk.expect_push().await["data"][1]["id"], "b");
    clerk
        .request("auth.login", json!({ "token": "other" }))
        .await
        .expect("it can be sent");
    let notice = clerk.receive(|message| message["type"] == "system").await.expect("a notice");
    assert_eq!(
        (&notice["event"], &notice["reason"]),
        (&json!("subscription_ended"), &json!("user_changed"))
    );
    server.stop_now().await;
}

#[tokio::test]
async fn what_is_shown_as_a_whole_is_asked_about_as_a_whole() {
    let check = PermissionCheck::new(|_, operation, target| async move { (operation == "store.buckets" && target == "*").then_some(true) });
    let server = start(
        check,
        &[json!({ "role": "clerk", "allow": ["store.stats"], "buckets": ["orders"] })],
        |_| {},
    )
    .await;
    let mut clerk = logged_in(&server, "clerk").await;
    assert_eq!(clerk.result("store.buckets", json!({})).await["count"], 4);
    assert_eq!(outcome(&mut clerk, "store.stats", json!({})).await, "ok");
    assert_eq!(outcome(&mut clerk, "store.listQueries", json!({})).await, "FORBIDDEN");
    server.stop_now().await;
}
