//! The WebSocket protocol, frame by frame, against the built server: what RFC 6455 asks of a server, in the order of
//! the cases of the Autobahn suite that apply without compression.
//!
//! Requests are no echo. What a text message held is proved by its answer: an unknown operation is named in it.

mod cases;
mod wire;

use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::wire::{Arrival, Wire, close, ping};
use crate::support::TestServer;

/// The longest message that the server takes in these tests.
const PAYLOAD_MAX: usize = 128 * 1024;

/// How long one case may take: far more than it needs, far less than anybody would wait.
const PATIENCE: Duration = Duration::from_secs(20);

/// How the bytes of a case are cut into writes.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    /// All at once.
    Whole,
    /// So many at a time.
    Every(usize),
}

/// How a case ends.
#[derive(Clone, Debug)]
pub enum End {
    /// The connection goes on: a ping is answered, and a close with 1000 is echoed.
    Open,
    /// The server sends a close frame with this code, or without one, and then ends the stream.
    Closed(Option<u16>),
}

/// One row of the table.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    /// What the client writes.
    pub sent: Vec<u8>,
    pub cut: Cut,
    /// The text messages that come back, in order.
    pub texts: Vec<String>,
    /// The payloads of the pongs that come back, in order.
    pub pongs: Vec<Vec<u8>>,
    pub end: End,
}

/// All that a connection sent, and how it ended.
#[derive(Debug, Default)]
struct Heard {
    texts: Vec<String>,
    pongs: Vec<Vec<u8>>,
}

impl Heard {
    /// Reads on until the server closes, or until a pong with this payload.
    async fn listen(&mut self, wire: &mut Wire, last_pong: Option<&[u8]>) -> Result<Option<End>, String> {
        loop {
            match wire.next().await? {
                Arrival::Text(text) => self.texts.push(text),
                Arrival::Pong(payload) if Some(&*payload) == last_pong => return Ok(None),
                Arrival::Pong(payload) => self.pongs.push(payload),
                Arrival::Close(code) => return Ok(Some(End::Closed(code))),
            }
        }
    }
}

impl Case {
    async fn run(&self, port: u16) -> Result<(), String> {
        let mut wire = Wire::open(port).await?;
        // Where the server gives up half-way, the rest cannot be written, and the close frame says why.
        let written = wire.write(&self.sent, self.cut).await;
        let mut heard = Heard::default();
        match self.end {
            End::Open => {
                written?;
                const LAST: &[u8] = b"the last";
                wire.write(&ping(LAST), Cut::Whole).await?;
                if let Some(end) = heard.listen(&mut wire, Some(LAST)).await? {
                    return Err(format!("{end:?} after {heard:?}"));
                }
                wire.write(&close(&1000_u16.to_be_bytes()), Cut::Whole).await?;
                self.expect_close(&mut wire, &mut heard, Some(1000)).await?;
            }
            End::Closed(code) => self.expect_close(&mut wire, &mut heard, code).await?,
        }
        if heard.texts != self.texts {
            return Err(format!("other texts: {:?}", shortened(&heard.texts)));
        }
        if heard.pongs != self.pongs {
            return Err(format!("other pongs: {:?}", heard.pongs));
        }
        wire.expect_end().await
    }

    async fn expect_close(&self, wire: &mut Wire, heard: &mut Heard, code: Option<u16>) -> Result<(), String> {
        match heard.listen(wire, None).await? {
            Some(End::Closed(got)) if got == code => Ok(()),
            other => Err(format!("{other:?} in the place of {code:?}, after {heard:?}")),
        }
    }
}

fn shortened(texts: &[String]) -> Vec<String> {
    texts.iter().map(|text| text.chars().take(100).collect()).collect()
}

/// Runs all cases side by side against one server and lists those that fail.
async fn check(cases: Vec<Case>) {
    let server = TestServer::start(json!({ "maxPayloadBytes": PAYLOAD_MAX, "durability": "memory" })).await;
    let port = server.port();
    let mut running = JoinSet::new();
    for case in cases {
        running.spawn(async move {
            let outcome = timeout(PATIENCE, case.run(port)).await;
            let outcome = outcome.unwrap_or_else(|_| Err("took too long".to_owned()));
            outcome.map_err(|why| format!("{} ({:?}): {why}", case.name, case.cut))
        });
    }
    let mut failures: Vec<String> = running.join_all().await.into_iter().filter_map(Result::err).collect();
    failures.sort();
    assert!(failures.is_empty(), "{} cases fail:\n{}", failures.len(), failures.join("\n"));
    // Whatever was done to it, it goes on serving others.
    server.connect().await.result("store.buckets", json!({})).await;
}

#[tokio::test]
async fn frames_of_any_length_arrive_whole_also_octet_by_octet() {
    check(cases::framing()).await;
}

#[tokio::test]
async fn pings_are_answered_and_pongs_are_not() {
    check(cases::pings()).await;
}

#[tokio::test]
async fn what_the_protocol_reserves_closes_the_connection() {
    check(cases::reserved()).await;
}

#[tokio::test]
async fn fragments_make_one_message_and_control_frames_may_come_between() {
    check(cases::fragmentation()).await;
}

#[tokio::test]
async fn text_is_utf_8_however_it_is_cut() {
    check(cases::utf8()).await;
}

#[tokio::test]
async fn a_close_is_answered_and_nothing_after_it_counts() {
    check(cases::closing()).await;
}

#[tokio::test]
async fn messages_end_at_the_limit_in_one_frame_and_in_many() {
    check(cases::limits()).await;
}
