//! A client that sends what it is told, also what no proper client would send.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

/// How long an expected message may take to arrive.
const PATIENCE: Duration = Duration::from_secs(10);

/// How a connection ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ended {
    /// With a close frame.
    Closed { code: u16, reason: String },
    /// Without one.
    Dropped(String),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed { code, reason } => write!(f, "closed with {code} {reason:?}"),
            Self::Dropped(cause) => write!(f, "dropped without a close frame: {cause}"),
        }
    }
}

/// Why a connection did not come about.
#[derive(Debug)]
pub enum OpenError {
    /// The server answered with another HTTP status than 101.
    Status(u16),
    /// The server did not answer.
    Failed(String),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "the server answered with HTTP status {status}"),
            Self::Failed(cause) => f.write_str(cause),
        }
    }
}

pub struct TestClient {
    socket: WebSocketStream<TcpStream>,
    /// What arrived while another kind of message was awaited, oldest first.
    held: VecDeque<Value>,
    last_id: u64,
    /// The texts of all messages since they were taken last, where they are kept.
    texts: Option<Vec<String>>,
}

impl TestClient {
    /// Connects to `/` and takes the welcome.
    pub async fn connect(port: u16) -> Self {
        let mut client = Self::open(port, "/", &[])
            .await
            .unwrap_or_else(|error| panic!("no connection: {error}"));
        client.receive(|message| message["type"] == "welcome").await.expect("a welcome");
        client
    }

    /// Connects to a path with further headers. The welcome is still to come.
    pub async fn open(port: u16, path: &str, headers: &[(String, String)]) -> Result<Self, OpenError> {
        let failed = |error: &dyn fmt::Display| OpenError::Failed(error.to_string());
        let mut request = format!("ws://127.0.0.1:{port}{path}")
            .into_client_request()
            .map_err(|e| failed(&e))?;
        for (name, value) in headers {
            let name: HeaderName = name.parse().expect("a header name");
            request
                .headers_mut()
                .insert(name, HeaderValue::from_str(value).expect("a header value"));
        }
        let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(|e| failed(&e))?;
        // Requests are small and each is awaited: waiting for more to send would only add delay.
        stream.set_nodelay(true).map_err(|e| failed(&e))?;
        let limits = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        match client_async_with_config(request, stream, Some(limits)).await {
            Ok((socket, _)) => Ok(Self {
                socket,
                held: VecDeque::new(),
                last_id: 0,
                texts: None,
            }),
            Err(tungstenite::Error::Http(response)) => Err(OpenError::Status(response.status().as_u16())),
            Err(error) => Err(failed(&error)),
        }
    }

    pub async fn send(&mut self, message: &Value) -> Result<(), String> {
        self.send_text(message.to_string()).await
    }

    pub async fn send_text(&mut self, text: String) -> Result<(), String> {
        self.socket.send(Message::text(text)).await.map_err(|error| error.to_string())
    }

    pub async fn send_binary(&mut self, bytes: Vec<u8>) -> Result<(), String> {
        self.socket.send(Message::binary(bytes)).await.map_err(|error| error.to_string())
    }

    /// Puts bytes on the wire with no frame around them. Every send flushes, so nothing can be cut in two.
    pub async fn send_bytes(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.socket.get_mut().write_all(bytes).await.map_err(|error| error.to_string())
    }

    /// The texts of all messages that have arrived since this was called last; from the first call on they are kept.
    pub fn take_texts(&mut self) -> Vec<String> {
        self.texts.replace(Vec::new()).unwrap_or_default()
    }

    /// The next message from the wire, whatever it is.
    pub async fn next(&mut self) -> Result<Value, Ended> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    if let Some(texts) = &mut self.texts {
                        texts.push(text.as_str().to_owned());
                    }
                    return Ok(serde_json::from_str(&text).expect("the server sends JSON"));
                }
                Some(Ok(Message::Close(frame))) => return Err(closed_with(frame)),
                Some(Ok(Message::Binary(_))) => panic!("the server sent a binary message"),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Err(error)) => return Err(Ended::Dropped(error.to_string())),
                None => return Err(Ended::Dropped("end of stream".to_owned())),
            }
        }
    }

    /// The first message in order of arrival that `picks` wants. The others wait for later.
    pub async fn receive(&mut self, picks: impl Fn(&Value) -> bool) -> Result<Value, String> {
        self.receive_until(Instant::now() + PATIENCE, picks).await
    }

    pub async fn receive_until(&mut self, deadline: Instant, picks: impl Fn(&Value) -> bool) -> Result<Value, String> {
        if let Some(place) = self.held.iter().position(&picks) {
            return Ok(self.held.remove(place).expect("the place was just found"));
        }
        loop {
            let Ok(arrived) = timeout_at(deadline, self.next()).await else {
                return Err(format!("nothing came in time; other messages: {:?}", self.held));
            };
            let message = arrived.map_err(|ended| ended.to_string())?;
            if picks(&message) {
                return Ok(message);
            }
            self.held.push_back(message);
        }
    }

    /// Waits until `deadline`, and says which message that `breaks` the silence came, or how the connection ended.
    pub async fn listen_until(&mut self, deadline: Instant, breaks: impl Fn(&Value) -> bool) -> Result<Option<Ended>, Value> {
        if let Some(message) = self.held.iter().find(|message| breaks(message)) {
            return Err(message.clone());
        }
        loop {
            match timeout_at(deadline, self.next()).await {
                Err(_) => return Ok(None),
                Ok(Err(ended)) => return Ok(Some(ended)),
                Ok(Ok(message)) if breaks(&message) => return Err(message),
                Ok(Ok(message)) => self.held.push_back(message),
            }
        }
    }

    /// How the connection ends, or nothing if it is still open at the deadline. Messages are passed over.
    pub async fn end_by(&mut self, deadline: Instant) -> Option<Ended> {
        loop {
            match timeout_at(deadline, self.next()).await {
                Err(_) => return None,
                Ok(Err(ended)) => return Some(ended),
                Ok(Ok(_)) => {}
            }
        }
    }

    /// Sends a request and returns its id without waiting for the answer.
    pub async fn request(&mut self, operation: &str, mut fields: Value) -> Result<u64, String> {
        self.last_id += 1;
        fields["id"] = json!(self.last_id);
        fields["type"] = json!(operation);
        self.send(&fields).await?;
        Ok(self.last_id)
    }

    /// Sends a request and returns the whole answer, a result or an error.
    pub async fn call(&mut self, operation: &str, fields: Value) -> Value {
        let id = self.request(operation, fields).await.expect("the request can be sent");
        self.receive(|message| message["id"] == id)
            .await
            .unwrap_or_else(|why| panic!("{operation}: no answer: {why}"))
    }

    /// Sends a request that must succeed and returns the `data` of its result.
    pub async fn result(&mut self, operation: &str, fields: Value) -> Value {
        let mut answer = self.call(operation, fields).await;
        assert_eq!(answer["type"], "result", "{operation}: {answer}");
        answer["data"].take()
    }

    /// The next push.
    pub async fn expect_push(&mut self) -> Value {
        self.receive(|message| message["type"] == "push").await.expect("a push")
    }
}

fn closed_with(frame: Option<tungstenite::protocol::CloseFrame>) -> Ended {
    match frame {
        Some(frame) => Ended::Closed {
            code: frame.code.into(),
            reason: frame.reason.to_string(),
        },
        // What a close frame without a code stands for in the WebSocket protocol.
        None => Ended::Closed {
            code: 1005,
            reason: String::new(),
        },
    }
}
