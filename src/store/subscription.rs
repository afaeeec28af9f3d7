//! Subscriptions: for a server, which brings a sink of its own, and for the embedding program.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ractor::ActorRef;
use serde_json::Value;
use tokio::sync::{oneshot, watch};

use super::StoreError;
use super::handle::Store;
use super::store_actor::StoreMessage;
use super::views::{EndReason, Sink, Update, ViewResult};
use crate::protocol::{CursorScope, SubscriptionId};

/// A subscription that was opened: its first result, and the guard that keeps it.
pub struct Subscribed {
    /// The result at the commit from which on changes are pushed.
    pub result: Arc<ViewResult>,
    /// What its cursors have in common.
    pub scope: CursorScope,
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

/// A subscription that is being opened.
pub struct Subscribing {
    /// Goes before the guard below: an answer that nobody takes any more must be seen as such.
    result: oneshot::Receiver<Result<Arc<ViewResult>, StoreError>>,
    subscription: Option<Subscription>,
}

impl Subscribing {
    pub(super) fn new(
        actor: ActorRef<StoreMessage>,
        id: SubscriptionId,
        result: oneshot::Receiver<Result<Arc<ViewResult>, StoreError>>,
    ) -> Self {
        Self {
            subscription: Some(Subscription { id, actor }),
            result,
        }
    }
}

impl Future for Subscribing {
    type Output = Result<Subscribed, StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Poll::Ready(answer) = Pin::new(&mut self.result).poll(context) else {
            return Poll::Pending;
        };
        let result = answer.unwrap_or(Err(StoreError::Closed));
        Poll::Ready(result.and_then(|result| {
            let subscription = self.subscription.take().ok_or(StoreError::Closed)?;
            let scope = CursorScope { epoch: 0, subject: 0 };
            Ok(Subscribed {
                result,
                scope,
                subscription,
            })
        }))
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
