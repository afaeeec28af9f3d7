//! What single values cannot tell: whether several of them go together.

use super::check::{WEIGHT_MAX, weights_of};
use super::{AuthConfig, Config, JwtAlgorithm, JwtConfig, PermissionsConfig};
use crate::server::access::Leftover;

/// Tokens of fewer bytes can be guessed.
const TOKEN_SAFE: usize = 16;

/// How many operations a doubt names.
const NAMED_MAX: usize = 3;

/// What is wrong between the values of several keys, each with the key to change.
pub(super) fn disagreements(config: &Config) -> Vec<(String, String)> {
    let mut found = of_weights(config);
    if let Some(auth) = &config.auth {
        found.extend(of_auth(auth));
        found.extend(auth.jwt.iter().flat_map(of_jwt));
    }
    found
}

fn disagreement(key: &str, message: impl Into<String>) -> (String, String) {
    (key.to_owned(), message.into())
}

fn of_weights(config: &Config) -> Vec<(String, String)> {
    let Some(limit) = &config.rate_limit else { return Vec::new() };
    let max = limit.max_requests;
    let beyond = weights_of(config).filter(|(_, weight)| *weight > max && *weight <= WEIGHT_MAX);
    beyond
        .map(|(operation, weight)| {
            let message = format!("expected at most {max}, which is \"rateLimit.maxRequests\", found {weight}: it would never be allowed");
            (format!("rateLimit.weights.{operation}"), message)
        })
        .collect()
}

fn of_auth(auth: &AuthConfig) -> Vec<(String, String)> {
    let takes_tokens = auth.jwt.is_some() || !auth.tokens.is_empty() || auth.validate.is_some();
    let mut found = Vec::new();
    match (&auth.built_in, takes_tokens) {
        (None, false) => found.push(disagreement(
            "auth",
            "expected \"jwt\", \"tokens\" or \"builtIn\" in it: as it is, nobody could log in",
        )),
        (Some(_), true) => found.push(disagreement(
            "auth.builtIn",
            "cannot be had together with tokens of others (\"jwt\", \"tokens\", \"validate\")",
        )),
        (None, true) | (Some(_), false) => {}
    }
    if auth.built_in.is_some() && auth.permissions.is_some() {
        let message = "belongs to tokens of others; users of \"auth.builtIn\" have roles and grants that are stored";
        found.push(disagreement("auth.permissions", message));
    }
    if auth.built_in.is_some() && !auth.required {
        found.push(disagreement(
            "auth.required",
            "expected true, for \"auth.builtIn\" knows nobody who has not logged in",
        ));
    }
    found
}

fn of_jwt(jwt: &JwtConfig) -> Vec<(String, String)> {
    let takes_secret = jwt.algorithms.contains(&JwtAlgorithm::Hs256);
    let takes_public = jwt.algorithms.iter().any(|algorithm| *algorithm != JwtAlgorithm::Hs256);
    let has_public = jwt.public_key_file.is_some() || jwt.jwks_file.is_some();
    let mut found = Vec::new();
    if jwt.algorithms.is_empty() {
        found.push(disagreement("auth.jwt.algorithms", "expected one algorithm at least"));
    }
    if takes_secret && jwt.secret.is_none() {
        found.push(disagreement(
            "auth.jwt",
            "expected a secret for HS256: in the environment variable NOEX_JWT_SECRET, or by \"secretEnv\", \"secretFile\" or \"secret\"",
        ));
    }
    if !takes_secret && jwt.secret.is_some() {
        let message = "is used by HS256 alone, which \"auth.jwt.algorithms\" does not name";
        found.push(disagreement("auth.jwt.secret", message));
    }
    if takes_public && !has_public {
        found.push(disagreement(
            "auth.jwt",
            "expected \"publicKeyFile\" or \"jwksFile\" for the algorithms that are named",
        ));
    }
    if has_public && !takes_public && takes_secret {
        found.push(disagreement(
            "auth.jwt.algorithms",
            "expected \"RS256\", \"ES256\" or \"EdDSA\" too: nothing else uses a public key",
        ));
    }
    found
}

/// What works and is probably not meant.
pub(super) fn doubts(config: &Config) -> Vec<String> {
    let mut doubts = Vec::new();
    match &config.auth {
        Some(auth) => doubts.extend(of_logins(auth)),
        None if config.listens_openly() => doubts.push(format!(
            "listening on {} without authentication: whoever can reach it can read and change everything",
            config.host
        )),
        None => {}
    }
    if config.listens_openly() && config.rate_limit.is_none() {
        doubts.push("rate limiting is disabled. Consider enabling it for production use.".to_owned());
    }
    doubts
}

fn of_permissions(permissions: &PermissionsConfig) -> Vec<String> {
    let said = |leftover: Leftover| {
        let beside = if leftover.is_built_in {
            ""
        } else {
            ", and a built-in role beside it,"
        };
        let mut names: Vec<_> = leftover
            .operations
            .iter()
            .take(NAMED_MAX)
            .map(|operation| operation.name())
            .collect();
        let more = format!("{} more", leftover.operations.len() - names.len());
        if leftover.operations.len() > NAMED_MAX {
            names.push(&more);
        }
        format!(
            "auth.permissions.rules[{}]: \"default\": \"allow\" allows sessions with {:?}{beside} what no rule of theirs names on the \
             same buckets, without the bounds of this one: {}",
            leftover.rule,
            leftover.role,
            names.join(", ")
        )
    };
    permissions.leftovers().into_iter().map(said).collect()
}

fn of_logins(auth: &AuthConfig) -> Vec<String> {
    let mut doubts = Vec::new();
    if auth.required && !auth.anonymous_roles.is_empty() {
        doubts.push("auth.anonymousRoles: nobody has them while \"auth.required\" is true".to_owned());
    }
    let short = auth.tokens.iter().filter(|token| token.token.expose().len() < TOKEN_SAFE).count();
    if short > 0 {
        doubts.push(format!(
            "auth.tokens: {short} of {} are shorter than {TOKEN_SAFE} bytes and could be guessed",
            auth.tokens.len()
        ));
    }
    doubts.extend(auth.permissions.iter().flat_map(of_permissions));
    if auth.built_in.as_ref().is_some_and(|built_in| built_in.admin_secret.is_none()) {
        let message =
            "without an admin secret only users who are stored already can log in; with no superadmin among them it will not start";
        doubts.push(format!("auth.builtIn: {message}"));
    }
    doubts
}
