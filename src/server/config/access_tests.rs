//! Access from the outside: what files, variables and flags say of who may log in, and that secrets stay secrets.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::protocol::Tier;

const SECRET: &str = "0123456789abcdef0123456789abcdef";
const OTHER: &str = "fedcba9876543210fedcba9876543210";

fn file(value: &Value) -> Sources {
    Sources::new().file_text(Path::new("noex.json"), &value.to_string())
}

fn auth(value: Value) -> Sources {
    file(&json!({ "auth": value }))
}

fn resolved(sources: Sources) -> Resolved {
    sources.resolve().unwrap_or_else(|error| panic!("{error}"))
}

fn auth_of(sources: Sources) -> AuthConfig {
    resolved(sources).config.auth.expect("logins are on")
}

fn faults(sources: Sources) -> Vec<String> {
    match sources.resolve() {
        Ok(_) => Vec::new(),
        Err(error) => error.faults().iter().map(Fault::to_string).collect(),
    }
}

fn check_fault(sources: Sources, said: &str) {
    let faults = faults(sources);
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].contains(said), "{faults:?}");
}

fn admin_secret(sources: Sources) -> Option<Secret> {
    auth_of(sources).built_in.expect("there are users of our own").admin_secret
}

fn jwt_secret(sources: Sources) -> Option<Secret> {
    auth_of(sources).jwt.expect("there are signed tokens").secret
}

#[test]
fn everything_that_the_file_says_of_access_reaches_its_field() {
    let config = resolved(file(&json!({
        "auth": {
            "required": false,
            "anonymousRoles": ["guest"],
            "jwt": {
                "algorithms": ["HS256", "EdDSA"], "secret": SECRET, "publicKeyFile": "key.pem", "jwksFile": "jwks.json",
                "issuer": "https://issuer.example", "audience": "noex", "leewaySecs": 5, "userClaim": "email", "rolesClaim": "groups"
            },
            "tokens": {
                "a-static-token-of-some-length": { "userId": "ida", "roles": ["writer"], "expiresAt": 4_102_444_800_000_u64, "metadata": { "team": 7 } },
                "another-token-of-some-length": { "userId": "olga" }
            },
            "permissions": { "default": "deny", "rules": [{ "role": "clerk", "allow": "store.*", "where": { "owner": "{{ session.userId }}" } }] }
        },
        "audit": { "tiers": ["write", "admin"], "maxEntries": 5, "maxBytes": 65_536, "file": "a.jsonl", "fileMaxBytes": 65_536, "fileKeep": 2 },
        "revocation": { "blacklistTtlMs": 0 },
        "connectionLimits": { "unauthenticatedTimeoutMs": 70 }
    })))
    .config;
    let rule = json!({ "role": "clerk", "allow": "store.*", "where": { "owner": "{{ session.userId }}" } });
    let expected = AuthConfig {
        required: false,
        anonymous_roles: vec!["guest".to_owned()],
        jwt: Some(JwtConfig {
            algorithms: vec![JwtAlgorithm::Hs256, JwtAlgorithm::EdDsa],
            secret: Some(SECRET.into()),
            public_key_file: Some("key.pem".into()),
            jwks_file: Some("jwks.json".into()),
            issuer: Some("https://issuer.example".to_owned()),
            audience: Some("noex".to_owned()),
            leeway: Duration::from_secs(5),
            user_claim: "email".to_owned(),
            roles_claim: "groups".to_owned(),
        }),
        tokens: vec![
            StaticToken {
                token: "a-static-token-of-some-length".into(),
                user_id: "ida".to_owned(),
                roles: vec!["writer".to_owned()],
                metadata: [("team".to_owned(), json!(7))].into_iter().collect(),
                expires_at: Some(4_102_444_800_000),
            },
            StaticToken {
                token: "another-token-of-some-length".into(),
                user_id: "olga".to_owned(),
                roles: Vec::new(),
                metadata: Map::new(),
                expires_at: None,
            },
        ],
        permissions: Some(PermissionsConfig {
            default: Some(DefaultPermission::Deny),
            rules: Some(vec![PermissionRule::parse(&rule).unwrap()]),
            check: None,
        }),
        ..AuthConfig::default()
    };
    assert_eq!(config.auth, Some(expected));
    let audit = AuditConfig {
        tiers: vec![Tier::Write, Tier::Admin],
        max_entries: 5,
        max_bytes: 65_536,
        file: Some("a.jsonl".into()),
        file_max_bytes: 65_536,
        file_keep: 2,
        on_entry: None,
    };
    assert_eq!(config.audit, Some(audit));
    assert_eq!(config.revocation_ttl, Duration::ZERO);
    assert_eq!(config.connection_limits.unauthenticated_timeout, Duration::from_millis(70));
}

