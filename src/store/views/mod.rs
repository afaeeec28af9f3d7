//! Live views: results that are kept up to date, shared by all who watch the same thing.
//!
//! A view is keyed by its query and the parameters that the query uses. It is evaluated once, follows the changes
//! of each commit group, and hands its newest result to every subscriber. Nothing here knows what a subscriber is
//! beyond [`Sink`].

mod delta;
#[cfg(test)]
mod delta_tests;
mod groups;
mod live_view;
mod number;
mod result;
mod resumes;
mod routing;
mod rows;
mod sequence;
mod tally;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use serde_json::Value;

pub use delta::Delta;
pub use result::ViewResult;

use self::live_view::{Followed, LiveView, Plan};
use self::resumes::Resumes;
use self::routing::Routing;
use self::rows::Versions;
use super::StoreError;
use super::feeds::{ChangeSet, lifetime};
use super::fingerprint::Fingerprint;
use super::guard::Guard;
use super::history::History;
use super::long_work::in_place;
use super::query::QueryDefinition;
use super::state::{Change, QueryKind, State};
use super::stats::MaintenanceStats;
use crate::protocol::{BucketName, FieldName, Issue, QueryName, SubscriptionId};

/// Where more rows than this have changed, it is not worked out what that did to a result that has not even twice as
/// many: the whole is encoded once for all, a delta once for every commit from which somebody comes back.
const ROWS_TOLD: usize = 1_000;

/// Who is told of new results. Called on the store's own task: it must not block.
pub trait Sink: Send + Sync {
    /// Something about a subscription is new. Only the newest result counts.
    fn push(&self, id: SubscriptionId, update: Update);
}

/// What is new about a subscription.
#[derive(Clone, Debug)]
pub enum Update {
    /// There is a new result.
    Result(Arc<ViewResult>),
    /// The subscription is over.
    Ended(EndReason),
    /// The evaluation failed: the subscription stays, with its last result.
    Failed(StoreError),
    /// Records of a followed bucket changed. Every one of these counts, in their order.
    Changes(Arc<ChangeSet>),
    /// Changes of a followed bucket were left out because the follower was too slow.
    Missed {
        /// How many.
        changes: u64,
        /// The commit behind which the next change follows.
        seq: u64,
    },
}

impl Update {
    /// How many changes the subscriber is told that it has missed.
    #[must_use]
    pub fn missed_changes(&self) -> u64 {
        match self {
            Self::Missed { changes, .. } => *changes,
            Self::Result(_) | Self::Ended(_) | Self::Failed(_) | Self::Changes(_) => 0,
        }
    }
}

/// Why a subscription is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// Its bucket was dropped.
    BucketDropped,
    /// Its query was removed.
    QueryRemoved,
}

impl EndReason {
    /// The text on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BucketDropped => "bucket_dropped",
            Self::QueryRemoved => "query_removed",
        }
    }
}

/// Names a view within its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ViewId(u64);

/// What equal subscriptions have in common: the query, those of its parameters that it uses, as JSON, and the key of the
/// guard that bounds what is seen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ViewKey {
    query: QueryName,
    params: Vec<u8>,
    guard: Option<Box<[u8]>>,
}

/// Who watches a view.
struct Subscriber {
    sink: Arc<dyn Sink>,
    /// The number of subscriptions of the query, shared with the catalog.
    active: Arc<AtomicUsize>,
}

struct Entry {
    key: ViewKey,
    view: LiveView,
    subscribers: HashMap<SubscriptionId, Subscriber>,
}

/// A view to be built: what it takes, without the store.
#[derive(Clone, Debug)]
pub(super) struct Blueprint {
    key: ViewKey,
    plan: Plan,
    active: Arc<AtomicUsize>,
    subject: u64,
    /// The key field of the bucket by which a guard was put in place: it is always shown.
    guarded_key: Option<FieldName>,
}

