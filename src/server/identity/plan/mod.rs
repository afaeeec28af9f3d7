//! What a change means: which records it writes, and whom it concerns. Pure: the same directory and the same order give
//! the same plan, or the same refusal. Who wants it is judged by the directory that the change is made on.

mod access_list;
mod roles;
mod sessions;
mod users;

#[cfg(test)]
mod model_tests;

use std::sync::Arc;

use super::directory::{Directory, Resource, User};
use super::names::{ADMIN, SUPERADMIN, VIRTUAL_SUPERADMIN, no_such_user};
use super::order::{Change, Order};
use super::rights::{Account, UserRights};
use super::tables::Table;
use crate::protocol::{ConnectionId, ErrorCode, Operation};
use crate::server::access::TokenDigest;
use crate::server::handlers::Failure;
use crate::store::Step;

pub(crate) use self::access_list::{bound, disclaimed, left_over, may_manage, require_still};
pub(crate) use self::roles::role_record;

/// What changes are planned by, beside the directory.
#[derive(Clone, Copy)]
pub(crate) struct Circumstances<'c> {
    /// The time, in milliseconds since 1970.
    pub(crate) now: u64,
    pub(crate) session_ttl_ms: u64,
    pub(crate) session_idle_ms: u64,
    pub(crate) max_sessions_per_user: usize,
    pub(crate) keeps_bootstrap_secret: bool,
    /// Which of all buckets or queries that have ever had the name is there, if any.
    pub(crate) incarnation_of: &'c dyn Fn(&Resource) -> Option<u64>,
}

/// What a change does.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// What the store does, all or none of it.
    pub(crate) steps: Vec<Step>,
    /// Whom it concerns who is connected.
    pub(crate) effects: Vec<Effect>,
    /// The session and its token until now, which stays good for the connections that came by it until they are told.
    pub(crate) former_token: Option<(Arc<str>, TokenDigest)>,
    /// Whether anybody's rights, or the standing of anybody's session, are others after it.
    pub(crate) changes_rights: bool,
}

/// What follows for those who are connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// The connections of a user look at their rights again.
    Recheck(Arc<str>),
    /// Those that came by a token do.
    RecheckToken(Arc<str>, TokenDigest),
    /// The connections of a user are told that their session is taken away, and closed, all but one.
    Revoke(Arc<str>, Option<ConnectionId>),
}

impl Plan {
    fn step(&mut self, step: Step) {
        self.steps.push(step);
    }

    fn recheck(&mut self, user: &Arc<str>) {
        self.changes_rights = true;
        self.effects.push(Effect::Recheck(Arc::clone(user)));
    }

    fn recheck_all(&mut self, users: &[Arc<str>]) {
        self.changes_rights = true;
        self.effects.extend(users.iter().cloned().map(Effect::Recheck));
    }

    fn revoke(&mut self, user: &Arc<str>, except: Option<ConnectionId>) {
        self.changes_rights = true;
        self.effects.push(Effect::Revoke(Arc::clone(user), except));
    }
}

/// What an order does to what is there.
///
/// # Errors
/// What whoever wants it is told.
pub(crate) fn plan(directory: &Directory, order: &Order, circumstances: Circumstances<'_>) -> Result<Plan, Failure> {
    let by = &order.by;
    match &order.change {
        Change::OpenSession { session, proof } => sessions::open(directory, by, session, proof, circumstances),
        Change::OpenBootstrapSession { session } => sessions::open_bootstrap(directory, session, circumstances),
        Change::RotateToken { session, old, new } => sessions::rotate(directory, by, session, *old, *new, circumstances),
        Change::CloseSession { session } => Ok(sessions::close(directory, session)),
        Change::CloseSessions { user } => Ok(sessions::close_all(directory, user)),
        Change::PurgeSessions => Ok(sessions::purge(directory, circumstances)),
        Change::CreateUser(user) => users::create(&Caller::of(directory, by)?, user),
        Change::UpdateUser { user, profile } => users::update(&Caller::of(directory, by)?, user, profile),
        Change::DeleteUser { user } => users::delete(&Caller::of(directory, by)?, user),
        Change::SetEnabled { user, enabled } => users::set_enabled(&Caller::of(directory, by)?, user, *enabled),
        Change::ReplacePassword(password) => {
            users::replace_password(&Caller::of(directory, by)?, password, order.connection, circumstances)
        }
        Change::ResetPassword { user, hash } => users::reset_password(&Caller::of(directory, by)?, user, hash),
        Change::CreateRole(role) => roles::create(&Caller::of(directory, by)?, role),
        Change::UpdateRole {
            role,
            description,
            permissions,
        } => roles::update(&Caller::of(directory, by)?, role, description, permissions.as_deref()),
        Change::DeleteRole { role } => roles::delete(&Caller::of(directory, by)?, role),
        Change::AssignRole { user, role } => roles::assign(&Caller::of(directory, by)?, user, role),
        Change::RemoveRole { user, role } => roles::remove(&Caller::of(directory, by)?, user, role),
        Change::Grant { entry, rights } => access_list::grant(&Caller::of(directory, by)?, entry, rights, circumstances),
        Change::Revoke { entry, rights } => access_list::revoke(&Caller::of(directory, by)?, entry, rights.as_deref()),
        Change::TransferOwner { resource, to } => access_list::transfer(&Caller::of(directory, by)?, resource, to),
        Change::Define { resource, incarnation, .. } => Ok(access_list::claimed(directory, by, resource, *incarnation)),
        Change::Remove { resource, .. } => Ok(access_list::removed(directory, resource)),
    }
}

