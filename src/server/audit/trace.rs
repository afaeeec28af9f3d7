//! What goes along with a request that is recorded, until its outcome is known.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::entry::{Entry, Verdict, bounded, line_bytes, source};
use super::rings::{Case, Ring, place_of};
use super::selection::Selection;
use super::subject::{Subject, subject};
use super::{AuditLog, Durable, Room};
use crate::protocol::{ConnectionId, ErrorCode, Request};
use crate::server::access::{Access, Login, Principal};
use crate::server::handlers::Failure;
use crate::server::identity::{ADMIN, SUPERADMIN};
use crate::server::wall_clock_ms;

/// What is said of a request whose outcome nobody waits for any more. It may have been carried out.
const UNKNOWN_OUTCOME: &str = "The connection was gone before the outcome was known";

/// Something that happens to the session of a connection otherwise than by a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A token came with the upgrade.
    LoggedInByUpgrade,
    /// Its time was over.
    Expired,
    /// It was ended from elsewhere.
    Ended,
}

impl Event {
    const fn name(self) -> &'static str {
        match self {
            Self::LoggedInByUpgrade => "session.opened",
            Self::Expired => "session.expired",
            Self::Ended => "session.ended",
        }
    }
}

/// Where a request comes from.
struct Origin {
    connection: ConnectionId,
    address: IpAddr,
    /// Who was logged in when it came.
    actor: Option<String>,
    session: Option<Arc<str>>,
    /// Whether the server knows logins.
    knows_logins: bool,
    /// Whether whoever was logged in holds a role of administrators. Where nobody ever is, everybody may do everything.
    is_administrator: bool,
}

impl Origin {
    fn of(access: &Access) -> Self {
        Self {
            connection: access.connection(),
            address: access.address(),
            actor: access.principal().map(|principal| bounded(&principal.user_id)),
            session: session_of(access.login()),
            knows_logins: access.authority().is_on(),
            is_administrator: !access.authority().is_on() || access.principal().is_some_and(is_administrator),
        }
    }
}

fn is_administrator(principal: &Arc<Principal>) -> bool {
    principal.roles.iter().any(|role| [ADMIN, SUPERADMIN].contains(&role.as_str()))
}

/// A request that is recorded when its outcome is known; also where it never will be.
pub(crate) struct Trace {
    log: Arc<AuditLog>,
    selection: Selection,
    operation: Cow<'static, str>,
    origin: Origin,
    /// What it is about; taken when it is recorded.
    subject: Option<Subject>,
    started: Option<Instant>,
    /// Room in the file that was taken for it.
    room: Option<Room>,
}

/// What is recorded of a request that did not succeed.
#[derive(Clone, Copy)]
struct Fault<'f> {
    code: Option<ErrorCode>,
    text: &'f str,
}

impl<'f> From<&'f Failure> for Fault<'f> {
    fn from(failure: &'f Failure) -> Self {
        Self {
            code: Some(failure.code()),
            text: failure.recorded(),
        }
    }
}

/// Who is logged in afterwards.
struct After {
    user_id: Option<String>,
    session: Option<Arc<str>>,
    is_administrator: bool,
}

impl Trace {
    /// Follows a request that is about to be carried out, or refused.
    pub(crate) fn begin(log: &Arc<AuditLog>, selection: Selection, request: &Request<'_>, access: &Access) -> Self {
        let operation = match request.operation() {
            Some(operation) => Cow::Borrowed(operation.name()),
            None => Cow::Owned(bounded(request.name())),
        };
        Self {
            log: Arc::clone(log),
            selection,
            operation,
            origin: Origin::of(access),
            subject: Some(subject(request)),
            started: Some(Instant::now()),
            room: None,
        }
    }

    /// Records something that has happened to a session by itself. `login` is the one that it happened to.
    pub(crate) fn record_event(log: &Arc<AuditLog>, event: Event, login: &Login, access: &Access) {
        let mut origin = Origin::of(access);
        if event != Event::LoggedInByUpgrade {
            origin.actor = Some(bounded(&login.principal.user_id));
            origin.session = session_of(Some(login));
            origin.is_administrator = is_administrator(&login.principal);
        }
        let mut trace = Self {
            log: Arc::clone(log),
            selection: Selection::EVENT,
            operation: Cow::Borrowed(event.name()),
            origin,
            subject: Some(Subject {
                resource: "*".to_owned(),
                details: Map::new(),
            }),
            started: None,
            room: None,
        };
        trace.record(After::of(access), Ok(()), false);
    }

