//! What a connection needs of its session. The seam lets tests drive a connection with no store behind it.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use super::outbox::Outbox;
use crate::protocol::{CloseCode, ConnectionId, Request, SubscriptionId};
use crate::server::access::{Access, Authority, Deadlines, Login, Place, Presence, Principal};
use crate::server::audit::Event;
use crate::server::handlers::{Admittance, Completion, Failure, Finished, Handled, HandlerContext, PendingAnswer, Session};
use crate::server::statistics::ConnectionFigures;
use crate::store::Update;

/// How a request is answered.
pub(crate) enum Reply<P, C> {
    /// With this.
    Now(Vec<u8>),
    /// With what this will give. Further requests may be submitted meanwhile.
    Later(P),
    /// With what the session makes of this future's outcome. Nothing else happens on the connection meanwhile.
    Alone(Pin<Box<dyn Future<Output = C> + Send>>),
}

/// An answer that is on its way.
pub(crate) trait Awaited: Future<Output = Vec<u8>> + Unpin + Send {
    /// How large it will be, as far as could be known when the request was submitted.
    fn expected_bytes(&self) -> usize;
    /// Whether others can see already what was done, while the answer still waits for something.
    fn is_done(&self) -> bool;
}

impl Awaited for PendingAnswer {
    fn expected_bytes(&self) -> usize {
        self.expected_bytes()
    }

    fn is_done(&self) -> bool {
        self.is_done()
    }
}

/// A session: carries out requests, one after the other.
pub(crate) trait Service: Send + 'static {
    /// An answer that is on its way.
    type Pending: Awaited;
    /// What comes of a request that is carried out alone.
    type Completion: Send;

    /// Whether whoever is logged in may have a request carried out. Asked before it counts against any quota.
    fn admit(&mut self, request: &Request<'_>) -> Admittance;
    /// Carries out a request that was admitted, or begins to.
    fn handle(&mut self, request: &Request<'_>) -> Reply<Self::Pending, Self::Completion>;
    /// Learns that a request which was admitted is beyond a quota, and is answered with this.
    fn refused(&mut self, request: &Request<'_>, failure: &Failure);
    /// Looks at the rights again. Gives the code to close with where the connection has no business here any more.
    fn recheck(&mut self) -> Option<CloseCode>;
    /// The user whose quotas count, where that has become another since it was asked last; `Some(None)` for nobody.
    fn new_user(&mut self) -> Option<Option<Arc<Principal>>>;
    /// Ends a request that was carried out alone. Gives its answer, or what that still waits for.
    fn complete(&mut self, completion: Self::Completion) -> Finished<Self::Completion>;
    /// The message about something new of a subscription; none where the session no longer has it. Asked for when
    /// the message is about to be sent, in the order in which messages are sent.
    fn message(&mut self, subscription: SubscriptionId, update: Update) -> Option<Vec<u8>>;
    /// Whether there are messages about what was missed before a subscription began.
    fn has_backlog(&self) -> bool;
    /// The next message about what was missed: it is sent before any update.
    fn backlog(&mut self) -> Option<Vec<u8>>;
}

impl Service for Session {
    type Pending = PendingAnswer;
    type Completion = Completion;

    fn admit(&mut self, request: &Request<'_>) -> Admittance {
        self.admit(request)
    }

    fn recheck(&mut self) -> Option<CloseCode> {
        self.recheck()
    }

    fn new_user(&mut self) -> Option<Option<Arc<Principal>>> {
        self.new_user()
    }

    fn handle(&mut self, request: &Request<'_>) -> Reply<PendingAnswer, Completion> {
        match self.handle(request) {
            Handled::Answer(answer) => Reply::Now(answer),
            Handled::Pending(pending) => Reply::Later(pending),
            Handled::Alone(future) => Reply::Alone(future),
        }
    }

    fn refused(&mut self, request: &Request<'_>, failure: &Failure) {
        self.record_refusal(request, failure);
    }

    fn complete(&mut self, completion: Completion) -> Finished<Completion> {
        self.complete(completion)
    }

    fn message(&mut self, subscription: SubscriptionId, update: Update) -> Option<Vec<u8>> {
        self.message(subscription, update)
    }

    fn has_backlog(&self) -> bool {
        self.has_backlog()
    }

    fn backlog(&mut self) -> Option<Vec<u8>> {
        self.backlog()
    }
}

/// Where sessions come from.
pub(crate) trait Sessions: Send + Sync + 'static {
    /// What it makes.
    type Session: Service;

    /// Opens a session for a connection. Dropping it ends its subscriptions.
    fn open(&self, opening: Opening) -> Self::Session;

    /// Whether nothing but logging in can be done without a login.
    fn requires_login(&self) -> bool {
        false
    }
}

/// What a session is opened with.
pub(crate) struct Opening {
    pub(crate) connection: ConnectionId,
    /// The client's address.
    pub(crate) address: IpAddr,
    /// What subscriptions push into.
    pub(crate) outbox: Arc<Outbox>,
    /// What others see of the connection; the session keeps the number of its subscriptions and who is logged in.
    pub(crate) figures: Arc<ConnectionFigures>,
    /// Who has logged in by the upgrade.
    pub(crate) login: Option<Login>,
}

/// Sessions on a store.
pub(crate) struct StoreSessions {
    pub(crate) context: Arc<HandlerContext>,
    pub(crate) authority: Arc<dyn Authority>,
    pub(crate) presence: Arc<Presence>,
    pub(crate) deadlines: Arc<Deadlines>,
    /// How long a client may take to log in, where it has to.
    pub(crate) log_in_within: Duration,
}

impl Sessions for StoreSessions {
    type Session = Session;

    fn open(&self, opening: Opening) -> Session {
        let Opening {
            connection,
            address,
            outbox,
            figures,
            login,
        } = opening;
        let log_in_by = super::super::wall_clock_ms().saturating_add(crate::server::millis(self.log_in_within));
        let access = Access::new(
            Arc::clone(&self.authority),
            Arc::clone(&self.deadlines),
            Place::new(Arc::clone(&self.presence), connection, Arc::clone(&outbox)),
            Arc::clone(&outbox),
            address,
            Some(log_in_by),
        );
        let mut session = Session::new(Arc::clone(&self.context), outbox, figures, access);
        if let Some(login) = login {
            session.log_in(login);
            session.record_event(Event::LoggedInByUpgrade);
        }
        session
    }

    fn requires_login(&self) -> bool {
        self.authority.requires_login()
    }
}
