//! Tokens that others have issued: known by heart, signed, or known to a function of the embedding program.
//!
//! [`TokenAuthority`] asks in this order, and the first that knows a token decides: the tokens of the configuration,
//! the keys of signed tokens, the function. What follows from a token is a principal, and a [`Proof`]: enough to tell,
//! when the configuration changes, whether the token would still be taken. The token itself is not kept.

mod claims;
mod jwt;
pub(crate) mod keys;
pub(crate) mod mint;
mod revocations;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use futures_util::FutureExt;

use self::claims::Refusal;
use self::jwt::Verifier;
use self::keys::Fingerprint;
use self::mint::Signer;
use super::authority::{Authority, Standing, Work};
use super::permissions::Permissions;
use super::presence::Presence;
use super::principal::{Login, Principal, TokenDigest};
use super::rights::Rights;
use super::secret::Secret;
use crate::protocol::ErrorCode;
use crate::server::config::{AuthConfig, TokenValidator};
use crate::server::handlers::Failure;
use crate::server::wall_clock_ms;
use crate::store::StoreError;

pub use self::keys::KeyFault;
pub(crate) use self::revocations::Revocations;

/// The longest token that is looked at, in bytes.
pub(crate) const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// Why a login holds: what is asked again when the configuration changes.
pub(crate) struct Proof {
    kind: ProofKind,
    /// The state of [`TokenAuthority::doubts`] by which it was good.
    good_at: AtomicU64,
}

enum ProofKind {
    /// The token is in the configuration.
    Known,
    /// The token is signed by a key, and says this.
    Signed { key: Fingerprint, claims: Box<str> },
    /// The embedding program knows the token. It is not asked again.
    Vouched,
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.kind {
            ProofKind::Known => "Known",
            ProofKind::Signed { .. } => "Signed",
            ProofKind::Vouched => "Vouched",
        })
    }
}

/// What a configuration makes of tokens.
struct Rules {
    is_required: bool,
    /// Whoever is not logged in.
    nobody: Principal,
    /// By digest: how long it takes to find one tells something of digests, and so nothing of tokens.
    known: HashMap<TokenDigest, Arc<Principal>>,
    signed: Option<Verifier>,
    /// Makes tokens, where there is a secret to sign them with.
    signer: Option<Arc<Signer>>,
    validator: Option<TokenValidator>,
    permissions: Permissions,
}

impl Rules {
    fn new(config: &AuthConfig) -> Result<Self, KeyFault> {
        let known = config.tokens.iter().map(|token| {
            let mut principal = Principal::new(token.user_id.as_str(), token.roles.iter().map(String::as_str));
            principal.metadata = token.metadata.clone();
            principal.expires_at = token.expires_at;
            (TokenDigest::of(token.token.expose()), Arc::new(principal))
        });
        Ok(Self {
            is_required: config.required,
            nobody: Principal::new("", config.anonymous_roles.iter().map(String::as_str)),
            known: known.collect(),
            signed: config.jwt.as_ref().map(Verifier::new).transpose()?,
            signer: config.jwt.as_ref().map(Signer::with_secret).transpose()?.flatten().map(Arc::new),
            validator: config.validate.clone(),
            permissions: Permissions::new(config.permissions.clone()),
        })
    }

    /// Who a token belongs to, as far as the configuration tells. None where it does not.
    fn find(&self, digest: TokenDigest, token: &str, now_ms: u64) -> Option<Result<(Arc<Principal>, ProofKind), Failure>> {
        if let Some(principal) = self.known.get(&digest) {
            return Some(Ok((Arc::clone(principal), ProofKind::Known)));
        }
        match self.signed.as_ref()?.verify(token, now_ms) {
            Ok(verified) => {
                let (key, claims) = (verified.key, verified.claims);
                Some(Ok((Arc::new(verified.principal), ProofKind::Signed { key, claims })))
            }
            Err(Refusal::Expired) => Some(Err(expired())),
            Err(Refusal::Invalid) => None,
        }
    }

    /// Who a token belongs to that was taken before. None where it would not be taken any more.
    fn find_again(&self, login: &Login, kind: &ProofKind, now_ms: u64) -> Option<Arc<Principal>> {
        let found = match kind {
            ProofKind::Known => Arc::clone(self.known.get(&login.token)?),
            ProofKind::Signed { key, claims } => Arc::new(self.signed.as_ref()?.verify_again(key, claims, now_ms)?),
            ProofKind::Vouched => {
                self.validator.as_ref()?;
                return Some(Arc::clone(&login.principal));
            }
        };
        // The same object where nothing has changed: that is how it is told.
        Some(if found == login.principal {
            Arc::clone(&login.principal)
        } else {
            found
        })
    }
}

/// The authority over tokens that others have issued.
pub(crate) struct TokenAuthority {
    rules: ArcSwap<Rules>,
    /// Rises when anybody's rights may have changed.
    version: AtomicU64,
    /// Rises when any login may have come to an end, which every login is asked about then.
    doubts: AtomicU64,
    revocations: Arc<Revocations>,
    presence: Arc<Presence>,
}

/// Reads the keys of a configuration.
///
/// # Errors
/// Where one cannot be used.
pub(crate) fn check_keys(config: &AuthConfig) -> Result<(), KeyFault> {
    config.jwt.as_ref().map_or(Ok(()), |jwt| keys::load(jwt).map(drop))
}

impl TokenAuthority {
    /// The authority of a configuration.
    ///
    /// # Errors
    /// Where a key cannot be used.
    pub(crate) fn new(config: &AuthConfig, revocations: Revocations, presence: Arc<Presence>) -> Result<Self, KeyFault> {
        Ok(Self {
            rules: ArcSwap::from_pointee(Rules::new(config)?),
            version: AtomicU64::new(1),
            doubts: AtomicU64::new(1),
            revocations: Arc::new(revocations),
            presence,
        })
    }

