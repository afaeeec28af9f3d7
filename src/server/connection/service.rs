//! What a connection needs of its session. The seam lets tests drive a connection with no store behind it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use super::outbox::Outbox;
use crate::protocol::{Request, SubscriptionId};
use crate::server::handlers::{Completion, Handled, HandlerContext, PendingAnswer, Session};
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

/// A session: carries out requests, one after the other.
pub(crate) trait Service: Send + 'static {
    /// An answer that is on its way.
    type Pending: Future<Output = Vec<u8>> + Unpin + Send;
    /// What comes of a request that is carried out alone.
    type Completion: Send;

    /// Carries out a request, or begins to.
    fn handle(&mut self, request: &Request<'_>) -> Reply<Self::Pending, Self::Completion>;
    /// Ends a request that was carried out alone. Gives its answer.
    fn complete(&mut self, completion: Self::Completion) -> Vec<u8>;
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

    fn handle(&mut self, request: &Request<'_>) -> Reply<PendingAnswer, Completion> {
        match self.handle(request) {
            Handled::Answer(answer) => Reply::Now(answer),
            Handled::Pending(pending) => Reply::Later(pending),
            Handled::Alone(future) => Reply::Alone(future),
        }
    }

    fn complete(&mut self, completion: Completion) -> Vec<u8> {
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

    /// Opens a session whose subscriptions push into `outbox`, and which keeps `subscriptions` at their number.
    /// Dropping it ends them.
    fn open(&self, outbox: Arc<Outbox>, subscriptions: Arc<AtomicUsize>) -> Self::Session;
}

/// Sessions on a store.
pub(crate) struct StoreSessions(pub(crate) Arc<HandlerContext>);

impl Sessions for StoreSessions {
    type Session = Session;

    fn open(&self, outbox: Arc<Outbox>, subscriptions: Arc<AtomicUsize>) -> Session {
        Session::new(Arc::clone(&self.0), outbox, subscriptions)
    }
}
