//! Who may log in, and how.

use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::protocol::Tier;
pub use crate::server::access::{DefaultPermission, PermissionCheck, PermissionRule, PermissionsConfig, Principal, Secret};

/// Who may log in, and how: by tokens that others have issued (`jwt`, `tokens`, `validate`), or as users of our own
/// (`built_in`).
#[derive(Clone, Debug, PartialEq)]
pub struct AuthConfig {
    /// Whether nothing but logging in can be done without a login. Default true.
    pub required: bool,
    /// The roles of whoever is not logged in, where logins are not required. Default none: they may do nothing.
    pub anonymous_roles: Vec<String>,
    /// Signed tokens. Default `None`.
    pub jwt: Option<JwtConfig>,
    /// Tokens that are known by heart. Default none.
    pub tokens: Vec<StaticToken>,
    /// A function of the embedding program that knows tokens. Asked about those that nobody else knows. Default `None`.
    pub validate: Option<TokenValidator>,
    /// Users, roles and sessions of our own; then there is nothing else. Default `None`.
    pub built_in: Option<BuiltInConfig>,
    /// What tokens are allowed. Default `None`: built-in roles decide.
    pub permissions: Option<PermissionsConfig>,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            required: true,
            anonymous_roles: Vec::new(),
            jwt: None,
            tokens: Vec::new(),
            validate: None,
            built_in: None,
            permissions: None,
        }
    }
}

/// An algorithm that tokens may be signed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JwtAlgorithm {
    /// HMAC with SHA-256: whoever can check a token can make one.
    Hs256,
    /// RSA with SHA-256.
    Rs256,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

impl JwtAlgorithm {
    /// Every one of them.
    pub const ALL: [Self; 4] = [Self::Hs256, Self::Rs256, Self::Es256, Self::EdDsa];

    /// The name in tokens and in the configuration.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
            Self::EdDsa => "EdDSA",
        }
    }

    /// The algorithm of a name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == name)
    }
}

/// Where the keys of signed tokens come from, and what the tokens must say.
#[derive(Clone, Debug, PartialEq)]
pub struct JwtConfig {
    /// The algorithms that are accepted, whatever a token says of itself. Default HS256 alone.
    pub algorithms: Vec<JwtAlgorithm>,
    /// The secret of HS256, 32 bytes at least.
    pub secret: Option<Secret>,
    /// A PEM file with a public key.
    pub public_key_file: Option<PathBuf>,
    /// A JWKS file: several keys by `kid`.
    pub jwks_file: Option<PathBuf>,
    /// Who must have issued a token. Default `None`: anybody who has the key.
    pub issuer: Option<String>,
    /// For whom it must be; `*` for anybody. Default `None`: a token that names an audience is refused.
    pub audience: Option<String>,
    /// How far clocks may differ, 0 to 10 min. Default 0.
    pub leeway: Duration,
    /// The claim that holds the user. Default `sub`.
    pub user_claim: String,
    /// The claim that holds the roles. Default `roles`.
    pub roles_claim: String,
}

impl Default for JwtConfig {
    fn default() -> Self {
        Self {
            algorithms: vec![JwtAlgorithm::Hs256],
            secret: None,
            public_key_file: None,
            jwks_file: None,
            issuer: None,
            audience: None,
            leeway: Duration::ZERO,
            user_claim: "sub".to_owned(),
            roles_claim: "roles".to_owned(),
        }
    }
}

/// A token that is known by heart, and what it stands for.
#[derive(Clone, Debug, PartialEq)]
pub struct StaticToken {
    /// The token, not empty.
    pub token: Secret,
    /// The user.
    pub user_id: String,
    /// The roles. Default none.
    pub roles: Vec<String>,
    /// More about the user, for permission rules. Default nothing.
    pub metadata: Map<String, Value>,
    /// Until when it holds, in milliseconds since 1970. Default `None`: for ever.
    pub expires_at: Option<u64>,
}

type Validation = Pin<Box<dyn Future<Output = Result<Option<Principal>, TokenFault>> + Send>>;

type Validate = dyn Fn(Secret) -> Validation + Send + Sync;

/// Why a token could not be looked at; the client is told of an internal error, the log of this.
pub type TokenFault = Box<dyn std::error::Error + Send + Sync>;

/// A function of the embedding program that knows who a token belongs to.
#[derive(Clone)]
pub struct TokenValidator(Arc<Validate>);

impl TokenValidator {
    /// A function that gives the principal of a token, or none where it knows no such token.
    ///
    /// ```
    /// use noex_server::server::config::{Principal, TokenValidator};
    ///
    /// let validator = TokenValidator::new(|token| async move {
    ///     Ok((token.expose() == "open sesame").then(|| Principal::new("ali", ["reader"])))
    /// });
    /// ```
    pub fn new<F, W>(validate: F) -> Self
    where
        F: Fn(Secret) -> W + Send + Sync + 'static,
        W: Future<Output = Result<Option<Principal>, TokenFault>> + Send + 'static,
    {
        Self(Arc::new(move |token| Box::pin(validate(token))))
    }

