//! The end of a server under load: nothing that it acknowledged is lost, and nobody can hold it up.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use crate::support::{Ended, Site, TestClient, TestServer};

const CONNECTIONS: u64 = 200;
/// Requests that each connection keeps on the way.
const IN_FLIGHT: u64 = 8;
/// How long a stop may take beyond the grace period, whatever clients do, and some room for a busy machine.
const DEADLINE: Duration = Duration::from_secs(7 + 5);

async fn define_bucket(server: &TestServer) {
    let config = json!({ "key": "id", "schema": { "id": { "type": "number" } } });
    let mut client = server.connect().await;
    client.result("store.defineBucket", json!({ "name": "t", "config": config })).await;
}

/// Stores numbers from `first` on, always some on the way, until the connection ends. Gives those that were
/// acknowledged, and how it ended.
async fn write_to_the_end(mut client: TestClient, first: u64, started: &tokio::sync::Semaphore) -> (Vec<u64>, Ended) {
    let (mut next, mut acknowledged) = (first, Vec::new());
    loop {
        while next < first + acknowledged.len() as u64 + IN_FLIGHT {
            // Once the server closes, what it has still sent is all that counts.
            let _ = client
                .request("store.insert", json!({ "bucket": "t", "data": { "id": next } }))
                .await;
            next += 1;
        }
        match client.next().await {
            Ok(notice) if notice["type"] == "system" => {}
            Ok(answer) => {
                assert_eq!(answer["type"], "result", "{answer}");
                acknowledged.push(first + acknowledged.len() as u64);
                started.add_permits(1);
            }
            Err(ended) => return (acknowledged, ended),
        }
    }
}

async fn check_that_nothing_is_lost(grace_ms: u64) {
    let site = Site::new(json!({ "shutdown": { "gracePeriodMs": grace_ms } }));
    let mut server = TestServer::serve(&site).await;
    define_bucket(&server).await;
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        clients.push(server.connect().await);
    }
    let answers = tokio::sync::Semaphore::new(0);
    let writers = clients
        .into_iter()
        .zip(0..)
        .map(|(client, at)| write_to_the_end(client, at * 1_000_000, &answers));
    let stop = async {
        // All are at work by then.
        let _ = answers.acquire_many(2 * CONNECTIONS as u32).await.unwrap();
        server.signal("TERM");
        server.exit(Duration::from_millis(grace_ms) + DEADLINE).await
    };
    let (written, status) = tokio::join!(join_all(writers), stop);
    assert_eq!(status.and_then(|status| status.code()), Some(0));

    let server = TestServer::serve(&site).await;
    let mut client = server.connect().await;
    let stored = client.result("store.all", json!({ "bucket": "t" })).await;
    let stored: BTreeSet<u64> = stored
        .as_array()
        .unwrap()
        .iter()
        .map(|record| record["id"].as_u64().unwrap())
        .collect();
    for (acknowledged, ended) in &written {
        let closed = Ended::Closed {
            code: 1001,
            reason: "server_shutdown".to_owned(),
        };
        assert_eq!(*ended, closed, "every client is told to come back");
        assert!(
            acknowledged.iter().all(|number| stored.contains(number)),
            "an acknowledged write is lost"
        );
    }
    // What was taken before the close is answered: only what was still on its way to the server is unknown.
    let acknowledged: usize = written.iter().map(|(acknowledged, _)| acknowledged.len()).sum();
    assert_eq!(acknowledged, stored.len(), "a write was carried out and not acknowledged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_writers_lose_nothing_when_the_server_stops_at_once() {
    check_that_nothing_is_lost(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_writers_are_served_through_the_grace_period_and_lose_nothing() {
    check_that_nothing_is_lost(300).await;
}

/// A client that has asked for far more than a socket holds, and reads none of it.
async fn stuck_client(server: &TestServer) -> TestClient {
    define_bucket(server).await;
    let mut client = server.connect().await;
    let record = |id: u64| json!({ "id": id, "text": "x".repeat(10_000) });
    let records: Vec<Value> = (0..90).map(record).collect();
    client.result("store.insertMany", json!({ "bucket": "t", "data": records })).await;
    for _ in 0..50 {
        client.request("store.all", json!({ "bucket": "t" })).await.unwrap();
    }
    // Until the server has stopped reading it.
    let mut other = server.connect().await;
    timeout(Duration::from_secs(10), async {
        loop {
            let stats = other.result("server.stats", json!({})).await;
            if stats["queues"]["unsentBytes"].as_u64().unwrap() > 800_000 {
                return;
            }
        }
    })
    .await
    .expect("the client falls behind");
    client
}

#[tokio::test]
async fn a_client_that_reads_nothing_does_not_hold_up_the_stop_beyond_its_deadline() {
    let mut server = TestServer::start(json!({ "shutdown": { "gracePeriodMs": 100 } })).await;
    let _stuck = stuck_client(&server).await;
    server.signal("TERM");
    let status = server.exit(DEADLINE).await;
    assert_eq!(status.and_then(|status| status.code()), Some(0));
}

#[tokio::test]
async fn a_second_signal_does_not_even_wait_for_a_client_that_reads_nothing() {
    let mut server = TestServer::start(json!({ "shutdown": { "gracePeriodMs": 600_000 } })).await;
    let _stuck = stuck_client(&server).await;
    let mut other = server.connect().await;
    server.signal("TERM");
    other.receive(|message| message["event"] == "shutdown").await.unwrap();
    let begun = Instant::now();
    server.signal("TERM");
    let status = server.exit(DEADLINE).await;
    assert_eq!(status.and_then(|status| status.code()), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}
