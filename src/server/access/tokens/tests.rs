//! Tokens as attackers send them, and what becomes of logins when the configuration changes.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};

use super::*;
use crate::protocol::{ConnectionId, Tier};
use crate::server::access::{Access, Judgement, PermissionsConfig, Place, Target};
use crate::server::config::{DefaultPermission, JwtAlgorithm, JwtConfig, PermissionCheck, StaticToken};
use crate::store::Store;

const SECRET: &str = "a secret of tests, and 32 bytes at least";
const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
/// In the year 2100, in seconds.
const FAR: u64 = 4_102_444_800;

fn key(name: &str) -> std::path::PathBuf {
    let keys = concat!(env!("CARGO_MANIFEST_DIR"), "/src/server/access/tokens/test_keys");
    std::path::Path::new(keys).join(name)
}

fn pem(name: &str) -> Vec<u8> {
    std::fs::read(key(name)).unwrap()
}

fn hs256() -> JwtConfig {
    JwtConfig {
        secret: Some(SECRET.into()),
        ..JwtConfig::default()
    }
}

fn public_key(algorithm: JwtAlgorithm, file: &str) -> JwtConfig {
    JwtConfig {
        algorithms: vec![algorithm],
        public_key_file: Some(key(file)),
        ..JwtConfig::default()
    }
}

fn jwt(config: JwtConfig) -> AuthConfig {
    AuthConfig {
        jwt: Some(config),
        ..AuthConfig::default()
    }
}

async fn store() -> Store {
    Store::builder().in_memory().open().await.unwrap()
}

async fn authority(config: &AuthConfig) -> TokenAuthority {
    let revocations = Revocations::open(store().await, Duration::from_secs(3600));
    TokenAuthority::new(config, revocations, Arc::default()).unwrap()
}

fn claims() -> Value {
    json!({ "sub": "ida", "roles": ["writer"], "exp": FAR })
}

fn signed(header: &Header, claims: &Value, key: &EncodingKey) -> String {
    encode(header, claims, key).unwrap()
}

fn signed_hs256(claims: &Value) -> String {
    signed(&Header::default(), claims, &EncodingKey::from_secret(SECRET.as_bytes()))
}

/// A token of these parts, with no regard to what they are.
fn put_together(header: &Value, claims: &Value, signature: &str) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{signature}", part(header), part(claims))
}

async fn log_in(authority: &TokenAuthority, token: &str) -> Result<Login, String> {
    authority
        .log_in(token.into(), ADDRESS)
        .await
        .map_err(|failure| format!("{} {}", failure.code().as_str(), failure.message()))
}

async fn check_refused(authority: &TokenAuthority, token: &str, what: &str) {
    assert_eq!(log_in(authority, token).await.unwrap_err(), "UNAUTHORIZED Invalid token", "{what}");
}

#[tokio::test]
async fn a_token_of_the_configuration_is_taken_letter_by_letter_and_until_its_time_is_over() {
    let token = |token: &str, expires_at| StaticToken {
        token: token.into(),
        user_id: "ida".to_owned(),
        roles: vec!["desk".to_owned()],
        metadata: serde_json::Map::new(),
        expires_at,
    };
    let authority = authority(&AuthConfig {
        tokens: vec![token("tk-1", None), token("tk-old", Some(1_000))],
        ..AuthConfig::default()
    })
    .await;
    let login = log_in(&authority, "tk-1").await.unwrap();
    assert_eq!(login.principal.user_id, "ida");
    for wrong in ["TK-1", " tk-1", "tk-1 ", "tk-", "tk-11", "tk-1\0", "x"] {
        check_refused(&authority, wrong, wrong).await;
    }
    assert_eq!(log_in(&authority, "tk-old").await.unwrap_err(), "UNAUTHORIZED Token has expired");
    assert_eq!(authority.deadline(&login), None);
}

