//! What happens on the port before there is a WebSocket connection.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::support::{Ended, OpenError, TestClient, TestServer};

const PATIENCE: Duration = Duration::from_secs(10);

/// Sends a request as it is and returns all that comes back until the server closes or falls silent after a full head.
async fn exchange(port: u16, request: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.expect("a connection");
    stream.write_all(request.as_bytes()).await.expect("the request can be sent");
    let mut answer = Vec::new();
    let read = async {
        let mut chunk = [0; 1024];
        while !answer.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
            match stream.read(&mut chunk).await {
                Ok(length @ 1..) => answer.extend_from_slice(&chunk[..length]),
                Ok(0) | Err(_) => break,
            }
        }
    };
    timeout(PATIENCE, read).await.expect("the server answers at once");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_plain_request_is_told_to_upgrade_on_the_path_and_is_not_found_elsewhere() {
    let server = TestServer::start(json!({ "path": "/live" })).await;
    let answer = exchange(server.port(), "GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 426"), "{answer}");
    assert!(answer.to_ascii_lowercase().contains("upgrade: websocket"), "{answer}");
    for path in ["/", "/live/", "/nowhere"] {
        let answer = exchange(server.port(), &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
    }
}

#[tokio::test]
async fn a_malformed_handshake_is_answered_and_harms_nobody() {
    let server = TestServer::start(json!({})).await;
    let head = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
    let long_header = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(1_000_000));
    for request in [
        &format!("{head}Sec-WebSocket-Version: 13\r\n\r\n"),
        &format!("{head}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short\r\n\r\n"),
        &format!("{head}Sec-WebSocket-Version: 7\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"),
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n",
        "\u{0}\u{1}\u{2}\r\n\r\n",
    ] {
        let answer = exchange(server.port(), request).await;
        assert!(answer.starts_with("HTTP/1.1 4"), "{request:?}: {answer:?}");
    }
    // The server may hang up before it has read all of this one, which loses its answer.
    let mut stream = TcpStream::connect(("127.0.0.1", server.port())).await.expect("a connection");
    let _hung_up = stream.write_all(long_header.as_bytes()).await;

    let mut client = server.connect().await;
    assert_eq!(client.result("store.buckets", json!({})).await["count"], 0);
}

#[tokio::test]
async fn an_origin_that_is_not_allowed_is_forbidden() {
    let server = TestServer::start(json!({ "allowedOrigins": ["https://app.example"] })).await;
    let from = |origin: &str| [("Origin".to_owned(), origin.to_owned())];
    for origin in ["https://evil.example", "https://APP.example", "https://app.example:8443", "null"] {
        let refused = TestClient::open(server.port(), "/", &from(origin)).await.err();
        assert!(matches!(refused, Some(OpenError::Status(403))), "{origin}: {refused:?}");
    }
    TestClient::open(server.port(), "/", &from("https://app.example"))
        .await
        .expect("the origin is allowed");
    TestClient::open(server.port(), "/", &[]).await.expect("no browser, no origin");
}

#[tokio::test]
async fn beyond_the_limit_of_an_address_a_connection_is_closed_without_a_welcome() {
    let server = TestServer::start(json!({ "maxConnectionsPerIp": 1 })).await;
    let first = server.connect().await;
    let mut second = TestClient::open(server.port(), "/", &[])
        .await
        .expect("the upgrade itself succeeds");
    let ended = second.next().await.expect_err("the first thing to come is the end");
    assert_eq!(
        ended,
        Ended::Closed {
            code: 4003,
            reason: "too_many_connections".to_owned()
        }
    );
    drop(first);
}

#[tokio::test]
async fn beyond_the_limit_of_all_connections_the_answer_is_503() {
    let server = TestServer::start(json!({ "maxConnections": 1 })).await;
    let first = server.connect().await;
    let refused = TestClient::open(server.port(), "/", &[]).await.err();
    assert!(matches!(refused, Some(OpenError::Status(503))), "{refused:?}");
    drop(first);
}

#[tokio::test]
async fn a_connection_that_breaks_off_in_the_middle_takes_nobody_along() {
    let server = TestServer::start(json!({})).await;
    let mut stays = server.connect().await;
    for _ in 0..20 {
        let mut leaves = server.connect().await;
        // The head of a masked text frame of 125 bytes, and then nothing.
        leaves.send_bytes(&[0x81, 0xfd]).await.expect("the bytes can be sent");
    }
    assert_eq!(stays.result("store.buckets", json!({})).await["count"], 0);
    let still_open = stays.end_by(Instant::now() + Duration::from_millis(100)).await;
    assert_eq!(still_open, None);
}
