//! The access list, and who owns what.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{Asking, input};
use crate::protocol::{Operation, Tier};
use crate::server::access::{Asked, Target, query_target};
use crate::server::handlers::answer::Handled;
use crate::server::handlers::failure::Failure;
use crate::server::handlers::fields::present;
use crate::server::identity::{
    AclAddress, Caller, Change, Directory, Resource, ResourceKind, Subject, VIRTUAL_SUPERADMIN, may_manage, no_such_user,
};
use crate::store::Snapshot;

/// `identity.grant`.
pub(in crate::server::handlers) fn grant(asking: &Asking<'_, '_>) -> Result<Handled, Failure> {
    let entry = address(asking)?;
    let rights = input::rights(asking.call.fields)?;
    if entry.resource.kind == ResourceKind::Query {
        return Err(Failure::validation("Rights on a query are those on its bucket: grant them there"));
    }
    asking.have(Change::Grant { entry, rights }, |_| Some(json!({ "granted": true })))
}

/// `identity.revoke`.
pub(in crate::server::handlers) fn revoke(asking: &Asking<'_, '_>) -> Result<Handled, Failure> {
    let entry = address(asking)?;
    let rights = match present(asking.call.fields.get("operations")) {
        None => None,
        Some(_) => Some(input::rights(asking.call.fields)?),
    };
    asking.have(Change::Revoke { entry, rights }, |_| Some(json!({ "revoked": true })))
}

fn address(asking: &Asking<'_, '_>) -> Result<AclAddress, Failure> {
    let text = |name| input::text(asking.call.fields, name);
    let (subject_kind, subject_id) = (text("subjectType")?, text("subjectId")?);
    let (resource_kind, resource_name) = (text("resourceType")?, text("resourceName")?);
    Ok(AclAddress {
        subject: input::subject(&subject_kind, &subject_id)?,
        resource: input::resource_of(&resource_kind, resource_name)?,
    })
}

/// `identity.getAcl`.
pub(in crate::server::handlers) fn get_acl(asking: &Asking<'_, '_>) -> Result<Handled, Failure> {
    asking.tell(|caller| {
        let resource = input::resource(asking.call.fields)?;
        require_sight(caller, &resource, &asking.call.context.store.snapshot())?;
        let directory = caller.directory;
        let owner = directory.owner(resource.kind, &resource.name).map(|owner| &owner.user);
        let is_owner = |subject: &Subject| match subject {
            Subject::User(id) => Some(id) == owner,
            Subject::Role(_) => false,
        };
        let listed = directory.acl_on(&resource);
        let mut entries = Vec::with_capacity(listed.len() + 1);
        if let Some(owner) = owner.filter(|_| !listed.iter().any(|entry| is_owner(&entry.subject))) {
            entries.push(described(directory, &Subject::User(Arc::clone(owner)), &[], true));
        }
        let all = listed
            .into_iter()
            .map(|entry| described(directory, &entry.subject, &entry.rights, is_owner(&entry.subject)));
        entries.extend(all);
        Ok(json!({ "entries": entries }))
    })
}

fn described(directory: &Directory, subject: &Subject, rights: &[Tier], is_owner: bool) -> Value {
    let name = match subject {
        Subject::User(id) => user_name(directory, id),
        Subject::Role(id) => directory.role(id).map_or_else(|| id.to_string(), |role| role.name.to_string()),
    };
    json!({
        "subjectType": subject.kind(),
        "subjectId": &**subject.id(),
        "subjectName": name,
        "operations": rights.iter().map(|right| right.as_str()).collect::<Vec<_>>(),
        "isOwner": is_owner,
    })
}

/// The name of a user; where there is none any more, the id, which is also the name of the virtual superadmin.
fn user_name(directory: &Directory, id: &str) -> String {
    directory.user(id).map_or_else(|| id.to_owned(), |user| user.name.clone())
}

