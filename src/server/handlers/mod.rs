//! Requests in, answers out. Everything here works on one request and the store; nothing knows a socket.
//!
//! A request is checked in this order: the form of its fields, what the caller may touch, whether the bucket or
//! query is there, whether filter and data are valid. The first problem is the answer.

mod answer;
mod audit;
mod auth;
mod encode;
mod expected_size;
mod failure;
mod fields;
#[cfg(fuzzing)]
pub mod fuzzing;
mod identity;
mod limits;
mod recording;
mod request_key;
mod server_info;
mod store_admin;
mod store_reads;
mod store_writes;
mod subscriptions;
mod transaction;

#[cfg(test)]
mod audit_tests;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use serde::Serialize;
use tokio::sync::Semaphore;

pub use self::answer::{Completion, Finished, Handled, PendingAnswer};
use self::answer::{Effect, Success, WriteAnswer};
use self::encode::Encoder;
use self::expected_size::expected_bytes;
pub use self::failure::Failure;
pub use self::limits::RequestLimits;
use self::subscriptions::Subscriptions;
use crate::protocol::{BucketName, CloseCode, ErrorCode, Fields, Issue, Number, Operation, Part, Request, SubscriptionId, Tier};
use crate::server::access::{Access, Change, Judged, Judgement, Login, Principal, Scope, Work};
use crate::server::audit::{AuditLog, Trace};
use crate::server::statistics::{ConnectionFigures, Overview};
use crate::server::wall_clock_ms;
use crate::store::query::AggregateFunction;
use crate::store::{RequestKey, Sink, Store, StoreError, Update};

/// What all sessions of a server share.
pub struct HandlerContext {
    /// The store.
    pub store: Store,
    /// What the server says of itself.
    pub overview: Arc<Overview>,
    /// The most subscriptions of one connection.
    pub max_subscriptions_per_connection: usize,
    /// The most subscriptions of all connections together.
    pub max_total_subscriptions: usize,
    /// How many there are at present.
    pub total_subscriptions: Arc<AtomicUsize>,
    /// The most records of one `store.insertMany`.
    pub max_bulk_records: usize,
    /// What the parts of one request may hold.
    pub request_limits: RequestLimits,
    /// The most bytes that the data of one answer may have.
    pub max_result_bytes: usize,
    /// Whether error answers carry `details`.
    pub expose_error_details: bool,
    /// The optional parts that are configured.
    pub parts: Vec<Part>,
    /// How many reads of many rows may be under way at once, on threads of their own.
    pub long_reads: Arc<Semaphore>,
    /// Where it is written down who did what, if that is asked for.
    pub(crate) audit: Option<Arc<AuditLog>>,
}

/// Whether a request may be carried out.
pub(crate) enum Admittance {
    /// It may.
    Granted,
    /// It may not: the answer to it.
    Refused(Vec<u8>),
    /// It is not known yet. The same request has to be brought again when this is over, and no other before.
    Asking(Work<()>),
}

/// One connection's dealings with the store. Dropping it ends its subscriptions and frees their places.
pub struct Session {
    context: Arc<HandlerContext>,
    sink: Arc<dyn Sink>,
    subscriptions: Subscriptions,
    access: Access,
    /// With how much of its target the request may be carried out that was admitted last.
    scope: Scope,
    /// The bucket that was judged then, where it named a query.
    judged: Judged,
    figures: Arc<ConnectionFigures>,
    /// Whether another user is logged in than whoever counts requests knows.
    user_is_news: bool,
    /// What goes along with the request that is being carried out alone, where it is recorded.
    trace: Option<Box<Trace>>,
}

impl Session {
    /// A session whose subscriptions push into `sink`, and which keeps their number, and who is logged in, in `figures`.
    #[must_use]
    pub(crate) fn new(context: Arc<HandlerContext>, sink: Arc<dyn Sink>, figures: Arc<ConnectionFigures>, access: Access) -> Self {
        Self {
            context,
            sink,
            subscriptions: Subscriptions::counted_by(figures.subscriptions()),
            access,
            scope: Scope::Everything,
            judged: Judged::Whatever,
            figures,
            user_is_news: false,
            trace: None,
        }
    }

    /// Whether whoever is logged in may have a request carried out.
    pub(crate) fn admit(&mut self, request: &Request<'_>) -> Admittance {
        self.look_at_access(true);
        if !self.access.authority().is_on() {
            self.scope = Scope::Everything;
            return Admittance::Granted;
        }
        match self.judge(request) {
            Ok(None) => Admittance::Granted,
            Ok(Some(asking)) => Admittance::Asking(asking),
            Err(failure) => {
                self.record_refusal(request, &failure);
                Admittance::Refused(failure.answer(request.id(), self.context.expose_error_details))
            }
        }
    }

