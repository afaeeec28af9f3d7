//! Connections under strain: clients that read slowly or not at all, pongs behind long requests, large messages.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::time::{Instant, advance};
use tokio_tungstenite::tungstenite::Message;

use super::Sessions;
use super::driver::Driver;
use super::driver_tests::{Fixture, LIMITS, pushed};
use super::fake_session::{SCOPE, Script, answer, large_answer, opening};
use super::outbox::Outbox;
use super::socket::Socket;
use crate::protocol::{SubscriptionId, message};
use crate::server::admission::Admission;
use crate::server::statistics::{ConnectionCounters, ConnectionFigures};
use crate::store::{ChangeSet, Sink as _, StoreError, Update};

/// More than fits into the stream and between the marks.
async fn overwhelm(fixture: &Fixture) -> SubscriptionId {
    let subscription = fixture.subscribe();
    for round in 0..10 {
        fixture.push(subscription, &format!("{round} {}", "x".repeat(1000)));
        fixture.settle().await;
    }
    subscription
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_is_dropped_after_the_grace_period_and_not_before() {
    let fixture = Fixture::new().await;
    overwhelm(&fixture).await;
    let begun = Instant::now();
    fixture.driver.await.expect("it ends");
    let lasted = begun.elapsed();
    // Until it is closed, and then as long as a peer has to answer a close frame.
    assert!(
        (LIMITS.grace..=LIMITS.grace + Duration::from_millis(1100)).contains(&lasted),
        "{lasted:?}"
    );
    assert_eq!(fixture.script.open.load(Ordering::Acquire), 0);
}

/// Three writes on their way, and as much unsent as may be, of pushes that have all been sent.
async fn owe_much(fixture: &mut Fixture) {
    for id in 1..=3 {
        let insert = format!("{{\"id\":{id},\"type\":\"store.insert\",\"bytes\":900}}");
        fixture.send_text(&insert).await;
    }
    let subscription = fixture.subscribe();
    while fixture.unsent() < LIMITS.high_water_bytes {
        fixture.push(subscription, &"x".repeat(1000));
        fixture.settle().await;
    }
    for _ in 0..3 {
        fixture.script.release_first();
    }
    fixture.settle().await;
}

#[tokio::test]
async fn answers_that_a_client_does_not_take_are_not_written_out_and_all_come_when_it_does() {
    let mut fixture = Fixture::new().await;
    owe_much(&mut fixture).await;
    let unsent = fixture.unsent();
    assert!(unsent < LIMITS.high_water_bytes + 1200, "{unsent}");
    let mut answers = Vec::new();
    while answers.len() < 3 {
        let text = fixture.text().await;
        if text.contains("filling") {
            answers.push(text.into_bytes());
        }
    }
    assert_eq!(answers, [1, 2, 3].map(|id| large_answer(id, 900)));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_take_its_answers_is_dropped_after_the_grace_period() {
    let mut fixture = Fixture::new().await;
    owe_much(&mut fixture).await;
    let begun = Instant::now();
    fixture.driver.await.expect("it ends");
    assert!(begun.elapsed() >= LIMITS.grace - Duration::from_millis(1));
    assert_eq!(fixture.script.open.load(Ordering::Acquire), 0);
}

#[tokio::test]
async fn no_more_answers_are_on_their_way_than_may_be_unsent() {
    let mut fixture = Fixture::new().await;
    for id in 1..=3 {
        fixture
            .send_text(&format!("{{\"id\":{id},\"type\":\"store.insert\",\"bytes\":1500}}"))
            .await;
    }
    fixture.settle().await;
    assert_eq!(fixture.handled(), [1, 2]);
    fixture.script.release_first();
    fixture.settle().await;
    assert_eq!(fixture.handled(), [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_wakes_up_too_late_is_told_that_it_was_too_slow() {
    let mut fixture = Fixture::new().await;
    overwhelm(&fixture).await;
    advance(LIMITS.grace).await;
    fixture.settle().await;
    assert_eq!(fixture.close_code().await, (4004, "too_slow".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_wakes_up_in_time_stays_and_gets_the_newest_state() {
    let mut fixture = Fixture::new().await;
    let subscription = overwhelm(&fixture).await;
    advance(LIMITS.grace - Duration::from_millis(1)).await;
    fixture.settle().await;
    while fixture.text().await != pushed(subscription, &format!("9 {}", "x".repeat(1000))) {}
    advance(LIMITS.grace * 2).await;
    fixture.send(1, "store.get").await;
    fixture.expect_answers(&[1]).await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_but_steady_reader_stays() {
    let mut fixture = Fixture::new().await;
    let subscription = overwhelm(&fixture).await;
    for round in 0..50 {
        fixture.push(subscription, &format!("{round} {}", "x".repeat(1000)));
        advance(LIMITS.grace * 9 / 10).await;
        fixture.settle().await;
        fixture.text().await;
        fixture.settle().await;
    }
    assert!(!fixture.driver.is_finished());
}

/// Reads so many bytes every tenth of the grace period of an answer that is far larger than the hard limit. Tells
/// whether the client stayed.
async fn stays_when_it_reads(bytes: usize) -> bool {
    let mut fixture = Fixture::new().await;
    fixture.send_text(r#"{"id":1,"type":"large","bytes":60000}"#).await;
    let mut buffer = vec![0; bytes];
    for _ in 0..100 {
        fixture.settle().await;
        advance(LIMITS.grace / 10).await;
        fixture.settle().await;
        let read = fixture.client.get_mut().read_exact(&mut buffer).await;
        if read.is_err() {
            return false;
        }
    }
    !fixture.driver.is_finished()
}

#[tokio::test(start_paused = true)]
async fn a_large_answer_may_take_its_time_as_long_as_it_is_read_at_a_reasonable_pace() {
    assert!(stays_when_it_reads(LIMITS.hard_limit_bytes * 12 / 100).await);
    assert!(!stays_when_it_reads(LIMITS.hard_limit_bytes * 8 / 100).await);
}

fn changes(seq: u64, bytes: usize) -> ChangeSet {
    ChangeSet::new(seq, 2, Bytes::from(format!("[\"{}\"]", "x".repeat(bytes))))
}

#[tokio::test]
async fn a_follower_that_reads_too_slowly_gets_a_gap_with_a_count_and_the_changes_before_and_after_it() {
    let mut fixture = Fixture::new().await;
    let subscription = fixture.subscribe();
    for seq in 1..=20 {
        fixture.outbox.push(subscription, Update::Changes(Arc::new(changes(seq, 900))));
        fixture.settle().await;
    }
    let mut next = 1;
    let mut missed = 0;
    while next <= 20 {
        let push = fixture.text().await.into_bytes();
        if push == message::push_changes(subscription, changes(next, 900).data(), SCOPE.at(next)) {
            next += 1;
            continue;
        }
        let gap: serde_json::Value = serde_json::from_slice(&push).expect("JSON");
        missed += gap["missed"].as_u64().expect("a gap");
        let last = next - 1 + gap["missed"].as_u64().expect("a gap") / 2;
        assert_eq!(
            push,
            message::push_missed(subscription, gap["missed"].as_u64().expect("a gap"), SCOPE.at(last))
        );
        next = last + 1;
    }
    assert!(missed > 0, "more than may be held");
}

#[tokio::test]
async fn a_pong_passes_requests_that_wait_for_a_long_one() {
    let mut fixture = Fixture::new().await;
    fixture.send(1, "wait").await;
    fixture.send(2, "store.insert").await;
    fixture.outbox.ping(77);
    fixture.send_text(r#"{"type":"pong","timestamp":77}"#).await;
    fixture.settle().await;
    assert!(!fixture.outbox.awaits_pong(77));
    assert_eq!(fixture.handled(), [1]);
}

#[tokio::test]
async fn a_pong_behind_more_requests_than_are_read_ahead_still_counts() {
    let mut fixture = Fixture::new().await;
    fixture.send(1, "wait").await;
    for id in 2..=60 {
        fixture.send(id, "store.get").await;
    }
    fixture.outbox.ping(77);
    fixture.send_text(r#"{"type":"pong","timestamp":77}"#).await;
    fixture.settle().await;
    for _ in 0..3 {
        assert!(fixture.outbox.pong_overdue(77), "it is not read yet");
        fixture.settle().await;
    }
    fixture.script.release_first();
    assert_eq!(fixture.text().await.into_bytes(), message::ping(77));
    fixture.expect_answers(&(1..=60).collect::<Vec<_>>()).await;
    assert!(!fixture.outbox.pong_overdue(77));
}

#[tokio::test]
async fn a_client_that_dies_while_its_long_request_is_served_is_given_up_when_its_time_is_up() {
    let mut fixture = Fixture::new().await;
    fixture.send(1, "wait").await;
    fixture.outbox.ping(77);
    fixture.settle().await;
    fixture.outbox.pong_overdue(77);
    assert_eq!(fixture.close_code().await, (4001, "heartbeat_timeout".to_owned()));
}

#[tokio::test]
async fn a_client_that_disconnects_while_its_long_request_is_served_is_noticed_at_once() {
    let mut fixture = Fixture::new().await;
    fixture.send(1, "wait").await;
    fixture.settle().await;
    let Fixture {
        client, driver, script, ..
    } = fixture;
    drop(client);
    driver.await.expect("it ends");
    assert_eq!(script.open.load(Ordering::Acquire), 0);
    assert_eq!(script.waiting(), 1, "its request was never released");
}

#[tokio::test]
async fn what_was_sent_before_a_close_is_carried_out_also_behind_a_long_request() {
    let mut fixture = Fixture::new().await;
    fixture.send(1, "wait").await;
    fixture.send(2, "wait").await;
    fixture.send(3, "store.insert").await;
    fixture.client.send(Message::Close(None)).await.expect("the connection is open");
    fixture.settle().await;
    for handled in [&[1][..], &[1, 2]] {
        assert_eq!(fixture.handled(), handled);
        fixture.script.release_first();
        fixture.settle().await;
    }
    fixture.driver.await.expect("it ends");
    assert_eq!(fixture.script.handled.lock().as_slice(), [1, 2, 3]);
}

/// A client in the middle of a large answer, with a ping waiting behind it.
async fn reading_a_large_answer() -> Fixture {
    let mut fixture = Fixture::new().await;
    fixture.send_text(r#"{"id":1,"type":"large","bytes":50000}"#).await;
    fixture.settle().await;
    fixture.outbox.ping(77);
    fixture.settle().await;
    fixture
}

#[tokio::test]
async fn a_client_is_not_given_up_while_it_reads_what_stands_before_the_ping() {
    let mut fixture = reading_a_large_answer().await;
    let mut received = vec![0; 20_000];
    fixture
        .client
        .get_mut()
        .read_exact(&mut received[..10_000])
        .await
        .expect("the stream is open");
    fixture.settle().await;
    fixture.outbox.pong_overdue(77);
    fixture.settle().await;
    fixture
        .client
        .get_mut()
        .read_exact(&mut received[10_000..])
        .await
        .expect("the stream is open");
    fixture.settle().await;
    fixture.outbox.pong_overdue(77);
    fixture.settle().await;
    assert!(!fixture.driver.is_finished());
    // From here on the ping is on its way: it has its time from now.
    let frame_bytes = 4 + large_answer(1, 50_000).len();
    let mut rest = vec![0; frame_bytes - 20_000 + 2 + message::ping(77).len()];
    fixture.client.get_mut().read_exact(&mut rest).await.expect("the stream is open");
    fixture.settle().await;
    fixture.outbox.pong_overdue(77);
    fixture.settle().await;
    fixture.send_text(r#"{"type":"pong","timestamp":77}"#).await;
    fixture.send(2, "store.get").await;
    fixture.expect_answers(&[2]).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_of_what_it_is_sent_is_given_up_when_its_time_is_up() {
    let fixture = reading_a_large_answer().await;
    fixture.outbox.pong_overdue(77);
    let begun = Instant::now();
    fixture.driver.await.expect("it ends");
    assert!(begun.elapsed() < Duration::from_millis(1100), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_connection_goes_on_with_new_buffers_after_large_messages() {
    let mut fixture = Fixture::new().await;
    let filling = "y".repeat(900);
    for id in 1..=20 {
        fixture.outbox.ping(id.try_into().expect("positive"));
        fixture.text().await;
        fixture
            .send_text(&format!(
                "{{\"id\":{id},\"type\":\"large\",\"bytes\":300000,\"filling\":\"{filling}\"}}"
            ))
            .await;
        assert_eq!(fixture.text().await.into_bytes(), large_answer(id, 300_000));
        fixture.settle().await;
        fixture.send_text(&format!("{{\"type\":\"pong\",\"timestamp\":{id}}}")).await;
        fixture.send(id, "store.get").await;
        assert_eq!(fixture.text().await.into_bytes(), answer(id));
    }
}

#[tokio::test]
async fn buffers_are_renewed_only_between_messages_and_when_nothing_is_on_its_way() {
    let (server, mut client) = tokio::io::duplex(1 << 20);
    let mut socket = Socket::new(server, Vec::new(), 1 << 20).await;
    let receive = |socket: &mut Socket<DuplexStream>| {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        socket.poll_receive(&mut cx).is_ready()
    };
    let head = [&[0x81, 0xff][..], &300_000_u64.to_be_bytes(), &[0; 4]].concat();
    client.write_all(&head).await.expect("the stream is open");
    client.write_all(&[b'a'; 300_000]).await.expect("the stream is open");
    std::future::poll_fn(|cx| socket.poll_receive(cx)).await;
    assert!(!socket.should_be_renewed(true), "nobody has looked whether there is more");
    // Half of another message.
    client.write_all(&[0x81, 0x83, 0, 0, 0, 0, b'a']).await.expect("the stream is open");
    assert!(!receive(&mut socket));
    assert!(!socket.should_be_renewed(true), "a message is being read");
    client.write_all(b"bc").await.expect("the stream is open");
    assert!(receive(&mut socket) && !receive(&mut socket));
    socket.send(b"{}".to_vec());
    assert!(!socket.should_be_renewed(true), "a message is being sent");
    let flushed = std::future::poll_fn(|cx| socket.poll_flush(cx)).await;
    flushed.expect("the stream is open");
    assert!(socket.should_be_renewed(false));
    let socket = socket.renewed().await;
    assert!(!socket.should_be_renewed(true), "there is nothing more to gain");
}

#[tokio::test]
async fn buffers_are_renewed_at_rest_also_after_many_small_messages_at_once() {
    let (server, _client) = tokio::io::duplex(1 << 20);
    let mut socket = Socket::new(server, Vec::new(), 1 << 20).await;
    for (messages, renewed) in [(1, false), (2000, true), (1, false)] {
        for _ in 0..messages {
            socket.send(vec![b'a'; 40]);
        }
        let flushed = std::future::poll_fn(|cx| socket.poll_flush(cx)).await;
        flushed.expect("the stream is open");
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(socket.poll_receive(&mut cx).is_pending());
        assert!(!socket.should_be_renewed(false), "it may be needed again at once");
        assert_eq!(socket.should_be_renewed(true), renewed, "{messages} messages");
        if renewed {
            socket = socket.renewed().await;
        }
    }
}

/// A stream that counts how often something is written to it.
struct Counted {
    stream: DuplexStream,
    writes: Arc<AtomicUsize>,
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn what_a_round_has_to_say_goes_out_in_one_write() {
    let (stream, mut client) = tokio::io::duplex(1 << 16);
    let writes = Arc::new(AtomicUsize::new(0));
    let server = Counted {
        stream,
        writes: Arc::clone(&writes),
    };
    let script = Arc::new(Script::default());
    let outbox = Arc::new(Outbox::new(LIMITS.held));
    let session = script.open(opening(&outbox));
    for text in ["a", "b", "c"] {
        let subscription = SubscriptionId::next();
        script.held.lock().insert(subscription);
        outbox.push(subscription, Update::Failed(StoreError::QueryFailed(text.to_owned())));
    }
    outbox.ping(7);
    for id in 1..=9 {
        let request = format!("{{\"id\":{id},\"type\":\"store.get\"}}");
        let frame = [&[0x81, 0x80 | request.len() as u8, 0, 0, 0, 0], request.as_bytes()].concat();
        client.write_all(&frame).await.expect("the stream is open");
    }
    let socket = Socket::new(server, Vec::new(), LIMITS.message_bytes_max).await;
    let counters = ConnectionCounters::new(Arc::default(), ConnectionFigures::new(0));
    let driver = tokio::spawn(Box::new(Driver::new(socket, session, outbox, LIMITS, Admission::unlimited(), counters)).run(b"{}".to_vec()));
    let mut received = Vec::new();
    while !received.ends_with(&answer(9)) {
        assert!(client.read_buf(&mut received).await.expect("the stream is open") > 0);
    }
    let text = String::from_utf8_lossy(&received);
    assert_eq!(text.matches("subscription_error").count(), 3, "{text}");
    assert_eq!(text.matches("ping").count(), 1, "{text}");
    assert_eq!(writes.load(Ordering::Relaxed), 1);
    driver.abort();
}
