//! The driver between a client on an in-memory stream and a session that answers when the test says so.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt, poll};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::{JoinHandle, coop, yield_now};
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::driver::Driver;
use super::fake_session::{Script, answer, opening};
use super::outbox::Outbox;
use super::socket::Socket;
use super::updates::HeldLimits;
use super::{Limits, Sessions};
use crate::protocol::{CloseCode, SubscriptionId, Tier, message};
use crate::server::admission::Admission;
use crate::server::statistics::{ConnectionCounters, ConnectionFigures, Count, Counters};
use crate::store::{EndReason, Sink as _, StoreError, Update};

pub(super) const LIMITS: Limits = Limits {
    message_bytes_max: 1000,
    message_depth_max: 100,
    requests_in_flight_max: 3,
    pushes_held_bytes: 2000,
    high_water_bytes: 2000,
    hard_limit_bytes: 4000,
    grace: Duration::from_secs(10),
    held: HeldLimits {
        changes_max: 3,
        bytes_max: 4000,
    },
    batch_requests_max: 5,
    result_bytes_max: 600,
};

/// A connection, its client and its session.
pub(super) struct Fixture {
    pub(super) script: Arc<Script>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) client: WebSocketStream<DuplexStream>,
    pub(super) driver: JoinHandle<()>,
    /// Has the driver find its task's share of steps used up when it is polled next.
    worn_out: Arc<AtomicBool>,
    pub(super) counters: Arc<Counters>,
}

impl Fixture {
    /// A served connection whose welcome has been read.
    pub(super) async fn new() -> Self {
        Self::with(Admission::unlimited()).await
    }

    /// The same for a client that may ask for so much.
    pub(super) async fn with(admission: Admission) -> Self {
        let (server, client) = tokio::io::duplex(4096);
        let script = Arc::new(Script::default());
        let outbox = Arc::new(Outbox::new(LIMITS.held));
        let session = script.open(opening(&outbox));
        let socket = Socket::new(server, Vec::new(), LIMITS.message_bytes_max).await;
        let shared = Arc::new(Counters::default());
        let counters = ConnectionCounters::new(Arc::clone(&shared), ConnectionFigures::new(0));
        let driver = Driver::new(socket, session, Arc::clone(&outbox), LIMITS, admission, counters);
        let mut driving = Box::pin(Box::new(driver).run(b"{}".to_vec()));
        let worn_out = Arc::new(AtomicBool::new(false));
        let wear_out = Arc::clone(&worn_out);
        let driver = tokio::spawn(std::future::poll_fn(move |cx| {
            while wear_out.load(Ordering::Relaxed) && coop::has_budget_remaining() {
                let _ = std::pin::pin!(coop::consume_budget()).poll(cx);
            }
            wear_out.store(false, Ordering::Relaxed);
            driving.as_mut().poll(cx)
        }));
        let client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        let mut fixture = Self {
            script,
            outbox,
            client,
            driver,
            worn_out,
            counters: shared,
        };
        assert_eq!(fixture.text().await, "{}");
        fixture
    }

    pub(super) async fn send(&mut self, id: i64, name: &str) {
        self.send_text(&format!("{{\"id\":{id},\"type\":\"{name}\"}}")).await;
    }

    pub(super) async fn send_text(&mut self, text: &str) {
        self.client.send(Message::text(text)).await.expect("the connection is open");
    }

    pub(super) async fn text(&mut self) -> String {
        let message = self.client.next().await.expect("the connection is open").expect("a sound frame");
        let Message::Text(text) = message else {
            panic!("{message:?} is no text")
        };
        text.as_str().to_owned()
    }

    pub(super) async fn expect_answers(&mut self, ids: &[i64]) {
        for &id in ids {
            assert_eq!(self.text().await.as_bytes(), answer(id));
        }
    }