#[test]
fn built_in_identity_reaches_its_fields() {
    let built_in = auth_of(auth(json!({ "builtIn": {
        "adminSecret": SECRET, "keepBootstrapSecret": true, "sessionTtl": 700, "sessionIdleMs": 800, "passwordMinLength": 12,
        "maxSessionsPerUser": 2, "loginRateLimit": { "maxAttempts": 3, "windowMs": 1000 },
        "argon2": { "memoryKib": 19_456, "passes": 2, "lanes": 4 }
    } })))
    .built_in;
    let expected = BuiltInConfig {
        admin_secret: Some(SECRET.into()),
        keep_bootstrap_secret: true,
        session_ttl: Duration::from_millis(700),
        session_idle: Duration::from_millis(800),
        password_min_length: 12,
        max_sessions_per_user: 2,
        login_rate_limit: LoginRateLimitConfig {
            max_attempts: 3,
            window: Duration::from_secs(1),
        },
        argon2: Argon2Config {
            memory_kib: 19_456,
            passes: 2,
            lanes: 4,
        },
    };
    assert_eq!(built_in, Some(expected));
}

#[test]
fn parts_are_turned_on_by_true_and_by_an_object() {
    let audit = |value: Value| resolved(file(&json!({ "audit": value }))).config.audit;
    assert_eq!(audit(json!({})), Some(AuditConfig::default()));
    assert_eq!(audit(json!(true)), Some(AuditConfig::default()));
    assert_eq!(audit(json!(false)), None);
    check_fault(
        file(&json!({ "audit": "on" })),
        "audit: expected an object, true or false, found a text",
    );
    // As the TypeScript server has it.
    let as_there = file(&json!({ "auth": true, "adminSecret": SECRET }));
    assert_eq!(admin_secret(as_there), Some(SECRET.into()));
    let by_flags = Sources::new()
        .flag("--auth", "auth", "true")
        .flag("--admin-secret", "adminSecret", SECRET);
    assert_eq!(admin_secret(by_flags), Some(SECRET.into()));
    assert_eq!(resolved(auth(json!(false))).config.auth, None);
}

#[test]
fn with_logins_the_server_listens_openly_unless_told_otherwise() {
    let host = |value: Value| resolved(file(&value)).config.host;
    let logins = json!({ "builtIn": { "adminSecret": SECRET } });
    assert_eq!(host(json!({})), "127.0.0.1");
    assert_eq!(host(json!({ "auth": logins })), "0.0.0.0");
    assert_eq!(host(json!({ "auth": logins, "host": "127.0.0.1" })), "127.0.0.1");
}

#[test]
fn somebody_must_be_able_to_log_in() {
    for nobody in [json!({}), json!({ "tokens": {} }), json!({ "required": false, "permissions": {} })] {
        check_fault(
            auth(nobody),
            "noex.json: auth: expected \"jwt\", \"tokens\" or \"builtIn\" in it: as it is, nobody could log in",
        );
    }
    let nobody = Config {
        auth: Some(AuthConfig::default()),
        ..Config::default()
    };
    assert_eq!(nobody.check().unwrap_err().faults().len(), 1);
    let validator = TokenValidator::new(|_| async { Ok(None) });
    let by_program = AuthConfig {
        validate: Some(validator),
        ..AuthConfig::default()
    };
    let config = Config {
        auth: Some(by_program),
        ..Config::default()
    };
    assert_eq!(config.check(), Ok(()));
}

