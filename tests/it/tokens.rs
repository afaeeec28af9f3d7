//! Logging in with tokens: on a connection, with the upgrade, and what ends sessions from the outside.

use std::process::Stdio;
use std::time::Duration;

use noex_server::server::config::{AuthConfig, JwtAlgorithm, JwtConfig, RateLimitConfig, StaticToken, Storage, TokenValidator};
use noex_server::server::{Config, NoexServer, RevocationFilter};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::support::{Ended, OpenError, Site, TestClient, TestServer};

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

#[tokio::test]
async fn a_token_may_come_with_the_upgrade_in_the_header_or_in_the_query() {
    let server = start(auth(), |_| {}).await;
    let port = server.local_addr().port();
    let bearer = |token: &str| [("Authorization".to_owned(), format!("Bearer {token}"))];
    for (path, headers) in [
        ("/", &bearer("tk-ida-71f3")[..]),
        ("/?token=tk-ida-71f3", &[][..]),
        ("/?x=1&token=tk%2Dida-71f3", &bearer("tk-ida-71f3")[..]),
    ] {
        let mut client = TestClient::open(port, path, headers).await.expect("the token is good");
        client.next().await.expect("a welcome");
        // The very first request is carried out.
        assert_eq!(client.result("store.buckets", json!({})).await["count"], 0);
        assert_eq!(client.result("auth.whoami", json!({})).await["userId"], "ida");
    }
    for (path, headers, status) in [
        ("/", &bearer("tk-ida-71f4")[..], 401),
        ("/?token=nobody", &[][..], 401),
        ("/?token=", &[][..], 400),
        ("/?token=tk-ida-71f3&token=tk-ida-71f3", &[][..], 400),
        ("/?token=tk-ida-71f3", &bearer("tk-olga-02aa")[..], 400),
        ("/", &bearer("tk-ida-71f3 x")[..], 400),
    ] {
        let refused = TestClient::open(port, path, headers).await.err();
        assert!(
            matches!(refused, Some(OpenError::Status(it)) if it == status),
            "{path} {headers:?}: {refused:?}"
        );
    }
    server.revoke_session("ida").await.expect("it is stored");
    let refused = TestClient::open(port, "/", &bearer("tk-ida-71f3")).await.err();
    assert!(matches!(refused, Some(OpenError::Status(401))), "{refused:?}");
    server.stop_now().await;
}

#[tokio::test]
async fn a_refused_upgrade_says_how_to_authenticate_and_counts_against_the_address() {
    let limit = RateLimitConfig {
        refused: Some(3),
        ..RateLimitConfig::default()
    };
    let server = start(auth(), |config| config.rate_limit = Some(limit)).await;
    let upgrade = |query: &str| {
        format!(
            "GET /{query} HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
    };
    for _ in 0..3 {
        let answer = exchange(&server, &upgrade("?token=wrong")).await;
        assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
        assert!(answer.to_ascii_lowercase().contains("www-authenticate: bearer"), "{answer}");
        assert!(!answer.contains("wrong"), "{answer}");
    }
    let answer = exchange(&server, &upgrade("?token=wrong")).await;
    assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("retry-after:"), "{answer}");
    let answer = exchange(&server, &upgrade("?token=tk-ida-71f3")).await;
    assert!(answer.starts_with("HTTP/1.1 101"), "a good token still is one: {answer}");
    server.stop_now().await;
}

