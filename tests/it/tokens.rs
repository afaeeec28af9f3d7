//! Logging in with tokens: on a connection, with the upgrade, and what ends sessions from the outside.

use noex_server::server::config::{AuthConfig, JwtConfig, StaticToken, Storage};
use noex_server::server::{Config, NoexServer, RevocationFilter};
use serde_json::{Value, json};

use crate::support::{Ended, TestClient};

const SECRET: &str = "a secret of tests, and 32 bytes at least";

fn known(token: &str, user: &str, roles: &[&str]) -> StaticToken {
    StaticToken {
        token: token.into(),
        user_id: user.to_owned(),
        roles: roles.iter().map(|&role| role.to_owned()).collect(),
        metadata: serde_json::Map::new(),
        expires_at: None,
    }
}

/// Ida writes, Olga administrates, and whoever has a signed token may come too.
fn auth() -> AuthConfig {
    AuthConfig {
        tokens: vec![
            known("tk-ida-71f3", "ida", &["writer"]),
            known("tk-olga-02aa", "olga", &["admin", "desk"]),
        ],
        jwt: Some(JwtConfig {
            secret: Some(SECRET.into()),
            ..JwtConfig::default()
        }),
        ..AuthConfig::default()
    }
}

async fn start(auth: AuthConfig, change: impl FnOnce(&mut Config)) -> NoexServer {
    let mut config = Config {
        port: 0,
        storage: Storage::Memory,
        auth: Some(auth),
        ..Config::default()
    };
    change(&mut config);
    NoexServer::start(config).await.expect("the server starts")
}

async fn connect(server: &NoexServer) -> TestClient {
    TestClient::connect(server.local_addr().port()).await
}

async fn logged_in(server: &NoexServer, token: &str) -> TestClient {
    let mut client = connect(server).await;
    client.result("auth.login", json!({ "token": token })).await;
    client
}

async fn refused(client: &mut TestClient, operation: &str, fields: Value) -> String {
    let answer = client.call(operation, fields).await;
    format!(
        "{} {}",
        answer["code"].as_str().unwrap_or("?"),
        answer["message"].as_str().unwrap_or("?")
    )
}

#[tokio::test]
async fn a_login_gives_the_rights_of_its_roles_and_a_logout_takes_them_away() {
    let server = start(auth(), |_| {}).await;
    let mut client = connect(&server).await;
    assert_eq!(
        refused(&mut client, "store.buckets", json!({})).await,
        "UNAUTHORIZED Authentication required"
    );
    assert_eq!(
        refused(&mut client, "auth.login", json!({ "token": "TK-IDA-71F3" })).await,
        "UNAUTHORIZED Invalid token"
    );
    let ida = client.result("auth.login", json!({ "token": "tk-ida-71f3" })).await;
    assert_eq!(ida, json!({ "userId": "ida", "roles": ["writer"], "expiresAt": null }));
    assert_eq!(client.result("store.buckets", json!({})).await["count"], 0);
    assert_eq!(
        refused(&mut client, "server.stats", json!({})).await,
        "FORBIDDEN Role level insufficient for server.stats (requires admin)"
    );
    client.result("auth.refresh", json!({ "token": "tk-ida-71f3" })).await;
    assert_eq!(
        refused(&mut client, "auth.refresh", json!({ "token": "tk-olga-02aa" })).await,
        "FORBIDDEN The token belongs to another user"
    );
    client.result("auth.logout", json!({})).await;
    assert_eq!(client.result("auth.whoami", json!({})).await, json!({ "authenticated": false }));
    assert_eq!(
        refused(&mut client, "store.buckets", json!({})).await,
        "UNAUTHORIZED Authentication required"
    );
    server.stop_now().await;
}

#[tokio::test]
async fn a_revoked_user_is_told_closed_and_kept_out_while_others_stay() {
    let server = start(auth(), |_| {}).await;
    let mut ida = [logged_in(&server, "tk-ida-71f3").await, logged_in(&server, "tk-ida-71f3").await];
    let mut olga = logged_in(&server, "tk-olga-02aa").await;
    assert_eq!(server.revoke_session("ida").await.expect("it is stored"), 2);
    for client in &mut ida {
        let notice = client.next().await.expect("a notice");
        assert_eq!(
            notice,
            json!({ "type": "system", "event": "session_revoked", "reason": "Session revoked by administrator" })
        );
        let ended = client.next().await.expect_err("it is closed");
        assert_eq!(
            ended,
            Ended::Closed {
                code: 4002,
                reason: "session_revoked".to_owned()
            }
        );
    }
    let mut again = connect(&server).await;
    assert_eq!(
        refused(&mut again, "auth.login", json!({ "token": "tk-ida-71f3" })).await,
        "SESSION_REVOKED Session has been revoked"
    );
    olga.result("server.stats", json!({})).await;

    let clerks = RevocationFilter {
        role: Some("clerk".to_owned()),
        ..RevocationFilter::default()
    };
    assert_eq!(server.revoke_sessions(&clerks).await.expect("it is stored"), 0);
    let desk = RevocationFilter {
        role: Some("desk".to_owned()),
        ..RevocationFilter::default()
    };
    let other_desk = RevocationFilter {
        user: Some("ida".to_owned()),
        ..desk.clone()
    };
    assert_eq!(server.revoke_sessions(&other_desk).await.expect("it is stored"), 0);
    assert_eq!(server.revoke_sessions(&desk).await.expect("it is stored"), 1);
    olga.next().await.expect("a notice");
    olga.next().await.expect_err("it is closed");
    server.stop_now().await;
}
