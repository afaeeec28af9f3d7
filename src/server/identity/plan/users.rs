//! Users: how they come, change and go.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{Caller, Circumstances, Effect, Plan, end_sessions, require_another_superadmin, sessions};
use crate::protocol::{ConnectionId, ErrorCode, Operation};
use crate::server::access::Secret;
use crate::server::handlers::Failure;
use crate::server::identity::directory::Subject;
use crate::server::identity::names::{VIRTUAL_SUPERADMIN, folded, no_such_user};
use crate::server::identity::order::{NewPassword, NewUser, Profile, Setting};
use crate::server::identity::rights::Account;
use crate::server::identity::tables::{Table, joint_key, members};
use crate::server::identity::tokens::write_digest;

pub(super) fn create(caller: &Caller<'_>, user: &NewUser) -> Result<Plan, Failure> {
    let NewUser {
        id,
        name,
        hash,
        is_enabled,
        profile,
    } = user;
    caller.require(Operation::IdentityCreateUser)?;
    if profile.metadata.is_change() {
        caller.require_for_metadata()?;
    }
    if caller.directory.user_named(name).is_some() {
        return Err(Failure::new(ErrorCode::AlreadyExists, format!("User \"{name}\" already exists")));
    }
    let mut record = members(json!({
        "id": &**id,
        "username": name,
        "usernameKey": folded(name),
        "passwordHash": hash.expose(),
        "enabled": is_enabled,
    }));
    describe(&mut record, profile);
    let mut plan = Plan::default();
    plan.step(Table::Users.insert(&record));
    Ok(plan)
}

pub(super) fn update(caller: &Caller<'_>, user: &str, profile: &Profile) -> Result<Plan, Failure> {
    let is_self = user == caller.id;
    let user = if is_self {
        caller.directory.user(user).ok_or_else(no_such_user)?
    } else {
        caller.require(Operation::IdentityUpdateUser)?;
        caller.account(user)?
    };
    if let Some(metadata) = profile.metadata.after() {
        caller.require_for_metadata()?;
        caller.require_for(&Account::of(caller.directory, &user.id).with_metadata(metadata.cloned().unwrap_or_default()))?;
    }
    let mut changes = Map::new();
    describe(&mut changes, profile);
    let mut plan = Plan::default();
    if !changes.is_empty() {
        plan.step(Table::Users.update(&user.id, &changes));
    }
    if profile.metadata.is_change() {
        // Rules of rows may refer to it.
        plan.recheck(&user.id);
    }
    Ok(plan)
}

fn describe(record: &mut Map<String, Value>, profile: &Profile) {
    let mut put = |name: &str, setting: Setting<Value>| match setting {
        Setting::Keep => {}
        Setting::Clear => drop(record.insert(name.to_owned(), Value::Null)),
        Setting::Set(value) => drop(record.insert(name.to_owned(), value)),
    };
    put("displayName", as_value(&profile.display_name));
    put("email", as_value(&profile.email));
    put("metadata", as_value(&profile.metadata));
}

fn as_value<T: Clone + Into<Value>>(setting: &Setting<T>) -> Setting<Value> {
    match setting {
        Setting::Keep => Setting::Keep,
        Setting::Clear => Setting::Clear,
        Setting::Set(value) => Setting::Set(value.clone().into()),
    }
}

pub(super) fn delete(caller: &Caller<'_>, user: &str) -> Result<Plan, Failure> {
    caller.require(Operation::IdentityDeleteUser)?;
    if user == VIRTUAL_SUPERADMIN {
        return Err(Failure::forbidden("Cannot delete virtual superadmin"));
    }
    let user = caller.account(user)?;
    let directory = caller.directory;
    require_another_superadmin(directory, &user.id)?;
    let mut plan = Plan::default();
    end_sessions(directory, &user.id, &mut plan);
    for role in directory.roles_of(&user.id) {
        plan.step(Table::Assignments.delete(&joint_key(&[&user.id, &role.id])));
    }
    for entry in directory.acl_of(&Subject::User(Arc::clone(&user.id))) {
        plan.step(Table::Acl.delete(&entry.key));
    }
    for resource in directory.owned(&user.id) {
        plan.step(Table::Owners.delete(&joint_key(&[resource.kind.as_str(), &resource.name])));
    }
    plan.step(Table::Users.delete(&user.id));
    plan.revoke(&user.id, None);
    Ok(plan)
}

pub(super) fn set_enabled(caller: &Caller<'_>, user: &str, enabled: bool) -> Result<Plan, Failure> {
    let directory = caller.directory;
    if enabled {
        caller.require(Operation::IdentityEnableUser)?;
    } else {
        caller.require(Operation::IdentityDisableUser)?;
        if user == VIRTUAL_SUPERADMIN {
            return Err(Failure::forbidden("Cannot disable virtual superadmin"));
        }
    }
    let user = caller.account(user)?;
    let mut plan = Plan::default();
    if user.is_enabled != enabled {
        plan.step(Table::Users.update(&user.id, &members(json!({ "enabled": enabled }))));
    }
    if !enabled {
        require_another_superadmin(directory, &user.id)?;
        end_sessions(directory, &user.id, &mut plan);
        plan.revoke(&user.id, None);
    }
    Ok(plan)
}

pub(super) fn replace_password(
    caller: &Caller<'_>,
    password: &NewPassword,
    connection: Option<ConnectionId>,
    circumstances: Circumstances<'_>,
) -> Result<Plan, Failure> {
    let NewPassword {
        proven,
        hash,
        session,
        old,
        new,
    } = password;
    let directory = caller.directory;
    let user = directory.user(caller.id).ok_or_else(no_such_user)?;
    if user.password != *proven {
        return Err(Failure::new(ErrorCode::Unauthorized, "Current password is incorrect"));
    }
    // While the password was looked at the session may have ended, or somebody else may hold it by now under another
    // token: theirs would be the one that is spared.
    sessions::require_held(directory, caller.id, session, *old, circumstances)?;
    let mut plan = Plan::default();
    plan.step(Table::Users.update(&user.id, &members(json!({ "passwordHash": hash.expose() }))));
    for other in directory.sessions_of(caller.id) {
        if other.id != *session {
            plan.step(Table::Sessions.delete(&other.id));
        }
    }
    let begun_anew = members(json!({
        "tokenHash": write_digest(new),
        "loggedInAt": circumstances.now,
        "expiresAt": circumstances.now.saturating_add(circumstances.session_ttl_ms),
    }));
    plan.step(Table::Sessions.update(session, &begun_anew));
    plan.former_token = Some((Arc::clone(session), *old));
    plan.changes_rights = true;
    plan.effects.push(Effect::Revoke(Arc::clone(&user.id), connection));
    Ok(plan)
}

pub(super) fn reset_password(caller: &Caller<'_>, user: &str, hash: &Secret) -> Result<Plan, Failure> {
    caller.require(Operation::IdentityResetPassword)?;
    let user = caller.account(user)?;
    let mut plan = Plan::default();
    plan.step(Table::Users.update(&user.id, &members(json!({ "passwordHash": hash.expose() }))));
    end_sessions(caller.directory, &user.id, &mut plan);
    plan.revoke(&user.id, None);
    Ok(plan)
}