#[test]
fn users_of_our_own_and_tokens_of_others_exclude_each_other() {
    let built_in = json!({ "adminSecret": SECRET });
    let token = json!({ "a-static-token-of-some-length": { "userId": "ida" } });
    check_fault(
        auth(json!({ "builtIn": built_in, "tokens": token })),
        "auth.builtIn: cannot be had together with tokens",
    );
    check_fault(
        auth(json!({ "builtIn": built_in, "jwt": { "secret": SECRET } })),
        "auth.builtIn: cannot be had together",
    );
    check_fault(
        auth(json!({ "builtIn": built_in, "permissions": { "default": "deny" } })),
        "auth.permissions: belongs to tokens of others",
    );
    check_fault(
        auth(json!({ "builtIn": built_in, "required": false })),
        "auth.required: expected true",
    );
}

#[test]
fn algorithms_and_keys_go_together() {
    let jwt = |value: Value| auth(json!({ "jwt": value }));
    check_fault(jwt(json!({})), "auth.jwt: expected a secret for HS256");
    check_fault(
        jwt(json!({ "algorithms": ["RS256"] })),
        "auth.jwt: expected \"publicKeyFile\" or \"jwksFile\"",
    );
    check_fault(
        jwt(json!({ "secret": SECRET, "jwksFile": "k.json" })),
        "auth.jwt.algorithms: expected \"RS256\"",
    );
    check_fault(
        jwt(json!({ "algorithms": [], "jwksFile": "k.json" })).variables([("X", "")]),
        "auth.jwt.algorithms",
    );
    check_fault(
        jwt(json!({ "algorithms": ["ES256"], "jwksFile": "k.json", "secret": SECRET })),
        "auth.jwt.secret: is used by HS256 alone",
    );
    check_fault(
        jwt(json!({ "algorithms": ["none"], "secret": SECRET })),
        "auth.jwt.algorithms[0]: expected \"HS256\", \"RS256\", \"ES256\" or \"EdDSA\", found the text \"none\"",
    );
    assert!(
        faults(jwt(
            json!({ "algorithms": ["HS256", "ES256"], "jwksFile": "k.json", "secret": SECRET })
        ))
        .is_empty()
    );
}

#[test]
fn a_secret_comes_from_a_flag_else_the_environment_else_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("secret");
    std::fs::write(&kept, format!("{OTHER}\r\n")).unwrap();
    let in_file = json!({ "builtIn": { "adminSecret": SECRET } });
    let beside = json!({ "builtIn": { "adminSecretFile": kept } });
    let named = json!({ "builtIn": { "adminSecretEnv": "MY_SECRET", "adminSecret": SECRET } });
    assert_eq!(admin_secret(auth(in_file.clone())), Some(SECRET.into()));
    assert_eq!(admin_secret(auth(beside.clone())), Some(OTHER.into()));
    let by_variable = auth(in_file.clone()).variables([("NOEX_ADMIN_SECRET", OTHER)]);
    assert_eq!(admin_secret(by_variable.clone()), Some(OTHER.into()));
    assert_eq!(
        admin_secret(by_variable.flag("--admin-secret", "adminSecret", SECRET)),
        Some(SECRET.into())
    );
    assert_eq!(
        admin_secret(auth(named.clone()).variables([("MY_SECRET", OTHER)])),
        Some(OTHER.into())
    );
    assert_eq!(admin_secret(auth(named)), Some(SECRET.into()));
    assert_eq!(jwt_secret(auth(json!({ "jwt": { "secretFile": kept } }))), Some(OTHER.into()));
    assert_eq!(
        jwt_secret(auth(json!({ "jwt": {} })).variables([("NOEX_JWT_SECRET", SECRET)])),
        Some(SECRET.into())
    );
    check_fault(
        auth(json!({ "builtIn": { "adminSecretEnv": "MY_SECRET" } })),
        "auth.builtIn.adminSecretEnv: the environment variable MY_SECRET is not set",
    );
    check_fault(
        auth(json!({ "jwt": { "secretFile": "no/such/file" } })),
        "auth.jwt.secretFile: no/such/file cannot be read",
    );
    check_fault(
        auth(json!({ "jwt": { "secretFile": kept, "secret": SECRET } })),
        "auth.jwt.secretFile: expected either",
    );
}

