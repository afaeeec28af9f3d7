//! What is known of users, roles, rights and sessions, each as its record says it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::protocol::Tier;
use crate::server::access::{Grant, Principal, Secret, TokenDigest};

/// The most permission objects of a role.
pub(crate) const PERMISSIONS_MAX: usize = 64;

/// A user.
#[derive(Clone, Debug)]
pub(crate) struct User {
    pub(crate) id: Arc<str>,
    /// The place in the order in which users were made.
    pub(crate) seq: u64,
    pub(crate) name: String,
    pub(crate) password: Secret,
    pub(crate) display_name: Option<String>,
    pub(crate) email: Option<String>,
    pub(crate) is_enabled: bool,
    pub(crate) metadata: Option<Map<String, Value>>,
    /// Whether they have logged in with a password as a superadmin.
    pub(crate) has_proven_password: bool,
    pub(crate) created_at: u64,
    pub(crate) updated_at: u64,
}

impl User {
    /// What those who may see users are told of one.
    pub(crate) fn info(&self) -> Value {
        let mut info = Map::new();
        info.insert("id".to_owned(), json!(&*self.id));
        info.insert("username".to_owned(), json!(self.name));
        if let Some(display_name) = &self.display_name {
            info.insert("displayName".to_owned(), json!(display_name));
        }
        if let Some(email) = &self.email {
            info.insert("email".to_owned(), json!(email));
        }
        info.insert("enabled".to_owned(), json!(self.is_enabled));
        if let Some(metadata) = &self.metadata {
            info.insert("metadata".to_owned(), json!(metadata));
        }
        info.insert("_createdAt".to_owned(), json!(self.created_at));
        info.insert("_updatedAt".to_owned(), json!(self.updated_at));
        Value::Object(info)
    }
}

/// A role.
#[derive(Clone, Debug)]
pub(crate) struct Role {
    pub(crate) id: Arc<str>,
    /// The place in the order in which roles were made.
    pub(crate) seq: u64,
    pub(crate) name: Arc<str>,
    pub(crate) description: Option<String>,
    pub(crate) is_system: bool,
    pub(crate) permissions: Vec<Value>,
    /// The permissions, those that can be understood.
    pub(crate) grants: Vec<Arc<Grant>>,
    pub(crate) created_at: u64,
    pub(crate) updated_at: u64,
}

impl Role {
    /// What those who may see roles are told of one.
    pub(crate) fn info(&self) -> Value {
        let mut info = Map::new();
        info.insert("id".to_owned(), json!(&*self.id));
        info.insert("name".to_owned(), json!(&*self.name));
        if let Some(description) = &self.description {
            info.insert("description".to_owned(), json!(description));
        }
        info.insert("system".to_owned(), json!(self.is_system));
        info.insert("permissions".to_owned(), json!(self.permissions));
        info.insert("_createdAt".to_owned(), json!(self.created_at));
        info.insert("_updatedAt".to_owned(), json!(self.updated_at));
        Value::Object(info)
    }
}

/// What rights can be given on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ResourceKind {
    Bucket,
    Topic,
    Procedure,
    Query,
}

impl ResourceKind {
    pub(crate) const ALL: [Self; 4] = [Self::Bucket, Self::Topic, Self::Procedure, Self::Query];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Bucket => "bucket",
            Self::Topic => "topic",
            Self::Procedure => "procedure",
            Self::Query => "query",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// What rights are given on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Resource {
    pub(crate) kind: ResourceKind,
    pub(crate) name: Arc<str>,
}

impl Resource {
    pub(crate) fn new(kind: ResourceKind, name: &str) -> Self {
        Self { kind, name: name.into() }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} \"{}\"", self.kind.as_str(), self.name)
    }
}

/// Whom rights are given to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    /// A user, by id.
    User(Arc<str>),
    /// Whoever holds a role, by its id.
    Role(Arc<str>),
}

impl Subject {
    pub(crate) const fn kind(&self) -> &'static str {
        match self {
            Self::User(_) => "user",
            Self::Role(_) => "role",
        }
    }

    pub(crate) const fn id(&self) -> &Arc<str> {
        match self {
            Self::User(id) | Self::Role(id) => id,
        }
    }

    pub(crate) fn parse(kind: &str, id: &str) -> Option<Self> {
        match kind {
            "user" => Some(Self::User(id.into())),
            "role" => Some(Self::Role(id.into())),
            _ => None,
        }
    }
}

