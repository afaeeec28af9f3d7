//! What users may do: by entries of the access list, by what they own, and by what their roles allow.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use arc_swap::ArcSwap;
use serde_json::{Map, Value};

use super::directory::{Directory, Resource, ResourceKind, Role, Subject};
use super::names::SUPERADMIN;
use crate::protocol::{Operation, Tier, Touches};
use crate::server::access::{Allowance, Asked, Grant, Principal, Rights, Scope, Target, best};

/// What can be asked of events and facts.
const TOPIC_OPERATIONS: [&str; 15] = [
    "rules.getFact",
    "rules.queryFacts",
    "rules.getAllFacts",
    "rules.subscribe",
    "rules.emit",
    "rules.setFact",
    "rules.deleteFact",
    "rules.registerRule",
    "rules.unregisterRule",
    "rules.updateRule",
    "rules.enableRule",
    "rules.disableRule",
    "rules.getRule",
    "rules.getRules",
    "rules.validateRule",
];
/// What can be asked of stored procedures.
const PROCEDURE_OPERATIONS: [&str; 6] = [
    "procedures.get",
    "procedures.call",
    "procedures.register",
    "procedures.unregister",
    "procedures.update",
    "procedures.list",
];

/// What somebody may do, by the directory of one moment.
#[derive(Debug)]
pub(crate) struct UserRights {
    user: Arc<str>,
    is_superadmin: bool,
    /// They themselves and their roles.
    subjects: Vec<Subject>,
    /// What their roles allow them.
    allowances: Vec<Allowance>,
    /// The same, whoever holds them.
    grants: Vec<Arc<Grant>>,
}

impl UserRights {
    /// What a user may do.
    pub(crate) fn of(directory: &Directory, user: &str) -> Self {
        let user: Arc<str> = user.into();
        let roles = directory.roles_of(&user);
        let mut subjects = vec![Subject::User(Arc::clone(&user))];
        subjects.extend(roles.iter().map(|role| Subject::Role(Arc::clone(&role.id))));
        let principal = directory.principal(&user, None);
        let grants: Vec<_> = roles.iter().flat_map(|role| &role.grants).cloned().collect();
        Self {
            is_superadmin: directory.holds_named(&user, SUPERADMIN),
            user,
            subjects,
            allowances: grants.iter().filter_map(|grant| grant.for_principal(&principal)).collect(),
            grants,
        }
    }

    /// What whoever is not logged in may do: nothing.
    pub(crate) fn of_nobody() -> Self {
        Self {
            user: "".into(),
            is_superadmin: false,
            subjects: Vec::new(),
            allowances: Vec::new(),
            grants: Vec::new(),
        }
    }

    pub(crate) fn is_superadmin(&self) -> bool {
        self.is_superadmin
    }

    /// With how much of a target something may be done, if at all.
    pub(crate) fn scope(&self, directory: &Directory, asked: Asked<'_>, target: &Target<'_>) -> Option<Scope> {
        if self.is_superadmin {
            return Some(Scope::Everything);
        }
        let by_role = best::scope(&self.allowances, asked, target);
        if by_role == Some(Scope::Everything) {
            return by_role;
        }
        match resource(asked, target) {
            Some((kind, name)) if self.is_allowed_on(directory, asked, kind, name) => Some(Scope::Everything),
            Some(_) | None => by_role,
        }
    }

    /// Whether the access list, or owning it, allows something on a resource.
    fn is_allowed_on(&self, directory: &Directory, asked: Asked<'_>, kind: ResourceKind, name: &str) -> bool {
        let is_listed = asked.tier().is_some_and(|tier| self.is_listed(directory, kind, name, tier));
        is_listed || self.owns(directory, kind, name)
    }

    pub(crate) fn is_listed(&self, directory: &Directory, kind: ResourceKind, name: &str, tier: Tier) -> bool {
        let entry = |subject| directory.acl_entry_on(kind, name, subject);
        self.subjects.iter().filter_map(entry).any(|entry| entry.allows(tier))
    }