impl Blueprint {
    /// Puts a query and its parameters together, as far as a guard lets see. `life` names this opening of the store.
    ///
    /// # Errors
    /// Where the query is not defined or a parameter is missing or of no use; where the query names a field that is not
    /// there within the guard, or is a function, which may look at anything.
    pub(super) fn new(state: &State, query: &str, params: &Value, guard: Option<&Guard>, life: u64) -> Result<Self, StoreError> {
        let entry = state.query(query)?;
        let subject = Fingerprint::of("query").with(query.as_bytes());
        let mut guarded_key = None;
        let (plan, params, subject) = match &entry.kind {
            QueryKind::Declarative(definition) => {
                let (mut resolved, used) = resolve(query, definition, params)?;
                let bucket = state.bucket(definition.bucket().as_str())?;
                if let Some(guard) = guard {
                    resolved = guard.bind(resolved, bucket.key_field())?;
                    guarded_key = Some(bucket.key_field().clone());
                }
                let config = crate::protocol::json::to_vec(&Value::Object(definition.config().clone()));
                let subject = subject.with(&config).with(&lifetime(bucket, life));
                (Plan::Query(Arc::new(resolved)), used, subject)
            }
            QueryKind::Programmatic(_) if guard.is_some() => return Err(StoreError::NeedsAllRecords),
            QueryKind::Programmatic(closure) => {
                let text = crate::protocol::json::to_vec(params);
                // After a restart the function may be another one.
                (
                    Plan::Closure(closure.clone(), Arc::new(params.clone())),
                    text,
                    subject.with(&life.to_le_bytes()),
                )
            }
        };
        Ok(Self {
            subject: subject.with(&params).with_any(guard.map(Guard::key)).finish(),
            key: ViewKey {
                query: query.into(),
                params,
                guard: guard.map(|guard| guard.key().into()),
            },
            plan,
            active: entry.subscription_counter(),
            guarded_key,
        })
    }

    /// Whether the query is still the one that this was made for, and a guard still means the same.
    ///
    /// # Errors
    /// [`StoreError::QueryNotDefined`] where it was removed meanwhile, also if another one has its name by now; where the
    /// bucket of a guarded one was.
    pub(super) fn check_current(&self, state: &State) -> Result<(), StoreError> {
        let name = self.key.query.as_str();
        let entry = state.query(name)?;
        if Arc::ptr_eq(&entry.subscription_counter(), &self.active) && self.plan.is_guarded_by(self.guarded_key.as_ref(), state)? {
            Ok(())
        } else {
            Err(StoreError::QueryNotDefined(name.into()))
        }
    }

    /// The query.
    pub(super) fn query(&self) -> &QueryName {
        &self.key.query
    }

    /// What equal subscriptions have in common.
    pub(super) fn key(&self) -> &ViewKey {
        &self.key
    }

    /// What names the query with its definition and parameters in cursors.
    pub(super) fn subject(&self) -> u64 {
        self.subject
    }

    /// Checks that changes of the result can be told as deltas.
    ///
    /// # Errors
    /// [`StoreError::Invalid`] where items have no key; where the bucket is not there.
    pub(super) fn check_delta(&self, state: &State) -> Result<(), StoreError> {
        self.plan.check_delta(state)
    }

    /// How many rows an evaluation will look at.
    pub(super) fn cost(&self, state: &State) -> usize {
        LiveView::cost(&self.plan, state)
    }

    /// Whether the view reads from a bucket, as far as that is known before it has run.
    pub(super) fn reads(&self, bucket: &BucketName) -> bool {
        match &self.plan {
            Plan::Query(query) => query.bucket == *bucket,
            Plan::Closure(..) => true,
        }
    }

    /// Evaluates the view.
    ///
    /// # Errors
    /// Where the bucket is gone or a closure fails.
    pub(super) fn build(&self, state: &State) -> Result<Built, StoreError> {
        LiveView::evaluate(self.plan.clone(), state).map(Built)
    }
}

/// A view that was evaluated.
pub(super) struct Built(LiveView);

impl Built {
    /// Brings the view up to a state that has come about since by these changes. `reevaluations` counts what could not
    /// be followed.
    ///
    /// # Errors
    /// Where an evaluation was needed and failed.
    pub(super) fn catch_up(&mut self, changes: &[Change], state: &State, reevaluations: &mut u64) -> Result<(), StoreError> {
        let changes: Vec<_> = changes.iter().collect();
        match self.0.follow(&changes, state, reevaluations) {
            Followed::Unchanged | Followed::Changed => Ok(()),
            Followed::Failed(error) => Err(error),
        }
    }
}

/// The query with its parameters in place, and the JSON of the parameters that it uses.
pub(super) fn resolve(
    query: &str,
    definition: &QueryDefinition,
    params: &Value,
) -> Result<(super::query::ResolvedQuery, Vec<u8>), StoreError> {
    let none = serde_json::Map::new();
    let what = || format!("parameters of query \"{query}\"");
    let given = match params {
        Value::Object(given) => given,
        // Anything else holds no parameter; a query that needs none does not mind.
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => &none,
    };
    let resolved = definition
        .resolve(given)
        .map_err(|issues: Vec<Issue>| StoreError::Invalid { what: what(), issues })?;
    let used = definition
        .parameters()
        .iter()
        .map(|name| given.get(name).cloned().unwrap_or(Value::Null))
        .collect();
    Ok((resolved, crate::protocol::json::to_vec(&Value::Array(used))))
}

