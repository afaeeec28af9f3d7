//! What the server sends: whole messages as JSON text.

use std::fmt;
use std::io::Write as _;

use serde_json::Value;

use super::cursor::Cursor;
use super::error_code::ErrorCode;
use super::ids::{ConnectionId, SubscriptionId};
use super::json::{write_text, write_value};
use super::number::Number;

/// The version of the protocol that the welcome names.
pub const PROTOCOL_VERSION: &str = "1.0.0";

/// The extensions of the protocol that the welcome names.
pub const FEATURES: &[&str] = &[
    "batch",
    "changes",
    "cursor",
    "delta",
    "expectVersion",
    "explain",
    "idempotency",
    "resume",
];

/// A message around its members; `members` writes each with a comma before it.
fn message(kind: &str, bytes: usize, members: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::with_capacity(32 + bytes);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.push(b'"');
    members(&mut out);
    out.push(b'}');
    out
}

/// A member with a comma before it; its value is to follow.
pub fn member(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b",\"");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
}

fn text_member(out: &mut Vec<u8>, name: &str, text: &str) {
    member(out, name);
    write_text(out, text);
}

fn number_member(out: &mut Vec<u8>, name: &str, number: u64) {
    member(out, name);
    Number::from(number).write(out);
}

/// The first message of a connection.
#[must_use]
pub fn welcome(connection: ConnectionId, server_time: u64, requires_auth: bool) -> Vec<u8> {
    message("welcome", 160, |out| {
        text_member(out, "version", PROTOCOL_VERSION);
        number_member(out, "serverTime", server_time);
        member(out, "requiresAuth");
        out.extend_from_slice(if requires_auth { b"true" } else { b"false" });
        text_member(out, "connectionId", &connection.to_string());
        member(out, "features");
        write_value(out, &Value::from(FEATURES));
    })
}

/// The session was taken away; the connection is closed behind this.
#[must_use]
pub fn session_revoked() -> Vec<u8> {
    message("system", 96, |out| {
        text_member(out, "event", "session_revoked");
        text_member(out, "reason", "Session revoked by administrator");
    })
}

/// A ping: the client answers with a pong that gives the time back.
#[must_use]
pub fn ping(timestamp: u64) -> Vec<u8> {
    message("ping", 32, |out| number_member(out, "timestamp", timestamp))
}

/// The newest result of a query subscription; without data where the query yields no value.
#[must_use]
pub fn push(subscription: SubscriptionId, data: Option<&[u8]>, cursor: Cursor) -> Vec<u8> {
    pushed("subscription", subscription, cursor, data.map_or(0, <[u8]>::len), |out| {
        data_member(out, data)
    })
}

/// What turns the result that was sent last into the newest one.
#[must_use]
pub fn push_delta(subscription: SubscriptionId, delta: &[u8], cursor: Cursor) -> Vec<u8> {
    pushed("subscription", subscription, cursor, delta.len(), |out| {
        member(out, "delta");
        out.extend_from_slice(delta);
    })
}

/// The newest result in the place of a delta.
#[must_use]
pub fn push_resync(subscription: SubscriptionId, data: Option<&[u8]>, cursor: Cursor) -> Vec<u8> {
    pushed("subscription", subscription, cursor, 16 + data.map_or(0, <[u8]>::len), |out| {
        member(out, "resync");
        out.extend_from_slice(b"true");
        data_member(out, data);
    })
}

fn data_member(out: &mut Vec<u8>, data: Option<&[u8]>) {
    if let Some(data) = data {
        member(out, "data");
        out.extend_from_slice(data);
    }
}

/// What happened to the records of a followed bucket in one commit.
#[must_use]
pub fn push_changes(subscription: SubscriptionId, data: &[u8], cursor: Cursor) -> Vec<u8> {
    pushed("changes", subscription, cursor, data.len(), |out| data_member(out, Some(data)))
}

/// So many changes of a followed bucket were left out because the client was too slow; `cursor` is the place behind
/// them.
#[must_use]
pub fn push_missed(subscription: SubscriptionId, missed: u64, cursor: Cursor) -> Vec<u8> {
    pushed("changes", subscription, cursor, 24, |out| number_member(out, "missed", missed))
}

fn pushed(channel: &str, subscription: SubscriptionId, cursor: Cursor, bytes: usize, content: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    message("push", 160 + bytes, |out| {
        text_member(out, "channel", channel);
        member(out, "subscriptionId");
        plain_text(out, subscription);
        content(out);
        cursor_member(out, cursor);
    })
}

/// The beginning of what is said of a new subscription.
pub fn open_subscription(out: &mut Vec<u8>, subscription: SubscriptionId) {
    out.extend_from_slice(b"{\"subscriptionId\":");
    plain_text(out, subscription);
}

