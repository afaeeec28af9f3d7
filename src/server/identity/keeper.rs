//! The one task that changes users, roles and rights: order after order, each as one transaction of the store. When it
//! is durable the directory follows, then those who are connected, then the answer goes out.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};

use super::directory::{Directory, Resource, ResourceKind};
use super::order::{Change, NewPassword, Order};
use super::plan::{Caller, Circumstances, Effect, Plan, bound, disclaimed, plan, require_still};
use super::tables::Table;
use crate::protocol::{ErrorCode, Operation as Asked};
use crate::server::access::{Presence, Target, TokenDigest, query_target};
use crate::server::config::BuiltInConfig;
use crate::server::handlers::Failure;
use crate::store::{Action, Operation, Outcome, Step, Store, StoreError};

/// How often sessions whose time is over are looked for.
const PURGE_EVERY: Duration = Duration::from_secs(60);

/// The time, in milliseconds since 1970.
pub(crate) type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What the task and those who read share.
pub(crate) struct Shared {
    pub(crate) directory: Arc<ArcSwap<Directory>>,
    /// Held while the directory is replaced.
    writing: Mutex<()>,
    pub(crate) store: Store,
    pub(crate) presence: Arc<Presence>,
    pub(crate) config: BuiltInConfig,
    pub(crate) clock: Clock,
}

/// What is known right before and right after a change.
pub(crate) struct Carried {
    pub(crate) before: Arc<Directory>,
    pub(crate) after: Arc<Directory>,
}

/// An order, and where its outcome goes.
pub(crate) struct Placed {
    pub(crate) order: Order,
    pub(crate) reply: oneshot::Sender<Result<Carried, Failure>>,
}

impl Shared {
    pub(crate) fn new(directory: Directory, store: Store, presence: Arc<Presence>, config: BuiltInConfig, clock: Clock) -> Self {
        Self {
            directory: Arc::new(ArcSwap::from_pointee(directory)),
            writing: Mutex::new(()),
            store,
            presence,
            config,
            clock,
        }
    }

    /// Plans an order on what is known now.
    ///
    /// # Errors
    /// What whoever wants it is told.
    pub(crate) fn plan(&self, order: &Order) -> Result<Plan, Failure> {
        let incarnation_of = |resource: &Resource| incarnation_of(&self.store, resource);
        plan(&self.directory.load(), order, self.circumstances(&incarnation_of))
    }

