//! Connections: from a socket after its upgrade to the last byte.
//!
//! One [`ConnectionActor`](connection_actor::ConnectionActor) per socket, one task per actor. The
//! [driver](driver) is that task's loop; the [outbox](outbox) is how others reach it; the [registry](registry)
//! knows who is there; the [heartbeat](heartbeat) finds out who is gone.
//!
//! Nothing here knows a bucket or a query: requests go to the session, which is a [`Service`].

mod answers;
mod batch;
#[cfg(test)]
mod batch_tests;
pub(crate) mod connection_actor;
pub(crate) mod connection_supervisor;
mod driver;
#[cfg(test)]
mod driver_tests;
#[cfg(test)]
mod endurance_tests;
#[cfg(test)]
pub(crate) mod fake_session;
#[cfg(fuzzing)]
pub mod fuzzing;
pub(crate) mod heartbeat;
mod intake;
mod meter;
pub(crate) mod outbox;
mod phase;
mod pulse;
pub(crate) mod registry;
mod service;
#[cfg(test)]
pub(crate) mod simulated;
mod slowness;
pub(crate) mod socket;
pub(crate) mod updates;
#[cfg(test)]
mod updates_tests;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ractor::ActorCell;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::Instant;

pub(crate) use outbox::OutboxHandle;
pub(crate) use service::{Awaited, Opening, Reply, Service, Sessions, StoreSessions};

use self::connection_actor::Connection;
use self::driver::Driver;
use self::heartbeat::HeartbeatQueue;
pub(crate) use self::outbox::Outbox;
use self::registry::{Registry, Seat};
use self::socket::Socket;
use self::updates::HeldLimits;
use super::access::Login;
use super::admission::Admission;
use super::config::Config;
use super::statistics::{ConnectionCounters, ConnectionFigures, Count, Counters};
use crate::protocol::{ConnectionId, message};

/// Unsent bytes from which on pushes are held back in any case, be the high-water mark as high as it may: they are not
/// only sent late then, but old. A client that stops reading costs so much less memory, and others so much less time.
const PUSHES_HELD_BYTES_MAX: usize = 64 * 1024;

/// What one connection may take up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The largest message from the client.
    pub(crate) message_bytes_max: usize,
    /// How deep it may be nested.
    pub(crate) message_depth_max: usize,
    /// The most requests that are submitted and not answered.
    pub(crate) requests_in_flight_max: usize,
    /// Unsent bytes from which on pushes are held back.
    pub(crate) pushes_held_bytes: usize,
    /// Unsent bytes from which on no answer is written out, and, with what is expected of those on their way, no request
    /// is begun.
    pub(crate) high_water_bytes: usize,
    /// Unsent bytes from which on the client is too slow, whatever they are.
    pub(crate) hard_limit_bytes: usize,
    /// How long a client may be too slow.
    pub(crate) grace: Duration,
    /// How much may wait while pushes are held back.
    pub(crate) held: HeldLimits,
    /// The most requests of one batch.
    pub(crate) batch_requests_max: usize,
    /// The most bytes of an answer.
    pub(crate) result_bytes_max: usize,
}

impl Limits {
    /// How much the client has to take within the grace period, by what is unsent to it and whether answers or pushes
    /// are held back. None where it is not slow.
    fn demand(&self, unsent: usize, holds_back: bool) -> Option<usize> {
        if unsent >= self.hard_limit_bytes {
            // It reads, and what it is sent is large.
            Some(self.hard_limit_bytes)
        } else if holds_back && unsent >= self.pushes_held_bytes {
            // What is held back takes no room: any progress will do.
            Some(1)
        } else {
            None
        }
    }
}

impl From<&Config> for Limits {
    fn from(config: &Config) -> Self {
        let backpressure = &config.backpressure;
        // Both factors are positive and the mark is at most 1: the product fits, and truncating it is meant.
        let high_water_bytes = (backpressure.max_buffered_bytes as f64 * backpressure.high_water_mark) as usize;
        Self {
            message_bytes_max: config.max_payload_bytes,
            message_depth_max: config.connection_limits.max_json_depth,
            requests_in_flight_max: config.connection_limits.max_requests_in_flight.max(1),
            pushes_held_bytes: high_water_bytes.clamp(1, PUSHES_HELD_BYTES_MAX),
            high_water_bytes: high_water_bytes.max(1),
            hard_limit_bytes: backpressure.max_buffered_bytes,
            grace: backpressure.grace,
            held: HeldLimits {
                changes_max: backpressure.max_held_changes,
                bytes_max: backpressure.max_buffered_bytes,
            },
            batch_requests_max: config.connection_limits.max_batch_requests,
            result_bytes_max: config.connection_limits.max_result_bytes,
        }
    }
}

/// Who comes in.
pub(crate) struct Entrant {
    pub(crate) admission: Admission,
    /// Who has logged in by the upgrade.
    pub(crate) login: Option<Login>,
}

/// All that it takes to make a connection of a socket.
pub(crate) struct Connections<N> {
    pub(crate) sessions: N,
    pub(crate) registry: Arc<Registry>,
    pub(crate) heartbeat: Arc<HeartbeatQueue>,
    pub(crate) limits: Limits,
    pub(crate) counters: Arc<Counters>,
    /// How many clients that may not stay are told why at a time, while they take their time to close.
    pub(crate) farewells: Arc<Semaphore>,
}

/// As many farewells as that take no memory worth speaking of.
pub(crate) const FAREWELLS_MAX: usize = 1_024;

impl<N: Sessions> Connections<N> {
    /// Begins a connection on a socket whose upgrade is complete, under `supervisor`. A socket that may not stay is
    /// told why and closed.
    pub(crate) async fn begin(&self, supervisor: &ActorCell, stream: TcpStream, already_read: Bytes, seat: Seat, entrant: Entrant) {
        let Entrant { admission, login } = entrant;
        // Copied, though it is mostly nothing: the buffer of the HTTP side is larger than one that may stay.
        let socket = Socket::new(stream, already_read.to_vec(), self.limits.message_bytes_max).await;
        let id = ConnectionId::next();
        let outbox = Arc::new(Outbox::new(self.limits.held));
        let now_ms = super::wall_clock_ms();
        let figures = ConnectionFigures::new(now_ms);
        let registration = match seat.register(id, admission.address(), Arc::clone(&outbox), Arc::clone(&figures)) {
            Ok(registration) => registration,
            Err((code, seat)) => {
                self.counters.closed(code);
                // Whoever is refused again and again must not keep others out: neither of the seats nor of handshakes.
                drop(seat);
                // Sockets on their way out are bounded by themselves. Beyond that the client is not told why.
                if let Ok(permit) = Arc::clone(&self.farewells).try_acquire_owned() {
                    tokio::spawn(async move {
                        socket.refuse(code).await;
                        drop(permit);
                    });
                }
                return;
            }
        };
        self.counters.add(Count::Opened, 1);
        self.heartbeat.join(&outbox, Instant::now());
        let session = self.sessions.open(Opening {
            connection: id,
            address: admission.address(),
            outbox: Arc::clone(&outbox),
            figures: Arc::clone(&figures),
            login,
        });
        let counters = ConnectionCounters::new(Arc::clone(&self.counters), figures);
        let driver = Driver::new(socket, session, outbox, self.limits, admission, counters);
        let welcome = message::welcome(id, now_ms, self.sessions.requires_login());
        connection_supervisor::start(supervisor, Connection::new(driver, registration, welcome)).await;
    }
}
