//! The keys of access: who may log in, and what is written down of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{DAY_MS, Key, Kind, Turn, U32_MAX, size_of};
use crate::protocol::Tier;
use crate::server::config::draft::Draft;
use crate::server::config::forms::{CLAIM, FILE, ROLE, TEXT, VARIABLE};
use crate::server::config::{AuditConfig, AuthConfig, BuiltInConfig, Config, DefaultPermission, JwtAlgorithm, JwtConfig};
use crate::server::millis;

/// The longest lifetime of a session: ten years.
const SESSION_MAX_MS: u64 = 3_650 * DAY_MS;
const YEAR_MS: u64 = 365 * DAY_MS;
const TIB: u64 = 1 << 40;

/// A number of built-in identity.
macro_rules! built_in {
    ($name:literal, $of:literal, $min:literal..=$max:expr, |$part:ident| $get:expr, |$draft:ident, $number:ident| $set:expr) => {
        whole!(
            $name,
            $of,
            $min..=$max,
            |config| built_in(config).map(|$part| $get),
            |draft, $number| {
                let $draft = draft.built_in();
                $set
            }
        )
    };
}

/// A number of the audit log.
macro_rules! audit {
    ($name:literal, $of:literal, $min:literal..=$max:expr, |$part:ident| $get:expr, |$draft:ident, $number:ident| $set:expr) => {
        whole!(
            $name,
            $of,
            $min..=$max,
            |config| audit(config).map(|$part| $get),
            |draft, $number| {
                let $draft = draft.audit();
                $set
            }
        )
    };
}

/// Who may log in, and what is written down of it.
pub(super) static KEYS: &[Key] = &[
    Key {
        name: "auth",
        kind: Kind::Part { turn: turn_auth },
    },
    Key {
        name: "auth.required",
        kind: Kind::Switch {
            set: |draft, yes| draft.auth().required = yes,
        },
    },
    Key {
        name: "auth.anonymousRoles",
        kind: Kind::Texts {
            form: &ROLE,
            get: |config| auth(config).map(|auth| auth.anonymous_roles.as_slice()),
            set: |draft, roles| draft.auth().anonymous_roles = roles,
        },
    },
    Key {
        name: "auth.jwt",
        kind: Kind::Part { turn: turn_jwt },
    },
    Key {
        name: "auth.jwt.algorithms",
        kind: Kind::Choices {
            words: &["HS256", "RS256", "ES256", "EdDSA"],
            set: |draft, words| draft.jwt().algorithms = words.iter().filter_map(|word| JwtAlgorithm::parse(word)).collect(),
        },
    },
    Key {
        name: "auth.jwt.secret",
        kind: Kind::Secret {
            get: |config| jwt(config)?.secret.as_ref(),
            sources: |draft| &mut draft.jwt_secret,
        },
    },
    text_of!("auth.jwt.secretEnv", VARIABLE, |_config| None, |draft, text| draft
        .jwt_secret
        .variable =
        Some(text.into())),
    text_of!("auth.jwt.secretFile", FILE, |_config| None, |draft, text| draft.jwt_secret.file =
        Some(text.into())),
    text_of!(
        "auth.jwt.publicKeyFile",
        FILE,
        |config| text_of_path(jwt(config)?.public_key_file.as_ref()),
        |draft, text| draft.jwt().public_key_file = Some(text.into())
    ),
    text_of!(
        "auth.jwt.jwksFile",
        FILE,
        |config| text_of_path(jwt(config)?.jwks_file.as_ref()),
        |draft, text| draft.jwt().jwks_file = Some(text.into())
    ),
    text_of!("auth.jwt.issuer", TEXT, |config| jwt(config)?.issuer.as_deref(), |draft, text| {
        draft.jwt().issuer = Some(text.into())
    }),
    text_of!(
        "auth.jwt.audience",
        TEXT,
        |config| jwt(config)?.audience.as_deref(),
        |draft, text| draft.jwt().audience = Some(text.into())
    ),
    whole!(
        "auth.jwt.leewaySecs",
        "seconds",
        0..=600,
        |config| jwt(config).map(|jwt| jwt.leeway.as_secs()),
        |draft, number| draft.jwt().leeway = Duration::from_secs(number)
    ),
    text_of!(
        "auth.jwt.userClaim",
        CLAIM,
        |config| Some(&jwt(config)?.user_claim),
        |draft, text| draft.jwt().user_claim = text.into()
    ),
    text_of!(
        "auth.jwt.rolesClaim",
        CLAIM,
        |config| Some(&jwt(config)?.roles_claim),
        |draft, text| draft.jwt().roles_claim = text.into()
    ),
    Key {
        name: "auth.tokens",
        kind: Kind::Tokens,
    },
    Key {
        name: "auth.builtIn",
        kind: Kind::Part { turn: turn_built_in },
    },
    Key {
        name: "auth.builtIn.adminSecret",
        kind: Kind::Secret {
            get: |config| built_in(config)?.admin_secret.as_ref(),
            sources: |draft| &mut draft.admin_secret,
        },
    },
    // As the TypeScript server has it, beside `"auth": true`.
    Key {
        name: "adminSecret",
        kind: Kind::Secret {
            get: |_config| None,
            sources: |draft| &mut draft.admin_secret,
        },
    },
    text_of!("auth.builtIn.adminSecretEnv", VARIABLE, |_config| None, |draft, text| draft
        .admin_secret
        .variable =
        Some(text.into())),
    text_of!("auth.builtIn.adminSecretFile", FILE, |_config| None, |draft, text| draft
        .admin_secret
        .file =
        Some(text.into())),
    Key {
        name: "auth.builtIn.keepBootstrapSecret",
        kind: Kind::Switch {
            set: |draft, yes| draft.built_in().keep_bootstrap_secret = yes,
        },
    },
    built_in!(
        "auth.builtIn.sessionTtl",
        "milliseconds",
        100..=SESSION_MAX_MS,
        |part| millis(part.session_ttl),
        |part, number| part.session_ttl = Duration::from_millis(number)
    ),
    built_in!(
        "auth.builtIn.sessionIdleMs",
        "milliseconds",
        100..=SESSION_MAX_MS,
        |part| millis(part.session_idle),
        |part, number| part.session_idle = Duration::from_millis(number)
    ),
    built_in!(
        "auth.builtIn.passwordMinLength",
        "characters",
        1..=128,
        |part| part.password_min_length as u64,
        |part, number| part.password_min_length = size_of(number)
    ),
    built_in!(
        "auth.builtIn.maxSessionsPerUser",
        "",
        1..=10_000,
        |part| part.max_sessions_per_user as u64,
        |part, number| part.max_sessions_per_user = size_of(number)
    ),
    built_in!(
        "auth.builtIn.loginRateLimit.maxAttempts",
        "",
        1..=1_000_000,
        |part| part.login_rate_limit.max_attempts as u64,
        |part, number| part.login_rate_limit.max_attempts = size_of(number)
    ),
    built_in!(
        "auth.builtIn.loginRateLimit.windowMs",
        "milliseconds",
        10..=7 * DAY_MS,
        |part| millis(part.login_rate_limit.window),
        |part, number| part.login_rate_limit.window = Duration::from_millis(number)
    ),
    built_in!(
        "auth.builtIn.argon2.memoryKib",
        "KiB",
        19_456..=4_194_304,
        |part| part.argon2.memory_kib.into(),
        |part, number| part.argon2.memory_kib = small(number)
    ),
    built_in!(
        "auth.builtIn.argon2.passes",
        "passes",
        2..=100,
        |part| part.argon2.passes.into(),
        |part, number| part.argon2.passes = small(number)
    ),
    built_in!(
        "auth.builtIn.argon2.lanes",
        "lanes",
        1..=16,
        |part| part.argon2.lanes.into(),
        |part, number| part.argon2.lanes = small(number)
    ),
    Key {
        name: "auth.permissions.default",
        kind: Kind::Choice {
            words: &["allow", "deny"],
            set: set_default_permission,
        },
    },
    Key {
        name: "auth.permissions.rules",
        kind: Kind::Permissions,
    },
    Key {
        name: "audit",
        kind: Kind::Part { turn: turn_audit },
    },
    Key {
        name: "audit.tiers",
        kind: Kind::Choices {
            words: &["read", "write", "admin"],
            set: set_tiers,
        },
    },
    audit!(
        "audit.maxEntries",
        "",
        1..=10_000_000,
        |part| part.max_entries as u64,
        |part, number| part.max_entries = size_of(number)
    ),
    audit!(
        "audit.maxBytes",
        "bytes",
        65_536..=U32_MAX,
        |part| part.max_bytes as u64,
        |part, number| part.max_bytes = size_of(number)
    ),
    text_of!(
        "audit.file",
        FILE,
        |config| text_of_path(audit(config)?.file.as_ref()),
        |draft, text| draft.audit().file = Some(text.into())
    ),
    audit!(
        "audit.fileMaxBytes",
        "bytes",
        65_536..=TIB,
        |part| part.file_max_bytes,
        |part, number| part.file_max_bytes = number
    ),
    audit!(
        "audit.fileKeep",
        "files",
        1..=10_000,
        |part| part.file_keep as u64,
        |part, number| part.file_keep = size_of(number)
    ),
    time!("revocation.blacklistTtlMs", 0..=YEAR_MS, revocation_ttl),
];

