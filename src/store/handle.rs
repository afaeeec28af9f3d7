//! The handles through which everybody uses a store.

use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ractor::ActorRef;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::oneshot;

use super::closure::{ClosureQuery, QueryContext};
use super::command::{Operation, Outcome};
use super::events::Events;
use super::feeds::{FeedPlan, Opening};
use super::guard::Guard;
use super::inbox::Submitted;
use super::query::{Filter, Page, QueryDefinition, Reader};
use super::shared::Shared;
use super::state::{BucketDefinition, QueryKind, RequestKey, State, Timestamp};
use super::store_actor::{Follow, StoreMessage, Watch};
use super::subscription::{Following, LiveQuery, SubscribeOptions, Subscribing};
use super::transaction::{Transaction, to_object};
use super::views::{Blueprint, Sink, resolve};
use super::{StoreBuilder, StoreError, StoreStats};
use crate::protocol::{BucketName, Cursor, CursorScope, Datum, Number, QueryName, Record, SubscriptionId, json};

/// A handle on an open store. Cloning gives another handle on the same store; when the last one goes, the store
/// writes what it has and closes.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    actor: ActorRef<StoreMessage>,
    expiry: tokio::task::JoinHandle<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.expiry.abort();
        // Behind everything that was submitted: it is carried out, and written, before the actor ends.
        let (reply, _) = oneshot::channel();
        let _ = self.actor.cast(StoreMessage::Close(reply));
    }
}

impl Store {
    /// How a store is to be opened.
    #[must_use]
    pub fn builder() -> StoreBuilder {
        StoreBuilder::default()
    }

    pub(super) fn new(shared: Arc<Shared>, actor: ActorRef<StoreMessage>, retry: Duration) -> Self {
        let expiry = tokio::spawn(expire_in_time(Arc::clone(&shared), actor.clone(), retry));
        Self {
            inner: Arc::new(Inner { shared, actor, expiry }),
        }
    }