#[tokio::test]
async fn a_token_is_taken_from_each_algorithm_whose_key_is_there() {
    let table = [
        (hs256(), Header::default(), EncodingKey::from_secret(SECRET.as_bytes())),
        (
            public_key(JwtAlgorithm::Rs256, "rsa.pub.pem"),
            Header::new(jsonwebtoken::Algorithm::RS256),
            EncodingKey::from_rsa_pem(&pem("rsa.pem")).unwrap(),
        ),
        (
            public_key(JwtAlgorithm::Es256, "ec.pub.pem"),
            Header::new(jsonwebtoken::Algorithm::ES256),
            EncodingKey::from_ec_pem(&pem("ec.pem")).unwrap(),
        ),
        (
            public_key(JwtAlgorithm::EdDsa, "ed.pub.pem"),
            Header::new(jsonwebtoken::Algorithm::EdDSA),
            EncodingKey::from_ed_pem(&pem("ed.pem")).unwrap(),
        ),
    ];
    for (config, header, key) in table {
        let authority = authority(&jwt(config)).await;
        let token = signed(&header, &claims(), &key);
        let login = log_in(&authority, &token).await.unwrap();
        assert_eq!(
            (login.principal.user_id.as_str(), &*login.principal.roles),
            ("ida", &["writer".to_owned()][..])
        );
        assert_eq!(login.principal.expires_at, Some(FAR * 1000));
        assert_eq!(authority.deadline(&login), Some(FAR * 1000 + 1));
        let (body, signature) = token.rsplit_once('.').unwrap();
        let cut = &signature[..signature.len() - 4];
        for changed in [String::new(), cut.to_owned(), format!("{signature}AAAA"), format!("{signature}=")] {
            check_refused(&authority, &format!("{body}.{changed}"), "another signature").await;
        }
        let mut other = claims();
        other["roles"] = json!(["admin"]);
        let forged = signed_hs256(&other).split('.').nth(1).unwrap().to_owned();
        let head = token.split('.').next().unwrap();
        check_refused(&authority, &format!("{head}.{forged}.{signature}"), "other claims").await;
    }
}

#[tokio::test]
async fn no_spelling_of_none_is_an_algorithm() {
    let authority = authority(&jwt(hs256())).await;
    let sound = signed_hs256(&claims());
    let signature = sound.rsplit('.').next().unwrap();
    for alg in [
        json!("none"),
        json!("None"),
        json!("NONE"),
        json!("nOnE"),
        json!(""),
        json!(null),
        json!("hs256"),
        json!(["HS256"]),
    ] {
        for signature in ["", signature] {
            let token = put_together(&json!({ "alg": alg, "typ": "JWT" }), &claims(), signature);
            check_refused(&authority, &token, &alg.to_string()).await;
        }
    }
    check_refused(&authority, &put_together(&json!({ "typ": "JWT" }), &claims(), signature), "no alg").await;
}

#[tokio::test]
async fn an_algorithm_that_is_not_listed_is_refused_however_good_the_signature() {
    let authority = authority(&jwt(hs256())).await;
    for algorithm in [jsonwebtoken::Algorithm::HS384, jsonwebtoken::Algorithm::HS512] {
        let token = signed(&Header::new(algorithm), &claims(), &EncodingKey::from_secret(SECRET.as_bytes()));
        check_refused(&authority, &token, "HMAC of another size").await;
    }
}

#[tokio::test]
async fn a_public_key_is_never_taken_for_a_secret() {
    for (algorithm, file) in [
        (JwtAlgorithm::Rs256, "rsa.pub.pem"),
        (JwtAlgorithm::Es256, "ec.pub.pem"),
        (JwtAlgorithm::EdDsa, "ed.pub.pem"),
    ] {
        let mut config = public_key(algorithm, file);
        // Both are listed, and both have a key.
        config.algorithms.push(JwtAlgorithm::Hs256);
        config.secret = Some(SECRET.into());
        let authority = authority(&jwt(config)).await;
        let text = pem(file);
        for secret in [&text[..], text.trim_ascii_end()] {
            let token = signed(&Header::default(), &claims(), &EncodingKey::from_secret(secret));
            check_refused(&authority, &token, file).await;
        }
        assert!(log_in(&authority, &signed_hs256(&claims())).await.is_ok());
    }
}