#[tokio::test]
async fn a_token_is_not_looked_at_where_nobody_is_asked() {
    let server = start(auth(), |config| config.auth = None).await;
    let mut client = TestClient::open(server.local_addr().port(), "/?token=", &[])
        .await
        .expect("any upgrade will do");
    client.next().await.expect("a welcome");
    client.result("store.buckets", json!({})).await;
    let answer = exchange(&server, "POST /api/token HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    server.stop_now().await;
}

#[tokio::test]
async fn an_upgrade_whose_token_takes_too_long_to_look_at_is_given_up() {
    let never = TokenValidator::new(|_| std::future::pending());
    let slow = AuthConfig {
        validate: Some(never),
        ..AuthConfig::default()
    };
    let server = start(slow, |config| {
        config.connection_limits.handshake_timeout = Duration::from_millis(50)
    })
    .await;
    let refused = TestClient::open(server.local_addr().port(), "/?token=x", &[]).await.err();
    assert!(matches!(refused, Some(OpenError::Failed(_))), "{refused:?}");
    assert_eq!(server.connection_count(), 0);
    server.stop_now().await;
}

/// Sends a request as it is, and reads all that comes back.
async fn exchange(server: &NoexServer, request: &str) -> String {
    let mut stream = TcpStream::connect(server.local_addr()).await.expect("a connection");
    stream.write_all(request.as_bytes()).await.expect("the request can be sent");
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    // An upgrade leaves the stream open.
    while !(answer.starts_with(b"HTTP/1.1 101") && answer.windows(4).any(|bytes| bytes == b"\r\n\r\n")) {
        let reading = tokio::time::timeout(Duration::from_secs(10), stream.read(&mut chunk)).await;
        match reading.expect("the server answers") {
            Ok(length @ 1..) => answer.extend_from_slice(&chunk[..length]),
            Ok(0) | Err(_) => break,
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Asks for a token. Gives the status and the body.
async fn order(server: &NoexServer, token: Option<&str>, body: &str) -> (u16, Value) {
    let authorization = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let length = body.len();
    let request = format!(
        "POST /api/token HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{authorization}\r\n{body}"
    );
    let answer = exchange(server, &request).await;
    let status = answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_default();
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
    (status, serde_json::from_str(body).unwrap_or_default())
}

#[tokio::test]
async fn an_administrator_has_tokens_made_that_log_in_and_nobody_else_has() {
    let server = start(auth(), |_| {}).await;
    let body = r#"{"sub":"rune","roles":["reader"],"expiresIn":"1h"}"#;
    let (status, minted) = order(&server, Some("tk-olga-02aa"), body).await;
    assert_eq!(status, 200, "{minted}");
    let mut rune = logged_in(&server, minted["token"].as_str().expect("a token")).await;
    let who = rune.result("auth.whoami", json!({})).await;
    assert_eq!(
        who,
        json!({ "authenticated": true, "userId": "rune", "roles": ["reader"], "expiresAt": minted["expiresAt"] })
    );
    for (token, body, expected, code) in [
        (None, body, 401, "UNAUTHORIZED"),
        (Some("nobody"), body, 401, "UNAUTHORIZED"),
        (Some("tk-ida-71f3"), body, 403, "FORBIDDEN"),
        (minted["token"].as_str(), body, 403, "FORBIDDEN"),
        (Some("tk-olga-02aa"), "{", 400, "VALIDATION_ERROR"),
        (Some("tk-olga-02aa"), r#"{"sub":""}"#, 400, "VALIDATION_ERROR"),
        (
            Some("tk-olga-02aa"),
            &format!("[\"{}\"]", "x".repeat(20_000)),
            413,
            "INVALID_REQUEST",
        ),
    ] {
        let (status, answer) = order(&server, token, body).await;
        assert_eq!((status, answer["code"].as_str()), (expected, Some(code)), "{token:?} {answer}");
    }
    let mut unsigned = auth();
    unsigned.jwt = None;
    let other = start(unsigned, |_| {}).await;
    let (status, answer) = order(&other, Some("tk-olga-02aa"), body).await;
    assert_eq!((status, answer["code"].as_str()), (404, Some("NOT_FOUND")));
    server.stop_now().await;
    other.stop_now().await;
}

#[tokio::test]
async fn a_request_for_a_token_must_have_the_form_of_one_and_counts_against_the_quota() {
    let limit = RateLimitConfig {
        max_requests: 4,
        ..RateLimitConfig::default()
    };
    let server = start(auth(), |config| config.rate_limit = Some(limit)).await;
    let head = "HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer tk-olga-02aa\r\n";
    for (request, status) in [
        (format!("GET /api/token {head}\r\n"), "405"),
        (format!("POST /api/token {head}Content-Length: 2\r\n\r\n{{}}"), "415"),
        (
            format!("POST /api/token {head}Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{{}}"),
            "415",
        ),
        // Of a token in the query nothing is known here.
        (
            "POST /api/token?token=tk-olga-02aa HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n".to_owned(),
            "401",
        ),
    ] {
        let answer = exchange(&server, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request}: {answer}");
        assert!(answer.contains("application/json"), "{answer}");
    }
    let body = r#"{"sub":"ida"}"#;
    assert_eq!(order(&server, Some("tk-olga-02aa"), body).await.0, 200);
    assert_eq!(order(&server, Some("tk-olga-02aa"), body).await.0, 429);
    server.stop_now().await;
}

#[tokio::test]
async fn a_body_that_is_malformed_is_not_said_to_be_too_large() {
    let server = start(auth(), |_| {}).await;
    let head = "HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer tk-olga-02aa\r\nContent-Type: application/json\r\n";
    let request = format!("POST /api/token {head}Transfer-Encoding: chunked\r\n\r\nzz\r\n{{}}\r\n0\r\n\r\n");
    let answer = exchange(&server, &request).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(answer.contains("VALIDATION_ERROR"), "{answer}");
    server.stop_now().await;
}

fn key(name: &str) -> String {
    format!("{}/src/server/access/tokens/test_keys/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Runs `noex-server token`. Gives the exit status, and what was said where.
async fn mint(arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_noex-server"));
    command.arg("token").args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    command.env_remove("NOEX_JWT_SECRET").envs(variables.iter().copied());
    let output = command.output().await.expect("the program can be started");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn the_program_makes_tokens_that_the_server_takes() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config.json");
    let jwt = json!({ "secretEnv": "MY_SECRET", "issuer": "https://i.example", "audience": "noex", "userClaim": "email" });
    std::fs::write(&file, json!({ "auth": { "jwt": jwt } }).to_string()).expect("a file");
    let file = file.to_str().expect("a path");
    let hs256 = JwtConfig {
        secret: Some(SECRET.into()),
        ..JwtConfig::default()
    };
    let configured = JwtConfig {
        issuer: Some("https://i.example".to_owned()),
        audience: Some("noex".to_owned()),
        user_claim: "email".to_owned(),
        ..hs256.clone()
    };
    let public = |algorithm, name: &str| JwtConfig {
        algorithms: vec![algorithm],
        public_key_file: Some(key(name).into()),
        ..JwtConfig::default()
    };
    let by = |name: &str| vec!["--key-file".to_owned(), key(name)];
    for (arguments, variables, jwt) in [
        (vec![], &[("NOEX_JWT_SECRET", SECRET)], hs256),
        (vec!["--config".to_owned(), file.to_owned()], &[("MY_SECRET", SECRET)], configured),
        (by("rsa.pem"), &[("X", "")], public(JwtAlgorithm::Rs256, "rsa.pub.pem")),
        (by("rsa-pkcs1.pem"), &[("X", "")], public(JwtAlgorithm::Rs256, "rsa.pub.pem")),
        (by("ec.pem"), &[("X", "")], public(JwtAlgorithm::Es256, "ec.pub.pem")),
        (by("ed.pem"), &[("X", "")], public(JwtAlgorithm::EdDsa, "ed.pub.pem")),
    ] {
        let fixed = [
            "--sub",
            "ida",
            "--role",
            "writer",
            "--role",
            "desk",
            "--expires",
            "15m",
            "--claim",
            "level=3",
        ];
        let arguments: Vec<&str> = fixed.into_iter().chain(arguments.iter().map(String::as_str)).collect();
        let (status, token, problem) = mint(&arguments, variables).await;
        assert_eq!(status, Some(0), "{arguments:?}: {problem}");
        let server = start(
            AuthConfig {
                jwt: Some(jwt),
                ..AuthConfig::default()
            },
            |_| {},
        )
        .await;
        let mut client = logged_in(&server, &token).await;
        let who = client.result("auth.whoami", json!({})).await;
        assert_eq!((&who["userId"], &who["roles"]), (&json!("ida"), &json!(["writer", "desk"])));
        server.stop_now().await;
    }
}

#[tokio::test]
async fn the_program_says_what_a_token_lacks_and_nothing_of_secrets() {
    let short = "a secret too short to be one";
    let (rsa_public, sec1) = (key("rsa.pub.pem"), key("ec-sec1.pem"));
    for (arguments, secret, says) in [
        (&["--sub", "ida"][..], None, "NOEX_JWT_SECRET"),
        (&["--sub", "ida"], Some(short), "at least 32 bytes"),
        (&["--sub", ""], Some(SECRET), "--sub"),
        (&[], Some(SECRET), "--sub"),
        (&["--sub", "ida", "--expires", "soon"], Some(SECRET), "--expires"),
        (&["--sub", "ida", "--expires", "0h"], Some(SECRET), "--expires"),
        (&["--sub", "ida", "--claim", "exp=5"], Some(SECRET), "\"exp\""),
        (&["--sub", "ida", "--claim", "x"], Some(SECRET), "NAME=VALUE"),
        (
            &["--sub", "ida", "--key-file", "/no/such/key.pem"],
            Some(SECRET),
            "/no/such/key.pem",
        ),
        (&["--sub", "ida", "--key-file", &rsa_public], Some(SECRET), "private key"),
        (&["--sub", "ida", "--key-file", &sec1], Some(SECRET), "pkcs8"),
        (&["--sub", "ida", "--port", "1"], Some(SECRET), "--port"),
    ] {
        let variables: Vec<_> = secret.iter().map(|&secret| ("NOEX_JWT_SECRET", secret)).collect();
        let (status, token, problem) = mint(arguments, &variables).await;
        assert_eq!((status, token.as_str()), (Some(2), ""), "{arguments:?}: {problem}");
        assert!(problem.contains(says), "{arguments:?}: {problem}");
        assert!(secret.is_none_or(|secret| !problem.contains(secret)), "{problem}");
    }
}

#[tokio::test]
async fn no_token_and_no_secret_is_ever_logged() {
    let site = Site::new(json!({
        "auth": { "jwt": { "secretEnv": "MY_SECRET" }, "tokens": { "tk-ida-71f3": { "userId": "ida", "roles": ["admin"] } } },
        "rateLimit": { "maxRequests": 100, "refused": 2 },
        "logLevel": "trace",
    }));
    let mut command = site.command();
    command.env("MY_SECRET", SECRET);
    let mut server = TestServer::launch_command(command, &site).await.expect("it starts");
    let port = server.port();
    let (_, signed, _) = mint(&["--sub", "rune", "--role", "reader"], &[("NOEX_JWT_SECRET", SECRET)]).await;
    for path in [
        "/?token=tk-ida-71f3".to_owned(),
        format!("/?token={signed}"),
        format!("/nowhere?token={signed}"),
        "/?token=forged-01&token=forged-02".to_owned(),
        "/?token=forged-03".to_owned(),
        "/?token=forged-04".to_owned(),
        "/?token=forged-05".to_owned(),
        format!("/?token=forged-06{}", "x".repeat(20_000)),
        "/?token=forged-07\u{7f}".replace('\u{7f}', "%00"),
    ] {
        let _ = TestClient::open(port, &path, &[]).await;
    }
    let mut client = TestClient::connect(port).await;
    for token in ["tk-ida-71f3", &signed, "forged-08"] {
        client.call("auth.login", json!({ "token": token })).await;
        client.call("store.get", json!({ "bucket": "b", "key": token })).await;
    }
    // A request line that is none, with a token in it.
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("a connection");
    stream
        .write_all(b"GET /?token=forged-09 \x01 HTTP/9.9\r\n\r\n")
        .await
        .expect("it can be sent");
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(!String::from_utf8_lossy(&rest).contains("forged"));
    drop(client);
    server.signal("TERM");
    assert!(server.exit(Duration::from_secs(20)).await.is_some());
    let reading = async {
        while !server.stderr().contains(" stopped") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), reading)
        .await
        .expect("the log is read to its end");
    let logged = server.stderr();
    assert!(
        logged.contains("TRACE") || logged.contains("DEBUG"),
        "it is logged in detail: {logged}"
    );
    for secret in ["tk-ida-71f3", &signed, "forged-", SECRET] {
        let line = logged.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret} is in the log");
    }
}
