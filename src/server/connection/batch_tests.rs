//! Batches on a connection whose session answers when the test says so.

use serde_json::{Value, json};

use super::driver_tests::{Fixture, LIMITS, pushed};
use super::fake_session::large_answer;
use crate::protocol::CloseCode;
use crate::server::admission::Admission;
use crate::server::config::RateLimitConfig;

impl Fixture {
    async fn send_batch(&mut self, id: i64, requests: &[(i64, &str)]) {
        let requests: Vec<_> = requests.iter().map(|(id, name)| json!({ "id": id, "type": name })).collect();
        self.send_text(&json!({ "id": id, "type": "batch", "requests": requests }).to_string())
            .await;
    }

    /// Awaits the answer to a batch; gives the answers in it.
    async fn batch_answer(&mut self, id: i64) -> Vec<Value> {
        let answer: Value = serde_json::from_str(&self.text().await).expect("JSON");
        assert_eq!((&answer["id"], &answer["type"]), (&json!(id), &json!("result")), "{answer}");
        answer["data"].as_array().expect("a list").clone()
    }
}

fn ids(answers: &[Value]) -> Vec<i64> {
    answers.iter().map(|answer| answer["id"].as_i64().expect("an id")).collect()
}

#[tokio::test]
async fn the_answers_of_a_batch_come_in_one_message_in_the_order_of_its_requests() {
    let mut fixture = Fixture::new().await;
    fixture
        .send_batch(
            9,
            &[
                (1, "store.insert"),
                (2, "store.insert"),
                (3, "store.get"),
                (4, "wait"),
                (5, "store.insert"),
            ],
        )
        .await;
    fixture.settle().await;
    assert_eq!(
        fixture.handled(),
        [1, 2],
        "writes are submitted together, and the read waits for them"
    );
    fixture.script.release_last();
    fixture.settle().await;
    assert_eq!(fixture.handled(), [1, 2]);
    fixture.script.release_first();
    fixture.settle().await;
    assert_eq!(fixture.handled(), [1, 2, 3, 4], "the last waits for the one that is alone");
    fixture.script.release_first();
    fixture.settle().await;
    fixture.script.release_first();
    assert_eq!(ids(&fixture.batch_answer(9).await), [1, 2, 3, 4, 5]);
    fixture.send(6, "store.get").await;
    fixture.expect_answers(&[6]).await;
}

#[tokio::test]
async fn a_batch_keeps_its_place_among_other_requests_and_holds_up_no_writes() {
    let mut fixture = Fixture::new().await;
    fixture.send(1, "store.insert").await;
    fixture.send_batch(9, &[]).await;
    fixture.send(2, "store.get").await;
    fixture.settle().await;
    assert_eq!(fixture.handled(), [1]);
    fixture.script.release_first();
    fixture.expect_answers(&[1]).await;
    assert!(fixture.batch_answer(9).await.is_empty());
    fixture.expect_answers(&[2]).await;

    fixture.send_batch(8, &[(3, "store.insert")]).await;
    fixture.send_batch(7, &[(4, "store.get")]).await;
    fixture.settle().await;
    fixture.script.release_first();
    assert_eq!(ids(&fixture.batch_answer(8).await), [3]);
    assert_eq!(ids(&fixture.batch_answer(7).await), [4]);
}

