//! All that is known of users, roles, rights and sessions, as one value that versions share.
//!
//! It follows the records of the guarded buckets one by one: [`Directory::put`] and [`Directory::remove`] are all that
//! changes it, at the start and after every commit alike. A record that makes no sense is as good as none.

mod questions;
mod rows;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

pub(crate) use self::rows::{
    AclEntry, Ownership, PERMISSIONS_MAX, Resource, ResourceKind, Role, StoredSession, Subject, User, parse_right,
};
use self::rows::{AclRow, AssignmentRow, OwnerRow, RoleRow, SessionRow, UserRow};
use super::names::folded;
use super::tables::Table;
use crate::protocol::Record;
use crate::server::access::{Grant, Principal, TokenDigest};
use crate::store::state::persistent::{OrdMap, OrdSet};

type Id = Arc<str>;

/// A map from resources, by kind and name.
#[derive(Clone, Debug)]
struct ByResource<T>([OrdMap<Id, T>; 4]);

impl<T> Default for ByResource<T> {
    fn default() -> Self {
        Self([OrdMap::new(), OrdMap::new(), OrdMap::new(), OrdMap::new()])
    }
}

impl<T: Clone> ByResource<T> {
    fn get(&self, kind: ResourceKind, name: &str) -> Option<&T> {
        self.0[kind as usize].get(name)
    }

    fn map(&mut self, kind: ResourceKind) -> &mut OrdMap<Id, T> {
        &mut self.0[kind as usize]
    }

    fn values(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flat_map(OrdMap::values)
    }
}

/// All that is known of users, roles, rights and sessions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Directory {
    /// Rises whenever anybody's rights, or the standing of anybody's session, may have changed.
    pub(crate) version: u64,
    next_seq: u64,
    users: OrdMap<Id, Arc<User>>,
    users_by_name: OrdMap<Id, Id>,
    users_in_order: OrdMap<u64, Id>,
    roles: OrdMap<Id, Arc<Role>>,
    roles_by_name: OrdMap<Id, Id>,
    /// The roles of users, and the users of roles.
    held: OrdMap<Id, OrdSet<Id>>,
    holders: OrdMap<Id, OrdSet<Id>>,
    /// What the keys of assignments stand for: a user and a role.
    assignments: OrdMap<Id, (Id, Id)>,
    acl: ByResource<OrdMap<Subject, Arc<AclEntry>>>,
    acl_of: OrdMap<Subject, OrdSet<Resource>>,
    acl_by_key: OrdMap<Id, (Resource, Subject)>,
    owners: ByResource<Arc<Ownership>>,
    owned: OrdMap<Id, OrdSet<Resource>>,
    owners_by_key: OrdMap<Id, Resource>,
    sessions: OrdMap<Id, Arc<StoredSession>>,
    sessions_by_token: OrdMap<TokenDigest, Id>,
    sessions_of: OrdMap<Id, OrdSet<Id>>,
}

/// Why a record is left out.
#[derive(Debug)]
pub(crate) struct Malformed(pub(crate) String);

impl Directory {
    /// Takes up a record as it is stored by now. `now` is when a session that nobody knew yet counts as used.
    ///
    /// # Errors
    /// Where it makes no sense; then it is as if there were none.
    pub(crate) fn put(&mut self, table: Table, record: &Record, now: u64) -> Result<(), Malformed> {
        match table {
            Table::Users => self.put_user(parsed(record)?),
            Table::Roles => self.put_role(parsed(record)?),
            Table::Assignments => {
                self.put_assignment(parsed(record)?);
                Ok(())
            }
            Table::Acl => self.put_acl(parsed(record)?),
            Table::Sessions => self.put_session(parsed(record)?, now),
            Table::Owners => self.put_owner(parsed(record)?),
        }
    }

    /// Forgets a record.
    pub(crate) fn remove(&mut self, table: Table, key: &str) {
        match table {
            Table::Users => self.remove_user(key),
            Table::Roles => self.remove_role(key),
            Table::Assignments => self.remove_assignment(key),
            Table::Acl => self.remove_acl(key),
            Table::Sessions => self.remove_session(key),
            Table::Owners => self.remove_owner(key),
        }
    }

    fn place(&mut self) -> u64 {
        self.next_seq += 1;
        self.next_seq
    }

    fn put_user(&mut self, row: UserRow) -> Result<(), Malformed> {
        let id: Id = row.id.into();
        let name: Id = folded(&row.username).into();
        if self.users_by_name.get(&name).is_some_and(|other| *other != id) {
            return Err(Malformed(format!("user \"{id}\" has the name of another one")));
        }
        let before = self.users.get(&id).cloned();
        if let Some(before) = &before {
            self.users_by_name.remove(folded(&before.name).as_str());
        }
        let seq = before.map_or_else(|| self.place(), |before| before.seq);
        let user = User {
            id: Arc::clone(&id),
            seq,
            name: row.username,
            password: row.password_hash.into(),
            display_name: row.display_name,
            email: row.email,
            is_enabled: row.enabled,
            metadata: row.metadata,
            has_proven_password: row.has_proven_password == Some(true),
            created_at: row.created_at,
            updated_at: row.updated_at,
        };
        self.users_by_name.insert(name, Arc::clone(&id));
        self.users_in_order.insert(seq, Arc::clone(&id));
        self.users.insert(Arc::clone(&id), Arc::new(user));
        self.describe_sessions(&id);
        Ok(())
    }

