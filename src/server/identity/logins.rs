//! How somebody gets in, and whatever else takes a password.

use std::net::IpAddr;
use std::sync::Arc;

use super::Identity;
use super::authority::login_of;
use super::directory::{Directory, StoredSession};
use super::names::{VIRTUAL_SUPERADMIN, no_such_user};
use super::order::{Change, NewPassword, NewSession, Order, Proof};
use super::passwords::Verdict;
use super::tokens;
use crate::protocol::{ConnectionId, ErrorCode};
use crate::server::access::{Login, Secret, TokenDigest};
use crate::server::handlers::Failure;

/// Where a request comes from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrival {
    pub(crate) address: IpAddr,
    pub(crate) connection: ConnectionId,
}

/// A session, and the token that it is to be known by from now on.
pub(crate) struct Issued {
    pub(crate) login: Login,
    pub(crate) token: Secret,
    pub(crate) expires_at: u64,
    pub(crate) directory: Arc<Directory>,
}

/// Ends what is left of a token when the connection that has another one instead is about to be told; also where nobody
/// waits for that any more.
struct Retirement<'i> {
    identity: &'i Identity,
    user: &'i str,
    session: &'i str,
    token: TokenDigest,
}

impl Drop for Retirement<'_> {
    fn drop(&mut self) {
        self.identity.shared.retire(self.user, self.session, self.token);
    }
}

impl Identity {
    /// Logs in with name and password. It takes as long, and says the same, whether there is such a user or not.
    ///
    /// # Errors
    /// What the client is told.
    pub(crate) async fn log_in(&self, name: &str, password: Secret, from: Arrival) -> Result<Issued, Failure> {
        let attempt = self.limiter.attempt(Some(name), from.address, (self.shared.clock)())?;
        let user = self.shared.directory.load().user_named(name).cloned();
        let hash = user.as_ref().map(|user| user.password.clone());
        let is_outdated = match self.passwords.verify(password.clone(), hash.clone()).await {
            Ok(Verdict::Right { is_outdated }) => is_outdated,
            Ok(Verdict::Wrong) => return Err(invalid_credentials()),
            Err(failure) => {
                self.limiter.give_back(attempt);
                return Err(failure);
            }
        };
        let (Some(user), Some(hash)) = (user, hash) else {
            return Err(invalid_credentials());
        };
        if !user.is_enabled {
            return Err(Failure::new(ErrorCode::Unauthorized, "Account is disabled"));
        }
        let rehashed = if is_outdated {
            Some(self.passwords.hash(password).await?)
        } else {
            None
        };
        let proof = Proof { hash, rehashed };
        let issued = self.open(&user.id, from, |session| Change::OpenSession { session, proof }).await?;
        self.limiter.succeeded(attempt);
        Ok(issued)
    }

    /// Logs in with the secret of the configuration.
    ///
    /// # Errors
    /// What the client is told.
    pub(crate) async fn log_in_with_secret(&self, secret: Secret, from: Arrival) -> Result<Issued, Failure> {
        let attempt = self.limiter.attempt(None, from.address, (self.shared.clock)())?;
        if self.shared.config.admin_secret.as_ref() != Some(&secret) {
            return Err(Failure::new(ErrorCode::Unauthorized, "Invalid secret"));
        }
        let issued = self
            .open(&VIRTUAL_SUPERADMIN.into(), from, |session| Change::OpenBootstrapSession { session })
            .await?;
        self.limiter.succeeded(attempt);
        tracing::warn!(address = %from.address, "somebody has logged in with the admin secret");
        Ok(issued)
    }

    async fn open(&self, user: &Arc<str>, from: Arrival, change: impl FnOnce(NewSession) -> Change) -> Result<Issued, Failure> {
        let token = tokens::new_token()?;
        let id: Arc<str> = tokens::new_id()?.into();
        let session = NewSession {
            id: Arc::clone(&id),
            token: TokenDigest::of(token.expose()),
            address: from.address.to_string(),
        };
        let order = Order {
            by: Arc::clone(user),
            connection: Some(from.connection),
            change: change(session),
        };
        let directory = self.carry_out(order).await?;
        issued(&id, token, directory)
    }

    /// Gives the session of a login another token. The former one is worth nothing when this is done.
    ///
    /// # Errors
    /// What the client is told.
    pub(crate) async fn rotate(&self, login: &Login, from: Arrival) -> Result<Issued, Failure> {
        let session = session_of(login)?;
        let token = tokens::new_token()?;
        let change = Change::RotateToken {
            session: Arc::clone(&session),
            old: login.token,
            new: TokenDigest::of(token.expose()),
        };
        self.exchange(login, session, token, change, from).await
    }

    /// Changes the password of whoever is logged in. All their sessions end but this one, which goes on under another
    /// token.
    ///
    /// # Errors
    /// What the client is told.
    pub(crate) async fn change_password(&self, login: &Login, current: Secret, new: Secret, from: Arrival) -> Result<Issued, Failure> {
        let user = self.shared.directory.load().user(&login.principal.user_id).cloned();
        let user = user.ok_or_else(no_such_user)?;
        let session = session_of(login)?;
        let attempt = self.limiter.attempt(Some(&user.name), from.address, (self.shared.clock)())?;
        match self.passwords.verify(current, Some(user.password.clone())).await {
            Ok(Verdict::Right { .. }) => self.limiter.succeeded(attempt),
            Ok(Verdict::Wrong) => return Err(Failure::new(ErrorCode::Unauthorized, "Current password is incorrect")),
            Err(failure) => {
                self.limiter.give_back(attempt);
                return Err(failure);
            }
        }
        let token = tokens::new_token()?;
        let change = Change::ReplacePassword(NewPassword {
            proven: user.password.clone(),
            hash: self.passwords.hash(new).await?,
            session: Arc::clone(&session),
            old: login.token,
            new: TokenDigest::of(token.expose()),
        });
        self.exchange(login, session, token, change, from).await
    }

    /// The hash of a password that somebody gives to a user.
    ///
    /// # Errors
    /// Where too many wait already.
    pub(crate) async fn hash(&self, password: Secret) -> Result<Secret, Failure> {
        self.passwords.hash(password).await
    }

    /// A change that gives the session of a login another token.
    async fn exchange(&self, login: &Login, session: Arc<str>, token: Secret, change: Change, from: Arrival) -> Result<Issued, Failure> {
        let user = login.principal.user_id.as_str();
        let order = Order {
            by: user.into(),
            connection: Some(from.connection),
            change,
        };
        // The answer comes out of the very poll in which the former token ends, so that the connection itself never
        // finds that its session is over.
        let _retirement = Retirement {
            identity: self,
            user,
            session: &session,
            token: login.token,
        };
        let directory = self.carry_out(order).await?;
        issued(&session, token, directory)
    }
}

fn session_of(login: &Login) -> Result<Arc<str>, Failure> {
    let none = || Failure::new(ErrorCode::Unauthorized, "No active session to refresh");
    login.session.clone().ok_or_else(none)
}

fn issued(session: &str, token: Secret, directory: Arc<Directory>) -> Result<Issued, Failure> {
    let stored: Option<&StoredSession> = directory.session(session).map(Arc::as_ref);
    let Some((login, expires_at)) = stored.map(|stored| (login_of(stored), stored.expires_at)) else {
        // It has ended while the answer was on its way.
        return Err(Failure::new(ErrorCode::Unauthorized, "Invalid or expired session"));
    };
    Ok(Issued {
        login,
        token,
        expires_at,
        directory,
    })
}

fn invalid_credentials() -> Failure {
    Failure::new(ErrorCode::Unauthorized, "Invalid credentials")
}
