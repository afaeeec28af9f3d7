//! What of a new configuration a running server can take over.

use super::{AuthConfig, Config, Storage};

/// What becomes of a new configuration.
#[derive(Debug)]
pub(crate) struct Reload {
    /// What the server runs with from now on: as before, with what can be taken over.
    pub(crate) config: Config,
    /// The keys whose new values take a restart.
    pub(crate) waiting: Vec<&'static str>,
}

impl Reload {
    /// Takes over tokens, keys of tokens and permissions, where both configurations know tokens of others.
    pub(crate) fn of(running: &Config, new: &Config) -> Self {
        let mut config = running.clone();
        let mut waiting = Vec::new();
        match (&mut config.auth, &new.auth) {
            (Some(auth), Some(new)) if auth.built_in.is_none() && new.built_in.is_none() => {
                waiting.extend(differences_of_auth(auth, new));
                auth.jwt.clone_from(&new.jwt);
                auth.tokens.clone_from(&new.tokens);
                auth.permissions.clone_from(&new.permissions);
            }
            (auth, new) if *auth == *new => {}
            (Some(_) | None, Some(_) | None) => waiting.push("auth"),
        }
        waiting.extend(differences(running, new));
        Self { config, waiting }
    }
}

/// What differs of all that is not about logins. Every field is named, so that a new one is not forgotten.
fn differences(running: &Config, new: &Config) -> Vec<&'static str> {
    let Config {
        host,
        port,
        path,
        name,
        storage,
        max_payload_bytes,
        expose_error_details,
        allowed_origins,
        max_connections,
        max_connections_per_ip,
        trusted_proxies,
        rate_limit,
        heartbeat,
        backpressure,
        connection_limits,
        store_limits,
        shutdown,
        buckets,
        queries,
        auth: _,
        audit,
        revocation_ttl,
        // Whether differences are put in order at the start says nothing of the run.
        apply: _,
    } = new;
    let differ = [
        ("host", *host != running.host),
        ("port", *port != running.port),
        ("path", *path != running.path),
        ("name", *name != running.name),
        ("dataDir", data_dir(storage) != data_dir(&running.storage)),
        ("durability", durability(storage) != durability(&running.storage)),
        ("maxPayloadBytes", *max_payload_bytes != running.max_payload_bytes),
        ("exposeErrorDetails", *expose_error_details != running.expose_error_details),
        ("allowedOrigins", *allowed_origins != running.allowed_origins),
        ("maxConnections", *max_connections != running.max_connections),
        ("maxConnectionsPerIp", *max_connections_per_ip != running.max_connections_per_ip),
        ("trustedProxies", *trusted_proxies != running.trusted_proxies),
        ("rateLimit", *rate_limit != running.rate_limit),
        ("heartbeat", *heartbeat != running.heartbeat),
        ("backpressure", *backpressure != running.backpressure),
        ("connectionLimits", *connection_limits != running.connection_limits),
        ("storeLimits", *store_limits != running.store_limits),
        ("shutdown", *shutdown != running.shutdown),
        ("buckets", *buckets != running.buckets),
        ("queries", *queries != running.queries),
        ("audit", *audit != running.audit),
        ("revocation", *revocation_ttl != running.revocation_ttl),
    ];
    named(differ)
}

/// What differs of logins by tokens of others, and cannot be taken over.
fn differences_of_auth(running: &AuthConfig, new: &AuthConfig) -> Vec<&'static str> {
    let AuthConfig {
        required,
        anonymous_roles,
        jwt: _,
        tokens: _,
        validate,
        built_in: _,
        permissions: _,
    } = new;
    named([
        ("auth.required", *required != running.required),
        ("auth.anonymousRoles", *anonymous_roles != running.anonymous_roles),
        ("auth.validate", *validate != running.validate),
    ])
}

fn named<const N: usize>(differ: [(&'static str, bool); N]) -> Vec<&'static str> {
    differ.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
}

fn data_dir(storage: &Storage) -> Option<&std::path::Path> {
    match storage {
        Storage::Memory => None,
        Storage::Disk { dir, .. } => Some(dir),
    }
}

fn durability(storage: &Storage) -> Option<super::SyncPolicy> {
    match storage {
        Storage::Memory => None,
        Storage::Disk { sync, .. } => Some(*sync),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Map, json};

    use super::*;
    use crate::server::config::{BuiltInConfig, JwtConfig, PermissionRule, PermissionsConfig, StaticToken};

    fn token(token: &str) -> StaticToken {
        StaticToken {
            token: token.into(),
            user_id: "ida".to_owned(),
            roles: Vec::new(),
            metadata: Map::new(),
            expires_at: None,
        }
    }

    fn with(auth: AuthConfig) -> Config {
        Config {
            auth: Some(auth),
            ..Config::default()
        }
    }

    #[test]
    fn tokens_keys_and_permissions_are_taken_over_and_nothing_else_is() {
        let running = with(AuthConfig {
            tokens: vec![token("old")],
            ..AuthConfig::default()
        });
        let rule = PermissionRule::parse(&json!({ "role": "clerk", "allow": "*" })).expect("a rule");
        let taken_over = AuthConfig {
            tokens: vec![token("new")],
            jwt: Some(JwtConfig::default()),
            permissions: Some(PermissionsConfig {
                rules: Some(vec![rule]),
                ..PermissionsConfig::default()
            }),
            ..AuthConfig::default()
        };
        let new = Config {
            port: 1,
            revocation_ttl: Duration::ZERO,
            ..with(AuthConfig {
                required: false,
                ..taken_over.clone()
            })
        };
        let reload = Reload::of(&running, &new);
        assert_eq!(reload.config, with(taken_over));
        assert_eq!(reload.waiting, ["auth.required", "port", "revocation"]);
    }

    #[test]
    fn another_kind_of_logins_takes_a_restart() {
        let tokens = with(AuthConfig {
            tokens: vec![token("old")],
            ..AuthConfig::default()
        });
        let built_in = |session_ttl| {
            with(AuthConfig {
                built_in: Some(BuiltInConfig {
                    session_ttl,
                    ..BuiltInConfig::default()
                }),
                ..AuthConfig::default()
            })
        };
        let (short, long) = (built_in(Duration::from_secs(1)), built_in(Duration::from_secs(2)));
        for (running, new) in [
            (&tokens, &short),
            (&short, &tokens),
            (&Config::default(), &tokens),
            (&tokens, &Config::default()),
            (&short, &long),
        ] {
            let reload = Reload::of(running, new);
            assert_eq!((&reload.config, reload.waiting.as_slice()), (running, &["auth"][..]));
        }
        for same in [&tokens, &short, &Config::default()] {
            assert!(Reload::of(same, same).waiting.is_empty());
        }
    }

    #[test]
    fn the_directory_and_the_durability_are_told_apart() {
        let stored = |storage| Config {
            storage,
            ..Config::default()
        };
        let elsewhere = stored(Storage::Disk {
            dir: "elsewhere".into(),
            sync: crate::server::config::SyncPolicy::EveryGroup,
        });
        assert_eq!(Reload::of(&Config::default(), &elsewhere).waiting, ["dataDir"]);
        assert_eq!(
            Reload::of(&Config::default(), &stored(Storage::Memory)).waiting,
            ["dataDir", "durability"]
        );
    }
}