fn auth(config: &Config) -> Option<&AuthConfig> {
    config.auth.as_ref()
}

fn jwt(config: &Config) -> Option<&JwtConfig> {
    auth(config)?.jwt.as_ref()
}

fn built_in(config: &Config) -> Option<&BuiltInConfig> {
    auth(config)?.built_in.as_ref()
}

fn audit(config: &Config) -> Option<&AuditConfig> {
    config.audit.as_ref()
}

fn text_of_path(path: Option<&PathBuf>) -> Option<&str> {
    path.map(PathBuf::as_path).and_then(Path::to_str)
}

/// `"auth": true` stands for users of our own, as with the TypeScript server.
fn turn_auth(draft: &mut Draft, turn: Turn) {
    match turn {
        Turn::Off => draft.config.auth = None,
        Turn::On => _ = draft.built_in(),
        Turn::Described => _ = draft.auth(),
    }
}

fn turn_jwt(draft: &mut Draft, turn: Turn) {
    match turn {
        Turn::Off => draft.auth().jwt = None,
        Turn::On | Turn::Described => _ = draft.jwt(),
    }
}

fn turn_built_in(draft: &mut Draft, turn: Turn) {
    match turn {
        Turn::Off => draft.auth().built_in = None,
        Turn::On | Turn::Described => _ = draft.built_in(),
    }
}

fn turn_audit(draft: &mut Draft, turn: Turn) {
    match turn {
        Turn::Off => draft.config.audit = None,
        Turn::On | Turn::Described => _ = draft.audit(),
    }
}

fn set_default_permission(draft: &mut Draft, word: &str) {
    let default = match word {
        "allow" => DefaultPermission::Allow,
        _ => DefaultPermission::Deny,
    };
    draft.permissions().default = Some(default);
}

fn set_tiers(draft: &mut Draft, words: &[&str]) {
    let tiers = [Tier::Read, Tier::Write, Tier::Admin];
    draft.audit().tiers = tiers.into_iter().filter(|tier| words.contains(&tier.as_str())).collect();
}

/// A number within its bounds, all of which fit.
fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