    /// Gives what has to be over before the request can be judged.
    fn judge(&mut self, request: &Request<'_>) -> Result<Option<Work<()>>, Failure> {
        let state = self.context.store.snapshot();
        match self.access.judge(request, &state)? {
            Judgement::Admitted { scope, judged } => {
                self.scope = scope;
                self.judged = judged;
                Ok(None)
            }
            Judgement::Asking(asking) => Ok(Some(asking)),
        }
    }

    /// Looks at the session and its rights again. Gives the code to close with where nobody has logged in in time.
    pub fn recheck(&mut self) -> Option<CloseCode> {
        self.look_at_access(false);
        if self.access.is_overdue(wall_clock_ms()) {
            return Some(CloseCode::Unauthenticated);
        }
        // Where it was not time yet, since the session was used meanwhile.
        self.access.set_deadline();
        None
    }

    /// The user whose quotas count, where that has become another since it was asked last.
    pub(crate) fn new_user(&mut self) -> Option<Option<Arc<Principal>>> {
        std::mem::take(&mut self.user_is_news).then(|| self.access.principal().cloned())
    }

    /// Somebody has logged in.
    pub(crate) fn log_in(&mut self, login: Login) {
        let change = self.access.log_in(login);
        self.user_is_news = true;
        self.follow(change);
    }

    /// Brings the session up to date. `used` tells whether that is because of a request.
    fn look_at_access(&mut self, used: bool) {
        if self.access.may_have_changed() {
            let change = self.refresh(wall_clock_ms(), used);
            self.follow(change);
        }
    }

    /// Does what a change of rights asks for: ends the subscriptions that they do not allow any more.
    fn follow(&mut self, change: Change) {
        let reason = match change {
            Change::Nothing => return,
            Change::Rights => "forbidden",
            Change::SessionOver => "session_ended",
            Change::User => "user_changed",
        };
        self.user_is_news |= change != Change::Rights;
        self.figures.show_user(self.access.principal());
        let state = self.context.store.snapshot();
        let access = &self.access;
        self.subscriptions.end_unless(reason, |opened| opened.holds(access, &state));
    }

    /// Carries out a request, or begins to.
    pub fn handle(&mut self, request: &Request<'_>) -> Handled {
        if let Some(trace) = self.trace_of(request) {
            return self.handle_recorded(request, trace);
        }
        self.dispatch(request)
            .unwrap_or_else(|failure| Handled::Answer(failure.answer(request.id(), self.context.expose_error_details)))
    }

    /// Ends a request that was carried out alone. Gives its answer, where nothing has to be waited for any more.
    pub fn complete(&mut self, mut completion: Completion) -> Finished<Completion> {
        match std::mem::replace(&mut completion.effect, Effect::Nothing) {
            Effect::Nothing => {}
            Effect::Opened(opened) => {
                // What was allowed when it was asked for may not be allowed any more.
                self.look_at_access(false);
                if opened.holds(&self.access, &self.context.store.snapshot()) {
                    self.subscriptions.add(opened);
                } else {
                    completion.outcome = Err(Failure::forbidden("The right to follow this was lost meanwhile"));
                }
            }
            Effect::LoggedIn(login) => self.log_in(login),
            Effect::LoggedOut => {
                let change = self.access.log_out();
                self.follow(change);
            }
        }
        let waits = self.trace.take().and_then(|trace| self.record_completion(*trace, &mut completion));
        match waits {
            Some(work) => Finished::Waits(work),
            None => Finished::Answer(completion.encode(self.context.expose_error_details)),
        }
    }

    /// The message about something new of a subscription; none where it was given up meanwhile: after the answer to
    /// that, nothing comes for it any more.
    pub fn message(&mut self, subscription: SubscriptionId, update: Update) -> Option<Vec<u8>> {
        self.look_at_access(false);
        self.subscriptions.message(subscription, update, self.context.overview.counters())
    }

    /// Whether somebody who follows a bucket is to be told of what it has missed, before anything new is sent.
    #[must_use]
    pub fn has_backlog(&self) -> bool {
        self.subscriptions.has_backlog()
    }

    /// The next message about what somebody who follows a bucket has missed.
    pub fn backlog(&mut self) -> Option<Vec<u8>> {
        self.look_at_access(false);
        self.subscriptions.backlog()
    }