    /// Why the request was made part of the log.
    pub(crate) fn selection(&self) -> Selection {
        self.selection
    }

    /// Takes the room in the file for what is about to be changed by somebody who is no administrator.
    ///
    /// # Errors
    /// Where they, or all of them together, have used up theirs: how long it takes until there is some.
    pub(crate) fn take_room(&mut self) -> Result<(), Duration> {
        let Some(subject) = self.subject.as_ref().filter(|_| self.selection.must_be_recorded()) else {
            return Ok(());
        };
        let origin = &self.origin;
        if origin.is_administrator {
            return Ok(());
        }
        // They are the same before and after.
        let actors = [origin.actor.as_deref(), origin.actor.as_deref(), origin.session.as_deref()];
        let texts = [&*self.operation, &*subject.resource, UNKNOWN_OUTCOME];
        let bytes = line_bytes(actors.into_iter().flatten().chain(texts), &subject.details);
        self.room = self.log.take_room(source(origin.actor.as_deref(), origin.address), bytes)?;
        Ok(())
    }

    /// Adds what has come of the request that it does not say itself.
    pub(crate) fn note(&mut self, details: Map<String, Value>) {
        if let Some(subject) = &mut self.subject {
            subject.details.extend(details);
        }
    }

    /// Records that the request was not begun.
    pub(crate) fn refused(mut self, failure: &Failure, access: &Access) {
        self.started = None;
        // A refusal changes nothing: nobody has to wait for the disk because of it.
        drop(self.record(After::of(access), Err(failure.into()), true));
    }

    /// Records what came of the request. Gives what the answer has to wait for.
    pub(crate) fn finish(mut self, access: &Access, outcome: Result<(), &Failure>) -> Option<Durable> {
        self.record(After::of(access), outcome.map_err(Fault::from), false)
    }

    /// Records what came of a request that logs nobody in or out.
    pub(crate) fn finish_of_same_user(mut self, outcome: Result<(), &Failure>) -> Option<Durable> {
        self.record(self.unchanged(), outcome.map_err(Fault::from), false)
    }

    fn unchanged(&self) -> After {
        After {
            user_id: self.origin.actor.clone(),
            session: self.origin.session.clone(),
            is_administrator: false,
        }
    }

    fn record(&mut self, after: After, outcome: Result<(), Fault<'_>>, is_refused: bool) -> Option<Durable> {
        let subject = self.subject.take()?;
        let result = if outcome.is_ok() { Verdict::Success } else { Verdict::Error };
        let is_stranger = self.origin.knows_logins && self.origin.actor.is_none() && after.user_id.is_none();
        let selection = self.selection;
        // What has failed was not changed. Where nobody knows, it may have been.
        let has_failed = outcome.is_err_and(|fault| fault.code.is_some());
        if has_failed && let Some(room) = self.room.take() {
            self.log.give_back(room);
        }
        let (ring, line) = place_of(Case {
            kind: selection.kind,
            verdict: result,
            is_refused,
            is_stranger,
            is_administrator: self.origin.is_administrator || after.is_administrator,
            has_room: self.room.is_some(),
        });
        let entry = Entry {
            id: 0,
            timestamp: wall_clock_ms(),
            user_id: after.user_id,
            session_id: self.origin.connection,
            operation: self.operation.clone(),
            resource: subject.resource,
            result,
            error: outcome.err().map(|fault| bounded(fault.text)),
            code: outcome.err().and_then(|fault| fault.code),
            details: subject.details,
            remote_address: self.origin.address,
            actor: self.origin.actor.clone(),
            session: after.session.or_else(|| self.origin.session.clone()),
            duration_us: self
                .started
                .map(|started| u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX)),
            repeats: None,
            ring,
            line,
            is_plain: selection.is_plain(),
            must_be_durable: selection.is_durable() && self.started.is_some() && ring != Ring::Strangers,
        };
        if let Some(room) = self.room {
            self.log.exceed(room, entry.line_bytes());
        }
        self.log.record(entry)
    }
}

impl After {
    fn of(access: &Access) -> Self {
        Self {
            user_id: access.principal().map(|principal| bounded(&principal.user_id)),
            session: session_of(access.login()),
            is_administrator: access.principal().is_some_and(is_administrator),
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        if self.subject.is_some() {
            let fault = Fault {
                code: None,
                text: UNKNOWN_OUTCOME,
            };
            drop(self.record(self.unchanged(), Err(fault), false));
        }
    }
}

fn session_of(login: Option<&Login>) -> Option<Arc<str>> {
    login.and_then(|login| login.session.clone())
}