    /// Reads up to the close frame, throwing away what comes before it, and confirms it.
    pub(super) async fn close_code(&mut self) -> (u16, String) {
        loop {
            let message = self.client.next().await.expect("a close frame").expect("a sound frame");
            if let Message::Close(frame) = message {
                let frame = frame.expect("a close frame with a code");
                return (frame.code.into(), frame.reason.as_str().to_owned());
            }
        }
    }

    /// Runs the driver until it has nothing left to do.
    pub(super) async fn settle(&self) {
        for _ in 0..20 {
            yield_now().await;
        }
    }

    pub(super) fn subscribe(&self) -> SubscriptionId {
        let id = SubscriptionId::next();
        self.script.held.lock().insert(id);
        id
    }

    /// Has the store push something that says `text`.
    pub(super) fn push(&self, id: SubscriptionId, text: &str) {
        self.outbox.push(id, Update::Failed(StoreError::QueryFailed(text.to_owned())));
    }

    pub(super) fn unsent(&self) -> usize {
        usize::try_from(self.counters.total(Count::UnsentBytes)).expect("it fits")
    }

    pub(super) fn handled(&self) -> Vec<i64> {
        self.script.handled.lock().clone()
    }
}

pub(super) fn pushed(id: SubscriptionId, text: &str) -> String {
    let error = StoreError::QueryFailed(text.to_owned());
    String::from_utf8(message::subscription_error(id, error.code(), &error.to_string())).expect("JSON")
}

#[tokio::test]
async fn answers_leave_in_the_order_of_their_requests_whichever_is_ready_first() {
    let mut fixture = Fixture::new().await;
    for id in [1, 2, 3] {
        fixture.send(id, "store.insert").await;
    }
    fixture.settle().await;
    fixture.script.release_last();
    fixture.script.release_last();
    fixture.settle().await;
    fixture.script.release_first();
    fixture.expect_answers(&[1, 2, 3]).await;
}

#[tokio::test]
async fn a_read_waits_for_the_writes_before_it_and_what_follows_waits_for_the_read() {
    let mut fixture = Fixture::new().await;
    fixture.send(1, "store.insert").await;
    fixture.send(2, "store.get").await;
    fixture.send(3, "store.insert").await;
    fixture.settle().await;
    assert_eq!(fixture.handled(), [1]);
    fixture.script.release_first();
    fixture.expect_answers(&[1, 2]).await;
    fixture.settle().await;
    assert_eq!(fixture.handled(), [1, 2, 3]);
    fixture.script.release_first();
    fixture.expect_answers(&[3]).await;
}

#[tokio::test]
async fn nothing_else_is_carried_out_while_a_request_is_alone() {
    let mut fixture = Fixture::new().await;
    fixture.send(1, "wait").await;
    fixture.send(2, "store.insert").await;
    fixture.settle().await;
    assert_eq!(fixture.handled(), [1]);
    fixture.script.release_first();
    fixture.expect_answers(&[1]).await;
    fixture.settle().await;
    assert_eq!(fixture.handled(), [1, 2]);
}

#[tokio::test]
async fn an_error_of_the_envelope_keeps_its_place_among_the_answers() {
    let mut fixture = Fixture::new().await;
    fixture.send(1, "store.insert").await;
    fixture.send_text("[]").await;
    fixture.settle().await;
    fixture.script.release_first();
    fixture.expect_answers(&[1]).await;
    assert!(fixture.text().await.contains("PARSE_ERROR"));
}

#[tokio::test]
async fn no_more_requests_are_taken_than_may_be_in_flight() {
    let mut fixture = Fixture::new().await;
    for id in 1..=5 {
        fixture.send(id, "store.insert").await;
    }
    fixture.settle().await;
    assert_eq!(fixture.handled(), [1, 2, 3]);
    fixture.script.release_first();
    fixture.settle().await;
    assert_eq!(fixture.handled(), [1, 2, 3, 4]);
}

