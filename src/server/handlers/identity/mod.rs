//! `identity.*`: users, roles, rights and sessions of our own. What may be done is judged where it is done, by what is
//! known then; here the form of requests is checked and answers are put together.

mod access_list;
mod input;
mod roles;
mod sessions;
mod users;

use std::sync::Arc;

use serde_json::{Map, Value};

use super::Call;
use super::answer::{Completion, Handled, Success};
use super::auth::encoded;
use super::failure::Failure;
use crate::protocol::{Number, Part};
use crate::server::access::Login;
use crate::server::identity::{Arrival, Caller, Carried, Change, Directory, Identity, Order, Resource, new_incarnation};

/// A request for users, roles, rights or sessions.
pub(super) struct Asking<'c, 'a> {
    call: &'c Call<'c, 'a>,
    identity: &'c Arc<Identity>,
}

/// The part of the server that knows users of its own.
///
/// # Errors
/// Where there is none.
pub(super) fn asking<'c, 'a>(call: &'c Call<'c, 'a>) -> Result<Asking<'c, 'a>, Failure> {
    let identity = call.access.authority().identity();
    let identity = identity.ok_or_else(|| Failure::absent(Part::Identity))?;
    Ok(Asking { call, identity })
}

pub(super) use self::access_list::{get_acl, get_owner, grant, my_access, revoke, transfer_owner};
pub(super) use self::roles::{assign_role, create_role, delete_role, get_user_roles, list_roles, remove_role, update_role};
pub(super) use self::sessions::{login, login_with_secret, logout, refresh_session, whoami};
pub(super) use self::users::{
    change_password, create_user, delete_user, disable_user, enable_user, get_user, list_users, reset_password, update_user,
};

impl<'c> Asking<'c, '_> {
    fn login(&self) -> Result<&'c Login, Failure> {
        self.call.access.login().ok_or_else(Failure::unauthenticated)
    }

    fn user(&self) -> Result<&'c str, Failure> {
        Ok(&self.login()?.principal.user_id)
    }

    fn arrival(&self) -> Arrival {
        Arrival {
            address: self.call.access.address(),
            connection: self.call.access.connection(),
        }
    }

    fn order(&self, change: Change) -> Result<Order, Failure> {
        Ok(Order {
            by: self.user()?.into(),
            connection: Some(self.call.access.connection()),
            change,
        })
    }

    /// Has a change made; `answer` says it, by what is known after it.
    fn have(&self, change: Change, answer: impl FnOnce(&Directory) -> Option<Value> + Send + 'static) -> Result<Handled, Failure> {
        self.have_noted(change, answer, |_| Map::new())
    }

    /// The same, where the audit log is to say more of it than the request does.
    fn have_noted(
        &self,
        change: Change,
        answer: impl FnOnce(&Directory) -> Option<Value> + Send + 'static,
        note: impl FnOnce(&Carried) -> Map<String, Value> + Send + 'static,
    ) -> Result<Handled, Failure> {
        let order = self.order(change)?;
        let (identity, id) = (Arc::clone(self.identity), self.call.id);
        let is_recorded = self.call.context.audit.is_some();
        Ok(Handled::Alone(Box::pin(async move {
            let outcome = identity.carry_out(order).await;
            let noted = outcome.as_ref().ok().filter(|_| is_recorded).map(note);
            answered(id, outcome, answer).noting(noted.unwrap_or_default())
        })))
    }

    /// Answers from what is known now, to somebody who may do what their roles allow.
    fn tell(&self, answer: impl FnOnce(&Caller<'_>) -> Result<Value, Failure>) -> Result<Handled, Failure> {
        let directory = self.identity.directory();
        let answer = answer(&Caller::of(&directory, self.user()?)?)?;
        self.call.json(&answer)
    }
}

/// The answer to a change, by what is known after it.
fn answered(id: Number, outcome: Result<Carried, Failure>, answer: impl FnOnce(&Directory) -> Option<Value>) -> Completion {
    // Nothing comes between a change and its answer that could take away what it was about.
    let answer = outcome.and_then(|carried| answer(&carried.after).ok_or_else(Failure::internal));
    Completion::new(id, answer.map(|answer| encoded(id, &answer)))
}

/// What becomes of something that belongs to somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Defined,
    Removed,
}

/// Has something defined or removed that belongs to somebody, by an operation of the store. Where there are no users of
/// our own nobody owns anything.
pub(super) fn owned(
    call: &Call<'_, '_>,
    fate: Fate,
    resource: Resource,
    operation: crate::store::Operation,
    success: Vec<u8>,
) -> Result<Handled, Failure> {
    let (Some(identity), Some(login)) = (call.access.authority().identity(), call.access.login()) else {
        return call.submit(operation, Success::Prepared(success));
    };
    let change = match fate {
        Fate::Defined => Change::Define {
            operation,
            resource,
            incarnation: new_incarnation()?,
        },
        Fate::Removed => Change::Remove { operation, resource },
    };
    let order = Order {
        by: login.principal.user_id.as_str().into(),
        connection: Some(call.access.connection()),
        change,
    };
    let (identity, id) = (Arc::clone(identity), call.id);
    Ok(Handled::Alone(Box::pin(async move {
        let outcome = identity.carry_out(order).await.map(|_| success);
        Completion::new(id, outcome)
    })))
}
