//! A session for tests: its requests are answered when the test says so.

use std::collections::{HashSet, VecDeque};
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::outbox::Outbox;
use super::{Awaited, Opening, Reply, Service, Sessions};
use crate::protocol::{CloseCode, ConnectionId, CursorScope, Request, SubscriptionId, message};
use crate::server::access::Principal;
use crate::server::handlers::{Admittance, Failure, Finished};
use crate::server::statistics::ConnectionFigures;
use crate::store::Update;

/// What the test and its sessions share.
#[derive(Default)]
pub(crate) struct Script {
    /// The ids of all requests that were handed to a session, in order.
    pub(crate) handled: Mutex<Vec<i64>>,
    /// Requests that wait for the test.
    waiting: Mutex<VecDeque<oneshot::Sender<()>>>,
    /// The outboxes of the sessions, in the order in which they were opened.
    pub(crate) outboxes: Mutex<Vec<Arc<Outbox>>>,
    /// Subscriptions that the sessions hold.
    pub(crate) held: Mutex<HashSet<SubscriptionId>>,
    /// Messages about what was missed before a subscription began.
    pub(crate) backlog: Mutex<VecDeque<Vec<u8>>>,
    /// What the store does at the very moment at which the answer to a `store.upsert` is asked for.
    pub(crate) at_poll: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    /// Sessions that are open.
    pub(crate) open: AtomicUsize,
}

impl Script {
    /// Lets the request that has waited longest go on.
    pub(crate) fn release_first(&self) {
        let first = self.waiting.lock().pop_front().expect("a request waits");
        first.send(()).expect("it still waits");
    }

    /// Lets the request that has waited least go on.
    pub(crate) fn release_last(&self) {
        let last = self.waiting.lock().pop_back().expect("a request waits");
        last.send(()).expect("it still waits");
    }

    pub(crate) fn waiting(&self) -> usize {
        self.waiting.lock().len()
    }

    fn wait(&self) -> oneshot::Receiver<()> {
        let (release, released) = oneshot::channel();
        self.waiting.lock().push_back(release);
        released
    }
}

/// What the cursors of all subscriptions in tests have in common.
pub(crate) const SCOPE: CursorScope = CursorScope { epoch: 1, subject: 2 };

/// An answer that is not there yet.
pub(crate) enum Pending {
    /// It waits for the test.
    Waiting {
        released: oneshot::Receiver<()>,
        id: i64,
        bytes: usize,
    },
    /// What was asked for is done; the answer waits for the test.
    Done { released: oneshot::Receiver<()>, id: i64 },
    /// It is asked for in vain, then once more while the store makes it ready, and then it is there.
    Overtaken { polls: usize, script: Arc<Script>, id: i64 },
}

