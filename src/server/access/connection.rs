//! Who is logged in on one connection, and what they may do there.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::asking::{Allowed, Asking, Next, QUESTIONS_MAX, Question};
use super::authority::{Authority, Standing, Work};
use super::deadlines::Deadlines;
use super::presence::Place;
use super::principal::{Login, Principal};
use super::rights::{Asked, Rights, Scope};
use super::target::{Judged, Named, Need, Target, query_target, read_steps};
use crate::protocol::{ConnectionId, Fields, Operation, Request, Tier};
use crate::server::connection::OutboxHandle;
use crate::server::handlers::Failure;
use crate::store::state::State;

/// What has become of the rights on a connection since they were looked at last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// They are as they were.
    Nothing,
    /// They are others: everything that goes on by them has to be judged anew.
    Rights,
    /// The session is over.
    SessionOver,
    /// Somebody else is logged in.
    User,
}

/// Who is logged in on one connection, and what they may do.
pub(crate) struct Access {
    authority: Arc<dyn Authority>,
    deadlines: Arc<Deadlines>,
    place: Place,
    outbox: OutboxHandle,
    address: IpAddr,
    login: Option<Login>,
    rights: Arc<dyn Rights>,
    /// The version of the authority by which the rights were worked out.
    seen: u64,
    /// The session has run out, and nobody was told yet.
    expiry_is_news: bool,
    /// Until when somebody has to be logged in, in milliseconds since 1970.
    log_in_by: Option<u64>,
    /// What the embedding program says of the request that is being carried out.
    asking: Asking,
}

impl Access {
    /// Nobody is logged in yet, and has until `log_in_by` where that is required.
    pub(crate) fn new(
        authority: Arc<dyn Authority>,
        deadlines: Arc<Deadlines>,
        place: Place,
        outbox: OutboxHandle,
        address: IpAddr,
        log_in_by: Option<u64>,
    ) -> Self {
        let seen = authority.version();
        let rights = authority.rights(None);
        let log_in_by = log_in_by.filter(|_| authority.requires_login());
        let access = Self {
            authority,
            deadlines,
            place,
            outbox,
            address,
            login: None,
            rights,
            seen,
            expiry_is_news: false,
            log_in_by,
            asking: Asking::default(),
        };
        access.set_deadline();
        access
    }

    /// Nobody is logged in, on a connection of a test.
    #[cfg(test)]
    pub(crate) fn of_nobody(authority: Arc<dyn Authority>) -> Self {
        let outbox = OutboxHandle::default();
        let place = Place::new(Arc::default(), ConnectionId::next(), Arc::clone(&outbox));
        Self::new(authority, Arc::default(), place, outbox, IpAddr::from([127, 0, 0, 1]), None)
    }

    /// The same, with so much time to log in.
    #[cfg(test)]
    pub(crate) fn of_nobody_until(authority: Arc<dyn Authority>, end_ms: u64) -> Self {
        let mut access = Self::of_nobody(authority);
        access.log_in_by = Some(end_ms).filter(|_| access.authority.requires_login());
        access
    }

    pub(crate) fn authority(&self) -> &Arc<dyn Authority> {
        &self.authority
    }

    /// The client's address.
    pub(crate) fn address(&self) -> IpAddr {
        self.address
    }

    pub(crate) fn connection(&self) -> ConnectionId {
        self.place.connection()
    }

    pub(crate) fn login(&self) -> Option<&Login> {
        self.login.as_ref()
    }

    /// Who is logged in.
    pub(crate) fn principal(&self) -> Option<&Arc<Principal>> {
        self.login.as_ref().map(|login| &login.principal)
    }

    /// Whether nobody has logged in and the time for that is over.
    pub(crate) fn is_overdue(&self, now_ms: u64) -> bool {
        self.login.is_none() && self.log_in_by.is_some_and(|end| end <= now_ms)
    }

    /// Whether the session has run out and nobody was told yet.
    pub(crate) fn has_just_expired(&self) -> bool {
        self.expiry_is_news
    }

