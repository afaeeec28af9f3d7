//! The listener: takes sockets, has them upgraded, and hands them to the connections.
//!
//! It answers for three things: a socket that says nothing costs a bounded time, sockets that are not connections
//! yet are bounded in number, and no error of `accept` ends it or makes it spin.

use std::convert::Infallible;
use std::io;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef};
use tokio::net::{TcpListener, TcpSocket, TcpStream, lookup_host};
use tokio::sync::{oneshot, watch};
use tokio::task::{self, JoinSet};

use super::access::Authority;
use super::admission::{AcceptPace, Gatekeeper, Handshakes, Room, Seldom};
use super::connection::{Connections, Entrant, Sessions};
use super::http::{Doorkeepers, Endpoint, Exchange, shake_hands};
use super::statistics::Count;

/// Connections that the system keeps for us until they are accepted. A storm of reconnecting clients fits in.
const BACKLOG: u32 = 4096;

/// How long nothing is accepted after the system had no room for another socket.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often it is said that the system, or the server, has no room.
const ACCEPT_WARNING_INTERVAL: Duration = Duration::from_secs(5);

/// Whether new sockets are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum GateState {
    Open,
    /// Asked to close; the listening socket may still be there.
    Closing,
    /// The listening socket is gone.
    Closed,
}

/// Owns the listening socket, so that it outlives a restart of the listener and goes when the server stops.
pub(crate) struct Gate {
    socket: Mutex<Option<Arc<TcpListener>>>,
    state: watch::Sender<GateState>,
    local_address: SocketAddr,
}

impl Gate {
    /// Listens on the first address of `host` that can be bound.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) async fn open(host: &str, port: u16) -> io::Result<Self> {
        let socket = bind(host, port).await?;
        let local_address = socket.local_addr()?;
        Ok(Self {
            socket: Mutex::new(Some(Arc::new(socket))),
            state: watch::Sender::new(GateState::Open),
            local_address,
        })
    }

    /// The address listened on, with the real port.
    pub(crate) fn local_address(&self) -> SocketAddr {
        self.local_address
    }

    /// Whether new sockets are taken.
    pub(crate) fn is_open(&self) -> bool {
        *self.state.borrow() == GateState::Open
    }

    /// Stops listening. When it returns, new connects are refused; handshakes that have begun go on.
    pub(crate) async fn close(&self) {
        // In this order: whoever lets go of the socket from here on says so.
        self.state.send_replace(GateState::Closing);
        let Some(socket) = self.socket.lock().take() else { return };
        if Arc::into_inner(socket).is_some() {
            self.state.send_replace(GateState::Closed);
        }
        let closed = self.state.subscribe().wait_for(|state| *state == GateState::Closed).await.is_ok();
        debug_assert!(closed, "the sender lives in self");
    }

    /// The listening socket, unless it is closed.
    fn use_socket(&self) -> Option<SocketInUse<'_>> {
        let socket = self.socket.lock().clone()?;
        Some(SocketInUse {
            socket: Some(socket),
            gate: self,
        })
    }
}

/// The listening socket in the hands of the listener. However it lets go of it, whoever closes the gate learns it.
struct SocketInUse<'a> {
    /// None only while it is dropped.
    socket: Option<Arc<TcpListener>>,
    gate: &'a Gate,
}

impl SocketInUse<'_> {
    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        match &self.socket {
            Some(socket) => socket.accept().await,
            None => std::future::pending().await,
        }
    }
}

impl Drop for SocketInUse<'_> {
    fn drop(&mut self) {
        self.socket = None;
        self.gate.state.send_if_modified(|state| {
            let closing = *state == GateState::Closing;
            if closing {
                *state = GateState::Closed;
            }
            closing
        });
    }
}