/// How far the client is.
pub fn cursor_member(out: &mut Vec<u8>, cursor: Cursor) {
    member(out, "cursor");
    plain_text(out, cursor);
}

/// A text that needs no escapes.
fn plain_text(out: &mut Vec<u8>, text: impl fmt::Display) {
    out.push(b'"');
    // Writing to memory does not fail.
    let _ = write!(out, "{text}");
    out.push(b'"');
}

fn system(event: &str, bytes: usize, members: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    message("system", 48 + bytes, |out| {
        text_member(out, "event", event);
        members(out);
    })
}

/// The server stops, and closes the connection when the time is up.
#[must_use]
pub fn shutdown(grace_ms: u64) -> Vec<u8> {
    system("shutdown", 32, |out| number_member(out, "gracePeriodMs", grace_ms))
}

/// A subscription is over without the client's doing.
#[must_use]
pub fn subscription_ended(subscription: SubscriptionId, reason: &str) -> Vec<u8> {
    system("subscription_ended", 64 + reason.len(), |out| {
        text_member(out, "subscriptionId", &subscription.to_string());
        text_member(out, "reason", reason);
    })
}

/// The query of a subscription fails at present; the subscription stays.
#[must_use]
pub fn subscription_error(subscription: SubscriptionId, code: ErrorCode, problem: &str) -> Vec<u8> {
    system("subscription_error", 96 + problem.len(), |out| {
        text_member(out, "subscriptionId", &subscription.to_string());
        text_member(out, "code", code.as_str());
        text_member(out, "message", problem);
    })
}

/// The room that a result needs around its data, for ids of every length.
const RESULT_FRAME: usize = 64;

fn answer(id: Number, kind: &[u8], bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(RESULT_FRAME + bytes);
    out.extend_from_slice(b"{\"id\":");
    id.write(&mut out);
    out.extend_from_slice(b",\"type\":\"");
    out.extend_from_slice(kind);
    out.push(b'"');
    out
}

/// The answer to a request that was carried out; without data where there is no value to give.
#[must_use]
pub fn result(id: Number, data: Option<&[u8]>) -> Vec<u8> {
    match data {
        Some(data) => result_with(id, data.len(), |out| out.extend_from_slice(data)),
        None => {
            let mut out = answer(id, b"result", 0);
            out.push(b'}');
            out
        }
    }
}

/// The answer to a request that was carried out, with data of about so many bytes that `write` appends.
#[must_use]
pub fn result_with(id: Number, bytes: usize, write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = answer(id, b"result", bytes);
    member(&mut out, "data");
    write(&mut out);
    out.push(b'}');
    out
}

/// A result whose data is a list of values that are JSON already, put together one by one.
#[derive(Debug)]
pub struct ResultList {
    out: Vec<u8>,
    is_empty: bool,
}

impl ResultList {
    /// The beginning of the answer.
    #[must_use]
    pub fn new(id: Number) -> Self {
        let mut out = answer(id, b"result", 0);
        member(&mut out, "data");
        out.push(b'[');
        Self { out, is_empty: true }
    }

    /// Adds a value.
    pub fn push(&mut self, json: &[u8]) {
        if !std::mem::replace(&mut self.is_empty, false) {
            self.out.push(b',');
        }
        self.out.extend_from_slice(json);
    }

    /// How long the answer is so far.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.out.len()
    }

    /// The whole answer.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.out.extend_from_slice(b"]}");
        self.out
    }
}

/// The answer to a request that was refused or failed.
#[must_use]
pub fn error(id: Number, code: ErrorCode, problem: &str, details: Option<&Value>) -> Vec<u8> {
    let mut out = answer(id, b"error", 64 + problem.len());
    text_member(&mut out, "code", code.as_str());
    text_member(&mut out, "message", problem);
    if let Some(details) = details {
        member(&mut out, "details");
        write_value(&mut out, details);
    }
    out.push(b'}');
    out
}