    /// The client was told that nobody is logged in: that the session has run out is no news any more.
    pub(crate) fn expiry_was_told(&mut self) {
        self.expiry_is_news = false;
    }

    /// Whether anything can have changed since login and rights were brought up to date. Where nobody is ever asked who
    /// they are, nothing can.
    pub(crate) fn may_have_changed(&self) -> bool {
        self.login.is_some() || self.authority.version() != self.seen
    }

    /// Brings login and rights up to date. `used` tells whether that is because of a request.
    pub(crate) fn refresh(&mut self, now_ms: u64, used: bool) -> Change {
        // Before anything is asked: what changes meanwhile is seen the next time.
        let version = self.authority.version();
        let mut change = Change::Rights;
        if let Some(login) = &mut self.login {
            match self.authority.standing(login, now_ms, used) {
                Standing::Holds(principal) => {
                    if version == self.seen && Arc::ptr_eq(&principal, &login.principal) {
                        return Change::Nothing;
                    }
                    if !Arc::ptr_eq(&principal, &login.principal) {
                        // The same token may stand for another user by now.
                        if principal.user_id != login.principal.user_id {
                            change = Change::User;
                        }
                        login.principal = principal;
                        self.place.take(Some(login));
                    }
                }
                Standing::Expired => {
                    self.expiry_is_news = true;
                    self.forget();
                    return Change::SessionOver;
                }
                Standing::Ended => {
                    self.forget();
                    return Change::SessionOver;
                }
            }
        } else if version == self.seen {
            return Change::Nothing;
        }
        self.work_out_rights(version);
        self.set_deadline();
        change
    }

    /// Somebody has logged in.
    pub(crate) fn log_in(&mut self, login: Login) -> Change {
        let is_same_user = self
            .login
            .as_ref()
            .is_some_and(|before| before.principal.user_id == login.principal.user_id);
        let was_anonymous = self.login.is_none();
        self.place.take(Some(&login));
        self.login = Some(login);
        self.expiry_is_news = false;
        self.log_in_by = None;
        self.work_out_rights(self.authority.version());
        self.set_deadline();
        if is_same_user || was_anonymous {
            Change::Rights
        } else {
            Change::User
        }
    }

    /// Nobody is logged in any more.
    pub(crate) fn log_out(&mut self) -> Change {
        self.expiry_is_news = false;
        if self.login.is_none() {
            return Change::Nothing;
        }
        self.forget();
        Change::SessionOver
    }

    /// Looks again whenever the session may be over.
    pub(crate) fn set_deadline(&self) {
        let at = match &self.login {
            Some(login) => self.authority.deadline(login),
            None => self.log_in_by,
        };
        self.deadlines.set(self.place.connection(), at, &self.outbox);
    }

    fn forget(&mut self) {
        self.login = None;
        self.place.take(None);
        self.work_out_rights(self.authority.version());
        self.set_deadline();
    }

    fn work_out_rights(&mut self, version: u64) {
        self.rights = self.authority.rights(self.login.as_ref().map(|login| &login.principal));
        self.seen = version;
    }

    /// Whether a request may be carried out, as far as its envelope and its target tell. To be asked after
    /// [`Access::refresh`], and again for the same request when what had to be over first is over.
    ///
    /// # Errors
    /// What the client is told.
    pub(crate) fn judge(&mut self, request: &Request<'_>, state: &State) -> Result<Judgement, Failure> {
        let asked = Asked {
            name: request.name(),
            operation: request.operation(),
        };
        let named = Named::of(request);
        let need = Need::of(request, &named, state);
        if let Some(asking) = self.ask_first(asked, &need)? {
            return Ok(Judgement::Asking(asking));
        }
        let scope = self.admit(asked, &need)?;
        let judged = match &need {
            Need::Target(target) => Judged::of(asked.operation, target),
            Need::Nothing | Need::Login | Need::Visible | Need::Steps(_) => Judged::Whatever,
        };
        Ok(Judgement::Admitted { scope, judged })
    }

