//! Subscriptions: for a server, which brings a sink of its own, and for the embedding program.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use ractor::ActorRef;
use serde_json::Value;
use tokio::sync::{oneshot, watch};

use super::StoreError;
use super::feeds::ChangeSet;
use super::guard::Guard;
use super::handle::{Snapshot, Store};
use super::store_actor::StoreMessage;
use super::views::{EndReason, Sink, Update, ViewResult};
use crate::protocol::{Cursor, CursorScope, SubscriptionId};

/// How a query is to be watched.
#[derive(Clone, Debug, Default)]
pub struct SubscribeOptions {
    /// Whether changes of the result are to be told as deltas: then its items must have keys.
    pub delta: bool,
    /// How far an earlier subscription of the same query got.
    pub resume: Option<Cursor>,
    /// What bounds whoever watches, where not everything is there for them.
    pub guard: Option<Arc<Guard>>,
    /// The state on which the query was looked up, so that one of the same name that was defined since is not taken for
    /// it; the newest one where none is given.
    pub found_in: Option<Snapshot>,
}

/// A subscription that was opened: its first result, and the guard that keeps it.
pub struct Subscribed {
    /// The result at the commit from which on changes are pushed.
    pub result: Arc<ViewResult>,
    /// What its cursors have in common.
    pub scope: CursorScope,
    /// The commit as of which this is the result: the subscription begins at the cursor `scope.at(seq)`.
    pub seq: u64,
    /// What turned the result at the cursor that was given into this one, as JSON; none where that is not known.
    pub resumed: Option<Bytes>,
    /// Ends the subscription when it goes.
    pub subscription: Subscription,
}

/// A bucket that is followed: what was missed, and the guard that keeps it.
pub struct Followed {
    /// What its cursors have in common.
    pub scope: CursorScope,
    /// The commit behind which changes are pushed: without a cursor the feed begins at `scope.at(seq)`.
    pub seq: u64,
    /// What has happened since the cursor that was given, up to `seq`, in order.
    pub backlog: Vec<Arc<ChangeSet>>,
    /// Ends the subscription when it goes.
    pub subscription: Subscription,
}

/// Keeps a subscription; dropping it ends it.
pub struct Subscription {
    id: SubscriptionId,
    actor: ActorRef<StoreMessage>,
}

impl Subscription {
    /// The subscription's name.
    #[must_use]
    pub fn id(&self) -> SubscriptionId {
        self.id
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // A store that is closed has no subscriptions.
        let _ = self.actor.cast(StoreMessage::Unsubscribe(self.id));
    }
}

/// What the actor says of a view that is watched from now on.
pub(super) struct Watched {
    pub(super) result: Arc<ViewResult>,
    pub(super) seq: u64,
    pub(super) resumed: Option<Bytes>,
}

/// What the actor says of a feed that is followed from now on.
pub(super) struct Fed {
    pub(super) seq: u64,
    pub(super) backlog: Vec<Arc<ChangeSet>>,
}

/// Something that is being opened.
struct Opening<T> {
    /// Goes before the guard below: an answer that nobody takes any more must be seen as such.
    answer: oneshot::Receiver<Result<T, StoreError>>,
    scope: CursorScope,
    subscription: Option<Subscription>,
}

impl<T> Opening<T> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(T, CursorScope, Subscription), StoreError>> {
        let Poll::Ready(answer) = Pin::new(&mut self.answer).poll(context) else {
            return Poll::Pending;
        };
        let answer = answer.unwrap_or(Err(StoreError::Closed));
        Poll::Ready(answer.and_then(|answer| {
            let subscription = self.subscription.take().ok_or(StoreError::Closed)?;
            Ok((answer, self.scope, subscription))
        }))
    }
}

/// A subscription that is being opened.
pub struct Subscribing(Opening<Watched>);

impl Subscribing {
    pub(super) fn new(
        actor: ActorRef<StoreMessage>,
        id: SubscriptionId,
        scope: CursorScope,
        answer: oneshot::Receiver<Result<Watched, StoreError>>,
    ) -> Self {
        let subscription = Some(Subscription { id, actor });
        Self(Opening {
            answer,
            scope,
            subscription,
        })
    }
}