    pub(crate) fn circumstances<'c>(&self, incarnation_of: &'c dyn Fn(&Resource) -> Option<u64>) -> Circumstances<'c> {
        Circumstances {
            now: (self.clock)(),
            session_ttl_ms: crate::server::millis(self.config.session_ttl),
            session_idle_ms: crate::server::millis(self.config.session_idle),
            max_sessions_per_user: self.config.max_sessions_per_user,
            keeps_bootstrap_secret: self.config.keep_bootstrap_secret,
            incarnation_of,
        }
    }

    /// Replaces the directory. Gives the new one.
    pub(crate) fn change(&self, change: impl FnOnce(&mut Directory)) -> Arc<Directory> {
        let _writing = self.writing.lock();
        let mut directory = Directory::clone(&self.directory.load());
        change(&mut directory);
        let directory = Arc::new(directory);
        self.directory.store(Arc::clone(&directory));
        directory
    }

    async fn carry_out(&self, order: &Order) -> Result<Arc<Directory>, Failure> {
        // What belongs to somebody is defined and removed here, so that nothing comes between it and its owner.
        match &order.change {
            Change::Define {
                operation,
                resource,
                incarnation,
            } => return self.define(order, operation, resource, *incarnation).await,
            Change::Remove { operation, .. } => {
                self.judge_again(&order.by, operation)?;
                drop(self.store.run(operation.clone()).await?);
            }
            Change::OpenSession { .. }
            | Change::OpenBootstrapSession { .. }
            | Change::RotateToken { .. }
            | Change::CloseSession { .. }
            | Change::CloseSessions { .. }
            | Change::PurgeSessions
            | Change::CreateUser(_)
            | Change::UpdateUser { .. }
            | Change::DeleteUser { .. }
            | Change::SetEnabled { .. }
            | Change::ReplacePassword(_)
            | Change::ResetPassword { .. }
            | Change::CreateRole(_)
            | Change::UpdateRole { .. }
            | Change::DeleteRole { .. }
            | Change::AssignRole { .. }
            | Change::RemoveRole { .. }
            | Change::Grant { .. }
            | Change::Revoke { .. }
            | Change::TransferOwner { .. } => {}
        }
        let plan = self.plan(order)?;
        self.perform(plan).await
    }

    /// Whoever defines something owns it before it is there, by the incarnation that it will be: a crash leaves an owner of
    /// nothing, whom the next start removes, and never something without its owner.
    async fn define(&self, order: &Order, operation: &Operation, resource: &Resource, incarnation: u64) -> Result<Arc<Directory>, Failure> {
        self.judge_again(&order.by, operation)?;
        // The store says why not; what is there keeps its owner.
        let is_new = incarnation_of(&self.store, resource).is_none();
        if is_new {
            self.perform(self.plan(order)?).await?;
        }
        match self.store.run(operation.clone().of_incarnation(incarnation)).await {
            Ok(_) if is_new => {}
            // It has gone in between.
            Ok(_) => drop(self.perform(self.plan(order)?).await?),
            Err(error) => {
                if is_new {
                    self.disclaim(resource).await;
                }
                return Err(error.into());
            }
        }
        let plan = bound(&self.directory.load(), resource, incarnation);
        self.perform(plan).await
    }

    async fn disclaim(&self, resource: &Resource) {
        let plan = disclaimed(&self.directory.load(), resource);
        if let Err(failure) = self.perform(plan).await {
            tracing::warn!(%resource, problem = failure.message(), "what could not be defined has an owner until the next start");
        }
    }

    /// Other orders may have come between the judgement of a request and its turn.
    fn judge_again(&self, by: &str, operation: &Operation) -> Result<(), Failure> {
        let directory = self.directory.load();
        let caller = Caller::of(&directory, by)?;
        let snapshot = self.store.snapshot();
        #[expect(clippy::wildcard_enum_match_arm, reason = "nothing else is defined or removed here")]
        match operation {
            Operation::DefineBucket { name, .. } => require_still(&caller, Asked::StoreDefineBucket, &Target::Bucket(name.as_str())),
            Operation::DropBucket { name } => require_still(&caller, Asked::StoreDropBucket, &Target::Bucket(name.as_str())),
            Operation::DefineQuery { definition, .. } => {
                require_still(&caller, Asked::StoreDefineQuery, &Target::Bucket(definition.bucket().as_str()))
            }
            Operation::UndefineQuery { name } => require_still(&caller, Asked::StoreUndefineQuery, &query_target(&snapshot, name.as_str())),
            _ => Err(Failure::internal()),
        }
    }

    /// Does what a plan says.
    pub(crate) async fn perform(&self, plan: Plan) -> Result<Arc<Directory>, Failure> {
        if plan.steps.is_empty() && !plan.changes_rights {
            return Ok(self.directory.load_full());
        }
        let outcomes = commit(&self.store, &plan.steps).await?;
        let now = (self.clock)();
        let directory = self.change(|directory| {
            for (step, outcome) in plan.steps.iter().zip(&outcomes) {
                take_up(directory, step, outcome, now);
            }
            if let Some((session, token)) = &plan.former_token {
                directory.tolerate(session, *token);
            }
            directory.version += u64::from(plan.changes_rights);
        });
        for effect in &plan.effects {
            self.effect(effect);
        }
        Ok(directory)
    }

    /// The former token of a session is worth nothing any more.
    pub(crate) fn retire(&self, user: &str, session: &str, token: TokenDigest) {
        self.change(|directory| {
            directory.retire(session);
            directory.version += 1;
        });
        self.presence.recheck_token(user, token);
    }

    /// Nobody is there any more to be told of another token: the former one has no use.
    fn retire_former_of(&self, order: &Order) {
        if let Change::RotateToken { session, old, .. } | Change::ReplacePassword(NewPassword { session, old, .. }) = &order.change {
            self.retire(&order.by, session, *old);
        }
    }

    fn effect(&self, effect: &Effect) {
        match effect {
            Effect::Recheck(user) => self.presence.recheck_user(user),
            Effect::RecheckToken(user, token) => self.presence.recheck_token(user, *token),
            Effect::Revoke(user, except) => drop(self.presence.revoke(user, *except)),
        }
    }
}

