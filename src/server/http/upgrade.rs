//! Which requests become WebSockets: pure, from the head of a request to the head of its response.

use std::borrow::Cow;
use std::time::Duration;

use hyper::header::{
    ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, ORIGIN, RETRY_AFTER, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE, WWW_AUTHENTICATE,
};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode, Version};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::server::config::Config;

/// The versions of the WebSocket protocol that are spoken. They differ in nothing that concerns a server.
const VERSIONS: HeaderValue = HeaderValue::from_static("13, 8");
const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");

/// Where WebSockets are to be had, and by whom.
#[derive(Debug)]
pub(crate) struct Endpoint {
    path: String,
    /// Compared as they are; none means any.
    allowed_origins: Option<Vec<String>>,
}

impl From<&Config> for Endpoint {
    fn from(config: &Config) -> Self {
        Self {
            path: config.path.clone(),
            allowed_origins: config.allowed_origins.clone(),
        }
    }
}

/// An upgrade that may go ahead.
#[derive(Debug, PartialEq)]
pub(crate) struct Upgrade {
    accept: HeaderValue,
    protocol: Option<HeaderValue>,
}

/// Why a request does not become a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// There is nothing at this path.
    NotFound,
    /// A plain request where a WebSocket is to be had.
    UpgradeRequired,
    /// The origin is not allowed.
    ForbiddenOrigin,
    /// An upgrade by another method than GET.
    MethodNotAllowed,
    /// A version of the WebSocket protocol that is not spoken.
    UnsupportedVersion,
    /// A handshake that breaks the rules, in a few words.
    Malformed(&'static str),
    /// The token that it brings along is not taken.
    Unauthorized,
    /// Whether it is taken cannot be found out.
    Internal,
    /// The client's address has opened as many connections as it may, and may open another one after so long.
    TooManyConnections(Duration),
    /// The server has as many connections as it may have.
    Full,
}

impl Endpoint {
    /// The path of the WebSockets.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Checks a request, in the order that the protocol promises.
    ///
    /// # Errors
    /// Why it is no upgrade that may go ahead.
    pub(crate) fn check(&self, request: &Parts) -> Result<Upgrade, Refusal> {
        if request.uri.path() != self.path {
            return Err(Refusal::NotFound);
        }
        let headers = &request.headers;
        if !headers.contains_key(UPGRADE) || !has_token(headers, &CONNECTION, "upgrade") {
            return Err(Refusal::UpgradeRequired);
        }
        if !self.allows_origin(headers) {
            return Err(Refusal::ForbiddenOrigin);
        }
        check_request(request)?;
        let key = key(headers).ok_or(Refusal::Malformed("Missing or invalid Sec-WebSocket-Key header"))?;
        if !matches!(
            single(headers, &SEC_WEBSOCKET_VERSION).map(HeaderValue::as_bytes),
            Some(b"13" | b"8")
        ) {
            return Err(Refusal::UnsupportedVersion);
        }
        let accept = HeaderValue::try_from(derive_accept_key(key)).map_err(|_| Refusal::Malformed("Invalid Sec-WebSocket-Key header"))?;
        Ok(Upgrade {
            accept,
            protocol: first_protocol(headers)?,
        })
    }

    fn allows_origin(&self, headers: &HeaderMap) -> bool {
        let Some(allowed) = &self.allowed_origins else { return true };
        // Programs send none; browsers always do. Of several, all have to be allowed.
        headers
            .get_all(ORIGIN)
            .iter()
            .all(|origin| allowed.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()))
    }
}