#[tokio::test]
async fn no_more_requests_of_a_batch_are_begun_than_may_be_in_flight() {
    let mut fixture = Fixture::new().await;
    let requests: Vec<_> = (1..=5).map(|id| (id, "store.insert")).collect();
    fixture.send_batch(9, &requests).await;
    fixture.settle().await;
    assert_eq!(fixture.handled().len(), LIMITS.requests_in_flight_max);
    for _ in 0..5 {
        fixture.script.release_first();
        fixture.settle().await;
    }
    assert_eq!(ids(&fixture.batch_answer(9).await), [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn pushes_wait_for_the_answer_to_the_batch_that_may_have_caused_them() {
    let mut fixture = Fixture::new().await;
    let subscription = fixture.subscribe();
    fixture
        .send_batch(9, &[(1, "store.insert"), (2, "wait"), (3, "store.insert")])
        .await;
    for text in ["first", "second", "third"] {
        fixture.settle().await;
        fixture.script.release_first();
        fixture.push(subscription, text);
    }
    assert_eq!(ids(&fixture.batch_answer(9).await), [1, 2, 3]);
    assert_eq!(fixture.text().await, pushed(subscription, "third"));
}

#[tokio::test]
async fn every_request_of_a_batch_is_checked_like_a_message_of_its_own() {
    let mut fixture = Fixture::new().await;
    fixture
        .send_text(r#"{"id":9,"type":"batch","requests":[7,{"id":1},{"type":"store.get"},{"id":2,"type":"pong","timestamp":1},{"id":3,"type":"store.get"}]}"#)
        .await;
    let answers = fixture.batch_answer(9).await;
    let error = |id: i64, code: &str, message: &str| json!({ "id": id, "type": "error", "code": code, "message": message });
    assert_eq!(
        answers,
        [
            error(0, "PARSE_ERROR", "Message must be a JSON object"),
            error(1, "INVALID_REQUEST", "Message must include non-empty string \"type\""),
            error(0, "INVALID_REQUEST", "Request must include finite numeric \"id\""),
            error(2, "INVALID_REQUEST", "A pong cannot be part of a batch"),
            json!({ "id": 3 }),
        ]
    );
    assert_eq!(fixture.handled(), [3]);
}

#[tokio::test]
async fn a_batch_of_too_many_requests_is_refused_and_none_is_carried_out() {
    let mut fixture = Fixture::new().await;
    let requests: Vec<_> = (1..=6).map(|id| (id, "store.get")).collect();
    fixture.send_batch(9, &requests).await;
    assert!(fixture.text().await.contains("VALIDATION_ERROR"));
    assert!(fixture.handled().is_empty());
}

#[tokio::test(start_paused = true)]
async fn each_request_of_a_batch_counts_for_the_rate_limit_and_a_batch_without_any_counts_itself() {
    let mut fixture = Fixture::with(Admission::limited(RateLimitConfig {
        max_requests: 4,
        ..RateLimitConfig::default()
    }))
    .await;
    fixture.send_batch(9, &[(1, "store.get"), (2, "store.get")]).await;
    assert_eq!(fixture.batch_answer(9).await, [json!({ "id": 1 }), json!({ "id": 2 })]);
    fixture.send_batch(8, &[]).await;
    assert!(fixture.batch_answer(8).await.is_empty());
    fixture.send_text(r#"{"id":7,"type":"batch"}"#).await;
    assert!(fixture.text().await.contains("VALIDATION_ERROR"));
    for batch in [
        r#"{"id":6,"type":"batch","requests":[]}"#,
        r#"{"id":6,"type":"batch","requests":7}"#,
    ] {
        fixture.send_text(batch).await;
        assert!(fixture.text().await.contains("RATE_LIMITED"), "{batch}");
    }
    fixture.send_batch(5, &[(3, "store.get")]).await;
    assert_eq!(fixture.batch_answer(5).await[0]["code"], "RATE_LIMITED");
    assert_eq!(fixture.handled(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_with_one_malformed_request_too_many_is_answered_whole_before_the_close() {
    let mut fixture = Fixture::with(Admission::limited(RateLimitConfig {
        refused: Some(1),
        ..RateLimitConfig::default()
    }))
    .await;
    fixture
        .send_text(r#"{"id":9,"type":"batch","requests":[{"id":1},{"id":2},{"id":3},{"id":4,"type":"store.get"}]}"#)
        .await;
    let answers = fixture.batch_answer(9).await;
    assert_eq!(ids(&answers), [1, 2, 3, 4]);
    assert_eq!(answers[1]["code"], "INVALID_REQUEST");
    assert_eq!(answers[3]["code"], "BACKPRESSURE");
    assert_eq!(fixture.close_code().await, (1008, "too_many_refused".to_owned()));
    assert!(fixture.handled().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_batch_with_one_forbidden_request_too_many_is_answered_whole_before_the_close() {
    let mut fixture = Fixture::with(Admission::limited(RateLimitConfig {
        refused: Some(1),
        ..RateLimitConfig::default()
    }))
    .await;
    fixture
        .send_batch(9, &[(1, "forbidden"), (2, "forbidden"), (3, "forbidden"), (4, "store.get")])
        .await;
    let answers = fixture.batch_answer(9).await;
    assert_eq!(ids(&answers), [1, 2, 3, 4]);
    assert_eq!(answers[1], json!({ "id": 2 }));
    assert_eq!(answers[2]["code"], "BACKPRESSURE");
    assert_eq!(fixture.close_code().await, (1008, "too_many_refused".to_owned()));
    assert!(fixture.handled().is_empty());
}

#[tokio::test]
async fn once_the_answers_are_too_large_the_other_requests_are_not_carried_out() {
    let mut fixture = Fixture::new().await;
    let requests = json!([
        { "id": 1, "type": "large", "bytes": 10 },
        { "id": 2, "type": "large", "bytes": LIMITS.result_bytes_max },
        { "id": 3, "type": "store.get" },
        { "id": 4, "type": "store.insert" },
    ]);
    fixture
        .send_text(&json!({ "id": 9, "type": "batch", "requests": requests }).to_string())
        .await;
    let answers = fixture.batch_answer(9).await;
    assert_eq!(fixture.handled(), [1, 2]);
    let expected: Value = serde_json::from_slice(&large_answer(2, LIMITS.result_bytes_max)).expect("JSON");
    assert_eq!(answers[1], expected);
    assert_eq!(ids(&answers), [1, 2, 3, 4]);
    assert!(answers[2..].iter().all(|answer| answer["code"] == "BACKPRESSURE"), "{answers:?}");
    // The next batch has all the room again.
    fixture.send_batch(8, &[(5, "store.get")]).await;
    assert_eq!(fixture.batch_answer(8).await, [json!({ "id": 5 })]);
}

#[tokio::test]
async fn what_is_on_its_way_counts_for_the_size_of_the_answer_to_a_batch() {
    let mut fixture = Fixture::new().await;
    let insert = |id: i64| json!({ "id": id, "type": "store.insert", "bytes": LIMITS.result_bytes_max * 2 / 3 });
    fixture
        .send_text(&json!({ "id": 9, "type": "batch", "requests": [insert(1), insert(2), insert(3)] }).to_string())
        .await;
    fixture.settle().await;
    for handled in [&[1, 2][..], &[1, 2]] {
        assert_eq!(fixture.handled(), handled, "the third may be too much");
        fixture.script.release_first();
        fixture.settle().await;
    }
    let answers = fixture.batch_answer(9).await;
    assert_eq!(ids(&answers), [1, 2, 3]);
    assert_eq!(answers[2]["code"], "BACKPRESSURE");
    assert_eq!(fixture.handled(), [1, 2]);
}

#[tokio::test]
async fn in_a_connection_that_closes_the_rest_of_a_batch_is_not_carried_out() {
    for name in ["store.insert", "wait"] {
        let mut fixture = Fixture::new().await;
        fixture.send_batch(9, &[(1, name), (2, "store.get"), (3, "store.get")]).await;
        fixture.settle().await;
        fixture.outbox.request_close(CloseCode::GoingAway);
        fixture.settle().await;
        fixture.script.release_first();
        let answers = fixture.batch_answer(9).await;
        assert_eq!(ids(&answers), [1, 2, 3]);
        assert_eq!(answers[0], json!({ "id": 1 }));
        assert!(answers[1..].iter().all(|answer| answer["code"] == "BACKPRESSURE"), "{answers:?}");
        assert_eq!(fixture.close_code().await, (1001, "server_shutdown".to_owned()));
        assert_eq!(fixture.handled(), [1]);
    }
}
