//! Listener, supervision and shutdown over real sockets, with sessions that answer when the test says so.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use ractor::ActorCell;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::config::RateLimitConfig;
use super::connection::fake_session::{Script, answer};
use super::connection::heartbeat::HeartbeatQueue;
use super::connection::registry::Registry;
use super::connection::{Connections, Limits};
use super::listener::{Gate, Reception};
use super::statistics::{Count, Counters};
use super::{Config, shutdown, supervisor};
use crate::protocol::CloseCode;

type Client = WebSocketStream<TcpStream>;

/// A server without a store.
struct TestServer {
    gate: Arc<Gate>,
    registry: Arc<Registry>,
    script: Arc<Script>,
    root: ActorCell,
    hurry: watch::Sender<bool>,
    counters: Arc<Counters>,
}

impl TestServer {
    async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config {
            path: "/ws".to_owned(),
            ..Config::default()
        };
        change(&mut config);
        let gate = Arc::new(Gate::open("127.0.0.1", 0).await.expect("a free port"));
        let registry = Registry::new(config.max_connections, config.max_connections_per_ip);
        let script = Arc::new(Script::default());
        let counters = Arc::new(Counters::default());
        let connections = Connections {
            farewells: Arc::new(tokio::sync::Semaphore::new(super::connection::FAREWELLS_MAX)),
            sessions: Arc::clone(&script),
            registry: Arc::clone(&registry),
            heartbeat: Arc::new(HeartbeatQueue::new(config.heartbeat.interval, config.heartbeat.timeout)),
            limits: Limits::from(&config),
            counters: Arc::clone(&counters),
        };
        let reception = Reception {
            gate: Arc::clone(&gate),
            endpoint: (&config).into(),
            gatekeeper: (&config).into(),
            authority: Arc::new(super::access::Open),
            accepts_per_second: config.connection_limits.max_accepts_per_second,
            handshake_timeout: config.connection_limits.handshake_timeout,
            handshakes_max: config.max_connections,
            connections,
        };
        let root = supervisor::start(Arc::new(reception)).await.expect("the tree starts");
        Self {
            gate,
            registry,
            script,
            root,
            hurry: watch::Sender::new(false),
            counters,
        }
    }

    fn address(&self) -> SocketAddr {
        self.gate.local_address()
    }

    async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.address()).await.expect("the server listens")
    }

    /// Connects from this address of the machine.
    #[cfg(target_os = "linux")]
    async fn tcp_from(&self, address: [u8; 4]) -> TcpStream {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind((address, 0).into()).expect("an address of this machine");
        socket.connect(self.address()).await.expect("the server listens")
    }

    async fn try_connect(&self) -> Result<Client, Error> {
        self.upgrade(TcpStream::connect(self.address()).await?).await
    }

    async fn upgrade(&self, stream: TcpStream) -> Result<Client, Error> {
        Ok(tokio_tungstenite::client_async(format!("ws://{}/ws", self.address()), stream)
            .await?
            .0)
    }

    /// A connection whose welcome has been read.
    async fn connect(&self) -> Client {
        let mut client = self.try_connect().await.expect("the upgrade goes ahead");
        let welcome = client.next().await.expect("a welcome").expect("a sound frame");
        assert!(
            welcome.to_text().is_ok_and(|text| text.contains(r#""type":"welcome""#)),
            "{welcome}"
        );
        client
    }

    /// Sends the text of an HTTP request and reads up to the end of the stream.
    async fn http(&self, request: &str) -> String {
        let mut stream = self.tcp().await;
        stream.write_all(request.as_bytes()).await.expect("the stream is open");
        let mut response = String::new();
        stream.read_to_string(&mut response).await.expect("the server ends it");
        response
    }

    async fn stop(&self, grace: Duration) {
        shutdown::drain(&self.gate, &self.registry, grace, self.hurry.subscribe()).await;
    }

    /// Waits until the server has noticed that nobody is there.
    async fn emptied(&self) {
        timeout(Duration::from_secs(5), self.registry.emptied())
            .await
            .expect("every seat is given back");
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.root.kill();
    }
}

async fn request(client: &mut Client, id: i64, name: &str) {
    client
        .send(Message::text(format!("{{\"id\":{id},\"type\":\"{name}\"}}")))
        .await
        .expect("the connection is open");
}

async fn text(client: &mut Client) -> String {
    let message = client.next().await.expect("the connection is open").expect("a sound frame");
    let Message::Text(text) = message else {
        panic!("{message:?} is no text")
    };
    text.as_str().to_owned()
}

/// Asks something and waits for the answer.
async fn check_served(client: &mut Client) {
    request(client, 7, "store.get").await;
    assert_eq!(text(client).await.as_bytes(), answer(7));
}

async fn close_code(client: &mut Client) -> (u16, String) {
    let message = client.next().await.expect("a close frame").expect("a sound frame");
    let Message::Close(Some(frame)) = message else {
        panic!("{message:?} is no close frame with a code")
    };
    (frame.code.into(), frame.reason.as_str().to_owned())
}

#[tokio::test]
async fn plain_requests_are_answered_at_once() {
    let server = TestServer::start(|_| ()).await;
    let response = server.http("GET /ws HTTP/1.1\r\nHost: x\r\n\r\n").await.to_lowercase();
    assert!(response.starts_with("http/1.1 426 "), "{response}");
    assert!(response.contains("\r\nupgrade: websocket\r\n"), "{response}");
    assert!(response.contains("\r\nconnection: upgrade, close\r\n"), "{response}");
    for target in ["/", "/healthz", "/ws/"] {
        let response = server
            .http(&format!("POST {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab"))
            .await;
        assert!(response.starts_with("HTTP/1.1 404 "), "{target}: {response}");
        assert!(response.contains("\r\nconnection: close\r\n"), "{target}: {response}");
    }
    assert!(server.http("nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
    server.emptied().await;
}

#[tokio::test]
async fn frames_that_are_sent_along_with_the_upgrade_are_not_lost() {
    let server = TestServer::start(|_| ()).await;
    let mut stream = server.tcp().await;
    let head = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let payload = br#"{"id":9,"type":"store.get"}"#;
    let frame = [&[0x81, 0x80 | payload.len() as u8, 0, 0, 0, 0], &payload[..]].concat();
    stream
        .write_all(&[head.as_bytes(), &frame].concat())
        .await
        .expect("the stream is open");
    let mut received = Vec::new();
    while !received.ends_with(&answer(9)) {
        assert!(
            stream.read_buf(&mut received).await.expect("the stream is open") > 0,
            "{}",
            received.escape_ascii()
        );
    }
}

#[tokio::test]
async fn a_client_that_sends_its_request_too_slowly_is_dropped() {
    let server = TestServer::start(|config| config.connection_limits.handshake_timeout = Duration::from_millis(50)).await;
    let mut stream = server.tcp().await;
    stream.write_all(b"GET /ws HTTP/1.1\r\nHost:").await.expect("the stream is open");
    let mut received = Vec::new();
    let ended = timeout(Duration::from_secs(5), stream.read_to_end(&mut received))
        .await
        .expect("the server ends it");
    assert!(ended.is_err() || received.is_empty(), "{}", received.escape_ascii());
}

#[tokio::test]
async fn a_client_that_sends_its_request_byte_by_byte_is_dropped_all_the_same() {
    let server = TestServer::start(|config| config.connection_limits.handshake_timeout = Duration::from_millis(100)).await;
    let mut stream = server.tcp().await;
    stream
        .write_all(b"GET /ws HTTP/1.1\r\nHost: x\r\nX: ")
        .await
        .expect("the stream is open");
    let trickle = async {
        let mut received = [0; 64];
        while stream.write_all(b"x").await.is_ok() {
            // Waiting for an end of the stream is the pause between two bytes.
            match timeout(Duration::from_millis(2), stream.read(&mut received)).await {
                Ok(Ok(length @ 1..)) => panic!("answered: {}", received[..length].escape_ascii()),
                Ok(Ok(0) | Err(_)) => break,
                Err(_) => {}
            }
        }
    };
    timeout(Duration::from_secs(5), trickle).await.expect("the server ends it");
    check_served(&mut server.connect().await).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn an_address_with_many_unfinished_upgrades_keeps_no_other_out() {
    let server = TestServer::start(|config| {
        config.max_connections = 50;
        config.max_connections_per_ip = Some(5);
    })
    .await;
    let mut unfinished = Vec::new();
    for _ in 0..60 {
        let mut stream = server.tcp_from([127, 0, 0, 1]).await;
        stream.write_all(b"GET /ws HTTP/1.1\r\n").await.expect("the stream is open");
        unfinished.push(stream);
    }
    for _ in 0..20 {
        let stream = server.tcp_from([127, 0, 0, 2]).await;
        let mut client = server.upgrade(stream).await.expect("the upgrade goes ahead");
        assert!(client.next().await.expect("a welcome").is_ok());
        check_served(&mut client).await;
        drop(client);
        server.emptied().await;
    }
    let dropped = server.counters.total(Count::Dropped);
    assert!((11..=30).contains(&dropped), "those too many, and those that made room: {dropped}");
    // The oldest has made room, those too many were turned away, and the rest goes on.
    for at in [0, 50, 59] {
        let mut received = Vec::new();
        let ended = timeout(Duration::from_secs(5), unfinished[at].read_to_end(&mut received)).await;
        assert!(ended.is_ok() && received.is_empty(), "{at}");
    }
    let rest = b"Host: x\r\n\r\n";
    unfinished[49].write_all(rest).await.expect("the stream is open");
    let mut answer = String::new();
    unfinished[49].read_to_string(&mut answer).await.expect("the server ends it");
    assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");
}

#[tokio::test]
async fn a_socket_of_a_trusted_proxy_becomes_a_connection_like_any_other() {
    let server = TestServer::start(|config| config.trusted_proxies = vec!["127.0.0.1".to_owned()]).await;
    let mut slow = server.tcp().await;
    slow.write_all(b"GET / HTTP/1.1\r\n").await.expect("the stream is open");
    check_served(&mut server.connect().await).await;
    slow.write_all(b"Host: x\r\n\r\n").await.expect("the stream is open");
    let mut answer = String::new();
    slow.read_to_string(&mut answer).await.expect("the server ends it");
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
}

#[tokio::test]
async fn the_head_of_a_request_is_bounded_in_size_and_number() {
    let server = TestServer::start(|_| ()).await;
    let head = "GET /ws HTTP/1.1\r\nHost: x\r\n";
    let large = format!("{head}X: {}\r\n\r\n", "x".repeat(1_000_000));
    let many = format!("{head}{}\r\n", "X: x\r\n".repeat(1_000));
    let endless = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(100_000));
    for request in [large, many, endless] {
        let mut stream = server.tcp().await;
        // The server may hang up before it has read all of it, which can lose its answer.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut answer = Vec::new();
        let ended = timeout(Duration::from_secs(5), stream.read_to_end(&mut answer))
            .await
            .expect("the server ends it");
        let refused = answer.starts_with(b"HTTP/1.1 431 ") || answer.starts_with(b"HTTP/1.1 414 ");
        assert!(refused || (ended.is_err() && answer.is_empty()), "{}", answer.escape_ascii());
    }
    check_served(&mut server.connect().await).await;
}

#[tokio::test]
async fn sockets_are_accepted_no_faster_than_configured() {
    let server = TestServer::start(|config| config.connection_limits.max_accepts_per_second = 20).await;
    let began = Instant::now();
    let mut clients = Vec::new();
    for _ in 0..7 {
        clients.push(server.connect().await);
    }
    // Two at once, and then one every twentieth of a second.
    assert!(began.elapsed() >= Duration::from_millis(245), "{:?}", began.elapsed());
    for client in &mut clients {
        check_served(client).await;
    }
}

#[tokio::test]
async fn a_flood_over_the_quota_is_answered_slowly_and_in_order() {
    let limit = RateLimitConfig {
        max_requests: 1,
        ..RateLimitConfig::default()
    };
    let server = TestServer::start(|config| config.rate_limit = Some(limit)).await;
    let (mut client, began) = (server.connect().await, Instant::now());
    for id in 0..=640 {
        request(&mut client, id, "store.get").await;
    }
    assert_eq!(text(&mut client).await.as_bytes(), answer(0));
    for id in 1..=640 {
        let refused = text(&mut client).await;
        assert!(
            refused.starts_with(&format!("{{\"id\":{id},\"type\":\"error\",\"code\":\"RATE_LIMITED\"")),
            "{refused}"
        );
    }
    // Nine pauses before the last answer.
    assert!(began.elapsed() >= Duration::from_millis(90), "{:?}", began.elapsed());
    assert_eq!(*server.script.handled.lock(), [0]);
}

#[tokio::test]
async fn a_message_that_is_nested_too_deep_for_the_configuration_is_refused() {
    let server = TestServer::start(|config| config.connection_limits.max_json_depth = 3).await;
    let mut client = server.connect().await;
    for (lists, taken) in [("[[]]", true), ("[[[]]]", false)] {
        let message = format!("{{\"id\":4,\"type\":\"store.get\",\"x\":{lists}}}");
        client.send(Message::text(message)).await.expect("the connection is open");
        let reply = text(&mut client).await;
        assert_eq!(reply.as_bytes() == answer(4), taken, "{lists}: {reply}");
        assert_eq!(reply.contains("PARSE_ERROR"), !taken, "{lists}: {reply}");
    }
}

#[tokio::test]
async fn beyond_the_limit_upgrades_are_refused_with_503_until_somebody_leaves() {
    let server = TestServer::start(|config| config.max_connections = 1).await;
    let first = server.connect().await;
    match server.try_connect().await {
        Err(Error::Http(response)) => assert_eq!(response.status(), 503),
        other => panic!("{other:?}"),
    }
    drop(first);
    server.emptied().await;
    check_served(&mut server.connect().await).await;
}

#[tokio::test]
async fn beyond_the_limit_of_an_address_a_socket_is_closed_without_a_welcome() {
    let server = TestServer::start(|config| config.max_connections_per_ip = Some(1)).await;
    let mut first = server.connect().await;
    for _ in 0..2 {
        let mut second = server.try_connect().await.expect("the upgrade goes ahead");
        assert_eq!(close_code(&mut second).await, (4003, "too_many_connections".to_owned()));
    }
    check_served(&mut first).await;
    drop(first);
    server.emptied().await;
    check_served(&mut server.connect().await).await;
}

#[tokio::test]
async fn who_is_refused_and_takes_its_time_to_leave_keeps_nobody_out() {
    let server = TestServer::start(|config| {
        config.max_connections_per_ip = Some(1);
        config.max_connections = 2;
    })
    .await;
    let _first = server.connect().await;
    let mut refused = Vec::new();
    for _ in 0..5 {
        // The upgrade goes ahead each time, so there was a seat; nobody confirms the close.
        refused.push(server.try_connect().await.expect("the upgrade goes ahead"));
    }
    for mut client in refused {
        assert_eq!(close_code(&mut client).await.0, 4003);
    }
}

#[tokio::test]
async fn a_connection_that_crashes_leaves_nothing_behind_and_harms_nobody() {
    let server = TestServer::start(|config| config.max_connections_per_ip = Some(2)).await;
    let (mut crashing, mut other) = (server.connect().await, server.connect().await);
    request(&mut crashing, 1, "panic").await;
    assert!(crashing.next().await.is_none_or(|message| message.is_err()), "it is cut off");
    check_served(&mut other).await;
    while server.registry.len() > 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.script.open.load(Ordering::Acquire), 1);
    check_served(&mut server.connect().await).await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_dropped_after_the_grace_period_and_the_others_are_served() {
    let server = TestServer::start(|config| {
        config.backpressure.grace = Duration::from_millis(50);
        config.max_connections_per_ip = Some(2);
    })
    .await;
    let (mut stuck, mut other) = (server.connect().await, server.connect().await);
    // More than the system keeps for the two ends of a socket.
    stuck
        .send(Message::text(r#"{"id":1,"type":"large","bytes":50000000}"#))
        .await
        .expect("the connection is open");
    let gone = async {
        while server.registry.len() > 1 {
            check_served(&mut other).await;
        }
    };
    timeout(Duration::from_secs(10), gone).await.expect("the slow client is given up");
    assert_eq!(server.script.open.load(Ordering::Acquire), 1);
    check_served(&mut server.connect().await).await;
    // The end of what it was sent is missing.
    while let Some(Ok(message)) = stuck.next().await {
        assert!(message.is_close(), "no whole message");
    }
}

#[tokio::test]
async fn a_client_that_answers_its_pings_stays_however_many_slow_requests_it_has_sent() {
    let server = TestServer::start(|config| {
        config.heartbeat.interval = Duration::from_millis(100);
        config.heartbeat.timeout = Duration::from_millis(400);
    })
    .await;
    let (mut client, mut clock) = (server.connect().await, server.connect().await);
    for id in 0..200 {
        request(&mut client, id, "wait").await;
    }
    for id in 0..200 {
        if id % 10 == 0 {
            // The pings of another client are the clock: ten requests are answered from one to the next.
            text_or_pong(&mut clock).await;
        }
        while server.script.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        server.script.release_first();
        let answered = loop {
            if let Some(answered) = text_or_pong(&mut client).await {
                break answered;
            }
        };
        assert_eq!(answered.as_bytes(), answer(id));
    }
}

/// The next message; none where it was a ping, which is answered.
async fn text_or_pong(client: &mut Client) -> Option<String> {
    let message = text(client).await;
    if !message.contains("\"ping\"") {
        return Some(message);
    }
    let pong = message.replace("ping", "pong");
    client.send(Message::text(pong)).await.expect("the connection is open");
    None
}

#[tokio::test]
async fn every_part_of_the_server_comes_back_after_it_was_killed() {
    let server = TestServer::start(|_| ()).await;
    for _ in 0..2 {
        let children = server.root.get_children();
        assert_eq!(children.len(), 3);
        for child in children {
            child.kill();
        }
        // A socket that is accepted while the connections have no supervisor is dropped: the client tries again.
        let mut client = loop {
            if let Ok(mut client) = server.try_connect().await
                && let Some(Ok(Message::Text(_))) = client.next().await
                && server.root.get_children().len() == 3
            {
                break client;
            }
            tokio::task::yield_now().await;
        };
        check_served(&mut client).await;
        drop(client);
        server.emptied().await;
    }
}

#[tokio::test]
async fn a_killed_server_drops_its_connections_and_stops_listening() {
    let server = TestServer::start(|_| ()).await;
    let mut client = server.connect().await;
    let registry = Arc::clone(&server.registry);
    let address = server.address();
    drop(server);
    assert!(client.next().await.is_none_or(|message| message.is_err()));
    timeout(Duration::from_secs(5), registry.emptied())
        .await
        .expect("every seat is given back");
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_server_that_stops_tells_everybody_serves_on_and_closes_with_1001() {
    let server = TestServer::start(|_| ()).await;
    let (mut first, mut second) = (server.connect().await, server.connect().await);
    let stop = server.stop(Duration::from_millis(300));
    let clients = async {
        for client in [&mut first, &mut second] {
            assert_eq!(text(client).await, r#"{"type":"system","event":"shutdown","gracePeriodMs":300}"#);
        }
        assert!(TcpStream::connect(server.address()).await.is_err(), "nobody new is let in");
        check_served(&mut first).await;
        for client in [&mut first, &mut second] {
            assert_eq!(close_code(client).await, (1001, "server_shutdown".to_owned()));
            assert!(client.next().await.is_none(), "the closing handshake completes");
        }
    };
    tokio::join!(stop, clients);
    assert_eq!(server.registry.len(), 0);
}

#[tokio::test]
async fn a_server_stops_as_soon_as_the_last_client_has_left() {
    let server = TestServer::start(|_| ()).await;
    server.stop(Duration::from_secs(3600)).await;

    let server = TestServer::start(|_| ()).await;
    let mut client = server.connect().await;
    let stop = server.stop(Duration::from_secs(3600));
    let leave = async {
        text(&mut client).await;
        drop(client);
    };
    tokio::join!(stop, leave);
}

#[tokio::test]
async fn a_grace_period_can_be_cut_short() {
    let server = TestServer::start(|_| ()).await;
    let mut client = server.connect().await;
    let stop = server.stop(Duration::from_secs(3600));
    let hurry = async {
        text(&mut client).await;
        server.hurry.send_replace(true);
        assert_eq!(close_code(&mut client).await.0, 1001);
        assert!(client.next().await.is_none());
    };
    tokio::join!(stop, hurry);
}

#[tokio::test]
async fn a_stop_in_a_hurry_does_not_wait_for_a_request_that_takes_long() {
    let server = TestServer::start(|_| ()).await;
    let mut client = server.connect().await;
    request(&mut client, 1, "wait").await;
    while server.script.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    let begun = std::time::Instant::now();
    // In a hurry from the beginning, and only once the connections are being closed.
    for hurry_at_once in [true, false] {
        server.hurry.send_replace(hurry_at_once);
        let hurry = async {
            tokio::task::yield_now().await;
            server.hurry.send_replace(true);
        };
        tokio::join!(server.stop(Duration::ZERO), hurry);
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(server.registry.len(), 1, "the caller drops it");
}

#[tokio::test]
async fn sockets_are_counted_by_what_became_of_them() {
    let server = TestServer::start(|config| config.max_connections_per_ip = Some(1)).await;
    let first = server.connect().await;
    let mut second = server.try_connect().await.expect("the upgrade goes ahead");
    assert_eq!(close_code(&mut second).await.0, 4003);
    server.http("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    drop((first, second));
    server.emptied().await;
    // The refused request is counted when its socket is closed, which its client sees first.
    while server.counters.total(Count::Refused) == 0 {
        tokio::task::yield_now().await;
    }
    let counts = [Count::Accepted, Count::Dropped, Count::Refused, Count::Opened];
    assert_eq!(counts.map(|count| server.counters.total(count)), [3, 0, 1, 1]);
    let closes = [CloseCode::TooManyConnections, CloseCode::GoingAway];
    assert_eq!(closes.map(|code| server.counters.total_of_closes(code)), [1, 0]);
}

#[tokio::test]
async fn an_upgrade_that_completes_after_the_stop_has_begun_is_closed_with_1001() {
    let server = TestServer::start(|_| ()).await;
    let stream = server.tcp().await;
    // The listener has the socket once a later one is served.
    drop(server.connect().await);
    server.emptied().await;
    server.stop(Duration::ZERO).await;
    let late = tokio_tungstenite::client_async(format!("ws://{}/ws", server.address()), stream).await;
    let mut late = late.expect("the upgrade goes ahead").0;
    assert_eq!(close_code(&mut late).await, (1001, "server_shutdown".to_owned()));
}
