//! Connections for tests that need no network: the real code, with a stream in memory in the place of the socket.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::DuplexStream;
use tokio::task::JoinHandle;

use super::driver::Driver;
use super::outbox::Outbox;
use super::socket::Socket;
use super::{Limits, Opening, Sessions as _, StoreSessions};
use crate::protocol::{ConnectionId, message};
use crate::server::access::Open;
use crate::server::admission::Admission;
use crate::server::handlers::HandlerContext;
use crate::server::statistics::{ConnectionCounters, ConnectionFigures, Counters};

/// Serves a client whose WebSocket handshake is over, until it leaves.
pub(crate) async fn serve(stream: DuplexStream, context: &Arc<HandlerContext>, limits: Limits) -> JoinHandle<()> {
    let outbox = Arc::new(Outbox::new(limits.held));
    let figures = ConnectionFigures::new(0);
    let sessions = StoreSessions {
        context: Arc::clone(context),
        authority: Arc::new(Open),
        presence: Arc::clone(context.overview.presence()),
        deadlines: Arc::default(),
        log_in_within: Duration::MAX,
    };
    let session = sessions.open(Opening {
        connection: ConnectionId::next(),
        address: IpAddr::from([127, 0, 0, 1]),
        outbox: Arc::clone(&outbox),
        figures: Arc::clone(&figures),
        login: None,
    });
    let socket = Socket::new(stream, Vec::new(), limits.message_bytes_max).await;
    let counters = ConnectionCounters::new(Arc::new(Counters::default()), figures);
    let driver = Driver::new(socket, session, outbox, limits, Admission::unlimited(), counters);
    let welcome = message::welcome(ConnectionId::next(), 0, false);
    tokio::spawn(Box::new(driver).run(welcome))
}
