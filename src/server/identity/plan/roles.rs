//! Roles: how they are made, and who gets them.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{Caller, Plan, is_privileged, require_another_superadmin};
use crate::protocol::{ErrorCode, Operation};
use crate::server::handlers::Failure;
use crate::server::identity::directory::{Role, Subject};
use crate::server::identity::names::{SUPERADMIN, no_such_user};
use crate::server::identity::order::{NewRole, Setting};
use crate::server::identity::rights::Account;
use crate::server::identity::tables::{Table, joint_key, members};

/// The most roles. They are listed in one answer.
const ROLES_MAX: usize = 1_000;

pub(super) fn create(caller: &Caller<'_>, role: &NewRole) -> Result<Plan, Failure> {
    let NewRole {
        id,
        name,
        description,
        permissions,
    } = role;
    caller.require_superadmin()?;
    if caller.directory.role_named(name).is_some() {
        return Err(Failure::new(ErrorCode::AlreadyExists, format!("Role \"{name}\" already exists")));
    }
    if caller.directory.role_count() >= ROLES_MAX {
        return Err(Failure::validation(format!("There are {ROLES_MAX} roles, and no more are allowed")));
    }
    let mut plan = Plan::default();
    plan.step(Table::Roles.insert(&role_record(id, name, description.as_deref(), false, permissions)));
    Ok(plan)
}

/// A new role as it is stored.
pub(crate) fn role_record(id: &str, name: &str, description: Option<&str>, is_system: bool, permissions: &[Value]) -> Map<String, Value> {
    let mut record = members(json!({ "id": id, "name": name }));
    if let Some(description) = description {
        record.insert("description".to_owned(), json!(description));
    }
    record.insert("system".to_owned(), json!(is_system));
    record.insert("permissions".to_owned(), json!(permissions));
    record
}

pub(super) fn update(
    caller: &Caller<'_>,
    role: &str,
    description: &Setting<String>,
    permissions: Option<&[Value]>,
) -> Result<Plan, Failure> {
    caller.require_superadmin()?;
    let role = caller.directory.role(role).ok_or_else(no_such_role)?;
    let mut changes = Map::new();
    match description {
        Setting::Keep => {}
        Setting::Clear => drop(changes.insert("description".to_owned(), Value::Null)),
        Setting::Set(text) => drop(changes.insert("description".to_owned(), json!(text))),
    }
    let mut plan = Plan::default();
    if let Some(permissions) = permissions {
        changes.insert("permissions".to_owned(), json!(permissions));
        plan.recheck_all(&caller.directory.holders(&role.id));
    }
    if !changes.is_empty() {
        plan.step(Table::Roles.update(&role.id, &changes));
    }
    Ok(plan)
}

pub(super) fn delete(caller: &Caller<'_>, role: &str) -> Result<Plan, Failure> {
    caller.require_superadmin()?;
    let directory = caller.directory;
    let role = directory.role(role).ok_or_else(no_such_role)?;
    if role.is_system {
        return Err(Failure::forbidden("Cannot delete system role"));
    }
    let mut plan = Plan::default();
    let holders = directory.holders(&role.id);
    for user in &holders {
        plan.step(Table::Assignments.delete(&joint_key(&[user, &role.id])));
    }
    for entry in directory.acl_of(&Subject::Role(Arc::clone(&role.id))) {
        plan.step(Table::Acl.delete(&entry.key));
    }
    plan.step(Table::Roles.delete(&role.id));
    plan.recheck_all(&holders);
    Ok(plan)
}

pub(super) fn assign(caller: &Caller<'_>, user: &str, role: &str) -> Result<Plan, Failure> {
    caller.require(Operation::IdentityAssignRole)?;
    require_for(caller, role)?;
    let directory = caller.directory;
    let user = directory.user(user).ok_or_else(no_such_user)?;
    caller.account(&user.id)?;
    let role = role_named(caller, role)?;
    if directory.holds(&user.id, &role.id) {
        return Err(Failure::new(
            ErrorCode::AlreadyExists,
            format!("User already has role \"{}\"", role.name),
        ));
    }
    caller.require_for(&Account::of(directory, &user.id).with_role(role))?;
    let mut plan = Plan::default();
    plan.step(Table::Assignments.insert(&members(json!({
        "id": joint_key(&[&user.id, &role.id]),
        "userId": &*user.id,
        "roleId": &*role.id,
        "grantedBy": caller.id,
    }))));
    plan.recheck(&user.id);
    Ok(plan)
}

pub(super) fn remove(caller: &Caller<'_>, user: &str, role: &str) -> Result<Plan, Failure> {
    caller.require(Operation::IdentityRemoveRole)?;
    require_for(caller, role)?;
    let directory = caller.directory;
    let role = role_named(caller, role)?;
    if !directory.holds(user, &role.id) {
        return Err(Failure::new(
            ErrorCode::NotFound,
            format!("User does not have role \"{}\"", role.name),
        ));
    }
    let user = caller.account(user)?;
    caller.require_for(&Account::of(directory, &user.id).without_role(role))?;
    if &*role.name == SUPERADMIN {
        require_another_superadmin(directory, &user.id)?;
    }
    let mut plan = Plan::default();
    plan.step(Table::Assignments.delete(&joint_key(&[&user.id, &role.id])));
    plan.recheck(&user.id);
    Ok(plan)
}

/// Whether they may deal with a role of this name at all.
fn require_for(caller: &Caller<'_>, role: &str) -> Result<(), Failure> {
    if is_privileged(role) { caller.require_superadmin() } else { Ok(()) }
}

fn role_named<'d>(caller: &Caller<'d>, name: &str) -> Result<&'d Arc<Role>, Failure> {
    let missing = || Failure::new(ErrorCode::NotFound, format!("Role \"{name}\" not found"));
    caller.directory.role_named(name).ok_or_else(missing)
}

fn no_such_role() -> Failure {
    Failure::new(ErrorCode::NotFound, "Role not found")
}