fn jwk(kid: Option<&str>, file: &str) -> Value {
    let key = EncodingKey::from_ed_pem(&pem(file)).unwrap();
    let mut jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&key, jsonwebtoken::Algorithm::EdDSA).unwrap();
    jwk.common.key_id = kid.map(str::to_owned);
    serde_json::to_value(jwk).unwrap()
}

fn jwks(folder: &tempfile::TempDir, keys: &Value) -> JwtConfig {
    let path = folder.path().join("keys.json");
    std::fs::write(&path, json!({ "keys": keys }).to_string()).unwrap();
    JwtConfig {
        algorithms: vec![JwtAlgorithm::EdDsa],
        jwks_file: Some(path),
        ..JwtConfig::default()
    }
}

fn signed_ed(kid: Option<&str>, file: &str) -> String {
    let mut header = Header::new(jsonwebtoken::Algorithm::EdDSA);
    header.kid = kid.map(str::to_owned);
    signed(&header, &claims(), &EncodingKey::from_ed_pem(&pem(file)).unwrap())
}

#[tokio::test]
async fn a_key_is_found_by_the_name_that_the_token_gives_and_by_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let config = jwks(&folder, &json!([jwk(Some("a"), "ed.pem"), jwk(Some("b"), "ed-other.pem")]));
    let named = authority(&jwt(config)).await;
    for (kid, file, taken) in [
        (Some("a"), "ed.pem", true),
        (Some("b"), "ed-other.pem", true),
        (Some("a"), "ed-other.pem", false),
        (Some("b"), "ed.pem", false),
        (Some("c"), "ed.pem", false),
        (Some(""), "ed.pem", false),
        (None, "ed.pem", false),
    ] {
        let outcome = log_in(&named, &signed_ed(kid, file)).await;
        assert_eq!(outcome.is_ok(), taken, "{kid:?} {file}");
    }
    let unnamed = authority(&jwt(jwks(&folder, &json!([jwk(None, "ed.pem"), jwk(None, "ed-other.pem")])))).await;
    assert!(log_in(&unnamed, &signed_ed(None, "ed.pem")).await.is_ok());
    assert!(log_in(&unnamed, &signed_ed(None, "ed-other.pem")).await.is_ok());
    check_refused(&unnamed, &signed_ed(Some("a"), "ed.pem"), "a name that no key has").await;
}

#[tokio::test]
async fn a_key_that_a_token_brings_along_is_not_used() {
    let authority = authority(&jwt(public_key(JwtAlgorithm::EdDsa, "ed.pub.pem"))).await;
    let mut header = Header::new(jsonwebtoken::Algorithm::EdDSA);
    header.jwk = serde_json::from_value(jwk(None, "ed-other.pem")).ok();
    header.jku = Some("https://evil.example/keys".to_owned());
    let key = EncodingKey::from_ed_pem(&pem("ed-other.pem")).unwrap();
    check_refused(&authority, &signed(&header, &claims(), &key), "its own key").await;
}

#[tokio::test]
async fn what_a_token_says_must_be_understood_is_refused() {
    let authority = authority(&jwt(hs256())).await;
    let header = Header {
        crit: Some(vec!["b64".to_owned()]),
        ..Header::default()
    };
    let token = signed(&header, &claims(), &EncodingKey::from_secret(SECRET.as_bytes()));
    check_refused(&authority, &token, "crit").await;
}

#[tokio::test]
async fn that_a_token_has_expired_is_said_only_where_the_signature_is_good() {
    let authority = authority(&jwt(hs256())).await;
    let old = json!({ "sub": "ida", "exp": 1_000 });
    assert_eq!(
        log_in(&authority, &signed_hs256(&old)).await.unwrap_err(),
        "UNAUTHORIZED Token has expired"
    );
    let forged = signed(
        &Header::default(),
        &old,
        &EncodingKey::from_secret(b"some other secret of 32 bytes, or more"),
    );
    check_refused(&authority, &forged, "forged").await;
}

