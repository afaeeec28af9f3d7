//! The access list, and who owns what.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::{Caller, Circumstances, Plan};
use crate::protocol::{ErrorCode, Operation, Tier};
use crate::server::access::Target;
use crate::server::handlers::Failure;
use crate::server::identity::directory::{Directory, Resource, ResourceKind, Subject};
use crate::server::identity::names::VIRTUAL_SUPERADMIN;
use crate::server::identity::order::AclAddress;
use crate::server::identity::rights::refusal;
use crate::server::identity::tables::{Table, joint_key, members};
use crate::store::Step;

/// The most entries on one resource, which are listed in one answer, and as many of one user or role.
const ENTRIES_MAX: usize = 1_000;

pub(super) fn grant(caller: &Caller<'_>, address: &AclAddress, rights: &[Tier], circumstances: Circumstances<'_>) -> Result<Plan, Failure> {
    let AclAddress { subject, resource } = address;
    let directory = caller.directory;
    require_management(caller, resource, Operation::IdentityGrant)?;
    // Nobody hands on what they do not hold.
    if !rights.iter().all(|right| caller.rights.has_all(directory, resource, *right)) {
        return Err(not_theirs());
    }
    require_subject(directory, subject)?;
    let mut plan = Plan::default();
    match directory.acl_entry(resource, subject) {
        Some(entry) => {
            let mut all = entry.rights.clone();
            all.extend(rights.iter().filter(|right| !entry.rights.contains(right)));
            plan.step(Table::Acl.update(&entry.key, &members(json!({ "operations": names(&all) }))));
        }
        None => {
            if directory.acl_on(resource).len() >= ENTRIES_MAX || directory.acl_of(subject).len() >= ENTRIES_MAX {
                return Err(Failure::validation(format!(
                    "There are {ENTRIES_MAX} entries on it, or of the subject, and no more are allowed"
                )));
            }
            let mut record = members(json!({
                "id": joint_key(&[subject.kind(), subject.id(), resource.kind.as_str(), &resource.name]),
                "subjectType": subject.kind(),
                "subjectId": &**subject.id(),
                "resourceType": resource.kind.as_str(),
                "resourceName": &*resource.name,
                "operations": names(rights),
                "grantedBy": caller.id,
            }));
            if let Some(incarnation) = (circumstances.incarnation_of)(resource) {
                record.insert("incarnation".to_owned(), json!(incarnation));
            }
            plan.step(Table::Acl.insert(&record));
        }
    }
    concern(directory, subject, &mut plan);
    Ok(plan)
}

pub(super) fn revoke(caller: &Caller<'_>, address: &AclAddress, rights: Option<&[Tier]>) -> Result<Plan, Failure> {
    let AclAddress { subject, resource } = address;
    require_management(caller, resource, Operation::IdentityRevoke)?;
    let missing = || Failure::new(ErrorCode::NotFound, "ACL entry not found");
    let entry = caller.directory.acl_entry(resource, subject).ok_or_else(missing)?;
    let taken = |right: &Tier| rights.is_none_or(|rights| rights.contains(right));
    let rest: Vec<Tier> = entry.rights.iter().filter(|right| !taken(right)).copied().collect();
    let mut plan = Plan::default();
    plan.step(if rest.is_empty() {
        Table::Acl.delete(&entry.key)
    } else {
        Table::Acl.update(&entry.key, &members(json!({ "operations": names(&rest) })))
    });
    concern(caller.directory, subject, &mut plan);
    Ok(plan)
}

pub(super) fn transfer(caller: &Caller<'_>, resource: &Resource, to: &Arc<str>) -> Result<Plan, Failure> {
    let directory = caller.directory;
    let owner = directory.owner(resource.kind, &resource.name);
    if !caller.rights.is_superadmin() && owner.is_none_or(|owner| &*owner.user != caller.id) {
        return Err(Failure::forbidden("Only the owner or superadmin can transfer ownership"));
    }
    let owner = owner.ok_or_else(|| Failure::new(ErrorCode::NotFound, "Resource has no owner"))?;
    if &**to != VIRTUAL_SUPERADMIN && directory.user(to).is_none() {
        return Err(Failure::new(ErrorCode::NotFound, "New owner not found"));
    }
    let mut plan = Plan::default();
    plan.step(Table::Owners.update(&owner.key, &members(json!({ "userId": &**to }))));
    plan.recheck(&owner.user);
    plan.recheck(to);
    Ok(plan)
}

/// Whether whoever wants something defined or removed may still do that, and with the very thing that is there now: since
/// the request was let in it may have become somebody else's.
///
/// # Errors
/// What they are told.
pub(crate) fn require_still(caller: &Caller<'_>, asked: Operation, target: &Target<'_>) -> Result<(), Failure> {
    if caller.rights.scope(caller.directory, asked.into(), target).is_some() {
        Ok(())
    } else {
        Err(Failure::forbidden(refusal(asked.into(), target)))
    }
}

