//! What is asked of a directory.

use std::sync::Arc;

use super::{AclEntry, Directory, Id, Ownership, Resource, ResourceKind, Role, StoredSession, Subject, User};
use crate::server::access::TokenDigest;
use crate::server::identity::names::{SUPERADMIN, VIRTUAL_SUPERADMIN, folded};
use crate::store::state::persistent::OrdMap;

impl Directory {
    pub(crate) fn user(&self, id: &str) -> Option<&Arc<User>> {
        self.users.get(id)
    }

    pub(crate) fn user_named(&self, name: &str) -> Option<&Arc<User>> {
        self.users.get(self.users_by_name.get(folded(name).as_str())?)
    }

    /// Users in the order in which they were made.
    pub(crate) fn users(&self) -> impl Iterator<Item = &Arc<User>> {
        self.users_in_order.values().filter_map(|id| self.users.get(id))
    }

    pub(crate) fn user_count(&self) -> usize {
        self.users.len()
    }

    pub(crate) fn role(&self, id: &str) -> Option<&Arc<Role>> {
        self.roles.get(id)
    }

    pub(crate) fn role_named(&self, name: &str) -> Option<&Arc<Role>> {
        self.roles.get(self.roles_by_name.get(name)?)
    }

    /// Roles in the order in which they were made.
    pub(crate) fn roles(&self) -> Vec<&Arc<Role>> {
        let mut roles: Vec<_> = self.roles.values().collect();
        roles.sort_unstable_by_key(|role| role.seq);
        roles
    }

    pub(crate) fn role_count(&self) -> usize {
        self.roles.len()
    }

    /// The roles of a user, in the order in which roles were made.
    pub(crate) fn roles_of(&self, user: &str) -> Vec<&Arc<Role>> {
        if user == VIRTUAL_SUPERADMIN {
            return self.role_named(SUPERADMIN).into_iter().collect();
        }
        let held = self.held.get(user).into_iter().flatten();
        let mut roles: Vec<_> = held.filter_map(|role| self.roles.get(role)).collect();
        roles.sort_unstable_by_key(|role| role.seq);
        roles
    }

    pub(crate) fn role_names(&self, user: &str) -> Vec<String> {
        if user == VIRTUAL_SUPERADMIN {
            return vec![SUPERADMIN.to_owned()];
        }
        self.roles_of(user).into_iter().map(|role| role.name.to_string()).collect()
    }

    pub(crate) fn holds(&self, user: &str, role: &str) -> bool {
        self.held.get(user).is_some_and(|held| held.contains(role))
    }

    pub(crate) fn holds_named(&self, user: &str, role: &str) -> bool {
        if user == VIRTUAL_SUPERADMIN {
            return role == SUPERADMIN;
        }
        self.role_named(role).is_some_and(|role| self.holds(user, &role.id))
    }

    /// The users who hold a role.
    pub(crate) fn holders(&self, role: &str) -> Vec<Id> {
        self.holders.get(role).into_iter().flatten().cloned().collect()
    }

    /// The users who hold the role of superadmin and are not locked out.
    pub(crate) fn superadmins(&self) -> impl Iterator<Item = &Arc<User>> {
        let role = self.role_named(SUPERADMIN).and_then(|role| self.holders.get(&role.id));
        let users = role.into_iter().flatten().filter_map(|id| self.users.get(id));
        users.filter(|user| user.is_enabled)
    }

    pub(crate) fn acl_entry(&self, resource: &Resource, subject: &Subject) -> Option<&Arc<AclEntry>> {
        self.acl_entry_on(resource.kind, &resource.name, subject)
    }

    pub(crate) fn acl_entry_on(&self, kind: ResourceKind, name: &str, subject: &Subject) -> Option<&Arc<AclEntry>> {
        self.acl.get(kind, name)?.get(subject)
    }

    /// The entries on a resource in the order in which they were made.
    pub(crate) fn acl_on(&self, resource: &Resource) -> Vec<&Arc<AclEntry>> {
        let entries = self.acl.get(resource.kind, &resource.name).into_iter();
        let mut entries: Vec<_> = entries.flat_map(OrdMap::values).collect();
        entries.sort_unstable_by_key(|entry| entry.seq);
        entries
    }

    /// The entries of a user or a role in the order in which they were made.
    pub(crate) fn acl_of(&self, subject: &Subject) -> Vec<&Arc<AclEntry>> {
        let resources = self.acl_of.get(subject).into_iter().flatten();
        let mut entries: Vec<_> = resources.filter_map(|resource| self.acl_entry(resource, subject)).collect();
        entries.sort_unstable_by_key(|entry| entry.seq);
        entries
    }

    /// All entries, in no order.
    pub(crate) fn acl(&self) -> impl Iterator<Item = &Arc<AclEntry>> {
        self.acl.values().flat_map(OrdMap::values)
    }

    pub(crate) fn owner(&self, kind: ResourceKind, name: &str) -> Option<&Arc<Ownership>> {
        self.owners.get(kind, name)
    }

    /// All owners, in no order.
    pub(crate) fn owners(&self) -> impl Iterator<Item = &Arc<Ownership>> {
        self.owners.values()
    }

    /// What somebody owns.
    pub(crate) fn owned(&self, user: &str) -> impl Iterator<Item = &Resource> {
        self.owned.get(user).into_iter().flatten()
    }

    pub(crate) fn session(&self, id: &str) -> Option<&Arc<StoredSession>> {
        self.sessions.get(id)
    }

    pub(crate) fn session_of_token(&self, token: &TokenDigest) -> Option<&Arc<StoredSession>> {
        self.sessions.get(self.sessions_by_token.get(token)?)
    }

    /// The sessions of a user, the oldest first.
    pub(crate) fn sessions_of(&self, user: &str) -> Vec<&Arc<StoredSession>> {
        let ids = self.sessions_of.get(user).into_iter().flatten();
        let mut sessions: Vec<_> = ids.filter_map(|id| self.sessions.get(id)).collect();
        sessions.sort_unstable_by_key(|session| (session.logged_in_at, session.seq));
        sessions
    }

    pub(crate) fn sessions(&self) -> impl Iterator<Item = &Arc<StoredSession>> {
        self.sessions.values()
    }
}
