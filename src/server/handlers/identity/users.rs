//! Users.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Asking, answered, input};
use crate::protocol::{Number, Operation};
use crate::server::access::Secret;
use crate::server::handlers::answer::{Completion, Effect, Handled};
use crate::server::handlers::auth::encoded;
use crate::server::handlers::failure::Failure;
use crate::server::handlers::fields;
use crate::server::identity::{
    Caller, Carried, Change, Directory, Identity, NewUser, Order, User, check_length, check_new, check_user_name, new_id, no_such_user,
};

const PAGE_SIZE: u64 = 50;
const PAGE_SIZE_MAX: u64 = 200;

/// `identity.createUser`.
pub(in crate::server::handlers) fn create_user(asking: &Asking<'_, '_>) -> Result<Handled, Failure> {
    require(asking, Operation::IdentityCreateUser)?;
    let fields = asking.call.fields;
    let name = fields::text(fields, "username")?.into_owned();
    let password = input::secret(fields, "password")?;
    check_user_name(&name)?;
    check_new(password.expose(), asking.identity.password_min_length())?;
    let (is_enabled, profile) = (input::flag(fields, "enabled")?.unwrap_or(true), input::profile(fields)?);
    let id: Arc<str> = new_id()?.into();
    let user = Arc::clone(&id);
    let change = move |hash| {
        Change::CreateUser(NewUser {
            id,
            name,
            hash,
            is_enabled,
            profile,
        })
    };
    hashed(asking, password, change, move |directory| {
        directory.user(&user).map(|user| user.info())
    })
}

/// `identity.resetPassword`.
pub(in crate::server::handlers) fn reset_password(asking: &Asking<'_, '_>) -> Result<Handled, Failure> {
    require(asking, Operation::IdentityResetPassword)?;
    let user = input::text(asking.call.fields, "userId")?;
    let password = input::secret(asking.call.fields, "newPassword")?;
    check_new(password.expose(), asking.identity.password_min_length())?;
    let change = move |hash| Change::ResetPassword { user, hash };
    hashed(asking, password, change, |_| Some(json!({ "reset": true })))
}

/// Has a change made that takes the hash of a password. Whether it would be made is asked first: a hash costs too much
/// to be made for nothing.
fn hashed(
    asking: &Asking<'_, '_>,
    password: Secret,
    change: impl FnOnce(Secret) -> Change,
    answer: impl FnOnce(&Directory) -> Option<Value> + Send + 'static,
) -> Result<Handled, Failure> {
    let order = asking.order(change(Secret::from("")))?;
    asking.identity.check(&order)?;
    let (identity, id) = (Arc::clone(asking.identity), asking.call.id);
    Ok(Handled::Alone(Box::pin(async move {
        let outcome = hash_and_carry_out(&identity, order, password).await;
        answered(id, outcome, answer)
    })))
}

async fn hash_and_carry_out(identity: &Identity, mut order: Order, password: Secret) -> Result<Carried, Failure> {
    let made = identity.hash(password).await?;
    if let Change::CreateUser(NewUser { hash, .. }) | Change::ResetPassword { hash, .. } = &mut order.change {
        *hash = made;
    }
    identity.carry_out(order).await
}

/// `identity.changePassword`.
pub(in crate::server::handlers) fn change_password(asking: &Asking<'_, '_>) -> Result<Handled, Failure> {
    let fields = asking.call.fields;
    let user = input::text(fields, "userId")?;
    let (current, new) = (input::secret(fields, "currentPassword")?, input::secret(fields, "newPassword")?);
    let login = asking.login()?.clone();
    if *user != *login.principal.user_id {
        return Err(Failure::forbidden(
            "Can only change your own password (use resetPassword for other users)",
        ));
    }
    check_new(new.expose(), asking.identity.password_min_length())?;
    check_length(current.expose())?;
    let (identity, id, arrival) = (Arc::clone(asking.identity), asking.call.id, asking.arrival());
    Ok(Handled::Alone(Box::pin(async move {
        match identity.change_password(&login, current, new, arrival).await {
            Ok(issued) => {
                let answer = json!({ "changed": true, "token": issued.token.expose(), "expiresAt": issued.expires_at });
                Completion::with(id, Ok(encoded(id, &answer)), Effect::LoggedIn(issued.login))
            }
            Err(failure) => Completion::new(id, Err(failure)),
        }
    })))
}