#[tokio::test]
async fn what_is_no_token_is_refused_whatever_its_size() {
    let authority = authority(&jwt(hs256())).await;
    let sound = signed_hs256(&claims());
    let mut large = claims();
    large["filling"] = json!("x".repeat(TOKEN_BYTES_MAX));
    let deep = format!("{{\"sub\":\"ida\",\"exp\":{FAR},\"a\":{}{}}}", "[".repeat(4000), "]".repeat(4000));
    let unsigned = |claims: &str| {
        let head = sound.split('.').next().unwrap();
        format!("{head}.{}.AAAA", URL_SAFE_NO_PAD.encode(claims))
    };
    for token in [
        "",
        ".",
        "..",
        "...",
        "a.b",
        "a.b.c",
        "a.b.c.d",
        "\u{0}",
        &format!("{sound}.{sound}"),
        &format!(" {sound}"),
        &format!("{sound}\n"),
        &signed_hs256(&large),
        &"x".repeat(10_000_000),
        &unsigned(&deep),
        &unsigned("[]"),
        &unsigned("5"),
    ] {
        check_refused(&authority, token, &token.chars().take(40).collect::<String>()).await;
    }
    // Signed, and nested deeper than anything is read.
    let message = unsigned(&deep).rsplit_once('.').unwrap().0.to_owned();
    let signature = jsonwebtoken::crypto::sign(
        message.as_bytes(),
        &EncodingKey::from_secret(SECRET.as_bytes()),
        jsonwebtoken::Algorithm::HS256,
    )
    .unwrap();
    check_refused(&authority, &format!("{message}.{signature}"), "deep").await;
    let mut full = claims();
    full["filling"] = json!("x".repeat(TOKEN_BYTES_MAX * 3 / 4 - 200));
    let full = signed_hs256(&full);
    assert!(full.len() > TOKEN_BYTES_MAX - 300 && log_in(&authority, &full).await.is_ok());
}

#[test]
fn keys_that_cannot_be_used_are_refused_at_once() {
    let refused = |config: JwtConfig| Rules::new(&jwt(config)).err().map(|fault| fault.to_string());
    let folder = tempfile::tempdir().unwrap();
    let short = json!({ "kty": "OKP", "crv": "Ed25519", "x": "AAAA" });
    let small = json!({ "kty": "RSA", "n": URL_SAFE_NO_PAD.encode([0xff; 128]), "e": "AQAB" });
    let mut rsa = jwks(&folder, &json!([small]));
    rsa.algorithms = vec![JwtAlgorithm::Rs256];
    assert!(refused(rsa).unwrap().contains("keys[0]: expected RSA keys of 2048 to 4096 bits"));
    let same_name = json!([jwk(Some("a"), "ed.pem"), jwk(Some("a"), "ed-other.pem")]);
    let many: Vec<_> = (0..9).map(|_| jwk(None, "ed.pem")).collect();
    let table = [
        (
            JwtConfig {
                secret: Some("only-thirty-one-bytes-of-secret".into()),
                ..JwtConfig::default()
            },
            "auth.jwt.secret: expected at least 32 bytes",
        ),
        (JwtConfig::default(), "auth.jwt: expected"),
        (public_key(JwtAlgorithm::Rs256, "ed.pub.pem"), "does not list"),
        (public_key(JwtAlgorithm::Rs256, "rsa.pem"), "private key"),
        (public_key(JwtAlgorithm::Rs256, "rsa-pkcs1.pem"), "private key"),
        (public_key(JwtAlgorithm::Es256, "ec384.pub.pem"), "expected a public key for ES256"),
        (public_key(JwtAlgorithm::Es256, "no-such-file.pem"), "no-such-file.pem"),
        (
            JwtConfig {
                algorithms: vec![JwtAlgorithm::EdDsa],
                ..hs256()
            },
            "does not list",
        ),
    ];
    for (config, says) in table {
        let shown = format!("{config:?}");
        let said = refused(config).unwrap_or_default();
        assert!(said.contains(says), "{shown}: {said}");
    }
    let p256_of_nothing = json!({ "kty": "EC", "crv": "P-256", "x": "AA", "y": "AA" });
    for (keys, says) in [
        (same_name, "the same \"kid\""),
        (json!(many), "at most 8"),
        (json!([short]), "keys[0]: expected a public key for EdDSA"),
        (json!([p256_of_nothing]), "with a key for one"),
        (json!({}), "a list"),
        (json!([5]), "keys[0]: malformed"),
        (json!([]), "with a key for one"),
    ] {
        let said = refused(jwks(&folder, &keys)).unwrap_or_default();
        assert!(said.contains(says), "{keys}: {said}");
    }
}

