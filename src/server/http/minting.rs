//! `POST /api/token`: a signed token for whoever brings the token of an administrator.
//!
//! Whoever has the role `admin` may have tokens made for any user with any roles; nobody else may have any made.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::http::request::Parts;
use hyper::{Method, Request, StatusCode};
use serde_json::{Map, Value, json};

use super::credentials;
use super::handshake::Doorkeepers;
use super::upgrade::{Answer, seconds};
use crate::protocol::ErrorCode;
use crate::server::access::tokens::mint::{self, Signer, TokenOrder};
use crate::server::wall_clock_ms;

/// Where tokens are made.
pub(super) const PATH: &str = "/api/token";

/// The role that may have tokens made.
const MINTER: &str = "admin";
/// The largest body.
const BODY_BYTES_MAX: usize = 16 * 1024;
/// The longest name of a user or a role, in bytes.
const NAME_BYTES_MAX: usize = 256;
/// The most roles of one token.
const ROLES_MAX: usize = 100;

/// Why no token is made.
#[derive(Debug, PartialEq)]
enum Refusal {
    /// Tokens are not made here.
    NotFound,
    MethodNotAllowed,
    /// There is no token of an administrator, or none that is good.
    Unauthorized,
    Forbidden,
    /// Too many requests of this address: when the next one is allowed.
    RateLimited(Duration),
    UnsupportedMediaType,
    TooLarge,
    /// What is wrong with the body.
    Invalid(String),
    Internal,
}

/// Answers a request for a token.
pub(super) async fn answer(request: Request<Incoming>, peer: IpAddr, doorkeepers: Doorkeepers<'_>) -> Answer {
    match mint(request, peer, doorkeepers).await {
        Ok(data) => json_answer(StatusCode::OK, &data),
        Err(refusal) => refusal.into(),
    }
}

async fn mint(request: Request<Incoming>, peer: IpAddr, doorkeepers: Doorkeepers<'_>) -> Result<Value, Refusal> {
    let (head, body) = request.into_parts();
    let signer = doorkeepers.authority.signer().ok_or(Refusal::NotFound)?;
    if head.method != Method::POST {
        return Err(Refusal::MethodNotAllowed);
    }
    require_admin(&head, peer, doorkeepers).await?;
    if !is_json(&head.headers) {
        return Err(Refusal::UnsupportedMediaType);
    }
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await.map_err(|error| {
        if error.is::<LengthLimitError>() {
            Refusal::TooLarge
        } else {
            Refusal::Invalid("The body is broken off or malformed".to_owned())
        }
    })?;
    let order = read_order(&body.to_bytes()).map_err(Refusal::Invalid)?;
    sign(&signer, order)
}

async fn require_admin(head: &Parts, peer: IpAddr, doorkeepers: Doorkeepers<'_>) -> Result<(), Refusal> {
    let admission = doorkeepers.gatekeeper.admit(peer, &head.headers).map_err(Refusal::RateLimited)?;
    admission.admit_plain().map_err(Refusal::RateLimited)?;
    let token = credentials::bearer(&head.headers).ok().flatten().ok_or(Refusal::Unauthorized)?;
    let login = match doorkeepers.authority.log_in(token, admission.address()).await {
        Ok(login) => login,
        Err(failure) if failure.code() == ErrorCode::InternalError => return Err(Refusal::Internal),
        Err(_) => {
            admission.count_refused_plain().map_err(Refusal::RateLimited)?;
            return Err(Refusal::Unauthorized);
        }
    };
    if login.principal.roles.iter().any(|role| role == MINTER) {
        tracing::info!(by = login.principal.user_id, "a token is asked for");
        Ok(())
    } else {
        Err(Refusal::Forbidden)
    }
}