/// The code of an answer as [`error`] writes it; none of any other message. It looks at the beginning of the
/// message alone.
#[must_use]
pub fn error_code(answer: &[u8]) -> Option<ErrorCode> {
    let id = answer.strip_prefix(b"{\"id\":")?;
    let end = id.iter().position(|byte| *byte == b',')?;
    let code = id[end..].strip_prefix(b",\"type\":\"error\",\"code\":\"")?;
    let end = code.iter().position(|byte| *byte == b'"')?;
    std::str::from_utf8(&code[..end]).ok().and_then(ErrorCode::parse)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::cursor::CursorScope;
    use super::*;

    fn check(message: &[u8], expected: &Value) {
        assert_eq!(&serde_json::from_slice::<Value>(message).unwrap(), expected);
    }

    #[test]
    fn messages_have_the_shapes_that_clients_know() {
        let subscription: SubscriptionId = "sub-4".parse().unwrap();
        let connection: ConnectionId = "conn-7".parse().unwrap();
        check(
            &welcome(connection, 5, false),
            &json!({ "type": "welcome", "version": "1.0.0", "serverTime": 5, "requiresAuth": false, "connectionId": "conn-7", "features": ["batch", "changes", "cursor", "delta", "expectVersion", "explain", "idempotency", "resume"] }),
        );
        check(&ping(17), &json!({ "type": "ping", "timestamp": 17 }));
        check(
            &shutdown(4000),
            &json!({ "type": "system", "event": "shutdown", "gracePeriodMs": 4000 }),
        );
        check(
            &subscription_ended(subscription, "bucket_dropped"),
            &json!({ "type": "system", "event": "subscription_ended", "subscriptionId": "sub-4", "reason": "bucket_dropped" }),
        );
        check(
            &subscription_error(subscription, ErrorCode::InternalError, "no \"value\""),
            &json!({ "type": "system", "event": "subscription_error", "subscriptionId": "sub-4", "code": "INTERNAL_ERROR", "message": "no \"value\"" }),
        );
    }

    #[test]
    fn pushes_have_the_shapes_that_clients_know() {
        let id: SubscriptionId = "sub-4".parse().unwrap();
        let cursor = CursorScope { epoch: 10, subject: 11 }.at(12);
        let check_push = |message: &[u8], channel: &str, content: Value| {
            let mut expected = json!({ "type": "push", "channel": channel, "subscriptionId": "sub-4", "cursor": "a-b-c" });
            expected.as_object_mut().unwrap().extend(content.as_object().unwrap().clone());
            check(message, &expected);
        };
        check_push(&push(id, Some(b"[1]"), cursor), "subscription", json!({ "data": [1] }));
        check_push(&push(id, None, cursor), "subscription", json!({}));
        check_push(
            &push_delta(id, b"{\"value\":2}", cursor),
            "subscription",
            json!({ "delta": { "value": 2 } }),
        );
        check_push(
            &push_resync(id, Some(b"[]"), cursor),
            "subscription",
            json!({ "resync": true, "data": [] }),
        );
        check_push(&push_changes(id, b"[{}]", cursor), "changes", json!({ "data": [{}] }));
        check_push(&push_missed(id, 7, cursor), "changes", json!({ "missed": 7 }));
    }

    #[test]
    fn answers_have_the_shapes_that_clients_know() {
        let id = Number::parse(b"2.50").unwrap();
        assert_eq!(result(id, Some(b"null")), br#"{"id":2.5,"type":"result","data":null}"#);
        assert_eq!(result(id, None), br#"{"id":2.5,"type":"result"}"#);
        assert_eq!(
            error(id, ErrorCode::NotFound, "a\nb", None),
            br#"{"id":2.5,"type":"error","code":"NOT_FOUND","message":"a\nb"}"#
        );
        check(
            &error(id, ErrorCode::RateLimited, "slow down", Some(&json!({ "retryAfterMs": 1.0 }))),
            &json!({ "id": 2.5, "type": "error", "code": "RATE_LIMITED", "message": "slow down", "details": { "retryAfterMs": 1 } }),
        );
    }

    #[test]
    fn an_error_is_told_from_every_other_message_by_its_beginning() {
        for code in ErrorCode::ALL {
            for id in [Number::Int(0), Number::Int(-17), Number::parse(b"1e300").unwrap()] {
                assert_eq!(
                    error_code(&error(id, code, "a,\"b", Some(&json!({ "code": "CONFLICT" })))),
                    Some(code)
                );
            }
        }
        let data = br#"{"id":1,"type":"error","code":"CONFLICT"}"#;
        for other in [
            result(Number::Int(1), Some(data)),
            result(Number::Int(1), None),
            ping(5),
            Vec::new(),
        ] {
            assert_eq!(error_code(&other), None, "{}", other.escape_ascii());
        }
    }

    #[test]
    fn a_result_that_is_a_list_grows_value_by_value() {
        let id = Number::Int(7);
        assert_eq!(ResultList::new(id).finish(), br#"{"id":7,"type":"result","data":[]}"#);
        let mut list = ResultList::new(id);
        list.push(b"1");
        list.push(b"{}");
        assert_eq!(list.bytes(), br#"{"id":7,"type":"result","data":[1,{}"#.len());
        assert_eq!(list.finish(), br#"{"id":7,"type":"result","data":[1,{}]}"#);
    }

    proptest! {
        #[test]
        fn an_error_of_any_text_is_json(problem in any::<String>(), id in any::<f64>()) {
            let message = error(Number::from_f64(id).unwrap_or(Number::Int(0)), ErrorCode::InternalError, &problem, None);
            let value: Value = serde_json::from_slice(&message).unwrap();
            prop_assert_eq!(value["message"].as_str(), Some(problem.as_str()));
        }
    }
}