#[tokio::test]
async fn a_long_pipeline_is_answered_whole() {
    let mut fixture = Fixture::new().await;
    for first in (0..1000).step_by(20) {
        for id in first..first + 20 {
            fixture.send(id, "store.get").await;
        }
        fixture.expect_answers(&(first..first + 20).collect::<Vec<_>>()).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_that_an_own_request_causes_comes_after_its_answer() {
    let mut fixture = Fixture::new().await;
    let subscription = fixture.subscribe();
    for id in 0..500 {
        fixture.send(id, "store.insert").await;
        while fixture.script.waiting() == 0 {
            yield_now().await;
        }
        // As the store does it: the answer first, then the update, while the driver runs on another thread.
        fixture.script.release_first();
        fixture.push(subscription, "changed");
        fixture.expect_answers(&[id]).await;
        assert_eq!(fixture.text().await, pushed(subscription, "changed"));
    }
}

#[tokio::test]
async fn a_push_comes_after_the_answer_also_where_both_come_between_two_steps_of_a_round() {
    let mut fixture = Fixture::new().await;
    let subscription = fixture.subscribe();
    let outbox = Arc::clone(&fixture.outbox);
    let update = Update::Failed(StoreError::QueryFailed("changed".to_owned()));
    *fixture.script.at_poll.lock() = Some(Box::new(move || outbox.push(subscription, update)));
    fixture.send(1, "store.upsert").await;
    fixture.expect_answers(&[1]).await;
    assert_eq!(fixture.text().await, pushed(subscription, "changed"));
}

#[tokio::test]
async fn a_push_waits_for_the_answer_that_waits_for_its_record() {
    // A write whose record is on its way to the disk, and something that is carried out alone.
    for request in ["store.update", "wait"] {
        let mut fixture = Fixture::new().await;
        let subscription = fixture.subscribe();
        fixture.send(1, request).await;
        fixture.settle().await;
        fixture.push(subscription, "changed");
        fixture.settle().await;
        fixture.script.release_first();
        fixture.expect_answers(&[1]).await;
        assert_eq!(fixture.text().await, pushed(subscription, "changed"), "{request}");
    }
}

#[tokio::test]
async fn a_push_does_not_wait_for_a_read() {
    let mut fixture = Fixture::new().await;
    let subscription = fixture.subscribe();
    fixture.send(1, "store.all").await;
    fixture.settle().await;
    fixture.push(subscription, "changed");
    assert_eq!(fixture.text().await, pushed(subscription, "changed"));
    fixture.script.release_first();
    fixture.expect_answers(&[1]).await;
}

#[tokio::test]
async fn updates_go_out_in_the_order_in_which_subscriptions_became_dirty_and_only_the_newest_of_each() {
    let mut fixture = Fixture::new().await;
    let (first, second) = (fixture.subscribe(), fixture.subscribe());
    fixture.push(second, "old");
    fixture.push(first, "only");
    fixture.push(second, "new");
    assert_eq!(fixture.text().await, pushed(second, "new"));
    assert_eq!(fixture.text().await, pushed(first, "only"));
}

#[tokio::test]
async fn a_client_that_does_not_read_costs_a_bounded_number_of_bytes_and_gets_the_newest_state_in_the_end() {
    let mut fixture = Fixture::new().await;
    let subscriptions: Vec<_> = (0..20).map(|_| fixture.subscribe()).collect();
    let long = "x".repeat(1000);
    for round in 0..50 {
        for &subscription in &subscriptions {
            fixture.push(subscription, &format!("{round} {long}"));
        }
        fixture.settle().await;
    }
    for &subscription in &subscriptions {
        fixture.push(subscription, "last");
    }
    let mut received = 0;
    let mut last_seen = 0;
    while last_seen < subscriptions.len() {
        received += 1;
        last_seen += usize::from(fixture.text().await.contains("last"));
    }
    // What fits into the stream and below the mark, and the last of each.
    assert!(received <= 20 + 8, "{received} pushes");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_not_read_either() {
    let mut fixture = Fixture::new().await;
    let subscription = fixture.subscribe();
    for round in 0..10 {
        fixture.push(subscription, &format!("{round} {}", "x".repeat(1000)));
        fixture.settle().await;
    }
    fixture.send(1, "store.get").await;
    fixture.settle().await;
    assert!(fixture.handled().is_empty());
    while fixture.text().await.as_bytes() != answer(1) {}
}

#[tokio::test]
async fn nothing_is_pushed_for_a_subscription_that_the_session_no_longer_holds() {
    let mut fixture = Fixture::new().await;
    fixture.push(SubscriptionId::next(), "gone");
    fixture.send(1, "store.get").await;
    fixture.expect_answers(&[1]).await;
}

#[tokio::test]
async fn the_end_of_a_subscription_is_told_once_and_frees_its_place() {
    let mut fixture = Fixture::new().await;
    let subscription = fixture.subscribe();
    fixture.push(subscription, "stale");
    fixture.outbox.push(subscription, Update::Ended(EndReason::BucketDropped));
    fixture.push(subscription, "after the end");
    assert_eq!(
        fixture.text().await.into_bytes(),
        message::subscription_ended(subscription, "bucket_dropped")
    );
    assert!(fixture.script.held.lock().is_empty());
}

#[tokio::test]
async fn a_binary_message_closes_after_what_came_before_it_is_answered_and_nothing_after_it_is_carried_out() {
    let mut fixture = Fixture::new().await;
    fixture.send(1, "store.insert").await;
    fixture
        .client
        .send(Message::binary(vec![1, 2]))
        .await
        .expect("the connection is open");
    fixture.send(2, "store.insert").await;
    fixture.settle().await;
    fixture.script.release_first();
    fixture.expect_answers(&[1]).await;
    assert_eq!(fixture.close_code().await, (1003, "binary_not_supported".to_owned()));
    fixture.driver.await.expect("it ends");
    assert_eq!(fixture.script.handled.lock().as_slice(), [1]);
}

#[tokio::test]
async fn a_message_of_exactly_the_limit_is_taken_and_one_byte_more_closes_with_1009() {
    let mut fixture = Fixture::new().await;
    let request = r#"{"id":1,"type":"store.get"}"#;
    fixture.send_text(&format!("{request:1000}")).await;
    fixture.expect_answers(&[1]).await;
    fixture.send_text(&format!("{request:1001}")).await;
    assert_eq!(fixture.close_code().await, (1009, String::new()));
}

/// Sends raw frames of a client, and gives the code of the close frame that follows.
async fn code_after(frames: &[u8]) -> u16 {
    let (server, mut client) = tokio::io::duplex(4096);
    let script = Arc::new(Script::default());
    let outbox = Arc::new(Outbox::default());
    let session = script.open(opening(&outbox));
    let socket = Socket::new(server, Vec::new(), LIMITS.message_bytes_max).await;
    let counters = ConnectionCounters::new(Arc::default(), ConnectionFigures::new(0));
    let driver = tokio::spawn(Box::new(Driver::new(socket, session, outbox, LIMITS, Admission::unlimited(), counters)).run(b"{}".to_vec()));
    client.write_all(frames).await.expect("the stream is open");
    client.shutdown().await.expect("the stream is open");
    let mut received = Vec::new();
    client.read_to_end(&mut received).await.expect("the server ends it");
    driver.await.expect("it ends");
    assert_eq!(received[..4], [0x81, 2, b'{', b'}'], "the welcome");
    assert_eq!(received[4], 0x88, "a close frame");
    u16::from_be_bytes([received[6], received[7]])
}

#[tokio::test]
async fn faults_of_the_frames_close_with_the_code_of_the_fault() {
    let mask = [0; 4];
    let frame = |first: u8, payload: &[u8]| [&[first, 0x80 | payload.len() as u8], &mask[..], payload].concat();
    let table: [(&str, Vec<u8>, u16); 8] = [
        ("text that is not UTF-8", frame(0x81, &[0xff]), 1007),
        (
            "text that ends within a character, in pieces",
            [frame(0x01, b"a"), frame(0x80, &[0xc3])].concat(),
            1007,
        ),
        ("a frame without a mask", vec![0x81, 1, b'a'], 1002),
        ("a reserved opcode", frame(0x83, b"a"), 1002),
        ("a reserved bit", frame(0xc1, b"a"), 1002),
        ("a continuation of nothing", frame(0x80, b"a"), 1002),
        ("a ping in pieces", frame(0x09, b"a"), 1002),
        (
            "a length beyond the limit",
            vec![0x81, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
            1009,
        ),
    ];
    for (what, frames, code) in table {
        assert_eq!(code_after(&frames).await, code, "{what}");
    }
}

#[tokio::test]
async fn a_close_of_the_client_is_confirmed_with_its_own_code() {
    let mut fixture = Fixture::new().await;
    fixture.client.close(None).await.expect("the connection is open");
    assert!(
        fixture
            .client
            .next()
            .await
            .is_none_or(|message| message.is_ok_and(|message| message.is_close()))
    );
    fixture.driver.await.expect("it ends");
}

#[tokio::test]
async fn a_websocket_ping_is_answered_with_its_payload() {
    let mut fixture = Fixture::new().await;
    fixture
        .client
        .send(Message::Ping(b"abc".to_vec().into()))
        .await
        .expect("the connection is open");
    let answer = fixture.client.next().await.expect("an answer").expect("a sound frame");
    assert_eq!(answer, Message::Pong(b"abc".to_vec().into()));
}

#[tokio::test]
async fn a_client_that_reads_no_pongs_cannot_ask_for_more_and_more_of_them() {
    let mut fixture = Fixture::new().await;
    let mut sent = 0;
    loop {
        assert!(sent < 2000, "the server goes on reading");
        let ping = Message::Ping(vec![b'x'; 125].into());
        fixture.client.feed(ping).await.expect("the connection is open");
        sent += 1;
        if poll!(fixture.client.flush()).is_pending() {
            fixture.settle().await;
            if poll!(fixture.client.flush()).is_pending() {
                break;
            }
        }
    }
    // As soon as it reads, everything goes on.
    fixture
        .client
        .feed(Message::text(r#"{"id":1,"type":"store.get"}"#))
        .await
        .expect("the connection is open");
    let mut pongs = 0;
    let other = loop {
        let _ = poll!(fixture.client.flush());
        let message = fixture.client.next().await.expect("the connection is open").expect("a sound frame");
        if !message.is_pong() {
            break message;
        }
        pongs += 1;
    };
    assert_eq!(other.into_data(), answer(1));
    assert!(pongs > 0);
}

#[tokio::test]
async fn a_client_that_vanishes_ends_the_connection_and_its_session() {
    let Fixture {
        client, driver, script, ..
    } = Fixture::new().await;
    drop(client);
    driver.await.expect("it ends");
    assert_eq!(script.open.load(std::sync::atomic::Ordering::Acquire), 0);
}

#[tokio::test]
async fn a_verdict_on_a_ping_that_was_answered_in_time_harms_nobody() {
    let mut fixture = Fixture::new().await;
    fixture.outbox.ping(77);
    assert_eq!(fixture.text().await.into_bytes(), message::ping(77));
    fixture.send_text(r#"{"type":"pong","timestamp":77}"#).await;
    fixture.settle().await;
    fixture.outbox.pong_overdue(77);
    fixture.send(1, "store.get").await;
    fixture.expect_answers(&[1]).await;
}

#[tokio::test]
async fn a_client_whose_pong_is_overdue_is_closed_with_4001() {
    let mut fixture = Fixture::new().await;
    fixture.outbox.ping(77);
    fixture.send_text(r#"{"type":"pong","timestamp":78}"#).await;
    fixture.settle().await;
    fixture.outbox.pong_overdue(77);
    assert_eq!(fixture.close_code().await, (4001, "heartbeat_timeout".to_owned()));
}

#[tokio::test]
async fn a_pong_that_has_arrived_behind_a_long_request_counts() {
    let mut fixture = Fixture::new().await;
    fixture.send(1, "wait").await;
    fixture.settle().await;
    fixture.outbox.ping(77);
    fixture.send_text(r#"{"type":"pong","timestamp":77}"#).await;
    fixture.outbox.pong_overdue(77);
    fixture.settle().await;
    fixture.script.release_first();
    assert_eq!(fixture.text().await.into_bytes(), message::ping(77));
    fixture.expect_answers(&[1]).await;
    fixture.send(2, "store.get").await;
    fixture.expect_answers(&[2]).await;
}

#[tokio::test]
async fn a_connection_that_is_asked_to_close_answers_what_was_submitted_and_takes_nothing_more() {
    let mut fixture = Fixture::new().await;
    fixture.send(1, "store.insert").await;
    fixture.send(2, "store.insert").await;
    fixture.settle().await;
    fixture.outbox.notify(message::shutdown(5).into());
    fixture.outbox.request_close(CloseCode::GoingAway);
    assert_eq!(fixture.text().await.into_bytes(), message::shutdown(5));
    fixture.send(3, "store.insert").await;
    fixture.settle().await;
    fixture.script.release_first();
    fixture.script.release_first();
    fixture.expect_answers(&[1, 2]).await;
    assert_eq!(fixture.close_code().await, (1001, "server_shutdown".to_owned()));
    fixture.driver.await.expect("it ends");
    assert_eq!(fixture.script.handled.lock().as_slice(), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn closing_takes_a_bounded_time_however_long_an_answer_takes_and_whatever_the_client_does() {
    let mut fixture = Fixture::new().await;
    fixture.send(1, "store.insert").await;
    fixture.settle().await;
    let begun = Instant::now();
    fixture.outbox.request_close(CloseCode::GoingAway);
    // The client neither reads nor confirms.
    fixture.driver.await.expect("it ends");
    assert!(begun.elapsed() <= Duration::from_secs(7), "{:?}", begun.elapsed());
    let mut received = Vec::new();
    fixture
        .client
        .get_mut()
        .read_to_end(&mut received)
        .await
        .expect("the server ended it");
    assert_eq!(received[..4], [0x88, 17, 0x03, 0xe9], "a close frame with 1001");
}

impl Fixture {
    fn totals<const N: usize>(&self, counts: [Count; N]) -> [u64; N] {
        counts.map(|count| self.counters.total(count))
    }
}

#[tokio::test]
async fn what_is_in_flight_is_counted_until_it_is_answered() {
    let mut fixture = Fixture::new().await;
    for id in [1, 2] {
        fixture.send(id, "store.insert").await;
    }
    // It waits for the two before it, and counts once it is begun.
    fixture.send(3, "store.get").await;
    fixture.settle().await;
    let counts = [Count::MessagesIn, Count::InFlight, Count::Answers];
    assert_eq!(fixture.totals(counts), [3, 2, 0]);
    fixture.script.release_first();
    fixture.settle().await;
    assert_eq!(fixture.totals(counts), [3, 1, 1]);
    fixture.script.release_first();
    fixture.expect_answers(&[1, 2, 3]).await;
    fixture.settle().await;
    assert_eq!(fixture.totals(counts), [3, 0, 3]);
    let latency = [Tier::Read, Tier::Write, Tier::Admin].map(|tier| fixture.counters.latency(tier).count);
    assert_eq!(latency, [1, 2, 0]);
}

#[tokio::test]
async fn bytes_are_those_of_the_messages_and_unsent_ones_are_shown_until_the_client_is_gone() {
    let mut fixture = Fixture::new().await;
    fixture.send_text(r#"{"id":1,"type":"store.get"}"#).await;
    fixture.expect_answers(&[1]).await;
    fixture.settle().await;
    let counts = [
        Count::MessagesIn,
        Count::BytesIn,
        Count::MessagesOut,
        Count::BytesOut,
        Count::UnsentBytes,
    ];
    // The welcome `{}` and the answer.
    assert_eq!(fixture.totals(counts), [1, 27, 2, 2 + answer(1).len() as u64, 0]);
    let subscription = fixture.subscribe();
    for round in 0..10 {
        fixture.push(subscription, &format!("{round} {}", "x".repeat(1000)));
        fixture.settle().await;
    }
    let [unsent] = fixture.totals([Count::UnsentBytes]);
    assert!(unsent >= LIMITS.high_water_bytes as u64, "{unsent}");
    drop(fixture.client);
    fixture.driver.await.expect("it ends");
    assert_eq!(fixture.counters.total(Count::UnsentBytes), 0);
}

#[tokio::test]
async fn every_update_is_either_pushed_or_replaced_by_a_newer_one() {
    let mut fixture = Fixture::new().await;
    let subscriptions: Vec<_> = (0..3).map(|_| fixture.subscribe()).collect();
    let long = "x".repeat(1000);
    for round in 0..20 {
        for &subscription in &subscriptions {
            fixture.push(subscription, &format!("{round} {long}"));
        }
        // Replaced in the outbox on odd rounds, in the hands of the driver otherwise.
        if round % 2 == 0 {
            fixture.settle().await;
        }
    }
    fixture.settle().await;
    let mut seen = 0;
    while seen < subscriptions.len() {
        seen += usize::from(fixture.text().await.contains("19 x"));
    }
    fixture.settle().await;
    let [pushes, coalesced] = fixture.totals([Count::Pushes, Count::Coalesced]);
    assert_eq!(pushes + coalesced, 60, "{pushes} pushes");
    assert!(coalesced >= 30, "{coalesced} replaced");
}

#[tokio::test]
async fn a_push_that_the_session_no_longer_wants_is_not_counted_and_missed_changes_are() {
    let mut fixture = Fixture::new().await;
    fixture.push(SubscriptionId::next(), "gone");
    let subscription = fixture.subscribe();
    fixture.outbox.push(subscription, Update::Missed { changes: 41, seq: 9 });
    assert!(fixture.text().await.contains(r#""missed":41"#));
    fixture.settle().await;
    assert_eq!(fixture.totals([Count::Pushes, Count::MissedChanges]), [1, 41]);
}

#[tokio::test]
async fn a_close_of_the_server_is_counted_once_and_one_of_the_client_is_not() {
    let mut fixture = Fixture::new().await;
    fixture.outbox.request_close(CloseCode::GoingAway);
    fixture.outbox.request_close(CloseCode::HeartbeatTimeout);
    fixture.close_code().await;
    fixture.driver.await.expect("it ends");
    let closes = CloseCode::ALL.map(|code| fixture.counters.total_of_closes(code));
    assert_eq!(closes.iter().sum::<u64>(), 1);
    assert_eq!(fixture.counters.total_of_closes(CloseCode::GoingAway), 1);

    let mut fixture = Fixture::new().await;
    fixture.client.close(None).await.expect("the connection is open");
    drop(fixture.client);
    fixture.driver.await.expect("it ends");
    assert!(CloseCode::ALL.iter().all(|code| fixture.counters.total_of_closes(*code) == 0));
}

#[tokio::test]
async fn an_answer_comes_before_the_updates_behind_it_also_where_the_task_has_had_its_share() {
    let mut fixture = Fixture::new().await;
    let subscription = SubscriptionId::next();
    fixture.script.held.lock().insert(subscription);
    for (id, request) in [(1, "wait"), (2, "store.insert")] {
        fixture.send(id, request).await;
        fixture.settle().await;
        fixture.worn_out.store(true, Ordering::Relaxed);
        fixture.script.release_first();
        fixture.outbox.push(subscription, Update::Failed(StoreError::Closed));
        fixture.expect_answers(&[id]).await;
        assert!(fixture.text().await.contains("subscription_error"));
    }
}
