//! The outbox: what others have for a connection, kept until the connection's own task comes for it.
//!
//! The store, the heartbeat and the shutdown write into it from their own tasks and never wait. Its size is bounded,
//! however slowly the client reads: see [`Updates`]. It knows no socket.

use std::sync::Arc;
use std::task::Waker;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use super::updates::{HeldLimits, Updates};
use crate::protocol::{CloseCode, SubscriptionId};
use crate::store::{Sink, Update};

/// What the connection's task is told besides updates.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Signals {
    /// A system message to send.
    pub(crate) notice: Option<Bytes>,
    /// A ping to send, by its timestamp.
    pub(crate) ping: Option<u64>,
    /// The ping whose time for an answer is up.
    pub(crate) overdue: Option<u64>,
    /// Somebody's rights may have changed: the session is to look at them again.
    pub(crate) recheck: bool,
    /// The connection is to finish and close with this code.
    pub(crate) close: Option<CloseCode>,
}

#[derive(Default)]
struct State {
    updates: Updates,
    signals: Signals,
    /// The ping that the client has not answered. Starts None. None -> Some in `ping`, Some -> None in `pong`.
    unanswered: Option<u64>,
    /// The connection holds updates back and comes for more by itself: it need not be woken for each.
    holding: bool,
    /// Once the connection closes nothing more is taken in.
    closed: bool,
}

/// One connection's outbox, shared by all who have something for it.
#[derive(Default)]
pub(crate) struct Outbox {
    state: Mutex<State>,
    waker: AtomicWaker,
}

impl Outbox {
    /// An outbox in which so much may wait.
    pub(crate) fn new(limits: HeldLimits) -> Self {
        let state = State {
            updates: Updates::new(limits),
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
            waker: AtomicWaker::new(),
        }
    }

    /// Has `waker` woken when something is put in. Call it before [`Outbox::take`]: what comes between is not missed.
    pub(crate) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Moves all that waits into `updates` and the returned signals.
    pub(crate) fn take(&self, updates: &mut Updates) -> Signals {
        let mut state = self.state.lock();
        if !state.updates.is_empty() {
            updates.absorb(&mut state.updates);
        }
        std::mem::take(&mut state.signals)
    }

    /// Says whether the connection holds updates back, so that it is not woken for more of them. Tells whether some
    /// have come that it does not know of.
    pub(crate) fn hold(&self, holding: bool) -> bool {
        let mut state = self.state.lock();
        state.holding = holding;
        !state.updates.is_empty()
    }

    /// Has a system message sent.
    pub(crate) fn notify(&self, message: Bytes) {
        self.change(|state| state.signals.notice = Some(message));
    }

    /// Has the session look at its rights again.
    pub(crate) fn recheck(&self) {
        self.change(|state| state.signals.recheck = true);
    }

    /// Has the connection finish what it was asked and close. The first code wins.
    pub(crate) fn request_close(&self, code: CloseCode) {
        self.change(|state| {
            state.signals.close.get_or_insert(code);
        });
    }

    /// Has a ping sent, unless one is still unanswered: then its own timeout decides. Tells whether it is sent.
    pub(crate) fn ping(&self, timestamp: u64) -> bool {
        let mut sent = false;
        self.change(|state| {
            sent = state.unanswered.is_none();
            if sent {
                state.unanswered = Some(timestamp);
                state.signals.ping = Some(timestamp);
            }
        });
        sent
    }

    /// Takes a pong. Only the very timestamp of the unanswered ping counts: an invented one is no sign of life.
    pub(crate) fn pong(&self, timestamp: f64) {
        let mut state = self.state.lock();
        // Milliseconds since 1970 are far below 2^53, so that the conversion is exact.
        if state.unanswered.is_some_and(|sent| sent as f64 == timestamp) {
            state.unanswered = None;
        }
    }

    /// Whether the ping of this timestamp is still unanswered.
    pub(crate) fn awaits_pong(&self, timestamp: u64) -> bool {
        self.state.lock().unanswered == Some(timestamp)
    }

    /// The time to answer the ping is up, for the first time or again. The connection decides whether its client is
    /// lost. Tells whether to ask again later: the ping is unanswered still.
    pub(crate) fn pong_overdue(&self, timestamp: u64) -> bool {
        let mut unanswered = false;
        self.change(|state| {
            unanswered = state.unanswered == Some(timestamp);
            if unanswered {
                state.signals.overdue = Some(timestamp);
            }
        });
        unanswered
    }

    /// Drops what waits and takes in nothing more.
    pub(crate) fn close(&self) {
        let dropped = {
            let mut state = self.state.lock();
            state.closed = true;
            std::mem::take(&mut state.updates)
        };
        // Results may be large: they are freed outside of the lock that the store waits for.
        drop(dropped);
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        change(&mut state);
        drop(state);
        self.waker.wake();
    }
}

impl Sink for Outbox {
    fn push(&self, id: SubscriptionId, update: Update) {
        let mut state = self.state.lock();
        if state.closed {
            return;
        }
        state.updates.insert(id, update);
        if !state.holding {
            drop(state);
            self.waker.wake();
        }
    }
}

/// What the outside keeps of a connection.
pub(crate) type OutboxHandle = Arc<Outbox>;
