//! Roles.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::users::{require, require_superadmin};
use super::{Asking, input};
use crate::protocol::{Operation, utf16_length};
use crate::server::audit::role_change;
use crate::server::handlers::answer::Handled;
use crate::server::handlers::failure::Failure;
use crate::server::handlers::fields;
use crate::server::identity::{Carried, Change, NewRole, Role, Setting, VIRTUAL_SUPERADMIN, new_id, no_such_user};

const ROLE_NAME_MAX: usize = 64;

/// `identity.createRole`.
pub(in crate::server::handlers) fn create_role(asking: &Asking<'_, '_>) -> Result<Handled, Failure> {
    require_superadmin(asking)?;
    let fields = asking.call.fields;
    let name = fields::text(fields, "name")?.into_owned();
    if utf16_length(&name) > ROLE_NAME_MAX {
        return Err(Failure::validation(format!(
            "Role name must be between 1 and {ROLE_NAME_MAX} characters"
        )));
    }
    let description = match input::description(fields)? {
        Setting::Keep | Setting::Clear => None,
        Setting::Set(description) => Some(description),
    };
    let permissions = input::permissions(fields)?.unwrap_or_default();
    let id: Arc<str> = new_id()?.into();
    let change = Change::CreateRole(NewRole {
        id: Arc::clone(&id),
        name,
        description,
        permissions,
    });
    let role = Arc::clone(&id);
    asking.have_noted(
        change,
        move |directory| directory.role(&id).map(|role| role.info()),
        move |carried| noted(carried, &role),
    )
}

/// What the audit log is to say of a change of a role's permissions.
fn noted(carried: &Carried, id: &str) -> Map<String, Value> {
    let (before, after) = (carried.before.role(id), carried.after.role(id));
    let name = before.or(after).map_or("", |role| &role.name);
    role_change(
        name,
        before.map(|role| role.permissions.as_slice()),
        after.map(|role| role.permissions.as_slice()),
    )
}

/// `identity.updateRole`.
pub(in crate::server::handlers) fn update_role(asking: &Asking<'_, '_>) -> Result<Handled, Failure> {
    require_superadmin(asking)?;
    let role = input::text(asking.call.fields, "roleId")?;
    let permissions = input::permissions(asking.call.fields)?;
    let is_of_permissions = permissions.is_some();
    let id = Arc::clone(&role);
    let change = Change::UpdateRole {
        role: Arc::clone(&role),
        description: input::description(asking.call.fields)?,
        permissions,
    };
    asking.have_noted(
        change,
        move |directory| directory.role(&role).map(|role| role.info()),
        move |carried| if is_of_permissions { noted(carried, &id) } else { Map::new() },
    )
}

/// `identity.deleteRole`.
pub(in crate::server::handlers) fn delete_role(asking: &Asking<'_, '_>) -> Result<Handled, Failure> {
    require_superadmin(asking)?;
    let role = input::text(asking.call.fields, "roleId")?;
    let id = Arc::clone(&role);
    asking.have_noted(
        Change::DeleteRole { role },
        |_| Some(json!({ "deleted": true })),
        move |carried| noted(carried, &id),
    )
}

/// `identity.listRoles`.
pub(in crate::server::handlers) fn list_roles(asking: &Asking<'_, '_>) -> Result<Handled, Failure> {
    asking.tell(|caller| {
        caller.require(Operation::IdentityListRoles)?;
        Ok(listed(&caller.directory.roles()))
    })
}

/// `identity.getUserRoles`.
pub(in crate::server::handlers) fn get_user_roles(asking: &Asking<'_, '_>) -> Result<Handled, Failure> {
    asking.tell(|caller| {
        caller.require(Operation::IdentityGetUserRoles)?;
        let user = input::text(asking.call.fields, "userId")?;
        if &*user != VIRTUAL_SUPERADMIN && caller.directory.user(&user).is_none() {
            return Err(no_such_user());
        }
        Ok(listed(&caller.directory.roles_of(&user)))
    })
}

fn listed(roles: &[&Arc<Role>]) -> Value {
    json!({ "roles": roles.iter().map(|role| role.info()).collect::<Vec<_>>() })
}

/// `identity.assignRole`.
pub(in crate::server::handlers) fn assign_role(asking: &Asking<'_, '_>) -> Result<Handled, Failure> {
    require(asking, Operation::IdentityAssignRole)?;
    let (user, role) = user_and_role(asking)?;
    asking.have(Change::AssignRole { user, role }, |_| Some(json!({ "assigned": true })))
}

/// `identity.removeRole`.
pub(in crate::server::handlers) fn remove_role(asking: &Asking<'_, '_>) -> Result<Handled, Failure> {
    require(asking, Operation::IdentityRemoveRole)?;
    let (user, role) = user_and_role(asking)?;
    asking.have(Change::RemoveRole { user, role }, |_| Some(json!({ "removed": true })))
}

fn user_and_role(asking: &Asking<'_, '_>) -> Result<(Arc<str>, String), Failure> {
    let user = input::text(asking.call.fields, "userId")?;
    let role = input::text(asking.call.fields, "roleName")?;
    Ok((user, role.to_string()))
}