impl Future for Pending {
    type Output = Vec<u8>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Vec<u8>> {
        match &mut *self {
            Self::Waiting { released, id, bytes: 0 } | Self::Done { released, id } => {
                let id = *id;
                Pin::new(released).poll(cx).map(|_| answer(id))
            }
            Self::Waiting { released, id, bytes } => {
                let (id, bytes) = (*id, *bytes);
                Pin::new(released).poll(cx).map(|_| large_answer(id, bytes))
            }
            Self::Overtaken { polls: 2, id, .. } => Poll::Ready(answer(*id)),
            Self::Overtaken { polls, script, .. } => {
                if *polls == 1
                    && let Some(happen) = script.at_poll.lock().take()
                {
                    happen();
                }
                *polls += 1;
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }
}

impl Awaited for Pending {
    fn expected_bytes(&self) -> usize {
        match self {
            Self::Waiting { bytes, .. } => *bytes,
            Self::Done { .. } | Self::Overtaken { .. } => 0,
        }
    }

    fn is_done(&self) -> bool {
        match self {
            Self::Done { .. } => true,
            Self::Waiting { .. } | Self::Overtaken { .. } => false,
        }
    }
}

/// The answer to the request of this id.
pub(crate) fn answer(id: i64) -> Vec<u8> {
    format!("{{\"id\":{id}}}").into_bytes()
}

/// An answer of a bit more than so many bytes.
pub(crate) fn large_answer(id: i64, bytes: usize) -> Vec<u8> {
    format!("{{\"id\":{id},\"filling\":\"{}\"}}", "x".repeat(bytes)).into_bytes()
}

/// Answers `store.insert` when the test releases it, and other inserts meanwhile, with as many bytes as its field `bytes`
/// says; `store.update` likewise, but it is done before; `wait` and `store.all` likewise, but alone; `large` at once with
/// as many bytes; everything else at once. Refuses `forbidden`, and panics at `panic`.
pub(crate) struct FakeSession(Arc<Script>);

fn bytes_of(request: &Request<'_>) -> Option<usize> {
    request.fields().get("bytes").and_then(|bytes| bytes.parse().ok())
}

impl Service for FakeSession {
    type Pending = Pending;
    type Completion = i64;

    fn handle(&mut self, request: &Request<'_>) -> Reply<Pending, i64> {
        let id = request.id().to_string().parse().expect("tests use whole numbers");
        self.0.handled.lock().push(id);
        match request.name() {
            "store.insert" => Reply::Later(Pending::Waiting {
                released: self.0.wait(),
                id,
                bytes: bytes_of(request).unwrap_or_default(),
            }),
            "store.update" => Reply::Later(Pending::Done {
                released: self.0.wait(),
                id,
            }),
            "store.upsert" => Reply::Later(Pending::Overtaken {
                polls: 0,
                script: Arc::clone(&self.0),
                id,
            }),
            "wait" | "store.all" => {
                let released = self.0.wait();
                Reply::Alone(Box::pin(async move {
                    let _ = released.await;
                    id
                }))
            }
            "large" => Reply::Now(large_answer(id, bytes_of(request).expect("tests say how large"))),
            "panic" => panic!("as asked for"),
            _ => Reply::Now(answer(id)),
        }
    }

    fn admit(&mut self, request: &Request<'_>) -> Admittance {
        if request.name() == "forbidden" {
            return Admittance::Refused(answer(request.id().to_string().parse().expect("tests use whole numbers")));
        }
        Admittance::Granted
    }

    fn recheck(&mut self) -> Option<CloseCode> {
        None
    }

    fn new_user(&mut self) -> Option<Option<Arc<Principal>>> {
        None
    }

    fn refused(&mut self, _: &Request<'_>, _: &Failure) {}

    fn complete(&mut self, id: i64) -> Finished<i64> {
        Finished::Answer(answer(id))
    }

    fn message(&mut self, id: SubscriptionId, update: Update) -> Option<Vec<u8>> {
        if !self.0.held.lock().contains(&id) {
            return None;
        }
        Some(match update {
            Update::Result(result) => message::push(id, result.data().as_deref(), SCOPE.at(result.seq())),
            Update::Failed(error) => message::subscription_error(id, error.code(), &error.to_string()),
            Update::Changes(set) => message::push_changes(id, set.data(), SCOPE.at(set.seq())),
            Update::Missed { changes, seq } => message::push_missed(id, changes, SCOPE.at(seq)),
            Update::Ended(reason) => {
                self.0.held.lock().remove(&id);
                message::subscription_ended(id, reason.as_str())
            }
        })
    }

    fn has_backlog(&self) -> bool {
        !self.0.backlog.lock().is_empty()
    }

    fn backlog(&mut self) -> Option<Vec<u8>> {
        self.0.backlog.lock().pop_front()
    }
}

impl Drop for FakeSession {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
    }
}

/// What a session is opened with, for a client that is nobody in particular.
pub(crate) fn opening(outbox: &Arc<Outbox>) -> Opening {
    Opening {
        connection: ConnectionId::next(),
        address: IpAddr::from([127, 0, 0, 1]),
        outbox: Arc::clone(outbox),
        figures: ConnectionFigures::new(0),
        login: None,
    }
}

impl Sessions for Arc<Script> {
    type Session = FakeSession;

    fn open(&self, opening: Opening) -> FakeSession {
        self.open.fetch_add(1, Ordering::AcqRel);
        self.outboxes.lock().push(opening.outbox);
        FakeSession(Arc::clone(self))
    }
}