    /// Goes on by another configuration: its tokens, its keys, which are read anew, and its permissions. Live logins
    /// whose tokens would not be taken any more come to an end; what others may do is judged anew. Both show when a
    /// connection looks at its rights: whoever calls this has all of them do so.
    ///
    /// # Errors
    /// Where a key cannot be used. Then everything stays as it was.
    pub(crate) fn reload(&self, config: &AuthConfig) -> Result<(), KeyFault> {
        self.rules.store(Arc::new(Rules::new(config)?));
        // In this order: whoever sees the new numbers sees the new rules.
        self.doubts.fetch_add(1, Ordering::AcqRel);
        self.version.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Ends the sessions of users and keeps them from logging in for a while. Gives the number of connections that are
    /// closed by it.
    ///
    /// # Errors
    /// Where that could not be stored, so that it would not survive a restart. It is done nevertheless.
    pub(crate) async fn revoke(&self, users: &[impl AsRef<str>]) -> Result<usize, StoreError> {
        let noted = self.revocations.add(users);
        // Logins that were under way meanwhile find out by their next request.
        self.doubts.fetch_add(1, Ordering::AcqRel);
        let closed = users.iter().map(|user| self.presence.revoke(user.as_ref(), None)).sum();
        self.revocations.keep(noted).await.map(|()| closed)
    }
}

impl Authority for TokenAuthority {
    fn requires_login(&self) -> bool {
        self.rules.load().is_required
    }

    fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    fn rights(&self, principal: Option<&Arc<Principal>>) -> Arc<dyn Rights> {
        let rules = self.rules.load();
        Arc::new(rules.permissions.rights(principal.map_or(&rules.nobody, |principal| &**principal)))
    }

    fn standing(&self, login: &Login, now_ms: u64, _used: bool) -> Standing {
        if login.principal.has_expired(now_ms) {
            return Standing::Expired;
        }
        let Some(proof) = &login.proof else { return Standing::Ended };
        let doubts = self.doubts.load(Ordering::Acquire);
        if proof.good_at.load(Ordering::Acquire) == doubts {
            return Standing::Holds(Arc::clone(&login.principal));
        }
        if self.revocations.holds(&login.principal.user_id, now_ms) {
            return Standing::Ended;
        }
        match self.rules.load().find_again(login, &proof.kind, now_ms) {
            Some(principal) if principal.has_expired(now_ms) => Standing::Expired,
            Some(principal) => {
                proof.good_at.store(doubts, Ordering::Release);
                Standing::Holds(principal)
            }
            None => Standing::Ended,
        }
    }

    fn deadline(&self, login: &Login) -> Option<u64> {
        login.principal.expires_at.map(|last| last.saturating_add(1))
    }

    fn log_in(&self, token: Secret, _: IpAddr) -> Work<Result<Login, Failure>> {
        // Before anything is looked at: what changes meanwhile is found out by the first request.
        let good_at = self.doubts.load(Ordering::Acquire);
        let revocations = Arc::clone(&self.revocations);
        if token.expose().len() > TOKEN_BYTES_MAX {
            return Box::pin(async { Err(invalid()) });
        }
        let rules = self.rules.load_full();
        let digest = TokenDigest::of(token.expose());
        let found = rules.find(digest, token.expose(), wall_clock_ms());
        Box::pin(async move {
            let (principal, kind) = match (found, &rules.validator) {
                (Some(found), _) => found?,
                (None, Some(validator)) => (vouched(validator, token).await?, ProofKind::Vouched),
                (None, None) => return Err(invalid()),
            };
            let now = wall_clock_ms();
            if principal.has_expired(now) {
                return Err(expired());
            }
            if revocations.holds(&principal.user_id, now) {
                return Err(Failure::new(ErrorCode::SessionRevoked, "Session has been revoked"));
            }
            Ok(Login {
                principal,
                token: digest,
                session: None,
                proof: Some(Arc::new(Proof {
                    kind,
                    good_at: AtomicU64::new(good_at),
                })),
            })
        })
    }

    fn log_out(&self, _: &Login) -> Work<Result<(), Failure>> {
        // What others have issued is not ours to end.
        Box::pin(async { Ok(()) })
    }

    fn signer(&self) -> Option<Arc<Signer>> {
        self.rules.load().signer.clone()
    }
}

/// Asks the embedding program. Neither its errors nor its panics say anything to the client, or the token to the log.
async fn vouched(validator: &TokenValidator, token: Secret) -> Result<Arc<Principal>, Failure> {
    let asking = AssertUnwindSafe(async { validator.validate(token).await }).catch_unwind();
    match asking.await {
        Ok(Ok(Some(principal))) if principal.user_id.is_empty() => {
            tracing::error!("the validator of tokens gave a user without a name");
            Err(Failure::internal())
        }
        Ok(Ok(Some(principal))) => Ok(Arc::new(principal)),
        Ok(Ok(None)) => Err(invalid()),
        Ok(Err(error)) => {
            tracing::error!(%error, "the validator of tokens failed");
            Err(Failure::internal())
        }
        Err(_) => {
            tracing::error!("the validator of tokens panicked");
            Err(Failure::internal())
        }
    }
}

fn invalid() -> Failure {
    Failure::new(ErrorCode::Unauthorized, "Invalid token")
}

fn expired() -> Failure {
    Failure::new(ErrorCode::Unauthorized, "Token has expired")
}