    pub(crate) fn validate(&self, token: Secret) -> Validation {
        (self.0)(token)
    }
}

impl fmt::Debug for TokenValidator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenValidator")
    }
}

impl PartialEq for TokenValidator {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Users, roles and sessions of our own.
#[derive(Clone, Debug, PartialEq)]
pub struct BuiltInConfig {
    /// The secret that the first superadmin is made with, 32 bytes at least. Default `None`: then a superadmin who
    /// could log in must be stored already.
    pub admin_secret: Option<Secret>,
    /// Whether the secret works also once a superadmin has logged in with a password. Default false.
    pub keep_bootstrap_secret: bool,
    /// How long a session lasts from the login, refreshed or not, 100 ms to 10 years. Default 24 h.
    pub session_ttl: Duration,
    /// How long a session lasts without a request, 100 ms to 10 years. Default 1 h.
    pub session_idle: Duration,
    /// The least number of characters of a password, 1 to 128. Default 8.
    pub password_min_length: usize,
    /// The most sessions of one user, 1 to 10,000; one more ends the oldest. Default 10.
    pub max_sessions_per_user: usize,
    /// How often a login may fail.
    pub login_rate_limit: LoginRateLimitConfig,
    /// What a password costs to check.
    pub argon2: Argon2Config,
}

impl Default for BuiltInConfig {
    fn default() -> Self {
        Self {
            admin_secret: None,
            keep_bootstrap_secret: false,
            session_ttl: Duration::from_secs(24 * 3600),
            session_idle: Duration::from_secs(3600),
            password_min_length: 8,
            max_sessions_per_user: 10,
            login_rate_limit: LoginRateLimitConfig::default(),
            argon2: Argon2Config::default(),
        }
    }
}

/// How often a login may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginRateLimitConfig {
    /// The most failures of one name from one address, 1 to 1,000,000; of an address, ten times as many. Default 5.
    pub max_attempts: usize,
    /// The time in which they are counted, 10 ms to 7 days. Default 15 min.
    pub window: Duration,
}

impl Default for LoginRateLimitConfig {
    fn default() -> Self {
        Self {
            max_attempts: 5,
            window: Duration::from_secs(15 * 60),
        }
    }
}

/// What a password costs to check, by argon2id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argon2Config {
    /// Memory in KiB, 19,456 to 4,194,304. Default 65,536.
    pub memory_kib: u32,
    /// Passes, 2 to 100. Default 3.
    pub passes: u32,
    /// Lanes, 1 to 16. Default 1.
    pub lanes: u32,
}

impl Default for Argon2Config {
    fn default() -> Self {
        Self {
            memory_kib: 65_536,
            passes: 3,
            lanes: 1,
        }
    }
}

/// What is written down of who did what.
#[derive(Clone, Debug, PartialEq)]
pub struct AuditConfig {
    /// The tiers of operations that are recorded. Default admin alone. Logins are recorded in any case.
    pub tiers: Vec<Tier>,
    /// The most entries that are kept in memory, 1 to 10,000,000. Default 10,000.
    pub max_entries: usize,
    /// The most bytes that they may take, 64 KiB to 4 GiB. Default 16 MiB.
    pub max_bytes: usize,
    /// A file of JSON lines that every entry goes to as well. Default `None`.
    pub file: Option<PathBuf>,
    /// The size from which the file is put aside and a new one begun, 64 KiB to 1 TiB. Default 64 MiB.
    pub file_max_bytes: u64,
    /// How many files that were put aside are kept, 1 to 10,000. Default 16.
    pub file_keep: usize,
    /// A function of the embedding program that is handed every entry, as JSON. Default `None`.
    pub on_entry: Option<AuditSink>,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self {
            tiers: vec![Tier::Admin],
            max_entries: 10_000,
            max_bytes: 16 << 20,
            file: None,
            file_max_bytes: 64 << 20,
            file_keep: 16,
            on_entry: None,
        }
    }
}

/// A function of the embedding program that is handed every entry of the audit log, on a thread of its own.
#[derive(Clone)]
pub struct AuditSink(Arc<dyn Fn(&Value) + Send + Sync>);

impl AuditSink {
    /// A function that is handed entries. It may block; where it panics, the next entry comes nevertheless.
    pub fn new(sink: impl Fn(&Value) + Send + Sync + 'static) -> Self {
        Self(Arc::new(sink))
    }

    pub(crate) fn take(&self, entry: &Value) {
        (self.0)(entry);
    }
}

impl fmt::Debug for AuditSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuditSink")
    }
}

impl PartialEq for AuditSink {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}