fn check_request(request: &Parts) -> Result<(), Refusal> {
    let headers = &request.headers;
    if request.method != Method::GET {
        return Err(Refusal::MethodNotAllowed);
    }
    if request.version != Version::HTTP_11 {
        return Err(Refusal::Malformed("HTTP/1.1 required"));
    }
    if !single(headers, &UPGRADE).is_some_and(|upgrade| upgrade.as_bytes().eq_ignore_ascii_case(b"websocket")) {
        return Err(Refusal::Malformed("Invalid Upgrade header"));
    }
    // A body would be taken for the first frames.
    let has_body = headers.contains_key(TRANSFER_ENCODING) || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0");
    if has_body {
        Err(Refusal::Malformed("Unexpected body"))
    } else {
        Ok(())
    }
}

/// The value of a header that may be there once.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let lists = headers.get_all(name).iter().filter_map(|list| list.to_str().ok());
    lists
        .flat_map(|list| list.split(','))
        .any(|listed| listed.trim().eq_ignore_ascii_case(token))
}

/// The key where it is what 16 bytes are in base64.
fn key(headers: &HeaderMap) -> Option<&[u8]> {
    let key = single(headers, &SEC_WEBSOCKET_KEY)?.as_bytes();
    let digits = key.strip_suffix(b"==")?;
    let is_sound = digits.len() == 22
        && digits
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/'));
    is_sound.then_some(key)
}

/// The first of the sub-protocols offered: none is known here, and any is as good.
fn first_protocol(headers: &HeaderMap) -> Result<Option<HeaderValue>, Refusal> {
    const MALFORMED: Refusal = Refusal::Malformed("Invalid Sec-WebSocket-Protocol header");
    let mut offered: Vec<&str> = Vec::new();
    for list in headers.get_all(SEC_WEBSOCKET_PROTOCOL) {
        for protocol in list.to_str().map_err(|_| MALFORMED)?.split(',') {
            let protocol = protocol.trim_matches([' ', '\t']);
            if protocol.is_empty() || !protocol.bytes().all(is_token_byte) || offered.contains(&protocol) {
                return Err(MALFORMED);
            }
            offered.push(protocol);
        }
    }
    offered
        .first()
        .map(|protocol| HeaderValue::from_str(protocol).map_err(|_| MALFORMED))
        .transpose()
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The head of a response and its text.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) text: Cow<'static, str>,
}