#[test]
fn secrets_under_32_bytes_are_refused_wherever_they_stand_and_shown_nowhere() {
    let short = &SECRET[..31];
    let folder = tempfile::tempdir().unwrap();
    let kept = folder.path().join("secret");
    std::fs::write(&kept, format!("{short}\n")).unwrap();
    let built_in = || auth(json!({ "builtIn": {} }));
    let all = [
        auth(json!({ "jwt": { "secret": short } })),
        auth(json!({ "jwt": { "secretFile": kept } })),
        auth(json!({ "builtIn": { "adminSecret": short } })),
        file(&json!({ "auth": true, "adminSecret": short })),
        built_in().variables([("NOEX_ADMIN_SECRET", short)]),
        built_in().flag("--admin-secret", "adminSecret", short),
    ];
    for sources in all {
        let faults = faults(sources);
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert!(
            faults[0].contains("expected a secret of 32 bytes or more") && !faults[0].contains(short),
            "{faults:?}"
        );
    }
    let config = Config {
        auth: Some(AuthConfig {
            built_in: Some(BuiltInConfig {
                admin_secret: Some(short.into()),
                ..BuiltInConfig::default()
            }),
            ..AuthConfig::default()
        }),
        ..Config::default()
    };
    assert!(config.check().unwrap_err().to_string().contains("auth.builtIn.adminSecret"));
}

#[test]
fn a_secret_that_protects_nothing_is_refused() {
    check_fault(file(&json!({ "adminSecret": SECRET })), "adminSecret: protects nothing");
    check_fault(
        Sources::new().flag("--admin-secret", "adminSecret", SECRET),
        "--admin-secret: protects nothing",
    );
    // The environment may be there for others.
    let strange = resolved(Sources::new().variables([("NOEX_ADMIN_SECRET", SECRET), ("NOEX_JWT_SECRET", "x")]));
    assert_eq!((strange.config, strange.warnings.len()), (Config::default(), 2));
}

#[test]
fn nothing_that_is_wrong_with_tokens_shows_a_token() {
    let written = json!({
        "tok-0-hidden-hidden": "tok-9-hidden",
        "": { "userId": "ida" },
        "tok-2-hidden-hidden": { "user": "ida", "roles": "writer", "expiresAt": "soon", "metadata": [] },
        "tok-3-hidden-hidden": { "userId": "", "roles": ["a", 5] },
    });
    let all = faults(auth(json!({ "tokens": written }))).join("\n");
    assert!(!all.contains("hidden"), "{all}");
    insta::assert_snapshot!(all);
    for value in [json!("tok-hidden"), json!(["tok-hidden"])] {
        for key in ["tokens", "jwt", "builtIn", "permissions"] {
            let all = faults(auth(json!({ key: value }))).join("\n");
            assert!(all.contains(&format!("auth.{key}: expected")) && !all.contains("hidden"), "{all}");
        }
        let all = faults(auth(value)).join("\n");
        assert!(all.contains("auth: expected an object") && !all.contains("hidden"), "{all}");
    }
}