    /// What has to be over before a request can be judged: the embedding program is asked about it.
    ///
    /// # Errors
    /// What the client is told where the program cannot be asked.
    fn ask_first(&mut self, asked: Asked<'_>, need: &Need<'_, '_>) -> Result<Option<Work<()>>, Failure> {
        let (Some(check), Some(login)) = (self.rights.check(), &self.login) else {
            self.asking = Asking::Nobody;
            return Ok(None);
        };
        let questions = self.questions(asked, need);
        if questions.is_empty() {
            self.asking = Asking::Nobody;
            return Ok(None);
        }
        if questions.len() > QUESTIONS_MAX {
            return Err(Failure::validation(format!(
                "The transaction does more than {QUESTIONS_MAX} different things to buckets"
            )));
        }
        match self.asking.take_up(questions, &login.principal, check) {
            Next::Judge => Ok(None),
            Next::Wait(work) => Ok(Some(work)),
            Next::Fail => Err(Failure::internal()),
        }
    }

    /// What the embedding program is to be asked about a request. It is not asked about what the tier forbids.
    fn questions(&self, asked: Asked<'_>, need: &Need<'_, '_>) -> Vec<Question> {
        let question = |target: &Target<'_>| match self.rights.judge_tier(asked) {
            Ok(()) => vec![Question::new(asked.name, target)],
            Err(_) => Vec::new(),
        };
        match need {
            Need::Nothing | Need::Login => Vec::new(),
            Need::Visible => question(&Target::Server),
            Need::Steps(fields) => self.questions_about_steps(fields),
            Need::Target(target) => question(target),
        }
    }

    fn questions_about_steps(&self, fields: &Fields<'_>) -> Vec<Question> {
        if self.rights.judge_transaction(false).is_err() {
            return Vec::new();
        }
        let steps = read_steps(fields);
        let allowed = steps
            .iter()
            .filter(|(operation, _)| self.rights.judge_tier((*operation).into()).is_ok());
        let questions: HashSet<_> = allowed
            .map(|(operation, bucket)| Question::new(operation.name(), &Target::Bucket(bucket)))
            .collect();
        questions.into_iter().collect()
    }

    /// What the embedding program says, and where it says nothing, what the rights do.
    fn decide<T>(
        &self,
        asked: Asked<'_>,
        target: &Target<'_>,
        everything: T,
        otherwise: impl FnOnce() -> Result<T, String>,
    ) -> Result<T, String> {
        match self.asking.verdict(asked.name, target) {
            None => otherwise(),
            Some(true) => self.rights.judge_tier(asked).map(|()| everything),
            Some(false) => Err(format!("No permission for {} on {target}", asked.name)),
        }
    }

    fn judge_target(&self, asked: Asked<'_>, target: &Target<'_>) -> Result<Scope, Failure> {
        self.told(self.decide(asked, target, Scope::Everything, || self.rights.judge(asked, target)))
    }

    /// That the embedding program has allowed the request that is being carried out, where it has.
    pub(crate) fn allowed_by_program(&self) -> Option<Allowed> {
        let principal = self.principal().filter(|_| self.asking.has_allowed())?;
        Some(Allowed {
            principal: Arc::clone(principal),
            version: self.seen,
        })
    }

    /// Whether what the embedding program has allowed once goes on.
    pub(crate) fn is_still_allowed(&self, allowed: &Allowed) -> bool {
        self.principal().is_some_and(|principal| allowed.holds(principal, self.seen))
    }

    /// With how much of its target a request may be carried out.
    ///
    /// # Errors
    /// What the client is told.
    fn admit(&mut self, asked: Asked<'_>, need: &Need<'_, '_>) -> Result<Scope, Failure> {
        if matches!(need, Need::Nothing) {
            return Ok(Scope::Everything);
        }
        self.require_login()?;
        match need {
            Need::Nothing | Need::Login => Ok(Scope::Everything),
            Need::Visible => {
                let decided = self.decide(asked, &Target::Server, (), || self.rights.judge_visible(asked));
                self.told(decided.map(|()| Scope::Everything))
            }
            Need::Steps(fields) => self.admit_steps(fields),
            Need::Target(target) => self.judge_target(asked, target),
        }
    }

    /// Whether queries that are functions of the embedding program, which may look at anything, are to be shown.
    pub(crate) fn shows_functions(&self, operation: Operation) -> bool {
        let anything = Target::Query { name: "*", bucket: None };
        if self.asking.verdict(operation.name(), &Target::Server) == Some(true) {
            return true;
        }
        self.rights.judge(operation.into(), &anything) == Ok(Scope::Everything)
    }

    /// Whether what an element of a transaction does may be done, and with how much of the bucket.
    ///
    /// # Errors
    /// What the client is told.
    pub(crate) fn admit_step(&self, operation: Operation, bucket: &str) -> Result<Scope, Failure> {
        let target = Target::Bucket(bucket);
        let judged = self.decide(operation.into(), &target, Scope::Everything, || {
            self.rights.judge_step(operation, bucket)
        });
        self.told(judged)
    }

    /// Whether a bucket is to be shown by an operation that shows what the caller may see, and whether all of it is.
    pub(crate) fn shows(&self, operation: Operation, bucket: &str) -> Option<Scope> {
        // What the program has allowed as a whole.
        if self.asking.verdict(operation.name(), &Target::Server) == Some(true) {
            return Some(Scope::Everything);
        }
        self.rights.judge(operation.into(), &Target::Bucket(bucket)).ok()
    }

    /// With how much of its bucket somebody may still follow a query or a bucket.
    pub(crate) fn still_follows(&self, operation: Operation, followed: Followed<'_>, state: &State) -> Option<Scope> {
        if self.login.is_none() && self.authority.requires_login() {
            return None;
        }
        let target = match followed {
            Followed::Query(name) => query_target(state, name),
            Followed::Bucket(name) => Target::Bucket(name),
        };
        self.rights.judge(operation.into(), &target).ok()
    }

    /// # Errors
    /// What a stranger is told.
    fn require_login(&mut self) -> Result<(), Failure> {
        if std::mem::take(&mut self.expiry_is_news) {
            return Err(Failure::new(crate::protocol::ErrorCode::Unauthorized, "Session expired"));
        }
        if self.login.is_none() && self.authority.requires_login() {
            return Err(Failure::unauthenticated());
        }
        Ok(())
    }

    fn told<T>(&self, judgement: Result<T, String>) -> Result<T, Failure> {
        // Whoever is not logged in is told what would help.
        judgement.map_err(|refusal| match &self.login {
            Some(_) => Failure::forbidden(refusal),
            None => Failure::unauthenticated(),
        })
    }

    /// Judges a transaction as far as its elements can be read; its handler complains of those that cannot.
    fn admit_steps(&self, fields: &Fields<'_>) -> Result<Scope, Failure> {
        let steps = read_steps(fields);
        let reads_only = steps.iter().all(|(operation, _)| operation.tier() == Some(Tier::Read));
        self.told(self.rights.judge_transaction(reads_only && !steps.is_empty()))?;
        for (operation, bucket) in &steps {
            self.admit_step(*operation, bucket)?;
        }
        Ok(Scope::Everything)
    }
}

impl Drop for Access {
    /// A session may last for years: what waits for its end must not outlive the connection.
    fn drop(&mut self) {
        self.deadlines.set(self.place.connection(), None, &self.outbox);
    }
}

/// What becomes of a request.
pub(crate) enum Judgement {
    /// It may be carried out, with so much of its target.
    Admitted { scope: Scope, judged: Judged },
    /// This has to be over first; then it is judged again.
    Asking(Work<()>),
}

/// What a subscription follows.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Followed<'a> {
    Query(&'a str),
    Bucket(&'a str),
}