/// The right of an entry of that name.
pub(crate) fn parse_right(name: &str) -> Option<Tier> {
    [Tier::Read, Tier::Write, Tier::Admin]
        .into_iter()
        .find(|tier| tier.as_str() == name)
}

/// Rights of somebody on something.
#[derive(Clone, Debug)]
pub(crate) struct AclEntry {
    pub(crate) key: Arc<str>,
    pub(crate) seq: u64,
    pub(crate) subject: Subject,
    pub(crate) resource: Resource,
    /// As they were given, without repetition. Each holds those below it.
    pub(crate) rights: Vec<Tier>,
    /// Whether the resource was there at some time since the entry is. If it is not there any more, the entry is left
    /// over.
    pub(crate) is_bound: bool,
    /// Which of all that have ever had the name it is about, where it is bound; none in entries from before that was kept.
    pub(crate) incarnation: Option<u64>,
}

impl AclEntry {
    pub(crate) fn allows(&self, tier: Tier) -> bool {
        self.rights.iter().any(|right| *right >= tier)
    }
}

/// Whose something is.
#[derive(Clone, Debug)]
pub(crate) struct Ownership {
    pub(crate) key: Arc<str>,
    pub(crate) user: Arc<str>,
    pub(crate) resource: Resource,
    /// Which of all that have ever had the name is theirs; none in records from before that was kept.
    pub(crate) incarnation: Option<u64>,
}

/// A session: what a token stands for.
#[derive(Clone, Debug)]
pub(crate) struct StoredSession {
    pub(crate) id: Arc<str>,
    pub(crate) seq: u64,
    pub(crate) user: Arc<str>,
    pub(crate) token: TokenDigest,
    /// The token that this one has taken the place of, as long as the connection that asked for it was not told.
    pub(crate) former: Option<TokenDigest>,
    pub(crate) logged_in_at: u64,
    /// Until when it holds, this very millisecond included.
    pub(crate) expires_at: u64,
    /// Who they are.
    pub(crate) principal: Arc<Principal>,
    /// When it was used last: by the requests of all connections. Kept in memory alone.
    pub(crate) used_at: Arc<AtomicU64>,
}

impl StoredSession {
    /// Whether its time is over, where it lasts `idle_ms` without a request.
    pub(crate) fn has_expired(&self, now: u64, idle_ms: u64) -> bool {
        self.expires_at < now || self.idle_end(idle_ms) < now
    }

    /// Until when it holds where it is not used meanwhile.
    pub(crate) fn end(&self, idle_ms: u64) -> u64 {
        self.expires_at.min(self.idle_end(idle_ms))
    }

    fn idle_end(&self, idle_ms: u64) -> u64 {
        self.used_at.load(Ordering::Relaxed).saturating_add(idle_ms)
    }

    pub(crate) fn is_used(&self, now: u64) {
        self.used_at.fetch_max(now, Ordering::Relaxed);
    }
}

/// The records as they are stored.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct UserRow {
    pub(super) id: String,
    pub(super) username: String,
    pub(super) password_hash: String,
    pub(super) display_name: Option<String>,
    pub(super) email: Option<String>,
    pub(super) enabled: bool,
    pub(super) metadata: Option<Map<String, Value>>,
    #[serde(default)]
    pub(super) has_proven_password: Option<bool>,
    #[serde(rename = "_createdAt")]
    pub(super) created_at: u64,
    #[serde(rename = "_updatedAt")]
    pub(super) updated_at: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RoleRow {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) description: Option<String>,
    pub(super) system: bool,
    pub(super) permissions: Vec<Value>,
    #[serde(rename = "_createdAt")]
    pub(super) created_at: u64,
    #[serde(rename = "_updatedAt")]
    pub(super) updated_at: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AssignmentRow {
    pub(super) id: String,
    pub(super) user_id: String,
    pub(super) role_id: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AclRow {
    pub(super) id: String,
    pub(super) subject_type: String,
    pub(super) subject_id: String,
    pub(super) resource_type: String,
    pub(super) resource_name: String,
    pub(super) operations: Vec<String>,
    /// In records from before the incarnation was kept.
    pub(super) bound: Option<bool>,
    pub(super) incarnation: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SessionRow {
    pub(super) id: String,
    pub(super) user_id: String,
    pub(super) token_hash: String,
    pub(super) logged_in_at: u64,
    pub(super) expires_at: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct OwnerRow {
    pub(super) id: String,
    pub(super) user_id: String,
    pub(super) resource_type: String,
    pub(super) resource_name: String,
    pub(super) incarnation: Option<u64>,
}