#[test]
fn sources_and_configurations_do_not_show_secrets_when_they_are_printed() {
    let sources = auth(json!({ "jwt": { "secret": SECRET }, "tokens": { OTHER: { "userId": "ida" } } }))
        .variables([("NOEX_JWT_SECRET", OTHER)])
        .flag("--admin-secret", "adminSecret", SECRET);
    let printed = format!("{sources:?}");
    assert!(printed.contains("NOEX_JWT_SECRET"), "{printed}");
    let resolved = format!(
        "{:?}",
        resolved(auth(
            json!({ "jwt": { "secret": SECRET }, "tokens": { OTHER: { "userId": "ida" } } })
        ))
    );
    for text in [printed, resolved] {
        assert!(!text.contains(SECRET) && !text.contains(OTHER), "{text}");
    }
}

#[test]
fn the_same_token_twice_is_refused() {
    let token = StaticToken {
        token: OTHER.into(),
        user_id: "ida".to_owned(),
        roles: Vec::new(),
        metadata: Map::new(),
        expires_at: None,
    };
    let config = Config {
        auth: Some(AuthConfig {
            tokens: vec![token.clone(), token],
            ..AuthConfig::default()
        }),
        ..Config::default()
    };
    let error = config.check().unwrap_err();
    assert_eq!(error.faults()[0].place.to_string(), "auth.tokens[1]");
}

