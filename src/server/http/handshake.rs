//! One HTTP exchange on a fresh socket: it ends in an upgrade or in a refusal.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite};

use super::upgrade::{Answer, Endpoint, Refusal};
use crate::server::connection::registry::{Registry, Seat};
use crate::server::connection::socket::linger;

/// The most that the head of a request may take.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// A socket that has become a WebSocket.
pub(crate) struct Upgraded<S> {
    pub(crate) stream: S,
    /// What the client has sent after its request.
    pub(crate) already_read: Bytes,
    /// The seat that was taken for it.
    pub(crate) seat: Seat,
}

/// Answers the first request of a socket. Gives the socket back where it is a WebSocket now; otherwise it is closed.
pub(crate) async fn shake_hands<S>(stream: S, endpoint: &Endpoint, registry: &Arc<Registry>) -> Option<Upgraded<S>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = Handshake {
        endpoint,
        registry,
        seat: Mutex::new(None),
    };
    let mut http = http1::Builder::new();
    // No timer of its own: the caller limits the time of the whole exchange.
    http.max_buf_size(HEAD_BYTES_MAX).header_read_timeout(None);
    // Without hyper's own way of upgrading: the socket comes back as it was, and nothing of hyper stays with it.
    match http.serve_connection(TokioIo::new(stream), service).without_shutdown().await {
        Ok(parts) => {
            let stream = parts.io.into_inner();
            if let Some(seat) = parts.service.seat.into_inner() {
                return Some(Upgraded {
                    stream,
                    already_read: parts.read_buf,
                    seat,
                });
            }
            linger(stream).await;
        }
        Err(error) => tracing::debug!(%error, "a socket sent no sound request"),
    }
    None
}

struct Handshake<'a> {
    endpoint: &'a Endpoint,
    registry: &'a Arc<Registry>,
    /// Taken when an upgrade goes ahead.
    seat: Mutex<Option<Seat>>,
}

impl Handshake<'_> {
    fn answer(&self, request: Request<Incoming>) -> Answer {
        let (head, _) = request.into_parts();
        let upgrade = match self.endpoint.check(&head) {
            Ok(upgrade) => upgrade,
            Err(refusal) => return refusal.into(),
        };
        match self.registry.take_seat() {
            Some(seat) => {
                *self.seat.lock() = Some(seat);
                upgrade.into()
            }
            None => Refusal::Full.into(),
        }
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