    /// Why a request is not carried out whose `type` names nothing.
    fn unknown(&self, name: &str) -> Failure {
        match Part::of(name) {
            Some(part) if !self.context.parts.contains(&part) => Failure::absent(part),
            Some(_) | None => Failure::unknown_operation(name),
        }
    }

    fn dispatch(&mut self, request: &Request<'_>) -> Result<Handled, Failure> {
        let Some(operation) = request.operation() else {
            return Err(self.unknown(request.name()));
        };
        let request_key = match operation.tier() {
            Some(Tier::Write) => request_key::read(operation, request.fields(), &self.access)?,
            Some(Tier::Read | Tier::Admin) | None => None,
        };
        let call = &Call {
            context: &self.context,
            id: request.id(),
            operation,
            fields: request.fields(),
            request_key,
            access: &self.access,
            scope: &self.scope,
            judged: &self.judged,
        };
        match operation {
            Operation::StoreInsert => store_writes::insert(call),
            Operation::StoreInsertMany => store_writes::insert_many(call),
            Operation::StoreUpdate => store_writes::update(call),
            Operation::StoreUpdateMany => store_writes::update_many(call),
            Operation::StoreUpsert => store_writes::upsert(call),
            Operation::StoreDelete => store_writes::delete(call),
            Operation::StoreDeleteMany => store_writes::delete_many(call),
            Operation::StoreClear => store_writes::clear(call),
            Operation::StoreTransaction => transaction::transaction(call),
            Operation::StoreGet => store_reads::get(call),
            Operation::StoreAll => store_reads::all(call),
            Operation::StoreWhere => store_reads::select(call),
            Operation::StoreFindOne => store_reads::find_one(call),
            Operation::StoreCount => store_reads::count(call),
            Operation::StoreFirst => store_reads::first(call),
            Operation::StoreLast => store_reads::last(call),
            Operation::StorePaginate => store_reads::paginate(call),
            Operation::StoreSum => store_reads::aggregate(call, AggregateFunction::Sum),
            Operation::StoreAvg => store_reads::aggregate(call, AggregateFunction::Avg),
            Operation::StoreMin => store_reads::aggregate(call, AggregateFunction::Min),
            Operation::StoreMax => store_reads::aggregate(call, AggregateFunction::Max),
            Operation::StoreGroupBy => store_reads::group_by(call),
            Operation::StoreRunQuery => store_reads::run_query(call),
            Operation::StoreExplain => store_reads::explain(call),
            Operation::StoreSubscribe => self.subscriptions.subscribe(call, &self.sink),
            Operation::StoreChanges => self.subscriptions.changes(call, &self.sink),
            Operation::StoreUnsubscribe => self.subscriptions.unsubscribe(call),
            Operation::StoreBuckets => Ok(store_admin::buckets(call)),
            Operation::StoreStats => store_admin::stats(call),
            Operation::StoreDefineBucket => store_admin::define_bucket(call),
            Operation::StoreDropBucket => store_admin::drop_bucket(call),
            Operation::StoreUpdateBucket => store_admin::update_bucket(call),
            Operation::StoreGetBucketSchema => store_admin::get_bucket_schema(call),
            Operation::StoreDefineQuery => store_admin::define_query(call),
            Operation::StoreUndefineQuery => store_admin::undefine_query(call),
            Operation::StoreListQueries => Ok(store_admin::list_queries(call)),
            Operation::ServerStats => server_info::stats(call),
            Operation::ServerConnections => server_info::connections(call),
            Operation::AuthLogin => auth::login(call),
            Operation::AuthRefresh => auth::refresh(call),
            Operation::AuthLogout => auth::logout(call),
            Operation::AuthWhoami => {
                let answer = auth::whoami(call);
                self.access.expiry_was_told();
                answer
            }
            Operation::IdentityLogin => identity::login(&identity::asking(call)?),
            Operation::IdentityLoginWithSecret => identity::login_with_secret(&identity::asking(call)?),
            Operation::IdentityLogout => identity::logout(&identity::asking(call)?),
            Operation::IdentityWhoami => identity::whoami(&identity::asking(call)?),
            Operation::IdentityRefreshSession => identity::refresh_session(&identity::asking(call)?),
            Operation::IdentityCreateUser => identity::create_user(&identity::asking(call)?),
            Operation::IdentityGetUser => identity::get_user(&identity::asking(call)?),
            Operation::IdentityUpdateUser => identity::update_user(&identity::asking(call)?),
            Operation::IdentityDeleteUser => identity::delete_user(&identity::asking(call)?),
            Operation::IdentityListUsers => identity::list_users(&identity::asking(call)?),
            Operation::IdentityEnableUser => identity::enable_user(&identity::asking(call)?),
            Operation::IdentityDisableUser => identity::disable_user(&identity::asking(call)?),
            Operation::IdentityChangePassword => identity::change_password(&identity::asking(call)?),
            Operation::IdentityResetPassword => identity::reset_password(&identity::asking(call)?),
            Operation::IdentityCreateRole => identity::create_role(&identity::asking(call)?),
            Operation::IdentityUpdateRole => identity::update_role(&identity::asking(call)?),
            Operation::IdentityDeleteRole => identity::delete_role(&identity::asking(call)?),
            Operation::IdentityListRoles => identity::list_roles(&identity::asking(call)?),
            Operation::IdentityAssignRole => identity::assign_role(&identity::asking(call)?),
            Operation::IdentityRemoveRole => identity::remove_role(&identity::asking(call)?),
            Operation::IdentityGetUserRoles => identity::get_user_roles(&identity::asking(call)?),
            Operation::IdentityGrant => identity::grant(&identity::asking(call)?),
            Operation::IdentityRevoke => identity::revoke(&identity::asking(call)?),
            Operation::IdentityGetAcl => identity::get_acl(&identity::asking(call)?),
            Operation::IdentityMyAccess => identity::my_access(&identity::asking(call)?),
            Operation::IdentityGetOwner => identity::get_owner(&identity::asking(call)?),
            Operation::IdentityTransferOwner => identity::transfer_owner(&identity::asking(call)?),
            Operation::AuditQuery => audit::query(call),
            // The connection takes batches apart, so that only one within another comes here.
            Operation::Batch => Err(Failure::new(
                ErrorCode::ValidationError,
                "A batch cannot be part of a batch".to_owned(),
            )),
        }
    }
}

