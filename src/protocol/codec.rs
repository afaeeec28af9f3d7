//! A text message to an envelope, with all checks of the envelope, in the order that clients know.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::error_code::ErrorCode;
use super::message;
use super::number::Number;
use super::request::{Fields, Request};

/// How deep a message may be nested, its own object included. Whatever reads a part of it recurses no deeper.
pub const MAX_DEPTH: usize = 100;

/// A message from a client.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every message is a request: a box would cost each of them an allocation"
)]
pub enum Envelope<'a> {
    /// The answer to a ping.
    Pong {
        /// The time of the ping, as the client gave it back.
        timestamp: f64,
    },
    /// Anything else.
    Request(Request<'a>),
}

impl<'a> Envelope<'a> {
    /// Reads a text message. The values of its fields stay JSON text.
    ///
    /// # Errors
    /// The complete error answer to send, under the message's id wherever that can be read, else under 0.
    pub fn parse(text: &'a str) -> Result<Self, Vec<u8>> {
        Self::parse_within(text, MAX_DEPTH)
    }

    /// Reads a text message that may be nested less deep than [`MAX_DEPTH`], never deeper.
    ///
    /// # Errors
    /// As of [`Self::parse`].
    pub fn parse_within(text: &'a str, depth_max: usize) -> Result<Self, Vec<u8>> {
        let fields = read_object(text).map_err(|problem| refuse(Number::Int(0), ErrorCode::ParseError, problem))?;
        let readable_id = fields.get("id").and_then(read_number);
        let refuse = |code, problem| refuse(readable_id.unwrap_or(Number::Int(0)), code, problem);
        if is_too_deep(text.as_bytes(), depth_max.min(MAX_DEPTH)) {
            return Err(refuse(ErrorCode::ParseError, "Invalid JSON"));
        }
        let name = read_text(fields.get("type")).map_err(|()| refuse(ErrorCode::ParseError, "Invalid JSON"))?;
        let Some(name) = name.filter(|name| !name.is_empty()) else {
            return Err(refuse(ErrorCode::InvalidRequest, "Message must include non-empty string \"type\""));
        };
        if name == "pong" {
            let Some(timestamp) = fields.get("timestamp").and_then(read_number) else {
                return Err(refuse(ErrorCode::InvalidRequest, "Pong must include finite numeric \"timestamp\""));
            };
            return Ok(Self::Pong {
                timestamp: timestamp.as_f64(),
            });
        }
        let Some(id) = readable_id else {
            return Err(refuse(ErrorCode::InvalidRequest, "Request must include finite numeric \"id\""));
        };
        Ok(Self::Request(Request::new(id, name, fields)))
    }
}

fn refuse(id: Number, code: ErrorCode, problem: &str) -> Vec<u8> {
    message::error(id, code, problem, None)
}

fn read_object(text: &str) -> Result<Fields<'_>, &'static str> {
    if text.trim_ascii_start().starts_with('{') {
        Fields::parse(text).map_err(|_| "Invalid JSON")
    } else if serde_json::from_str::<&RawValue>(text).is_ok() {
        Err("Message must be a JSON object")
    } else {
        Err("Invalid JSON")
    }
}

/// The finite number that a JSON text is.
fn read_number(json: &str) -> Option<Number> {
    json.starts_with(|first: char| first == '-' || first.is_ascii_digit())
        .then(|| Number::parse(json.as_bytes()))
        .flatten()
}

/// The text that a JSON text is, nothing where it is something else, an error where it cannot be read.
fn read_text(json: Option<&str>) -> Result<Option<Cow<'_, str>>, ()> {
    match json {
        Some(json) if json.starts_with('"') => decode_text(json).map(Some).ok_or(()),
        Some(_) | None => Ok(None),
    }
}

/// The text behind a JSON string, nothing where it holds a lone surrogate.
#[must_use]
pub fn decode_text(json: &str) -> Option<Cow<'_, str>> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') {
        serde_json::from_str(json).ok().map(Cow::Owned)
    } else {
        Some(Cow::Borrowed(inner))
    }
}