/// Whoever wants something, with what they may do by now.
pub(crate) struct Caller<'d> {
    pub(crate) directory: &'d Directory,
    pub(crate) id: &'d str,
    pub(crate) rights: UserRights,
}

impl<'d> Caller<'d> {
    /// # Errors
    /// Where there is no such user, or not any more.
    pub(crate) fn of(directory: &'d Directory, id: &'d str) -> Result<Self, Failure> {
        let is_there = id == VIRTUAL_SUPERADMIN || directory.user(id).is_some_and(|user| user.is_enabled);
        if !is_there {
            return Err(Failure::unauthenticated());
        }
        Ok(Self {
            directory,
            id,
            rights: UserRights::of(directory, id),
        })
    }

    /// # Errors
    /// Where they hold no role that allows it.
    pub(crate) fn require(&self, operation: Operation) -> Result<(), Failure> {
        if self.rights.may(self.directory, operation) {
            Ok(())
        } else {
            Err(Failure::forbidden("Admin role required"))
        }
    }

    /// # Errors
    /// Where they are none.
    pub(crate) fn require_superadmin(&self) -> Result<(), Failure> {
        if self.rights.is_superadmin() {
            Ok(())
        } else {
            Err(Failure::forbidden("Superadmin role required"))
        }
    }

    /// A user whose account they may deal with: nobody deals with one that may more than they themselves, and none but a
    /// superadmin with those of administrators.
    ///
    /// # Errors
    /// Where they may not, or there is no such user.
    fn account(&self, user: &str) -> Result<&'d Arc<User>, Failure> {
        if user != VIRTUAL_SUPERADMIN && is_privileged_user(self.directory, user) {
            self.require_superadmin()?;
        }
        let user = self.directory.user(user).ok_or_else(no_such_user)?;
        if !self.rights.has_account(self.directory, &Account::of(self.directory, &user.id)) {
            return Err(Failure::forbidden("This user has rights that you do not have"));
        }
        Ok(user)
    }

    /// Whether they may make an account what it would be: nobody brings about rights that they lack. Rules of rows can refer
    /// to roles and metadata, so that every change of these may widen what the account holds already.
    ///
    /// # Errors
    /// Where they may not.
    fn require_for(&self, account: &Account<'_>) -> Result<(), Failure> {
        if self.rights.has_account(self.directory, account) {
            Ok(())
        } else {
            Err(Failure::forbidden("The user would have rights that you do not have"))
        }
    }

    /// Whether they may say what rules of rows see of a user. That widens rights, so that it is for administrators alone.
    fn require_for_metadata(&self) -> Result<(), Failure> {
        let is_one = [ADMIN, SUPERADMIN].iter().any(|role| self.directory.holds_named(self.id, role));
        if is_one {
            Ok(())
        } else {
            Err(Failure::forbidden("Admin role required"))
        }
    }
}

/// Whether only a superadmin gives and takes a role.
fn is_privileged(role: &str) -> bool {
    role == ADMIN || role == SUPERADMIN
}

fn is_privileged_user(directory: &Directory, user: &str) -> bool {
    directory.roles_of(user).iter().any(|role| is_privileged(&role.name))
}

/// Whether there is a superadmin besides a user.
///
/// # Errors
/// Where there is none.
fn require_another_superadmin(directory: &Directory, user: &str) -> Result<(), Failure> {
    let mut superadmins = directory.superadmins().peekable();
    let is_one = directory.superadmins().any(|superadmin| &*superadmin.id == user);
    if !is_one || superadmins.any(|superadmin| &*superadmin.id != user) {
        return Ok(());
    }
    Err(Failure::new(
        ErrorCode::Conflict,
        "The last superadmin can be neither removed nor disabled nor demoted",
    ))
}

/// Ends the sessions of a user.
fn end_sessions(directory: &Directory, user: &str, plan: &mut Plan) {
    for session in directory.sessions_of(user) {
        plan.step(Table::Sessions.delete(&session.id));
    }
}