/// One request on its way through a handler.
struct Call<'c, 'a> {
    context: &'c Arc<HandlerContext>,
    id: Number,
    operation: Operation,
    fields: &'c Fields<'a>,
    /// Where a write is to be carried out once: what it is known by.
    request_key: Option<RequestKey>,
    /// Who asks.
    access: &'c Access,
    /// With how much of what the request touches they may do it. A handler reads its target from the very field that the
    /// operation's [`Touches`](crate::protocol::Touches) names: this is what was judged.
    scope: &'c Scope,
    /// The bucket that was judged where the request names a query.
    judged: &'c Judged,
}

impl Call<'_, '_> {
    fn encoder(&self) -> Encoder {
        Encoder {
            id: self.id,
            max_bytes: self.context.max_result_bytes,
        }
    }

    /// Gives an operation its place in the order of commits, within what whoever asks may touch.
    fn submit(&self, operation: crate::store::Operation, success: Success) -> Result<Handled, Failure> {
        let store = &self.context.store;
        let expected_bytes = expected_bytes(&operation, || store.snapshot(), self.context.max_result_bytes);
        let operation = match self.scope {
            Scope::Everything => operation,
            Scope::Guarded(guard) => operation.within(Arc::clone(guard)),
        };
        let commit = match &self.request_key {
            None => store.submit(operation)?,
            Some(key) => store.submit_once(operation, key.clone())?,
        };
        Ok(Handled::Pending(PendingAnswer::Write(WriteAnswer {
            commit,
            success,
            expected_bytes,
            encoder: self.encoder(),
            expose_details: self.context.expose_error_details,
        })))
    }

    /// An answer of any shape.
    fn json(&self, data: &impl Serialize) -> Result<Handled, Failure> {
        let data = serde_json::to_vec(data).map_err(|error| {
            tracing::error!(%error, "an answer could not be encoded");
            Failure::internal()
        })?;
        Ok(Handled::Answer(self.encoder().json(Some(&data))?))
    }
}

/// Names with a leading underscore are the server's own, whatever they name.
fn deny_reserved(name: &str) -> Result<(), Failure> {
    if name.starts_with('_') {
        return Err(Failure::new(
            ErrorCode::Forbidden,
            format!("Cannot access system bucket \"{name}\" directly"),
        ));
    }
    Ok(())
}

/// A bucket that a client may name.
fn client_bucket(name: &str) -> Result<BucketName, Failure> {
    deny_reserved(name)?;
    Ok(BucketName::from(name))
}

/// A filter, a definition or the like that is malformed.
fn invalid(what: impl Into<String>, issues: Vec<Issue>) -> Failure {
    StoreError::Invalid { what: what.into(), issues }.into()
}
