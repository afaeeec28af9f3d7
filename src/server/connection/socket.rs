//! A WebSocket from the server's side: messages in, bytes counted out. It knows frames and no message's meaning.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink, Stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode as WireCode, Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::frame::{CloseFrame, Frame, Utf8Bytes};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::meter::Meter;
use crate::protocol::CloseCode;
use crate::server::statistics::Traffic;

/// Read ahead of one socket: some ten usual requests. It is allocated for every connection, idle ones too: 13 MB
/// for 10,000.
const READ_BUFFER_BYTES: usize = 1280;

/// The most that is in the hands of the WebSocket layer, but for the last message. What is
/// handed over is copied into frames and can no longer be held back, so that the rest waits here.
const FLUSH_BYTES: usize = 64 * 1024;

/// A message above this leaves buffers of its size behind that are worth giving back once the connection is at rest.
const LARGE_BYTES: usize = 8 * 1024;

/// A message above this leaves so much behind that it is given back at the first opportunity.
const HUGE_BYTES: usize = 256 * 1024;

/// What a frame adds to its payload, at most, when the server sends it.
const FRAME_HEADER_BYTES: usize = 10;

/// The most that a control frame of the server takes.
const CONTROL_FRAME_BYTES: usize = 2 + 125;

/// The most that pongs take up which the client does not read. Some five hundred of them.
const PONGS_BYTES_MAX: usize = 64 * 1024;

/// How long a peer may take to answer a close frame, or to notice that the server is done with it.
pub(super) const LINGER: Duration = Duration::from_secs(1);

/// What arrives on a socket.
#[derive(Debug, PartialEq)]
pub(super) enum Incoming {
    /// A text message.
    Text(Utf8Bytes),
    /// A binary message. Its content is of no interest.
    Binary,
    /// A WebSocket ping or pong. The former is answered by itself.
    Control,
    /// The peer begins to close, or confirms our close.
    Close,
    /// Something that is no sound message: the connection has to be closed with this code. Nothing more can be read.
    Fault(CloseCode),
    /// The peer is gone.
    Gone,
}

/// A WebSocket over any byte stream.
pub(super) struct Socket<S> {
    stream: WebSocketStream<Meter<S>>,
    config: WebSocketConfig,
    /// Messages that wait for their turn to be framed.
    waiting: VecDeque<Bytes>,
    waiting_bytes: usize,
    /// How many bytes the system will have taken when all that was framed is sent, or a few more.
    framed_up_to: u64,
    /// The bytes of the pongs that were framed since nothing was unsent.
    pongs_bytes: usize,
    /// What has passed through.
    traffic: Traffic,
    /// The close frame to send after all that waits.
    close_frame: Option<CloseFrame>,
    /// Whether something arrived after which nothing can be read as frames any more.
    faulted: bool,
    /// Whether the peer has begun to close: it is sent nothing any more.
    peer_closed: bool,
    /// Whether nothing had arrived when it was last looked.
    all_read: bool,
    /// The largest message since the buffers were made, or the most that was framed and not sent.
    largest_bytes: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// Takes over a stream after the handshake, with what has already been read from it.
    pub(super) async fn new(stream: S, already_read: Vec<u8>, message_bytes_max: usize) -> Self {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(FLUSH_BYTES)
            .max_message_size(Some(message_bytes_max))
            .max_frame_size(Some(message_bytes_max));
        let meter = Meter::new(stream, &already_read);
        let stream = WebSocketStream::from_partially_read(meter, already_read, Role::Server, Some(config)).await;
        Self {
            stream,
            config,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            framed_up_to: 0,
            pongs_bytes: 0,
            traffic: Traffic::default(),
            close_frame: None,
            faulted: false,
            peer_closed: false,
            all_read: false,
            largest_bytes: 0,
        }
    }

    /// Whether [`Socket::renewed`] would free enough to be worth it, and nothing is on its way in or out. A socket
    /// that `rests` anyway gives back what a busy one would need again.
    pub(super) fn should_be_renewed(&self, rests: bool) -> bool {
        let worth_it = self.largest_bytes > if rests { LARGE_BYTES } else { HUGE_BYTES };
        worth_it && self.all_read && self.unsent() == 0 && !self.faulted && self.stream.get_ref().is_between_messages()
    }