/// Whether somebody may see who has rights on a resource: whoever may read it, or say who may.
fn require_sight(caller: &Caller<'_>, resource: &Resource, snapshot: &Snapshot) -> Result<(), Failure> {
    let name = &*resource.name;
    let (asked, target) = match resource.kind {
        ResourceKind::Bucket => (Asked::from(Operation::StoreGet), Target::Bucket(name)),
        ResourceKind::Query => (Asked::from(Operation::StoreRunQuery), query_target(snapshot, name)),
        ResourceKind::Topic => (Asked::named("rules.subscribe"), Target::Topic(name)),
        ResourceKind::Procedure => (Asked::named("procedures.get"), Target::Procedure(name)),
    };
    let may_read = caller.rights.scope(caller.directory, asked, &target).is_some();
    if may_read || may_manage(caller, resource, Operation::IdentityGetAcl) {
        Ok(())
    } else {
        Err(Failure::forbidden(format!("No access to {} \"{name}\"", resource.kind.as_str())))
    }
}

/// `identity.myAccess`.
pub(in crate::server::handlers) fn my_access(asking: &Asking<'_, '_>) -> Result<Handled, Failure> {
    asking.tell(|caller| {
        let directory = caller.directory;
        let name = match directory.user(caller.id) {
            Some(user) => user.name.as_str(),
            None if caller.id == VIRTUAL_SUPERADMIN => VIRTUAL_SUPERADMIN,
            None => return Err(no_such_user()),
        };
        Ok(json!({
            "user": { "id": caller.id, "username": name, "roles": directory.role_names(caller.id) },
            "resources": resources(directory, caller.id),
        }))
    })
}

/// What somebody has rights on: their own entries, those of their roles, and what they own.
fn resources(directory: &Directory, user: &str) -> Vec<Value> {
    let own = Subject::User(user.into());
    let roles = directory.roles_of(user).into_iter().map(|role| Subject::Role(Arc::clone(&role.id)));
    let mut order: Vec<Resource> = Vec::new();
    let mut rights: std::collections::BTreeMap<Resource, (Vec<Tier>, bool)> = std::collections::BTreeMap::new();
    let mut add = |resource: &Resource, more: &[Tier], is_owner: bool| {
        let entry = rights.entry(resource.clone()).or_insert_with(|| {
            order.push(resource.clone());
            (Vec::new(), false)
        });
        entry.0.extend(more);
        entry.1 |= is_owner;
    };
    for subject in std::iter::once(own).chain(roles) {
        for entry in directory.acl_of(&subject) {
            add(&entry.resource, &entry.rights, false);
        }
    }
    for resource in directory.owned(user) {
        add(resource, &[Tier::Read, Tier::Write, Tier::Admin], true);
    }
    let describe = |resource: Resource| {
        let (mut rights, is_owner) = rights.remove(&resource)?;
        rights.sort_unstable_by_key(|right| right.as_str());
        rights.dedup();
        let mut described = Map::new();
        described.insert("resourceType".to_owned(), json!(resource.kind.as_str()));
        described.insert("resourceName".to_owned(), json!(&*resource.name));
        let names: Vec<_> = rights.iter().map(|right| right.as_str()).collect();
        described.insert("operations".to_owned(), json!(names));
        described.insert("isOwner".to_owned(), json!(is_owner));
        Some(Value::Object(described))
    };
    order.into_iter().filter_map(describe).collect()
}

/// `identity.getOwner`.
pub(in crate::server::handlers) fn get_owner(asking: &Asking<'_, '_>) -> Result<Handled, Failure> {
    asking.tell(|caller| {
        let resource = input::resource(asking.call.fields)?;
        require_sight(caller, &resource, &asking.call.context.store.snapshot())?;
        let owner = caller.directory.owner(resource.kind, &resource.name);
        let owner = owner.map(|owner| {
            json!({
                "userId": &*owner.user,
                "username": user_name(caller.directory, &owner.user),
                "resourceType": resource.kind.as_str(),
                "resourceName": &*resource.name,
            })
        });
        Ok(json!({ "owner": owner }))
    })
}

/// `identity.transferOwner`.
pub(in crate::server::handlers) fn transfer_owner(asking: &Asking<'_, '_>) -> Result<Handled, Failure> {
    let resource = input::resource(asking.call.fields)?;
    let to = input::text(asking.call.fields, "newOwnerId")?;
    asking.have(Change::TransferOwner { resource, to }, |_| Some(json!({ "transferred": true })))
}
