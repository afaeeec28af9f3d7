//! One HTTP exchange on a fresh socket: it ends in an upgrade or in a refusal.

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
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
use super::{credentials, minting};
use crate::protocol::ErrorCode;
use crate::server::access::{Authority, Login, Secret};
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
    /// Who has logged in by the upgrade.
    pub(crate) login: Option<Login>,
}

/// What became of a fresh socket.
pub(crate) enum Exchange<S> {
    /// It is a WebSocket now.
    Upgraded(Box<Upgraded<S>>),
    /// A plain request was answered.
    Answered,
    /// It did not become a WebSocket.
    Refused,
}

/// Those who have a say in whether a socket becomes a WebSocket, in the order in which they are asked.
#[derive(Clone, Copy)]
pub(crate) struct Doorkeepers<'a> {
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) gatekeeper: &'a Gatekeeper,
    pub(crate) authority: &'a Arc<dyn Authority>,
    pub(crate) registry: &'a Arc<Registry>,
}

/// Answers the first request of a socket. Gives the socket back where it is a WebSocket now; otherwise it is closed.
pub(crate) async fn shake_hands<S>(stream: S, peer: IpAddr, doorkeepers: Doorkeepers<'_>) -> Exchange<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let outcome = Arc::new(Mutex::new(Outcome::Refused));
    let service = Handshake {
        doorkeepers,
        peer,
        outcome: Arc::clone(&outcome),
    };
    let mut http = http1::Builder::new();
    // No timer of its own: the caller limits the time of the whole exchange.
    http.max_buf_size(HEAD_BYTES_MAX).header_read_timeout(None);
    // Without hyper's own way of upgrading: the socket comes back as it was, and nothing of hyper stays with it.
    let parts = match http.serve_connection(TokioIo::new(stream), service).without_shutdown().await {
        Ok(parts) => parts,
        Err(error) => {
            tracing::debug!(%error, "a socket sent no sound request");
            return Exchange::Refused;
        }
    };
    let stream = parts.io.into_inner();
    let outcome = std::mem::replace(&mut *outcome.lock(), Outcome::Refused);
    match outcome {
        Outcome::Upgraded(entry) => Exchange::Upgraded(Box::new(Upgraded {
            stream,
            already_read: parts.read_buf,
            entry: *entry,
        })),
        Outcome::Answered => {
            linger(stream).await;
            Exchange::Answered
        }
        Outcome::Refused => {
            linger(stream).await;
            Exchange::Refused
        }
    }
}

/// How a request was answered.
enum Outcome {
    Upgraded(Box<Entry>),
    Answered,
    Refused,
}

struct Handshake<'a> {
    doorkeepers: Doorkeepers<'a>,
    peer: IpAddr,
    outcome: Arc<Mutex<Outcome>>,
}

/// What is answered, and what becomes of the socket.
async fn answer(request: Request<Incoming>, peer: IpAddr, doorkeepers: Doorkeepers<'_>) -> (Answer, Outcome) {
    if request.uri().path() == minting::PATH && doorkeepers.endpoint.path() != minting::PATH {
        return (minting::answer(request, peer, doorkeepers).await, Outcome::Answered);
    }
    let (head, _) = request.into_parts();
    match admit(&head, peer, doorkeepers).await {
        Ok((upgrade, entry)) => (upgrade.into(), Outcome::Upgraded(Box::new(entry))),
        Err(refusal) => (refusal.into(), Outcome::Refused),
    }
}

async fn admit(head: &Parts, peer: IpAddr, doorkeepers: Doorkeepers<'_>) -> Result<(Upgrade, Entry), Refusal> {
    let upgrade = doorkeepers.endpoint.check(head)?;
    let token = if doorkeepers.authority.is_on() {
        credentials::of_upgrade(head)?
    } else {
        None
    };
    let admission = doorkeepers
        .gatekeeper
        .admit(peer, &head.headers)
        .map_err(Refusal::TooManyConnections)?;
    let login = match token {
        Some(token) => Some(log_in(token, &admission, doorkeepers.authority).await?),
        None => None,
    };
    // Last: whoever is being asked about keeps nobody out.
    let seat = doorkeepers.registry.take_seat().ok_or(Refusal::Full)?;
    Ok((upgrade, Entry { seat, admission, login }))
}

/// Logs in the client of an upgrade. A token that is refused counts as a message that is.
async fn log_in(token: Secret, admission: &Admission, authority: &Arc<dyn Authority>) -> Result<Login, Refusal> {
    match authority.log_in(token, admission.address()).await {
        Ok(login) => Ok(login),
        Err(failure) if failure.code() == ErrorCode::InternalError => Err(Refusal::Internal),
        Err(_) => {
            admission.count_refused_plain().map_err(Refusal::TooManyConnections)?;
            Err(Refusal::Unauthorized)
        }
    }
}

impl<'a> Service<Request<Incoming>> for Handshake<'a> {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send + 'a>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (doorkeepers, peer, outcome) = (self.doorkeepers, self.peer, Arc::clone(&self.outcome));
        Box::pin(async move {
            let (answer, came_to) = answer(request, peer, doorkeepers).await;
            *outcome.lock() = came_to;
            let mut response = Response::new(Full::from(answer.text.into_owned()));
            *response.status_mut() = answer.status;
            response.headers_mut().extend(answer.headers);
            Ok(response)
        })
    }
}