async fn bind(host: &str, port: u16) -> io::Result<TcpListener> {
    let mut last_error = io::Error::new(io::ErrorKind::AddrNotAvailable, "the host has no address");
    for address in lookup_host((host, port)).await? {
        match listen(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => last_error = error,
        }
    }
    Err(last_error)
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    // A server that is started again must not wait for the sockets of its predecessor.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Bytes that the system keeps for a socket beyond those that are on their way to the peer. What waits there can no
/// longer be replaced by something newer, and it is memory that nobody counts.
#[cfg(any(target_os = "linux", target_os = "android"))]
const NOT_SENT_BYTES_MAX: u32 = 64 * 1024;

fn prepare(stream: &TcpStream) -> io::Result<()> {
    // Answers are small and go out once per round: nothing is gained by waiting for more.
    stream.set_nodelay(true)?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket2::SockRef::from(stream).set_tcp_notsent_lowat(NOT_SENT_BYTES_MAX)?;
    Ok(())
}

/// What the listener works with.
pub(crate) struct Reception<N> {
    pub(crate) gate: Arc<Gate>,
    pub(crate) endpoint: Endpoint,
    pub(crate) gatekeeper: Gatekeeper,
    pub(crate) authority: Arc<dyn Authority>,
    /// Sockets accepted in a second, at most; 0 for no limit.
    pub(crate) accepts_per_second: usize,
    pub(crate) handshake_timeout: Duration,
    /// Sockets whose handshake is not complete, at most.
    pub(crate) handshakes_max: usize,
    pub(crate) connections: Connections<N>,
}

impl<N: Sessions> Reception<N> {
    /// Makes a connection of a socket, unless it wants something else, takes too long, or has to make room for others.
    async fn receive(&self, stream: TcpStream, peer: SocketAddr, kept: oneshot::Receiver<Infallible>, supervisor: &ActorCell) {
        if let Err(error) = prepare(&stream) {
            tracing::debug!(%error, "a socket was gone before it was accepted");
            return;
        }
        let doorkeepers = Doorkeepers {
            endpoint: &self.endpoint,
            gatekeeper: &self.gatekeeper,
            authority: &self.authority,
            registry: &self.connections.registry,
        };
        let handshake = shake_hands(stream, peer.ip(), doorkeepers);
        let handshake = tokio::time::timeout(self.handshake_timeout, handshake);
        let counters = &self.connections.counters;
        // A request that comes too slowly is not worth an answer.
        let upgraded = tokio::select! {
            exchange = handshake => match exchange {
                Ok(Exchange::Upgraded(upgraded)) => upgraded,
                Ok(Exchange::Answered) => return,
                Ok(Exchange::Refused) | Err(_) => return counters.add(Count::Refused, 1),
            },
            _ = kept => return counters.add(Count::Dropped, 1),
        };
        self.connections
            .begin(
                supervisor,
                upgraded.stream,
                upgraded.already_read,
                upgraded.entry.seat,
                Entrant {
                    admission: upgraded.entry.admission,
                    login: upgraded.entry.login,
                },
            )
            .await;
    }
}

/// Accepts sockets. It keeps nothing itself: when it is restarted, it goes on with the same listening socket, and
/// only the handshakes that were under way are lost.
pub(crate) struct ListenerActor<N>(PhantomData<fn() -> N>);

impl<N> ListenerActor<N> {
    pub(crate) fn new() -> Self {
        Self(PhantomData)
    }
}

/// Asks the [`ListenerActor`] to begin.
pub(crate) struct Listen;

/// What a [`ListenerActor`] is started with.
pub(crate) struct ListenerArguments<N> {
    pub(crate) reception: Arc<Reception<N>>,
    /// The parent of the connections.
    pub(crate) supervisor: ActorCell,
}

impl<N: Sessions> Actor for ListenerActor<N> {
    type Msg = Listen;
    type State = ListenerArguments<N>;
    type Arguments = ListenerArguments<N>;

    async fn pre_start(&self, myself: ActorRef<Listen>, arguments: ListenerArguments<N>) -> Result<Self::State, ActorProcessingErr> {
        myself.send_message(Listen)?;
        Ok(arguments)
    }

    async fn handle(&self, _: ActorRef<Listen>, _: Listen, state: &mut Self::State) -> Result<(), ActorProcessingErr> {
        let mut door = Door::new(state);
        door.accept_until_closed().await;
        // Upgrades that are still completed are told to go away by the registry.
        while door.tasks.join_next().await.is_some() {}
        Ok(())
    }
}

/// The handshakes that are under way.
struct Door<'a, N> {
    reception: &'a Arc<Reception<N>>,
    supervisor: &'a ActorCell,
    tasks: JoinSet<()>,
    handshakes: Handshakes<task::Id, Kept>,
    crowding: Seldom,
}

