//! How somebody gets in, and whatever else takes a password.

use std::net::IpAddr;
use std::sync::Arc;

use super::Identity;
use super::authority::login_of;
use super::directory::{Directory, StoredSession, User};
use super::limiter::Attempt;
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
    /// Not where the token has stayed what it was.
    is_due: bool,
}

impl Drop for Retirement<'_> {
    fn drop(&mut self) {
        if !self.is_due {
            return;
        }
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
        match self.log_in_once(name, &password, from).await {
            Ok(issued) => {
                self.limiter.succeeded(attempt);
                Ok(issued)
            }
            Err(failure) => {
                self.give_back_unless_refused(attempt, &failure);
                Err(failure)
            }
        }
    }

    async fn log_in_once(&self, name: &str, password: &Secret, from: Arrival) -> Result<Issued, Failure> {
        let (user, is_outdated) = self.prove(self.shared.directory.load().user_named(name), password).await?;
        match self.open_proven(&user, is_outdated, password, from).await {
            // A login beside this one may have had the same password hashed anew meanwhile.
            Err(failure) if failure.code() == ErrorCode::Unauthorized => {
                let directory = self.shared.directory.load();
                let now = directory.user(&user.id).filter(|now| now.password != user.password);
                let Some(now) = now.cloned() else { return Err(failure) };
                drop(directory);
                let (user, is_outdated) = self.prove(Some(&now), password).await?;
                self.open_proven(&user, is_outdated, password, from).await
            }
            outcome => outcome,
        }
    }

    /// The user, where it is their password, and whether that ought to be hashed anew.
    async fn prove(&self, user: Option<&Arc<User>>, password: &Secret) -> Result<(Arc<User>, bool), Failure> {
        let user = user.cloned();
        let hash = user.as_ref().map(|user| user.password.clone());
        match (self.passwords.verify(password.clone(), hash).await?, user) {
            (Verdict::Right { .. }, Some(user)) if !user.is_enabled => Err(Failure::new(ErrorCode::Unauthorized, "Account is disabled")),
            (Verdict::Right { is_outdated }, Some(user)) => Ok((user, is_outdated)),
            (Verdict::Right { .. } | Verdict::Wrong, _) => Err(invalid_credentials()),
        }
    }

    async fn open_proven(&self, user: &User, is_outdated: bool, password: &Secret, from: Arrival) -> Result<Issued, Failure> {
        let rehashed = if is_outdated {
            Some(self.passwords.hash(password.clone()).await?)
        } else {
            None
        };
        let proof = Proof {
            hash: user.password.clone(),
            rehashed,
        };
        self.open(&user.id, from, |session| Change::OpenSession { session, proof }).await
    }

    /// What fails for want of room or of a disk says nothing of whoever has tried.
    fn give_back_unless_refused(&self, attempt: Attempt, failure: &Failure) {
        if !matches!(failure.code(), ErrorCode::Unauthorized | ErrorCode::Forbidden) {
            self.limiter.give_back(attempt);
        }
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
        let opened = self
            .open(&VIRTUAL_SUPERADMIN.into(), from, |session| Change::OpenBootstrapSession { session })
            .await;
        let issued = match opened {
            Ok(issued) => issued,
            Err(failure) => {
                self.give_back_unless_refused(attempt, &failure);
                return Err(failure);
            }
        };
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
        let directory = self.carry_out(order).await?.after;
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
        let mut retirement = Retirement {
            identity: self,
            user,
            session: &session,
            token: login.token,
            is_due: true,
        };
        let outcome = self.carry_out(order).await;
        retirement.is_due = outcome.is_ok();
        issued(&session, token, outcome?.after)
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