impl Future for Subscribing {
    type Output = Result<Subscribed, StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(context).map_ok(|(watched, scope, subscription)| Subscribed {
            result: watched.result,
            scope,
            seq: watched.seq,
            resumed: watched.resumed,
            subscription,
        })
    }
}

/// A change feed that is being opened.
pub struct Following(Opening<Fed>);

impl Following {
    pub(super) fn new(
        actor: ActorRef<StoreMessage>,
        id: SubscriptionId,
        scope: CursorScope,
        answer: oneshot::Receiver<Result<Fed, StoreError>>,
    ) -> Self {
        let subscription = Some(Subscription { id, actor });
        Self(Opening {
            answer,
            scope,
            subscription,
        })
    }
}

impl Future for Following {
    type Output = Result<Followed, StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.poll(context).map_ok(|(fed, scope, subscription)| Followed {
            scope,
            seq: fed.seq,
            backlog: fed.backlog,
            subscription,
        })
    }
}

/// A query that the embedding program watches.
///
/// ```
/// # use noex_server::store::{BucketDefinition, FieldSpec, Store};
/// # use noex_server::store::query::QueryDefinition;
/// # use serde_json::{Value, json};
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let store = Store::builder().in_memory().open().await?;
/// # store.define_bucket("tasks", BucketDefinition::builder("id").field("id", FieldSpec::string()).build()?).await?;
/// # let config = json!({ "bucket": "tasks", "filter": { "open": true } });
/// # store.define_query("open-tasks", QueryDefinition::from_value(&config)?).await?;
/// let mut open = store.watch("open-tasks", Value::Null).await?;
/// assert_eq!(open.value(), Some(json!([])));
/// store.bucket("tasks").insert(&json!({ "id": "a", "open": true })).await?;
/// open.changed().await?;
/// assert_eq!(open.value().and_then(|tasks| tasks.as_array().map(Vec::len)), Some(1));
/// # Ok(())
/// # }
/// ```
pub struct LiveQuery {
    current: Arc<ViewResult>,
    updates: watch::Receiver<Update>,
    _subscription: Subscription,
}

struct WatchSink(watch::Sender<Update>);

impl Sink for WatchSink {
    fn push(&self, _: SubscriptionId, update: Update) {
        self.0.send_replace(update);
    }
}

/// Why a live query gives nothing new.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum WatchError {
    /// It is over.
    #[error("the live query is over: {}", .0.as_str())]
    Ended(EndReason),
    /// Its evaluation failed; it goes on with the next change.
    #[error(transparent)]
    Failed(StoreError),
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

impl LiveQuery {
    pub(super) async fn open(store: &Store, query: &str, params: &Value) -> Result<Self, StoreError> {
        let placeholder = Update::Failed(StoreError::Closed);
        let (sender, mut updates) = watch::channel(placeholder);
        updates.mark_unchanged();
        let subscribed = store
            .subscribe(query, params, SubscriptionId::next(), Arc::new(WatchSink(sender)))
            .await?;
        Ok(Self {
            current: subscribed.result,
            updates,
            _subscription: subscribed.subscription,
        })
    }

    /// The newest result that was taken.
    #[must_use]
    pub fn result(&self) -> &Arc<ViewResult> {
        &self.current
    }

    /// The newest result that was taken, as a value; none where the query yields no value.
    #[must_use]
    pub fn value(&self) -> Option<Value> {
        self.current.data().map(|json| serde_json::from_slice(&json).unwrap_or(Value::Null))
    }

    /// Waits for a newer result and takes it. Results in between may be skipped, the newest never is.
    ///
    /// # Errors
    /// [`WatchError::Ended`] when the bucket or the query is gone, [`WatchError::Failed`] when an evaluation
    /// failed, [`WatchError::Closed`].
    pub async fn changed(&mut self) -> Result<(), WatchError> {
        self.updates.changed().await.map_err(|_| WatchError::Closed)?;
        match &*self.updates.borrow_and_update() {
            Update::Result(result) => {
                self.current = Arc::clone(result);
                Ok(())
            }
            Update::Ended(reason) => Err(WatchError::Ended(*reason)),
            Update::Failed(error) => Err(WatchError::Failed(error.clone())),
            // Only a follower of a bucket gets these, and a query's is none.
            Update::Changes(_) | Update::Missed { .. } => Ok(()),
        }
    }
}
