//! A way in for fuzzing, built only for that: one connection over any stream, with the store behind it.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use hyper::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite};

use super::driver::Driver;
use super::outbox::Outbox;
use super::registry::Registry;
use super::socket::Socket;
use super::{Limits, Opening, Sessions, StoreSessions};
use crate::protocol::{CloseCode, ConnectionId, message};
use crate::server::access::Open;
use crate::server::admission::Gatekeeper;
use crate::server::config::Config;
use crate::server::handler_context;
use crate::server::statistics::{ConnectionCounters, ConnectionFigures};
use crate::store::Store;

/// What the server's other tasks may do to a connection.
pub struct Handle(Arc<Outbox>);

impl Handle {
    /// Has a ping sent, as the heartbeat does.
    pub fn ping(&self, timestamp: u64) {
        self.0.ping(timestamp);
    }

    /// Tells that the time to answer a ping is up.
    pub fn pong_overdue(&self, timestamp: u64) {
        self.0.pong_overdue(timestamp);
    }

    /// Has the connection finish and close, as a server that stops does.
    pub fn close(&self) {
        self.0.request_close(CloseCode::GoingAway);
    }
}

/// Limits so small that a fuzzer reaches them.
fn config() -> Config {
    let mut config = Config::default();
    config.max_payload_bytes = 4 * 1024;
    config.backpressure.max_buffered_bytes = 8 * 1024;
    config.connection_limits.max_subscriptions_per_connection = 4;
    config.connection_limits.max_requests_in_flight = 3;
    config.connection_limits.max_result_bytes = 64 * 1024;
    config
}

/// A connection on a stream whose WebSocket handshake is over. The future serves it until it ends.
///
/// # Panics
/// Where the limits that only this module sets do not let the one client in.
pub async fn open<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    already_read: Vec<u8>,
    store: &Store,
) -> (Handle, impl Future<Output = ()>) {
    let config = config();
    let limits = Limits::from(&config);
    let registry = Registry::new(1, None);
    let context = handler_context(store.clone(), &config, &registry, 0, None);
    let counters = Arc::clone(context.overview.counters());
    let admitted = Gatekeeper::from(&config).admit(IpAddr::V4(Ipv4Addr::LOCALHOST), &HeaderMap::new());
    let admission = admitted.expect("no rate is limited");

    let outbox = Arc::new(Outbox::new(limits.held));
    let figures = ConnectionFigures::new(0);
    let id = ConnectionId::next();
    let seat = registry.take_seat().expect("nobody else is there");
    let registered = seat.register(id, admission.address(), Arc::clone(&outbox), Arc::clone(&figures));
    let registration = registered.ok().expect("nothing is stopping");
    let sessions = StoreSessions {
        authority: Arc::new(Open),
        presence: Arc::clone(context.overview.presence()),
        context: Arc::new(context),
        deadlines: Arc::default(),
        log_in_within: std::time::Duration::MAX,
    };
    let session = sessions.open(Opening {
        connection: ConnectionId::next(),
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        outbox: Arc::clone(&outbox),
        figures: Arc::clone(&figures),
        login: None,
    });
    let socket = Socket::new(stream, already_read, limits.message_bytes_max).await;
    let counters = ConnectionCounters::new(counters, figures);
    let driver = Driver::new(socket, session, Arc::clone(&outbox), limits, admission, counters);
    let serving = async move {
        Box::new(driver).run(message::welcome(id, 0, false)).await;
        drop(registration);
    };
    (Handle(outbox), serving)
}
