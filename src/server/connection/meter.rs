//! A byte stream that counts what goes out, and knows where the peer's messages end. What is large and goes out slowly
//! waits here.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A rest of more bytes than this is taken over from the WebSocket layer. That layer moves all that is left to the
/// front of its buffer after each write: done a thousand times with a large answer, it would keep a thread busy.
const REST_BYTES_MIN: usize = 256 * 1024;

/// A stream with its counters.
pub(super) struct Meter<S> {
    stream: S,
    written: u64,
    /// What was taken over, and how much of it the system has.
    rest: Vec<u8>,
    rest_written: usize,
    incoming: Boundaries,
}

impl<S> Meter<S> {
    /// Counts from here on. `already_read` came from the stream before.
    pub(super) fn new(stream: S, already_read: &[u8]) -> Self {
        let mut incoming = Boundaries::default();
        incoming.advance(already_read);
        Self {
            stream,
            written: 0,
            rest: Vec::new(),
            rest_written: 0,
            incoming,
        }
    }

    /// How many bytes the system has taken.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Whether what was read ends where a message ends.
    pub(super) fn is_between_messages(&self) -> bool {
        self.incoming.at_rest()
    }

    pub(super) fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Meter<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.incoming.advance(&buffer.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> Meter<S> {
    fn poll_write_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.rest_written < self.rest.len() {
            let taken = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.rest[self.rest_written..]))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.rest_written += taken;
            self.written += taken as u64;
        }
        if self.rest_written > 0 {
            self.rest = Vec::new();
            self.rest_written = 0;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Meter<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_write_rest(cx))?;
        let taken = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        self.written += taken as u64;
        let left = &bytes[taken..];
        if taken > 0 && left.len() > REST_BYTES_MIN {
            self.rest = left.to_vec();
            return Poll::Ready(Ok(bytes.len()));
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_rest(cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write_rest(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Follows the heads of frames through a stream of bytes. It checks nothing: that is the WebSocket layer's part.
#[derive(Default)]
struct Boundaries {
    head: [u8; 14],
    head_bytes: usize,
    payload_left: u64,
    /// Whether the last data frame was not the last one of its message.
    in_message: bool,
}

impl Boundaries {
    fn advance(&mut self, mut bytes: &[u8]) {
        while let [first, rest @ ..] = bytes {
            if self.payload_left > 0 {
                let skipped = usize::try_from(self.payload_left).map_or(bytes.len(), |left| left.min(bytes.len()));
                self.payload_left -= skipped as u64;
                bytes = &bytes[skipped..];
                continue;
            }
            self.head[self.head_bytes] = *first;
            self.head_bytes += 1;
            bytes = rest;
            if self.head_bytes == self.head_length() {
                self.end_head();
            }
        }
    }

    /// The length of the head, as far as it is known; at most 14.
    fn head_length(&self) -> usize {
        if self.head_bytes < 2 {
            return 2;
        }
        let mask = if self.head[1] & 0x80 == 0 { 0 } else { 4 };
        2 + self.length_bytes() + mask
    }

    fn length_bytes(&self) -> usize {
        match self.head[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        }
    }

    fn end_head(&mut self) {
        self.payload_left = match self.length_bytes() {
            0 => u64::from(self.head[1] & 0x7f),
            extended => self.head[2..2 + extended]
                .iter()
                .fold(0, |length, byte| length << 8 | u64::from(*byte)),
        };
        let is_control = self.head[0] & 0x08 != 0;
        if !is_control {
            self.in_message = self.head[0] & 0x80 == 0;
        }
        self.head_bytes = 0;
    }

    fn at_rest(&self) -> bool {
        self.head_bytes == 0 && self.payload_left == 0 && !self.in_message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, length: usize) -> Vec<u8> {
        let mut frame = vec![first];
        match length {
            0..126 => frame.push(0x80 | length as u8),
            126..65_536 => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&(length as u16).to_be_bytes());
            }
            _ => {
                frame.push(0x80 | 127);
                frame.extend_from_slice(&(length as u64).to_be_bytes());
            }
        }
        frame.extend_from_slice(&[0; 4]);
        frame.resize(frame.len() + length, 0xff);
        frame
    }

    /// A stream that takes little at a time.
    struct Narrow {
        taken: Vec<u8>,
        writes: usize,
    }

    impl AsyncWrite for Narrow {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.writes += 1;
            if self.writes.is_multiple_of(2) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let taken = bytes.len().min(70_000);
            self.taken.extend_from_slice(&bytes[..taken]);
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_is_large_is_taken_over_at_once_and_goes_out_in_order() {
        use tokio::io::AsyncWriteExt;
        let narrow = Narrow {
            taken: Vec::new(),
            writes: 0,
        };
        let mut meter = Meter::new(narrow, &[]);
        let large: Vec<u8> = (0..1_000_000_u32).map(|at| (at % 251) as u8).collect();
        assert_eq!(meter.write(&large).await.expect("it takes all"), large.len());
        assert_eq!(meter.written(), 70_000, "only what the system has is counted");
        meter.write_all(b"the end").await.expect("it takes all");
        meter.flush().await.expect("it takes all");
        assert_eq!(meter.written(), 1_000_007);
        assert_eq!(meter.rest.capacity(), 0);
        let taken = meter.into_inner().taken;
        assert_eq!(taken[..1_000_000], large);
        assert_eq!(&taken[1_000_000..], b"the end");
    }

    #[test]
    fn the_ends_of_messages_are_found_however_the_bytes_are_cut() {
        // Whole messages of every way to write a length, and one in pieces with a ping in the middle.
        let frames = [
            (frame(0x81, 0), true),
            (frame(0x81, 125), true),
            (frame(0x81, 126), true),
            (frame(0x81, 65_535), true),
            (frame(0x81, 65_536), true),
            (frame(0x01, 5), false),
            (frame(0x89, 3), false),
            (frame(0x00, 5), false),
            (frame(0x80, 0), true),
        ];
        for step in [1, 2, 3, 7, 4096, usize::MAX] {
            let mut boundaries = Boundaries::default();
            for (frame, at_rest) in &frames {
                let (last, others) = frame.split_last().expect("a frame has bytes");
                for piece in others.chunks(step) {
                    boundaries.advance(piece);
                    assert!(!boundaries.at_rest());
                }
                boundaries.advance(&[*last]);
                assert_eq!(boundaries.at_rest(), *at_rest, "{} bytes in steps of {step}", frame.len());
            }
        }
    }
}
