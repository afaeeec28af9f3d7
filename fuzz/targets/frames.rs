//! Bytes from a peer into the real connection code, with a store behind it: what comes back are sound frames, every
//! request is answered once, and the connection ends when the peer has gone.
//!
//! An input that begins with `r` is put on the wire as it is, in pieces whose length the second byte says. Any other
//! is a script of lines, the first letter of each saying what happens: `T` a text message, `F` one in many frames, `B`
//! a binary message, `P` a ping, `O` a pong, `C` a close frame, `h` the server's heartbeat, `o` its patience ending,
//! `s` the server stopping, `w` a second passing. In messages `@cursor` and `@sub` stand for the last cursor and the last
//! subscription that the server has named.

#![no_main]

use std::cell::RefCell;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use noex_server::protocol::Envelope;
use noex_server::server::fuzzing::{Handle, open};
use noex_server::store::query::QueryDefinition;
use noex_server::store::{BucketDefinition, Store};
use noex_server_fuzz::{NOW, new_store, run, settle};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::time::timeout;

/// What the stream between peer and server holds: little, so that both sides wait for each other.
const STREAM_BYTES: usize = 512;

/// Far longer than the longest script takes, and a connection to end afterwards; the time is not spent, only counted.
const PATIENCE: Duration = Duration::from_secs(100_000);

/// The longest message that the server takes here.
const PAYLOAD_MAX: usize = 4 * 1024;

const PING_TIME: u64 = 1_790_000_000_000;

fuzz_target!(|data: &[u8]| run(connect(data)));

async fn connect(data: &[u8]) {
    let store = prepare().await;
    let (server, peer) = tokio::io::duplex(STREAM_BYTES);
    let (handle, serving) = open(server, Vec::new(), &store).await;
    let (reading, writing) = tokio::io::split(peer);
    let named = RefCell::new(Named::default());
    let listening = Listener::new(&named).listen(reading);
    let script = speak(data, writing, handle, &named);
    let ending = async {
        timeout(PATIENCE, serving)
            .await
            .expect("the connection ends when its peer has gone")
    };
    let ((), heard, expected) = tokio::join!(ending, listening, script);
    if let Some(expected) = expected
        && heard.close.is_none()
    {
        assert_eq!(heard.answers, expected, "requests and answers");
    }
    settle().await;
    assert_eq!(
        store.stats().queries.active_subscriptions,
        0,
        "subscriptions outlive their connection"
    );
    store.close().await.expect("a store in memory closes");
}

/// A store in which requests find something.
async fn prepare() -> Store {
    let store = new_store(|| NOW).await;
    let config =
        json!({ "key": "id", "schema": { "id": { "type": "string" }, "n": { "type": "number" } }, "indexes": ["n"], "maxSize": 50 });
    let definition = BucketDefinition::from_value(&config).expect("a sound definition");
    store.define_bucket("t", definition).await.expect("the name is free");
    for at in 0..10 {
        let record = json!({ "id": format!("k{at}"), "n": at % 3 });
        store.bucket("t").insert(&record).await.expect("a sound record");
    }
    let query = QueryDefinition::from_value(&json!({ "bucket": "t", "sort": { "n": "desc" }, "limit": 5 })).expect("a sound query");
    store.define_query("q", query).await.expect("the name is free");
    store
}

/// What the peer does. Tells how many answers it must get, where that is known.
async fn speak(data: &[u8], mut wire: WriteHalf<DuplexStream>, handle: Handle, named: &RefCell<Named>) -> Option<usize> {
    let expected = match data {
        [b'r', size, bytes @ ..] => {
            for piece in bytes.chunks(usize::from(*size).max(1)) {
                // An error says that the server has ended the connection.
                if wire.write_all(piece).await.is_err() {
                    break;
                }
            }
            None
        }
        _ => follow(data, &mut wire, &handle, named).await,
    };
    // All that is owed is answered before the peer goes.
    tokio::time::sleep(Duration::from_secs(10)).await;
    let _ = wire.shutdown().await;
    expected
}