/// A handshake that goes on until this is dropped.
struct Kept {
    peer: SocketAddr,
    _until_dropped: oneshot::Sender<Infallible>,
}

impl<'a, N: Sessions> Door<'a, N> {
    fn new(listener: &'a ListenerArguments<N>) -> Self {
        Self {
            reception: &listener.reception,
            supervisor: &listener.supervisor,
            tasks: JoinSet::new(),
            handshakes: Handshakes::new(listener.reception.handshakes_max),
            crowding: Seldom::new(ACCEPT_WARNING_INTERVAL),
        }
    }

    async fn accept_until_closed(&mut self) {
        let gate = &self.reception.gate;
        let Some(socket) = gate.use_socket() else { return };
        let mut gate_state = gate.state.subscribe();
        let mut pace = AcceptPace::new(self.reception.accepts_per_second);
        let mut warning = Seldom::new(ACCEPT_WARNING_INTERVAL);
        loop {
            tokio::select! {
                () = closing(&mut gate_state) => break,
                Some(ended) = self.tasks.join_next_with_id() => self.end(ended),
                accepted = paced_accept(&socket, &mut pace) => match accepted {
                    Ok((stream, peer)) => self.let_in(stream, peer),
                    Err(error) => pause_after(&error, &mut warning).await,
                },
            }
        }
    }

    fn let_in(&mut self, stream: TcpStream, peer: SocketAddr) {
        let counters = &self.reception.connections.counters;
        counters.add(Count::Accepted, 1);
        let origin = self.reception.gatekeeper.origin(peer.ip());
        match self.handshakes.make_room(origin) {
            Room::Free => {}
            Room::InPlaceOf(dropped) => self.tell_of(dropped.peer),
            Room::None => {
                counters.add(Count::Dropped, 1);
                return self.tell_of(peer);
            }
        }
        let (until_dropped, kept) = oneshot::channel();
        let (reception, supervisor) = (Arc::clone(self.reception), self.supervisor.clone());
        let task = self
            .tasks
            .spawn(async move { reception.receive(stream, peer, kept, &supervisor).await });
        let kept = Kept {
            peer,
            _until_dropped: until_dropped,
        };
        self.handshakes.begin(origin, task.id(), kept);
    }

    fn end(&mut self, ended: Result<(task::Id, ()), task::JoinError>) {
        let id = match ended {
            Ok((id, ())) => id,
            Err(error) => {
                if error.is_panic() {
                    tracing::error!(%error, "a handshake failed; the listener goes on");
                }
                error.id()
            }
        };
        self.handshakes.end(id);
    }

    /// Tells that a socket was dropped. One address may cause it as often as it likes.
    fn tell_of(&mut self, peer: SocketAddr) {
        if self.crowding.is_due() {
            tracing::warn!(%peer, "sockets are dropped: too many handshakes are under way, this address has most of them or as many as others");
        } else {
            tracing::debug!(%peer, "a socket was dropped: too many handshakes are under way");
        }
    }
}

async fn paced_accept(socket: &SocketInUse<'_>, pace: &mut AcceptPace) -> io::Result<(TcpStream, SocketAddr)> {
    pace.allowed().await;
    let accepted = socket.accept().await;
    pace.taken();
    accepted
}

async fn closing(state: &mut watch::Receiver<GateState>) {
    // Where the gate itself is gone, so is the server.
    let _ = state.wait_for(|state| *state != GateState::Open).await;
}

/// Errors of a single connection are over with it. Others mean that the system has no room: trying again at once
/// would only make it worse.
async fn pause_after(error: &io::Error, warning: &mut Seldom) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted) {
        tracing::debug!(%error, "a connection ended before it was accepted");
    } else {
        if warning.is_due() {
            tracing::warn!(%error, "no connection can be accepted at present");
        }
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }
}