    /// The same socket with new buffers. Those that there are have grown with the largest message and never shrink:
    /// the one for reading holds on to the whole of it.
    pub(super) async fn renewed(self) -> Self {
        let meter = self.stream.into_inner();
        let stream = WebSocketStream::from_raw_socket(meter, Role::Server, Some(self.config)).await;
        Self {
            stream,
            waiting: VecDeque::new(),
            largest_bytes: 0,
            ..self
        }
    }

    /// Whether nothing is to be received before the client has taken the pongs that it has asked for: the WebSocket
    /// layer keeps one for every ping, and each may be as large as the ping. The task is woken when that is over.
    pub(super) fn must_send_first(&mut self, cx: &mut Context<'_>) -> bool {
        self.pongs_bytes >= PONGS_BYTES_MAX && self.poll_flush(cx).is_pending()
    }

    /// The next thing that arrives.
    pub(super) fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        // What is already answered goes out before the answer to a ping or a close that arrives now: after the latter
        // nothing could be sent any more. An error shows again when this is flushed.
        let _ = self.frame_waiting(cx);
        let polled = Pin::new(&mut self.stream).poll_next(cx);
        self.all_read = polled.is_pending();
        let incoming = match ready!(polled) {
            Some(Ok(Message::Text(text))) => {
                self.largest_bytes = self.largest_bytes.max(text.len());
                self.traffic.receive(text.len());
                Incoming::Text(text)
            }
            Some(Ok(Message::Binary(bytes))) => {
                self.traffic.receive(bytes.len());
                Incoming::Binary
            }
            Some(Ok(Message::Ping(_))) => {
                // The pong is queued in the WebSocket layer. It counts, or a flood of pings would grow the queue
                // of a client that reads nothing.
                self.framed_up_to += CONTROL_FRAME_BYTES as u64;
                self.pongs_bytes += CONTROL_FRAME_BYTES;
                Incoming::Control
            }
            Some(Ok(Message::Pong(_) | Message::Frame(_))) => Incoming::Control,
            Some(Ok(Message::Close(_))) => {
                // Its answer is queued in the WebSocket layer, and nothing can be sent after it.
                self.discard_waiting();
                self.peer_closed = true;
                self.framed_up_to += CONTROL_FRAME_BYTES as u64;
                Incoming::Close
            }
            Some(Err(error)) => fault(&error),
            None => Incoming::Gone,
        };
        self.faulted |= matches!(incoming, Incoming::Fault(_));
        Poll::Ready(incoming)
    }

    /// Sends a text message after all others.
    pub(super) fn send(&mut self, message: impl Into<Bytes>) {
        if !self.peer_closed {
            let message = message.into();
            self.waiting_bytes += message.len();
            self.waiting.push_back(message);
        }
    }

    /// Sends a text message before all that wait.
    pub(super) fn send_first(&mut self, message: impl Into<Bytes>) {
        if !self.peer_closed {
            let message = message.into();
            self.waiting_bytes += message.len();
            self.waiting.push_front(message);
        }
    }

    /// Sends a close frame in the place of all that waits. Nothing can be sent afterwards.
    pub(super) fn close(&mut self, code: CloseCode) {
        self.discard_waiting();
        self.close_frame = Some(CloseFrame {
            code: WireCode::from(code.code()),
            reason: Utf8Bytes::from_static(code.reason()),
        });
    }

    fn discard_waiting(&mut self) {
        self.waiting.clear();
        self.waiting_bytes = 0;
    }

    /// What has passed through since the socket was opened.
    pub(super) fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// How many bytes wait here or in the WebSocket layer; never less than there are.
    pub(super) fn unsent(&self) -> usize {
        self.waiting_bytes + self.framed_unsent()
    }

    fn framed_unsent(&self) -> usize {
        // What is framed is in memory, so that it fits.
        usize::try_from(self.framed_up_to.saturating_sub(self.taken())).unwrap_or(usize::MAX)
    }

    /// How many bytes the system has taken since the connection was opened.
    pub(super) fn taken(&self) -> u64 {
        self.stream.get_ref().written()
    }

    /// Hands all that waits to the system. Ready when nothing is left, or when the peer is gone.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            self.frame_waiting(cx)?;
            if self.framed_unsent() == 0 {
                self.pongs_bytes = 0;
                return Poll::Ready(Ok(()));
            }
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            // Exactly: a pong that took the place of another one was counted twice.
            self.framed_up_to = self.taken();
        }
    }

    fn frame_waiting(&mut self, cx: &mut Context<'_>) -> Result<(), Error> {
        while self.framed_unsent() < FLUSH_BYTES {
            if self.waiting.is_empty() && self.close_frame.is_none() {
                return Ok(());
            }
            match Pin::new(&mut self.stream).poll_ready(cx) {
                Poll::Ready(ready) => ready?,
                // The flush that follows waits for the same.
                Poll::Pending => return Ok(()),
            }
            if let Some(message) = self.waiting.pop_front() {
                self.waiting_bytes -= message.len();
                self.traffic.send(message.len());
                self.framed_up_to += (message.len() + FRAME_HEADER_BYTES) as u64;
                // Many small messages that are sent together make the buffer as large as one large message does.
                self.largest_bytes = self.largest_bytes.max(self.framed_unsent());
                // A frame of its own making: all that we send was written as text, there is no need to check it again.
                let frame = Frame::message(message, OpCode::Data(Data::Text), true);
                Pin::new(&mut self.stream).start_send(Message::Frame(frame))?;
            } else if let Some(frame) = self.close_frame.take() {
                self.framed_up_to += CONTROL_FRAME_BYTES as u64;
                match Pin::new(&mut self.stream).start_send(Message::Close(Some(frame))) {
                    // Where the peer has begun to close at the same time, its own close frame is being answered.
                    Ok(()) | Err(Error::ConnectionClosed | Error::Protocol(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Sends what is left and waits for the peer to confirm the close. What else arrives is thrown away.
    pub(super) fn poll_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if ready!(self.poll_flush(cx)).is_err() {
            return Poll::Ready(());
        }
        while !self.faulted {
            match ready!(self.poll_receive(cx)) {
                Incoming::Text(_) | Incoming::Binary | Incoming::Control | Incoming::Fault(_) => {}
                Incoming::Close | Incoming::Gone => break,
            }
        }
        Poll::Ready(())
    }

    /// Closes a socket that is not to become a connection.
    pub(super) async fn refuse(mut self, code: CloseCode) {
        self.close(code);
        // A peer that does not confirm in time is not waited for.
        let _ = tokio::time::timeout(LINGER, poll_fn(|cx| self.poll_closed(cx))).await;
        self.finish().await;
    }

    /// Gives the stream back to the system, in a way that lets the peer read the close frame.
    pub(super) async fn finish(self) {
        if self.faulted {
            linger(self.stream.into_inner().into_inner()).await;
        }
    }
}

/// What is to be done about an error of the WebSocket layer.
fn fault(error: &Error) -> Incoming {
    use tokio_tungstenite::tungstenite::error::ProtocolError::ResetWithoutClosingHandshake;
    match error {
        Error::Capacity(_) => Incoming::Fault(CloseCode::TooLarge),
        Error::Utf8(_) => Incoming::Fault(CloseCode::InvalidUtf8),
        Error::Protocol(ResetWithoutClosingHandshake) => Incoming::Gone,
        Error::Protocol(_) => Incoming::Fault(CloseCode::Protocol),
        Error::ConnectionClosed
        | Error::AlreadyClosed
        | Error::Io(_)
        | Error::Tls(_)
        | Error::WriteBufferFull(_)
        | Error::AttackAttempt
        | Error::Url(_)
        | Error::Http(_)
        | Error::HttpFormat(_) => Incoming::Gone,
    }
}

/// Ends a stream whose peer may still be sending: what it sends is thrown away until it notices, for a second at
/// most. Dropping the stream instead would reset it, and the peer might never read what it was told last.
pub(crate) async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let discard = async {
        stream.shutdown().await?;
        let mut buffer = [0; 1024];
        while stream.read(&mut buffer).await? > 0 {}
        std::io::Result::Ok(())
    };
    // Whether it took the chance is the peer's affair.
    let _ = tokio::time::timeout(LINGER, discard).await;
}
