//! Users of our own as an authority: sessions as they are in memory, rights as they are now.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Identity;
use super::directory::{Directory, StoredSession};
use super::names::VIRTUAL_SUPERADMIN;
use super::order::{Change, Order};
use super::rights::{IdentityRights, UserRights};
use crate::protocol::ErrorCode;
use crate::server::access::{Authority, Login, Principal, Rights, Secret, Standing, TokenDigest, Work};
use crate::server::handlers::Failure;
use crate::store::StoreError;

/// Users of our own.
pub(crate) struct IdentityAuthority {
    identity: Arc<Identity>,
}

impl IdentityAuthority {
    pub(crate) fn new(identity: Arc<Identity>) -> Self {
        Self { identity }
    }

    /// Ends all sessions of users, for the embedding program. Gives the number of connections that are closed by it.
    ///
    /// # Errors
    /// Where the store cannot keep that.
    pub(crate) async fn revoke(&self, users: &[impl AsRef<str>]) -> Result<usize, StoreError> {
        let mut count = 0;
        for user in users {
            let user: Arc<str> = user.as_ref().into();
            count += self.identity.shared.presence.connections_of(&user);
            let order = Order {
                by: Arc::clone(&user),
                connection: None,
                change: Change::CloseSessions { user },
            };
            self.identity.carry_out(order).await.map_err(|failure| {
                if failure.code() == ErrorCode::Backpressure {
                    StoreError::Busy
                } else {
                    StoreError::Closed
                }
            })?;
        }
        Ok(count)
    }
}

impl Authority for IdentityAuthority {
    fn requires_login(&self) -> bool {
        true
    }

    fn version(&self) -> u64 {
        self.identity.shared.directory.load().version
    }

    fn rights(&self, principal: Option<&Arc<Principal>>) -> Arc<dyn Rights> {
        let directory = Arc::clone(&self.identity.shared.directory);
        let rights = match principal {
            Some(principal) => UserRights::of(&directory.load(), &principal.user_id),
            None => UserRights::of_nobody(),
        };
        Arc::new(IdentityRights {
            directory,
            rights,
            is_somebody: principal.is_some(),
        })
    }

    fn standing(&self, login: &Login, now_ms: u64, used: bool) -> Standing {
        // Also where it was removed meanwhile, because it has expired.
        if login.principal.has_expired(now_ms) {
            return Standing::Expired;
        }
        let directory = self.identity.shared.directory.load();
        let Some(session) = session_of(&directory, login) else {
            return Standing::Ended;
        };
        if session.has_expired(now_ms, self.identity.idle_ms()) {
            return Standing::Expired;
        }
        if used {
            session.is_used(now_ms);
        }
        Standing::Holds(Arc::clone(&session.principal))
    }

    fn deadline(&self, login: &Login) -> Option<u64> {
        let directory = self.identity.shared.directory.load();
        let session = session_of(&directory, login)?;
        Some(session.end(self.identity.idle_ms()).saturating_add(1))
    }

    fn log_in(&self, token: Secret, _address: IpAddr) -> Work<Result<Login, Failure>> {
        let login = self.identity.login_by_token(&token);
        Box::pin(async move { login })
    }

    fn identity(&self) -> Option<&Arc<Identity>> {
        Some(&self.identity)
    }

    fn log_out(&self, login: &Login) -> Work<Result<(), Failure>> {
        let Some(session) = login.session.clone() else {
            return Box::pin(async { Ok(()) });
        };
        let order = Order {
            by: login.principal.user_id.as_str().into(),
            connection: None,
            change: Change::CloseSession { session },
        };
        let identity = Arc::clone(&self.identity);
        Box::pin(async move { identity.carry_out(order).await.map(drop) })
    }
}

/// The session of a login, if it stands yet.
fn session_of<'d>(directory: &'d Directory, login: &Login) -> Option<&'d Arc<StoredSession>> {
    let session = directory.session(login.session.as_deref()?)?;
    (session.token == login.token || session.former == Some(login.token)).then_some(session)
}

impl Identity {
    fn login_by_token(&self, token: &Secret) -> Result<Login, Failure> {
        let digest = TokenDigest::of(token.expose());
        let directory = self.shared.directory.load();
        let now = (self.shared.clock)();
        let session = directory.session_of_token(&digest).filter(|session| {
            let is_there = &*session.user == VIRTUAL_SUPERADMIN || directory.user(&session.user).is_some_and(|user| user.is_enabled);
            is_there && !session.has_expired(now, self.idle_ms())
        });
        let session = session.ok_or_else(|| Failure::new(ErrorCode::Unauthorized, "Invalid token"))?;
        session.used_at.fetch_max(now, Ordering::Relaxed);
        Ok(login_of(session))
    }
}

/// The login that a session stands for.
pub(crate) fn login_of(session: &StoredSession) -> Login {
    Login {
        principal: Arc::clone(&session.principal),
        token: session.token,
        session: Some(Arc::clone(&session.id)),
        proof: None,
    }
}