    pub(crate) fn owns(&self, directory: &Directory, kind: ResourceKind, name: &str) -> bool {
        let owner = directory.owner(kind, name);
        !self.user.is_empty() && owner.is_some_and(|ownership| ownership.user == self.user)
    }

    /// Whether an operation on no single thing is allowed.
    pub(crate) fn may(&self, directory: &Directory, operation: Operation) -> bool {
        self.scope(directory, operation.into(), &Target::Server).is_some()
    }

    /// Whether everything that a right on a resource allows is theirs, so that they may hand it on.
    pub(crate) fn has_all(&self, directory: &Directory, resource: &Resource, right: Tier) -> bool {
        let name = &*resource.name;
        let all = |names: &[&'static str], target: &Target<'_>| {
            names
                .iter()
                .map(|name| Asked::named(name))
                .filter(|asked| asked.tier().is_some_and(|tier| tier <= right))
                .all(|asked| self.scope(directory, asked, target) == Some(Scope::Everything))
        };
        match resource.kind {
            ResourceKind::Bucket => all(&bucket_operations(), &Target::Bucket(name)),
            ResourceKind::Topic => all(&TOPIC_OPERATIONS, &Target::Topic(name)),
            ResourceKind::Procedure => all(&PROCEDURE_OPERATIONS, &Target::Procedure(name)),
            // Owning a query allows nothing but to hand it on: nothing is gained by it for whoever may remove any query.
            ResourceKind::Query => {
                self.owns(directory, resource.kind, name) || {
                    let any = Target::Query { name, bucket: None };
                    self.scope(directory, Operation::StoreUndefineQuery.into(), &any) == Some(Scope::Everything)
                }
            }
        }
    }

    /// Whether all that an account holds, or would hold, is theirs, so that they gain nothing by taking it over or by making
    /// it what it would be.
    pub(crate) fn has_account(&self, directory: &Directory, account: &Account<'_>) -> bool {
        let user = account.principal.user_id.as_str();
        self.is_superadmin
            || (account.roles.iter().all(|role| self.has_role(directory, role, &account.principal))
                && self.has_listed(directory, &Subject::User(user.into()))
                && directory.owned(user).all(|resource| self.has_all(directory, resource, Tier::Admin)))
    }

    /// Whether all that a role allows somebody who holds it is theirs.
    fn has_role(&self, directory: &Directory, role: &Role, holder: &Principal) -> bool {
        // What cannot be understood allows nothing today; it may tomorrow.
        role.permissions.len() == role.grants.len()
            && role.grants.iter().all(|grant| self.has_grant(grant, holder))
            && self.has_listed(directory, &Subject::Role(Arc::clone(&role.id)))
    }

    /// The same rule for rows stands for other rows where it refers to the session: compared is what it stands for.
    fn has_grant(&self, grant: &Arc<Grant>, holder: &Principal) -> bool {
        match grant.for_principal(holder) {
            Some(allowance) => allowance.as_ref().is_within(&self.allowances),
            // Their session lacks a value. It allows nothing today; it may tomorrow.
            None => grant.is_within(&self.grants),
        }
    }

    fn has_listed(&self, directory: &Directory, subject: &Subject) -> bool {
        directory
            .acl_of(subject)
            .into_iter()
            .all(|entry| entry.rights.iter().all(|right| self.has_all(directory, &entry.resource, *right)))
    }
}

/// What an account holds, or would hold after a change.
pub(crate) struct Account<'d> {
    principal: Principal,
    roles: Vec<&'d Arc<Role>>,
}

impl<'d> Account<'d> {
    /// As it is.
    pub(crate) fn of(directory: &'d Directory, user: &str) -> Self {
        Self {
            principal: directory.principal(user, None),
            roles: directory.roles_of(user),
        }
    }

    /// As it would be with another role.
    pub(crate) fn with_role(mut self, role: &'d Arc<Role>) -> Self {
        let at = self.roles.partition_point(|other| other.seq < role.seq);
        self.roles.insert(at, role);
        self.named()
    }

