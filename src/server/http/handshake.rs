//! One HTTP exchange on a fresh socket: it ends in an upgrade or in a refusal.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};

use super::upgrade::{Answer, Endpoint, Refusal, Upgrade};
use crate::server::admission::{Admission, Gatekeeper};
use crate::server::connection::registry::{Registry, Seat};
use crate::server::connection::socket::linger;

/// The most that the head of a request may take.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// A socket that has become a WebSocket.
pub(crate) struct Upgraded<S> {
    pub(crate) stream: S,
    /// What the client has sent after its request.
    pub(crate) already_read: Bytes,
    /// What the client was let in with.
    pub(crate) entry: Entry,
}

/// What a client is let in with.
pub(crate) struct Entry {
    /// The seat that was taken for it.
    pub(crate) seat: Seat,
    /// Who it is, and what it may ask for.
    pub(crate) admission: Admission,
}

/// Those who have a say in whether a socket becomes a WebSocket, in the order in which they are asked.
pub(crate) struct Doorkeepers<'a> {
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) gatekeeper: &'a Gatekeeper,
    pub(crate) registry: &'a Arc<Registry>,
}

/// Answers the first request of a socket. Gives the socket back where it is a WebSocket now; otherwise it is closed.
pub(crate) async fn shake_hands<S>(stream: S, peer: IpAddr, doorkeepers: Doorkeepers<'_>) -> Option<Upgraded<S>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = Handshake {
        doorkeepers,
        peer,
        entry: Mutex::new(None),
    };
    let mut http = http1::Builder::new();
    // No timer of its own: the caller limits the time of the whole exchange.
    http.max_buf_size(HEAD_BYTES_MAX).header_read_timeout(None);
    // Without hyper's own way of upgrading: the socket comes back as it was, and nothing of hyper stays with it.
    match http.serve_connection(TokioIo::new(stream), service).without_shutdown().await {
        Ok(parts) => {
            let stream = parts.io.into_inner();
            if let Some(entry) = parts.service.entry.into_inner() {
                return Some(Upgraded {
                    stream,
                    already_read: parts.read_buf,
                    entry,
                });
            }
            linger(stream).await;
        }
        Err(error) => tracing::debug!(%error, "a socket sent no sound request"),
    }
    None
}

struct Handshake<'a> {
    doorkeepers: Doorkeepers<'a>,
    peer: IpAddr,
    /// Filled in when an upgrade goes ahead.
    entry: Mutex<Option<Entry>>,
}

impl Handshake<'_> {
    fn answer(&self, request: Request<Incoming>) -> Answer {
        let (head, _) = request.into_parts();
        self.admit(&head).map_or_else(Answer::from, Answer::from)
    }

    fn admit(&self, head: &Parts) -> Result<Upgrade, Refusal> {
        let Doorkeepers {
            endpoint,
            gatekeeper,
            registry,
        } = &self.doorkeepers;
        let upgrade = endpoint.check(head)?;
        let admission = gatekeeper.admit(self.peer, &head.headers).map_err(Refusal::TooManyConnections)?;
        let seat = registry.take_seat().ok_or(Refusal::Full)?;
        *self.entry.lock() = Some(Entry { seat, admission });
        Ok(upgrade)
    }
}

impl Service<Request<Incoming>> for Handshake<'_> {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let answer = self.answer(request);
        let mut response = Response::new(Full::from(answer.text));
        *response.status_mut() = answer.status;
        response.headers_mut().extend(answer.headers);
        ready(Ok(response))
    }
}