/// Which of all buckets or queries that have ever had the name is there, if any.
pub(crate) fn incarnation_of(store: &Store, resource: &Resource) -> Option<u64> {
    let snapshot = store.snapshot();
    match resource.kind {
        ResourceKind::Bucket => snapshot.bucket(&resource.name).ok().map(|bucket| bucket.incarnation()),
        ResourceKind::Query => snapshot.query(&resource.name).ok().map(|query| query.incarnation()),
        ResourceKind::Topic | ResourceKind::Procedure => None,
    }
}

async fn commit(store: &Store, steps: &[Step]) -> Result<Vec<Outcome>, Failure> {
    if steps.is_empty() {
        return Ok(Vec::new());
    }
    let operation = Operation::Transaction { steps: steps.to_vec() };
    match store.run(operation).await {
        Ok(Outcome::Steps(outcomes)) => Ok(outcomes),
        Ok(Outcome::Done | Outcome::Record(_) | Outcome::Records(_) | Outcome::Count(_) | Outcome::Deleted(_)) => Ok(Vec::new()),
        Err(error) => Err(refused(&error)),
    }
}

/// What a client is told where the store does not take what was planned: nothing of the buckets behind it.
fn refused(error: &StoreError) -> Failure {
    let code = error.code();
    if matches!(code, ErrorCode::Backpressure | ErrorCode::StorageUnavailable) {
        return Failure::new(code, error.to_string());
    }
    if code == ErrorCode::AlreadyExists {
        return Failure::new(code, "It is there already");
    }
    tracing::error!(?code, "the store does not take a change of users or rights");
    Failure::internal()
}

/// The directory follows one step of a transaction.
fn take_up(directory: &mut Directory, step: &Step, outcome: &Outcome, now: u64) {
    let Some(table) = Table::of(&step.bucket) else { return };
    match (&step.action, outcome) {
        (Action::Insert { .. } | Action::Update { .. }, Outcome::Record(Some(record))) => {
            if let Err(error) = directory.put(table, record, now) {
                tracing::error!(bucket = table.name(), problem = error.0, "a record was stored that makes no sense");
            }
        }
        (Action::Delete { key, .. }, _) => {
            if let crate::protocol::Datum::Text(key) = key {
                directory.remove(table, key.as_str());
            }
        }
        (
            Action::Insert { .. }
            | Action::Update { .. }
            | Action::Get { .. }
            | Action::Where { .. }
            | Action::FindOne { .. }
            | Action::Count { .. },
            _,
        ) => {}
    }
}

/// Carries out orders until nobody is left to give any.
pub(crate) async fn keep(shared: Arc<Shared>, mut orders: mpsc::Receiver<Placed>) {
    let mut purge = tokio::time::interval(PURGE_EVERY);
    purge.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            placed = orders.recv() => {
                let Some(Placed { order, reply }) = placed else { return };
                let before = shared.directory.load_full();
                let outcome = shared.carry_out(&order).await.map(|after| Carried { before, after });
                if reply.send(outcome).is_err() {
                    // Who has hung up meanwhile does not want to know; what was asked for is done.
                    shared.retire_former_of(&order);
                }
            }
            _ = purge.tick() => purge_sessions(&shared).await,
        }
    }
}

async fn purge_sessions(shared: &Shared) {
    let order = Order {
        by: "".into(),
        connection: None,
        change: Change::PurgeSessions,
    };
    if let Err(failure) = shared.carry_out(&order).await {
        tracing::warn!(problem = failure.message(), "sessions that are over could not be removed");
    }
}
