//! Which authority the configuration asks for: the one place where that is decided.

use std::sync::Arc;

use super::StartError;
use super::access::{Authority, KeyFault, Open, Presence, Revocations, TokenAuthority};
use super::config::{AuthConfig, Config};
use super::identity::{self, IdentityAuthority};
use crate::store::{Store, StoreError};

/// Which of the users who are logged in are meant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RevocationFilter {
    /// This one. Default `None`: any.
    pub user: Option<String>,
    /// Those with this role on any of their connections. Default `None`: with any, or none.
    pub role: Option<String>,
}

/// The authority that the configuration asks for.
pub(super) enum ChosenAuthority {
    /// Nobody is asked.
    Open(Arc<Open>),
    /// Tokens that others have issued.
    Tokens(Arc<TokenAuthority>),
    /// Users of our own.
    Identity(Arc<IdentityAuthority>),
}

impl ChosenAuthority {
    /// # Errors
    /// Where what it needs cannot be used.
    pub(super) async fn new(config: &Config, store: &Store, presence: &Arc<Presence>) -> Result<Self, StartError> {
        let Some(auth) = &config.auth else {
            return Ok(Self::Open(Arc::new(Open)));
        };
        if let Some(authority) = identity::start(auth, store, presence).await? {
            return Ok(Self::Identity(Arc::new(authority)));
        }
        let revocations = Revocations::open(store.clone(), config.revocation_ttl);
        let authority = TokenAuthority::new(auth, revocations, Arc::clone(presence))?;
        Ok(Self::Tokens(Arc::new(authority)))
    }

    pub(super) fn get(&self) -> Arc<dyn Authority> {
        match self {
            Self::Open(authority) => Arc::<Open>::clone(authority),
            Self::Tokens(authority) => Arc::<TokenAuthority>::clone(authority),
            Self::Identity(authority) => Arc::<IdentityAuthority>::clone(authority),
        }
    }

    /// Goes on by another configuration. Whether there is authentication at all, and of which kind, stays as it was.
    ///
    /// # Errors
    /// Where a key cannot be used. Then everything stays as it was.
    pub(super) fn reload(&self, auth: Option<&AuthConfig>) -> Result<(), KeyFault> {
        match (self, auth) {
            (Self::Tokens(authority), Some(auth)) => authority.reload(auth),
            (Self::Open(_) | Self::Identity(_), _) | (Self::Tokens(_), None) => Ok(()),
        }
    }

    /// Ends the sessions of users. Gives the number of connections that are closed by it.
    ///
    /// # Errors
    /// Where the store cannot keep that.
    pub(super) async fn revoke(&self, users: &[impl AsRef<str>]) -> Result<usize, StoreError> {
        match self {
            Self::Open(_) => Ok(0),
            Self::Tokens(authority) => authority.revoke(users).await,
            Self::Identity(authority) => authority.revoke(users).await,
        }
    }
}