async fn follow(script: &[u8], wire: &mut WriteHalf<DuplexStream>, handle: &Handle, named: &RefCell<Named>) -> Option<usize> {
    let mut expected = Some(0);
    for line in script.split(|byte| *byte == b'\n') {
        let Some((kind, payload)) = line.split_first() else { continue };
        let payload = &*named.borrow().fill(payload);
        let bytes = match kind {
            b'T' => frame(0x81, payload),
            b'F' => fragments(payload),
            b'B' => frame(0x82, payload),
            b'P' => frame(0x89, payload),
            b'O' => frame(0x8A, payload),
            b'C' => frame(0x88, payload),
            b'h' => {
                handle.ping(PING_TIME);
                continue;
            }
            b'o' => {
                handle.pong_overdue(PING_TIME);
                expected = None;
                continue;
            }
            b's' => {
                handle.close();
                expected = None;
                continue;
            }
            _ => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
        };
        match kind {
            b'T' | b'F' => count(&mut expected, payload),
            b'P' | b'O' if payload.len() <= 125 => {}
            // The connection ends, and how much of what came before is answered is its affair.
            _ => expected = None,
        }
        if wire.write_all(&bytes).await.is_err() {
            return None;
        }
    }
    expected
}

/// One more answer is due, unless the message is a pong or none that is answered.
fn count(expected: &mut Option<usize>, payload: &[u8]) {
    match std::str::from_utf8(payload) {
        Ok(text) if payload.len() <= PAYLOAD_MAX => {
            if !matches!(Envelope::parse(text), Ok(Envelope::Pong { .. })) {
                *expected = expected.map(|answers| answers + 1);
            }
        }
        Ok(_) | Err(_) => *expected = None,
    }
}

/// A frame whose mask changes nothing, so that the fuzzer sees what the server sees.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..=125 => bytes.push(0x80 | short as u8),
        long => {
            bytes.push(0x80 | 127);
            bytes.extend((long as u64).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

fn fragments(payload: &[u8]) -> Vec<u8> {
    let mut bytes = frame(0x01, b"");
    for piece in payload.chunks(7) {
        bytes.extend(frame(0x00, piece));
        bytes.extend(frame(0x89, b"between"));
    }
    bytes.extend(frame(0x80, b""));
    bytes
}

/// What the server has named last.
#[derive(Default)]
struct Named {
    cursor: String,
    subscription: String,
}

impl Named {
    fn hear(&mut self, message: &Value) {
        if let Some(cursor) = message["cursor"].as_str() {
            self.cursor = cursor.to_owned();
        }
        if let Some(subscription) = message["subscriptionId"].as_str() {
            self.subscription = subscription.to_owned();
        }
    }

    fn fill(&self, payload: &[u8]) -> Vec<u8> {
        match std::str::from_utf8(payload) {
            Ok(text) if text.contains('@') => {
                let text = text.replace("@cursor", &self.cursor).replace("@sub", &self.subscription);
                text.into_bytes()
            }
            Ok(_) | Err(_) => payload.to_vec(),
        }
    }
}

/// What the peer heard.
struct Listener<'n> {
    named: &'n RefCell<Named>,
    answers: usize,
    close: Option<Vec<u8>>,
}

impl<'n> Listener<'n> {
    fn new(named: &'n RefCell<Named>) -> Self {
        Self {
            named,
            answers: 0,
            close: None,
        }
    }

    /// Reads to the end and checks every frame.
    async fn listen(mut self, mut wire: ReadHalf<DuplexStream>) -> Self {
        let mut head = [0; 2];
        while wire.read_exact(&mut head).await.is_ok() {
            assert!(self.close.is_none(), "a frame after the close frame");
            let [first, second] = head;
            assert_eq!(second & 0x80, 0, "the server masks a frame");
            let length = match second {
                126 => u64::from(wire.read_u16().await.expect("a header is whole")),
                127 => wire.read_u64().await.expect("a header is whole"),
                short => u64::from(short),
            };
            let mut payload = vec![0; usize::try_from(length).expect("a payload fits")];
            wire.read_exact(&mut payload).await.expect("a payload is whole");
            match first {
                0x81 => self.take_text(&payload),
                0x8A => assert!(payload.len() <= 125),
                0x88 => self.close = Some(payload),
                other => panic!("the server sends a frame of the kind {other:#x}"),
            }
        }
        self
    }

    fn take_text(&mut self, payload: &[u8]) {
        let message: Value = serde_json::from_slice(payload).expect("messages are JSON");
        let mut named = self.named.borrow_mut();
        named.hear(&message);
        named.hear(&message["data"]);
        match message["type"].as_str() {
            Some("result" | "error") => {
                assert!(message["id"].is_number());
                assert_ne!(message["code"], "INTERNAL_ERROR", "{message}");
                self.answers += 1;
            }
            Some("welcome" | "ping" | "push" | "system") => {}
            other => panic!("a message of the type {other:?}"),
        }
    }
}