fn sign(signer: &Arc<Signer>, order: TokenOrder) -> Result<Value, Refusal> {
    let minted = signer.mint(order, wall_clock_ms()).map_err(Refusal::Invalid)?;
    Ok(json!({ "token": minted.token.expose(), "expiresAt": minted.expires_at }))
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let kind = value.and_then(|value| value.split(';').next());
    kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

/// Reads `{ sub, roles?, expiresIn? }`. What is not known is refused: a member that is misspelt must not be a token that
/// lasts longer than was meant.
fn read_order(body: &[u8]) -> Result<TokenOrder, String> {
    let Ok(Value::Object(mut members)) = serde_json::from_slice(body) else {
        return Err("Expected a JSON object".to_owned());
    };
    let user = members.remove("sub").and_then(|user| name(&user));
    let user = user.ok_or_else(|| format!("Invalid \"sub\": expected a text of 1 to {NAME_BYTES_MAX} bytes"))?;
    let roles = match members.remove("roles") {
        None => Some(Vec::new()),
        Some(Value::Array(roles)) if roles.len() <= ROLES_MAX => roles.iter().map(name).collect(),
        Some(_) => None,
    };
    let roles =
        roles.ok_or_else(|| format!("Invalid \"roles\": expected a list of at most {ROLES_MAX} texts of 1 to {NAME_BYTES_MAX} bytes"))?;
    let lifetime = match members.remove("expiresIn") {
        None => Some(mint::LIFETIME_DEFAULT),
        Some(Value::String(text)) => mint::read_lifetime(&text),
        Some(seconds) => seconds.as_u64().and_then(mint::lifetime_of_seconds),
    };
    let lifetime = lifetime.ok_or("Invalid \"expiresIn\": expected seconds, or a text such as \"1h\", of ten years at most")?;
    if !members.is_empty() {
        return Err("Unknown members: expected \"sub\", \"roles\" and \"expiresIn\"".to_owned());
    }
    Ok(TokenOrder {
        user,
        roles,
        lifetime,
        claims: Map::new(),
    })
}

fn name(value: &Value) -> Option<String> {
    let text = value.as_str()?;
    (1..=NAME_BYTES_MAX).contains(&text.len()).then(|| text.to_owned())
}

fn json_answer(status: StatusCode, data: &Value) -> Answer {
    Answer {
        status,
        headers: vec![
            (CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (CACHE_CONTROL, HeaderValue::from_static("no-store")),
            (CONNECTION, HeaderValue::from_static("close")),
        ],
        text: Cow::Owned(data.to_string()),
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        let (status, code, message): (_, _, Cow<'static, str>) = match &refusal {
            Refusal::NotFound => (StatusCode::NOT_FOUND, "NOT_FOUND", "No tokens are made here".into()),
            Refusal::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "INVALID_REQUEST", "Invalid HTTP method".into()),
            Refusal::Unauthorized => (
                StatusCode::UNAUTHORIZED,
                "UNAUTHORIZED",
                "Expected the token of an administrator".into(),
            ),
            Refusal::Forbidden => (
                StatusCode::FORBIDDEN,
                "FORBIDDEN",
                "Only administrators may have tokens made".into(),
            ),
            Refusal::RateLimited(_) => (StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED", "Rate limit exceeded".into()),
            Refusal::UnsupportedMediaType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "INVALID_REQUEST",
                "Expected the content type application/json".into(),
            ),
            Refusal::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "INVALID_REQUEST", "The body is too large".into()),
            Refusal::Invalid(problem) => (StatusCode::BAD_REQUEST, "VALIDATION_ERROR", problem.clone().into()),
            Refusal::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_ERROR", "Internal server error".into()),
        };
        let mut answer = json_answer(status, &json!({ "code": code, "message": message }));
        match refusal {
            Refusal::MethodNotAllowed => answer.headers.push((ALLOW, HeaderValue::from_static("POST"))),
            Refusal::Unauthorized => answer.headers.push((WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
            Refusal::RateLimited(wait) => answer.headers.push((RETRY_AFTER, seconds(wait))),
            Refusal::NotFound
            | Refusal::Forbidden
            | Refusal::UnsupportedMediaType
            | Refusal::TooLarge
            | Refusal::Invalid(_)
            | Refusal::Internal => {}
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_says_for_whom_and_may_say_with_which_roles_and_for_how_long() {
        let order = read_order(br#"{"sub":"ida","roles":["a","b"],"expiresIn":60}"#).unwrap();
        assert_eq!((order.user.as_str(), order.roles.len(), order.lifetime.as_secs()), ("ida", 2, 60));
        let order = read_order(br#"{"sub":"ida"}"#).unwrap();
        assert_eq!((order.roles.len(), order.lifetime), (0, mint::LIFETIME_DEFAULT));
        let order = read_order(br#"{"sub":"ida","expiresIn":"15m"}"#).unwrap();
        assert_eq!(order.lifetime.as_secs(), 900);
    }

    #[test]
    fn an_order_that_is_not_clear_is_refused() {
        let long = format!(r#"{{"sub":"{}"}}"#, "x".repeat(NAME_BYTES_MAX + 1));
        let many = json!({ "sub": "ida", "roles": vec!["r"; ROLES_MAX + 1] }).to_string();
        for body in [
            "",
            "[]",
            "{}",
            r#"{"sub":""}"#,
            r#"{"sub":5}"#,
            &long,
            &many,
            r#"{"sub":"ida","roles":"admin"}"#,
            r#"{"sub":"ida","roles":[""]}"#,
            r#"{"sub":"ida","roles":[5]}"#,
            r#"{"sub":"ida","expiresIn":0}"#,
            r#"{"sub":"ida","expiresIn":-1}"#,
            r#"{"sub":"ida","expiresIn":1.5}"#,
            r#"{"sub":"ida","expiresIn":999999999999}"#,
            r#"{"sub":"ida","expiresIn":"soon"}"#,
            r#"{"sub":"ida","expiresIn":null}"#,
            r#"{"sub":"ida","expiresin":60}"#,
            r#"{"sub":"ida"} x"#,
        ] {
            assert!(read_order(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn json_is_told_by_its_content_type() {
        let check = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(value));
            is_json(&headers)
        };
        assert!(check("application/json") && check("Application/JSON; charset=utf-8"));
        assert!(!check("text/plain") && !check("application/jsonp") && !is_json(&HeaderMap::new()));
    }
}