    /// Everything at the newest durable commit, for as long as it is held.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.inner.shared.published())
    }

    /// Names the order of commits that cursors refer to. A store on disk keeps it as long as it can vouch for what
    /// earlier cursors saw; a store in memory has another one each time.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.inner.shared.epoch
    }

    /// The store's time, in milliseconds since 1970.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.inner.shared.read_time()
    }

    /// Hands an operation over, to be done in the order of submission. The future gives its outcome once that is
    /// durable. The operation is carried out also when the future is dropped.
    ///
    /// # Errors
    /// [`StoreError::Busy`] where too many wait, [`StoreError::StorageUnavailable`] where the disk has failed,
    /// [`StoreError::Closed`].
    pub fn submit(&self, operation: Operation) -> Result<Commit, StoreError> {
        self.submit_as(operation, None)
    }

    /// As [`Store::submit`], but for all operations that are submitted under the same key only the first one is
    /// carried out, also where the store is closed or the process killed in between. The others get its outcome, or
    /// its refusal as [`StoreError::RefusedBefore`]. A key is remembered as long as
    /// [`RequestLimits::window`](super::RequestLimits::window) says, with the commit that it belongs to: a store in
    /// memory forgets it when it ends.
    ///
    /// ```
    /// # use noex_server::store::{BucketDefinition, FieldSpec, Operation, RequestKey, Store, Transaction, state::Generated};
    /// # use serde_json::json;
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let store = Store::builder().in_memory().open().await?;
    /// # let orders = BucketDefinition::builder("id").field("id", FieldSpec::string().generated(Generated::Uuid)).build()?;
    /// # store.define_bucket("orders", orders).await?;
    /// let order = || -> Result<Operation, Box<dyn std::error::Error>> {
    ///     Ok(Transaction::new().insert("orders", &json!({ "item": "tea" }))?.into())
    /// };
    /// let first = store.submit_once(order()?, RequestKey::new("order-17", 1)?)?.await?;
    /// // The program did not hear of it, say, and asks again.
    /// let again = store.submit_once(order()?, RequestKey::new("order-17", 1)?)?.await?;
    /// assert_eq!(first, again);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Store::submit`]. The future gives [`StoreError::RequestKeyReused`] where the fingerprint is another one,
    /// [`StoreError::RequestKeysFull`] where no more can be remembered; then the operation was not carried out.
    pub fn submit_once(&self, operation: Operation, request: RequestKey) -> Result<Commit, StoreError> {
        self.submit_as(operation, Some(request))
    }

    fn submit_as(&self, operation: Operation, request: Option<RequestKey>) -> Result<Commit, StoreError> {
        let (reply, outcome) = oneshot::channel();
        let request = request.map(|request| request.bound_as(&operation));
        let submitted = Submitted { operation, request, reply };
        if self.inner.shared.inbox.push(submitted)? {
            self.inner.actor.cast(StoreMessage::Wake).map_err(|_| StoreError::Closed)?;
        }
        Ok(Commit(outcome))
    }

    /// Watches a query for a [`Sink`]. Nothing is pushed before the future has given the first result.
    #[must_use]
    pub fn subscribe(&self, query: &str, params: &Value, id: SubscriptionId, sink: Arc<dyn Sink>) -> Subscribing {
        self.subscribe_with(query, params, id, sink, SubscribeOptions::default())
    }

    /// Watches a query for a [`Sink`], in delta mode or from a cursor on. Nothing is pushed before the future has given
    /// the first result. Fails where the query is not defined, a parameter is missing, the query names a field that is
    /// not there within the guard or, in delta mode, items have no key; a cursor that is too old or of something else is
    /// no fault.
    #[must_use]
    pub fn subscribe_with(
        &self,
        query: &str,
        params: &Value,
        id: SubscriptionId,
        sink: Arc<dyn Sink>,
        options: SubscribeOptions,
    ) -> Subscribing {
        let (reply, answer) = oneshot::channel();
        let Inner { shared, actor, .. } = &*self.inner;
        let mut scope = CursorScope {
            epoch: shared.epoch,
            subject: 0,
        };
        let state = options.found_in.unwrap_or_else(|| self.snapshot());
        let blueprint = Blueprint::new(&state, query, params, options.guard.as_deref(), shared.life).and_then(|blueprint| {
            if options.delta {
                blueprint.check_delta(&state)?;
            }
            Ok(blueprint)
        });
        match blueprint {
            Ok(blueprint) => {
                scope.subject = blueprint.subject();
                let resume = options.resume.filter(|cursor| cursor.scope == scope);
                let watch = StoreMessage::Subscribe(Box::new(Watch {
                    blueprint,
                    id,
                    sink,
                    since: resume.map(|cursor| cursor.seq),
                    reply,
                }));
                // A store that is closed answers by dropping the reply.
                let _ = actor.cast(watch);
            }
            Err(error) => {
                let _ = reply.send(Err(error));
            }
        }
        Subscribing::new(actor.clone(), id, scope, answer)
    }

    /// Follows the records of a bucket that match a filter, all of them for `null`, for a [`Sink`]: what happens to them
    /// is pushed commit by commit, after the future has given what has happened since the cursor. Fails where the bucket
    /// is not there, the filter is malformed, or with [`StoreError::CursorTooOld`].
    #[must_use]
    pub fn follow(&self, bucket: &str, filter: &Value, since: Option<Cursor>, id: SubscriptionId, sink: Arc<dyn Sink>) -> Following {
        self.follow_within(None, bucket, filter, since, id, sink)
    }

    /// As [`Store::follow`], by somebody for whom only those records are there that pass a guard: one that comes to pass
    /// it is inserted, one that does not pass it any more is deleted. Fails also where the filter names a field that is
    /// not there.
    #[must_use]
    pub fn follow_within(
        &self,
        guard: Option<&Guard>,
        bucket: &str,
        filter: &Value,
        since: Option<Cursor>,
        id: SubscriptionId,
        sink: Arc<dyn Sink>,
    ) -> Following {
        let (reply, answer) = oneshot::channel();
        let Inner { shared, actor, .. } = &*self.inner;
        let mut scope = CursorScope {
            epoch: shared.epoch,
            subject: 0,
        };
        let opening = Opening {
            epoch: shared.epoch,
            life: shared.life,
        };
        match FeedPlan::new(&shared.published(), bucket, filter, guard, opening) {
            Ok(plan) => {
                scope = plan.scope();
                let follow = StoreMessage::Follow(Box::new(Follow {
                    plan,
                    id,
                    sink,
                    since,
                    reply,
                }));
                // A store that is closed answers by dropping the reply.
                let _ = actor.cast(follow);
            }
            Err(error) => {
                let _ = reply.send(Err(error));
            }
        }
        Following::new(actor.clone(), id, scope, answer)
    }

    /// Watches a query from the embedding program.
    ///
    /// # Errors
    /// Where the query is not defined, a parameter is missing, or its bucket is not there.
    pub async fn watch(&self, query: &str, params: Value) -> Result<LiveQuery, StoreError> {
        LiveQuery::open(self, query, &params).await
    }

    /// Evaluates a query once; none where it yields no value.
    ///
    /// # Errors
    /// Where the query is not defined, a parameter is missing, its bucket is not there, or a closure fails.
    pub fn run_query(&self, query: &str, params: &Value) -> Result<Option<Value>, StoreError> {
        let json = self.snapshot().run_query(query, params, self.now())?;
        Ok(json.map(|json| serde_json::from_slice(&json).unwrap_or(Value::Null)))
    }

    /// A bucket to read from and write to. Whether it is there shows with the first use.
    #[must_use]
    pub fn bucket(&self, name: impl Into<BucketName>) -> BucketHandle {
        BucketHandle {
            store: self.clone(),
            name: name.into(),
        }
    }

    /// Defines a bucket.
    ///
    /// # Errors
    /// [`StoreError::BucketAlreadyExists`], [`StoreError::LimitExceeded`].
    pub async fn define_bucket(&self, name: impl Into<BucketName>, definition: BucketDefinition) -> Result<(), StoreError> {
        self.run(Operation::DefineBucket {
            name: name.into(),
            definition: Arc::new(definition),
        })
        .await
        .map(drop)
    }

    /// Adds fields or indexes to a bucket, or changes its ttl: `addFields`, `addIndexes`, `ttl`.
    ///
    /// # Errors
    /// Where the bucket is not there, or the update does not fit it or its records. Then nothing has changed.
    pub async fn update_bucket(&self, name: impl Into<BucketName>, updates: Map<String, Value>) -> Result<(), StoreError> {
        self.run(Operation::UpdateBucket {
            name: name.into(),
            updates,
        })
        .await
        .map(drop)
    }

    /// Removes a bucket with all its records. Whoever watches it is told.
    ///
    /// # Errors
    /// Where it is not there, or records of other buckets refer to it.
    pub async fn drop_bucket(&self, name: impl Into<BucketName>) -> Result<(), StoreError> {
        self.run(Operation::DropBucket { name: name.into() }).await.map(drop)
    }

    /// Defines a query: filter, sort, window, projection or aggregate over one bucket.
    ///
    /// # Errors
    /// Where its bucket is not there or its name is taken.
    pub async fn define_query(&self, name: impl Into<QueryName>, definition: QueryDefinition) -> Result<(), StoreError> {
        self.run(Operation::DefineQuery {
            name: name.into(),
            definition: Arc::new(definition),
        })
        .await
        .map(drop)
    }

    /// Registers a function as a query. It runs again whenever something changes that it read. It is not kept on
    /// disk: register it at every start.
    ///
    /// # Errors
    /// Where its name is taken.
    pub async fn define_closure(
        &self,
        name: impl Into<QueryName>,
        function: impl Fn(&QueryContext<'_>, &Value) -> Result<Value, StoreError> + Send + Sync + 'static,
    ) -> Result<(), StoreError> {
        self.run(Operation::DefineClosure {
            name: name.into(),
            closure: ClosureQuery::new(function),
        })
        .await
        .map(drop)
    }

    /// Removes a query. Whoever watches it is told.
    ///
    /// # Errors
    /// Where it is not there.
    pub async fn undefine_query(&self, name: impl Into<QueryName>) -> Result<(), StoreError> {
        self.run(Operation::UndefineQuery { name: name.into() }).await.map(drop)
    }

    /// Does all steps of a transaction or none; the outcome of each.
    ///
    /// # Errors
    /// What the first step that fails runs into, or a constraint that does not hold at the end.
    pub async fn transact(&self, transaction: Transaction) -> Result<Vec<Outcome>, StoreError> {
        let Outcome::Steps(outcomes) = self.run(transaction.into()).await? else {
            return Ok(Vec::new());
        };
        Ok(outcomes)
    }

    /// The events of records whose topic, `bucket.<name>.<inserted|updated|deleted>`, matches a pattern.
    #[must_use]
    pub fn on(&self, pattern: &str) -> Events {
        self.inner.shared.announcer.listen(pattern)
    }

    /// Removes the records whose time is up now, instead of waiting for the store's own timer.
    ///
    /// # Errors
    /// Where the disk has failed or the store is closed.
    pub async fn purge_expired(&self) -> Result<(), StoreError> {
        self.run(Operation::Expire).await.map(drop)
    }

    /// What the store says of itself.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        StoreStats::of(&self.inner.shared, &self.inner.shared.published())
    }

    /// Finishes what was submitted, writes everything and closes.
    ///
    /// # Errors
    /// Where the disk has failed. A store that is closed already is no fault.
    pub async fn close(&self) -> Result<(), StoreError> {
        let (reply, done) = oneshot::channel();
        if self.inner.actor.cast(StoreMessage::Close(reply)).is_err() {
            return Ok(());
        }
        done.await.unwrap_or(Ok(()))
    }

    /// Waits until the store has ended: because it was closed, or because its actor failed. Reads go on also then.
    pub async fn ended(&self) {
        // Without a limit the wait cannot time out.
        let _ = self.inner.actor.wait(None).await;
    }

    /// Has an operation carried out, and waits until that is durable.
    ///
    /// # Errors
    /// As [`Store::submit`], and those of the operation.
    pub(crate) async fn run(&self, operation: Operation) -> Result<Outcome, StoreError> {
        self.submit(operation)?.await
    }
}