/// How views were kept up to date, since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ViewCounters {
    /// Views that are being kept.
    pub views: u64,
    /// Times that a view was evaluated to begin with.
    pub builds: u64,
    /// Times that a view had to be evaluated anew.
    pub reevaluations: u64,
    /// New results offered to subscribers.
    pub offered: u64,
    /// Views that are being kept, by how they follow changes.
    pub maintenance: MaintenanceStats,
}

/// All live views of a store.
#[derive(Default)]
pub(super) struct Views {
    last: u64,
    entries: HashMap<ViewId, Entry>,
    by_key: HashMap<ViewKey, ViewId>,
    by_subscription: HashMap<SubscriptionId, ViewId>,
    routing: Routing,
    resumes: Resumes,
    counters: ViewCounters,
}

impl Views {
    /// How it went so far.
    pub(super) fn counters(&self) -> ViewCounters {
        ViewCounters {
            views: self.entries.len() as u64,
            ..self.counters
        }
    }

    /// Counts views that were evaluated to begin with, and how often that had to be done anew.
    pub(super) fn count_evaluations(&mut self, builds: u64, reevaluations: u64) {
        self.counters.builds += builds;
        self.counters.reevaluations += reevaluations;
    }

    /// Whether a view is there already.
    pub(super) fn holds(&self, blueprint: &Blueprint) -> bool {
        self.by_key.contains_key(&blueprint.key)
    }

    /// Takes a view in that is up to date.
    pub(super) fn adopt(&mut self, blueprint: &Blueprint, built: Built) {
        self.last += 1;
        let id = ViewId(self.last);
        *built.0.count_in(&mut self.counters.maintenance) += 1;
        self.routing.add(id, &built.0);
        self.by_key.insert(blueprint.key.clone(), id);
        self.entries.insert(
            id,
            Entry {
                key: blueprint.key.clone(),
                view: built.0,
                subscribers: HashMap::new(),
            },
        );
    }

    /// Adds a subscriber to a view that is there.
    pub(super) fn subscribe(&mut self, blueprint: &Blueprint, id: SubscriptionId, sink: Arc<dyn Sink>) -> Option<Arc<ViewResult>> {
        let view = *self.by_key.get(&blueprint.key)?;
        let entry = self.entries.get_mut(&view)?;
        blueprint.active.fetch_add(1, Ordering::Relaxed);
        entry.subscribers.insert(
            id,
            Subscriber {
                sink,
                active: Arc::clone(&blueprint.active),
            },
        );
        self.by_subscription.insert(id, view);
        Some(Arc::clone(entry.view.latest()))
    }

    /// What turned the result that there was at an earlier commit into the latest one, where that is known and no more
    /// work than the whole result is worth; `state` is the state of the views.
    pub(super) fn resume(&mut self, blueprint: &Blueprint, since: u64, history: &History, state: &State) -> Option<Bytes> {
        let id = *self.by_key.get(&blueprint.key)?;
        let view = &self.entries.get(&id)?.view;
        if view.latest().seq() <= since {
            return Some(view.delta_since(&Versions::new(), state).to_json());
        }
        let Plan::Query(query) = view.plan() else { return None };
        if let Some(delta) = self.resumes.get(id, since) {
            return Some(delta);
        }
        let bucket = state.bucket_id(query.bucket.as_str())?;
        let before = history.before(bucket, since, state.seq())?;
        if before.len() > ROWS_TOLD && before.len() > view.rows_held() / 2 {
            return None;
        }
        let work_out = || view.delta_since(&before, state).to_json();
        let delta = if before.len() > ROWS_TOLD { in_place(work_out) } else { work_out() };
        self.resumes.keep(id, since, delta.clone());
        Some(delta)
    }

    /// Takes a subscriber out, and the view with the last of them.
    pub(super) fn unsubscribe(&mut self, id: SubscriptionId) {
        let Some(view) = self.by_subscription.remove(&id) else { return };
        let Some(entry) = self.entries.get_mut(&view) else { return };
        if let Some(subscriber) = entry.subscribers.remove(&id) {
            subscriber.active.fetch_sub(1, Ordering::Relaxed);
        }
        if entry.subscribers.is_empty() {
            self.drop_view(view);
        }
    }

    /// Drops a view that nobody came to watch in the end.
    pub(super) fn drop_if_unwatched(&mut self, key: &ViewKey) {
        let Some(id) = self.by_key.get(key).copied() else { return };
        if self.entries.get(&id).is_some_and(|entry| entry.subscribers.is_empty()) {
            self.drop_view(id);
        }
    }