/// Something is about to be defined: whoever does it owns it. What is left over of another one of that name, which could
/// not be removed with it, is about nothing.
pub(super) fn claimed(directory: &Directory, by: &Arc<str>, resource: &Resource, incarnation: u64) -> Plan {
    let mut plan = Plan::default();
    let (kind, name) = (resource.kind.as_str(), &*resource.name);
    plan.step(match directory.owner(resource.kind, name) {
        Some(owner) => Table::Owners.update(&owner.key, &members(json!({ "userId": &**by, "incarnation": incarnation }))),
        None => Table::Owners.insert(&members(json!({
            "id": joint_key(&[kind, name]),
            "userId": &**by,
            "resourceType": kind,
            "resourceName": name,
            "incarnation": incarnation,
        }))),
    });
    for entry in directory.acl_on(resource).iter().filter(|entry| entry.is_bound) {
        plan.step(Table::Acl.delete(&entry.key));
        concern(directory, &entry.subject, &mut plan);
    }
    plan.recheck(by);
    plan
}

/// It could not be defined: nobody owns it.
pub(crate) fn disclaimed(directory: &Directory, resource: &Resource) -> Plan {
    let mut plan = Plan::default();
    if let Some(owner) = directory.owner(resource.kind, &resource.name) {
        plan.step(Table::Owners.delete(&owner.key));
        plan.recheck(&owner.user);
    }
    plan
}

/// What was granted before something was there is about it from now on.
pub(crate) fn bound(directory: &Directory, resource: &Resource, incarnation: u64) -> Plan {
    let mut plan = Plan::default();
    for entry in directory.acl_on(resource).into_iter().filter(|entry| !entry.is_bound) {
        plan.step(Table::Acl.update(&entry.key, &about(incarnation)));
    }
    plan
}

fn about(incarnation: u64) -> Map<String, Value> {
    members(json!({ "incarnation": incarnation }))
}

/// What becomes of rights that were kept for a while in which nobody looked after them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Stay,
    /// They are about what is there now.
    Bind(u64),
    /// What they were about is gone, whether or not something else has its name by now.
    Go,
}

/// `is_bound` tells whether they are about something that was there, `incarnation` about which, where that is known.
fn fate(is_bound: bool, incarnation: Option<u64>, now: Option<u64>) -> Fate {
    match (incarnation, now) {
        (Some(then), Some(now)) if then == now => Fate::Stay,
        (Some(_), _) => Fate::Go,
        (None, Some(now)) => Fate::Bind(now),
        (None, None) if is_bound => Fate::Go,
        (None, None) => Fate::Stay,
    }
}

/// The rights on what is not there any more go, though something else may have its name by now; those whose incarnation is
/// not known are about what is there.
pub(crate) fn left_over(directory: &Directory, incarnation_of: &dyn Fn(&Resource) -> Option<u64>) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut look = |table: Table, key: &str, resource: &Resource, is_bound: bool, incarnation: Option<u64>| {
        if !OWNED.contains(&resource.kind) {
            return;
        }
        match fate(is_bound, incarnation, incarnation_of(resource)) {
            Fate::Stay => {}
            Fate::Bind(now) => steps.push(table.update(key, &about(now))),
            Fate::Go => steps.push(table.delete(key)),
        }
    };
    for it in directory.owners() {
        look(Table::Owners, &it.key, &it.resource, true, it.incarnation);
    }
    for it in directory.acl() {
        look(Table::Acl, &it.key, &it.resource, it.is_bound, it.incarnation);
    }
    steps
}

/// Something is not there any more, and with it goes who owned it and who had rights on it.
pub(super) fn removed(directory: &Directory, resource: &Resource) -> Plan {
    let mut plan = disclaimed(directory, resource);
    for entry in directory.acl_on(resource) {
        plan.step(Table::Acl.delete(&entry.key));
        concern(directory, &entry.subject, &mut plan);
    }
    plan
}

/// Whether somebody may say who has which rights on a resource.
pub(crate) fn may_manage(caller: &Caller<'_>, resource: &Resource, operation: Operation) -> bool {
    let (rights, directory) = (&caller.rights, caller.directory);
    rights.may(directory, operation)
        || rights.owns(directory, resource.kind, &resource.name)
        || rights.is_listed(directory, resource.kind, &resource.name, Tier::Admin)
}

fn require_management(caller: &Caller<'_>, resource: &Resource, operation: Operation) -> Result<(), Failure> {
    if may_manage(caller, resource, operation) {
        Ok(())
    } else {
        Err(not_theirs())
    }
}

fn not_theirs() -> Failure {
    Failure::forbidden("Must be the resource owner, admin, or have admin ACL to manage permissions")
}

fn require_subject(directory: &Directory, subject: &Subject) -> Result<(), Failure> {
    let (is_there, missing) = match subject {
        Subject::User(id) => (
            &**id == VIRTUAL_SUPERADMIN || directory.user(id).is_some(),
            "Subject user not found",
        ),
        Subject::Role(id) => (directory.role(id).is_some(), "Subject role not found"),
    };
    if is_there {
        Ok(())
    } else {
        Err(Failure::new(ErrorCode::NotFound, missing))
    }
}

fn concern(directory: &Directory, subject: &Subject, plan: &mut Plan) {
    match subject {
        Subject::User(id) => plan.recheck(id),
        Subject::Role(id) => plan.recheck_all(&directory.holders(id)),
    }
}

fn names(rights: &[Tier]) -> Value {
    rights.iter().map(|right| right.as_str()).collect()
}

/// The kinds of resources that have owners: those that clients define.
const OWNED: [ResourceKind; 2] = [ResourceKind::Bucket, ResourceKind::Query];