/// Wakes the actor whenever a record's time is up.
async fn expire_in_time(shared: Arc<Shared>, actor: ActorRef<StoreMessage>, retry: Duration) {
    let mut next_expiry = shared.next_expiry();
    loop {
        let next = *next_expiry.borrow_and_update();
        let Some(end) = next else {
            if next_expiry.changed().await.is_err() {
                return;
            }
            continue;
        };
        let left_ms = end.as_f64() - shared.now() as f64;
        let wait = if left_ms > 0.0 {
            Duration::from_millis(left_ms.ceil().min(60_000.0) as u64)
        } else {
            Duration::ZERO
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            changed = next_expiry.changed() => {
                if changed.is_err() {
                    return;
                }
                continue;
            }
        }
        if end > Number::from(shared.now()) {
            continue;
        }
        if actor.cast(StoreMessage::Wake).is_err() {
            return;
        }
        // What is still there after that is referred to: look again now and then.
        tokio::select! {
            () = tokio::time::sleep(retry) => {}
            changed = next_expiry.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
    }
}

/// The outcome of an operation, once it is durable.
#[derive(Debug)]
pub struct Commit(oneshot::Receiver<Result<Outcome, StoreError>>);

impl Future for Commit {
    type Output = Result<Outcome, StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0)
            .poll(context)
            .map(|answer| answer.unwrap_or(Err(StoreError::Closed)))
    }
}