    fn remove_user(&mut self, id: &str) {
        if let Some(user) = self.users.remove(id) {
            self.users_by_name.remove(folded(&user.name).as_str());
            self.users_in_order.remove(&user.seq);
        }
    }

    fn put_role(&mut self, row: RoleRow) -> Result<(), Malformed> {
        let (id, name): (Id, Id) = (row.id.into(), row.name.into());
        if self.roles_by_name.get(&name).is_some_and(|other| *other != id) {
            return Err(Malformed(format!("role \"{id}\" has the name of another one")));
        }
        let before = self.roles.get(&id).cloned();
        if let Some(before) = &before {
            self.roles_by_name.remove(&before.name);
        }
        let seq = before.map_or_else(|| self.place(), |before| before.seq);
        let role = Role {
            grants: understood(&name, &row.permissions),
            id: Arc::clone(&id),
            seq,
            name: Arc::clone(&name),
            description: row.description,
            is_system: row.system,
            permissions: row.permissions,
            created_at: row.created_at,
            updated_at: row.updated_at,
        };
        self.roles_by_name.insert(name, Arc::clone(&id));
        self.roles.insert(Arc::clone(&id), Arc::new(role));
        self.describe_sessions_of_holders(&id);
        Ok(())
    }

    fn remove_role(&mut self, id: &str) {
        if let Some(role) = self.roles.remove(id) {
            self.roles_by_name.remove(&role.name);
            self.describe_sessions_of_holders(id);
        }
    }

    fn put_assignment(&mut self, row: AssignmentRow) {
        let key: Id = row.id.into();
        let (user, role): (Id, Id) = (row.user_id.into(), row.role_id.into());
        self.held.entry(Arc::clone(&user)).or_default().insert(Arc::clone(&role));
        self.holders.entry(Arc::clone(&role)).or_default().insert(Arc::clone(&user));
        self.describe_sessions(&user);
        self.assignments.insert(key, (user, role));
    }

    fn remove_assignment(&mut self, key: &str) {
        if let Some((user, role)) = self.assignments.remove(key) {
            take_out(&mut self.held, &user, &role);
            take_out(&mut self.holders, &role, &user);
            self.describe_sessions(&user);
        }
    }

    fn put_acl(&mut self, row: AclRow) -> Result<(), Malformed> {
        let subject = Subject::parse(&row.subject_type, &row.subject_id);
        let kind = ResourceKind::parse(&row.resource_type);
        let (Some(subject), Some(kind)) = (subject, kind) else {
            return Err(Malformed("neither a subject nor a resource".to_owned()));
        };
        let resource = Resource {
            kind,
            name: row.resource_name.into(),
        };
        let key: Id = row.id.into();
        let before = self.acl_entry(&resource, &subject).map(|entry| entry.seq);
        let seq = before.unwrap_or_else(|| self.place());
        let mut rights = Vec::new();
        for name in &row.operations {
            let right = parse_right(name).ok_or_else(|| Malformed(format!("unknown right \"{name}\"")))?;
            if !rights.contains(&right) {
                rights.push(right);
            }
        }
        let entry = AclEntry {
            key: Arc::clone(&key),
            seq,
            subject: subject.clone(),
            resource: resource.clone(),
            rights,
            is_bound: row.bound == Some(true) || row.incarnation.is_some(),
            incarnation: row.incarnation,
        };
        let of_resource = self.acl.map(kind).entry(Arc::clone(&resource.name)).or_default();
        of_resource.insert(subject.clone(), Arc::new(entry));
        self.acl_of.entry(subject.clone()).or_default().insert(resource.clone());
        self.acl_by_key.insert(key, (resource, subject));
        Ok(())
    }

    fn remove_acl(&mut self, key: &str) {
        let Some((resource, subject)) = self.acl_by_key.remove(key) else {
            return;
        };
        let map = self.acl.map(resource.kind);
        if let Some(entries) = map.get_mut(&resource.name) {
            entries.remove(&subject);
            if entries.is_empty() {
                map.remove(&resource.name);
            }
        }
        take_out(&mut self.acl_of, &subject, &resource);
    }

    fn put_owner(&mut self, row: OwnerRow) -> Result<(), Malformed> {
        let kind = ResourceKind::parse(&row.resource_type).ok_or_else(|| Malformed("no kind of resource".to_owned()))?;
        let resource = Resource {
            kind,
            name: row.resource_name.into(),
        };
        let (key, user): (Id, Id) = (row.id.into(), row.user_id.into());
        if let Some(before) = self.owner(kind, &resource.name).cloned() {
            take_out(&mut self.owned, &before.user, &resource);
        }
        self.owned.entry(Arc::clone(&user)).or_default().insert(resource.clone());
        self.owners_by_key.insert(Arc::clone(&key), resource.clone());
        let name = Arc::clone(&resource.name);
        let ownership = Ownership {
            key,
            user,
            resource,
            incarnation: row.incarnation,
        };
        self.owners.map(kind).insert(name, Arc::new(ownership));
        Ok(())
    }