impl From<Upgrade> for Answer {
    fn from(upgrade: Upgrade) -> Self {
        let mut headers = vec![
            (UPGRADE, WEBSOCKET),
            (CONNECTION, HeaderValue::from_static("Upgrade")),
            (SEC_WEBSOCKET_ACCEPT, upgrade.accept),
        ];
        headers.extend(upgrade.protocol.map(|protocol| (SEC_WEBSOCKET_PROTOCOL, protocol)));
        Self {
            status: StatusCode::SWITCHING_PROTOCOLS,
            headers,
            text: "".into(),
        }
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        let (status, text) = match refusal {
            Refusal::NotFound => (StatusCode::NOT_FOUND, "Not found"),
            Refusal::UpgradeRequired => (StatusCode::UPGRADE_REQUIRED, "This is a WebSocket endpoint"),
            Refusal::ForbiddenOrigin => (StatusCode::FORBIDDEN, "Origin not allowed"),
            Refusal::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "Invalid HTTP method"),
            Refusal::UnsupportedVersion => (StatusCode::BAD_REQUEST, "Missing or unsupported Sec-WebSocket-Version header"),
            Refusal::Malformed(text) => (StatusCode::BAD_REQUEST, text),
            Refusal::Unauthorized => (StatusCode::UNAUTHORIZED, "Invalid or expired token"),
            Refusal::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "Internal server error"),
            Refusal::TooManyConnections(_) => (StatusCode::TOO_MANY_REQUESTS, "Too many new connections"),
            Refusal::Full => (StatusCode::SERVICE_UNAVAILABLE, "Too many connections"),
        };
        let close = HeaderValue::from_static("close");
        let mut headers = vec![(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"))];
        match refusal {
            Refusal::UpgradeRequired => {
                headers.extend([(UPGRADE, WEBSOCKET), (CONNECTION, HeaderValue::from_static("Upgrade, close"))]);
            }
            Refusal::MethodNotAllowed => headers.extend([(ALLOW, HeaderValue::from_static("GET")), (CONNECTION, close)]),
            Refusal::UnsupportedVersion => headers.extend([(SEC_WEBSOCKET_VERSION, VERSIONS), (CONNECTION, close)]),
            Refusal::TooManyConnections(wait) => headers.extend([(RETRY_AFTER, seconds(wait)), (CONNECTION, close)]),
            Refusal::Unauthorized => headers.extend([(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")), (CONNECTION, close)]),
            Refusal::NotFound | Refusal::ForbiddenOrigin | Refusal::Malformed(_) | Refusal::Internal | Refusal::Full => {
                headers.push((CONNECTION, close))
            }
        }
        Self {
            status,
            headers,
            text: text.into(),
        }
    }
}

/// Whole seconds, rounded up: who waits so long must not come too early.
pub(super) fn seconds(wait: Duration) -> HeaderValue {
    HeaderValue::from(wait.as_secs() + u64::from(wait.subsec_nanos() > 0))
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    /// The key and its answer that RFC 6455 gives as an example.
    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
    const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

    fn endpoint() -> Endpoint {
        Endpoint {
            path: "/ws".to_owned(),
            allowed_origins: None,
        }
    }

    /// The head of a sound upgrade, with some headers replaced, added or (where empty) left out.
    fn request(method: &str, target: &str, changes: &[(&str, &str)]) -> Parts {
        let sound = [
            ("host", "h"),
            ("upgrade", "websocket"),
            ("connection", "Upgrade"),
            ("sec-websocket-key", KEY),
            ("sec-websocket-version", "13"),
        ];
        let mut request = Request::builder().method(method).uri(target);
        let unchanged = sound.iter().filter(|(name, _)| changes.iter().all(|(changed, _)| changed != name));
        for (name, value) in unchanged.chain(changes.iter().filter(|(_, value)| !value.is_empty())) {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a sound head").into_parts().0
    }

    fn refused(changes: &[(&str, &str)]) -> Option<u16> {
        let refusal = endpoint().check(&request("GET", "/ws", changes)).err()?;
        Some(Answer::from(refusal).status.as_u16())
    }

    #[test]
    fn a_sound_handshake_is_accepted_with_the_key_that_the_rfc_derives() {
        let upgrade = endpoint().check(&request("GET", "/ws", &[])).expect("a sound handshake");
        assert_eq!(
            upgrade,
            Upgrade {
                accept: HeaderValue::from_static(ACCEPT),
                protocol: None
            }
        );
        for variant in [
            [("connection", "keep-alive, upgrade")],
            [("upgrade", "WebSocket")],
            [("sec-websocket-version", "8")],
            [("content-length", "0")],
            [("host", "\u{e9}:x:y")],
        ] {
            assert_eq!(refused(&variant), None, "{variant:?}");
        }
    }

    #[test]
    fn the_path_is_compared_byte_by_byte_without_the_query() {
        let status = |target: &str| endpoint().check(&request("GET", target, &[])).err();
        for target in ["/ws", "/ws?", "/ws?token=/other", "http://elsewhere/ws?x"] {
            assert_eq!(status(target), None, "{target}");
        }
        for target in ["/", "/ws/", "/WS", "//ws", "/w%73", "/ws/..", "*"] {
            assert_eq!(status(target), Some(Refusal::NotFound), "{target}");
        }
    }

    #[test]
    fn the_path_is_checked_before_the_origin_and_the_origin_before_the_handshake() {
        let endpoint = Endpoint {
            allowed_origins: Some(vec!["https://ours".to_owned()]),
            ..endpoint()
        };
        let check = |target: &str, changes: &[(&str, &str)]| endpoint.check(&request("GET", target, changes)).err();
        let foreign = ("origin", "https://theirs");
        let broken = ("sec-websocket-key", "");
        assert_eq!(check("/", &[foreign, broken]), Some(Refusal::NotFound));
        assert_eq!(check("/ws", &[foreign, broken]), Some(Refusal::ForbiddenOrigin));
        assert!(matches!(
            check("/ws", &[("origin", "https://ours"), broken]),
            Some(Refusal::Malformed(_))
        ));
    }

    #[test]
    fn origins_are_compared_exactly_and_only_where_there_is_one() {
        let check = |allowed: &[&str], origins: &[(&str, &str)]| {
            let allowed_origins = Some(allowed.iter().map(|&origin| origin.to_owned()).collect());
            Endpoint {
                allowed_origins,
                ..endpoint()
            }
            .check(&request("GET", "/ws", origins))
            .is_ok()
        };
        assert!(check(&["https://a"], &[]));
        assert!(check(&[], &[]));
        assert!(check(&["https://a", "null"], &[("origin", "null")]));
        for refused in [
            "https://A",
            "https://a/",
            "https://a:443",
            "http://a",
            "null",
            "https://a https://b",
        ] {
            assert!(!check(&["https://a"], &[("origin", refused)]), "{refused}");
        }
        assert!(!check(&[], &[("origin", "https://a")]));
        assert!(!check(&["https://a"], &[("origin", "https://a"), ("origin", "https://b")]));
    }

    #[test]
    fn plain_requests_are_told_to_upgrade_and_broken_handshakes_what_is_wrong() {
        let table: &[(&[(&str, &str)], u16)] = &[
            (&[("upgrade", ""), ("connection", "")], 426),
            (&[("connection", "close")], 426),
            (&[("upgrade", "h2c")], 400),
            (&[("sec-websocket-key", "")], 400),
            (&[("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ")], 400),
            (&[("sec-websocket-key", "dGhlIHNhbXBsZSBub25j*Q==")], 400),
            (&[("sec-websocket-key", KEY), ("sec-websocket-key", KEY)], 400),
            (&[("sec-websocket-version", "")], 400),
            (&[("sec-websocket-version", "12")], 400),
            (&[("sec-websocket-protocol", "a,,b")], 400),
            (&[("sec-websocket-protocol", "a b")], 400),
            (&[("sec-websocket-protocol", "a, a")], 400),
            (&[("content-length", "5")], 400),
            (&[("transfer-encoding", "chunked")], 400),
        ];
        for (changes, status) in table {
            assert_eq!(refused(changes), Some(*status), "{changes:?}");
        }
        let posted = endpoint().check(&request("POST", "/ws", &[])).err();
        assert_eq!(posted, Some(Refusal::MethodNotAllowed));
    }

    #[test]
    fn who_connects_too_often_is_told_when_to_come_back_in_whole_seconds() {
        let check = |millis, expected: &str| {
            let answer = Answer::from(Refusal::TooManyConnections(Duration::from_millis(millis)));
            assert_eq!(answer.status.as_u16(), 429);
            let retry = answer.headers.iter().find(|(name, _)| name == RETRY_AFTER);
            assert_eq!(retry.expect("the header").1, expected);
        };
        check(1, "1");
        check(1000, "1");
        check(1001, "2");
    }

    #[test]
    fn the_first_sub_protocol_offered_is_echoed() {
        let protocol = |changes: &[(&str, &str)]| {
            let upgrade = endpoint().check(&request("GET", "/ws", changes)).expect("a sound handshake");
            upgrade.protocol.map(|protocol| protocol.to_str().expect("a token").to_owned())
        };
        assert_eq!(protocol(&[]), None);
        assert_eq!(
            protocol(&[("sec-websocket-protocol", "noex.v1 , other")]).as_deref(),
            Some("noex.v1")
        );
        assert_eq!(
            protocol(&[("sec-websocket-protocol", "b"), ("sec-websocket-protocol", "a")]).as_deref(),
            Some("b")
        );
    }
}