/// Everything at one commit. Reading from it never waits.
#[derive(Clone, Debug)]
pub struct Snapshot(Arc<State>);

impl Deref for Snapshot {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0
    }
}

impl Snapshot {
    /// Evaluates a query: its result as JSON, none where it yields no value.
    ///
    /// # Errors
    /// Where the query is not defined, a parameter is missing, its bucket is not there, or a closure fails.
    pub fn run_query(&self, query: &str, params: &Value, now: Timestamp) -> Result<Option<Vec<u8>>, StoreError> {
        match &self.query(query)?.kind {
            QueryKind::Declarative(definition) => {
                let (resolved, _) = resolve(query, definition, params)?;
                let bucket = self.bucket(resolved.bucket.as_str())?;
                Ok(Reader::new(bucket, now).run(&resolved).to_json())
            }
            QueryKind::Programmatic(closure) => {
                let (result, _) = closure.run(self, now, params);
                result.map(|value| Some(json::to_vec(&value)))
            }
        }
    }

    /// How many rows an evaluation of a query will look at.
    ///
    /// # Errors
    /// As [`Snapshot::run_query`].
    pub fn query_cost(&self, query: &str, params: &Value, now: Timestamp) -> Result<usize, StoreError> {
        match &self.query(query)?.kind {
            QueryKind::Declarative(definition) => {
                let (resolved, _) = resolve(query, definition, params)?;
                let bucket = self.bucket(resolved.bucket.as_str())?;
                Ok(Reader::new(bucket, now).query_cost(&resolved))
            }
            QueryKind::Programmatic(_) => Ok(usize::MAX),
        }
    }
}

