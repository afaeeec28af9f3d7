//! Who somebody is.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::tokens::Proof;

/// Who somebody is: what a token, or a login, says.
#[derive(Clone, Debug, PartialEq)]
pub struct Principal {
    /// The user's name or id, not empty.
    pub user_id: String,
    /// The roles, in the order of the token.
    pub roles: Vec<String>,
    /// More about the user, for permission rules (`{{ session.metadata.x }}`) and checks. Never sent to clients.
    pub metadata: Map<String, Value>,
    /// Until when it holds, in milliseconds since 1970, this very millisecond included. None: for ever.
    pub expires_at: Option<u64>,
}

impl Principal {
    /// A user with roles, for ever.
    #[must_use]
    pub fn new(user_id: impl Into<String>, roles: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            user_id: user_id.into(),
            roles: roles.into_iter().map(Into::into).collect(),
            metadata: Map::new(),
            expires_at: None,
        }
    }

    /// Whether its time is over.
    #[must_use]
    pub fn has_expired(&self, now_ms: u64) -> bool {
        self.expires_at.is_some_and(|end| end < now_ms)
    }
}

/// What a token is known by: its SHA-256, so that nothing that is kept can be used to log in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TokenDigest([u8; 32]);

impl TokenDigest {
    pub(crate) fn of(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    pub(crate) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl From<[u8; 32]> for TokenDigest {
    fn from(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}{:02x}…", self.0[0], self.0[1])
    }
}

/// A login on a connection.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub(crate) principal: Arc<Principal>,
    /// What the token is known by that it came with.
    pub(crate) token: TokenDigest,
    /// The name of the stored session, where there is one: for logs and the audit, and for nothing else.
    pub(crate) session: Option<Arc<str>>,
    /// Why it holds, where that is a token that others have issued.
    pub(crate) proof: Option<Arc<Proof>>,
}