    fn drop_view(&mut self, id: ViewId) {
        self.routing.remove(id);
        self.resumes.forget(id);
        if let Some(entry) = self.entries.remove(&id) {
            *entry.view.count_in(&mut self.counters.maintenance) -= 1;
            self.by_key.remove(&entry.key);
        }
    }

    /// Follows the changed rows of a commit group; `state` is the state after it.
    pub(super) fn follow(&mut self, changes: &[Change], state: &State) {
        let mut work: HashMap<ViewId, Vec<&Change>> = HashMap::new();
        let mut touched = HashSet::new();
        for change in changes {
            let Some(bucket) = state.bucket_by_id(change.bucket) else {
                continue;
            };
            let name = bucket.name();
            if !self.routing.concerns(name.as_str()) {
                continue;
            }
            touched.clear();
            self.routing.touched(name.as_str(), bucket.key_field(), change, &mut touched);
            for view in &touched {
                work.entry(*view).or_default().push(change);
            }
        }
        for (view, changes) in work {
            self.update(view, |view, reevaluations| view.follow(&changes, state, reevaluations));
        }
    }

    /// A bucket was emptied as a whole, or its rows changed in a way that no list of changes says.
    pub(super) fn reset(&mut self, bucket: &BucketName, state: &State) {
        for view in self.reading(bucket) {
            self.update(view, |view, reevaluations| view.reevaluate(state, reevaluations));
        }
    }

    /// A bucket is gone, and there is another one of its name. A guard was put in place for the one that is gone.
    pub(super) fn bucket_replaced(&mut self, bucket: &BucketName, state: &State) {
        for view in self.reading(bucket) {
            if self.entries.get(&view).is_some_and(|entry| entry.key.guard.is_some()) {
                self.end(view, EndReason::BucketDropped);
            } else {
                self.update(view, |view, reevaluations| view.reevaluate(state, reevaluations));
            }
        }
    }

    /// A bucket is gone: whoever watches it is told that it is over.
    pub(super) fn bucket_dropped(&mut self, bucket: &BucketName) {
        for view in self.reading(bucket) {
            self.end(view, EndReason::BucketDropped);
        }
    }

    /// A query is gone: whoever watches it is told that it is over.
    pub(super) fn query_removed(&mut self, query: &QueryName) {
        let views: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.key.query == *query)
            .map(|(id, _)| *id)
            .collect();
        for view in views {
            self.end(view, EndReason::QueryRemoved);
        }
    }

    fn reading(&self, bucket: &BucketName) -> Vec<ViewId> {
        self.entries
            .iter()
            .filter(|(_, entry)| entry.view.reads(bucket))
            .map(|(id, _)| *id)
            .collect()
    }

    fn end(&mut self, id: ViewId, reason: EndReason) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        for (subscription, subscriber) in entry.subscribers.drain() {
            subscriber.active.fetch_sub(1, Ordering::Relaxed);
            push(&*subscriber.sink, subscription, Update::Ended(reason));
            self.by_subscription.remove(&subscription);
        }
        self.drop_view(id);
    }

    /// Brings one view up to date and tells its subscribers.
    fn update(&mut self, id: ViewId, follow: impl FnOnce(&mut LiveView, &mut u64) -> Followed) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let before = entry.view.dependencies().clone();
        *entry.view.count_in(&mut self.counters.maintenance) -= 1;
        let update = match follow(&mut entry.view, &mut self.counters.reevaluations) {
            Followed::Unchanged => None,
            Followed::Changed => Some(Update::Result(Arc::clone(entry.view.latest()))),
            Followed::Failed(error) => Some(Update::Failed(error)),
        };
        // Evaluated anew, it may follow changes in another way than before.
        *entry.view.count_in(&mut self.counters.maintenance) += 1;
        if before != *entry.view.dependencies() {
            self.routing.remove(id);
            self.routing.add(id, &entry.view);
        }
        let Some(update) = update else { return };
        self.resumes.forget(id);
        self.counters.offered += entry.subscribers.len() as u64;
        for (subscription, subscriber) in &entry.subscribers {
            push(&*subscriber.sink, *subscription, update.clone());
        }
    }
}

/// Tells a subscriber. A sink that panics is its owner's concern: the store and the other subscribers go on.
pub(super) fn push(sink: &dyn Sink, id: SubscriptionId, update: Update) {
    let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| sink.push(id, update)));
    if told.is_err() {
        tracing::error!(subscription = %id, "a sink panicked");
    }
}
