//! What a signed token says: pure, from its claims to a principal.

use serde_json::{Map, Value};

use crate::server::access::Principal;
use crate::server::config::JwtConfig;

/// The claims that every token may have, and which say nothing more about the user.
const REGISTERED: [&str; 7] = ["iss", "sub", "aud", "exp", "nbf", "iat", "jti"];
/// The last moment that clients can read exactly.
const MOMENT_MAX: u64 = (1 << 53) - 1;

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// For a reason that is nobody's business.
    Invalid,
    /// It is sound, and its time is over.
    Expired,
}

/// What tokens must say.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ClaimRules {
    issuer: Option<String>,
    audience: Option<String>,
    leeway_ms: u64,
    user: String,
    roles: String,
}

impl From<&JwtConfig> for ClaimRules {
    fn from(config: &JwtConfig) -> Self {
        Self {
            issuer: config.issuer.clone(),
            audience: config.audience.clone(),
            leeway_ms: crate::server::millis(config.leeway),
            user: config.user_claim.clone(),
            roles: config.roles_claim.clone(),
        }
    }
}

impl ClaimRules {
    /// Who the claims of a token with a good signature speak of. That its time is over is found last: it is told only
    /// of tokens that are good otherwise.
    pub(super) fn principal(&self, mut claims: Map<String, Value>, now_ms: u64) -> Result<Principal, Refusal> {
        let ends = claims.get("exp").and_then(moment).ok_or(Refusal::Invalid)?;
        if !self.is_for_us(&claims) || !self.has_begun(&claims, now_ms) {
            return Err(Refusal::Invalid);
        }
        let user = lookup(&claims, &self.user)
            .and_then(Value::as_str)
            .filter(|user| !user.is_empty())
            .ok_or(Refusal::Invalid)?
            .to_owned();
        let roles = roles(lookup(&claims, &self.roles)).ok_or(Refusal::Invalid)?;
        let expires_at = ends.saturating_add(self.leeway_ms).min(MOMENT_MAX);
        if expires_at < now_ms {
            return Err(Refusal::Expired);
        }
        let metadata = match claims.remove("metadata") {
            Some(Value::Object(metadata)) => metadata,
            other => {
                claims.extend(other.map(|value| ("metadata".to_owned(), value)));
                claims.retain(|name, _| !REGISTERED.contains(&name.as_str()) && *name != self.user && *name != self.roles);
                claims
            }
        };
        Ok(Principal {
            user_id: user,
            roles,
            metadata,
            expires_at: Some(expires_at),
        })
    }

    fn is_for_us(&self, claims: &Map<String, Value>) -> bool {
        let issuer_fits = self
            .issuer
            .as_deref()
            .is_none_or(|issuer| claims.get("iss").and_then(Value::as_str) == Some(issuer));
        let audience_fits = match (self.audience.as_deref(), claims.get("aud")) {
            (Some("*"), _) | (None, None) => true,
            (Some(ours), Some(Value::String(audience))) => audience == ours,
            (Some(ours), Some(Value::Array(audiences))) => audiences.iter().any(|audience| audience.as_str() == Some(ours)),
            (Some(_) | None, _) => false,
        };
        issuer_fits && audience_fits
    }

    fn has_begun(&self, claims: &Map<String, Value>, now_ms: u64) -> bool {
        match claims.get("nbf") {
            None => true,
            Some(begins) => moment(begins).is_some_and(|begins| begins <= now_ms.saturating_add(self.leeway_ms)),
        }
    }
}

/// Seconds since 1970 as milliseconds.
fn moment(seconds: &Value) -> Option<u64> {
    let Value::Number(seconds) = seconds else { return None };
    if let Some(whole) = seconds.as_u64() {
        return Some(whole.saturating_mul(1000).min(MOMENT_MAX));
    }
    // What is negative is 0, and what is too large the largest.
    seconds.as_f64().map(|seconds| ((seconds * 1000.0) as u64).min(MOMENT_MAX))
}

/// A claim by its name, or by the path to it where its name is none.
fn lookup<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    claims.get(name).or_else(|| {
        let (first, rest) = name.split_once('.')?;
        claims.get(first)?.as_object().and_then(|inner| lookup(inner, rest))
    })
}