#[test]
fn a_key_that_stands_in_a_file_twice_is_refused_with_its_place() {
    let all = |text: &str| {
        let faults = faults(Sources::new().file_text(Path::new("noex.json"), text));
        let repeated: Vec<_> = faults
            .iter()
            .filter_map(|fault| fault.strip_suffix(": this key is there already")?.strip_prefix("noex.json: "))
            .map(str::to_owned)
            .collect();
        assert!(!faults.join("\n").contains("hidden"), "{faults:?}");
        repeated
    };
    let table: [(&str, &[&str]); 9] = [
        (r#"{"port":1,"host":"127.0.0.1","port":2,"port":3}"#, &["port", "port"]),
        (r#"{"heartbeat":{"timeoutMs":50,"timeoutMs":50}}"#, &["heartbeat.timeoutMs"]),
        (
            r#"{"auth":{"tokens":{"hidden-1":{"userId":"a"},"hidden-1":{"userId":"b","userId":"c"}},
                "permissions":{"default":"deny","default":"allow","rules":[{"role":"a","role":"b","allow":"*"}]}}}"#,
            &[
                "auth.tokens[1]",
                "auth.tokens[1].userId",
                "auth.permissions.default",
                "auth.permissions.rules[0].role",
            ],
        ),
        // Whatever stands in a wrong place may be tokens.
        (
            r#"{"auth":{"token":{"hidden":1,"hidden":{"hidden":1,"hidden":2}}}}"#,
            &["auth.token[1]", "auth.token[1][1]"],
        ),
        (r#"{"tokens":[{"hidden":1,"hidden":2}]}"#, &["tokens[0][1]"]),
        (
            r#"{"auth":true,"auth":{"jwt":{"secret":"hidden","secret":"hidden"}}}"#,
            &["auth", "auth.jwt.secret"],
        ),
        (
            r#"{"buckets":{"a":{"key":"id","schema":{"id":{"type":"string","type":"number"}}}}}"#,
            &["buckets.a.schema.id.type"],
        ),
        (r#"{"colour":1,"colour":2}"#, &["colour"]),
        (
            r#"{"buckets":{"a":{"key":"id","schema":{"id":{"type":"string"}}}},"trustedProxies":["10.0.0.1","10.0.0.1"]}"#,
            &[],
        ),
    ];
    for (text, expected) in table {
        assert_eq!(all(text), expected, "{text}");
    }
}

#[test]
fn malformed_permission_rules_are_named_by_place_with_what_was_meant() {
    let rules = json!([
        { "role": "clerk", "allow": "store.*" },
        { "role": "", "alow": "store.*", "allow": [] },
        "everything",
        { "role": "reader", "allow": ["store.get*", "stroe.*", "rules.*", "procedures.call"], "topics": ["order*"], "buckets": ["_users"] },
        { "role": "reader", "allow": "store.gte", "where": { "owner": { "$neq": "{{ session.userId" }, "{{ session.metadata.f }}": 1 } },
    ]);
    let tokens = json!({ OTHER: { "userId": "ida" } });
    insta::assert_snapshot!(
        faults(auth(
            json!({ "tokens": tokens, "permissions": { "defualt": "deny", "rules": rules } })
        ))
        .join("\n")
    );
}

#[test]
fn what_works_and_is_probably_not_meant_is_warned_about() {
    let warnings = |sources: Sources| resolved(sources).warnings.join("\n");
    let check = |sources: Sources, said: &str| {
        let said_really = warnings(sources);
        assert!(said_really.contains(said) && !said_really.contains(SECRET), "{said_really}");
    };
    check(
        auth(json!({ "jwt": { "secret": SECRET } })),
        "auth.jwt.secret: the secret stands in the configuration file",
    );
    check(
        auth(json!({ "builtIn": {} })).flag("--admin-secret", "adminSecret", SECRET),
        "--admin-secret: every user",
    );
    check(auth(json!({ "builtIn": {} })), "without an admin secret");
    check(
        auth(json!({ "tokens": { "tk": { "userId": "ida" } } })),
        "auth.tokens: 1 of 1 are shorter than 16 bytes",
    );
    check(
        auth(json!({ "tokens": { OTHER: { "userId": "ida" } }, "anonymousRoles": ["reader"] })),
        "auth.anonymousRoles: nobody has them",
    );
    let tokens = json!({ OTHER: { "userId": "ida" } });
    let bounded = |role: &str| json!([{ "role": role, "allow": ["store.get", "store.all"], "where": { "owner": "{{ session.userId }}" } }]);
    let with = |permissions: Value| auth(json!({ "tokens": tokens, "permissions": permissions }));
    check(
        with(json!({ "default": "allow", "rules": bounded("reader") })),
        "auth.permissions.rules[0]: \"default\": \"allow\" allows sessions with \"reader\" what no rule of theirs names on the same \
         buckets, without the bounds of this one: store.where, store.findOne, store.count, 12 more",
    );
    check(
        with(json!({ "default": "allow", "rules": bounded("clerk") })),
        "sessions with \"clerk\", and a built-in role beside it, what",
    );
    assert!(!warnings(with(json!({ "rules": bounded("reader") }))).contains("rules[0]"));
    check(file(&json!({ "rules": { "enabled": true, "rules": [] } })), "no rule engine");
    let by_variable = auth(json!({ "jwt": {} })).variables([("NOEX_JWT_SECRET", SECRET)]);
    assert!(!warnings(by_variable).contains("secret"));
}

#[cfg(unix)]
#[test]
fn files_with_secrets_that_everybody_can_read_are_warned_about() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let (secret, config) = (folder.path().join("secret"), folder.path().join("noex.json"));
    std::fs::write(&secret, SECRET).unwrap();
    let written = json!({ "auth": { "jwt": { "secretFile": secret }, "tokens": { OTHER: { "userId": "ida" } } } });
    std::fs::write(&config, written.to_string()).unwrap();
    let count = |mode: u32| {
        for file in [&secret, &config] {
            std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let warnings = resolved(Sources::new().file(&config)).warnings;
        warnings
            .iter()
            .filter(|warning| warning.contains("every user of this machine"))
            .count()
    };
    assert_eq!((count(0o600), count(0o640), count(0o644)), (0, 0, 2));
}

#[test]
fn rules_may_be_mentioned_and_not_given() {
    assert!(faults(file(&json!({ "rules": { "enabled": false, "rules": [] } }))).is_empty());
    check_fault(
        file(&json!({ "rules": { "rules": [{ "id": "r" }] } })),
        "rules.rules: expected an empty list, for this version has no rule engine, found a list",
    );
}