/// Whether a JSON text is nested deeper than so.
fn is_too_deep(text: &[u8], depth_max: usize) -> bool {
    // Nearly every message is settled by its length or by the number of its brackets, which costs next to nothing.
    if text.len() < 2 * depth_max || text.iter().filter(|byte| matches!(byte, b'{' | b'[')).count() <= depth_max {
        return false;
    }
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in text {
        if in_text {
            (in_text, escaped) = (escaped || *byte != b'"', !escaped && *byte == b'\\');
            continue;
        }
        match byte {
            b'"' => in_text = true,
            b'{' | b'[' if depth == depth_max => return true,
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::protocol::operation::Operation;

    fn refusal(text: &str) -> Value {
        let answer = Envelope::parse(text).err().unwrap_or_else(|| panic!("accepted: {text}"));
        serde_json::from_slice(&answer).unwrap()
    }

    fn request(text: &str) -> Request<'_> {
        match Envelope::parse(text) {
            Ok(Envelope::Request(request)) => request,
            Ok(Envelope::Pong { .. }) => panic!("a pong: {text}"),
            Err(answer) => panic!("refused: {text}: {}", String::from_utf8_lossy(&answer)),
        }
    }

    fn check_refused(table: &[(&str, i64, &str, &str)]) {
        for (text, id, code, message) in table {
            assert_eq!(
                refusal(text),
                json!({ "id": id, "type": "error", "code": code, "message": message }),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_no_json_object_is_refused_under_id_0() {
        check_refused(&[
            ("", 0, "PARSE_ERROR", "Invalid JSON"),
            (" ", 0, "PARSE_ERROR", "Invalid JSON"),
            (r#"{"id":1,"type":"store.buckets""#, 0, "PARSE_ERROR", "Invalid JSON"),
            (r"{'id':1,'type':'store.buckets'}", 0, "PARSE_ERROR", "Invalid JSON"),
            (r#"{"id":1,"type":"store.buckets"} {}"#, 0, "PARSE_ERROR", "Invalid JSON"),
            (r#"{"id":NaN,"type":"store.buckets"}"#, 0, "PARSE_ERROR", "Invalid JSON"),
            (r#"{"id":1,"type":"store.buckets",}"#, 0, "PARSE_ERROR", "Invalid JSON"),
            ("\u{FEFF}{\"id\":1,\"type\":\"store.buckets\"}", 0, "PARSE_ERROR", "Invalid JSON"),
            ("[1,", 0, "PARSE_ERROR", "Invalid JSON"),
            ("nul", 0, "PARSE_ERROR", "Invalid JSON"),
            ("[]", 0, "PARSE_ERROR", "Message must be a JSON object"),
            (" null ", 0, "PARSE_ERROR", "Message must be a JSON object"),
            ("\"{}\"", 0, "PARSE_ERROR", "Message must be a JSON object"),
            ("7", 0, "PARSE_ERROR", "Message must be a JSON object"),
            ("true", 0, "PARSE_ERROR", "Message must be a JSON object"),
        ]);
    }

    #[test]
    fn an_unusable_envelope_is_refused_under_its_own_id_where_that_can_be_read() {
        let no_type = "Message must include non-empty string \"type\"";
        let no_id = "Request must include finite numeric \"id\"";
        check_refused(&[
            ("{}", 0, "INVALID_REQUEST", no_type),
            (r#"{"id":9}"#, 9, "INVALID_REQUEST", no_type),
            (r#"{"id":10,"type":""}"#, 10, "INVALID_REQUEST", no_type),
            (r#"{"id":-11,"type":7}"#, -11, "INVALID_REQUEST", no_type),
            (r#"{"id":"x"}"#, 0, "INVALID_REQUEST", no_type),
            (r#"{"type":"store.get"}"#, 0, "INVALID_REQUEST", no_id),
            (r#"{"id":"7","type":"store.get"}"#, 0, "INVALID_REQUEST", no_id),
            (r#"{"id":null,"type":"store.get"}"#, 0, "INVALID_REQUEST", no_id),
            (r#"{"id":[1],"type":"store.get"}"#, 0, "INVALID_REQUEST", no_id),
            (r#"{"id":1e999,"type":"store.get"}"#, 0, "INVALID_REQUEST", no_id),
            (
                r#"{"id":3,"type":"pong"}"#,
                3,
                "INVALID_REQUEST",
                "Pong must include finite numeric \"timestamp\"",
            ),
            (
                r#"{"type":"pong","timestamp":"1"}"#,
                0,
                "INVALID_REQUEST",
                "Pong must include finite numeric \"timestamp\"",
            ),
            (r#"{"id":4,"type":"\ud800"}"#, 4, "PARSE_ERROR", "Invalid JSON"),
        ]);
    }

    #[test]
    fn ids_are_echoed_by_value() {
        let table = [
            ("0", "0"),
            ("-0", "0"),
            ("-0.0", "0"),
            ("-5", "-5"),
            ("3.0", "3"),
            ("1e3", "1000"),
            ("2.25", "2.25"),
            ("9007199254740991", "9007199254740991"),
            ("1E-3", "0.001"),
        ];
        for (sent, echoed) in table {
            assert_eq!(
                request(&format!(r#"{{"id":{sent},"type":"store.buckets"}}"#)).id().to_string(),
                echoed
            );
        }
    }

    #[test]
    fn of_two_members_of_one_name_the_last_one_counts() {
        let request = request(r#" {"type":"store.nonsense","id":1,"bucket":"a","\u0074ype":"store.get","bucket": "b" ,"id":2} "#);
        assert_eq!(request.id(), Number::Int(2));
        assert_eq!(request.operation(), Some(Operation::StoreGet));
        assert_eq!(request.fields().get("bucket"), Some("\"b\""));
        assert_eq!(request.fields().get("nothing"), None);
    }

    #[test]
    fn a_pong_needs_no_id() {
        assert!(matches!(
            Envelope::parse(r#"{"type":"pong","timestamp":1.5e3}"#),
            Ok(Envelope::Pong { timestamp: 1500.0 })
        ));
        assert!(matches!(
            Envelope::parse(r#"{"id":{},"type":"pong","timestamp":-1}"#),
            Ok(Envelope::Pong { timestamp: -1.0 })
        ));
    }

    #[test]
    fn the_depth_may_be_limited_further_and_never_be_raised() {
        let nested = |depth: usize| {
            let lists = depth - 1;
            format!(
                r#"{{"id":5,"type":"store.buckets","x":{}{}}}"#,
                "[".repeat(lists),
                "]".repeat(lists)
            )
        };
        let is_taken = |depth, max| Envelope::parse_within(&nested(depth), max).is_ok();
        for max in [2, 3, 50, MAX_DEPTH] {
            assert!(is_taken(max, max), "{max}");
            assert!(!is_taken(max + 1, max), "{max}");
        }
        assert!(!is_taken(MAX_DEPTH + 1, 100_000));
    }

    #[test]
    fn a_message_may_be_nested_100_levels_deep_and_no_deeper() {
        let nested = |depth: usize| {
            format!(
                r#"{{"id":5,"type":"store.buckets","x":{}{}}}"#,
                "[".repeat(depth - 1),
                "]".repeat(depth - 1)
            )
        };
        assert_eq!(request(&nested(MAX_DEPTH)).id(), Number::Int(5));
        let error = json!({ "id": 5, "type": "error", "code": "PARSE_ERROR", "message": "Invalid JSON" });
        assert_eq!(refusal(&nested(MAX_DEPTH + 1)), error);
        assert_eq!(refusal(&nested(100_000)), error);
        check_refused(&[
            (&"[".repeat(100_000), 0, "PARSE_ERROR", "Invalid JSON"),
            (&"{\"a\":".repeat(60_000), 0, "PARSE_ERROR", "Invalid JSON"),
        ]);
    }

    #[test]
    fn what_may_be_sent_can_be_read_by_every_field() {
        let nested = format!(
            r#"{{"id":5,"type":"store.buckets","x":{}{}}}"#,
            "[".repeat(MAX_DEPTH - 1),
            "]".repeat(MAX_DEPTH - 1)
        );
        assert!(serde_json::from_str::<Value>(request(&nested).fields().get("x").unwrap()).is_ok());
    }

    #[test]
    fn brackets_in_texts_do_not_count_as_depth() {
        let text = format!(
            r#"{{"id":1,"type":"store.get","key":"{}\"{}\\"}}"#,
            "[".repeat(200),
            "{".repeat(200)
        );
        assert_eq!(request(&text).operation(), Some(Operation::StoreGet));
        let flat = format!(r#"{{"id":1,"type":"store.get","key":[{}[]]}}"#, "[],".repeat(300));
        assert_eq!(request(&flat).operation(), Some(Operation::StoreGet));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((".{0,4}", inner), 0..4).prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_text_is_answered_or_accepted(text in any::<String>()) {
            if let Err(answer) = Envelope::parse(&text) {
                prop_assert!(serde_json::from_slice::<Value>(&answer).is_ok());
            }
        }

        #[test]
        fn any_text_of_json_characters_is_answered_or_accepted(text in "[\\[\\]{}:,\"\\\\0-9eE+.a-z u-]{0,80}") {
            if let Err(answer) = Envelope::parse(&text) {
                prop_assert!(serde_json::from_slice::<Value>(&answer).is_ok());
            }
        }

        #[test]
        fn fields_come_out_as_they_went_in(value in any_json(), id in any::<i64>()) {
            let text = json!({ "value": value, "id": id, "type": "store.get" }).to_string();
            let request = request(&text);
            prop_assert_eq!(request.id(), Number::Int(id));
            prop_assert_eq!(serde_json::from_str::<Value>(request.fields().get("value").unwrap()).unwrap(), value);
        }

        #[test]
        fn a_refusal_carries_every_readable_id(id in any::<i64>(), kind in any_json()) {
            let text = json!({ "id": id, "kind": kind }).to_string();
            prop_assert_eq!(&refusal(&text)["id"], &json!(id));
        }
    }
}
