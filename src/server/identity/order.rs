//! What somebody wants changed, as plain data: all that is random or takes time is done before.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::directory::{Resource, Subject};
use crate::protocol::{ConnectionId, Tier};
use crate::server::access::{Secret, TokenDigest};
use crate::store::Operation;

/// A change, and who wants it.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    /// The user who wants it. Logins are wanted by those who are to be logged in.
    pub(crate) by: Arc<str>,
    /// The connection that it came by.
    pub(crate) connection: Option<ConnectionId>,
    pub(crate) change: Change,
}

/// What is to become of a field that may be absent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Setting<T> {
    Keep,
    Clear,
    Set(T),
}

impl<T> Setting<T> {
    pub(crate) const fn is_change(&self) -> bool {
        match self {
            Self::Keep => false,
            Self::Clear | Self::Set(_) => true,
        }
    }

    /// What it is to be, if anything, where it is to be another one.
    pub(crate) const fn after(&self) -> Option<Option<&T>> {
        match self {
            Self::Keep => None,
            Self::Clear => Some(None),
            Self::Set(value) => Some(Some(value)),
        }
    }
}

/// What a user tells of themselves.
#[derive(Clone, Debug)]
pub(crate) struct Profile {
    pub(crate) display_name: Setting<String>,
    pub(crate) email: Setting<String>,
    pub(crate) metadata: Setting<Map<String, Value>>,
}

/// A session that is to begin.
#[derive(Clone, Debug)]
pub(crate) struct NewSession {
    pub(crate) id: Arc<str>,
    pub(crate) token: TokenDigest,
    pub(crate) address: String,
}

/// A password that was found right.
#[derive(Clone, Debug)]
pub(crate) struct Proof {
    /// The hash that it was found right by. If it is another one by now, the proof is worth nothing.
    pub(crate) hash: Secret,
    /// The hash to take its place.
    pub(crate) rehashed: Option<Secret>,
}

/// A user who is to be made.
#[derive(Clone, Debug)]
pub(crate) struct NewUser {
    pub(crate) id: Arc<str>,
    pub(crate) name: String,
    pub(crate) hash: Secret,
    pub(crate) is_enabled: bool,
    pub(crate) profile: Profile,
}

/// A role that is to be made.
#[derive(Clone, Debug)]
pub(crate) struct NewRole {
    pub(crate) id: Arc<str>,
    pub(crate) name: String,
    pub(crate) description: Option<String>,
    pub(crate) permissions: Vec<Value>,
}

/// A password that is to take the place of another one, and the token of the session that goes on.
#[derive(Clone, Debug)]
pub(crate) struct NewPassword {
    /// The hash that the old password was found right by. If it is another one by now, nothing happens.
    pub(crate) proven: Secret,
    pub(crate) hash: Secret,
    pub(crate) session: Arc<str>,
    pub(crate) old: TokenDigest,
    pub(crate) new: TokenDigest,
}

/// An entry of the access list, by whom it is for and what it is about.
#[derive(Clone, Debug)]
pub(crate) struct AclAddress {
    pub(crate) subject: Subject,
    pub(crate) resource: Resource,
}

/// Something that is wanted.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// A login with name and password.
    OpenSession {
        session: NewSession,
        proof: Proof,
    },
    /// A login with the secret of the configuration.
    OpenBootstrapSession {
        session: NewSession,
    },
    /// Another token for a session.
    RotateToken {
        session: Arc<str>,
        old: TokenDigest,
        new: TokenDigest,
    },
    CloseSession {
        session: Arc<str>,
    },
    /// Ends all sessions of a user, as the embedding program wants.
    CloseSessions {
        user: Arc<str>,
    },
    /// Forgets sessions whose time is over.
    PurgeSessions,
    CreateUser(NewUser),
    UpdateUser {
        user: Arc<str>,
        profile: Profile,
    },
    DeleteUser {
        user: Arc<str>,
    },
    SetEnabled {
        user: Arc<str>,
        enabled: bool,
    },
    /// Another password for oneself; the session that wants it goes on under another token.
    ReplacePassword(NewPassword),
    ResetPassword {
        user: Arc<str>,
        hash: Secret,
    },
    CreateRole(NewRole),
    UpdateRole {
        role: Arc<str>,
        description: Setting<String>,
        permissions: Option<Vec<Value>>,
    },
    DeleteRole {
        role: Arc<str>,
    },
    AssignRole {
        user: Arc<str>,
        role: String,
    },
    RemoveRole {
        user: Arc<str>,
        role: String,
    },
    Grant {
        entry: AclAddress,
        rights: Vec<Tier>,
    },
    /// Takes rights away; all of them where none are named.
    Revoke {
        entry: AclAddress,
        rights: Option<Vec<Tier>>,
    },
    TransferOwner {
        resource: Resource,
        to: Arc<str>,
    },
    /// Something that has an owner is defined, by an operation of the store, as an incarnation of its name that there was
    /// never before.
    Define {
        operation: Operation,
        resource: Resource,
        incarnation: u64,
    },
    /// Something that has an owner is removed, by an operation of the store.
    Remove {
        operation: Operation,
        resource: Resource,
    },
}
