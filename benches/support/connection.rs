//! A client's connection: requests out, messages in, pings answered by itself.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Message as Frame, Utf8Bytes};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::message::{Message, brief};

/// How long a request may take to be handed to the system, an answer to arrive, or a connection to come about.
const PATIENCE: Duration = Duration::from_secs(30);

/// How a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With a close frame of this code.
    Closed(u16),
    /// Without one.
    Dropped(String),
    /// The server did what it must not do.
    Wrong(String),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(code) => write!(f, "closed with {code}"),
            Self::Dropped(cause) => write!(f, "dropped: {cause}"),
            Self::Wrong(what) => f.write_str(what),
        }
    }
}

/// How a client leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// The system says goodbye, the client does not.
    Drop,
    /// The system does not say goodbye either.
    Reset,
}

/// One connection.
pub struct Connection {
    socket: WebSocketStream<TcpStream>,
    last_id: u64,
    /// What the server can do.
    pub features: Vec<String>,
    /// Payload bytes that have arrived.
    pub bytes: u64,
}

impl Connection {
    /// Connects and takes the welcome. With `receive_buffer` the system keeps no more than that for a client that
    /// does not read.
    pub async fn open(port: u16, receive_buffer: Option<u32>) -> Result<Self, Ended> {
        match timeout(PATIENCE, Self::connect(port, receive_buffer)).await {
            Ok(opened) => opened,
            Err(_) => Err(Ended::Dropped("no welcome in time".to_owned())),
        }
    }

    async fn connect(port: u16, receive_buffer: Option<u32>) -> Result<Self, Ended> {
        let dropped = |error: &dyn fmt::Display| Ended::Dropped(error.to_string());
        let tcp = TcpSocket::new_v4().map_err(|error| dropped(&error))?;
        if let Some(bytes) = receive_buffer {
            tcp.set_recv_buffer_size(bytes).map_err(|error| dropped(&error))?;
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let stream = tcp.connect(address).await.map_err(|error| dropped(&error))?;
        stream.set_nodelay(true).map_err(|error| dropped(&error))?;
        let config = WebSocketConfig::default()
            .read_buffer_size(4 * 1024)
            .max_message_size(None)
            .max_frame_size(None);
        let (socket, _) = client_async_with_config(format!("ws://{address}/"), stream, Some(config))
            .await
            .map_err(|error| dropped(&error))?;
        let mut connection = Self {
            socket,
            last_id: 0,
            features: Vec::new(),
            bytes: 0,
        };
        let welcome = connection.next().await?;
        let welcome = Message::parse(&welcome).map_err(Ended::Wrong)?;
        if welcome.kind != "welcome" {
            return Err(Ended::Wrong(format!("{} in the place of the welcome", welcome.kind)));
        }
        connection.features = welcome.features;
        Ok(connection)
    }

    /// The next message that is no ping. Nothing is lost where the future is dropped.
    pub async fn next(&mut self) -> Result<Utf8Bytes, Ended> {
        loop {
            let text = match self.socket.next().await {
                Some(Ok(Frame::Text(text))) => text,
                Some(Ok(Frame::Close(frame))) => return Err(Ended::Closed(frame.map_or(1005, |frame| frame.code.into()))),
                Some(Ok(Frame::Ping(_) | Frame::Pong(_) | Frame::Frame(_))) => continue,
                Some(Ok(Frame::Binary(_))) => return Err(Ended::Wrong("a binary message".to_owned())),
                Some(Err(error)) => return Err(Ended::Dropped(error.to_string())),
                None => return Err(Ended::Dropped("end of stream".to_owned())),
            };
            self.bytes += text.len() as u64;
            // Pings are short and begin so; nothing else is looked at twice.
            if !text.starts_with("{\"type\":\"ping\"") {
                return Ok(text);
            }
            let ping = Message::parse(&text).map_err(Ended::Wrong)?;
            self.send(&json!({ "type": "pong", "timestamp": ping.timestamp })).await?;
        }
    }

    /// Sends a message.
    pub async fn send(&mut self, message: &Value) -> Result<(), Ended> {
        match timeout(PATIENCE, self.socket.send(Frame::text(message.to_string()))).await {
            Ok(sent) => sent.map_err(|error| Ended::Dropped(error.to_string())),
            Err(_) => Err(Ended::Dropped("a request cannot be sent".to_owned())),
        }
    }

    /// Sends a request and gives its id.
    pub async fn request(&mut self, operation: &str, mut fields: Value) -> Result<u64, Ended> {
        self.last_id += 1;
        fields["id"] = self.last_id.into();
        fields["type"] = operation.into();
        self.send(&fields).await?;
        Ok(self.last_id)
    }

    /// Sends a request that must succeed, on a connection that subscribes to nothing; gives its data.
    pub async fn call(&mut self, operation: &str, fields: Value) -> Result<Value, Ended> {
        let id = self.request(operation, fields).await?;
        let Ok(answer) = timeout(PATIENCE, self.next()).await else {
            return Err(Ended::Wrong(format!("no answer to {operation}")));
        };
        let answer = answer?;
        let mut value: Value = serde_json::from_str(&answer).map_err(|error| Ended::Wrong(error.to_string()))?;
        if value["type"] != "result" || value["id"] != id {
            return Err(Ended::Wrong(format!("{operation}: {}", brief(&answer))));
        }
        Ok(value["data"].take())
    }

    /// The port on this side.
    pub fn local_port(&self) -> Option<u16> {
        self.socket.get_ref().local_addr().ok().map(|address| address.port())
    }

    /// Leaves without a word.
    pub fn leave(self, how: Leave) {
        if how == Leave::Reset {
            // Where it cannot be set, it is a leave of the other kind.
            let _ = self.socket.get_ref().set_zero_linger();
        }
    }

    /// Closes as a client should.
    pub async fn close(mut self) {
        let closing = async {
            self.socket.close(None).await?;
            while let Some(Ok(_)) = self.socket.next().await {}
            Ok::<(), tokio_tungstenite::tungstenite::Error>(())
        };
        // A server that is slow to confirm is not waited for.
        let _ = timeout(Duration::from_secs(2), closing).await;
    }
}
