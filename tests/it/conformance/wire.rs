//! Frames as bytes: a client that builds each by hand, right or wrong, and takes the server's apart.

use std::io::ErrorKind;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::Cut;

pub const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xA;

const FIN: u8 = 0x80;
const MASK: u8 = 0x80;

/// The masking key of all frames. Any will do, but for one that changes nothing.
const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

/// Whether a frame is the last of its message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Last,
    More,
}

/// A masked frame with no reserved bits.
pub fn frame(opcode: u8, part: Part, payload: &[u8]) -> Vec<u8> {
    let first = if part == Part::Last { FIN | opcode } else { opcode };
    let mut bytes = header(first, MASK, payload.len() as u64);
    bytes.extend(KEY);
    bytes.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
    bytes
}

/// A whole frame whose reserved bits are set so: 4, 2 and 1 for the first, second and third.
pub fn frame_with_reserved_bits(opcode: u8, bits: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = frame(opcode, Part::Last, payload);
    bytes[0] |= bits << 4;
    bytes
}

/// A whole frame as only servers may send it.
pub fn unmasked_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(FIN | opcode, 0, payload.len() as u64);
    bytes.extend(payload);
    bytes
}

/// The head of a masked frame that announces a payload of this length.
pub fn announcement(opcode: u8, length: u64) -> Vec<u8> {
    let mut bytes = header(FIN | opcode, MASK, length);
    bytes.extend(KEY);
    bytes
}

fn header(first: u8, mask: u8, length: u64) -> Vec<u8> {
    let mut bytes = vec![first];
    match length {
        0..=125 => bytes.push(mask | length as u8),
        126..=0xFFFF => {
            bytes.push(mask | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        _ => {
            bytes.push(mask | 127);
            bytes.extend(length.to_be_bytes());
        }
    }
    bytes
}

pub fn text(payload: impl AsRef<[u8]>) -> Vec<u8> {
    frame(TEXT, Part::Last, payload.as_ref())
}

pub fn ping(payload: &[u8]) -> Vec<u8> {
    frame(PING, Part::Last, payload)
}

pub fn pong(payload: &[u8]) -> Vec<u8> {
    frame(PONG, Part::Last, payload)
}

pub fn close(payload: &[u8]) -> Vec<u8> {
    frame(CLOSE, Part::Last, payload)
}

/// A text message in frames: one for each piece.
pub fn fragments<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let pieces: Vec<&[u8]> = pieces.into_iter().collect();
    let last = pieces.len() - 1;
    let frame_at = |(at, piece): (usize, &&[u8])| {
        let opcode = if at == 0 { TEXT } else { CONTINUATION };
        frame(opcode, if at == last { Part::Last } else { Part::More }, piece)
    };
    pieces.iter().enumerate().map(frame_at).collect()
}

/// What the server sends.
#[derive(Debug)]
pub enum Arrival {
    Text(String),
    Pong(Vec<u8>),
    /// A close frame with its code, if it has one.
    Close(Option<u16>),
}

/// A connection that knows no protocol beyond single frames.
pub struct Wire {
    stream: TcpStream,
}

impl Wire {
    /// Shakes hands and takes the welcome.
    pub async fn open(port: u16) -> Result<Self, String> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let mut wire = Self { stream };
        let request = format!(
            "GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        wire.write(request.as_bytes(), Cut::Whole).await?;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.extend(wire.read(1).await?);
        }
        // The key above and its answer are the example of RFC 6455.
        let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
        if !head.starts_with("http/1.1 101 ") || !head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=") {
            return Err(format!("no upgrade: {head}"));
        }
        match wire.next().await? {
            Arrival::Text(welcome) if welcome.contains("\"welcome\"") => Ok(wire),
            other @ (Arrival::Text(_) | Arrival::Pong(_) | Arrival::Close(_)) => Err(format!("{other:?} in the place of a welcome")),
        }
    }

    /// Writes the bytes in pieces of this size.
    pub async fn write(&mut self, bytes: &[u8], cut: Cut) -> Result<(), String> {
        let size = match cut {
            Cut::Whole => bytes.len().max(1),
            Cut::Every(size) => size,
        };
        for piece in bytes.chunks(size) {
            self.stream.write_all(piece).await.map_err(|error| format!("writing: {error}"))?;
        }
        Ok(())
    }

    async fn read(&mut self, length: usize) -> Result<Vec<u8>, String> {
        let mut bytes = vec![0; length];
        self.stream
            .read_exact(&mut bytes)
            .await
            .map_err(|error| format!("reading: {error}"))?;
        Ok(bytes)
    }

    /// The next frame. The server is not to cut its messages into several.
    pub async fn next(&mut self) -> Result<Arrival, String> {
        let [first, second] = self.read(2).await?[..] else {
            return Err("two bytes were asked for".to_owned());
        };
        if second & MASK != 0 {
            return Err("the server masks a frame".to_owned());
        }
        let length = match second {
            126 => self
                .read(2)
                .await?
                .into_iter()
                .fold(0, |length, byte| length << 8 | usize::from(byte)),
            127 => self
                .read(8)
                .await?
                .into_iter()
                .fold(0, |length, byte| length << 8 | usize::from(byte)),
            short => usize::from(short),
        };
        let payload = self.read(length).await?;
        match first {
            0x81 => String::from_utf8(payload).map(Arrival::Text).map_err(|error| error.to_string()),
            0x8A => Ok(Arrival::Pong(payload)),
            0x88 => match payload[..] {
                [] => Ok(Arrival::Close(None)),
                [high, low, ref reason @ ..] if std::str::from_utf8(reason).is_ok() => {
                    Ok(Arrival::Close(Some(u16::from_be_bytes([high, low]))))
                }
                _ => Err(format!("a malformed close frame: {payload:?}")),
            },
            other => Err(format!("an unexpected frame: {other:#x} {payload:?}")),
        }
    }

    /// Waits for the server to end the stream, after which there is nothing more.
    pub async fn expect_end(mut self) -> Result<(), String> {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest).await {
            Ok(0) => Ok(()),
            Ok(_) => Err(format!("after the close frame: {rest:?}")),
            // Where the client wrote what nobody reads, that is how the system ends it.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
            Err(error) => Err(format!("after the close frame: {error}")),
        }
    }
}