fn standing(authority: &TokenAuthority, login: &Login) -> Option<Arc<Principal>> {
    match authority.standing(login, wall_clock_ms(), true) {
        Standing::Holds(principal) => Some(principal),
        Standing::Expired | Standing::Ended => None,
    }
}

#[tokio::test]
async fn a_login_ends_with_its_key_or_its_token_and_other_logins_stay_as_they_are() {
    let known = |roles: &[&str]| StaticToken {
        token: "tk-1".into(),
        user_id: "rune".to_owned(),
        roles: roles.iter().map(|&role| role.to_owned()).collect(),
        metadata: serde_json::Map::new(),
        expires_at: None,
    };
    let folder = tempfile::tempdir().unwrap();
    let both = json!([jwk(Some("a"), "ed.pem"), jwk(Some("b"), "ed-other.pem")]);
    let mut config = AuthConfig {
        tokens: vec![known(&["reader"])],
        ..jwt(jwks(&folder, &both))
    };
    let authority = authority(&config).await;
    let a = log_in(&authority, &signed_ed(Some("a"), "ed.pem")).await.unwrap();
    let b = log_in(&authority, &signed_ed(Some("b"), "ed-other.pem")).await.unwrap();
    let mut static_login = log_in(&authority, "tk-1").await.unwrap();
    let version = authority.version();

    config.jwt = Some(jwks(&folder, &json!([jwk(Some("b"), "ed-other.pem")])));
    config.tokens = vec![known(&["writer"])];
    authority.reload(&config).unwrap();
    assert!(authority.version() > version);
    assert!(standing(&authority, &a).is_none(), "its key is gone");
    assert!(
        Arc::ptr_eq(&standing(&authority, &b).unwrap(), &b.principal),
        "nothing has changed for it"
    );
    let changed = standing(&authority, &static_login).unwrap();
    assert_eq!(changed.roles, ["writer"]);
    static_login.principal = changed;

    config.tokens.clear();
    let stricter = JwtConfig {
        audience: Some("noex".to_owned()),
        ..config.jwt.clone().unwrap()
    };
    config.jwt = Some(stricter);
    authority.reload(&config).unwrap();
    assert!(standing(&authority, &static_login).is_none(), "its token is gone");
    assert!(standing(&authority, &b).is_none(), "it is for nobody");
}

#[tokio::test]
async fn a_configuration_that_cannot_be_used_changes_nothing() {
    let authority = authority(&jwt(hs256())).await;
    let login = log_in(&authority, &signed_hs256(&claims())).await.unwrap();
    let version = authority.version();
    assert!(authority.reload(&jwt(JwtConfig::default())).is_err());
    assert_eq!(authority.version(), version);
    assert!(standing(&authority, &login).is_some());
    assert!(log_in(&authority, &signed_hs256(&claims())).await.is_ok());
}

#[tokio::test]
async fn permissions_change_with_the_configuration() {
    let mut config = jwt(hs256());
    let authority = authority(&config).await;
    let login = log_in(&authority, &signed_hs256(&claims())).await.unwrap();
    let may = |authority: &TokenAuthority| {
        let rights = authority.rights(Some(&login.principal));
        rights
            .judge(crate::protocol::Operation::StoreGet.into(), &Target::Bucket("t"))
            .is_ok()
    };
    assert!(may(&authority));
    config.permissions = Some(PermissionsConfig {
        default: Some(DefaultPermission::Deny),
        ..PermissionsConfig::default()
    });
    authority.reload(&config).unwrap();
    assert!(!may(&authority));
}