/// A bucket of a store, by name.
#[derive(Clone)]
pub struct BucketHandle {
    store: Store,
    name: BucketName,
}

impl BucketHandle {
    /// Stores a new record; the record as it is stored.
    ///
    /// # Errors
    /// Where the schema, a unique value, a reference or an existing key forbids it.
    pub async fn insert(&self, record: &impl Serialize) -> Result<Record, StoreError> {
        let operation = Operation::Insert {
            bucket: self.name.clone(),
            record: to_record(record)?,
        };
        self.record(operation).await
    }

    /// Stores all of the records or none.
    ///
    /// # Errors
    /// As [`BucketHandle::insert`]; issues name the index of the record.
    pub async fn insert_many<T: Serialize>(&self, records: &[T]) -> Result<Vec<Record>, StoreError> {
        let records = records.iter().map(|record| to_record(record)).collect::<Result<_, _>>()?;
        let operation = Operation::InsertMany {
            bucket: self.name.clone(),
            records,
        };
        let Outcome::Records(records) = self.store.run(operation).await? else {
            return Ok(Vec::new());
        };
        Ok(records)
    }

    /// Replaces fields of a record; the whole record after it.
    ///
    /// # Errors
    /// [`StoreError::RecordNotFound`], and as [`BucketHandle::insert`].
    pub async fn update(&self, key: impl Into<Datum>, changes: &impl Serialize) -> Result<Record, StoreError> {
        self.update_expecting(key.into(), changes, None).await
    }

    /// Replaces fields of a record that must have this version.
    ///
    /// # Errors
    /// [`StoreError::VersionConflict`], and as [`BucketHandle::update`].
    pub async fn update_version(&self, key: impl Into<Datum>, version: u64, changes: &impl Serialize) -> Result<Record, StoreError> {
        self.update_expecting(key.into(), changes, Some(version)).await
    }

    async fn update_expecting(&self, key: Datum, changes: &impl Serialize, expect_version: Option<u64>) -> Result<Record, StoreError> {
        let changes = to_record(changes)?;
        self.record(Operation::Update {
            bucket: self.name.clone(),
            key,
            changes,
            expect_version,
        })
        .await
    }

    /// Inserts a record, or updates the one that has its key.
    ///
    /// # Errors
    /// As [`BucketHandle::insert`] and [`BucketHandle::update`].
    pub async fn upsert(&self, record: &impl Serialize) -> Result<Record, StoreError> {
        let operation = Operation::Upsert {
            bucket: self.name.clone(),
            record: to_record(record)?,
            expect_version: None,
        };
        self.record(operation).await
    }

    /// Removes a record; whether there was one.
    ///
    /// # Errors
    /// Where a reference forbids it.
    pub async fn delete(&self, key: impl Into<Datum>) -> Result<bool, StoreError> {
        let operation = Operation::Delete {
            bucket: self.name.clone(),
            key: key.into(),
            expect_version: None,
        };
        Ok(self.store.run(operation).await? == Outcome::Deleted(true))
    }