/// `identity.getUser`.
pub(in crate::server::handlers) fn get_user(asking: &Asking<'_, '_>) -> Result<Handled, Failure> {
    asking.tell(|caller| {
        caller.require(Operation::IdentityGetUser)?;
        let user = input::text(asking.call.fields, "userId")?;
        caller.directory.user(&user).map(|user| user.info()).ok_or_else(no_such_user)
    })
}

/// `identity.listUsers`.
pub(in crate::server::handlers) fn list_users(asking: &Asking<'_, '_>) -> Result<Handled, Failure> {
    asking.tell(|caller| {
        caller.require(Operation::IdentityListUsers)?;
        let page = whole(asking, "page", 1)?;
        let page_size = whole(asking, "pageSize", PAGE_SIZE)?.min(PAGE_SIZE_MAX);
        let skipped = usize::try_from((page - 1).saturating_mul(page_size)).unwrap_or(usize::MAX);
        let shown = usize::try_from(page_size).unwrap_or(usize::MAX);
        let users: Vec<Value> = caller.directory.users().skip(skipped).take(shown).map(|user| user.info()).collect();
        Ok(json!({ "users": users, "total": caller.directory.user_count(), "page": page, "pageSize": page_size }))
    })
}

/// A whole number, at least 1.
fn whole(asking: &Asking<'_, '_>, name: &str, default: u64) -> Result<u64, Failure> {
    let json = fields::present(asking.call.fields.get(name));
    let Some(json) = json else { return Ok(default) };
    let complain = |misfit: fields::Misfit| misfit.failure(|| format!("Invalid \"{name}\": expected integer"));
    match Number::parse(json.as_bytes()).filter(|_| json.starts_with('-')) {
        Some(Number::Int(_)) => Ok(1),
        Some(Number::Uint(_) | Number::Float(_)) | None => fields::read_whole(Some(json), 0).map(|number| number.max(1)).map_err(complain),
    }
}

/// `identity.updateUser`.
pub(in crate::server::handlers) fn update_user(asking: &Asking<'_, '_>) -> Result<Handled, Failure> {
    let user = input::text(asking.call.fields, "userId")?;
    if *user != *asking.user()? {
        require(asking, Operation::IdentityUpdateUser)?;
    }
    let profile = input::profile(asking.call.fields)?;
    let change = Change::UpdateUser {
        user: Arc::clone(&user),
        profile,
    };
    asking.have(change, move |directory| directory.user(&user).map(|user: &Arc<User>| user.info()))
}

/// `identity.deleteUser`.
pub(in crate::server::handlers) fn delete_user(asking: &Asking<'_, '_>) -> Result<Handled, Failure> {
    require(asking, Operation::IdentityDeleteUser)?;
    let user = input::text(asking.call.fields, "userId")?;
    asking.have(Change::DeleteUser { user }, |_| Some(json!({ "deleted": true })))
}

/// `identity.enableUser`.
pub(in crate::server::handlers) fn enable_user(asking: &Asking<'_, '_>) -> Result<Handled, Failure> {
    require(asking, Operation::IdentityEnableUser)?;
    set_enabled(asking, true)
}

/// `identity.disableUser`.
pub(in crate::server::handlers) fn disable_user(asking: &Asking<'_, '_>) -> Result<Handled, Failure> {
    require(asking, Operation::IdentityDisableUser)?;
    set_enabled(asking, false)
}

fn set_enabled(asking: &Asking<'_, '_>, enabled: bool) -> Result<Handled, Failure> {
    let user = input::text(asking.call.fields, "userId")?;
    let change = Change::SetEnabled {
        user: Arc::clone(&user),
        enabled,
    };
    asking.have(change, move |directory| directory.user(&user).map(|user| user.info()))
}

/// The right is asked for before the form: whoever lacks it learns nothing of that.
pub(super) fn require(asking: &Asking<'_, '_>, operation: Operation) -> Result<(), Failure> {
    Caller::of(&asking.identity.directory(), asking.user()?)?.require(operation)
}

/// As [`require`], for what superadmins alone do.
pub(super) fn require_superadmin(asking: &Asking<'_, '_>) -> Result<(), Failure> {
    Caller::of(&asking.identity.directory(), asking.user()?)?.require_superadmin()
}