#[tokio::test]
async fn a_session_holds_through_its_last_millisecond() {
    let authority = authority(&jwt(hs256())).await;
    let login = log_in(&authority, &signed_hs256(&claims())).await.unwrap();
    let end = FAR * 1000;
    assert!(matches!(authority.standing(&login, end, false), Standing::Holds(_)));
    assert!(matches!(authority.standing(&login, end + 1, false), Standing::Expired));
}

#[tokio::test]
async fn a_revoked_user_is_closed_cannot_log_in_and_is_still_revoked_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let ttl = Duration::from_secs(60);
    let store = Store::builder().on_disk(folder.path()).open().await.unwrap();
    let presence: Arc<Presence> = Arc::default();
    let config = jwt(hs256());
    let authority = TokenAuthority::new(&config, Revocations::open(store.clone(), ttl), Arc::clone(&presence)).unwrap();
    let token = signed_hs256(&claims());
    let login = log_in(&authority, &token).await.unwrap();
    let mut place = Place::new(Arc::clone(&presence), ConnectionId::next(), Arc::default());
    place.take(Some(&login));
    // It was validated before the revocation, and takes its place after it.
    let late = log_in(&authority, &token).await.unwrap();
    assert_eq!(authority.revoke(&["ida", "nobody"]).await.unwrap(), 1);
    assert!(standing(&authority, &late).is_none());
    let refusal = log_in(&authority, &token).await.unwrap_err();
    assert_eq!(refusal, "SESSION_REVOKED Session has been revoked");
    let other = signed_hs256(&json!({ "sub": "rune", "exp": FAR }));
    assert!(log_in(&authority, &other).await.is_ok());

    drop(authority);
    store.close().await.unwrap();
    drop(store);
    let store = Store::builder().on_disk(folder.path()).open().await.unwrap();
    let revocations = Revocations::open(store, ttl);
    let now = wall_clock_ms();
    assert!(revocations.holds("ida", now));
    assert!(!revocations.holds("ida", now + 60_001), "it is over by itself");
    assert!(!revocations.holds("rune", now));
}

#[tokio::test]
async fn a_revocation_for_no_time_only_closes() {
    let store = store().await;
    let revocations = Revocations::open(store.clone(), Duration::ZERO);
    revocations.keep(revocations.add(&["ida"])).await.unwrap();
    assert!(!revocations.holds("ida", wall_clock_ms()));
    assert!(store.snapshot().bucket("_revocations").is_err());
}

#[tokio::test]
async fn the_embedding_program_is_asked_last_and_its_faults_say_nothing() {
    let validator = TokenValidator::new(|token| async move {
        match token.expose() {
            "good" => Ok(Some(Principal::new("ali", ["reader"]))),
            "old" => Ok(Some(Principal {
                expires_at: Some(5),
                ..Principal::new("ali", ["reader"])
            })),
            "nameless" => Ok(Some(Principal::new("", ["admin"]))),
            "broken" => Err("the directory is away".into()),
            "panic" => panic!("a fault of the program"),
            _ => Ok(None),
        }
    });
    let mut config = AuthConfig {
        validate: Some(validator),
        ..jwt(hs256())
    };
    let authority = authority(&config).await;
    let login = log_in(&authority, "good").await.unwrap();
    assert_eq!(login.principal.user_id, "ali");
    assert_eq!(log_in(&authority, &signed_hs256(&claims())).await.unwrap().principal.user_id, "ida");
    check_refused(&authority, "other", "unknown to all").await;
    assert_eq!(log_in(&authority, "old").await.unwrap_err(), "UNAUTHORIZED Token has expired");
    for token in ["nameless", "broken", "panic"] {
        let refusal = log_in(&authority, token).await.unwrap_err();
        assert_eq!(refusal, "INTERNAL_ERROR Internal server error", "{token}");
    }
    authority.reload(&config).unwrap();
    assert!(standing(&authority, &login).is_some(), "nobody asks again");
    config.validate = None;
    authority.reload(&config).unwrap();
    assert!(standing(&authority, &login).is_none());
}