fn roles(claim: Option<&Value>) -> Option<Vec<String>> {
    match claim {
        None => Some(Vec::new()),
        Some(Value::String(role)) => Some(vec![role.clone()]),
        Some(Value::Array(roles)) => roles.iter().map(|role| role.as_str().map(str::to_owned)).collect(),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    const NOW: u64 = 1_000_000_000;

    fn read_with(config: &JwtConfig, claims: Value) -> Result<Principal, Refusal> {
        let Value::Object(claims) = claims else {
            panic!("tests give objects")
        };
        ClaimRules::from(config).principal(claims, NOW)
    }

    fn read(claims: Value) -> Result<Principal, Refusal> {
        read_with(&JwtConfig::default(), claims)
    }

    #[test]
    fn a_token_ends_with_the_millisecond_that_it_names() {
        let principal = read(json!({ "sub": "ida", "exp": 1_000_000 })).unwrap();
        assert_eq!(principal.expires_at, Some(NOW));
        assert_eq!(read(json!({ "sub": "ida", "exp": 999_999.999 })), Err(Refusal::Expired));
        assert_eq!(read(json!({ "sub": "ida", "exp": -5 })), Err(Refusal::Expired));
        assert!(read(json!({ "sub": "ida", "exp": 1_000_000.0 })).is_ok());
        let far = read(json!({ "sub": "ida", "exp": 1e300 })).unwrap();
        assert_eq!(far.expires_at, Some(MOMENT_MAX));
        assert_eq!(read(json!({ "sub": "ida", "exp": u64::MAX })).unwrap().expires_at, Some(MOMENT_MAX));
    }

    #[test]
    fn an_expiry_is_a_number_and_a_subject_a_text() {
        for claims in [
            json!({ "sub": "ida" }),
            json!({ "sub": "ida", "exp": null }),
            json!({ "sub": "ida", "exp": "4102444800" }),
            json!({ "sub": "ida", "exp": [4_102_444_800_u64] }),
            json!({ "sub": "ida", "exp": true }),
            json!({ "exp": 4_102_444_800_u64 }),
            json!({ "sub": "", "exp": 4_102_444_800_u64 }),
            json!({ "sub": 5, "exp": 4_102_444_800_u64 }),
            json!({ "sub": null, "exp": 4_102_444_800_u64 }),
            json!({ "sub": ["ida"], "exp": 4_102_444_800_u64 }),
            json!({ "sub": "ida", "exp": 4_102_444_800_u64, "nbf": 1_000_001 }),
            json!({ "sub": "ida", "exp": 4_102_444_800_u64, "nbf": "0" }),
            json!({ "sub": "ida", "exp": 4_102_444_800_u64, "nbf": null }),
        ] {
            assert_eq!(read(claims.clone()), Err(Refusal::Invalid), "{claims}");
        }
        assert!(read(json!({ "sub": "ida", "exp": 4_102_444_800_u64, "nbf": 1_000_000 })).is_ok());
    }

    #[test]
    fn what_is_wrong_otherwise_is_not_called_expired() {
        for claims in [
            json!({ "sub": "", "exp": 1 }),
            json!({ "sub": "ida", "exp": 1, "aud": "x" }),
            json!({ "sub": "ida", "exp": 1, "roles": 5 }),
        ] {
            assert_eq!(read(claims.clone()), Err(Refusal::Invalid), "{claims}");
        }
    }

    #[test]
    fn clocks_may_differ_as_far_as_is_configured() {
        let config = JwtConfig {
            leeway: Duration::from_secs(10),
            ..JwtConfig::default()
        };
        let read = |claims| read_with(&config, claims);
        let late = read(json!({ "sub": "ida", "exp": 999_990 })).unwrap();
        assert_eq!(late.expires_at, Some(NOW), "it is good as long as it would be taken");
        assert_eq!(read(json!({ "sub": "ida", "exp": 999_989 })), Err(Refusal::Expired));
        assert!(read(json!({ "sub": "ida", "exp": 2_000_000, "nbf": 1_000_010 })).is_ok());
        assert!(read(json!({ "sub": "ida", "exp": 2_000_000, "nbf": 1_000_011 })).is_err());
    }

    #[test]
    fn issuer_and_audience_must_be_there_and_fit_where_they_are_configured() {
        let config = |issuer: Option<&str>, audience: Option<&str>| JwtConfig {
            issuer: issuer.map(str::to_owned),
            audience: audience.map(str::to_owned),
            ..JwtConfig::default()
        };
        let check = |config: &JwtConfig, more: Value| {
            let mut claims = json!({ "sub": "ida", "exp": 4_102_444_800_u64 });
            claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            read_with(config, claims).is_ok()
        };
        let table = [
            (config(None, None), json!({ "iss": "anybody" }), true),
            (config(None, None), json!({ "aud": "noex" }), false),
            (config(None, None), json!({ "aud": [] }), false),
            (config(None, None), json!({ "aud": null }), false),
            (config(None, Some("*")), json!({ "aud": "other" }), true),
            (config(None, Some("*")), json!({}), true),
            (config(None, Some("noex")), json!({}), false),
            (config(None, Some("noex")), json!({ "aud": "noex" }), true),
            (config(None, Some("noex")), json!({ "aud": "NOEX" }), false),
            (config(None, Some("noex")), json!({ "aud": ["a", "noex"] }), true),
            (config(None, Some("noex")), json!({ "aud": ["a", ["noex"]] }), false),
            (config(None, Some("noex")), json!({ "aud": { "noex": 1 } }), false),
            (config(None, Some("noex")), json!({ "aud": "*" }), false),
            (config(Some("i"), None), json!({}), false),
            (config(Some("i"), None), json!({ "iss": "i" }), true),
            (config(Some("i"), None), json!({ "iss": "I" }), false),
            (config(Some("i"), None), json!({ "iss": ["i"] }), false),
        ];
        for (config, more, fits) in table {
            assert_eq!(
                check(&config, more.clone()),
                fits,
                "{:?} {:?} {more}",
                config.issuer,
                config.audience
            );
        }
    }

    #[test]
    fn roles_are_a_list_of_texts_or_one_text_or_not_there() {
        let roles = |claim: Value| read(json!({ "sub": "ida", "exp": 4_102_444_800_u64, "roles": claim })).map(|it| it.roles);
        assert_eq!(roles(json!(["a", "b", "a"])).unwrap(), ["a", "b", "a"]);
        assert_eq!(roles(json!("admin")).unwrap(), ["admin"]);
        assert_eq!(roles(json!([])).unwrap(), [""; 0]);
        for claim in [json!(null), json!(5), json!({ "admin": true }), json!(["a", 5]), json!([["a"]])] {
            assert_eq!(roles(claim.clone()), Err(Refusal::Invalid), "{claim}");
        }
        let none = read(json!({ "sub": "ida", "exp": 4_102_444_800_u64 })).unwrap();
        assert_eq!(none.roles, [""; 0]);
    }

    #[test]
    fn user_and_roles_come_from_the_configured_claims_which_may_lie_in_others() {
        let config = JwtConfig {
            user_claim: "https://x.example/user".to_owned(),
            roles_claim: "realm_access.roles".to_owned(),
            ..JwtConfig::default()
        };
        let claims = json!({
            "sub": "root", "roles": ["admin"], "exp": 4_102_444_800_u64,
            "https://x.example/user": "ida", "realm_access": { "roles": ["reader"] },
        });
        let principal = read_with(&config, claims).unwrap();
        assert_eq!((principal.user_id.as_str(), &*principal.roles), ("ida", &["reader".to_owned()][..]));
        assert!(read_with(&config, json!({ "sub": "root", "exp": 4_102_444_800_u64 })).is_err());
    }

    #[test]
    fn metadata_is_the_claim_of_that_name_else_all_that_is_not_registered() {
        let metadata = |claims: Value| Value::Object(read(claims).unwrap().metadata);
        let plain = json!({ "sub": "ida", "roles": ["r"], "iss": "i", "jti": "j", "iat": 1, "exp": 4_102_444_800_u64, "team": "blue" });
        assert_eq!(metadata(plain), json!({ "team": "blue" }));
        let own = json!({ "sub": "ida", "exp": 4_102_444_800_u64, "team": "blue", "metadata": { "team": "red" } });
        assert_eq!(metadata(own), json!({ "team": "red" }));
        let text = json!({ "sub": "ida", "exp": 4_102_444_800_u64, "metadata": "x", "team": "blue" });
        assert_eq!(metadata(text), json!({ "team": "blue", "metadata": "x" }));
    }
}