    fn remove_owner(&mut self, key: &str) {
        let Some(resource) = self.owners_by_key.remove(key) else { return };
        if let Some(ownership) = self.owners.map(resource.kind).remove(&resource.name) {
            take_out(&mut self.owned, &ownership.user, &resource);
        }
    }

    fn put_session(&mut self, row: SessionRow, now: u64) -> Result<(), Malformed> {
        let token = super::tokens::read_digest(&row.token_hash).ok_or_else(|| Malformed("no digest of a token".to_owned()))?;
        let (id, user): (Id, Id) = (row.id.into(), row.user_id.into());
        let before = self.sessions.get(&id).cloned();
        if let Some(before) = &before {
            self.sessions_by_token.remove(&before.token);
        }
        let (seq, used_at) = match before {
            Some(before) => (before.seq, Arc::clone(&before.used_at)),
            None => (self.place(), Arc::new(AtomicU64::new(now))),
        };
        let session = StoredSession {
            id: Arc::clone(&id),
            seq,
            principal: Arc::new(self.principal(&user, Some(row.expires_at))),
            user: Arc::clone(&user),
            token,
            former: None,
            logged_in_at: row.logged_in_at,
            expires_at: row.expires_at,
            used_at,
        };
        self.sessions_by_token.insert(token, Arc::clone(&id));
        self.sessions_of.entry(user).or_default().insert(Arc::clone(&id));
        self.sessions.insert(id, Arc::new(session));
        Ok(())
    }

    fn remove_session(&mut self, id: &str) {
        if let Some(session) = self.sessions.remove(id) {
            self.sessions_by_token.remove(&session.token);
            take_out(&mut self.sessions_of, &session.user, &session.id);
        }
    }

    /// Lets the connections that came by the former token of a session go on, until [`Directory::retire`].
    pub(crate) fn tolerate(&mut self, session: &str, former: TokenDigest) {
        self.change_session(session, |session| session.former = Some(former));
    }

    /// The former token of a session is worth nothing any more.
    pub(crate) fn retire(&mut self, session: &str) {
        self.change_session(session, |session| session.former = None);
    }

    fn change_session(&mut self, id: &str, change: impl FnOnce(&mut StoredSession)) {
        if let Some(session) = self.sessions.get_mut(id) {
            change(Arc::make_mut(session));
        }
    }

    /// The sessions of a user say who they are by now.
    fn describe_sessions(&mut self, user: &str) {
        let ids: Vec<Id> = self.sessions_of.get(user).into_iter().flatten().cloned().collect();
        for id in ids {
            let Some(expires_at) = self.sessions.get(&id).map(|session| session.expires_at) else {
                continue;
            };
            let principal = self.principal(user, Some(expires_at));
            self.change_session(&id, |session| {
                // Connections tell by the pointer whether anything has changed.
                if *session.principal != principal {
                    session.principal = Arc::new(principal);
                }
            });
        }
    }

    fn describe_sessions_of_holders(&mut self, role: &str) {
        for user in self.holders(role) {
            self.describe_sessions(&user);
        }
    }

    /// Who a user is, as permissions see it.
    pub(crate) fn principal(&self, user: &str, expires_at: Option<u64>) -> Principal {
        let metadata = self.user(user).and_then(|user| user.metadata.clone());
        Principal {
            user_id: user.to_owned(),
            roles: self.role_names(user),
            metadata: metadata.unwrap_or_default(),
            expires_at,
        }
    }
}

fn parsed<T: DeserializeOwned>(record: &Record) -> Result<T, Malformed> {
    // What is wrong is told without the values, which may be secret.
    record
        .parse()
        .map_err(|error| Malformed(format!("{:?} at column {}", error.classify(), error.column())))
}

/// The permissions of a role that make sense.
fn understood(role: &str, permissions: &[Value]) -> Vec<Arc<Grant>> {
    let none = Map::new();
    let parse = |permission: &Value| match Grant::parse(permission.as_object().unwrap_or(&none), &[]) {
        Ok(grant) => Some(Arc::new(grant)),
        Err(faults) => {
            tracing::error!(role, ?faults, "a stored permission makes no sense and allows nothing");
            None
        }
    };
    permissions.iter().filter_map(parse).collect()
}

fn take_out<K, V, Q>(map: &mut OrdMap<K, OrdSet<V>>, key: &Q, value: &V)
where
    K: Ord + Clone + std::borrow::Borrow<Q>,
    Q: Ord + ?Sized,
    V: Ord + Clone,
{
    if let Some(set) = map.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            map.remove(key);
        }
    }
}