#[tokio::test]
async fn a_function_that_panics_before_it_waits_allows_nothing() {
    let validator = TokenValidator::new(|_| -> std::future::Ready<Result<Option<Principal>, _>> { panic!("a fault of the program") });
    let authority = authority(&AuthConfig {
        validate: Some(validator),
        ..AuthConfig::default()
    })
    .await;
    assert_eq!(log_in(&authority, "x").await.unwrap_err(), "INTERNAL_ERROR Internal server error");
}

#[tokio::test]
async fn whoever_is_not_logged_in_has_the_roles_of_the_configuration_and_no_name() {
    let config = AuthConfig {
        required: false,
        anonymous_roles: vec!["reader".to_owned()],
        ..AuthConfig::default()
    };
    let authority = authority(&config).await;
    assert!(!authority.requires_login());
    let rights = authority.rights(None);
    let judge = |operation: crate::protocol::Operation| rights.judge(operation.into(), &Target::Bucket("t")).is_ok();
    assert!(judge(crate::protocol::Operation::StoreGet));
    assert!(!judge(crate::protocol::Operation::StoreInsert));
    assert_eq!(crate::protocol::Operation::StoreGet.tier(), Some(Tier::Read));
}

fn parse(json: &str) -> crate::protocol::Request<'_> {
    match crate::protocol::Envelope::parse(json) {
        Ok(crate::protocol::Envelope::Request(request)) => request,
        Ok(crate::protocol::Envelope::Pong { .. }) | Err(_) => panic!("{json} is a request"),
    }
}

/// What is to be waited for before a request is judged.
fn asking(judgement: Result<Judgement, Failure>) -> Work<()> {
    match judgement {
        Ok(Judgement::Asking(asking)) => asking,
        Ok(Judgement::Admitted { .. }) | Err(_) => panic!("the program is asked"),
    }
}

#[tokio::test]
async fn what_the_program_has_allowed_holds_for_one_request_and_goes_on_until_the_configuration_changes() {
    let check = PermissionCheck::new(|_, _, target| async move { (target == "orders").then_some(true) });
    let mut config = jwt(hs256());
    config.permissions = Some(PermissionsConfig {
        default: Some(DefaultPermission::Deny),
        rules: None,
        check: Some(check),
    });
    let authority = Arc::new(authority(&config).await);
    let mut access = Access::of_nobody(Arc::<TokenAuthority>::clone(&authority));
    access.log_in(log_in(&authority, &signed_hs256(&claims())).await.unwrap());
    let state = crate::store::state::State::default();
    let orders = parse(r#"{"id":1,"type":"store.changes","bucket":"orders"}"#);
    asking(access.judge(&orders, &state)).await;
    assert!(
        matches!(access.judge(&orders, &state), Ok(Judgement::Admitted { .. })),
        "it is answered"
    );
    let allowed = access.allowed_by_program().expect("it was allowed");
    assert!(access.is_still_allowed(&allowed));

    // The answers about one request are none about the next, be it the same or another.
    asking(access.judge(&orders, &state)).await;
    let other = parse(r#"{"id":2,"type":"store.get","bucket":"salaries","key":"x"}"#);
    asking(access.judge(&other, &state)).await;
    assert!(access.judge(&other, &state).is_err() && access.allowed_by_program().is_none());
    // An answer to whom nobody listens any more is lost with the question.
    drop(asking(access.judge(&orders, &state)));
    drop(asking(access.judge(&orders, &state)));

    authority.reload(&config).unwrap();
    access.refresh(wall_clock_ms(), false);
    assert!(!access.is_still_allowed(&allowed));
    access.log_out();
    assert!(!access.is_still_allowed(&allowed));
}

#[tokio::test]
async fn nothing_shows_tokens_or_claims() {
    let authority = authority(&jwt(hs256())).await;
    let mut more = claims();
    more["ssn"] = json!("078-05-1120");
    let token = signed_hs256(&more);
    let login = log_in(&authority, &token).await.unwrap();
    let shown = format!("{:?} {:?}", login.proof, login.token);
    assert!(!shown.contains("078-05") && !shown.contains(&token), "{shown}");
}
