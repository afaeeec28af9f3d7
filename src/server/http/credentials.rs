//! The token that a request brings along: pure, from the head of the request.

use hyper::header::{AUTHORIZATION, HeaderMap};
use hyper::http::request::Parts;

use super::upgrade::Refusal;
use crate::server::access::Secret;

/// The token of an upgrade: in the header `Authorization`, or for browsers, which cannot set it, as `token` in the query.
///
/// # Errors
/// [`Refusal::Malformed`] where it is not clear which token is meant.
pub(super) fn of_upgrade(head: &Parts) -> Result<Option<Secret>, Refusal> {
    match (bearer(&head.headers)?, queried(head.uri.query())?) {
        (Some(header), Some(query)) if header != query => Err(Refusal::Malformed("Two different tokens")),
        (header, query) => Ok(header.or(query)),
    }
}

/// The token in the header `Authorization`. Another scheme is somebody else's: of a proxy, say.
///
/// # Errors
/// [`Refusal::Malformed`] where there is not one token.
pub(super) fn bearer(headers: &HeaderMap) -> Result<Option<Secret>, Refusal> {
    const MALFORMED: Refusal = Refusal::Malformed("Invalid Authorization header");
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(MALFORMED);
    }
    let (scheme, token) = match value.to_str() {
        Ok(text) => text.split_once(' ').unwrap_or((text, "")),
        Err(_) => return Err(MALFORMED),
    };
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Ok(None);
    }
    let token = token.trim_start_matches(' ');
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(MALFORMED);
    }
    Ok(Some(token.into()))
}

fn queried(query: Option<&str>) -> Result<Option<Secret>, Refusal> {
    let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let mut tokens = pairs.filter(|(name, _)| name == "token").map(|(_, token)| token);
    match (tokens.next(), tokens.next()) {
        (None, _) => Ok(None),
        (Some(token), None) if !token.is_empty() => Ok(Some(token.into_owned().into())),
        (Some(_), _) => Err(Refusal::Malformed("Invalid token parameter")),
    }
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn token(target: &str, authorizations: &[&str]) -> Result<Option<String>, Refusal> {
        let mut request = Request::builder().uri(target);
        for authorization in authorizations {
            request = request.header(AUTHORIZATION, *authorization);
        }
        let head = request.body(()).expect("a sound head").into_parts().0;
        of_upgrade(&head).map(|token| token.map(|token| token.expose().to_owned()))
    }

    #[test]
    fn a_token_comes_in_the_header_or_in_the_query() {
        let table: &[(&str, &[&str], Option<&str>)] = &[
            ("/", &[], None),
            ("/?x=1", &[], None),
            ("/?Token=t&tokens=u", &[], None),
            ("/", &["Bearer t.k-_~+/="], Some("t.k-_~+/=")),
            ("/", &["bearer  t"], Some("t")),
            ("/", &["BEARER t"], Some("t")),
            ("/", &["Basic dDp0"], None),
            ("/?token=t", &["Basic dDp0"], Some("t")),
            ("/?a=b&token=t%2Bk%3D&c", &[], Some("t+k=")),
            ("/?token=t", &["Bearer t"], Some("t")),
        ];
        for (target, authorizations, expected) in table {
            let found = token(target, authorizations).expect("it is clear which is meant");
            assert_eq!(found.as_deref(), *expected, "{target} {authorizations:?}");
        }
    }

    #[test]
    fn what_is_not_clear_is_refused() {
        let table: &[(&str, &[&str])] = &[
            ("/?token=t", &["Bearer u"]),
            ("/?token=t&token=t", &[]),
            ("/?token=", &[]),
            ("/?token", &[]),
            ("/?token=&token=t", &[]),
            ("/", &["Bearer"]),
            ("/", &["Bearer "]),
            ("/", &["Bearer t u"]),
            ("/", &["Bearer t", "Bearer t"]),
            ("/", &["Bearer t", "Basic u"]),
        ];
        for (target, authorizations) in table {
            let refused = token(target, authorizations);
            assert!(matches!(refused, Err(Refusal::Malformed(_))), "{target} {authorizations:?}");
        }
    }
}