    /// As it would be without a role.
    pub(crate) fn without_role(mut self, role: &Role) -> Self {
        self.roles.retain(|other| other.id != role.id);
        self.named()
    }

    /// As it would be with other metadata.
    pub(crate) fn with_metadata(mut self, metadata: Map<String, Value>) -> Self {
        self.principal.metadata = metadata;
        self
    }

    fn named(mut self) -> Self {
        self.principal.roles = self.roles.iter().map(|role| role.name.to_string()).collect();
        self
    }
}

/// The operations on one bucket.
fn bucket_operations() -> Vec<&'static str> {
    let on_bucket = |operation: &&Operation| match operation.touches() {
        Touches::Bucket | Touches::NamedBucket | Touches::Query | Touches::QueryOrBucket | Touches::NamedQuery | Touches::NewQuery => true,
        Touches::Steps | Touches::Visible | Touches::Server | Touches::Own | Touches::Session | Touches::Identity => false,
    };
    Operation::ALL.iter().filter(on_bucket).map(|operation| operation.name()).collect()
}

/// The resource that an access list would name.
fn resource<'t>(asked: Asked<'_>, target: &'t Target<'_>) -> Option<(ResourceKind, &'t str)> {
    let family = asked.name.split_once('.')?.0;
    match (family, target) {
        ("store", Target::Bucket(name) | Target::Query { bucket: Some(name), .. }) => Some((ResourceKind::Bucket, name)),
        ("rules", Target::Topic(name)) => Some((ResourceKind::Topic, name)),
        ("procedures", Target::Procedure(name)) => Some((ResourceKind::Procedure, name)),
        _ => None,
    }
}

/// The rights of one login: what roles allow is worked out once, what lists and owners say is looked up.
pub(crate) struct IdentityRights {
    pub(crate) directory: Arc<ArcSwap<Directory>>,
    pub(crate) rights: UserRights,
    /// Whether somebody is logged in.
    pub(crate) is_somebody: bool,
}

impl IdentityRights {
    fn scope(&self, asked: Asked<'_>, target: &Target<'_>) -> Option<Scope> {
        // The handlers of these judge themselves, by what is known when they are carried out.
        if self.is_somebody && asked.name.starts_with("identity.") {
            return Some(Scope::Everything);
        }
        self.rights.scope(&self.directory.load(), asked, target)
    }
}

impl Rights for IdentityRights {
    fn judge(&self, asked: Asked<'_>, target: &Target<'_>) -> Result<Scope, String> {
        let scope = self.scope(asked, target).ok_or_else(|| refusal(asked, target))?;
        match target.bucket().filter(|bucket| bucket.starts_with('_')) {
            // Not even a superadmin: what is in there is worth more than any right to read.
            Some(bucket) => Err(format!("Cannot access system bucket \"{bucket}\" directly")),
            None => Ok(scope),
        }
    }

    fn judge_visible(&self, asked: Asked<'_>) -> Result<(), String> {
        if self.rights.is_superadmin || best::shows_some(&self.rights.allowances, asked) {
            Ok(())
        } else {
            Err(refusal(asked, &Target::Server))
        }
    }

    /// Its elements decide.
    fn judge_transaction(&self, _reads_only: bool) -> Result<(), String> {
        Ok(())
    }

    fn judge_step(&self, operation: Operation, bucket: &str) -> Result<Scope, String> {
        let (asked, target) = (Asked::from(operation), Target::Bucket(bucket));
        self.scope(asked, &target)
            .or_else(|| best::steps(&self.rights.allowances, bucket))
            .ok_or_else(|| refusal(asked, &target))
            .and_then(|scope| {
                if bucket.starts_with('_') {
                    Err(format!("Cannot access system bucket \"{bucket}\" in transaction"))
                } else {
                    Ok(scope)
                }
            })
    }
}

/// What is told where something is not allowed.
pub(crate) fn refusal(asked: Asked<'_>, target: &Target<'_>) -> String {
    format!("No access to {} on {target}", asked.name)
}
