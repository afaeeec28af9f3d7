//! Live queries where a vector cannot look: many readers, slow readers, and writes at the same time.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{TestClient, TestServer};

async fn server_with(queries: &[(&str, Value)]) -> (TestServer, TestClient) {
    // On a busy machine nobody is to be given up for having to wait.
    let patience = json!({ "backpressure": { "graceMs": 600_000 }, "heartbeat": { "intervalMs": 600_000 } });
    let server = TestServer::start(patience).await;
    let mut client = server.connect().await;
    let config = json!({ "key": "id", "schema": { "id": { "type": "number" }, "n": { "type": "number" } } });
    client.result("store.defineBucket", json!({ "name": "t", "config": config })).await;
    for (name, config) in queries {
        client.result("store.defineQuery", json!({ "name": name, "config": config })).await;
    }
    (server, client)
}

#[tokio::test]
async fn everybody_who_watches_the_same_gets_the_same() {
    let (server, mut writer) = server_with(&[("all", json!({ "bucket": "t", "fields": ["id", "n"] }))]).await;
    let mut readers = join_all((0..50).map(|_| server.connect())).await;
    for reader in &mut readers {
        assert_eq!(reader.result("store.subscribe", json!({ "query": "all" })).await["data"], json!([]));
    }
    writer
        .result("store.insert", json!({ "bucket": "t", "data": { "id": 1, "n": 5 } }))
        .await;
    for reader in &mut readers {
        assert_eq!(reader.expect_push().await["data"], json!([{ "id": 1, "n": 5 }]));
    }
}

#[tokio::test]
async fn a_push_comes_after_the_answer_to_the_request_that_caused_it() {
    const INSERTS: u64 = 40;
    let (_server, mut client) = server_with(&[("count", json!({ "bucket": "t", "aggregate": { "function": "count" } }))]).await;
    client.result("store.subscribe", json!({ "query": "count" })).await;
    for id in 0..INSERTS {
        client
            .request("store.insert", json!({ "bucket": "t", "data": { "id": id } }))
            .await
            .expect("the request can be sent");
    }
    let (mut answered, mut pushed) = (0, 0);
    while pushed < INSERTS {
        let message = client.next().await.expect("the connection stays");
        match message["type"].as_str() {
            Some("result") => answered += 1,
            Some("push") => {
                let count = message["data"].as_u64().expect("a count");
                assert!(count > pushed, "a push that brings nothing new: {count} after {pushed}");
                assert!(
                    count <= answered,
                    "a push with {count} records came when {answered} inserts were answered"
                );
                pushed = count;
            }
            _ => panic!("unexpected: {message}"),
        }
    }
}

#[tokio::test]
async fn the_first_result_and_the_pushes_after_it_leave_no_gap_and_repeat_nothing() {
    const WRITES: u64 = 400;
    const SUBSCRIBERS: usize = 20;
    let (server, mut writer) = server_with(&[("total", json!({ "bucket": "t", "aggregate": { "function": "sum", "field": "n" } }))]).await;
    let writing = async {
        for id in 0..WRITES {
            writer
                .result("store.insert", json!({ "bucket": "t", "data": { "id": id, "n": 1 } }))
                .await;
        }
    };
    let watching = join_all((0..SUBSCRIBERS).map(|_| async {
        let mut client = server.connect().await;
        let mut seen = client.result("store.subscribe", json!({ "query": "total" })).await["data"]
            .as_u64()
            .expect("a sum");
        while seen < WRITES {
            let next = client.expect_push().await["data"].as_u64().expect("a sum");
            assert!(next > seen, "{next} after {seen}");
            seen = next;
        }
        seen
    }));
    let ((), seen) = tokio::join!(writing, watching);
    assert_eq!(seen, [WRITES; SUBSCRIBERS]);
}

#[tokio::test]
async fn a_slow_reader_holds_nobody_up_and_ends_with_the_newest_state() {
    const UPDATES: u64 = 400;
    let (server, mut writer) = server_with(&[("all", json!({ "bucket": "t" }))]).await;
    writer
        .result("store.insert", json!({ "bucket": "t", "data": { "id": 1, "n": 0 } }))
        .await;
    let mut slow = server.connect().await;
    slow.result("store.subscribe", json!({ "query": "all" })).await;

    // More than the buffers on the way can hold, while the reader does not read.
    let filling = "x".repeat(100_000);
    for n in 1..=UPDATES {
        writer
            .result(
                "store.update",
                json!({ "bucket": "t", "key": 1, "data": { "n": n, "filling": filling } }),
            )
            .await;
    }

    let mut pushes = 0;
    let mut newest = 0;
    while newest < UPDATES {
        let next = slow.expect_push().await["data"][0]["n"].as_u64().expect("a number");
        assert!(next > newest, "{next} after {newest}");
        newest = next;
        pushes += 1;
    }
    assert!(pushes < UPDATES, "states that were out of date were sent all the same");
}

#[tokio::test]
async fn requests_of_one_connection_are_answered_in_their_order_whatever_they_are() {
    let (_server, mut client) = server_with(&[]).await;
    let mut ids = Vec::new();
    for id in 0..100 {
        ids.push(
            client
                .request("store.insert", json!({ "bucket": "t", "data": { "id": id } }))
                .await
                .expect("sent"),
        );
        ids.push(
            client
                .request("store.get", json!({ "bucket": "t", "key": id }))
                .await
                .expect("sent"),
        );
        ids.push(client.request("store.nonsense", json!({})).await.expect("sent"));
    }
    for (place, id) in ids.into_iter().enumerate() {
        let answer = client.next().await.expect("an answer");
        assert_eq!(answer["id"], id);
        // A read sees the write that was sent before it.
        let right = match place % 3 {
            0 | 1 => answer["data"]["id"] == json!(place / 3),
            _ => answer["code"] == "UNKNOWN_OPERATION",
        };
        assert!(right, "{answer}");
    }
}