    /// Replaces fields of all records that match; how many.
    ///
    /// # Errors
    /// As [`BucketHandle::update`]: then none has changed.
    pub async fn update_many(&self, filter: Filter, changes: &impl Serialize) -> Result<usize, StoreError> {
        let changes = to_record(changes)?;
        self.count_of(Operation::UpdateMany {
            bucket: self.name.clone(),
            filter,
            changes,
        })
        .await
    }

    /// Removes all records that match; how many.
    ///
    /// # Errors
    /// Where a reference forbids one of them: then none is removed.
    pub async fn delete_many(&self, filter: Filter) -> Result<usize, StoreError> {
        self.count_of(Operation::DeleteMany {
            bucket: self.name.clone(),
            filter,
        })
        .await
    }

    /// Removes all records.
    ///
    /// # Errors
    /// Where a reference forbids it.
    pub async fn clear(&self) -> Result<(), StoreError> {
        self.store.run(Operation::Clear { bucket: self.name.clone() }).await.map(drop)
    }

    /// The record of a key.
    ///
    /// # Errors
    /// Where the bucket is not there, as for every read.
    pub fn get(&self, key: impl Into<Datum>) -> Result<Option<Record>, StoreError> {
        self.read(|reader| reader.get(&key.into()).cloned())
    }

    /// All records in the order of insertion.
    ///
    /// # Errors
    /// Where the bucket is not there.
    pub fn all(&self) -> Result<Vec<Record>, StoreError> {
        self.select(&Filter::everything())
    }

    /// The records that match, in the order of insertion.
    ///
    /// # Errors
    /// Where the bucket is not there.
    pub fn select(&self, filter: &Filter) -> Result<Vec<Record>, StoreError> {
        self.read(|reader| reader.select(filter).into_iter().cloned().collect())
    }

    /// The first record that matches.
    ///
    /// # Errors
    /// Where the bucket is not there.
    pub fn find_one(&self, filter: &Filter) -> Result<Option<Record>, StoreError> {
        self.read(|reader| reader.find_one(filter).cloned())
    }

    /// The number of records that match.
    ///
    /// # Errors
    /// Where the bucket is not there.
    pub fn count(&self, filter: &Filter) -> Result<usize, StoreError> {
        self.read(|reader| reader.count(filter))
    }

    /// Anything else that can be read, on one consistent state.
    ///
    /// # Errors
    /// Where the bucket is not there.
    pub fn read<T>(&self, read: impl FnOnce(&Reader<'_>) -> T) -> Result<T, StoreError> {
        let snapshot = self.store.snapshot();
        let bucket = snapshot.bucket(self.name.as_str())?;
        Ok(read(&Reader::new(bucket, self.store.now())))
    }

    /// A page of records behind a cursor: the records, whether there are more, and the next cursor.
    ///
    /// # Errors
    /// Where the bucket is not there.
    pub fn paginate(&self, limit: usize, after: Option<&Datum>) -> Result<(Vec<Record>, bool, Option<Datum>), StoreError> {
        self.read(|reader| {
            let Page {
                records,
                has_more,
                next_cursor,
            } = reader.paginate(limit, after);
            (records.into_iter().cloned().collect(), has_more, next_cursor)
        })
    }

    async fn record(&self, operation: Operation) -> Result<Record, StoreError> {
        let Outcome::Record(Some(record)) = self.store.run(operation).await? else {
            return Err(StoreError::Closed);
        };
        Ok(record)
    }

    async fn count_of(&self, operation: Operation) -> Result<usize, StoreError> {
        let Outcome::Count(count) = self.store.run(operation).await? else {
            return Ok(0);
        };
        Ok(count)
    }
}

/// A record from any serialisable thing.
pub(super) fn to_record(value: &impl Serialize) -> Result<Record, StoreError> {
    to_object(value).map(|object| Record::from_object(&object))
}
